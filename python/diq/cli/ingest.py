"""``diq ingest``."""

from __future__ import annotations

from pathlib import Path

import click

from diq.cli.console import print_json, progress, table
from diq.cli.options import output_options, pairs, store_option


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--dataset", required=True, metavar="NAME", help="Dataset to make or add to (or to give scores to).")
@click.option("--format", "layout", metavar="LAYOUT", help="Layout of the rows, such as alpaca or sharegpt; detected.")
@click.option(
    "--map",
    "columns",
    multiple=True,
    metavar="ROLE=COLUMN",
    help="Columns of an unknown layout, such as prompt=frage,answer=antwort; roles are system, prompt, reasoning, "
    "answer, messages, chosen, rejected, options, label. Repeat or separate by commas.",
)
@click.option("--split", metavar="NAME", help="Split of a hub id or dataset folder; recorded with the samples.")
@click.option("--validation", is_flag=True, help="Make a validation set of the same name.")
@click.option("--sample", type=int, metavar="N", help="Draw N samples for the validation set; default all.")
@click.option("--seed", default=0, show_default=True, help="Seed of the draw.")
@click.option("--drop-reasoning", is_flag=True, help="Question-and-answer variant: without the reasoning part.")
@click.option(
    "--scores",
    is_flag=True,
    help="SOURCE holds scores of the dataset: sample_id or position, and any of knowledge, reasoning, overall, dot, "
    "perplexity, similarity.",
)
@click.option("--model", metavar="NAME", help="Model that the dots or perplexities of a score file belong to.")
@click.option("--validation-set", metavar="NAME", help="Validation set of the dots of a score file; default external.")
@click.option("--replace", is_flag=True, help="Take the new value where the store has another score.")
@store_option
@output_options
def ingest(
    sources: tuple[str, ...],
    dataset: str,
    layout: str | None,
    columns: tuple[str, ...],
    split: str | None,
    validation: bool,
    sample: int | None,
    seed: int,
    drop_reasoning: bool,
    scores: bool,
    model: str | None,
    validation_set: str | None,
    replace: bool,
    store: Path,
    as_json: bool,
    quiet: bool,
) -> None:
    """Read samples, validation sets or scores into the store.

    SOURCE is a file (.jsonl, .json, .csv, .parquet, .arrow, also .gz and .zst), a glob, a folder, a folder saved by
    `datasets`, or a hub id (owner/name[:config][@revision]). The layout is detected. Rows that cannot be used go to the
    table `rejects` with line and reason; a file that was ingested before is not read again.
    """
    # pyarrow and duckdb, which `diq ingest --help` need not wait for
    from diq.samples.ingest import ingest as run

    with progress(quiet=quiet or as_json) as report:
        summary = run(
            sources,
            dataset=dataset,
            store=store,
            format=layout,
            map=pairs(columns, "--map") or None,
            split=split,
            validation=validation,
            sample=sample,
            seed=seed,
            drop_reasoning=drop_reasoning,
            scores=scores,
            model=model,
            validation_set=validation_set,
            replace=replace,
            progress=report,
        )
    if as_json:
        print_json(summary.to_dict())
        return
    rows = [
        (
            source.path,
            source.layout,
            source.n_rows,
            source.n_samples,
            source.n_duplicates,
            source.n_rejects,
            "as before" if source.unchanged else "read",
        )
        for source in summary.sources
    ]
    if len(rows) > 1:
        totals = (summary.n_rows, summary.n_samples, summary.n_duplicates, summary.n_rejects)
        rows.append(("all", "", *totals, ""))
    what = "scored" if scores else "samples"
    table(f"dataset `{dataset}`", ("source", "layout", "rows", what, "duplicates", "rejects", ""), rows)
    if summary.validation_set:
        drawn = summary.validation_set
        how = "all of them" if drawn["seed"] is None else f"drawn with seed {drawn['seed']}"
        click.echo(f"validation set `{drawn['name']}`: {drawn['n_samples']:,} samples, {how}")
    if summary.n_rejects:
        click.echo(
            f"{summary.n_rejects:,} rows were rejected: "
            "`diq sql 'select source, line, reason from rejects order by source_id, line'` shows why",
            err=True,
        )
