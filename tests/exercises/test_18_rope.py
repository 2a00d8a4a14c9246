"""Exercise 18.3, distance, not place: RoPE in MultiHeadAttention."""

import math

import pytest
import torch

from minigpt import Embeddings, KVCache, MiniGPT, ModelConfig, MultiHeadAttention

T, C, H, D = 10, 24, 3, 8
SHAPE = ModelConfig(
    vocab_size=20, context_length=T, d_model=C, n_layers=2, n_heads=H, dropout=0.0
)


def test_there_is_no_table_of_positions_and_still_an_end():
    layer = Embeddings(SHAPE)
    assert [n for n, _ in layer.named_parameters()] == ["token_embedding.weight"]
    ids = torch.zeros(1, T, dtype=torch.int64)
    torch.testing.assert_close(layer(ids, 0), layer.token_embedding(ids))
    with pytest.raises(AssertionError, match="11 characters"):
        layer(ids, start=1)


def test_scores_are_those_of_points_turned_by_their_distance():
    torch.manual_seed(0)
    layer = MultiHeadAttention(SHAPE).double().eval()
    x = torch.randn(2, T, C, dtype=torch.float64)
    qkv = layer.qkv(x).view(2, T, 3, H, D).permute(2, 0, 3, 1, 4)
    q, k = (torch.complex(z[..., : D // 2], z[..., D // 2 :]) for z in qkv[:2])
    scores = torch.full((2, H, T, T), -math.inf, dtype=torch.float64)
    rates = torch.tensor([10_000 ** (-2 * j / D) for j in range(D // 2)]).double()
    for t in range(T):
        for s in range(t + 1):
            turn = torch.polar(torch.ones_like(rates), (t - s) * rates)
            product = q[:, :, t] * k[:, :, s].conj() * turn
            scores[:, :, t, s] = product.real.sum(-1) / math.sqrt(D)
    y = (scores.softmax(-1) @ qkv[2]).transpose(1, 2).reshape(2, T, C)
    torch.testing.assert_close(layer(x), layer.proj(y), atol=1e-5, rtol=1e-5)


def test_the_order_of_what_was_read_matters():
    torch.manual_seed(0)
    model, ids = MiniGPT(SHAPE).eval(), torch.tensor([[3, 4, 5, 6]])
    other = torch.tensor([[5, 4, 3, 6]])
    assert (model(ids) - model(other))[:, -1].abs().max() > 1e-4


@pytest.mark.parametrize("chunks", [[1] * T, [4, 1, 5], [T]])
def test_a_text_can_be_read_in_pieces(chunks):
    torch.manual_seed(0)
    model, cache = MiniGPT(SHAPE).eval(), KVCache(SHAPE, 2)
    ids = torch.randint(3, 20, (2, T))
    with torch.no_grad():
        pieces = [model(piece, cache) for piece in ids.split(chunks, 1)]
        torch.testing.assert_close(torch.cat(pieces, 1), model(ids), atol=1e-5, rtol=0)
