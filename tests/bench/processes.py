"""How fast do 1, 2 and 4 processes learn together, and what do they send?

    python tests/bench/processes.py            laptop preset, 60 steps
    python tests/bench/processes.py --steps 200 --turns 3

Each is the same training, of the same global batch of 24 windows, on the CPU,
with one thread a process; one process with two threads stands beside them. They
take turns, and the fastest turn counts. The bytes are those of the loopback
device (Linux), sent by all processes together in a step: a run of a third of
the steps is subtracted, and with it what a run sends at its start and end.
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

import minigpt


def sent() -> int:
    """Bytes that the loopback device has sent so far; 0 where it does not say."""
    return int(SENT.read_text()) if SENT.exists() else 0


def trained(processes: int, threads: int, steps: int) -> tuple[dict, int]:
    """Train in a new folder: its run.json, and the bytes that were sent."""
    with tempfile.TemporaryDirectory() as folder:
        before = sent()
        subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone",
             "--nproc-per-node", str(processes), "--", str(ROOT / "minigpt.py"),
             "train", "--preset", "laptop", "--run", folder, "--device", "cpu",
             "--batch-size", "24", "--max-steps", str(steps), "--warmup-steps",
             "1", "--eval-interval", "100000", "--eval-windows", "8",
             "--sample-interval", "100000"],
            env=os.environ | {"OMP_NUM_THREADS": str(threads)}, check=True,
            capture_output=True)
        return json.loads(Path(folder, "run.json").read_text()), sent() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--turns", type=int, default=2)
    args = parser.parse_args()
    cases = [(1, 1), (1, 2), (2, 1), (4, 1)]
    turns = {case: [] for case in cases}
    for _ in range(args.turns):
        for case in cases:
            turns[case].append(trained(*case, args.steps))
    for (processes, threads), results in turns.items():
        seconds = min(record["training_seconds"] for record, _ in results)
        shape = results[0][0]["model"]
        read = args.steps * 24 * shape["context_length"]
        line = (f"{processes} processes of {threads} threads: {read / seconds:,.0f} "
                "characters/s")
        if processes > 1:
            _, few = trained(processes, threads, args.steps // 3)
            per_step = (min(n for _, n in results) - few) / (
                args.steps - args.steps // 3)
            model = minigpt.MiniGPT(minigpt.ModelConfig(**shape))
            due = 2 * (processes - 1) * 4 * minigpt.count_parameters(model)
            line += (f"; {per_step / 1e6:.2f} MB a step, 2 (N - 1) times the "
                     f"gradients are {due / 1e6:.2f} MB")
        print(line, flush=True)


if __name__ == "__main__":
    main()
