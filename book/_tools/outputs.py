"""Sphinx extension: what a cell printed, as a reader's own terminal would show it.

A text that is printed bit by bit is one text, with every space that is in it. (MyST-NB
strips each bit, and puts it on a line of its own.) And paths are such as a reader could
type: not those of the machine that builds the book, its temporary folders, or the
program that runs notebooks.
"""

import re
import sys
import tempfile
from pathlib import Path

import myst_nb.core.render
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
SCRATCH = re.compile(re.escape(tempfile.gettempdir()) + r"/tmp\w{8}")


def typable(text: str) -> str:
    """The text with paths and commands as they are in a reader's checkout."""
    text = re.sub(r"\S*ipykernel_launcher\.py", "minigpt.py", text)
    text = text.replace(str(Path(sys.executable).parent), ".venv/bin")
    text = text.replace(f"{ROOT}/", "").replace(str(ROOT), ".")
    return SCRATCH.sub("/tmp/scratch", text)


def as_printed(text: str) -> str:
    """The text that is left on a terminal, where `\\r` goes back in the line."""
    return re.sub(r"[^\n]*\r(?!\n)", "", text)


def as_a_terminal_shows_them(outputs: list) -> list:
    """Outputs of a cell (notebook nodes), those to one stream made one."""
    shown, streams = [], {}
    for output in outputs:
        if output["output_type"] != "stream":
            data = output.get("data", {})
            if "text/plain" in data:
                data["text/plain"] = typable(data["text/plain"])
            shown.append(output)
        elif output["name"] in streams:
            streams[output["name"]]["text"] += output["text"]
        else:
            streams[output["name"]] = output
            shown.append(output)
    for output in streams.values():
        output["text"] = typable(as_printed(output["text"]))
    # they come by two ways, so what Python printed first is a matter of chance
    return sorted(shown, key=lambda output: output.get("name") == "stderr")


def setup(app: Sphinx) -> dict:
    """Put it in the place of MyST-NB's own, which `nb_merge_streams` calls."""
    myst_nb.core.render.coalesce_streams = as_a_terminal_shows_them
    return {"parallel_read_safe": True, "parallel_write_safe": True}
