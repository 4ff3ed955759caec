"""Stage: train an influence rater on the dots of a run in the store (``diq rater train``).

A rater reads question, reasoning and answer, and predicts the dot with each validation set of the run, so that a
dataset too large for gradients can be ranked from a scored part of it. Questions are split, not rows: what is trained
on, what decides the best epoch and the width of the intervals, and what is tested on. Beside the rater stand two
baselines on the same split, one that sees lengths alone, and TF-IDF with ridge regression.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import torch

from diq.base.errors import MissingScoresError, UsageError
from diq.base.files import check_folder
from diq.base.fingerprint import fingerprint_of, run_fingerprint
from diq.base.options import verb
from diq.base.progress import Progress
from diq.base.sample import prompt_text
from diq.base.summary import Summary
from diq.base.text import amount, did_you_mean
from diq.encoders import fitting
from diq.encoders import network as encoders
from diq.encoders.embeddings import text_of
from diq.encoders.fitting import Examples, FitSettings
from diq.encoders.folder import RECORD, find_trained, save
from diq.encoders.network import SPLITS
from diq.influence.meters import pearson, spearman
from diq.influence.stored import ONLY_WHEN_MEANT, RATER, settle_weights
from diq.models.device import describe_environment, pick_device, pick_dtype
from diq.models.source import ModelSource, find_model
from diq.rater.model import RatedSet, RaterRecord, Scale, Target, digest_of, half_width, predicted_dots
from diq.rater.options import TrainRaterOptions
from diq.store.connection import WAIT_S
from diq.store.store import Store, listed_runs

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]

ENCODER = "answerdotai/ModernBERT-base"
MIN_SAMPLES = 50
POOLED = "pooled"
"""What the measures of the dots pooled over all sets (Eq. 3) are called."""

_LENGTH = "length alone"
_TFIDF = "TF-IDF + ridge"
# strengths of the regularisation that the validation split chooses from
_STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass(slots=True, repr=False)
class RaterSummary(Summary):
    """What a training of a rater did.

    Attributes:
        output: folder of the rater.
        run_id: the training's run in the store.
        model: name of the language model whose dots were learnt.
        influence_run: run of these dots.
        encoder: name of the encoder.
        datasets: names of the datasets.
        n_samples: distinct samples with a finite dot for every validation set.
        n_left_out: samples of the datasets without one.
        splits: samples of each split.
        n_truncated: texts that are longer than ``max_length``.
        max_length: tokens that the rater reads.
        metrics: of the test split, for each validation set and for ``pooled``: ``spearman`` and ``pearson`` of
            predicted and computed dots, and the share of dots inside their interval (``coverage``; not of pooled ones).
        baselines: the same for each baseline.
        fit: epochs and losses.
        already_trained: whether the folder was there and nothing was trained.
    """

    output: str
    run_id: int | None
    model: str
    influence_run: int
    encoder: str
    datasets: list[str]
    n_samples: int
    n_left_out: int
    splits: dict[str, int]
    n_truncated: int = 0
    max_length: int = 0
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    baselines: dict[str, dict[str, dict[str, float | None]]] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    already_trained: bool = False


@verb(TrainRaterOptions)
def train_rater(options: TrainRaterOptions) -> RaterSummary:
    """Train a rater on the dots that a run gave the samples of some datasets.

    Raises:
        UsageError: unknown names, too few samples, dots that are all equal, or an output folder that holds something
            else.
        MissingScoresError: no finished run of dots on every dataset, or several.
        ModelError: the encoder cannot be used.
        RunFailedError: a loss that is not a number, no memory, or a full disk.
    """
    output, place = Path(options.output), pick_device(options.device)
    check_folder(output)
    fit = FitSettings(
        # 5 and 5.0 are the same training
        epochs=float(options.epochs),
        learning_rate=float(options.learning_rate),
        batch_size=options.batch_size,
        patience=options.patience,
        seed=options.seed,
        max_length=options.max_length,
        dtype=pick_dtype(options.dtype, place),
        device=str(place),
    )
    found = _read(options.store_file, list(dict.fromkeys(options.datasets)), options.model, options.run)
    split = encoders.split_of(found.questions, seed=options.seed, shares=options.shares)
    scales = _check_dots(found, split, options.target, options.coverage)
    source = find_model(options.encoder)
    settings = {
        "dots": found.digest(),
        "trained_on": found.run["fingerprint"],
        "encoder": source.model_id,
        "text": "full",
        "target": options.target,
        "coverage": float(options.coverage),
        "shares": list(map(float, options.shares)),
    }
    job = _Job(found, split, scales, source, settings, fit, options.store_file, options.progress)
    record = find_trained(
        output, kind=RATER, fingerprint=job.fingerprint, overwrite=options.overwrite, command="diq rater train"
    )
    if record is not None:
        log.info("`%s` was trained already on these dots with these settings", output)
        known = RaterSummary(**record["result"])
        run_id = _record_run(job, record["environment"], known)
        return replace(known, output=str(output), run_id=run_id, already_trained=True)
    return _train(job, output, options.baselines)


# dots -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Dots:
    """Texts and their dots in a run, n samples and k validation sets.

    Attributes:
        run: row of the run.
        model: row of the language model.
        sets: rows of the validation sets, each with its ``digest``.
        datasets: names.
        sample_ids: ids.
        questions: prompts, by which they are split.
        texts: what the rater reads.
        dots: ``[n, k]``, finite.
        lengths: ``[n, 2]``: answer tokens (words of the answer, where the run does not know them) and words of the
            question.
        n_left_out: samples without a finite dot for every set, or without text.
    """

    run: dict[str, Any]
    model: dict[str, Any]
    sets: list[dict[str, Any]]
    datasets: list[str]
    sample_ids: list[str]
    questions: list[str]
    texts: list[str]
    dots: Floats
    lengths: Floats
    n_left_out: int

    @property
    def names(self) -> list[str]:
        """Names of the validation sets."""
        return [str(one["name"]) for one in self.sets]

    def pooled(self, dots: Floats) -> Floats:
        """Dots ``[m, k]`` pooled over the sets by their number of samples (Eq. 3)."""
        weights = settle_weights(
            dict.fromkeys(self.names, math.nan), {one["name"]: one["n_samples"] for one in self.sets}
        )
        return np.asarray(dots @ np.asarray(list(weights.values())) / sum(weights.values()), np.float64)

    def digest(self) -> str:
        """Identity of what is learnt: 32 digits over the samples, whatever their order, and their dots."""
        rows = sorted(f"{one} {dots}" for one, dots in zip(self.sample_ids, self.dots.tolist(), strict=True))
        return fingerprint_of(*rows)


def _read(store: Path, datasets: Sequence[str], model: str, asked: int | None) -> _Dots:
    if not datasets:
        raise UsageError("no dataset was named", "name one that `diq score influence` has scored")
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        known = opened.rows("store/list_models")
        if model not in [one["name"] for one in known]:
            raise UsageError(
                f"no model named `{model}` in `{store}`",
                did_you_mean(model, [one["name"] for one in known]) or "run `diq score influence` first",
            )
        data = [opened.dataset(name) for name in datasets]
        run_id = _choose_run(opened, data, model, asked)
        train_rater = opened.row("store/get_run", run_id=run_id)
        assert train_rater is not None
        sets = opened.rows("store/validation_sets_of_run", run_id=run_id)
        for one in sets:
            rows = opened.rows("rater/samples_of_validation_set", validation_set_id=one["validation_set_id"])
            one["digest"] = digest_of([row["sample_id"] for row in rows])
        samples: dict[str, tuple[str, str, list[float], float, float]] = {}
        left_out: set[str] = set()
        for one in data:
            with opened.batches("rater/dots_of_run", dataset_id=one["dataset_id"], run_id=run_id) as batches:
                for batch in batches:
                    for row in batch.to_pylist():
                        messages = orjson.loads(row["messages"])
                        text = text_of(messages, "full")
                        if not text.strip() or not all(dot is not None and math.isfinite(dot) for dot in row["dots"]):
                            left_out.add(row["sample_id"])
                            continue
                        tokens, question = row["answer_tokens"], prompt_text(messages)
                        words = len(messages[-1]["content"].split())
                        lengths = (float(words if tokens is None else tokens), float(len(question.split())))
                        samples[row["sample_id"]] = (question, text, row["dots"], *lengths)
    if left_out:
        log.info("left out without a finite dot for every validation set: %s", amount(len(left_out), "sample"))
    kept = list(samples.values())
    return _Dots(
        run=train_rater,
        model=next(one for one in known if one["model_id"] == train_rater["model_id"]),
        sets=sets,
        datasets=list(datasets),
        sample_ids=list(samples),
        questions=[one[0] for one in kept],
        texts=[one[1] for one in kept],
        dots=np.asarray([one[2] for one in kept], np.float64).reshape(len(kept), len(sets)),
        lengths=np.asarray([one[3:] for one in kept], np.float64).reshape(len(kept), 2),
        n_left_out=len(left_out),
    )


def _choose_run(opened: Store, data: Sequence[Mapping[str, Any]], model: str, asked: int | None) -> int:
    """The run of dots that every dataset has, finished.

    Raises:
        UsageError: the run that was asked for holds no dots.
        MissingScoresError: no run, none that is finished, or several.
    """
    names = ", ".join(f"`{one['name']}`" for one in data)
    runs: dict[int, dict[str, Any]] = {}
    n_sealed: dict[int, int] = {}
    for one in data:
        for run in opened.rows("store/candidate_runs", kind="influence", dataset_id=one["dataset_id"], model=model):
            runs[run["run_id"]] = run
            n_sealed[run["run_id"]] = n_sealed.get(run["run_id"], 0) + (run["state"] == "sealed")
    if asked is not None and asked in runs and runs[asked]["method"] in ONLY_WHEN_MEANT:
        raise UsageError(
            f"run {asked} is of method `{runs[asked]['method']}`: a rater learns dots", "name a run of computed dots"
        )
    usable = [
        run
        for run_id, run in sorted(runs.items())
        if n_sealed[run_id] == len(data) and run["method"] not in ONLY_WHEN_MEANT
    ]
    candidates = [run for run in usable if asked in (None, run["run_id"])]
    if len(candidates) == 1:
        return int(candidates[0]["run_id"])
    command = f"`diq score influence {data[0]['name']} --model {model}`"
    if not candidates:
        which = f" in run {asked}" if asked is not None else ""
        raise MissingScoresError(
            f"no finished run of dots of model `{model}`{which} on {names}",
            f"name another with --run: {listed_runs(usable)}"
            if usable
            else f"run {command}"
            if not runs
            else f"run {command} to its end, on every dataset with the same settings",
        )
    raise MissingScoresError(
        f"{names} have dots of model `{model}` from {amount(len(candidates), 'run')}: {listed_runs(candidates)}",
        f"name one with --run {candidates[-1]['run_id']}",
    )


def _check_dots(found: _Dots, split: npt.NDArray[np.int8], target: Target, coverage: float) -> list[Scale]:
    """The scale of each validation set, from the dots of the training split.

    Raises:
        UsageError: too few samples, or dots that are all equal.
    """
    n = len(found.texts)
    if n < MIN_SAMPLES:
        raise UsageError(
            f"{amount(n, 'sample')} with dots are too few to train and test on: {MIN_SAMPLES} are the least "
            f"({found.n_left_out} have no finite dot)",
            "score more samples with `diq score influence`",
        )
    for number, name in enumerate(SPLITS):
        here = int(np.count_nonzero(split == number))
        if here < 2:
            raise UsageError(
                f"the {name} split has {here} of {amount(n, 'sample')}: questions are split, not rows",
                "score more questions, enlarge its share with --shares, or take another --seed",
            )
    # that the split suffices for the coverage should not show after the training
    half_width(np.zeros(int(np.count_nonzero(split == 1))), coverage)
    train = found.dots[split == 0]
    for name, column in zip(found.names, train.T, strict=True):
        if (column == column[0]).all():
            raise UsageError(
                f"all {amount(len(column), 'dot')} with `{name}` in the training split are {column[0]:g}",
                "there is nothing to learn: score with another validation set or model",
            )
    return [Scale.fit(column, target) for column in train.T]


# training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Job:
    """One call: the dots, how they are split and scaled, and how the encoder is trained."""

    found: _Dots
    split: npt.NDArray[np.int8]
    scales: list[Scale]
    source: ModelSource
    settings: dict[str, Any]
    fit: FitSettings
    store: Path
    progress: Progress | None

    def of(self, split: int) -> npt.NDArray[np.int64]:
        """Row numbers of a split."""
        return np.flatnonzero(self.split == split)

    @property
    def targets(self) -> Floats:
        """``[n, k]``."""
        columns = [scale.to_targets(column) for scale, column in zip(self.scales, self.found.dots.T, strict=True)]
        return np.stack(columns, axis=1)

    def all_settings(self) -> dict[str, Any]:
        """Everything that changes the weights."""
        return {**self.settings, **self.fit.identity()}

    @property
    def fingerprint(self) -> str:
        """Identity of the training."""
        return run_fingerprint("train", RATER, self.found.model["model_id"], self.all_settings())


def _train(job: _Job, folder: Path, baselines: bool) -> RaterSummary:
    found = job.found
    model, tokenizer = encoders.load_encoder(job.source, labels=found.names, regression=True, seed=job.fit.seed)
    network: Any = model
    max_length = min(job.fit.max_length, encoders.context_length(network.config, tokenizer))
    tokenizer.model_max_length = max_length
    ids, cut = encoders.tokenize(tokenizer, found.texts, max_length=max_length)
    summary = RaterSummary(
        output=str(folder),
        run_id=None,
        model=found.model["name"],
        influence_run=int(found.run["run_id"]),
        encoder=job.source.name,
        datasets=found.datasets,
        n_samples=len(ids),
        n_left_out=found.n_left_out,
        splits={name: len(job.of(number)) for number, name in enumerate(SPLITS)},
        n_truncated=int(cut.sum()),
        max_length=max_length,
    )
    if summary.n_truncated:
        log.warning(
            "%d of %s are longer than the %d tokens that the rater reads and were cut",
            summary.n_truncated, amount(len(ids), "text"), max_length,
        )  # fmt: skip
    if baselines:
        # before the training: they take seconds, and a missing package should show at once
        summary.baselines = {_LENGTH: _by_length(job), _TFIDF: _by_words(job)}
    targets = job.targets
    parts = [Examples([ids[i] for i in job.of(number)], targets[job.of(number)]) for number in range(len(SPLITS))]

    def loss(outputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.mse_loss(outputs, wanted.float())

    def report(_what: str, done: int, total: int) -> None:
        if job.progress:
            job.progress("training", done, total)

    result = fitting.fit(
        model, tokenizer, parts[0], parts[1], loss=loss, measure=_mean_spearman, settings=job.fit, progress=report
    )
    summary.fit = asdict(result)
    calibration, test = (
        encoders.predict(model, tokenizer, one.ids, device=job.fit.device) for one in (parts[1], parts[2])
    )
    coverage = job.settings["coverage"]
    sets = [
        RatedSet(
            one["name"], one["n_samples"], one["digest"], scale,
            half_width(np.abs(calibration[:, k] - parts[1].targets[:, k]), coverage),
        )
        for k, (one, scale) in enumerate(zip(found.sets, job.scales, strict=True))
    ]  # fmt: skip
    summary.metrics = _measures(job, test)
    predicted, true = predicted_dots(test, sets), found.dots[job.of(2)]
    inside = (predicted.low <= true) & (true <= predicted.high)
    for k, name in enumerate(found.names):
        summary.metrics[name]["coverage"] = float(inside[:, k].mean())
    record = RaterRecord(
        model_id=found.model["model_id"],
        model_name=found.model["name"],
        model_source=found.model["source"],
        trained_on=found.run["fingerprint"],
        target=job.settings["target"],
        coverage=coverage,
        sets=sets,
        spearman=summary.metrics[POOLED]["spearman"],
    )
    environment = describe_environment(job.fit.device)
    save(
        model.cpu(),
        tokenizer,
        folder,
        card=_card(job, summary, record),
        record={
            **record.to_dict(),
            "fingerprint": job.fingerprint,
            "encoder": job.source.source,
            "method": found.run["method"],
            "influence_config": orjson.loads(found.run["config"]),
            "settings": job.all_settings(),
            "environment": environment,
            "result": asdict(summary),
        },
    )
    summary.run_id = _record_run(job, environment, summary)
    return summary


def _mean_spearman(outputs: Floats, targets: Floats) -> float:
    """Mean over the validation sets of the rank correlation."""
    return float(np.mean([spearman(one, other) for one, other in zip(outputs.T, targets.T, strict=True)]))


def _measures(job: _Job, outputs: Floats) -> dict[str, dict[str, float | None]]:
    """Measures of predictions ``[m, k]`` for the test split, on the scale of the targets."""
    true = job.found.dots[job.of(2)]
    dots = np.stack([scale.to_dots(column) for scale, column in zip(job.scales, outputs.T, strict=True)], axis=1)
    columns = {name: (dots[:, k], true[:, k]) for k, name in enumerate(job.found.names)}
    columns[POOLED] = (job.found.pooled(dots), job.found.pooled(true))
    return {
        name: {"spearman": _number(spearman(one, other)), "pearson": _number(pearson(one, other))}
        for name, (one, other) in columns.items()
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _record_run(job: _Job, environment: Mapping[str, Any], summary: RaterSummary) -> int:
    with Store(job.store, wait_s=WAIT_S) as opened, opened.transaction():
        run_id = opened.open_run(
            kind="train",
            method=RATER,
            model_id=job.found.model["model_id"],
            fingerprint=job.fingerprint,
            settings=job.all_settings(),
            environment=environment,
        )
        result = orjson.dumps(asdict(replace(summary, run_id=run_id))).decode()
        opened.run("store/update_run_result", run_id=run_id, result=result)
    return run_id


# baselines --------------------------------------------------------------------------------------------------------


def _by_length(job: _Job) -> dict[str, dict[str, float | None]]:
    """Boosted trees on the length of the answer and of the question: what a rater must beat to have read anything."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    train, test = job.of(0), job.of(2)
    columns = []
    for column in job.targets.T:
        trees = HistGradientBoostingRegressor(random_state=job.fit.seed)
        columns.append(trees.fit(job.found.lengths[train], column[train]).predict(job.found.lengths[test]))
    return _measures(job, np.stack(columns, axis=1))


