"""The projections in plain torch, on any device: the matrix is made in blocks by a vectorised Philox.

Slower than the kernels and always right; what a GPU falls back to, and a second opinion in the tests.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

# entries of the random matrix that exist at a time; each takes some tens of bytes while it is made
_ENTRIES = 1 << 22
_LOW = 0xFFFFFFFF


def philox(key: int, c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 of int64 tensors that hold 32-bit words and broadcast together; so do the four results.

    torch has no unsigned product: a signed 64-bit one wraps to the same bits, and shifting and masking them gives the
    two halves.
    """
    k0, k1 = key & _LOW, key >> 32
    for _ in range(10):
        first, second = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            ((second >> 32) & _LOW) ^ c1 ^ k0,
            second & _LOW,
            ((first >> 32) & _LOW) ^ c3 ^ k1,
            first & _LOW,
        )
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return c0, c1, c2, c3


def rademacher_signs(key: int, rows: int, dim: int, first_row: int, device: torch.device) -> Tensor:
    """Signs of the dense matrix, ``[rows, dim]`` float32."""
    row = torch.arange(first_row, first_row + rows, device=device)[:, None]
    block = torch.arange((dim + 127) // 128, device=device)[None, :]
    words = torch.stack(philox(key, row & _LOW, row >> 32, block, torch.zeros_like(block)), dim=2)
    bits = (words[..., None] >> torch.arange(32, device=device)) & 1
    return 1 - 2 * bits.view(rows, -1)[:, :dim].to(torch.float32)


def sparse_buckets(
    key: int, first_out: int, last_out: int, inner: int, dim: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Bucket (int64) and sign (float32) of rows ``first_out`` to ``last_out`` of a parameter, ``[rows, in]``."""
    out = torch.arange(first_out, last_out, device=device)[:, None]
    pair = torch.arange((inner + 31) // 32, device=device)[None, :]
    zero = torch.zeros_like(pair)
    w0, w1, w2, w3 = philox(key, out, pair, zero, zero + 1)
    a, b = torch.stack([w0, w2], dim=2)[..., None], torch.stack([w1, w3], dim=2)[..., None]
    lane = torch.arange(16, device=device)
    bucket = ((a * (dim // 16)) >> 32) * 16 + (lane ^ ((b >> 16) & 15))
    sign = 1 - 2 * ((b >> lane) & 1).to(torch.float32)
    rows = last_out - first_out
    return bucket.reshape(rows, -1)[:, :inner], sign.reshape(rows, -1)[:, :inner]


def project_rademacher(gradients: Tensor, projected: Tensor, *, key: int, first_row: int = 0) -> None:
    """See :func:`diq.gradients.kernels.projections.project_rademacher`."""
    p, dim = gradients.shape[1], projected.shape[1]
    step = max(1, _ENTRIES // dim)
    for at in range(0, p, step):
        block = gradients[:, at : at + step].float()
        signs = rademacher_signs(key, block.shape[1], dim, first_row + at, gradients.device)
        projected.addmm_(block, signs, alpha=dim**-0.5)


def sketch_matrices(gradients: Tensor, projected: Tensor, *, key: int) -> None:
    """See :func:`diq.gradients.kernels.projections.sketch_matrices`."""
    _n, out, inner = gradients.shape
    step = max(1, _ENTRIES // max(1, inner))
    for at in range(0, out, step):
        block = gradients[:, at : at + step].float()
        _add(block, projected, key, at)


def sketch_outer(delta: Tensor, x: Tensor, offsets: Tensor, projected: Tensor, *, key: int) -> None:
    """See :func:`diq.gradients.kernels.projections.sketch_outer`."""
    out, inner = delta.shape[1], x.shape[1]
    spans = offsets.tolist()
    step = max(1, _ENTRIES // max(1, inner))
    for sample, (start, stop) in enumerate(itertools.pairwise(spans)):
        if start == stop:
            continue
        tokens = x[start:stop].float()
        for at in range(0, out, step):
            block = delta[start:stop, at : at + step].float().T @ tokens
            _add(block[None], projected[sample : sample + 1], key, at)


def _add(block: Tensor, projected: Tensor, key: int, first_out: int) -> None:
    # block [n, rows, in] of the parameter's rows from first_out on
    n, rows, inner = block.shape
    bucket, sign = sparse_buckets(key, first_out, first_out + rows, inner, projected.shape[1], block.device)
    projected.index_add_(1, bucket.reshape(-1), (block * sign).reshape(n, rows * inner))
