"""Stage: have a language model judge the reasoning of two groups of texts, and say how they differ.

The groups (arms) are samples of a selection against samples that it did not take, or the outputs of models for the same
questions. The judge sees a question and an answer and never where they come from; the texts of all arms are asked about
in one shuffled order, and a text that is in two arms once.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from diq.base.draws import number_of
from diq.base.errors import InputError, RunFailedError, UsageError
from diq.base.fingerprint import canonical_json, fingerprint_of
from diq.base.options import verb
from diq.base.sample import Message, inline_reasoning, prompt_text
from diq.base.summary import Summary
from diq.base.text import amount, counted, named_values
from diq.formats import first_rows
from diq.formats.rows import BadRow
from diq.formats.sources import find_sources
from diq.judging.ask import AskSummary, Item, ask_missing, make_items, open_run
from diq.judging.options import OUTPUT_COLUMNS, QUESTION_COLUMNS, JudgeOptions
from diq.judging.rubrics import Rubric, load_rubric
from diq.judging.statistics import CONFIDENCE, Scores, difference_of, mean_of
from diq.store.connection import WAIT_S
from diq.store.store import Store, now

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Text:
    """A text of an arm; ``key`` is the same for all answers to a question."""

    item: Item
    sample_id: str | None
    key: str


@dataclass(slots=True)
class _Arm:
    """A group of texts.

    Attributes:
        name: the judge never sees it.
        source: what identifies it in the comparison's config.
        texts: what was drawn.
        counts: rows of an outputs file, by what became of them.
    """

    name: str
    source: dict[str, Any]
    texts: list[_Text] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, repr=False, slots=True)
class Judgment(Summary):
    """What a comparison found.

    Attributes:
        comparison_id: number in the store.
        name: given by the user, or None.
        run_id: run that judged.
        rubric: ``reasoning`` or ``clinical``.
        model: the judge.
        seed: of the draw and the order.
        n_target: texts an arm that were asked for.
        is_paired: whether all arms answer the same questions.
        confidence: of the intervals, 0.95.
        arms: for each arm its name and source, ``n_drawn``, ``n_judged``, ``n_unreadable`` and ``n_no_reply``, and for
            a file of outputs what became of its rows.
        n_shared: texts that are in more than one arm.
        scores: dimension to arm to the fields of `diq.judging.statistics.Mean`.
        differences: for each dimension and pair of arms ``dimension``, ``first``, ``second`` and the fields of
            `diq.judging.statistics.Difference`.
        asked: what was asked in this call.
    """

    comparison_id: int
    name: str | None
    run_id: int
    rubric: str
    model: str
    seed: int
    n_target: int
    is_paired: bool
    confidence: float
    arms: list[dict[str, Any]]
    n_shared: int
    scores: dict[str, dict[str, dict[str, Any]]]
    differences: list[dict[str, Any]]
    asked: AskSummary


@verb(JudgeOptions)
def judge(options: JudgeOptions) -> Judgment:
    """Judge texts of two or more arms by a rubric, and compare the arms.

    The draw goes by a hash of seed and sample (or question), so a larger one contains the smaller, and what was judged
    is read from the store.

    Raises:
        UsageError: unknown names, fewer than two arms, nothing to draw, or a server that refuses.
        InputError: a file of outputs lacks a column.
        RunFailedError: the server is down, or nothing could be read from its replies.
    """
    store, seed, is_paired = options.store_file, options.seed, bool(options.outputs)
    if (options.selection is None) != is_paired:
        raise UsageError(
            "a selection and outputs were given" if is_paired else "nothing to judge was given",
            "give --selection NAME for samples, or --outputs NAME=FILE twice for the outputs of models",
        )
    if options.selection is not None:
        against = "rest" if options.against is None else str(options.against)
        arms = _draw_samples(store, str(options.selection), against, options.sample, seed)
    else:
        arms = _draw_outputs(options)
        if not store.exists():
            log.info("making the store `%s`", store)
            Store(store, create=True).close()
    rubric = load_rubric(options.rubric)
    run_id = open_run(store, rubric, options.server, kind="judgment", method=options.rubric)
    items = _shuffled(arms, seed)
    comparison_id = _record(
        store, run_id, arms, items, sample=options.sample, seed=seed, is_paired=is_paired, name=options.name
    )
    asked = ask_missing(
        store,
        run_id,
        rubric,
        items,
        options.server,
        retry_unreadable=options.retry_unreadable,
        progress=options.progress,
    )
    found = _read(store, run_id, items)
    counts = [_count(arm, found) for arm in arms]
    _warn(counts, asked)
    scores, differences = _measure(arms, rubric, found, is_paired=is_paired)
    judgment = Judgment(
        comparison_id=comparison_id,
        name=options.name,
        run_id=run_id,
        rubric=options.rubric,
        model=options.server.model,
        seed=seed,
        n_target=options.sample,
        is_paired=is_paired,
        confidence=CONFIDENCE,
        arms=counts,
        n_shared=_shared(arms),
        scores=scores,
        differences=differences,
        asked=asked,
    )
    kept = {key: value for key, value in judgment.to_dict().items() if key not in ("asked", "comparison_id", "name")}
    with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
        opened.run("judging/update_comparison", comparison_id=comparison_id, name=options.name, result=json.dumps(kept))
    return judgment


# samples -------------------------------------------------------------------------------------------------------------


def _draw_samples(store: Path, selection: str, against: str, n: int, seed: int) -> list[_Arm]:
    """The arms of a selection and of what it is compared with."""
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        first = _find_selection(opened, selection)
        drawn = [_draw(opened, first, True, n, seed)]
        names = [first["name"]]
        sources = [_selection_source(first)]
        if against in ("rest", "random"):
            drawn.append(_draw(opened, first, None if against == "random" else False, n, seed))
            names.append(against)
            sources.append({"kind": against, "of": first["selection_id"], "dataset": first["dataset"]})
        else:
            second = _find_selection(opened, against)
            if second["selection_id"] == first["selection_id"]:
                raise UsageError(
                    f"`{selection}` and `{against}` are the same selection, {first['selection_id']} ({first['name']})",
                    "name another one, or `rest` or `random`",
                )
            drawn.append(_draw(opened, second, True, n, seed))
            names.append(second["name"])
            sources.append(_selection_source(second))
    if names[0] == names[1]:
        # two selections of one name, or one that is called `rest`
        names = [
            f"{name} ({source['selection_id']})" if source["kind"] == "selection" else name
            for name, source in zip(names, sources, strict=True)
        ]
    arms = []
    for name, source, rows in zip(names, sources, drawn, strict=True):
        if not rows:
            raise UsageError(
                f"nothing is left to judge in `{name}`: selection `{first['name']}` took the whole dataset"
                if source["kind"] == "rest"
                else f"`{name}` has no samples that are in the store",
                "compare it with --against random, or with another selection",
            )
        if len(rows) < n:
            log.warning(
                "`%s` has %s, fewer than the %s asked for: all are judged", name, amount(len(rows), "sample"), n
            )
        items = make_items([_texts(orjson.loads(row["messages"])) for row in rows])
        texts = [_Text(item, row["sample_id"], row["sample_id"]) for item, row in zip(items, rows, strict=True)]
        arms.append(_Arm(name, source, texts))
    return arms


def _find_selection(store: Store, text: str) -> dict[str, Any]:
    """Facts of the selection that a name or a number means."""
    (facts,) = store.rows("store/compare_selections", selection_ids=[store.selection(text)["selection_id"]])
    return facts


def _selection_source(facts: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "selection", "selection_id": facts["selection_id"], "dataset": facts["dataset"]}


def _draw(store: Store, facts: dict[str, Any], taken: bool | None, n: int, seed: int) -> list[dict[str, Any]]:
    place = {"dataset_id": facts["dataset_id"], "selection_id": facts["selection_id"]}
    return store.rows("judging/draw_judged_samples", **place, taken=taken, seed=seed, n=n)


def _texts(messages: list[Message]) -> tuple[str, str]:
    """Question and answer of a sample; the reasoning stands before the answer, as models write it."""
    return prompt_text(messages), inline_reasoning(messages[-1])["content"]


# outputs of models ---------------------------------------------------------------------------------------------------


def _draw_outputs(options: JudgeOptions) -> list[_Arm]:
    """The arms of files with model outputs: the same questions in each."""
    files = named_values("--outputs", options.outputs, "base=base.jsonl")
    if len(files) < 2:
        raise UsageError(
            f"one arm alone, `{next(iter(files))}`, compares with nothing", "give --outputs NAME=FILE twice or more"
        )
    arms, answers = [], []
    for name, path in files.items():
        arm, found = _read_outputs(name, path, options.question_column, options.output_column)
        arms.append(arm)
        answers.append(found)
    shared = [key for key in answers[0] if all(key in one for one in answers)]
    if not shared:
        raise UsageError(
            "no question is in every file of outputs: "
            + ", ".join(f"`{arm.name}` has {len(one):,}" for arm, one in zip(arms, answers, strict=True)),
            "the questions must be the same text in all files",
        )
    drawn = sorted(shared, key=lambda key: (_lot(options.seed, "question", key), key))[: options.sample]
    if len(drawn) < options.sample:
        shown = amount(len(drawn), "question")
        log.warning("the files share %s, fewer than the %s asked for: all are judged", shown, options.sample)
    for arm, found in zip(arms, answers, strict=True):
        arm.counts["n_unshared"] = len(found) - len(shared)
        # the first file's wording, so that the spacing of a question tells nothing
        items = make_items([(answers[0][key][0], found[key][1]) for key in drawn])
        arm.texts = [_Text(item, None, key) for item, key in zip(items, drawn, strict=True)]
        left_out = {what: count for what, count in arm.counts.items() if count and what != "n_rows"}
        if left_out:
            listed = ", ".join(f"{count:,} {_LEFT_OUT[what]}" for what, count in left_out.items())
            log.warning("`%s`: of %s are left out: %s", arm.name, amount(arm.counts["n_rows"], "row"), listed)
    return arms


_LEFT_OUT = {
    "n_unreadable_rows": "that cannot be read",
    "n_without_question": "without a question",
    "n_without_output": "without an output",
    "n_repeated": "that repeat a question",
    "n_unshared": "whose question is not in every file",
}


def _read_outputs(
    name: str, path: str, question_column: str | None, output_column: str | None
) -> tuple[_Arm, dict[str, tuple[str, str]]]:
    """An arm without texts yet, and question and output of each distinct question, by the question without its spacing.

    Raises:
        InputError: a column is missing.
    """
    counts = dict.fromkeys(("n_rows", "n_unreadable_rows", "n_without_question", "n_without_output", "n_repeated"), 0)
    found: dict[str, tuple[str, str]] = {}
    hashes = []
    for source in find_sources([path]):
        first = [row.values for row in first_rows(source)]
        question_name = _column(first, question_column, QUESTION_COLUMNS, "questions", "--question-column", source.path)
        output_name = _column(first, output_column, OUTPUT_COLUMNS, "model outputs", "--output-column", source.path)
        hashes.append(source.content_hash())
        for row in source.rows():
            counts["n_rows"] += 1
            if isinstance(row, BadRow):
                counts["n_unreadable_rows"] += 1
                continue
            question, output = _text(row.values.get(question_name)), _text(row.values.get(output_name))
            key = " ".join(question.split())
            if not key:
                counts["n_without_question"] += 1
            elif not output.strip():
                counts["n_without_output"] += 1
            elif key in found:
                counts["n_repeated"] += 1
            else:
                found[key] = (question, output)
    source_facts = {"kind": "outputs", "file": path, "content": hashes}
    return _Arm(name, source_facts, counts=counts), found


def _column(
    rows: Sequence[dict[str, Any]], asked: str | None, known: Sequence[str], what: str, option: str, path: str
) -> str:
    """The column of a file to read."""
    there = dict.fromkeys(name for row in rows for name in row)
    found = [name for name in ((asked,) if asked else known) if name in there]
    if not found:
        wanted = f"`{asked}`" if asked else ", ".join(f"`{one}`" for one in known)
        raise InputError(
            f"`{path}` has no column of {what}: looked for {wanted}, found {', '.join(f'`{one}`' for one in there)}",
            f"name it with {option}",
        )
    if len(found) > 1:
        log.info("`%s`: %s are read from column `%s`", path, what, found[0])
    return found[0]


def _text(value: Any) -> str:
    """A value of a row as text; a list of one text is that text, as some tools write outputs. Empty: it is none."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    # a lone surrogate can be neither sent nor stored
    return value.encode(errors="replace").decode() if isinstance(value, str) else ""


