"""Chapter 17: the command line: `train`, which starts runs and goes on with them."""

import os
import re
import shlex
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch

import minigpt
from helpers import (
    SHORT_RUN,
    assert_same_run,
    contents,
    records,
)
from minigpt import (
    CORPUS,
    FINE_TUNING,
    RESULTS,
    UNK,
    Machine,
    MiniGPTError,
    RunOptions,
    find_run,
    load_checkpoint,
    main,
    make_configs,
    new_state,
    parse,
    read_corpus,
    run_train,
    write,
)

pytestmark = pytest.mark.usefixtures("cwd")


# --- a new run -------------------------------------------------------------


@pytest.mark.parametrize(
    "device, preset", [("cpu", "laptop"), ("mps", "laptop"), ("cuda", "full")]
)
def test_the_preset_fits_the_machine_and_is_named(
    line, corpus, monkeypatch, device, preset
):
    def enough(options, *configs):
        configs_seen.append(configs)
        raise MiniGPTError("enough")

    configs_seen = []
    machine = Machine(torch.device(device), torch.float32)
    monkeypatch.setattr(minigpt, "pick_machine", lambda *_: machine)
    monkeypatch.setattr(minigpt, "new_state", enough)
    folder = Path("checkpoints", preset)
    assert find_run(RunOptions(), {}) == (folder, preset, False)
    for words in ([], ["--preset", "auto"]):
        status, out, _ = line("train", "--data", corpus, *words)
        assert status == 2 and configs_seen.pop() == (preset, {})
        assert out == f"preset {preset}, a new run in {folder}\n"


def test_a_new_run_names_its_machine_its_text_and_its_end(line, corpus, cwd):
    status, out, err = line("train", "--data", corpus, *SHORT_RUN)
    assert (status, err) == (0, "")
    folder = Path("checkpoints", "tiny")
    assert (cwd / folder / "last.safetensors").exists()
    begun, source, where, *_ = out.splitlines()
    assert begun == f"preset tiny, a new run in {folder}"
    assert source.startswith(f"{corpus}: 40 documents, ")
    assert where.startswith(f"{folder}: step 0 of 20 on cpu, ")
    assert "finished: 20 steps" in out and "whole validation split" in out
    assert "whole_val_loss" in (cwd / folder / "run.json").read_text()


