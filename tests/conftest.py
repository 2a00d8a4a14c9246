"""What all tests share: where the module is, and a small corpus."""

import os

# Some virtual machines announce AMX instructions and then cannot run them.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / part) for part in ("", "book", "book/_tools", "tests")]

import minigpt  # noqa: E402  (bite.py and test_book.py put another in its place)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """A folder of 40 little Python files, all different: about 20,000 chars."""
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(40):
        lines = [f"def f{i}_{j}(x):\n    return x * {i} + {j}\n\n\n" for j in range(15)]
        (folder / f"m{i:02}.py").write_text("".join(lines), "utf-8")
    return folder


@pytest.fixture(scope="session")
def text(corpus) -> "minigpt.Corpus":
    """What a run reads of the corpus: its vocabulary, and both splits as ids."""
    return minigpt.read_corpus(corpus)


@pytest.fixture
def after_step(monkeypatch):
    """(step, do): call do() once, right after this training step."""

    def install(step, do):
        original, pending = minigpt.one_step, [do]

        def one_step(run):
            loss = original(run)
            if run.step == step and pending:
                pending.pop()()
            return loss

        monkeypatch.setattr(minigpt, "one_step", one_step)

    return install
