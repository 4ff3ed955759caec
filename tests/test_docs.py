"""What the documents say is true: every command has help and is in the README, every SQL example runs."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import duckdb
import numpy as np
import pytest

import diq as package
from conftest import ROOT, fill_store, write_jsonl
from diq.cli import COMMANDS, diq

SQL_EXAMPLES = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "sql.md").read_text(encoding="utf-8"), re.DOTALL)


def commands() -> list[tuple[str, click.Command]]:
    found = []
    for name in COMMANDS:
        command = diq.get_command(click.Context(diq), name)
        assert command is not None
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {sub}", one) for sub, one in command.commands.items()]
    return found


@pytest.mark.parametrize(("name", "command"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_and_option_has_help_and_is_in_the_readme(name: str, command: click.Command) -> None:
    assert command.help
    for option in command.params:
        if isinstance(option, click.Option) and not isinstance(option.type, click.Choice):
            assert option.help, f"{name} {option.opts[0]} has no help"
    assert f"diq {name}" in (ROOT / "README.md").read_text(encoding="utf-8"), f"the README does not show diq {name}"


# what the cookbook asks for, besides two scored validation sets with folds and norms
STORE_ROWS = """
INSERT INTO datasets VALUES (100, 'other', 'training', TIMESTAMP '2026-01-01');
INSERT INTO dataset_samples
SELECT 100, d.position, d.sample_id, 3, d.line, 'train', NULL FROM dataset_samples AS d WHERE d.position < 3;
UPDATE dataset_samples
SET source_id = CASE WHEN position < 100 THEN 1 ELSE 2 END, attributes = json_object('topic', position % 3)
WHERE dataset_id = 1;
INSERT INTO sources
SELECT
    i, 1, 'part' || i || '.jsonl', 'samples', 'messages', 'hash' || i, '{}', 0, 151, 150, 1, 0, TIMESTAMP '2026-01-01'
FROM range(1, 3) AS r (i);
INSERT INTO duplicates SELECT dataset_id, 300, sample_id, 1, 301 FROM dataset_samples WHERE line = 7 AND dataset_id = 1;
INSERT INTO rejects VALUES (1, 1, 'part1.jsonl', 302, 301, 'not an object', '[]');
UPDATE influence_scores SET dot = NULL, reason = 'no answer token is left within the maximum length'
WHERE sample_id IN (SELECT sample_id FROM dataset_samples WHERE position = 200);
-- the same text but for its case, which a guard finds
UPDATE samples SET messages = '[{"content":"Q 4 of pool","role":"user"},{"content":"a","role":"assistant"}]'
WHERE sample_id = (SELECT sample_id FROM dataset_samples WHERE position = 5);
INSERT INTO runs
SELECT 50 + i, ['perplexity', 'similarity'][i], 'test', NULL, 'text' || i, '{}', '{}', NULL, TIMESTAMP '2026-01-01'
FROM range(1, 3) AS r (i);
INSERT INTO run_datasets (run_id, dataset_id, state, started_at, sealed_at)
SELECT 50 + i, 1, 'sealed', TIMESTAMP '2026-01-01', NULL FROM range(1, 3) AS r (i);
INSERT INTO text_scores (run_id, sample_id, perplexity)
SELECT 51, sample_id, 2 + position % 7 FROM dataset_samples WHERE dataset_id = 1;
INSERT INTO text_scores (run_id, sample_id, validation_set_id, similarity)
SELECT 52, d.sample_id, v.validation_set_id, (d.position % 11) / 11
FROM dataset_samples AS d CROSS JOIN validation_sets AS v WHERE d.dataset_id = 1;
INSERT INTO runs VALUES (60, 'judgment', 'reasoning', NULL, 'judge', '{}', '{}', NULL, TIMESTAMP '2026-01-01');
INSERT INTO comparisons VALUES (1, 60, 'diq against rest', '{}', NULL, TIMESTAMP '2026-01-01');
INSERT INTO comparison_items (comparison_id, arm, number, item_id, sample_id)
SELECT 1, CASE WHEN position < 5 THEN 'top' ELSE 'rest' END, position, sample_id, sample_id
FROM dataset_samples WHERE dataset_id = 1 AND position < 10;
INSERT INTO judgments
SELECT 60, item_id, 'reasoning_quality', 1 + number % 5, 'because' FROM comparison_items WHERE number < 9;
INSERT INTO replies (run_id, item_id, attempt, content, problem, answered_at)
SELECT 60, item_id, 2, 'Score: 3.5', '`Score` is `3.5`, not a whole number from 1 to 5', TIMESTAMP '2026-01-01'
FROM comparison_items WHERE number = 9;
INSERT INTO runs VALUES (61, 'difficulty', 'annotation', NULL, 'annotator', '{}', '{}', NULL, TIMESTAMP '2026-01-01');
INSERT INTO difficulty_scores (run_id, sample_id, item_id, overall, overall_level)
SELECT 61, sample_id, sample_id, 4, 4 FROM comparison_items;
INSERT INTO judgments SELECT 61, item_id, 'overall', 4, 'many steps' FROM comparison_items;
INSERT INTO models SELECT 'trained', 'model+adapter', 'adapter', NULL, NULL, TIMESTAMP '2026-01-01';
INSERT INTO runs
VALUES (62, 'train', 'sft', 'model', 'trained', '{}', '{}', '{"loss_last": 1.5}', TIMESTAMP '2026-01-01');
INSERT INTO trained_models VALUES ('trained', 62, 'model', NULL, 'adapter', 1, 1, TIMESTAMP '2026-01-01');
INSERT INTO runs VALUES (63, 'evaluate', 'hf', 'trained', 'evaluated', '{}', '{}', NULL, TIMESTAMP '2026-01-01');
INSERT INTO evaluations
SELECT 63, 'medqa', 'hash', i, '1', 100, 60, 50, 10, 5, 0, 55, 0.6, 0.05, TIMESTAMP '2026-01-01' FROM range(2) AS r (i);
INSERT INTO generation_files
VALUES (63, 'medqa', 'hash', 0, 0, 's.generations/63/medqa.parquet', 100, 100, 'sum', TIMESTAMP '2026-01-01');
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diq.gradient_index.index import GradientIndex
    from diq.selection.select import select

    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("docs") / "s.duckdb"
    folds = {name: rng.normal(size=(300, 1)) + rng.normal(size=(300, 2)) for name in ("medqa", "medmcqa")}
    ids = fill_store(
        path,
        dots={name: one.mean(axis=1) for name, one in folds.items()},
        difficulty=rng.integers(1, 6, 300),
        folds=folds,
        norms=rng.uniform(1, 2, 300),
        answer_tokens=rng.integers(1, 500, 300),
    )
    with duckdb.connect(str(path)) as connection:
        connection.execute(STORE_ROWS)
    select("pool", ratio="0.1", store=path, model="model")
    select("pool", ratio="0.5", store=path, model="model")
    select("pool", ratio="0.1", store=path, strategy="random")
    select("pool", ratio="0.2", store=path, model="model", strategy="influence", dedupe="exact")
    index = GradientIndex.create(path.with_name("index"), {"dim": 3})
    index.write_shard(0, rng.normal(size=(300, 3)).astype(np.float32), ids, np.zeros(300), np.zeros(300))
    select("pool", ratio="0.1", store=path, strategy="random", diverse=0.9, diverse_by=index.folder)
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "UPDATE influence_scores SET dot = dot + 1 WHERE loss = (SELECT max(loss) FROM influence_scores)"
        )
    return path


