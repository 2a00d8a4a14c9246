"""The benchmarks: that they run, and what they say when a peer is missing."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "bench"))

import learning
import modern
import peers
import torch
import tried

CPU = peers.minigpt.pick_machine("cpu", "float32")


def test_a_record_has_the_machine_and_the_rounds(tmp_path, capsys):
    peers.main(["text", "--rounds", "2", "--json", str(tmp_path / "a.json")])
    record = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert record["machine"]["threads"] >= 1
    [line] = record["lines"]
    assert all(
        len(values) == 2 and min(values) > 0
        for values in line["characters_per_second"].values()
    )
    assert "ours is" in capsys.readouterr().out


def test_an_unknown_line_is_refused_by_name(capsys):
    with pytest.raises(SystemExit):
        peers.main(["speed"])
    assert "no line speed: choose of step, decode" in capsys.readouterr().err


def test_an_unknown_device_is_refused_in_one_line(capsys):
    with pytest.raises(SystemExit):
        peers.main(["text", "--device", "tpu"])
    assert "error: there is no device 'tpu'" in capsys.readouterr().err


def test_a_peer_that_is_missing_is_named_and_the_rest_is_measured(monkeypatch, capsys):
    for module in ("transformers", "llms_from_scratch.ch04"):
        monkeypatch.setitem(sys.modules, module, None)  # import fails
    peers.note.cache_clear()
    works = peers.decoding(peers.LAPTOP, CPU, 5)
    assert works.keys() - {"bfloat16"} == {"ours", "chain"}
    assert works["ours"]() > 0
    told = capsys.readouterr().err.splitlines()
    assert "pip install -c constraints.txt transformers" in told[-2]
    assert "pip install --no-deps -c constraints.txt llms-from" in told[-1]
    peers.decoding(peers.LAPTOP, CPU, 5)
    assert capsys.readouterr().err == ""  # it has been said


def test_slow_work_is_done_twice_and_no_more_often(monkeypatch):
    now = iter(range(0, 10_000, 20))  # seconds, 20 from each look to the next
    monkeypatch.setattr(peers.time, "perf_counter", lambda: next(now))
    monkeypatch.setitem(
        peers.LINES, "text", [("slow", lambda: {"ours": peers.timed(1, lambda: 0)})]
    )
    [line] = peers.measure(["text"], 5)
    assert len(line["characters_per_second"]["ours"]) == 2


@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_has_the_same_shape_and_writes_as_it_reads(name):
    pytest.importorskip(name.replace("-", "_"))
    shape = peers.make_configs("tiny")[0]
    model, forward, write = peers.peers(shape)[name]
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(
        peers.minigpt.count_parameters(peers.MiniGPT(shape)), rel=0.1
    )
    ids = peers.torch.randint(3, shape.vocab_size, (2, shape.context_length))
    before = forward(ids)
    assert before.shape == (*ids.shape, shape.vocab_size)
    write(10)
    peers.torch.testing.assert_close(forward(ids), before)


def test_operations_of_a_step_are_those_that_pytorch_counts():
    """The products that FlopCounterMode sees, but for half of each T x T."""
    from torch.utils.flop_counter import FlopCounterMode

    shape, T = peers.LAPTOP, peers.LAPTOP.context_length
    model = peers.MiniGPT(shape)
    with FlopCounterMode(display=False) as counter:
        model(peers.torch.zeros(1, T, dtype=peers.torch.int64)).sum().backward()
    counted = counter.get_total_flops() / T
    assert counted == pytest.approx(peers.operations(shape), rel=0.1)


def test_ours_get_the_time_of_the_recipe_or_a_part(monkeypatch, capsys):
    asked = []

    def learn(corpus, preset, seed, seconds=None, **changes):
        asked.append((preset, seconds))
        assert changes.get("waves", True) == (preset != "full")
        return 60.0 + seed, 1.0 + len(asked) / 100

    monkeypatch.setattr(learning, "learn", learn)
    nats = learning.compare(None, 2)
    assert [preset for preset, _ in asked] == 2 * ["full", *3 * ["laptop"]]
    assert [seconds for _, seconds in asked[5:]] == [61, 30.5, 61 / 3]
    assert [*nats.values()][0] == pytest.approx([1.01, 1.05])
    assert capsys.readouterr().out.count("mean") == len(nats) == 4


def test_the_muon_that_is_measured_is_that_of_the_page(tmp_path):
    (tmp_path / "text.py").write_text("x = [1, 2, 3]\n" * 2000, "utf-8")
    corpus = learning.minigpt.read_corpus(tmp_path / "text.py")
    (seconds, first), (_, later) = (
        learning.learn(
            corpus, "tiny", 0, muon=True, max_steps=steps, warmup_steps=1, batch_size=2
        )
        for steps in (1, 20)
    )
    assert seconds > 0 and later < first - 1


def test_a_sweep_gives_each_setting_the_time_of_the_preset(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "text.py").write_text("x = [1, 2, 3]\n" * 2000, "utf-8")
    corpus = learning.minigpt.read_corpus(tmp_path / "text.py")
    small = dict(context_length=8, d_model=24, n_heads=2, batch_size=2)
    wide = small | dict(d_model=192)
    monkeypatch.setattr(learning, "SWEEP", {learning.PRESET: small, "wide": wide})
    threads, file = torch.get_num_threads(), tmp_path / "sweep.json"
    try:
        record = learning.sweep(corpus, 20, 1, file)
        again = learning.sweep(corpus, 20, 2, file)
    finally:
        torch.set_num_threads(threads)
    assert record[learning.PRESET]["steps"] == 20 > record["wide"]["steps"] > 0
    assert json.loads(file.read_text("utf-8")) == again
    for name, known in again.items():
        assert known["steps"] == record[name]["steps"]
        assert known["nats"][:1] == record[name]["nats"] and len(known["nats"]) == 2
        assert 0 < min(known["nats"]) < 5
    assert capsys.readouterr().out.count("nats") == 4


def test_the_table_of_what_did_not_help_shows_what_was_recorded():
    book = Path(__file__).parents[1] / "book"
    page = (book / "A3_speed.md").read_text("utf-8")
    ideas = json.loads((book / "runs" / "tried.json").read_text("utf-8"))["ideas"]
    assert [*ideas] == [*(tried.TRAINING | tried.WRITING)]
    for name, gains in ideas.items():
        cells = [
            f"{statistics.median(g):.2f} ({min(g):.2f} to {max(g):.2f})"
            for g in gains.values()
        ]
        [row] = [line for line in page.splitlines() if line.startswith(f"| {name} |")]
        assert row.split(" | ")[2:4] == cells


@pytest.mark.parametrize("name", modern.VARIANTS)
def test_a_newer_block_is_gpt2s_with_that_part_exchanged(name):
    shape, _ = peers.make_configs("tiny", n_heads=4)
    torch.manual_seed(0)
    plain = peers.MiniGPT(shape)
    torch.manual_seed(0)
    model = modern.exchanged(shape, modern.VARIANTS[name]).eval()
    ids = torch.arange(3, 43).view(1, -1)
    with torch.no_grad():
        logits, start = model(ids), model(ids[:, :20])
    torch.testing.assert_close(logits[:, :20], start)  # it does not look ahead
    parts = {name: p.shape for name, p in model.named_parameters()}
    known = {name: p.shape for name, p in plain.named_parameters()}
    if name != "RoPE" and name != "all five":
        rows = model.embeddings.position_embedding.weight
        waves = peers.minigpt.waves(*rows.shape)
        assert torch.equal(rows, waves) == (name == "waves at first")
    if name in ("GPT-2's block", "waves at first"):
        assert parts == known
    elif name != "all five":  # RoPE has no table, RMSNorm and "no biases" no biases
        gone = dict(RoPE="position", RMSNorm="norm", GQA="qkv", SwiGLU="mlp")
        changed = {n for n in known if parts.get(n) != known[n]}
        assert changed and all(gone.get(name, "bias") in n for n in changed)
    else:
        assert not any("bias" in n or "position" in n for n in parts)
    shares = modern.GROUPS / shape.n_heads if name in ("GQA", "all five") else 1
    assert modern.kept(model) == shares * 2 * shape.n_layers * shape.d_model


@pytest.mark.slow
def test_newer_blocks_are_measured_and_what_is_known_is_kept(
    tmp_path, monkeypatch, capsys
):
    small = dict(context_length=16, d_model=32, n_layers=1, n_heads=4, batch_size=2)
    monkeypatch.setattr(modern, "SHAPE", small)
    (tmp_path / "text.py").write_text("x = [1, 2, 3]\n" * 2000, "utf-8")
    words = ["--seconds", "0.1", "--rounds", "3", "--json", str(tmp_path / "a.json")]
    words += ["--data", str(tmp_path / "text.py")]
    record = modern.main([*words, "--seeds", "1"])
    again = modern.main([*words, "--seeds", "2"])
    assert [*again["variants"]] == [*modern.VARIANTS]
    for name, measured in again["variants"].items():
        first = record["variants"][name]
        assert measured["nats"][:1] == first["nats"] and len(measured["nats"]) == 2
        assert measured["steps"] == first["steps"] > 0 < min(measured["nats"]) < 5
    assert capsys.readouterr().out.count("nats") == 2 * len(modern.VARIANTS)


@pytest.mark.slow
def test_the_judge_teaches_with_what_the_page_defines(tmp_path):
    pytest.importorskip("matplotlib", reason="the page needs what builds the book")
    import judge

    words = ["--steps", "1", "--every", "1", "--texts", "2"]
    record = judge.main([*words, "--json", str(tmp_path / "a.json")])
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == record
    assert [*record["runs"]] == [*judge.LESSONS]
    for run in record["runs"].values():
        assert len(run["rewards"]) == 1
        first, then = run["points"]
        assert 0.5 < first["loss"] < 1 and then["loss"] == pytest.approx(
            first["loss"], abs=0.05
        )
        assert {0.0, 0.5, 1.0} >= {first["valid"], then["valid"]}


@pytest.mark.slow
def test_what_the_shipped_model_knows_is_as_recorded():
    pytest.importorskip("matplotlib", reason="the page needs what builds the book")
    import moments

    root = Path(__file__).parents[1]
    record = json.loads((root / "book/runs/medium/moments.json").read_text("utf-8"))
    again = moments.main([str(peers.minigpt.SHIPPED)])
    assert again["function"] == record["function"]
    [moment], recorded = again["moments"], record["moments"][-1]
    assert moment["step"] == recorded["step"] == 15_500
    assert len(moment["nats"]) == len(record["function"])
    for name in ("val_loss", "nats", "names", "probe"):
        assert moment[name] == pytest.approx(recorded[name], abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(tried.TRAINING | tried.WRITING)])
def test_an_idea_that_did_not_help_does_the_same_work(name, monkeypatch):
    small = dict(d_model=32, n_layers=1, n_heads=2, context_length=16, batch_size=2)
    monkeypatch.setattr(tried, "SHAPES", {"tiny": small})
    monkeypatch.setattr(tried, "LENGTHS", {"tiny": 5})
    for work in (tried.TRAINING | tried.WRITING)[name]("tiny"):
        done = work()
        if name in tried.WRITING:
            assert len(done) == 5
        else:
            assert 0 < done[0] < 10


@pytest.mark.slow
def test_what_a_gpu_is_to_do_runs_on_a_small_scale(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for i in range(40):
        (folder / f"m{i}.py").write_text(f"x = {i}\nprint(x)\n" * 60, "utf-8")
    small = dict(
        DEVICE="cpu",
        PRESET="tiny",
        SECONDS_TO_LEARN="5",
        PAGES="02",
        BENCH="text",
        PYTHON=sys.executable,
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        ["tests/bench/gpu.sh", tmp_path / "out", folder],
        cwd=root,
        env=os.environ | small,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    out = tmp_path / "out"
    assert json.loads((out / "peers.json").read_text("utf-8"))["lines"]
    record = json.loads((out / "run" / "run.json").read_text("utf-8"))
    assert record["step"] == record["train"]["max_steps"] >= 100
    assert "nats" in (out / "loss.txt").read_text("utf-8")
    weights = b"".join(p.read_bytes() for p in sorted(out.glob("weights.*")))
    (tmp_path / "again.safetensors").write_bytes(weights)
    assert peers.minigpt.load_checkpoint(tmp_path / "again.safetensors").step > 0
    assert "0 cells failed" in (out / "pages.log").read_text("utf-8")
