"""Stage: evaluations of the store side by side, beside the paper's where asked. Reads only.

A table holds the models of one base model that answered the same questions under the same protocol; what differs in any
of that is another table, so no ranking mixes numbers that cannot be compared.
"""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diq.base.errors import UsageError
from diq.base.files import check_file, write_text
from diq.base.fingerprint import canonical_json
from diq.base.options import verb
from diq.base.text import amount, did_you_mean
from diq.evaluation import published
from diq.evaluation.benchmarks import averages
from diq.evaluation.groups import AVERAGES, CLOSE, MEMBERS, Cell, Group, Line, Results
from diq.evaluation.options import ResultsOptions
from diq.evaluation.tables import EXPORTS
from diq.selection.options import STRATEGIES
from diq.store.outputs import check_output
from diq.store.store import Store
from diq.trials.kept import read_validations

log = logging.getLogger(__name__)

_TIE_DIGITS = 9
# the paper's order: the reference first, what is argued for last
_SETTINGS = ("base", "full", "random", *(one for one in STRATEGIES if one not in ("random", "diq")), "diq")


@verb(ResultsOptions)
def results(options: ResultsOptions) -> Results:
    """Put evaluations side by side, and write them where an output is named.

    Where the paper's rows are asked for, the store may be missing.

    Raises:
        UsageError: unknown names, nothing was evaluated, or the output cannot be written.
        StoreError: the store cannot be opened.
    """
    output = None if options.output is None else Path(options.output)
    if output is not None:
        check_file(output, store=options.store_file)
    found = _results(options)
    if output is not None:
        _write(found, options, output)
    return found


def _results(options: ResultsOptions) -> Results:
    store = options.store_file
    shown = _published(options.published) if options.published is not None else []
    if options.published is not None and not store.exists():
        log.warning("there is no store at `%s`: only the paper's rows are shown", store)
        return Results(None, [], shown)
    with Store(store, read_only=True) as opened:
        if options.output is not None:
            check_output(opened, Path(options.output))
        numbers = opened.rows("evaluation/list_evaluations")
        trained = {row["model_id"]: row for row in opened.rows("evaluation/list_trained_models")}
        validations = read_validations(opened, dataset=options.dataset)
    if options.model is not None:
        validations = [one for one in validations if one.model == options.model]
    if not numbers and options.published is None and not validations:
        raise UsageError(f"no model was evaluated in `{store}`", "run `diq evaluate --model MODEL` first")
    numbers, version = _scored_by(numbers, options.scoring)
    groups = _groups(_models(numbers, trained))
    groups = _chosen(groups, options.dataset, options.model)
    for group in groups:
        _tell_apart(group)
        group.rows.sort(key=_order)
        _rank(group)
    _name_differences(groups)
    return Results(version, groups, shown, validations)


def _write(found: Results, options: ResultsOptions, output: Path) -> None:
    # the record settled it
    assert options.format is not None
    if options.format == "json":
        text = json.dumps({"store": str(options.store_file), **found.to_dict()}, indent=2) + "\n"
    else:
        text = EXPORTS[options.format](found)
    write_text(output, text)


# what the store holds ----------------------------------------------------------------------------------------------


def _scored_by(numbers: Sequence[dict[str, Any]], scoring: str | None) -> tuple[list[dict[str, Any]], str | None]:
    if not numbers:
        return [], None
    known = {row["scoring"]: None for row in numbers}
    if scoring is not None and scoring not in known:
        raise UsageError(f"no answers were scored by rules `{scoring}`", did_you_mean(scoring, list(known)))
    version = scoring or max(numbers, key=lambda row: (row["created_at"], row["scoring"]))["scoring"]
    chosen = [row for row in numbers if row["scoring"] == version]
    have = {_identity(row) for row in chosen}
    n_old = len({_identity(row) for row in numbers} - have)
    if n_old:
        log.warning(
            "left out %s scored by other rules than `%s`: score again, or use --scoring",
            amount(n_old, "number"),
            version,
        )
    return chosen, version


def _identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["run_id"], row["benchmark"], row["questions"], row["repeat"]


@dataclass(slots=True)
class _Evaluated:
    """One run's numbers on one set of questions a benchmark: benchmark to its rows by repeat."""

    line: Line
    base: str
    base_model_id: str
    backend: str
    protocol: dict[str, Any]
    questions: dict[str, str]
    numbers: dict[str, dict[int, dict[str, Any]]]


def _models(numbers: Iterable[dict[str, Any]], trained: Mapping[str, dict[str, Any]]) -> list[_Evaluated]:
    """A run that was asked several versions of a benchmark's questions comes once a version."""
    numbers = list(numbers)
    bases = {row["base_model_id"] for row in [*trained.values(), *numbers]}
    found: dict[int, list[_Evaluated]] = {}
    for row in numbers:
        parts = found.setdefault(row["run_id"], [])
        part = next(
            (one for one in parts if one.questions.get(row["benchmark"], row["questions"]) == row["questions"]), None
        )
        if part is None:
            training = trained.get(row["model_id"])
            line = _line(row, training, trained, is_base=row["model_id"] in bases)
            part = _Evaluated(
                line,
                base=(training or row)["base"] or line.model,
                base_model_id=(training or row)["base_model_id"] or row["model_id"],
                backend=row["backend"],
                protocol=json.loads(row["protocol"]),
                questions={},
                numbers={},
            )
            parts.append(part)
        part.questions[row["benchmark"]] = row["questions"]
        part.numbers.setdefault(row["benchmark"], {})[row["repeat"]] = row
    return [one for parts in found.values() for one in parts]


