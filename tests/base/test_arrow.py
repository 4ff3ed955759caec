"""Arrow columns as numpy arrays: against pyarrow's own conversion, and without what that imports."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from diq.base.arrow import numbers

KINDS = [
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
    *(pa.float16(), pa.float32(), pa.float64(), pa.bool_()),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_values_are_those_of_pyarrow(kind: pa.DataType) -> None:
    values = [1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 1]
    if kind == pa.float16():
        values = [np.float16(one) for one in values]
    if kind == pa.bool_():
        values = [bool(one) for one in values]
    array = pa.array(values, kind)
    for one in (array, array.slice(3), array.slice(3, 5), array.slice(11), pa.chunked_array([array[:4], array[9:]])):
        found, expected = (
            numbers(one),
            one.to_numpy(zero_copy_only=False) if isinstance(one, pa.Array) else one.to_numpy(),
        )
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    assert numbers(pa.chunked_array([], kind)).dtype == numbers(array).dtype
    assert len(numbers(pa.chunked_array([], kind))) == 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != pa.float16()], ids=str)
def test_nulls_are_nan(kind: pa.DataType) -> None:
    values = [None, 1, None, 0, 1, None, None, 0, 1, 1, None]
    array = pa.array([None if one is None else bool(one) for one in values] if kind == pa.bool_() else values, kind)
    expected = np.array([np.nan if one is None else one for one in values], float)
    np.testing.assert_array_equal(numbers(array), expected)
    for start in range(11):
        np.testing.assert_array_equal(numbers(array.slice(start, 4)), expected[start : start + 4])
    np.testing.assert_array_equal(numbers(pa.chunked_array([array, array[3:5]])), [*expected, *expected[3:5]])
    np.testing.assert_array_equal(numbers(pa.nulls(3, kind)), [np.nan] * 3)


def test_what_is_read_is_not_written_to() -> None:
    found = numbers(pa.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 3


@pytest.mark.parametrize("values", [["a"], [[1.0]], [b"x"], [None]])
def test_other_columns_are_refused(values: list[object]) -> None:
    with pytest.raises(TypeError, match="holds no numbers"):
        numbers(pa.array(values))


def test_pandas_is_not_imported() -> None:
    code = (
        "import sys, duckdb\nfrom diq.base.arrow import numbers\n"
        "found = duckdb.sql('SELECT i, i > 3 AS large, nullif(i, 7) AS some FROM range(9) AS t(i)').to_arrow_table()\n"
        "assert numbers(found.column('i')).sum() == 36 and numbers(found.column('large')).sum() == 5\n"
        "assert [str(one) for one in numbers(found.column('some'))[6:]] == ['6.0', 'nan', '8.0']\n"
        "sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
