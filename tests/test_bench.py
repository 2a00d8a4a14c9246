"""The benchmarks: that they run, and what they say when a peer is missing."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "bench"))

import peers  # noqa: E402


def test_a_record_has_the_machine_and_the_rounds(tmp_path, capsys):
    peers.main(["text", "--rounds", "2", "--json", str(tmp_path / "a.json")])
    record = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert record["machine"]["threads"] >= 1
    [line] = record["lines"]
    assert all(len(values) == 2 and min(values) > 0
               for values in line["characters_per_second"].values())
    assert "ours is" in capsys.readouterr().out


def test_an_unknown_line_is_refused_by_name(capsys):
    with pytest.raises(SystemExit):
        peers.main(["speed"])
    assert "no line speed: choose of step, decode" in capsys.readouterr().err


def test_a_peer_that_is_missing_is_named_and_the_rest_is_measured(
        monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)  # import fails
    works = peers.decoding(peers.LAPTOP, 5)
    assert works.keys() == {"ours", "bfloat16", "chain"}
    assert works["ours"]() > 0
    assert "pip install -c constraints.txt" in capsys.readouterr().err


def test_operations_of_a_step_are_those_that_pytorch_counts():
    """The products that FlopCounterMode sees, but for half of each T x T."""
    from torch.utils.flop_counter import FlopCounterMode

    shape, T = peers.LAPTOP, peers.LAPTOP.context_length
    model = peers.MiniGPT(shape)
    with FlopCounterMode(display=False) as counter:
        model(peers.torch.zeros(1, T, dtype=peers.torch.int64)).sum().backward()
    counted = counter.get_total_flops() / T
    assert counted == pytest.approx(peers.operations(shape), rel=0.1)
