"""Draw how a run of yours learned: its losses, over steps on a log axis.

    python book/_tools/curve.py checkpoints/laptop
    python book/_tools/curve.py checkpoints/mine --beside book/runs/laptop --out mine.png

Writes curve.svg into the run's folder, or the file you name. The training loss is
a mean over neighbouring steps, a validation loss is as it was measured; the run
beside it, one of yours or of the book's, is grey. Also while the run goes on.
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

sys.path.append(str(Path(__file__).resolve().parents[1]))  # figures.py is there
BINS = 25  # means for each factor of ten of steps


class CurveError(Exception):
    """What is wrong with a run or a name, in one line."""


def number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def read(run: Path) -> tuple[dict[int, float], dict[int, float]]:
    """The training losses of a run by step, and its validation losses."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        raise CurveError(f"{run} holds no run: it has no metrics.jsonl")
    train, val = {}, {}
    lines = path.read_bytes().split(b"\n")[:-1]  # the last may be half written
    for count, line in enumerate(lines, 1):
        try:
            record = dict(json.loads(line))
            found = [
                (losses, record["step"], record[name])
                for name, losses in (("loss", train), ("val_loss", val))
                if name in record
            ]
        except (ValueError, KeyError, TypeError):
            found = [({}, None, None)]
        for losses, step, loss in found:
            if not (isinstance(step, int) and number(loss)):
                raise CurveError(f"{path}, line {count}: not a record of a step")
            if step > 0 and math.isfinite(loss):
                losses[step] = loss  # of a step taken twice, the later one
    if not train:
        raise CurveError(f"{run} has no step yet")
    return dict(sorted(train.items())), dict(sorted(val.items()))


def smooth(losses: dict[int, float]) -> tuple[list[float], list[float]]:
    """Means over steps that are near each other on a log axis: steps, losses."""
    bins = defaultdict(list)
    for step in losses:
        bins[int(BINS * math.log10(step))].append(step)
    return (
        [math.exp(fmean(map(math.log, steps))) for steps in bins.values()],
        [fmean(losses[step] for step in steps) for steps in bins.values()],
    )


def draw(run: Path, beside: Path | None, out: Path) -> str:
    """Draw a run into a file, and say what can be seen there."""
    runs = [read(folder) for folder in (run, beside) if folder]
    try:
        import matplotlib
    except ImportError:
        raise CurveError(
            "matplotlib is not installed: make .venv/book, then "
            ".venv/bin/python book/_tools/curve.py"
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    import figures

    figure, axes = plt.subplots(figsize=(1.4 * figures.WIDTH, 4), facecolor="white")
    colors = [(figures.BLUE, figures.ORANGE, "-"), (figures.GREY, figures.GREY, "--")]
    levels = []
    for (train, val), folder, (blue, orange, dashes) in zip(
        runs, (run, beside), colors, strict=False
    ):
        name = f", {folder.resolve().name}" if beside else ""
        above = 3 if folder == run else 2  # the other run is behind
        means = smooth(train)
        levels += [*means[1], *val.values()]
        if folder == run:
            axes.plot(
                [*train],
                [*train.values()],
                color=blue,
                alpha=0.2,
                linewidth=0.6,
                zorder=1,
            )
        axes.plot(
            *means,
            color=blue,
            label=f"training{name}",
            zorder=above,
            marker="o" if len(train) == 1 else "",
            markersize=3,
        )
        if val:
            best = min(val, key=val.get)
            axes.plot(
                [*val],
                [*val.values()],
                dashes,
                color=orange,
                marker="o",
                markersize=3,
                zorder=above,
                label=f"validation{name}, best {val[best]:.3f} at {best:,}",
            )
    room = 0.05 * (max(levels) - min(levels)) or 0.1
    axes.set(
        xlabel="step",
        ylabel="loss (nats)",
        xscale="log",
        ylim=(min(levels) - room, max(levels) + room),
    )
    figures.powers(axes.xaxis)
    axes.legend()
    try:
        figure.savefig(
            out, dpi=200, metadata=({"Date": None} if out.suffix == ".svg" else None)
        )
    except ValueError as error:  # a format that matplotlib cannot write
        raise CurveError(f"{out}: {error}") from None
    finally:
        plt.close(figure)
    train, val = runs[0]
    last = f", validation loss {val[max(val)]:.3f} at {max(val):,}" if val else ""
    loss = smooth(train)[1][-1]
    return f"{out}: {max(train):,} steps, training loss {loss:.3f}{last}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="its folder")
    parser.add_argument("--beside", type=Path, help="folder of another run")
    parser.add_argument("--out", type=Path, help=".svg, .png or .pdf (RUN/curve.svg)")
    args = parser.parse_args(argv)
    try:
        print(draw(args.run, args.beside, args.out or args.run / "curve.svg"))
    except (CurveError, OSError) as error:
        print("curve: error:", *str(error).split(), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
