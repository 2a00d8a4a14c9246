"""Chapter 14: the folder of a run, its logs, stopping well and going on."""

import json
import math
import os
import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import minigpt
from helpers import (
    FILES,
    SIZES,
    assert_same_run,
    contents,
    metrics,
    records,
    untrained,
)
from minigpt import (
    EOS,
    SAMPLE,
    Checkpoint,
    Corpus,
    Dataset,
    MiniGPT,
    MiniGPTError,
    Run,
    StopSignal,
    characters_per_step,
    count_parameters,
    evaluate,
    finish,
    learning_rate,
    load_checkpoint,
    make_configs,
    open_run,
    pick_machine,
    plan,
    read_corpus,
    show_samples,
    start_run,
    train,
    training_step,
    trim,
    uncached,
)

CPU = pick_machine("cpu", "float32")
SETTINGS = dict(
    dropout=0.2,
    batch_size=4,
    grad_accum=2,
    max_steps=20,
    warmup_steps=4,
    eval_interval=5,
    eval_windows=8,
    sample_interval=10,
    sample_prompt="def ",
    checkpoint_interval=8,
    device="cpu",
)
_, CONFIG = make_configs("tiny", **SIZES, **SETTINGS)
SHORT = replace(SAMPLE, max_new_tokens=12)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Short samples, and the Ctrl-C that Python has by itself."""
    monkeypatch.setattr(minigpt, "SAMPLE", SHORT)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def new_state(text: Corpus, **changes) -> Checkpoint:
    """What a run begins with, with some settings of the training changed."""
    return untrained(text, **SETTINGS | changes)


def begin(folder: Path, text: Corpus, **changes) -> Run:
    """A new run in a folder."""
    folder.mkdir(exist_ok=True)
    start_run(folder, new_state(text, **changes), text)
    return open_run(folder)


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory) -> Path:
    """A run of 20 steps that nothing stopped; read only."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minigpt, "SAMPLE", SHORT)
        run = begin(folder, text)
        assert train(run) == 0
        finish(run)
    return folder


@pytest.fixture
def run_folder(whole, tmp_path) -> Path:
    """A copy of the whole run."""
    for name, content in contents(whole).items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def assert_same_weights(model: MiniGPT, other: MiniGPT) -> None:
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)


# --- what a run leaves behind ----------------------------------------------


def test_a_run_is_seven_files_and_its_model_that_of_bare_training_steps(whole, text):
    assert contents(whole).keys() == FILES
    bare, dataset = new_state(text), Dataset(text.train, 16)
    steps = [
        training_step(bare.model, bare.optimizer, dataset, step, CONFIG, CPU)
        for step in range(20)
    ]
    logged = [r for r in metrics(whole) if "loss" in r]
    assert [(r["loss"], r["grad_norm"]) for r in logged] == steps
    last = load_checkpoint(whole / "last.safetensors")
    assert last.step == 20 and last.config == CONFIG
    assert last.model.config == bare.model.config
    assert last.before == [EOS]
    assert_same_weights(last.model, bare.model)


def test_the_log_tells_each_step_once_and_each_evaluation(whole):
    log = records(whole / "metrics.jsonl")
    steps = [r for r in log if "loss" in r]
    evaluations = [r for r in log if "val_loss" in r]
    assert len(log) == len(steps) + len(evaluations)
    assert [r["step"] for r in steps] == [*range(1, 21)]
    assert [r["step"] for r in evaluations] == [0, 5, 10, 15, 20]
    assert {*map(frozenset, steps)} == {
        frozenset(("step", "loss", "grad_norm", "learning_rate", "seconds"))
    }
    assert {*map(frozenset, evaluations)} == {
        frozenset(("step", "val_loss", "seconds"))
    }
    assert [r["learning_rate"] for r in steps] == [
        learning_rate(step, CONFIG) for step in range(20)
    ]


