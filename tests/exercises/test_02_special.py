"""Exercise "Show what has no character" of chapter 2: decode(special=True)."""

import pytest

from minigpt import EOS, PAD, UNK, MiniGPTError, Tokenizer

TOKENIZER = Tokenizer("ab<eos>")
IDS = [PAD, *TOKENIZER.encode("ab"), EOS, UNK, *TOKENIZER.encode("a")]


def test_special_tokens_are_shown_if_asked_for():
    assert TOKENIZER.decode(IDS, special=True) == "<pad>ab<eos><unk>a"
    assert TOKENIZER.decode([], special=True) == ""


def test_they_are_not_shown_unless_asked_for():
    assert TOKENIZER.decode(IDS) == "ab\N{REPLACEMENT CHARACTER}a"
    assert TOKENIZER.decode(IDS, special=False) == TOKENIZER.decode(IDS)


def test_what_is_shown_stays_text_when_it_is_encoded():
    shown = TOKENIZER.decode([EOS], special=True)
    ids = TOKENIZER.encode(shown)
    assert len(ids) == 5 and ids.min() > max(PAD, EOS, UNK)


@pytest.mark.parametrize("wrong", [-1, TOKENIZER.vocab_size])
def test_ids_that_do_not_exist_are_refused_as_before(wrong):
    with pytest.raises(MiniGPTError, match="not in the vocabulary"):
        TOKENIZER.decode([wrong], special=True)
