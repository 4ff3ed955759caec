"""The step ``benchmark questions``: questions of a benchmark as a file, from which a validation set is made.

A benchmark's hub data may hold more than the benchmark (MMLU-Pro all subjects, HLE all of science); the file holds what
`diq evaluate` would ask, in a layout that `diq ingest` knows.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from diq.base.draws import number_of
from diq.base.errors import UsageError
from diq.base.files import check_file, write_text
from diq.base.progress import Progress
from diq.evaluation import benchmarks

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QuestionFile:
    """What was written.

    Attributes:
        benchmark: its name.
        output: the file.
        n: questions in it.
        n_available: questions that the source has.
    """

    benchmark: str
    output: str
    n: int
    n_available: int

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def write_questions(
    benchmark: str,
    *,
    output: Path,
    sources: Mapping[str, str] | None = None,
    splits: Mapping[str, str] | None = None,
    sample: int | None = None,
    seed: int = 0,
    allow_bad_rows: bool = False,
    progress: Progress | None = None,
) -> QuestionFile:
    """Write questions of a benchmark with their right answers, the file appearing whole.

    Args:
        benchmark: one of the nine, or another that ``diq evaluate`` knows.
        output: the file, JSON lines of question, options, letter, answer and reasoning.
        sources: file or hub id of benchmarks by name, in place of their own; other names are ignored.
        splits: split of the hub data by name, in place of the one that is evaluated.
        sample: how many questions; None: all. They are drawn by a hash of seed and question, so a larger sample
            contains the smaller.
        seed: of the draw.
        allow_bad_rows: leave out rows that hold no question.
        progress: told of the end.

    Raises:
        UsageError: an unknown benchmark, or fewer questions than were asked for.
        InputError: the source cannot be read, or is another benchmark's.
    """
    from diq.evaluation.questions import load_questions

    check_file(output)
    known = benchmarks.benchmark(benchmark)
    known = replace(known, split=(splits or {}).get(benchmark, known.split))
    found = load_questions(known, (sources or {}).get(benchmark), allow_bad_rows=allow_bad_rows).questions
    available = len(found)
    if sample is not None and sample > len(found):
        raise UsageError(
            f"{sample:,} questions of {benchmark} were asked for, the source has {len(found):,}", "ask for fewer"
        )
    if sample is not None:
        found = tuple(sorted(found, key=lambda one: number_of(f"{seed} {one.question}", n_bytes=16))[:sample])
    lines = [
        {
            "question": one.question,
            "options": dict(one.options),
            "answer_idx": one.right,
            "answer": one.options[one.right],
            "rationale": one.reasoning,
        }
        for one in found
    ]
    write_text(output, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    if progress:
        progress(benchmark, len(found), len(found))
    return QuestionFile(benchmark, str(output), len(found), available)
