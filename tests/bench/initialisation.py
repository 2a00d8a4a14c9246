"""What the first weights are worth: GPT-2's rule against ours, side by side.

    python tests/bench/initialisation.py [STEPS [SEED ...]]

Trains the laptop preset for STEPS steps (1400) with its schedule fitted to
them, once with a standard deviation of 0.02 for everything (output projections
divided by sqrt(2 L), as in GPT-2) and once with the module's rule. Prints the
validation loss of each in nats per character, and keeps those of the last seed
in book/runs/initialisation.json, which chapter 8 reads.
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


def main(steps: int = 1400, *seeds: int) -> None:
    rules = {"GPT-2's 0.02": as_gpt2, "by width": minigpt.initialise}
    corpus, machine = minigpt.read_corpus(), minigpt.pick_machine()
    for seed in seeds or (0,):
        losses = {"steps": steps, "seed": seed}
        for name, rule in rules.items():
            minigpt.initialise = rule
            shape, config = minigpt.make_configs(
                "laptop", max_steps=steps, warmup_steps=steps // 20, seed=seed
            )
            torch.manual_seed(seed)
            model = minigpt.MiniGPT(shape).to(machine.device)
            optimizer = minigpt.make_optimizer(model, config)
            train, val = (
                minigpt.Dataset(ids, shape.context_length)
                for ids in (corpus.train, corpus.val)
            )
            for step in range(steps):
                minigpt.training_step(model, optimizer, train, step, config, machine)
            losses[name] = round(minigpt.evaluate(model, val, machine, 1024), 3)
            print(f"seed {seed}, {name}: {losses[name]}", flush=True)
    RECORD.write_text(json.dumps(losses, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
