"""Chapter 13: files that are whole or not there, and runs that go on."""

import copy
import functools
import hashlib
import json
import math
import os
import pickle
import re
import shutil
import stat
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import minigpt
from helpers import untrained
from minigpt import (
    EOS,
    FORMAT,
    MOMENTS,
    Checkpoint,
    Dataset,
    MiniGPTError,
    digest,
    load_checkpoint,
    pick_machine,
    training_step,
    write_atomically,
)

CPU = pick_machine("cpu", "float32")


@pytest.fixture(scope="module")
def dataset(text):
    """The split to learn from, with what a run must know of its text."""
    dataset = Dataset(text.train, context_length=16)
    dataset.text = text
    return dataset


def new_run(dataset) -> Checkpoint:
    """A run at its start, with a model of some thousand weights."""
    return untrained(
        dataset.text,
        before=[EOS, 5],
        dropout=0.2,
        batch_size=4,
        grad_accum=2,
        seed=5,
    )


def learn(dataset, run: Checkpoint, steps: int) -> None:
    for _ in range(steps):
        training_step(run.model, run.optimizer, dataset, run.step, run.config, CPU)
        run.step += 1


def held(run: Checkpoint) -> dict:
    """All that a run holds, in a form that can be compared."""
    tensors = {f"model.{n}": p for n, p in run.model.named_parameters()} | {
        f"{kind}.{n}": tensor
        for n, p in run.model.named_parameters()
        for kind, tensor in run.optimizer.state.get(p, {}).items()
    }
    return {
        n: (t.dtype, t.shape, t.detach().numpy().tobytes()) for n, t in tensors.items()
    } | {
        "model": run.model.config,
        "config": run.config,
        "step": run.step,
        "characters": run.tokenizer.characters,
        "best_loss": run.best_loss,
        "before": run.before,
        "fingerprint": run.fingerprint,
    }


@pytest.fixture(scope="module")
def saved(dataset, tmp_path_factory) -> Path:
    """A checkpoint after 3 steps, with moments, that no test changes."""
    path = tmp_path_factory.mktemp("saved") / "run.safetensors"
    run = new_run(dataset)
    learn(dataset, run, 3)
    run.best_loss = 2.5
    run.save(path)
    return path


@pytest.fixture
def path(saved, tmp_path) -> Path:
    """A copy of the checkpoint, to be damaged."""
    return Path(shutil.copy(saved, tmp_path))


# --- round trips -----------------------------------------------------------


def test_what_was_saved_is_loaded_to_the_bit(dataset, tmp_path):
    run = new_run(dataset)
    learn(dataset, run, 2)
    run.best_loss = 1 / 3
    run.save(tmp_path / "a")
    loaded = held(load_checkpoint(tmp_path / "a"))
    assert loaded == held(run)
    assert {name.split(".")[0] for name in loaded} >= {"step", *MOMENTS}


def test_a_run_goes_on_as_if_nothing_had_happened(dataset, tmp_path):
    straight = new_run(dataset)
    learn(dataset, straight, 3)
    straight.save(tmp_path / "half")
    learn(dataset, straight, 3)
    resumed = load_checkpoint(tmp_path / "half")
    learn(dataset, resumed, 3)
    assert held(resumed) == held(straight)


def test_each_moment_is_put_back_in_its_own_place(saved):
    run, file = load_checkpoint(saved), load_file(saved)
    for name, p in run.model.named_parameters():
        for moment in MOMENTS:
            assert torch.equal(run.optimizer.state[p][moment], file[f"{moment}.{name}"])


def test_a_file_written_twice_has_the_same_bytes(saved, tmp_path):
    load_checkpoint(saved).save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()


def test_without_moments_only_the_weights_are_saved(saved, tmp_path):
    run = load_checkpoint(saved)
    run.save(tmp_path / "best", moments=False)
    weights = load_file(tmp_path / "best")
    assert weights.keys() == {f"model.{n}" for n, _ in run.model.named_parameters()}
    best = load_checkpoint(tmp_path / "best")
    assert not best.optimizer.state
    assert held(best).items() <= held(run).items()


