"""One instruction and one answer: Alpaca, FineMed, Dolly, prompt and completion, plain question and answer."""

from __future__ import annotations

from typing import Any

from diq.base.sample import Message
from diq.formats.layouts.chat import dialogue, messages
from diq.formats.layouts.layout import Values, answer_message, earlier_turns, layout, structured, text, turn


def _alpaca(row: Values) -> list[Message]:
    # input and context follow their instruction on a line of their own, as the common trainers join them
    prompt = "\n".join(filter(None, (text(row, "instruction"), text(row, "input"), text(row, "context"))))
    made = turn(prompt, text(row, "output", "response"), system=text(row, "system"))
    return [*made[:-2], *earlier_turns(structured(row.get("history")) or ()), *made[-2:]]


def _finemed(row: Values) -> list[Message]:
    # the column `text` is the passage that the pair was written from, no part of it
    return turn(text(row, "instruction"), text(row, "response"))


def _completion(row: Values) -> list[Message]:
    prompt, completion = dialogue(row["prompt"]), dialogue(row["completion"])
    if prompt is not None and completion is not None:
        return messages([*prompt, *completion])
    return turn(text(row, "prompt"), text(row, "completion"))


_QUESTION = (
    "question", "query", "prompt", "problem", "input", "inputs",
    "Question", "Query", "Prompt", "Problem", "Input",
)  # fmt: skip
_ANSWER = (
    "answer", "response", "output", "solution", "targets", "target", "completion",
    "Answer", "Response", "Output", "Solution", "Completion",
)  # fmt: skip
_REASONING = ("reasoning", "rationale", "reasoning_content", "thinking", "Reasoning", "Complex_CoT")


def _question_answer(row: Values) -> list[Message]:
    asked = next((name for name in _QUESTION if row.get(name)), "")
    if isinstance(turns := dialogue(row.get(asked)), list) and all(isinstance(one, dict) for one in turns):
        # the conversation up to the answer
        answer = answer_message(text(row, *_ANSWER), text(row, *_REASONING))
        return [*messages(turns), answer]
    question, given = text(row, *_QUESTION), text(row, "input")
    if given and given != question:
        question = f"{question}\n{given}"
    return turn(question, text(row, *_ANSWER), reasoning=text(row, *_REASONING))


def _worked(row: Values) -> list[Message]:
    """A problem and its worked solution, which ends in what the column `answer` has."""
    return turn(text(row, "problem", "question"), text(row, "solution"))


def _lists(row: Values) -> list[Message]:
    """Huatuo-26M: wordings of one question, and its answers; the first of each."""
    return turn(_first_text(row["questions"]), _first_text(row["answers"]))


def _first_text(value: Any) -> str:
    value = structured(value)
    while isinstance(value, (list, tuple)):
        value = value[0] if value else ""
    if not isinstance(value, str):
        raise ValueError(f"a question or an answer is no text but {type(value).__name__}")
    return value


LAYOUTS = (
    layout("finemed", "text instruction response complexity", _finemed, text="text instruction response"),
    layout("alpaca", "instruction output", _alpaca, text="instruction input context output system history"),
    layout("dolly", "instruction response", _alpaca, text="instruction context input response system history"),
    layout("prompt_completion", "prompt completion", _completion, text="prompt completion"),
    layout("question_lists", "questions answers", _lists, text="questions answers"),
    layout(
        "worked_solution",
        "problem|question solution answer",
        _worked,
        text="problem question solution",
        note="`solution` is taken as the answer and `answer` is an attribute; to have the solution as the reasoning: "
        "--map prompt=problem,reasoning=solution,answer=answer",
    ),
    layout(
        "question_answer",
        f"{'|'.join(_QUESTION)} {'|'.join(_ANSWER)}",
        _question_answer,
        text=" ".join((*_QUESTION, *_ANSWER, *_REASONING)),
    ),
)
