"""Sets with a reasoning part: HuatuoGPT-o1, MedReason, m1 / m23k, MMLU-Pro traces."""

from __future__ import annotations

from diq.base.sample import Message
from diq.formats.layouts.choices import answer, gold, multiple_choice, options, prompt
from diq.formats.layouts.layout import Layout, Values, layout, structured, text, turn


def _huatuo(row: Values) -> list[Message]:
    # the demo file also has `question` with options: the multiple-choice item that `Question` was made from
    return turn(text(row, "Question"), text(row, "Response"), reasoning=text(row, "Complex_CoT"))


def _medreason(row: Values) -> list[Message]:
    question, choices = text(row, "question"), structured(row["options"])
    said = text(row, "answer")
    if choices and not isinstance(choices, str) and len(said.strip("()[]. ")) == 1:
        return multiple_choice(row, question="question", choices=options(choices), right=said, reasoning=("reasoning",))
    if isinstance(choices, str) and choices.strip():
        # one text, "Answer Choices:" and a line an option
        question = f"{question}\n{choices}" if question else ""
    elif choices and not isinstance(choices, str):
        question = prompt(question, options(choices))
    return turn(question, said, reasoning=text(row, "reasoning"))


def _m23k(row: Values) -> list[Message]:
    distilled = text(row, "distilled_answer_string")
    if not distilled:
        # a row before distillation has the gold answer only
        letter = text(row, "answer_letter")
        choices = {letter: text(row, "answer_string")} if letter else {}
        distilled = answer(gold(letter, choices), choices)
    return turn(text(row, "prompt"), distilled, reasoning=text(row, "reasoning"))


def _mmlu_pro_trace(row: Values) -> list[Message]:
    # the trace is the answer as it is, right or wrong: it ends in its own "The answer is (X)."
    choices = options(row["options"])
    return turn(prompt(text(row, "question"), choices), text(row, "model_outputs", "generated_text"))


# FreedomIntelligence's medical-r1-distill
_BRACKETS = {"question": "question", "answer": "response (content)", "reasoning": "reasoning (reasoning_content)"}


def _r1_distill(row: Values) -> list[Message]:
    return turn(
        *(text(row, _BRACKETS[role]) for role in ("question", "answer")), reasoning=text(row, _BRACKETS["reasoning"])
    )


LAYOUTS = (
    Layout("r1_distill", tuple((one,) for one in _BRACKETS.values()), _r1_distill, frozenset(_BRACKETS.values())),
    layout(
        "huatuo",
        "Question Complex_CoT Response",
        _huatuo,
        text="Question Complex_CoT Response question",
    ),
    layout(
        "m23k",
        "prompt answer_letter answer_string",
        _m23k,
        text="prompt reasoning distilled_answer_string text metadata",
    ),
    layout("medreason", "question options answer reasoning", _medreason, text="question options answer reasoning"),
    layout(
        "mmlu_pro_trace",
        "question options answer model_outputs|generated_text",
        _mmlu_pro_trace,
        text="question options model_outputs generated_text cot_content",
    ),
)
