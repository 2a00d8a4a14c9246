"""Nats per character in the same time: our laptop preset and nanoGPT's recipe.

    python tests/bench/learning.py                 as long as the recipe takes
    python tests/bench/learning.py --muon          with the optimizer of an exercise
    python tests/bench/learning.py --sweep 3400 --json FILE    many settings

nanoGPT's README has a recipe for a laptop: 4 layers of 128, windows of 64, 12 in
a batch, 2,000 steps, learning rate 1e-3 to 1e-4 after 100 steps of warm-up,
beta2 0.99, no dropout. Here it is a config of ours, with positions that start at
random as there, trained by our step on our text on one core, and its training time,
without evaluations, is the measure. Ours then get that time, half of it or a third, each
with a schedule that fits its time. All are evaluated on the whole of `val`, each in
its own context. (Muon multiplies in bfloat16: measure it where a processor does.)

A sweep compares changes of the laptop preset. Each learns on one core, with a schedule
over as many steps as take the processor as long as so many steps of the preset, so that
it does not matter what else the machine does. (3,400 are three minutes on two cores of
an AMD EPYC with AVX2.) FILE is added to, not begun anew.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from initialisation import draw_positions

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_tools"))

import minigpt  # noqa: E402
import tangle  # noqa: E402

RECIPE = dict(
    context_length=64,
    d_model=128,
    n_layers=4,
    n_heads=4,
    dropout=0.0,
    batch_size=12,
    max_steps=2000,
    warmup_steps=100,
    learning_rate=1e-3,
    min_learning_rate=1e-4,
    beta2=0.99,
)
MIDDLE = dict(context_length=96, batch_size=8)
SHORT = dict(context_length=64, batch_size=12, learning_rate=4e-3)
FAST = SHORT | dict(learning_rate=6e-3, min_learning_rate=6e-5, muon=True)
CPU = minigpt.pick_machine("cpu")
PRESET = "laptop preset"
OURS = tuple((PRESET, {}, part) for part in (1, 2, 3))
MUON = (("windows of 64", SHORT, 1), ("with Muon", FAST, 1), ("with Muon", FAST, 3))
SWEEP = {
    PRESET: {},
    "windows of 96": MIDDLE,
    "windows of 96, 6 in a batch": MIDDLE | dict(batch_size=6),
    "windows of 96, 3 layers of 160": MIDDLE | dict(n_layers=3, d_model=160, n_heads=5),
    "windows of 96, width 240": MIDDLE | dict(d_model=240),
    "4 in a batch": dict(batch_size=4),
    "1.4e-3": dict(learning_rate=1.4e-3),
    "3e-3": dict(learning_rate=3e-3),
    "4e-3": dict(learning_rate=4e-3),
    "6e-3": dict(learning_rate=6e-3),
    "windows of 96, 4e-3": MIDDLE | dict(learning_rate=4e-3),
    "windows of 96, 6e-3": MIDDLE | dict(learning_rate=6e-3),
    "windows of 64, 4e-3": SHORT,
    "windows of 64, 6e-3": SHORT | dict(learning_rate=6e-3),
    "no weight decay, 4e-3": dict(weight_decay=0.0, learning_rate=4e-3),
}


class Learner:
    """A preset with changes, and what is needed to take a step of training."""

    def __init__(
        self,
        corpus: minigpt.Corpus,
        preset: str,
        seed: int,
        muon: bool = False,
        waves: bool = True,
        **changes,
    ):
        self.shape, self.config = minigpt.make_configs(
            preset, vocab_size=corpus.tokenizer.vocab_size, seed=seed, **changes
        )
        torch.manual_seed(seed)
        self.model = minigpt.MiniGPT(self.shape)
        if not waves:
            draw_positions(self.model)
        make = minigpt.make_optimizer
        if muon:
            make = tangle.oracle("12", "Muon", vars(minigpt))
        self.optimizer = make(self.model, self.config)
        self.data, self.val = (
            minigpt.Dataset(ids, self.shape.context_length)
            for ids in (corpus.train, corpus.val)
        )

    def plan(self, steps: int) -> None:
        """Let the schedule go over so many steps."""
        self.config = replace(self.config, max_steps=steps, warmup_steps=steps // 20)

    def step(self, step: int, clock: Callable[[], float] = time.thread_time) -> float:
        """Train once; return the seconds that it took one processor."""
        start = clock()
        minigpt.training_step(
            self.model, self.optimizer, self.data, step, self.config, CPU
        )
        return clock() - start

    def loss(self) -> float:
        """Nats per character on the whole of `val`."""
        return minigpt.evaluate(self.model, self.val, CPU)


def learn(
    corpus: minigpt.Corpus,
    preset: str,
    seed: int,
    seconds: float | None = None,
    **changes,
) -> tuple[float, float]:
    """Train; return the seconds it took and nats per character on `val`.

    With seconds, the number of steps is what fits, by the time of a few.
    """
    learner = Learner(corpus, preset, seed, **changes)
    if seconds is not None:
        first = Learner(corpus, preset, seed, **changes)
        learner.plan(int(seconds / statistics.median(map(first.step, range(60)))))
    return sum(map(learner.step, range(learner.config.max_steps))), learner.loss()


def compare(corpus: minigpt.Corpus, seeds: int, ours: Sequence = OURS) -> dict:
    """Nats of the recipe and of ours, one for each seed; prints them."""
    results, nats = [], {}
    for seed in range(seeds):
        seconds, loss = learn(corpus, "full", seed, waves=False, **RECIPE)
        turn = {"nanoGPT's recipe": (seconds, loss)}
        for name, changes, part in ours:
            turn[f"{name}, 1/{part} of the time"] = learn(
                corpus, "laptop", seed, seconds / part, **changes
            )
        for name, (spent, reached) in turn.items():
            print(
                f"seed {seed}, {name:33} {spent:6.1f} s {reached:.3f} nats", flush=True
            )
        results.append(turn)
    for name in results[0]:
        nats[name] = [turn[name][1] for turn in results]
        print(f"{name:33} mean {statistics.mean(nats[name]):.3f} nats")
    return nats


def fitting(corpus: minigpt.Corpus, steps: int, rounds: int = 40) -> dict[str, int]:
    """How many steps of each setting take as long as these of the preset."""
    learners = {
        name: Learner(corpus, "laptop", 0, **changes) for name, changes in SWEEP.items()
    }
    times = {name: [] for name in SWEEP}
    for step in range(rounds):  # in turn, since a machine drifts
        for name, learner in learners.items():
            times[name].append(learner.step(step))
    median = {name: statistics.median(times[name]) for name in SWEEP}
    return {name: round(steps * median[PRESET] / median[name]) for name in SWEEP}


def sweep(corpus: minigpt.Corpus, steps: int, seeds: int, file: Path) -> dict:
    """The nats of all settings, by seed; prints and keeps each as it comes."""
    if file.is_file():
        record = json.loads(file.read_text("utf-8"))
    else:
        counts = fitting(corpus, steps)
        record = {name: {"steps": counts[name], "nats": []} for name in SWEEP}
    for seed in range(seeds):
        for name, known in record.items():
            if len(known["nats"]) > seed:
                continue
            learner = Learner(corpus, "laptop", seed, **SWEEP[name])
            learner.plan(known["steps"])
            for step in range(known["steps"]):
                learner.step(step)
            known["nats"].append(round(learner.loss(), 4))
            print(f"seed {seed}  {known['nats'][-1]:.4f} nats  {name}", flush=True)
            file.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sweep", type=int, help="steps of the preset")
    parser.add_argument("--muon", action="store_true", help="Muon in place of AdamW")
    parser.add_argument("--json", default=os.devnull, help="where to keep them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    corpus = minigpt.read_corpus()
    if options.sweep:
        sweep(corpus, options.sweep, options.seeds, Path(options.json))
        return
    results = compare(corpus, options.seeds, MUON if options.muon else OURS)
    with open(options.json, "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
