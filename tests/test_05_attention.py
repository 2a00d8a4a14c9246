"""Attention as it runs against attention by hand, and what it may not see."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import minigpt
from minigpt import attention
from tangle import oracle


def random_qkv(*lead: int, past: int = 0, T: int = 6, D: int = 16, seed=0):
    """Queries for the last T positions, keys and values for the past, too."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(*lead, n, D) for n in (T, past + T, past + T)]
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    ]


given_names = vars(minigpt) | dict(
    zip("qkv", random_qkv(), strict=True)
)  # for its check
given_names["attention_by_loops"] = oracle(
    "attention", "attention_by_loops", vars(minigpt)
)
attention_by_hand = oracle("attention", "attention_by_hand", given_names)


@settings(deadline=None, max_examples=50)
@given(
    lead=st.sampled_from([(), (2,), (2, 3)]),
    past=st.integers(0, 6),
    T=st.integers(1, 6),
    D=st.integers(1, 16),
    seed=st.integers(0, 2**32),
)
@example(lead=(2, 3), past=0, T=6, D=16, seed=0)  # as many queries as keys
@example(lead=(2, 3), past=5, T=1, D=16, seed=0)  # a single query
@example(lead=(2, 3), past=4, T=3, D=16, seed=0)  # a number in between
def test_attention_is_attention_by_hand(lead, past, T, D, seed):
    q, k, v = random_qkv(*lead, past=past, T=T, D=D, seed=seed)
    expected = attention_by_hand(q, k, v)
    torch.testing.assert_close(attention(q, k, v), expected)


@pytest.mark.parametrize("D", [1, 4, 64])
def test_scores_are_divided_by_the_root_of_the_head_size(D):
    q, v = torch.ones(1, D), torch.eye(2)[:, :1].expand(2, D)
    odds = torch.tensor(D**0.5).exp()  # of the first key to the second
    expected = (odds / (odds + 1)).expand(1, D)
    torch.testing.assert_close(attention(q, v, v), expected)


@pytest.mark.parametrize("past, T", [(0, 6), (5, 1), (3, 3)])
def test_change_is_seen_from_its_own_position_on_and_not_before(past, T):
    q, k, v = random_qkv(2, past=past, T=T)
    for position in range(past + T):
        changed_k, changed_v = k.clone(), v.clone()
        changed_k[:, position] += 1
        changed_v[:, position] += 1
        after = attention(q, changed_k, changed_v)
        difference = (after - attention(q, k, v)).abs().amax((0, 2))
        seen = past + torch.arange(T) >= position
        assert torch.equal(difference > 1e-9, seen)


@pytest.mark.parametrize("T", range(1, 7))
def test_queries_are_those_of_the_last_positions(T):
    q, k, v = random_qkv(2, T=6)
    expected = attention(q, k, v)[:, -T:]
    torch.testing.assert_close(attention(q[:, -T:], k, v), expected)


@pytest.mark.parametrize("T_q, T_k", [(3, 2), (1, 0)])
def test_more_queries_than_keys_are_refused(T_q, T_k):
    q, (k, v) = torch.randn(T_q, 4), torch.randn(2, T_k, 4)
    with pytest.raises(AssertionError, match=f"^{T_q} queries .* not {T_k}$"):
        attention(q, k, v)


def test_dropout_drops_weights_and_makes_up_for_them():
    torch.manual_seed(0)
    q, k, _ = random_qkv(T=16)
    weights = attention(q, k, torch.eye(16).double())
    dropped = attention(q, k, torch.eye(16).double(), dropout=0.75)
    kept = dropped > 0
    torch.testing.assert_close(dropped[kept], 4 * weights[kept])
    assert 0.1 < kept.sum() / (weights > 0).sum() < 0.4
