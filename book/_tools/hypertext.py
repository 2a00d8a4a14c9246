"""A Sphinx extension that turns the book and its program into one hypertext.

Each tangled cell says which lines of `minigpt.py` it becomes, and links there (those
of a companion, cells or blocks of JavaScript, say which of its lines); the directive
`whole-program` shows the program, each part linked back to its cell; `every-name` lists
the definitions. (What else links is the work of `names.py`, `glossary.py` and
`citations.py`.)
"""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import tangle

PROGRAM_PAGE = "book/A2_program"
log = logging.getLogger(__name__)


class Book:
    """The program, its parts in order, and where each name is defined.

    `companions` are the parts of the other files that chapters become, by page, and
    `homes` is where a page's names are: its companion's first, then the program's.
    """

    def __init__(self, toc: Path = tangle.TOC):
        pages = tangle.pages(toc)
        self.program = tangle.tangle(pages)
        self.parts = list(parts(self.program))
        self.home = home(self.parts)
        self.companions = {
            page: list(parts(tangle.tangle(pages, file)))
            for page in pages
            if (file := tangle.target(page)) != tangle.MODULE
        }
        self.titles = {page: tangle.title(page)[0] for page in pages}

    def homes(self, page: Path) -> dict[str, tuple[Path, str, int, str]]:
        """Where the names on a page are defined.

        What a companion in JavaScript has from the program is explained there.
        """
        parts = self.companions.get(page, [])
        if any(cell.language == "javascript" for *_, cell in parts):
            return home(parts) | self.home
        return self.home | home(parts)


def per_page(handler):
    """A handler of a page, for builders too that join all pages into one."""

    def each(app: Sphinx, doctree: nodes.document, docname: str) -> None:
        joined = list(doctree.findall(addnodes.start_of_file))
        for node in joined:
            handler(app, node, node["docname"])
        if not joined:
            handler(app, doctree, docname)

    return each


def enclosed(node: nodes.Node) -> bool:
    """Whether a node stands in a link, a heading or a caption of its own."""
    while node.parent is not None:
        node = node.parent
        if isinstance(node, nodes.reference | nodes.title | nodes.rubric):
            return True
    return False


def parts(program: tangle.Program) -> Iterator[tuple[Path, str, int, tangle.Cell]]:
    """Yield (page, anchor, first line in its file, cell) for each cell."""
    # Blank lines before a cell have its origin, too: the last line counts.
    line_of = {o: n for n, o in enumerate(program.origins, 1)}
    counts: dict[Path, int] = {}
    for cell in program.cells:
        counts[cell.chapter] = counts.get(cell.chapter, 0) + 1
        first = line_of[cell.chapter, cell.line]
        anchor = f"part-{cell.chapter.stem[:2]}-{counts[cell.chapter]}"
        yield cell.chapter, anchor, first, cell


def home(parts) -> dict[str, tuple[Path, str, int, str]]:
    """Where each name is defined: (page, anchor, line in its file, kind)."""
    return {
        name: (page, anchor, line, kind)
        for page, anchor, first, cell in parts
        for name, line, kind in defined(cell, first)
    }


def defined(cell: tangle.Cell, first: int) -> Iterator[tuple[str, int, str]]:
    """Yield (name, line in the module, kind) for each definition of a cell."""
    if cell.language == "javascript":
        for name, line, word in tangle.declarations(cell.source):
            yield name, first + line - 1, word
        return
    kinds = {ast.ClassDef: "class", ast.FunctionDef: "function"}
    for node in ast.parse(cell.source).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        for name, _ in tangle.bindings(node):
            yield name, first + node.lineno - 1, kinds.get(type(node), "value")


def page_name(page: Path) -> str:
    """The name by which Sphinx knows a page."""
    return f"{page.parent.name}/{page.stem}"


def last_line(first: int, cell: tangle.Cell) -> int:
    """The module's line in which a cell ends."""
    return first + cell.source.count("\n")


def outdated(app: Sphinx, env, added: set, changed: set, removed: set) -> set[str]:
    """All pages, if the program or what they plot is not what it was."""
    folder, total = tangle.TOC.parent / "book", hashlib.sha256()
    for path in (
        tangle.TOC.with_name("minigpt.py"),
        *sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".json", ".jsonl")),
    ):
        total.update(path.read_bytes())
    before, env.program_digest = getattr(env, "program_digest", None), total.digest()
    return set() if before == env.program_digest else set(env.found_docs)


def frame_blocks(app: Sphinx, doctree: nodes.document) -> None:
    """Put each tangled block of JavaScript into what a tangled cell stands in."""
    for block in list(doctree.findall(nodes.literal_block)):
        if "tangle" in block["classes"]:
            block["classes"].remove("tangle")
            inner = nodes.container("", block.deepcopy(), classes=["cell_input"])
            block.replace_self(
                nodes.container("", inner, classes=["cell", "tag_tangle"])
            )


def warn_unlisted(app: Sphinx, env) -> None:
    """A page that the table of contents has not is a fault."""
    for page in {*(tangle.TOC.parent / "book").glob("*.md")} - {*tangle.pages()}:
        log.warning(f"not in {tangle.TOC.name}", location=f"{page}:1")


# --- what stands on the pages ----------------------------------------------


