"""Chapter 17: the command line, from flags to the one line of an error."""

import io
import os
import re
import shlex
import shutil
import signal
import sys
from dataclasses import fields, replace
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import helpers
import minigpt
from helpers import assert_same_run, contents, records
from minigpt import (
    COMMANDS,
    CORPUS,
    EOS,
    FINE_TUNING,
    PRESETS,
    RESULTS,
    SHIPPED,
    UNK,
    GenerateConfig,
    Machine,
    MiniGPTError,
    ModelConfig,
    RunOptions,
    TrainConfig,
    WriteOptions,
    cached,
    command_line,
    find_checkpoint,
    find_run,
    generate,
    load_checkpoint,
    main,
    make_configs,
    new_state,
    parse,
    read_corpus,
    run_train,
    uncached,
    until,
    window_start,
    write,
)

SMALL = [
    *helpers.SMALL,
    *"--batch-size 4 --max-steps 20 --eval-interval 10 --sample-interval 20".split(),
]


@pytest.fixture(scope="module")
def home(corpus, tmp_path_factory) -> Path:
    """A folder with a trained run, and with things that are wrong."""
    home = tmp_path_factory.mktemp("home")
    assert (
        main(["train", "--data", str(corpus), "--run", str(home / "run"), *SMALL]) == 0
    )
    (home / "empty").mkdir()
    (home / "empty.py").touch()
    (home / "tiny.py").write_text("x = 1\n")
    (home / "words").mkdir()
    (home / "words" / "greek.txt").write_text("πάντα ῥεῖ\n" * 99, "utf-8")
    (home / "latin1.py").write_bytes("déjà vu".encode("latin-1"))
    (home / "false.zip").write_bytes(b"no archive")
    whole = Path(shutil.make_archive(str(home / "cut"), "xztar", corpus))
    os.truncate(whole, whole.stat().st_size // 2)
    (home / "foreign").mkdir()
    (home / "foreign" / "last.safetensors").write_bytes(b"no checkpoint")
    (home / "foreign" / ".lock").touch()
    for name, file in (("flipped", "train.npy"), ("short", "val.npy")):
        shutil.copytree(home / "run", home / name)
        content = bytearray((home / name / file).read_bytes())
        content[-5] ^= 1
        (home / name / file).write_bytes(content[9 * (name == "short") :])
    shutil.copytree(home / "run", home / "headless")
    (home / "headless" / "last.safetensors").unlink()
    return home


@pytest.fixture
def best(home) -> Path:
    return home / "run" / "best.safetensors"


@pytest.fixture
def run_folder(home, tmp_path) -> Path:
    """A copy of the trained run."""
    return Path(shutil.copytree(home / "run", tmp_path / "run"))


@pytest.fixture(autouse=True)
def cwd(tmp_path_factory, monkeypatch) -> Path:
    """An empty folder to work in, for each test."""
    folder = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def line(capsys):
    """Run a command line: its status, and what it wrote to both streams."""

    def run(*words) -> tuple[int, str, str]:
        capsys.readouterr()
        return main([*map(str, words)]), *capsys.readouterr()

    return run


# --- wrong command lines ---------------------------------------------------


TRAIN = "train --preset tiny --data {corpus} --run new"
AGAIN = "train --data {corpus} --run {home}/run"
INIT = f"{TRAIN} --init {{home}}/run/best.safetensors"
WRITE = "generate --checkpoint {home}/run/best.safetensors"
WRONG = [
    # commands, flags and values
    ("", "train.generate"),
    ("fly", "'fly'"),
    ("prepare {corpus}", "'prepare'"),  # commands that there were once
    ("evaluate", "'evaluate'"),
    ("train {corpus}", "unrecognized arguments: .*corpus"),
    ("train --droput 0.1", "--droput"),
    ("train --max-step 3", "--max-step"),  # no abbreviations
    ("train --vocab-size 99", "--vocab-size"),  # comes from the data
    ("train --unicode", "--unicode"),
    ("train --preset huge", "'huge'"),
    ("train --d-model many", "--d-model.*'many'"),
    ("train --seed", "--seed"),
    (f"{TRAIN} --n-heads 5", "n_heads 5 .*d_model 48"),
    (f"{TRAIN} --dropout 1.5", "dropout is 1.5"),
    (f"{TRAIN} --batch-size 0", "batch_size is 0"),
    (f"{TRAIN} --max-steps 0", "max_steps is 0"),
    (f"{TRAIN} --beta1 1", "beta1 is 1.0"),
    (f"{TRAIN} --warmup-steps -1", "warmup_steps is -1"),
    (f"{TRAIN} --learning-rate nan", "learning_rate is nan"),
    (f"{TRAIN} --seed -1", "seed is -1"),
    (f"{TRAIN} --max-minutes -1", "max_minutes is -1"),
    (f"{TRAIN} --max-minutes nan", "max_minutes is nan"),
    (f"{TRAIN} --device tpu", "'tpu'"),
    (f"{TRAIN} --dtype float8", "'float8'"),
    # data
    ("train --preset tiny", "corpus.xz"),  # the default, which is missing
    ("train --preset tiny --data {home}/nowhere", "no file .*nowhere: check"),
    ("train --preset tiny --data https://x.org/a.zip", "address.*downloaded"),
    ("train --preset tiny --data {home}/empty", "empty has no text.*--suffix"),
    ("train --preset tiny --data {home}/empty.py", "it is empty"),
    ("train --preset tiny --data {home}/latin1.py", "byte 1 is 0xe9"),
    (f"{TRAIN} --data {{home}}/tiny.py", "--data is given twice.*one folder"),
    ("train --preset tiny --data {home}/words", "words has no text.*--suffix"),
    (f"{TRAIN} --suffix .md,.rst", "no text in files .*.md,.rst"),
    ("train --preset tiny --data {home}/false.zip", "false.zip cannot be read"),
    ("train --preset tiny --data {home}/cut.tar.xz", "cut.tar.xz cannot be re"),
    ("train --preset tiny --data {home}/tiny.py", "split has .*--data"),
    (f"{TRAIN} --context-length 30000", "30001.*--context-length"),
    (f"{TRAIN} --context-length 1", "context_length is 1"),
    # runs
    (f"{AGAIN} --preset tiny", "holds a run.*--resume.*--overwrite"),
    (f"{AGAIN} --resume --overwrite", "--resume goes without --overwrite"),
    (f"{AGAIN} --resume --init {{home}}/run/best.safetensors", "--init"),
    (f"{AGAIN} --resume --d-model 12", "--d-model 12.* has 24"),
    (f"{AGAIN} --resume --context-length 64", "--context-length 64.* has 16"),
    (f"{AGAIN} --resume --learning-rate -1", "learning_rate is -1"),
    (f"{AGAIN} --resume --device tpu", "'tpu'"),
    (f"{AGAIN} --overwrite --device tpu", "'tpu'"),
    ("train --data nowhere --run {home}/run --overwrite", "no file .*nowhere: check"),
    (f"{TRAIN} --run {{home}}/empty.py", "empty.py"),
    ("train --run {home}/foreign --resume", "foreign"),
    ("train --run {home}/headless --resume", "without last.*--overwrite"),
    ("train --data {corpus} --run {home}/headless", "without last"),
    ("train --run {home}/flipped --resume", "flipped: train.npy and val.npy"),
    ("train --run {home}/short --resume", "short: train.npy and val.npy"),
    (f"{TRAIN} --init nowhere", "nowhere is not a file"),
    (f"{TRAIN} --init {{home}}/words", "words/last.safetensors is not a file"),
    (f"{TRAIN} --init {{home}}/foreign/last.safetensors", "foreign"),
    (f"{INIT} --d-model 48", "--d-model 48.* has 24"),
    (f"{INIT} --n-layers 2", "--n-layers 2.* has 1"),
    # writing
    ("generate", "pretrained.safetensors is not a file"),
    ("generate --checkpoint nowhere", "nowhere is not a file"),
    ("generate --checkpoint 'no\nwhere'", "no where is not a file"),
    ("generate --checkpoint {home}/words", "words/last.safetensors is not a"),
    ("generate --checkpoint {home}/foreign/last.safetensors", "foreign"),
    (f"{WRITE} --temperature -1", "temperature is -1"),
    (f"{WRITE} --temperature nan", "temperature is nan"),
    (f"{WRITE} --top-p 0", "top_p is 0"),
    (f"{WRITE} --top-p 1.5", "top_p is 1.5"),
    (f"{WRITE} --top-k -1", "top_k is -1"),
    (f"{WRITE} --max-new-tokens -1", "max_new_tokens is -1"),
    (f"{WRITE} --num-samples 0", "num_samples is 0"),
    (f"{WRITE} --num-samples 99999", "num_samples is 99999"),
    (f"{WRITE} --prompt 'def γ'", "'γ' at position 4"),
    (f"{WRITE} --prompt x --prompt-file {{home}}/tiny.py", "--prompt-file"),
    (f"{WRITE} --device tpu", "'tpu'"),
    (f"{WRITE} --dtype float8", "'float8'"),
    (f"{WRITE} --min-new-tokens -5", "min_new_tokens is -5"),
    (f"{WRITE} --seed -2", "seed is -2"),
    (f"{WRITE} --temperature hot", "--temperature.*'hot'"),
    (f"{WRITE} --seed 1e3", "--seed.*'1e3'"),
    (f"{WRITE} --stop", "--stop.*one argument"),
]


@pytest.mark.parametrize("words, reason", WRONG, ids=[w for w, _ in WRONG])
def test_a_wrong_command_line_is_one_line_and_changes_nothing(
    words, reason, line, home, corpus, cwd, monkeypatch
):
    monkeypatch.setattr(minigpt, "CORPUS", cwd / "corpus.xz")
    monkeypatch.setattr(minigpt, "SHIPPED", cwd / "pretrained.safetensors")
    before = contents(home), contents(corpus)
    status, out, err = line(*shlex.split(words.format(home=home, corpus=corpus)))
    assert status == 2
    assert re.fullmatch(r"minigpt: error: [^\n]+\n", err), err
    assert re.search(reason, err), err
    assert (contents(home), contents(corpus)) == before and not any(cwd.iterdir())
    SEEN[words] = re.sub(r"[\w./-]*[\d/][\w./-]*|'[^']*'", "*", err)


SEEN: dict[str, str] = {}  # what each line of WRONG was answered, in outline


def test_wrong_command_lines_are_many_and_answered_in_many_ways():
    assert len(WRONG) >= 60
    for command in COMMANDS:
        assert sum(words.startswith(command) for words, _ in WRONG) >= 5
    if len(SEEN) == len(WRONG):  # not when some of them were left out
        assert len({*SEEN.values()}) >= 30


# --- flags from fields -----------------------------------------------------


def typed(*words: str) -> dict:
    """The settings that a command line holds."""
    return parse([*words])[1]


def flag(f) -> str:
    return "--" + f.name.replace("_", "-")


FLAGS = [
    (command, f)
    for command, configs in {
        "train": (RunOptions, ModelConfig, TrainConfig),
        "generate": (WriteOptions,),
    }.items()
    for config in configs
    for f in fields(config)
    if f.name != "vocab_size"
]


@pytest.mark.parametrize(
    "command, f", FLAGS, ids=lambda value: getattr(value, "name", value)
)
def test_each_setting_is_a_flag_of_its_type(command, f):
    if f.type is bool:
        assert typed(command, flag(f)) == {f.name: True}
        no = flag(f).replace("--", "--no-")
        assert typed(command, no) == {f.name: False}
    else:
        value = f.type("7")
        assert typed(command, flag(f), "7") == {f.name: value}
        assert type(typed(command, flag(f), "7")[f.name]) is f.type


def test_flags_that_were_not_typed_leave_no_trace():
    assert typed("train") == typed("generate") == {}
    assert typed("train", "--seed", "3") == {"seed": 3}


def show(capsys, *words: str) -> str:
    """What a command line shows that ends the program by itself."""
    with pytest.raises(SystemExit) as end:
        main([*words])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_each_flag_its_meaning_and_its_default(command, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/minigpt.py"])
    text = " ".join(show(capsys, command, "--help").split())
    assert text.startswith(f"usage: minigpt.py {command} ")
    found = [f for name, f in FLAGS if name == command]
    assert len(found) >= 10
    for f in found:
        assert f"{flag(f)} " in text or f"{flag(f)}, " in text
        about = f.metadata["about"] + f" ({f.default}" * (f.default != "")
        assert " ".join(about.split()) in text, f.name


def test_help_names_the_defaults_of_all_presets(capsys):
    text = " ".join(show(capsys, "train", "--help").split())
    for preset, values in PRESETS.items():
        for value in values.values():
            assert f"{preset} {value}" in text
    assert "steps of the whole run (5000, " in text


def test_help_names_the_commands(capsys):
    text = show(capsys, "--help")
    assert all(f" {command} " in text for command in COMMANDS)


def test_the_program_knows_its_version(capsys):
    assert show(capsys, "--version") == f"{minigpt.__version__}\n"


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
    status, out, err = line("train", "--data", corpus, *SMALL)
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
    _, words = parse(["train", *SMALL])
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
        *SMALL,
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
    words = ["train", "--data", corpus, *SMALL, "--run", "my run"]
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


def test_the_command_that_a_finished_run_prints_writes(line, run_folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["minigpt.py"])
    status, out, _ = line("train", "--run", run_folder, "--resume")
    assert status == 0 and out.splitlines()[-2].endswith("write with:")
    python, program, *words = shlex.split(out.splitlines()[-1])
    assert (python, program) == (sys.executable, "minigpt.py")
    status, out, err = line(*words, "--max-new-tokens", 3)
    assert status == 0 and str(run_folder / "best.safetensors") in err


def test_the_same_command_line_starts_a_run_and_goes_on_with_it(
    line, corpus, home, after_step
):
    """A restarted job repeats its words, none of which is a change then."""
    words = ["train", "--data", corpus, *SMALL, "--d-ff", 0, "--resume", "--run", "new"]
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


def test_a_longer_run_and_a_changed_rate_are_printed_and_logged(line, run_folder):
    status, out, _ = line(
        "train",
        "--run",
        run_folder,
        "--resume",
        "--max-steps",
        23,
        "--learning-rate",
        0.002,
    )
    assert status == 0
    assert f"{run_folder}: step 20 of 23" in out
    for told in ("'max_steps': 23", "'learning_rate': 0.002"):
        assert told in out.partition("from here on with ")[2].splitlines()[0]
    assert "finished: 23 steps" in out
    log = records(run_folder / "metrics.jsonl")
    [change] = [r for r in log if "changes" in r]
    assert change["step"] == 20
    assert change["changes"] == {"max_steps": 23, "learning_rate": 0.002}
    last = load_checkpoint(run_folder / "last.safetensors")
    assert (last.step, last.config.max_steps) == (23, 23)
    status, out, _ = line("train", "--run", run_folder, "--resume")
    assert status == 0 and "from here on" not in out


def test_data_that_is_named_again_is_not_read_again(line, run_folder, home):
    """Whatever it is, and if it is gone: the run has its own."""
    for named in (home / "words", home / "nowhere"):
        status, out, err = line(
            "train", "--run", run_folder, "--resume", "--data", named, "--max-steps", 21
        )
        assert (status, err) == (0, "")
        assert (
            f"not read again: the text and the settings are kept in {run_folder}" in out
        )
    assert "not read again" not in line("train", "--run", run_folder, "--resume")[1]


def test_results_without_a_checkpoint_are_no_place_for_a_run(line, corpus, cwd):
    for name in RESULTS:
        folder = cwd / name / "run"
        folder.mkdir(parents=True)
        (folder / name).write_text("dear to somebody")
        for words in ([], ["--resume"]):
            status, _, err = line(
                "train", "--data", corpus, *SMALL, "--run", folder, *words
            )
            assert status == 2 and "without last.safetensors" in err
            assert contents(folder) == {name: b"dear to somebody"}
    assert {*RESULTS} == {
        "best.safetensors",
        "metrics.jsonl",
        "samples.jsonl",
        "run.json",
    }


def test_overwrite_starts_again(line, run_folder, corpus):
    (run_folder / "notes.txt").write_text("mine")
    status, out, _ = line(
        "train",
        "--data",
        corpus,
        *SMALL,
        "--run",
        run_folder,
        "--overwrite",
        "--max-minutes",
        0,
    )
    assert status == 0 and "step 0 of 20" in out
    log = records(run_folder / "metrics.jsonl")
    assert [r["step"] for r in log] == [0, 1]
    assert (run_folder / "notes.txt").read_text() == "mine"
    assert not (run_folder / "best.safetensors").exists()


def test_resume_starts_what_is_not_there(line, home, corpus):
    """Also where a kill came before the first checkpoint."""
    Path("new").mkdir()
    Path("new", "train.npy").write_bytes(b"of a run that was k")
    Path("new", "tmp-last.safetensors").write_bytes(b"killed at its begin")
    assert line("train", "--data", corpus, *SMALL, "--run", "new", "--resume")[0] == 0
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
    command = ["train", "--data", str(corpus), *SMALL, "--run", "new"]
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


def test_a_run_that_another_process_trains_is_refused(line, corpus):
    Path("run").mkdir()
    with filelock.FileLock("run/.lock"):
        status, _, err = line("train", "--data", corpus, *SMALL, "--run", "run")
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
        *SMALL,
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


def test_a_run_may_begin_with_its_own_best_weights(line, run_folder, corpus):
    own = run_folder / "best.safetensors"
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
        run_folder,
        "--overwrite",
        "--max-minutes",
        0,
        "--eval-windows",
        8,
        "--device",
        "cpu",
    )
    assert status == 0
    log = records(run_folder / "metrics.jsonl")
    assert [r["step"] for r in log] == [0, 1]
    assert log[0]["val_loss"] == pytest.approx(known.best_loss, abs=1e-6)


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


def continuation(path: Path, prompt: str, count: int = 1, **config) -> list:
    """What chapter 9 writes: a text for each of `count` rows."""
    state = load_checkpoint(path)
    ids = state.before + state.tokenizer.encode(prompt).tolist()
    steps = [
        *generate(
            uncached(state.model), torch.tensor(count * [ids]), GenerateConfig(**config)
        )
    ]
    return [
        "".join(state.tokenizer.decode(step[i : i + 1]) for step in steps)
        for i in range(count)
    ]


def printed(prompt: str, texts: list[str]) -> str:
    """What several samples are on stdout."""
    return "".join(
        f"--- sample {i} of {len(texts)}\n{prompt}{text}\n"
        for i, text in enumerate(texts, 1)
    )


def writing(best: Path, *words) -> list:
    return ["generate", "--checkpoint", best, "--device", "cpu", "--seed", 0, *words]


@pytest.mark.parametrize("prompt", ["def f", "", "x" * 13, "x" * 14, "def " * 9])
def test_stdout_is_the_prompt_its_continuation_and_a_newline(line, best, prompt):
    """Within the context of 16, past it, and from a prompt that is past it."""
    words = writing(best, "--prompt", prompt, "--max-new-tokens", 60)
    status, out, err = line(*words)
    [text] = continuation(best, prompt, max_new_tokens=60)
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
    for i in (0, 4, 5):
        prompt = "".join("0" if j == i else "x" for j in range(14))
        _, out, _ = line(
            *writing(
                best, "--prompt", prompt, "--min-new-tokens", 99, "--max-new-tokens", 99
            )
        )
        texts.append(out[14:])
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
    assert line("train", "--data", corpus, *SMALL)[0] == 130
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
    assert err.splitlines()[-1] == "240 characters, 60 a second"


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


# --- main ------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch):
    """Let another function stand for `train`."""
    return lambda run: monkeypatch.setitem(COMMANDS, "train", (run, RunOptions))


def test_ctrl_c_is_130_and_an_error_of_the_system_2(line, command):
    def interrupted(**_):
        raise KeyboardInterrupt

    def full(**_):
        raise OSError("no space left")

    command(interrupted)
    assert line("train") == (130, "", "minigpt: stopped\n")
    command(full)
    status, _, err = line("train")
    assert status == 2 and err.startswith("minigpt: error: no space left: ")


@pytest.mark.parametrize(
    "bug",
    [
        RuntimeError("a bug"),
        RuntimeError("unsupported memory format option"),
        KeyError("gloom"),
        ValueError("out of memory"),
        IndexError("CUDA error:"),
    ],
)
def test_an_error_that_nobody_foresaw_is_not_hidden(line, command, bug):
    """Whatever words are in it."""

    def broken(**_):
        raise bug

    command(broken)
    with pytest.raises(type(bug)):
        line("train")


@pytest.mark.parametrize(
    "error, told",
    [
        (MemoryError("Unable to allocate 9 GiB"), "out of memory .*9 GiB.*--batch"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory .*--batch-size"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPU"
                "Allocator: can't allocate memory"
            ),
            "out of memory .*--batch",
        ),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), "--batch"),
        (RuntimeError("CUDA error: no kernel image is available\n" * 99), "device cpu"),
        (torch.AcceleratorError("device-side assert"), "the GPU failed .*device cpu"),
        (UnicodeEncodeError("utf-8", "x", 0, 1, "surrogates"), "check the file"),
    ],
)
def test_errors_of_a_known_kind_are_one_line_with_a_remedy(line, command, error, told):
    def broken(**_):
        raise error

    command(broken)
    status, _, err = line("train")
    assert status == 2 and re.fullmatch(f"minigpt: error: .*{told}.*\n", err)
    assert len(err) < 400


