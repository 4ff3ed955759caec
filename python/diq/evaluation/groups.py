"""Tables of evaluations: what a cell, a row and a table hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from diq.base.summary import Summary
from diq.evaluation.benchmarks import BENCHMARKS
from diq.trials.kept import Validation

AVERAGES = {"standard": "AvgS", "challenging": "AvgC", "all": "AvgA"}
CLOSE = 2.0
"""Standard errors of a difference within which a row is not told apart from the best."""

MEMBERS: dict[str, list[str]] = {
    name: [one.name for one in BENCHMARKS.values() if name in (one.group, "all")] for name in AVERAGES
}


@dataclass(slots=True)
class Cell:
    """One number of a table.

    Attributes:
        accuracy: mean over the repeats, from 0 to 1.
        standard_error: of that mean, from the questions: repeats ask the same ones, so they do not lower it. For an
            average that of a mean of independent benchmarks. None for a published number.
        spread: standard deviation over the repeats; None for one repeat.
        repeats: how often the questions were asked; for an average the repeats that all its benchmarks have.
        n: questions; of an average all that went into it. None for a published number.
        strict: accuracy by the strict rule: the text of the right option counts only where no option was read. None
            for a published number.
        unanswered: share of the outputs in which no option was found; of an average over all of them. None for a
            published number.
        best: the highest of its column.
        second: the second highest of its column, where it has three or more.
        close: not the best, yet within ``CLOSE`` standard errors of the difference from it.
        expected: a published average that does not follow from its row: the mean that does, from 0 to 1; else None.
    """

    accuracy: float
    standard_error: float | None
    spread: float | None
    repeats: int
    n: int | None
    strict: float | None = None
    unanswered: float | None = None
    best: bool = False
    second: bool = False
    close: bool = False
    expected: float | None = None


@dataclass(slots=True)
class Line:
    """A model of a table.

    Attributes:
        label: what the row is called.
        setting: ``base``, ``full``, a strategy of ``diq select``, ``file`` (trained on a file that no selection wrote)
            or ``other`` (a model that the store knows no training of).
        dataset: what it was fine-tuned on; None where nothing was.
        ratio: of the selection, as a decimal; None without one.
        preference: dataset of a DPO that followed; an empty text for pairs that no dataset of the store holds; else
            None.
        model: name of the model.
        model_id: fingerprint of the model; None for a published row.
        run_ids: runs (kind evaluate) that the numbers come from.
        train_run_id: run that trained the model; None where the store knows none.
        selection_id: selection that it was fine-tuned on.
        selection: name of that selection.
        table: table of the paper; None for a model of the store.
        influence: model whose dots a published selection was made from, where the paper says it.
        cells: by benchmark, and ``standard``, ``challenging`` and ``all`` where nothing is missing.
        n_unanswered: outputs in which no option was found, of all repeats.
        n_cut: outputs that ended at the maximum number of tokens, of all repeats.
    """

    label: str
    setting: str
    dataset: str | None
    ratio: str | None
    preference: str | None
    model: str
    model_id: str | None
    run_ids: list[int] = field(default_factory=list)
    train_run_id: int | None = None
    selection_id: int | None = None
    selection: str | None = None
    table: str | None = None
    influence: str | None = None
    cells: dict[str, Cell] = field(default_factory=dict)
    n_unanswered: int = 0
    n_cut: int = 0


@dataclass(slots=True)
class Group:
    """A table: everything in one column can be compared.

    Attributes:
        base: name of the base model.
        base_model_id: its fingerprint; None for published rows.
        backend: what generated: hf, vllm or server; None for published rows.
        protocol: settings of the evaluation; empty for published rows.
        questions: fingerprint of the questions of each benchmark.
        differs: settings in which it differs from other tables of the base model, with the values here.
        rows: the models.
    """

    base: str
    base_model_id: str | None
    backend: str | None
    protocol: dict[str, Any]
    questions: dict[str, str]
    differs: dict[str, Any] = field(default_factory=dict)
    rows: list[Line] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """Benchmarks and averages that any row has, in the order of the paper's tables."""
        order: list[str] = []
        for name in ("standard", "challenging"):
            order += [*MEMBERS[name], name]
        return [name for name in [*order, "all"] if any(name in row.cells for row in self.rows)]


@dataclass(frozen=True, repr=False, slots=True)
class Results(Summary):
    """Tables of evaluations.

    Attributes:
        scoring: version of the rules that read the answers; None without an evaluation.
        groups: one table each.
        published: the paper's rows, a table a model, never ranked.
        validations: what `diq validate` found, which measures losses and no benchmarks.
    """

    scoring: str | None
    groups: list[Group]
    published: list[Group]
    validations: list[Validation] = field(default_factory=list)
