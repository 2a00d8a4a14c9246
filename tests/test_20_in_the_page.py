"""Chapter 20: the model in the browser, beside the program, in headless Chromium.

Nothing of the built book is needed: the pages here load the script that the chapter
becomes. Without Chromium the slow tests are skipped, unless REQUIRE_BROWSER is set.
"""

import json
import re
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save

import minigpt
import tangle
import weights
from helpers import CHROMIUM, REQUIRED, untrained
from minigpt import (
    EOS,
    SHIPPED,
    Dataset,
    GenerateConfig,
    MiniGPT,
    cached,
    choose,
    cross_entropy,
    digest,
    generate,
    load_checkpoint,
    read_corpus,
    uncached,
    window_start,
)

ROOT = Path(__file__).resolve().parents[1]
CHAPTER = ROOT / "book" / "20_in_the_page.md"
SCRIPT = ROOT / "book" / "_static" / "minigpt.js"


def in_browser(test):
    """A slow test that needs Chromium."""
    skip = pytest.mark.skipif(not REQUIRED and not CHROMIUM, reason="needs Chromium")
    return pytest.mark.slow(skip(test))


# --- without a browser -------------------------------------------------------


def test_the_script_is_short_and_what_the_chapter_says():
    program = tangle.tangle(tangle.pages(), "book/_static/minigpt.js")
    text = SCRIPT.read_text("utf-8")
    assert text == tangle.seal(program.text, program.file)
    assert len(text.splitlines()) <= 350


def test_what_has_a_name_of_the_program_has_it_at_the_same_place_in_the_order():
    declared = re.findall(r"^(?:function\*?|const) (\w+)", SCRIPT.read_text(), re.M)
    definitions = tangle.definitions(tangle.tangle(tangle.pages()).cells)
    places = [[*definitions].index(name) for name in declared if name in definitions]
    assert places == sorted(places) and len(places) > 15


def test_a_rounded_row_is_off_by_half_a_step_at_most():
    weight = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    weight *= torch.logspace(-6, 6, 50)[:, None]
    weight[7] = 0
    small, scale = weights.rounded(weight)
    assert small.dtype == torch.int8 and (small[7] == 0).all()
    assert small.abs().amax(1).tolist() == 7 * [127] + [0] + 42 * [127]
    assert ((small * scale - weight).abs() <= scale * 0.5001).all()


@pytest.fixture(scope="session")
def small_file() -> bytes:
    """The shipped model as the book's build rounds it."""
    return weights.in_bytes(SHIPPED)


