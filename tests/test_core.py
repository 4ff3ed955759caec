"""The Rust core through its Python surface, against numpy."""

from __future__ import annotations

import errno
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diq import _core

DTYPES = [np.float32, np.float64]


def naive_rank(dot, difficulty, *, percentile=0.5, threshold=None):
    """The order of DESIGN section 4, by a full sort."""
    dot, difficulty = dot.astype(float), difficulty.astype(float)
    scored = np.flatnonzero(np.isfinite(dot) & np.isfinite(difficulty))
    quadrant = np.zeros(len(dot), np.uint8)
    if not len(scored):
        return scored, quadrant, np.nan, np.nan
    tau = np.quantile(difficulty[scored], percentile) if threshold is None else threshold
    median = np.quantile(dot[scored], 0.5)
    quadrant[scored] = 1 + (difficulty[scored] < tau) + 2 * (dot[scored] < median)
    order = np.lexsort((scored, -difficulty[scored], -dot[scored], quadrant[scored]))
    return scored[order], quadrant, tau, median


# small numbers, so that ties are common
scores = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0, 3.0, float("nan"), float("inf"), float("-inf")])


@given(
    st.lists(st.tuples(scores, scores), max_size=60),
    st.sampled_from(DTYPES),
    st.sampled_from(DTYPES),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.sampled_from([None, 0.5, 1]),
    st.integers(1, 12),
)
def test_rank_matches_numpy(pairs, dot_dtype, difficulty_dtype, percentile, threshold, numerator):
    dot = np.array([pair[0] for pair in pairs], dot_dtype)
    difficulty = np.array([pair[1] for pair in pairs], difficulty_dtype)
    ranking = _core.rank(dot, difficulty, percentile=percentile, threshold=threshold, ratio=(numerator, 12))
    order, quadrant, tau, median = naive_rank(dot, difficulty, percentile=percentile, threshold=threshold)
    assert ranking.rows.dtype == np.int64
    assert ranking.quadrant.dtype == np.uint8
    assert ranking.rows.tolist() == order[: len(order) * numerator // 12].tolist()
    assert ranking.quadrant.tolist() == quadrant.tolist()
    assert ranking.n_scored == len(order)
    assert ranking.counts == tuple(np.bincount(quadrant, minlength=5)[1:].tolist())
    np.testing.assert_allclose([ranking.tau, ranking.median], [tau, median], rtol=1e-15)


def test_rank_of_many_rows_matches_numpy():
    rng = np.random.default_rng(0)
    dot = rng.normal(size=200_000).round(2).astype(np.float32)
    difficulty = rng.integers(1, 6, size=len(dot)).astype(np.float32)
    order, quadrant, tau, median = naive_rank(dot, difficulty)
    ranking = _core.rank(dot, difficulty)
    np.testing.assert_array_equal(ranking.rows, order)
    np.testing.assert_array_equal(ranking.quadrant, quadrant)
    assert (ranking.tau, ranking.median) == (tau, median)
    np.testing.assert_array_equal(_core.rank(dot, difficulty, ratio=(1, 10)).rows, order[:20_000])


def test_rank_takes_the_ratio_as_typed():
    ones = np.ones(100, np.float32)
    assert len(_core.rank(ones, ones, ratio=(57, 100)).rows) == 57
    assert len(_core.rank(ones, ones, ratio=(1, 101)).rows) == 0
    assert len(_core.rank(ones, ones).rows) == 100


@pytest.mark.parametrize("threshold", [None, 3.0])
def test_rank_without_a_scored_row(threshold):
    for dot in (np.empty(0, np.float32), np.full(3, np.nan, np.float32)):
        ranking = _core.rank(dot, dot, threshold=threshold)
        assert len(ranking.rows) == ranking.n_scored == 0
        assert ranking.quadrant.tolist() == [0] * len(dot)
        assert ranking.counts == (0, 0, 0, 0)
        assert np.isnan(ranking.tau)
        assert np.isnan(ranking.median)


def test_a_ranking_is_frozen():
    ranking = _core.rank(np.ones(1), np.ones(1))
    with pytest.raises(AttributeError):
        ranking.tau = 1.0  # type: ignore[misc]


def test_read_only_arrays_are_borrowed():
    values = np.arange(5.0)
    values.flags.writeable = False
    assert _core.rank(values, values).rows.tolist() == [4, 3, 2, 1, 0]
    assert _core.quantile(values, 0.5) == 2.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"percentile": 1.5}, r"percentile must be in \[0, 1\], got 1.5"),
        ({"percentile": float("nan")}, r"percentile must be in \[0, 1\], got NaN"),
        # never ignored, even where it is not used
        ({"percentile": -1, "threshold": 3.0}, r"percentile must be in \[0, 1\], got -1"),
        ({"threshold": float("inf")}, "threshold must be finite, got inf"),
        ({"ratio": (0, 1)}, r"ratio must be in \(0, 1\], got 0/1"),
        ({"ratio": (3, 2)}, r"ratio must be in \(0, 1\], got 3/2"),
        ({"ratio": (1, 0)}, r"ratio must be in \(0, 1\], got 1/0"),
        ({"ratio": (-1, 2)}, r"ratio must be in \(0, 1\], .*got \(-1, 2\)"),
        ({"ratio": (1, 2**64)}, r"ratio must be in \(0, 1\], .*got \(1, 18446744073709551616\)"),
        ({"dot": np.ones(8)[::2]}, "dot is not contiguous"),
        ({"difficulty": np.ones((2, 2))}, "difficulty must be 1-dimensional, got 2 dimensions"),
        ({"difficulty": np.ones(3)}, "difficulty has 3 rows, but dot has 4"),
    ],
)
def test_rank_refuses_wrong_values(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        _core.rank(**{"dot": np.ones(4), "difficulty": np.ones(4), **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dot": np.ones(4, np.int64)}, "dot must be a numpy array of float32 or float64, got int64"),
        ({"difficulty": np.ones(4, np.float16)}, "difficulty must be a numpy array of .*, got float16"),
        ({"dot": np.ones(4, ">f4")}, "dot must be a numpy array of .*, got >f4"),
        ({"dot": [1.0]}, "dot must be a numpy array of .*, got <class 'list'>"),
        ({"ratio": 0.5}, "ratio must be a tuple of two integers, got 0.5"),
        ({"ratio": (0.5, 1)}, r"ratio must be a tuple of two integers, got \(0.5, 1\)"),
        ({"percentile": "half"}, "must be real number, not str"),
    ],
)
def test_rank_refuses_wrong_types(arguments, message):
    with pytest.raises(TypeError, match=f"^{message}"):
        _core.rank(**{"dot": np.ones(4), "difficulty": np.ones(4), **arguments})


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60),
    st.floats(0, 1),
    st.sampled_from(DTYPES),
)
def test_quantile_matches_numpy(values, q, dtype):
    array = np.array(values, dtype)
    expected = np.quantile(array.astype(float), q)
    # numpy rounds on another path from 0.5 on
    np.testing.assert_allclose(_core.quantile(array, q), expected, rtol=1e-12, atol=1e-9)


