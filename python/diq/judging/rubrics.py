"""Rubrics that a language model rates texts by: the prompt, and what its reply says.

A prompt is a file of its own in ``prompts/``, worded anew; what it asks for is the paper's (arXiv 2508.01450,
appendices A, C.1 and E). A reply is read strictly, which takes the form that was asked for, or else leniently, which
also takes the shapes that models like to give it. Neither guesses: what does not say one whole number from 1 to 5 for
every dimension cannot be read.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal, NamedTuple

from diq.base.draws import number_of
from diq.base.fingerprint import fingerprint_of
from diq.base.text import short
from diq.base.thinking import after_thinking

_DIGITS = ("1", "2", "3", "4", "5")
_MATERIAL = "{{material}}"
_FILES = {"difficulty": "difficulty-v1.md", "reasoning": "reasoning-v1.md", "clinical": "clinical-v1.md"}
_HEADER = re.compile(r"---\nname: (?P<name>\w+)\nversion: (?P<version>\w+)\n---\n(?P<prompt>.*)\Z", re.DOTALL)


class UnreadableReplyError(ValueError):
    """A reply does not hold what was asked for; the text says what is wrong with which field."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reply says.

    Attributes:
        scores: dimension to whole number, 1 to 5; every scored dimension of the rubric.
        rationales: dimension to the model's words, also of dimensions that have words alone (``key_factors``); a
            dimension may be missing.
        parsing: ``strict``: the reply has the form that was asked for; ``lenient``: it was read in spite of another.
    """

    scores: dict[str, int]
    rationales: dict[str, str]
    parsing: Literal["strict", "lenient"]


class _Field(NamedTuple):
    """A line of the asked form: its label, the dimension, and whether it holds the score or the words."""

    label: str
    dimension: str
    is_score: bool


def _form(dimensions: dict[str, tuple[str, str]], words_alone: dict[str, str] | None = None) -> tuple[_Field, ...]:
    """Scores first, then the words of each dimension, then what has words alone."""
    return (
        *(_Field(score, one, True) for one, (score, _) in dimensions.items()),
        *(_Field(words, one, False) for one, (_, words) in dimensions.items()),
        *(_Field(words, one, False) for one, words in (words_alone or {}).items()),
    )


_FORMS = {
    "difficulty": _form(
        {
            "knowledge": ("Knowledge Score", "Knowledge Justification"),
            "reasoning": ("Reasoning Score", "Reasoning Justification"),
            "overall": ("Overall Score", "Overall Justification"),
        },
        {"key_factors": "Key Factors"},
    ),
    "reasoning": _form({"reasoning_quality": ("Score", "Rationale")}),
    "clinical": _form(
        {
            "differential_diagnosis": ("Differential Diagnosis Score", "Differential Diagnosis Rationale"),
            "safety_check": ("Safety Check Score", "Safety Check Rationale"),
            "evidence_citation": ("Evidence Citation Score", "Evidence Citation Rationale"),
        }
    ),
}


@dataclass(frozen=True, slots=True)
class Rubric:
    """A prompt and the form of its reply.

    Attributes:
        name: ``difficulty`` (of a question), ``reasoning`` or ``clinical`` (of an answer).
        version: of the prompt file.
        prompt: its text; the line ``{{material}}`` is where question and answer go.
        dimensions: what is scored, in the order of asking.
    """

    name: str
    version: str
    prompt: str
    dimensions: tuple[str, ...]

    @property
    def digest(self) -> str:
        """32 hexadecimal digits of the prompt: an edited prompt is another one."""
        return fingerprint_of(self.prompt)

    def messages(self, question: str, answer: str | None = None) -> list[dict[str, str]]:
        """The chat messages that ask for a rating: one message, since not every model takes a system turn.

        The texts stand unchanged between marker lines with a code that neither of them holds, so that no text can end
        its own part. The same texts give the same messages.

        Args:
            question: the question.
            answer: the answer with its reasoning; None for ``difficulty``, which rates a question alone.

        Raises:
            ValueError: the rubric rates an answer and there is none, or the other way round.
        """
        rates_question = self.name == "difficulty"
        if rates_question != (answer is None):
            raise ValueError(f"the rubric {self.name} rates {'a question alone' if rates_question else 'an answer'}")
        parts = {"QUESTION": question} if answer is None else {"QUESTION": question, "ANSWER": answer}
        code = _code(list(parts.values()))
        material = "\n\n".join(
            f"<<<BEGIN {name} {code}>>>\n{text}\n<<<END {name} {code}>>>" for name, text in parts.items()
        )
        before, _, after = self.prompt.partition(_MATERIAL)
        return [{"role": "user", "content": f"{before}{material}{after}"}]

    def reminder(self) -> str:
        """What is said when a reply could not be read and is asked for once more."""
        form = "\n".join(f"{one.label}: {'[1-5]' if one.is_score else '[words]'}" for one in _FORMS[self.name])
        return (
            "That reply does not have the form that was asked for. Write the following lines and nothing else: no "
            "heading, no table, no JSON. Put one digit from 1 to 5 (no half, no range) in the place of each [1-5], and "
            f"your own words in the place of every other bracket.\n\n{form}"
        )

    def read(self, reply: str) -> Reading:
        """What a reply says.

        Strict: the lines of the form, in order, each once. Lenient: also Markdown, tables, JSON, ``4/5``, ``Level 4``,
        other orders and names of the fields, score and words on one line, a section for each dimension.

        What does not count: thinking in front (`diq.base.thinking`), the material where the model repeats it, and
        the form where it is repeated unfilled. A score that is given twice counts when it is the same both times, and
        makes the reply unreadable when it is not, for nothing says which one is meant. Of words that are given twice,
        the last ones count.

        Raises:
            UnreadableReplyError: a score is missing, is no whole number from 1 to 5, or is given with two values.
        """
        text = reply.replace("\r\n", "\n").strip()
        if not text:
            raise UnreadableReplyError("the reply is empty")
        reading = self._read_strictly(text)
        if reading is not None:
            # other scores among the words would contradict those of the form
            _Search(self).read(_ECHO.sub("", text))
            return reading
        said = _ECHO.sub("", after_thinking(text)).strip()
        if not said:
            raise UnreadableReplyError("the reply holds thinking or the material, and nothing after it")
        return _Search(self).read(said)

    def _read_strictly(self, text: str) -> Reading | None:
        form = _FORMS[self.name]
        found: list[tuple[str, list[str]]] = []
        for line in text.split("\n"):
            label = next((one.label for one in form if line.startswith(f"{one.label}:")), None)
            if label is not None:
                found.append((label, [line[len(label) + 1 :]]))
            elif found:
                found[-1][1].append(line)
            else:
                return None
        if [label for label, _ in found] != [one.label for one in form]:
            return None
        scores: dict[str, int] = {}
        rationales: dict[str, str] = {}
        for one, (_, lines) in zip(form, found, strict=True):
            value = "\n".join(lines).strip()
            if one.is_score:
                if value not in _DIGITS:
                    return None
                scores[one.dimension] = int(value)
            elif not value or self._is_placeholder(value):
                return None
            else:
                rationales[one.dimension] = value
        return Reading(scores, rationales, "strict")

    def _is_placeholder(self, words: str) -> bool:
        """Whether words are the form's own, such as ``[why this score]``."""
        return words == "[words]" or f": {words}\n" in self.prompt or f":\n{words}\n" in self.prompt


