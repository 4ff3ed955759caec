"""Choices of the gradient engine; loads no model library."""

from __future__ import annotations

from typing import Literal

Method = Literal["exact", "forward", "central", "projected", "less"]
METHODS: tuple[Method, ...] = ("exact", "forward", "central", "projected", "less")
