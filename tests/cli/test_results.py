"""`diq results`: tables, files and refusals of the command itself; what is in them is in tests/test_results.py."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from conftest import invoke, stdout_of
from diq.base.errors import UsageError
from diq.cli.results import results
from evaluation.test_results import BASE, Fill


@pytest.fixture
def store(tmp_path: Path) -> Path:
    fill = Fill(tmp_path / "s.duckdb")
    fill.selection(1, "diq", "0.1")
    fill.trained("tuned", selection=1)
    fill.trained("full")
    fill.evaluated("tuned", {"medqa": (0.51, 0.53), "hle": 0.3})
    fill.evaluated("full", {"medqa": 0.515})
    fill.evaluated(BASE, {"medqa": 0.1})
    fill.evaluated(BASE, {"medqa": 0.2}, protocol={"few_shot": 5})
    return fill.path


def test_tables_name_models_marks_and_what_sets_them_apart(store: Path) -> None:
    text = stdout_of(results, "--store", store)
    assert "apart from them: few_shot 0, temperature 0.0, template auto" in text
    assert "few_shot 5" in text
    for part in ("52.00*", "±1.58 sd 1.41", "51.50+~", "10.00", "diq 10 %", "full", "base", "scored by rules 1"):
        assert part in text
    assert "AvgS" not in text
    assert "~ within 2 standard errors of the difference from the best" in text


def test_the_papers_rows_carry_their_slips(store: Path) -> None:
    text = stdout_of(results, "--store", store, "--published", "9")
    assert "37.96!" in text
    assert "Table 9: AvgC is printed as 37.96, the row's own accuracies give 34.00" in text


@pytest.mark.parametrize(
    ("suffix", "start"), [(".md", "**Base"), (".csv", "source,table,"), (".tex", r"\begin{table}")]
)
def test_a_file_has_the_format_of_its_suffix(store: Path, tmp_path: Path, suffix: str, start: str) -> None:
    file = tmp_path / f"out{suffix}"
    assert stdout_of(results, "--store", store, "-o", file) == ""
    text = file.read_text(encoding="utf-8")
    assert text.startswith(start)
    name = {".md": "markdown", ".csv": "csv", ".tex": "latex"}[suffix]
    assert stdout_of(results, "--store", store, "--format", name) == text


def test_json_is_one_object_with_raw_numbers(store: Path, tmp_path: Path) -> None:
    found = json.loads(stdout_of(results, "--store", store, "--json"))
    assert json.loads(stdout_of(results, "--store", store, "--format", "json")) == found
    invoke(results, "--store", store, "-o", tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == found
    first, second = found["groups"]
    assert [row["label"] for row in first["rows"]] == ["base", "full", "diq 10 %"]
    tuned = first["rows"][2]
    assert tuned["cells"]["medqa"]["accuracy"] == pytest.approx(0.52)
    assert (tuned["cells"]["medqa"]["repeats"], tuned["cells"]["medqa"]["n"]) == (2, 1000)
    assert second["protocol"] == {"few_shot": 5}


def test_filters_reach_the_stage(store: Path) -> None:
    rows = list(
        csv.DictReader(stdout_of(results, "--store", store, "--dataset", "huatuo", "--format", "csv").splitlines())
    )
    assert {row["label"] for row in rows} == {"base", "full", "diq 10 %"}
    assert {row["table"] for row in rows} == {"1"}
    done = invoke(results, "--store", store, "--model", "Base-8")
    assert isinstance(done.exception, UsageError)


def test_wrong_outputs_are_refused(store: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (("-o", tmp_path / "x.pdf"), "neither .md, .csv, .tex nor .json"),
        (("-o", tmp_path / "x.md", "--format", "table"), "a table cannot be written to a file"),
        (("-o", tmp_path / "no" / "x.md"), "there is no folder"),
    ):
        done = invoke(results, "--store", store, *arguments)
        assert isinstance(done.exception, UsageError)
        assert message in done.exception.message
