"""Chapter 13, "Say how far the batches are below": what `measure` prints."""

import json
import re
from dataclasses import replace

import minigpt


def test_an_evaluation_says_the_mean_loss_of_the_steps_since_the_last(
        data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(minigpt, "SAMPLE",
                        replace(minigpt.SAMPLE, max_new_tokens=2))
    shape, config = minigpt.make_configs(
        "tiny", context_length=16, d_model=24, n_layers=1, n_heads=2,
        batch_size=4, max_steps=10, warmup_steps=2, eval_interval=5,
        eval_windows=8, device="cpu")
    minigpt.train(shape, config, data, tmp_path, max_minutes=0)  # one step
    minigpt.train(shape, config, data, tmp_path, resume=True)
    printed = re.findall(r"step (\d+) of 10: validation loss .* per character"
                         r"(?:, batches ([\d.]+))?$", capsys.readouterr().out,
                         re.MULTILINE)
    log = (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()
    losses = [r["loss"] for r in map(json.loads, log) if "loss" in r]
    means = [sum(losses[i:i + 5]) / 5 for i in (0, 5)]
    assert printed == [("0", ""), *((str(5 * i + 5), f"{mean:.3f}")
                                    for i, mean in enumerate(means))]
