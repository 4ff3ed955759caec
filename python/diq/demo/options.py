"""What the demo's data take: a folder, a seed, and how large everything is."""

from __future__ import annotations

import os
from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from diq.base.options import Option, Options, Told

Seed = Annotated[int, Option("Seed of data, models, draws and trainings.", least=0, most=2**31 - 1)]


@dataclass(frozen=True)
class Sizes(Options):
    """How large the demo is. The recipe ``demo`` has each as a variable, of the same value."""

    samples: Annotated[int, Option("Distinct usable rows of the training file, noise included.", least=1)] = 2000
    duplicates: Annotated[int, Option("Rows that repeat an earlier one exactly.", least=0)] = 60
    broken: Annotated[int, Option("Rows that cannot be used.", least=0)] = 12
    validation: Annotated[
        int,
        Option("Samples of each validation set; its file holds half as many again, of which they are drawn.", least=1),
    ] = 32
    held_out: Annotated[int, Option("Further samples of each task, which the selection never sees.", least=1)] = 64
    noise: Annotated[float, Option("Share of the samples that are noise.", least=0, most=1)] = 0.24
    hidden: Annotated[int, Option("Width of the language model.", least=1)] = 128
    layers: Annotated[int, Option("Layers of the language model.", least=1)] = 4
    vocabulary: Annotated[int, Option("Tokens of its vocabulary.", least=1)] = 1024
    model_samples: Annotated[int, Option("Questions that it is trained on, beside the facts.", least=1)] = 3000
    model_steps: Annotated[int, Option("Steps of its training.", least=1)] = 110
    classifier_samples: Annotated[int, Option("Questions with difficulty labels.", least=1)] = 1500


@dataclass(frozen=True)
class DemoDataOptions(Options):
    """Options of the step ``demo data``."""

    folder: Annotated[
        str | os.PathLike[str], Option("New, empty, or made by this step before.", metavar="DIR", positional=True)
    ]
    _: KW_ONLY
    sizes: Annotated[Sizes, Option("How large everything is.")]
    seed: Seed = 0
    progress: Told = None
