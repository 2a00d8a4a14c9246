"""The live figure of attention, in Chromium: who asks, who answers, and silent heads."""

import base64
import gzip
import shutil
from pathlib import Path

import pytest
import torch

import tangle
from live_page import AT_SIZES, STATUS, in_browser, live, troubles, write_page

looks = pytest.importorskip("looks")

TEXTS = ["self.width, self.wid", "self.north, self.wid", "a = f(x)\nb = f(y)"]
SEEN = """() => ({
    text: [...document.querySelectorAll(".cells code")].map((e) => e.textContent).join(""),
    shares: [...document.querySelectorAll(".cells > span")].map(
        (cell) => Number(cell.style.getPropertyValue("--share"))),
    labels: [...document.querySelectorAll(".cells small")].map((e) => e.textContent),
    asks: [...document.querySelectorAll(".cells > span")].findIndex(
        (cell) => cell.classList.contains("asks")),
    arcs: document.querySelectorAll(".looking path").length,
    widest: Math.max(...[...document.querySelectorAll(".looking path")].map(
        (path) => parseFloat(path.style.strokeWidth))),
    head: [...document.querySelectorAll(".wall button")].findIndex(
        (button) => button.getAttribute("aria-checked") === "true"),
    spoken: document.querySelector(".looking").getAttribute("aria-valuetext"),
})"""


def test_bytes_of_the_build_are_the_program_s_weights_to_half_a_step():
    text = TEXTS[0]
    ids = torch.tensor(looks.shipped().tokenizer.encode(text).tolist())
    expected = looks.weights_of(looks.shipped().model, ids)
    found = torch.tensor([*base64.b64decode(looks.packed(text))]) / 255
    seen = torch.ones_like(expected, dtype=torch.bool).tril()
    assert (expected[seen] - found).abs().max() < 0.501 / 255
    assert torch.allclose(expected.sum(-1), torch.ones(()))


def test_what_the_texts_of_a_page_weigh():
    kinds = {}
    for page in tangle.pages():
        for line in page.read_text("utf-8").split("```{live} attention\n")[1:]:
            lines = line.partition("\n```")[0].split("\n")
            texts = [text for text in lines if not text.startswith(":")]
            data = live.begun("attention", {}, texts)
            marker = live.marker("attention", data).encode()
            kinds[page.name] = len(gzip.compress(marker))
    assert [*kinds] == ["05_attention.md", "06_heads.md", "A6_playground.md"]
    assert max(kinds.values()) < 20_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory, weights_js) -> Path:
    """A folder with a page, what it loads, and the weights."""
    folder = tmp_path_factory.mktemp("attention")
    data = {"texts": TEXTS, "asks": 19, "answers": 8}
    write_page(folder, "page.html", "attention", **data)
    write_page(folder, "full.html", "attention", full="full", **data)
    shutil.copy(weights_js, folder)
    return folder


def begin(chromium, folder: Path, name: str = "page.html", **how):
    """A page whose live figure is there; `tab.asked` are the files it has loaded."""
    tab = chromium.new_page(**how)
    tab.asked = []
    tab.on("request", lambda request: tab.asked.append(request.url.rpartition("/")[2]))
    tab.goto((folder / name).as_uri())
    tab.click("figure button")
    tab.wait_for_function(f"{STATUS} !== ''")
    return tab


@pytest.fixture(scope="module")
def tab(chromium, folder):
    """The page with silence, for all tests that need the model."""
    tab = begin(chromium, folder, "full.html")
    yield tab
    tab.close()


def exact(text: str) -> torch.Tensor:
    saved = looks.shipped()
    ids = torch.tensor(saved.tokenizer.encode(text).tolist())
    return looks.weights_of(saved.model, ids)


def check(seen: dict, weights: torch.Tensor, far: float = 0.003) -> None:
    """Are the shares of the row that asks those of the program?"""
    row = weights[seen["head"], seen["asks"]]
    assert (torch.tensor(seen["shares"]) - row).abs().max() < far


@in_browser
def test_texts_of_the_page_need_no_model_and_a_control_makes_the_share_fall(
    chromium, folder
):
    tab = begin(chromium, folder)
    seen = tab.evaluate(SEEN)
    assert seen["head"] == exact(TEXTS[0])[:, -1, 8].argmax() and seen["asks"] == 19
    check(seen, exact(TEXTS[0]))
    assert seen["labels"][8] == "81 %" and abs(seen["widest"] - 8.1) < 0.1
    assert "81 % to “t” at position 8" in seen["spoken"]
    tab.click(".texts button:nth-child(2)")
    tab.wait_for_function(f"{STATUS}.includes('“s” at position 0')")
    seen = tab.evaluate(SEEN)
    check(seen, exact(TEXTS[1]))
    assert seen["asks"] == 19 and seen["head"] == 7 and seen["shares"][8] < 0.01
    assert not any("weights" in name for name in tab.asked)
    tab.close()