def _line(
    row: Mapping[str, Any],
    training: Mapping[str, Any] | None,
    trained: Mapping[str, dict[str, Any]],
    *,
    is_base: bool,
) -> Line:
    name = row["model"] or row["model_id"]
    line = Line("", "base" if is_base else "other", None, None, None, name, row["model_id"])
    if training is not None:
        line.train_run_id = training["run_id"]
        if training["method"] == "dpo":
            line.preference = training["dataset"] or ""
            start = training["start_model_id"]
            # without an adapter to start from, DPO starts from the base model
            line.setting = "base" if start is None else "other"
            tuned: Mapping[str, Any] | None = trained.get(start) if start is not None else None
        else:
            tuned = training
        if tuned is not None:
            line.setting = tuned["strategy"] or ("full" if tuned["dataset"] else "file")
            line.dataset, line.ratio = tuned["dataset"], tuned["ratio"]
            line.selection_id, line.selection = tuned["selection_id"], tuned["selection"]
        elif line.setting == "other":
            name = training["start"] or training["start_model_id"]
    line.label = label(line.setting, line.ratio, line.preference, name)
    return line


def label(setting: str, ratio: str | None, preference: str | None, model: str) -> str:
    """What a row is called: ``diq 10 %``, ``full + DPO``; a model that nothing is known of by its name."""
    text = model if setting in ("other", "file") else setting
    if ratio is not None:
        text += f" {100 * float(ratio):g} %"
    if preference is not None:
        text += f" + DPO {preference}".rstrip()
    return text


# tables ------------------------------------------------------------------------------------------------------------


def _groups(models: Sequence[_Evaluated]) -> list[Group]:
    """Models by base model, backend and protocol, and within them by questions.

    A model joins the first table that none of its benchmarks contradicts, so that each column has one set of questions.
    """
    found: dict[tuple[str, str, str], list[tuple[Group, list[_Evaluated]]]] = {}
    for one in models:
        tables = found.setdefault((one.base_model_id, one.backend, canonical_json(one.protocol)), [])
        for group, members in tables:
            fits = all(group.questions.get(name, mark) == mark for name, mark in one.questions.items())
            # the same run twice would be one model with two numbers
            if fits and all(one.line.model_id != member.line.model_id for member in members):
                break
        else:
            group, members = Group(one.base, one.base_model_id, one.backend, one.protocol, {}), []
            tables.append((group, members))
        group.questions |= one.questions
        members.append(one)
        one.line.run_ids = sorted({row["run_id"] for repeats in one.numbers.values() for row in repeats.values()})
        one.line.cells = _cells(one.numbers)
        every = [row for repeats in one.numbers.values() for row in repeats.values()]
        one.line.n_unanswered = sum(row["n_unanswered"] for row in every)
        one.line.n_cut = sum(row["n_cut"] for row in every)
        group.rows.append(one.line)
    groups = [group for tables in found.values() for group, _ in tables]
    return sorted(groups, key=lambda group: (group.base, group.base_model_id or ""))


def _cells(numbers: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, Cell]:
    """Cells of the benchmarks, and of the averages where nothing is missing."""
    cells = {}
    for name, repeats in numbers.items():
        values = [row["accuracy"] for row in repeats.values()]
        # an upper bound: the share of it that is chance of the generation does fall with repeats
        error = statistics.fmean(row["standard_error"] for row in repeats.values())
        n = next(iter(repeats.values()))["n"]
        strict = statistics.fmean(row["n_right_strict"] / row["n"] for row in repeats.values())
        unanswered = statistics.fmean(row["n_unanswered"] / row["n"] for row in repeats.values())
        cells[name] = Cell(statistics.fmean(values), error, _spread(values), len(values), n, strict, unanswered)
    means = averages({name: cell.accuracy for name, cell in cells.items()})
    stricts = averages({name: cell.strict or 0.0 for name, cell in cells.items()})
    for average, members in MEMBERS.items():
        mean = getattr(means, average)
        if mean is None:
            continue
        parts = [cells[name] for name in members]
        error = math.sqrt(sum((part.standard_error or 0.0) ** 2 for part in parts)) / len(parts)
        common = set.intersection(*(set(numbers[name]) for name in members))
        by_repeat = [statistics.fmean(numbers[name][i]["accuracy"] for name in members) for i in sorted(common)]
        n = sum(part.n or 0 for part in parts)
        unanswered = sum((part.unanswered or 0.0) * (part.n or 0) for part in parts) / n
        cells[average] = Cell(mean, error, _spread(by_repeat), len(common), n, getattr(stricts, average), unanswered)
    return cells


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _chosen(groups: Sequence[Group], dataset: str | None, model: str | None) -> list[Group]:
    if model is not None and groups:
        names = [group.base for group in groups] + [row.model for group in groups for row in group.rows]
        if model not in names:
            raise UsageError(f"no model `{model}` was evaluated", did_you_mean(model, names))
        for group in groups:
            if group.base != model:
                group.rows = [row for row in group.rows if row.model == model]
    if dataset is not None and groups:
        known = {name for group in groups for row in group.rows for name in (row.dataset, row.preference) if name}
        if dataset not in known:
            raise UsageError(
                f"no evaluated model was trained on a dataset `{dataset}`",
                did_you_mean(dataset, sorted(known)) or "train one with `diq train`",
            )
        for group in groups:
            untrained = [row for row in group.rows if row.train_run_id is None]
            kept = [row for row in group.rows if dataset in (row.dataset, row.preference)]
            group.rows = [*untrained, *kept] if kept else []
    return [group for group in groups if group.rows]


