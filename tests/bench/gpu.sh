#!/usr/bin/env bash
# What only a GPU can tell, in one go: speed beside others, a run of the full preset
# as long as SECONDS_TO_LEARN allow, and which cells of the pages do not hold there.
#
#   tests/bench/gpu.sh OUT [DATA]
#
# DEVICE=cpu PRESET=tiny SECONDS_TO_LEARN=20 PAGES=02 BENCH=text tries it anywhere.
# OUT then holds peers.json, peers_float32.json, the run, its weights in pieces of
# 15 MB (`cat weights.* > best.safetensors`), and pages.log.
set -euo pipefail
OUT=$1 DATA=${2:-data/python-packages.tar.gz}
DEVICE=${DEVICE:-cuda} PRESET=${PRESET:-full} BENCH=${BENCH:-step decode small cache batch}
PYTHON=${PYTHON:-.venv/bin/python} SECONDS_TO_LEARN=${SECONDS_TO_LEARN:-420}
mkdir -p "$OUT"

# The full preset must fit a T4 as well, which has no bfloat16: two batches of 32, added up.
half=bfloat16; [ "$DEVICE" = cpu ] && half=float32
"$PYTHON" tests/bench/peers.py --device "$DEVICE" --dtype "$half" --batch-size 64 \
    --json "$OUT/peers.json" $BENCH
"$PYTHON" tests/bench/peers.py --device "$DEVICE" --batch-size 32 \
    --json "$OUT/peers_float32.json" "${BENCH%% *}"

# A pilot of 60 steps says how many fit; the schedule is made for that many.
learn() { "$PYTHON" minigpt.py train --preset "$PRESET" --data "$DATA" --device "$DEVICE" "$@"; }
learn --run "$OUT/pilot" --overwrite --max-steps 60 --warmup-steps 20
steps=$("$PYTHON" - "$OUT/pilot/metrics.jsonl" "$SECONDS_TO_LEARN" << 'END'
import json, statistics, sys
records = map(json.loads, open(sys.argv[1], encoding="utf-8"))
times = [r["seconds"] for r in records if "loss" in r]
step = statistics.median(b - a for a, b in zip(times[20:], times[21:]))
print(max(100, int(float(sys.argv[2]) / step)))
END
)
learn --run "$OUT/run" --overwrite --max-steps "$steps" --warmup-steps "$((steps / 20))"
"$PYTHON" tests/bench/evaluate.py "$OUT/run/best.safetensors" "$DATA" | tee "$OUT/loss.txt"
split -b 15M -d "$OUT/run/best.safetensors" "$OUT/weights."
rm -r "$OUT/pilot" "$OUT"/run/*.safetensors

"$PYTHON" tests/portable.py --setting bfloat16 ${PAGES:-} | tee "$OUT/pages.log"
