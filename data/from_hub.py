"""Turn the beginning of a Hugging Face data set into an archive for `train --data`.

    python data/from_hub.py bigcode/the-stack stack.tar.gz --dir data/python
    python data/from_hub.py parquet mine.tar.gz --files 'mine-*.parquet'
    python data/from_hub.py json mine.tar.gz --files mine.jsonl --where lang=Python

Reads the data set as a stream, a row at a time, until the texts have so many
million characters, and writes each as a file of the archive. (Whoever uses The Stack
has to accept its terms at the hub first, and log in with `hf auth login`.) Needs
the library `datasets`: pip install -e .[hub]
"""

import argparse
import io
import itertools
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

COLUMNS = ("content", "text", "code", "whole_func_string")  # where texts often are


class HubError(Exception):
    """What is wrong with a data set or with the command, and what to do."""


def stream(args: argparse.Namespace) -> Iterable[dict]:
    """The rows of a data set, read as they are asked for."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise HubError("the library datasets is not installed: "
                       "pip install -e .[hub]") from None
    try:
        return load_dataset(args.name, data_dir=args.dir, data_files=args.files,
                            split=args.split, streaming=True)
    except Exception as error:  # of the network, the hub or a file, it may be any
        raise HubError(f"{args.name} cannot be read ({error}): check the name, "
                       "the split and --files, and your login") from None


def texts(rows: Iterable[dict], column: str, where: list[str],
          characters: int) -> Iterator[str]:
    """Yield the texts of rows until there are so many characters."""
    wanted = dict(condition.split("=", 1) for condition in where)
    for row in rows:
        column = column or next((name for name in COLUMNS if name in row), "")
        missing = {column, *wanted} - {*row}
        if missing or not isinstance(row[column], str):
            raise HubError(f"no text in the column {column!r}: choose among "
                           f"{', '.join(row)} with --column and --where")
        if all(str(row[name]) == value for name, value in wanted.items()):
            yield row[column]
            characters -= len(row[column])
        if characters <= 0:
            return


def write(archive: Path, found: Iterable[str], suffix: str) -> tuple[int, int]:
    """Write texts to an archive, whole or not at all: how many, characters."""
    temporary = archive.with_name(f"tmp.{archive.name}")
    count = characters = 0
    try:
        mode = f"w:{archive.suffix[1:].replace('tar', '')}"
        with tarfile.open(temporary, mode) as file:
            for count, text in enumerate(found, 1):
                content = text.encode("utf-8", "replace")
                member = tarfile.TarInfo(f"{archive.name.split('.')[0]}/"
                                         f"{count:08}{suffix}")
                member.size, characters = len(content), characters + len(text)
                file.addfile(member, io.BytesIO(content))
        if not count:
            raise HubError("no row fits: see --where")
        temporary.replace(archive)
    finally:
        temporary.unlink(missing_ok=True)
    return count, characters


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="data set at the hub, or json, parquet, csv")
    parser.add_argument("archive", type=Path, help=".tar.gz, .tar.xz or .tar to write")
    parser.add_argument("--dir", help="its folder to read, as data/python")
    parser.add_argument("--files", help="its files to read; a pattern is fine")
    parser.add_argument("--split", default="train")
    parser.add_argument("--column", default="", help=f"default: {', '.join(COLUMNS)}")
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE")
    parser.add_argument("--suffix", default=".py", help="ending of the files (.py)")
    parser.add_argument("--megabytes", type=float, default=100)
    args = parser.parse_args(argv)
    try:
        if ".tar" not in args.archive.suffixes[-2:]:
            raise HubError(f"{args.archive}: end its name in .tar.gz, .tar.xz or .tar")
        if any("=" not in condition for condition in args.where):
            raise HubError(f"--where {' '.join(args.where)}: write COLUMN=VALUE")
        rows = iter(stream(args))
        first = list(itertools.islice(rows, 1))
        found = texts(itertools.chain(first, rows), args.column, args.where,
                      int(args.megabytes * 1e6))
        count, characters = write(args.archive, found, args.suffix)
    except (HubError, OSError, tarfile.TarError) as error:
        print("from_hub: error:", *str(error).split(), file=sys.stderr)
        return 2
    print(f"{args.archive}: {count:,} texts, {characters:,} characters; learn from "
          f"them with train --data {args.archive} --suffix {args.suffix}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
