"""Validations as the store keeps them, and their tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from diq.base.summary import Summary
from diq.base.text import amount
from diq.store.store import Store


@dataclass(frozen=True, slots=True, repr=False)
class Validation(Summary):
    """What the trainings of a validation say.

    Attributes:
        run_id: run in the store.
        dataset: dataset.
        model: whose scores were tried.
        trained: the model that was trained; another one where there is a proxy.
        n_trainings: trainings that it rests on.
        n_new: those of them that this call made.
        n_left: trainings that are left; the same command makes them.
        n_subsets: random subsets that were trained on.
        subset_size: samples of each.
        scores: for each score, its linear datamodelling score: ``score``, ``run``, ``value``, ``low``, ``high``, and
            ``by_set``.
        race: for each entrant and ratio: ``entrant``, ``ratio``, ``n``, ``trainings``, ``loss`` on samples that no
            score has seen, ``random`` of random selections, ``before`` any training, ``difference`` with ``low`` and
            ``high``, ``verdict``, and ``by_set``.
        left_out: what could not be raced, and why.
        seconds: that all trainings took together.
        tokens: that all trainings went through, passes included.
    """

    run_id: int
    dataset: str
    model: str
    trained: str
    n_trainings: int
    n_new: int
    n_left: int
    n_subsets: int
    subset_size: int
    scores: list[dict[str, Any]] = field(default_factory=list)
    race: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    seconds: float = 0.0
    tokens: float = 0.0

    @property
    def title(self) -> str:
        """What was validated, in words."""
        stand_in = (
            f", with `{self.trained}` trained in its place: a hint, no proof" if self.trained != self.model else ""
        )
        return f"`{self.dataset}`, scores of `{self.model}`{stand_in}"

    @property
    def cost(self) -> str:
        """What it rests on, in words."""
        left = f"; {self.n_left} left, which the same command makes" if self.n_left else ""
        return (
            f"{amount(self.n_trainings, 'training')}, {self.seconds:.0f} s and {self.tokens / 1e6:.3g} million tokens "
            f"in all{left}"
        )


def read_validations(store: Store, *, dataset: str | None = None) -> list[Validation]:
    """The validations in a store, oldest first; those of one dataset alone where it is named."""
    rows = store.rows("trials/list_validations")
    found = [Validation(row["run_id"], n_new=0, **orjson.loads(row["result"])) for row in rows]
    return [one for one in found if dataset is None or one.dataset == dataset]


@dataclass(frozen=True, slots=True)
class Table:
    """A table for people: rows of texts and numbers."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]


def tables(found: Validation) -> list[Table]:
    """The linear datamodelling scores and the race, where there are any."""
    made = []
    if found.scores:
        made.append(
            Table(
                f"linear datamodelling score over {amount(found.n_subsets, 'random subset')} of "
                f"{amount(found.subset_size, 'sample')}",
                ("score", "run", "LDS", "95 % interval"),
                [(one["score"], one["run"], one["value"], interval(one)) for one in found.scores],
            )
        )
    if found.race:
        names = ("entrant", "ratio", "n", "trainings", "before", "random", "loss", "difference")
        made.append(
            Table(
                "race: loss on samples that no score has seen, against random selections of the same size",
                (*names[:2], "samples", *names[3:], "95 % interval", "than random"),
                [(*(one[name] for name in names), interval(one), one["verdict"]) for one in found.race],
            )
        )
    return made


def interval(one: Mapping[str, Any]) -> str:
    """The ends of an interval; empty where there is none."""
    low, high = one["low"], one["high"]
    return "" if low is None or math.isnan(low) else f"{low:.3g} to {high:.3g}"
