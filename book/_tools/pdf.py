"""The book as one PDF, printed by headless Chromium: _build/minigpt.pdf.

    make pdf

Sphinx joins all pages into one (after `make book`, whose cells need not run again).
Chromium prints it twice: once to learn on which page each heading comes to stand, and
once with these numbers in the table of contents. A cover is put before it, chapters stand
in parts in the outline, and small objects are packed, which halves the file.
"""

import html
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pikepdf
import pypdf
from playwright.sync_api import Browser, Page, sync_playwright

import mark
import openings
import tangle
from cover import offer

BUILD = tangle.TOC.with_name("_build")
COMMAND = [
    "jupyter-book",
    "build",
    ".",
    "--builder",
    "custom",
    "--custom-builder",
    "singlehtml",
    "--warningiserror",
    "--nitpick",
]
STYLE = """
span[id^="document-"] + section { break-before: page; }
nav.print-toc { break-after: page; font-family: var(--book-ui); font-size: 8.5pt; }
nav.print-toc h2 { margin-bottom: 1rem; }
nav.print-toc ul { columns: 2; column-gap: 2.2rem; padding: 0; }
nav.print-toc li { display: flex; gap: .5em; list-style: none; margin: 0; break-inside: avoid; }
nav.print-toc li.part { font: italic 12pt var(--pst-font-family-base); margin-top: 1.2em;
    break-after: avoid; }
nav.print-toc li.two { padding-left: 1.5em; }
nav.print-toc li.one { font-weight: 600; margin-top: .5em; break-after: avoid; }
nav.print-toc span.dots { flex: 1; border-bottom: 1px dotted #999; margin-bottom: .3em; }
nav.print-toc span.page { min-width: 2.2em; text-align: right; }
nav.print-toc a { color: inherit; text-decoration: none; }
"""
FOOTER = """<div style="width:100%; font-size:8px; text-align:center; color:#555">
<span class="pageNumber"></span></div>"""
HEADINGS = """() => [...document.querySelectorAll('.bd-article h2, .bd-article h3')]
    .filter(h => h.closest('section') && h.getClientRects().length)
    .filter(h => h.tagName == 'H3' || h.closest('section').previousElementSibling
        ?.matches('span[id^="document-"]'))
    .map(h => [h.tagName == 'H2' ? 'one' : 'two', h.closest('section').id,
               h.innerText.replace(/#\\s*$/, '').replace(/\\s+/g, ' ').trim()])"""
INSERT = """([style, list]) => {
    document.querySelector('nav.print-toc')?.parentElement.remove();
    const box = document.createElement('div');
    box.innerHTML = `<style>${style}</style><nav class="print-toc"><h2>Contents</h2>
        <ul>${list}</ul></nav>`;
    document.querySelector('.bd-article').prepend(box);
    document.documentElement.dataset.theme = 'light';
    for (const link of document.querySelectorAll('a[href^="#document-"]'))
        link.setAttribute('href', link.getAttribute('href').replace(/^#.*#/, '#'));
    for (const fold of document.querySelectorAll('details')) fold.open = true;
}"""


def part_of(title: str) -> str:
    """The part of the book that a chapter, by its numbered title, belongs to."""
    number = re.match(r"(\d+)\. ", title)
    pages = {int(p.stem[:2]): p for p in tangle.pages() if tangle.CHAPTER.match(p.stem)}
    return openings.part_of(pages[int(number[1])] if number else tangle.pages()[-1])


def contents(headings: list[list[str]], numbers: list[int]) -> str:
    """The table of contents, as items of a list."""
    items, part = [], None
    for (level, id_, text), number in zip(headings, numbers, strict=True):
        if level == "one" and part_of(text) != part:
            part = part_of(text)
            items.append(f'<li class="part">{part}</li>')
        items.append(
            f'<li class="{level}"><a href="#{id_}">{html.escape(text)}</a><span '
            f'class="dots"></span><span class="page">{number}</span></li>'
        )
    return "".join(items)


