"""Guards of a selection: repeated samples (exact, near) and samples that repeat questions of a benchmark.

Texts are compared after `normalized`; what a word is, and every comparison of words, is in ``rust/ngram.rs``.

Sources: MinHash: Broder (1997), On the resemblance and containment of documents; bands: Leskovec, Rajaraman and Ullman,
Mining of Massive Datasets, section 3.4; 13 words shared with a question: Brown et al. (2020), arXiv:2005.14165,
appendix C, and ``decontaminate`` of lm-evaluation-harness.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diq import _core
from diq.base.errors import UsageError
from diq.base.sample import Message, prompt_text
from diq.base.text import normalized, short

# words of a shingle: five keep the order of words, and a changed word costs no more than five shingles
SHINGLE_WORDS = 5
# hashes of a signature, and how many of the pairs at the threshold must become candidates
N_HASHES = 128
RECALL = 0.99
SEED = 42
# texts that are compared at once; a group of candidates is never split, so a larger one is read whole
CHUNK = 50_000

# below this, a question says too little: `which drug is the treatment of choice` is in many texts
SHORTEST_QUESTION = 8
# more questions than this share a run of words only as boilerplate: instructions, answer formats, stock phrases. GPT-3
# ignored runs that more than 10 training documents have; here questions are counted, since pools for fine-tuning repeat
# one question with many answers, and that is what a guard must find
MOST_QUESTIONS = 10


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A sample that a guard leaves out.

    Attributes:
        position: of the sample.
        reason: why, in one line.
        kept: position of the sample that it repeats; None where it repeats a question.
        matched: benchmark and row of the question; None where it repeats a sample.
        similarity: Jaccard similarity with the kept sample, or the share of the question's words that lie in shared
            runs; None for exact repeats.
    """

    position: int
    reason: str
    kept: int | None = None
    matched: str | None = None
    similarity: float | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A question that no training sample should repeat.

    Attributes:
        benchmark: number of its benchmark.
        place: where it is, as a reason names it: ``position 12`` or ``line 13``.
        row: the number of ``place``.
        text: normalised.
    """

    benchmark: int
    place: str
    row: int
    text: str


def _parts(messages: Sequence[Message]) -> Iterator[tuple[str, str]]:
    for message in messages:
        if message.get("reasoning_content"):
            yield f"{message['role']} reasoning", message["reasoning_content"]
        yield message["role"], message["content"]


def plain_text(messages: Sequence[Message]) -> str:
    """All messages of a sample with their reasoning, normalised, one after the other."""
    return normalized("\n".join(text for _, text in _parts(messages)))


def exact_text(messages: Sequence[Message]) -> str:
    """What two samples must share to repeat each other exactly: roles, and texts up to case, form and white space."""
    # both separators are white space to str.split, so no text holds one
    return "\x1e".join(f"{role}\x1f{' '.join(normalized(text).split())}" for role, text in _parts(messages))


def question_text(messages: Sequence[Message]) -> str:
    """The question of a sample: every message before the answer, normalised."""
    return normalized(prompt_text(messages))


# repeats --------------------------------------------------------------------------------------------------------------


class ExactCopies:
    """Finds samples whose `exact_text` an earlier sample has; 24 bytes a sample in memory."""

    def __init__(self) -> None:
        self._positions: list[npt.NDArray[np.int64]] = []
        self._digests: list[npt.NDArray[np.uint64]] = []

    def add(self, positions: npt.NDArray[np.int64], samples: Sequence[Sequence[Message]]) -> None:
        """Take some samples, in any order."""
        # the 128 bits that samples are told apart by everywhere
        ids = _core.sample_ids([exact_text(messages) for messages in samples])
        self._positions.append(positions)
        self._digests.append(np.frombuffer(bytes.fromhex("".join(ids).replace("-", "")), np.uint64))

    def found(self) -> list[Exclusion]:
        """Every sample but the earliest of those with one text, by position."""
        if not self._positions:
            return []
        positions = np.concatenate(self._positions)
        digests = np.concatenate(self._digests).reshape(-1, 2)
        order = np.lexsort((positions, digests[:, 0], digests[:, 1]))
        positions, digests = positions[order], digests[order]
        first = np.r_[True, (digests[1:] != digests[:-1]).any(axis=1)]
        kept = positions[np.flatnonzero(first)[np.cumsum(first) - 1]]
        repeats = sorted(zip(positions[~first].tolist(), kept[~first].tolist(), strict=True))
        return [
            Exclusion(position, f"repeats position {other} up to case and spaces", other) for position, other in repeats
        ]


def plan_bands(threshold: float) -> tuple[int, int]:
    """How a signature is cut: (bands, hashes of a band), the longest bands that keep the recall at the threshold.

    Two samples of similarity s become candidates with probability ``1 - (1 - s**r)**b``; below a threshold of 0.04 even
    bands of one hash find fewer than `RECALL` of the pairs.
    """
    for length in range(N_HASHES, 1, -1):
        if recall(threshold, N_HASHES // length, length) >= RECALL:
            return N_HASHES // length, length
    return N_HASHES, 1


def recall(similarity: float, bands: int, length: int) -> float:
    """Probability that two samples of a similarity share a band."""
    return float(1 - (1 - similarity**length) ** bands)


class NearCopies:
    """Finds samples that are similar to an earlier kept sample; 8 bytes a band and sample in memory.

    Signatures by R-MinHash of the library `rensa` only propose: every pair is then compared shingle by shingle.

    Args:
        threshold: Jaccard similarity of the shingle sets, in (0, 1].

    Raises:
        UsageError: the library is missing.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.bands, self.length = plan_bands(threshold)
        self._minhash = _rensa().RMinHash
        self._positions: list[npt.NDArray[np.int64]] = []
        self._keys: list[npt.NDArray[np.uint64]] = []

    def add(self, positions: npt.NDArray[np.int64], texts: Sequence[str]) -> None:
        """Take some samples (`plain_text`), in any order."""
        if not texts:
            return
        hashes, offsets = _core.shingle_hashes(list(texts), SHINGLE_WORDS)
        matrix = self._minhash.digest_matrix_from_flat_token_hashes(hashes, offsets, self.bands * self.length, SEED)
        signatures = np.array(matrix.to_rows(), np.uint64).reshape(len(texts), self.bands, self.length)
        keys = np.zeros((len(texts), self.bands), np.uint64)
        for column in range(self.length):
            keys = (keys ^ signatures[:, :, column]) * np.uint64(0x9E3779B97F4A7C15)
            keys ^= keys >> np.uint64(32)
        self._positions.append(positions)
        self._keys.append(keys)

    def candidates(self) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]]:
        """Positions and keys of samples that may be similar, in chunks that no similar pair crosses."""
        if not self._positions:
            return
        positions, keys = np.concatenate(self._positions), np.concatenate(self._keys)
        order = np.argsort(positions)
        positions, keys = positions[order], np.ascontiguousarray(keys[order])
        groups = _core.candidate_groups(keys).astype(np.int64)
        rows = np.flatnonzero(np.bincount(groups, minlength=len(groups))[groups] > 1)
        rows = rows[np.argsort(groups[rows], kind="stable")]
        start = end = 0
        for after in [*(np.flatnonzero(np.diff(groups[rows])) + 1), len(rows)]:
            if after - start > CHUNK and end > start:
                yield self._chunk(positions, keys, rows[start:end])
                start = end
            end = after
        if end > start:
            yield self._chunk(positions, keys, rows[start:end])

    @staticmethod
    def _chunk(
        positions: npt.NDArray[np.int64], keys: npt.NDArray[np.uint64], rows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
        rows = np.sort(rows)
        return positions[rows], keys[rows]

    def found(
        self, positions: npt.NDArray[np.int64], keys: npt.NDArray[np.uint64], texts: Sequence[str]
    ) -> list[Exclusion]:
        """Exclusions of one chunk of `candidates`, whose texts are given in its order."""
        copies = _core.near_copies(list(texts), keys, n=SHINGLE_WORDS, threshold=self.threshold)
        return [
            Exclusion(
                int(positions[row]),
                f"similar to position {positions[kept]} (Jaccard {similarity:.3f})",
                int(positions[kept]),
                similarity=similarity,
            )
            for row, kept, similarity in copies
        ]


def _rensa() -> Any:
    # only who asks for near repeats needs it
    try:
        return importlib.import_module("rensa")
    except ImportError as error:
        raise UsageError("--dedupe near needs the package `rensa`", "run `pip install 'diq[dedupe]'`") from error


# benchmarks -----------------------------------------------------------------------------------------------------------


class Overlaps:
    """Finds samples that share a run of words with a question.

    Args:
        questions: of all benchmarks, a benchmark's together, in the order of ``names``.
        names: of the benchmarks.
        ngram: words of a run; a question of fewer words, but at least `SHORTEST_QUESTION`, is looked for as a whole.
        min_share: share of a question's words that must lie in shared runs; 0: one run is enough.
    """

    def __init__(self, questions: Sequence[Question], names: Sequence[str], ngram: int, min_share: float = 0.0) -> None:
        self.questions = questions
        self.names = names
        self.min_share = min_share
        self._table = _core.NgramTable(
            [question.text for question in questions],
            [question.benchmark for question in questions],
            n=ngram,
            shortest=min(SHORTEST_QUESTION, ngram),
            most=MOST_QUESTIONS,
        )
        self._found: list[tuple[int, int, int, int, str]] = []

    def add(self, positions: npt.NDArray[np.int64], texts: Sequence[str]) -> None:
        """Take some samples (`plain_text`), in any order."""
        self._found += [
            (int(positions[row]), number, shared, total, run)
            for row, number, shared, total, run in self._table.scan(list(texts))
            if shared / total >= self.min_share
        ]

    def found(self) -> list[Exclusion]:
        """The samples that share a run, by position."""
        return [self._exclusion(*one) for one in sorted(self._found)]

    def _exclusion(self, position: int, number: int, shared: int, total: int, run: str) -> Exclusion:
        question = self.questions[number]
        name = self.names[question.benchmark]
        return Exclusion(
            position,
            f"shares {shared} of {total} words with {question.place} of `{name}`: {short(run, width=160)}",
            matched=f"{name}:{question.row}",
            similarity=shared / total,
        )

    def counts(self) -> Mapping[str, Any]:
        """What was looked for and found: different runs, and the questions of each benchmark by what became of them."""
        numbers = np.array([question.benchmark for question in self.questions], np.int64)
        hit = np.array([self.questions[number].benchmark for _, number, *_ in self._found], np.int64)

        def of(values: npt.NDArray[np.int64]) -> list[int]:
            return [int(one) for one in np.bincount(values, minlength=len(self.names))]

        checked = self._table.checked
        columns = zip(
            self.names, of(numbers), of(numbers[checked == 1]), of(numbers[checked == 2]), of(hit), strict=True
        )
        return {
            "n_runs": self._table.n_runs,
            "n_ignored_runs": self._table.n_ignored,
            # the rest may be stock phrases that benchmark and training data have in common
            "n_half_or_more": sum(2 * shared >= total for _, _, shared, total, _ in self._found),
            "benchmarks": [
                {"name": name, "n_questions": n, "n_too_short": brief, "n_too_common": common, "n_excluded": excluded}
                for name, n, brief, common, excluded in columns
            ],
        }
