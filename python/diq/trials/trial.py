"""One trial: a short training on some samples of a dataset, and the loss of every validation sample after it.

A trial is a run of its own in the store (kind ``trial``), named by what was trained on and how; one that is there is
not trained again. The trained weights are not kept.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from diq.base.arrow import numbers
from diq.base.fingerprint import begun, canonical_json, fingerprint_of, run_fingerprint
from diq.base.options import Turns
from diq.base.progress import Progress
from diq.base.sample import Message
from diq.models.device import describe_environment, pick_device, pick_dtype, quiet_libraries
from diq.models.network import load_causal_lm
from diq.models.source import ModelSource
from diq.models.tokens import Tokenization
from diq.store.connection import WAIT_S
from diq.store.store import Store
from diq.training.data import Texts, tokenize
from diq.training.output_folder import OutputFolder
from diq.training.validation import sample_losses
from diq.training.worker import Plan, run_plan

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial found.

    Attributes:
        run_id: run in the store.
        losses: of each validation set, ``[n]`` loss of its samples after the training, nats.
        seconds: that the training took, when it was done.
        tokens: that were trained on, passes included.
        is_new: whether it was trained by this call.
    """

    run_id: int
    losses: dict[str, npt.NDArray[np.float64]]
    seconds: float
    tokens: float
    is_new: bool


@dataclass(frozen=True, slots=True)
class Bench:
    """What all trials of a validation have in common.

    Attributes:
        store: the store file.
        data: row of the dataset.
        position: ``[n]`` of its samples, ascending.
        ids: ``[n, 16]`` theirs.
        source: the model that is trained.
        settings: of every training.
        tokenization: how samples become tokens.
        template: as asked for.
        template_kwargs: as asked for.
        turns: as asked for.
        validation: conversations of each validation set.
        device: as asked for.
        progress: called with what is done and to do.
    """

    store: Path
    data: Mapping[str, Any]
    position: npt.NDArray[np.int64]
    ids: npt.NDArray[np.uint8]
    source: ModelSource
    settings: dict[str, Any]
    tokenization: Tokenization
    template: str
    template_kwargs: tuple[str, ...]
    turns: Turns
    validation: dict[str, list[list[Message]]]
    device: str
    progress: Progress | None

    def find(self, rows: npt.NDArray[np.int64], seed: int) -> Outcome | None:
        """The trial on some rows of the dataset, where it was made before."""
        with Store(self.store, read_only=True, wait_s=WAIT_S) as opened:
            row = opened.row("store/get_run_by_fingerprint", fingerprint=self._identity(rows, seed)[0])
        if row is None or row["result"] is None:
            return None
        found = orjson.loads(row["result"])
        losses = {name: np.asarray(one, np.float64) for name, one in found["losses"].items()}
        return Outcome(int(row["run_id"]), losses, found["seconds"], found["tokens"], False)

    def run(self, rows: npt.NDArray[np.int64], seed: int) -> Outcome:
        """The trial on some rows of the dataset, trained unless it was made before; on none: before any training.

        Raises:
            UsageError: none of the samples can be trained on.
            RunFailedError: a loss that is not a number, or no memory.
        """
        known = self.find(rows, seed)
        if known is not None:
            return known
        fingerprint, settings = self._identity(rows, seed)
        folder = self.store.with_name(f"{self.store.name}.trials") / fingerprint[:12]
        try:
            with quiet_libraries():
                outcome = self._train(folder, rows, settings) if len(rows) else self._untrained()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        with Store(self.store, wait_s=WAIT_S) as opened, opened.transaction():
            opened.add_model(
                model_id=self.source.model_id,
                name=self.source.name,
                source=self.source.source,
                architecture=None,
                n_parameters=None,
            )
            run_id = opened.open_run(
                kind="trial",
                method="sft",
                model_id=self.source.model_id,
                fingerprint=fingerprint,
                settings=settings,
                environment=describe_environment(pick_device(self.device)),
            )
            opened.run("store/update_run_result", run_id=run_id, result=canonical_json(outcome))
        losses = {name: np.asarray(one, np.float64) for name, one in outcome["losses"].items()}
        return Outcome(run_id, losses, outcome["seconds"], outcome["tokens"], True)

    def _identity(self, rows: npt.NDArray[np.int64], seed: int) -> tuple[str, dict[str, Any]]:
        settings = {
            **self.settings,
            "seed": seed,
            "dataset": self.data["name"],
            # whatever their order: that of the training is its seed's
            "samples": hashed(self.ids[np.sort(rows)]),
            "n_samples": len(rows),
            "validation": fingerprint_of(canonical_json(self.validation)),
            "dtype": pick_dtype(self.settings["dtype"], pick_device(self.device)),
            **self.tokenization.settings(),
        }
        return run_fingerprint("trial", "sft", self.source.model_id, settings), settings

    def _untrained(self) -> dict[str, Any]:
        network = load_causal_lm(self.source, dtype=self.settings["dtype"], device=self.device)
        losses = sample_losses(network, self.tokenization, self.validation)
        return {"losses": {name: one.tolist() for name, one in losses.items()}, "seconds": 0.0, "tokens": 0}

    def _train(self, folder: Path, rows: npt.NDArray[np.int64], settings: dict[str, Any]) -> dict[str, Any]:
        shutil.rmtree(folder, ignore_errors=True)
        with Texts() as texts, OutputFolder(folder) as output:
            for messages in self._messages(rows):
                texts.add(messages, None)
            output.write_record({"state": "training", "fingerprint": fingerprint_of(canonical_json(settings))})
            tokens = tokenize(texts, self.tokenization, "sft", output.unfinished / "tokens.arrow", None)
            plan = Plan(
                source=self.source,
                start=None,
                output=folder.absolute(),
                tokens=tokens.path.absolute(),
                longest=tokens.longest,
                n=tokens.n,
                method="sft",
                settings=settings,
                micro_batch_size=None,
                save_steps=None,
                gradient_checkpointing=None,
                attention=None,
                device=pick_device(self.device).type,
                devices=1,
                report_to=(),
                template=self.template,
                template_kwargs=self.template_kwargs,
                turns=self.turns,
                validation=self.validation,
                is_trial=True,
            )
            outcome = run_plan(plan, None)
        return {
            "losses": outcome["losses"],
            "seconds": outcome["curve"][-1]["seconds"],
            "tokens": tokens.tokens * settings["epochs"],
            "steps": outcome["steps"],
            "n_left_out": sum(tokens.reasons.values()),
        }

    def _messages(self, rows: npt.NDArray[np.int64]) -> list[list[Message]]:
        """Texts of some rows, in the order of the dataset."""
        positions = self.position[np.sort(rows)].tolist()
        with Store(self.store, read_only=True, wait_s=WAIT_S) as opened:
            found = opened.arrow("store/texts_at_positions", dataset_id=self.data["dataset_id"], positions=positions)
        texts = found.column("messages").to_pylist()
        return [orjson.loads(texts[row]) for row in np.argsort(numbers(found.column("position")))]


def hashed(ids: npt.NDArray[np.uint8]) -> str:
    """Fingerprint of the ids of some samples, in their order."""
    digest = begun()
    digest.update(np.ascontiguousarray(ids).tobytes())
    return digest.hexdigest()
