"""Choices of encoders; loads no model library."""

from __future__ import annotations

from typing import Literal

Text = Literal["prompt", "full"]
"""What is read of a sample: the question, or question, reasoning and answer."""

Pooled = Literal["mean", "max"]
"""How the similarities with the samples of a validation set become one."""
