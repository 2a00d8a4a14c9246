"""Exercise 8.3, tie the head: a MiniGPT whose token table is its head."""

import math

import pytest
import torch
import torch.nn.functional as F

from minigpt import (
    Checkpoint,
    KVCache,
    MiniGPT,
    ModelConfig,
    Tokenizer,
    TrainConfig,
    count_parameters,
    load_checkpoint,
    make_configs,
    make_optimizer,
    write,
)

SHAPE = ModelConfig(
    vocab_size=20, context_length=8, d_model=24, n_layers=3, n_heads=3, dropout=0.0
)


def make_model(config: ModelConfig = SHAPE) -> MiniGPT:
    torch.manual_seed(0)
    return MiniGPT(config)


def test_there_is_no_head_and_its_numbers_are_saved():
    V, T, C, L = 20, 8, 24, 3
    model = make_model()
    assert not hasattr(model, "head")
    expected = L * (12 * C**2 + 13 * C) + (V + T) * C + 2 * C
    assert count_parameters(model) == expected
    assert {*model.state_dict()} == {name for name, _ in model.named_parameters()}


def test_the_row_of_a_token_that_was_not_read_changes_its_logit_alone():
    model, ids = make_model(), torch.tensor([[3, 5, 4, 3]])
    before = model(ids)
    with torch.no_grad():
        model.embeddings.token_embedding.weight[7] += torch.randn(24)
    difference = (model(ids) - before).abs().amax((0, 1))
    assert difference[7] > 0.1
    difference[7] = 0
    assert (difference == 0).all()


@pytest.mark.parametrize("preset", ["tiny", "laptop"])
def test_loss_at_the_start_is_that_of_betting_on_nothing(preset):
    config, _ = make_configs(preset, vocab_size=99, dropout=0.0)
    model = make_model(config)
    ids = torch.randint(3, 99, (16, config.context_length + 1))
    with torch.no_grad():
        logits = model(ids[:, :-1]).flatten(0, 1)
    loss = F.cross_entropy(logits, ids[:, 1:].flatten()).item()
    assert loss == pytest.approx(math.log(99), rel=0.03)


def test_a_text_can_be_read_in_pieces():
    model, ids, cache = make_model(), torch.arange(8)[None], KVCache(SHAPE)
    with torch.no_grad():
        pieces = [model(piece, cache) for piece in ids.split([3, 1, 4], dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids))


def test_it_can_be_trained_saved_and_used(tmp_path):
    model, config = make_model(), TrainConfig()
    optimizer = make_optimizer(model, config)
    model(torch.tensor([[3, 5, 4]])).logsumexp(-1).sum().backward()
    optimizer.step()
    state = Checkpoint(
        model, optimizer, config, Tokenizer("abcdefghijklmnopq"), "", step=1
    )
    state.save(tmp_path / "tied.safetensors")
    loaded = load_checkpoint(tmp_path / "tied.safetensors")
    moments = [loaded.optimizer.state[p]["exp_avg"] for p in loaded.model.parameters()]
    kept = [optimizer.state[p]["exp_avg"] for p in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(moments, kept, strict=True))
    assert write(loaded, "abc", max_new_tokens=9, seed=1) == (
        write(state, "abc", max_new_tokens=9, seed=1)
    )
