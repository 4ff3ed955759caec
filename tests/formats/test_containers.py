"""Containers: the same rows from every kind of file, exact line numbers, and broken files that say what is wrong."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import run_forked
from diq.base.errors import InputError
from diq.formats import open_source
from diq.formats.containers import CONTAINERS, arrays, columnar, csv_table, json_tree, reader, suffix
from diq.formats.rows import BadRow, Meter, Row
from diq.formats.sources import FileSource
from diq.formats.streams import MAX_LINE, TextStream, lines

ROWS = [
    {"question": "What is a fever?", "answer": "A high temperature, 38 °C or more."},
    {"question": 'Two\nlines, a comma and a "quote"', "answer": "Yes\r\nand no"},
    {"question": "日本語 🩺", "answer": "ψ"},
]


def read(path: Path) -> list[Row | BadRow]:
    return list(reader(path)(path, Meter()))


def values(path: Path) -> list[dict[str, Any]]:
    found = read(path)
    assert not [row for row in found if isinstance(row, BadRow)]
    return [row.values for row in found if isinstance(row, Row)]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def csv_bytes(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=2)
    return out.getvalue()


def arrow(rows: list[dict[str, Any]], *, stream: bool) -> bytes:
    out = io.BytesIO()
    table = pa.Table.from_pylist(rows)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return out.getvalue()


FORMS: dict[str, tuple[str, Callable[[list[dict[str, Any]]], bytes]]] = {
    "jsonl": (".jsonl", jsonl),
    "jsonl with mark": (".jsonl", lambda rows: b"\xef\xbb\xbf" + jsonl(rows)),
    "jsonl in UTF-16": (".jsonl", lambda rows: jsonl(rows).decode().encode("utf-16")),
    "jsonl in UTF-32": (".jsonl", lambda rows: jsonl(rows).decode().encode("utf-32")),
    "jsonl with CRLF": (".jsonl", lambda rows: jsonl(rows).replace(b"\n", b"\r\n")),
    "array": (".json", lambda rows: json.dumps(rows).encode()),
    "pretty array": (".json", lambda rows: json.dumps(rows, indent=1, ensure_ascii=False).encode()),
    "json lines named json": (".json", jsonl),
    "pandas columns": (
        ".json",
        lambda rows: json.dumps({c: {str(i): row[c] for i, row in enumerate(rows)} for c in rows[0]}).encode(),
    ),
    "csv": (".csv", csv_bytes),
    "csv with mark": (".csv", lambda rows: b"\xef\xbb\xbf" + csv_bytes(rows)),
    "csv with semicolons": (".csv", lambda rows: csv_bytes(rows, ";")),
    "tsv": (".tsv", lambda rows: csv_bytes(rows, "\t")),
    "parquet": (".parquet", parquet),
    "arrow stream": (".arrow", lambda rows: arrow(rows, stream=True)),
    "arrow file": (".arrow", lambda rows: arrow(rows, stream=False)),
}
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("form", FORMS)
def test_every_container_gives_the_same_rows(tmp_path: Path, form: str, packed: str) -> None:
    ending, write = FORMS[form]
    path = tmp_path / f"rows{ending}{packed}"
    path.write_bytes(PACKED[packed](write(ROWS)))
    assert values(path) == ROWS


def test_objects_keyed_by_id_give_their_key(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"17": ROWS[0], "18": ROWS[1] | {"id": "own"}}, indent=2))
    assert values(path) == [{"id": "17", **ROWS[0]}, {"id": "own", **ROWS[1]}]


def test_a_single_object_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS[0], indent=2))
    assert values(path) == [ROWS[0]]


def test_members_of_a_gzip_file_are_all_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    data = jsonl(ROWS)
    path.write_bytes(gzip.compress(data[:50]) + gzip.compress(data[50:]) + b"\0" * 512)
    assert values(path) == ROWS
    zst = tmp_path / "rows.jsonl.zst"
    zst.write_bytes(zstandard.compress(data[:50]) + zstandard.compress(data[50:]))
    assert values(zst) == ROWS


def test_compression_is_told_by_content(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(gzip.compress(jsonl(ROWS)))
    assert values(path) == ROWS


def test_bad_lines_are_named_exactly(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b'{"a": 1}\n'
        b"\n"
        b'{"a": \n'
        b"[1, 2]\n"
        b'"text"\n'
        b"   \r\n"
        b'{"a": "caf\xe9"}\n'
        b'{"a": NaN, "b": Infinity, "a": 2}\n'
        b'{"a": "\\ud83d"}\n' + b"[" * 5000 + b"\n"
        b'{"a": 3}'
    )
    found = read(path)
    assert [(row.line, row.values["a"]) for row in found if isinstance(row, Row)] == [(1, 1), (8, 2), (11, 3)]
    bad = {row.line: row for row in found if isinstance(row, BadRow)}
    assert sorted(bad) == [3, 4, 5, 7, 9, 10]
    assert bad[3].reason.startswith("not JSON: ")
    assert bad[4] == BadRow(4, "not an object but an array", "[1, 2]")
    assert bad[5].reason == "not an object but a string"
    assert bad[7].reason == "not UTF-8: byte 0xe9 at offset 10"
    assert "surrogate" in bad[9].reason
    assert bad[10].reason.startswith("not JSON")
    assert len(bad[10].content) == 2000


def test_csv_rows_name_the_line_they_start_on(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b'q,a\n"one\ntwo",1\n\nx,y,z\nlonely\n"caf\xe9",2\n"a" b,3\nlast,4\n')
    found = read(path)
    assert [row for row in found if isinstance(row, Row)] == [
        Row(2, {"q": "one\ntwo", "a": "1"}),
        Row(9, {"q": "last", "a": "4"}),
    ]
    bad = {row.line: row.reason for row in found if isinstance(row, BadRow)}
    assert bad[5] == "3 fields where the header has 2"
    assert bad[6] == "1 field where the header has 2"
    assert bad[7] == "not UTF-8: byte 0xe9 at offset 4"
    assert bad[8].startswith("not CSV: ")
    assert list(bad) == [5, 6, 7, 8]


@pytest.mark.parametrize("n", [0, 1, 5, 2000])
@pytest.mark.parametrize(
    ("row", "line"),
    [
        ('"open,1\n', 4),
        ('1,"open\n', 4),
        ('"a\nb","c ""d"" e","open\n', 5),
        ('"a ""b"",\n\n","x\ny', 6),
        # a quote within a field that has none around it opens nothing
        ('the 5" nail,"open\n', 4),
    ],
)
def test_a_quote_that_is_not_closed_names_its_line(tmp_path: Path, row: str, line: int, n: int) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("q,a\n" + '"x\ny",z\n' + row + "\n".join(["q,a"] * n))
    with pytest.raises(InputError) as error:
        read(path)
    where = "within 1,000 lines" if n == 2000 else "before the end of the file"
    assert error.value.message == f"`{path}`: the quote that opens a field on line {line} is not closed {where}"
    assert "close it" in error.value.hint


def test_the_most_lines_of_a_field(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    longest = "\n".join(map(str, range(1000)))
    # the limit is that of each field, not of the row
    path.write_text(f'q,a\n"{longest}","{longest}"\nlast,1\n')
    assert read(path) == [Row(2, {"q": longest, "a": longest}), Row(2001, {"q": "last", "a": "1"})]
    path.write_text(f'q,a\n"{longest}","{longest}\n"\nlast,1\n')
    with pytest.raises(InputError, match=r"on line 1001 is not closed within 1,000 lines"):
        read(path)


def test_a_quote_that_is_not_closed_in_a_header(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('q,"a\n' + "x,y\n" * 5)
    with pytest.raises(InputError, match="opens a field on line 1 is not closed before the end"):
        read(path)


@pytest.mark.parametrize("lines", [1, 3])
def test_a_field_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int) -> None:
    monkeypatch.setattr(csv_table, "FIELD_LIMIT", 1000)
    path = tmp_path / "rows.csv"
    text = "\n".join(["x" * 1200] * lines)
    path.write_text(f'q,a\n"{text}",1\nlast,2\n')
    if lines == 1:
        first, last = read(path)
        assert isinstance(first, BadRow)
        assert last == Row(3, {"q": "last", "a": "2"})
    else:
        with pytest.raises(InputError, match="on line 2 is not closed within 1,000 characters"):
            read(path)
    assert csv.field_size_limit() > 1000


def test_lines_that_a_stray_quote_takes_with_it_are_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("q,a\n" + '1,"open\n' + "q,a\n" * 40 + '2,"closed" here\n' + '"a\nb" c,1\n' + "q,a\n" * 3)
    meter = Meter()
    found = list(reader(path)(path, meter))
    assert [(row.line, type(row)) for row in found] == [(2, BadRow), (44, BadRow), *((n, Row) for n in (46, 47, 48))]
    assert list(meter.notes) == [
        "2 rows of several lines are no CSV, the longest from line 2 to line 43; does a stray quote stand there?"
    ]


def test_a_csv_header_with_a_name_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("q,a,q\n1,2,3\n")
    with pytest.raises(InputError, match="two columns named `q`"):
        read(path)


def test_elements_of_an_array_that_are_no_objects(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b'[{"a": 1}, 7, null, {"a": "caf\xe9"}, {"a": "\\udc00"}, {"a": "\\ud83d\\ude00"}, 12345]')
    found = read(path)
    assert [row.line for row in found] == [1, 2, 3, 4, 5, 6, 7]
    assert [row.values for row in found if isinstance(row, Row)] == [{"a": 1}, {"a": "😀"}]
    assert [row.content for row in found if isinstance(row, BadRow)][-1] == "12345"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, {"a": ', "line 1: the file ends inside a value"),
        ('[{"a": 1},\n{"a": "x}', "line 2: the file ends inside a value"),
        ('[{"a": 1}\n', "line 2: the end of the file where `,` or `]` should be"),
        ('[{"a": 1}\n\n{"a": 2}]', "line 3: `{` where"),
        ('[{"a": 1}] x', "after the end of the JSON value"),
        ('[{"a": 1},\n{"a": tru e}' + " " * 100 + "]", "line 2: Expecting value"),
        ("hello", "starts with `h`"),
        ('{"a": {"x": 1}, 3: 4}' + " " * 50, "Expecting property name|a key that is not a string"),
    ],
)
def test_json_that_breaks_off_says_where(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read(path)


def test_long_values_cross_the_buffer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a buffer of a few bytes cuts numbers, escapes, literals and characters everywhere
    for chunk in (1, 2, 3, 7):
        monkeypatch.setattr(json_tree, "CHUNK", chunk)
        monkeypatch.setattr(TextStream.read, "__defaults__", (chunk,))
        rows = [{"a": 'x\\"é🩺' * 5, "n": -12.5e10, "t": [True, None, {}]}, {"b": 1234567}, {"c": "ψ"}]
        for data in (rows, {"k1": rows[0], "k2": rows[1]}):
            path = tmp_path / "rows.json"
            path.write_bytes(json.dumps(data, ensure_ascii=False).encode() + b"\n ")
            wanted = rows if data is rows else [{"id": key, **row} for key, row in data.items()]  # type: ignore[union-attr]
            assert values(path) == wanted


def test_one_value_larger_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_tree, "MAX_LINE", 1 << 20)
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"a": {"0": "x" * (4 << 20)}}))
    with pytest.raises(InputError, match="longer than 1 MB"):
        read(path)


def test_one_line_larger_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diq.formats.streams.MAX_LINE", 1 << 20)
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"a": "x" * (4 << 20)}))
    with pytest.raises(InputError, match=r"line 1 of .* longer than 1 MB"):
        read(path)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")), max_size=30), st.integers(1, 50))
def test_lines_equal_split(tmp_path_factory: pytest.TempPathFactory, wanted: list[bytes], chunk: int) -> None:
    class Pieces:
        path = Path("x")
        data = b"\n".join(wanted)

        def read(self) -> bytes:
            piece, self.data = self.data[:chunk], self.data[chunk:]
            return piece

    expected = b"\n".join(wanted).split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    assert list(lines(Pieces())) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("cut", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("form", ["jsonl.gz", "jsonl.zst", "parquet", "arrow", "csv.gz", "json.gz", "parquet.gz"])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path: Path, form: str, cut: float) -> None:
    rows = [{"question": f"q{i} {os.urandom(20).hex()}", "answer": os.urandom(200).hex()} for i in range(500)]
    ending, _, packed = form.partition(".")
    _, write = next(one for one in FORMS.values() if one[0] == f".{ending}")
    if ending == "arrow":
        write = FORMS["arrow file"][1]
    data = PACKED[f".{packed}" if packed else ""](write(rows))
    path = tmp_path / f"rows.{form}"
    path.write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(InputError, match=f"rows.{form}"):
        read(path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\x00\x01\x02\x03", "is not text"),
        ("a.csv", '{"a": 1}\n'.encode("utf-16-le"), "is not text"),
        ("a.jsonl.gz", b'{"a": 1}\n', "does not start like gzip"),
        ("a.jsonl.zst", gzip.compress(b"{}", mtime=0), "does not start like zstd"),
        ("a.parquet", b"PAR1 and no more", "cannot be read as Parquet"),
        ("a.parquet", b"hello hello hello", "cannot be read as Parquet"),
        ("a.arrow", b"hello hello hello", "cannot be read as Arrow"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git-lfs pointer"),
        ("a.jsonl", b"\xff\xfe{\x00\x00\xd8", "byte order mark"),
        ("a.txt", b"hello", "no suffix of a container"),
    ],
)
def test_files_that_are_not_what_they_say(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as error:
        read(path)
    assert error.value.hint


def test_damage_inside_gzip_is_found(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(jsonl(ROWS * 100)))
    data[len(data) // 2] ^= 255
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"is damaged|is cut off"):
        read(path)


def test_suffixes() -> None:
    assert suffix(Path("a.b.JSONL.gz")) == ".jsonl"
    assert suffix(Path("a.jsonl.txt")) == ""
    assert suffix(Path("train.parquet")) == ".parquet"
    assert {"." + name for name in ("jsonl", "json", "csv", "parquet", "arrow")} <= set(CONTAINERS)


# rows that lie deeper -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        {"data": [{"question": "Q1?", "answer": "A1."}, {"question": "Q2?", "answer": "A2."}]},
        {"data": [{"question": "Q1?", "answer": "A1."}, {"question": "Q2?", "answer": "A2."}], "version": "1.1"},
        {"version": "1.1", "data": [{"question": "Q1?", "answer": "A1."}, {"question": "Q2?", "answer": "A2."}]},
        {"anything": [{"question": "Q1?", "answer": "A1."}, {"question": "Q2?", "answer": "A2."}]},
        {"question": ["Q1?", "Q2?"], "answer": ["A1.", "A2."]},
    ],
    ids=["wrapped", "with a version", "behind a version", "by any name", "columns"],
)
def test_rows_within_an_object(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(content))
    found = list(FileSource(str(path)).rows())
    assert found == [
        Row(1, {"question": "Q1?", "answer": "A1."}), Row(2, {"question": "Q2?", "answer": "A2."})
    ]  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        {"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]},
        {"question": "Q?", "options": [{"key": "A", "value": "one"}], "answer": "A"},
        {"questions": [["Q?"]], "answers": ["A."]},
        {"id": "1", "data": ["Q?", "A."]},
        {"data": ["Q?", "A."], "id": "1"},
    ],
    ids=str,
)
def test_one_object_that_is_one_row_stays_one(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "row.json"
    path.write_text(json.dumps(content))
    assert list(FileSource(str(path)).rows()) == [Row(1, content)]


@pytest.mark.parametrize("key", ["conversations", "messages", "data"])
def test_conversations_within_an_object_are_rows(tmp_path: Path, key: str) -> None:
    talk = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({key: [talk, talk]}))
    assert list(FileSource(str(path)).rows()) == [Row(1, {"messages": talk}), Row(2, {"messages": talk})]
    path.write_text(json.dumps({key: [{"id": 1, "messages": talk}], "version": "1"}))
    assert list(FileSource(str(path)).rows()) == [Row(1, {"id": 1, "messages": talk})]
    path.write_text(json.dumps({"messages": [talk, talk], "id": [1, 2]}))
    assert [one.values["id"] for one in FileSource(str(path)).rows() if isinstance(one, Row)] == [1, 2]


def test_several_lists_of_rows_are_not_one_set(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    for order in (("train", "test"), ("version", "train", "test")):
        rows = [{"question": "Q?", "answer": "A."}]
        path.write_text(json.dumps({name: "1.0" if name == "version" else rows for name in order}))
        with pytest.raises(InputError, match="several lists of rows: train, test"):
            list(FileSource(str(path)).rows())


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_bare_conversations_are_rows(tmp_path: Path, ending: str) -> None:
    talk = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]
    rows = [talk, ["Q?", "A."], [1, 2], []]
    path = tmp_path / f"rows{ending}"
    path.write_text(json.dumps(rows) if ending == ".json" else "".join(f"{json.dumps(one)}\n" for one in rows))
    first, second, third, fourth = FileSource(str(path)).rows()
    assert first == Row(1, {"messages": talk})
    assert second == Row(2, {"messages": ["Q?", "A."]})
    assert (third.line, third.reason) == (3, "not an object but an array")
    assert isinstance(fourth, BadRow)


@pytest.mark.parametrize("order", [1, -1], ids=["before", "behind"])
def test_texts_beside_a_list_of_rows_are_told(tmp_path: Path, order: int) -> None:
    rows = [{"question": "Q?", "answer": "A."}] * 3
    whole = {"system": "Be kind.", "version": "1.0", "note": "long " * 60, "data": rows}
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(dict(list(whole.items())[::order])))
    told = open_source(path)
    assert len(list(told)) == len(list(told)) == 3
    (note,) = told.source.meter.notes
    assert sorted(note[: note.index(" beside")].split(", ")) == ["`note`", "`system`"]
    assert note.endswith(" beside the list `data` is in no row; put it into each of them if it belongs there")
    path.write_text(json.dumps({"version": "1.0", "data": rows, "license": "MIT"}))
    plain = open_source(path)
    assert len(list(plain)) == 3
    assert not plain.source.meter.notes


# columnar files that nobody vouches for ------------------------------------------------------------------------------

ANSWERS = ["a" * 7, "b" * 7, "c" * 7, "d" * 7, "e" * 7]


def patched_arrow(*, stream: bool, **offsets: int) -> bytes:
    """An Arrow file of five answers of seven characters, whose places in the text are changed, by their number."""
    out = io.BytesIO()
    table = pa.table({"question": [f"q{i}" for i in range(5)], "answer": ANSWERS})
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(out, table.schema) as writer:
        writer.write_table(table)
    data = bytearray(out.getvalue())
    places = np.arange(0, 36, 7, dtype="<i4").tobytes()
    assert data.count(places) == 1
    for number, value in offsets.items():
        at = data.index(places) + 4 * int(number.lstrip("_"))
        data[at : at + 4] = value.to_bytes(4, "little", signed=True)
    return bytes(data)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "file"])
@pytest.mark.parametrize(
    "offsets",
    [{"_5": 2**31 - 1}, {"_1": -5}, {"_5": 200}, {"_5": 39}, {"_2": 3}],
    ids=["far beyond", "negative", "beyond", "into the padding", "backwards"],
)
def test_arrow_that_points_elsewhere_is_refused(tmp_path: Path, offsets: dict[str, int], stream: bool) -> None:
    path = tmp_path / "rows.arrow"
    path.write_bytes(patched_arrow(stream=stream, _0=0))
    assert [row["answer"] for row in values(path)] == ANSWERS
    path.write_bytes(patched_arrow(stream=stream, **offsets))
    # in a process of its own, which a wrong place may well end
    done = run_forked(read_or_say, path, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rows.arrow` cannot be read as Arrow: Offset invariant failure" in done.stdout
    assert "\nhint: " in done.stdout


def read_or_say(path: Path) -> None:
    try:
        print(len(read(path)))
    except InputError as error:
        print(error)


def test_arrow_that_points_elsewhere_within_others_is_refused(tmp_path: Path) -> None:
    turns = pa.array([[{"role": "user", "content": answer} for answer in ANSWERS]])
    index = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 3, 4], pa.int32()), pa.array(ANSWERS))
    for table, place in (
        (pa.table({"messages": turns}), np.arange(0, 36, 7, dtype="<i4").tobytes()),
        (pa.table({"answer": index}), np.arange(5, dtype="<i4").tobytes()),
    ):
        path = tmp_path / "rows.arrow"
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
        data = path.read_bytes()
        assert data.count(place) == 1
        path.write_bytes(data.replace(place, place[:-4] + (10**9).to_bytes(4, "little")))
        assert "cannot be read as Arrow" in run_forked(read_or_say, path, folder=tmp_path).stdout


def damage(folder: Path) -> None:
    """Read files with flipped bits and of every length; each must be read or refused."""
    rng = random.Random(0)
    rows = [{"q": f"question {i}", "m": [{"role": "user", "content": "é" * i}]} for i in range(4)]
    n_read = n_refused = 0
    for stream in (True, False):
        whole = arrow(rows, stream=stream)
        for turn in range(300):
            data = bytearray(whole)
            if turn % 4:
                for _ in range(turn % 4):
                    place = rng.randrange(len(data))
                    data[place] = rng.choice([0, 127, 128, 255, data[place] ^ 1])
            else:
                del data[rng.randrange(6, len(data)) :]
            path = folder / "rows.arrow"
            path.write_bytes(data)
            try:
                n_read += bool(list(itertools.islice(reader(path)(path, Meter()), 1000)))
            except InputError:
                n_refused += 1
    print(n_read, n_refused)


def test_damaged_arrow_is_read_or_refused(tmp_path: Path) -> None:
    done = run_forked(damage, tmp_path, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    n_read, n_refused = map(int, done.stdout.split())
    assert n_read > 50
    assert n_refused > 100


@pytest.mark.parametrize("nested", [False, True], ids=["column", "within others"])
def test_bytes_that_are_no_text_are_rejects_of_their_rows(tmp_path: Path, nested: bool) -> None:
    texts = pa.array([b"good", b"caf\xe9", b"fine"]).view(pa.string())
    column = pa.StructArray.from_arrays([texts, texts], ["role", "content"]) if nested else texts
    table = pa.table({"a": column})
    for ending in ("parquet", "arrow"):
        path = tmp_path / f"rows.{ending}"
        if ending == "parquet":
            pq.write_table(table, path)
        else:
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table)
        first, second, third = read(path)
        assert (first.line, third.line) == (1, 3)
        assert isinstance(first, Row)
        assert isinstance(third, Row)
        assert second == BadRow(2, "not UTF-8: unexpected end of data at offset 3", "")


def test_a_value_that_python_cannot_hold_is_the_reject_of_its_row(tmp_path: Path) -> None:
    table = pa.table({"a": ["x", "y"], "day": pa.array([0, 10**7], pa.date32())})
    path = tmp_path / "rows.parquet"
    pq.write_table(table, path)
    first, second = read(path)
    assert isinstance(first, Row)
    assert isinstance(second, BadRow)
    assert second.reason.startswith("a value that cannot be read: ")


def repeated(kind: str, text: str, n: int) -> pa.Table:
    """A table of n rows that all use one text, which stands in it once."""
    index = pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int32()), pa.array([text]))
    if kind == "dictionary":
        return pa.table({"question": [f"q{i}" for i in range(n)], "answer": index})
    if kind == "views":
        view = pa.array([text], pa.string_view()).buffers()
        many = pa.Array.from_buffers(pa.string_view(), n, [None, pa.py_buffer(bytes(view[1]) * n), view[2]])
        return pa.table({"question": [f"q{i}" for i in range(n)], "answer": many})
    turns = pa.StructArray.from_arrays([pa.array(["user"] * n), index], ["role", "content"])
    places = pa.array([0, n] if kind == "one row" else range(n + 1), pa.int32())
    return pa.table({"messages": pa.ListArray.from_arrays(places, turns)})


@pytest.mark.parametrize("kind", ["dictionary", "views", "turns"])
def test_batches_are_cut_by_what_their_rows_hold(tmp_path: Path, kind: str) -> None:
    n, text = 300, "x" * 300_000
    table = repeated(kind, text, n)
    assert arrays.unfolded(table.to_batches()[0]) >= n * len(text)
    path = tmp_path / "rows.arrow"
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    lengths = [n_bytes(batch.to_pylist()) for batch in columnar.batches(path, Meter())]
    assert max(lengths) < 1.1 * arrays.BATCH_BYTES
    assert len(lengths) <= 2 * sum(lengths) // arrays.BATCH_BYTES
    found = read(path)
    assert [row.line for row in found] == list(range(1, n + 1))
    assert [row.values for row in found if isinstance(row, Row)] == table.to_pylist()


def test_a_row_of_more_than_a_line_may_have_is_a_reject(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    table = repeated("one row", "x" * 1_000_000, MAX_LINE // 1_000_000 + 1)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    assert read(path) == [BadRow(1, "the row is longer than 128 MB", "")]


def columns(kind: Any, value: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.just(kind), st.lists(st.none() | value, min_size=1, max_size=9))


TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
COLUMNS = st.one_of(
    columns(pa.string(), TEXTS),
    columns(pa.large_string(), TEXTS),
    columns(pa.string_view(), TEXTS),
    columns(pa.dictionary(pa.int8(), pa.string()), TEXTS),
    columns(pa.list_(pa.string()), st.lists(TEXTS, max_size=4)),
    columns(pa.list_(pa.string(), 2), st.lists(TEXTS, min_size=2, max_size=2)),
    columns(
        pa.map_(pa.string(), pa.string()), st.dictionaries(TEXTS, TEXTS, max_size=3).map(lambda one: [*one.items()])
    ),
    columns(pa.struct([("a", pa.string()), ("b", pa.int64())]), st.fixed_dictionaries({"a": TEXTS, "b": st.just(1)})),
)


def n_bytes(value: Any) -> int:
    """Bytes of the texts of a value, the slow and obvious way."""
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, dict):
        return sum(map(n_bytes, value.values()))
    return sum(map(n_bytes, value)) if isinstance(value, (list, tuple)) else 0


@settings(max_examples=150)
@given(COLUMNS, st.integers(0, 8), st.integers(0, 9))
def test_the_size_of_a_batch_is_that_of_its_texts(column: tuple[Any, list[Any]], start: int, n: int) -> None:
    kind, rows = column
    batch = pa.record_batch({"a": pa.array(rows, kind)}).slice(min(start, len(rows)), n)
    size, texts = arrays.unfolded(batch), n_bytes(batch.column(0).to_pylist())
    # beside the texts there are places and numbers
    assert texts <= size <= texts + 200 * (batch.num_rows + 1)
    pieces = list(arrays.parts(batch))
    assert pa.Table.from_batches(pieces).to_pylist() == batch.to_pylist()


# a Parquet file of some kB whose rows hold 2 GB
BOMB_ROWS, BOMB_TEXT = 200, 10_000_000
READ_BOMB = """
import resource, sys
from pathlib import Path
from diq.formats.containers import columnar
from diq.formats.rows import Meter
limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 1_000_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
n = 0
for row in columnar.rows(Path(sys.argv[1]), Meter()):
    n += len(row.values["answer"] if "answer" in row.values else row.values["messages"][0]["content"])
