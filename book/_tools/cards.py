"""A Sphinx extension: what the card of a name says, its signature and docstring.

The texts are in a script, `names.js`, which every page loads; `_static/cards.js` shows
them where a name is a link.
"""

import ast
import json
from pathlib import Path

from sphinx.application import Sphinx

import tangle


def signature(node: ast.AST, source: str) -> str:
    """The first line of a definition, or its lines up to the colon."""
    lines = source.split("\n")
    last = node.body[0].lineno - 1 if hasattr(node, "body") else node.end_lineno
    head = " ".join(line.strip() for line in lines[node.lineno - 1 : last])
    return head.replace("( ", "(") if len(head) < 200 else head[:199] + "…"


def cards(parts) -> dict[str, tuple[str, str]]:
    """Signature and first paragraph of the docstring of each definition."""
    found = {}
    for *_, cell in parts:
        if cell.language == "javascript":
            lines = cell.source.split("\n")
            for name, line, _ in tangle.declarations(cell.source):
                head, _, told = lines[line - 1].partition(" // ")
                found.setdefault(name, (head.removesuffix(" {"), told))
            continue
        for node in ast.parse(cell.source).body:
            has_text = isinstance(node, ast.FunctionDef | ast.ClassDef)
            told = (ast.get_docstring(node) or "") if has_text else ""
            imported = isinstance(node, ast.Import | ast.ImportFrom)
            for name, _ in tangle.bindings(node):
                if imported and name in found:
                    continue  # a companion imports what the program defines
                found[name] = (signature(node, cell.source), told.split("\n\n")[0])
    return found


def write_cards(app: Sphinx) -> None:
    """Write the cards' texts to a script, which a page reads from any place."""
    if app.builder.format == "html":
        parts = [*app.book.parts, *sum(app.book.companions.values(), [])]
        file = Path(app.outdir, "_static", "names.js")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"const NAMES = {json.dumps(cards(parts))};\n", "utf-8")


def setup(app: Sphinx) -> dict:
    for name in ("names.js", "cards.js"):
        app.add_js_file(name, loading_method="defer")
    app.connect("builder-inited", write_cards)
    return {"version": "1", "parallel_read_safe": True}
