"""Layouts: how a row holds a sample. One module a family; a new layout is one `Layout(...)` in its `LAYOUTS`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diq.base.errors import InputError, UsageError
from diq.base.text import did_you_mean
from diq.formats.layouts import benchmarks, chat, instruction, preference, reasoning
from diq.formats.layouts.layout import Layout, Values, without_reasoning
from diq.formats.layouts.mapped import mapped

# the most specific first: detection takes the first that fits
LAYOUTS: tuple[Layout, ...] = (
    *preference.LAYOUTS,
    *chat.LAYOUTS,
    *reasoning.LAYOUTS,
    *benchmarks.LAYOUTS,
    *instruction.LAYOUTS,
)
NAMES = tuple(layout.name for layout in LAYOUTS)

__all__ = ["LAYOUTS", "NAMES", "Layout", "choose", "named", "without_reasoning"]


def named(format: str | None, columns: Mapping[str, str] | None) -> Layout | None:
    """The layout that the user asked for; None when it is to be detected.

    Raises:
        UsageError: no layout has that name, both were given, or the map makes no sample.
    """
    if format and columns:
        raise UsageError("--format and --map exclude each other", "give one of the two")
    if columns:
        return mapped(columns)
    if not format:
        return None
    for layout in LAYOUTS:
        if layout.name == format:
            return layout
    raise UsageError(f"no layout named `{format}`", did_you_mean(format, NAMES))


def choose(path: str, rows: Sequence[Values], wanted: Layout | None) -> Layout:
    """The layout of a source by its first rows: the first in `LAYOUTS` that fits at least half of them.

    Rows that differ from the rest then become rejects, whatever comes first in the file.

    Raises:
        InputError: no row fits any layout, or none fits the wanted one.
    """
    if wanted is not None:
        if not any(not wanted.missing(row) for row in rows):
            raise InputError(
                f"`{path}` has no column {wanted.missing(rows[0])} for layout {wanted.name}: it has {_columns(rows)}",
                "check --map or --format",
            )
        return wanted.fitted(rows)
    best, most = None, 0
    for layout in LAYOUTS:
        fitting = sum(not layout.missing(row) for row in rows)
        if fitting > most and (layout.holds is None or layout.holds(rows)):
            best, most = layout, fitting
        if 2 * most >= len(rows):
            break
    if best is None:
        raise InputError(
            f"`{path}` has columns {_columns(rows)}: no known layout",
            f"describe them with --map prompt=COLUMN,answer=COLUMN, or force one with --format ({', '.join(NAMES)})",
        )
    return best.fitted(rows)


def _columns(rows: Sequence[Values]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    shown = ", ".join(f"`{name}`" for name in names[:30])
    return f"{shown} and {len(names) - 30} more" if len(names) > 30 else shown or "none"
