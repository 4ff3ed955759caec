"""The nine benchmarks: their names, where they lie on the hub, and how their accuracies are averaged.

Source of groups and averages: arXiv 2508.01450, section 4.1 and Table 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Group = Literal["standard", "challenging"]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A set of multiple-choice questions that models are reported on.

    Attributes:
        name: name on the command line and in the store.
        label: short name, as the heads of the paper's tables have it.
        group: which average it belongs to.
    """

    name: str
    label: str
    group: Group


BENCHMARKS: dict[str, Benchmark] = {
    one.name: one
    for one in (
        Benchmark("medqa", "MedQ", "standard"),
        Benchmark("medmcqa", "MedM", "standard"),
        Benchmark("mmlu_pro", "MMLU", "standard"),
        Benchmark("hle", "HLE", "challenging"),
        Benchmark("medbullets4", "MeB4", "challenging"),
        Benchmark("medbullets5", "MeB5", "challenging"),
        Benchmark("medxpertqa", "MedX", "challenging"),
        Benchmark("medguide", "MedG", "challenging"),
        Benchmark("metamedqa", "MetM", "challenging"),
    )
}


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
