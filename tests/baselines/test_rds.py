"""RDS+: embeddings against a float64 form, turns against the authors' loop, what is kept, damaged and killed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines.test_score_text import Conversations, one_line, rows_of, run_row
from conftest import Commit, build_llama, build_tokenizer, ingest_rows, run_killed, save_model, stdout_of
from diq.base.errors import MissingScoresError, RunFailedError, UsageError
from diq.baselines.score_rds import score_rds
from diq.cli import diq as command
from diq.gradient_index.index import GradientIndex
from diq.gradient_index.kept import records_of
from diq.selection.select import select
from diq.selection.turns import take_turns
from diq.store.store import Store

SETS = {"a": (5, 2), "b": (3, 3)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_samples: Callable[..., Conversations]) -> Path:
    store = tmp_path_factory.mktemp("made") / "s.duckdb"
    ingest_rows(store, make_samples(40, seed=1, reasoning=True))
    for name, (n, seed) in SETS.items():
        ingest_rows(store, make_samples(n, seed=seed), name, validation=True)
    return store


@pytest.fixture
def filled(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "s.duckdb"))


def slow_embeddings(folder: Path, conversations: Conversations) -> Any:
    """The formula written out for a model with a chat template: one float64 forward a sample."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    found = []
    for one in conversations:
        ids = tokenizer(tokenizer.apply_chat_template(one, tokenize=False), add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0].numpy()
        mean = sum((t + 1) * state for t, state in enumerate(states)) / sum(range(1, len(ids) + 1))
        found.append(mean / np.sqrt((mean**2).sum()))
    return np.stack(found)


def slow_turns(similarities: Any, size: int) -> list[int]:
    """The authors' loop, which stops once so many are taken: each pops its nearest, also one that is taken already."""
    lists = [sorted(range(len(column)), key=lambda i: -column[i]) for column in similarities]
    taken: list[int] = []
    while len(taken) < size:
        for one in lists:
            nearest = one.pop(0)
            if nearest not in taken:
                taken.append(nearest)
            if len(taken) >= size:
                break
    return taken


@pytest.mark.parametrize("seed", range(20))
def test_every_prefix_is_what_the_turns_give(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 30)), int(rng.integers(1, 9))
    # few values, so that ties are common
    similarities = rng.integers(0, 5, (m, n)).astype(np.float32)
    order, nearness = take_turns(similarities, n)
    rows = np.argsort(order)
    for size in range(1, n + 1):
        assert rows[:size].tolist() == slow_turns(similarities, size)
    assert set(nearness.tolist()) <= set(similarities.ravel().tolist())


def stored_embeddings(store: Path, run_id: int) -> dict[str, Any]:
    """Embedding of each sample id, as float64, by reading the shards."""
    with Store(store, read_only=True) as opened:
        found = opened.row("gradient_index/get_gradient_index", run_id=run_id)
        assert found is not None
        assert (found["kind"], found["element"]) == ("rds", "float16")
        index, records = GradientIndex.open(found["folder"]), records_of(opened, run_id)
        places = opened.connection.execute(
            'SELECT CAST(sample_id AS VARCHAR), shard, "row" FROM gradient_rows WHERE run_id = ? AND shard IS NOT NULL',
            [run_id],
        ).fetchall()
    rows = {number: index.read(record) for number, record in records.items()}
    for sample_id, shard, row in places:
        assert rows[shard].sample_ids[row] == sample_id
    return {sample_id: rows[shard].gradients[row].astype(np.float64) for sample_id, shard, row in places}


def sample_ids(store: Path, name: str) -> list[str]:
    with Store(store, read_only=True) as opened:
        return [
            row[0]
            for row in opened.connection.execute(
                "SELECT CAST(sample_id AS VARCHAR) FROM dataset_samples JOIN datasets USING (dataset_id) "
                "WHERE name = ? ORDER BY position",
                [name],
            ).fetchall()
        ]


def chosen(store: Path, selection_id: int) -> list[tuple[int, float]]:
    with Store(store, read_only=True) as opened:
        return opened.connection.execute(
            "SELECT position, score FROM selection_samples WHERE selection_id = ? ORDER BY rank", [selection_id]
        ).fetchall()


def cosines(store: Path, run_id: int, sets: tuple[str, ...]) -> Any:
    """``[m, n]`` of the embeddings as they are stored."""
    rows = stored_embeddings(store, run_id)
    pool = np.stack([rows[one] for one in sample_ids(store, "pool")])
    return np.concatenate([np.stack([rows[one] for one in sample_ids(store, name)]) for name in sets]) @ pool.T


