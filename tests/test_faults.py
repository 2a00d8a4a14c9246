"""Faults from outside: kills, full disks, folders that vanish, no memory."""

import multiprocessing
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import helpers
import minigpt
from helpers import assert_same_run
from minigpt import GenerateConfig, load_checkpoint, main

posix = pytest.mark.skipif(os.name != "posix", reason="has no such faults")


SMALL = [
    *helpers.SMALL,
    *"--dropout 0.2 --batch-size 4 --grad-accum 2 --max-steps 40".split(),
    *"--eval-interval 5 --sample-interval 20 --checkpoint-interval 8".split(),
]
FILES = {*helpers.FILES, ".lock"}


def command_line(corpus: Path, run: Path) -> list[str]:
    """The command that starts a run of 40 steps, or goes on with it."""
    return ["train", *SMALL, "--data", str(corpus), "--run", str(run), "--resume"]


@pytest.fixture(autouse=True)
def short_samples(monkeypatch):
    monkeypatch.setattr(minigpt, "SAMPLE", GenerateConfig(max_new_tokens=12))


# --- killed at any instant -------------------------------------------------


def kill_at(stage: str, call: int) -> None:
    """Kill this process in the given call of a stage of writing a file."""
    where, name = {
        "write": (minigpt, "save_file"),
        "flush": (os, "fsync"),
        "rename": (os, "replace"),
    }[stage]
    original, left = getattr(where, name), [call]

    def deadly(*args):
        left[0] -= 1
        if left[0] == 0 and stage == "write":
            original(*args)
            os.truncate(args[1], os.path.getsize(args[1]) // 2)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args)

    setattr(where, name, deadly)


def victim(argv: list[str], stage: str, call: int) -> None:
    """A process that trains, and dies in a stage if one is given."""
    torch.set_num_threads(1)
    minigpt.SAMPLE = GenerateConfig(max_new_tokens=12)
    if stage:
        kill_at(stage, call)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    sys.exit(main(argv))


@posix
@pytest.mark.slow
def test_fifty_kills_lose_nothing(corpus, tmp_path, monkeypatch):
    """30 at a random time, 20 inside write, flush or rename.

    The first renames of a run are those of its ids and its first checkpoint,
    so a kill in one of the first three comes before there is a run. At least
    ten kills come before the first step has been taken.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["minigpt", "torch._dynamo"])
    dice = random.Random(0)

    def trained(run: Path, stage="", call=0, seconds=None) -> int:
        """Train until the end or the kill; the exit status."""
        process = context.Process(
            target=victim, args=(command_line(corpus, run), stage, call)
        )
        process.start()
        process.join(seconds)
        process.kill()
        process.join()
        return process.exitcode

    assert trained(tmp_path / "whole") == 0
    start = time.monotonic()
    assert trained(tmp_path / "timed") == 0
    seconds = time.monotonic() - start

    early, kills = 0, {"time": 30, "write": 6, "flush": 7, "rename": 7}
    begun = [
        ("write", 1),
        *(("rename", i) for i in (1, 2, 3)),
        *(("flush", i) for i in (1, 3, 5)),
        *[("time", 0)] * 3,
    ]
    run, runs = tmp_path / "run", 0
    while any(kills.values()):
        last, log = run / "last.safetensors", run / "metrics.jsonl"
        before = last.exists()
        if begun:  # in a folder where nothing has been learned
            kind, call = begun.pop()
            wait = dice.uniform(0, seconds / 8)
        else:
            kind = dice.choice([kind for kind in kills if kills[kind]])
            call, wait = dice.randint(1, 8), dice.uniform(0, seconds)
        status = (
            trained(run, seconds=wait) if kind == "time" else trained(run, kind, call)
        )
        if status == 0:  # it reached its end before it was killed
            assert_same_run(run, tmp_path / "whole")
            run, runs = tmp_path / f"run{runs}", runs + 1
            continue
        assert status == -signal.SIGKILL
        kills[kind] -= 1
        early += not log.exists() or '"loss"' not in log.read_text()
        if before or last.exists():
            load_checkpoint(last)
    assert early >= 10
    assert trained(run) == 0
    assert_same_run(run, tmp_path / "whole")
    assert {path.name for path in run.iterdir()} == FILES


# --- disks and folders -----------------------------------------------------


def complaint(capsys) -> str:
    """The one line on stderr."""
    err = capsys.readouterr().err
    assert re.fullmatch(r"minigpt: error: [^\n]+\n", err), err
    return err


def assert_goes_on(corpus: Path, run: Path, whole: Path, step: int) -> None:
    """The checkpoint of a step is whole, alone, and leads to the same end."""
    assert load_checkpoint(run / "last.safetensors").step == step
    assert {path.name for path in run.iterdir()} <= FILES
    assert main(command_line(corpus, run)) == 0
    assert_same_run(run, whole)


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory) -> Path:
    """A run of 40 steps that nothing disturbed."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minigpt, "SAMPLE", GenerateConfig(max_new_tokens=12))
        assert main(command_line(corpus, run)) == 0
    return run


@posix
def test_a_limit_on_the_size_of_files(corpus, whole, tmp_path, after_step, capsys):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = (whole / "last.safetensors").stat().st_size // 2
    after_step(
        11, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    )
    try:
        assert main(command_line(corpus, tmp_path)) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "check the file, its rights, and the disk" in complaint(capsys)
    assert_goes_on(corpus, tmp_path, whole, 8)


@pytest.mark.parametrize("stage", ["save_file", "fsync", "replace"])
def test_an_error_in_each_stage_of_writing(
    corpus, whole, tmp_path, after_step, monkeypatch, capsys, stage
):
    owner = minigpt if stage == "save_file" else os

    def full(*_):
        raise OSError(28, "No space left on device")

    original = getattr(owner, stage)
    after_step(11, lambda: monkeypatch.setattr(owner, stage, full))
    assert main(command_line(corpus, tmp_path)) == 2
    assert "No space left on device" in complaint(capsys)
    monkeypatch.setattr(owner, stage, original)
    assert_goes_on(corpus, tmp_path, whole, 8)


def test_a_folder_that_vanishes(corpus, whole, tmp_path, after_step, capsys):
    run, moved = tmp_path / "run", tmp_path / "moved"
    after_step(11, lambda: run.rename(moved))
    assert main(command_line(corpus, run)) == 2
    assert "metrics.jsonl" in complaint(capsys)
    assert not run.exists()
    assert_goes_on(corpus, moved, whole, 8)


def in_a_namespace(script: str, *argv: str) -> subprocess.CompletedProcess:
    """Run a shell script where it may mount file systems; skip if it may not."""
    unshare = shutil.which("unshare")
    if (
        unshare is None
        or subprocess.run([unshare, "-rm", "true"], capture_output=True).returncode
    ):
        pytest.skip("no mount namespaces here")
    return subprocess.run(
        [
            unshare,
            "-rm",
            "sh",
            "-ec",
            script,
            "sh",
            sys.executable,
            minigpt.__file__,
            *argv,
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def last_line(done: subprocess.CompletedProcess) -> str:
    """The error in which a command ended, on stderr after its notes."""
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    *_, line = done.stderr.splitlines()
    assert line.startswith("minigpt: error: ")
    return line


@posix
@pytest.mark.slow
def test_a_disk_that_is_full(corpus, whole, tmp_path):
    """A file system of 400 kB has room for some of what a run writes."""
    script = (
        f"mount -t tmpfs -o size=450k none {tmp_path}; cp -r {whole} "
        f"{tmp_path}/run; dd if=/dev/zero of={tmp_path}/rest bs=1k "
        f"2>/dev/null || true; rm {tmp_path}/run/.lock; "
        'status=0; "$@" >/dev/null || status=$?; '
        f"ls -A {tmp_path}/run; cmp {whole}/last.safetensors "
        f"{tmp_path}/run/last.safetensors; exit $status"
    )
    argv = command_line(corpus, tmp_path / "run")
    done = in_a_namespace(script, *argv)
    assert "No space left on device" in last_line(done)
    assert {*done.stdout.split()} <= FILES


@posix
@pytest.mark.slow
def test_a_folder_that_is_read_only(corpus, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    script = (
        f'mount --bind {tmp_path} {tmp_path}; mount -o remount,bind,ro {tmp_path}; "$@"'
    )
    argv = command_line(corpus, tmp_path / "run")
    done = in_a_namespace(script, *argv)
    assert "Read-only file system" in last_line(done)
    assert_same_run(tmp_path / "run", whole)


# --- memory ----------------------------------------------------------------


@posix
@pytest.mark.parametrize(
    "words, remedy",
    [
        (
            [
                "train",
                "--preset",
                "tiny",
                "--batch-size",
                "20000",
                "--context-length",
                "64",
                "--d-model",
                "768",
            ],
            "--batch-size or --context-length",
        ),
        (
            ["generate", "--num-samples", "60000", "--max-new-tokens", "99999999"],
            "--num-samples or --max-new-tokens",
        ),
    ],
)
@pytest.mark.slow
def test_memory_that_runs_out_is_named_with_what_halves_it(
    words, remedy, tmp_path, corpus
):
    resource = pytest.importorskip("resource")
    if words[0] == "train":
        words = [*words, "--data", str(corpus)]
    done = subprocess.run(
        [sys.executable, minigpt.__file__, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30)
        ),
    )
    line = last_line(done)
    assert "out of memory" in line and remedy in line
    assert re.search(r"allocate [\d.]+ ?(bytes|.iB)", line), line


# --- long use --------------------------------------------------------------


def chunks(model: minigpt.MiniGPT, n: int, size: int = 500):
    """Write n characters; yield the seconds that each `size` of them took."""
    config = GenerateConfig(max_new_tokens=n, min_new_tokens=n)
    steps = minigpt.generate(
        minigpt.cached(model), torch.tensor([[minigpt.EOS]]), config
    )
    for _ in range(n // size):
        start = time.process_time()
        for _ in range(size):
            next(steps)
        yield time.process_time() - start


def memory() -> int:
    """Bytes that this process has had at most."""
    resource = pytest.importorskip("resource")
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@posix
@pytest.mark.slow
def test_the_end_of_a_long_text_costs_what_its_beginning_does():
    """100,000 characters. Its last tenth is timed in turn with the first tenth
    of another, since machines are not as fast in one minute as in the next."""
    shape, _ = minigpt.make_configs("tiny", context_length=32)
    torch.manual_seed(0)
    model = minigpt.MiniGPT(shape)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        long, peaks = chunks(model, 100_000), []
        for _ in range(180):
            next(long)
            peaks.append(memory())
        pairs = [*zip(chunks(model, 10_000), long, strict=True)]
    finally:
        torch.set_num_threads(threads)
    ratio = statistics.median(last / first for first, last in pairs)
    assert len(pairs) == 20 and abs(ratio - 1) < 0.1, pairs
    assert peaks[-1] - peaks[9] < 2**23
