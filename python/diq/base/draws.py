"""Seeded draws: a pure function of seed and text."""

from __future__ import annotations

import hashlib


def unit_of(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big") / 2**56
