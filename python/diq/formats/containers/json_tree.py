"""JSON files: an array of rows, also within an object, objects keyed by id, columns, one object, or really JSON lines.

Arrays and keyed objects are read element by element, so their size does not matter; pandas columns ({column: {row:
value}}) come column by column and are held in memory.
"""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import orjson

from diq.base.errors import InputError
from diq.formats.containers import json_lines
from diq.formats.rows import BadRow, Meter, Row, excerpt
from diq.formats.streams import CHUNK, MAX_LINE, TextStream

HEAD_BYTES = 32 << 20  # looked at to tell JSON lines from one large object

_SPACE = re.compile(r"[ \t\r\n]*")
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


def rows(path: Path, meter: Meter) -> Iterator[Row | BadRow]:
    """Rows of a .json file; ``line`` is the 1-based row (the line, for a file that is really JSON lines)."""
    if _is_json_lines(path):
        yield from json_lines.rows(path, meter)
        return
    with TextStream(path, meter) as stream:
        reader = _Reader(stream, meter)
        opening = reader.peek()
        if opening == "[":
            yield from _array(reader)
        elif opening == "{":
            yield from _object(reader)
        elif opening:
            raise InputError(
                f"`{path}` is not JSON: it starts with `{opening}`, not with [ or {{",
                "give an array of objects, or name JSON lines .jsonl",
            )


def _is_json_lines(path: Path) -> bool:
    with TextStream(path) as stream:
        head = b""
        while len(head) < HEAD_BYTES and head.count(b"\n") < 8 and (data := stream.read()):
            head += data
            if not head.lstrip().startswith(b"{"):
                return False
        # the last piece may be half a line
        complete = head.split(b"\n")[: -1 if stream.read() else None]
    filled = [line for line in complete if line.strip()]
    return len(filled) > 1 and any(_is_object(line) for line in filled[:3])


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except ValueError:
        return False


def _array(reader: _Reader) -> Iterator[Row | BadRow]:
    for number, (value, text) in enumerate(_elements(reader), start=1):
        yield _row(number, value, text)
    reader.end()


def _elements(reader: _Reader) -> Iterator[tuple[Any, str]]:
    reader.take("[")
    if reader.peek() == "]":
        reader.take("]")
        return
    while True:
        yield reader.value()
        if reader.take(",", "]") == "]":
            return


def _object(reader: _Reader) -> Iterator[Row | BadRow]:
    reader.take("{")
    if reader.peek() == "}":
        reader.take("}")
        reader.end()
        return
    key = reader.key()
    value: Any
    if reader.peek() == "[":
        elements = _elements(reader)
        head = next(elements, None)
        if key.lower() in _ROWS and head is not None and isinstance(head[0], dict) and _is_row(head[0]):
            # however many there are, one is held at a time
            for number, (one, raw) in enumerate(itertools.chain([head], elements), start=1):
                yield _row(number, one, raw)
            beside = {name: one for name, one, _ in _pairs(reader)}
            _only_rows(reader, [key, *(name for name, one in beside.items() if _may_be_rows(name, one))])
            _tell_texts(reader, key, beside)
            return
        value, text = [one for one, _ in (*([] if head is None else [head]), *elements)], ""
    else:
        value, text = reader.value()
    pairs = _pairs(reader)
    if isinstance(value, dict) and not (value and all(name.lstrip("-").isdigit() for name in value)):
        yield _keyed(1, key, value, text)
        for number, (name, other, raw) in enumerate(pairs, start=2):
            yield _keyed(number, name, other, raw)
        return
    whole = {key: value} | {name: other for name, other, _ in pairs}
    if isinstance(value, dict):
        # pandas: the inner keys are row numbers
        yield from _pandas(reader, whole)
        return
    lists = [name for name, one in whole.items() if _is_rows(one) and (len(whole) == 1 or name.lower() in _ROWS)]
    rows: list[Any]
    if _are_columns(whole):
        rows = [dict(zip(whole, values, strict=True)) for values in zip(*whole.values(), strict=True)]
    elif lists:
        _only_rows(reader, lists)
        rows = whole.pop(lists[0])
        _tell_texts(reader, lists[0], whole)
    else:
        # one object is one row
        rows = [whole]
    for number, one in enumerate(rows, start=1):
        yield _row(number, one, json.dumps(one, ensure_ascii=False))


# what people call the list of rows in an object that also says where they come from
_ROWS = frozenset(
    ["data", "rows", "train", "training", "test", "validation", "valid", "val", "dev", "examples", "samples", "items",
     "records", "instances", "dataset", "conversations", "dialogues", "messages"]
)  # fmt: skip