@cache
def load_rubric(name: str) -> Rubric:
    """The rubric of a name, with the current version of its prompt.

    Args:
        name: ``difficulty``, ``reasoning`` or ``clinical``.

    Raises:
        KeyError: there is no such rubric.
    """
    text = (resources.files("diq.judging") / "prompts" / _FILES[name]).read_text(encoding="utf-8")
    header = _HEADER.match(text)
    if header is None or header["name"] != name or header["prompt"].count(_MATERIAL) != 1:
        raise AssertionError(
            f"{_FILES[name]} does not begin with its name and version, or has no place for the material"
        )
    dimensions = tuple(one.dimension for one in _FORMS[name] if one.is_score)
    return Rubric(name, header["version"], header["prompt"].strip(), dimensions)


def _code(texts: list[str]) -> str:
    """Eight hexadecimal digits that no text holds, the same for the same texts."""
    content = "\0".join(texts).encode(errors="replace")
    number = 0
    while True:
        code = f"{number_of(content + number.to_bytes(4, 'big'), n_bytes=4):08x}"
        if not any(code in text for text in texts):
            return code
        number += 1


# the material, repeated by the model: what looks like a score in there was written by somebody else
_ECHO = re.compile(
    r"<<<BEGIN (?P<part>QUESTION|ANSWER) (?P<code>\w+)>>>.*?(?:<<<END (?P=part) (?P=code)>>>|\Z)", re.DOTALL
)


