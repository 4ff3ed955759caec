"""Signed block count sketch in Triton, of gradients that exist and of outer products that never do.

Triton is imported here, so this module is imported only when a kernel runs.
"""

# triton ships no types; what @triton.jit sees is typed by its own compiler
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from diq.gradients.kernels.resolve import interpreted, key_words

_TILE = 128
_SCALARS = ["n_tokens", "dim", "key_low", "key_high"]


@triton.jit
def _scatter(
    tile,  # [OUT, INNER] float32
    row,  # pointer to the sample's projected[0]
    first_out,
    first_inner,
    n_out,
    n_inner,
    dim,
    key_low,
    key_high,
    OUT: tl.constexpr,  # noqa: N803
    INNER: tl.constexpr,  # noqa: N803
):
    k0, k1 = key_low.to(tl.uint32, bitcast=True), key_high.to(tl.uint32, bitcast=True)
    outs = first_out + tl.arange(0, OUT)
    zero = tl.zeros([OUT, INNER // 32], tl.uint32)
    # one call gives two runs of 16 neighbours
    pairs = first_inner // 32 + tl.arange(0, INNER // 32)
    w0, w1, w2, w3 = tl.philox_impl(
        zero + outs.to(tl.uint32)[:, None], zero + pairs.to(tl.uint32)[None, :], zero, zero + 1, k0, k1
    )
    a = tl.reshape(tl.join(w0, w2), [OUT, INNER // 16])
    b = tl.reshape(tl.join(w1, w3), [OUT, INNER // 16])
    block = tl.umulhi(a, a * 0 + (dim // 16).to(tl.uint32))
    lane = tl.arange(0, 16).to(tl.uint32)[None, None, :]
    bucket = (block * 16)[:, :, None] + (lane ^ ((b >> 16) & 15)[:, :, None])
    negative = (b[:, :, None] >> lane) & 1
    bucket = tl.reshape(bucket, [OUT, INNER])
    negative = tl.reshape(negative, [OUT, INNER])
    signed = tl.where(negative != 0, -tile, tile)
    inner = first_inner + tl.arange(0, INNER)
    mask = (outs < n_out)[:, None] & (inner < n_inner)[None, :]
    tl.atomic_add(row + bucket.to(tl.int64), signed, mask=mask, sem="relaxed")


@triton.jit(do_not_specialize=_SCALARS)
def _sketch_matrices(
    gradients,  # [n, n_out, n_inner]
    projected,  # [n, dim] float32
    n_out,
    n_inner,
    dim,
    key_low,
    key_high,
    OUT: tl.constexpr,  # noqa: N803
    INNER: tl.constexpr,  # noqa: N803
):
    tiles_inner = tl.cdiv(n_inner, INNER)
    tiles = tl.cdiv(n_out, OUT) * tiles_inner
    sample, tile_id = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    first_out, first_inner = (tile_id // tiles_inner) * OUT, (tile_id % tiles_inner) * INNER
    outs = (first_out + tl.arange(0, OUT)).to(tl.int64)
    inner = first_inner + tl.arange(0, INNER)
    mask = (outs < n_out)[:, None] & (inner < n_inner)[None, :]
    cells = (sample.to(tl.int64) * n_out + outs[:, None]) * n_inner + inner[None, :]
    tile = tl.load(gradients + cells, mask=mask, other=0.0).to(tl.float32)
    row = projected + sample.to(tl.int64) * dim
    _scatter(tile, row, first_out, first_inner, n_out, n_inner, dim, key_low, key_high, OUT, INNER)


@triton.jit(do_not_specialize=_SCALARS)
def _sketch_outer(
    delta,  # [n_tokens, n_out]
    x,  # [n_tokens, n_inner]
    offsets,  # [n + 1] int64
    projected,  # [n, dim] float32
    n_tokens,
    n_out,
    n_inner,
    dim,
    key_low,
    key_high,
    OUT: tl.constexpr,  # noqa: N803
    INNER: tl.constexpr,  # noqa: N803
    TOKENS: tl.constexpr,  # noqa: N803
    TENSOR_CORES: tl.constexpr,  # noqa: N803
):
    """The tile ``(delta^T x)[first_out:, first_inner:]`` of one sample, made and sketched in registers."""
    tiles_inner = tl.cdiv(n_inner, INNER)
    tiles = tl.cdiv(n_out, OUT) * tiles_inner
    sample, tile_id = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    first_out, first_inner = (tile_id // tiles_inner) * OUT, (tile_id % tiles_inner) * INNER
    start = tl.maximum(tl.load(offsets + sample), 0)
    stop = tl.minimum(tl.load(offsets + sample + 1), n_tokens)
    if start < stop:
        outs = first_out + tl.arange(0, OUT)
        inner = first_inner + tl.arange(0, INNER)
        total = tl.zeros([OUT, INNER], tl.float32)
        for at in range(start, stop, TOKENS):
            tokens = at + tl.arange(0, TOKENS)
            there = tokens < stop
            d = tl.load(
                delta + tokens[None, :] * n_out + outs[:, None],
                mask=there[None, :] & (outs < n_out)[:, None],
                other=0.0,
            )
            v = tl.load(
                x + tokens[:, None] * n_inner + inner[None, :],
                mask=there[:, None] & (inner < n_inner)[None, :],
                other=0.0,
            )
            if TENSOR_CORES:
                # three tf32 products for float32, as exact as float32 itself; without effect on bfloat16
                total = tl.dot(d, v, total, input_precision="tf32x3")
            else:
                # the interpreter's dot knows no bfloat16
                total += tl.dot(d.to(tl.float32), v.to(tl.float32), input_precision="ieee")
        row = projected + sample.to(tl.int64) * dim
        _scatter(total, row, first_out, first_inner, n_out, n_inner, dim, key_low, key_high, OUT, INNER)


def sketch_matrices(gradients: Tensor, projected: Tensor, *, key: int) -> None:
    """See :func:`diq.gradients.kernels.projections.sketch_matrices`.

    Args:
        gradients: ``[n, out, in]`` float32, float16 or bfloat16, contiguous.
        projected: ``[n, dim]`` float32, contiguous.
        key: of the parameter.
    """
    n, n_out, n_inner = gradients.shape
    grid = n * triton.cdiv(n_out, 32) * triton.cdiv(n_inner, _TILE)
    if grid:
        low, high = key_words(key)
        _sketch_matrices[(grid,)](
            gradients, projected, n_out, n_inner, projected.shape[1], low, high, OUT=32, INNER=_TILE, num_warps=4
        )


def sketch_outer(delta: Tensor, x: Tensor, offsets: Tensor, projected: Tensor, *, key: int) -> None:
    """See :func:`diq.gradients.kernels.projections.sketch_outer`.

    Args:
        delta: ``[t, out]`` float32, float16 or bfloat16, contiguous.
        x: ``[t, in]`` of the same dtype, contiguous.
        offsets: ``[n + 1]`` int64 on the same device.
        projected: ``[n, dim]`` float32, contiguous.
        key: of the parameter.
    """
    n_out, n_inner = delta.shape[1], x.shape[1]
    grid = (len(offsets) - 1) * triton.cdiv(n_out, _TILE) * triton.cdiv(n_inner, _TILE)
    if grid:
        low, high = key_words(key)
        _sketch_outer[(grid,)](
            delta, x, offsets, projected, len(delta), n_out, n_inner, projected.shape[1], low, high,
            OUT=_TILE, INNER=_TILE, TOKENS=64 if delta.element_size() == 2 else 32, TENSOR_CORES=not interpreted(),
            num_warps=8, num_stages=3,
        )  # fmt: skip
