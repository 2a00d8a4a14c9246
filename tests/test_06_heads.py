"""Many heads at once against heads one by one."""

import pytest
import torch

import minigpt
from minigpt import ModelConfig, MultiHeadAttention
from tangle import oracle

HeadsOneByOne = oracle("heads", "HeadsOneByOne", vars(minigpt))
C, H, D = 12, 3, 4


def make_layer(n_heads: int = H, dropout: float = 0.0) -> MultiHeadAttention:
    torch.manual_seed(0)
    config = ModelConfig(d_model=C, n_heads=n_heads, dropout=dropout)
    return MultiHeadAttention(config).double()


def one_by_one(layer: MultiHeadAttention) -> torch.nn.Module:
    """The chapter's list of heads, with the weights of a layer."""
    slow = HeadsOneByOne(C, layer.n_heads).double()
    slow.proj.load_state_dict(layer.proj.state_dict())
    roles = [
        getattr(head, role) for role in ("query", "key", "value") for head in slow.heads
    ]
    parts = zip(
        layer.qkv.weight.split(C // layer.n_heads),
        layer.qkv.bias.split(C // layer.n_heads),
        strict=True,
    )
    for linear, (weight, bias) in zip(roles, parts, strict=True):
        linear.load_state_dict({"weight": weight, "bias": bias})
    return slow


def random_x(B: int = 2, T: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, T, C, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("n_heads", [1, 3, 4, 12])
def test_heads_at_once_are_the_heads_one_by_one(n_heads):
    layer, x = make_layer(n_heads), random_x()
    torch.testing.assert_close(layer(x), one_by_one(layer)(x))


def test_change_is_seen_from_its_own_position_on_and_not_before():
    layer, x = make_layer(), random_x()
    changed = x.clone()
    changed[:, 3] += 1
    difference = (layer(changed) - layer(x)).abs().amax((0, 2))
    assert (difference > 1e-6).tolist() == [False, False, False, True, True]


def test_remembered_keys_and_values_stand_in_for_the_past():
    layer, x, seen = make_layer(), random_x(), []

    def remember(k, v):
        seen.append((k, v))
        return (torch.cat(all_so_far, dim=2) for all_so_far in zip(*seen, strict=True))

    pieces = [layer(piece, remember) for piece in x.split([2, 1, 2], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), layer(x))
    for T, (k, v) in zip([2, 1, 2], seen, strict=True):
        assert k.shape == v.shape == (2, H, T, D)


def test_nothing_is_dropped_when_not_training():
    layer, x = make_layer(dropout=0.5).eval(), random_x()
    torch.testing.assert_close(layer(x), one_by_one(layer)(x))


def test_weights_and_results_are_dropped_while_training():
    layer, x = make_layer(n_heads=1, dropout=0.5), random_x(B=500, T=1)
    with torch.no_grad():  # so that the result is the dropped value, twice
        layer.proj.weight.copy_(torch.eye(C))
        layer.proj.bias.zero_()
    kept = layer.train()(x) / layer.eval()(x)  # each half the time, doubled
    assert kept.round(decimals=6).unique().tolist() == [0, 4]
    texts = (kept != 0).any(-1)  # a text's only weight was not dropped
    assert 0.4 < texts.double().mean() < 0.6
    assert 0.4 < (kept[texts] != 0).double().mean() < 0.6
