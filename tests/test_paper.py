"""What one takes along: the PDF and the e-book, if `make pdf epub` has made them."""

import os
import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[1]
PDF, EPUB = ROOT / "_build" / "minigpt.pdf", ROOT / "_build" / "epub" / "MiniGPT.epub"
REQUIRED = bool(os.environ.get("REQUIRE_BROWSER"))
TITLES = [
    re.search("^# (.+)$", page.read_text("utf-8"), re.M)[1]
    for page in sorted((ROOT / "book").glob("[01A]*.md"))
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not REQUIRED and not (PDF.exists() and EPUB.exists()),
        reason="needs the book on paper: make pdf epub",
    ),
]


def squeezed(text: str) -> str:
    """A text without its blanks, which a PDF may set otherwise."""
    return re.sub(r"\s+", "", text)


@pytest.fixture(scope="module")
def pages() -> list[str]:
    """The text of each page of the PDF."""
    pypdf = pytest.importorskip("pypdf")
    return [page.extract_text() for page in pypdf.PdfReader(PDF).pages]


def test_every_line_of_the_program_is_on_paper(pages):
    text = squeezed("".join(pages))
    lost = [
        line
        for line in (ROOT / "minigpt.py").read_text("utf-8").splitlines()
        if squeezed(line) not in text
        and not line.startswith("# tangled: ")
        and not re.match(r"# \d+\. .* -+$", line)
    ]
    assert lost == []


def test_the_contents_name_the_pages_where_chapters_begin(pages):
    front = "\n".join(pages[:8])
    for title in TITLES:
        number = re.search(rf"{re.escape(title)}\s*(\d+)", front)
        assert number, title
        there = pages[int(number[1]) - 1]
        assert squeezed(title) in squeezed(there), (title, number[1])


def test_the_e_book_is_well_formed_and_has_formulas_and_figures():
    with zipfile.ZipFile(EPUB) as file:
        assert file.namelist()[0] == "mimetype"
        texts = {
            name: file.read(name).decode()
            for name in file.namelist()
            if name.endswith((".xhtml", ".opf", ".ncx"))
        }
    for text in texts.values():
        ElementTree.fromstring(re.sub(r"&(?!amp|lt|gt|quot|apos|#)\w+;", "", text))
    chapters = "".join(texts.values())
    assert chapters.count("<math ") > 300
    assert all(title in chapters for title in TITLES)
