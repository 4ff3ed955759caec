"""What an index is of: its fingerprint, and how two identities differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diq.base.errors import DiqError, InputError
from diq.base.fingerprint import canonical_json, fingerprint_of
from diq.base.text import amount

_SHOWN = 48  # characters of a differing setting in a message


def is_dim(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def index_fingerprint(identity: Mapping[str, Any], element: str) -> str:
    return fingerprint_of(canonical_json({"identity": identity, "element": element}))


def broken_index(path: Path, reason: str) -> DiqError:
    return InputError(f"`{path}` is broken: {reason}", "bring the file back, or remove the folder and score again")


def differences(have: Mapping[str, Any], want: Mapping[str, Any]) -> list[str]:
    """A line for each setting that differs; within a setting, the first place where it does."""
    lines = []
    for key in sorted({*have, *want}):
        found = list(_places(key, have.get(key, _NOTHING), want.get(key, _NOTHING)))
        if found:
            place, there, asked = found[0]
            there, asked = _cut(there, asked)
            more = f" (and {amount(len(found) - 1, 'more place')})" if len(found) > 1 else ""
            lines.append(f"{place} is {there} there, {asked} asked{more}")
    return lines


_NOTHING = object()


def _places(place: str, there: Any, asked: Any) -> Iterator[tuple[str, str, str]]:
    """Places within two JSON values where they differ, with both values as text."""
    if isinstance(there, dict) and isinstance(asked, dict):
        for key in sorted({*there, *asked}):
            yield from _places(f"{place}.{key}", there.get(key, _NOTHING), asked.get(key, _NOTHING))
    elif isinstance(there, list) and isinstance(asked, list) and len(there) == len(asked):
        for number, (one, other) in enumerate(zip(there, asked, strict=True)):
            yield from _places(f"{place}[{number}]", one, other)
    else:
        texts = tuple("nothing" if value is _NOTHING else canonical_json(value) for value in (there, asked))
        if texts[0] != texts[1]:
            yield place, texts[0], texts[1]


def _cut(one: str, other: str) -> tuple[str, str]:
    """Two different texts, long ones cut around their first difference."""
    first = next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    start = max(0, first - _SHOWN // 3) if max(len(one), len(other)) > _SHOWN else 0
    cut = []
    for text in (one, other):
        end = start + _SHOWN
        cut.append(("…" if start else "") + text[start:end] + ("…" if end < len(text) else ""))
    return cut[0], cut[1]
