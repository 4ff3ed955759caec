"""Fingerprints: values that stores, indexes and folders hold, computed by the code that wrote them (commit 080ce4f)."""

from __future__ import annotations

import ast
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from conftest import ROOT
from diq.base.fingerprint import begun, canonical_json, fingerprint_of, run_fingerprint, sha_fingerprint


def test_a_run() -> None:
    found = run_fingerprint("influence", "exact", "m", {"dtype": "float32", "ä": [1, 2.5, None]})
    assert found == "17357ac3a279885230e410a52bfc3de0"
    # the order of settings is none of it
    assert run_fingerprint("influence", "exact", "m", {"ä": [1, 2.5, None], "dtype": "float32"}) == found
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"weight": float("nan")})


def test_lines_and_a_stream_are_one_text() -> None:
    whole = fingerprint_of("fever\ncough")
    stream = begun("fever")
    stream.update(b"\ncough")
    assert fingerprint_of("fever", "cough") == stream.hexdigest() == whole
    assert len(whole) == 32
    assert fingerprint_of() == fingerprint_of("") == begun().hexdigest()
    # what UTF-8 cannot write ends no run
    assert fingerprint_of("fever \ud800") == fingerprint_of("fever ?")


def test_tokenizers_and_templates() -> None:
    # the first half of the digest that FIPS 180 gives for this text
    assert sha_fingerprint("abc") == "ba7816bf8f01cfea414140de5dae2223"


def test_what_stores_and_folders_hold() -> None:
    from diq.difficulty.train import _digest
    from diq.evaluation.benchmarks import benchmark
    from diq.evaluation.questions import Question, QuestionSet
    from diq.gradient_index.identity import index_fingerprint
    from diq.gradient_index.tensors import hash_of_data
    from diq.judging.rubrics import Rubric
    from diq.rater.model import digest_of
    from diq.recipes.state import _joined
    from diq.selection.ranking import _fingerprint
    from diq.training.data import Texts

    question = Question("1", "What? \ud800", {"A": "x", "B": "y"}, "A", "because")
    asked = QuestionSet(benchmark("medqa"), ("f",), (question,))
    ranked = pa.table(
        {
            "position": [2, 0, 1],
            "difficulty": pa.array([1.5, None, 3.0]),
            "dot": [1.0, 2.0, 3.0],
            "score": [0.5, 0.25, 0.1],
            "even_rank": pa.nulls(3, pa.int64()),
            "odd_rank": pa.nulls(3, pa.int64()),
        }
    )
    labels = SimpleNamespace(texts=["b", "a"], levels=np.asarray([[1.0, np.nan], [2.0, 3.0]]))
    with Texts() as texts:
        texts.add([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], None)
        found = {
            "training samples": texts.fingerprint(),
            "questions": asked.fingerprint,
            "questions with examples": QuestionSet(asked.benchmark, ("f",), (question,), (question,)).fingerprint,
            "index": index_fingerprint({"model": "m", "dim": 4}, "float16"),
            "shard": hash_of_data({"a": ("F32", np.arange(3, dtype=np.float32))}),
            "ranking": _fingerprint("c0", ranked),
            "prompt": Rubric("x", "1", "Rate {{material}}.", ()).digest,
            "labels": _digest(labels),  # type: ignore[arg-type]
            "validation set": digest_of(["b", "a"]),
            "recipe": _joined("a", "b"),
        }
    assert digest_of([]) is None
    assert found == {
        "training samples": "27502213781ffc05f0a241e5dc361968",
        "questions": "027a584175a6d71e35f82221959678b3",
        "questions with examples": "788b646224078f0f403bf6753a5fd26a",
        "index": "1c0b8f1d081220d411b2e6f42d7c0753",
        "shard": "24e81d6a3b2573d210b1dc22a47b0901",
        "ranking": "d749be22145327f41c0154dbe3339ad9",
        "prompt": "bf36cc5036a0ffc610c28a6a48b90264",
        "labels": "014ee7822ca86516e3406035afb8ae91",
        "validation set": "0c84cf75ee142f818515ab54bd107d86",
        "recipe": "acc9227cc02e5f5c13e74125bce89499",
    }


def hashing(text: str) -> bool:
    """Whether a module makes hashes of its own."""
    names = {
        name
        for node in ast.walk(ast.parse(text))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    return "hashlib" in names


def test_nothing_else_hashes() -> None:
    assert hashing("def f():\n    import hashlib\n")
    assert hashing("from hashlib import blake2b\n")
    package = ROOT / "python" / "diq"
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if hashing(path.read_text(encoding="utf-8"))
    }
    # the key of a random projection is part of a documented formula, and a browser checks a page's scripts by SHA-256
    assert found == {"base/fingerprint.py", "base/draws.py", "gradients/kernels/reference.py", "reporting/page.py"}
