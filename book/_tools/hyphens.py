"""A Sphinx extension: no line ends within a name like GPT-2, where a browser breaks it."""

import re

from docutils import nodes
from sphinx.application import Sphinx

NAME = re.compile(r"\b([A-Z]+-\d+)\b")
CODE = nodes.literal | nodes.literal_block | nodes.raw | nodes.math


def keep_whole(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Mark the names in a page's text; `book.css` keeps what is marked on one line."""
    if app.builder.format != "html":
        return
    for text in list(doctree.findall(nodes.Text)):
        if isinstance(text.parent, CODE) or not NAME.search(text):
            continue
        parts = NAME.split(text)  # a name is every second part
        text.parent.replace(
            text,
            [
                nodes.inline("", part, classes=["whole"]) if n % 2 else nodes.Text(part)
                for n, part in enumerate(parts)
                if part
            ],
        )


def setup(app: Sphinx) -> dict:
    app.connect("doctree-resolved", keep_whole, priority=900)  # after the links
    return {"version": "1", "parallel_read_safe": True}
