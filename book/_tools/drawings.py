"""A Sphinx extension that makes SVG images part of the pages they stand on.

There their text is in the page's font, their colours are variables of the theme
(`figures.css` says what they are in the dark), and their links lead to chapters.
An e-book shows the images as they are, in the light theme's colours.
The directive `model` draws the whole model, and lights the part that it names.
"""

import hashlib
import re
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import tangle

COLOURS = {  # of the light theme; figures.py and the drawings use no others
    "#222832": "ink",
    "#48566b": "muted",
    "#8b95a5": "grey",
    "#ffffff": "paper",
    "#2069b0": "blue",
    "#c2410c": "orange",
    "#b57600": "gold",
    "#23784a": "green",
    "#7a4bb3": "violet",
    "#0a7d91": "teal",
}
MODEL = tangle.TOC.parent / "book" / "_static" / "drawings" / "model.svg"
APART = re.compile(r"<(metadata|style|title|desc)\b.*?</\1>|<!--.*?-->", re.S)
TAG = re.compile(r"<[^>]+>")
COLOUR = re.compile(r"#[0-9a-f]{6}\b")
FAMILY = re.compile(r" ?font-family: ('DejaVu Sans (Mono)?)?[^;\"]*;?")
DESC = re.compile(r"<desc>(.+?)</desc>", re.S)
LINK = re.compile(r' href="(\w+)\.md(#[^"]*)?"')
NUMBER = re.compile(r"\d+\.\d{3,}")
BOX = re.compile(r'viewBox="0 0 ([\d.]+) ')
VARIABLE = re.compile(r"var\(--figure-\w+, (#\w+)\)")
XML = 'xmlns="http://www.w3.org/2000/svg"'
OUTSIDE = re.compile(r' (xmlns(:xlink)?|version|width|height|font-family)="[^"]*"')
log = logging.getLogger(__name__)


def tag_for_page(tag: str, name: str, used: set[str]) -> str:
    """An SVG's tag, its colours variables, its ids those of no other image."""
    tag = re.sub(r"\s*\n\s*", "" if ";base64," in tag else " ", tag)
    tag = NUMBER.sub(lambda number: f"{float(number[0]):.2f}", tag)
    tag = FAMILY.sub(
        lambda font: (
            " font-family: var(--pst-font-family-monospace);" if font[2] else ""
        ),
        tag,
    )
    tag = COLOUR.sub(lambda c: f"var(--figure-{COLOURS[c[0]]}, {c[0]})", tag)
    tag = re.sub(
        r' id="([^"]+)"', lambda i: f' id="{name}-{i[1]}"' if i[1] in used else "", tag
    )
    tag = re.sub(r'(url\(|href=")#', rf"\1#{name}-", tag)
    return tag.replace("xlink:href", "href")


def svg_for_page(text: str, alt: str) -> str:
    """An image's SVG as an element of a page."""
    text = APART.sub("", text[text.index("<svg") :])
    name = "s" + hashlib.sha256(text.encode()).hexdigest()[:8]
    used = {*re.findall(r'(?:url\(|href=")#([^")]+)', text)}
    role = "group" if "<a " in text else "img"
    text = re.sub(
        r">\s+<", "><", TAG.sub(lambda tag: tag_for_page(tag[0], name, used), text)
    )
    first = text.index(">")
    root, width = OUTSIDE.sub("", text[:first]), BOX.search(text)[1]
    return (
        f'{root} class="drawing" style="--width: {width}" role="{role}" '
        f'aria-label="{escape(alt)}"{text[first:]}'
    )


class ModelDirective(SphinxDirective):
    """The whole model, its parts links; lit is the one that a chapter is about."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        part = self.arguments[0]
        parts = re.findall(r' id="part-(\w+)"', MODEL.read_text("utf-8"))
        if part not in parts:
            raise self.error(f"the model has no part {part!r}: {', '.join(parts)}")
        image = nodes.image(
            uri=f"/{MODEL.relative_to(self.env.srcdir)}",
            lit=part,
            alt=f"The whole model. This chapter: {part}.",
        )
        self.set_source_info(image)
        return [image]


def drawn(app: Sphinx, doctree: nodes.document) -> list[nodes.image]:
    """The SVG images of a page; Sphinx warns of one that is missing."""
    return [
        image
        for image in doctree.findall(nodes.image)
        if image["uri"].endswith(".svg") and Path(app.srcdir, image["uri"]).exists()
    ]


def describe(app: Sphinx, doctree: nodes.document) -> None:
    """Let a drawing that has no other text in words have its own."""
    for image in drawn(app, doctree):
        if "alt" not in image:
            said = DESC.search(Path(app.srcdir, image["uri"]).read_text("utf-8"))
            image["alt"] = " ".join(said[1].split()) if said else ""


def draw(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put the SVG of each image of a page in its place."""
    if app.builder.format != "html":
        return
    ebook = app.builder.name == "epub"  # whose readers know no variables, but images

    def link(there: re.Match[str]) -> str:
        page = f"book/{there[1]}"
        if page not in app.env.found_docs:
            log.warning(f"{image['uri']}: no page {page}", location=image)
        there_from_here = app.builder.get_relative_uri(docname, page)
        return f' href="{there_from_here}{there[2] or ""}"'

    for image in drawn(app, doctree):
        if ebook and "lit" not in image:
            continue
        text = Path(app.srcdir, image["uri"]).read_text("utf-8")
        strange = {*COLOUR.findall(" ".join(TAG.findall(text)))} - COLOURS.keys()
        if strange or not image["alt"]:
            log.warning(
                f"{image['uri']}: no text in words, or colours that are no "
                f"variable's: {sorted(strange)}",
                location=image,
            )
            continue
        text = text.replace(
            f' id="part-{image.get("lit")}"', ' class="lit" aria-current="true"'
        )
        text = LINK.sub(link, svg_for_page(text, image["alt"]))
        if ebook:
            text = VARIABLE.sub(r"\1", text.replace("<svg", f"<svg {XML}", 1))
        image.replace_self(nodes.raw("", text, format="html"))


def setup(app: Sphinx) -> dict:
    app.add_directive("model", ModelDirective)
    app.connect("doctree-read", describe, priority=900)
    app.connect("doctree-resolved", draw)
    return {"version": "1", "parallel_read_safe": True}
