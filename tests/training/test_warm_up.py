"""Warm-up: a random part is trained on, and influence is taken at its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import diq
from conftest import ingest_rows, refused, stdout_of
from diq.base.errors import RunFailedError, UsageError
from diq.cli import diq as command
from diq.gradients.adam_state import read_adam_moments, read_learning_rate
from diq.models.network import load_causal_lm
from diq.models.source import find_adapter, find_model
from diq.store.store import Store


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def store(tmp_path: Path, make_samples: Callable[..., Any]) -> Path:
    path = tmp_path / "diq.duckdb"
    ingest_rows(path, make_samples(40, seed=1))
    ingest_rows(path, make_samples(6, seed=2), "task", validation=True)
    return path


@pytest.mark.slow
def test_dots_add_up_over_the_checkpoints_of_a_warm_up(store: Path, tiny_llama_folder: Path) -> None:
    model = str(tiny_llama_folder)
    arguments = [
        "score", "influence", "pool", "--model", model, "--warmup", "0.25", "--warmup-epochs", "2", "--store",
        store, "--device", "cpu", "--json",
    ]  # fmt: skip
    summary = json.loads(stdout_of(command, *arguments))
    assert summary["n_scored"] > 0
    folder = store.with_suffix(".warmup") / f"{tiny_llama_folder.name}-pool-warmup-0.25-0"
    checkpoints = [folder / "checkpoint-2", folder / "checkpoint-4"]
    assert sorted(folder.glob("checkpoint-*")) == checkpoints
    # by hand: each checkpoint a run of its own, times the mean learning rate of its epoch
    other = store.parent / "other.duckdb"
    other.write_bytes(store.read_bytes())
    base = find_model(model)
    with Store(store, read_only=True) as opened:
        combined = opened.connection.execute(
            "SELECT sample_id, dot FROM influence_scores WHERE run_id = ? ORDER BY sample_id", [summary["run_id"]]
        ).fetchall()
        parts = []
        for one in checkpoints:
            (number,) = opened.connection.execute(
                "SELECT run_id FROM runs WHERE kind = 'influence' AND model_id = ?",
                [find_adapter(str(one), base).model_id],
            ).fetchone() or (None,)
            rows = opened.connection.execute(
                "SELECT sample_id, dot FROM influence_scores WHERE run_id = ? ORDER BY sample_id", [number]
            ).fetchall()
            parts.append((read_learning_rate(one), dict(rows)))
        (trained,) = opened.connection.execute("SELECT count(*) FROM selection_samples").fetchone() or (0,)
    assert trained == 10
    assert all(weight for weight, _ in parts)
    for sample_id, dot in combined:
        assert dot == pytest.approx(sum(weight * dots[sample_id] for weight, dots in parts), rel=1e-5)
    # the same command finds all of it
    again = json.loads(stdout_of(command, *arguments))
    assert again["n_scored"] == 0
    assert again["run_id"] == summary["run_id"]
    # and so does a pattern
    found = diq.score_influence(
        "pool", model=model, store=store, checkpoint=[str(folder / "checkpoint-*")], device="cpu"
    )
    assert (found.n_scored, found.run_id) == (0, summary["run_id"])
    with pytest.raises(UsageError, match=r"no folder matches checkpoint `.*nothing-\*`"):
        diq.score_influence("pool", model=model, store=store, checkpoint=[str(folder / "nothing-*")], device="cpu")


@pytest.mark.slow
def test_moments_are_kept_by_name_and_less_reads_them(store: Path, tiny_llama_folder: Path) -> None:
    model = str(tiny_llama_folder)
    found = diq.warm_up("pool", model=model, share="0.25", epochs=2, store=store, device="cpu")
    assert [one.name for one in found] == ["checkpoint-2", "checkpoint-4"]
    saved = torch.load(found[0] / "optimizer.pt", weights_only=True)
    names = [name for group in saved["param_groups"] for name in group["param_names"]]
    base = find_model(model)
    network = load_causal_lm(base, device="cpu", adapter=find_adapter(str(found[0]), base))
    moments = read_adam_moments(found[0], network)
    assert len(names) == 2 * 3 * 2
    # a saved order means nothing: the same moments in another order are found again by name
    first = saved["param_groups"][0]
    turned = {old: new for new, old in enumerate(reversed(first["params"]))}
    saved["state"] = {turned[old]: one for old, one in saved["state"].items()}
    first["param_names"] = first["param_names"][::-1]
    torch.save(saved, found[0] / "optimizer.pt")
    again = read_adam_moments(found[0], network)
    for name, (mean, square) in _pairs(moments).items():
        other = _pairs(again)[name]
        assert torch.equal(mean, other[0]), name
        assert torch.equal(square, other[1]), name
    summary = diq.score_influence(
        "pool", model=model, store=store, method="less", checkpoint=[str(one) for one in found], dim=64, device="cpu"
    )
    assert summary.n_scored > 0


def _pairs(moments: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {name: (moments.first[name], moments.second[name]) for name in moments.first}


def test_bad_warm_ups(store: Path, tiny_llama_folder: Path) -> None:
    model = str(tiny_llama_folder)
    with pytest.raises(UsageError, match=r"a ratio of 0\.01 of 40 scored samples selects none"):
        diq.warm_up("pool", model=model, share="0.01", store=store, device="cpu")
    with pytest.raises(UsageError, match="epochs=0 is out of range"):
        diq.warm_up("pool", model=model, share="0.25", epochs=0, store=store, device="cpu")
    error = refused(
        command, "score", "influence", "pool", "--model", model, "--warmup", "0.25", "--checkpoint", "x", "--store",
        store,
    )  # fmt: skip
    assert error.message == "--checkpoint has no effect with --warmup"
    found = diq.warm_up("pool", model=model, share="0.25", epochs=1, store=store, device="cpu")
    (found[0] / "optimizer.pt").parent.rename(found[0].parent.parent / "elsewhere")
    with pytest.raises(RunFailedError, match="has 0 of its 1 checkpoint"):
        diq.warm_up("pool", model=model, share="0.25", epochs=1, store=store, device="cpu")