# order and record ----------------------------------------------------------------------------------------------------


def _lot(seed: int, what: str, key: str) -> int:
    """A number drawn for a text, so that more texts never change the order of those that were there."""
    return number_of(f"{seed}/{what}/{key}", n_bytes=16)


def _shuffled(arms: Sequence[_Arm], seed: int) -> list[Item]:
    """The distinct texts of all arms in the order of asking, which depends on nothing but them and the seed."""
    distinct = {text.item.item_id: text.item for arm in arms for text in arm.texts}
    return sorted(distinct.values(), key=lambda item: _lot(seed, "item", item.item_id))


def _record(
    store: Path,
    run_id: int,
    arms: Sequence[_Arm],
    items: Sequence[Item],
    *,
    sample: int,
    seed: int,
    is_paired: bool,
    name: str | None,
) -> int:
    """Number of the comparison; one of the same arms, texts and seed is the same."""
    numbers = {item.item_id: number for number, item in enumerate(items)}
    rows = [(arm.name, text) for arm in arms for text in arm.texts]
    config = canonical_json(
        {
            "arms": [{"name": arm.name, **arm.source} for arm in arms],
            "sample": sample,
            "seed": seed,
            # what was drawn: a dataset that has grown is another comparison
            "texts": fingerprint_of("/".join(f"{arm} {text.item.item_id}" for arm, text in rows)),
        }
    )
    with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
        known = opened.row("judging/find_comparison", run_id=run_id, config=config)
        if known is not None:
            return int(known["comparison_id"])
        made = opened.row("judging/insert_comparison", run_id=run_id, name=name, config=config, created_at=now())
        assert made is not None
        incoming = pa.table(
            {
                "arm": [arm for arm, _ in rows],
                "number": pa.array([numbers[text.item.item_id] for _, text in rows], pa.int32()),
                "item_id": [text.item.item_id for _, text in rows],
                "sample_id": pa.array([text.sample_id for _, text in rows], pa.string()),
                "question": pa.array([text.item.question if is_paired else None for _, text in rows], pa.string()),
                "answer": pa.array([text.item.answer if is_paired else None for _, text in rows], pa.string()),
            }
        )
        opened.insert("judging/insert_comparison_items", incoming, comparison_id=made["comparison_id"])
        return int(made["comparison_id"])


