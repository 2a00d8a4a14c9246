"""A Sphinx extension: a term of the glossary links there at its first use on a page.

It does so from the chapter on that explains it.
"""

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

import tangle
from hypertext import enclosed, per_page

GLOSSARY = "book/A1_notation"


def read_terms(app: Sphinx, env) -> None:
    """Note the terms of the glossary: from which chapter on they link, and their id."""
    app.terms = {}
    for item in env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
        term = next(item.findall(nodes.term))
        numbers = re.findall(r"hapters? (\d+)", item.astext())
        app.terms[term.astext()] = int(numbers[0]) if numbers else 1, term["ids"][0]


@per_page
def link_terms(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Link each term of the glossary where a page uses it first."""
    chapter = tangle.CHAPTER.fullmatch(Path(docname).name)
    if chapter is None or app.builder.format != "html":
        return
    there = app.builder.get_relative_uri(docname, GLOSSARY)
    wanted = {
        term: id_
        for term, (first, id_) in app.terms.items()
        if first <= int(chapter[1])
    }
    for text in list(doctree.findall(nodes.Text)):
        if not wanted:
            return
        if not isinstance(text.parent, nodes.paragraph) or enclosed(text):
            continue
        words = "|".join(sorted(map(re.escape, wanted), key=len, reverse=True))
        match = re.search(rf"(?<![\w-])({words})(?![\w-])", text)
        if match:
            link = nodes.reference(
                "",
                match[1],
                refuri=f"{there}#{wanted.pop(match[1])}",
                internal=True,
                classes=["term"],
            )
            text.parent.replace(
                text,
                [
                    nodes.Text(text[: match.start()]),
                    link,
                    nodes.Text(text[match.end() :]),
                ],
            )


def setup(app: Sphinx) -> dict:
    app.connect("env-updated", read_terms)
    app.connect("doctree-resolved", link_terms)
    return {"version": "1", "parallel_read_safe": True}
