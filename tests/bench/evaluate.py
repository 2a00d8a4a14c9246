"""The loss of a checkpoint on the whole validation split of some text.

    python tests/bench/evaluate.py CHECKPOINT [SOURCE [SUFFIX]]

SOURCE is what `train --data` takes (the default corpus), SUFFIX the endings of
its files (.py). If the checkpoint learned from other text, that is said.
"""

import math
import sys
from pathlib import Path

import minigpt


def main(checkpoint: str, source: str = str(minigpt.CORPUS), suffix: str = ".py"):
    saved, machine = minigpt.load_checkpoint(Path(checkpoint)), minigpt.pick_machine()
    corpus = minigpt.read_corpus(Path(source), suffix, saved.tokenizer)
    if corpus.fingerprint() != saved.fingerprint:
        print("note: the checkpoint learned from other text than this")
    saved.model.to(machine.device)
    val = minigpt.Dataset(corpus.val, saved.model.config.context_length)
    loss = minigpt.evaluate(saved.model, val, machine)
    print(
        f"{checkpoint}: {loss:.4f} nats, {loss / math.log(2):.4f} bits per "
        f"character, over {len(val.ids) - 1:,} characters"
    )


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
