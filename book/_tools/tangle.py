"""Tangle the chapters of the book into `minigpt.py`.

    python book/_tools/tangle.py                  write minigpt.py
    python book/_tools/tangle.py --force          ... though somebody has edited it
    python book/_tools/tangle.py --check          exit 1, with a diff, if it is stale
    python book/_tools/tangle.py --until 05       print the program after chapter 5
    python book/_tools/tangle.py where 431        say which chapter holds line 431
    python book/_tools/tangle.py where < tb.log   make a traceback name the chapters

The program is every code cell tagged `tangle`, in the order of `_toc.yml`, with
a banner before each chapter. A chapter is a page named `NN_slug.md`. One whose
front matter says `tangle: FILE` becomes that file instead, a companion of the
program; for its lines, give FILE to `where` as well: `where FILE 12`. If that
is a `.js`, it is made of the page's blocks of JavaScript that say so:

    ```{code-block} javascript
    :class: tangle

The last line of a tangled file is the sha256 of all before it. A file that does
not fit its last line was edited by hand, and is not overwritten: the edit is
shown, with the place in the chapters where it belongs.
"""

import __future__

import argparse
import ast
import difflib
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

try:
    import jupytext
    import yaml
    from jupytext.myst import CODE_DIRECTIVE as CODE_CELL
    from jupytext.myst import MystMetadataParsingError, get_parser, read_fenced_cell
    from markdown_it.token import Token
    from mdit_py_plugins.colon_fence import colon_fence_plugin
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
except ImportError as error:
    if __name__ != "__main__":
        raise
    print(
        f"tangle: error: no {error.name} here: make .venv/test first, then "
        f".venv/bin/python book/_tools/tangle.py",
        *sys.argv[1:],
        file=sys.stderr,
    )
    sys.exit(2)

TOC = Path(__file__).resolve().parents[2] / "_toc.yml"
MODULE = "minigpt.py"
COMMENT = {".py": "# ", ".js": "// "}  # how one begins, by the kind of a file
SEAL = "tangled: "  # in a comment, and the sha256 of what is above
TAGS = (
    "tangle naive proof answer timing hide-input hide-output hide-cell remove-input "
    "remove-output remove-cell skip-execution raises-exception"
).split()
OPTIONS = {"tags": TAGS, "mystnb": ["figure", "image"]}
COLUMNS = 80
BANNER = 77  # columns, and 79 as a comment
IMPORTS = {ast.Import, ast.ImportFrom}
PARSER = get_parser().use(colon_fence_plugin)
CHAPTER = re.compile(r"(\d+)_(.+)")  # its file name, without .md
FENCE = re.compile(r"([\s>*+-]|\d+[.)])*(```+|~~~+|:::+)\s*{code-cell}[^`]*$")
BLOCK = "{code-block} javascript"
CLASS = ":class: tangle"
DECLARED = re.compile(r"^(?:async )?(class|function|const|let)\*? (\w+)", re.M)
FRAME = r'File "(?:[^"]*[/\\])?{}", line (\d+)'


class TangleError(Exception):
    """What is wrong with the book, where, and what to do about it."""


def place(path: Path, line: int) -> str:
    """Return a place in the book as `book/05_attention.md:120`."""
    return f"{path.parent.name}/{path.name}:{line}"


def fault(path: Path, line: int, message: str) -> TangleError:
    """Return the error for a place in the book."""
    return TangleError(f"{place(path, line)}: {message}")


def pages(toc: Path = TOC) -> list[Path]:
    """Return all pages of the book, chapters or not, in reading order."""

    def files(entry: Mapping[str, Any]) -> Iterator[str]:
        yield from (entry[key] for key in ("root", "file") if key in entry)
        for key in ("parts", "chapters", "sections"):
            for child in entry.get(key) or ():
                yield from files(child)

    with toc.open(encoding="utf-8") as stream:
        names = list(files(yaml.safe_load(stream)))
    for name in names:
        if not (toc.parent / f"{name}.md").is_file():
            raise TangleError(f"{toc.name}: write {name}.md, or do not list it")
    return [toc.parent / f"{name}.md" for name in names]


def until(paths: Sequence[Path], chapter: str | Path) -> list[Path]:
    """Return the pages up to a chapter, which comes last.

    The chapter is given by its number, slug, file name or path.
    """
    wanted = Path(chapter).stem.zfill(2)
    for count, path in enumerate(paths, 1):
        match = CHAPTER.fullmatch(path.stem)
        if match and wanted in (match[0], match[1], match[2]):
            return list(paths[:count])
    raise TangleError(f"no chapter {str(chapter)!r}: give a number or a file")


