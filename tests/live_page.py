"""A small page with a live figure, for the tests of each kind in Chromium."""

import re
import shutil
from pathlib import Path

import pytest

from helpers import CHROMIUM, REQUIRED

live = pytest.importorskip("live", reason="needs what builds the book: make .venv/book")

STATIC = Path(__file__).resolve().parents[1] / "book" / "_static"
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>A page</title>
{loads}<main><h1>A page</h1>{figures}<a href="#fig">a link</a></main></html>"""
FIGURE = """{marker}<figure id="{name}">
<svg width="300" height="100" role="img" aria-label="A text"></svg>
<figcaption>A figure.</figcaption></figure>"""
STATUS = "document.querySelector('[role=status]').textContent"
LONG_TASKS = """() => {
    window.long = [];
    new PerformanceObserver((list) => long.push(
        ...list.getEntries().map((entry) => entry.duration)
    )).observe({ type: "longtask" });
}"""


def in_browser(test):
    """A slow test that needs Chromium."""
    skip = pytest.mark.skipif(not REQUIRED and not CHROMIUM, reason="needs Chromium")
    return pytest.mark.slow(skip(test))


def loads(names: list[str]) -> str:
    """What the head of a page says to load these files."""
    return "".join(
        f'<link rel="stylesheet" href="{name}">'
        if name.endswith(".css")
        else f'<script defer src="{name}"></script>'
        for name in names
    )


def write_page(
    folder: Path, name: str, kind: str, more: dict | None = None, **data
) -> Path:
    """A page with a figure of a kind, and more by their ids, and what they load."""
    all_ = {"fig": {"kind": kind, **data}, **(more or {})}
    names = live.files(sorted({data["kind"] for data in all_.values()}))
    for file in names:
        shutil.copy(STATIC / file, folder)
    figures = ""
    for id_, data in all_.items():
        kind = data.pop("kind")
        marker = live.marker(kind, {"instead": id_, **data})
        figures += FIGURE.format(marker=marker, name=id_)
    page = folder / name
    page.write_text(PAGE.format(figures=figures, loads=loads(names)), "utf-8")
    return page


def change(script: Path, **constants: int) -> None:
    """Give constants of a script other values, so that a test need not wait."""
    text = script.read_text("utf-8")
    for name, value in constants.items():
        text, count = re.subn(rf"(?<=\b{name} = )\d+", str(value), text)
        assert count == 1, name
    script.write_text(text, "utf-8")


AT_SIZES = pytest.mark.parametrize("scheme, width", [("light", 1280), ("dark", 390)])


def troubles(tab, scheme: str, width: int) -> list:
    """What keeps a page from being read by all: rules of axe, and what is too wide."""
    tab.emulate_media(color_scheme=scheme)
    tab.set_viewport_size({"width": width, "height": 800})
    tab.wait_for_timeout(100)
    axe = pytest.importorskip("axe_core_python.sync_playwright")
    found = axe.Axe().run(tab, options={"runOnly": ["wcag2a", "wcag2aa"]})
    wrong = [(rule["id"], rule["nodes"][0]["html"]) for rule in found["violations"]]
    wide = tab.evaluate("document.documentElement.scrollWidth - innerWidth")
    return wrong + ["too wide"] * (wide > 0)
