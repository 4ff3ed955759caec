"""Which extra of the package brings a library that the base install does without."""

from __future__ import annotations

from diq.base.errors import UsageError

EXTRAS = {
    "datasets": "hub",
    "torch": "score",
    "transformers": "score",
    "safetensors": "score",
    "sklearn": "score",
    "sentence_transformers": "score",
    "peft": "train",
    "trl": "train",
    "accelerate": "train",
    "openai": "judge",
    "scipy": "judge",
    "lm_eval": "eval",
    "altair": "report",
    "vl_convert": "report",
    "starlette": "explore",
    "uvicorn": "explore",
}


def missing_package(verb: str, error: ModuleNotFoundError) -> UsageError | None:
    """What to tell a user whose install lacks a library; None where no extra brings it."""
    extra = EXTRAS.get((error.name or "").partition(".")[0])
    if extra is None:
        return None
    return UsageError(
        f"`{verb}` needs the package `{error.name}`, which is not installed", f"run `pip install 'diq[{extra}]'`"
    )
