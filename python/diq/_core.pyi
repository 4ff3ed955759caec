"""The numeric core, in Rust (``rust/``).

Arrays are borrowed, never copied, and the GIL is released while the core works: do not write to an array that is being
read. Work is spread over all cores (``RAYON_NUM_THREADS`` sets how many); no result depends on their number.
"""

import os
from typing import final

import numpy as np
import numpy.typing as npt

__all__ = [
    "Ranking",
    "__version__",
    "file_hash",
    "philox",
    "project_rademacher",
    "quantile",
    "rank",
    "sample_ids",
    "shard_dots",
    "sketch_matrices",
    "sketch_outer",
]

__version__: str

@final
class Ranking:
    """The first rows of a ranking, and what the order was made from."""

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """``[k]`` row numbers, best first; ``k = floor(n_scored * ratio)``."""

    @property
    def quadrant(self) -> npt.NDArray[np.uint8]:
        """``[n]`` quadrant of every row, 1 to 4; 0 where the dot or the difficulty is not finite."""

    @property
    def tau(self) -> float:
        """Cut of the difficulty; NaN when no row is scored."""

    @property
    def median(self) -> float:
        """Cut of the dot, its median over the scored rows; NaN when no row is scored."""

    @property
    def n_scored(self) -> int:
        """Rows whose dot and difficulty are finite."""

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Scored rows of the quadrants 1, 2, 3 and 4."""

def sample_ids(texts: list[str]) -> list[str]:
    """The id of each text: the first 128 bits of the BLAKE3 hash of its UTF-8 bytes, as lowercase UUID text.

    Raises:
        UnicodeEncodeError: a text holds a lone surrogate, which UTF-8 cannot write.
    """

def file_hash(path: str | os.PathLike[str]) -> str:
    """The BLAKE3 hash of a file, 64 lowercase hexadecimal digits, the same that ``b3sum`` prints.

    Raises:
        OSError: the file cannot be read; ``FileNotFoundError`` when there is none.
    """

def quantile(values: npt.NDArray[np.float32] | npt.NDArray[np.float64], q: float) -> float:
    """The ``q``-quantile with linear interpolation, by selection: no copy, no sort.

    Equals ``np.quantile(values.astype(float), q)`` up to rounding.

    Args:
        values: ``[n]`` float32 or float64, contiguous, all finite, n >= 1.
        q: 0 to 1.

    Raises:
        TypeError: ``values`` is not such an array.
        ValueError: ``values`` is empty, strided or holds NaN or an infinity (the message names the first row), or ``q``
            is out of range.
    """

def rank(
    dot: npt.NDArray[np.float32] | npt.NDArray[np.float64],
    difficulty: npt.NDArray[np.float32] | npt.NDArray[np.float64],
    *,
    percentile: float = 0.5,
    threshold: float | None = None,
    ratio: tuple[int, int] | None = None,
) -> Ranking:
    """Rank rows by quadrant, then dot descending, then difficulty descending, then row; return the first of them.

    With ``m`` the median of ``dot`` and ``tau`` the cut of ``difficulty``, quadrant 1 has difficulty >= tau and
    dot >= m, 2 difficulty < tau and dot >= m, 3 difficulty >= tau and dot < m, 4 the rest. A row whose dot or
    difficulty is not finite is in no quadrant, never returned, and counts for nothing. -0.0 equals 0.0.

    Args:
        dot: ``[n]`` float32 or float64, contiguous; n < 2**32.
        difficulty: ``[n]`` float32 or float64, contiguous.
        percentile: ``tau`` is this quantile of the scored rows' difficulty; 0 to 1.
        threshold: ``tau`` itself; replaces ``percentile``.
        ratio: (numerator, denominator) of the part of the scored rows to return, exact: (57, 100) of 100 rows is 57;
            all when None.

    Raises:
        TypeError: an argument is not of its type.
        ValueError: lengths differ, an array is strided, or a number is out of range.

    Source: arXiv 2508.01450, Algorithm 1.
    """

def shard_dots(path: str | os.PathLike[str], vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Dots of every gradient of a shard with every vector.

    Equals ``scale[:, None] * gradients.astype(float) @ vectors.astype(float).T`` up to float32 rounding; the same bits
    on every machine.

    Args:
        path: a safetensors file with the tensor ``gradients``, ``[rows, dim]``, F32, F16, BF16 or I8, and perhaps the
            tensor ``scale``, ``[rows]`` F32, which I8 needs and which is 1 where there is none; it is mapped, not read
            into memory, and must not change meanwhile.
        vectors: ``[m, dim]`` float32, contiguous.

    Returns:
        ``[rows, m]`` float32.

    Raises:
        OSError: the file cannot be read; ``FileNotFoundError`` when there is none.
        TypeError: ``vectors`` is not a float32 array.
        ValueError: the file is not such a shard or is truncated, or ``vectors`` has another dim.
    """

