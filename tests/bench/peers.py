"""How fast is it, beside what others have made and what the machine can do?

    make bench
    python tests/bench/peers.py [--rounds 5] [--json FILE] [--device cuda]
                                [--dtype bfloat16] [--batch-size 64] [NAME ...]

Each line of the table is one piece of work, done by several programs in turn,
in one process, ROUNDS times, or twice and as often as fits into half a minute; a
figure is the median of its rounds, and a ratio is the median of the ratios within
a round, since both drift with the machine.
All models have random weights, and compute in `--dtype`, float32 by default; a line
`bfloat16` is ours in that. With `--device` all do it there. `peak` is one product of
two 2048 x 2048 matrices; `chain` is nothing but the products of a matrix and one
vector that a character takes. Names choose lines: step, decode, small, cache, batch,
text. A peer that is not installed is left out.

llms-from-scratch asks for other versions of PyTorch and NumPy than ours, and needs
neither for its GPT: it is installed without what it depends on.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from importlib import metadata
from pathlib import Path

import torch
import torch.nn.functional as F

import minigpt
from minigpt import EOS, GenerateConfig, MiniGPT, ModelConfig, make_configs

FULL = ModelConfig(dropout=0.0)
LAPTOP = make_configs("laptop")[0]
ENOUGH = 30  # seconds, of the rounds of a line
Make = Callable[[minigpt.Machine, int], dict]  # machine, batch size -> works
Work = Callable[[], float]  # does some work, returns units per second
Forward = Callable[[torch.Tensor], torch.Tensor]  # ids (B, T) -> logits (B, T, V)
Write = Callable[[int], None]  # writes so many characters


def wait() -> None:
    """Until a GPU, if there is one, has done what it was asked to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@cache
def note(sentence: str) -> None:
    """Say something beside the table, once."""
    print(sentence, file=sys.stderr)


def timed(
    units: float, work: Callable[[], object], warm: Callable[[], object] | None = None
) -> Work:
    """Work that was done once already, or some like it, so that nothing is cold."""
    (warm or work)()

    def measure() -> float:
        wait()
        start = time.perf_counter()
        work()
        wait()
        return units / (time.perf_counter() - start)

    return measure


