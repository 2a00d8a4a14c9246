"""The tangler, on small books that each test writes for itself."""

import dataclasses
import io
import re
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from jupytext.myst import myst_to_notebook

import tangle

FRONT = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""


def cell(source: str, *tags: str, fence: str = "```") -> str:
    """Return a code cell, tagged `tangle` if no tags are given."""
    options = f":tags: [{', '.join(tags or ('tangle',))}]"
    return f"{fence}{{code-cell}} python\n{options}\n\n{source}\n{fence}\n"


def page(title: str, *parts: str) -> str:
    """Return a page whose title is on line 11 and first part on line 13."""
    return FRONT + f"# {title}\n\n" + "\n".join(parts)


# The first cell of a program. After it, the next part is on line 21 and, if
# that is a cell, its source is on line 24.
HEAD = cell('"""A program."""\n\nimport math')


def write_book(root: Path, pages: dict[str, str]) -> Path:
    """Write the pages and a table of contents, and return its path."""
    (root / "book").mkdir()
    toc = root / "_toc.yml"
    toc.write_text("root: book/index\nparts:\n- chapters:\n", encoding="utf-8")
    for name, text in {**pages, "index": "# The book\n"}.items():
        (root / "book" / f"{name}.md").write_text(text, encoding="utf-8")
    with toc.open("a") as stream:
        stream.writelines(f"  - file: book/{name}\n" for name in pages)
    return toc


def program(toc: Path) -> tangle.Program:
    return tangle.tangle(tangle.pages(toc))


def first(*parts: str) -> dict[str, str]:
    """The page of a chapter: the first cell, and then the parts."""
    return {"01_first": page("First", HEAD, *parts)}


def one_page(root: Path, *parts: str) -> Path:
    """Write a book whose one chapter is the first cell and then the parts."""
    return write_book(root, first(*parts))


def change(toc: Path, name: str, old: str, new: str) -> None:
    """Change a page of a book."""
    path = toc.parent / "book" / f"{name}.md"
    path.write_text(path.read_text().replace(old, new))


def refusal(toc: Path) -> str:
    """Return the message with which a book is refused."""
    with pytest.raises(tangle.TangleError) as error:
        program(toc)
    return str(error.value)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A book of two chapters, whose program is GOLDEN."""
    naive = "def root(x):\n    return x**0.5\n\ndef fail(x):\n    x / 0"
    pages = {
        "01_roots": page(
            "Roots",
            HEAD,
            "First the naive way.\n",
            cell(naive, "naive"),
            cell("TWO = 2"),
            cell("# Not x**0.5.\ndef root(x):\n    return math.sqrt(x)"),
        ),
        "02_squares": page(
            "Squares: the way back",
            cell("def square(x):\n    return x**TWO"),
            cell("LIMIT, *REST = 9, 8, 7\nEND: int = 1 // LIMIT"),
        ),
    }
    return write_book(tmp_path, pages)


ROOTS = "# 1. Roots (book/01_roots.md) ".ljust(79, "-")
SQUARES = "# 2. Squares: the way back (book/02_squares.md) ".ljust(79, "-")
GOLDEN = f'''\
"""A program."""

import math


{ROOTS}

TWO = 2


# Not x**0.5.
def root(x):
    return math.sqrt(x)


{SQUARES}

def square(x):
    return x**TWO


LIMIT, *REST = 9, 8, 7
END: int = 1 // LIMIT
'''


# The text of the program


def test_program_is_its_tagged_cells_under_a_banner_per_chapter(book):
    assert program(book).text == GOLDEN


def test_same_book_always_gives_the_same_program(book):
    assert program(book) == program(book)


def test_two_blank_lines_stand_before_a_banner_even_between_constants(tmp_path):
    pages = {
        "01_a": page("A", HEAD, cell("ONE = 1")),
        "02_b": page("B", cell("TWO = 2")),
    }
    text = program(write_book(tmp_path, pages)).text
    assert "\n\nONE = 1\n\n\n# 2. B" in text


def test_chapter_with_nothing_below_a_banner_has_no_banner(tmp_path):
    pages = {
        "01_a": page("A", HEAD),
        "02_b": page("B", cell("1 + 1", "proof")),
        "03_c": page("C", cell("THREE = 3")),
    }
    text = program(write_book(tmp_path, pages)).text
    assert [line for line in text.splitlines() if ". " in line] == [
        "# 3. C (book/03_c.md) ".ljust(79, "-")
    ]


VERBATIM = {
    "magics in a string": 'X = """\n%matplotlib inline\n!ls\n%%time\n?x\n"""',
    "markers in a string": 'X = """\n# +\n# %%\n# -\n```{code-cell}\n```\n"""',
    "marker comments": "# %% [markdown]\n# -\n# In[1]:\nX = 1",
    "shell-like names": "ls = 1\n# !ls\n# %cd",
    "decorators": "@max\n@(\n    min\n)\nclass A:\n    x: int = 1",
    "blank lines": "def f():\n\n\n\n    return 1\n\n\n\nX = 1",
    "spaces at a line's end": "X = '''  \n  '''",
    "not ASCII": "X = 'naïve → 𝔸'",
    "ends in a comment": "def f():\n    return 1\n    # the end",
    "an import inside": "def f():\n    import os\n    return os",
}


