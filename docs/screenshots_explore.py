"""Makes docs/img/explore-1280.png and explore-390.png: the page of `diq explore` over data that is made up here.

Run: `python docs/screenshots_explore.py`; it needs `pip install 'diq[explore]' playwright` and a Chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

import diq
from diq.explorer.columns import choose
from diq.explorer.server import Server
from diq.explorer.session import Session

HERE = Path(__file__).resolve().parent
SUBJECTS = ("chest pain", "a persistent cough", "raised blood pressure", "a new rash", "fatigue", "low back pain")
ASKED = ("What is the likely cause of", "Which test comes first for", "How is it best to treat", "When is it urgent:")


def make_store(folder: Path, *, n: int = 20_000) -> Path:
    """A store with made-up samples of two sources, difficulty from 1 to 5 and heavy-tailed dots with two tasks."""
    rng = np.random.default_rng(7)
    store = folder / "demo.duckdb"
    level = rng.choice(np.arange(1, 6), n, p=[0.1, 0.24, 0.32, 0.22, 0.12])
    shared = rng.standard_t(2.5, n) * 1e-3 + 2e-4 * (level - 3)
    for part, name in enumerate(("huatuo.jsonl", "medquad.jsonl")):
        rows = [
            {
                "question": f"{ASKED[i % 4]} {SUBJECTS[i % 6]} in a patient of {18 + i % 71}? (case {i})",
                "answer": f"First consider what is common at that age. {'The finding fits. ' * (1 + i % 9)}",
            }
            for i in range(part * n * 2 // 3, n if part else n * 2 // 3)
        ]
        path = folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        diq.ingest(path, dataset="pool", store=store)
    scores: dict[str, Any] = {"": {"overall": level.astype(float)}}
    for task, noise in (("medqa", 0.6), ("pubmedqa", 1.1)):
        scores[task] = {"dot": shared + noise * rng.standard_t(3, n) * 1e-3}
    for task, columns in scores.items():
        path = folder / f"scores-{task or 'difficulty'}.jsonl"
        names = list(columns)
        rows = [{"position": i} | {name: float(columns[name][i]) for name in names} for i in range(n)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = {"model": "demo-8b", "validation_set": task} if task else {}
        diq.ingest(path, dataset="pool", scores=True, store=store, **options)
    # what a scoring records beside the dots
    diq.sql(
        "UPDATE influence_scores SET loss = 0.4 + abs(hash(sample_id) % 1000) / 700.0, "
        "answer_tokens = CAST(20 + hash(sample_id) % 97 * (hash(sample_id) % 13) AS INTEGER)",
        store=store,
        write=True,
    )
    diq.select("pool", ratio="0.05", model="demo-8b", strategy="influence", name="influence-5", store=store)
    return store


def photograph(store: Path, folder: Path, *, dark: bool = False, suffix: str = "") -> None:
    """Pictures of the page, 1280 and 390 pixels wide."""
    from playwright.sync_api import sync_playwright

    server = Server(Session(choose(store, "pool", "demo-8b", "overall", None, None)))
    thread = threading.Thread(target=server.run)
    thread.start()
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
            for width, height in ((1280, 900), (390, 844)):
                page = browser.new_page(
                    viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
                )
                page.goto(server.address)
                page.wait_for_selector("#samples tbody tr:nth-child(25)")
                page.locator("#plane").scroll_into_view_if_needed()
                box = page.locator("#plane").bounding_box()
                assert box is not None
                x, y = box["x"], box["y"]
                page.mouse.move(x + 0.62 * box["width"], y + 0.12 * box["height"])
                page.mouse.down()
                page.mouse.move(x + 0.95 * box["width"], y + 0.45 * box["height"], steps=4)
                page.mouse.up()
                page.mouse.move(0, 0)
                page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
                page.wait_for_timeout(900)
                page.screenshot(path=folder / f"explore-{width}{suffix}.png", full_page=True)
                page.close()
            browser.close()
    finally:
        server.stop()
        thread.join()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=HERE / "img")
    parser.add_argument("--rows", type=int, default=20_000)
    options = parser.parse_args()
    options.to.mkdir(exist_ok=True)
    target = options.to.resolve()
    with tempfile.TemporaryDirectory() as name:
        # as a user names things, whatever machine this is
        os.chdir(name)
        photograph(make_store(Path(), n=options.rows), target)
