"""Dense projection in Triton: a matrix product whose sign matrix exists only in registers.

Triton is imported here, so this module is imported only when a kernel runs.
"""

# triton ships no types; what @triton.jit sees is typed by its own compiler
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from diq.gradients.kernels.resolve import interpreted, key_words

# one philox call gives the signs of 128 columns of a row
_COLUMNS = 128
_ROWS = 128
# partial sums: the rows are cut alike for every batch, so a sample's result does not depend on its neighbours
_PARTS = 64
_LEAST_ROWS = 1024
_REDUCED = 1024
_PARTIAL_BYTES = 256 << 20
_SCALARS = ["n", "dim", "blocks_per_part", "first_row", "key_low", "key_high"]


@triton.jit
def _signs(w0, w1, w2, w3, BF16: tl.constexpr, ROWS: tl.constexpr):  # noqa: N803
    # four words a row -> signs [128, rows], 1.0 with the bit as its sign; the columns come in the order of _order:
    # bits c and c + 16 of a word become the two halves of one register, a shift and a mask for two signs
    words = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), [ROWS, 4])
    up = (15 - tl.arange(0, 16)).to(tl.uint32)[None, None, :]
    pair = ((words[:, :, None] << up) & 0x80008000) | 0x3F803F80
    low, high = (pair & 0xFFFF).to(tl.uint16), (pair >> 16).to(tl.uint16)
    halves = tl.reshape(tl.join(low, high), [ROWS, 128])
    if BF16:  # noqa: SIM108 - the compiler knows no conditional expression of two types
        signs = halves.to(tl.bfloat16, bitcast=True)
    else:
        signs = (halves.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return tl.trans(signs)


@triton.jit
def _order():
    place = tl.arange(0, 128)
    return (place & 96) | ((place & 31) >> 1) | ((place & 1) << 4)


@triton.jit(do_not_specialize=_SCALARS)
def _project(
    gradients,  # [n, p]
    partial,  # [parts, n, dim] float32
    n,
    p,
    dim,
    blocks_per_part,
    first_row,
    key_low,
    key_high,
    SAMPLES: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    TENSOR_CORES: tl.constexpr,  # noqa: N803
):
    """``partial[part, s, c] = sum over the part's rows of gradients[s, row] * sign(row, c)``."""
    column_block = tl.program_id(0)
    part = tl.program_id(1)
    samples = tl.program_id(2).to(tl.int64) * SAMPLES + tl.arange(0, SAMPLES)
    columns = column_block * 128 + _order()
    k0, k1 = key_low.to(tl.uint32, bitcast=True), key_high.to(tl.uint32, bitcast=True)
    start = part * blocks_per_part
    stop = tl.minimum(start + blocks_per_part, tl.cdiv(p, ROWS))
    total = tl.zeros([128, SAMPLES], tl.float32)
    for block in range(start, stop):
        rows = tl.cast(block, tl.int64) * ROWS + tl.arange(0, ROWS)
        counter = rows + first_row
        low, high = (counter & 0xFFFFFFFF).to(tl.uint32), (counter >> 32).to(tl.uint32)
        third = tl.zeros([ROWS], tl.uint32) + column_block.to(tl.uint32)
        w0, w1, w2, w3 = tl.philox_impl(low, high, third, tl.zeros([ROWS], tl.uint32), k0, k1)
        mask = (rows < p)[:, None] & (samples < n)[None, :]
        tile = tl.load(gradients + samples[None, :] * p + rows[:, None], mask=mask, other=0.0)
        if not TENSOR_CORES:
            # the interpreter's dot knows no bfloat16
            total += tl.dot(_signs(w0, w1, w2, w3, False, ROWS), tile.to(tl.float32), input_precision="ieee")
        elif tile.dtype == tl.float32:
            # three bfloat16 parts of 8 bits hold all 24 bits of a float32, and +-1 is exact: nothing is lost
            signs = _signs(w0, w1, w2, w3, True, ROWS)
            first = (tile.to(tl.uint32, bitcast=True) & 0xFFFF0000).to(tl.float32, bitcast=True)
            rest = tile - first
            second = (rest.to(tl.uint32, bitcast=True) & 0xFFFF0000).to(tl.float32, bitcast=True)
            total = tl.dot(signs, first.to(tl.bfloat16), total)
            total = tl.dot(signs, second.to(tl.bfloat16), total)
            total = tl.dot(signs, (rest - second).to(tl.bfloat16), total)
        else:
            total = tl.dot(_signs(w0, w1, w2, w3, True, ROWS), tile, total)
    cells = (part.to(tl.int64) * n + samples[None, :]) * dim + columns[:, None]
    tl.store(partial + cells, total, mask=(columns < dim)[:, None] & (samples < n)[None, :])


@triton.jit(do_not_specialize=["parts", "cells"])
def _add_parts(partial, projected, parts, cells, scale, CELLS: tl.constexpr):  # noqa: N803
    """``projected += scale * partial.sum(0)``, part after part."""
    at = tl.program_id(0).to(tl.int64) * CELLS + tl.arange(0, CELLS)
    mask = at < cells
    total = tl.zeros([CELLS], tl.float32)
    for part in range(parts):
        total += tl.load(partial + tl.cast(part, tl.int64) * cells + at, mask=mask, other=0.0)
    before = tl.load(projected + at, mask=mask, other=0.0)
    tl.store(projected + at, before + total * scale, mask=mask)


def project_rademacher(gradients: Tensor, projected: Tensor, *, key: int, first_row: int = 0) -> None:
    """``projected += gradients @ P``; see :func:`diq.gradients.kernels.projections.project_rademacher`.

    Args:
        gradients: ``[n, p]`` float32 or bfloat16, contiguous.
        projected: ``[n, dim]`` float32, contiguous.
        key: of the parameter.
        first_row: row of P that column 0 of ``gradients`` meets.
    """
    n, p = gradients.shape
    dim = projected.shape[1]
    if n == 0 or p == 0:
        return
    parts = min(_PARTS, triton.cdiv(p, _LEAST_ROWS))
    blocks_per_part = triton.cdiv(triton.cdiv(p, parts), _ROWS)
    parts = triton.cdiv(p, blocks_per_part * _ROWS)
    at_once = min(n, max(64, _PARTIAL_BYTES // (4 * parts * dim)))
    partial = torch.empty(parts, at_once, dim, dtype=torch.float32, device=gradients.device)
    low, high = key_words(key)
    for first in range(0, n, at_once):
        count = min(at_once, n - first)
        samples, warps = (16, 4) if count <= 16 else (64, 8)
        _project[(triton.cdiv(dim, _COLUMNS), parts, triton.cdiv(count, samples))](
            gradients[first:], partial, count, p, dim, blocks_per_part, first_row, low, high,
            SAMPLES=samples, ROWS=_ROWS, TENSOR_CORES=not interpreted(), num_warps=warps, num_stages=3,
        )  # fmt: skip
        cells = count * dim
        _add_parts[(triton.cdiv(cells, _REDUCED),)](partial, projected[first:], parts, cells, dim**-0.5, CELLS=_REDUCED)
