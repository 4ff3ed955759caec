"""``diq status``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diq.cli.console import print_json, table
from diq.cli.options import store_option


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@store_option
def status(as_json: bool, store: Path) -> None:
    """Show datasets, validation sets, models, coverage of each score, selections, and the size of the store."""
    from diq.store import Store

    found: dict[str, Any]
    with Store(store, read_only=True) as opened:
        found = {
            "store": str(store),
            "size_bytes": sum(one.stat().st_size for one in (store, Path(f"{store}.wal")) if one.exists()),
            "datasets": opened.rows("list_datasets"),
            "validation_sets": opened.rows("list_validation_sets"),
            "models": opened.rows("list_models"),
            "coverage": opened.rows("coverage"),
            "selections": opened.rows("list_selections"),
            "runs": opened.rows("list_other_runs"),
        }
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
        ("dataset", "score", "model", "validation_set", "run_id", "method", "state", "n_scored", "n_samples"),
    )
    _section("selections", found["selections"], ("selection_id", "name", "dataset", "strategy", "ratio", "n", "output"))
    _section("other runs", found["runs"], ("run_id", "kind", "method", "model", "created_at"))


def _section(title: str, rows: object, columns: tuple[str, ...]) -> None:
    assert isinstance(rows, list)
    if rows:
        table(title, columns, [[row[column] for column in columns] for row in rows])
