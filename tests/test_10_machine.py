"""Chapter 10: the device, the precision, dice without memory."""

import subprocess
import sys
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import minigpt
from minigpt import Machine, MiniGPTError, pick_machine, seed_dropout

CPU = Machine(torch.device("cpu"), torch.float32)
CUDA = Machine(torch.device("cuda"), torch.bfloat16)
MPS = Machine(torch.device("mps"), torch.float32)


@pytest.fixture
def pretend(monkeypatch):
    """Make a machine believe in accelerators that it may not have."""

    def install(cuda=False, mps=False, capability=(9, 0)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda device: capability
        )
        monkeypatch.setattr(
            torch.cuda, "get_device_name", lambda device: "GPU of dreams"
        )

        def zeros(size, device):
            there = SimpleNamespace(device=torch.device(device))
            return SimpleNamespace(cumsum=lambda dim: there)

        monkeypatch.setattr(torch, "zeros", zeros)

    return install


# --- what is there ---------------------------------------------------------


@pytest.mark.parametrize(
    "there, device, dtype",
    [
        (dict(cuda=True, mps=True, capability=(8, 0)), "cuda", torch.bfloat16),
        (dict(cuda=True, capability=(9, 0)), "cuda", torch.bfloat16),
        (dict(cuda=True, capability=(7, 5)), "cuda", torch.float32),
        (dict(mps=True), "mps", torch.float32),
        (dict(), "cpu", torch.float32),
    ],
)
def test_auto_takes_the_best_that_is_there(pretend, there, device, dtype):
    pretend(**there)
    assert pick_machine() == Machine(torch.device(device), dtype)


def test_what_is_named_is_taken_though_there_is_better(pretend):
    pretend(cuda=True)
    assert pick_machine("cpu") == CPU
    assert pick_machine("cuda:1").device == torch.device("cuda", 1)
    assert pick_machine("auto", "float32").dtype == torch.float32
    assert pick_machine("cpu", "bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize("device", ["tpu", "meta", "", "cpu:x", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(MiniGPTError, match=f"'{device}'.*: choose auto, cpu"):
        pick_machine(device)


def test_a_gpu_that_is_too_old_for_this_pytorch_is_found_at_once(pretend, monkeypatch):
    """Memory can be had on it; the first sum cannot."""

    def no_kernel(dim):
        raise RuntimeError("CUDA error: no kernel image is available\n" * 99)

    pretend(cuda=True)
    monkeypatch.setattr(
        torch, "zeros", lambda size, device: SimpleNamespace(cumsum=no_kernel)
    )
    with pytest.raises(MiniGPTError, match=r"'cuda'.*no kernel.*cpu") as refused:
        pick_machine()
    assert len(str(refused.value)) < 400 and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "announced, probe, answer",
    [
        ({}, "print(True)", False),
        ({"avx512_bf16": True}, "print(True)", True),
        ({"amx_bf16": True}, "print(True)", True),
        ({"avx512_bf16": True}, "print(False)", False),
        ({"amx_bf16": True}, "import os; print(True, flush=True); os.abort()", False),
        ({"amx_bf16": True}, "import no_such_module", False),
    ],
)
def test_a_cpu_is_asked_in_a_process_that_may_die(
    monkeypatch, announced, probe, answer
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: announced)
    monkeypatch.setattr(minigpt, "PROBE", probe)
    assert minigpt.bfloat16_is_fast() is answer


def test_no_process_is_started_where_nothing_is_announced(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.setattr(minigpt.subprocess, "run", None)
    assert minigpt.bfloat16_is_fast() is False


@pytest.mark.slow
def test_the_probe_measures_what_this_process_measures():
    probe = [sys.executable, "-c", minigpt.PROBE]
    done = subprocess.run(probe, capture_output=True, text=True, check=True)
    has = torch.cpu.get_capabilities()
    announced = has.get("avx512_bf16") or has.get("amx_bf16")
    assert done.stdout.strip() in ("True", "False")
    assert announced or done.stdout.strip() == "False"


@pytest.mark.parametrize("dtype", ["float8", "float16", ""])
def test_an_unknown_dtype_is_refused(dtype):
    with pytest.raises(MiniGPTError, match=f"'{dtype}'.*auto, float32 or bfloat"):
        pick_machine("cpu", dtype)


def test_a_machine_says_what_it_is(pretend):
    pretend(cuda=True)
    assert str(CUDA) == "GPU of dreams, torch.bfloat16"
    threads = torch.get_num_threads()
    assert str(CPU) == f"cpu, {threads} threads, torch.float32"


# --- sixteen bits ----------------------------------------------------------


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_matrix_products_alone_take_the_dtype_of_the_machine(name, recwarn):
    layer = nn.Linear(8, 8)
    with pick_machine("cpu", name).autocast():
        y = layer(torch.randn(2, 8))
    y.sum().backward()
    assert y.dtype == getattr(torch, name)
    assert layer.weight.grad.dtype == layer.weight.dtype == torch.float32
    assert not recwarn.list  # autocast warns when it is on for float32


# --- dice that need no memory ----------------------------------------------


def dice(*place: int) -> tuple[float, ...]:
    seed_dropout(*place)
    return tuple(torch.rand(3).tolist())


def test_dice_depend_on_the_place_alone():
    first = dice(5, 3, 0)
    torch.rand(100)
    assert dice(5, 3, 0) == first


def test_dice_depend_on_each_of_the_four_numbers():
    places = [*product((1, 2), repeat=3)]
    assert len({dice(*place) for place in places}) == 8


def test_dice_take_the_largest_seed_there_is():
    assert dice(2**32 - 1, 10**9, 0) != dice(2**32 - 2, 10**9, 0)