def _tell_apart(group: Group) -> None:
    """Give rows of one name what tells them apart: the selection's name, else the model's, else its fingerprint."""
    by_label: dict[tuple[str, str | None], list[Line]] = {}
    for row in group.rows:
        by_label.setdefault((row.label, row.dataset), []).append(row)
    for rows in by_label.values():
        if len(rows) > 1:
            names = (
                [row.selection or "" for row in rows],
                [row.model for row in rows],
                [(row.model_id or "")[:12] for row in rows],
            )
            chosen = next((texts for texts in names if len(set(texts)) == len(rows)), names[-1])
            for row, text in zip(rows, chosen, strict=True):
                row.label += f" ({text})"


def _order(row: Line) -> tuple[Any, ...]:
    place = _SETTINGS.index(row.setting) if row.setting in _SETTINGS else len(_SETTINGS)
    untrained = row.dataset is None and row.preference is None
    return (
        not untrained,
        row.dataset or "",
        row.preference is not None,
        row.ratio is not None,
        float(row.ratio or 0),
        place,
        row.label,
    )


def _rank(group: Group) -> None:
    """Mark the best and the second best of every column, and what is not told apart from the best."""
    for name in group.columns:
        cells = [row.cells[name] for row in group.rows if name in row.cells]
        if len(cells) < 2:
            continue
        # means of the same numbers in another order may differ in their last bits
        values = sorted({round(cell.accuracy, _TIE_DIGITS) for cell in cells}, reverse=True)
        if len(values) < 2:
            # where all are equal none is best
            continue
        best = next(cell for cell in cells if round(cell.accuracy, _TIE_DIGITS) == values[0])
        for cell in cells:
            place = values.index(round(cell.accuracy, _TIE_DIGITS))
            cell.best = place == 0
            cell.second = place == 1 and len(cells) > 2
            noise = math.hypot(cell.standard_error or 0.0, best.standard_error or 0.0)
            cell.close = not cell.best and best.accuracy - cell.accuracy <= CLOSE * noise


def _name_differences(groups: Sequence[Group]) -> None:
    """What sets a table apart from the other tables of its base model."""
    by_base: dict[str | None, list[Group]] = {}
    for group in groups:
        by_base.setdefault(group.base_model_id, []).append(group)
    for members in by_base.values():
        facts = [
            {
                "backend": one.backend,
                **one.protocol,
                **{f"questions of {name}": mark for name, mark in one.questions.items()},
            }
            for one in members
        ]
        for key in {key: None for one in facts for key in one}:
            # a benchmark that only one of them has makes no difference between numbers
            have = [one for one in facts if key in one] if key.startswith("questions of ") else facts
            if len({canonical_json(one.get(key)) for one in have}) > 1:
                for group, one in zip(members, facts, strict=True):
                    if one in have:
                        group.differs[key] = one.get(key)


# the paper ---------------------------------------------------------------------------------------------------------


def _published(text: str) -> list[Group]:
    found = published.find(text)
    if not found:
        raise UsageError(
            f"the paper has no results table, dataset or model `{text}`", did_you_mean(text, published.names())
        )
    tuned = {row.model for row in found if row.dataset is not None}
    groups: dict[str, Group] = {}
    for row in found:
        preference = row.dataset if row.preference else None
        name = label(row.setting, row.ratio, preference, row.model)
        if row.influence is not None:
            name += f", dots of {row.influence}"
        line = Line(name, row.setting, row.dataset, row.ratio, preference, row.model, None, table=row.table)
        line.influence = row.influence
        line.cells = {name: Cell(value / 100, None, None, 1, None) for name, value in row.accuracies.items()}
        recomputed, wrong = row.recomputed(), row.inconsistent()
        for average in AVERAGES:
            expected = getattr(recomputed, average) / 100 if average in wrong else None
            line.cells[average] = Cell(getattr(row.printed, average) / 100, None, None, 1, None, expected=expected)
        # models that are only there for comparison share a table
        base = row.model if row.model in tuned else "models as they are"
        groups.setdefault(base, Group(base, None, None, {}, {})).rows.append(line)
    for group in groups.values():
        group.rows.sort(key=_order)
    return list(groups.values())
