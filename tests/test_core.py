"""The Rust core through its Python surface, against numpy."""

from __future__ import annotations

import errno
import itertools
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


# eight rows of which the fourth is null
BITS = np.array([0b11110111], np.uint8)

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


@given(
    st.lists(st.tuples(scores, st.none() | scores), min_size=1, max_size=60),
    st.lists(st.integers(0, 60), max_size=5),
    st.integers(0, 20),
)
def test_rank_of_chunks_matches_one_array(pairs, cuts, offset):
    dot = np.array([pair[0] for pair in pairs], np.float32)
    valid = np.array([pair[1] is not None for pair in pairs])
    difficulty = np.array([7.0 if pair[1] is None else pair[1] for pair in pairs])
    bounds = [0, *sorted(min(cut, len(pairs)) for cut in cuts), len(pairs)]
    chunks = []
    for start, end in itertools.pairwise(bounds):
        bits = np.packbits(np.concatenate([np.ones(offset, bool), valid[start:end]]), bitorder="little")
        chunks.append((difficulty[start:end], bits, offset))
    ranking = _core.rank([dot[:3], dot[3:]], chunks)
    expected = _core.rank(dot, np.where(valid, difficulty, np.nan))
    assert ranking.rows.tolist() == expected.rows.tolist()
    assert ranking.quadrant.tolist() == expected.quadrant.tolist()
    np.testing.assert_array_equal([ranking.tau, ranking.median], [expected.tau, expected.median])
    if np.isfinite(dot).all():
        assert _core.quantile([dot[:3], dot[3:]], 0.3) == _core.quantile(dot, 0.3)


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
        ({"difficulty": [np.ones(3), np.ones(2)]}, "difficulty has 5 rows, but dot has 4"),
        ({"dot": []}, "difficulty has 4 rows, but dot has 0"),
        ({"dot": [np.ones(4), np.ones(8)[::2]]}, "dot is not contiguous"),
        ({"dot": [(np.ones(4), BITS, 5)]}, "a validity bitmap of 8 bits is too short for 4 rows from bit 5 on"),
        ({"dot": [(np.ones(4), BITS, 2**64 - 1)]}, "a validity bitmap of 8 bits is too short for 4 rows from bit 184"),
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
        ({"dot": 1.0}, "dot must be a numpy array of .*, got <class 'float'>"),
        ({"dot": [1.0]}, "dot must be a numpy array of .*, got <class 'float'>"),
        ({"dot": [np.ones(4), np.ones(1, np.float32)]}, "dot must be a numpy array of float64, got float32"),
        (
            {"dot": [(np.ones(4), BITS, -1)]},
            r"dot must be an array, or a tuple of array, validity bitmap and offset, got",
        ),
        ({"dot": [(np.ones(4), BITS)]}, r"dot must be an array, or a tuple of array, validity bitmap and offset, got"),
        ({"dot": [()]}, r"dot must be a numpy array of .*, got <class 'tuple'>"),
        ({"dot": [(np.ones(4), BITS.view(np.int8), 0)]}, "dot must be a validity bitmap of uint8, got int8"),
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
        with pytest.raises(ValueError, match=r"^values is not finite at row 5$"):
            _core.quantile([np.ones(3, dtype), (np.ones(4, dtype), BITS, 1)], 0.5)
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


def write_shard(path: Path, gradients: np.ndarray, dtype: str, name: str = "gradients", scale=None) -> Path:
    header, data = {}, b""
    for key, values, kind in [(name, gradients, dtype), ("scale", scale, "F32")]:
        if values is not None:
            start, data = len(data), data + values.tobytes()
            header[key] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [start, len(data)]}
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


