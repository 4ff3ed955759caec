"""Exact influence against a plain training step (forward + full backward) over the same length-sorted batches.

In one run, candidates in turn: one and several validation sets, folds, a low rank, gradient norms, checkpointing, and
the same in bfloat16; the strict rival whose language-model head sees answer positions alone, as ours does; a bare loop
of autograd with batch size 1. Right answer first: the dots of some samples are compared with per-sample autograd before
any time is taken. `--growth` adds how time grows with samples and tokens.

    python benches/bench_exact.py [--repeats 3] [--threads 2] [--samples 48] [--growth]
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from diq.gradients.backward import Recorder, score_batch
from diq.gradients.dots import Dots, Norms
from diq.gradients.forward import Forward
from diq.gradients.losses import checkpointed, token_losses
from diq.gradients.validation import ValidationGradient, mean_gradient
from diq.models.layers import linear_weights
from diq.models.tokens import Batch, Tokens, collate, plan_batches

# hidden, layers, heads, key-value heads, vocabulary; the second has 28 million parameters
SHAPES = {"demo size": (160, 4, 4, 2, 2048), "28M Llama": (512, 8, 8, 4, 8192)}
BUDGET = 2048
PLAIN = "plain step (forward + full backward)"


def build(hidden: int, layers: int, heads: int, kv_heads: int, vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=int(hidden * 2.75),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def tokens(n: int, vocabulary: int, *, scale: float = 1.0, seed: int = 0) -> list[Tokens]:
    """Lengths like the short traces of real pools: log-normal around 200 tokens, a third of it prompt."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(scale * rng.lognormal(5.2, 0.6, n), 16, 1500).astype(int)
    return [Tokens(rng.integers(3, vocabulary, length).astype(np.int32), max(1, length // 3)) for length in lengths]


def batches_of(samples: Sequence[Tokens]) -> list[Batch]:
    lengths = np.asarray([len(one.ids) for one in samples])
    return [collate([samples[i] for i in batch]) for batch in plan_batches(lengths, token_budget=BUDGET)]


def plain_step(model: LlamaForCausalLM, batches: list[Batch]) -> None:
    model.requires_grad_(True)
    for batch in batches:
        labels = batch.ids.masked_fill(~batch.answer, -100)
        model(input_ids=batch.ids, labels=labels, use_cache=False).loss.backward()
        model.zero_grad(set_to_none=True)
    model.requires_grad_(False)


def strict_step(model: LlamaForCausalLM, batches: list[Batch]) -> None:
    model.requires_grad_(True)
    for batch in batches:
        token_losses(model, batch).by_sample("mean").sum().backward()
        model.zero_grad(set_to_none=True)
    model.requires_grad_(False)


def autograd_loop(model: LlamaForCausalLM, samples: list[Tokens], gradient: dict[str, torch.Tensor]) -> list[float]:
    """What one would write first: one sample, one backward, one dot."""
    weights = linear_weights(model)
    parameters = [one.parameter for one in weights.values()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    dots = []
    for sample in samples:
        batch = collate([sample])
        labels = batch.ids.masked_fill(~batch.answer, -100)
        loss = model(input_ids=batch.ids, labels=labels, use_cache=False).loss
        parts = torch.autograd.grad(loss, parameters)
        dots.append(sum(float((part * gradient[name]).sum()) for part, name in zip(parts, weights, strict=True)))
    for parameter in parameters:
        parameter.requires_grad_(False)
    return dots


def score(model: LlamaForCausalLM, recorders: list[Recorder], batches: list[Batch]) -> None:
    weights = linear_weights(model)
    for batch in batches:
        score_batch(model, weights, batch, recorders)


def score_checkpointed(model: LlamaForCausalLM, recorders: list[Recorder], batches: list[Batch]) -> None:
    with checkpointed(model):
        score(model, recorders, batches)


def score_forward(method: Forward, batches: list[Batch]) -> None:
    for batch in batches:
        method.score(batch)


def measured(model: LlamaForCausalLM, samples: Sequence[Tokens], *, folds: int = 1) -> ValidationGradient:
    weights = linear_weights(model)
    parts = [samples[i::folds] for i in range(folds)]
    return ValidationGradient(
        tuple(mean_gradient(model, weights, [collate(part)]) for part in parts), tuple(len(part) for part in parts)
    )


def check(model: LlamaForCausalLM, recorder: Dots, gradient: ValidationGradient, samples: list[Tokens]) -> None:
    wanted = torch.tensor(autograd_loop(model, samples, gradient.mean()), dtype=torch.float64)
    found = score_batch(model, linear_weights(model), collate(samples), [recorder]).values[0][:, 0]
    assert (found - wanted).abs().max() < 1e-4 * wanted.std(), "the dots are wrong; no time is taken"


def measure(candidates: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each candidate, in turn, so that drift of the machine hits all alike."""
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():
        run()
    for _ in range(repeats):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            found[name].append(time.perf_counter() - start)
    return found


def compare(shape: tuple[int, int, int, int, int], samples: list[Tokens], repeats: int) -> None:
    model = build(*shape).requires_grad_(False)
    narrow = copy.deepcopy(model).bfloat16()
    weights, narrow_weights = linear_weights(model), linear_weights(narrow)
    batches = batches_of(samples)
    validation = [tokens(4, shape[-1], seed=i + 1) for i in range(9)]
    sets = [measured(model, one) for one in validation]
    halves = [measured(model, one, folds=2) for one in validation]
    narrow_sets = [measured(narrow, one) for one in validation[:1]]
    one = Dots(weights, sets[:1])
    check(model, one, sets[0], samples[:6])
    candidates: dict[str, Callable[[], object]] = {
        PLAIN: partial(plain_step, model, batches),
        "strict step (head on answers alone)": partial(strict_step, model, batches),
        "exact, 1 set": partial(score, model, [one], batches),
        "exact, 1 set, 2 folds (default)": partial(score, model, [Dots(weights, halves[:1])], batches),
        "exact, 4 sets": partial(score, model, [Dots(weights, sets[:4])], batches),
        "exact, 9 sets, 2 folds": partial(score, model, [Dots(weights, halves)], batches),
        "exact, 9 sets, 2 folds, rank 8": partial(score, model, [Dots(weights, halves, rank=8)], batches),
        "exact, 1 set, norms": partial(score, model, [one, Norms()], batches),
        "exact, 1 set, checkpointing": partial(score_checkpointed, model, [one], batches),
        "forward mode, 1 set": partial(score_forward, Forward(model, weights, sets[:1]), batches),
        "bfloat16: plain step": partial(plain_step, narrow, batches),
        "bfloat16: exact, 1 set": partial(score, narrow, [Dots(narrow_weights, narrow_sets)], batches),
        "autograd loop, batch 1": partial(autograd_loop, model, samples, sets[0].mean()),
    }
    times = measure(candidates, repeats)
    n_tokens = sum(len(sample.ids) for sample in samples)
    base = times[PLAIN]
    print(f"{'':38} {'median s':>9} {'min':>8} {'max':>8} {'tokens/s':>9} {'ratio':>6} {'ratios min-max':>15}")
    for name, seconds in times.items():
        ratios = [mine / theirs for mine, theirs in zip(seconds, base, strict=True)]
        print(
            f"{name:38} {statistics.median(seconds):9.3f} {min(seconds):8.3f} {max(seconds):8.3f} "
            f"{n_tokens / statistics.median(seconds):9.0f} {statistics.median(ratios):6.3f} "
            f"{min(ratios):7.3f}-{max(ratios):.3f}"
        )


def grow(repeats: int) -> None:
    """Seconds against the number of samples, and against their length, with the exponent of a power law."""
    shape = SHAPES["demo size"]
    model = build(*shape).requires_grad_(False)
    weights = linear_weights(model)
    recorder = Dots(weights, [measured(model, tokens(8, shape[-1]))])
    for title, cases in (
        ("samples", [(n, 1.0) for n in (16, 32, 64, 128)]),
        ("tokens a sample", [(32, scale) for scale in (0.5, 1.0, 2.0, 4.0)]),
    ):
        points = []
        for n, scale in cases:
            samples = tokens(n, shape[-1], scale=scale)
            times = measure({"exact": partial(score, model, [recorder], batches_of(samples))}, repeats)
            points.append((sum(len(one.ids) for one in samples), statistics.median(times["exact"])))
        (first, early), (last, late) = points[0], points[-1]
        exponent = math.log(late / early) / math.log(last / first)
        shown = ", ".join(f"{total} tokens {seconds:.2f} s" for total, seconds in points)
        print(f"growth with {title}: {shown}; exponent in tokens {exponent:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--samples", type=int, default=48, help="of the small model; a quarter for the large one")
    parser.add_argument("--growth", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, {options.repeats} rounds, {BUDGET} tokens a batch")
    for title, shape in SHAPES.items():
        samples = tokens(options.samples if shape[0] < 512 else options.samples // 4, shape[-1])
        parameters = sum(p.numel() for p in build(*shape).parameters())
        n_tokens = sum(len(one.ids) for one in samples)
        print(f"\n{title}: {parameters / 1e6:.1f} M parameters, {len(samples)} samples, {n_tokens} tokens")
        compare(shape, samples, options.repeats)
    if options.growth:
        print()
        grow(options.repeats)


if __name__ == "__main__":
    main()
