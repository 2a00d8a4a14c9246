"""Chapter 14, "Say how far the batches are below": what `measure` prints."""

import json
import re
from dataclasses import replace

import minigpt


def test_an_evaluation_says_the_mean_loss_of_the_steps_since_the_last(
    corpus, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(minigpt, "SAMPLE", replace(minigpt.SAMPLE, max_new_tokens=2))
    words = (
        f"train --data {corpus} --run {tmp_path} --preset tiny "
        "--context-length 16 --d-model 24 --n-layers 1 --n-heads 2 "
        "--batch-size 4 --max-steps 10 --warmup-steps 2 --eval-interval 5 "
        "--eval-windows 8 --device cpu --max-minutes 0"
    ).split()
    assert minigpt.main(words) == 0  # one step
    assert minigpt.main(["train", "--run", str(tmp_path), "--resume"]) == 0
    printed = re.findall(
        r"^step (\d+): validation loss .* per character"
        r"(?:, batches ([\d.]+))?;",
        capsys.readouterr().out,
        re.MULTILINE,
    )
    log = (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()
    losses = [r["loss"] for r in map(json.loads, log) if "loss" in r]
    means = [sum(losses[i : i + 5]) / 5 for i in (0, 5)]
    assert printed == [
        ("0", ""),
        *((str(5 * i + 5), f"{mean:.3f}") for i, mean in enumerate(means)),
    ]
