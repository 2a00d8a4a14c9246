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
    for page in sorted((ROOT / "book").glob("[012A]*.md"))
]
PARTS = re.findall("caption: (.+)", (ROOT / "_toc.yml").read_text("utf-8"))

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
    assert "MiniGPT" in pages[0]  # the cover; then the contents
    front = "\n".join(pages[1:6])
    for title in TITLES:
        number = re.search(rf"{re.escape(title)}\s*(\d+)", front)
        assert number, title
        there = pages[int(number[1])]
        assert squeezed(title) in squeezed(there), (title, number[1])


def test_the_outline_has_parts_and_leads_where_they_begin(pages):
    pypdf = pytest.importorskip("pypdf")
    reader = pypdf.PdfReader(PDF)
    parts = [entry for entry in reader.outline if not isinstance(entry, list)]
    assert [entry.title for entry in parts] == PARTS
    below = [entry for entry in reader.outline if isinstance(entry, list)]
    chapters = [c for part in below for c in part if not isinstance(c, list)]
    assert [re.sub(r"^\d+\. ", "", c.title) for c in chapters] == TITLES
    for entry in chapters:
        title = squeezed(re.sub(r"^\d+\. ", "", entry.title))
        there = reader.get_destination_page_number(entry)
        assert title in squeezed(pages[there])


def test_the_pdf_is_small_and_has_nothing_to_click(pages):
    assert PDF.stat().st_size <= 12e6
    text = "".join(pages)
    for words in (
        "Fold this cell",
        "Show this folded cell",
        "Try it with your own text",
        "notebook ·",
    ):
        assert words not in text


def test_the_pdf_has_no_font_of_type_3(pages):
    pypdf = pytest.importorskip("pypdf")
    kinds = {
        font.get_object()["/Subtype"]
        for page in pypdf.PdfReader(PDF).pages
        for font in page["/Resources"].get("/Font", {}).values()
    }
    assert kinds == {"/Type0"}


def test_code_on_paper_can_be_read(pages):
    pypdf = pytest.importorskip("pypdf")
    line, found = "def write_atomically(", []

    def look(text, matrix, text_matrix, font, size):
        if line in text or text.strip() == "write_atomically":
            found.append(size * abs(text_matrix[3] * matrix[3]))

    there = next(n for n, text in enumerate(pages) if squeezed(line) in squeezed(text))
    pypdf.PdfReader(PDF).pages[there].extract_text(visitor_text=look)
    assert found and min(found) >= 8.4, found


@pytest.fixture(scope="module")
def ebook() -> dict[str, str]:
    """The texts in the e-book, by their names."""
    with zipfile.ZipFile(EPUB) as file:
        assert file.namelist()[0] == "mimetype"
        return {
            name: file.read(name).decode()
            for name in file.namelist()
            if name.endswith((".xhtml", ".opf", ".ncx", ".css"))
        }


def test_the_e_book_is_well_formed_and_has_formulas_and_figures(ebook):
    for name, text in ebook.items():
        if not name.endswith(".css"):
            text = re.sub(r"&(?!amp|lt|gt|quot|apos|#)\w+;", "", text)
            ElementTree.fromstring(text)
    chapters = "".join(ebook.values())
    assert chapters.count("<math ") > 300
    assert all(title in chapters for title in TITLES)


def test_the_e_book_has_a_cover_an_identifier_and_contents_by_parts(ebook):
    listed, nav = ebook["content.opf"], ebook["nav.xhtml"]
    assert re.search(r'<dc:identifier id="book-id">urn:uuid:[\da-f-]{36}<', listed)
    assert 'unique-identifier="book-id"' in listed and "unknown" not in listed
    assert re.search(r'href="_static/cover.png"[^>]+properties="cover-image"', listed)
    assert "_static/cover.png" in ebook["epub-cover.xhtml"]
    contents = re.findall(r'<a href="([^"]+)">([^<]+)</a>', nav)
    told = [text for _, text in contents]
    assert [text for text in told if text in PARTS] == PARTS
    for title in TITLES:
        assert any(re.sub(r"^\d+\. ", "", text) == title for text in told), title
    assert len(contents) > 150  # with the sections
    for there, _ in contents:
        file, _, anchor = there.partition("#")
        assert not anchor or f'id="{anchor}"' in ebook[file], there


def test_the_e_book_says_which_files_have_formulas_and_drawings(ebook):
    listed = ebook["content.opf"]
    for name, text in ebook.items():
        if name.startswith("book/"):
            [item] = re.findall(rf'<item [^>]*href="{name}"[^>]*>', listed)
            for tag, kind in (("<math ", "mathml"), ("<svg ", "svg")):
                assert (kind in item) == (tag in text), (name, kind)
    assert len(re.findall('<itemref idref="([^"]+)"', listed)) == len(
        {*re.findall('<itemref idref="([^"]+)"', listed)}
    )


def test_the_e_book_has_its_own_look_and_no_signs_of_a_screen(ebook):
    for name, text in ebook.items():
        if name.startswith("book/"):
            assert re.findall(r'rel="stylesheet"[^>]*href="([^"]+)"', text) == [
                "../_static/ebook.css"
            ]
            for words in ("<script", "<summary", "Fold this cell", "var(--"):
                assert words not in text, (name, words)
    for font in re.findall(r'url\("([^"]+)"\)', ebook["_static/ebook.css"]):
        assert f'href="_static/{font}" media-type="font/woff2"' in ebook["content.opf"]
    assert 'class="lit"' in ebook["book/05_attention.xhtml"]
