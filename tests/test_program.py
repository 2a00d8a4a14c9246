"""The program as a whole, from the shell: one process per command line."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest

import helpers
import minigpt

PROGRAM = Path(minigpt.__file__).resolve()
SMALL = [*helpers.SMALL, *"--context-length 32 --batch-size 4".split()]
SHELL = dict(os.environ, OMP_NUM_THREADS="1")
posix = pytest.mark.skipif(os.name != "posix", reason="has no such signals")


def defaults() -> None:
    """Let Ctrl-C stop a process that a script started in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(cwd: Path, *words, env=SHELL) -> subprocess.Popen:
    """Start `python minigpt.py WORDS` in a folder."""
    line = [sys.executable, str(PROGRAM), *map(str, words)]
    return subprocess.Popen(
        line,
        cwd=cwd,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=defaults if os.name == "posix" else None,
    )


def finish(process: subprocess.Popen, stdin: str = "") -> tuple[int, str, str]:
    """The exit status, stdout and stderr, each byte of them."""
    out, err = process.communicate(stdin.encode("utf-8"), timeout=60)
    return process.returncode, out.decode("utf-8"), err.decode("utf-8")


def shell(cwd: Path, *words, env=SHELL, stdin="") -> tuple[int, str, str]:
    return finish(start(cwd, *words, env=env), stdin)


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory) -> Path:
    """A folder in which a model was trained."""
    cwd = tmp_path_factory.mktemp("trained")
    status, out, err = shell(
        cwd,
        "train",
        "--data",
        corpus,
        *SMALL,
        "--max-steps",
        20,
    )
    assert (status, err) == (0, "")
    assert "40 documents" in out and "finished: 20 steps" in out
    return cwd


def test_no_check_of_what_is_typed_is_an_assertion(
    corpus, tmp_path, monkeypatch, capsys
):
    """What -OO leaves out, nothing relies on. (PyTorch itself is as it was.)"""
    name = "minigpt_stripped"
    stripped = ModuleType(name)
    stripped.__file__ = str(PROGRAM)
    monkeypatch.setitem(sys.modules, name, stripped)
    source = PROGRAM.read_text("utf-8")
    exec(compile(source, str(PROGRAM), "exec", optimize=2), vars(stripped))
    assert stripped.training_step.__doc__ is None
    monkeypatch.chdir(tmp_path)
    train = ["train", "--data", str(corpus), *SMALL, "--run", "r", "--max-steps", "2"]
    assert stripped.main(train) == 0
    write = ["generate", "--checkpoint", "r", "--max-new-tokens", "3"]
    assert stripped.main(write) == 0
    capsys.readouterr()
    assert stripped.main(["generate", "--device", "tpu"]) == 2
    assert "error: there is no device 'tpu'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["-OO"], ["-O"]])
