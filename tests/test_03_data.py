"""From files and archives to ids, and from those to batches."""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import re
import shutil
import stat
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import minigpt
from minigpt import (
    EOS,
    IGNORED,
    PAD,
    UNK,
    Corpus,
    Dataset,
    MiniGPTError,
    Tokenizer,
    choose_cut,
    pieces,
    read_corpus,
    read_documents,
)


def write(folder: Path, **files: str | bytes) -> Path:
    """Write files into a folder; `a_py` stands for the name a.py."""
    folder.mkdir()
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name.replace("_", ".")).write_bytes(data)
    return folder


def documents(source: Path, *suffixes: str) -> list[str]:
    """The texts that are read from a source."""
    return read_documents(source, suffixes or (".py",))[0]


def skipped(source: Path) -> dict[str, int]:
    return dict(read_documents(source, (".py",))[1])


def same(a: Corpus, b: Corpus) -> bool:
    return a.fingerprint() == b.fingerprint() and (
        a.tokenizer.characters == b.tokenizer.characters
        and np.array_equal(a.train, b.train)
        and np.array_equal(a.val, b.val)
    )


@pytest.fixture(scope="module")
def read(corpus) -> Corpus:
    """The corpus of all tests, read."""
    return read_corpus(corpus)


# --- what is read ----------------------------------------------------------


def test_documents_stand_in_the_order_of_their_hashes_each_before_an_eos(corpus, read):
    texts = [path.read_bytes() for path in corpus.iterdir()]
    texts.sort(key=lambda text: hashlib.sha256(text).digest())
    ids = np.concatenate([read.train, read.val])
    parts = np.split(ids, np.flatnonzero(ids == EOS) + 1)
    decode = read.tokenizer.decode
    assert [decode(part).encode() for part in parts] == [*texts, b""]
    assert read.tokenizer.characters == "".join(sorted({*b"".join(texts).decode()}))
    assert read.train.dtype == read.val.dtype == np.uint8


def test_names_and_their_order_change_nothing(corpus, read, tmp_path):
    for i, path in enumerate(sorted(corpus.iterdir(), reverse=True)):
        folder = tmp_path / f"f{i % 3}"
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder / f"other{i}.py")
    assert same(read_corpus(tmp_path), read)


@pytest.mark.parametrize("format", ["zip", "tar", "gztar", "bztar", "xztar"])
def test_an_archive_gives_what_its_folder_gives(corpus, read, tmp_path, format):
    shutil.copytree(corpus, tmp_path / "in" / "a_package.py")
    archive = shutil.make_archive(str(tmp_path / "v1.0"), format, tmp_path / "in")
    assert same(read_corpus(Path(archive)), read)


@pytest.mark.parametrize(
    "format, ending",
    [
        ("gztar", "tgz"),
        ("zip", "ZIP"),
        ("gztar", "Tar.Gz"),
        ("xztar", "TAR.XZ"),
        ("xztar", "txz"),
        ("bztar", "tbz2"),
        ("zip", "whl"),
        ("zip", "egg"),
    ],
)
def test_an_archive_may_have_its_other_name(corpus, read, tmp_path, format, ending):
    archive = Path(shutil.make_archive(str(tmp_path / "a"), format, corpus))
    assert same(read_corpus(archive.rename(tmp_path / f"b.{ending}")), read)


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "GZ"])
def test_a_file_may_be_compressed_and_is_refused_if_it_is_cut_short(tmp_path, ending):
    noise = np.random.default_rng(0).bytes(9_999).hex()
    module = {"gz": gzip, "bz2": bz2, "xz": lzma}[ending.lower()]
    path, content = tmp_path / f"a.txt.{ending}", module.compress(noise.encode())
    path.write_bytes(content)
    assert documents(path) == [noise]
    path.write_bytes(content[:-99])
    with pytest.raises(MiniGPTError, match=f"a.txt.{ending} cannot be read"):
        read_corpus(path)


