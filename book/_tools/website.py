"""A Sphinx extension: what the site offers beside its pages.

In the folder `take` of the site lie `minigpt.py`, `minigpt.zip` (the program, its corpus
and model, the chapters as they were written and as notebooks), each page as plain
Markdown, which `llms.txt` lists, and for each chapter its notebook and the program as it
stands after it. Every page gets a description and a title
for whoever links to it; a page that is not there says so; the footer tells version and
licence.
"""

import base64
import io
import re
import tomllib
import zipfile
from collections.abc import Iterator
from html import escape, unescape
from pathlib import Path

import jupytext
import nbformat
from docutils import nodes
from sphinx.application import Sphinx

import tangle
from drawings import DESC
from hypertext import Book, last_line
from openings import parts_of_book

ROOT = tangle.TOC.parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "version"
]
ZIP = """minigpt.py README.md CONTRIBUTING.md LICENSE Makefile pyproject.toml
    constraints.txt _toc.yml _config.yml data/*.py data/python-stdlib.*
    checkpoints/pretrained.safetensors checkpoints/CARD.md gpt2.py many.py
    book/*.md book/*.py book/*.bib book/_tools/* book/_static/**/* book/_templates/**/*
    book/runs/**/* tests/**/*""".split()
TITLE = "MiniGPT: how a language model works, as a program that you read"
FOOTER = (
    f'<p>MiniGPT {VERSION}, text and code under the <a href="{{up}}take/LICENSE">MIT '
    'licence</a>. <a href="{up}take/minigpt.zip">Source</a> of the book and the '
    "program.</p>"
)
FETCH = """\
# Finds the program: beside this notebook, in the folder above, or in minigpt.zip.
import os, sys, urllib.request, zipfile

BASE = "{base}"  # where the book is on the web, if anywhere
if not os.path.exists("figures.py"):
    if not os.path.exists("minigpt.zip"):
        if not BASE:
            raise SystemExit("put minigpt.zip, from the first page of the book, beside "
                             "this notebook (in Colab: into the panel Files)")
        urllib.request.urlretrieve(BASE + "take/minigpt.zip", "minigpt.zip")
    zipfile.ZipFile("minigpt.zip").extractall()
    os.chdir("minigpt/book")
sys.path[:0] = ["..", "."]"""
LOST = """<!doctype html><html lang="en"><meta charset="utf-8"><title>No such page</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body {{ font: 1.1rem/1.6 serif; max-width: 34rem; margin: 15vh auto; padding: 0 1rem }}
@media (prefers-color-scheme: dark) {{ body {{ background: #121212; color: #ddd }}
a {{ color: #9cf }} }}</style>
<h1>This page is not in the book</h1>
<p>It may have had this address once. <a href="{0}book/index.html">The first page</a> lists all
chapters, and <a href="{0}search.html">the search</a> looks into them.</p></html>
"""


# --- what one takes along --------------------------------------------------


FENCED = re.compile(r"^(`{3,}){([\w-]+)} *(.*)\n((?:.*\n)*?)\1 *$", re.M)
COLONS = re.compile(r"^:::+ *{([\w-]+)} *(.*)$", re.M)
CODE = re.compile(r"(^```.*?^```$)", re.M | re.S)
HEAD = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)  # of a page, or of a cell
OPTION = re.compile(r"^:([\w-]+):? *(.*)\n?", re.M)
DRAWING = re.compile(r"!\[\]\((_static/drawings/\w+\.svg)\)")


def prose(text: str) -> str:
    """A page's Markdown as any notebook shows it: MyST's own signs become plain."""
    text = FENCED.sub(lambda m: plain(m[2], m[3], m[4]), HEAD.sub("", text))
    text = COLONS.sub(lambda m: plain(m[1], m[2], ""), text)
    text = re.sub(r"^:::+\s*$\n?", "", OPTION.sub("", text), flags=re.M)
    parts = CODE.split(text)
    parts[::2] = map(without_roles, parts[::2])
    return "".join(parts)


