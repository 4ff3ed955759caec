"""Multiple choice: options in their many shapes, the gold letter, and the one wording of the answer."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from diq.base.sample import Message
from diq.base.text import amount, short
from diq.formats.layouts.layout import Values, structured, text, turn

# the answer of every multiple-choice sample; without a text the letter alone
ANSWER = "The answer is {letter}. {text}"
ANSWER_LETTER = "The answer is {letter}."

Options = dict[str, str]
"""Letter to text, in the order of the row."""

# how options stand in a question, by what is put around their letter
_SHAPES = ("({})", "{}.", "{})", "{}:")
_MARK = "Answer Choices:"
_LABELLED = re.compile(r"\(?([A-Z])[.):]\s*(.*)", re.DOTALL)


def options(value: Any) -> Options:
    """Options from ``{"A": text}``, a list of texts, a list of ``{letter, content}``, or their JSON text.

    Raises:
        ValueError: none of these, or empty.
    """
    value = structured(value)
    if isinstance(value, Mapping) and set(value) == {"label", "text"}:
        labels, texts = list(value["label"]), list(value["text"])
        if len(labels) != len(texts):
            raise ValueError(f"{len(labels)} letters of options, but {amount(len(texts), 'text')}")
        _distinct(labels)
        found = dict(zip(labels, texts, strict=True))
    elif isinstance(value, Mapping):
        # parquet gives every key of a struct, missing ones as null
        found = {str(letter): one for letter, one in value.items() if one is not None}
    elif isinstance(value, (list, tuple)):
        found = _listed(value)
    elif isinstance(value, str):
        found = inline(value if _MARK in value else f"{_MARK}\n{value}")
    else:
        found = {}
    if not found:
        raise ValueError("no options")
    for letter, one in found.items():
        if isinstance(one, bool) or not isinstance(one, (str, int, float)):
            raise ValueError(f"option {letter} is no text")
    return {letter: str(one) for letter, one in found.items()}


def _listed(values: list[Any] | tuple[Any, ...]) -> dict[str, Any]:
    if len(values) > len(string.ascii_uppercase):
        raise ValueError(f"{len(values)} options; there are {len(string.ascii_uppercase)} letters")
    if all(isinstance(one, Mapping) for one in values):
        names, texts = [], []
        for letter, one in zip(string.ascii_uppercase, values, strict=False):
            keys = ("letter", "key", "label", "option")
            names.append(next((str(one[key]) for key in keys if one.get(key) is not None), letter))
            texts.append(next((one[key] for key in ("content", "text", "value") if one.get(key) is not None), None))
        _distinct(names)
        return dict(zip(names, texts, strict=True))
    labelled = [_LABELLED.fullmatch(one) if isinstance(one, str) else None for one in values]
    if values and all(
        match is not None and match[1] == letter
        for match, letter in zip(labelled, string.ascii_uppercase, strict=False)
    ):
        return {match[1]: match[2] for match in labelled if match is not None}
    return dict(zip(string.ascii_uppercase, values, strict=False))


def _distinct(names: Iterable[Any]) -> None:
    twice = [str(name) for name, n in Counter(names).items() if n > 1]
    if twice:
        raise ValueError(f"option {twice[0]} is there twice")


def inline(question: str) -> Options:
    """Options that stand in the question itself behind ``Answer Choices:``, as ``(A) text`` or ``A. text`` lines."""
    _, mark, tail = question.rpartition(_MARK)
    if not mark:
        return {}
    for shape in _SHAPES:
        found = _split(tail, shape)
        if len(found) > 1:
            return found
    return {}


def _split(tail: str, shape: str) -> Options:
    # letters in their order, each behind a space, so that an "(A)" inside an option does not cut it
    places: list[tuple[str, int, int]] = []
    at = 0
    for letter in string.ascii_uppercase:
        match = re.compile(rf"(?:^|\s){re.escape(shape.format(letter))}(?=\s)").search(tail, at)
        if match is None:
            break
        places.append((letter, match.start(), match.end()))
        at = match.end()
    ends = [start for _, start, _ in places[1:]] + [len(tail)]
    return {letter: tail[end:stop].strip() for (letter, _, end), stop in zip(places, ends, strict=False)}


def gold(value: Any, choices: Options) -> str:
    """The letter of the right option: given as a letter, as ``["B"]``, ``(B)``, a 0-based number, or its text.

    Raises:
        ValueError: no answer, several, or one that is not among the options.
    """
    value = structured(value)
    if isinstance(value, (list, tuple)):
        if len(value) > 1:
            raise ValueError(f"{amount(len(value), 'right answer')} ({short(value)}); one is expected")
        value = value[0] if value else None
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError("the answer is empty")
    name = str(value).strip() if not isinstance(value, float) else str(int(value)) if value.is_integer() else ""
    if not isinstance(value, bool):
        if name in choices:
            return name
        letter = name.strip("()[].: ").upper()
        if letter in choices or (not choices and len(letter) == 1 and letter.isalpha()):
            return letter
        if name.isdigit() and int(name) < len(choices):
            return list(choices)[int(name)]
        for letter, option in choices.items():
            if option.strip() == name:
                return letter
    known = f"the options {', '.join(choices)}" if choices else "letters"
    raise ValueError(f"the answer `{short(value)}` is not among {known}")


def answer(letter: str, choices: Options) -> str:
    """The answer's sentence."""
    option = choices.get(letter, "")
    return ANSWER.format(letter=letter, text=option) if option.strip() else ANSWER_LETTER.format(letter=letter)