print(n)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of a process is limited on Linux alone")
@pytest.mark.parametrize("kind", ["dictionary", "turns"])
def test_parquet_whose_rows_share_a_text_is_read_in_little_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(repeated(kind, "x" * BOMB_TEXT, BOMB_ROWS), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 50_000
    done = subprocess.run([sys.executable, "-c", READ_BOMB, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == BOMB_ROWS * BOMB_TEXT


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dictionary": False},
        {"use_dictionary": False, "column_encoding": {"answer": "DELTA_BYTE_ARRAY", "question": "PLAIN"}},
        {"use_dictionary": ["question"]},
        {"dictionary_pagesize_limit": 1000, "data_page_size": 1000},
        {"store_schema": False, "data_page_version": "2.0"},
    ],
    ids=str,
)
def test_every_encoding_of_parquet_gives_the_same_rows(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # so that the dictionaries are looked at, and few rows are read at once
    monkeypatch.setattr(columnar, "_UNFOLDED", 0)
    monkeypatch.setattr(columnar, "_UNFOLDED_BY_LENGTH", 2000)
    rows = [{"question": f"q{i % 7}", "answer": f"a{i}" * (i % 50), "n": i} for i in range(500)]
    rows[0]["answer"] = None
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=120, **options)
    assert values(path) == rows
    talks = [{"messages": [{"role": "user", "content": row["answer"]}] * (i % 3)} for i, row in enumerate(rows)]
    general = {name: value for name, value in options.items() if name not in ("use_dictionary", "column_encoding")}
    pq.write_table(pa.Table.from_pylist(talks), path, row_group_size=120, **general)
    assert values(path) == talks
