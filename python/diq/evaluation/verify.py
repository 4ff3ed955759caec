"""Samples whose answer can be checked: which question they ask, and what is right."""

from __future__ import annotations

from collections.abc import Sequence

from diq.base.sample import Message
from diq.base.thinking import Tag
from diq.evaluation.answers import contains, extract, mark
from diq.evaluation.questions import Question
from diq.formats.layouts.choices import Choice, at_the_end

VERSION = "verify-1"
"""Version of these rules, part of a run: it rises with any change of what is asked or right."""

# words of a reference answer that is looked for in an output
LONGEST_REFERENCE = 6

REFERENCE = "A"
"""Letter that stands for the reference answer of a question without options."""

SEVERAL_TURNS = "a conversation of several turns cannot be verified"
NO_LETTER = "the answer names none of the options"
TOO_LONG = f"no options, and the answer has more than {LONGEST_REFERENCE} words to look for"
TOO_COMMON = "no options, and the answer is so common that any output may hold it"


def question_of(sample_id: str, messages: Sequence[Message]) -> Question | str:
    """The question of a sample with its right answer, or why its answers cannot be checked.

    A multiple-choice question has its options at its end and an answer that names one. Any other has the sample's own
    short answer as the only option, which is looked for in an output.
    """
    before, answer = messages[:-1], messages[-1]
    if [one["role"] for one in before if one["role"] != "system"] != ["user"]:
        return SEVERAL_TURNS
    asked, said = str(before[-1]["content"]), str(answer["content"]).strip()
    options = at_the_end(asked)
    if options:
        letter = extract(said, options).letter
        return (
            NO_LETTER if letter is None else Question(sample_id, Choice(asked, options, letter).stem(), options, letter)
        )
    if not 0 < len(said.split()) <= LONGEST_REFERENCE:
        return TOO_LONG
    reference = {REFERENCE: said.rstrip(".")}
    # what cannot be found in itself is found nowhere: numbers below 100, single letters, common words
    return (
        Question(sample_id, asked.strip(), reference, REFERENCE) if contains(said, reference, REFERENCE) else TOO_COMMON
    )


def is_right(output: str, question: Question, tags: Sequence[Tag] = ()) -> bool:
    """Whether an output answers a question rightly: by the strict rule of `mark`, or holds the reference answer."""
    if len(question.options) > 1:
        return mark(output, question.options, question.right, tags).is_right_strict
    return contains(output, question.options, question.right, tags)
