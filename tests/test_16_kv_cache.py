"""Chapter 16: with the cache or without, the same numbers, and less to read."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt import (
    GenerateConfig,
    KVCache,
    Machine,
    MiniGPT,
    ModelConfig,
    cached,
    for_writing,
    generate,
    uncached,
)

SHAPE = ModelConfig(
    vocab_size=20, context_length=8, d_model=24, n_layers=2, n_heads=3, dropout=0.5
)  # and nothing may be dropped


def make_model(shape: ModelConfig = SHAPE) -> MiniGPT:
    torch.manual_seed(0)
    return MiniGPT(shape)


def random_ids(B: int, n: int) -> torch.Tensor:
    return torch.randint(3, 20, (B, n), generator=torch.manual_seed(1))


def assert_parity(model: MiniGPT, text: torch.Tensor, lengths) -> None:
    """Logits with and without a cache, after each of these lengths."""
    plain, quick = uncached(model), cached(model)
    for n in lengths:
        torch.testing.assert_close(
            quick(text[:, :n]),
            plain(text[:, :n]),
            atol=1e-4,
            rtol=0,
            msg=f"{n} characters",
        )


# --- parity ----------------------------------------------------------------


shapes = st.builds(
    lambda n_heads, D, **rest: ModelConfig(
        vocab_size=20, d_model=n_heads * D, n_heads=n_heads, **rest
    ),
    n_heads=st.integers(1, 3),
    D=st.integers(1, 8),
    n_layers=st.integers(1, 3),
    context_length=st.integers(2, 9),
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(shape=shapes, B=st.integers(1, 3), first=st.integers(1, 9))
def test_logits_agree_at_every_position_past_several_jumps_of_the_window(
    shape, B, first
):
    lengths = range(first, 4 * shape.context_length)
    assert_parity(make_model(shape), random_ids(B, lengths.stop), lengths)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(grown=st.lists(st.integers(1, 7), min_size=1, max_size=12))
def test_logits_agree_when_several_characters_come_at_once(grown):
    lengths = torch.tensor(grown).cumsum(0).tolist()
    assert_parity(make_model(), random_ids(2, lengths[-1]), lengths)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(cuts=st.sets(st.integers(1, 7)))
def test_logits_agree_at_every_position_read_in_chunks(cuts):
    model, ids = make_model().eval(), random_ids(3, 8)
    cache = KVCache(SHAPE, batch_size=3)
    chunks = ids.tensor_split(sorted(cuts), dim=1)
    with torch.inference_mode():
        pieces = [model(chunk, cache) for chunk in chunks]
        torch.testing.assert_close(
            torch.cat(pieces, dim=1), model(ids), atol=1e-4, rtol=0
        )
    assert cache.length == 8


@pytest.mark.parametrize("B", [1, 3])
def test_the_texts_are_the_same(B):
    model, prompt = make_model(), random_ids(B, 5)
    config = GenerateConfig(max_new_tokens=40, min_new_tokens=9, seed=4)
    with_cache, without = (
        [step.tolist() for step in generate(reader(model), prompt, config)]
        for reader in (cached, uncached)
    )
    assert with_cache == without and len(without) > 9


def test_logits_in_bfloat16_stay_close():
    model = make_model().bfloat16()
    plain, quick, text = uncached(model), cached(model), random_ids(2, 20)
    for n in range(1, 20):
        logits = quick(text[:, :n])
        assert logits.dtype == torch.bfloat16
        assert (logits - plain(text[:, :n])).abs().max() < 0.1


# --- what it costs, and what it saves --------------------------------------


@pytest.mark.parametrize("dtype, size", [("float32", 4), ("bfloat16", 2)])
def test_a_cache_takes_the_bytes_of_the_formula(dtype, size):
    shape = ModelConfig(context_length=32, d_model=64, n_layers=3, n_heads=4)
    L, B, T, C = 3, 5, 32, 64
    cache = KVCache(shape, B, torch.empty(0, dtype=getattr(torch, dtype)))
    assert cache.keys.nbytes + cache.values.nbytes == 2 * L * B * T * C * size


def test_a_cache_is_for_one_text_in_float32_unless_told():
    cache = KVCache(SHAPE)
    assert cache.keys.shape == cache.values.shape == (2, 1, 3, 8, 8)
    assert cache.keys.dtype == cache.values.dtype == torch.float32
    assert cache.length == 0


def test_only_what_is_new_is_read():
    model, read = make_model(), []
    model.register_forward_pre_hook(lambda m, args: read.append(args[0]))
    text = random_ids(2, 14)
    next_logits = cached(model)
    for n in (5, 6, 8, 9, 10, 11, 12, 13, 14):
        next_logits(text[:, :n])
    spans = [
        (0, 5),
        (5, 6),
        (6, 8),  # T = 8 is full: the window jumps
        (4, 9),
        (9, 10),
        (10, 11),
        (11, 12),  # and again
        (8, 13),
        (13, 14),
    ]
    assert [r.tolist() for r in read] == [text[:, a:b].tolist() for a, b in spans]


def test_each_layer_remembers_its_own_keys_and_values():
    cache, new = KVCache(SHAPE), torch.randn(4, 1, 3, 2, 8)
    for layer in (0, 1):
        k, v = cache.append(layer, new[layer], new[layer + 2])
        assert torch.equal(k, new[layer]) and torch.equal(v, new[layer + 2])
    cache.length = 2
    k, v = cache.append(0, new[2], new[3])
    assert torch.equal(k, torch.cat([new[0], new[2]], dim=2))
    assert torch.equal(v, torch.cat([new[2], new[3]], dim=2))


def test_nothing_is_kept_for_learning():
    assert not cached(make_model())(random_ids(1, 3)).requires_grad


# --- misuse ----------------------------------------------------------------


@pytest.mark.parametrize("later", [5, 4, 1])
def test_a_text_that_has_not_grown_is_a_mistake(later):
    next_logits, text = cached(make_model()), random_ids(1, 5)
    next_logits(text)
    with pytest.raises(AssertionError, match="not grown"):
        next_logits(text[:, :later])


def test_each_reader_has_a_cache_of_its_own():
    model, text = make_model(), random_ids(1, 6)
    first, second = cached(model), cached(model)
    first(text[:, :5])
    assert torch.equal(second(text[:, :5]), cached(model)(text[:, :5]))


def test_a_model_to_write_with_is_the_same_model_stored_turned():
    model, writer = (
        make_model(),
        for_writing(make_model(), Machine(torch.device("cpu"), torch.float32)),
    )
    names = [name for name, p in model.named_parameters() if p.dim() == 2]
    linear = [name for name in names if "embedding" not in name]
    for name, parameter in writer.named_parameters():
        torch.testing.assert_close(parameter, model.get_parameter(name), atol=0, rtol=0)
        assert (parameter.stride()[0] == 1) == (name in linear or parameter.dim() == 1)
    assert_parity(writer, random_ids(2, 20), range(1, 21))
    for n in (1, 9, 20):
        text = random_ids(2, n)
        torch.testing.assert_close(
            cached(writer)(text), cached(model)(text), atol=1e-5, rtol=0
        )


def test_a_model_to_write_with_in_half_precision_is_stored_as_it_was():
    writer = for_writing(make_model(), Machine(torch.device("cpu"), torch.bfloat16))
    assert writer.head.weight.dtype == torch.bfloat16
    assert writer.head.weight.is_contiguous()