def test_it_trains_and_writes_without_docstrings_and_asserts(corpus, tmp_path, flags):
    """What -OO leaves out, no check of what a user types may be."""
    program = (
        f"import sys; sys.path.insert(0, {str(PROGRAM.parent)!r}); import minigpt\n"
        "for line in sys.argv[1:]: print('status', minigpt.main(line.split('|')))"
    )
    lines = [
        f"train|--data|{corpus}|--preset|tiny|--run|r|--max-steps|2|--device|cpu",
        "generate|--checkpoint|r|--max-new-tokens|3|--device|cpu",
        "generate|--device|tpu",
    ]
    done = subprocess.run(
        [sys.executable, *flags, "-B", "-c", program, *lines],
        cwd=tmp_path,
        env=SHELL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    statuses = [line for line in done.stdout.splitlines() if line.startswith("status ")]
    assert statuses == ["status 0", "status 0", "status 2"], done.stderr
    assert "error: there is no device 'tpu'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_model_is_trained_and_writes(trained):
    assert {path.name for path in (trained / "checkpoints" / "tiny").iterdir()} == {
        "last.safetensors",
        "best.safetensors",
        "train.npy",
        "val.npy",
        "metrics.jsonl",
        "samples.jsonl",
        "run.json",
        ".lock",
    }
    status, out, err = shell(
        trained,
        "generate",
        "--prompt",
        "def f",
        "--max-new-tokens",
        100,
        "--min-new-tokens",
        100,
    )
    assert status == 0 and re.fullmatch("def f.{100}\n", out, re.DOTALL)
    header, speed, page = err.splitlines()
    assert header.startswith("checkpoints") and "--seed" in header
    assert "Playground" in page
    assert re.fullmatch(r"\d+ characters, [\d,]+ a second", speed)


def test_stdout_is_prompt_text_and_newline_to_the_byte(trained):
    """Of a prompt from stdin, that is longer than the context, twice."""
    prompt = "def f(x):\n    return x\n\n\n" * 3
    words = ["generate", "--prompt", "-", "--max-new-tokens", 50, "--seed", 3]
    saved = minigpt.load_checkpoint(
        trained / "checkpoints" / "tiny" / "best.safetensors"
    )
    text = minigpt.write(saved, prompt, max_new_tokens=50, seed=3)
    status, out, err = shell(trained, *words, stdin=prompt)
    assert (status, out) == (0, text + "\n")
    assert "tokens of the prompt are not read" in err
    status, out, _ = shell(trained, *words, "--num-samples", 2, stdin=prompt)
    empty, *texts = re.split("--- sample . of 2\n", out)
    assert status == 0 and empty == "" and len(texts) == 2
    assert all(text.startswith(prompt) and text[-1] == "\n" for text in texts)


@pytest.mark.slow
def test_a_wrong_command_line_has_status_2_and_one_line(trained):
    status, out, err = shell(trained, "train", "--preset", "tiny")
    assert (status, out) == (2, "")
    assert re.fullmatch("minigpt: error: checkpoints.tiny holds a run.*\n", err)


def test_the_project_names_the_program_and_its_version():
    """An installed `minigpt` is the program, of the version that it tells."""
    text = (PROGRAM.parent / "pyproject.toml").read_text("utf-8")
    project = tomllib.loads(text)["project"]
    assert project["version"] == minigpt.__version__
    assert [*project["scripts"]] == ["minigpt"]
    command = EntryPoint("minigpt", project["scripts"]["minigpt"], "console_scripts")
    assert command.load() is minigpt.main


# --- signals ---------------------------------------------------------------


LONG = [
    "train",
    *SMALL,
    "--max-steps",
    400,
    "--eval-interval",
    400,
    "--sample-interval",
    400,
]


def stop_while_training(cwd: Path, run: str, data: Path, number: int) -> tuple:
    """Send a signal to a run of 400 steps that has begun to learn."""
    process = start(cwd, *LONG, "--run", run, "--data", data)
    log = cwd / run / "metrics.jsonl"
    while process.poll() is None and not (
        log.exists() and log.read_bytes().count(b"\n") > 5
    ):
        time.sleep(0.01)
    process.send_signal(number)
    return finish(process)


NOTICE = "stopping after this step; again to stop without saving"


@posix
@pytest.mark.slow
def test_ctrl_c_saves_the_run_and_the_printed_command_goes_on(corpus, tmp_path):
    status, out, err = stop_while_training(tmp_path, "my run", corpus, signal.SIGINT)
    assert (status, err.strip()) == (130, NOTICE)
    *_, stopped, command = out.splitlines()
    assert re.fullmatch("stopped after step .*; go on with:", stopped)
    python, program, *again = shlex.split(command)
    assert (python, program) == (sys.executable, str(PROGRAM))
    status, out, err = shell(tmp_path, *again)
    assert (status, err) == (0, "")
    assert "finished: 400 steps" in out and "step 0" not in out


@posix
def test_sigterm_saves_the_run(corpus, tmp_path):
    status, out, err = stop_while_training(tmp_path, "run", corpus, signal.SIGTERM)
    assert (status, err.strip()) == (143, NOTICE) and "go on with:" in out
    assert (tmp_path / "run" / "last.safetensors").exists()


ENDLESS = [
    "generate",
    "--prompt",
    "def f",
    "--max-new-tokens",
    100_000,
    "--min-new-tokens",
    100_000,
]


@posix
@pytest.mark.slow
def test_ctrl_c_keeps_the_text_written_so_far(trained):
    process = start(trained, *ENDLESS)
    first = process.stdout.read(40)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    status, rest, err = finish(process)
    assert status == 130 and "Traceback" not in err
    assert first.startswith(b"def f") and len(rest) < 100_000


@posix
@pytest.mark.slow
def test_a_reader_may_close_the_pipe(trained):
    process = start(trained, *ENDLESS)
    assert process.stdout.read(5) == b"def f"
    process.stdout.close()
    [note] = process.stderr.read().decode().splitlines()
    assert process.wait(60) == 141 and "--seed" in note


# --- other alphabets -------------------------------------------------------


@pytest.mark.slow
def test_greek_is_written_in_utf_8_wherever_it_goes(tmp_path):
    text = "πάντα ῥεῖ καὶ οὐδὲν μένει"
    tokenizer = minigpt.Tokenizer(text)
    shape, config = minigpt.make_configs("tiny", vocab_size=tokenizer.vocab_size)
    model = minigpt.MiniGPT(shape)
    optimizer = minigpt.make_optimizer(model, config)
    minigpt.Checkpoint(model, optimizer, config, tokenizer, "fingerprint").save(
        tmp_path / "greek.safetensors"
    )
    ascii_only = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:strict"}
    status, out, _ = shell(
        tmp_path,
        "generate",
        "--checkpoint",
        "greek.safetensors",
        "--prompt",
        "-",
        "--max-new-tokens",
        20,
        "--min-new-tokens",
        20,
        env=SHELL | ascii_only,
        stdin="πάντα ",
    )
    assert status == 0 and out.startswith("πάντα ") and len(out) == 27
    assert {*out[:-1]} <= {*text} and out[-1] == "\n"
