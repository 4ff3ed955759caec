"""Adapters on the experts of a mixture, and beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import diq
from conftest import build_tokenizer, ingest_rows, save_model
from diq.base.errors import UsageError
from models.zoo import small_config

STACKS = "experts[.](gate_up|down)_proj|q_proj"


def mixture(family: str, folder: Path) -> Path:
    from transformers import AutoModelForCausalLM

    tokenizer = build_tokenizer()
    config = small_config(family)
    config.vocab_size = len(tokenizer)
    torch.manual_seed(0)
    return save_model(folder, AutoModelForCausalLM.from_config(config), tokenizer)


def filled(folder: Path, make_samples: Callable[..., Any]) -> Path:
    store = folder / "s.duckdb"
    ingest_rows(store, make_samples(6, longest=10))
    ingest_rows(store, make_samples(2, seed=1, longest=10), "task", validation=True)
    return store


@pytest.mark.slow
def test_experts_are_trained_where_they_are_named(tmp_path: Path, make_samples: Callable[..., Any]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model, store, output = mixture("qwen3_moe", tmp_path / "m"), filled(tmp_path, make_samples), tmp_path / "out"
    options: dict[str, Any] = {"model": model, "store": store, "device": "cpu", "params": STACKS, "output": output}
    with pytest.raises(UsageError, match=r"an adapter on experts .* takes no dropout, and .* is 0\.1"):
        diq.train("pool", **options, lora_dropout=0.1)
    options |= {"epochs": 2, "batch_size": 2, "learning_rate": 0.05}
    diq.train("pool", **options, lora_dropout=0)
    kept = json.loads((output / "adapter_config.json").read_text())
    assert len(kept["target_parameters"]) == 4
    base = AutoModelForCausalLM.from_pretrained(model)
    before = {name: one.clone() for name, one in base.named_parameters()}
    merged = PeftModel.from_pretrained(base, output).merge_and_unload()
    changed = {name for name, one in merged.named_parameters() if not torch.equal(one, before[name])}
    assert {name.rsplit(".", 1)[-1] for name in changed} == {"gate_up_proj", "down_proj", "weight"}
    assert len(changed) == 4 + 2
    # what they do to the weights is scored over the weights; there is no layer of their own to look at
    with pytest.raises(diq.DiqError, match="the adapter is also on experts"):
        diq.score_influence("pool", model=model, store=store, params="lora", checkpoint=[str(output)], device="cpu")


@pytest.mark.slow
def test_layers_that_peft_takes_for_experts_are_left_out_and_named(
    tmp_path: Path, make_samples: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Shared experts have the names that experts had before they were stacked."""
    model, store, output = mixture("deepseek_v3", tmp_path / "m"), filled(tmp_path, make_samples), tmp_path / "out"
    diq.train("pool", model=model, store=store, device="cpu", params="all-linear", output=output, epochs=1)
    assert "down_proj, gate_proj, up_proj are left out of the adapter" in caplog.text
    kept = json.loads((output / "adapter_config.json").read_text())
    assert not kept["target_parameters"]
    assert sorted(kept["target_modules"]) == ["kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "q_a_proj", "q_b_proj"]
