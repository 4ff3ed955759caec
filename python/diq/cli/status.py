"""``diq status``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from diq.cli.console import print_json, start_logging, table
from diq.cli.options import store_option


@click.command()
@click.option(
    "--scores",
    is_flag=True,
    help="Also what the dots are worth: standard errors, length bias, stability between halves of the validation "
    "samples, share of each task.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@store_option
def status(scores: bool, as_json: bool, store: Path) -> None:
    """Show datasets, validation sets, models, coverage of each score, selections, and the size of the store."""
    from diq.selection.status import status as run

    start_logging()
    found = run(store=store, scores=scores).to_dict()
    if as_json:
        print_json(found)
        return
    click.echo(f"store {store}, {found['size_bytes'] / 1e6:,.1f} MB")
    _section("datasets", found["datasets"], ("name", "kind", "n_rows", "n_samples", "n_duplicates", "n_rejects"))
    _section("validation sets", found["validation_sets"], ("name", "n_samples", "seed"))
    _section("models", found["models"], ("name", "architecture", "n_parameters", "model_id", "source"))
    _section(
        "coverage",
        found["coverage"],
        (
            "dataset",
            "score",
            "dimension",
            "model",
            "validation_set",
            "run_id",
            "method",
            "state",
            "n_scored",
            "n_samples",
        ),
    )
    _section(
        "selections",
        found["selections"],
        ("selection_id", "name", "dataset", "strategy", "ratio", "n", "ranking_id", "replaced", "output"),
    )
    _section("other runs", found["runs"], ("run_id", "kind", "method", "model", "created_at"))
    for one in found.get("scores", ()):
        _meters(one)


def _section(title: str, rows: object, columns: tuple[str, ...]) -> None:
    assert isinstance(rows, list)
    if rows:
        table(title, columns, [[row[column] for column in columns] for row in rows])


def _meters(run: dict[str, Any]) -> None:
    """One block of ``--scores``."""
    rows: list[tuple[str, str]] = [
        ("samples", f"{run['n_samples']:,}"),
        ("with a dot", f"{run['n']:,}"),
        ("scored, but without a finite dot", f"{run['n_without_dot']:,}"),
        ("not scored", f"{run['n_unscored']:,}"),
        ("standard deviation of the dots", _number(run["standard_deviation"])),
        (
            "standard error of a dot (root mean square)",
            f"{_number(run['standard_error'])}, {_percent(run['standard_error_share'])} of the standard deviation",
        ),
        (
            "length bias: dot with answer tokens",
            f"Pearson {_number(run['length_pearson'])}, Spearman {_number(run['length_spearman'])}",
        ),
    ]
    if run["half_sizes"]:
        one, other = run["half_sizes"]
        rows += [
            (f"stability: {one:,} validation samples with the other {other:,}", _number(run["half_spearman"])),
            (f"expected of two sets of {one + other:,}", _number(run["full_spearman"])),
            *(
                (f"flips between them, top {_percent(float(ratio))}", _percent(share))
                for ratio, share in run["flips"].items()
            ),
        ]
    else:
        rows.append(("stability", "unknown: the validation sets were not split into folds"))
    title = f"dots of run {run['run_id']} on {run['dataset']}: {run['model']}, {run['method']}, {run['state']}"
    table(title, ("meter", "value"), rows)
    shares = run["task_shares"] or {}
    if shares:
        tops = ["all" if ratio == "1" else f"top {_percent(float(ratio))}" for ratio in shares]
        tasks = [[task, *(_percent(share[task]) for share in shares.values())] for task in shares["1"]]
        table("task that the samples are closest to", ("task", *tops), tasks)


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "unknown"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %" if math.isfinite(share) else "unknown"