@pytest.mark.parametrize("shape", [(1, 1), (7, 63), (63, 137), (5, 4099)])
def test_shard_dots_of_scaled_rows_match_numpy(tmp_path, shape):
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=shape) * 10.0 ** rng.integers(-6, 3, size=(shape[0], 1))
    scale = (np.abs(gradients).max(axis=1) / 127).astype(np.float32)
    vectors = rng.normal(size=(3, shape[1])).astype(np.float32)
    stored = np.round(gradients / scale[:, None]).astype(np.int8)
    for values, dtype in [(stored, "I8"), (stored.astype(np.float16), "F16")]:
        dots = _core.shard_dots(write_shard(tmp_path / "shard", values, dtype, scale=scale), vectors)
        expected = scale[:, None] * (stored.astype(float) @ vectors.astype(float).T)
        magnitude = scale[:, None] * (np.abs(stored.astype(float)) @ np.abs(vectors).astype(float).T)
        assert (np.abs(dots - expected) <= 131 * np.finfo(np.float32).eps / 2 * magnitude).all()
    # what storage as bytes costs: half a step a number
    assert (np.abs(dots - gradients @ vectors.T) <= 0.51 * scale[:, None] * np.abs(vectors).sum(axis=1)).all()


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
    with pytest.raises(ValueError, match=f"^{path}: `gradients` must be F32, F16, BF16 or I8, got F64$"):
        _core.shard_dots(str(path), vectors)
    write_shard(path, np.ones(6, np.float32), "F32")
    with pytest.raises(ValueError, match=rf"^{path}: `gradients` must be \[rows, dim\], got shape \[6\]$"):
        _core.shard_dots(str(path), vectors)


def test_shards_with_a_wrong_scale_are_refused(tmp_path):
    vectors = np.ones((1, 3), np.float32)
    stored = np.ones((2, 3), np.int8)
    path = write_shard(tmp_path / "shard", stored, "I8")
    with pytest.raises(ValueError, match=rf"^{path}: I8 `gradients` need a tensor `scale`, F32 of shape \[2\]$"):
        _core.shard_dots(path, vectors)
    write_shard(path, stored, "I8", scale=np.ones(3, np.float32))
    with pytest.raises(ValueError, match=rf"^{path}: `scale` must be F32 of shape \[2\], got F32 of shape \[3\]$"):
        _core.shard_dots(path, vectors)


# Random123's kat_vectors, philox4x32 10
def test_philox_matches_the_published_vectors():
    counters = np.array([[0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]], np.uint32)
    words = _core.philox(0x299F31D0A4093822, counters)
    assert words.dtype == np.uint32
    assert words.tolist() == [[0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]]
    assert _core.philox(0, np.zeros((1, 4), np.uint32)).tolist() == [[0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]]
    assert _core.philox(7, np.empty((0, 4), np.uint32)).shape == (0, 4)


KEY = 2**63 + 12345


def signs(bits: np.ndarray) -> np.ndarray:
    return 1 - 2 * (bits & 1).astype(int)


