"""Stage: measure what a projection loses, on samples and a model of the user's own, before an index is built."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import orjson
from torch import Tensor

from diq.base.config import MAX_LENGTH
from diq.base.errors import UsageError
from diq.base.options import verb
from diq.base.progress import Progress
from diq.base.summary import Summary
from diq.base.text import amount, did_you_mean
from diq.gradients.backward import MatrixGradients, Recorder
from diq.gradients.dots import Dots, Norms
from diq.gradients.engine import Engine, EngineSettings
from diq.gradients.projections import KINDS, Projection, Rademacher, Sparse, Subspace, leading_basis
from diq.gradients.validation import ValidationGradient
from diq.influence.meters import flip_share, order, spearman
from diq.influence.options import CheckIndexOptions
from diq.models.device import pick_device, pick_dtype
from diq.models.experts import Routing
from diq.models.source import find_adapter, find_model
from diq.models.tokens import Batch, Tokens, load_tokenization, plan_batches
from diq.scoring.job import read_request
from diq.store.store import Store

log = logging.getLogger(__name__)

# what is tried: the paper's size and its neighbours, and what keeps a sample within a few kilobytes
CANDIDATES = (
    "rademacher:1024",
    "rademacher:4096",
    "sparse:4096",
    "sparse:16384",
    "sparse:65536",
    "subspace:4",
    "subspace:8",
    "subspace:16",
    "subspace:32",
)
RATIOS = (0.01, 0.1, 0.5)
# overlap of the top 10 % from which a projection is recommended
_GOOD_OVERLAP = 0.95
# products a sample above which the dense kind is only tried when it is asked for
_DENSE_LIMIT = 1 << 36


@dataclass(frozen=True, slots=True)
class Quality:
    """What one projection keeps.

    Attributes:
        kind: of projection.
        size: its columns; for ``subspace`` the directions a side and module.
        dim: numbers a sample.
        bytes_a_sample: in float16.
        spearman: of projected with exact dots.
        overlap: share of the exact top 1, 10 and 50 % that the projected top holds.
        noise: root mean square error of a dot, in units of the two gradients' lengths (the error of a cosine).
        predicted_noise: 1 / sqrt(dim) for the random kinds; None for ``subspace``, whose error is what it leaves out.
        kept_share: share of the squared length of the validation gradient that the basis holds; ``subspace`` alone.
        new_task_spearman: the same Spearman for a validation set that the basis has not seen (the worst of the sets,
            each left out in turn); ``subspace`` with two or more sets alone.
        new_task_overlap: likewise the overlap of the top 10 %. Sets that are alike flatter a basis: a task of another
            sort keeps less.
    """

    kind: str
    size: int
    dim: int
    bytes_a_sample: int
    spearman: float
    overlap: dict[str, float]
    noise: float
    predicted_noise: float | None
    kept_share: float | None
    new_task_spearman: float | None
    new_task_overlap: float | None


@dataclass(frozen=True, slots=True, repr=False)
class Check(Summary):
    """What a check found.

    Attributes:
        dataset: dataset.
        model: model.
        parameters: numbers of a gradient.
        n_samples: samples that were drawn and have a dot.
        validation_sets: names.
        qualities: one a candidate.
        recommended: ``KIND:SIZE``, or None when no candidate is good enough.
        reason: why, in words.
        seconds: wall time.
    """

    dataset: str
    model: str
    parameters: int
    n_samples: int
    validation_sets: list[str]
    qualities: list[Quality]
    recommended: str | None
    reason: str
    seconds: float


@verb(CheckIndexOptions)
def check_index(options: CheckIndexOptions) -> Check:
    """Compare the dots of several projections with the exact dots of samples that are drawn from a dataset.

    Raises:
        UsageError: unknown names, a candidate that is none, too few samples or tokens.
        ModelError: the model cannot be used.
    """
    if options.samples < 20:
        raise UsageError(f"--samples {options.samples} are too few for a ranking", "give 100 or more")
    asked = [_candidate(text) for text in options.candidate]
    request = read_request(options.store_file, options.dataset, options.validation_set)
    with Store(options.store_file, read_only=True) as opened:
        rows = opened.rows(
            "influence/draw_samples", dataset_id=request.data["dataset_id"], seed=options.seed, n=options.samples
        )
    source = find_model(options.model)
    found = find_adapter(options.checkpoint, source) if options.checkpoint else None
    started = time.monotonic()
    engine = Engine(
        EngineSettings(
            model=source,
            checkpoint=found,
            params=options.params,
            dtype=pick_dtype(options.dtype, pick_device(options.device)),
            device=options.device,
            token_budget=options.batch_tokens,
        )
    )
    tokenization = load_tokenization(source, max_length=options.max_length or MAX_LENGTH)
    encoded = tokenization.encode([orjson.loads(row["messages"]) for row in rows])
    tokenization.say(f"dataset `{options.dataset}`")
    drawn = [one for one in encoded if isinstance(one, Tokens) and one.answer_tokens > 0]
    if len(drawn) < 20:
        raise UsageError(
            f"{len(drawn):,} of {amount(len(rows), 'sample')} drawn from `{options.dataset}` have an answer token; "
            "ranks of fewer than 20 say nothing",
            "raise --max-length, or name a larger dataset" if len(drawn) < len(rows) else "name a larger dataset",
        )
    means, sizes = [], []
    for one, conversations in zip(request.sets, request.conversations, strict=True):
        usable = tokenization.encode_validation_set(one["name"], conversations)
        means.append(engine.mean_gradient(usable))
        sizes.append(len(usable))
    parameters = sum(math.prod(shape) for shape in engine.facts.weights.values())
    if not asked:
        asked = [_candidate(text) for text in CANDIDATES]
        slow = [one for one in asked if one[0] == "rademacher" and one[1] * parameters > _DENSE_LIMIT]
        if slow:
            log.info("dense projections of %d parameters are left out: name them with --candidate", parameters)
            asked = [one for one in asked if one not in slow]
    qualities = _measure(engine, drawn, means, sizes, asked, options.seed, options.progress)
    recommended, reason = _recommend(qualities)
    return Check(
        dataset=options.dataset,
        model=(found or source).name,
        parameters=parameters,
        n_samples=len(drawn),
        validation_sets=[one["name"] for one in request.sets],
        qualities=qualities,
        recommended=recommended,
        reason=reason,
        seconds=time.monotonic() - started,
    )


def _candidate(text: str) -> tuple[str, int]:
    kind, _, size = text.partition(":")
    if kind not in KINDS:
        raise UsageError(f"the candidate `{text}` is not KIND:SIZE", did_you_mean(kind, KINDS))
    if not size.isdigit() or int(size) < 1:
        raise UsageError(f"the size of the candidate `{text}` is not a positive number", "write sparse:65536")
    return kind, int(size)


class _Measured(Recorder):
    """One projection during the pass: a recorder whose rows become dots at once."""

    def __init__(self, projection: Projection, vectors: Tensor) -> None:
        self.projection = projection
        self._vectors = vectors.double()

    def begin(self, batch: Batch) -> None:
        self.projection.begin(batch)

    def record(self, name: str, x: Tensor, delta: Tensor, tokens: Batch) -> None:
        self.projection.record(name, x, delta, tokens)

    def record_stack(self, name: str, x: Tensor, delta: Tensor, routing: Routing) -> bool:
        return self.projection.record_stack(name, x, delta, routing)

    def finish(self) -> Tensor:
        return self.projection.finish().double() @ self._vectors.T


def _measure(
    engine: Engine,
    drawn: Sequence[Tokens],
    means: Sequence[MatrixGradients],
    sizes: Sequence[int],
    candidates: Sequence[tuple[str, int]],
    seed: int,
    progress: Progress | None,
) -> list[Quality]:
    pooled = ValidationGradient(tuple(means), tuple(sizes))
    mean = pooled.mean()
    dots = Dots(engine.weights, [ValidationGradient((one,), (1,)) for one in [mean, *means]])
    recorders: list[Recorder] = [dots, Norms()]
    measured: list[_Measured] = []
    left_out: dict[int, list[int]] = {}
    for kind, size in candidates:
        projection = _projection(engine, kind, size, means, seed)
        measured.append(_Measured(projection, projection.project([mean])))
    recorders += measured
    for number, (kind, size) in enumerate(candidates):
        if kind == "subspace" and len(means) > 1:
            for task in range(len(means)):
                others = [one for i, one in enumerate(means) if i != task]
                basis = Subspace(leading_basis(others, size))
                left_out.setdefault(number, []).append(len(recorders))
                recorders.append(_Measured(basis, basis.project([means[task]])))
    columns = _pass(engine, drawn, recorders, progress)
    exact, by_task, norms = columns[0][:, 0], columns[0][:, 1:], columns[1][:, 0]
    # a sample whose dot is not finite is in no ranking
    usable = np.isfinite(exact) & np.isfinite(norms)
    qualities = []
    for number, (kind, size) in enumerate(candidates):
        found = columns[2 + number][:, 0]
        projection = measured[number].projection
        length = pooled.norm() * norms[usable]
        error = (found[usable] - exact[usable]) / np.where(length > 0, length, 1)
        kept = new_task = new_overlap = None
        if isinstance(projection, Subspace):
            whole = pooled.norm() ** 2
            kept = float(projection.project([mean]).double().square().sum()) / whole if whole else 1.0
            places = left_out.get(number, [])
            if places:
                pairs = [(columns[place][usable, 0], by_task[usable, task]) for task, place in enumerate(places)]
                new_task = min(spearman(*pair) for pair in pairs)
                new_overlap = min(overlap(*pair, 0.1) for pair in pairs)
        qualities.append(
            Quality(
                kind=kind,
                size=size,
                dim=projection.dim,
                bytes_a_sample=2 * projection.dim,
                spearman=spearman(found[usable], exact[usable]),
                overlap={f"{ratio:g}": overlap(found[usable], exact[usable], ratio) for ratio in RATIOS},
                noise=float(np.sqrt(np.mean(error**2))),
                predicted_noise=None if kind == "subspace" else 1 / math.sqrt(size),
                kept_share=kept,
                new_task_spearman=new_task,
                new_task_overlap=new_overlap,
            )
        )
    return qualities


def _projection(engine: Engine, kind: str, size: int, means: Sequence[MatrixGradients], seed: int) -> Projection:
    if kind == "rademacher":
        return Rademacher(engine.weights, dim=size, seed=seed)
    if kind == "sparse":
        return Sparse(engine.weights, dim=size, seed=seed)
    return Subspace(leading_basis(means, size))


def _pass(
    engine: Engine, drawn: Sequence[Tokens], recorders: Sequence[Recorder], progress: Progress | None
) -> list[npt.NDArray[np.float64]]:
    """Numbers of every recorder for every sample, ``[n, k]`` each, in one pass."""
    found: list[npt.NDArray[np.float64]] = []
    lengths = np.asarray([len(one.ids) for one in drawn], np.int64)
    done = 0
    for batch in plan_batches(lengths, token_budget=engine.token_budget, change=engine.rope_change):
        scored = engine.record([drawn[i] for i in batch], recorders)
        if not found:
            found = [np.empty((len(drawn), one.shape[1])) for one in scored.values]
        for place, values in zip(found, scored.values, strict=True):
            place[batch] = values.double().numpy()
        done += len(batch)
        if progress:
            progress("projecting", done, len(drawn))
    return found


def overlap(found: npt.NDArray[np.float64], exact: npt.NDArray[np.float64], ratio: float) -> float:
    """Share of the exact top that the other top holds; at least one sample counts as the top."""
    n = max(1, int(len(exact) * ratio))
    return 1 - flip_share(order(found)[:n], order(exact)[:n])


def _recommend(qualities: Sequence[Quality]) -> tuple[str | None, str]:
    # a basis is worth what it is to a task that it has not seen
    good = [
        one
        for one in qualities
        if one.overlap["0.1"] >= _GOOD_OVERLAP
        and (one.new_task_overlap is None or one.new_task_overlap >= _GOOD_OVERLAP)
    ]
    if not good:
        best = max(qualities, key=lambda one: one.overlap["0.1"])
        return None, (
            f"no projection keeps {_GOOD_OVERLAP:.0%} of the top 10 % (best: {best.kind}:{best.size} with "
            f"{best.overlap['0.1']:.0%}); exact dots lose nothing"
        )
    one = min(good, key=lambda one: one.dim)
    return f"{one.kind}:{one.size}", (
        f"the smallest that keeps {_GOOD_OVERLAP:.0%} of the top 10 %: {one.overlap['0.1']:.0%} with {one.dim:,} "
        "numbers a sample"
    )
