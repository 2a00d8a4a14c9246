"""Plots for the pages of the book; no model code.

A figure is an SVG without a background, its text is text, and its colours are
those below: in a page, `drawings.py` makes them variables of the theme. At most
five inches wide, it can be read on a phone.
"""

import json
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgba

INK, MUTED, GREY = "#222832", "#48566b", "#8b95a5"
BLUE, ORANGE, GREEN = "#2069b0", "#c2410c", "#23784a"
GOLD = "#b57600"  # surprise, and nothing else
WIDTH = 5  # inches: 360 of the pixels of which a phone has 390
plt.rcParams.update(
    {
        "figure.figsize": (WIDTH, 2.9),
        "figure.constrained_layout.use": True,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "font.size": 10.5,
        "savefig.facecolor": "none",
        "axes.titlesize": 10.5,
        "axes.edgecolor": GREY,
        "axes.labelcolor": MUTED,
        "text.color": INK,
        "xtick.color": GREY,
        "ytick.color": GREY,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "xtick.labelsize": 10,
        "ytick.labelsize": 10,
        "legend.fontsize": 10,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.linewidth": 1.6,
        "image.interpolation": "none",
        "svg.fonttype": "none",
        "svg.hashsalt": "minigpt",
    }
)
if "ipykernel" in sys.modules:  # on a page, the same figure gives the same bytes
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("svg", bbox_inches=None, metadata={"Date": None})


def powers(axis: Axis) -> None:
    """Write the numbers of a log axis as 1, 10, 10², without TeX."""
    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

    def text(number: float, _) -> str:
        exponent = f"{number:.0e}".split("e")[1]
        return (
            "1"
            if number == 1
            else "10"
            if number == 10
            else "10" + str(int(exponent)).translate(raised)
        )

    axis.set_major_formatter(text)
    axis.set_minor_locator(plt.NullLocator())


def visible(character: str) -> str:
    """A character, or a sign for one that leaves no ink."""
    return {" ": "␣", "\n": "↵"}.get(character, character)


def shade(x: float, largest: float) -> tuple[float, float, float, float]:
    """Blue for more than 0, orange for less, grey for minus infinity."""
    if x == float("-inf"):
        return to_rgba(GREY, 0.3)
    return to_rgba(BLUE if x > 0 else ORANGE, min(abs(x) / largest, 1))


def letter(axes: Axes, column: int, height: float, character: str) -> None:
    """Write a character into the middle of a column that is 1 wide."""
    axes.text(
        column + 0.5,
        height,
        character.strip(),
        ha="center",
        va="center",
        family="monospace",
        fontsize=10,
    )


def surprise_bars(axes: Axes, text: str, nats: Sequence[float]) -> None:
    """A text over bars: the longer its bar, the less a character was expected.

    What was expected, to less than a fifth of a nat, has none.
    """
    column = row = 0
    for character, loss in zip(text, nats, strict=False):  # the text may end first
        letter(axes, column, row + 0.25, character)
        if character != "\n" and loss > 0.2:
            axes.bar(column + 0.5, min(loss, 5) / 10, 0.9, row + 0.5, color=GOLD)
        column, row = (0, row + 1) if character == "\n" else (column + 1, row)
    axes.set(xlim=(0, 60), ylim=(text.count("\n") + 1, 0))
    axes.axis("off")


# The cover


def surprise(text: str, nats: Sequence[float]) -> None:
    """A text, and how much each of its characters surprised a model."""
    figure, axes = plt.subplots(figsize=(WIDTH, 0.36 * (text.count("\n") + 1)))
    surprise_bars(axes, text, nats)
    plt.show()


# Chapter 1: A program you can read


def guesses(counts: dict[str, Counter]) -> None:
    """The likeliest next characters after each of several contexts."""
    figure, panels = plt.subplots(1, len(counts), sharey=True, figsize=(WIDTH, 2.4))
    for axes, (context, following) in zip(panels, counts.items(), strict=True):
        top = following.most_common(5)
        share = [count / following.total() for _, count in top]
        places = range(len(top))
        axes.bar(places, share, color=BLUE, width=0.7)
        axes.set(title=f"after {context!r}", ylim=(0, 1.05), xlim=(-0.6, 4.6))
        axes.set_xticks(places, [visible(c) for c, _ in top], fontsize=12)
    panels[0].set(ylabel="probability")
    panels[1].set(xlabel="next character")
    plt.show()


