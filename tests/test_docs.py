"""What the documents say is true: every command has help and is in the README, every SQL example runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import duckdb
import numpy as np
import pytest

from conftest import fill_store
from diq.cli import COMMANDS, diq

ROOT = Path(__file__).parent.parent
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


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diq.select import run

    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("docs") / "s.duckdb"
    dots = {"medqa": rng.normal(size=300), "medmcqa": rng.normal(size=300)}
    fill_store(path, dots=dots, difficulty=rng.integers(1, 6, 300))
    for ratio in ("0.1", "0.5"):
        run("pool", ratio=ratio, store=path, model="model")
    return path


def test_the_page_has_examples() -> None:
    assert len(SQL_EXAMPLES) >= 10


@pytest.mark.parametrize("query", SQL_EXAMPLES, ids=range(len(SQL_EXAMPLES)))
def test_every_sql_example_runs(store: Path, query: str) -> None:
    with duckdb.connect(str(store), read_only=True) as connection:
        rows = connection.execute(query).fetchall()
    assert rows or "rejects" in query or "reason is not null" in query


def test_relative_links_of_the_documents_exist() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_help_is_one_page_that_names_all_commands() -> None:
    done = subprocess.run([sys.executable, "-m", "diq", "--help"], capture_output=True, text=True, check=True)
    positions = [done.stdout.index(f"\n  {name} ") for name in COMMANDS]
    assert positions == sorted(positions)