def philox(key: int, counters: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """The random words of each counter, by Philox4x32-10; all random matrices here are made of them.

    Args:
        key: 0 to 2**64 - 1; its low half is the first word of Philox's key.
        counters: ``[n, 4]`` uint32, contiguous.

    Returns:
        ``[n, 4]`` uint32.

    Raises:
        TypeError: an argument is not of its type.
        ValueError: ``key`` is out of range, or ``counters`` is strided or not ``[n, 4]``.

    Source: Salmon, Moraes, Dror and Shaw (2011), Parallel random numbers: as easy as 1, 2, 3.
    """

def project_rademacher(
    gradients: npt.NDArray[np.float32],
    projected: npt.NDArray[np.float32],
    *,
    key: int,
    first_row: int = 0,
) -> None:
    """Add ``gradients @ P[first_row : first_row + p]`` to ``projected``, with ``P`` made of signs on the fly.

    ``P[row, column]`` is -1 or +1, over ``dim**0.5``: with ``words = philox(key, [row % 2**32, row // 2**32,
    column // 128, 0])``, it is negative where bit ``column % 32`` of ``words[column % 128 // 32]`` is set. ``row`` is
    the row-major index of an element in its matrix ``[out, in]``.

    Equals the same in float64 up to float32 rounding; the same bits with any number of threads, on every machine, and
    whatever the other samples of the call. Calls for parts of the rows add up to a call for all, up to rounding.

    Args:
        gradients: ``[n, p]`` float32, contiguous; a row that is not finite leaves all of its projection not finite.
        projected: ``[n, dim]`` float32, contiguous, written in place; dim a multiple of 16, 16 to 2**20.
        key: 0 to 2**64 - 1.
        first_row: row of ``P`` of the first column of ``gradients``.

    Raises:
        TypeError: an argument is not of its type.
        ValueError: shapes do not match, an array is strided, read-only or in use, or a number is out of range.

    Source: Achlioptas (2003), Theorem 1.1 (entries of one bit).
    """

def sketch_matrices(
    gradients: npt.NDArray[np.float32],
    projected: npt.NDArray[np.float32],
    *,
    key: int,
) -> None:
    """Add the signed count sketch of each matrix of ``gradients`` to ``projected``.

    Element ``(o, i)`` with ``q = i // 16``, ``l = i % 16`` and ``words = philox(key, [o, q // 2, 0, 1])``, of which
    ``a, b`` are the first two when ``q`` is even, else the last two, is added to column
    ``16 * (a * (dim // 16) >> 32) + (l ^ (b >> 16 & 15))``, negated where bit ``l`` of ``b`` is set.

    Two elements meet with probability 1 / dim at most, as in a plain count sketch, and each has its own sign, so inner
    products are kept in expectation, with a plain count sketch's variance or less. 16 neighbours share a block of
    columns because that makes one vector addition of 16 scalar ones.

    Equals the same in float64 up to float32 rounding; the same bits with any number of threads, on every machine, and
    whatever the other samples of the call.

    Args:
        gradients: ``[n, out, in]`` float32, contiguous; one that is not finite leaves its row not finite somewhere.
        projected: ``[n, dim]`` float32, contiguous, written in place; dim a multiple of 16, 16 to 2**30.
        key: 0 to 2**64 - 1.

    Raises:
        TypeError: an argument is not of its type.
        ValueError: shapes do not match, an array is strided, read-only or in use, or a number is out of range.

    Source: Charikar, Chen and Farach-Colton (2002) (count sketch).
    """

def sketch_outer(
    delta: npt.NDArray[np.float32],
    x: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    projected: npt.NDArray[np.float32],
    *,
    key: int,
) -> None:
    """Add the sketch of each sample's gradient, ``delta[a:b].T @ x[a:b]``, to ``projected``, forming only tiles of it.

    Equals ``sketch_matrices`` of those gradients up to float32 rounding; the same bits with any number of threads, on
    every machine, and whatever the other samples of the call.

    Args:
        delta: ``[t, out]`` float32, contiguous; gradients of the loss by the outputs, one row a token.
        x: ``[t, in]`` float32, contiguous; the inputs.
        offsets: ``[n + 1]`` int64, contiguous, ascending, 0 to t; sample ``s`` has the tokens
            ``offsets[s]:offsets[s + 1]``.
        projected: ``[n, dim]`` float32, contiguous, written in place; dim a multiple of 16, 16 to 2**30.
        key: 0 to 2**64 - 1.

    Raises:
        TypeError: an argument is not of its type.
        ValueError: shapes do not match, ``offsets`` descend or leave the tokens, an array is strided, read-only or in
            use, or a number is out of range.
    """
