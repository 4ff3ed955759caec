"""The store as Python meets it: tables that any library reads, samples, short reprs, HTML that runs nothing."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

import diq
from conftest import fill_store, write_jsonl
from diq.base import bar
from diq.base.errors import StoreError, UsageError
from diq.base.summary import html_table


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> diq.Store:
    path = tmp_path_factory.mktemp("notebook") / "s.duckdb"
    rng = np.random.default_rng(0)
    fill_store(path, dots={"medqa": rng.normal(size=40)}, difficulty=rng.integers(1, 6, 40))
    diq.select("pool", ratio="0.25", model="model", name="tenth", store=path)
    return diq.Store(path)


def test_tables_are_what_sql_says(store: diq.Store) -> None:
    of_selection = "SELECT rank, position FROM selection_samples ORDER BY rank"
    for rows, query in (
        (store.scores("pool", "model"), "FROM diq_scores('pool', 'model')"),
        (store.ranking("pool", "model", percentile=0.3), "FROM diq_ranking('pool', 'model', percentile := 0.3)"),
        (
            store.selection("tenth").arrow().select(["rank", "position"]),
            of_selection,
        ),
        (store.sql("SELECT 1 AS one"), "SELECT 1 AS one"),
    ):
        table = rows if isinstance(rows, pa.Table) else rows.arrow()
        assert table.to_pylist() == diq.sql(query, store=store.path).to_pylist()
    assert [one["name"] for one in store.datasets().to_dicts()] == ["pool"]
    assert [one["name"] for one in store.selections().to_dicts()] == ["tenth"]
    with pytest.raises(UsageError, match="no dataset named `pol`"):
        store.scores("pol", "model")
    with pytest.raises(UsageError, match="no selection `none`"):
        store.selection("none")
    for call in (lambda: store.scores("pool", "modl"), lambda: store.ranking("pool", "modl")):
        with pytest.raises(UsageError, match="no model named `modl`") as raised:
            call()
        assert "did you mean `model`" in raised.value.hint
    for percentile in (3.0, -0.3, float("nan")):
        with pytest.raises(UsageError, match=r"outside \[0, 1\]"):
            store.ranking("pool", "model", percentile=percentile)
    with pytest.raises(UsageError):
        store.ranking("pool", "model", difficulty="foo")  # type: ignore[arg-type]
    assert [row["position"] for row in store.selection("tenth")] == store.selection("tenth").arrow()[
        "position"
    ].to_pylist()


def test_any_library_reads_them(store: diq.Store) -> None:
    rows = store.scores("pool", "model")
    assert len(rows) == 40
    assert repr(rows).startswith("Rows(40 rows of sample_id, position, ")
    assert pa.table(rows) == rows.arrow()
    assert duckdb.sql("SELECT count(*) FROM rows").fetchall() == [(40,)]
    pandas = pytest.importorskip("pandas")
    assert isinstance(rows.df(), pandas.DataFrame)
    assert len(rows.df()) == 40


def test_a_sample_comes_with_its_scores(store: diq.Store) -> None:
    found = store.sample(dataset="pool", position=3)
    assert found.messages[0]["content"] == "q 3 of pool"
    scores = {(one["score"], one["of"]): one["value"] for one in found.scores}
    (row,) = diq.sql("SELECT * FROM diq_scores('pool', 'model') WHERE position = 3", store=store.path).to_pylist()
    assert scores["dot", "medqa"] == row["dot"]
    assert scores["difficulty", "overall"] == row["overall"]
    assert store.sample(found.sample_id[:8]).sample_id == found.sample_id
    with pytest.raises(TypeError, match="sample_id, or a dataset and a position"):
        store.sample(dataset="pool")


def test_it_holds_nothing_open_and_sees_what_changes(store: diq.Store) -> None:
    before = len(store.selections())
    diq.select("pool", ratio="0.5", model="model", name="half", store=store.path)
    assert len(store.selections()) == before + 1
    with pytest.raises(StoreError):
        diq.Store(store.path.parent / "none.duckdb")


def test_html_shows_and_runs_nothing(tmp_path: Path) -> None:
    nasty = "<script>x</script>"
    path = tmp_path / "s.duckdb"
    rows = [{"question": f"{nasty} \u202e", "answer": nasty}]
    diq.ingest([write_jsonl(tmp_path / "a.jsonl", rows)], dataset=nasty, store=path)
    store = diq.Store(path)
    for one in (
        store,
        store.datasets(),
        store.sample(dataset=nasty, position=0),
        store.sql(f"SELECT '{nasty}' AS \"{nasty}\""),
    ):
        shown = one._repr_html_()
        assert "<script" not in shown
        assert "<table" in shown
    assert "&lt;script&gt;" in store.datasets()._repr_html_()
    assert "U+202E" in store.sample(dataset=nasty, position=0)._repr_html_()


def test_results_show_their_short_values(store: diq.Store) -> None:
    made = diq.select("pool", ratio="0.25", model="model", name="tenth", store=store.path)
    shown = made._repr_html_()
    assert "<td style='text-align:left'>tenth</td>" in shown
    assert ">10<" in shown
    assert repr(made).startswith("Selection(selection_id=")
    assert html_table("t", {"share": 0.123456789, "is_done": True, "rows": [1, 2], "none": None, "x": {"a": 1}}) == (
        "<table><caption style='text-align:left'>t</caption><tbody>"
        "<tr><th style='text-align:left'>share</th><td style='text-align:left'>0.123457</td></tr>"
        "<tr><th style='text-align:left'>is done</th><td style='text-align:left'>yes</td></tr>"
        "<tr><th style='text-align:left'>rows</th><td style='text-align:left'>2</td></tr>"
        "<tr><th style='text-align:left'>x</th><td style='text-align:left'>a 1</td></tr></tbody></table>"
    )


def test_a_notebook_shows_progress_by_itself(
    store: diq.Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class ZMQInteractiveShell:
        """What a kernel's shell is called."""

    kernel: Any = types.ModuleType("IPython")
    kernel.get_ipython = lambda: None
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    assert not bar.in_notebook(), "a script that has imported IPython is none"
    diq.compare(["tenth", "half"], store=store.path)
    assert "compare" not in capsys.readouterr().err
    kernel.get_ipython = ZMQInteractiveShell
    assert bar.in_notebook()
    diq.compare(["tenth", "half"], store=store.path)
    assert "compare" in capsys.readouterr().err
    told: list[str] = []
    diq.compare(["tenth", "half"], store=store.path, progress=lambda what, *_: told.append(what))
    assert told, "who gives a progress gets it"
    assert "compare" not in capsys.readouterr().err
