"""Chapter 16: the command line, from flags to the one line of an error."""

import io
import math
import os
import re
import shlex
import signal
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

import minigpt
from minigpt import (CORPUS, EOS, PRESETS, SHIPPED, Dataset, GenerateConfig,
                     Machine, ModelConfig, TrainConfig, build_parser, cached,
                     evaluate, find_checkpoint, find_data, generate,
                     load_checkpoint, main, make_configs, pick_machine,
                     prepare, uncached, until)

SMALL = shlex.split(
    "--preset tiny --context-length 16 --d-model 24 --n-layers 1 --n-heads 2 "
    "--batch-size 4 --max-steps 20 --warmup-steps 4 --eval-interval 10 "
    "--eval-windows 8 --sample-interval 20 --device cpu")


@pytest.fixture(scope="module")
def home(data, tmp_path_factory) -> Path:
    """A folder with a trained run, and with things that are wrong."""
    home = tmp_path_factory.mktemp("home")
    assert main(["train", "--data", str(data), "--run", str(home / "run"),
                 *SMALL]) == 0
    (home / "empty").mkdir()
    (home / "empty.py").touch()
    (home / "tiny.py").write_text("x = 1\n")
    prepare([home / "tiny.py"], home / "tiny")
    (home / "greek.txt").write_text("πάντα ῥεῖ\n" * 99, "utf-8")
    prepare([home / "greek.txt"], home / "greek", (".txt",), unicode=True)
    (home / "latin1.txt").write_bytes("déjà vu".encode("latin-1"))
    (home / "false.zip").write_bytes(b"no archive")
    foreign = home / "foreign" / "last.safetensors"
    foreign.parent.mkdir()
    foreign.write_bytes(b"no checkpoint")
    return home


@pytest.fixture
def best(home) -> Path:
    return home / "run" / "best.safetensors"


@pytest.fixture(autouse=True)
def cwd(tmp_path_factory, monkeypatch) -> Path:
    """An empty folder to work in, for each test."""
    folder = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def line(capsys):
    """Run a command line: its status, and what it wrote to both streams."""

    def run(*words) -> tuple[int, str, str]:
        capsys.readouterr()
        return main([*map(str, words)]), *capsys.readouterr()

    return run


def contents(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders
            for path in folder.rglob("*") if path.is_file()}


# --- wrong command lines ---------------------------------------------------


