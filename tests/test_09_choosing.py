"""Drawing a token, and the loop that writes."""

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import minigpt
from minigpt import (
    EOS,
    PAD,
    UNK,
    GenerateConfig,
    MiniGPT,
    MiniGPTError,
    ModelConfig,
    choose,
    generate,
    uncached,
    window_start,
)
from tangle import oracle

LOGITS = torch.tensor([0.4, 0.05, 0.3, 0.15, 0.1]).log()
FIVE = {"logits": LOGITS[None], "letters": "abcde"}  # for the cell's own check
kept_by_hand = oracle("choosing", "kept_by_hand", vars(minigpt) | FIVE)


def draw(logits: Tensor, n: int = 100, **knobs) -> Tensor:
    """n tokens, each drawn from the same logits."""
    generator = torch.Generator().manual_seed(0)
    return choose(logits.expand(n, -1), GenerateConfig(**knobs), generator)


# The settings


@pytest.mark.parametrize(
    "name, value",
    [
        ("max_new_tokens", -1),
        ("min_new_tokens", -1),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("top_k", -1),
        ("top_k", 2.0),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("seed", -1),
    ],
)
def test_senseless_value_is_refused_by_name(name, value):
    with pytest.raises(MiniGPTError, match=f"^{name} is {value}: "):
        GenerateConfig(**{name: value})


def test_cuts_are_off_by_default_and_the_config_cannot_change():
    config = GenerateConfig()
    assert (config.top_k, config.top_p) == (0, 1)
    with pytest.raises(FrozenInstanceError):
        config.top_k = 5


# Choosing


@pytest.mark.parametrize(
    "temperature, top_k, top_p",
    [
        (1.0, 0, 1.0),
        (0.5, 0, 1.0),
        (2.0, 0, 1.0),
        (1.0, 3, 1.0),
        (1.0, 9, 1.0),
        (1.0, 0, 0.65),
        (1.0, 0, 0.75),
        (0.7, 4, 0.9),
        (1.0, 2, 0.55),  # top-p before top-k would keep two
        (0.5, 0, 0.5),
        (2.0, 0, 0.6),  # before the temperature, two and two
    ],
)
def test_tokens_are_drawn_as_often_as_the_loop_says(temperature, top_k, top_p):
    expected = kept_by_hand(LOGITS, temperature, top_k, top_p)
    n = 20_000
    drawn = draw(LOGITS, n, temperature=temperature, top_k=top_k, top_p=top_p)
    for token, count in enumerate(drawn.bincount(minlength=5).tolist()):
        p = expected.get(token, 0.0)  # a bound of five standard deviations
        assert abs(count - n * p) <= 5 * math.sqrt(n * p * (1 - p))


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    quarters=st.lists(st.integers(0, 8), min_size=1, max_size=6, unique=True),
    temperature=st.floats(0.5, 5),
    top_k=st.integers(0, 7),
    top_p=st.floats(0.01, 1),
)
def test_tokens_that_are_drawn_are_those_that_the_loop_keeps(
    quarters, temperature, top_k, top_p
):
    logits = torch.tensor(quarters) / 4  # so that none is too rare to be drawn
    kept = kept_by_hand(logits, temperature, top_k, top_p)
    drawn = draw(logits, 4000, temperature=temperature, top_k=top_k, top_p=top_p)
    assert {*drawn.tolist()} == {*kept}


@pytest.mark.parametrize(
    "knobs",
    [
        dict(temperature=0),
        dict(temperature=0, top_k=2, top_p=0.5),
        dict(temperature=2.0, top_k=1),
        dict(temperature=2.0, top_p=1e-9),
        dict(temperature=1e-4),
        dict(temperature=1e-30),
        dict(temperature=1e-308),
    ],
)
def test_extreme_knobs_take_the_likeliest_token_of_each_row(knobs):
    logits = torch.tensor([[1e4, 1e4 - 1, -1e4, -math.inf], [0, 1, 2, 9]])
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        drawn = choose(logits, GenerateConfig(**knobs), generator)
        assert drawn.dtype == torch.int64
        assert drawn.tolist() == [0, 3]


def test_choosing_leaves_the_logits_as_they_were():
    logits = LOGITS[None].double()
    draw(logits, 1, top_k=1, top_p=0.5)
    assert torch.equal(logits[0], LOGITS.double())


# The window


