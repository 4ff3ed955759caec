"""The commands as a user runs them: exit codes, one line and a hint, JSON on stdout, the store's place."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import duckdb
import numpy as np
import pytest

from conftest import fill_store, run_forked, write_jsonl
from diq.cli import diq as commands
from diq.cli import main

Diq = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def diq(tmp_path: Path) -> Diq:
    """Runs ``diq`` in a folder of its own."""

    def run(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        return run_forked(main, arguments, folder=tmp_path, stdin=stdin, **variables)

    return run


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("filled") / "diq.duckdb"
    fill_store(path, dots={"a": rng.normal(size=100)}, difficulty=rng.integers(1, 6, 100))
    return path


@pytest.fixture
def store(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(filled, tmp_path))


def refused(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    """One line and perhaps a hint on stderr, nothing on stdout."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line]
    assert lines[0].startswith("Error: "), done.stderr
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: ")), done.stderr
    for part in parts:
        assert part in done.stderr


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("select", "pool", "--model", "model", "--ratio", "0"), ("0", "(0, 1]")),
        (("select", "pool", "--model", "model", "--ratio", "1.5"), ("1.5", "(0, 1]")),
        (("select", "pool", "--model", "model", "--ratio", "ten"), ("`ten` is not a number",)),
        (("select", "pol", "--model", "model", "--ratio", "0.5"), ("`pol`", "did you mean `pool`?")),
        (("select", "pool", "--model", "modl", "--ratio", "0.5"), ("`modl`", "did you mean `model`?")),
        (("select", "pool", "--model", "model", "--ratio", "0.5", "-o", "x.txt"), ("x.txt", ".jsonl")),
        (("ingest", "nothing.jsonl", "--dataset", "x"), ("nothing.jsonl",)),
        (("score", "influence", "pool", "--model", "no/such/folder"), ("there is no validation set",)),
        (("score", "difficulty", "pool"), ("--model", "--columns")),
        (("sql", "selec 1"), ("syntax error",)),
        (("sql", "delete from samples"), ("read-only", "--write")),
        (("sql", "from no_such_table"), ("no_such_table",)),
        (("sql", "from diq_scores('nope', 'model')"), ("no dataset named `nope`",)),
        (("sql", " "), ("empty",)),
        (("train", "nothing.jsonl", "--model", "m", "--output", "o"), ("nothing.jsonl",)),
        (("status", "--store", "none.duckdb"), ("none.duckdb", "diq ingest")),
    ],
)
def test_wrong_use_is_one_line_and_a_hint(diq: Diq, arguments: tuple[str, ...], parts: tuple[str, ...]) -> None:
    refused(diq(*arguments), 1 if "status" in arguments else 2, *parts)


def test_unknown_commands_and_options_exit_with_2(diq: Diq) -> None:
    done = diq("selct")
    assert done.returncode == 2
    assert "did you mean `select`?" in done.stderr
    assert diq("select", "--nonsense").returncode == 2


def test_debug_shows_the_traceback(diq: Diq) -> None:
    assert "Traceback" in diq("--debug", "status").stderr
    assert "Traceback" not in diq("status").stderr


def test_ingest_select_and_sql_speak_json(diq: Diq, tmp_path: Path, store: Path) -> None:
    rows = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(20)]
    write_jsonl(tmp_path / "new.jsonl", [*rows, rows[0], {"question": "no answer"}])
    done = diq("ingest", "new.jsonl", "--dataset", "new", "--json")
    answer = json.loads(done.stdout)
    assert (answer["n_rows"], answer["n_samples"], answer["n_duplicates"], answer["n_rejects"]) == (22, 20, 1, 1)
    made = json.loads(diq("select", "pool", "--model", "model", "--ratio", "0.1", "-o", "o.jsonl", "--json").stdout)
    assert (made["n"], made["n_target"], made["ratio"], made["n_unscored"]) == (10, 10, 0.1, 0)
    assert sum(made["counts"]["dataset"].values()) == 100
    assert sum(made["counts"]["selection"].values()) == 10
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 10
    found = json.loads(diq("sql", "select count(*) as n from diq_select('pool', 'model', 0.1)", "--json").stdout)
    assert found == {"columns": ["n"], "rows": [{"n": 10}]}
    status = json.loads(diq("status", "--json").stdout)
    assert [one["name"] for one in status["datasets"]] == ["pool", "new"]
    assert status["selections"][0]["n"] == 10
    assert store.exists()


@pytest.mark.usefixtures("store")
def test_sql_formats_and_files(diq: Diq, tmp_path: Path) -> None:
    query = "select position, dot from diq_scores('pool', 'model') order by position limit 3"
    csv = diq("sql", query, "--format", "csv").stdout.splitlines()
    assert csv[0] == "position,dot"
    assert len(csv) == 4
    assert diq("sql", stdin=query).stdout.startswith("┌")
    (tmp_path / "q.sql").write_text(query)
    diq("sql", "--file", "q.sql", "-o", "o.parquet")
    with duckdb.connect() as connection:
        (n,) = connection.execute(f"SELECT count(*) FROM '{tmp_path / 'o.parquet'}'").fetchall()[0]
    assert n == 3
    assert diq("sql", "insert into settings values ('x', 'y')", "--write").returncode == 0
    assert "x,y" in diq("sql", "from settings where name = 'x'", "--format", "csv").stdout


def test_a_reader_that_has_seen_enough_is_told_of_no_error(store: Path) -> None:
    command = [sys.executable, "-m", "diq", "sql", "from range(1000000)", "--format", "csv", "--store", str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as printing:
        assert printing.stdout is not None
        assert printing.stderr is not None
        assert printing.stdout.readline() == "range\n"
        # as `head` does
        printing.stdout.close()
        assert printing.stderr.read() == ""


def test_the_store_is_found_by_its_variable(diq: Diq, store: Path, tmp_path: Path) -> None:
    moved = store.rename(tmp_path / "elsewhere.duckdb")
    assert diq("status").returncode == 1
    assert "pool" in diq("status", DIQ_STORE=str(moved)).stdout


def _commands(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, *path, name)
        else:
            yield (*path, name), command


_REQUIRED = [
    (path, option)
    for path, command in _commands(commands)
    for option in command.params
    if isinstance(option, click.Option) and option.required
]


@pytest.mark.parametrize(
    ("path", "option"), _REQUIRED, ids=lambda one: "-".join(one) if isinstance(one, tuple) else one.name
)
def test_an_option_that_must_be_given_is_asked_for(path: tuple[str, ...], option: click.Option) -> None:
    """A default of None is a value to click 8.3 and above: what must be given would count as given."""
    with pytest.raises(click.MissingParameter) as raised:
        commands.main([*path, "a"], standalone_mode=False)
    assert raised.value.param is not None
    assert raised.value.param.required
    assert "[required]" in " ".join(option.get_help_record(click.Context(commands)) or ())
