"""Influence without per-sample gradients: one forward and one backward for activation gradients alone.

For a linear layer with weight W, input x_t and output gradient delta_t, the gradient of a sample is
``sum_t delta_t x_t^T``; its dot with a matrix V is ``sum_t <delta_t, V x_t>``. So with V the mean validation gradient
(Eq. 3 of arXiv 2508.01450), the influence of every sample of a batch (Eq. 4) falls out of one backward pass, and
neither a weight gradient nor a per-sample gradient is ever formed. ``Dots`` computes that; ``Norms``, ``TokenTerms``
and the projections (``diq.projections``) look at the same ``(x, delta)`` of the same pass.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from diq.errors import ModelError, RunFailedError
from diq.kernels.dots import token_dots
from diq.models import is_transposed
from diq.samples import Batch, Tokens, collate

Reduction = Literal["mean", "sum"]
MatrixGradients = dict[str, Tensor]
"""Module name to a matrix ``[out, in]`` float32 (float64 for float64 models), whatever layout the module stores."""

_Record = Callable[[str, Tensor, Tensor], None]
# numbers of a transient matrix; above it a batch is taken in parts
_TRANSIENT = 1 << 26


class _TappedLinear(torch.autograd.Function):
    """A frozen linear layer that hands ``(x, delta)`` to a recorder on the way back."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, anchor: Tensor, weight: Tensor, bias: Tensor | None, name: str, record: _Record
    ) -> Tensor:
        # weight is [out, in]; anchor makes the output need a gradient even where x does not (the first layer)
        ctx.save_for_backward(x, weight)
        ctx.name, ctx.record = name, record
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        ctx.record(ctx.name, x, delta)
        return (delta @ weight if ctx.needs_input_grad[0] else None, None, None, None, None, None)


