"""What ``diq run`` and ``diq demo`` take, and the recipes' own step ``benchmark questions``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, Protocol

from diq.base.options import Option, Options, Told, ToldWithNote
from diq.base.progress import NotedProgress
from diq.demo.options import Seed, Sizes


class Listener(Protocol):
    """Who is told of the steps, each a ``diq.recipes.run.StepReport``; the command line prints them."""

    def starts(self, step: Any, n_steps: int, /) -> None:
        """A step begins; called for done ones too."""

    def ends(self, step: Any, /) -> None:
        """It has ended well."""


@dataclass(frozen=True)
class RunRecipeOptions(Options):
    """Options of ``diq run``."""

    recipe: Annotated[
        str | os.PathLike[str],
        Option("A YAML file, or the name of a recipe that comes with DIQ.", positional=True, reads="path"),
    ]
    _: KW_ONLY
    set: Annotated[
        Sequence[str],
        Option("Replace a variable of the recipe, or with NAME.KEY=VALUE a part of one. Repeat.", metavar="NAME=VALUE"),
    ] = ()
    output: Annotated[
        str | os.PathLike[str] | None,
        Option("Folder to work in.", metavar="DIR", default="what the recipe says, else its name", short="o"),
    ] = None
    store: Annotated[
        str | os.PathLike[str] | None,
        Option(
            "Store file. Recipes that share one do not score twice.",
            metavar="FILE",
            default="diq.duckdb in the output folder",
        ),
    ] = None
    dry_run: Annotated[bool, Option("Show the plan: commands, what is done, estimated cost. Writes nothing.")] = False
    listener: Annotated[Listener | None, Option("Told of every step.", given=True)] = None
    progress: ToldWithNote = None


class Narrator(Protocol):
    """Who tells what happens in a demo; the command line prints it."""

    def say(self, text: str, /) -> None:
        """A line of text."""

    def command(self, text: str, /) -> None:
        """A command line that does what comes next."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], /) -> None:
        """A table."""

    def working(self) -> AbstractContextManager[NotedProgress | None]:
        """Entered for the time of a step; gives what to report its progress to."""


@dataclass(frozen=True, kw_only=True)
class RunDemoOptions(Options):
    """Options of ``diq demo``."""

    keep: Annotated[
        str | os.PathLike[str] | None,
        Option(
            "Leave store, data, models and adapters in DIR; a demo that was stopped there goes on.",
            metavar="DIR",
            default="a folder that is removed at the end",
        ),
    ] = None
    open: Annotated[
        bool, Option("Open the report in a browser at the end; without --keep it alone is left, in a temporary folder.")
    ] = False
    seed: Seed = 0
    sizes: Annotated[Sizes | None, Option("How large everything is.", default="what the recipe says")] = None
    narrator: Annotated[Narrator | None, Option("Told of every step and of what comes out.", given=True)] = None


@dataclass(frozen=True)
class QuestionsOptions(Options):
    """Options of the step ``benchmark questions``."""

    benchmark: Annotated[str, Option("One of the nine, or another that `diq evaluate` knows.", positional=True)]
    _: KW_ONLY
    output: Annotated[
        str | os.PathLike[str],
        Option(
            "The file, JSON lines of question, options, letter, answer and reasoning.", metavar="FILE", writes="path"
        ),
    ]
    sources: Annotated[
        Mapping[str, str] | None,
        Option("File or hub id of benchmarks by name, in place of their own; other names are ignored.", reads="source"),
    ] = None
    splits: Annotated[
        Mapping[str, str] | None,
        Option("Split of the hub data by name, in place of the one that is evaluated."),
    ] = None
    sample: Annotated[
        int | None,
        Option(
            "How many questions. They are drawn by a hash of seed and question, so a larger sample contains the "
            "smaller.",
            default="all",
            least=1,
        ),
    ] = None
    seed: Annotated[int, Option("Seed of the draw.", least=0)] = 0
    allow_bad_rows: Annotated[bool, Option("Leave out rows that hold no question.")] = False
    progress: Told = None
