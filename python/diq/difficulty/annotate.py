"""Stage: have a language model rate the difficulty of a dataset's questions, with its reasons.

What is asked about is the question, not the sample: samples that share a question share its ratings, within a dataset
and between datasets. Questions are asked in an order drawn from the seed, so that whatever is there when one stops is
a random part of the dataset, and a larger sample holds the smaller one.

Source: arXiv 2508.01450, section 3.2 and appendix C.1.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from diq.base.arrow import numbers
from diq.base.config import DIFFICULTY_DIMENSIONS, LIKERT_LEVELS
from diq.base.draws import number_of
from diq.base.errors import UsageError
from diq.base.options import verb
from diq.base.sample import prompt_text
from diq.base.summary import Summary
from diq.difficulty.options import AnnotateOptions
from diq.judging.ask import (
    Answered,
    AskSummary,
    Item,
    LazyItems,
    ask_missing,
    find_run,
    make_items,
    missing_places,
    open_run,
)
from diq.judging.rubrics import load_rubric
from diq.store.connection import WAIT_S
from diq.store.store import Store

log = logging.getLogger(__name__)

KIND, METHOD = "difficulty", "annotation"

NO_QUESTION = "there is no question to rate"
# samples that are read, and pairs that are written, at once
_ROWS = 10_000
# what a token of a prompt is taken for before a server has counted it
_CHARACTERS_A_TOKEN = 4


@dataclass(repr=False, slots=True)
class AnnotateSummary(Summary):
    """What an annotation did.

    Attributes:
        dataset: name of the dataset.
        model: name of the model.
        n_samples: samples of the dataset.
        n_questions: distinct questions of the dataset, without empty ones; of the drawn part with ``sample``.
        n_annotated: samples of the dataset with a rating.
        n_no_score: samples of the dataset without one, whose reason is in the store.
        n_missing: samples of the dataset that were not rated.
        is_sealed: whether no sample is missing, so that the ratings may be selected by.
        levels: dimension to the samples at level 1 to 5.
        reasons: how many samples have no rating, by reason.
        asked: what was asked and came back; None for a dry run.
        list_failures: a command that lists the replies that were not read.
        n_to_ask: questions that would be asked about (dry run).
        prompt_tokens: of their prompts, estimated as a quarter of the characters (dry run).
        cost_prompts: price of these tokens; None without a price (dry run).
        cost_limit: price with every reply as long as allowed; None without a price (dry run).
    """

    dataset: str
    model: str
    n_samples: int
    n_questions: int
    n_annotated: int = 0
    n_no_score: int = 0
    n_missing: int = 0
    is_sealed: bool = False
    levels: dict[str, list[int]] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    asked: AskSummary | None = None
    list_failures: str = ""
    n_to_ask: int | None = None
    prompt_tokens: int | None = None
    cost_prompts: float | None = None
    cost_limit: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``; without what does not apply."""
        found = asdict(self)
        absent = ("asked", "levels", "reasons", "list_failures") if self.asked is None else _DRY_RUN
        return {name: value for name, value in found.items() if name not in absent}


_DRY_RUN = ("n_to_ask", "prompt_tokens", "cost_prompts", "cost_limit")


@verb(AnnotateOptions)
def annotate(options: AnnotateOptions) -> AnnotateSummary:
    """Have the questions of a dataset rated that the store has no rating of.

    Raises:
        UsageError: an unknown name, an empty dataset; the server refuses the key, or knows no such model.
        RunFailedError: the server is down or stopped answering; what came is in the store.
    """
    store, server = options.store_file, options.server
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        data = opened.dataset(options.dataset)
    if data["n_samples"] == 0:
        raise UsageError(f"the dataset `{options.dataset}` has no samples", "see `diq sql 'from rejects'`")
    rubric = load_rubric("difficulty")
    questions, blank = read_questions(store, data["dataset_id"], options.sample, options.seed)
    items = _Items(store, questions)
    summary = AnnotateSummary(options.dataset, server.model, data["n_samples"], len(items))
    if options.dry_run:
        known = find_run(store, rubric, server, kind=KIND, method=METHOD)
        places = list(missing_places(store, known, items, retry_unreadable=options.retry_unreadable))
        # the prompt around a question is the same for each
        around = sum(len(one["content"]) for one in rubric.messages("")) * len(places)
        summary.n_to_ask = len(places)
        summary.prompt_tokens = (around + items.count_characters(places)) // _CHARACTERS_A_TOKEN
        summary.cost_prompts = server.cost(summary.prompt_tokens, 0)
        summary.cost_limit = server.cost(summary.prompt_tokens, len(places) * server.max_tokens)
        return summary
    run_id = open_run(store, rubric, server, kind=KIND, method=METHOD)
    _start(store, run_id, data["dataset_id"], questions, blank)
    summary.asked = ask_missing(
        store,
        run_id,
        rubric,
        items,
        server,
        also=partial(_add_scores, run_id, questions, options.retry_unreadable),
        retry_unreadable=options.retry_unreadable,
        progress=options.progress,
    )
    _finish(store, run_id, data, summary)
    return summary


