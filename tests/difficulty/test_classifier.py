"""The difficulty classifier against a slow form: one text after another, in float64, without padding."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import WORDS, build_tokenizer, save_model, sentence
from diq.base.errors import ModelError
from diq.difficulty.classifier import DifficultyClassifier, find_classifier, label_names, likert
from diq.models.tokens import plan_batches

CPU = torch.device("cpu")


def texts_of(n: int, *, longest: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [f"{sentence(rng, rng.randint(1, longest))} {i}" for i in range(n)]


def one_by_one(folder: Path, texts: Sequence[str], max_length: int) -> np.ndarray:
    """Logits ``[n, outputs]``, each text by itself in float64; never padded."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
        with torch.no_grad():
            rows.append(model(input_ids=torch.tensor([ids])).logits[0].numpy())
    return np.stack(rows)


def in_batches(classifier: DifficultyClassifier, texts: Sequence[str], token_budget: int) -> np.ndarray:
    encoded = classifier.encode(texts)
    found = np.empty((len(texts), 3, 5))
    for batch in plan_batches(encoded.lengths, token_budget=token_budget):
        found[batch] = classifier.predict(encoded, batch)
    return found


def load(folder: Path, **options: Any) -> DifficultyClassifier:
    return DifficultyClassifier(find_classifier(str(folder)), device=CPU, **options)


