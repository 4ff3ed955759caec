"""Stage: compute the difficulty and influence scores that are missing, shard by shard, and keep them in the store.

A shard is committed in one transaction; a killed run loses at most the shard it was computing and, since batches
depend on the dataset alone, ends with the same numbers as an undisturbed one. The store is held only while it is read
or written, never while the model runs.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import torch

from diq import models
from diq.config import DIFFICULTY_DIMENSIONS, MAX_LENGTH
from diq.difficulty import DifficultyClassifier, three_folders
from diq.errors import RunFailedError, UsageError
from diq.gradients import InfluenceScorer, MatrixGradients, mean_gradient
from diq.influence import no_dot_reason
from diq.records import Progress, did_you_mean, prompt_text, run_fingerprint
from diq.samples import TokenFile, Tokenization, Tokens, collate, plan_batches
from diq.store import Store

log = logging.getLogger(__name__)

# a shard is as much as one is willing to compute again after a kill; a commit costs some 20 ms
_SHARD_SECONDS = 10.0
# how long to wait for another process that reads the store between two shards
_WAIT_S = 120.0
_READ_ROWS = 2048
# padded tokens a batch; about where a CPU's matrix products stop getting faster
_CPU_TOKEN_BUDGET = 2048
_GPU_TOKEN_BUDGET = 16384


@dataclass(slots=True)
class ScoreSummary:
    """What a scoring did.

    Attributes:
        run_id: run in the store.
        dataset: name of the dataset.
        n_samples: samples of the dataset.
        n_scored: samples scored by this call.
        n_cached: samples that the store had already.
        n_no_score: samples of the dataset without a score, whose reason is in the store.
        reasons: count of each reason.
        seconds: wall time of the scoring itself.
        tokens: tokens that went through the model.
        details: more figures by name.
    """

    run_id: int
    dataset: str
    n_samples: int
    n_scored: int = 0
    n_cached: int = 0
    n_no_score: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    tokens: int = 0
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


# influence ---------------------------------------------------------------------------------------------------------


def score_influence(
    dataset: str,
    *,
    model: str,
    store: Path,
    validation_sets: Sequence[str] = (),
    model_name: str | None = None,
    params: str = "qkv",
    max_length: int = MAX_LENGTH,
    loss_reduction: Literal["mean", "sum"] = "mean",
    template: Literal["auto", "none"] = "auto",
    dtype: str = "auto",
    device: str = "auto",
    token_budget: int | None = None,
    progress: Progress | None = None,
) -> ScoreSummary:
    """Compute the missing dots of a dataset with one or several validation sets, exactly (Eq. 3 and 4).

    Args:
        dataset: name of a dataset in the store.
        model: folder or hub id of a causal language model.
        store: the store file.
        validation_sets: names; empty means all of the store.
        model_name: name of the model in the store; default the hub id or the folder's name.
        params: ``qkv``, ``all-linear`` or a regular expression over module names.
        max_length: tokens after which a sample is cut on the right.
        loss_reduction: ``mean`` or ``sum`` over a sample's answer tokens.
        template: ``auto`` uses the tokenizer's chat template if there is one, ``none`` never does.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float64``.
        device: ``auto``, ``cpu``, ``cuda``, ...
        token_budget: padded tokens a batch; None finds one (a GPU that runs out of memory halves the batch).
        progress: called now and then with the tokens done and to do.

    Raises:
        UsageError: unknown names, an empty dataset or no validation set.
        ModelError: the model cannot be used.
        StoreError: the store is held by another process.
    """
    if max_length < 2:
        raise UsageError(f"--max-length {max_length} leaves no room for a prompt and an answer", "give 2 or more")
    if token_budget is not None and token_budget < 1:
        raise UsageError(f"--batch-tokens {token_budget} is not a positive number", "leave it out to have it chosen")
    with Store(store, read_only=True) as opened:
        data = opened.dataset(dataset)
        # a set that came with scores computed elsewhere has a name, but no samples here
        here = [one["name"] for one in opened.rows("list_validation_sets") if one["dataset_id"] is not None]
        names = list(dict.fromkeys(validation_sets)) or here
        if not names:
            raise UsageError(
                f"there is no validation set in `{store}`",
                "make one with `diq ingest FILE --dataset NAME --validation --sample 20`",
            )
        sets = [opened.validation_set(name) for name in names]
        empty = [name for name in names if name not in here]
        if empty:
            raise UsageError(
                f"the validation set `{empty[0]}` has no samples in the store", "ingest its samples with --validation"
            )
        if data["n_samples"] == 0:
            raise UsageError(f"the dataset `{dataset}` has no samples", "see `diq sql 'from rejects'`")
        validation_messages = [
            [
                orjson.loads(row["messages"])
                for row in opened.rows("validation_messages", validation_set_id=one["validation_set_id"])
            ]
            for one in sets
        ]

    source = models.find_model(model, name=model_name)
    tokenizer = models.load_tokenizer(source)
    network = models.load_causal_lm(source, dtype=dtype, device=device)
    place = next(network.parameters()).device
    modules = models.linear_modules(network, params)
    tokenization = Tokenization(tokenizer, max_length=models.usable_length(source, max_length), template=template)
    settings = {
        "parameters": params,
        "modules": sorted(modules),
        "loss_reduction": loss_reduction,
        "dtype": str(next(network.parameters()).dtype).removeprefix("torch."),
        **tokenization.settings(),
    }
    with Store(store, wait_s=_WAIT_S) as opened, opened.transaction():
        opened.add_model(
            model_id=source.model_id,
            name=source.name,
            source=source.source,
            architecture=type(network).__name__,
            n_parameters=sum(one.numel() for one in network.parameters()),
        )
        run_id = opened.open_run(
            kind="influence",
            method="exact",
            model_id=source.model_id,
            fingerprint=run_fingerprint("influence", "exact", source.model_id, settings),
            settings=settings,
            environment=models.environment(place),
        )
        for one in sets:
            opened.run("insert_run_validation_set", run_id=run_id, validation_set_id=one["validation_set_id"])
        opened.start_scoring(run_id, data["dataset_id"])
        (missing,) = opened.rows(
            "count_missing_influence",
            dataset_id=data["dataset_id"],
            run_id=run_id,
            validation_set_ids=[one["validation_set_id"] for one in sets],
        )

    summary = ScoreSummary(run_id, dataset, data["n_samples"], n_cached=data["n_samples"] - missing["n"])
    if missing["n"]:
        tokens = TokenFile()
        try:
            rows = _tokenize(store, data, run_id, sets, tokenization, tokens, progress)
            started = time.monotonic()
            validation = _validation_gradients(
                network, modules, tokenization, names, validation_messages, loss_reduction, token_budget, progress
            )
            scorer = InfluenceScorer(network, modules, validation, reduction=loss_reduction)
            _score_shards(store, run_id, sets, rows, tokens, scorer, token_budget, summary, progress)
            summary.seconds = time.monotonic() - started
        finally:
            tokens.close()
    with Store(store, wait_s=_WAIT_S) as opened:
        with opened.transaction():
            opened.seal(run_id, data["dataset_id"])
        for row in opened.rows("influence_reasons", run_id=run_id, dataset_id=data["dataset_id"]):
            summary.reasons[row["reason"]] = row["n"]
        summary.n_no_score = sum(summary.reasons.values())
        (meter,) = opened.rows("length_bias", run_id=run_id, dataset_id=data["dataset_id"])
    summary.details = {
        "model": source.name,
        "model_id": source.model_id,
        "validation_sets": names,
        "modules": len(modules),
        "parameters": sum(int(one.get_parameter("weight").numel()) for one in modules.values()),
        "dtype": settings["dtype"],
        "template": "chat template" if tokenization.uses_template else "Question/Answer",
        "dot_length_correlation": meter["correlation"],
    }
    return summary


@dataclass(slots=True)
class _Row:
    """A sample of the dataset while it is scored; ``index`` is its place in the token file, -1 without tokens."""

    sample_id: str
    missing: bool
    index: int
    reason: str | None


def _tokenize(
    store: Path,
    data: dict[str, Any],
    run_id: int,
    sets: Sequence[dict[str, Any]],
    tokenization: Tokenization,
    tokens: TokenFile,
    progress: Progress | None,
) -> list[_Row]:
    # every sample, also those with scores: the batches must not depend on how far an earlier run came
    rows: list[_Row] = []
    with (
        Store(store, read_only=True, wait_s=_WAIT_S) as opened,
        opened.batches(
            "samples_missing_influence",
            rows=_READ_ROWS,
            dataset_id=data["dataset_id"],
            run_id=run_id,
            validation_set_ids=[one["validation_set_id"] for one in sets],
        ) as stream,
    ):
        for batch in stream:
            ids, texts, missing = (batch.column(name).to_pylist() for name in ("sample_id", "messages", "missing"))
            encoded = tokenization.encode([orjson.loads(text) for text in texts])
            for sample_id, lacks, one in zip(ids, missing, encoded, strict=True):
                if isinstance(one, str):
                    rows.append(_Row(sample_id, lacks, -1, one))
                    continue
                rows.append(_Row(sample_id, lacks, len(tokens), None))
                tokens.append(one)
            if progress:
                progress("tokenizing", len(rows), data["n_samples"])
    return rows


def _validation_gradients(
    network: torch.nn.Module,
    modules: dict[str, torch.nn.Module],
    tokenization: Tokenization,
    names: Sequence[str],
    conversations: Sequence[Sequence[Any]],
    reduction: Literal["mean", "sum"],
    token_budget: int | None,
    progress: Progress | None,
) -> list[MatrixGradients]:
    gradients = []
    budget = token_budget or default_token_budget(network)
    for done, (name, messages) in enumerate(zip(names, conversations, strict=True)):
        if progress:
            progress("validation gradients", done, len(names))
        usable = tokenization.encode_validation_set(name, messages)
        lengths = np.asarray([len(one.ids) for one in usable], np.int64)
        batches = [collate([usable[i] for i in batch]) for batch in plan_batches(lengths, token_budget=budget)]
        gradient = mean_gradient(network, modules, batches, reduction=reduction)
        bad = [module for module, matrix in gradient.items() if not torch.isfinite(matrix).all()]
        if bad:
            raise RunFailedError(
                f"the mean gradient of the validation set `{name}` is not finite (first in `{bad[0]}`)",
                "try --dtype float32; a model that gives NaN losses on real text cannot be used",
            )
        gradients.append(gradient)
    if progress:
        progress("validation gradients", len(names), len(names))
    return gradients


def _score_shards(
    store: Path,
    run_id: int,
    sets: Sequence[dict[str, Any]],
    rows: Sequence[_Row],
    tokens: TokenFile,
    scorer: InfluenceScorer,
    token_budget: int | None,
    summary: ScoreSummary,
    progress: Progress | None,
) -> None:
    by_index = {row.index: row for row in rows if row.index >= 0}
    lengths = tokens.lengths()
    total = sum(int(lengths[row.index]) for row in rows if row.missing and row.index >= 0)
    n_sets = len(sets)
    shard: list[tuple[str, list[Any], float | None, int, str | None]]
    shard = [(row.sample_id, [None] * n_sets, None, 0, row.reason) for row in rows if row.missing and row.index < 0]
    set_ids = [one["validation_set_id"] for one in sets]
    last = time.monotonic()
    for batch in plan_batches(lengths, token_budget=token_budget or default_token_budget(scorer.model)):
        chosen = [int(i) for i in batch if by_index[int(i)].missing]
        if not chosen:
            continue
        samples = [tokens[i] for i in chosen]
        dots, losses, counts = _score_halving(scorer, samples)
        for i, index in enumerate(chosen):
            loss, count = float(losses[i]), int(counts[i])
            values: list[Any] = dots[i].tolist()
            reason = no_dot_reason(loss, count, values)
            shard.append(
                (
                    by_index[index].sample_id,
                    [None] * n_sets if reason else values,
                    None if reason else loss,
                    count,
                    reason,
                )
            )
            summary.tokens += len(samples[i].ids)
        if time.monotonic() - last >= _SHARD_SECONDS:
            summary.n_scored += _commit_influence(store, run_id, set_ids, shard)
            shard, last = [], time.monotonic()
        if progress:
            progress("scoring", summary.tokens, total)
    summary.n_scored += _commit_influence(store, run_id, set_ids, shard)


def _score_halving(
    scorer: InfluenceScorer, samples: Sequence[Tokens]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Score a batch; a GPU that runs out of memory gets it in halves."""
    try:
        return scorer.score(collate(samples))
    except torch.OutOfMemoryError as error:
        if len(samples) == 1:
            raise RunFailedError(
                f"out of memory on one sample of {len(samples[0].ids)} tokens",
                "lower --max-length or use --dtype bfloat16",
            ) from error
        log.warning("out of memory on %d samples of %d tokens: halving the batch", len(samples), len(samples[0].ids))
        torch.cuda.empty_cache()
    middle = len(samples) // 2
    parts = [_score_halving(scorer, part) for part in (samples[:middle], samples[middle:])]
    dots, losses, counts = (torch.cat(one) for one in zip(*parts, strict=True))
    return dots, losses, counts


