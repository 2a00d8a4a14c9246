"""Exercise "Lines that nobody wrote" of chapter 3: long lines are skipped."""

import io
import re

import pytest

from minigpt import read_documents, read_text

REASON = re.compile("line.*1,?000")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", ""])
def test_a_line_of_more_than_1000_characters_is_a_reason_to_skip(end):
    long = f"x = 1\n{1001 * '#'}{end}"
    text, reason = read_text(lambda: io.BytesIO(long.encode()))
    assert text == "" and REASON.search(reason)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_long_document_of_shorter_lines_is_taken(end):
    text = f"{1000 * '#'}{end}" * 9
    taken = read_text(lambda: io.BytesIO(text.encode()))
    assert taken == (text.replace(end, "\n"), "")


def test_what_is_skipped_is_counted(tmp_path):
    (tmp_path / "long.py").write_text(2000 * "x")
    (tmp_path / "short.py").write_text("x = 1\n")
    (tmp_path / "empty.py").write_text("")
    texts, skipped = read_documents(tmp_path, (".py",))
    assert texts == ["x = 1\n"] and skipped.pop("empty") == 1
    ((reason, count),) = skipped.items()
    assert count == 1 and REASON.search(reason)
