"""What the steps of a plan cost: counted FLOPs, as `diq cost` counts them.

Only what can be known before anything runs is counted: lengths from the store, or from the files that will be read;
sizes from a model folder, or of the models that `diq.cost` knows. Nothing is fetched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from diq.base.config import MAX_LENGTH, expanded
from diq.base.errors import DiqError
from diq.base.text import Ratio
from diq.costs.flops import (
    encoder_flops,
    exact_flops,
    forward_flops,
    ifd_flops,
    preference_flops,
    projected_flops,
    rds_flops,
    training_flops,
)
from diq.costs.lengths import Lengths, read_file_lengths, read_lengths
from diq.costs.options import Params
from diq.costs.sizes import BIOMEDBERT, Size, find_size
from diq.recipes.text import Recipe, Step
from diq.recipes.verbs import effective
from diq.selection.options import SelectOptions, default_name
from diq.training.options import EPOCHS, LORA_RANK

# what a validation sample is taken to be as long as, where only its number is known
_VALIDATION_SAMPLES = 20


def estimates(recipe: Recipe, store: Path) -> list[float | None]:
    """FLOPs of every step; None where they are not known, 0 for steps that run no model."""
    counter = _Counter(recipe, store)
    return [counter.count(step) for step in recipe.steps]


# what runs no model
_FREE = ("ingest", "score length", "score bm25", "select", "sql", "results", "report", "benchmark questions")


class _Counter:
    """Looks lengths up along the steps of a recipe."""

    def __init__(self, recipe: Recipe, store: Path) -> None:
        self.steps, self.store = recipe.steps, store
        # many steps ask for the same dataset, and its files may be large
        self._known: dict[tuple[str, int], Lengths | None] = {}

    def count(self, step: Step) -> float | None:
        counters: dict[str, Callable[[Step], float | None]] = {
            "score difficulty": self._difficulty,
            "score influence": self._influence,
            "score perplexity": self._forward,
            "score ifd": self._ifd,
            "score rds": self._rds,
            "train": self._training,
        }
        if step.verb in counters:
            # what cannot be looked up is not known; the step itself will say why
            with contextlib.suppress(DiqError):
                return counters[step.verb](step)
            return None
        return 0.0 if step.verb in _FREE else None

    def _difficulty(self, step: Step) -> float | None:
        if step.options.get("columns"):
            return 0.0
        lengths = self._dataset(step.options["dataset"], MAX_LENGTH)
        if lengths is None:
            return None
        folder = Path(str(step.options["model"]))
        size = find_size(str(folder)) if (folder / "config.json").is_file() else BIOMEDBERT
        return encoder_flops(size, lengths.n, lengths.prompts / max(lengths.n, 1))

    def _influence(self, step: Step) -> float | None:
        options = step.options
        lengths, size = self._dataset(options["dataset"], options.get("max_length")), _size(options["model"])
        params = _params(options)
        if lengths is None or size is None or params is None:
            return None
        names = options.get("validation_set") or self._validation_sets()
        names = names if isinstance(names, list) else [names]
        validation = Lengths.same(sum(map(self._n_validation, names)), lengths.mean)
        if options.get("method", "exact") == "projected":
            return projected_flops(size, lengths, validation, params=params)
        if options.get("method", "exact") != "exact":
            return None
        return exact_flops(size, lengths, validation, params=params, sets=len(names))

    def _forward(self, step: Step) -> float | None:
        lengths = self._dataset(step.options["dataset"], step.options.get("max_length"))
        size = _size(step.options["model"])
        return None if lengths is None or size is None else forward_flops(size, lengths.every_token())

    def _rds(self, step: Step) -> float | None:
        lengths = self._dataset(step.options["dataset"], step.options.get("max_length"))
        size = _size(step.options["model"])
        if lengths is None or size is None:
            return None
        names = step.options.get("validation_set") or self._validation_sets()
        names = names if isinstance(names, list) else [names]
        return rds_flops(size, lengths, Lengths.same(sum(map(self._n_validation, names)), lengths.mean))

    def _ifd(self, step: Step) -> float | None:
        lengths = self._dataset(step.options["dataset"], step.options.get("max_length"))
        size = _size(step.options["model"])
        return None if lengths is None or size is None else ifd_flops(size, lengths)

    def _training(self, step: Step) -> float | None:
        options = step.options
        is_dpo = options.get("method") == "dpo"
        lengths, size = self._selection(str(options["selection"]), options.get("max_length")), _size(options["model"])
        params = _params(options)
        if lengths is None or size is None or params is None:
            return None
        count = preference_flops if is_dpo else training_flops
        return count(
            size,
            lengths,
            epochs=float(options.get("epochs") or EPOCHS["dpo" if is_dpo else "sft"]),
            params=params,
            rank=int(options.get("lora_rank") or LORA_RANK),
            checkpointing=bool(options.get("gradient_checkpointing")),
        )

    # lengths -----------------------------------------------------------------------------------------------------

    def _selection(self, name: str, max_length: int | None) -> Lengths | None:
        for step in self.steps:
            options = step.options
            if step.verb == "select":
                ratio = Ratio.parse(str(options["ratio"]))
                known = (options.get("name") or default_name(SelectOptions(**effective("select", options))),)
                if name in (*known, options.get("output")):
                    whole = self._dataset(options["dataset"], max_length)
                    return None if whole is None else whole.scaled(ratio.of(int(whole.n)) / max(whole.n, 1))
        if Path(file := expanded(name)).is_file():
            return read_file_lengths(file, max_length=max_length or MAX_LENGTH)
        return self._dataset(name, max_length)

    def _dataset(self, name: str, max_length: int | None) -> Lengths | None:
        key = name, max_length or MAX_LENGTH
        if key not in self._known:
            self._known[key] = self._read(*key)
        return self._known[key]

    def _read(self, name: str, limit: int) -> Lengths | None:
        if self.store.exists():
            with contextlib.suppress(DiqError):
                return read_lengths(self.store, name, model="", max_length=limit)
        found: list[Lengths] = []
        for step in self.steps:
            if step.verb == "ingest" and step.options["dataset"] == name and not step.options.get("validation"):
                sources = step.options["sources"]
                for source in sources if isinstance(sources, list) else [sources]:
                    if not Path(file := expanded(str(source))).is_file():
                        return None
                    found.append(read_file_lengths(file, max_length=limit))
        return _sum(found) if found else None

    def _validation_sets(self) -> list[str]:
        return [
            step.options["dataset"] for step in self.steps if step.verb == "ingest" and step.options.get("validation")
        ]

    def _n_validation(self, name: str) -> int:
        for step in self.steps:
            if step.verb == "ingest" and step.options["dataset"] == name and step.options.get("sample"):
                return int(step.options["sample"])
        return _VALIDATION_SAMPLES


def _params(options: Mapping[str, Any]) -> Params | None:
    """Which matrices count; None for a regular expression over their names."""
    known: dict[Any, Params] = {None: "qkv", "qkv": "qkv", "all-linear": "all-linear", "full": "full"}
    return known.get(options.get("params"))


def _size(model: Any) -> Size | None:
    """Sizes that are known without a network."""
    name = expanded(str(model))
    # the last part alone is a name that is known, or none at all; a hub id would be fetched
    return find_size(name if Path(name).is_dir() else name.partition("@")[0].split("/")[-1])


def _sum(found: Sequence[Lengths]) -> Lengths:
    numbers = [one.name for one in fields(Lengths) if one.name != "source"]
    return Lengths(**{name: sum(getattr(one, name) for one in found) for name in numbers}, source=found[0].source)
