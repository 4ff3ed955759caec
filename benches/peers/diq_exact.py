"""Ours: exact dots through the engine that `diq score influence` runs (the project's environment)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import harness
import numpy as np
import numpy.typing as npt

from diq.gradients.engine import Engine, EngineSettings
from diq.gradients.validation import ValidationTokens
from diq.models.source import find_model
from diq.models.tokens import Tokens, plan_batches


class DiqExact(harness.Peer):
    packages = ("diq", "torch", "transformers")

    def __init__(self, inputs: harness.Inputs, budget: int, *, folds: int, packed: bool) -> None:
        self.note = f"q/k/v, float32, length-sorted batches of {budget} tokens, {folds} folds, " + (
            "packed" if packed else "padded"
        )
        self.train, self.validation = (
            [Tokens(one.ids, one.start) for one in samples] for samples in (inputs.train, inputs.validation)
        )
        settings = EngineSettings(
            model=find_model(str(inputs.model)),
            dtype="float32",
            device="cpu",
            folds=folds,
            packed=packed,
            token_budget=budget,
        )
        self.engine = Engine(settings)
        # a sample's dot with the whole set is the mean over its folds, by their sizes
        sizes = np.asarray([len(one) for one in ValidationTokens("validation", self.validation).folds(folds)])
        self.shares = sizes / sizes.sum()

    def prepare(self) -> None:
        self.engine.prepare([ValidationTokens("validation", self.validation)])

    def score(self, rows: harness.Rows) -> npt.NDArray[np.float64]:
        found = np.empty(len(rows))
        for places, samples in self.batches([self.train[row] for row in rows]):
            found[places] = self.engine.score(samples).values @ self.shares
        return found

    def batches(self, samples: Sequence[Tokens]) -> Iterator[tuple[npt.NDArray[np.int64], list[Tokens]]]:
        lengths = np.asarray([len(one.ids) for one in samples])
        for places in plan_batches(lengths, token_budget=self.engine.token_budget):
            yield places, [samples[place] for place in places]


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--budget", type=int, default=2048)
    parser.add_argument("--folds", type=int, default=1)
    parser.add_argument("--packed", action="store_true")
    options = parser.parse_args()
    harness.run(options, lambda inputs: DiqExact(inputs, options.budget, folds=options.folds, packed=options.packed))


if __name__ == "__main__":
    main()
