"""``diq.status``: what a store holds, as the command shows it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import diq
from conftest import fill_store, stdout_of
from diq.base import config
from diq.cli.status import status as command


def test_the_function_says_what_the_command_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": np.arange(20.0)}, difficulty=np.arange(20) % 5 + 1)
    monkeypatch.setenv(config.STORE_VARIABLE, str(path))
    diq.select("pool", ratio="0.1", store=path, model="model")
    for scores in (False, True):
        found = diq.status(scores=scores)
        assert diq.status(store=str(path)).to_dict() == diq.status().to_dict()
        shown = json.loads(stdout_of(command, "--json", *(["--scores"] if scores else [])))
        assert list(found.to_dict()) == list(shown)
        for name in ("store", "size_bytes", "validation_sets", "coverage"):
            assert found.to_dict()[name] == shown[name]
        assert ("scores" in shown) is scores
    assert [one["name"] for one in found.selections] == ["pool-diq-0.1"]
    assert found.scores is not None
    assert found.scores[0]["n"] == 20


def test_its_repr_is_one_short_line(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    fill_store(path, dots={"a": np.arange(20.0)}, difficulty=np.ones(20))
    text = repr(diq.status(store=path))
    assert text.startswith(f"Status('{path}', ")
    assert text.endswith("datasets=1, models=1, coverage=4, selections=0)")
