"""How large everything in the demo is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the demo is; the defaults take about a minute and a half on two CPU cores.

    Attributes:
        samples: distinct usable rows of the training file, noise included.
        duplicates: rows that repeat an earlier one exactly.
        broken: rows that cannot be used.
        validation: samples of each validation set; its file holds half as many again, of which they are drawn.
        held_out: further samples of each task, which the selection never sees.
        noise: share of the samples that are noise, 0 to 1.
        hidden: width of the language model.
        layers: its layers.
        vocabulary: its tokens.
        model_samples: questions that it is trained on, beside the facts.
        model_steps: steps of its training.
        classifier_samples: questions with difficulty labels, for the classifier.
        classifier_epochs: at most so many epochs of its training.
        epochs: epochs of each fine-tuning.
    """

    samples: int = 2000
    duplicates: int = 60
    broken: int = 12
    validation: int = 32
    held_out: int = 64
    noise: float = 0.24
    hidden: int = 128
    layers: int = 4
    vocabulary: int = 1024
    model_samples: int = 3000
    model_steps: int = 110
    classifier_samples: int = 1500
    classifier_epochs: int = 5
    epochs: int = 3
