"""The built book in a real browser: every page, light, dark and on a phone.

Looks at _build/html (`make book` first) with Chromium. Without either the
tests are skipped, unless REQUIRE_BROWSER is set, as it is in CI.
"""

import os
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]
HTML = Path(os.environ.get("BOOK_HTML", ROOT / "_build" / "html"))
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
REQUIRED = bool(os.environ.get("REQUIRE_BROWSER"))
PAGES = sorted((ROOT / "book").glob("*.md"))
MODES = {"light": ("light", 1280), "dark": ("dark", 1280), "phone": ("light", 390)}
MATHS = """async () => {
    if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
    return [...document.querySelectorAll('.math')]
        .filter(e => !e.querySelector('mjx-container')).length;
}"""
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    not REQUIRED and not (CHROMIUM and (HTML / "book").exists()),
    reason="needs Chromium, and the book, built by `make book`")]


@pytest.fixture(scope="module")
def chromium():
    """A browser; its pages are closed by the tests."""
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def address(page: Path) -> str:
    return (HTML / "book" / f"{page.stem}.html").as_uri()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_loads_fits_and_can_be_read_by_all(chromium, page, mode):
    axe = pytest.importorskip("axe_core_python.sync_playwright")
    scheme, width = MODES[mode]
    tab = chromium.new_page(color_scheme=scheme,
                            viewport={"width": width, "height": 900})
    wrong = []
    tab.on("console", lambda message: message.type == "error"
           and wrong.append(message.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("requestfailed", lambda request: wrong.append(request.url))
    tab.on("request", lambda request: request.url.startswith(("file:", "data:"))
           or wrong.append(f"asks for {request.url}"))
    try:
        tab.goto(address(page))
        assert tab.evaluate(MATHS) == 0
        assert tab.evaluate(OVERFLOW) <= 0
        found = axe.Axe().run(tab, options={"runOnly": RULES})["violations"]
        assert [(rule["id"], [node["target"] for node in rule["nodes"]][:3])
                for rule in found] == []
        assert wrong == []
    finally:
        tab.close()


LINK = re.compile(r'\b(?:href|src)="([^"]*)"')
ID = re.compile(r'\bid="([^"]*)"')


def test_no_link_within_the_book_is_broken():
    pages = {path: path.read_text("utf-8") for path in HTML.rglob("*.html")
             if "_static" not in path.parts}
    broken = []
    for path, text in pages.items():
        for link in {*LINK.findall(text)}:
            parts = urlsplit(link.replace("&amp;", "&"))
            if parts.scheme or link.startswith("//"):
                continue
            there = (path.parent / unquote(parts.path)).resolve()
            there = there if parts.path else path
            if not there.exists():
                broken.append((path.name, link))
            elif parts.fragment and there in pages and (
                    unquote(parts.fragment) not in ID.findall(pages[there])):
                broken.append((path.name, link))
    assert broken == []