def test_embeddings_and_order_equal_the_slow_forms(
    filled: Path, tmp_path: Path, tiny_llama_chat_folder: Path, make_samples: Callable[..., Conversations]
) -> None:
    folder = tiny_llama_chat_folder
    expected = {"pool": slow_embeddings(folder, make_samples(40, seed=1, reasoning=True))}
    expected |= {name: slow_embeddings(folder, make_samples(n, seed=seed)) for name, (n, seed) in SETS.items()}
    # one sample a batch, a few, all
    for i, budget in enumerate((1, 500, 1_000_000)):
        store = Path(shutil.copy(filled, tmp_path / f"copy{i}.duckdb"))
        summary = score_rds("pool", model=str(folder), store=store, batch_tokens=budget)
        assert (summary.n_samples, summary.n_scored, summary.n_no_score) == (40, 40, 0)
        found = stored_embeddings(store, summary.run_id)
        for name, rows in expected.items():
            stored = np.stack([found[one] for one in sample_ids(store, name)])
            # float16 keeps 11 bits of the largest number of a row
            assert np.abs(stored - rows).max() < 2**-11
        made = select("pool", ratio="1", strategy="rds", model=folder.name, store=store)
        similarities = cosines(store, summary.run_id, ("a", "b"))
        order = chosen(store, made.selection_id)
        assert [position for position, _ in order] == slow_turns(similarities, 40)
        for position, score in order:
            assert np.abs(similarities[:, position] - score).min() < 1e-6
    row = run_row(store, summary.run_id)
    assert (row["kind"], row["method"], row["state"]) == ("rds", "position-weighted", "sealed")
    status = json.loads(stdout_of(command, "status", "--json", "--store", store))
    assert [(one["score"], one["validation_set"], one["n_scored"]) for one in status["coverage"]] == [("rds", None, 40)]


def test_a_selection_is_of_the_sets_that_it_names_and_of_what_guards_leave(
    filled: Path, tiny_llama_folder: Path, make_samples: Callable[..., Conversations]
) -> None:
    # the same answers again in other cases: near everything that they repeat
    repeats = [[{**one, "content": one["content"].upper()} for one in pair] for pair in make_samples(40, seed=1)[:10:2]]
    ingest_rows(filled, repeats)
    summary = score_rds("pool", model=str(tiny_llama_folder), store=filled)
    whole = cosines(filled, summary.run_id, ("a", "b"))
    asked: dict[tuple[str, ...], Any] = {(): whole, ("b",): whole[5:], ("b", "a"): whole, ("a",): whole[:5]}
    for names, similarities in asked.items():
        made = select("pool", ratio="0.3", strategy="rds", model="tiny-llama", validation_set=names, store=filled)
        assert [one for one, _ in chosen(filled, made.selection_id)] == slow_turns(similarities, made.n)
    made = select("pool", ratio="1", strategy="rds", model="tiny-llama", dedupe="exact", store=filled)
    assert 0 < made.n_excluded <= 5
    left = sorted(position for position, _ in chosen(filled, made.selection_id))
    expected = [left[i] for i in slow_turns(whole[:, left], len(left))]
    assert [position for position, _ in chosen(filled, made.selection_id)] == expected
    with pytest.raises(UsageError, match="`a=2` has no meaning") as caught:
        select("pool", ratio="0.5", strategy="rds", model="tiny-llama", validation_set=["a=2"], store=filled)
    one_line(caught)


