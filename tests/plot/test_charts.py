"""The charts themselves: real Altair charts that write themselves as SVG, PNG and PDF, with counts and no texts."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pytest

import diq
from conftest import fill_store
from diq import plot
from diq.base.errors import MissingScoresError, UsageError
from diq.plot.charts import QUADRANT_COLOURS
from diq.store.store import Store, now


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("charts") / "s.duckdb"
    folds = {name: list(rng.standard_t(3, (300, 2))) for name in ("medqa", "pub<b>med</b>")}
    fill_store(
        path,
        dots={name: np.asarray(column).mean(axis=1) for name, column in folds.items()},
        difficulty=rng.uniform(1, 5, 300),
        folds=folds,
        answer_tokens=rng.integers(5, 900, 300),
    )
    diq.select("pool", ratio="0.1", model="model", name="diq", store=path)
    diq.select("pool", ratio="0.1", strategy="random", name="random", store=path)
    with Store(path) as store:
        run_id = store.open_run(
            kind="train", method="sft", model_id="id-model", fingerprint="train", settings={}, environment={}
        )
        curve = [{"step": step, "loss": 2 / step, "learning_rate": 0.1, "seconds": 1.0} for step in range(1, 9)]
        result = {"curve": curve, "validation_curve": [{"step": 4, "medqa": 1.5}], "selection": "diq"}
        store.run("store/update_run_result", run_id=run_id, result=json.dumps(result))
    assert now()
    return path


CHARTS: dict[str, Callable[[Path], Any]] = {
    "quadrants": lambda path: plot.quadrants(path, selection="diq"),
    "quadrants on a linear axis": lambda path: plot.quadrants(path, "pool", "model", scale="linear"),
    "difficulty_levels": plot.difficulty_levels,
    "influence": plot.influence,
    "length_bias": lambda path: plot.length_bias(path, selection="diq"),
    "stability": plot.stability,
    "tasks": lambda path: plot.tasks(path, "diq"),
    "overlap": plot.overlap,
    "ratios": lambda path: plot.ratios(path.parent / "none.duckdb", published="Huatuo"),
    "cost": lambda _: plot.cost(model="Qwen3-8B", samples=1000, tokens=500, ratio=("0.1",)),
    "losses": plot.losses,
}


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_altairs_and_writes_itself_without_a_browser(path: Path, name: str, tmp_path: Path) -> None:
    chart = CHARTS[name](path)
    assert isinstance(chart, alt.TopLevelMixin)
    text = chart.to_json()
    assert not re.search(r"q \d+ of pool", text), "no text of a sample"
    assert len(text) < 400_000
    chart.save(tmp_path / "chart.svg")
    svg = (tmp_path / "chart.svg").read_text(encoding="utf-8")
    assert svg.startswith("<svg")
    assert "<b>" not in svg, "names are text"
    assert json.loads(text)["title"]["text"].split()[0] in svg
    assert "NaN" not in svg
    if name == "quadrants":
        chart.save(tmp_path / "chart.png")
        assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
        chart.save(tmp_path / "chart.pdf")
        assert (tmp_path / "chart.pdf").read_bytes().startswith(b"%PDF")


def test_every_function_has_a_chart_here_and_a_method() -> None:
    assert {name.partition(" ")[0] for name in CHARTS} == set(plot.__all__)
    # a plan has a cost, not a store
    assert set(plot.__all__) - {"cost"} <= set(dir(diq.Store))


def test_each_method_of_a_store_draws_what_the_function_draws(path: Path) -> None:
    store = diq.Store(path)
    assert store.quadrants(selection="diq").to_dict() == plot.quadrants(path, selection="diq").to_dict()
    for name in ("difficulty_levels", "influence", "length_bias", "stability", "tasks", "overlap", "losses"):
        assert getattr(store, name)().to_dict() == getattr(plot, name)(path).to_dict()


# what dichromats see of linear RGB (Machado, Oliveira and Fernandes, 2009, severity 1)
_SEEN = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("kind", _SEEN)
def test_colours_are_told_apart_by_colour_blind_people(kind: str) -> None:
    def seen(colour: str) -> Any:
        srgb = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        found = np.clip(np.array(_SEEN[kind]) @ linear, 0, 1)
        return np.where(found <= 0.0031308, 12.92 * found, 1.055 * found ** (1 / 2.4) - 0.055)

    pairs = itertools.combinations(map(seen, QUADRANT_COLOURS.values()), 2)
    assert min(float(np.linalg.norm(one - other)) for one, other in pairs) > 0.15


def test_what_is_missing_is_told_with_the_command(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": np.arange(9.0)}, difficulty=np.arange(9.0))
    with pytest.raises(MissingScoresError, match="no folds") as raised:
        plot.stability(path)
    assert "--folds 2" in raised.value.hint
    with pytest.raises(MissingScoresError, match="of one validation set"):
        diq.select("pool", ratio="0.5", model="model", store=path)
        plot.tasks(path)
    with pytest.raises(MissingScoresError, match="no finished training"):
        plot.losses(path)


def test_a_scale_that_is_not_known_is_refused(path: Path) -> None:
    with pytest.raises(UsageError, match="foo"):
        plot.quadrants(path, scale="foo")  # type: ignore[arg-type]


def test_without_the_extra_the_way_to_get_it_is_said(path: Path) -> None:
    code = f"import sys; sys.modules['altair'] = None; import diq; diq.plot.quadrants({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'diq[report]'" in done.stderr
