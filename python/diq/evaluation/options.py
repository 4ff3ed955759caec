"""What ``diq evaluate``, ``diq results`` and ``diq score pass-rate`` take."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Literal

from diq.base.config import MAX_LENGTH
from diq.base.errors import UsageError
from diq.base.options import (
    ChatTemplateKwargs,
    DatasetName,
    Device,
    Dtype,
    Excludes,
    InStore,
    Needs,
    Option,
    ToldWithNote,
    check_name,
)
from diq.judging.options import BaseUrl, Concurrency, KeyVariable, Retries, Timeout

Backend = Literal["hf", "vllm", "server"]
Template = Literal["auto", "none"]
Format = Literal["table", "markdown", "csv", "latex", "json"]

# a server decodes by its own template and seed, on its own hardware
_OF_SERVERS, _NOT_OF_SERVERS = Needs("backend", ("server",)), Excludes("backend", ("server",))
_OF_DRAWS = Needs("temperature")

ThinkingTags = Annotated[
    Sequence[str],
    Option(
        "What opens and closes a model's thinking, beside the tags that are known; part of the version of the rules. "
        "Repeat for several.",
        metavar="OPEN=CLOSE",
    ),
]

SUFFIXES: dict[str, Format] = {".md": "markdown", ".csv": "csv", ".tex": "latex", ".json": "json"}
"""Format of a file of results, by its suffix."""


@dataclass(frozen=True, kw_only=True)
class AnsweringOptions(InStore):
    """Who answers questions, and how; the answers lie beside the store in ``STEM.generations``."""

    model: Annotated[
        str | os.PathLike[str],
        Option(
            "Model: a folder, a hub id, or its name on the server.", metavar="FOLDER|ID|NAME", reads="model", name=True
        ),
    ]
    adapter: Annotated[
        str | os.PathLike[str] | None,
        Option(
            "LoRA adapter of the model, or a folder with all weights that came of it.",
            metavar="DIR",
            reads="model",
            name=True,
        ),
        _NOT_OF_SERVERS,
    ] = None
    max_tokens: Annotated[int, Option("Tokens of an answer, thinking included. Part of the run.", least=1)] = 4096
    temperature: Annotated[
        float | None,
        Option(
            "0 takes the likeliest token; `default` (None) leaves it to the server. Part of the run.",
            metavar="NUMBER",
            least=0,
            none="default",
        ),
    ] = 0.0
    top_p: Annotated[
        float, Option("Share of the likeliest tokens to draw from.", above=0, most=1), _NOT_OF_SERVERS, _OF_DRAWS
    ] = 1.0
    seed: Annotated[
        int, Option("Seed of the first repeat; the others count on.", least=0), _NOT_OF_SERVERS, _OF_DRAWS
    ] = 0
    template: Annotated[
        Template,
        Option("auto uses the tokenizer's chat template; none the plain Question/Answer form."),
        _NOT_OF_SERVERS,
    ] = "auto"
    chat_template_kwargs: Annotated[ChatTemplateKwargs, _NOT_OF_SERVERS] = ()
    max_length: Annotated[int, Option("Tokens of a prompt and its answer together.", least=2), _NOT_OF_SERVERS] = (
        MAX_LENGTH
    )
    backend: Annotated[Backend, Option("transformers, vLLM, or an OpenAI-compatible server.")] = "hf"
    batch_size: Annotated[
        int, Option("Prompts at once (hf). Changes speed, not the run.", least=1), Needs("backend", ("hf",))
    ] = 8
    base_url: Annotated[BaseUrl, _OF_SERVERS] = None
    api_key_variable: Annotated[KeyVariable, _OF_SERVERS] = "OPENAI_API_KEY"
    concurrency: Annotated[Concurrency, _OF_SERVERS] = 8
    timeout: Annotated[Timeout, _OF_SERVERS] = 600.0
    retries: Annotated[Retries, _OF_SERVERS] = 6
    thinking_tags: ThinkingTags = ()
    model_name: Annotated[
        str | None,
        Option(
            "Name of the model in the store.",
            metavar="NAME",
            default="its id, folder or name on the server",
            check=check_name,
        ),
    ] = None
    device: Annotated[Device, _NOT_OF_SERVERS] = "auto"
    dtype: Annotated[Dtype, _NOT_OF_SERVERS] = "auto"
    progress: ToldWithNote = None


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(AnsweringOptions):
    """Options of ``diq evaluate``."""

    benchmark: Annotated[
        Sequence[str],
        Option(
            "Ask this benchmark, from its hub id or from a file, folder or other hub id. Repeat for several.",
            metavar="NAME|NAME=SOURCE",
            default="all nine: medqa, medmcqa, mmlu_pro, hle, medbullets4, medbullets5, medxpertqa, medguide, "
            "metamedqa",
            named=True,
            reads="source",
        ),
    ] = ()
    sources: Annotated[
        Mapping[str, str] | None,
        Option(
            "Files, folders or hub ids by benchmark, in place of their own; names that are not asked are ignored.",
            metavar="NAME=SOURCE",
            reads="source",
        ),
    ] = None
    repeat: Annotated[int, Option("Ask everything so often.", metavar="N", least=1)] = 1
    limit: Annotated[
        int | None, Option("The first questions of each benchmark alone, for a trial.", metavar="N", least=1)
    ] = None
    few_shot: Annotated[int, Option("Examples before each question; see --examples.", metavar="N", least=0)] = 0
    examples: Annotated[
        Sequence[str],
        Option(
            "File of a benchmark's validation split, whose first questions are its examples. Repeat for several.",
            metavar="NAME=FILE",
            named=True,
            reads="source",
        ),
        Needs("few_shot"),
    ] = ()
    allow_bad_rows: Annotated[bool, Option("Go on without the rows of a benchmark that hold no question.")] = False


@dataclass(frozen=True)
class ScorePassRateOptions(AnsweringOptions):
    """Options of ``diq score pass-rate``."""

    dataset: DatasetName
    _: KW_ONLY
    samples: Annotated[
        int, Option("Answers that are drawn to each question. Part of the run.", metavar="K", least=2)
    ] = 8
    temperature: Annotated[
        float | None,
        Option(
            "Of the drawing; `default` (None) leaves it to the server. Part of the run.",
            metavar="NUMBER",
            above=0,
            none="default",
        ),
    ] = 1.0


@dataclass(frozen=True, kw_only=True)
class RescoreOptions(InStore):
    """Options of ``diq evaluate --rescore``."""

    run: Annotated[int | None, Option("Mark this evaluation alone again.", metavar="NUMBER", default="all")] = None
    thinking_tags: ThinkingTags = ()
    progress: ToldWithNote = None


@dataclass(frozen=True, kw_only=True)
class ResultsOptions(InStore):
    """Options of ``diq results``.

    Raises:
        UsageError: the output and its format do not go together.
    """

    dataset: Annotated[
        str | None, Option("Only models trained on this dataset, and those that nothing trained.", metavar="NAME")
    ] = None
    model: Annotated[str | None, Option("Only this base model, or this one model.", metavar="NAME")] = None
    published: Annotated[
        str | None,
        Option(
            "Also rows of the paper: a table (1, 4, 5, 8 to 13), a dataset (huatuo) or a model (qwen3-8b).",
            metavar="NAME",
        ),
    ] = None
    scoring: Annotated[
        str | None,
        Option("Version of the rules that read the answers.", metavar="VERSION", default="the latest in the store"),
    ] = None
    format: Annotated[
        Format | None, Option("How it is printed, or written.", default="table, or by the suffix of --output")
    ] = None
    output: Annotated[
        str | os.PathLike[str] | None,
        Option(".md, .csv, .tex or .json file to write.", metavar="FILE", short="o", writes="path"),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output is None:
            return
        made = self.format or SUFFIXES.get(Path(self.output).suffix)
        if made is None:
            raise UsageError(
                f"the output `{self.output}` is neither .md, .csv, .tex nor .json", "name another, or give --format"
            )
        if made == "table":
            raise UsageError(
                "a table cannot be written to a file", "leave --format out, or give markdown, csv or latex"
            )
        object.__setattr__(self, "format", made)