def markdown(page: Path, base: str) -> str:
    """A page, its code included, as plain Markdown, with drawings from the site."""
    text = prose(page.read_text("utf-8")).lstrip()
    return DRAWING.sub(rf"![]({base or '../'}\1)", text)


def with_drawings(text: str, base: str) -> str:
    """A notebook's Markdown, with drawings from the site, or inside, if it has none.

    A notebook is often alone, without the folder of drawings. JupyterLab shows an SVG
    inside as an `img`, but not as an attachment, and Colab shows neither.
    """

    def inside(match: re.Match[str]) -> str:
        svg = (ROOT / "book" / match[1]).read_text("utf-8")
        said = escape(" ".join(DESC.search(svg)[1].split()))
        data = base64.b64encode(svg.encode()).decode()
        return f'<img alt="{said}" src="data:image/svg+xml;base64,{data}">'

    return DRAWING.sub(rf"![]({base}\1)" if base else inside, text)


def without_roles(text: str) -> str:
    """Markdown, but no code, with the words of MyST's roles in their place."""
    text = re.sub(
        r"{cite:\w+}`([a-z]+)(\d+)\w*`", lambda m: f"({m[1].title()}, {m[2]})", text
    )
    return re.sub(r"{\w[\w:-]*}`([^`<]+?)(?:\s*<[^`]+>)?`", r"\1", text)


def plain(kind: str, title: str, body: str) -> str:
    """A directive in plain Markdown."""
    body = OPTION.sub("", HEAD.sub("", body)).strip()
    if kind in ("model", "live", "ways-in", "downloads") or kind.endswith("-end"):
        return ""
    if kind in ("cover", "question"):
        return f"*{body}*"
    if kind == "book-contents":
        return body.replace("\n", "  \n")  # a line each
    if kind in ("code-block", "code-cell"):
        return f"```{title}\n{body}\n```"
    if kind == "figure":
        return f"![]({title})\n\n{body}"
    if kind not in ("margin", "admonition"):
        words = kind.removesuffix("-start").capitalize()
        title = words if words == "Solution" else f"{words}: {title}".rstrip(": ")
    return f"**{title}**\n\n{body}".removeprefix("****\n\n")


def notebook(page: Path, base: str) -> str:
    """A chapter as a notebook that finds the program, without outputs."""
    book = jupytext.read(page)
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = with_drawings(prose(cell.source), base)
        cell.metadata = nbformat.NotebookNode(tags=cell.metadata.get("tags", []))
    book.cells.insert(0, nbformat.v4.new_code_cell(FETCH.format(base=base)))
    for number, cell in enumerate(book.cells):
        cell.id = f"cell-{number}"  # the same page, the same bytes
    book.metadata = nbformat.NotebookNode(
        kernelspec={"name": "python3", "display_name": "Python 3", "language": "python"}
    )
    return nbformat.writes(nbformat.from_dict(book), version=4)


