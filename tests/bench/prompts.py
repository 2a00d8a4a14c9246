"""How well does a model begin? What is read before a prompt, compared.

    python tests/bench/prompts.py [CHECKPOINT]

Prints a row for each choice of what is read before a prompt. Left: nats per
character of ten characters of each of 50 files of the validation split, after
their first 0, 1, 2 and 3 characters. Right: of 100 texts of 240 characters from
each of three prompts, the share that is not mostly blank, and the share whose
first statement is whole and accepted by Python.
"""

import ast
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from minigpt import (  # noqa: E402
    EOS,
    SHIPPED,
    GenerateConfig,
    MiniGPT,
    cached,
    cross_entropy,
    generate,
    load_checkpoint,
    read_corpus,
)

CHOICES = ["", "<eos>", "\n", "\n\n", "\n\n\n", "<eos>\n", "<eos>\n\n", "<eos>\n\n\n"]
PROMPTS = ["def ", "class Shape:", ""]


def to_ids(tokenizer, text: str) -> list[int]:
    """The ids of a text in which the first <eos> is the token."""
    head = [EOS] if text.startswith("<eos>") else []
    return head + tokenizer.encode(text.removeprefix("<eos>")).tolist()


def files(ids: np.ndarray, count: int = 50) -> list[list[int]]:
    """The ids of evenly spaced files of a split that have 13 characters."""
    starts = np.flatnonzero(ids == EOS)[:-1] + 1
    found = [ids[start : start + 13].tolist() for start in starts]
    found = [file for file in found if EOS not in file]
    return [found[i] for i in np.linspace(0, len(found) - 1, count).astype(int)]


@torch.inference_mode()
def beginning(
    model: MiniGPT, before: Sequence[int], file: Sequence[int], cut: int
) -> float:
    """Nats per character of the ten that follow the first `cut` of a file."""
    text = [*before, *file[: cut + 10]]
    logits = model(torch.tensor([text[:-1]]))[:, -10:]
    return cross_entropy(logits, torch.tensor([text[-10:]])).item()


def is_whole(text: str) -> bool:
    """Does Python accept the text up to its second unindented line?"""
    first = re.split(r"\n(?=\S)", text.lstrip("\n"))[0]
    try:
        return first.strip() != text.strip() and bool(ast.parse(first).body)
    except SyntaxError:
        return False


def written(
    model: MiniGPT, tokenizer, before: Sequence[int], prompt: str, count: int = 100
) -> list[str]:
    """Texts of 240 characters after a prompt."""
    ids = torch.tensor([*before, *tokenizer.encode(prompt).tolist()])
    config = GenerateConfig(max_new_tokens=240, min_new_tokens=240)
    steps = torch.stack([*generate(cached(model), ids.repeat(count, 1), config)], 1)
    return [prompt + tokenizer.decode(row) for row in steps]


def main(path: Path = SHIPPED) -> None:
    saved = load_checkpoint(path)
    model, tokenizer = saved.model.eval(), saved.tokenizer
    held_out = files(read_corpus().val)
    print(f"{path}, step {saved.step}, {saved.best_loss:.3f} nats")
    print(
        f"{'read before':18}{'nats after 0, 1, 2, 3':26}"
        + "".join(f"{prompt!r:>18}" for prompt in PROMPTS)
    )
    for choice in CHOICES:
        before = to_ids(tokenizer, choice)
        nats = [
            np.mean(
                [
                    beginning(model, before or [EOS][cut > 0 :], file, cut)
                    for file in held_out
                ]
            )
            for cut in range(4)
        ]
        row = f"{choice!r:18}" + "".join(f"{n:6.2f}" for n in nats) + "  "
        for prompt in PROMPTS:
            texts = written(
                model, tokenizer, before or [EOS][len(prompt) > 0 :], prompt
            )
            full = np.mean([2 * len("".join(t.split())) > len(t) for t in texts])
            row += f"{full:10.0%} {np.mean([*map(is_whole, texts)]):7.0%}"
        print(row, flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