def test_a_run_is_saved_before_its_first_step(dataset, tmp_path):
    run = new_run(dataset)
    run.save(tmp_path / "new")
    loaded = load_checkpoint(tmp_path / "new")
    assert (loaded.step, loaded.best_loss) == (0, None)
    assert held(loaded) == held(run)
    ids, _ = dataset.batch(0, 2, seed=0)
    assert torch.equal(loaded.model.eval()(ids), run.model.eval()(ids))


def test_the_model_is_built_without_rolling_dice(saved):
    before = torch.get_rng_state()
    model = load_checkpoint(saved).model
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.requires_grad and p.device.type == "cpu" for p in model.parameters())


# --- whole or not at all ---------------------------------------------------


def write_half(*args) -> None:
    """Fail in the middle of writing the path among the arguments."""
    next(a for a in args if isinstance(a, Path)).write_bytes(b"the new chec")
    raise OSError("disk full")


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"the old")
    with pytest.raises(OSError, match="disk full"):
        write_atomically(file, write_half)
    assert os.listdir(tmp_path) == ["file"]
    assert file.read_bytes() == b"the old"


def test_a_save_that_fails_leaves_the_old_checkpoint(path, monkeypatch):
    before, run = path.read_bytes(), load_checkpoint(path)
    monkeypatch.setattr(minigpt, "save_file", write_half)
    with pytest.raises(OSError, match="disk full"):
        run.save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_checkpoint_may_be_read_by_whoever_may_read_other_files(saved, tmp_path):
    (tmp_path / "other").touch()
    saved = load_checkpoint(saved)
    saved.save(tmp_path / "a.safetensors")
    saved.save(str(tmp_path / "b.safetensors"))  # a path may be a text
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
    assert len([*tmp_path.iterdir()]) == 3


