"""A Sphinx extension that writes formulas as MathML, which browsers draw themselves.

No waiting, nothing to fetch but a font, and for roots, which Chromium draws too wide, a
few lines of script; a screen reader reads it, and an e-book keeps it. The translation is
docutils'. What it cannot translate is a warning with file and line, so that the build
fails.
"""

import re
from html import escape

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

APPLY, THIN = "&#x2061;", '<mspace width="0.17em"></mspace>'
AFTER = re.compile(
    rf"(<mo>{APPLY}</mo>)(?!<mo[^>]*>[(\[]|<mrow><mo[^>]*>[(\[])"
)  # ln x
BEFORE = re.compile(rf"(</m[in]>|</msu[bp]>)(?=<mi>\w\w+</mi><mo>{APPLY}</mo>)")  # 2 ln
log = logging.getLogger(__name__)


def mathml(node: nodes.Element, block: bool) -> str:
    """A formula of LaTeX as MathML."""
    source = node.astext().strip()
    try:
        text = latex2mathml.tex2mathml(source, as_block=block)
    except MathError as error:
        log.warning(f"formula {source!r}: {error}", location=node)
        return f"<code>{escape(source)}</code>"
    text = re.sub(r">\s+<", "><", text)  # it was indented
    text = text.replace("&ApplyFunction;", APPLY)  # the name is HTML's alone
    text = AFTER.sub(rf"\1{THIN}", BEFORE.sub(rf"\1{THIN}", text))
    return text.replace("<math ", f'<math alttext="{escape(source)}" ', 1)


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(mathml(node, block=False))
    raise nodes.SkipNode


def visit_block(self: HTML5Translator, node: nodes.math_block) -> None:
    number = ""
    if node.get("number"):
        number = f'<span class="eqno">({node["number"]})</span>'
    self.body.append(self.starttag(node, "div", CLASS="math"))
    self.body.append(f"{number}{mathml(node, block=True)}</div>\n")
    raise nodes.SkipNode


def load(app: Sphinx, pagename: str, template: str, context: dict, doctree) -> None:
    """Let a page with roots load what mends their width."""
    if "<msqrt>" in context.get("body", ""):
        app.add_js_file("roots.js", loading_method="defer")


def setup(app: Sphinx) -> dict:
    app.connect("html-page-context", load)
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"version": "1", "parallel_read_safe": True}
