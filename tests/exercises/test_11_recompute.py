"""Exercise 11.3, keep less and compute twice: a block that keeps its input alone."""

import pytest
import torch

from minigpt import Block, MiniGPT, ModelConfig


def make(dropout: float = 0.0) -> tuple[Block, torch.Tensor]:
    torch.manual_seed(0)
    block = Block(ModelConfig(d_model=12, n_heads=3, dropout=dropout)).double()
    return block, torch.randn(2, 5, 12, dtype=torch.float64)


def both_halves(block: Block, x: torch.Tensor) -> torch.Tensor:
    x = x + block.attention(block.norm1(x))
    return x + block.mlp(block.norm2(x))


def count_norms(block: Block) -> list:
    """A list that grows by one each time the block is computed."""
    calls = []
    block.norm1.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_a_block_keeps_nothing_but_its_input():
    block, x = make()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda _: None):
        block(x.requires_grad_())
    assert all(tensor.data_ptr() == x.data_ptr() for tensor in kept)


def test_it_is_computed_once_more_on_the_way_back():
    block, x = make()
    calls = count_norms(block)
    y = block(x.requires_grad_())
    assert len(calls) == 1
    y.sum().backward()
    assert len(calls) == 2


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_values_and_gradients_are_as_before(dropout):
    block, x = make(dropout)
    results = []
    for way in (block, lambda x: both_halves(block, x)):
        x = x.detach().requires_grad_()
        torch.manual_seed(1)
        y = way(x)
        parts = [x, *block.parameters()]
        results.append([y, *torch.autograd.grad(y.square().sum(), parts)])
    torch.testing.assert_close(*results)


def test_without_gradients_it_is_computed_once():
    block, x = make()
    calls = count_norms(block)
    with torch.no_grad():
        torch.testing.assert_close(block(x), both_halves(block, x))
    assert len(calls) == 2  # one of them is ours


def test_what_remembers_is_called_once():
    block, x = make()
    calls = []
    block(x, lambda *kv: calls.append(1) or kv).sum().backward()
    assert len(calls) == 1


def test_a_whole_model_learns_with_it():
    torch.manual_seed(0)
    model = MiniGPT(ModelConfig(9, 8, 12, 2, 3))
    model(torch.randint(9, (2, 8))).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())
