"""What the first weights are worth: GPT-2's rule, the module's by width, its waves.

    python tests/bench/initialisation.py [STEPS [SEED ...]]

Trains the laptop preset for STEPS steps (1400), up to a rate of 4e-3 and with its
schedule fitted to them, for each SEED (0, 1 and 2): once with a standard deviation of
0.02 for everything (output projections divided by sqrt(2 L), as in GPT-2), once with
the module's rule, but positions as random as tokens, and once with all of the module's
rule, where positions start as waves. Prints the validation loss of each in nats per
character, and keeps them in book/runs/initialisation.json, which chapters 4 and 8 read.
"""

import json
import math
import sys
from pathlib import Path

import torch
from torch import nn

import minigpt

RECORD = Path(__file__).parents[2] / "book" / "runs" / "initialisation.json"


def as_gpt2(model: minigpt.MiniGPT) -> None:
    """GPT-2's first weights (in place)."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            scale = math.sqrt(2 * model.config.n_layers)
            std = 0.02 / scale if name.endswith("proj.weight") else 0.02
            nn.init.normal_(parameter, std=std)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def draw_positions(model: minigpt.MiniGPT) -> None:
    """Let positions start as random as tokens (in place)."""
    nn.init.normal_(model.embeddings.position_embedding.weight, std=0.5)


def by_width(model: minigpt.MiniGPT) -> None:
    """The module's first weights, but random positions (in place)."""
    initialise(model)
    draw_positions(model)


initialise = minigpt.initialise
RULES = {"GPT-2's 0.02": as_gpt2, "by width": by_width, "and waves": initialise}


def learn(corpus: minigpt.Corpus, steps: int, seed: int) -> float:
    """Nats per character after so many steps."""
    machine = minigpt.pick_machine()
    shape, config = minigpt.make_configs(
        "laptop",
        max_steps=steps,
        warmup_steps=steps // 20,
        learning_rate=4e-3,
        min_learning_rate=4e-5,
        seed=seed,
    )
    torch.manual_seed(seed)
    model = minigpt.MiniGPT(shape).to(machine.device)
    optimizer = minigpt.make_optimizer(model, config)
    train, val = (
        minigpt.Dataset(ids, shape.context_length) for ids in (corpus.train, corpus.val)
    )
    for step in range(steps):
        minigpt.training_step(model, optimizer, train, step, config, machine)
    return round(minigpt.evaluate(model, val, machine, 1024), 3)


def main(steps: int = 1400, *seeds: int) -> None:
    corpus = minigpt.read_corpus()
    nats = {name: [] for name in RULES}
    for seed in seeds or (0, 1, 2):
        for name, rule in RULES.items():
            minigpt.initialise = rule
            nats[name].append(learn(corpus, steps, seed))
            print(f"seed {seed}, {name}: {nats[name][-1]}", flush=True)
    record = {"steps": steps, "nats": nats}
    RECORD.write_text(json.dumps(record, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
