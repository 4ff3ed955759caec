"""What a training sees is what scoring sees, whatever the chat template and the answers that count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest

import diq
from conftest import build_llama, build_tokenizer, ingest_rows, save_model
from diq.models.source import find_model
from diq.models.tokens import TokenFile, Tokenization, Tokens, load_tokenization
from diq.store.store import Store
from diq.training.data import Texts, tokenize
from models.chat_templates import SHAPES
from models.test_templates import CONVERSATIONS, TALK


@pytest.mark.parametrize("turns", ["last", "all"])
@pytest.mark.parametrize("shape", SHAPES)
def test_training_and_scoring_see_the_same_tokens(tmp_path: Path, shape: str, turns: Literal["last", "all"]) -> None:
    tokenizer = build_tokenizer(vocabulary=500)
    tokenizer.chat_template = SHAPES[shape]
    # two, as two commands make them
    scoring, training = (Tokenization(tokenizer, max_length=60, turns=turns) for _ in range(2))
    samples = [*CONVERSATIONS.values(), TALK]
    with Texts() as texts, TokenFile() as scored:
        for one in samples:
            texts.add(one, None)
        rows = tokenize(texts, training, "sft", tmp_path / "tokens.arrow", None)
        for found in scoring.encode(samples):
            if isinstance(found, Tokens) and found.answer_tokens:
                scored.append(found)
        trained = pa.ipc.open_stream(str(tmp_path / "tokens.arrow")).read_all().to_pylist()
        assert len(trained) == len(scored) == rows.n > 5
        for place, row in enumerate(trained):
            ids, labels = np.asarray(row["input_ids"]), np.asarray(row["labels"])
            assert ids.tolist() == scored[place].ids.tolist()
            assert (labels >= 0).tolist() == scored[place].is_answer.tolist()
            assert labels[labels >= 0].tolist() == ids[labels >= 0].tolist()


@pytest.mark.slow
def test_every_answer_counts_in_scoring_explaining_and_training(tmp_path: Path) -> None:
    import torch

    tokenizer = build_tokenizer(vocabulary=500)
    tokenizer.chat_template = SHAPES["chatml"]
    model = save_model(tmp_path / "model", build_llama(vocabulary=500), tokenizer)
    store = tmp_path / "s.duckdb"
    ingest_rows(store, [TALK, CONVERSATIONS["plain"]])
    ingest_rows(store, [CONVERSATIONS["reasoning"]], "task", validation=True)
    common: dict[str, Any] = {"model": model, "store": store, "device": "cpu"}
    last, every = (diq.score_influence("pool", turns=turns, **common) for turns in ("last", "all"))
    assert last.run_id != every.run_id
    with Store(store, read_only=True) as opened:
        rows = opened.connection.execute(
            "SELECT run_id, position, dot, loss, answer_tokens FROM influence_scores "
            "JOIN dataset_samples USING (sample_id) JOIN datasets USING (dataset_id) "
            "WHERE name = 'pool' ORDER BY run_id, position"
        ).fetchall()
    found = {(run, position): values for run, position, *values in rows}
    # a sample of one turn is the same
    assert found[last.run_id, 1] == found[every.run_id, 1]
    assert found[every.run_id, 0][2] > found[last.run_id, 0][2]
    # the loss of all answers, by hand
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model)
    (tokens,) = load_tokenization(find_model(model), max_length=512, turns="all").encode([TALK])
    assert isinstance(tokens, Tokens)
    ids = torch.from_numpy(tokens.ids.astype(np.int64))[None]
    labels = torch.where(torch.from_numpy(tokens.is_answer), ids[0], -100)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(network(ids).logits[0, :-1], labels[1:])
    assert found[every.run_id, 0][1] == pytest.approx(float(loss), rel=1e-5)
    told = diq.explain(dataset="pool", position=0, turns="all", **common)
    assert told.stored[0].dot == pytest.approx(told.dot, rel=1e-4)
    assert sum(one.is_answer for one in told.tokens) == tokens.answer_tokens
    output = tmp_path / "out"
    diq.train("pool", output=output, turns="all", epochs=1, batch_size=2, **common)
    assert json.loads((output / "diq_run.json").read_text())["result"]["answer_tokens"] == sum(
        found[every.run_id, place][2] for place in (0, 1)
    )