def _commit_influence(store: Path, run_id: int, set_ids: Sequence[int], shard: Sequence[Any]) -> int:
    if not shard:
        return 0
    n = len(set_ids)
    incoming = pa.table(
        {
            "run_id": pa.array([run_id] * (len(shard) * n), pa.int64()),
            "sample_id": pa.array([one[0] for one in shard for _ in range(n)], pa.string()),
            "validation_set_id": pa.array(list(set_ids) * len(shard), pa.int32()),
            "dot": pa.array([value for one in shard for value in one[1]], pa.float64()),
            "loss": pa.array([one[2] for one in shard for _ in range(n)], pa.float64()),
            "answer_tokens": pa.array([one[3] for one in shard for _ in range(n)], pa.int32()),
            "reason": pa.array([one[4] for one in shard for _ in range(n)], pa.string()),
        }
    )
    with Store(store, wait_s=_WAIT_S) as opened, opened.transaction():
        opened.insert("insert_influence_scores", incoming)
    return len(shard)


def default_token_budget(network: torch.nn.Module) -> int:
    """Padded tokens a batch when the user does not say."""
    return _GPU_TOKEN_BUDGET if next(network.parameters()).is_cuda else _CPU_TOKEN_BUDGET


# difficulty --------------------------------------------------------------------------------------------------------


