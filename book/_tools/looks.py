"""What the shipped model's heads look at in a short text, for the live figures.

The book's build calls it where a page has `{live} attention` (see live.py). The program's
own model reads the text; the weights of its heads are chapter 5's equation. A weight is
kept as a byte, so that 255 is all of a query's weight, and what a query cannot see is left
out: for each head, block by block, a row for each query, as long as there are keys to see.
"""

import base64
import functools
import sys

import torch
from torch import Tensor

import tangle

ROOT = tangle.TOC.parent
sys.path[:0] = [str(ROOT), str(ROOT / "book")]

import figures  # noqa: E402
import minigpt  # noqa: E402


@functools.cache
def shipped() -> minigpt.Checkpoint:
    """The model that comes with the book."""
    saved = minigpt.load_checkpoint(minigpt.SHIPPED)
    saved.model.eval()
    return saved


@torch.inference_mode()
def weights_of(model: minigpt.MiniGPT, ids: Tensor) -> Tensor:
    """The weights of all heads, block by block: (T) -> (L H, T, T)."""
    return torch.cat(figures.weights_of_heads(model, ids[None]), 1)[0]


def packed(text: str) -> str:
    """The weights of the shipped model's heads over a text, as base64 of bytes."""
    saved = shipped()
    ids = torch.tensor(saved.tokenizer.encode(text).tolist())
    weights = weights_of(saved.model, ids)
    seen = torch.ones_like(weights, dtype=torch.bool).tril()
    bytes_ = (255 * weights[seen]).round().to(torch.uint8)
    return base64.b64encode(bytes(bytes_.tolist())).decode()
