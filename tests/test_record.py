"""book/_tools/record.py: what it keeps of a run, and what it asks for."""

import json

import pytest

import record


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder in the place of book/runs."""
    monkeypatch.setattr(record, "RUNS", tmp_path / "runs")
    return tmp_path / "runs"


def test_a_run_is_kept_as_pages_read_it(own_run, runs, monkeypatch, capsys):
    figures = pytest.importorskip("figures")
    record.main([str(own_run), "mine"])
    monkeypatch.setattr(figures, "RUNS", runs)
    kept, metrics, samples = figures.read_run("mine")
    assert kept["step"] == max(m["step"] for m in metrics) > 0
    assert {"machine", "whole_val_loss"} <= kept.keys() and samples
    assert "Chapter 15 says where to write 'mine'." in capsys.readouterr().out


def test_after_a_thousand_steps_one_loss_in_ten_is_kept_and_all_evaluations():
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in range(2000)]
    assert sum(map(record.kept, lines)) == 1001 + 99
    assert record.kept('{"step": 1001, "val_loss": 1.0}')


def test_snapshots_write_64_texts_each_in_the_order_of_their_steps(own_run, runs):
    weights = [str(own_run / name) for name in ("last.safetensors", "best.safetensors")]
    record.main([str(own_run), "mine", *weights])
    lines = (runs / "mine" / "texts.jsonl").read_text("utf-8").splitlines()
    points = [*map(json.loads, lines)]
    assert [p["step"] for p in points] == sorted(p["step"] for p in points)
    for point in points:
        assert len(point["texts"]) == 64 and 0 < point["val_loss"] < 6
        assert all(text.startswith("def ") for text in point["texts"])


def test_what_is_missing_is_named_in_one_line(own_run, runs, capsys):
    for words in (["nowhere", "mine"], [str(own_run), "mine", "nowhere"]):
        with pytest.raises(SystemExit):
            record.main(words)
        assert "error: there is no nowhere" in capsys.readouterr().err
    assert not runs.exists()


def test_a_copy_that_is_no_clone_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RUNS", tmp_path)
    assert record.commit() == ""
    monkeypatch.setenv("PATH", "")
    assert record.commit() == ""
