"""What names a configuration: canonical JSON and its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no escapes beyond what JSON needs; equal values give equal text."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def run_fingerprint(kind: str, method: str, model_id: str | None, settings: Mapping[str, Any]) -> str:
    """Identity of a run: the same configuration gives the same 32 hexadecimal digits."""
    text = canonical_json({"kind": kind, "method": method, "model_id": model_id, "settings": settings})
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
