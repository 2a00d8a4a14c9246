"""Exercise 18.2, a norm without a mean: RMSNorm in Block and MiniGPT."""

import torch

import minigpt
from minigpt import Block, MiniGPT, ModelConfig

SHAPE = ModelConfig(
    vocab_size=20, context_length=8, d_model=24, n_layers=2, n_heads=3, dropout=0.0
)


def test_it_divides_by_the_root_of_the_mean_of_the_squares():
    norm = minigpt.RMSNorm(24)
    x = torch.randn(2, 5, 24) + 1
    assert {n: tuple(p.shape) for n, p in norm.named_parameters()} == {"weight": (24,)}
    torch.testing.assert_close(norm(x), x / (x.pow(2).mean(-1, True) + 1e-5).sqrt())
    with torch.no_grad():
        norm.weight.copy_(torch.arange(24))
    torch.testing.assert_close(
        norm(x), x / (x.pow(2).mean(-1, True) + 1e-5).sqrt() * torch.arange(24)
    )


def test_it_stands_wherever_a_layer_norm_stood():
    model = MiniGPT(SHAPE)
    norms = [model.norm, *(n for b in model.blocks for n in (b.norm1, b.norm2))]
    assert all(isinstance(norm, minigpt.RMSNorm) for norm in norms)
    assert not any(isinstance(m, torch.nn.LayerNorm) for m in model.modules())
    assert all(torch.equal(norm.weight, torch.ones(24)) for norm in norms)


def test_a_block_sees_the_mean_that_a_layer_norm_took_away():
    torch.manual_seed(0)
    block, x = Block(SHAPE), torch.randn(1, 4, 24)
    wrote = [block(x + shift) - x - shift for shift in (0, 1)]
    assert (wrote[0] - wrote[1]).abs().max() > 0.01
