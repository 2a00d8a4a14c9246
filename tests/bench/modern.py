"""The parts that newer models exchange, in the same time on the same text.

    python tests/bench/modern.py                   all, an hour of one core
    python tests/bench/modern.py --seconds 20      all, shortly
    ... --json FILE                                keep the figures, one by one

GPT-2's block and the same with one part exchanged, or all of the last five: positions
that start as waves and not at random, RoPE in the place of their table, RMSNorm, SwiGLU
with as many weights, keys and values for groups of heads, no biases. Parts that are a
class of the book are taken from its pages. Each learns for the same time on one core,
with a schedule over as many steps as fit, by the processor's own clock, so other
programs disturb little. All are evaluated on the same 256,000 characters. FILE is added
to, not begun anew.
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path

import learning
import torch
from initialisation import draw_positions
from learning import CPU, tangle
from torch import Tensor, nn
from tried import processor

import minigpt

SHAPE = dict(
    context_length=128, d_model=128, n_layers=4, n_heads=4, dropout=0.0, batch_size=8
)
RATES = dict(learning_rate=4e-3, min_learning_rate=4e-5)
NEST = "18"
GROUPS = 2  # of heads that share keys and values
VARIANTS = {
    "GPT-2's block": (),
    "waves at first": ("waves",),
    "RoPE": ("rope",),
    "RMSNorm": ("rms",),
    "SwiGLU": ("swiglu",),
    "GQA": ("gqa",),
    "no biases": ("no biases",),
    "all five": ("rope", "rms", "swiglu", "gqa", "no biases"),
}


@cache
def part(chapter: str, name: str) -> Callable:
    """The class or function that a solution in a chapter defines."""
    return tangle.oracle(chapter, name, vars(minigpt))


class Attention(minigpt.MultiHeadAttention):
    """Heads with turned queries and keys, or with fewer keys than queries, or both."""

    def __init__(self, config: minigpt.ModelConfig, rope: bool, n_kv_heads: int):
        super().__init__(config)
        self.rope, self.n_kv_heads = rope, n_kv_heads
        C = config.d_model
        self.qkv = nn.Linear(C, C + 2 * n_kv_heads * (C // config.n_heads))

    def forward(self, x: Tensor, remember=None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        (B, T, C), H = x.shape, self.n_heads
        parts = self.qkv(x).view(B, T, -1, C // H).transpose(1, 2)
        q, k, v = parts.split([H, self.n_kv_heads, self.n_kv_heads], 1)
        if remember is not None:
            k, v = remember(k, v)
        if self.rope:
            rotate = part(NEST, "rotate")
            q, k = rotate(q, k.size(2) - T), rotate(k, 0)
        k, v = (z.repeat_interleave(H // self.n_kv_heads, 1) for z in (k, v))
        y = minigpt.attention(q, k, v, self.dropout.p if self.training else 0.0)
        y = y.transpose(1, 2).reshape(B, T, C)
        return self.dropout(self.proj(y))


def exchanged(shape: minigpt.ModelConfig, parts: tuple[str, ...]) -> minigpt.MiniGPT:
    """A model of this shape with some parts exchanged, as it begins to learn."""
    model = minigpt.MiniGPT(shape)
    if "rope" in parts:
        embeddings = part(NEST, "Embeddings")
        model.embeddings = embeddings(shape)
    if "rms" in parts:
        model.norm = part(NEST, "RMSNorm")(shape.d_model)
    for block in model.blocks:
        if {"rope", "gqa"} & {*parts}:
            n = GROUPS if "gqa" in parts else shape.n_heads
            block.attention = Attention(shape, "rope" in parts, n)
        if "swiglu" in parts:
            block.mlp = part("07", "MLP")(shape)
        if "rms" in parts:
            for name in ("norm1", "norm2"):
                norm = part(NEST, "RMSNorm")(shape.d_model)
                setattr(block, name, norm)
    if "no biases" in parts:
        for module in model.modules():
            if getattr(module, "bias", None) is not None:
                module.bias = None
    minigpt.initialise(model)
    if not {"rope", "waves"} & {*parts}:  # as GPT-2 does
        draw_positions(model)
    return model


class Learner(learning.Learner):
    """One variant with one seed."""

    def __init__(self, corpus: minigpt.Corpus, parts: tuple[str, ...], seed: int):
        super().__init__(corpus, "laptop", seed, **SHAPE, **RATES)
        torch.manual_seed(seed)
        self.model = exchanged(self.shape, parts)
        self.optimizer = minigpt.make_optimizer(self.model, self.config)


def step_times(corpus: minigpt.Corpus, rounds: int) -> dict[str, float]:
    """Seconds a step, the median of many, all variants in turn."""
    learners = {name: Learner(corpus, parts, 0) for name, parts in VARIANTS.items()}
    times = {name: [] for name in VARIANTS}
    for step in range(rounds):
        for name, learner in learners.items():
            times[name].append(learner.step(step))
    return {name: statistics.median(times[name]) for name in VARIANTS}


def learn(
    corpus: minigpt.Corpus, parts: tuple[str, ...], seed: int, steps: int
) -> float:
    """Nats per character on windows of `val`, the same for all, after so many steps."""
    learner = Learner(corpus, parts, seed)
    learner.plan(steps)
    for step in range(steps):
        learner.step(step)
    return minigpt.evaluate(learner.model, learner.val, CPU, 2000)


def kept(model: minigpt.MiniGPT) -> int:
    """Numbers that a cache keeps for each character."""
    groups = [
        getattr(block.attention, "n_kv_heads", block.attention.n_heads)
        for block in model.blocks
    ]
    shape = model.config
    return sum(2 * n * shape.d_model // shape.n_heads for n in groups)


def main(words: list[str] | None = None) -> dict:
    """Print a line for each run; return the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=150, help="for a run")
    parser.add_argument("--rounds", type=int, default=40, help="to time a step")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", default=minigpt.CORPUS, help="text to learn from")
    parser.add_argument("--json", default=os.devnull, help="where to keep them")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    corpus = minigpt.read_corpus(Path(options.data))
    file = Path(options.json)
    if file.is_file():
        record = json.loads(file.read_text("utf-8"))
    else:
        times = step_times(corpus, options.rounds)
        machine = f"{processor()}, PyTorch {torch.__version__}"
        record = dict(machine=machine, seconds=options.seconds, variants={})
        for name, parts in VARIANTS.items():
            model = Learner(corpus, parts, 0).model
            record["variants"][name] = dict(
                milliseconds=round(1000 * times[name], 2),
                steps=int(options.seconds / times[name]),
                parameters=minigpt.count_parameters(model),
                kept=kept(model),
                nats=[],
            )
    for seed in range(options.seeds):
        for name, known in record["variants"].items():
            if len(known["nats"]) > seed:
                continue
            loss = learn(corpus, VARIANTS[name], seed, known["steps"])
            known["nats"].append(round(loss, 4))
            print(f"seed {seed}  {name:14} {known['steps']} steps  {loss:.4f} nats")
            file.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return record


if __name__ == "__main__":
    main()
