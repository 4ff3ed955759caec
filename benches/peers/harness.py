"""What every peer script shares: reading the inputs, proving the dots, taking time, one JSON line.

A peer script runs in whatever environment it needs, so this module imports nothing of diq. ``bench_peers.py`` writes
the inputs: a folder with ``model/`` (``save_pretrained``) and ``samples.npz``. By hand:

    python benches/bench_peers.py --smoke --keep INPUTS
    .venv-peers/bin/python benches/peers/less_loop.py INPUTS --rounds 3
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Rows = npt.NDArray[np.int64]
_QKV = ("q_proj.weight", "k_proj.weight", "v_proj.weight")


@dataclass(frozen=True, slots=True)
class Sample:
    """One tokenised sample: the loss is the mean cross-entropy of ``ids[start:]``."""

    ids: npt.NDArray[np.int32]
    start: int


@dataclass(frozen=True, slots=True)
class Inputs:
    """The same model and samples for every peer, and the truth for some of them.

    Attributes:
        model: folder that ``save_pretrained`` wrote.
        train: samples to score.
        validation: samples whose mean gradient they are scored against.
        checked: rows of ``train`` whose dots are known.
        oracle: their dots, float64 autograd one sample at a time.
        noise: ``|g| |v|``, the standard deviation of such a dot after a projection to one dimension.
    """

    model: Path
    train: list[Sample]
    validation: list[Sample]
    checked: Rows
    oracle: npt.NDArray[np.float64]
    noise: npt.NDArray[np.float64]

    @classmethod
    def read(cls, folder: Path) -> Inputs:
        with np.load(folder / "samples.npz") as arrays:
            sets = [
                [
                    Sample(arrays[f"{name}_ids"][first:last], int(start))
                    for first, last, start in zip(
                        arrays[f"{name}_offsets"][:-1],
                        arrays[f"{name}_offsets"][1:],
                        arrays[f"{name}_starts"],
                        strict=True,
                    )
                ]
                for name in ("train", "validation")
            ]
            return cls(folder / "model", *sets, arrays["checked"], arrays["oracle"], arrays["noise"])


class Peer(ABC):
    """A way to compute the dots.

    Attributes:
        packages: whose versions stand beside the numbers.
        note: what a reader must know about how it was configured.
        exact: whether its dots must equal the oracle's; else they carry the noise of a projection to ``dim``.
        dim: dimension of that projection.
    """

    packages: Sequence[str] = ("torch", "transformers")
    note = ""
    exact = True
    dim = 1

    @abstractmethod
    def prepare(self) -> None:
        """Everything that is done once for a validation set."""

    @abstractmethod
    def score(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Dots of some training samples, in the order of ``rows``."""


def load_model(folder: Path) -> Any:
    """The model in float32 with nothing but the query, key and value weights trainable."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith(_QKV))
    return model


def labels_of(sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels ``[1, n]`` as Hugging Face models take them: -100 on the prompt."""
    ids = torch.from_numpy(sample.ids.astype(np.int64)).unsqueeze(0)
    labels = ids.clone()
    labels[:, : sample.start] = -100
    return ids, labels


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every peer script has."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("inputs", type=Path, help="folder that bench_peers.py wrote")
    found.add_argument("--threads", type=int, default=2)
    found.add_argument("--rounds", type=int, default=3, help="timed passes; without effect under --serve")
    found.add_argument("--subset", type=int, help="time only this many samples, spread evenly over the lengths")
    found.add_argument("--serve", action="store_true", help="take one timed pass for each line on stdin")
    return found


def run(options: argparse.Namespace, make: Callable[[Inputs], Peer]) -> None:
    """Prove a peer, time it and print one JSON line; under ``--serve`` also one when ready and one a pass."""
    # libraries print what they like: stdout belongs to the protocol
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        torch.set_num_threads(options.threads)
        inputs = Inputs.read(options.inputs)
        peer = make(inputs)
        began = time.perf_counter()
        peer.prepare()
        prepare_s = time.perf_counter() - began
        check = _check(peer, inputs)
        rows = _spread(inputs.train, options.subset)
        found: dict[str, Any] = {
            "note": peer.note,
            "versions": {one: metadata.version(one) for one in peer.packages},
            "threads": torch.get_num_threads(),
            "prepare_s": prepare_s,
            "check": check,
            "samples": len(rows),
            "tokens": int(sum(len(inputs.train[row].ids) for row in rows)),
        }
        if not check["passed"]:
            print(json.dumps(found | {"event": "wrong"}), file=out, flush=True)
            return
        if options.subset is None:
            # the check has warmed a subset's peer: another pass of those takes minutes
            peer.score(rows)
        if options.serve:
            print(json.dumps({"event": "ready"}), file=out, flush=True)
        seconds: list[float] = []
        for _ in sys.stdin if options.serve else range(options.rounds):
            began = time.perf_counter()
            peer.score(rows)
            seconds.append(time.perf_counter() - began)
            if options.serve:
                print(json.dumps({"event": "pass", "seconds": seconds[-1]}), file=out, flush=True)
        median = float(np.median(seconds)) if seconds else float("nan")
        found |= {
            "event": "done",
            "seconds": seconds,
            "samples_per_s": found["samples"] / median,
            "tokens_per_s": found["tokens"] / median,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        print(json.dumps(found), file=out, flush=True)


def _check(peer: Peer, inputs: Inputs) -> dict[str, Any]:
    """Correlations with the oracle, the largest error, and whether the peer computes what it should."""
    dots = np.asarray(peer.score(inputs.checked), np.float64)
    errors = np.abs(dots - inputs.oracle)
    largest = float(errors.max() / inputs.oracle.std())
    # errors of a projection in units of what theory says: about 1 in the mean square
    relative = float(np.sqrt(np.mean((errors / (inputs.noise / np.sqrt(peer.dim))) ** 2)))
    return {
        "n": len(dots),
        "pearson": float(np.corrcoef(dots, inputs.oracle)[0, 1]),
        "spearman": float(np.corrcoef(_ranks(dots), _ranks(inputs.oracle))[0, 1]),
        "largest_error": largest,
        "projection_noise": None if peer.exact else relative,
        "passed": bool(largest < 1e-3 if peer.exact else relative < 3),
    }


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.argsort(np.argsort(values)).astype(np.float64)


def _spread(samples: Sequence[Sample], count: int | None) -> Rows:
    """All rows, or the middles of ``count`` equal parts of the samples in order of length."""
    if count is None or count >= len(samples):
        return np.arange(len(samples))
    order = np.argsort([len(one.ids) for one in samples], kind="stable")
    return order[((np.arange(count) + 0.5) * len(samples) / count).astype(int)]
