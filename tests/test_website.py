"""What the site offers beside its pages: downloads, notebooks, descriptions, formulas."""

import ast
import base64
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import tangle

website = pytest.importorskip(
    "website", reason="needs what builds the book: make .venv/book"
)

from docutils import nodes  # noqa: E402

import cover  # noqa: E402
import hypertext  # noqa: E402
import hyphens  # noqa: E402
import mathematics  # noqa: E402
import openings  # noqa: E402
from live_page import STATIC, in_browser, loads  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = website.chapters()


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The zip, unpacked into an empty folder."""
    folder = tmp_path_factory.mktemp("empty")
    zipfile.ZipFile(io.BytesIO(website.archive(""))).extractall(folder)
    return folder / "minigpt"


def test_the_zip_has_all_that_the_program_and_the_book_need(unpacked):
    for name in (
        "minigpt.py",
        "LICENSE",
        "data/python-stdlib.tar.xz",
        "Makefile",
        "checkpoints/pretrained.safetensors",
        "book/figures.py",
        "book/_static/fonts/source-serif.LICENSE",
        "tests/bench/gpu.sh",
    ):
        assert (unpacked / name).read_bytes() == (ROOT / name).read_bytes()
    assert len(list(unpacked.glob("book/*.ipynb"))) == len(CHAPTERS)
    assert not list(unpacked.rglob("__pycache__"))


def test_the_same_book_gives_the_same_zip():
    assert website.archive("") == website.archive("")


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.stem)
def test_a_notebook_has_the_chapter_s_cells_and_no_signs_of_myst(page):
    cells = json.loads(website.notebook(page, "https://example.org/"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert 'BASE = "https://example.org/"' in code[0]
    assert [text.strip() for text in code[1:]] == [
        cell.source.strip() for cell in tangle.cells(page)
    ]
    text = "\n".join(
        "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"
    )
    plain = "".join(website.CODE.split(text)[::2])
    assert re.findall(r"{[a-z:]+}`|^:::.*|^:label:.*", plain, re.M) == []
    assert "\n```{" not in text
    assert len(re.findall("^```", text, re.M)) % 2 == 0


@pytest.mark.parametrize("page", tangle.pages(), ids=lambda page: page.stem)
def test_a_page_as_markdown_has_its_code_and_no_signs_of_myst(page):
    text = website.markdown(page, "")
    assert text.startswith("# ")
    for cell in tangle.cells(page):
        assert cell.source.strip() in text
    plain = "".join(website.CODE.split(text)[::2])
    assert re.findall(r"{[a-z:]+}`|^:::.*|^:label:.*", plain, re.M) == []
    assert "\n```{" not in text and "mystnb:" not in text


def drawings_of(page: Path) -> list[Path]:
    found = re.findall(r"^```{figure} (_static/.+\.svg)", page.read_text("utf-8"), re.M)
    return [page.parent / path for path in found]


@pytest.mark.parametrize(
    "page", [*filter(drawings_of, CHAPTERS)], ids=lambda page: page.stem
)
def test_a_notebook_or_markdown_that_lies_alone_has_its_drawings(page):
    drawn = drawings_of(page)
    for base in ("", "https://example.org/"):
        cells = json.loads(website.notebook(page, base))["cells"]
        text = "".join(sum((cell["source"] for cell in cells), []))
        inside = re.findall('src="data:image/svg.xml;base64,(.+?)">', text)
        linked = re.findall(r"!\[\]\((.+?)\)", text)
        if base:
            assert inside == [] and len(linked) == len(drawn)
        else:
            assert [base64.b64decode(data) for data in inside] == [
                path.read_bytes() for path in drawn
            ]
            assert linked == [] and '<img alt=""' not in text
        linked += re.findall(r"!\[\]\((.+?)\)", website.markdown(page, base))
        site = base or "../"  # of a page in the folder `take`
        for path in linked:
            assert ROOT / "book" / path.removeprefix(site) in drawn, path


def test_llms_txt_lists_every_page():
    text = website.for_machines("https://example.org/")
    for page in tangle.pages()[1:]:
        assert f"](https://example.org/take/{page.name})" in text


def test_directives_become_plain_markdown():
    assert (
        website.prose(
            "```{exercise-start} Count (warm-up)\n:label: ex-1\n```\nHow many?\n"
            "```{exercise-end}\n```\n\n```{solution-start} ex-1\n:class: dropdown\n```\n"
            "Two.\n\n:::{admonition} You might think\n:class: belief\nThree.\n:::\n"
            "```{margin}\nSee {cite:p}`he2016deep`.\n```\n"
            "```{figure} a.svg\n:name: fig\n\nA drawing.\n```\n"
            "```{code-block} javascript\n:class: tangle\n\n`${a}`, `b`\n```\n"
        ).split()
        == (
            "**Exercise: Count (warm-up)** How many? **Solution** Two. **You might think** "
            "Three. See (He, 2016). ![](a.svg) A drawing. ```javascript `${a}`, `b` ```"
        ).split()
    )


@pytest.mark.parametrize("stem", ["02_tokenizer", "06_heads", "13_checkpoints"])
@pytest.mark.slow
def test_a_notebook_runs_in_an_empty_folder_beside_the_zip(stem, tmp_path):
    page = next(page for page in CHAPTERS if page.stem == stem)
    (tmp_path / "minigpt.zip").write_bytes(website.archive(""))
    (tmp_path / "page.ipynb").write_text(website.notebook(page, ""), "utf-8")
    code = (
        "import nbclient, nbformat; book = nbformat.read('page.ipynb', 4); "
        "nbclient.NotebookClient(book, timeout=600).execute(); "
        "import sys; print('minigpt' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "minigpt" / "minigpt.py").exists()


def test_without_the_zip_a_notebook_says_what_is_missing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", website.FETCH.format(base="")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "put minigpt.zip" in done.stderr


def test_a_formula_becomes_mathml_with_its_source():
    text = mathematics.mathml(nodes.math("", r"x_1 < \sqrt{D}"), block=False)
    assert text.startswith('<math alttext="x_1 &lt; \\sqrt{D}"') and "<msqrt>" in text


@pytest.mark.parametrize(
    "source, spaces",
    [(r"\ln p", 1), (r"\ln(p)", 0), (r"2 \ln V", 2), (r"-\ln \operatorname{f}(z)", 1)],
)
def test_a_function_has_room_unless_a_bracket_follows(source, spaces):
    text = mathematics.mathml(nodes.math("", source), block=False)
    assert text.count("<mspace") == spaces and "ApplyFunction" not in text


# --- the cover, and how chapters begin ---------------------------------------


def test_the_strip_has_all_lines_of_the_program_that_chapters_write():
    book = hypertext.Book()
    spans = openings.spans(book.parts)
    lines = book.program.text.split("\n")
    own = {n for first, last in spans.values() for n in range(first, last + 1)}
    for number, line in enumerate(lines, 1):
        assert number in own or not line or line.startswith("#"), (number, line)
    assert sum(last - first + 1 for first, last in spans.values()) == len(own)
    drawn = dict(openings.segments(book, CHAPTERS[4]))
    assert [page for page in drawn if ' class="on"' in drawn[page]] == [CHAPTERS[4]]
    first, last = spans[CHAPTERS[4]]
    width = 100 * (last - first + 1) / (len(lines) - 1)
    assert f"width: {width:.2f}%" in drawn[CHAPTERS[4]]


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.stem)
def test_a_chapter_asks_one_question_below_its_title_and_belongs_to_a_part(page):
    text = page.read_text("utf-8")
    [question] = re.findall(r"^# .+\n\n```{question}\n(.+)\n```$", text, re.M)
    assert question.endswith("?") and len(question) < 90
    assert openings.part_of(page)


def test_the_pictures_of_the_mark_have_the_sizes_that_are_announced():
    pytest.importorskip("playwright")
    mark = pytest.importorskip("mark")
    announced = (ROOT / "book" / "_templates" / "layout.html").read_text("utf-8")
    for name, sizes in mark.PICTURES.items():
        data = (ROOT / "book" / "_static" / name).read_bytes()
        assert data.startswith(b"\x89PNG") and len(data) < 150_000
        size = [int.from_bytes(data[n : n + 4], "big") for n in (16, 20)]
        assert size == [sizes["width"], sizes["height"]]
        if name == "share.png":
            for kind, number in zip(("width", "height"), size, strict=True):
                assert f'og:image:{kind}" content="{number}"' in announced


def test_what_is_offered_is_there(tmp_path):
    site = tmp_path / "html"
    (site / "take").mkdir(parents=True)
    (site / "book").mkdir()
    (site / "take" / "minigpt.py").write_text("x" * 10**5)
    page = site / "book" / "index.html"
    page.write_text(f"<p>Before.</p>{cover.downloads(site / 'take')}<p>After.</p>")
    assert "make pdf epub" in page.read_text()
    assert "minigpt.py</a> the program alone, 0.1 MB" in page.read_text()
    for name, size in (("MiniGPT.epub", 1_500_000), ("minigpt.pdf", 9_960_000)):
        (tmp_path / name).write_bytes(bytes(size))
        cover.offer(tmp_path / name, site)
    text = page.read_text()
    assert "1.5 MB" in text and "10.0 MB" in text and "make pdf" not in text
    assert text.startswith("<p>Before.") and text.endswith("</ul><p>After.</p>")
    for name in re.findall(r'href="../([^"]+)"', text):
        assert (site / name).exists()


def test_the_program_after_a_chapter_is_what_its_first_chapters_tangle_to():
    stages = dict(website.stages(hypertext.Book()))
    assert [*stages] == CHAPTERS
    for page in CHAPTERS[::5]:
        assert (
            stages[page] == tangle.tangle(tangle.until(tangle.pages(), page.stem)).text
        )
    module = (ROOT / "minigpt.py").read_text("utf-8")
    assert module.startswith(stages[CHAPTERS[-1]])
    for text in stages.values():
        ast.parse(text)


ROOTS = """() => [...document.querySelectorAll("msqrt")].map((root) => {
    const last = root.lastElementChild.getBoundingClientRect();
    const next = root.closest("math").nextSibling.getBoundingClientRect();
    return next.left - last.right;
})"""


@in_browser
def test_what_follows_a_root_is_near_and_its_bar_touches_no_letter(chromium, tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name in ("book.css", "figures.css", "roots.js"):
        shutil.copy(STATIC / name, tmp_path)
    shutil.copytree(STATIC / "fonts", tmp_path / "fonts")
    formulas = [
        mathematics.mathml(nodes.math("", source), block=False) + "<b>x</b>"
        for source in (
            r"\sqrt{D}",
            r"\sqrt{\sigma^2 + \epsilon}",
            r"\sqrt{\frac{a}{b}}",
        )
    ]
    (tmp_path / "page.html").write_text(
        f"<!doctype html>{loads(['book.css', 'figures.css', 'roots.js'])}"
        f"<p>{' '.join(formulas)}</p><details><p>{formulas[0]}</p></details>"
    )
    tab = chromium.new_page(device_scale_factor=8)
    try:
        tab.goto((tmp_path / "page.html").as_uri())
        tab.evaluate("document.fonts.ready")
        tab.evaluate("document.querySelector('details').open = true")
        assert max(map(abs, tab.evaluate(ROOTS))) < 0.5
        letter = tab.locator("msqrt > mi").first
        box, size = (
            letter.bounding_box(),
            letter.evaluate("letter => parseFloat(getComputedStyle(letter).fontSize)"),
        )
        box |= {"x": box["x"] + 2, "width": box["width"] - 3}
        box |= {"y": box["y"] - 6, "height": box["height"] + 6}
        shot = tab.screenshot(clip=box)
    finally:
        tab.close()
    picture = image.open(io.BytesIO(shot)).convert("L")
    rows = [
        picture.crop((0, y, picture.width, y + 1)).getextrema()[0] < 128
        for y in range(picture.height)
    ]
    ink = [(dark, len([*same])) for dark, same in itertools.groupby(rows)]
    assert [dark for dark, _ in ink[:4]] == [False, True, False, True]  # bar, letter
    assert ink[2][1] / 8 > 0.07 * size


def test_a_name_with_a_hyphen_stays_on_one_line():
    words = nodes.Text("GPT-2 reads UTF-8, "), nodes.literal("", "UTF-8")
    page = nodes.paragraph("", "", *words)
    app = type("App", (), {"builder": type("Builder", (), {"format": "html"})})
    document = nodes.document("", "")
    document += page
    hyphens.keep_whole(app, document, "page")
    assert [span.astext() for span in page.findall(nodes.inline)] == ["GPT-2", "UTF-8"]
    assert all(span["classes"] == ["whole"] for span in page.findall(nodes.inline))
    assert page.astext() == "GPT-2 reads UTF-8, UTF-8"
    assert ".whole { white-space: nowrap; }" in (STATIC / "book.css").read_text("utf-8")


def test_a_title_that_is_written_twice_is_read_once():
    pytest.importorskip("playwright")
    pytest.importorskip("pikepdf")
    paper = pytest.importorskip("pdf")
    assert paper.once("5. Attention5. Attention") == "5. Attention"
    assert paper.once("Errors that help") == "Errors that help"


@in_browser
def test_a_printed_page_has_no_font_of_type_3(chromium, tmp_path):
    pypdf = pytest.importorskip("pypdf")
    shutil.copy(STATIC / "book.css", tmp_path)
    shutil.copytree(STATIC / "fonts", tmp_path / "fonts")
    text = "".join(
        f"<p style='font: {style} 16px \"{family}\"'>Words</p>"
        for family in ("Source Serif", "Book Code")
        for style in ("400", "600", "700", "italic 400")
    )
    (tmp_path / "page.html").write_text(f"{loads(['book.css'])}{text}")
    tab = chromium.new_page()
    try:
        tab.goto((tmp_path / "page.html").as_uri())
        tab.evaluate("document.fonts.ready")
        reader = pypdf.PdfReader(io.BytesIO(tab.pdf()))
    finally:
        tab.close()
    fonts = reader.pages[0]["/Resources"]["/Font"].values()
    kinds = [font.get_object()["/Subtype"] for font in fonts]
    assert len(kinds) >= 5 and {*kinds} == {"/Type0"}
