"""``diq run`` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import invoke, write_jsonl
from diq.base.errors import InputError, UsageError
from diq.cli.run import run as command

RECIPE = """
about: Half of a pool at random.
vars: {ratio: 0.5}
steps:
  - ingest: {sources: pool.jsonl, dataset: pool}
  - select: {dataset: pool, strategy: random, ratio: "{ratio}", name: part, output: "{output}/part.jsonl"}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "pool.jsonl", [{"instruction": f"q {i}", "output": "a"} for i in range(10)])
    (tmp_path / "half.yaml").write_text(RECIPE, encoding="utf-8")


def test_a_recipe_runs_and_is_done_the_second_time() -> None:
    first = invoke(command, "half.yaml")
    assert first.exception is None
    assert "[1/2] ingest pool.jsonl into pool" in first.stdout
    assert "10 samples, 0 duplicates, 0 rejects" in first.stdout
    assert "half: 2 steps, 2 run now in " in first.stdout
    # the folder has the file's name, in the current one
    assert len(Path("half/part.jsonl").read_text(encoding="utf-8").splitlines()) == 5
    second = invoke(command, "half.yaml")
    assert second.stdout.count("done before") == 3
    assert "2 steps, 0 run now" in second.stdout


def test_the_plan_can_be_pasted() -> None:
    plan = invoke(command, "half.yaml", "--dry-run", "--set", "ratio=0.2", "--output", "a b").stdout
    assert "half: Half of a pool at random." in plan
    assert "[2] select pool random 0.2 (to do)" in plan
    assert "diq select pool --strategy random --ratio 0.2 --name part --output 'a b/part.jsonl'" in plan
    assert "--store 'a b/diq.duckdb'" in plan
    assert "2 steps, 2 to do" in plan
    assert not Path("a b").exists()


def test_json_is_one_object() -> None:
    found = json.loads(invoke(command, "half.yaml", "--json").stdout)
    assert [(step["verb"], step["state"], step["was_done"]) for step in found["steps"]] == [
        ("ingest", "done", False),
        ("select", "done", False),
    ]
    assert found["steps"][1]["result"]["n"] == 5
    assert json.loads(invoke(command, "--list", "--json").stdout).keys() >= {"demo", "huatuo-llama31-8b"}


def test_recipes_are_listed_and_shown() -> None:
    listed = invoke(command, "--list").stdout
    assert "demo" in listed
    assert "pilot-quadrants" in listed
    shown = invoke(command, "demo", "--show").stdout
    Path("mine.yaml").write_text(shown, encoding="utf-8")
    assert "mine" not in invoke(command, "mine.yaml", "--dry-run").stdout.splitlines()[0]
    assert "31 steps, 31 to do" in invoke(command, "mine.yaml", "--dry-run", "--output", "m").stdout


def test_quiet_prints_the_end_alone() -> None:
    assert len(invoke(command, "half.yaml", "--quiet").stdout.splitlines()) == 1


def test_another_store_can_be_named() -> None:
    invoke(command, "half.yaml", "--store", "shared.duckdb")
    assert Path("shared.duckdb").exists()
    assert not Path("half/diq.duckdb").exists()


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ((), UsageError, "no recipe was named"),
        (("hlaf.yaml",), UsageError, "there is no recipe file `hlaf.yaml`"),
        (("half.yaml", "--set", "raito=1"), InputError, "the recipe has no such variable; did you mean `ratio`?"),
        (("half.yaml", "--set", "ratio=7"), InputError, "the ratio 7 is outside"),
    ],
)
def test_wrong_use_is_refused(arguments: tuple[str, ...], kind: type[Exception], text: str) -> None:
    done = invoke(command, *arguments)
    assert isinstance(done.exception, kind)
    assert text in str(done.exception)