@pytest.mark.parametrize("source", VERBATIM.values(), ids=VERBATIM.keys())
def test_cells_are_written_verbatim(tmp_path, source):
    toc = one_page(tmp_path, cell(source, fence="````"))
    assert f"\n{source}\n" in program(toc).text


def test_blank_lines_around_a_cells_source_are_dropped(tmp_path):
    written = program(one_page(tmp_path, cell("\n \nX = 1\n  \n")))
    assert written.cells[1].source == "X = 1"
    assert written.cells[1].line == 26


def test_title_is_not_looked_for_inside_code(tmp_path):
    text = FRONT + "```\n# Not this\n```\n(label)=\n# This\n\n" + HEAD
    write_book(tmp_path, {"01_a": text})
    assert tangle.title(tmp_path / "book" / "01_a.md") == ("This", 15)


# Pages and cells


def test_pages_are_listed_depth_first(tmp_path):
    names = ["01_a", "02_b", "03_c", "notation", "04_d"]
    write_book(tmp_path, dict.fromkeys(names, "# Page\n"))
    (tmp_path / "_toc.yml").write_text(
        """\
format: jb-book
root: book/index
parts:
- caption: One
  chapters:
  - file: book/01_a
    sections:
    - file: book/02_b
      sections:
      - file: book/03_c
    - file: book/notation
  - url: https://example.org
- caption: Two
  chapters:
  - file: book/04_d
"""
    )
    found = tangle.pages(tmp_path / "_toc.yml")
    assert [path.stem for path in found] == ["index", *names]


def test_listed_page_that_does_not_exist_is_refused(book):
    (book.parent / "book" / "02_squares.md").unlink()
    assert refusal(book) == ("_toc.yml: write book/02_squares.md, or do not list it")


def test_cells_are_those_that_jupytext_reads(tmp_path):
    yaml_options = "---\nmystnb:\n  figure:\n    caption: A\ntags: [proof]\n---"
    text = page(
        "A",
        HEAD,
        "~~~~{code-cell} python\nX = 1\n~~~~",
        f"```{{code-cell}}\n{yaml_options}\nX\n```",
        " ```{code-cell} python\n :tags: [naive, proof]\n if X:\n   X\n ```",
        "```{code-cell} python\n```",
        cell("\n\nY = '''\n```\n'''\n", fence="`````"),
        "```{code-cell} python\n\n:tags: [naive]\nZ = 1\n```",
    )
    write_book(tmp_path, {"01_a": text})
    path = tmp_path / "book" / "01_a.md"
    notebook = myst_to_notebook(text, add_source_map=True)
    maps = zip(notebook.cells, notebook.metadata.source_map, strict=True)
    expected = [pair for pair in maps if pair[0].cell_type == "code"]
    found = tangle.cells(path)
    assert len(found) == len(expected) == 7
    lines = [line.removeprefix(" ") for line in text.split("\n")]
    for cell_, (theirs, line_below_fence) in zip(found, expected, strict=True):
        assert cell_.source == theirs.source.strip("\n")
        assert list(cell_.tags) == theirs.metadata.get("tags", [])
        if cell_.source:
            source = cell_.source.split("\n")
            start = lines.index(source[0], line_below_fence)
            assert cell_.line == start + 1
            assert lines[start : start + len(source)] == source


NESTED = {
    "list": "- an item\n\n  ```{code-cell} python\n  1\n  ```",
    "list, at its marker": "2. ```{code-cell} python\n   1\n   ```",
    "quote": "> text\n>\n> ```{code-cell} python\n> 1\n> ```",
    "directive": "````{note}\n\n```{code-cell} python\n1\n```\n````",
    "tilde directive": "~~~{note}\ntext\n~~~~{code-cell} python\n1\n~~~\n",
    "colon directive": ":::{note}\n\n```{code-cell} python\n1\n```\n:::",
    "colon fence": ":::\n:::{code-cell} python\n1\n:::",
    "indented code": "text\n\n    ```{code-cell} python\n    1\n    ```",
    "indented paragraph": "text\n\n more\n     ```{code-cell} python\n",
    "space in the fence": "text\n\n``` {code-cell} python\n1\n```",
    "HTML comment": "<!--\n\n```{code-cell} python\n1\n```\n-->",
}


EXAMPLES = {
    "plain fence": "````md\n```{code-cell} python\n1\n```\n````",
    "plain fence in a list": "- ~~~\n  ```{code-cell} python\n  ```\n  ~~~",
    "a cell's string": cell('X = """\n```{code-cell}\n"""', fence="````"),
    "inline code": "Write\n`` ```{code-cell} `` or\n```{code-cell}``` here.",
    "gated directive": "```{exercise-start}\n```\n\n"
    + cell("1", "proof")
    + "\n```{exercise-end}\n```",
}


