"""What ``diq report`` takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

from diq.base.errors import UsageError
from diq.base.options import InStore, Needs, Option


def _check_page(output: str | os.PathLike[str]) -> None:
    if Path(output).suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"the output `{output}` is no .html file", "name one such as report.html")


@dataclass(frozen=True)
class ReportOptions(InStore):
    """Options of ``diq report``."""

    datasets: Annotated[
        Sequence[str],
        Option(
            "Datasets of the store.",
            metavar="DATASET...",
            default="those of the selections",
            positional=True,
            reads="dataset",
        ),
    ] = ()
    _: KW_ONLY
    model: Annotated[
        str | None,
        Option("Name of a scored model in the store.", metavar="NAME", default="the only one"),
    ] = None
    selection: Annotated[
        Sequence[str | int],
        Option(
            "Name or number of a selection to show; repeat.",
            metavar="NAME",
            default="the latest of each dataset",
            reads="selection",
        ),
    ] = ()
    run: Annotated[
        int | None,
        Option("Influence run to show where no selection brings its own.", metavar="N", default="the only one"),
    ] = None
    validation_set: Annotated[
        Sequence[str],
        Option(
            "Validation set whose dots count where no selection brings its own; repeat.",
            metavar="NAME[=WEIGHT]",
            default="all of the run, by their samples (Eq. 3)",
            reads="validation set",
        ),
    ] = ()
    output: Annotated[
        str | os.PathLike[str],
        Option("The page to write.", short="o", metavar="FILE", writes="path", check=_check_page),
    ] = "report.html"
    results: Annotated[bool, Option("Also the benchmark tables of `diq results`.")] = False
    published: Annotated[
        str | None,
        Option("Rows of the paper to set beside them: a dataset, a model or a table.", metavar="NAME"),
    ] = None
    samples: Annotated[int, Option("Selected samples to list, of each selection.", metavar="N", least=0)] = 200
    near_misses: Annotated[int, Option("Samples to list that follow the last selected one.", metavar="N", least=0)] = 50
    text: Annotated[bool, Option("Show the samples' texts; --no-text leaves all of them out of the page.")] = True
    explain: Annotated[
        int | None,
        Option(
            "Colour the tokens of the first K selected samples by what they add to the dot; loads the model.",
            metavar="K",
            default="none",
            least=1,
        ),
        Needs("text"),
    ] = None
    figures: Annotated[
        str | os.PathLike[str] | None,
        Option("Folder for every chart as SVG and PDF.", metavar="DIR", writes="path"),
    ] = None
