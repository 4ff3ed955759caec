"""What dots are worth on real data: do they predict the loss, what does a projection lose, how stable are they.

    python benches/real_validity.py DATA [--keep DIR] [--samples 2000] [--tables validity,projections,stability,lora]

DATA is as for benches/real_run.py. With --keep the model, the adapter and the store stay in DIR and are used again; a
DIR that benches/real_run.py kept has its model taken, and the meters of its run over the whole pool are printed too.
Numbers only, no times. The same seed, steps and threads print the same tables, but for the last bits of a sum.

Per-sample gradients are formed here, one batch at a time, which the package never does: all of a sample's numbers are
then products with it. Projections, bases, stored elements, rankings and meters are the package's own, and the tables
begin with a check that `diq score influence` and `diq select` give the same dots and rows.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import torch
from torch import Tensor

import diq
from diq.gradient_index.index import GradientIndex
from diq.gradients.backward import MatrixGradients
from diq.gradients.dots import Dots, Norms
from diq.gradients.engine import Engine, EngineSettings
from diq.gradients.losses import token_losses
from diq.gradients.projections import Basis, Projection, Rademacher, Sparse, Subspace, leading_basis
from diq.gradients.validation import ValidationGradient, squared_norm
from diq.influence.meters import flip_share, order, pearson, spearman, standard_errors
from diq.influence.stored import measure_runs, read_dots
from diq.models.device import describe_environment
from diq.models.source import ModelSource, find_adapter, find_model
from diq.models.tokens import Batch, Tokenization, Tokens, collate, load_tokenizer, plan_batches, usable_length
from diq.scoring.job import read_request
from diq.store.store import Store
from real_run import MAX_LENGTH, TASKS, make_model, read_pool, stand_in_difficulty

Floats = npt.NDArray[np.float64]

RATIOS = ("0.01", "0.1", "0.5")
# numbers a sample are at most these; the parameters of the adapter are fewer than 65536
RANDOM = (("rademacher", 4096), ("sparse", 4096), ("sparse", 16384), ("sparse", 65536))
RANDOM_LORA = (("rademacher", 1024), ("rademacher", 4096), ("sparse", 4096), ("sparse", 16384))
# random matrices of each, by seed; their figures are means
DRAWS = 3
RANKS = (4, 8, 16, 32)
ELEMENTS = ("float32", "float16", "bfloat16", "int8")
# a task of another kind than the four (abstracts, long answers), which no basis has seen
FAR = "pubmedqa"
# validation samples of the stability table: 128 of each task's test file, in groups of 4 a task; some are drawn as a
# reserve, since a long question may leave no room for its answer
EACH, DRAWN, GROUPS = 128, 134, 32
GROUP = len(TASKS) * EACH // GROUPS
# Adam's eps in torch and transformers
EPS = 1e-8


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header, the first column to the left and the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    print(f"\n{title}")
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells).rstrip(), flush=True)


def share(value: float) -> str:
    return f"{100 * value:.1f}"


# what is measured on ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setup:
    """The model, the drawn samples of the pool, and the validation sets, all in one store."""

    folder: Path
    model: Path
    store: Path
    dataset: str
    difficulty: Floats
    samples: list[Tokens]
    validation: list[list[Tokens]]
    far: list[Tokens]
    tokenization: Tokenization
    seed: int

    def engine(self, *, checkpoint: ModelSource | None = None, params: str = "qkv", dtype: str = "float32") -> Engine:
        """An engine of the package."""
        source = find_model(str(self.model))
        return Engine(EngineSettings(model=source, checkpoint=checkpoint, params=params, dtype=dtype, device="cpu"))


def prepare(data: Path, folder: Path, *, steps: int, samples: int, seed: int) -> Setup:
    """Make what is missing in a folder: the model, and a store with a draw of the pool and the validation sets."""
    pool = read_pool(data / "raw" / "medquad" / "medquad_alpaca.jsonl.gz")
    model = folder / "medquad-llama"
    if not (model / "config.json").exists():
        make_model(pool, model, steps=steps)
    stand_in_difficulty(pool, folder / "difficulty.jsonl")
    levels = [json.loads(line) for line in (folder / "difficulty.jsonl").read_text(encoding="utf-8").splitlines()]
    # a position is a row of the draw, so exact duplicates are left out first
    first = list({(row["instruction"], row["output"]): i for i, row in reversed(list(enumerate(pool)))}.values())[::-1]
    n = min(samples, len(first)) if samples else len(first)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(first))[:n])
    rows = [first[i] for i in chosen]
    dataset = f"medquad-{n}-{seed}"
    store = folder / f"{dataset}.duckdb"
    with gzip.GzipFile(folder / f"{dataset}.jsonl.gz", "wb", mtime=0) as file:
        file.writelines(json.dumps(pool[i], ensure_ascii=False).encode() + b"\n" for i in rows)
    with (folder / f"{dataset}-difficulty.jsonl").open("w", encoding="utf-8") as scores:
        scores.writelines(json.dumps({**levels[i], "position": at}) + "\n" for at, i in enumerate(rows))
    diq.ingest(folder / f"{dataset}.jsonl.gz", dataset=dataset, store=store)
    diq.ingest(folder / f"{dataset}-difficulty.jsonl", dataset=dataset, store=store, scores=True)
    diq.ingest(data / "bench" / FAR / "val.json", dataset=FAR, store=store, validation=True)
    for task in TASKS:
        diq.ingest(data / "bench" / task / "val.jsonl", dataset=task, store=store, validation=True)
        diq.ingest(
            data / "bench" / task / "test.jsonl",
            dataset=f"{task}-{DRAWN}", store=store, validation=True, sample=DRAWN, seed=seed,
        )  # fmt: skip
    source = find_model(str(model))
    tokenization = Tokenization(load_tokenizer(source), max_length=usable_length(source, MAX_LENGTH))
    with Store(store, read_only=True) as opened:
        found = opened.rows("training/messages_of_dataset", dataset_id=opened.dataset(dataset)["dataset_id"])
    encoded = tokenization.encode([orjson.loads(row["messages"]) for row in found])
    assert len(encoded) == n, "a row of the draw is missing in the store"
    tokens = [one for one in encoded if isinstance(one, Tokens) and one.answer_tokens > 0]
    assert len(tokens) == n, "a sample has no answer token"
    return Setup(
        folder=folder,
        model=model,
        store=store,
        dataset=dataset,
        difficulty=np.asarray([levels[i]["overall"] for i in rows], np.float64),
        samples=tokens,
        validation=validation_tokens(store, dataset, tokenization, TASKS),
        far=validation_tokens(store, dataset, tokenization, [FAR])[0],
        tokenization=tokenization,
        seed=seed,
    )


def validation_tokens(
    store: Path, dataset: str, tokenization: Tokenization, names: Sequence[str]
) -> list[list[Tokens]]:
    """The validation sets as tokens."""
    request = read_request(store, dataset, names)
    return [
        tokenization.encode_validation_set(one["name"], conversations)
        for one, conversations in zip(request.sets, request.conversations, strict=True)
    ]


def stability_groups(setup: Setup) -> list[list[Tokens]]:
    """Disjoint groups of validation samples, each with as many of every task; drawn from the tasks' test files."""
    sets = validation_tokens(setup.store, setup.dataset, setup.tokenization, [f"{task}-{DRAWN}" for task in TASKS])
    each = EACH // GROUPS
    usable = [one[: each * GROUPS] for one in sets]
    assert all(len(one) == each * GROUPS for one in usable), "a validation sample has no answer token"
    return [[sample for one in usable for sample in one[each * g : each * (g + 1)]] for g in range(GROUPS)]


