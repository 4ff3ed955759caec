"""One instruction and one answer: Alpaca, FineMed, Dolly, prompt and completion, plain question and answer."""

from __future__ import annotations

from diq.base.sample import Message
from diq.formats.layouts.chat import dialogue, messages
from diq.formats.layouts.layout import Values, layout, structured, text, turn


def _alpaca(row: Values) -> list[Message]:
    # the input follows its instruction on a line of its own, as the common trainers join them
    prompt = "\n".join(part for part in (text(row, "instruction"), text(row, "input", "context")) if part)
    made = turn(prompt, text(row, "output", "response"), system=text(row, "system"))
    history = structured(row.get("history"))
    if not history:
        return made
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in history):
        raise ValueError("the history is no list of question and answer")
    earlier = [message for question, answer in history for message in turn(str(question), str(answer))]
    return [*made[:-2], *earlier, *made[-2:]]


def _finemed(row: Values) -> list[Message]:
    # the column `text` is the passage that the pair was written from, no part of it
    return turn(text(row, "instruction"), text(row, "response"))


def _completion(row: Values) -> list[Message]:
    prompt, completion = dialogue(row["prompt"]), dialogue(row["completion"])
    if prompt is not None and completion is not None:
        return messages([*prompt, *completion])
    return turn(text(row, "prompt"), text(row, "completion"))


_QUESTION = ("question", "query", "prompt", "problem", "input")
_ANSWER = ("answer", "response", "output", "solution")
_REASONING = ("reasoning", "rationale", "reasoning_content")


def _question_answer(row: Values) -> list[Message]:
    return turn(text(row, *_QUESTION), text(row, *_ANSWER), reasoning=text(row, *_REASONING))


LAYOUTS = (
    layout("finemed", "text instruction response complexity", _finemed, text="text instruction response"),
    layout("alpaca", "instruction output", _alpaca, text="instruction input output system history"),
    layout("dolly", "instruction response", _alpaca, text="instruction context input response"),
    layout("prompt_completion", "prompt completion", _completion, text="prompt completion"),
    layout(
        "question_answer",
        f"{'|'.join(_QUESTION)} {'|'.join(_ANSWER)}",
        _question_answer,
        text=" ".join((*_QUESTION, *_ANSWER, *_REASONING)),
    ),
)
