"""The book's mark, a bar below each letter, as the pictures that carry it.

    python book/_tools/mark.py

Writes `share.png`, which is shown where somebody links to the book, and `cover.png`, of
the e-book, into book/_static. The bars are the shipped model's surprise at the title and
at the text of the first page's figure; headless Chromium draws them.
"""

import html
import re
import shutil
import sys

import torch
from playwright.sync_api import sync_playwright

import tangle

ROOT = tangle.TOC.parent
sys.path.append(str(ROOT))

import minigpt  # noqa: E402

STATIC = ROOT / "book" / "_static"
TEXT = re.compile(r"^```{live} reader\n:instead: fig-cover\n(.*?)\n```", re.M | re.S)
PAGE = """<!doctype html><meta charset="utf-8"><style>
@font-face {{ font-family: Code; src: url("{fonts}/source-code-400.woff2"); font-weight: 400 }}
@font-face {{ font-family: Code; src: url("{fonts}/source-code-600.woff2"); font-weight: 600 }}
@font-face {{ font-family: Text; src: url("{fonts}/source-serif-400.woff2") }}
* {{ box-sizing: border-box; margin: 0 }}
body {{ display: flex; flex-direction: column; justify-content: space-between;
  width: {width}px; height: {height}px; padding: {pad}px; background: #14171c; color: #e9edf2 }}
h1, pre {{ font-family: Code; white-space: pre }}
h1 {{ font-size: {title}px; font-weight: 600; line-height: 1.75 }}
pre {{ font-size: {code}px; line-height: 2.2 }}
p {{ font: {sub}px/1.35 Text; color: #b9c2cd; max-width: 24em }}
span {{ position: relative }}
span::after {{ content: ""; position: absolute; left: 0; right: .05em; top: 1.22em;
  height: calc(var(--nats) * .1em); background: #f2b43a }}
pre span::after {{ top: 1.4em; height: calc(var(--nats) * .16em) }}
</style><h1>{name}</h1><p>How a language model works, as a program that you read</p>{text}"""
PICTURES = {
    "share.png": dict(width=1200, height=630, pad=80, title=190, sub=44, code=0),
    "cover.png": dict(width=1200, height=1800, pad=110, title=232, sub=58, code=26.5),
}
PAPER = dict(width=794, height=1123, pad=72, title=154, sub=40, code=18)  # A4


def read(checkpoint: minigpt.Checkpoint, text: str) -> str:
    """A text as HTML, each character with the model's surprise at it."""
    ids = torch.tensor(checkpoint.ids(text))
    with torch.no_grad():
        logits = checkpoint.model.eval()(ids[None, :-1])[0]
    nats = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
    return "".join(
        f'<span style="--nats: {min(n, 5):.2f}">{html.escape(c)}</span>'
        if c.strip()
        else c
        for c, n in zip(text, nats[-len(text) :].tolist(), strict=True)
    )


def page(fonts: str, sizes: dict) -> str:
    """A picture's page; where the fonts are, and how large all is."""
    checkpoint = minigpt.load_checkpoint(minigpt.SHIPPED)
    code = TEXT.search((ROOT / "book" / "index.md").read_text("utf-8"))[1]
    text = f"<pre>{read(checkpoint, code)}</pre>" * bool(sizes["code"])
    return PAGE.format(
        fonts=fonts, name=read(checkpoint, "MiniGPT"), text=text, **sizes
    )


def main() -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name, sizes in PICTURES.items():
            tab = browser.new_page(
                viewport={"width": sizes["width"], "height": sizes["height"]}
            )
            file = STATIC / "mark.html"  # beside the fonts
            file.write_text(page("fonts", sizes), "utf-8")
            tab.goto(file.as_uri())
            tab.evaluate("document.fonts.ready")
            tab.screenshot(path=STATIC / name)
            file.unlink()
        browser.close()


if __name__ == "__main__":
    main()
