"""The page of `diq explore` in a browser: how long until the first view, and until a brush or a slider is answered.

Claim: on 10 million scored rows there is a view 3 s after the command is typed (of a part of the samples, until all are
read), and a brush or a slider is answered in 300 ms (medians). A real Chromium does what a hand does, and the time goes
from the event to the frame that shows the answer. What the page counts is compared with numpy before any time is taken.
Run: `python benches/bench_explorer.py --rows 10`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

from bench_store import build
from diq.explorer.columns import choose
from diq.explorer.server import Server
from diq.explorer.session import Session
from diq.store.store import now

# moves of a brush or a slider
_STEPS = 12

# a hand that moves on as soon as it sees an answer, and rests at last: the times from each event to the frame that
# shows its answer, and from the last event to the answer of all samples
DRAG = """async ([what, values]) => {
  const seen = () => [document.body.dataset.shown, document.body.dataset.paged].join();
  for (let before = null; before !== seen(); ) {
    before = seen();
    await new Promise((done) => setTimeout(done, 800));
  }
  // told, not polled: a page that is asked in every frame takes the processor from the server
  const next = (name) => new Promise((done) => new MutationObserver((_, observer) => {
    observer.disconnect();
    done();
  }).observe(document.body, { attributes: true, attributeFilter: [name] }));
  const canvas = document.querySelector("#plane");
  const box = canvas.getBoundingClientRect();
  canvas.setPointerCapture = () => {};
  const fire = (kind, x, y) => canvas.dispatchEvent(new PointerEvent(kind, {
    bubbles: true, button: 0, pointerId: 1, clientX: box.left + x * box.width, clientY: box.top + y * box.height,
  }));
  if (what === "brush") fire("pointerdown", 0.3, 0.1);
  const times = [];
  let start = 0;
  let whole = null;
  for (const value of values) {
    whole = next("data-whole");
    const answered = next("data-shown");
    start = performance.now();
    if (what === "brush") fire("pointermove", 0.8, value);
    else {
      const slider = document.querySelector(what);
      slider.value = value;
      slider.dispatchEvent(new Event("input", { bubbles: true }));
    }
    await answered;
    times.push(performance.now() - start);
  }
  if (what === "brush") fire("pointerup", 0.8, values.at(-1));
  await whole;
  return [times, performance.now() - start];
}"""


def check(session: Session) -> None:
    """The counts of a filtered view against numpy."""
    from diq.explorer.requests import read_look

    body: dict[str, Any] = {"filters": {"difficulty": {"low": 2, "high": 5}}, "ratio": "0.1"}
    facts, _ = session.view(read_look(body, session.choice.numbers, session.answers.names, session.choice.set_names))
    table = session.table
    expected = int(np.count_nonzero((table.level >= 2) & (table.level < 5)))
    assert sum(facts["passing"]) == expected, (facts["passing"], expected)


def start(path: Path) -> None:
    """Seconds from the start of the command to the first view, and to that of all samples."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        began = time.perf_counter()
        words = [sys.executable, "-m", "diq", "explore", "pool", "--store", str(path), "--no-browser"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as command:
            try:
                assert command.stdout is not None
                address = next(word for line in command.stdout for word in line.split() if word.startswith("http://"))
                page.goto(address)
                page.wait_for_selector("body[data-shown]")
                first, status = time.perf_counter() - began, page.locator("#status").inner_text()
                while "until all" in page.locator("#status").inner_text():
                    time.sleep(0.02)
                print(f"first view after the start of the command: {first:.1f} s ({status})")
                print(f"view of all samples: {time.perf_counter() - began:.1f} s")
            finally:
                # also when a busy machine made the page late: the block waits for the command to end
                command.terminate()
        browser.close()


def measure(address: str, times: int) -> dict[str, list[float]]:
    """Milliseconds of each kind of answer."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    found: dict[str, list[float]] = {}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for _ in range(3):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            start = time.perf_counter()
            page.goto(address)
            page.wait_for_selector("body[data-shown]")
            found.setdefault("first view of an opened page", []).append((time.perf_counter() - start) * 1e3)
            page.close()
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        # playwright's own clicks and waits go through the policy of the page; evaluate does not
        page.goto(address)
        page.wait_for_selector("body[data-paged]")
        steps = np.linspace(0, 1, _STEPS)
        kinds = {
            "brush on the plane": ("brush", 0.4 + 0.4 * steps),
            "slider of the ratio": ("#ratio", -1.5 + steps),
            "slider of the percentile": ("#percentile", 0.2 + 0.6 * steps),
            "slider of a weight": ("#weight-0", 0.1 + 2 * steps),
        }
        for name, (what, values) in kinds.items():
            if not page.locator(what if what != "brush" else "#plane").count():
                continue
            for i in range(times):
                # other values each time: answers are kept for a while
                answers, whole = page.evaluate(DRAG, [what, (values + i / 1000).tolist()])
                found.setdefault(name, []).extend(answers)
                found.setdefault(f"{name}, all samples once it rests", []).append(whole)
        browser.close()
    return found


def main() -> None:
    """Build a store, serve it, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=float, default=10, help="million rows")
    parser.add_argument("--sets", type=int, default=2, help="validation sets")
    parser.add_argument("--times", type=int, default=5, help="how often each is moved")
    parser.add_argument("--store", type=Path, help="a store that is kept: made when it is missing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="diq-bench-") as folder:
        path = options.store or Path(folder) / "store.duckdb"
        if not path.exists():
            build(path, rows=int(options.rows * 1e6), sets=options.sets, folds=False)
        print(f"{options.rows:g} M rows, {options.sets} validation sets, {os.cpu_count()} cores, ", end="")
        print(f"{now():%Y-%m-%d}; load {os.getloadavg()[0]:.1f}")
        start(path)
        server = Server(Session(choose(path, "pool", "model", "overall", None, None)))
        thread = threading.Thread(target=server.run)
        thread.start()
        while server.session.facts().get("reading"):
            time.sleep(0.02)
        try:
            check(server.session)
            for name, ms in measure(server.address, options.times).items():
                low, high = np.quantile(ms, [0.2, 0.8])
                print(f"{name}: median {statistics.median(ms):,.0f} ms (p20 {low:,.0f}, p80 {high:,.0f}; n {len(ms)})")
        finally:
            server.stop()
            thread.join()


if __name__ == "__main__":
    main()