def test_the_rounded_file_is_one_of_ours_with_a_digest_of_its_own(small_file, tmp_path):
    path = tmp_path / "small.safetensors"
    path.write_bytes(small_file)
    with safe_open(path, "pt") as file:
        meta = json.loads(file.metadata()["minigpt"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    sha256 = meta.pop("sha256")
    assert sha256 == digest(meta, tensors)
    original = load_checkpoint(SHIPPED)
    assert meta["characters"] == original.tokenizer.characters
    for name, p in original.model.named_parameters():
        if p.dim() == 1:
            assert torch.equal(tensors[f"model.{name}"].float(), p)
        else:
            small, scale = tensors[f"model.{name}"], tensors[f"scale.{name}"]
            assert (small * scale[:, None] - p).abs().max() <= scale.max()


def test_the_script_of_the_weights_is_the_same_each_time_and_small_as_promised():
    text = weights.script(SHIPPED)
    assert text == weights.script(SHIPPED) and text.count("\n") == 1
    assert len(text) < 6.5e6


# --- in a browser ------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with an empty page, the script beside it, and the weights."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(SCRIPT, folder)
    (folder / "page.html").write_text(
        '<!doctype html><meta charset="utf-8"><input type="file"><pre></pre>'
        '<script src="minigpt.js"></script>'
    )
    weights.main(folder / "weights.js")
    return folder


@pytest.fixture(scope="module")
def tab(chromium, folder):
    """A page that lies in a folder, with the script."""
    tab = chromium.new_page()
    tab.goto((folder / "page.html").as_uri())
    yield tab
    tab.close()


LOAD = """async (name) => {
    const [file] = document.querySelector("input").files;
    try {
        window[name] = await minigpt.load_checkpoint(await file.arrayBuffer());
    } catch (error) {
        return error.message;
    }
}"""


def give(tab, data: bytes | Path, name: str = "saved") -> str | None:
    """Load a checkpoint in the page, under a name; return what is said of it."""
    if isinstance(data, bytes):
        path = Path(tab.url.removeprefix("file://")).with_name("given")
        path.write_bytes(data)
        data = path
    tab.set_input_files("input", data)
    return tab.evaluate(LOAD, name)


@pytest.fixture(scope="module")
def shipped(tab) -> minigpt.Checkpoint:
    """The shipped model here; in the page it is `shipped`."""
    assert give(tab, SHIPPED, "shipped") is None
    saved = load_checkpoint(SHIPPED)
    saved.model.eval()
    return saved


@pytest.fixture(scope="module")
def val():
    return read_corpus().val


LOGITS = """(name, prompts) => prompts.map((ids) =>
    [...minigpt.cached(window[name].model)(ids)])"""


def logits(tab, name: str, prompts: list[list[int]]) -> torch.Tensor:
    """The page's next logits for each of some prompts."""
    found = tab.evaluate(
        f"([name, prompts]) => ({LOGITS})(name, prompts)", [name, prompts]
    )
    return torch.tensor(found)


def ours(model: MiniGPT, prompts: list[list[int]]) -> torch.Tensor:
    """The program's next logits for each of some prompts."""
    return torch.cat([uncached(model)(torch.tensor([ids])) for ids in prompts])


def prompts_of(val, count: int, longest: int) -> list[list[int]]:
    """So many prompts of 1 to `longest` ids, from all over a text."""
    starts = range(0, len(val) - longest, len(val) // count)
    return [
        val[start : start + 1 + i % longest].tolist()
        for i, start in enumerate(starts[:count])
    ]


@in_browser
def test_logits_are_those_of_the_program_on_100_prompts(tab, shipped, val):
    prompts = prompts_of(val, 100, 20)
    far = (logits(tab, "shipped", prompts) - ours(shipped.model, prompts)).abs().max()
    print(f"\nlogits differ by {far:.1e} at most")
    assert len(prompts) == 100 and far < 1e-3


@in_browser
def test_who_watches_sees_the_program_s_attention_and_can_silence_it(tab, shipped):
    looks = pytest.importorskip("looks", reason="needs what builds the book")
    text = "self.width, self.wid"
    ids, H = shipped.tokenizer.encode(text), shipped.model.config.n_heads
    script = """([ids, silenced]) => {
        const cache = minigpt.KVCache(shipped.model.config), seen = [];
        const logits = ids.map((id) => shipped.model.forward(id, cache, (i, h, weights) => {
            (seen[5 * i + h] ??= []).push([...weights]);
            return 5 * i + h === silenced ? weights.fill(0) : weights;
        }));
        return [seen, [...logits.at(-1)]];
    }"""
    seen, _ = tab.evaluate(script, [ids.tolist(), -1])
    expected = looks.weights_of(shipped.model, torch.tensor(ids.tolist()))
    for head, rows in zip(expected, seen, strict=True):
        for row, found in zip(head, rows, strict=True):
            assert (row[: len(found)] - torch.tensor(found)).abs().max() < 1e-3
            assert row[len(found) :].sum() == 0
    assert len(seen) == 20 and expected[7, -1, 8] > 0.8
    _, found = tab.evaluate(script, [ids.tolist(), 7])
    silenced = load_checkpoint(SHIPPED).model.eval()
    with torch.inference_mode():
        weight = silenced.blocks[7 // H].attention.proj.weight
        weight.unflatten(1, (H, -1))[:, 7 % H] = 0
        far = silenced(torch.tensor([ids.tolist()]))[0, -1] - torch.tensor(found)
    assert far.abs().max() < 1e-3


@in_browser
def test_greedy_text_is_that_of_the_program_past_the_context(tab, shipped):
    ids = shipped.ids("def ")
    config = GenerateConfig(max_new_tokens=500, min_new_tokens=500, temperature=0)
    steps = generate(cached(shipped.model), torch.tensor([ids]), config)
    expected = [step.item() for step in steps]
    found = tab.evaluate(
        """(settings) => [...minigpt.steps(shipped, "def ", settings)]""",
        {"max_new_tokens": 500, "min_new_tokens": 500, "temperature": 0},
    )
    assert found == expected and len(found) == 500


@in_browser
def test_with_and_without_the_cache_the_text_is_the_same(tab, text, tmp_path):
    """And that of the program, with a small model whose window jumps 30 times."""
    state = untrained(text, context_length=32, d_model=32, n_layers=2, n_heads=4)
    with torch.no_grad():
        for p in state.model.parameters():
            p *= 2  # so that the text does not go round in a circle
    state.save(tmp_path / "small.safetensors")
    assert give(tab, tmp_path / "small.safetensors", "small") is None
    config = dict(max_new_tokens=500, min_new_tokens=500, temperature=0)
    expected = [
        step.item()
        for step in generate(
            cached(state.model), torch.tensor([[EOS]]), GenerateConfig(**config)
        )
    ]
    for way in ("cached", "uncached"):
        found = tab.evaluate(
            f"(config) => [...minigpt.generate(minigpt.{way}(small.model), [1], config)]",
            config,
        )
        assert found == expected, way
    assert len({*expected}) > 5


@in_browser
def test_the_window_of_the_shipped_model_jumps_where_the_program_s_does(
    tab, shipped, val
):
    long = val[:385].tolist()
    assert [window_start(n, 256) for n in (256, 257, 385)] == [0, 128, 256]
    prompts = [long[:256], long[:257], long[:385]]
    far = (logits(tab, "shipped", prompts) - ours(shipped.model, prompts)).abs().max()
    assert far < 1e-3


@pytest.fixture
def program_s_choice(monkeypatch):
    """(logits (V), config) -> the distribution that `choose` draws from, by id."""
    drawn = []

    def multinomial(p, *_, **__):
        drawn[:] = [p]
        return torch.arange(p.size(1))[None]  # all of them: their ids come back

    def ask(row: torch.Tensor, config: GenerateConfig) -> torch.Tensor:
        drawn.clear()
        ids = choose(row[None], config, torch.Generator())
        if not drawn:  # temperature 0 draws nothing
            return torch.nn.functional.one_hot(ids[0], len(row)).double()
        p = torch.zeros(len(row), dtype=torch.float64)
        p[ids.flatten()] = drawn[0][0] / drawn[0].sum()
        return p

    monkeypatch.setattr(torch, "multinomial", multinomial)
    return ask


SETTINGS = [
    {},
    {"temperature": 0},
    {"temperature": 1e-308},
    {"temperature": 1e6},
    {"temperature": 1, "top_k": 5},
    {"temperature": 1, "top_k": 500},
    {"temperature": 1.3, "top_p": 0.9},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.5},
    {"temperature": 1, "top_p": 1e-9},
]


@in_browser
def test_what_is_drawn_from_is_what_the_program_draws_from(tab, program_s_choice):
    rows = 4 * torch.randn(20, 99, generator=torch.Generator().manual_seed(0))
    rows[:, [0, 2]] = -torch.inf  # never written
    script = """([rows, config]) => rows.map((row) => [...minigpt.distribution(
        Float32Array.from(row, (z) => z ?? -Infinity), config)])"""
    sent = [[z if z > -torch.inf else None for z in row] for row in rows.tolist()]
    for settings in SETTINGS:
        found = torch.tensor(tab.evaluate(script, [sent, settings])).double()
        expected = torch.stack(
            [program_s_choice(row, GenerateConfig(**settings)) for row in rows]
        )
        assert (found - expected).abs().max() < 1e-6, settings
        assert torch.equal(found > 0, expected > 0), settings


@in_browser
def test_draws_have_their_frequencies_and_a_seed_repeats_them(tab):
    draw = """(seed) => {
        const random = minigpt.generator(seed), p = [0.5, 0.3, 0.15, 0.05, 0];
        const logits = Float32Array.from(p, Math.log), config = { temperature: 1 };
        return Array.from({ length: 20000 }, () =>
            minigpt.choose(logits, config, random));
    }"""
    one, other = tab.evaluate(draw, 1), tab.evaluate(draw, 2)
    assert one == tab.evaluate(draw, 1) != other
    for id, p in enumerate([0.5, 0.3, 0.15, 0.05, 0]):
        for drawn in (one, other):
            assert abs(drawn.count(id) - 20000 * p) <= 5 * (20000 * p * (1 - p)) ** 0.5


@in_browser
def test_rounded_weights_cost_less_than_a_thousandth_of_a_nat(
    tab, shipped, small_file, val
):
    """On 20,000 characters; and the page computes with them what PyTorch does."""
    tensors, coarse = load(small_file), load_checkpoint(SHIPPED).model.eval()
    with torch.no_grad():
        for name, p in coarse.named_parameters():
            if p.dim() == 2:
                p.copy_(tensors[f"model.{name}"] * tensors[f"scale.{name}"][:, None])
    assert give(tab, small_file, "small") is None
    prompts = prompts_of(val, 20, 20)
    far = (logits(tab, "small", prompts) - ours(coarse, prompts)).abs().max()
    assert far < 1e-3
    split = Dataset(val, 256)
    inputs, targets = split.windows(split.starts(79))
    assert targets.numel() > 20_000

    @torch.inference_mode()
    def loss(model: MiniGPT) -> float:
        parts = zip(inputs.split(10), targets.split(10), strict=True)
        sums = [cross_entropy(model(x), y).item() * len(x) for x, y in parts]
        return sum(sums) / len(inputs)

    difference = loss(coarse) - loss(shipped.model)
    print(f"\nrounded weights: {difference:+.5f} nats per character")
    assert abs(difference) < 0.001


WRITE = """async ([address, count]) => {
    const long = [], ask = minigpt.start_worker(), pre = document.querySelector("pre");
    const text = await minigpt.fetch_weights(address);
    const arrived = performance.now();
    await ask("load", text);
    await ask("begin", "def ", { seed: 1, min_new_tokens: count });
    pre.textContent = await ask("next");
    const first = performance.now();
    const observer = new PerformanceObserver((list) => long.push(
        ...list.getEntries().map((entry) => entry.duration)));
    observer.observe({ type: "longtask" });
    let best = 0;
    for (let n = 1; n < count; n += 20) {
        const began = performance.now();
        for (let i = 0; i < 20; i++) pre.textContent += await ask("next");
        best = Math.max(best, 20000 / (performance.now() - began));
    }
    return { text: pre.textContent, first: first - arrived, best, long,
        mean: 1000 * (count - 1) / (performance.now() - first) };
}"""


@in_browser
def test_a_worker_writes_with_weights_that_lie_beside_the_page(chromium, folder):
    """From a folder, with no server; no task of the page takes longer than 50 ms."""
    tab = chromium.new_page()
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto((folder / "page.html").as_uri())
    assert not any("weights" in url for url in asked)  # not before it is wanted
    for _ in range(3):  # a machine with other work may hold the page up
        done = tab.evaluate(WRITE, ["weights.js", 241])
        if done["long"] == []:
            break
    tab.close()
    print(
        f"\nfirst character after {done['first']:.0f} ms, then {done['mean']:.0f} "
        f"characters a second, {done['best']:.0f} in the best twenty"
    )
    assert len(done["text"]) == 241 and done["long"] == []
    assert done["best"] > 30  # on a machine with other work; chapter 20 has a figure


@in_browser
def test_a_worker_s_errors_arrive_as_sentences(tab):
    script = """async () => {
        const ask = minigpt.start_worker();
        const told = (promise) => promise.then(() => "", (error) => error.message);
        const wrong = await told(ask("load", new ArrayBuffer(100)));
        return [wrong, await told(minigpt.fetch_weights("nowhere.js"))];
    }"""
    wrong, absent = tab.evaluate(script)
    assert wrong == "this is no MiniGPT checkpoint: choose best.safetensors"
    assert absent.startswith("nowhere.js does not load")


def damaged(change) -> bytes:
    """The shipped file with another header, which still fits its length."""
    data = SHIPPED.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    meta = json.loads(header["__metadata__"]["minigpt"])
    change(header, meta)
    header["__metadata__"]["minigpt"] = json.dumps(meta, sort_keys=True)
    told = json.dumps(header).encode()
    return struct.pack("<Q", len(told)) + told + data[8 + size :]


def with_true_digest(**changes) -> bytes:
    """Weights that are not those of the model, with the digest that they have."""
    with safe_open(SHIPPED, "pt") as file:
        meta = json.loads(file.metadata()["minigpt"]) | changes
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del meta["sha256"]
    meta["sha256"] = digest(meta, tensors)
    return save(tensors, {"minigpt": json.dumps(meta, sort_keys=True)})


def flipped(at: int) -> bytes:
    data = bytearray(SHIPPED.read_bytes())
    data[at] ^= 1
    return bytes(data)


def large(header: dict, _) -> None:
    header["model.head.weight"]["shape"] = [99, 400_000]


OTHER = "choose best.safetensors"
BAD = {
    "empty": (lambda: b"", OTHER),
    "a picture": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(99), OTHER),
    "without our metadata": (lambda: save({"x": torch.ones(2)}), OTHER),
    "half a header": (lambda: SHIPPED.read_bytes()[:500], OTHER),
    "cut": (lambda: SHIPPED.read_bytes()[:-1000], r"damaged \(wrong sha256\)"),
    "a bit of a weight": (lambda: flipped(-1), r"damaged \(wrong sha256\)"),
    "another loss": (
        lambda: damaged(lambda _, meta: meta.update(best_loss=0.1)),
        r"damaged \(wrong sha256\)",
    ),
    "a newer format": (
        lambda: damaged(lambda _, meta: meta.update(format=3)),
        "format 3 is not known",
    ),
    "another tokenizer": (
        lambda: damaged(lambda _, meta: meta.update(tokenizer="words")),
        "a tokenizer of the kind words, not ours: use gpt2.py generate",
    ),
    "too large": (lambda: damaged(large), "44,646,080 numbers, over 40,000,000"),
    "another shape": (
        lambda: with_true_digest(
            model=minigpt.asdict(load_checkpoint(SHIPPED).model.config)
            | {"d_model": 640}
        ),
        r"damaged \(embeddings.token_embedding.weight is 99,320, not 99,640\)",
    ),
}


@in_browser
@pytest.mark.parametrize("data, said", BAD.values(), ids=BAD.keys())
def test_a_file_that_is_of_no_use_is_told_in_a_sentence(tab, data, said):
    message = give(tab, data(), "bad")
    assert re.search(said, message) and "\n" not in message and len(message) < 150


@in_browser
def test_a_run_s_own_files_are_read_with_moments_and_in_float32(tab, home):
    for name in ("last", "best"):
        path = home / "run" / f"{name}.safetensors"
        assert give(tab, path, "own") is None
        saved = load_checkpoint(path)
        prompts = [saved.ids("def f")]
        far = logits(tab, "own", prompts) - ours(saved.model.eval(), prompts)
        assert far.abs().max() < 1e-3


@in_browser
def test_an_unknown_character_is_named_with_its_place(tab, shipped):
    script = """(text) => {
        try { return shipped.tokenizer.encode(text); } catch (error) {
            return error.message;
        }
    }"""
    text = "def f():\n\treturn 1"
    assert tab.evaluate(script, "ab") == shipped.tokenizer.encode("ab").tolist()
    assert tab.evaluate(script, text).startswith('the model does not know "\\t" at')
    assert '\N{SNAKE}" at position 2' in tab.evaluate(script, "ab\N{SNAKE}")
    assert tab.evaluate("shipped.tokenizer.decode([0, 1, 2, 10])") == (
        shipped.tokenizer.decode([0, 1, 2, 10])
    )


@in_browser
def test_the_solution_of_an_exercise_gives_the_nats_of_each_character(
    chromium, folder, home
):
    text = CHAPTER.read_text("utf-8")
    [solution] = re.findall(r"^```javascript\n(.*?)^```", text, re.M | re.S)
    assert solution.startswith("function surprise(")
    script = SCRIPT.read_text("utf-8").replace(
        "function steps(", f"{solution}\nfunction steps("
    )
    script = script.replace(
        "return { distribution,", "return { surprise, distribution,"
    )
    (folder / "solved.js").write_text(script, "utf-8")
    (folder / "solved.html").write_text(
        '<input type="file"><script src="solved.js"></script>'
    )
    tab, path = chromium.new_page(), home / "run" / "best.safetensors"
    tab.goto((folder / "solved.html").as_uri())
    assert give(tab, path, "own") is None
    saved = load_checkpoint(path)  # with a context of 16
    text = "def f2_1(x):\n    return x * 2 + 1\n"
    ids = saved.ids(text)
    guesses = torch.stack([ours(saved.model, [ids[:n]])[0] for n in range(1, len(ids))])
    expected = torch.nn.functional.cross_entropy(
        guesses, torch.tensor(ids[1:]), reduction="none"
    )
    found = tab.evaluate("(text) => minigpt.surprise(own, text)", text)
    tab.close()
    assert len(found) == len(text)
    torch.testing.assert_close(torch.tensor(found), expected, atol=1e-3, rtol=0)


@in_browser
def test_the_page_that_the_chapter_shows_writes(chromium, folder, home):
    [html] = re.findall(r"^```html\n(.*?)^```", CHAPTER.read_text("utf-8"), re.M | re.S)
    (folder / "shown.html").write_text(html, "utf-8")
    tab = chromium.new_page()
    wrong = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.goto((folder / "shown.html").as_uri())
    tab.set_input_files("input", home / "run" / "best.safetensors")
    tab.wait_for_function("document.querySelector('pre').textContent.length > 200")
    assert tab.inner_text("pre").startswith("def ") and wrong == []
    tab.close()
