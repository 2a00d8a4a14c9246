"""data/make_corpus.py, on packages made here and on one that is installed."""

import importlib.util
import json
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt import read_documents

SCRIPT = Path(__file__).parents[1] / "data" / "make_corpus.py"
spec = importlib.util.spec_from_file_location("make_corpus", SCRIPT)
make_corpus = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_corpus)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A package of 40 files, its tests and licence, and a small one: a run's words."""
    for name, count in (("alpha", 40), ("beta", 2)):
        told = tmp_path / f"{name}-1.0.dist-info"
        told.mkdir()
        files = [f"{name}/m{i}.py" for i in range(count)]
        files += [
            f"{name}/tests/test_m.py",
            f"{told.name}/LICENSE",
            f"{told.name}/licenses/PSF_LICENSE",
            "../bin/x.py",
        ]
        for i, file in enumerate(files[:-1]):
            path = tmp_path / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"# {name} {i:02}\n" + "x = 1\n" * 100, "utf-8")
        (told / "METADATA").write_text(
            f"Name: {name}\nVersion: 1.0\nLicense-Expression: MIT\n", "utf-8"
        )
        (told / "RECORD").write_text("".join(f"{f},,\n" for f in files), "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    pins = tmp_path / "pins.txt"
    pins.write_text("# two\nalpha==1.0\nbeta==1.0\ngamma==2\nnumpy==0.1\n", "utf-8")
    return ["--pins", str(pins), str(tmp_path / "out.tar.gz")]


def test_an_archive_has_programs_and_licences_of_what_is_pinned(made, capsys):
    assert make_corpus.main(made) == 0
    archive = Path(made[-1])
    manifest = json.loads(archive.with_name("out.json").read_text("utf-8"))
    assert [(p["name"], p["licence"], p["files"]) for p in manifest["packages"]][
        1:
    ] == [("alpha", "MIT", 40), ("beta", "MIT", 2)]
    assert manifest["missing"] == ["gamma", "numpy"]  # absent; another version
    assert "left out: gamma, numpy" in capsys.readouterr().err
    with make_corpus.tarfile.open(archive) as file:
        names = file.getnames()
    about = "alpha/alpha-1.0.dist-info"
    assert {f"{about}/LICENSE", f"{about}/licenses/PSF_LICENSE"} <= {*names}
    assert f"{about}/METADATA" not in names
    assert not any("tests" in name or ".." in name for name in names)
    alone, skipped = read_documents(make_corpus.STDLIB, (".py",))
    texts, skipped_here = read_documents(archive, (".py",))
    assert len(texts) == len(alone) + 42 and skipped_here == skipped


def test_the_same_packages_give_the_same_bytes(made):
    make_corpus.main(made)
    before = Path(made[-1]).read_bytes()
    make_corpus.main(made)
    assert Path(made[-1]).read_bytes() == before


def test_a_large_package_gives_no_more_than_its_share(made):
    limit = make_corpus.size(make_corpus.standard_library(make_corpus.STDLIB))
    assert make_corpus.main(["--megabytes", f"{(limit + 9000) / 1e6:.6f}", *made]) == 0
    manifest = json.loads(Path(made[-1]).with_name("out.json").read_text("utf-8"))
    stdlib, alpha, beta = [p["bytes"] for p in manifest["packages"]]
    assert stdlib == limit and beta == 2 * 610 and 7000 < alpha <= manifest["share"]


@given(st.lists(st.integers(0, 10**6), max_size=9), st.integers(0, 10**7))
def test_a_share_is_the_largest_that_fits(sizes, limit):
    share = make_corpus.fair_share(sizes, limit)
    assert sum(min(size, share) for size in sizes) <= limit
    assert share >= max(sizes, default=0) or (
        sum(min(size, share + 1) for size in sizes) > limit
    )


def test_an_archive_of_another_kind_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        make_corpus.main(["out.zip"])
    assert "end its name in .tar.gz" in capsys.readouterr().err


def test_a_missing_list_of_pins_is_one_line(tmp_path, capsys):
    out = tmp_path / "out.tar.gz"
    assert make_corpus.main(["--pins", str(tmp_path / "none"), str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not out.exists()


def test_a_licence_is_told_of_an_installed_package():
    assert "MIT" in make_corpus.licence(metadata.distribution("pytest"))
