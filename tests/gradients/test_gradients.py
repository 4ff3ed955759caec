"""Exact dots against per-sample autograd in float64, one sample at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from conftest import build_llama
from diq.base.errors import ModelError, RunFailedError
from diq.gradients.backward import Recorder, score_batch, tapped
from diq.gradients.dots import Dots, Norms, TokenTerms, leading_directions
from diq.gradients.forward import Forward
from diq.gradients.losses import checkpointed, token_losses
from diq.gradients.validation import ValidationGradient, mean_gradient, squared_norm
from diq.models.experts import has_experts
from diq.models.layers import Weight, linear_weights
from diq.models.tokens import Tokens, collate, plan_batches

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


def mistral() -> nn.Module:
    """Sliding-window attention, shorter than most samples."""
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=12,
    )
    return MistralForCausalLM(config)


def mixtral() -> nn.Module:
    """Experts: their weights are matrices in one parameter, and a token goes through two of eight."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=8,
        num_experts_per_tok=2,
        initializer_range=0.1,
        experts_implementation="eager",
    )
    return MixtralForCausalLM(config)


BUILDERS: list[Callable[[], nn.Module]] = [llama_tied, llama_untied, gpt2, gemma2, qwen3, phi3, mistral, mixtral]
PARAMS = {"mixtral": "all-linear"}


def random_tokens(n: int, seed: int) -> list[Tokens]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        length = int(rng.integers(4, 60))
        found.append(Tokens(rng.integers(3, VOCABULARY, length).astype(np.int32), int(rng.integers(1, length))))
    return found