@pytest.mark.parametrize("text", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_shown_and_gated_cells_are_accepted(tmp_path, text):
    written = program(one_page(tmp_path, text, cell("THE_NEXT = 1")))
    assert written.text.endswith("\nTHE_NEXT = 1\n")


BAD_OPTIONS = {
    ":tag: [tangle]": "unknown option 'tag': use tags or mystnb",
    ":tags: [tangel]": "unknown tags 'tangel': use tangle, naive",
    ":tags: [[tangle]]": "unknown tags ['tangle']",
    ":tags: tangle": "not a list: write `:tags: [tangle]`",
    ":tags:": "not a list",
    ":tags [tangle]": "unreadable options",
    ":tags: [tangle": "unreadable options",
    ":tags: @": "unreadable options",
    "---\ntags: [tangle]\nother: 1\n---": "unknown option 'other'",
    "---\nmystnb:\n  figur: 1\n---": "unknown mystnb 'figur': use figure,",
}


def test_every_known_tag_is_accepted(tmp_path):
    toc = one_page(tmp_path, cell("X = 1", *tangle.TAGS))
    assert program(toc).cells[1].tags == tuple(tangle.TAGS)


@pytest.mark.parametrize("key", ["figure", "image"])
def test_options_of_a_figure_or_an_image_are_accepted(tmp_path, key):
    options = f"---\ntags: [proof]\nmystnb:\n  {key}:\n    alt: A\n---"
    toc = one_page(tmp_path, f"```{{code-cell}} python\n{options}\nX = 1\n```")
    found = tangle.cells(tangle.pages(toc)[-1])
    assert [(cell.line, cell.tags) for cell in found[1:]] == [(28, ("proof",))]


# Rules of the program


SECOND_DEFINITIONS = {
    "def X(): ...": 24,
    "async def X(): ...": 24,
    "@max\nclass X: ...": 25,
    "X = 2": 24,
    "A = X = 2": 24,
    "A, (*B, X) = 1, (2, 3)": 24,
    "[A, X] = 1, 2": 24,
    "X: int": 24,
    "A: int = 1\nX: int = 2": 25,
    "X += 1": 24,
    "if A:\n    def X(): ...": 25,
    "try:\n    pass\nfinally:\n    X = 1": 27,
    "for X in []: ...": 24,
    "with A as X: ...": 24,
    "print(X := 1)": 24,
}


def second(source: str) -> dict[str, str]:
    """Pages that define X with a source, and then once more."""
    return {
        "01_first": page("First", HEAD, cell(source)),
        "02_second": page("Second", cell("\n\ndef X(): ...")),
    }


def line_of_the_fence(text: str) -> int:
    """The line of a cell's fence, in the first part of a page."""
    return 21 + text[: text.index("{code-cell}")].count("\n")


FIRST, SECOND = r"book/01_first\.md:", r"book/02_second\.md:18:"
IMPORTS = "{}: import .* in the program's first cell"
OPTIONS = "```{{code-cell}} python\n{}\n\nX = 1\n```"
OUTSIDE = r"book/notation\.md:13: tangled outside a chapter.*"
BEGIN = ".*begin with the program's docstring and imports.*"
PLAIN = FRONT.replace("format_name: myst", "format_name: other")
BAD_CELLS = {
    "X = 1\n# -": "24: jupytext would alter.*",
    "#+ a marker\nX = 1": "24: jupytext would alter.*",
    "X = 1\n\nY = = 2": "26: not Python: invalid syntax",
    "import os": IMPORTS.format(24),
    "X = 1\nfrom os import path": IMPORTS.format(25),
    "try:\n    import os as X\nexcept ImportError:\n    X = None": IMPORTS.format(25),
    "X = 1\n\nX = 2": "26: X is also defined.*",
    "def math(): ...": f"24: math is also defined at {FIRST}18.*",
    **{f"X = 1  # a{c}b": "21: a line separator.*" for c in "\f\v\x85\u2028"},
}
REFUSED = [  # pages, and the whole of what is said, as a pattern
    # the page
    ({"01_first": page("A", cell("1", "proof"))}, "no program.*"),
    ({"01_first": FRONT + "## A\n\n" + HEAD}, FIRST + "1: no title.*"),
    ({"01_first": f"# A\n\n{HEAD}"}, FIRST + "1: no MyST front matter.*"),
    ({"01_first": f"{PLAIN}# A\n\n{HEAD}"}, FIRST + "1: no MyST front matter.*"),
    (first() | {"notation": page("B", cell("X = 1"))}, OUTSIDE),
    # the first cell: a docstring and imports, and nothing else
    ({"01_first": page("A", cell("import math"))}, BEGIN),
    ({"01_first": page("A", cell("X = 1"))}, BEGIN),
    ({"01_first": page("A", cell('"""Doc."""\n\nimport math\n\nmath.sqrt(2)'))}, BEGIN),
    ({"01_first": page("A", cell(""))}, BEGIN),
    # the cells
    *((first(cell(source)), FIRST + said) for source, said in BAD_CELLS.items()),
    *(
        (second(source), f"{SECOND} X is also defined at {FIRST}{line}: rename one")
        for source, line in SECOND_DEFINITIONS.items()
    ),
    *(
        (first(OPTIONS.format(options)), FIRST + f"21: {re.escape(said)}.*")
        for options, said in BAD_OPTIONS.items()
    ),
    *(
        (first(text), FIRST + f"{line_of_the_fence(text)}: a nested cell.*")
        for text in NESTED.values()
    ),
]


@pytest.mark.parametrize("pages, said", REFUSED, ids=[said for _, said in REFUSED])
def test_what_is_wrong_is_refused_and_its_place_is_named(tmp_path, pages, said):
    message = refusal(write_book(tmp_path, pages))
    assert re.fullmatch(said, message, re.DOTALL), message


@pytest.mark.parametrize(
    "pages",
    [
        first(cell("X = " + "1" * 99, "naive")),  # and not wrapped
        first() | {"02_b": "# B\n\nWords."},  # without front matter
        first() | {"notation": page("B", cell("1", "proof"))},
    ],
    ids=["long line", "prose", "outside a chapter"],
)
def test_what_is_not_tangled_is_free(tmp_path, pages):
    assert len(program(write_book(tmp_path, pages)).cells) == 1


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    X = 2\n    return X",
        "class A:\n    X = 2\n\n    def X2(self, X): ...",
        "A = [X for X in []]\nB = {X: 1 for X in []}",
        "A = lambda X: X",
        "B = {}\nB['X'] = 1\nmax.X = 1",
    ],
)
def test_names_of_inner_scopes_are_no_second_definition(tmp_path, source):
    toc = one_page(tmp_path, cell("X = 1"), cell(source))
    assert source in program(toc).text


