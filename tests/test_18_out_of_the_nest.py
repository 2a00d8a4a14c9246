"""Chapter 18: to Hugging Face and back, GPT-2 in, and what does not fit."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import minigpt
from minigpt import (
    EOS,
    SHIPPED,
    Checkpoint,
    GenerateConfig,
    MiniGPT,
    MiniGPTError,
    ModelConfig,
    Tokenizer,
    TrainConfig,
    cached,
    generate,
    load_checkpoint,
    uncached,
    write,
)

tokenizers = pytest.importorskip("tokenizers", reason="pip install -e '.[hf]'")
transformers = pytest.importorskip("transformers", reason="pip install -e '.[hf]'")
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    pipeline,
)

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "gpt2.py"
import gpt2  # noqa: E402  (bite.py puts another in its place)
from gpt2 import ForeignTokenizer, run_words, theirs  # noqa: E402

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

END = "<|endoftext|>"
quiet = partial(
    settings,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)  # to shrink an example takes minutes


def main(words: list[str]) -> int:
    return minigpt.main(words, run_words)


def difference(ours: MiniGPT, other, ids: torch.Tensor) -> float:
    """The largest difference of logits."""
    with torch.inference_mode():
        there, here = other(ids).logits, ours.eval()(ids)
    assert there.dtype == here.dtype == torch.float32
    return (there - here).abs().max().item()


@torch.no_grad()
def stir(model: torch.nn.Module, amount: float = 0.1) -> None:
    """Random numbers for all parameters, so that each of them matters."""
    for p in model.parameters():
        p.add_(amount * torch.randn(p.shape))


def save_ours(path: Path, characters: str, before=(EOS,), **sizes) -> Checkpoint:
    """A checkpoint of a stirred model that knows these characters."""
    tokenizer = Tokenizer(characters)
    shape = ModelConfig(
        **dict(
            vocab_size=tokenizer.vocab_size,
            context_length=24,
            d_model=12,
            n_layers=2,
            n_heads=3,
            dropout=0.0,
        )
        | sizes
    )
    model = MiniGPT(shape)
    stir(model)
    saved = Checkpoint(model, None, TrainConfig(), tokenizer, "", [*before])
    saved.save(path)
    return saved


def byte_pairs(size: int = 300, text: str = "def f(x): return x, 'ῥεῖ é'\n" * 9):
    """A tokenizer of GPT-2's kind with `size` tokens or less."""
    words = tokenizers.ByteLevelBPETokenizer()
    words.train_from_iterator(
        [text], size, 2, show_progress=False, special_tokens=[END]
    )
    return words


PAIRS = byte_pairs()
V = PAIRS.get_vocab_size()
SHAPES = {
    "one block": dict(n_layer=1, n_embd=8, n_head=1, n_positions=12),
    "many heads": dict(n_layer=2, n_embd=24, n_head=12, n_positions=40),
    "wide": dict(n_layer=2, n_embd=40, n_head=5, n_positions=64),
    "narrow MLP": dict(n_layer=3, n_embd=16, n_head=2, n_positions=32, n_inner=20),
    "a head of its own": dict(
        n_layer=2, n_embd=16, n_head=4, n_positions=32, tie_word_embeddings=False
    ),
}


def save_theirs(folder: Path, old: bool = False, **sizes) -> GPT2LMHeadModel:
    """A stirred GPT-2 in a folder, with its tokenizer in one file or two."""
    config = GPT2Config(
        **dict(
            vocab_size=V,
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_positions=32,
            bos_token_id=0,
            eos_token_id=0,
        )
        | sizes
    )
    model = GPT2LMHeadModel(config).eval()
    stir(model)
    model.save_pretrained(folder)
    if old:
        PAIRS.save_model(str(folder))
    else:
        PAIRS.save(str(folder / "tokenizer.json"))
    return model


@pytest.fixture(scope="module")
def flown(tmp_path_factory) -> Path:
    """The shipped model as a folder, which no test changes."""
    folder = tmp_path_factory.mktemp("flown") / "hf"
    assert main(["to-hf", str(SHIPPED), str(folder)]) == 0
    return folder


# --- to Hugging Face -------------------------------------------------------


ALPHABET = "\n\r\t !#<>abcdefilnors{}éß𝄞\u0301\u2028\x00"


@quiet(max_examples=15)
@given(
    data=st.data(),
    heads=st.integers(1, 4),
    D=st.integers(1, 8),
    layers=st.integers(1, 3),
    T=st.integers(2, 40),
    d_ff=st.sampled_from([0, 7]),
    characters=st.sets(st.characters(exclude_categories=["Cs"]), min_size=1),
    before=st.sampled_from([[], [EOS], [EOS, 3]]),
)
def test_logits_and_ids_are_the_same_there(
    data, heads, D, layers, T, d_ff, characters, before, tmp_path_factory
):
    home = tmp_path_factory.mktemp("there")
    torch.manual_seed(T)
    saved = save_ours(
        home / "m",
        "".join(characters),
        before,
        n_heads=heads,
        d_model=heads * D,
        n_layers=layers,
        context_length=T,
        d_ff=d_ff,
    )
    assert main(["to-hf", str(home / "m"), str(home / "hf")]) == 0
    words = AutoTokenizer.from_pretrained(home / "hf")
    text = data.draw(st.text(st.sampled_from(sorted(characters)), max_size=T))
    ids = words(text).input_ids
    assert ids == before + saved.tokenizer.encode(text).tolist()
    shown = words.decode(
        words(text, add_special_tokens=False).input_ids, skip_special_tokens=True
    )
    assert shown == text
    other = AutoModelForCausalLM.from_pretrained(home / "hf").eval()
    assert not other.config.tie_word_embeddings
    rows = torch.tensor([(ids or [EOS])[:T]])
    assert difference(saved.model, other, rows) < 1e-5


def test_the_shipped_model_is_the_same_there(flown):
    saved = load_checkpoint(SHIPPED)
    other = AutoModelForCausalLM.from_pretrained(flown).eval()
    words = AutoTokenizer.from_pretrained(flown)
    source = (ROOT / "minigpt.py").read_text("utf-8")[3000:3255]
    ids = torch.tensor([words(source).input_ids])
    assert ids.shape == (1, 256)
    assert difference(saved.model, other, ids) < 3e-5  # logits to 17
    exact = (other.double()(ids).logits - saved.model.double()(ids)).abs().max()
    assert exact < 1e-11


