"""What a step may say: the verbs, and for each the record of the options that its stage takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from diq.base.command import option_words
from diq.base.options import BadValueError, Field, fields_of


@dataclass(frozen=True, slots=True)
class Verb:
    """A step's verb.

    Attributes:
        stage: the function that is called, ``module:name``.
        record: its options, ``module:name``; importing that module loads no model library.
        command: words of the command that does the same; empty where there is none.
        fixed: options that the verb itself gives.
        always: whether the step runs each time, because it only shows what is there.
    """

    stage: str
    record: str
    command: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    always: bool = False

    @property
    def options(self) -> dict[str, Field]:
        """The fields of its record."""
        return fields_of(look_up(self.record))


VERBS: dict[str, Verb] = {
    "demo data": Verb("diq.demo.make:make_demo_data", "diq.demo.options:DemoDataOptions"),
    "ingest": Verb("diq.samples.ingest:ingest", "diq.samples.options:IngestOptions", ("ingest",)),
    "difficulty annotate": Verb(
        "diq.difficulty.annotate:annotate", "diq.difficulty.options:AnnotateOptions", ("difficulty", "annotate")
    ),
    "difficulty train": Verb(
        "diq.difficulty.train:train_difficulty",
        "diq.difficulty.options:TrainDifficultyOptions",
        ("difficulty", "train"),
    ),
    "score difficulty": Verb(
        "diq.difficulty.score:score_difficulty",
        "diq.difficulty.options:ScoreDifficultyOptions",
        ("score", "difficulty"),
    ),
    "warm up": Verb("diq.training.warm_up:warm_up", "diq.training.options:WarmUpOptions"),
    "score influence": Verb(
        "diq.influence.score:score_influence", "diq.influence.options:ScoreInfluenceOptions", ("score", "influence")
    ),
    "score perplexity": Verb(
        "diq.baselines.score_perplexity:score_perplexity",
        "diq.baselines.options:ScorePerplexityOptions",
        ("score", "perplexity"),
    ),
    "score length": Verb(
        "diq.baselines.score_length:score_length", "diq.baselines.options:ScoreLengthOptions", ("score", "length")
    ),
    "score ifd": Verb("diq.baselines.score_ifd:score_ifd", "diq.baselines.options:ScoreIfdOptions", ("score", "ifd")),
    "score bm25": Verb(
        "diq.baselines.score_bm25:score_bm25", "diq.baselines.options:ScoreBm25Options", ("score", "bm25")
    ),
    "score rds": Verb("diq.baselines.score_rds:score_rds", "diq.baselines.options:ScoreRdsOptions", ("score", "rds")),
    "score pass-rate": Verb(
        "diq.evaluation.pass_rate:score_pass_rate",
        "diq.evaluation.options:ScorePassRateOptions",
        ("score", "pass-rate"),
    ),
    "score similarity": Verb(
        "diq.baselines.similarity:score_similarity",
        "diq.baselines.options:ScoreSimilarityOptions",
        ("score", "similarity"),
    ),
    "score rater": Verb("diq.rater.score:score_rater", "diq.rater.options:ScoreRaterOptions", ("score", "influence")),
    "rater train": Verb("diq.rater.train:train_rater", "diq.rater.options:TrainRaterOptions", ("rater", "train")),
    "select": Verb("diq.selection.select:select", "diq.selection.options:SelectOptions", ("select",)),
    "sql": Verb("diq.store.sql:write_answer", "diq.store.options:SqlOptions", ("sql",), always=True),
    "train": Verb("diq.training.train:train", "diq.training.options:TrainOptions", ("train",)),
    "benchmark questions": Verb("diq.recipes.questions:write_questions", "diq.recipes.options:QuestionsOptions"),
    "results": Verb(
        "diq.evaluation.results:results", "diq.evaluation.options:ResultsOptions", ("results",), always=True
    ),
    "report": Verb("diq.reporting.report:report", "diq.reporting.options:ReportOptions", ("report",), always=True),
    # what was trained is found, and a budget may leave some for the next time
    "validate": Verb("diq.trials.validate:validate", "diq.trials.options:ValidateOptions", ("validate",), always=True),
    "evaluate": Verb("diq.evaluation.evaluate:evaluate", "diq.evaluation.options:EvaluateOptions", ("evaluate",)),
    **{
        f"judge {rubric}": Verb(
            "diq.judging.judge:judge", "diq.judging.options:JudgeOptions", ("judge", rubric), {"rubric": rubric}
        )
        for rubric in ("reasoning", "clinical")
    },
}


def look_up(name: str) -> Any:
    """What ``module:name`` names."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


@cache
def parameters(name: str) -> dict[str, Field]:
    """What a verb takes, by keyword: the options of its record but those that the recipe or the verb gives.

    Fields of a nested record, such as the server of a judge, stand beside the others.
    """
    verb = VERBS[name]
    found: dict[str, Field] = {}
    for key, one in verb.options.items():
        if one.record is not None:
            found |= fields_of(one.record)
        elif not one.option.given and one.kind != "other" and key not in verb.fixed:
            found[key] = one
    return found


def given(name: str) -> list[str]:
    """Options of a verb that the recipe gives itself: the store and the progress."""
    return [key for key, one in VERBS[name].options.items() if one.option.given]


def idle_options(name: str, options: Mapping[str, Any]) -> dict[str, BadValueError]:
    """The options of a step that have no effect beside the others, each with what is to be said of it."""
    verb = VERBS[name]
    values = {key: one.default for key, one in verb.options.items()} | {**verb.fixed, **options}
    return {field.name: told for field, told in look_up(verb.record).idle(values, options)}


def effective(name: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of a step without those that have no effect."""
    while left_out := idle_options(name, options):
        options = {key: value for key, value in options.items() if key not in left_out}
    return options


def keywords(name: str, options: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """What a verb's stage and its record are called with.

    Args:
        name: the verb.
        options: of the step.
        given: the store and the progress; a stage without a store is not given one.
    """
    verb, options = VERBS[name], effective(name, options)
    found: dict[str, Any] = dict(verb.fixed)
    for key, one in verb.options.items():
        if one.record is not None:
            inner = {each: options[each] for each in fields_of(one.record) if each in options}
            found[key] = one.record(**inner)
        elif key in options:
            found[key] = options[key]
        elif key in given:
            found[key] = given[key]
    return found


def command(name: str, options: Mapping[str, Any], store: Path) -> list[str]:
    """Words of the command line that does what a step does; empty where there is none."""
    verb = VERBS[name]
    if not verb.command:
        return []
    return ["diq", *verb.command, *option_words(parameters(name), effective(name, options)), "--store", str(store)]
