"""``diq.rank`` over NumPy and Arrow columns, against a full sort in numpy."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from decimal import Decimal
from types import SimpleNamespace

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diq
from conftest import TESTS
from diq import _core
from diq.base.errors import UsageError
from diq.selection import quadrants
from test_core import naive_rank

# small numbers, so that ties are common
scores = st.none() | st.sampled_from([-2.0, -0.0, 0.0, 0.5, 1.0, 2.0, float("nan"), float("inf"), float("-inf")])


def with_nan(values) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], float)


def check(ranking, dot, difficulty, *, ratio=1.0, **arguments):
    """A ranking against the full sort of plain float64 columns."""
    order, quadrant, tau, median = naive_rank(with_nan(dot), with_nan(difficulty), **arguments)
    assert ranking.rows.tolist() == order[: int(len(order) * ratio)].tolist()
    assert ranking.quadrant.tolist() == quadrant.tolist()
    assert ranking.n_scored == len(order)
    np.testing.assert_allclose([ranking.tau, ranking.median], [tau, median], rtol=1e-15)


def chunked(values, cuts, kind, pad=0) -> pa.ChunkedArray:
    """Chunks that start at ``cuts``, each cut from a longer array, so that its first value is at bit ``pad``."""
    bounds = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    padded = ([None] * pad + values[start:end] + [1.0] for start, end in itertools.pairwise(bounds))
    return pa.chunked_array([pa.array(part, kind)[pad:-1] for part in padded], kind)


@given(
    st.lists(st.tuples(scores, scores), max_size=60),
    st.lists(st.integers(0, 60), max_size=6),
    st.lists(st.integers(0, 60), max_size=6),
    st.tuples(st.sampled_from([pa.float32(), pa.float64()]), st.sampled_from([pa.float32(), pa.float64()])),
    st.integers(0, 17),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
def test_chunks_rank_as_a_full_sort(pairs, dot_cuts, difficulty_cuts, kinds, pad, percentile):
    dot, difficulty = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    columns = chunked(dot, dot_cuts, kinds[0], pad), chunked(difficulty, difficulty_cuts, kinds[1], 2 * pad)
    check(diq.rank(*columns, percentile=percentile), dot, difficulty, percentile=percentile)
    check(diq.rank(*columns, threshold=0.5), dot, difficulty, threshold=0.5)


MANY = 300_000


def many() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    dot = rng.normal(size=MANY).round(2)
    dot[rng.random(MANY) < 0.01] = np.nan
    dot[:3] = np.inf, -np.inf, -0.0
    difficulty = rng.integers(1, 6, MANY).astype(float)
    difficulty[rng.random(MANY) < 0.01] = np.nan
    return dot, difficulty


def many_chunks(values: np.ndarray, rows: int) -> pa.ChunkedArray:
    """float32 with null for NaN, and NaN under every other null."""
    kept = np.where(np.arange(MANY) % 2 == 0, np.nan_to_num(values, nan=3.0, posinf=np.inf, neginf=-np.inf), values)
    whole = pa.array(kept.astype(np.float32), mask=np.isnan(values))
    return pa.chunked_array([whole[start : start + rows] for start in range(0, MANY, rows)])


def test_many_rows_with_nulls_rank_as_a_full_sort():
    dot, difficulty = many()
    columns = many_chunks(dot, 2047), many_chunks(difficulty, 70_001)
    assert columns[0].null_count
    ranking = diq.rank(*columns, ratio="10%")
    check(ranking, dot.astype(np.float32), difficulty, ratio=0.1)
    plain = diq.rank(dot.astype(np.float32), difficulty.astype(np.float32), ratio="10%")
    assert (ranking.tau, ranking.median, ranking.counts) == (plain.tau, plain.median, plain.counts)


def test_a_ranking_is_shown_on_one_line():
    found = diq.rank(np.arange(8.0), np.arange(8.0), threshold=3, ratio=0.5)
    assert repr(found) == "Ranking(4 rows, tau=3.0, median=3.5, n_scored=8, counts=(4, 0, 1, 3))"


def test_every_number_of_threads_gives_the_same_bits():
    script = """
