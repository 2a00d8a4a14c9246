"""What the pages say of the program: links, names, identifiers in the prose."""

import ast
import builtins
import keyword
import re
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import minigpt
import tangle

hypertext = pytest.importorskip(
    "hypertext", reason="needs what builds the book: make .venv/book"
)
import colours  # noqa: E402
import listings  # noqa: E402
import searching  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
BOOK = hypertext.Book()
PAGES = tangle.pages()
FOLDERS = ("", "book", "book/_tools", "book/_static")


def test_each_part_stands_in_the_lines_that_it_names():
    lines = (ROOT / "minigpt.py").read_text("utf-8").split("\n")
    for _, _, first, cell in BOOK.parts:
        last = hypertext.last_line(first, cell)
        assert lines[first - 1 : last] == cell.source.split("\n")


def test_the_names_of_a_companion_are_at_home_on_its_page_alone(tmp_path):
    """A small book whose second chapter becomes another file."""
    front = "---\njupytext: {text_representation: {format_name: myst}}\n%s---\n"
    cells = (
        '```{code-cell} python\n:tags: [tangle]\n\n"""Doc."""\n```\n\n'
        "```{code-cell} python\n:tags: [tangle]\n\ndef f():\n    %s\n```\n"
    )
    book = tmp_path / "book"
    book.mkdir()
    (book / "index.md").write_text("# The book\n")
    (book / "01_a.md").write_text(front % "" + "# A\n\n" + cells % "return 1")
    (book / "02_b.md").write_text(
        front % "tangle: extra.py\n" + "# B\n\n" + cells % "return 2"
    )
    (tmp_path / "_toc.yml").write_text(
        "root: book/index\nparts:\n- chapters:\n"
        "  - file: book/01_a\n  - file: book/02_b\n"
    )
    both = hypertext.Book(tmp_path / "_toc.yml")
    assert [part[0].stem for part in both.parts] == ["01_a", "01_a"]
    [(page, parts)] = both.companions.items()
    assert page.stem == "02_b" and [part[2] for part in parts] == [1, 6]
    assert both.homes(page)["f"][0].stem == "02_b"
    assert both.homes(book / "01_a.md")["f"][0].stem == both.home["f"][0].stem == "01_a"


def test_each_definition_has_a_home_in_a_chapter():
    own = {
        name
        for name, value in vars(minigpt).items()
        if getattr(value, "__module__", None) == "minigpt"
    }
    assert own <= BOOK.home.keys()
    for name, (page, _, line, _) in BOOK.home.items():
        source = (ROOT / "minigpt.py").read_text("utf-8").split("\n")[line - 1]
        assert name in source and page in PAGES


BLOCK = (
    '<div class="highlight-python notranslate"><div class="highlight"><pre><span></span>%s'
    "</pre></div></div>"
)


def test_a_listing_is_lines_and_its_text_is_what_it_was():
    code = "<b>if</b> x:\n\n    y = &quot;a long line with &lt;signs&gt; in it&quot;\n"
    made = listings.LISTING.sub(listings.listing, BLOCK % code)
    assert made.count('<span class="line"') == 3 and made.count("--depth: 4ch") == 1
    assert listings.TAG.sub("", made) == listings.TAG.sub("", code)
    output = (BLOCK % code).replace("highlight-python", "output highlight-myst-ansi")
    assert listings.LISTING.search(output) is None


def test_a_listing_is_numbered_from_its_first_line_and_the_numbers_are_no_text():
    code = "".join(f'<span class="linenos">{n:3}</span>x\n' for n in (99, 100))
    made = listings.LISTING.sub(listings.listing, BLOCK % code)
    assert '<pre class="numbered" style="counter-reset: line 98">' in made
    assert listings.TAG.sub("", made) == "x\nx\n"


