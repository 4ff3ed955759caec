"""Adapters as people save them: on the head, with whole layers beside them, with embeddings that PEFT saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conftest import build_llama, build_tokenizer, save_model
from diq.base.errors import ModelError
from diq.gradients.dots import Norms, TokenTerms
from diq.gradients.forward import Forward
from diq.models.architecture import plain_experts
from diq.models.layers import coverage, linear_weights
from diq.models.network import load_causal_lm
from diq.models.source import ModelSource, find_adapter, find_model
from diq.models.tokens import collate
from gradients.test_gradients import VOCABULARY, Case, measured, mixtral, pooled, run
from models import vision_language

# what PEFT is told beside the rank; what the folder holds beside LoRA's matrices
KINDS: dict[str, dict[str, Any]] = {
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    "whole_layer": {"target_modules": ["q_proj"], "modules_to_save": ["v_proj", "norm"]},
    "saved_embeddings": {"target_modules": ["q_proj"]},
    "biases": {"target_modules": ["q_proj"], "bias": "all"},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 4]},
}


def trained(folder: Path, kind: str, *, tied: bool, rows: int = VOCABULARY) -> tuple[ModelSource, ModelSource, Any]:
    """A base model, an adapter of it that is nowhere zero, and PEFT's own model of both."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    source = find_model(save_model(folder / "base", build_llama(tied=tied), build_tokenizer()))
    base = AutoModelForCausalLM.from_pretrained(source.path)
    if rows != VOCABULARY:
        base.resize_token_embeddings(rows)
    torch.manual_seed(1)
    model: Any = get_peft_model(base, LoraConfig(r=4, **KINDS[kind]))
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder / "adapter", save_embedding_layers=True if kind == "saved_embeddings" else "auto")
    return source, find_adapter(folder / "adapter", source), model.eval()


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize(
    ("kind", "tied"),
    [
        # tying changes what becomes of a head and of embeddings
        pytest.param(
            kind, tied, id=f"{kind}-{'tied' if tied else 'untied'}",
            marks=pytest.mark.exhaustive if kind in ("whole_layer", "biases", "tokens") and tied else (),
        )
        for kind in KINDS for tied in (False, True)
    ],
)  # fmt: skip
def test_every_adapter_of_peft_loads_and_its_dots_are_exact(tmp_path: Path, kind: str, tied: bool) -> None:
    source, adapter, model = trained(tmp_path, kind, tied=tied)
    network: Any = load_causal_lm(source, adapter=adapter, device="cpu")
    ids = torch.arange(1, 30)[None]
    assert torch.equal(network(ids).logits, model(ids).logits)
    # the head is no linear layer that counts, an adapter around it or not; a layer trained whole has its own name
    weights = linear_weights(network, "all-linear")
    assert len(weights) == 14
    assert all(name.startswith("model.layers.") and name.endswith("_proj") for name in weights)
    for params in ("qkv", "all-linear", "lora"):
        if (kind, params) == ("embeddings", "lora"):
            with pytest.raises(ModelError, match="beside plain LoRA matrices"):
                linear_weights(network, params)
            continue
        case = Case(lambda: load_causal_lm(source, adapter=adapter, device="cpu"), params)
        assert case.error(case.scores()) < 2e-5
        assert case.error(case.scores(packed=True, folds=2)) < 2e-5


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_an_adapter_on_the_head_is_seen_by_every_recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, adapter, _ = trained(tmp_path, "head", tied=False)
    case = Case(lambda: load_causal_lm(source, adapter=adapter, device="cpu"), "lora")
    assert [name for name in case.weights if "lm_head" in name] == ["lm_head.lora_A", "lm_head.lora_B"]
    for layout in ({}, {"padding_side": "left"}, {"packed": True}):
        assert case.error(case.scores(rank=1000, **layout)) < 2e-5
        norms = run(case.model, case.weights, case.training, Norms(), batch=5, **layout)[:, 0]
        torch.testing.assert_close(norms, case.norms, rtol=1e-5, atol=1e-9)
        gradients = measured(case.model, case.weights, case.validation)
        terms = run(case.model, case.weights, case.training[:4], TokenTerms(case.weights, gradients), batch=4, **layout)
        assert case.error(torch.cat([terms.view(4, -1, 3).sum(dim=1), case.expected[4:]])) < 2e-5
    monkeypatch.setattr("diq.gradients.losses._TRANSIENT", 9 * VOCABULARY)
    assert case.error(case.scores()) < 2e-5


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_what_an_adapter_holds_beside_its_matrices_is_counted_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, adapter, _ = trained(tmp_path, "whole_layer", tied=False)
    with caplog.at_level("INFO", logger="diq"):
        network = load_causal_lm(source, adapter=adapter, device="cpu")
    (said,) = (one for one in caplog.messages if "brings whole weights" in one)
    assert "model.layers.0.self_attn.v_proj.weight" in said
    found = coverage(network, linear_weights(network, "lora"), "lora")
    # A and B of two layers; v_proj [24, 48] of two layers and five norms of 48 beside them
    assert (found.covered, found.total) == (2 * 4 * 96, 2 * 4 * 96 + 2 * 24 * 48 + 5 * 48)
    assert found.left_out["model.layers.0.self_attn.v_proj.weight trained whole"] == 24 * 48
    # the layer that was trained counts once, the one that it replaced not at all
    assert coverage(network, linear_weights(network, "qkv"), "qkv").covered == 2 * (48 * 48 + 2 * 24 * 48)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_what_an_adapter_adds_to_experts_counts(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    source = find_model(save_model(tmp_path / "base", mixtral(), build_tokenizer()))
    base = AutoModelForCausalLM.from_pretrained(source.path)
    stacks = [
        name for name, _ in base.named_parameters() if name.endswith(("experts.gate_up_proj", "experts.down_proj"))
    ]
    model: Any = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], target_parameters=stacks))
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    adapter = find_adapter(tmp_path / "adapter", source)

    def load() -> Any:
        network = load_causal_lm(source, adapter=adapter, device="cpu")
        plain_experts(network)
        return network

    ids = torch.arange(1, 30)[None]
    assert torch.equal(load()(ids).logits, model.eval()(ids).logits)
    for params in ("qkv", "all-linear", r"experts\.down_proj"):
        case = Case(load, params)
        assert case.error(case.scores()) < 2e-5
        assert case.error(case.scores(packed=True)) < 2e-5
        gradients = measured(case.model, case.weights, case.validation)
        scored = Forward(case.model, case.weights, gradients).score(collate(case.training))
        assert case.error(pooled(scored.values[0], gradients)) < 1e-4


def test_an_adapter_on_another_part_alone_is_refused(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = vision_language.build("gemma3")
    source = find_model(save_model(tmp_path / "base", model, build_tokenizer()))
    get_peft_model(model, LoraConfig(target_modules=r".*vision_tower.*q_proj")).save_pretrained(tmp_path / "adapter")
    adapter = find_adapter(tmp_path / "adapter", source)
    with pytest.raises(ModelError, match=r"is on another part of the model alone, first `model\.vision_tower"):
        load_causal_lm(source, adapter=adapter, device="cpu")


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_an_adapter_of_a_larger_vocabulary_is_refused_in_one_line(tmp_path: Path) -> None:
    source, adapter, _ = trained(tmp_path, "saved_embeddings", tied=False, rows=VOCABULARY + 8)
    with pytest.raises(ModelError, match=r"cannot be put on the base model: .*size mismatch for .*embed_tokens"):
        load_causal_lm(source, adapter=adapter, device="cpu")