def test_definitions_say_where_each_name_is_defined(book):
    chapters = tangle.pages(book)[1:]
    places = tangle.definitions(program(book).cells)
    assert places == {
        "math": (chapters[0], 18),
        "TWO": (chapters[0], 36),
        "root": (chapters[0], 43),
        "square": (chapters[1], 16),
        "LIMIT": (chapters[1], 23),
        "REST": (chapters[1], 23),
        "END": (chapters[1], 24),
    }


def test_the_first_cell_may_say_where_an_import_is_found(tmp_path):
    path = "import sys\n\nsys.path.append(sys.path[0])\nimport json"
    toc = one_page(tmp_path, cell("A = 1"))
    change(toc, "01_first", "import math", path)
    assert path in program(toc).text
    change(toc, "01_first", "sys.path.append", "print")
    assert "begin with the program's docstring and imports" in refusal(toc)


def test_tangled_line_may_have_80_columns_and_no_more(tmp_path):
    line = "X = " + "1" * 76
    toc = one_page(tmp_path, cell("A = 1\n" + line))
    assert line in program(toc).text
    change(toc, "01_first", line, line + "1")
    assert refusal(toc) == "book/01_first.md:25: wrap it at 80 columns"


# From lines to chapters


def test_every_line_of_code_comes_from_the_line_with_its_text(book):
    written = program(book)
    lines = written.text.splitlines()
    assert len(written.origins) == len(lines)
    for line, (path, number) in zip(lines, written.origins, strict=True):
        if line and f"({path.parent.name}/" not in line:
            assert path.read_text().splitlines()[number - 1] == line


ROOT = GOLDEN.splitlines().index("    return math.sqrt(x)") + 1
TOP = GOLDEN.splitlines().index(ROOTS) + 1
PLACES = {
    1: "01_roots.md:16",
    ROOT: "01_roots.md:44",
    len(GOLDEN.splitlines()): "02_squares.md:24",
    **dict.fromkeys(range(TOP - 2, TOP + 2), "01_roots.md:11"),  # the title's
}


@pytest.mark.parametrize("line, place", PLACES.items())
def test_where_names_the_chapter_and_line(book, line, place):
    assert program(book).where(line) == f"book/{place}"


def test_blank_line_between_cells_comes_from_the_next_cell(book):
    line = GOLDEN.splitlines().index("# Not x**0.5.") + 1
    written = program(book)
    assert written.where(line - 1) == written.where(line)


@pytest.mark.parametrize("line", [-1, 0, len(GOLDEN.splitlines()) + 1])
def test_line_outside_the_program_is_refused(book, line):
    with pytest.raises(tangle.TangleError, match=f"no line {line}: give one "):
        program(book).where(line)


