"""Exercise "Lines that nobody wrote" of chapter 3: long lines are skipped."""

import io
import re

import pytest

from minigpt import prepare, read_text

REASON = re.compile("line.*1,?000")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", ""])
def test_a_line_of_more_than_1000_characters_is_a_reason_to_skip(end):
    long = f"x = 1\n{1001 * '#'}{end}"
    text, reason = read_text(lambda: io.BytesIO(long.encode()), unicode=False)
    assert text == "" and REASON.search(reason)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_long_document_of_shorter_lines_is_taken(end):
    text = f"{1000 * '#'}{end}" * 9
    taken = read_text(lambda: io.BytesIO(text.encode()), unicode=False)
    assert taken == (text.replace(end, "\n"), "")


def test_what_is_skipped_is_counted(tmp_path):
    (tmp_path / "long.py").write_text(2000 * "x")
    (tmp_path / "short.py").write_text("x = 1\n")
    (tmp_path / "empty.py").write_text("")
    meta = prepare([tmp_path], tmp_path / "out")
    assert meta["documents"] == 1 and meta["skipped"].pop("empty") == 1
    (reason, count), = meta["skipped"].items()
    assert count == 1 and REASON.search(reason)
