"""How fast do 1, 2 and 4 processes learn together, and what do they send?

    python tests/bench/processes.py            laptop preset, 4 minutes
    python tests/bench/processes.py --minutes 1 --turns 3

Each is the same training, of the same global batch of 24 windows, on the CPU,
with one thread a process; one process with two threads stands beside them. They
take turns, and the fastest turn counts. The bytes are those of the loopback
device (Linux), sent by all processes together in a step: a shorter run is
subtracted, and with it what a run sends at its start and end.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SENT = Path("/sys/class/net/lo/statistics/tx_bytes")
sys.path.insert(0, str(ROOT))

import minigpt  # noqa: E402


def sent() -> int:
    """Bytes that the loopback device has sent so far; 0 where it does not say."""
    return int(SENT.read_text()) if SENT.exists() else 0


def trained(processes: int, threads: int, minutes: float) -> tuple[dict, int, int]:
    """Train in a new folder: its run.json, its steps, the bytes sent."""
    with tempfile.TemporaryDirectory() as folder:
        before = sent()
        subprocess.run(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node",
                str(processes),
                "--",
                str(ROOT / "many.py"),
                "train",
                "--preset",
                "laptop",
                "--run",
                folder,
                "--device",
                "cpu",
                "--batch-size",
                "24",
                "--max-minutes",
                str(minutes),
                "--eval-interval",
                "100000",
                "--eval-windows",
                "8",
                "--sample-interval",
                "100000",
                "--checkpoint-interval",
                "100000",
            ],
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            check=True,
            capture_output=True,
        )
        record = json.loads(Path(folder, "run.json").read_text("utf-8"))
        last = Path(folder, "metrics.jsonl").read_text("utf-8").splitlines()[-1]
        return record, json.loads(last)["step"], sent() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=0.4)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--json", default=os.devnull, help="where to keep them")
    args = parser.parse_args()
    cases = [(1, 1), (1, 2), (2, 1), (4, 1)]
    turns = {case: [] for case in cases}
    for _ in range(args.turns):
        for case in cases:
            turns[case].append(trained(*case, args.minutes))
    kept = []
    for (processes, threads), results in turns.items():
        shape = results[0][0]["model"]
        speed = max(
            steps * 24 * shape["context_length"] / record["training_seconds"]
            for record, steps, _ in results
        )
        kept.append(
            dict(
                processes=processes, threads=threads, characters_per_second=round(speed)
            )
        )
        line = (
            f"processes {processes}, threads of each {threads}: {speed:,.0f} "
            "characters/s"
        )
        if processes > 1:
            _, few, first = trained(processes, threads, args.minutes / 2)
            _, steps, total = results[-1]
            model = minigpt.MiniGPT(minigpt.ModelConfig(**shape))
            due = 2 * (processes - 1) * 4 * minigpt.count_parameters(model)
            per_step = (total - first) / (steps - few)
            kept[-1] |= {"sent": round(per_step), "due": due}
            line += (
                f"; {per_step / 1e6:.2f} MB a step, "
                f"2 (N - 1) times the gradients are {due / 1e6:.2f} MB"
            )
        print(line, flush=True)
    with open(args.json, "w", encoding="utf-8") as file:
        json.dump(kept, file, indent=1)


if __name__ == "__main__":
    main()
