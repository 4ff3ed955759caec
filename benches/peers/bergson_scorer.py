"""bergson's exact in-memory scorer: InMemoryCollector with a Scorer over the mean query gradient, no projection.

bergson's own set-up trains the embedding so that gradients flow, and with it a tied head; ``--cheap-root`` trains the
first norm's weight instead, which costs next to nothing (the collector refuses a model without trainable parameters).
"""

from __future__ import annotations

import tempfile

import harness
import numpy as np
import numpy.typing as npt
import torch
from bergson import CollectorComputer, GradientProcessor, IndexConfig, InMemoryCollector, PreprocessConfig, Scorer
from bergson.data import allocate_batches
from bergson.score.score_writer import InMemorySequenceScoreWriter
from datasets import Dataset


class BergsonScorer(harness.Peer):
    packages = ("bergson", "torch", "transformers")

    def __init__(self, inputs: harness.Inputs, budget: int, *, cheap_root: bool) -> None:
        self.note = f"q/k/v, projection_dim 0, loss_reduction mean, {budget} tokens; " + (
            "one norm weight trainable" if cheap_root else "embedding trainable, as bergson sets up"
        )
        self.inputs = inputs
        self.model = harness.load_model(inputs.model)
        # names as bergson counts them, from the base model
        self.targets = {
            name.removesuffix(".weight") for name, one in self.model.base_model.named_parameters() if one.requires_grad
        }
        self.model.requires_grad_(False)
        first_norm = next(one for one in self.model.parameters() if one.ndim == 1)
        (first_norm if cheap_root else self.model.get_input_embeddings()).requires_grad_(True)
        # the computer leaves a count of tokens there
        self.folder = tempfile.TemporaryDirectory(prefix="bergson-")
        self.config = IndexConfig(
            run_path=f"{self.folder.name}/run",
            model=str(inputs.model),
            precision="fp32",
            projection_dim=0,
            loss_reduction="mean",
            token_batch_size=budget,
        )
        self.config.partial_run_path.mkdir()

    def collect(
        self, samples: list[harness.Sample], *, scorer: Scorer | None, aggregation: str = "none"
    ) -> InMemoryCollector:
        data = Dataset.from_dict(
            {
                "input_ids": [one.ids.tolist() for one in samples],
                "labels": [[-100] * one.start + one.ids[one.start :].tolist() for one in samples],
            }
        )
        collector = InMemoryCollector(
            model=self.model.base_model,
            data=data,
            cfg=self.config,
            processor=GradientProcessor(projection_dim=None),
            target_modules=self.targets,
            preprocess_cfg=PreprocessConfig(aggregation=aggregation),
            scorer=scorer,
        )
        batches = allocate_batches([len(one.ids) for one in samples], self.config.token_batch_size)
        CollectorComputer(
            self.model, data, collector=collector, batches=batches, cfg=self.config
        ).run_with_collector_hooks()
        return collector

    def prepare(self) -> None:
        self.query = self.collect(self.inputs.validation, scorer=None, aggregation="mean").gradients

    def score(self, rows: harness.Rows) -> npt.NDArray[np.float64]:
        scorer = Scorer(
            self.query,
            sorted(self.targets),
            InMemorySequenceScoreWriter(len(rows), 1),
            torch.device("cpu"),
            torch.float32,
        )
        scores = self.collect([self.inputs.train[row] for row in rows], scorer=scorer).scores
        return scores[:, 0].double().numpy()


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--budget", type=int, default=2048)
    parser.add_argument("--cheap-root", action="store_true", help="train the first norm, not the embedding")
    options = parser.parse_args()
    harness.run(options, lambda inputs: BergsonScorer(inputs, options.budget, cheap_root=options.cheap_root))


if __name__ == "__main__":
    main()