def test_each_character_comes_back_and_the_text_eos_stays_text(flown, tmp_path):
    save_ours(tmp_path / "m", ALPHABET)
    assert main(["to-hf", str(tmp_path / "m"), str(tmp_path / "hf")]) == 0
    for folder, characters in (
        (flown, load_checkpoint(SHIPPED).tokenizer.characters),
        (tmp_path / "hf", ALPHABET),
    ):
        ours = Tokenizer(characters)
        words = AutoTokenizer.from_pretrained(folder)
        for text in (
            *characters,
            characters,
            characters[::-1] * 2,
            "<eos>",
            "a<eos> <eos>",
        ):
            ids = words(text).input_ids
            assert ids == [EOS, *ours.encode(text).tolist()]
            assert words.decode(ids, skip_special_tokens=True) == text
        assert words("\ue000").input_ids == [EOS, minigpt.UNK]
        assert (words.eos_token_id, words.pad_token_id) == (EOS, minigpt.PAD)


@pytest.mark.parametrize("prompt", ["def f(x):", "", " ", "<eos>", "class A:\n\n    "])
def test_the_pipeline_writes_the_same_text(flown, prompt):
    writer = pipeline("text-generation", str(flown), device="cpu")
    [answer] = writer(prompt, max_new_tokens=50, do_sample=False)
    assert answer["generated_text"] == write(
        load_checkpoint(SHIPPED), prompt, max_new_tokens=50, temperature=0.0
    )


@pytest.mark.parametrize("before", [[], [EOS], [EOS, 5, 4], [5]])
def test_what_is_read_before_a_prompt_is_read_there(tmp_path, before):
    """A model of few characters, which would say <unk> if it might, and ends."""
    torch.manual_seed(len(before))
    saved = save_ours(tmp_path / "m", "abc", before, context_length=40)
    with torch.no_grad():
        saved.model.head.weight[:] *= 3
        saved.model.head.weight[2] = 9 * saved.model.norm.bias  # <unk> is likely
    saved.save(tmp_path / "n")
    assert main(["to-hf", str(tmp_path / "n"), str(tmp_path / "hf")]) == 0
    writer = pipeline("text-generation", str(tmp_path / "hf"), device="cpu")
    for prompt in ("abba", "b"):
        [answer] = writer(prompt, max_new_tokens=20, do_sample=False)
        assert answer["generated_text"] == write(
            saved, prompt, max_new_tokens=20, temperature=0.0
        )


def test_a_folder_holds_what_others_look_for(flown):
    files = {path.name for path in flown.iterdir()}
    assert files == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    words = json.loads((flown / "tokenizer_config.json").read_text())
    assert words["tokenizer_class"] == "PreTrainedTokenizerFast"
    config = json.loads((flown / "config.json").read_text())
    assert config["model_type"] == "gpt2" and not config["tie_word_embeddings"]
    assert config["architectures"] == ["GPT2LMHeadModel"]
    assert config["attn_pdrop"] == config["embd_pdrop"] == config["resid_pdrop"] == 0
    written = json.loads((flown / "generation_config.json").read_text())
    assert written["suppress_tokens"] == [0, 2] and written["eos_token_id"] == EOS
    card = (flown / "README.md").read_text()
    assert "library_name: transformers" in card and "15500 steps" in card


def alone_and_together(folder: Path, prompts: list[str]) -> None:
    words = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def texts(some: list[str]) -> list[str]:
        batch = words(some, padding=True, return_tensors="pt")
        ids = model.generate(
            batch["input_ids"],
            attention_mask=batch["attention_mask"],
            do_sample=False,
            max_new_tokens=12,
        )
        return words.batch_decode(
            ids[:, batch["input_ids"].size(1) :], skip_special_tokens=True
        )

    assert texts(prompts) == [texts([prompt])[0] for prompt in prompts]


def test_prompts_of_a_batch_are_filled_up_on_the_left(flown, tmp_path):
    alone_and_together(flown, ["def size(self):\n    return ", "import "])
    torch.manual_seed(5)
    save_theirs(tmp_path / "hf")
    assert main(["from-gpt2", str(tmp_path / "hf"), str(tmp_path / "m")]) == 0
    assert main(["to-hf", str(tmp_path / "m"), str(tmp_path / "again")]) == 0
    alone_and_together(tmp_path / "again", ["def f(x)", "x"])