# result --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """Scores of the judged texts, item to dimension to score, and the texts with a reply that could not be read."""

    scores: dict[str, dict[str, int]]
    unreadable: set[str]


def _read(store: Path, run_id: int, items: Sequence[Item]) -> _Found:
    place = {"run_id": run_id, "item_ids": [item.item_id for item in items]}
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        rows = opened.rows("judging/scores_of_items", **place)
        replies = opened.rows("judging/last_replies", **place)
    scores: dict[str, dict[str, int]] = {}
    for row in rows:
        scores.setdefault(row["item_id"], {})[row["dimension"]] = row["score"]
    return _Found(scores, {row["item_id"] for row in replies if not row["was_read"]})


def _shared(arms: Sequence[_Arm]) -> int:
    """Texts that are in more than one arm."""
    counts = Counter(item_id for arm in arms for item_id in {text.item.item_id for text in arm.texts})
    return sum(n > 1 for n in counts.values())


def _count(arm: _Arm, found: _Found) -> dict[str, Any]:
    """How many texts of an arm were judged, and why the others were not."""
    ids = [text.item.item_id for text in arm.texts]
    judged = sum(one in found.scores for one in ids)
    unreadable = sum(one in found.unreadable for one in ids)
    return {
        "name": arm.name,
        **arm.source,
        **arm.counts,
        "n_drawn": len(ids),
        "n_judged": judged,
        "n_unreadable": unreadable,
        "n_no_reply": len(ids) - judged - unreadable,
    }


