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
import time
from dataclasses import replace

import torch

import minigpt

RECIPE = dict(context_length=64, d_model=128, n_layers=4, n_heads=4,
              dropout=0.0, batch_size=12, max_steps=2000, warmup_steps=100,
              learning_rate=1e-3, min_learning_rate=1e-4, beta2=0.99)
SHORT = dict(context_length=64, batch_size=12)
FAST = SHORT | dict(learning_rate=6e-3, min_learning_rate=6e-5, muon=True)
CPU = minigpt.pick_machine("cpu")
OURS = (("laptop preset", {}, 1), ("windows of 64", SHORT, 1),
        ("windows of 64", SHORT, 2), ("with Muon", FAST, 1),
        ("with Muon", FAST, 3))
SWEEP = (
    {}, dict(learning_rate=2e-3), dict(learning_rate=6e-3),
    dict(learning_rate=8e-3), dict(beta2=0.95), dict(weight_decay=0.0),
    dict(min_learning_rate=4e-4), dict(grad_clip=0.3), dict(batch_size=4),
    dict(batch_size=12), dict(d_model=144), dict(d_model=240),
    dict(d_model=144, n_layers=3), dict(d_model=192, n_layers=3),
    dict(n_heads=3), dict(n_heads=12), dict(context_length=96, batch_size=8),
    SHORT, SHORT | dict(batch_size=8), SHORT | dict(learning_rate=6e-3),
    SHORT | dict(d_model=240), SHORT | dict(n_layers=3),
    SHORT | dict(batch_size=6), dict(muon=True), FAST,
    FAST | dict(learning_rate=1e-2), FAST | dict(learning_rate=4e-3),
    FAST | dict(weight_decay=0.0), FAST | dict(batch_size=8),
    dict(muon=True, learning_rate=6e-3), FAST | dict(d_model=240))


class Muon:
    """`torch.optim.Muon` for the blocks' matrices and AdamW for the rest."""

    def __init__(self, model: minigpt.MiniGPT, config: minigpt.TrainConfig):
        inner = {p for p in model.blocks.parameters() if p.dim() == 2}
        rest = [p for p in model.parameters() if p not in inner]
        self.both = (
            torch.optim.Muon(inner, config.learning_rate, config.weight_decay,
                             adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, config.learning_rate, weight_decay=0.0,
                              betas=(config.beta1, config.beta2), fused=True))
        self.param_groups = [group for optimizer in self.both
                             for group in optimizer.param_groups]

    def step(self) -> None:
        for optimizer in self.both:
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.both:
            optimizer.zero_grad(set_to_none)


def learn(corpus: minigpt.Corpus, preset: str, seed: int,
          seconds: float | None = None, muon: bool = False,
          **changes) -> tuple[float, float]:
    """Train; return the seconds it took and nats per character on `val`.

    With seconds, the number of steps is what fits, by the time of a few.
    """
    shape, config = minigpt.make_configs(
        preset, vocab_size=corpus.tokenizer.vocab_size, seed=seed,
        **changes)
    train, val = (minigpt.Dataset(ids, shape.context_length)
                  for ids in (corpus.train, corpus.val))

    def steps(count: int, config: minigpt.TrainConfig) -> tuple:
        torch.manual_seed(seed)
        model = minigpt.MiniGPT(shape)
        optimizer = (Muon if muon else minigpt.make_optimizer)(model, config)
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
                corpus, "laptop", seed, seconds / part, **changes)
        for name, (spent, nats) in turn.items():
            print(f"seed {seed}, {name:33} {spent:6.1f} s {nats:.3f} nats",
                  flush=True)
        results.append(turn)
    for name in results[0]:
        nats[name] = [turn[name][1] for turn in results]
        print(f"{name:33} mean {statistics.mean(nats[name]):.3f} nats")
    return nats


def sweep(corpus: minigpt.Corpus, seconds: float, seeds: int) -> list[dict]:
    """Changes of the laptop preset, each with the same time; prints them."""
    results = []
    for changes in SWEEP:
        nats = [learn(corpus, "laptop", seed, seconds, **changes)[1]
                for seed in range(seeds)]
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
