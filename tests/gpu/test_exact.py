"""Exact dots on a GPU against float64 on the CPU, and what happens when memory is short."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from conftest import build_llama, build_tokenizer, save_model
from diq.gradients.backward import score_batch
from diq.gradients.dots import Dots
from diq.gradients.validation import ValidationGradient, mean_gradient
from diq.models.layers import linear_weights
from diq.models.tokens import Tokens, collate

VOCABULARY = 2048


def llama() -> nn.Module:
    """Large enough for the kernels' wide tiles and for flash attention."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def draw(n: int, seed: int, longest: int = 200) -> list[Tokens]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(8, longest, n)
    return [Tokens(rng.integers(3, VOCABULARY, one).astype(np.int32), int(rng.integers(1, one))) for one in lengths]


def scores(model: nn.Module, samples: list[Tokens], sets: list[list[Tokens]], batch: int) -> torch.Tensor:
    weights = linear_weights(model)
    validation = [ValidationGradient((mean_gradient(model, weights, [collate(one)]),), (len(one),)) for one in sets]
    dots = Dots(weights, validation)
    parts = [
        score_batch(model, weights, collate(samples[at : at + batch]), [dots]).values[0]
        for at in range(0, len(samples), batch)
    ]
    return torch.cat(parts).double()


def ranks(values: torch.Tensor) -> torch.Tensor:
    return values.argsort().argsort().double()


@pytest.fixture(scope="module")
def case() -> tuple[nn.Module, list[Tokens], list[list[Tokens]]]:
    return llama(), draw(48, 1), [draw(8, 2), draw(8, 3), draw(8, 4)]


def test_float32(case: tuple[nn.Module, list[Tokens], list[list[Tokens]]]) -> None:
    model, samples, sets = case
    wanted = scores(copy.deepcopy(model).double(), samples, sets, 16)
    found = scores(copy.deepcopy(model).cuda(), samples, sets, 16)
    assert ((found - wanted).abs().max(0).values < 1e-4 * wanted.std(0)).all()


@pytest.mark.parametrize("n_sets", [1, 3])
def test_bfloat16(case: tuple[nn.Module, list[Tokens], list[list[Tokens]]], n_sets: int) -> None:
    model, samples, sets = case
    narrow = copy.deepcopy(model).bfloat16()
    wanted = scores(copy.deepcopy(narrow).double(), samples, sets[:n_sets], 16)
    found = scores(narrow.cuda(), samples, sets[:n_sets], 16)
    for column in range(n_sets):
        both = torch.stack([ranks(found[:, column]), ranks(wanted[:, column])])
        assert torch.corrcoef(both)[0, 1] >= 0.999
    # the same bits again, and nearly the same in other batches
    narrow.cuda()
    again = scores(narrow, samples, sets[:n_sets], 16)
    assert torch.equal(found, again)
    other = scores(narrow, samples, sets[:n_sets], 5)
    assert ((other - found).abs().max(0).values < 0.05 * wanted.std(0)).all()


def test_out_of_memory_halves_the_batch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from diq.gradients.engine import Engine, EngineSettings
    from diq.gradients.validation import ValidationTokens
    from diq.models.source import find_model

    folder = save_model(tmp_path / "llama", build_llama(layers=4, vocabulary=4000), build_tokenizer())
    engine = Engine(EngineSettings(find_model(str(folder)), device="cuda", dtype="float32"))
    rng = np.random.default_rng(0)
    samples = [Tokens(rng.integers(3, 4000, 256).astype(np.int32), 64) for _ in range(128)]
    engine.prepare([ValidationTokens("v", samples[:4])])
    roomy = engine.score(samples)

    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    engine.score(samples[:16])
    enough = torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.5 * enough / total)
    try:
        with caplog.at_level(logging.WARNING, "diq"):
            short = engine.score(samples)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("going on with" in record.getMessage() for record in caplog.records)
    np.testing.assert_allclose(short.values, roomy.values, rtol=1e-3, atol=1e-5 * np.abs(roomy.values).max())
