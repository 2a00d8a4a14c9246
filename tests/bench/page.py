"""How fast does the shipped model write in a browser, and what does it weigh there?

    python tests/bench/page.py                          headless Chromium, a minute
    python tests/bench/page.py --json book/runs/page.json

The page lies in a folder; a worker writes, with the weights of a byte a number that the
book's build makes. It writes 240 characters in each turn, in stretches of 20: the
fastest stretch counts, and the median of all stands beside it. `unpacked` is the time
from the arrival of the weights to the first character, in seconds.
"""

import argparse
import gzip
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "book" / "_tools")]

import minigpt  # noqa: E402
import weights  # noqa: E402

COUNT, STRETCH = 240, 20
PAGE = '<!doctype html><meta charset="utf-8"><script src="minigpt.js"></script>'
WITH = """async ([count, stretch]) => {
    const text = await minigpt.fetch_weights("weights.js");
    const arrived = performance.now(), ask = minigpt.start_worker();
    await ask("load", text);
    await ask("begin", "def ", { min_new_tokens: count + 1, seed: 1 });
    await ask("next");
    const unpacked = performance.now() - arrived, speeds = [];
    for (let n = 0; n < count; n += stretch) {
        const began = performance.now();
        for (let i = 0; i < stretch; i++) await ask("next");
        speeds.push(1000 * stretch / (performance.now() - began));
    }
    return { unpacked, speeds };
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--json", default=os.devnull, help="where to keep it")
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        shutil.copy(ROOT / "book" / "_static" / "minigpt.js", folder)
        page, script = Path(folder, "page.html"), weights.script(minigpt.SHIPPED)
        page.write_text(PAGE)
        Path(folder, "weights.js").write_text(script)
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        turns = []
        for _ in range(args.turns):
            tab = browser.new_page()
            tab.goto(page.as_uri())
            turns.append(tab.evaluate(WITH, [COUNT, STRETCH]))
            tab.close()
            print(f"{max(turns[-1]['speeds']):.0f} characters a second", flush=True)
        speeds = [speed for turn in turns for speed in turn["speeds"]]
        kept = {
            "browser": f"Chromium {browser.version.split('.')[0]}",
            "machine": minigpt.platform.machine(),
            "cores": os.cpu_count(),
            "characters_per_second": round(max(speeds)),
            "median": round(median(speeds)),
            "unpacked": round(min(turn["unpacked"] for turn in turns) / 1000, 2),
            "bytes": len(script),
            "bytes_sent": len(gzip.compress(script.encode(), 9)),
        }
        browser.close()
    Path(args.json).write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    print(*(f"{name}: {value}" for name, value in kept.items()), sep="\n")


if __name__ == "__main__":
    main()
