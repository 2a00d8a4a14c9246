"""Plots for the pages of the book; no model code.

Figures have no background of their own and draw in mid tones, so that they
can be read on a light page and on a dark one.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

BLUE, ORANGE, GREEN, GREY = "#4a90d9", "#e08a2e", "#4aa564", "#8a8a8a"
plt.rcParams.update({
    "figure.figsize": (7, 3.6), "figure.dpi": 110, "font.size": 10,
    "figure.facecolor": "none", "axes.facecolor": "none",
    "savefig.facecolor": "none", "axes.edgecolor": GREY,
    "axes.labelcolor": GREY, "text.color": GREY, "xtick.color": GREY,
    "ytick.color": GREY, "legend.frameon": False, "axes.spines.top": False,
    "axes.spines.right": False, "lines.linewidth": 1.8,
})


def read_run(name: str) -> tuple[dict, list[dict], list[dict]]:
    """The record, metrics and samples of a run recorded in book/runs."""
    folder = Path(__file__).parent / "runs" / name
    lines = {log: (folder / f"{log}.jsonl").read_text("utf-8").splitlines()
             for log in ("metrics", "samples")}
    record = json.loads((folder / "run.json").read_text("utf-8"))
    return record, *([json.loads(line) for line in lines[log]] for log in lines)


def loss_curve(metrics: Sequence[dict], marks: dict[str, float]) -> None:
    """Training and validation loss over steps, with levels marked by name."""
    steps = [m for m in metrics if "loss" in m]
    evaluations = [m for m in metrics if "val_loss" in m]
    figure, axes = plt.subplots()
    axes.plot([m["step"] for m in steps], [m["loss"] for m in steps],
              color=BLUE, alpha=0.35, linewidth=0.8, label="batch")
    axes.plot([m["step"] for m in evaluations],
              [m["val_loss"] for m in evaluations],
              color=ORANGE, marker="o", markersize=4, label="validation")
    for name, level in marks.items():
        axes.axhline(level, color=GREY, linewidth=0.8, linestyle=":")
        axes.annotate(name, (1, level), (0, 3), color=GREY, fontsize=8,
                      xycoords=("axes fraction", "data"), ha="right",
                      textcoords="offset points")
    axes.set(xlabel="step", ylabel="loss (nats per character)", ylim=(0.9, None))
    axes.legend(loc="upper center")
    plt.show()


def shares(steps: Sequence[int], **lines: Sequence[float]) -> None:
    """Several shares between 0 and 1 over steps, each named at its end."""
    figure, axes = plt.subplots()
    for (name, line), color in zip(lines.items(), (BLUE, GREEN, ORANGE)):
        axes.plot(steps, line, color=color, marker="o", markersize=4, label=name)
    axes.set(xlabel="step", ylabel="share of samples", ylim=(-0.03, 1.03))
    axes.legend()
    plt.show()
