"""Chapter 17: the command line: `generate`, which writes, and what it writes with."""

import io
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minigpt
from helpers import (
    SHORT_RUN,
    continuation,
    writing,
)
from minigpt import (
    EOS,
    SHIPPED,
    GenerateConfig,
    MiniGPTError,
    cached,
    find_checkpoint,
    generate,
    load_checkpoint,
    main,
    uncached,
    until,
    window_start,
    write,
)

pytestmark = pytest.mark.usefixtures("cwd")


# --- until -----------------------------------------------------------------


pieces_of_text = st.lists(st.text("ab", max_size=3), max_size=12)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(pieces=pieces_of_text, stop=st.text("ab", max_size=4))
def test_the_text_ends_before_the_stop_however_it_is_cut(pieces, stop):
    text = "".join(pieces)
    before = text.partition(stop)[0] if stop else text
    assert "".join(until(pieces, stop)) == before


def test_no_more_is_held_back_than_the_stop_may_need():
    assert [*until("abcd", "")][:4] == [*"abcd"]
    read, given_out = [], ""
    for piece in until((read.append(c) or c for c in "abcdefgh"), "xyz"):
        given_out += piece
        assert len(given_out) >= len(read) - 2
    assert given_out == "abcdefgh"


def test_nothing_is_written_after_the_stop():
    rest = iter("abcdef")
    assert "".join(until(rest, "cd")) == "ab"
    assert "".join(rest) == "ef"


# --- generate --------------------------------------------------------------


def printed(prompt: str, texts: list[str]) -> str:
    """What several samples are on stdout."""
    return "".join(
        f"--- sample {i} of {len(texts)}\n{prompt}{text}\n"
        for i, text in enumerate(texts, 1)
    )


@pytest.mark.parametrize("prompt", ["def f", "", "x" * 13, "x" * 14, "def " * 9])
def test_stdout_is_the_prompt_its_continuation_and_a_newline(line, best, prompt):
    """Within the context of 16, past it, and from a prompt that is past it."""
    numbers = dict(max_new_tokens=60, min_new_tokens=21)
    flags = ("--max-new-tokens", 60, "--min-new-tokens", 21)
    words = writing(best, "--prompt", prompt, *flags)
    status, out, err = line(*words)
    [text] = continuation(best, prompt, **numbers)
    assert (status, out) == (0, prompt + text + "\n")
    assert len(text) > 20 and str(best) in err
    assert line(*words, "--no-cache")[1] == out


def test_write_gives_what_the_command_prints(line, best):
    saved = load_checkpoint(best)
    for prompt in ("def f", "", "def " * 9):
        chosen = dict(max_new_tokens=60, temperature=1.5, top_k=9, seed=3)
        [text] = continuation(best, prompt, **chosen)
        assert write(saved, prompt, **chosen) == prompt + text
        assert (
            line(
                *writing(
                    best,
                    "--prompt",
                    prompt,
                    "--max-new-tokens",
                    60,
                    "--temperature",
                    1.5,
                    "--top-k",
                    9,
                    "--seed",
                    3,
                )
            )[1]
            == prompt + text + "\n"
        )
    [text] = continuation(best, "")
    assert write(saved) == text
    with pytest.raises(MiniGPTError, match="'γ' at position 4"):
        write(saved, "def γ")


def test_write_begins_with_eos_where_nothing_is_read_before(best):
    saved = load_checkpoint(best)
    saved.before = []
    ids = torch.tensor([[EOS]])
    steps = generate(
        uncached(saved.model), ids, GenerateConfig(max_new_tokens=20, seed=3)
    )
    assert write(saved, max_new_tokens=20, seed=3) == saved.tokenizer.decode(
        [step.item() for step in steps]
    )


@pytest.mark.parametrize("length, unread", [(15, 0), (16, 7), (23, 7), (40, 31)])
def test_a_prompt_longer_than_the_context_is_noted(line, best, length, unread):
    assert window_start(1 + length, 16) == (1 + unread if unread else 0)
    prompt = ("def f1(x):\n    " * 3)[:length]
    _, out, err = line(*writing(best, "--prompt", prompt, "--max-new-tokens", 3))
    assert out.startswith(prompt)
    note = f"the first {unread} tokens of the prompt are not read.* 16\n"
    assert bool(re.search(note, err)) == (unread > 0)
    assert ("not read" in err) == (unread > 0)


