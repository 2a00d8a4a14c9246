"""What several test files need: small runs, and how to look at and compare them.

The fixtures that all tests share are in conftest.py. Nothing of `minigpt` is asked
for before it is used: the tests of an early chapter run on a part of it.
"""

import json
import os
import shutil
from pathlib import Path

import torch

import minigpt  # bite.py and test_book.py put another in its place

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
REQUIRED = bool(os.environ.get("REQUIRE_BROWSER"))  # its absence is a failure

SIZES = dict(context_length=16, d_model=24, n_layers=1, n_heads=2)
SMALL = (
    "--preset tiny --context-length 16 --d-model 24 --n-layers 1 --n-heads 2 "
    "--warmup-steps 4 --eval-windows 8 --device cpu --dtype float32"
).split()
SHORT_RUN = [  # of chapter 17, over after 20 steps
    *SMALL,
    *"--batch-size 4 --max-steps 20 --eval-interval 10 --sample-interval 20".split(),
]
FILES = {
    "train.npy",
    "val.npy",
    "last.safetensors",
    "best.safetensors",
    "metrics.jsonl",
    "samples.jsonl",
    "run.json",
}


def untrained(text, before=None, **settings) -> "minigpt.Checkpoint":
    """What a run of a model of some thousand weights begins with.

    The model has SIZES where no setting says otherwise. `before` are the ids that
    are read before each prompt, if not those that a checkpoint has by itself.
    """
    sizes = SIZES | {"vocab_size": text.tokenizer.vocab_size}
    shape, config = minigpt.make_configs("tiny", **sizes | settings)
    torch.manual_seed(config.seed)
    model = minigpt.MiniGPT(shape)
    state = minigpt.Checkpoint(
        model,
        minigpt.make_optimizer(model, config),
        config,
        text.tokenizer,
        text.fingerprint(),
    )
    state.before = before or state.before
    return state


def records(log: Path) -> list[dict]:
    """The records of a log, one a line."""
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()]


def metrics(run: Path) -> list[dict]:
    """The log of a run without the one thing that differs from run to run."""
    return [
        {k: v for k, v in record.items() if k != "seconds"}
        for record in records(run / "metrics.jsonl")
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """Each file in a folder and in those within, by its path from there."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def assert_same_run(run: Path, other: Path) -> None:
    """Equal to the bit: data, weights, moments, samples, every line of the log."""
    assert metrics(run) == metrics(other)
    for name in FILES - {"metrics.jsonl", "run.json"}:
        assert (run / name).read_bytes() == (other / name).read_bytes(), name


def writing(best: Path, *words) -> list:
    """The command line that lets a checkpoint write, with seed 0."""
    return ["generate", "--checkpoint", best, "--device", "cpu", "--seed", 0, *words]


def continuation(path: Path, prompt: str, count: int = 1, **config) -> list:
    """What chapter 9 writes: a text for each of `count` rows."""
    state = minigpt.load_checkpoint(path)
    ids = state.before + state.tokenizer.encode(prompt).tolist()
    steps = [
        *minigpt.generate(
            minigpt.uncached(state.model),
            torch.tensor(count * [ids]),
            minigpt.GenerateConfig(**config),
        )
    ]
    return [
        "".join(state.tokenizer.decode(step[i : i + 1]) for step in steps)
        for i in range(count)
    ]