def _warn(counts: Sequence[dict[str, Any]], asked: AskSummary) -> None:
    """Say what is missing.

    Raises:
        RunFailedError: no text was judged.
    """
    if not any(one["n_judged"] for one in counts):
        reason = counted(asked.reasons) or "see the table replies"
        raise RunFailedError(
            f"none of the {amount(asked.n_items, 'text')} was judged: {reason}",
            '`diq sql "from replies"` shows the replies; try another model, or a larger --max-tokens',
        )
    if any(one["n_judged"] < one["n_drawn"] for one in counts):
        missing = ", ".join(
            f"`{one['name']}` {one['n_drawn'] - one['n_judged']} of {one['n_drawn']} "
            f"({one['n_unreadable']} unreadable, {one['n_no_reply']} without a reply)"
            for one in counts
        )
        log.warning(
            "texts without a score: %s; where these are better or worse than the rest, means are biased", missing
        )


def _measure(
    arms: Sequence[_Arm], rubric: Rubric, found: _Found, *, is_paired: bool
) -> tuple[dict[str, dict[str, dict[str, Any]]], list[dict[str, Any]]]:
    """Means of every arm and differences of every pair of arms, in each dimension."""
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    differences = []
    for dimension in rubric.dimensions:
        columns = [_column_of(arm, dimension, found) for arm in arms]
        scores[dimension] = {
            arm.name: asdict(mean_of(column[~np.isnan(column)])) for arm, column in zip(arms, columns, strict=True)
        }
        for (first, a), (second, b) in itertools.combinations(zip(arms, columns, strict=True), 2):
            names = {"dimension": dimension, "first": first.name, "second": second.name}
            differences.append({**names, **asdict(difference_of(a, b, paired=is_paired))})
    return scores, differences


def _column_of(arm: _Arm, dimension: str, found: _Found) -> Scores:
    """Scores of an arm's texts in the order of the draw, NaN where there is none."""
    nothing: dict[str, int] = {}
    return np.array(
        [found.scores.get(text.item.item_id, nothing).get(dimension, np.nan) for text in arm.texts], np.float64
    )
