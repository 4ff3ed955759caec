"""Layouts: every known row shape gives the expected messages; rows that are no sample say why."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diq.base.errors import InputError, UsageError
from diq.base.sample import Sample
from diq.formats import Parsed, open_source
from diq.formats.layouts import LAYOUTS, NAMES, choose, mapped, named
from diq.formats.layouts.choices import gold, inline, options
from diq.formats.layouts.layout import without_reasoning
from diq.formats.layouts.roles import column_roles
from diq.formats.rows import BadRow

USER = {"role": "user", "content": "Q?"}
ANSWER = {"role": "assistant", "content": "A."}
OPTIONS = {"A": "one", "B": "two"}
ASKED = {"role": "user", "content": "Q?\nA. one\nB. two"}
SECOND = {"role": "assistant", "content": "The answer is B. two"}


def thinking(answer: dict[str, str], reasoning: str = "R") -> dict[str, str]:
    return {**answer, "reasoning_content": reasoning}


def said(*texts: str, system: str = "") -> list[dict[str, Any]]:
    """Turns of user and assistant in turn."""
    turns = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
    return [{"role": "system", "content": system}, *turns] if system else turns


LONG = "The note says that aspirin was given. " * 9

# name, row, messages
CASES: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    # what stands beside the columns of a layout has its role in every layout
    ("question_answer", {"system_prompt": "S", "question": "Q?", "response": "A."}, said("Q?", "A.", system="S")),
    (
        "question_answer",
        {"system": "S", "query": "Q?", "response": "A.", "history": [["q", "a"]]},
        said("q", "a", "Q?", "A.", system="S"),
    ),
    ("question_answer", {"question": "Q?", "context": LONG, "answer": "A."}, said(f"{LONG.strip()}\n\nQ?", "A.")),
    ("question_answer", {"question": "Q?", "input": "In", "answer": "A."}, said("Q?\nIn", "A.")),
    ("prompt_completion", {"prompt": "Q?", "completion": "A.", "system": "S"}, said("Q?", "A.", system="S")),
    ("prompt_completion", {"prompt": "Q?", "completion": "A.", "thinking": "R"}, [USER, thinking(ANSWER)]),
    ("alpaca", {"instruction": "Q?", "input": "", "output": "A.", "reasoning": "R"}, [USER, thinking(ANSWER)]),
    ("alpaca", {"instruction": "Q?", "input": "In", "context": "C", "output": "A."}, said("Q?\nIn\nC", "A.")),
    (
        "preference",
        {"instruction": "Q?", "input": "In", "chosen": "A.", "rejected": "B.", "system_prompt": "S"},
        said("Q?\nIn", "A.", system="S"),
    ),
    (
        "multiple_choice",
        {"question": "Q?", "options": OPTIONS, "answer": "B", "context": "C"},
        [{**ASKED, "content": f"C\n\n{ASKED['content']}"}, SECOND],
    ),
    (
        "messages",
        {"messages": [USER, ANSWER], "system_prompt": "S", "reasoning": "R"},
        [{"role": "system", "content": "S"}, USER, thinking(ANSWER)],
    ),
    # a context that the prompt holds already is there once
    ("question_answer", {"question": "C. Q?", "context": "C.", "answer": "A."}, said("C. Q?", "A.")),
    # what the answer alone holds is put before it all the same, and what a question holds by chance, too
    (
        "question_answer",
        {"question": "Which?", "context": "Aspirin", "answer": "Aspirin."},
        said("Aspirin\n\nWhich?", "Aspirin."),
    ),
    (
        "prompt_completion",
        {"prompt": "Mend.", "input": "He go", "completion": "`He go` is no"},
        said("Mend.\nHe go", "`He go` is no"),
    ),
    (
        "question_answer",
        {"system": "Be brief.", "question": "Q?", "answer": "I: Be brief."},
        said("Q?", "I: Be brief.", system="Be brief."),
    ),
    ("question_answer", {"question": "What is A?", "context": "A", "answer": "A."}, said("A\n\nWhat is A?", "A.")),
    (
        "messages",
        {"messages": said("So?", "It says. Yes"), "context": "It says."},
        said("It says.\n\nSo?", "It says. Yes"),
    ),
    (
        "messages",
        {"messages": said("Q?", "A.", system="Sure"), "system_prompt": "S"},
        said("Q?", "A.", system="S\n\nSure"),
    ),
    # but not what stands in it: anywhere for a long text, on lines of its own or at its beginning for a short one
    (
        "question_answer",
        {"question": f"Read: {LONG} Q?", "context": LONG, "answer": "A."},
        said(f"Read: {LONG} Q?", "A."),
    ),
    (
        "question_answer",
        {"question": "Note\nIt is.\nQ?", "context": "It is.", "answer": "A."},
        said("Note\nIt is.\nQ?", "A."),
    ),
    ("prompt_completion", {"prompt": "Q?", "reasoning": "As is.", "completion": "As is. A."}, said("Q?", "As is. A.")),
    # an instruction beside a question, and a question beside an instruction
    *(
        (name, {"instruction": "Do it.", **row}, said("Do it.\nQ?", "A."))
        for name, row in (
            ("alpaca", {"question": "Q?", "output": "A."}),
            ("dolly", {"query": "Q?", "response": "A."}),
            ("question_answer", {"question": "Q?", "answer": "A."}),
            ("question_answer", {"input": "Q?", "answer": "A."}),
            ("question_answer", {"input": "Q?", "target": "A."}),
            ("prompt_completion", {"prompt": "Q?", "completion": "A."}),
            ("messages", {"messages": said("Q?", "A.")}),
        )
    ),
    ("alpaca", {"instruction": "Do it: Q?", "question": "Q?", "output": "A."}, said("Do it: Q?", "A.")),
    # lists of texts are paragraphs
    ("question_answer", {"question": "Q?", "context": ["C.", "D."], "answer": "A."}, said("C.\n\nD.\n\nQ?", "A.")),
    ("alpaca", {"instruction": "Q?", "context": ["C.", "D."], "output": "A."}, said("Q?\nC.\n\nD.", "A.")),
    (
        "question_answer",
        {"question": "Q?", "reasoning": ["R", "S"], "answer": "A."},
        [USER, thinking(ANSWER, "R\n\nS")],
    ),
    ("messages", {"messages": said("Q?", "A."), "thinking": ["R", "S"]}, [USER, thinking(ANSWER, "R\n\nS")]),
    (
        "messages",
        {"messages": said("Q?", "A.", "Q?", "A."), "reasoning": ["R", "S"]},
        [USER, thinking(ANSWER, "R"), USER, thinking(ANSWER, "S")],
    ),
    ("messages", {"messages": said("Q?", "A."), "system": ["S", "T"]}, said("Q?", "A.", system="S\n\nT")),
    # a label beside a question and its answer is no letter of an option
    ("question_answer", {"question": "Q?", "answer": "A.", "label": "pediatrics"}, [USER, ANSWER]),
    ("question_answer", {"question": "Q?", "answer": "A.", "label": 1}, [USER, ANSWER]),
    (
        "medreason",
        {"question": "Q?", "options": OPTIONS, "answer": "B", "answer_idx": "B", "reasoning": "R"},
        [ASKED, thinking(SECOND)],
    ),
    # both system prompts stay
    (
        "messages",
        {"system": "In German.", "messages": [{"role": "system", "content": "S"}, USER, ANSWER]},
        said("Q?", "A.", system="In German.\n\nS"),
    ),
    # earlier turns in other forms
    *(
        ("question_answer", {"question": "Q?", "answer": "A.", "history": history}, said("q", "a", "Q?", "A."))
        for history in ([{"question": "q", "answer": "a"}], ["q", "a"], said("q", "a"))
    ),
    # before several turns, and once where they are in the conversation already
    *(
        (
            "messages",
            {"messages": said(*before, "Q?", "A.", "Why?", "So."), "history": [["q", "a"]], "context": "It says."},
            said(*first, "Q?" if before else "It says.\n\nQ?", "A.", "Why?", "So."),
        )
        for before, first in (((), ("q", "a")), (("q", "a"), ("It says.\n\nq", "a")))
    ),
    # a conversation up to its answer, pairs of ms-swift and of HH-RLHF
    ("question_answer", {"input": [USER], "output": "A.", "license": "x"}, [USER, ANSWER]),
    ("refused_text", {"messages": [USER, ANSWER], "rejected_response": "B."}, [USER, ANSWER]),
    (
        "preference",
        {"chosen": "\n\nHuman: Q?\n\nAssistant: A.", "rejected": "\n\nHuman: Q?\n\nAssistant: B."},
        [USER, ANSWER],
    ),
    # layouts that people asked for
    (
        "r1_distill",
        {"question": "Q?", "reasoning (reasoning_content)": "R", "response (content)": "A."},
        [USER, thinking(ANSWER)],
    ),
    ("question_lists", {"questions": [["Q?", "Other?"]], "answers": ["A.", "B."]}, [USER, ANSWER]),
    ("question_answer", {"Question": "Q?", "Response": "A."}, [USER, ANSWER]),
    ("question_answer", {"inputs": "Q?", "targets": "A."}, [USER, ANSWER]),
    (
        "multiple_choice",
        {"question": "Q?", "choices": {"label": ["A", "B"], "text": ["one", "two"]}, "answerKey": "B"},
        [ASKED, SECOND],
    ),
    ("worked_solution", {"problem": "Q?", "solution": "So A.", "answer": "A"}, said("Q?", "So A.")),
    ("sharegpt", {"conversations": ["Q?", "A.", "Q2?", "A2."], "source": "x"}, said("Q?", "A.", "Q2?", "A2.")),
    ("ultrachat", {"id": "0", "data": ["Q?", "A.", "Q2?", "A2."]}, said("Q?", "A.", "Q2?", "A2.")),
    (
        "sharegpt",
        {"conversation": [{"system": "S", "input": "Q?", "output": "A."}, {"system": "", "input": "q", "output": "a"}]},
        said("Q?", "A.", "q", "a", system="S"),
    ),
    ("sharegpt", {"conversation": [{"human": "Q?", "assistant": "A."}]}, [USER, ANSWER]),
    (
        "gemini",
        {
            "contents": [{"role": "user", "parts": [{"text": "Q?"}]}, {"role": "model", "parts": [{"text": "A."}]}],
            "systemInstruction": {"parts": [{"text": "S"}]},
        },
        said("Q?", "A.", system="S"),
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "Patient", "value": "Q?"}, {"from": "Doctor", "value": "A."}]},
        [USER, ANSWER],
    ),
    ("messages", {"messages": [USER, ANSWER]}, [USER, ANSWER]),
    (
        "messages",
        {
            "messages": [
                {"role": role, "content": [{"type": "text", "text": text}]}
                for role, text in (("developer", "S"), ("user", "Q?"), ("assistant", "A."))
            ]
        },
        [{"role": "system", "content": "S"}, USER, ANSWER],
    ),
    (
        "messages",
        {"messages": [USER, thinking(ANSWER)], "system": "S"},
        [{"role": "system", "content": "S"}, USER, thinking(ANSWER)],
    ),
    ("messages", {"messages": [USER, {**ANSWER, "reasoning_content": " "}]}, [USER, ANSWER]),
    ("messages", {"messages": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}]}, [USER, ANSWER]),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}] * 2, "id": 1},
        [USER, ANSWER] * 2,
    ),
    ("sharegpt", {"conversations": [USER, ANSWER]}, [USER, ANSWER]),
    (
        "ultramedical",
        {
            "id": "1",
            "type": "Exam",
            "conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}],
            "answer": "B",
            "score": "7",
        },
        [USER, ANSWER],
    ),
    ("alpaca", {"instruction": "Q?", "input": "", "output": "A."}, [USER, ANSWER]),
    (
        "alpaca",
        {"instruction": "Q?", "input": "In", "output": "A.", "system": "S", "history": [["q", "a"]]},
        [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "Q?\nIn"},
            ANSWER,
        ],
    ),
    (
        "dolly",
        {"instruction": "Q?", "context": "In", "response": "A."},
        [{"role": "user", "content": "Q?\nIn"}, ANSWER],
    ),
    (
        "finemed",
        {"text": "passage", "instruction": "Q?", "response": "A.", "complexity": 3, "quality": 4},
        [USER, ANSWER],
    ),
    ("prompt_completion", {"prompt": [USER], "completion": [ANSWER]}, [USER, ANSWER]),
    ("prompt_completion", {"prompt": "[1, 2]", "completion": "A."}, [{"role": "user", "content": "[1, 2]"}, ANSWER]),
    ("question_answer", {"question": "Q?", "answer": "A."}, [USER, ANSWER]),
    ("question_answer", {"question": "Q?", "answer": 42}, [USER, {"role": "assistant", "content": "42"}]),
    ("question_answer", {"question": "Q?", "rationale": "R", "answer": "A."}, [USER, thinking(ANSWER)]),
    ("huatuo", {"Question": "Q?", "Complex_CoT": "R", "Response": "A."}, [USER, thinking(ANSWER)]),
    (
        "huatuo",
        {
            "question": "other",
            "options": OPTIONS,
            "answer_idx": "A",
            "answer": "one",
            "Question": "Q?",
            "Complex_CoT": "R",
            "Response": "A.",
        },
        [USER, thinking(ANSWER)],
    ),
    (
        "medreason",
        {
            "dataset_name": "d",
            "question": "Q?",
            "options": "Answer Choices:\nA. one\nB. two",
            "answer": "A.",
            "reasoning": "R",
        },
        [{"role": "user", "content": "Q?\nAnswer Choices:\nA. one\nB. two"}, thinking(ANSWER)],
    ),
    ("medreason", {"question": "Q?", "options": "", "answer": "A.", "reasoning": "R"}, [USER, thinking(ANSWER)]),
    (
        "m23k",
        {
            "prompt": "Q?",
            "answer_letter": "B",
            "answer_string": "two",
            "reasoning": "R",
            "distilled_answer_string": "A.",
        },
        [USER, thinking(ANSWER)],
    ),
    ("m23k", {"prompt": "Q?", "answer_letter": "B", "answer_string": "two"}, [USER, SECOND]),
    (
        "mmlu_pro_trace",
        {
            "question": "Q?",
            "options": ["one", "two"],
            "answer": "B",
            "answer_index": 1,
            "pred": "A",
            "model_outputs": " Step. The answer is (A).",
        },
        [ASKED, {"role": "assistant", "content": " Step. The answer is (A)."}],
    ),
    (
        "mmlu_pro_trace",
        {"question": "Q?", "options": ["one", "two"], "answer": "B", "pred": None, "generated_text": "T"},
        [ASKED, {"role": "assistant", "content": "T"}],
    ),
    (
        "mmlu_pro",
        {"question": "Q?", "options": ["one", "two"], "answer": "B", "answer_index": 1, "cot_content": ""},
        [ASKED, SECOND],
    ),
    (
        "mmlu_pro",
        {"question": "Q?", "options": ["one", "two"], "answer": None, "answer_index": 1, "cot_content": "R"},
        [ASKED, thinking(SECOND)],
    ),
    ("multiple_choice", {"question": "Q?", "choices": ["one", "two"], "subject": "s", "answer": 1}, [ASKED, SECOND]),
    (
        "multiple_choice",
        {"question": "Q?", "choices": {"label": ["A", "B"], "text": ["one", "two"]}, "answer": "B"},
        [ASKED, SECOND],
    ),
    (
        "medqa",
        {"question": "Q?", "options": OPTIONS, "answer_idx": "B", "answer": "two", "meta_info": "step1"},
        [ASKED, SECOND],
    ),
    (
        "medmcqa_options",
        {"realidx": "x", "question": "Q?", "options": OPTIONS, "answer_idx": "B", "answer": "two"},
        [ASKED, SECOND],
    ),
    (
        "hle_options",
        {"idx": 0, "question": "Q?", "options": OPTIONS, "answer_idx": "B", "answer": "two"},
        [ASKED, SECOND],
    ),
    (
        "metamedqa",
        {
            "meta_info": "s",
            "metamap_phrases": "[]",
            "kind": "k",
            "question": "Q?",
            "options": {**OPTIONS, "C": None},
            "answer_idx": "B",
            "answer": "two",
        },
        [ASKED, SECOND],
    ),
    (
        "hle",
        {"id": "1", "question": "Q?", "image": "", "answer": "A.", "answer_type": "exactMatch", "rationale": "R"},
        [USER, thinking(ANSWER)],
    ),
    (
        "hle",
        {
            "question": "Q?\n\nAnswer Choices:\nA. one\nB. two",
            "image": None,
            "answer": "B",
            "answer_type": "multipleChoice",
            "rationale": "R",
        },
        [{"role": "user", "content": "Q?\n\nAnswer Choices:\nA. one\nB. two"}, thinking(SECOND)],
    ),
    (
        "medmcqa",
        {"question": "Q?", "opa": "one", "opb": "two", "opc": "three", "opd": "four", "cop": 1, "exp": "R"},
        [{"role": "user", "content": "Q?\nA. one\nB. two\nC. three\nD. four"}, thinking(SECOND)],
    ),
    (
        "medbullets",
        {
            "link": "l",
            "question": "Q?",
            "opa": "one",
            "opb": "two",
            "opc": "c",
            "opd": "d",
            "ope": "e",
            "answer_idx": "B",
            "answer": "two",
            "explanation": "R",
        },
        [{"role": "user", "content": "Q?\nA. one\nB. two\nC. c\nD. d\nE. e"}, thinking(SECOND)],
    ),
    (
        "medxpertqa",
        {
            "question": "Q?\nAnswer Choices: (A) one (B) two",
            "options": [{"letter": "A", "content": "one"}, {"letter": "B", "content": "two"}],
            "label": ["B"],
        },
        [{"role": "user", "content": "Q?\nAnswer Choices: (A) one (B) two"}, SECOND],
    ),
    ("medxpertqa", {"question": "Q?", "options": OPTIONS, "label": "B"}, [ASKED, SECOND]),
    (
        "medguide",
        {
            "profile": "p",
            "prompt": "Q?\n\nA. one\nB. two",
            "options": ["one", "two"],
            "answer": "B",
            "answer_text": "two",
            "path": [],
        },
        [{"role": "user", "content": "Q?\n\nA. one\nB. two"}, SECOND],
    ),
    ("medguide", {"prompt": "Q?", "options": ["one", "two"], "answer": "B", "answer_text": "two"}, [ASKED, SECOND]),
    (
        "choices_inline",
        {"question": "Q?\nAnswer Choices: (A) one (see (A)) (B) two", "label": ["B"], "label_rationale": "R"},
        [{"role": "user", "content": "Q?\nAnswer Choices: (A) one (see (A)) (B) two"}, thinking(SECOND)],
    ),
    ("choices_inline", {"question": "Q?", "label": "B"}, [USER, {"role": "assistant", "content": "The answer is B."}]),
    (
        "pubmedqa",
        {"QUESTION": "Q?", "CONTEXTS": ["c1", "c2"], "LONG_ANSWER": "R", "final_decision": "yes"},
        [
            {"role": "user", "content": "c1\n\nc2\n\nQ?"},
            thinking({"role": "assistant", "content": "The answer is yes."}),
        ],
    ),
    ("pubmedqa", {"QUESTION": "Q?", "CONTEXTS": [], "LONG_ANSWER": "A."}, [USER, ANSWER]),
    (
        "pubmedqa_hub",
        {"question": "Q?", "context": {"contexts": ["c1"]}, "long_answer": "R", "final_decision": "no"},
        [{"role": "user", "content": "c1\n\nQ?"}, thinking({"role": "assistant", "content": "The answer is no."})],
    ),
    (
        "selected_pairs",
        {"messages": [USER, ANSWER], "rejected": [{**ANSWER, "content": "B."}], "sample_id": "x"},
        [USER, ANSWER],
    ),
    ("selected_pairs", {"messages": [USER, ANSWER], "rejected": None, "sample_id": "x"}, [USER, ANSWER]),
    ("preference", {"prompt": "Q?", "chosen": "A.", "rejected": "B."}, [USER, ANSWER]),
    (
        "preference",
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [{"role": "assistant", "content": "B."}]},
        [USER, ANSWER],
    ),
    (
        "preference",
        {"prompt": "Q?", "chosen": [USER, ANSWER], "rejected": [USER, {"role": "assistant", "content": "B."}]},
        [USER, ANSWER],
    ),
    (
        "preference",
        {"chosen": [USER, ANSWER], "rejected": [USER, {"role": "assistant", "content": "B."}]},
        [USER, ANSWER],
    ),
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            for row in rows:
                # structure in CSV is JSON, nothing is an empty field
                writer.writerow(
                    {
                        k: json.dumps(v) if isinstance(v, (list, dict)) else "" if v is None else v
                        for k, v in row.items()
                    }
                )
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".parquet", ".csv"])
@pytest.mark.parametrize(("name", "row", "messages"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)])
def test_every_layout_in_every_container(
    tmp_path: Path, ending: str, name: str, row: dict[str, Any], messages: list[dict[str, str]]
) -> None:
    reader = open_source(write(tmp_path / f"rows{ending}", [row, row]))
    assert reader.layout.name == name
    first, second = list(reader)
    assert isinstance(first, Parsed), first
    assert isinstance(second, Parsed)
    assert first.sample.messages == messages
    if name in ("preference", "refused_text") or row.get("rejected"):
        assert first.sample.rejected == [{"role": "assistant", "content": "B."}]
    else:
        assert first.sample.rejected is None


def test_every_layout_has_a_case() -> None:
    assert {name for name, _, _ in CASES} | {"medmcqa_original"} == set(NAMES)
    assert len(set(NAMES)) == len(LAYOUTS)


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("alpaca", {"instruction": "Q?", "output": ""}, "the answer is empty"),
        ("alpaca", {"instruction": "Q?", "output": " \n"}, "the answer is empty"),
        ("alpaca", {"instruction": "Q?", "output": None}, "the answer is empty"),
        ("alpaca", {"instruction": "Q?"}, "no column `output` (layout alpaca)"),
        ("alpaca", {"instruction": " ", "output": "A."}, "the prompt is empty"),
        ("alpaca", {"instruction": "Q?", "output": ["A."]}, "column output holds no text but list"),
        ("alpaca", {"instruction": "Q?", "output": True}, "column output holds no text but bool"),
        ("messages", {"messages": []}, "no messages"),
        ("messages", {"messages": None}, "the messages are no list but NoneType"),
        ("messages", {"messages": "hello"}, "the messages are no list but str"),
        ("messages", {"messages": [USER]}, "no assistant turn"),
        ("messages", {"messages": [USER, ANSWER, USER]}, "the last message is not the assistant's"),
        ("messages", {"messages": [ANSWER]}, "no prompt: no user turn"),
        ("messages", {"messages": [USER, {"role": "assistant", "content": None}]}, "the answer is empty"),
        ("messages", {"messages": [{"role": "user", "content": ""}, ANSWER]}, "the prompt is empty"),
        ("messages", {"messages": [USER, {"role": "assistant", "content": ""}, USER, ANSWER]}, "message 2 is empty"),
        (
            "messages",
            {"messages": [USER, {"role": "narrator", "content": "x"}, ANSWER]},
            "unknown role `narrator` in message 2",
        ),
        ("messages", {"messages": [{"content": "x"}, ANSWER]}, "message 1 has no role"),
        ("messages", {"messages": ["x", ANSWER]}, "message 1 is no object"),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ANSWER]},
            "message 1 has a part of type image_url; only text can be used",
        ),
        (
            "medqa",
            {"question": "Q?", "options": OPTIONS, "answer_idx": "C", "meta_info": "s"},
            "the answer `C` is not among the options A, B",
        ),
        ("medqa", {"question": "Q?", "options": {}, "answer_idx": "A", "meta_info": "s"}, "no options"),
        ("medqa", {"question": "", "options": OPTIONS, "answer_idx": "A", "meta_info": "s"}, "the prompt is empty"),
        (
            "medmcqa",
            {"question": "Q?", "opa": "1", "opb": "2", "opc": "3", "opd": "4", "cop": -1},
            "the answer is empty (column cop)",
        ),
        (
            "medmcqa",
            {"question": "Q?", "opa": "1", "opb": "2", "opc": "3", "opd": "4", "cop": 4},
            "column cop is 4, outside 0 to 3",
        ),
        (
            "medxpertqa",
            {"question": "Q?", "options": OPTIONS, "label": ["A", "B"]},
            "2 right answers (['A', 'B']); one is expected",
        ),
        ("medxpertqa", {"question": "Q?", "options": OPTIONS, "label": []}, "the answer is empty"),
        (
            "hle",
            {"question": "Q?", "image": "data:...", "answer": "A.", "answer_type": "exactMatch", "rationale": "R"},
            "the question needs an image (column image)",
        ),
        ("preference", {"prompt": "Q?", "chosen": "A.", "rejected": "A."}, "chosen and rejected are the same"),
        (
            "selected_pairs",
            {"messages": [USER, ANSWER], "rejected": [USER], "sample_id": "x"},
            "the refused dialogue does not end with the assistant",
        ),
        ("preference", {"prompt": "Q?", "chosen": "", "rejected": "B."}, "the answer is empty"),
        ("preference", {"prompt": "", "chosen": "A.", "rejected": "B."}, "no prompt: no user turn"),
        ("m23k", {"prompt": "Q?", "answer_letter": "", "answer_string": ""}, "the answer is empty"),
    ],
)
def test_rows_that_are_no_sample_say_why(name: str, row: dict[str, Any], reason: str) -> None:
    layout = named(name, None)
    assert layout is not None
    with pytest.raises(ValueError) as error:
        layout.sample(row)
    assert str(error.value) == reason


def test_text_stays_as_it_is() -> None:
    layout = named("alpaca", None)
    assert layout is not None
    sample = layout.sample({"instruction": "  Q?\n", "output": "\tA. <think>x</think> "})
    assert [message["content"] for message in sample.messages] == ["  Q?\n", "\tA. <think>x</think> "]


def test_attributes_are_the_short_other_columns() -> None:
    layout = named("choices_inline", None)
    assert layout is not None
    row = {
        "question": "Q?", "label": ["B"], "id": "x", "n": 3, "ratio": 0.5, "flag": True, "none": None, "empty": "",
        "long": "x" * 257, "fits": "x" * 256, "list": [1, 2], "nan": float("nan"), "": "unnamed",
    }  # fmt: skip
    assert layout.sample(row).attributes == {
        "label": "B", "id": "x", "n": 3, "ratio": 0.5, "flag": True, "fits": "x" * 256
    }  # fmt: skip


def test_rows_that_differ_from_the_rest_are_rejects(tmp_path: Path) -> None:
    good = {"question": "Q?", "options": "", "answer": "A.", "reasoning": "R"}
    rows = [{"question": "Q?", "answer": "A."}, good, good, {"instruction": "Q?"}]
    reader = open_source(write(tmp_path / "rows.jsonl", rows))
    assert reader.layout.name == "medreason"
    found = list(reader)
    assert [isinstance(row, BadRow) for row in found] == [True, False, False, True]
    assert isinstance(found[0], BadRow)
    assert found[0].reason == "no column `options` (layout medreason)"
    assert json.loads(found[0].content) == rows[0]


def test_medmcqa_counts_from_zero_or_one(tmp_path: Path) -> None:
    base = {"question": "Q?", "opa": "one", "opb": "two", "opc": "three", "opd": "four", "exp": ""}
    hub = open_source(write(tmp_path / "hub.jsonl", [{**base, "cop": n} for n in (3, 0)]))
    original = open_source(write(tmp_path / "original.csv", [{**base, "cop": n} for n in (4, 1)]))
    assert (hub.layout.name, original.layout.name) == ("medmcqa", "medmcqa_original")
    for reader in (hub, original):
        answers = [row.sample.messages[-1]["content"] for row in reader if isinstance(row, Parsed)]
        assert answers == ["The answer is D. four", "The answer is A. one"]


def test_unknown_layouts_list_what_was_found(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"frage": "Q?", "antwort": "A."}])
    with pytest.raises(InputError, match="columns `frage`, `antwort`: no known layout") as error:
        open_source(path)
    assert "--map prompt=COLUMN,answer=COLUMN" in error.value.hint
    assert "alpaca" in error.value.hint
    with pytest.raises(UsageError, match="no layout named `alpacca`") as wrong:
        open_source(path, format="alpacca")
    assert wrong.value.hint == "did you mean `alpaca`?"
    with pytest.raises(InputError, match="no column `instruction` for layout alpaca: it has `frage`, `antwort`"):
        open_source(path, format="alpaca")
    with pytest.raises(UsageError, match="exclude each other"):
        open_source(path, format="alpaca", map={"prompt": "frage", "answer": "antwort"})


@pytest.mark.parametrize(
    ("columns", "row", "messages"),
    [
        ({"prompt": "die frage", "answer": "a"}, {"die frage": "Q?", "a": "A."}, [USER, ANSWER]),
        (
            {"system": "s", "prompt": "q", "reasoning": "r", "answer": "a"},
            {"q": "Q?", "a": "A.", "r": "R", "s": "S"},
            [{"role": "system", "content": "S"}, USER, thinking(ANSWER)],
        ),
        ({"messages": "m"}, {"m": [USER, ANSWER]}, [USER, ANSWER]),
        ({"prompt": "q", "options": "o", "label": "l"}, {"q": "Q?", "o": ["one", "two"], "l": 1}, [ASKED, SECOND]),
        ({"prompt": "q", "options": "o", "answer": "a"}, {"q": "Q?", "o": ["one", "two"], "a": "A."}, [ASKED, ANSWER]),
        ({"prompt": "q", "chosen": "c", "rejected": "r"}, {"q": "Q?", "c": "A.", "r": "B."}, [USER, ANSWER]),
        # by path, also through a list, and a dialogue of named speakers as one prompt
        ({"prompt": "d.q", "answer": "d.a.text"}, {"d": {"q": "Q?", "a": {"text": "A."}}}, [USER, ANSWER]),
        (
            {"prompt": "data.turns.user", "answer": "data.turns.assistant"},
            {"data": {"turns": [{"user": "Q?", "assistant": "A."}, {"user": "q", "assistant": "a"}]}},
            said("Q?", "A.", "q", "a"),
        ),
        (
            {"prompt": "t.q", "answer": "t.a", "reasoning": "t.r", "system": "t.s"},
            {"t": [{"q": "Q?", "a": "A.", "r": "R", "s": "S"}, {"q": "q", "a": "a", "r": "r"}]},
            [
                {"role": "system", "content": "S"},
                USER,
                thinking(ANSWER),
                *(said("q", "a")[:1]),
                {**said("q", "a")[1], "reasoning_content": "r"},
            ],
        ),
        # roles that were ignored beside each other
        ({"messages": "m", "reasoning": "r"}, {"m": [USER, ANSWER], "r": "R"}, [USER, thinking(ANSWER)]),
        ({"messages": "m", "answer": "a"}, {"m": [USER], "a": "A."}, [USER, ANSWER]),
        ({"prompt": "q", "answer": "a", "rejected": "r"}, {"q": "Q?", "a": "A.", "r": "B."}, [USER, ANSWER]),
        ({"messages": "m", "rejected": "r"}, {"m": [USER, ANSWER], "r": "B."}, [USER, ANSWER]),
        (
            {"messages": "m", "chosen": "c", "rejected": "r"},
            {"m": [USER], "c": {"from": "gpt", "value": "A."}, "r": {"from": "gpt", "value": "B."}},
            [USER, ANSWER],
        ),
        (
            {"prompt": "q", "chosen": "c", "rejected": "r", "reasoning": "t"},
            {"q": "Q?", "c": "A.", "r": "B.", "t": "R"},
            [USER, thinking(ANSWER)],
        ),
        (
            {"prompt": "q", "answer": "a", "context": "c"},
            {"q": "Q?", "a": "A.", "c": ["C.", "D."]},
            said("C.\n\nD.\n\nQ?", "A."),
        ),
        ({"prompt": "q", "answer": "a", "input": "n"}, {"q": "Q?", "a": "A.", "n": 5}, said("Q?\n5", "A.")),
        ({"prompt": "q", "answer": "a", "label": "l"}, {"q": "Q?", "a": "A.", "l": 1}, [USER, ANSWER]),
        ({"messages": "m", "label": "l"}, {"m": [USER, ANSWER], "l": "True"}, [USER, ANSWER]),
        ({"prompt": "a.b", "answer": "c"}, {"a.b": "Q?", "c": "A."}, [USER, ANSWER]),
        (
            {"prompt": "dialogue", "answer": "note"},
            {
                "dialogue": [{"speaker": "Doctor", "text": "Pain?"}, {"speaker": "Patient", "text": "Yes."}],
                "note": "A.",
            },
            said("Doctor: Pain?\nPatient: Yes.", "A."),
        ),
    ],
)
def test_maps(columns: dict[str, str], row: dict[str, Any], messages: list[dict[str, str]]) -> None:
    sample = mapped(columns).sample(row)
    assert sample.messages == messages
    assert (sample.rejected is None) == ("rejected" not in columns)
    assert sample.attributes == {}


def test_maps_that_make_no_sample_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown role `promt`") as error:
        mapped({"promt": "q"})
    assert error.value.hint == "did you mean `prompt`?"
    with pytest.raises(UsageError, match="only prompt does not make a sample"):
        mapped({"prompt": "q"})
    with pytest.raises(UsageError, match="reads column `q` twice"):
        mapped({"prompt": "q", "answer": "q"})
    for roles in ("messages prompt", "messages options", "chosen rejected answer", "prompt options label answer"):
        with pytest.raises(UsageError, match=f"{roles.split()[-1]} has no use beside "):
            mapped({role: role for role in roles.split()})
    with pytest.raises(ValueError, match="2 prompts, but 1 answer"):
        mapped({"prompt": "t.u", "answer": "a"}).sample({"t": [{"u": "1"}, {"u": "2"}], "a": ["x"]})


@pytest.mark.parametrize(
    ("roles", "row", "reason"),
    [
        ("prompt answer label", {"label": 0}, "marked as a bad one (label is 0)"),
        ("prompt answer label", {"label": "False"}, "marked as a bad one (label is false)"),
        ("prompt answer label", {"label": "B"}, "the label `B` is neither yes nor no"),
        ("prompt answer history", {"history": "User: a"}, "the history cannot be used: it is a text"),
        ("prompt answer tools", {"tools": "search"}, "the tools cannot be used: they are a text"),
        ("prompt answer tools", {"tools": ["search"]}, "the tools cannot be used: they are a list"),
        ("prompt answer context", {"context": {"a": "b"}}, "the context cannot be used: it is a dict"),
        ("messages answer", {"messages": said("Q?", "B.")}, "the messages end with another answer already"),
        ("messages reasoning", {"messages": [USER, thinking(ANSWER)], "reasoning": "S"}, "another reasoning already"),
        ("messages input", {"messages": said("Q?", "A.", "q", "a"), "input": "In"}, "an input beside 2 questions"),
    ],
)
def test_what_a_map_names_is_used_or_refused(roles: str, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        mapped({role: role for role in roles.split()}).sample({"prompt": "Q?", "answer": "A.", **row})
    assert reason in str(caught.value)


def test_a_role_whose_column_no_row_has_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"q": "Q?", "a": "A.", "ctx": "C.", "null": None}])
    columns = {"prompt": "q", "answer": "a", "context": "ctxx", "system": "null"}
    (note,) = open_source(path, map=columns).notes
    assert note == "--map context=ctxx finds nothing in the first 1 row; did you mean `ctx`?"


def test_without_reasoning() -> None:
    answer = {"role": "assistant", "content": "<think>\nlong\n</think>\n\nA.", "reasoning_content": "R"}
    plain = without_reasoning(Sample([USER, answer, USER, answer], [answer], {"n": 1}))
    assert plain == Sample([USER, ANSWER, USER, ANSWER], [ANSWER], {"n": 1})
    later = {"role": "assistant", "content": "A. <think>x</think>"}
    assert without_reasoning(Sample([USER, later])).messages == [USER, later]
    with pytest.raises(ValueError, match="the answer is empty"):
        without_reasoning(Sample([USER, {"role": "assistant", "content": "<think>x</think>"}]))


@pytest.mark.parametrize(
    "value",
    [
        {"A": "one", "B": "two"},
        {"A": "one", "B": "two", "C": None},
        ["one", "two"],
        ["A. one", "B. two"],
        ["(A) one", "(B) two"],
        [{"letter": "A", "content": "one"}, {"letter": "B", "content": "two"}],
        [{"key": "A", "value": "one"}, {"key": "B", "value": "two"}],
        {"label": ["A", "B"], "text": ["one", "two"]},
        '{"A": "one", "B": "two"}',
        "['one', 'two']",
        "Answer Choices:\nA. one\nB. two",
        "A) one\nB) two",
    ],
)
def test_options_in_all_their_shapes(value: Any) -> None:
    assert options(value) == {"A": "one", "B": "two"}


@pytest.mark.parametrize("value", [None, "", [], {}, "no choices here", ["x"] * 27, [True, False]])
def test_no_options(value: Any) -> None:
    with pytest.raises(ValueError):
        options(value)


@pytest.mark.parametrize("value", ["B", "b", "(B)", "B.", ["B"], 1, 1.0, "1", "two", " B "])
def test_gold_in_all_its_shapes(value: Any) -> None:
    assert gold(value, OPTIONS) == "B"


@pytest.mark.parametrize("value", [None, "", "C", 2, True, ["A", "B"], [], 0.5, -1])
def test_no_gold(value: Any) -> None:
    with pytest.raises(ValueError):
        gold(value, OPTIONS)


def test_inline_options_keep_their_order() -> None:
    assert inline("Q? Answer Choices: (A) x (B) is (C) or (A) (C) z") == {"A": "x", "B": "is", "C": "or (A) (C) z"}
    assert inline("no mark (A) x (B) y") == {}


def families() -> Iterator[Path]:
    import diq.formats.layouts as package

    yield from Path(package.__path__[0]).glob("*.py")


def test_layouts_import_no_model_library() -> None:
    for path in families():
        assert "torch" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"image": "coco/1.jpg"}, "column image"),
        ({"images": ["a.png", "b.png"]}, "column images"),
        ({"images": "['a.png']"}, "column images"),
        ({"image": {"bytes": b"GIF", "path": None}}, "column image"),
        ({"Image_path": "scan.dcm"}, "column Image_path"),
        ({"pixel_values": [[0.5, 0.5], [0.1, 0.2]]}, "column pixel_values"),
        ({"picture": "data:image/png;base64,AAAA"}, "column picture"),
        ({"video_url": "https://there/x.mp4"}, "column video_url"),
        ({"question": "<image>\nWhat is seen?"}, "`<image>`"),
        ({"question": "<|vision_start|><|image_pad|>What?"}, "`<|vision_start|>`"),
        ({"question": "What is said? <audio>"}, "`<audio>`"),
    ],
)
def test_what_needs_more_than_text_is_refused(row: dict[str, Any], reason: str) -> None:
    plain = {"question": "Q?", "answer": "A."}
    chosen = choose("x", [plain | row], None)
    with pytest.raises(ValueError, match="only text can be used") as caught:
        chosen.sample(plain | row)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "row",
    [
        {"image": None},
        {"images": []},
        {"image_id": "12"},
        {"image_caption": "a chest"},
        {"source": "scan.png"},
        {"imaging": "MRI"},
        {"question": "What does the tag <video> do in HTML?"},
        {"answer": "<image> is no tag of HTML; <img> is."},
    ],
)
def test_what_only_speaks_of_images_is_text(row: dict[str, Any]) -> None:
    plain = {"question": "Q?", "answer": "A."}
    assert choose("x", [plain | row], None).sample(plain | row).messages


# turns that are not to be learnt, and tools ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, {**ANSWER, "weight": 0}]},
        {"messages": [USER, {**ANSWER, "train": False}]},
        {"conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A.", "loss": False}]},
        {"prompt": "Q?", "completion": "A.", "label": False},
        {"messages": [USER, ANSWER], "label": False},
        {"instruction": "Q?", "input": "", "output": "A.", "kto_tag": False},
        {"messages": [USER, {**ANSWER, "training": "false"}]},
        {"conversation": [{"input": "Q?", "output": "A.", "output_with_loss": False}]},
    ],
    ids=str,
)
def test_an_answer_that_is_not_to_be_learnt_is_no_sample(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"not to be learnt|nothing to learn"):
        choose("x", [row], None).sample(row)


GOOD_AND_BAD = {
    "csv": ("rows.csv", {"prompt": "Q?", "completion": "A."}, "label", "True", "False"),
    "text": ("rows.jsonl", {"prompt": "Q?", "completion": "A."}, "label", "true", "false"),
    "numbers": ("rows.jsonl", {"prompt": "Q?", "completion": "A."}, "label", 1, 0),
    "numbers as text": ("rows.csv", {"prompt": "Q?", "completion": "A."}, "label", "1.0", "0.0"),
    "conversation": ("rows.jsonl", {"messages": said("Q?", "A.")}, "label", "True", "False"),
    "kto_tag": ("rows.csv", {"instruction": "Q?", "output": "A."}, "kto_tag", "true", "false"),
    "kto_tag numbers": ("rows.jsonl", {"instruction": "Q?", "output": "A."}, "kto_tag", 1, 0),
}


@pytest.mark.parametrize("case", GOOD_AND_BAD.values(), ids=GOOD_AND_BAD)
def test_bad_answers_are_not_learnt_however_they_are_marked(tmp_path: Path, case: tuple[Any, ...]) -> None:
    name, row, column, good, bad = case
    reader = open_source(write(tmp_path / name, [row | {column: good}, row | {column: bad}]))
    first, second = list(reader)
    assert isinstance(first, Parsed)
    assert isinstance(second, BadRow)
    assert second.reason.startswith(f"the answer is marked as a bad one ({column} is ")
    assert reader.roles[column] == "label"


@pytest.mark.parametrize(
    ("row", "labels", "told"),
    [
        ({"question": "Q?", "answer": "A."}, [0, 1], True),
        ({"question": "Q?", "answer": "A."}, [0, 1, 2], False),
        ({"question": "Q?", "answer": "A."}, [0, 0], False),
        ({"question": "Q?", "answer": "A."}, ["false", "true", "unproven"], False),
        ({"question": "Q?", "answer": "A."}, ["no", "yes"], False),
        ({"prompt": "Q?", "completion": "A."}, [0, 1, 2], False),
        ({"question": "Q?", "options": ["true", "false"], "answer": "false"}, ["false", "true"], False),
    ],
    ids=str,
)
def test_a_label_that_may_be_a_class_stays(tmp_path: Path, row: dict[str, Any], labels: list[Any], told: bool) -> None:
    reader = open_source(write(tmp_path / "rows.jsonl", [row | {"label": label} for label in labels]))
    found = [one.sample.attributes["label"] for one in reader if isinstance(one, Parsed)]
    assert found == labels
    assert any("--map with label=label" in note for note in reader.notes) == told


def test_earlier_turns_that_are_not_to_be_learnt_are_marked() -> None:
    row = {"messages": [USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1}]}
    sample = choose("x", [row], None).sample(row)
    assert sample.messages == [USER, {**ANSWER, "train": False}, USER, ANSWER]
    # what is marked as a good answer is one
    good = {"prompt": "Q?", "completion": "A.", "label": True}
    assert choose("x", [good], None).sample(good).attributes == {"label": True}


CALL = {"type": "function", "function": {"name": "lab", "arguments": {"t": "Na"}}}


@pytest.mark.parametrize(
    "turns",
    [
        [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"function": {"name": "lab", "arguments": '{"t": "Na"}'}}],
            },
            {"role": "tool", "content": "140"},
        ],
        [
            {"role": "assistant", "content": None, "function_call": {"name": "lab", "arguments": '{"t": "Na"}'}},
            {"role": "function", "content": "140"},
        ],
        [
            {"from": "function_call", "value": '{"name": "lab", "arguments": {"t": "Na"}}'},
            {"from": "observation", "value": "140"},
        ],
        [
            {"role": "assistant", "content": [{"type": "tool_use", "name": "lab", "input": {"t": "Na"}}]},
            {"role": "user", "content": [{"type": "tool_result", "content": "140"}]},
        ],
    ],
    ids=["openai", "openai of old", "llama-factory", "anthropic"],
)
def test_calls_of_tools_and_what_they_give_are_turns(turns: list[dict[str, Any]]) -> None:
    tools = [{"name": "lab", "description": "a value", "parameters": {}}]
    row = {"messages": [USER, *turns, ANSWER], "tools": json.dumps(tools)}
    sample = choose("x", [row], None).sample(row)
    first, call, given, last = sample.messages
    assert first == {**USER, "tools": [{"type": "function", "function": tools[0]}]}
    assert call == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert given["role"] == "tool"
    assert given["content"] == "140"
    assert last == ANSWER
    # a call may be what is learnt
    ends = {"messages": [USER, turns[0]]}
    assert choose("x", [ends], None).sample(ends).messages[-1]["tool_calls"] == [CALL]


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Q?", "output": "A."},
        {"prompt": "Q?", "chosen": "A.", "rejected": "B."},
        {"question": "Q?", "answer": "A."},
    ],
    ids=str,
)
def test_tools_go_with_the_first_message_in_every_layout(row: dict[str, Any]) -> None:
    tools = [{"name": "lab", "input_schema": {"type": "object"}}]
    row = {**row, "tools": tools}
    made = choose("x", [row], None).sample(row)
    function = {"name": "lab", "parameters": {"type": "object"}}
    assert made.messages[0]["tools"] == [{"type": "function", "function": function}]
    assert "tools" not in made.attributes


def test_calls_of_gemini() -> None:
    row = {
        "contents": [
            {"role": "user", "parts": [{"text": "Q?"}]},
            {"role": "model", "parts": [{"functionCall": {"name": "lab", "args": {"t": "Na"}}}]},
            {"role": "user", "parts": [{"functionResponse": {"name": "lab", "response": {"value": 140}}}]},
            {"role": "model", "parts": [{"text": "R", "thought": True}, {"text": "A."}]},
        ],
        "tools": [{"functionDeclarations": [{"name": "lab"}]}],
    }
    assert choose("x", [row], None).sample(row).messages == [
        {**USER, "tools": [{"type": "function", "function": {"name": "lab"}}]},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": '{"value": 140}', "name": "lab"},
        thinking(ANSWER),
    ]


def test_calls_at_once_and_calls_behind_a_thought() -> None:
    given = [{"type": "tool_result", "tool_use_id": name, "content": name.upper()} for name in "ab"]
    calls = [{"type": "tool_use", "id": name, "name": "lab", "input": {"t": "Na"}} for name in "ab"]
    turns = [
        USER,
        {"role": "assistant", "content": calls},
        {"role": "user", "content": [*given, {"type": "text", "text": "So?"}]},
        ANSWER,
    ]
    found = choose("x", [{"messages": turns}], None).sample({"messages": turns}).messages
    assert found[2:] == [
        *({"role": "tool", "content": name.upper(), "tool_call_id": name} for name in "ab"),
        {"role": "user", "content": "So?"},
        ANSWER,
    ]
    turns = [
        {"from": "human", "value": "Q?"},
        {"from": "function_call", "value": '<think>x</think>\n\n{"name": "lab", "arguments": {"t": "Na"}}'},
    ]
    found = choose("x", [{"conversations": turns}], None).sample({"conversations": turns}).messages
    assert found[1] == {"role": "assistant", "content": "<think>x</think>", "tool_calls": [CALL]}


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"from": "function_call", "value": "Action: lab"}, "message 2 is a call of a tool that is no JSON"),
        ({"role": "model", "parts": [{"functionCall": {}, "inlineData": {"a": 1}}]}, "a part of type inlineData"),
        ({**ANSWER, "train_detail": [{"begin_offset": 0, "end_offset": 1, "train": False}]}, "learnt in part"),
    ],
)
def test_turns_that_cannot_be_read_say_why(turn: dict[str, Any], reason: str) -> None:
    turn = {"content": turn["parts"], **turn} if "parts" in turn else turn
    row = {"messages": [USER, turn]}
    with pytest.raises(ValueError, match=reason):
        choose("x", [row], None).sample(row)


@pytest.mark.parametrize(
    "answer",
    [
        {"thought": "R"},
        {"cot": "R"},
        {"reasoning_details": [{"type": "reasoning.text", "text": "R"}]},
        {"reasoning": "R", "reasoning_details": [{"type": "reasoning.summary", "summary": "R"}]},
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "R"}]},
                {"type": "text", "text": "A."},
            ]
        },
        {"content": [{"type": "reasoning", "text": "R"}, {"type": "text", "text": "A."}]},
        {"content": [{"type": "thinking", "thinking": "R"}, {"type": "text", "text": "A."}], "reasoning_content": "R"},
    ],
    ids=str,
)
def test_the_reasoning_of_a_turn_by_all_its_names(answer: dict[str, Any]) -> None:
    row = {"messages": [USER, ANSWER | answer]}
    assert choose("x", [row], None).sample(row).messages == [USER, thinking(ANSWER)]


def test_two_reasonings_of_a_turn_stay_both() -> None:
    content = [{"type": "thinking", "thinking": "R"}, {"type": "text", "text": "A."}]
    row = {"messages": [USER, {"role": "assistant", "content": content, "reasoning_content": "Other."}]}
    assert choose("x", [row], None).sample(row).messages == [USER, thinking(ANSWER, "R\n\nOther.")]


def test_hermes_keeps_its_own_marks() -> None:
    turns = [
        {"from": "system", "value": "<tools>[]</tools>"},
        {"from": "human", "value": "Q?"},
        {"from": "gpt", "value": "<tool_call>{}</tool_call>"},
        {"from": "tool", "value": "<tool_response>1</tool_response>"},
        {"from": "gpt", "value": "A."},
    ]
    found = choose("x", [{"conversations": turns}], None).sample({"conversations": turns}).messages
    assert [one["role"] for one in found] == ["system", "user", "assistant", "tool", "assistant"]
    assert [one["content"] for one in found] == [one["value"] for one in turns]


def test_typed_parts_of_today() -> None:
    content = [{"type": "thinking", "thinking": "R"}, {"type": "output_text", "text": "A."}]
    row = {
        "messages": [
            {"role": "user", "content": [{"type": "input_text", "text": "Q?"}]},
            {"role": "assistant", "content": content},
        ]
    }
    assert choose("x", [row], None).sample(row).messages == [USER, thinking(ANSWER)]


# what became of the columns ----------------------------------------------------------------------------------------


LAB = {"name": "lab", "description": "Gives a value."}


def test_every_column_has_a_role_and_text_that_is_lost_is_named() -> None:
    row = {
        "question": "Which drug was given?", "options": ["aspirin", "none"], "answer": "A", "exp": "It says so.",
        "context": "A note.", "topic": "x", "passage": LONG, "meta": {"a": "b"}, "n": 3, "empty": "",
    }  # fmt: skip
    assert column_roles(choose("x", [row], None), [row] * 3) == {
        "question": "prompt", "options": "prompt", "answer": "label", "exp": "reasoning", "context": "prompt",
        "topic": "attribute", "passage": "not used", "meta": "left out", "n": "attribute",
    }  # fmt: skip
    found = {"question": "Q?", "answer": "A.", "source_url": "https://x.org/" + "a" * 300, "digest": "0f" * 200}
    found |= {"body": "心" * 300}
    roles = column_roles(choose("x", [found], None), [found])
    assert [roles[name] for name in ("source_url", "digest", "body")] == ["left out", "left out", "not used"]
    talk = {"messages": said(LONG, "A."), "problem": LONG}
    assert column_roles(choose("x", [talk], None), [talk])["problem"] == "prompt (already there)"
    talk = {"messages": said("Which drug?", "Aspirin, it says.", "Why?", "So.", system="Be kind.")}
    assert column_roles(choose("x", [talk], None), [talk]) == {"messages": "messages"}
    talk = {"messages": said("Q?", "A.", "Why?", "So."), "input": "In which dose?"}
    assert column_roles(choose("x", [talk], None), [talk])["input"] == "not used", "which question has it?"
    pair = {"prompt": "Q?", "chosen": "A.", "rejected": "B."}
    assert column_roles(choose("x", [pair], None), [pair]) == {
        "prompt": "prompt", "chosen": "answer", "rejected": "refused answer"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "roles"),
    [
        ({"messages": said("Q?", "A."), "tools": [{"type": "function", "function": LAB}]}, {"tools": "tools"}),
        ({"messages": said("Q?", "A."), "functions": json.dumps([LAB])}, {"functions": "tools"}),
        ({"messages": said("Q?", "A."), "tools": ["search", "calc"]}, {"tools": "not used"}),
        ({"messages": said("Q?", "A."), "tools": "You may search."}, {"tools": "not used"}),
        ({"question": "Q?", "answer": "A.", "context": {"title": "Ti tle"}}, {"context": "not used"}),
        ({"question": "Q?", "answer": "A.", "context": ["C.", "D."]}, {"context": "prompt"}),
        ({"question": "Q?", "answer": "A.", "history": said("q", "a")}, {"history": "earlier turns"}),
        ({"question": "Q?", "answer": "A.", "generations": ["A.", LONG]}, {"generations": "not used"}),
        ({"question": "Q?", "answer": "A.", "generations": ["A.", "Q?"]}, {"generations": "messages (already there)"}),
        ({"question": "Q?", "answer": "A.", "response": "So it is."}, {"response": "not used"}),
        ({"messages": said("Q?", "A."), "answer": "It is so."}, {"answer": "not used"}),
        ({"messages": said("Q?", "A."), "answer": "A."}, {"answer": "attribute"}),
        ({"questions": ["Q?", "Other?"], "answers": ["A."]}, {"questions": "prompt (in part)", "answers": "answer"}),
        ({"messages": [USER, ANSWER | {"notes": LONG}]}, {"messages": "messages", "messages.notes": "not used"}),
        ({"prompt": "Q?", "completion": "A.", "label": True}, {"label": "label"}),
        ({"conversation": [{"human": "Q?", "assistant": "A."}]}, {"conversation": "messages"}),
        ({"question": "Q?", "answer": "A.", "label": "pediatrics"}, {"label": "attribute"}),
    ],
    ids=str,
)  # fmt: skip
def test_roles_are_those_of_the_text(row: dict[str, Any], roles: dict[str, str]) -> None:
    found = column_roles(choose("x", [row], None), [row])
    assert {name: found[name] for name in roles} == roles


@pytest.mark.parametrize(
    ("first", "late", "lost"),
    [
        ({"question": "Q?", "answer": "A.", "response": ""}, {"response": LONG}, {"response": 50}),
        ({"question": "Q?", "answer": "", "response": "A."}, {"answer": "A.", "response": LONG}, {"response": 50}),
        ({"messages": said("Q?", "A."), "input": "In"}, {"messages": said("Q?", "A.", "q", "a")}, {"input": 50}),
        ({"question": "Q?", "answer": "A."}, {"context": {"a": "b c"}}, {"context": 50}),
        ({"question": "Q?", "answer": "A."}, {"notes": [LONG]}, {"notes": 50}),
        ({"messages": [USER, ANSWER | {"notes": LONG}]}, {}, {"messages.notes": 150}),
        ({"question": "Q?", "answer": "A.", "response": ""}, {"answer": "", "response": LONG}, {}),
    ],
    ids=str,
)
def test_texts_that_are_lost_late_are_counted(
    tmp_path: Path, first: dict[str, Any], late: dict[str, Any], lost: dict[str, int]
) -> None:
    reader = open_source(write(tmp_path / "rows.jsonl", [first] * 100 + [first | late] * 50))
    assert all(isinstance(row, Parsed) for row in reader)
    assert reader.lost.counts == lost


def test_that_one_of_several_answers_is_used_is_told(tmp_path: Path) -> None:
    several = open_source(write(tmp_path / "a.jsonl", [{"questions": [["Q?", "Other?"]], "answers": ["A."]}]))
    assert several.notes == [
        "the first question and the first answer of each row are used, no other wording and no other answer"
    ]
    assert not open_source(write(tmp_path / "b.jsonl", [{"questions": [["Q?"]], "answers": ["A."]}])).notes


def test_long_texts_that_become_nothing_are_counted(tmp_path: Path) -> None:
    url = "https://x.org/" + "a" * 300
    rows = [{"question": "Q?", "answer": "A.", "passage": LONG if i % 2 else "", "url": url} for i in range(10)]
    reader = open_source(write(tmp_path / "rows.jsonl", rows))
    assert len(list(reader)) == 10
    assert reader.lost.counts == {"passage": 5}
    assert reader.example is not None
    assert reader.example.messages == [USER, ANSWER]
