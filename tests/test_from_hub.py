"""data/from_hub.py, on small Parquet and JSON lines files made here."""

import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import pytest

from minigpt import read_documents

SCRIPT = Path(__file__).parents[1] / "data" / "from_hub.py"
spec = importlib.util.spec_from_file_location("from_hub", SCRIPT)
from_hub = importlib.util.module_from_spec(spec)
spec.loader.exec_module(from_hub)

ROWS = [
    {"content": f"x = {i}\n" * 99, "lang": ["Python", "C"][i % 2]} for i in range(20)
]


def test_rows_are_taken_until_there_is_enough():
    taken = [*from_hub.texts(iter(ROWS), "", [], 1000, from_hub.Slice())]
    assert taken == [row["content"] for row in ROWS[:2]]
    only_c = [
        *from_hub.texts(iter(ROWS), "content", ["lang=C"], 10**9, from_hub.Slice())
    ]
    assert only_c == [row["content"] for row in ROWS[1::2]]


@pytest.mark.parametrize(
    "column, where", [("body", []), ("", ["license=MIT"]), ("lang2", [])]
)
def test_a_column_that_is_not_there_is_named_beside_those_that_are(column, where):
    with pytest.raises(from_hub.HubError, match="content, lang.*--column"):
        [*from_hub.texts(iter(ROWS), column, where, 100, from_hub.Slice())]