def oracle(model: nn.Module, weights: dict[str, Weight], samples: list[Tokens], reduction: str) -> torch.Tensor:
    """Gradients ``[n, p]`` in float64, one sample and one plain backward at a time."""
    parameters = [one.parameter for one in weights.values()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    rows = []
    for sample in samples:
        ids = torch.from_numpy(sample.ids.astype(np.int64))[None]
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        labels = ids[0, 1:].clone()
        labels[: sample.answer_start - 1] = -100
        loss = nn.functional.cross_entropy(logits, labels, reduction=reduction)
        parts = torch.autograd.grad(loss, parameters)
        # seen as the weight is: [out, in], or [experts, out, in]
        seen = [replace(one, parameter=part).matrix for part, one in zip(parts, weights.values(), strict=True)]
        rows.append(torch.cat([one.reshape(-1) for one in seen]))
    for parameter in parameters:
        parameter.requires_grad_(False)
    return torch.stack(rows)


def measured(
    model: nn.Module,
    weights: dict[str, Weight],
    validation: list[list[Tokens]],
    *,
    folds: int = 1,
    reduction: Literal["mean", "sum"] = "mean",
    **layout: Any,
) -> list[ValidationGradient]:
    found = []
    for one in validation:
        parts = [one[i :: min(folds, len(one))] for i in range(min(folds, len(one)))]
        means = tuple(mean_gradient(model, weights, [collate(part, **layout)], reduction=reduction) for part in parts)
        found.append(ValidationGradient(means, tuple(len(part) for part in parts)))
    return found


def pooled(columns: torch.Tensor, gradients: list[ValidationGradient]) -> torch.Tensor:
    """Dots with each set out of the dots with its folds."""
    parts = columns.split([len(one.sizes) for one in gradients], dim=1)
    return torch.stack(
        [part @ torch.tensor(one.shares(), dtype=part.dtype) for part, one in zip(parts, gradients, strict=True)], dim=1
    )


def run(
    model: nn.Module,
    weights: dict[str, Weight],
    samples: list[Tokens],
    recorder: Recorder,
    *,
    batch: int,
    reduction: Literal["mean", "sum"] = "mean",
    **layout: Any,
) -> torch.Tensor:
    return torch.cat(
        [
            score_batch(model, weights, collate(samples[at : at + batch], **layout), [recorder], reduction=reduction)
            .values[0]
            for at in range(0, len(samples), batch)
        ]
    )  # fmt: skip


def scores(
    model: nn.Module,
    weights: dict[str, Weight],
    validation: list[list[Tokens]],
    samples: list[Tokens],
    *,
    batch: int,
    folds: int = 1,
    rank: int | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    **layout: Any,
) -> torch.Tensor:
    gradients = measured(model, weights, validation, folds=folds, reduction=reduction, **layout)
    recorder = Dots(weights, gradients, rank=rank)
    return pooled(run(model, weights, samples, recorder, batch=batch, reduction=reduction, **layout), gradients)


class Case:
    """A model with float64 oracles: dots of 32 samples with three validation sets, and gradient norms."""

    def __init__(self, build: Callable[[], nn.Module], params: str | None = None) -> None:
        torch.manual_seed(0)
        self.model = build().eval().requires_grad_(False)
        self.weights = linear_weights(self.model, params or PARAMS.get(build.__name__, "qkv"))
        self.training = random_tokens(32, 1)
        self.validation = [random_tokens(5, 2), random_tokens(7, 3), random_tokens(1, 4)]
        self.model.double()
        self.gradients = oracle(self.model, self.weights, self.training, "mean")
        means = [oracle(self.model, self.weights, one, "mean").mean(dim=0) for one in self.validation]
        self.expected = self.gradients @ torch.stack(means).T
        self.norms = self.gradients.norm(dim=1)
        self.model.float()

    def error(self, found: torch.Tensor) -> float:
        """Largest error of a dot, in units of the dots' standard deviation."""
        expected = self.expected[:, : found.shape[1]]
        return float(((found - expected).abs().amax(dim=0) / expected.std(dim=0)).max())

    def scores(self, **options: Any) -> torch.Tensor:
        options = {"batch": 5, **options}
        return scores(self.model, self.weights, self.validation, self.training, **options)


_CASES: dict[str, Case] = {}


@pytest.fixture(params=BUILDERS, ids=lambda build: build.__name__)
def case(request: pytest.FixtureRequest) -> Case:
    name = request.param.__name__
    if name not in _CASES:
        _CASES[name] = Case(request.param)
    return _CASES[name]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("batch", [1, 5, 32])
def test_dots_equal_float64_autograd(case: Case, batch: int, side: Literal["left", "right"]) -> None:
    assert case.error(case.scores(batch=batch, padding_side=side)) < 1e-5


@pytest.mark.parametrize("options", [{"packed": True}, {"folds": 2}, {"folds": 4, "packed": True}], ids=str)
def test_packing_and_folds_change_no_dot(case: Case, options: dict[str, Any]) -> None:
    assert case.error(case.scores(**options)) < 1e-5


def test_the_head_in_parts_changes_no_dot(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    handle = case.model.get_output_embeddings().register_forward_hook(lambda *_: calls.append(1))  # type: ignore[operator]
    monkeypatch.setattr("diq.gradients.losses._TRANSIENT", 9 * VOCABULARY)
    try:
        for options in ({}, {"padding_side": "left"}, {"packed": True}, {"reduction": "mean", "folds": 2}):
            assert case.error(case.scores(batch=8, **options)) < 1e-5
    finally:
        handle.remove()
    assert len(calls) > 100


def test_checkpointing_changes_no_dot_and_leaves_the_model_as_it_was(case: Case) -> None:
    before = case.scores()
    with checkpointed(case.model):
        assert not any(one.training for one in case.model.modules() if isinstance(one, nn.Dropout))
        torch.testing.assert_close(case.scores(), before, rtol=1e-5, atol=1e-6 * float(before.std()))
    assert not any(one.training for one in case.model.modules())


def test_norms_equal_float64_autograd(case: Case) -> None:
    for layout in ({}, {"padding_side": "left"}, {"packed": True}):
        found = run(case.model, case.weights, case.training, Norms(), batch=5, **layout)[:, 0]
        torch.testing.assert_close(found, case.norms, rtol=1e-5, atol=1e-9)


def test_both_ways_to_a_norm_agree() -> None:
    """Gram matrices for short samples of wide layers, outer products for long samples of narrow ones."""
    torch.manual_seed(0)
    for tokens, width, height in ((3, 40, 50), (60, 7, 5), (24, 48, 48), (1, 1, 1)):
        x, delta = torch.randn(4, tokens, width), torch.randn(4, tokens, height)
        batch = collate([Tokens(np.arange(3, 3 + tokens, dtype=np.int32), 1)] * 4)
        norms = Norms()
        norms.begin(batch)
        norms.record("m", x, delta, batch)
        expected = torch.einsum("nto,nti->noi", delta.double(), x.double()).flatten(1).norm(dim=1)
        torch.testing.assert_close(norms.finish()[:, 0], expected, rtol=1e-5, atol=0)


def test_full_rank_keeps_the_dots_and_a_small_rank_equals_its_own_definition(case: Case) -> None:
    assert case.error(case.scores(rank=1000, folds=2)) < 2e-5
    gradients = measured(case.model, case.weights, case.validation, folds=2)
    recorder = Dots(case.weights, gradients, rank=3)
    found = pooled(run(case.model, case.weights, case.training, recorder, batch=5), gradients)
    expected, kept = [], []
    for gradient in gradients:
        mean, low = gradient.mean(), {}
        for name, matrix in mean.items():
            u, s, v = torch.linalg.svd(matrix.double())
            low[name] = (u[:, :3] * s[:3]) @ v[:3]
        expected.append(case.gradients @ torch.cat([one.flatten() for one in low.values()]))
        kept.append(squared_norm(low) / squared_norm(mean))
    scale = case.expected.std(dim=0)
    assert float(((found - torch.stack(expected, dim=1)).abs() / scale).max()) < 2e-5
    np.testing.assert_allclose(np.array(recorder.kept_shares, float), kept, rtol=1e-4)
    assert all(0.05 < share < 1 for share in recorder.kept_shares if share is not None)


def test_large_matrices_get_their_leading_directions() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(1100, 40) @ torch.diag(0.5 ** torch.arange(40.0)) @ torch.randn(40, 1200)
    left, right = leading_directions(matrix, 6)
    again, _ = leading_directions(matrix, 6)
    assert torch.equal(left, again)
    u, s, v = torch.linalg.svd(matrix.double())
    torch.testing.assert_close(left.T @ left, torch.eye(6), rtol=0, atol=1e-4)
    best = (u[:, :6] * s[:6]) @ v[:6]
    found = left.double() @ (left.double().T @ matrix.double() @ right.double()) @ right.double().T
    assert float((found - best).norm() / best.norm()) < 1e-3


def test_the_folds_dots_are_the_dots_with_the_folds(case: Case) -> None:
    gradients = measured(case.model, case.weights, case.validation, folds=3)
    columns = run(case.model, case.weights, case.training, Dots(case.weights, gradients), batch=32)
    alone = scores(case.model, case.weights, [case.validation[1][2::3]], case.training, batch=32)
    assert columns.shape[1] == 3 + 3 + 1
    torch.testing.assert_close(columns[:, 5], alone[:, 0], rtol=1e-5, atol=1e-5 * float(alone.std()))


@pytest.mark.slow
def test_forward_mode_gives_the_same_dots(case: Case) -> None:
    gradients = measured(case.model, case.weights, case.validation, folds=2)
    method = Forward(case.model, case.weights, gradients)
    for layout in ({}, {"padding_side": "left"}, {"packed": True}):
        scored = method.score(collate(case.training, **layout))
        assert case.error(pooled(scored.values[0], gradients)) < 1e-4
        losses = token_losses(case.model, collate(case.training)).by_sample("mean")
        torch.testing.assert_close(scored.losses, losses, rtol=1e-4, atol=1e-5)
    if has_experts(case.model):
        # a router may choose another expert on the other side of the difference
        with pytest.raises(ModelError, match="to other experts at W"):
            Forward(case.model, case.weights, gradients, central=True)
        return
    central = Forward(case.model, case.weights, gradients, central=True)
    assert case.error(pooled(central.score(collate(case.training)).values[0], gradients)) < 2e-2


def test_central_differences_converge_in_float64() -> None:
    case = Case(llama_tied)
    case.model.double()
    gradients = measured(case.model, case.weights, case.validation)
    coarse, fine = (
        case.error(Forward(case.model, case.weights, gradients, central=True, step=step)
                   .score(collate(case.training)).values[0])
        for step in (1e-2, 1e-3)
    )  # fmt: skip
    case.model.float()
    # the error falls with the square of the step
    assert fine < coarse / 50
    assert fine < 1e-4


def test_bfloat16_ranks_as_float32_does(case: Case) -> None:
    training = random_tokens(100, 9)
    # a copy: rounding would stay in the buffers
    model = copy.deepcopy(case.model).bfloat16()
    found = scores(model, linear_weights(model), case.validation, training, batch=16)
    expected = scores(case.model, case.weights, case.validation, training, batch=16)
    for column in range(3):
        ranks = [values[:, column].argsort().argsort().double() for values in (found, expected)]
        # a router of random weights has near ties, which rounding decides otherwise
        bound = 0.6 if has_experts(model) else 0.999
        assert float(torch.corrcoef(torch.stack(ranks))[0, 1]) >= bound


def test_token_terms_add_up_to_the_dots(case: Case) -> None:
    gradients = measured(case.model, case.weights, case.validation)
    terms = TokenTerms(case.weights, gradients)
    found = run(case.model, case.weights, case.training[:4], terms, batch=4).view(4, -1, 3)
    assert case.error(torch.cat([found.sum(dim=1), case.expected[4:]])) < 1e-5
    assert (found.abs().sum(dim=2) > 0).sum() > 8


def test_one_validation_set_equals_the_same_set_among_several(case: Case) -> None:
    together = case.scores()
    alone = scores(case.model, case.weights, case.validation[1:2], case.training, batch=5)
    torch.testing.assert_close(alone[:, 0], together[:, 1], rtol=1e-5, atol=1e-7 * float(together.abs().max()))


@pytest.mark.parametrize("params", ["all-linear", r"mlp|c_fc"])
@pytest.mark.parametrize("build", [llama_tied, gpt2, phi3], ids=lambda build: build.__name__)
def test_every_choice_of_parameters_is_exact(build: Callable[[], nn.Module], params: str) -> None:
    case = Case(build, params)
    assert case.error(case.scores(batch=32)) < 1e-5
    found = run(case.model, case.weights, case.training, Norms(), batch=5)[:, 0]
    torch.testing.assert_close(found, case.norms, rtol=1e-5, atol=1e-9)


def with_lora(base: nn.Module, targets: list[str]) -> nn.Module:
    """A LoRA adapter whose A and B are both away from zero, inside the base model."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, lora_dropout=0.5, fan_in_fan_out="c_attn" in targets)
    wrapped = get_peft_model(base, config)  # type: ignore[arg-type]
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    return wrapped.get_base_model()  # type: ignore[no-any-return]


@pytest.mark.parametrize("params", ["lora", "qkv"])
def test_an_adapters_matrices_and_the_weights_under_it_are_exact(params: str) -> None:
    def build() -> nn.Module:
        return with_lora(llama_tied(), ["q_proj", "v_proj", "down_proj"])

    case = Case(build, params)
    assert case.error(case.scores()) < 1e-5
    if params == "lora":
        assert len(case.weights) == 3 * 3 * 2
        assert "model.layers.0.self_attn.q_proj.lora_A" in case.weights
    else:
        # the same names as without an adapter, so that an index and its random matrices do not depend on it
        assert list(case.weights) == list(linear_weights(llama_tied()))


def test_a_fused_layer_takes_an_adapter_too() -> None:
    case = Case(lambda: with_lora(gpt2(), ["c_attn"]), "lora")
    assert case.error(case.scores()) < 1e-5


def test_an_adapter_with_more_than_lora_is_refused() -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules=["q_proj"], use_dora=True)
    network = get_peft_model(build_llama(), config).get_base_model()
    with pytest.raises(ModelError, match="beside plain LoRA matrices"):
        linear_weights(network, "lora")
    with pytest.raises(ModelError, match="needs an adapter"):
        linear_weights(build_llama(), "lora")


def test_modules_that_the_model_does_not_call_are_named() -> None:
    """What a fused kernel or a compiled graph does: the module is there, and nobody runs its forward."""
    torch.manual_seed(0)
    model = llama_tied().eval().requires_grad_(False)
    weights = linear_weights(model)
    attention = model.model.layers[1].self_attn  # type: ignore[union-attr,index]
    projection = attention.q_proj  # type: ignore[union-attr]

    class Fused(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, projection.weight)  # type: ignore[arg-type,union-attr]

    attention.q_proj = Fused()  # type: ignore[union-attr]
    with pytest.raises(ModelError, match=r"1 of 9 chosen layers reported no gradient.*layers\.1\.self_attn\.q_proj"):
        mean_gradient(model, weights, [collate(random_tokens(2, 1))])


def test_a_compiled_model_gives_the_same_dots_under_the_same_names() -> None:
    case = Case(llama_tied)
    compiled: Any = torch.compile(case.model, backend="eager")
    with torch.no_grad():
        compiled(input_ids=collate(case.training[:2]).ids)
    weights = linear_weights(compiled)
    assert list(weights) == list(case.weights)
    assert case.error(scores(compiled, weights, case.validation, case.training, batch=32)) < 1e-5


def test_a_layer_that_runs_twice_has_dots_and_no_norm() -> None:
    """Shared weights: the gradient is the sum over both runs, and so is the dot."""
    torch.manual_seed(0)

    def build() -> nn.Module:
        model = llama_tied()
        model.model.layers[1] = model.model.layers[0]  # type: ignore[union-attr,index,operator]
        return model

    case = Case(build)
    assert len(case.weights) == 6
    assert case.error(case.scores()) < 1e-5
    with pytest.raises(RunFailedError, match="runs twice"):
        run(case.model, case.weights, case.training, Norms(), batch=5)


def test_float64_is_exact_up_to_rounding() -> None:
    torch.manual_seed(0)
    model = llama_tied().eval().requires_grad_(False).double()
    weights = linear_weights(model, "all-linear")
    training, validation = random_tokens(9, 1), random_tokens(4, 2)
    expected = oracle(model, weights, training, "sum") @ oracle(model, weights, validation, "sum").mean(dim=0)
    for layout in ({}, {"packed": True}):
        found = scores(model, weights, [validation], training, batch=4, reduction="sum", **layout)[:, 0]
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)


def test_losses_equal_the_models_own_loss() -> None:
    torch.manual_seed(0)
    model = qwen3().eval()
    samples = random_tokens(5, 7)
    token = token_losses(model, collate(samples))
    losses, counts = token.by_sample("mean"), token.counts
    for sample, loss, count in zip(samples, losses, counts, strict=True):
        ids = torch.from_numpy(sample.ids.astype(np.int64))[None]
        labels = ids.clone()
        labels[0, : sample.answer_start] = -100
        torch.testing.assert_close(loss, model(input_ids=ids, labels=labels).loss, rtol=1e-5, atol=1e-6)
        assert int(count) == sample.answer_tokens


def test_a_sample_without_answer_tokens_gives_zero_and_disturbs_nobody() -> None:
    torch.manual_seed(0)
    model = llama_tied().eval().requires_grad_(False)
    weights = linear_weights(model)
    usable = random_tokens(3, 5)
    empty = Tokens(np.arange(3, 9, dtype=np.int32), 6)
    recorder = Dots(weights, measured(model, weights, [usable]))
    for layout in ({}, {"packed": True}):
        scored = score_batch(model, weights, collate([usable[0], empty, usable[1]], **layout), [recorder])
        alone = run(model, weights, usable[:2], recorder, batch=2)
        assert scored.counts.tolist()[1] == 0
        assert scored.losses[1] == 0
        assert scored.values[0][1].item() == 0
        torch.testing.assert_close(scored.values[0][[0, 2]], alone, rtol=1e-5, atol=1e-9)
    nothing = score_batch(model, weights, collate([empty, empty]), [recorder])
    assert nothing.counts.tolist() == [0, 0]
    assert not nothing.values[0].any()


class _Nothing:
    def matrix(self, *_: Any) -> None:
        pass

    stack = called = matrix


def test_modules_are_as_before_after_scoring() -> None:
    model = llama_tied().eval().requires_grad_(False)
    weights = linear_weights(model)
    name, weight = next(iter(weights.items()))
    (module,) = weight.owners

    def other_forward(x: torch.Tensor) -> torch.Tensor:
        return x

    module.forward = other_forward  # type: ignore[method-assign]
    with tapped(weights, _Nothing()):
        assert module.forward is not other_forward
    assert module.forward is other_forward, name
    assert all("forward" not in one.owners[0].__dict__ for one in weights.values() if one is not weight)


def test_no_parameter_gets_a_gradient() -> None:
    model = llama_tied().eval().requires_grad_(False)
    weights = linear_weights(model)
    samples = random_tokens(3, 5)
    score_batch(model, weights, collate(samples), [Dots(weights, measured(model, weights, [samples])), Norms()])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_batches_hold_every_sample_once_longest_first_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(1, 300, 500)
    batches = list(plan_batches(lengths, token_budget=512))
    together = np.concatenate(batches)
    assert sorted(together.tolist()) == list(range(500))
    assert (np.diff(lengths[together]) <= 0).all()
    assert all(len(batch) == 1 or len(batch) * lengths[batch].max() <= 512 for batch in batches)
    assert len(batches) < 500


def test_packed_batches_hold_every_sample_once_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(1, 300, 500)
    batches = list(plan_batches(lengths, token_budget=512, packed=True))
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    assert all(len(batch) == 1 or lengths[batch].sum() <= 512 for batch in batches)
    assert len(batches) < len(list(plan_batches(lengths, token_budget=512)))
