"""From files and archives to ids on disk, and from those to batches."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import minigpt
from minigpt import EOS, PAD, UNK, Dataset, MiniGPTError, Tokenizer, prepare

PREPARED = {"meta.json", "tokens.npy"}


def write(folder: Path, **files: str | bytes) -> Path:
    """Write files into a folder; `a_py` stands for the name a.py."""
    folder.mkdir()
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name.replace("_", ".")).write_bytes(data)
    return folder


def read(out: Path) -> tuple[np.ndarray, dict]:
    """The ids and the metadata of a prepared folder."""
    meta = json.loads((out / "meta.json").read_text("utf-8"))
    return np.load(out / "tokens.npy"), meta


def ends(tokens: np.ndarray) -> list[int]:
    """The places at which a document has ended."""
    return (np.flatnonzero(tokens == EOS) + 1).tolist()


def chunks(dataset: Dataset) -> list[list[int]]:
    """The inputs of all chunks of a split, sorted."""
    starts = np.arange(dataset.n_chunks) * dataset.context_length
    return sorted(dataset.windows(starts)[0].tolist())


# Preparing


def test_documents_stand_in_the_order_of_their_hashes_each_before_an_eos(
    corpus, data
):
    tokens, meta = read(data)
    decode = Tokenizer(meta["characters"]).decode
    texts = [path.read_bytes() for path in corpus.iterdir()]
    texts.sort(key=lambda text: hashlib.sha256(text).digest())
    pieces = np.split(tokens, ends(tokens))
    assert [decode(piece).encode() for piece in pieces] == [*texts, b""]
    assert (tokens == EOS).sum() == meta["documents"] == len(texts)
    assert meta["characters"] == "".join(sorted({*b"".join(texts).decode()}))


def test_ids_are_stored_in_the_smallest_unsigned_integers(data):
    assert read(data)[0].dtype == np.uint8


def test_file_names_and_their_order_change_no_byte(corpus, data, tmp_path):
    (tmp_path / "corpus" / "deeper").mkdir(parents=True)
    for i, path in enumerate(sorted(corpus.iterdir(), reverse=True)):
        folder = ("corpus", "corpus/deeper")[i % 2]
        shutil.copy(path, tmp_path / folder / f"renamed{i:02}.py")
    meta = prepare([tmp_path / "corpus"], tmp_path / "out")
    assert meta == read(tmp_path / "out")[1]
    for name in PREPARED:
        again = (tmp_path / "out" / name).read_bytes()
        assert again == (data / name).read_bytes()


def test_fingerprint_is_that_of_the_ids(data, tmp_path):
    tokens, meta = read(data)
    assert meta["fingerprint"] == hashlib.sha256(tokens.tobytes()).hexdigest()


def test_order_of_sources_changes_no_byte(tmp_path):
    files = dict(a_py="x = 1", b_py="λ", c_txt="y = 2", d_py="", e_py="z = 3")
    sources = sorted(write(tmp_path / "in", **files).iterdir())
    prepare(sources, tmp_path / "1")
    prepare(sources[::-1], tmp_path / "2")
    for name in PREPARED:
        first, second = (tmp_path / out / name for out in "12")
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("format", ["zip", "tar", "gztar", "bztar", "xztar"])
def test_archive_gives_what_its_folder_gives(corpus, data, tmp_path, format):
    shutil.copytree(corpus, tmp_path / "in" / "a_package.py")
    base = str(tmp_path / "v1.0")
    archive = shutil.make_archive(base, format, tmp_path / "in")
    assert prepare([Path(archive)], tmp_path / "out") == read(data)[1]


@pytest.mark.parametrize("format, suffix", [("zip", "whl"), ("gztar", "tgz")])
def test_archive_may_have_its_other_name(
    corpus, data, tmp_path, format, suffix
):
    archive = Path(shutil.make_archive(str(tmp_path / "a"), format, corpus))
    renamed = archive.rename(tmp_path / f"a.{suffix}")
    assert prepare([renamed], tmp_path / "out") == read(data)[1]


def test_sources_may_be_files_and_are_joined(corpus, data, tmp_path):
    files = sorted(corpus.iterdir())
    assert prepare(files, tmp_path / "out") == read(data)[1]


def test_what_is_skipped_is_counted_with_the_reason(tmp_path):
    folder = write(
        tmp_path / "in", a_py="x = 1\n", b_py="x = 1\n", c_py="x = 1\r\n",
        d_py="", e_py=b"", f_py="\ufeff", g_py="# λ", h_py=b"\xff",
        i_txt="y = 2\n", j_pyc=b"\0",
    )
    meta = prepare([folder], tmp_path / "out")
    assert meta["documents"] == 1
    assert meta["skipped"] == {
        "duplicate": 2,
        "empty": 3,
        "not ASCII (--unicode takes it)": 1,
        "not UTF-8": 1,
        "other suffix (--suffix takes it)": 2,
    }


def test_other_suffixes_are_taken_on_request(tmp_path):
    folder = write(tmp_path / "in", a_py="a", b_txt="b", c_md="c")
    meta = prepare([folder], tmp_path / "out", (".txt", ".md"))
    assert meta["characters"] == "bc"
    assert [*meta["skipped"].values()] == [1]


def test_ends_of_lines_and_byte_order_marks_are_made_equal(tmp_path):
    plain = write(tmp_path / "plain", a_py="x\ny\n\nz\n")
    mixed = write(tmp_path / "mixed", a_py="\ufeffx\r\ny\r\r\nz\n")
    expected = prepare([plain], tmp_path / "1")
    assert prepare([mixed], tmp_path / "2") == expected


def test_rare_characters_are_unknown_in_other_alphabets(tmp_path):
    often = "é\n" * 125_000  # so that rare is what occurs at most twice
    folder = write(tmp_path / "in", a_py=often, b_py="λжж", c_py="λж")
    meta = prepare([folder], tmp_path / "out", unicode=True)
    assert meta["characters"] == "\néж"
    assert (read(tmp_path / "out")[0] == UNK).sum() == 2


def test_no_character_is_rare_in_ascii(tmp_path):
    folder = write(tmp_path / "in", a_py="a" * 250_000 + "b")
    assert prepare([folder], tmp_path / "out")["characters"] == "ab"


@pytest.mark.parametrize("documents, val_start", [
    (15, 1400), (10, 900), (2, 180), (1, 90)
])
def test_validation_begins_after_nine_tenths_with_a_document_if_one_follows(
    tmp_path, documents, val_start
):
    names = "abcdefghijklmno"[:documents]
    files = {f"{name}_py": name * 99 for name in names}  # and an <eos>
    meta = prepare([write(tmp_path / "in", **files)], tmp_path / "out")
    assert meta["val_start"] == val_start


def test_nothing_is_written_beside_what_was_asked_for(tmp_path):
    names = ("../up.py", "/tmp/minigpt-test-absolute.py", "in/side.py")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(name, f"# zip {name}")
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            content = f"# tar {name}".encode()
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("link.py")
        link.type, link.linkname = tarfile.SYMTYPE, "../../a.zip"
        archive.addfile(link)
    sources = [tmp_path / "a.zip", tmp_path / "b.tar"]
    out = tmp_path / "deep" / "out"
    assert prepare(sources, out)["documents"] == 6
    files = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {*sources, *(out / name for name in PREPARED)}
    assert not Path(names[1]).exists()


BROKEN = {
    "text.zip": b"not an archive",
    "text.whl": b"",
    "text.tar.gz": b"not an archive",
    "text.tar.xz": b"\xfd7zXZ\0 and then not an archive",
    "cut.tar.gz": gzip.compress(bytes(range(256)) * 99)[:200],
}


@pytest.mark.parametrize("name, content", BROKEN.items())
def test_an_archive_that_is_none_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MiniGPTError, match=f"no text .*{name}, which is damag"):
        prepare([tmp_path / name], tmp_path / "out")


@pytest.mark.parametrize("name", ["missing.py", "missing", "missing.zip"])
def test_a_source_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(MiniGPTError, match=f"there is no .*{name}: check"):
        prepare([tmp_path / name], tmp_path / "out")


@pytest.mark.parametrize("format", ["zip", "tar", "gztar", "bztar", "xztar"])
def test_an_archive_that_was_cut_short_gives_what_it_has(
    corpus, tmp_path, format
):
    archive = Path(shutil.make_archive(str(tmp_path / "a"), format, corpus))
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    extra = write(tmp_path / "in", a_py="x = 1\n")
    meta = prepare([archive, extra], tmp_path / "out")
    assert 1 <= meta["documents"] < 41
    assert any("damaged" in reason or "read" in reason
               for reason in meta["skipped"])


def test_a_damaged_member_is_counted_and_the_next_one_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as a:
        a.writestr("a.py", "x = 1\n" * 99)
        a.writestr("b.py", "y = 2\n")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[34:44] = b"\xff" * 10  # behind 30 bytes of header and the name
    (tmp_path / "a.zip").write_bytes(content)
    meta = prepare([tmp_path / "a.zip"], tmp_path / "out")
    assert (meta["documents"], meta["skipped"]) == (1, {"cannot be read": 1})


@pytest.mark.parametrize("format", ["zip", "bztar", "xztar"])
def test_an_archive_with_checksums_that_was_changed_is_noticed(
    tmp_path, format
):
    noise = np.random.default_rng(0).bytes(50_000).hex()
    folder = write(tmp_path / "in", a_py="x = 1\n", b_py=noise)
    archive = Path(shutil.make_archive(str(tmp_path / "a"), format, folder))
    content = bytearray(archive.read_bytes())
    middle = len(content) // 2  # so that the beginning can still be read
    content[middle : middle + 20] = b"\xff" * 20
    archive.write_bytes(content)
    more = write(tmp_path / "more", c_py="z = 3\n")
    meta = prepare([archive, more], tmp_path / "out")
    assert meta["documents"] < 3 and meta["skipped"]


def test_an_error_in_writing_is_not_taken_for_a_damaged_source(
    corpus, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        prepare([corpus], tmp_path / "out")


def test_a_file_that_is_too_large_is_not_read_to_its_end(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(minigpt, "LIMIT", 2**20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as a:
        a.writestr("bomb.py", b" " * (2**20 + 1))
        a.writestr("just.py", b" " * 2**20)
        a.writestr("b.py", "x = 1\n")
    meta = prepare([tmp_path / "a.zip"], tmp_path / "out")
    assert meta["skipped"] == {"larger than 1 MiB": 1}


def test_members_that_are_no_files_are_counted(tmp_path):
    kinds = {"device.py": tarfile.CHRTYPE, "pipe.py": tarfile.FIFOTYPE,
             "away.py": tarfile.SYMTYPE, "hard.py": tarfile.LNKTYPE,
             "up.py": tarfile.SYMTYPE}
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in kinds.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            if name in ("hard.py", "up.py"):
                member.linkname = "real.py"
            archive.addfile(member)
        folder = tarfile.TarInfo("folder.py")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        member = tarfile.TarInfo("real.py")
        member.size = 6
        archive.addfile(member, io.BytesIO(b"x = 1\n"))
    meta = prepare([tmp_path / "a.tar"], tmp_path / "out")
    assert meta["documents"] == 1
    assert sum(meta["skipped"].values()) == len(kinds)
    assert meta["characters"] == "\n 1=x"


@pytest.mark.parametrize("content, reason", [
    (b"x = '\0'\n", None), (b"\tx\f\n\x1b[0m\n", None), (b"x" * 10**6, None),
    ("x = 1  # \ud800".encode("utf-8", "surrogatepass"), "not UTF-8"),
    ("# déjà vu".encode("latin-1"), "not UTF-8"),
    ("x = 1".encode("utf-16"), "not UTF-8"), (b"\xef\xbb\xbf", "empty"),
])
def test_odd_texts_are_taken_or_counted(tmp_path, content, reason):
    folder = write(tmp_path / "in", a_py=content, b_py="y = 2\n")
    meta = prepare([folder], tmp_path / "out", unicode=True)
    assert meta["skipped"] == ({reason: 1} if reason else {})
    assert meta["documents"] == 2 - len(meta["skipped"])


def test_a_loop_of_links_has_an_end(tmp_path):
    folder = write(tmp_path / "in", a_py="x = 1\n")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "self.py").symlink_to(folder / "self.py")
    (folder / "nowhere.py").symlink_to(folder / "missing.py")
    assert prepare([folder], tmp_path / "out")["documents"] == 1


def test_a_file_that_disappears_is_counted(tmp_path, monkeypatch):
    folder = write(tmp_path / "in", a_py="x = 1\n", b_py="y = 2\n")
    original = Path.open

    def vanishing(path, mode="r", *args, **options):
        if path.name == "a.py":
            path.unlink()
        return original(path, mode, *args, **options)

    monkeypatch.setattr(Path, "open", vanishing)
    meta = prepare([folder], tmp_path / "out")
    assert (meta["documents"], meta["skipped"]) == (1, {"cannot be read": 1})


def test_a_source_may_hold_the_output(tmp_path):
    folder = write(tmp_path / "in", a_py="x = 1\n")
    first = prepare([folder], folder / "out")
    assert first["skipped"] == {}
    again = prepare([folder], folder / "out")
    assert again["skipped"] == {"other suffix (--suffix takes it)": 2}
    assert again["fingerprint"] == first["fingerprint"]


def test_preparation_that_fails_leaves_the_earlier_one(corpus, tmp_path):
    meta = prepare([corpus], tmp_path / "out")
    with pytest.raises(MiniGPTError):
        prepare([corpus, tmp_path / "missing.py"], tmp_path / "out")
    assert read(tmp_path / "out")[1] == meta
    assert {path.name for path in (tmp_path / "out").iterdir()} == PREPARED


def test_sources_without_a_text_are_refused_with_the_reasons(tmp_path):
    folder = write(tmp_path / "in", a_py="λ")
    with pytest.raises(MiniGPTError, match="/in: no text .*ASCII.*: 1"):
        prepare([folder], tmp_path / "out")
    with pytest.raises(MiniGPTError, match="no text .*nothing"):
        prepare([write(tmp_path / "empty")], tmp_path / "out")


# Reading


@pytest.fixture(scope="module", params=["train", "val"])
def dataset(request, data) -> Dataset:
    """A split as windows of 32 characters."""
    return Dataset(data, request.param, context_length=32)


def test_splits_are_the_two_parts_of_the_file_and_not_loaded(data):
    tokens, meta = read(data)
    splits = [Dataset(data, name, 8).tokens for name in ("train", "val")]
    assert all(isinstance(split, np.memmap) for split in splits)
    assert [*map(len, splits)] == np.diff(
        [0, meta["val_start"], len(tokens)]
    ).tolist()
    assert (np.concatenate(splits) == tokens).all()


def test_dataset_knows_its_vocabulary_and_fingerprint(data, dataset):
    meta = read(data)[1]
    assert dataset.tokenizer.characters == meta["characters"]
    assert dataset.fingerprint == meta["fingerprint"]


def test_targets_are_the_inputs_shifted_by_one(dataset):
    tokens = torch.from_numpy(dataset.tokens.astype(np.int64))
    inputs, targets = dataset.windows(np.array([7, 0]))
    assert torch.equal(inputs, torch.stack([tokens[7:39], tokens[0:32]]))
    assert torch.equal(targets, torch.stack([tokens[8:40], tokens[1:33]]))
    assert inputs.dtype == targets.dtype == torch.int64


def test_window_beyond_the_end_is_padded(dataset):
    *_, a, b, c = dataset.tokens.tolist()
    inputs, targets = dataset.windows(np.array([len(dataset.tokens) - 3]))
    assert inputs[0].tolist() == [a, b, c] + 29 * [PAD]
    assert targets[0].tolist() == [b, c] + 30 * [PAD]


def test_batch_is_a_function_of_its_number_size_and_seed(data, dataset):
    inputs, targets = dataset.batch(5, 4, seed=3)
    assert inputs.shape == targets.shape == (4, 32)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    dataset.batch(9, 2, seed=1)
    fresh = Dataset(data, "train", 32).batch(5, 4, seed=3)
    again = dataset.batch(5, 4, seed=3)
    assert torch.equal(again[0], inputs) and torch.equal(again[1], targets)
    same = len(dataset.tokens) == len(Dataset(data, "train", 32).tokens)
    assert torch.equal(fresh[0], inputs) is same


def test_epochs_hold_each_chunk_once_in_an_order_of_their_own(dataset):
    n = dataset.n_chunks
    orders = [
        dataset.batch(epoch, n, seed)[0].tolist()
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    ]
    assert all(sorted(order) == chunks(dataset) for order in orders)
    assert all(a != b for a in orders for b in orders if a is not b)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_batches_are_one_series_cut_where_an_epoch_may_not_end(dataset, size):
    n = dataset.n_chunks
    epochs = [dataset.batch(epoch, n, seed=2)[0] for epoch in range(3)]
    count = 3 * n // size + 1
    batches = [dataset.batch(i, size, seed=2)[0] for i in range(count)]
    series, expected = torch.cat(batches), torch.cat(epochs)
    length = min(len(series), len(expected))
    assert torch.equal(series[:length], expected[:length])


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 1000))
@example(1)
def test_windows_of_all_starts_ask_for_each_token_once(data, context_length):
    dataset = Dataset(data, "val", context_length)
    targets = dataset.windows(dataset.starts())[1]
    assert (targets[targets != PAD].numpy() == dataset.tokens[1:]).all()
    assert (targets[:, 0] != PAD).all()  # no window is in vain


@pytest.mark.parametrize("count", [2, 7, 64])
def test_given_number_of_starts_is_even_and_reaches_both_ends(dataset, count):
    starts = dataset.starts(count)
    assert len(starts) == count
    assert (starts[0], starts[-1]) == (0, len(dataset.tokens) - 33)
    assert np.ptp(np.diff(starts)) <= 1
    assert (dataset.starts(count) == starts).all()
    assert (dataset.windows(starts)[1] != PAD).all()


def test_split_must_hold_a_window_and_a_token(data):
    n = len(Dataset(data, "val", 8).tokens)
    assert Dataset(data, "val", n - 1).n_chunks == 1
    message = f"val split has {n} tokens, a window takes {n + 1}:"
    with pytest.raises(MiniGPTError, match=message):
        Dataset(data, "val", n)


@pytest.mark.parametrize("meta", [None, "", "[]", "{}", '{"characters": 1}'])
def test_folder_that_was_not_prepared_is_refused(data, tmp_path, meta):
    if meta is not None:
        shutil.copy(data / "tokens.npy", tmp_path)
        (tmp_path / "meta.json").write_text(meta)
    with pytest.raises(MiniGPTError, match="holds no prepared text"):
        Dataset(tmp_path, "train", 8)
