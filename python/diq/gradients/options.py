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
"""Of LESS's Adam direction: as in the released code, as printed in the paper, or as Adam steps."""

Reduction = Literal["mean", "sum"]
"""Of the loss, over the answer tokens of a sample."""
