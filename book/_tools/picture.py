"""The README's picture: what a command line of minigpt.py writes, in a terminal.

    python book/_tools/picture.py --prompt "def quicksort(" --seed 3 --temperature 0.5

Runs `minigpt.py generate` with these flags and photographs command and text in
headless Chromium, into book/_static/at-work.png.
"""

import html
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
PAGE = """<body style="margin:0"><pre style="margin:0;padding:18px 22px;width:860px;
background:#1f2430;color:#f0f0f0;font:16px/22px 'DejaVu Sans Mono',monospace;
white-space:pre-wrap;tab-size:8">{}</pre>"""


def main(flags: list[str]) -> None:
    program = [sys.executable, str(ROOT / "minigpt.py"), "generate", *flags]
    text = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    line = shlex.join(["python", "minigpt.py", "generate", *flags])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        tab = browser.new_page(device_scale_factor=2)
        tab.set_content(PAGE.format(html.escape(f"$ {line}\n{text}".rstrip())))
        tab.locator("pre").screenshot(path=ROOT / "book" / "_static" / "at-work.png")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