def test_without_the_library_one_line_says_what_to_install(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert from_hub.main(["json", str(tmp_path / "a.tar.gz")]) == 2
    assert capsys.readouterr().err == (
        "from_hub: error: the library datasets is not installed: "
        "pip install -e '.[hub]'\n"
    )
    assert not os.listdir(tmp_path)


@pytest.fixture
def offline(monkeypatch):
    """Let nothing look for a hub, and keep caches out of the home folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("datasets", reason="needs pip install -e '.[hub]'")


@pytest.fixture(params=["json", "parquet"])
def source(request, offline, tmp_path) -> list[str]:
    """A data set of 20 rows in a file, as arguments of the script."""
    path = tmp_path / f"rows.{request.param}"
    if request.param == "json":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return [request.param, "--files", str(path)]


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.xz"])
def test_a_slice_becomes_an_archive_that_train_reads(source, tmp_path, capsys, ending):
    archive = tmp_path / f"out.{ending}"
    assert from_hub.main([*source, str(archive), "--where", "lang=Python"]) == 0
    assert "10 texts" in capsys.readouterr().out
    texts, skipped = read_documents(archive, (".py",))
    assert sorted(texts) == sorted(row["content"] for row in ROWS[::2])
    assert not skipped


@pytest.mark.parametrize(
    "words, reason",
    [
        (["--column", "nothing"], "'nothing'.*content, lang"),
        (["--where", "lang=Cobol"], "no row fits"),
        (["--where", "lang"], "COLUMN=VALUE"),
        (["--split", "moon"], "cannot be read"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_writes_nothing(
    source, tmp_path, capsys, words, reason
):
    before = sorted(tmp_path.iterdir())
    assert from_hub.main([*source, str(tmp_path / "out.tar.gz"), *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("from_hub: error: ") and err.count("\n") == 1
    assert re.search(reason, err)
    assert sorted(tmp_path.iterdir()) == before


def test_an_archive_of_another_kind_is_refused(capsys):
    assert from_hub.main(["json", "out.txt"]) == 2
    assert "out.txt: end its name in" in capsys.readouterr().err


# --- rows that are not as they should be ------------------------------------


@pytest.fixture
def take(tmp_path, monkeypatch, capsys):
    """Make an archive of rows: exit status, its texts or None, stdout and stderr."""

    def make(rows, *words) -> tuple[int, list[str] | None, str, str]:
        monkeypatch.setattr(from_hub, "stream", lambda args: rows)
        archive = tmp_path / "out.tar.gz"
        status = from_hub.main(["json", str(archive), *words])
        texts = (
            sorted(read_documents(archive, (".py",))[0]) if archive.exists() else None
        )
        assert [*tmp_path.iterdir()] == [archive] * (texts is not None)
        return status, texts, *capsys.readouterr()

    return make


@pytest.mark.parametrize(
    "bad",
    [
        {"text": None},
        {"text": ""},
        {"text": b"x = 1"},
        {"text": 7},
        {"text": ["x"]},
        {"body": "y = 1"},
        {},
    ],
    ids=repr,
)
def test_a_row_without_a_text_is_skipped_and_counted(take, bad):
    good = [{"text": "a = 1\n"}, {"text": "b = 2\n"}]
    for rows in ([good[0], bad, good[1], bad], [bad, bad, *good]):
        status, texts, out, err = take(rows)
        assert (status, err) == (0, "") and texts == ["a = 1\n", "b = 2\n"]
        assert "2 texts, 12 characters (2 rows without a text skipped); learn" in out
    assert "skipped" not in take(good)[2]


def test_only_if_the_first_hundred_rows_have_no_text_it_asks_for_a_column(take):
    empty, full = {"text": None, "body": "x"}, {"text": "a = 1\n", "body": "x"}
    assert take([empty] * 99 + [full])[:2] == (0, ["a = 1\n"])
    take([full])
    status, _, out, err = take([empty] * 100 + [full])
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert "first 100 rows" in err and "choose among text, body with --column" in err
    assert take([empty] * 100, "--column", "body")[0] == 0


def test_a_column_is_chosen_that_has_texts(take):
    rows = [{"content": None, "code": f"x = {i}\n"} for i in range(2)]
    assert take(rows)[1] == ["x = 0\n", "x = 1\n"]


def test_a_lone_surrogate_becomes_a_question_mark(take):
    assert take([{"text": "a = '\ud800'\n"}])[:2] == (0, ["a = '?'\n"])


def test_null_is_no_value_that_where_asks_for(take):
    rows = [
        {"text": f"x = {i}\n", **more}
        for i, more in enumerate([{"lang": None}, {"lang": "None"}, {}, {"lang": "C"}])
    ]
    assert take(rows, "--where", "lang=None")[1] == ["x = 1\n"]
    assert take(rows, "--where", "lang=C")[1] == ["x = 3\n"]


def broken(count: int):
    yield from ({"text": f"x = {i}\n"} for i in range(count))
    raise ConnectionError("the line\nis dead")


@pytest.mark.parametrize("count", [3, 250])
def test_a_stream_that_breaks_off_leaves_what_came_before_and_says_so(take, count):
    status, texts, out, err = take(broken(count))
    assert status == 1 and texts == sorted(f"x = {i}\n" for i in range(count))
    assert f"{count} texts" in out and err == (
        "from_hub: the stream broke off, and the archive holds what came before: "
        "the line is dead\n"
    )


def test_a_stream_that_breaks_off_does_not_replace_an_archive(take):
    take([{"text": "precious"}])
    status, texts, out, err = take(broken(3))
    assert (status, texts, out) == (2, ["precious"], "")
    assert err.count("\n") == 1 and "after 3 texts (the line is dead); " in err
    assert "out.tar.gz is as it was" in err


def test_a_stream_without_a_row_writes_nothing(take):
    status, texts, _, err = take(broken(0))
    assert (status, texts) == (2, None) and "the line is dead" in err
    status, texts, _, err = take([])
    assert (status, texts) == (2, None) and "no row fits" in err


def test_ctrl_c_writes_nothing_and_says_so(take):
    def rows():
        yield {"text": "x = 1\n"}
        raise KeyboardInterrupt

    status, texts, out, err = take(rows())
    assert (status, texts, out) == (130, None, "")
    assert err.startswith("from_hub: interrupted; nothing") and err.count("\n") == 1


@pytest.mark.parametrize(
    "words, reason",
    [
        (["out.tar", "--megabytes", "0"], "--megabytes 0: give more"),
        (["out.tar", "--megabytes", "-1"], "--megabytes -1: give more"),
        (["out.tar", "--megabytes", "nan"], "--megabytes nan: give more"),
        (["nowhere/out.tar"], "nowhere is no folder"),
        (["a.tar"], "a.tar is a folder"),
    ],
)
def test_what_can_be_known_before_is_said_before_anything_is_read(
    tmp_path, monkeypatch, capsys, words, reason
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(from_hub, "stream", None)
    Path("a.tar").mkdir()
    assert from_hub.main(["json", *words]) == 2
    err = capsys.readouterr().err
    assert reason in err and err.count("\n") == 1
    assert os.listdir() == ["a.tar"]


def test_all_of_a_data_set_is_so_many_megabytes(take):
    rows = [{"text": f"x = {i}\n"} for i in range(120)]
    assert len(take(rows, "--megabytes", "inf")[1]) == 120
    assert len(take(rows, "--megabytes", "0.0000001")[1]) == 1
