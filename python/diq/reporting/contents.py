"""What a report says: words first, then charts, tables and samples; read from the store, nothing is written."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from diq.base.command import option_words, shell
from diq.base.errors import DiqError, MissingScoresError, UsageError
from diq.base.options import fields_of
from diq.base.progress import Progress
from diq.base.text import Ratio, amount, short
from diq.evaluation.groups import Group
from diq.evaluation.results import results
from diq.evaluation.tables import HEADS, footnotes, percent, title
from diq.influence.certificate import CONFIDENCE
from diq.influence.meters import TOLD_TASKS, measure, told, told_tasks
from diq.influence.stored import WHAT_IS_NOT_A_DOT, read_certificate, read_dots
from diq.plot import charts, data
from diq.plot.ground import Ground, grounded, training_datasets
from diq.reporting.blocks import Commands, Figure, Listed, Samples, Section, Table, Words
from diq.reporting.options import ReportOptions
from diq.selection.compare import Profile, compare
from diq.selection.options import QUADRANT_STRATEGIES, SelectOptions
from diq.selection.ranking import read_row
from diq.store.store import Store
from diq.trials.kept import read_validations, tables

log = logging.getLogger(__name__)

METERED = 2_000_000
"""Samples up to which the meters of `diq status --scores` are taken for a report: they sort every dot six times."""

_STRATEGIES = {
    "diq": "Q1 before Q2, Q3 and Q4, and within each the largest dot first",
    "q1": "the largest dots of Q1 (hard and helpful)",
    "q2": "the largest dots of Q2 (easy and helpful)",
    "q3": "the largest dots of Q3 (hard and less helpful)",
    "q4": "the largest dots of Q4 (easy and less helpful)",
    "random": "drawn by a seed, whatever the scores",
    "influence": "the largest dots, whatever the difficulty",
    "less": "the largest cosine with any task",
    "perplexity": "the lowest perplexity first",
    "similarity": "the largest similarity with the validation samples first",
    "length": "the longest answers first",
    "ifd": "the largest instruction-following difficulty up to 1 first",
    "bm25": "the largest BM25 against the validation questions first",
    "rds": "each validation sample in turn takes the sample nearest to it (RDS+)",
    "pass_rate": "what the model solves sometimes first, nearest to the middle of the band",
    "knowledge": "the most knowledge first",
    "reasoning": "the most reasoning first",
    "overall": "the hardest first",
}


def sections(store: Store, options: ReportOptions) -> Iterator[Section]:
    """The parts of a report, in order.

    Raises:
        UsageError: unknown names, or nothing to report on.
    """
    chosen = _selections(store, options)
    datasets = (
        list(dict.fromkeys(options.datasets))
        or list(dict.fromkeys(one["dataset"] for one in chosen))
        or training_datasets(store)
    )
    _check_used(options, datasets, chosen)
    report = options.progress or (lambda *_: None)
    made: list[Section] = []
    runs: set[int] = set()
    for name in datasets:
        own = [one for one in chosen if one["dataset"] == name]
        made += _of_dataset(store, options, name, own, runs, report)
    names = [one["selection_id"] for one in chosen]
    if len(names) > 1:
        made.append(_side_by_side(store, options, names))
    made += _models(store, options)
    runs |= {one["run_id"] for one in store.rows("store/trainings", run_ids=None) if one["dataset"] in datasets}
    made.append(_reproduce(store, options, chosen, runs))
    yield from (one for one in made if one.blocks)


def _check_used(options: ReportOptions, datasets: Sequence[str], chosen: Sequence[dict[str, Any]]) -> None:
    """Refuse options that say whose dots count where every dataset is drawn by those of its selection."""
    first = {one["dataset"]: one for one in reversed(chosen)}
    if any(name not in first or first[name]["influence_run"] is None for name in datasets):
        return
    for name in ("validation_set", "run"):
        if getattr(options, name):
            listed = ", ".join(f"`{first[name]['name']}`" for name in dict.fromkeys(datasets))
            raise UsageError(
                f"{fields_of(ReportOptions)[name].flag} changes nothing here: {listed} brings the run and the weights "
                "that it was made with",
                "leave it out, or name a selection that uses no dots",
            )


def _selections(store: Store, options: ReportOptions) -> list[dict[str, Any]]:
    """The selections to show, each with its ranking: read once, since that looks whether scores have changed."""
    if options.selection:
        numbers = [store.selection(str(one))["selection_id"] for one in options.selection]
        found = [_with_ranking(store, one) for one in dict.fromkeys(numbers)]
        if options.datasets and (other := next((one for one in found if one["dataset"] not in options.datasets), None)):
            raise UsageError(
                f"the selection `{other['name']}` is of dataset `{other['dataset']}`, which was not asked for",
                "name the dataset, too, or leave all of them out",
            )
        return found
    latest: dict[str, dict[str, Any]] = {}
    for one in store.rows("store/list_selections"):
        if not options.datasets or one["dataset"] in options.datasets:
            latest.setdefault(one["dataset"], one)
    return [_with_ranking(store, one["selection_id"]) for one in latest.values()]


def _with_ranking(store: Store, selection_id: int) -> dict[str, Any]:
    found = store.row("store/ranking_of_selection", selection_id=selection_id)
    assert found is not None
    return found


# a dataset -----------------------------------------------------------------------------------------------------------


def _of_dataset(
    store: Store,
    options: ReportOptions,
    name: str,
    chosen: Sequence[dict[str, Any]],
    runs: set[int],
    report: Progress,
) -> list[Section]:
    """The sections of a dataset: words, charts, samples; the first selection is the one that charts outline."""
    first = chosen[0] if chosen else None
    with grounded(
        store,
        name,
        options.model,
        selection=None if first is None else first["selection_id"],
        run=options.run if first is None or first["influence_run"] is None else None,
        validation_set=options.validation_set,
    ) as ground:
        own_runs = {one for one in (ground.influence_run, ground.difficulty_run) if one is not None}
        if ground.data["kind"] == "validation" and not chosen and not own_runs:
            return [_of_validation_set(ground)]
        runs |= own_runs
        words = Section(name, [Words(_dataset_words(store, ground))])
        for one in chosen:
            words.blocks += _selection_words(store, one)
        if not chosen:
            words.blocks.append(
                Words(
                    f"Nothing is selected yet: `{shell(['diq', 'select', name])} --ratio 0.1` makes a selection.",
                    is_note=True,
                )
            )
        pictures = Section(f"Charts of {name}", list(_charts(ground, report)))
        meters = _meters(ground)
        samples = [_samples(ground, one, options, report) for one in chosen]
        # last, since all of them have something to note
        words.blocks += [Words(f"{note[:1].upper()}{note[1:]}.", is_note=True) for note in dict.fromkeys(ground.notes)]
    return [words, pictures, *([meters] if meters else []), *samples]


def _of_validation_set(ground: Ground) -> Section:
    """What there is to say of samples that others are scored against."""
    name = ground.name
    text = f"`{name}` holds {amount(ground.data['n_samples'], 'validation sample')}"
    rows = ground.store.rows("reporting/runs_against_dataset", dataset_id=ground.data["dataset_id"])
    if rows:
        runs = ", ".join(f"run {one['run_id']} on `{one['dataset']}`" for one in rows)
        return Section(name, [Words(f"{text}; there are dots with their gradient: {runs}.")])
    ask = f"`{shell(['diq', 'score', 'influence', 'DATASET', '--model', 'MODEL', '--validation-set', name])}`"
    return Section(name, [Words(f"{text}; no dots are with their gradient: {ask} makes some.")])


def _dataset_words(store: Store, ground: Ground) -> str:
    row = next(one for one in store.rows("store/list_datasets") if one["name"] == ground.name)
    text = f"`{ground.name}` holds {amount(ground.data['n_samples'], 'sample')}"
    if row["n_duplicates"] or row["n_rejects"]:
        text += f" ({amount(row['n_duplicates'], 'repeated row')} and {row['n_rejects']:,} rejected were left out)"
    if ground.ranked is None:
        return text + "."
    n_left = ground.ranked.n_unscored
    left = f"; {n_left:,} {'lacks one and is' if n_left == 1 else 'lack one and are'} ranked nowhere" if n_left else ""
    has = "has" if ground.ranked.n == 1 else "have"
    held = _held(store, ground.influence_run)
    what = f"a dot with the validation gradient of `{ground.model}`" if held is None else f"an influence: {held}"
    have = f"{ground.ranked.n:,} of them {has} a difficulty and {what}"
    # those of a selection are told with it
    is_asked = ground.selection is None or ground.selection["influence_run"] is None
    return f"{text}. {have}{left}.{_weights_words(ground.weights) if is_asked else ''}"


def _weights_words(weights: Mapping[str, float] | None) -> str:
    """Which validation sets count and how much, where not all do by their samples; begins with a space."""
    if not weights:
        return ""
    return f" The validation sets count {', '.join(f'`{name}` {weight:g}' for name, weight in weights.items())}."


def _held(store: Store, run_id: int | None) -> str | None:
    """What a run holds that is not a dot, in words; None where it holds dots."""
    rows = [] if run_id is None else store.rows("reporting/runs_by_number", run_ids=[run_id])
    held = WHAT_IS_NOT_A_DOT.get(rows[0]["method"]) if rows else None
    return None if held is None else f"{held}, run {run_id}"


def _selection_words(store: Store, row: Mapping[str, Any]) -> list[Words]:
    """What was asked and what came out of a selection."""
    config = json.loads(row["config"])
    n_scored = row["n_scored"]
    strategy = row["selection_strategy"]
    asked = f"{100 * float(row['ratio']):g} % were asked for"
    text = f"Selection `{row['name']}` keeps {row['n']:,} of {amount(n_scored, 'scored sample')} ({asked}): "
    kind = config["influence"] or "dot"
    text += f"{_STRATEGIES.get(strategy, strategy).replace('dot', kind)}."
    if row["quadrant_counts"] is not None:
        cut = "" if config["percentile"] is None else f" (its {100 * config['percentile']:g} % quantile)"
        text += (
            f" Hard means {config['difficulty']} difficulty of at least tau = {row['tau']:.4g}{cut}; "
            f"helpful means a {config['influence']} of at least the median, {row['median']:.3g}."
        )
    part = None
    if row["n_ranked"] is not None:
        part = read_certificate(store, row["influence_run"], row["dataset_id"])
    if part is not None and part.recall is not None:
        low, value, high = (f"{100 * one:.1f}" for one in (part.recall.low, part.recall.value, part.recall.high))
        text += (
            f" The run was scored by a cascade, which leaves out hard samples that a cheap score puts low: of what all "
            f"dots would select, it has found an estimated {value} % ({low} to {high})."
        )
    elif row["n_ranked"] is not None:
        text += (
            f" The run was scored in part: samples of {config['difficulty']} difficulty of at least {row['tau']:.4g}, "
            f"and so many of the others as show, with {100 * CONFIDENCE:g} % confidence, that all of it is in Q1."
        )
    if (held := _held(store, row["influence_run"])) is not None:
        text += f" Its dots are {held}."
    text += _weights_words(config.get("validation_weights"))
    if balance := config.get("balance"):
        turns = "by its own scores" if balance == "tasks" else "in rank order"
        text += f" The {balance} take turns, each {turns}."
    if thin := config.get("diverse"):
        text += f" What is nearer than {thin['threshold']:g} to a better sample (by `{thin['by']}`) is left out."
    found = [Words(text)]
    chance = read_row(row).flip_share(store, strategy, Ratio.parse(row["ratio"]).of(n_scored))
    if chance is not None:
        one, other = row["half_sizes"]
        found.append(
            Words(
                f"Chance: if one half of the validation samples ({one:,}) had chosen and not the other ({other:,}), "
                f"{100 * chance:.3g} % of the selection would be other samples."
            )
        )
    elif row["influence_run"] is not None:
        why = "the validation sets were not split into folds"
        if row["n_ranked"] is not None:
            why = "the run was scored in part, for this selection and smaller ones"
        if balance == "tasks" or thin:
            why = "it is not measured for balanced tasks and diverse selections"
        found.append(Words(f"How much of it is chance is not known: {why}.", is_note=True))
    if row["n_excluded"]:
        found.append(
            Words(f"Guards left out {amount(row['n_excluded'], 'sample')}; the table `exclusions` says which and why.")
        )
    return found


def _charts(ground: Ground, report: Progress) -> Iterator[Figure | Words]:
    selection = None if ground.selection is None else str(ground.selection["name"])
    name, model = ground.name, ground.model
    parts: dict[str, Callable[[], Mapping[str, Any]]] = {
        "quadrants": lambda: charts.quadrants(data.plane(ground), name, model, selection),
        "difficulty_levels": lambda: charts.difficulty_levels(data.levels(ground)),
        "influence": lambda: charts.influence(data.dots(ground), name, model),
        "length_bias": lambda: charts.length_bias(data.lengths(ground), name, selection),
        "stability": lambda: charts.stability(data.halves(ground), name),
        "tasks": lambda: charts.tasks(data.tasks(ground), name, selection or ""),
    }
    if selection is None:
        del parts["tasks"]
    told_already = "; ".join(ground.notes)
    for done, (key, draw) in enumerate(parts.items(), start=1):
        try:
            yield Figure(f"{name}-{key}", draw())
        except MissingScoresError as error:
            # what a chart lacks, the notes of the dataset have said, unless it is the chart's own
            if not error.hint or error.hint not in told_already:
                yield Words(f"{error.told}.", is_note=True)
        report(f"charts of {name}", done, len(parts))


def _meters(ground: Ground) -> Section | None:
    """The tables of `diq status --scores` for the run that is drawn, with the weights that are drawn."""
    run_id = ground.influence_run
    if run_id is None:
        return None
    section = Section(f"What the dots of {ground.name} are worth")
    if int(ground.data["n_samples"]) > METERED:
        section.blocks.append(
            Words("`diq status --scores` measures datasets of this size; it reads and sorts every dot.")
        )
        return section
    if ground.ranked is not None and ground.ranked.influence != "dot":
        section.blocks.append(
            Words(f"The ranking is by {ground.ranked.influence}; these are of the dots.", is_note=True)
        )
    if (held := _held(ground.store, run_id)) is not None:
        section.blocks.append(Words(f"These dots are {held}.", is_note=True))
    dots = read_dots(ground.store, dataset_id=ground.data["dataset_id"], run_id=run_id, weights=ground.weights)
    found = measure(dots).to_dict()
    section.blocks.append(Table(f"run {run_id}, model {ground.model}", ("meter", "value", "what it says"), told(found)))
    if rows := told_tasks(found):
        section.blocks.append(Table("task that the samples are closest to", rows[0], rows[1:], [TOLD_TASKS]))
    return section


# samples -------------------------------------------------------------------------------------------------------------


def _samples(ground: Ground, row: dict[str, Any], options: ReportOptions, report: Progress) -> Section:
    """The first selected samples, and those that follow the last one."""
    place = {
        "dataset_id": ground.data["dataset_id"],
        "ranking_id": row["ranking_id"],
        "influence_run": row["influence_run"] if row["influence_run"] is not None else ground.influence_run,
    }
    n = min(options.samples, row["n"])
    found = ground.store.rows("reporting/rows_of_ranking", **place, first=row["first"], n=n)
    explained = _explained(ground, found[: options.explain or 0], place["influence_run"], options, report)
    section = Section(f"Samples of {row['name']}")
    shown = [_listed(one, row, options, explained.get(one["sample_id"])) for one in found]
    if shown:
        section.blocks.append(
            Samples(
                f"The first {len(shown):,} of {amount(row['n'], 'selected sample')}", "Best first.", ground.name, shown
            )
        )
    after = ground.store.rows(
        "reporting/rows_of_ranking", **place, first=row["first"] + row["n"], n=options.near_misses
    )
    missed = [_listed(one, row, options, None) for one in after]
    if missed:
        about = "They would come next; a slightly larger ratio takes them."
        section.blocks.append(Samples(f"The next {len(missed):,}, which were not selected", about, ground.name, missed))
    elif row["replaced_by"] is not None:
        section.blocks.append(
            Words(
                "Scores changed and the ranking was replaced, so what followed the last one is no longer known.",
                is_note=True,
            )
        )
    if not options.text:
        section.blocks.append(Words("Texts are left out of this page (`--no-text`)."))
    return section


def _listed(
    one: Mapping[str, Any],
    ranking: Mapping[str, Any],
    options: ReportOptions,
    tokens: list[tuple[str, float | None]] | None,
) -> Listed:
    numbers = ("difficulty", "dot", ranking["selection_strategy"], "loss", "answer_tokens")
    values = {**one, ranking["selection_strategy"]: one["score"]} if one["score"] is not None else one
    why = [("rank", f"{one['rank'] - ranking['first'] + 1:,}")]
    if one["quadrant"]:
        why.append(("quadrant", one["quadrant"]))
    why += [
        (name.replace("_", " "), f"{values[name]:,}" if isinstance(values[name], int) else f"{values[name]:.4g}")
        for name in numbers
        if values.get(name) is not None
    ]
    has = options.text and one["messages"] is not None
    return Listed(
        why,
        one["sample_id"],
        f"position {one['position']:,}" + (f", {one['source']} line {one['line']:,}" if one["source"] else ""),
        json.loads(one["messages"]) if has else None,
        json.loads(one["rejected"]) if has and one["rejected"] else None,
        tokens if options.text else None,
    )


def _explained(
    ground: Ground,
    rows: Sequence[Mapping[str, Any]],
    run_id: int | None,
    options: ReportOptions,
    report: Progress,
) -> dict[str, list[tuple[str, float | None]]]:
    """Share of the dot of each token of some samples; empty where the model can't be had."""
    if not rows or ground.model is None:
        return {}
    if (held := _held(ground.store, run_id)) is not None:
        ground.notes.append(f"tokens are not coloured: they add up to dots, and these are {held}")
        return {}
    # torch is only needed where tokens are coloured
    from diq.influence.explain import explain

    source = next(one["source"] for one in ground.store.rows("store/list_models") if one["name"] == ground.model)
    found: dict[str, list[tuple[str, float | None]]] = {}
    for done, one in enumerate(rows, start=1):
        try:
            made = explain(one["sample_id"], model=source, store=options.store_file)
        except DiqError as error:
            ground.notes.append(f"tokens are not coloured: {error.message}")
            log.warning("tokens are not coloured: %s", error.message)
            break
        found[one["sample_id"]] = [(token.text, token.loss_term) for token in made.tokens]
        report("explain", done, len(rows))
    return found


