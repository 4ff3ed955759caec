"""`diq cost`: what the command prints and refuses; the counts are in tests/test_cost.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import invoke, stdout_of, write_jsonl
from diq.base.errors import UsageError
from diq.cli.cost import cost

PAPER = ("--samples", 19000, "--tokens", 776)


def test_the_papers_figures_stand_in_the_table() -> None:
    text = stdout_of(cost, "--model", "llama-3.1-8b", *PAPER)
    assert "meta-llama/Llama-3.1-8B-Instruct: 32 layers, hidden 4,096, 8.03 billion weights (published sizes)" in text
    assert "1.670e15" in text
    assert "Eq. 9 counts the adapter alone: training computes 812 times that" in text
    assert "hours" not in text
    assert "1.879e15" in stdout_of(cost, "--model", "Qwen/Qwen3-8B", *PAPER) or "1.878e15" in stdout_of(
        cost, "--model", "Qwen/Qwen3-8B", *PAPER
    )


def test_every_option_reaches_the_plan(tmp_path: Path) -> None:
    found = json.loads(
        stdout_of(cost,
            "--model", "qwen3-14b", *PAPER, "--validation-samples", 90, "--validation-sets", 9, "--ratio", "0.5",
            "--method", "dpo", "--epochs", 1, "--params", "all-linear", "--lora-rank", 16, "--gradient-checkpointing",
            "--max-length", 512, "--questions", 100, "--question-tokens", 10, "--json",
        )
    )  # fmt: skip
    plan = found["plan"]
    assert (plan["sets"], plan["validation"]["n"], plan["validation"]["tokens"]) == (9, 90, 90 * 512)
    assert [plan[name] for name in ("method", "epochs", "params", "rank", "checkpointing")] == [
        "dpo", 1, "all-linear", 16, True,
    ]  # fmt: skip
    assert [step["name"] for step in found["steps"]][-3:] == ["train on 50 %", "train on everything", "evaluate"]
    assert found["steps"][-1]["tokens"] == 1000
    assert found["probe"] is None


def test_a_probe_adds_hours(tmp_path: Path, make_samples: Any, tiny_llama_folder: Path) -> None:
    path = write_jsonl(tmp_path / "pool.jsonl", [{"messages": one} for one in make_samples(30)])
    text = stdout_of(cost, path, "--model", tiny_llama_folder, "--probe", "0.3s", "--device", "cpu")
    assert "hours here" in text
    assert "measured on cpu, float32, with 30 samples of the dataset" in text
    assert "the ratio that the probe measured" in text
    found = json.loads(
        stdout_of(cost, path, "--model", tiny_llama_folder, "--probe", "0.3s", "--device", "cpu", "--json")
    )
    exact = next(step for step in found["steps"] if step["rate"] == "exact")
    assert exact["hours"][0] == pytest.approx(exact["tokens"] / found["probe"]["rates"]["exact"]["mean"] / 3600)


def test_wrong_requests() -> None:
    for time in ("fast", "0s", "-1", "60 days"):
        done = invoke(cost, "--model", "qwen3-8b", *PAPER, "--probe", time)
        assert done.exit_code == 2
        assert f"`{time}` is no time" in done.output
    done = invoke(cost, "--model", "qwen3-8b")
    assert isinstance(done.exception, UsageError)
    # a name that the account knows has no weights to measure with
    done = invoke(cost, "--model", "qwen3-8b", *PAPER, "--probe", "1s")
    assert isinstance(done.exception, UsageError)
    assert "there is no model folder `qwen3-8b`" in done.exception.message