def test_the_clock_counts_training_alone(text, tmp_path, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(minigpt.time, "perf_counter", lambda: next(clock))
    train(begin(tmp_path, text, max_steps=6))
    log = records(tmp_path / "metrics.jsonl")
    assert [(r["step"], r["seconds"]) for r in log] == [
        (0, 0),
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 4),
        (5, 5),
        (5, 5),
        (6, 6),
        (6, 6),
    ]
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["training_seconds"] == 6


def test_the_best_weights_are_those_of_the_lowest_validation_loss(whole, text):
    losses = [r["val_loss"] for r in metrics(whole) if "val_loss" in r]
    best = load_checkpoint(whole / "best.safetensors")
    assert best.best_loss == min(losses) < losses[0]
    assert evaluate(best.model, Dataset(text.val, 16), CPU, 8) == min(losses)
    assert not best.optimizer.state


def test_a_worse_model_never_replaces_the_best_even_after_resuming(
    text, tmp_path, monkeypatch, after_step
):
    losses, kept, save = iter([5.0, 3.0, 4.0, 3.5, 2.0]), [], Checkpoint.save

    def note(state, path, **moments):
        save(state, path, **moments)
        if path.name == "best.safetensors":
            kept.append((state.step, load_checkpoint(path).best_loss))

    monkeypatch.setattr(minigpt, "evaluate", lambda *_: next(losses))
    monkeypatch.setattr(Checkpoint, "save", note)
    after_step(7, lambda: signal.raise_signal(signal.SIGINT))
    assert train(begin(tmp_path, text)) == signal.SIGINT
    assert train(open_run(tmp_path)) == 0
    assert kept == [(5, 3.0), (20, 2.0)]  # never before the first step


def test_the_record_says_what_the_run_was(whole, text):
    record = json.loads((whole / "run.json").read_text("utf-8"))
    last = load_checkpoint(whole / "last.safetensors")
    assert record["model"] == asdict(last.model.config)
    assert record["train"] == asdict(CONFIG)
    assert (record["step"], record["best_loss"]) == (20, last.best_loss)
    assert record["fingerprint"] == text.fingerprint()
    assert record["machine"] == str(CPU)
    assert record["torch"] == torch.__version__
    assert record.keys() >= {"platform", "python"}
    seconds = records(whole / "metrics.jsonl")[-1]["seconds"]
    assert record["training_seconds"] == pytest.approx(seconds, abs=0.06)


def test_the_record_keeps_up_with_the_checkpoint(text, tmp_path, after_step):
    seen = []
    after_step(9, lambda: seen.append((tmp_path / "run.json").read_text()))
    train(begin(tmp_path, text, max_steps=10))
    assert json.loads(seen[0])["step"] == 8
    assert json.loads((tmp_path / "run.json").read_text())["step"] == 10


def test_the_end_of_a_run_measures_its_last_weights_on_the_whole_split(
    whole, run_folder, text, capsys
):
    val, last = Dataset(text.val, 16), load_checkpoint(whole / "last.safetensors")
    loss = evaluate(last.model, val, CPU)
    assert loss != evaluate(last.model, val, CPU, 8)
    record = json.loads((whole / "run.json").read_text("utf-8"))
    assert record["whole_val_loss"] == loss
    capsys.readouterr()
    finish(open_run(run_folder))
    finished, reading, measured = capsys.readouterr().out.splitlines()
    seconds = records(whole / "metrics.jsonl")[-1]["seconds"]
    wait = seconds / (20 * 4 * 2 * 16) * len(text.val) / 3
    for told in ("20 steps", f"{seconds / 60:.1f} minutes", str(run_folder)):
        assert told in finished
    assert f"about {wait:.0f} s" in reading
    for told in (f"{loss:.3f} nats", f"{loss / math.log(2):.3f} bits"):
        assert told in measured


def test_a_run_says_at_the_start_what_it_is_about_to_do(text, tmp_path):
    run = begin(tmp_path, text)
    assert characters_per_step(run) == 4 * 2 * 16
    epochs = 20 * 128 / len(text.train)
    assert plan(run) == (
        f"{count_parameters(run.model):,} parameters, a vocabulary of "
        f"{text.tokenizer.vocab_size}; 20 steps of 128 characters "
        f"({epochs:.2g} epochs), learning rate up to 0.004"
    )


