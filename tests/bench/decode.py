"""Characters per second of the full-size model, with and without the cache.

    python tests/bench/decode.py [LENGTH]

Random weights, one text of LENGTH characters (500) after `<eos>`, float32 on
the CPU, on as many threads as PyTorch takes. Both ways in one process, in turn,
three times; the fastest of each counts.
"""

import sys
import time

import torch

import minigpt


def seconds(reader, model: minigpt.MiniGPT, length: int) -> float:
    """The time to write a text of this length."""
    config = minigpt.GenerateConfig(max_new_tokens=length, min_new_tokens=length)
    start = time.perf_counter()
    for _ in minigpt.generate(reader(model), torch.tensor([[minigpt.EOS]]), config):
        pass
    return time.perf_counter() - start


def main(length: int = 500) -> None:
    torch.manual_seed(0)
    model = minigpt.MiniGPT(minigpt.ModelConfig())
    readers = {"with the cache": minigpt.cached, "without": minigpt.uncached}
    rounds = [{name: length / seconds(reader, model, length)
               for name, reader in readers.items()} for _ in range(3)]
    speed = {name: max(r[name] for r in rounds) for name in readers}
    for name, value in speed.items():
        print(f"{name}: {value:.1f} characters/s")
    print(f"ratio: {speed['with the cache'] / speed['without']:.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
