"""How far does counting get? Smoothed counts against a model.

    python tests/bench/counting.py [PLACES [CHECKPOINT]]

Counts in the whole training split, mixes contexts of up to 12 characters as in
exercise 4 of chapter 1, and predicts PLACES (2000) evenly spaced characters of
the validation split; the model, the shipped one unless another is named, predicts
the same ones, after as many characters as fit into its context. Prints bits per
character, in about two minutes.
"""

import math
import sys
from collections import Counter
from pathlib import Path

import torch

import minigpt


def count(text: str, wanted: set[str], length: int) -> Counter:
    """How often the wanted pieces, all of one length, stand in a text."""
    pieces = (text[i : i + length] for i in range(len(text) - length + 1))
    return Counter(piece for piece in pieces if piece in wanted)


def mixed(counts: Counter, text: str, i: int, k: int, m: float, V: int) -> float:
    """The probability of text[i], by contexts of up to k characters before it."""
    p = 1 / V
    for length in range(k + 1):
        context = text[i - length : i]
        p = (counts[context + text[i]] + m * p) / (counts[context] + m)
    return p


@torch.inference_mode()
def main(places: int = 2000, checkpoint: Path = minigpt.SHIPPED) -> None:
    corpus, saved = minigpt.read_corpus(), minigpt.load_checkpoint(checkpoint)
    decode = corpus.tokenizer.decode
    train, val = decode(corpus.train), decode(corpus.val)
    T = saved.model.config.context_length
    where = [T + i * (len(val) - T) // places for i in range(places)]
    counts = Counter({"": len(train)})
    for length in range(1, 14):
        wanted = {
            val[i - k : i - k + length] for i in where for k in (length, length - 1)
        }
        counts += count(train, wanted, length)
    for m in (3, 30):
        bits = [
            -sum(math.log2(mixed(counts, val, i, k, m, 96)) for i in where) / places
            for k in range(13)
        ]
        print(f"m = {m}, k = 0 to 12:", *(f"{b:.3f}" for b in bits), flush=True)
    nats = 0.0
    for i in where:
        ids = torch.tensor(saved.tokenizer.encode(val[i - T : i + 1]).tolist())[None]
        nats += minigpt.cross_entropy(
            saved.model(ids[:, :-1])[:, -1:], ids[:, -1:]
        ).item()
    print(f"the model: {nats / places / math.log(2):.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *map(Path, sys.argv[2:]))
