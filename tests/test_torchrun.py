"""Many processes: torchrun on one machine, on two nodes, and under Slurm."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import pytest
import torch

import helpers
import minigpt
from forks import forked
from helpers import assert_same_run, metrics
from minigpt import load_checkpoint

ALONE = Path(minigpt.__file__).resolve()
PROGRAM = ALONE.with_name("many.py")
CHAPTER = (ALONE.parent / "book" / "19_many_machines.md").read_text("utf-8")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="has no such signals"),
]
SMALL = [
    *helpers.SMALL,
    *"--batch-size 8 --grad-accum 2 --max-steps 40 --eval-interval 10".split(),
    *"--sample-interval 40 --checkpoint-interval 8".split(),
]
WAIT = 180  # seconds that a command may take, on a busy machine
SHELL = dict(
    {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")},
    OMP_NUM_THREADS="1",
    PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
)
IMPATIENT = f"""
import sys, datetime, torch
sys.path.insert(0, {str(PROGRAM.parent)!r})
import many
begin = torch.distributed.init_process_group
torch.distributed.init_process_group = lambda backend, method, timeout, *rest: (
    begin(backend, method, datetime.timedelta(seconds=12), *rest))
sys.exit(many.main(run=many.run_together))
"""
SLOW = f"""
import sys, time, pathlib
sys.path.insert(0, {str(PROGRAM.parent)!r})
import many
write = many.TeamRun.write

def write_slowly(run, *words):
    if many.RANK == 0 and run.step % 20:  # the last, for a signal
        pathlib.Path("writes").touch()
        time.sleep(2)
    write(run, *words)