FRAMES = {
    f'  File "/somewhere/minigpt.py", line {ROOT}, in root': (
        '  File "book/01_roots.md", line 44, in root'
    ),
    r'  File "C:\book\minigpt.py", line 1': '  File "book/01_roots.md", line 16',
    '  File "minigpt.py", line 1': '  File "book/01_roots.md", line 16',
}
OTHERS = """\
Traceback (most recent call last):
    return math.sqrt(x)
  File "minigpt.py", line 999, in root
  File "/somewhere/aminigpt.py", line 1, in root
  File "/somewhere/minigpt.pyi", line 1, in root
"""


def test_rewrite_moves_the_frames_of_the_program_alone(book):
    before, after = ("\n".join(lines) for lines in (FRAMES, FRAMES.values()))
    rewrite = program(book).rewrite
    assert rewrite(f"{before}\n{OTHERS}{before}") == f"{after}\n{OTHERS}{after}"


# The program so far


@pytest.mark.parametrize(
    "chapter",
    ["01", "1", "roots", "01_roots", "01_roots.md", "book/01_roots.md"],
)
def test_until_takes_a_number_a_slug_a_file_name_or_a_path(book, chapter):
    paths = tangle.until(tangle.pages(book), chapter)
    assert [path.name for path in paths] == ["index.md", "01_roots.md"]
    assert tangle.until(paths, paths[-1]) == paths


def test_program_until_a_chapter_is_the_beginning_of_the_program(book):
    so_far = tangle.tangle(tangle.until(tangle.pages(book), "1")).text
    assert GOLDEN.startswith(so_far)
    assert so_far.endswith("    return math.sqrt(x)\n")


@pytest.mark.parametrize("chapter", ["3", "index", "", "root"])
def test_until_an_unknown_chapter_is_refused(book, chapter):
    with pytest.raises(tangle.TangleError, match=f"no chapter '{chapter}'"):
        tangle.until(tangle.pages(book), chapter)


@pytest.fixture
def loaded():
    """A name for a module, removed from sys.modules afterwards."""
    yield "loaded_for_a_test"
    del sys.modules["loaded_for_a_test"]


def last_frame(error: BaseException) -> tuple[str, int, str]:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return frame.filename, frame.lineno, frame.line


def test_tracebacks_of_a_loaded_program_name_chapters(book, loaded):
    module = program(book).load(loaded)
    assert sys.modules[loaded] is module
    assert (module.__doc__, module.__name__) == ("A program.", loaded)
    assert module.__file__ == str(book.parent / "minigpt.py")
    assert module.square(module.root(4)) == 4
    with pytest.raises(ValueError) as error:
        module.root(-1)
    path = str(book.parent / "book" / "01_roots.md")
    assert last_frame(error.value) == (path, 44, "return math.sqrt(x)")


def test_program_so_far_lacks_what_comes_later(book, loaded):
    paths = tangle.until(tangle.pages(book), "roots")
    assert not hasattr(tangle.tangle(paths).load(loaded), "square")


def test_loaded_dataclass_finds_its_module(tmp_path, loaded):
    head = cell('"""Doc."""\n\nfrom dataclasses import KW_ONLY, dataclass')
    body = cell('@dataclass\nclass A:\n    _: "KW_ONLY"\n    x: int = 1')
    toc = write_book(tmp_path, {"01_a": page("A", head, body)})
    module = program(toc).load(loaded)
    assert [field.name for field in dataclasses.fields(module.A)] == ["x"]


def test_future_import_reaches_every_loaded_cell(tmp_path, loaded):
    head = cell('"""Doc."""\n\nfrom __future__ import annotations')
    body = cell("def f(x: Later): ...")
    toc = write_book(tmp_path, {"01_a": page("A", head, body)})
    module = program(toc).load(loaded)
    assert module.f.__annotations__ == {"x": "Later"}


def test_oracle_is_the_untangled_definition(book, loaded):
    module = program(book).load(loaded)
    naive = tangle.oracle("roots", "root", vars(module), book)
    assert naive is not module.root
    assert naive(9) == module.root(9) == 3
    with pytest.raises(ZeroDivisionError) as error:
        tangle.oracle("roots", "fail", {}, book)(1)
    path = str(book.parent / "book" / "01_roots.md")
    assert last_frame(error.value) == (path, 30, "x / 0")


def test_oracle_sees_the_given_names_and_leaves_them_alone(tmp_path):
    toc = one_page(tmp_path, cell("def twice():\n    return 2 * ONE", "naive"))
    given = {"ONE": 1, "twice": None}
    assert tangle.oracle("01", "twice", given, toc)() == 2
    assert given == {"ONE": 1, "twice": None}


@pytest.mark.parametrize("name, count", [("f", 2), ("g", 0), ("X", 0)])
def test_oracle_that_is_not_defined_once_is_refused(tmp_path, name, count):
    naive = cell("X = 1\ndef f(): ...", "naive")
    proof = cell("class f: ...", "proof")
    toc = one_page(tmp_path, naive, proof, cell("def g(): ..."))
    message = f"book/01_first.md:1: {count} untangled cells define {name}"
    with pytest.raises(tangle.TangleError, match=message):
        tangle.oracle("01", name, {}, toc)


