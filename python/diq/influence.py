"""How dots become influence: what counts as a usable dot, and the mean over a weighted choice of validation sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from diq.errors import UsageError
from diq.records import did_you_mean


def no_dot_reason(loss: float, answer_tokens: int, dots: Sequence[float]) -> str | None:
    """Why a sample has no dot, or None when it has one.

    Args:
        loss: the sample's loss, nats.
        answer_tokens: tokens that the loss covers.
        dots: its dot with each validation set.
    """
    if answer_tokens == 0:
        return "no answer token is left within the maximum length"
    if not math.isfinite(loss):
        return f"the loss is not finite ({loss})"
    if not all(math.isfinite(dot) for dot in dots):
        return "the dot is not finite"
    return None


def parse_weights(asked: Sequence[str], known: Sequence[str]) -> dict[str, float] | None:
    """Weights of validation sets from ``NAME`` or ``NAME=WEIGHT`` texts.

    Eq. 4 is linear, so the influence under any weighted choice of tasks is the weighted mean of stored dots.

    Args:
        asked: the texts; empty means all sets of the run.
        known: the run's validation sets.

    Returns:
        Weight of each chosen set, NaN where none was given (:func:`settle_weights` fills it in); None when nothing was
        asked, which means all sets, pooled by their number of samples (Eq. 3).

    Raises:
        UsageError: unknown name, a weight that is not a positive number, or a name given twice.
    """
    if not asked:
        return None
    weights: dict[str, float] = {}
    for text in asked:
        name, given, number = text.rpartition("=")
        if not given or (name not in known and text in known):
            name, number = text, ""
        if name not in known:
            raise UsageError(f"the influence run has no validation set named `{name}`", did_you_mean(name, known))
        if name in weights:
            raise UsageError(f"the validation set `{name}` is given twice", "give each once, as NAME or NAME=WEIGHT")
        try:
            weights[name] = float(number) if number else math.nan
        except ValueError:
            weights[name] = -1.0
        if weights[name] <= 0 or math.isinf(weights[name]):
            raise UsageError(f"the weight `{number}` of `{name}` is not a positive number", "write NAME=2 or NAME=0.5")
    return weights


def settle_weights(weights: Mapping[str, float], sizes: Mapping[str, int | None]) -> dict[str, float]:
    """Weights with every open one (NaN) filled in.

    When no set was given a weight, sets count by their number of samples (the pooled mean of Eq. 3), or alike where a
    size is unknown; when some were, the others count 1.
    """
    if all(math.isnan(weight) for weight in weights.values()):
        known = [sizes[name] for name in weights]
        if any(size is None for size in known):
            return dict.fromkeys(weights, 1.0)
        return {name: float(sizes[name] or 0) for name in weights}
    return {name: 1.0 if math.isnan(weight) else weight for name, weight in weights.items()}
