"""Loader of the SQL files in ``sql/``: each is read once.

``schema/`` makes a new store; ``migrations/`` bring an older store to the same schema and are never edited after a
release; ``macros/`` are the table macros of the SQL face; ``queries/`` are parameterised statements, one a file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent / "sql"
_MIGRATION = re.compile(r"^(\d{4})_([a-z0-9_]+)\.sql$")


@dataclass(frozen=True, slots=True)
class Migration:
    """A step from the schema version before to ``version``."""

    version: int
    name: str
    text: str


@cache
def query(name: str) -> str:
    """Text of ``sql/queries/<name>.sql``; a name is `room/query`, `store/...` where several rooms ask it."""
    return (ROOT / "queries" / f"{name}.sql").read_text(encoding="utf-8")


@cache
def schema() -> str:
    """Statements that make all tables and views of a new store, at the version of the last migration."""
    return _joined("schema")


@cache
def macros() -> str:
    """Statements that make all macros, and the views that call them, in the order of their numbers.

    The texts themselves are what a store remembers, not a version: an edited macro is noticed without anybody raising a
    number.
    """
    return _joined("macros")


def temporary_macros() -> str:
    """The macros for one connection alone, where they take the place of those of the file; nothing is written."""
    return macros().replace("CREATE OR REPLACE ", "CREATE OR REPLACE TEMP ")


@cache
def migrations() -> list[Migration]:
    """Every migration, oldest first; versions go on from 2 without gaps."""
    found = []
    for path in sorted((ROOT / "migrations").glob("*.sql")):
        match = _MIGRATION.match(path.name)
        if match is None:
            raise AssertionError(f"{path.name} is not named NNNN_verb_thing.sql")
        found.append(Migration(int(match[1]), match[2], path.read_text(encoding="utf-8")))
    if [one.version for one in found] != list(range(2, len(found) + 2)):
        raise AssertionError("migrations must be numbered 2, 3, ... without gaps")
    return found


def _joined(folder: str) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / folder).glob("*.sql")))
