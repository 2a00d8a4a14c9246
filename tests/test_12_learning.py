"""Chapter 12: the loss, the optimizer, the schedule, one step, evaluation."""

import copy
import math
from functools import cache

import pytest
import torch
from torch import nn

import minigpt
from helpers import SIZES
from minigpt import (
    IGNORED,
    Dataset,
    MiniGPT,
    MiniGPTError,
    TrainConfig,
    cross_entropy,
    evaluate,
    learning_rate,
    make_configs,
    make_optimizer,
    pick_machine,
    training_step,
)
from tangle import oracle

CPU = pick_machine("cpu", "float32")
close = torch.testing.assert_close


@cache
def by_hand(name: str):
    """A naive function of the chapter."""
    return oracle("12", name, vars(minigpt))


@pytest.fixture(scope="module")
def train_split(text):
    return Dataset(text.train, context_length=16)


@pytest.fixture(scope="module")
def val_split(text):
    return Dataset(text.val, context_length=16)


@pytest.fixture
def little(text):
    """(changes) -> a model of some thousand weights, and how to train it."""

    def make(**changes) -> tuple[MiniGPT, TrainConfig]:
        small = dict(
            vocab_size=text.tokenizer.vocab_size,
            batch_size=4,
        )
        shape, config = make_configs("tiny", **SIZES | small | changes)
        torch.manual_seed(0)
        return MiniGPT(shape), config

    return make


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


# --- how wrong is a guess? -------------------------------------------------


@pytest.fixture
def guesses():
    """Logits (2, 7, 9) and targets (2, 7), some of them IGNORED."""
    torch.manual_seed(1)
    targets = torch.randint(1, 9, (2, 7))
    targets[0, 5:] = targets[1, 2] = IGNORED
    return 3 * torch.randn(2, 7, 9), targets


def test_cross_entropy_is_that_of_the_chapter(guesses):
    logits, _ = guesses
    targets = torch.arange(1, 15).view(2, 7) % 8 + 1
    close(
        cross_entropy(logits, targets),
        by_hand("cross_entropy_by_hand")(logits.flatten(0, 1), targets.flatten()),
    )


@pytest.mark.parametrize("reduction, times", [("mean", 1), ("sum", 11)])
def test_padding_is_no_character(guesses, reduction, times):
    logits, targets = guesses
    real = targets != IGNORED
    mean = by_hand("cross_entropy_by_hand")(logits[real], targets[real])
    close(cross_entropy(logits, targets, reduction), times * mean)


def test_the_loss_is_computed_in_float32_and_does_not_overflow(guesses):
    logits, targets = guesses
    rough = logits.bfloat16()
    close(
        cross_entropy(rough, targets),
        cross_entropy(rough.float(), targets),
        atol=0,
        rtol=0,
    )
    assert cross_entropy(1000 * logits, targets).isfinite()


# --- how far? --------------------------------------------------------------


