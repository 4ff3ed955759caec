"""Families whose layers do something of their own: dropout, latent attention, a linear layer's other forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diq.gradients.losses import checkpointed, packing_problem, token_losses
from diq.models.architecture import RopeChange, rope_change
from diq.models.layers import linear_weights
from diq.models.network import load_causal_lm
from diq.models.source import find_model
from diq.models.tokens import collate, plan_batches
from gradients.test_gradients import Case, random_tokens

SMALL: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
HYBRID = {
    "head_dim": 16,
    "num_hidden_layers": 4,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
FAMILIES: dict[str, dict[str, Any]] = {
    # dropout is called by the layers themselves
    "opt": SMALL | {"ffn_dim": 64, "word_embed_proj_dim": 48, "dropout": 0.5},
    "biogpt": SMALL | {"hidden_dropout_prob": 0.5, "activation_dropout": 0.5},
    # latent attention
    "deepseek_v3": SMALL
    | LATENT
    | {"moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    | {"first_k_dense_replace": 1, "n_shared_experts": 1},
    "minicpm3": SMALL | LATENT,
    # linear layers with a forward of their own
    "falcon": {one: SMALL[one] for one in SMALL if one not in ("intermediate_size", "num_key_value_heads")},
    "phimoe": SMALL | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "llama4_text": SMALL
    | {"head_dim": 12, "intermediate_size_mlp": 64, "num_local_experts": 4, "interleave_moe_layer_step": 2},
    "qwen3_5_text": SMALL | HYBRID,
    "qwen3": SMALL | {"head_dim": 12},
    "bloom": {"vocab_size": 400, "hidden_size": 48, "n_layer": 2, "n_head": 4, "initializer_range": 0.1},
}


def build(family: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    from diq.models.architecture import plain_experts

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **FAMILIES[family])).eval()
    plain_experts(model)
    return model.requires_grad_(False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "params"),
    [
        *((family, "qkv") for family in ("opt", "biogpt", "deepseek_v3", "minicpm3", "falcon")),
        *((family, "all-linear") for family in ("deepseek_v3", "falcon", "phimoe", "llama4_text")),
    ],
)
def test_dots_are_exact(family: str, params: str) -> None:
    case = Case(lambda: build(family), params)
    assert case.error(case.scores()) < 1e-5
    with checkpointed(case.model):
        assert case.error(case.scores(batch=32)) < 1e-5
    # and again: nothing is left switched on
    assert case.error(case.scores(batch=1)) < 1e-5


def test_a_layer_that_rounds_its_input_keeps_doing_so() -> None:
    class Rounding(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(input.mul(4).round().div(4) + input - input.detach(), self.weight)

    def with_own_layers() -> Any:
        model = build("qwen3")
        for layer in model.model.layers:
            old = layer.self_attn.v_proj
            layer.self_attn.v_proj = Rounding(old.in_features, old.out_features, bias=False)
            layer.self_attn.v_proj.weight = old.weight
        return model.eval().requires_grad_(False)

    case = Case(with_own_layers)
    assert case.error(case.scores()) < 1e-5
    # the plain product would be another model
    plain = Case(lambda: build("qwen3"))
    assert case.error(plain.scores()) > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("family", "crosses"), [("opt", True), ("bloom", True), ("qwen3_5_text", True), ("qwen3", False), ("phimoe", False)]
)
def test_the_guard_of_packing_sees_what_crosses_a_border(family: str, crosses: bool, dtype: torch.dtype) -> None:
    model = build(family).to(dtype)
    training = [module.training for module in model.modules()]
    problem = packing_problem(model)
    assert (problem is not None) is crosses
    assert [module.training for module in model.modules()] == training
    if crosses:
        assert f"{type(model).__name__} looks across the borders" in str(problem)


LENGTHENED: dict[str, dict[str, Any]] = {
    # 12 channels a head are turned in pairs
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 6,
        "long_factor": [4.0] * 6,
        "original_max_position_embeddings": 24,
    },
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
}


@pytest.mark.parametrize("kind", LENGTHENED)
def test_a_sample_does_not_take_the_angles_of_the_longest_in_its_batch(kind: str, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    longest = 128 if kind == "longrope" else 24
    fields = SMALL | {"max_position_embeddings": longest, "rope_parameters": LENGTHENED[kind]}
    LlamaForCausalLM(LlamaConfig(**fields)).save_pretrained(tmp_path)
    network = load_causal_lm(find_model(tmp_path))
    change = rope_change(network.config)
    assert change == (24, kind == "dynamic")
    samples = random_tokens(40, 3)
    lengths = np.asarray([len(one.ids) for one in samples])
    alone = [float(token_losses(network, collate([one])).by_sample("mean")) for one in samples]

    def together(change: RopeChange | None) -> list[float]:
        losses = np.zeros(len(samples))
        for rows in plan_batches(lengths, token_budget=512, change=change):
            losses[rows] = token_losses(network, collate([samples[i] for i in rows])).by_sample("mean").numpy()
        return losses.tolist()

    assert together(change) == pytest.approx(alone, rel=1e-4)
    # the samples do differ, else nothing would be shown
    assert together(None) != pytest.approx(alone, rel=1e-3)


def test_the_feed_forward_of_rwkv_is_no_attention() -> None:
    from transformers import RwkvConfig, RwkvForCausalLM

    model = RwkvForCausalLM(RwkvConfig(vocab_size=400, hidden_size=48, num_hidden_layers=2, context_length=64))
    assert {name.split(".")[3] for name in linear_weights(model)} == {"attention"}
