"""One sample of a store: by its id, the beginning of it, or its row in a dataset."""

from __future__ import annotations

from typing import Any

from diq.base.errors import UsageError
from diq.store.store import Store

_SHORTEST_PREFIX = 6
_SHOWN_IDS = 5


def sample_at(opened: Store, dataset: str, position: int) -> dict[str, Any]:
    """The sample that a row of a dataset holds, or repeats.

    Returns:
        ``sample_id``, and ``messages`` and ``rejected`` as JSON.

    Raises:
        UsageError: the row is no sample.
        StoreError: there is no such dataset.
    """
    data = opened.dataset(dataset)
    row = opened.row("samples/sample_at_position", dataset_id=data["dataset_id"], position=position)
    if row is None:
        raise UsageError(
            f"the dataset `{dataset}` has no sample at position {position}",
            "positions count every row that was read, from 0; `diq sql 'from rejects'` shows rows without a sample",
        )
    return find_sample(opened, str(row["sample_id"]))


def find_sample(opened: Store, text: str) -> dict[str, Any]:
    """The one sample whose id begins with a text.

    Returns:
        As :func:`sample_at`.

    Raises:
        UsageError: the text is no beginning of an id, or of none or several.
    """
    digits = text.strip().lower().replace("-", "")
    if not _SHORTEST_PREFIX <= len(digits) <= 32 or digits.strip("0123456789abcdef"):
        raise UsageError(
            f"`{text}` is not a sample id", f"give its first {_SHORTEST_PREFIX} or more hexadecimal digits, or all 32"
        )
    found = opened.rows(
        "samples/find_samples", first=digits.ljust(32, "0"), last=digits.ljust(32, "f"), n=_SHOWN_IDS + 1
    )
    if not found:
        raise UsageError(
            f"there is no sample `{text}` in `{opened.path}`",
            "`diq sql 'from dataset_samples'` lists ids; --position N names a row of a dataset",
        )
    if len(found) > 1:
        listed = ", ".join(one["sample_id"] for one in found[:_SHOWN_IDS])
        more = ", ..." if len(found) > _SHOWN_IDS else ""
        raise UsageError(f"`{text}` fits several samples: {listed}{more}", "give more digits")
    return found[0]