def test_quantile_refuses_wrong_values():
    for dtype in DTYPES:
        with pytest.raises(ValueError, match=r"^values is empty$"):
            _core.quantile(np.empty(0, dtype), 0.5)
        with pytest.raises(ValueError, match=r"^values is not finite at row 2$"):
            _core.quantile(np.array([0, 1, np.nan, np.inf], dtype), 0.5)
        with pytest.raises(ValueError, match=r"^q must be in \[0, 1\], got 2$"):
            _core.quantile(np.ones(1, dtype), 2)
        with pytest.raises(ValueError, match=r"^values is not contiguous"):
            _core.quantile(np.ones(8, dtype)[::-1], 0.5)
    unaligned = np.frombuffer(bytes(9), np.uint8)[1:].view(np.float32)
    with pytest.raises(ValueError, match=r"^values is not contiguous and aligned"):
        _core.quantile(unaligned, 0.5)
    with pytest.raises(TypeError, match=r"^values must be a numpy array of float32 or float64, got int32$"):
        _core.quantile(np.ones(1, np.int32), 0.5)


def test_sample_ids():
    # pinned: a store keeps these ids for ever
    assert _core.sample_ids(["", "abc"]) == [
        "af1349b9-f5f9-a1a6-a040-4dea36dcc949",
        "6437b3ac-3846-5133-ffb6-3b75273a8db5",
    ]
    texts = [f"Fieber {i} °C 体温" for i in range(1000)]
    ids = _core.sample_ids(texts)
    assert ids == [_core.sample_ids([text])[0] for text in texts]
    assert len(set(ids)) == len(texts)
    assert _core.sample_ids([]) == []


def test_sample_ids_refuse_what_is_not_text():
    with pytest.raises(UnicodeEncodeError):
        _core.sample_ids(["\ud800"])
    with pytest.raises(TypeError):
        _core.sample_ids([b"abc"])
    with pytest.raises(TypeError):
        _core.sample_ids("abc")


def test_file_hash(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"")
    assert _core.file_hash(path) == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    path.write_bytes(b"abc")
    assert _core.file_hash(str(path)) == "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"