@cache
def tokens_of(text: str) -> list[Token]:
    """Return the Markdown tokens of a page, which is parsed once."""
    return PARSER.parse(text)


def title(path: Path) -> tuple[str, int]:
    """Return the first `# ` heading of a page, and its line."""
    tokens = tokens_of(path.read_text(encoding="utf-8"))
    for heading, inline in pairwise(tokens):
        if heading.type == "heading_open" and heading.tag == "h1":
            return inline.content, heading.map[0] + 1
    raise fault(path, 1, "no title: begin the text with a `# ` heading")


def target(path: Path) -> str:
    """Return the file that a page is tangled to, relative to the root.

    Raises TangleError unless that is a file of Python or JavaScript inside.
    """
    tokens = tokens_of(path.read_text(encoding="utf-8"))
    front = [token.content for token in tokens if token.type == "front_matter"]
    file = (yaml.safe_load(front[0]) or {}).get("tangle", MODULE) if front else MODULE
    parts = Path(str(file)).parts
    known = Path(str(file)).suffix in COMMENT
    if not known or ".." in parts or Path(file).is_absolute():
        message = f"tangled to {file!r}: name a .py or .js inside the repository"
        raise fault(path, 1, message)
    return file


@dataclass(frozen=True)
class Cell:
    """A code cell, whose source begins at a line (from 1) of a chapter.

    Or a block of JavaScript, which is shown and tangled but never run here.
    """

    chapter: Path
    line: int
    source: str
    tags: tuple[str, ...]
    language: str = "python"

    def compile(self, flags: int = 0) -> Any:
        """Compile the source so that tracebacks point into the chapter."""
        text = "\n" * (self.line - 1) + self.source
        return compile(text, str(self.chapter), "exec", flags, True)


def read_cell(path: Path, fence: Token) -> Cell:
    """Return the cell of a fence. Raises TangleError as `cells` does."""
    line = fence.map[0] + 1
    try:
        options, body = read_fenced_cell(fence, 0, "Code")
    except (MystMetadataParsingError, yaml.YAMLError):
        options, body = None, []
    if not isinstance(options, dict):
        raise fault(path, line, "unreadable options: write `:tags: [tangle]`")
    for key, values in options.items():
        known = OPTIONS.get(key)
        if known is None:
            message = f"unknown option {key!r}: use {' or '.join(OPTIONS)}"
            raise fault(path, line, message)
        if not isinstance(values, list | dict):
            raise fault(path, line, f"not a list: write `:{key}: [{values}]`")
        for value in values:
            if value not in known:
                message = f"unknown {key} {value!r}: use {', '.join(known)}"
                raise fault(path, line, message)
    tags = tuple(options.get("tags", ()))
    if "tangle" in tags and not CHAPTER.fullmatch(path.stem):
        raise fault(path, line, "tangled outside a chapter: move it to one")
    source = re.sub(r"\A\s*\n", "", "\n".join(body)).rstrip()
    if source not in fence.content:
        message = "a line separator other than a newline: write an escape"
        raise fault(path, line, message)
    last = line + 1 + fence.content.rstrip().count("\n")
    return Cell(path, last - source.count("\n"), source, tags)


def cells(path: Path) -> list[Cell]:
    """Return the code cells of a page, as jupytext reads them.

    Raises TangleError if a cell is nested, has an unknown option or tag, or is
    tangled outside a chapter, and if a page with cells has no front matter.
    """
    text = path.read_text(encoding="utf-8")
    tokens = tokens_of(text)
    fences = [token for token in tokens if token.type == "fence"]
    own = [f for f in fences if f.level == 0 and f.info.startswith(CODE_CELL)]
    shown = [f for f in fences if not f.info.lstrip().startswith("{")]
    literal = {line for fence in own + shown for line in range(*fence.map)}
    for line, string in enumerate(text.split("\n")):
        if FENCE.match(string) and line not in literal:
            message = "a nested cell never runs: move it out, to column 1"
            raise fault(path, line + 1, message)
    if own and "format_name: myst" not in tokens[0].content:
        raise fault(path, 1, "no MyST front matter: copy it from a chapter")
    return [read_cell(path, fence) for fence in own]


