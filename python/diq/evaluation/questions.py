"""Questions of benchmarks, from the hub or a file in its own layout, and the rows that hold none."""

from __future__ import annotations

import logging
import os
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from diq.base.errors import InputError
from diq.base.fingerprint import canonical_json, fingerprint_of
from diq.base.text import amount, short
from diq.evaluation.benchmarks import BENCHMARKS, Benchmark
from diq.formats import Reader, open_sources
from diq.formats.layouts.benchmarks import CHOICES
from diq.formats.rows import BadRow

log = logging.getLogger(__name__)

# columns that tell a question, the best first
_ID_COLUMNS = ("id", "question_id", "realidx", "idx", "link")
# rows that a log names
_SHOWN_ROWS = 10


@dataclass(frozen=True, slots=True)
class Question:
    """A multiple-choice question.

    Attributes:
        question_id: as the file has it, else its line.
        question: the text, without the options.
        options: letter to text; the letters run from A without a gap.
        right: letter of the right option.
        reasoning: why it is right, where the file says so.
    """

    question_id: str
    question: str
    options: Mapping[str, str]
    right: str
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A row that holds no question: its file, its line there, and why."""

    source: str
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """What a benchmark asks.

    Attributes:
        benchmark: which it is.
        sources: where the questions came from.
        questions: in their order.
        examples: question and answer pairs that come before each, for few-shot.
        n_left_out: rows that belong to other parts of the data set, such as other categories.
        bad_rows: rows that hold no question.
    """

    benchmark: Benchmark
    sources: tuple[str, ...]
    questions: tuple[Question, ...]
    examples: tuple[Question, ...] = ()
    n_left_out: int = 0
    bad_rows: tuple[Line, ...] = field(default=())

    @property
    def fingerprint(self) -> str:
        """Hash of the questions, their options and right answers, in order, and of the examples; 32 digits."""
        parts: list[Any] = [[[one.question, dict(one.options), one.right] for one in self.questions]]
        if self.examples:
            parts.append([[one.question, dict(one.options), one.right, one.reasoning] for one in self.examples])
        # the order of letters is their alphabet's, so that sorted keys lose nothing
        return fingerprint_of(canonical_json(parts))

    def first(self, n: int | None) -> QuestionSet:
        """The same with its first questions alone."""
        return replace(self, questions=self.questions[:n])

    def with_examples(self, examples: Sequence[Question]) -> QuestionSet:
        """The same with examples before every question; an example is never asked about.

        Raises:
            InputError: a question is among its own examples.
        """
        asked = {one.question for one in self.questions}
        twice = next((one for one in examples if one.question in asked), None)
        if twice:
            raise InputError(
                f"an example for {self.benchmark.name} is one of its questions: `{short(twice.question)}`",
                "give a file of the benchmark's validation split as examples",
            )
        return replace(self, examples=tuple(examples))


def load_questions(
    benchmark: Benchmark, source: str | os.PathLike[str] | None = None, *, allow_bad_rows: bool = False
) -> QuestionSet:
    """Read a benchmark.

    Args:
        benchmark: which.
        source: file, glob, folder or hub id; default its own hub id.
        allow_bad_rows: go on without the rows that hold no question.

    Raises:
        UsageError: no such file.
        InputError: it cannot be read, is another benchmark's, or has rows that hold no question.
    """
    arguments = benchmark.hub if source is None else (os.fspath(source),)
    questions: list[Question] = []
    bad_rows: list[Line] = []
    n_left_out = 0
    for reader in open_sources(arguments, split=benchmark.split):
        parse = CHOICES[_check_layout(reader, benchmark)]
        for row in reader.source.rows():
            if isinstance(row, BadRow):
                bad_rows.append(Line(reader.source.path, row.line, row.reason))
            elif not benchmark.holds(row.values):
                n_left_out += 1
            else:
                try:
                    choice = parse(row.values)
                    _check_options(choice.options, benchmark)
                except ValueError as error:
                    bad_rows.append(Line(reader.source.path, row.line, str(error)))
                    continue
                number = _question_id(row.values, row.line)
                questions.append(Question(number, choice.stem(), choice.options, choice.letter, choice.reasoning))
    if n_left_out:
        log.info("%s: left out %s of other parts of the data set", benchmark.name, amount(n_left_out, "row"))
    found = QuestionSet(benchmark, tuple(arguments), tuple(questions), n_left_out=n_left_out, bad_rows=tuple(bad_rows))
    _check_rows(found, allow_bad_rows=allow_bad_rows)
    return found


def _check_layout(reader: Reader, benchmark: Benchmark) -> str:
    """Name of the layout, which reads multiple-choice questions and is not another benchmark's.

    Raises:
        InputError: it does not, or is.
    """
    name, path = reader.layout.name, reader.source.path
    hint = f"give a file of {benchmark.name}; docs/evaluate.md lists the layouts that it comes in"
    if name not in CHOICES:
        raise InputError(f"`{path}` has the layout {name}, which is not of multiple-choice questions", hint)
    owners = [one.name for one in BENCHMARKS.values() if name in one.layouts]
    if owners and benchmark.name not in owners:
        raise InputError(f"`{path}` has the layout of {' and '.join(owners)}, not of {benchmark.name}", hint)
    return name


def _check_options(options: Mapping[str, str], benchmark: Benchmark) -> None:
    """Refuse options that could not be asked about.

    Raises:
        ValueError: too few, too many, an empty one, or a gap in the letters.
    """
    fewest, most = benchmark.n_options
    if not fewest <= len(options) <= most:
        known = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        raise ValueError(f"{len(options)} options; a question of {benchmark.name} has {known}")
    if list(options) != list(string.ascii_uppercase[: len(options)]):
        raise ValueError(f"the options are {', '.join(options)}: not A to {string.ascii_uppercase[len(options) - 1]}")
    empty = [letter for letter, text in options.items() if not text.strip()]
    if empty:
        raise ValueError(f"option {empty[0]} is empty")


def _question_id(row: Mapping[str, Any], line: int) -> str:
    found = next((row[name] for name in _ID_COLUMNS if isinstance(row.get(name), str | int) and row[name] != ""), line)
    return str(found)


def _check_rows(found: QuestionSet, *, allow_bad_rows: bool) -> None:
    name, bad = found.benchmark.name, found.bad_rows
    listed = ", ".join(f"`{one}`" for one in found.sources)
    if bad:
        first = f"line {bad[0].line}: {bad[0].reason}"
        if not found.questions:
            raise InputError(
                f"{listed} holds no question of {name}: none of its {amount(len(bad), 'row')} fits, first {first}",
                f"give a file of {name}; docs/evaluate.md lists the layouts that it comes in",
            )
        shown = "".join(f"\n  {one.source}, line {one.line}: {one.reason}" for one in bad[:_SHOWN_ROWS])
        more = f"\n  and {len(bad) - _SHOWN_ROWS:,} more" if len(bad) > _SHOWN_ROWS else ""
        log.warning("%s: no question in %s:%s%s", name, amount(len(bad), "row"), shown, more)
        if not allow_bad_rows:
            raise InputError(
                f"{listed}: {len(bad):,} of {amount(len(bad) + len(found.questions), 'row')} hold no question of "
                f"{name}, first {first}",
                "an accuracy over fewer questions than the benchmark has misleads: mend the file, "
                "or leave the rows out with --allow-bad-rows",
            )
    if not found.questions:
        raise InputError(
            f"{listed} holds no question of {name}: it has {amount(found.n_left_out, 'row')} of other parts of the "
            "data set",
            f"{name} takes the rows with "
            + ", ".join(f"{column} {' or '.join(map(str, values))}" for column, values in found.benchmark.keep),
        )
