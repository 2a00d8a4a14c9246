"""Build the HTML book, and say in the last line which cell failed, if one did.

    python book/_tools/build.py

`execute.py` runs the cells, Jupyter Book does the rest; warnings are errors. A cell
that fails ends the build with a traceback of a hundred lines, whose numbers count from
the cell. The last line that this prints counts from the top of the chapter.
"""

import re
import subprocess
import sys
from pathlib import Path

import tangle

COMMAND = [
    "jupyter-book",
    "build",
    ".",
    "--warningiserror",
    "--nitpick",
    "--keep-going",
]
COLOUR = re.compile(r"\x1b\[[\d;]*m")
PAGE = re.compile(r"ExecutionError: (.+\.md)$", re.M)
FRAME = re.compile(r"In\[(\d+)\], line (\d+)")
ERROR = re.compile(r"^(\w+(?:Error|Exception|Exit|Interrupt)\b.*)", re.M)


def failure(log: str) -> str | None:
    """`book/07_block.md:384: ValueError: ...` from the log of a build.

    The line is the last one of the traceback that is in the chapter. None if
    no cell failed.
    """
    log = COLOUR.sub("", log)
    page = PAGE.search(log)
    if page is None:
        return None
    told = log[log.index("CellExecutionError") :]
    told = told[: told.index("The above exception")]
    ran = [
        cell
        for cell in tangle.cells(Path(page[1]))
        if "skip-execution" not in cell.tags
    ]
    number, line = map(int, FRAME.findall(told)[-1])
    place = tangle.place(Path(page[1]), ran[number - 1].line + line - 1)
    return f"{place}: {ERROR.findall(told)[-1]}"


def main() -> int:
    tools = Path(__file__).parent
    subprocess.run([sys.executable, tools / "execute.py"])  # Jupyter Book runs the rest
    program = Path(sys.executable).with_name(COMMAND[0])
    build = subprocess.Popen(
        [program, *COMMAND[1:]],
        cwd=tangle.TOC.parent,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    log = []
    for line in build.stdout:
        print(line, end="", flush=True)
        log.append(line)
    if build.wait():
        print(failure("".join(log)) or "the build failed; see above")
        return build.returncode
    return subprocess.run([sys.executable, tools / "weights.py"]).returncode


if __name__ == "__main__":
    sys.exit(main())
