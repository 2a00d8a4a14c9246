"""Make data/python-stdlib.tar.xz from the standard library of CPython 3.11.

    python3.11 data/make_stdlib.py

Takes the ASCII `.py` files of the library that runs this script, leaves out
test suites, installed packages and files written for one machine, and adds
the library's licence. Names are sorted and every date is 0, so the same
library gives the same archive. Prints what `sha256sum --check` reads.
"""

import hashlib
import io
import sys
import sysconfig
import tarfile
from pathlib import Path

LIBRARY = Path(sysconfig.get_path("stdlib"))
ARCHIVE = Path(__file__).with_name("python-stdlib.tar.xz")
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "__pycache__"}


def belongs(path: Path) -> bool:
    """Whether this file of the library goes into the corpus."""
    parts = path.relative_to(LIBRARY).parts
    of_one_machine = any(p.startswith(("config-", "_sysconfig")) for p in parts)
    return not LEFT_OUT.intersection(parts) and not of_one_machine


def main() -> None:
    if sys.version_info[:2] != (3, 11):
        sys.exit("make_stdlib: error: run this with Python 3.11")
    files = [path for path in LIBRARY.rglob("*.py") if belongs(path)]
    files = [path for path in files if path.read_bytes().isascii()]
    with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
        for path in [LIBRARY / "LICENSE.txt", *sorted(files)]:
            content = path.read_bytes()
            name = path.relative_to(LIBRARY).as_posix()
            member = tarfile.TarInfo(f"python-stdlib/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    print(hashlib.sha256(ARCHIVE.read_bytes()).hexdigest(), "", ARCHIVE.name)


if __name__ == "__main__":
    main()
