"""What a cost is asked with: parameter sets and assumptions."""

from __future__ import annotations

from typing import Literal

Params = Literal["qkv", "all-linear", "full"]
PARAMS: tuple[Params, ...] = ("qkv", "all-linear", "full")
FOLDS = 2  # parts of each validation set that `diq score influence` computes a dot with
CHARACTERS_PER_TOKEN = 4.0
QKV = ("q", "k", "v")
ENCODER_CONTEXT = 512