TRAIN = "train --preset tiny --data {data} --run new"
AGAIN = "train --data {data} --run {home}/run"
WRITE = "generate --checkpoint {home}/run/best.safetensors"
WRONG = [
    # flags and values
    ("", "COMMAND"),
    ("fly", "'fly'"),
    ("train --droput 0.1", "--droput"),
    ("train --max-step 3", "--max-step"),  # no abbreviations
    ("train --vocab-size 99", "--vocab-size"),  # comes from the data
    ("train --preset huge", "'huge'"),
    ("train --d-model many", "--d-model.*'many'"),
    ("train --seed", "--seed"),
    (f"{TRAIN} --n-heads 5", "n_heads 5 .*d_model 48"),
    (f"{TRAIN} --dropout 1.5", "dropout is 1.5"),
    (f"{TRAIN} --batch-size 0", "batch_size is 0"),
    (f"{TRAIN} --learning-rate nan", "learning_rate is nan"),
    (f"{TRAIN} --seed -1", "seed is -1"),
    (f"{TRAIN} --max-minutes -1", "--max-minutes is -1"),
    (f"{TRAIN} --max-minutes nan", "--max-minutes is nan"),
    (f"{TRAIN} --device tpu", "'tpu'"),
    (f"{TRAIN} --dtype float8", "'float8'"),
    # data
    ("train --preset tiny", "corpus.xz"),  # the default, which is missing
    ("train --preset tiny --data {home}/empty", "empty .*prepare"),
    ("train --preset tiny --data {home}/tiny", "split has .*prepare more"),
    (f"{TRAIN} --context-length 30000", "30001.*--context-length"),
    ("prepare {home}/nowhere", "there is no .*nowhere: check the path"),
    ("prepare {home}/empty", "empty: no text"),
    ("prepare {home}/empty.py", "empty.py: no text"),
    ("prepare {home}/false.zip", "no text .*false.zip, which is damaged"),
    ("prepare {home}/greek.txt", "--suffix"),
    ("prepare {home}/tiny.py --suffix ,", "--suffix is ','"),
    ("prepare {home}/tiny.py --out {home}/empty.py", "empty.py"),
    # runs
    (f"{AGAIN} --preset tiny", "holds a run.*--resume.*--overwrite"),
    (f"{AGAIN} --resume --seed 7", "--seed 7 .*which has 0"),
    (f"{AGAIN} --resume --d-model 12", "--d-model 12 .*which has 24"),
    (f"{AGAIN} --resume --preset full", "--context-length 512 .*which has 16"),
    (f"{AGAIN} --resume --overwrite", "--resume and --overwrite"),
    (f"{TRAIN} --run {{home}}/empty.py", "empty.py"),
    ("train --data {data} --run {home}/foreign --resume", "foreign"),
    ("train --data {home}/greek --run {home}/run --resume", "--data"),
    # writing
    ("generate", "pretrained.safetensors is not a file"),
    ("generate --checkpoint nowhere", "nowhere is not a file"),
    ("generate --checkpoint 'no\nwhere'", "no where is not a file"),
    ("generate --checkpoint {home}/run", "run is not a file"),
    ("generate --checkpoint {home}/foreign/last.safetensors", "foreign"),
    (f"{WRITE} --temperature -1", "temperature is -1"),
    (f"{WRITE} --temperature nan", "temperature is nan"),
    (f"{WRITE} --top-p 0", "top_p is 0"),
    (f"{WRITE} --top-p 1.5", "top_p is 1.5"),
    (f"{WRITE} --top-k -1", "top_k is -1"),
    (f"{WRITE} --max-new-tokens -1", "max_new_tokens is -1"),
    (f"{WRITE} --num-samples 0", "--num-samples is 0"),
    (f"{WRITE} --prompt 'def γ'", "'γ' at position 4"),
    (f"{WRITE} --prompt {14 * 'x'}", "14 characters.* 13"),
    (f"{WRITE} --prompt x --prompt-file {{home}}/tiny.py", "only one"),
    (f"{WRITE} --prompt-file {{home}}/nowhere", "nowhere"),
    (f"{WRITE} --prompt-file {{home}}/latin1.txt", "decode"),
    (f"{WRITE} --device tpu", "'tpu'"),
    (f"{WRITE} --dtype float8", "'float8'"),
    (f"{WRITE} --min-new-tokens -5", "min_new_tokens is -5"),
    (f"{WRITE} --temperature hot", "--temperature.*'hot'"),
    (f"{WRITE} --seed 1e3", "--seed.*'1e3'"),
    (f"{WRITE} --stop", "--stop.*one argument"),
    # measuring
    ("evaluate --checkpoint nowhere", "nowhere is not a file"),
    ("evaluate --checkpoint {home}/foreign/last.safetensors", "foreign"),
    ("evaluate --dropout 0", "--dropout"),
    ("evaluate --checkpoint {home}/run/last.safetensors --data {home}/tiny",
     "other characters|split has"),
    ("evaluate --checkpoint {home}/run/last.safetensors --data {home}/empty",
     "empty .*prepare"),
    ("evaluate --checkpoint {home}/run/last.safetensors --data {home}/greek",
     "other characters.*--data"),
]


@pytest.mark.parametrize("words, reason", WRONG, ids=[w for w, _ in WRONG])
def test_a_wrong_command_line_is_one_line_and_changes_nothing(
        words, reason, line, home, data, cwd, monkeypatch):
    monkeypatch.setattr(minigpt, "CORPUS", cwd / "corpus.xz")
    monkeypatch.setattr(minigpt, "SHIPPED", cwd / "pretrained.safetensors")
    before = contents(home, data, cwd)
    status, out, err = line(*shlex.split(words.format(home=home, data=data)))
    assert status == 2
    assert re.fullmatch(r"minigpt: error: [^\n]+\n", err), err
    assert re.search(reason, err), err
    assert contents(home, data, cwd) == before
    SEEN[words] = re.sub(r"[\w./-]*[\d/][\w./-]*|'[^']*'", "*", err)


