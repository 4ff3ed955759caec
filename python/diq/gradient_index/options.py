"""How an index may keep its numbers; loads nothing."""

from __future__ import annotations

from typing import Literal

Element = Literal["float32", "float16", "bfloat16", "int8"]