@pytest.mark.parametrize("start", ["", "./", "../", "/", "../../", "C:\\", "..\\"])
def test_where_a_name_in_an_archive_begins_does_not_matter(tmp_path, start):
    """`tar -P ../src`, or a zip from Windows: what is left out is the same."""
    wanted, inner = f"{start}src/a.py", f"{start}src/.venv/lib/b.py"
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in (wanted, inner):
            member = tarfile.TarInfo(name)
            member.size = 6
            archive.addfile(member, io.BytesIO(b"x = 1\n"))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for name in (wanted, inner):
            member = zipfile.ZipInfo("x")
            member.filename = name.replace("/", "\\")
            archive.writestr(member, "y = 2\n")
    assert documents(tmp_path / "a.tar") == ["x = 1\n"]
    assert documents(tmp_path / "b.zip") == ["y = 2\n"]
    assert not skipped(tmp_path / "a.tar") and not skipped(tmp_path / "b.zip")


def test_a_link_in_a_zip_is_no_document(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        member = zipfile.ZipInfo("link.py")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "../elsewhere.py")
        archive.writestr("real.PY", "x = 1\n")
    assert documents(tmp_path / "a.zip") == ["x = 1\n"]


@pytest.mark.parametrize("suffix", ["*.txt", ".txt .md", "*.md,  *.TXT", ".TXT"])
def test_endings_may_be_written_as_shells_write_them(tmp_path, suffix):
    folder = write(tmp_path / "in", a_txt="abc" * 9, b_py="x")
    assert read_corpus(folder, suffix).tokenizer.characters == "abc"


def test_a_path_may_be_a_text(corpus, read):
    assert same(read_corpus(str(corpus)), read)
    assert read_documents(str(corpus), (".py",)) == read_documents(corpus, (".py",))


def test_a_file_that_is_named_needs_no_ending(tmp_path):
    (tmp_path / "README").write_text("hello " * 9)
    assert documents(tmp_path / "README") == ["hello " * 9]
    assert documents(tmp_path) == []


def test_other_endings_are_taken_on_request(tmp_path):
    folder = write(tmp_path / "in", a_py="a", b_txt="b", c_md="c")
    assert sorted(documents(folder, ".txt", ".md")) == ["b", "c"]
    assert read_corpus(folder, ".txt, .md,").tokenizer.characters == "bc"


def test_what_others_wrote_is_left_out(tmp_path):
    for name in (
        ".venv/lib/a.py",
        "x/site-packages/b.py",
        "node_modules/c.py",
        "x/__pycache__/d.py",
        ".git/e.py",
        "x/y/f.py",
        "g.py",
    ):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(f"# {name}")
    expected = ["# g.py", "# x/y/f.py"]
    assert sorted(documents(tmp_path / "in")) == expected
    for format in ("zip", "gztar"):
        archive = shutil.make_archive(str(tmp_path / "a"), format, tmp_path / "in")
        assert sorted(documents(Path(archive))) == expected


def test_a_source_inside_a_hidden_folder_is_read(tmp_path):
    folder = write(tmp_path / ".hidden", a_py="x = 1\n")
    assert documents(folder) == ["x = 1\n"]


# --- what is skipped -------------------------------------------------------