many.TeamRun.write = write_slowly
sys.exit(many.main(run=many.run_together))
"""


def torchrun(n: int, *words, options=(), program=PROGRAM) -> list[str]:
    """The command line that trains with n processes of this machine."""
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(n),
        *options,
        "--",
        str(program),
        "train",
        *map(str, words),
        "--resume",
    ]


def begin(line: list[str], env: dict, **more) -> subprocess.Popen:
    """A new process; one of torchrun, and those that it starts, are forks of this
    one. (Those of the chapter's commands are not, nor is one without torchrun.)"""
    if line[1:2] == ["-m"]:
        return forked(line, env=env, **more)
    return subprocess.Popen(
        line,
        env=env,
        **more,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@contextmanager
def started(line: list[str], cwd: Path, env=SHELL):
    """A process that is ended, with those that it started, if it hangs."""
    process = begin(
        line, env, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()  # and torchrun ends its workers
            with suppress(subprocess.TimeoutExpired):
                process.wait(40)
            process.kill()


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=WAIT)
    return process.returncode, out, err


def done(line: list[str], cwd: Path, env=SHELL) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command that ends by itself."""
    with started(line, cwd, env) as process:
        return finish(process)


def ours(err: str) -> list[str]:
    """The lines of minigpt among those of torchrun."""
    return [line for line in err.splitlines() if line.startswith("minigpt: ")]


def workers(process: subprocess.Popen) -> list[int]:
    """The processes that a torchrun has started, the youngest last."""
    found = subprocess.run(
        ["pgrep", "-P", str(process.pid)], text=True, capture_output=True
    ).stdout
    return [*map(int, found.split())]


def wait_for(log: Path, lines: int, process: subprocess.Popen) -> None:
    """Wait until a log has so many lines."""
    end = time.monotonic() + WAIT
    while not (log.exists() and log.read_bytes().count(b"\n") >= lines):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)


def last(run: Path) -> minigpt.Checkpoint:
    return load_checkpoint(run / "last.safetensors")


def assert_close(run: Path, other: Path) -> None:
    """The same steps, with the same losses and weights up to rounding.

    Adam divides by the size of a gradient, so where a gradient is nothing but
    rounding it makes a whole step of it: the biases of the keys, of which the
    softmax sees nothing, may differ by as much as they have moved.
    """
    a, b = metrics(run), metrics(other)
    assert [r.keys() for r in a] == [r.keys() for r in b]
    for one, two in zip(a, b, strict=True):
        assert one == pytest.approx(two, rel=2e-4), (one, two)
    C = last(run).model.config.d_model
    for (name, p), q in zip(
        last(run).model.named_parameters(), last(other).model.parameters(), strict=True
    ):
        if name.endswith("qkv.bias"):
            p, q = (torch.cat([x[:C], x[2 * C :]]) for x in (p, q))
        torch.testing.assert_close(p, q, rtol=0, atol=2e-3)


# --- the same training, whatever the number of processes --------------------


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory) -> Path:
    """Runs without dropout, of 1, 2 and 4 processes: folders 1, 2 and 4."""
    home = tmp_path_factory.mktemp("runs")
    for n in (1, 2, 4):
        status, out, err = done(
            torchrun(n, *SMALL, "--data", corpus, "--run", str(n), "--dropout", 0), home
        )
        assert status == 0 and not ours(err), err
        assert out.count("finished: 40 steps") == 1  # one speaks
        assert (f", {n} processes" in out) == (n > 1)
        assert (f", {n} processes" in (home / str(n) / "run.json").read_text()) == (
            n > 1
        )
    return home


@pytest.mark.parametrize("n", [2, 4])
def test_any_number_of_processes_gives_the_same_training(runs, n):
    assert_close(runs / "1", runs / str(n))
    names = {path.name for path in (runs / str(n)).iterdir()}
    assert names == {path.name for path in (runs / "1").iterdir()}


def test_a_process_that_torchrun_starts_alone_is_one_without_it(runs, corpus, tmp_path):
    line = [
        sys.executable,
        str(ALONE),
        "train",
        *SMALL,
        "--data",
        str(corpus),
        "--run",
        "alone",
        "--dropout",
        "0",
    ]
    assert done(line, tmp_path)[0] == 0
    assert_same_run(tmp_path / "alone", runs / "1")


@pytest.fixture(scope="module")
def dropped(corpus, tmp_path_factory) -> Path:
    """A run of 2 processes with dropout, that nothing disturbed."""
    home = tmp_path_factory.mktemp("dropped")
    assert (
        done(
            torchrun(2, *SMALL, "--data", corpus, "--run", "run", "--dropout", 0.2),
            home,
        )[0]
        == 0
    )
    return home / "run"


def test_with_dropout_equal_numbers_of_processes_agree_to_the_bit(
    dropped, corpus, tmp_path
):
    assert (
        done(
            torchrun(2, *SMALL, "--data", corpus, "--run", "run", "--dropout", 0.2),
            tmp_path,
        )[0]
        == 0
    )
    assert_same_run(tmp_path / "run", dropped)


@pytest.mark.parametrize("numbers", [(4, 1, 2), (1, 4), (2, 1)])
def test_a_run_goes_on_with_another_number_of_processes(
    runs, corpus, tmp_path, numbers
):
    for n in numbers[:-1]:
        status, out, _ = done(
            torchrun(
                n,
                *SMALL,
                "--data",
                corpus,
                "--run",
                "run",
                "--dropout",
                0,
                "--max-minutes",
                0,
            ),
            tmp_path,
        )
        assert status == 0 and "go on with:" in out
    status, out, _ = done(
        torchrun(numbers[-1], *SMALL, "--data", corpus, "--run", "run", "--dropout", 0),
        tmp_path,
    )
    assert status == 0 and f"run: step {len(numbers) - 1} of 40" in out
    assert_close(tmp_path / "run", runs / "1")


def test_a_setting_may_change_on_the_way(corpus, tmp_path):
    words = [*SMALL, "--data", corpus, "--run", "run", "--max-steps"]
    for steps in (8, 12):
        status, out, err = done(torchrun(2, *words, steps), tmp_path)
        assert status == 0 and not ours(err), err
    assert "step 8, from here on with {'max_steps': 12}" in out
    assert last(tmp_path / "run").step == 12


# --- faults ------------------------------------------------------------------


LONG = [
    *SMALL,
    "--dropout",
    0.2,
    "--max-steps",
    240,
    "--eval-interval",
    60,
    "--sample-interval",
    240,
    "--checkpoint-interval",
    20,
]


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("undisturbed")
    assert done(torchrun(2, *LONG, "--data", corpus, "--run", "run"), home)[0] == 0
    return home / "run"


def disturbed(corpus: Path, folder: Path, disturb) -> tuple[int, str, str]:
    """How a run of two processes ends if it is disturbed after some steps."""
    line = torchrun(
        2, *LONG, "--data", corpus, "--run", "run", options=["--max-restarts", "2"]
    )
    with started(line, folder) as process:
        wait_for(folder / "run" / "metrics.jsonl", 50, process)
        disturb(process)
        return finish(process)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_worker_costs_a_restart_and_no_bit(
    undisturbed, corpus, tmp_path, rank
):
    status, out, err = disturbed(
        corpus,
        tmp_path,
        lambda process: os.kill(workers(process)[rank], signal.SIGKILL),
    )
    assert status == 0, err
    starts = [*map(int, re.findall("run: step ([0-9]+) of 240", out))]
    assert len(starts) == 2 and starts[0] == 0 and starts[1] % 20 == 0
    assert all("lost one: use --resume" in line for line in ours(err))
    assert_same_run(tmp_path / "run", undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_torchrun_saves_once_and_the_command_goes_on(
    undisturbed, corpus, tmp_path, number
):
    status, out, err = disturbed(
        corpus, tmp_path, lambda process: process.send_signal(number)
    )
    assert status != 0 and not ours(err)
    [step] = map(int, re.findall("stopped after step ([0-9]+); go on", out))
    assert (
        last(tmp_path / "run").step
        == step
        == metrics(tmp_path / "run")[-1]["step"]
        >= 49
    )
    status, out, err = done(
        torchrun(2, *LONG, "--data", corpus, "--run", "run"), tmp_path
    )
    assert status == 0 and f"run: step {step} of 240" in out
    assert_same_run(tmp_path / "run", undisturbed)


def test_a_signal_to_one_worker_stops_all_of_them(corpus, tmp_path):
    with started(
        torchrun(2, *LONG, "--data", corpus, "--run", "run"), tmp_path
    ) as process:
        wait_for(tmp_path / "run" / "metrics.jsonl", 20, process)
        os.kill(workers(process)[1], signal.SIGTERM)
        status, out, err = finish(process)
    assert status != 0 and out.count("go on with:") == 1
    assert last(tmp_path / "run").step == metrics(tmp_path / "run")[-1]["step"]


def test_a_signal_that_comes_late_costs_nothing(corpus, tmp_path):
    """One process is told to end while the first one is still writing."""
    slow = tmp_path / "slow.py"
    slow.write_text(SLOW, "utf-8")
    with started(
        torchrun(2, *LONG, "--data", corpus, "--run", "run", program=slow), tmp_path
    ) as process:
        wait_for(tmp_path / "run" / "metrics.jsonl", 22, process)
        first, second = workers(process)
        os.kill(first, signal.SIGTERM)
        wait_for(tmp_path / "writes", 0, process)
        os.kill(second, signal.SIGTERM)
        status, out, err = finish(process)
    assert status != 0 and not ours(err)
    assert out.count("go on with:") == 1


def test_nothing_is_saved_when_the_first_process_cannot_write(corpus, tmp_path):
    """The others lose it, and end as well."""
    with started(
        torchrun(2, *LONG, "--data", corpus, "--run", "run"), tmp_path
    ) as process:
        wait_for(tmp_path / "run" / "metrics.jsonl", 30, process)
        (tmp_path / "run").rename(tmp_path / "moved")
        status, out, err = finish(process)
    assert status != 0 and not (tmp_path / "run").exists()
    assert any("check the file, its rights" in line for line in ours(err))
    assert last(tmp_path / "moved").step % 20 == 0


# --- refused -----------------------------------------------------------------


@pytest.mark.parametrize(
    "n, words, reason",
    [
        (3, [], "3 processes cannot share batches of 8 windows: choose fewer, or"),
        (2, ["--droput", 0.1], "unrecognized arguments: --droput"),
        (2, ["--dropout", 1.5], "dropout is 1.5"),
        (2, ["--data", "nowhere"], "no file .*nowhere: check"),
        (2, ["--device", "tpu"], "'tpu'"),
        (2, ["--overwrite"], "--resume goes without --overwrite"),
    ],
)
def test_bad_input_is_one_line_of_one_process(corpus, tmp_path, n, words, reason):
    data = [] if "--data" in words else ["--data", corpus]
    status, out, err = done(
        torchrun(n, *SMALL, *data, "--run", "run", *words), tmp_path
    )
    [line] = ours(err)
    assert status != 0 and re.search(reason, line), line
    assert not re.search(r'(minigpt|many)\.py", line', err)  # no traceback of ours


def pair(tmp_path: Path, words: list, folders=("a", "a"), more=((), ())):
    """Two nodes on this machine, each with words and a folder of its own."""
    port = 29700 + os.getpid() % 200
    lines = [
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nnodes",
            "2",
            "--node-rank",
            str(i),
            "--nproc-per-node",
            "1",
            "--master-addr",
            "127.0.0.1",
            "--master-port",
            str(port),
            "--",
            str(PROGRAM),
            "train",
            *map(str, [*words, *more[i]]),
            "--resume",
        ]
        for i in (0, 1)
    ]
    for folder in folders:
        (tmp_path / folder).mkdir(exist_ok=True)
    with (
        started(lines[0], tmp_path / folders[0]) as first,
        started(lines[1], tmp_path / folders[1]) as second,
    ):
        return finish(first), finish(second)


def test_nodes_with_different_settings_are_refused_and_nothing_is_written(
    corpus, tmp_path
):
    results = pair(
        tmp_path, [*SMALL, "--data", corpus, "--run", "run"], more=((), ("--seed", 1))
    )
    [line] = [line for _, _, err in results for line in ours(err)]
    assert all(status != 0 for status, _, _ in results)
    assert "differ in settings" in line
    assert not (tmp_path / "a" / "run").exists()


def test_a_node_with_a_wrong_flag_ends_both(corpus, tmp_path):
    results = pair(
        tmp_path, [*SMALL, "--data", corpus, "--run", "run"], more=((), ("--droput", 1))
    )
    [line] = [line for _, _, err in results for line in ours(err)]
    assert all(status != 0 for status, _, _ in results)
    assert "--droput" in line and not (tmp_path / "a" / "run").exists()


def test_a_folder_that_one_node_does_not_see_ends_both(corpus, tmp_path):
    results = pair(
        tmp_path, [*SMALL, "--data", corpus, "--run", "run"], folders=("a", "b")
    )
    [line] = [line for _, _, err in results for line in ours(err)]
    assert all(status != 0 for status, _, _ in results)
    assert "last.safetensors is not a file" in line


def test_folders_with_different_runs_are_refused(runs, tmp_path):
    for folder in ("a", "b"):
        shutil.copytree(runs / "1", tmp_path / folder / "run")
    path = tmp_path / "b" / "run" / "last.safetensors"
    other = load_checkpoint(path)
    with torch.no_grad():
        other.model.head.weight[0, 0] += 1
    other.save(path)
    results = pair(tmp_path, ["--run", "run"], folders=("a", "b"))
    [line] = [line for _, _, err in results for line in ours(err)]
    assert all(status != 0 for status, _, _ in results)
    assert "see other runs" in line


# --- the commands of the chapter ---------------------------------------------


def commands(word: str) -> str:
    """The block of commands of the chapter in which a word stands."""
    [block] = [
        block
        for block in re.findall(r"\n\n((?: {4}[^\n]*\n|\n(?= {4}))+)", CHAPTER)
        if word in block
    ]
    return "\n".join(line[4:] for line in block.splitlines())


def small(block: str, corpus: Path) -> str:
    """The same commands, for a CPU and for a model of a few thousand weights."""
    block = re.sub(r"--nproc-per-node (\d+|\$\w+)", "--nproc-per-node 1", block)
    words = shlex.join([*SMALL, "--data", str(corpus)])
    assert block.count("many.py train --resume")
    return block.replace("many.py train --resume", f"{PROGRAM} train --resume {words}")


def test_the_command_for_one_machine(corpus, tmp_path):
    block = commands("--standalone --nproc-per-node 2 -- many.py train --resume")
    block = small(block, corpus).replace("--nproc-per-node 1", "--nproc-per-node 2")
    status, out, err = done(["bash", "-ec", block], tmp_path)
    assert status == 0 and out.count("finished: 40 steps") == 1, err
    assert "2 processes" in out


def test_the_slurm_script_by_its_variables_alone(corpus, tmp_path):
    """A `srun` that starts the task of each of two nodes, both on this one."""
    script = small(commands("#SBATCH"), corpus)
    port = 29300 + os.getpid() % 90
    assert "--master-port 29400" in script
    (tmp_path / "job.sh").write_text(
        script.replace("--master-port 29400", f"--master-port {port}")
    )
    (tmp_path / "srun").write_text(
        '#!/bin/sh\nSLURM_NODEID=1 "$@" & SLURM_NODEID=0 "$@"; s=$?; wait; exit $s\n'
    )
    (tmp_path / "srun").chmod(0o755)
    env = SHELL | {
        "PATH": f"{tmp_path}{os.pathsep}{SHELL['PATH']}",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
    }
    status, out, err = done(["bash", "job.sh"], tmp_path, env)
    assert status == 0 and out.count("finished: 40 steps") == 1, err
    assert "2 processes" in out


# --- two nodes, as two network namespaces ------------------------------------


NUMBERS = count(os.getpid() % 10_000)


@pytest.fixture
def nodes():
    """The names of two namespaces with a cable between them, and a pair of
    scissors: a function that cuts it."""
    names = [f"mg{next(NUMBERS)}" for _ in range(2)]
    ip = shutil.which("ip") or shutil.which("ip", path="/usr/sbin:/sbin")
    if (
        ip is None
        or subprocess.run(
            [ip, "netns", "add", names[0]], capture_output=True
        ).returncode
    ):
        pytest.skip("no network namespaces here (they need ip, and root)")

    def run(*words):
        subprocess.run([ip, *words], check=True, capture_output=True)

    try:
        run("netns", "add", names[1])
        run(
            "link",
            "add",
            names[0],
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "name",
            names[1],
            "netns",
            names[1],
        )
        for i, name in enumerate(names, start=1):
            run("-n", name, "addr", "add", f"10.99.0.{i}/24", "dev", name)
            run("-n", name, "link", "set", name, "up")
            run("-n", name, "link", "set", "lo", "up")
        yield names, lambda: run("-n", names[0], "link", "set", names[0], "down")
    finally:
        for name in names:
            subprocess.run([ip, "netns", "del", name], capture_output=True)


def on_nodes(names: list[str], block: str) -> list[list[str]]:
    """The two commands of the chapter, each on its node."""
    lines = [line for line in block.splitlines() if "--node-rank" in line]
    assert len(lines) == 2
    ip = shutil.which("ip") or "/usr/sbin/ip"
    return [
        [
            ip,
            "netns",
            "exec",
            name,
            "env",
            f"GLOO_SOCKET_IFNAME={name}",
            *shlex.split(line),
        ]
        for name, line in zip(names, lines, strict=True)
    ]


def two_nodes(corpus: Path) -> str:
    block = commands("--node-rank 1")
    return small(re.sub(r"--master-addr \S+", "--master-addr 10.99.0.1", block), corpus)


def test_the_commands_for_two_nodes(nodes, corpus, tmp_path):
    one, two = on_nodes(nodes[0], two_nodes(corpus))
    with started(one, tmp_path) as first, started(two, tmp_path) as second:
        (status, out, err), (other, quiet, _) = finish(first), finish(second)
    assert (status, other) == (0, 0), err
    assert out.count("finished: 40 steps") == 1 and "2 processes" in out
    assert "finished" not in quiet


def test_a_worker_killed_on_one_node_restarts_both(nodes, corpus, tmp_path):
    one, two = (
        [*line, "--max-steps", "200", "--run", "run"]
        for line in on_nodes(nodes[0], two_nodes(corpus))
    )
    with started(one, tmp_path) as first, started(two, tmp_path) as second:
        wait_for(tmp_path / "run" / "metrics.jsonl", 30, first)
        os.kill(workers(second)[0], signal.SIGKILL)
        (status, out, err), (other, _, _) = finish(first), finish(second)
    assert (status, other) == (0, 0), err
    starts = [*map(int, re.findall("run: step ([0-9]+) of 200", out))]
    assert len(starts) == 2 and starts[0] == 0 and starts[1] % 8 == 0


def test_a_node_that_vanishes_ends_the_run_within_its_time_out(nodes, corpus, tmp_path):
    """The time-out is 12 seconds here. The last checkpoint is whole, and another
    number of processes goes on from it."""
    (tmp_path / "impatient.py").write_text(IMPATIENT)
    names, cut = nodes
    block = two_nodes(corpus).replace(str(PROGRAM), "impatient.py")
    block = re.sub("--max-restarts [0-9]+", "", block)
    one, two = (
        [*line, "--max-steps", "20000", "--run", "run"]
        for line in on_nodes(names, block)
    )
    log = tmp_path / "run" / "metrics.jsonl"
    with started(one, tmp_path) as first, started(two, tmp_path) as second:
        wait_for(log, 30, first)
        cut()
        began = time.monotonic()
        results = finish(first), finish(second)
        took = time.monotonic() - began
    assert all(status != 0 for status, _, _ in results)
    assert took < 12 + 60
    for _, _, err in results:
        [line] = ours(err)
        assert "lost one: use --resume" in line
    kept = last(tmp_path / "run").step
    assert kept % 8 == 0 and kept <= metrics(tmp_path / "run")[-1]["step"]
    status, out, _ = done(
        [
            sys.executable,
            str(ALONE),
            "train",
            "--run",
            "run",
            "--resume",
            "--max-minutes",
            "0",
        ],
        tmp_path,
    )
    assert status == 0 and f"run: step {kept} of" in out
