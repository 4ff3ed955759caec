"""Random projections of gradients, added to a buffer of projected gradients.

The matrices are a pure function of (key, row, column), so every device, batch and block uses the same one, and it is
never stored; ``docs/projections.md`` defines them, :mod:`diq.gradients.kernels.reference` is the slow form. CPU tensors
go to the Rust core, CUDA tensors to Triton, or to plain torch where Triton does not work (``resolve``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from diq import _core
from diq.gradients.kernels import reference, torch_forms
from diq.gradients.kernels.resolve import KernelMismatch, form_of

_NARROW = (torch.float32, torch.bfloat16, torch.float16)


@torch.no_grad()
def project_rademacher(gradients: Tensor, projected: Tensor, *, key: int, first_row: int = 0) -> None:
    """Add the dense projection of gradients: ``projected += gradients @ P``.

    Equals ``reference.project_rademacher`` up to float32 rounding. No float32 input is narrowed: on a GPU it enters
    the tensor cores as three bfloat16 parts that hold all its bits. The result is the same bits in every run.

    Args:
        gradients: ``[n, p]``, float32 or bfloat16 (other types are widened); a row is a sample's gradient of one
            parameter ``[out, in]``, row by row, or a part of it.
        projected: ``[n, dim]`` float32, contiguous, on the same device; dim is a multiple of 16.
        key: of the parameter (:func:`parameter_key`).
        first_row: row of P that column 0 of ``gradients`` meets.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
    """
    if gradients.dim() != 2:
        raise ValueError(f"gradients must be [n, p], not {list(gradients.shape)}")
    _check(projected, len(gradients), gradients)
    if gradients.dtype not in (torch.float32, torch.bfloat16):
        gradients = gradients.float()
    form = form_of("project_rademacher", _check_rademacher, gradients.device, gradients.dtype)
    if form == "cpu":
        _core.project_rademacher(_array(gradients), projected.numpy(), key=key, first_row=first_row)
    elif form == "torch":
        torch_forms.project_rademacher(gradients, projected, key=key, first_row=first_row)
    else:
        from diq.gradients.kernels import triton_rademacher

        with _on(projected):
            triton_rademacher.project_rademacher(gradients.contiguous(), projected, key=key, first_row=first_row)


@torch.no_grad()
def sketch_matrices(gradients: Tensor, projected: Tensor, *, key: int) -> None:
    """Add the signed block count sketch of gradients: each element goes to one of ``dim`` buckets with a sign.

    Equals ``reference.sketch_matrices`` up to float32 rounding. On a GPU the additions of a bucket come in no fixed
    order, so the last bits differ between runs.

    Args:
        gradients: ``[n, out, in]``, float32, float16 or bfloat16; a sample's gradient of one parameter.
        projected: ``[n, dim]`` float32, contiguous, on the same device; dim is a multiple of 16.
        key: of the parameter (:func:`parameter_key`).

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
    """
    if gradients.dim() != 3:
        raise ValueError(f"gradients must be [n, out, in], not {list(gradients.shape)}")
    _check(projected, len(gradients), gradients)
    if gradients.dtype not in _NARROW:
        gradients = gradients.float()
    form = form_of("sketch_matrices", _check_matrices, gradients.device, gradients.dtype)
    if form == "cpu":
        _core.sketch_matrices(_array(gradients), projected.numpy(), key=key)
    elif form == "torch":
        torch_forms.sketch_matrices(gradients, projected, key=key)
    else:
        from diq.gradients.kernels import triton_sketch

        with _on(projected):
            triton_sketch.sketch_matrices(gradients.contiguous(), projected, key=key)


@torch.no_grad()
def sketch_outer(delta: Tensor, x: Tensor, offsets: Tensor, projected: Tensor, *, key: int) -> None:
    """Add the sketch of each sample's gradient ``sum_t delta_t x_t^T``, which is never written to memory.

    Equals ``reference.sketch_outer`` up to float32 rounding; see :func:`sketch_matrices`.

    Args:
        delta: ``[t, out]``, float32, float16 or bfloat16: output gradients of a linear layer, sample after sample.
        x: ``[t, in]`` of the same dtype: its inputs.
        offsets: ``[n + 1]`` int64 on any device, rising from 0 to t: sample s has the tokens
            ``offsets[s] : offsets[s + 1]``, and may have none.
        projected: ``[n, dim]`` float32, contiguous, on the same device; dim is a multiple of 16.
        key: of the parameter (:func:`parameter_key`).

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
    """
    if delta.dim() != 2 or x.dim() != 2 or len(delta) != len(x) or delta.dtype != x.dtype or delta.device != x.device:
        raise ValueError(
            f"delta {_shown(delta)} and x {_shown(x)} must be [t, out] and [t, in] of one dtype and device"
        )
    if offsets.dim() != 1 or offsets.dtype != torch.int64 or len(offsets) == 0:
        raise ValueError(f"offsets must be [n + 1] int64, not {_shown(offsets)}")
    _check(projected, len(offsets) - 1, x)
    if delta.dtype not in _NARROW:
        delta, x = delta.float(), x.float()
    form = form_of("sketch_outer", _check_outer, x.device, x.dtype)
    if form == "cpu":
        _core.sketch_outer(_array(delta), _array(x), offsets.cpu().contiguous().numpy(), projected.numpy(), key=key)
    elif form == "torch":
        torch_forms.sketch_outer(delta, x, offsets, projected, key=key)
    else:
        from diq.gradients.kernels import triton_sketch

        with _on(projected):
            triton_sketch.sketch_outer(
                delta.contiguous(), x.contiguous(), offsets.to(x.device).contiguous(), projected, key=key
            )


def _check(projected: Tensor, n: int, like: Tensor) -> None:
    if projected.dim() != 2 or len(projected) != n or projected.dtype != torch.float32:
        raise ValueError(f"projected must be [{n}, dim] float32, not {_shown(projected)}")
    if projected.shape[1] % 16 or projected.shape[1] == 0:
        raise ValueError(f"dim must be a multiple of 16, not {projected.shape[1]}")
    if not projected.is_contiguous() or projected.device != like.device:
        raise ValueError(f"projected must be contiguous and on {like.device}, it is on {projected.device}")


def _shown(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"


def _array(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    # no copy when it is float32 and contiguous
    found: np.ndarray[Any, np.dtype[np.float32]] = tensor.detach().float().contiguous().numpy()
    return found


def _on(tensor: Tensor) -> Any:
    # triton launches on the current device; on a CPU it is interpreted
    return torch.cuda.device(tensor.device) if tensor.is_cuda else torch.no_grad()


# the self-checks: every tile size that the launchers choose from, on inputs of a few rows

_KEY = 0x9E3779B97F4A7C15


def _check_rademacher(device: torch.device, dtype: torch.dtype) -> None:
    from diq.gradients.kernels import triton_rademacher

    for n, p, dim in ((3, 137, 144), (17, 63, 16)):
        gradients = _noise(n, p).to(dtype)
        found = torch.zeros(n, dim, device=device)
        with _on(found):
            triton_rademacher.project_rademacher(gradients.to(device), found, key=_KEY, first_row=5)
        _compare(found, reference.project_rademacher(gradients.double().numpy(), dim, key=_KEY, first_row=5))


def _check_matrices(device: torch.device, dtype: torch.dtype) -> None:
    from diq.gradients.kernels import triton_sketch

    gradients = _noise(2, 17 * 63).view(2, 17, 63).to(dtype)
    found = torch.zeros(2, 80, device=device)
    with _on(found):
        triton_sketch.sketch_matrices(gradients.to(device), found, key=_KEY)
    _compare(found, reference.sketch_matrices(gradients.double().numpy(), 80, key=_KEY))


def _check_outer(device: torch.device, dtype: torch.dtype) -> None:
    from diq.gradients.kernels import triton_sketch

    delta, x = _noise(70, 17).to(dtype), _noise(70, 63).to(dtype)
    offsets = torch.tensor([0, 3, 3, 70])
    found = torch.zeros(3, 80, device=device)
    with _on(found):
        triton_sketch.sketch_outer(delta.to(device), x.to(device), offsets.to(device), found, key=_KEY)
    wanted = reference.sketch_outer(delta.double().numpy(), x.double().numpy(), offsets.numpy(), 80, key=_KEY)
    _compare(found, wanted)


def _noise(n: int, p: int) -> Tensor:
    return torch.sin(torch.arange(n * p, dtype=torch.float64) ** 1.5).float().view(n, p)


def _compare(found: Tensor, wanted: reference.Matrix) -> None:
    error = float(np.abs(found.double().cpu().numpy() - wanted).max() / np.abs(wanted).max())
    # float32 sums of a hundred terms; a wrong sign or bucket is off by 1e-2 and more
    if not error < 1e-5:
        raise KernelMismatch(f"relative error {error:.1e} against the reference")
