"""The built book in a real browser: every page, light, dark and on a phone.

Looks at _build/html (`make book` first) with Chromium. Without either the
tests are skipped, unless REQUIRE_BROWSER is set, as it is in CI.
"""

import ast
import gzip
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from helpers import CHROMIUM, REQUIRED

ROOT = Path(__file__).resolve().parents[1]
HTML = Path(os.environ.get("BOOK_HTML", ROOT / "_build" / "html"))
PAGES = sorted((ROOT / "book").glob("*.md"))
MODES = {"light": ("light", 1280), "dark": ("dark", 1280), "phone": ("light", 390)}
COVERED = """[...document.querySelectorAll('button.copybtn')].filter(b => {
    const button = b.getBoundingClientRect();
    const lines = [...b.closest('.highlight').querySelectorAll('.line')];
    return lines.some(l => l.getBoundingClientRect().top < button.bottom - 1);
}).length"""
CUT = """[...document.querySelectorAll('.highlight pre:has(> .line)')].filter(
    e => e.scrollWidth > e.clientWidth + 1).length"""
MATHS = """[...document.querySelectorAll('math')].filter(
    e => e.closest('details:not([open])') === null && e.getBoundingClientRect().height < 4
).length"""
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"
RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"],
    "resultTypes": ["violations"],
}  # without, twice the time

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not REQUIRED and not (CHROMIUM and (HTML / "book").exists()),
        reason="needs Chromium, and the book, built by `make book`",
    ),
]


def address(page: Path) -> str:
    return (HTML / "book" / f"{page.stem}.html").as_uri()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_loads_fits_and_can_be_read_by_all(chromium, page, mode):
    axe = pytest.importorskip("axe_core_python.sync_playwright")
    scheme, width = MODES[mode]
    tab = chromium.new_page(
        color_scheme=scheme, viewport={"width": width, "height": 900}
    )
    wrong = []
    tab.on(
        "console",
        lambda message: message.type == "error" and wrong.append(message.text),
    )
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("requestfailed", lambda request: wrong.append(request.url))
    tab.on(
        "request",
        lambda request: (
            request.url.startswith(("file:", "data:"))
            or wrong.append(f"asks for {request.url}")
        ),
    )
    try:
        tab.goto(address(page))
        assert tab.evaluate(MATHS) == 0
        assert tab.evaluate(OVERFLOW) <= 0
        assert tab.evaluate(CUT) == 0 and tab.evaluate(COVERED) == 0
        found = axe.Axe().run(tab, options=RULES)["violations"]
        assert [
            (rule["id"], [node["target"] for node in rule["nodes"]][:3])
            for rule in found
        ] == []
        assert wrong == []
    finally:
        tab.close()


LINK = re.compile(r'\b(?:href|src)="([^"]*)"')
ID = re.compile(r'\bid="([^"]*)"')


def test_no_link_within_the_book_is_broken():
    pages = {
        path: path.read_text("utf-8")
        for path in HTML.rglob("*.html")
        if "_static" not in path.parts
    }
    ids = {path: {*ID.findall(text)} for path, text in pages.items()}
    broken = []
    for path, text in pages.items():
        for link in {*LINK.findall(text)}:
            parts = urlsplit(link.replace("&amp;", "&"))
            if parts.scheme or link.startswith("//"):
                continue
            place = HTML if link.startswith("/") else path.parent  # the site's root
            there = (place / unquote(parts.path).lstrip("/")).resolve()
            there = there if parts.path else path
            astray = (
                parts.fragment
                and there in pages
                and (unquote(parts.fragment) not in ids[there])
            )
            if astray or not there.exists():
                broken.append((path.name, link))
    assert broken == []


# --- hypertext, weight, keyboard -------------------------------------------

CARD = "document.querySelector('#name-card')"
ASSETS = re.compile(r"\.(png|svg|jpe?g|ipynb|zip)$")


def code_of(path: Path) -> str:
    """The highlighted code of a built page, as HTML without its lines' tags."""
    found = re.findall(
        r'<div class="highlight">.*?</pre></div>', path.read_text("utf-8"), re.DOTALL
    )
    return re.sub('<span class="line"[^>]*>', "", "".join(found))


def test_every_name_that_a_page_imports_is_a_link_wherever_code_uses_it():
    tangle = pytest.importorskip("tangle")
    linked, bare = 0, []
    for page in tangle.pages():
        names = {
            alias.name
            for cell in tangle.cells(page)
            for node in ast.walk(ast.parse(cell.source))
            if isinstance(node, ast.ImportFrom) and node.module == "minigpt"
            for alias in node.names
        }
        html = HTML / "book" / f"{page.stem}.html"
        for name in names if html.exists() else ():
            token = rf'<span class="n[a-z]*">{name}</span>'
            free = rf'(?<!<span class="o">\.</span>)(?<!">){token}(?!<span class="o">=</span>)'
            linked += len(re.findall(rf'<a class="name"[^>]*>{token}', code_of(html)))
            bare += [(page.stem, name)] * len(re.findall(free, code_of(html)))
    assert linked >= 499
    assert bare == []


def test_a_card_shows_what_a_name_is_and_escape_closes_it(chromium):
    tab = chromium.new_page(viewport={"width": 1280, "height": 900})
    try:
        tab.goto(address(ROOT / "book" / "14_run.md"))
        link = tab.locator("a.name[href$='#def-training_step']:visible").first
        link.scroll_into_view_if_needed()
        link.focus()
        assert tab.evaluate(f"{CARD}.innerText").startswith("def training_step(model")
        assert link.get_attribute("aria-describedby") == "name-card"
        tab.keyboard.press("Escape")
        assert tab.evaluate(f"{CARD}.hidden")
        link.hover()
        tab.wait_for_function(f"!{CARD}.hidden")
    finally:
        tab.close()