def encoder(kind: str, folder: Path, *, labels: Sequence[str], side: str = "right", vocabulary: int = 400) -> Path:
    """A small classifier of some architecture, with a tokenizer that pads on some side."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(len(folder.name))
    named = dict(enumerate(labels))
    config = AutoConfig.for_model(
        kind, vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=66, pad_token_id=0, num_labels=len(named), id2label=named,
        label2id={name: i for i, name in named.items()}, initializer_range=0.4,
    )  # fmt: skip
    if kind == "modernbert":
        config.initializer_cutoff_factor = 2.0
    model = AutoModelForSequenceClassification.from_config(config)
    tokenizer = build_tokenizer(vocabulary=vocabulary)
    tokenizer.padding_side = side
    return save_model(folder, model, tokenizer)


@pytest.mark.parametrize("token_budget", [1, 100, 100_000])
def test_any_batching_gives_the_logits_of_one_text_after_another(
    tiny_classifier_folder: Path, token_budget: int
) -> None:
    texts = texts_of(61, longest=90)
    classifier = load(tiny_classifier_folder, dtype=torch.float64)
    assert classifier.encode(texts).cut.sum() > 5
    found = in_batches(classifier, texts, token_budget)
    slow = one_by_one(tiny_classifier_folder, texts, 64).reshape(-1, 3, 5)
    np.testing.assert_allclose(found, slow, rtol=0, atol=1e-10)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "electra"])
def test_padding_and_positions_change_nothing(kind: str, side: str, tmp_path: Path) -> None:
    # left padding would shift the positions of BERT, and RoBERTa counts them from the padding token
    folder = encoder(kind, tmp_path / kind, labels=label_names(), side=side)
    texts = texts_of(23, longest=30)
    found = in_batches(load(folder, dtype=torch.float64), texts, 10_000)
    slow = one_by_one(folder, texts, 64).reshape(-1, 3, 5)
    assert slow.std(axis=0).min() > 1e-3
    np.testing.assert_allclose(found, slow, rtol=0, atol=1e-9)


def test_positions_that_the_padding_takes_are_no_room_for_text(tmp_path: Path) -> None:
    folder = encoder("roberta", tmp_path / "r", labels=label_names())
    classifier = load(folder)
    assert classifier.max_length == 65
    assert np.isfinite(in_batches(classifier, ["fever " * 500], 10_000)).all()


def test_three_models_read_each_text_with_their_own_tokenizer(tmp_path: Path) -> None:
    sizes = {"knowledge": 400, "reasoning": 320, "overall": 400}
    for name, vocabulary in sizes.items():
        encoder("bert", tmp_path / name, labels=[str(i) for i in range(1, 6)], vocabulary=vocabulary)
    texts = texts_of(31, longest=40)
    classifier = load(tmp_path, dtype=torch.float64)
    encoded = classifier.encode(texts)
    assert encoded.ids[0] is encoded.ids[2], "equal tokenizers pass over a text once"
    assert any(len(a) != len(b) for a, b in zip(encoded.ids[0], encoded.ids[1], strict=True))
    assert encoded.lengths.tolist() == [max(map(len, one)) for one in zip(*encoded.ids, strict=True)]
    found = in_batches(classifier, texts, 300)
    for i, name in enumerate(sizes):
        slow = one_by_one(tmp_path / name, texts, classifier.max_length)
        np.testing.assert_allclose(found[:, i], slow, rtol=0, atol=1e-10)


def test_cut_texts_keep_the_closing_token(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    folder = encoder("bert", tmp_path / "b", labels=label_names())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer.model_max_length = 16
    tokenizer.save_pretrained(folder)
    classifier = load(folder)
    texts = texts_of(20, longest=40)
    encoded = classifier.encode(texts)
    saved = AutoTokenizer.from_pretrained(folder)
    plain = saved(texts, truncation=True, max_length=16)["input_ids"]
    assert [list(one) for one in encoded.ids[0]] == plain
    full = [len(one) for one in saved(texts, truncation=False, verbose=False)["input_ids"]]
    assert encoded.cut.tolist() == [n > 16 for n in full]
    assert 0 < encoded.cut.sum() < 20


def test_likert_is_the_expected_level_and_a_broken_logit_is_no_score() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=3, size=(200, 3, 5))
    logits[7, 1, 2], logits[8, 0, 0], logits[9, 2, 4] = np.nan, np.inf, -np.inf
    logits[10] = 1e4 * np.eye(5)[[0, 2, 4]]
    logits[11] = 0.0
    found = likert(logits)
    p = torch.tensor(logits).softmax(-1).numpy()
    slow = sum((level + 1) * p[..., level] for level in range(5))
    usable = [i for i in range(200) if i not in (7, 8, 9)]
    np.testing.assert_allclose(found.expected[usable], slow[usable], atol=1e-12)
    assert (found.level[usable] == p[usable].argmax(-1) + 1).all()
    assert np.isnan(found.expected[[7, 8, 9]]).all()
    assert (found.level[[7, 8, 9]] == 0).all()
    assert found.expected[10].tolist() == [1.0, 3.0, 5.0]
    assert found.level[11].tolist() == [1, 1, 1]


@pytest.mark.parametrize("together", [True, False])
def test_a_classifier_may_rate_some_dimensions_alone(together: bool, tmp_path: Path) -> None:
    rated = ["knowledge", "overall"]
    if together:
        # the outputs of the second dimension first
        encoder("bert", tmp_path, labels=label_names(rated[::-1]))
    else:
        for name in rated:
            encoder("bert", tmp_path / name, labels=[str(i) for i in range(5)])
    classifier = load(tmp_path, dtype=torch.float64)
    assert classifier.dimensions == rated
    texts = texts_of(5, longest=20)
    encoded = classifier.encode(texts)
    found = classifier.predict(encoded, range(5))
    assert found.shape == (5, 2, 5)
    slow = (
        one_by_one(tmp_path, texts, 64).reshape(-1, 2, 5)[:, ::-1]
        if together
        else np.stack([one_by_one(tmp_path / name, texts, 64) for name in rated], axis=1)
    )
    np.testing.assert_allclose(found, slow, rtol=0, atol=1e-10)


def test_folders_that_are_no_classifier_are_refused(tmp_path: Path, tiny_llama_folder: Path) -> None:
    wrong = encoder("bert", tmp_path / "wrong", labels=["medqa", "medmcqa"])
    with pytest.raises(ModelError, match="2 outputs named medqa"):
        load(wrong)
    for name in ("knowledge", "reasoning"):
        encoder("bert", tmp_path / "three" / name, labels=[str(i) for i in range(5)])
    encoder("bert", tmp_path / "three" / "overall", labels=WORDS[:3])
    with pytest.raises(ModelError, match="overall` has 3 classes, not 5"):
        load(tmp_path / "three")
