"""Settings and their ranges, the two configs, the presets."""

import re
from dataclasses import FrozenInstanceError, asdict, dataclass, fields, replace
from math import inf, nan

import pytest

import minigpt
from minigpt import (
    PRESETS,
    MiniGPTError,
    ModelConfig,
    Settings,
    TrainConfig,
    brief,
    make_configs,
    require,
    setting,
)


@dataclass(frozen=True)
class Oven(Settings):
    """A config with a setting of each type."""

    degrees: float = setting(180.0, "how hot it gets", 50, 250)
    salt: float = setting(2.5, "grams")
    minutes: int = setting(30, "how long it takes", 1)
    fan: bool = setting(False, "turn the fan on")
    dish: str = setting("bread", "what to bake")


# For each setting, in the design's order, a value next to the allowed ones.
SENSELESS = dict(
    vocab_size=3,
    context_length=1,
    d_model=0,
    n_layers=0,
    n_heads=0,
    d_ff=-1,
    dropout=1.0,
    batch_size=0,
    grad_accum=0,
    max_steps=0,
    learning_rate=-1e-9,
    min_learning_rate=-1e-9,
    warmup_steps=-1,
    weight_decay=-1e-9,
    beta1=1.0,
    beta2=1.0,
    grad_clip=0.0,
    eval_interval=0,
    eval_windows=0,
    sample_interval=0,
    sample_prompt=0,
    checkpoint_interval=0,
    seed=-1,
    device=0,
    dtype=None,
)


def test_requirement_that_does_not_hold_raises_its_message():
    require(True, "never seen")
    with pytest.raises(MiniGPTError, match="^what to do about it$"):
        require(False, "what to do about it")


def test_setting_keeps_its_default_meaning_and_range():
    degrees, salt, *_ = fields(Oven)
    assert degrees.default == Oven().degrees == 180.0
    assert degrees.metadata == {"about": "how hot it gets", "span": (50, 250)}
    assert salt.metadata["span"] == (-inf, inf)


@pytest.mark.parametrize(
    "name, value",
    [
        ("degrees", 50.0),
        ("degrees", 250.0),
        ("degrees", 100),
        ("salt", -1e300),
        ("minutes", 1),
        ("minutes", 10**12),
        ("fan", True),
        ("dish", ""),
    ],
)
def test_value_of_the_right_type_and_in_range_is_taken(name, value):
    assert getattr(Oven(**{name: value}), name) == value


@pytest.mark.parametrize(
    "name, value",
    [
        ("degrees", 49.9),
        ("degrees", 250.1),
        ("degrees", inf),
        ("degrees", nan),
        ("degrees", "180"),
        ("degrees", True),
        ("salt", nan),
        ("salt", None),
        ("minutes", 0),
        ("minutes", 1.0),
        ("minutes", True),
        ("minutes", "1"),
        ("fan", 1),
        ("fan", "yes"),
        ("dish", 7),
        ("dish", None),
    ],
)
def test_value_of_a_wrong_type_or_out_of_range_is_refused(name, value):
    with pytest.raises(MiniGPTError, match=f"^{name} is {value!r}: "):
        Oven(**{name: value})


def test_refusal_tells_the_type_and_the_range():
    with pytest.raises(MiniGPTError, match="of type float from 50 to 250$"):
        Oven(degrees=300)
    with pytest.raises(MiniGPTError, match="of type bool$"):
        Oven(fan=1)


def test_an_error_of_others_becomes_one_short_line():
    assert brief(ValueError("not\n  a\tnumber")) == "not a number"
    assert brief(RuntimeError("word " * 9999)) == ("word " * 40)[:200]
    assert brief(EOFError()) == "EOFError"


def test_settings_are_those_of_the_design_and_each_says_what_it_means():
    settings = [f for kind in (ModelConfig, TrainConfig) for f in fields(kind)]
    assert [f.name for f in settings] == [*SENSELESS]
    assert all(f.metadata["about"] for f in settings)


@pytest.mark.parametrize("name, value", SENSELESS.items())
def test_senseless_value_is_refused_by_name(name, value):
    with pytest.raises(MiniGPTError, match=f"^{name} is {value!r}: "):
        make_configs("full", **{name: value})


@pytest.mark.parametrize("kind", [ModelConfig, TrainConfig])
def test_config_cannot_change_once_it_is_made(kind):
    config = kind()
    for f in fields(kind):
        with pytest.raises(FrozenInstanceError):
            setattr(config, f.name, f.default)


def test_number_of_heads_must_divide_the_width():
    with pytest.raises(MiniGPTError, match="n_heads 7 .* d_model 512"):
        ModelConfig(d_model=512, n_heads=7)


def test_mlp_is_four_times_as_wide_as_the_model_unless_given():
    assert ModelConfig(d_model=96).d_ff == 384
    assert ModelConfig(d_model=96, d_ff=100).d_ff == 100


def test_full_preset_is_the_model_of_the_design():
    model, train = make_configs("full")
    shape = dict(context_length=512, d_model=512, n_layers=8, n_heads=8)
    assert asdict(model).items() >= {**shape, "d_ff": 2048}.items()
    assert (model, train) == (ModelConfig(), TrainConfig())


def test_tiny_preset_sees_64_characters():
    assert make_configs("tiny")[0].context_length == 64


def test_there_are_presets_for_a_gpu_for_a_laptop_and_for_tests():
    assert {*PRESETS} >= {"full", "laptop", "tiny"}


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_is_a_set_of_changes_to_the_defaults(preset):
    model, train = make_configs(preset)
    defaults = asdict(ModelConfig(d_ff=model.d_ff)) | asdict(TrainConfig())
    assert asdict(model) | asdict(train) == defaults | PRESETS[preset]


def test_single_settings_are_changed_by_name_and_for_one_call_alone():
    model, train = make_configs("tiny")
    changed = make_configs("tiny", n_layers=5, max_steps=7)
    assert changed == (replace(model, n_layers=5), replace(train, max_steps=7))
    assert make_configs("tiny") == (model, train)


def test_unknown_preset_is_refused_with_those_that_exist():
    with pytest.raises(MiniGPTError, match=f"'huge'.* {', '.join(PRESETS)}$"):
        make_configs("huge")


def test_unknown_setting_is_refused_by_name():
    with pytest.raises(MiniGPTError, match="no setting droput, headz"):
        make_configs("tiny", droput=0.1, max_steps=7, headz=2)


def test_the_program_has_a_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", minigpt.__version__)
