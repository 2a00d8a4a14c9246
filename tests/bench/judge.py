"""A model that learns from a judge: the exercise of chapter 15, as long as it takes.

    python tests/bench/judge.py --json book/runs/judge.json    twenty minutes
    python tests/bench/judge.py substance --json FILE          one of the two, anew

The functions are those of the page. The shipped model learns from a judge that asks
whether Python compiles the function, and another time from one that asks for something
in it, too. Now and then 64 texts are written and looked at, and the loss is measured
on unseen text. Needs what builds the book.
"""

import argparse
import json
import os
import re
import statistics
import sys
import time
from pathlib import Path

import torch
from learning import CPU, ROOT, tangle
from tried import processor

import minigpt

sys.path.insert(0, str(ROOT / "book"))  # for figures, which the page imports
PAGE = ROOT / "book" / "15_watching.md"
LESSONS = {  # the judge, and how many steps
    "compiles": ("compiles", 60),
    "substance": ("with_substance", 120),
}


def definitions(*names: str, **given) -> dict:
    """What the page's first cell defines, and those that define these functions."""
    first, *others = tangle.cells(PAGE)
    needed = re.compile(rf"^def ({'|'.join(names)})\b", re.M)
    space = given
    for cell in [first, *(cell for cell in others if needed.search(cell.source))]:
        exec(cell.compile(), space)
    return space


def look(space: dict, model: minigpt.MiniGPT, val: minigpt.Dataset, n: int) -> dict:
    """How many of n texts begin with a valid function, and what these are like."""
    texts = space["texts_of"](space["written"](model, 10_000, n))
    valid = [text for text in texts if space["function_of"](text)]
    lengths = [len(space["first_of"](text)) for text in valid]
    statements = [space["statements"](text) for text in valid]
    return dict(
        valid=len(valid) / n,
        characters=statistics.median(lengths or [0]),
        statements=statistics.median(statements or [0]),
        different=len({space["first_of"](text) for text in valid}),
        loss=round(minigpt.evaluate(model, val, CPU, 64), 4),
        functions=[space["first_of"](text) for text in valid[:12]],
    )


def learn(space: dict, judge: str, steps: int, every: int, n: int) -> dict:
    """The mean reward of each step, and what was seen before, between and after."""
    model = minigpt.load_checkpoint(minigpt.SHIPPED).model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    val = minigpt.Dataset(space["corpus"].val, model.config.context_length)
    rewards, points = [], []
    begin = time.thread_time()
    for step in range(steps + 1):
        if step % every == 0:
            points.append({"step": step} | look(space, model.eval(), val, n))
            told = {k: v for k, v in points[-1].items() if k != "functions"}
            print(f"{time.thread_time() - begin:5.0f} s  {told}", flush=True)
        if step < steps:
            rewards.append(space["learn_from"](space[judge], model, optimizer, step))
    return dict(rewards=rewards, points=points, seconds=time.thread_time() - begin)


def main(words: list[str] | None = None) -> dict:
    """Print what is seen; return the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lessons", nargs="*", help=f"of {', '.join(LESSONS)} (all)")
    parser.add_argument("--steps", type=int, help="of each (60 and 120)")
    parser.add_argument("--every", type=int, default=20, help="steps between looks")
    parser.add_argument("--texts", type=int, default=64, help="for a look")
    parser.add_argument("--json", default=os.devnull, help="where to keep them")
    options = parser.parse_args(words)
    if unknown := {*options.lessons} - {*LESSONS}:
        parser.error(f"no lesson {unknown.pop()}: choose of {', '.join(LESSONS)}")
    torch.set_num_threads(1)
    corpus, file = minigpt.read_corpus(), Path(options.json)
    space = definitions("function_of", "written", "nats_of", corpus=corpus)
    known = json.loads(file.read_text("utf-8"))["runs"] if file.is_file() else {}
    record = dict(machine=f"{processor()}, PyTorch {torch.__version__}", runs=known)
    for name in options.lessons or LESSONS:
        print(name)
        judge, steps = LESSONS[name]
        steps = options.steps or steps
        record["runs"][name] = learn(space, judge, steps, options.every, options.texts)
        file.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return record


if __name__ == "__main__":
    main()
