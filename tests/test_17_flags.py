"""Chapter 17: the command line: its flags, which are fields, and their help."""

import sys
from dataclasses import fields

import pytest

import minigpt
from minigpt import (
    COMMANDS,
    PRESETS,
    ModelConfig,
    RunOptions,
    TrainConfig,
    WriteOptions,
    main,
    parse,
)

pytestmark = pytest.mark.usefixtures("cwd")


def typed(*words: str) -> dict:
    """The settings that a command line holds."""
    return parse([*words])[1]


def flag(f) -> str:
    return "--" + f.name.replace("_", "-")


FLAGS = [
    (command, f)
    for command, configs in {
        "train": (RunOptions, ModelConfig, TrainConfig),
        "generate": (WriteOptions,),
    }.items()
    for config in configs
    for f in fields(config)
    if f.name != "vocab_size"
]


@pytest.mark.parametrize(
    "command, f", FLAGS, ids=lambda value: getattr(value, "name", value)
)
def test_each_setting_is_a_flag_of_its_type(command, f):
    if f.type is bool:
        assert typed(command, flag(f)) == {f.name: True}
        no = flag(f).replace("--", "--no-")
        assert typed(command, no) == {f.name: False}
    else:
        value = f.type("7")
        assert typed(command, flag(f), "7") == {f.name: value}
        assert type(typed(command, flag(f), "7")[f.name]) is f.type


def test_flags_that_were_not_typed_leave_no_trace():
    assert typed("train") == typed("generate") == {}
    assert typed("train", "--seed", "3") == {"seed": 3}


def show(capsys, *words: str) -> str:
    """What a command line shows that ends the program by itself."""
    with pytest.raises(SystemExit) as end:
        main([*words])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_each_flag_its_meaning_and_its_default(command, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/minigpt.py"])
    text = " ".join(show(capsys, command, "--help").split())
    assert text.startswith(f"usage: minigpt.py {command} ")
    found = [f for name, f in FLAGS if name == command]
    assert len(found) >= 10
    for f in found:
        assert f"{flag(f)} " in text or f"{flag(f)}, " in text
        about = f.metadata["about"] + f" ({f.default}" * (f.default != "")
        assert " ".join(about.split()) in text, f.name


def test_help_names_the_defaults_of_all_presets(capsys):
    text = " ".join(show(capsys, "train", "--help").split())
    for preset, values in PRESETS.items():
        for value in values.values():
            assert f"{preset} {value}" in text
    assert "steps of the whole run (5000, " in text


def test_help_names_the_commands(capsys):
    text = show(capsys, "--help")
    assert all(f" {command} " in text for command in COMMANDS)


def test_the_program_knows_its_version(capsys):
    assert show(capsys, "--version") == f"{minigpt.__version__}\n"
