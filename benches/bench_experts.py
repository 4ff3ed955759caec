"""Exact influence over a mixture of experts, against exact over its attention plus the experts' own products.

What cannot be avoided is, for every row that a router sends to an expert, one product with the expert's matrix V of
each stack. In one run, candidates in turn: exact over the attention alone, those products alone (with the rows that the
model sends), exact over all linear layers, and a plain training step of transformers (forward and full backward). Right
answer first: dots of some samples against autograd. Then what a pass keeps for its way back, in bytes.

    python benches/bench_experts.py [--repeats 5] [--threads 2] [--samples 16]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM

from bench_exact import batches_of, plain_step, tokens
from diq.gradients.backward import Recorder, score_batch
from diq.gradients.dots import Dots
from diq.gradients.losses import token_losses
from diq.gradients.validation import ValidationGradient, mean_gradient
from diq.models.experts import Routing, stack_product
from diq.models.layers import Weight, linear_weights
from diq.models.tokens import Batch, Tokens, collate

VOCABULARY = 4096


def build() -> MixtralForCausalLM:
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=2048,
    )
    return MixtralForCausalLM(config).eval()


class Rows(Recorder):
    """Keeps what the stacks report."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Tensor, Routing]] = []

    def begin(self, batch: Batch) -> None:
        pass

    def record(self, name: str, x: Tensor, delta: Tensor, tokens: Batch) -> None:
        pass

    def record_stack(self, name: str, x: Tensor, delta: Tensor, routing: Routing) -> bool:
        self.seen.append((name, x, routing))
        return True

    def finish(self) -> Tensor:
        return torch.empty(0)


def score(model: MixtralForCausalLM, weights: dict[str, Weight], dots: Dots, batches: list[Batch]) -> None:
    for batch in batches:
        score_batch(model, weights, batch, [dots])


def products(rows: list[tuple[str, Tensor, Routing]], stacks: dict[str, Tensor]) -> None:
    for name, x, routing in rows:
        stack_product(x, stacks[name], routing)


def kept(run: Callable[[], object]) -> int:
    """Bytes of the distinct tensors that a pass keeps for its way back."""
    sizes: dict[int, int] = {}

    def pack(one: Tensor) -> Tensor:
        storage = one.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return one

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one):
        run()
    return sum(sizes.values())


def check(model: MixtralForCausalLM, weights: dict[str, Weight], dots: Dots, mean: dict[str, Tensor]) -> None:
    samples = tokens(4, VOCABULARY, seed=9)
    found = score_batch(model, weights, collate(samples), [dots]).values[0][:, 0]
    wanted = [autograd_dot(model, weights, sample, mean) for sample in samples]
    expected = torch.tensor(wanted, dtype=torch.float64)
    assert (found - expected).abs().max() < 1e-4 * expected.std(), "the dots are wrong; no time is taken"


def autograd_dot(
    model: MixtralForCausalLM, weights: dict[str, Weight], sample: Tokens, mean: dict[str, Tensor]
) -> float:
    parameters = [one.parameter.requires_grad_(True) for one in weights.values()]
    loss = token_losses(model, collate([sample])).by_sample("mean").sum()
    total = 0.0
    for (name, weight), part in zip(weights.items(), torch.autograd.grad(loss, parameters), strict=True):
        if weight.experts is None:
            total += float((part * mean[name]).sum())
        else:
            total += sum(float((one * mean[f"{name}.{e}"]).sum()) for e, one in enumerate(part))
    model.requires_grad_(False)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--samples", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = build().requires_grad_(False)
    samples = tokens(options.samples, VOCABULARY)
    batches = batches_of(samples)
    attention, every = linear_weights(model, "self_attn"), linear_weights(model, "all-linear")
    mean = mean_gradient(model, every, [collate(tokens(4, VOCABULARY, seed=1))])
    gradient = [ValidationGradient((mean,), (4,))]
    narrow, whole, rows = Dots(attention, gradient), Dots(every, gradient), Rows()
    check(model, every, whole, mean)
    for batch in batches:
        score_batch(model, every, batch, [rows])
    stacks = {
        name: torch.stack([mean[f"{name}.{e}"] for e in range(one.experts)])
        for name, one in every.items()
        if one.experts is not None
    }
    total = sum(one.numel() for one in model.parameters())
    print(f"torch {torch.__version__}, {options.threads} threads, {total:,} parameters, {options.repeats} rounds")
    candidates: dict[str, Callable[[], object]] = {
        "exact, attention": partial(score, model, attention, narrow, batches),
        "the experts' products alone": partial(products, rows.seen, stacks),
        "exact, all-linear": partial(score, model, every, whole, batches),
        "plain step (forward + full backward)": partial(plain_step, model, batches),
    }
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for name, run in [*candidates.items(), *list(candidates.items()) * options.repeats]:
        start = time.perf_counter()
        run()
        times[name].append(time.perf_counter() - start)
    # the first of each warms up
    taken = {name: seconds[1:] for name, seconds in times.items()}
    for name, seconds in taken.items():
        print(f"{name:38} median {statistics.median(seconds):7.3f} s, min {min(seconds):7.3f} s")
    at_attention, in_products, in_all, _ = taken.values()
    ratios = [a / (b + c) for a, b, c in zip(in_all, at_attention, in_products, strict=True)]
    print(f"exact, all-linear / (attention + products): median {statistics.median(ratios):.3f}, max {max(ratios):.3f}")
    first = batches[:1]
    print(f"kept for the way back, {first[0].ids.numel()} tokens:")
    for name, run in (
        ("exact, attention", partial(score, model, attention, narrow, first)),
        ("exact, all-linear", partial(score, model, every, whole, first)),
        ("plain step", partial(plain_step, model, first)),
    ):
        print(f"  {name:36} {kept(run) / 1e6:9.1f} MB")


if __name__ == "__main__":
    main()
