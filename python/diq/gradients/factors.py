"""Files of factors: sums over parts of the samples, and what is made of all parts together.

A folder holds, for ``kfac`` and ``ekfac``, ``bases.safetensors`` (eigenvectors of both second moments of a matrix, and
the products of their eigenvalues) and, for ``ekfac``, ``values.safetensors`` (second moments in that basis); for
``adam`` the latter alone.
Sums of parts lie beside them until all are there. Every file appears whole or not at all.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from diq.base.errors import RunFailedError
from diq.base.files import whole_file
from diq.gradients.options import Precondition
from diq.gradients.precondition import Factor, Moments

log = logging.getLogger(__name__)

BASES_FILE, VALUES_FILE = "bases.safetensors", "values.safetensors"

Sums = Literal["moments", "squares", "rotated squares"]
"""What is added up: second moments of inputs and output gradients, or squares of gradients: plain, or in the bases."""

_N_TOKENS = "n_tokens"


def write_sums(path: Path, found: Mapping[str, Moments] | Mapping[str, Tensor]) -> None:
    """Write the sums of a part."""
    tensors: dict[str, Tensor] = {}
    for name, one in found.items():
        if isinstance(one, Moments):
            tensors |= {f"{name}.inputs": one.inputs, f"{name}.outputs": one.outputs}
            tensors[f"{name}.{_N_TOKENS}"] = torch.tensor([one.n_tokens])
        else:
            tensors[f"{name}.squares"] = one
    _write(path, tensors)


def write_factors(what: Sums, parts: Sequence[Path], n_samples: int, device: torch.device) -> None:
    """Make factors of the sums of all parts, in their order, and write them beside these.

    Raises:
        RunFailedError: a sum is not finite.
    """
    tensors: dict[str, Tensor] = {}
    for name in _names(parts):
        if what == "moments":
            factor = Factor.of_moments(
                Moments(
                    _total(parts, f"{name}.inputs", device),
                    _total(parts, f"{name}.outputs", device),
                    int(_total(parts, f"{name}.{_N_TOKENS}", device)),
                ),
                n_samples,
            )
            assert factor.left is not None
            assert factor.right is not None
            tensors |= {f"{name}.left": factor.left, f"{name}.right": factor.right, f"{name}.values": factor.values}
        else:
            tensors[f"{name}.values"] = _total(parts, f"{name}.squares", device) / n_samples
    _write(parts[0].with_name(BASES_FILE if what == "moments" else VALUES_FILE), tensors)


def read_bases(folder: Path, device: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
    """Eigenvectors ``(left, right)`` of each matrix."""
    with safe_open(folder / BASES_FILE, "pt", device=str(device)) as file:
        names = [key.removesuffix(".left") for key in file.keys() if key.endswith(".left")]  # noqa: SIM118
        return {name: (file.get_tensor(f"{name}.left"), file.get_tensor(f"{name}.right")) for name in names}


def read_factor(folder: Path, kind: Precondition, name: str, device: torch.device) -> Factor | None:
    """The factor of a matrix; None where no factor sample had a gradient for it."""
    left, right, values = None, None, None
    if kind != "adam":
        with safe_open(folder / BASES_FILE, "pt", device=str(device)) as file:
            if f"{name}.left" not in file.keys():  # noqa: SIM118
                return None
            left, right = file.get_tensor(f"{name}.left"), file.get_tensor(f"{name}.right")
            values = file.get_tensor(f"{name}.values") if kind == "kfac" else None
    if values is None:
        with safe_open(folder / VALUES_FILE, "pt", device=str(device)) as file:
            if f"{name}.values" not in file.keys():  # noqa: SIM118
                return None
            values = file.get_tensor(f"{name}.values")
    return Factor(values, left, right, is_root=kind == "adam")


def _names(parts: Sequence[Path]) -> list[str]:
    found: dict[str, None] = {}
    for part in parts:
        with safe_open(part, "pt") as file:
            found |= dict.fromkeys(key.rpartition(".")[0] for key in file.keys())  # noqa: SIM118
    return list(found)


def _total(parts: Sequence[Path], key: str, device: torch.device) -> Tensor:
    """The sum over the parts that have it, in their order: the same bits whoever made them."""
    total: Tensor | None = None
    for part in parts:
        with safe_open(part, "pt", device=str(device)) as file:
            # an expert may have seen no token of a part
            if key in file.keys():  # noqa: SIM118
                one = file.get_tensor(key)
                total = one if total is None else total + one
    assert total is not None
    if not torch.isfinite(total).all():
        raise RunFailedError(
            f"the second moments of `{key.rpartition('.')[0]}` are not finite",
            "try --dtype float32; a model that gives NaN losses on real text cannot be used",
        )
    return total


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    with whole_file(path) as file:
        save_file({name: one.contiguous().cpu() for name, one in tensors.items()}, file.name)