# The command line


@pytest.fixture
def run(book, capsys):
    """Run a command line on the book; return its status, stdout and stderr."""

    def run(*argv: str) -> tuple[int, str, str]:
        status = tangle.main(argv, book)
        return status, *capsys.readouterr()

    return run


def test_no_argument_writes_the_program_and_says_so(run, book):
    lines = len(GOLDEN.splitlines())
    said = f"minigpt.py: {lines} lines from 2 chapters\n"
    assert run() == (0, said, "")
    assert (book.parent / "minigpt.py").read_bytes() == tangle.seal(GOLDEN).encode()
    assert sorted(path.name for path in book.parent.iterdir()) == [
        "_toc.yml",
        "book",
        "minigpt.py",
    ]


@pytest.mark.parametrize("stale", [None, "", GOLDEN[:-1], GOLDEN + "X = 1\n"])
def test_check_fails_with_a_diff_and_writes_nothing(run, book, stale):
    target = book.parent / "minigpt.py"
    if stale is not None:
        target.write_text(stale)
    status, diff, errors = run("--check")
    assert (status, errors) == (1, "")
    assert diff.startswith("--- minigpt.py\n+++ the chapters\n@@ ")
    assert (target.read_text() if target.exists() else None) == stale


def test_check_shows_what_changed(run, book):
    run()
    change(book, "02_squares", "9, 8, 7", "9, 8, 6")
    _, diff, _ = run("--check")
    assert "-LIMIT, *REST = 9, 8, 7\n+LIMIT, *REST = 9, 8, 6\n" in diff


def test_until_prints_the_program_so_far_and_writes_nothing(run, book):
    status, text, _ = run("--until", "01")
    assert status == 0
    assert text == tangle.tangle(tangle.until(tangle.pages(book), "01")).text
    assert not (book.parent / "minigpt.py").exists()


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--check"], ""),
        (["where", "1", "3"], "book/01_roots.md:16\nbook/01_roots.md:18\n"),
        (["where"], 'File "book/01_roots.md", line 18'),
    ],
)
def test_check_and_where_answer_for_what_was_written(run, monkeypatch, argv, said):
    """And `where` without lines rewrites the traceback on stdin."""
    run()
    monkeypatch.setattr(sys, "stdin", io.StringIO('File "minigpt.py", line 3'))
    assert run(*argv) == (0, said, "")


def test_where_says_that_the_program_is_stale(run):
    status, places, errors = run("where", "3")
    assert (status, places) == (0, "book/01_roots.md:18\n")
    assert errors == "tangle: note: minigpt.py is stale\n"


@pytest.mark.parametrize(
    "argv",
    [
        ("--until", "9"),
        ("--until", ""),
        ("where", "1", "999"),
        ("where", "1", "two"),
        ("where", "other.py", "1"),
        ("where", "minigpt.py"),
    ],
)
def test_wrong_value_is_one_line_on_stderr(run, argv):
    run()
    status, text, errors = run(*argv)
    assert (status, text) == (2, "")
    assert errors.startswith("tangle: error: no ") and errors.count("\n") == 1


def test_error_in_a_chapter_is_one_line_and_keeps_the_program(run, book):
    run()
    change(book, "02_squares", "[tangle]", "[tangel]")
    status, text, errors = run()
    assert (status, text) == (2, "")
    assert errors.startswith("tangle: error: book/02_squares.md:13: unknown ")
    assert errors.count("\n") == 1
    assert (book.parent / "minigpt.py").read_text() == tangle.seal(GOLDEN)


@pytest.mark.parametrize("toc", ["root: [\n- a: b: c\n", None])
def test_table_of_contents_that_cannot_be_read_is_one_line(run, book, toc):
    book.write_text(toc) if toc else book.unlink()
    status, text, errors = run()
    assert (status, text) == (2, "")
    assert errors.startswith("tangle: error: ") and errors.count("\n") == 1
    assert "_toc.yml" in errors


@pytest.mark.parametrize(
    "argv",
    [
        ["--che"],
        ["--check", "--until", "1"],
        ["--check", "where", "1"],
        ["--until", "", "where", "1"],
        ["--force", "where", "1"],
        ["when"],
    ],
)
def test_wrong_command_line_is_refused(book, capsys, argv):
    with pytest.raises(SystemExit) as error:
        tangle.main(argv, book)
    assert error.value.code == 2
    assert "tangle" in capsys.readouterr().err


def test_program_is_replaced_at_once_or_not_at_all(run, book, monkeypatch):
    target = book.parent / "minigpt.py"
    target.write_text(tangle.seal("old"))

    def fail(*args: object) -> None:
        raise OSError("the disk is on fire")

    monkeypatch.setattr(Path, "replace", fail)
    assert run()[0] == 2
    assert target.read_text() == tangle.seal("old")


