"""Write the shipped model for the pages: a byte for a number, packed, in a script.

    python book/_tools/weights.py             into the built book: _build/html/_static
    python book/_tools/weights.py FILE.js     into another file

The matrices are rounded as chapter 20 explains it, and by its own function, `rounded`.
What comes of that is a checkpoint of our format: a tensor `scale.NAME` of a number for
each row stands beside each `model.NAME` of bytes. It is packed by gzip and written as
base64, in a script that calls `minigpt.weights` with it, as a page that lies in a folder
may load a script and nothing else. No page loads it before a reader asks for it.
"""

import base64
import gzip
import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

import tangle

ROOT = tangle.TOC.parent
sys.path.append(str(ROOT))

import minigpt  # noqa: E402

SCRIPT = ROOT / "_build" / "html" / "_static" / "weights.js"
rounded = tangle.oracle("20", "rounded", {"torch": torch, "Tensor": torch.Tensor})


def in_bytes(path: Path) -> bytes:
    """A checkpoint's weights as one of our files whose matrices are of int8."""
    minigpt.load_checkpoint(path)  # raises if it is damaged
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["minigpt"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    small = {}
    for name, tensor in tensors.items():
        if name.startswith("model."):
            small[name] = tensor
            if tensor.dim() == 2:
                small[name], scale = rounded(tensor.float())
                small[name.replace("model.", "scale.")] = scale.flatten()
    del metadata["sha256"]
    metadata["sha256"] = minigpt.digest(metadata, small)
    return save(small, {"minigpt": json.dumps(metadata, sort_keys=True)})


def script(path: Path) -> str:
    """The script that brings a checkpoint's weights to a page."""
    packed = gzip.compress(in_bytes(path), 9, mtime=0)  # the same bytes each time
    return f'minigpt.weights("{base64.b64encode(packed).decode()}");\n'


def main(target: Path = SCRIPT) -> None:
    """Write the script, and say how large it is."""
    text = script(minigpt.SHIPPED)
    target.write_text(text, "ascii")
    sent = len(gzip.compress(text.encode()))
    print(f"{target.name}: {len(text) / 1e6:.1f} MB, {sent / 1e6:.1f} MB as it is sent")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
