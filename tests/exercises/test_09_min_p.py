"""Exercise 9.2, compare with the best: a `min_p` for GenerateConfig and choose."""

import pytest
import torch

from minigpt import GenerateConfig, MiniGPTError, choose

LOGITS = torch.tensor([0.3, 0.05, 0.4, 0.15, 0.1]).log()


def drawn(logits: torch.Tensor, **knobs) -> set[int]:
    """Which tokens are drawn in a thousand draws."""
    config = GenerateConfig(**knobs)
    generator = torch.Generator().manual_seed(0)
    return {*choose(logits.expand(1000, -1), config, generator).tolist()}


@pytest.mark.parametrize(
    "knobs, kept",
    [
        (dict(temperature=1.0), {0, 1, 2, 3, 4}),  # off by default
        (dict(temperature=1.0, min_p=0.3), {0, 2, 3}),  # at least 0.3 * 0.4
        (dict(temperature=1.0, min_p=1.0), {2}),
        (dict(temperature=0.5, min_p=0.3), {0, 2}),  # after the temperature
        (dict(temperature=1.0, min_p=0.3, top_k=2), {0, 2}),
        (dict(temperature=1.0, min_p=0.2, top_p=0.75), {0, 2, 3}),
    ],
)
def test_tokens_far_less_likely_than_the_best_are_dropped(knobs, kept):
    assert drawn(LOGITS, **knobs) == kept


def test_each_row_is_compared_with_its_own_best():
    rows = torch.stack([LOGITS, torch.tensor([0.9, 0.04, 0.02, 0.02, 0.02]).log()])
    config = GenerateConfig(temperature=1.0, min_p=0.3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        first, second = choose(rows, config, generator).tolist()
        assert first in {0, 2, 3} and second == 0


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_a_share_outside_zero_and_one_is_refused(value):
    with pytest.raises(MiniGPTError, match="^min_p is "):
        GenerateConfig(min_p=value)
