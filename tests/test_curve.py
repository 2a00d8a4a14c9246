"""book/_tools/curve.py, on small runs written here and on the book's."""

import json
import shutil
import sys
from pathlib import Path

import pytest

import curve

RUNS = Path(curve.__file__).parents[1] / "runs"


def write_run(folder: Path, *records) -> Path:
    """A folder with the log of a run: records, or lines as they stand."""
    folder.mkdir(exist_ok=True)
    lines = [
        record if isinstance(record, str) else json.dumps(record) for record in records
    ]
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    return folder


STEPS = [{"step": 0, "val_loss": 4.6}] + [
    {"step": step, "loss": 4 / step, "seconds": 1.0} for step in range(1, 21)
]
VAL = {"step": 20, "val_loss": 0.3, "seconds": 2.0}


def test_losses_are_read_by_step_and_the_later_one_counts(tmp_path):
    run = write_run(
        tmp_path,
        *STEPS,
        VAL,
        {"changes": {"max_steps": 9}, "step": 20},
        {"step": 20, "loss": 0.7},
        {"step": 21, "loss": float("nan")},
    )
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 22, "lo')  # as it is while the run goes on
    train, val = curve.read(run)
    assert train == {step: 4 / step for step in range(1, 20)} | {20: 0.7}
    assert val == {20: 0.3}


def test_the_mean_goes_over_steps_that_are_near_on_a_log_axis():
    steps, losses = curve.smooth({1: 5.0, 2: 4.0, 1000: 1.0, 1001: 3.0})
    assert steps == pytest.approx([1, 2, 1000.5], rel=1e-4)
    assert losses == [5, 4, 2]


@pytest.mark.parametrize(
    "records, reason",
    [
        (None, "holds no run"),
        ([], "no step yet"),
        (STEPS[:1], "no step yet"),
        (["x", *STEPS], "line 1: not a record"),
        ([*STEPS, "[1]"], "line 22: not a"),
        (["[]", "7"], "line 2"),
        ([{"step": 1, "loss": "low"}], "line 1"),
        ([{"loss": 2.0}], "line 1"),
        (["\0"], "line 1"),
    ],
)
def test_what_is_no_run_is_one_line(tmp_path, capsys, records, reason):
    run = tmp_path / "run"
    if records is not None:
        write_run(run, *records)
    assert curve.main([str(run)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("curve: error: ") and err.count("\n") == 1
    assert reason in err and not (run / "curve.svg").exists()


def test_without_matplotlib_one_line_says_what_to_make(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert curve.main([str(write_run(tmp_path, *STEPS))]) == 2
    assert capsys.readouterr().err == (
        "curve: error: matplotlib is not installed: make .venv/book, then "
        ".venv/bin/python book/_tools/curve.py\n"
    )


@pytest.fixture
def plot():
    pytest.importorskip("matplotlib", reason="make .venv/book")


@pytest.mark.parametrize(
    "records",
    [STEPS[1:], [*STEPS, VAL], STEPS[1:2]],
    ids=["training", "both", "one step"],
)
def test_a_run_is_drawn_into_its_folder(plot, tmp_path, capsys, records):
    run = write_run(tmp_path / "my run", *records)
    assert curve.main([str(run)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{run / 'curve.svg'}: {records[-1]['step']} steps")
    assert err == ""
    svg = (run / "curve.svg").read_text("utf-8")
    assert ">training<" in svg and (">validation, best 0.300 at 20<" in svg) == (
        VAL in records
    )


def test_the_run_of_the_book_stands_beside_ones_own(plot, tmp_path, capsys):
    shutil.copy(RUNS / "laptop" / "metrics.jsonl", tmp_path)
    out = tmp_path / "both.svg"
    assert (
        curve.main([str(tmp_path), "--beside", str(RUNS / "medium"), "--out", str(out)])
        == 0
    )
    svg = out.read_text("utf-8")
    assert ">validation, medium, best 0.777 at 15,500<" in svg
    assert f">validation, {tmp_path.name}, best 1.194 at 4,500<" in svg
    assert not (tmp_path / "curve.svg").exists()


@pytest.mark.parametrize(
    "name, reason", [("curve.txt", "txt"), ("nowhere/curve.png", "nowhere")]
)
def test_what_cannot_be_written_is_one_line(plot, tmp_path, capsys, name, reason):
    run = write_run(tmp_path, *STEPS)
    assert curve.main([str(run), "--out", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and reason in err and err.count("\n") == 1
