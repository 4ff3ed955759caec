"""What a report is made of; `contents` fills them, `page` writes them as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Words:
    """A paragraph.

    Attributes:
        text: plain text; what stands in backquotes is shown as code.
        is_note: it says what is missing, or not as it was.
    """

    text: str
    is_note: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart.

    Attributes:
        key: name of its file, and of its place in the page.
        spec: Vega-Lite, the data in it.
    """

    key: str
    spec: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        title: above it.
        head: names of the columns.
        rows: cells; numbers are written as such.
        notes: lines below it.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Commands:
    """Commands to be typed, a line each."""

    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class Listed:
    """A sample of a list.

    Attributes:
        why: rank, quadrant and so on, each with its value as text.
        sample_id: its id.
        place: where it was read.
        messages: its conversation, None where texts are left out or gone.
        rejected: the refused answer of a pair.
        tokens: text and share of the dot of each token, where it was explained; None for a token without one.
    """

    why: Sequence[tuple[str, str]]
    sample_id: str
    place: str
    messages: Sequence[Mapping[str, Any]] | None = None
    rejected: Sequence[Mapping[str, Any]] | None = None
    tokens: Sequence[tuple[str, float | None]] | None = None


@dataclass(frozen=True, slots=True)
class Samples:
    """A list of samples.

    Attributes:
        title: above it.
        about: what the list is.
        dataset: that they are of.
        samples: the samples.
    """

    title: str
    about: str
    dataset: str
    samples: Sequence[Listed]


Block = Words | Figure | Table | Commands | Samples


@dataclass(slots=True)
class Section:
    """A part of the page.

    Attributes:
        title: its heading.
        blocks: in order.
    """

    title: str
    blocks: list[Block] = field(default_factory=list)