SEEN: dict[str, str] = {}  # what each line of WRONG was answered, in outline


def test_wrong_command_lines_are_many_and_answered_in_many_ways():
    assert len(WRONG) >= 60
    for command in COMMANDS:
        assert sum(words.startswith(command) for words, _ in WRONG) >= 5
    if len(SEEN) == len(WRONG):  # not when some of them were left out
        assert len({*SEEN.values()}) >= 30


# --- flags from fields -----------------------------------------------------


def typed(*words: str) -> dict:
    """The settings that a command line holds."""
    names = {f.name for config in (ModelConfig, TrainConfig, GenerateConfig)
             for f in fields(config)} - {"device", "dtype"} | (
        {"device", "dtype"} if words[0] == "train" else set())
    args = vars(build_parser().parse_args([*words]))
    return {name: value for name, value in args.items() if name in names}


def flag(f) -> str:
    return "--" + f.name.replace("_", "-")


@pytest.mark.parametrize("command, f", [
    (command, f) for command, *configs in [
        ("train", ModelConfig, TrainConfig), ("generate", GenerateConfig)]
    for config in configs for f in fields(config) if f.name != "vocab_size"
], ids=lambda value: getattr(value, "name", value))
def test_each_setting_is_a_flag_of_its_type(command, f):
    if f.type is bool:
        assert typed(command, flag(f)) == {f.name: True}
        no = flag(f).replace("--", "--no-")
        assert typed(command, no) == {f.name: False}
    else:
        value = f.type("7")
        assert typed(command, flag(f), "7")[f.name] == value
        assert type(typed(command, flag(f), "7")[f.name]) is f.type


def test_flags_that_were_not_typed_leave_no_trace():
    assert typed("train") == {}
    assert typed("train", "--seed", "3") == {"seed": 3}


