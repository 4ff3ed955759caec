"""The nine benchmarks: their names, where they lie on the hub, and how their accuracies are averaged.

Source of groups and averages: arXiv 2508.01450, section 4.1 and Table 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from diq.base.errors import UsageError
from diq.base.text import did_you_mean

Group = Literal["standard", "challenging"]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A set of multiple-choice questions that models are reported on.

    Attributes:
        name: name on the command line and in the store.
        label: short name, as the heads of the paper's tables have it.
        group: which average it belongs to; None: to none.
        hub: where it lies on the hub, ``owner/name[:config]``; several addresses are read one after the other.
        split: its split there.
        n_options: fewest and most options of a question.
        keep: columns and the values that a row must have there to belong to it; a row without the column belongs.
        layouts: layouts (`diq.formats`) that no other benchmark has; a file in the layout of another is a mistake.
    """

    name: str
    label: str
    group: Group | None
    hub: tuple[str, ...] = ()
    split: str = "test"
    n_options: tuple[int, int] = (2, 26)
    keep: tuple[tuple[str, tuple[str | None, ...]], ...] = ()
    layouts: tuple[str, ...] = ()

    def holds(self, row: Mapping[str, object]) -> bool:
        """Whether a row of its file belongs to it."""
        return all(column not in row or row[column] in values for column, values in self.keep)


BENCHMARKS: dict[str, Benchmark] = {
    one.name: one
    for one in (
        Benchmark(
            "medqa", "MedQ", "standard",
            hub=("GBaker/MedQA-USMLE-4-options",), n_options=(4, 5), layouts=("medqa",),
        ),
        # the answers of its test split were never published
        Benchmark(
            "medmcqa", "MedM", "standard",
            hub=("openlifescienceai/medmcqa",), split="validation", n_options=(4, 4),
            layouts=("medmcqa", "medmcqa_original"),
        ),
        Benchmark(
            "mmlu_pro", "MMLU", "standard",
            hub=("TIGER-Lab/MMLU-Pro",), n_options=(3, 10), keep=(("category", ("health", "biology")),),
            layouts=("mmlu_pro",),
        ),
        Benchmark(
            "hle", "HLE", "challenging",
            hub=("cais/hle",),
            # a question with an image holds more than its text
            keep=(
                ("category", ("Biology/Medicine",)),
                ("answer_type", ("multipleChoice",)),
                ("image", ("", None)),
            ),
            layouts=("hle",),
        ),
        # its authors' files are on GitHub alone; these are copies
        Benchmark(
            "medbullets4", "MeB4", "challenging",
            hub=("mkieffer/Medbullets",), split="op4_test", n_options=(4, 4), layouts=("medbullets",),
        ),
        Benchmark(
            "medbullets5", "MeB5", "challenging",
            hub=("mkieffer/Medbullets",), split="op5_test", n_options=(5, 5), layouts=("medbullets",),
        ),
        Benchmark(
            "medxpertqa", "MedX", "challenging", hub=("TsinghuaC3I/MedXpertQA:Text",), n_options=(10, 10),
        ),
        Benchmark(
            "medguide", "MedG", "challenging",
            hub=("MedGUIDE/MedGUIDE-MCQA-8K",), split="train", n_options=(2, 10), layouts=("medguide",),
        ),
        Benchmark(
            "metamedqa", "MetM", "challenging",
            hub=("maximegmd/MetaMedQA",), n_options=(4, 6), layouts=("metamedqa",),
        ),
    )
}  # fmt: skip

_SUBJECTS = (
    "anatomy",
    "clinical_knowledge",
    "college_biology",
    "college_medicine",
    "medical_genetics",
    "professional_medicine",
)
MORE_BENCHMARKS: dict[str, Benchmark] = {
    one.name: one
    for one in (
        # the six medical subjects of MMLU, whose 1,089 questions the paper's column MMLU counts (docs/evaluate.md)
        Benchmark(
            "mmlu_medical", "MMLU-Med", None, hub=tuple(f"cais/mmlu:{one}" for one in _SUBJECTS), n_options=(4, 4)
        ),
    )
}
"""Benchmarks beside the nine, which no average counts."""


def benchmark(name: str) -> Benchmark:
    """The benchmark of a name.

    Raises:
        UsageError: there is none.
    """
    known = {**BENCHMARKS, **MORE_BENCHMARKS}
    if name not in known:
        raise UsageError(f"there is no benchmark `{name}`", did_you_mean(name, list(known)))
    return known[name]


@dataclass(frozen=True, slots=True)
class Averages:
    """Means of a model's accuracies; None where one of the benchmarks is missing.

    Attributes:
        standard: AvgS, over MedQA, MedMCQA and MMLU-Pro.
        challenging: AvgC, over the other six.
        all: AvgA, over the nine: each benchmark counts the same, whatever its number of questions.
    """

    standard: float | None
    challenging: float | None
    all: float | None


def averages(accuracies: Mapping[str, float]) -> Averages:
    """AvgS, AvgC and AvgA of accuracies by benchmark name, in the unit that they come in."""

    def mean(group: Group | None) -> float | None:
        wanted = [one.name for one in BENCHMARKS.values() if group in (None, one.group)]
        if any(name not in accuracies for name in wanted):
            return None
        return sum(accuracies[name] for name in wanted) / len(wanted)

    return Averages(mean("standard"), mean("challenging"), mean(None))
