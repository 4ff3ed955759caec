"""Influence through a gradient index, end to end: built once, asked often, repaired, moved and refused."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import Commit, build_llama, build_tokenizer, ingest_rows, run_killed, save_model
from diq.base.errors import InputError, UsageError
from diq.base.fingerprint import run_fingerprint
from diq.base.text import amount
from diq.gradient_index.index import GradientIndex, ShardRecord
from diq.influence.score import score_influence
from diq.store.store import Store
from influence.conftest import Conversations, fill
from influence.test_score import influence_rows
from influence.test_score_methods import column, scores_of

OPTIONS: dict[str, dict[str, Any]] = {
    "rademacher": {"kind": "rademacher", "dim": 2048},
    "sparse": {"kind": "sparse", "dim": 16384},
    "subspace": {"kind": "subspace", "rank": 32},
}


def index_run_of(opened: Store, run_id: int) -> int:
    query = (
        "SELECT i.run_id FROM runs AS i JOIN runs AS r ON i.fingerprint = r.config ->> 'gradients' WHERE r.run_id = ?"
    )
    ((index_run_id,),) = opened.connection.execute(query, [run_id]).fetchall()
    return int(index_run_id)


def index_of(store: Path, run_id: int) -> tuple[GradientIndex, list[ShardRecord]]:
    """The index that a run of dots names."""
    with Store(store, read_only=True) as opened:
        index_run_id = index_run_of(opened, run_id)
        row = opened.row("gradient_index/get_gradient_index", run_id=index_run_id)
        assert row is not None
        records = [
            ShardRecord(**one) for one in opened.rows("gradient_index/list_gradient_shards", run_id=index_run_id)
        ]
    return GradientIndex.open(row["folder"]), records


@pytest.mark.parametrize("name", OPTIONS)
def test_projected_dots_stand_for_the_exact_ones(filled: Path, tiny_llama_folder: Path, name: str) -> None:
    model = str(tiny_llama_folder)
    exact = scores_of(filled, score_influence("pool", model=model, store=filled).run_id)
    summary = score_influence("pool", model=model, store=filled, method="projected", **OPTIONS[name])
    assert (summary.n_scored, summary.n_cached, summary.n_no_score) == (40, 0, 0)
    for validation_set, scores in scores_of(filled, summary.run_id).items():
        assert np.corrcoef(column(scores, "dot"), column(exact[validation_set], "dot"))[0, 1] > 0.95
        for sample, row in scores.items():
            other = exact[validation_set][sample]
            assert (row["answer_tokens"], row["reason"]) == (other["answer_tokens"], None)
            assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
            assert len(row["fold_dots"]) == 2
    if name == "subspace":
        assert all(0 <= share < 0.2 for share in summary.details["residual_share"].values())
        # two layers of q, k and v; k and v are 24 wide
        assert (summary.details["rank"], summary.details["dim"]) == (32, 2 * (32 * 32 + 2 * 24 * 32))


def test_the_default_is_what_the_table_over_the_real_run_says(filled: Path, tiny_llama_folder: Path) -> None:
    summary = score_influence("pool", model=str(tiny_llama_folder), store=filled, method="projected")
    assert (summary.details["kind"], summary.details["dim"], summary.details["element"]) == ("sparse", 65536, "float16")


def test_the_dots_are_those_of_the_rows_of_the_index(filled: Path, tiny_llama_folder: Path) -> None:
    """By the book: dequantise, multiply, in float64; and the folds are folds."""
    run = score_influence(
        "pool", model=str(tiny_llama_folder), store=filled, method="projected", dim=256, element="float32"
    ).run_id
    index, records = index_of(filled, run)
    (record,) = records
    rows = index.read(record)
    scores = scores_of(filled, run)["a"]
    folds = np.asarray([scores[sample]["fold_dots"] for sample in rows.sample_ids])
    # 40 equations for the 256 numbers of each fold's vector: a solution exists, and it is a linear map of the rows
    vectors, *_ = np.linalg.lstsq(rows.gradients.astype(np.float64), folds, rcond=None)
    assert np.abs(rows.gradients @ vectors - folds).max() < 1e-4 * folds.std()
    norms = np.linalg.norm(rows.gradients.astype(np.float64), axis=1)
    exact = score_influence("pool", model=str(tiny_llama_folder), store=filled, norms=True).run_id
    lengths = np.asarray([scores_of(filled, exact)["a"][sample]["gradient_norm"] for sample in rows.sample_ids])
    assert np.corrcoef(norms, lengths)[0, 1] > 0.95


@pytest.mark.parametrize("element", ["int8", pytest.param("bfloat16", marks=pytest.mark.exhaustive)])
def test_other_elements_lose_little(filled: Path, tiny_llama_folder: Path, element: str) -> None:
    model = str(tiny_llama_folder)
    runs = [
        score_influence("pool", model=model, store=filled, method="projected", dim=1024, element=one).run_id
        for one in ("float32", element)
    ]
    one, two = (column(scores_of(filled, run)["a"], "dot") for run in runs)
    assert np.corrcoef(one, two)[0, 1] > 0.9995


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("the dataset went through the model")


def test_a_new_validation_set_costs_no_pass_over_the_dataset(
    filled: Path, tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"model": str(tiny_llama_folder), "store": filled, "method": "projected", "dim": 512}
    both = score_influence("pool", **options)
    expected = scores_of(filled, both.run_id)
    with Store(filled) as store:
        store.connection.execute("DELETE FROM influence_scores")
    first = score_influence("pool", **options, validation_set=["a"])
    monkeypatch.setattr("diq.gradients.engine.Engine.score", never)
    second = score_influence("pool", **options, validation_set=["b"])
    assert first.run_id == second.run_id == both.run_id
    assert second.tokens == 0
    found = scores_of(filled, both.run_id)
    assert found == expected
    again = score_influence("pool", **options)
    assert (again.n_scored, again.n_cached) == (0, 40)


def test_an_index_is_scored_from_another_store(
    filled: Path,
    tiny_llama_folder: Path,
    tmp_path: Path,
    make_samples: Callable[..., Conversations],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = str(tiny_llama_folder)
    options = {"method": "projected", "kind": "subspace", "rank": 16}
    original = score_influence("pool", model=model, store=filled, **options)  # type: ignore[arg-type]
    folder, _ = index_of(filled, original.run_id)
    copy = tmp_path / "copy"
    shutil.copytree(folder.folder, copy)
    more = make_samples(40, seed=1) + make_samples(3, seed=77)
    sets = {"a": make_samples(6, seed=2), "new": make_samples(4, seed=9)}
    elsewhere = fill(tmp_path / "elsewhere.duckdb", more, sets)
    monkeypatch.setattr("diq.gradients.engine.Engine.score", never)
    summary = score_influence("pool", model=model, store=elsewhere, from_index=copy)
    assert (summary.n_scored, summary.n_samples, summary.details["not_in_the_index"]) == (40, 43, 3)
    assert "3 of 43 samples are not in the gradient index" in caplog.text
    # the basis comes from other tasks: the new one is told what it loses
    assert 0.05 < summary.details["residual_share"]["new"] < 1
    there, here = scores_of(filled, original.run_id)["a"], scores_of(elsewhere, summary.run_id)["a"]
    assert here == there
    with Store(elsewhere, read_only=True) as store:
        assert {row["state"] for row in store.rows("selection/coverage")} == {"open"}


def test_an_index_made_for_something_else_is_refused_with_both_values(
    filled: Path, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    model = str(tiny_llama_folder)
    dense: dict[str, Any] = {"model": model, "store": filled, "method": "projected", "kind": "rademacher", "dim": 64}
    made = score_influence("pool", **dense, seed=5)
    index, _ = index_of(filled, made.run_id)
    other = save_model(tmp_path / "other", build_llama(seed=9), build_tokenizer())
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model": str(other)}, r"model_id is '[0-9a-f]{32}' there, '[0-9a-f]{32}' asked"),
        ({"seed": 6}, "seed is 5 there, 6 asked"),
        ({"dim": 128}, "dim is 64 there, 128 asked"),
        ({"params": "all-linear"}, "parameters is 'qkv' there, 'all-linear' asked"),
        ({"kind": "sparse"}, "kind is 'rademacher' there, 'sparse' asked"),
        ({"max_length": 100}, "max_length is 512 there, 100 asked"),
        ({"loss_reduction": "sum"}, "loss_reduction is 'mean' there, 'sum' asked"),
        ({"element": "int8"}, "element is 'float16' there, 'int8' asked"),
        ({"kind": "subspace", "rank": 4}, "dim is 64 there, 4 asked"),
    ]
    for change, message in cases:
        with pytest.raises(UsageError, match=message) as caught:
            score_influence("pool", **{"model": model, "store": filled, "from_index": index.folder, **change})
        assert "\n" not in caught.value.message
        assert caught.value.hint
    # the same settings are not refused
    assert score_influence("pool", model=model, store=filled, from_index=index.folder, seed=5).n_cached == 40
    # nor is another run allowed to write into the folder
    with pytest.raises(UsageError, match=r"seed is 5 there, 6 asked|holds other gradients"):
        score_influence("pool", **dense, seed=6, index=index.folder)
    (index.folder / "index.json").write_text("{")
    with pytest.raises(InputError, match=r"index\.json"):
        score_influence("pool", model=model, store=filled, from_index=index.folder)


@pytest.mark.slow
def test_only_damaged_shards_are_scored_again(
    filled: Path, tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("diq.scoring.summary.SHARD_SECONDS", 0.0)
    options: dict[str, Any] = {
        "model": str(tiny_llama_folder), "store": filled, "method": "projected", "dim": 64, "batch_tokens": 300
    }  # fmt: skip
    made = score_influence("pool", **options, validation_set=["a"])
    expected = scores_of(filled, made.run_id)["a"]
    index, records = index_of(filled, made.run_id)
    assert len(records) > 5
    flipped, cut, gone = records[1:4]
    content = bytearray((index.folder / flipped.file).read_bytes())
    content[-9] ^= 1
    (index.folder / flipped.file).write_bytes(content)
    content = bytearray((index.folder / cut.file).read_bytes())
    (index.folder / cut.file).write_bytes(content[:-9])
    (index.folder / gone.file).unlink()
    with Store(filled) as store:
        store.connection.execute("DELETE FROM influence_scores")
    caplog.set_level(logging.WARNING)
    summary = score_influence("pool", **options, validation_set=["a"])
    for victim in (flipped, cut, gone):
        assert any(
            victim.file in one and f"its {amount(victim.n_rows, 'sample')} are lost" in one for one in caplog.messages
        )
    found = scores_of(filled, summary.run_id)["a"]
    assert found.keys() == expected.keys()
    # the same samples in the same batches: the same bits
    assert found == expected
    _, after = index_of(filled, made.run_id)
    whole = {one.shard for one in records} - {flipped.shard, cut.shard, gone.shard}
    assert whole < {one.shard for one in after}
    assert sum(one.n_rows for one in after) == sum(one.n_rows for one in records)


def test_a_moved_index_is_found_or_asked_for(filled: Path, tiny_llama_folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": str(tiny_llama_folder), "method": "projected", "kind": "subspace", "rank": 4}
    made = score_influence("pool", store=filled, **options)
    index, _ = index_of(filled, made.run_id)
    # the store and what lies beside it, moved together
    home = tmp_path / "home"
    home.mkdir()
    shutil.move(filled, home / "s.duckdb")
    shutil.move(f"{filled}.gradients", home / "s.duckdb.gradients")
    moved = home / "s.duckdb"
    assert score_influence("pool", store=moved, **options).n_cached == 40
    shutil.move(home / "s.duckdb.gradients", tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is no longer in"):
        score_influence("pool", store=moved, **options)
    folder = tmp_path / "elsewhere" / index.folder.name
    assert score_influence("pool", store=moved, index=folder, **options).n_cached == 40
    # an empty folder builds it again, and changes no score that is there
    before = influence_rows(moved)
    again = score_influence("pool", store=moved, index=tmp_path / "anew", **options)
    assert (again.n_cached, again.tokens) == (40, 0)
    with Store(moved) as store:
        store.connection.execute("DELETE FROM influence_scores")
    assert score_influence("pool", store=moved, index=tmp_path / "anew", **options).n_scored == 40
    assert influence_rows(moved) == before


def test_a_kill_before_the_basis_was_written_does_no_harm(filled: Path, tiny_llama_folder: Path) -> None:
    options: dict[str, Any] = {"model": str(tiny_llama_folder), "method": "projected", "kind": "subspace", "rank": 4}
    made = score_influence("pool", store=filled, **options)
    expected = influence_rows(filled)
    index, records = index_of(filled, made.run_id)
    for path in [index.folder / "basis.safetensors", *(index.folder / one.file for one in records)]:
        path.unlink()
    with Store(filled) as store:
        for table in ("influence_scores", "gradient_rows", "gradient_shards"):
            store.connection.execute(f"DELETE FROM {table}")
    score_influence("pool", store=filled, **options)
    assert influence_rows(filled) == expected


def test_a_grown_dataset_adds_its_new_samples(
    filled: Path, tiny_llama_folder: Path, make_samples: Callable[..., Conversations]
) -> None:
    options: dict[str, Any] = {"model": str(tiny_llama_folder), "store": filled, "method": "projected", "dim": 64}
    score_influence("pool", **options)
    ingest_rows(filled, make_samples(7, seed=9))
    grown = score_influence("pool", **options)
    assert (grown.n_scored, grown.n_cached) == (7, 40)
    _, records = index_of(filled, grown.run_id)
    assert sum(one.n_rows for one in records) == 47


# folds -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path, make_samples: Callable[..., Conversations]) -> Path:
    sets = {"a": make_samples(6, seed=2), "b": make_samples(3, seed=3)}
    return fill(tmp_path / "small.duckdb", make_samples(12, seed=1, longest=10), sets)


def fold_counts(store: Path) -> dict[int, set[tuple[str, int]]]:
    """Run to the validation sets and the lengths of their lists."""
    with Store(store, read_only=True) as opened:
        rows = opened.connection.execute(
            "SELECT run_id, name, len(fold_dots) FROM influence_scores JOIN validation_sets USING (validation_set_id) "
            "WHERE dot IS NOT NULL"
        ).fetchall()
    found: dict[int, set[tuple[str, int]]] = {}
    for run_id, name, n in rows:
        found.setdefault(run_id, set()).add((name, n))
    return found


@pytest.mark.slow
def test_other_folds_are_another_run_from_the_same_index(
    small: Path,
    tiny_llama_folder: Path,
    make_samples: Callable[..., Conversations],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options: dict[str, Any] = {"model": str(tiny_llama_folder), "store": small, "method": "projected", "dim": 64}
    two = score_influence("pool", **options, folds=2)
    index, _ = index_of(small, two.run_id)
    with monkeypatch.context() as patch:
        patch.setattr("diq.gradients.engine.Engine.score", never)
        four = score_influence("pool", **options, folds=4)
        three = score_influence("pool", model=str(tiny_llama_folder), store=small, from_index=index.folder, folds=3)
    assert len({two.run_id, four.run_id, three.run_id}) == 3
    assert (four.n_scored, three.n_scored) == (12, 12)
    assert index_of(small, four.run_id)[0].folder == index_of(small, three.run_id)[0].folder == index.folder
    ingest_rows(small, make_samples(5, seed=9))
    assert score_influence("pool", **options, folds=4).n_scored == 5
    assert fold_counts(small) == {
        two.run_id: {("a", 2), ("b", 2)}, four.run_id: {("a", 4), ("b", 3)}, three.run_id: {("a", 3), ("b", 3)}
    }  # fmt: skip
    again = score_influence("pool", **options, folds=2)
    # the index has the new samples already
    assert (again.run_id, again.n_scored, again.n_cached, again.tokens) == (two.run_id, 5, 12, 0)


def as_the_first_release_wrote_it(store: Path, run_id: int) -> int:
    """The run of the index is that of its dots too; returns it."""
    with Store(store) as opened, opened.transaction():
        index_run_id = index_run_of(opened, run_id)
        for table in ("influence_scores", "run_validation_sets", "run_datasets"):
            opened.connection.execute(f"UPDATE {table} SET run_id = ? WHERE run_id = ?", [index_run_id, run_id])
        opened.connection.execute("DELETE FROM runs WHERE run_id = ?", [run_id])
        opened.connection.execute("UPDATE runs SET kind = 'influence' WHERE run_id = ?", [index_run_id])
        run = opened.row("store/get_run", run_id=index_run_id)
        assert run is not None
        named = run_fingerprint("influence", run["method"], run["model_id"], json.loads(run["config"]))
        assert run["fingerprint"] == named
    return index_run_id


@pytest.mark.slow
def test_a_run_of_the_first_release_counts_for_the_folds_that_it_recorded(
    small: Path, tiny_llama_folder: Path, make_samples: Callable[..., Conversations]
) -> None:
    options: dict[str, Any] = {"model": str(tiny_llama_folder), "store": small, "method": "projected", "dim": 64}
    old = as_the_first_release_wrote_it(small, score_influence("pool", **options, folds=4).run_id)
    ingest_rows(small, make_samples(2, seed=9))
    four = score_influence("pool", **options, folds=4)
    assert (four.run_id, four.n_scored, four.n_cached) == (old, 2, 12)
    two = score_influence("pool", **options, folds=2)
    assert (two.n_scored, two.tokens) == (14, 0)
    assert fold_counts(small) == {old: {("a", 4), ("b", 3)}, two.run_id: {("a", 2), ("b", 2)}}
    with Store(small) as opened:
        # the folds of a second command were ignored there, but recorded
        opened.connection.execute("UPDATE run_validation_sets SET fold_sizes = [3, 3] WHERE run_id = ?", [old])
    anew = score_influence("pool", **options, folds=4)
    assert anew.run_id not in (old, two.run_id)
    assert (anew.n_scored, anew.tokens) == (14, 0)


@pytest.mark.slow
def test_checkpoints_of_other_folds_are_not_added_up(small: Path, tiny_llama_folder: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", build_llama(seed=9), build_tokenizer())
    options: dict[str, Any] = {"model": str(tiny_llama_folder), "store": small, "method": "projected", "dim": 64}
    score_influence("pool", **options, checkpoint=[f"{other}:1"], folds=2)
    both = score_influence("pool", **options, checkpoint=[f"{other}:1", f"{tiny_llama_folder}:2"], folds=4)
    assert fold_counts(small)[both.run_id] == {("a", 4), ("b", 3)}
    for name, weights in (("a", [2, 2, 1, 1]), ("b", [1, 1, 1])):
        scores = scores_of(small, both.run_id)[name]
        folds = np.asarray([row["fold_dots"] for row in scores.values()])
        np.testing.assert_allclose(np.average(folds, axis=1, weights=weights), column(scores, "dot"), rtol=1e-6)
    with Store(small) as opened:
        opened.connection.execute("DELETE FROM influence_scores WHERE run_id = ?", [both.run_id])
        opened.connection.execute(
            "UPDATE influence_scores SET fold_dots = fold_dots[:2] "
            "WHERE run_id = (SELECT min(part_run_id) FROM run_parts WHERE run_id = ?)",
            [both.run_id],
        )
        with pytest.raises(Exception, match="checkpoints have different folds"):
            opened.run(
                "influence/insert_combined_influence", run_id=both.run_id, dataset_id=1, validation_set_ids=[1, 2]
            )


@pytest.mark.slow
@pytest.mark.exhaustive
def test_samples_without_a_gradient_have_a_reason(filled: Path, tiny_llama_folder: Path) -> None:
    long = [{"role": "user", "content": "what is the cause " * 300}, {"role": "assistant", "content": "aspirin"}]
    ingest_rows(filled, [long])
    for options in ({}, {"devices": 2, "device": "cpu", "seed": 1}):
        summary = score_influence(
            "pool", model=str(tiny_llama_folder), store=filled, method="projected", dim=64, **options  # type: ignore[arg-type]
        )  # fmt: skip
        assert summary.reasons == {"no answer token is left within the maximum length": 1}
        assert summary.n_scored == 41


@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_processes_build_the_index_of_one(filled: Path, tiny_llama_folder: Path, tmp_path: Path) -> None:
    shutil.copy(filled, tmp_path / "two.duckdb")
    options: dict[str, Any] = {"method": "projected", "kind": "sparse", "dim": 4096, "batch_tokens": 64}
    model = str(tiny_llama_folder)
    one = score_influence("pool", model=model, store=filled, **options)
    two = score_influence("pool", model=model, store=tmp_path / "two.duckdb", devices=2, device="cpu", **options)
    assert scores_of(filled, one.run_id) == scores_of(tmp_path / "two.duckdb", two.run_id)


@pytest.mark.slow
def test_killed_at_any_shard_the_index_ends_with_every_sample_once(
    tmp_path: Path, make_samples: Callable[..., Conversations], tiny_llama_folder: Path
) -> None:
    undisturbed, killed = tmp_path / "u.duckdb", tmp_path / "k.duckdb"
    fill(undisturbed, make_samples(80, seed=1), {"a": make_samples(4, seed=2)})
    shutil.copy(undisturbed, killed)
    options: dict[str, Any] = {
        "model": str(tiny_llama_folder), "batch_tokens": 64, "method": "projected", "dim": 64, "device": "cpu",
    }  # fmt: skip
    small = {"diq.scoring.summary.SHARD_SECONDS": 0.0}
    # killed while a shard is told to the store, which its file then knows alone; with two processes; between two shards
    for commit, devices in ((Commit("before", 5), 1), (Commit("after", 6), 2), (Commit("after", 4), 1)):
        run_killed(score_influence, "pool", commit=commit, patches=small, store=killed, devices=devices, **options)
    score_influence("pool", store=killed, **options)
    run = score_influence("pool", store=undisturbed, **options).run_id
    assert influence_rows(killed) == influence_rows(undisturbed)
    index, records = index_of(killed, run)
    assert len(records) > 1
    ids = [sample for record in records for sample in index.read(record).sample_ids]
    assert len(ids) == len(set(ids)) == 80
    assert not list(index.folder.glob(".*.part"))


# less --------------------------------------------------------------------------------------------------------------


def trained(base: Path, folder: Path, conversations: Conversations) -> list[Path]:
    """Two checkpoints of a real LoRA training by the Trainer, with its own optimizer state."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(0)
    network = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj"])
    )
    rows = []
    for messages in conversations:
        ids = tokenizer(" ".join(one["content"] for one in messages), truncation=True, max_length=40)["input_ids"]
        rows.append({"input_ids": ids, "labels": ids})
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=1, max_steps=8, save_steps=4, logging_steps=1,
        learning_rate=1e-2, report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    Trainer(model=network, args=arguments, train_dataset=rows).train()
    return [folder / "checkpoint-4", folder / "checkpoint-8"]