def prompt(question: str, choices: Options) -> str:
    """The question with its options, one a line, unless it already holds them."""
    if not question.strip():
        raise ValueError("the prompt is empty")
    if _MARK in question or _holds_all(question, choices):
        return question
    return "\n".join([question, *(f"{letter}. {option}" for letter, option in choices.items())])


def _holds_all(question: str, choices: Options) -> bool:
    return all(
        any(f"{mark} {option}" in question for mark in (f"({letter})", f"{letter}.", f"{letter})", f"{letter}:"))
        for letter, option in choices.items()
    )


@dataclass(frozen=True, slots=True)
class Choice:
    """A multiple-choice question.

    Attributes:
        question: as the row has it, often with the options in it.
        options: letter to text; empty where they are nowhere but in the question.
        letter: of the right option.
        reasoning: why it is right; may be empty.
    """

    question: str
    options: Options
    letter: str
    reasoning: str = ""

    def messages(self) -> list[Message]:
        """As a sample."""
        asked = prompt(self.question, self.options)
        return turn(asked, answer(self.letter, self.options), reasoning=self.reasoning)

    def stem(self) -> str:
        """The question without the options at its end, so that one question reads the same from every layout."""
        for shape in _SHAPES:
            block = r"\s*".join(
                rf"{re.escape(shape.format(letter))}\s*{re.escape(text.strip())}"
                for letter, text in self.options.items()
            )
            found = re.search(rf"\s(?:{_MARK})?\s*{block}\s*\Z", self.question)
            if found and self.options:
                return self.question[: found.start()].strip()
        return self.question.strip()


def read_choice(row: Values, *, question: str, choices: Options, right: Any, reasoning: tuple[str, ...] = ()) -> Choice:
    """The multiple-choice question of a row.

    Raises:
        ValueError: no question, or no right answer among the options.
    """
    asked = text(row, question)
    if not asked:
        raise ValueError("the prompt is empty")
    return Choice(asked, choices, gold(right, choices), text(row, *reasoning))


def multiple_choice(
    row: Values, *, question: str, choices: Options, right: Any, reasoning: tuple[str, ...] = ()
) -> list[Message]:
    """A multiple-choice row as a sample."""
    return read_choice(row, question=question, choices=choices, right=right, reasoning=reasoning).messages()


def first(row: Values, *names: str) -> Any:
    """The first of these columns that is neither null nor empty."""
    for name in names:
        value = row.get(name)
        if value is not None and value != "" and value != []:
            return value
    return None


def at_the_end(question: str) -> Options:
    """Options that end a question, one a line (``A. text``, ``(A) text``), or behind ``Answer Choices:``; else none."""
    if found := inline(question):
        return found
    for shape in _SHAPES:
        starts = [match.start() for match in re.finditer(rf"(?m)^\s*{re.escape(shape.format('A'))}\s", question)]
        if starts and len(found := _split(question[starts[-1] :], shape)) > 1:
            return found
    return {}
