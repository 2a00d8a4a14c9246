"""Exercise 18.4, fewer keys than queries: GQA in MultiHeadAttention and KVCache."""

from dataclasses import replace

import pytest
import torch

from minigpt import (
    SHIPPED,
    KVCache,
    MiniGPT,
    MiniGPTError,
    ModelConfig,
    MultiHeadAttention,
    load_checkpoint,
)

SHAPE = ModelConfig(
    vocab_size=20,
    context_length=10,
    d_model=24,
    n_layers=2,
    n_heads=6,
    dropout=0.0,
    n_kv_heads=2,
)


def test_the_default_is_a_pair_for_each_head():
    assert ModelConfig().n_kv_heads == ModelConfig().n_heads == 8
    assert replace(SHAPE, n_kv_heads=0).n_kv_heads == 6
    saved = load_checkpoint(SHIPPED)  # whose config knows no such field
    assert saved.model.config.n_kv_heads == saved.model.config.n_heads


@pytest.mark.parametrize("wrong", [4, 5, 7, -1])
def test_a_number_that_does_not_divide_is_refused(wrong):
    with pytest.raises(MiniGPTError, match=f"n_kv_heads.*{wrong}"):
        replace(SHAPE, n_kv_heads=wrong)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_a_group_shares_what_all_heads_could_have(groups):
    """A full attention with the keys and values of a group repeated."""
    torch.manual_seed(0)
    shared = MultiHeadAttention(replace(SHAPE, n_kv_heads=groups)).eval()
    full = MultiHeadAttention(replace(SHAPE, n_kv_heads=6)).eval()
    assert shared.qkv.weight.shape == (24 + 2 * groups * 4, 24)
    state = shared.state_dict()
    for name in ("qkv.weight", "qkv.bias"):
        q, k, v = state[name].split([24, groups * 4, groups * 4])
        many = [
            z.unflatten(0, (groups, 4)).repeat_interleave(6 // groups, 0).flatten(0, 1)
            for z in (k, v)
        ]
        state[name] = torch.cat([q, *many])
    full.load_state_dict(state)
    x = torch.randn(2, 7, 24)
    torch.testing.assert_close(shared(x), full(x))


def test_the_cache_has_room_for_no_more():
    assert KVCache(SHAPE, 3).keys.shape == (2, 3, 2, 10, 4)
    assert KVCache(SHAPE).values.shape == (2, 1, 2, 10, 4)


@pytest.mark.parametrize("chunks", [[1] * 10, [4, 1, 5]])
def test_a_text_can_be_read_in_pieces(chunks):
    torch.manual_seed(0)
    model, cache = MiniGPT(SHAPE).eval(), KVCache(SHAPE, 2)
    ids = torch.randint(3, 20, (2, 10))
    with torch.no_grad():
        pieces = [model(piece, cache) for piece in ids.split(chunks, 1)]
        torch.testing.assert_close(torch.cat(pieces, 1), model(ids), atol=1e-5, rtol=0)