# selections and models -----------------------------------------------------------------------------------------------


def _side_by_side(store: Store, options: ReportOptions, numbers: Sequence[int]) -> Section:
    found = compare(numbers, store=options.store_file)
    everyone = [*found.selections, *found.datasets]
    names = [one.name if one.selection_id is not None else f"all of {one.name}" for one in everyone]
    section = Section("Selections side by side")
    section.blocks.append(Figure("overlap", charts.overlap(data.overlap(store, numbers))))
    rows = [
        (name, one.strategy, one.ratio, one.n, *(_median(everyone, one, score) for score in _SCORES))
        for name, one in zip(names, everyone, strict=True)
    ]
    section.blocks.append(
        Table("medians", ("", "strategy", "ratio", "samples", *(one.replace("_", " ") for one in _SCORES)), rows)
    )
    for noun in ("quadrant", "task", "source"):
        parts: list[list[dict[str, Any]]] = [getattr(one, f"{noun}s") for one in everyone]
        keys = list(dict.fromkeys(row[noun] for part in parts for row in part))[:20]
        if not keys:
            continue
        cells = [[{row[noun]: row["share"] for row in part}.get(key) for part in parts] for key in keys]
        shares = [["" if share is None else f"{100 * share:.3g} %" for share in row] for row in cells]
        body = [[key, *row] for key, row in zip(keys, shares, strict=True)]
        section.blocks.append(Table(f"share of each {noun}", (noun, *names), body))
    return section


