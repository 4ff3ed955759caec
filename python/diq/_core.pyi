"""The numeric core, in Rust (``rust/``).

Arrays are borrowed, never copied, and the GIL is released while the core works: do not write to an array that is being
read. Work is spread over all cores (``RAYON_NUM_THREADS`` sets how many); no result depends on their number.
"""

import os
from typing import TypeAlias, final

import numpy as np
import numpy.typing as npt

__all__ = [
    "IdIndex",
    "NgramTable",
    "Ranking",
    "__version__",
    "bin_column",
    "candidate_groups",
    "crossfilter",
    "extent",
    "file_hash",
    "near_copies",
    "page_rows",
    "philox",
    "project_rademacher",
    "quantile",
    "rank",
    "sample_ids",
    "shard_dots",
    "shingle_hashes",
    "sketch_matrices",
    "sketch_outer",
    "take_turns",
    "word_hashes",
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

# a column of scores: its values, or a list of chunks, all of one type. A chunk with nulls is a tuple of its values, an
# Arrow validity bitmap and an offset: value i is there where bit offset + i is set, least significant bits first
_Values: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]
_Chunk: TypeAlias = _Values | tuple[_Values, npt.NDArray[np.uint8], int]
_Column: TypeAlias = _Values | list[_Chunk]

def quantile(values: _Column, q: float) -> float:
    """The ``q``-quantile with linear interpolation, by selection: no copy, no sort.

    Equals ``np.quantile(values.astype(float), q)`` up to rounding.

    Args:
        values: ``[n]`` float32 or float64, contiguous, all finite, n >= 1; or a list of chunks, without a null.
        q: 0 to 1.

    Raises:
        TypeError: ``values`` is not such an array.
        ValueError: ``values`` is empty, strided or holds NaN, an infinity or a null (the message names the first row),
            a validity bitmap is too short, or ``q`` is out of range.
    """

def rank(
    dot: _Column,
    difficulty: _Column,
    *,
    percentile: float = 0.5,
    threshold: float | None = None,
    ratio: tuple[int, int] | None = None,
) -> Ranking:
    """Rank rows by quadrant, then dot descending, then difficulty descending, then row; return the first of them.

    With ``m`` the median of ``dot`` and ``tau`` the cut of ``difficulty``, quadrant 1 has difficulty >= tau and
    dot >= m, 2 difficulty < tau and dot >= m, 3 difficulty >= tau and dot < m, 4 the rest. A row whose dot or
    difficulty is null or not finite is in no quadrant, never returned, and counts for nothing. -0.0 equals 0.0.

    Beside the columns, at most 12 bytes a row of memory, the result included.

    Args:
        dot: ``[n]`` float32 or float64, contiguous, or a list of chunks; n < 2**32.
        difficulty: ``[n]`` likewise; the chunks of the two columns need not match.
        percentile: ``tau`` is this quantile of the scored rows' difficulty; 0 to 1.
        threshold: ``tau`` itself; replaces ``percentile``.
        ratio: (numerator, denominator) of the part of the scored rows to return, exact: (57, 100) of 100 rows is 57;
            all when None.

    Raises:
        TypeError: an argument is not of its type.
        ValueError: lengths differ, an array is strided, a validity bitmap is too short, or a number is out of range.

    Source: arXiv 2508.01450, Algorithm 1.
    """

def take_turns(rows: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], *, n: int) -> npt.NDArray[np.int64]:
    """The rows of several lists, one a turn: each list in its turn gives its first row that no list has given yet.

    A list that has none left is passed over from then on, so every row of any list comes once.

    Args:
        rows: ``[m]``, the lists, one behind the other.
        ends: ``[k]``, where each list ends, ascending.
        n: rows are 0 or more and below it.

    Raises:
        TypeError: an argument is not of its type.
        ValueError: a row or an end is out of range, or an array is strided.
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

@final
class NgramTable:
    """The runs of ``n`` words of many questions, to be looked for in texts.

    A word is a maximal run of alphanumeric characters. A question of fewer than ``n`` words, but at least ``shortest``,
    is one run itself; a shorter one has none. Runs that many questions have are boilerplate and not looked for: those
    in more than ``most`` different questions, or in more than half of the different questions of one benchmark (and in
    two at least).

    Args:
        questions: normalised texts (NFKC, case folded).
        benchmarks: number of each question's benchmark, not descending.
        n: words of a run, 1 or more.
        shortest: words of the shortest question that is looked for, 1 to n.
        most: different questions that may share a run.

    Raises:
        ValueError: ``benchmarks`` is of another length or descends, or a number is out of range.
    """

    def __new__(
        cls, questions: list[str], benchmarks: list[int], *, n: int, shortest: int, most: int
    ) -> NgramTable: ...
    @property
    def checked(self) -> npt.NDArray[np.uint8]:
        """Of each question: 0 it is looked for, 1 it is too short, 2 all its runs are boilerplate."""

    @property
    def n_runs(self) -> int:
        """Different runs that are looked for."""

    @property
    def n_ignored(self) -> int:
        """Different runs that are boilerplate."""

    def scan(self, texts: list[str]) -> list[tuple[int, int, int, int, str]]:
        """The question of which each text shares the largest part, by words; the first of equal parts.

        Runs are compared word by word, so that no hash collision is ever a match.

        Args:
            texts: normalised like the questions.

        Returns:
            (row of the text, number of the question, its words in shared runs, all its words, its first shared run) of
            each text that shares a run; of equal questions the first is named.
        """

def shingle_hashes(texts: list[str], n: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Hashes of the different shingles of each text: of its runs of ``n`` words, of all its words where it has fewer.

    A text without any word is one word itself. The same hashes in every process, on every machine.

    Returns:
        The hashes of all texts, one text after the other, ascending within one; ``[texts + 1]`` offsets.

    Raises:
        ValueError: ``n`` is 0.
    """

