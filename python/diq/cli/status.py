"""``diq status``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diq.cli.console import print_json, say, start_logging, table
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
    say(f"store {store}, {found['size_bytes'] / 1e6:,.1f} MB")
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
    from diq.influence.meters import told, told_tasks

    title = f"dots of run {run['run_id']} on {run['dataset']}: {run['model']}, {run['method']}, {run['state']}"
    table(title, ("meter", "value"), [row[:2] for row in told(run)])
    if rows := told_tasks(run):
        head, *body = rows
        table("task that the samples are closest to", head, body)
