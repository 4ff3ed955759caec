"""Stage: how fast this machine scores and trains, measured with the real model on a small sample for a minute."""

from __future__ import annotations

import itertools
import logging
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diq.base.errors import UsageError
from diq.base.options import verb
from diq.base.sample import Message
from diq.base.summary import Summary
from diq.costs.account import Account
from diq.costs.cost import predict
from diq.costs.options import ProbeOptions
from diq.encoders import network as encoders
from diq.formats import Parsed, open_source
from diq.gradients.engine import Engine, EngineSettings
from diq.gradients.projections import default_dim
from diq.gradients.validation import ValidationTokens
from diq.models.device import pick_device, pick_dtype, quiet_libraries
from diq.models.layers import adapted_weights
from diq.models.memory import default_budget, halving, release
from diq.models.network import load_causal_lm
from diq.models.source import ModelSource, find_model
from diq.models.tokens import Tokenization, Tokens, collate, load_tokenizer, plan_batches, usable_length
from diq.store.store import Store

log = logging.getLogger(__name__)

SAMPLES = 256
"""Samples of the dataset that are measured with, spread evenly over it."""

_VALIDATION_SAMPLES = 2  # of each validation set: their gradient is needed, its time is not measured
_ROUNDS = 4
_BATCH_SAMPLES = 8  # of a training step, as in `diq train`
_LEARNING_RATE = 1e-4

