"""Difficulty by a classifier: the expected Likert value of three dimensions from five-class heads.

A classifier is any Hugging Face sequence-classification folder in one of two forms: one model with 15 outputs (one
encoder, three heads of five classes) whose labels are named ``knowledge_1`` ... ``overall_5``, or a folder with the
sub-folders ``knowledge``, ``reasoning`` and ``overall``, each a five-class model of its own. Either may lack dimensions
that there were no labels of; the classifier then rates the others alone.

Source: arXiv 2508.01450, section 3.2 (Eq. 2); the expected value is our reading of "calibrated score".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from diq.base.config import DIFFICULTY_DIMENSIONS, LIKERT_LEVELS
from diq.base.errors import ModelError
from diq.base.text import amount
from diq.encoders import network as encoders
from diq.encoders.network import Encoded
from diq.models.source import ModelSource, find_model, fingerprint_together

_LABEL = re.compile(rf"^({'|'.join(DIFFICULTY_DIMENSIONS)})_([1-{LIKERT_LEVELS}])$")


@dataclass(frozen=True, slots=True)
class Likert:
    """Difficulty of some texts.

    Attributes:
        expected: ``[n, d]`` float64; expected Likert value of each dimension, 1 to 5; NaN for a text with a logit that
            is not finite.
        level: ``[n, d]`` uint8; most probable level, 0 for such a text.
    """

    expected: npt.NDArray[np.float64]
    level: npt.NDArray[np.uint8]


def find_classifier(source: str) -> ModelSource:
    """Find a classifier in either of its two forms."""
    parts = model_folders(Path(source))
    if not parts:
        return find_model(source)
    path = Path(source).resolve()
    complete = len(parts) == len(DIFFICULTY_DIMENSIONS)
    return ModelSource(source, path, path.name, fingerprint_together(parts, complete=complete))


class DifficultyClassifier:
    """A loaded classifier.

    Args:
        source: what ``find_classifier`` returned.
        device: where to run.
        dtype: precision of the weights; the softmax is taken in float64.

    Attributes:
        dimensions: what it rates, in the order of ``knowledge``, ``reasoning``, ``overall``.
        max_length: tokens that it reads of a text.

    Raises:
        ModelError: the folder is not a classifier with five-class heads.
    """

    def __init__(self, source: ModelSource, *, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.source, self.device = source, device
        folders = model_folders(source.path)
        loaded = [encoders.load_classifier(folder, dtype) for folder in list(folders.values()) or [source.path]]
        self._models: list[Any] = [model.requires_grad_(False).eval().to(device) for model, _ in loaded]
        self._tokenizers = [tokenizer for _, tokenizer in loaded]
        self._columns: list[int] | None = None
        if folders:
            self.dimensions = list(folders)
            for folder, model in zip(folders.values(), self._models, strict=True):
                if model.config.num_labels != LIKERT_LEVELS:
                    raise ModelError(
                        f"`{folder}` has {model.config.num_labels} classes, not {LIKERT_LEVELS}",
                        "each of the models has one class a Likert level, 1 to 5 in order",
                    )
        else:
            self.dimensions, self._columns = output_columns(self._models[0])
        self.architecture = type(self._models[0]).__name__
        self.n_parameters = sum(one.numel() for model in self._models for one in model.parameters())
        # all models see the same part of a text
        self.max_length = min(
            encoders.context_length(model.config, tokenizer)
            for model, tokenizer in zip(self._models, self._tokenizers, strict=True)
        )

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Token ids of each text, cut to the context; each tokenizer passes over a text once."""
        done: dict[str, tuple[Any, npt.NDArray[np.bool_]]] = {}
        found = []
        for tokenizer in self._tokenizers:
            # three models are mostly fine-tuned from one encoder: the same tokenizer in three folders
            identity = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else str(id(tokenizer))
            if identity not in done:
                done[identity] = encoders.tokenize(tokenizer, texts, max_length=self.max_length)
            found.append(done[identity])
        lengths = np.asarray([[len(one) for one in ids] for ids, _ in done.values()], np.int64)
        return Encoded(
            [ids for ids, _ in found], lengths.max(axis=0), np.logical_or.reduce([cut for _, cut in done.values()])
        )

    @torch.inference_mode()
    def predict(self, encoded: Encoded, rows: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Logits of some texts, computed as one batch that is padded on the right.

        Args:
            encoded: what ``encode`` returned.
            rows: which texts, m of them.

        Returns:
            ``[m, d, 5]`` float64, d dimensions.
        """
        logits = []
        for model, tokenizer, ids in zip(self._models, self._tokenizers, encoded.ids, strict=True):
            batch = encoders.collate([ids[row] for row in rows], pad=encoders.padding_id(model, tokenizer))
            logits.append(model(**{name: one.to(self.device) for name, one in batch.items()}).logits)
        if self._columns is None:
            found = torch.stack(logits, dim=1)
        else:
            found = logits[0][:, self._columns].unflatten(-1, (-1, LIKERT_LEVELS))
        return np.asarray(found.double().cpu().numpy())


def likert(logits: npt.NDArray[np.float64]) -> Likert:
    """Expected value and most probable level (the lower of two) from logits ``[n, d, 5]``; NaN where one is none."""
    usable = np.isfinite(logits).all(axis=(1, 2))
    shifted = np.exp(logits[usable] - logits[usable].max(axis=-1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=-1, keepdims=True)
    expected = np.full(logits.shape[:2], np.nan)
    level = np.zeros(logits.shape[:2], np.uint8)
    expected[usable] = probabilities @ np.arange(1, LIKERT_LEVELS + 1, dtype=np.float64)
    level[usable] = probabilities.argmax(axis=-1) + 1
    return Likert(expected, level)


def label_names(dimensions: Sequence[str] = DIFFICULTY_DIMENSIONS) -> list[str]:
    """The labels in the order in which diq's own classifiers write them: knowledge_1, knowledge_2, ..."""
    return [f"{dimension}_{level}" for dimension in dimensions for level in range(1, LIKERT_LEVELS + 1)]


def output_columns(model: Any) -> tuple[list[str], list[int]]:
    """The dimensions that a one-model classifier rates, and its outputs in the order of their :func:`label_names`.

    Raises:
        ModelError: the labels are not the five levels of one or several dimensions.
    """
    labels = {str(name): int(column) for column, name in model.config.id2label.items()}
    found = {match[1] for name in labels if (match := _LABEL.match(name))}
    dimensions = [one for one in DIFFICULTY_DIMENSIONS if one in found]
    wanted = label_names(dimensions)
    if not wanted or sorted(labels) != sorted(wanted) or model.config.num_labels != len(wanted):
        shown = ", ".join(list(labels)[:4])
        every = label_names()
        raise ModelError(
            f"the classifier has {amount(model.config.num_labels, 'output')} named {shown}, ...; "
            f"diq needs {len(every)} named {every[0]} ... {every[-1]}, or the five of each dimension that it rates",
            "set id2label in its config.json, or give a folder with sub-folders knowledge, reasoning and overall",
        )
    return dimensions, [labels[name] for name in wanted]


def model_folders(path: Path) -> dict[str, Path]:
    """The sub-folder of each dimension of a classifier of several models; empty for the one-model form."""
    if (path / "config.json").is_file():
        return {}
    parts = {dimension: path / dimension for dimension in DIFFICULTY_DIMENSIONS}
    return {dimension: part for dimension, part in parts.items() if (part / "config.json").is_file()}
