"""How often a model solves each question of a dataset itself: the difficulty of a sample for that model.

Answers are drawn and kept as `diq evaluate` does it, in blocks of samples; a block whose answers are complete is scored
before the next begins. The share of right ones is a text score, and 5 - 4 times it a difficulty (``overall``).
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from diq.base.errors import UsageError
from diq.base.options import verb
from diq.base.sample import Message
from diq.base.text import amount, counted
from diq.base.thinking import Tag
from diq.baselines.text_scores import INSERT, text_job, text_rows
from diq.evaluation import generations
from diq.evaluation.answerers import Answerer
from diq.evaluation.answers import read_tags, scoring
from diq.evaluation.benchmarks import Benchmark
from diq.evaluation.evaluate import Evaluation, answerer_of
from diq.evaluation.generations import Answers
from diq.evaluation.options import ScorePassRateOptions
from diq.evaluation.questions import Question, QuestionSet
from diq.evaluation.verify import VERSION, is_right, question_of
from diq.scoring import summary as shards
from diq.scoring.job import ScoreJob, cached, computing, finish, open_run, read_dataset, read_samples
from diq.scoring.summary import ScoreSummary
from diq.store.connection import WAIT_S
from diq.store.store import Store

log = logging.getLogger(__name__)

KIND = "pass_rate"
NO_ROOM = "the question leaves no room for an answer of --max-tokens"
# verifiable samples of a block: what a kill repeats is never more than a window of answers
BLOCK = 256

_POOL = Benchmark(KIND, KIND, None)


@verb(ScorePassRateOptions)
def score_pass_rate(options: ScorePassRateOptions) -> ScoreSummary:
    """Draw answers to the verifiable questions of a dataset, and store what share of them is right.

    Raises:
        UsageError: unknown names, an empty dataset, settings that do not go together, or a server that refuses.
        ModelError: the model or adapter cannot be used.
        RunFailedError: a disk is full, memory is too small, or the server answers nothing; what came is kept.
        StoreError: the store is held by another process.
    """
    if options.backend != "server" and options.temperature is None:
        raise UsageError("only a server has a temperature of its own", "give --temperature a number")
    data = read_dataset(options.store_file, options.dataset)
    tags = read_tags(options.thinking_tags)
    with contextlib.closing(answerer_of(options)) as answerer:
        settings = answerer.protocol.settings() | {
            "samples": options.samples, "verify": VERSION, "scoring": scoring(tags),
        }  # fmt: skip
        job = text_job(options, data, kind=KIND, method=answerer.backend, model_id=answerer.model_id, settings=settings)
        difficulty = text_job(
            options, data, kind="difficulty", method=KIND, model_id=answerer.model_id,
            settings={"pass_rate": job.fingerprint},
        )  # fmt: skip
        summary = cached(job)
        if summary is None:
            with computing(job, f"{job.fingerprint[:12]}-{data['dataset_id']}"):
                summary = cached(job)
                if summary is None:
                    summary = _Scoring(options, job, answerer, tags).run()
        summary.details |= {
            "model": answerer.name,
            "backend": answerer.backend,
            "samples": options.samples,
            "temperature": options.temperature,
            "difficulty_run": _as_difficulty(job, difficulty, summary.run_id),
            "folder": str(generations.folder_of(options.store_file)),
        }
    return summary


def _as_difficulty(job: ScoreJob, difficulty: ScoreJob, run_id: int) -> int:
    """Bring the difficulty run of a pass rate up to date with it; returns its number."""
    made = open_run(difficulty, None, {"pass_rate_run": run_id})
    with Store(job.store, wait_s=WAIT_S) as opened, opened.transaction():
        opened.run("evaluation/insert_pass_rate_difficulty", run_id=run_id, difficulty_run=made)
        state = opened.row("evaluation/state_of_run", run_id=run_id, dataset_id=job.data["dataset_id"])
        if state is not None and state["state"] == "sealed":
            opened.seal(made, job.data["dataset_id"])
    return made


@dataclass(frozen=True, slots=True)
class _Asked:
    """A verifiable sample of a block."""

    sample_id: bytes
    question: Question


class _Scoring:
    """One call that has something to do."""

    def __init__(self, options: ScorePassRateOptions, job: ScoreJob, answerer: Answerer, tags: tuple[Tag, ...]) -> None:
        self._options, self._job, self._answerer, self._tags = options, job, answerer, tags
        self._no_reply = Counter[str]()
        self._n_left = 0
        self._part: tuple[int, list[list[Message]]] = -1, []

    def run(self) -> ScoreSummary:
        """Score what the run lacks, block by block."""
        job = self._job
        started = time.monotonic()
        with Store(job.store, wait_s=WAIT_S) as opened, opened.transaction():
            self._answerer.add_models(opened)
        self._run_id = open_run(job, None, self._answerer.environment())
        summary = ScoreSummary(self._run_id, job.data["name"], job.data["n_samples"])
        self._evaluation = Evaluation(
            job.store, self._run_id, self._answerer, self._options.samples, self._tags, self._options.progress
        )
        for block, refused in self._blocks():
            summary.n_scored += self._score(block, refused)
        summary.n_cached = summary.n_samples - summary.n_scored - self._n_left
        if self._n_left:
            log.warning(
                "too few replies (%s) to score %s: the same command asks for the rest",
                counted(self._no_reply), amount(self._n_left, "sample"),
            )  # fmt: skip
        finish(job, summary, complete=not self._n_left)
        summary.seconds = time.monotonic() - started
        return summary

    def _blocks(self) -> Iterator[tuple[list[_Asked], dict[bytes, str]]]:
        """The samples that the run lacks, some verifiable ones at a time, with those that cannot be verified.

        Blocks are cut by what is missing: after a kill the first one is that which was begun, with the same answers.
        """
        with Store(self._job.store, read_only=True, wait_s=WAIT_S) as opened:
            samples = read_samples(opened, self._job, self._run_id)
        block: list[_Asked] = []
        refused: dict[bytes, str] = {}
        for place in np.flatnonzero(samples.missing):
            key = samples.ids[place].tobytes()
            messages = self._messages(samples.positions, int(place))
            found = question_of(str(uuid.UUID(bytes=key)), messages)
            if isinstance(found, str):
                refused[key] = found
            else:
                block.append(_Asked(key, found))
            if len(block) == BLOCK:
                yield block, refused
                block, refused = [], {}
        if block or refused:
            yield block, refused

    def _messages(self, positions: npt.NDArray[np.int64], place: int) -> list[Message]:
        """A sample, from a part of the dataset that is read at once; the store is free between two parts."""
        first = place - place % shards.READ_ROWS
        if self._part[0] != first:
            last = min(first + shards.READ_ROWS, len(positions)) - 1
            between = {"first": int(positions[first]), "last": int(positions[last])}
            with Store(self._job.store, read_only=True, wait_s=WAIT_S) as opened:
                rows = opened.rows("store/messages_in_order", dataset_id=self._job.data["dataset_id"], **between)
            self._part = first, [orjson.loads(row["messages"]) for row in rows]
        return self._part[1][place - first]

    def _score(self, block: list[_Asked], refused: dict[bytes, str]) -> int:
        """Ask what a block lacks and store its pass rates; returns how many samples have a row now."""
        block = self._askable(block, refused)
        right = Counter[int]()
        n_answers = Counter[int]()
        if block:
            asked = QuestionSet(_POOL, (self._job.data["name"],), tuple(one.question for one in block))
            for repeat in range(self._options.samples):
                which = Answers(self._run_id, KIND, asked.fingerprint, repeat)
                kept = generations.read(self._job.store, which)
                self._no_reply.update(self._evaluation.generate(asked, which, kept))
                n_answers.update(kept.answers.keys())
                right.update(
                    place
                    for place, one in kept.answers.items()
                    if is_right(one.output, block[place].question, self._tags)
                )
        k = self._options.samples
        whole = [place for place in range(len(block)) if n_answers[place] == k]
        self._n_left += len(block) - len(whole)
        rows = [
            text_rows(self._run_id, pa.array(list(refused), pa.binary(16)), reasons=list(refused.values())),
            text_rows(
                self._run_id,
                pa.array([block[place].sample_id for place in whole], pa.binary(16)),
                value=[right[place] / k for place in whole],
                reasons=[None] * len(whole),
            ),
        ]
        with Store(self._job.store, wait_s=WAIT_S) as opened, opened.transaction():
            opened.insert(INSERT, pa.concat_tables(rows))
        return len(refused) + len(whole)

    def _askable(self, block: Sequence[_Asked], refused: dict[bytes, str]) -> list[_Asked]:
        """The samples of a block whose prompts the model takes; the others are refused."""

        def problem(samples: Sequence[_Asked]) -> str | None:
            try:
                self._answerer.check([QuestionSet(_POOL, (), tuple(one.question for one in samples))])
            except UsageError as error:
                return error.message
            return None

        if not block or problem(block) is None:
            return list(block)
        found = []
        for one in block:
            if problem([one]) is None:
                found.append(one)
            else:
                refused[one.sample_id] = NO_ROOM
        return found
