"""Makes the pictures of docs/img from the demo: `python docs/screenshots.py [FOLDER OF A DEMO]`.

Needs a Chromium (`make browser`) and the group `dev`. Without a folder the demo is run first, which takes minutes.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

import diq

IMAGES = Path(__file__).resolve().parent / "img"
SIZES = ((1280, 900, "light"), (390, 844, "dark"))


def main() -> None:
    """Take every picture."""
    folder = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="diq-demo-"))
    diq.run_demo(keep=folder)
    # as a user names things, whatever machine this is
    os.chdir(folder)
    diq.report("pool", selection=["diq-0.1", "random-0.1"], store="diq.duckdb")
    page = folder / "report.html"
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for width, height, scheme in SIZES:
            context = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=scheme, offline=True, device_scale_factor=1
            )
            opened = context.new_page()
            opened.goto(page.resolve().as_uri())
            opened.wait_for_function(
                "document.querySelectorAll('[data-spec]').length === document.querySelectorAll('[data-drawn]').length"
            )
            opened.screenshot(path=IMAGES / f"report-{width}.png")
            print(f"wrote docs/img/report-{width}.png")
        browser.close()


if __name__ == "__main__":
    main()