def test_what_is_not_read_of_a_prompt_changes_nothing(line, best):
    """And the first character that is read does."""
    texts = []
    flags = "--num-samples 32 --min-new-tokens 20 --max-new-tokens 20".split()
    for i in (0, 6, 7):
        prompt = "".join("0" if j == i else "x" for j in range(16))
        _, out, _ = line(*writing(best, "--prompt", prompt, *flags))
        texts.append(out.replace(prompt, ""))
    assert texts[0] == texts[1] != texts[2]


def test_the_header_names_step_and_loss_of_what_writes(line, best):
    saved = load_checkpoint(best)
    _, _, err = line(*writing(best, "--max-new-tokens", 1))
    assert err.startswith(
        f"{best}: step {saved.step}, validation loss {saved.best_loss:.3f} nats"
    )


def test_a_run_stopped_before_its_first_evaluation_writes_with_its_last(
    line, corpus, cwd, after_step
):
    after_step(3, lambda: signal.raise_signal(signal.SIGINT))
    assert line("train", "--data", corpus, *SHORT_RUN)[0] == 130
    _, _, err = line("generate", "--max-new-tokens", 1)
    last = Path("checkpoints", "tiny", "last.safetensors")
    assert err.startswith(f"{last}: step 3, ") and "None" not in err


def test_the_end_says_how_much_was_written_and_how_fast(line, best, monkeypatch):
    clock = iter(range(0, 10**6, 4))
    monkeypatch.setattr(minigpt.time, "perf_counter", lambda: next(clock))
    _, out, err = line(
        *writing(
            best,
            "--prompt",
            "def ",
            "--min-new-tokens",
            80,
            "--max-new-tokens",
            80,
            "--num-samples",
            3,
        )
    )
    assert err.splitlines()[-2:] == [
        "240 characters, 60 a second",
        "the book's page Playground writes from this file, too",
    ]


def test_no_prompt_of_the_readme_is_answered_with_blanks(line):
    """Half of a text of Python are not spaces; `class Shape:` once gave nothing."""
    for prompt in ("def ", "class Shape:", ""):
        _, out, _ = line(
            "generate",
            "--checkpoint",
            SHIPPED,
            "--prompt",
            prompt,
            "--num-samples",
            20,
            "--max-new-tokens",
            120,
            "--min-new-tokens",
            120,
            "--device",
            "cpu",
        )
        out = re.sub("^--- sample .*$", "", out, flags=re.MULTILINE)
        assert len("".join(out.split())) > len(out) / 2 > 20 * 60


@pytest.mark.parametrize("prompt", ["def f", "def f\n", "", "\n\nx"])
def test_a_prompt_may_come_from_stdin(line, best, monkeypatch, prompt):
    words = writing(best, "--max-new-tokens", 20)
    expected = line(*words, "--prompt", prompt)[1]
    monkeypatch.setattr(sys, "stdin", io.StringIO(prompt))
    assert line(*words, "--prompt", "-")[1] == expected
    assert expected.startswith(prompt)


def test_each_way_to_choose_is_a_flag(line, best):
    chosen = dict(
        max_new_tokens=50,
        min_new_tokens=45,
        temperature=1.5,
        top_k=9,
        top_p=0.9,
        seed=7,
    )
    flags = [
        word
        for name, value in chosen.items()
        for word in (f"--{name.replace('_', '-')}", value)
    ]
    [text] = continuation(best, "def ", **chosen)
    assert line(*writing(best, "--prompt", "def ", *flags))[1] == (f"def {text}\n")


def test_seeds_matter_unless_the_temperature_is_0(line, best):
    def texts(*words):
        return {
            line(
                *writing(
                    best,
                    "--max-new-tokens",
                    40,
                    "--min-new-tokens",
                    40,
                    "--seed",
                    seed,
                    *words,
                )
            )[1]
            for seed in (1, 2, 3)
        }

    assert len(texts()) == 3
    assert len(texts("--temperature", 0)) == 1


def test_a_seed_that_was_not_typed_is_random_and_can_be_typed(line, best):
    words = [
        "generate",
        "--checkpoint",
        best,
        "--device",
        "cpu",
        "--min-new-tokens",
        40,
        "--max-new-tokens",
        40,
    ]
    tries = [line(*words) for _ in range(3)]
    assert len({out for _, out, _ in tries}) == 3
    for _, out, err in tries:
        again = re.search(r"--seed \d+", err).group().split()
        assert line(*words, *again)[1] == out
    assert "--seed 7\n" in line(*words, "--seed", 7)[2]


