"""The book as one PDF, printed by headless Chromium: _build/minigpt.pdf.

    make pdf

Sphinx joins all pages into one (after `make book`, whose cells need not run again).
Chromium prints it twice: once to learn on which page each heading comes to stand, and
once with these numbers in the table of contents.
"""

import html
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pypdf
from playwright.sync_api import Page, sync_playwright

import tangle

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
nav.print-toc { break-after: page; font-family: var(--book-ui); font-size: 9pt; }
nav.print-toc p { font-size: 12pt; font-family: var(--pst-font-family-base); }
nav.print-toc p.book { margin: 0; font-size: 34pt; font-weight: 600; }
nav.print-toc li { display: flex; gap: .5em; list-style: none; margin: 0; }
nav.print-toc li.two { padding-left: 1.5em; }
nav.print-toc li.one { font-weight: 600; margin-top: .4em; }
nav.print-toc span.dots { flex: 1; border-bottom: 1px dotted #999; margin-bottom: .3em; }
nav.print-toc span.page { min-width: 2.2em; text-align: right; }
nav.print-toc a { color: inherit; text-decoration: none; }
"""
FOOTER = """<div style="width:100%; font-size:8px; text-align:center; color:#555">
<span class="pageNumber"></span></div>"""
HEADINGS = """() => [...document.querySelectorAll('.bd-article h2, .bd-article h3')]
    .filter(h => h.closest('section') && h.getClientRects().length)
    .map(h => [h.tagName == 'H2' ? 'one' : 'two', h.closest('section').id,
               h.innerText.replace(/#\\s*$/, '').trim()])"""
INSERT = """([style, list]) => {
    document.querySelector('nav.print-toc')?.parentElement.remove();
    const box = document.createElement('div');
    box.innerHTML = `<style>${style}</style><nav class="print-toc"><p class="book">MiniGPT</p>
        <p>How a language model works, as a program that you read</p><h2>Contents</h2>
        <ul>${list}</ul></nav>`;
    const first = document.querySelector('.bd-article h1');
    first.insertAdjacentElement('afterend', box);
    document.documentElement.dataset.theme = 'light';
    for (const link of document.querySelectorAll('a[href^="#document-"]'))
        link.setAttribute('href', link.getAttribute('href').replace(/^#.*#/, '#'));
    for (const fold of document.querySelectorAll('details')) fold.open = true;
}"""


def contents(headings: list[list[str]], numbers: list[int]) -> str:
    """The table of contents, as items of a list."""
    return "".join(
        f'<li class="{level}"><a href="#{id_}">{html.escape(text)}</a><span class="dots">'
        f'</span><span class="page">{number}</span></li>'
        for (level, id_, text), number in zip(headings, numbers, strict=True)
    )


def squeeze(text: str) -> str:
    """A heading without its blanks and the sign of its link."""
    return "".join(text.split()).rstrip("#")


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
        margin={"top": "18mm", "bottom": "18mm", "left": "17mm", "right": "17mm"},
    )
    reader = pypdf.PdfReader(path)
    outline, numbers = flat(reader.outline), []
    for _, _, text in headings:  # both are in the order of the book
        entry = next(
            entry for entry in outline if squeeze(entry.title) == squeeze(text)
        )
        numbers.append(reader.get_destination_page_number(entry) + 1)
    return numbers


def print_book(page: Path, target: Path) -> None:
    """Print a page that holds the whole book, with its contents, to a PDF."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"]
        )
        tab = browser.new_page(color_scheme="light")
        tab.goto(page.as_uri())
        tab.emulate_media(media="print")
        headings = tab.evaluate(HEADINGS)
        numbers = [0] * len(headings)
        for _ in range(2):
            tab.evaluate(INSERT, [STYLE, contents(headings, numbers)])
            numbers = printed(tab, target, headings)
        browser.close()


def main() -> int:
    program = Path(sys.executable).with_name(COMMAND[0])
    done = subprocess.run([program, *COMMAND[1:]], cwd=tangle.TOC.parent)
    if done.returncode:
        return done.returncode
    target, page = BUILD / "minigpt.pdf", BUILD / "singlehtml" / "whole.html"
    (page.parent / "book" / "index.html").replace(page)  # where its links begin
    print_book(page, target)
    print(f"{target}: {len(pypdf.PdfReader(target).pages)} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
