"""Scoring end to end on real (small) models: what is missing, nothing else; killed runs; reasons; difficulty."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diq
from conftest import Commit, build_llama, build_tokenizer, ingest_rows, run_killed, save_model
from diq.base.errors import ModelError, RunFailedError, StoreError, UsageError
from diq.difficulty.score import score_difficulty
from diq.gradients.backward import score_batch
from diq.gradients.dots import Dots
from diq.gradients.validation import ValidationGradient, mean_gradient
from diq.influence.score import score_influence
from diq.models.layers import linear_weights
from diq.models.network import load_causal_lm
from diq.models.source import find_model
from diq.models.tokens import Tokenization, Tokens, collate
from diq.selection.select import select
from diq.store.store import Store
from influence.conftest import Conversations, fill


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_samples: Callable[..., Conversations]) -> Path:
    pool = make_samples(60, seed=1, reasoning=True)
    sets = {"a": make_samples(5, seed=2), "b": make_samples(3, seed=3)}
    return fill(tmp_path_factory.mktemp("made") / "s.duckdb", pool, sets)


def influence_rows(store: Path) -> list[tuple[Any, ...]]:
    with Store(store, read_only=True) as opened:
        return opened.connection.execute(
            "SELECT run_id, sample_id::VARCHAR, v.name, dot, loss, answer_tokens, reason FROM influence_scores "
            "JOIN validation_sets AS v USING (validation_set_id) ORDER BY 1, 2, 3"
        ).fetchall()


def slow_dots(folder: Path, pool: Conversations, validation: Conversations) -> np.ndarray:
    """Dots in float64, one sample a batch."""
    source = find_model(str(folder))
    model = load_causal_lm(source, dtype="float64")
    from transformers import AutoTokenizer

    tokenization = Tokenization(AutoTokenizer.from_pretrained(folder), max_length=512)
    weights = linear_weights(model)

    def encode(conversations: Conversations) -> list[Tokens]:
        found = tokenization.encode(conversations)
        assert all(isinstance(one, Tokens) for one in found)
        return found  # type: ignore[return-value]

    gradient = mean_gradient(model, weights, [collate([one]) for one in encode(validation)])
    dots = Dots(weights, [ValidationGradient((gradient,), (1,))])
    return np.asarray([score_batch(model, weights, collate([one]), [dots]).values[0].item() for one in encode(pool)])


@pytest.mark.parametrize("kind", ["tiny_llama_folder", "tiny_llama_chat_folder"])
def test_stored_dots_equal_the_slow_form(
    filled: Path, make_samples: Callable[..., Conversations], request: pytest.FixtureRequest, kind: str
) -> None:
    folder = request.getfixturevalue(kind)
    summary = score_influence("pool", model=str(folder), store=filled, batch_tokens=300)
    assert (summary.n_samples, summary.n_scored, summary.n_cached, summary.n_no_score) == (60, 60, 0, 0)
    pool = make_samples(60, seed=1, reasoning=True)
    with Store(filled, read_only=True) as store:
        for name, n, seed in (("a", 5, 2), ("b", 3, 3)):
            found = store.connection.execute(
                "SELECT i.dot FROM influence_scores AS i JOIN validation_sets AS v USING (validation_set_id) "
                "JOIN dataset_samples AS d USING (sample_id) JOIN datasets ON datasets.dataset_id = d.dataset_id "
                "WHERE v.name = ? AND datasets.name = 'pool' ORDER BY d.position",
                [name],
            ).fetchnumpy()["dot"]
            expected = slow_dots(folder, pool, make_samples(n, seed=seed))
            assert np.abs(found - expected).max() < 1e-5 * expected.std()


def test_the_same_command_again_scores_nothing(filled: Path, tiny_llama_folder: Path) -> None:
    first = score_influence("pool", model=str(tiny_llama_folder), store=filled)
    before = influence_rows(filled)
    again = score_influence("pool", model=str(tiny_llama_folder), store=filled)
    assert (again.run_id, again.n_scored, again.n_cached) == (first.run_id, 0, 60)
    assert influence_rows(filled) == before


def test_a_grown_dataset_and_a_further_validation_set_compute_what_is_missing(
    filled: Path, tiny_llama_folder: Path, make_samples: Callable[..., Conversations]
) -> None:
    score_influence("pool", model=str(tiny_llama_folder), store=filled, validation_set=["a"])
    before = {row[1]: row for row in influence_rows(filled)}
    ingest_rows(filled, make_samples(7, seed=9))
    grown = score_influence("pool", model=str(tiny_llama_folder), store=filled, validation_set=["a"])
    assert (grown.n_samples, grown.n_scored, grown.n_cached) == (67, 7, 60)
    rows = influence_rows(filled)
    assert {row[1]: row for row in rows if row[1] in before} == before
    both = score_influence("pool", model=str(tiny_llama_folder), store=filled)
    assert both.run_id == grown.run_id
    rows = influence_rows(filled)
    assert len(rows) == len({(row[1], row[2]) for row in rows}) == 134
    # a second dataset that shares samples finds their scores
    ingest_rows(filled, make_samples(7, seed=9), "other")
    assert score_influence("other", model=str(tiny_llama_folder), store=filled).n_cached == 7
    with Store(filled, read_only=True) as store:
        states = store.connection.execute(
            "SELECT d.name, r.state FROM run_datasets AS r JOIN datasets AS d USING (dataset_id) ORDER BY 1"
        ).fetchall()
    assert states == [("other", "sealed"), ("pool", "sealed")]


@pytest.mark.parametrize(
    "change", [{"params": "all-linear"}, {"loss_reduction": "sum"}, {"max_length": 200}, {"dtype": "float64"}]
)
def test_whatever_changes_a_score_is_another_run(filled: Path, tiny_llama_folder: Path, change: dict[str, Any]) -> None:
    first = score_influence("pool", model=str(tiny_llama_folder), store=filled)
    other = score_influence("pool", model=str(tiny_llama_folder), store=filled, **change)
    assert other.run_id != first.run_id
    assert other.n_scored == 60


def test_a_changed_checkpoint_is_another_model(filled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_model(tmp_path / "model", build_llama(seed=5), build_tokenizer())
    first = score_influence("pool", model=str(folder), store=filled)
    copy = save_model(tmp_path / "copy", build_llama(seed=5), build_tokenizer())
    assert score_influence("pool", model=str(copy), store=filled).n_scored == 0
    save_model(folder, build_llama(seed=6), build_tokenizer())
    changed = score_influence("pool", model=str(folder), store=filled)
    assert changed.run_id != first.run_id
    assert changed.n_scored == 60
    # it keeps its name, so a selection says whose scores it takes
    select("pool", ratio=1, model="model", strategy="influence", run=first.run_id, store=filled)
    assert f"2 models are called `model`: run {first.run_id} is of the one of `{folder}`" in caplog.text


def test_a_model_is_not_taken_for_another_of_its_name(filled: Path, tmp_path: Path) -> None:
    """Folders are called alike, `final` say: their scores are looked up by that name."""
    folders = [
        save_model(tmp_path / name / "final", build_llama(seed=n), build_tokenizer()) for n, name in enumerate("ab")
    ]
    score_influence("pool", model=folders[0], store=filled)
    for score in (diq.score_influence, diq.score_perplexity):
        with pytest.raises(UsageError) as caught:
            score("pool", model=folders[1], store=filled)
        assert caught.value.message == (
            f"the model of `{folders[1]}` would be called `final`, as the one of `{folders[0]}` is"
        )
        assert caught.value.hint == "name it otherwise with --model-name NAME"
    with pytest.raises(UsageError, match="model_name `2` reads as a number"):
        score_influence("pool", model=folders[1], store=filled, model_name="2")
    assert len(influence_rows(filled)) == 120
    named = score_influence("pool", model=folders[1], store=filled, model_name="second")
    # from now on it is known, whatever its folder is called
    assert score_influence("pool", model=folders[1], store=filled).run_id == named.run_id
    assert diq.sql("SELECT name FROM models ORDER BY added_at", store=filled).to_pydict() == {
        "name": ["final", "second"]
    }


@pytest.mark.slow
def test_batch_size_does_not_move_the_dots(filled: Path, tiny_llama_folder: Path, tmp_path: Path) -> None:
    import shutil

    dots = []
    for i, budget in enumerate((1, 100, 4096)):
        store = tmp_path / f"copy{i}.duckdb"
        shutil.copy(filled, store)
        score_influence("pool", model=str(tiny_llama_folder), store=store, batch_tokens=budget)
        dots.append(np.asarray([row[3] for row in influence_rows(store)]))
    for other in dots[1:]:
        assert np.abs(other - dots[0]).max() < 1e-5 * dots[0].std()


def test_samples_without_a_dot_have_a_reason_and_are_not_ranked(filled: Path, tiny_llama_folder: Path) -> None:

    summary = score_influence("pool", model=str(tiny_llama_folder), store=filled, max_length=70)
    reason = "no answer token is left within the maximum length"
    assert 0 < summary.reasons[reason] < 60
    rows = [row for row in influence_rows(filled) if row[6]]
    assert len(rows) == 2 * summary.n_no_score
    assert all(row[3] is None and row[4] is None for row in rows)
    score_difficulty("pool", store=filled, columns={"overall": "level"})
    made = select("pool", ratio=1, store=filled, model="tiny-llama")
    assert made.n_unscored == summary.n_no_score


def test_nan_losses_are_reported_not_ranked(filled: Path, tmp_path: Path) -> None:
    model = build_llama()
    with torch.no_grad():
        # one token poisons every sample that holds it; the validation set is clean of it
        model.model.embed_tokens.weight[5] = float("nan")
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["§"])
    folder = save_model(tmp_path / "nan", model, tokenizer)
    with pytest.raises(RunFailedError, match="not finite"):
        # tied embeddings: the poisoned row is a logit of every sample, the validation set's too
        score_influence("pool", model=str(folder), store=filled)


def difficulty_rows(store: Path) -> list[tuple[Any, ...]]:
    with Store(store, read_only=True) as opened:
        return opened.connection.execute(
            "SELECT * REPLACE (sample_id::VARCHAR AS sample_id) FROM difficulty_scores ORDER BY 1, 2"
        ).fetchall()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["influence", pytest.param("difficulty", marks=pytest.mark.exhaustive)])
def test_killed_at_any_shard_it_ends_with_the_same_rows(
    mode: str,
    tmp_path: Path,
    make_samples: Callable[..., Conversations],
    tiny_llama_folder: Path,
    tiny_classifier_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = {"diq.scoring.summary.SHARD_SECONDS": 0.0, "diq.scoring.summary.READ_ROWS": 20}
    monkeypatch.setattr("diq.scoring.summary.READ_ROWS", 20)
    model = str(tiny_llama_folder if mode == "influence" else tiny_classifier_folder)
    undisturbed, killed = tmp_path / "u.duckdb", tmp_path / "k.duckdb"
    fill(undisturbed, make_samples(80, seed=1), {"a": make_samples(4, seed=2)})
    shutil.copy(undisturbed, killed)
    call: Callable[..., Any] = score_influence if mode == "influence" else score_difficulty
    options: dict[str, Any] = {"model": model, "batch_tokens": 64, "device": "cpu"}
    call("pool", store=undisturbed, **options)
    rows_of = influence_rows if mode == "influence" else difficulty_rows
    # the first kill comes before any row, the second after some shards, the third while a shard is written
    held = []
    for when, n in (("after", 1), ("after", 6), ("before", 6)):
        run_killed(call, "pool", commit=Commit(when, n), patches=small, store=killed, **options)
        held.append(len(rows_of(killed)))
    assert held[0] < held[1] < held[2] < 80
    summary = call("pool", store=killed, **options)
    assert rows_of(killed) == rows_of(undisturbed)
    assert (summary.n_cached, summary.n_scored) == (held[-1], 80 - held[-1])


def test_difficulty_of_a_classifier_is_the_expected_likert_value(
    filled: Path, tiny_classifier_folder: Path, make_samples: Callable[..., Conversations]
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    summary = score_difficulty("pool", store=filled, model=str(tiny_classifier_folder))
    assert summary.n_scored == 60
    model = AutoModelForSequenceClassification.from_pretrained(tiny_classifier_folder).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_classifier_folder)
    with Store(filled, read_only=True) as store:
        found = store.connection.execute(
            "SELECT f.knowledge, f.reasoning, f.overall, f.knowledge_level, f.reasoning_level, f.overall_level "
            "FROM difficulty_scores AS f JOIN dataset_samples AS d USING (sample_id) "
            "JOIN datasets USING (dataset_id) WHERE name = 'pool' ORDER BY position"
        ).fetchall()
    assert len({row[0] for row in found}) > 10
    for messages, row in zip(make_samples(60, seed=1, reasoning=True), found, strict=True):
        ids = tokenizer(messages[0]["content"], truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            p = model(**ids).logits[0].reshape(3, 5).softmax(dim=-1)
        expected = (p * torch.arange(1, 6)).sum(dim=-1).tolist()
        np.testing.assert_allclose(row[:3], expected, atol=1e-5)
        assert list(row[3:]) == (p.argmax(dim=-1) + 1).tolist()
    assert score_difficulty("pool", store=filled, model=str(tiny_classifier_folder)).n_scored == 0


def test_outputs_in_another_order_are_found_by_their_labels(
    tiny_classifier_folder: Path, filled: Path, tmp_path: Path
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    score_difficulty("pool", store=filled, model=str(tiny_classifier_folder))
    before = [row[2:8] for row in difficulty_rows(filled)]
    shuffled = tmp_path / "shuffled"
    shutil.copytree(tiny_classifier_folder, shuffled)
    order = random.Random(0).sample(range(15), 15)
    config = json.loads((shuffled / "config.json").read_text())
    labels = {int(k): v for k, v in config["id2label"].items()}
    config["id2label"] = {str(i): labels[j] for i, j in enumerate(order)}
    config["label2id"] = {v: int(k) for k, v in config["id2label"].items()}
    (shuffled / "config.json").write_text(json.dumps(config))
    weights = load_file(shuffled / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][order].contiguous()
    save_file(weights, shuffled / "model.safetensors", metadata={"format": "pt"})
    run = score_difficulty("pool", store=filled, model=str(shuffled)).run_id
    after = [row[2:8] for row in difficulty_rows(filled) if row[0] == run]
    assert np.allclose(np.asarray(after, float), np.asarray(before, float), atol=1e-6)


def test_three_models_make_one_classifier(filled: Path, tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path / "three"
    for seed, dimension in enumerate(("knowledge", "reasoning", "overall")):
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=400, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=64, num_labels=5, initializer_range=0.5,
        )  # fmt: skip
        save_model(folder / dimension, BertForSequenceClassification(config), build_tokenizer())
    summary = score_difficulty("pool", store=filled, model=str(folder))
    assert summary.n_scored == 60
    rows = np.asarray([row[2:5] for row in difficulty_rows(filled)])
    assert rows.min() >= 1
    assert rows.max() <= 5
    assert not np.allclose(rows[:, 0], rows[:, 1])


def test_difficulty_from_columns(filled: Path) -> None:
    summary = score_difficulty("pool", store=filled, columns={"overall": "level"})
    assert (summary.n_scored, summary.n_no_score) == (60, 0)
    rows = difficulty_rows(filled)
    assert sorted({row[4] for row in rows}) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert all(row[2] is None for row in rows)
    for columns, message in (
        ({"overall": "levl"}, "no column `levl`"),
        ({"hard": "level"}, "not a dimension"),
        ({"overall": "level", "knowledge": "tag"}, "none of the 60 values of column `tag`"),
    ):
        with pytest.raises(UsageError, match=message):
            score_difficulty("pool", store=filled, columns=columns)


def test_bad_requests(filled: Path, tiny_llama_folder: Path, tmp_path: Path) -> None:
    import shutil

    model = str(tiny_llama_folder)
    without_tokenizer = tmp_path / "without"
    shutil.copytree(tiny_llama_folder, without_tokenizer)
    for one in without_tokenizer.glob("tokenizer*"):
        one.unlink()
    broken = tmp_path / "broken"
    shutil.copytree(tiny_llama_folder, broken)
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:5000])
    (tmp_path / "empty").mkdir()
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"model": str(tmp_path / "nowhere")}, ModelError, "there is no model folder"),
        ({"model": str(tmp_path / "empty")}, ModelError, "no config.json"),
        ({"model": str(without_tokenizer)}, ModelError, "no usable tokenizer"),
        ({"model": str(broken)}, ModelError, "cannot be loaded"),
        ({"model": model, "params": "nothing_like_this"}, ModelError, "no linear layer"),
        ({"model": model, "params": "("}, ModelError, "not a regular expression"),
        ({"model": model, "validation_set": ["zz"]}, UsageError, "no validation set named `zz`"),
        ({"model": model, "max_length": 1}, UsageError, "max_length"),
        ({"model": model, "device": "cuda:7"}, ModelError, "cuda"),
        ({"model": model, "device": "toaster"}, ModelError, "toaster"),
        ({"model": model, "store": tmp_path / "none.duckdb"}, StoreError, "there is no store"),
    ]
    for change, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            score_influence("pool", **{"store": filled, **change})
        assert "\n" not in caught.value.message  # type: ignore[attr-defined]
        assert caught.value.hint or "regular expression" in message  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="no dataset named `pol`"):
        score_influence("pol", model=model, store=filled)
    with pytest.raises(ModelError, match=r"sequence classifier|15|outputs"):
        score_difficulty("pool", store=filled, model=model)
    with pytest.raises(UsageError, match="one of a classifier and columns"):
        score_difficulty("pool", store=filled)
