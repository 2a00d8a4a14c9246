"""Exercise 12.2, a seal with a key: checkpoints sealed by MINIGPT_KEY."""

import pytest

import minigpt
from minigpt import (SHIPPED, Checkpoint, MiniGPT, MiniGPTError, Tokenizer,
                     load_checkpoint, make_configs)


@pytest.fixture
def save(tmp_path, monkeypatch):
    """Writes one and the same checkpoint with a key, and returns its path."""
    tokenizer = Tokenizer("ab\n")
    shape, train = make_configs("tiny", vocab_size=tokenizer.vocab_size)
    minigpt.torch.manual_seed(0)
    model = MiniGPT(shape)

    def save(key: str):
        monkeypatch.setenv("MINIGPT_KEY", key)
        path = tmp_path / "sealed.safetensors"
        Checkpoint(shape, train, tokenizer, "f" * 64, step=7).save(path, model)
        return path

    return save


def test_a_checkpoint_is_read_with_the_key_it_was_sealed_with(save):
    assert load_checkpoint(save("one")).step == 7
    assert load_checkpoint(save("k" * 1000)).step == 7
    assert load_checkpoint(save("")).step == 7


def test_a_checkpoint_with_another_key_or_none_is_refused(save, monkeypatch):
    for sealed, read in (("one", "two"), ("", "two"), ("one", "")):
        path = save(sealed)
        monkeypatch.setenv("MINIGPT_KEY", read)
        with pytest.raises(MiniGPTError, match="is not a whole MiniGPT check"):
            load_checkpoint(path)


def test_without_a_key_all_is_as_it_was(monkeypatch):
    monkeypatch.delenv("MINIGPT_KEY", raising=False)
    assert load_checkpoint(SHIPPED).step > 0


def test_the_key_is_not_in_the_file(save):
    assert b"between us" not in save("between us").read_bytes()
