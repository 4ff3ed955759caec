"""Per-token dots with validation gradients: ``<delta_t, V x_t>`` for every token and validation set."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diq.gradients.kernels import reference
from diq.gradients.kernels.resolve import KernelMismatch, form_of

# entries of V x that exist at a time: what a core's cache holds, and 512 MB of a GPU's memory
_CPU_ENTRIES, _GPU_ENTRIES = 1 << 20, 1 << 27
_LEAST_TOKENS = 64
_WIDE = (torch.float32, torch.float64)


@torch.no_grad()
def token_dots(delta: Tensor, x: Tensor, stacked: Tensor, n_sets: int) -> Tensor:
    """Dots of each token's gradient ``delta_t x_t^T`` with the matrices of all validation sets.

    Equals ``reference.token_dots`` up to rounding. On a GPU, 16-bit inputs go through one kernel: the product ``V x``
    is used up in registers, accumulated in float32, and never rounded to 16 bits or written to memory; the result is
    the same bits in every run. Elsewhere ``V x`` has the dtype of the inputs and exists for some tokens at a time.

    Args:
        delta: ``[t, out]``; a row may hold anything, even NaN: it reaches its own terms alone.
        x: ``[t, in]``, same dtype.
        stacked: ``[sets * out, in]``, same dtype: one matrix ``[out, in]`` a set.
        n_sets: validation sets.

    Returns:
        ``[t, sets]`` float32; float64 for float64 inputs.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    fits = delta.dim() == x.dim() == stacked.dim() == 2 and len(delta) == len(x)
    if (
        not fits
        or stacked.shape != (n_sets * delta.shape[1], x.shape[1])
        or not delta.dtype == x.dtype == stacked.dtype
    ):
        raise ValueError(
            f"delta {list(delta.shape)}, x {list(x.shape)} and stacked {list(stacked.shape)} must be [t, out], [t, in] "
            f"and [{n_sets} * out, in] of one dtype, not {delta.dtype}, {x.dtype} and {stacked.dtype}"
        )
    # cublas is the better float32 product; float64 has no kernel
    if x.dtype == torch.float64 or (x.is_cuda and x.dtype == torch.float32):
        return _plain(delta, x, stacked, n_sets)
    if form_of("token_dots", _check_token_dots, x.device, x.dtype) == "triton":
        return _fused(delta, x, stacked, n_sets)
    return _plain(delta, x, stacked, n_sets)


def _plain(delta: Tensor, x: Tensor, stacked: Tensor, n_sets: int) -> Tensor:
    n_tokens, out = delta.shape
    dtype = x.dtype if x.dtype in _WIDE else torch.float32
    terms = torch.empty(n_tokens, n_sets, dtype=dtype, device=x.device)
    entries = _GPU_ENTRIES if x.is_cuda else _CPU_ENTRIES
    step = max(_LEAST_TOKENS, entries // max(1, len(stacked)))
    for at in range(0, n_tokens, step):
        product = F.linear(x[at : at + step], stacked).to(dtype).view(-1, n_sets, out)
        torch.sum(product.mul_(delta[at : at + step, None].to(dtype)), dim=2, out=terms[at : at + step])
    return terms


def _fused(delta: Tensor, x: Tensor, stacked: Tensor, n_sets: int) -> Tensor:
    from diq.gradients.kernels import triton_dots

    inputs = (delta.contiguous(), x.contiguous(), stacked.contiguous())
    if not x.is_cuda:
        return triton_dots.token_dots(*inputs, n_sets)
    with torch.cuda.device(x.device):
        return triton_dots.token_dots(*inputs, n_sets)


def _check_token_dots(device: torch.device, dtype: torch.dtype) -> None:
    # every tile size that the launcher chooses from
    for out in (17, 137):
        at = torch.arange(137 * 137, dtype=torch.float64)
        delta, x, stacked = (
            torch.sin(at[: rows * columns] ** power).view(rows, columns).to(dtype)
            for rows, columns, power in ((70, out, 1.5), (70, 63, 1.4), (2 * out, 63, 1.3))
        )
        found = _fused(delta.to(device), x.to(device), stacked.to(device), 2).double().cpu().numpy()
        wanted = reference.token_dots(delta.double().numpy(), x.double().numpy(), stacked.double().numpy(), 2)
        error = float(np.abs(found - wanted).max() / np.abs(wanted).max())
        if not error < 1e-5:
            raise KernelMismatch(f"relative error {error:.1e} against the reference")
