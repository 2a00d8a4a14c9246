"""How the Makefile makes .venv, with Pythons that are made up here; no network."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    os.name != "posix" or not shutil.which("make"), reason="needs make"
)

PRETEND = """\
import runpy, sys
sys.version_info, sys.argv = {version}, sys.argv[1:]
sys.path[0] = ""
if sys.argv[:2] == ["-m", "venv"]:
    import os
    os.makedirs(sys.argv[2] + "/bin", exist_ok=True)
    for name in ("python", "pip"):
        os.symlink(os.environ["STUBS"] + "/" + name, sys.argv[2] + "/bin/" + name)
elif sys.argv[0] == "-c":
    exec(sys.argv[1])
else:
    sys.executable = {executable!r}
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder with what `make .venv/base` reads."""
    folder = tmp_path / "checkout"
    (folder / "book" / "_tools").mkdir(parents=True)
    for name in (
        "Makefile",
        "pyproject.toml",
        "constraints.txt",
        "book/_tools/environment.py",
    ):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def python(tmp_path):
    """Make a Python that says it is of a version; its pip can be told to fail."""

    def make(*version: int, pip: str = "exit 0") -> Path:
        stubs = tmp_path / ".".join(map(str, version))
        stubs.mkdir(exist_ok=True)
        program, script = stubs / "python", stubs / "pretend.py"
        script.write_text(
            PRETEND.format(version=(*version, 0), executable=str(program))
        )
        program.write_text(
            f"#!/bin/sh\nexport STUBS='{stubs}'\n"
            f"exec '{sys.executable}' -I -S '{script}' \"$@\"\n"
        )
        (stubs / "pip").write_text(f"#!/bin/sh\n{pip}\n")
        program.chmod(0o755)
        (stubs / "pip").chmod(0o755)
        return program

    return make


def make(folder: Path, *words) -> tuple[int, str, str]:
    """The exit status of make, its stdout and its stderr."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHON", "MAKEFLAGS", "MAKELEVEL")
    }
    done = subprocess.run(
        ["make", *map(str, words)],
        cwd=folder,
        env=clean,
        text=True,
        capture_output=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def made_by(folder: Path) -> str:
    """Which of the made up Pythons made .venv."""
    return Path(os.readlink(folder / ".venv/bin/python")).parent.name


@pytest.mark.parametrize("target", ["all", "test", "book", ".venv/hub"])
def test_an_old_python_is_told_which_is_needed_and_makes_nothing(
    checkout, python, target
):
    status, out, err = make(checkout, target, f"PYTHON={python(3, 10)}")
    assert status != 0 and out == "" and err.count("\n") == 1
    assert "Python 3.11 or later is needed, and this is 3.10" in err
    assert "make PYTHON=python3.12" in err
    assert not (checkout / ".venv").exists()


def test_a_python_that_is_not_there_is_named(checkout):
    status, out, err = make(checkout, f"PYTHON={checkout}/python9")
    assert status != 0 and out == "" and err.count("\n") == 1
    assert "python9 does not run: give another" in err
    assert not (checkout / ".venv").exists()


def test_a_python_without_venv_says_what_to_install(checkout, tmp_path):
    (tmp_path / "ensurepip.py").write_text("raise ImportError('no ensurepip')")
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\nPYTHONPATH='{tmp_path}' exec '{sys.executable}' \"$@\"\n"
    )
    python.chmod(0o755)
    status, out, err = make(checkout, f"PYTHON={python}")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert status != 0 and out == "" and err.count("\n") == 1
    assert "no ensurepip" in err and f"apt install python{version}-venv" in err
    assert not (checkout / ".venv").exists()


def test_an_environment_is_of_the_python_that_was_asked_for_last(checkout, python):
    first, second = f"PYTHON={python(3, 11)}", f"PYTHON={python(3, 13)}"
    assert make(checkout, ".venv/base", first)[0] == 0
    assert made_by(checkout) == "3.11"
    assert "up to date" in make(checkout, ".venv/base", first)[1]
    assert make(checkout, ".venv/test", second)[0] == 0
    assert made_by(checkout) == "3.13" and (checkout / ".venv/test").exists()
    assert make(checkout, ".venv/base", f"PYTHON={python(3, 10)}")[0] != 0
    assert made_by(checkout) == "3.13"
    os.utime(checkout / "pyproject.toml", (2e9, 2e9))  # and no PYTHON is given
    status, out, _ = make(checkout, ".venv/base")
    assert status == 0 and "install" in out and made_by(checkout) == "3.13"