def test_a_missing_file_is_python_s_own_error(tmp_path):
    path = tmp_path / "none"
    for call in (lambda: _core.file_hash(str(path)), lambda: _core.shard_dots(str(path), np.ones((1, 1), np.float32))):
        with pytest.raises(FileNotFoundError) as caught:
            call()
        assert caught.value.errno == errno.ENOENT
        assert caught.value.filename == str(path)
        assert str(caught.value) == f"[Errno 2] No such file or directory: '{path}'"
    with pytest.raises(IsADirectoryError):
        _core.file_hash(tmp_path)


def write_shard(path: Path, gradients: np.ndarray, dtype: str, name: str = "gradients") -> Path:
    data = gradients.tobytes()
    header = {name: {"dtype": dtype, "shape": list(gradients.shape), "data_offsets": [0, len(data)]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize(("dtype", "numpy_dtype"), [("F32", np.float32), ("F16", np.float16), ("BF16", None)])
@pytest.mark.parametrize("shape", [(1, 1), (7, 63), (63, 137), (5, 4099), (0, 3)])
def test_shard_dots_match_numpy(tmp_path, dtype, numpy_dtype, shape):
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=shape).astype(np.float32)
    if numpy_dtype is None:
        # bfloat16 is the upper half of float32
        stored = (gradients.view(np.uint32) >> 16).astype(np.uint16)
        gradients = (stored.astype(np.uint32) << 16).view(np.float32)
    else:
        stored = gradients.astype(numpy_dtype)
        gradients = stored.astype(np.float32)
    path = write_shard(tmp_path / "shard.safetensors", stored, dtype)
    for m in (0, 1, 2, 3, 4, 5):
        vectors = rng.normal(size=(m, shape[1])).astype(np.float32)
        dots = _core.shard_dots(str(path), vectors)
        assert dots.dtype == np.float32
        assert dots.shape == (shape[0], m)
        magnitude = np.abs(gradients).astype(float) @ np.abs(vectors).astype(float).T
        # a product and at most 128 additions round in float32
        bound = 130 * np.finfo(np.float32).eps / 2 * magnitude
        assert (np.abs(dots - gradients.astype(float) @ vectors.astype(float).T) <= bound).all()


def test_shard_dots_refuse_wrong_arguments(tmp_path):
    path = str(write_shard(tmp_path / "shard", np.ones((2, 3), np.float32), "F32"))
    with pytest.raises(ValueError, match=r"^vectors have 4 columns, but the gradients in .* have 3$"):
        _core.shard_dots(path, np.ones((1, 4), np.float32))
    with pytest.raises(ValueError, match=r"^vectors must be 2-dimensional, got 1 dimensions$"):
        _core.shard_dots(path, np.ones(3, np.float32))
    with pytest.raises(ValueError, match=r"^vectors is not contiguous"):
        _core.shard_dots(path, np.ones((3, 2), np.float32).T)
    with pytest.raises(TypeError, match=r"^vectors must be a numpy array of float32, got float64$"):
        _core.shard_dots(path, np.ones((1, 3)))


def test_broken_shards_are_refused(tmp_path):
    vectors = np.ones((1, 3), np.float32)
    path = write_shard(tmp_path / "shard", np.ones((2, 3), np.float32), "F32")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"^{path}: .* truncated"):
        _core.shard_dots(str(path), vectors)
    path.write_bytes(b"\x09\0\0\0\0\0\0\0not json!")
    with pytest.raises(ValueError, match=f"^{path}: not a safetensors file"):
        _core.shard_dots(str(path), vectors)
    write_shard(path, np.ones((2, 3), np.float32), "F32", name="weights")
    with pytest.raises(ValueError, match=f"^{path}: no tensor `gradients`, found: weights$"):
        _core.shard_dots(str(path), vectors)
    write_shard(path, np.ones((2, 3)), "F64")
    with pytest.raises(ValueError, match=f"^{path}: `gradients` must be F32, F16 or BF16, got F64$"):
        _core.shard_dots(str(path), vectors)
    write_shard(path, np.ones(6, np.float32), "F32")
    with pytest.raises(ValueError, match=rf"^{path}: `gradients` must be \[rows, dim\], got shape \[6\]$"):
        _core.shard_dots(str(path), vectors)


def test_many_python_threads_at_once():
    values = np.random.default_rng(0).normal(size=50_000)
    expected = _core.rank(values, values).rows
    results = []
    threads = [threading.Thread(target=lambda: results.append(_core.rank(values, values).rows)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for rows in results:
        np.testing.assert_array_equal(rows, expected)


def test_version_is_the_package_s():
    from importlib.metadata import version

    assert _core.__version__ == version("diq")
