"""Keep a run for the book: copy its text files, with the commit they came from.

    python book/record.py checkpoints/laptop laptop

Copies run.json, metrics.jsonl and samples.jsonl to book/runs/NAME, where the
pages plot them, and adds the commit to run.json. Weights are not copied.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path


def main(source: str, name: str) -> None:
    target = Path(__file__).parent / "runs" / name
    target.mkdir(parents=True, exist_ok=True)
    for log in ("metrics.jsonl", "samples.jsonl"):
        shutil.copyfile(Path(source, log), target / log)
    record = json.loads(Path(source, "run.json").read_text("utf-8"))
    git = ["git", "rev-parse", "HEAD"]
    record["commit"] = subprocess.check_output(git, text=True).strip()
    text = json.dumps(record, indent=2) + "\n"
    (target / "run.json").write_text(text, "utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
