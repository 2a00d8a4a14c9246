"""The playground: a reader's own run takes the place of the book's model, in Chromium."""

import json
import shutil
import struct

import pytest
import torch

import minigpt
from live_page import AT_SIZES, change, in_browser, troubles, write_page

looks = pytest.importorskip("looks")

TEXT = "def f3_1(x):\n    return x"
OWN = "document.querySelector('.own [role=status]').textContent"
READER = "document.querySelectorAll('[role=status]')[1].textContent"
SEEN = """() => ({
    text: document.querySelector(".reader textarea").value,
    nats: [...document.querySelectorAll(".marks span")].map(
        (cell) => Number(cell.style.getPropertyValue("--nats"))),
    shares: [...document.querySelectorAll(".cells > span")].map(
        (cell) => Number(cell.style.getPropertyValue("--share"))),
    cells: [...document.querySelectorAll(".cells code")].map((e) => e.textContent).join(""),
    heads: document.querySelectorAll(".wall button").length,
    head: [...document.querySelectorAll(".wall button")].findIndex(
        (button) => button.getAttribute("aria-checked") === "true"),
    asks: [...document.querySelectorAll(".cells > span")].findIndex(
        (cell) => cell.classList.contains("asks")),
    guesses: document.querySelectorAll(".next li:not([hidden])").length,
    dots: document.querySelectorAll("svg.curve .dot").length,
    waypoints: [...document.querySelectorAll("svg.curve .label")].map((e) => e.textContent),
})"""


@pytest.fixture(scope="module")
def page(tmp_path_factory, weights_js):
    """A page with all that the playground has."""
    folder = tmp_path_factory.mktemp("own")
    texts = ["self.width, self.wid", "for i in x"]
    more = {
        "read": {"kind": "reader", "text": TEXT, "full": "full"},
        "heads": {
            "kind": "attention",
            "texts": texts,
            "follows": "follows",
            "full": "full",
        },
    }
    shutil.copy(weights_js, folder)
    page = write_page(folder, "page.html", "own", more, text="medium")
    change(folder / "live_reader.js", PAUSE=50)
    return page


@pytest.fixture(scope="module")
def tab(chromium, page):
    tab = chromium.new_page()
    tab.asked = []
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.goto(page.as_uri())
    yield tab
    tab.close()


def give(tab, *files) -> str:
    """Choose files; return what is said of them."""
    tab.evaluate("document.querySelector('.own [role=status]').textContent = ''")
    tab.set_input_files(".own input", files)
    tab.wait_for_function(f"{OWN} && !{OWN}.startsWith('Reading')", timeout=60_000)
    return tab.evaluate(OWN)


def settled(tab) -> dict:
    """What is seen once the reader has read its text, and the heads have followed."""
    tab.evaluate("document.querySelectorAll('[role=status]')[1].textContent = ''")
    tab.evaluate("document.querySelector('textarea').dispatchEvent(new Event('input'))")
    tab.wait_for_function(f"{READER}.includes('Next:')", timeout=60_000)
    last = tab.input_value(".reader textarea")[-1].replace(" ", "␣")
    tab.wait_for_function(
        f"document.querySelector('.cells > span:last-child code').textContent === {last!r}"
    )
    return tab.evaluate(SEEN)


@pytest.fixture(scope="module")
def own(tab, home):
    """The run of the tests, whose checkpoint the page has been given."""
    run = home / "run"
    said = give(tab, run / "best.safetensors", run / "metrics.jsonl")
    assert "your model now" in said and "1 blocks of 2 heads" in said
    assert "a context of 16" in said and "Your run, 20 steps" in said
    saved = minigpt.load_checkpoint(run / "best.safetensors")
    saved.model.eval()
    return saved


@in_browser
def test_a_model_of_one_s_own_is_what_all_figures_show(tab, own):
    """And neither it nor the book's model goes anywhere, or comes from anywhere."""
    seen = settled(tab)
    assert seen["text"] == TEXT and seen["heads"] == 2
    ids = torch.tensor(own.ids(TEXT))
    nats = []
    with torch.inference_mode():
        for n in range(1, len(ids)):
            begin = minigpt.window_start(n, 16)
            logits = own.model(ids[None, begin:n])[0, -1]
            nats.append(torch.nn.functional.cross_entropy(logits, ids[n]))
    found = torch.tensor(seen["nats"])
    assert (found - torch.stack(nats).clamp(max=5)).abs().max() < 1e-3
    assert seen["cells"] == TEXT[-16:].replace(" ", "␣").replace("\n", "↵")
    last = torch.tensor(own.tokenizer.encode(TEXT[-16:]).tolist())
    row = looks.weights_of(own.model, last)[seen["head"], seen["asks"]]
    assert (torch.tensor(seen["shares"]) - row).abs().max() < 1e-3
    V = own.tokenizer.vocab_size
    assert tab.get_attribute("[name=top_k]", "max") == str(V - 2)
    assert all(url.startswith("file:") or "blob:" in url for url in tab.asked)
    assert not any("weights.js" in url for url in tab.asked)


