"""`diq results`: what can be compared is in one table, nothing else is; marks and averages are the slow ones."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import random
import re
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from conftest import new_store
from diq.base.errors import StoreError, UsageError
from diq.evaluation.benchmarks import BENCHMARKS
from diq.evaluation.groups import CLOSE, Group, Line
from diq.evaluation.results import results
from diq.evaluation.tables import csv_text, footnotes, latex, markdown
from diq.store.store import Store

BASE = "base-id"
PROTOCOL = {"template": "auto", "few_shot": 0, "temperature": 0.0}
STANDARD = ("medqa", "medmcqa", "mmlu_pro")


class Fill:
    """Writes trainings and evaluations into a real store, as `diq train` and `diq evaluate` record them."""

    def __init__(self, path: Path) -> None:
        new_store(path)
        self.store: Store | None = None
        self._path = path
        self.clock = 0
        self.n_runs = 0
        for number, name in enumerate(("huatuo", "finemed", "pairs"), start=1):
            self.execute("INSERT INTO datasets VALUES (?, ?, 'training', TIMESTAMP '2026-01-01')", [number, name])
        self.model(BASE, "Base-8B")

    def tell_base(self, run_id: int, base_model_id: str) -> None:
        """What `diq evaluate` notes beside a run."""
        self.opened.run("store/update_run_result", run_id=run_id, result=json.dumps({"base_model_id": base_model_id}))

    @property
    def opened(self) -> Store:
        """The store for writing; it stays open until its path is asked for."""
        if self.store is None:
            self.store = Store(self._path)
        return self.store

    @property
    def path(self) -> Path:
        """The file, written and closed."""
        if self.store is not None:
            self.store.close()
            self.store = None
        return self._path

    def execute(self, text: str, values: list[Any]) -> None:
        self.opened.connection.execute(text, values).fetchall()

    def model(self, model_id: str, name: str) -> None:
        self.opened.add_model(model_id=model_id, name=name, source="test", architecture=None, n_parameters=None)

    def _run(self, kind: str, method: str, model_id: str, config: dict[str, Any]) -> int:
        self.n_runs += 1
        return self.opened.open_run(
            kind=kind,
            method=method,
            model_id=model_id,
            fingerprint=f"run {self.n_runs}",
            settings=config,
            environment={},
        )

    def selection(self, number: int, strategy: str, ratio: str, dataset: int = 1, name: str = "s") -> None:
        self.execute(
            "INSERT INTO rankings (ranking_id, dataset_id, strategy, fingerprint, config, n_scored, n_unscored, "
            "created_at) VALUES (?, ?, ?, ?, '{}', 10, 0, TIMESTAMP '2026-01-01')",
            [number, dataset, strategy, f"ranking {number}"],
        )
        self.execute(
            "INSERT INTO selections (selection_id, name, ranking_id, strategy, ratio, n_target, first, n, "
            "created_at) VALUES (?, ?, ?, ?, ?, 1, 0, 1, TIMESTAMP '2026-01-01')",
            [number, name, number, strategy, ratio],
        )

    def trained(
        self,
        model_id: str,
        *,
        name: str | None = None,
        method: str = "sft",
        dataset: int | None = 1,
        selection: int | None = None,
        start: str | None = None,
    ) -> int:
        self.model(model_id, name or f"Base-8B+{model_id}")
        number = self._run("train", method, BASE, {})
        self.clock += 1
        self.execute(
            "INSERT INTO trained_models (model_id, run_id, base_model_id, start_model_id, folder, dataset_id, "
            "selection_id, created_at) VALUES (?, ?, ?, ?, 'out', ?, ?, TIMESTAMP '2026-01-01' + to_seconds(?))",
            [model_id, number, BASE, start, dataset, selection, self.clock],
        )
        return number

    def evaluated(
        self,
        model_id: str,
        accuracies: dict[str, float | Iterable[float]],
        *,
        protocol: dict[str, Any] | None = None,
        backend: str = "hf",
        questions: str = "q",
        scoring: str = "1",
        n: int = 1000,
        run_id: int | None = None,
    ) -> int:
        number = run_id or self._run("evaluate", backend, model_id, PROTOCOL if protocol is None else protocol)
        self.clock += 1
        for benchmark, values in accuracies.items():
            for repeat, value in enumerate([values] if isinstance(values, float) else values):
                right = round(value * n)
                error = math.sqrt(right / n * (1 - right / n) / (n - 1))
                self.execute(
                        "INSERT INTO evaluations (run_id, benchmark, questions, repeat, scoring, n, n_right, "
                        "n_by_option, n_by_text, n_unanswered, n_cut, n_right_strict, accuracy, standard_error, "
                        "created_at) VALUES "
                        "(?, ?, ?, ?, ?, ?, ?, ?, 0, 3, 2, ?, ?, ?, TIMESTAMP '2026-01-01' + to_seconds(?))",
                        [
                            number, benchmark, f"{questions}-{benchmark}", repeat, scoring, n, right, right, right // 2,
                            right / n, error, self.clock,
                        ],
                    )  # fmt: skip
        return number


@pytest.fixture
def fill(tmp_path: Path) -> Fill:
    return Fill(tmp_path / "s.duckdb")


def labels(group: Group) -> list[str]:
    return [row.label for row in group.rows]


def by_label(group: Group) -> dict[str, Line]:
    return {row.label: row for row in group.rows}


def test_rows_are_named_by_what_the_model_was_trained_on(fill: Fill) -> None:
    for number, (strategy, ratio) in enumerate(
        [("diq", "0.1"), ("random", "0.1"), ("diq", "0.01"), ("less", "0.01")], 1
    ):
        fill.selection(number, strategy, ratio)
        fill.trained(f"m{number}", selection=number)
    fill.trained("full")
    fill.trained("file", name="from-a-file", dataset=None)
    fill.trained("dpo", method="dpo", dataset=3, start="m1")
    fill.trained("dpo-of-base", method="dpo", dataset=3)
    fill.trained("dpo-of-stranger", method="dpo", dataset=None, start="elsewhere")
    fill.model("elsewhere", "Adapter-X")
    everything = ["m1", "m2", "m3", "m4", "full", "file", "dpo", "dpo-of-base", "dpo-of-stranger", BASE]
    for model_id in everything:
        fill.evaluated(model_id, {"medqa": 0.5})
    (group,) = results(store=fill.path).groups
    assert group.base == "Base-8B"
    assert labels(group) == [
        "base",
        "from-a-file",
        "base + DPO pairs",
        "Adapter-X + DPO",
        "full",
        "less 1 %",
        "diq 1 %",
        "random 10 %",
        "diq 10 %",
        "diq 10 % + DPO pairs",
    ]
    dpo = by_label(group)["diq 10 % + DPO pairs"]
    assert (dpo.dataset, dpo.ratio, dpo.setting, dpo.preference, dpo.selection_id) == (
        "huatuo",
        "0.1",
        "diq",
        "pairs",
        1,
    )


def test_a_model_that_nothing_is_known_of_goes_by_its_name(fill: Fill) -> None:
    fill.model("stranger", "GPT-X")
    fill.evaluated("stranger", {"medqa": 0.5})
    fill.trained("full")
    fill.evaluated("full", {"medqa": 0.5})
    found = results(store=fill.path).groups
    assert [(group.base, labels(group)) for group in found] == [("Base-8B", ["full"]), ("GPT-X", ["GPT-X"])]


def test_rows_of_one_name_are_told_apart(fill: Fill) -> None:
    fill.selection(1, "diq", "0.1", name="by-llama")
    fill.selection(2, "diq", "0.1", name="by-qwen")
    for model_id, selection in (("a", 1), ("b", 2)):
        fill.trained(model_id, selection=selection)
        fill.evaluated(model_id, {"medqa": 0.5})
    for seed in ("x", "y"):
        fill.trained(f"full-{seed}", name=f"seed-{seed}")
        fill.evaluated(f"full-{seed}", {"medqa": 0.5})
    for twin in ("t1", "t2"):
        fill.trained(f"{twin}-of-one-name", name="twin", dataset=2)
        fill.evaluated(f"{twin}-of-one-name", {"medqa": 0.5})
    (group,) = results(store=fill.path).groups
    assert sorted(labels(group)) == [
        "diq 10 % (by-llama)", "diq 10 % (by-qwen)", "full (seed-x)", "full (seed-y)", "full (t1-of-one-na)",
        "full (t2-of-one-na)",
    ]  # fmt: skip


def test_other_protocols_are_other_tables_and_the_difference_is_named(fill: Fill) -> None:
    fill.trained("full")
    for temperature in (0.0, 0.7):
        for model_id in (BASE, "full"):
            fill.evaluated(
                model_id, {"medqa": 0.5 + temperature / 10}, protocol={**PROTOCOL, "temperature": temperature}
            )
    fill.evaluated(BASE, {"medqa": 0.9}, backend="vllm")
    found = results(store=fill.path).groups
    assert [(group.backend, group.protocol["temperature"], labels(group)) for group in found] == [
        ("hf", 0.0, ["base", "full"]),
        ("hf", 0.7, ["base", "full"]),
        ("vllm", 0.0, ["base"]),
    ]
    assert found[0].differs == {"backend": "hf", "temperature": 0.0}
    assert found[2].differs == {"backend": "vllm", "temperature": 0.0}
    # 0.9 is the best of nothing: it stands alone
    assert not found[2].rows[0].cells["medqa"].best


def test_other_questions_are_another_table(fill: Fill) -> None:
    fill.trained("full")
    fill.evaluated(BASE, {"medqa": 0.5, "hle": 0.1})
    fill.evaluated("full", {"medqa": 0.9}, questions="other")
    fill.evaluated("full", {"hle": 0.2}, protocol=PROTOCOL)
    first, second = results(store=fill.path).groups
    assert labels(first) == ["base", "full"]
    assert first.questions == {"medqa": "q-medqa", "hle": "q-hle"}
    assert set(by_label(first)["full"].cells) == {"hle"}
    assert (labels(second), second.questions) == (["full"], {"medqa": "other-medqa"})
    assert first.differs == {"questions of medqa": "q-medqa"}
    assert second.differs == {"questions of medqa": "other-medqa"}


def test_one_run_on_two_versions_of_a_benchmark(fill: Fill) -> None:
    """The file of a benchmark changed between two calls with the same protocol."""
    number = fill.evaluated(BASE, {"medqa": 0.5, "hle": 0.1})
    fill.evaluated(BASE, {"medqa": 0.9}, questions="new", run_id=number)
    first, second = results(store=fill.path).groups
    assert {name: cell.accuracy for name, cell in first.rows[0].cells.items()} == {"medqa": 0.5, "hle": 0.1}
    assert {name: cell.accuracy for name, cell in second.rows[0].cells.items()} == {"medqa": 0.9}


@pytest.mark.parametrize("seed", range(4))
def test_a_column_never_mixes_questions_and_no_number_is_lost(fill: Fill, seed: int) -> None:
    rng = random.Random(seed)
    written = {}
    for i in range(6):
        fill.trained(f"m{i}")
        for part in range(rng.randint(1, 2)):
            protocol = {**PROTOCOL, "few_shot": rng.randint(0, 1)}
            marks = {name: rng.choice("ab") for name in rng.sample(list(BENCHMARKS), rng.randint(1, 4))}
            number = None
            for name, mark in marks.items():
                value = round(rng.random(), 3)
                number = fill.evaluated(f"m{i}", {name: value}, protocol=protocol, questions=mark, run_id=number)
                written[f"m{i}", number, name, f"{mark}-{name}"] = (value, protocol["few_shot"])
            assert part < 2
    read = {}
    for group in results(store=fill.path).groups:
        for row in group.rows:
            for name in BENCHMARKS:
                if name in row.cells:
                    key = (row.model_id, row.run_ids[0], name, group.questions[name])
                    assert key not in read
                    read[key] = (row.cells[name].accuracy, group.protocol["few_shot"])
    assert read == written


def test_averages_and_errors_by_hand(fill: Fill) -> None:
    nine = {name: (0.2 + 0.05 * i, 0.24 + 0.04 * i, 0.3) for i, name in enumerate(BENCHMARKS)}
    fill.evaluated(BASE, nine)
    fill.trained("full")
    fill.evaluated("full", dict.fromkeys(STANDARD, 0.4))
    (group,) = results(store=fill.path).groups
    cells = by_label(group)["base"].cells
    assert list(group.columns) == [*STANDARD, "standard", *list(BENCHMARKS)[3:], "challenging", "all"]
    assert cells["medqa"].accuracy == pytest.approx(statistics.fmean(nine["medqa"]))
    assert cells["medqa"].strict == pytest.approx(
        statistics.fmean(round(1000 * one) // 2 / 1000 for one in nine["medqa"])
    )
    assert cells["all"].strict == pytest.approx(statistics.fmean(cells[name].strict or 0 for name in BENCHMARKS))
    assert cells["medqa"].spread == pytest.approx(statistics.stdev(nine["medqa"]))
    errors = {name: statistics.fmean(math.sqrt(p * (1 - p) / 999) for p in values) for name, values in nine.items()}
    assert cells["hle"].standard_error == pytest.approx(errors["hle"])
    every = cells["all"]
    assert every.accuracy == pytest.approx(statistics.fmean(statistics.fmean(values) for values in nine.values()))
    assert every.standard_error == pytest.approx(math.sqrt(sum(one**2 for one in errors.values())) / 9)
    assert every.spread == pytest.approx(
        statistics.stdev(statistics.fmean(one[i] for one in nine.values()) for i in range(3))
    )
    assert (every.n, every.repeats) == (9000, 3)
    assert cells["standard"].accuracy == pytest.approx(statistics.fmean(cells[name].accuracy for name in STANDARD))
    # six benchmarks are missing, so there is no AvgC and no AvgA
    assert set(by_label(group)["full"].cells) == {*STANDARD, "standard"}
    assert by_label(group)["full"].cells["medqa"].spread is None
    assert (by_label(group)["base"].n_unanswered, by_label(group)["base"].n_cut) == (81, 54)


@pytest.mark.parametrize("seed", range(4))
def test_marks_by_brute_force(fill: Fill, seed: int) -> None:
    rng = random.Random(seed)
    # few values, so that ties are common
    values = {f"m{i}": rng.choice([0.40, 0.42, 0.50, 0.51]) for i in range(5)}
    for model_id, value in values.items():
        fill.trained(model_id)
        fill.evaluated(model_id, {"medqa": value})
    (group,) = results(store=fill.path).groups
    top = max(values.values())
    below = [value for value in values.values() if value < top]
    for row in group.rows:
        cell, value = row.cells["medqa"], values[row.model_id or ""]
        assert cell.best == (value == top)
        assert cell.second == (bool(below) and value == max(below))
        noise = math.sqrt(value * (1 - value) / 999 + top * (1 - top) / 999)
        assert cell.close == (value < top and top - value <= CLOSE * noise)


def test_two_rows_have_a_best_and_no_second(fill: Fill) -> None:
    fill.trained("full")
    fill.evaluated(BASE, {"medqa": 0.3})
    fill.evaluated("full", {"medqa": 0.6, "hle": 0.1})
    (group,) = results(store=fill.path).groups
    base, full = group.rows
    assert (base.cells["medqa"].best, base.cells["medqa"].second, base.cells["medqa"].close) == (False, False, False)
    assert full.cells["medqa"].best
    # nobody else was asked
    assert not full.cells["hle"].best


def test_the_protocol_is_told_on_one_line(fill: Fill) -> None:
    protocol = {
        "prompt": "a long text\nof two lines", "prompt_version": "v1", "seed": None, "stop": [], "temperature": 0.0,
        "tokenization": {"template": "none", "max_length": 512},
    }  # fmt: skip
    fill.evaluated(BASE, {"medqa": 0.5}, protocol=protocol)
    fill.evaluated(BASE, {"medqa": 0.6}, protocol={**protocol, "prompt": "another", "seed": 3})
    first, second = results(store=fill.path).groups
    assert footnotes(first)[0] == (
        "protocol: prompt_version v1, temperature 0.0, tokenization.max_length 512, tokenization.template none"
    )
    # what differs is told in any case
    assert footnotes(first)[1].endswith("apart from them: prompt a long text of two lines, seed None")
    assert footnotes(second)[1].endswith("apart from them: prompt another, seed 3")


def test_a_tie_is_one_whatever_the_order_of_the_repeats(fill: Fill) -> None:
    values = (0.1, 0.2, 0.3, 0.7)
    for model_id, order in (("a", values), ("b", (0.7, 0.3, 0.2, 0.1)), ("c", (0.2, 0.7, 0.1, 0.3))):
        fill.trained(model_id)
        fill.evaluated(model_id, {"medqa": order, "hle": order}, n=10)
    fill.trained("d")
    fill.evaluated("d", {"medqa": (0.1, 0.1, 0.1, 0.1)}, n=10)
    (group,) = results(store=fill.path).groups
    assert [row.cells["medqa"].best for row in group.rows] == [True, True, True, False]
    assert [row.cells["medqa"].second for row in group.rows] == [False, False, False, True]
    # where all are equal none is best
    assert not any(row.cells["hle"].best for row in group.rows if "hle" in row.cells)


def test_the_latest_rules_count_and_older_numbers_are_named(fill: Fill, caplog: pytest.LogCaptureFixture) -> None:
    number = fill.evaluated(BASE, {"medqa": 0.3, "hle": 0.1}, scoring="1")
    fill.evaluated(BASE, {"medqa": 0.35}, scoring="2", run_id=number)
    with caplog.at_level(logging.WARNING, logger="diq"):
        latest = results(store=fill.path)
    assert (latest.scoring, {name: one.accuracy for name, one in latest.groups[0].rows[0].cells.items()}) == (
        "2",
        {"medqa": 0.35},
    )
    assert "left out 1 number scored by other rules than `2`" in caplog.text
    older = results(store=fill.path, scoring="1")
    assert {name: one.accuracy for name, one in older.groups[0].rows[0].cells.items()} == {"medqa": 0.3, "hle": 0.1}
    with pytest.raises(UsageError, match="no answers were scored by rules `3`"):
        results(store=fill.path, scoring="3")


def test_filters(fill: Fill) -> None:
    fill.model("stranger", "GPT-X")
    fill.selection(1, "diq", "0.1", dataset=2)
    fill.trained("full")
    fill.trained("fine", dataset=2, selection=1)
    fill.trained("dpo", method="dpo", dataset=3, start="fine")
    for model_id in (BASE, "full", "fine", "dpo", "stranger"):
        fill.evaluated(model_id, {"medqa": 0.5})
    assert [labels(one) for one in results(store=fill.path, dataset="huatuo").groups] == [["base", "full"]]
    assert [labels(one) for one in results(store=fill.path, dataset="pairs").groups] == [
        ["base", "diq 10 % + DPO pairs"]
    ]
    assert [labels(one) for one in results(store=fill.path, model="GPT-X").groups] == [["GPT-X"]]
    assert [labels(one) for one in results(store=fill.path, model="Base-8B+full").groups] == [["full"]]
    assert len(results(store=fill.path, model="Base-8B").groups[0].rows) == 4
    with pytest.raises(UsageError, match="no model `Base-8`") as error:
        results(store=fill.path, model="Base-8")
    assert "Base-8B" in error.value.hint
    with pytest.raises(UsageError, match="no evaluated model was trained on a dataset `huatou`") as error:
        results(store=fill.path, dataset="huatou")
    assert error.value.hint == "did you mean `huatuo`?"


def test_the_paper_stands_beside_and_is_never_ranked(fill: Fill) -> None:
    fill.evaluated(BASE, {"medqa": 0.5})
    found = results(store=fill.path, published="Huatuo")
    assert [group.base for group in found.groups] == ["Base-8B"]
    assert {group.base for group in found.published} == {"Llama-3.1-8B-Instruct", "Qwen3-8B", "Qwen3-14B", "Qwen3-32B"}
    cells = [cell for group in found.published for row in group.rows for cell in row.cells.values()]
    assert not any(cell.best or cell.second or cell.close for cell in cells)
    llama = next(group for group in found.published if group.base.startswith("Llama"))
    wrong = [
        (row.label, row.table, name)
        for row in llama.rows
        for name, cell in row.cells.items()
        if cell.expected is not None
    ]
    assert wrong == [("random 10 %", "1", "standard")]
    assert labels(llama)[0] == "base"
    assert [group.base for group in results(store=fill.path, published="8").published] == ["models as they are"]


def test_a_file_is_written_from_python_too(fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill.evaluated("GPT-X", {"medqa": 0.5})
    monkeypatch.setenv("DIQ_STORE", str(fill.path))
    found = results(output=str(tmp_path / "r.md"))
    assert (tmp_path / "r.md").read_text(encoding="utf-8") == markdown(found)
    results(output=tmp_path / "r.txt", format="csv")
    assert (tmp_path / "r.txt").read_text(encoding="utf-8") == csv_text(found)
    # nothing is left of what could not be put in its place
    (tmp_path / "folder.md").mkdir()
    with pytest.raises(UsageError, match=r"folder.md` is a folder"):
        results(output=tmp_path / "folder.md")
    assert sorted(one.name for one in tmp_path.glob("*.*")) == ["folder.md", "r.md", "r.txt", fill.path.name]
    assert repr(found) == "Results(scoring='1', 1 groups, 0 published, 0 validations)"
    with pytest.raises(TypeError, match=r"results\(\) has no option `publish`; did you mean `published`"):
        results(publish="13")  # type: ignore[call-arg]


def test_the_paper_needs_no_store_and_nothing_else_does_without(fill: Fill, tmp_path: Path) -> None:
    found = results(store=tmp_path / "missing.duckdb", published="13")
    assert (found.groups, len(found.published[0].rows)) == ([], 8)
    assert found.published[0].rows[-1].label == "diq 50 % + DPO FineMed"
    with pytest.raises(StoreError, match="there is no store"):
        results(store=tmp_path / "missing.duckdb")
    with pytest.raises(UsageError, match="no model was evaluated"):
        results(store=fill.path)
    with pytest.raises(UsageError, match="the paper has no results table, dataset or model `huatou`") as error:
        results(store=fill.path, published="huatou")
    assert "did you mean" in error.value.hint or "known" in error.value.hint


@pytest.fixture
def awkward(fill: Fill) -> Fill:
    """Names that mean something to Markdown and LaTeX."""
    fill.execute("UPDATE datasets SET name = ? WHERE dataset_id = 1", [r"a|b_c & 50% #1 {x} $y^2~ \z *w*"])
    for number, strategy in enumerate(("diq", "random"), start=1):
        fill.selection(number, strategy, "0.1")
        fill.trained(f"m{number}", selection=number)
        fill.evaluated(f"m{number}", {"medqa": (0.50 + number / 100, 0.52 + number / 100), "hle": 0.3})
    fill.evaluated(BASE, {"medqa": 0.1, "mmlu_pro": 0.123456})
    return fill


def test_csv_is_read_back_to_the_same_numbers(awkward: Fill) -> None:
    found = results(store=awkward.path, published="9")
    rows = list(csv.DictReader(io.StringIO(csv_text(found))))
    expected = [
        (number, row, name, cell)
        for number, group in enumerate([*found.groups, *found.published], start=1)
        for row in group.rows
        for name, cell in row.cells.items()
    ]
    assert len(rows) == len(expected)
    read = {(one["table"], one["label"], one["dataset"], one["column"]): one for one in rows}
    assert len(read) == len(rows)
    for number, row, name, cell in expected:
        one = read[str(number), row.label, row.dataset or "", name]
        assert float(one["accuracy"]) == cell.accuracy
        assert (one["standard_error"] == "") == (cell.standard_error is None)
        if cell.standard_error is not None:
            assert float(one["standard_error"]) == cell.standard_error
            assert json.loads(one["protocol"]) == PROTOCOL
            assert one["run_ids"] == " ".join(str(i) for i in row.run_ids)
    assert {one["source"] for one in rows} == {"store", "arXiv 2508.01450, Table 9"}
    flagged = [one for one in rows if one["expected"]]
    assert [(one["label"], one["column"]) for one in flagged] == [
        ("diq 1 %", "challenging"), ("diq 1 %", "all"), ("random 10 %", "standard"), ("diq 10 %", "standard"),
    ]  # fmt: skip


def test_markdown_has_as_many_cells_in_every_line(awkward: Fill) -> None:
    text = markdown(results(store=awkward.path))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    counts = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert counts == {2 + 3 + 1}
    assert r"a\|b\_c & 50%" in text
    assert r"\*w\*" in text
    assert "**53.00** ±1.58 sd 1.41" in text
    assert "<u>52.00</u> \\~ ±1.58 sd 1.41" in text


def test_latex_escapes_everything_and_closes_what_it_opens(awkward: Fill) -> None:
    text = latex(results(store=awkward.path, published="9"))
    assert r"a|b\_c \& 50\% \#1 \{x\} \$y\textasciicircum{}2\textasciitilde{} \textbackslash{}z *w*" in text
    assert r"\textbf{53.00}" in text
    assert r"\underline{52.00}" in text
    assert re.findall(r"\\begin\{(\w+)\}", text) == [name for _ in range(2) for name in ("table", "tabular")]
    assert re.findall(r"\\end\{(\w+)\}", text) == [name for _ in range(2) for name in ("tabular", "table")]
    # braces that are not escaped come in pairs, and no line of a table has another number of cells
    bare = re.sub(r"\\[{}&%$#_\\]", "", text.replace(r"\\", ""))
    assert bare.count("{") == bare.count("}")
    assert "_" not in bare
    assert "#" not in bare
    for block in text.split(r"\begin{tabular}")[1:]:
        body = block.split(r"\end{tabular}")[0]
        width = len(re.match(r"\{(\w+)\}", body)[1])  # type: ignore[index]
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {width - 1}


def test_an_adapter_that_nobody_here_trained_stands_beside_its_base(fill: Fill) -> None:
    fill.model("foreign", "Base-8B+theirs")
    for model_id, value in ((BASE, 0.5), ("foreign", 0.6)):
        fill.tell_base(fill.evaluated(model_id, {"medqa": value}), BASE)
    (group,) = results(store=fill.path).groups
    assert group.base == "Base-8B"
    assert [(row.label, row.setting) for row in group.rows] == [("base", "base"), ("Base-8B+theirs", "other")]
    assert group.rows[1].cells["medqa"].best
