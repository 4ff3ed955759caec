"""The influence engine: a loaded model that scores batches of samples by one of the methods.

An engine is made from ``EngineSettings``, which can be sent to another process (``engines``).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diq.base.errors import ModelError, RunFailedError
from diq.base.text import amount
from diq.gradients.adam import unit_mean
from diq.gradients.adam_state import AdamMoments, read_adam_moments
from diq.gradients.backward import MatrixGradients, Recorder, Scored, score_batch
from diq.gradients.dots import Dots, Norms
from diq.gradients.factors import Sums, read_bases, read_factor, write_factors, write_sums
from diq.gradients.forward import Forward
from diq.gradients.losses import Draw, checkpointed, packing_problem
from diq.gradients.options import Formula, Method, Precondition, Reduction
from diq.gradients.precondition import MomentsRecorder, SquaresRecorder, precondition, run
from diq.gradients.projections import (
    Basis,
    Projection,
    Rademacher,
    Sparse,
    Subspace,
    basis_arrays,
    basis_from_arrays,
    leading_basis,
)
from diq.gradients.reach import Reach, reach
from diq.gradients.validation import ValidationFacts, ValidationGradient, ValidationTokens, mean_gradient
from diq.models.architecture import layers_of, rope_change, vocabulary_size
from diq.models.device import describe_environment
from diq.models.layers import Coverage, Weight, coverage, linear_weights, matrix_names
from diq.models.memory import (
    TooSmallError,
    default_budget,
    fitting_tokens,
    halving,
    is_out_of_memory,
    one_line_of_memory,
    release,
)
from diq.models.network import load_causal_lm
from diq.models.source import ModelSource, is_adapter
from diq.models.tokens import Tokenization, Tokens, collate, plan_batches

# what makes the validation gradients fit, and one sample
_VALIDATION_HINT = "use --rank 16, --folds 1, fewer validation sets, or --dtype bfloat16"
_HINT = "use --dtype bfloat16 or --method forward, or lower --max-length"

Found = TypeVar("Found")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Everything that an engine is made from.

    Attributes:
        model: the base model.
        checkpoint: an adapter or a full model in its place; None for the base model itself.
        method: one of ``METHODS``.
        params: which weights count (``models.linear_weights``).
        reduction: over the answer tokens of a sample.
        dtype: precision of the model.
        device: device of the model; None lets several workers share what there is.
        folds: parts of each validation set; each sample of the pool gets a dot with each.
        rank: leading singular directions that stand for each validation gradient; None for all of it.
        norms: whether gradient norms are computed.
        checkpointing: whether layers are computed again on the way back, to save memory.
        packed: whether samples are packed without padding.
        attention: attention implementation of transformers; None leaves the choice to it.
        token_budget: tokens a batch; None takes the default of the device.
        kind: kind of projection.
        dim: its columns; for ``subspace`` the number of directions a side and module.
        seed: of the random kinds.
        formula: form of LESS's Adam direction.
        basis: arrays of a ``subspace`` basis that exists; None makes one from the validation sets.
        precondition: what the validation gradients are multiplied by; other than ``none``, ``factors`` is given.
        damping: of the preconditioner, relative to the mean of what is divided by.
        factors: folder that its factors are read from.
    """

    model: ModelSource
    checkpoint: ModelSource | None = None
    method: Method = "exact"
    params: str = "qkv"
    reduction: Reduction = "mean"
    dtype: str = "auto"
    device: str = "auto"
    folds: int = 1
    rank: int | None = None
    norms: bool = False
    checkpointing: bool = False
    packed: bool = False
    attention: str | None = None
    token_budget: int | None = None
    kind: str = "rademacher"
    dim: int = 4096
    seed: int = 0
    formula: Formula = "code"
    basis: dict[str, Any] | None = None
    precondition: Precondition = "none"
    damping: float = 0.1
    factors: Path | None = None


def common_settings(settings: EngineSettings, tokenization: Tokenization) -> dict[str, Any]:
    """What every run of influence has in its fingerprint; runs of the same dot differ in none of it."""
    return {
        "parameters": settings.params,
        "loss_reduction": settings.reduction,
        "dtype": settings.dtype,
        **tokenization.settings(),
    }