@pytest.mark.parametrize(
    "before, after",
    [
        ('<span class="n">q</span>', '<span class="n query">q</span>'),
        ('<span class="n">qkv</span>', '<span class="n">qkv</span>'),
        ("<em>scores</em>", '<em class="score">scores</em>'),
        ("<mi>K</mi>", '<mi class="key">K</mi>'),
        ("<munder><mo>s</mo><mi>k</mi></munder>",) * 2,  # an index
        (
            "<msub><mi>k</mi><mi>t</mi></msub>",
            '<msub><mi class="key">k</mi><mi>t</mi></msub>',
        ),
        (
            "<msub><mi>s</mi><mi>k</mi></msub>",
            '<msub><mi class="score">s</mi><mi>k</mi></msub>',
        ),
    ],
)
def test_what_attention_is_made_of_has_the_class_of_its_colour(before, after):
    assert colours.coloured(before) == after


def test_a_build_that_writes_no_page_leaves_the_index_as_it_is():
    """`make pdf` after `make book`: Sphinx has made no indexer."""
    builder = SimpleNamespace(name="html")
    assert searching.improve(SimpleNamespace(builder=builder), None) is None


def test_a_word_is_at_home_where_it_stands_far_more_often():
    counts = {
        "a": Counter(heat=9, loss=7, mask=4),
        "b": Counter(heat=2, loss=6),
        "c": Counter(mask=1),
    }
    homes = searching.at_home(counts)
    assert homes == {"heat": "a"}
    index = {"docnames": ["c", "b", "a"], "terms": {"heat": [1, 2]}, "titleterms": {}}
    searching.prefer(index, homes | {"unknown": "b"})
    assert index["titleterms"] == {"heat": [2]}
    index["titleterms"]["heat"] = 0  # a single page is no list
    searching.prefer(index, homes)
    assert index["titleterms"] == {"heat": [0, 2]}


# --- identifiers in the prose ----------------------------------------------


FENCE = re.compile(r"^(```+|:::+)[^\n]*\n.*?^\1\s*$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<![`}])`([^`\n]+)`(?!`)")
WORD = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(\(\))?")
# Text, though it looks like names.
ALLOWED = "de h impor retur self.width tangle tion train.npy u val.npy".split()


def names_on(page: Path) -> set[str]:
    """Every identifier that stands in the code of a page."""
    names = set()
    for cell in tangle.cells(page):
        for node in ast.walk(ast.parse(cell.source)):
            for field in ("id", "attr", "arg", "name", "asname"):
                value = getattr(node, field, None)
                if isinstance(value, str):
                    names |= {value, *value.split(".")}
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                names |= {*re.findall(r"\w+", node.value)}
    for block in tangle.blocks(page):
        names |= {*re.findall(r"\w+", block.source)}
    return names


def known(text: str, names: set[str]) -> bool:
    """Whether an identifier of the prose means something."""
    words = text.removesuffix("()").split(".")
    places = [
        vars(minigpt),
        vars(torch),
        vars(torch.nn.functional),
        vars(torch.nn),
        vars(builtins),
    ]
    if text in names or all(word in names or keyword.iskeyword(word) for word in words):
        return True
    for place in places:
        value = place.get(words[0])
        for word in words[1:]:
            value = getattr(value, word, None)
        if value is not None:
            return True
    return (
        any((ROOT / folder / text).exists() for folder in FOLDERS)
        or words[0] in sys.modules
    )


def test_the_list_of_allowed_identifiers_is_short():
    assert len(ALLOWED) <= 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_identifier_in_the_prose_means_something(page):
    prose = FENCE.sub("", page.read_text("utf-8").split("---\n", 2)[-1])
    names = (
        names_on(page)
        | {*ALLOWED}
        | {name for cell in BOOK.program.cells for name in names_in(cell)}
    )
    unknown = [
        text
        for text in INLINE.findall(prose)
        if WORD.fullmatch(text) and not known(text, names)
    ]
    assert unknown == []


def names_in(cell: tangle.Cell) -> set[str]:
    return {
        getattr(node, field)
        for node in ast.walk(ast.parse(cell.source))
        for field in ("id", "attr", "arg", "name")
        if isinstance(getattr(node, field, None), str)
    }
