"""Make a corpus of about 50 MB: the standard library and the book's own tools.

    make corpus
    python data/make_corpus.py [--megabytes 50] [ARCHIVE]

Takes the whole default corpus, and the `.py` files of every package that
constraints.txt pins, as far as it is installed here in that version. Tests are left
out. No package gives more than its share, the largest with which all fit into the
limit; of a larger one, files are drawn by their sha256. The archive also holds each
licence file; beside it, a manifest names each package with version, licence, files,
bytes and the sha256 of its text. The same packages give the same archive. Nothing is
downloaded, and nothing is meant to be passed on: some of the licences ask for more
than a copy of themselves.
"""

import argparse
import gzip
import hashlib
import io
import json
import re
import sys
import tarfile
from importlib import metadata
from pathlib import Path, PurePath

from minigpt import write_atomically

HERE = Path(__file__).parent
STDLIB = HERE / "python-stdlib.tar.xz"
PINS = HERE.with_name("constraints.txt")
LEFT_OUT = {"test", "tests", "testing", "__pycache__"}
LICENCE = re.compile(r"(licen[cs]e|copying|notice)", re.IGNORECASE)
Files = dict[str, bytes]  # by name, in order


def pinned(pins: Path) -> dict[str, str]:
    """The name and version of each line `name==version`."""
    lines = pins.read_text("utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line and line[0] != "#")


def standard_library(archive: Path) -> Files:
    """The files of the default corpus."""
    with tarfile.open(archive) as file:
        return {member.name: file.extractfile(member).read() for member in file}


def belongs(path: PurePath) -> bool:
    """Whether a package's file goes into the corpus: a program, or a licence."""
    if ".." in path.parts or LEFT_OUT.intersection(path.parts):
        return False
    told = path.suffix != ".py" and path.parts[0].endswith(".dist-info")
    return (
        path.suffix == ".py" or told and bool(LICENCE.search("/".join(path.parts[1:])))
    )


def package(found: metadata.Distribution) -> Files:
    """The programs and licences of a package, under its name."""
    places = {
        f"{found.name}/{path.as_posix()}": Path(path.locate())
        for path in found.files or ()
        if belongs(path)
    }
    return {
        name: place.read_bytes()
        for name, place in sorted(places.items())
        if place.is_file()
    }


def licence(found: metadata.Distribution) -> str:
    """What a package says its licence is, in one line."""
    about = found.metadata
    classes = [
        line.split(" :: ")[-1]
        for line in about.get_all("Classifier") or ()
        if line.startswith("License ::")
    ]
    told = about["License-Expression"] or ", ".join(classes) or about["License"] or ""
    return told.strip().split("\n")[0] or "not told; see its files"


def size(files: Files) -> int:
    """Bytes of the programs among these files."""
    return sum(len(text) for name, text in files.items() if name.endswith(".py"))


def fair_share(sizes: list[int], limit: int) -> int:
    """The largest share s for which the sum of min(size, s) is within the limit."""
    left = limit
    for count, smallest in zip(range(len(sizes), 0, -1), sorted(sizes), strict=True):
        if smallest * count > left:
            return left // count
        left -= smallest
    return max(sizes, default=0)


def cut(files: Files, share: int) -> Files:
    """Programs that fit into a share, drawn by their sha256, and every licence."""
    drawn = sorted(files, key=lambda name: hashlib.sha256(files[name]).digest())
    kept = set()
    for name in drawn:
        if not name.endswith(".py"):
            kept.add(name)
        elif len(files[name]) <= share:
            share -= len(files[name])
            kept.add(name)
    return {name: text for name, text in files.items() if name in kept}


def write(archive: Path, files: Files) -> None:
    """Write a .tar.gz without dates."""
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as file,
    ):
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            file.addfile(member, io.BytesIO(text))


def collect(pins: Path, stdlib: Path) -> tuple[dict[str, Files], list[dict], list[str]]:
    """Each package's files, what the manifest says of it, and which are missing."""
    found = {"python-stdlib": standard_library(stdlib)}
    about = [{"name": "python-stdlib", "version": "3.11", "licence": "PSF-2.0"}]
    missing = []
    for name, version in pinned(pins).items():
        try:
            there = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if there.version.partition("+")[0] != version:
            missing.append(name)
            continue
        found[there.name] = package(there)
        about.append(
            {"name": there.name, "version": version, "licence": licence(there)}
        )
    return found, about, missing


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "archive", type=Path, nargs="?", default=HERE / "python-packages.tar.gz"
    )
    parser.add_argument("--megabytes", type=float, default=50)
    parser.add_argument("--pins", type=Path, default=PINS)
    args = parser.parse_args(argv)
    if not args.archive.name.endswith(".tar.gz"):
        parser.error(f"{args.archive}: end its name in .tar.gz")
    try:
        found, about, missing = collect(args.pins, STDLIB)
        stdlib, *others = found.values()
        share = fair_share(
            [*map(size, others)], max(0, int(args.megabytes * 1e6) - size(stdlib))
        )
        taken = {"python-stdlib": stdlib} | {
            name: cut(found[name], share) for name in [*found][1:]
        }
        together = {n: t for files in taken.values() for n, t in files.items()}
        write_atomically(args.archive, lambda path: write(path, together))
        for record, files in zip(about, taken.values(), strict=True):
            programs = [text for name, text in files.items() if name.endswith(".py")]
            record |= {
                "files": len(programs),
                "bytes": sum(map(len, programs)),
                "sha256": hashlib.sha256(b"".join(programs)).hexdigest(),
            }
        total = sum(map(size, taken.values()))
        manifest = {
            "archive": args.archive.name,
            "bytes": total,
            "sha256": hashlib.sha256(args.archive.read_bytes()).hexdigest(),
            "share": share,
            "missing": missing,
            "packages": about,
        }
        beside = args.archive.with_name(args.archive.name.replace(".tar.gz", ".json"))
        beside.write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    except (OSError, tarfile.TarError, ValueError) as error:
        print("make_corpus: error:", *str(error).split(), file=sys.stderr)
        return 2
    if missing:
        print(
            f"not installed here in the pinned version, and left out: "
            f"{', '.join(missing)}",
            file=sys.stderr,
        )
    print(
        f"{args.archive}: {total / 1e6:.1f} MB of Python from {len(about)} packages, "
        f"at most {share / 1e6:.1f} MB of one; {beside.name} lists them"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
