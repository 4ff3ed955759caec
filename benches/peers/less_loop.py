"""The loop of LESS: batch 1, the flattened gradient, traker's BasicProjector, then dots of the projections.

The projector is called as LESS calls it (Rademacher, blocks of 128 columns, 16 gradients at a time); ``--together 1``
projects every gradient by itself. Left out of LESS: Adam moments, the cast to float16, the files. In favour of LESS:
the mean validation gradient is projected once, not each validation sample.
"""

from __future__ import annotations

import harness
import numpy as np
import numpy.typing as npt
import torch
from trak.projectors import BasicProjector, ProjectionType


class LessLoop(harness.Peer):
    packages = ("traker", "torch", "transformers")
    exact = False

    def __init__(self, inputs: harness.Inputs, dim: int, together: int, block: int) -> None:
        self.note = f"batch 1, q/k/v to {dim}, {together} gradients a projection"
        self.inputs, self.dim, self.together = inputs, dim, together
        self.model = harness.load_model(inputs.model)
        self.weights = [one for one in self.model.parameters() if one.requires_grad]
        self.projector = BasicProjector(
            grad_dim=sum(one.numel() for one in self.weights),
            proj_dim=dim,
            seed=0,
            proj_type=ProjectionType.rademacher,
            device=torch.device("cpu"),
            block_size=block,
        )

    def gradient(self, sample: harness.Sample) -> torch.Tensor:
        ids, labels = harness.labels_of(sample)
        self.model.zero_grad(set_to_none=True)
        self.model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        return torch.cat([one.grad.flatten() for one in self.weights])

    def project(self, gradients: list[torch.Tensor]) -> torch.Tensor:
        # entries are -1 and 1, unscaled: inner products come out `dim` times too large
        return self.projector.project(torch.stack(gradients), model_id=0) / self.dim**0.5

    def prepare(self) -> None:
        total = torch.zeros(self.projector.grad_dim)
        for one in self.inputs.validation:
            total += self.gradient(one)
        self.mean = self.project([total / len(self.inputs.validation)])[0]

    def score(self, rows: harness.Rows) -> npt.NDArray[np.float64]:
        return self.dots(rows, self.together)

    def dots(self, rows: harness.Rows, together: int) -> npt.NDArray[np.float64]:
        found: list[torch.Tensor] = []
        for first in range(0, len(rows), together):
            gradients = [self.gradient(self.inputs.train[row]) for row in rows[first : first + together]]
            found.append(self.project(gradients) @ self.mean)
        return torch.cat(found).double().numpy()


class LessSingle(LessLoop):
    """The check over all its samples, 16 at a time, is the same check: the matrix depends on the seed alone."""

    checked = False

    def score(self, rows: harness.Rows) -> npt.NDArray[np.float64]:
        if self.checked:
            return self.dots(rows, self.together)
        self.checked = True
        many = self.dots(rows, 16)
        one = self.dots(rows[:1], self.together)
        assert abs(one[0] - many[0]) < 1e-3 * many.std(), "a gradient projected by itself came out different"
        return many


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--together", type=int, default=16, help="gradients a projection")
    parser.add_argument("--block", type=int, default=128, help="columns of the matrix made at a time")
    options = parser.parse_args()
    kind = LessLoop if options.together > 1 else LessSingle
    harness.run(options, lambda inputs: kind(inputs, options.dim, options.together, options.block))


if __name__ == "__main__":
    main()
