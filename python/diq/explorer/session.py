"""What the page is told: scores that are read once, and the answers about them.

Scores stay in memory, so an answer opens the store only for texts, other selections and saving.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from diq import _core
from diq.base.errors import DiqError, UsageError
from diq.base.text import amount, counted
from diq.explorer.answers import Answers, Positions
from diq.explorer.columns import NOT_SCORED, Choice, Table, positions_of, read_table, selections_of
from diq.explorer.requests import QUADRANT_NAMES, SELECTED_NAMES, Look
from diq.influence.stored import all_weights, scoring_command, takes_largest
from diq.scoring.commands import difficulty_command

# samples that are looked at while the others are being read, and while a hand moves, where there are many times as many
_FIRST_LOOK = 1 << 18
_MANY_TIMES = 8
# seconds that reading the others waits for the first look
_UNTIL_LOOKED_S = 3.0


class Session:
    """The answers about all samples, and before these are read about a part of them.

    Args:
        choice: whose scores.
    """

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self._part: Answers | None = None
        self._whole: Answers | None = None
        self._failure: DiqError | None = None
        self._looked = threading.Event()
        self._progress = ("opening the store", 0, 0)
        # this process opens the store one way at a time: DuckDB takes no readers beside a writer of its own. Loading
        # needs no lock, since nothing is saved before it is done
        self.storing = threading.Lock()

    # loading ---------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read the scores; for a thread of its own, since the page is up meanwhile."""
        try:
            part = _FIRST_LOOK / max(1, self.choice.data["n_samples"])
            if part * _MANY_TIMES < 1:
                self._part = self._answers(read_table(self.choice, part=part))
                # who opens the page sees something before the reading takes the processor
                self._looked.wait(_UNTIL_LOOKED_S)
            self._whole = self._answers(read_table(self.choice, self._tell))
            if self._part:
                self._part = self._answers(self._part.table, like=self._whole)
        except DiqError as error:
            self._failure = error
        except Exception as error:
            self._failure = DiqError(f"the scores could not be read: {type(error).__name__}: {error}")
            raise

    def _answers(self, table: Table, like: Answers | None = None) -> Answers:
        return Answers(self.choice, table, self._positions_of, like=like)

    def _positions_of(self, selection_id: int) -> Positions:
        with self.storing:
            return positions_of(self.choice.store, selection_id)

    def _tell(self, what: str, done: int, total: int) -> None:
        self._progress = (what, done, total)

    @property
    def answers(self) -> Answers:
        """The answers about all samples, or about a part while the others are being read.

        Raises:
            DiqError: nothing is read yet, or could not be.
        """
        if self._failure is not None:
            raise self._failure
        found = self._whole or self._part
        if found is None:
            raise UsageError("the scores are still being read", "wait a moment")
        return found

    @property
    def table(self) -> Table:
        """The scores that the answers are about.

        Raises:
            DiqError: as :attr:`answers`.
        """
        return self.answers.table

    # what there is ---------------------------------------------------------------------------------------------------

    def check_whole(self) -> None:
        """Refuse what is made of all samples.

        Raises:
            UsageError: they are not all read yet.
        """
        if self.answers is not self._whole:
            raise UsageError(
                f"{len(self.table):,} of {amount(self.choice.data['n_samples'], 'sample')} are read: this needs all of "
                "them",
                "wait a moment",
            )

    def facts(self) -> dict[str, Any]:
        """What the page needs before it can ask: columns, validation sets, sources; or how far the reading is."""
        choice = self.choice
        shown = {
            "store": str(choice.store),
            "dataset": choice.data["name"],
            "model": choice.model,
            "dimension": choice.difficulty,
            "influence_run": choice.influence_run,
            "difficulty_run": choice.difficulty_run,
        }
        if self._failure is not None:
            return shown | {"state": "failed", "error": self._failure.message, "hint": self._failure.hint}
        whole, found = self._whole, self._whole or self._part
        reading = None if whole else dict(zip(("what", "done", "total"), self._progress, strict=True))
        if found is None:
            return shown | {"state": "reading", "reading": reading}
        table = found.table
        weights = all_weights(choice.sets)
        mean = sum(weights.values()) / len(weights) or 1.0
        return shown | {
            "state": "ready",
            # some samples are there before all are
            "reading": reading,
            "quick": bool(whole and self._part),
            "n": len(table),
            "n_samples": choice.data["n_samples"],
            # lowest and highest difficulty, and whether all are whole numbers
            "levels": _core.extent(table.level),
            "largest": takes_largest(choice.sets),
            # of the mean weight, so that sliders start about 1
            "sets": [
                {"name": one["name"], "n_samples": one["n_samples"], "share": weights[one["name"]] / mean}
                for one in choice.sets
            ],
            "names": {
                "source": table.sources,
                "quadrant": list(QUADRANT_NAMES),
                "selected": list(SELECTED_NAMES),
            },
            "notes": [] if reading else self._notes(table),
        }

    def _notes(self, table: Table) -> list[str]:
        """What samples lack, why, and where a command gives it to them, that command."""
        choice, n = self.choice, len(table)
        name, notes = choice.data["name"], []
        if "" in table.lacking:
            command = difficulty_command(name, choice.difficulty_method)
            notes.append(_lacks("no difficulty and", "no quadrant", n, table.lacking[""], command))
        for one in choice.sets:
            task, dots = one["name"], table.dots[one["name"]]
            if task in table.lacking:
                what = f"no finite dot with the validation set `{task}` and"
                command = scoring_command(name, choice.model, one["method"], task)
                notes.append(_lacks(what, "no quadrant as long as it counts", n, table.lacking[task], command))
            elif n > 1 and np.all(dots == dots[0]):
                notes.append(f"all dots with the validation set `{task}` are {dots[0]:g}: they put nothing in order")
        return notes

    def selections(self) -> list[dict[str, Any]]:
        """Stored selections of the dataset, latest first."""
        with self.storing:
            return selections_of(self.choice)

    def view(self, look: Look, *, quick: bool = False) -> tuple[dict[str, Any], npt.NDArray[np.uint32]]:
        """What all views show of a look; as :meth:`Answers.view`.

        Args:
            look: what is looked at.
            quick: of the part of the samples that was read first, where there is one, on the axes of all of them; its
                counts are multiplied by how many times as many there are, and ``approximate`` says so.
        """
        answers = self.answers
        part = self._part if quick and self._whole else None
        facts, counts = (part or answers).view(look)
        self._looked.set()
        if part:
            times = len(answers.table) / max(1, len(part.table))
            facts, counts = _multiplied(facts, times), np.rint(counts * times).astype(np.uint32)
            facts["n"] = len(answers.table)
        return facts | {"approximate": part is not None}, counts


def _lacks(what: str, where: str, n: int, reasons: Mapping[str, int], command: str) -> str:
    n_lacking = sum(reasons.values())
    has, is_ = ("has", "is") if n_lacking == 1 else ("have", "are")
    makes = f"; `{command}` fills them in" if NOT_SCORED in reasons else ""
    return f"{n_lacking:,} of {amount(n, 'sample')} {has} {what} {is_} in {where}: {counted(reasons)}{makes}"


def _multiplied(facts: dict[str, Any], times: float) -> dict[str, Any]:
    """The facts of a view with its numbers of samples multiplied."""

    def more(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: more(one) for name, one in value.items()}
        return [more(one) for one in value] if isinstance(value, list) else round(value * times)

    counted = ("n_scored", "quadrants", "n_selected", "selected", "passing", "compare")
    return facts | {name: more(facts[name]) for name in counted if facts[name] is not None}
