"""What was tried to make the program faster: each idea beside what is there.

    python tests/bench/tried.py                   all ideas, about ten minutes
    python tests/bench/tried.py compiled int8     two of them
    ... --json FILE                               keep the figures

Both do the same work, in turn, on one core, and what counts is the time that the
processor spent, so other programs disturb little. An idea is a function that
returns two of these works: without it, and with it.
"""

import argparse
import copy
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor, nn

import minigpt
from minigpt import GenerateConfig, MiniGPT, make_configs

CPU = minigpt.pick_machine("cpu", "float32")
Work = Callable[[], object]


def step(preset: str, change=lambda model, optimizer: None, **settings) -> Work:
    """A training step: with 2 windows for the full shape, 6 for the laptop's."""
    shape, config = make_configs(preset, **settings)
    torch.manual_seed(0)
    model = MiniGPT(shape)
    optimizer = minigpt.make_optimizer(model, config)
    trained = change(model, optimizer) or (model, optimizer)
    ids = torch.randint(3, shape.vocab_size, (100_000,)).numpy()
    data = minigpt.Dataset(ids, shape.context_length)
    return lambda: minigpt.training_step(*trained, data, 0, config, CPU)


SHAPES = {"full": dict(batch_size=2, dropout=0.0), "laptop": {}}
LENGTHS = {"full": 100, "laptop": 120}


def write(preset: str, change=lambda model: model, stored=minigpt.for_writing) -> Work:
    """Writing one text with the cache: 100 characters, or 120."""
    torch.manual_seed(0)
    model = change(stored(MiniGPT(make_configs(preset)[0]).eval(), CPU))
    n = LENGTHS[preset]
    config = GenerateConfig(max_new_tokens=n, min_new_tokens=n)
    ids = torch.full((1, 1), 5)
    return lambda: [*minigpt.generate(minigpt.cached(model), ids, config)]


def patched(name: str, value: object, work: Work) -> Work:
    """The work, done by a program in which one name means something else."""

    def changed() -> object:
        with mock.patch.object(minigpt, name, value):
            return work()

    return changed


# --- ideas for training -------------------------------------------------------


def compiled(preset: str) -> tuple[Work, Work]:
    """torch.compile; the minute or so that it compiles is not counted."""

    def change(model, optimizer):
        return torch.compile(model), optimizer

    return step(preset, **SHAPES[preset]), step(preset, change, **SHAPES[preset])


def foreach(preset: str) -> tuple[Work, Work]:
    """AdamW over lists of tensors, PyTorch's own choice, in place of fused."""

    def change(model, optimizer):
        groups = optimizer.param_groups
        for group in groups:
            group.update(fused=False, foreach=True)
        return model, torch.optim.AdamW(groups, foreach=True)

    return step(preset, **SHAPES[preset]), step(preset, change, **SHAPES[preset])


def by_hand(preset: str) -> tuple[Work, Work]:
    """Attention in five plain operations in place of PyTorch's kernel."""

    def attention(q, k, v, dropout=0.0):
        T_q, T_k, D = q.size(-2), k.size(-2), q.size(-1)
        future = torch.ones(T_q, T_k, dtype=torch.bool).triu(1 + T_k - T_q)
        scores = (q @ k.transpose(-1, -2) / math.sqrt(D)).masked_fill(future, -math.inf)
        return scores.softmax(-1) @ v

    work = step(preset, **SHAPES[preset])
    return work, patched("attention", attention, work)


def turned(preset: str) -> tuple[Work, Work]:
    """Matrices stored (in, out) in training, too."""

    def change(model, optimizer):
        minigpt.for_writing(model, CPU)

    return step(preset, **SHAPES[preset]), step(preset, change, **SHAPES[preset])


# --- ideas for writing --------------------------------------------------------


def as_trained(preset: str) -> tuple[Work, Work]:
    """Matrices as training stores them, (out, in): what chapter 16 changed."""
    return write(preset), write(preset, stored=lambda model, machine: model)


class ByPlace(minigpt.KVCache):
    """A cache in which what belongs to one position lies together."""

    def __init__(self, *args):
        super().__init__(*args)
        L, B, H, T, D = self.keys.shape
        self.keys, self.values = (
            self.keys.new_empty(L, B, T, H, D).transpose(2, 3) for _ in range(2)
        )


