"""BM25 of texts against questions.

``score(d, q) = sum over the words t of q of idf(t) tf / (tf + k1 (1 - b + b |d| / mean |d|))`` with tf the times that t
is in d, |d| the words of d, and ``idf(t) = ln(1 + (N - n_t + 0.5) / (n_t + 0.5))`` for a word that is in n_t of the N
texts. A word that a question says twice counts twice.

Source: Robertson and Zaragoza (2009), The Probabilistic Relevance Framework: BM25 and Beyond, section 3.4; the 1 in the
logarithm, which keeps a word of more than half of the texts from counting against them, is Lucene's, and so is leaving
out the factor k1 + 1, which changes no order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from diq import _core
from diq.base.text import normalized
from diq.encoders.options import Pooled

Floats = npt.NDArray[np.float64]

# numbers of a transient matrix
_TRANSIENT = 1 << 22


@dataclass(slots=True)
class Statistics:
    """What is counted of all texts before any is scored.

    Attributes:
        vocabulary: ``[v]`` uint64, hashes of the words of all questions, ascending.
        n_with: ``[v]`` texts that have each word.
        n: texts.
        n_words: words of all texts.
    """

    vocabulary: npt.NDArray[np.uint64]
    n_with: npt.NDArray[np.int64] = field(init=False)
    n: int = 0
    n_words: int = 0

    def __post_init__(self) -> None:
        self.n_with = np.zeros(len(self.vocabulary), np.int64)

    def add(self, texts: Sequence[str]) -> None:
        """Count further texts."""
        found = _Words.of(texts, self.vocabulary)
        self.n += len(texts)
        self.n_words += int(found.lengths.sum())
        self.n_with += np.bincount(found.word, minlength=len(self.vocabulary))

    @property
    def idf(self) -> Floats:
        """``[v]`` weight of each word."""
        return np.log1p((self.n - self.n_with + 0.5) / (self.n_with + 0.5))


@dataclass(frozen=True, slots=True)
class _Words:
    """Which words of a vocabulary some texts have: sorted by text, then by word.

    Attributes:
        text: ``[e]`` number of the text.
        word: ``[e]`` number of the word.
        times: ``[e]`` how often.
        lengths: ``[n]`` words of each text, known or not.
    """

    text: npt.NDArray[np.int64]
    word: npt.NDArray[np.int64]
    times: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[str], vocabulary: npt.NDArray[np.uint64]) -> _Words:
        hashes, offsets = _core.word_hashes([normalized(text) for text in texts])
        lengths = _lengths(offsets)
        text = np.repeat(np.arange(len(texts)), lengths)
        word = np.minimum(np.searchsorted(vocabulary, hashes), max(len(vocabulary) - 1, 0))
        known = vocabulary[word] == hashes if len(vocabulary) else np.zeros(len(hashes), np.bool_)
        pairs, times = np.unique(text[known] * len(vocabulary) + word[known], return_counts=True)
        text, word = np.divmod(pairs, max(len(vocabulary), 1))
        return cls(text, word, times, lengths)


def vocabulary_of(questions: Sequence[str]) -> npt.NDArray[np.uint64]:
    """Hashes of the words of some questions, ascending."""
    return np.unique(_core.word_hashes([normalized(text) for text in questions])[0])


def count_questions(questions: Sequence[str], vocabulary: npt.NDArray[np.uint64]) -> Floats:
    """How often each question of a validation set says each word, ``[m, v]``."""
    found = _Words.of(questions, vocabulary)
    counts = np.zeros((len(questions), len(vocabulary)))
    counts[found.text, found.word] = found.times
    return counts


def count_words(texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """Words of each text."""
    return _lengths(_core.word_hashes([normalized(text) for text in texts])[1])


def _lengths(offsets: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    whole = offsets.astype(np.int64)
    return whole[1:] - whole[:-1]


def bm25(
    texts: Sequence[str], questions: Floats, statistics: Statistics, *, k1: float, b: float, reduction: Pooled
) -> Floats:
    """Mean or largest BM25 of each text against the questions of a validation set.

    Args:
        texts: n of them, as they were counted.
        questions: ``[m, v]`` as `count_questions` makes it, m at least 1.
        statistics: of all texts.
        k1, b: of the formula.
        reduction: over the m scores.

    Returns:
        ``[n]``, 0 or more; the same bits in whatever batch.
    """
    words = _Words.of(texts, statistics.vocabulary)
    length = 1 - b + b * words.lengths * (statistics.n / max(statistics.n_words, 1))
    weight = statistics.idf[words.word] * words.times / (words.times + k1 * length[words.text])
    if reduction == "mean":
        asked = questions.mean(axis=0)
        scores = np.bincount(words.text, weights=weight * asked[words.word], minlength=len(texts))
        return np.asarray(scores, np.float64)
    largest = np.zeros(len(texts))
    m = len(questions)
    # no score is below 0, so a text that shares no word has its largest already
    firsts = np.flatnonzero(np.diff(words.text, prepend=-1))
    step = max(1, _TRANSIENT // max(m * int(np.diff(np.append(firsts, len(words.text))).max(initial=1)), 1))
    for at in range(0, len(firsts), step):
        begins = firsts[at : at + step]
        end = firsts[at + step] if at + step < len(firsts) else len(words.text)
        part = slice(begins[0], end)
        products = np.add.reduceat(weight[part, None] * questions.T[words.word[part]], begins - begins[0], axis=0)
        largest[words.text[begins]] = products.max(axis=1)
    return largest