def blocks(path: Path) -> list[Cell]:
    """Return the blocks of JavaScript on a page that are to be tangled.

    Raises TangleError if one is nested, or has another option than its class.
    """
    text = path.read_text(encoding="utf-8")
    fences = [token for token in tokens_of(text) if token.type == "fence"]
    shown = {
        line
        for fence in fences
        if not fence.info.lstrip().startswith("{")
        for line in range(*fence.map)
    }
    found, allowed = [], {n + 1 for n in shown}
    for fence in fences:
        option, _, source = fence.content.partition("\n")
        if fence.level or fence.info.strip() != BLOCK or not option.startswith(":"):
            continue
        line = fence.map[0] + 2  # of the option
        if option != CLASS or source.lstrip().startswith(":"):
            raise fault(path, line, f"unknown option: write `{CLASS}` or none")
        allowed.add(line)
        blank = len(source) - len(source.lstrip("\n"))
        source = source.strip("\n")
        found.append(Cell(path, line + 1 + blank, source, ("tangle",), "javascript"))
    for line, string in enumerate(text.split("\n"), 1):
        if string.strip(" >") == CLASS and line not in allowed:
            message = f"not tangled: only {BLOCK} at column 1 is"
            raise fault(path, line, message)
    return found


def tangled_cells(path: Path, file: str) -> list[Cell]:
    """Return what a page adds to its file: cells, or blocks of JavaScript.

    Raises TangleError if it has any of the other kind.
    """
    own, others = [c for c in cells(path) if "tangle" in c.tags], blocks(path)
    if file.endswith(".js"):
        own, others = others, own
    if others:
        raise fault(path, others[0].line, f"no {others[0].language} goes into {file}")
    return own