@in_browser
def test_the_pointer_a_finger_and_the_keys_ask(chromium, folder):
    tab = begin(chromium, folder, has_touch=True)
    weights = exact(TEXTS[0])
    cell = ".cells > span:nth-child({})".format
    tab.hover(cell(6))
    assert tab.evaluate(SEEN)["asks"] == 5
    check(tab.evaluate(SEEN), weights)
    tab.hover("h1")  # it was not clicked
    assert tab.evaluate(SEEN)["asks"] == 19
    tab.click(cell(9))
    tab.hover("h1")
    assert tab.evaluate(SEEN)["asks"] == 8
    tab.tap(cell(12))
    assert tab.evaluate(SEEN)["asks"] == 11
    tab.focus(".looking")
    for key, place in (("Home", 0), ("ArrowLeft", 0), ("ArrowRight", 1), ("End", 19)):
        tab.keyboard.press(key)
        assert tab.evaluate(SEEN)["asks"] == place
    tab.keyboard.press("Tab")
    for key, head in (("Home", 0), ("ArrowUp", 0), ("ArrowDown", 5), ("ArrowRight", 6)):
        tab.keyboard.press(key)
        seen = tab.evaluate(SEEN)
        assert seen["head"] == head
        check(seen, weights)
    tab.click(".wall button:nth-child(20)")
    check(tab.evaluate(SEEN), weights)
    tab.wait_for_function(f"{STATUS}.includes('block 3, head 4')")
    tab.close()


@in_browser
def test_a_silent_head_costs_what_it_costs_in_the_program(tab, coarse):
    """And the induction head of block 1 lives on the one of block 0 that looks back."""
    tab.click(".texts button:nth-child(1)")
    tab.click(".wall button:nth-child(3)")
    tab.click(".silence")
    tab.wait_for_function("document.querySelector('.cost').textContent", timeout=60_000)
    ids = torch.tensor([coarse.tokenizer.encode(TEXTS[0]).tolist()])
    H = coarse.model.config.n_heads
    weight = coarse.model.blocks[0].attention.proj.weight
    kept = weight.detach().clone()

    def cost() -> float:
        logits = coarse.model(ids[:, :-1])[0]
        return torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item()

    with torch.inference_mode():
        whole = cost()
        weight.unflatten(1, (H, -1))[:, 2] = 0
        without, weights = cost(), looks.weights_of(coarse.model, ids[0])
        weight.copy_(kept)
    told = tab.inner_text(".cost")
    assert f"costs {without:.2f} nats a character without block 0, head 2" in told
    assert f"{whole:.2f} with all" in told and without > whole + 0.3
    tab.click(".wall button:nth-child(8)")
    seen = tab.evaluate(SEEN)
    check(seen, weights, 1e-3)
    assert seen["shares"][8] < 0.3
    tab.click(".wall button:nth-child(3)")
    tab.click(".silence")
    tab.wait_for_function("!document.querySelector('.cost').textContent")
    tab.click(".wall button:nth-child(8)")
    check(tab.evaluate(SEEN), exact(TEXTS[0]))


@in_browser
def test_a_text_of_one_s_own_is_read_by_the_model(tab, coarse):
    tab.click(".own")
    tab.wait_for_selector(".attention textarea", timeout=60_000)
    own = "for key in keys: k"
    tab.fill(".attention textarea", own)
    tab.wait_for_function("document.querySelectorAll('.cells > span').length === 18")
    ids = torch.tensor(coarse.tokenizer.encode(own).tolist())
    weights = looks.weights_of(coarse.model, ids)
    for head in (1, 8, 20):
        tab.click(f".wall button:nth-child({head})")
        seen = tab.evaluate(SEEN)
        assert seen["asks"] == 17
        check(seen, weights, 1e-3)
    tab.fill(".attention textarea", "caf\N{LATIN SMALL LETTER E WITH ACUTE}()")
    tab.wait_for_function(f"{STATUS}.includes('(U+00E9)')")
    assert tab.locator(".cells .unknown").count() == 1
    tab.fill(".attention textarea", "")  # nothing to look at: the last text stays
    assert len(tab.evaluate(SEEN)["text"]) == 6
    assert tab.get_attribute(".attention textarea", "maxlength") == "48"


@in_browser
def test_weights_that_do_not_come_are_told_and_the_page_s_texts_go_on(
    chromium, folder, tmp_path
):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "weights.js").unlink()
    tab = begin(chromium, tmp_path / "copy")
    tab.click(".own")
    tab.wait_for_function(f"{STATUS}.includes('weights.js must lie in')")
    assert tab.is_enabled(".own")
    tab.click(".texts button:nth-child(3)")
    assert tab.evaluate(SEEN)["text"] == "a␣=␣f(x)↵b␣=␣f(y)"
    assert tab.is_hidden("figure > svg")
    tab.click(".back button")
    assert tab.is_visible("figure > svg") and tab.is_hidden(".attention")
    tab.close()


@in_browser
@AT_SIZES
def test_it_fits_and_can_be_read_by_all(chromium, folder, scheme, width):
    tab = begin(chromium, folder, "full.html")
    assert troubles(tab, scheme, width) == []
    tab.close()