def test_streams_that_are_closed_are_no_error(best, monkeypatch, capfd):
    """Python has None for them, and print takes that for stdout."""
    for name in ("stdin", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert main([*map(str, writing(best, "--prompt", "-", "--max-new-tokens", 9))]) == 0
    [text] = continuation(best, "", max_new_tokens=9)
    assert capfd.readouterr().out == text + "\n"
    monkeypatch.setattr(sys, "stdout", None)
    assert main([*map(str, writing(best))]) == 0
    assert main(["fly"]) == 2
    assert capfd.readouterr() == ("", "")


def test_what_is_said_is_in_a_file_at_once(tmp_path, monkeypatch, command):
    """`train > log`: without this, hours of a log are lost by a kill."""
    with open(tmp_path / "log", "w") as log:
        monkeypatch.setattr(sys, "stdout", log)
        command(lambda **_: print("step 1") or (tmp_path / "log").stat().st_size)
        assert main(["train"]) == len("step 1" + os.linesep)


@pytest.mark.parametrize(
    "system, argv, words",
    [
        ("posix", "minigpt.py", "/my/python minigpt.py train --run 'a b'"),
        ("nt", "minigpt.py", '/my/python minigpt.py train --run "a b"'),
        ("posix", "/bin/minigpt", "/bin/minigpt train --run 'a b'"),
        ("nt", "C:\\minigpt.exe", 'C:\\minigpt.exe train --run "a b"'),
        ("posix", "-m", "/my/python -m train --run 'a b'"),
    ],
)
def test_the_line_to_type_next_is_one_that_the_shell_reads(
    monkeypatch, system, argv, words
):
    monkeypatch.setattr(sys, "executable", "/my/python")
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", system)
        line = command_line(argv, "train", "--run", "a b")
    assert line == words


def test_a_prompt_is_read_as_a_document_is(line, best, monkeypatch):
    """With a byte order mark, and with the ends of lines of Windows."""
    told = line(*writing(best, "--prompt", "def f\n  x\n"))[:2]
    stream = io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfdef f\r\n  x\r\n"))
    monkeypatch.setattr(sys, "stdin", stream)
    assert line(*writing(best, "--prompt", "-"))[:2] == told
    assert line(*writing(best, "--prompt", "def f\r\n  x\r"))[:2] == told
    assert told[0] == 0
    saved = load_checkpoint(best)
    assert write(saved, "def f\r\n") == write(saved, "def f\n")


def test_a_reader_that_has_had_enough_is_no_error_but_no_success(
    cwd, monkeypatch, capsys, command
):
    def refused(**_):
        raise BrokenPipeError

    command(refused)
    with open(cwd / "pipe", "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["train"]) == 141
        print("what is left in the buffer")
    assert (cwd / "pipe").read_text() == capsys.readouterr().err == ""


@pytest.mark.parametrize("alphabet", ["ascii", "latin-1"])
def test_any_alphabet_is_written_to_any_terminal(alphabet, monkeypatch, command):
    stream = io.TextIOWrapper(io.BytesIO(), alphabet)
    monkeypatch.setattr(sys, "stdout", stream)
    command(lambda **_: print("\u03b1\ud800", flush=True))
    main(["train"])
    assert stream.buffer.getvalue().split() == ["\u03b1?".encode()]


@pytest.mark.parametrize("alphabet", ["ascii", "latin-1"])
def test_any_alphabet_is_read_from_any_stdin(alphabet, line, best, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO("def γ".encode()), alphabet)
    monkeypatch.setattr(sys, "stdin", stream)
    status, _, err = line(*writing(best, "--prompt", "-"))
    assert status == 2 and "'γ' at position 4" in err


def test_the_words_come_from_the_shell_if_not_given(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["minigpt.py", "fly"])
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # as in a notebook
    assert main() == 2
    assert "'fly'" in sys.stderr.getvalue()
