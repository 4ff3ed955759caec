"""Difficulty by a classifier: the expected Likert value of three dimensions from five-class heads.

A classifier is any Hugging Face sequence-classification folder in one of two forms: one model with 15 outputs (one
encoder, three heads of five classes) whose labels are named ``knowledge_1`` ... ``overall_5``, or a folder with the
sub-folders ``knowledge``, ``reasoning`` and ``overall``, each a five-class model of its own.

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
from torch import Tensor, nn

from diq.config import DIFFICULTY_DIMENSIONS, LIKERT_LEVELS
from diq.errors import ModelError
from diq.models import ModelSource
from diq.records import first_line

_LABEL = re.compile(rf"^({'|'.join(DIFFICULTY_DIMENSIONS)})_([1-{LIKERT_LEVELS}])$")


@dataclass(frozen=True, slots=True)
class Likert:
    """Difficulty of some texts.

    Attributes:
        expected: ``[n, 3]`` float64; expected Likert value of knowledge, reasoning and overall, 1 to 5.
        level: ``[n, 3]`` uint8; most probable level.
    """

    expected: npt.NDArray[np.float64]
    level: npt.NDArray[np.uint8]


class DifficultyClassifier:
    """A loaded classifier.

    Args:
        source: what ``find_classifier`` returned.
        device: where to run.
        dtype: precision of the weights; the softmax is taken in float32.

    Raises:
        ModelError: the folder is not a classifier with the three five-class heads.
    """

    def __init__(self, source: ModelSource, *, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.source, self.device = source, device
        parts = three_folders(source.path)
        self._folders = parts or [source.path]
        self._models: list[nn.Module] = []
        for folder in self._folders:
            try:
                model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype)
                tokenizer = AutoTokenizer.from_pretrained(folder)
            except Exception as error:  # loaders raise whatever their back ends do
                raise ModelError(
                    f"`{folder}` cannot be loaded as a sequence classifier: {first_line(error)}",
                    "give a folder with a sequence-classification model and its tokenizer",
                ) from error
            self._models.append(model.requires_grad_(False).eval().to(device))
            self.tokenizer = tokenizer
        self._columns = [output_columns(self._models[0])] if parts is None else []
        for folder, model in zip(self._folders, self._models, strict=True):
            if parts is not None and model.config.num_labels != LIKERT_LEVELS:  # type: ignore[union-attr]
                raise ModelError(
                    f"`{folder}` has {model.config.num_labels} classes, not {LIKERT_LEVELS}",  # type: ignore[union-attr]
                    "each of the three models has one class a Likert level, 1 to 5 in order",
                )
        limit = min(getattr(model.config, "max_position_embeddings", 512) for model in self._models)
        self.max_length = int(min(limit, getattr(self.tokenizer, "model_max_length", limit)))

    def encode(self, texts: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """Token ids of each text, cut to the context, and whether each was cut."""
        full = self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        cut = [len(ids) > self.max_length for ids in full]
        ids = (
            self.tokenizer(list(texts), truncation=True, max_length=self.max_length)["input_ids"] if any(cut) else full
        )
        return ids, cut

    @torch.inference_mode()
    def predict(self, ids: Sequence[Sequence[int]]) -> Likert:
        """Difficulty of tokenised texts, computed as one padded batch.

        Args:
            ids: token ids of each text, as ``encode`` gives them.
        """
        padded = self.tokenizer.pad({"input_ids": [list(one) for one in ids]}, return_tensors="pt").to(self.device)
        if len(self._models) == 1:
            logits = self._models[0](**padded).logits.float()[:, self._columns[0]]
            logits = logits.unflatten(-1, (len(DIFFICULTY_DIMENSIONS), LIKERT_LEVELS))
        else:
            logits = torch.stack([model(**padded).logits.float() for model in self._models], dim=1)
        return likert(logits)


def likert(logits: Tensor) -> Likert:
    """Expected value and most probable level from logits ``[n, 3, 5]``."""
    probabilities = logits.double().softmax(dim=-1)
    levels = torch.arange(1, LIKERT_LEVELS + 1, dtype=torch.float64, device=logits.device)
    expected = (probabilities * levels).sum(dim=-1)
    return Likert(expected.cpu().numpy(), (logits.argmax(dim=-1) + 1).to(torch.uint8).cpu().numpy())


def label_names() -> list[str]:
    """The 15 labels in the order in which diq's own classifiers write them: knowledge_1, knowledge_2, ..."""
    return [f"{dimension}_{level}" for dimension in DIFFICULTY_DIMENSIONS for level in range(1, LIKERT_LEVELS + 1)]


def output_columns(model: Any) -> list[int]:
    """Output columns of a 15-output model in the order of :func:`label_names`.

    Raises:
        ModelError: the labels are not those 15.
    """
    labels = {str(name): int(column) for column, name in model.config.id2label.items() if _LABEL.match(str(name))}
    wanted = label_names()
    if sorted(labels) != sorted(wanted) or model.config.num_labels != len(wanted):
        shown = ", ".join(str(name) for name in list(model.config.id2label.values())[:4])
        raise ModelError(
            f"the classifier has {model.config.num_labels} outputs named {shown}, ...; "
            f"diq needs {len(wanted)} named {wanted[0]} ... {wanted[-1]}",
            "set id2label in its config.json, or give a folder with sub-folders knowledge, reasoning and overall",
        )
    return [labels[name] for name in wanted]


def three_folders(path: Path) -> list[Path] | None:
    """The sub-folders of the three-model form in the order of the dimensions, or None for the one-model form."""
    parts = [path / dimension for dimension in DIFFICULTY_DIMENSIONS]
    return parts if all((part / "config.json").is_file() for part in parts) else None
