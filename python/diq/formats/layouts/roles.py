"""What became of each column: seen in the samples themselves, so that it holds for every layout."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from diq.base.sample import Sample
from diq.formats.layouts.layout import ATTRIBUTE_LENGTH, BESIDE, Layout, Values, has_words, structured

NOT_USED = "not used"
"""Role of a column whose text is in no message and no attribute, and long enough to be missed."""
_LEFT_OUT = "left out"

_MORE = " (already there)"


class _Watched(dict[str, Any]):
    """A row that remembers which columns were asked for."""

    def __init__(self, row: Values) -> None:
        super().__init__(row)
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)


def column_roles(layout: Layout, rows: Sequence[Values]) -> dict[str, str]:
    """What each column that holds anything became, in the order of the columns.

    Args:
        layout: of the rows.
        rows: some of them; those that are no sample say nothing.

    Returns:
        Column to ``system``, ``prompt``, ``earlier turns``, ``reasoning``, ``answer``, ``refused answer``, ``tools``,
        ``messages``, ``label``, ``attribute``, ``left out`` (short facts in nested values, URLs, digests) or
        ``not used``.
    """
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        watched = _Watched(row)
        try:
            sample = layout.sample(watched)
        except ValueError:
            continue
        for name, value in row.items():
            role = _role(name, value, sample, asked=name in watched.asked)
            if role:
                found[name][role] += 1
    return {name: counts.most_common(1)[0][0] for name, counts in found.items()}


def _role(name: str, value: Any, sample: Sample, *, asked: bool) -> str:
    texts = [one.strip() for one in _texts(structured(value) if asked else value) if one.strip()]
    if name in sample.attributes and not asked:
        return "attribute"
    if not texts:
        # numbers and flags that are no attribute: an option's number, or an empty column
        return "label" if asked and isinstance(value, (int, float)) and not isinstance(value, bool) else ""
    places = _places(sample)
    if asked and _is_dialogue(value) and not all(text in places["prompt"] for text in texts):
        return "messages"
    for role, content in places.items():
        if any(content == text for text in texts):
            return role if asked else f"{role}{_MORE}"
    if asked and len(texts) == 1 and len(texts[0]) < 3:
        # a letter is in every text
        return "label"
    for role, content in places.items():
        if all(text in content for text in texts):
            return role if asked else f"{role}{_MORE}"
    if asked and name not in BESIDE:
        return "read"
    if not any(map(has_words, texts)):
        return _LEFT_OUT
    return NOT_USED if isinstance(value, str) or sum(map(len, texts)) > ATTRIBUTE_LENGTH else _LEFT_OUT


def _is_dialogue(value: Any) -> bool:
    turns = structured(value)
    return isinstance(turns, (list, tuple)) and len(turns) > 1 and all(isinstance(one, (Mapping, str)) for one in turns)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _texts(one)


def _places(sample: Sample) -> dict[str, str]:
    """Texts of a sample by role."""
    *before, answer = sample.messages
    asked = [place for place, one in enumerate(before) if one["role"] == "user"]
    last = asked[-1] if asked else -1

    def joined(*parts: Any) -> str:
        return "\n".join(str(one) for one in parts).strip()

    return {
        "system": joined(*(one["content"] for one in before if one["role"] == "system")),
        "prompt": joined(before[last]["content"]) if asked else "",
        "reasoning": joined(answer.get("reasoning_content", "")),
        "answer": joined(answer["content"]),
        "earlier turns": joined(*(one["content"] for one in before[:last] if one["role"] != "system")),
        "refused answer": joined(*(one["content"] for one in sample.rejected or ())),
    }
