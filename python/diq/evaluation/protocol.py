"""How a question is put to a model: the prompt, its version, and what ends an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from diq.base.sample import Message
from diq.evaluation.questions import Question
from diq.formats.layouts.choices import ANSWER_LETTER

PROMPT = """{question}

{options}

Reason about this multiple-choice question step by step. Then finish with one line that says \
"The answer is (LETTER).", with the letter of the one option that you choose."""
OPEN_PROMPT = """{question}

Reason about this question step by step. Then finish with one line that says "The answer is ANSWER.", with your short \
answer."""
"""Of a question without options, as samples of a dataset may be; no benchmark has one."""

PROMPT_VERSION = "choices-1"
"""Version of `PROMPT` and of how options are listed; it rises with any change of either."""

# a base model goes on with a question of its own
PLAIN_STOP = "\nQuestion:"


@dataclass(frozen=True, slots=True)
class Protocol:
    """Everything of an evaluation but the model that can change a number, as the run's config keeps it.

    Attributes:
        prompt: `PROMPT`.
        prompt_version: `PROMPT_VERSION`.
        few_shot: examples before each question.
        max_tokens: tokens of an answer at most.
        temperature: of the sampling; 0 takes the likeliest token; None: the server's own.
        top_p: share of the likeliest tokens that are drawn from.
        seed: of the first repeat, the others count on; None where nothing is drawn.
        limit: questions of a benchmark at most; None: all.
        stop: texts that end an answer, beside the model's end of sequence.
        template: ``auto`` or ``none``, or ``server`` where the server renders the conversation.
        facts: what belongs to the backend, such as the hash of the chat template, the dtype or the address.
    """

    few_shot: int
    max_tokens: int
    temperature: float | None
    top_p: float
    seed: int | None
    limit: int | None
    stop: tuple[str, ...]
    template: str
    facts: Mapping[str, Any]
    prompt: str = PROMPT
    prompt_version: str = PROMPT_VERSION

    def settings(self) -> dict[str, Any]:
        """For the run's config."""
        made = asdict(self)
        facts = made.pop("facts")
        return {**made, "stop": list(self.stop), **facts}

    def generation(self) -> dict[str, Any]:
        """For lm-eval's ``generate_until``."""
        made: dict[str, Any] = {"until": list(self.stop), "max_gen_toks": self.max_tokens}
        if self.temperature:
            made |= {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p}
        else:
            made |= {"do_sample": False, "temperature": 0.0}
        return made


def prompt(question: Question) -> str:
    """What is asked; a single option is the answer, and not shown."""
    if len(question.options) == 1:
        return OPEN_PROMPT.format(question=question.question)
    options = "\n".join(f"{letter}. {text.strip()}" for letter, text in question.options.items())
    return PROMPT.format(question=question.question, options=options)


def answer(question: Question) -> str:
    """What an example answers: the file's reasoning, if it has any, and the line that the prompt asks for."""
    line = ANSWER_LETTER.format(letter=f"({question.right})")
    return f"{question.reasoning.strip()}\n\n{line}" if question.reasoning.strip() else line


def conversation(question: str, examples: Sequence[tuple[str, str]]) -> list[Message]:
    """The question after the examples, as turns."""
    turns = [
        {"role": role, "content": text}
        for example in examples
        for role, text in zip(("user", "assistant"), example, strict=True)
    ]
    return [*turns, {"role": "user", "content": question}]
