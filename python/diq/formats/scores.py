"""Score files: any container with `sample_id` or `position` and scores that were computed elsewhere, as Arrow tables.

Numbers are checked a column at a time; only a column that holds something else is looked at value by value.
"""

from __future__ import annotations

import difflib
import itertools
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from diq.base.errors import InputError, UsageError
from diq.base.text import did_you_mean
from diq.formats import first_rows
from diq.formats.rows import BadRow, Row, excerpt
from diq.formats.sources import FileSource, Source

KEYS = ("sample_id", "position")
SCORES = ("knowledge", "reasoning", "overall", "dot", "perplexity", "similarity")
SCHEMA = pa.schema(
    [
        ("line", pa.int64()),
        ("sample_id", pa.string()),
        ("position", pa.int64()),
        *((name, pa.float64()) for name in SCORES),
        ("reason", pa.string()),
        ("content", pa.string()),
    ]
)

_CHUNK = 50_000  # rows of text that are turned into one table


@dataclass(frozen=True, slots=True)
class ScoreReader:
    """One score file.

    Attributes:
        columns: name in the file of each key and score that it has.
        warnings: columns that look like a misspelt score and are not read.
    """

    source: Source
    columns: Mapping[str, str]
    warnings: list[str] = field(default_factory=list)

    @property
    def scores(self) -> list[str]:
        """The scores that the file has."""
        return [name for name in SCORES if name in self.columns]

    def tables(self) -> Iterator[pa.Table]:
        """Every row of the file in tables of `SCHEMA`; ``reason`` is set where a row cannot be used."""
        batches = self.source.batches() if isinstance(self.source, FileSource) else None
        if batches is None:
            rows = self.source.rows()
            while chunk := list(itertools.islice(rows, _CHUNK)):
                yield self._from_rows(chunk)
            return
        line = 1
        for batch in batches:
            yield self._from_batch(batch, line)
            line += batch.num_rows

    def _from_rows(self, rows: Sequence[Row | BadRow]) -> pa.Table:
        bad = [row for row in rows if isinstance(row, BadRow)]
        good = [row for row in rows if isinstance(row, Row)]
        values = {name: [row.values.get(column) for row in good] for name, column in self.columns.items()}
        table = self._build([row.line for row in good], values, lambda index: excerpt(good[index].values))
        if not bad:
            return table
        lost = {
            "line": [row.line for row in bad],
            "reason": [row.reason for row in bad],
            "content": [row.content for row in bad],
        }
        columns = [
            pa.array(lost[one.name], one.type) if one.name in lost else pa.nulls(len(bad), one.type) for one in SCHEMA
        ]
        return pa.concat_tables([table, pa.table(columns, schema=SCHEMA)])

    def _from_batch(self, batch: Any, line: int) -> pa.Table:
        values = {name: _plain(batch.column(column)) for name, column in self.columns.items()}
        return self._build(
            range(line, line + batch.num_rows), values, lambda index: excerpt(batch.slice(index, 1).to_pylist()[0])
        )

    def _build(self, lines: Sequence[int], values: Mapping[str, Any], content: Any) -> pa.Table:
        n = len(lines)
        textual = isinstance(self.source, FileSource) and self.source.is_text_only()
        reasons: dict[int, str] = {}
        columns: dict[str, Any] = {"line": pa.array(lines, pa.int64())}
        if "sample_id" in values:
            columns["sample_id"] = _ids(values["sample_id"], reasons)
        if "position" in values:
            numbers = _numbers("position", values["position"], textual, reasons)
            columns["position"] = _positions(numbers, reasons)
        for name in self.scores:
            columns[name] = _numbers(name, values[name], textual, reasons)
        if reasons:
            columns["reason"] = pa.array([reasons.get(index) for index in range(n)], pa.string())
            columns["content"] = pa.array(
                [content(index) if index in reasons else None for index in range(n)], pa.string()
            )
        return pa.table([columns.get(one.name, pa.nulls(n, one.type)) for one in SCHEMA], schema=SCHEMA)


