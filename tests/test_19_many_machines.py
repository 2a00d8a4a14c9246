"""Chapter 19: one training in many processes, each played by this one in turn.

With processes that are real: test_torchrun.py.
"""

import copy
import os
import signal
from itertools import combinations
from pathlib import Path

import pytest
import torch

import many
import minigpt
from helpers import contents, untrained
from many import (
    FAILED,
    Learner,
    Rows,
    TeamMachine,
    agree,
    gather,
    join,
    run_together,
    share_out,
)
from minigpt import (
    EOS,
    Checkpoint,
    Dataset,
    MiniGPT,
    MiniGPTError,
    cross_entropy,
    finish,
    main,
    open_run,
    pick_machine,
    seed_dropout,
    start_run,
    train,
    training_step,
)

CPU = pick_machine("cpu", "float32")
VARIABLES = {
    "RANK": "0",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "1",
}


def state(text, **changes) -> Checkpoint:
    """What a run begins with that is over after 12 steps."""
    short = dict(
        batch_size=8,
        max_steps=12,
        eval_interval=6,
        eval_windows=4,
        sample_interval=100,
        checkpoint_interval=100,
        device="cpu",
    )
    return untrained(text, **short | changes)


def begin(folder: Path, text, **changes) -> minigpt.Run:
    start_run(folder, state(text, **changes), text)
    return open_run(folder)


def command_line(corpus: Path, run: Path, max_steps: int) -> list[str]:
    """What begins a small run, or goes on with it."""
    return (
        f"train --data {corpus} --run {run} --preset tiny --context-length 16 "
        f"--max-steps {max_steps} --eval-windows 4 --device cpu --resume"
    ).split()


@pytest.fixture
def play(monkeypatch):
    """(rank, size): be this one of so many processes, that all bring the same."""

    def be(rank: int, size: int) -> None:
        monkeypatch.setattr(many, "RANK", rank)
        monkeypatch.setattr(many, "SIZE", size)
        monkeypatch.setattr(many, "gather", lambda thing: [thing] * size)
        monkeypatch.setattr(many, "Learner", lambda model, grad_accum: model)

    return be


