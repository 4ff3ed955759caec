"""The rival projection: fast_jl, where it is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Projector = Callable[[dict[str, Tensor]], Any]


def project(gradients: Tensor, dim: int) -> Tensor:
    """Rademacher projection of ``[n, p]``, 16 rows a pass, one tile of columns for each multiprocessor."""
    library = importlib.import_module("fast_jl")
    processors = torch.cuda.get_device_properties(gradients.device).multi_processor_count
    kernel = library.project_rademacher_8 if len(gradients) <= 8 else library.project_rademacher_16
    found: Tensor = kernel(gradients.contiguous(), dim, 0, processors)
    return found


def project_all(gradients: dict[str, Tensor], *, dim: int) -> Tensor:
    """One sample's gradients as one row of float16, as LESS casts them."""
    return project(torch.cat([one.flatten() for one in gradients.values()])[None].half(), dim)
