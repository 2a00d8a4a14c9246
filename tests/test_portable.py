"""The two ways to run the book's cells say where one failed, and go on or stop."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import build
import portable
import tangle

PAGE = """\
---
jupytext:
  text_representation: {format_name: myst}
---

# A page

```{code-cell} python
import torch

drawn = torch.rand(1).item()
```

```{code-cell} python
:tags: [proof]

def halve(x):
    return 1 / x


halve(0)
```

```{code-cell} python
:tags: [timing]

raise SystemExit("too slow")
```

```{code-cell} python
print(drawn)
assert drawn == 2, "two  lines\\nof words"
```
"""


@pytest.fixture
def page(tmp_path) -> Path:
    path = tmp_path / "book" / "07_page.md"
    path.parent.mkdir()
    path.write_text(PAGE, "utf-8")
    return path


def failures(page: Path, *words: str) -> list[str]:
    """What a page's process reports."""
    done = subprocess.run(
        [sys.executable, portable.__file__, "--page", str(page), *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_failing_cell_is_named_and_the_rest_of_the_page_runs(page):
    assert failures(page) == [
        "book/07_page.md:18: ZeroDivisionError: division by zero  [return 1 / x]",
        "book/07_page.md:32: AssertionError: two lines of words  "
        '[assert drawn == 2, "two  lines\\nof words"]',
    ]


@pytest.mark.slow
def test_cells_that_measure_time_run_only_when_asked_for(page):
    assert any("too slow" in line for line in failures(page, "--timing"))


@pytest.mark.slow
def test_a_page_that_ends_its_process_is_a_failure(page):
    text = PAGE.replace("halve(0)", "import os; os._exit(3)")
    page.write_text(text, "utf-8")
    [failure] = portable.start(page, portable.SETTINGS[0], timing=False)
    assert failure.startswith("book/07_page.md:1: the page did not end")


@pytest.mark.slow
def test_every_seed_is_shifted_whoever_sets_it(page):
    code = (
        "import torch; g = torch.Generator().manual_seed(3); torch.manual_seed(5);"
        " a = torch.rand(1); raise ValueError("
        "[torch.rand(1, generator=g).item(), a.item(), torch.initial_seed()])"
    )
    page.write_text(PAGE.replace("halve(0)", code), "utf-8")
    seen = {shift: failures(page, "--shift", str(shift))[0] for shift in (0, 7)}
    assert seen[0] != seen[7]
    assert ", 5]" in seen[0] and ", 12]" in seen[7]


@pytest.mark.slow
def test_bfloat16_is_what_a_machine_chooses_when_it_may(page):
    code = (
        "from minigpt import pick_machine as p; "
        "raise ValueError([p('cpu').dtype, p('cpu', 'float32').dtype])"
    )
    page.write_text(PAGE.replace("halve(0)", code), "utf-8")
    assert "[torch.bfloat16, torch.float32]" in failures(page, "--bfloat16")[0]
    assert "[torch.float32, torch.float32]" in failures(page)[0]


def test_a_build_that_fails_ends_with_chapter_line_and_error(page):
    log = f"""
nbclient.exceptions.CellExecutionError: An error occurred while executing this:
\x1b[36mCell\x1b[39m\x1b[36m \x1b[39m\x1b[32mIn[2]\x1b[39m\x1b[32m, line 5\x1b[39m
\x1b[36mCell\x1b[39m \x1b[32mIn[2]\x1b[39m\x1b[32m, line 2\x1b[39m, in halve
\x1b[31mZeroDivisionError\x1b[39m: division by zero

The above exception was the direct cause of the following exception:

myst_nb.core.execute.base.ExecutionError: {page}
"""
    assert build.failure(log) == (
        "book/07_page.md:18: ZeroDivisionError: division by zero"
    )
    assert build.failure("WARNING: no such label") is None


def test_all_pages_with_cells_are_run():
    assert {*portable.pages([])} == {p for p in tangle.pages() if tangle.cells(p)}
    assert [p.stem for p in portable.pages(["07"])] == ["07_block"]


def test_outputs_are_kept_for_the_build_of_pages_that_do_not_fail(
    tmp_path, monkeypatch
):
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("jupyter_cache")
    import execute

    monkeypatch.setattr(execute, "CACHE", tmp_path / "cache")
    head, *_ = PAGE.partition("```")
    pages = []
    for name, code in (("good", "print(6 * 7)"), ("bad", "1 / 0")):
        pages.append(tmp_path / f"{name}.md")
        cell = f"```{{code-cell}} python\n{code}\n```\n"
        pages[-1].write_text(head + cell, "utf-8")
    execute.fill_cache(pages)
    [kept] = execute.get_cache(tmp_path / "cache").list_cache_records()
    assert kept.uri == str(pages[0])
    found = [*(tmp_path / "cache" / "executed").rglob("*.ipynb")]
    [cell] = [
        cell for cell in nbformat.read(found[0], 4).cells if cell.cell_type == "code"
    ]
    assert cell.outputs[0].text == "42\n"


def test_a_page_is_run_again_when_it_is_younger_than_what_was_built(
    tmp_path, monkeypatch
):
    pytest.importorskip("jupyter_cache")
    import execute

    monkeypatch.setattr(execute, "BUILT", tmp_path)
    page, html = tmp_path / "07_page.md", tmp_path / "07_page.html"
    page.write_text(PAGE, "utf-8")
    assert not execute.is_built(page)
    html.write_text("", "utf-8")
    os.utime(page, (0, 0))
    assert execute.is_built(page)
    os.utime(html, (0, 0))
    assert not execute.is_built(page)