@dataclass(frozen=True, slots=True)
class Result:
    """Numbers of the samples of a batch.

    Attributes:
        values: ``[n, columns]`` float64 dots, a column a fold of each validation set in turn; or float32 projected
            gradients ``[n, dim]``.
        losses: ``[n]`` nats.
        counts: answer tokens ``[n]``.
        norms: gradient norms ``[n]``, or None.
    """

    values: npt.NDArray[Any]
    losses: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    norms: npt.NDArray[np.float64] | None


@dataclass(slots=True)
class EngineFacts:
    """What an engine found out while it was made.

    Attributes:
        architecture: class of the model.
        n_parameters: parameters of the model.
        weights: shape of each chosen weight: ``(out, in)``, of a stack of experts ``(experts, out, in)``.
        coverage: how much of the model they are.
        dtype: precision of the model.
        environment: versions and hardware.
        validation: by name of the validation set.
    """

    architecture: str
    n_parameters: int
    weights: dict[str, tuple[int, ...]]
    coverage: Coverage
    dtype: str
    environment: dict[str, str]
    validation: dict[str, ValidationFacts] = field(default_factory=dict)


class Engine:
    """A loaded model, ready to score.

    Raises:
        ModelError: the model or checkpoint cannot be used for what is asked.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        adapter = settings.checkpoint if settings.checkpoint and is_adapter(settings.checkpoint) else None
        base = settings.model if adapter or settings.checkpoint is None else settings.checkpoint
        self.model = load_causal_lm(
            base, dtype=settings.dtype, device=settings.device, attention=settings.attention, adapter=adapter
        )
        chosen = linear_weights(self.model, settings.params)
        found = self._reach(chosen)
        self.weights = found.weights
        self.device = next(self.model.parameters()).device
        self.rope_change = rope_change(self.model.config)
        self.token_budget = settings.token_budget or default_budget("gradients", self.device.type)
        self.facts = EngineFacts(
            architecture=type(self.model).__name__,
            n_parameters=sum(one.numel() for one in self.model.parameters()),
            weights={name: one.shape for name, one in self.weights.items()},
            coverage=coverage(
                self.model,
                self.weights,
                settings.params,
                unreached={name: chosen[name] for name in found.unreached},
                unseen={name: chosen[name] for name in found.unseen},
            ),
            dtype=str(next(iter(self.weights.values())).parameter.dtype).removeprefix("torch."),
            environment=describe_environment(self.device),
        )
        self._recorders: list[Recorder] = []
        self._forward: Forward | None = None
        self._projection: Projection | None = None
        # padded tokens that fitted into memory; shrinks when they do not
        self._fits: int | None = None
        self._recomputes = settings.checkpointing

    def _reach(self, chosen: dict[str, Weight]) -> Reach:
        # packed weights on a CPU take a form without a backward pass at their first run without gradients
        if getattr(self.model, "hf_quantizer", None) is not None:
            return Reach(chosen, [], [])
        found = reach(self.model, chosen)
        if not found.weights:
            raise ModelError(
                f"none of the {amount(len(chosen), 'layer')} that --params `{self.settings.params}` chooses can be "
                f"tapped, first `{next(iter(chosen))}`: text does not reach them, or the model goes around them (a "
                "fused kernel)",
                "load the model without fused kernels, or name other layers with --params",
            )
        return found

    # validation --------------------------------------------------------------------------------------------------

    def prepare(self, validation: Sequence[ValidationTokens]) -> None:
        """Compute the validation gradients and get ready for :meth:`score`; ``facts.validation`` is then filled.

        Raises:
            RunFailedError: a validation gradient is not finite, its preconditioner is singular, or memory is short.
        """
        with one_line_of_memory("the gradients of the validation sets", _VALIDATION_HINT):
            self._prepare(validation)
        if self.device.type == "cuda":
            self._fit()

    def _fit(self) -> None:
        """Find out how many tokens fit into the memory of the card, before the first batch."""
        try:
            tokens = fitting_tokens(self._bytes_of, self._free_bytes, self.token_budget)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            # not even these: scoring takes samples one by one, and layers again, and says what it does
            tokens = 1
        if tokens < self.token_budget:
            # the plan of batches stays what it is, and each is taken in parts
            log.info("%d tokens fit into the memory of %s at a time", tokens, self.device)
            self._fits = tokens

    def _prepare(self, validation: Sequence[ValidationTokens]) -> None:
        settings = self.settings
        if settings.method == "exact":
            dots = Dots(self.weights, self._measured(validation), rank=settings.rank)
            self._recorders = [dots]
            for one, share in zip(validation, dots.kept_shares, strict=True):
                facts = self.facts.validation[one.name]
                self.facts.validation[one.name] = replace(facts, kept_share=share)
        elif settings.method in ("forward", "central"):
            self._forward = Forward(
                self.model, self.weights, self._measured(validation), central=settings.method == "central"
            )
        else:
            self._projection = self._make_projection(validation)
            self._recorders = [self._projection]
        if settings.norms:
            self._recorders.append(Norms())

    def _measured(self, validation: Iterable[ValidationTokens]) -> Iterator[ValidationGradient]:
        for one in validation:
            gradient = self.validation_gradient(one)
            yield gradient if self.settings.factors is None else self._preconditioned(gradient)

    def _preconditioned(self, gradient: ValidationGradient) -> ValidationGradient:
        folder, kind = self.settings.factors, self.settings.precondition
        assert folder is not None
        solved = precondition(
            gradient.folds, lambda name: read_factor(folder, kind, name, self.device), self.settings.damping
        )
        return ValidationGradient(tuple(solved), gradient.sizes)

    # factors -----------------------------------------------------------------------------------------------------

    def add_up(
        self, what: Sums, samples: Sequence[Tokens], numbers: Sequence[npt.NDArray[np.float64]] | None, path: Path
    ) -> None:
        """Add up what factors are made of over some samples, and write it to a file.

        Args:
            what: the sums.
            samples: with an answer token each.
            numbers: of each token of each sample, to draw labels by; None takes the real labels.
            path: the file; of squares in an eigenbasis, the bases lie in its folder.
        """
        bases = read_bases(path.parent, self.device) if what == "rotated squares" else None

        def add(batches: list[npt.NDArray[np.int64]]) -> MomentsRecorder | SquaresRecorder:
            recorder = MomentsRecorder() if what == "moments" else SquaresRecorder(bases)
            collated = ((collate([samples[i] for i in rows]), rows) for rows in batches)
            drawn = (
                (batch, None if numbers is None else Draw.of(batch, [numbers[i] for i in rows]))
                for batch, rows in collated
            )
            run(self.model, self.weights, drawn, recorder, reduction=self.settings.reduction)
            return recorder

        with one_line_of_memory("the factors", "use --dtype bfloat16, fewer --params, or --precondition none"):
            recorder = self._in_batches(samples, add)
        write_sums(path, recorder.found)

    def put_together(self, what: Sums, parts: Sequence[Path], n_samples: int) -> None:
        """Make factors of the sums of all parts, and write them beside these.

        Raises:
            RunFailedError: a sum is not finite.
        """
        write_factors(what, parts, n_samples, self.device)

    def validation_gradient(self, validation: ValidationTokens) -> ValidationGradient:
        """Mean gradient of each fold of a validation set.

        Raises:
            RunFailedError: it is not finite.
        """
        folds = validation.folds(self.settings.folds)
        means = tuple(self.mean_gradient(fold) for fold in folds)
        for mean in means:
            bad = [module for module, matrix in mean.items() if not torch.isfinite(matrix).all()]
            if bad:
                raise RunFailedError(
                    f"the mean gradient of the validation set `{validation.name}` is not finite (first in `{bad[0]}`)",
                    "try --dtype float32; a model that gives NaN losses on real text cannot be used",
                )
        gradient = ValidationGradient(means, tuple(len(fold) for fold in folds))
        self.facts.validation[validation.name] = ValidationFacts(gradient.sizes, gradient.norm(), None)
        return gradient

    def mean_gradient(self, samples: Sequence[Tokens]) -> MatrixGradients:
        """Mean gradient of some samples (Eq. 3); what does not fit into memory is taken in smaller batches.

        Raises:
            RunFailedError: one sample alone does not fit.
        """

        def mean(batches: list[npt.NDArray[np.int64]]) -> MatrixGradients:
            collated = [collate([samples[i] for i in rows]) for rows in batches]
            return mean_gradient(self.model, self.weights, collated, reduction=self.settings.reduction)

        return self._in_batches(samples, mean)

    def _in_batches(self, samples: Sequence[Tokens], use: Callable[[list[npt.NDArray[np.int64]]], Found]) -> Found:
        """What is made of samples in batches, each given as rows; smaller ones where memory is short.

        Raises:
            RunFailedError: one sample alone does not fit.
        """
        lengths = np.asarray([len(one.ids) for one in samples], np.int64)
        longest = int(lengths.max())

        def attempt(budget: int) -> Found:
            with self._checkpointing():
                return use(list(self._plan(lengths, budget)))

        return self._in_memory(
            lambda: halving(
                attempt, self.token_budget, least=longest, what="padded tokens", one=_one_sample(longest), hint=_HINT
            )
        )

    def _plan(self, lengths: npt.NDArray[np.int64], budget: int) -> Iterator[npt.NDArray[np.int64]]:
        return plan_batches(lengths, token_budget=budget, change=self.rope_change)

    def _in_memory(self, run: Callable[[], Found]) -> Found:
        """What a run gives; where one sample alone does not fit, with checkpointing from then on: the same numbers."""
        try:
            return run()
        except TooSmallError:
            if self._recomputes or self._forward is not None or not layers_of(self.model):
                raise
        log.warning("one sample does not fit into memory: layers are computed again on the way back (--checkpointing)")
        self._recomputes = True
        release()
        return run()

    def _checkpointing(self) -> contextlib.AbstractContextManager[None]:
        return checkpointed(self.model) if self._recomputes else contextlib.nullcontext()

    def _bytes_of(self, n_tokens: int) -> int:
        ids = np.arange(n_tokens, dtype=np.int32) % vocabulary_size(self.model)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self._score([Tokens(ids, max(1, n_tokens // 4))])
        return torch.cuda.max_memory_allocated(self.device) - before

    def _free_bytes(self) -> int:
        release()
        return torch.cuda.mem_get_info(self.device)[0]

    # projections -------------------------------------------------------------------------------------------------

    def _make_projection(self, validation: Sequence[ValidationTokens]) -> Projection:
        settings = self.settings
        if settings.method == "less":
            return Rademacher(
                self.weights, dim=settings.dim, seed=settings.seed, moments=self._moments(), formula=settings.formula
            )
        if settings.kind == "rademacher":
            return Rademacher(self.weights, dim=settings.dim, seed=settings.seed)
        if settings.kind == "sparse":
            return Sparse(self.weights, dim=settings.dim, seed=settings.seed)
        return Subspace(self.basis(validation))

    def basis(self, validation: Sequence[ValidationTokens]) -> Basis:
        """The basis that was given, or the leading directions of the validation gradients."""
        if self.settings.basis is not None:
            return basis_from_arrays(self.settings.basis, self.device)
        return leading_basis([self.validation_gradient(one).mean() for one in validation], self.settings.dim)

    def basis_arrays(self) -> dict[str, Any]:
        """The basis of a prepared ``subspace`` projection as arrays."""
        assert isinstance(self._projection, Subspace)
        return basis_arrays(self._projection.basis)

    @property
    def dim(self) -> int:
        """Columns of the projected gradients."""
        assert self._projection is not None
        return self._projection.dim

    def _moments(self) -> AdamMoments:
        checkpoint = self.settings.checkpoint
        if checkpoint is None:
            raise ModelError(
                "the method less needs a checkpoint with the optimizer's state", "name its folder with --checkpoint"
            )
        stored = {id(parameter): name for name, parameter in self.model.named_parameters()}
        names = {name: stored[id(one.parameter)] for name, one in self.weights.items()}
        moments = read_adam_moments(checkpoint.path, self.model, names=list(names.values()))

        def placed(values: dict[str, Tensor]) -> dict[str, Tensor]:
            found: dict[str, Tensor] = {}
            for name, one in self.weights.items():
                value = replace(one, parameter=values[names[name]].to(self.device, torch.float32)).matrix.contiguous()
                each = [value] if one.experts is None else list(value)
                found |= {f"{m}.weight": v for m, v in zip(matrix_names(name, one), each, strict=True)}
            return found

        steps = {
            f"{m}.weight": moments.steps[names[name]]
            for name, one in self.weights.items()
            for m in matrix_names(name, one)
        }
        return replace(moments, first=placed(moments.first), second=placed(moments.second), steps=steps)

    def validation_vectors(self, validation: ValidationTokens) -> npt.NDArray[np.float32]:
        """Projections of a validation set, ``[folds, dim]``, whose dots with the index are the influence.

        For ``less``: the mean of the projected and normalised gradients of a fold's samples; these are plain gradients,
        only training samples are seen through Adam.
        """
        projection = self._projection
        assert projection is not None
        if self.settings.method == "less":
            plain = Rademacher(self.weights, dim=self.settings.dim, seed=self.settings.seed)
            folds = validation.folds(self.settings.folds)
            vectors = [
                unit_mean(torch.cat([self._backward([sample], [plain]).values[0] for sample in fold])) for fold in folds
            ]
            sizes = tuple(len(fold) for fold in folds)
            # no mean gradient here: the vectors are means of unit vectors
            self.facts.validation[validation.name] = ValidationFacts(sizes, None, None)
            return torch.stack(vectors).float().numpy()
        gradient = self.validation_gradient(validation)
        projected = projection.project(gradient.folds)
        if isinstance(projection, Subspace):
            mean = projection.project([gradient.mean()])
            whole = gradient.norm() ** 2
            share = float(mean.double().square().sum()) / whole if whole else 1.0
            facts = self.facts.validation[validation.name]
            self.facts.validation[validation.name] = replace(facts, kept_share=share)
        return projected.cpu().numpy()

    # scoring -----------------------------------------------------------------------------------------------------

    def check_packing(self) -> None:
        """Refuse packed batches where samples see each other across their borders.

        Raises:
            ModelError: a sample's losses change with the one that stands before it.
        """
        problem = packing_problem(self.model)
        if problem:
            raise ModelError(problem, "leave out --packed, or try --attention flash_attention_2")

    def score(self, samples: Sequence[Tokens]) -> Result:
        """Score samples as one batch; what does not fit into memory is taken in halves.

        Raises:
            RunFailedError: one sample alone does not fit.
        """
        longest = max(len(one.ids) for one in samples)

        def attempt(n: int) -> list[Result]:
            parts = [self._score(samples[at : at + n]) for at in range(0, len(samples), n)]
            if n < len(samples):
                self._fits = n * longest
            return parts

        n = len(samples)
        if self._fits is not None:
            n = max(1, min(n, self._fits // longest))
        return _joined(
            self._in_memory(lambda: halving(attempt, n, what="samples", one=_one_sample(longest), hint=_HINT))
        )

    def _score(self, samples: Sequence[Tokens]) -> Result:
        if self._forward is not None:
            scored = self._forward.score(
                collate(samples, packed=self.settings.packed), reduction=self.settings.reduction
            )
        else:
            scored = self._backward(samples, self._recorders, packed=self.settings.packed)
        norms = scored.values[1][:, 0].numpy() if self.settings.norms and len(scored.values) > 1 else None
        return Result(scored.values[0].numpy(), scored.losses.double().numpy(), scored.counts.long().numpy(), norms)

    def _backward(self, samples: Sequence[Tokens], recorders: Sequence[Recorder], *, packed: bool = False) -> Scored:
        with self._checkpointing():
            return score_batch(
                self.model, self.weights, collate(samples, packed=packed), recorders, reduction=self.settings.reduction
            )

    def record(self, samples: Sequence[Tokens], recorders: Sequence[Recorder]) -> Scored:
        """Pass over samples with recorders of the caller's."""
        return self._backward(samples, recorders)


def _one_sample(longest: int) -> str:
    return f"one sample of up to {longest} tokens"


def _joined(parts: Sequence[Result]) -> Result:
    if len(parts) == 1:
        return parts[0]
    norms = [one.norms for one in parts if one.norms is not None]
    return Result(
        np.concatenate([one.values for one in parts]),
        np.concatenate([one.losses for one in parts]),
        np.concatenate([one.counts for one in parts]),
        np.concatenate(norms) if norms else None,
    )