def open_scores(source: Source, names: Mapping[str, str] | None = None) -> ScoreReader:
    """A source as score file.

    Args:
        source: the file.
        names: key or score to column, where the file calls it otherwise.

    Raises:
        UsageError: ``names`` maps something that is no key or score.
        InputError: there is neither `sample_id` nor `position`, or no score.
    """
    for name in names or {}:
        if name not in (*KEYS, *SCORES):
            raise UsageError(f"unknown score `{name}` in --map", did_you_mean(name, (*KEYS, *SCORES)))
    found = list(dict.fromkeys(column for row in first_rows(source) for column in row.values))
    wanted = {name: (names or {}).get(name, name) for name in (*KEYS, *SCORES)}
    columns = {name: column for name, column in wanted.items() if column in found}
    shown = ", ".join(f"`{column}`" for column in found[:30])
    for name, column in (names or {}).items():
        if column not in found:
            raise InputError(f"`{source.path}` has no column `{column}` for {name}: it has {shown}", "check --map")
    if not any(name in columns for name in KEYS):
        raise InputError(
            f"`{source.path}` has columns {shown}: no sample_id and no position",
            "a score file names its samples by sample_id, or by position: the 0-based row of the dataset",
        )
    warnings = _near_misses(source.path, found, columns)
    if not any(name in columns for name in SCORES):
        near = warnings[0] if warnings else f"scores are {', '.join(SCORES)}"
        raise InputError(f"`{source.path}` has columns {shown}: no score", near)
    return ScoreReader(source, columns, warnings)


def _near_misses(path: str, found: Sequence[str], columns: Mapping[str, str]) -> list[str]:
    warnings = []
    for column in found:
        close = difflib.get_close_matches(column.lower(), [*KEYS, *SCORES], n=1, cutoff=0.8)
        if close and close[0] not in columns and column not in columns.values():
            warnings.append(f"column `{column}` of `{path}` is not read; did you mean `{close[0]}`?")
    return warnings


def _plain(column: Any) -> Any:
    """An Arrow array without dictionary or extension type."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _ids(values: Any, reasons: dict[int, str]) -> Any:
    if isinstance(values, pa.Array):
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or pa.types.is_null(values.type):
            return values.cast(pa.string())
        values = values.to_pylist()
    found: list[str | None] = []
    for index, value in enumerate(values):
        if isinstance(value, bytes) and len(value) == 16:
            # a UUID column of a Parquet file
            found.append(str(uuid.UUID(bytes=value)))
        elif value is None or isinstance(value, str):
            found.append(value or None)
        else:
            reasons.setdefault(index, f"sample_id is no UUID but {type(value).__name__}")
            found.append(None)
    return pa.array(found, pa.string())


def _numbers(name: str, values: Any, textual: bool, reasons: dict[int, str]) -> Any:
    """The column as float64; what is no finite number is null, with a reason."""
    found = _quickly(values)
    if found is None:
        listed = values.to_pylist() if isinstance(values, pa.Array) else values
        checked = [_number(value, textual) for value in listed]
        for index, (_, reason) in enumerate(checked):
            if reason:
                reasons.setdefault(index, f"{name} is {reason}")
        found = pa.array([number for number, _ in checked], pa.float64())
    finite = pc.is_finite(found)
    if pc.min(finite).as_py() is False:
        for index in pc.indices_nonzero(pc.invert(finite)).to_pylist():
            reasons.setdefault(index, f"{name} is not finite ({found[index].as_py()})")
        found = pc.if_else(finite, found, pa.scalar(None, pa.float64()))
    return found


def _quickly(values: Any) -> Any | None:
    if isinstance(values, pa.Array):
        kind = values.type
        if (
            pa.types.is_integer(kind)
            or pa.types.is_floating(kind)
            or pa.types.is_decimal(kind)
            or pa.types.is_null(kind)
        ):
            return values.cast(pa.float64(), safe=False)
        return None
    # arrow would take true for 1
    if {float, int, type(None)}.issuperset(map(type, values)):
        try:
            return pa.array(values, pa.float64())
        except (pa.ArrowException, OverflowError):
            return None
    return None


def _number(value: Any, textual: bool) -> tuple[float | None, str]:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None, ""
    if isinstance(value, bool):
        return None, f"not a number but {str(value).lower()}"
    if isinstance(value, str) and not textual:
        return None, f"not a number but the text `{value[:40]}`"
    try:
        return float(value), ""
    except (TypeError, ValueError, OverflowError):
        return None, f"not a number but `{str(value)[:40]}`"


def _positions(numbers: Any, reasons: dict[int, str]) -> Any:
    whole = pc.and_(pc.equal(pc.floor(numbers), numbers), pc.less(pc.abs(numbers), 2.0**53))
    if pc.min(whole).as_py() is False:
        for index in pc.indices_nonzero(pc.invert(whole)).to_pylist():
            reasons.setdefault(index, f"position is not a whole number ({numbers[index].as_py()})")
        numbers = pc.if_else(whole, numbers, pa.scalar(None, pa.float64()))
    return numbers.cast(pa.int64())
