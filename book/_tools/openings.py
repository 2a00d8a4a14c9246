"""A Sphinx extension: how a chapter begins.

Above its title stand its number and its part of the book. Below it come the question that
the chapter answers, which the directive `question` holds, the program as a strip with the
chapter's own lines lit, how long the chapter takes, and what one can take along of it.
"""

from collections.abc import Iterator
from functools import cache
from html import escape
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import tangle
from hypertext import (
    PROGRAM_PAGE,
    Book,
    last_line,
    page_name,
    per_page,
    reading_minutes,
)


class QuestionDirective(SphinxDirective):
    """The one question that a chapter answers."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        question = nodes.container(classes=["question"])
        self.state.nested_parse(self.content, self.content_offset, question)
        return [question]


@cache
def parts_of_book() -> dict[str, list[Path]]:
    """The parts of the book, by their captions in `_toc.yml`, and their pages."""
    toc = yaml.safe_load(tangle.TOC.read_text("utf-8"))
    return {
        part["caption"]: [
            tangle.TOC.parent / f"{page['file']}.md" for page in part["chapters"]
        ]
        for part in toc["parts"]
    }


def part_of(page: Path) -> str:
    """The caption of the part that a page belongs to."""
    return next(caption for caption, pages in parts_of_book().items() if page in pages)


# --- the program as a strip --------------------------------------------------


def spans(parts: list) -> dict[Path, tuple[int, int]]:
    """The first and the last line that each page writes of a file."""
    found = {}
    for page, _, first, cell in parts:
        found[page] = found.get(page, (first,))[0], last_line(first, cell)
    return found


def segments(book: Book, lit: Path | None = None) -> Iterator[tuple[Path, str]]:
    """Yield each page that writes a part of the program, and its segment's HTML."""
    total = book.program.text.count("\n")
    for page, (first, last) in spans(book.parts).items():
        left, width = 100 * (first - 1) / total, 100 * (last - first + 1) / total
        where = f'style="left: {left:.2f}%; width: {width:.2f}%"'
        on = ' class="on"' if page == lit else ""
        title = f"{int(page.stem[:2])}. {book.titles[page]}: lines {first} to {last}"
        yield page, f'{where}{on} title="{escape(title)}"'


def strip(app: Sphinx, docname: str, page: Path) -> nodes.raw:
    """The program, a chapter's lines lit; the words below it say the same."""
    links = "".join(
        f'<a href="{app.builder.get_relative_uri(docname, page_name(there))}" '
        f'tabindex="-1" {segment}></a>'
        for there, segment in segments(app.book, page)
    )
    return nodes.raw(
        "",
        f'<div class="program-strip" aria-hidden="true">{links}</div>\n',
        format="html",
    )


# --- below the title ---------------------------------------------------------


def lines_of(app: Sphinx, docname: str, page: Path) -> list[nodes.Node]:
    """Which lines a chapter writes, and of which file."""
    companion = app.book.companions.get(page)
    if companion:
        [(first, last)] = spans(companion).values()
        file = Path(tangle.target(page)).name
        return [nodes.Text(f"Lines {first} to {last} of {file}")]
    first, last = spans(app.book.parts).get(page, (0, 0))
    if not first:
        return [nodes.Text("No lines of the program")]
    total = app.book.program.text.count("\n")
    there = app.builder.get_relative_uri(docname, PROGRAM_PAGE)
    link = nodes.reference(
        "", f"Lines {first} to {last}", internal=True, refuri=f"{there}#line-{first}"
    )
    return [link, nodes.Text(f" of {total:,}")]


def to_take(docname: str) -> Iterator[nodes.Node]:
    """A chapter as files: notebook, Markdown, and the program after it."""
    name, up = Path(docname).name, "../" * docname.count("/")
    for words, file in (
        ("notebook", f"take/{name}.ipynb"),
        ("Markdown", f"take/{name}.md"),
        ("the program so far", f"take/minigpt_{name[:2]}.py"),
    ):
        link = f'<a href="{up}{file}" download>{words}</a>'
        yield from (nodes.Text(" · "), nodes.raw("", link, format="html"))


@per_page
def open_chapter(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put what a chapter begins with around its title."""
    page = tangle.TOC.parent / f"{docname}.md"
    if tangle.CHAPTER.fullmatch(page.stem) is None or app.builder.format != "html":
        return
    section = next(doctree.findall(nodes.title)).parent
    question = next(
        node for node in section.children if "question" in node.get("classes", ())
    )
    facts = nodes.paragraph("", "", *lines_of(app, docname, page), classes=["minutes"])
    facts += nodes.Text(f" · {reading_minutes(doctree)} minutes")
    if app.builder.name == "html":
        facts += [*to_take(docname)]
    above = (
        f'<p class="opening"><span class="numeral" aria-hidden="true">'
        f"{int(page.stem[:2])}</span>{escape(part_of(page))}</p>\n"
    )
    at = section.index(question)
    section.insert(at + 1, facts)
    if page in spans(app.book.parts):
        section.insert(at + 1, strip(app, docname, page))
    section.insert(0, nodes.raw("", above, format="html"))


def setup(app: Sphinx) -> dict:
    app.add_directive("question", QuestionDirective)
    app.connect("doctree-resolved", open_chapter, priority=600)
    return {"version": "1", "parallel_read_safe": True}
