"""Text to ids and back, for any text whatever."""

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import minigpt
from minigpt import EOS, PAD, SPECIAL_TOKENS, UNK, MiniGPTError, Tokenizer
from tangle import oracle

encode_slowly = oracle("tokenizer", "encode_slowly", vars(minigpt))
any_text = st.text(st.characters(exclude_categories=()))  # surrogates, too
AWKWARD = "<pad><eos><unk>\0\r\n\ud83d\ude42\ufffd\U0001f642\U0010ffff"
quickly = settings(deadline=None)


def test_special_tokens_have_the_first_ids():
    assert SPECIAL_TOKENS == ("<pad>", "<eos>", "<unk>")
    assert (PAD, EOS, UNK) == (0, 1, 2)


def test_vocabulary_is_each_character_once_in_order_and_the_special_tokens():
    tokenizer = Tokenizer("b🙂ab\n")
    assert tokenizer.characters == "\nab🙂"
    assert tokenizer.vocab_size == 7


@quickly
@given(any_text)
@example(AWKWARD)
def test_decoding_undoes_encoding_and_text_never_is_a_special_token(text):
    tokenizer = Tokenizer(text)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert (ids >= len(SPECIAL_TOKENS)).all()


@quickly
@given(any_text, any_text)
@example(AWKWARD, "")
def test_ids_are_those_of_the_loop_over_characters(text, more):
    tokenizer = Tokenizer(text + more)
    ids = tokenizer.encode(text)
    assert ids.tolist() == encode_slowly(text + more, text)
    assert ids.dtype.kind == "u"


@quickly
@given(any_text, any_text)
@example("ab", "b<eos>")
@example("", "\0")
@example("ab", "aβ")
@example("🙂", "🙂\U0010ffff\ud800")
def test_first_unknown_character_is_named_with_its_position(known, text):
    at = next((i for i, c in enumerate(text) if c not in known), None)
    assume(at is not None)
    with pytest.raises(MiniGPTError) as error:
        Tokenizer(known).encode(text)
    assert f"{text[at]!r} at position {at}:" in str(error.value)


@quickly
@given(any_text, any_text)
@example("ab", "aβ\0\U0010ffffb")
def test_unknown_characters_are_replaced_on_request_alone(known, text):
    tokenizer = Tokenizer(known)
    ids = tokenizer.encode(text, errors="replace")
    assert (ids == UNK).tolist() == [c not in known for c in text]
    shown = "".join(c if c in known else "\ufffd" for c in text)
    assert tokenizer.decode(ids) == shown


def test_other_ways_to_treat_errors_are_strict():
    with pytest.raises(MiniGPTError, match="position 1"):
        Tokenizer("a").encode("ab", errors="ignore")


@pytest.mark.parametrize(
    "size, dtype",
    [
        (0, np.uint8),
        (253, np.uint8),
        (254, np.uint16),
        (65_533, np.uint16),
        (65_534, np.uint32),
    ],
)
def test_ids_are_as_small_as_the_vocabulary_allows(size, dtype):
    characters = "".join(map(chr, range(size)))
    ids = Tokenizer(characters).encode(characters)
    assert ids.dtype == dtype
    assert (ids == np.arange(3, size + 3)).all()


@pytest.mark.parametrize("kind", [list, torch.tensor, np.uint8])
def test_padding_and_ends_vanish_and_unknown_characters_are_marked(kind):
    ids = kind([PAD, 3, EOS, UNK, 4, PAD])
    assert Tokenizer("\0a").decode(ids) == "\0\ufffda"


@pytest.mark.parametrize("wrong", [-1, 5, 256, 2**40])
def test_id_outside_the_vocabulary_is_refused_by_value(wrong):
    with pytest.raises(MiniGPTError, match=rf"\[{wrong}\].* from 0 to 4$"):
        Tokenizer("ab").decode([3, 4, wrong])


@pytest.mark.parametrize("characters", ["", "ab"])
def test_empty_text_is_no_ids_and_no_ids_are_an_empty_text(characters):
    tokenizer = Tokenizer(characters)
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.decode([]) == ""
