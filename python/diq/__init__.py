"""DIQ picks the small part of a fine-tuning set that is worth training on.

The verbs of the command line are functions here (``diq.ingest``, ``diq.score_influence``, ``diq.select``, ...) and are
loaded on first use: ``import diq`` loads no model library. No room of the package bears a verb's name.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diq import plot as plot
    from diq.base.errors import DiqError as DiqError
    from diq.baselines.score_bm25 import score_bm25 as score_bm25
    from diq.baselines.score_ifd import score_ifd as score_ifd
    from diq.baselines.score_length import score_length as score_length
    from diq.baselines.score_perplexity import score_perplexity as score_perplexity
    from diq.baselines.score_rds import score_rds as score_rds
    from diq.baselines.similarity import score_similarity as score_similarity
    from diq.costs.cost import cost as cost
    from diq.costs.probe import probe as probe
    from diq.difficulty.annotate import annotate as annotate
    from diq.difficulty.score import score_difficulty as score_difficulty
    from diq.difficulty.train import train_difficulty as train_difficulty
    from diq.evaluation.evaluate import evaluate as evaluate
    from diq.evaluation.pass_rate import score_pass_rate as score_pass_rate
    from diq.evaluation.rescore import rescore as rescore
    from diq.evaluation.results import results as results
    from diq.explorer.explore import explore as explore
    from diq.influence.check_index import check_index as check_index
    from diq.influence.explain import explain as explain
    from diq.influence.score import score_influence as score_influence
    from diq.judging.judge import judge as judge
    from diq.judging.options import Server as Server
    from diq.rater.score import score_rater as score_rater
    from diq.rater.train import train_rater as train_rater
    from diq.recipes.demo import run_demo as run_demo
    from diq.recipes.run import run_recipe as run_recipe
    from diq.reporting.check import check as check
    from diq.reporting.notebook import Store as Store
    from diq.reporting.report import report as report
    from diq.samples.ingest import ingest as ingest
    from diq.samples.show import show as show
    from diq.selection.compare import compare as compare
    from diq.selection.quadrants import rank as rank
    from diq.selection.select import select as select
    from diq.selection.status import status as status
    from diq.store.backup import backup as backup
    from diq.store.sql import sql as sql
    from diq.training.train import train as train
    from diq.training.warm_up import warm_up as warm_up
    from diq.trials.validate import validate as validate

# where each name lives; read by no one else, and a test holds it against the imports above
_WHERE = {
    "DiqError": "diq.base.errors",
    "Server": "diq.judging.options",
    "Store": "diq.reporting.notebook",
    "annotate": "diq.difficulty.annotate",
    "backup": "diq.store.backup",
    "check": "diq.reporting.check",
    "check_index": "diq.influence.check_index",
    "compare": "diq.selection.compare",
    "cost": "diq.costs.cost",
    "evaluate": "diq.evaluation.evaluate",
    "explain": "diq.influence.explain",
    "explore": "diq.explorer.explore",
    "ingest": "diq.samples.ingest",
    "judge": "diq.judging.judge",
    "probe": "diq.costs.probe",
    "rank": "diq.selection.quadrants",
    "report": "diq.reporting.report",
    "rescore": "diq.evaluation.rescore",
    "results": "diq.evaluation.results",
    "run_demo": "diq.recipes.demo",
    "run_recipe": "diq.recipes.run",
    "score_bm25": "diq.baselines.score_bm25",
    "score_difficulty": "diq.difficulty.score",
    "score_ifd": "diq.baselines.score_ifd",
    "score_influence": "diq.influence.score",
    "score_length": "diq.baselines.score_length",
    "score_pass_rate": "diq.evaluation.pass_rate",
    "score_perplexity": "diq.baselines.score_perplexity",
    "score_rater": "diq.rater.score",
    "score_rds": "diq.baselines.score_rds",
    "score_similarity": "diq.baselines.similarity",
    "select": "diq.selection.select",
    "show": "diq.samples.show",
    "sql": "diq.store.sql",
    "status": "diq.selection.status",
    "train": "diq.training.train",
    "train_difficulty": "diq.difficulty.train",
    "train_rater": "diq.rater.train",
    "validate": "diq.trials.validate",
    "warm_up": "diq.training.warm_up",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("diq")
    if name == "plot":
        return import_module("diq.plot")
    if name not in _WHERE:
        raise AttributeError(f"module 'diq' has no attribute {name!r}")
    try:
        value = getattr(import_module(_WHERE[name]), name)
    except ModuleNotFoundError as error:
        from diq.base.extras import missing_package

        told = missing_package(name, error)
        if told is None:
            raise
        raise told from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_WHERE, "plot", "__version__"])
