"""The numeric core, in Rust (``rust/``).

Arrays are borrowed, never copied, and the GIL is released while the core works: do not write to an array that is being
read. Work is spread over all cores (``RAYON_NUM_THREADS`` sets how many); no result depends on their number.
"""

import os
from typing import final

import numpy as np
import numpy.typing as npt

__all__ = ["Ranking", "__version__", "file_hash", "quantile", "rank", "sample_ids", "shard_dots"]

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

    Equals ``gradients.astype(float) @ vectors.astype(float).T`` up to float32 rounding; the same bits on every machine.

    Args:
        path: a safetensors file with the tensor ``gradients``, ``[rows, dim]``, F32, F16 or BF16; it is mapped, not
            read into memory, and must not change meanwhile.
        vectors: ``[m, dim]`` float32, contiguous.

    Returns:
        ``[rows, m]`` float32.

    Raises:
        OSError: the file cannot be read; ``FileNotFoundError`` when there is none.
        TypeError: ``vectors`` is not a float32 array.
        ValueError: the file is not such a shard or is truncated, or ``vectors`` has another dim.
    """
