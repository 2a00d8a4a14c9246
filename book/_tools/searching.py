"""A Sphinx extension: a search that finds the chapter first which is about a word.

Sphinx's index knows on which pages a word stands, and not how often. Here the page that
uses a word far more than any other counts as if the word were in its title. What a result
shows is from the page's text alone, and pages that one comes to have no marks.
"""

import json
import re
from collections import Counter
from pathlib import Path

from sphinx.application import Sphinx

BEGIN, END = "Search.setIndex(", ")"
WORD = re.compile(r"[^\W\d_]{4,}")
OFTEN, MORE = 5, 1.5  # times on its page, and times as often as on any other


def at_home(counts: dict[str, Counter]) -> dict[str, str]:
    """The page that each word belongs to, for those that belong to one."""
    found = {}
    for word in {word for counter in counts.values() for word in counter}:
        pages = Counter({page: counter[word] for page, counter in counts.items()})
        (page, most), (_, next_most) = pages.most_common(2)
        if most >= max(OFTEN, MORE * next_most):
            found[word] = page
    return found


def prefer(index: dict, homes: dict[str, str]) -> None:
    """Add the words that have a home to the titles of an index."""
    numbers = {name: number for number, name in enumerate(index["docnames"])}
    titles = index["titleterms"]
    for word, page in homes.items():
        if word not in index["terms"]:
            continue
        found = titles.get(word, [])
        found = [found] if isinstance(found, int) else found
        titles[word] = sorted({*found, numbers[page]})


def improve(app: Sphinx, error: Exception | None) -> None:
    """Write the index anew, with what each page is about."""
    indexer = getattr(app.builder, "indexer", None)  # none if no page was written
    if app.builder.name != "html" or error is not None or indexer is None:
        return
    stem = indexer.lang.stem
    counts = {
        page: Counter(
            stem(word.lower())
            for word in WORD.findall(app.env.get_doctree(page).astext())
        )
        for page in app.env.found_docs
    }
    file = Path(app.outdir, "searchindex.js")
    index = json.loads(file.read_text("utf-8").removeprefix(BEGIN).removesuffix(END))
    prefer(index, at_home(counts))
    text = json.dumps(index, ensure_ascii=False, separators=(",", ":"))
    file.write_text(f"{BEGIN}{text}{END}", "utf-8")


def show_texts(
    app: Sphinx, pagename: str, template: str, context: dict, doctree
) -> None:
    """Let the list of results show what pages say."""
    if pagename == "search":
        app.add_js_file("search.js", loading_method="defer")


def drop_marks(
    app: Sphinx, pagename: str, template: str, context: dict, doctree
) -> None:
    """Leave marks to the list of results."""
    if pagename != "search":
        context["script_files"] = [
            file
            for file in context.get("script_files", ())
            if "sphinx_highlight" not in str(file.filename)
        ]


def setup(app: Sphinx) -> dict:
    app.connect("build-finished", improve)
    app.connect("html-page-context", show_texts)
    app.connect("html-page-context", drop_marks, priority=900)  # when all are there
    return {"version": "1", "parallel_read_safe": True}
