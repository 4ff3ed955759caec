"""Formats of SFT data: where rows lie (`sources`, `containers`) and how a row holds a sample (`layouts`).

``open_sources(["data/*.jsonl"])`` checks everything that can be known without reading it all and gives one `Reader` a
source; iterating over it streams `Parsed` samples and `BadRow` rejects.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from diq.base.errors import InputError
from diq.base.sample import Sample
from diq.base.text import amount
from diq.formats import layouts
from diq.formats.layouts.layout import Layout
from diq.formats.layouts.roles import NOT_USED, Lost, column_roles
from diq.formats.rows import BadRow, Meter, Row, excerpt
from diq.formats.sources import FileSource, Source, find_sources

__all__ = [
    "NOT_USED",
    "BadRow",
    "FileSource",
    "Layout",
    "Meter",
    "Parsed",
    "Reader",
    "Row",
    "Source",
    "excerpt",
    "find_sources",
    "first_rows",
    "open_source",
    "open_sources",
]

PEEK_ROWS = 100  # good rows that tell the layout
PEEK_BAD_ROWS = 1000  # bad rows before the first good one, after which a file is taken for something else


class Parsed(NamedTuple):
    """A sample and the line that it was read from."""

    line: int
    sample: Sample


@dataclass(frozen=True, slots=True)
class Reader:
    """One source with its layout; iterate as often as needed.

    Attributes:
        source: where the rows are.
        layout: how they hold a sample.
        drop_reasoning: whether samples come without it.
        roles: what each column became in the first rows.
        example: the first sample of them; None where none of them is one.
        notes: what the user is to know of the first rows.
        lost: by column, how many rows so far had a text in it that is in no sample.
    """

    source: Source
    layout: Layout
    drop_reasoning: bool = False
    roles: Mapping[str, str] = field(default_factory=dict)
    example: Sample | None = None
    notes: Sequence[str] = ()
    lost: Lost = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lost", Lost(self.layout, self.roles))

    def __iter__(self) -> Iterator[Parsed | BadRow]:
        for row in self.source.rows():
            if isinstance(row, BadRow):
                yield row
                continue
            try:
                sample = self.layout.sample(row.values)
                self.lost.see(row.values, sample)
                if self.drop_reasoning:
                    sample = layouts.without_reasoning(sample)
            except ValueError as error:
                yield BadRow(row.line, str(error), excerpt(row.values))
            else:
                yield Parsed(row.line, sample)


def open_sources(
    arguments: Sequence[str | os.PathLike[str]],
    *,
    format: str | None = None,
    map: Mapping[str, str] | None = None,
    split: str | None = None,
    drop_reasoning: bool = False,
) -> list[Reader]:
    """Find every source and its layout; nothing is left unchecked that the first rows can tell.

    Args:
        arguments: files, globs, folders, hub ids.
        format: layout of all of them; detected for each when None.
        map: role to column, in place of a layout.
        split: split of dataset folders and hub ids.
        drop_reasoning: give the question-and-answer variant.

    Raises:
        UsageError: a missing file, an unknown layout name or role.
        InputError: a file that is empty, damaged, not text, or of an unknown layout.
    """
    wanted = layouts.named(format, map)
    return [
        _open(
            source,
            wanted or layouts.named(None, source.columns if isinstance(source, FileSource) else None),
            drop_reasoning,
        )
        for source in find_sources(arguments, split=split)
    ]


def open_source(argument: str | os.PathLike[str], **options: object) -> Reader:
    """The one source that the argument names; options as for `open_sources`."""
    (reader,) = open_sources([argument], **options)  # type: ignore[arg-type]
    return reader


def _open(source: Source, wanted: Layout | None, drop_reasoning: bool) -> Reader:
    rows = [row.values for row in first_rows(source)]
    layout = layouts.choose(source.path, rows, wanted)
    reader = Reader(source, layout, drop_reasoning, roles=column_roles(layout, rows), notes=layout.notes(rows))
    return replace(reader, example=_example(reader, rows))


def _example(reader: Reader, rows: Sequence[Mapping[str, Any]]) -> Sample | None:
    for row in rows:
        with contextlib.suppress(ValueError):
            sample = reader.layout.sample(row)
            return layouts.without_reasoning(sample) if reader.drop_reasoning else sample
    return None


def first_rows(source: Source) -> list[Row]:
    """The first good rows of a source.

    Raises:
        InputError: there is none.
    """
    good: list[Row] = []
    bad: list[BadRow] = []
    for row in itertools.islice(source.rows(), PEEK_ROWS + PEEK_BAD_ROWS):
        if isinstance(row, Row):
            good.append(row)
        else:
            bad.append(row)
        if len(good) == PEEK_ROWS or (not good and len(bad) == PEEK_BAD_ROWS):
            break
    if good:
        return good
    if bad:
        raise InputError(
            f"none of the first {amount(len(bad), 'row')} of `{source.path}` can be read; "
            f"line {bad[0].line}: {bad[0].reason}",
            "is the file what its suffix says?",
        )
    raise InputError(f"`{source.path}` holds no rows", "give a file with rows")
