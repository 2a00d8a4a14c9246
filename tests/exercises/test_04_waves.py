"""Exercise "Positions that are not learned" of chapter 4: waves, not a table."""

import math

import pytest
import torch

from minigpt import Embeddings, MiniGPT, ModelConfig

T, C = 12, 8
SHAPE = ModelConfig(
    vocab_size=11, context_length=T, d_model=C, n_layers=1, n_heads=2, dropout=0.0
)


def test_the_token_table_is_all_that_is_learned():
    parameters = dict(Embeddings(SHAPE).named_parameters())
    assert {n: tuple(p.shape) for n, p in parameters.items()} == {
        "token_embedding.weight": (11, C)
    }


@pytest.mark.parametrize("start", [0, 5])
def test_positions_are_those_of_the_formula(start):
    layer = Embeddings(SHAPE)
    ids = torch.tensor([[3, 10, 3], [0, 5, 7]])
    for t, vectors in enumerate(
        (layer(ids, start) - layer.token_embedding(ids)).unbind(1), start
    ):
        angles = [t / 10_000 ** (2 * i / C) for i in range(C // 2)]
        wave = [f(a) / math.sqrt(2) for a in angles for f in (math.sin, math.cos)]
        torch.testing.assert_close(vectors, torch.tensor([wave, wave]))


def test_the_context_still_has_an_end():
    ids = torch.zeros(1, T, dtype=torch.int64)
    assert Embeddings(SHAPE)(ids).shape == (1, T, C)
    with pytest.raises(AssertionError, match="13 characters"):
        Embeddings(SHAPE)(ids, start=1)


def test_a_model_that_is_made_from_tensors_computes_the_same():
    model = MiniGPT(SHAPE)
    with torch.device("meta"):
        copy = MiniGPT(SHAPE)
    copy.load_state_dict(dict(model.named_parameters()), assign=True)
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(copy(ids), model(ids))
