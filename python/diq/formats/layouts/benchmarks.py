"""The benchmarks' own schemas: multiple choice in many shapes, and PubMedQA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diq.formats.layouts.choices import ANSWER_LETTER, Options, first, inline, multiple_choice, options
from diq.formats.layouts.layout import Values, layout, structured, text, turn
from diq.records import Message, short

_RATIONALE = ("rationale", "label_rationale", "exp", "explanation", "cot_content", "reasoning")
_LETTERED = ("opa", "opb", "opc", "opd", "ope")
_CHOICE_TEXT = " ".join(("question", "prompt", "options", "choices", *_LETTERED, *_RATIONALE))


def _choice(row: Values) -> list[Message]:
    choices = options(first(row, "options", "choices"))
    right = first(row, "answer_idx", "label", "answer_letter", "answer", "answer_index")
    return multiple_choice(row, question="question", choices=choices, right=right, reasoning=_RATIONALE)


def _medxpertqa(row: Values) -> list[Message]:
    _no_images(row, "images")
    return _choice(row)


def _medguide(row: Values) -> list[Message]:
    choices = options(row["options"])
    return multiple_choice(row, question="prompt", choices=choices, right=row["answer"], reasoning=_RATIONALE)


def _inline(row: Values) -> list[Message]:
    choices = inline(text(row, "question"))
    return multiple_choice(row, question="question", choices=choices, right=row["label"], reasoning=_RATIONALE)


def _lettered(row: Values) -> Options:
    found = {name[-1].upper(): one for name in _LETTERED if (one := text(row, name))}
    if not found:
        raise ValueError("no options")
    return found


def _medbullets(row: Values) -> list[Message]:
    right = first(row, "answer_idx", "answer")
    return multiple_choice(
        row, question="question", choices=_lettered(row), right=right, reasoning=("explanation", "rationale")
    )


def _medmcqa(row: Values, *, base: int = 0) -> list[Message]:
    right = _number(row["cop"])
    if right is None or right == -1:
        raise ValueError("the answer is empty (column cop)")
    if not base <= right < base + 4:
        raise ValueError(f"column cop is {right}, outside {base} to {base + 3}")
    letter = "ABCD"[right - base]
    return multiple_choice(row, question="question", choices=_lettered(row), right=letter, reasoning=("exp",))


def _medmcqa_from_one(row: Values) -> list[Message]:
    return _medmcqa(row, base=1)


def _counts_from_one(rows: Sequence[Values]) -> bool:
    # the hub's files count cop from 0, the original files from 1; a hundred rows always hold a 0 or a 4
    found = {_number(row.get("cop")) for row in rows}
    return 4 in found and 0 not in found


def _number(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _hle(row: Values) -> list[Message]:
    _no_images(row, "image")
    right = text(row, "answer")
    if text(row, "answer_type") != "multipleChoice":
        return turn(text(row, "question"), right, reasoning=text(row, "rationale"))
    choices = inline(text(row, "question"))
    return multiple_choice(row, question="question", choices=choices, right=right, reasoning=("rationale",))


def _no_images(row: Values, name: str) -> None:
    if first(row, name) is not None:
        raise ValueError(f"the question needs an image (column {name})")


def _pubmedqa(row: Values) -> list[Message]:
    """The abstract's parts, then the question; the conclusion is the reasoning, the decision the answer."""
    context = structured(first(row, "CONTEXTS", "context"))
    if isinstance(context, dict):
        context = context.get("contexts")
    if isinstance(context, str):
        context = [context]
    if context is not None and not all(isinstance(part, str) for part in context):
        raise ValueError(f"the context is no list of texts but {short(context)}")
    question = text(row, "QUESTION", "question")
    if not question:
        raise ValueError("the prompt is empty")
    prompt = "\n\n".join([*(context or []), question])
    decision, conclusion = text(row, "final_decision"), text(row, "LONG_ANSWER", "long_answer")
    if not decision:
        # the unlabelled part of PubMedQA has a conclusion only
        return turn(prompt, conclusion)
    return turn(prompt, ANSWER_LETTER.format(letter=decision), reasoning=conclusion)


_PUBMEDQA_TEXT = "QUESTION question CONTEXTS context LONG_ANSWER long_answer"

LAYOUTS = (
    layout("pubmedqa", "QUESTION CONTEXTS LONG_ANSWER", _pubmedqa, text=_PUBMEDQA_TEXT),
    layout("pubmedqa_hub", "question context long_answer", _pubmedqa, text=_PUBMEDQA_TEXT),
    layout("medguide", "prompt options answer answer_text", _medguide, text=f"{_CHOICE_TEXT} profile"),
    layout(
        "medmcqa_original",
        "question opa opb opc opd cop",
        _medmcqa_from_one,
        text=_CHOICE_TEXT,
        holds=_counts_from_one,
    ),
    layout("medmcqa", "question opa opb opc opd cop", _medmcqa, text=_CHOICE_TEXT),
    layout("medbullets", "question opa opb opc opd answer_idx", _medbullets, text=_CHOICE_TEXT),
    layout("medxpertqa", "question options label", _medxpertqa, text=_CHOICE_TEXT),
    layout("choices_inline", "question label", _inline, text=_CHOICE_TEXT),
    layout("metamedqa", "question options answer_idx metamap_phrases kind", _choice, text=_CHOICE_TEXT),
    layout("medqa", "question options answer_idx meta_info", _choice, text=_CHOICE_TEXT),
    layout("medmcqa_options", "realidx question options answer_idx", _choice, text=_CHOICE_TEXT),
    layout("hle_options", "idx question options answer_idx", _choice, text=_CHOICE_TEXT),
    layout("hle", "question answer answer_type rationale", _hle, text=f"{_CHOICE_TEXT} image"),
    layout("mmlu_pro", "question options answer answer_index", _choice, text=_CHOICE_TEXT),
    layout("multiple_choice", "question options|choices answer_idx|answer_letter|answer", _choice, text=_CHOICE_TEXT),
)
