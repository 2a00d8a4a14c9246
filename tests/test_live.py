"""The live figures: what a reader types, the model in the page reads, in Chromium.

Nothing of the built book is needed: a small page has the figure, the marker that the
directive writes, and the scripts. Without Chromium the slow tests are skipped, unless
REQUIRE_BROWSER is set.
"""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tangle
from live_page import (
    AT_SIZES,
    LONG_TASKS,
    STATIC,
    STATUS,
    change,
    in_browser,
    live,
    troubles,
    write_page,
)

nodes = pytest.importorskip("docutils.nodes")

ROOT = Path(__file__).resolve().parents[1]
TEXT = "def area(width, height):\n    return wid"
SEEN = """() => ({
    text: document.querySelector("textarea").value,
    nats: [...document.querySelectorAll(".marks span")].map(
        (cell) => Number(cell.style.getPropertyValue("--nats"))),
    unknown: document.querySelectorAll(".marks .unknown").length,
    next: [...document.querySelectorAll(".guess")].map((button) => [
        button.querySelector("code").textContent,
        Number(button.querySelector(".bar").style.getPropertyValue("--learned")),
        Number(button.querySelector(".bar").style.getPropertyValue("--share")),
        button.querySelector(".share").textContent]),
    status: document.querySelector("[role=status]").textContent,
})"""


# --- without a browser -------------------------------------------------------


def test_no_rule_of_the_book_means_a_part_of_a_live_figure():
    """The book has a strip of its own, once with the name of that of attention."""
    source = "".join(path.read_text("utf-8") for path in STATIC.glob("live*.js"))
    parts = {
        name
        for names in re.findall(r'class="([\w -]+)["$]', source)
        for name in names.split()
    }
    css = re.sub(r"/\*.*?\*/", "", (STATIC / "book.css").read_text("utf-8"), flags=re.S)
    begun = re.findall(r"(?:^|[},{])\s*\.([\w-]+)", css)
    assert "looking" in parts and "program-strip" in begun
    assert not parts & {*begun}


def test_a_marker_keeps_the_text_as_it_is():
    data = live.begun(
        "reader", {"instead": "fig", "full": None}, ['" \\"a\\" < b\\n c"']
    )
    assert live.marker("reader", data) == (
        '<div hidden data-live="reader" data-instead="fig" data-full="full" '
        'data-text=" &quot;a&quot; &lt; b&#10; c"></div>\n'
    )
    assert live.begun("reader", {}, ["a", " b"]) == {"text": "a\n b"}
    assert live.begun("attention", {}, ["a", '"b "']) == {"texts": ["a", "b "]}


@pytest.mark.parametrize("builder, count", [("html", 1), ("epub", 0)])
def test_only_the_site_has_markers(builder, count):
    page = nodes.section("", nodes.paragraph("", "Before."))
    page += live.live(kind="reader", data={"instead": "fig", "text": "x"})
    app = SimpleNamespace(builder=SimpleNamespace(name=builder))
    live.place(app, page, "page")
    assert len(page) == 1 + count and not [*page.findall(live.live)]


def test_a_live_figure_begins_with_the_text_of_the_static_one():
    places = {}
    for page in tangle.pages():
        text = page.read_text("utf-8")
        for body in re.findall(r"^```{live} reader\n(.*?)^```", text, re.M | re.S):
            options, _, begun = body.partition("\n")
            name = options.removeprefix(":instead: ")
            begun = begun.removeprefix(":full:\n").strip("\n").strip('"')
            [cell] = [c for c in text.split("```{code-cell}") if f"name: {name}" in c]
            places[name] = begun in text.replace(body, "")
            assert f"name: {name}" in cell
    assert places == {"fig-cover": True, "fig-09-knobs": True, "fig-play-text": True}


def test_a_page_loads_what_its_figures_need_and_no_more():
    kinds = live.kinds_on('<div data-live="reader"></div><div data-live="reader">')
    assert kinds == ["reader"] and live.files([]) == []
    names = live.files(kinds)
    assert names[-3:] == ["minigpt.js", "live.js", "live_reader.js"]
    assert "minigpt.js" not in live.files(["film"])
    assert {*live.files([*live.KINDS])} == {
        path.name for path in [*STATIC.glob("live*"), STATIC / "minigpt.js"]
    }


