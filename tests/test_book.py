"""The book as a whole: its pages, its module, its recorded runs."""

import ast
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import minigpt
import ship
import tangle

ROOT = Path(__file__).resolve().parents[1]
PAGES = tangle.pages()
CHAPTERS = [page for page in PAGES if page.stem[:2].isdigit()]


def test_the_module_is_what_the_chapters_say():
    text = tangle.seal(tangle.tangle(PAGES).text)
    assert text == (ROOT / "minigpt.py").read_text("utf-8")


def test_the_table_of_contents_lists_every_page_once():
    assert sorted(PAGES) == sorted((ROOT / "book").glob("*.md"))


def test_chapters_are_numbered_in_reading_order():
    numbers = [int(page.stem[:2]) for page in CHAPTERS]
    assert numbers == list(range(1, len(CHAPTERS) + 1))


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.stem)
def test_each_chapter_has_a_naive_cell_and_a_proof(page):
    tags = [cell.tags for cell in tangle.cells(page)]
    tangled = any("tangle" in t for t in tags)
    assert not tangled or any("naive" in t for t in tags)
    assert not tangled or any("proof" in t for t in tags)
    assert "## What you have now" in page.read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_is_at_most_80_columns_wide_and_cells_are_short(page):
    for cell in tangle.cells(page):
        lines = cell.source.splitlines()
        assert max(map(len, lines)) <= 80, lines
        if "tangle" in cell.tags and "import argparse" not in lines:
            assert len(lines) <= 40, f"{len(lines)} lines from {lines[0]!r}"


def lines_of_code(source: str) -> set[int]:
    """The lines of a program but for docstrings, comments and blank ones."""
    lines = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in LAYOUT
    }
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= {*range(node.lineno, node.end_lineno + 1)}
    return lines


def test_the_program_stays_short():
    source = (ROOT / "minigpt.py").read_text("utf-8")
    lines = lines_of_code(source)
    [presets] = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PRESETS"
    ]  # readers add to them
    own = {*range(presets.lineno, presets.end_lineno + 1)}
    assert len(lines - own) <= 1.03 * (1134 - 13)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            own = lines & {*range(node.lineno, node.end_lineno + 1)}
            assert len(own) <= 30, f"{node.name} has {len(own)} lines"


def test_each_mistake_that_the_tests_are_tried_on_can_still_be_made(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # importing bite.py sets it
    import bite

    made = {(m.chapter, m.wrong) for m in bite.mutants()}
    assert made >= {(chapter, wrong) for chapter, wrong, *_ in bite.FLIPS}


LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


@pytest.mark.slow
@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.stem)
def test_the_program_up_to_a_chapter_passes_its_tests(page, tmp_path):
    program = tangle.tangle(tangle.until(PAGES, page.stem[:2]))
    (tmp_path / "minigpt.py").write_text(program.text, "utf-8")
    for folder in ("data", "checkpoints"):  # the module looks beside it
        (tmp_path / folder).symlink_to(ROOT / folder)
    tests = sorted((ROOT / "tests").glob(f"test_{page.stem[:2]}_*.py"))
    code = (
        "import sys, pytest, minigpt; "
        f"assert minigpt.__file__.startswith({str(tmp_path)!r}); "
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-m', 'not slow',"
        " *sys.argv[1:]]))"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, tests)]
        if tests
        else [sys.executable, "-c", "import minigpt"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_the_corpus_has_its_published_digest():
    expected, name = (ROOT / "data" / "python-stdlib.tar.xz.sha256").read_text().split()
    content = (ROOT / "data" / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == expected


def test_the_recorded_run_is_one_of_the_laptop_preset():
    record = json.loads((ROOT / "book/runs/laptop/run.json").read_text("utf-8"))
    shape, config = minigpt.make_configs("laptop", sample_prompt="def ")
    assert record["train"] == minigpt.asdict(config)
    assert record["model"] | {"vocab_size": 99} == minigpt.asdict(shape)
    assert record["step"] == config.max_steps
    assert re.fullmatch("[0-9a-f]{40}", record["commit"])


def test_the_longer_recorded_run_has_settings_that_the_program_knows():
    record = json.loads((ROOT / "book/runs/medium/run.json").read_text("utf-8"))
    assert minigpt.asdict(minigpt.TrainConfig(**record["train"])) == (record["train"])
    assert record["step"] == record["train"]["max_steps"]
    assert re.fullmatch("[0-9a-f]{40}", record["commit"])


def test_the_card_of_the_shipped_model_names_the_command_that_made_it():
    record = json.loads((ROOT / "book/runs/medium/run.json").read_text("utf-8"))
    card = (ROOT / "checkpoints" / "CARD.md").read_text("utf-8")
    command = ship.command(record)
    assert command in card and f"{record['fingerprint']}" in card
    _, typed = minigpt.parse(
        command.removeprefix("python minigpt.py ").replace("\\\n", "").split()
    )
    assert typed.pop("run")
    shape, config = minigpt.make_configs(
        typed.pop("preset"), sample_prompt="def ", **typed
    )
    assert minigpt.asdict(shape) == record["model"] | {"vocab_size": 99}
    assert minigpt.asdict(config) == record["train"]


def test_the_shipped_model_is_the_best_of_the_recorded_run():
    record = json.loads((ROOT / "book/runs/medium/run.json").read_text("utf-8"))
    shipped = minigpt.load_checkpoint(minigpt.SHIPPED)
    assert minigpt.asdict(shipped.model.config) == record["model"]
    assert shipped.best_loss == record["best_loss"]
    assert shipped.fingerprint == record["fingerprint"]


def test_importing_the_module_prints_nothing_and_needs_no_extras():
    extras = ("transformers", "tokenizers", "datasets", "matplotlib", "jupytext")
    code = (
        f"import sys; sys.modules |= dict.fromkeys({extras})  # import: ImportError\n"
        "import minigpt; print(minigpt.load_checkpoint(minigpt.SHIPPED).step)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "15500\n" and done.stderr == ""