def test_what_is_skipped_is_counted_in_plain_words(tmp_path):
    folder = write(
        tmp_path / "in",
        a_py="x = 1\n",
        b_py="x = 1\n",
        c_py="x = 1\r\n",
        d_py="",
        e_py=b"",
        f_py="\ufeff",
        g_py="# λ",
        h_py=b"\xff",
        i_txt="y = 2\n",
        j_py="x = '\0'\n",
    )
    assert sorted(documents(folder)) == ["# λ", "x = 1\n"]
    assert skipped(folder) == {"duplicate": 2, "empty": 3, "not UTF-8": 1, "binary": 1}


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"\tx\f\n\x1b[0m\n", None),
        (b"x" * 10**6, None),
        ("x = 1  # \ud800".encode("utf-8", "surrogatepass"), "not UTF-8"),
        ("# déjà vu".encode("latin-1"), "not UTF-8"),
        ("x = 1".encode("utf-16"), "not UTF-8"),
        (b"\xef\xbb\xbf", "empty"),
        ("x = 1".encode("utf-16-le"), "binary"),
    ],
)
def test_odd_texts_are_taken_or_counted(tmp_path, content, reason):
    folder = write(tmp_path / "in", a_py=content, b_py="y = 2\n")
    assert skipped(folder) == ({reason: 1} if reason else {})
    assert len(documents(folder)) == 2 - bool(reason)


def test_ends_of_lines_and_byte_order_marks_are_made_equal(tmp_path):
    folder = write(tmp_path / "mixed", a_py="\ufeffx\r\ny\r\r\nz\n")
    assert documents(folder) == ["x\ny\n\nz\n"]


def test_what_was_found_is_printed(tmp_path, capsys):
    folder = write(tmp_path / "in", a_py="abc" * 50, b_py="d", c_py="d", e_py="")
    read_corpus(folder)
    out = capsys.readouterr().out
    assert out.startswith(f"{folder}: 2 documents, 151 characters (0 of them <unk>)")
    assert re.search(r"(\d+) ids to learn from, (\d+) to test", out)
    assert "skipped 1: duplicate" in out and "skipped 1: empty" in out


def test_unreadable_files_and_folders_are_counted(tmp_path, monkeypatch):
    folder = write(tmp_path / "in", a_py="x = 1\n", b_py="y = 2\n")
    original, walk = Path.open, os.walk

    def forbidden(path, *args, **options):
        if path.name == "a.py":
            raise PermissionError(13, "Permission denied")
        return original(path, *args, **options)

    def partly(top, onerror):
        onerror(PermissionError(13, "Permission denied", "secret"))
        return walk(top)

    monkeypatch.setattr(Path, "open", forbidden)
    monkeypatch.setattr(os, "walk", partly)
    assert documents(folder) == ["y = 2\n"]
    assert skipped(folder) == {"not readable": 1, "folder not readable": 1}


def test_a_file_that_disappears_is_counted(tmp_path, monkeypatch):
    folder, original = write(tmp_path / "in", a_py="1\n", b_py="2\n"), Path.open

    def vanishing(path, *args, **options):
        if path.name == "a.py":
            path.unlink(missing_ok=True)
        return original(path, *args, **options)

    monkeypatch.setattr(Path, "open", vanishing)
    assert skipped(folder) == {"not readable": 1}


def test_links_are_followed_once_and_loops_have_an_end(tmp_path):
    folder = write(tmp_path / "in", a_py="x = 1\n")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "self.py").symlink_to(folder / "self.py")
    (folder / "nowhere.py").symlink_to(folder / "missing.py")
    (folder / "again.py").symlink_to(folder / "a.py")
    assert documents(folder) == ["x = 1\n"]
    assert skipped(folder) == {
        "not readable": 2,
        "duplicate": 1,
        "linked folder, not followed": 1,
    }


def test_a_linked_folder_is_counted_unless_it_would_be_left_out(tmp_path):
    folder = write(tmp_path / "in", a_py="x = 1\n")
    other = write(tmp_path / "other", b_py="y = 2\n")
    for name in ("more", "again", ".venv", "node_modules"):
        (folder / name).symlink_to(other, target_is_directory=True)
    assert documents(folder) == ["x = 1\n"]
    assert skipped(folder) == {"linked folder, not followed": 2}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    folder = write(tmp_path / "in", a_py="x = 1\n")
    os.mkfifo(folder / "pipe.py")
    (folder / "link.py").symlink_to(folder / "pipe.py")
    assert documents(folder) == ["x = 1\n"]


# --- archives of somebody else ---------------------------------------------