def word_hashes(texts: list[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Hashes of the words of each text in their order, repeats included; none for a text without a word.

    A word is a maximal run of alphanumeric characters; in scripts without spaces each character is one.

    Returns:
        The hashes of all texts, one text after the other; ``[texts + 1]`` offsets.
    """

def candidate_groups(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
    """The first row that each row is connected with by equal keys in equal columns.

    Args:
        keys: ``[rows, bands]`` uint64, contiguous.

    Raises:
        TypeError: ``keys`` is not such an array.
        ValueError: ``keys`` is strided or has no column.
    """

def near_copies(
    texts: list[str], keys: npt.NDArray[np.uint64], *, n: int, threshold: float
) -> list[tuple[int, int, float]]:
    """Rows whose shingle set has a Jaccard similarity of ``threshold`` or more with that of an earlier kept row.

    Only rows that share a key in one column are compared; sets are compared word by word, not by hashes.

    Args:
        texts: ``[m]`` normalised texts.
        keys: ``[m, bands]`` uint64, contiguous.
        n: words of a shingle.
        threshold: in (0, 1].

    Returns:
        (row, the first kept row that it is similar to, similarity) of each row that is not kept, by row.

    Raises:
        TypeError: ``keys`` is not such an array.
        ValueError: ``keys`` does not fit ``texts``, or a number is out of range.
    """

def bin_column(
    values: npt.NDArray[np.float32] | npt.NDArray[np.float64], cuts: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint8]:
    """The bin of each value: how many cuts are at or below it; 255 where it is NaN or infinite.

    Equals ``np.searchsorted(cuts, values, side="right")`` where values are finite.

    Args:
        values: ``[n]`` float32 or float64, contiguous.
        cuts: ``[m]`` float64, ascending, m at most 254.

    Raises:
        TypeError: an argument is not such an array.
        ValueError: an array is strided, or ``cuts`` are too many, descend or hold NaN.
    """

def extent(values: npt.NDArray[np.float64]) -> tuple[float, float, bool] | None:
    """The least and the largest finite value, and whether all finite ones are whole; None where none is finite.

    Args:
        values: ``[n]`` float64, contiguous.

    Raises:
        TypeError: ``values`` is not such an array.
        ValueError: ``values`` is strided.
    """

def crossfilter(
    columns: list[npt.NDArray[np.uint8]],
    allowed: npt.NDArray[np.uint8],
    *,
    plane: tuple[int, int],
    classes: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], tuple[int, int, int, int]]:
    """Count the rows of every column under the filters of all the others, in one pass.

    Args:
        columns: 1 to 32 columns of bins, ``[n]`` each, contiguous.
        allowed: ``[columns, 256]``, zero where a bin of a column is refused.
        plane: numbers of two columns that are counted together as well.
        classes: ``[n]``, 0 to 3 (the two lowest bits count): what each row is counted as.

    Returns:
        ``[columns, 256, 4]`` rows of each column, bin and class that all filters but the column's own let through;
        ``[256, 256, 4]`` rows of each bin of the plane's second column, bin of its first column, and class, that all
        filters but those of these two let through; rows of each class that all filters let through.

    Raises:
        TypeError: an argument is not of its type.
        ValueError: lengths differ, an array is strided, or a number is out of range.
    """

def page_rows(
    columns: list[npt.NDArray[np.uint8]],
    allowed: npt.NDArray[np.uint8],
    *,
    column: int | None = None,
    values: npt.NDArray[np.float32] | npt.NDArray[np.float64] | None = None,
    descending: bool = False,
    first: int = 0,
    count: int,
) -> npt.NDArray[np.int64]:
    """A page of the rows that all filters let through, in order; equal rows are in the order of their numbers.

    Args:
        columns: as :func:`crossfilter`.
        allowed: likewise.
        column: number of the column whose bins decide the order; None: the number of the row does.
        values: ``[n]`` what the bins of ``column`` were made of, which decides within a bin; None: nothing does.
        descending: the largest first; the bin 255 (missing) is last in any case.
        first: 0-based place of the first row of the page.
        count: most rows to return.

    Returns:
        ``[k]`` row numbers.

    Raises:
        TypeError: an argument is not of its type.
        ValueError: lengths differ, an array is strided, or a number is out of range.
    """

@final
class IdIndex:
    """Which row each of many 128-bit ids stands in; of equal ids the first row counts.

    Args:
        high: ``[n]`` uint64, contiguous: upper halves of the ids.
        low: ``[n]`` likewise: lower halves.

    Raises:
        TypeError: an argument is not such an array.
        ValueError: lengths differ, or an array is strided.
    """

    def __new__(cls, high: npt.NDArray[np.uint64], low: npt.NDArray[np.uint64]) -> IdIndex: ...
    def rows(self, high: npt.NDArray[np.uint64], low: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """The row of each id, ``[m]``; -1 where there is none.

        Raises:
            TypeError: an argument is not such an array.
            ValueError: lengths differ, or an array is strided.
        """