def test_what_is_typed_goes_on_top_of_the_preset(line, corpus, home):
    _, words = parse(["train", *SHORT_RUN])
    words.pop("preset")
    state, text = new_state(RunOptions(data=str(corpus)), "tiny", words)
    shape, config = make_configs(
        "tiny",
        context_length=16,
        d_model=24,
        n_layers=1,
        n_heads=2,
        batch_size=4,
        max_steps=20,
        warmup_steps=4,
        eval_interval=10,
        eval_windows=8,
        sample_interval=20,
        sample_prompt="def ",
        device="cpu",
        dtype="float32",
    )
    size = text.tokenizer.vocab_size
    assert state.model.config == replace(shape, vocab_size=size)
    assert state.config == config and state.step == 0
    assert load_checkpoint(home / "run" / "last.safetensors").config == config
    again, _ = new_state(RunOptions(data=str(corpus)), "tiny", words)
    other, _ = new_state(RunOptions(data=str(corpus)), "tiny", words | {"seed": 1})
    weights = [s.model.head.weight for s in (state, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_default_text_is_the_corpus_of_the_book(corpus, monkeypatch):
    assert CORPUS.is_file()
    monkeypatch.setattr(minigpt, "CORPUS", corpus)
    _, text = new_state(RunOptions(), "tiny", {})
    assert text.fingerprint() == read_corpus(corpus).fingerprint()


def test_a_run_may_learn_from_other_files_and_alphabets(line, home, cwd):
    status, out, _ = line(
        "train",
        "--data",
        home / "words",
        "--suffix",
        ".md,.txt",
        *SHORT_RUN,
        "--run",
        "new",
        "--max-steps",
        4,
    )
    assert status == 0 and "1 documents" in out and "def " not in out
    assert not any(
        "def " in text
        for record in records(cwd / "new" / "samples.jsonl")
        for text in record["texts"]
    )
    known = load_checkpoint(cwd / "new" / "best.safetensors").tokenizer
    assert {*known.characters} == {*"πάντα ῥεῖ\n"}


@pytest.mark.parametrize(
    "words, prompt",
    [
        ("def f(x):\n    return x\n", "def "),
        ("class A:\n    def f(self): 0\n", "def "),
        ("we had read of a friend, indeed\n", ""),
        ("x = 1\n", ""),
    ],
)
def test_samples_begin_with_def_where_the_text_is_python(tmp_path, words, prompt):
    """It is not enough that the letters are known."""
    (tmp_path / "a.py").write_text(words * 199)
    state, _ = new_state(RunOptions(data=str(tmp_path)), "tiny", {})
    assert state.config.sample_prompt == prompt
    typed = {"sample_prompt": words[:1]}
    state, _ = new_state(RunOptions(data=str(tmp_path)), "tiny", typed)
    assert state.config.sample_prompt == words[:1]
    with pytest.raises(MiniGPTError, match="'λ' at position 0"):
        new_state(RunOptions(data=str(tmp_path)), "tiny", {"sample_prompt": "λ"})


@pytest.mark.parametrize(
    "fast, typed, kept",
    [
        (True, {}, "bfloat16"),
        (False, {}, "auto"),
        (True, {"dtype": "float32"}, "float32"),
    ],
)
def test_a_run_keeps_that_its_cpu_is_fast_in_bfloat16(
    corpus, tmp_path, monkeypatch, fast, typed, kept
):
    monkeypatch.setattr(minigpt, "bfloat16_is_fast", lambda: fast)
    typed = dict(max_steps=2, d_model=24, context_length=16, device="cpu") | typed
    run_train(data=str(corpus), run=str(tmp_path), preset="tiny", **typed)
    monkeypatch.setattr(minigpt, "bfloat16_is_fast", lambda: 1 / 0)  # not asked again
    run = minigpt.open_run(tmp_path, max_steps=3)
    assert run.config.dtype == kept and run.step == 2
    precise = torch.float32 if kept == "auto" else getattr(torch, kept)
    assert run.machine.dtype == precise


def test_a_misspelt_setting_is_refused_without_a_command_line(corpus, best, cwd):
    with pytest.raises(MiniGPTError, match="droput"):
        run_train(data=str(corpus), run="new", preset="tiny", droput=0.1)
    assert not any(cwd.iterdir())
    with pytest.raises(TypeError, match="temprature"):
        write(load_checkpoint(best), "def ", temprature=1.0)


# --- a run that is there ---------------------------------------------------


@pytest.mark.parametrize(
    "number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (None, 0)]
)
def test_the_command_that_a_stopped_run_prints_goes_on_with_it(
    line, corpus, home, monkeypatch, after_step, number, status
):
    monkeypatch.setattr(sys, "argv", ["my programs/minigpt.py"])
    if number:
        after_step(7, lambda: signal.raise_signal(number))
    words = ["train", "--data", corpus, *SHORT_RUN, "--run", "my run"]
    limit = [] if number else ["--max-minutes", 0]
    code, out, _ = line(*words, *limit)
    assert code == status and "finished" not in out
    assert f"stopped after step {7 if number else 1}; go on with:" in out
    python, program, *again = shlex.split(out.splitlines()[-1])
    assert (python, program) == (sys.executable, "my programs/minigpt.py")
    code, out, _ = line(*again)
    assert code == 0 and "go on with" not in out
    for name in ("last.safetensors", "best.safetensors", "samples.jsonl"):
        assert Path("my run", name).read_bytes() == (home / "run" / name).read_bytes()


def test_the_command_that_a_finished_run_prints_writes(line, own_run, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["minigpt.py"])
    status, out, _ = line("train", "--run", own_run, "--resume")
    told, command = out.splitlines()[-2:]
    assert status == 0
    assert told.endswith("; write on the book's page Playground, or with:")
    python, program, *words = shlex.split(command)
    assert (python, program) == (sys.executable, "minigpt.py")
    status, out, err = line(*words, "--max-new-tokens", 3)
    assert status == 0 and str(own_run / "best.safetensors") in err


def test_the_same_command_line_starts_a_run_and_goes_on_with_it(
    line, corpus, home, after_step
):
    """A restarted job repeats its words, none of which is a change then."""
    words = [
        "train",
        "--data",
        corpus,
        *SHORT_RUN,
        "--d-ff",
        0,
        "--resume",
        "--run",
        "new",
    ]
    after_step(7, lambda: signal.raise_signal(signal.SIGTERM))
    assert line(*words)[0] == 143
    status, out, err = line(*words)
    assert (status, err) == (0, "") and "new: step 7 of 20" in out
    assert "from here on" not in out
    assert_same_run(Path("new"), home / "run")


def test_one_number_of_the_shape_may_be_typed_alone(line, corpus):
    """The tiny preset's 3 heads divide 36, the 8 of another preset do not."""
    words = [
        "train",
        "--data",
        corpus,
        "--preset",
        "tiny",
        "--run",
        "new",
        "--d-model",
        36,
        "--n-layers",
        1,
        "--eval-windows",
        8,
        "--max-minutes",
        0,
        "--device",
        "cpu",
        "--resume",
    ]
    for step in (1, 2):
        status, out, err = line(*words)
        assert (status, err) == (0, "")
        assert f"stopped after step {step}" in out


def test_a_longer_run_and_a_changed_rate_are_printed_and_logged(line, own_run):
    status, out, _ = line(
        "train",
        "--run",
        own_run,
        "--resume",
        "--max-steps",
        23,
        "--learning-rate",
        0.002,
    )
    assert status == 0
    assert f"{own_run}: step 20 of 23" in out
    for told in ("'max_steps': 23", "'learning_rate': 0.002"):
        assert told in out.partition("from here on with ")[2].splitlines()[0]
    assert "finished: 23 steps" in out
    log = records(own_run / "metrics.jsonl")
    [change] = [r for r in log if "changes" in r]
    assert change["step"] == 20
    assert change["changes"] == {"max_steps": 23, "learning_rate": 0.002}
    last = load_checkpoint(own_run / "last.safetensors")
    assert (last.step, last.config.max_steps) == (23, 23)
    status, out, _ = line("train", "--run", own_run, "--resume")
    assert status == 0 and "from here on" not in out


def test_data_that_is_named_again_is_not_read_again(line, own_run, home):
    """Whatever it is, and if it is gone: the run has its own."""
    for named in (home / "words", home / "nowhere"):
        status, out, err = line(
            "train", "--run", own_run, "--resume", "--data", named, "--max-steps", 21
        )
        assert (status, err) == (0, "")
        assert f"not read again: the text and the settings are kept in {own_run}" in out
    assert "not read again" not in line("train", "--run", own_run, "--resume")[1]


def test_results_without_a_checkpoint_are_no_place_for_a_run(line, corpus, cwd):
    for name in RESULTS:
        folder = cwd / name / "run"
        folder.mkdir(parents=True)
        (folder / name).write_text("dear to somebody")
        for words in ([], ["--resume"]):
            status, _, err = line(
                "train", "--data", corpus, *SHORT_RUN, "--run", folder, *words
            )
            assert status == 2 and "without last.safetensors" in err
            assert contents(folder) == {name: b"dear to somebody"}
    assert {*RESULTS} == {
        "best.safetensors",
        "metrics.jsonl",
        "samples.jsonl",
        "run.json",
    }


def test_overwrite_starts_again(line, own_run, corpus):
    (own_run / "notes.txt").write_text("mine")
    status, out, _ = line(
        "train",
        "--data",
        corpus,
        *SHORT_RUN,
        "--run",
        own_run,
        "--overwrite",
        "--max-minutes",
        0,
    )
    assert status == 0 and "step 0 of 20" in out
    log = records(own_run / "metrics.jsonl")
    assert [r["step"] for r in log] == [0, 1]
    assert (own_run / "notes.txt").read_text() == "mine"
    assert not (own_run / "best.safetensors").exists()


def test_resume_starts_what_is_not_there(line, home, corpus):
    """Also where a kill came before the first checkpoint."""
    Path("new").mkdir()
    Path("new", "train.npy").write_bytes(b"of a run that was k")
    Path("new", "tmp-last.safetensors").write_bytes(b"killed at its begin")
    assert (
        line("train", "--data", corpus, *SHORT_RUN, "--run", "new", "--resume")[0] == 0
    )
    assert {path.name for path in Path("new").iterdir()} == {
        path.name for path in (home / "run").iterdir()
    }
    assert (
        Path("new", "last.safetensors").read_bytes()
        == (home / "run" / "last.safetensors").read_bytes()
    )


@pytest.mark.parametrize("words, status", [([], 2), (["--resume"], 0)])
def test_a_run_that_began_while_the_text_was_read_is_not_replaced(
    line, corpus, monkeypatch, words, status
):
    """Two jobs start in one folder; the first ends before the second begins."""
    command = ["train", "--data", str(corpus), *SHORT_RUN, "--run", "new"]
    original, first = minigpt.new_state, []

    def slow(*args):
        begun = original(*args)
        if not first:
            first.append(True)
            assert main(command) == 0
            first.append(contents(Path("new")))
        return begun

    monkeypatch.setattr(minigpt, "new_state", slow)
    assert line(*command, *words)[0] == status
    after = contents(Path("new"))
    for name in ("last.safetensors", "best.safetensors", "metrics.jsonl"):
        assert after[name] == first[1][name]


def test_a_run_that_vanishes_as_it_is_found_is_said_in_a_line(line, home, monkeypatch):
    shutil.copytree(home / "run", "run")
    original = minigpt.find_run

    def once(*args):
        found = original(*args)
        shutil.rmtree("run", ignore_errors=True)
        return found

    monkeypatch.setattr(minigpt, "find_run", once)
    status, _, err = line("train", "--run", "run", "--resume")
    assert (status, err) == (2, "minigpt: error: the run in run was just removed\n")


def test_a_run_that_another_process_trains_is_refused(line, corpus):
    Path("run").mkdir()
    with filelock.FileLock("run/.lock"):
        status, _, err = line("train", "--data", corpus, *SHORT_RUN, "--run", "run")
    assert status == 2 and re.fullmatch(
        r"minigpt: error: another process trains in run: .*--run\n", err
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes_cannot_train_in_one_folder(line, corpus, home, cwd, after_step):
    """The second is refused, until the first has died by SIGKILL."""
    command = [
        "train",
        "--data",
        str(corpus),
        *SHORT_RUN,
        "--run",
        "run",
        "--checkpoint-interval",
        "8",
    ]
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        after_step(10, lambda: (os.write(told, b"."), signal.pause()))
        main(command)
        os._exit(1)
    try:
        assert os.read(ready, 1) == b"."
        before = contents(cwd)
        for way, reason in (
            ([], "holds a run"),
            (["--resume"], "another proc"),
            (["--overwrite"], "another process trains"),
        ):
            status, _, err = line(*command, *way)
            assert status == 2 and reason in err
        assert contents(cwd) == before
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert line(*command, "--resume")[0] == 0
    best = Path("run", "best.safetensors")
    assert (
        load_checkpoint(best).best_loss
        == load_checkpoint(home / "run" / "best.safetensors").best_loss
    )


# --- beginning with given weights ------------------------------------------


def test_a_run_may_begin_with_the_weights_of_another(line, best, corpus):
    """The shape is the file's; how it is trained is the preset's and typed."""
    known = load_checkpoint(best)
    options = RunOptions(data=str(corpus), init=str(best.parent))
    state, text = new_state(options, "tiny", {"max_steps": 3, "d_model": 24})
    assert state.model.config == known.model.config
    assert (
        state.config
        == make_configs(
            "tiny", **FINE_TUNING | {"max_steps": 3, "sample_prompt": "def "}
        )[1]
    )
    assert (state.step, state.best_loss) == (0, None)
    assert not state.optimizer.state
    assert state.optimizer.param_groups[0]["lr"] == state.config.learning_rate
    assert state.before == known.before
    assert state.fingerprint == text.fingerprint()
    pairs = zip(state.model.parameters(), known.model.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)

    status, out, err = line(
        "train",
        "--data",
        corpus,
        "--init",
        best,
        "--preset",
        "tiny",
        "--run",
        "new",
        "--max-steps",
        3,
        "--warmup-steps",
        0,
        "--eval-windows",
        8,
        "--device",
        "cpu",
    )
    assert (status, err) == (0, "") and "finished: 3 steps" in out
    log = records(Path("new", "metrics.jsonl"))
    assert log[0]["val_loss"] == pytest.approx(known.best_loss, abs=1e-6)
    assert load_checkpoint(Path("new", "best.safetensors")).step == 3


def test_characters_that_the_weights_do_not_know_are_unk(line, best, cwd):
    text = "def f1(x):\n    return γ * x\n" * 60
    (cwd / "new.py").write_text(text, "utf-8")
    status, out, _ = line(
        "train",
        "--data",
        "new.py",
        "--init",
        best,
        "--preset",
        "tiny",
        "--run",
        "new",
        "--max-minutes",
        0,
        "--device",
        "cpu",
    )
    assert status == 0 and "(60 of them <unk>)" in out
    last = load_checkpoint(cwd / "new" / "last.safetensors")
    assert last.tokenizer.characters == load_checkpoint(best).tokenizer.characters
    ids = [np.load(cwd / "new" / f"{name}.npy") for name in ("train", "val")]
    assert np.count_nonzero(np.concatenate(ids) == UNK) == 60
    assert last.tokenizer.decode(np.concatenate(ids)) == text.replace("γ", "\ufffd")


def test_a_run_may_begin_with_its_own_best_weights(line, own_run, corpus):
    own = own_run / "best.safetensors"
    known = load_checkpoint(own)
    status, out, _ = line(
        "train",
        "--data",
        corpus,
        "--init",
        own,
        "--preset",
        "tiny",
        "--run",
        own_run,
        "--overwrite",
        "--max-minutes",
        0,
        "--eval-windows",
        8,
        "--device",
        "cpu",
    )
    assert status == 0
    log = records(own_run / "metrics.jsonl")
    assert [r["step"] for r in log] == [0, 1]
    assert log[0]["val_loss"] == pytest.approx(known.best_loss, abs=1e-6)
