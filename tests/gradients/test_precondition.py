"""Preconditioned gradients against slow forms in float64: one sample at a time, dense inverses, no shared code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import build_llama
from diq.gradients.losses import Draw, token_losses
from diq.gradients.precondition import (
    Factor,
    Moments,
    MomentsRecorder,
    SquaresRecorder,
    precondition,
    run,
)
from diq.models.layers import linear_weights, matrix_names
from diq.models.tokens import Batch, Tokens, collate
from gradients.test_gradients import gpt2, llama_untied, mixtral, phi3, random_tokens

DAMPING = 0.1


@dataclass
class Slow:
    """Inputs and output gradients of one sample, ``[t, in]`` and ``[t, out]`` of each matrix, by hooks and autograd."""

    x: dict[str, Tensor]
    delta: dict[str, Tensor]


def drawn_at(samples: list[Tokens], seed: int) -> list[np.ndarray]:
    """A number of each token of each sample."""
    rng = np.random.default_rng(seed)
    return [rng.random(len(one.ids)) for one in samples]


def batched(
    samples: list[Tokens], at: list[np.ndarray] | None, size: int, **layout: Any
) -> list[tuple[Batch, Draw | None]]:
    found: list[tuple[Batch, Draw | None]] = []
    for start in range(0, len(samples), size):
        batch = collate(samples[start : start + size], **layout)
        draw = None
        if at is not None:
            numbers = torch.zeros(batch.ids.shape, dtype=torch.float64)
            numbers[batch.mask] = torch.from_numpy(np.concatenate(at[start : start + size]))
            draw = Draw(numbers)
        found.append((batch, draw))
    return found


def labels_of(logits: Tensor, at: np.ndarray) -> list[int]:
    """The plainest form of a draw: walk along the probabilities until they add up to the number."""
    found = []
    for row, number in zip(logits.detach().double().softmax(-1).tolist(), at.tolist(), strict=True):
        total, label = 0.0, len(row) - 1
        for i, share in enumerate(row):
            total += share
            if total > number:
                label = i
                break
        found.append(label)
    return found


def slow_sample(
    model: nn.Module, layers: dict[str, nn.Module], sample: Tokens, at: np.ndarray | None, reduction: str
) -> Slow:
    x: dict[str, Tensor] = {}
    out: dict[str, Tensor] = {}
    handles = []
    for name, layer in layers.items():

        def hook(_: Any, args: Any, output: Tensor, name: str = name) -> Tensor:
            x[name] = args[0][0].detach()
            out[name] = output.detach().requires_grad_() if not output.requires_grad else output
            return out[name]

        handles.append(layer.register_forward_hook(hook))
    ids = torch.from_numpy(sample.ids.astype(np.int64))[None]
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
    for handle in handles:
        handle.remove()
    labels = ids[0, 1:].clone()
    first = sample.answer_start - 1
    if at is not None:
        labels[first:] = torch.tensor(labels_of(logits[first:], at[sample.answer_start :]))
    labels[:first] = -100
    loss = nn.functional.cross_entropy(logits, labels, reduction=reduction)
    grads = torch.autograd.grad(loss, list(out.values()))
    return Slow(x, {name: grad[0] for name, grad in zip(out, grads, strict=True)})


class Case:
    """A small model in float64, samples, and what a slow pass over them gives."""

    def __init__(self, build: Any, *, draws: bool = True, reduction: Literal["mean", "sum"] = "mean") -> None:
        torch.manual_seed(0)
        self.model = build().double().eval()
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        # spread out, so that gradients are of every size
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.mul_(1 + torch.rand_like(parameter))
        self.weights = linear_weights(self.model, "qkv")
        self.reduction = reduction
        self.samples = random_tokens(14, 3)
        self.at = drawn_at(self.samples, 5) if draws else None
        modules = dict(self.model.named_modules())
        layers = {name: modules[name] for name in self.weights}
        # a parameter has to need a gradient for autograd to walk back
        self.slow = [
            slow_sample(self.model, layers, one, None if self.at is None else self.at[i], reduction)
            for i, one in enumerate(self.samples)
        ]

    def gradient(self, name: str, i: int) -> Tensor:
        return self.slow[i].delta[name].T @ self.slow[i].x[name]

    def dense(self, name: str) -> Tensor:
        """``S (x) A`` over the elements of ``[out, in]`` in rows: the plainest form of KFAC's curvature."""
        n, tokens = len(self.samples), sum(len(one.ids) for one in self.samples)
        s = sum(one.delta[name].T @ one.delta[name] for one in self.slow) / n
        a = sum(one.x[name].T @ one.x[name] for one in self.slow) / tokens
        return torch.kron(s, a)

    def recorded(self, recorder: Any, size: int = 4, **layout: Any) -> Any:
        run(
            self.model, self.weights, batched(self.samples, self.at, size, **layout), recorder, reduction=self.reduction
        )
        return recorder.found

    def factors(self, size: int = 4, **layout: Any) -> dict[str, Factor]:
        moments = self.recorded(MomentsRecorder(), size, **layout)
        return {name: Factor.of_moments(one, len(self.samples)) for name, one in moments.items()}

    def refitted(self, size: int = 4, **layout: Any) -> dict[str, Factor]:
        factors = self.factors(size, **layout)
        bases = {name: (one.left, one.right) for name, one in factors.items()}
        squares = self.recorded(SquaresRecorder(bases), size, **layout)
        return {name: Factor(squares[name] / len(self.samples), one.left, one.right) for name, one in factors.items()}