def archive(base: str) -> bytes:
    """The zip: all that the book and the program are made of, and the notebooks."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted({path for pattern in ZIP for path in ROOT.glob(pattern)}):
            if path.is_file() and "__pycache__" not in path.parts:
                name = f"minigpt/{path.relative_to(ROOT).as_posix()}"
                file.writestr(
                    zipfile.ZipInfo(name), path.read_bytes(), zipfile.ZIP_DEFLATED
                )
        for page in chapters():
            file.writestr(
                zipfile.ZipInfo(f"minigpt/book/{page.stem}.ipynb"),
                notebook(page, base),
                zipfile.ZIP_DEFLATED,
            )
    return buffer.getvalue()


def stages(book: Book) -> Iterator[tuple[Path, str]]:
    """Yield each chapter, and the program as it stands at its end."""
    lines = book.program.text.split("\n")
    ends = {page: last_line(first, cell) for page, _, first, cell in book.parts}
    end = 0
    for page in chapters():
        end = ends.get(page, end)
        yield page, "\n".join(lines[:end]) + "\n"


def chapters() -> list[Path]:
    """The pages that are chapters, in reading order."""
    return [page for page in tangle.pages() if tangle.CHAPTER.fullmatch(page.stem)]


def for_machines(base: str) -> str:
    """`llms.txt`: what a program that reads for somebody finds here, in Markdown."""
    lines = [f"# {TITLE}", "", "> The chapters are the source of the program."]
    for caption, pages in parts_of_book().items():
        lines += ["", f"## {caption}", ""]
        for page in pages:
            lines.append(f"- [{tangle.title(page)[0]}]({base}take/{page.name})")
    lines += ["", "## Program", "", f"- [minigpt.py]({base}take/minigpt.py)", ""]
    return "\n".join(lines)


def share_writers(app: Sphinx) -> None:
    """Let the joined page and the e-book be written as pages are."""
    writers = app.registry.translation_handlers
    for name in ("singlehtml", "epub"):
        writers[name] = writers["html"] | writers.get(name, {})


def write_downloads(app: Sphinx) -> None:
    """Fill the folder `take` of the site."""
    if app.builder.name != "html":
        return
    base, folder = app.config.html_baseurl, Path(app.outdir, "take")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "minigpt.zip").write_bytes(archive(base))
    for name in ("minigpt.py", "LICENSE", "book/_static/minigpt.js"):
        (folder / Path(name).name).write_bytes((ROOT / name).read_bytes())
    for page in tangle.pages():
        (folder / page.name).write_text(markdown(page, base), "utf-8")
    Path(app.outdir, "llms.txt").write_text(for_machines(base), "utf-8")
    for page, program in stages(app.book):
        (folder / f"{page.stem}.ipynb").write_text(notebook(page, base), "utf-8")
        (folder / f"minigpt_{page.stem[:2]}.py").write_text(program, "utf-8")
    Path(app.outdir, "404.html").write_text(LOST.format(base or "/"), "utf-8")


# --- what others see of a page ---------------------------------------------


def describe(
    app: Sphinx,
    pagename: str,
    template: str,
    context: dict,
    doctree: nodes.document | None,
) -> None:
    """Title, description and addresses of a page, and its footer."""
    first = pagename == app.config.root_doc
    paragraphs = doctree.findall(nodes.paragraph) if doctree else ()
    told = (
        node.astext()
        for node in paragraphs
        if isinstance(node.parent, nodes.section)
        and len(node.astext()) > 60
        and "minutes" not in node["classes"]
    )
    text = " ".join(next(told, TITLE).split())
    context["description"] = (
        text if len(text) < 200 else text[:197].rsplit(" ", 1)[0] + " …"
    )
    title = unescape(re.sub(r"<[^>]+>", "", context.get("title") or ""))
    context["full_title"] = TITLE if first else f"{title} — MiniGPT"
    base, up = app.config.html_baseurl, "../" * pagename.count("/")
    context["address"] = base and f"{base}{pagename}.html"
    context["picture"] = base and f"{base}_static/share.png"
    context["theme_extra_footer"] = FOOTER.format(up=up)


def settle(app: Sphinx, config) -> None:
    """The version is the program's, and an address ends with a slash."""
    config.version = config.release = VERSION
    if config.html_baseurl:
        config.html_baseurl = config.html_baseurl.rstrip("/") + "/"


def setup(app: Sphinx) -> dict:
    for name in ("scroll.js", "print.js"):
        app.add_js_file(name, loading_method="defer")
    app.connect("config-inited", settle)
    app.connect("builder-inited", write_downloads)
    app.connect("builder-inited", share_writers)
    app.connect("html-page-context", describe, priority=800)
    return {"version": "1", "parallel_read_safe": True}
