"""Time and peak memory of reading a corpus.

    python tests/bench/reading.py [MEGABYTES ...]

Makes files of a megabyte each (10, 100 and 1000 of them) from the default
corpus, and one file of the largest size, and reads each in a process of its own:
megabytes a second, and bytes a character at the peak, above what the process
held when it had imported the program.
"""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import minigpt

READ = """
import resource, sys, time
from pathlib import Path
import minigpt
def peak(): return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, start = peak(), time.perf_counter()
corpus = minigpt.read_corpus(Path(sys.argv[1]))
seconds, n = time.perf_counter() - start, len(corpus.train) + len(corpus.val)
print(f"{n / 1e6:6.0f} MB: {seconds:6.2f} s, {n / seconds / 1e6:3.0f} MB/s, "
      f"{(peak() - before) / n:.2f} bytes a character at the peak")
"""


def report(source: Path) -> None:
    """Read a source in a new process, and print what it took."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(source)],
        check=True,
        capture_output=True,
        text=True,
    )
    print(f"{source.name:12}", done.stdout.splitlines()[-1], flush=True)


def main(sizes: list[int]) -> None:
    with tarfile.open(minigpt.CORPUS) as archive:
        text = b"\n".join(archive.extractfile(m).read() for m in archive if m.isfile())
    report(minigpt.CORPUS)
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            files, one = Path(folder, "files"), Path(folder, "one_file.py")
            files.mkdir()
            for i in range(size):
                start = i * 977_131 % (len(text) - 2**20)
                content = b"# %d\n" % i + text[start : start + 10**6]
                (files / f"m{i:05}.py").write_bytes(content)
                with open(one, "ab") as file:
                    file.write(content if size == max(sizes) else b"")
            report(files)
            if size == max(sizes):
                report(one)


if __name__ == "__main__":
    main([*map(int, sys.argv[1:])] or [10, 100, 1000])