def _by_words(job: _Job) -> dict[str, dict[str, float | None]]:
    """Ridge regression on words and pairs of words; the validation split chooses the strength of its penalty."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    texts = [[job.found.texts[i] for i in job.of(number)] for number in range(len(SPLITS))]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, max_features=200_000)
    features = [vectorizer.fit_transform(texts[0]), *(vectorizer.transform(one) for one in texts[1:])]
    best, outputs = -math.inf, np.zeros((len(texts[2]), len(job.scales)))
    for strength in _STRENGTHS:
        fitted = Ridge(alpha=strength).fit(features[0], job.targets[job.of(0)])
        value = _mean_spearman(_rows(fitted.predict(features[1]), job), job.targets[job.of(1)])
        if value > best:
            best, outputs = value, _rows(fitted.predict(features[2]), job)
    return _measures(job, outputs)


def _rows(predicted: Any, job: _Job) -> Floats:
    # of one target alone, ridge regression makes a plain column
    return np.asarray(predicted, np.float64).reshape(-1, len(job.scales))


# the model card ---------------------------------------------------------------------------------------------------


def _card(job: _Job, summary: RaterSummary, record: RaterRecord) -> str:
    """``README.md`` of the folder."""
    found = job.found
    scale = {
        "rank": "normal scores of the ranks of the dots",
        "standard": "dots in standard deviations from their mean",
    }[record.target]
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-classification",
        f"base_model: {job.source.name}",
        "tags: [diq, influence, medical]",
        "---",
        "",
        f"# Influence on {', '.join(found.names)}, predicted from text",
        "",
        f"A regression from `{job.source.name}`, trained by `diq rater train` on the dots (method "
        f"`{found.run['method']}`) of `{record.model_name}` (`{record.model_id[:12]}`) for "
        f"{amount(summary.n_samples, 'sample')} of {', '.join(f'`{one}`' for one in found.datasets)}. It reads "
        f"question, reasoning and answer, up to {summary.max_length} tokens ({summary.n_truncated:,} of the samples "
        "are longer).",
        "",
        f"Its outputs are on the scale of its targets: {scale}. The knots of the map back to dots, and half the width "
        f"of the intervals, are in `{RECORD}`. Use it with `diq score influence DATASET --rater FOLDER`, for this "
        "language model and these validation sets alone.",
        "",
        "## Test split",
        "",
        "Correlations of predicted with computed dots, and the share of computed dots inside their split-conformal "
        f"interval of coverage {record.coverage:g}. Pooled: the mean over the sets, weighted by their samples.",
        "",
        "| validation set | Spearman | Pearson | inside the interval |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, one in summary.metrics.items():
        lines.append(
            f"| {name} | {_shown(one['spearman'])} | {_shown(one['pearson'])} | {_shown(one.get('coverage'))} |"
        )
    if summary.baselines:
        lines += ["", "| Spearman | rater | " + " | ".join(summary.baselines) + " |"]
        lines.append("| --- | ---: |" + " ---: |" * len(summary.baselines))
        for name, one in summary.metrics.items():
            others = [_shown(by[name]["spearman"]) for by in summary.baselines.values()]
            lines.append(f"| {name} | {_shown(one['spearman'])} | {' | '.join(others)} |")
    sizes = ", ".join(f"{n:,} {name}" for name, n in summary.splits.items())
    lines += [
        "",
        f"Questions are split, not rows ({sizes}). The validation split chose the epoch and the width of the "
        "intervals.",
        "",
        "A prediction is no dot: rank with computed dots where they can be had.",
    ]
    return "\n".join(lines) + "\n"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
