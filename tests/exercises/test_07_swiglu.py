"""Exercise 7.3, a gate in place of a bend: SwiGLU in MLP."""

import pytest
import torch
import torch.nn.functional as F

from minigpt import MLP, Block, ModelConfig


def make(kind: type, **changes) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    config = ModelConfig(**dict(d_model=12, n_heads=3, dropout=0.0) | changes)
    return kind(config).double(), torch.randn(2, 5, 12, dtype=torch.float64)


@pytest.mark.parametrize("d_ff", [0, 20])
def test_one_part_is_let_through_as_the_other_says(d_ff):
    mlp, x = make(MLP, d_ff=d_ff)
    half = 2 * (d_ff or 48) // 3
    assert mlp.expand.weight.shape == (2 * half, 12)
    gate, passing = F.linear(x, mlp.expand.weight, mlp.expand.bias).split(half, -1)
    hidden = gate / (1 + (-gate).exp()) * passing
    expected = F.linear(hidden, mlp.proj.weight, mlp.proj.bias)
    torch.testing.assert_close(mlp(x), expected)


@pytest.mark.parametrize("d_model", [48, 192, 512])
def test_it_has_as_many_weights_as_before(d_model):
    with torch.device("meta"):
        mlp = MLP(ModelConfig(d_model=d_model, n_heads=1))
    matrices = sum(p.numel() for p in mlp.parameters() if p.dim() == 2)
    assert matrices == pytest.approx(8 * d_model**2, rel=0.01)


def test_a_block_is_built_of_it_and_learns():
    block, x = make(Block)
    assert isinstance(block.mlp, MLP)
    block(x).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in block.mlp.parameters())


def test_results_are_dropped_while_training_alone():
    mlp, x = make(MLP, dropout=0.5)
    assert (mlp.train()(x) == 0).any() and not (mlp.eval()(x) == 0).any()
