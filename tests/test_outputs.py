"""What cells print, in the built pages: as a terminal shows it, with a reader's paths."""

import html
import os
import re
import sys
from pathlib import Path

import pytest

outputs = pytest.importorskip(
    "outputs", reason="needs what builds the book: make .venv/book"
)

ROOT = Path(__file__).resolve().parents[1]
HTML = Path(os.environ.get("BOOK_HTML", ROOT / "_build" / "html"))
PAGES = sorted((ROOT / "book").glob("[0-9A]*.md"))


def stream(text: str, name: str = "stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": text}


def test_what_is_printed_bit_by_bit_is_one_text():
    figure = {"output_type": "display_data", "data": {"text/plain": "<Figure>"}}
    bits = [
        *map(stream, ("def", " ", "f", "()", ":\n", "  ", "x\n")),
        figure,
        stream("done", "stderr"),
        stream("y"),
    ]
    shown = outputs.as_a_terminal_shows_them(bits)
    assert [output.get("text") for output in shown] == [
        "def f():\n  x\ny",
        None,
        "done",
    ]


def test_a_return_goes_back_to_the_beginning_of_the_line():
    assert outputs.as_printed("a\n10%\r 50%\r100%\nb\r\n") == "a\n100%\nb\r\n"


def test_paths_and_commands_are_those_of_a_reader():
    here = Path(sys.executable).with_name("python3")
    for text, shown in (
        (f"{here} /x/lib/ipykernel_launcher.py train", "python3 minigpt.py train"),
        (f"{ROOT}/data/a.tar: 9", "data/a.tar: 9"),
        (f"in {ROOT}", "in ."),
        ("/tmp/tmpab12_x_9/run", "/tmp/scratch/run"),
        ("/tmp/mine", "/tmp/mine"),
    ):
        assert outputs.typable(text).removeprefix(".venv/bin/") == shown
        result = {"output_type": "execute_result", "data": {"text/plain": text}}
        [output] = outputs.as_a_terminal_shows_them([result])
        assert output["data"]["text/plain"].removeprefix(".venv/bin/") == shown


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("REQUIRE_BROWSER") and not HTML.exists(),
    reason="needs the book: make book",
)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_built_page_shows_texts_as_they_were_printed(page):
    """No character stands on a line of its own; no path is the building machine's."""
    source = (HTML / "book" / f"{page.stem}.html").read_text("utf-8")
    printed = [
        html.unescape(re.sub("<[^>]*>", "", text))
        for text in re.findall("<pre>(.*?)</pre>", source, re.S)
    ]
    for text in printed:
        assert not re.search(r"(?:^.?\n){6}", text, re.M), text[:200]
        for foreign in (str(ROOT), "ipykernel", str(Path(sys.executable).parent)):
            assert foreign not in text, text[:200]
        assert not outputs.SCRATCH.search(text), text[:200]