# questions ---------------------------------------------------------------------------------------------------------


def read_questions(store: Path, dataset_id: int, sample: int | None, seed: int) -> tuple[pa.Table, list[str]]:
    """The questions of a dataset in the order of asking.

    Args:
        store: the store file.
        dataset_id: the dataset.
        sample: distinct questions to draw; None: all.
        seed: of the draw and the order; each question's place comes from a hash of the seed and the question alone.

    Returns:
        A table with a row for each sample, sorted by ``place``, so that samples with one question (one ``item_id``)
        stand together; and the ids of samples whose question is empty.
    """
    parts: list[pa.Table] = []
    blank: list[str] = []
    with (
        Store(store, read_only=True, wait_s=WAIT_S) as opened,
        opened.batches("difficulty/prompts_of_dataset", rows=_ROWS, dataset_id=dataset_id) as batches,
    ):
        for batch in batches:
            ids = batch.column("sample_id").to_pylist()
            texts = [prompt_text(orjson.loads(messages)) for messages in batch.column("messages").to_pylist()]
            blank += [one for one, text in zip(ids, texts, strict=True) if not text.strip()]
            asked = [(one, text) for one, text in zip(ids, texts, strict=True) if text.strip()]
            parts.append(_table([one for one, _ in asked], make_items([(text, None) for _, text in asked]), seed))
            # of a large dataset only the part that may be drawn is kept in memory
            if sample is not None and sum(map(len, parts)) > max(_ROWS, 2 * len(parts[0])):
                parts = [_draw(pa.concat_tables(parts), sample)]
    return _draw(pa.concat_tables(parts), sample), blank


def _table(sample_ids: Sequence[str], items: Sequence[Item], seed: int) -> pa.Table:
    places = [number_of(f"{seed}:{item.item_id}", n_bytes=8) for item in items]
    return pa.table(
        {
            "place": pa.array(places, pa.uint64()),
            "item_id": pa.array([item.item_id for item in items], pa.string()),
            "sample_id": pa.array(sample_ids, pa.string()),
            "characters": pa.array([len(item.question) for item in items], pa.uint32()),
        }
    )


def _draw(questions: pa.Table, sample: int | None) -> pa.Table:
    """The rows sorted, those of the first ``sample`` questions."""
    found = questions.sort_by([("place", "ascending"), ("item_id", "ascending"), ("sample_id", "ascending")])
    found = found.combine_chunks()
    starts = _starts(found)
    return found if sample is None or sample >= len(starts) else found.slice(0, int(starts[sample]))


def _starts(questions: pa.Table) -> Any:
    """Row of the first sample of each question, int64 ``[n]``."""
    ids = questions.column("item_id")
    if len(ids) == 0:
        return np.empty(0, np.int64)
    changes = numbers(pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1)))
    return np.flatnonzero(np.concatenate([[True], changes]))


