"""Exercise "Did you mean" of chapter 1: messages that name what was meant."""

import re

import pytest

from minigpt import MiniGPTError, ModelConfig, TrainConfig, make_configs


@pytest.mark.parametrize(
    "wrong, meant",
    [
        ("droput", "dropout"),
        ("learnin_rate", "learning_rate"),
        ("n_layer", "n_layers"),
        ("contextlength", "context_length"),
    ],
)
def test_a_misspelt_setting_is_answered_with_the_right_one(wrong, meant):
    with pytest.raises(MiniGPTError) as raised:
        make_configs("tiny", **{wrong: 1})
    assert {wrong, meant} <= {*re.findall(r"\w+", str(raised.value))}


def test_a_misspelt_preset_is_answered_with_the_right_one():
    with pytest.raises(MiniGPTError, match="labtop.*you mean.*laptop.*choose"):
        make_configs("labtop")


def test_nothing_is_suggested_where_nothing_is_close():
    for attempt in (
        lambda: make_configs("xyzzy"),
        lambda: make_configs("tiny", xyzzy=1),
    ):
        with pytest.raises(MiniGPTError) as raised:
            attempt()
        assert "xyzzy" in str(raised.value)
        assert "mean" not in str(raised.value)


def test_what_is_right_is_made_as_before():
    assert make_configs("full") == (ModelConfig(), TrainConfig())
    assert make_configs("tiny", max_steps=7)[1].max_steps == 7
