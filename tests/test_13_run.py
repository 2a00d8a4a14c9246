"""Chapter 13: the folder of a run, its logs, stopping well and going on."""

import json
import math
import os
import signal
from dataclasses import asdict, replace
from pathlib import Path

import filelock
import pytest
import torch
from torch import nn

import minigpt
from minigpt import (EOS, SAMPLE, Checkpoint, Dataset, MiniGPT, MiniGPTError,
                     StopSignal, evaluate, learning_rate, load_checkpoint,
                     make_configs, make_optimizer,
                     pick_machine, prepare, show_samples, train,
                     training_step, trim, uncached)

CPU = pick_machine("cpu", "float32")
SHAPE, CONFIG = make_configs(
    "tiny", context_length=16, d_model=24, n_layers=1, n_heads=2, dropout=0.2,
    batch_size=4, grad_accum=2, max_steps=20, warmup_steps=4, eval_interval=5,
    eval_windows=8, sample_interval=10, checkpoint_interval=8, device="cpu")
SHORT = replace(SAMPLE, max_new_tokens=12)
FILES = {"last.safetensors", "best.safetensors", "metrics.jsonl",
         "samples.jsonl", "run.json", ".lock"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Short samples, and the Ctrl-C that Python has by itself."""
    monkeypatch.setattr(minigpt, "SAMPLE", SHORT)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def records(log: Path) -> list[dict]:
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()]


def metrics(folder: Path) -> list[dict]:
    """The log without the one thing that differs from run to run."""
    return [{k: v for k, v in record.items() if k != "seconds"}
            for record in records(folder / "metrics.jsonl")]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """A run of 20 steps that nothing stopped; read only."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minigpt, "SAMPLE", SHORT)
        train(SHAPE, CONFIG, data, folder)
    return folder


def assert_same_run(folder: Path, whole: Path) -> None:
    """Equal to the bit: weights, moments, samples, and every log line."""
    assert metrics(folder) == metrics(whole)
    for name in ("last.safetensors", "best.safetensors", "samples.jsonl"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


# --- what a run leaves behind ----------------------------------------------


def test_a_run_is_five_files_and_its_model_that_of_bare_training_steps(
        whole, data):
    assert contents(whole).keys() == FILES
    dataset = Dataset(data, "train", 16)
    shape = replace(SHAPE, vocab_size=dataset.tokenizer.vocab_size)
    torch.manual_seed(CONFIG.seed)
    model = MiniGPT(shape)
    optimizer = make_optimizer(model, CONFIG)
    steps = [training_step(model, optimizer, dataset, step, CONFIG, CPU)
             for step in range(20)]
    logged = [r for r in metrics(whole) if "loss" in r]
    assert [(r["loss"], r["grad_norm"]) for r in logged] == steps
    last = load_checkpoint(whole / "last.safetensors")
    assert last.step == 20 and last.config == CONFIG
    assert last.model.config == shape
    for p, q in zip(last.model.parameters(), model.parameters()):
        assert torch.equal(p, q)


def test_the_log_tells_each_step_once_and_each_evaluation(whole):
    log = records(whole / "metrics.jsonl")
    steps = [r for r in log if "loss" in r]
    evaluations = [r for r in log if "val_loss" in r]
    assert len(log) == len(steps) + len(evaluations)
    assert [r["step"] for r in steps] == [*range(1, 21)]
    assert [r["step"] for r in evaluations] == [0, 5, 10, 15, 20]
    assert {*map(frozenset, steps)} == {frozenset(
        ("step", "loss", "grad_norm", "learning_rate", "seconds"))}
    assert {*map(frozenset, evaluations)} == {frozenset(
        ("step", "val_loss", "seconds"))}
    assert [r["learning_rate"] for r in steps] == [
        learning_rate(step, CONFIG) for step in range(20)]


def test_the_clock_counts_training_alone(data, tmp_path, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(minigpt.time, "perf_counter", lambda: next(clock))
    train(SHAPE, replace(CONFIG, max_steps=6), data, tmp_path / "run")
    log = records(tmp_path / "run" / "metrics.jsonl")
    assert [(r["step"], r["seconds"]) for r in log] == [
        (0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (5, 5), (6, 6), (6, 6)]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["training_seconds"] == 6


def test_the_best_weights_are_those_of_the_lowest_validation_loss(whole, data):
    losses = [r["val_loss"] for r in metrics(whole) if "val_loss" in r]
    best = load_checkpoint(whole / "best.safetensors")
    assert best.best_loss == min(losses) < losses[0]
    val = Dataset(data, "val", 16)
    assert evaluate(best.model, val, CPU, 8) == min(losses)
    assert not best.optimizer.state


def test_a_worse_model_never_replaces_the_best_even_after_resuming(
        data, tmp_path, monkeypatch, after_step):
    losses, kept, save = iter([5.0, 3.0, 4.0, 3.5, 2.0]), [], Checkpoint.save

    def note(state, path, **moments):
        save(state, path, **moments)
        if path.name == "best.safetensors":
            kept.append((state.step, load_checkpoint(path).best_loss))

    monkeypatch.setattr(minigpt, "evaluate", lambda *_: next(losses))
    monkeypatch.setattr(Checkpoint, "save", note)
    after_step(7, lambda: signal.raise_signal(signal.SIGINT))
    for resume in (False, True):
        train(SHAPE, CONFIG, data, tmp_path, resume)
    assert kept == [(5, 3.0), (20, 2.0)]  # never before the first step


def test_the_record_says_what_the_run_was(whole, data):
    record = json.loads((whole / "run.json").read_text("utf-8"))
    last = load_checkpoint(whole / "last.safetensors")
    assert record["model"] == asdict(last.model.config)
    assert record["train"] == asdict(CONFIG)
    assert (record["step"], record["best_loss"]) == (20, last.best_loss)
    assert record["fingerprint"] == Dataset(data, "val", 16).fingerprint
    assert record["machine"] == str(CPU)
    assert record["torch"] == torch.__version__
    assert record.keys() >= {"platform", "python", "peak_memory_bytes"}
    seconds = records(whole / "metrics.jsonl")[-1]["seconds"]
    assert record["training_seconds"] == pytest.approx(seconds, abs=0.06)


def test_the_record_is_there_from_the_start(data, tmp_path, after_step):
    seen = []
    after_step(1, lambda: seen.append((tmp_path / "run.json").read_text()))
    train(SHAPE, CONFIG, data, tmp_path, max_minutes=0)
    assert json.loads(seen[0])["step"] == 0


def test_a_loss_that_is_no_number_is_never_a_best(data, tmp_path, monkeypatch):
    losses = iter([math.nan, 3.0, math.inf, math.nan, 2.0])
    monkeypatch.setattr(minigpt, "evaluate", lambda *_: next(losses))
    train(SHAPE, CONFIG, data, tmp_path)
    assert load_checkpoint(tmp_path / "best.safetensors").best_loss == 2.0
    assert load_checkpoint(tmp_path / "last.safetensors").best_loss == 2.0


# --- samples ---------------------------------------------------------------


def test_eight_samples_begin_with_def(whole):
    samples = records(whole / "samples.jsonl")
    assert [r["step"] for r in samples] == [10, 20]
    for record in samples:
        assert len(record["texts"]) == 8
        assert all(t.startswith("def ") for t in record["texts"])
        assert max(map(len, record["texts"])) == 4 + 12
        assert len({*record["texts"]}) > 1


def test_samples_are_long_enough_to_be_judged(data, tmp_path, monkeypatch):
    def endless(model):
        logits = torch.zeros(8, model.config.vocab_size)
        logits[:, EOS] = -1e9
        return lambda text: logits

    monkeypatch.setattr(minigpt, "SAMPLE", SAMPLE)
    run, _ = train(SHAPE, CONFIG, data, tmp_path, max_minutes=0)
    show_samples(run, endless)
    [record] = records(tmp_path / "samples.jsonl")
    assert {*map(len, record["texts"])} == {len("def ") + 240}


def test_a_model_of_another_alphabet_begins_a_file(tmp_path):
    for i in range(9):
        text = f"{'αβγδε' * i} τα πάντα ῥεῖ καὶ οὐδὲν μένει\n" * 9
        (tmp_path / f"{i}.txt").write_text(text, "utf-8")
    prepare([tmp_path], tmp_path / "data", (".txt",), unicode=True)
    prompts = []

    def reader(model):
        next_logits = uncached(model)
        return lambda text: prompts.append(text) or next_logits(text)

    train(SHAPE, replace(CONFIG, max_steps=1, warmup_steps=0),
          tmp_path / "data", tmp_path / "run", reader=reader)
    [newline] = Dataset(tmp_path / "data", "val", 16).tokenizer.encode("\n")
    assert prompts[0].tolist() == 8 * [[EOS, newline, newline]]
    [record] = records(tmp_path / "run" / "samples.jsonl")
    assert not any("def" in text for text in record["texts"])


def test_samples_are_read_by_the_reader_that_was_given(data, tmp_path):
    models = []

    def reader(model):
        models.append(model)
        return uncached(model)

    run, _ = train(SHAPE, CONFIG, data, tmp_path, reader=reader)
    assert models == [run.state.model, run.state.model]  # at steps 10 and 20


# --- stopping and going on -------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_after_step_10_and_resumed_is_the_same_to_the_bit(
        whole, data, tmp_path, after_step, number):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    after_step(10, lambda: signal.raise_signal(number))
    run, ended_by = train(SHAPE, CONFIG, data, tmp_path)
    assert ended_by == number and run.state.step == 10
    assert load_checkpoint(tmp_path / "last.safetensors").step == 10
    assert handlers == [signal.getsignal(n)
                        for n in (signal.SIGINT, signal.SIGTERM)]
    record = json.loads((tmp_path / "run.json").read_text("utf-8"))
    assert record["step"] == 10

    seconds = records(tmp_path / "metrics.jsonl")[-1]["seconds"]
    run, ended_by = train(SHAPE, CONFIG, data, tmp_path, resume=True)
    assert ended_by == 0 and run.state.step == 20
    assert_same_run(tmp_path, whole)
    log = records(tmp_path / "metrics.jsonl")
    assert next(r for r in log if r["step"] == 11)["seconds"] > seconds


def test_a_run_that_was_killed_is_resumed_from_its_last_checkpoint(
        whole, data, tmp_path, after_step):
    def kill():
        with open(tmp_path / "metrics.jsonl", "a") as log:
            log.write('{"step": 12, "lo')  # torn
        raise RuntimeError("killed")

    after_step(11, kill)
    with pytest.raises(RuntimeError, match="killed"):
        train(SHAPE, CONFIG, data, tmp_path)
    assert load_checkpoint(tmp_path / "last.safetensors").step == 8
    assert records(tmp_path / "samples.jsonl")[-1]["step"] == 10
    train(SHAPE, CONFIG, data, tmp_path, resume=True)
    assert_same_run(tmp_path, whole)


def test_no_time_is_one_step_and_the_schedule_stays(whole, data, tmp_path):
    for step in (1, 2):
        run, number = train(SHAPE, CONFIG, data, tmp_path, resume=True,
                            max_minutes=0)
        assert (run.state.step, number) == (step, 0)
    train(SHAPE, CONFIG, data, tmp_path, resume=True)
    assert_same_run(tmp_path, whole)


def test_a_second_signal_acts_at_once(data, tmp_path, after_step):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("went on")

    after_step(11, twice)
    with pytest.raises(KeyboardInterrupt):
        train(SHAPE, CONFIG, data, tmp_path)
    assert load_checkpoint(tmp_path / "last.safetensors").step == 8


def test_signals_are_noted_only_while_it_matters():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), StopSignal() as stop:
        assert stop.number == 0
        signal.raise_signal(signal.SIGTERM)
        assert stop.number == signal.SIGTERM
        1 / 0
    assert signal.getsignal(signal.SIGTERM) == before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_finished_run_has_nothing_left_to_do(whole, data, tmp_path):
    for name, content in contents(whole).items():
        (tmp_path / name).write_bytes(content)
    run, number = train(SHAPE, CONFIG, data, tmp_path, resume=True)
    assert (run.state.step, number) == (20, 0)
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("step", [5, 12])  # after those of steps 0 and 8
def test_numbers_that_are_none_end_the_run_and_name_the_last_good(
        whole, data, tmp_path, monkeypatch, after_step, step):
    """A weight becomes NaN after a step; the next one must not be taken."""
    loss = minigpt.cross_entropy
    after_step(step, lambda: monkeypatch.setattr(
        minigpt, "cross_entropy", lambda *args: loss(*args) * math.nan))
    message = f"step {step + 1}: loss nan.*the last good checkpoint: .*last.safe"
    with pytest.raises(MiniGPTError, match=message):
        train(SHAPE, CONFIG, data, tmp_path)
    monkeypatch.setattr(minigpt, "cross_entropy", loss)
    train(SHAPE, CONFIG, data, tmp_path, resume=True)
    assert_same_run(tmp_path, whole)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes_cannot_train_in_one_folder(data, tmp_path, after_step):
    """The second is refused, until the first has died by SIGKILL."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        after_step(10, lambda: (os.write(told, b"."), signal.pause()))
        train(SHAPE, CONFIG, data, tmp_path)
        os._exit(1)
    try:
        assert os.read(ready, 1) == b"."
        before = contents(tmp_path)
        for way in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(filelock.Timeout):
                train(SHAPE, CONFIG, data, tmp_path, **way)
        assert contents(tmp_path) == before
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    run, _ = train(SHAPE, CONFIG, data, tmp_path, resume=True)
    assert run.state.step == 20


# --- a run is not touched by accident --------------------------------------


@pytest.fixture
def run_folder(whole, tmp_path) -> Path:
    """A copy of the whole run."""
    for name, content in contents(whole).items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_an_existing_run_is_refused(run_folder, data, whole):
    with pytest.raises(MiniGPTError, match="--resume.*--overwrite"):
        train(SHAPE, CONFIG, data, run_folder)
    assert contents(run_folder) == contents(whole)


@pytest.mark.parametrize("name", sorted(FILES - {".lock"}))
def test_any_file_of_a_run_is_a_run(data, tmp_path, name):
    (tmp_path / name).write_text("dear to somebody")
    with pytest.raises(MiniGPTError, match="holds a run"):
        train(SHAPE, CONFIG, data, tmp_path)
    assert contents(tmp_path) == {name: b"dear to somebody", ".lock": b""}


def test_overwrite_starts_again(run_folder, data):
    (run_folder / "notes.txt").write_text("mine")
    config = replace(CONFIG, max_steps=1, warmup_steps=0, sample_interval=10)
    run, _ = train(SHAPE, config, data, run_folder, overwrite=True)
    assert run.state.step == 1
    assert [r["step"] for r in metrics(run_folder)] == [0, 1, 1]
    assert len(records(run_folder / "samples.jsonl")) == 1
    assert (run_folder / "notes.txt").read_text() == "mine"


def test_what_is_refused_overwrites_nothing(run_folder, data, whole):
    config = replace(CONFIG, device="tpu")
    with pytest.raises(MiniGPTError, match="tpu"):
        train(SHAPE, config, data, run_folder, overwrite=True)
    assert contents(run_folder) == contents(whole)


def test_a_run_does_not_go_on_from_weights_alone(run_folder, data):
    os.replace(run_folder / "best.safetensors", run_folder / "last.safetensors")
    with pytest.raises(MiniGPTError, match="weights alone"):
        train(SHAPE, CONFIG, data, run_folder, resume=True)


def test_resume_starts_what_is_not_there(whole, data, tmp_path):
    (tmp_path / "last.safetensors.tmp").write_bytes(b"killed before the first st")
    train(SHAPE, CONFIG, data, tmp_path, resume=True)
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("name", ["best.safetensors", "metrics.jsonl", "run.json"])
def test_resume_deletes_no_run_whose_checkpoint_is_missing(run_folder, data, name):
    for path in [*run_folder.iterdir()]:
        if path.name not in (name, ".lock"):
            path.unlink()
    before = contents(run_folder)
    with pytest.raises(MiniGPTError, match="without its last.*--overwrite"):
        train(SHAPE, CONFIG, data, run_folder, resume=True)
    after = contents(run_folder)
    assert {path: after[path] for path in before} == before
    assert after.keys() - before.keys() <= {".lock"}


def test_the_checkpoint_is_written_first_of_all(whole, data, tmp_path, monkeypatch):
    """Stopped by an error before its first step, a run can go on all the same."""
    with monkeypatch.context() as patched:
        patched.setattr(minigpt, "measure", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(SHAPE, CONFIG, data, tmp_path)
    last = load_checkpoint(tmp_path / "last.safetensors")
    assert (last.step, last.best_loss) == (0, None)
    assert not (tmp_path / "best.safetensors").exists()
    train(SHAPE, CONFIG, data, tmp_path, resume=True)
    assert_same_run(tmp_path, whole)


def interrupt(*_):
    raise KeyboardInterrupt


def test_a_new_run_leaves_nothing_of_the_old_one(whole, run_folder, data):
    """A better best of the run that was here must not outlive it."""
    config = replace(CONFIG, max_steps=1, warmup_steps=0, eval_interval=9)
    (run_folder / "best.safetensors").write_bytes(b"of the old run")
    train(SHAPE, config, data, run_folder, overwrite=True)
    assert load_checkpoint(run_folder / "best.safetensors").step == 1


def test_a_stop_evaluates_nothing(data, tmp_path, after_step):
    after_step(3, lambda: signal.raise_signal(signal.SIGINT))
    train(SHAPE, CONFIG, data, tmp_path)
    assert [r["step"] for r in metrics(tmp_path) if "val_loss" in r] == [0]
    assert not (tmp_path / "best.safetensors").exists()


def test_a_run_goes_on_with_its_own_data_only(run_folder, whole, tmp_path):
    text = "".join(f"x = {i}\n" for i in range(200))
    (tmp_path / "other.py").write_text(text)
    prepare([tmp_path / "other.py"], tmp_path / "data")
    (tmp_path / "other.py").unlink()
    with pytest.raises(MiniGPTError, match="learns from data.*--data"):
        train(SHAPE, CONFIG, tmp_path / "data", run_folder, resume=True)
    for name, content in contents(whole).items():
        assert (run_folder / name).read_bytes() == content


def test_trim_drops_what_comes_after_a_step(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    assert trim(log, 2) == [{"step": 1}, {"step": 2}]
    assert log.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert trim(tmp_path / "absent.jsonl", 2) == []


# --- on other machines -----------------------------------------------------


class Compiled(nn.Module):
    """A compiled model, whose parameters have other names."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.calls = model, 0

    def forward(self, ids):
        self.calls += 1
        return self.inner(ids)


def test_a_compiled_model_trains_and_the_plain_one_is_saved(
        whole, data, tmp_path, monkeypatch):
    made = []

    def compile_model(model, ids, machine):
        assert ids.shape == (4, 16) and machine == CPU
        made.append(Compiled(model))
        return made[-1]

    monkeypatch.setattr(minigpt, "compile_model", compile_model)
    train(SHAPE, replace(CONFIG, compile=True), data, tmp_path)
    assert made[0].calls == 20 * CONFIG.grad_accum
    best, plain = (load_checkpoint(folder / "best.safetensors").model.state_dict()
                   for folder in (tmp_path, whole))
    assert all(torch.equal(best[name], plain[name]) for name in plain)
    assert load_checkpoint(tmp_path / "last.safetensors").step == 20
    assert metrics(tmp_path) == metrics(whole)


def test_a_run_computes_in_the_precision_it_was_given(data, tmp_path):
    config = replace(CONFIG, dtype="bfloat16")
    run, _ = train(SHAPE, config, data, tmp_path, max_minutes=0)
    assert run.machine == pick_machine("cpu", "bfloat16")
    assert "bfloat16" in (tmp_path / "run.json").read_text("utf-8")


def test_progress_is_told_in_nats_and_bits(data, tmp_path, capsys):
    config = replace(CONFIG, max_steps=5, eval_interval=5)
    train(SHAPE, config, data, tmp_path)
    out, err = capsys.readouterr()
    loss = metrics(tmp_path)[-1]["val_loss"]
    assert f"step 5 of 5: validation loss {loss:.3f} nats" in out
    assert "\ndef " in out
    assert err == ""  # no bar where there is no terminal
