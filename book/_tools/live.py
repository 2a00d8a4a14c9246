"""A Sphinx extension: live figures, which the model in the page makes out of static ones.

The directive `live` names its kind, the static figure that it stands in for, and the text
that it begins with:

    ```{live} reader
    :instead: fig-cover
    def f(x):
    ```

A text that begins or ends with a space is written in quotes, as JSON, on one line. On a
page of the site this is an empty element with that as its data. `live.js` puts a button
below the figure, and the live one in its place when a reader asks for it; what is in that
has a script and a style sheet for each kind. Other formats, and a browser without
JavaScript, have the static figure. With the option `full`, more guesses are shown, and the
settings from the start. A page loads only what its own figures need.
"""

import json
import re
from html import escape

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

KINDS = ("reader",)


class live(nodes.General, nodes.Element):
    """The place and the data of a live figure."""


class LiveDirective(SphinxDirective):
    """A live figure in the place of a static one of the same page."""

    required_arguments = 1
    has_content = True
    option_spec = {"instead": directives.unchanged_required, "full": directives.flag}

    def run(self) -> list[nodes.Node]:
        kind, instead = self.arguments[0], self.options.get("instead")
        if kind not in KINDS or not instead:
            raise self.error(f"a kind of {', '.join(KINDS)}, and `:instead:` a figure")
        text = "\n".join(self.content)
        if len(self.content) == 1 and text.startswith('"'):
            text = json.loads(text)
        full = "full" in self.options
        return [live(kind=kind, instead=instead, text=text, full=full)]


def marker(node: live) -> str:
    """What a page of the site has in the place of the directive."""
    text = escape(node["text"]).replace("\n", "&#10;")
    full = ' data-full="full"' * node["full"]
    return (
        f'<div hidden data-live="{node["kind"]}" data-instead="{node["instead"]}" '
        f'data-text="{text}"{full}></div>\n'
    )


def place(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Write the markers, for the site only."""
    for node in [*doctree.findall(live)]:
        html = nodes.raw("", marker(node), format="html")
        node.parent.replace(node, html if app.builder.name == "html" else [])


def kinds_on(body: str) -> list[str]:
    """The kinds of live figures in the HTML of a page."""
    return sorted({*re.findall(r'data-live="(\w+)"', body)})


def files(kinds: list[str]) -> list[str]:
    """The style sheets and the scripts that a page with these kinds loads, in order."""
    if not kinds:
        return []
    own = ["live", *(f"live_{kind}" for kind in kinds)]
    return [
        *(f"{name}.css" for name in own),
        "minigpt.js",
        *(f"{name}.js" for name in own),
    ]


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