def test_nothing_is_written_whatever_the_names_in_an_archive(tmp_path):
    names = ("../up.py", "/tmp/minigpt-test-absolute.py", "in/side.py")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(name, f"# zip {name}")
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        for name in names:
            member, content = tarfile.TarInfo(name), f"# tar {name}".encode()
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("link.py")
        link.type, link.linkname = tarfile.SYMTYPE, "../../a.zip"
        archive.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    for source in ("a.zip", "b.tar"):
        texts = documents(tmp_path / source)
        assert len(texts) >= 2 and all(text.startswith("# ") for text in texts)
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path(names[1]).exists()


def test_members_that_are_no_files_are_left_out(tmp_path):
    kinds = {
        "device.py": tarfile.CHRTYPE,
        "pipe.py": tarfile.FIFOTYPE,
        "away.py": tarfile.SYMTYPE,
        "hard.py": tarfile.LNKTYPE,
        "folder.py": tarfile.DIRTYPE,
    }
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in kinds.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        member = tarfile.TarInfo("real.py")
        member.size = 6
        archive.addfile(member, io.BytesIO(b"x = 1\n"))
    assert documents(tmp_path / "a.tar") == ["x = 1\n"]


BROKEN = {
    "text.zip": b"not an archive",
    "empty.zip": b"",
    "text.tar": b"not an archive",
    "text.tar.gz": b"not an archive",
    "text.tar.xz": b"\xfd7zXZ\0 and then not an archive",
    "cut.tar.gz": gzip.compress(bytes(range(256)) * 99)[:200],
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_archive_that_is_none_is_refused_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(BROKEN[name])
    with pytest.raises(MiniGPTError, match=f"{name} cannot be read"):
        read_corpus(tmp_path / name)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("format", ["zip", "tar", "gztar", "bztar", "xztar"])
def test_an_archive_that_was_cut_short_is_refused(corpus, tmp_path, format, share):
    archive = Path(shutil.make_archive(str(tmp_path / "a"), format, corpus))
    content = archive.read_bytes()
    archive.write_bytes(content[: int(share * len(content))])
    with pytest.raises(MiniGPTError, match="cannot be read"):
        read_corpus(archive)


@pytest.mark.parametrize("format", ["zip", "gztar", "bztar", "xztar"])
def test_an_archive_with_checksums_that_was_changed_is_refused(tmp_path, format):
    noise = np.random.default_rng(0).bytes(50_000).hex()
    folder = write(tmp_path / "in", a_py="x = 1\n", b_py=noise)
    archive = Path(shutil.make_archive(str(tmp_path / "a"), format, folder))
    content = bytearray(archive.read_bytes())
    middle = len(content) // 2  # so that the beginning can still be read
    content[middle : middle + 20] = b"\xff" * 20
    archive.write_bytes(content)
    with pytest.raises(MiniGPTError, match="cannot be read"):
        read_corpus(archive)


def test_a_damaged_header_in_a_bare_tar_is_refused(corpus, tmp_path):
    """Python's tarfile takes it for the end of the archive."""
    archive = Path(shutil.make_archive(str(tmp_path / "a"), "tar", corpus))
    content = bytearray(archive.read_bytes())
    with tarfile.open(archive) as members:
        header = [*members][20].offset
    content[header : header + 100] = b"\xff" * 100
    archive.write_bytes(content)
    with pytest.raises(MiniGPTError, match="cannot be read.*cut short"):
        read_corpus(archive)


@pytest.mark.parametrize("name", ["missing.py", "missing", "missing.zip"])
def test_a_source_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(MiniGPTError, match=f"no file or folder .*{name}: check"):
        read_corpus(tmp_path / name)


@pytest.mark.parametrize("suffix", ["", ",", " , "])
def test_a_list_of_endings_without_one_is_refused(corpus, suffix):
    with pytest.raises(MiniGPTError, match="no endings .*--suffix"):
        read_corpus(corpus, suffix)


def test_sources_without_a_text_are_refused_with_the_reasons(tmp_path):
    folder = write(tmp_path / "in", a_py=b"\xff", b_txt="b", c_txt="c")
    with pytest.raises(
        MiniGPTError,
        match=r"in has no text in files \*\.py; "
        r"skipped 1: not UTF-8; it has 2 .txt, 1 .py: .*--suffix",
    ):
        read_corpus(folder)
    with pytest.raises(MiniGPTError, match="has no text.* it has no files"):
        read_corpus(write(tmp_path / "empty"))


def test_a_named_file_that_is_no_text_is_told_where(tmp_path):
    """One byte of Windows in a long text would be sought for long."""
    folder = write(tmp_path / "in", a_txt=b"it is\n" * 9999 + b"it\x92s", b_py="")
    with pytest.raises(
        MiniGPTError,
        match=r"a.txt cannot be read \(it is not "
        r"UTF-8: byte 59,996 is 0x92\): .* in UTF-8",
    ):
        read_corpus(folder / "a.txt")
    with pytest.raises(MiniGPTError, match="b.py cannot be read .it is empty"):
        read_corpus(folder / "b.py")


# --- from texts to ids -----------------------------------------------------


def test_rare_characters_are_unknown_and_counted(tmp_path, capsys):
    often = "é\n" * 125_000  # so that rare is what occurs at most twice
    folder = write(tmp_path / "in", a_py=often, b_py="λжж", c_py="λж")
    corpus = read_corpus(folder)
    assert corpus.tokenizer.characters == "\néж"
    assert sum((ids == UNK).sum() for ids in (corpus.train, corpus.val)) == 2
    assert "(2 of them <unk>)" in capsys.readouterr().out


def test_a_tokenizer_that_is_given_is_used(tmp_path):
    folder = write(tmp_path / "in", a_py="abc" + "ab" * 30)
    corpus = read_corpus(folder, tokenizer=Tokenizer("ab"))
    assert corpus.tokenizer.characters == "ab"
    assert corpus.tokenizer.decode(corpus.train)[:4] == "ab\ufffda"


def test_a_text_that_a_tokenizer_hardly_knows_is_refused(tmp_path):
    folder = write(tmp_path / "in", a_txt="学而时习之" * 9 + "ab" * 99)
    with pytest.raises(
        MiniGPTError,
        match="45 of 244 characters are not in the vocabulary of the model: .*--init",
    ):
        read_corpus(folder, ".txt", Tokenizer("ab"))
    assert (read_corpus(folder, ".txt").train > UNK + 2).sum() == 45


# --- the split -------------------------------------------------------------


@pytest.mark.parametrize(
    "documents, cut, where",
    [
        (10, 900, "between two documents"),
        (15, 1300, "between two documents"),
        (2, 180, "within a document"),
        (1, 90, "within a document"),
    ],
)
def test_validation_begins_with_the_document_nearest_to_nine_tenths(
    tmp_path, documents, cut, where, capsys
):
    names = "abcdefghijklmno"[:documents]
    files = {f"{name}_py": name * 99 for name in names}  # and an <eos>
    corpus = read_corpus(write(tmp_path / "in", **files))
    assert (len(corpus.train), len(corpus.val)) == (cut, 100 * documents - cut)
    assert f"split {where}: {cut:,} ids" in capsys.readouterr().out


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=60))
@example([100_000, 100_000, 100_000, 2_000])
@example([2_000, 100_000, 100_000, 100_000])
@example([200_000, 18])
@example([1] * 20)
def test_validation_is_a_tenth_or_so_whatever_the_documents(lengths):
    """Between them where that leaves 5 to 15 percent, else exactly there."""
    ends = np.cumsum(lengths)
    n, cut = int(ends[-1]), choose_cut(ends)
    fair = [end for end in ends.tolist() if 0.05 * n <= n - end <= 0.15 * n]
    assert cut in fair or not fair and cut == n * 9 // 10
    assert all(abs(cut - 0.9 * n) <= abs(end - 0.9 * n) + 1e-9 for end in fair)
    if n >= 20:
        assert 0.05 * n <= n - cut <= 0.15 * n


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=12), st.integers(0, 99))
def test_twenty_windows_of_text_can_be_learned_from(lengths, seed):
    """However it is cut into files, both splits hold a window."""
    rng, T = np.random.default_rng(seed), 32
    lengths += [max(1, 20 * (T + 1) - sum(lengths))]
    ends = np.cumsum(rng.permutation(lengths))
    ids, cut = np.zeros(ends[-1], np.uint8), choose_cut(ends)
    assert Dataset(ids[:cut], T).n_chunks > 0 and Dataset(ids[cut:], T).n_chunks > 0