def unseen(
    lengths: Sequence[int], shares: dict[int, Sequence[float]], whole: tuple[int, float]
) -> None:
    """Share of unseen contexts by length, a curve per amount of text."""
    figure, axes = plt.subplots()
    for (n, line), color in zip(shares.items(), (ORANGE, GREEN, BLUE), strict=False):
        axes.plot(
            lengths,
            line,
            color=color,
            marker="o",
            markersize=5,
            label=f"{n:,} characters",
        )
    axes.plot(*whole, "D", color=GREY, markersize=8, label="all of it")
    axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, lengths)
    axes.set(
        xlabel="length of the context (characters)",
        ylim=(-0.03, 1.03),
        ylabel="share never seen before",
    )
    axes.legend(loc="lower right")
    plt.show()


# Chapter 2: Text into numbers


def strip(text: str, ids: Sequence[int]) -> None:
    """The lines of a text as boxes, with each character above its id."""
    rows, start = [], 0
    for line in text.splitlines(keepends=True):
        rows.append((line, ids[start : start + len(line)]))
        start += len(line)
    width = max(len(line) for line, _ in rows)
    figure, axes = plt.subplots(figsize=(WIDTH, 0.95 * len(rows)))
    for y, (line, numbers) in enumerate(rows):
        for x, (character, number) in enumerate(zip(line, numbers, strict=True)):
            color = (
                MUTED
                if character.isspace()
                else BLUE
                if character.isalnum()
                else ORANGE
            )
            axes.add_patch(
                plt.Rectangle(
                    (x + 0.05, y + 0.05),
                    0.9,
                    0.9,
                    edgecolor=color,
                    facecolor="none",
                    linewidth=1.5,
                )
            )
            axes.text(
                x + 0.5,
                y + 0.36,
                visible(character),
                fontsize=15,
                color=color,
                ha="center",
                va="center",
                family="monospace",
            )
            axes.text(x + 0.5, y + 0.77, str(number), ha="center", va="center")
    axes.set(xlim=(0, width), ylim=(len(rows), 0))
    axes.axis("off")
    plt.show()


# Chapter 3: Data


def batch(inputs: Sequence[str], targets: Sequence[str]) -> None:
    """The characters of a batch, each above its target."""
    B, T = len(inputs), len(inputs[0])
    figure, axes = plt.subplots(figsize=(WIDTH, 0.72 * B))
    for y, rows in enumerate(zip(inputs, targets, strict=True)):
        for row, text, color in zip((0, 1), rows, (BLUE, ORANGE), strict=True):
            for x, character in enumerate(text):
                axes.text(
                    x + 0.5,
                    2.6 * y + row + 0.5,
                    visible(character),
                    color=color,
                    fontsize=14,
                    family="monospace",
                    ha="center",
                    va="center",
                )
        for x in range(T):
            axes.add_patch(
                plt.Rectangle(
                    (x + 0.04, 2.6 * y),
                    0.92,
                    2,
                    edgecolor=GREY,
                    facecolor="none",
                    linewidth=0.7,
                )
            )
    axes.set(xlim=(-0.05, T + 0.05), ylim=(2.6 * B - 0.5, -0.1))
    axes.axis("off")
    plt.show()


# Chapter 4: Embeddings


def alike(names: str, cosines: Sequence[Sequence[float]]) -> None:
    """A map of cosines between tokens, by their characters."""
    figure, axes = plt.subplots(figsize=(4.4, 4.4))
    axes.imshow([[shade(x, 0.5) for x in row] for row in cosines])
    axes.set_xticks(range(len(names)), names, family="monospace")
    axes.set_yticks(range(len(names)), names, family="monospace")
    axes.tick_params(length=0, labelsize=11, labeltop=True, labelcolor=INK)
    axes.spines[["left", "bottom"]].set_visible(False)
    plt.show()


