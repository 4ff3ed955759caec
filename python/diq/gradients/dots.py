"""Recorders of a backward pass: dots with given directions, norms, terms of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from diq.base.errors import RunFailedError
from diq.gradients.backward import Recorder
from diq.gradients.kernels.dots import token_dots
from diq.gradients.losses import slices, wide
from diq.gradients.validation import ValidationGradient, squared_norm
from diq.models.experts import Routing, stack_product
from diq.models.layers import Weight, matrix_names
from diq.models.tokens import Batch


class Dots(Recorder):
    """Dots with the mean gradient of every fold of every validation set (Eq. 4): ``[n, columns]`` float64.

    The columns are the folds of the first set, then those of the second, and so on.

    Args:
        weights: those that count as parameters.
        validation: one gradient a validation set; taken one at a time, so a generator need not hold all of them.
        rank: replace each set's gradient by its leading singular directions in every module; None keeps it whole.
            The folds are seen within the same directions, so that their weighted mean stays the set's dot.
    """

    def __init__(
        self, weights: Mapping[str, Weight], validation: Iterable[ValidationGradient], *, rank: int | None = None
    ) -> None:
        self.rank = rank
        self.kept_shares: list[float | None] = []
        names = {name: matrix_names(name, weight) for name, weight in weights.items()}
        columns: dict[str, list[Tensor]] = {one: [] for matrices in names.values() for one in matrices}
        directions: dict[str, list[_Directions]] = {one: [] for one in columns}
        self.n_columns = 0
        for gradient in validation:
            # a whole further gradient, and only a rank has a use for it
            mean = {} if rank is None else gradient.mean()
            kept = 0.0
            for name, weight in weights.items():
                # in the model's dtype, so that the product with x runs on its fast path
                dtype = weight.parameter.dtype
                for one in names[name]:
                    folds = [fold[one] for fold in gradient.folds]
                    if rank is None:
                        columns[one].extend(fold.to(dtype) for fold in folds)
                    else:
                        found = _Directions.of(mean[one], folds, rank)
                        kept += float((found.left.T @ mean[one] @ found.right).double().square().sum())
                        directions[one].append(found.to(dtype))
            self.n_columns += len(gradient.folds)
            whole = squared_norm(mean)
            self.kept_shares.append(None if rank is None else kept / whole if whole else 1.0)
        # [columns * out, in]: all columns in one product; of a stack [experts, columns * out, in]
        self._stacked: dict[str, Tensor] = {}
        self._directions: dict[str, _Stacked] = {}
        for name, weight in weights.items():
            if rank is not None:
                self._directions |= {one: _Stacked(directions.pop(one)) for one in names[name]}
            elif weight.experts is None:
                self._stacked[name] = torch.cat(columns.pop(name))
            else:
                self._stacked[name] = torch.stack([torch.cat(columns.pop(one)) for one in names[name]])

    def begin(self, batch: Batch) -> None:
        self._batch = batch
        self._dots = torch.zeros(len(batch), self.n_columns, dtype=torch.float64, device=batch.ids.device)

    def record(self, name: str, x: Tensor, delta: Tensor, tokens: Batch) -> None:
        if self.rank is None:
            self._dots += tokens.token_sums(self.terms(name, x, delta))
        else:
            self._dots += self._directions[name].dots(tokens, x, delta)

    def record_stack(self, name: str, x: Tensor, delta: Tensor, routing: Routing) -> bool:
        if self.rank is not None:
            return False
        self._dots += self._batch.token_sums(self.stack_terms(name, x, delta, routing))
        return True

    def terms(self, name: str, x: Tensor, delta: Tensor) -> Tensor:
        """Terms of every token and column, ``[rows, t, columns]``."""
        return token_terms(x, delta, self._stacked[name], self.n_columns)

    def stack_terms(self, name: str, x: Tensor, delta: Tensor, routing: Routing) -> Tensor:
        """Terms of every token and column over all experts that saw it, ``[rows, t, columns]``."""
        terms = routing.by_token(_stack_terms(x, delta, self._stacked[name], self.n_columns, routing))
        return terms.view(*self._batch.ids.shape, self.n_columns)

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
    # a router may compute in another precision than its weight has
    terms = token_dots(delta.reshape(rows * t, -1), x.reshape(rows * t, -1), stacked.to(x.dtype), n_columns)
    return terms.view(rows, t, n_columns)


def _stack_terms(x: Tensor, delta: Tensor, stacked: Tensor, n_columns: int, routing: Routing) -> Tensor:
    """``<delta_s, V_e x_s>`` of every row, with the V of its expert: ``[s, columns]`` in float32 or wider."""
    terms = torch.zeros(len(x), n_columns, dtype=wide(x[:0]).dtype, device=x.device)
    if x.is_cuda:
        # a column at a time, so that no more than the rows themselves is in memory
        for column, matrices in enumerate(stacked.chunk(n_columns, dim=1)):
            product = stack_product(x, matrices, routing)
            terms[:, column] = torch.linalg.vecdot(wide(delta), wide(product))
        return terms
    for expert, first, end in routing.spans:
        terms[first:end] = token_dots(delta[first:end], x[first:end], stacked[expert], n_columns)
    return terms


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


class Norms(Recorder):
    """Euclidean norm of each sample's gradient: ``[n, 1]`` float64.

    ``||sum_t delta_t x_t^T||^2`` comes from the tokens' Gram matrices, ``sum_{t,s} <delta_t, delta_s> <x_t, x_s>``
    (t^2 (in + out) products), or from the outer product itself (t in out products), whichever is cheaper for the shape.
    """

    def begin(self, batch: Batch) -> None:
        self._squares = torch.zeros(len(batch), dtype=torch.float64, device=batch.ids.device)
        self._seen: set[str] = set()

    def record(self, name: str, x: Tensor, delta: Tensor, tokens: Batch) -> None:
        refuse_twice(name, self._seen, "a gradient norm")
        x, delta = tokens.by_sample(wide(x)), tokens.by_sample(wide(delta))
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


class TokenTerms(Recorder):
    """The terms of ``Dots`` before they are summed: ``[n, longest * columns]``, one a token (see ``diq explain``)."""

    def __init__(self, weights: Mapping[str, Weight], validation: Iterable[ValidationGradient]) -> None:
        self._dots = Dots(weights, validation)
        self.n_columns = self._dots.n_columns

    def begin(self, batch: Batch) -> None:
        self._batch = batch
        self._dots.begin(batch)
        rows, t = batch.ids.shape
        self._terms = torch.zeros(rows, t, self.n_columns, dtype=torch.float64, device=batch.ids.device)

    def record(self, name: str, x: Tensor, delta: Tensor, tokens: Batch) -> None:
        terms = self._dots.terms(name, x, delta).double()
        if tokens.positions is None:
            self._terms += terms
        else:
            self._terms.view(-1, self.n_columns).index_add_(0, tokens.positions, terms[0])

    def record_stack(self, name: str, x: Tensor, delta: Tensor, routing: Routing) -> bool:
        self._terms += self._dots.stack_terms(name, x, delta, routing).double()
        return True

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
