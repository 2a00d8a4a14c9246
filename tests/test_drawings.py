"""Figures and drawings: what is in the files, and what stands on the pages."""

import io
import itertools
import json
import re
from pathlib import Path

import pytest

from test_pages import PAGES, address, pytestmark

pytest.importorskip("matplotlib", reason="needs what builds the book: make .venv/book")
pytest.importorskip("sphinx", reason="needs what builds the book: make .venv/book")
import matplotlib
import matplotlib.pyplot as plt
from matplotlib.text import Text

import drawings
import figures
import hypertext

BOOK = Path(drawings.__file__).parents[1]
DRAWN = sorted((BOOK / "_static" / "drawings").glob("*.svg"))
CSS = (BOOK / "_static" / "figures.css").read_text("utf-8")
LIGHT = {name: colour for colour, name in drawings.COLOURS.items()}
DARK = dict(re.findall(r"--figure-(\w+): (#\w+);", CSS))
TEXTS = """() => [...document.querySelectorAll('svg.drawing text')].map(text => {
    const style = getComputedStyle(text), lit = text.closest(".lit");
    const m = text.getScreenCTM();
    return [text.textContent, lit ? null : style.fill,
            parseFloat(style.fontSize) * Math.hypot(m.a, m.b)];
})"""
SLOW, IN_A_BROWSER = pytestmark
pytestmark = []


def luminance(colour: tuple[float, ...]) -> float:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (channel / 255 for channel in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    """The ratio of WCAG between two colours, `#rrggbb` or `rgb(r, g, b)`."""
    one, two = sorted(
        luminance(
            tuple(bytes.fromhex(colour[1:]))
            if colour[0] == "#"
            else tuple(map(float, re.findall(r"[\d.]+", colour)[:3]))
        )
        for colour in (a, b)
    )
    return (two + 0.05) / (one + 0.05)


def test_the_palette_is_complete_and_can_be_read_in_both_themes():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert DARK.keys() == LIGHT.keys()
    for palette in (LIGHT, DARK):
        for name in LIGHT.keys() - {"paper"}:
            least = 3 if name in ("grey", "gold") else 4.5  # no text is of these
            assert contrast(palette[name], palette["paper"]) >= least, name
    mine = {
        value
        for name, value in vars(figures).items()
        if name.isupper() and str(value).startswith("#")
    }
    assert mine <= drawings.COLOURS.keys()


def draw(name: str, *args, **more) -> str:
    """The SVG of a figure, which is then the current one."""
    plt.close("all")
    with matplotlib.rc_context({"backend": "svg"}):
        getattr(figures, name)(*args, **more)
        plt.savefig(file := io.StringIO(), format="svg")
    return file.getvalue()


@pytest.mark.parametrize(
    "name, args, words",
    [
        (
            "by_depth",
            ("size", {"a": [1e-9, 1], "b": [1, 1e5]}),
            ["size", "layer", "10⁻⁹"],
        ),
        (
            "looks",
            ("ab", {"map": [[1.0, float("-inf")], [0.5, 0.5]]}),
            ["query", "map"],
        ),
    ],
)
def test_text_is_text_in_the_pages_font(name, args, words):
    svg = drawings.svg_for_page(draw(name, *args), 'say "it"')
    assert {*words} <= {*re.findall(r">([^<]+)</text>", svg)}
    assert 'aria-label="say &quot;it&quot;"' in svg and 'role="img"' in svg
    assert "DejaVu" not in svg and "<metadata" not in svg and "<style" not in svg
    bare = re.sub(r"var\(--figure-\w+, #\w+\)", "", svg)
    assert drawings.COLOUR.findall(" ".join(drawings.TAG.findall(bare))) == []


LOG = figures.read_run("medium")[1]
CAUSAL = [[1.0] * n + [float("-inf")] * (20 - n) for n in range(1, 21)]
BENCH = json.loads((figures.RUNS / "peers.json").read_text("utf-8"))["lines"]


@pytest.mark.parametrize(
    "name, args, more",
    [
        ("loss_curve", (LOG, {"pairs": 2.44, "nothing": 4.6}), {}),
        ("loss_curve", (LOG[:30], {}), {}),
        (
            "shares",
            ([4.6, 1, 0.8, 0.78, 0.77, 0.77], {"late": 0.7}, {"late": 0.1}),
            {"early": [0, 0.2, 0.9, 0.8, 0.85, 0.9], "late": [0, 0, 0, 0.6, 0.8, 0.7]},
        ),
        ("peers", (BENCH,), {}),
    ],
)
def test_words_of_a_figure_cross_neither_lines_nor_each_other(name, args, more):
    svg = draw(name, *args, **more)
    figure = plt.gcf()
    boxes = {
        text: text.get_window_extent().padded(-1)
        for text in figure.findobj(Text)
        if text.get_visible() and f">{text.get_text()}</text>" in svg
    }
    assert len(boxes) > 5
    for (one, box), (two, other) in itertools.combinations(boxes.items(), 2):
        assert not box.overlaps(other), (one, two)
    for line in itertools.chain(*(axes.lines for axes in figure.axes)):
        path = line.get_path().transformed(line.get_transform())
        for text, box in boxes.items():
            assert not path.intersects_bbox(box, filled=False), (line, text)


def test_each_row_of_a_map_has_room_for_its_letter_and_each_map_for_its_title():
    maps = dict.fromkeys(("one", "two", "three", "four"), CAUSAL)
    draw("looks", "self.width, self.wid", maps)
    figure = plt.gcf()
    for axes in figure.axes[::2]:
        height = axes.get_window_extent().height / len(CAUSAL)
        [letter, *_] = axes.get_yticklabels()
        assert height * 72 / figure.dpi >= 1.1 * letter.get_size()
    above, below = figure.axes[0], figure.axes[2]
    title = below.title.get_window_extent()
    assert title.y1 + title.height / 4 < above.get_window_extent().y0


def test_a_loss_curve_shows_its_beginning_and_names_its_lines():
    svg = draw("loss_curve", LOG, {})
    assert LOG[0]["step"] == 0
    assert {"0", "batch", "validation"} <= {*re.findall(">([^<]+)</text", svg)}
    [axes] = plt.gcf().axes
    assert axes.get_xscale() == "log"
    lowest, highest = axes.get_ylim()
    assert lowest < min(m.get("loss", 9) for m in LOG)
    first = [y for line in axes.lines for x, y in [line.get_xydata()[0]] if x < 1]
    assert first == [LOG[0]["val_loss"]] and first[0] < highest
    draw("loss_curve", [{"step": 1, "loss": 4.6}], {})


def test_orange_is_a_key_in_the_chapter_about_keys_and_nothing_else():
    for name, args in (
        ("cache_rows", ([(0, 3), (3, 1)], 3)),
        ("pace", ([1.0, 2.0], [1.0, 1.0])),
        ("peers", (BENCH,)),
    ):
        assert figures.ORANGE not in draw(name, *args), name


def test_peers_are_named_in_plain_words():
    svg = draw("peers", BENCH)
    assert not {"peak", "chain", "one", "decode"} & {*re.findall(">([^<]+)</text", svg)}
    mine = [{"title": "a work", "characters_per_second": {"ours": [2], "x": [1]}}]
    svg = draw("peers", mine)
    assert ">x</text>" in svg and ">2.00</text>" in svg


def test_two_images_of_a_page_share_no_id():
    text = '<svg viewBox="0 0 9 9"><defs><g id="a"/></defs><use href="#a"/>%s</svg>'
    one, two = (drawings.svg_for_page(text % x, "") for x in ("", "<path/>"))
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in (one, two)]
    assert len({*ids[0], *ids[1]}) == 2
    assert f'href="#{ids[0][0]}"' in one