def test_a_loss_that_is_no_number_is_never_a_best(text, tmp_path, monkeypatch):
    losses = iter([math.nan, 3.0, math.inf, math.nan, 2.0])
    monkeypatch.setattr(minigpt, "evaluate", lambda *_: next(losses))
    train(begin(tmp_path, text))
    assert load_checkpoint(tmp_path / "best.safetensors").best_loss == 2.0
    assert load_checkpoint(tmp_path / "last.safetensors").best_loss == 2.0


# --- samples ---------------------------------------------------------------


def test_eight_samples_begin_as_the_run_is_told(whole):
    samples = records(whole / "samples.jsonl")
    assert [r["step"] for r in samples] == [10, 20]
    for record in samples:
        assert len(record["texts"]) == 8
        assert all(t.startswith("def ") for t in record["texts"])
        assert max(map(len, record["texts"])) == 4 + 12
        assert len({*record["texts"]}) > 1


def test_samples_are_long_enough_to_be_judged(text, tmp_path, monkeypatch):
    def endless(model):
        logits = torch.zeros(8, model.config.vocab_size)
        logits[:, EOS] = -1e9
        return lambda text: logits

    monkeypatch.setattr(minigpt, "SAMPLE", SAMPLE)
    show_samples(begin(tmp_path, text), endless)
    [record] = records(tmp_path / "samples.jsonl")
    assert {*map(len, record["texts"])} == {len("def ") + 240}


def test_a_beginning_that_the_model_does_not_know_is_refused_at_once(run_folder):
    with pytest.raises(MiniGPTError, match="'λ' at position 1"):
        open_run(run_folder, sample_prompt="xλ")


@pytest.mark.parametrize(
    "words", ["πάντα ῥεῖ καὶ οὐδὲν μένει\n", "a friend of reading\n"]
)
def test_samples_begin_a_file_unless_they_are_told_otherwise(tmp_path, words):
    for i in range(9):
        (tmp_path / f"{i}.txt").write_text(words * (9 + i), "utf-8")
    text, prompts = read_corpus(tmp_path, ".txt"), []

    def reader(model):
        next_logits = uncached(model)
        return lambda text: prompts.append(text) or next_logits(text)

    train(
        begin(tmp_path / "run", text, max_steps=1, warmup_steps=0, sample_prompt=""),
        reader=reader,
    )
    assert prompts[0].tolist() == 8 * [[EOS]]
    [record] = records(tmp_path / "run" / "samples.jsonl")
    assert not any("def " in text for text in record["texts"])


def test_samples_are_read_by_the_reader_that_was_given(text, tmp_path):
    models = []

    def reader(model):
        models.append(model)
        return uncached(model)

    run = begin(tmp_path, text)
    train(run, reader=reader)
    assert models == [run.model, run.model]  # at steps 10 and 20


# --- stopping and going on -------------------------------------------------


@pytest.mark.parametrize("step", [7, 10])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_stopped_and_resumed_is_the_same_to_the_bit(
    whole, text, tmp_path, after_step, number, step
):
    """Between two evaluations, which come every 5 steps, and at one of them."""
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    after_step(step, lambda: signal.raise_signal(number))
    run = begin(tmp_path, text)
    assert train(run) == number and run.step == step
    assert load_checkpoint(tmp_path / "last.safetensors").step == step
    assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    record = json.loads((tmp_path / "run.json").read_text("utf-8"))
    assert record["step"] == step

    seconds = records(tmp_path / "metrics.jsonl")[-1]["seconds"]
    run = open_run(tmp_path)
    assert run.seconds == seconds
    assert train(run) == 0 and run.step == 20
    assert_same_run(tmp_path, whole)
    log = records(tmp_path / "metrics.jsonl")
    assert next(r for r in log if r["step"] == step + 1)["seconds"] > seconds