def test_columns_in_blocks_are_the_same(filled: Path, tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score_rds("pool", model=str(tiny_llama_folder), store=filled)
    other = Path(shutil.copy(filled, filled.with_name("other.duckdb")))
    whole = select("pool", ratio="1", strategy="rds", model="tiny-llama", store=filled)
    # three validation samples at a time; the copy finds the folder that was noted
    monkeypatch.setattr("diq.selection.turns._BLOCK", 120)
    parts = select("pool", ratio="1", strategy="rds", model="tiny-llama", store=other)
    assert chosen(other, parts.selection_id) == chosen(filled, whole.selection_id)


def test_what_is_known_is_not_embedded_again(
    filled: Path, tiny_llama_folder: Path, make_samples: Callable[..., Conversations], monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"model": str(tiny_llama_folder), "store": filled}
    first = score_rds("pool", **options, validation_set=["a"])
    before = rows_of(filled)
    assert len(before) == 45
    with monkeypatch.context() as patch:
        patch.setattr("diq.baselines.language_model.load_causal_lm", None)
        again = score_rds("pool", **options, validation_set=["a"])
    assert (again.run_id, again.n_scored, again.n_cached) == (first.run_id, 0, 40)
    made = select("pool", ratio="0.5", strategy="rds", model="tiny-llama", store=filled)
    # a further set costs its own samples alone
    both = score_rds("pool", **options)
    assert (both.run_id, both.n_scored, both.n_cached) == (first.run_id, 0, 40)
    assert len(rows_of(filled)) == 48
    assert set(before) < set(rows_of(filled))
    # all of the run are more sets now: the ranking is not what it was
    renewed = select("pool", ratio="0.5", strategy="rds", model="tiny-llama", store=filled)
    assert renewed.ranking == "renewed"
    assert renewed.ranking_id != made.ranking_id
    ingest_rows(filled, make_samples(7, seed=9))
    grown = score_rds("pool", **options)
    assert (grown.run_id, grown.n_scored, grown.n_cached) == (first.run_id, 7, 40)
    # samples of the pool as a validation set need no model, and are noted
    ingest_rows(filled, make_samples(40, seed=1, reasoning=True)[:4], "same", validation=True)
    noted = score_rds("pool", **options)
    assert noted.n_scored == 0
    made = select("pool", ratio="0.086", strategy="rds", model="tiny-llama", validation_set=["same"], store=filled)
    assert [one for one, _ in chosen(filled, made.selection_id)] == [0, 1, 2, 3]


def test_damaged_embeddings_are_told_of_and_made_again(
    filled: Path, tiny_llama_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"model": str(tiny_llama_folder), "store": filled}
    first = score_rds("pool", **options)
    before = stored_embeddings(filled, first.run_id)
    folder = Path(first.details["index"])
    shard = max(folder.glob("shard-*.safetensors"), key=lambda one: one.stat().st_size)
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x00\x01")
    with pytest.raises(RunFailedError, match="are damaged") as caught:
        select("pool", ratio="0.5", strategy="rds", model="tiny-llama", store=filled)
    one_line(caught)
    again = score_rds("pool", **options)
    assert "are lost and must be made again" in caplog.text
    assert (again.run_id, again.n_scored) == (first.run_id, 40)
    after = stored_embeddings(filled, first.run_id)
    assert before.keys() == after.keys()
    assert all((before[one] == after[one]).all() for one in before)
    # a folder that is gone altogether
    shutil.rmtree(folder)
    assert score_rds("pool", **options).n_scored == 40
    select("pool", ratio="0.5", strategy="rds", model="tiny-llama", store=filled)


def test_samples_without_an_embedding_have_a_reason(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    model = build_llama(tied=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("<|system|>")] = float("nan")
    folder = save_model(tmp_path / "model", model, tokenizer)
    store = tmp_path / "s.duckdb"

    def ask(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": text}, {"role": "assistant", "content": "the patient"}]

    ingest_rows(store, [ask("fever"), ask("<|system|>"), ask("the cough of a patient")])
    ingest_rows(store, [ask("<|system|>"), ask("cough")], "some", validation=True)
    ingest_rows(store, [ask("<|system|> a")], "none", validation=True)
    # the default budget puts all into one batch: a bad neighbour changes nobody
    summary = score_rds("pool", model=str(folder), store=store)
    assert summary.reasons == {"the embedding is zero or not finite, so it has no direction": 1}
    made = select("pool", ratio="1", strategy="rds", model="model", validation_set=["some"], store=store)
    assert (made.n, made.n_unscored) == (2, 1)
    with pytest.raises(MissingScoresError, match="the validation set `none` has no embedding") as caught:
        select("pool", ratio="1", strategy="rds", model="model", validation_set=["none"], store=store)
    one_line(caught)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_killed_in_the_middle_it_ends_with_the_same_embeddings(
    filled: Path, tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"diq.scoring.summary.SHARD_SECONDS": 0.0, "diq.scoring.summary.READ_ROWS": 10}
    monkeypatch.setattr("diq.scoring.summary.READ_ROWS", 10)
    killed = Path(shutil.copy(filled, filled.with_name("k.duckdb")))
    options: dict[str, Any] = {"model": str(tiny_llama_folder), "batch_tokens": 64, "device": "cpu"}
    whole = score_rds("pool", store=filled, **options)
    held = 0
    # between a set and the pool, within the pool, and between the two tables
    for commit in (Commit("after", 4), Commit("before", 5), Commit("after", 6)):
        run_killed(score_rds, "pool", commit=commit, patches=small, store=killed, **options)
        assert held <= len(rows_of(killed)) < 48
        held = len(rows_of(killed))
    assert held
    score_rds("pool", store=killed, **options)
    assert rows_of(killed) == rows_of(filled)
    one, other = (stored_embeddings(store, whole.run_id) for store in (filled, killed))
    assert one.keys() == other.keys()
    assert all((one[key] == other[key]).all() for key in one)


def test_bad_requests(filled: Path, tiny_llama_folder: Path) -> None:
    with pytest.raises(UsageError, match="no validation set named `aa`") as caught:
        score_rds("pool", model=str(tiny_llama_folder), store=filled, validation_set=["aa"])
    one_line(caught)
    with pytest.raises(UsageError, match="no model named `x`") as caught:
        select("pool", ratio="0.5", strategy="rds", model="x", store=filled)
    one_line(caught)
    with pytest.raises(MissingScoresError, match="no rds scores") as missing:
        select("pool", ratio="0.5", strategy="rds", store=filled)
    assert missing.value.hint == "run `diq score rds pool --model MODEL`"
