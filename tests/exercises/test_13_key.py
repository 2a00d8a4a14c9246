"""Exercise 13.2, a digest with a key: checkpoints written with MINIGPT_KEY."""

import pytest

import minigpt
from minigpt import (
    SHIPPED,
    Checkpoint,
    MiniGPT,
    MiniGPTError,
    Tokenizer,
    load_checkpoint,
    make_configs,
    make_optimizer,
)


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
        Checkpoint(
            model, make_optimizer(model, train), train, tokenizer, "f" * 64, step=7
        ).save(path, moments=False)
        return path

    return save


def test_a_checkpoint_is_read_with_the_key_it_was_written_with(save):
    assert load_checkpoint(save("one")).step == 7
    assert load_checkpoint(save("k" * 1000)).step == 7
    assert load_checkpoint(save("")).step == 7


def test_a_checkpoint_with_another_key_or_none_is_refused(save, monkeypatch):
    for written, read in (("one", "two"), ("", "two"), ("one", "")):
        path = save(written)
        monkeypatch.setenv("MINIGPT_KEY", read)
        with pytest.raises(MiniGPTError, match="is not a whole MiniGPT check"):
            load_checkpoint(path)


def test_without_a_key_all_is_as_it_was(monkeypatch):
    monkeypatch.delenv("MINIGPT_KEY", raising=False)
    assert load_checkpoint(SHIPPED).step > 0


def test_the_key_is_not_in_the_file(save):
    assert b"between us" not in save("between us").read_bytes()