_SCORES = ("difficulty", "dot", "loss", "answer_tokens")


def _median(everyone: Sequence[Profile], one: Profile, score: str) -> str | float | None:
    """A median, with the ranking that it is of where not all are of the same: these cannot be compared."""
    median = one.scores.get(score, {}).get("median")
    rankings = {other.measured_by.get(score) for other in everyone if score in other.scores}
    if median is None or len(rankings) < 2:
        return median
    return f"{median:.4g} (ranking {one.measured_by[score]})"


def _models(store: Store, options: ReportOptions) -> list[Section]:
    """What validations found, losses of trainings, and the tables of benchmarks where they were asked for."""
    section = Section("Models")
    for one in read_validations(store):
        section.blocks.append(Words(f"Validation of {one.title}: {one.cost}."))
        section.blocks += [Table(made.title, made.heads, made.rows) for made in tables(one)]
    if store.rows("store/trainings", run_ids=None):
        section.blocks.append(Figure("losses", charts.losses(data.trainings(store))))
    if not options.results and options.published is None:
        return [section]
    try:
        found = results(store=options.store_file, published=options.published)
    except UsageError as error:
        if options.published is not None:
            raise
        section.blocks.append(Words(f"{error.told}.", is_note=True))
        return [section]
    if (spec := charts.ratios(found)) is not None:
        section.blocks.append(Figure("ratios", spec))
    section.blocks += [_result_table(group) for group in [*found.groups, *found.published]]
    return [section]


