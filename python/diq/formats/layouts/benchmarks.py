"""The benchmarks' own schemas: multiple choice in many shapes, and PubMedQA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from diq.base.sample import Message
from diq.base.text import short
from diq.formats.layouts.choices import ANSWER_LETTER, Choice, Options, first, inline, options, read_choice
from diq.formats.layouts.layout import Layout, Values, layout, structured, text, turn

_RATIONALE = ("rationale", "label_rationale", "exp", "explanation", "cot_content", "reasoning")
_LETTERED = ("opa", "opb", "opc", "opd", "ope")
# where the answer is a text of its own
_SAID = frozenset(["answer", "response", "output", "long_answer", "solution"])
_CHOICE_TEXT = " ".join(("question", "prompt", "options", "choices", *_LETTERED, *_RATIONALE))


def _choice(row: Values) -> Choice:
    choices = options(first(row, "options", "choices"))
    right = first(row, "answer_idx", "label", "answer_letter", "answer", "answerKey", "answer_index")
    return read_choice(row, question="question", choices=choices, right=right, reasoning=_RATIONALE)


def _medxpertqa(row: Values) -> Choice:
    _no_images(row, "images")
    return _choice(row)


def _medguide(row: Values) -> Choice:
    choices = options(row["options"])
    return read_choice(row, question="prompt", choices=choices, right=row["answer"], reasoning=_RATIONALE)


def _inline(row: Values) -> Choice:
    choices = inline(text(row, "question"))
    return read_choice(row, question="question", choices=choices, right=row["label"], reasoning=_RATIONALE)


def _asks_inline(rows: Sequence[Values]) -> bool:
    # a label beside a question may be anything: its field, a rating, KTO's flag
    def asks(row: Values) -> bool:
        question, label = row.get("question"), structured(row.get("label"))
        if isinstance(question, str) and inline(question):
            return True
        letter = label[0] if isinstance(label, (list, tuple)) and len(label) == 1 else label
        return isinstance(letter, str) and len(letter.strip()) == 1 and not row.keys() & _SAID

    return 2 * sum(map(asks, rows)) >= len(rows)


def _lettered(row: Values) -> Options:
    found = {name[-1].upper(): one for name in _LETTERED if (one := text(row, name))}
    if not found:
        raise ValueError("no options")
    return found


def _medbullets(row: Values) -> Choice:
    right = first(row, "answer_idx", "answer")
    return read_choice(
        row, question="question", choices=_lettered(row), right=right, reasoning=("explanation", "rationale")
    )


def _medmcqa(row: Values, *, base: int = 0) -> Choice:
    right = _number(row["cop"])
    if right is None or right == -1:
        raise ValueError("the answer is empty (column cop)")
    if not base <= right < base + 4:
        raise ValueError(f"column cop is {right}, outside {base} to {base + 3}")
    letter = "ABCD"[right - base]
    return read_choice(row, question="question", choices=_lettered(row), right=letter, reasoning=("exp",))


def _medmcqa_from_one(row: Values) -> Choice:
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
    if text(row, "answer_type") != "multipleChoice":
        return turn(text(row, "question"), text(row, "answer"), reasoning=text(row, "rationale"))
    return _hle_choice(row).messages()


def _hle_choice(row: Values) -> Choice:
    _no_images(row, "image")
    kind = text(row, "answer_type")
    if kind != "multipleChoice":
        raise ValueError(f"the question is not multiple choice but {kind or 'of no type'} (column answer_type)")
    choices = inline(text(row, "question"))
    right = text(row, "answer")
    return read_choice(row, question="question", choices=choices, right=right, reasoning=("rationale",))


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


def _choices(
    name: str,
    columns: str,
    parse: Callable[[Values], Choice],
    *,
    more_text: str = "",
    holds: Callable[[Sequence[Values]], bool] | None = None,
) -> Layout:
    """A layout of multiple-choice questions, which `CHOICES` knows as well."""
    CHOICES[name] = parse
    return layout(name, columns, lambda row: parse(row).messages(), text=f"{_CHOICE_TEXT} {more_text}", holds=holds)


CHOICES: dict[str, Callable[[Values], Choice]] = {"hle": _hle_choice}
"""Layout of multiple-choice questions to what reads one; a ``ValueError`` is the reason why a row holds none."""

LAYOUTS = (
    layout("pubmedqa", "QUESTION CONTEXTS LONG_ANSWER", _pubmedqa, text=_PUBMEDQA_TEXT),
    layout("pubmedqa_hub", "question context long_answer", _pubmedqa, text=_PUBMEDQA_TEXT),
    _choices("medguide", "prompt options answer answer_text", _medguide, more_text="profile"),
    _choices("medmcqa_original", "question opa opb opc opd cop", _medmcqa_from_one, holds=_counts_from_one),
    _choices("medmcqa", "question opa opb opc opd cop", _medmcqa),
    _choices("medbullets", "question opa opb opc opd answer_idx", _medbullets),
    _choices("medxpertqa", "question options label", _medxpertqa),
    _choices("choices_inline", "question label", _inline, holds=_asks_inline),
    _choices("metamedqa", "question options answer_idx metamap_phrases kind", _choice),
    _choices("medqa", "question options answer_idx meta_info", _choice),
    _choices("medmcqa_options", "realidx question options answer_idx", _choice),
    _choices("hle_options", "idx question options answer_idx", _choice),
    layout("hle", "question answer answer_type rationale", _hle, text=f"{_CHOICE_TEXT} image"),
    _choices("mmlu_pro", "question options answer answer_index", _choice),
    _choices("multiple_choice", "question options|choices answer_idx|answer_letter|answer|answerKey", _choice),
)