@pytest.mark.skipif(os.name != "posix", reason="no folder is flushed there")
def test_a_file_system_that_cannot_flush_folders_will_do(saved, tmp_path, monkeypatch):
    """Network drives and shared folders often cannot; the file itself is flushed."""
    saved, flush, flushed = load_checkpoint(saved), os.fsync, []

    def fsync(file):
        flushed.append(stat.S_ISDIR(os.fstat(file).st_mode))
        if flushed[-1]:
            raise OSError(22, "Invalid argument")
        flush(file)

    monkeypatch.setattr(os, "fsync", fsync)
    before = len(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else 0
    saved.save(tmp_path / "a.safetensors")
    assert flushed == [False, True]
    assert load_checkpoint(tmp_path / "a.safetensors").step == saved.step
    assert before in (0, len(os.listdir("/dev/fd")))  # no file stays open


def test_the_old_file_stands_until_the_new_one_is_on_disk(tmp_path, monkeypatch):
    file, seen = tmp_path / "file", []
    file.write_bytes(b"the old")
    fsync = os.fsync

    def note(descriptor):
        fsync(descriptor)
        seen.append(file.read_bytes())

    monkeypatch.setattr(os, "fsync", note)
    write_atomically(file, lambda path: path.write_bytes(b"the new"))
    renamed = [b"the new"] if os.name == "posix" else []
    assert seen == [b"the old"] + renamed
    assert os.listdir(tmp_path) == ["file"]
    assert file.read_bytes() == b"the new"


# --- the digest ------------------------------------------------------------


def test_the_digest_does_not_depend_on_the_order_of_names():
    a, b = torch.ones(2), torch.zeros(3)
    assert digest({"x": 1, "y": [2]}, {"a": a, "b": b}) == digest(
        {"y": [2], "x": 1}, {"b": b, "a": a}
    )


def test_the_digest_is_that_of_canonical_json_and_all_bytes():
    text = '[{"a": [1, null], "b": 2.5}, {"t": ["torch.float32", 2]}]'
    sha256 = hashlib.sha256(text.encode() + 4 * b"\0" + b"\0\0\x80?")
    assert (
        digest({"b": 2.5, "a": [1, None]}, {"t": torch.tensor([0.0, 1.0])})
        == sha256.hexdigest()
    )


def test_a_digest_tells_name_type_shape_bytes_and_metadata_apart():
    zeros = [
        torch.zeros(2, 3),
        torch.zeros(3, 2),
        torch.zeros(6),
        torch.zeros(2, 3, dtype=torch.int32),
        torch.zeros(()),
        -torch.zeros(2, 3),
        torch.zeros(2, 3, dtype=torch.bfloat16),
    ]
    digests = [digest({}, {"a": t}) for t in zeros]
    digests += [
        digest({}, {"b": zeros[0]}),
        digest({"c": 1}, {"a": zeros[0]}),
        digest({}, {}),
        digest({}, {"a": zeros[0], "b": zeros[0]}),
    ]
    assert len({*digests}) == len(digests)


# --- reading with suspicion ------------------------------------------------


def flip(path: Path, place: int, bit: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= bit
    path.write_bytes(content)


def swap(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert len(old) == len(new) and content.count(old) == 1
    path.write_bytes(content.replace(old, new))


def seal(tensors: dict, metadata: dict) -> dict[str, str]:
    """What a file's metadata must be for its digest to fit."""
    metadata.pop("sha256", None)
    sha256 = digest(metadata, tensors)
    return {"minigpt": json.dumps(metadata | {"sha256": sha256})}


def rewrite(path: Path, change) -> None:
    """Write the file again, changed by change(tensors, metadata), sealed."""
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["minigpt"])
    tensors = load_file(path)
    change(tensors, metadata)
    save_file(tensors, path, seal(tensors, metadata))


def fill(path: Path, name: str, value: float) -> None:
    """Put a value into a tensor, with a digest that fits."""

    def change(tensors, metadata):
        tensors[name][0, 0] = value

    rewrite(path, change)


class Trap:
    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


HEAD = "model.head.weight"
DAMAGE = {
    "missing": lambda p: p.unlink(),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
    "empty": lambda p: p.write_bytes(b""),
    "a text": lambda p: p.write_text("print('hello')\n" * 99),
    "a pickle": lambda p: p.write_bytes(pickle.dumps(Trap())),
    "a PyTorch file": lambda p: torch.save({"weights": Trap()}, p),
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "longer": lambda p: p.write_bytes(p.read_bytes() + b"\0"),
    "flipped bit, weights": lambda p: flip(p, -100),
    "flipped bit, header": lambda p: flip(p, 7),
    "changed step": lambda p: swap(p, b'\\"step\\": 3', b'\\"step\\": 4'),
    "changed n_heads": lambda p: swap(p, b'\\"n_heads\\": 2', b'\\"n_heads\\": 1'),
    "changed vocabulary": lambda p: swap(p, b"()*+", b"()*-"),
    "foreign": lambda p: save_file({"w": torch.zeros(3)}, p),
    "foreign, with metadata": lambda p: save_file(
        {"w": torch.zeros(3)}, p, {"format": "pt"}
    ),
    "our key, a list": lambda p: save_file({}, p, {"minigpt": "[1]"}),
    "our key, no JSON": lambda p: save_file({}, p, {"minigpt": "{"}),
    "other format": lambda p: rewrite(
        p, lambda _, meta: meta.update(format=FORMAT + 1)
    ),
    "one tensor more": lambda p: rewrite(
        p, lambda tensors, _: tensors.update(extra=torch.zeros(1))
    ),
    "one tensor less": lambda p: rewrite(p, lambda tensors, _: tensors.pop(HEAD)),
    "one moment less": lambda p: rewrite(
        p, lambda tensors, _: tensors.pop("exp_avg.head.weight")
    ),
    "unknown setting": lambda p: rewrite(
        p, lambda _, meta: meta.update(model={"d_modle": 24})
    ),
    "bad setting": lambda p: rewrite(
        p, lambda _, meta: meta.update(train={"batch_size": 0})
    ),
    "before, a text": lambda p: rewrite(p, lambda _, meta: meta.update(before="<eos>")),
    "before, no id": lambda p: rewrite(p, lambda _, meta: meta.update(before=[10**6])),
    "before, not whole": lambda p: rewrite(
        p, lambda _, meta: meta.update(before=[1.0])
    ),
    "a fingerprint of no text": lambda p: rewrite(
        p, lambda _, meta: meta.update(fingerprint=7)
    ),
    "no vocabulary": lambda p: rewrite(p, lambda _, meta: meta.update(characters=None)),
    "another shape": lambda p: rewrite(
        p, lambda tensors, _: tensors.update({HEAD: tensors[HEAD].T.contiguous()})
    ),
    "a claimed size": lambda p: rewrite(
        p, lambda _, meta: meta["model"].update(d_model=2**14, n_layers=2**8, d_ff=0)
    ),  # 2**36 weights
    "one kind of moments": lambda p: rewrite(
        p,
        lambda tensors, _: [
            tensors.pop(name) for name in [*tensors] if "avg_sq" in name
        ],
    ),
    "another vocabulary": lambda p: rewrite(
        p, lambda _, meta: meta.update(characters="abc")
    ),
    "a vocabulary of pieces": lambda p: rewrite(
        p, lambda _, meta: meta.update(characters=[*meta["characters"]])
    ),
    "half a step": lambda p: rewrite(p, lambda _, meta: meta.update(step=2.5)),
    "a step before the first": lambda p: rewrite(
        p, lambda _, meta: meta.update(step=-1)
    ),
    "a loss in words": lambda p: rewrite(
        p, lambda _, meta: meta.update(best_loss="low")
    ),
    "weights that are no numbers": lambda p: fill(p, HEAD, math.nan),
    "endless moments": lambda p: fill(p, "exp_avg.head.weight", math.inf),
    "a model of absurd size": lambda p: rewrite(
        p, lambda _, meta: meta["model"].update(d_model=2**40)
    ),
    "nothing but a seal": lambda p: rewrite(p, lambda _, meta: meta.clear()),
    "a part left out": lambda p: rewrite(p, lambda _, meta: meta.pop("step")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_no_checkpoint_is_refused_by_name(path, damage):
    DAMAGE[damage](path)
    with pytest.raises(MiniGPTError, match=re.escape(str(path))):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "damage, reason",
    [
        ("missing", "train"),
        ("other format", f"format {FORMAT + 1}.* {FORMAT}"),
        ("changed step", "wrong sha256"),
        ("flipped bit, weights", "wrong sha256"),
        ("one tensor more", "extra"),
        ("half a step", "wrong types"),
        ("one tensor less", HEAD),
        ("another shape", HEAD),
        ("one moment less", "exp_avg"),
        ("a claimed size", "is .29, 24., and must be .29, 16384."),
        ("one kind of moments", "exp_avg_sq"),
        ("another vocabulary", "vocabulary"),
        ("bad setting", "batch_size is 0"),
        ("before, no id", "no ids: .*1000000"),
        ("weights that are no numbers", f"{HEAD} is not finite"),
        ("a model of absurd size", "d_model is 1099511627776"),
    ],
)
def test_a_refusal_says_why(path, damage, reason):
    DAMAGE[damage](path)
    with pytest.raises(MiniGPTError, match=reason):
        load_checkpoint(path)


def test_no_flipped_bit_anywhere_goes_unseen(path):
    content = path.read_bytes()
    for place in range(0, len(content), len(content) // 150):
        path.write_bytes(content)
        flip(path, place, 1 << place % 8)
        with pytest.raises(MiniGPTError):
            load_checkpoint(path)


def test_a_claimed_size_is_never_allocated(path):
    """2**36 weights: the tensors that are there are compared, not made."""
    DAMAGE["a claimed size"](path)
    resource = pytest.importorskip("resource", reason="needs POSIX")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes here
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MiniGPTError, match="must be .29, 16384."):
        load_checkpoint(path)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert unit * (after - before) < 2**28


def test_weights_of_16_bits_are_loaded_as_float32(path):
    def halve(tensors, metadata):
        for name in [*tensors]:
            if name.startswith("model."):
                tensors[name] = tensors[name].bfloat16()

    whole = load_checkpoint(path).model
    rewrite(path, halve)
    for p, q in zip(
        load_checkpoint(path).model.parameters(), whole.parameters(), strict=True
    ):
        assert p.dtype == torch.float32 and torch.equal(p, q.bfloat16().float())


# --- ten thousand files from somebody else ----------------------------------


def opened(path: Path) -> dict | None:
    """All that a file holds, put to use; None if it was refused in one line."""
    try:
        return held(load_checkpoint(path))
    except MiniGPTError as error:
        assert "\n" not in str(error).strip() and len(str(error)) < 2000
        return None


PLACE = st.floats(0, 1, exclude_max=True)
EDIT = st.one_of(
    st.tuples(st.just("flip"), PLACE, st.integers(0, 7)),
    st.tuples(st.just("put"), PLACE, st.binary(min_size=1, max_size=9)),
    st.tuples(st.just("insert"), PLACE, st.binary(min_size=1, max_size=9)),
    st.tuples(st.just("drop"), PLACE, st.integers(1, 99)),
    st.tuples(st.just("repeat"), PLACE, st.integers(1, 99)),
    st.tuples(st.just("cut"), PLACE, st.none()),
    st.tuples(st.just("length"), st.just(0.0), st.integers(0, 2**64 - 1)),
)


def edited(content: bytes, edits: list, header: int) -> bytes:
    """A file with some edits; every other one hits the header."""
    for i, (kind, place, value) in enumerate(edits):
        at = int(place * (len(content) if i % 2 else header))
        if kind == "flip" and at < len(content):
            byte = bytes([content[at] ^ 1 << value])
            content = content[:at] + byte + content[at + 1 :]
        elif kind == "put":
            content = content[:at] + value + content[at + len(value) :]
        elif kind == "insert":
            content = content[:at] + value + content[at:]
        elif kind == "drop":
            content = content[:at] + content[at + value :]
        elif kind == "repeat":
            content = content[: at + value] + content[at:]
        elif kind == "cut":
            content = content[:at]
        elif kind == "length":
            content = value.to_bytes(8, "little") + content[8:]
    return content


@pytest.mark.slow
def test_seven_thousand_edited_files_are_refused_or_what_they_were(saved, tmp_path):
    content, original = saved.read_bytes(), opened(saved)
    header = 8 + int.from_bytes(content[:8], "little")
    path, counts = tmp_path / "edited", Counter()

    @settings(
        max_examples=7000,
        deadline=None,
        database=None,
        suppress_health_check=[*HealthCheck],
    )
    @given(st.lists(EDIT, min_size=1, max_size=4))
    def check(edits):
        path.write_bytes(edited(content, edits, header))
        found = opened(path)
        assert found in (None, original)
        counts[found is None] += 1

    check()
    assert counts.total() >= 7000 and counts[True] > 5000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value, path=()):
    """The paths to all values in a piece of JSON."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))


@pytest.mark.slow
def test_three_thousand_files_with_a_seal_that_fits_are_refused_or_of_use(
    saved, tmp_path
):
    """Whoever can write a file can also seal it: then each value is doubted."""
    with safe_open(saved, "pt") as file:
        metadata = json.loads(file.metadata()["minigpt"])
    paths, tensors = [*places(metadata)][1:], load_file(saved)
    path, refused = tmp_path / "sealed", Counter()

    @settings(
        max_examples=3000,
        deadline=None,
        database=None,
        suppress_health_check=[*HealthCheck],
    )
    @given(st.sampled_from(paths), JSON, st.booleans())
    def check(place, value, leave_out):
        meta = copy.deepcopy(metadata)
        *outer, last = place
        inner = functools.reduce(lambda d, key: d[key], outer, meta)
        inner.pop(last) if leave_out else inner.update({last: value})
        save_file(tensors, path, seal(tensors, meta))
        refused[opened(path) is None] += 1

    check()
    assert refused.total() >= 3000 and refused[True] > 1500
