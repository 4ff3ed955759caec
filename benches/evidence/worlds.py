"""Pools of real text with planted noise, validation sets, and held-out sets that no score sees.

Three worlds: MedQuAD (long answers of health institutes), MedMCQA with a human rationale, and traces of six models on
MMLU-Pro's questions of health and biology, of which some are wrong by nature and whose difficulty is known: how many of
the six models got the question wrong. A question is in one part alone (pool, validation, held out, or the text that the
model is made of), by a hash of its text.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

NAMES = ("medquad", "medmcqa", "traces")
# of the pool: answers of other questions, answers that end early, samples of another field
WRONG, CUT, OFF_TOPIC = 0.10, 0.10, 0.05
_MOST_WORDS = 96
_VALIDATION = 48


@dataclass(frozen=True)
class Row:
    """One question with an answer."""

    question: str
    answer: str
    task: str
    kind: str = "clean"
    level: float | None = None

    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.question}, {"role": "assistant", "content": self.answer}]


@dataclass(frozen=True)
class World:
    """A pool and what it is measured by.

    Attributes:
        pool: samples to select from.
        validation: samples of each task that scores may see.
        held_out: samples of each task that none sees.
        rest: samples that the model may be made of.
    """

    name: str
    pool: list[Row]
    validation: dict[str, list[Row]]
    held_out: dict[str, list[Row]]
    rest: list[Row]


def make_world(name: str, data: Path, *, size: int, seed: int = 0) -> World:
    """A world of the data pack, with so many samples in the pool at most."""
    rows, tasks = _READERS[name](data)
    rng = random.Random(f"{name}/{seed}")
    by_part: dict[str, list[Row]] = {"pool": [], "validation": [], "rest": []}
    for row in rows:
        share = _share(row.question)
        by_part["validation" if share < 0.15 else "pool" if share < 0.15 + _POOL_SHARE[name] else "rest"].append(row)
    good = {task: [one for one in by_part["validation"] if one.task == task and one.kind == "clean"] for task in tasks}
    validation, held_out = {}, {}
    for task, found in good.items():
        questions = sorted({one.question for one in found}, key=_share)
        cut = set(questions[: len(questions) // 2])
        for part, into in ((cut, validation), (set(questions) - cut, held_out)):
            mine = [one for one in found if one.question in part]
            into[task] = rng.sample(mine, min(_VALIDATION, len(mine)))
    pool = by_part["pool"]
    rng.shuffle(pool)
    return World(name, _noisy(pool[:size], list(_off_topic(data)), rng), validation, held_out, by_part["rest"])


def _noisy(pool: list[Row], others: list[Row], rng: random.Random) -> list[Row]:
    """The pool with planted noise; what is wrong by nature stays as it is."""
    clean = [i for i, row in enumerate(pool) if row.kind == "clean"]
    rng.shuffle(clean)
    n = len(pool)
    n_wrong, n_cut, n_off = (int(share * n) for share in (WRONG, CUT, OFF_TOPIC))
    wrong, cut, off = clean[:n_wrong], clean[n_wrong : n_wrong + n_cut], clean[n_wrong + n_cut :][:n_off]
    answers = [pool[i].answer for i in wrong]
    made = list(pool)
    for i, answer in zip(wrong, answers[1:] + answers[:1], strict=True):
        made[i] = Row(pool[i].question, answer, pool[i].task, "wrong answer", pool[i].level)
    for i in cut:
        words = pool[i].answer.split()
        short = " ".join(words[: max(3, len(words) // 5)])
        made[i] = Row(pool[i].question, short, pool[i].task, "cut answer", pool[i].level)
    for i, other in zip(off, rng.sample(others, n_off), strict=True):
        made[i] = Row(other.question, other.answer, "", "off topic", pool[i].level)
    return made


def _share(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big") / 2**56


def _clipped(text: str) -> str:
    words = text.split()
    return " ".join(words[:_MOST_WORDS])


# readers -----------------------------------------------------------------------------------------------------------

_POOL_SHARE = {"medquad": 0.25, "medmcqa": 0.65, "traces": 0.6}


def _medquad(data: Path) -> tuple[list[Row], tuple[str, ...]]:
    rows = {}
    with gzip.open(data / "raw/medquad/medquad_alpaca.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            one = json.loads(line)
            rows[one["instruction"]] = Row(one["instruction"], _clipped(one["output"]), one["qtype"])
    return [*rows.values()], ("treatment", "symptoms")


def _medmcqa(data: Path) -> tuple[list[Row], tuple[str, ...]]:
    rows = []
    with (data / "raw/medmcqa_rationale/medmcqa_pool.jsonl").open(encoding="utf-8") as file:
        for line in file:
            one = json.loads(line)
            answer = f"{_clipped(one['label_rationale'])} The answer is ({one['label'][0]})."
            rows.append(Row(one["question"], answer, "medmcqa"))
    return rows, ("medmcqa",)


def _trace_files(data: Path) -> Iterator[list[dict[str, Any]]]:
    folder = data / "raw/mmlu_pro_traces"
    for path in sorted(folder.iterdir()):
        if path.name.startswith("offdomain"):
            continue
        yield _rows_of(path)


def _rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        text = file.read()
    return json.loads(text) if text.lstrip().startswith("[") else [json.loads(one) for one in text.splitlines() if one]


def _trace(one: dict[str, Any], level: float | None) -> Row | None:
    output = one.get("model_outputs") or one.get("generated_text")
    if not output:
        return None
    options = "\n".join(f"({chr(65 + i)}) {option}" for i, option in enumerate(one["options"]))
    kind = "clean" if one["pred"] == one["answer"] else "wrong by nature"
    words = output.split()
    # the end of a trace holds its answer
    text = " ".join(words[-_MOST_WORDS:])
    return Row(f"{one['question']}\n{options}", text, one["category"], kind, level)


def _traces(data: Path) -> tuple[list[Row], tuple[str, ...]]:
    files = list(_trace_files(data))
    wrong: dict[int, list[bool]] = {}
    for rows in files:
        for one in rows:
            wrong.setdefault(one["question_id"], []).append(one["pred"] != one["answer"])
    # 1 where all six models know it, 5 where none does
    levels = {key: 1 + 4 * sum(found) / len(found) for key, found in wrong.items()}
    made = (_trace(one, levels[one["question_id"]]) for rows in files for one in rows)
    return [one for one in made if one is not None], ("health", "biology")


def _off_topic(data: Path) -> Iterator[Row]:
    for one in _rows_of(data / "raw/mmlu_pro_traces/offdomain_DeepSeek-Coder-V2.jsonl.gz"):
        row = _trace(one, None)
        if row is not None:
            yield row


_READERS: dict[str, Callable[[Path], tuple[list[Row], tuple[str, ...]]]] = {
    "medquad": _medquad,
    "medmcqa": _medmcqa,
    "traces": _traces,
}


def text_for_the_model(worlds: list[World], data: Path) -> list[Row]:
    """Samples of no pool, validation or held-out set: what the small model is made of."""
    rows = [row for world in worlds for row in world.rest]
    found = json.loads((data / "raw/pubmedqa/ori_pqal_pool.json").read_text(encoding="utf-8"))
    rows += [Row(one["QUESTION"], _clipped(" ".join(one["CONTEXTS"])), "pubmedqa") for one in found.values()]
    kept = {
        row.question
        for world in worlds
        for part in (world.pool, *world.validation.values(), *world.held_out.values())
        for row in part
    }
    with (data / "raw/medquad/medquad_qa_1000.csv").open(encoding="utf-8", newline="") as file:
        made = [Row(one["question"], _clipped(one["answer"]), "medquad") for one in csv.DictReader(file)]
    return rows + [row for row in made if row.question not in kept]