def test_scripts_are_small():
    assert all(len(script.read_bytes()) < 16_000 for script in STATIC.glob("live*.js"))


# --- in a browser ------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory, weights_js) -> Path:
    """A folder with a page, what it loads, and the weights.

    Two others are quick: they write as fast as they can, and less.
    """
    folder = tmp_path_factory.mktemp("live")
    write_page(folder, "page.html", "reader", text=TEXT)
    write_page(folder, "full.html", "reader", text=TEXT, full="full")
    shutil.copy(weights_js, folder)
    shutil.copy(folder / "live_reader.js", folder / "quick.js")
    change(folder / "quick.js", PACE=0, AT_ONCE=60, PAUSE=50)
    for name in ("page", "full"):
        text = (folder / f"{name}.html").read_text("utf-8")
        (folder / f"quick_{name}.html").write_text(
            text.replace("live_reader.js", "quick.js"), "utf-8"
        )
    return folder


def begin(chromium, folder: Path, page: str = "page.html", **how):
    """A page whose live figure is there, and has read its text."""
    tab = chromium.new_page(**how)
    tab.goto((folder / page).as_uri())
    tab.click("figure button")
    tab.wait_for_function(f"{STATUS}.includes('Next:')", timeout=60_000)
    return tab


@pytest.fixture(scope="module")
def page(chromium, folder):
    """A quick page, for all tests that leave nothing to undo."""
    tab = begin(chromium, folder, "quick_page.html")
    yield tab
    tab.close()


@pytest.fixture
def tab(page):
    """That page, with the text that it began with."""
    enter(page, TEXT)
    assert page.is_disabled(".undo")
    return page


@pytest.fixture(scope="module")
def full(chromium, folder):
    """A quick page with all settings."""
    tab = begin(chromium, folder, "quick_full.html")
    yield tab
    tab.close()


def enter(tab, text: str) -> dict:
    """Put a text into the field, as if pasted; return what is seen then."""
    tab.fill("textarea", text)
    return settled(tab)


def settled(tab) -> dict:
    """What is seen once the model has read all, and said so."""
    tab.evaluate("document.querySelector('[role=status]').textContent = ''")
    tab.evaluate("document.querySelector('textarea').dispatchEvent(new Event('input'))")
    tab.wait_for_function(f"{STATUS} !== ''", timeout=60_000)
    return tab.evaluate(SEEN)


