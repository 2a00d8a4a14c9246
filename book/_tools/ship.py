"""Make a run's best weights the model that comes with the book, with a card.

    python book/_tools/ship.py checkpoints/medium "an Intel Xeon with AMX"

Writes checkpoints/pretrained.safetensors, the weights alone in bfloat16, and
beside it CARD.md: what it was trained on, how, for how long, how good it is.
"""

import json
import sys
from datetime import date
from pathlib import Path

import torch

import minigpt

CARD = """# The model that comes with the book

`pretrained.safetensors`: {parameters:,} learned numbers in bfloat16, {size:.1f} MB, made
by this program on {day}.

| | |
|---|---|
| architecture | GPT, {n_layers} layers, {n_heads} heads, d_model {d_model}, context of {context_length} characters |
| vocabulary | {vocab_size} tokens: characters of ASCII source, and three special ones |
| data | `data/python-stdlib.tar.xz`, the Python standard library (licence: PSF, see `data/`), nine tenths of it |
| fingerprint of the data | `{fingerprint}` |
| training | the best of a run of {max_steps:,} steps, {minutes:.0f} minutes on {machine} ({processor}): step {step:,}, after {characters:,.0f} characters ({epochs:.1f} epochs) |
| loss | {loss:.3f} nats ({bits:.3f} bits) per character on all of the validation split, as shipped |
| licence | that of this repository (see `LICENSE`) |

Made again by

    {command}
    python book/_tools/ship.py checkpoints/medium "{processor}"

Where the processor does not multiply bfloat16 in hardware, leave `--dtype bfloat16` out: float32
is much faster there.

It writes text that looks like Python. It knows nothing, and what it writes may be wrong.
"""  # noqa: E501


def command(record: dict) -> str:
    """The line that trains such a run, from what differs from the defaults."""
    shape, config = minigpt.make_configs("full", sample_prompt="def ")
    words = ["python minigpt.py train --preset full --run checkpoints/medium"]
    for part, defaults in ((record["model"], shape), (record["train"], config)):
        for name, value in part.items():
            if name not in ("vocab_size", "d_ff") and (
                value != getattr(defaults, name)
            ):
                words.append(f"--{name.replace('_', '-')} {value}")
    return " \\\n        ".join(words)


def main(folder: str, processor: str) -> None:
    path = minigpt.HERE / "checkpoints" / "pretrained.safetensors"
    saved = minigpt.load_checkpoint(Path(folder, minigpt.BEST))
    record = json.loads(Path(folder, "run.json").read_text("utf-8"))
    saved.model.to(torch.bfloat16)
    saved.save(path, moments=False)
    shipped, corpus = minigpt.load_checkpoint(path), minigpt.read_corpus()
    assert corpus.fingerprint() == shipped.fingerprint, "another corpus"
    shape = shipped.model.config
    loss = minigpt.evaluate(
        shipped.model,
        minigpt.Dataset(corpus.val, shape.context_length),
        minigpt.pick_machine("cpu", "float32"),
    )
    read = (
        shipped.step
        * record["train"]["batch_size"]
        * shape.context_length
        * record["train"]["grad_accum"]
    )
    values = vars(shape) | dict(
        parameters=minigpt.count_parameters(shipped.model),
        day=date.today(),
        size=path.stat().st_size / 1e6,
        fingerprint=shipped.fingerprint,
        max_steps=record["train"]["max_steps"],
        step=shipped.step,
        characters=read,
        epochs=read / len(corpus.train),
        minutes=record["training_seconds"] / 60,
        machine=record["machine"],
        processor=processor,
        loss=loss,
        bits=loss / minigpt.math.log(2),
        command=command(record),
    )
    path.with_name("CARD.md").write_text(CARD.format(**values), "utf-8")
    print(path.with_name("CARD.md").read_text("utf-8"))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
