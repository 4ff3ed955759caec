"""``diq demo``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import click

import diq
from diq.base.progress import NotedProgress
from diq.base.text import amount
from diq.cli.console import print_json, progress, say, table
from diq.cli.options import keywords, options_of, output_options
from diq.recipes.options import RunDemoOptions

if TYPE_CHECKING:
    from diq.recipes.demo import DemoSummary


class _Printer:
    """Tells the demo on stdout, with progress on stderr."""

    def say(self, text: str, /) -> None:
        say(text)

    def command(self, text: str, /) -> None:
        say()
        say(f"$ {text}", bold=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], /) -> None:
        say()
        table(title, columns, rows)

    def working(self) -> AbstractContextManager[NotedProgress | None]:
        return progress(quiet=False)


@click.command()
@options_of(RunDemoOptions, without=("sizes",))
@output_options
def demo(as_json: bool, quiet: bool, **given: Any) -> None:
    """Run the whole pipeline offline, on data and a small model that it makes itself: some minutes on a laptop.

    It is the recipe `demo` without its last part; `diq run demo` adds benchmarks and preference learning. Every step is
    announced by the command that does the same. Without --keep nothing is left behind.
    """
    narrator = None if as_json or quiet else _Printer()
    summary = diq.run_demo(**keywords(RunDemoOptions, given), narrator=narrator)
    if as_json:
        print_json(summary.to_dict())
    else:
        _show(summary)


def _show(summary: DemoSummary) -> None:
    from diq.recipes.demo import verdict

    say()
    rows = [(name, *(losses[one] for one in ("base", "diq", "random"))) for name, losses in summary.losses.items()]
    table(
        "validation loss, nats a token",
        ("validation set", "base model", "after DIQ 10 %", "after random 10 %"),
        rows,
    )
    say("The selection saw no held-out question.")
    trained = ((name, summary.trainings[name]) for name in ("diq", "random"))
    say(
        "Trained on "
        + " and ".join(
            f"{amount(one['n_samples'], 'sample')}, {amount(one['answer_tokens'], 'answer token')} ({name})"
            for name, one in trained
        )
        + "."
    )
    say(verdict(summary))
    say()
    times = [
        (name, round(seconds, 2), "was there" if name in summary.skipped else "")
        for name, seconds in summary.seconds.items()
    ]
    table("time of each step", ("step", "seconds", ""), [*times, ("total", round(summary.total_seconds, 1), "")])
    if summary.folder is None:
        say("Nothing was kept; `diq demo --keep DIR` leaves store, models and adapters to play with.")
        return
    say(f"Everything is in {summary.folder}. All commands above work there, and for example:")
    if summary.report is not None:
        say(f"The report {summary.report} shows it in a browser.")
    say(f"  cd {summary.folder}")
    for line in summary.examples:
        say(f"  {line}")