def distances(cosines: Sequence[Sequence[float]], by_distance: Sequence[float]) -> None:
    """A map of cosines between positions, and their mean by distance."""
    figure, (panel, axes) = plt.subplots(1, 2, figsize=(WIDTH, 2.6))
    panel.imshow([[shade(x, 0.6) for x in row] for row in cosines])
    panel.set(xlabel="position", ylabel="position")
    places = range(1, len(by_distance) + 1)
    axes.plot(places, by_distance, color=BLUE, marker="o", markersize=4)
    axes.plot(places[3::4], by_distance[3::4], "o", color=ORANGE, markersize=8)
    axes.set(
        xlabel="distance (characters)",
        ylabel="mean cosine",
        ylim=(min(0, *by_distance) - 0.02, None),
    )
    axes.set_xticks(places[3::4])
    plt.show()


# Chapters 5 and 6: Attention, Many heads


def queries_and_keys(model, ids) -> list[tuple]:
    """What a model's heads compare while it reads ids (B, T).

    For each block, its queries and its keys, each (B, H, T, D). A block makes
    them, and the values, in one layer called `qkv`; a hook is a function that
    PyTorch calls with what a layer took and gave.
    """
    seen = []
    hooks = [
        block.attention.qkv.register_forward_hook(
            lambda layer, taken, given: seen.append(given.detach())
        )
        for block in model.blocks
    ]
    model(ids)
    for hook in hooks:
        hook.remove()
    split = [qkv.unflatten(-1, (3, model.config.n_heads, -1)) for qkv in seen]
    return [(q, k) for q, k, _ in (qkv.permute(2, 0, 3, 1, 4) for qkv in split)]


def weights_of_heads(model, ids) -> list:
    """How heads share out their looks while a model reads ids (B, T).

    For each block (B, H, T, T): a row for each query, a column for each key.
    """
    blocks = []
    for q, k in queries_and_keys(model, ids):
        scores = q @ k.mT / q.size(-1) ** 0.5
        future = scores.new_ones(scores.shape[-2:]).triu(1).bool()
        blocks.append(scores.masked_fill(future, -np.inf).softmax(-1))
    return blocks


def looks(text: str, panels: dict[str, Sequence[Sequence[float]]]) -> None:
    """Maps (T, T) over one text: queries down, keys across.

    Colours are relative to the largest number of the map, or of the row where
    no number is negative. Up to three maps stand side by side, else in twos.
    A row is as high as its letter needs, so cells are higher than they are wide.
    """
    columns = len(panels) if len(panels) < 4 else 2
    rows = -(-len(panels) // columns)
    names = "".join(map(visible, text))
    figure, grid = plt.subplots(
        rows,
        columns,
        squeeze=False,
        sharex=True,
        sharey=True,
        figsize=(WIDTH, rows * (len(names) * 0.155 + 0.4) + 0.35),
    )
    figure.get_layout_engine().set(w_pad=0.01, wspace=0.02, h_pad=0.06)
    for axes, (name, values) in zip(grid.flat, panels.items(), strict=False):
        finite = [[abs(x) for x in v if x != float("-inf")] for v in values]
        shares = all(x >= 0 for v in values for x in v)
        tops = [max(v if shares else sum(finite, [])) for v in finite]
        axes.imshow(
            [[shade(x, top) for x in v] for v, top in zip(values, tops, strict=True)],
            aspect="auto",
        )
        axes.set_xticks(range(len(names)), names, family="monospace")
        axes.set_yticks(range(len(names)), names, family="monospace")
        axes.tick_params(length=0, labelsize=9.5, labelcolor=INK)
        axes.set_title(name)
    for axes in grid[-1]:
        axes.set_xlabel("key")
    for axes in grid[:, 0]:
        axes.set_ylabel("query")
    plt.show()


# Chapter 7: The block


def by_depth(ylabel: str, lines: dict[str, Sequence[float]]) -> None:
    """Something that each layer has, from the lowest on, on a log axis."""
    figure, axes = plt.subplots()
    for (name, line), color, marker in zip(
        lines.items(), (BLUE, ORANGE), "os", strict=False
    ):
        axes.semilogy(
            range(1, len(line) + 1),
            line,
            color=color,
            marker=marker,
            markersize=4,
            label=name,
        )
    axes.set_xticks(range(1, len(line) + 1, 3))
    axes.set(xlabel="layer", ylabel=ylabel)
    axes.legend()
    powers(axes.yaxis)
    plt.show()


# Chapter 8: MiniGPT


def parts(bars: dict[str, dict[str, float]]) -> None:
    """What each part's share of a whole is: a bar for each whole."""
    colors = [GREY, BLUE, to_rgba(BLUE, 0.45), ORANGE, GREEN]
    figure, axes = plt.subplots()
    for row, counts in enumerate(bars.values()):
        left, whole = 0.0, sum(counts.values()) / 100
        for (name, count), color in zip(counts.items(), colors, strict=False):
            axes.barh(
                row,
                count / whole,
                0.6,
                left,
                color=color,
                label=name if row == 0 else None,
            )
            left += count / whole
    axes.set_yticks(range(len(bars)), bars)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel="share (percent)", xlim=(0, 100))
    axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.4, 1),
        ncols=3,
        columnspacing=1,
        handlelength=1,
        handletextpad=0.4,
    )
    plt.show()


