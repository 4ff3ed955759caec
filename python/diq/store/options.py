"""What ``diq sql`` takes where its answer goes to a file, as in a step of a recipe."""

from __future__ import annotations

import os
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Literal

from diq.base.errors import UsageError
from diq.base.options import InStore, Option

Format = Literal["csv", "json", "parquet"]


@dataclass(frozen=True)
class SqlOptions(InStore):
    """Options of the step ``sql``; ``diq sql`` can do without a file, and has more.

    Raises:
        UsageError: the output is none of the formats.
    """

    query: Annotated[
        str, Option("SQL of DuckDB, with the macros diq_scores, diq_ranking, diq_select and so on.", positional=True)
    ]
    _: KW_ONLY
    output: Annotated[
        str | os.PathLike[str],
        Option(".csv, .json or .parquet file.", metavar="FILE", short="o", writes="path"),
    ]
    format: Annotated[Format | None, Option("How it is written.", default="by the suffix of --output")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        made = self.format or Path(self.output).suffix.lstrip(".")
        if made not in ("csv", "json", "parquet"):
            raise UsageError(
                f"the output `{self.output}` is neither .csv, .json nor .parquet", "name another, or give --format"
            )
        object.__setattr__(self, "format", made)