def _result_table(group: Group) -> Table:
    columns = group.columns
    rows = []
    for line in group.rows:
        cells = [line.cells.get(name) for name in columns]
        rows.append(
            [
                line.label,
                line.dataset,
                *("" if one is None else f"{percent(one.accuracy)}{' (best)' if one.best else ''}" for one in cells),
            ]
        )
    return Table(title(group), ("model", "data", *(HEADS[name] for name in columns)), rows, footnotes(group))


# how to make it again ------------------------------------------------------------------------------------------------


def _reproduce(store: Store, options: ReportOptions, chosen: Sequence[dict[str, Any]], runs: set[int]) -> Section:
    section = Section("To make it again")
    lines = []
    for row in chosen:
        runs |= {row[name] for name in ("influence_run", "difficulty_run", "score_run") if row[name] is not None}
        runs |= set(row["guard_runs"] or ())
        lines.append(select_command(store, row))
    lines.append(_own_command(options))
    section.blocks.append(Commands(lines))
    if runs:
        rows = [
            (
                one["run_id"],
                one["kind"],
                one["method"],
                one["model"],
                f"{one['created_at']:%Y-%m-%d %H:%M} UTC",
                one["config"],
            )
            for one in store.rows("reporting/runs_by_number", run_ids=sorted(runs))
        ]
        section.blocks.append(
            Table("runs of the store", ("run", "kind", "method", "model", "first started", "settings"), rows)
        )
    return section