def _weight(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight ``[out, in]`` and bias of a linear module."""
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    assert bias is None or isinstance(bias, Tensor)
    return (weight.detach().T if is_transposed(module) else weight.detach()), bias


@contextlib.contextmanager
def _forwards(modules: Mapping[str, nn.Module], forward_of: Callable[[str, nn.Module], Any]) -> Iterator[None]:
    """Replace the forward of modules for the time of a ``with`` block."""
    # a forward set on the instance by somebody else (an offloading hook, say) is put back as it was
    before = {name: module.__dict__.get("forward") for name, module in modules.items()}
    try:
        for name, module in modules.items():
            module.forward = forward_of(name, module)
        # a compiled graph would go around what was replaced
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for name, module in modules.items():
            earlier = before[name]
            if earlier is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = earlier


def tapped(modules: Mapping[str, nn.Module], record: _Record) -> contextlib.AbstractContextManager[None]:
    """Let linear modules report their input and output gradient for the time of a ``with`` block.

    Args:
        modules: name to ``nn.Linear`` or ``Conv1D``.
        record: called once a module and backward with the name, the input ``[..., in]`` and the output gradient
            ``[..., out]``.
    """

    def forward_of(name: str, module: nn.Module) -> Callable[[Tensor], Tensor]:
        weight, bias = _weight(module)
        anchor = torch.zeros((), device=weight.device, requires_grad=True)

        def forward(x: Tensor) -> Tensor:
            return _TappedLinear.apply(x, anchor, weight, bias, name, record)  # type: ignore[no-any-return]

        return forward

    return _forwards(modules, forward_of)


# losses ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """Losses of the answer tokens of a batch.

    Attributes:
        values: cross-entropy of each answer token in nats, float32 (float64 for a float64 model) ``[a]``.
        sample: which sample of the batch each belongs to ``[a]``.
        counts: answer tokens of each sample ``[n]``.
    """

    values: Tensor
    sample: Tensor
    counts: Tensor

    def by_sample(self, reduction: Reduction) -> Tensor:
        """Mean or sum over the answer tokens of each sample ``[n]``; 0 for a sample without one."""
        total = torch.zeros(len(self.counts), dtype=self.values.dtype, device=self.values.device)
        total = total.index_add(0, self.sample, self.values)
        return total / self.counts.clamp(min=1) if reduction == "mean" else total


def token_losses(model: nn.Module, batch: Batch) -> TokenLosses:
    """Losses of the answer tokens, with the language-model head run on their positions alone.

    Args:
        model: a causal language model of transformers.
        batch: tokens on the model's device.
    """
    # position t - 1 predicts token t; the first token of a packed sample is never an answer token
    predicting = batch.answer[:, 1:]
    rows, columns = predicting.nonzero(as_tuple=True)
    labels = batch.ids[:, 1:][rows, columns]
    sample = batch.sample_of(rows, columns)
    counts = torch.bincount(sample, minlength=len(batch))
    options: dict[str, Any] = {"use_cache": False}
    position_ids = batch.position_ids()
    if position_ids is not None:
        options["position_ids"] = position_ids
    if batch.padded_left:
        options["attention_mask"] = batch.mask.long()
    with _head_on(model, rows, columns):
        logits = model(input_ids=batch.ids, **options).logits[0]
    return TokenLosses(F.cross_entropy(wide(logits), labels, reduction="none"), sample, counts)


def packing_problem(model: nn.Module, samples: Sequence[Tokens], device: torch.device) -> str | None:
    """Whether the attention looks across the borders of packed samples, in words; None where it does not.

    Args:
        model: a causal language model.
        samples: the first two are tried; fewer cannot be packed.
        device: of the model.
    """
    if len(samples) < 2:
        return None
    with torch.no_grad():
        apart = token_losses(model, collate(samples[1:2]).to(device)).by_sample("mean")
        together = token_losses(model, collate(samples[:2], packed=True).to(device)).by_sample("mean")
    precise = next(model.parameters()).dtype in (torch.float32, torch.float64)
    tolerance = 1e-4 if precise else 2e-2
    if torch.isclose(apart[0], together[1], rtol=tolerance, atol=tolerance):
        return None
    return (
        f"{type(model).__name__} looks across the borders of packed samples: the loss of one changed from "
        f"{float(apart[0]):.4f} to {float(together[1]):.4f}"
    )


@contextlib.contextmanager
def _head_on(model: nn.Module, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Let the language-model head see only the hidden states at ``(rows, columns)``, as one row ``[1, n, hidden]``.

    Whatever the model does to its logits afterwards (soft caps, scales) is element by element and stays exact.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    handle = head.register_forward_pre_hook(lambda _module, args: (args[0][rows, columns].unsqueeze(0), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Gradient checkpointing for the time of a ``with`` block: each layer is computed again on the way back.

    Only the layers themselves are put into training mode, which is what switches it on; what is inside them stays in
    evaluation mode, so no dropout comes with it.

    Raises:
        ModelError: the model cannot do it.
    """
    network: Any = model
    if not getattr(network, "supports_gradient_checkpointing", False):
        raise ModelError(f"{type(model).__name__} cannot do gradient checkpointing", "leave out --checkpointing")
    # the older name is deprecated in newer releases
    enable = getattr(network, "activation_checkpointing_enable", network.gradient_checkpointing_enable)
    disable = getattr(network, "activation_checkpointing_disable", network.gradient_checkpointing_disable)
    enable({"use_reentrant": False})
    layers = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
        disable()


# one pass, several recorders ---------------------------------------------------------------------------------------


class Recorder(Protocol):
    """Something that makes numbers of each sample out of the ``(x, delta)`` of the chosen modules."""

    def begin(self, batch: Batch) -> None:
        """A pass over a batch begins."""

    def record(self, name: str, x: Tensor, delta: Tensor) -> None:
        """A module reports its input ``[rows, t, in]`` and its output gradient ``[rows, t, out]``."""

    def finish(self) -> Tensor:
        """The numbers of the batch's samples, ``[n, k]``."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What a pass over a batch gives, all on the CPU.

    Attributes:
        values: what each recorder made, ``[n, k]``.
        losses: loss of each sample ``[n]``; 0 without an answer token.
        counts: answer tokens of each sample ``[n]``.
    """

    values: tuple[Tensor, ...]
    losses: Tensor
    counts: Tensor


def backward_pass(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    batch: Batch,
    recorders: Sequence[Recorder],
    *,
    reduction: Reduction = "mean",
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """One forward and one backward for activation gradients; every recorder sees every chosen module.

    Args:
        model: a causal language model; its parameters need no gradients.
        modules: the linear modules that count as parameters.
        batch: tokens, on the model's device.
        recorders: they are told that the batch begins; the caller finishes them.
        reduction: over the answer tokens of a sample.
        scale: what the sum of the losses is multiplied by.

    Returns:
        Losses ``[n]`` and answer tokens ``[n]``.

    Raises:
        ModelError: a module reported nothing (its forward was bypassed), or not the tokens of the batch.
    """
    reported = set()

    def record(name: str, x: Tensor, delta: Tensor) -> None:
        reported.add(name)
        if x.shape[:-1] != batch.ids.shape:
            x, delta = _as_tokens(name, x, batch), _as_tokens(name, delta, batch)
        for one in recorders:
            one.record(name, x, delta)

    for one in recorders:
        one.begin(batch)
    with tapped(modules, record):
        token = token_losses(model, batch)
        losses = token.by_sample(reduction)
        if token.values.requires_grad:
            (losses.sum() * scale).backward()  # type: ignore[no-untyped-call]
    silent = [name for name in modules if name not in reported]
    if silent and len(token.values):
        raise ModelError(
            f"{len(silent)} of {len(modules)} chosen modules reported no gradient, first `{silent[0]}`: the model "
            "does not call them (a fused kernel, torch.compile, or a layer without effect on the answer)",
            "load the model without fused kernels and uncompiled, or name other modules with --params",
        )
    return losses.detach(), token.counts


def _as_tokens(name: str, values: Tensor, batch: Batch) -> Tensor:
    rows, t = batch.ids.shape
    # some models flatten rows and tokens into one dimension
    if values.dim() == 2 and len(values) == rows * t:
        return values.view(rows, t, -1)
    raise ModelError(
        f"`{name}` sees {tuple(values.shape[:-1])} tokens where the batch has {(rows, t)} "
        "(a mixture-of-experts layer, or one that is not run on every token)",
        "leave it out with --params",
    )


def score_batch(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    batch: Batch,
    recorders: Sequence[Recorder],
    *,
    reduction: Reduction = "mean",
) -> Scored:
    """Pass over a batch and collect what the recorders made of it.

    A sample without an answer token has zeros and count 0; a sample whose loss is not finite has values that are not
    finite or not meaningful: the caller leaves both out.
    """
    placed = batch.to(next(model.parameters()).device)
    losses, counts = backward_pass(model, modules, placed, recorders, reduction=reduction)
    return Scored(tuple(one.finish().cpu() for one in recorders), losses.cpu(), counts.cpu())


# validation gradients ----------------------------------------------------------------------------------------------


class _Mean:
    """Adds up the gradients of all samples."""

    def __init__(self) -> None:
        self.total: MatrixGradients = {}

    def begin(self, batch: Batch) -> None:
        self._batch = batch

    def record(self, name: str, x: Tensor, delta: Tensor) -> None:
        gradient = wide(self._batch.token_rows(delta)).T @ wide(self._batch.token_rows(x))
        self.total[name] = self.total[name] + gradient if name in self.total else gradient

    def finish(self) -> Tensor:
        return torch.empty(0)


def mean_gradient(
    model: nn.Module, modules: Mapping[str, nn.Module], batches: Sequence[Batch], *, reduction: Reduction = "mean"
) -> MatrixGradients:
    """Mean gradient of the samples of some batches (Eq. 3): ``(1/n) sum_z g(z)`` for each module.

    Args:
        model: a causal language model, on the device of the result.
        modules: the linear modules that count as parameters.
        batches: tokens; every sample has at least one answer token.
        reduction: over the answer tokens of a sample.

    Returns:
        A matrix ``[out, in]`` a module, float32 (float64 for a float64 model).
    """
    n = sum(len(batch) for batch in batches)
    mean = _Mean()
    device = next(model.parameters()).device
    for batch in batches:
        backward_pass(model, modules, batch.to(device), [mean], reduction=reduction, scale=1 / n)
    # the backward pass met them last to first
    return {name: mean.total[name] for name in modules}


@dataclass(frozen=True, slots=True)
class ValidationGradient:
    """Mean gradient of each fold of a validation set; together they are the mean gradient of the set.

    Attributes:
        folds: mean gradient of each fold.
        sizes: samples of each fold.
    """

    folds: tuple[MatrixGradients, ...]
    sizes: tuple[int, ...]

    def mean(self) -> MatrixGradients:
        """Mean gradient of the set (Eq. 3)."""
        if len(self.folds) == 1:
            return self.folds[0]
        shares = self.shares()
        return {
            name: sum((share * fold[name] for share, fold in zip(shares, self.folds, strict=True)), torch.tensor(0.0))
            for name in self.folds[0]
        }

    def shares(self) -> list[float]:
        """Share of each fold in the mean."""
        return [size / sum(self.sizes) for size in self.sizes]

    def norm(self) -> float:
        """Euclidean norm of the mean gradient."""
        return math.sqrt(squared_norm(self.mean()))


def squared_norm(gradient: MatrixGradients) -> float:
    """Squared Euclidean norm over all modules."""
    return float(sum(one.double().square().sum() for one in gradient.values()))


# recorders ---------------------------------------------------------------------------------------------------------


class Dots:
    """Dots with the mean gradient of every fold of every validation set (Eq. 4): ``[n, columns]`` float64.

    The columns are the folds of the first set, then those of the second, and so on.

    Args:
        modules: the linear modules that count as parameters.
        validation: one gradient a validation set; taken one at a time, so a generator need not hold all of them.
        rank: replace each set's gradient by its leading singular directions in every module; None keeps it whole.
            The folds are seen within the same directions, so that their weighted mean stays the set's dot.
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], validation: Iterable[ValidationGradient], *, rank: int | None = None
    ) -> None:
        self.rank = rank
        self.kept_shares: list[float | None] = []
        columns: dict[str, list[Tensor]] = {name: [] for name in modules}
        directions: dict[str, list[_Directions]] = {name: [] for name in modules}
        self.n_columns = 0
        for gradient in validation:
            # a whole further gradient, and only a rank has a use for it
            mean = {} if rank is None else gradient.mean()
            kept = 0.0
            for name, module in modules.items():
                # in the model's dtype, so that the product with x runs on its fast path
                dtype = next(module.parameters()).dtype
                folds = [fold[name] for fold in gradient.folds]
                if rank is None:
                    columns[name].extend(fold.to(dtype) for fold in folds)
                else:
                    found = _Directions.of(mean[name], folds, rank)
                    kept += float((found.left.T @ mean[name] @ found.right).double().square().sum())
                    directions[name].append(found.to(dtype))
            self.n_columns += len(gradient.folds)
            whole = squared_norm(mean)
            self.kept_shares.append(None if rank is None else kept / whole if whole else 1.0)
        # [columns * out, in]: all columns in one product
        self._stacked = {name: torch.cat(one) for name, one in columns.items()} if rank is None else {}
        self._directions = {} if rank is None else {name: _Stacked(one) for name, one in directions.items()}

    def begin(self, batch: Batch) -> None:
        self._batch = batch
        self._dots = torch.zeros(len(batch), self.n_columns, dtype=torch.float64, device=batch.ids.device)

    def record(self, name: str, x: Tensor, delta: Tensor) -> None:
        if self.rank is None:
            self._dots += self._batch.token_sums(token_terms(x, delta, self._stacked[name], self.n_columns))
        else:
            self._dots += self._directions[name].dots(self._batch, x, delta)

    def finish(self) -> Tensor:
        return self._dots


def token_terms(x: Tensor, delta: Tensor, stacked: Tensor, n_columns: int) -> Tensor:
    """``<delta_t, V x_t>`` of every token and column, ``[rows, t, columns]`` in float32 or wider.

    Args:
        x: ``[rows, t, in]``.
        delta: ``[rows, t, out]``.
        stacked: ``[columns * out, in]``.
        n_columns: number of matrices V.
    """
    rows, t = x.shape[:2]
    terms = token_dots(delta.reshape(rows * t, -1), x.reshape(rows * t, -1), stacked, n_columns)
    return terms.view(rows, t, n_columns)


@dataclass(frozen=True, slots=True)
class _Directions:
    """Leading singular directions of a mean gradient, and the folds' gradients within them.

    ``left`` is ``[out, r]``, ``right`` ``[in, r]``, ``cores`` ``[folds, r, r]``: fold f is ``left cores[f] right^T``.
    """

    left: Tensor
    right: Tensor
    cores: Tensor

    @staticmethod
    def of(mean: Tensor, folds: Sequence[Tensor], rank: int) -> _Directions:
        left, right = leading_directions(mean, rank)
        return _Directions(left, right, torch.stack([left.T @ fold @ right for fold in folds]))

    def to(self, dtype: torch.dtype) -> _Directions:
        return _Directions(self.left.to(dtype), self.right.to(dtype), self.cores)


def leading_directions(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Leading left ``[out, r]`` and right ``[in, r]`` singular directions of ``[out, in]``, r = min(rank, out, in)."""
    r = min(rank, *matrix.shape)
    if min(matrix.shape) <= 1024:
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        return left[:, :r].contiguous(), right[:r].T.contiguous()
    # randomised subspace iteration for large matrices; from a fixed seed, so that a resumed run has the same basis
    with torch.random.fork_rng(devices=[matrix.device] if matrix.is_cuda else []):
        torch.manual_seed(0)
        left, _, right = torch.svd_lowrank(matrix, q=min(r + 16, *matrix.shape), niter=8)
    return left[:, :r].contiguous(), right[:, :r].contiguous()


class _Stacked:
    """The directions of all sets of one module, for one product a side."""

    def __init__(self, sets: Sequence[_Directions]) -> None:
        self._left = torch.cat([one.left.T for one in sets])
        self._right = torch.cat([one.right.T for one in sets])
        self._cores = [one.cores for one in sets]
        self._n_sets = len(sets)

    def dots(self, batch: Batch, x: Tensor, delta: Tensor) -> Tensor:
        """``sum_t <U^T delta_t, C W^T x_t>`` for the core C of every fold: ``[n, columns]`` float64."""
        a = batch.by_sample(wide(F.linear(x, self._right)))
        b = batch.by_sample(wide(F.linear(delta, self._left)))
        found = []
        for a_set, b_set, cores in zip(
            a.chunk(self._n_sets, dim=2), b.chunk(self._n_sets, dim=2), self._cores, strict=True
        ):
            # [n, r, r]: the sample's gradient in these directions
            coordinates = (b_set.transpose(1, 2) @ a_set).double()
            found.append(torch.einsum("nij,fij->nf", coordinates, cores.double()))
        return torch.cat(found, dim=1)


class Norms:
    """Euclidean norm of each sample's gradient: ``[n, 1]`` float64.

    ``||sum_t delta_t x_t^T||^2`` comes from the tokens' Gram matrices, ``sum_{t,s} <delta_t, delta_s> <x_t, x_s>``
    (t^2 (in + out) products), or from the outer product itself (t in out products), whichever is cheaper for the shape.
    """

    def begin(self, batch: Batch) -> None:
        self._batch = batch
        self._squares = torch.zeros(len(batch), dtype=torch.float64, device=batch.ids.device)
        self._seen: set[str] = set()

    def record(self, name: str, x: Tensor, delta: Tensor) -> None:
        refuse_twice(name, self._seen, "a gradient norm")
        x, delta = self._batch.by_sample(wide(x)), self._batch.by_sample(wide(delta))
        n, t = x.shape[:2]
        width, height = x.shape[2], delta.shape[2]
        by_tokens = t * (width + height) < width * height
        each = t * t if by_tokens else width * height
        for part in slices(n, each):
            xs, ds = x[part], delta[part]
            if by_tokens:
                squares = ((xs @ xs.transpose(1, 2)) * (ds @ ds.transpose(1, 2))).sum(dim=(1, 2), dtype=torch.float64)
            else:
                squares = (ds.transpose(1, 2) @ xs).square().sum(dim=(1, 2), dtype=torch.float64)
            self._squares[part] += squares

    def finish(self) -> Tensor:
        # rounding may leave a tiny negative number of a zero gradient
        return self._squares.clamp(min=0).sqrt()[:, None]


class TokenTerms:
    """The terms of ``Dots`` before they are summed: ``[n, longest * columns]``, one a token (see ``diq explain``)."""

    def __init__(self, modules: Mapping[str, nn.Module], validation: Iterable[ValidationGradient]) -> None:
        self._dots = Dots(modules, validation)
        self.n_columns = self._dots.n_columns

    def begin(self, batch: Batch) -> None:
        self._batch = batch
        rows, t = batch.ids.shape
        self._terms = torch.zeros(rows, t, self.n_columns, dtype=torch.float64, device=batch.ids.device)

    def record(self, name: str, x: Tensor, delta: Tensor) -> None:
        self._terms += token_terms(x, delta, self._dots._stacked[name], self.n_columns).double()

    def finish(self) -> Tensor:
        return self._batch.by_sample(self._terms).flatten(1)


def refuse_twice(name: str, seen: set[str], what: str) -> None:
    """Stop where a module runs twice in one pass: what is not linear in the gradient would be wrong."""
    if name in seen:
        raise RunFailedError(
            f"the module `{name}` runs twice in one pass (its weights are shared), and {what} would need both at once",
            "leave it out with --params; dots alone are right",
        )
    seen.add(name)


def slices(n: int, each: int) -> list[slice]:
    """Parts of n samples such that a transient of ``each`` numbers a sample stays small."""
    step = max(1, _TRANSIENT // max(1, each))
    return [slice(at, min(n, at + step)) for at in range(0, n, step)]


def wide(values: Tensor) -> Tensor:
    """At least float32."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


# forward mode ------------------------------------------------------------------------------------------------------


class Forward:
    """The same dots without any backward pass: the derivative of a sample's loss along V, for models whose activations
    do not fit (``<g(z), V> = d/de loss(z; W + e V)`` at e = 0).

    One pass a column: by forward-mode differentiation, or by central differences, which is two plain forwards at
    ``W + e V`` and ``W - e V``. The weights are never changed: ``e V x`` is added to the output of each module.

    Args:
        model: a causal language model.
        modules: the linear modules that count as parameters.
        validation: one gradient a validation set.
        central: central differences in place of forward mode.
        step: length of ``e V`` relative to the weights, for central differences.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: Mapping[str, nn.Module],
        validation: Iterable[ValidationGradient],
        *,
        central: bool = False,
        step: float = 1e-3,
    ) -> None:
        self.model, self.modules, self.central = model, dict(modules), central
        self._columns: list[MatrixGradients] = []
        self._steps: list[float] = []
        weights = math.sqrt(sum(float(_weight(one)[0].double().square().sum()) for one in modules.values()))
        for gradient in validation:
            for fold in gradient.folds:
                length = math.sqrt(squared_norm(fold))
                self._steps.append(step * weights / length if length else 1.0)
                self._columns.append({name: fold[name].to(_weight(one)[0].dtype) for name, one in modules.items()})
        self.n_columns = len(self._columns)

    def score(self, batch: Batch, *, reduction: Reduction = "mean") -> Scored:
        """Dots ``[n, columns]`` float64, losses and counts of a batch, as :func:`score_batch` gives them."""
        placed = batch.to(next(self.model.parameters()).device)
        found = []
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            for column, step in zip(self._columns, self._steps, strict=True):
                token, terms = self._along(placed, column, step)
                found.append(TokenLosses(terms.double(), token.sample, token.counts).by_sample(reduction))
            losses = token.by_sample(reduction)
        return Scored((torch.stack(found, dim=1).cpu(),), losses.cpu(), token.counts.cpu())

    def token_derivatives(self, batch: Batch, column: int) -> tuple[TokenLosses, Tensor]:
        """Losses of the answer tokens and the derivative of each along one column."""
        placed = batch.to(next(self.model.parameters()).device)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            return self._along(placed, self._columns[column], self._steps[column])

    def _along(self, batch: Batch, column: MatrixGradients, step: float) -> tuple[TokenLosses, Tensor]:
        if not self.central:
            with forward_ad.dual_level(), _forwards(self.modules, _dual_forward(column)):
                token = token_losses(self.model, batch)
                value, tangent = forward_ad.unpack_dual(token.values)  # type: ignore[no-untyped-call]
                if tangent is None:
                    tangent = torch.zeros_like(value)
                return TokenLosses(value.clone(), token.sample, token.counts), tangent.clone()
        sides = []
        for sign in (1, -1):
            with _forwards(self.modules, _shifted_forward(column, sign * step)):
                sides.append(token_losses(self.model, batch))
        ahead, behind = sides
        middle = TokenLosses((ahead.values + behind.values) / 2, ahead.sample, ahead.counts)
        return middle, (ahead.values.double() - behind.values.double()) / (2 * step)


def _dual_forward(column: MatrixGradients) -> Callable[[str, nn.Module], Callable[[Tensor], Tensor]]:
    def forward_of(name: str, module: nn.Module) -> Callable[[Tensor], Tensor]:
        weight, bias = _weight(module)

        def forward(x: Tensor) -> Tensor:
            dual = forward_ad.make_dual(weight, column[name])  # type: ignore[no-untyped-call]
            return F.linear(x, dual, bias)

        return forward

    return forward_of


def _shifted_forward(column: MatrixGradients, step: float) -> Callable[[str, nn.Module], Callable[[Tensor], Tensor]]:
    def forward_of(name: str, module: nn.Module) -> Callable[[Tensor], Tensor]:
        weight, bias = _weight(module)

        def forward(x: Tensor) -> Tensor:
            return F.linear(x, weight, bias) + step * F.linear(x, column[name])

        return forward

    return forward_of