def test_the_page_has_examples() -> None:
    assert len(SQL_EXAMPLES) >= 40


@pytest.mark.parametrize("query", SQL_EXAMPLES, ids=range(len(SQL_EXAMPLES)))
def test_every_sql_example_runs_and_finds_something(
    store: Path, query: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # one of them writes a file
    monkeypatch.chdir(tmp_path)
    with duckdb.connect(str(store), read_only=True) as connection:
        rows = connection.execute(query).fetchall()
    assert rows


def test_relative_links_of_the_documents_exist() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_help_is_one_page_that_names_all_commands() -> None:
    done = subprocess.run([sys.executable, "-m", "diq", "--help"], capture_output=True, text=True, check=True)
    positions = [done.stdout.index(f"\n  {name} ") for name in COMMANDS]
    assert positions == sorted(positions)


# pages that are written, and the example of the README ------------------------------------------------------------


def test_the_reference_pages_are_what_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    for name, make in reference.PAGES.items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == make(), f"run `make docs`: docs/{name} is not it"


def test_every_verb_and_command_is_on_its_page() -> None:
    python, cli = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("python.md", "cli.md"))
    assert [name for name in package.__all__ if f"## `diq.{name}" not in python] == []
    assert [name for name, _ in commands() if f"## `diq {name}`" not in cli] == []


def test_the_names_of_the_package_are_listed() -> None:
    # a module beside the verbs: its functions are listed on the same page
    assert dir(package) == sorted([*package.__all__, "plot", "__version__"])
    text = (ROOT / "python" / "diq" / "__init__.py").read_text(encoding="utf-8")
    typed = re.findall(r"^    from (\S+) import \w+ as (\w+)$", text, re.MULTILINE)
    assert {name: module for module, name in typed} == {**package._WHERE, "plot": "diq"}
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    assert all(getattr(package.plot, name).__name__ == name for name in package.plot.__all__)


EXAMPLE = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
def test_the_example_of_the_readme_is_typed(tmp_path: Path) -> None:
    assert EXAMPLE is not None
    file = tmp_path / "example.py"
    file.write_text(EXAMPLE[1], encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml"), str(file)]
    environment = {**os.environ, "MYPYPATH": str(ROOT / "python")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_example_of_the_readme_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_llama_folder: Path,
    tiny_classifier_folder: Path,
    make_samples: Callable[..., Any],
) -> None:
    assert EXAMPLE is not None
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DIQ_STORE", raising=False)
    for name, n in (("pool.jsonl", 20), ("medqa.jsonl", 24)):
        write_jsonl(tmp_path / name, [{"messages": one} for one in make_samples(n, seed=n)])
    code = (
        EXAMPLE[1].replace("pool.jsonl.gz", "pool.jsonl").replace("difficulty-classifier", str(tiny_classifier_folder))
    )
    code = code.replace('model="Qwen/Qwen3-8B", validation', f'model="{tiny_llama_folder}", validation')
    code = code.replace("Qwen/Qwen3-8B", tiny_llama_folder.name)
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["best"].n == 2
    assert len((tmp_path / "best.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    assert found["order"].tolist() == [0]
    shown = capsys.readouterr().out
    assert shown.startswith("Selection(selection_id=1, name='pool-diq-0.1', dataset='pool', strategy='diq', ")
    assert "'quadrant': 'Q1'" in shown
