"""The quality of projections, measured: against dots by the book on a real model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diq.base.errors import UsageError
from diq.cli import main
from diq.influence.check_index import check_index, overlap
from diq.influence.meters import spearman
from diq.influence.score import score_influence
from diq.store.store import Store
from influence.conftest import Conversations, fill
from influence.test_score_methods import save_adapter


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_samples: Callable[..., Conversations]) -> Path:
    sets = {"a": make_samples(6, seed=2), "b": make_samples(3, seed=3)}
    return fill(tmp_path_factory.mktemp("made") / "s.duckdb", make_samples(60, seed=1), sets)


@pytest.mark.slow
def test_a_check_says_what_the_stored_scores_say(filled: Path, tiny_llama_folder: Path) -> None:
    """All samples drawn: the same Spearman as between the dots that two scorings leave in the store."""
    model = str(tiny_llama_folder)
    found = check_index(
        "pool", model=model, store=filled, samples=100, candidate=["rademacher:256", "sparse:1024", "subspace:6"]
    )
    assert (found.n_samples, found.validation_sets, found.parameters) == (60, ["a", "b"], 2 * (48 * 48 + 2 * 48 * 24))

    def stored(run: int) -> np.ndarray:
        with Store(filled, read_only=True) as store:
            query = f"SELECT dot FROM diq_scores('pool', 'tiny-llama', run := {run}) ORDER BY position"
            return np.asarray([row[0] for row in store.connection.execute(query).fetchall()])

    exact = stored(score_influence("pool", model=model, store=filled).run_id)
    for quality, options in zip(
        found.qualities,
        ({"kind": "rademacher", "dim": 256}, {"kind": "sparse", "dim": 1024}, {"kind": "subspace", "rank": 6}),
        strict=True,
    ):
        run = score_influence(
            "pool", model=model, store=filled, method="projected", element="float32", **options  # type: ignore[arg-type]
        ).run_id  # fmt: skip
        dots = stored(run)
        assert quality.spearman == pytest.approx(spearman(dots, exact), abs=2e-3)
        assert quality.overlap["0.5"] == pytest.approx(overlap(dots, exact, 0.5), abs=0.04)
        assert quality.bytes_a_sample == 2 * quality.dim
    random, sparse, subspace = found.qualities
    for quality in (random, sparse):
        assert quality.predicted_noise is not None
        assert 0.5 < quality.noise / quality.predicted_noise < 2
        assert quality.kept_share is None
    assert subspace.predicted_noise is None
    assert subspace.kept_share is not None
    assert 0 < subspace.kept_share < 1
    # a task that the basis has not seen keeps less
    assert subspace.new_task_spearman is not None
    assert subspace.new_task_spearman < subspace.spearman
    assert subspace.new_task_overlap is not None
    assert 0 <= subspace.new_task_overlap <= 1


def test_larger_projections_keep_more_and_the_smallest_good_one_is_recommended(
    filled: Path, tiny_llama_folder: Path
) -> None:
    sizes = ["sparse:64", "sparse:4096", "sparse:262144"]
    found = check_index("pool", model=str(tiny_llama_folder), store=filled, candidate=sizes)
    qualities = [one.spearman for one in found.qualities]
    assert qualities == sorted(qualities)
    assert found.recommended is not None
    chosen = next(one for one in found.qualities if f"{one.kind}:{one.size}" == found.recommended)
    assert all(one.overlap["0.1"] < 0.95 for one in found.qualities if one.dim < chosen.dim)
    poor = check_index("pool", model=str(tiny_llama_folder), store=filled, candidate=["sparse:16"])
    assert poor.recommended is None
    assert "exact dots lose nothing" in poor.reason


def test_lora_parameters_and_the_default_candidates(
    filled: Path, tiny_llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = save_adapter(tiny_llama_folder, tmp_path / "adapter", seed=1)
    arguments = ["index", "check", "pool", "--model", str(tiny_llama_folder), "--store", str(filled)]
    arguments += ["--params", "lora", "--checkpoint", str(adapter), "--samples", "40"]
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--json"])
        raise SystemExit(0)
    assert left.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n_samples"] == 40
    assert {one["kind"] for one in found["qualities"]} == {"rademacher", "sparse", "subspace"}
    with pytest.raises(SystemExit):
        main([*arguments, "--candidate", "sparse:1024"])
        raise SystemExit(0)
    output = capsys.readouterr().out
    assert "recommended: " in output
    assert "Spearman" in output


def test_bad_requests(filled: Path, tiny_llama_folder: Path) -> None:
    model = str(tiny_llama_folder)
    for candidates, message in (
        (["sprase:4"], "is not KIND:SIZE"),
        (["sparse:x"], "not a positive number"),
    ):
        with pytest.raises(UsageError, match=message):
            check_index("pool", model=model, store=filled, candidate=candidates)
    with pytest.raises(UsageError, match="too few"):
        check_index("pool", model=model, store=filled, samples=5)
    # before the model is looked for
    with pytest.raises(UsageError, match="max_length=1 is out of range"):
        check_index("pool", model="/nowhere", store=filled, max_length=1)
    with pytest.raises(UsageError, match="multiple of 16"):
        check_index("pool", model=model, store=filled, candidate=["sparse:100"])
