"""The step ``benchmark questions``: questions of a benchmark as a file, from which a validation set is made.

A benchmark's hub data may hold more than the benchmark (MMLU-Pro all subjects, HLE all of science); the file holds what
`diq evaluate` would ask, in a layout that `diq ingest` knows.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from diq.base.draws import number_of
from diq.base.errors import UsageError
from diq.base.files import check_file, write_text
from diq.base.options import verb
from diq.base.summary import Summary
from diq.base.text import amount
from diq.evaluation import benchmarks
from diq.recipes.options import QuestionsOptions

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class QuestionFile(Summary):
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


@verb(QuestionsOptions)
def write_questions(options: QuestionsOptions) -> QuestionFile:
    """Write questions of a benchmark with their right answers, the file appearing whole.


    Raises:
        UsageError: an unknown benchmark, or fewer questions than were asked for.
        InputError: the source cannot be read, or is another benchmark's.
    """
    from diq.evaluation.questions import load_questions

    output = Path(options.output)
    check_file(output)
    known = benchmarks.benchmark(options.benchmark)
    known = replace(known, split=(options.splits or {}).get(options.benchmark, known.split))
    source = (options.sources or {}).get(options.benchmark)
    found = load_questions(known, source, allow_bad_rows=options.allow_bad_rows).questions
    available = len(found)
    if options.sample is not None and options.sample > len(found):
        raise UsageError(
            f"{amount(options.sample, 'question')} of {options.benchmark} were asked for, the source has "
            f"{len(found):,}",
            "ask for fewer",
        )
    if options.sample is not None:
        drawn = sorted(found, key=lambda one: number_of(f"{options.seed} {one.question}", n_bytes=16))
        found = tuple(drawn[: options.sample])
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
    if options.progress:
        options.progress(options.benchmark, len(found), len(found))
    return QuestionFile(options.benchmark, str(output), len(found), available)
