"""A Sphinx extension: names in code lead to where they are explained.

Names in highlighted code and in inline code link to the cell that defines them; those
of PyTorch link to its documentation, by a table of what the book uses.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from html import escape, unescape
from importlib import metadata
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

import tangle
from hypertext import enclosed, home, page_name, per_page

VERSION = ".".join(metadata.version("torch").split(".")[:2])
TORCH_DOCS = f"https://docs.pytorch.org/docs/{VERSION}/"  # of the version in use
TORCH_NAMES = Path(__file__).with_name("torch_names.txt")
TORCH_ALIASES = {"F": "torch.nn.functional", "nn": "torch.nn", "torch": "torch"}
NO_PAGE = {"torch.__version__"}  # names of PyTorch that have none
BLOCK = re.compile(r'<div class="highlight">.*?</pre></div>', re.DOTALL)
TOKENS = re.compile(  # a dotted name, but no attribute of a call and no keyword
    r'(?<!<span class="o">\.</span>)<span class="n[a-z]*">\w+</span>'
    r'(?:<span class="o">\.</span><span class="n[a-z]*">\w+</span>)*'
    r'(?!<span class="o">=</span>)'
)
DOT = '<span class="p">.</span>'  # before an attribute, in JavaScript
TAG = re.compile(r"<[^>]+>")
NAME = re.compile(r"[A-Za-z_][\w.]*(\(\))?")
Local = set[str]  # names that are not the program's in some place
log = logging.getLogger(__name__)


# --- names of PyTorch --------------------------------------------------------


def torch_names() -> dict[str, str]:
    """The table of PyTorch's names that the book uses: name -> page."""
    lines = TORCH_NAMES.read_text("utf-8").splitlines()
    return dict(line.split() for line in lines if line and line[0] != "#")


def of_torch(node: ast.AST) -> str | None:
    """The full name of `F.gelu` and the like."""
    words = []
    while isinstance(node, ast.Attribute):
        words.insert(0, node.attr)
        node = node.value
    if words and isinstance(node, ast.Name) and node.id in TORCH_ALIASES:
        return ".".join([TORCH_ALIASES[node.id], *words])
    return None


def unlinked(page: Path, table: dict[str, str]) -> Iterator[tuple[int, str]]:
    """Yield (line, name) for each name of PyTorch on a page that has no address."""
    for cell in tangle.cells(page):
        tree = ast.parse(cell.source)
        inner = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)
        }
        for node in set(ast.walk(tree)) - inner:
            name = of_torch(node)
            if name and name not in NO_PAGE and not known(name, table):
                yield cell.line + node.lineno - 1, name


def known(name: str, table: dict[str, str]) -> str | None:
    """The longest name in the table that is this one or leads to it."""
    words = name.split(".")
    names = (".".join(words[:n]) for n in range(len(words), 1, -1))
    return next((name for name in names if name in table), None)


# --- names of the program ----------------------------------------------------