def test_a_run_that_was_killed_is_resumed_from_its_last_checkpoint(
    whole, text, tmp_path, after_step
):
    def kill():
        with open(tmp_path / "metrics.jsonl", "a") as log:
            log.write('{"step": 12, "lo')  # torn
        raise RuntimeError("killed")

    after_step(11, kill)
    with pytest.raises(RuntimeError, match="killed"):
        train(begin(tmp_path, text))
    assert load_checkpoint(tmp_path / "last.safetensors").step == 8
    assert records(tmp_path / "samples.jsonl")[-1]["step"] == 10
    train(open_run(tmp_path))
    assert_same_run(tmp_path, whole)


def test_no_time_is_one_step_and_the_schedule_stays(whole, text, tmp_path):
    run = begin(tmp_path, text)
    for step in (1, 2):
        assert (train(run, deadline=0), run.step) == (0, step)
        run = open_run(tmp_path)
    train(run)
    assert_same_run(tmp_path, whole)


def test_a_second_signal_acts_at_once(text, tmp_path, after_step):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("went on")

    after_step(11, twice)
    with pytest.raises(KeyboardInterrupt):
        train(begin(tmp_path, text))
    assert load_checkpoint(tmp_path / "last.safetensors").step == 8


def test_the_first_signal_is_answered_at_once(text, tmp_path, after_step, capfd):
    """Or somebody presses again, and loses what was not saved."""
    after_step(3, lambda: signal.raise_signal(signal.SIGINT))
    train(begin(tmp_path, text))
    assert "again to stop without saving" in capfd.readouterr().err


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs terminals")
def test_the_end_of_the_terminal_stops_a_run_unless_it_is_ignored(
    text, tmp_path, after_step
):
    """It is ignored behind nohup, and must stay so. (The tests may be, too.)"""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        after_step(3, lambda: signal.raise_signal(signal.SIGHUP))
        assert train(begin(tmp_path / "a", text)) == signal.SIGHUP
        assert load_checkpoint(tmp_path / "a" / "last.safetensors").step == 3
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        after_step(3, lambda: signal.raise_signal(signal.SIGHUP))
        assert train(begin(tmp_path / "b", text)) == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_in_another_thread_trains_without_signals(text, tmp_path, whole):
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(train, begin(tmp_path, text)).result() == 0
    assert_same_run(tmp_path, whole)


def test_a_run_goes_on_though_nobody_hears_it(text, tmp_path, whole, monkeypatch):
    """The terminal was closed, or the reader of a pipe has ended."""

    class Closed:
        def write(self, text):
            raise OSError(5, "Input/output error")

    run = begin(tmp_path, text)
    monkeypatch.setattr(sys, "stdout", Closed())
    assert train(run) == 0
    finish(run)
    monkeypatch.undo()
    assert_same_run(tmp_path, whole)


def test_signals_are_noted_only_while_it_matters():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), StopSignal() as stop:
        assert stop.number == 0
        signal.raise_signal(signal.SIGTERM)
        assert stop.number == signal.SIGTERM
        1 / 0  # noqa: B018
    assert signal.getsignal(signal.SIGTERM) == before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_stop_evaluates_nothing(text, tmp_path, after_step):
    after_step(3, lambda: signal.raise_signal(signal.SIGINT))
    train(begin(tmp_path, text))
    assert [r["step"] for r in metrics(tmp_path) if "val_loss" in r] == [0]
    assert not (tmp_path / "best.safetensors").exists()


def test_a_finished_run_has_nothing_left_to_do(whole, run_folder):
    run = open_run(run_folder)
    assert (train(run), run.step) == (0, 20)
    assert_same_run(run_folder, whole)


@pytest.mark.parametrize("step", [5, 12])  # after those of steps 0 and 8
def test_numbers_that_are_none_end_the_run_and_the_last_good_goes_on(
    whole, text, tmp_path, monkeypatch, after_step, step
):
    """A loss becomes NaN after a step; the next one must not be taken."""
    loss = minigpt.cross_entropy
    after_step(
        step,
        lambda: monkeypatch.setattr(
            minigpt, "cross_entropy", lambda *args: loss(*args) * math.nan
        ),
    )
    message = f"step {step + 1}: loss nan.*--resume.*last checkpoint"
    with pytest.raises(MiniGPTError, match=message):
        train(begin(tmp_path, text))
    assert load_checkpoint(tmp_path / "last.safetensors").step == step // 8 * 8
    monkeypatch.setattr(minigpt, "cross_entropy", loss)
    train(open_run(tmp_path))
    assert_same_run(tmp_path, whole)


