"""``diq compare``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

import diq
from diq.base.config import store_path
from diq.base.text import amount
from diq.cli.console import print_json, progress, say, table
from diq.cli.options import keywords, options_of, output_options
from diq.selection.options import CompareOptions

if TYPE_CHECKING:
    from diq.selection.compare import Comparison, Profile

_MOST_SOURCES = 20
_STATISTICS = ("n", "min", "p10", "median", "p90", "max", "mean")


@click.command(short_help="Show what selections share and how they differ.")
@options_of(CompareOptions, optional=("selections",))
@output_options
def compare(as_json: bool, quiet: bool, **given: Any) -> None:
    """Compare two or more selections: numbers, or names, of which the latest selection counts.

    Shows what each pair shares, then scores, lengths, and the shares of sources, validation tasks and quadrants, beside
    the whole dataset. A selection whose strategy uses no dots or no difficulty is measured by another ranking of its
    dataset (column ranking). The selections may come from different datasets. The store is only read.

    \b
    Example:
      diq compare pool-diq-0.1 pool-random-0.1
    """

    with progress(quiet=quiet or as_json) as report:
        found = diq.compare(**keywords(CompareOptions, given), progress=report)
    if as_json:
        print_json({"store": str(store_path(given["store"])), **found.to_dict()})
    else:
        _show(found)


def _show(found: Comparison) -> None:
    subjects = [*found.selections, *found.datasets]
    labels = _labels(subjects)
    table(
        "selections",
        ("selection", "name", "dataset", "strategy", "ratio", "samples", "no longer found", "scores changed since"),
        [
            (one.selection_id, one.name, one.dataset, one.strategy, one.ratio, one.n, one.n_missing, one.replaced)
            for one in found.selections
        ],
    )
    _overlap(found, labels)
    _scores(subjects, labels)
    parts = [(part, name) for part in subjects[0].lengths for name in ("mean", "median")]
    table(
        "characters of prompt, reasoning and answer",
        ("", *(f"{part} {name}" for part, name in parts)),
        [
            (label, *(one.lengths[part].get(name) for part, name in parts))
            for one, label in zip(subjects, labels, strict=True)
        ],
    )
    # files of two datasets may go by one name, so they are told apart by number
    sources = {row["source_id"]: row["source"] or "unknown" for one in found.datasets for row in one.sources}
    ranked = sorted(sources, key=lambda source: -_count(found.datasets, source))
    shares = [{row["source_id"]: row["share"] for row in one.sources} for one in subjects]
    _shares("share of each source", "source", ranked[:_MOST_SOURCES], sources, shares, labels)
    if len(ranked) > _MOST_SOURCES:
        say(f"and {amount(len(ranked) - _MOST_SOURCES, 'more source')}: see --json, or the view selection_sources")
    for title, noun, rows in (
        (
            "share of each validation task (the one that a sample is closest to)",
            "task",
            [one.tasks for one in subjects],
        ),
        ("share of each quadrant", "quadrant", [one.quadrants for one in subjects]),
    ):
        names = {row[noun]: row[noun] for one in rows for row in one}
        shares = [{row[noun]: row["share"] for row in one} for one in rows]
        _shares(title, noun, list(names), names, shares, labels)


def _labels(subjects: Sequence[Profile]) -> list[str]:
    """What a column is headed with: the name, with the number where selections share one."""
    names = [one.name for one in subjects if one.selection_id is not None]
    labels = []
    for one in subjects:
        if one.selection_id is None:
            labels.append(f"all of {one.name}")
        else:
            labels.append(f"{one.name} ({one.selection_id})" if names.count(one.name) > 1 else one.name)
    return labels


def _overlap(found: Comparison, labels: Sequence[str]) -> None:
    numbers = {one.selection_id: place for place, one in enumerate(found.selections)}
    cells: dict[tuple[int, int], str] = {}
    for one in found.overlap:
        text = f"{one.shared:,}; {_number(one.jaccard)}; {_percent(one.share_of_smaller)}"
        cells[numbers[one.a], numbers[one.b]] = text
    n = len(found.selections)
    rows = [
        (labels[i], *(f"{found.selections[i].n:,}" if i == j else cells.get((i, j), "") for j in range(n)))
        for i in range(n)
    ]
    table("overlap: shared samples; Jaccard; share of the smaller that is in the larger", ("", *labels[:n]), rows)


def _scores(subjects: Sequence[Profile], labels: Sequence[str]) -> None:
    rows: list[tuple[Any, ...]] = []
    for score in ("difficulty", "dot", "loss", "answer_tokens"):
        for one, label in zip(subjects, labels, strict=True):
            if score in one.scores:
                by = one.measured_by.get(score, one.measured_by["run"])
                source = f"{'ranking' if score in one.measured_by else 'run'} {by}"
                rows.append((score, label, source, *(one.scores[score][name] for name in _STATISTICS)))
    if rows:
        table("scores", ("score", "of", "from", *_STATISTICS), rows)


def _shares(
    title: str,
    noun: str,
    keys: Sequence[Any],
    names: Mapping[Any, str],
    shares: Sequence[Mapping[Any, float | None]],
    labels: Sequence[str],
) -> None:
    if keys:
        rows = [(names[key], *(_percent(one[key]) if key in one else "" for one in shares)) for key in keys]
        table(title, (noun, *labels), rows)


def _count(datasets: Sequence[Profile], source: int) -> int:
    return sum(int(row["n"]) for one in datasets for row in one.sources if row["source_id"] == source)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.3g} %"
