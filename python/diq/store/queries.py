"""Loader of the SQL files in ``sql/``: one statement a file, read once.

``queries/`` are parameterised statements, ``macros/`` the table macros of the SQL face, ``migrations/`` numbered
schema changes that are never edited after a release.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent / "sql"
_MIGRATION = re.compile(r"^(\d{4})_([a-z0-9_]+)\.sql$")


@cache
def query(name: str) -> str:
    """Text of ``sql/queries/<name>.sql``; a name is `room/query`, `store/...` where several rooms ask it."""
    return (ROOT / "queries" / f"{name}.sql").read_text(encoding="utf-8")


def macros() -> list[tuple[str, str]]:
    """``(name, text)`` of every macro file, in the order of their numbers (later macros call earlier ones)."""
    return [(path.stem, path.read_text(encoding="utf-8")) for path in sorted((ROOT / "macros").glob("*.sql"))]


def migrations() -> list[tuple[int, str, str]]:
    """``(version, name, text)`` of every migration, oldest first; versions are 1, 2, 3, ... without gaps."""
    found = []
    for path in sorted((ROOT / "migrations").glob("*.sql")):
        match = _MIGRATION.match(path.name)
        if match is None:
            raise AssertionError(f"{path.name} is not named NNNN_verb_thing.sql")
        found.append((int(match[1]), match[2], path.read_text(encoding="utf-8")))
    if [version for version, _, _ in found] != list(range(1, len(found) + 1)):
        raise AssertionError("migrations must be numbered 1, 2, 3, ... without gaps")
    return found