class Grown(minigpt.KVCache):
    """A cache that is as long as what was read, made anew for each character."""

    def __init__(self, *args):
        super().__init__(*args)
        self.kept = {}

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if layer in self.kept:
            old = self.kept[layer]
            k, v = torch.cat((old[0], k), dim=2), torch.cat((old[1], v), dim=2)
        self.kept[layer] = k, v
        return k, v


def cache_by_place(preset: str) -> tuple[Work, Work]:
    """Keys and values of a position side by side, not those of a head."""
    work = write(preset)
    return work, patched("KVCache", ByPlace, work)


def cache_grown(preset: str) -> tuple[Work, Work]:
    """torch.cat for each character in place of a cache made once."""
    work = write(preset)
    return work, patched("KVCache", Grown, work)


def choose_in_float32(preset: str) -> tuple[Work, Work]:
    """Temperature, top-k, top-p in float32 in place of float64."""
    original, work = minigpt.choose, write(preset)

    def choose(logits, config, generator):
        with mock.patch.object(Tensor, "double", Tensor.float):
            return original(logits, config, generator)

    return work, patched("choose", choose, work)


class Int8(nn.Module):
    """A linear layer whose weights are int8, with one scale per row."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        weight = layer.weight.detach()
        scale = weight.abs().amax(1, keepdim=True) / 127
        self.weight = (weight / scale).round().to(torch.int8).contiguous()
        self.scale, self.bias = scale.squeeze(1), layer.bias

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.size(-1))
        y = torch._weight_int8pack_mm(rows, self.weight, self.scale)
        y = y if self.bias is None else y + self.bias
        return y.reshape(*x.shape[:-1], -1)


def int8(preset: str) -> tuple[Work, Work]:
    """Weights of one byte, multiplied by PyTorch's kernel for them."""

    def change(model):
        model = copy.deepcopy(model)
        for name, layer in [*model.named_modules()]:
            if isinstance(layer, nn.Linear):
                parent, _, last = name.rpartition(".")
                setattr(model.get_submodule(parent), last, Int8(layer))
        return model

    return write(preset), write(preset, change)


def writing_bfloat16(preset: str) -> tuple[Work, Work]:
    """Weights of two bytes."""
    return write(preset), write(preset, lambda model: model.to(torch.bfloat16))


TRAINING = {
    "compiled": compiled,
    "foreach": foreach,
    "by hand": by_hand,
    "turned": turned,
}
WRITING = {
    "as trained": as_trained,
    "cache by place": cache_by_place,
    "cache grown": cache_grown,
    "choose in float32": choose_in_float32,
    "int8": int8,
    "writing in bfloat16": writing_bfloat16,
}


def seconds(work: Work) -> float:
    """Of the processor."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def gains(works: tuple[Work, Work], rounds: int) -> list[float]:
    """How many times as fast the idea is, in each round."""
    without, with_idea = works
    for work in works:  # nothing is warmed up in what is measured
        work()
    return [seconds(without) / seconds(with_idea) for _ in range(rounds)]


def processor() -> str:
    """The processor's name, and what PyTorch uses of it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            [name, *_] = [line for line in file if line.startswith("model name")]
        name = name.partition(":")[2].strip()
    except OSError:
        name = platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def main() -> None:
    ideas = TRAINING | WRITING
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("ideas", nargs="*", metavar="IDEA", help=", ".join(ideas))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    unknown = [name for name in args.ideas if name not in ideas]
    if unknown:
        parser.error(f"no idea {unknown[0]!r}: choose of {', '.join(ideas)}")
    torch.set_num_threads(1)
    record = {"machine": f"{processor()}, PyTorch {torch.__version__}", "ideas": {}}
    for name in args.ideas or ideas:
        found = {}
        for preset in ("full", "laptop"):
            found[preset] = gains(ideas[name](preset), args.rounds)
        record["ideas"][name] = found
        about = ", ".join(
            f"{preset} {statistics.median(g):.2f} ({min(g):.2f} to {max(g):.2f})"
            for preset, g in found.items()
        )
        print(f"{name:20} {about}", flush=True)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)


if __name__ == "__main__":
    main()
