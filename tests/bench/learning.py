"""Nats per character in the same time: our laptop preset and nanoGPT's recipe.

    python tests/bench/learning.py [--seeds 3] [--json FILE]

nanoGPT's README has a recipe for a laptop: 4 layers of 128, windows of 64, 12 in
a batch, 2,000 steps, learning rate 1e-3 to 1e-4 after 100 steps of warm-up,
beta2 0.99, no dropout. Here it is a config of ours, trained by our step on our
text, and its training time, without evaluations, is the measure. Our preset
then gets that time, half of it and a third, each with a schedule that fits its
time. All are evaluated on the whole of `val`, each in its own context.
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
CPU = minigpt.pick_machine("cpu")


def learn(corpus: minigpt.Corpus, preset: str, seed: int,
          seconds: float | None = None, **changes) -> tuple[float, float]:
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
        optimizer = minigpt.make_optimizer(model, config)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", default=os.devnull, help="where to keep them")
    options = parser.parse_args()
    corpus, results = minigpt.read_corpus(), []
    for seed in range(options.seeds):
        seconds, loss = learn(corpus, "full", seed, **RECIPE)
        turn = {"recipe": (seconds, loss)}
        for name, part in (("same time", 1), ("half", 2), ("a third", 3)):
            turn[name] = learn(corpus, "laptop", seed, seconds / part)
        for name, (spent, nats) in turn.items():
            print(f"seed {seed}, {name:10} {spent:6.1f} s {nats:.3f} nats",
                  flush=True)
        results.append(turn)
    for name in results[0]:
        nats = [turn[name][1] for turn in results]
        print(f"{name:10} mean {statistics.mean(nats):.3f} nats per character")
    with open(options.json, "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