def test_an_environment_whose_install_broke_off_is_made_anew(checkout, python):
    broken = python(3, 12, pip="exit 1")
    assert make(checkout, ".venv/base", f"PYTHON={broken}")[0] != 0
    (checkout / ".venv/half").touch()
    assert make(checkout, ".venv/base", f"PYTHON={python(3, 12)}")[0] == 0
    assert {path.name for path in (checkout / ".venv").iterdir()} == {"bin", "base"}


def test_what_a_link_leads_to_is_never_emptied(checkout, python, tmp_path):
    (tmp_path / "mine" / "bin").mkdir(parents=True)
    (checkout / ".venv").symlink_to(tmp_path / "mine")
    assert make(checkout, ".venv/base", f"PYTHON={python(3, 12)}")[0] == 0
    assert (tmp_path / "mine" / "bin").exists()
    assert not (checkout / ".venv").is_symlink()


# --- pip install . -----------------------------------------------------------

FILES = {
    f"minigpt_files/{name}": ROOT / name
    for name in (
        "data/python-stdlib.tar.xz",
        "data/python-stdlib.LICENSE",
        "checkpoints/pretrained.safetensors",
        "checkpoints/CARD.md",
    )
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """What `pip install .` puts into a folder of packages, by way of a wheel."""
    try:
        import setuptools  # noqa: F401
        import wheel  # noqa: F401

        isolated = ["--no-build-isolation"]
    except ImportError:
        isolated = []
    source = tmp_path_factory.mktemp("source")
    for name in ("minigpt.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("data", "checkpoints"):  # without runs: they are no part of git
        shutil.copytree(
            ROOT / name,
            source / name,
            ignore=lambda folder, names: [
                name for name in names if Path(folder, name).is_dir()
            ],
        )
    (source / "checkpoints" / "mine.safetensors").touch()
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            *isolated,
            "--wheel-dir",
            source / "wheel",
            source,
        ],
        check=True,
    )
    [built] = (source / "wheel").iterdir()
    packages = tmp_path_factory.mktemp("site-packages")
    shutil.unpack_archive(built, packages, "zip")
    return packages


@pytest.mark.slow
def test_an_installed_program_has_its_corpus_and_its_model(wheel):
    installed = {
        path.relative_to(wheel).as_posix(): path
        for path in wheel.rglob("*")
        if path.is_file()
    }
    for name, path in FILES.items():
        assert installed[name].read_bytes() == path.read_bytes(), name
    assert not [name for name in installed if "mine" in name or "tests" in name]
    top = {name.split("/")[0] for name in installed}
    assert {name for name in top if "dist-info" not in name} == {
        "minigpt.py",
        "minigpt_files",
    }


@pytest.mark.slow
def test_an_installed_program_writes_and_learns_outside_of_the_checkout(
    wheel, tmp_path
):
    def installed(*words: str) -> str:
        code = "import sys, minigpt; sys.exit(minigpt.main())"
        shell = dict(os.environ, PYTHONPATH=str(wheel), OMP_NUM_THREADS="1")
        return subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=tmp_path,
            env=shell,
            text=True,
            capture_output=True,
            check=True,
            timeout=120,
        ).stdout

    text = installed(
        "generate",
        "--prompt",
        "def f",
        "--seed",
        "1",
        "--max-new-tokens",
        "20",
        "--min-new-tokens",
        "20",
    )
    assert text.startswith("def f") and len(text) == 26
    out = installed(
        "train",
        *"--preset tiny --context-length 8 --d-model 8 "
        "--n-layers 1 --n-heads 1 --batch-size 2 --eval-windows 2 "
        "--max-steps 2 --warmup-steps 1".split(),
    )
    assert "finished: 2 steps" in out
    assert (tmp_path / "checkpoints" / "tiny" / "best.safetensors").exists()
