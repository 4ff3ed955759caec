"""What became of each column: seen in the samples themselves, so that it holds for every layout."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from diq.base.sample import Message, Sample
from diq.formats.layouts.instruction import ANSWER, QUESTION
from diq.formats.layouts.layout import ATTRIBUTE_LENGTH, BESIDE, Layout, Values, has_words, structured

NOT_USED = "not used"
"""Role of a column whose text is in no message, and which would be missed: a long one, or one of a known name."""
_LEFT_OUT = "left out"

_MORE, _PART = " (already there)", " (in part)"
# roles whose columns hold more than the text that became something
_READ = frozenset(["messages", "read", "label"])
# what a question or an answer is called, so that a short one is no mere fact about the row
_NAMES = frozenset([*QUESTION, *ANSWER, *BESIDE])
# keys of turns and parts that hold a name, no text
_FACTS = frozenset(["role", "from", "type", "id"])


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
        ``not used``; ``(in part)`` where some of the texts of a list are in no message. Of turns also the keys whose
        text is not used (``messages.thoughts``).
    """
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        watched = _Watched(row)
        try:
            sample = layout.sample(watched)
        except ValueError:
            continue
        said = _said(sample)
        for name, value in row.items():
            asked = name in watched.asked
            role = _role(name, value, sample, said, layout, asked=asked)
            if role:
                found[name][role] += 1
            for key in _lost_keys(value, said) if asked and name not in BESIDE else ():
                found[f"{name}.{key}"][NOT_USED] += 1
    return {name: counts.most_common(1)[0][0] for name, counts in found.items()}


class Lost:
    """Counts the rows of a source by the columns whose text in them would be missed.

    Sees every row, so what is a message as it is must cost a comparison alone.

    Args:
        layout: of the rows.
        roles: of the first rows.
    """

    def __init__(self, layout: Layout, roles: Mapping[str, str]) -> None:
        self.counts: Counter[str] = Counter()
        self._named = _NAMES - layout.own
        self._read = frozenset(name for name, role in roles.items() if role in _READ)
        self._known = frozenset(name for name, role in roles.items() if role != NOT_USED)
        dotted = (name.rpartition(".") for name, role in roles.items() if role == NOT_USED and "." in name)
        self._keys = [(column, key) for column, _, key in dotted if column in self._read]

    def see(self, row: Values, sample: Sample) -> None:
        """Count a row that became this sample."""
        messages, kept = sample.messages, sample.attributes
        said = [one["content"] for one in messages]
        if "reasoning_content" in messages[-1]:
            said.append(messages[-1]["reasoning_content"])
        for name, value in row.items():
            kind = type(value)
            if kind is str:
                if name in kept:
                    if name not in self._named:
                        continue
                elif name in self._read:
                    continue
                if value in said:
                    continue
                for content in said:
                    # most stand at the beginning, and to search for a long text takes long
                    if content.startswith(value) or value in content:
                        break
                else:
                    self._look(name, value, sample)
            elif (kind is list or kind is dict) and value and name not in self._known:
                self._look(name, value, sample)
        for column, key in self._keys:
            if key in _lost_keys(row.get(column), _said(sample)):
                self.counts[f"{column}.{key}"] += 1

    def _look(self, name: str, value: Any, sample: Sample) -> None:
        if _is_lost(name, value, _said(sample)):
            self.counts[name] += 1


def _role(name: str, value: Any, sample: Sample, said: Sequence[str], layout: Layout, *, asked: bool) -> str:
    if name in layout.marks:
        # asked of every row, whatever it holds
        return "label" if name in layout.flags or isinstance(value, bool) else "attribute" if value else ""
    kept = name in sample.attributes and not asked
    if kept and _is_fact(name, layout):
        return "attribute"
    texts = [one.strip() for one in _texts(structured(value) if asked else value) if one.strip()]
    if not texts:
        # numbers and flags that are no attribute: an option's number, or an empty column
        if kept:
            return "attribute"
        return "label" if asked and isinstance(value, (int, float)) and not isinstance(value, bool) else ""
    if not kept:
        places = _places(sample)
        for role, content in places.items():
            if texts == [content]:
                return role if asked else f"{role}{_MORE}"
        if asked and len(texts) == 1 and len(texts[0]) < 3 and name not in BESIDE:
            # a letter is in every text
            return "label"
        for role, content in places.items():
            if all(text in content for text in texts):
                return role if asked else f"{role}{_MORE}"
        if asked and name not in BESIDE:
            if _is_dialogue(value, said):
                return "messages"
            some = next((role for role, content in places.items() if any(text in content for text in texts)), "")
            return f"{some}{_PART}" if some and _missing(texts, said) else "read"
    if _is_lost(name, value, said):
        return NOT_USED
    if kept:
        return "attribute"
    return _LEFT_OUT if _missing(texts, said) else f"messages{_MORE}"


def _is_fact(name: str, layout: Layout) -> bool:
    """Whether a column that is an attribute is one for sure, and no question or answer that was not read."""
    return name not in _NAMES or name in layout.own


def _is_lost(name: str, value: Any, said: Sequence[str]) -> bool:
    """Whether a column holds text that is nowhere in the sample, and that somebody would miss."""
    found = structured(value)
    missing = _missing([one.strip() for one in _texts(found)], said)
    if name in BESIDE:
        return bool(missing)
    if not any(map(has_words, missing)):
        return False
    return isinstance(found, str) or sum(map(len, missing)) > ATTRIBUTE_LENGTH


def _missing(texts: Sequence[str], said: Sequence[str]) -> list[str]:
    return [text for text in texts if text and not any(text in one for one in said)]


def _lost_keys(value: Any, said: Sequence[str]) -> list[str]:
    """The keys of turns whose text is nowhere in the sample."""
    turns = structured(value)
    if not isinstance(turns, (list, tuple)):
        return []
    pairs = [pair for one in turns if isinstance(one, Mapping) for pair in one.items()]
    return list(dict.fromkeys(key for key, one in pairs if key not in _FACTS and _is_lost_in_turn(one, said)))


def _is_lost_in_turn(value: Any, said: Sequence[str]) -> bool:
    missing = _missing([one.strip() for one in _texts(structured(value))], said)
    return sum(map(len, missing)) > ATTRIBUTE_LENGTH and any(map(has_words, missing))


def _is_dialogue(value: Any, said: Sequence[str]) -> bool:
    turns = structured(value)
    if not isinstance(turns, (list, tuple)):
        return False
    if all(isinstance(one, Mapping) for one in turns):
        return True
    return all(isinstance(one, str) for one in turns) and not _missing([one.strip() for one in turns], said)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            if key not in _FACTS or not isinstance(one, str):
                yield from _texts(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _texts(one)


def _parts(message: Message) -> str:
    """All text of a message, its tools and calls too."""
    others = (one for key, value in message.items() if key != "role" for one in _texts(value))
    return "\n".join(others).strip()


def _said(sample: Sample) -> list[str]:
    return [_parts(one) for one in (*sample.messages, *(sample.rejected or ()))]


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
        "answer": joined(answer["content"], *_texts(answer.get("tool_calls"))),
        "earlier turns": joined(*(_parts(one) for one in before[:last] if one["role"] != "system")),
        "refused answer": joined(*(one["content"] for one in sample.rejected or ())),
        "tools": joined(*_texts(sample.messages[0].get("tools"))),
    }
