"""Stage: which tokens of one sample carry its dot with the mean validation gradient.

The dot is a sum over tokens in two ways, and both are given. Its loss is the mean (or sum) of the answer tokens' own
losses, so the dot is the sum of their derivatives along V (``loss_term``): what each answer token is worth. And the
gradient of a linear layer is a sum over the positions of its input, so the dot is the sum of ``<delta_t, V x_t>``
(``term``, the sum that ``exact`` makes): where in the text, prompt included, the gradient enters.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from diq.base.config import MAX_LENGTH
from diq.base.errors import ModelError, RunFailedError, UsageError
from diq.base.options import verb
from diq.base.progress import Progress
from diq.base.summary import Summary
from diq.base.text import first_line
from diq.gradients.backward import MatrixGradients
from diq.gradients.dots import TokenTerms
from diq.gradients.engine import Engine, EngineSettings, common_settings
from diq.gradients.forward import Forward
from diq.gradients.validation import ValidationGradient, ValidationTokens
from diq.influence.options import ExplainOptions
from diq.influence.stored import no_dot_reason, parse_weights, settle_weights
from diq.models.device import pick_device, pick_dtype
from diq.models.memory import raise_if_out_of_memory
from diq.models.source import find_adapter, find_model
from diq.models.tokens import Tokenization, Tokens, collate, load_tokenization
from diq.samples.find import find_sample, sample_at
from diq.store.connection import WAIT_S
from diq.store.store import Store

log = logging.getLogger(__name__)

# methods of `diq score influence` whose dot is the one that is taken apart here
_SAME_DOT = ("exact", "forward", "central")
# what two sums of the same terms may differ by, relative to the sum of their magnitudes
_ROUNDING = 1e-3
_COARSE_ROUNDING = 5e-2


@dataclass(frozen=True, slots=True)
class TokenShare:
    """One token of a sample.

    Attributes:
        position: 0-based place in the sample.
        token_id: id in the vocabulary.
        text: what it adds to the text; empty where it only begins a character that the next token ends.
        is_answer: whether the loss covers it.
        loss: its own loss in nats; None for a token of the prompt.
        loss_term: derivative of its share of the sample's loss along V; None for a token of the prompt. The sum over
            the answer is the dot.
        term: what enters the dot where the token is input. The sum over all tokens is the dot.
    """

    position: int
    token_id: int
    text: str
    is_answer: bool
    loss: float | None
    loss_term: float | None
    term: float


@dataclass(frozen=True, slots=True)
class StoredDot:
    """The dot of the same sample under the same settings, as an earlier run stored it."""

    run_id: int
    method: str
    dot: float


@dataclass(frozen=True, slots=True, repr=False)
class Explanation(Summary):
    """The dot of a sample, token by token.

    Attributes:
        sample_id: the sample.
        places: datasets that hold it, with its position in each.
        model: name of the model or checkpoint.
        model_id: its fingerprint.
        validation_sets: share of each validation set in V; they add up to 1.
        params: which weights count.
        loss_reduction: over the answer tokens.
        dtype: precision of the model.
        template: ``chat template`` or ``Question/Answer``.
        dot: with the pooled mean validation gradient V; the sum of every ``term``.
        loss: of the sample, nats.
        prompt_tokens: tokens that are no answer's.
        answer_tokens: tokens that the loss covers.
        totals: sum of ``loss_term``; sum of ``term`` over all, the prompt's and the answer's tokens.
        stored: dots of the store that must be the same up to rounding.
        tokens: every token, in reading order.
    """

    sample_id: str
    places: list[dict[str, Any]]
    model: str
    model_id: str
    validation_sets: dict[str, float]
    params: str
    loss_reduction: str
    dtype: str
    template: str
    dot: float
    loss: float
    prompt_tokens: int
    answer_tokens: int
    totals: dict[str, float]
    stored: list[StoredDot]
    tokens: list[TokenShare]


@verb(ExplainOptions)
def explain(options: ExplainOptions) -> Explanation:
    """Take the dot of one sample apart into what each of its tokens contributes.

    Raises:
        UsageError: an unknown or ambiguous sample, unknown names, or a sample without an answer token.
        ModelError: the model cannot be used.
        RunFailedError: a loss or a gradient is not finite, or memory is short.
        StoreError: the store is missing or held by another process.
    """
    request = _read(options.store_file, options.sample_id, options.dataset, options.position, options.validation_set)
    base = find_model(options.model)
    settings = EngineSettings(
        model=base,
        checkpoint=None if options.checkpoint is None else find_adapter(options.checkpoint, base),
        params=options.params or "qkv",
        reduction=options.loss_reduction or "mean",
        dtype=pick_dtype(options.dtype, pick_device(options.device)),
        device=options.device,
    )
    tokenization = load_tokenization(
        base,
        max_length=options.max_length or MAX_LENGTH,
        template=options.template or "auto",
        template_kwargs=options.chat_template_kwargs,
        turns=options.turns,
    )
    # before the model is loaded: most of what can be wrong with a sample is seen in its tokens
    tokens = _tokens(request, tokenization)
    validation = [
        ValidationTokens(name, tokenization.encode_validation_set(name, conversations))
        for name, conversations in request.conversations.items()
    ]
    engine = Engine(settings)
    gradient = _pooled(engine, validation, request.shares, options.progress)
    losses, loss_terms, terms = _take_apart(engine, tokens, gradient, request.sample_id)
    target = settings.checkpoint or base
    stored = _stored_dots(options.store_file, request, target.model_id, settings, tokenization)
    counts, dot = tokens.is_answer, float(terms.sum())
    # which of the answer tokens one is
    number = np.cumsum(counts) - 1
    _check_sums(settings, dot, float(loss_terms.sum()), stored, scale=float(np.abs(terms).sum()))
    texts = token_texts(tokenization.tokenizer, tokens.ids)
    return Explanation(
        sample_id=request.sample_id,
        places=request.places,
        model=target.name,
        model_id=target.model_id,
        validation_sets=request.shares,
        params=settings.params,
        loss_reduction=settings.reduction,
        dtype=engine.facts.dtype,
        template=tokenization.template_name,
        dot=dot,
        loss=float(losses.mean() if settings.reduction == "mean" else losses.sum()),
        prompt_tokens=len(tokens.ids) - tokens.answer_tokens,
        answer_tokens=tokens.answer_tokens,
        totals={
            "loss_term": float(loss_terms.sum()),
            "term": dot,
            "term_prompt": float(terms[~counts].sum()),
            "term_answer": float(terms[counts].sum()),
        },
        stored=stored,
        tokens=[
            TokenShare(
                position=at,
                token_id=int(one),
                text=texts[at],
                is_answer=bool(counts[at]),
                loss=float(losses[number[at]]) if counts[at] else None,
                loss_term=float(loss_terms[number[at]]) if counts[at] else None,
                term=float(terms[at]),
            )
            for at, one in enumerate(tokens.ids)
        ],
    )


# the request -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Request:
    sample_id: str
    messages: list[Any]
    places: list[dict[str, Any]]
    shares: dict[str, float]
    conversations: dict[str, list[Any]]


def _read(
    path: Path, sample_id: str | None, dataset: str | None, position: int | None, validation_sets: Sequence[str]
) -> _Request:
    if (dataset is None) != (position is None) or (sample_id is None) == (dataset is None):
        raise UsageError("name one sample", "give SAMPLE_ID, or --dataset NAME and --position N in its place")
    with Store(path, read_only=True) as opened:
        if dataset is not None and position is not None:
            found = sample_at(opened, dataset, position)
        else:
            assert sample_id is not None
            found = find_sample(opened, sample_id)
        weights = _weights(opened, validation_sets)
        total = sum(weights.values())
        conversations = {
            name: [
                orjson.loads(row["messages"])
                for row in opened.rows(
                    "store/validation_messages", validation_set_id=opened.validation_set(name)["validation_set_id"]
                )
            ]
            for name in weights
        }
        return _Request(
            sample_id=found["sample_id"],
            messages=orjson.loads(found["messages"]),
            places=opened.rows("influence/places_of_sample", sample_id=found["sample_id"]),
            shares={name: weight / total for name, weight in weights.items()},
            conversations=conversations,
        )


def _weights(opened: Store, asked: Sequence[str]) -> dict[str, float]:
    """Weight of each chosen validation set; all of the store when none is named."""
    # a set that came with scores computed elsewhere has a name, but no samples here
    sizes = {
        row["name"]: row["n_samples"]
        for row in opened.rows("store/list_validation_sets")
        if row["dataset_id"] is not None
    }
    for text in asked:
        name = text if text in sizes else text.rpartition("=")[0] or text
        # refuses a name that is not in the store
        opened.validation_set(name)
        if name not in sizes:
            raise UsageError(
                f"the validation set `{name}` has no samples in the store", "ingest them with --validation"
            )
    if not sizes:
        raise UsageError(
            f"there is no validation set in `{opened.path}`",
            "make one with `diq ingest FILE --dataset NAME --validation --sample 20`",
        )
    return settle_weights(parse_weights(asked, list(sizes)) or dict.fromkeys(sizes, math.nan), sizes)


def _tokens(request: _Request, tokenization: Tokenization) -> Tokens:
    (encoded,) = tokenization.encode([request.messages])
    if isinstance(encoded, str):
        raise UsageError(f"sample {request.sample_id} has no dot: {encoded}", tokenization.cure())
    reason = no_dot_reason(0.0, encoded.answer_tokens, [])
    if reason:
        raise UsageError(
            f"sample {request.sample_id} has no dot: {reason} of {tokenization.max_length} tokens",
            "raise --max-length, as far as the model's context goes",
        )
    tokenization.say(f"sample {request.sample_id}")
    return encoded


# gradients ---------------------------------------------------------------------------------------------------------


def _pooled(
    engine: Engine, validation: Sequence[ValidationTokens], shares: Mapping[str, float], progress: Progress | None
) -> ValidationGradient:
    """V: the mean gradients of the validation sets times their shares, added up one set at a time."""
    pooled: MatrixGradients = {}
    for done, one in enumerate(validation):
        if progress:
            progress("validation gradients", done, len(validation))
        for name, matrix in engine.validation_gradient(one).mean().items():
            part = matrix * shares[one.name]
            pooled[name] = pooled[name] + part if name in pooled else part
    if progress:
        progress("validation gradients", len(validation), len(validation))
    return ValidationGradient((pooled,), (sum(len(one.samples) for one in validation),))


_Floats = npt.NDArray[np.float64]


def _take_apart(
    engine: Engine, tokens: Tokens, gradient: ValidationGradient, sample_id: str
) -> tuple[_Floats, _Floats, _Floats]:
    """Losses and ``loss_term`` of the answer tokens ``[a]``, and ``term`` of all tokens ``[t]``."""
    with _readable_errors(tokens):
        scored = engine.record([tokens], [TokenTerms(engine.weights, [gradient])])
        token, derivatives = Forward(engine.model, engine.weights, [gradient]).token_derivatives(collate([tokens]), 0)
    terms = scored.values[0][0].double().numpy()
    losses, loss_terms = token.values.double().cpu().numpy(), derivatives.double().cpu().numpy()
    if engine.settings.reduction == "mean":
        loss_terms = loss_terms / tokens.answer_tokens
    reason = no_dot_reason(float(scored.losses[0]), tokens.answer_tokens, [float(terms.sum()), float(loss_terms.sum())])
    if reason:
        raise RunFailedError(f"sample {sample_id} has no dot: {reason}", "try --dtype float32")
    return losses, loss_terms, terms


@contextlib.contextmanager
def _readable_errors(tokens: Tokens) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise_if_out_of_memory(
            error, f"one sample of {len(tokens.ids)} tokens", "use --dtype bfloat16, or lower --max-length"
        )
        if isinstance(error, NotImplementedError):
            raise ModelError(
                f"forward-mode differentiation does not know an operation of the model: {first_line(error)}",
                "load the model without fused kernels; the dot itself comes from `diq score influence`",
            ) from error
        raise


# the store's dots --------------------------------------------------------------------------------------------------


def _stored_dots(
    path: Path, request: _Request, model_id: str, settings: EngineSettings, tokenization: Tokenization
) -> list[StoredDot]:
    """Dots of the sample in runs with the same settings and validation sets, pooled by the same shares."""
    wanted = common_settings(settings, tokenization)
    # after minutes of computing, a scoring that writes its shard at that moment is waited for
    with Store(path, read_only=True, wait_s=WAIT_S) as opened:
        rows = opened.rows("influence/dots_of_sample", sample_id=request.sample_id, model_id=model_id)
    runs: dict[int, dict[str, Any]] = {}
    for row in rows:
        config = orjson.loads(row["config"])
        same = all(config.get(name) == value for name, value in wanted.items())
        # a rank or a preconditioner makes another dot of the same settings
        same = same and not config.keys() & {"rank", "precondition"}
        if row["method"] in _SAME_DOT and same and row["dot"] is not None:
            runs.setdefault(row["run_id"], {"method": row["method"]})[row["validation_set"]] = row["dot"]
    return [
        StoredDot(run_id, dots["method"], sum(share * dots[name] for name, share in request.shares.items()))
        for run_id, dots in runs.items()
        if all(name in dots for name in request.shares)
    ]


def _check_sums(
    settings: EngineSettings, dot: float, loss_terms: float, stored: Sequence[StoredDot], *, scale: float
) -> None:
    """Warn where sums that must be the same are not."""
    coarse = settings.dtype == "bfloat16"
    others = [("the sum of the answer tokens' loss terms", loss_terms, coarse)]
    others += [(f"the stored dot of run {one.run_id}", one.dot, coarse or one.method == "central") for one in stored]
    for what, value, is_coarse in others:
        if abs(value - dot) > (_COARSE_ROUNDING if is_coarse else _ROUNDING) * scale:
            log.warning("%s is %.6g, but the terms add up to %.6g: more than rounding", what, value, dot)


# text --------------------------------------------------------------------------------------------------------------


def token_texts(tokenizer: Any, ids: Sequence[int] | npt.NDArray[np.int32]) -> list[str]:
    """What each token adds to the decoded text: together they are the text.

    A token alone often cannot be decoded: SentencePiece drops its leading space, and a character may need several
    byte tokens (then the last of them has it, and those before it are empty).
    """
    found: list[str] = []
    numbers = [int(one) for one in ids]

    def decode(start: int, end: int) -> str:
        return str(tokenizer.decode(numbers[start:end], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    # tokens from `known` to `read` give the context in which the next ones are decoded
    known = read = 0
    for at in range(len(numbers)):
        before, text = decode(known, read), decode(known, at + 1)
        if at + 1 < len(numbers) and (len(text) <= len(before) or text.endswith("\N{REPLACEMENT CHARACTER}")):
            found.append("")
            continue
        found.append(text[len(before) :])
        known, read = read, at + 1
    return found