@in_browser
def test_its_curve_stands_beside_the_book_s_with_the_waypoints(tab, own, home):
    lines = (home / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
    losses = [json.loads(line) for line in lines]
    seen = tab.evaluate(SEEN)
    assert seen["dots"] == sum("val_loss" in record for record in losses)
    assert seen["waypoints"] == ["knows nothing", "knows frequencies", "knows pairs"]
    for name in ("beside", "batches"):
        assert tab.locator(f"svg.curve .{name}").count() == 1
    best = [r["val_loss"] for r in losses if "val_loss" in r][-1]
    assert f"{best:.3f} nats" in tab.inner_text("#fig .hint")


def bad_files(home, folder) -> dict[str, str]:
    """Files that cannot be read, and what must be said of each."""
    good = (home / "run" / "best.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", good[:8])
    header, data = json.loads(good[8 : 8 + size]), good[8 + size :]

    def write(name: str, header: dict, data: bytes = data) -> None:
        text = json.dumps(header).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + data)

    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(999))
    (folder / "flipped.safetensors").write_bytes(good[:-5] + b"\0\x01\0\0\x07")
    (folder / "cut.safetensors").write_bytes(good[: len(good) // 2])
    (folder / "empty.safetensors").write_bytes(b"")
    meta = json.loads(header["__metadata__"]["minigpt"])
    other = json.dumps(meta | {"tokenizer": "gpt2"})
    write("words.safetensors", header | {"__metadata__": {"minigpt": other}})
    name = "model.head.weight"
    large = header[name] | {"shape": [60_000, 1000]}
    write("large.safetensors", header | {name: large})
    (folder / "run.jsonl").write_text('{"step": 1, "loss": 2}\n{"step": "x"}\n')
    (folder / "samples.jsonl").write_text('{"step": 1, "texts": []}\n')
    return {
        "picture.png": "no MiniGPT checkpoint",
        "flipped.safetensors": "damaged",
        "cut.safetensors": "damaged",
        "empty.safetensors": "no MiniGPT checkpoint",
        "words.safetensors": "tokenizer of the kind gpt2",
        "large.safetensors": "over 40,000,000",
        "run.jsonl": "line 2 is no record of a step",
        "samples.jsonl": "no loss of a step",
    }


@in_browser
def test_a_file_of_no_use_is_told_in_a_sentence_and_changes_nothing(
    tab, own, home, tmp_path
):
    before = settled(tab)
    for name, reason in bad_files(home, tmp_path).items():
        said = give(tab, tmp_path / name)
        assert said.startswith(f"{name}: ") and reason in said, (name, said)
        assert said.count("\n") == 0 and len(said) < 200
    after = settled(tab)
    assert (after["nats"], after["heads"]) == (before["nats"], 2)


@in_browser
def test_files_can_be_dropped_anywhere_and_the_book_s_model_comes_back(
    tab, own, coarse
):
    tab.evaluate(
        """() => {
        const files = new DataTransfer();
        files.items.add(new File(["no checkpoint"], "note.txt"));
        for (const name of ["dragover", "drop"]) {
            document.querySelector("h1").dispatchEvent(new DragEvent(
                name, { dataTransfer: files, bubbles: true, cancelable: true }));
        }
    }"""
    )
    tab.wait_for_function(f"{OWN}.startsWith('note.txt: this is no MiniGPT')")
    tab.click(".own .back button")
    tab.wait_for_function(f"{OWN}.includes('model again')", timeout=60_000)
    tab.fill(".reader textarea", "self.width, self.wid")
    seen = settled(tab)
    tab.wait_for_function("document.querySelectorAll('.cells > span').length === 20")
    assert tab.locator(".wall button").count() == 20
    ids = torch.tensor(coarse.ids("self.width, self.wid"))
    with torch.inference_mode():
        logits = coarse.model(ids[None, :-1])[0]
    nats = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
    assert (torch.tensor(seen["nats"]) - nats.clamp(max=5)).abs().max() < 1e-3
    tab.click(".wall button:nth-child(8)")
    assert tab.evaluate(SEEN)["shares"][8] > 0.8


@in_browser
@AT_SIZES
def test_it_fits_and_can_be_read_by_all(tab, own, scheme, width):
    assert troubles(tab, scheme, width) == []
