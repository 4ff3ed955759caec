"""What ``diq explore`` takes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from diq.base.config import Dimension
from diq.base.options import InStore, Option


@dataclass(frozen=True)
class ExploreOptions(InStore):
    """Options of ``diq explore``."""

    dataset: Annotated[
        str | None,
        Option(
            "Name of a dataset in the store.",
            positional=True,
            default="the only one with scores of difficulty and influence",
            reads="dataset",
        ),
    ] = None
    _: KW_ONLY
    model: Annotated[
        str | os.PathLike[str] | None,
        Option(
            "Model whose dots are shown: its name in the store, or the folder or hub id, which colours tokens too.",
            metavar="NAME|FOLDER|ID",
            default="the only one with scores of the dataset",
            reads="model",
            name=True,
        ),
    ] = None
    difficulty: Annotated[Dimension, Option("Dimension of the difficulty.")] = "overall"
    run: Annotated[int | None, Option("Run of the dots, when there are several.", metavar="NUMBER")] = None
    difficulty_run: Annotated[int | None, Option("Difficulty run, when the dataset has several.", metavar="NUMBER")] = (
        None
    )
    port: Annotated[
        int, Option("Port of 127.0.0.1 to listen on; 0 takes a free one.", metavar="N", least=0, most=65535)
    ] = 0
    browser: Annotated[bool, Option("Open the page in a browser; its address is printed in any case.")] = True
    listener: Annotated[
        Callable[[str], None] | None, Option("Told the address of the page; without one it is logged.", given=True)
    ] = None