def test_the_fingerprint_covers_vocabulary_and_both_splits(read):
    other = Tokenizer(read.tokenizer.characters[:-1] + "z")
    changed = read.train.copy()
    changed[7] += 1
    all_of_them = [
        read,
        Corpus(other, read.train, read.val),
        Corpus(read.tokenizer, changed, read.val),
        Corpus(read.tokenizer, read.train[:-1], read.val),
    ]
    assert len({corpus.fingerprint() for corpus in all_of_them}) == 4


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=20), st.integers(1, 9))
def test_pieces_are_the_text(text, size):
    cut = [*pieces(text, size)]
    assert "".join(cut) == text and all(0 < len(piece) <= size for piece in cut)


def test_long_texts_are_encoded_a_piece_at_a_time(tmp_path):
    """At most 4 bytes a character of ASCII, above what importing takes."""
    n = 20_000_000
    (tmp_path / "long.py").write_text("x = 12345\n" * (n // 10))
    tracemalloc.start()
    corpus = read_corpus(tmp_path / "long.py")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(corpus.train) + len(corpus.val) == n + 1
    assert peak < 4 * n + 30e6


# --- windows and batches ---------------------------------------------------


@pytest.fixture(scope="module", params=["train", "val"])
def dataset(request, read) -> Dataset:
    """A split as windows of 32 characters."""
    return Dataset(getattr(read, request.param), context_length=32)


def test_targets_are_the_inputs_shifted_by_one(dataset):
    ids = torch.from_numpy(dataset.ids.astype(np.int64))
    inputs, targets = dataset.windows(np.array([7, 0]))
    assert torch.equal(inputs, torch.stack([ids[7:39], ids[0:32]]))
    assert torch.equal(targets, torch.stack([ids[8:40], ids[1:33]]))
    assert inputs.dtype == targets.dtype == torch.int64


def test_beyond_the_end_are_pads_and_nothing_is_asked(dataset):
    *_, a, b, c = dataset.ids.tolist()
    inputs, targets = dataset.windows(np.array([len(dataset.ids) - 3]))
    assert inputs[0].tolist() == [a, b, c] + 29 * [PAD]
    assert targets[0].tolist() == [b, c] + 30 * [IGNORED]


def test_a_batch_is_a_function_of_its_number_size_and_seed(dataset):
    inputs, targets = dataset.batch(5, 4, seed=3)
    assert inputs.shape == targets.shape == (4, 32)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    dataset.batch(9, 2, seed=1)
    again = Dataset(dataset.ids, 32).batch(5, 4, seed=3)
    assert torch.equal(again[0], inputs) and torch.equal(again[1], targets)


def first_ids(dataset: Dataset, epoch: int, seed: int) -> list[list[int]]:
    """The inputs of an epoch, by hand: of every second chunk what follows its <eos>."""
    T, n, rows = dataset.context_length, dataset.n_chunks, []
    for i, chunk in enumerate(minigpt.shuffled(n, seed, epoch)):
        start = chunk * T
        ends = np.flatnonzero(dataset.ids[start : start + T] == EOS)
        if (epoch * n + i) % 2 and len(ends):
            start = min(start + ends[0], len(dataset.ids) - 1 - T)
        rows += dataset.windows(np.array([start]))[0].tolist()
    return rows


def test_epochs_hold_each_chunk_once_in_an_order_of_their_own(dataset):
    n = dataset.n_chunks
    orders = {
        (seed, epoch): dataset.batch(epoch, n, seed)[0].tolist()
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    }
    for (seed, epoch), order in orders.items():
        assert order == first_ids(dataset, epoch, seed)
    starts = [[tuple(row) for row in order] for order in orders.values()]
    assert all(a != b for a in starts for b in starts if a is not b)


def test_every_end_of_a_file_is_asked_for_and_begun_with_in_some_epoch(
    dataset, monkeypatch
):
    ends = {*(np.flatnonzero(dataset.ids == EOS)).tolist()} - {0}
    ends = {end for end in ends if end < dataset.n_chunks * dataset.context_length}
    asked, begun, original = set(), set(), dataset.windows

    def windows(starts):
        begun.update(starts.tolist())
        asked.update(
            p for start in starts.tolist() for p in range(start + 1, start + 33)
        )
        return original(starts)

    monkeypatch.setattr(dataset, "windows", windows)
    for epoch in range(16):
        dataset.batch(epoch, dataset.n_chunks, seed=0)
    assert ends <= asked and ends <= begun


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 30), max_size=20), st.integers(1, 12), st.integers(1, 12)
)
@example([16], 8, 4)
def test_each_row_of_a_batch_asks_for_as_many_characters(lengths, T, rest):
    """Also where a file ends in the last chunk, and no window fits behind it."""
    ids = np.concatenate(
        [[UNK + 1] * n + [EOS] for n in [T, *lengths]] + [[UNK + 1] * rest]
    )
    dataset = Dataset(ids.astype(np.uint8), T)
    for number in range(4):
        inputs, targets = dataset.batch(number, dataset.n_chunks, seed=0)
        assert (targets != IGNORED).all() and (inputs != PAD).all()
        assert torch.equal(inputs[:, 1:], targets[:, :-1])


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
def test_windows_of_all_starts_ask_for_each_id_once(read, context_length):
    dataset = Dataset(read.val, context_length)
    targets = dataset.windows(dataset.starts())[1]
    assert (targets[targets != IGNORED].numpy() == dataset.ids[1:]).all()
    assert (targets[:, 0] != IGNORED).all()  # no window is in vain


