"""What leaves the page: a selection in the store, brushed samples as JSONL, and a brush as SQL to copy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from diq.base.command import option_words, shell
from diq.base.options import fields_of
from diq.explorer.requests import QUADRANT_NAMES, SELECTED_NAMES, Between, Look, OneOf
from diq.explorer.session import Session
from diq.selection.options import SelectOptions
from diq.selection.select import select
from diq.store.store import Store

# samples that one question asks the texts of
_BATCH = 20_000


def _options(session: Session, look: Look, name: str | None) -> dict[str, Any]:
    """The options of ``diq select`` that make the would-be selection; defaults are left out."""
    choice = session.choice
    options: dict[str, Any] = {
        "model": choice.model,
        "ratio": look.ratio.text,
        "run": choice.influence_run,
        "difficulty_run": choice.difficulty_run,
    }
    if choice.difficulty != "overall":
        options["difficulty"] = choice.difficulty
    if look.threshold is not None:
        options["difficulty_threshold"] = look.threshold
    elif look.percentile != 0.5:
        options["difficulty_percentile"] = look.percentile
    if look.weights is not None:
        options["validation_set"] = choice.weight_texts(look.weights)
    if name is not None:
        options["name"] = name
    return options


def command(session: Session, look: Look, name: str | None = None) -> str:
    """The command that makes the would-be selection, quoted for a shell."""
    options = {"dataset": session.choice.data["name"], **_options(session, look, name)}
    words = option_words(fields_of(SelectOptions), options)
    return shell(["diq", "select", "--store", str(session.choice.store), *words])


def save(session: Session, look: Look, name: str | None) -> dict[str, Any]:
    """Record the would-be selection, as ``diq select`` does; the store is open for writing no longer than that.

    Returns:
        What was recorded, the command, and whether it is what the page showed (scores may have changed since).

    Raises:
        UsageError: the page does not show all samples yet.
        DiqError: as ``diq.select``.
    """
    session.check_whole()
    shown = session.answers.would_be(look)
    with session.storing:
        made = select(session.choice.data["name"], store=session.choice.store, **_options(session, look, name))
    ranking = shown.ranking
    same = (made.n, made.n_scored, made.thresholds) == (
        len(shown.rows),
        ranking.n_scored,
        {"tau": ranking.tau, "median": ranking.median},
    )
    return {
        "selection_id": made.selection_id,
        "name": made.name,
        "n": made.n,
        "n_scored": made.n_scored,
        "took_over": made.took_over,
        "same": same,
        "command": command(session, look, name),
    }


def exported(session: Session, look: Look) -> Iterator[bytes]:
    """The brushed samples as lines of JSON: id, conversation and scores, in the order of the dataset."""
    answers = session.answers
    sources, positions = answers.table.sources, answers.table.position[answers.passing(look)].tolist()
    for start in range(0, len(positions), _BATCH):
        part = positions[start : start + _BATCH]
        with session.storing, Store(session.choice.store, read_only=True) as opened:
            texts = opened.rows(
                "explorer/exported_samples",
                dataset_id=session.choice.data["dataset_id"],
                positions=part,
            )
        scores = {one["position"]: one for one in answers.described(look, part)}
        lines = []
        for text in texts:
            found = scores[text["position"]]
            line = {"sample_id": text["sample_id"], "messages": orjson.Fragment(text["messages"])}
            if text["rejected"] is not None:
                line["rejected"] = orjson.Fragment(text["rejected"])
            line |= {
                "position": text["position"],
                "difficulty": found["difficulty"],
                "influence": found["influence"],
                "dots": {name: found[f"task:{i}"] for i, name in enumerate(session.choice.set_names)},
                "answer_tokens": found["answer_tokens"],
                "loss": found["loss"],
                "source": sources[found["source"]],
                "quadrant": QUADRANT_NAMES[found["quadrant"]] if found["quadrant"] else None,
                "selected": bool(found["selected"]),
            }
            lines.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        yield b"".join(lines)


def as_sql(session: Session, look: Look) -> str:
    """The brush as a statement for ``diq sql``: ids and positions of the same samples. It is shown, never run here."""
    choice = session.choice
    name, model = _quoted(choice.data["name"]), _quoted(choice.model)
    runs = f"run := {choice.influence_run}, difficulty_run := {choice.difficulty_run}"
    chosen = choice.settled(look.weights)
    weights = "" if chosen is None else f", validation_weights := {_map(chosen)}"
    conditions = []
    scores = {"difficulty": choice.difficulty, "influence": "dot", "answer_tokens": "answer_tokens", "loss": "loss"}
    for column in choice.numbers:
        brushed = look.filters.get(column)
        if not isinstance(brushed, Between):
            continue
        axis = session.answers.axis(column, look)
        low, high = axis.range_of(*axis.bins_of(brushed.low, brushed.high))
        if column in scores:
            conditions.append(_between(f"s.{scores[column]}", low, high))
        else:
            task = _map({choice.set_names[int(column.partition(":")[2])]: 1.0})
            conditions.append(
                f"s.sample_id IN (\n    SELECT t.sample_id FROM diq_scores({name}, {model}, {runs}, "
                f"validation_weights := {task}) AS t\n    WHERE {_between('t.dot', low, high)}\n  )"
            )
    cut = f"percentile := {look.percentile!r}" if look.threshold is None else f"threshold := {look.threshold!r}"
    ranking = f"diq_ranking({name}, {model}, difficulty := '{choice.difficulty}', {cut}, {runs}{weights})"
    conditions += _of_names(session, look, ranking)
    where = "\n  AND ".join(conditions) or "true"
    return (
        f"SELECT s.sample_id, s.position\nFROM diq_scores({name}, {model}, {runs}{weights}) AS s\n"
        f"WHERE {where}\nORDER BY s.position"
    )


def _of_names(session: Session, look: Look, ranking: str) -> Iterator[str]:
    """Conditions of the columns of names."""
    sources, quadrants, selected = (look.filters.get(name) for name in ("source", "quadrant", "selected"))
    if isinstance(sources, OneOf):
        paths = ", ".join(_quoted(session.table.sources[i]) for i in sorted(sources.values)) or "NULL"
        yield (
            "s.position IN (\n    SELECT d.position FROM dataset_samples AS d JOIN sources AS o USING (source_id)\n"
            f"    WHERE d.dataset_id = {session.choice.data['dataset_id']} AND o.path IN ({paths})\n  )"
        )
    if isinstance(quadrants, OneOf):
        names = ", ".join(f"'{QUADRANT_NAMES[i]}'" for i in sorted(quadrants.values) if i) or "NULL"
        inside = f"s.sample_id IN (SELECT r.sample_id FROM {ranking} AS r WHERE r.quadrant IN ({names}))"
        outside = f"s.sample_id NOT IN (SELECT r.sample_id FROM {ranking} AS r)"
        yield f"({inside}\n  OR {outside})" if 0 in quadrants.values else inside
    if isinstance(selected, OneOf) and len(selected.values) < len(SELECTED_NAMES):
        taken = f"(SELECT r.sample_id FROM {ranking} AS r WHERE r.rank < {len(session.answers.would_be(look).rows)})"
        if not selected.values:
            yield "false"
        else:
            yield f"s.sample_id {'IN' if 1 in selected.values else 'NOT IN'} {taken}"


def _between(column: str, low: float | None, high: float | None) -> str:
    limits = [f"{column} >= {low!r}" if low is not None else "", f"{column} < {high!r}" if high is not None else ""]
    # what is missing is not between, and not finite is missing
    return " AND ".join(one for one in (*limits, f"isfinite({column})") if one)


def _map(weights: dict[str, float]) -> str:
    return f"MAP {{{', '.join(f'{_quoted(name)}: {weight!r}' for name, weight in weights.items())}}}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