@pytest.mark.parametrize("path", DRAWN, ids=lambda path: path.stem)
def test_a_drawing_leads_to_what_it_shows_and_says_it_in_words(path):
    text = path.read_text("utf-8")
    home = hypertext.Book().home
    for page, name in re.findall(r'href="(\w+)\.md#def-(\w+)"', text):
        assert home[name][0].stem == page
    assert re.search(r"<title>.+</title>\s*<desc>.+</desc>", text, re.S)
    assert float(drawings.BOX.search(text)[1]) <= 400
    assert min(map(float, re.findall(r'font-size="([\d.]+)"', text))) >= 10


@pytest.mark.parametrize(
    "argument, said",
    [("nose", "the model has no part 'nose'"), ("", "1 argument(s) required")],
)
def test_a_wrong_part_of_the_model_is_a_warning_with_file_and_line(
    argument, said, tmp_path
):
    application = pytest.importorskip("sphinx.application")
    (tmp_path / "index.md").write_text(f"# A\n\n```{{model}} {argument}\n```\n")
    (tmp_path / "conf.py").write_text("extensions = ['myst_parser', 'drawings']\n")
    out, warnings = tmp_path / "out", io.StringIO()
    application.Sphinx(
        tmp_path, tmp_path, out, out, "html", status=None, warning=warnings
    ).build()
    assert "index.md:3: " in warnings.getvalue() and said in warnings.getvalue()


@SLOW
@IN_A_BROWSER
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_labels_can_be_read_in_both_themes_and_on_a_phone(chromium, page):
    tab = chromium.new_page(viewport={"width": 390, "height": 900})
    try:
        tab.goto(address(page))
        for theme in ("light", "dark"):
            tab.evaluate(f"document.documentElement.dataset.theme = {theme!r}")
            paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            for text, fill, size in tab.evaluate(TEXTS):
                assert size >= 9, (text, size)
                assert fill is None or contrast(fill, paper) >= 4.5, (text, fill)
        assert tab.locator("main img[src$='.png'], main img[src$='.svg']").count() == 0
    finally:
        tab.close()
