"""The MLP and the block against the same by hand, with the same weights."""

import pytest
import torch

import minigpt
from minigpt import MLP, Block, ModelConfig
from tangle import oracle

gelu_by_hand = oracle("block", "gelu_by_hand", vars(minigpt))
norm_by_hand = oracle("block", "norm_by_hand", vars(minigpt))
C = 8


def make(kind: type, **changes) -> torch.nn.Module:
    """An MLP or a block, none of whose numbers is special."""
    torch.manual_seed(0)
    config = dict(d_model=C, n_heads=2, dropout=0.0) | changes
    module = kind(ModelConfig(**config)).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def random_x(B: int = 2, T: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, T, C, generator=generator, dtype=torch.float64)


def mlp_by_hand(mlp: MLP, x: torch.Tensor) -> torch.Tensor:
    hidden = gelu_by_hand(x @ mlp.expand.weight.T + mlp.expand.bias)
    return hidden @ mlp.proj.weight.T + mlp.proj.bias


def layer_norm(norm: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return norm_by_hand(x) * norm.weight + norm.bias


@pytest.mark.parametrize("d_ff", [0, 20])
def test_mlp_is_the_mlp_by_hand(d_ff):
    mlp, x = make(MLP, d_ff=d_ff), random_x()
    assert mlp.expand.weight.shape == (d_ff or 4 * C, C)
    torch.testing.assert_close(mlp(x), mlp_by_hand(mlp, x))


def test_mlp_drops_results_while_training_and_at_no_other_time():
    mlp, x = make(MLP, dropout=0.75), random_x(B=50)
    torch.testing.assert_close(mlp.eval()(x), mlp_by_hand(mlp, x))
    training = mlp.train()(x)
    kept = training != 0
    torch.testing.assert_close(training[kept], 4 * mlp.eval()(x)[kept])
    assert 0.2 < kept.double().mean() < 0.3


def test_block_is_the_block_by_hand():
    block, x = make(Block), random_x()
    gathered = x + block.attention(layer_norm(block.norm1, x))
    thought = mlp_by_hand(block.mlp, layer_norm(block.norm2, gathered))
    torch.testing.assert_close(block(x), gathered + thought)


def test_block_that_adds_nothing_passes_its_input_through():
    block, x = make(Block), random_x()
    for proj in (block.attention.proj, block.mlp.proj):
        torch.nn.init.zeros_(proj.weight)
        torch.nn.init.zeros_(proj.bias)
    assert torch.equal(block(x), x)


def test_block_hands_what_remembers_to_its_attention():
    block, x, seen = make(Block), random_x(), []

    def remember(*keys_and_values):
        seen.append(keys_and_values)
        return keys_and_values

    block(x, remember)
    block.attention(layer_norm(block.norm1, x), remember)
    inside, alone = seen
    torch.testing.assert_close(inside, alone)
