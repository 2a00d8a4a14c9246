"""A Sphinx extension: the book as an e-book, which Sphinx alone makes a poor one of.

It has a cover, contents with parts, chapters and sections, and a list of its files that
says where formulas and drawings are. Its pages have one style sheet, `ebook.css`, and no
scripts; what is folded on the site lies open.
"""

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.builders.epub3 import Epub3Builder

import tangle
from cover import offer
from hypertext import page_name
from openings import parts_of_book

KEPT = re.compile(r"_static/(ebook\.css|cover\.png|fonts/s[\w-]+\.woff2)")
ITEM = re.compile(r'<item id="[^"]+" href="([^"]+)" media-type="[^"]+"(?= />)')
SCRIPT = re.compile(r"<script.*?</script>", re.DOTALL)
FOLD = re.compile(r"<details[^>]*>\s*<summary.*?</summary>", re.DOTALL)
STYLE = '<link rel="stylesheet" type="text/css" href="{}_static/ebook.css" />'


class EbookBuilder(Epub3Builder):
    """Sphinx's builder, which lacks parts, fonts, and the properties of items."""

    media_types = Epub3Builder.media_types | {".woff2": "font/woff2"}

    def get_toc(self) -> None:
        """Put the chapters into the parts of the book."""
        super().get_toc()
        starts = {
            page_name(pages[0]) + self.out_suffix: caption
            for caption, pages in parts_of_book().items()
        }
        entries, deeper, seen = [], 0, set()
        for entry in self.refnodes:
            file, anchor = entry["refuri"].partition("#")[::2]
            if file in starts and file not in seen:
                id_ = self.env.get_doctree(file.removesuffix(self.out_suffix))[0]["ids"]
                part = {"level": 1, "refuri": f"{file}#{id_[0]}", "text": starts[file]}
                entries.append(part)
                deeper = 1
            number = tangle.CHAPTER.match(Path(file).stem)
            if number and not anchor and file not in seen:
                entry["text"] = f"{int(number[1])}. {entry['text']}"
            entries.append(entry | {"level": entry["level"] + deeper})
            if file not in seen:
                entries += self.sections(file, entries[-1]["level"] + 1)
            seen.add(file)
        self.refnodes = entries

    def sections(self, file: str, level: int) -> Iterator[dict]:
        """Yield the entries of a page's sections."""
        contents = self.env.tocs.get(file.removesuffix(self.out_suffix), [[]])
        for item in contents[0][1] if len(contents[0]) > 1 else ():
            for link in [*item.findall(nodes.reference)][:1]:
                there = file + link["anchorname"]
                yield {"level": level, "refuri": there, "text": escape(link.astext())}

    def build_content(self) -> None:
        """Write the list of files, and say what is in each."""
        folder = Path(self.outdir)
        self.config.epub_exclude_files = [
            name
            for path in folder.rglob("*")
            if (name := path.relative_to(folder).as_posix()).startswith("_static/")
            and not KEPT.fullmatch(name)
        ] + [self.coverpage_name]  # which it adds itself, after a second build, too
        super().build_content()

        def item(match: re.Match[str]) -> str:
            found = ["cover-image"] if match[1] == "_static/cover.png" else []
            if match[1].endswith(self.out_suffix):
                text = (folder / match[1]).read_text("utf-8")
                found += [
                    name
                    for tag, name in (("<math ", "mathml"), ("<svg ", "svg"))
                    if tag in text
                ]
            return f'{match[0]} properties="{" ".join(found)}"' if found else match[0]

        listed = folder / "content.opf"
        listed.write_text(ITEM.sub(item, listed.read_text("utf-8")), "utf-8")


def settle_page(
    app: Sphinx, pagename: str, template: str, context: dict, doctree
) -> None:
    """One style sheet, no scripts, nothing folded."""
    if app.builder.name == "epub":
        context["css_files"] = context["script_files"] = []
        body = FOLD.sub('<div class="open">', context.get("body", ""))
        context["body"] = SCRIPT.sub("", body.replace("</details>", "</div>"))
        up = "../" * pagename.count("/")
        context["metatags"] = context.get("metatags", "") + STYLE.format(up)


def put_on_site(app: Sphinx, error: Exception | None) -> None:
    """Offer the e-book on the first page of the site, if that has been built."""
    if app.builder.name == "epub" and error is None:
        file = Path(app.outdir, f"{app.config.epub_basename}.epub")
        offer(file, Path(app.outdir).with_name("html"))


def set_cover(app: Sphinx, config) -> None:
    """Name the picture that `mark.py` drew, and Sphinx's page for it."""
    config.epub_cover = ("_static/cover.png", "epub-cover.html")


def setup(app: Sphinx) -> dict:
    app.add_builder(EbookBuilder, override=True)
    app.connect("config-inited", set_cover)
    app.connect("html-page-context", settle_page, priority=950)
    app.connect("build-finished", put_on_site)
    return {"version": "1", "parallel_read_safe": True}
