"""Candidates in rank order, each left out when it is too near to one that was taken before.

The greedy filter of quality first, diversity second: Liu et al. (2024), DEITA, arXiv:2312.15685, section 2.4 ("Repr
Filter"), which compares with the nearest taken sample; here the first taken one above the threshold is told.

The work is one product of matrices for every candidate and every taken vector, up to the first one that is too near:
walked * taken * dim multiplications at most. Nothing is approximated: float32 products only propose pairs, and every
pair near the threshold is decided by its float64 product, so neither blocks nor threads change what is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

# candidates, and taken vectors, of one product: large enough for a fast product, small enough for the cache
CANDIDATES = 2048
TAKEN = 8192
# more than float32 products of unit vectors can be wrong by
_MARGIN = 1e-4


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of some candidates.

    Attributes:
        matched: ``[m]`` number of the first taken vector that is too near, counted from the first that was ever taken;
            -1 where the candidate was taken.
        similarity: ``[m]`` cosine with it, float64; NaN where there is none.
    """

    matched: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float64]

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """``[m]`` whether the candidate was taken."""
        return self.matched < 0


class Taken:
    """The vectors that were taken so far.

    Args:
        threshold: cosine above which two are too near, in (0, 1).
        dim: numbers of a vector.
    """

    def __init__(self, threshold: float, dim: int) -> None:
        self.threshold = threshold
        self.n = 0
        self._vectors = np.empty((TAKEN, dim), np.float32)

    def add(self, vectors: Vectors) -> None:
        """Take vectors ``[m, dim]`` unseen: those of an earlier walk."""
        if self.n + len(vectors) > len(self._vectors):
            grown = np.empty((max(2 * len(self._vectors), self.n + len(vectors)), vectors.shape[1]), np.float32)
            grown[: self.n] = self._vectors[: self.n]
            self._vectors = grown
        self._vectors[self.n : self.n + len(vectors)] = vectors
        self.n += len(vectors)

    def offer(self, candidates: Vectors) -> Verdict:
        """Go through unit vectors ``[m, dim]`` in order, and take each that is not too near to one taken before it.

        A vector of zeros has no direction: it is taken, and nothing is near to it.
        """
        matched = np.full(len(candidates), -1, np.int64)
        similarity = np.full(len(candidates), np.nan)
        for start in range(0, len(candidates), CANDIDATES):
            part = slice(start, start + CANDIDATES)
            self._offer_block(candidates[part], matched[part], similarity[part])
        return Verdict(matched, similarity)

    def _offer_block(self, block: Vectors, matched: npt.NDArray[np.int64], similarity: npt.NDArray[np.float64]) -> None:
        open_rows = np.arange(len(block))
        for first in range(0, self.n, TAKEN):
            taken = self._vectors[first : min(first + TAKEN, self.n)]
            for row, columns in _proposed(block[open_rows], taken, self.threshold):
                self._decide(int(open_rows[row]), block, first + columns, matched, similarity)
            # what is left out already is compared with nothing more
            open_rows = open_rows[matched[open_rows] < 0]
        # those of the block that are left are compared with each other, in order
        rest = block[open_rows]
        numbers = np.full(len(rest), -1, np.int64)
        pairs = dict(_proposed(rest, rest, self.threshold))
        for row, one in enumerate(open_rows.tolist()):
            before = pairs.get(row)
            if before is not None:
                before = before[before < row]
                self._decide(one, block, numbers[before[numbers[before] >= 0]], matched, similarity)
            if matched[one] < 0:
                numbers[row] = self.n
                self.add(block[one : one + 1])

    def _decide(
        self,
        row: int,
        block: Vectors,
        numbers: npt.NDArray[np.int64],
        matched: npt.NDArray[np.int64],
        similarity: npt.NDArray[np.float64],
    ) -> None:
        """Leave a candidate out where one of the proposed taken vectors, in their order, is too near."""
        for number in numbers.tolist():
            cosine = _product(block[row], self._vectors[number])
            if cosine > self.threshold:
                matched[row], similarity[row] = number, cosine
                return


def _product(one: Vectors, other: Vectors) -> float:
    # not BLAS, whose threads would change the last bits of long vectors
    return float(np.einsum("i,i->", one, other, dtype=np.float64))


def _proposed(rows: Vectors, taken: Vectors, threshold: float) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Rows with a product that may be above the threshold, and the columns where, ascending."""
    least = np.float32(threshold - _MARGIN)
    products = rows @ taken.T
    for row in np.flatnonzero(products.max(axis=1, initial=-1.0) > least).tolist():
        yield row, np.flatnonzero(products[row] > least)
