"""The step ``results``: the table of ``diq results`` as a file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diq.base.errors import UsageError
from diq.base.files import check_file, write_text
from diq.base.progress import Progress


@dataclass(frozen=True, slots=True)
class ResultsFile:
    """What was written.

    Attributes:
        output: the file.
        n_models: rows of models in it.
        n_published: rows of the paper in it.
    """

    output: str
    n_models: int
    n_published: int

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def write_results(
    store: str | Path,
    *,
    output: Path,
    dataset: str | None = None,
    model: str | None = None,
    scoring: str | None = None,
    published: str | None = None,
    progress: Progress | None = None,
) -> ResultsFile:
    """Write evaluations side by side.

    Args:
        store: the store file.
        output: ``.md``, ``.csv`` or ``.tex`` file, made or replaced.
        dataset: as in :func:`diq.evaluation.results.results`.
        model: likewise.
        scoring: likewise.
        published: rows of the paper to show as well.
        progress: not used: it takes no time.

    Raises:
        UsageError: unknown names, nothing was evaluated, or a file of another kind.
    """
    from diq.evaluation.results import results as find_results
    from diq.evaluation.tables import csv_text, latex, markdown

    makers = {".md": markdown, ".csv": csv_text, ".tex": latex}
    if output.suffix not in makers:
        raise UsageError(f"the output `{output}` is neither .md, .csv nor .tex", "name another file")
    check_file(output, store=Path(store))
    found = find_results(store, dataset=dataset, model=model, scoring=scoring, paper=published)
    write_text(output, makers[output.suffix](found))
    counts = [sum(len(group.rows) for group in groups) for groups in (found.groups, found.published)]
    return ResultsFile(str(output), *counts)