# dense bfloat16 operations a second, from the makers' data sheets
_PEAKS = {
    "H100": 989e12, "H200": 989e12, "H800": 989e12, "A100": 312e12, "A800": 312e12, "L40S": 362e12, "L4": 121e12,
    "A10": 125e12, "4090": 165e12,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens a second of one kind of work, padding left out.

    Attributes:
        mean: tokens over seconds of all that was measured.
        least: of the slowest of its rounds.
        most: of the fastest.
        batches: batches measured; the one that warmed up is left out.
        tokens: their tokens.
        seconds: their time.
        batch_tokens: padded tokens of the largest batch.
    """

    mean: float
    least: float
    most: float
    batches: int
    tokens: int
    seconds: float
    batch_tokens: int


@dataclass(repr=False, slots=True)
class Probe(Summary):
    """What was measured.

    Attributes:
        device: name of the machine's device.
        dtype: precision of the model.
        samples: samples that were measured with.
        tokens_a_sample: their mean length.
        made_text: whether they were made up, since there was no dataset.
        characters_per_token: of the dataset's text in the model's tokens; None for made-up text.
        rates: by ``exact``, ``projected``, ``encoder`` and ``training``; what was not measured is missing.
        peak: operations a second of the device, where the data sheet is known; None elsewhere.
    """

    device: str
    dtype: str
    samples: int
    tokens_a_sample: float
    made_text: bool
    characters_per_token: float | None
    rates: dict[str, Rate] = field(default_factory=dict)
    peak: float | None = None

    def fill(self, found: Account) -> None:
        """Predict the hours of an account's steps: tokens of the step over the measured tokens a second."""
        predict(found, {name: (one.mean, one.least, one.most) for name, one in self.rates.items()})

    def share_of_peak(self, name: str, flops_a_token: float) -> float | None:
        """Share of the device's peak that a rate reaches; None where the peak is not known."""
        return self.rates[name].mean * flops_a_token / self.peak if self.peak and name in self.rates else None


@verb(ProbeOptions)
def probe(options: ProbeOptions) -> Probe:
    """Measure exact scoring, projected scoring, an encoder and LoRA training on this machine.

    Loading is not part of the measured time, so the whole takes longer than ``seconds``.

    Raises:
        UsageError: an unknown dataset, or neither a source nor ``tokens``.
        ModelError: the model or encoder cannot be used.
        RunFailedError: one sample alone does not fit into memory.
    """
    source, rater, report = options.source, options.rater, options.progress or (lambda *_: None)
    if source is None and options.tokens is None:
        raise UsageError("there is nothing to measure with", "name a dataset or a file, or give --tokens")
    model = find_model(options.model)
    place = pick_device(options.device)
    limit = usable_length(model, options.max_length)
    conversations = [] if source is None else _conversations(source, options.store_file)
    samples, per_token = _tokens(model, conversations, options.tokens, limit)
    probe = Probe(
        device=torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu",
        dtype=pick_dtype(options.dtype, place),
        samples=len(samples),
        tokens_a_sample=statistics.fmean(len(one.ids) for one in samples),
        made_text=source is None,
        characters_per_token=per_token,
    )
    if place.type == "cuda" and probe.dtype == "bfloat16":
        probe.peak = next((peak for name, peak in _PEAKS.items() if name in probe.device), None)
    texts = ["\n\n".join(message["content"] for message in one) for one in conversations]
    scored = "qkv" if options.params == "full" else options.params
    settings = EngineSettings(model=model, params=scored, dtype=probe.dtype, device=str(place), folds=2)
    work: dict[str, Callable[[float], Rate]] = {
        "exact": lambda time_s: _exact(settings, samples, options.validation_sets, time_s),
        "projected": lambda time_s: _projected(settings, samples, time_s),
        "training": lambda time_s: _training(settings, samples, options, time_s),
    }
    if rater is not None:
        work["encoder"] = lambda time_s: _encoder(rater, texts, samples, place, probe.dtype, time_s)
    for done, (name, measure) in enumerate(work.items()):
        report("probe", done, len(work))
        probe.rates[name] = measure(options.seconds / len(work))
        log.info("%s: %s tokens/s", name, f"{probe.rates[name].mean:,.0f}")
        release()
    report("probe", len(work), len(work))
    return probe


# what is measured with -----------------------------------------------------------------------------------------------


def _conversations(source: str, store: Path) -> list[list[Message]]:
    """At most ``SAMPLES`` conversations, spread over the source."""
    if Path(source).is_file():
        every = [one.sample.messages for one in open_source(source) if isinstance(one, Parsed)]
        return every[:: max(1, len(every) // SAMPLES)][:SAMPLES]
    import orjson

    with Store(store, read_only=True) as opened:
        data = opened.dataset(source)
        if not data["n_samples"]:
            raise UsageError(f"the dataset `{source}` has no samples", "see `diq sql 'from rejects'`")
        rows = opened.rows("costs/spread_samples", dataset_id=data["dataset_id"], n=SAMPLES)
    return [orjson.loads(row["messages"]) for row in rows]


def _tokens(
    model: ModelSource, conversations: Sequence[Sequence[Message]], tokens: float | None, limit: int
) -> tuple[list[Tokens], float | None]:
    """Samples in the model's tokens, and characters a token of their text before anything is cut."""
    if not conversations:
        assert tokens is not None
        length = max(2, min(int(tokens), limit))
        rng = np.random.default_rng(0)
        # any tokens do: the time does not depend on which. Below 256 every vocabulary has them
        made = [Tokens(rng.integers(1, 256, length).astype(np.int32), max(1, length // 4)) for _ in range(64)]
        return made, None
    # whole: how much is cut must not change the ratio
    whole = Tokenization(load_tokenizer(model), max_length=sys.maxsize)
    encoded = [one for one in whole.encode(conversations) if isinstance(one, Tokens)]
    cut = [Tokens(one.ids[:limit], one.answer_start) for one in encoded]
    usable = [one for one in cut if one.answer_tokens > 0]
    if not usable:
        raise UsageError(f"no sample has an answer token within {limit} tokens", "raise --max-length")
    characters = sum(
        len(message["content"]) + len(message.get("reasoning_content", "")) for one in conversations for message in one
    )
    return usable, characters / sum(len(one.ids) for one in encoded)


# measuring -----------------------------------------------------------------------------------------------------------


def _measure(batches: Sequence[Sequence[Tokens]], step: Callable[[Sequence[Tokens]], None], time_s: float) -> Rate:
    """Batches, spread over all lengths, until the time is over; then again from the first.

    The first batch, which has the longest samples, warms up and shows whether memory is enough; it is not measured.
    What was measured is cut into rounds of equally many batches, each with batches of all lengths, so that their spread
    is that of the machine more than that of the samples.
    """
    step(batches[0])
    deadline = time.monotonic() + time_s
    seen: list[tuple[int, float]] = []
    for i in itertools.cycle(_spread(len(batches))):
        started = time.perf_counter()
        step(batches[i])
        seen.append((sum(len(one.ids) for one in batches[i]), time.perf_counter() - started))
        # one batch alone would say nothing about the others
        if time.monotonic() >= deadline and len(seen) >= min(_ROUNDS, len(batches)):
            break
    n = max(1, len(seen) // _ROUNDS)
    rounds = [seen[at : at + n] for at in range(0, len(seen) - n + 1, n)]
    rates = [sum(tokens for tokens, _ in one) / sum(spent for _, spent in one) for one in rounds]
    tokens, spent = (sum(column) for column in zip(*seen, strict=True))
    largest = max(len(batch) * max(len(one.ids) for one in batch) for batch in batches)
    rate = tokens / spent
    return Rate(rate, min(rate, *rates), max(rate, *rates), len(seen), int(tokens), spent, largest)


def _spread(n: int) -> list[int]:
    """0 to n - 1 in an order whose every beginning is spread over all of them (bits reversed)."""
    bits = max(1, (n - 1).bit_length())
    found = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits))
    return [i for i in found if i < n]


def _batches(samples: Sequence[Tokens], budget: int) -> list[list[Tokens]]:
    lengths = np.asarray([len(one.ids) for one in samples], np.int64)
    return [[samples[i] for i in batch] for batch in plan_batches(lengths, token_budget=budget)]


def _synchronized(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize(place)


def _exact(settings: EngineSettings, samples: Sequence[Tokens], sets: int, time_s: float) -> Rate:
    engine = Engine(settings)
    few = list(samples[: max(_VALIDATION_SAMPLES, settings.folds)])
    engine.prepare([ValidationTokens(f"set {i}", few) for i in range(sets)])
    return _scoring(engine, samples, time_s)


def _projected(settings: EngineSettings, samples: Sequence[Tokens], time_s: float) -> Rate:
    kind = "sparse"
    engine = Engine(replace(settings, method="projected", kind=kind, dim=default_dim(kind, settings.params)))
    engine.prepare([])
    return _scoring(engine, samples, time_s)


def _scoring(engine: Engine, samples: Sequence[Tokens], time_s: float) -> Rate:
    def step(batch: Sequence[Tokens]) -> None:
        engine.score(batch)
        _synchronized(engine.device)

    return _measure(_batches(samples, engine.token_budget), step, time_s)


def _training(settings: EngineSettings, samples: Sequence[Tokens], options: ProbeOptions, time_s: float) -> Rate:
    """Forward, backward and an AdamW step of a LoRA adapter (or of all weights).

    A step has eight samples, or as many as fit the budget; a trainer accumulates such steps.
    """
    network: Any = load_causal_lm(settings.model, dtype=settings.dtype, device=settings.device)
    place = next(network.parameters()).device
    if options.params == "full":
        network.requires_grad_(True)
    else:
        with quiet_libraries(warn=False):
            network = _adapted(network, settings.params, options.lora_rank)
    if options.gradient_checkpointing:
        network.enable_input_require_grads()
        # the older name is deprecated in newer releases
        enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    network.train()
    budget = default_budget("training", place.type)
    trainable = [one for one in network.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=_LEARNING_RATE)

    def step(batch: Sequence[Tokens]) -> None:
        padded = collate(batch).to(place)
        labels = padded.ids.masked_fill(~padded.answer, -100)
        loss = network(input_ids=padded.ids, attention_mask=padded.mask.long(), labels=labels, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _synchronized(place)

    # in no order of length, as a trainer draws them; padded to the longest
    order = np.random.default_rng(0).permutation(len(samples))
    longest = max(len(one.ids) for one in samples)

    def attempt(n: int) -> Rate:
        optimizer.zero_grad(set_to_none=True)
        batches = [[samples[i] for i in order[at : at + n]] for at in range(0, len(order), n)]
        # the longest sample first: if memory is short, that shows at once
        batches.sort(key=lambda batch: -max(len(one.ids) for one in batch))
        return _measure(batches, step, time_s)

    return halving(
        attempt,
        max(1, min(_BATCH_SAMPLES, budget // longest)),
        what="samples",
        one=f"training with one sample of {longest} tokens",
        hint="use --gradient-checkpointing, or lower --max-length",
    )


def _adapted(network: Any, params: str, rank: int) -> Any:
    # peft is only needed here
    from diq.models.adapters import put_adapter

    return put_adapter(network, adapted_weights(network, params), rank=rank, alpha=2 * rank, dropout=0.0)


def _encoder(
    folder: str, texts: Sequence[str], samples: Sequence[Tokens], place: torch.device, dtype: str, time_s: float
) -> Rate:
    path = Path(folder)
    if not (path / "config.json").is_file():
        # a classifier of several models keeps each in a folder of its own
        path = next((one.parent for one in sorted(path.glob("*/config.json"))), path)
    network, tokenizer = encoders.load_classifier(path, getattr(torch, dtype))
    network.to(place)
    limit = encoders.context_length(network.config, tokenizer)
    if texts:
        ids, _ = encoders.tokenize(tokenizer, texts, max_length=limit)
    else:
        ids = [one.ids[:limit] % network.config.vocab_size for one in samples]
    # stand-ins with the lengths of the encoder's own tokens
    stand_ins = [Tokens(np.asarray(one, np.int32), 1) for one in ids]
    budget = default_budget("encoder", place.type)

    def step(batch: Sequence[Tokens]) -> None:
        encoders.predict(network, tokenizer, [one.ids for one in batch], device=place, token_budget=budget)
        _synchronized(place)

    return _measure(_batches(stand_ins, budget), step, time_s)