def loss_at_start(
    measured: dict[float, float], least: float, rule: dict[float, float]
) -> None:
    """Losses by the size of the logits, the least there is, and a rule."""
    figure, axes = plt.subplots()
    axes.axhline(least, color=GREY, linewidth=0.8)
    axes.annotate(
        "ln V",
        (1, least),
        (0, -14),
        ha="right",
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
    )
    axes.plot(*zip(*rule.items(), strict=True), ":", color=ORANGE, label="ln V + s²/2")
    axes.plot(*zip(*measured.items(), strict=True), "o", color=BLUE, label="measured")
    axes.set_xscale("log")
    axes.set_xticks([0.1, 0.3, 1, 3, 7], ["0.1", "0.3", "1", "3", "7"])
    axes.minorticks_off()
    axes.set(
        xlabel="standard deviation s of the logits",
        ylim=(0, None),
        ylabel="loss (nats per character)",
    )
    axes.legend(loc="upper left")
    plt.show()


# Chapter 9: Choosing the next character


def knobs(
    decode: Callable,
    learned: Sequence[float],
    ways: dict[str, dict[int, float]],
    count: int = 14,
) -> None:
    """The likeliest tokens before (grey), and after each way of choosing."""
    order = sorted(range(len(learned)), key=lambda i: -learned[i])[:count]
    names = [visible(decode([i])) for i in order]
    figure, panels = plt.subplots(1, len(ways), sharey=True)
    for axes, (name, kept) in zip(panels, ways.items(), strict=True):
        axes.bar(range(count), [learned[i] for i in order], color=GREY, alpha=0.55)
        axes.bar(range(count), [kept.get(i, 0) for i in order], width=0.4, color=BLUE)
        axes.set_xticks(range(count), names, family="monospace")
        axes.set_title(name)
        axes.tick_params(axis="x", length=0)
    panels[0].set_ylabel("probability")
    plt.show()


# Chapter 10: The machine


