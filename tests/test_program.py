"""The program as a whole, from the shell: one process per command line."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import minigpt

PROGRAM = Path(minigpt.__file__).resolve()
SMALL = shlex.split("--context-length 32 --d-model 24 --n-layers 1 --n-heads 2 "
                    "--batch-size 4 --eval-windows 8 --device cpu")
SHELL = dict(os.environ, OMP_NUM_THREADS="1")
posix = pytest.mark.skipif(os.name != "posix", reason="has no such signals")


def defaults() -> None:
    """Let Ctrl-C stop a process that a script started in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(cwd: Path, *words, env=SHELL) -> subprocess.Popen:
    """Start `python minigpt.py WORDS` in a folder."""
    line = [sys.executable, str(PROGRAM), *map(str, words)]
    return subprocess.Popen(
        line, cwd=cwd, env=env, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=defaults if os.name == "posix" else None)


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """The exit status, stdout and stderr."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out.decode("utf-8"), err.decode("utf-8")


def shell(cwd: Path, *words, env=SHELL) -> tuple[int, str, str]:
    return finish(start(cwd, *words, env=env))


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory) -> Path:
    """A folder in which the corpus was prepared and a model trained."""
    cwd = tmp_path_factory.mktemp("trained")
    status, out, err = shell(cwd, "prepare", corpus)
    assert (status, err) == (0, "") and "40 documents" in out
    status, out, err = shell(cwd, "train", "--preset", "tiny", *SMALL,
                             "--max-steps", 20, "--warmup-steps", 4)
    assert (status, err) == (0, "")
    assert "step 20 of 20: validation loss" in out
    return cwd


@pytest.mark.slow
def test_a_model_is_prepared_trained_measured_and_writes(trained):
    assert {path.name for path in (trained / "checkpoints" / "tiny").iterdir()
            } == {"last.safetensors", "best.safetensors", "metrics.jsonl",
                  "samples.jsonl", "run.json", ".lock"}
    measuring = start(trained, "evaluate", "--data", "data/prepared")
    status, out, err = shell(trained, "generate", "--prompt", "def f",
                             "--max-new-tokens", 100)
    assert status == 0 and out.startswith("def f") and len(out) > 20
    [note] = err.splitlines()
    assert note.startswith("checkpoints")
    status, out, err = finish(measuring)
    assert (status, err) == (0, "") and "bits per character" in out


def test_a_wrong_command_line_has_status_2_and_one_line(trained):
    status, out, err = shell(trained, "train", "--preset", "tiny")
    assert (status, out) == (2, "")
    assert re.fullmatch("minigpt: error: checkpoints.tiny holds a run.*\n", err)


# --- signals ---------------------------------------------------------------


LONG = ["train", "--preset", "tiny", *SMALL, "--max-steps", 400,
        "--eval-interval", 400, "--sample-interval", 400]


def stop_while_training(cwd: Path, run: str, data: Path, number: int) -> tuple:
    """Send a signal to a run of 400 steps that has begun to learn."""
    process = start(cwd, *LONG, "--run", run, "--data", data)
    log = cwd / run / "metrics.jsonl"
    while process.poll() is None and not (
            log.exists() and log.read_bytes().count(b"\n") > 5):
        time.sleep(0.01)
    process.send_signal(number)
    return finish(process)


@posix
@pytest.mark.slow
def test_ctrl_c_saves_the_run_and_the_printed_command_goes_on(
        trained, tmp_path):
    data = trained / "data" / "prepared"
    status, out, err = stop_while_training(tmp_path, "my run", data,
                                           signal.SIGINT)
    assert (status, err) == (130, "")
    *_, stopped, command = out.splitlines()
    assert re.fullmatch("stopped after step .*; go on with:", stopped)
    python, program, *again = shlex.split(command)
    assert (python, program) == ("python", "minigpt.py")
    status, out, err = shell(tmp_path, *again)
    assert (status, err) == (0, "")
    assert "step 400 of 400" in out and "step 0 of" not in out


@posix
def test_sigterm_saves_the_run(trained, tmp_path):
    data = trained / "data" / "prepared"
    status, out, err = stop_while_training(tmp_path, "run", data,
                                           signal.SIGTERM)
    assert (status, err) == (143, "") and "go on with:" in out
    assert (tmp_path / "run" / "last.safetensors").exists()


ENDLESS = ["generate", "--prompt", "def f", "--max-new-tokens", 100_000,
           "--min-new-tokens", 100_000]


@posix
def test_ctrl_c_keeps_the_text_written_so_far(trained):
    process = start(trained, *ENDLESS)
    first = process.stdout.read(40)
    process.send_signal(signal.SIGINT)
    status, rest, err = finish(process)
    assert status == 130 and "Traceback" not in err
    assert first.startswith(b"def f") and len(rest) < 100_000


@posix
def test_a_reader_may_close_the_pipe(trained):
    process = start(trained, *ENDLESS)
    assert process.stdout.read(5) == b"def f"
    process.stdout.close()
    [note] = process.stderr.read().decode().splitlines()
    assert process.wait(60) == 0 and "parameters" in note


# --- other alphabets -------------------------------------------------------


def test_greek_is_written_in_utf_8_wherever_it_goes(tmp_path):
    text = "πάντα ῥεῖ καὶ οὐδὲν μένει"
    tokenizer = minigpt.Tokenizer(text)
    shape, config = minigpt.make_configs(
        "tiny", vocab_size=tokenizer.vocab_size)
    model = minigpt.MiniGPT(shape)
    optimizer = minigpt.make_optimizer(model, config)
    minigpt.Checkpoint(model, optimizer, config, tokenizer, "fingerprint").save(
        tmp_path / "greek.safetensors")
    (tmp_path / "prompt").write_text("πάντα ", "utf-8")
    ascii_only = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:strict"}
    status, out, _ = shell(
        tmp_path, "generate", "--checkpoint", "greek.safetensors",
        "--prompt-file", "prompt", "--max-new-tokens", 20,
        "--min-new-tokens", 20, env=SHELL | ascii_only)
    assert status == 0 and out.startswith("πάντα ") and len(out) == 26
    assert {*out} <= {*text}
