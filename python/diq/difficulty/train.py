"""Stage: train a difficulty classifier on labels in the store (``diq difficulty train``), and compare encoders.

One encoder with a head of five levels a dimension (or one model a dimension), trained on the question alone, as the
labels were given. Questions are split, not rows. Beside every encoder stand two baselines on the same split: always
the most frequent level, and TF-IDF with logistic regression.

Source: arXiv 2508.01450, section 3.2 and appendix C.2 (BiomedBERT, F1 of Table 6).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import torch

from diq.base.config import DIFFICULTY_DIMENSIONS, LIKERT_LEVELS
from diq.base.errors import MissingScoresError, UsageError
from diq.base.files import check_folder
from diq.base.fingerprint import fingerprint_of, run_fingerprint
from diq.base.options import verb
from diq.base.progress import Progress
from diq.base.sample import prompt_text
from diq.base.summary import Summary
from diq.base.text import amount
from diq.difficulty import ordinal
from diq.difficulty.options import TrainDifficultyOptions
from diq.encoders import fitting
from diq.encoders import network as encoders
from diq.encoders.fitting import Examples, FitSettings
from diq.encoders.folder import RECORD, find_trained, save, save_together
from diq.encoders.network import SPLITS
from diq.models.device import describe_environment, pick_device, pick_dtype
from diq.models.source import ModelSource, find_model
from diq.store.connection import WAIT_S
from diq.store.store import Store, listed_runs

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]

KIND = "difficulty classifier"
"""What :data:`diq.encoders.RECORD` calls such a folder."""

ENCODERS = {
    "biomedbert": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext",
    "clinicalbert": "medicalai/ClinicalBERT",
    "modernbert": "answerdotai/ModernBERT-base",
}
"""Short names of the encoders that the paper compares (arXiv 2508.01450, Table 6)."""

MIN_LABELS = 50
WEIGHTS = ("balanced", "sqrt", "none")

_TFIDF = "TF-IDF + logistic regression"
_MAJORITY = "most frequent level"
# strengths of the regularisation that the validation split chooses from
_STRENGTHS = (0.1, 1.0, 10.0)


@dataclass(frozen=True, slots=True)
class Labels:
    """Questions and their labels.

    Attributes:
        texts: ``n`` questions.
        levels: ``[n, 3]`` knowledge, reasoning and overall, 1 to 5, NaN where there is none.
        n_conflicts: questions with differing labels; all of them are kept.
    """

    texts: list[str]
    levels: Floats
    n_conflicts: int


@dataclass(slots=True)
class TrainedClassifier:
    """A trained classifier, or a baseline.

    Attributes:
        name: name of the encoder or baseline.
        output: its folder; None for a baseline.
        run_id: its run in the store; None for a baseline.
        metrics: for each dimension the measures of the test split (see ``ordinal.measures``); under ``raw`` what
            the head gives without calibration.
        calibration: for each dimension ``temperature`` and ``share``.
        fit: epochs and losses of each model.
        n_truncated: questions that are longer than the encoder's context.
        max_length: its context in tokens.
        seconds: wall time of the training.
        already_trained: whether the folder was there and nothing was trained.
    """

    name: str
    output: str | None
    run_id: int | None
    metrics: dict[str, dict[str, Any]]
    calibration: dict[str, dict[str, float]] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    n_truncated: int = 0
    max_length: int | None = None
    seconds: float = 0.0
    already_trained: bool = False


@dataclass(slots=True, repr=False)
class ClassifierSummary(Summary):
    """What a training of classifiers did.

    Attributes:
        datasets: names of the datasets.
        label_runs: run of the labels of each dataset.
        n_questions: distinct questions with a label.
        n_conflicts: questions whose rows bear differing labels.
        splits: for each split and dimension the labels of each level, 1 to 5.
        classifiers: the encoders in the order they were asked for, then the baselines.
    """

    datasets: list[str]
    label_runs: dict[str, int]
    n_questions: int
    n_conflicts: int
    splits: dict[str, dict[str, list[int]]]
    classifiers: list[TrainedClassifier]


@verb(TrainDifficultyOptions)
def train_difficulty(options: TrainDifficultyOptions) -> ClassifierSummary:
    """Train a classifier from each encoder on the difficulty labels of some datasets; all have the same test split.

    Raises:
        UsageError: no or too few labels, labels that are no levels, a level missing from the training split, or an
            output folder that holds something else.
        ModelError: an encoder cannot be used.
        RunFailedError: a loss that is not a number, no memory, or a full disk.
    """
    output, place = Path(options.output), pick_device(options.device)
    check_folder(output)
    fit = FitSettings(
        epochs=float(options.epochs),
        learning_rate=float(options.learning_rate),
        batch_size=options.batch_size,
        patience=options.patience,
        seed=options.seed,
        max_length=options.max_length,
        dtype=pick_dtype(options.dtype, place),
        device=str(place),
    )
    found, label_runs = _read_labels(options.store_file, options.datasets, options.difficulty_run)
    split = encoders.split_of(found.texts, seed=options.seed, shares=options.shares)
    counts = _count(found.levels, split)
    dimensions = _check_labels(counts)
    settings = {
        "labels": _digest(found),
        "dimensions": dimensions,
        "separate": options.separate,
        "weights": options.class_weights,
        "ordinal_weight": float(options.ordinal_weight),
        "shares": [float(one) for one in options.shares],
    }
    sources = [find_model(ENCODERS.get(one.lower(), one)) for one in dict.fromkeys(map(str, options.encoder))]
    places = [output] if len(sources) == 1 else [output / one.name.rpartition("/")[2] for one in sources]
    if len(set(places)) < len(places):
        raise UsageError("two of the encoders have the same name", "train them into folders of their own, one a call")
    job = _Job(
        found,
        split,
        dimensions,
        settings,
        fit,
        list(options.datasets),
        label_runs,
        counts,
        options.store_file,
        options.progress,
    )
    # before the first of them takes hours
    fingerprints = [job.fingerprint(source) for source in sources]
    known = [
        find_trained(
            folder, kind=KIND, fingerprint=fingerprint, overwrite=options.overwrite, command="diq difficulty train"
        )
        for folder, fingerprint in zip(places, fingerprints, strict=True)
    ]
    trained = [
        _known(folder, record, job, source) if record else _train(job, source, folder, fingerprint)
        for source, folder, record, fingerprint in zip(sources, places, known, fingerprints, strict=True)
    ]
    if options.baselines:
        trained += [_majority(job), _tfidf(job)]
    return ClassifierSummary(list(options.datasets), label_runs, len(found.texts), found.n_conflicts, counts, trained)


# labels -----------------------------------------------------------------------------------------------------------


def _read_labels(store: Path, datasets: Sequence[str], asked: int | None) -> tuple[Labels, dict[str, int]]:
    rows: dict[tuple[str, tuple[float | None, ...]], None] = {}
    runs: dict[str, int] = {}
    wrong: list[str] = []
    n_read = n_wrong = 0
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        for name in dict.fromkeys(datasets):
            data = opened.dataset(name)
            runs[name] = _label_run(opened, data, asked)
            with opened.batches(
                "difficulty/labels_of_dataset", dataset_id=data["dataset_id"], run_id=runs[name]
            ) as batches:
                for batch in batches:
                    for row in batch.to_pylist():
                        n_read += 1
                        levels = tuple(row[one] for one in DIFFICULTY_DIMENSIONS)
                        bad = [one for one in levels if one is not None and one not in range(1, LIKERT_LEVELS + 1)]
                        if bad:
                            n_wrong += 1
                            wrong = wrong or [f"{bad[0]:g} at position {row['position']} of `{name}`"]
                            continue
                        rows[prompt_text(orjson.loads(row["messages"])), levels] = None
    if n_wrong:
        raise UsageError(
            f"{n_wrong:,} of {amount(n_read, 'label')} are no whole number from 1 to {LIKERT_LEVELS}, first {wrong[0]}",
            "labels are levels: correct them, or name another run with --difficulty-run",
        )
    per_question = Counter(text for text, _ in rows)
    n_conflicts = sum(n > 1 for n in per_question.values())
    if n_conflicts:
        log.warning("differing labels of %s; all of them are kept", amount(n_conflicts, "question"))
    table = np.asarray([[np.nan if one is None else one for one in found] for _, found in rows], np.float64)
    return Labels([text for text, _ in rows], table.reshape(-1, len(DIFFICULTY_DIMENSIONS)), n_conflicts), runs


def _label_run(opened: Store, data: Mapping[str, Any], asked: int | None) -> int:
    """The run whose scores are labels: of any kind but a classifier's own predictions."""
    there = opened.rows("store/candidate_runs", kind="difficulty", dataset_id=data["dataset_id"], model=None)
    candidates = [one for one in there if (one["method"] != "classifier" if asked is None else one["run_id"] == asked)]
    if len(candidates) == 1:
        return int(candidates[0]["run_id"])
    if not candidates:
        which = "difficulty labels" if asked is None else f"difficulty scores in run {asked}"
        raise MissingScoresError(
            f"no {which} on dataset `{data['name']}`: found 0 of {amount(data['n_samples'], 'sample')}",
            f"name another with --difficulty-run: {listed_runs(there)}"
            if there and asked is not None
            else f"run `diq difficulty annotate {data['name']} --model MODEL`, or `diq ingest FILE --scores`",
        )
    raise MissingScoresError(
        f"dataset `{data['name']}` has labels from {amount(len(candidates), 'run')}: {listed_runs(candidates)}",
        f"name one with --difficulty-run {candidates[-1]['run_id']}",
    )


