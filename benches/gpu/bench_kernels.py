"""The projection kernels and the fused dot against plain torch, fast_jl, a stored matrix, and the floor of the card.

The right answer is checked against plain torch before any time is taken.

    python benches/gpu/bench_kernels.py [--sweep] [--tiny --device cpu]
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import fast
import torch
from common import Bench, Ceilings
from torch import Tensor
from torch.nn import functional as F

from diq.gradients.kernels import dots, projections, resolve, torch_forms

KEY = 0xC3E7018A7BC8D252


def close(found: Tensor, wanted: Tensor, bound: float = 1e-4) -> None:
    error = float((found.double() - wanted.double()).norm() / wanted.double().norm())
    assert error < bound, f"relative error {error:.1e}: no time is taken"


def dense(bench: Bench, ceilings: Ceilings) -> None:
    """``[n, p]`` to 4096 columns; p stands for a large LoRA, and small enough that a rival can store the matrix."""
    p, dim = (3000, 256) if bench.tiny else (1 << 20, 4096)
    stored = torch_forms.rademacher_signs(KEY, min(p, 1 << 14), dim, 0, bench.device).bfloat16()
    stored = stored.repeat((p + len(stored) - 1) // len(stored), 1)[:p]
    for n, dtype in itertools.product((1, 16, 64), (torch.bfloat16, torch.float32)):
        gradients = torch.randn(n, p, device=bench.device).to(dtype)
        projected, wanted = (torch.zeros(n, dim, device=bench.device) for _ in range(2))
        part = gradients[:, :2100].contiguous()
        projections.project_rademacher(part, projected, key=KEY)
        torch_forms.project_rademacher(part, wanted, key=KEY)
        close(projected, wanted, 1e-5)

        group = f"dense: {n} x {p:,} {str(dtype)[6:]} to {dim}"
        # the matrix costs no memory; a stored one would
        floor = ceilings.floor_ms(2.0 * n * p * dim, float(gradients.nbytes))
        stored_floor = ceilings.floor_ms(2.0 * n * p * dim, float(gradients.nbytes + stored.nbytes))
        run = functools.partial(projections.project_rademacher, gradients, projected, key=KEY)
        bench.time(group, "diq", run, floor, note=lambda median: f"{p * dim / median / 1e9:.2f} T signs/s")
        narrow = gradients.bfloat16()
        bench.time(group, "torch, matrix stored in bf16", functools.partial(torch.matmul, narrow, stored), stored_floor)
        if n == 16:
            run = functools.partial(torch_forms.project_rademacher, gradients, projected, key=KEY)
            bench.time(group, "torch, matrix made in blocks", run, floor)
        if n >= 16:
            bench.time(group, "fast_jl", functools.partial(fast.project, gradients.float(), dim), floor)


def sparse(bench: Bench, ceilings: Ceilings) -> None:
    """Tokens of some samples at one 4096 x 4096 layer to 65536 buckets, and gradients that exist already."""
    size, dim, n, each = (96, 256, 3, 40) if bench.tiny else (4096, 65536, 8, 2048)
    delta, x = (torch.randn(n * each, size, device=bench.device).bfloat16() for _ in range(2))
    offsets = torch.arange(n + 1, device=bench.device) * each
    projected, wanted = (torch.zeros(n, dim, device=bench.device) for _ in range(2))
    projections.sketch_outer(delta, x, offsets, projected, key=KEY)
    torch_forms.sketch_outer(delta, x, offsets, wanted, key=KEY)
    close(projected, wanted)

    group = f"sketch of tokens: {n} x {each} tokens, {size} x {size} to {dim}"
    floor = ceilings.floor_ms(2.0 * n * each * size * size, float(delta.nbytes + x.nbytes + projected.nbytes))
    bench.time(group, "diq", functools.partial(projections.sketch_outer, delta, x, offsets, projected, key=KEY), floor)
    d3, x3 = delta.view(n, each, size), x.view(n, each, size)
    bench.time(group, "torch, outer product alone", lambda: torch.bmm(d3.transpose(1, 2), x3), floor)
    run = functools.partial(torch_forms.sketch_outer, delta, x, offsets, projected, key=KEY)
    bench.time(group, "torch, gradients in memory", run, floor)

    gradients = torch.randn(n, size, size, device=bench.device)
    group = f"sketch of gradients: {n} x {size} x {size} float32 to {dim}"
    floor = ceilings.floor_ms(0.0, float(gradients.nbytes))
    bench.time(group, "diq", functools.partial(projections.sketch_matrices, gradients, projected, key=KEY), floor)
    bench.time(group, "torch", functools.partial(torch_forms.sketch_matrices, gradients, projected, key=KEY), floor)
    bench.time(group, "torch, read alone", lambda: gradients.sum(), floor)


def fused_dots(bench: Bench, ceilings: Ceilings) -> None:
    """Tokens of a batch at one layer, 1 and 4 validation sets, square and grouped-query shapes."""
    t, inner = (70, 96) if bench.tiny else (16384, 4096)
    for out, sets in ((inner, 1), (inner, 4), (inner // 4, 1)):
        delta, x = torch.randn(t, out, device=bench.device), torch.randn(t, inner, device=bench.device)
        stacked = torch.randn(sets * out, inner, device=bench.device).bfloat16()
        delta, x = delta.bfloat16(), x.bfloat16()
        found = dots.token_dots(delta, x, stacked, sets)
        # the rival rounds V x to bfloat16
        close(found, dots._plain(delta, x, stacked, sets), 2e-2)
        group = f"dots: {t} tokens, {out} x {inner}, {sets} sets"
        moved = float(delta.nbytes + x.nbytes + stacked.nbytes)
        floor = ceilings.floor_ms(2.0 * t * sets * out * inner, moved)
        bench.time(group, "diq", functools.partial(dots.token_dots, delta, x, stacked, sets), floor)
        bench.time(group, "torch, V x in memory", functools.partial(dots._plain, delta, x, stacked, sets), floor)
        bench.time(group, "torch, product alone", functools.partial(F.linear, x, stacked), floor)


def sweep(bench: Bench) -> None:
    """Other tile sizes of the two product kernels."""
    from diq.gradients.kernels import triton_dots, triton_sketch

    low, high = resolve.key_words(KEY)
    t = size = 64 if bench.tiny else 4096
    d, x, v = (torch.randn(t, size, device=bench.device).bfloat16() for _ in range(3))
    wide = not resolve.interpreted()
    shapes = [(128, 128), (128, 256), (256, 128), (64, 256)]
    for (rows, columns), inner, warps, stages in itertools.product(shapes, (32, 64), (4, 8), (3, 4)):
        partial = torch.empty(t, 1, (size + columns - 1) // columns, device=bench.device)
        grid = ((t + rows - 1) // rows * partial.shape[2], 1)
        options: dict[str, Any] = {"num_warps": warps, "num_stages": stages}
        run = functools.partial(
            triton_dots._token_dots[grid], d, x, v, partial, t, 1, size, size,
            TOKENS=rows, OUT=columns, INNER=inner, GROUP=8, EVEN=size % inner == 0, TENSOR_CORES=wide, **options,
        )  # fmt: skip
        bench.time("sweep of dots", f"{rows}x{columns}x{inner} w{warps} s{stages}", run)
    offsets, projected = torch.tensor([0, t], device=bench.device), torch.zeros(1, 4096, device=bench.device)
    for (rows, columns), tokens, warps in itertools.product([(64, 128), (128, 64), *shapes[:3]], (32, 64), (4, 8)):
        grid = ((size + rows - 1) // rows * ((size + columns - 1) // columns),)
        run = functools.partial(
            triton_sketch._sketch_outer[grid], d, x, offsets, projected, t, size, size, 4096, low, high,
            OUT=rows, INNER=columns, TOKENS=tokens, TENSOR_CORES=wide, num_warps=warps, num_stages=3,
        )  # fmt: skip
        bench.time("sweep of sketch", f"{rows}x{columns}x{tokens} w{warps}", run)


def main() -> None:
    bench = Bench(__doc__ or "")
    ceilings = bench.ceilings()
    dense(bench, ceilings)
    sparse(bench, ceilings)
    fused_dots(bench, ceilings)
    if bench.options.sweep:
        sweep(bench)


if __name__ == "__main__":
    main()
