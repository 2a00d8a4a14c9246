"""A Sphinx extension: a listing of code is made of lines.

Each line is an element, so that style sheets can number it and let a long one go on below,
under its own beginning, where there is no room: on a phone, on paper, in an e-book. The
numbers are those of the file that a listing is a part of (`hypertext.py` says where it
begins). They are drawn, and no part of the text: who copies a listing has code.
"""

import re
from html import unescape

from sphinx.application import Sphinx

LISTING = re.compile(
    r'(<div class="highlight-\w+ notranslate"[^>]*>\s*<div class="highlight">)'
    r"<pre>(?:<span></span>)?(.*?)</pre>",
    re.DOTALL,
)
NUMBER = re.compile(r'<span class="linenos"> *(\d+)</span>')
TAG = re.compile(r"<[^>]+>")
LONG = 32  # characters that have room on any phone


def line(html: str) -> str:
    """A line as an element. A long one knows how far it is indented."""
    text = unescape(TAG.sub("", html))
    depth = len(text) - len(text.lstrip())
    style = f' style="--depth: {depth}ch"' if depth and len(text) > LONG else ""
    return f'<span class="line"{style}>{html}\n</span>'


def listing(match: re.Match[str]) -> str:
    """A block of highlighted code, line by line."""
    head, code = match.groups()
    first = NUMBER.search(code)
    pre = "<pre>"
    if first:
        pre = f'<pre class="numbered" style="counter-reset: line {int(first[1]) - 1}">'
    lines = NUMBER.sub("", code).rstrip("\n").split("\n")
    return f"{head}{pre}{''.join(map(line, lines))}</pre>"


def in_lines(app: Sphinx, pagename: str, template: str, context: dict, doctree) -> None:
    """Make lines of all listings on a page; what a cell printed is none."""
    if context.get("body"):
        context["body"] = LISTING.sub(listing, context["body"])


def setup(app: Sphinx) -> dict:
    app.connect("html-page-context", in_lines, priority=400)  # before the names
    return {"version": "1", "parallel_read_safe": True}