def bindings(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield each name that a module binds at its top level, and the node."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name, node
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id, node
    elif isinstance(node, ast.alias):
        yield node.asname or node.name, node
    elif not isinstance(node, ast.comprehension):
        for child in ast.iter_child_nodes(node):
            yield from bindings(child)


def declarations(script: str) -> Iterator[tuple[str, int, str]]:
    """Yield (name, line from 1, keyword) of what some JavaScript declares."""
    for match in DECLARED.finditer(script):
        yield match[2], script.count("\n", 0, match.start()) + 1, match[1]


def definitions(tangled: Sequence[Cell]) -> dict[str, tuple[Path, int]]:
    """Return where each top-level name of a program is defined.

    Raises TangleError if a line is too long or not Python, if a name is defined
    twice, if the first cell is not a docstring and imports alone, or if a later
    one imports outside its functions.
    """
    if not tangled:
        raise TangleError("no program: tag its cells with `:tags: [tangle]`")
    places: dict[str, tuple[Path, int]] = {}

    def add(name: str, chapter: Path, line: int) -> None:
        if name in places:
            message = f"{name} is also defined at {place(*places[name])}: rename one"
            raise fault(chapter, line, message)
        places[name] = chapter, line

    for cell in tangled:
        for line, text in enumerate(cell.source.split("\n"), cell.line):
            if len(text) > COLUMNS:
                raise fault(cell.chapter, line, f"wrap it at {COLUMNS} columns")
        if cell.language == "javascript":
            for name, line, _ in declarations(cell.source):
                add(name, cell.chapter, cell.line + line - 1)
            continue
        try:
            module = cell.compile(ast.PyCF_ONLY_AST)
        except SyntaxError as error:
            message = f"not Python: {error.msg}"
            raise fault(cell.chapter, error.lineno, message) from None
        if cell is tangled[0]:
            others = [
                node
                for node in module.body[1:]
                if type(node) not in IMPORTS
                and not ast.unparse(node).startswith("sys.path.append(")
            ]
            if others or not ast.get_docstring(module):
                message = "begin with the program's docstring and imports alone"
                raise fault(cell.chapter, cell.line, message)
        for name, node in bindings(module):
            if isinstance(node, ast.alias) and cell is not tangled[0]:
                message = f"import {name} in the program's first cell"
                raise fault(cell.chapter, node.lineno, message)
            add(name, cell.chapter, node.lineno)
    return places


@dataclass(frozen=True)
class Program:
    """A module's text, the origin of each of its lines, and its cells."""

    text: str
    origins: list[tuple[Path, int]]
    cells: list[Cell]
    file: str = MODULE

    def where(self, line: int) -> str:
        """Return the place that a line (from 1) of the text comes from.

        Raises TangleError if there is no such line.
        """
        last = len(self.origins)
        if not 1 <= line <= last:
            raise TangleError(f"no line {line}: give one from 1 to {last}")
        return place(*self.origins[line - 1])

    def rewrite(self, traceback: str) -> str:
        """Return a traceback with chapters named in place of the file."""

        def frame(match: re.Match[str]) -> str:
            try:
                name, line = self.where(int(match[1])).split(":")
            except TangleError:
                return match[0]
            return f'File "{name}", line {line}'

        name = re.escape(Path(self.file).name)
        return re.sub(FRAME.format(name), frame, traceback)

    def load(self, name: str) -> ModuleType:
        """Run the cells as a new module, entered in sys.modules by its name."""
        module = sys.modules[name] = ModuleType(name)
        module.__file__ = str(self.cells[0].chapter.parents[1] / self.file)
        flags = 0
        for cell in self.cells:
            code = cell.compile(flags)
            flags |= code.co_flags & __future__.annotations.compiler_flag
            exec(code, vars(module))
        return module


def seal(text: str, file: str = MODULE) -> str:
    """Return a file's text with a last line that tells whether it was edited."""
    comment = COMMENT[Path(file).suffix]
    return f"{text}\n\n{comment}{SEAL}{hashlib.sha256(text.encode()).hexdigest()}\n"


def banner(chapter: Path, title: str) -> str:
    """Return what stands before a chapter's cells, as a comment without its sign."""
    number = int(chapter.stem.partition("_")[0])
    file = f"{chapter.parent.name}/{chapter.name}"
    return f"{number}. {title} ({file}) ".ljust(BANNER, "-")


def write_script(tangled: Sequence[Cell], titles: dict[Path, tuple[str, int]]) -> str:
    """Return the text of a program in JavaScript, which `write` describes."""
    first, *rest = tangled
    text, chapter = first.source, None
    for block in rest:
        if block.chapter != chapter:
            chapter = block.chapter
            text += f"\n\n{COMMENT['.js']}{banner(chapter, titles[chapter][0])}"
        text += f"\n\n{block.source}"
    return text + "\n"


def write(tangled: Sequence[Cell], titles: dict[Path, tuple[str, int]]) -> str:
    """Return the text of a program: its first cell, then banners and cells."""
    if tangled[0].language == "javascript":
        return write_script(tangled, titles)
    written = [new_code_cell(tangled[0].source)]
    chapter = None
    for cell in tangled[1:]:
        if cell.chapter != chapter:
            chapter = cell.chapter
            written[-1].metadata.lines_to_next_cell = 2
            written.append(new_markdown_cell(banner(chapter, titles[chapter][0])))
        written.append(new_code_cell(cell.source))
    options = {"notebook_metadata_filter": "-all", "comment_magics": False}
    notebook = new_notebook(cells=written, metadata={"jupytext": options})
    form = {"extension": ".py", "format_name": "nomarker"}
    return jupytext.writes(notebook, form).rstrip("\n") + "\n"


def tangle(paths: Sequence[Path], file: str = MODULE) -> Program:
    """Return the program of a book's pages, or of those until a chapter.

    It is that of the pages which are tangled to the file. Raises TangleError
    for what `tangled_cells`, `definitions` and `target` refuse.
    """
    paths = [path for path in paths if target(path) == file]
    tangled = [cell for path in paths for cell in tangled_cells(path, file)]
    definitions(tangled)  # raises if a rule is broken
    titles = {cell.chapter: title(cell.chapter) for cell in tangled}
    text = write(tangled, titles)
    origins: list[tuple[Path, int]] = []
    padded, end = "\n" + text, 0
    for cell in tangled:
        start = padded.find(f"\n{cell.source}\n", end)
        if start < 0:
            message = "jupytext would alter this cell: write it differently"
            raise fault(cell.chapter, cell.line, message)
        gap = padded[end:start]  # blank lines, or a banner and blank lines
        first = titles[cell.chapter][1] if gap.strip() else cell.line
        origins += [(cell.chapter, first)] * gap.count("\n")
        last = cell.line + cell.source.count("\n")
        origins += [(cell.chapter, n) for n in range(cell.line, last + 1)]
        end = start + 1 + len(cell.source)
    return Program(text, origins, tangled, file)


def oracle(
    chapter: str | Path, name: str, given: Mapping[str, Any], toc: Path = TOC
) -> Any:
    """Return the function or class that an untangled cell of a chapter defines.

    The cell runs by itself, with the given names: `vars(minigpt)`, say. Raises
    TangleError unless exactly one cell defines the name.
    """
    path = until(pages(toc), chapter)[-1]
    opening = re.compile(rf"^(async def|def|class) {name}\b", re.MULTILINE)
    untangled = [cell for cell in cells(path) if "tangle" not in cell.tags]
    found = [cell for cell in untangled if opening.search(cell.source)]
    if len(found) != 1:
        message = f"{len(found)} untangled cells define {name}: keep one"
        raise fault(path, 1, message)
    namespace = dict(given)
    exec(found[0].compile(), namespace)
    return namespace[name]


def difference(program: Program, current: str) -> list[str]:
    """Return a unified diff from a file's text to the program's."""
    old, new = current.splitlines(), seal(program.text, program.file).splitlines()
    name = Path(program.file).name
    return list(difflib.unified_diff(old, new, name, "the chapters", lineterm=""))


def edits(program: Program, current: str) -> list[str]:
    """Return the places in the chapters where a file's text is another."""
    mark = COMMENT[Path(program.file).suffix] + SEAL
    old = [line for line in current.splitlines() if not line.startswith(mark)]
    new = [*program.text.splitlines(), "", ""]
    parts = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    lines = [start + 1 for tag, *_, start, _ in parts if tag != "equal"]
    last = len(program.origins)
    places = [program.where(min(line, last)) for line in lines or [last]]
    return list(dict.fromkeys(places))


def save(program: Program, root: Path, force: bool = False) -> None:
    """Write a program to its file under a folder, and say so.

    Raises TangleError, after a diff, if the file was edited by hand.
    """
    path = root / program.file
    current = path.read_text(encoding="utf-8") if path.exists() else ""
    body = current.rpartition(f"\n\n{COMMENT[path.suffix]}{SEAL}")[0]
    if current and current != seal(body, program.file) and not force:
        print(*difference(program, current), sep="\n")
        places = ", ".join(edits(program, current))
        message = f"{program.file} was edited by hand: make the change in {places}"
        raise TangleError(f"{message}, or lose it with --force")
    temporary = path.with_suffix(".tmp")
    sealed = seal(program.text, program.file)
    temporary.write_text(sealed, encoding="utf-8", newline="\n")
    temporary.replace(path)
    lines, chapters = len(program.origins), {c.chapter for c in program.cells}
    plural = "s" if len(chapters) > 1 else ""
    print(f"{program.file}: {lines} lines from {len(chapters)} chapter{plural}")


def run(args: argparse.Namespace, toc: Path) -> int:
    """Do what the command line says. Return 1 if --check fails, else 0."""
    if args.until is not None:
        paths = until(pages(toc), args.until)
        print(tangle(paths, target(paths[-1])).text, end="")
        return 0
    files = dict.fromkeys([MODULE, *map(target, pages(toc))])
    programs = [tangle(pages(toc), file) for file in files]
    if not args.check and args.command is None:
        for program in programs:
            save(program, toc.parent, args.force)
        return 0
    stale = {}
    for program in programs:
        path = toc.parent / program.file
        current = path.read_text(encoding="utf-8") if path.exists() else ""
        stale[program.file] = difference(program, current)
    if args.command == "where":
        for file in filter(stale.get, stale):
            print(f"tangle: note: {file} is stale", file=sys.stderr)
        show_where(args.lines, programs)
        return 0
    for line in sum(stale.values(), []):
        print(line)
    return int(any(stale.values()))


def show_where(words: Sequence[str], programs: Sequence[Program]) -> None:
    """Print the places of lines, `FILE LINE ...` or `LINE ...`.

    Without any, print the traceback on stdin, with places in it.
    """
    if not words:
        text = sys.stdin.read()
        for program in programs:
            text = program.rewrite(text)
        print(text, end="")
        return
    file, lines = MODULE, words
    if not words[0].isdigit():
        file, *lines = words
    known = {program.file: program for program in programs}
    if file not in known:
        raise TangleError(f"no file {file!r}: give one of {', '.join(known)}")
    if not lines or not all(line.isdigit() for line in lines):
        raise TangleError(f"no line {' '.join(lines)!r}: give whole numbers")
    print(*(known[file].where(int(line)) for line in lines), sep="\n")


def main(argv: Sequence[str] | None = None, toc: Path = TOC) -> int:
    """Run the command line, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="tangle",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true")
    mode.add_argument("--force", action="store_true")
    mode.add_argument("--until", metavar="CHAPTER")
    where = parser.add_subparsers(dest="command").add_parser("where")
    where.add_argument("lines", metavar="LINE", nargs="*")
    args = parser.parse_args(argv)
    if args.command and (args.check or args.force or args.until is not None):
        parser.error("where goes without --check, --force and --until")
    try:
        return run(args, toc)
    except (TangleError, OSError, yaml.YAMLError) as error:
        print("tangle: error:", " ".join(str(error).split()), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
