"""One instruction and one answer: Alpaca, FineMed, Dolly, prompt and completion, plain question and answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diq.base.sample import Message
from diq.formats.layouts.chat import dialogue, messages
from diq.formats.layouts.layout import Values, answer_message, earlier_turns, layout, structured, text, turn

# what a question beside its instruction is called; a `prompt` there is the whole of it, written out
_BESIDE_INSTRUCTION = frozenset(["problem", "query", "question"])


def _alpaca(row: Values) -> list[Message]:
    # input and context follow their instruction on a line of their own, as the common trainers join them
    parts = [text(row, "instruction"), text(row, "input"), text(row, "context", lists=True)]
    for name in () if _BESIDE_INSTRUCTION.isdisjoint(row) else _BESIDE_INSTRUCTION.intersection(row):
        asked = row[name]
        if isinstance(asked, str) and asked.strip() and not any(asked.strip() in part for part in parts):
            parts.insert(1, asked)
    prompt = "\n".join(filter(None, parts))
    made = turn(prompt, text(row, "output", "response"), system=text(row, "system", lists=True))
    return [*made[:-2], *earlier_turns(structured(row.get("history")) or ()), *made[-2:]]


_ALPACA_TEXT = " ".join(("instruction", "input", "context", "system", "history", *_BESIDE_INSTRUCTION))


def _finemed(row: Values) -> list[Message]:
    # the column `text` is the passage that the pair was written from, no part of it
    return turn(text(row, "instruction"), text(row, "response"))


def _completion(row: Values) -> list[Message]:
    prompt, completion = dialogue(row["prompt"]), dialogue(row["completion"])
    if prompt is not None and completion is not None:
        return messages([*prompt, *completion])
    return turn(text(row, "prompt"), text(row, "completion"))


QUESTION = (
    "question", "query", "prompt", "problem", "input", "inputs",
    "Question", "Query", "Prompt", "Problem", "Input",
)  # fmt: skip
ANSWER = (
    "answer", "response", "output", "solution", "targets", "target", "completion",
    "Answer", "Response", "Output", "Solution", "Completion",
)  # fmt: skip
_REASONING = ("reasoning", "rationale", "reasoning_content", "thinking", "Reasoning", "Complex_CoT")


def _question_answer(row: Values) -> list[Message]:
    asked = next((name for name in QUESTION if row.get(name)), "")
    if isinstance(turns := dialogue(row.get(asked)), list) and all(isinstance(one, dict) for one in turns):
        # the conversation up to the answer
        answer = answer_message(text(row, *ANSWER), text(row, *_REASONING, lists=True))
        return [*messages(turns), answer]
    question, given = text(row, *QUESTION), text(row, "input")
    if given and given != question:
        question = f"{question}\n{given}"
    return turn(question, text(row, *ANSWER), reasoning=text(row, *_REASONING, lists=True))


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


def _has_several(rows: Sequence[Values]) -> str:
    lists = [structured(row.get(name)) for row in rows for name in ("questions", "answers")]
    nested = [
        part for one in lists if isinstance(one, (list, tuple)) for part in one if isinstance(part, (list, tuple))
    ]
    if all(len(one) < 2 for one in (*lists, *nested) if isinstance(one, (list, tuple))):
        return ""
    return "the first question and the first answer of each row are used, no other wording and no other answer"


LAYOUTS = (
    layout("finemed", "text instruction response complexity", _finemed, text="text instruction response"),
    layout("alpaca", "instruction output", _alpaca, text=f"{_ALPACA_TEXT} output"),
    layout("dolly", "instruction response", _alpaca, text=f"{_ALPACA_TEXT} response"),
    layout("prompt_completion", "prompt completion", _completion, text="prompt completion"),
    layout("question_lists", "questions answers", _lists, text="questions answers", note=_has_several),
    layout(
        "worked_solution",
        "problem|question solution answer",
        _worked,
        text="problem question solution",
        note=lambda _: (
            "`solution` is taken as the answer and `answer` is an attribute; to have the solution as the reasoning: "
            "--map prompt=problem,reasoning=solution,answer=answer"
        ),
    ),
    layout(
        "question_answer",
        f"{'|'.join(QUESTION)} {'|'.join(ANSWER)}",
        _question_answer,
        text=" ".join((*QUESTION, *ANSWER, *_REASONING)),
    ),
)
