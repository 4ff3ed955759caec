"""The commands that make what is missing of a score, as they are typed; what dots miss is in `influence/stored.py`."""

from __future__ import annotations

from diq.base.command import shell
from diq.samples.options import EXTERNAL


def difficulty_command(dataset: str, method: str = "classifier") -> str:
    """The command that gives samples of a dataset the difficulty that they lack in a run.

    Args:
        dataset: its name.
        method: of the run.
    """
    words = {
        EXTERNAL: ["ingest", "FILE", "--scores", "--dataset", dataset],
        "annotation": ["difficulty", "annotate", dataset, "--model", "MODEL"],
        "columns": ["score", "difficulty", dataset, "--columns", "DIMENSION=COLUMN"],
    }.get(method, ["score", "difficulty", dataset, "--model", "CLASSIFIER"])
    return shell(["diq", *words])