BUILDERS = [llama_untied, phi3]


@pytest.mark.parametrize("build", BUILDERS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("reduction", ["mean", pytest.param("sum", marks=pytest.mark.exhaustive)])
def test_kfac_is_the_dense_inverse(build: Any, reduction: Literal["mean", "sum"]) -> None:
    case = Case(build, reduction=reduction)
    factors = case.factors()
    assert set(factors) == set(case.weights)
    torch.manual_seed(1)
    for name, factor in list(factors.items())[:3]:
        v = torch.randn(*factor.values.shape, dtype=torch.float64)
        dense = case.dense(name)
        damped = dense + DAMPING * dense.diagonal().mean() * torch.eye(len(dense), dtype=torch.float64)
        expected = torch.linalg.solve(damped, v.reshape(-1)).view_as(v)
        torch.testing.assert_close(
            factor.solve(v, DAMPING), expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max())
        )


def test_without_damping_it_is_s_inverse_v_a_inverse() -> None:
    torch.manual_seed(0)
    x, delta = torch.randn(50, 6, dtype=torch.float64), torch.randn(50, 4, dtype=torch.float64)
    factor = Factor.of_moments(Moments(x.T @ x, delta.T @ delta, 50), 5)
    v = torch.randn(4, 6, dtype=torch.float64)
    expected = torch.linalg.inv(delta.T @ delta / 5) @ v @ torch.linalg.inv(x.T @ x / 50)
    torch.testing.assert_close(factor.solve(v, 0.0), expected)


@pytest.mark.parametrize("build", BUILDERS, ids=lambda one: one.__name__)
def test_ekfac_divides_by_second_moments_in_the_eigenbasis(build: Any) -> None:
    case = Case(build)
    factors = case.refitted()
    torch.manual_seed(1)
    for name, factor in list(factors.items())[:3]:
        n, tokens = len(case.samples), sum(len(one.ids) for one in case.samples)
        left = np.linalg.eigh((sum(one.delta[name].T @ one.delta[name] for one in case.slow) / n).numpy())[1]
        right = np.linalg.eigh((sum(one.x[name].T @ one.x[name] for one in case.slow) / tokens).numpy())[1]
        basis = torch.from_numpy(np.kron(left, right))
        coordinates = torch.stack([case.gradient(name, i).reshape(-1) for i in range(n)]) @ basis
        values = coordinates.square().mean(dim=0)
        v = torch.randn(*factor.values.shape, dtype=torch.float64)
        expected = (basis @ ((v.reshape(-1) @ basis) / (values + DAMPING * values.mean()))).view_as(v)
        # eigenvectors of eigenvalue 0 are any: no gradient has a part there
        torch.testing.assert_close(
            factor.solve(v, DAMPING), expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max())
        )


def test_adam_divides_by_the_root_of_second_moments_under_the_real_labels() -> None:
    case = Case(llama_untied, draws=False)
    squares = case.recorded(SquaresRecorder())
    torch.manual_seed(1)
    for name, total in list(squares.items())[:3]:
        expected = torch.stack([case.gradient(name, i) for i in range(len(case.samples))]).square().mean(dim=0)
        torch.testing.assert_close(total / len(case.samples), expected)
        v = torch.randn(*total.shape, dtype=torch.float64)
        root = expected.sqrt()
        solved = Factor(expected, is_root=True).solve(v, DAMPING)
        torch.testing.assert_close(solved, v / (root + DAMPING * root.mean()))