@pytest.mark.slow
def test_less_end_to_end_against_the_slow_form(
    filled: Path, tiny_llama_folder: Path, tmp_path: Path, make_samples: Callable[..., Conversations]
) -> None:
    from diq.gradients.adam import adam_direction
    from diq.gradients.adam_state import read_adam_moments
    from diq.gradients.kernels import reference
    from diq.models.layers import linear_weights
    from diq.models.network import load_causal_lm
    from diq.models.source import find_adapter, find_model
    from diq.models.tokens import Tokenization
    from gradients.test_gradients import oracle

    pool = make_samples(40, seed=1)
    checkpoints = trained(tiny_llama_folder, tmp_path / "out", pool[:8])
    summary = score_influence(
        "pool", model=str(tiny_llama_folder), store=filled, method="less", dim=128, element="float32",
        index=tmp_path / "index",
        checkpoint=[f"{one}:{weight}" for one, weight in zip(checkpoints, (3, 1), strict=True)],
    )  # fmt: skip
    found = scores_of(filled, summary.run_id)
    # each checkpoint has an index of its own
    assert sorted(one.name for one in (tmp_path / "index").iterdir()) == ["checkpoint-4", "checkpoint-8"]

    from transformers import AutoTokenizer

    source = find_model(str(tiny_llama_folder))
    tokenization = Tokenization(AutoTokenizer.from_pretrained(tiny_llama_folder), max_length=512)
    expected = {"a": np.zeros(40), "b": np.zeros(40)}
    for checkpoint, weight in zip(checkpoints, (0.75, 0.25), strict=True):
        network = load_causal_lm(source, adapter=find_adapter(str(checkpoint), source), dtype="float64")
        modules = linear_weights(network, "lora")
        parameters = dict(network.named_parameters())
        names = {name: next(k for k, v in parameters.items() if v is one.parameter) for name, one in modules.items()}
        moments = read_adam_moments(checkpoint, network)

        def project(gradient: torch.Tensor, *, adam: bool) -> np.ndarray:
            total, at = np.zeros((len(gradient), 128)), 0
            for name, one in modules.items():  # noqa: B023
                shape = one.parameter.shape
                part = gradient[:, at : at + shape.numel()].reshape(-1, *shape)
                at += shape.numel()
                if adam:
                    where = names[name]  # noqa: B023
                    part = adam_direction(
                        part, moments.first[where].double(), moments.second[where].double(),  # noqa: B023
                        step=moments.steps[where], betas=moments.betas, eps=moments.eps,  # noqa: B023
                    )  # fmt: skip
                key = reference.parameter_key(0, f"{name}.weight")
                total += reference.project_rademacher(part.flatten(1).numpy(), 128, key=key)
            return total / np.linalg.norm(total, axis=1, keepdims=True)

        train = project(oracle(network, modules, tokenization.encode(pool), "mean"), adam=True)  # type: ignore[arg-type]
        for name, n, seed in (("a", 6, 2), ("b", 3, 3)):
            encoded = tokenization.encode(make_samples(n, seed=seed))
            task = project(oracle(network, modules, encoded, "mean"), adam=False)  # type: ignore[arg-type]
            expected[name] += weight * (train @ task.T).mean(axis=1)
    for name, values in expected.items():
        with Store(filled, read_only=True) as store:
            order = [
                row[0]
                for row in store.connection.execute(
                    "SELECT sample_id::VARCHAR FROM dataset_samples JOIN datasets USING (dataset_id) "
                    "WHERE name = 'pool' ORDER BY position"
                ).fetchall()
            ]
        ours = np.asarray([found[name][sample]["dot"] for sample in order])
        assert np.abs(ours - values).max() < 1e-4
        assert values.std() > 0.01
    # the largest task counts
    with Store(filled, read_only=True) as store:
        pooled = store.connection.execute(
            f"SELECT sample_id::VARCHAR, dot FROM diq_scores('pool', 'tiny-llama', run := {summary.run_id})"
        ).fetchall()
    for sample, dot in pooled:
        assert dot == max(found[name][sample]["dot"] for name in found)
    with Store(filled, read_only=True) as store:
        config = json.loads(store.row("store/get_run", run_id=summary.run_id)["config"])  # type: ignore[index]
    assert [one["weight"] for one in config["checkpoints"]] == [0.75, 0.25]
