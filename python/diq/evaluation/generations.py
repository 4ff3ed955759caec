"""Everything that models answered, in Parquet files beside the store, each whole and known by its checksum."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diq import _core
from diq.base.errors import RunFailedError
from diq.base.files import disk_errors, whole_file
from diq.base.text import amount
from diq.base.thinking import Tag
from diq.evaluation.answers import mark, scoring
from diq.evaluation.questions import Question
from diq.store.connection import WAIT_S
from diq.store.store import Store, now

log = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        pa.field("run_id", pa.int64(), nullable=False),
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("questions", pa.string(), nullable=False),
        pa.field("repeat", pa.int32(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("options", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("right", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("output", pa.string(), nullable=False),
        pa.field("ending", pa.string(), nullable=False),
        pa.field("n_output_tokens", pa.int32()),
        pa.field("problem", pa.string()),
        pa.field("scoring", pa.string(), nullable=False),
        pa.field("letter", pa.string()),
        pa.field("how", pa.string(), nullable=False),
        pa.field("step", pa.string()),
        pa.field("is_right", pa.bool_(), nullable=False),
        pa.field("is_right_strict", pa.bool_(), nullable=False),
        pa.field("answered_at", pa.timestamp("us"), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Answers:
    """Which answers are meant: those of a run to the questions of a benchmark, once over."""

    run_id: int
    benchmark: str
    questions: str
    repeat: int

    def key(self) -> dict[str, Any]:
        """For statements."""
        return {
            "run_id": self.run_id,
            "benchmark": self.benchmark,
            "questions": self.questions,
            "repeat": self.repeat,
        }


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer as it was kept, and what is needed to mark it."""

    position: int
    options: dict[str, str]
    right: str
    output: str
    ending: str


@dataclass(frozen=True, slots=True)
class Kept:
    """The answers that are kept, by position, and the number of the next part."""

    answers: dict[int, Answered]
    next_part: int


def folder_of(store: Path) -> Path:
    """The folder of a store's generations, beside it."""
    return store.with_name(f"{store.stem}.generations")


def read(store: Path, which: Answers) -> Kept:
    """What is kept of some answers; a damaged part is dropped from the index, and the log says so.

    Raises:
        StoreError: the store cannot be opened.
        RunFailedError: a part is not where it was written. It may come back, and was paid for, so it is not forgotten.
    """
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        parts = opened.rows("evaluation/list_generation_files", **which.key())
    answers: dict[int, Answered] = {}
    for part in parts:
        path = store.parent / part["path"]
        if not path.is_file():
            raise RunFailedError(
                f"answers to `{which.benchmark}` lie in `{path}`, and there is no such file",
                f"bring the folder back, which belongs beside the store; `diq check {store} --repair` forgets what is "
                "missing, and it is generated again",
            )
        problem = _problem(path, part["checksum"])
        if problem is None:
            columns = ["position", "options", "right", "output", "ending"]
            rows = pq.read_table(path, columns=columns).to_pylist()
            for row in rows:
                answers[row["position"]] = Answered(
                    row["position"], dict(row["options"]), row["right"], row["output"], row["ending"]
                )
        else:
            log.warning(
                "%s: lost in `%s` (%s), and generated again: %s",
                which.benchmark, path, problem, amount(part["n_rows"], "output"),
            )  # fmt: skip
            # a query over all Parquet files of the folder must not meet it
            path.replace(path.with_suffix(".damaged"))
            with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
                opened.run("evaluation/delete_generation_file", **which.key(), part=part["part"])
    next_part = max((one["part"] for one in parts), default=-1) + 1
    return Kept(answers, next_part)


def problems(opened: Store) -> Iterator[tuple[dict[str, Any], Path, str | None]]:
    """Every file of answers of a store: its row, where it lies, and what is wrong with it, or None."""
    for row in opened.rows("evaluation/list_all_generation_files"):
        path = opened.path.parent / row["path"]
        yield row, path, _problem(path, row["checksum"])


def forget(opened: Store, row: Mapping[str, Any]) -> None:
    """Forget a file of answers: the questions in it are asked again by the next evaluation."""
    key = {name: row[name] for name in ("run_id", "benchmark", "questions", "repeat", "part")}
    opened.run("evaluation/delete_generation_file", **key)


def _problem(path: Path, checksum: str) -> str | None:
    if not path.is_file():
        return "the file is missing"
    return None if _core.file_hash(str(path)) == checksum else "its checksum is another"


