"""Exercise 10.2, a wish from outside: MINIGPT_DEVICE says what "auto" means."""

import pytest
import torch

from minigpt import MiniGPTError, pick_machine


@pytest.mark.parametrize("device", ["tpu", "cuda:99"])
def test_the_variable_is_taken_and_tested_as_a_named_device_is(monkeypatch, device):
    monkeypatch.setenv("MINIGPT_DEVICE", device)
    with pytest.raises(MiniGPTError, match=f"'{device}'.*: choose auto, cpu"):
        pick_machine()


def test_the_variable_beats_a_better_device_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("MINIGPT_DEVICE", "cpu")
    assert pick_machine().device == torch.device("cpu")


def test_a_device_that_is_named_beats_the_variable(monkeypatch):
    monkeypatch.setenv("MINIGPT_DEVICE", "tpu")
    assert pick_machine("cpu").device == torch.device("cpu")


@pytest.mark.parametrize("value", ["", "auto"])
def test_an_empty_variable_is_none(monkeypatch, value):
    monkeypatch.delenv("MINIGPT_DEVICE", raising=False)
    best = pick_machine()
    monkeypatch.setenv("MINIGPT_DEVICE", value)
    assert pick_machine() == best