def _digest(found: Labels) -> str:
    return fingerprint_of(
        *sorted(f"{levels.tolist()} {text}" for text, levels in zip(found.texts, found.levels, strict=True))
    )


def _count(levels: Floats, split: npt.NDArray[np.int8]) -> dict[str, dict[str, list[int]]]:
    """Labels of each level, by split and dimension."""
    return {
        name: {
            dimension: [
                int(np.count_nonzero(levels[split == number, d] == level)) for level in range(1, LIKERT_LEVELS + 1)
            ]
            for d, dimension in enumerate(DIFFICULTY_DIMENSIONS)
        }
        for number, name in enumerate(SPLITS)
    }


def _check_labels(counts: Mapping[str, Mapping[str, list[int]]]) -> list[str]:
    """The dimensions that have labels.

    Raises:
        UsageError: too few labels, one level alone, or a level that only other splits hold.
    """
    dimensions = []
    for dimension in DIFFICULTY_DIMENSIONS:
        by_split = {name: counts[name][dimension] for name in SPLITS}
        total = [sum(parts) for parts in zip(*by_split.values(), strict=True)]
        if not sum(total):
            log.warning("there is no label of %s: the classifier will not rate it", dimension)
            continue
        if sum(total) < MIN_LABELS:
            raise UsageError(
                f"{amount(sum(total), 'label')} of {dimension} are too few to train and test on: {MIN_LABELS} are the "
                "least",
                "annotate more questions",
            )
        if sum(n > 0 for n in total) == 1:
            raise UsageError(
                f"all {amount(sum(total), 'label')} of {dimension} are the level {1 + int(np.argmax(total))}",
                "a classifier needs at least two levels: annotate more questions",
            )
        for level, n in enumerate(total, start=1):
            if n and not by_split["train"][level - 1]:
                raise UsageError(
                    f"level {level} of {dimension} is absent from the training split: the others have its "
                    f"{amount(n, 'label')}",
                    "annotate more questions, or take another --seed",
                )
        absent = [level for level, n in enumerate(total, start=1) if not n]
        if absent:
            log.warning("no label of %s is %s: the classifier will hardly say so", dimension, _listed(absent))
        for name in SPLITS[1:]:
            if not sum(by_split[name]):
                raise UsageError(
                    f"the {name} split has no label of {dimension}", "annotate more questions, or enlarge its --shares"
                )
            here = [level for level, n in enumerate(by_split[name], start=1) if not n and level not in absent]
            if here:
                log.warning("the %s split has no label of %s that is %s", name, dimension, _listed(here))
        dimensions.append(dimension)
    if not dimensions:
        raise UsageError("there is no difficulty label", "annotate questions with `diq difficulty annotate`")
    return dimensions