def once(title: str) -> str:
    """An entry of the outline; at the top of a page Chromium writes it twice."""
    half = title[: len(title) // 2]
    return half if half * 2 == title else title


def squeeze(text: str) -> str:
    """A heading without its number, its blanks and the sign of its link."""
    return re.sub(r"^\d+\.", "", "".join(text.split())).rstrip("#")


def flat(outline: list) -> Iterator[pypdf.generic.Destination]:
    """Yield the entries of a PDF's outline, in order, whatever their depth."""
    for entry in outline:
        if isinstance(entry, list):
            yield from flat(entry)
        else:
            yield entry


def printed(tab: Page, path: Path, headings: list[list[str]]) -> list[int]:
    """Print a page to a PDF; on which of its pages each heading stands."""
    tab.pdf(
        path=path,
        format="A4",
        outline=True,
        tagged=True,
        print_background=True,
        display_header_footer=True,
        header_template="<span></span>",
        footer_template=FOOTER,
        margin={"top": "18mm", "bottom": "18mm", "left": "22mm", "right": "18mm"},
    )
    reader = pypdf.PdfReader(path)
    outline, numbers = flat(reader.outline), []
    for _, _, text in headings:  # both are in the order of the book
        entry = next(
            entry for entry in outline if squeeze(once(entry.title)) == squeeze(text)
        )
        numbers.append(reader.get_destination_page_number(entry) + 1)
    return numbers


def print_cover(browser: Browser, folder: Path) -> Path:
    """Print the cover, in a folder that has the fonts."""
    page, target = folder / "cover.html", folder / "cover.pdf"
    page.write_text(mark.page("_static/fonts", mark.PAPER), "utf-8")
    tab = browser.new_page()
    tab.goto(page.as_uri())
    tab.pdf(path=target, format="A4", print_background=True, page_ranges="1")
    return target


def outlined(
    headings: list[list[str]], numbers: list[int]
) -> Iterator[pikepdf.OutlineItem]:
    """Yield the parts of the book, their chapters and sections below them.

    The cover has the number 0, so that a page's number is that of its sheet.
    """
    part = chapter = None
    for (level, _, text), number in zip(headings, numbers, strict=True):
        entry = pikepdf.OutlineItem(text, number)
        if level == "two":
            chapter.children.append(entry)
            continue
        chapter = entry
        if part is None or part.title != part_of(text):
            if part is not None:
                yield part
            part = pikepdf.OutlineItem(part_of(text), number)
        part.children.append(chapter)
    yield part


def bind(inside: Path, cover: Path, outline: list, target: Path) -> None:
    """Put the cover before the book, give it an outline, and pack it."""
    with pikepdf.open(inside) as book, pikepdf.open(cover) as front:
        book.pages.insert(0, front.pages[0])
        with book.open_outline() as old:
            old.root[:] = outline
        book.docinfo["/Title"] = "MiniGPT"
        book.save(
            target,
            object_stream_mode=pikepdf.ObjectStreamMode.generate,
            recompress_flate=True,
            deterministic_id=True,
        )


def print_book(page: Path, target: Path) -> None:
    """Print a page that holds the whole book, with its contents, to a PDF."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    inside = page.with_name("inside.pdf")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"]
        )
        tab = browser.new_page(color_scheme="light")
        tab.goto(page.as_uri(), timeout=300_000)  # a machine may have other work
        tab.emulate_media(media="print")
        headings = tab.evaluate(HEADINGS)
        numbers = [0] * len(headings)
        for _ in range(2):
            tab.evaluate(INSERT, [STYLE, contents(headings, numbers)])
            numbers = printed(tab, inside, headings)
        cover = print_cover(browser, page.parent)
        browser.close()
    bind(inside, cover, [*outlined(headings, numbers)], target)


def main() -> int:
    program = Path(sys.executable).with_name(COMMAND[0])
    done = subprocess.run([program, *COMMAND[1:]], cwd=tangle.TOC.parent)
    if done.returncode:
        return done.returncode
    target, page = BUILD / "minigpt.pdf", BUILD / "singlehtml" / "whole.html"
    (page.parent / "book" / "index.html").replace(page)  # where its links begin
    print_book(page, target)
    offer(target, BUILD / "html")
    print(f"{target}: {len(pypdf.PdfReader(target).pages)} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