def select_command(store: Store, row: Mapping[str, Any]) -> str:
    """The command that makes a selection again, from what its ranking recorded."""
    config = json.loads(row["config"])
    strategy = row["selection_strategy"]
    weights = config.get("validation_weights") or {}
    values: dict[str, Any] = {
        "dataset": row["dataset"],
        "ratio": row["ratio"],
        "strategy": strategy,
        "model": config["model"],
        "encoder": config["encoder"],
        "difficulty": config["difficulty"] if strategy in QUADRANT_STRATEGIES else None,
        "difficulty_percentile": config["percentile"],
        "difficulty_threshold": config["threshold"],
        "validation_set": [f"{name}={weight:g}" for name, weight in weights.items()],
        "influence": config["influence"] if config["influence"] == "cosine" else None,
        "run": row["influence_run"] if row["influence_run"] is not None else row["score_run"],
        "difficulty_run": row["difficulty_run"],
        "seed": config["seed"],
        **_guards(store, row["guard_runs"] or ()),
        "balance": config.get("balance"),
        "order": row["file_order"],
        "weights": row["weighted"] or None,
        "name": row["name"],
        "output": row["output"],
    }
    known = fields_of(SelectOptions)
    given = {key: value for key, value in values.items() if value not in (None, []) and value != known[key].default}
    return shell(["diq", "select", *option_words(known, given), "--store", str(store.path)])


def _guards(store: Store, runs: Sequence[int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in store.rows("reporting/runs_by_number", run_ids=list(runs)):
        config = json.loads(one["config"])
        if one["method"] == "decontaminate":
            # the names that were given; every validation set of the store is looked for beside them
            details = json.loads(one["result"] or "{}").get("details", {})
            found["decontaminate"] = details.get("asked") or config["benchmarks"]
            found["decontaminate_share"] = config["min_share"]
        elif one["method"] == "outliers":
            found["drop_outliers"] = f"norm={config['quantile']!r}"
            found["norms_run"] = config["run"]
        elif one["method"] == "diverse":
            found |= {"diverse": config["threshold"], "diverse_by": config["by"], "diverse_text": config["text"]}
        else:
            found["dedupe"] = one["method"]
            if "threshold" in config:
                found["dedupe_threshold"] = config["threshold"]
    return found


def _own_command(options: ReportOptions) -> str:
    known = fields_of(ReportOptions)
    given = {
        name: getattr(options, name)
        for name in known
        if name not in ("store", "progress") and getattr(options, name) not in (None, known[name].default)
    }
    given["output"] = str(options.output)
    return shell(["diq", "report", *option_words(known, given), "--store", short(str(options.store_file), width=500)])