def _listed(levels: Sequence[int]) -> str:
    return " or ".join(map(str, levels))


# training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Job:
    """One call: the labels, how they are split, and how every encoder is trained."""

    labels: Labels
    split: npt.NDArray[np.int8]
    dimensions: list[str]
    settings: dict[str, Any]
    fit: FitSettings
    datasets: list[str]
    label_runs: dict[str, int]
    counts: dict[str, dict[str, list[int]]]
    store: Path
    progress: Progress | None

    @property
    def columns(self) -> list[int]:
        """Columns of the labels that are trained on."""
        return [DIFFICULTY_DIMENSIONS.index(one) for one in self.dimensions]

    def of(self, split: int) -> npt.NDArray[np.int64]:
        """Row numbers of a split."""
        return np.flatnonzero(self.split == split)

    def all_settings(self) -> dict[str, Any]:
        """Everything that changes the weights."""
        return {**self.settings, **self.fit.identity()}

    def fingerprint(self, source: ModelSource) -> str:
        """Identity of the training of an encoder."""
        return run_fingerprint("train", "classifier", source.model_id, self.all_settings())


def _known(folder: Path, record: Mapping[str, Any], job: _Job, source: ModelSource) -> TrainedClassifier:
    log.info("`%s` was trained already with these labels and settings", folder)
    found = TrainedClassifier(**record["result"])
    run_id = _record_run(job, source, record["environment"], record["result"])
    return replace(found, output=str(folder), run_id=run_id, already_trained=True)


