"""Exact influence against a plain training step (forward + full backward) over the same length-sorted batches.

Also printed: one set against four, and the strict rival whose language-model head sees answer positions alone, as ours
does. Right answer first: the dots of the first batch are compared with per-sample autograd before any time is taken.

    python benches/bench_exact.py [--repeats 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from diq.gradients import InfluenceScorer, mean_gradient, sample_losses
from diq.models import linear_modules
from diq.samples import Batch, Tokens, collate, plan_batches

# hidden, layers, heads, key-value heads, vocabulary; the second has 30 million parameters
SHAPES = {"demo size": (160, 4, 4, 2, 2048), "30M Llama": (512, 8, 8, 4, 8192)}
BUDGET = 2048


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


def tokens(n: int, vocabulary: int) -> list[Tokens]:
    """Lengths like the short traces of real pools: log-normal around 200 tokens, a third of it prompt."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(5.2, 0.6, n), 16, 1500).astype(int)
    return [Tokens(rng.integers(3, vocabulary, length).astype(np.int32), max(1, length // 3)) for length in lengths]


def plain_step(model: LlamaForCausalLM, batches: list[Batch]) -> None:
    for batch in batches:
        labels = batch.ids.masked_fill(~batch.answer, -100)
        model(input_ids=batch.ids, labels=labels, use_cache=False).loss.backward()
        model.zero_grad(set_to_none=True)


def strict_step(model: LlamaForCausalLM, batches: list[Batch]) -> None:
    for batch in batches:
        sample_losses(model, batch)[0].sum().backward()
        model.zero_grad(set_to_none=True)


def exact_pass(scorer: InfluenceScorer, batches: list[Batch]) -> None:
    scorer.model.requires_grad_(False)
    for batch in batches:
        scorer.score(batch)
    scorer.model.requires_grad_(True)


def check(
    model: LlamaForCausalLM, scorer: InfluenceScorer, gradients: dict[str, torch.Tensor], samples: list[Tokens]
) -> None:
    modules = linear_modules(model)
    expected = []
    for sample in samples:
        one = mean_gradient(model, modules, [collate([sample])])
        expected.append(sum(float((one[name].double() * gradients[name].double()).sum()) for name in modules))
    found = scorer.score(collate(samples))[0][:, 0]
    wanted = torch.tensor(expected, dtype=torch.float64)
    assert (found - wanted).abs().max() < 1e-4 * wanted.std(), "the dots are wrong; no time is taken"


def measure(candidates: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--samples", type=int, default=48, help="of the small model; a quarter for the large one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, {options.repeats} rounds, {BUDGET} tokens a batch")
    for title, shape in SHAPES.items():
        model = build(*shape)
        samples = tokens(options.samples if shape[0] < 512 else options.samples // 4, shape[-1])
        lengths = np.asarray([len(one.ids) for one in samples])
        batches = [collate([samples[i] for i in batch]) for batch in plan_batches(lengths, token_budget=BUDGET)]
        modules = linear_modules(model)

        model.requires_grad_(False)
        sets = [mean_gradient(model, modules, [collate(samples[i::4])]) for i in range(4)]
        one, four = InfluenceScorer(model, modules, sets[:1]), InfluenceScorer(model, modules, sets)
        check(model, one, sets[0], samples[:6])
        model.requires_grad_(True)
        times = measure(
            {
                "plain step (forward + full backward)": partial(plain_step, model, batches),
                "strict step (head on answers alone)": partial(strict_step, model, batches),
                "exact, 1 validation set": partial(exact_pass, one, batches),
                "exact, 4 validation sets": partial(exact_pass, four, batches),
            },
            options.repeats,
        )
        n_tokens = int(lengths.sum())
        parameters = sum(p.numel() for p in model.parameters())
        print(f"\n{title}: {parameters / 1e6:.1f} M parameters, {len(samples)} samples, {n_tokens} tokens")
        base = times["plain step (forward + full backward)"]
        print(f"{'':38} {'median s':>9} {'min':>8} {'max':>8} {'tokens/s':>9} {'ratio':>6} {'ratios min-max':>15}")
        for name, seconds in times.items():
            ratios = [mine / theirs for mine, theirs in zip(seconds, base, strict=True)]
            print(
                f"{name:38} {statistics.median(seconds):9.3f} {min(seconds):8.3f} {max(seconds):8.3f} "
                f"{n_tokens / statistics.median(seconds):9.0f} {statistics.median(ratios):6.3f} "
                f"{min(ratios):7.3f}-{max(ratios):.3f}"
            )


if __name__ == "__main__":
    main()
