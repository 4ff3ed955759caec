"""`diq explain` as a command: the table, the ranks, the JSON, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import ingest_rows
from diq.cli import main
from diq.cli.explain import visible
from diq.influence.explain import TokenShare


@pytest.fixture
def command(tmp_path: Path, tiny_llama_folder: Path, make_samples: Callable[..., Any]) -> Callable[..., int]:
    """Runs `diq explain` on a small store and returns the exit code."""
    store = tmp_path / "s.duckdb"
    user = {"role": "user", "content": "what treats fever"}
    answer = {"role": "assistant", "content": "aspirin daily\n\nbecause\tfever " + "and chest pain " * 10}
    ingest_rows(store, [[user, answer]])
    for name, n in (("a", 3), ("b", 1)):
        ingest_rows(store, make_samples(n, seed=n, longest=8), name, validation=True)

    def call(*options: str) -> int:
        fixed = ["--model", str(tiny_llama_folder), "--store", str(store), "--device", "cpu"]
        try:
            main(["explain", *options, *fixed])
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return call


ROW = ("--dataset", "pool", "--position", "0")


def table_rows(text: str) -> list[list[str]]:
    return [[one.strip() for one in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]


def test_the_table_and_the_json_tell_the_same(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*ROW, "--json") == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    answer = [one for one in found["tokens"] if one["is_answer"]]
    assert set(answer[0]) == {"position", "token_id", "text", "is_answer", "loss", "loss_term", "term"}
    assert set(found["totals"]) == {"loss_term", "term", "term_prompt", "term_answer"}
    assert found["totals"]["loss_term"] == pytest.approx(found["dot"], rel=1e-4)
    assert found["validation_sets"] == {"a": 0.75, "b": 0.25}
    assert [one["loss"] for one in found["tokens"][: found["prompt_tokens"]]] == [None] * found["prompt_tokens"]
    best = sorted(answer, key=lambda one: -abs(one["loss_term"]))[:5]

    assert command(*ROW, "--top", "5") == 0
    text = capsys.readouterr().out
    rows = table_rows(text)
    # the five largest, in reading order
    assert [int(row[1]) for row in rows] == sorted(one["position"] for one in best)
    ranks = {int(row[1]): int(row[0]) for row in rows}
    assert [ranks[one["position"]] for one in best] == [1, 2, 3, 4, 5]
    assert float(rows[0][4]) == pytest.approx(answer[int(rows[0][1]) - found["prompt_tokens"]]["loss_term"], rel=1e-3)
    for part in (
        f"sample {found['sample_id']} (pool 0)",
        "validation sets a 75 %, b 25 %",
        f"mean over {len(answer)} answer tokens",
        f"5 of {len(answer)} answer tokens, largest loss_term",
        f"prompt: {found['prompt_tokens']} tokens, ",
    ):
        assert part in text

    assert command(found["sample_id"][:8], "--all", "--top", "3", "--validation-set", "a") == 0
    text = capsys.readouterr().out
    rows = table_rows(text)
    assert len(rows) == len(answer)
    assert sorted(row[0] for row in rows if row[0]) == ["1", "2", "3"]
    assert f"all {len(answer)} answer tokens" in text
    tokens = "".join(row[2] for row in rows)
    assert tokens.startswith("aspirin␣daily↵↵because⇥fever␣and␣chest")
    assert tokens.endswith("</s>")


def test_a_stored_dot_is_shown_beside_it(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_llama_folder: Path
) -> None:
    from diq.influence.score import score_influence

    run = score_influence("pool", model=str(tiny_llama_folder), store=tmp_path / "s.duckdb")
    assert command(*ROW) == 0
    captured = capsys.readouterr()
    assert f"stored dot of run {run.run_id} (exact): " in captured.out
    assert "WARNING" not in captured.err


def test_wrong_use_is_one_line_and_a_hint(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        ((), "name one sample"),
        (("12345",), "`12345` is not a sample id"),
        (("--dataset", "pool"), "name one sample"),
        ((*ROW, "--max-length", "3"), "no answer token is left within the maximum length of 3 tokens"),
    ):
        assert command(*options) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = [line for line in captured.err.splitlines() if line]
        assert len(lines) == 2
        assert lines[0].startswith("Error: ")
        assert message in lines[0]
    assert command(*ROW, "--top", "0") == 2


def test_white_space_and_control_characters_are_seen() -> None:
    def token(text: str) -> TokenShare:
        return TokenShare(0, 0, text, True, 0.0, 0.0, 0.0)

    assert [visible(token(one)) for one in (" of", "\n", "a\tb", "\u200b\x07", "高", "")] == [
        "␣of", "↵", "a⇥b", "\\u200b\\x07", "高", "(part of the next)"
    ]  # fmt: skip