def gaps(types: dict[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    """Per type, the distance from numbers to the next, as shares of them."""
    figure, axes = plt.subplots()
    for (name, (numbers, distances)), color in zip(
        types.items(), (BLUE, ORANGE, GREEN), strict=False
    ):
        axes.loglog(numbers, distances, color=color)
        axes.annotate(
            name,
            (numbers[-1], distances[-1]),
            (6, 0),
            color=color,
            textcoords="offset points",
            va="center",
        )
    axes.set(xlabel="number", ylabel="gap / number")
    powers(axes.xaxis)
    powers(axes.yaxis)
    plt.show()


# Chapter 11: The way back


def graph(
    nodes: dict[str, tuple[float, float, float, float]],
    arrows: Sequence[tuple[str, str, float]],
) -> None:
    """A computation graph: (x, y, value, gradient) by name, and slopes between."""
    figure, axes = plt.subplots()
    boxes = {}
    for name, (x, y, value, gradient) in nodes.items():
        boxes[name] = plt.Rectangle(
            (x - 0.3, y - 0.2), 0.6, 0.4, fill=False, edgecolor=GREY
        )
        axes.add_patch(boxes[name])
        for height, text, color in (
            (0.11, name, MUTED),
            (0, f"{value:g}", INK),
            (-0.11, f"{gradient:g}", ORANGE),
        ):
            axes.text(
                x,
                y + height,
                text.replace("-", "−"),
                color=color,
                ha="center",
                va="center",
            )
    for start, end, slope in arrows:
        (x, y, *_), (x2, y2, *_) = nodes[start], nodes[end]
        axes.annotate(
            "",
            (x2, y2),
            (x, y),
            arrowprops=dict(
                arrowstyle="-|>",
                color=GREY,
                shrinkA=0,
                shrinkB=0,
                patchA=boxes[start],
                patchB=boxes[end],
            ),
        )
        axes.text(
            (x + x2) / 2,
            (y + y2) / 2 + 0.04,
            f"{slope:g}",
            color=BLUE,
            ha="center",
            va="bottom",
        )
    xs, ys, *_ = zip(*nodes.values(), strict=True)
    axes.set(
        xlim=(min(xs) - 0.35, max(xs) + 0.35), ylim=(min(ys) - 0.25, max(ys) + 0.25)
    )
    axes.axis("off")
    plt.show()


def memory_held(there: Sequence[float], writing: Sequence[float]) -> None:
    """Megabytes held after each operation: to the loss and back, and without."""
    figure, axes = plt.subplots()
    both = [*there, *reversed(there)]
    axes.plot(both, color=BLUE)
    axes.plot(writing, color=ORANGE)
    axes.axvline(len(there) - 0.5, color=GREY, linewidth=0.8, linestyle=":")
    for name, x, y, color in (
        ("forward", len(there) / 2, 1.03, MUTED),
        ("back", len(there) * 1.5, 1.03, MUTED),
    ):
        axes.text(x, y * max(both), name, ha="center", color=color)
    axes.text(len(there) * 0.62, max(both) * 0.4, "with a tape", color=BLUE)
    axes.text(
        len(there) * 0.3, max(writing) + 0.03 * max(both), "without", color=ORANGE
    )
    axes.set(xlabel="operation", ylabel="MB held", ylim=(0, max(both) * 1.12))
    plt.show()


# Chapter 12: Learning


def schedules(walks: dict[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    """The rate of each step, and how far from the floor it has led."""
    figure, (left, right) = plt.subplots(1, 2)
    for (name, (rates, distances)), color in zip(
        walks.items(), (ORANGE, BLUE), strict=False
    ):
        left.plot(rates, color=color)
        right.semilogy(distances, color=color, label=name)
    left.set(xlabel="step", ylabel="rate", ylim=(0, None))
    right.set(xlabel="step", ylabel="distance from the floor")
    right.legend()
    powers(right.yaxis)
    plt.show()


def loss_by_rate(losses: dict[float, float], blind: float) -> None:
    """The loss reached with each learning rate, and that of a blind guess."""
    figure, axes = plt.subplots()
    axes.semilogx(losses.keys(), losses.values(), color=BLUE, marker="o", markersize=5)
    axes.axhline(blind, color=GREY, linewidth=0.8, linestyle=":")
    axes.annotate(
        "blind",
        (1, blind),
        (0, -12),
        ha="right",
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
    )
    axes.set(xlabel="learning rate", ylabel="loss (nats per character)")
    powers(axes.xaxis)
    plt.show()


# Chapter 13: Checkpoints


def contents(files: dict[str, dict[str, int]], names: dict[str, str]) -> None:
    """Files as bars, to scale, of the parts that they are made of, by name."""
    figure, axes = plt.subplots(figsize=(WIDTH, 1.9))
    for row, sizes in enumerate(files.values()):
        left = 0.0
        for (part, name), color in zip(
            names.items(), (GREY, BLUE, ORANGE, GREEN), strict=False
        ):
            width = sizes.get(part, 0) / 1000
            axes.barh(row, width, left=left, height=0.5, color=color)
            if width:
                axes.text(left + width / 2, row + 0.42, name, ha="center", va="center")
            left += width
    axes.set_yticks(range(len(files)), files)
    axes.set(xlabel="kilobytes", ylim=(len(files) - 0.3, -0.35))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    plt.show()


# Chapter 14: The training run


def sittings(
    first: Sequence[float], whole: Sequence[float], alone: Sequence[float]
) -> None:
    """A killed run: losses of its first sitting, of all steps, of a rival.

    The rival and the second sitting begin at the same checkpoint.
    """
    steps = range(1, len(whole) + 1)
    saved = len(whole) - len(alone)
    figure, (bars, axes) = plt.subplots(
        2, sharex=True, figsize=(WIDTH, 3.7), height_ratios=[1, 3.2]
    )
    for y, begin, end, color, name in (
        (1, 0, len(first), BLUE, "first sitting"),
        (0, saved, len(whole), GREEN, "second"),
    ):
        bars.barh(y, end - begin, left=begin + 0.5, color=color, height=0.7, alpha=0.3)
        bars.text(begin + 1, y, name, va="center")
    bars.plot(len(first) + 0.5, 1, "X", color=INK, markersize=11)
    bars.text(len(first) + 1.6, 1, "killed", va="center")
    bars.axvline(saved + 0.5, color=GREY, linestyle=":")
    axes.axvline(saved + 0.5, color=GREY, linestyle=":")
    axes.annotate(
        "checkpoint",
        (saved + 0.5, 1),
        (-4, -4),
        ha="right",
        va="top",
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
    )
    axes.plot(
        steps[: len(first)],
        first,
        "o",
        color=BLUE,
        markersize=8,
        markerfacecolor="none",
        label="first sitting",
    )
    axes.plot(
        steps[saved:],
        whole[saved:],
        ".-",
        color=GREEN,
        linewidth=1,
        label="second sitting",
    )
    axes.plot(steps[saved:], alone, "--", color=ORANGE, label="from the weights alone")
    bars.set(yticks=[], ylim=(-0.6, 1.6))
    bars.spines[["left", "bottom"]].set_visible(False)
    bars.tick_params(bottom=False)
    axes.set(xlabel="step", ylabel="loss (nats per character)")
    axes.legend()
    plt.show()


# Chapter 15: Watching it learn


RUNS = Path(__file__).parent / "runs"


def read_lines(name: str, log: str) -> list[dict]:
    """The records of one log of a run recorded in book/runs."""
    lines = (RUNS / name / f"{log}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def read_run(name: str) -> tuple[dict, list[dict], list[dict]]:
    """The record, metrics and samples of a run recorded in book/runs."""
    record = json.loads((RUNS / name / "run.json").read_text("utf-8"))
    return record, read_lines(name, "metrics"), read_lines(name, "samples")


def read_moments(name: str) -> dict:
    """A function that was held back, and what a recorded run knew at some moments."""
    return json.loads((RUNS / name / "moments.json").read_text("utf-8"))


def loss_curve(metrics: Sequence[dict], marks: dict[str, float]) -> None:
    """Training and validation loss over steps, with levels marked by name.

    A log axis has no 0: what was measured before the first step stands left of 1.
    """
    batches = {m["step"]: m["loss"] for m in metrics if "loss" in m}
    evaluations = {m["step"]: m["val_loss"] for m in metrics if "val_loss" in m}
    figure, axes = plt.subplots()
    axes.plot(batches.keys(), batches.values(), color=BLUE, alpha=0.35, linewidth=0.8)
    if 0 in evaluations:
        axes.plot(0.5, evaluations.pop(0), "o", color=ORANGE, markersize=3)
    axes.plot(
        evaluations.keys(), evaluations.values(), "o-", color=ORANGE, markersize=3
    )
    for name, losses, color, offset, side in (
        ("batch", batches, BLUE, (-8, -24), "right"),
        ("validation", evaluations, ORANGE, (2, 14), "left"),
    ):
        if losses:
            steps = sorted(losses)
            middle = np.sqrt(steps[0] * steps[-1])
            step = min(steps, key=lambda step: abs(step - middle))
            axes.annotate(
                name,
                (step, losses[step]),
                offset,
                color=color,
                ha=side,
                textcoords="offset points",
            )
    for name, level in marks.items():
        axes.axhline(level, color=GREY, linewidth=0.8, linestyle=":")
        axes.annotate(
            name,
            (1, level),
            (0, 5),
            xycoords=("axes fraction", "data"),
            ha="right",
            textcoords="offset points",
        )
    axes.set(xlabel="step", xscale="log", ylabel="loss (nats per character)")
    powers(axes.xaxis)
    axes.set_xticks([0.5], ["0"], minor=True)
    axes.tick_params(axis="x", which="both", length=3.5, pad=3.5)
    plt.show()


def lines_along(
    samples: Sequence[dict], losses: dict[int, float], width: int = 34
) -> None:
    """The loss down the page, a row per sample; beside it a line of text."""
    rows, steps = range(len(samples)), [sample["step"] for sample in samples]
    figure, axes = plt.subplots(figsize=(WIDTH, 0.28 * len(samples)))
    axes.plot([losses[step] for step in steps], rows, ".-", color=ORANGE)
    for sample, row in zip(samples, rows, strict=True):
        line = sample["texts"][0].split("\n")[0][:width]
        axes.plot(
            [losses[steps[row]], 4.9],
            [row] * 2,
            color=GREY,
            linewidth=0.6,
            linestyle=":",
        )
        axes.text(5, row, line, family="monospace", va="center", size=10)
    axes.set(
        xlim=(0.5, 13),
        ylim=(rows[-1] + 0.6, -0.6),
        ylabel="step",
        xticks=[1, 2, 3, 4],
        xlabel="loss (nats)",
    )
    axes.set_yticks(rows, steps)
    axes.xaxis.set_label_coords(0.17, -0.1)
    axes.spines["bottom"].set_bounds(0.5, 4.7)
    plt.show()


def readings(text: str, moments: Sequence[dict], lines: Sequence[int]) -> None:
    """Some lines of a text, as a model read them at several moments."""
    rows = text.splitlines(True)
    shown = "".join(rows[n] for n in lines).rstrip("\n")
    size = (WIDTH, 0.36 * len(lines) * len(moments))
    figure, panels = plt.subplots(len(moments), 1, figsize=size)
    for axes, moment in zip(panels, moments, strict=True):
        nats = []
        for n in lines:
            begin = len("".join(rows[:n]))
            nats += moment["nats"][begin : begin + len(rows[n])]
        surprise_bars(axes, shown, nats)
        axes.text(
            60, 0.25, f"step {moment['step']:,}", ha="right", va="center", color=MUTED
        )
    plt.show()


def shares(
    losses: Sequence[float],
    limits: dict[str, float],
    chance: dict[str, float],
    **lines: Sequence[float],
) -> None:
    """Shares between 0 and 1 over a falling loss, with what is possible and chance.

    A log axis gives room to the end, where the loss falls least.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2))
    for (name, line), color in zip(lines.items(), (BLUE, GREEN, ORANGE), strict=False):
        axes.semilogx(losses, line, "o-", color=color, linewidth=1.2, markersize=3)
        axes.annotate(
            name,
            (1, line[-1]),
            (6, 0),
            va="center",
            color=color,
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
        )
        if name in limits:
            axes.axhline(limits[name], color=color, linewidth=0.8, linestyle=":")
            axes.axhline(chance[name], color=color, linewidth=0.8, linestyle="--")
    ticks = [4, 3, 2, 1.5, 1, 0.8]
    axes.set_xticks(ticks, ticks)
    axes.minorticks_off()
    axes.invert_xaxis()
    axes.set(
        xlabel="validation loss (nats per character)",
        ylabel="share of texts",
        ylim=(-0.03, 1.03),
    )
    plt.show()


def told(text: str, said: np.ndarray, true: np.ndarray) -> None:
    """A text on the colours of what a probe says (n, 3), its faults underlined."""
    lines, column, row = text.count("\n"), 0, 0
    figure, axes = plt.subplots(figsize=(WIDTH, 0.3 * lines))
    for character, states, truth in zip(text, said, true, strict=True):
        if character == "\n":
            column, row = 0, row + 1
            continue
        for state, color in zip(states, (BLUE, ORANGE, GREEN), strict=True):
            if state:
                axes.bar(column + 0.5, 0.9, 1, row + 0.05, color=color, alpha=0.3)
        if states[0] != truth[0]:
            axes.bar(column + 0.5, 0.07, 1, row + 0.93, color=INK)
        letter(axes, column, row + 0.5, character)
        column += 1
    axes.set(xlim=(0, 46), ylim=(lines, 0))
    axes.axis("off")
    plt.show()


def places(losses: Sequence[float], pairs: float) -> None:
    """The loss at each place of a window, and that of counted pairs."""
    # It stands in a solution, which is narrower than a page.
    figure, axes = plt.subplots(figsize=(WIDTH - 0.3, 2.8))
    axes.semilogx(range(1, len(losses) + 1), losses, ".-", color=BLUE)
    axes.axhline(pairs, color=GREY, linewidth=0.8, linestyle=":")
    axes.annotate(
        "knows pairs",
        (1, pairs),
        (0, 3),
        ha="right",
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
    )
    ticks = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    axes.set_xticks(ticks, ticks)
    axes.minorticks_off()
    axes.set(xlabel="characters that it sees", ylabel="loss (nats per character)")
    plt.show()


# Chapter 16: The KV cache


def cache_rows(calls: Sequence[tuple[int, int]], prompt: int) -> None:
    """A row per call: what was kept and what is read, (kept, read) cells.

    The text has `prompt` characters at the first call, and one more at each.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2))
    for row, (kept, read) in enumerate(calls):
        start = prompt + row - kept - read
        for x in range(start, prompt + row):
            axes.barh(
                row,
                0.86,
                left=x + 0.57,
                height=0.8,
                color=GREY if x < start + kept else BLUE,
            )
    axes.bar(0, 0, color=GREY, label="kept: keys and values")
    axes.bar(0, 0, color=BLUE, label="read")
    axes.set(
        xlabel="character of the text",
        ylabel="call",
        yticks=range(0, len(calls), 2),
        yticklabels=range(1, len(calls) + 1, 2),
        xlim=(0.3, prompt + len(calls)),
        ylim=(len(calls) - 0.4, -0.6),
    )
    axes.legend(loc="upper right")
    plt.show()


def pace(without: Sequence[float], with_cache: Sequence[float]) -> None:
    """Milliseconds for each character, without and with the cache."""
    figure, axes = plt.subplots()
    n = range(1, len(without) + 1)
    axes.plot(n, without, color=GREY, linewidth=1, label="without the cache")
    axes.plot(n, with_cache, color=BLUE, linewidth=1, label="with the cache")
    top = 1.3 * sorted([*without, *with_cache])[int(1.98 * len(without))]
    axes.set(
        xlabel="characters in the text", ylim=(0, top), ylabel="time for the next (ms)"
    )
    axes.legend(loc="upper left")
    plt.show()


PLAINLY = {  # the names in the table of `make bench`
    "bfloat16": "ours in bfloat16",
    "peak": "one large product",
    "chain": "its products alone",
    "one": "one text at a time",
    "decode": "ids into text",
}


def peers(lines: Sequence[dict]) -> None:
    """How many times as fast ours is as each other program, work by work."""
    figure, axes = plt.subplots()
    names = {}  # of the rows that have a bar
    row = 0
    for line in lines:
        speeds = line["characters_per_second"]
        axes.annotate(
            line["title"],
            (0, row + 0.1),
            va="center",
            xycoords=("axes fraction", "data"),
        )
        others = [other for other in speeds if other != "ours"]
        for y, other in enumerate(others, row + 1):
            pairs = zip(speeds["ours"], speeds[other], strict=True)
            ratios = [ours / theirs for ours, theirs in pairs]
            middle = statistics.median(ratios)
            axes.barh(
                y,
                middle - 1,
                0.6,
                left=1,
                color=BLUE if other == "transformers" else GREY,
            )
            axes.plot([min(ratios), max(ratios)], [y, y], color=INK, linewidth=1)
            axes.annotate(
                f"{middle:.2f}",
                (max(1, *ratios), y),
                (5, 0),
                va="center",
                textcoords="offset points",
            )
            names[y] = PLAINLY.get(other, other)
        end = row + len(others) + 0.5
        axes.plot([1, 1], [row + 0.5, end], color=GREY, linewidth=0.8)
        row += len(others) + 1
    figure.set_figheight(0.23 * row + 0.6)
    axes.set(
        xscale="log", ylim=(row - 0.6, -0.5), xlabel="ours is so many times as fast"
    )
    axes.set_xticks([0.2, 0.5, 1, 2, 5, 10], ["0.2", "0.5", "1", "2", "5", "10"])
    axes.set_yticks(list(names), names.values())
    axes.minorticks_off()
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    plt.show()
