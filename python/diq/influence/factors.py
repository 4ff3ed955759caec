"""Factors of a preconditioner: which samples they are taken of, where they are kept, and the passes that make them.

They lie beside the store, in a folder that is named by what they were made from. What is finished of them is not made
again: parts of the samples are written one by one, and ``factors.json``, with the checksums of all files, comes last.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from diq import _core
from diq.base.draws import number_of
from diq.base.errors import RunFailedError, UsageError
from diq.base.files import lock, write_text
from diq.base.fingerprint import canonical_json, fingerprint_of
from diq.base.text import amount
from diq.gradients.engine import common_settings
from diq.gradients.engines import Engines
from diq.gradients.factors import BASES_FILE, VALUES_FILE, Sums
from diq.gradients.options import Precondition
from diq.influence.job import Job
from diq.models.tokens import Tokenization, Tokens
from diq.store.connection import WAIT_S
from diq.store.store import Store

log = logging.getLogger(__name__)

FACTORS_FILE = "factors.json"
# samples whose sums are kept together: what a killed run does again at most
_PART = 256
_SEED = 0


@dataclass(frozen=True, slots=True)
class Factors:
    """Factors of one model over some samples of a dataset, which are there or will be.

    Attributes:
        folder: where they lie.
        identity: of what they are made from; part of the fingerprint of a run that uses them.
        kind: of the preconditioner.
    """

    folder: Path
    identity: str
    kind: Precondition


def find_factors(job: Job, tokenization: Tokenization, kind: Precondition, n_samples: int) -> Factors:
    """Where the factors of a request lie, and what they are made from; nothing is computed.

    Factors that exist are those of the samples that the dataset had when they were made, so that samples that were
    added since do not start a new run.
    """
    settings = {
        "kind": "adam" if kind == "adam" else "kronecker",
        "model": job.target.model_id,
        "dataset": job.data["name"],
        "samples": n_samples,
        "seed": _SEED,
        **common_settings(job.settings, tokenization),
    }
    folder = Path(f"{job.store}.factors") / fingerprint_of(canonical_json(settings))[:12]
    made = _read(folder)
    ids = made["sample_ids"] if made else [row["sample_id"] for row in _drawn(job, n_samples)]
    return Factors(folder, fingerprint_of(canonical_json({**settings, "sample_ids": ids})), kind)


def problems(store: Path) -> Iterator[tuple[Path, str | None]]:
    """Every file of factors beside a store, and what is wrong with it, or None."""
    for folder in sorted(Path(f"{store}.factors").glob("*/")):
        made = _read(folder) or {"files": {}}
        for name, content_hash in made["files"].items():
            path = folder / name
            wrong = None if path.exists() else "the file is missing"
            if wrong is None and _core.file_hash(str(path)) != content_hash:
                wrong = "the file differs from its checksum"
            yield path, wrong


def make_factors(job: Job, factors: Factors, engines: Engines, tokenization: Tokenization, n_samples: int) -> None:
    """Make what is missing of the factors.

    Raises:
        UsageError: no sample of the dataset has an answer token.
        RunFailedError: a file was changed, or another process makes the same factors.
    """
    folder = factors.folder
    folder.mkdir(parents=True, exist_ok=True)
    busy = RunFailedError(f"another process makes the factors in `{folder}`", "wait for it, then run the command again")
    with lock(folder / ".lock", busy):
        made = _read(folder) or {"files": {}, "sample_ids": None}
        wanted = [VALUES_FILE] if factors.kind == "adam" else [BASES_FILE]
        wanted += [VALUES_FILE] if factors.kind == "ekfac" else []
        for name in (one for one in wanted if one in made["files"]):
            _check(folder / name, made["files"][name])
        missing = [name for name in wanted if name not in made["files"]]
        if not missing:
            return
        rows = _rows(job, made["sample_ids"], n_samples)
        samples, numbers = _encoded(job, rows, tokenization)
        for name in missing:
            what: Sums = "squares" if factors.kind == "adam" else "moments" if name == BASES_FILE else "rotated squares"
            _make(job, folder, engines, what, samples, None if what == "squares" else numbers)
            made["files"][name] = _core.file_hash(str(folder / name))
            made["sample_ids"] = [row["sample_id"] for row in rows]
            write_text(folder / FACTORS_FILE, json.dumps(made))


def _make(
    job: Job,
    folder: Path,
    engines: Engines,
    what: Sums,
    samples: Sequence[Tokens],
    numbers: Sequence[npt.NDArray[np.float64]] | None,
) -> None:
    parts = [
        (folder / f"{what.replace(' ', '-')}-{start // _PART:05d}.safetensors", slice(start, start + _PART))
        for start in range(0, len(samples), _PART)
    ]
    label = f"factors: {what}"

    def jobs() -> Iterator[tuple[Path, tuple[Any, ...]]]:
        for path, part in parts:
            if not path.exists():
                yield path, (what, samples[part], None if numbers is None else numbers[part], path)

    done = sum(path.exists() for path, _ in parts)
    job.report(label, done, len(parts))
    for _ in engines.each("add_up", jobs()):
        done += 1
        job.report(label, done, len(parts))
    engines.ask("put_together", what, [path for path, _ in parts], len(samples))
    for path, _ in parts:
        path.unlink()


def _drawn(job: Job, n_samples: int) -> list[dict[str, Any]]:
    with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
        return opened.rows("influence/draw_samples", dataset_id=job.data["dataset_id"], seed=_SEED, n=n_samples)


def _rows(job: Job, sample_ids: list[str] | None, n_samples: int) -> list[dict[str, Any]]:
    """The samples, those of before where some factors exist."""
    if sample_ids is None:
        return _drawn(job, n_samples)
    with Store(job.store, read_only=True, wait_s=WAIT_S) as opened:
        found = {row["sample_id"]: row for row in opened.rows("influence/samples_by_id", sample_ids=sample_ids)}
    lost = [one for one in sample_ids if one not in found]
    if lost:
        raise RunFailedError(
            f"{len(lost)} of {amount(len(sample_ids), 'sample')} of the factors are no longer in the store, first "
            f"{lost[0]}",
            "remove the folder of factors beside the store: they are made again from other samples",
        )
    return [found[one] for one in sample_ids]


def _encoded(
    job: Job, rows: Sequence[dict[str, Any]], tokenization: Tokenization
) -> tuple[list[Tokens], list[npt.NDArray[np.float64]]]:
    """The samples that have an answer token, and for each of their tokens a number that its label is drawn by."""
    samples, numbers = [], []
    encoded = tokenization.encode([orjson.loads(row["messages"]) for row in rows])
    for row, one in zip(rows, encoded, strict=True):
        if isinstance(one, Tokens) and one.answer_tokens > 0:
            samples.append(one)
            # of the sample's own, whatever others there are
            seed = number_of(f"{row['sample_id']}/{_SEED}/label")
            numbers.append(np.random.default_rng(seed).random(len(one.ids)))
    if not samples:
        raise UsageError(
            f"none of {amount(len(rows), 'factor sample')} of `{job.data['name']}` has an answer token",
            "raise --max-length",
        )
    if len(samples) < len(rows):
        log.info("%d of %s have an answer token", len(samples), amount(len(rows), "factor sample"))
    return samples, numbers


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((folder / FACTORS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _changed(folder / FACTORS_FILE) from error
    return found


def _check(path: Path, content_hash: str) -> None:
    if not path.exists() or _core.file_hash(str(path)) != content_hash:
        raise _changed(path)


def _changed(path: Path) -> RunFailedError:
    return RunFailedError(
        f"`{path}` is missing or is not what was written",
        f"remove the folder `{path.parent}`: the factors are made again",
    )
