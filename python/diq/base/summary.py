"""What a verb returns: short where it is shown, whole where it is wanted."""

from __future__ import annotations

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
