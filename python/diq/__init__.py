"""DIQ picks the small part of a fine-tuning set that is worth training on.

The verbs of the command line are functions here (``diq.ingest``, ``diq.score_influence``, ``diq.select``, ...) and are
loaded on first use: ``import diq`` loads no model library.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diq.annotate import run as annotate
    from diq.chat import Server as Server
    from diq.compare import run as compare
    from diq.cost import run as cost
    from diq.errors import DiqError as DiqError
    from diq.evaluate import rescore as rescore
    from diq.evaluate import run as evaluate
    from diq.explain import run as explain
    from diq.ingest import run as ingest
    from diq.judge import run as judge
    from diq.probe import run as probe
    from diq.quadrants import rank as rank
    from diq.recipe import run as run_recipe
    from diq.results import run as results
    from diq.score import score_difficulty as score_difficulty
    from diq.score import score_influence as score_influence
    from diq.score import score_perplexity as score_perplexity
    from diq.score import score_rater as score_rater
    from diq.score import score_similarity as score_similarity
    from diq.select import run as select
    from diq.store import Store as Store
    from diq.train import run as train
    from diq.train_classifier import run as train_difficulty
    from diq.train_rater import run as train_rater
    from diq.warm_up import run as warm_up

__all__ = [
    "DiqError",
    "Server",
    "Store",
    "annotate",
    "compare",
    "cost",
    "evaluate",
    "explain",
    "ingest",
    "judge",
    "probe",
    "rank",
    "rescore",
    "results",
    "run_recipe",
    "score_difficulty",
    "score_influence",
    "score_perplexity",
    "score_rater",
    "score_similarity",
    "select",
    "train",
    "train_difficulty",
    "train_rater",
    "warm_up",
]

_WHERE = {
    "DiqError": ("diq.errors", "DiqError"),
    "Server": ("diq.chat", "Server"),
    "Store": ("diq.store", "Store"),
    "annotate": ("diq.annotate", "run"),
    "compare": ("diq.compare", "run"),
    "cost": ("diq.cost", "run"),
    "evaluate": ("diq.evaluate", "run"),
    "explain": ("diq.explain", "run"),
    "ingest": ("diq.ingest", "run"),
    "judge": ("diq.judge", "run"),
    "probe": ("diq.probe", "run"),
    "rank": ("diq.quadrants", "rank"),
    "rescore": ("diq.evaluate", "rescore"),
    "results": ("diq.results", "run"),
    "run_recipe": ("diq.recipe", "run"),
    "score_difficulty": ("diq.score", "score_difficulty"),
    "score_influence": ("diq.score", "score_influence"),
    "score_perplexity": ("diq.score", "score_perplexity"),
    "score_rater": ("diq.score", "score_rater"),
    "score_similarity": ("diq.score", "score_similarity"),
    "select": ("diq.select", "run"),
    "train": ("diq.train", "run"),
    "train_difficulty": ("diq.train_classifier", "run"),
    "train_rater": ("diq.train_rater", "run"),
    "warm_up": ("diq.warm_up", "run"),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("diq")
    if name not in _WHERE:
        raise AttributeError(f"module 'diq' has no attribute {name!r}")
    module, attribute = _WHERE[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """Keeps ``diq.ingest`` the verb: importing the module ``diq.ingest`` would bind the module to the same name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _WHERE and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