def score_difficulty(
    dataset: str,
    *,
    store: Path,
    classifier: str | None = None,
    columns: dict[str, str] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    token_budget: int | None = None,
    progress: Progress | None = None,
) -> ScoreSummary:
    """Give every sample of a dataset its difficulty, from a classifier or from columns that came with the data.

    Args:
        dataset: name of a dataset in the store.
        store: the store file.
        classifier: folder or hub id of a sequence classifier (see ``diq.difficulty``).
        columns: dimension to the name of a numeric attribute of the samples, instead of a classifier.
        device: ``auto``, ``cpu``, ``cuda``, ...
        dtype: ``auto``, ``float32`` or ``bfloat16``.
        token_budget: padded tokens a batch; None takes the default.
        progress: called now and then with the samples done and to do.

    Raises:
        UsageError: neither or both of classifier and columns, or unknown names.
        ModelError: the classifier cannot be used.
    """
    if (classifier is None) == (not columns):
        raise UsageError(
            "difficulty comes from one of a classifier and columns", "give --model FOLDER or --columns overall=NAME"
        )
    with Store(store, read_only=True) as opened:
        data = opened.dataset(dataset)
        attributes = [row["name"] for row in opened.rows("list_attributes", dataset_id=data["dataset_id"])]
    if columns:
        return _difficulty_from_columns(store, data, columns, attributes)
    assert classifier is not None
    source = find_classifier(classifier)
    place = models.pick_device(device)
    precision = models.pick_dtype(dtype, place)
    network = DifficultyClassifier(source, device=place, dtype=getattr(torch, precision))
    settings = {"text": "prompt", "max_length": network.max_length, "dtype": precision}
    run_id = _open_difficulty_run(store, data, "classifier", source, settings, models.environment(place))
    summary = ScoreSummary(run_id, dataset, data["n_samples"])
    started = time.monotonic()
    n_cut = 0
    with Store(store, read_only=True, wait_s=_WAIT_S) as opened:
        missing = opened.arrow("samples_missing_difficulty", dataset_id=data["dataset_id"], run_id=run_id)
    ids = missing.column("sample_id").to_pylist()
    summary.n_cached = summary.n_samples - len(ids)
    for first in range(0, len(ids), _READ_ROWS):
        with Store(store, read_only=True, wait_s=_WAIT_S) as opened:
            block = opened.arrow("messages_of_samples", sample_ids=ids[first : first + _READ_ROWS])
        texts = [prompt_text(orjson.loads(text)) for text in block.column("messages").to_pylist()]
        encoded, cut = network.encode(texts)
        n_cut += sum(cut)
        expected = np.empty((len(texts), len(DIFFICULTY_DIMENSIONS)))
        level = np.empty((len(texts), len(DIFFICULTY_DIMENSIONS)), np.uint8)
        lengths = np.asarray([len(one) for one in encoded], np.int64)
        for batch in plan_batches(lengths, token_budget=token_budget or (32768 if place.type == "cuda" else 4096)):
            found = network.predict([encoded[i] for i in batch])
            expected[batch], level[batch] = found.expected, found.level
        _commit_difficulty(store, run_id, block.column("sample_id").to_pylist(), expected, level)
        summary.n_scored += len(texts)
        summary.tokens += int(lengths.sum())
        if progress:
            progress("difficulty", summary.n_scored, len(ids))
    summary.seconds = time.monotonic() - started
    _finish_difficulty(store, data, summary)
    summary.details |= {"classifier": source.name, "n_truncated": n_cut}
    if n_cut:
        log.warning("%d prompts are longer than the classifier's %d tokens and were cut", n_cut, network.max_length)
    return summary


