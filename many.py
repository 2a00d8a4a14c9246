"""Train one MiniGPT with many processes, on one machine or on several.

    torchrun --standalone --nproc-per-node 2 -- many.py train

Flags, files and results are those of `minigpt.py train`. Tangled from
book/19_many_machines.md.
"""

import hashlib
import os
import signal
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
from filelock import Timeout
from torch import Tensor, distributed as dist, nn
from tqdm import tqdm

from minigpt import (COMMANDS, LAST, STOP_SIGNALS, Dataset, Machine,
                     MiniGPTError, Run, RunOptions, brief, carry_on, claim_run,
                     find_run, main, open_run, pop_config, require, run_command,
                     training_step)


# 19. Many machines (book/19_many_machines.md) --------------------------------

RANK, SIZE = 0, 1  # the number of this process, and how many learn together


def join() -> None:
    """Meet the processes that torchrun has started, if it started this one.

    Sets RANK and SIZE. Raises MiniGPTError if its variables are half set.
    """
    global RANK, SIZE
    lacks = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} - {*os.environ}
    require(len(lacks) in (0, 4), f"the variables of torchrun are half set, "
            f"without {', '.join(sorted(lacks))}: use torchrun, or unset all")
    if lacks or os.environ["WORLD_SIZE"] == "1":
        return
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store, RANK, SIZE = next(dist.rendezvous("env://"))
    dist.init_process_group(None, None, timedelta(minutes=10), SIZE, RANK,
                            dist.PrefixStore(attempt, store))
    if torch.cuda.is_available():
        torch.cuda.set_device(RANK % torch.cuda.device_count())
    if RANK > 0:  # the first one speaks
        sys.stdout = open(os.devnull, "w", encoding="utf-8")


FAILED = "failed"  # what a process brings instead of what the others wait for


def end_in_silence() -> None:
    """End this process a moment after the one that tells what is wrong."""
    time.sleep(1)  # for torchrun ends all others as soon as one has ended
    sys.exit(2)


def gather(thing) -> list:
    """What each process brings, by rank; waits for all of them.

    Ends the process, in silence, if another one brings FAILED: that tells why.
    """
    things = [thing]
    if SIZE > 1:
        things = [None] * SIZE
        dist.all_gather_object(things, thing)
    if FAILED in things and thing != FAILED:
        end_in_silence()
    return things


def agree(*things) -> None:
    """Wait for all processes; MiniGPTError if they bring different things."""
    require(all(other == things for other in gather(things)), "the processes "
            "differ in settings, or see other runs: give all nodes one "
            "command, and a folder that all can see")


class Rows(Dataset):
    """A split, of whose batches this process learns from its rows alone."""

    def batch(self, number: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B / SIZE, T) of batch `number` of size B."""
        inputs, targets = super().batch(number, size, seed)
        return inputs[RANK::SIZE], targets[RANK::SIZE]


class Learner(nn.parallel.DistributedDataParallel):
    """A model that leaves the mean of all gradients behind, once a step."""

    def __init__(self, model: nn.Module, grad_accum: int):
        super().__init__(model)
        self.grad_accum, self.passes = grad_accum, 0

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, T, V) of this process's ids (B, T)."""
        place = np.random.SeedSequence([torch.initial_seed(), RANK])
        torch.manual_seed(int(place.generate_state(1)[0]))
        self.passes += 1
        is_last = self.passes % self.grad_accum == 0
        with nullcontext() if is_last else self.no_sync():
            return super().forward(ids)


@dataclass(kw_only=True)
class TeamRun(Run):
    """A run that many processes do together, as the first of them has it."""

    learner: nn.Module
    notice = ""  # torchrun is told to stop, and tells all

    def learn(self) -> tuple[float, float]:
        """Change the weights once: loss (nats) and norm, of the whole batch."""
        loss, norm = training_step(self.learner, self.optimizer, self.train,
                                   self.step, self.config, self.machine)
        return sum(gather(loss)) / SIZE, norm

    def is_over(self, signal_number: int, deadline: float) -> bool:
        """Whether a signal or the clock ends it, for any of the processes."""
        return any(gather(super().is_over(signal_number, deadline)))


class SilentRun(TeamRun):
    """The same, as all others have it: it writes nothing, and shows nothing."""

    def save(self, *_, **__) -> None:
        """Leave that to the first process."""

    log = write = save

    def bar(self) -> tqdm:
        """A bar that is not shown."""
        return tqdm(disable=True)


class TeamMachine(Machine):
    """The machine of one process, which knows that it is one of many."""

    def __str__(self) -> str:
        name = super().__str__()
        return name if SIZE == 1 else f"{name}, {SIZE} processes"


def share_out(run: Run) -> TeamRun:
    """A run as this process does it; MiniGPTError if batches do not divide."""
    size = run.config.batch_size
    require(size % SIZE == 0, f"{SIZE} processes cannot share batches of {size}"
            " windows: choose fewer, or another --batch-size")
    learner = run.model
    if SIZE > 1:
        learner = Learner(run.model, run.config.grad_accum)
    parts = vars(run) | dict(
        train=Rows(run.train.ids, run.train.context_length), learner=learner,
        machine=TeamMachine(run.machine.device, run.machine.dtype))
    return TeamRun(**parts) if RANK == 0 else SilentRun(**parts)


def run_train(**typed) -> int:
    """Train a model with all processes, or go on with a run."""
    options = pop_config(RunOptions, typed)
    deadline = time.monotonic() + 60 * options.max_minutes
    folder, *_ = find_run(options, typed)
    agree(options, typed)
    launcher = []
    if SIZE > 1:
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node",
                    os.environ.get("LOCAL_WORLD_SIZE", str(SIZE)), "--"]
    with claim_run(options, typed) if RANK == 0 else nullcontext():
        if RANK == 0:
            open_run(folder, **typed)  # saves it, if settings are new
        agree()
        run = open_run(folder, **typed)
        with open(folder / LAST, "rb") as file:
            agree(run.config, hashlib.file_digest(file, "sha256").digest())
        run = share_out(run)  # from here on they exchange gradients
        for number in STOP_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda *_: None)
        status = carry_on(run, deadline, launcher)
        agree()  # so that none ends while the first one saves
    return status


def run_together(argv: list[str] | None = None) -> int:
    """Run a command line in all processes; the first that fails tells why."""
    join()
    _, *settings = COMMANDS["train"]
    try:
        return run_command(argv, COMMANDS | {"train": (run_train, *settings)})
    except (MiniGPTError, Timeout):
        if FAILED in gather(FAILED)[:RANK]:
            end_in_silence()
        raise
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or "/gloo/" in str(error)
        require(not lost, f"rank {RANK} of {SIZE} lost one: use --resume "
                f"({brief(error)})")
        raise


if __name__ == "__main__":
    sys.exit(main(run=run_together))


# tangled: f43250436f949da5e13ce4b23458617b688a98ade3d4ee49414f0b22432dbf24