# Edits of what is tangled


def test_an_edit_by_hand_is_shown_with_its_place_and_kept(run, book):
    run()
    target = book.parent / "minigpt.py"
    edited = target.read_text().replace("math.sqrt(x)", "x ** 0.5")
    target.write_text(edited)
    status, diff, errors = run()
    assert status == 2 and target.read_text() == edited
    assert "-    return x ** 0.5\n+    return math.sqrt(x)\n" in diff
    assert errors == (
        "tangle: error: minigpt.py was edited by hand: make the change in "
        "book/01_roots.md:44, or lose it with --force\n"
    )
    assert run("--force")[0] == 0
    assert target.read_text() == tangle.seal(GOLDEN)


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text + "X = 1\n",
        lambda text: "X = 1\n" + text,
        lambda text: text[:-1],
        lambda text: text.partition(tangle.SEAL)[0],
        lambda text: "<<<<<<< ours\n",
    ],
)
def test_no_edit_is_lost_without_a_word(run, book, edit):
    run()
    target = book.parent / "minigpt.py"
    edited = edit(target.read_text())
    target.write_text(edited)
    status, _, errors = run()
    assert (status, target.read_text()) == (2, edited)
    assert "make the change in book/0" in errors and errors.count("\n") == 1


def test_a_stale_program_that_nobody_edited_is_written_anew(run, book):
    run()
    change(book, "02_squares", "9, 8, 7", "9, 8, 6")
    assert run()[0] == 0
    assert "9, 8, 6" in (book.parent / "minigpt.py").read_text()


# Companions


COMPANION = '"""A companion."""\n\nimport sys\n'


@pytest.fixture
def two_files(book):
    """The book, with a third chapter that becomes tools/extra.py."""
    front = FRONT.replace("---\njupytext", "---\ntangle: tools/extra.py\njupytext")
    body = [cell(COMPANION.strip()), cell("def root():\n    return sys.argv[3]")]
    text = front + "# Extra\n\n" + "\n".join(body)
    (book.parent / "book" / "03_extra.md").write_text(text, encoding="utf-8")
    with book.open("a") as stream:
        stream.write("  - file: book/03_extra\n")
    (book.parent / "tools").mkdir()
    return book


BANNER = "# " + "3. Extra (book/03_extra.md) ".ljust(77, "-")
EXTRA = f"{COMPANION}\n\n{BANNER}\n\ndef root():\n    return sys.argv[3]\n"


def test_a_chapter_may_become_a_companion(two_files, run):
    status, said, _ = run()
    assert (status, said.splitlines()[1]) == (
        0,
        "tools/extra.py: 9 lines from 1 chapter",
    )
    root = two_files.parent
    assert (root / "minigpt.py").read_text() == tangle.seal(GOLDEN)
    assert (root / "tools" / "extra.py").read_text() == tangle.seal(EXTRA)
    assert run("--check") == (0, "", "")
    (root / "tools" / "extra.py").write_text(tangle.seal(EXTRA + "X = 1\n"))
    status, diff, _ = run("--check")
    assert status == 1 and "-X = 1" in diff and "minigpt.py" not in diff


def test_a_companion_may_define_a_name_that_the_program_has(two_files, loaded):
    paths = tangle.pages(two_files)
    assert "root" in tangle.definitions(tangle.tangle(paths).cells)
    module = tangle.tangle(paths, "tools/extra.py").load(loaded)
    assert module.__file__ == str(two_files.parent / "tools" / "extra.py")


def test_where_and_until_work_for_a_companion(two_files, run, monkeypatch):
    run()
    place = "book/03_extra.md:25\n"
    assert run("where", "tools/extra.py", "8") == (0, place, "")
    assert run("--until", "03")[1] == EXTRA
    frames = 'File "/x/tools/extra.py", line 9\nFile "minigpt.py", line 3'
    monkeypatch.setattr(sys, "stdin", io.StringIO(frames))
    assert run("where")[1] == (
        'File "book/03_extra.md", line 26\nFile "book/01_roots.md", line 18'
    )


def test_tracebacks_of_a_loaded_companion_name_its_chapter(two_files, loaded):
    program = tangle.tangle(tangle.pages(two_files), "tools/extra.py")
    with pytest.raises(IndexError) as error:
        sys.argv[:], saved = sys.argv[:1], sys.argv[:]
        try:
            program.load(loaded).root()
        finally:
            sys.argv[:] = saved
    assert last_frame(error.value)[0].endswith("03_extra.md")


@pytest.mark.parametrize("file", ["../x.py", "/x.py", "x.md", "7", "[a, b]"])
def test_a_companion_outside_or_of_another_kind_is_refused(two_files, run, file):
    change(two_files, "03_extra", "tools/extra.py", file)
    status, _, errors = run()
    assert status == 2 and "book/03_extra.md:1: tangled to" in errors


# Companions in JavaScript


