"""The paper's result tables as data, and which of their cells do not follow from the others.

``published.csv`` holds every row of Tables 1, 4, 5 and 8 to 13 of arXiv 2508.01450 as it is printed, slips included;
what is wrong with a row is computed here, never written into the data.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from diq.evaluation.benchmarks import BENCHMARKS, Averages, averages

# half of the last printed digit, and what binary fractions add; the nearest miss in the tables is twenty times as large
TOLERANCE = 0.005 + 1e-9
AVERAGES = ("standard", "challenging", "all")
_COLUMNS = dict(zip(AVERAGES, ("avg_s", "avg_c", "avg_a"), strict=True))


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        table: number of the table.
        number: 1-based row of the table.
        model: base model, or the model itself where nothing was trained.
        dataset: what was trained on; None where nothing was.
        setting: ``base``, ``full``, or the strategy of the selection, by the names of ``diq select``.
        ratio: ratio of the selection as a decimal; None without a selection.
        influence: model whose dots the selection was made from, where the table says it; else None.
        preference: whether DPO followed.
        accuracies: percent by benchmark; empty in Table 4, which prints averages alone.
        printed: the averages as they are printed, percent.
        reasoning_quality: 1 to 5, in Table 5 alone.
    """

    table: str
    number: int
    model: str
    dataset: str | None
    setting: str
    ratio: str | None
    influence: str | None
    preference: bool
    accuracies: dict[str, float]
    printed: Averages
    reasoning_quality: float | None

    @property
    def key(self) -> tuple[str, str | None, str, str | None, bool]:
        """What was measured; rows of several tables with the same key should agree."""
        return self.model, self.dataset, self.setting, self.ratio, self.preference

    def recomputed(self) -> Averages:
        """The averages of the row's own accuracies; None where there are none."""
        return averages(self.accuracies)

    def inconsistent(self) -> tuple[str, ...]:
        """Which of ``standard``, ``challenging`` and ``all`` are not the mean of the row's own accuracies.

        Accuracies and averages are printed with two decimals. All other averages of the tables are the rounded means
        of the printed accuracies, so what is off by more than half of the last digit is a slip.
        """
        recomputed = self.recomputed()
        found = []
        for name in AVERAGES:
            printed, mean = getattr(self.printed, name), getattr(recomputed, name)
            if mean is not None and abs(printed - mean) > TOLERANCE:
                found.append(name)
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Two rows that should be equal and are not.

    Attributes:
        first: row of the one table.
        second: row of the other.
        columns: benchmarks and averages (``standard``, ``challenging``, ``all``) that differ.
    """

    first: Row
    second: Row
    columns: tuple[str, ...]


@cache
def rows() -> tuple[Row, ...]:
    """Every row, in the order of the paper."""
    with (Path(__file__).parent / "published.csv").open(encoding="utf-8", newline="") as file:
        return tuple(_row(one) for one in csv.DictReader(file))


def find(text: str) -> list[Row]:
    """The rows of a table (``9``), a dataset (``Huatuo``) or a model (``Qwen3-8B``), in any case.

    With those of a dataset come the untrained models that were trained on it. A row that another table repeats exactly
    comes once, from the first table.
    """
    wanted = text.strip().casefold()
    trained = {row.model for row in rows() if (row.dataset or "").casefold() == wanted}
    found: list[Row] = []
    seen: set[tuple[object, ...]] = set()
    for row in rows():
        named = wanted in (row.table, (row.dataset or "").casefold(), row.model.casefold())
        if named or (row.setting == "base" and row.model in trained):
            identity = (row.key, row.influence, tuple(row.accuracies.items()), row.printed)
            if identity not in seen:
                seen.add(identity)
                found.append(row)
    return found


def names() -> list[str]:
    """What ``find`` takes: tables, datasets and models."""
    tables = {row.table: None for row in rows()}
    datasets = {row.dataset: None for row in rows() if row.dataset}
    return [*tables, *datasets, *{row.model: None for row in rows()}]


def disagreements() -> list[Disagreement]:
    """Pairs of rows of two tables that report the same model, data and setting with different numbers.

    Rows that tell whose dots they were made from are compared with others that tell the same alone.
    """
    found = []
    by_key: dict[object, list[Row]] = {}
    for row in rows():
        by_key.setdefault((row.key, row.influence), []).append(row)
    for group in by_key.values():
        for first, second in itertools.combinations(group, 2):
            columns = tuple(_differing(first, second))
            if columns:
                found.append(Disagreement(first, second, columns))
    return found


def _differing(first: Row, second: Row) -> Iterable[str]:
    for name in BENCHMARKS:
        if name in first.accuracies and name in second.accuracies and first.accuracies[name] != second.accuracies[name]:
            yield name
    for name in AVERAGES:
        if getattr(first.printed, name) != getattr(second.printed, name):
            yield name


def _row(cells: dict[str, str]) -> Row:
    return Row(
        table=cells["table"],
        number=int(cells["row"]),
        model=cells["model"],
        dataset=cells["dataset"] or None,
        setting=cells["setting"],
        ratio=cells["ratio"] or None,
        influence=cells["influence"] or None,
        preference=cells["dpo"] == "dpo",
        accuracies={name: float(cells[name]) for name in BENCHMARKS if cells[name]},
        printed=Averages(**{name: float(cells[column]) for name, column in _COLUMNS.items()}),
        reasoning_quality=float(cells["reasoning_quality"]) if cells["reasoning_quality"] else None,
    )