def write(
    store: Path,
    which: Answers,
    part: int,
    rows: Sequence[tuple[int, Question, str, Any]],
    *,
    n_questions: int,
    tags: Sequence[Tag] = (),
) -> list[Answered]:
    """Keep some outputs: the file appears whole, then its row in the store.

    Args:
        store: the store file.
        which: whose answers they are.
        part: number of the file.
        rows: position, question, prompt as sent and `diq.evaluation.tasks.Output` each.
        n_questions: of the benchmark.
        tags: thinking tags that a user added, as for `mark`.

    Returns:
        What was kept.

    Raises:
        RunFailedError: the disk is full or not writable.
    """
    relative = (
        Path(folder_of(store).name)
        / str(which.run_id)
        / (f"{which.benchmark}-{which.questions[:8]}-{which.repeat}-{part:05d}.parquet")
    )
    path = store.parent / relative
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        pq.write_table(_table(which, rows, tags), file, compression="zstd")
        file.flush()
        checksum = _core.file_hash(file.name)
    with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
        opened.run(
            "evaluation/insert_generation_file",
            **which.key(),
            part=part,
            path=relative.as_posix(),
            n_rows=len(rows),
            n_questions=n_questions,
            checksum=checksum,
            created_at=now(),
        )
    return [
        Answered(position, dict(question.options), question.right, _clean(output), output.ending)
        for position, question, _, output in rows
    ]


def _table(which: Answers, rows: Sequence[tuple[int, Question, str, Any]], tags: Sequence[Tag]) -> pa.Table:
    made = []
    answered_at = now()
    for position, question, prompt, output in rows:
        text = _clean(output)
        found = mark(text, question.options, question.right, tags)
        made.append(
            {
                **which.key(),
                "position": position,
                "question_id": _clean(question.question_id),
                "question": _clean(question.question),
                "options": [(letter, _clean(text)) for letter, text in question.options.items()],
                "right": question.right,
                "prompt": _clean(prompt),
                "output": text,
                "ending": output.ending,
                "n_output_tokens": output.n_tokens,
                "problem": output.problem,
                "scoring": scoring(tags),
                "letter": found.letter,
                "how": found.how,
                "step": found.step,
                "is_right": found.is_right,
                "is_right_strict": found.is_right_strict,
                "answered_at": answered_at,
            }
        )
    return pa.Table.from_pylist(made, schema=SCHEMA)


def _clean(text: str) -> str:
    """The text without lone surrogates, which Parquet cannot hold."""
    return text.encode("utf-8", "replace").decode()


def score(answers: Iterable[Answered], tags: Sequence[Tag] = ()) -> dict[str, Any]:
    """Mark answers by today's rules, with the thinking tags that a user added.

    Returns:
        The counts, accuracy and standard error of a row of the table evaluations.
    """
    marks = [(mark(one.output, one.options, one.right, tags), one.ending) for one in answers]
    n, right = len(marks), sum(one.is_right for one, _ in marks)
    accuracy = right / n
    return {
        "n": n,
        "n_right": right,
        "n_by_option": sum(one.step == "option" for one, _ in marks),
        "n_by_text": sum(one.step == "text" for one, _ in marks),
        "n_unanswered": sum(one.letter is None for one, _ in marks),
        "n_cut": sum(ending == "length" for _, ending in marks),
        "n_right_strict": sum(one.is_right_strict for one, _ in marks),
        "accuracy": accuracy,
        "standard_error": standard_error(accuracy, n),
    }


def tell_unread(what: str, n_unanswered: int, n_outputs: int) -> None:
    """Say it where most outputs could not be read: their accuracy is about the reading, not about the model."""
    if 2 * n_unanswered <= n_outputs:
        return
    some = "none" if n_unanswered == n_outputs else f"only {n_outputs - n_unanswered:,}"
    log.warning(
        "%s: %s of %s could be read as a choice, so the accuracy says little about the model: look at some "
        "(docs/answers.md has what is read; --thinking-tags adds tags, --max-tokens room)",
        what, some, amount(n_outputs, "output"),
    )  # fmt: skip


def standard_error(accuracy: float, n: int) -> float:
    """How far an accuracy over ``n`` questions would move with other questions of their kind; 0 for one question."""
    return float((accuracy * (1 - accuracy) / (n - 1)) ** 0.5) if n > 1 else 0.0


def record(store: Path, which: Answers, numbers: dict[str, Any], tags: Sequence[Tag] = ()) -> None:
    """Put numbers into the store, in the place of those of the same rules."""
    with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
        opened.run("evaluation/delete_evaluation", **which.key(), scoring=scoring(tags))
        opened.run("evaluation/insert_evaluation", **which.key(), scoring=scoring(tags), **numbers, created_at=now())
