"""What everybody writes first: one backward a sample for the q/k/v weights, then the dot with the mean gradient."""

from __future__ import annotations

import harness
import numpy as np
import numpy.typing as npt
import torch


class AutogradLoop(harness.Peer):
    note = "batch 1; no gradients but those of the q/k/v weights"

    def __init__(self, inputs: harness.Inputs) -> None:
        self.inputs = inputs
        self.model = harness.load_model(inputs.model)
        self.weights = [one for one in self.model.parameters() if one.requires_grad]

    def gradient(self, sample: harness.Sample) -> list[torch.Tensor]:
        ids, labels = harness.labels_of(sample)
        self.model.zero_grad(set_to_none=True)
        self.model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        return [one.grad for one in self.weights]

    def prepare(self) -> None:
        gradients = [self.gradient(one) for one in self.inputs.validation]
        self.mean = [torch.stack(parts).mean(dim=0) for parts in zip(*gradients, strict=True)]

    def score(self, rows: harness.Rows) -> npt.NDArray[np.float64]:
        found = np.empty(len(rows))
        for place, row in enumerate(rows):
            gradient = self.gradient(self.inputs.train[row])
            found[place] = sum(float((one * mean).sum()) for one, mean in zip(gradient, self.mean, strict=True))
        return found


if __name__ == "__main__":
    harness.run(harness.parser(__doc__).parse_args(), AutogradLoop)