@per_page
def label_cells(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Say above each tangled cell which lines of the program it becomes."""
    page = tangle.TOC.parent / f"{docname}.md"
    parts = [part for part in app.book.parts if part[0] == page]
    companion = app.book.companions.get(page)
    found = [
        node
        for node in doctree.findall(nodes.container)
        if "tag_tangle" in node["classes"]
    ]
    parts = parts if companion is None else companion
    assert len(found) == len(parts), f"{docname}: {len(found)} cells tangled"
    for node, (_, anchor, first, cell) in zip(found, parts, strict=True):
        names = [f"def-{name}" for name, *_ in defined(cell, first)]
        node["ids"] += [anchor, *names]
        there = app.builder.get_relative_uri(docname, PROGRAM_PAGE)
        last = last_line(first, cell)
        link = nodes.reference(
            "",
            f"lines {first} to {last} of minigpt.py",
            internal=True,
            refuri=f"{there}#line-{first}",
        )
        if companion is not None:
            file = tangle.target(page)
            link = nodes.Text(f"lines {first} to {last} of {file}")
        label = nodes.paragraph("", "becomes ", link, classes=["becomes"])
        node.insert(0, label)
        code = next(node.findall(nodes.literal_block))
        code["linenos"], code["highlight_args"] = True, {"linenostart": first}


def reading_minutes(doctree: nodes.document) -> int:
    """How long a page takes, at 200 words a minute, to five minutes.

    A line of code counts as ten words; outputs do not count.
    """
    words = sum(
        10 * block.astext().count("\n") + 10
        for block in doctree.findall(nodes.literal_block)
        if "cell_input" in block.parent["classes"]
    )
    words += sum(
        len(paragraph.astext().split())
        for paragraph in doctree.findall(nodes.paragraph)
    )
    return max(5, round(words / 1000) * 5)


class ProgramDirective(SphinxDirective):
    """The whole program, a section per chapter and a block per cell."""

    def run(self) -> list[nodes.Node]:
        book, sections = self.env.app.book, []
        self.env.note_dependency(str(tangle.TOC.with_name("minigpt.py")))
        for page, anchor, first, cell in book.parts:
            number, title = int(page.stem[:2]), book.titles[page]
            if not sections or sections[-1]["page"] != page_name(page):
                sections.append(
                    nodes.section(
                        "",
                        nodes.title("", f"{number}. {title}"),
                        ids=[f"chapter-{number}"],
                        page=page_name(page),
                    )
                )
            last = last_line(first, cell)
            link = nodes.reference(
                "",
                f"lines {first} to {last}, explained in chapter {number}",
                internal=True,
                page=page_name(page),
                anchor=anchor,
            )
            code = nodes.literal_block(
                cell.source,
                cell.source,
                language="python",
                linenos=True,
                highlight_args={"linenostart": first},
            )
            sections[-1] += nodes.container(
                "",
                nodes.paragraph("", "", link, classes=["becomes"]),
                code,
                classes=["part"],
                ids=[f"line-{first}"],
            )
        return sections


class NamesDirective(SphinxDirective):
    """Every definition of the program, with its kind and its chapter."""

    def run(self) -> list[nodes.Node]:
        book, items = self.env.app.book, nodes.bullet_list(classes=["names"])
        for name in sorted(book.home, key=str.lower):
            page, anchor, line, kind = book.home[name]
            link = nodes.reference(
                "",
                "",
                nodes.literal("", name),
                internal=True,
                page=page_name(page),
                anchor=f"def-{name}",
            )
            number = int(page.stem[:2])
            text = nodes.Text(f" {kind}, chapter {number}, line {line}")
            items += nodes.list_item("", nodes.paragraph("", "", link, text))
        return [items]


def resolve_links(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give the links of the two directives their addresses."""
    for link in doctree.findall(nodes.reference):
        if "anchor" in link:
            there = app.builder.get_relative_uri(docname, link["page"])
            link["refuri"] = f"{there}#{link['anchor']}".removesuffix("#")


# --- what other extensions leave to mend -----------------------------------


def mend_ids(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give the parts of exercises, which all have the same id, none."""
    for section in doctree.findall(nodes.section):
        if section["ids"] in (["exercise-content"], ["solution-content"]):
            section["ids"] = [nodes.make_id(f"{section.parent['ids'][0]}-text")]


def mend_titles(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Exercise 1.1 Recite (warm-up): no brackets around a title that has some."""
    for title in doctree.findall(nodes.title):
        texts = [node for node in title.children if isinstance(node, nodes.Text)]
        if len(texts) > 1 and (texts[0], texts[-1]) == (" (", ")"):
            title.replace(texts[0], nodes.Text(" "))
            title.remove(texts[-1])


def mend_roles(
    app: Sphinx, pagename: str, template: str, context: dict, doctree
) -> None:
    """Leave out roles of references that do not fit what they stand in."""
    for role in (' role="doc-biblioentry"', ' role="list" class="citation-list"'):
        context["body"] = context.get("body", "").replace(role, "")


def drop_thebe(
    app: Sphinx, pagename: str, template: str, context: dict, doctree
) -> None:
    """Leave out the scripts of a service in the network that no page uses."""
    for files in ("script_files", "css_files"):
        context[files] = [
            file
            for file in context[files]
            if "thebe" not in f"{file.filename} {file.attributes.get('body')}".lower()
        ]


def setup(app: Sphinx) -> dict:
    app.book = Book()
    app.add_directive("whole-program", ProgramDirective)
    app.add_directive("every-name", NamesDirective)
    app.connect("env-get-outdated", outdated)
    app.connect("doctree-read", frame_blocks)
    app.connect("env-check-consistency", warn_unlisted)
    app.connect("doctree-resolved", label_cells)
    app.connect("doctree-resolved", resolve_links)
    app.connect("doctree-resolved", mend_ids)
    app.connect("doctree-resolved", mend_titles)
    app.connect("html-page-context", mend_roles)
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"version": "1", "parallel_read_safe": True}
