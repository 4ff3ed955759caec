"""What a verb returns: short where it is shown, whole where it is wanted."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from diq.base.text import short

# a line of a terminal, with room for the name that it is given to
_WIDTH = 100
_TEXT = 32


class Summary:
    """Base of what verbs return, for dataclasses made with ``repr=False`` (and ``slots=True``).

    Their lists and records may hold thousands of rows; ``to_dict`` gives them, ``repr`` leaves them out.
    """

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, as ``--json`` prints it."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    def __repr__(self) -> str:
        """The name of the class and the first fields that fit into 100 characters; of lists only how long they are."""
        shown = []
        left = _WIDTH - len(f"{type(self).__name__}(...)")
        every = fields(self)  # type: ignore[arg-type]
        for one in every:
            value = getattr(self, one.name)
            if isinstance(value, list | tuple | dict):
                part = f"{len(value)} {one.name}"
            elif isinstance(value, str | int | float):
                part = f"{one.name}={(short(value, width=_TEXT) if isinstance(value, str) else value)!r}"
            else:
                continue
            left -= len(part) + len(", ")
            if left < 0:
                break
            shown.append(part)
        if len(shown) < len(every):
            shown.append("...")
        return f"{type(self).__name__}({', '.join(shown)})"

    def _repr_html_(self) -> str:
        """All of its short values as a table, for notebooks; of lists how long they are."""
        every = fields(self)  # type: ignore[arg-type]
        return html_table(type(self).__name__, {one.name: getattr(self, one.name) for one in every})


def html_table(title: str, values: Mapping[str, Any]) -> str:
    """Names and values as HTML; texts are escaped, and cut at 200 characters.

    Args:
        title: above the table.
        values: name to value.
    """
    rows = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name.replace('_', ' '))}</th>"
        f"<td style='text-align:left'>{html.escape(_shown(value))}</td></tr>"
        for name, value in values.items()
        if value is not None
    )
    return f"<table><caption style='text-align:left'>{html.escape(title)}</caption><tbody>{rows}</tbody></table>"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping) and all(not isinstance(one, Mapping | list | tuple) for one in value.values()):
        return short("; ".join(f"{key} {_shown(one)}" for key, one in value.items()), width=200)
    if isinstance(value, Sequence | Mapping) and not isinstance(value, str):
        return f"{len(value):,}" if value else "none"
    return short(str(value), width=200)