# lenient reading -----------------------------------------------------------------------------------------------------

_Kind = Literal["score", "words"]

# how models name the dimensions: whole labels, in lower case, letters and single spaces
_NAMES = {
    "knowledge": "(?:medical )?knowledge",
    "reasoning": "(?:clinical |medical )?reasoning",
    "overall": "(?:(?:final )?overall|difficulty)",
    "reasoning_quality": "(?:overall|final|comprehensive|(?:overall )?(?:clinical )?reasoning quality|quality)",
    "differential_diagnosis": "(?:ddx|differential(?: diagnos[ie]s)?(?: ddx)?)",
    "safety_check": "safety(?: checks?)?",
    "evidence_citation": "evidence(?: citations?| citing)?",
    "key_factors": "key (?:difficulty )?factors?",
}
_MORE = "(?: (?:complexity|difficulty|dimension))*"
_SCORE = "(?:score|rating)s?"
_WORDS = "(?:justification|rationale|explanation|reason|comment)s?"
# what a JSON reply wraps around its fields, and the keys whose value names the dimension
_WRAPPERS = frozenset(("evaluation", "assessment", "result", "results", "output", "response", "judgment", "dimensions"))
_NAMING = frozenset(("dimension", "category", "criterion", "name"))
_DEEPEST = 6

_DECORATION = " \t>#*_`~\"'•·|-"
_NUMBERING = re.compile(r"(?:(?:dimension|category|criterion|area|step)\s*)?[0-9]{1,2}\s*[.):]\s+", re.IGNORECASE)
_LABELLED = re.compile(
    r"(?P<label>(?:[^:：=|(\[]|\([^()]*\)|\[[^\[\]]*\]){1,80}?)\s*(?:[:：=|]|\s[-–—]\s)\s*(?P<value>.*)", re.DOTALL
)
_BRACKETS = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
# the place of a score in a form that was not filled in, perhaps with the score behind it
_UNFILLED = re.compile(r"[\s*_`\"']*[\[(<]\s*1\s*(?:-|–|to)\s*5\s*[\])>][\s*_`\"':=]*")
_NUMBER = re.compile(
    r"[\s*_`\"'\[({|]*(?:(?:level|score)[\s:*_]*)?(?P<number>[0-9０-９]+(?:[.,][0-9０-９]+)?)"
    r"(?:[\s*_`\"'\])}]*\(?\s*(?:/|／|out of|of)[\s*_]*(?P<top>[0-9０-９]+(?:\.[0-9]+)?)\)?)?"
    r"(?P<closing>[ \t*_`\"'\])}]*)",
    re.IGNORECASE,
)
# what makes the digit before it no score of its own: a range, another value, a part of something
_GOES_ON = re.compile(r"(?:->|\.{2,}|[-‐‑–—−~→/／&,])\s*[0-9０-９]|(?:to|or|and)\b", re.IGNORECASE)
_SEPARATORS = " \t,;:|.-–—*_"


