"""`diq train` as a command: options arrive, the table and the JSON, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import write_jsonl
from diq.cli import main


@pytest.fixture
def command(tmp_path: Path, tiny_llama_folder: Path, make_samples: Callable[..., Any]) -> Callable[..., int]:
    """Runs `diq train` on a small file and returns the exit code."""
    selection = write_jsonl(tmp_path / "selection.jsonl", [{"messages": one} for one in make_samples(4, longest=8)])

    def call(*options: str, chosen: str = str(selection)) -> int:
        fixed = ["train", chosen, "--model", str(tiny_llama_folder), "--output", str(tmp_path / "adapter")]
        fixed += ["--store", str(tmp_path / "none.duckdb"), "--device", "cpu", "--epochs", "1", "--batch-size", "2"]
        try:
            main([*fixed, *options])
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return call


def test_the_table(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--quiet") == 0
    printed = capsys.readouterr().out
    for text in ("Training", "samples", "answer tokens", "steps", "training loss, last", "output"):
        assert text in printed
    assert command("--quiet") == 0
    assert "Already trained" in capsys.readouterr().out


def test_json_is_one_object_and_every_option_arrives(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {
        "learning-rate": "2e-3", "lora-rank": "4", "lora-alpha": "4", "lora-dropout": "0.1", "max-length": "100",
        "micro-batch-size": "1", "scheduler": "linear", "warmup-ratio": "0.5", "weight-decay": "0.1", "seed": "7",
        "template": "none", "save-steps": "1", "dtype": "float32",
    }  # fmt: skip
    assert command("--json", *(part for name, value in options.items() for part in (f"--{name}", value))) == 0
    captured = capsys.readouterr()
    (line,) = captured.out.splitlines()
    printed = json.loads(line)
    assert (printed["n_samples"], printed["steps"], printed["micro_batch_size"]) == (4, 2, 1)
    settings = json.loads((tmp_path / "adapter" / "diq_run.json").read_text())["settings"]
    for name in (
        "learning-rate",
        "lora-rank",
        "lora-alpha",
        "lora-dropout",
        "max-length",
        "warmup-ratio",
        "weight-decay",
        "seed",
    ):
        assert settings[name.replace("-", "_")] == float(options[name])
    assert settings["scheduler"] == "linear"
    assert (tmp_path / "adapter" / "checkpoint-1").is_dir()


@pytest.mark.parametrize(
    ("options", "chosen", "message"),
    [
        (["--epochs", "0"], None, "--epochs 0.0 is out of range"),
        (["--scheduler", "cosin"], None, "Invalid value for '--scheduler'"),
        ([], "missing.jsonl", "does not exist"),
        (["--model", "/nowhere"], None, "there is no model folder `/nowhere`"),
    ],
)
def test_wrong_use_is_exit_code_2_and_one_line(
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    chosen: str | None,
    message: str,
) -> None:
    assert command(*options, **({"chosen": chosen} if chosen else {})) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_a_failed_run_is_exit_code_1(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--learning-rate", "1e30", "--scheduler", "constant", "--epochs", "4") == 1
    assert "not finite" in capsys.readouterr().err
