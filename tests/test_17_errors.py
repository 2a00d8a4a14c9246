"""Chapter 17: the command line: what is wrong is one line, and what comes from outside."""

import io
import os
import re
import shlex
import sys

import pytest
import torch

import minigpt
from helpers import (
    contents,
    continuation,
    writing,
)
from minigpt import (
    COMMANDS,
    RunOptions,
    command_line,
    load_checkpoint,
    main,
    write,
)

pytestmark = pytest.mark.usefixtures("cwd")


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
