"""Adapters on the language part of a vision-language model, and what every other command makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import diq
from conftest import build_tokenizer, ingest_rows, save_model
from models.chat_templates import SHAPES
from models.vision_language import TEXT, build


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gemma3", "mllama", pytest.param("llama4", marks=pytest.mark.exhaustive)])
def test_an_adapter_goes_back_on_the_full_model(
    tmp_path: Path, make_samples: Callable[..., Any], caplog: pytest.LogCaptureFixture, family: str
) -> None:
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText

    model = save_model(tmp_path / family, build(family), build_tokenizer())
    store, output = tmp_path / "s.duckdb", tmp_path / "out"
    ingest_rows(store, make_samples(6, longest=10))
    ingest_rows(store, make_samples(2, seed=1, longest=10), "task", validation=True)
    with caplog.at_level("INFO", logger="diq"):
        diq.train(
            "pool", model=model, store=store, output=output, epochs=2, batch_size=2, learning_rate=0.01, device="cpu"
        )
    told = next(one for one in caplog.messages if one.startswith("the adapter is put on"))
    assert "left out: " in told
    whole = AutoModelForImageTextToText.from_pretrained(model)
    adapted = PeftModel.from_pretrained(whole, output)
    kept = load_file(output / "adapter_model.safetensors")
    there = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    assert kept.keys() == there.keys()
    # A and B of three projections in each of two layers that text passes
    assert len(kept) == 12
    assert not any("vision" in name or ("layers.1." in name and family == "mllama") for name in kept)
    assert all(torch.equal(there[name], one) for name, one in kept.items())
    assert all(bool(one.any()) for name, one in kept.items() if "lora_B" in name)
    # and diq reads it where it was put
    summary = diq.score_influence("pool", model=model, store=store, params="lora", checkpoint=str(output), device="cpu")
    assert summary.n_scored == 6
    assert summary.details["covers"].startswith(f"{sum(one.numel() for one in kept.values()):,} of ")
    assert diq.score_perplexity("pool", model=model, adapter=output, store=store, device="cpu").n_scored == 6


OPTIONS = ("lung", "dose", "drug", "daily")


@pytest.mark.slow
def test_every_command_takes_the_language_part(
    tmp_path: Path, make_samples: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TEXT, "max_position_embeddings", 2048)
    model = save_model(tmp_path / "vlm", build("qwen2_5_vl"), build_tokenizer())
    # the template lies with the processor alone, and walks over typed parts
    (model / "chat_template.json").write_text(json.dumps({"chat_template": SHAPES["parts"]}))
    store, output = tmp_path / "s.duckdb", tmp_path / "out"
    ingest_rows(store, make_samples(30, longest=10))
    ingest_rows(store, make_samples(3, seed=1, longest=10), "task", validation=True)
    common: dict[str, Any] = {"model": model, "store": store, "device": "cpu"}
    exact = diq.score_influence("pool", **common)
    assert exact.details["covers"].endswith("left out: model.visual (41,984 weights)")
    told = diq.explain(model=model, store=store, dataset="pool", position=3, device="cpu")
    assert told.dot == pytest.approx(told.stored[0].dot, rel=1e-4)
    checked = diq.check_index("pool", **common)
    assert checked.n_samples == 30
    assert checked.recommended
    diq.train("pool", output=output, epochs=2, batch_size=10, save_steps=3, **common)
    less = diq.score_influence(
        "pool", method="less", checkpoint=[str(output / "checkpoint-*")], params="lora", **common
    )
    assert less.n_scored == 30
    indexed = diq.score_influence("pool", method="projected", index=tmp_path / "index", **common)
    assert indexed.n_scored == 30
    (tmp_path / "medqa.jsonl").write_text(
        json.dumps({"question": "fever?", "options": dict(zip("ABCD", OPTIONS, strict=True)), "answer_idx": "A"}) + "\n"
    )
    answered = diq.evaluate(adapter=output, benchmark=f"medqa={tmp_path / 'medqa.jsonl'}", max_tokens=8, **common)
    assert answered.n_generated == 1