def show_help(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    return " ".join(capsys.readouterr().out.split())


COMMANDS = ["prepare", "train", "generate", "evaluate"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_each_flag_and_the_default_of_each_that_has_a_value(
        command, capsys):
    text = show_help(capsys, command)
    commands, = build_parser()._subparsers._group_actions
    actions = commands.choices[command]._actions[1:]  # without --help
    assert len(actions) >= 2
    for action in actions:
        name = (action.option_strings or [action.metavar])[0]
        assert f"{name} " in text and action.help in text
        assert action.nargs == 0 or "default" in action.help, name


def test_help_names_the_defaults_of_all_presets(capsys):
    text = show_help(capsys, "train")
    for preset, values in PRESETS.items():
        for name, value in values.items():
            assert f"{preset} {value}" in text
    assert "steps of the whole run (default 5000" in text


def test_help_names_the_commands(capsys):
    text = show_help(capsys)
    assert all(f" {command} " in text for command in COMMANDS)


# --- prepare ---------------------------------------------------------------


def test_prepare_counts_what_it_took_and_what_it_skipped(line):
    texts = {"a.py": "x = 1\n", "b.py": "x = 2\n", "c.py": "x = 1\n",
             "d.md": "# no\n", "e.py": "# \u03b1\n"}
    Path("src").mkdir()
    for name, text in texts.items():
        Path("src", name).write_text(text, "utf-8")
    status, out, err = line("prepare", "src", "--out", "out")
    assert (status, err) == (0, "")
    assert "out: 2 documents, 6 different characters" in out
    for skipped in ("1: duplicate", "1: other suffix", "1: not ASCII"):
        assert f"skipped {skipped}" in out
    assert Path("out", "tokens.npy").is_file()


def test_prepare_takes_other_suffixes_and_alphabets_if_asked(line, cwd, home):
    words = home / "greek.txt", "--suffix", ".md, .txt", "--unicode"
    assert line("prepare", *words, "--out", "out")[0] == 0
    prepare([home / "greek.txt"], cwd / "same", (".txt",), unicode=True)
    assert (cwd / "out" / "tokens.npy").read_bytes() == (
        cwd / "same" / "tokens.npy").read_bytes()


def test_the_default_corpus_is_prepared_in_its_place(
        line, cwd, corpus, monkeypatch):
    assert CORPUS.is_file()
    monkeypatch.setattr(minigpt, "CORPUS", corpus)
    assert "data/prepared: 40 documents" in line("prepare")[1]
    assert (cwd / "data" / "prepared" / "meta.json").is_file()


def test_data_that_are_missing_are_prepared_once(
        cwd, corpus, monkeypatch, capsys):
    monkeypatch.setattr(minigpt, "CORPUS", corpus)
    assert find_data(Path("mine")) == Path("mine")
    assert contents(cwd) == {}
    folder = find_data(None)
    assert str(corpus) in capsys.readouterr().out
    Dataset(folder, "val", 16)
    assert find_data(None) == folder
    assert capsys.readouterr().out == ""


# --- train -----------------------------------------------------------------


@pytest.fixture
def training(monkeypatch):
    """What `train` was called with, in place of the training itself."""
    calls = []

    def note(shape, config, *rest, **named):
        calls.append(((shape, config), rest, named))
        state = SimpleNamespace(step=config.max_steps)
        return SimpleNamespace(state=state), 0

    monkeypatch.setattr(minigpt, "train", note)
    return calls


@pytest.mark.parametrize("device, preset", [
    ("cpu", "laptop"), ("mps", "laptop"), ("cuda", "full")])
def test_the_preset_fits_the_machine_and_says_why(
        line, data, training, monkeypatch, device, preset):
    machine = Machine(torch.device(device), torch.float32)
    monkeypatch.setattr(minigpt, "pick_machine", lambda *_: machine)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    assert line("train", "--data", data, "--preset", "auto")[0] == 0
    training.clear()
    status, out, _ = line("train", "--data", data)
    assert status == 0
    assert out == f"preset {preset}, because this is {machine}\n"
    [(configs, (folder, run, *_), named)] = training
    assert configs == make_configs(preset)
    assert (folder, run) == (data, Path("checkpoints", preset))
    assert named == {"reader": cached}


def test_what_is_typed_goes_on_top_of_the_preset(line, data, training):
    status, out, _ = line("train", "--data", data, *SMALL, "--overwrite",
                          "--max-minutes", "1.5", "--run", "here")
    assert (status, out) == (0, "")
    [(configs, rest, _)] = training
    assert configs == make_configs(
        "tiny", context_length=16, d_model=24, n_layers=1, n_heads=2,
        batch_size=4, max_steps=20, warmup_steps=4, eval_interval=10,
        eval_windows=8, sample_interval=20, device="cpu")
    assert rest == (data, Path("here"), False, True, 1.5)


@pytest.mark.parametrize("number, status", [
    (signal.SIGINT, 130), (signal.SIGTERM, 143), (None, 0)])
def test_the_command_that_a_stopped_run_prints_goes_on_with_it(
        line, data, home, monkeypatch, number, status):
    one_step = minigpt.one_step

    def stopping(run, *rest):
        loss = one_step(run, *rest)
        if number and run.state.step == 7:
            signal.raise_signal(number)
        return loss

    monkeypatch.setattr(minigpt, "one_step", stopping)
    words = ["train", "--data", data, *SMALL, "--run", "my run"]
    limit = [] if number else ["--max-minutes", 0]
    code, out, _ = line(*words, *limit)
    assert code == status
    assert f"stopped after step {7 if number else 1}; go on with:" in out
    python, program, *again = shlex.split(out.splitlines()[-1])
    assert (python, program) == ("python", "minigpt.py")
    code, out, _ = line(*again)
    assert code == 0 and "go on with" not in out
    assert Path("my run", "last.safetensors").read_bytes() == (
        home / "run" / "last.safetensors").read_bytes()


def test_the_same_command_line_starts_a_run_and_goes_on_with_it(
        line, data, training, home):
    words = ["train", "--data", data, *SMALL, "--d-ff", 0, "--resume", "--run"]
    for folder in ("fresh", home / "run"):
        assert line(*words, folder)[::2] == (0, "")
    for (shape, config), rest, _ in training:
        assert (shape.d_model, config.max_steps) == (24, 20)
        assert rest[2] is True


@pytest.mark.parametrize("words, changed", [
    ([], {}),
    (["--d-model", 24, "--max-steps", 20], {}),
    (["--device", "auto", "--compile"], dict(device="auto", compile=True)),
])
def test_only_where_a_run_computes_may_change(
        line, data, home, training, words, changed):
    known = load_checkpoint(home / "run" / "last.safetensors")
    words = ["train", "--data", data, "--run", home / "run", "--resume", *words]
    assert line(*words)[0] == 0
    [(configs, *_)] = training
    assert configs == (known.model.config, replace(known.config, **changed))


# --- until -----------------------------------------------------------------


pieces_of_text = st.lists(st.text("ab", max_size=3), max_size=12)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(pieces=pieces_of_text, stop=st.text("ab", max_size=4))
def test_the_text_ends_before_the_stop_however_it_is_cut(pieces, stop):
    text = "".join(pieces)
    before = text.partition(stop)[0] if stop else text
    assert "".join(until(pieces, stop)) == before


def test_no_more_is_held_back_than_the_stop_may_need():
    assert [*until("abcd", "")][:4] == [*"abcd"]
    read, given_out = [], ""
    for piece in until((read.append(c) or c for c in "abcdefgh"), "xyz"):
        given_out += piece
        assert len(given_out) >= len(read) - 2
    assert given_out == "abcdefgh"


def test_nothing_is_written_after_the_stop():
    rest = iter("abcdef")
    assert "".join(until(rest, "cd")) == "ab"
    assert "".join(rest) == "ef"


# --- generate --------------------------------------------------------------


def continuation(path: Path, prompt: str, count: int = 1, **config) -> list:
    """What chapter 9 writes: a text for each of `count` rows."""
    state = load_checkpoint(path)
    ids = state.before + state.tokenizer.encode(prompt).tolist()
    steps = [*generate(uncached(state.model),
                       torch.tensor(count * [ids]), GenerateConfig(**config))]
    return ["".join(state.tokenizer.decode(step[i:i + 1]) for step in steps)
            for i in range(count)]


def write(best, *words) -> list:
    return ["generate", "--checkpoint", best, "--device", "cpu", *words]


@pytest.mark.parametrize("prompt", ["def f", "", "x" * 13])
def test_stdout_is_the_prompt_and_its_continuation_alone(line, best, prompt):
    words = write(best, "--prompt", prompt, "--max-new-tokens", 60)
    status, out, err = line(*words)
    [text] = continuation(best, prompt, max_new_tokens=60)
    assert (status, out) == (0, prompt + text)
    assert len(text) > 20 and str(best) in err  # past the context, too
    assert line(*words, "--no-cache")[1] == out


def test_the_header_names_step_and_loss_of_what_writes(line, best):
    saved = load_checkpoint(best)
    _, _, err = line(*write(best, "--max-new-tokens", 1))
    assert err.startswith(f"{best}: step {saved.step}, validation loss "
                          f"{saved.best_loss:.3f} nats")


def test_a_run_stopped_before_its_first_evaluation_writes_with_its_last(
        line, data, cwd, after_step):
    after_step(3, lambda: signal.raise_signal(signal.SIGINT))
    assert line("train", "--data", data, *SMALL)[0] == 130
    _, _, err = line("generate", "--max-new-tokens", 1)
    last = Path("checkpoints", "tiny", "last.safetensors")
    assert err.startswith(f"{last}: step 3, not evaluated yet; ")


def test_no_prompt_of_the_readme_is_answered_with_blanks(line):
    """Half of a text of Python are not spaces; `class Shape:` once gave nothing."""
    for prompt in ("def ", "class Shape:", ""):
        _, out, _ = line("generate", "--checkpoint", SHIPPED, "--prompt", prompt,
                         "--num-samples", 20, "--max-new-tokens", 120,
                         "--min-new-tokens", 120, "--device", "cpu")
        assert len("".join(out.split())) > len(out) / 2


def test_a_prompt_may_come_from_a_file(line, best, cwd):
    (cwd / "prompt").write_text("def f\n", "utf-8")
    words = write(best, "--max-new-tokens", 20)
    assert line(*words, "--prompt-file", "prompt")[1] == line(
        *words, "--prompt", "def f\n")[1]


def test_each_way_to_choose_is_a_flag(line, best):
    chosen = dict(max_new_tokens=50, min_new_tokens=45, temperature=1.5,
                  top_k=9, top_p=0.9, seed=7)
    flags = [word for name, value in chosen.items()
             for word in (f"--{name.replace('_', '-')}", value)]
    [text] = continuation(best, "def ", **chosen)
    assert line(*write(best, "--prompt", "def ", *flags))[1] == "def " + text


def test_seeds_matter_unless_the_temperature_is_0(line, best):
    def texts(*words):
        return {line(*write(best, "--max-new-tokens", 40, "--min-new-tokens",
                            40, "--seed", seed, *words))[1]
                for seed in (1, 2, 3)}

    assert len(texts()) == 3
    assert len(texts("--temperature", 0)) == 1


@pytest.mark.parametrize("more", [[], ["--num-samples", 2]])
def test_the_text_ends_before_the_stop_text(line, best, more):
    [text, _] = continuation(best, "def ", count=2, max_new_tokens=40,
                             min_new_tokens=40)
    stop = text[20:22]
    words = write(best, "--prompt", "def ", "--max-new-tokens", 40,
                  "--min-new-tokens", 40, "--stop", stop)
    samples = continuation(best, "def ", count=len(more) or 1,
                           max_new_tokens=40, min_new_tokens=40)
    assert line(*words, *more)[1] == "".join(
        "def " + sample.partition(stop)[0] for sample in samples)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_text_and_what_was_written_stays(
        line, best, monkeypatch, count, number):
    def signalled(next_logits, ids, config):
        for i, step in enumerate(generate(next_logits, ids, config)):
            if i == 20:
                signal.raise_signal(number)
            yield step

    before = signal.getsignal(number)
    words = ["generate", "--checkpoint", best, "--prompt", "def ",
             "--num-samples", count, "--min-new-tokens", 500]
    _, whole, _ = line(*words, "--max-new-tokens", 20)
    monkeypatch.setattr(minigpt, "generate", signalled)
    status, out, err = line(*words)
    assert (status, out) == (128 + number, whole)
    assert "Traceback" not in err and signal.getsignal(number) is before


def test_several_samples_come_in_order_each_under_a_header(line, best):
    status, out, err = line(*write(best, "--prompt", "def ", "--num-samples",
                                   3, "--max-new-tokens", 30))
    samples = continuation(best, "def ", count=3, max_new_tokens=30)
    assert (status, out) == (0, "".join("def " + text for text in samples))
    assert len({*samples}) == 3
    assert re.findall("^--- sample (.*)$", err, re.M) == [
        "1 of 3", "2 of 3", "3 of 3"]


def test_one_sample_is_written_as_it_is_made(best, monkeypatch):
    stream, seen = io.TextIOWrapper(io.BytesIO(), "utf-8"), []

    def slowly(*args):
        for chosen in generate(*args):
            seen.append(stream.buffer.getvalue().decode())
            yield chosen

    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(minigpt, "generate", slowly)
    main([*map(str, write(best, "--prompt", "def ", "--max-new-tokens", 9))])
    assert seen[0] == "def " and [*map(len, seen)] == [*range(4, 13)]


@pytest.mark.parametrize("words, reader", [
    ([], "cached"), (["--no-cache"], "uncached")])
def test_the_cache_is_used_unless_told_otherwise(
        line, best, monkeypatch, words, reader):
    used = []
    for name in ("cached", "uncached"):
        original = getattr(minigpt, name)
        monkeypatch.setattr(minigpt, name, lambda model, name=name,
                            original=original: used.append(name)
                            or original(model))
    line(*write(best, "--max-new-tokens", 3, *words))
    assert used == [reader]


def test_text_may_be_written_in_bfloat16(line, best, monkeypatch):
    models = []
    monkeypatch.setattr(minigpt, "cached", lambda model: models.append(model)
                        or cached(model))
    words = write(best, "--dtype", "bfloat16", "--max-new-tokens", 30)
    status, out, err = line(*words)
    assert status == 0 and len(out) > 0 and "bfloat16" in err
    assert models[0].norm.weight.dtype == torch.bfloat16


def test_the_newest_run_is_taken_else_the_shipped_model():
    assert find_checkpoint(None) == SHIPPED
    for name, age in {"old": 1, "new": 3, "older": 2}.items():
        path = Path("checkpoints", name, "best.safetensors")
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (age, age))
    assert find_checkpoint(None) == Path("checkpoints/new/best.safetensors")


# --- evaluate --------------------------------------------------------------


def test_evaluate_prints_nats_and_bits(line, best, data):
    status, out, err = line("evaluate", "--checkpoint", best, "--data", data)
    assert (status, err) == (0, "")
    val = Dataset(data, "val", 16)
    nats = evaluate(load_checkpoint(best).model, val,
                    pick_machine("cpu"))
    numbers = re.fullmatch(r".*: (.*) nats, (.*) bits per character, over "
                           r"(.*) characters\n", out).groups()
    assert float(numbers[0]) == pytest.approx(nats, abs=1e-4)
    assert float(numbers[1]) == pytest.approx(nats / math.log(2), abs=1e-4)
    assert numbers[2] == f"{len(val.tokens) - 1:,}"


def test_the_defaults_are_the_newest_run_and_the_prepared_data(
        line, best, corpus, monkeypatch):
    monkeypatch.setattr(minigpt, "CORPUS", corpus)
    path = Path("checkpoints", "a", "best.safetensors")
    path.parent.mkdir(parents=True)
    path.write_bytes(best.read_bytes())
    assert f"{path}: " in line("evaluate")[1]
    assert f"{path}: " in line("generate", "--max-new-tokens", 1)[2]


# --- main ------------------------------------------------------------------


def test_ctrl_c_is_130_and_an_error_of_the_system_2(line, monkeypatch):
    def interrupted(**_):
        raise KeyboardInterrupt

    def full(**_):
        raise OSError("no space left")

    monkeypatch.setattr(minigpt, "run_prepare", interrupted)
    assert line("prepare") == (130, "", "")
    monkeypatch.setattr(minigpt, "run_prepare", full)
    status, _, err = line("prepare")
    assert status == 2 and err.startswith("minigpt: error: no space left: ")


def test_a_run_that_another_process_trains_is_refused(line, data):
    Path("run").mkdir()
    with FileLock("run/.lock"):
        status, _, err = line("train", "--data", data, *SMALL, "--run", "run")
    assert status == 2 and re.fullmatch(
        r"minigpt: error: another process trains in run: .*--run\n", err)


def test_a_reader_that_has_had_enough_is_no_error(cwd, monkeypatch, capsys):
    def refused(**_):
        raise BrokenPipeError

    monkeypatch.setattr(minigpt, "run_prepare", refused)
    with open(cwd / "pipe", "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["prepare"]) == 0
        print("what is left in the buffer")
    assert (cwd / "pipe").read_text() == capsys.readouterr().err == ""


@pytest.mark.parametrize("alphabet", ["ascii", "latin-1"])
def test_any_alphabet_is_written_to_any_terminal(alphabet, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), alphabet)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(minigpt, "run_prepare",
                        lambda **_: print("\u03b1\ud800", flush=True))
    main(["prepare"])
    assert stream.buffer.getvalue().split() == ["\u03b1?".encode()]


def test_the_words_come_from_the_shell_if_not_given(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["minigpt.py", "fly"])
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # as in a notebook
    assert main() == 2
    assert "'fly'" in sys.stderr.getvalue()