# --- what a run begins with ------------------------------------------------


def test_the_ids_are_written_first_and_then_the_checkpoint_of_step_0(
    text, tmp_path, monkeypatch
):
    written, rename = [], os.replace

    def note(old, new):
        rename(old, new)
        written.append(Path(new).name)

    monkeypatch.setattr(os, "replace", note)
    start_run(tmp_path, new_state(text), text)
    assert {*written[:2]} == {"train.npy", "val.npy"}
    assert written[2:] == ["last.safetensors"]
    last = load_checkpoint(tmp_path / "last.safetensors")
    assert (last.step, last.best_loss) == (0, None)
    assert contents(tmp_path).keys() == {*written}  # no best, no log


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_beginning_that_was_cut_short_leaves_no_checkpoint(
    text, run_folder, monkeypatch, renames
):
    """New ids beside an old checkpoint would be a run of neither."""
    left, rename = [renames], os.replace

    def broken(*paths):
        if not left[0]:
            raise OSError("killed")
        left[0] -= 1
        rename(*paths)

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="killed"):
        start_run(run_folder, new_state(text), text)
    assert not (run_folder / "last.safetensors").exists()
    assert not [*run_folder.glob("tmp-*")]


def interrupt(*_):
    raise KeyboardInterrupt


def test_a_run_that_was_killed_before_its_first_step_goes_on(
    whole, text, tmp_path, monkeypatch
):
    run = begin(tmp_path, text)
    with monkeypatch.context() as patched:
        patched.setattr(minigpt, "evaluate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(run)
    assert not (tmp_path / "best.safetensors").exists()
    train(open_run(tmp_path))
    assert_same_run(tmp_path, whole)


def test_a_first_evaluation_that_was_logged_and_lost_is_not_logged_twice(
    whole, text, tmp_path, after_step
):
    after_step(3, interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(begin(tmp_path, text))
    assert len(records(tmp_path / "metrics.jsonl")) == 4
    train(open_run(tmp_path))
    assert_same_run(tmp_path, whole)


def test_a_new_run_leaves_nothing_of_the_old_one(run_folder, text):
    """A better best of the run that was here must not outlive it."""
    (run_folder / "notes.txt").write_text("mine")
    run = begin(run_folder, text, max_steps=1, warmup_steps=0)
    assert not (run_folder / "best.safetensors").exists()
    train(run)
    assert load_checkpoint(run_folder / "best.safetensors").step == 1
    assert [r["step"] for r in metrics(run_folder)] == [0, 1, 1]
    assert len(records(run_folder / "samples.jsonl")) == 1
    assert (run_folder / "notes.txt").read_text() == "mine"


# --- the text is kept with the run -----------------------------------------


def test_a_run_keeps_its_text_and_maps_it_into_memory(whole, run_folder, text):
    run = open_run(run_folder)
    for name, kept in (("train", run.train), ("val", run.val)):
        ids, known = np.load(whole / f"{name}.npy"), getattr(text, name)
        assert isinstance(kept.ids, np.memmap) and not kept.ids.flags.writeable
        assert ids.dtype == known.dtype == np.uint8
        assert np.array_equal(ids, known) and np.array_equal(kept.ids, known)


def test_a_run_goes_on_when_the_files_it_was_read_from_are_gone(tmp_path):
    source, folder = tmp_path / "source", tmp_path / "run"
    source.mkdir()
    for i in range(9):
        (source / f"{i}.py").write_text(f"def x(): {i}\n" * 50)
    train(begin(folder, read_corpus(source)), deadline=0)
    for path in source.iterdir():
        path.unlink()
    source.rmdir()
    assert train(open_run(folder, max_steps=2)) == 0
    assert load_checkpoint(folder / "last.safetensors").step == 2


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)


def swap(path: Path) -> None:
    other = path.with_name("val.npy" if path.name == "train.npy" else "train.npy")
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


DAMAGES = {
    "a bit": flip,
    "exchanged": swap,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "no header": lambda path: path.write_bytes(b"\0" * 500),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["train.npy", "val.npy"])
def test_damaged_ids_are_refused_and_nothing_else_is_touched(run_folder, name, damage):
    DAMAGES[damage](run_folder / name)
    before = contents(run_folder)
    with pytest.raises(MiniGPTError, match="train.npy.*val.npy"):
        open_run(run_folder)
    assert contents(run_folder) == before


# --- settings that change --------------------------------------------------


def test_a_run_can_be_made_longer(whole, run_folder, text):
    """Its further steps are those of the longer schedule."""
    train(open_run(run_folder, max_steps=26))
    config, state = (
        replace(CONFIG, max_steps=26),
        load_checkpoint(whole / "last.safetensors"),
    )
    steps = [
        training_step(
            state.model, state.optimizer, Dataset(text.train, 16), step, config, CPU
        )
        for step in range(20, 26)
    ]
    log = metrics(run_folder)
    assert log[: len(metrics(whole))] == metrics(whole)
    assert [
        (r["loss"], r["grad_norm"]) for r in log if "loss" in r and r["step"] > 20
    ] == steps
    last = load_checkpoint(run_folder / "last.safetensors")
    assert (last.step, last.config) == (26, config)
    assert_same_weights(last.model, state.model)


def test_changed_rates_apply_from_the_step_on_and_are_logged(
    text, tmp_path, after_step
):
    after_step(7, lambda: signal.raise_signal(signal.SIGINT))
    train(begin(tmp_path, text))
    changes = dict(learning_rate=1e-3, min_learning_rate=2e-4)
    train(open_run(tmp_path, **changes), deadline=0)
    train(open_run(tmp_path))  # the checkpoint knows
    log = metrics(tmp_path)
    assert [r for r in log if "changes" in r] == [{"step": 7, "changes": changes}]
    assert (
        log.index({"step": 7, "changes": changes})
        == next(i for i, r in enumerate(log) if r["step"] == 8) - 1
    )
    config = replace(CONFIG, **changes)
    assert [r["learning_rate"] for r in log if "loss" in r] == [
        *(learning_rate(step, CONFIG) for step in range(7)),
        *(learning_rate(step, config) for step in range(7, 20)),
    ]
    assert load_checkpoint(tmp_path / "last.safetensors").config == config
    record = json.loads((tmp_path / "run.json").read_text("utf-8"))
    assert record["train"] == asdict(config)


def test_a_change_that_is_logged_outlives_a_kill(text, tmp_path, after_step):
    """The log must not tell of a rate at which nothing was learned."""
    after_step(7, lambda: signal.raise_signal(signal.SIGINT))
    train(begin(tmp_path, text, checkpoint_interval=20))
    open_run(tmp_path, learning_rate=1e-3)  # and killed before it could save
    run = open_run(tmp_path)
    told = [r for r in metrics(tmp_path) if "changes" in r]
    assert run.config.learning_rate == (1e-3 if told else 4e-3)


def test_a_setting_that_is_what_it_was_is_no_change(whole, run_folder):
    open_run(run_folder, **asdict(CONFIG))
    assert metrics(run_folder) == metrics(whole)


@pytest.mark.parametrize(
    "name, value, known",
    [
        ("d_model", 48, 24),
        ("n_layers", 2, 1),
        ("context_length", 32, 16),
        ("dropout", 0.0, 0.2),
        ("d_ff", 50, 96),
    ],
)
def test_the_shape_of_a_model_cannot_change(whole, run_folder, name, value, known):
    flag = "--" + name.replace("_", "-")
    with pytest.raises(MiniGPTError, match=f"{flag} {value}.* {known}"):
        open_run(run_folder, **{name: value})
    assert contents(run_folder) == contents(whole)


@pytest.mark.parametrize(
    "shape", [dict(d_model=24, dropout=0.2), dict(d_ff=96), dict(d_ff=0)]
)
def test_the_shape_that_a_model_has_may_be_said_again(run_folder, shape):
    """Also in the words in which it was begun: a d_ff of 0 is 4 d_model."""
    assert open_run(run_folder, **shape).model.config.d_ff == 96


@pytest.mark.parametrize(
    "changes, reason",
    [
        (dict(learning_rate=-1.0), "learning_rate is -1"),
        (dict(max_steps=2.5), "max_steps is 2.5"),
        (dict(device="tpu"), "tpu"),
        (dict(dtype="float8"), "float8"),
        (dict(learnin_rate=1e-3), "learnin_rate"),
    ],
)
def test_a_change_that_is_wrong_is_refused_before_anything_is_written(
    whole, run_folder, changes, reason
):
    with pytest.raises(MiniGPTError, match=reason):
        open_run(run_folder, **changes)
    assert contents(run_folder) == contents(whole)


def test_a_run_does_not_go_on_from_weights_alone(run_folder):
    os.replace(run_folder / "best.safetensors", run_folder / "last.safetensors")
    with pytest.raises(MiniGPTError, match="weights alone.*--init"):
        open_run(run_folder)


# --- logs ------------------------------------------------------------------


def test_trim_drops_what_comes_after_a_step(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    assert trim(log, 2) == [{"step": 1}, {"step": 2}]
    assert log.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert trim(log, 0) == [] and log.read_text() == ""
    assert trim(tmp_path / "absent.jsonl", 2) == []


def test_a_log_that_was_damaged_loses_the_damaged_lines(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"st\n[3]\n7\n{}\n{"step": "2"}\n\n{"step": 2}\n')
    assert trim(log, 2) == [{"step": 1}, {"step": 2}]
    assert log.read_text() == '{"step": 1}\n{"step": 2}\n'


# --- on other machines, and what is seen -----------------------------------


def test_a_run_computes_in_the_precision_it_was_given(text, tmp_path):
    run = begin(tmp_path, text, dtype="bfloat16")
    assert run.machine == pick_machine("cpu", "bfloat16")
    train(run, deadline=0)
    assert "bfloat16" in (tmp_path / "run.json").read_text("utf-8")


def test_progress_is_told_in_nats_and_bits(text, tmp_path, capsys):
    train(begin(tmp_path, text, max_steps=10))
    out, err = capsys.readouterr()
    for record in metrics(tmp_path):
        if "val_loss" in record:
            loss = record["val_loss"]
            assert (
                f"step {record['step']}: validation loss {loss:.3f} nats "
                f"({loss / math.log(2):.3f} bits) per character"
            ) in out
    assert "\ndef " in out
    assert err == ""  # no bar where there is no terminal


def test_an_evaluation_says_how_far_the_run_is_and_how_fast(
    text, tmp_path, capsys, monkeypatch
):
    """A step reads 2 x 4 windows of 16 characters, here in a second each."""
    clock = iter(range(10**6))
    monkeypatch.setattr(minigpt.time, "perf_counter", lambda: next(clock))
    train(begin(tmp_path, text))
    [line] = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("step 5: ")
    ]
    assert re.search(r" 25% 640/2.56k \[00:05<00:15, 128char/s\]", line), line


def test_a_changed_decay_works_from_here_on_and_not_from_the_next_stop(
    text, tmp_path, after_step
):
    """Undisturbed or stopped once more, the run is the same."""
    ends = []
    for name, stops in (("a", []), ("b", [9])):
        (tmp_path / name).mkdir()
        after_step(5, lambda: signal.raise_signal(signal.SIGINT))
        train(begin(tmp_path / name, text))
        run = open_run(tmp_path / name, weight_decay=5.0, beta1=0.5)
        group = run.optimizer.param_groups[0]
        assert (group["weight_decay"], group["betas"][0]) == (5.0, 0.5)
        for step in stops:
            after_step(step, lambda: signal.raise_signal(signal.SIGINT))
            train(run)
            run = open_run(tmp_path / name)
        train(run)
        ends.append((tmp_path / name / "last.safetensors").read_bytes())
    assert ends[0] == ends[1]