def bound(node: ast.AST) -> Iterator[str]:
    """Yield the names that a node binds, imports apart."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.arg):
        yield node.arg


def own_names(page: Path) -> Local:
    """What the untangled cells of a page define, unless it imports or tangles it."""
    names, program = set(), set()
    for cell in tangle.cells(page):
        tree = ast.parse(cell.source)
        if "tangle" in cell.tags:
            program |= {name for name, _ in tangle.bindings(tree)}
            continue
        for node in ast.walk(tree):
            names |= {*bound(node)}
            if isinstance(node, ast.ImportFrom) and node.module == "minigpt":
                program |= {alias.name for alias in node.names}
    return names - program


def locals_of(source: str) -> Local:
    """The parameters and local variables of the functions in some code."""
    names = set()
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.Lambda):
            inside = list(ast.walk(function))[1:]
            shared = {
                name
                for node in inside
                if isinstance(node, ast.Global)
                for name in node.names
            }
            names |= {name for node in inside for name in bound(node)} - shared
    return names


# --- on the pages ------------------------------------------------------------


class Addresses:
    """Where a name that stands on a page is explained."""

    def __init__(self, app: Sphinx, docname: str):
        page = tangle.TOC.parent / f"{docname}.md"
        self.app, self.docname = app, docname
        self.home = app.book.homes(page)
        self.local = own_names(page) if page.exists() else set()
        parts = app.book.companions.get(page, [])
        self.scripts = {
            cell.source: home(parts)
            for *_, cell in parts
            if cell.language == "javascript"
        }

    def find(self, name: str, local: Local = frozenset()) -> tuple[str, str] | None:
        """(class, address) of a dotted name, or None."""
        words = name.split(".")
        if words[0] in TORCH_ALIASES:
            full = ".".join([TORCH_ALIASES[words[0]], *words[1:]])
            there = known(full, self.app.torch_names)
            return there and ("name torch", TORCH_DOCS + self.app.torch_names[there])
        if words[0] == "minigpt" and len(words) > 1:
            words, local = words[1:], set()
        elif words[0] in self.local | local:
            return None
        if words[0] not in self.home:
            return None
        target = page_name(self.home[words[0]][0])
        there = self.app.builder.get_relative_uri(self.docname, target)
        return "name", f"{there}#def-{words[0]}"


@cache
def inner_names() -> dict[str, Local]:
    """The local names of each cell of the book, by its text."""
    return {
        cell.source.strip(): locals_of(cell.source)
        for page in tangle.pages()
        for cell in tangle.cells(page)
    }


def link_code(
    app: Sphinx, pagename: str, template: str, context: dict, doctree
) -> None:
    """Link the names in a page's highlighted code."""
    if not context.get("body") or app.builder.name != "html":
        return
    addresses, inner = Addresses(app, pagename), inner_names()

    def block(match: re.Match[str]) -> str:
        text = unescape(TAG.sub("", match[0])).strip()
        local, script = inner.get(text, set()), addresses.scripts.get(text)

        seen = set()

        def link(match: re.Match[str]) -> str:
            name = TAG.sub("", match[0])
            found = addresses.find(name, local)
            if script is not None and (
                name not in script or match.string[: match.start()].endswith(DOT)
            ):  # of a script, its own functions alone
                found = None
            if found is None:
                return match[0]
            first, dot, rest = match[0], "", ""
            if name.split(".")[0] not in (*TORCH_ALIASES, "minigpt"):
                first, dot, rest = match[0].partition('<span class="o">.')
            stop = ' tabindex="-1"' if found in seen else ""  # once is enough
            seen.add(found)
            return (
                f'<a class="{found[0]}" href="{escape(found[1])}"{stop}>{first}</a>'
                f"{dot}{rest}"
            )

        return TOKENS.sub(link, match[0])

    context["body"] = BLOCK.sub(block, context["body"])


@per_page
def link_inline(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Link the names in the prose's inline code."""
    if app.builder.format != "html":
        return
    addresses = Addresses(app, docname)
    for literal in list(doctree.findall(nodes.literal)):
        text = literal.astext()
        if NAME.fullmatch(text) and not enclosed(literal):
            found = addresses.find(text.removesuffix("()"))
            if found:
                literal.replace_self(
                    nodes.reference(
                        "",
                        "",
                        literal.deepcopy(),
                        refuri=found[1],
                        internal=True,
                        classes=found[0].split(),
                    )
                )


def warn_unlinked(app: Sphinx, env) -> None:
    """A name of PyTorch without an address is a fault."""
    for page in tangle.pages():
        for line, name in unlinked(page, app.torch_names):
            log.warning(
                f"{name} has no address in {TORCH_NAMES.name}",
                location=(page_name(page), line),
            )


def setup(app: Sphinx) -> dict:
    app.torch_names = torch_names()
    app.connect("env-check-consistency", warn_unlinked)
    app.connect("doctree-resolved", link_inline)
    app.connect("html-page-context", link_code)
    return {"version": "1", "parallel_read_safe": True}
