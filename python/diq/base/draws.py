"""Seeded draws: numbers that depend on a seed and on what is drawn alone, so that more of it moves none that was there.

Stores hold what was drawn, so none of these may ever give another number. That is why there are three forms of one
thing:

- By a text, :func:`number_of`: the length in bytes is part of the hash, so every caller keeps its own.
- By a position, :func:`numbers_of_positions`: for rankings of millions.
- By the id of a sample, in SQL, which has no BLAKE2 and no Philox: ``samples/draw_validation_samples`` orders by the
  SHA-256 of ``SEED:ID``, ``judging/draw_judged_samples`` and ``influence/draw_samples`` by the MD5 of ``ID/SEED``.

What needs a stream of numbers (the demo's world, a new head, the order of a training) seeds a generator instead.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from diq import _core

# positions at a time: what Philox takes and gives is 32 bytes each
_POSITIONS = 1 << 20


def number_of(text: str | bytes, *, n_bytes: int = 7) -> int:
    """A number of so many bytes that depends on the text alone.

    Args:
        text: what is drawn, and the seed in it.
        n_bytes: 1 to 64; seven fit into a float without rounding.
    """
    # a lone surrogate, which UTF-8 cannot write, counts as a question mark
    content = text.encode(errors="replace") if isinstance(text, str) else text
    return int.from_bytes(hashlib.blake2b(content, digest_size=n_bytes).digest(), "big")


def unit_of(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return number_of(text) / 2**56


def numbers_of_positions(position: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.uint64]:
    """A number for each position, ``[n]`` uint64: the same in any dataset that begins alike, anywhere.

    The first 64 bits of Philox4x32-10 with the seed as its key and the position as its counter.
    """
    drawn = np.empty(len(position), np.uint64)
    for start in range(0, len(position), _POSITIONS):
        part = position[start : start + _POSITIONS].astype(np.uint64)
        counters = np.zeros((len(part), 4), np.uint32)
        counters[:, 0], counters[:, 1] = part & np.uint64(0xFFFFFFFF), part >> np.uint64(32)
        words = _core.philox(seed, counters)
        drawn[start : start + len(part)] = words[:, 0].astype(np.uint64) << np.uint64(32) | words[:, 1]
    return drawn