@given(st.integers(0, 100_000), st.integers(2, 2000))
def test_window_stays_until_it_is_full_and_then_jumps_by_half(n, T):
    half = T // 2
    jumps = -((T - n) // half)  # the ceiling of (n - T) / half, in integers
    assert window_start(n, T) == (0 if n <= T else jumps * half)


class Spy(torch.nn.Module):
    """A model that notes what it is shown, and guesses what it saw last."""

    config = ModelConfig(vocab_size=8, context_length=6)

    def forward(self, ids: Tensor) -> Tensor:
        self.shown = ids
        return F.one_hot(ids, 8).float()


def test_model_without_a_memory_reads_the_window_and_guesses_at_its_end():
    spy = Spy()
    next_logits = uncached(spy)
    for n in range(1, 25):
        text = torch.randint(3, 8, (2, n))
        last = F.one_hot(text[:, -1], 8).float()
        assert torch.equal(next_logits(text), last)
        assert torch.equal(spy.shown, text[:, window_start(n, 6) :])


def small_model() -> MiniGPT:
    torch.manual_seed(0)
    return MiniGPT(
        ModelConfig(
            vocab_size=8,
            context_length=6,
            d_model=16,
            n_layers=1,
            n_heads=2,
            dropout=0.5,
        )
    )


def test_model_that_writes_drops_nothing_and_keeps_nothing_for_learning():
    next_logits, text = uncached(small_model()), torch.tensor([[3, 4, 5]])
    logits = next_logits(text)
    assert torch.equal(next_logits(text), logits)
    assert logits.is_inference()


# The loop, with a vocabulary of eight and a 3 as the prompt


def write(next_logits: Callable | None, B: int = 1, **knobs) -> list:
    """The ids of each step, for B texts."""
    ids, config = torch.full((B, 1), 3), GenerateConfig(**knobs)
    return [step.tolist() for step in generate(next_logits, ids, config)]


def undecided(text: Tensor) -> Tensor:
    return torch.zeros(len(text), 8)


def eager(*favourites: int) -> Callable[[Tensor], Tensor]:
    """Wants these tokens; if it may not, any other but `<eos>`."""
    logits = torch.tensor([0.0, -1e5, 0, 0, 0, 0, 0, 0])
    logits[list(favourites)] = 1e4
    return lambda text: logits.expand(len(text), -1)


def scripted(*texts: list[int]) -> Callable[[Tensor], Tensor]:
    """Writes what is given, a text per row."""
    script = F.one_hot(torch.tensor(texts), 8) * 1e4
    return lambda text: script[:, text.size(1) - 1]


def test_same_seed_writes_the_same_whatever_else_is_random():
    knobs = dict(B=2, max_new_tokens=40, min_new_tokens=40)
    texts = []
    for seed in (1, 1, 2):
        texts.append(write(undecided, seed=seed, **knobs))
        torch.rand(1)
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("min_new_tokens", [0, 40])
def test_padding_and_unknown_characters_are_never_written(temperature, min_new_tokens):
    text = write(
        eager(PAD, UNK),
        temperature=temperature,
        max_new_tokens=40,
        min_new_tokens=min_new_tokens,
    )
    assert len(text) == 40
    assert {token for [token] in text} <= {3, 4, 5, 6, 7}


def test_end_of_text_ends_it_and_is_not_written():
    assert write(scripted([4, 5, EOS, 6])) == [[4], [5]]


@pytest.mark.parametrize("least", [0, 1, 5])
def test_end_of_text_is_held_back_until_enough_is_written(least):
    text = write(eager(EOS), min_new_tokens=least)
    assert len(text) == least
    assert [EOS] not in text


def test_texts_that_have_ended_repeat_their_end_until_the_last_one():
    texts = write(scripted([4, EOS, 5, 6], [7, 7, 7, EOS]), B=2)
    assert texts == [[4, 7], [EOS, 7], [EOS, 7]]


def test_another_vocabulary_may_have_another_end_and_other_taboos():
    ids, config = torch.tensor([[3]]), GenerateConfig(max_new_tokens=3, temperature=0)
    ended = generate(scripted([4, 6, 5]), ids, config, eos=6, never=())
    assert [step.tolist() for step in ended] == [[4]]
    eager_for_5 = generate(eager(5), ids, config, eos=6, never=(5,))
    assert 5 not in torch.cat([*eager_for_5]).tolist()


def test_model_is_shown_the_prompt_and_all_that_was_chosen():
    script, shown = scripted([4, EOS, 5, 6], [7, 6, 5, EOS]), []

    def next_logits(text):
        shown.append(text.tolist())
        return script(text)

    write(next_logits, B=2)
    whole = [[3, 4, EOS, EOS], [3, 7, 6, 5]]
    assert shown == [[row[:n] for row in whole] for n in range(1, 5)]


@pytest.mark.parametrize("most", [1, 7])
def test_no_more_is_written_than_was_asked_for(most):
    assert len(write(eager(5), max_new_tokens=most)) == most


def test_nothing_is_written_and_nothing_read_when_nothing_is_asked_for():
    assert write(None, max_new_tokens=0) == []


def test_each_token_is_handed_out_before_the_next_is_thought_about():
    lengths = []

    def next_logits(text):
        lengths.append(text.size(1))
        return undecided(text)

    ids = torch.full((1, 4), 3)
    steps = generate(next_logits, ids, GenerateConfig(min_new_tokens=9))
    for n in (4, 5, 6):
        assert next(steps).shape == (1,)
        assert lengths[-1] == n
    assert (ids == 3).all()


@pytest.mark.parametrize("length", [1, 6, 7, 20])
def test_text_and_prompt_may_outgrow_the_context(length):
    model, ids = small_model().eval(), torch.randint(3, 8, (2, length))
    config = GenerateConfig(max_new_tokens=20, min_new_tokens=20, temperature=0)
    steps = [*generate(uncached(model), ids, config)]
    text = torch.cat([ids, torch.stack(steps, 1)], 1)
    for n in range(length, length + 20):
        logits = model(text[:, window_start(n, 6) : n])[:, -1]
        assert torch.equal(logits[:, 3:].argmax(-1) + 3, text[:, n])


def test_empty_prompt_is_refused():
    ids = torch.empty(1, 0, dtype=torch.int64)
    with pytest.raises(AssertionError, match="begin with <eos>"):
        next(generate(undecided, ids, GenerateConfig()))


def test_where_no_id_ends_a_text_none_is_forbidden_at_its_beginning():
    """-1 is no id; counted from the end it would be the last one."""

    def favours_the_last(text):
        return torch.nn.functional.one_hot(torch.tensor([8]), 9).float()

    config = GenerateConfig(max_new_tokens=3, min_new_tokens=3, temperature=0.0)
    steps = generate(favours_the_last, torch.tensor([[1]]), config, -1, ())
    assert [step.item() for step in steps] == [8, 8, 8]