class _Items(LazyItems):
    """The distinct questions; their texts stay in the store."""

    def __init__(self, store: Path, questions: pa.Table) -> None:
        self._store = store
        self._rows = questions.take(_starts(questions))

    def __len__(self) -> int:
        return len(self._rows)

    def item_ids(self, first: int, last: int) -> list[str]:
        return list(self._rows.column("item_id").slice(first, last - first).to_pylist())

    def load(self, places: Sequence[int]) -> list[Item]:
        rows = self._rows.take(pa.array(places, pa.int64()))
        ids, items = rows.column("sample_id").to_pylist(), rows.column("item_id").to_pylist()
        with Store(self._store, read_only=True, wait_s=WAIT_S) as opened:
            found = opened.arrow("difficulty/messages_of_samples", sample_ids=ids)
        texts = dict(zip(found.column("sample_id").to_pylist(), found.column("messages").to_pylist(), strict=True))
        return [
            Item(item_id, prompt_text(orjson.loads(texts[one])), None) for one, item_id in zip(ids, items, strict=True)
        ]

    def count_characters(self, places: Sequence[int]) -> int:
        """Of all the questions at some places."""
        return pc.sum(self._rows.column("characters").take(pa.array(places, pa.int64()))).as_py() or 0


# rows --------------------------------------------------------------------------------------------------------------


def _start(store: Path, run_id: int, dataset_id: int, questions: pa.Table, blank: Sequence[str]) -> None:
    """Write the rows that need no asking, and mark the run open on the dataset where more are missing."""
    empty = {one: pa.array([None] * len(blank), pa.float64()) for one in DIFFICULTY_DIMENSIONS}
    levels = {f"{one}_level": pa.array([None] * len(blank), pa.uint8()) for one in DIFFICULTY_DIMENSIONS}
    without = pa.table(
        {
            "run_id": pa.array([run_id] * len(blank), pa.int64()),
            "sample_id": pa.array(blank, pa.string()),
            **empty,
            **levels,
            "reason": pa.array([NO_QUESTION] * len(blank), pa.string()),
        }
    )
    with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
        opened.insert("difficulty/insert_difficulty_scores", without)
        for rows in _slices(questions):
            opened.insert("difficulty/insert_annotated_difficulty", rows, run_id=run_id)
        if _n_missing(opened, run_id, dataset_id):
            opened.start_scoring(run_id, dataset_id)


def _slices(questions: pa.Table) -> Iterator[pa.Table]:
    for first in range(0, len(questions), _ROWS):
        yield questions.slice(first, _ROWS).select(["sample_id", "item_id"])


def _add_scores(
    run_id: int, questions: pa.Table, retry_unreadable: bool, opened: Store, answered: list[Answered]
) -> None:
    """Give all samples of some questions their ratings, or the reason why there are none."""
    ids = pa.array([one.item.item_id for one in answered], pa.string())
    rows = questions.filter(pc.is_in(questions.column("item_id"), value_set=ids))
    opened.insert("difficulty/insert_annotated_difficulty", rows.select(["sample_id", "item_id"]), run_id=run_id)
    if retry_unreadable:
        opened.run("difficulty/update_unread_difficulty", run_id=run_id)


def _n_missing(opened: Store, run_id: int, dataset_id: int) -> int:
    (found,) = opened.rows("difficulty/count_missing_difficulty", run_id=run_id, dataset_id=dataset_id)
    return int(found["n"])


def _finish(store: Path, run_id: int, data: dict[str, Any], summary: AnnotateSummary) -> None:
    """Seal the run on the dataset if no sample is missing, and count what there is."""
    dataset_id = data["dataset_id"]
    with Store(store, wait_s=WAIT_S) as opened:
        summary.n_missing = _n_missing(opened, run_id, dataset_id)
        summary.is_sealed = summary.n_missing == 0
        if summary.is_sealed:
            with opened.transaction():
                opened.seal(run_id, dataset_id)
        for row in opened.rows("store/difficulty_reasons", run_id=run_id, dataset_id=dataset_id):
            summary.reasons[row["reason"]] = row["n"]
        summary.levels = {dimension: [0] * LIKERT_LEVELS for dimension in DIFFICULTY_DIMENSIONS}
        for row in opened.rows("difficulty/levels_of_run", run_id=run_id, dataset=data["name"]):
            summary.levels[row["dimension"]][row["level"] - 1] = row["n"]
    summary.n_no_score = sum(summary.reasons.values())
    summary.n_annotated = summary.n_samples - summary.n_no_score - summary.n_missing
    summary.list_failures = (
        f'diq sql "from replies where run_id = {run_id} '
        'qualify attempt = max(attempt) over (partition by item_id) and problem is not null"'
    )