def test_matrices_decay_and_vectors_do_not(little):
    model, config = little(weight_decay=0.3, beta1=0.8, beta2=0.7)
    optimizer = make_optimizer(model, config)
    grouped = [
        (id(p), group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    assert len(grouped) == len(dict(grouped))  # each parameter once
    assert dict(grouped) == {
        id(p): 0.3 if p.dim() > 1 else 0.0 for p in model.parameters()
    }
    assert all(g["betas"] == (0.8, 0.7) for g in optimizer.param_groups)


def test_the_optimizer_steps_as_adamw_by_hand():
    torch.manual_seed(2)
    layer, gradients = nn.Linear(3, 2), list(torch.randn(6, 2, 3))
    start = layer.weight.detach().clone(), layer.bias.detach().clone()
    config = TrainConfig(learning_rate=0.1, weight_decay=0.5, beta1=0.8, beta2=0.95)
    optimizer = make_optimizer(layer, config)
    for g in gradients:
        layer.weight.grad, layer.bias.grad = g.clone(), g[:, 0].clone()
        optimizer.step()
    adamw = by_hand("adamw_by_hand")
    close(layer.weight.detach(), adamw(start[0], gradients, 0.1, 0.8, 0.95, decay=0.5))
    gradients = [g[:, 0] for g in gradients]
    close(layer.bias.detach(), adamw(start[1], gradients, 0.1, 0.8, 0.95, decay=0.0))


# --- a rate for each step --------------------------------------------------


def rates(steps: int, **changes) -> list[float]:
    config = TrainConfig(learning_rate=1.0, min_learning_rate=0.2, **changes)
    return [learning_rate(step, config) for step in range(steps)]


def test_the_rate_rises_in_a_line_and_falls_as_a_cosine():
    quarter = 0.8 * (1 - math.cos(math.pi / 4)) / 2
    assert rates(13, max_steps=13, warmup_steps=4) == pytest.approx(
        [
            0.25,
            0.5,
            0.75,
            1,
            1,
            1 - 0.8 * (1 - math.cos(math.pi / 8)) / 2,
            1 - quarter,
            0.2 + 0.8 * (1 + math.cos(math.pi * 3 / 8)) / 2,
            0.6,
            0.2 + 0.8 * (1 - math.cos(math.pi * 3 / 8)) / 2,
            0.2 + quarter,
            0.2 + 0.8 * (1 - math.cos(math.pi / 8)) / 2,
            0.2,
        ]
    )


def test_without_warm_up_the_first_rate_is_the_highest():
    assert rates(3, max_steps=3, warmup_steps=0) == pytest.approx([1, 0.6, 0.2])
    assert rates(1, max_steps=1, warmup_steps=0) == [1]


def test_a_warm_up_may_be_as_long_as_the_run_or_longer():
    assert rates(4, max_steps=4, warmup_steps=4) == [0.25, 0.5, 0.75, 1]
    assert rates(2, max_steps=2, warmup_steps=4) == [0.25, 0.5]


def test_after_the_last_step_the_rate_stays_low():
    assert rates(9, max_steps=5, warmup_steps=0)[4:] == pytest.approx(5 * [0.2])


# --- one step --------------------------------------------------------------


def plain_sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Steps along the gradient itself; rates of its own, to be replaced."""
    halves = list(model.parameters())
    return torch.optim.SGD(
        [{"params": halves[::2], "lr": 7.0}, {"params": halves[1::2], "lr": 9.0}]
    )


def step_by_sgd(model, dataset, step, config) -> tuple[torch.Tensor, tuple]:
    """What a step took from the weights, and what it returned."""
    before = flat(model.parameters())
    result = training_step(model, plain_sgd(model), dataset, step, config, CPU)
    return before - flat(model.parameters()), result


@pytest.mark.parametrize("longest", [0.1, 1e6])
def test_a_step_is_the_rate_times_the_clipped_gradient(little, train_split, longest):
    model, config = little(grad_accum=2, grad_clip=longest, seed=3, learning_rate=10)
    twin = copy.deepcopy(model)
    batches = [train_split.batch(n, 4, seed=3) for n in (10, 11)]
    losses = [cross_entropy(twin(x), y) for x, y in batches]
    gradients = torch.autograd.grad(sum(losses) / 2, [*twin.parameters()])
    clipped = flat(by_hand("clip_by_hand")(gradients, longest))

    moved, (loss, norm) = step_by_sgd(model, train_split, 5, config)
    assert config.warmup_steps == 20  # so step 5, the sixth, takes 6 / 20
    close(moved, 3 * clipped, atol=1e-6, rtol=1e-3)
    assert loss == pytest.approx(sum(losses).item() / 2)
    assert norm == pytest.approx(flat(gradients).norm().item())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_many_small_batches_move_the_weights_as_one_large(little, train_split, parts):
    model, config = little(batch_size=8, grad_clip=1e6)
    whole, (loss, norm) = step_by_sgd(model, train_split, 3, config)
    model, config = little(batch_size=8 // parts, grad_accum=parts, grad_clip=1e6)
    split, result = step_by_sgd(model, train_split, 3, config)
    close(split, whole, atol=1e-3 * whole.abs().max(), rtol=1e-3)
    assert result == pytest.approx((loss, norm))


def test_a_step_depends_on_its_place_and_on_no_dice_before_it(little, train_split):
    moves = []
    for seed_of_the_day in (1, 2):
        model, config = little(dropout=0.5, grad_accum=2)
        model.eval()  # as evaluate leaves it
        torch.manual_seed(seed_of_the_day)
        moves.append(step_by_sgd(model, train_split, 0, config)[0])
    assert torch.equal(*moves)
    dry, _ = step_by_sgd(*[little()[0], train_split, 0], config)
    assert not torch.allclose(moves[0], dry)  # something was dropped


def test_each_micro_step_rolls_its_own_dice(little, train_split, monkeypatch):
    places = []
    monkeypatch.setattr(minigpt, "seed_dropout", lambda *p: places.append(p))
    model, config = little(grad_accum=3, seed=9)
    step_by_sgd(model, train_split, 4, config)
    assert places == [(9, 4, 0), (9, 4, 1), (9, 4, 2)]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda model: model.register_forward_hook(lambda m, i, y: y * math.nan),
        lambda model: model.register_forward_hook(lambda m, i, y: y * math.inf),
        lambda model: model.register_forward_hook(  # all characters impossible
            lambda m, i, y: torch.cat([y[..., :3], y[..., 3:] - math.inf], -1)
        ),
        lambda model: model.head.weight.register_hook(lambda g: g * math.nan),
        lambda model: model.norm.bias.register_hook(lambda g: g + math.inf),
    ],
    ids=["logits NaN", "logits inf", "loss inf", "gradient NaN", "gradient inf"],
)
def test_what_is_not_finite_never_reaches_the_weights(little, train_split, spoil):
    model, config = little(grad_accum=2)
    before = flat(model.parameters())
    spoil(model)
    with pytest.raises(MiniGPTError, match="step 6: loss .*--learning-rate"):
        training_step(model, plain_sgd(model), train_split, 5, config, CPU)
    assert torch.equal(flat(model.parameters()), before)


def test_one_batch_is_learned_by_heart(little, text):
    class OneBatch(Dataset):
        def batch(self, number, size, seed):
            return super().batch(0, size, seed)

    dataset = OneBatch(text.train, 16)
    model, config = little(max_steps=150, learning_rate=2e-2)
    optimizer = make_optimizer(model, config)
    losses = [
        training_step(model, optimizer, dataset, step, config, CPU)[0]
        for step in range(config.max_steps)
    ]
    assert losses[0] > 2 and losses[-1] < 0.1


# --- how good is it really? ------------------------------------------------


def nats_by_hand(model, inputs, targets) -> float:
    """The summed loss of all targets (B, T)."""
    logits = model.eval()(inputs).detach().flatten(0, 1)
    mean = by_hand("cross_entropy_by_hand")(logits, targets.flatten())
    return mean.item() * targets.numel()


@pytest.mark.parametrize("batch_size", [3, 32, 1000])
def test_evaluate_reads_each_character_of_the_split_once(little, val_split, batch_size):
    model = little(dropout=0.5)[0]
    ids = torch.tensor(val_split.ids.tolist())
    windows = [ids[None, s : s + 17] for s in range(0, len(ids) - 1, 16)]
    assert windows[-1].size(1) < 17  # the last one is padded
    total = sum(nats_by_hand(model, w[:, :-1], w[:, 1:]) for w in windows)
    model.train()
    assert evaluate(model, val_split, CPU, batch_size=batch_size) == pytest.approx(
        total / (len(ids) - 1), rel=1e-5
    )


@pytest.mark.parametrize("count", [1, 5, 33])
def test_evaluate_reads_as_many_windows_as_asked(little, val_split, count):
    model = little()[0]
    total = nats_by_hand(model, *val_split.windows(val_split.starts(count)))
    assert evaluate(model, val_split, CPU, count) == pytest.approx(
        total / (16 * count), rel=1e-5
    )


def test_evaluate_rolls_no_dice(little, val_split):
    model = little(dropout=0.5)[0]
    before = torch.get_rng_state()
    first = evaluate(model, val_split, CPU, 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert evaluate(model, val_split, CPU, 4) == first


# --- on the machine --------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_machine_sets_the_precision_and_only_training_has_gradients(
    little, train_split, dtype
):
    model, config = little()
    seen = []
    model.register_forward_hook(
        lambda m, i, y: seen.append((m.training, torch.is_grad_enabled(), y.dtype))
    )
    machine, precision = pick_machine("cpu", dtype), getattr(torch, dtype)
    evaluate(model, train_split, machine, 2)
    training_step(model, plain_sgd(model), train_split, 0, config, machine)
    assert seen == [(False, False, precision), (True, True, precision)]
