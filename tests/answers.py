"""Do the tests of the exercises fail before their solutions and pass after?

    python tests/answers.py            all chapters
    python tests/answers.py 05 08      two of them

A chapter's tests are tests/exercises/test_NN_*.py. The solution to one is the
cells tagged `answer` between the place where the page names the test and that
where it names the next; their definitions take the place of those of the
program that have the same name. Exits with 1 if a test passes without
its answer, or fails with it.
"""

import ast
import re
import sys
from pathlib import Path

import bite
import tangle

EXERCISES = Path(__file__).parent / "exercises"


def answered(program: tangle.Program, page: Path, test: Path) -> tangle.Program:
    """The program with the definitions of a test's `answer` cells."""
    lines = enumerate(page.read_text("utf-8").splitlines(), 1)
    named = [
        (line, name)
        for line, text in lines
        for name in re.findall(r"tests/exercises/(test_\w+)\.py", text)
    ]
    first = next(line for line, name in named if name == test.stem)
    last = min(
        [line for line, name in named if line > first and name != test.stem]
        or [sys.maxsize]
    )
    found = [
        cell
        for cell in tangle.cells(page)
        if "answer" in cell.tags and first < cell.line < last
    ]
    assert found, f"{page.name} has no cell tagged `answer` for {test.name}"
    for cell in found:
        program = merged(program, cell)
    return program


def merged(program: tangle.Program, answer: tangle.Cell) -> tangle.Program:
    """The program with an answer's definitions in place of its own.

    What the answer defines anew goes before the first one that it replaces.
    """
    lines, new = answer.source.split("\n"), []
    for node in ast.parse(answer.source).body:
        source = "\n".join(lines[bite.first_line(node) - 1 : node.end_lineno])
        names = {name for name, _ in tangle.bindings(node)}
        place = next(
            (
                (cell, old)
                for cell in program.cells
                for old in ast.parse(cell.source).body
                if names & {name for name, _ in tangle.bindings(old)}
                and not isinstance(old, (ast.Import, ast.ImportFrom))
            ),
            None,
        )
        if place is None:
            new.append(source)
            continue
        cell, old = place
        code = cell.source.split("\n")
        code[bite.first_line(old) - 1 : old.end_lineno] = [*new, source]
        new = []
        program = bite.changed(program, cell, "\n".join(code))
    assert not new, f"the last definition of {answer.chapter.name} is new"
    return program


def main(chapters: list[str]) -> int:
    wrong, program = 0, tangle.tangle(tangle.pages())
    for test in sorted(EXERCISES.glob("test_*.py")):
        number = test.stem.split("_")[1]
        if chapters and number not in chapters:
            continue
        page = tangle.until(tangle.pages(), number)[-1]
        before = bite.passes(program, [test])
        after = bite.passes(answered(program, page, test), [test])
        words = {True: "passes", False: "fails"}
        print(f"{test.stem}: {words[before]} before, {words[after]} after")
        wrong += before or not after
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
