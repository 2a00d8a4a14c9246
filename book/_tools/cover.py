"""A Sphinx extension: the first page of the site is a cover.

The directive `cover` holds what stands below the title, and `ways-in` ends the cover with
three buttons and the program as a strip. `book-contents` lists the chapters by parts, with
what one builds in each; `downloads` is what one can take along. PDF and e-book are made
after the pages, so who makes them calls `offer` to put them there.
"""

import re
import shutil
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import tangle
from hypertext import page_name, reading_minutes
from openings import parts_of_book, segments

FILES = {  # what is offered, if it is there
    "minigpt.zip": "the program, its corpus, a trained model, this book's source",
    "minigpt.pdf": "the book on paper",
    "minigpt.epub": "the book for a reader",
    "minigpt.py": "the program alone",
}
DOWNLOADS = re.compile(r'<ul class="get">.*?</ul>', re.DOTALL)


class CoverDirective(SphinxDirective):
    """What stands below the title, and how large the book is."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        chapters = [page for page in tangle.pages() if tangle.CHAPTER.match(page.stem)]
        lines = self.env.app.book.program.text.count("\n")
        size = f" {len(chapters)} chapters, {lines:,} lines of Python, no GPU."
        text = nodes.paragraph("", " ".join(self.content) + size, classes=["subtitle"])
        return [text]


class ways_in(nodes.General, nodes.Element):
    """The end of the cover."""


class WaysDirective(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return [ways_in()]


def fill_cover(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Make a box of what is above the end of the cover, and fill in the ways."""
    for node in [*doctree.findall(ways_in)]:
        if app.builder.name != "html":
            node.parent.remove(node)
            continue
        links = "".join(
            f'<a href="{app.builder.get_relative_uri(docname, page_name(page))}" '
            f'{segment}><span class="visually-hidden">{escape(app.book.titles[page])}'
            "</span></a>"
            for page, segment in segments(app.book)
        )
        first = app.builder.get_relative_uri(docname, page_name(tangle.pages()[1]))
        section, lines = node.parent, app.book.program.text.count("\n")
        html = f"""<p class="ways"><a class="first" href="{first}">Read chapter 1</a>
<a href="#fig-cover">Let it write</a><a href="#get-it">Take it: zip, PDF, EPUB</a></p>
<nav class="program-strip" aria-label="The program, a segment for each chapter">{links}</nav>
<p class="scale"><span>The program: a segment for each chapter, as wide as its lines</span>
<span>lines 1 to {lines:,}</span></p></header>
"""
        section.replace(node, nodes.raw("", html, format="html"))
        section.insert(0, nodes.raw("", '<header class="cover">', format="html"))


class ContentsDirective(SphinxDirective):
    """The chapters by parts: number, title, minutes, and what one builds in each.

    Its lines say the last: `07 the block`.
    """

    has_content = True

    def run(self) -> list[nodes.Node]:
        told = dict(line.split(maxsplit=1) for line in self.content)
        found, left = nodes.container(classes=["book-contents"]), {*told}
        for caption, pages in parts_of_book().items():
            chapters = [page for page in pages if tangle.CHAPTER.match(page.stem)]
            items = nodes.bullet_list()
            for page in chapters:
                if page.stem[:2] not in left:
                    raise self.error(f"what does one build in {page.stem}?")
                left.remove(page.stem[:2])
                items += self.item(page, told[page.stem[:2]])
            if chapters:
                name = nodes.paragraph("", caption, classes=["part-name"])
                found += nodes.container("", name, items, classes=["part-row"])
        if left:
            raise self.error(f"no chapters: {', '.join(sorted(left))}")
        return [found]

    def item(self, page: Path, told: str) -> nodes.list_item:
        title = f"{int(page.stem[:2])}. {tangle.title(page)[0]}"
        link = nodes.reference(
            "", title, internal=True, page=page_name(page), anchor=""
        )
        minutes = nodes.inline("", "", page=page_name(page), classes=["minutes"])
        line = nodes.paragraph("", "", link, nodes.Text(" "), minutes)
        return nodes.list_item("", line, nodes.paragraph("", told))


def fill_minutes(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Write how long each chapter takes beside its title."""
    for node in doctree.findall(nodes.inline):
        if "page" in node:
            minutes = reading_minutes(app.env.get_doctree(node["page"]))
            node += nodes.Text(f"{minutes} minutes")


# --- what one takes along ----------------------------------------------------


def downloads(folder: Path) -> str:
    """The list of what is in the folder `take`, as HTML."""
    items = "".join(
        f'<li><a href="../take/{name}" download>{name}</a> {told}, '
        f"{(folder / name).stat().st_size / 1e6:.1f} MB</li>\n"
        for name, told in FILES.items()
        if (folder / name).exists()
    )
    if not (folder / "minigpt.pdf").exists():
        items += "<li><code>make pdf epub</code> makes a PDF and an e-book</li>\n"
    return f'<ul class="get">\n{items}</ul>'


class DownloadsDirective(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        if self.env.app.builder.name != "html":
            return []
        return [nodes.raw("", '<ul class="get"></ul>\n', format="html")]


def fill_downloads(
    app: Sphinx, pagename: str, template: str, context: dict, doctree
) -> None:
    """List what there is to take on the first page."""
    if pagename == app.config.root_doc and app.builder.name == "html":
        made = downloads(Path(app.outdir, "take"))
        context["body"] = DOWNLOADS.sub(made, context["body"])
        app.add_js_file("cover.js", loading_method="defer")


def offer(file: Path, site: Path) -> None:
    """Copy a PDF or an e-book to a built site, and list it on its first page."""
    page = site / "book" / "index.html"
    if page.exists():
        shutil.copyfile(file, site / "take" / f"minigpt{file.suffix}")
        text = page.read_text("utf-8")
        page.write_text(DOWNLOADS.sub(downloads(site / "take"), text), "utf-8")


def setup(app: Sphinx) -> dict:
    app.add_node(ways_in)
    for name, directive in (
        ("cover", CoverDirective),
        ("ways-in", WaysDirective),
        ("book-contents", ContentsDirective),
        ("downloads", DownloadsDirective),
    ):
        app.add_directive(name, directive)
    app.connect("doctree-resolved", fill_cover)
    app.connect("doctree-resolved", fill_minutes)
    app.connect("html-page-context", fill_downloads)
    return {"version": "1", "parallel_read_safe": True}