def _train(job: _Job, source: ModelSource, folder: Path, fingerprint: str) -> TrainedClassifier:
    # one model with all heads, or one a dimension
    groups = [[one] for one in job.dimensions] if job.settings["separate"] else [job.dimensions]
    environment = describe_environment(job.fit.device)
    trained = TrainedClassifier(source.name, str(folder), None, {})
    parts = [_fit(job, source, dimensions, trained) for dimensions in groups]
    record = {
        "kind": KIND,
        "fingerprint": fingerprint,
        "encoder": source.source,
        "encoder_id": source.model_id,
        "datasets": job.datasets,
        "label_runs": job.label_runs,
        "settings": job.all_settings(),
        "environment": environment,
        "result": asdict(trained),
    }
    card = _card(job, source, trained)
    if job.settings["separate"]:
        save_together(dict(zip(job.dimensions, parts, strict=True)), folder, card=card, record=record)
    else:
        save(*parts[0], folder, card=card, record=record)
    trained.run_id = _record_run(job, source, environment, asdict(trained))
    return trained


def _fit(
    job: _Job, source: ModelSource, dimensions: Sequence[str], trained: TrainedClassifier
) -> tuple[torch.nn.Module, Any]:
    """Train one model for some dimensions, calibrate it and measure it; what came out is put into ``trained``."""
    levels = range(1, LIKERT_LEVELS + 1)
    alone = job.settings["separate"]
    labels = [str(level) if alone else f"{one}_{level}" for one in dimensions for level in levels]
    model, tokenizer = encoders.load_encoder(source, labels=labels, regression=False, seed=job.fit.seed)
    network: Any = model
    max_length = min(job.fit.max_length, encoders.context_length(network.config, tokenizer))
    tokenizer.model_max_length = max_length
    ids, cut = encoders.tokenize(tokenizer, job.labels.texts, max_length=max_length)
    trained.n_truncated, trained.max_length = int(cut.sum()), max_length
    if trained.n_truncated:
        log.warning(
            "%d of %s are longer than the %d tokens that `%s` reads and were cut",
            trained.n_truncated, amount(len(ids), "question"), max_length, source.name,
        )  # fmt: skip
    columns = [DIFFICULTY_DIMENSIONS.index(one) for one in dimensions]
    parts = []
    for number in range(len(SPLITS)):
        # a row without a label of these dimensions teaches nothing
        rows = [i for i in job.of(number) if np.isfinite(job.labels.levels[i, columns]).any()]
        parts.append(Examples([ids[i] for i in rows], job.labels.levels[rows][:, columns]))
    train, validation, test = parts
    weights = np.stack(
        [ordinal.class_weights(train.targets[:, d], how=job.settings["weights"]) for d in range(len(columns))]
    )
    on_device = torch.from_numpy(weights).float().to(job.fit.device)

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return ordinal.ordinal_loss(logits, targets, on_device, ordinal_weight=job.settings["ordinal_weight"])

    def fitness(logits: Floats, targets: Floats) -> float:
        # what the scores are for, and smoother than F1: a small split has few samples of a rare level
        heads = logits.reshape(len(logits), -1, LIKERT_LEVELS)
        scores = []
        for d in range(len(columns)):
            one = ordinal.calibrate(heads[:, d], targets[:, d], weights[d])
            found = ordinal.measures(ordinal.probabilities(one.apply(heads[:, d])), targets[:, d])
            scores.append(found["ranked_probability_score"])
        return -float(np.mean(scores))

    def report(_what: str, done: int, total: int) -> None:
        if job.progress:
            job.progress(f"{source.name} {dimensions[0]}" if alone else source.name, done, total)

    result = fitting.fit(
        model, tokenizer, train, validation, loss=loss, measure=fitness, settings=job.fit, progress=report
    )
    outputs = [
        encoders.predict(model, tokenizer, one.ids, device=job.fit.device).reshape(-1, len(columns), LIKERT_LEVELS)
        for one in (validation, test)
    ]
    calibrations = [
        ordinal.calibrate(outputs[0][:, d], validation.targets[:, d], weights[d]) for d in range(len(columns))
    ]
    ordinal.fold(model, calibrations)
    for d, (dimension, one) in enumerate(zip(dimensions, calibrations, strict=True)):
        trained.metrics[dimension] = {
            **ordinal.measures(ordinal.probabilities(one.apply(outputs[1][:, d])), test.targets[:, d]),
            "raw": ordinal.measures(ordinal.probabilities(outputs[1][:, d]), test.targets[:, d]),
        }
        trained.calibration[dimension] = {"temperature": one.temperature, "share": one.share}
        trained.fit[dimension] = asdict(result)
    trained.seconds += result.seconds
    return model.cpu(), tokenizer


