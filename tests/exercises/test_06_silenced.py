"""Exercise 6.2, silence a head: a set `silenced` in MultiHeadAttention."""

import pytest
import torch

from minigpt import ModelConfig, MultiHeadAttention

C, H, D = 12, 3, 4


def make_layer() -> tuple[MultiHeadAttention, torch.Tensor]:
    torch.manual_seed(0)
    layer = MultiHeadAttention(ModelConfig(d_model=C, n_heads=H, dropout=0.0))
    return layer.double(), torch.randn(2, 5, C, dtype=torch.float64)


def without(layer: MultiHeadAttention, heads: set[int]) -> MultiHeadAttention:
    """A copy in which the projection ignores these heads."""
    copy, _ = make_layer()
    copy.load_state_dict(layer.state_dict())
    with torch.no_grad():
        for head in heads:
            copy.proj.weight[:, head * D : (head + 1) * D] = 0
    return copy


def test_no_head_of_a_new_layer_is_silenced():
    layer, x = make_layer()
    assert layer.silenced == set()
    assert {*layer.state_dict()} == {
        f"{name}.{kind}" for name in ("qkv", "proj") for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("heads", [{0}, {1}, {0, 2}, {0, 1, 2}])
def test_silenced_heads_contribute_nothing(heads):
    layer, x = make_layer()
    expected = without(layer, heads)(x)
    assert (layer(x) - expected).abs().max() > 1e-3
    layer.silenced = heads
    torch.testing.assert_close(layer(x), expected)


def test_a_silenced_head_learns_nothing_and_the_others_do():
    layer, x = make_layer()
    layer.silenced = {1}
    layer(x).square().sum().backward()
    gradient = layer.qkv.weight.grad.view(3, H, D, C).abs().amax((0, 2, 3))
    assert (gradient > 0).tolist() == [True, False, True]
