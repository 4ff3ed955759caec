"""What the page may ask, as types: every field is read and checked, and anything else is refused. No field is SQL."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from diq.base.errors import UsageError
from diq.base.options import BadValueError, check_name
from diq.base.text import Ratio, did_you_mean, short
from diq.explorer.axes import KINDS, Kind
from diq.selection.quadrants import QUADRANTS

# names of the columns that are not numbers: what each of their bins is
QUADRANT_NAMES = ("unscored", *QUADRANTS)
SELECTED_NAMES = ("not selected", "selected")

MOST_ROWS = 200

Weights = tuple[tuple[str, float], ...] | None
"""Weight of each chosen validation set, in the order of the run; None: all of the run, by their samples (Eq. 3)."""


@dataclass(frozen=True, slots=True)
class Between:
    """Values from ``low`` to below ``high``; None is open. Missing values are never between."""

    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class OneOf:
    """Some of the values of a column of names, by their numbers."""

    values: frozenset[int]


@dataclass(frozen=True, slots=True)
class Look:
    """What the page looks at.

    Attributes:
        ratio: of the selection, as typed.
        percentile: p of the difficulty threshold.
        threshold: an absolute difficulty threshold in its place; None: the percentile counts.
        weights: of the validation sets.
        filters: of each brushed column.
        axes: kind of scale of each column that has another than its own.
        height: column that is the height of the plane: ``influence`` or one of the tasks.
        compare: number of the stored selection beside it; None without one.
    """

    ratio: Ratio
    percentile: float
    threshold: float | None
    weights: Weights
    filters: Mapping[str, Between | OneOf]
    axes: Mapping[str, Kind]
    height: str
    compare: int | None

    @property
    def cut(self) -> tuple[float | None, float | None]:
        """Percentile and absolute threshold of the difficulty, the one that does not count None."""
        return (self.percentile, None) if self.threshold is None else (None, self.threshold)


@dataclass(frozen=True, slots=True)
class PageOf:
    """A page of the table: the rows that all filters let through, in an order."""

    sort: str | None
    descending: bool
    first: int
    count: int


def read_look(body: Mapping[str, Any], numbers: Collection[str], names: Mapping[str, int], sets: list[str]) -> Look:
    """The look that a request asks for.

    Args:
        body: the request.
        numbers: columns of numbers.
        names: columns of names, with how many values each has.
        sets: validation sets of the run.

    Raises:
        UsageError: a field of another type, an unknown name or a number out of range.
    """
    ratio = body.get("ratio", "0.1")
    if not isinstance(ratio, str) or len(ratio) > 40:
        raise _wrong("ratio", ratio, "a text such as 0.1 or 10%")
    percentile = _number(body, "percentile", 0.5)
    if not 0 <= percentile <= 1:
        raise _wrong("percentile", percentile, "a number from 0 to 1")
    height = _choice(body, "height", "influence", numbers)
    return Look(
        ratio=Ratio.parse(ratio),
        percentile=percentile,
        threshold=_number_or_none(body, "threshold"),
        weights=_weights(body.get("weights"), sets),
        filters={
            _known("filters", name, [*numbers, *names]): _filter(name, value, names)
            for name, value in _mapping(body, "filters").items()
        },
        axes={_known("axes", name, numbers): _known_kind(kind) for name, kind in _mapping(body, "axes").items()},
        height=height,
        compare=None if body.get("compare") is None else whole(body, "compare", 0, least=1),
    )


def written_look(look: Look) -> dict[str, Any]:
    """A look as a request asks for it: :func:`read_look` makes the same of it."""
    filters = {
        name: {"low": one.low, "high": one.high} if isinstance(one, Between) else {"values": sorted(one.values)}
        for name, one in look.filters.items()
    }
    return {
        "ratio": look.ratio.text,
        "percentile": look.percentile,
        "threshold": look.threshold,
        "weights": None if look.weights is None else dict(look.weights),
        "filters": filters,
        "axes": dict(look.axes),
        "height": look.height,
        "compare": look.compare,
    }


def read_page(body: Mapping[str, Any], columns: Collection[str]) -> PageOf:
    """The page that a request asks for.

    Raises:
        UsageError: as :func:`read_look`.
    """
    sort = body.get("sort")
    descending = body.get("descending", False)
    if not isinstance(descending, bool):
        raise _wrong("descending", descending, "true or false")
    return PageOf(
        sort=None if sort is None or sort == "position" else _known("sort", sort, columns),
        descending=descending,
        first=whole(body, "first", 0, most=2**32),
        count=whole(body, "count", 25, least=1, most=MOST_ROWS),
    )


def read_positions(body: Mapping[str, Any]) -> list[int]:
    """The positions of the samples that a request names.

    Raises:
        UsageError: as :func:`read_look`.
    """
    positions = body.get("positions")
    if not isinstance(positions, list) or len(positions) > MOST_ROWS:
        raise _wrong("positions", positions, f"a list of at most {MOST_ROWS} positions")
    return [whole({"positions": one}, "positions", 0) for one in positions]


def read_name(body: Mapping[str, Any]) -> str | None:
    """The name that a selection is to have; None for its own.

    Raises:
        UsageError: no name that ``diq select`` takes.
    """
    name = body.get("name")
    if name is None or name == "":
        return None
    if not isinstance(name, str) or len(name) > 500:
        raise _wrong("name", name, "a text of at most 500 characters")
    try:
        check_name(name)
    except BadValueError as error:
        raise UsageError(f"the name {error.text}", error.hint) from None
    return name


def whole(body: Mapping[str, Any], field: str, default: int, *, least: int = 0, most: int = 2**53) -> int:
    """A whole number of a request.

    Raises:
        UsageError: it is none, or out of range.
    """
    value = body.get(field, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _wrong(field, value, f"a whole number from {least} to {most}")
    return value


def _number(body: Mapping[str, Any], field: str, default: float) -> float:
    value = body.get(field, default)
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or abs(value) > 1.8e308
        or not math.isfinite(value)
    ):
        raise _wrong(field, value, "a number")
    return float(value)


def _number_or_none(body: Mapping[str, Any], field: str) -> float | None:
    return None if body.get(field) is None else _number(body, field, 0)


def _mapping(body: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = body.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(field, value, "names with values")
    return value


def _known(field: str, name: object, known: Collection[str]) -> str:
    if not isinstance(name, str) or name not in known:
        raise UsageError(f"`{field}` names no column `{short(name)}`", did_you_mean(str(name), list(known)))
    return name


def _choice(body: Mapping[str, Any], field: str, default: str, known: Collection[str]) -> str:
    return _known(field, body.get(field, default), known)


def _known_kind(kind: object) -> Kind:
    for one in KINDS:
        if one == kind:
            return one
    raise _wrong("axes", kind, f"one of {', '.join(KINDS)}")


def _filter(name: str, value: object, names: Mapping[str, int]) -> Between | OneOf:
    if not isinstance(value, dict):
        raise _wrong(f"filters of {name}", value, "a filter")
    if name in names:
        chosen = value.get("values")
        if not isinstance(chosen, list) or len(chosen) > 256:
            raise _wrong(f"filters of {name}", chosen, "a list of values")
        return OneOf(frozenset(whole({name: one}, name, 0, most=names[name] - 1) for one in chosen))
    return Between(_number_or_none(value, "low"), _number_or_none(value, "high"))


def _weights(value: object, sets: list[str]) -> Weights:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _wrong("weights", value, "validation sets with their weights")
    unknown = [name for name in value if name not in sets]
    if unknown:
        raise UsageError(f"the run has no validation set named `{short(unknown[0])}`", did_you_mean(unknown[0], sets))
    found = []
    # in the order of the run, whatever the order of the request
    for name in sets:
        weight = _number(value, name, 0)
        if weight < 0 or weight > 1e6:
            raise _wrong(f"weights of {name}", weight, "a number from 0 to a million")
        if weight:
            found.append((name, weight))
    if not found:
        raise UsageError("every weight is 0: no validation set counts", "give one of them a weight")
    return tuple(found)


def _wrong(field: str, value: object, wanted: str) -> UsageError:
    return UsageError(f"`{field}` is `{short(value)}`, not {wanted}", "reload the page")