# one pass, many columns ---------------------------------------------------------------------------------------------


class Gradients:
    """A recorder that forms the gradient of every sample of a batch, a module at a time."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def begin(self, batch: Batch) -> None:
        self._batch, self.found = batch, {}

    def record(self, name: str, x: Tensor, delta: Tensor) -> None:
        # [n, out, in]
        self.found[name] = self._batch.by_sample(delta).transpose(1, 2) @ self._batch.by_sample(x)

    def finish(self) -> Tensor:
        return torch.empty(0)

    def samples(self) -> list[MatrixGradients]:
        """One gradient a sample."""
        n = len(next(iter(self.found.values())))
        return [{name: one[i] for name, one in self.found.items()} for i in range(n)]


class Exact:
    """Dots of whole gradients with whole gradients, in float64."""

    def __init__(self, vectors: Sequence[MatrixGradients]) -> None:
        self._vectors = {name: torch.stack([one[name].double().flatten() for one in vectors]) for name in vectors[0]}

    def columns(self, gradients: Gradients) -> Tensor:
        """``[n, m]``."""
        parts = [one.double().flatten(1) @ self._vectors[name].T for name, one in gradients.found.items()]
        return torch.stack(parts).sum(dim=0)


class Length:
    """Norm of each gradient."""

    def columns(self, gradients: Gradients) -> Tensor:
        """``[n, 1]``."""
        squares = [one.double().square().sum(dim=(1, 2)) for one in gradients.found.values()]
        return torch.stack(squares).sum(dim=0).sqrt()[:, None]


class Projected:
    """Dots of projected gradients; the projected gradients are kept where ``keep`` says so.

    Args:
        projection: of the package.
        vectors: ``[m, dim]``, what the dots are with.
        keep: whether the projected gradients are kept too.
    """

    def __init__(self, projection: Projection, vectors: Tensor, *, keep: bool = False) -> None:
        self.projection, self.vectors, self.keep = projection, vectors.double(), keep
        self.rows: list[Tensor] = []

    def columns(self, gradients: Gradients) -> Tensor:
        """``[n, m]``."""
        found = self.projection.project(gradients.samples())
        if self.keep:
            self.rows.append(found)
        return found.double() @ self.vectors.T


def one_pass(
    engine: Engine, samples: Sequence[Tokens], measures: Sequence[Exact | Length | Projected]
) -> tuple[list[Floats], list[int]]:
    """Columns of every measure for every sample, ``[n, k]`` each, and the samples in the order of the pass."""
    lengths = np.asarray([len(one.ids) for one in samples], np.int64)
    gradients = Gradients()
    found: list[Floats] = []
    passed: list[int] = []
    for batch in plan_batches(lengths, token_budget=engine.token_budget):
        engine.record([samples[i] for i in batch], [gradients])
        columns = [one.columns(gradients) for one in measures]
        if not found:
            found = [np.full((len(samples), one.shape[1]), np.nan) for one in columns]
        for place, values in zip(found, columns, strict=True):
            place[batch] = values.numpy()
        passed.extend(int(i) for i in batch)
    assert all(np.isfinite(one).all() for one in found), "a number is not finite"
    return found, passed


def weighted(gradients: Sequence[MatrixGradients], sizes: Sequence[int]) -> MatrixGradients:
    return ValidationGradient(tuple(gradients), tuple(sizes)).mean()


def rank_masks(basis: Basis) -> Tensor:
    """Which coordinates of the widest subspace are those of each rank, ``[ranks, dim]``.

    Singular directions are nested: the basis of rank r is the first r columns of a wider one.
    """
    masks = []
    for rank in RANKS:
        parts = []
        for left, right in basis.values():
            mask = torch.zeros(left.shape[1], right.shape[1], dtype=torch.bool)
            mask[:rank, :rank] = True
            parts.append(mask.flatten())
        masks.append(torch.cat(parts))
    return torch.stack(masks)


@dataclass(slots=True)
class Draw:
    """Dots of one random matrix or basis.

    Attributes:
        pooled: with the pooled gradient of all tasks, ``[n]``.
        tasks: with each task's own, ``[n, tasks]``.
        unseen: with each task's own in a basis of the other tasks alone, then with the far task's, ``[n, tasks + 1]``;
            a random kind has seen nobody's.
    """

    pooled: Floats
    tasks: Floats
    unseen: Floats


@dataclass(slots=True)
class Candidate:
    """A projection: its kind and size, its numbers a sample, its dots, and what its basis holds of the gradients."""

    kind: str
    size: int
    dim: int
    draws: list[Draw]
    kept: float | None = None
    unseen_kept: list[float] = field(default_factory=list)

    def mean(self, of: Callable[[Draw], float]) -> float:
        """Mean over the draws."""
        return float(np.mean([of(one) for one in self.draws]))


@dataclass(slots=True)
class Columns:
    """Everything that a pass over the pool gave."""

    pooled: Floats
    # the far task's last
    tasks: Floats
    norms: Floats
    norm: float
    candidates: list[Candidate]
    # rank -> dots and the share of each task's squared gradient that the rank leaves out
    low_rank: dict[int, tuple[Floats, list[float]]]
    groups: Floats
    rows: dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]


def measure(
    engine: Engine,
    samples: Sequence[Tokens],
    validation: Sequence[Sequence[Tokens]],
    far: Sequence[Tokens],
    random: Sequence[tuple[str, int]],
    *,
    groups: Sequence[Sequence[Tokens]] = (),
    seed: int,
) -> Columns:
    """Exact dots, projected dots, low-rank dots and the dots of small validation groups, in one pass."""
    means = [engine.mean_gradient(one) for one in validation]
    sizes = [len(one) for one in validation]
    mean = weighted(means, sizes)
    n_tasks = len(means)
    distant = engine.mean_gradient(far)
    exactly = Exact([mean, *means, distant, *(engine.mean_gradient(one) for one in groups)])
    widest = RANKS[-1]

    def bounded(basis: Basis, vectors: Sequence[MatrixGradients], *, keep: bool = False) -> Projected:
        """Dots within the directions of every rank: the columns of the first rank, of the second, ..."""
        subspace = Subspace(basis)
        coordinates = subspace.project(vectors)
        return Projected(subspace, torch.cat([coordinates * mask for mask in rank_masks(basis)]), keep=keep)

    def held(basis: Basis, vector: MatrixGradients) -> list[float]:
        """Share of a squared gradient that the basis of each rank holds."""
        coordinates = Subspace(basis).project([vector])[0]
        whole = squared_norm(vector)
        return [float((coordinates * mask).double().square().sum()) / whole for mask in rank_masks(basis)]

    drawn = []
    for kind, size in random:
        for draw in range(DRAWS):
            made = (Rademacher if kind == "rademacher" else Sparse)(engine.modules, dim=size, seed=seed + draw)
            # the elements of an index are looked at for one random kind and one basis
            keep = (kind, size, draw) == ("rademacher", 4096, 0)
            drawn.append(Projected(made, made.project([mean, *means, distant]), keep=keep))
    basis = leading_basis(means, widest)
    check_nested(basis, leading_basis(means, RANKS[0]))
    within = bounded(basis, [mean, *means], keep=True)
    others = [leading_basis([one for i, one in enumerate(means) if i != task], widest) for task in range(n_tasks)]
    others.append(basis)
    strangers = [*means, distant]
    unseen = [bounded(one, [strangers[task]]) for task, one in enumerate(others)]
    # the directions of one gradient alone are what `--rank` puts in its place
    own = [leading_basis([one], widest) for one in means]
    low = [bounded(one, [means[task]]) for task, one in enumerate(own)]
    check_low_rank(engine, samples[:4], means[0], low[0])

    found, passed = one_pass(engine, samples, [exactly, Length(), *drawn, within, *unseen, *low])
    exact, norms = found[0], found[1][:, 0]
    of_drawn, inside, found = found[2 : 2 + len(drawn)], found[2 + len(drawn)], found[3 + len(drawn) :]
    outside, of_low = found[: len(unseen)], found[len(unseen) :]
    weights = np.asarray(sizes) / sum(sizes)
    low_rank = {
        rank: (
            np.stack([one[:, i] for one in of_low], axis=1) @ weights,
            [1 - held(one, vector)[i] for one, vector in zip(own, means, strict=True)],
        )
        for i, rank in enumerate(RANKS)
    }
    candidates = []
    for i, (kind, size) in enumerate(random):
        draws = [Draw(one[:, 0], one[:, 1 : 1 + n_tasks], one[:, 1:]) for one in of_drawn[i * DRAWS : (i + 1) * DRAWS]]
        candidates.append(Candidate(kind, size, size, draws))
    dims = [int(mask.sum()) for mask in rank_masks(basis)]
    for i, rank in enumerate(RANKS):
        if dims[i] in dims[:i]:
            # an adapter's matrices have no more directions
            continue
        columns = inside[:, i * (n_tasks + 1) : (i + 1) * (n_tasks + 1)]
        candidates.append(
            Candidate(
                "subspace",
                rank,
                dims[i],
                [Draw(columns[:, 0], columns[:, 1:], np.stack([one[:, i] for one in outside], axis=1))],
                held(basis, mean)[i],
                [held(one, vector)[i] for one, vector in zip(others, strangers, strict=True)],
            )
        )
    back = np.argsort(passed)
    keeping = {f"rademacher {one.projection.dim}": one for one in drawn if one.keep} | {f"subspace {widest}": within}
    return Columns(
        pooled=exact[:, 0],
        tasks=exact[:, 1 : 2 + n_tasks],
        norms=norms,
        norm=math.sqrt(squared_norm(mean)),
        candidates=candidates,
        low_rank=low_rank,
        groups=exact[:, 2 + n_tasks :],
        rows={
            name: (torch.cat(one.rows).numpy()[back], one.projection.project([mean]).numpy())
            for name, one in keeping.items()
        },
    )


def check_nested(wide: Basis, narrow: Basis) -> None:
    """The first directions of a wide basis must be those of a narrow one (up to a sign), so that one pass has both."""
    for name, sides in narrow.items():
        for found, expected in zip(wide[name], sides, strict=True):
            overlaps = (found[:, : expected.shape[1]] * expected).sum(dim=0).abs()
            assert torch.allclose(overlaps, torch.ones(()), atol=1e-3), f"the bases of `{name}` are not nested"


def check_low_rank(engine: Engine, samples: Sequence[Tokens], vector: MatrixGradients, low: Projected) -> None:
    """What stands for `--rank` here must be what the package computes."""
    found, _ = one_pass(engine, samples, [low])
    for i, rank in enumerate(RANKS):
        dots = Dots(engine.modules, [ValidationGradient((vector,), (1,))], rank=rank)
        expected = engine.record(samples, [dots]).values[0][:, 0].numpy()
        assert np.allclose(found[0][:, i], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()), "not --rank"


def top(values: Floats, ratio: str) -> npt.NDArray[np.int64]:
    return order(values)[: max(1, int(len(values) * float(ratio)))]


def overlap(found: Floats, exact: Floats, ratio: str) -> float:
    """Share of the exact top that the other top holds."""
    return 1 - flip_share(top(found, ratio), top(exact, ratio))


def selection_overlap(found: Floats, exact: Floats, difficulty: Floats, ratio: str) -> float:
    """The same for the selections of Algorithm 1, by the function that `diq select` calls."""
    rows = [np.asarray(diq.rank(one, difficulty, ratio=ratio).rows) for one in (found, exact)]
    return 1 - flip_share(rows[0], rows[1])


# validity -----------------------------------------------------------------------------------------------------------


def validity(setup: Setup, *, n: int, each: int) -> None:
    """Measured decrease of the mean validation loss after one step on one sample, against what predicts it."""
    chosen = np.sort(np.random.default_rng(setup.seed + 1).permutation(len(setup.samples))[:n])
    samples = [setup.samples[i] for i in chosen]
    # the shortest of each task: every step is measured on all of them
    validation = [one for task in setup.validation for one in sorted(task, key=lambda one: len(one.ids))[:each]]
    # the predictors as the package gives them, in float32
    engine = setup.engine()
    mean = engine.mean_gradient(validation)
    recorders = [Dots(engine.modules, [ValidationGradient((mean,), (1,))]), Norms()]
    dot, norm = (
        np.concatenate([engine.record([one], recorders).values[i][:, 0].double().numpy() for one in samples])
        for i in range(2)
    )
    # the measured losses in float64, so that their differences are no rounding
    engine = setup.engine(dtype="float64")
    wide = engine.mean_gradient(validation)
    weights = {name: module.weight for name, module in engine.modules.items()}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    parameters = sum(one.numel() for one in before.values())
    lengths = np.asarray([len(one.ids) for one in validation], np.int64)
    batches = [collate([validation[i] for i in part]) for part in plan_batches(lengths, token_budget=2048)]

    def loss() -> float:
        with torch.no_grad():
            losses = [token_losses(engine.model, one).by_sample("mean") for one in batches]
        return float(torch.cat(losses).mean())

    def decrease(step: MatrixGradients, rate: float) -> float:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name] - rate * step[name])
            after = loss()
            for name, weight in weights.items():
                weight.copy_(before[name])
        return start - after

    start = loss()
    length = math.sqrt(sum(float(one.square().sum()) for one in before.values()))
    adam_rates = (1e-6, 1e-4)
    # plain steps of the same mean length as Adam's
    sgd_rates = tuple(rate * math.sqrt(parameters) / math.sqrt(float(np.mean(norm**2))) for rate in adam_rates)
    measured: dict[tuple[str, float], list[float]] = {
        **{("plain", rate): [] for rate in sgd_rates},
        **{("Adam", rate): [] for rate in adam_rates},
    }
    first_order: dict[str, list[float]] = {"plain": [], "Adam": []}
    for sample in samples:
        gradient = engine.mean_gradient([sample])
        adam = {name: one / (one.abs() + EPS) for name, one in gradient.items()}
        for kind, step in (("plain", gradient), ("Adam", adam)):
            first_order[kind].append(float(sum((wide[name] * step[name]).sum() for name in wide)))
            for rate in sgd_rates if kind == "plain" else adam_rates:
                measured[kind, rate].append(decrease(step, rate))
    drift = float(np.abs(dot - np.asarray(first_order["plain"])).max() / np.std(dot))
    rows = []
    for (kind, rate), values in measured.items():
        found = np.asarray(values)
        exact = rate * np.asarray(first_order[kind])
        rest = float(np.sqrt(np.mean((found - exact) ** 2)) / np.sqrt(np.mean(found**2)))
        cells = [f"{kind}, rate {rate:.3g}", str(n), share(float(np.mean(found > 0))), share(rest)]
        for predictor in (dot, dot / norm, np.asarray(first_order[kind])):
            cells += [f"{spearman(predictor, found):.3f}", f"{pearson(predictor, found):.3f}"]
        rows.append(cells)
    table(
        f"1. Validity: measured one-step decrease of the mean loss of {len(validation)} validation samples "
        f"(the {each} shortest of each task, {int(lengths.sum())} tokens), float64, loss {start:.4f} nats;\n"
        f"   {parameters:,} q/k/v parameters of length {length:.2f}; the package's float32 dots are within {drift:.1e} "
        "of their standard deviation of float64 autograd;\n"
        f"   steps of mean length {adam_rates[0] * math.sqrt(parameters) / length:.1e} and "
        f"{adam_rates[1] * math.sqrt(parameters) / length:.1e} of the parameters'. "
        "Each predictor: Spearman, Pearson with the measured decrease",
        (
            "step", "n", "loss falls %", "not first order %", "dot S", "dot P", "cosine S", "cosine P",
            "its own first order S", "P",
        ),
        rows,
    )  # fmt: skip


# projections --------------------------------------------------------------------------------------------------------


def print_projections(title: str, columns: Columns, difficulty: Floats) -> None:
    """The tables of one set of parameters."""
    n, n_tasks = len(columns.pooled), len(TASKS)
    length = columns.norm * columns.norms
    exact, tasks = columns.pooled, columns.tasks

    def noise(one: Draw) -> float:
        return float(np.sqrt(np.mean(((one.pooled - exact) / length) ** 2)))

    def kept_top(found: Floats, ratio: str) -> list[float]:
        """Of each task."""
        return [overlap(found[:, task], tasks[:, task], ratio) for task in range(found.shape[1])]

    rows, unseen = [], []
    for one in columns.candidates:
        basis = one.kept is not None
        cells = [f"{one.kind} {one.size}", f"{one.dim:,}", f"{n} x {len(one.draws)}"]
        selections = [one.mean(lambda d, r=r: selection_overlap(d.pooled, exact, difficulty, r)) for r in RATIOS]
        tops = [one.mean(lambda d, r=r: overlap(d.pooled, exact, r)) for r in RATIOS]
        rows.append(
            [
                *cells, f"{one.mean(lambda d: spearman(d.pooled, exact)):.4f}", *map(share, selections),
                *map(share, tops), f"{one.mean(noise):.4f}", "" if basis else f"{1 / math.sqrt(one.dim):.4f}",
                "" if one.kept is None else f"{one.kept:.3f}",
            ]
        )  # fmt: skip
        each = [one.mean(lambda d, t=t: spearman(d.unseen[:, t], tasks[:, t])) for t in range(n_tasks + 1)]
        tops = [one.mean(lambda d, r=r: float(np.mean(kept_top(d.unseen, r)[:n_tasks]))) for r in RATIOS]
        worst = one.mean(lambda d: min(kept_top(d.unseen, "0.1")[:n_tasks]))
        distant = [one.mean(lambda d, r=r: kept_top(d.unseen, r)[n_tasks]) for r in RATIOS]
        seen = one.mean(lambda d: float(np.mean(kept_top(d.tasks, "0.1"))))
        unseen.append(
            [
                *cells, *(f"{value:.4f}" for value in each), *map(share, tops), share(worst), share(seen),
                f"{np.mean(one.unseen_kept[:n_tasks]):.3f}" if basis else "", *map(share, distant),
                f"{one.unseen_kept[n_tasks]:.3f}" if basis else "",
            ]
        )  # fmt: skip
    table(
        f"{title}: projected against exact dots, all {n_tasks} validation sets pooled; share (%) of the exact "
        "selection of Algorithm 1 and of the top by dot that is kept;\n"
        "   noise: error of a dot over the lengths of the two gradients (its law: 1/sqrt(numbers)); the random "
        f"kinds are means of {DRAWS} seeds",
        (
            "kind", "numbers", "n x seeds", "Spearman", "DIQ 1 %", "DIQ 10 %", "DIQ 50 %", "top 1 %", "top 10 %",
            "top 50 %", "noise", "law", "basis holds",
        ),
        rows,
    )  # fmt: skip
    table(
        f"{title}, a task that the projection has not seen (each of {n_tasks} left out of the basis in turn, and "
        f"{FAR}; a random kind has seen none):\n"
        f"   Spearman a task; share (%) of its top, means of the {n_tasks}; then of {FAR}",
        (
            "kind", "numbers", "n x seeds", *TASKS, FAR, "top 1 %", "top 10 %", "top 50 %", "worst 10 %",
            "10 % when seen", "basis holds", "far 1 %", "far 10 %", "far 50 %", "basis holds",
        ),
        unseen,
    )  # fmt: skip


def print_elements(columns: Columns, difficulty: Floats, folder: Path) -> None:
    """What an element of a stored gradient costs: an index of each, written and read by the package."""
    rows = []
    ids = [str(uuid.UUID(int=i)) for i in range(len(columns.pooled))]
    zeros = np.zeros(len(ids), np.float32)
    for name, (gradients, vector) in columns.rows.items():
        reference = (gradients.astype(np.float64) @ vector[0].astype(np.float64)).ravel()
        for element in ELEMENTS:
            place = folder / f"{name.replace(' ', '-')}-{element}"
            index = GradientIndex.create(place, {"dim": gradients.shape[1]}, element=element)
            kept = index.write_shard(0, np.ascontiguousarray(gradients), ids, zeros, zeros.astype(np.int32))
            found = index.dots(kept, np.ascontiguousarray(vector))[:, 0].astype(np.float64)
            error = float(np.sqrt(np.mean((found - reference) ** 2)) / np.std(reference))
            rows.append(
                [
                    f"{name} {element}", str(len(ids)), f"{kept.n_bytes / len(ids):,.0f}",
                    f"{spearman(found, reference):.7f}", f"{error:.1e}",
                    *(share(overlap(found, reference, ratio)) for ratio in RATIOS),
                    *(share(selection_overlap(found, reference, difficulty, ratio)) for ratio in RATIOS),
                ]
            )  # fmt: skip
    table(
        "2b. Elements of a gradient index against the same projected dots in float64 (error in standard deviations)",
        (
            "kind, element", "n", "bytes a sample", "Spearman", "error", "top 1 %", "top 10 %", "top 50 %", "DIQ 1 %",
            "DIQ 10 %", "DIQ 50 %",
        ),
        rows,
    )  # fmt: skip


def print_low_rank(columns: Columns, difficulty: Floats) -> None:
    rows = []
    for rank, (found, left_out) in columns.low_rank.items():
        rows.append(
            [
                f"--rank {rank}", str(len(found)), f"{spearman(found, columns.pooled):.5f}",
                *(share(selection_overlap(found, columns.pooled, difficulty, ratio)) for ratio in RATIOS),
                *(share(overlap(found, columns.pooled, ratio)) for ratio in RATIOS),
                *(f"{one:.4f}" for one in left_out),
            ]
        )  # fmt: skip
    table(
        "4. Low rank of V in one exact pass, against exact dots; residual: share of each set's squared "
        "gradient left out",
        (
            "", "n", "Spearman", "DIQ 1 %", "DIQ 10 %", "DIQ 50 %", "top 1 %", "top 10 %", "top 50 %",
            *(f"residual {task}" for task in TASKS),
        ),
        rows,
    )  # fmt: skip


# stability ----------------------------------------------------------------------------------------------------------


def print_meters(store: Path, dataset: str, title: str, *, methods: Sequence[str] = ("exact",)) -> None:
    """The figures of `diq status --scores` for the runs on a dataset."""
    with Store(store, read_only=True) as opened:
        runs = [one for one in measure_runs(opened) if one["dataset"] == dataset and one["method"] in methods]
    for one in runs:
        sets = ", ".join(f"{row['name']} {row['fold_sizes']}" for row in one["validation_sets"])
        flips = ", ".join(f"{ratio}: {share(value)} %" for ratio, value in one["flips"].items())
        rows = [
            ["samples with a dot", f"{one['n']:,} of {one['n_samples']:,}"],
            ["standard deviation of the dots", f"{one['standard_deviation']:.4g}"],
            [
                "standard error of a dot (median)",
                f"{one['standard_error']:.4g}, {share(one['standard_error_share'])} % of the standard deviation",
            ],
            [
                "dot with answer tokens",
                f"Pearson {one['length_pearson']:.3f}, Spearman {one['length_spearman']:.3f}",
            ],
            [f"half against half, {one['half_sizes']} samples", f"Spearman {one['half_spearman']:.3f}"],
            ["expected of two whole sets", f"Spearman {one['full_spearman']:.3f}"],
            ["top that flips between the halves", flips],
        ]
        for ratio, shares in (one["task_shares"] or {}).items():
            told = ", ".join(f"{task} {share(value)} %" for task, value in shares.items())
            rows.append([f"closest task, top {ratio}", told])
        table(
            f"{title}: run {one['run_id']}, {one['method']}, {one['state']}; folds of {sets}", ("meter", "value"), rows
        )


def print_stability(columns: Columns, seed: int) -> None:
    """Dots under disjoint validation sets of several sizes, and what the folds say of their spread."""
    n, rng = len(columns.pooled), np.random.default_rng(seed + 2)
    orders = [rng.permutation(GROUPS) for _ in range(8)]
    rows = []
    for size in (GROUP, 4 * GROUP, 16 * GROUP):
        k = size // GROUP
        pairs = [(columns.groups[:, p[:k]].mean(axis=1), columns.groups[:, p[k : 2 * k]].mean(axis=1)) for p in orders]
        found = np.asarray([spearman(*pair) for pair in pairs])
        kept = {ratio: float(np.mean([overlap(*pair, ratio) for pair in pairs])) for ratio in RATIOS}
        rows.append(
            [
                str(size), str(n), str(len(pairs)), f"{found.mean():.3f}", f"{found.min():.3f}", f"{found.max():.3f}",
                *(share(kept[ratio]) for ratio in RATIOS),
            ]
        )  # fmt: skip
    table(
        f"3b. Exact dots under two disjoint validation sets (a quarter from each of {len(TASKS)} tasks' test files), "
        f"{GROUPS * GROUP} samples cut anew for each pair",
        (
            "validation samples", "n", "pairs", "Spearman", "least", "greatest", "same top 1 %", "top 10 %", "top 50 %",
        ),
        rows,
    )  # fmt: skip
    rows = []
    for size in (4 * GROUP, 8 * GROUP):
        k = size // GROUP
        for n_folds in (2, 4):
            spreads, errors, medians = [], [], []
            for permuted in orders:
                blocks = columns.groups[:, permuted].reshape(n, GROUPS // k, k)
                spreads.append(blocks.mean(axis=2).std(axis=1, ddof=1))
                # every set's own folds, k / n_folds groups each
                folds = blocks.reshape(n, GROUPS // k, n_folds, k // n_folds).mean(axis=3)
                found = np.stack([standard_errors(folds[:, block]) for block in range(GROUPS // k)], axis=1)
                errors.append(found)
                medians.append(np.median(found))
            spread = np.sqrt(np.mean(np.square(spreads)))
            error = np.sqrt(np.mean(np.square(errors)))
            single = np.mean([spearman(one[:, 0], true) for one, true in zip(errors, spreads, strict=True)])
            typical = np.median(np.sqrt(np.mean(np.square(spreads), axis=0)))
            rows.append(
                [
                    str(size), str(n_folds), str(n), f"{GROUPS // k} x {len(orders)}", f"{spread:.4g}", f"{error:.4g}",
                    f"{error / spread:.3f}", f"{typical:.4g}", f"{np.mean(medians):.4g}",
                    f"{np.mean(medians) / typical:.3f}", f"{single:.3f}",
                ]
            )  # fmt: skip
    table(
        "3c. Standard error from the folds of one set against the true spread of the dot over disjoint sets of that "
        "size; Spearman: of one set's standard errors with the true spreads",
        (
            "validation samples", "folds", "n", "sets", "true spread (rms)", "standard error (rms)", "ratio",
            "true spread (median)", "standard error (median)", "ratio", "Spearman",
        ),
        rows,
    )  # fmt: skip


# the package's own way ----------------------------------------------------------------------------------------------


def through_the_package(setup: Setup, columns: Columns) -> None:
    """The same numbers through `score_influence` and `select`: they must be those of the tables."""
    exact = diq.score_influence(
        setup.dataset, model=str(setup.model), store=setup.store, validation_set=TASKS, max_length=MAX_LENGTH
    )
    rank = 8
    projected = diq.score_influence(
        setup.dataset, model=str(setup.model), store=setup.store, validation_set=TASKS, max_length=MAX_LENGTH,
        method="projected", kind="subspace", rank=rank,
    )  # fmt: skip
    with Store(setup.store, read_only=True) as opened:
        dataset_id = opened.dataset(setup.dataset)["dataset_id"]
        stored = {
            one.run_id: read_dots(opened, dataset_id=dataset_id, run_id=one.run_id).dot for one in (exact, projected)
        }
    mine = {
        exact.run_id: columns.pooled,
        projected.run_id: next(
            one.draws[0].pooled for one in columns.candidates if (one.kind, one.size) == ("subspace", rank)
        ),
    }
    rows = []
    for run, name in ((exact, "exact"), (projected, f"projected, subspace {rank}, float16 index")):
        error = float(np.abs(stored[run.run_id] - mine[run.run_id]).max() / np.std(mine[run.run_id]))
        same = spearman(stored[run.run_id], mine[run.run_id])
        assert same > 0.9999, f"{name}: the store has other dots than the tables ({same})"
        rows.append([name, str(len(columns.pooled)), f"{same:.7f}", f"{error:.1e}"])
    table(
        "0. The pass of the tables against `diq score influence` (largest difference in standard deviations)",
        ("method", "n", "Spearman", "difference"),
        rows,
    )
    for ratio in RATIOS:
        taken = []
        for run in (exact, projected):
            output = setup.folder / f"selected-{run.run_id}.jsonl"
            diq.select(
                setup.dataset, ratio=ratio, store=setup.store, model=setup.model.name, run=run.run_id,
                output=output,
            )  # fmt: skip
            lines = output.read_text(encoding="utf-8").splitlines()
            taken.append(np.asarray([json.loads(line)["position"] for line in lines], np.int64))
        expected = [
            np.asarray(diq.rank(stored[run.run_id], setup.difficulty, ratio=ratio).rows) for run in (exact, projected)
        ]
        assert all(np.array_equal(a, b) for a, b in zip(taken, expected, strict=True)), "diq.select is not diq.rank"
        print(f"diq select {ratio}: {share(1 - flip_share(taken[1], taken[0]))} % of {len(taken[0])} are the same")


def make_adapter(setup: Setup, steps: int) -> ModelSource:
    """A LoRA adapter trained with `diq train` for some steps on the drawn samples."""
    output = setup.folder / f"adapter-{setup.dataset}-{steps}"
    trained = diq.train(
        setup.dataset, model=str(setup.model), output=output, store=setup.store,
        epochs=(steps - 0.5) * 8 / len(setup.samples), max_length=MAX_LENGTH, seed=setup.seed,
    )  # fmt: skip
    print(
        f"\nadapter: {trained.trainable_parameters:,} parameters, {trained.steps} steps of 8 samples, "
        f"loss {trained.loss_first:.3f} -> {trained.loss_last:.3f}"
    )
    return find_adapter(str(output), find_model(str(setup.model)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--keep", type=Path, help="work here and leave everything")
    parser.add_argument("--steps", type=int, default=400, help="training of the small model, when there is none")
    parser.add_argument("--samples", type=int, default=2000, help="of the pool, drawn by seed; 0: all")
    parser.add_argument("--lora-samples", type=int, default=1000, help="the first of them, for the adapter's table")
    parser.add_argument("--lora-steps", type=int, default=40, help="training of the adapter")
    parser.add_argument("--validity", type=int, default=200, help="samples whose step is measured")
    parser.add_argument("--validity-each", type=int, default=2, help="validation samples a task that it is measured on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tables", default="validity,projections,stability,lora", help="which to print")
    options = parser.parse_args()
    if min(options.samples or 100, options.lora_samples) < 100:
        parser.error("1 % of fewer than 100 samples is none")
    wanted = set(options.tables.split(","))
    with tempfile.TemporaryDirectory(prefix="diq-validity-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        setup = prepare(options.data, folder, steps=options.steps, samples=options.samples, seed=options.seed)
        tokens = sum(len(one.ids) for one in setup.samples)
        facts = describe_environment()
        print(", ".join(f"{name} {value}" for name, value in facts.items()))
        print(f"model {(setup.model / 'training.txt').read_text(encoding='utf-8').strip()}")
        print(
            f"{len(setup.samples):,} of MedQuAD's distinct rows, {tokens:,} tokens, at most {MAX_LENGTH} each, "
            f"seed {setup.seed}; validation sets "
            + ", ".join(
                f"{task} {len(one)} ({sum(len(sample.ids) for sample in one):,} tokens)"
                for task, one in zip([*TASKS, FAR], [*setup.validation, setup.far], strict=True)
            )
        )
        if "validity" in wanted:
            validity(setup, n=options.validity, each=options.validity_each)
        if wanted & {"projections", "stability"}:
            columns = measure(
                setup.engine(), setup.samples, setup.validation, setup.far, RANDOM if "projections" in wanted else (),
                groups=stability_groups(setup) if "stability" in wanted else (), seed=setup.seed,
            )  # fmt: skip
            if "projections" in wanted:
                print_projections("2. q/k/v", columns, setup.difficulty)
                print_elements(columns, setup.difficulty, Path(temporary))
            through_the_package(setup, columns)
            if "stability" in wanted:
                print_meters(setup.store, setup.dataset, "3a. Meters of the exact run, 2 folds")
                whole = folder / "diq.duckdb"
                if whole.exists():
                    print_meters(whole, "medquad", "3a. Meters of the exact run of benches/real_run.py over the pool")
                print_stability(columns, setup.seed)
            print_low_rank(columns, setup.difficulty)
        if "lora" in wanted:
            adapter = make_adapter(setup, options.lora_steps)
            samples = setup.samples[: options.lora_samples]
            engine = setup.engine(checkpoint=adapter, params="lora")
            columns = measure(engine, samples, setup.validation, setup.far, RANDOM_LORA, seed=setup.seed)
            parameters = sum(math.prod(shape) for shape in engine.facts.weights.values())
            print_projections(
                f"2c. A and B of the adapter, {parameters:,} parameters", columns, setup.difficulty[: len(samples)]
            )


if __name__ == "__main__":
    main()