# Changes that readers make: what a model lacks, or does otherwise.
SIZE = 12
CHANGED = {
    "no norm": (
        lambda m: setattr(m.blocks[1], "norm1", torch.nn.Identity()),
        "h.1.ln_1.bias is missing",
    ),
    "RMSNorm": (
        lambda m: setattr(m, "norm", torch.nn.RMSNorm(SIZE)),
        "ln_f.bias is missing",
    ),
    "no table of positions": (
        lambda m: delattr(m.embeddings, "position_embedding"),
        "wpe.weight is missing",
    ),
    "no head": (lambda m: delattr(m, "head"), "lm_head.weight is missing"),
    "a gate": (
        lambda m: setattr(m.blocks[0].mlp, "gate", torch.nn.Linear(SIZE, 48)),
        "gate.bias is .48,., in a GPT-2 it is missing",
    ),
    "fewer keys": (
        lambda m: setattr(m.blocks[0].attention, "qkv", torch.nn.Linear(SIZE, 20)),
        r"c_attn.bias is \(20,\), in a GPT-2 it is \(36,\)",
    ),
    "a block that does nothing": (
        lambda m: setattr(m.blocks[0], "forward", lambda x, remember=None: x),
        "logits differ",
    ),
    "the exact bend": (
        lambda m: setattr(
            m.blocks[1].mlp,
            "forward",
            lambda x: m.blocks[1].mlp.proj(
                torch.nn.functional.gelu(m.blocks[1].mlp.expand(x))
            ),
        ),
        "logits differ",
    ),
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_model_that_is_no_gpt2_does_not_leave(tmp_path, monkeypatch, capsys, change):
    saved = save_ours(tmp_path / "m", "abc")
    alter, reason = CHANGED[change]
    alter(saved.model)
    monkeypatch.setattr(gpt2, "load_checkpoint", lambda path: saved)
    assert main(["to-hf", str(tmp_path / "m"), str(tmp_path / "hf")]) == 2
    err = capsys.readouterr().err
    assert re.fullmatch("minigpt: error: the model is no GPT-2: [^\n]+\n", err), err
    assert re.search(reason, err), err
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_program_whose_attention_was_changed_takes_no_gpt2(
    tmp_path, monkeypatch, capsys
):
    """All names and shapes fit, and what is computed does not."""
    save_theirs(tmp_path / "hf")
    plain = minigpt.attention
    monkeypatch.setattr(minigpt, "attention", lambda q, k, v, p: plain(q, k / 2, v, p))
    assert main(["from-gpt2", str(tmp_path / "hf"), str(tmp_path / "m")]) == 2
    assert "logits differ" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_tensors_that_are_one_are_two_there(tmp_path, monkeypatch):
    saved = save_ours(tmp_path / "m", "abc")
    saved.model.head.weight = saved.model.embeddings.token_embedding.weight
    monkeypatch.setattr(gpt2, "load_checkpoint", lambda path: saved)
    assert main(["to-hf", str(tmp_path / "m"), str(tmp_path / "hf")]) == 0
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    ids = torch.randint(3, 6, (1, 24))
    assert difference(saved.model, other, ids) < 1e-5


def test_shapes_and_sums_are_those_of_transformers(tmp_path):
    other = save_theirs(tmp_path / "hf", tie_word_embeddings=False, n_inner=20)
    tensors = other.state_dict()
    config = ModelConfig(V, 32, 16, 2, 2, d_ff=20)
    assert gpt2.shapes(config) == {n: tuple(t.shape) for n, t in tensors.items()}
    ids = torch.randint(0, V, (32,))
    with torch.no_grad():
        torch.testing.assert_close(
            gpt2.gpt2(tensors, ids, 2), other(ids[None]).logits[0], atol=1e-5, rtol=1e-5
        )


# --- from GPT-2 ------------------------------------------------------------


PROMPTS = ["def f(x):", "ῥεῖ", f"x{END}y", "\n"]


@pytest.mark.parametrize("old", [False, True], ids=["one file", "two files"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_gpt2_is_the_same_here(tmp_path, shape, old):
    torch.manual_seed(len(shape))
    other = save_theirs(tmp_path / "hf", old, **SHAPES[shape])
    assert main(["from-gpt2", str(tmp_path / "hf"), str(tmp_path / "m")]) == 0
    saved = load_checkpoint(tmp_path / "m")
    words = AutoTokenizer.from_pretrained(tmp_path / "hf")
    T = saved.model.config.context_length
    ids = torch.randint(0, V, (3, T))
    assert difference(saved.model, other, ids) < 1e-5
    for prompt in PROMPTS:
        ids = words(prompt, return_tensors="pt").input_ids
        assert saved.tokenizer.encode(prompt).tolist() == ids[0].tolist()
        if (room := T - ids.size(1)) <= 0:
            continue
        there = other.generate(
            ids, do_sample=False, max_new_tokens=room, pad_token_id=0
        )[0, ids.size(1) :]
        text = words.decode(there, skip_special_tokens=True)
        assert (
            write(saved, prompt, temperature=0.0, max_new_tokens=room) == prompt + text
        )
        config = GenerateConfig(temperature=0.0, max_new_tokens=room)
        for reader in (cached, uncached):
            steps = generate(
                reader(saved.model),
                ids,
                config,
                saved.tokenizer.eos,
                saved.tokenizer.never,
            )
            assert [int(i) for i in steps] == [i for i in there.tolist() if i]


@pytest.mark.parametrize("shape", SHAPES)
def test_beyond_the_context_cached_is_uncached(tmp_path, shape):
    torch.manual_seed(1)
    save_theirs(tmp_path / "hf", **SHAPES[shape])
    assert main(["from-gpt2", str(tmp_path / "hf"), str(tmp_path / "m")]) == 0
    saved = load_checkpoint(tmp_path / "m")
    T = saved.model.config.context_length
    text = torch.randint(1, V, (2, 3 * T))
    quick, plain = cached(saved.model), uncached(saved.model)
    for n in range(1, 3 * T + 1):
        torch.testing.assert_close(
            quick(text[:, :n]), plain(text[:, :n]), atol=1e-4, rtol=0
        )


@pytest.mark.slow
def test_gpt2_as_openai_made_it_is_the_same_here(tmp_path):
    """The exact shape of the smallest one, 124M, and as many tokens."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = [(a, b) for a in letters for b in letters][:50_000]
    tokens = [*letters, *(a + b for a, b in merges), END]
    torch.manual_seed(0)
    other = GPT2LMHeadModel(GPT2Config()).eval()
    stir(other, 0.02)
    folder = tmp_path / "gpt2"
    other.save_pretrained(folder)
    words = tokenizers.ByteLevelBPETokenizer(
        {t: i for i, t in enumerate(tokens)}, merges
    )
    words.add_special_tokens([END])
    words.save(str(folder / "tokenizer.json"))
    assert main(["from-gpt2", str(folder), str(tmp_path / "m")]) == 0
    saved = load_checkpoint(tmp_path / "m")
    assert minigpt.count_parameters(saved.model) == 124_439_808 + 50_257 * 768
    assert (saved.tokenizer.eos, saved.tokenizer.never) == (50_256, ())
    ids = torch.randint(0, 50_257, (1, 1024))
    assert difference(saved.model, other, ids) < 3e-5
    prompt = "In a hole in the ground"
    ids = torch.tensor([words.encode(prompt).ids])
    there = other.generate(ids, do_sample=False, max_new_tokens=10, pad_token_id=0)
    assert write(saved, prompt, temperature=0.0, max_new_tokens=10) == (
        words.decode(there[0].tolist())
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    """A GPT-2's folder, to be changed."""
    torch.manual_seed(2)
    save_theirs(tmp_path / "hf")
    return tmp_path / "hf"


def read(folder: Path) -> Checkpoint:
    """The checkpoint of a folder, with the tokenizer that is being tested."""
    path = folder.parent / "read.safetensors"
    path.unlink(missing_ok=True)
    assert main(["from-gpt2", str(folder), str(path)]) == 0
    saved = load_checkpoint(path)
    if not isinstance(saved.tokenizer, Tokenizer):
        saved.tokenizer = ForeignTokenizer(saved.tokenizer.characters)
    return saved


def bytes_of(saved: Checkpoint) -> dict[str, bytes]:
    return {n: p.detach().numpy().tobytes() for n, p in saved.model.named_parameters()}


def rewrite(folder: Path, change) -> None:
    """Write the weights anew, as change(tensors) gives them."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors = change(tensors) or tensors
    save_file({n: t.contiguous() for n, t in tensors.items()}, path, {"format": "pt"})


def test_names_without_prefix_and_masks_are_those_of_older_files(folder):
    whole = bytes_of(read(folder))

    def as_openai_had_it(tensors):
        bare = {n.removeprefix("transformer."): t for n, t in tensors.items()}
        return bare | {
            "h.0.attn.bias": torch.ones(1, 1, 32, 32),
            "h.1.attn.masked_bias": torch.tensor(-1e4),
        }

    rewrite(folder, as_openai_had_it)
    assert bytes_of(read(folder)) == whole


def test_several_files_are_read_as_one(folder, tmp_path):
    whole = bytes_of(read(folder))
    model = GPT2LMHeadModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len([*folder.glob("model-*.safetensors")]) > 1
    assert bytes_of(read(folder)) == whole


def test_half_precision_is_read_as_float32(folder):
    rewrite(folder, lambda tensors: {n: t.bfloat16() for n, t in tensors.items()})
    other = GPT2LMHeadModel.from_pretrained(folder).float().eval()
    ids = torch.randint(0, V, (1, 32))
    assert difference(read(folder).model, other, ids) < 1e-5


def test_there_and_back_again_each_byte_is_the_same(flown, tmp_path):
    for n, (characters, before) in enumerate(
        [(ALPHABET, [EOS]), ("ab", []), ("xyz", [EOS, 4])]
    ):
        saved = save_ours(tmp_path / f"m{n}", characters, before, dropout=0.3)
        assert main(["to-hf", str(tmp_path / f"m{n}"), str(tmp_path / f"hf{n}")]) == 0
        back = read(tmp_path / f"hf{n}")
        assert bytes_of(back) == bytes_of(saved)
        assert back.model.config == saved.model.config
        assert back.tokenizer.characters == saved.tokenizer.characters
        assert back.before == before
    shutil.copytree(flown, tmp_path / "flown")
    assert bytes_of(read(tmp_path / "flown")) == bytes_of(load_checkpoint(SHIPPED))


def test_a_guest_can_leave_again(folder, tmp_path):
    saved = read(folder)
    path = str(folder.parent / "read.safetensors")
    assert main(["to-hf", path, str(tmp_path / "again")]) == 0
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval()
    ids = torch.randint(0, V, (1, 32))
    assert difference(saved.model, again, ids) < 1e-5
    words, first = map(AutoTokenizer.from_pretrained, (tmp_path / "again", folder))
    for prompt in PROMPTS:
        assert words(prompt).input_ids == first(prompt).input_ids


# --- pieces of words -------------------------------------------------------


@quiet(max_examples=60)
@given(st.text(st.sampled_from("ab é ῥ𝄞\n"), min_size=1, max_size=30))
def test_a_text_is_shown_in_whole_characters(text):
    words = ForeignTokenizer(json.dumps([0, PAIRS.to_str()]))
    ids = words.encode(text)
    shown = [*words.stream(iter(ids[:, None]))]
    assert "".join(shown) == text == words.decode(ids)
    assert not any("\ufffd" in piece for piece in shown)
    assert (
        len([piece for piece in shown if piece]) > 1
        or len(ids) == 1
        or not (text.isascii())
    )


@quiet(max_examples=60)
@given(st.lists(st.integers(1, V - 1), max_size=40))
def test_whatever_is_written_is_shown_as_it_would_be_at_once(ids):
    words = ForeignTokenizer(json.dumps([0, PAIRS.to_str()]))
    shown = "".join(words.stream(torch.tensor([i]) for i in ids))
    assert shown == words.decode(ids) == PAIRS.decode(ids)


def test_a_tokenizer_without_an_end_never_ends(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"eos_token_id": 50256, "bos_token_id": None}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").unlink()
    saved = read(folder)
    assert (saved.tokenizer.eos, saved.tokenizer.never) == (-1, ())
    assert saved.tokenizer.encode("").tolist() == [0]
    text = write(saved, "def", temperature=0.0, max_new_tokens=60, min_new_tokens=1)
    assert len(saved.tokenizer.encode(text)) > 20
    path = str(folder.parent / "read.safetensors")
    assert main(["to-hf", path, str(folder.parent / "again")]) == 0


# --- tokenizers of other kinds ---------------------------------------------


def words_like(kind: str) -> tokenizers.Tokenizer:
    """A small tokenizer of a kind, with [CLS] = 1 and [SEP] = 2."""
    models, pre, decoders = (
        tokenizers.models,
        tokenizers.pre_tokenizers,
        tokenizers.decoders,
    )
    first = ["[UNK]", "[CLS]", "[SEP]"]
    bits = ["a", "b", "play", "ing", "game", "s", "t", "n", "'", ".", ",", "é"]
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    under = ["▁", *("▁" + bit for bit in bits[:5]), *bits]
    if kind == "WordPiece":
        names = [*first, *bits, *("##" + bit for bit in bits)]
        whole = tokenizers.Tokenizer(
            models.WordPiece(
                {name: i for i, name in enumerate(names)}, unk_token="[UNK]"
            )
        )
        whole.pre_tokenizer = pre.BertPreTokenizer()
        whole.decoder = decoders.WordPiece()
    elif kind == "BERT":  # as transformers has it, with a text between two tokens
        whole = words_like("WordPiece")
        whole.add_special_tokens(first)
        whole.post_processor = tokenizers.processors.BertProcessing(
            ("[SEP]", 2), ("[CLS]", 1)
        )
    elif kind == "Unigram":
        whole = tokenizers.Tokenizer(
            models.Unigram(
                [(name, -float(i)) for i, name in enumerate([*first, *under])], 0, False
            )
        )
        whole.pre_tokenizer, whole.decoder = pre.Metaspace(), decoders.Metaspace()
    elif kind == "bytes beside pieces":  # sentencepiece's BPE, as in Llama
        names = [*first, *bytes_, *under]
        merges = [(a, b) for a in names for b in names if a + b in names and a and b]
        whole = tokenizers.Tokenizer(
            models.BPE(
                {name: i for i, name in enumerate(names)},
                merges,
                unk_token="[UNK]",
                byte_fallback=True,
            )
        )
        whole.pre_tokenizer = pre.Metaspace(split=False)
        whole.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
    elif kind == "ends of words":
        names = [*first, *bits, *(bit + "</w>" for bit in bits)]
        whole = tokenizers.Tokenizer(
            models.BPE(
                {name: i for i, name in enumerate(names)},
                [],
                unk_token="[UNK]",
                end_of_word_suffix="</w>",
            )
        )
        whole.pre_tokenizer, whole.decoder = pre.Whitespace(), decoders.BPEDecoder()
    elif kind == "CTC":
        names = [*first, "|", *bits]
        whole = tokenizers.Tokenizer(
            models.WordLevel({name: i for i, name in enumerate(names)}, "[UNK]")
        )
        whole.pre_tokenizer = pre.Split("", "isolated")
        whole.decoder = decoders.CTC("[SEP]", "|")
    else:
        assert kind == "no decoder"
        whole = tokenizers.Tokenizer(
            models.WordLevel(
                {name: i for i, name in enumerate([*first, *bits])}, "[UNK]"
            )
        )
        whole.pre_tokenizer = pre.Whitespace()
    return whole


KINDS = {
    kind: words_like(kind)
    for kind in (
        "WordPiece",
        "BERT",
        "Unigram",
        "bytes beside pieces",
        "ends of words",
        "CTC",
        "no decoder",
    )
} | {"bytes": tokenizers.Tokenizer.from_str(PAIRS.to_str())}


def grown(words, ids: list[int], read: list[int]) -> str:
    """What has come to a text, with all of it decoded at once."""
    return words.decode(read + ids)[len(words.decode(read)) :]


@pytest.mark.parametrize("kind", KINDS)
@quiet(max_examples=40)
@given(data=st.data())
def test_a_stream_shows_what_all_of_the_text_is(kind, data):
    """Beginning anywhere, with few pieces that repeat, over many windows."""
    words = ForeignTokenizer(json.dumps([-1, KINDS[kind].to_str()]))
    few = data.draw(
        st.lists(st.integers(0, words.vocab_size - 1), min_size=1, max_size=12)
    )
    dice = data.draw(st.randoms(use_true_random=False))
    read, ids = (dice.choices(few, k=data.draw(st.integers(0, n))) for n in (200, 300))
    shown = "".join(words.stream((torch.tensor([i]) for i in ids), read))
    assert shown == grown(words, ids, read)


@quiet(max_examples=100)
@given(
    st.lists(st.sampled_from("a b n t ' . , ! do n't 's 've".split()), max_size=40),
    st.integers(0, 20),
)
def test_a_tidied_text_is_streamed_as_transformers_tidies_it(pieces, n):
    names = sorted({"[UNK]", *"a b n t ' . , ! do n't 's 've".split()})
    whole = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({name: i for i, name in enumerate(names)}, "[UNK]")
    )
    words = ForeignTokenizer(json.dumps([-1, whole.to_str(), {"tidy": True}]))
    there = transformers.PreTrainedTokenizerFast(
        tokenizer_object=whole, clean_up_tokenization_spaces=True
    )
    ids = [names.index(piece) for piece in pieces]
    assert words.decode(ids) == there.decode(ids)
    shown = "".join(words.stream((torch.tensor([i]) for i in ids[n:]), ids[:n]))
    assert shown == grown(words, ids[n:], ids[:n])


def test_text_is_shown_before_its_end_and_no_decoding_is_long():
    for kind, whole in KINDS.items():
        words, lengths = ForeignTokenizer(json.dumps([-1, whole.to_str()])), []

        def counted(ids, decode=words.decode, lengths=lengths):
            lengths.append(len(ids))
            return decode(ids)

        words.decode = counted
        at = whole.token_to_id("a") or 5
        steps = iter([torch.tensor([at if i % 2 else at + 1]) for i in range(2000)])
        assert any(next(words.stream(steps)) for _ in range(3)), kind
        assert len("".join(words.stream(steps, [at]))) > 1900 and max(lengths) <= 128


def save_kind(folder: Path, kind: str, rows: int = 0, **more) -> GPT2LMHeadModel:
    """A GPT-2 with a tokenizer of a kind; `more` is in generation_config.json."""
    other = save_theirs(folder, vocab_size=rows or KINDS[kind].get_vocab_size())
    KINDS[kind].save(str(folder / "tokenizer.json"))
    config = {"bos_token_id": 1, "eos_token_id": 2} | more
    (folder / "generation_config.json").write_text(json.dumps(config))
    return other


def continued(saved: Checkpoint, prompt: str, **settings) -> str:
    """A prompt and what is written after it, greedily, as it is shown."""
    return write(saved, prompt, temperature=0.0, **settings)


def continued_there(folder: Path, prompt: str, n: int) -> str:
    """The same by transformers: what the new tokens add to the text."""
    other = GPT2LMHeadModel.from_pretrained(folder).eval()
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json")
    )
    ids = words(prompt, return_tensors="pt").input_ids
    made = other.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        pad_token_id=0,
        do_sample=False,
        max_new_tokens=n,
    )
    made, read = made[0].tolist(), ids[0].tolist()
    ends = other.generation_config.eos_token_id
    if made[-1] in (ends if isinstance(ends, list) else [ends]):
        made.pop()
    before, all_ = (words.decode(i, skip_special_tokens=True) for i in (read, made))
    return prompt + all_[len(before) :]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_writes_what_transformers_writes(tmp_path, kind):
    torch.manual_seed(len(kind))
    folder = tmp_path / "hf"
    save_kind(folder, kind)
    saved = read(folder)
    for prompt in ("play", "a game. ab", "é"):
        assert continued(saved, prompt, max_new_tokens=14) == (
            continued_there(folder, prompt, 14)
        )


def test_a_word_written_after_a_word_has_its_space(tmp_path):
    words = ForeignTokenizer(json.dumps([2, KINDS["WordPiece"].to_str()]))
    a, game, s = (words.whole.token_to_id(n) for n in ("a", "game", "##s"))
    for ids, text in (([game, s], " games"), ([s, a], "s a"), ([s, 2, a], "s")):
        assert "".join(words.stream([torch.tensor([i]) for i in ids], [a])) == text


def test_a_text_that_cannot_be_read_is_refused():
    whole = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "[UNK]"))
    with pytest.raises(MiniGPTError, match="cannot read.*UNK.*choose another"):
        ForeignTokenizer(json.dumps([-1, whole.to_str()])).encode("b")


def test_a_prompt_is_read_whole_and_as_it_is(folder):
    words = tokenizers.Tokenizer.from_str(PAIRS.to_str())
    words.enable_truncation(4)
    words.enable_padding(length=9, pad_id=0, pad_token=END)
    words.save(str(folder / "tokenizer.json"))
    saved = read(folder)
    for prompt in ("de", "def f(x): return x, def f(x)"):
        ids = saved.tokenizer.encode(prompt).tolist()
        assert ids == PAIRS.encode(prompt).ids and saved.tokenizer.decode(ids) == prompt


SAID = {  # what stands beside a tokenizer: (old form?, file, what it says)
    "nothing": (False, "tokenizer_config", {}),
    "a name for padding": (False, "special_tokens_map", {"pad_token": "def"}),
    "with properties": (
        False,
        "tokenizer_config",
        {
            "pad_token": {
                "__type": "AddedToken",
                "content": "def",
                "lstrip": False,
                "rstrip": True,
                "normalized": False,
                "single_word": False,
            }
        },
    ),
    "others": (False, "tokenizer_config", {"additional_special_tokens": ["return"]}),
    "extra": (False, "tokenizer_config", {"extra_special_tokens": {"end": "return"}}),
    "a new one": (False, "tokenizer_config", {"pad_token": "[PAD]"}),
    "by ids": (
        True,
        "tokenizer_config",
        {
            "added_tokens_decoder": {
                str(V): {
                    "content": "[PAD]",
                    "lstrip": True,
                    "rstrip": False,
                    "normalized": False,
                    "single_word": False,
                    "special": False,
                }
            }
        },
    ),
    "as it was": (True, "added_tokens", {"[PAD]": V}),
    "lists": (True, "tokenizer_config", {}),
    "a beginning": (True, "tokenizer_config", {"add_bos_token": True}),
    "an end": (True, "tokenizer_config", {"add_eos_token": True, "eos_token": "def"}),
    "a space": (True, "tokenizer_config", {"add_prefix_space": True}),
    "special text is text": (
        False,
        "tokenizer_config",
        {"split_special_tokens": True, "tokenizer_class": "PreTrainedTokenizerFast"},
    ),
}


@pytest.mark.parametrize("case", SAID)
def test_what_stands_beside_a_tokenizer_is_heeded(tmp_path, case):
    old, name, said = SAID[case]
    save_theirs(tmp_path / "hf", old, vocab_size=V + 4)
    (tmp_path / "hf" / f"{name}.json").write_text(json.dumps(said))
    saved = read(tmp_path / "hf")
    there = AutoTokenizer.from_pretrained(tmp_path / "hf")
    for prompt in ("def f(x): return x", f"x [PAD] {END}y"):
        ids = there(prompt).input_ids
        assert saved.tokenizer.encode(prompt).tolist() == ids
        assert saved.tokenizer.decode(ids) == there.decode(
            ids, skip_special_tokens=True
        )


@pytest.mark.parametrize(
    "said",
    [
        {"pad_token": "[PAD]"},
        {
            "pad_token": "[PAD]",
            "added_tokens_decoder": {
                "27": {"content": "[PAD]", "normalized": False, "special": False}
            },
        },
    ],
)
def test_a_token_with_a_meaning_is_sought_before_letters_are_made_small(tmp_path, said):
    folder, whole = tmp_path / "hf", words_like("WordPiece")
    assert whole.get_vocab_size() == 27
    whole.normalizer = tokenizers.normalizers.Lowercase()
    save_theirs(folder, vocab_size=32, eos_token_id=2)
    whole.save(str(folder / "tokenizer.json"))
    said = said | {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    words, there = read(folder).tokenizer, AutoTokenizer.from_pretrained(folder)
    ids = there("PLAY [pad] [PAD] a").input_ids
    assert ids.count(27) == 1 and words.encode("PLAY [pad] [PAD] a").tolist() == ids
    assert words.decode(ids) == there.decode(ids, skip_special_tokens=True)


# --- where a text ends, and what is never in it ----------------------------


@pytest.mark.parametrize(
    "config, written, ends",
    [
        ({"eos_token_id": [0]}, None, [0]),
        ({"eos_token_id": [7, 9]}, None, [7, 9]),
        ({"eos_token_id": 0}, {"eos_token_id": [5, 3]}, [5, 3]),
        ({"eos_token_id": 0}, {"eos_token_id": None}, [-1]),
        ({"eos_token_id": 3}, {}, [-1]),
        ({"eos_token_id": None}, None, [-1]),
        ({"eos_token_id": [50256, 4]}, None, [4]),
        ({"eos_token_id": -1}, None, [-1]),
        ({"eos_token_id": []}, None, [-1]),
    ],
)
def test_a_text_ends_where_it_does_there(folder, config, written, ends):
    change_config(**config)(folder)
    (folder / "generation_config.json").unlink()
    if written is not None:
        (folder / "generation_config.json").write_text(json.dumps(written))
    words = read(folder).tokenizer
    assert (words.eos, words.never) == (ends[0], ())
    assert words.known["ends"] == ends
    for end in ends:
        ids = [8, 8] if end < 0 else [8, end, 8]
        shown = "".join(words.stream(torch.tensor([i]) for i in ids))
        assert shown == words.decode([8] if end >= 0 else [8, 8])


def test_several_ends_end_the_text_of_transformers(tmp_path):
    torch.manual_seed(3)
    folder = tmp_path / "hf"
    save_kind(folder, "no decoder")
    long = continued(read(folder), "a", max_new_tokens=14).split()
    last = KINDS["no decoder"].token_to_id(long[-1])
    assert long.index(long[-1]) > 0
    save = {"eos_token_id": [2, last], "suppress_tokens": [4]}
    (folder / "generation_config.json").write_text(json.dumps(save))
    saved = read(folder)
    assert (saved.tokenizer.eos, saved.tokenizer.never) == (2, (4,))
    text = continued(saved, "a", max_new_tokens=14)
    assert text == continued_there(folder, "a", 14) and len(text.split()) < 15


def test_rows_without_a_word_are_never_chosen_and_leave_again(tmp_path):
    torch.manual_seed(4)
    folder = tmp_path / "hf"
    names = {"a": 0, "b": 1, "[UNK]": 2, "c": 9}  # and holes between them
    save_theirs(folder, vocab_size=64, bos_token_id=1)  # a word, by mistake
    whole = tokenizers.Tokenizer(tokenizers.models.WordLevel(names, "[UNK]"))
    whole.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    whole.save(str(folder / "tokenizer.json"))
    saved = read(folder)
    never = tuple(i for i in range(64) if i not in names.values())
    assert saved.tokenizer.vocab_size == 64 and (
        saved.tokenizer.eos,
        saved.tokenizer.never,
    ) == (0, never)
    assert {*continued(saved, "b c", max_new_tokens=20).split()} <= {*names}
    path = str(tmp_path / "read.safetensors")
    assert main(["to-hf", path, str(tmp_path / "again")]) == 0
    again = GPT2LMHeadModel.from_pretrained(tmp_path / "again")
    assert again.config.vocab_size == 64 == again.lm_head.weight.size(0)
    assert again.generation_config.suppress_tokens == [*never]
    words = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert words("b c").input_ids == [1, 9]
    assert words.decode([1, 9], skip_special_tokens=True) == "b c"
    back = read(tmp_path / "again")
    assert bytes_of(back) == bytes_of(saved)
    assert back.tokenizer.eos == saved.tokenizer.eos
    assert back.tokenizer.never == saved.tokenizer.never


def test_what_is_not_done_is_said(folder, tmp_path, capsys):
    (folder / "generation_config.json").write_text(
        json.dumps(
            dict(eos_token_id=0, repetition_penalty=1.2, min_length=0, do_sample=True)
        )
    )
    assert main(["from-gpt2", str(folder), str(tmp_path / "m")]) == 0
    assert "(without the folder's repetition_penalty);" in capsys.readouterr().out


# --- what does not fit -----------------------------------------------------


def change_config(**changes):
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def change_tensors(change):
    return lambda folder: rewrite(folder, change)


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


FC = "transformer.h.1.mlp.c_fc.weight"
WRONG = {
    "no folder": (shutil.rmtree, "hf is not a folder: name"),
    "no config": (
        lambda f: (f / "config.json").unlink(),
        "config.json is missing: add it",
    ),
    "a config that is no JSON": (
        lambda f: (f / "config.json").write_text("{"),
        "config.json is no JSON.*line 1",
    ),
    "habits that are no JSON": (
        lambda f: (f / "generation_config.json").write_text("["),
        "generation_config.json is no JSON",
    ),
    "another architecture": (change_config(model_type="llama"), "'llama'.*'gpt2'"),
    "another bend": (change_config(activation_function="relu"), "'relu'.*'gelu_new'"),
    "the exact bend": (change_config(activation_function="gelu"), "'gelu'.*'gelu_new'"),
    "another epsilon": (change_config(layer_norm_epsilon=1e-6), "1e-06.*1e-05"),
    "scores not scaled": (
        change_config(scale_attn_weights=False),
        "scale_attn_weights",
    ),
    "scores scaled by depth": (
        change_config(scale_attn_by_inverse_layer_idx=True),
        "scale_attn_by_inverse_layer_idx",
    ),
    "heads that do not divide": (change_config(n_head=3), "n_heads 3 .*d_model 16"),
    "no size": (change_config(n_embd=None), "d_model"),
    "a size in words": (change_config(n_layer="two"), "n_layers is 'two'"),
    "more layers": (change_config(n_layer=3), r"missing \['transformer.h.2.attn"),
    "fewer layers": (change_config(n_layer=1), r"too many \['transformer.h.1.attn"),
    "another width": (change_config(n_embd=24, n_head=2), r"16.*24"),
    "another context": (change_config(n_positions=64), "position_embedding.*32.*64"),
    "a head that is not there": (
        change_config(tie_word_embeddings=False),
        "lm_head.weight",
    ),
    "a missing tensor": (
        change_tensors(lambda t: {n: x for n, x in t.items() if n != FC}),
        re.escape(FC),
    ),
    "no table": (
        change_tensors(lambda t: {n: x for n, x in t.items() if "wte" not in n}),
        r"missing \['transformer.wte.weight'\]",
    ),
    "an extra tensor": (
        change_tensors(lambda t: t.update(score=torch.ones(2))),
        "score",
    ),
    "attention to another text": (
        change_tensors(
            lambda t: t.update(
                {"transformer.h.0.crossattention.c_attn.weight": torch.ones(2, 2)}
            )
        ),
        "crossattention",
    ),
    "a tensor that lies": (
        change_tensors(lambda t: {**t, FC: t[FC].T}),
        "blocks.1.mlp.expand.weight",
    ),
    "no numbers": (change_tensors(lambda t: {**t, FC: t[FC] / 0}), "finite"),
    "a pickle": (as_pickle, "pickle.*any code.*transformers"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no weights: add"),
    "damaged weights": (
        lambda f: (f / "model.safetensors").write_bytes(b"x" * 99),
        "hf does not fit .SafetensorError",
    ),
    "a larger vocabulary": (
        lambda f: byte_pairs(
            V + 50, " ".join(a + b for a in "abcdefghij" for b in "klmnopqrst" * 2)
        ).save(str(f / "tokenizer.json")),
        f"a tokenizer of [0-9]+ ids, and a model of {V}: take",
    ),
    "no tokenizer": (
        lambda f: (f / "tokenizer.json").unlink(),
        "hf has no vocab.json .and no tokenizer.json.: add",
    ),
    "half a tokenizer": (
        lambda f: [
            (f / "tokenizer.json").unlink(),
            (f / "vocab.json").write_text("{}"),
        ],
        "hf has no merges.txt",
    ),
    "a tokenizer that is no JSON": (
        lambda f: (f / "tokenizer.json").write_text("{"),
        "tokenizer.json is no JSON",
    ),
    "a tokenizer that is none": (
        lambda f: (f / "tokenizer.json").write_text("{}"),
        "hf does not fit",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_folder_that_does_not_fit_is_refused_in_one_line(
    folder, tmp_path, capsys, wrong
):
    damage, reason = WRONG[wrong]
    damage(folder)
    before = sorted(tmp_path.rglob("*"))
    assert main(["from-gpt2", str(folder), str(tmp_path / "m")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch("minigpt: error: [^\n]+\n", err), err
    assert re.search(reason, err), err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "words, reason",
    [
        ("", "to-hf CHECKPOINT OUTDIR.*from-gpt2 FOLDER CHECKPOINT"),
        ("fly a b", "to-hf CHECKPOINT OUTDIR"),
        ("to-hf a", "to-hf CHECKPOINT OUTDIR"),
        ("to-hf {ours} {folder}", "hf is there already"),
        ("to-hf {ours} {ours}", "ours is there already"),
        ("from-gpt2 {folder} {ours}", "ours is there already"),
        ("to-hf {folder} {home}/new", "is not a file"),
        ("to-hf {home}/nowhere {home}/new", "is not a file"),
        ("to-hf {folder}/config.json {home}/new", "not a whole MiniGPT checkpoint"),
        ("to-hf {ours} {home}/no/new", "no is no folder: make it"),
        ("from-gpt2 {folder} {home}/no/new", "no is no folder: make it"),
    ],
)
def test_a_wrong_command_line_is_answered_in_one_line(
    folder, tmp_path, capsys, words, reason
):
    save_ours(tmp_path / "ours", "abc")
    before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
    line = words.format(ours=tmp_path / "ours", folder=folder, home=tmp_path)
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch("minigpt: error: [^\n]+\n", err), err
    assert re.search(reason, err), err
    assert {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")} == before


def test_a_folder_that_cannot_be_finished_is_not_begun(tmp_path, monkeypatch, capsys):
    save_ours(tmp_path / "ours", "abc")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(gpt2, "save_file", fail)
    assert main(["to-hf", str(tmp_path / "ours"), str(tmp_path / "hf")]) == 2
    assert "disk full" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


# --- the programs ----------------------------------------------------------


def shell(*words) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("words", ["--help", "-h", "to-hf --help"])
def test_help_is_no_error(words, capsys):
    assert main(words.split()) == 0
    out, err = capsys.readouterr()
    assert err == "" and "to-hf CHECKPOINT OUTDIR" in out and out.count("\n") > 3


@pytest.mark.slow
def test_both_commands_and_generate_as_they_are_typed(folder, tmp_path):
    path = tmp_path / "gpt2.safetensors"
    status, out, err = shell(PROGRAM, "from-gpt2", folder, path)
    assert status == 0 and err == "" and out.count("\n") == 1
    assert f'gpt2.py generate --checkpoint "{path}"' in out
    status, out, err = shell(
        PROGRAM,
        "generate",
        "--checkpoint",
        path,
        "--prompt",
        "ῥεῖ",
        "--temperature",
        0,
        "--num-samples",
        2,
        "--max-new-tokens",
        40,
    )
    text = write(load_checkpoint(path), "ῥεῖ", temperature=0.0, max_new_tokens=40)
    assert status == 0 and out == "".join(
        f"--- sample {i} of 2\n{text}\n" for i in (1, 2)
    )
    assert "Traceback" not in err
    status, out, err = shell(PROGRAM, "to-hf", SHIPPED, tmp_path / "new")
    assert status == 0 and err == "" and out.count("\n") == 1 and "pipeline(" in out
    assert (tmp_path / "new" / "config.json").exists()


def test_without_the_library_one_line_says_what_to_install(
    folder, tmp_path, monkeypatch, capsys
):
    read(folder)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.setitem(minigpt.TOKENIZERS, ForeignTokenizer.kind, ForeignTokenizer)
    bare = runpy.run_path(str(PROGRAM))["run_words"]
    for words in (
        ["to-hf", str(SHIPPED), str(tmp_path / "new")],
        ["from-gpt2", str(folder), str(tmp_path / "new")],
    ):
        assert minigpt.main(words, bare) == 2
        assert capsys.readouterr().err == (
            'minigpt: error: install tokenizers: pip install -e ".[hf]"\n'
        )
    words = ["generate", "--checkpoint", str(tmp_path / "read.safetensors")]
    assert minigpt.main(words, bare) == 2
    err = capsys.readouterr().err
    assert 'pip install -e ".[hf]"' in err and err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_minigpt_itself_sends_such_a_checkpoint_here(folder, monkeypatch, capsys):
    read(folder)
    path = folder.parent / "read.safetensors"
    monkeypatch.delitem(minigpt.TOKENIZERS, ForeignTokenizer.kind)
    for words in (
        ["generate", "--checkpoint", str(path)],
        ["train", "--init", str(path), "--run", str(folder / "run")],
    ):
        assert minigpt.main(words) == 2
        assert capsys.readouterr().err.endswith(
            "of the kind tokenizers, not ours: use it with gpt2.py generate\n"
        )
    assert not (folder / "run").exists()


def test_a_checkpoint_that_names_no_tokenizer_is_refused(folder):
    saved = read(folder)
    for wrong in ("ba", "{}x{", "[1]", '[0, "{}"]', saved.tokenizer.characters[:-1]):
        with pytest.raises(Exception):  # noqa: B017  (each in its own way)
            ForeignTokenizer(wrong)
    with pytest.raises(MiniGPTError, match="whole MiniGPT"):
        saved.tokenizer.characters = "ba"
        saved.save(folder / "m")
        load_checkpoint(folder / "m")


# --- the chapter -----------------------------------------------------------


def test_the_program_is_short():
    assert len(PROGRAM.read_text("utf-8").splitlines()) <= 450


def test_the_table_of_names_is_that_of_the_program():
    page = (ROOT / "book" / "18_out_of_the_nest.md").read_text("utf-8")
    rows = re.findall(
        r"^\| `(\S+)`(, `bias`)? \| `(\S+)`(?:, `bias`)?(, turned)? \| "
        r"\$(.+)\$ \|$",
        page,
        re.MULTILINE,
    )
    sizes = {"V": 20, "T": 7, "C": 6, "3C": 18, "4C": 24}
    model = MiniGPT(ModelConfig(20, 7, 6, n_layers=2, n_heads=1))
    listed = {}
    for other, bias, ours, turned, shape in rows:
        numbers = [sizes[size.strip()] for size in shape.split(",")]
        for kind in ["weight", "bias"] if bias else [other.rpartition(".")[2]]:
            names = [name.rpartition(".")[0] + f".{kind}" for name in (ours, other)]
            for i in "01":
                mine, hers = (name.replace(".i.", f".{i}.") for name in names)
                listed[mine] = hers, numbers, bool(turned)
    due = {
        name: (
            theirs(name, p)[0],
            [*theirs(name, p)[1].shape],
            theirs(name, p)[1] is not p,
        )
        for name, p in model.named_parameters()
    }
    assert listed == due
