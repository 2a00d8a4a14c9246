"""Do the pages hold on other machines? Run their cells as those would.

    python tests/portable.py                   every page, in each setting
    python tests/portable.py 07 08             two pages
    python tests/portable.py --setting plain   one setting
    python tests/portable.py --shifts 20       twenty other sets of random numbers
    python tests/portable.py --busy            cells that measure time, on a busy machine

The cells run in plain Python, two pages at a time, each page in a process with
one thread; what they print and draw is thrown away. A cell that fails is named
by its chapter and line, and the rest of its page still runs. Cells tagged
`timing` are left out: what they say depends on the clock. `--busy` runs the
pages that have any, with them, beside two processes that do nothing but count.
Exits with 1 if a cell failed.

A setting stands for another machine. It names the instructions that PyTorch may
use, a number added to every seed that a page or the program gives to PyTorch (a
GPU draws other random numbers for the same seed), and whether bfloat16 is what
`pick_machine` chooses, as it does on a GPU.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / part) for part in ("", "book", "book/_tools")]

import tangle  # noqa: E402

HEAVY = "15 09 14 19 12 06 20"  # begin with the pages that take longest


@dataclass(frozen=True)
class Setting:
    """Another machine, in name."""

    name: str
    instructions: str = ""  # what ATEN_CPU_CAPABILITY names; "": all there are
    shift: int = 0
    bfloat16: bool = False

    def describe(self) -> str:
        """All that is said of a setting, on a line."""
        return (
            f"{self.name} ({self.instructions or 'all'} instructions, seeds + "
            f"{self.shift}{', bfloat16' * self.bfloat16})"
        )


SETTINGS = [
    Setting("plain", "default", shift=7),
    Setting("avx2", "avx2", shift=1000),
    Setting("bfloat16", bfloat16=True),
]


def shift_seeds(shift: int) -> None:
    """Add a number to every seed that PyTorch is given from now on."""
    import torch

    seed = torch.manual_seed

    class Generator(torch.Generator):
        def manual_seed(self, number: int) -> torch.Generator:
            return super().manual_seed(number + shift)

    torch.manual_seed = lambda number: seed(number + shift)
    torch.Generator = Generator
    torch.manual_seed(torch.initial_seed())  # for a page that gives none


def prefer_bfloat16() -> None:
    """Let the program's `pick_machine` choose bfloat16 where it may choose."""
    import minigpt

    pick = minigpt.pick_machine
    minigpt.pick_machine = lambda device="auto", dtype="auto": pick(
        device, "bfloat16" if dtype == "auto" else dtype
    )


def complaint(cell: tangle.Cell, error: BaseException) -> str:
    """One line: chapter, line and error. The line is the last in the chapter."""
    line = cell.line
    if isinstance(error, SyntaxError) and error.filename == str(cell.chapter):
        line = error.lineno
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == str(cell.chapter):
            line = frame.lineno
    code = cell.chapter.read_text("utf-8").splitlines()[line - 1].strip()
    said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return f"{tangle.place(cell.chapter, line)}: {said.rstrip(': ')}  [{code}]"


def run_cells(cells: Sequence[tangle.Cell], report: Callable[[str], object]) -> None:
    """Run cells, one after another, as one module; report each that fails."""
    page = sys.modules["__main__"] = ModuleType("__main__", "A page.")
    for cell in cells:
        try:
            exec(cell.compile(), vars(page))
        except (Exception, SystemExit) as error:
            report(complaint(cell, error))


def run_page(path: Path, setting: Setting, timing: bool) -> None:
    """Run a page in this process; its failures are all that goes to stdout."""
    with open(os.dup(1), "w", encoding="utf-8", buffering=1) as report:
        sink = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):  # what a page's own processes print as well
            os.dup2(sink, stream)
        os.chdir(path.parent)
        shift_seeds(setting.shift)
        if setting.bfloat16:
            prefer_bfloat16()
        left_out = {"skip-execution"} | (set() if timing else {"timing"})
        run_cells(
            [cell for cell in tangle.cells(path) if not left_out & {*cell.tags}],
            lambda line: print(line, file=report),
        )


def pages(names: Sequence[str]) -> list[Path]:
    """The pages that have code cells (or those named, as `07`), slow ones first."""
    found = [path for path in tangle.pages() if tangle.cells(path)]
    if names:
        found = [path for path in found if path.stem.split("_")[0] in names]
    order = [*HEAVY.split(), *(path.stem[:2] for path in found)]
    return sorted(found, key=lambda path: order.index(path.stem[:2]))


def start(path: Path, setting: Setting, timing: bool) -> list[str]:
    """Run a page in a process of its own; return its failures."""
    command = [
        sys.executable,
        __file__,
        "--page",
        str(path),
        "--shift",
        str(setting.shift),
    ]
    command += ["--timing"] * timing + ["--bfloat16"] * setting.bfloat16
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
        # Some virtual machines announce AMX instructions and then cannot run them.
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",
    }
    if setting.instructions:
        environment["ATEN_CPU_CAPABILITY"] = setting.instructions
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    failures = done.stdout.splitlines()
    if done.returncode:
        last = (done.stderr.splitlines() or [f"status {done.returncode}"])[-1]
        failures.append(f"{tangle.place(path, 1)}: the page did not end: {last}")
    return failures


def run_setting(paths: Sequence[Path], setting: Setting, timing: bool = False) -> int:
    """Run pages in a setting, two at a time; return how many cells failed."""
    began = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        failures = list(pool.map(lambda path: start(path, setting, timing), paths))
    for line in sum(failures, []):
        print(line)
    failed = sum(map(len, failures))
    print(
        f"{setting.describe()}: {len(paths)} pages, {failed} cells failed, "
        f"{time.perf_counter() - began:.0f} s",
        flush=True,
    )
    return failed


@contextlib.contextmanager
def busy(count: int = 2):
    """Within `with`, so many processes keep the processors busy."""
    counting = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(counting) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pages", nargs="*", metavar="NN")
    parser.add_argument("--setting", choices=[s.name for s in SETTINGS])
    parser.add_argument("--shifts", type=int, default=0, metavar="N")
    parser.add_argument("--busy", action="store_true")
    for inner in ("--page", "--shift", "--timing", "--bfloat16"):  # see `start`
        kind = {"--page": dict(type=Path), "--shift": dict(type=int, default=0)}
        parser.add_argument(
            inner, help=argparse.SUPPRESS, **kind.get(inner, dict(action="store_true"))
        )
    args = parser.parse_args()
    if args.page:
        one = Setting("", shift=args.shift, bfloat16=args.bfloat16)
        run_page(args.page, one, args.timing)
        return 0
    paths = pages(args.pages)
    if args.busy:
        timed = [
            path
            for path in paths
            if any("timing" in cell.tags for cell in tangle.cells(path))
        ]
        with busy():
            return int(run_setting(timed, Setting("busy"), timing=True) > 0)
    chosen = [s for s in SETTINGS if args.setting in (None, s.name)]
    if args.shifts:
        chosen = [
            Setting(f"shift {n}", "default", shift=n) for n in range(1, args.shifts + 1)
        ]
    return int(sum([run_setting(paths, setting) for setting in chosen]) > 0)


if __name__ == "__main__":
    sys.exit(main())