import hashlib, diq
from selection import test_quadrants as t
dot, difficulty = t.many()
for columns in (dot, difficulty), (t.many_chunks(dot, 4099), t.many_chunks(difficulty, 130_000)):
    ranking = diq.rank(*columns, ratio=0.5)
    found = ranking.rows.tobytes() + ranking.quadrant.tobytes() + repr((ranking.tau, ranking.median)).encode()
    print(hashlib.sha256(found).hexdigest())
"""
    outputs = set()
    for threads in ("1", "2", "5"):
        environment = {
            **os.environ,
            "RAYON_NUM_THREADS": threads,
            "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
        }
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1
    assert len(outputs.pop().split()) == 2


DOT, DIFFICULTY = [0.5, 3.0, None, -1.0, 0.5, 2.0], [4.0, 1.0, 5.0, None, 4.0, 2.0]


def relation(columns: str) -> duckdb.DuckDBPyRelation:
    rows = ", ".join(
        f"({i}, {d or 'null'}, {f or 'null'})" for i, (d, f) in enumerate(zip(DOT, DIFFICULTY, strict=True))
    )
    query = f"from (values {rows}) rows(i, dot, difficulty) select {columns} order by i"
    return duckdb.connect().sql(query)


class OneArray:
    """A producer of a single array, which is no stream."""

    def __init__(self, array):
        self.array = array

    def __arrow_c_array__(self, requested_schema=None):
        return self.array.__arrow_c_array__(requested_schema)


@pytest.mark.parametrize(
    "column",
    [
        lambda name, values: with_nan(values),
        lambda name, values: with_nan(values).tolist(),
        lambda name, values: np.repeat(with_nan(values), 2)[::2],
        lambda name, values: with_nan(values).astype(">f4"),
        lambda name, values: np.ma.masked_array([value or 7 for value in values], [value is None for value in values]),
        lambda name, values: pa.array(values),
        lambda name, values: pa.chunked_array([values[:2], [], values[2:]], pa.float32()),
        lambda name, values: OneArray(pa.array(values)),
        lambda name, values: OneArray(pa.record_batch({"any name": values})),
        lambda name, values: pa.table({"any name": values}),
        lambda name, values: pa.table({"any name": values}).to_reader(),
        lambda name, values: pd.Series(values),
        lambda name, values: pd.Series(values, dtype="Float32"),
        lambda name, values: pd.DataFrame({"any name": values}),
        lambda name, values: relation(name),
        lambda name, values: relation(f"{name}::float as {name}"),
        lambda name, values: pytest.importorskip("polars").Series(values),
    ],
)
def test_every_producer_ranks_alike(column):
    check(diq.rank(column("dot", DOT), column("difficulty", DIFFICULTY)), DOT, DIFFICULTY)


@pytest.mark.parametrize(
    "table",
    [
        lambda: relation("dot, difficulty"),
        lambda: relation("difficulty::float as difficulty, 'x' as other, dot"),
        lambda: pa.table({"other": ["x"] * 6, "difficulty": DIFFICULTY, "dot": DOT}),
        lambda: pa.table({"dot": DOT, "difficulty": DIFFICULTY}).to_reader(max_chunksize=4),
        lambda: pa.record_batch({"dot": DOT, "difficulty": DIFFICULTY}),
        lambda: OneArray(pa.record_batch({"dot": DOT, "difficulty": DIFFICULTY})),
        lambda: pd.DataFrame({"dot": DOT, "difficulty": DIFFICULTY}),
        lambda: pytest.importorskip("polars").DataFrame({"dot": DOT, "difficulty": DIFFICULTY}),
    ],
)
def test_a_table_is_two_columns(table):
    check(diq.rank(table()), DOT, DIFFICULTY)
    check(diq.rank(table(), threshold=2, ratio="50%"), DOT, DIFFICULTY, threshold=2, ratio=0.5)


def test_a_duckdb_stream_of_many_chunks():
    query = """
    select (i * 7919 % 10007)::float as dot, if(i % 97 = 0, null, (i % 5 + 1)::float) as difficulty
    from range(300000) rows(i) order by i
    """
    i = np.arange(300_000)
    dot, difficulty = (i * 7919 % 10007).astype(float), np.where(i % 97 == 0, np.nan, i % 5 + 1)
    connection = duckdb.connect()
    check(diq.rank(connection.sql(query), ratio=0.1), dot, difficulty, ratio=0.1)
    # two relations of one connection, one after the other
    columns = [connection.sql(f"select {name} from ({query})") for name in ("dot", "difficulty")]
    check(diq.rank(*columns, ratio=0.1), dot, difficulty, ratio=0.1)


@pytest.fixture
def borrowed(monkeypatch):
    """The columns that reach the core, as they arrive there."""
    seen = SimpleNamespace(columns=None)

    def rank(dot, difficulty, **arguments):
        seen.columns = dot, difficulty
        return _core.rank(dot, difficulty, **arguments)

    monkeypatch.setattr(quadrants, "_core", SimpleNamespace(rank=rank))
    return seen


def parts(chunk) -> tuple[np.ndarray, ...]:
    """The arrays of a chunk: values, and perhaps a bitmap."""
    return chunk[:2] if isinstance(chunk, tuple) else (chunk,)


def test_arrow_buffers_are_not_copied(borrowed):
    dot, difficulty = (many_chunks(values, rows) for values, rows in zip(many(), (2047, 70_001), strict=True))
    table = pa.table({"dot": dot.combine_chunks(), "difficulty": difficulty.combine_chunks()})
    for arguments, sources in [((dot, difficulty), (dot, difficulty)), ((table,), table.columns)]:
        diq.rank(*arguments)
        for source, chunks in zip(sources, borrowed.columns, strict=True):
            assert len(chunks) == source.num_chunks
            for array, chunk in zip(source.chunks, chunks, strict=True):
                validity, data = array.buffers()
                values, bits = parts(chunk)
                assert np.shares_memory(values, np.frombuffer(data, np.float32)[array.offset :][: len(array)])
                assert bits.ctypes.data == validity.address


def test_numpy_and_pandas_are_not_copied(borrowed):
    dot, difficulty = many()
    diq.rank(dot, difficulty)
    assert borrowed.columns[0][0] is dot
    assert borrowed.columns[1][0] is difficulty
    series = pd.Series(difficulty)
    diq.rank(dot, series)
    assert np.shares_memory(parts(borrowed.columns[1][0])[0], series.to_numpy())


def test_a_duckdb_stream_is_not_copied(borrowed):
    columns = "i::float as dot, if(i % 3 = 0, null, i::double) as difficulty"
    before = pa.total_allocated_bytes()
    diq.rank(duckdb.connect().sql(f"select {columns} from range(400000) rows(i)"))
    # the chunks are DuckDB's own memory, and nobody else's
    assert pa.total_allocated_bytes() == before
    for chunks in borrowed.columns:
        assert len(chunks) > 1
        assert not any(part.flags.owndata for chunk in chunks for part in parts(chunk))


@pytest.mark.parametrize(
    ("column", "same"),
    [
        (pa.array([3, None, 2**62], pa.int64()), [3, None, 2**62]),
        (pa.array([3, None, 2**64 - 1], pa.uint64()), [3, None, 2**64 - 1]),
        (pa.array([-3, 0, 5], pa.int8())[1:], [0, 5]),
        (pa.array([True, None, False]), [1, None, 0]),
        (pa.array([1.5, None, 2.5], pa.float16()), [1.5, None, 2.5]),
        (pa.array([Decimal("1.25"), None, Decimal("-3.5")]), [1.25, None, -3.5]),
        (pa.array([1.5, None, 2.5, 1.5]).dictionary_encode(), [1.5, None, 2.5, 1.5]),
        (pa.array([None, None]), [None, None]),
        (pa.array([], pa.int32()), []),
        (pa.chunked_array([], pa.float32()), []),
        (pa.chunked_array([[], []], pa.float64()), []),
        (pa.array([None, None], pa.float32()), [None, None]),
        (np.array([3, 2, 7], np.uint16), [3, 2, 7]),
        (np.array([1.5, 2.5], np.float16), [1.5, 2.5]),
        (np.array([True, False]), [1, 0]),
        ([], []),
        ([3, 1], [3, 1]),
    ],
)
def test_other_numbers_are_converted(column, same):
    ranking = diq.rank(column, np.zeros(len(same)))
    check(ranking, same, np.zeros(len(same)))
    check(diq.rank(np.zeros(len(same), np.float32), column), np.zeros(len(same)), same)


def test_a_null_row_of_a_table_is_unscored():
    rows = pa.array(
        [{"dot": 1.0, "difficulty": 2.0}, None, {"dot": 3.0, "difficulty": None}, {"dot": 4.0, "difficulty": 1.0}]
    )
    assert diq.rank(rows).quadrant.tolist() == [3, 0, 0, 2]
    assert diq.rank(rows[1:]).quadrant.tolist() == [0, 0, 1]


def test_values_that_are_not_aligned_are_read():
    data = b"\0" + np.array([1.0, 3.0, 2.0], np.float32).tobytes()
    dot = np.frombuffer(data, np.float32, offset=1)
    assert not dot.flags.aligned
    array = pa.Array.from_buffers(pa.float32(), 3, [None, pa.py_buffer(data)[1:]])
    for column in (dot, array):
        assert diq.rank(column, np.ones(3)).rows.tolist() == [1, 2, 0]


ONES = np.ones(4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"difficulty": np.ones(3)}, "difficulty has 3 rows, but dot has 4"),
        ({"difficulty": pa.chunked_array([[1.0], [2.0]])}, "difficulty has 2 rows, but dot has 4"),
        ({"dot": np.ones((2, 2))}, "`dot` has 2 dimensions, not 1"),
        ({"dot": ["a"] * 4}, "`dot` has type <U1, not numbers"),
        ({"dot": [1.0, None]}, "`dot` has type object, not numbers"),
        ({"dot": np.ones(4, complex)}, "`dot` has type complex128, not numbers"),
        ({"difficulty": pa.array(["a"] * 4)}, "`difficulty` has type string, not numbers"),
        ({"difficulty": pa.array(["a"] * 4).dictionary_encode()}, "`difficulty` has type string, not numbers"),
        ({"difficulty": pa.chunked_array([], pa.date32())}, r"`difficulty` has type date32\[day\], not numbers"),
        ({"difficulty": pa.array([[1.0]] * 4)}, "`difficulty` has type list<.*>, not numbers"),
        ({"difficulty": pd.Series([1, "a"])}, "`difficulty` cannot be read: "),
        ({"dot": pa.table({"a": ONES, "b": ONES})}, r"`dot` has 2 columns \(`a`, `b`\), not one$"),
        ({"dot": pa.table({"a": ["x"]})}, "`dot` has type string, not numbers"),
        ({"dot": ONES, "difficulty": None}, "`difficulty` is missing, and ndarray is no table"),
        ({"dot": pa.array(ONES), "difficulty": None}, "`difficulty` is missing, and a column of double is no table"),
        ({"dot": pa.table({"dot": ONES}), "difficulty": None}, "the table has no column `difficulty`, found: `dot`"),
        ({"dot": pa.table({}), "difficulty": None}, "the table has no column `dot`, found: none"),
        (
            {"dot": pa.table([ONES, ONES, ONES], ["dot", "difficulty", "dot"]), "difficulty": None},
            "the table has 2 columns `dot`, found: `dot`, `difficulty`, `dot`",
        ),
        ({"threshold": float("nan")}, "threshold must be finite, got NaN"),
        ({"threshold": float("-inf")}, "threshold must be finite, got -inf"),
        ({"percentile": 1.01}, r"percentile must be in \[0, 1\], got 1.01"),
        ({"ratio": 0}, r"the ratio 0 is outside \(0, 1\]"),
        ({"ratio": 2}, r"the ratio 2 is outside \(0, 1\]"),
        ({"ratio": "ten"}, "the ratio `ten` is not a number"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(arguments, message):
    with pytest.raises(UsageError) as caught:
        diq.rank(**{"dot": ONES, "difficulty": ONES, **arguments})
    assert "\n" not in caught.value.message
    assert re.match(message, caught.value.message)
