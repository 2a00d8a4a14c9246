"""What a run knew at some of its moments, from weights that were kept on its way.

    python tests/bench/moments.py SNAPSHOT ... [--json FILE]

A SNAPSHOT is a copy of a run's `last.safetensors`, or weights to ship. Each model
reads, on one core:

- windows of `val`, as in an evaluation of training: the loss;
- one function that was held back, from its first character on: the nats of each;
- names of random letters, each of them twice: the nats of a letter the first time,
  where nobody can know it, and again, where copying can;
- pages of `val`, for a probe of the stream behind the last block but one, fitted and
  asked as in chapter 15: how often it is right about brackets, comments and strings.

FILE is what chapter 15 and its film show.
"""

import argparse
import json
import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import torch
from judge import definitions
from learning import CPU

import minigpt
from minigpt import EOS, MiniGPT

FUNCTION = "tuple_name"  # a whole one that stands in no text that was learned from
NAMES, LETTERS, GIVEN = 60, 8, 3  # of a name's letters, those after GIVEN count


@cache
def corpus() -> minigpt.Corpus:
    return minigpt.read_corpus()


@cache
def held_out() -> str:
    """The function that is read, as it stands in `val`."""
    text = corpus().tokenizer.decode(corpus().val)
    function = re.search(rf"^def {FUNCTION}\(.*?\n(?=\S)", text, re.M | re.S)[0]
    assert function not in corpus().tokenizer.decode(corpus().train)
    return function


@torch.inference_mode()
def nats(model: MiniGPT, texts: list[str]) -> torch.Tensor:
    """What each character (N, T) of N texts of one length costs, from `<eos>` on."""
    encode = corpus().tokenizer.encode
    ids = torch.tensor([[EOS, *encode(text)] for text in texts])
    return minigpt.cross_entropy(model(ids[:, :-1]), ids[:, 1:], "none").view(
        len(texts), -1
    )


def copying(model: MiniGPT) -> tuple[float, float]:
    """Nats of a letter of a random name when it stands there first, and again."""
    letters = np.random.default_rng(0).integers(97, 123, (NAMES, LETTERS))
    names = ["".join(map(chr, row)) for row in letters]
    before, between = "    ", " = 0\n    return "
    all_nats = nats(model, [before + name + between + name for name in names])
    first = len(before) + GIVEN
    again = len(before) + LETTERS + len(between) + GIVEN
    counted = LETTERS - GIVEN
    return tuple(
        all_nats[:, place : place + counted].mean().item() for place in (first, again)
    )


@cache
def page() -> dict:
    """What chapter 15 defines for its probe: windows to fit it on, and to ask."""
    return definitions("states", "cut", "stream", corpus=corpus(), machine=CPU)


def probe(model: MiniGPT) -> list[float]:
    """How often it is right about an open bracket, a comment and a string."""
    (ids, truth), (others, true) = page()["fitted"], page()["asked"]
    stream, depth = page()["stream"], len(model.blocks) - 1
    weights = page()["fit"](stream(model, ids, depth), truth)
    same = page()["say"](stream(model, others, depth), weights) == true
    return same[:, 32:].float().mean((0, 1)).tolist()


def moment(snapshot: Path) -> dict:
    """What one snapshot knows."""
    saved = minigpt.load_checkpoint(snapshot)
    model = saved.model.eval()
    val = minigpt.Dataset(corpus().val, model.config.context_length)

    def rounded(values: list[float]) -> list[float]:
        return [round(value, 3) for value in values]

    return {
        "step": saved.step,
        "val_loss": round(minigpt.evaluate(model, val, CPU, 256), 4),
        "nats": rounded(nats(model, [held_out()])[0].tolist()),
        "names": rounded(copying(model)),
        "probe": rounded(probe(model)),
    }


def main(words: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("snapshots", nargs="+", type=Path, metavar="SNAPSHOT")
    parser.add_argument("--json", default=os.devnull, help="where to keep them")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    moments = sorted(map(moment, options.snapshots), key=lambda m: m["step"])
    for m in moments:
        first, again = m["names"]
        print(
            f"step {m['step']:6}  {m['val_loss']:.3f} nats, the function "
            f"{np.mean(m['nats']):.3f}, a name {first:.2f}, again {again:.2f}, "
            f"a bracket {m['probe'][0]:.1%}"
        )
    record = {"function": held_out(), "moments": moments}
    lines = json.dumps(record, indent=1).replace(",\n    ", ", ")
    Path(options.json).write_text(lines + "\n", "utf-8")
    return record


if __name__ == "__main__":
    main()