@pytest.mark.parametrize(
    "link, shown",
    [
        ('a[href="#fig-05-attention"]', "figure svg"),
        ('a[href^="A5_references.html#"]', None),
    ],
)
def test_a_card_shows_what_a_link_leads_to(chromium, link, shown):
    tab = chromium.new_page(viewport={"width": 1280, "height": 900})
    try:
        tab.goto(address(ROOT / "book" / "05_attention.md"))
        ids = "[...document.querySelectorAll('[id]')].map(e => e.id).sort().join()"
        before = tab.evaluate(ids)
        title = tab.locator(link).first.get_attribute("title")
        tab.locator(link).first.hover()
        tab.wait_for_function(f"!{CARD}.hidden")
        if shown:
            assert tab.locator(f"#name-card {shown}").count() == 1
        else:
            assert tab.evaluate(f"{CARD}.innerText") == title
        assert tab.evaluate(ids) == before
    finally:
        tab.close()


def test_a_name_has_no_card_in_the_cell_that_defines_it(chromium):
    tab = chromium.new_page(viewport={"width": 1280, "height": 900})
    try:
        tab.goto(address(ROOT / "book" / "13_checkpoints.md"))
        links = tab.locator("a.name[href$='#def-write_atomically']:visible")
        own = "e => Boolean(e.closest('.cell')?.querySelector('#def-write_atomically'))"
        inside = [links.nth(n).evaluate(own) for n in range(links.count())]
        links.nth(inside.index(True)).focus()
        assert tab.evaluate(f"{CARD}.hidden")
        links.nth(inside.index(False)).focus()
        assert not tab.evaluate(f"{CARD}.hidden")
    finally:
        tab.close()


def test_terms_references_and_names_in_prose_are_links():
    page = (HTML / "book" / "12_learning.html").read_text("utf-8")
    assert page.count('class="term reference internal"') >= 5
    assert re.search(r'<a class="name reference internal"[^>]*><code', page)
    listed = (HTML / "book" / "A5_references.html").read_text("utf-8")
    labels = re.findall(r'fn-bracket">\[</span>(.*?)<', listed)
    assert labels == sorted(labels, key=str.lower) and len(labels) > 20
    assert listed.count("Cited in") == len(labels)


def weights(chromium, pages: list[str]) -> list[int]:
    """Compressed bytes that each of these pages asks for and none before it did."""
    tab, seen, sizes = chromium.new_page(), set(), []
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    for page in pages:
        asked.clear()
        tab.goto((HTML / "book" / f"{page}.html").as_uri(), wait_until="networkidle")
        assert not any("weights.js" in url for url in asked), page
        files = {unquote(urlsplit(url).path) for url in asked} - seen
        seen |= files
        sizes.append(
            sum(
                len(data) if name.endswith(".woff2") else len(gzip.compress(data))
                for name in files
                if not ASSETS.search(name)
                for data in [figures_out(Path(name).read_bytes())]
            )
        )
    tab.close()
    return sizes


def figures_out(data: bytes) -> bytes:
    """A file without the figures that are drawn in it."""
    return re.sub(rb"<svg.*?</svg>", b"", data, flags=re.DOTALL)


def test_a_first_visit_and_a_further_page_are_light(chromium):
    first, *others = weights(
        chromium, ["index", *[page.stem for page in PAGES if page.stem != "index"]]
    )
    assert first <= 260_000, first
    heaviest = max(others)
    assert heaviest <= 80_000, heaviest


def test_the_keyboard_sees_where_it_is_and_formulas_are_no_stops(chromium):
    tab = chromium.new_page(viewport={"width": 1280, "height": 900})
    try:
        tab.goto(address(ROOT / "book" / "05_attention.md"))
        assert tab.evaluate("document.querySelectorAll('math[tabindex]').length") == 0
        for _ in range(40):
            tab.keyboard.press("Tab")
            seen = tab.evaluate("""() => {
                const e = document.activeElement, s = getComputedStyle(e);
                return e === document.body || parseFloat(s.outlineWidth) >= 2
                    || s.boxShadow != 'none' ? '' : e.outerHTML.slice(0, 200);
            }""")
            assert seen == ""
    finally:
        tab.close()


def test_paper_is_light_whatever_the_screen_is(chromium):
    tab = chromium.new_page(color_scheme="dark")
    try:
        tab.goto(address(ROOT / "book" / "02_tokenizer.md"))
        theme = "document.documentElement.dataset.theme"
        assert tab.evaluate(theme) == "dark"
        tab.evaluate(
            "window.addEventListener('beforeprint', "
            f"() => {{ window.printed = {theme}; }})"
        )
        tab.pdf()
        assert tab.evaluate("window.printed") == "light"
        assert tab.evaluate(theme) == "dark"
    finally:
        tab.close()


def test_the_site_offers_the_program_and_says_when_a_page_is_missing():
    assert (HTML / "take" / "minigpt.py").read_bytes() == (
        ROOT / "minigpt.py"
    ).read_bytes()
    assert (HTML / "take" / "minigpt.js").exists()
    assert (HTML / "_static" / "weights.js").stat().st_size < 6.5e6
    assert (HTML / "take" / "minigpt.zip").stat().st_size > 10**7
    assert "not in the book" in (HTML / "404.html").read_text("utf-8")
    for page in PAGES:
        text = (HTML / "book" / f"{page.stem}.html").read_text("utf-8")
        assert (
            len(re.findall('<meta name="description" content="[^"]{20,}"', text)) == 1
        )
        assert len(re.findall('<meta property="og:title" content="[^"]+"', text)) == 1
        assert "fontawesome.js" not in text and "MathJax" not in text
