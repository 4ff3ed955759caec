"""Answer lengths and instruction-following difficulty end to end, and the selections that they make."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines.test_score_text import Conversations, column, one_line, rows_of, run_row
from conftest import Commit, build_llama, build_tokenizer, ingest_rows, run_killed, save_model, stdout_of
from diq.base.errors import MissingScoresError, ModelError, UsageError
from diq.baselines.score_ifd import score_ifd
from diq.baselines.score_length import score_length
from diq.cli import diq as command
from diq.influence.score import score_influence
from diq.selection.select import select
from diq.store.store import Store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_samples: Callable[..., Conversations]) -> Path:
    store = tmp_path_factory.mktemp("made") / "s.duckdb"
    ingest_rows(store, make_samples(30, seed=1, reasoning=True))
    ingest_rows(store, make_samples(3, seed=2), "a", validation=True)
    return store


@pytest.fixture
def filled(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "s.duckdb"))


def chosen(store: Path, selection_id: int) -> list[tuple[int, float]]:
    """(position, score) of a selection, in its order."""
    with Store(store, read_only=True) as opened:
        return opened.connection.execute(
            "SELECT position, score FROM selection_samples WHERE selection_id = ? ORDER BY rank", [selection_id]
        ).fetchall()


# length --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["auto", "none"])
def test_lengths_are_the_answer_tokens_of_influence(filled: Path, tiny_llama_chat_folder: Path, template: str) -> None:
    model = str(tiny_llama_chat_folder)
    # some prompts leave no room for an answer
    options: dict[str, Any] = {"model": model, "store": filled, "template": template, "max_length": 45}
    summary = score_length("pool", **options)
    influence = score_influence("pool", **options)
    with Store(filled, read_only=True) as opened:
        expected = opened.connection.execute(
            "SELECT i.answer_tokens FROM influence_scores AS i JOIN dataset_samples AS d USING (sample_id) "
            "JOIN datasets AS s USING (dataset_id) WHERE i.run_id = ? AND s.name = 'pool' ORDER BY d.position",
            [influence.run_id],
        ).fetchnumpy()["answer_tokens"]
    found = column(filled, summary.run_id, "value")
    without = np.asarray(expected == 0)
    assert summary.reasons == {"no answer token is left within the maximum length": without.sum()}
    assert 0 < without.sum() < 30
    assert (np.asarray(found)[~without] == np.asarray(expected)[~without]).all()
    made = select("pool", ratio="1", strategy="length", store=filled)
    order = sorted(np.flatnonzero(~without), key=lambda i: (-expected[i], i))
    assert chosen(filled, made.selection_id) == [(i, expected[i]) for i in order]
    assert made.n_unscored == without.sum()


def test_a_tokenizer_is_enough(filled: Path, tmp_path: Path, make_samples: Callable[..., Conversations]) -> None:
    build_tokenizer(chat=True).save_pretrained(tmp_path / "words")
    assert not (tmp_path / "words" / "config.json").exists()
    summary = score_length("pool", model=tmp_path / "words", store=filled)
    tokenizer = build_tokenizer()
    texts = []
    for _, answer in make_samples(30, seed=1, reasoning=True):
        reasoning = answer.get("reasoning_content")
        thought = f"<think>\n{reasoning}\n</think>\n\n" if reasoning else ""
        texts.append(f"{thought}{answer['content']}<|end|>\n")
    assert column(filled, summary.run_id, "value").tolist() == [len(tokenizer(text)["input_ids"]) for text in texts]
    row = run_row(filled, summary.run_id)
    assert (row["kind"], row["method"], row["state"]) == ("length", "answer-tokens", "sealed")
    # the same tokenizer beside a model of enough context is the same run, and nothing is counted twice
    again = score_length("pool", model=tmp_path / "words", store=filled)
    assert (again.run_id, again.n_cached) == (summary.run_id, 30)
    ingest_rows(filled, make_samples(4, seed=8))
    grown = score_length("pool", model=tmp_path / "words", store=filled)
    assert (grown.run_id, grown.n_scored, grown.n_cached) == (summary.run_id, 4, 30)


def test_bad_requests_for_lengths(filled: Path, tmp_path: Path, tiny_llama_folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"model": str(tmp_path / "empty")}, ModelError, "has no"),
        ({"model": str(tmp_path / "nowhere")}, ModelError, "there is no model folder"),
        ({"model": str(tiny_llama_folder), "max_length": 1}, UsageError, "max_length"),
    ]
    for change, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            score_length("pool", store=filled, **change)
        one_line(caught)
    with pytest.raises(MissingScoresError, match="no length scores on dataset `pool`") as told:
        select("pool", ratio="0.5", strategy="length", store=filled)
    assert told.value.hint == "run `diq score length pool --model TOKENIZER`"


# ifd -----------------------------------------------------------------------------------------------------------------


def slow_ifds(folder: Path, conversations: Conversations, *, chat: bool) -> Any:
    """The formula written out: one float64 forward a text, the answer's ids behind a question and behind none."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def loss(head: list[int], answer: list[int]) -> float:
        with torch.no_grad():
            p = model(input_ids=torch.tensor([head + answer])).logits[0].softmax(dim=-1)
        return sum(-math.log(p[len(head) + t - 1, one]) for t, one in enumerate(answer)) / len(answer)

    found = []
    for user, assistant in conversations:
        reasoning = assistant.get("reasoning_content")
        text = (f"<think>\n{reasoning}\n</think>\n\n" if reasoning else "") + assistant["content"]
        if chat:
            answer = ids(f"{text}<|end|>\n")
            heads = [ids(f"<|user|>\n{question}<|end|>\n<|assistant|>\n") for question in (user["content"], "")]
        else:
            answer = [*ids(text), tokenizer.eos_token_id]
            heads = [ids(f"Question: {question}\nAnswer: ") for question in (user["content"], "")]
        found.append(loss(heads[0], answer) / loss(heads[1], answer))
    return np.asarray(found)