def find_classifier(source: str) -> models.ModelSource:
    """Find a classifier in either of its two forms."""
    parts = three_folders(Path(source).expanduser())
    if parts is None:
        return models.find_model(source)
    together = "\n".join(models.fingerprint_folder(part) for part in parts)
    path = Path(source).expanduser().resolve()
    return models.ModelSource(source, path, path.name, hashlib.blake2b(together.encode(), digest_size=16).hexdigest())


def _open_difficulty_run(
    store: Path,
    data: dict[str, Any],
    method: str,
    source: models.ModelSource | None,
    settings: dict[str, Any],
    environment: dict[str, str],
) -> int:
    model_id = source.model_id if source else None
    with Store(store, wait_s=_WAIT_S) as opened, opened.transaction():
        if source:
            opened.add_model(
                model_id=source.model_id, name=source.name, source=source.source, architecture=None, n_parameters=None
            )
        run_id = opened.open_run(
            kind="difficulty",
            method=method,
            model_id=model_id,
            fingerprint=run_fingerprint("difficulty", method, model_id, settings),
            settings=settings,
            environment=environment,
        )
        opened.start_scoring(run_id, data["dataset_id"])
    return run_id


def _commit_difficulty(
    store: Path,
    run_id: int,
    ids: Sequence[str],
    expected: npt.NDArray[np.float64],
    level: npt.NDArray[np.uint8],
) -> None:
    columns: dict[str, Any] = {
        "run_id": pa.array([run_id] * len(ids), pa.int64()),
        "sample_id": pa.array(ids, pa.string()),
    }
    for i, dimension in enumerate(DIFFICULTY_DIMENSIONS):
        columns[dimension] = pa.array(expected[:, i], pa.float64())
        columns[f"{dimension}_level"] = pa.array(level[:, i], pa.uint8())
    with Store(store, wait_s=_WAIT_S) as opened, opened.transaction():
        opened.insert("insert_difficulty_scores", pa.table(columns))


