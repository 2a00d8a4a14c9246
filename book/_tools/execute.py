"""Run the cells of all pages that are new or changed, and keep what they give.

    python book/_tools/execute.py

As many pages at a time as there are processors, each with one thread; Jupyter Book alone
runs one after the other. The outputs go into its cache, which is made anew each time, since
it cannot know that the program has changed. A page that Jupyter Book does not find there, as
one with a cell that fails, it runs itself.
"""

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import ExecutionResult, single_nb_execution
from myst_nb.core.read import myst_nb_reader_plugin

import tangle

ROOT = tangle.TOC.parent
BUILT = ROOT / "_build" / "html" / "book"
CACHE = ROOT / "_build" / ".jupyter_cache"
TIMEOUT = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["execute"][
    "timeout"
]


def is_built(page: Path) -> bool:
    """Whether what was built of a page is younger than the page."""
    html = BUILT / f"{page.stem}.html"
    return html.exists() and html.stat().st_mtime > page.stat().st_mtime


def run(page: Path) -> ExecutionResult:
    """Run a page's cells in a kernel of its own, as Jupyter Book would."""
    notebook = myst_nb_reader_plugin(str(page))
    return single_nb_execution(notebook, str(page.parent), TIMEOUT, allow_errors=False)


def fill_cache(pages: Sequence[Path]) -> None:
    """Run pages side by side; keep the outputs of those that do not fail."""
    shutil.rmtree(CACHE, ignore_errors=True)
    cache = get_cache(CACHE)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for page, result in zip(pages, pool.map(run, pages), strict=True):
            print(f"{page.stem}: its cells took {result.time:.0f} s", flush=True)
            if result.err is None:
                bundle = CacheBundleIn(result.nb, str(page))
                cache.cache_notebook_bundle(bundle, check_validity=False)


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    pages = [page for page in tangle.pages() if tangle.cells(page)]
    # Later pages take longer: they begin.
    fill_cache([page for page in reversed(pages) if not is_built(page)])


if __name__ == "__main__":
    main()