@pytest.mark.parametrize("chat", [True, False])
def test_stored_ifds_equal_the_slow_form(
    filled: Path,
    tmp_path: Path,
    make_samples: Callable[..., Conversations],
    tiny_llama_folder: Path,
    tiny_llama_chat_folder: Path,
    chat: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tiny_llama_chat_folder if chat else tiny_llama_folder
    expected = slow_ifds(folder, make_samples(30, seed=1, reasoning=True), chat=chat)
    # one sample a batch, a few, all
    for i, budget in enumerate((1, 500, 1_000_000)):
        store = Path(shutil.copy(filled, tmp_path / f"copy{i}.duckdb"))
        summary = score_ifd("pool", model=str(folder), store=store, batch_tokens=budget)
        assert (summary.n_scored, summary.n_no_score) == (30, 0)
        found = column(store, summary.run_id, "value")
        assert np.abs(found / expected - 1).max() < 1e-5
        assert summary.details["n_above_1"] == (expected > 1).sum()
    assert 3 < (expected > 1).sum() < 27
    row = run_row(store, summary.run_id)
    assert (row["kind"], row["method"], row["state"]) == ("ifd", "loss-ratio", "sealed")
    caplog.clear()
    made = select("pool", ratio="1", strategy="ifd", model=folder.name, store=store)
    order = [i for i in np.argsort(-found) if found[i] <= 1]
    assert chosen(store, made.selection_id) == [(i, found[i]) for i in order]
    assert (made.n_scored, made.n_unscored) == (len(order), 30 - len(order))
    assert f"{30 - len(order)} of 30 samples of dataset `pool` have an IFD above 1 and are not selected" in caplog.text
    assert "lack a finite score" not in caplog.text


def test_a_cut_answer_is_compared_with_as_many_tokens(
    filled: Path, tiny_llama_folder: Path, make_samples: Callable[..., Conversations]
) -> None:
    summary = score_ifd("pool", model=str(tiny_llama_folder), store=filled, max_length=45)
    length = score_length("pool", model=tiny_llama_folder, store=filled, max_length=45)
    counts = column(filled, length.run_id, "value")
    tokens = column(filled, summary.run_id, "n_tokens")
    assert (np.ma.filled(tokens, 0) == np.ma.filled(counts, 0)).all()
    assert 0 < summary.n_no_score < 30
    assert summary.reasons == {"no answer token is left within the maximum length": summary.n_no_score}


def test_samples_without_an_ifd_have_a_reason(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' and not m['content'] and 'lone' in messages[-1]['content'] %}"
        "{{ raise_exception('no question') }}{% endif %}{{ m['content'] }}<|end|>{% endfor %}"
    )
    model = build_llama(tied=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("<|system|>")] = float("nan")
    folder = save_model(tmp_path / "model", model, tokenizer)
    store = tmp_path / "s.duckdb"
    answers = ["the patient", "lone cough", "a <|system|> b"]
    pool = [
        [{"role": "user", "content": f"q {i}"}, {"role": "assistant", "content": one}] for i, one in enumerate(answers)
    ]
    ingest_rows(store, pool)
    summary = score_ifd("pool", model=str(folder), store=store)
    assert summary.reasons == {
        "the loss is not finite": 1,
        "without its question: the chat template refused the sample: no question": 1,
    }
    assert np.isfinite(column(store, summary.run_id, "value")[0])


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("call", [score_ifd, score_length])
def test_killed_in_the_middle_it_ends_with_the_same_rows(
    call: Callable[..., Any],
    tmp_path: Path,
    make_samples: Callable[..., Conversations],
    tiny_llama_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = {"diq.scoring.summary.SHARD_SECONDS": 0.0, "diq.scoring.summary.READ_ROWS": 10}
    monkeypatch.setattr("diq.scoring.summary.READ_ROWS", 10)
    undisturbed, killed = tmp_path / "u.duckdb", tmp_path / "k.duckdb"
    ingest_rows(undisturbed, make_samples(60, seed=1))
    shutil.copy(undisturbed, killed)
    options: dict[str, Any] = {"model": str(tiny_llama_folder)}
    options |= {"batch_tokens": 64, "device": "cpu"} if call is score_ifd else {}
    call("pool", store=undisturbed, **options)
    run_killed(call, "pool", commit=Commit("after", 4), patches=small, store=killed, **options)
    held = len(rows_of(killed))
    assert 0 < held < 60
    summary = call("pool", store=killed, **options)
    assert (summary.n_cached, summary.n_scored) == (held, 60 - held)
    assert rows_of(killed) == rows_of(undisturbed)


def test_the_commands_and_status(filled: Path, tiny_llama_folder: Path) -> None:
    store = ("--store", str(filled))
    model = ("--model", tiny_llama_folder)
    length = json.loads(stdout_of(command, "score", "length", "pool", *model, "--json", *store))
    assert length["n_scored"] == 30
    assert "ifd of `pool` (run 2)" in stdout_of(command, "score", "ifd", "pool", *model, *store)
    status = json.loads(stdout_of(command, "status", "--json", *store))
    assert [(one["score"], one["n_scored"]) for one in status["coverage"]] == [("ifd", 30), ("length", 30)]
    assert status["runs"] == []