def test_the_fisher_of_one_repeated_input_is_inverted_exactly() -> None:
    """With one input the factors are no approximation: kfac with all labels is the damped Fisher matrix."""
    torch.manual_seed(0)
    x = torch.randn(1, 5, dtype=torch.float64)
    weight = torch.randn(4, 5, dtype=torch.float64)
    p = (weight @ x[0]).softmax(0)
    # gradients of every label, and how likely it is
    deltas = p[None] - torch.eye(4, dtype=torch.float64)
    fisher = sum(
        share * torch.outer((d[:, None] * x).reshape(-1), (d[:, None] * x).reshape(-1))
        for share, d in zip(p, deltas, strict=True)
    )
    s = sum(share * torch.outer(d, d) for share, d in zip(p, deltas, strict=True))
    factor = Factor.of_moments(Moments(x.T @ x, s, 1), 1)
    v = torch.randn(4, 5, dtype=torch.float64)
    damped = fisher + DAMPING * fisher.diagonal().mean() * torch.eye(20, dtype=torch.float64)
    expected = torch.linalg.solve(damped, v.reshape(-1)).view(4, 5)
    torch.testing.assert_close(factor.solve(v, DAMPING), expected)


def test_labels_are_drawn_as_likely_as_the_model_has_them_and_alike_in_any_batch() -> None:
    case = Case(llama_untied)
    alone = [token_losses(case.model, *pair).values for pair in batched(case.samples, case.at, 1)]
    for layout in ({"size": 14}, {"size": 5}, {"size": 14, "packed": True}):
        together = torch.cat(
            [token_losses(case.model, *pair).values for pair in batched(case.samples, case.at, **layout)]
        )
        torch.testing.assert_close(together, torch.cat(alone))
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0]]).expand(20_000, 4)
    at = torch.rand(1, 20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows, columns = torch.zeros(20_000, dtype=torch.long), torch.arange(20_000)
    drawn = Draw(at).labels(logits, rows, columns)
    shares = torch.bincount(drawn, minlength=4) / 20_000
    assert float((shares - logits[0].softmax(0)).abs().max()) < 0.012
    # the ends of the interval draw a label that there is
    assert Draw(torch.tensor([[0.0, 1.0 - 1e-16]])).labels(logits[:2], rows[:2], columns[:2]).tolist() == [0, 3]


@pytest.mark.parametrize("build", [gpt2, mixtral], ids=lambda one: one.__name__)
def test_any_batch_gives_the_same_factors(build: Any) -> None:
    torch.manual_seed(0)
    model = build().double().eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    weights = linear_weights(model, "all-linear" if build is mixtral else "qkv")
    samples = random_tokens(10, 4)
    at = drawn_at(samples, 1)

    def found(size: int, **layout: Any) -> dict[str, Factor]:
        moments, squares = MomentsRecorder(), SquaresRecorder()
        run(model, weights, batched(samples, at, size, **layout), moments)
        run(model, weights, batched(samples, at, size, **layout), squares)
        assert set(moments.found) == set(squares.found)
        return {
            name: Factor(one, moments.found[name].outputs, moments.found[name].inputs)
            for name, one in squares.found.items()
        }

    one = found(1)
    names = {each for name, weight in weights.items() for each in matrix_names(name, weight)}
    assert set(one) <= names
    for layout in ({"size": 10}, {"size": 3}, {"size": 10, "packed": True}):
        other = found(**layout)
        assert set(other) == set(one)
        for name in one:
            for attribute in ("values", "left", "right"):
                mine, theirs = getattr(one[name], attribute), getattr(other[name], attribute)
                torch.testing.assert_close(theirs, mine, rtol=1e-9, atol=1e-11 * float(mine.abs().max() + 1e-30))


def test_what_has_no_factor_counts_nothing_and_what_is_flat_is_not_divided_by() -> None:
    v = {"a": torch.ones(2, 3), "b": torch.ones(2, 3), "c": torch.ones(2, 3)}
    factors = {"a": Factor(torch.full((2, 3), 4.0)), "b": Factor(torch.zeros(2, 3))}
    (solved,) = precondition([v], factors.get, 0.5)
    torch.testing.assert_close(solved["a"], torch.full((2, 3), 1 / 6))
    assert not solved["b"].any()
    assert not solved["c"].any()
    assert factors["b"].is_singular(0.5)
    assert not factors["a"].is_singular(0.0)
    assert Factor(torch.tensor([[1.0, 0.0]])).is_singular(0.0)


def test_low_precision_is_widened() -> None:
    model = build_llama().to(torch.bfloat16).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    weights = linear_weights(model, "qkv")
    recorder = MomentsRecorder()
    samples = random_tokens(4, 0)
    run(model, weights, batched(samples, drawn_at(samples, 0), 2), recorder)
    for moments in recorder.found.values():
        factor = Factor.of_moments(moments, 4)
        assert factor.values.dtype == torch.float32
        assert torch.isfinite(factor.solve(torch.ones(factor.values.shape, dtype=torch.bfloat16), 0.1)).all()
