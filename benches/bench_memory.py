"""Bytes that exact influence takes on a card, worked out without one: Llama-3.1-8B in bfloat16 on meta tensors.

Every operation runs for its shapes alone, and what is alive is counted. Attention is the
fused kernel's, which keeps no scores. For each case: validation gradients (what preparing them peaks at, and what
stays), then one batch forward and back.

    python benches/bench_memory.py [--layers 32]
"""

from __future__ import annotations

import argparse
import contextlib
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM
from transformers.masking_utils import AttentionMaskInterface

from diq.gradients import losses
from diq.gradients.backward import backward_pass
from diq.gradients.dots import Dots
from diq.gradients.losses import checkpointed, slices
from diq.gradients.validation import ValidationGradient
from diq.models.layers import linear_weights
from diq.models.tokens import Tokens, collate

GB = 1e9


@dataclass(frozen=True, slots=True)
class Case:
    """Samples of one length, half of it answer."""

    title: str
    sets: int
    folds: int
    samples: int
    tokens: int
    rank: int | None = None
    checkpointing: bool = False


CASES = (
    Case("1 set", 1, 2, 1, 8192),
    Case("9 sets", 9, 2, 1, 8192),
    Case("9 sets, rank 16", 9, 2, 1, 8192, rank=16),
    Case("9 sets, checkpointing", 9, 2, 1, 8192, checkpointing=True),
    Case("1 set, batch of 16,384", 1, 2, 32, 512),
    Case("9 sets, batch of 4,096", 9, 2, 8, 512),
)


class Meter(TorchDispatchMode):
    """Counts the bytes that are alive, and answers what depends on values with the sizes that they would have."""

    def __init__(self, answers: int = 0) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.answers = answers
        self._seen: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.nonzero.default:
            out: Any = torch.zeros(self.answers, args[0].dim(), dtype=torch.int64, device="meta")
        elif func is torch.ops.aten.bincount.default:
            out = torch.zeros(args[2] if len(args) > 2 else kwargs["minlength"], dtype=torch.int64, device="meta")
        elif func is torch.ops.aten._local_scalar_dense.default:
            # whether positions count from 0: they do
            return True
        else:
            out = func(*args, **kwargs)
        for one in tree_leaves(out):
            if isinstance(one, Tensor) and one.device.type == "meta":
                self._note(one)
        return out

    def _note(self, one: Tensor) -> None:
        storage = one.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen[key] = size
        self.live += size
        self.peak = max(self.peak, self.live)

        def gone() -> None:
            if self._seen.pop(key, None) is not None:
                self.live -= size

        weakref.finalize(storage, gone)


class _Parts(list[slice]):
    """Parts of the answer tokens, of which the meter is told."""

    meter: Meter

    def __iter__(self) -> Iterator[slice]:
        for part in super().__iter__():
            self.meter.answers = part.stop - part.start
            yield part


def _slices(meter: Meter, n: int, each: int) -> _Parts:
    found = _Parts(slices(n, each))
    found.meter = meter
    return found


def _attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> tuple[Tensor, None]:
    attended = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, True)[0]
    return attended.transpose(1, 2).contiguous(), None


def llama(layers: int) -> LlamaForCausalLM:
    AttentionInterface.register("meta", _attend)
    AttentionMaskInterface.register("meta", lambda *_, **__: None)
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=131072,
        attn_implementation="meta",
    )
    with torch.device("meta"):
        model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    return model.eval().requires_grad_(False)


def measure(case: Case, layers: int) -> tuple[float, float, float, float]:
    """Weights, peak of preparing, what stays after it, peak of a batch; all in bytes."""
    length = case.tokens
    meter = Meter(case.samples * (length - length // 2))
    with meter:
        model = llama(layers)
        weights = linear_weights(model)
        base = meter.live

        def gradients() -> Iterator[ValidationGradient]:
            for _ in range(case.sets):
                folds = tuple(
                    {name: torch.empty(one.shape, device="meta") for name, one in weights.items()}
                    for _ in range(case.folds)
                )
                yield ValidationGradient(folds, (10,) * case.folds)

        meter.peak = meter.live
        dots = Dots(weights, gradients(), rank=case.rank)
        prepared, stays = meter.peak, meter.live
        samples = [Tokens(np.ones(length, np.int32), length // 2) for _ in range(case.samples)]
        batch = collate(samples).to("meta")
        meter.peak = meter.live
        losses.slices = partial(_slices, meter)
        with checkpointed(model) if case.checkpointing else contextlib.nullcontext():
            backward_pass(model, weights, batch, [dots])
    return base, prepared, stays - base, meter.peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(
        f"{'Llama-3.1-8B, bfloat16, qkv':28} {'tokens':>11} {'weights':>8} {'prepare':>8} {'V':>6} {'batch':>8}  (GB)"
    )
    for case in CASES:
        base, prepared, stays, peak = (one / GB for one in measure(case, options.layers))
        tokens = f"{case.samples} x {case.tokens:,}"
        print(f"{case.title:28} {tokens:>11} {base:8.1f} {prepared:8.1f} {stays:6.1f} {peak:8.1f}", flush=True)


if __name__ == "__main__":
    main()
