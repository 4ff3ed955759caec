"""A store that an earlier commit made (tests/data/make_store.py) opens, says the same, and goes on being a cache."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data import make_store
from diq.base import config
from diq.cli import diq
from diq.selection.status import status
from diq.store.store import Store

DATA = Path(__file__).parent.parent / "data"
COMMIT = "080ce4f"
RECORD = json.loads((DATA / f"store_{COMMIT}.json").read_text(encoding="utf-8"))


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The old store in the working folder, with the data and models that it was made of."""
    with tarfile.open(DATA / f"store_{COMMIT}.tar.xz") as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(config.STORE_VARIABLE, "store.duckdb")
    return tmp_path / "store.duckdb"


def said(store: Path, *, read_only: bool = True) -> dict[str, list[list[Any]]]:
    """What the store says today, in the columns that were recorded then."""
    with Store(store, read_only=read_only) as opened:
        now = make_store.answers(opened.connection, RECORD["runs_by_method"])
    found = {}
    for name, then in RECORD["answers"].items():
        places = [now[name]["columns"].index(column) for column in then["columns"]]
        found[name] = [[row[place] for place in places] for row in now[name]["rows"]]
    return found


def recorded() -> dict[str, list[list[Any]]]:
    return {name: then["rows"] for name, then in RECORD["answers"].items()}


def test_reader_and_writer_say_what_was_said_then(old: Path) -> None:
    assert said(old) == recorded()
    assert said(old, read_only=False) == recorded()
    assert len(status().selections) == len(make_store.SELECTIONS)


def test_it_is_read_where_nothing_can_be_written(old: Path, read_only: Callable[[Path], None]) -> None:
    # its owner brings the schema up, once
    status()
    read_only(old.parent)
    assert said(old) == recorded()


def test_every_command_finds_its_work_done(old: Path) -> None:
    for scoring in make_store.SCORINGS:
        diq.main([*scoring.split(), "--quiet"], standalone_mode=False)
    for selection in make_store.SELECTIONS:
        if "--dedupe near" not in selection:
            diq.main([*selection.format(**RECORD["runs_by_method"]).split(), "--quiet"], standalone_mode=False)
    assert said(old) == recorded()


def test_a_guard_whose_rule_has_changed_runs_again(old: Path) -> None:
    """`--dedupe near` takes words apart where a script has no spaces; these texts have spaces, so it finds the same."""
    (selection,) = (line for line in make_store.SELECTIONS if "--dedupe near" in line)
    diq.main([*selection.format(**RECORD["runs_by_method"]).split(), "--quiet"], standalone_mode=False)
    now, then = said(old), recorded()
    new = {table: [row for row in rows if row not in then[table]] for table, rows in now.items()}
    assert all(row in now[table] for table, rows in then.items() for row in rows), "what stood there stands"
    assert [row[1:3] for row in new["runs"]] == [["guard", "near"]]
    (before,) = (row[0] for row in then["runs"] if row[2] == "near")
    assert [row[1:] for row in new["exclusions"]] == [row[1:] for row in then["exclusions"] if row[0] == before]
    assert len(new["rankings"]) == len(new["selections"]) == 1
