"""Peak memory and time of `prepare` for a small and for a large corpus.

    python tests/bench/prepare.py [MEGABYTES ...]

Makes files of a megabyte each (100 and 1000 of them) from the default corpus,
prepares them in a process of its own, and prints what that took, beside a
process that only prints the help.
"""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import minigpt


def cost(*words: str) -> str:
    """Seconds and peak memory of `minigpt.py WORDS` in a new process."""
    code = ("import resource, subprocess, sys, time; start = time.monotonic(); "
            "subprocess.run(sys.argv[1:], check=True, stdout=-3); print("
            "f'{time.monotonic() - start:.1f} s', resource.getrusage("
            "resource.RUSAGE_CHILDREN).ru_maxrss, 'kB')")
    return subprocess.run(
        [sys.executable, "-c", code, sys.executable, minigpt.__file__, *words],
        check=True, capture_output=True, text=True).stdout.strip()


def main(sizes: list[int]) -> None:
    with tarfile.open(minigpt.CORPUS) as archive:
        text = b"\n".join(archive.extractfile(m).read()
                          for m in archive if m.isfile())
    print("--help:", cost("--help"))
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "source")
            source.mkdir()
            for i in range(size):
                start = i * 977_131 % (len(text) - 2**20)
                content = b"# %d\n" % i + text[start:start + 10**6]
                (source / f"m{i:05}.py").write_bytes(content)
            print(f"{size} MB:", cost("prepare", str(source), "--out",
                                      str(Path(folder, "out"))))


if __name__ == "__main__":
    main([*map(int, sys.argv[1:])] or [100, 1000])
