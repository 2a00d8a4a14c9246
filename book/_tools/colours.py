"""A Sphinx extension: query, key, value and score have their colours wherever they stand.

In the chapters on attention, the letters of code and formulas, and the words where the
text introduces them, get a class, and so the colour that figures and drawings give to the
same things. Elsewhere the same letters mean something else, and stay as they are.
"""

import re

from sphinx.application import Sphinx

PAGES = ("book/05_attention", "book/06_heads", "book/16_kv_cache")
KINDS = {
    word: kind
    for kind, words in {
        "query": "q query queries Q",
        "key": "k key keys K",
        "value": "v value values V",
        "score": "scores score",
    }.items()
    for word in words.split()
}
ANY = "|".join(KINDS)
SIGNS = [  # (before the word, the word, after it): the class goes between
    re.compile(rf'(<span class="n)(">)({ANY})(?=</span>)'),
    re.compile(
        rf'(<code class="[\w ]+)("><span class="pre">)({ANY})(?=</span></code>)'
    ),
    re.compile(rf"(<em)(>)({ANY})(?=</em>)"),
    re.compile(rf'(<a class="term reference internal)("[^>]*>)({ANY})(?=</a>)'),
    re.compile(r"(<mi)(>)([QKVqv])(?=</mi>)"),
    # k and s also count positions; those that have an index are vectors and scores
    re.compile(r"(?<=<msub>)(<mi)(>)([ks])(?=</mi>)"),
    re.compile(r"(?<=<msub><mi>T</mi>)(<mi)(>)(k)(?=</mi>)"),
]
DOCUMENT = re.compile(r'(?=<span id="document-)')


def mark(match: re.Match[str]) -> str:
    """A word's tag with the class of what the word means."""
    before, rest, word = match.groups()
    kind = KINDS.get(word, "score")
    before += f" {kind}" if 'class="' in before else f' class="{kind}"'
    return before + rest + word


def coloured(text: str) -> str:
    """The HTML of a page, its letters marked."""
    for sign in SIGNS:
        text = sign.sub(mark, text)
    return text


def colour(app: Sphinx, pagename: str, template: str, context: dict, doctree) -> None:
    """Mark the letters on the pages that are about them, alone or joined."""
    body = context.get("body", "")
    if pagename in PAGES:
        context["body"] = coloured(body)
    elif app.builder.name == "singlehtml":
        begins = tuple(f'<span id="document-{page}"' for page in PAGES)
        parts = DOCUMENT.split(body)
        context["body"] = "".join(
            coloured(part) if part.startswith(begins) else part for part in parts
        )


def setup(app: Sphinx) -> dict:
    app.connect("html-page-context", colour, priority=700)  # after the names
    return {"version": "1", "parallel_read_safe": True}
