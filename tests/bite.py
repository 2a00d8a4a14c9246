"""Do the tests notice when the program is broken?

    python tests/bite.py            every mutant
    python tests/bite.py 05 08      those of two chapters

Breaks the program in one place at a time: leaves out one tangled definition,
or makes one of the mistakes in FLIPS. Each mutant is the program up to its own
chapter, or the companion that a chapter becomes, and that chapter's tests must
fail on it. Prints the mutants that
survive and exits with 1 if there are any. Mutants run in forked processes, so
that PyTorch is imported once.
"""

import ast
import atexit
import contextlib
import dataclasses
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "book" / "_tools")]

import hypothesis  # noqa: E402, F401  (this and PyTorch are imported once, for all the forks)
import pytest  # noqa: E402
import torch._dynamo  # noqa: E402, F401  (2 s, which the first optimizer of a process takes)

import tangle  # noqa: E402

# fmt: off
FLIPS = [
    ("03", "targets not shifted", "targets[:, 1:]", "targets[:, :-1]"),
    ("03", "windows begin at chunks alone", "ends * (np.array(places) % 2)", "0"),
    ("03", "windows pass the end", "np.minimum(starts, last)", "starts"),
    ("03", "ends of files never asked for", " * (np.array(places) % 2)", ""),
    ("03", "half an archive taken for a whole one", "rest[:512] == bytes(512)", "True"),
    ("04", "positions that are not learned", "freeze=False", "freeze=True"),
    ("05", "no mask", "is_causal=T_q == T_k", "is_causal=False"),
    ("05", "mask aligned to the first key", ".tril(T_k - T_q)", ".tril()"),
    ("05", "no scale", "scale=1 / math.sqrt(D)", "scale=1.0"),
    ("07", "no residual around attention",
     "x = x + self.attention(", "x = self.attention("),
    ("07", "no residual around the MLP", "return x + self.mlp(", "return self.mlp("),
    ("08", "positions drawn anew", '"position" in name', "False"),
    ("08", "no last norm", "self.head(self.norm(x))", "self.head(x)"),
    ("09", "top-p before the line", "p.cumsum(-1) - p >=", "p.cumsum(-1) >="),
    ("12", "no clipping", "config.grad_clip).item()", "math.inf).item()"),
    ("12", "vectors decay", '"weight_decay": 0.0', '"weight_decay": 0.1'),
    ("12", "matrices do not decay",
     '"weight_decay": config.weight_decay', '"weight_decay": 0.0'),
    ("12", "accumulated loss not divided", "targets) / k\n", "targets)\n"),
    ("12", "first rate 0", "high * (step + 1)", "high * step"),
    ("13", "one moment for both", '[kind] = tensors[f"{kind}.', '[kind] = tensors[f"exp_avg.'),
    ("13", "digests not compared", 'meta.pop("sha256") == digest(meta, tensors)',
     'meta.pop("sha256")'),
    ("16", "values in place of keys", "= k\n", "= v\n"),
    ("16", "matrices to write with as they were", ".data.T.contiguous().T", ".data"),
    ("18", "square matrices not turned", '"proj.weight", ', ""),
    ("18", "a tied head sought in the file", '("tie_word_embeddings", True)',
     '("untied", False)'),
    ("18", "any bend will do", "known == value", "True"),
    ("18", "other tensors ignored", "not lacks + more", "not lacks"),
    ("18", "no word about pickles", 'found or not [*folder.glob("*.bin")]', "True"),
    ("18", "half a character shown", '.rstrip("\\ufffd")', ""),
    ("18", "half a run of bytes shown", "<0x[0-9A-F]{2}>", "never"),
    ("18", "shown before it is tidied", "-6 if tidy else None", "None"),
    ("18", "pieces decoded alone", "held.append(i)", "held[:] = [i]"),
    ("18", "the prompt forgotten", "growing(self, ids, [*read])", "growing(self, ids, [])"),
    ("18", "all of a long text decoded", ">= 128", ">= 10**9"),
    ("18", "a text ends at the first end alone", 'in words.known["ends"]',
     '== words.eos'),
    ("18", "rows without a word chosen", "empty.union(", "set().union("),
    ("18", "a prompt is cut", "    whole.no_truncation()\n", ""),
    ("18", "a prompt is filled up", "    whole.no_padding()\n", ""),
    ("18", "a token with a meaning is a word", "token.special |= token.content in special", "pass"),
    ("18", "config.json has the last word", "if path.exists() else said", "if 0 else said"),
    ("18", "filled up on the right", '"left"', '"right"'),
    ("18", "other shapes leave", "require(ours == shape,", "require(True,"),
    ("18", "other sums leave", "bool(far <= 3e-5 * ours.abs().max())", "True"),
    ("18", "the text <eos> ends a text", '": known["split"]', '": False'),
    ("18", "<unk> may be written", "never or None", "None"),
    ("18", "nothing read before a prompt", '"before $A"', '"$A"'),
    ("18", "a folder overwritten", "not made.exists()", "True"),
    ("18", "any tokenizer will do", "size <= rows", "True"),
    ("19", "all processes read the same rows", "inputs[RANK::SIZE]", "inputs[::SIZE]"),
    ("19", "all drop the same numbers", "initial_seed(), RANK", "initial_seed()"),
    ("19", "gradients travel with every batch", "if is_last else", "if True else"),
    ("19", "a process ends by a late signal", "signal.signal(number, lambda *_: None)", "pass"),
    ("19", "a loss of one's own", "sum(gather(loss)) / SIZE", "loss"),
    ("19", "one stops alone", "any(gather(super()", "any((lambda x: [x])(super()"),
    ("19", "all tell what is wrong", "[:RANK]:", "[:0]:"),
    ("19", "other runs go together", "other == things for", "True for"),
]
# fmt: on


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A program with one thing wrong, and the chapter where it is."""

    chapter: str
    wrong: str
    program: tangle.Program


def whole(chapter: str) -> Mutant:
    """The program up to a chapter, with nothing wrong."""
    pages = tangle.until(tangle.pages(), chapter)
    return Mutant(chapter, "nothing", tangle.tangle(pages, tangle.target(pages[-1])))


def changed(program: tangle.Program, cell: tangle.Cell, source: str) -> tangle.Program:
    """The program with another source for one of its cells."""
    cells = [
        dataclasses.replace(c, source=source) if c is cell else c for c in program.cells
    ]
    return dataclasses.replace(program, cells=cells)


def first_line(node: ast.AST) -> int:
    """The line of a definition, with its decorators."""
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(d.lineno for d in decorators)])


def deletions(cell: tangle.Cell) -> Iterator[tuple[str, str]]:
    """(what, source) for each top-level definition left out of a cell."""
    lines = cell.source.split("\n")
    for node in ast.parse(cell.source).body:
        names = [name for name, _ in tangle.bindings(node)]
        if names and not isinstance(node, (ast.Import, ast.ImportFrom)):
            kept = lines[: first_line(node) - 1] + lines[node.end_lineno :]
            yield f"{', '.join(names)} left out", "\n".join(kept)


def mutants() -> Iterator[Mutant]:
    """All mutants of the book, chapter by chapter."""
    pages = tangle.pages()
    for path in pages:
        chapter = path.stem[:2]
        if not chapter.isdigit():
            continue
        if tangle.target(path).endswith(".js"):
            continue  # its tests take a browser
        program = tangle.tangle(tangle.until(pages, chapter), tangle.target(path))
        own = [cell for cell in program.cells if cell.chapter == path]
        for cell in own:
            for wrong, source in deletions(cell):
                yield Mutant(chapter, wrong, changed(program, cell, source))
        for number, wrong, old, new in FLIPS:
            if number == chapter:
                hits = [cell for cell in own if old in cell.source]
                assert len(hits) == 1, f"{old!r} is in {len(hits)} cells"
                source = hits[0].source.replace(old, new, 1)
                yield Mutant(chapter, wrong, changed(program, hits[0], source))


class QuickestFirst:
    """A plugin of pytest: tests go by what they took before, and that is noted.

    Most mutants are noticed by many tests, so the quick ones should be asked first.
    """

    def __init__(self, notes: Path):
        self.notes = notes  # a line a test: seconds, name
        lines = notes.read_text("utf-8").splitlines() if notes.exists() else []
        self.seconds = {
            name: float(took) for took, name in (line.split(" ", 1) for line in lines)
        }

    def pytest_collection_modifyitems(self, items: list) -> None:
        items.sort(key=lambda item: self.seconds.get(item.nodeid, 0.0))

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call" and report.nodeid not in self.seconds:
            with open(self.notes, "a", encoding="utf-8") as file:
                file.write(f"{report.duration:.3f} {report.nodeid}\n")


NOTES = Path(tempfile.mkdtemp())
atexit.register(shutil.rmtree, NOTES, ignore_errors=True)


def passes(program: tangle.Program, tests: list[Path]) -> bool:
    """Whether tests pass on a program, in a process of its own."""
    plugin = QuickestFirst(NOTES / Path(tests[0]).stem)
    child = os.fork()
    if child == 0:
        code = 1
        with tempfile.TemporaryFile("w") as sink, contextlib.suppress(BaseException):
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
            os.chdir(tempfile.gettempdir())  # a broken program writes anywhere
            program.load(Path(program.file).stem)
            code = pytest.main(
                [
                    "-x",
                    "-q",
                    "-p",
                    "no:cacheprovider",
                    "-m",
                    "not slow",
                    *map(str, tests),
                ],
                [plugin],
            )
        os._exit(0 if code == 0 else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def survives(mutant: Mutant) -> bool:
    """Whether the chapter's tests pass on a mutant."""
    return passes(
        mutant.program, sorted((ROOT / "tests").glob(f"test_{mutant.chapter}_*.py"))
    )


def main(chapters: list[str]) -> int:
    found = [m for m in mutants() if not chapters or m.chapter in chapters]
    if any(m.program.file != tangle.MODULE for m in found):
        with contextlib.suppress(ImportError):  # once, for all the forks
            from transformers import GPT2LMHeadModel, pipeline  # noqa: F401
    for chapter in sorted({m.chapter for m in found}):
        assert survives(whole(chapter)), f"the tests of chapter {chapter} fail anyway"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(survives, found))
    alive = [m for m, survived in zip(found, results, strict=True) if survived]
    for mutant in alive:
        print(f"survives: chapter {mutant.chapter}, {mutant.wrong}")
    print(f"{len(found) - len(alive)} of {len(found)} mutants noticed")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
