"""dattri: TracInAttributor with one checkpoint of weight 1 and no projection, which is Grad-Dot.

Its ``attribute`` computes the validation gradient anew for each batch of training samples. To keep that cheap the
validation set is handed over as a few padded chunks whose target is their share of the mean loss, not sample by sample.
``--pieces`` uses its per-sample gradient function (``AttributionTask.get_grad_loss_func``) and computes the mean
validation gradient once: the best that can be had from its public parts.
"""

from __future__ import annotations

import harness
import numpy as np
import numpy.typing as npt
import torch
from dattri.algorithm import TracInAttributor
from dattri.task import AttributionTask
from torch.nn import functional as F
from torch.utils.data import DataLoader

Item = tuple[torch.Tensor, torch.Tensor]


def pad(samples: list[harness.Sample]) -> Item:
    """Ids ``[b, t]``, and weights ``[b, t]`` whose product with the token losses sums to a sample's mean loss."""
    width = max(len(one.ids) for one in samples)
    ids, weights = torch.zeros(len(samples), width, dtype=torch.int64), torch.zeros(len(samples), width)
    for row, one in enumerate(samples):
        ids[row, : len(one.ids)] = torch.from_numpy(one.ids.astype(np.int64))
        weights[row, one.start : len(one.ids)] = 1 / (len(one.ids) - one.start)
    return ids, weights


class DattriTracin(harness.Peer):
    packages = ("dattri", "torch", "transformers")

    def __init__(self, inputs: harness.Inputs, batch: int, budget: int, attention: str, *, pieces: bool) -> None:
        self.note = f"q/k/v, vmap over {batch} length-sorted samples, {attention} attention; " + (
            "get_grad_loss_func, validation gradient once" if pieces else "attribute(), validation gradient every batch"
        )
        self.inputs, self.batch, self.budget, self.pieces = inputs, batch, budget, pieces
        self.model = harness.load_model(inputs.model)
        self.model.set_attn_implementation(attention)
        # the parameters of a task are those that require gradients
        self.task = AttributionTask(self.loss, self.model, self.model.state_dict(), target_func=self.target)

    def loss(self, parameters: dict[str, torch.Tensor], item: Item) -> torch.Tensor:
        ids, weights = item
        return self.target(parameters, (ids.unsqueeze(0), weights.unsqueeze(0)))

    def target(self, parameters: dict[str, torch.Tensor], item: Item) -> torch.Tensor:
        ids, weights = item
        logits = torch.func.functional_call(self.model, parameters, (ids,), {"use_cache": False}).logits
        losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return (losses * weights[:, 1:].flatten()).sum()

    def prepare(self) -> None:
        samples = sorted(self.inputs.validation, key=lambda one: -len(one.ids))
        self.chunks: list[Item] = []
        while samples:
            count = max(1, self.budget // len(samples[0].ids))
            ids, weights = pad(samples[:count])
            self.chunks.append((ids, weights / len(self.inputs.validation)))
            samples = samples[count:]
        if self.pieces:
            self.parameters, _ = self.task.get_param(ckpt_idx=0)
            gradient = self.task.get_grad_target_func(in_dims=(None, 0))
            self.mean = torch.stack(
                [gradient(self.parameters, (ids[None], weights[None]))[0] for ids, weights in self.chunks]
            ).sum(dim=0)
            self.gradient = self.task.get_grad_loss_func(in_dims=(None, 0))
        else:
            self.attributor = TracInAttributor(self.task, weight_list=torch.ones(1), normalized_grad=False)
            # 0.3.0 puts its default projection in the place of None; an attributor without one is what we compare
            self.attributor.projector_kwargs = None

    def score(self, rows: harness.Rows) -> npt.NDArray[np.float64]:
        samples = [self.inputs.train[row] for row in rows]
        order = sorted(range(len(rows)), key=lambda place: -len(samples[place].ids))
        loader = DataLoader([samples[place] for place in order], batch_size=self.batch, collate_fn=pad)
        if self.pieces:
            with torch.no_grad():
                dots = torch.cat([self.gradient(self.parameters, item) @ self.mean for item in loader])
        else:
            with torch.no_grad():
                dots = self.attributor.attribute(loader, DataLoader(self.chunks, batch_size=1)).sum(dim=1)
        found = np.empty(len(rows))
        found[order] = dots.double().numpy()
        return found


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--batch", type=int, default=8, help="training samples a batch; its loader takes no budget")
    parser.add_argument("--budget", type=int, default=2048, help="padded tokens a chunk of the validation set")
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    parser.add_argument("--pieces", action="store_true", help="its gradient function in a loop of ours")
    options = parser.parse_args()
    harness.run(
        options,
        lambda inputs: DattriTracin(inputs, options.batch, options.budget, options.attention, pieces=options.pieces),
    )


if __name__ == "__main__":
    main()
