"""What ``--diverse-by`` names: embeddings that are kept beside the store, or the rows of a gradient index."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from diq.base.errors import UsageError
from diq.base.progress import Progress
from diq.base.sample import Message
from diq.baselines.similarity import find_encoder
from diq.encoders.kept import KeptEmbeddings, RowsById
from diq.encoders.options import Text
from diq.gradient_index.index import INDEX_FILE, GradientIndex
from diq.gradient_index.kept import folder_of
from diq.store.connection import WAIT_S
from diq.store.store import Store


class Vectors(Protocol):
    """Unit vectors of samples.

    Attributes:
        identity: what decides the vectors.
    """

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides the vectors."""
        ...

    def missing(self, sample_ids: Sequence[str]) -> list[int]:
        """Places in a list of ids of those whose vector is to be made first."""
        ...

    def make(self, samples: Mapping[str, Sequence[Message]]) -> None:
        """Make the vectors of samples."""
        ...

    def of(self, sample_ids: Sequence[str]) -> npt.NDArray[np.float32]:
        """``[n, dim]``; zeros where there is none."""
        ...


class IndexVectors:
    """Projected gradients of an index; a sample that it lacks has no vector."""

    def __init__(self, folder: Path) -> None:
        index = GradientIndex.open(folder)
        self.identity = {"what": "gradients", "index": index.fingerprint}
        self._rows = RowsById(index)

    def missing(self, sample_ids: Sequence[str]) -> list[int]:
        """See ``Vectors``: nothing can be made."""
        return []

    def make(self, samples: Mapping[str, Sequence[Message]]) -> None:
        """See ``Vectors``."""

    def of(self, sample_ids: Sequence[str]) -> npt.NDArray[np.float32]:
        """See ``Vectors``."""
        return self._rows.of(sample_ids)


def open_vectors(store: Path, by: str | os.PathLike[str], text: Text, progress: Progress) -> Vectors:
    """Find what ``--diverse-by`` names: number of a run or folder with a gradient index, else an encoder.

    Raises:
        UsageError: the run has no gradient index.
        InputError: its folder holds none.
        ModelError: there is no such encoder.
    """
    name = os.fspath(by)
    if (Path(name) / INDEX_FILE).exists():
        return IndexVectors(Path(name))
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        if name.isdecimal():
            found = opened.row("selection/folder_of_index", run_id=int(name))
            if found is None:
                raise UsageError(
                    f"--diverse-by {name}: run {name} has no gradient index",
                    "name a run of `diq score influence --method projected`, its folder, or an encoder",
                )
            run = opened.row("store/get_run", run_id=int(name))
            assert run is not None
            return IndexVectors(folder_of(opened, store, int(name), run["fingerprint"]))
        sources = {row["name"]: row["source"] for row in opened.rows("store/list_models")}
    # an encoder goes by its name in the store too, as far as its folder is still there
    known = sources.get(name)
    there = known is not None and not Path(name).exists() and Path(known).is_dir()
    return KeptEmbeddings(store, find_encoder(known if there and known else name), text, progress)
