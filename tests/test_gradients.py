"""Exact dots against per-sample autograd in float64, one sample at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from conftest import build_llama
from diq.gradients import InfluenceScorer, mean_gradient, sample_losses, tapped
from diq.models import is_transposed, linear_modules
from diq.samples import Tokens, collate, plan_batches

VOCABULARY = 400


def llama_tied() -> nn.Module:
    return build_llama(layers=3, tied=True)


def llama_untied() -> nn.Module:
    return build_llama(layers=2, tied=False)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=48, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2
    )
    return GPT2LMHeadModel(config)


def gemma2() -> nn.Module:
    """Soft-capped logits: the head's positions are chosen before the cap."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        query_pre_attn_scalar=12,
        sliding_window=16,
        final_logit_softcapping=5.0,
        attn_implementation="eager",
    )
    return Gemma2ForCausalLM(config)


def qwen3() -> nn.Module:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
    )
    return Qwen3ForCausalLM(config)


def phi3() -> nn.Module:
    """Fused query, key and value."""
    from transformers import Phi3Config, Phi3ForCausalLM

    config = Phi3Config(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return Phi3ForCausalLM(config)


BUILDERS: list[Callable[[], nn.Module]] = [llama_tied, llama_untied, gpt2, gemma2, qwen3, phi3]


def random_tokens(n: int, seed: int) -> list[Tokens]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        length = int(rng.integers(4, 60))
        found.append(Tokens(rng.integers(3, VOCABULARY, length).astype(np.int32), int(rng.integers(1, length))))
    return found


def oracle(model: nn.Module, modules: dict[str, nn.Module], samples: list[Tokens], reduction: str) -> torch.Tensor:
    """Gradients ``[n, p]`` in float64, one sample and one plain backward at a time."""
    weights = [module.weight for module in modules.values()]
    for weight in weights:
        weight.requires_grad_(True)
    rows = []
    for sample in samples:
        ids = torch.from_numpy(sample.ids.astype(np.int64))[None]
        logits = model(input_ids=ids).logits[0, :-1]
        labels = ids[0, 1:].clone()
        labels[: sample.answer_start - 1] = -100
        loss = nn.functional.cross_entropy(logits, labels, reduction=reduction)
        parts = torch.autograd.grad(loss, weights)
        flat = [
            (part.T if is_transposed(module) else part).reshape(-1)
            for part, module in zip(parts, modules.values(), strict=True)
        ]
        rows.append(torch.cat(flat))
    for weight in weights:
        weight.requires_grad_(False)
    return torch.stack(rows)


def scores(
    model: nn.Module,
    modules: dict[str, nn.Module],
    validation: list[list[Tokens]],
    samples: list[Tokens],
    *,
    batch: int,
    side: Literal["left", "right"],
    reduction: Literal["mean", "sum"] = "mean",
) -> torch.Tensor:
    gradients = [
        mean_gradient(model, modules, [collate(one, padding_side=side)], reduction=reduction) for one in validation
    ]
    scorer = InfluenceScorer(model, modules, gradients, reduction=reduction)
    parts = [
        scorer.score(collate(samples[at : at + batch], padding_side=side))[0] for at in range(0, len(samples), batch)
    ]
    return torch.cat(parts)


@pytest.fixture(params=BUILDERS, ids=lambda build: build.__name__)
def case(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    model = request.param().eval().requires_grad_(False)
    modules = linear_modules(model)
    training = random_tokens(16, 1)
    validation = [random_tokens(5, 2), random_tokens(7, 3), random_tokens(1, 4)]
    model.double()
    gradients = oracle(model, modules, training, "mean")
    means = torch.stack([oracle(model, modules, one, "mean").mean(dim=0) for one in validation])
    return model.float(), modules, training, validation, gradients @ means.T


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_dots_equal_float64_autograd(case: Any, batch: int, side: Literal["left", "right"]) -> None:
    model, modules, training, validation, expected = case
    found = scores(model, modules, validation, training, batch=batch, side=side)
    error = (found - expected).abs().amax(dim=0) / expected.std(dim=0)
    assert error.max() < 1e-5, error


def test_one_validation_set_equals_the_same_set_among_several(case: Any) -> None:
    model, modules, training, validation, _ = case
    together = scores(model, modules, validation, training, batch=4, side="right")
    alone = scores(model, modules, validation[1:2], training, batch=4, side="right")
    torch.testing.assert_close(alone[:, 0], together[:, 1], rtol=1e-5, atol=1e-7 * float(together.abs().max()))


def test_float64_is_exact_up_to_rounding() -> None:
    torch.manual_seed(0)
    model = llama_tied().eval().requires_grad_(False).double()
    modules = linear_modules(model, "all-linear")
    training, validation = random_tokens(9, 1), random_tokens(4, 2)
    expected = oracle(model, modules, training, "sum") @ oracle(model, modules, validation, "sum").mean(dim=0)
    found = scores(model, modules, [validation], training, batch=4, side="right", reduction="sum")[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)


def test_losses_equal_the_models_own_loss() -> None:
    torch.manual_seed(0)
    model = qwen3().eval()
    samples = random_tokens(5, 7)
    losses, counts = sample_losses(model, collate(samples))
    for sample, loss, count in zip(samples, losses, counts, strict=True):
        ids = torch.from_numpy(sample.ids.astype(np.int64))[None]
        labels = ids.clone()
        labels[0, : sample.answer_start] = -100
        torch.testing.assert_close(loss, model(input_ids=ids, labels=labels).loss, rtol=1e-5, atol=1e-6)
        assert int(count) == sample.answer_tokens


def test_a_sample_without_answer_tokens_gives_zero_and_disturbs_nobody() -> None:
    torch.manual_seed(0)
    model = llama_tied().eval().requires_grad_(False)
    modules = linear_modules(model)
    usable = random_tokens(3, 5)
    empty = Tokens(np.arange(3, 9, dtype=np.int32), 6)
    scorer = InfluenceScorer(model, modules, [mean_gradient(model, modules, [collate(usable)])])
    dots, losses, counts = scorer.score(collate([usable[0], empty, usable[1]]))
    alone = scorer.score(collate([usable[0], usable[1]]))[0]
    assert counts.tolist()[1] == 0
    assert losses[1] == 0
    assert dots[1].item() == 0
    torch.testing.assert_close(dots[[0, 2]], alone, rtol=1e-5, atol=1e-9)


def test_modules_are_as_before_after_scoring() -> None:
    model = llama_tied().eval().requires_grad_(False)
    modules = linear_modules(model)
    name, module = next(iter(modules.items()))

    def other_forward(x: torch.Tensor) -> torch.Tensor:
        return x

    module.forward = other_forward  # type: ignore[method-assign]
    with tapped(modules, lambda *_: None):
        assert module.forward is not other_forward
    assert module.forward is other_forward, name
    assert all("forward" not in one.__dict__ for one in modules.values() if one is not module)


def test_no_parameter_gets_a_gradient() -> None:
    model = llama_tied().eval().requires_grad_(False)
    modules = linear_modules(model)
    samples = random_tokens(3, 5)
    scorer = InfluenceScorer(model, modules, [mean_gradient(model, modules, [collate(samples)])])
    scorer.score(collate(samples))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_batches_hold_every_sample_once_longest_first_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(1, 300, 500)
    batches = list(plan_batches(lengths, token_budget=512))
    together = np.concatenate(batches)
    assert sorted(together.tolist()) == list(range(500))
    assert (np.diff(lengths[together]) <= 0).all()
    assert all(len(batch) == 1 or len(batch) * lengths[batch].max() <= 512 for batch in batches)
    assert len(batches) < 500
