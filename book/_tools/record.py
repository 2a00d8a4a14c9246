"""Keep a run for the book: its text files, and what it wrote at growing steps.

    python book/_tools/record.py checkpoints/medium medium [SNAPSHOT ...]

Copies run.json, metrics.jsonl and samples.jsonl to book/runs/NAME, where the
pages plot them, and adds the commit to run.json. Of the steps after the first
thousand, one in ten is kept; of evaluations, all. Each SNAPSHOT, a copy of the
run's last.safetensors on its way, writes 64 texts that continue `def `, which
go to texts.jsonl with its step and validation loss. Weights are not copied.
"""

import argparse
import json
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

import minigpt

RUNS = Path(__file__).resolve().parents[1] / "runs"
CONFIG = minigpt.GenerateConfig(max_new_tokens=400, min_new_tokens=1, seed=7)


def commit() -> str:
    """The commit of this program, or nothing where it is no clone."""
    git = ["git", "-C", str(RUNS), "rev-parse", "HEAD"]
    with suppress(OSError):  # no git
        return subprocess.run(git, capture_output=True, text=True).stdout.strip()
    return ""


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


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="its folder")
    parser.add_argument("name", help="of the record, in book/runs")
    parser.add_argument("snapshots", nargs="*", type=Path, metavar="SNAPSHOT")
    options = parser.parse_args(words)
    needed = [options.run / name for name in ("run.json", "metrics.jsonl")]
    for file in needed + options.snapshots:
        if not file.is_file():
            parser.error(f"there is no {file}")
    target = RUNS / options.name
    target.mkdir(parents=True, exist_ok=True)
    record = json.loads(needed[0].read_text("utf-8"))
    if known := commit():
        record["commit"] = known
    lines = needed[1].read_text("utf-8").splitlines(True)
    samples = options.run / "samples.jsonl"
    logs = {
        "run.json": json.dumps(record, indent=2) + "\n",
        "metrics.jsonl": "".join(filter(kept, lines)),
        "samples.jsonl": samples.read_text("utf-8") if samples.is_file() else "",
    }
    if options.snapshots:
        val = np.load(options.run / "val.npy")
        written = sorted(
            (texts(snapshot, val) for snapshot in options.snapshots),
            key=lambda record: record["step"],
        )
        logs["texts.jsonl"] = "".join(json.dumps(point) + "\n" for point in written)
    for name, text in logs.items():
        (target / name).write_text(text, "utf-8")
    print(
        f"{target}: {record['step']} steps. Chapter 15 says where to write "
        f"{options.name!r}."
    )


if __name__ == "__main__":
    main()