def ours(saved, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What each character costs the program, and the shares after the text."""
    ids = torch.tensor(saved.ids(text))
    with torch.inference_mode():
        logits = saved.model(ids[None])[0]
    nats = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none")
    return nats, logits[-1].softmax(-1)


def check(saved, seen: dict, text: str) -> None:
    """Are the bars and the six likeliest those of the program?"""
    nats, p = ours(saved, text)
    assert seen["text"] == text and len(seen["nats"]) == len(text)
    found = torch.tensor(seen["nats"])
    torch.testing.assert_close(found, nats.clamp(max=5), atol=1e-3, rtol=0)
    p[[0, 2]] = 0  # never written
    best = p.topk(6)
    signs = {" ": "␣", "\n": "↵", "": "end"}
    shown = [saved.tokenizer.decode([i]) for i in best.indices.tolist()]
    assert [row[0] for row in seen["next"]] == [signs.get(c, c) for c in shown]
    shares = torch.tensor([row[1] for row in seen["next"]])
    assert (shares - best.values).abs().max() < 1e-3


@in_browser
def test_bars_and_guesses_are_those_of_the_program_while_one_types(tab, coarse):
    check(coarse, tab.evaluate(SEEN), TEXT)
    tab.locator("textarea").press_sequentially("th * he")
    check(coarse, settled(tab), TEXT + "th * he")
    for _ in range(4):
        tab.keyboard.press("Backspace")
    check(coarse, settled(tab), TEXT + "th ")
    for text in ("x = 1\n", TEXT.replace("width", "w"), "def f():\n    retur"):
        check(coarse, enter(tab, text), text)


@in_browser
def test_an_empty_text_starts_from_eos(tab, coarse):
    check(coarse, enter(tab, ""), "")
    assert tab.inner_text(".after code") == "<eos>"


@in_browser
def test_past_the_context_the_window_jumps_as_it_does_in_the_program(tab, coarse):
    text = (ROOT / "minigpt.py").read_text("utf-8")[2000:2300]
    assert len(coarse.ids(text)) == 301
    seen = enter(tab, text)
    ids = torch.tensor(coarse.ids(text))
    with torch.inference_mode():
        late = coarse.model(ids[None, 128:])[0]
    nats = torch.nn.functional.cross_entropy(late[:-1], ids[129:], reduction="none")
    found = torch.tensor(seen["nats"])
    assert (found[:255] - ours(coarse, text[:255])[0].clamp(max=5)).abs().max() < 1e-3
    assert (found[256:] - nats.clamp(max=5)[128:]).abs().max() < 1e-3
    text = text[:50] + text[60:200]  # back, and a change in the middle
    check(coarse, enter(tab, text), text)


@in_browser
def test_control_and_arrow_take_the_guess_and_tab_leaves_the_field(tab):
    guess = tab.evaluate(SEEN)["next"][0][0]
    tab.focus("textarea")
    tab.keyboard.press("Control+ArrowRight")
    tab.keyboard.press("Control+ArrowRight")  # at once: it waits for the new guess
    tab.wait_for_function(
        "document.querySelector('textarea').value.length == " + str(len(TEXT) + 2)
    )
    assert tab.input_value("textarea") == TEXT + guess + "h" == TEXT + "th"
    tab.click(".undo")
    tab.click(".undo")
    assert tab.input_value("textarea") == TEXT and tab.is_disabled(".undo")
    tab.focus("textarea")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "guess"
    tab.focus("textarea")
    tab.keyboard.press("Shift+Tab")
    assert tab.evaluate("document.activeElement.tagName") != "TEXTAREA"
    assert tab.input_value("textarea") == TEXT


@in_browser
def test_another_way_from_any_character_cuts_off_what_followed(tab, coarse):
    tab.evaluate("document.querySelector('textarea').setSelectionRange(4, 4)")
    seen = settled(tab)
    best = ours(coarse, "def ")[1]
    best[[0, 2]] = 0
    second = coarse.tokenizer.decode([best.topk(2).indices[1].item()])
    assert seen["next"][1][0] == second and seen["text"] == TEXT
    tab.click("li:nth-child(2) button")
    assert tab.input_value("textarea") == "def " + second
    tab.click(".undo")
    assert tab.input_value("textarea") == TEXT


@in_browser
def test_a_character_that_the_model_does_not_know_is_marked_and_named(tab):
    seen = enter(tab, "caf\N{LATIN SMALL LETTER E WITH ACUTE} = \N{SNAKE}\t")
    assert seen["unknown"] == 3 and len(seen["nats"]) == 9
    for name in ("“é” (U+00E9)", "“\N{SNAKE}” (U+1F40D)", "a tab (U+0009)"):
        assert name in seen["status"]


def written(tab) -> str:
    """Let it write until it stops by itself; return what it wrote."""
    tab.click(".write")
    tab.wait_for_function(
        f"/^It (wrote|ended)/.test({STATUS})", timeout=200_000, polling=200
    )
    return tab.input_value("textarea")


@in_browser
def test_a_seed_writes_the_same_text_twice_and_it_is_that_of_minigpt_js(tab):
    one = written(tab)
    tab.click(".undo")
    assert tab.input_value("textarea") == TEXT
    assert written(tab) == one and 60 >= len(one) - len(TEXT) > 0
    tab.click(".undo")
    expected = tab.evaluate(
        """async ([text, settings]) => {
        const ask = minigpt.start_worker();
        await ask("load", await minigpt.fetch_weights("weights.js"));
        await ask("begin", text, settings);
        for (let c; (c = await ask("next")); ) text += c;
        return text;
    }""",
        [
            TEXT,
            {"seed": 7, "temperature": 0.8, "max_new_tokens": 60, "min_new_tokens": 60},
        ],
    )
    assert expected == one


@in_browser
def test_knobs_reshape_the_bars_and_leave_nothing_out_of_range(full):
    tab = full
    set_to = """([name, value]) => {
        const field = document.querySelector(`[name=${name}]`);
        field.value = value;
        field.dispatchEvent(new Event("input", { bubbles: true }));
        return field.value;
    }"""
    assert len(tab.evaluate(SEEN)["next"]) == 14
    assert tab.evaluate(set_to, ["top_k", 3]) == "3"
    seen = settled(tab)
    assert [row[3] == "out" for row in seen["next"]] == 3 * [False] + 11 * [True]
    assert abs(sum(row[2] for row in seen["next"]) - 1) < 1e-6
    assert tab.locator(".guess.out").count() == 11
    assert tab.evaluate(set_to, ["temperature", -1]) == "0"
    seen = settled(tab)
    assert [row[2] for row in seen["next"]] == [1] + 13 * [0]
    assert tab.evaluate(set_to, ["temperature", 9]) == "3"
    assert tab.evaluate(set_to, ["top_p", 0]) == "0.05"
    assert tab.evaluate(set_to, ["top_k", 1000]) == "97"
    for value, left in (("7", "7"), ("-1", "7"), ("1.5", "7"), ("4294967296", "7")):
        assert tab.evaluate(set_to, ["seed", value]) == left


@in_browser
def test_no_task_of_the_page_is_long_while_it_writes_and_it_can_be_stopped(tab):
    tab.evaluate(LONG_TASKS)
    for _ in range(3):  # a machine with other work may hold the page up
        tab.evaluate("window.long.length = 0")
        began = tab.evaluate("performance.now()")
        count = len(written(tab)) - len(tab.input_value("textarea")) + 60
        speed = 1000 * count / (tab.evaluate("performance.now()") - began)
        long = tab.evaluate("window.long")
        tab.click(".undo")
        if long == []:
            break
    print(f"\n{speed:.0f} characters a second, tasks over 50 ms: {long}")
    assert long == []
    tab.click(".write")
    tab.wait_for_function(
        f"document.querySelector('textarea').value.length > {len(TEXT)}"
    )
    tab.click(".write")
    tab.wait_for_function(f"{STATUS}.startsWith('It wrote')")
    assert tab.inner_text(".write") == "Let it write"
    tab.click(".undo")


@in_browser
def test_before_it_is_touched_nothing_is_loaded_and_absent_weights_are_told(
    chromium, folder, tmp_path
):
    shutil.copytree(folder, tmp_path / "copy")
    absent = tmp_path / "copy" / "weights.js"
    kept = absent.rename(tmp_path / "weights.js")
    tab, asked = chromium.new_page(), []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto((tmp_path / "copy" / "page.html").as_uri())
    assert "4.8 MB" in tab.inner_text("figure")
    assert not any("weights" in url for url in asked)
    tab.click("figure button")
    tab.wait_for_function(f"{STATUS}.includes('weights.js must lie in')")
    assert tab.is_visible("svg") and tab.is_enabled("figure button")
    kept.rename(absent)
    tab.click("figure button")
    tab.wait_for_function(f"{STATUS}.includes('Next:')", timeout=60_000)
    assert tab.is_hidden("svg")
    tab.emulate_media(media="print")
    assert tab.is_visible("svg") and tab.is_hidden("textarea")
    tab.close()


@in_browser
def test_without_javascript_the_static_figure_stays(chromium, folder):
    tab = chromium.new_context(java_script_enabled=False).new_page()
    tab.goto((folder / "page.html").as_uri())
    assert tab.is_visible("svg") and tab.locator("button").count() == 0
    tab.close()


@in_browser
@AT_SIZES
def test_it_fits_and_can_be_read_by_all(full, scheme, width):
    wrong = troubles(full, scheme, width)
    heights = full.evaluate(
        "['.marks', 'textarea'].map((e) => document.querySelector(e).scrollHeight)"
    )
    assert wrong == [] and heights[0] == heights[1]
