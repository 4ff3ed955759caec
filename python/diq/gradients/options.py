"""Choices of the gradient engine and of projections; loads no model library."""

from __future__ import annotations

from typing import Literal, get_args

Method = Literal["exact", "forward", "central", "projected", "less"]
METHODS: tuple[Method, ...] = get_args(Method)

Params = str
"""``qkv``, ``all-linear``, ``lora``, or a regular expression over module names."""

Kind = Literal["rademacher", "sparse", "subspace"]
"""Of a projection."""

Formula = Literal["code", "paper", "adam"]
"""Of LESS's Adam direction. ``code``: the released program, no bias correction, epsilon under the root. ``paper``: as
printed, bias correction, epsilon under the root. ``adam``: the step of ``torch.optim.Adam``, epsilon outside."""

Precondition = Literal["none", "adam", "kfac", "ekfac"]
"""What the validation gradients are multiplied by: nothing, or an inverse of the curvature (gradients/precondition)."""

Reduction = Literal["mean", "sum"]
"""Of the loss, over the answer tokens of a sample."""
