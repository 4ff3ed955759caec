"""Encoders on a GPU: bfloat16 ratings against float64 on the CPU, and a fine-tuning in mixed precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from conftest import WORDS
from diq.difficulty.classifier import DifficultyClassifier, find_classifier, likert
from diq.encoders import fitting
from diq.encoders import network as encoders
from diq.encoders.fitting import Examples, FitSettings
from diq.models.source import find_model

TEXTS = [" ".join(WORDS[(7 * i + j) % len(WORDS)] for j in range(1 + i % 40)) for i in range(300)]


def expected(folder: Path, device: str, dtype: torch.dtype, batch: int) -> np.ndarray:
    network = DifficultyClassifier(find_classifier(str(folder)), device=torch.device(device), dtype=dtype)
    encoded = network.encode(TEXTS)
    parts = [network.predict(encoded, range(at, min(at + batch, len(TEXTS)))) for at in range(0, len(TEXTS), batch)]
    return likert(np.concatenate(parts)).expected


def test_ratings_in_any_precision_and_batch(tiny_classifier_folder: Path) -> None:
    wanted = expected(tiny_classifier_folder, "cpu", torch.float64, 16)
    for batch in (7, 300):
        exact = expected(tiny_classifier_folder, "cuda", torch.float32, batch)
        coarse = expected(tiny_classifier_folder, "cuda", torch.bfloat16, batch)
        assert np.abs(exact - wanted).max() < 1e-4
        # eight bits of mantissa under logits of random weights; what counts is the order
        assert np.abs(coarse - wanted).mean() < 0.03
        assert np.corrcoef(coarse[:, 0], wanted[:, 0])[0, 1] > 0.999


def test_fine_tuning_in_mixed_precision(tiny_encoder_folder: Path) -> None:
    model, tokenizer = encoders.load_encoder(
        find_model(str(tiny_encoder_folder)), labels=["1", "2"], regression=False, seed=0
    )
    texts = [" ".join(text.split()[:6]) for text in TEXTS]
    levels = np.asarray([[1.0 if "aspirin" in text else 0.0] for text in texts])
    ids, _ = encoders.tokenize(tokenizer, texts, max_length=48)
    examples = Examples(ids, levels)

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, targets[:, 0].long())

    def accuracy(logits: np.ndarray, targets: np.ndarray) -> float:
        return float((logits.argmax(axis=1) == targets[:, 0]).mean())

    settings = FitSettings(epochs=8, learning_rate=1e-2, batch_size=16, patience=8, dtype="bfloat16", device="cuda")
    found = fitting.fit(model, tokenizer, examples, examples, loss=loss, measure=accuracy, settings=settings)
    assert found.best_measure > 0.95
    assert next(model.parameters()).dtype == torch.float32
    assert next(model.parameters()).is_cuda
