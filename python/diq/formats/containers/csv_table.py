"""CSV with a header line (RFC 4180; also semicolons and tabs, as spreadsheets write them)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from diq.base.errors import InputError
from diq.base.text import amount
from diq.formats.rows import BadRow, Meter, Row, excerpt
from diq.formats.streams import TextStream, lines

FIELD_LIMIT = 16 << 20  # characters of one field: an open quote must not swallow the rest of a large file
_DELIMITERS = (",", ";", "\t", "|")


def rows(path: Path, meter: Meter) -> Iterator[Row | BadRow]:
    """Rows as text; ``line`` is the physical line that the row starts on."""
    before = csv.field_size_limit(FIELD_LIMIT)
    try:
        with TextStream(path, meter) as stream:
            yield from _rows(stream)
    finally:
        csv.field_size_limit(before)


def _rows(stream: TextStream) -> Iterator[Row | BadRow]:
    text = _Lines(stream)
    delimiter = text.delimiter()
    # strict: a stray quote is a bad row, not a row with other text than the file has
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    header = _header(stream.path, reader)
    if header is None:
        return
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            yield BadRow(start, f"not CSV: {error} (from line {start} to line {reader.line_num})", text.last)
            continue
        if fields is None:
            return
        undecodable = text.undecodable_since(start)
        if not fields:
            continue
        if undecodable:
            yield BadRow(start, undecodable, excerpt(delimiter.join(fields)))
        elif len(fields) != len(header):
            reason = f"{amount(len(fields), 'field')} where the header has {len(header)}"
            yield BadRow(start, reason, excerpt(delimiter.join(fields)))
        else:
            yield Row(start, dict(zip(header, fields, strict=True)))


def _header(path: Path, reader: Iterator[list[str]]) -> list[str] | None:
    try:
        header = next((fields for fields in reader if fields), None)
    except csv.Error as error:
        raise InputError(f"`{path}` has no readable header line: {error}", "give a CSV file with a header") from error
    if header is not None:
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise InputError(f"`{path}` has two columns named `{twice[0]}`", "rename one of them")
    return header


class _Lines:
    """Decoded lines with their newline; remembers the last line and those that were not UTF-8."""

    def __init__(self, stream: TextStream) -> None:
        self._source = lines(stream)
        self._first: bytes | None = next(self._source, None)
        self._line = 0
        self._undecodable: dict[int, str] = {}
        self.last = ""

    def delimiter(self) -> str:
        """The candidate that occurs most often in the first line; a comma when none does."""
        first = (self._first or b"").decode("utf-8", errors="replace")
        return max(_DELIMITERS, key=first.count)

    def undecodable_since(self, line: int) -> str:
        """Why the row that started on ``line`` is not UTF-8; empty when it is."""
        reasons = [reason for at, reason in self._undecodable.items() if at >= line]
        self._undecodable.clear()
        return reasons[0] if reasons else ""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        raw = self._first if self._first is not None else next(self._source)
        self._first = None
        self._line += 1
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            self._undecodable[self._line] = f"not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}"
            text = raw.decode("utf-8", errors="replace")
        self.last = text[:2000]
        return text + "\n"
