"""Text for messages."""

from __future__ import annotations

import pytest

from diq.base.text import amount, counted


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


def test_one_thing_is_no_plural() -> None:
    assert [amount(n, "sample") for n in (0, 1, 2, 12_000)] == ["0 samples", "1 sample", "2 samples", "12,000 samples"]
    assert [amount(n, "reply", "replies") for n in (0, 1, 2)] == ["0 replies", "1 reply", "2 replies"]
