"""Exact influence on an 8-billion-parameter Llama shape with random weights, beside the loop of LESS.

Weights are made on the GPU, so nothing has to be carried there. Lengths are log-normal around 900 tokens, a third of
them prompt, as in pools of reasoning traces. The right answer is checked before any time is taken: the dots of a batch
against per-sample gradients of plain autograd.

    python benches/gpu/bench_exact.py [--tiny --device cpu]
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import fast
import numpy as np
import torch
from common import Bench, Ceilings, Row, why
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from diq.gradients.backward import score_batch
from diq.gradients.dots import Dots
from diq.gradients.kernels.projections import project_rademacher
from diq.gradients.kernels.reference import parameter_key
from diq.gradients.losses import token_losses
from diq.gradients.validation import ValidationGradient, mean_gradient
from diq.models.layers import Weight, linear_weights
from diq.models.tokens import Tokens, collate, plan_batches

DIM = 4096
BUDGET = 16384


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens of some samples, and the operations that their dots need at least."""

    samples: int
    tokens: int
    flops: float


def build(bench: Bench) -> LlamaForCausalLM:
    """Llama 3 8B, bfloat16."""
    large = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rope_theta=500000.0,
        tie_word_embeddings=False,
    )
    tiny = LlamaConfig(
        vocab_size=400,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with bench.device:
            model = LlamaForCausalLM(tiny if bench.tiny else large)
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def draw(n: int, vocabulary: int, seed: int, longest: int, typical: int) -> list[Tokens]:
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(typical), 0.7, n), 16, longest).astype(int)
    return [Tokens(rng.integers(3, vocabulary, length).astype(np.int32), max(1, length // 3)) for length in lengths]


def needed(model: LlamaForCausalLM, weights: dict[str, Weight], samples: Sequence[Tokens], sets: int) -> Work:
    """Forward, backward for activations alone, V x of the chosen layers; causal attention counts its lower half."""
    config = model.config
    head = model.get_output_embeddings()
    linear = sum(one.weight.numel() for one in model.modules() if isinstance(one, nn.Linear) and one is not head)
    chosen = sum(one.parameter.numel() for one in weights.values())
    flops = 0.0
    for sample in samples:
        length = len(sample.ids)
        flops += length * (4.0 * linear + 2.0 * sets * chosen)
        flops += sample.answer_tokens * 4.0 * head.weight.numel()
        # forward: two products of length^2 / 2 a head; backward: four
        flops += 3 * 2.0 * length**2 * config.hidden_size * config.num_hidden_layers
    return Work(len(samples), sum(len(one.ids) for one in samples), flops)


def check(model: LlamaForCausalLM, weights: dict[str, Weight], dots: Dots, mean: dict[str, Tensor]) -> None:
    """Dots of a few samples against autograd, one sample at a time, in the model's own precision."""
    samples = draw(6, model.config.vocab_size, 99, 300, 100)
    found = score_batch(model, weights, collate(samples), [dots]).values[0][:, 0]
    wanted = []
    for sample in samples:
        gradients = sample_gradients(model, weights, sample)
        parts = [(one.float() * mean[name]).sum(dtype=torch.float64) for name, one in gradients.items()]
        wanted.append(sum(float(part) for part in parts))
    expected = torch.tensor(wanted, dtype=torch.float64)
    error = float((found - expected).norm() / expected.norm())
    assert error < 0.05, f"the dots are off by {error:.1e}: no time is taken"
    print(f"check: dots of 6 samples against autograd in bfloat16: relative error {error:.1e}")


def sample_gradients(model: LlamaForCausalLM, weights: dict[str, Weight], sample: Tokens) -> dict[str, Tensor]:
    parameters = [one.parameter for one in weights.values()]
    for one in parameters:
        one.requires_grad_(True)
    batch = collate([sample]).to(parameters[0].device)
    loss = token_losses(model, batch).by_sample("mean").sum()
    found = torch.autograd.grad(loss, parameters)
    for one in parameters:
        one.requires_grad_(False)
    return dict(zip(weights, found, strict=True))


def score_all(
    model: LlamaForCausalLM, weights: dict[str, Weight], dots: Dots, samples: Sequence[Tokens], budget: int
) -> int:
    """Score everything; the budget that fitted into memory."""
    lengths = np.asarray([len(one.ids) for one in samples])
    pending = [list(batch) for batch in plan_batches(lengths, token_budget=budget)]
    while pending:
        rows = pending.pop(0)
        try:
            score_batch(model, weights, collate([samples[row] for row in rows]), [dots])
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
            torch.cuda.empty_cache()
            budget //= 2
            middle = len(rows) // 2
            pending[:0] = [rows[:middle], rows[middle:]]
    return budget


def exact(bench: Bench, ceilings: Ceilings, sets: int) -> None:
    model = build(bench)
    weights = linear_weights(model)
    vocabulary = model.config.vocab_size
    longest, typical, n = (120, 40, 12) if bench.tiny else (8192, 900, 96)

    def validation(one: int) -> ValidationGradient:
        chosen = draw(4, vocabulary, 1000 + one, longest // 4, typical)
        return ValidationGradient((mean_gradient(model, weights, [collate([sample]) for sample in chosen]),), (4,))

    # one at a time: a mean gradient in float32 is 3 GB here
    dots = Dots(weights, (validation(one) for one in range(sets)))
    if sets == 1:
        check(model, weights, dots, validation(0).mean())
    samples = draw(n, vocabulary, 0, longest, typical)
    work = needed(model, weights, samples, sets)
    budget = score_all(model, weights, dots, samples, 512 if bench.tiny else BUDGET)
    if bench.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    title = f"exact: {sum(one.numel() for one in model.parameters()) / 1e9:.2f} B parameters, q/k/v"
    group = f"{title}, {work.samples} samples, {work.tokens} tokens, {sets} sets"
    floor = ceilings.floor_ms(work.flops, 0.0)

    def note(median_ms: float) -> str:
        rate, speed = work.tokens / median_ms * 1e3, work.flops / median_ms * 1e3
        peak = torch.cuda.max_memory_allocated() / 1e9 if bench.on_gpu else 0.0
        return (
            f"{rate:,.0f} tokens/s, {speed / 1e12:.0f} TFLOP/s = {speed / ceilings.flops:.0%} of the measured peak, "
            f"{peak:.1f} GB, budget {budget}"
        )

    run = functools.partial(score_all, model, weights, dots, samples, budget)
    row = bench.time(group, "diq exact", run, floor, note=note, repeats=2 if bench.tiny else 3)
    if sets == 1:
        less(bench, group, model, weights, samples, row)


def less(
    bench: Bench,
    group: str,
    model: LlamaForCausalLM,
    weights: dict[str, Weight],
    samples: Sequence[Tokens],
    ours: Row,
) -> None:
    """Batch 1, a gradient of every weight, projected: a few samples of typical length, scaled to all tokens."""
    few = sorted(samples, key=lambda one: len(one.ids))[len(samples) // 2 :][: 2 if bench.tiny else 4]
    tokens = sum(len(one.ids) for one in samples)

    def loop(projector: fast.Projector) -> None:
        for sample in few:
            projector(sample_gradients(model, weights, sample))

    keys = {name: parameter_key(0, f"{name}.weight") for name in weights}

    def ours_dense(gradients: dict[str, Tensor]) -> Tensor:
        projected = torch.zeros(1, DIM, device=bench.device)
        for name, gradient in gradients.items():
            project_rademacher(gradient.reshape(1, -1), projected, key=keys[name])
        return projected

    projectors: dict[str, fast.Projector] = {
        "loop of LESS, no projection": lambda gradients: gradients,
        "loop of LESS, our projection": ours_dense,
        "loop of LESS, fast_jl": functools.partial(fast.project_all, dim=DIM),
    }
    for name, projector in projectors.items():
        try:
            loop(projector)
            start = time.perf_counter()
            loop(projector)
            if bench.on_gpu:
                torch.cuda.synchronize()
            took = 1e3 * (time.perf_counter() - start) * tokens / sum(len(one.ids) for one in few)
            note = f"{len(few)} samples, scaled; {took / ours.median_ms:.1f} x ours" if ours.n else "scaled"
            bench.keep(Row(group, name, took, took, took, 1, 0.0, note))
        except Exception as error:  # a rival that does not run must not end the bench
            bench.keep(Row(group, name, 0, 0, 0, 0, 0.0, why(error)))


def main() -> None:
    bench = Bench(__doc__ or "")
    ceilings = bench.ceilings()
    for sets in (1, 4):
        exact(bench, ceilings, sets)
        if bench.on_gpu:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