def _is_row(value: Any) -> bool:
    """Whether an element of a list is a row, or a bare conversation, and no turn of one."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, dict) for one in value)
    return isinstance(value, dict) and not ({"role", "from"} & value.keys())


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_row, value))


def _may_be_rows(name: str, value: Any) -> bool:
    return name.lower() in _ROWS and _is_rows(value)


# a fact about a file has a name of its own and is short
_FACT_LENGTH = 256
_TEXTS = frozenset(
    ["system", "system_prompt", "system_message", "instruction", "prompt", "context", "tools", "functions"]
)


def _tell_texts(reader: _Reader, rows: str, beside: dict[str, Any]) -> None:
    """Note what stands beside the list of rows and would be missed: text of a known name, or a long one."""
    names = [
        f"`{name}`"
        for name, value in beside.items()
        if value and (name.lower() in _TEXTS or (isinstance(value, str) and len(value) > _FACT_LENGTH))
    ]
    if names:
        text = f"{', '.join(names)} beside the list `{rows}` is in no row; put it into each of them if it belongs there"
        reader.meter.notes[text] = None


def _only_rows(reader: _Reader, names: list[str]) -> None:
    if len(names) > 1:
        raise InputError(
            f"`{reader.path}` holds several lists of rows: {', '.join(names)}", "write each to a file of its own"
        )


def _are_columns(whole: dict[str, Any]) -> bool:
    """Whether an object is a table by columns: lists of one length, of which one holds texts or conversations."""
    values = list(whole.values())
    return (
        len(values) > 1
        and all(isinstance(one, list) and len(one) == len(values[0]) > 1 for one in values)
        and any(all(isinstance(part, (str, list)) for part in one) for one in values)
    )


def _pairs(reader: _Reader) -> Iterator[tuple[str, Any, str]]:
    """What follows the first value of an object."""
    while reader.take(",", "}") == ",":
        key = reader.key()
        value, text = reader.value()
        yield key, value, text
    reader.end()


def _keyed(number: int, key: str, value: Any, text: str) -> Row | BadRow:
    row = _row(number, value, text)
    # the key is the row's id (a PMID, say); a column `id` of the row itself wins
    return Row(row.line, {"id": key, **row.values}) if isinstance(row, Row) else row


def _pandas(reader: _Reader, columns: dict[str, Any]) -> Iterator[Row | BadRow]:
    labels: dict[str, None] = {}
    for name, column in columns.items():
        if not isinstance(column, dict):
            raise InputError(
                f"`{reader.path}` looks like pandas columns, but `{name}` is no object of rows",
                "write it with DataFrame.to_json(orient='records')",
            )
        labels.update(dict.fromkeys(column))
    for number, label in enumerate(labels, start=1):
        values = {name: column.get(label) for name, column in columns.items()}
        yield _row(number, values, json.dumps(values, ensure_ascii=False))


def _row(number: int, value: Any, text: str) -> Row | BadRow:
    row = Row(number, value) if isinstance(value, dict) else json_lines.conversation(number, value)
    try:
        # bytes that are not UTF-8 were read as halves of surrogate pairs
        text.encode()
        if _HALF_PAIR.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return BadRow(number, "not UTF-8, or half of a surrogate pair in the text", excerpt(text))
    return row


class _Reader:
    """One JSON value after the other from a stream, with a buffer that grows only for a value that needs it."""

    def __init__(self, stream: TextStream, meter: Meter) -> None:
        self.meter = meter
        self.path = stream.path
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape").decode
        self._scan = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self._lines = 1
        self._ended = False

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, *expected: str) -> str:
        """The next character, which must be one of ``expected``."""
        found = self.peek()
        if found not in expected or not found:
            what = f"`{found}`" if found else "the end of the file"
            self.fail(f"{what} where {' or '.join(f'`{one}`' for one in expected)} should be")
        self._at += 1
        return found

    def value(self) -> tuple[Any, str]:
        """The next value and its text."""
        self.peek()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except json.JSONDecodeError as error:
                # a value that merely stops at the end of the buffer wants more of it
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - 16
                if not (cut and self._more()):
                    self.fail(error.msg if not cut else f"the file ends inside a value ({error.msg})", error.pos)
            except (RecursionError, ValueError) as error:
                self.fail(str(error))
            else:
                # a number at the end of the buffer may go on
                if end < len(self._text) or not self._more():
                    text = self._text[self._at : end]
                    self._at = end
                    return value, text

    def key(self) -> str:
        """The next key of an object, and its colon."""
        key, _ = self.value()
        if not isinstance(key, str):
            self.fail("a key that is not a string")
        self.take(":")
        return key

    def end(self) -> None:
        """Nothing but space may follow."""
        if found := self.peek():
            self.fail(f"`{found}` after the end of the JSON value")

    def fail(self, what: str, position: int | None = None) -> NoReturn:
        """Stop: what follows cannot be told apart."""
        line = self._lines + self._text.count("\n", 0, self._at if position is None else position)
        raise InputError(
            f"`{self.path}` is not JSON at line {line}: {what}",
            "repair or download it again; in a .jsonl file only the broken lines would be lost",
        )

    def _more(self) -> bool:
        if self._ended:
            return False
        rest = self._text[self._at :]
        if len(rest) > MAX_LINE:
            self.fail(f"one value is longer than {MAX_LINE >> 20} MB; write the rows to a .jsonl file")
        # doubling keeps the work on a long value linear
        data = self._stream.read(max(CHUNK, len(rest)))
        self._ended = not data
        self._lines += self._text.count("\n", 0, self._at)
        self._text = rest + self._decode(data, final=self._ended)
        self._at = 0
        return not self._ended