@pytest.fixture
def handlers():
    """What is done upon a signal, put back after the test."""
    numbers = minigpt.STOP_SIGNALS
    before = {number: signal.getsignal(number) for number in numbers}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def group():
    """A process group of this process alone."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


# --- meeting ------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [names for n in (1, 2, 3) for names in combinations(VARIABLES, n)]
)
def test_variables_of_torchrun_that_are_half_set_are_refused(monkeypatch, names):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name in names:
        monkeypatch.setenv(name, VARIABLES[name])
    lacking = ", ".join(sorted(VARIABLES.keys() - {*names}))
    with pytest.raises(MiniGPTError, match=f"without {lacking}: use torchrun"):
        join()
    assert (many.RANK, many.SIZE) == (0, 1)


@pytest.mark.parametrize("size", [None, "1"])
def test_one_process_alone_joins_nobody(monkeypatch, size):
    """Nor does one that torchrun started alone; it needs no port, either."""
    for name, value in VARIABLES.items():
        if size:
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.delenv(name, raising=False)
    if size:
        monkeypatch.setenv("WORLD_SIZE", size)
    join()
    assert (many.RANK, many.SIZE) == (0, 1)
    assert not torch.distributed.is_initialized()


def test_what_one_process_brings_it_gets_back():
    for thing in (0.1, "a", FAILED, (None, [1])):
        assert gather(thing) == [thing]


def test_processes_go_on_with_the_same_things_alone(monkeypatch):
    agree("a", 1)
    monkeypatch.setattr(many, "gather", lambda thing: [thing, ("a", 1)])
    agree("a", 1)
    with pytest.raises(MiniGPTError, match="differ in settings.* all can see"):
        agree("a", 2)


def test_a_process_ends_in_silence_where_another_one_failed(monkeypatch, capsys):
    monkeypatch.setattr(many, "SIZE", 2)

    def everybody(things, thing):
        things[:] = thing, FAILED

    monkeypatch.setattr(torch.distributed, "all_gather_object", everybody)
    assert gather(FAILED) == [FAILED, FAILED]  # which of them tells is settled
    with pytest.raises(SystemExit) as end:
        agree()
    assert end.value.code == 2
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("rank, told", [(0, True), (1, False)])
def test_what_fails_everywhere_is_told_by_the_first(
    monkeypatch, capsys, play, rank, told
):
    waits = []
    monkeypatch.setattr(many, "join", lambda: play(rank, 2))
    monkeypatch.setattr(many.time, "sleep", waits.append)
    try:
        status = main(["train", "--droput", "1"], run_together)
    except SystemExit as end:
        status = end.code
    assert (status, bool(waits)) == (2, not told)  # or the first could not tell it
    assert ("--droput" in capsys.readouterr().err) == told


def fails_with(error: Exception):
    def train(**_):
        raise error

    return train


def test_a_lost_neighbour_is_one_line_and_other_faults_are_raised(monkeypatch, capsys):
    for error in (
        torch.distributed.DistNetworkError("gone"),
        RuntimeError("[../third_party/gloo/x.cc:1] closed"),
    ):
        monkeypatch.setattr(many, "run_train", fails_with(error))
        assert main(["train"], run_together) == 2
        assert "rank 0 of 1 lost one: use --resume" in capsys.readouterr().err
    monkeypatch.setattr(many, "run_train", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["train"], run_together)
    monkeypatch.setattr(many, "run_train", lambda **_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError):
        main(["train"], run_together)


# --- rows of a batch ----------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_the_rows_of_processes_are_together_the_step_of_one(text, play, size):
    """Also where the text ends, and a window is moved back."""
    ids = text.train[: 8 * 16 + 5].copy()
    ids[7 * 16 + 12] = EOS  # in the last of 8 chunks: no window fits behind it
    few, at_the_end = Dataset(ids, 16), ids[-17:-1].tolist()
    step = next(
        step
        for step in range(100)
        if at_the_end in few.batch(step, 8, seed=0)[0].tolist()
    )
    begun = state(text, grad_clip=1e6, learning_rate=10)

    def moved(dataset) -> tuple[torch.Tensor, float]:
        model = copy.deepcopy(begun.model)
        sgd = torch.optim.SGD(model.parameters())  # at the rate of the config
        loss, _ = training_step(model, sgd, dataset, step, begun.config, CPU)
        pairs = zip(begun.model.parameters(), model.parameters(), strict=True)
        return torch.cat([(p - q).detach().flatten() for p, q in pairs]), loss

    whole, loss = moved(few)
    parts = []
    for rank in range(size):
        play(rank, size)
        parts.append(moved(Rows(ids, 16)))
    mean = sum(move for move, _ in parts) / size
    torch.testing.assert_close(mean, whole, atol=1e-3 * whole.abs().max(), rtol=1e-3)
    assert sum(loss for _, loss in parts) / size == pytest.approx(loss)


def test_gradients_travel_with_the_last_batch_of_a_step(text, group, monkeypatch):
    begun = state(text)
    learner, sent = Learner(begun.model, grad_accum=3), []
    forward = begun.model.forward
    monkeypatch.setattr(
        begun.model,
        "forward",
        lambda ids: (sent.append(learner.require_backward_grad_sync), forward(ids))[1],
    )
    dataset = Dataset(text.train, 16)
    for number in range(6):
        inputs, targets = dataset.batch(number, 2, seed=0)
        cross_entropy(learner(inputs), targets).backward()
    assert sent == [False, False, True] * 2
    twin = copy.deepcopy(begun.model)  # has added up the same gradients
    twin.zero_grad()
    for number in range(6):
        inputs, targets = dataset.batch(number, 2, seed=0)
        cross_entropy(MiniGPT.forward(twin, inputs), targets).backward()
    for p, q in zip(begun.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_each_process_drops_other_numbers_and_the_same_ones_again(
    text, group, monkeypatch
):
    begun = state(text, dropout=0.5)
    learner = Learner(begun.model.train(), grad_accum=1)
    ids = torch.zeros(1, 16, dtype=torch.int64)

    def logits(rank: int) -> torch.Tensor:
        monkeypatch.setattr(many, "RANK", rank)
        seed_dropout(1, 2, 3)
        return learner(ids).detach()

    assert torch.equal(logits(0), logits(0)) and torch.equal(logits(5), logits(5))
    assert not torch.equal(logits(0), logits(1))


# --- a run of many ------------------------------------------------------------


def test_a_machine_says_how_many_it_learns_with(monkeypatch):
    machine = TeamMachine(CPU.device, CPU.dtype)
    assert str(machine) == str(CPU)
    monkeypatch.setattr(many, "SIZE", 4)
    assert str(machine) == f"{CPU}, 4 processes"


@pytest.mark.parametrize("size, refused", [(2, False), (8, False), (3, True)])
def test_a_batch_must_go_into_equal_parts(text, tmp_path, play, size, refused):
    run = begin(tmp_path, text)
    play(0, size)
    if refused:
        with pytest.raises(
            MiniGPTError,
            match="3 processes cannot share batches"
            " of 8 windows: choose fewer, or another --batch-size",
        ):
            share_out(run)
    else:
        assert share_out(run).step == 0


def test_the_first_process_alone_writes(text, tmp_path, play, capsys):
    """Another one does the same steps, and leaves no trace; it shows no bar."""
    run = begin(tmp_path, text)
    before = contents(tmp_path)
    play(1, 2)
    other = share_out(run)
    assert train(other) == 0 and other.step == 12
    finish(other)
    assert other.bar().disable
    assert contents(tmp_path) == before
    play(0, 2)
    first = share_out(open_run(tmp_path))
    assert train(first) == 0
    finish(first)
    assert {path.name for path in tmp_path.iterdir()} > {"run.json", "metrics.jsonl"}
    assert "2 processes" in (tmp_path / "run.json").read_text("utf-8")


def test_the_loss_of_a_step_is_that_of_the_whole_batch(
    text, tmp_path, monkeypatch, play
):
    run = begin(tmp_path, text)
    play(0, 2)
    monkeypatch.setattr(many, "gather", lambda loss: [loss, 10.0])
    monkeypatch.setattr(many, "training_step", lambda *_: (4.0, 1.0))
    assert share_out(run).learn() == (7.0, 1.0)


def test_all_stop_where_one_was_told_to(text, tmp_path, monkeypatch, play):
    run = begin(tmp_path, text)
    play(0, 2)
    told = iter([False, False, True])
    monkeypatch.setattr(
        many,
        "gather",
        lambda thing: [thing, next(told)] if type(thing) is bool else [thing, thing],
    )
    team = share_out(run)
    assert train(team) == 0 and team.step == 3


def test_processes_have_no_advice_about_a_second_signal(
    text, tmp_path, play, monkeypatch, capfd
):
    run = begin(tmp_path, text)
    play(0, 2)
    team = share_out(run)

    def step(*_) -> tuple[float, float]:
        signal.raise_signal(signal.SIGTERM)
        return 1.0, 1.0

    monkeypatch.setattr(many, "training_step", step)
    monkeypatch.setattr(Checkpoint, "save", lambda *_, **__: None)
    assert train(team) == signal.SIGTERM and team.step == 1
    assert "again to stop" not in capfd.readouterr().err


def test_one_of_several_processes_ends_by_no_later_signal(
    corpus, tmp_path, monkeypatch, handlers
):
    """torchrun signals to one after the other, and may do so twice."""

    def shot(run, deadline, launcher):
        for number in handlers:
            signal.raise_signal(number)
        return 7

    for number in handlers:
        signal.signal(number, lambda *_: pytest.fail("it ended"))
    ignored = next(iter(handlers))  # as SIGHUP is behind nohup
    signal.signal(ignored, signal.SIG_IGN)
    monkeypatch.setattr(many, "carry_on", shot)
    assert (
        many.run_train(
            data=str(corpus),
            run=str(tmp_path / "run"),
            preset="tiny",
            context_length=16,
        )
        == 7
    )
    assert signal.getsignal(ignored) == signal.SIG_IGN


def test_the_line_to_type_next_starts_as_many(
    corpus, tmp_path, monkeypatch, capsys, handlers, play
):
    monkeypatch.setattr(many, "join", lambda: None)
    monkeypatch.setattr("sys.argv", ["many.py"])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    words = command_line(corpus, tmp_path / "run", max_steps=2)
    for size, launcher in (
        (1, ""),
        (2, "-m torch.distributed.run --nproc-per-node 2 -- "),
    ):
        play(0, size)
        assert main([*words, "--max-minutes", "0"], run_together) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        if size == 1:  # a second step is left
            assert f" {launcher}many.py train --run" in last and "torch" not in last
        else:
            assert " many.py generate --checkpoint" in last
    assert main([*words, "--max-steps", "4", "--max-minutes", "0"], run_together) == 0
    assert f" {launcher}many.py train --run" in capsys.readouterr().out


def test_runs_that_differ_are_refused(corpus, tmp_path, monkeypatch, capsys, play):
    brought = []
    monkeypatch.setattr(many, "join", lambda: None)
    monkeypatch.setattr(many, "gather", lambda thing: brought.append(thing) or [thing])
    words = command_line(corpus, tmp_path / "run", max_steps=1)
    assert main(words, run_together) == 0
    settings, begun, run, *_ = brought
    assert begun == () and settings[0].preset == "tiny"
    assert run[0].max_steps == 1 and len(run[1]) == 32  # a digest of the file
    differing = iter([True, True, False])
    monkeypatch.setattr(
        many,
        "gather",
        lambda thing: [thing, thing if thing == FAILED or next(differing) else ()],
    )
    assert main(words, run_together) == 2
    assert "see other runs" in capsys.readouterr().err


def test_minigpt_itself_sends_torchrun_here(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert main(["train", "--run", str(tmp_path / "run")]) == 2
    assert "torchrun starts many.py" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