@pytest.mark.parametrize("count", [1, 2])
def test_the_text_ends_before_the_stop_text(line, best, count):
    samples = continuation(
        best, "def ", count=count, max_new_tokens=40, min_new_tokens=40
    )
    stop = samples[0][20:22]
    words = writing(
        best,
        "--prompt",
        "def ",
        "--max-new-tokens",
        40,
        "--min-new-tokens",
        40,
        "--stop",
        stop,
        "--num-samples",
        count,
    )
    short = [sample.partition(stop)[0] for sample in samples]
    expected = printed("def ", short) if count > 1 else f"def {short[0]}\n"
    assert line(*words)[1] == expected
    assert len(short[0]) <= 20


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_text_and_what_was_written_stays(
    line, best, monkeypatch, count, number
):
    def signalled(*args):
        for i, step in enumerate(generate(*args)):
            if i == 20:
                signal.raise_signal(number)
            yield step

    before = signal.getsignal(number)
    words = writing(
        best, "--prompt", "def ", "--num-samples", count, "--min-new-tokens", 500
    )
    _, whole, _ = line(*words, "--max-new-tokens", 20)
    monkeypatch.setattr(minigpt, "generate", signalled)
    status, out, err = line(*words)
    assert (status, out) == (128 + number, whole)
    assert "Traceback" not in err and signal.getsignal(number) is before


def test_several_samples_come_in_order_each_under_a_header(line, best):
    status, out, err = line(
        *writing(best, "--prompt", "def ", "--num-samples", 3, "--max-new-tokens", 30)
    )
    samples = continuation(best, "def ", count=3, max_new_tokens=30)
    assert (status, out) == (0, printed("def ", samples))
    assert len({*samples}) == 3 and "--- sample" not in err


@pytest.mark.parametrize("count, begun", [(1, "def "), (2, "--- sample 1 of 2\ndef ")])
def test_the_first_sample_is_written_as_it_is_made(best, monkeypatch, count, begun):
    stream, seen = io.TextIOWrapper(io.BytesIO(), "utf-8"), []

    def slowly(*args):
        for chosen in generate(*args):
            seen.append(stream.buffer.getvalue().decode())
            yield chosen

    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(minigpt, "generate", slowly)
    main(
        [
            *map(
                str,
                writing(
                    best,
                    "--prompt",
                    "def ",
                    "--max-new-tokens",
                    9,
                    "--min-new-tokens",
                    9,
                    "--num-samples",
                    count,
                ),
            )
        ]
    )
    n = len(begun)
    assert seen[0] == begun and [*map(len, seen)] == [*range(n, n + 9)]


@pytest.mark.parametrize(
    "words, reader", [([], "cached"), (["--no-cache"], "uncached")]
)
def test_the_cache_is_used_unless_told_otherwise(
    line, best, monkeypatch, words, reader
):
    used = []
    for name in ("cached", "uncached"):
        original = getattr(minigpt, name)
        monkeypatch.setattr(
            minigpt,
            name,
            lambda model, name=name, original=original: (
                used.append(name) or original(model)
            ),
        )
    line(*writing(best, "--max-new-tokens", 3, *words))
    assert used == [reader]


def test_text_may_be_written_in_bfloat16(line, best, monkeypatch):
    models = []
    monkeypatch.setattr(
        minigpt, "cached", lambda model: models.append(model) or cached(model)
    )
    words = writing(best, "--dtype", "bfloat16", "--max-new-tokens", 30)
    status, out, err = line(*words)
    assert status == 0 and len(out) > 0 and "bfloat16" in err
    assert models[0].norm.weight.dtype == torch.bfloat16


def test_the_newest_run_is_taken_else_the_shipped_model():
    assert find_checkpoint() == SHIPPED
    for name, age in {"old": 1, "new": 3, "older": 2}.items():
        for file in ("best", "last"):
            path = Path("checkpoints", name, f"{file}.safetensors")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            os.utime(path, (age, age))
    assert find_checkpoint() == Path("checkpoints/new/best.safetensors")
    Path("checkpoints/new/best.safetensors").unlink()
    assert find_checkpoint() == Path("checkpoints/new/last.safetensors")
    assert find_checkpoint("mine") == Path("mine")
    assert find_checkpoint("checkpoints/old") == Path(
        "checkpoints/old/best.safetensors"
    )


def test_the_newest_run_is_the_one_that_was_trained_last():
    """The best of one that still trains may be older than another's."""
    for name, ages in {"trains": (1, 5), "ended": (3, 4)}.items():
        folder = Path("checkpoints", name)
        folder.mkdir(parents=True)
        for file, age in zip(("best", "last"), ages, strict=True):
            (folder / f"{file}.safetensors").touch()
            os.utime(folder / f"{file}.safetensors", (age, age))
    assert find_checkpoint() == Path("checkpoints/trains/best.safetensors")
