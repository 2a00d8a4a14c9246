"""What a recorded run wrote on its way, and how it learned, for the live figure of a film.

The book's build calls it where a page has `{live} film` (see live.py). Everything is from
the record in `book/runs`: at each of its points the loss and the first of its texts, and
which of the skills of chapter 15 they show, judged by the chapter's own functions; and
what each character of a function that was held back cost, at some moments. Nothing is
computed by a model. The waypoints are counted in the corpus, as the chapter does it.
"""

import ast
import functools
import keyword
import math
import re
import sys
import warnings

import numpy as np

import tangle

ROOT = tangle.TOC.parent
sys.path[:0] = [str(ROOT), str(ROOT / "book")]

import curve  # noqa: E402
import figures  # noqa: E402
import minigpt  # noqa: E402

TEXTS = 6  # of each point, for a page to show; all count for the shares


@functools.cache
def waypoints() -> dict[str, float]:
    """What machines pay that know nothing, frequencies and pairs, in nats."""
    corpus = minigpt.read_corpus()
    V, ids = corpus.tokenizer.vocab_size, np.asarray(corpus.train, dtype=np.int64)
    pairs = np.bincount(ids[:-1] * V + ids[1:], minlength=V * V).reshape(V, V)
    singles = pairs.sum(1)

    def entropy(counts: np.ndarray) -> float:
        p = counts[counts > 0] / counts.sum()
        return -float((p * np.log(p)).sum())

    frequencies = entropy(singles)
    return {
        "knows nothing": math.log(V),
        "knows frequencies": frequencies,
        "knows pairs": entropy(pairs) - frequencies,
    }


def judges() -> dict:
    """Chapter 15's functions: for each skill, does a text show it?"""
    given = {"ast": ast, "keyword": keyword, "re": re, "warnings": warnings}
    found = {
        name: tangle.oracle("15", name, dict(given))
        for name in ("has_keyword", "has_blocks", "function_of")
    }
    return {
        "keyword": found["has_keyword"],
        "blocks": found["has_blocks"],
        "function": lambda text: found["function_of"](text) is not None,
    }


@functools.cache
def learned(name: str) -> dict:
    """How a recorded run learned: points on log steps, and the validation losses."""
    _, metrics, _ = figures.read_run(name)
    train = {m["step"]: m["loss"] for m in metrics if "loss" in m}
    val = {m["step"]: m["val_loss"] for m in metrics if "val_loss" in m}
    batches = [
        [round(step, 1), round(loss, 3)]
        for step, loss in zip(*curve.smooth(train), strict=True)
    ]
    return {
        "batches": batches,
        "validation": [[step, round(loss, 3)] for step, loss in val.items()],
        "waypoints": {mark: round(loss, 3) for mark, loss in waypoints().items()},
    }


def held_out(name: str) -> dict:
    """A function that was held back, and the nats of its characters at some moments."""
    read = figures.read_moments(name)
    moments = [
        {"step": m["step"], "nats": [round(loss, 1) for loss in m["nats"]]}
        for m in read["moments"]
    ]
    return {"function": read["function"], "moments": moments}


@functools.cache
def film(name: str) -> dict:
    """The points of a recorded run: step, loss, texts, and the skills that they show."""
    texts = figures.read_lines(name, "texts")
    skills = judges()
    points = []
    for point in texts:
        shown = {
            skill: [bool(judge(text)) for text in point["texts"]]
            for skill, judge in skills.items()
        }
        points.append(
            {
                "step": point["step"],
                "loss": round(point["val_loss"], 2),
                "texts": point["texts"][:TEXTS],
                "shown": {k: [*map(int, v[:TEXTS])] for k, v in shown.items()},
                "counts": {k: sum(v) for k, v in shown.items()},
            }
        )
    return {
        "points": points,
        "of": len(texts[0]["texts"]),
        "held_out": held_out(name),
        **learned(name),
    }