def _record_run(job: _Job, source: ModelSource, environment: Mapping[str, Any], result: Mapping[str, Any]) -> int:
    with Store(job.store, wait_s=WAIT_S) as opened, opened.transaction():
        opened.add_model(
            model_id=source.model_id, name=source.name, source=source.source, architecture=None, n_parameters=None
        )
        run_id = opened.open_run(
            kind="train",
            method="classifier",
            model_id=source.model_id,
            fingerprint=job.fingerprint(source),
            settings=job.all_settings(),
            environment=environment,
        )
        opened.run("store/update_run_result", run_id=run_id, result=orjson.dumps(result).decode())
    return run_id


# baselines --------------------------------------------------------------------------------------------------------


def _majority(job: _Job) -> TrainedClassifier:
    """Always the training split's frequencies of the levels, hence always its most frequent one."""
    metrics = {}
    for dimension, d in zip(job.dimensions, job.columns, strict=True):
        counts = np.asarray(job.counts["train"][dimension], np.float64)
        levels = job.labels.levels[job.of(2), d]
        metrics[dimension] = ordinal.measures(np.tile(counts / counts.sum(), (len(levels), 1)), levels)
    return TrainedClassifier(_MAJORITY, None, None, metrics)


def _tfidf(job: _Job) -> TrainedClassifier:
    """Words and pairs of words; the strength of the regularisation is chosen by macro F1 on the validation split."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    def rows_of(number: int, d: int) -> list[int]:
        return [i for i in job.of(number) if np.isfinite(job.labels.levels[i, d])]

    def probability(fitted: Any, features: Any) -> Floats:
        found = np.zeros((features.shape[0], LIKERT_LEVELS))
        found[:, fitted.classes_.astype(int) - 1] = fitted.predict_proba(features)
        return found

    metrics = {}
    for dimension, d in zip(job.dimensions, job.columns, strict=True):
        split = [rows_of(number, d) for number in range(len(SPLITS))]
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
        texts = [[job.labels.texts[i] for i in rows] for rows in split]
        features = [vectorizer.fit_transform(texts[0]), *(vectorizer.transform(one) for one in texts[1:])]
        levels = [job.labels.levels[rows, d] for rows in split]
        best: tuple[float, Floats] | None = None
        for strength in _STRENGTHS:
            fitted = LogisticRegression(
                C=strength,
                max_iter=2000,
                class_weight=None if job.settings["weights"] == "none" else "balanced",
                random_state=job.fit.seed,
            ).fit(features[0], levels[0].astype(int))
            score = ordinal.measures(probability(fitted, features[1]), levels[1])["macro_f1"]
            if best is None or score > best[0]:
                best = (score, probability(fitted, features[2]))
        assert best is not None
        metrics[dimension] = ordinal.measures(best[1], levels[2])
    return TrainedClassifier(_TFIDF, None, None, metrics)


# the model card ---------------------------------------------------------------------------------------------------


def _card(job: _Job, source: ModelSource, trained: TrainedClassifier) -> str:
    """``README.md`` of the folder."""
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-classification",
        f"base_model: {source.name}",
        "tags: [diq, difficulty, medical]",
        "---",
        "",
        f"# Difficulty of medical questions: {', '.join(job.dimensions)}",
        "",
        f"Five levels (1 to 5) a dimension, from `{source.name}`, trained by `diq difficulty train` on "
        f"{amount(len(job.labels.texts), 'question')} of {', '.join(f'`{one}`' for one in job.datasets)}. It reads the "
        f"question alone, up to {trained.max_length} tokens ({trained.n_truncated:,} of the training questions are "
        "longer).",
        "",
        "The difficulty of a question is the expected level: the softmax over the five outputs of a dimension, times 1 "
        "to 5. The last layer holds the calibration, so the probabilities need no further step.",
        "",
        "Use it with `diq score difficulty DATASET --model FOLDER`, or with "
        "`AutoModelForSequenceClassification.from_pretrained(FOLDER)`: its outputs are named "
        + ("1 to 5 in each of the folders." if job.settings["separate"] else f"{job.dimensions[0]}_1 and so on."),
        "",
        "## Test split",
        "",
        "| dimension | n | accuracy | macro F1 | weighted F1 | kappa | absolute error | calibration error (raw) |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for dimension, found in trained.metrics.items():
        numbers = ("accuracy", "macro_f1", "weighted_f1", "kappa", "mean_absolute_error", "calibration_error")
        values = " | ".join("" if found[one] is None else f"{found[one]:.3f}" for one in numbers)
        lines.append(f"| {dimension} | {found['n']} | {values} ({found['raw']['calibration_error']:.3f}) |")
    lines += [
        "",
        "Macro F1 is over the levels that the test labels hold; kappa is quadratic-weighted; the error is that of the "
        "expected level. Confusion (rows: label 1 to 5, columns: predicted):",
        "",
    ]
    for dimension, found in trained.metrics.items():
        lines += [f"`{dimension}`", "", "| | 1 | 2 | 3 | 4 | 5 |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
        lines += [f"| {level} | {' | '.join(map(str, row))} |" for level, row in enumerate(found["confusion"], start=1)]
        lines.append("")
    lines += [
        "## Labels",
        "",
        "| split | dimension | 1 | 2 | 3 | 4 | 5 |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in SPLITS:
        for dimension in job.dimensions:
            lines.append(f"| {name} | {dimension} | {' | '.join(map(str, job.counts[name][dimension]))} |")
    lines += [
        "",
        f"Questions are split, not rows: no question is on two sides. Settings and every figure are in `{RECORD}`.",
        "",
        "Not for clinical use: a level says how hard a question seemed to whoever labelled it.",
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"
