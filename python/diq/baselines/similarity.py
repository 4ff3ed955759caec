"""Similarity of the samples that lack it, to one or several validation sets."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from diq.base.errors import ModelError, RunFailedError
from diq.base.files import read_json
from diq.base.options import verb
from diq.base.sample import Message
from diq.base.text import amount, first_line
from diq.baselines.options import ScoreSimilarityOptions
from diq.baselines.text_scores import INSERT, text_job, text_rows
from diq.encoders.embeddings import NO_DIRECTION, Encoder, similarity, text_of
from diq.encoders.options import Pooled, Text
from diq.models.device import describe_environment, pick_device, pick_dtype
from diq.models.memory import default_budget
from diq.models.source import ModelSource, find_model, fingerprint_modules
from diq.scoring.harness import Batch, Scorer, score_missing
from diq.scoring.job import Request, RunModel, ScoreJob, check_name, read_request
from diq.scoring.summary import ScoreSummary

log = logging.getLogger(__name__)


@verb(ScoreSimilarityOptions)
def score_similarity(options: ScoreSimilarityOptions) -> ScoreSummary:
    """Compute the missing similarities of a dataset with one or several validation sets (formula: docs/method.md).

    Raises:
        UsageError: unknown names, an empty dataset, or no validation set with samples.
        ModelError: the encoder cannot be used.
        RunFailedError: no sample of a validation set has an embedding, or one text alone does not fit into memory.
        StoreError: the store is held by another process.
    """
    request = read_request(options.store_file, options.dataset, options.validation_set)
    source = find_encoder(options.encoder, name=options.encoder_name)
    check_name(options.store_file, source, "name it otherwise with --encoder-name NAME")
    place = pick_device(options.device)
    precision = pick_dtype(options.dtype, place)
    set_ids = [int(one["validation_set_id"]) for one in request.sets]
    job = text_job(
        options,
        request.data,
        kind="similarity",
        method=options.reduction,
        model_id=source.model_id,
        settings={"reduction": options.reduction, "text": options.text, "dtype": precision},
        set_ids=set_ids,
    )
    loaded: list[_Scorer] = []

    @contextmanager
    def load() -> Iterator[_Scorer]:
        budget = options.batch_tokens or default_budget("embedding", place.type)
        network = Encoder(source, device=place, dtype=getattr(torch, precision))
        scorer = _Scorer(network, job, request, budget, describe_environment(place))
        loaded.append(scorer)
        yield scorer

    summary = score_missing(job, load)
    summary.details |= {
        "encoder": source.name,
        "reduction": options.reduction,
        "text": options.text,
        "dtype": precision,
        "validation_sets": [one["name"] for one in request.sets],
    }
    for scorer in loaded:
        summary.details["n_truncated"] = scorer.n_truncated
        if scorer.n_truncated:
            log.warning(
                "%d of %s are longer than the encoder's %s tokens and were cut",
                scorer.n_truncated, amount(summary.n_scored, "text"), scorer.max_length,
            )  # fmt: skip
    return summary


class _Scorer(Scorer):
    """A loaded encoder, the embeddings of the validation sets, and the texts of a block."""

    insert = INSERT

    def __init__(
        self, encoder: Encoder, job: ScoreJob, request: Request, token_budget: int, environment: dict[str, str]
    ) -> None:
        source = encoder.source
        self.model = RunModel(source.model_id, source.name, source.source, "SentenceTransformer", encoder.n_parameters)
        self.environment = environment | {"sentence-transformers": metadata.version("sentence-transformers")}
        self.token_budget = token_budget
        self.max_length = encoder.max_length
        self.n_truncated = 0
        self._encoder = encoder
        self._set_ids = job.set_ids
        self._text: Text = job.settings["text"]
        self._reduction: Pooled = job.settings["reduction"]
        self._texts: list[str] = []
        self._lengths = np.zeros(0, np.int64)
        self._validation = []
        for done, (one, conversations) in enumerate(zip(request.sets, request.conversations, strict=True)):
            job.report("validation embeddings", done, len(request.sets))
            self._validation.append(self._embed_validation_set(one["name"], conversations))
        job.report("validation embeddings", len(request.sets), len(request.sets))

    def _embed_validation_set(self, name: str, conversations: Sequence[Sequence[Message]]) -> npt.NDArray[np.float64]:
        texts = [text_of(messages, self._text) for messages in conversations]
        rows = self._encoder.embed_in_batches(texts, token_budget=self.token_budget)
        rows = rows[rows.any(axis=1)]
        if len(rows) < len(conversations):
            log.warning(
                "validation set `%s`: %d of %s have no finite embedding and are left out",
                name, len(conversations) - len(rows), amount(len(conversations), "sample"),
            )  # fmt: skip
        if not len(rows):
            raise RunFailedError(
                f"no sample of the validation set `{name}` has an embedding", "try --dtype float32, or another encoder"
            )
        return rows

    def read(self, conversations: Sequence[Sequence[Message]]) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
        """See ``Scorer``."""
        self._texts = [text_of(messages, self._text) for messages in conversations]
        self._lengths = self._encoder.count_tokens(self._texts)
        return self._encoder.cut(self._lengths), {}

    def score(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, npt.NDArray[np.float64]]]:
        """See ``Scorer``: similarities ``[m, k]`` with k validation sets; NaN for an embedding without a direction."""
        for batch in batches:
            wanted = batch.wanted
            if self.max_length is not None:
                self.n_truncated += int((self._lengths[wanted] > self.max_length).sum())
            rows = self._encoder.embed([self._texts[i] for i in wanted])
            found = np.stack([similarity(rows, one, self._reduction) for one in self._validation], axis=1)
            found[~rows.any(axis=1)] = np.nan
            yield batch, found

    def rows(self, run_id: int, ids: pa.Array, result: npt.NDArray[np.float64]) -> pa.Table:
        """See ``Scorer``."""
        return text_rows(
            run_id,
            ids,
            validation_set_ids=self._set_ids,
            similarity=[None if np.isnan(one) else one for one in result.ravel().tolist()],
            reasons=[NO_DIRECTION if np.isnan(one).any() else None for one in result],
        )

    def refused(self, run_id: int, ids: pa.Array, reasons: Sequence[str]) -> pa.Table:
        """See ``Scorer``."""
        return text_rows(run_id, ids, validation_set_ids=self._set_ids, reasons=reasons)


def find_encoder(source: str | os.PathLike[str], *, name: str | None = None) -> ModelSource:
    """Find an encoder's folder, or fetch a hub id, and fingerprint all that decides an embedding.

    Args:
        source: folder of a sentence-transformers model (or of a plain transformers model, whose token vectors are then
            averaged), or a hub id.
        name: name in the store; default the hub id or the folder's name.

    Raises:
        ModelError: there is no such folder or hub id, or it is no model.
    """
    source = os.fspath(source)
    folder = Path(source)
    if not folder.is_dir():
        if not folder.exists() and "/" not in source:
            raise ModelError(
                f"there is no encoder folder `{source}`",
                f"give a folder, or a hub id with its owner, such as sentence-transformers/{source}",
            )
        return find_model(source, name=name)
    path = folder.resolve()
    list_of_modules = path / "modules.json"
    if list_of_modules.is_file():
        try:
            parts = [str(one["path"]) for one in read_json(list_of_modules)]
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(
                f"`{list_of_modules}` is no list of modules: {first_line(error)}",
                "save the encoder again, or fetch it anew",
            ) from error
    elif (path / "config.json").is_file():
        log.warning("`%s` is no sentence encoder: the vectors of its tokens are averaged", source)
        parts = []
    else:
        raise ModelError(
            f"`{source}` is no encoder: it has neither modules.json nor config.json",
            "give a folder that SentenceTransformer.save wrote, or a hub id",
        )
    return ModelSource(source, path, name or path.name, fingerprint_modules(path, ["", *parts]))
