"""Ids to vectors: what stands where."""

import math

import pytest
import torch

import minigpt
from minigpt import Embeddings, ModelConfig, waves
from tangle import oracle

torch.manual_seed(0)
TWO_IDS = {"ids": torch.arange(2), "E": torch.eye(2)}  # the cell's own check
embed_by_product = oracle("embeddings", "embed_by_product", vars(minigpt) | TWO_IDS)

V, T, C = 11, 6, 8
SHAPE = dict(vocab_size=V, context_length=T, d_model=C, n_heads=2)
IDS = torch.tensor([[3, 10, 3], [0, 5, 7]])


def make_layer(dropout: float = 0.0) -> Embeddings:
    return Embeddings(ModelConfig(**SHAPE, dropout=dropout))


@pytest.mark.parametrize("start", [0, 1, 3])
def test_vector_is_the_row_of_the_token_plus_that_of_its_position(start):
    layer = make_layer()
    positions = layer.position_embedding.weight[start : start + 3]
    for ids, vectors in zip(IDS, layer(IDS, start), strict=True):
        token = embed_by_product(ids, layer.token_embedding.weight)
        torch.testing.assert_close(vectors, token + positions)


def test_text_begins_at_position_zero_unless_told_otherwise():
    layer = make_layer()
    assert torch.equal(layer(IDS), layer(IDS, start=0))


def test_there_is_a_row_for_each_token_and_for_each_position():
    shapes = [tuple(p.shape) for p in make_layer().parameters()]
    assert shapes == [(V, C), (T, C)]


@pytest.mark.parametrize("length, start", [(7, 0), (3, 4), (1, 6)])
def test_text_that_outgrows_the_context_is_refused(length, start):
    ids = torch.zeros(1, length, dtype=torch.int64)
    message = f"^{start + length} characters, the context has 6$"
    with pytest.raises(AssertionError, match=message):
        make_layer()(ids, start)


@pytest.mark.parametrize("length, start", [(6, 0), (3, 3), (1, 5)])
def test_text_may_fill_the_context(length, start):
    ids = torch.zeros(1, length, dtype=torch.int64)
    assert make_layer()(ids, start).shape == (1, length, C)


def test_numbers_are_dropped_while_training_and_at_no_other_time():
    layer = make_layer(dropout=0.75)
    ids = torch.arange(T).expand(50, T)
    whole, training = layer.eval()(ids), layer.train()(ids)
    assert torch.equal(layer.eval()(ids), whole)
    kept = training != 0
    torch.testing.assert_close(training[kept], 4 * whole[kept])
    assert 0.2 < kept.float().mean() < 0.3


def test_positions_start_as_waves_as_long_as_rows_of_tokens():
    for t, row in enumerate(waves(T, C)):
        angles = [t / 10_000 ** (2 * i / C) for i in range(C // 2)]
        wave = [f(a) / math.sqrt(2) for a in angles for f in (math.sin, math.cos)]
        torch.testing.assert_close(row, torch.tensor(wave))
    rows = make_layer().position_embedding.weight
    assert torch.equal(rows, waves(T, C)) and rows.requires_grad
    assert waves(T, 7).shape == (T, 7)  # an odd width is a width