class _Object(list[tuple[str, Any]]):
    """A JSON object with all its keys, so that one that is given twice is seen."""


class _Labelled(NamedTuple):
    """A line with a label of the rubric; ``kind`` is None where the label names the dimension alone."""

    dimension: str
    kind: _Kind | None
    value: str
    is_heading: bool


@dataclass(slots=True)
class _Search:
    """Looks for the fields of a rubric in a reply of any shape.

    Attributes:
        rubric: the rubric.
        scores: dimension to the values that were found.
        faults: dimension to what stands in the place of its score and is none.
        doubts: the same where the label may mean something else; they count only where there is no score.
        words: words under a label of their own, in the order of the reply: dimension and lines.
        remarks: words that follow a score; they count where there are no others.
    """

    rubric: Rubric
    scores: dict[str, set[int]] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    doubts: dict[str, list[str]] = field(default_factory=dict)
    words: list[tuple[str, list[str]]] = field(default_factory=list)
    remarks: list[tuple[str, list[str]]] = field(default_factory=list)

    def read(self, text: str) -> Reading:
        """What the text says.

        Raises:
            UnreadableReplyError: not exactly one score for each dimension.
        """
        rest, at = [], 0
        for start, end, found in _json_objects(text):
            before = self._n_found()
            self._read_object(found, None, None, depth=0)
            if self._n_found() > before:
                rest.append(text[at:start])
                at = end
        self._read_lines("".join([*rest, text[at:]]))
        scores = {dimension: self._settle(dimension) for dimension in self.rubric.dimensions}
        rationales: dict[str, str] = {}
        for dimension, lines in [*self.remarks, *self.words]:
            words = "\n".join(lines).strip().rstrip("|").rstrip()
            if words and not self.rubric._is_placeholder(words):
                rationales[dimension] = words
        return Reading(scores, rationales, "lenient")

    def _n_found(self) -> int:
        marks = (self.scores, self.faults, self.doubts)
        return len(self.words) + sum(len(values) for one in marks for values in one.values())

    def _settle(self, dimension: str) -> int:
        label = next(one.label for one in _FORMS[self.rubric.name] if one.dimension == dimension)
        found, wrong = self.scores.get(dimension, set()), self.faults.get(dimension, [])
        if len(found) > 1:
            raise UnreadableReplyError(f"`{label}` has two values: {' and '.join(map(str, sorted(found)))}")
        if found:
            # a fraction or a range beside a score contradicts it; words in its place do not
            wrong = [one for one in wrong if any(sign.isdigit() for sign in one)]
        wrong = wrong or ([] if found else self.doubts.get(dimension, []))
        if wrong:
            raise UnreadableReplyError(f"`{label}` is `{short(wrong[0], width=40)}`, not a whole number from 1 to 5")
        if not found:
            raise UnreadableReplyError(f"`{label}` is missing")
        return min(found)

    def _named(self, label: str, section: str | None) -> tuple[str | None, _Kind | None] | None:
        """Dimension and kind that a label names; a label without a dimension belongs to the section."""
        words = _CAMEL.sub(" ", _BRACKETS.sub(" ", label)).lower()
        name = " ".join("".join(sign if sign.isalpha() else " " for sign in words).split())
        for pattern, dimension, kind in _labels(self.rubric.name):
            if pattern.fullmatch(name):
                if dimension is None and len(self.rubric.dimensions) == 1:
                    dimension = self.rubric.dimensions[0]
                return dimension or section, kind
        return None

    # lines -----------------------------------------------------------------------------------------------------------

    def _read_lines(self, text: str) -> None:
        section: str | None = None
        waiting: tuple[str, _Kind | None] | None = None  # a label whose score may be the next line
        lines: list[str] | None = None  # where words go on
        for line in text.split("\n"):
            found = self._labelled(line, section)
            if found is None:
                if waiting is not None and line.strip():
                    dimension, kind = waiting
                    waiting = None
                    score = _score(line)
                    if score is not None and not score[1]:
                        self._add_score(dimension, score[0])
                        continue
                    if kind == "score":
                        self.faults.setdefault(dimension, []).append(line.strip())
                if _is_foreign_heading(line):
                    section = lines = None
                elif lines is not None:
                    lines.append(line)
                continue
            waiting = None
            while found is not None:
                section = found.dimension
                if found.kind == "words":
                    lines = self._begin(self.words, found.dimension, found.value)
                    break
                lines = self._begin(self.remarks, found.dimension, "")
                if not found.value:
                    waiting = (found.dimension, found.kind)
                    break
                score = _score(found.value)
                if score is None:
                    self._miss(found)
                    lines.append(found.value)
                    break
                self._add_score(found.dimension, score[0])
                # several fields may share a line
                rest = score[1].strip(_SEPARATORS)
                found = self._labelled(rest, section)
                if found is None:
                    lines.append(rest)

    def _labelled(self, line: str, section: str | None) -> _Labelled | None:
        """The line as a field of the rubric, if it is one."""
        body = line.lstrip(_DECORATION)
        body = _NUMBERING.sub("", body, count=1).lstrip(_DECORATION) if _NUMBERING.match(body) else body
        match = _LABELLED.match(body)
        label, value = (match["label"], match["value"]) if match is not None else (body, "")
        is_heading = line.lstrip(" \t>•-").startswith(("#", "**", "__"))
        if match is None and not is_heading:
            return None
        dimension, kind = self._named(label, section) or (None, None)
        if dimension is None:
            return None
        value = value.strip().removeprefix("**").lstrip()
        found = _Labelled(dimension, kind, value, is_heading)
        if kind is None and value and not is_heading and not _is_plain_score(value):
            # "Reasoning: two steps" within other words begins nothing, but "Reasoning: 3.5" may be all that there is
            if value[0].isdigit():
                self.doubts.setdefault(dimension, []).append(value)
            return None
        return found

    def _miss(self, found: _Labelled) -> None:
        """Keep what stands in the place of a score."""
        is_form = _UNFILLED.fullmatch(found.value) is not None
        certain = found.kind == "score" and not is_form
        if certain or is_form or found.value[0].isdigit():
            (self.faults if certain else self.doubts).setdefault(found.dimension, []).append(found.value)

    @staticmethod
    def _begin(into: list[tuple[str, list[str]]], dimension: str, value: str) -> list[str]:
        lines = [value]
        into.append((dimension, lines))
        return lines

    def _add_score(self, dimension: str, score: int) -> None:
        self.scores.setdefault(dimension, set()).add(score)

    # JSON ------------------------------------------------------------------------------------------------------------

    def _read_object(self, found: _Object, dimension: str | None, kind: _Kind | None, *, depth: int) -> None:
        if depth > _DEEPEST:
            return
        for key, value in found:
            # {"dimension": "knowledge", "score": 4}
            names = self._named(value, None) if key.lower() in _NAMING and isinstance(value, str) else None
            dimension = names[0] if names is not None and names[0] is not None else dimension
        for key, value in found:
            named = self._named(key, dimension)
            if named is not None:
                self._read_value(value, named[0], named[1] or kind, depth=depth)
            elif key.lower() in _WRAPPERS:
                self._read_value(value, dimension, kind, depth=depth)

    def _read_value(self, value: Any, dimension: str | None, kind: _Kind | None, *, depth: int) -> None:
        if kind == "words" and dimension is not None:
            self._begin(self.words, dimension, _as_text(value))
        elif isinstance(value, _Object):
            self._read_object(value, dimension, kind, depth=depth + 1)
        elif isinstance(value, list):
            for one in value:
                if isinstance(one, _Object):
                    self._read_object(one, dimension, kind, depth=depth + 1)
        elif dimension is None:
            return
        elif isinstance(value, str):
            score = _score(value) if kind == "score" or _is_plain_score(value) else None
            if score is not None:
                self._add_score(dimension, score[0])
                self._begin(self.remarks, dimension, score[1].strip(_SEPARATORS))
            elif kind == "score":
                self._miss(_Labelled(dimension, kind, value.strip() or "nothing", False))
            else:
                self._begin(self.remarks, dimension, value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and value in (1, 2, 3, 4, 5):
            self._add_score(dimension, int(value))
        else:
            self.faults.setdefault(dimension, []).append(json.dumps(value))


@cache
def _labels(rubric: str) -> list[tuple[re.Pattern[str], str | None, _Kind | None]]:
    """Patterns of the labels of a rubric, with what they name; the first that matches counts."""
    found: list[tuple[str, str | None, _Kind | None]] = []
    for dimension in dict.fromkeys(one.dimension for one in _FORMS[rubric]):
        name = f"{_NAMES[dimension]}{_MORE}"
        if dimension == "key_factors":
            found.append((name, dimension, "words"))
            continue
        found += [
            (f"{name} (?:{_SCORE}|level)|{_SCORE} (?:for|of) (?:the )?{name}", dimension, "score"),
            (name, dimension, None),
            (
                f"{name}(?: {_SCORE})? {_WORDS}|(?:{_WORDS}|reasoning) (?:for|of) (?:the )?{name}(?: {_SCORE})?",
                dimension,
                "words",
            ),
        ]
    found += [(_SCORE, None, "score"), (_WORDS, None, "words")]
    return [(re.compile(pattern), dimension, kind) for pattern, dimension, kind in found]


def _is_foreign_heading(line: str) -> bool:
    body = line.strip()
    return body.startswith("#") or (body.startswith("**") and body.rstrip(":").endswith("**"))


def _score(value: str) -> tuple[int, str] | None:
    """The score that a value begins with, and what follows; None when it begins with anything else.

    ``4``, ``4/5``, ``4 out of 5``, ``[4]``, ``**4**``, ``Level 4``, ``4.0``; not 3.5, 3-4, 0, 6, 8/10, 4+ or 40 %.
    """
    unfilled = _UNFILLED.match(value)
    value = value[unfilled.end() :] if unfilled is not None else value
    match = _NUMBER.match(value)
    if match is None:
        return None
    whole, _, decimals = unicodedata.normalize("NFKC", match["number"]).replace(",", ".").partition(".")
    top = unicodedata.normalize("NFKC", match["top"] or "5")
    if whole not in _DIGITS or decimals.strip("0") or top not in ("5", "5.0"):
        return None
    rest = value[match.end() :]
    if _GOES_ON.match(rest):
        return None
    # words need a space or a sign before them, so that "4th" and "4%" are no scores
    if rest and not (rest[0] in "\n.,;:|([{<=→–—-" or (rest[0].isalpha() and match["closing"])):
        return None
    return int(whole), rest


def _is_plain_score(value: str) -> bool:
    """Whether a value is a score, with nothing behind it or with words that are set off by a sign."""
    found = _score(value)
    return found is not None and not found[1][:1].isalpha()


def _json_objects(text: str) -> Iterator[tuple[int, int, _Object]]:
    """Start, end and content of every JSON object in a text."""
    decoder = json.JSONDecoder(object_pairs_hook=_Object)
    end = 0
    for brace in re.finditer(r"\{\s*\"", text):
        if brace.start() < end:
            continue
        try:
            found, end = decoder.raw_decode(text, brace.start())
        except RecursionError:
            return
        except ValueError:
            continue
        yield brace.start(), end, found


def _as_text(value: Any, *, depth: int = 0) -> str:
    """Words of a JSON reply: a list or an object becomes lines."""
    if isinstance(value, str):
        return value.strip()
    if depth > _DEEPEST:
        return ""
    if isinstance(value, _Object):
        return "\n".join(f"- {key}: {_as_text(one, depth=depth + 1)}" for key, one in value)
    if isinstance(value, list):
        return "\n".join(f"- {_as_text(one, depth=depth + 1)}" for one in value)
    return "" if value is None else json.dumps(value)
