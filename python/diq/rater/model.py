"""A rater: an encoder that predicts a sample's dots from its text, for datasets too large for gradients.

It is a regression on the dots of an influence run, one output a validation set, on a scale that suits a regression: the
normal scores of their ranks, or standard deviations from the mean. A prediction is mapped back to a dot, and so is its
interval, which is split-conformal: as wide as the residuals of held-out samples ask for.

Source: Vovk, Gammerman and Shafer (2005), "Algorithmic Learning in a Random World", chapter 4; Lei, G'Sell, Rinaldo,
Tibshirani and Wasserman (2018), "Distribution-Free Predictive Inference for Regression", Algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from diq.base.errors import ModelError, UsageError
from diq.base.fingerprint import fingerprint_of
from diq.base.text import amount
from diq.encoders import network as encoders
from diq.encoders.folder import RECORD, read_record
from diq.encoders.network import Encoded
from diq.influence.stored import RATER
from diq.models.source import fingerprint_with

Floats = npt.NDArray[np.float64]
Target = Literal["rank", "standard"]

TARGETS = get_args(Target)

# knots of a scale: more would not change a prediction, and every rater carries them for every validation set
_MAX_KNOTS = 2048


@dataclass(frozen=True, slots=True)
class Scale:
    """A strictly increasing map between the dots of a validation set and what a rater predicts.

    Straight from knot to knot, and beyond the first and the last with the slope between those two; so it is its own
    inverse with the columns exchanged, everywhere, and intervals keep their coverage when they are mapped back.

    Attributes:
        dots: ``[q]`` knots, strictly increasing, q at least 2.
        targets: ``[q]`` their targets, strictly increasing.
    """

    dots: Floats
    targets: Floats

    @classmethod
    def fit(cls, dots: Floats, kind: Target) -> Scale:
        """The scale of some dots.

        Args:
            dots: ``[n]``, finite, at least two distinct.
            kind: ``rank``: the target of a dot is the normal quantile at ``(rank - 0.5) / n``, ties having their mean
                rank; of more than 2,048 distinct dots, so many evenly spaced in rank are knots. ``standard``: its
                distance from the mean in standard deviations.
        """
        values, counts = np.unique(dots, return_counts=True)
        if kind == "standard":
            mean, deviation = float(dots.mean()), float(dots.std())
            return cls(np.asarray([mean, mean + deviation]), np.asarray([0.0, 1.0]))
        ranks = np.cumsum(counts) - (counts - 1) / 2
        chosen = np.unique(np.linspace(0, len(values) - 1, min(len(values), _MAX_KNOTS)).round().astype(np.int64))
        normal = NormalDist()
        targets = [normal.inv_cdf((rank - 0.5) / len(dots)) for rank in ranks[chosen].tolist()]
        return cls(values[chosen], np.asarray(targets))

    def to_targets(self, dots: Floats) -> Floats:
        """Targets of dots of any shape."""
        return _mapped(dots, self.dots, self.targets)

    def to_dots(self, targets: Floats) -> Floats:
        """Dots of targets of any shape."""
        return _mapped(targets, self.targets, self.dots)


def _mapped(values: Floats, knots: Floats, images: Floats) -> Floats:
    slope = (images[-1] - images[0]) / (knots[-1] - knots[0])
    inside = np.interp(values, knots, images)
    outside = values - np.clip(values, knots[0], knots[-1])
    return np.asarray(inside + slope * outside, np.float64)


def half_width(residuals: Floats, coverage: float) -> float:
    """Half the width of a split-conformal interval: the k-th smallest residual, ``k = ceil((n + 1) coverage)``.

    The interval around the prediction for a further sample, exchangeable with these, holds its value with a probability
    of at least ``coverage``, and of less than ``coverage + 1 / (n + 1)`` where no two residuals are equal.

    Args:
        residuals: ``[n]`` absolute residuals of samples that the encoder was not trained on.
        coverage: 1 - alpha, in (0, 1).

    Raises:
        UsageError: there are too few residuals for this coverage.

    Source: Lei et al. (2018), Algorithm 2.
    """
    # as the decimal that was typed: 0.55 of 100 is 55
    share = Fraction(str(coverage))
    rank = math.ceil((len(residuals) + 1) * share)
    if rank > len(residuals):
        least = math.ceil(share / (1 - share))
        raise UsageError(
            f"--coverage {coverage:g} needs {amount(least, 'calibration sample')}, the split has {len(residuals)}",
            "give a lower --coverage, or score more samples",
        )
    return float(np.sort(residuals)[rank - 1])


@dataclass(frozen=True, slots=True)
class RatedSet:
    """A validation set that a rater predicts the dots of.

    Attributes:
        name: its name.
        n_samples: its samples, the weight when dots are pooled; None where it was not known.
        digest: of its samples (:func:`digest_of`); None for a set of scores computed elsewhere.
        scale: dots to targets and back.
        half_width: of the intervals, on the scale of the targets.
    """

    name: str
    n_samples: int | None
    digest: str | None
    scale: Scale
    half_width: float

    def to_dict(self) -> dict[str, Any]:
        """For the record."""
        return {
            "name": self.name,
            "n_samples": self.n_samples,
            "digest": self.digest,
            "dots": self.scale.dots.tolist(),
            "targets": self.scale.targets.tolist(),
            "half_width": self.half_width,
        }

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> RatedSet:
        """From the record."""
        scale = Scale(np.asarray(found["dots"], np.float64), np.asarray(found["targets"], np.float64))
        rising = all(len(one) >= 2 and bool((np.diff(one) > 0).all()) for one in (scale.dots, scale.targets))
        if not rising or len(scale.dots) != len(scale.targets):
            raise ValueError(f"the scale of `{found['name']}` does not rise")
        width = float(found["half_width"])
        return cls(str(found["name"]), found["n_samples"], found["digest"], scale, width)


def digest_of(sample_ids: Sequence[str]) -> str | None:
    """Identity of a validation set: 32 digits over the ids of its samples in any order; None without samples."""
    return fingerprint_of(*sorted(sample_ids)) if sample_ids else None


@dataclass(frozen=True, slots=True)
class RaterRecord:
    """What a rater's folder says of it, beside the weights.

    Attributes:
        model_id: fingerprint of the language model whose dots it predicts.
        model_name: name of that model.
        model_source: where that model came from.
        trained_on: fingerprint of the influence run.
        target: how dots were scaled.
        coverage: of the intervals.
        sets: validation sets, in the order of the outputs.
        spearman: on the test split, of the dots pooled over the sets (Eq. 3) with their predictions; None where it has
            no value.
    """

    model_id: str
    model_name: str
    model_source: str
    trained_on: str
    target: str
    coverage: float
    sets: list[RatedSet]
    spearman: float | None

    @classmethod
    def read(cls, folder: Path) -> RaterRecord:
        """The record of a folder.

        Raises:
            ModelError: the folder is no rater, or its record is damaged.
        """
        hint = "give a folder that `diq rater train` wrote"
        if not folder.is_dir():
            raise ModelError(f"there is no rater folder `{folder}`", hint)
        record = read_record(folder)
        kind = None if record is None else record.get("kind")
        if record is None or kind != RATER:
            what = f"it has no {RECORD}" if record is None else f"its {RECORD} says `{kind}`"
            raise ModelError(f"`{folder}` is no rater: {what}", hint)
        try:
            return cls(
                model_id=str(record["model_id"]),
                model_name=str(record["model_name"]),
                model_source=str(record["model_source"]),
                trained_on=str(record["trained_on"]),
                target=str(record["target"]),
                coverage=float(record["coverage"]),
                sets=[RatedSet.of(one) for one in record["validation_sets"]],
                spearman=record["spearman"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"`{folder / RECORD}` is damaged: {type(error).__name__} {error}", "train the rater again"
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """For the file."""
        return {
            "kind": RATER,
            "model_id": self.model_id,
            "model_name": self.model_name,
            "model_source": self.model_source,
            "trained_on": self.trained_on,
            "target": self.target,
            "coverage": self.coverage,
            "validation_sets": [one.to_dict() for one in self.sets],
            "spearman": self.spearman,
        }

    def fingerprint(self, folder: Path) -> str:
        """Identity of the predictions: weights, config, scales and half-widths."""
        return fingerprint_with(folder, [one.to_dict() for one in self.sets])


@dataclass(frozen=True, slots=True)
class PredictedDots:
    """Dots of m samples with k validation sets, and their intervals.

    Attributes:
        dot: ``[m, k]``.
        low: ``[m, k]`` lower ends.
        high: ``[m, k]`` upper ends.
    """

    dot: Floats
    low: Floats
    high: Floats


def predicted_dots(targets: Floats, sets: Sequence[RatedSet]) -> PredictedDots:
    """Predictions on the scale of the targets ``[m, k]`` as dots with their intervals; NaN stays NaN."""
    dots, low, high = (
        np.stack([one.scale.to_dots(targets[:, i] + side * one.half_width) for i, one in enumerate(sets)], axis=1)
        for side in (0, -1, 1)
    )
    return PredictedDots(dots, low, high)


class Rater:
    """A loaded rater.

    Args:
        folder: what ``diq rater train`` wrote.
        device: where to run.
        dtype: precision of the weights.

    Attributes:
        record: what the folder says of it.
        max_length: tokens that it reads of a text.

    Raises:
        ModelError: the folder is no rater, or transformers cannot load it.
    """

    def __init__(self, folder: Path, *, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.record, self.device = RaterRecord.read(folder), device
        model, self._tokenizer = encoders.load_classifier(folder, dtype)
        names = [str(model.config.id2label[i]) for i in range(model.config.num_labels)]
        if names != [one.name for one in self.record.sets]:
            raise ModelError(
                f"`{folder}` has outputs named {', '.join(names)}, its {RECORD} names "
                f"{', '.join(one.name for one in self.record.sets)}",
                "train the rater again",
            )
        self._model: Any = model.requires_grad_(False).eval().to(device)
        self.max_length = encoders.context_length(model.config, self._tokenizer)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Token ids of each text, cut to the context."""
        ids: Any
        ids, cut = encoders.tokenize(self._tokenizer, texts, max_length=self.max_length)
        return Encoded([ids], np.asarray([len(one) for one in ids], np.int64), cut)

    @torch.inference_mode()
    def predict(self, encoded: Encoded, rows: Sequence[int] | npt.NDArray[np.int64]) -> Floats:
        """Predictions of some texts on the scale of the targets, ``[m, k]``, computed as one batch."""
        (ids,) = encoded.ids
        batch = encoders.collate([ids[row] for row in rows], pad=encoders.padding_id(self._model, self._tokenizer))
        logits = self._model(**{name: one.to(self.device) for name, one in batch.items()}).logits
        return np.asarray(logits.double().cpu().numpy())
