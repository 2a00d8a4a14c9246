"""Do the positions follow the indentation? A model of text indented by three.

    python tests/bench/indentation.py [WIDTH [STEPS [SEED]]]

Trains the laptop preset for STEPS steps (3000), its schedule fitted to them, on the
training split with WIDTH spaces (3) for each four at the start of a line. Rows of
positions are drawn at random first, as those of the shipped model were. Prints how
alike the rows of two positions are, on average, at the distances 1 to 18, and keeps
that in book/runs/indentation.json, which chapter 4 reads.
"""

import json
import re
import sys
from pathlib import Path

import torch
from initialisation import draw_positions

import minigpt

RECORD = Path(__file__).parents[2] / "book" / "runs" / "indentation.json"


def indented(text: str, width: int) -> str:
    """The text with so many spaces for each four at the start of a line."""
    return re.sub(
        "^(?: {4})+", lambda found: " " * (len(found[0]) // 4 * width), text, flags=re.M
    )


def main(width: int = 3, steps: int = 3000, seed: int = 0) -> None:
    corpus, machine = minigpt.read_corpus(), minigpt.pick_machine()
    shape, config = minigpt.make_configs(
        "laptop", max_steps=steps, warmup_steps=steps // 20, seed=seed
    )
    text = indented(corpus.tokenizer.decode(corpus.train), width)
    train = minigpt.Dataset(corpus.tokenizer.encode(text), shape.context_length)
    torch.manual_seed(seed)
    model = minigpt.MiniGPT(shape).to(machine.device)
    draw_positions(model)
    optimizer = minigpt.make_optimizer(model, config)
    for step in range(steps):
        minigpt.training_step(model, optimizer, train, step, config, machine)
    rows = model.embeddings.position_embedding.weight.detach().cpu()
    cosines = torch.cosine_similarity(rows[:, None], rows, dim=-1)
    by_distance = [round(cosines.diagonal(d).mean().item(), 3) for d in range(1, 19)]
    print(*by_distance)
    record = {"width": width, "steps": steps, "seed": seed, "by_distance": by_distance}
    RECORD.write_text(json.dumps(record, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
