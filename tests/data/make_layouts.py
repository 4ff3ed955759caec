"""Makes ``layouts/``: 50 made-up rows in each layout of the medical data that people train on and are examined with.

tests/formats/test_layout_files.py ingests them, tests/evaluation/test_evaluate.py reads the benchmarks among them.
Containers, columns, nesting and oddities are those of the real files; every word is made up here. To make them again:

    python tests/data/make_layouts.py
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(__file__).parent / "layouts"
N = 50
DRUGS = ("zinc", "insulin", "heparin", "digoxin", "iron", "morphine", "atropine", "lithium", "quinine", "aspirin")
SIGNS = ("fever", "cough", "a rash", "thirst", "pallor", "colic", "vertigo")
LETTERS = "ABCDEFGHIJ"

Rows = list[dict[str, Any]]


class Case:
    """The i-th made-up case of a ward: a question that no other file has, its options, the right one, and why."""

    def __init__(self, ward: str, i: int, n: int = 4) -> None:
        self.i = i
        self.question = f"Ward {ward}, bed {i}: {SIGNS[i % 7]} at 38.{i % 10} °C. What is given?"
        self.texts = [DRUGS[(i + j) % 10] for j in range(n)]
        self.options = dict(zip(LETTERS, self.texts, strict=False))
        self.right = i % n
        self.letter, self.answer = LETTERS[self.right], self.texts[self.right]
        self.why = f"With {SIGNS[i % 7]} it is {self.answer}."

    def lines(self, form: str = "{}. {}") -> str:
        """The question with an option a line."""
        return "\n".join([self.question, *(form.format(*one) for one in self.options.items())])

    def inline(self) -> str:
        """The question with its options in one line."""
        return f"{self.question}\nAnswer Choices: {' '.join(f'({a}) {b}' for a, b in self.options.items())}"


def cases(ward: str, n: int = 4) -> list[Case]:
    return [Case(ward, i, n) for i in range(N)]


# containers --------------------------------------------------------------------------------------------------------


def jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def packed(rows: Rows) -> bytes:
    return gzip.compress(jsonl(rows), mtime=0)


def array(value: Any, indent: int | None = None) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=indent).encode()


def columns(rows: Rows) -> bytes:
    """As the to_json of pandas writes a table."""
    return array({name: {str(i): row[name] for i, row in enumerate(rows)} for name in rows[0]})


def table(rows: Rows) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def parquet(rows: Rows) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


# pools -------------------------------------------------------------------------------------------------------------


def medquad() -> Rows:
    """White space of the XML, a question with two answers, a row twice, ids and groups that are missing."""
    rows: Rows = []
    for i in range(N - 1):
        focus = f"fever of type {8 if i == 9 else i}"
        rows.append(
            {
                "instruction": f"What are the symptoms of {focus} ?",
                "input": "",
                "output": f'\n            Mostly {SIGNS[i % 7]}.  \n            - Then "{DRUGS[i % 10]}" helps.',
                "focus": focus if i % 8 else "",
                "qtype": "symptoms",
                "source": "GARD",
                "qid": f"{i:07d}-1",
                "url": f"https://example.org/{i}",
                "document_id": f"{i:07d}" if i % 5 else None,
                "subset": "2_GARD_QA",
                "semantic_group": ("Disorders", "", None)[i % 3],
            }
        )
    return [*rows, rows[3]]


def medquad_csv() -> Rows:
    return [
        {
            "question": row["instruction"],
            "answer": row["output"],
            "source": row["source"],
            "focus_area": row["focus"],
        }
        for row in medquad()
    ]


def medmcqa_pool() -> Rows:
    return [
        {
            "id": f"{one.i:08x}-0000",
            "question": one.inline(),
            "label": [one.letter],
            "label_rationale": one.why,
            "subject_name": "Medicine",
            "topic_name": "Fevers" if one.i % 2 else None,
        }
        for one in cases("pool")
    ]


def mmlu_pro(ward: str, outputs: str | None = None) -> Rows:
    """Three to ten options; with a column of outputs also the letter of the model, which may be wrong or missing."""
    rows: Rows = []
    for i in range(N):
        one = Case(ward, i, 3 + i % 8)
        row = {
            "question_id": 6000 + i,
            "question": one.question,
            "options": one.texts,
            "answer": one.letter,
            "answer_index": one.right,
            "cot_content": "",
            "category": "health",
            "src": "ori_mmlu-virology",
        }
        if outputs:
            said = (one.letter, "A", None)[i % 3]
            row |= {"pred": said, outputs: f" Let's think. {one.why} The answer is ({said or 'none'}).\n"}
        rows.append(row)
    return rows


def pubmedqa() -> dict[str, Any]:
    return {
        str(20000000 + one.i): {
            "QUESTION": one.question,
            "CONTEXTS": [f"{one.i} were treated.", one.why],
            "LABELS": ["METHODS", "RESULTS"],
            "MESHES": ["Adult", "Fever"],
            "YEAR": "2010" if one.i % 4 else None,
            "reasoning_required_pred": "yes",
            "reasoning_free_pred": "no",
            "final_decision": ("yes", "no", "maybe")[one.i % 3],
            "LONG_ANSWER": f"All got {one.answer}.",
        }
        for one in cases("pubmed")
    }


def ultramedical() -> Rows:
    return [
        {
            "id": f"MedMCQA,{one.i}",
            "type": "Exam" if one.i % 2 else "Literature",
            "conversations": [{"from": "human", "value": one.lines()}, {"from": "gpt", "value": one.why}],
            "answer": one.letter if one.i % 2 else None,
            "score": "I would rate this question as a 7. \n\nIt is short.",
        }
        for one in cases("ultra")
    ]


def m23k() -> Rows:
    """The rows of notebooks: every second one is from before the distillation."""
    rows: Rows = []
    for one in cases("notebook"):
        row = {
            "answer_idx": one.right,
            "source": "GBaker/MedQA-USMLE-4-options",
            "metadata": str({"question": one.question, "options": one.options}),
            "prompt": one.lines(),
            "answer_letter": one.letter,
            "answer_string": one.answer,
            "qwen_7b-extracted_answer_string": "A",
            "qwen_7b-correct": one.right == 0,
        }
        if one.i % 2 == 0:
            row |= {
                "reasoning": f"Okay. {one.why}",
                "distilled_answer_string": f"{one.answer} is right.",
                "r1-correct": True,
                "domain_code": "27",
            }
        rows.append(row)
    return rows


def m23k_tokenized() -> Rows:
    return [
        {
            "answer_idx": one.right,
            "source": "made up",
            "metadata": str({"question": one.question, "options": one.texts}),
            "prompt": one.lines(),
            "answer_letter": one.letter,
            "answer_string": one.answer,
            "reasoning": one.why,
            "distilled_answer_string": f"The answer is ({one.letter}).",
            "text": f"<|im_start|>user\n{one.lines()}<|im_end|>\n<|im_start|>assistant\n{one.why}<|im_end|>\n",
        }
        for one in cases("m23k")
    ]


def huatuo() -> Rows:
    return [{"Question": one.lines(), "Complex_CoT": one.why, "Response": one.answer} for one in cases("huatuo")]


def huatuo_demo() -> Rows:
    """question and Question in one row."""
    return [
        {
            "question": one.question,
            "options": one.options,
            "answer_idx": one.letter,
            "answer": one.answer,
            "Open-ended Verifiable Question": one.question,
            "Ground-True Answer": one.answer,
            "Question": one.question,
            "Complex_CoT": one.why,
            "Response": f"The answer is ({one.letter}).",
        }
        for one in cases("demo")
    ]


def medreason() -> Rows:
    """Options are text, and every second question has none."""
    return [
        {
            "dataset_name": "made_up",
            "id_in_dataset": one.i,
            "question": one.question,
            "answer": one.answer,
            "reasoning": one.why,
            "options": "" if one.i % 2 else one.lines().replace(one.question, "Answer Choices:"),
        }
        for one in cases("reason")
    ]


def finemed_sft() -> Rows:
    return [
        {
            "text": f"A passage of a book, which nobody asked for. {one.why}",
            "instruction": one.question,
            "complexity": one.i % 10,
            "quality": 8,
            "language": "en",
            "response": one.why,
            "instruction_type": "question",
        }
        for one in cases("sft")
    ]


def messages() -> Rows:
    """One to three turns; every second one has a system turn."""
    rows: Rows = []
    for one in cases("chat"):
        turns = [{"role": "system", "content": "Be short."}] if one.i % 2 else []
        for turn in range(1 + one.i % 3):
            turns += [
                {"role": "user", "content": f"{one.question} ({turn})"},
                {"role": "assistant", "content": f"{one.answer} {turn}"},
            ]
        rows.append({"messages": turns})
    return rows


def sharegpt() -> Rows:
    return [
        {
            "id": f"sg-{one.i}",
            "conversations": [
                {"from": ("human", "gpt")[turn % 2], "value": f"{(one.question, one.answer)[turn % 2]} ({turn // 2})"}
                for turn in range(2 + 2 * (one.i % 2))
            ],
        }
        for one in cases("share")
    ]


# preferences -------------------------------------------------------------------------------------------------------


def pairs() -> Rows:
    return [
        {
            "id": f"mmlupro-{3000 + one.i}-1",
            "prompt": one.lines("({}) {}"),
            "chosen": f"{one.why} The answer is ({one.letter}).",
            "rejected": f"The answer is ({LETTERS[(one.right + 1) % 4]}).",
            "gold": one.letter,
            "chosen_pred": one.letter,
            "rejected_pred": LETTERS[(one.right + 1) % 4],
            "chosen_model": "large",
            "rejected_model": "small",
            "category": "biology",
            "question_id": 3000 + one.i,
        }
        for one in cases("pairs")
    ]


def finemed_dpo() -> Rows:
    return [
        {
            "text": one.question,
            "complexity": 7,
            "quality": 8,
            "language": "en",
            "prompt": [{"content": one.question, "role": "user"}],
            "chosen": [{"content": one.why, "role": "assistant"}],
            "rejected": [{"content": "Wait.", "role": "assistant"}],
        }
        for one in cases("dpo")
    ]


def ultrafeedback() -> Rows:
    """The prompt stands again in both dialogues."""
    rows: Rows = []
    for one in cases("feedback"):
        user = {"role": "user", "content": one.question}
        rows.append(
            {
                "prompt": one.question,
                "prompt_id": f"{one.i:064x}",
                "chosen": [user, {"role": "assistant", "content": one.why}],
                "rejected": [user, {"role": "assistant", "content": "Wait."}],
                "score_chosen": 8.5,
                "score_rejected": 3.0,
            }
        )
    return rows


# benchmarks --------------------------------------------------------------------------------------------------------


def medqa() -> Rows:
    return [
        {
            "realidx": one.i,
            "question": one.question,
            "answer": one.answer,
            "options": one.options,
            "meta_info": "step1",
            "answer_idx": one.letter,
            "metamap_phrases": ["ward", "bed"],
        }
        for one in cases("medqa")
    ]


def medqa_5options() -> Rows:
    return [
        {
            "question": one.question,
            "answer": one.answer,
            "options": one.options,
            "meta_info": "step2&3",
            "answer_idx": one.letter,
        }
        for one in cases("five", 5)
    ]


def medqa_inline() -> Rows:
    return [{"id": f"test-{one.i:05d}", "question": one.inline(), "label": [one.letter]} for one in cases("inline")]


def medmcqa_options() -> Rows:
    return [
        {
            "question": one.question,
            "realidx": f"{one.i:08x}-0000",
            "options": one.options,
            "answer_idx": one.letter,
            "answer": one.answer,
        }
        for one in cases("mcqa")
    ]


def medmcqa() -> Rows:
    """The place of the answer counts from 0."""
    return [
        {
            "id": f"{one.i:08x}-0000",
            "question": one.question,
            **dict(zip(("opa", "opb", "opc", "opd"), one.texts, strict=True)),
            "cop": one.right,
            "choice_type": "single",
            "exp": one.why if one.i % 2 else None,
            "subject_name": "Medicine",
            "topic_name": None,
        }
        for one in cases("hub")
    ]


def medxpertqa() -> Rows:
    return [
        {
            "id": f"Text-{one.i}",
            "question": one.inline(),
            "options": [{"letter": a, "content": b} for a, b in one.options.items()],
            "label": [one.letter],
            "medical_task": "Treatment",
            "body_system": "Other / NA",
            "question_type": "Reasoning",
        }
        for one in cases("expert", 10)
    ]


def medxpertqa_plain() -> Rows:
    return [
        {
            "id": f"Text-{one.i}",
            "question": one.question,
            "options": one.options,
            "label": one.letter,
            "medical_task": "Diagnosis",
            "body_system": "Skeletal",
            "question_type": "Understanding",
        }
        for one in cases("plain", 10)
    ]


def mmlu_medical() -> Rows:
    return [
        {"question": one.inline(), "label": [one.letter], "subject": ("anatomy", "medical_genetics")[one.i % 2]}
        for one in cases("mmlu")
    ]


def hle_biomed() -> Rows:
    return [
        {
            "idx": one.i,
            "question": one.question,
            "options": one.options,
            "answer": one.answer,
            "answer_idx": one.letter,
        }
        for one in cases("hle", 5)
    ]


def medbullets() -> Rows:
    return [
        {
            "link": f"https://example.org/q/{one.i}",
            "question": f'{one.question}\nHe says, "now".',
            **dict(zip(("opa", "opb", "opc", "opd"), one.texts, strict=True)),
            "answer_idx": one.letter,
            "answer": one.answer,
            "explanation": one.why,
        }
        for one in cases("bullets")
    ]


def medguide() -> Rows:
    return [
        {
            "profile": one.question,
            "prompt": one.lines(),
            "options": one.texts,
            "answer": one.letter,
            "answer_text": one.answer,
            "path": ["start", one.answer],
        }
        for one in cases("guide")
    ]


def metamedqa() -> Rows:
    """Four options and two ways out."""
    return [
        {
            "meta_info": "step1",
            "answer_idx": one.letter,
            "metamap_phrases": str(["ward", "bed"]),
            "question": one.question,
            "kind": "Unmodified",
            "answer": one.answer,
            "options": {**one.options, "E": "None of the above", "F": "I don't know or cannot answer"},
        }
        for one in cases("meta")
    ]


def files() -> dict[str, bytes]:
    """Name to contents."""
    return {
        "finemed_dpo.parquet": parquet(finemed_dpo()),
        "finemed_sft.jsonl": jsonl(finemed_sft()),
        "hle_biomed.jsonl": jsonl(hle_biomed()),
        "huatuo_o1_demo.json": array(huatuo_demo(), 2),
        "huatuo_o1_sft.json": array(huatuo(), 2),
        "m23k_rows.jsonl": jsonl(m23k()),
        "m23k_tokenized.parquet": parquet(m23k_tokenized()),
        "medbullets.csv": table(medbullets()),
        "medbullets.json": columns(medbullets()),
        "medguide.jsonl": jsonl(medguide()),
        "medmcqa.jsonl": jsonl(medmcqa()),
        "medmcqa_options.jsonl": jsonl(medmcqa_options()),
        "medmcqa_pool.jsonl": jsonl(medmcqa_pool()),
        "medqa.jsonl": jsonl(medqa()),
        "medqa_5options.jsonl": jsonl(medqa_5options()),
        "medqa_inline.jsonl": jsonl(medqa_inline()),
        "medquad.csv": table(medquad_csv()),
        "medquad_alpaca.jsonl.gz": packed(medquad()),
        "medreason.jsonl": jsonl(medreason()),
        "medxpertqa.jsonl": jsonl(medxpertqa()),
        "medxpertqa_plain.jsonl": jsonl(medxpertqa_plain()),
        "messages.jsonl": jsonl(messages()),
        "metamedqa.parquet": parquet(metamedqa()),
        "mmlu_medical.jsonl": jsonl(mmlu_medical()),
        "mmlu_pro.jsonl": jsonl(mmlu_pro("pro")),
        "mmlu_pro_traces.json": array(mmlu_pro("traces", "generated_text")),
        "mmlu_pro_traces.jsonl.gz": packed(mmlu_pro("traced", "model_outputs")),
        "mmlu_pro_traces.parquet": parquet(mmlu_pro("trace", "generated_text")),
        "pairs.jsonl.gz": packed(pairs()),
        "pubmedqa.json": array(pubmedqa(), 4),
        "sharegpt.json": array(sharegpt()),
        "ultrafeedback.jsonl": jsonl(ultrafeedback()),
        "ultramedical.json": array(ultramedical(), 2),
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, contents in files().items():
        (FOLDER / name).write_bytes(contents)
