"""``diq run``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import diq
from diq.base.errors import UsageError
from diq.base.text import amount
from diq.cli.console import print_json, progress, say, table, write
from diq.cli.options import keywords, options_of, output_options, refuse
from diq.recipes.options import RunRecipeOptions

if TYPE_CHECKING:
    from diq.recipes.run import RecipeSummary, StepReport


class _Printer:
    """Tells the steps on stdout."""

    def starts(self, step: StepReport, n_steps: int, /) -> None:
        say(f"[{step.number}/{n_steps}] {step.title}", bold=True)

    def ends(self, step: StepReport, /) -> None:
        told = f": {step.told}" if step.told else ""
        say(f"  done before{told}" if step.was_done else f"  {_seconds(step.seconds)}{told}")


class _Silence:
    """Says nothing."""

    def starts(self, step: StepReport, n_steps: int, /) -> None:
        """Nothing."""

    def ends(self, step: StepReport, /) -> None:
        """Nothing."""


@click.command(short_help="Run a whole pipeline from one file.")
@click.argument("recipe", required=False)
@options_of(RunRecipeOptions, without=("recipe",))
@click.option("--show", is_flag=True, help="Print the recipe, to copy and change.")
@click.option("--list", "as_list", is_flag=True, help="List the recipes that come with DIQ.")
@output_options
def run(recipe: str | None, show: bool, as_list: bool, as_json: bool, quiet: bool, **given: Any) -> None:
    """Run all steps of RECIPE that are not done: a YAML file, or the name of a recipe that comes with DIQ.

    The file is checked as a whole before anything runs. A stopped run goes on with the same command; a changed step is
    run again, with all that depends on it.

    \b
    Examples:
      diq run demo
      diq run huatuo-llama31-8b --set classifier=difficulty/ --dry-run
    """
    from diq.recipes.run import text_of

    if as_list:
        refuse(("recipe", "show", "quiet", *given), "with --list")
        _list(as_json)
        return
    if recipe is None:
        raise UsageError("no recipe was named", "give a YAML file, or a name that `diq run --list` shows")
    if show:
        refuse(("as_json", "quiet", *given), "with --show")
        write(text_of(recipe)[0])
        return
    told = _Silence() if as_json or quiet else _Printer()
    with progress(quiet=quiet or as_json) as report:
        summary = diq.run_recipe(recipe, **keywords(RunRecipeOptions, given), listener=told, progress=report)
    if as_json:
        print_json(summary.to_dict())
    elif summary.dry_run:
        _show_plan(summary)
    else:
        ran = sum(not one.was_done for one in summary.steps)
        say(
            f"{summary.recipe}: {amount(len(summary.steps), 'step')}, {ran} run now in {_seconds(summary.seconds)}, "
            f"{len(summary.steps) - ran} done before; everything is in {summary.output}"
        )


def _list(as_json: bool) -> None:
    from diq.recipes.run import shipped
    from diq.recipes.text import about

    found = {name: about(text, name) for name, text in shipped().items()}
    if as_json:
        print_json(found)
        return
    table("recipes (`diq run NAME --show` prints one)", ("recipe", "what it does"), list(found.items()))


def _show_plan(summary: RecipeSummary) -> None:
    say(f"{summary.recipe}: {summary.about}")
    say(f"output {summary.output}, store {summary.store}")
    say()
    for step in summary.steps:
        cost = f"; {step.cost}" if step.cost else ""
        say(f"[{step.number}] {step.title} ({step.state}{cost})", bold=True)
        say(f"  {step.command}" if step.command else "  (the recipe itself does this)")
    say()
    left = sum(one.state != "done" for one in summary.steps)
    total = f"; {summary.cost}" if summary.cost else ""
    say(f"{amount(len(summary.steps), 'step')}, {left} to do{total}. Nothing was run.")


def _seconds(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
