"""Text for messages."""

from __future__ import annotations

import pytest

from diq.base.text import counted


@pytest.mark.parametrize(
    ("reasons", "told"),
    [
        ({}, ""),
        ({"down": 1200}, "down (1,200)"),
        ({"slow": 1, "down": 3, "late": 1}, "down (3); slow (1); late (1)"),
        ({"a": 9, "b": 8, "c": 7, "d": 1, "e": 2}, "a (9); b (8); c (7); other reasons (3)"),
    ],
)
def test_reasons_come_with_their_counts_the_commonest_first(reasons: dict[str, int], told: str) -> None:
    assert counted(reasons, shown=3) == told
