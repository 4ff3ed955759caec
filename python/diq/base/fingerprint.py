"""Fingerprints: 32 hexadecimal digits that name a configuration or a content, and the canonical JSON they are taken of.

Stores, gradient indexes and the folders of trained models hold them, so none may ever change its value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeAlias

Digest: TypeAlias = hashlib.blake2b


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no escapes beyond what JSON needs; equal values give equal text."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint_of(*lines: str) -> str:
    """The fingerprint of a text, or of several, a line each."""
    return begun("\n".join(lines)).hexdigest()


def begun(text: str = "") -> Digest:
    """The hash behind a fingerprint after a text: bytes may be added, and its ``hexdigest`` is their fingerprint."""
    # a lone surrogate, which UTF-8 cannot write, counts as a question mark
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=16)


def run_fingerprint(kind: str, method: str, model_id: str | None, settings: Mapping[str, Any]) -> str:
    """Identity of a run: the same configuration gives the same digits."""
    return fingerprint_of(canonical_json({"kind": kind, "method": method, "model_id": model_id, "settings": settings}))


def sha_fingerprint(text: str) -> str:
    """The other form, which tokenizers and chat templates have in the settings of every run: half a SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]
