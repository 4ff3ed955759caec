"""The random matrices and what is done with them, in numpy and float64: slow, obvious, and what all other forms equal.

``docs/projections.md`` says the same in words.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox(key: int, counters: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Philox4x32-10: four random words for each counter.

    Args:
        key: 64 bits.
        counters: ``[n, 4]`` uint32.

    Returns:
        ``[n, 4]`` uint32.

    Source: Salmon, Moraes, Dror, Shaw (2011), Parallel random numbers: as easy as 1, 2, 3.
    """
    c0, c1, c2, c3 = (counters[:, i].astype(np.uint64) for i in range(4))
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(_ROUNDS):
        first, second = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (second >> _32) ^ c1 ^ np.uint64(k0),
            second & _LOW,
            (first >> _32) ^ c3 ^ np.uint64(k1),
            first & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def parameter_key(seed: int, name: str) -> int:
    """The key of a parameter's random matrix.

    Args:
        seed: of the run.
        name: of the parameter in the model, such as ``model.layers.0.self_attn.q_proj.weight``.

    Returns:
        64 bits: BLAKE2b of ``diq/{seed}/{name}``, read little-endian.
    """
    return int.from_bytes(hashlib.blake2b(f"diq/{seed}/{name}".encode(), digest_size=8).digest(), "little")


def rademacher_matrix(key: int, rows: int, dim: int, first_row: int = 0) -> Matrix:
    """Rows of the dense matrix: entries ``+-1/sqrt(dim)``.

    Args:
        key: see :func:`parameter_key`.
        rows: how many; row r belongs to element r of the parameter, ``[out, in]`` row by row.
        dim: columns.
        first_row: of those returned.

    Returns:
        ``[rows, dim]``.
    """
    row, column = np.meshgrid(np.arange(first_row, first_row + rows), np.arange(dim), indexing="ij")
    counters = np.stack([row & 0xFFFFFFFF, row >> 32, column // 128, np.zeros_like(row)], axis=-1)
    words = philox(key, counters.reshape(-1, 4).astype(np.uint32)).reshape(rows, dim, 4)
    word = np.take_along_axis(words, (column % 128 // 32)[:, :, None], axis=2)[:, :, 0]
    bit = (word >> (column % 32).astype(np.uint32)) & 1
    matrix: Matrix = (1.0 - 2.0 * bit) / np.sqrt(dim)
    return matrix


def sparse_buckets(key: int, out: int, inner: int, dim: int) -> tuple[npt.NDArray[np.int64], Matrix]:
    """Where each element of a parameter goes, and with which sign.

    Args:
        key: see :func:`parameter_key`.
        out: rows of the parameter.
        inner: its columns.
        dim: buckets, a multiple of 16.

    Returns:
        Bucket and sign of each element, both ``[out, in]``.
    """
    o, i = np.meshgrid(np.arange(out), np.arange(inner), indexing="ij")
    run, lane = i // 16, i % 16
    counters = np.stack([o, run // 2, np.zeros_like(o), np.ones_like(o)], axis=-1)
    words = philox(key, counters.reshape(-1, 4).astype(np.uint32)).reshape(out, inner, 4).astype(np.int64)
    even = run % 2 == 0
    a = np.where(even, words[:, :, 0], words[:, :, 2])
    b = np.where(even, words[:, :, 1], words[:, :, 3])
    block = (a * (dim // 16)) >> 32
    bucket: npt.NDArray[np.int64] = block * 16 + (lane ^ ((b >> 16) & 15))
    sign = 1.0 - 2.0 * ((b >> lane) & 1).astype(np.float64)
    return bucket, sign


def project_rademacher(gradients: npt.ArrayLike, dim: int, *, key: int, first_row: int = 0) -> Matrix:
    """``gradients @ P``: ``[n, p]`` to ``[n, dim]``; ``first_row`` is the row of P that column 0 meets."""
    wide = np.asarray(gradients, np.float64)
    return wide @ rademacher_matrix(key, wide.shape[1], dim, first_row)


def sketch_matrices(gradients: npt.ArrayLike, dim: int, *, key: int) -> Matrix:
    """Signed block count sketch of each gradient: ``[n, out, in]`` to ``[n, dim]``."""
    wide = np.asarray(gradients, np.float64)
    bucket, sign = sparse_buckets(key, wide.shape[1], wide.shape[2], dim)
    flat = [np.bincount(bucket.ravel(), (one * sign).ravel(), minlength=dim) for one in wide]
    return np.stack(flat) if flat else np.zeros((0, dim))


def sketch_outer(
    delta: npt.ArrayLike, x: npt.ArrayLike, offsets: npt.NDArray[np.int64], dim: int, *, key: int
) -> Matrix:
    """Sketch of ``delta^T x`` of each sample; sample s has the tokens ``offsets[s] : offsets[s + 1]``."""
    d, v = np.asarray(delta, np.float64), np.asarray(x, np.float64)
    spans = list(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))
    gradients = np.stack([d[a:b].T @ v[a:b] for a, b in spans]) if spans else np.zeros((0, d.shape[1], v.shape[1]))
    return sketch_matrices(gradients, dim, key=key)


def token_dots(delta: npt.ArrayLike, x: npt.ArrayLike, stacked: npt.ArrayLike, n_sets: int) -> Matrix:
    """``<delta_t, V_s x_t>`` of every token and set: ``[t, sets]``; ``stacked`` is ``[sets * out, in]``."""
    d, v, w = (np.asarray(one, np.float64) for one in (delta, x, stacked))
    terms: Matrix = np.einsum("to,soi,ti->ts", d, w.reshape(n_sets, d.shape[1], v.shape[1]), v, optimize=True)
    return terms
