"""`diq validate` from end to end, with a real model that is really trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch

import diq
from conftest import KillAt, ingest_rows, run_killed, stdout_of, write_jsonl
from diq.base.errors import MissingScoresError, UsageError
from diq.cli.results import results as results_command
from diq.models.network import load_causal_lm
from diq.models.source import find_model
from diq.models.tokens import load_tokenization
from diq.store.store import Store
from diq.training.validation import sample_losses, validation_losses

pytestmark = pytest.mark.slow
N = 40
TRAINING: dict[str, Any] = {
    "dtype": "float32",
    "device": "cpu",
    "max_length": 256,
    "learning_rate": 1e-2,
    "batch_size": 2,
}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, make_samples: Any, tiny_llama_chat_folder: Path) -> Path:
    """A store with a pool of three kinds of answers, difficulty, dots with two folds, and a set that nothing has seen.

    Every fourth sample answers as the validation samples do; only those help.
    """
    folder = tmp_path_factory.mktemp("trials")
    store = folder / "s.duckdb"
    made = make_samples(N + 20, seed=7, longest=8)
    answer = made[-1][-1]["content"]
    for i, one in enumerate(made):
        if i >= N or i % 4 == 0:
            one[-1]["content"] = answer
    rows = [{"messages": one, "level": i % 5} for i, one in enumerate(made)]
    ingest_rows(store, rows[:N])
    for name, part in (("v", rows[N : N + 8]), ("held", rows[N + 8 :])):
        diq.ingest([write_jsonl(folder / f"{name}.jsonl", part)], dataset=name, validation=True, store=store)
    diq.score_difficulty("pool", columns={"overall": "level"}, store=store)
    diq.score_influence(
        "pool", model=tiny_llama_chat_folder, store=store, dtype="float32", device="cpu", max_length=256,
        validation_set=["v"], norms=True,
    )  # fmt: skip
    return store


@pytest.fixture
def store(scored: Path, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "s.duckdb"
    path.write_bytes(scored.read_bytes())
    yield path
    assert not list(tmp_path.glob("*.trials/*")), "trained weights are not kept"


def validate(store: Path, model: Path, **options: Any) -> Any:
    return diq.validate("pool", model=model, store=store, **{**TRAINING, **options})


def test_losses_of_samples_are_those_of_the_set(scored: Path, tiny_llama_chat_folder: Path) -> None:
    source = find_model(str(tiny_llama_chat_folder))
    network = load_causal_lm(source, dtype="float32", device="cpu")
    tokenization = load_tokenization(source, max_length=256)
    with Store(scored, read_only=True) as opened:
        rows = opened.rows("store/validation_messages", validation_set_id=1)
    conversations = [orjson.loads(row["messages"]) for row in rows]
    found = sample_losses(network, tokenization, {"v": conversations})["v"]
    for i, one in enumerate(tokenization.encode_validation_set("v", conversations)):
        ids = torch.tensor(one.ids[None]).long()
        with torch.no_grad():
            logits = network(input_ids=ids).logits[0, :-1].double()
        of_tokens = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        assert found[i] == pytest.approx(float(of_tokens[one.answer_start - 1 :].mean()), rel=1e-5)
    assert validation_losses(network, tokenization, {"v": conversations})["v"] == pytest.approx(found.mean())


def test_what_helps_is_found_and_resumed(store: Path, tiny_llama_chat_folder: Path) -> None:
    options = {"strategy": ["influence"], "ratio": ["0.2"], "seeds": 2, "subsets": 6, "subset_size": 8}
    first = validate(store, tiny_llama_chat_folder, **options, runs=5)
    assert (first.n_new, first.n_trainings, first.n_left) == (5, 5, 5)
    found = validate(store, tiny_llama_chat_folder, **options)
    assert (found.n_new, found.n_trainings, found.n_left) == (5, 10, 0)
    assert found.run_id == first.run_id
    (race,) = found.race
    # the half that measures is not the half that chose
    assert (race["entrant"], race["ratio"], race["n"], race["trainings"]) == ("influence", "0.2", 8, 2)
    assert race["difference"] == pytest.approx(race["loss"] - race["random"])
    assert race["loss"] < race["random"] < race["before"]
    scores = {one["score"]: one for one in found.scores}
    assert scores.keys() == {"exact", "exact, cosine", "difficulty", "random"}
    again = validate(store, tiny_llama_chat_folder, **options)
    assert again.n_new == 0
    assert {**again.to_dict(), "n_new": 0} == {**found.to_dict(), "n_new": 0}
    # another question of the same trainings
    more = validate(store, tiny_llama_chat_folder, **{**options, "subsets": 7})
    assert more.n_new == 1
    with Store(store, read_only=True) as opened:
        (kept,) = opened.connection.execute("SELECT result FROM runs WHERE run_id = ?", [more.run_id]).fetchall()
    assert orjson.loads(kept[0])["n_subsets"] == 7
    # `diq results` shows it, with no model evaluated, and so does the report
    (shown,) = diq.results(store=store).validations
    assert shown.race == more.race
    assert "`pool`, scores of `tiny-chat`" in stdout_of(results_command, "--store", store)
    page = store.parent / "report.html"
    diq.report("pool", model=tiny_llama_chat_folder.name, output=page, store=store)
    assert "race: loss on samples that no score has seen" in page.read_text(encoding="utf-8")


def test_the_numbers_are_those_of_the_trainings(store: Path, tiny_llama_chat_folder: Path) -> None:
    """Losses of a trial are those of `diq train` on the same samples, and the score is taken of them slowly."""
    found = validate(store, tiny_llama_chat_folder, seeds=0, subsets=5, subset_size=6)
    with Store(store, read_only=True) as opened:
        trials = opened.connection.execute(
            "SELECT config, result FROM runs WHERE kind = 'trial' AND CAST(config ->> '$.n_samples' AS INTEGER) > 0"
        ).fetchall()
        messages = opened.connection.execute(
            "SELECT CAST(s.messages AS VARCHAR) FROM samples AS s JOIN dataset_samples AS d USING (sample_id) "
            "WHERE dataset_id = 1 ORDER BY position"
        ).fetchall()
    assert len(trials) == 5
    from diq.trials.options import ValidateOptions
    from diq.trials.work import read_work

    work = read_work(
        ValidateOptions("pool", model=tiny_llama_chat_folder, store=store, subset_size=6, seeds=0),
        {"dataset_id": 1, "name": "pool", "n_samples": N},
        tiny_llama_chat_folder.name,
    )
    rows = np.sort(work.subset(3))
    assert len(set(rows.tolist())) == 6
    path = write_jsonl(store.parent / "three.jsonl", [{"messages": orjson.loads(messages[i][0])} for i in rows])
    trained = diq.train(
        str(path), model=tiny_llama_chat_folder, output=store.parent / "adapter", store=store, seed=3, epochs=1,
        validation_set=["v"], **TRAINING,
    )  # fmt: skip
    (outcome,) = (orjson.loads(result) for config, result in trials if orjson.loads(config)["seed"] == 3)
    assert np.mean(outcome["losses"]["v"]) == pytest.approx(trained.validation["v"]["after"], rel=1e-6)
    (exact,) = (one for one in found.scores if one["score"] == "exact")
    assert exact["by_set"]["v"]["value"] == pytest.approx(exact["value"])


def test_a_kill_loses_one_training(store: Path, tmp_path: Path, tiny_llama_chat_folder: Path) -> None:
    options = {"strategy": ["influence"], "ratio": ["0.2"], "seeds": 1, "subsets": 3, "subset_size": 6}
    whole = tmp_path / "whole.duckdb"
    whole.write_bytes(store.read_bytes())
    undisturbed = validate(whole, tiny_llama_chat_folder, **options)
    run_killed(validate, store, tiny_llama_chat_folder, **options, progress=KillAt("trainings", 3))
    found = validate(store, tiny_llama_chat_folder, **options)
    assert 0 < found.n_new < undisturbed.n_new
    for one, other in zip(found.scores, undisturbed.scores, strict=True):
        assert one["value"] == other["value"]
    assert found.race[0]["loss"] == undisturbed.race[0]["loss"]


def test_stored_selections_are_raced_on_what_they_have_not_seen(store: Path, tiny_llama_chat_folder: Path) -> None:
    name = tiny_llama_chat_folder.name
    diq.select("pool", model=name, strategy="influence", ratio=0.2, store=store, name="best")
    found = validate(store, tiny_llama_chat_folder, selection=["best"], held_out=["held"], strategy=["influence"],
                     ratio=["0.2"], seeds=1, subsets=0)  # fmt: skip
    by_name = {one["entrant"]: one for one in found.race}
    assert by_name["best"]["loss"] == by_name["influence"]["loss"]
    assert by_name["best"]["n"] == 8
    # the same samples are trained on once: one random, one best
    assert found.n_new == 2
    with pytest.raises(UsageError, match="chosen by the held-out validation set `v`"):
        validate(store, tiny_llama_chat_folder, selection=["best"], held_out=["v"], strategy=["random"])
    with pytest.raises(UsageError, match="every validation set of run"):
        validate(store, tiny_llama_chat_folder, strategy=["influence"], held_out=["v"])


def test_bad_input_is_one_line(
    store: Path, tmp_path: Path, tiny_llama_chat_folder: Path, tiny_llama_folder: Path
) -> None:
    with pytest.raises(MissingScoresError, match="no finished influence of model"):
        validate(store, tiny_llama_folder)
    with pytest.raises(UsageError, match="selects none"):
        validate(store, tiny_llama_chat_folder, ratio=["0.001"])
    with pytest.raises(UsageError, match="no effect without held_out"):
        validate(store, tiny_llama_chat_folder, selection=["x"])
    with Store(store) as opened:
        opened.connection.execute("DELETE FROM validation_samples WHERE position > 0 AND validation_set_id = 1")
    with pytest.raises(UsageError, match="`v` has 1 sample, too few to hold half out"):
        validate(store, tiny_llama_chat_folder, strategy=["influence"])


def trained_sizes(store: Path) -> list[int]:
    query = "SELECT (config ->> '$.n_samples')::INTEGER AS n FROM runs WHERE kind = 'trial' ORDER BY run_id"
    return [row["n"] for row in diq.sql(query, store=store).to_pylist()]


def test_a_race_is_against_random_ones_of_the_same_size(store: Path, tiny_llama_chat_folder: Path) -> None:
    """Also where an entrant is called random, or its quadrant holds fewer samples than the ratio asks for."""
    diq.select("pool", strategy="random", ratio="0.1", name="random", seed=9, store=store)
    found = validate(
        store, tiny_llama_chat_folder, strategy=["influence", "random", "q4", "influence"], selection=["random"],
        held_out=["held"], ratio=["0.3", "30%"], seeds=1, subsets=0,
    )  # fmt: skip
    by_name = {(one["entrant"], one["ratio"]): one for one in found.race}
    assert len(by_name) == len(found.race) == 4
    (n_q4,) = {one["n"] for key, one in by_name.items() if key[0] == "q4"}
    assert n_q4 < 12
    assert by_name["influence", "0.3"]["n"] == 12
    # none is a race of random selections against themselves
    assert all(one["difference"] != 0 for one in found.race)
    # before any training; and for each size a random selection and what is compared with it
    assert sorted(trained_sizes(store)) == sorted([0, 12, 12, 12, n_q4, n_q4, 4, 4])
    assert found.n_left == 0
    assert found.n_trainings == 7


def test_another_seed_is_other_trainings(store: Path, tiny_llama_chat_folder: Path) -> None:
    asked: dict[str, Any] = {"strategy": ["influence"], "subsets": 3, "seeds": 2}
    first = validate(store, tiny_llama_chat_folder, **asked)
    other = validate(store, tiny_llama_chat_folder, seed=1, **asked)
    assert first.n_new == other.n_new == 3 + 4


def test_a_smaller_call_loses_nothing_and_other_texts_are_another_question(
    store: Path, tiny_llama_chat_folder: Path
) -> None:
    large = validate(store, tiny_llama_chat_folder, strategy=["influence"], subsets=3, seeds=2)
    small = validate(store, tiny_llama_chat_folder, strategy=["influence"], subsets=1, seeds=1)
    assert small.n_new == small.n_left == 0
    assert (small.run_id, small.n_subsets, small.race) == (large.run_id, 3, large.race)
    plain = validate(store, tiny_llama_chat_folder, strategy=["influence"], subsets=1, seeds=1, template="none")
    assert plain.run_id != large.run_id
    alone = validate(store, tiny_llama_chat_folder, strategy=["influence"], subsets=0, seeds=1)
    assert alone.run_id not in (large.run_id, plain.run_id)
    assert alone.n_new == 0
    assert len(diq.results(store=store).validations) == 3
    with pytest.raises(UsageError, match="no seed and no subset"):
        validate(store, tiny_llama_chat_folder, subsets=0, seeds=0)
