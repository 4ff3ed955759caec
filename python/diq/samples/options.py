"""What ``diq ingest`` takes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from diq.base.options import Excludes, InStore, Needs, Option, check_name

_OF_SCORES, _OF_SAMPLES = Needs("scores"), Excludes("scores")


@dataclass(frozen=True)
class IngestOptions(InStore):
    """Options of ``diq ingest``."""

    sources: Annotated[
        Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
        Option(
            "Files, globs, folders, saved dataset folders or hub ids.",
            metavar="SOURCE...",
            positional=True,
            reads="source",
        ),
    ]
    _: KW_ONLY
    dataset: Annotated[
        str,
        Option("Dataset to make or add to (or to give scores to).", metavar="NAME", writes="dataset", check=check_name),
    ]
    format: Annotated[
        str | None,
        Option("Layout of the rows, such as alpaca or sharegpt.", metavar="LAYOUT", default="detected"),
        _OF_SAMPLES,
    ] = None
    map: Annotated[
        Mapping[str, str] | None,
        Option(
            "Columns of an unknown layout, such as prompt=frage,answer=antwort; roles are system, prompt, reasoning, "
            "answer, messages, chosen, rejected, options, label. Repeat or separate by commas.",
            metavar="ROLE=COLUMN",
        ),
    ] = None
    split: Annotated[
        str | None,
        Option(
            "Split to read of a hub id, a dataset folder, or a folder or glob whose files are named after splits; "
            "recorded with the samples.",
            metavar="NAME",
        ),
    ] = None
    validation: Annotated[bool, Option("Make a validation set of the same name."), _OF_SAMPLES] = False
    sample: Annotated[
        int | None,
        Option(
            "Draw N samples for the validation set, by the seed and the samples' ids alone.",
            metavar="N",
            default="all",
            least=1,
        ),
        Needs("validation"),
    ] = None
    seed: Annotated[
        int, Option("Seed of the draw.", least=0, most=2**63 - 1, hint="give another --seed"), Needs("sample")
    ] = 0
    drop_reasoning: Annotated[
        bool,
        Option("Question-and-answer variant: without the reasoning part, and no leading <think>...</think>."),
        _OF_SAMPLES,
    ] = False
    scores: Annotated[
        bool,
        Option(
            "SOURCE holds scores of the dataset: sample_id or position, and any of knowledge, reasoning, overall, dot, "
            "perplexity, similarity."
        ),
    ] = False
    model: Annotated[
        str | None,
        Option("Model that the dots or perplexities of a score file belong to.", metavar="NAME", check=check_name),
        _OF_SCORES,
    ] = None
    validation_set: Annotated[
        str | None,
        Option("Validation set of the dots of a score file.", metavar="NAME", default="external", check=check_name),
        _OF_SCORES,
    ] = None
    replace: Annotated[bool, Option("Take the new value where the store has another score."), _OF_SCORES] = False