def block(source: str, option: str = ":class: tangle") -> str:
    """A block of JavaScript, by default one that is tangled."""
    return f"```{{code-block}} javascript\n{option}\n\n{source}\n```\n"


@pytest.fixture
def with_script(book):
    """The book, with a third chapter that becomes extra.js."""
    front = FRONT.replace("---\njupytext", "---\ntangle: extra.js\njupytext")
    body = [
        block("// Extra."),
        cell("1 + 1", "proof"),
        block("const [A, B] = [1, 2];\n\nfunction root() {\n  return A;\n}"),
        "```{code-block} javascript\nfunction root() {} // shown, not tangled\n```\n",
        "````md\n" + block("shown = 1;") + "````\n",
        block("const C = '`';"),
    ]
    text = front + "# Extra\n\n" + "\n".join(body)
    (book.parent / "book" / "03_extra.md").write_text(text, encoding="utf-8")
    with book.open("a") as stream:
        stream.write("  - file: book/03_extra\n")
    return book


SCRIPT = (
    "// Extra.\n\n// " + "3. Extra (book/03_extra.md) ".ljust(77, "-") + "\n\n"
    "const [A, B] = [1, 2];\n\nfunction root() {\n  return A;\n}\n\nconst C = '`';\n"
)


def test_a_chapter_may_become_a_script(with_script, run):
    assert run()[1].splitlines()[1] == "extra.js: 11 lines from 1 chapter"
    file = with_script.parent / "extra.js"
    assert file.read_text() == tangle.seal(SCRIPT, "extra.js")
    assert file.read_text().splitlines()[-1].startswith("// tangled: ")
    assert (with_script.parent / "minigpt.py").read_text() == tangle.seal(GOLDEN)
    assert run("--check") == (0, "", "")
    assert run("--until", "03")[1] == SCRIPT


def test_each_line_of_a_script_comes_from_the_line_with_its_text(with_script, run):
    run()
    lines = (with_script.parent / "book" / "03_extra.md").read_text().splitlines()
    for number, line in enumerate(SCRIPT.splitlines(), 1):
        if line and not line.startswith("// 3."):
            _, said, _ = run("where", "extra.js", str(number))
            assert lines[int(said.split(":")[1]) - 1] == line


def test_an_edit_of_a_script_is_shown_with_its_place_and_kept(with_script, run):
    run()
    file = with_script.parent / "extra.js"
    file.write_text(file.read_text().replace("return A", "return B"))
    edited = file.read_text()
    status, diff, errors = run()
    assert (status, file.read_text()) == (2, edited)
    assert "-  return B;\n+  return A;\n" in diff
    assert "extra.js was edited by hand: make the change in book/03_extra.md" in errors


@pytest.mark.parametrize(
    "old, new, said",
    [
        (":class: tangle\n\nconst C", ":class: tangel\n\nconst C", "unknown option"),
        (":class: tangle\n\nconst C", ":class: tangle\n:a: b\n\nC", "unknown option"),
        ("const C", "const root", "root is also defined at book/03_extra.md:"),
        ("const C", f"const {'C' * 80}", "wrap it at 80 columns"),
        ("tags: [proof]", "tags: [tangle]", "no python goes into extra.js"),
        ("tangle: extra.js\n", "", "no javascript goes into minigpt.py"),
        ("```{code-block} javascript\n:class: tangle\n\nconst C", "- ```{code-block} "
         "javascript\n  :class: tangle\n\n  const C", "not tangled: only"),
        ("```{code-block} javascript\n:class: tangle\n\nconst C", "```{code-block} js\n"
         ":class: tangle\n\nconst C", "not tangled: only {code-block} javascript"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_script_is_refused(with_script, run, old, new, said):
    path = with_script.parent / "book" / "03_extra.md"
    assert old in path.read_text()
    change(with_script, "03_extra", old, new)
    status, _, errors = run()
    assert status == 2 and said in errors and errors.count("\n") == 1, errors
    assert errors.startswith("tangle: error: book/03_extra.md:")


def test_script_works_on_the_book_beside_it_from_any_folder(book, tmp_path):
    tools = book.parent / "book" / "_tools"
    tools.mkdir()
    script = shutil.copy(tangle.__file__, tools)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for argv, status in ([], 0), (["--check"], 0), (["--che"], 2):
        command = [sys.executable, script, *argv]
        assert subprocess.run(command, cwd=elsewhere).returncode == status
    assert (book.parent / "minigpt.py").read_text() == tangle.seal(GOLDEN)


def test_without_jupytext_one_line_says_what_to_make(tmp_path):
    """As after plain `make`, in whose .venv there is no jupytext."""
    script = str(Path(tangle.__file__))
    code = (
        "import sys, runpy; sys.modules['jupytext'] = None\n"
        "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, script, "where", "431"],
        cwd=tmp_path,
        text=True,
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "tangle: error: no jupytext here: make .venv/test first, then "
        ".venv/bin/python book/_tools/tangle.py where 431\n"
    )
