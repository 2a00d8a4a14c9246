"""Keep a run for the book: its text files, and what it wrote at growing steps.

    python book/_tools/record.py checkpoints/medium medium [SNAPSHOT ...]

Copies run.json, metrics.jsonl and samples.jsonl to book/runs/NAME, where the
pages plot them, and adds the commit to run.json. Of the steps after the first
thousand, one in ten is kept; of evaluations, all. Each SNAPSHOT, a copy of the
run's last.safetensors on its way, writes 64 texts that continue `def `, which
go to texts.jsonl with its step and validation loss. Weights are not copied.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import minigpt

CONFIG = minigpt.GenerateConfig(max_new_tokens=400, min_new_tokens=1, seed=7)


def kept(line: str) -> bool:
    """Is a line of metrics.jsonl worth its room in the book?"""
    record = json.loads(line)
    return "loss" not in record or record["step"] <= 1000 or (record["step"] % 10 == 0)


def texts(snapshot: Path, val: np.ndarray, count: int = 64) -> dict:
    """A model's step, its loss (nats), and its continuations of `def `."""
    saved = minigpt.load_checkpoint(snapshot)
    windows = minigpt.Dataset(val, saved.model.config.context_length)
    loss = minigpt.evaluate(
        saved.model, windows, minigpt.pick_machine("cpu", "float32"), 256
    )
    prompt = saved.tokenizer.encode("def ").tolist()
    rows = torch.tensor([saved.before + prompt] * count)
    steps = minigpt.generate(minigpt.cached(saved.model), rows, CONFIG)
    return {
        "step": saved.step,
        "val_loss": loss,
        "texts": [
            "def " + saved.tokenizer.decode(row) for row in torch.stack([*steps], dim=1)
        ],
    }


def main(source: str, name: str, *snapshots: str) -> None:
    target = Path(__file__).resolve().parents[1] / "runs" / name
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(source, "samples.jsonl"), target / "samples.jsonl")
    lines = Path(source, "metrics.jsonl").read_text("utf-8").splitlines(True)
    (target / "metrics.jsonl").write_text("".join(filter(kept, lines)), "utf-8")
    record = json.loads(Path(source, "run.json").read_text("utf-8"))
    git = ["git", "rev-parse", "HEAD"]
    record["commit"] = subprocess.check_output(git, text=True).strip()
    text = json.dumps(record, indent=2) + "\n"
    (target / "run.json").write_text(text, "utf-8")
    if snapshots:
        val = np.load(Path(source, "val.npy"))
        written = sorted(
            (texts(Path(snapshot), val) for snapshot in snapshots),
            key=lambda record: record["step"],
        )
        lines = "".join(json.dumps(record) + "\n" for record in written)
        (target / "texts.jsonl").write_text(lines, "utf-8")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
