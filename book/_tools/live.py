"""A Sphinx extension: live figures, which the model in the page makes out of static ones.

The directive `live` names its kind, the static figure that it stands in for, and what it
begins with:

    ```{live} reader
    :instead: fig-cover
    def f(x):
    ```

    ```{live} attention
    :instead: fig-weights
    :asks: 19
    :answers: 8
    self.width, self.wid
    self.north, self.wid
    ```

A reader begins with a text, and with the option `full` it shows more guesses, and the
settings from the start. Attention begins with one of several texts, each a line of its own.
Character `asks` asks in it, the last one if nothing is said, and the head is the one that
gives most weight to character `answers`; with `full`, heads can be silenced, and with
`follows`, the text is what a reader of the same page is at. A figure of the cache writes,
with it and without, what follows a text. A film is of a recorded run, whose name is all of
its text. So is `own`, which puts a run of the reader's beside it, and the model of that run
into all figures of the page. A text that begins or ends with a space or has several lines
can be written in quotes, as JSON, on one line.

On a page of the site this is an empty element with that as its data, with the weights of
attention over its texts, which `looks.py` computes when the book is built, or with what
`film.py` takes from a record. `live.js` puts a button below the figure, and the live one in
its place when a reader asks for it; what is in that has a script and a style sheet for each
kind. Other formats, and a browser without JavaScript, have the static figure. A page loads
only what its own figures need.
"""

import json
import re
from html import escape

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

KINDS = {  # of each, the scripts and style sheets that it needs besides live and its own
    "attention": ["minigpt"],
    "cache": ["minigpt"],
    "film": ["live_curve"],
    "own": ["minigpt", "live_curve"],
    "reader": ["minigpt"],
}


class live(nodes.General, nodes.Element):
    """The place and the data of a live figure."""


def unquoted(line: str) -> str:
    """A text that may be written in quotes, as JSON."""
    return json.loads(line) if line.startswith('"') else line


def begun(kind: str, options: dict, lines: list[str]) -> dict:
    """The data of a live figure: its options, and the texts that it begins with."""
    data = {name: name if value is None else value for name, value in options.items()}
    if kind == "attention":
        return data | {"texts": [unquoted(line) for line in lines]}
    whole = unquoted(lines[0]) if len(lines) == 1 else "\n".join(lines)
    return data | {"text": whole}


class LiveDirective(SphinxDirective):
    """A live figure in the place of a static one of the same page."""

    required_arguments = 1
    has_content = True
    option_spec = {
        "instead": directives.unchanged_required,
        "full": directives.flag,
        "asks": directives.nonnegative_int,
        "answers": directives.nonnegative_int,
        "follows": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        kind = self.arguments[0]
        if kind not in KINDS or "instead" not in self.options:
            raise self.error(f"a kind of {', '.join(KINDS)}, and `:instead:` a figure")
        data = begun(kind, self.options, [*self.content])
        return [live(kind=kind, data=data)]


def marker(kind: str, data: dict[str, str | int | list[str]]) -> str:
    """What a page of the site has in the place of the directive."""
    if kind == "attention":
        import looks  # and with it PyTorch, which other pages can do without

        data = data | {
            "looks": " ".join(map(looks.packed, data["texts"])),
            "heads": looks.shipped().model.config.n_heads,
            "texts": json.dumps(data["texts"]),
        }
    if kind in ("film", "own"):
        import film

        record = (film.film if kind == "film" else film.learned)(data["text"])
        data = data | {"record": json.dumps(record, separators=(",", ":"))}
    written = "".join(
        f' data-{name}="{escape(str(value)).replace(chr(10), "&#10;")}"'
        for name, value in data.items()
    )
    return f'<div hidden data-live="{kind}"{written}></div>\n'


def place(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Write the markers, for the site only."""
    for node in [*doctree.findall(live)]:
        html = []
        if app.builder.name == "html":
            html = nodes.raw("", marker(node["kind"], node["data"]), format="html")
        node.parent.replace(node, html)


def kinds_on(body: str) -> list[str]:
    """The kinds of live figures in the HTML of a page."""
    return sorted({*re.findall(r'data-live="(\w+)"', body)})


def files(kinds: list[str]) -> list[str]:
    """The style sheets and the scripts that a page with these kinds loads, in order."""
    needs = {name for kind in kinds for name in KINDS[kind]}
    names = [
        *sorted(needs & {"minigpt"}),
        *["live"] * bool(kinds),
        *sorted(needs - {"minigpt"}),
        *(f"live_{kind}" for kind in kinds),
    ]
    sheets = [f"{name}.css" for name in names if name != "minigpt"]
    return [*sheets, *(f"{name}.js" for name in names)]


def load(app: Sphinx, pagename: str, template: str, context: dict, doctree) -> None:
    """Let a page with live figures load what they need."""
    if doctree is None:
        return
    for name in files(kinds_on(context.get("body", ""))):
        if name.endswith(".css"):
            app.add_css_file(name)
        else:
            app.add_js_file(name, loading_method="defer")


def setup(app: Sphinx) -> dict:
    app.add_node(live)
    app.add_directive("live", LiveDirective)
    app.connect("doctree-resolved", place)
    app.connect("html-page-context", load)
    return {"version": "1", "parallel_read_safe": True}
