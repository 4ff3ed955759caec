from __future__ import annotations

from dataclasses import dataclass, field

from diq.base.summary import Summary


@dataclass(repr=False, slots=True)
class Made(Summary):
    name: str
    seconds: float
    rows: list[int] = field(default_factory=list)
    n: int | None = None


@dataclass(frozen=True, repr=False, slots=True)
class Plain(Summary):
    run_id: int
    is_sealed: bool


def test_a_repr_is_short_and_a_dict_whole() -> None:
    made = Made("pool-diq-0.1", 0.25, list(range(10_000)), 3)
    assert repr(made) == "Made(name='pool-diq-0.1', seconds=0.25, 10000 rows, n=3)"
    assert made.to_dict() == {"name": "pool-diq-0.1", "seconds": 0.25, "rows": list(range(10_000)), "n": 3}
    assert repr(Made("pool", 0.25)) == "Made(name='pool', seconds=0.25, 0 rows, ...)"
    assert repr(Plain(7, True)) == "Plain(run_id=7, is_sealed=True)"
    assert not hasattr(made, "__dict__")


def test_long_texts_are_cut_and_what_does_not_fit_is_left_out() -> None:
    wide = dataclass(repr=False)(type("Wide", (Summary,), {"__annotations__": {f"text_{i}": str for i in range(9)}}))
    shown = repr(wide(*["words " * 50] * 9))
    assert len(shown) <= 100
    assert shown.startswith("Wide(text_0='words words")
    assert shown.endswith(", ...)")
