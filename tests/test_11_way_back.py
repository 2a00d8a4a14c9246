"""The tape of the chapter, taken from its page, against PyTorch's autograd."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import minigpt
from minigpt import MiniGPT, ModelConfig
from tangle import oracle


def read_tape() -> SimpleNamespace:
    """What the cells of the tape define; each is run with those before it."""
    given = dict(vars(minigpt))
    for name in (
        "Node",
        "backward",
        "matmul",
        "gelu",
        "normalise",
        "embed",
        "attend",
        "cross_entropy",
        "loss_of",
    ):
        found = oracle("way_back", name, given)
        given |= getattr(found, "__globals__", {}) | {name: found}
    return SimpleNamespace(**given)


tape = read_tape()
close = torch.testing.assert_close


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


def positions(n: int) -> torch.Tensor:
    """Ids (2, n) below 5, one of them in each text more than once."""
    return (torch.arange(2 * n).view(2, n) ** 2) % 5


OPERATIONS = {
    "sum": (lambda a, b: a + b, lambda a, b: a + b, (2, 3, 4), (4,)),
    "product": (lambda a, b: a * b, lambda a, b: a * b, (3, 1), (2, 3, 4)),
    "matmul": (tape.matmul, F.linear, (2, 3, 4), (4, 4)),
    "gelu": (tape.gelu, lambda x: F.gelu(x, approximate="tanh"), (2, 3)),
    "normalise": (tape.normalise, lambda x: F.layer_norm(x, (6,)), (2, 3, 6)),
    "embed": (lambda t: tape.embed(t, positions(4)), lambda t: t[positions(4)], (5, 3)),
    "loss": (
        lambda z: tape.cross_entropy(z, positions(4)),
        lambda z: F.cross_entropy(z.flatten(0, 1), positions(4).flatten()),
        (2, 4, 5),
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_goes_back_as_autograd_does(name):
    torch.manual_seed(0)
    ours, theirs, *shapes = OPERATIONS[name]
    values = [3 * random(*shape) for shape in shapes]
    leaves = [value.clone().requires_grad_() for value in values]
    y, expected = ours(*map(tape.Node, values)), theirs(*leaves)
    close(y.value, expected.detach())
    g = torch.randn_like(y.value)
    close([*y.back(g)], [*torch.autograd.grad(expected, leaves, g)])


@pytest.mark.parametrize("n_heads", [1, 3])
def test_attention_goes_back_as_autograd_does(n_heads):
    torch.manual_seed(0)
    qkv, g = random(2, 5, 18), random(2, 5, 6)
    leaf = qkv.clone().requires_grad_()
    q, k, v = leaf.view(2, 5, 3, n_heads, -1).permute(2, 0, 3, 1, 4)
    expected = minigpt.attention(q, k, v).transpose(1, 2).flatten(2)
    y = tape.attend(tape.Node(qkv), n_heads)
    close(y.value, expected.detach())
    close([*y.back(g)], [*torch.autograd.grad(expected, leaf, g)])


def test_where_two_ways_meet_gradients_add_and_each_node_goes_once():
    calls = []
    x = tape.Node(torch.tensor(3.0))

    def back(g):
        calls.append(1)
        return (2 * g,)

    y = tape.Node(2 * x.value, (x,), back)
    tape.backward(y * y + y + x)
    assert x.grad == 2 * (2 * 6) + 2 + 1 and len(calls) == 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_layers", [1, 2])
def test_a_whole_model_gets_the_gradients_of_autograd(seed, n_layers):
    torch.manual_seed(seed)
    config = ModelConfig(11, 9, 12, n_layers, 3, dropout=0.0)
    model = MiniGPT(config).double()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    ids, targets = torch.randint(11, (2, 3, 8))
    w = {name: tape.Node(p.detach()) for name, p in model.named_parameters()}
    loss = tape.loss_of(w, ids, targets, config)
    tape.backward(loss)
    expected = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
    expected.backward()
    close(loss.value, expected.detach(), atol=1e-10, rtol=0)
    for name, p in model.named_parameters():
        close(w[name].grad, p.grad, atol=1e-10, rtol=0)
