"""JSON lines: one object a line. A line that cannot be read is a bad row, the rest is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from diq.formats.rows import BadRow, Meter, Row, excerpt
from diq.formats.streams import TextStream, lines


def rows(path: Path, meter: Meter) -> Iterator[Row | BadRow]:
    """Rows of a .jsonl file; blank lines are skipped and not counted. A repeated key: the last one counts."""
    with TextStream(path, meter) as stream:
        for line, raw in enumerate(lines(stream), start=1):
            try:
                values = orjson.loads(raw)
            except ValueError:
                if not raw.strip():
                    continue
                yield slowly(line, raw)
                continue
            yield Row(line, values) if type(values) is dict else conversation(line, values)


def slowly(line: int, raw: bytes) -> Row | BadRow:
    """A line that orjson refused: NaN and Infinity are accepted (as Python writes them), anything else says why."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return BadRow(line, f"not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}", excerpt(raw))
    try:
        values = json.loads(text)
    except RecursionError:
        return BadRow(line, "not JSON that can be read: nested too deeply", excerpt(text))
    except ValueError as error:
        return BadRow(line, f"not JSON: {error}", excerpt(text))
    row = Row(line, values) if isinstance(values, dict) else conversation(line, values)
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return BadRow(line, "half of a surrogate pair (\\ud800 to \\udfff) in the text", excerpt(text))
    return row


def conversation(line: int, value: Any) -> Row | BadRow:
    """A bare list of turns as a row with the column `messages`; the reject for any other value that is no object."""
    if type(value) is list and value and all(type(one) is type(value[0]) in (dict, str) for one in value):
        return Row(line, {"messages": value})
    return not_an_object(line, value)


def not_an_object(line: int, value: Any) -> BadRow:
    """The reject for a JSON value that is no object."""
    names = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return BadRow(line, f"not an object but {names.get(type(value), 'a number')}", excerpt(value))
