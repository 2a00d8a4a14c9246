"""Turn the beginning of a Hugging Face data set into an archive for `train --data`.

    python data/from_hub.py bigcode/the-stack stack.tar.gz --dir data/python
    python data/from_hub.py parquet mine.tar.gz --files 'mine-*.parquet'
    python data/from_hub.py json mine.tar.gz --files mine.jsonl --where lang=Python

Reads the data set as a stream, a row at a time, until the texts have so many
million characters, and writes each as a file of the archive. (Whoever uses The Stack
has to accept its terms at the hub first, and log in with `hf auth login`.) Needs
the library `datasets`: pip install -e '.[hub]'

Rows without a text (null, bytes, an empty one) are skipped and counted. If the stream
breaks off, the archive holds what came before, unless there was one of that name; the
exit status is 1.
"""

import argparse
import io
import itertools
import sys
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

COLUMNS = ("content", "text", "code", "whole_func_string")  # where texts often are
LOOK = 100  # rows, in which a column must have a text


class HubError(Exception):
    """What is wrong with a data set or with the command, and what to do."""


def stream(args: argparse.Namespace) -> Iterable[dict]:
    """The rows of a data set, read as they are asked for."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise HubError(
            "the library datasets is not installed: pip install -e '.[hub]'"
        ) from None
    try:
        return load_dataset(
            args.name,
            data_dir=args.dir,
            data_files=args.files,
            split=args.split,
            streaming=True,
        )
    except Exception as error:  # of the network, the hub or a file, it may be any
        raise HubError(
            f"{args.name} cannot be read ({error}): check the name, "
            "the split and --files, and your login"
        ) from None


@dataclass
class Slice:
    """What was taken of a data set, and what ended it before its time."""

    texts: int = 0
    characters: int = 0
    skipped: int = 0  # rows that have no text
    error: Exception | None = None


def whole(rows: Iterable[dict], taken: Slice) -> Iterator[dict]:
    """Yield rows until they end, or the stream breaks off, which is kept."""
    try:
        yield from rows
    except Exception as error:  # of the network, the hub or a file, it may be any
        taken.error = error


def texts(
    rows: Iterable[dict], column: str, where: list[str], characters: float, taken: Slice
) -> Iterator[str]:
    """Yield the texts of rows until there are so many characters."""
    wanted = dict(condition.split("=", 1) for condition in where)
    rows = whole(rows, taken)
    first = list(itertools.islice(rows, LOOK))
    if taken.error and not first:
        raise HubError(f"no row can be read ({taken.error})")
    names = list(dict.fromkeys(name for row in first for name in row))
    full = {name for row in first for name in row if is_text(row[name])}
    column = column or next((name for name in COLUMNS if name in full), "")
    if first and (column not in full or not {*wanted} <= {*names}):
        raise HubError(
            f"no text in the column {column!r} of the first {len(first)} "
            f"rows, or no column of --where: choose among "
            f"{', '.join(names)} with --column and --where"
        )
    for row in itertools.chain(first, rows):
        if any(
            row.get(name) is None or str(row[name]) != value
            for name, value in wanted.items()
        ):
            continue
        text = row.get(column)
        if not is_text(text):
            taken.skipped += 1
            continue
        taken.texts += 1
        taken.characters += len(text)
        yield text
        if taken.characters >= characters:
            return


def is_text(value: object) -> bool:
    """Is there something to learn from? In null, bytes and "" there is not."""
    return isinstance(value, str) and value != ""


def write(archive: Path, found: Iterable[str], suffix: str, taken: Slice) -> None:
    """Write texts to an archive: whole, or as far as the stream came, or not at all."""
    temporary = archive.with_name(f"tmp.{archive.name}")
    try:
        mode = f"w:{archive.suffix[1:].replace('tar', '')}"
        with tarfile.open(temporary, mode) as file:
            for count, text in enumerate(found, 1):
                content = text.encode("utf-8", "replace")
                member = tarfile.TarInfo(
                    f"{archive.name.split('.')[0]}/{count:08}{suffix}"
                )
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
        if taken.error and archive.exists():
            raise HubError(
                f"the stream broke off after {taken.texts:,} texts "
                f"({taken.error}); {archive} is as it was"
            )
        if not taken.texts:
            raise HubError(
                f"the stream broke off ({taken.error}); nothing is written"
                if taken.error
                else "no row fits: see --where"
            )
        temporary.replace(archive)
    finally:
        temporary.unlink(missing_ok=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
        if not args.archive.parent.is_dir():
            raise HubError(f"{args.archive.parent} is no folder: make it first")
        if args.archive.is_dir():
            raise HubError(f"{args.archive} is a folder: give the name of a file")
        if not args.megabytes > 0:
            raise HubError(f"--megabytes {args.megabytes:g}: give more than 0")
        if any("=" not in condition for condition in args.where):
            raise HubError(f"--where {' '.join(args.where)}: write COLUMN=VALUE")
        taken = Slice()
        found = texts(
            stream(args), args.column, args.where, args.megabytes * 1e6, taken
        )
        write(args.archive, found, args.suffix, taken)
    except (HubError, OSError, tarfile.TarError) as error:
        print("from_hub: error:", *str(error).split(), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"from_hub: interrupted; nothing is written to {args.archive}",
            file=sys.stderr,
        )
        return 130
    rows = f"{taken.skipped:,} row{'s' * (taken.skipped > 1)}"
    without = f" ({rows} without a text skipped)" if taken.skipped else ""
    print(
        f"{args.archive}: {taken.texts:,} texts, {taken.characters:,} characters"
        f"{without}; learn from them with train --data {args.archive} --suffix "
        f"{args.suffix}"
    )
    if taken.error:
        print(
            "from_hub: the stream broke off, and the archive holds what came before:",
            *str(taken.error).split(),
            file=sys.stderr,
        )
    return 1 if taken.error else 0


if __name__ == "__main__":
    sys.exit(main())