def _finish_difficulty(store: Path, data: dict[str, Any], summary: ScoreSummary) -> None:
    with Store(store, wait_s=_WAIT_S) as opened:
        with opened.transaction():
            opened.seal(summary.run_id, data["dataset_id"])
        for row in opened.rows("difficulty_reasons", run_id=summary.run_id, dataset_id=data["dataset_id"]):
            summary.reasons[row["reason"]] = row["n"]
        (ties,) = opened.rows("difficulty_ties", run_id=summary.run_id, dataset_id=data["dataset_id"])
    summary.n_no_score = sum(summary.reasons.values())
    summary.details = {"distinct_values": ties}


def _difficulty_from_columns(
    store: Path, data: dict[str, Any], columns: dict[str, str], attributes: Sequence[str]
) -> ScoreSummary:
    for dimension, column in columns.items():
        if dimension not in DIFFICULTY_DIMENSIONS:
            raise UsageError(
                f"`{dimension}` is not a dimension of difficulty", did_you_mean(dimension, DIFFICULTY_DIMENSIONS)
            )
        if column not in attributes:
            raise UsageError(
                f"the samples of `{data['name']}` have no column `{column}`",
                did_you_mean(column, attributes) or "the dataset came without further columns",
            )
    settings = {"columns": columns, "dataset": data["name"]}
    run_id = _open_difficulty_run(store, data, "columns", None, settings, {})
    summary = ScoreSummary(run_id, data["name"], data["n_samples"])
    started = time.monotonic()
    with Store(store, wait_s=_WAIT_S) as opened, opened.transaction():
        summary.n_scored = opened.execute_count(
            "insert_difficulty_from_columns",
            run_id=run_id,
            dataset_id=data["dataset_id"],
            **{name: columns.get(name) for name in DIFFICULTY_DIMENSIONS},
        )
    summary.n_cached = summary.n_samples - summary.n_scored
    summary.seconds = time.monotonic() - started
    _finish_difficulty(store, data, summary)
    return summary