def dense_matrix(rows: np.ndarray, dim: int) -> np.ndarray:
    """``[p, dim]`` float64, by the documented formula."""
    row, column = np.meshgrid(rows.astype(np.uint64), np.arange(dim), indexing="ij")
    counters = np.stack([row & 0xFFFFFFFF, row >> 32, column // 128, 0 * row], -1).astype(np.uint32)
    words = _core.philox(KEY, counters.reshape(-1, 4)).reshape(*row.shape, 4)
    word = np.take_along_axis(words, (column % 128 // 32)[..., None], -1)[..., 0]
    return signs(word >> (column % 32).astype(np.uint32)) / np.sqrt(dim)


def sketch_matrix(out: int, inputs: int, dim: int) -> np.ndarray:
    """``[out * in, dim]`` float64, by the documented formula."""
    o, i = (index.ravel() for index in np.meshgrid(np.arange(out), np.arange(inputs), indexing="ij"))
    q, lane = i // 16, i % 16
    words = _core.philox(KEY, np.stack([o, q // 2, 0 * o, 0 * o + 1], -1).astype(np.uint32))
    a, b = np.where(q % 2 == 0, words[:, :2].T, words[:, 2:].T).astype(np.int64)
    matrix = np.zeros((out * inputs, dim))
    matrix[np.arange(out * inputs), 16 * (a * (dim // 16) >> 32) + (lane ^ (b >> 16 & 15))] = signs(b >> lane)
    return matrix


@pytest.mark.parametrize(("n", "p", "dim", "first_row"), [(1, 1, 16, 0), (3, 137, 272, 2**32 - 60), (9, 600, 48, 7)])
def test_project_rademacher_adds_in_place(n, p, dim, first_row):
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(n, p)).astype(np.float32)
    before = rng.normal(size=(n, dim)).astype(np.float32)
    projected = before.copy()
    assert _core.project_rademacher(gradients, projected, key=KEY, first_row=first_row) is None
    matrix = dense_matrix(first_row + np.arange(p), dim)
    magnitude = np.abs(before) + np.abs(gradients).astype(float) @ np.abs(matrix)
    # four products, then 128 such sums, then the result
    bound = 134 * np.finfo(np.float32).eps / 2 * magnitude
    assert (np.abs(projected - before - gradients.astype(float) @ matrix) <= bound).all()
    # parts add up to the whole
    parts = before.copy()
    for start, end in [(0, p // 3), (p // 3, p)]:
        part = np.ascontiguousarray(gradients[:, start:end])
        _core.project_rademacher(part, parts, key=KEY, first_row=first_row + start)
    assert (np.abs(parts - projected) <= 2 * bound).all()


@pytest.mark.parametrize(("out", "inputs", "dim"), [(1, 1, 16), (7, 63, 48), (17, 137, 4096), (64, 16, 128)])
def test_sketches_add_in_place(out, inputs, dim):
    rng = np.random.default_rng(0)
    offsets = np.array([0, 5, 5, 12, 13], np.int64)
    delta = rng.normal(size=(14, out)).astype(np.float32)
    x = rng.normal(size=(14, inputs)).astype(np.float32)
    ranges = list(itertools.pairwise(offsets))
    exact = np.stack([delta[a:b].astype(float).T @ x[a:b].astype(float) for a, b in ranges])
    gradients = exact.astype(np.float32)
    before = rng.normal(size=(4, dim)).astype(np.float32)
    matrix = sketch_matrix(out, inputs, dim)
    sketched, fused = before.copy(), before.copy()
    assert _core.sketch_matrices(gradients, sketched, key=KEY) is None
    assert _core.sketch_outer(delta, x, offsets, fused, key=KEY) is None
    expected = before + exact.reshape(4, -1) @ matrix
    for found in (sketched, fused):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(exact).max() * np.sqrt(out * inputs))
    # a sample without tokens stays as it was
    np.testing.assert_array_equal(fused[1], before[1])


def test_projections_keep_inner_products_in_expectation():
    rng = np.random.default_rng(0)
    # two matrices of 20 x 30 that share half of their direction
    gradients = rng.normal(size=(2, 20, 30)).astype(np.float32)
    gradients[1] += gradients[0]
    left, right = gradients.reshape(2, -1).astype(float)
    dim, n_keys = 64, 400
    for kind in ("rademacher", "sparse"):
        dots = []
        for key in range(n_keys):
            projected = np.zeros((2, dim), np.float32)
            if kind == "rademacher":
                _core.project_rademacher(gradients.reshape(2, -1), projected, key=key)
            else:
                _core.sketch_matrices(gradients, projected, key=key)
            dots.append(projected[0].astype(float) @ projected[1].astype(float))
        # the variance of both, and the error of its estimate from normal numbers
        variance = (left @ left * (right @ right) + (left @ right) ** 2 - 2 * (left**2 @ right**2)) / dim
        assert abs(np.mean(dots) - left @ right) <= 4 * np.sqrt(variance / n_keys)
        assert abs(np.var(dots) / variance - 1) <= 4 * np.sqrt(2 / n_keys)


F32 = np.float32


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: _core.philox(-1, np.zeros((1, 4), np.uint32)), ValueError, r"key must be in \[0, 2\*\*64\), got -1"),
        (lambda: _core.philox(1, np.zeros((1, 3), np.uint32)), ValueError, r"counters must be \[n, 4\], got 3 columns"),
        (lambda: _core.philox(1, np.zeros((1, 4))), TypeError, "counters must be a numpy array of uint32, got float64"),
        (lambda: _core.philox(1, np.zeros((4, 2), np.uint32).T), ValueError, "counters is not contiguous"),
        (lambda: dense(key=0.5), TypeError, "key must be an integer, got 0.5"),
        (lambda: dense(key=2**64), ValueError, r"key must be in \[0, 2\*\*64\), got 18446744073709551616"),
        (lambda: dense(first_row=-1), ValueError, r"first_row must be in \[0, 2\*\*64\), got -1"),
        (
            lambda: dense(first_row=2**64 - 2),
            ValueError,
            "first_row must be a row with less than .*, got 184467440737095",
        ),
        (lambda: dense(gradients=np.zeros((2, 3))), TypeError, "gradients must be .* of float32, got float64"),
        (lambda: dense(gradients=np.zeros(3, F32)), ValueError, "gradients must be 2-dimensional, got 1 dimensions"),
        (lambda: dense(gradients=np.zeros((3, 2), F32).T), ValueError, "gradients is not contiguous"),
        (lambda: dense(projected=np.zeros((2, 32), F32)[:, ::2]), ValueError, "projected is not contiguous"),
        (lambda: dense(projected=np.zeros((2, 16))), TypeError, "projected must be .* of float32, got float64"),
        (lambda: dense(projected=np.zeros((3, 16), F32)), ValueError, "projected has 3 rows, but gradients has 2"),
        (lambda: dense(projected=np.zeros((2, 24), F32)), ValueError, r"columns of projected must .*\*20\], got 24"),
        (
            lambda: dense(projected=frozen(np.zeros((2, 16), F32))),
            ValueError,
            "projected is read-only, but is written in",
        ),
        (lambda: matrices(np.zeros((2, 3), F32)), ValueError, "gradients must be 3-dimensional, got 2 dimensions"),
        (lambda: matrices(np.zeros((3, 3, 5), F32)), ValueError, "projected has 2 rows, but gradients has 3"),
        (lambda: matrices(np.zeros((2, 3, 5))), TypeError, "gradients must be .* of float32, got float64"),
        (lambda: matrices(np.zeros((2, 5, 3), F32).transpose(0, 2, 1)), ValueError, "gradients is not contiguous"),
        (lambda: outer(delta=np.zeros((4, 3))), TypeError, "delta must be .* of float32, got float64"),
        (lambda: outer(delta=np.zeros((3, 4), F32).T), ValueError, "delta is not contiguous"),
        (lambda: outer(x=np.zeros((5, 5), F32)), ValueError, "x has 5 rows, but delta has 4"),
        (lambda: outer(x=np.zeros((4, 10), F32)[:, ::2]), ValueError, "x is not contiguous"),
        (lambda: outer(offsets=np.array([0, 1, 4], np.int32)), TypeError, "offsets must be .* of int64, got int32"),
        (lambda: outer(offsets=np.array([0, 4])), ValueError, "offsets must be one more .*, got 2 offsets for 2 rows"),
        (lambda: outer(offsets=np.array([0, 3, 2])), ValueError, "offsets must ascend from 0 to 4 .* got 2 behind 3"),
        (lambda: outer(offsets=np.array([-1, 3, 4])), ValueError, "offsets must ascend .* got -1 behind 0"),
        (lambda: outer(offsets=np.array([0, 3, 5])), ValueError, "offsets must ascend .* got 5 behind 3"),
        (lambda: outer(projected=np.zeros((2, 20), F32)), ValueError, r"columns of projected must .*\*30\], got 20"),
    ],
)
def test_projections_refuse_wrong_arguments(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call()


def frozen(values: np.ndarray) -> np.ndarray:
    values.flags.writeable = False
    return values


def dense(**arguments):
    arguments = {"gradients": np.ones((2, 3), F32), "projected": np.zeros((2, 16), F32), "key": 1, **arguments}
    return _core.project_rademacher(**arguments)


def matrices(gradients):
    return _core.sketch_matrices(gradients, np.zeros((2, 16), F32), key=1)


def outer(**arguments):
    defaults = {
        "delta": np.ones((4, 3), F32),
        "x": np.ones((4, 5), F32),
        "offsets": np.array([0, 1, 4]),
        "projected": np.zeros((2, 16), F32),
    }
    return _core.sketch_outer(**{**defaults, **arguments}, key=1)


def test_memory_that_is_written_is_not_read():
    both = np.ones((2, 16), F32)
    with pytest.raises(ValueError, match=r"^gradients shares memory with an array that is being written$"):
        _core.project_rademacher(both, both, key=1)
    np.testing.assert_array_equal(both, 1)
    _core.project_rademacher(both[:1], both[1:], key=1)


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
