"""Nats per character in the same time: our laptop preset and nanoGPT's recipe.

    python tests/bench/learning.py                 as long as the recipe takes
    python tests/bench/learning.py --sweep 45      many settings, 45 s each

nanoGPT's README has a recipe for a laptop: 4 layers of 128, windows of 64, 12 in
a batch, 2,000 steps, learning rate 1e-3 to 1e-4 after 100 steps of warm-up,
beta2 0.99, no dropout. Here it is a config of ours, trained by our step on our
text, and its training time, without evaluations, is the measure. Ours then get
that time, half of it or a third, each with a schedule that fits its time. All
are evaluated on the whole of `val`, each in its own context.
"""

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

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
SHORT = dict(context_length=64, batch_size=12)
FAST = SHORT | dict(learning_rate=6e-3, min_learning_rate=6e-5, muon=True)
CPU = minigpt.pick_machine("cpu")
OURS = (
    ("laptop preset", {}, 1),
    ("windows of 64", SHORT, 1),
    ("windows of 64", SHORT, 2),
    ("with Muon", FAST, 1),
    ("with Muon", FAST, 3),
)
SWEEP = (
    {},
    dict(learning_rate=2e-3),
    dict(learning_rate=6e-3),
    dict(beta2=0.95),
    dict(weight_decay=0.0),
    dict(batch_size=4),
    dict(batch_size=12),
    dict(d_model=144),
    dict(d_model=240),
    dict(n_layers=3),
    dict(n_heads=3),
    dict(context_length=96, batch_size=8),
    dict(muon=True),
    SHORT,
    SHORT | dict(batch_size=6),
    SHORT | dict(batch_size=8),
    SHORT | dict(learning_rate=6e-3),
    SHORT | dict(n_layers=3),
    FAST,
    FAST | dict(learning_rate=1e-2),
    FAST | dict(d_model=240),
)


def learn(
    corpus: minigpt.Corpus,
    preset: str,
    seed: int,
    seconds: float | None = None,
    muon: bool = False,
    **changes,
) -> tuple[float, float]:
    """Train; return the seconds it took and nats per character on `val`.

    With seconds, the number of steps is what fits, by the time of a few.
    """
    shape, config = minigpt.make_configs(
        preset, vocab_size=corpus.tokenizer.vocab_size, seed=seed, **changes
    )
    train, val = (
        minigpt.Dataset(ids, shape.context_length) for ids in (corpus.train, corpus.val)
    )

    def steps(count: int, config: minigpt.TrainConfig) -> tuple:
        torch.manual_seed(seed)
        model = minigpt.MiniGPT(shape)
        make = minigpt.make_optimizer
        if muon:
            make = tangle.oracle("12", "Muon", vars(minigpt))
        optimizer = make(model, config)
        times = []
        for step in range(count):
            start = time.perf_counter()
            minigpt.training_step(model, optimizer, train, step, config, CPU)
            times.append(time.perf_counter() - start)
        return model, times

    if seconds is not None:
        count = int(seconds / statistics.median(steps(60, config)[1]))
        config = replace(config, max_steps=count, warmup_steps=count // 20)
    model, times = steps(config.max_steps, config)
    return sum(times), minigpt.evaluate(model, val, CPU)


def compare(corpus: minigpt.Corpus, seeds: int) -> dict:
    """Nats of the recipe and of ours, one for each seed; prints them."""
    results, nats = [], {}
    for seed in range(seeds):
        seconds, loss = learn(corpus, "full", seed, **RECIPE)
        turn = {"nanoGPT's recipe": (seconds, loss)}
        for name, changes, part in OURS:
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


def sweep(corpus: minigpt.Corpus, seconds: float, seeds: int) -> list[dict]:
    """Changes of the laptop preset, each with the same time; prints them."""
    results = []
    for changes in SWEEP:
        nats = [
            learn(corpus, "laptop", seed, seconds, **changes)[1]
            for seed in range(seeds)
        ]
        results.append(changes | {"nats": nats})
        print(f"{statistics.mean(nats):.3f} nats  {changes}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sweep", type=float, help="seconds a setting")
    parser.add_argument("--json", default=os.devnull, help="where to keep them")
    options = parser.parse_args()
    corpus = minigpt.read_corpus()
    if options.sweep:
        results = sweep(corpus, options.sweep, options.seeds)
    else:
        results = compare(corpus, options.seeds)
    with open(options.json, "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
