"""Stage: fine-tune a model on a selection: ``job`` is the stage, ``worker`` its steps."""

from diq.errors import UsageError

try:
    from diq.train.job import TrainSummary, run
    from diq.train.validation import validation_losses
except ModuleNotFoundError as error:
    raise UsageError(f"training needs the package `{error.name}`", "run `pip install 'diq[train]'`") from error

__all__ = ["TrainSummary", "run", "validation_losses"]
