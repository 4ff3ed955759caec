"""CSV with a header line (RFC 4180; also semicolons and tabs, as spreadsheets write them)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from diq.base.errors import InputError
from diq.base.text import amount
from diq.formats.rows import BadRow, Meter, Row, excerpt
from diq.formats.streams import TextStream, lines

FIELD_LIMIT = 16 << 20  # characters of one field
FIELD_LINES = 1000  # that a quoted field may run over: one that is not closed would swallow the rest of the file
_DELIMITERS = (",", ";", "\t", "|")


def rows(path: Path, meter: Meter) -> Iterator[Row | BadRow]:
    """Rows as text; ``line`` is the physical line that the row starts on.

    Raises:
        InputError: there is no header, or a quote is not closed, so that nobody knows where its row ends.
    """
    before = csv.field_size_limit(FIELD_LIMIT)
    try:
        with TextStream(path, meter) as stream:
            yield from _rows(stream, meter)
    finally:
        csv.field_size_limit(before)


def _rows(stream: TextStream, meter: Meter) -> Iterator[Row | BadRow]:
    text = _Lines(stream)
    # strict: a stray quote is a bad row, not a row with other text than the file has
    reader = csv.reader(text, delimiter=text.delimiter, strict=True)
    header = _header(stream.path, reader, text)
    if header is None:
        return
    swallowed = _Swallowed(meter)
    while True:
        start = reader.line_num + 1
        text.begin_row()
        try:
            fields = next(reader, None)
        except csv.Error as error:
            text.check_closed(str(error))
            swallowed.add(start, reader.line_num)
            yield BadRow(start, f"not CSV: {error} (from line {start} to line {reader.line_num})", text.last)
            continue
        if fields is None:
            swallowed.tell()
            return
        undecodable = text.undecodable_since(start)
        if not fields:
            continue
        if undecodable:
            yield BadRow(start, undecodable, excerpt(text.delimiter.join(fields)))
        elif len(fields) != len(header):
            reason = f"{amount(len(fields), 'field')} where the header has {len(header)}"
            yield BadRow(start, reason, excerpt(text.delimiter.join(fields)))
        else:
            yield Row(start, dict(zip(header, fields, strict=True)))


def _header(path: Path, reader: Iterator[list[str]], text: _Lines) -> list[str] | None:
    try:
        header = next((fields for fields in reader if fields), None)
    except csv.Error as error:
        text.check_closed(str(error))
        raise InputError(f"`{path}` has no readable header line: {error}", "give a CSV file with a header") from error
    if header is not None:
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise InputError(f"`{path}` has two columns named `{twice[0]}`", "rename one of them")
    return header


class _Swallowed:
    """Bad rows that run over several lines: a stray quote that another one closes makes one reject of them."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._n_rows = 0
        self._longest = (0, 0)

    def add(self, first: int, last: int) -> None:
        if last > first:
            self._n_rows += 1
            self._longest = max(self._longest, (first, last), key=lambda one: one[1] - one[0])

    def tell(self) -> None:
        """Note them, since each may have been as many rows as it has lines."""
        if self._n_rows:
            first, last = self._longest
            verb = "is" if self._n_rows == 1 else "are"
            self._meter.notes[
                f"{amount(self._n_rows, 'row')} of several lines {verb} no CSV, the longest from line {first} to line "
                f"{last}; does a stray quote stand there?"
            ] = None


class _Lines:
    """Decoded lines with their newline; remembers those of the row that is read, and those that were not UTF-8."""

    def __init__(self, stream: TextStream) -> None:
        self._path = stream.path
        self._source = lines(stream)
        self._first: bytes | None = next(self._source, None)
        self._line = 0
        self._ended = False
        self._row: list[str] = []
        self._look_at = FIELD_LINES
        self._undecodable: dict[int, str] = {}
        self.last = ""
        first = (self._first or b"").decode("utf-8", errors="replace")
        # the candidate that occurs most often in the first line; a comma when none does
        self.delimiter = max(_DELIMITERS, key=first.count)

    def undecodable_since(self, line: int) -> str:
        """Why the row that started on ``line`` is not UTF-8; empty when it is."""
        reasons = [reason for at, reason in self._undecodable.items() if at >= line]
        self._undecodable.clear()
        return reasons[0] if reasons else ""

    def begin_row(self) -> None:
        """The next line begins a row."""
        self._row.clear()
        self._look_at = FIELD_LINES

    def check_closed(self, error: str) -> None:
        """Stop where a row is bad because a quote in it is not closed.

        Raises:
            InputError: so it is; the lines behind it may be rows, or the text of one.
        """
        at = self._opened()
        if at is None:
            return
        if self._ended:
            self._fail(at, "is not closed before the end of the file")
        if "field limit" in error:
            self._fail(at, f"is not closed within {FIELD_LIMIT:,} characters")

    def _opened(self) -> int | None:
        """The number within its row, from 0, of the line with the quote that is open at the end of the last one."""
        text, at = "".join(self._row), 0
        while at < len(text):
            if text[at] == '"':
                opened = at
                # the next quote that is no half of two
                while (at := text.find('"', at + 1)) >= 0 and text[at + 1 : at + 2] == '"':
                    at += 1
                if at < 0:
                    return text.count("\n", 0, opened)
            at = text.find(self.delimiter, at) + 1
            if not at:
                return None
        return None

    def _fail(self, at: int, what: str) -> NoReturn:
        line = self._line - len(self._row) + 1 + at
        raise InputError(
            f"`{self._path}`: the quote that opens a field on line {line} {what}",
            "close it, or write each quote within a field twice; longer texts fit into .jsonl or Parquet",
        )

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if len(self._row) >= self._look_at:
            at = self._opened() or 0
            if len(self._row) - at >= FIELD_LINES:
                self._fail(at, f"is not closed within {FIELD_LINES:,} lines")
            self._look_at = at + FIELD_LINES
        raw = self._first if self._first is not None else next(self._source, None)
        self._first = None
        if raw is None:
            self._ended = True
            raise StopIteration
        self._line += 1
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            self._undecodable[self._line] = f"not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}"
            text = raw.decode("utf-8", errors="replace")
        self.last = text[:2000]
        self._row.append(text + "\n")
        return self._row[-1]
