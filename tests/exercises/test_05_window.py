"""Exercise 5.3, a sliding window: a `window` for attention."""

import pytest
import torch

from minigpt import attention


def weights(T_q: int, T_k: int, **arguments) -> torch.Tensor:
    """The weights (T_q, T_k): what comes out if the values are the identity."""
    torch.manual_seed(0)
    q, k = torch.randn(2, T_q, T_k), torch.randn(2, T_k, T_k)
    return attention(q, k, torch.eye(T_k).expand(2, -1, -1), **arguments)


@pytest.mark.parametrize("T_q, T_k", [(6, 6), (1, 6), (3, 6)])
@pytest.mark.parametrize("window", [1, 2, 4, 6, 9])
def test_each_position_sees_itself_and_the_window_before_it(T_q, T_k, window):
    position = torch.arange(T_k - T_q, T_k)[:, None]
    distance = position - torch.arange(T_k)
    seen = (distance >= 0) & (distance < window)
    found = weights(T_q, T_k, window=window)
    assert ((found > 0) == seen).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(2, T_q))


@pytest.mark.parametrize("T_q, T_k", [(6, 6), (1, 6), (3, 6)])
def test_weights_in_the_window_keep_their_proportions(T_q, T_k):
    found, all_weights = weights(T_q, T_k, window=3), weights(T_q, T_k)
    kept = all_weights * (found > 0)
    torch.testing.assert_close(found, kept / kept.sum(-1, keepdim=True))


def test_no_window_is_the_default():
    assert torch.equal(weights(3, 6, window=None), weights(3, 6))
