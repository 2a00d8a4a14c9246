"""What all tests share: where the module is, a small corpus, a trained run."""

import os

# Some virtual machines announce AMX instructions and then cannot run them.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
if "PYTEST_XDIST_WORKER" in os.environ:  # a process on each core: no more threads
    os.environ["OMP_NUM_THREADS"] = "1"

import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / part) for part in ("", "book", "book/_tools", "tests")]

import minigpt  # noqa: E402  (bite.py and test_book.py put another in its place)
from helpers import CHROMIUM, SHORT_RUN  # noqa: E402

# A script that starts the tests behind itself (`&`) has Ctrl-C ignored in them.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def chromium():
    """A browser; its pages are closed by the tests."""
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def weights_js(tmp_path_factory) -> Path:
    """The shipped model for a page, as the book's build writes it."""
    import weights

    path = tmp_path_factory.mktemp("weights") / "weights.js"
    weights.main(path)
    return path


@pytest.fixture(scope="session")
def coarse() -> "minigpt.Checkpoint":
    """The shipped model with the rounded weights that a page has."""
    import weights

    saved = minigpt.load_checkpoint(minigpt.SHIPPED)
    tensors = load(weights.in_bytes(minigpt.SHIPPED))
    with torch.no_grad():
        for name, p in saved.model.eval().named_parameters():
            if p.dim() == 2:
                p.copy_(tensors[f"model.{name}"] * tensors[f"scale.{name}"][:, None])
    return saved


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


# --- a trained run, for chapter 17 ------------------------------------------


@pytest.fixture(scope="session")
def home(corpus, tmp_path_factory) -> Path:
    """A folder with a trained run, and with things that are wrong; read only."""
    home = tmp_path_factory.mktemp("home")
    assert (
        minigpt.main(
            ["train", "--data", str(corpus), "--run", str(home / "run"), *SHORT_RUN]
        )
        == 0
    )
    (home / "empty").mkdir()
    (home / "empty.py").touch()
    (home / "tiny.py").write_text("x = 1\n")
    (home / "words").mkdir()
    (home / "words" / "greek.txt").write_text("πάντα ῥεῖ\n" * 99, "utf-8")
    (home / "latin1.py").write_bytes("déjà vu".encode("latin-1"))
    (home / "false.zip").write_bytes(b"no archive")
    whole = Path(shutil.make_archive(str(home / "cut"), "xztar", corpus))
    os.truncate(whole, whole.stat().st_size // 2)
    (home / "foreign").mkdir()
    (home / "foreign" / "last.safetensors").write_bytes(b"no checkpoint")
    (home / "foreign" / ".lock").touch()
    for name, file in (("flipped", "train.npy"), ("short", "val.npy")):
        shutil.copytree(home / "run", home / name)
        content = bytearray((home / name / file).read_bytes())
        content[-5] ^= 1
        (home / name / file).write_bytes(content[9 * (name == "short") :])
    shutil.copytree(home / "run", home / "headless")
    (home / "headless" / "last.safetensors").unlink()
    return home


@pytest.fixture
def best(home) -> Path:
    """The best checkpoint of the trained run."""
    return home / "run" / "best.safetensors"


@pytest.fixture
def own_run(home, tmp_path) -> Path:
    """A copy of the trained run, to change."""
    return Path(shutil.copytree(home / "run", tmp_path / "run"))


@pytest.fixture
def cwd(tmp_path_factory, monkeypatch) -> Path:
    """An empty folder, which the test works in."""
    folder = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def line(capsys):
    """Run a command line: its status, and what it wrote to both streams."""

    def run(*words) -> tuple[int, str, str]:
        capsys.readouterr()
        return minigpt.main([*map(str, words)]), *capsys.readouterr()

    return run