def transformers(shape: ModelConfig) -> tuple[torch.nn.Module, Forward, Write]:
    """GPT-2 of transformers, of this shape, and its `generate` with a cache."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape.vocab_size,
            n_positions=shape.context_length,
            n_embd=shape.d_model,
            n_layer=shape.n_layers,
            n_head=shape.n_heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=EOS,
            eos_token_id=EOS,
        )
    )

    def write(length: int) -> None:
        ids = torch.tensor([[EOS]], device=model.device)
        model.eval().generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_k=0,
            temperature=0.8,
            max_new_tokens=length,
            min_new_tokens=length,
            pad_token_id=0,
        )

    return model, lambda ids: model(ids).logits, write


def llms_from_scratch(shape: ModelConfig) -> tuple[torch.nn.Module, Forward, Write]:
    """The faster GPT of Raschka's book, and its loop, which has no cache.

    (The cache of the package, version 1.0.19, raises at its second character.)
    """
    from llms_from_scratch.ch04 import GPTModelFast, generate_text_simple

    model = GPTModelFast(
        dict(
            vocab_size=shape.vocab_size,
            context_length=shape.context_length,
            emb_dim=shape.d_model,
            n_heads=shape.n_heads,
            n_layers=shape.n_layers,
            drop_rate=0.0,
            qkv_bias=True,
        )
    )

    def write(length: int) -> None:
        ids = torch.tensor([[EOS]], device=model.out_head.weight.device)
        generate_text_simple(model.eval(), ids, length, shape.context_length)

    return model, model, write


def in_bfloat16(
    works: dict[str, Work], machine: minigpt.Machine, make: Callable[[], Work]
) -> None:
    """Add ours in bfloat16, unless it takes a hundred times as long there."""
    able = machine.device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if machine.dtype is torch.float32 and able:
        works["bfloat16"] = make()
    elif not able:
        note("this processor has no instructions for bfloat16: left out")


PEERS = {
    "transformers": (transformers, "-c constraints.txt transformers"),
    "llms-from-scratch": (
        llms_from_scratch,
        "--no-deps -c constraints.txt llms-from-scratch",
    ),
}


def peers(shape: ModelConfig) -> dict[str, tuple[torch.nn.Module, Forward, Write]]:
    """The models of others, by name, of this shape; those that are installed."""
    found = {}
    for name, (make, arguments) in PEERS.items():
        try:
            found[name] = make(shape)
        except ImportError:
            note(
                f"{name} is not installed: pip install {arguments}, and its "
                "figures are here too"
            )
    return found


def versions() -> str:
    """Which peers these are, if any."""
    found = []
    for name in PEERS:
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return ", ".join(found)


def peak(machine: minigpt.Machine) -> Work:
    """Operations per second of a product of matrices."""
    n = 2048 if machine.device.type == "cpu" else 8192
    a, b = torch.rand(2, n, n, device=machine.device, dtype=machine.dtype)
    return timed(2 * n**3, lambda: a @ b)


def operations(shape: ModelConfig) -> float:
    """Floating-point operations per character of a training step."""
    C, T, V = shape.d_model, shape.context_length, shape.vocab_size
    layer = 4 * C * C + 2 * C * shape.d_ff + T * C  # half of each T x T
    return 6 * (shape.n_layers * layer + C * V)


def training(
    shape: ModelConfig, machine: minigpt.Machine, batch_size: int
) -> dict[str, Work]:
    """Characters per second of a step: ours, in bfloat16, the peers', peak."""
    _, config = make_configs("full", batch_size=batch_size)
    T, half = shape.context_length, replace(machine, dtype=torch.bfloat16)
    ids = torch.randint(3, shape.vocab_size, (batch_size * T * 4,)).numpy()
    dataset, works = minigpt.Dataset(ids, T), {}
    model = MiniGPT(shape).to(machine.device)
    ours = partial(
        minigpt.training_step,
        model,
        minigpt.make_optimizer(model, config),
        dataset,
        0,
        config,
    )
    works["ours"] = timed(batch_size * T, partial(ours, machine))
    in_bfloat16(works, machine, lambda: timed(batch_size * T, partial(ours, half)))

    def step(other: torch.nn.Module, forward: Forward, adamw) -> None:
        inputs, targets = (
            ids.to(machine.device) for ids in dataset.batch(0, batch_size, 0)
        )
        with machine.autocast():
            loss = minigpt.cross_entropy(forward(inputs), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad(set_to_none=True)

    for name, (other, forward, _) in peers(shape).items():
        other.to(machine.device).train()
        adamw = minigpt.make_optimizer(other, config)
        works[name] = timed(batch_size * T, partial(step, other, forward, adamw))
    flops, per_character = peak(machine), operations(shape)
    works["peak"] = lambda: flops() / per_character
    return works


def writing(model: MiniGPT, length: int, reader=minigpt.cached, rows: int = 1) -> Work:
    """Characters per second of generate."""
    ids = torch.full((rows, 1), EOS, device=model.head.weight.device)

    def write(length: int) -> None:
        config = GenerateConfig(max_new_tokens=length, min_new_tokens=length)
        for _ in minigpt.generate(reader(model), ids, config):
            pass

    return timed(rows * length, partial(write, length), partial(write, 8))


def chain(shape: ModelConfig, machine: minigpt.Machine, length: int) -> Work:
    """Characters per second if there were nothing but matrices and vectors."""
    C, inner = shape.d_model, shape.d_ff
    sizes = [(3 * C, C), (C, C), (inner, C), (C, inner)] * shape.n_layers
    rand = partial(torch.rand, device=machine.device, dtype=machine.dtype)
    weights = [rand(size) for size in sizes]
    x = {C: rand(1, 1, C), inner: rand(1, 1, inner)}

    @torch.inference_mode()
    def work() -> None:
        for _ in range(length):
            for w in weights:
                F.linear(x[w.size(1)], w)

    return timed(length, work)


def decoding(
    shape: ModelConfig, machine: minigpt.Machine, length: int
) -> dict[str, Work]:
    """Characters per second of one text: ours, the peers', the chain."""
    place = machine.device, machine.dtype
    works = {"ours": writing(minigpt.for_writing(MiniGPT(shape), machine), length)}
    in_bfloat16(
        works,
        machine,
        lambda: writing(MiniGPT(shape).to(machine.device, torch.bfloat16), length),
    )
    for name, (other, _, write) in peers(shape).items():
        other.to(*place)
        works[name] = timed(length, partial(write, length))
    return works | {"chain": chain(shape, machine, length)}


def caching(machine: minigpt.Machine) -> dict[str, Work]:
    """Characters per second of a text as long as the context."""
    model = minigpt.for_writing(MiniGPT(FULL), machine)
    return {
        "ours": writing(model, 512),
        "without the cache": writing(model, 512, minigpt.uncached),
    }


def batching(machine: minigpt.Machine) -> dict[str, Work]:
    """Characters per second of sixteen texts and of one."""
    model = minigpt.for_writing(MiniGPT(LAPTOP), machine)
    return {"ours": writing(model, 100, rows=16), "one": writing(model, 100)}


def reading() -> dict[str, Work]:
    """Characters per second of the tokenizer, there and back."""
    text = "".join(map(chr, range(32, 127))) * 100_000
    tokenizer = minigpt.Tokenizer(text)
    ids = tokenizer.encode(text)
    return {
        "ours": timed(len(text), lambda: tokenizer.encode(text)),
        "decode": timed(len(text), lambda: tokenizer.decode(ids)),
    }


LINES: dict[str, list[tuple[str, Make]]] = {
    "step": [
        (
            "a training step, full shape",
            lambda machine, size: training(FULL, machine, size),
        ),
        (
            "a training step, laptop shape",
            lambda machine, size: training(LAPTOP, machine, 3 * size),
        ),
    ],
    "decode": [
        ("writing, full shape", lambda machine, _: decoding(FULL, machine, 100))
    ],
    "small": [
        ("writing, laptop shape", lambda machine, _: decoding(LAPTOP, machine, 120))
    ],
    "cache": [
        ("writing 512 characters, full shape", lambda machine, _: caching(machine))
    ],
    "batch": [("sixteen texts, laptop shape", lambda machine, _: batching(machine))],
    "text": [("the tokenizer", lambda *_: reading())],
}


def measure(names: list[str], rounds: int, *how) -> Iterator[dict]:
    """A record per line: its title, and each program's figures, by round."""
    for name in names:
        for title, make in LINES[name]:
            torch.manual_seed(0)
            works, turns, begin = make(*how), [], time.perf_counter()
            while len(turns) < min(2, rounds) or (
                len(turns) < rounds and time.perf_counter() - begin < ENOUGH
            ):
                turns.append({n: work() for n, work in works.items()})
            yield {
                "title": title,
                "characters_per_second": {
                    n: [turn[n] for turn in turns] for n in works
                },
            }


def show(record: dict) -> None:
    """Print a record: medians, and what ours is of each other, in a round."""
    speeds = record["characters_per_second"]
    print(record["title"])
    for name, values in speeds.items():
        ratios = [a / b for a, b in zip(speeds["ours"], values, strict=True)]
        ratio = (
            ""
            if name == "ours"
            else (
                f"   ours is {statistics.median(ratios):.2f} of it"
                f" ({min(ratios):.2f} to {max(ratios):.2f})"
            )
        )
        print(f"  {name:18} {statistics.median(values):12,.0f}{ratio}")


def processor() -> str:
    """The name of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(": ")[2] for line in lines if "model name" in line]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"{', '.join(LINES)}; all if there is none",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", default=os.devnull, help="where to keep them")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16")
    parser.add_argument(
        "--batch-size", type=int, default=2, help="windows in a step of the full shape"
    )
    options = parser.parse_args(argv)
    try:
        place = minigpt.pick_machine(options.device, options.dtype)
    except minigpt.MiniGPTError as error:
        parser.error(str(error))
    for name in options.names:
        if name not in LINES:
            parser.error(f"there is no line {name}: choose of {', '.join(LINES)}")
    gpu = torch.cuda.is_available() and place.device.type == "cuda"
    machine = {
        "processor": processor(),
        "device": str(place),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "peers": versions(),
    }
    print(f"characters per second, the median of the rounds; {machine}")
    records = []
    for record in measure(
        options.names or [*LINES], options.rounds, place, options.batch_size
    ):
        show(record)
        if gpu:
            record["bytes"] = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            print(f"  {record['bytes'] / 2**30:.2f} GiB at the peak, all of them")
        records.append(record)
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"machine": machine, "lines": records}, file, indent=1)


if __name__ == "__main__":
    main()
