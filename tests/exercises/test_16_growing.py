"""Chapter 16, "Take only the room that is needed": a cache that grows."""

import pytest
import torch

from minigpt import KVCache, MiniGPT, ModelConfig

SHAPE = ModelConfig(
    vocab_size=20, context_length=100, d_model=24, n_layers=2, n_heads=3, dropout=0.0
)


@pytest.mark.parametrize("chunks", [[10, 22, 1, 1, 30, 36], [50, 50], [100]])
def test_the_room_doubles_and_the_logits_stay(chunks):
    torch.manual_seed(0)
    model, ids = MiniGPT(SHAPE).eval(), torch.randint(3, 20, (2, 100))
    cache, pieces, full = KVCache(SHAPE, 2), [], model(ids)
    assert cache.keys.size(3) == cache.values.size(3) == 32
    with torch.inference_mode():
        for chunk in ids.split(chunks, dim=1):
            pieces.append(model(chunk, cache))
            room = cache.keys.size(3)
            assert cache.values.size(3) == room
            assert cache.length <= room <= min(100, max(32, 2 * cache.length))
    torch.testing.assert_close(torch.cat(pieces, 1), full, atol=1e-4, rtol=0)


def test_a_short_context_is_room_enough():
    shape = ModelConfig(vocab_size=20, context_length=8, d_model=24, n_heads=3)
    assert KVCache(shape).keys.size(3) == 8
