"""Ordered levels: the loss, the calibration and the measures against slow, obvious forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from diq.base.config import LIKERT_LEVELS
from diq.base.errors import ModelError
from diq.difficulty.ordinal import Calibration, calibrate, class_weights, fold, measures, ordinal_loss, probabilities

Floats = npt.NDArray[np.float64]


def slow_loss(logits: Floats, levels: Floats, weights: Floats, ordinal_weight: float) -> float:
    """Sample by sample, dimension by dimension, level by level."""
    per_dimension = []
    for d in range(levels.shape[1]):
        total, n = 0.0, 0
        for i in range(len(levels)):
            if np.isnan(levels[i, d]):
                continue
            z = logits[i, 5 * d : 5 * d + 5].astype(np.float64)
            p = np.exp(z) / np.exp(z).sum()
            label = int(levels[i, d])
            loss = -np.log(p[label - 1])
            for level in range(1, 6):
                loss += ordinal_weight * (p[:level].sum() - (1.0 if label <= level else 0.0)) ** 2
            total += weights[d, label - 1] * loss
            n += 1
        if n:
            per_dimension.append(total / n)
    return float(np.mean(per_dimension))


def some_labels(rng: np.random.Generator, n: int, d: int, missing: float) -> Floats:
    levels = rng.integers(1, 6, (n, d)).astype(np.float64)
    levels[rng.random((n, d)) < missing] = np.nan
    return levels


@pytest.mark.parametrize("ordinal_weight", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_the_loss_equals_the_slow_form(ordinal_weight: float, missing: float) -> None:
    rng = np.random.default_rng(0)
    for n, d in [(1, 1), (7, 3), (63, 2)]:
        logits, levels = rng.normal(size=(n, 5 * d)) * 3, some_labels(rng, n, d, missing if n > 1 else 0.0)
        weights = rng.uniform(0.2, 4, (d, 5))
        found = ordinal_loss(
            torch.from_numpy(logits), torch.from_numpy(levels), torch.from_numpy(weights), ordinal_weight=ordinal_weight
        )
        assert found.item() == pytest.approx(slow_loss(logits, levels, weights, ordinal_weight), rel=1e-12)


def test_without_the_order_it_is_torchs_cross_entropy() -> None:
    rng = np.random.default_rng(1)
    logits, levels = torch.from_numpy(rng.normal(size=(40, 5))), rng.integers(1, 6, 40)
    weights = torch.from_numpy(rng.uniform(0.2, 4, (1, 5)))
    found = ordinal_loss(logits, torch.from_numpy(levels[:, None].astype(np.float64)), weights, ordinal_weight=0)
    wanted = torch.nn.functional.cross_entropy(logits, torch.from_numpy(levels - 1), weight=weights[0], reduction="sum")
    assert found.item() == pytest.approx(wanted.item() / 40, rel=1e-12)


def test_a_further_level_costs_more_only_with_the_order() -> None:
    label, weights = torch.tensor([[1.0]]), torch.ones(1, 5)
    near, far = torch.zeros(1, 5), torch.zeros(1, 5)
    near[0, 1] = far[0, 4] = 4.0
    assert ordinal_loss(near, label, weights, ordinal_weight=0) == ordinal_loss(far, label, weights, ordinal_weight=0)
    assert ordinal_loss(near, label, weights, ordinal_weight=1) < ordinal_loss(far, label, weights, ordinal_weight=1)


def test_a_batch_without_a_label_has_no_loss_and_a_gradient_of_zero() -> None:
    logits = torch.randn(3, 10, requires_grad=True)
    loss = ordinal_loss(logits, torch.full((3, 2), float("nan")), torch.ones(2, 5), ordinal_weight=1)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_class_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    levels = np.asarray([1] * 50 + [2] * 10 + [3] * 3 + [5], np.float64)
    present = np.asarray([1, 2, 3, 5])
    wanted = compute_class_weight("balanced", classes=present, y=levels)
    found = class_weights(np.append(levels, np.nan), how="balanced")
    assert found[present - 1] == pytest.approx(wanted)
    assert found[3] == 1
    half = class_weights(levels, how="sqrt")
    assert half[present - 1] / half[0] == pytest.approx(np.sqrt(found[present - 1] / found[0]))
    for one in (found, half):
        assert one[levels.astype(int) - 1].mean() == pytest.approx(1)
    assert (class_weights(levels, how="none") == 1).all()


def drawn(logits: Floats, rng: np.random.Generator) -> Floats:
    """A label of each row, drawn from its softmax."""
    p = probabilities(logits)
    return (p.cumsum(axis=1) < rng.random((len(p), 1))).sum(axis=1) + 1.0


def likelihood(one: Calibration, logits: Floats, levels: Floats) -> float:
    p = probabilities(one.apply(logits))
    return float(-np.log(p[np.arange(len(p)), levels.astype(int) - 1]).mean())


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_calibration_finds_what_was_done_to_the_logits(temperature: float, share: float) -> None:
    rng = np.random.default_rng(2)
    true = rng.normal(size=(40_000, 5)) * 1.5 + np.asarray([1.5, 1.0, 0.0, -1.0, -2.0])
    levels = drawn(true, rng)
    weights = class_weights(levels, how="balanced")
    # what a head looks like that is too sure of itself, and was trained with weights
    logits = (true + share * np.log(weights)) * temperature
    found = calibrate(logits, levels, weights)
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found.share == pytest.approx(share, abs=0.05)
    expected = probabilities(found.apply(logits)) @ np.arange(1, 6)
    assert expected.mean() == pytest.approx(levels.mean(), abs=0.03)


def test_calibration_is_the_best_of_a_grid() -> None:
    rng = np.random.default_rng(3)
    for seed in range(5):
        logits = rng.normal(size=(60, 5)) * (seed + 1)
        levels = np.where(rng.random(60) < 0.5, logits.argmax(axis=1) + 1.0, rng.integers(1, 6, 60))
        weights = class_weights(levels, how="balanced")
        found = likelihood(calibrate(logits, levels, weights), logits, levels)
        grid = [
            likelihood(Calibration(t, s, weights), logits, levels)
            for t in np.geomspace(0.1, 20, 60)
            for s in np.linspace(-0.5, 1.5, 41)
        ]
        assert found <= min(grid) + 1e-6


def test_calibration_without_labels_or_weights_leaves_alone_what_it_cannot_know() -> None:
    logits = np.random.default_rng(4).normal(size=(10, 5))
    nothing = calibrate(logits, np.full(10, np.nan), np.ones(5))
    assert (nothing.apply(logits) == logits).all()
    assert calibrate(logits, logits.argmax(axis=1) + 1.0, np.ones(5)).share == 0
    # a split that is told apart perfectly asks for no temperature of zero
    assert calibrate(logits * 100, logits.argmax(axis=1) + 1.0, np.ones(5)).temperature >= 0.05


def networks() -> list[tuple[str, Any]]:
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        DistilBertConfig,
        DistilBertForSequenceClassification,
        ModernBertConfig,
        ModernBertForSequenceClassification,
        RobertaConfig,
        RobertaForSequenceClassification,
    )

    size = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 24, "max_position_embeddings": 40, "num_labels": 10,
            "initializer_range": 0.5}  # fmt: skip
    distil = {"vocab_size": 60, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24, "num_labels": 10}
    special = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    return [
        ("bert", BertForSequenceClassification(BertConfig(**size))),
        ("distilbert", DistilBertForSequenceClassification(DistilBertConfig(**distil))),
        ("roberta", RobertaForSequenceClassification(RobertaConfig(**size))),
        ("modernbert", ModernBertForSequenceClassification(ModernBertConfig(**size, **special))),
    ]


@pytest.mark.parametrize("index", range(4))
def test_folding_gives_the_calibrated_logits(index: int) -> None:
    _, model = networks()[index]
    model.eval().double()
    ids = torch.arange(3, 27).reshape(4, 6)
    calibrations = [
        Calibration(2.5, 0.8, np.asarray([0.3, 1, 2, 3, 4])),
        Calibration(0.5, 0.0, np.ones(5)),
    ]
    with torch.no_grad():
        before = model(input_ids=ids).logits.numpy().reshape(4, 2, 5)
        fold(model, calibrations)
        after = model(input_ids=ids).logits.numpy().reshape(4, 2, 5)
    for d, one in enumerate(calibrations):
        assert after[:, d] == pytest.approx(one.apply(before[:, d]), abs=1e-6)
    # a temperature alone changes no decision
    assert (after[:, 1].argmax(axis=1) == before[:, 1].argmax(axis=1)).all()


def test_folding_needs_a_linear_head() -> None:
    with pytest.raises(ModelError, match="no last linear layer of 5 outputs"):
        fold(torch.nn.Linear(3, 4), [Calibration(1, 0, np.ones(5))])


def slow_measures(p: Floats, label: npt.NDArray[np.int64]) -> dict[str, float]:
    """By the definitions, with loops."""
    predicted = p.argmax(axis=1) + 1
    f1, support = [], []
    for level in sorted(set(label.tolist())):
        hits = sum((predicted == level) & (label == level))
        wrong = sum((predicted == level) & (label != level)) + sum((predicted != level) & (label == level))
        f1.append(2 * hits / (2 * hits + wrong))
        support.append(sum(label == level))
    n = len(label)
    observed = sum((int(a) - int(b)) ** 2 for a, b in zip(label, predicted, strict=True)) / n
    chance = sum((int(a) - int(b)) ** 2 for a in label for b in predicted) / n**2
    expected = [sum(level * q for level, q in enumerate(row, start=1)) for row in p]
    calibration = 0.0
    for b in range(10):
        inside = [i for i in range(n) if min(int(p[i].max() * 10), 9) == b]
        if inside:
            calibration += (
                len(inside)
                / n
                * abs(np.mean([predicted[i] == label[i] for i in inside]) - np.mean([p[i].max() for i in inside]))
            )
    return {
        "accuracy": float(np.mean(predicted == label)),
        "macro_f1": float(np.mean(f1)),
        "weighted_f1": float(np.average(f1, weights=support)),
        "kappa": 1 - observed / chance,
        "mean_absolute_error": float(np.mean(np.abs(np.asarray(expected) - label))),
        "bias": float(np.mean(expected) - np.mean(label)),
        "log_loss": float(np.mean([-np.log(p[i, label[i] - 1]) for i in range(n)])),
        "ranked_probability_score": float(
            np.mean([sum((p[i, :k].sum() - (label[i] <= k)) ** 2 for k in range(1, 6)) for i in range(n)])
        ),
        "calibration_error": calibration,
    }


def test_measures_equal_their_definitions() -> None:
    rng = np.random.default_rng(5)
    for n, top in [(9, 3), (200, 5), (31, 2)]:
        p, label = probabilities(rng.normal(size=(n, 5)) * 2), rng.integers(1, top + 1, n)
        found = measures(p, label.astype(np.float64))
        for name, value in slow_measures(p, label).items():
            assert found[name] == pytest.approx(value, abs=1e-12), name
        confusion = np.asarray(found["confusion"])
        assert confusion.sum() == n == found["n"]
        assert (confusion.sum(axis=1) == [np.count_nonzero(label == level) for level in range(1, 6)]).all()
        # rows without a label count nowhere
        with_gaps = measures(np.vstack([p, p]), np.concatenate([label.astype(np.float64), np.full(n, np.nan)]))
        assert with_gaps == found


def test_measures_of_the_edge_cases() -> None:
    assert measures(np.ones((3, 5)) / 5, np.full(3, np.nan)) == {"n": 0}
    sure = np.eye(5)[[0, 1, 4]]
    right = measures(sure, np.asarray([1.0, 2.0, 5.0]))
    assert (right["macro_f1"], right["kappa"], right["mean_absolute_error"], right["calibration_error"]) == (1, 1, 0, 0)
    constant = measures(np.tile(sure[0], (3, 1)), np.asarray([1.0, 2.0, 5.0]))
    assert constant["spearman"] is None
    assert constant["kappa"] == pytest.approx(0)
    assert measures(sure, np.ones(3))["kappa"] is None
    assert np.isfinite(measures(sure, np.asarray([5.0, 2.0, 1.0]))["log_loss"])


def test_probabilities_of_huge_logits() -> None:
    assert probabilities(np.asarray([[1e4, 0, -1e4, 0, 0]]))[0].tolist() == [1, 0, 0, 0, 0]
    assert LIKERT_LEVELS == 5
