"""The command line: one click command a file, loaded only when it is called."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from diq.base.errors import DiqError
from diq.base.text import short
from diq.cli.console import forgiving_streams, printed, say

# in the order of use; the text is repeated from the command so that `diq --help` imports none of them
COMMANDS = {
    "ingest": "Read samples, validation sets or scores into the store.",
    "show": "Show a sample as it was read, and as a model sees it.",
    "status": "Show datasets, models, coverage of each score, and the size of the store.",
    "difficulty": "Label the difficulty of questions, and train classifiers on labels.",
    "score": "Compute the scores that are missing.",
    "rater": "Train encoders that predict influence from text.",
    "index": "Measure what a projection of gradients would lose.",
    "select": "Pick the part of a dataset that is worth training on.",
    "compare": "Show what selections share and how they differ.",
    "report": "Write one page that shows datasets, scores and selections.",
    "explain": "Show which answer tokens carry a sample's dot.",
    "explore": "Look at scores and would-be selections in a browser.",
    "sql": "Query the store.",
    "check": "Compare a store and its files with what was written.",
    "backup": "Copy the store while others read it.",
    "train": "Fine-tune a model on a selection, supervised or by preference.",
    "validate": "Find out by short trainings what scores and strategies are worth on this data.",
    "evaluate": "Measure a model on the nine benchmarks.",
    "results": "Show evaluations side by side, and beside the paper's.",
    "judge": "Have a language model judge the reasoning of two groups of texts.",
    "cost": "Count what selecting and training cost.",
    "run": "Run a recipe: the whole pipeline in one file.",
    "demo": "Run the whole pipeline offline, on data and a small model that it makes itself.",
}


class _LazyGroup(click.Group):
    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = getattr(import_module(f"diq.cli.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands, in the order of use"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from diq.base.text import did_you_mean

            raise click.UsageError(f"there is no command `{args[0]}`; {did_you_mean(args[0], list(COMMANDS))}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="diq", prog_name="diq")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option(
    "--store", type=click.Path(path_type=Path), metavar="FILE", help="The store, for any command that follows."
)
@click.pass_context
def diq(ctx: click.Context, debug: bool, store: Path | None) -> None:
    """Pick the small part of a fine-tuning set that is worth training on.

    Ingest once, score once, then ask for 1 %, 10 % or 50 % as often as you like.
    """
    ctx.ensure_object(dict)["debug"] = debug


def main(argv: list[str] | None = None) -> None:
    """Entry point: exit code 0 done, 1 a run failed, 2 wrong use, 130 stopped; an error is one line and a hint."""
    arguments = sys.argv[1:] if argv is None else argv
    forgiving_streams()
    try:
        diq.main(args=arguments, prog_name="diq", standalone_mode=False)
        # here, since at the end of Python what does not fit on the disk is a traceback
        with printed():
            sys.stdout.flush()
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.Abort:
        say("Stopped. What was finished is kept; the same command goes on.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except DiqError as error:
        if "--debug" in arguments:
            raise
        say(f"Error: {error.message}", err=True)
        if error.hint:
            say(f"\nhint: {error.hint}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # the reader of a pipe, such as `head`, has seen enough
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        # of a file or folder that was named: a name that is too long, a folder that may not be entered
        if "--debug" in arguments or error.filename is None:
            raise
        say(f"Error: `{short(error.filename)}` cannot be used: {error.strerror}", err=True)
        sys.exit(1)
