"""Options of how models are run, for the records of verbs that run one; loads no model library."""

from __future__ import annotations

from diq.base.options import Option
from diq.models.memory import Work, default_budget


def batch_tokens(work: Work) -> Option:
    """The option ``--batch-tokens``, with the defaults of a kind of work."""
    cpu, gpu = (default_budget(work, kind) for kind in ("cpu", "cuda"))
    return Option(
        "Padded tokens a batch; what does not fit into memory is halved.",
        metavar="N",
        default=f"{cpu} on a CPU, {gpu} on a GPU",
        least=1,
    )
