"""Training and evaluation on a GPU: losses of a CPU, memory that really runs out, 4-bit and FlashAttention."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import sentence, write_jsonl

for package in ("trl", "peft", "datasets", "accelerate"):
    pytest.importorskip(package)


@pytest.fixture
def selection(tmp_path: Path, make_samples: Callable[..., Any]) -> Path:
    return write_jsonl(tmp_path / "selection.jsonl", [{"messages": one} for one in make_samples(16, longest=20)])


@pytest.fixture
def preferences(tmp_path: Path) -> Path:
    rng = random.Random(0)
    rows = [
        {"prompt": sentence(rng, 4), "chosen": "aspirin daily", "rejected": sentence(rng, 3)}
        for _ in range(16)
    ]  # fmt: skip
    return write_jsonl(tmp_path / "pairs.jsonl", rows)


def train(data: Path, output: Path, model: Path, **options: Any) -> Any:
    from diq.training.train import train as run

    settings: dict[str, Any] = {
        "model": str(model),
        "store": output.parent / "none.duckdb",
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "device": "cuda",
    }
    return run(str(data), output=output, **{**settings, **options})


@pytest.mark.parametrize("params", ["qkv", "full"])
def test_losses_are_those_of_a_cpu(selection: Path, tmp_path: Path, tiny_llama_folder: Path, params: str) -> None:
    options: dict[str, Any] = {"params": params, "dtype": "float32", "learning_rate": 1e-3}
    here = train(selection, tmp_path / "gpu", tiny_llama_folder, **options)
    there = train(selection, tmp_path / "cpu", tiny_llama_folder, device="cpu", **options)
    assert here.loss_first == pytest.approx(there.loss_first, rel=1e-4)
    assert here.loss_mean == pytest.approx(there.loss_mean, rel=1e-3)
    coarse = train(selection, tmp_path / "bf16", tiny_llama_folder, **{**options, "dtype": "auto"})
    assert coarse.loss_mean == pytest.approx(there.loss_mean, rel=2e-2)


def test_preference_from_an_adapter(
    selection: Path, preferences: Path, tmp_path: Path, tiny_llama_folder: Path
) -> None:
    train(selection, tmp_path / "sft", tiny_llama_folder)
    found = train(
        preferences, tmp_path / "dpo", tiny_llama_folder, method="dpo", adapter=str(tmp_path / "sft"), epochs=4
    )
    assert found.loss_first == pytest.approx(0.6931, abs=5e-3)
    assert found.loss_last < found.loss_first


def test_memory_that_runs_out(tmp_path: Path, tiny_llama_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(0)
    rows = [
        [{"role": "user", "content": sentence(rng, 150)}, {"role": "assistant", "content": sentence(rng, 50)}]
        for _ in range(64)
    ]
    path = write_jsonl(tmp_path / "long.jsonl", [{"messages": one} for one in rows])
    options: dict[str, Any] = {"epochs": 1, "batch_size": 64, "micro_batch_size": 64, "dtype": "float32"}
    options |= {"gradient_checkpointing": False, "learning_rate": 1e-3}
    torch.cuda.reset_peak_memory_stats()
    free = train(path, tmp_path / "free", tiny_llama_folder, **options)
    # room for half of what it took
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(0.5 * torch.cuda.max_memory_allocated() / total)
    try:
        with caplog.at_level("WARNING", logger="diq"):
            tight = train(path, tmp_path / "tight", tiny_llama_folder, **options)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert free.micro_batch_size == 64
    assert tight.micro_batch_size < 64
    assert "out of memory with 64 samples at a time" in caplog.text
    assert tight.loss_mean == pytest.approx(free.loss_mean, rel=1e-4)


def test_four_bit_weights(selection: Path, tmp_path: Path, tiny_llama_folder: Path) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    found = train(selection, tmp_path / "nf4", tiny_llama_folder, quantization="nf4", epochs=4)
    assert found.loss_last < found.loss_first


def test_flash_attention_is_taken_and_packing_agrees(selection: Path, tmp_path: Path, tiny_llama_folder: Path) -> None:
    padded = train(selection, tmp_path / "padded", tiny_llama_folder, attention="sdpa", micro_batch_size=4)
    packed = train(selection, tmp_path / "packed", tiny_llama_folder, packing=True, micro_batch_size=4)
    assert packed.loss_mean == pytest.approx(padded.loss_mean, rel=2e-2)
    record = json.loads((tmp_path / "packed" / "diq_run.json").read_text())["result"]
    has_flash = importlib.util.find_spec("flash_attn") is not None
    assert (record["attention"] == "flash_attention_2") == has_flash


def test_evaluation_is_that_of_a_cpu(tmp_path: Path, tiny_llama_folder: Path) -> None:
    pytest.importorskip("lm_eval")
    from diq.evaluation.evaluate import evaluate

    rows = [
        {"question": f"Case {i}?", "options": {"A": "a", "B": "b", "C": "c", "D": "d"}, "answer_idx": "ABCD"[i % 4],
         "meta_info": "x"}
        for i in range(8)
    ]  # fmt: skip
    source = write_jsonl(tmp_path / "medqa.jsonl", rows)
    found = [
        evaluate(
            model=str(tiny_llama_folder), store=tmp_path / f"{device}.duckdb", benchmark=f"medqa={source}",
            max_tokens=16, max_length=512, dtype="float32", device=device,
        )
        for device in ("cuda", "cpu")
    ]  # fmt: skip
    assert found[0].benchmarks[0].accuracy == found[1].benchmarks[0].accuracy
