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

ROWS = [{"content": f"x = {i}\n" * 99, "lang": ["Python", "C"][i % 2]}
        for i in range(20)]


def test_rows_are_taken_until_there_is_enough():
    taken = [*from_hub.texts(iter(ROWS), "", [], 1000)]
    assert taken == [row["content"] for row in ROWS[:2]]
    only_c = [*from_hub.texts(iter(ROWS), "content", ["lang=C"], 10**9)]
    assert only_c == [row["content"] for row in ROWS[1::2]]


@pytest.mark.parametrize("column, where", [
    ("body", []), ("", ["license=MIT"]), ("lang2", [])])
def test_a_column_that_is_not_there_is_named_beside_those_that_are(column, where):
    with pytest.raises(from_hub.HubError, match="content, lang.*--column"):
        [*from_hub.texts(iter(ROWS), column, where, 100)]


def test_without_the_library_one_line_says_what_to_install(
        tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert from_hub.main(["json", str(tmp_path / "a.tar.gz")]) == 2
    assert capsys.readouterr().err == (
        "from_hub: error: the library datasets is not installed: "
        "pip install -e .[hub]\n")
    assert not os.listdir(tmp_path)


@pytest.fixture
def offline(monkeypatch):
    """Let nothing look for a hub, and keep caches out of the home folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("datasets", reason="needs pip install -e .[hub]")


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


@pytest.mark.parametrize("words, reason", [
    (["--column", "nothing"], "'nothing'.*content, lang"),
    (["--where", "lang=Cobol"], "no row fits"), (["--where", "lang"], "COLUMN=VALUE"),
    (["--split", "moon"], "cannot be read")])
def test_what_cannot_be_done_is_one_line_and_writes_nothing(
        source, tmp_path, capsys, words, reason):
    before = sorted(tmp_path.iterdir())
    assert from_hub.main([*source, str(tmp_path / "out.tar.gz"), *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("from_hub: error: ") and err.count("\n") == 1
    assert re.search(reason, err)
    assert sorted(tmp_path.iterdir()) == before


def test_an_archive_of_another_kind_is_refused(capsys):
    assert from_hub.main(["json", "out.txt"]) == 2
    assert "out.txt: end its name in" in capsys.readouterr().err