@pytest.mark.parametrize("count", [2, 7, 64])
def test_given_number_of_starts_is_even_and_reaches_both_ends(dataset, count):
    starts = dataset.starts(count)
    assert len(starts) == count
    assert (starts[0], starts[-1]) == (0, len(dataset.ids) - 33)
    assert np.ptp(np.diff(starts)) <= 1
    assert (dataset.starts(count) == starts).all()
    assert (dataset.windows(starts)[1] != IGNORED).all()


def test_a_split_must_hold_a_window_and_a_target(read):
    n = len(read.val)
    assert Dataset(read.val, n - 1).n_chunks == 1
    with pytest.raises(MiniGPTError, match=f"{n} ids, a window takes {n + 1}:"):
        Dataset(read.val, n)


def test_ids_may_lie_in_a_file(read, tmp_path):
    np.save(tmp_path / "ids.npy", read.train)
    mapped = np.load(tmp_path / "ids.npy", mmap_mode="r")
    one, other = Dataset(mapped, 32), Dataset(read.train, 32)
    for i in range(9):
        assert torch.equal(one.batch(i, 4, 0)[0], other.batch(i, 4, 0)[0])


def test_the_default_is_the_corpus_that_comes_with_the_book():
    assert minigpt.CORPUS.name == "python-stdlib.tar.xz"
    corpus = read_corpus()
    assert len(corpus.train) > 9_000_000 and corpus.tokenizer.vocab_size == 99
