"""What ``diq ingest`` and ``diq show`` take."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from diq.base.options import (
    AnswersOf,
    ChatTemplate,
    ChatTemplateKwargs,
    DatasetName,
    Excludes,
    InStore,
    MaxLength,
    Needs,
    Option,
    check_name,
)

EXTERNAL = "external"
"""Method of runs that were computed elsewhere, and the validation set of their dots."""

_OF_SCORES, _OF_SAMPLES = Needs("scores"), Excludes("scores")


@dataclass(frozen=True)
class IngestOptions(InStore):
    """Options of ``diq ingest``."""

    sources: Annotated[
        Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
        Option(
            "Files, globs, folders, saved dataset folders, hub ids, or FOLDER:NAME of a folder with dataset_info.json.",
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
            "Columns of an unknown layout, such as prompt=frage,answer=antwort, or paths (prompt=data.turns.user); "
            "roles are system, prompt, input, context, history, reasoning, answer, messages, tools, chosen, rejected, "
            "options, label. Repeat or separate by commas.",
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
        Option("Validation set of the dots of a score file.", metavar="NAME", default=EXTERNAL, check=check_name),
        _OF_SCORES,
    ] = None
    replace: Annotated[bool, Option("Take the new value where the store has another score."), _OF_SCORES] = False


_SEEN = Needs("model")


@dataclass(frozen=True)
class ShowOptions(InStore):
    """Options of ``diq show``."""

    dataset: DatasetName
    sample_id: Annotated[
        str | None,
        Option(
            "Id of a sample in the dataset, or its first 6 or more hexadecimal digits.",
            positional=True,
            default="the first sample",
        ),
    ] = None
    _: KW_ONLY
    position: Annotated[int | None, Option("0-based row of the dataset, in place of SAMPLE_ID.", metavar="N")] = None
    model: Annotated[
        str | os.PathLike[str] | None,
        Option(
            "Show the sample as this causal language model sees it, too; its tokenizer and config alone are loaded.",
            metavar="FOLDER|ID",
            reads="model",
        ),
    ] = None
    max_length: Annotated[MaxLength, _SEEN] = None
    template: Annotated[ChatTemplate, _SEEN] = None
    chat_template_kwargs: Annotated[ChatTemplateKwargs, _SEEN] = ()
    turns: Annotated[AnswersOf, _SEEN] = "last"
