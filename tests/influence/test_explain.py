"""The token view: both sums are the stored dot, and each answer token's term is its own gradient with V in float64."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from conftest import build_llama, build_tokenizer, ingest_rows, save_model
from diq import explain
from diq.base.errors import ModelError, RunFailedError, UsageError
from diq.influence.explain import Explanation, token_texts
from diq.influence.score import score_influence
from diq.models.layers import linear_weights
from diq.models.network import load_causal_lm
from diq.models.source import find_model
from diq.models.tokens import Tokenization, Tokens
from diq.store.store import Store
from influence.conftest import Conversations, fill
from influence.test_score_methods import save_adapter


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_samples: Callable[..., Conversations]) -> Path:
    pool = make_samples(12, seed=1, reasoning=True)
    sets = {"a": make_samples(4, seed=2), "b": make_samples(2, seed=3)}
    return fill(tmp_path_factory.mktemp("made") / "s.duckdb", pool, sets)


def ids(store: Path) -> list[str]:
    with Store(store, read_only=True) as opened:
        rows = opened.connection.execute(
            "SELECT sample_id::VARCHAR FROM dataset_samples JOIN datasets USING (dataset_id) "
            "WHERE name = 'pool' ORDER BY position"
        ).fetchall()
    return [row[0] for row in rows]


def stored(store: Path, run_id: int, weights: dict[str, float]) -> dict[str, float]:
    """Dot of every sample, pooled by the weights of the validation sets."""
    with Store(store, read_only=True) as opened:
        rows = opened.connection.execute(
            "SELECT sample_id::VARCHAR, v.name, dot FROM influence_scores JOIN validation_sets AS v "
            "USING (validation_set_id) WHERE run_id = ?",
            [run_id],
        ).fetchall()
    found: dict[str, float] = {}
    for sample, name, dot in rows:
        found[sample] = found.get(sample, 0.0) + weights.get(name, 0.0) / sum(weights.values()) * dot
    return found


def sums(found: Explanation) -> tuple[float, float]:
    return sum(one.loss_term or 0.0 for one in found.tokens), sum(one.term for one in found.tokens)


# the oracle --------------------------------------------------------------------------------------------------------


def slow_terms(
    folder: Path, messages: Any, validation: dict[str, Conversations], weights: dict[str, float], **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Loss of each answer token, and its own float64 gradient dotted with V, one backward a token.

    V is the mean over the samples of each set of the gradient of the sample's loss.
    """
    from transformers import AutoTokenizer

    model = load_causal_lm(find_model(str(folder)), dtype="float64")
    template, reduction = options.get("template", "auto"), options.get("loss_reduction", "mean")
    tokenization = Tokenization(AutoTokenizer.from_pretrained(folder), max_length=512, template=template)
    modules = linear_weights(model, options.get("params", "qkv"))
    parameters = [one.parameter.requires_grad_() for one in modules.values()]

    def losses(conversation: Any) -> torch.Tensor:
        (tokens,) = tokenization.encode([conversation])
        assert isinstance(tokens, Tokens)
        row = torch.tensor(tokens.ids.astype(np.int64))[None]
        logits = model(input_ids=row, use_cache=False).logits[0, :-1]
        return F.cross_entropy(logits, row[0, 1:], reduction="none")[tokens.answer_start - 1 :]

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        return torch.cat([one.flatten() for one in torch.autograd.grad(loss, parameters, retain_graph=True)])

    total = sum(weights.values())
    v = torch.zeros(sum(one.numel() for one in parameters), dtype=torch.float64)
    for name, weight in weights.items():
        for conversation in validation[name]:
            own = losses(conversation)
            loss = own.mean() if reduction == "mean" else own.sum()
            v += weight / total / len(validation[name]) * gradient(loss)
    own = losses(messages)
    terms = np.asarray([float(gradient(one) @ v) for one in own])
    return own.detach().numpy(), terms / len(own) if reduction == "mean" else terms


@pytest.mark.parametrize(
    ("kind", "options", "texts", "weights"),
    [
        ("tiny_llama_folder", {}, [], {"a": 4, "b": 2}),
        ("tiny_llama_chat_folder", {}, ["b"], {"b": 2}),
        ("tiny_llama_chat_folder", {"template": "none"}, ["a=1", "b=3"], {"a": 1, "b": 3}),
        ("tiny_llama_folder", {"loss_reduction": "sum", "params": "all-linear"}, [], {"a": 4, "b": 2}),
    ],
)
def test_terms_are_the_tokens_own_gradients_and_add_up_to_the_stored_dot(
    filled: Path,
    make_samples: Callable[..., Conversations],
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    options: dict[str, Any],
    texts: list[str],
    weights: dict[str, float],
) -> None:
    folder = request.getfixturevalue(kind)
    pool = make_samples(12, seed=1, reasoning=True)
    validation = {"a": make_samples(4, seed=2), "b": make_samples(2, seed=3)}
    run = score_influence("pool", model=str(folder), store=filled, **options)
    dots = stored(filled, run.run_id, weights)
    spread = float(np.std(list(dots.values())))
    with caplog.at_level(logging.WARNING, logger="diq.influence.explain"):
        for at in (1, 4):
            sample = ids(filled)[at]
            found = explain(sample, model=str(folder), store=filled, validation_set=texts, **options)
            losses, terms = slow_terms(folder, pool[at], validation, weights, **options)
            answer = [one for one in found.tokens if one.is_answer]
            assert len(answer) == len(terms) == found.answer_tokens
            assert len(found.tokens) == found.prompt_tokens + found.answer_tokens
            scale = np.abs(terms).sum()
            assert np.abs(np.asarray([one.loss_term for one in answer]) - terms).max() < 1e-5 * scale
            np.testing.assert_allclose([one.loss for one in answer], losses, rtol=1e-4, atol=1e-5)
            for total in (*sums(found), found.dot, found.totals["loss_term"], found.totals["term"]):
                assert abs(total - dots[sample]) < 1e-4 * spread
            assert found.totals["term_prompt"] + found.totals["term_answer"] == pytest.approx(found.dot, rel=1e-9)
            assert found.loss == pytest.approx(
                losses.mean() if options.get("loss_reduction") != "sum" else losses.sum(), rel=1e-5
            )
            # the store has no dot of sets under other weights, but it has that of each set
            assert [(one.run_id, one.method) for one in found.stored] == [(run.run_id, "exact")]
            assert found.stored[0].dot == pytest.approx(dots[sample], rel=1e-9)
            assert found.validation_sets == pytest.approx(
                {name: weight / sum(weights.values()) for name, weight in weights.items()}
            )
    assert not caplog.records


def test_a_term_is_where_the_gradient_enters(
    filled: Path, tiny_llama_folder: Path, make_samples: Callable[..., Conversations]
) -> None:
    """The last token predicts nothing, so nothing enters there; the prompt has its share."""
    found = explain(ids(filled)[0], model=str(tiny_llama_folder), store=filled)
    assert found.tokens[-1].term == 0
    assert found.tokens[-1].loss_term != 0
    assert abs(found.totals["term_prompt"]) > 0
    prompt = found.tokens[: found.prompt_tokens]
    assert all(one.loss is None and one.loss_term is None and not one.is_answer for one in prompt)
    assert [one.position for one in found.tokens] == list(range(len(found.tokens)))
    text = "".join(one.text for one in found.tokens)
    user, answer = make_samples(12, seed=1, reasoning=True)[0]
    assert text == f"Question: {user['content']}\nAnswer: {answer['content']}</s>"
    assert found.template == "Question/Answer"
    assert found.to_dict()["tokens"][-1]["text"] == "</s>"


# which sample, which runs ------------------------------------------------------------------------------------------


def test_a_sample_is_named_by_id_prefix_or_position(filled: Path, tiny_llama_folder: Path) -> None:
    model = str(tiny_llama_folder)
    sample = ids(filled)[3]
    whole = explain(sample, model=model, store=filled)
    assert whole.sample_id == sample
    assert whole.places == [{"dataset": "pool", "position": 3}]
    assert explain(sample[:6].upper(), model=model, store=filled) == whole
    assert explain(sample[:11], model=model, store=filled) == whole
    assert explain(model=model, store=filled, dataset="pool", position=3) == whole
    # a row that repeats an earlier one is the same sample
    with Store(filled, read_only=True) as opened:
        (messages,) = opened.connection.execute("SELECT messages FROM samples WHERE sample_id = ?", [sample]).fetchone()
    ingest_rows(filled, [json.loads(messages)] * 2, "again")
    again = explain(model=model, store=filled, dataset="again", position=1)
    assert again.sample_id == sample
    assert again.places == [{"dataset": "pool", "position": 3}, {"dataset": "again", "position": 0}]


@pytest.mark.slow
def test_only_dots_of_the_same_settings_are_shown(filled: Path, tiny_llama_folder: Path, tmp_path: Path) -> None:
    model = str(tiny_llama_folder)
    adapter = save_adapter(tiny_llama_folder, tmp_path / "adapter", seed=1)
    sample = ids(filled)[2]
    assert explain(sample, model=model, store=filled).stored == []
    same = [
        score_influence("pool", model=model, store=filled, validation_set=sets, **options).run_id
        for sets, options in ((["a"], {}), ([], {"norms": True}), ([], {"method": "forward"}))
    ]
    for options in ({"params": "all-linear"}, {"rank": 2}, {"method": "projected", "dim": 64}, {"dtype": "float64"}):
        score_influence("pool", model=model, store=filled, **options)
    trained = score_influence("pool", model=model, store=filled, checkpoint=[f"{adapter}:1"], validation_set=["b"])
    both = explain(sample, model=model, store=filled)
    # the first run has no dot with b
    assert [(one.run_id, one.method) for one in both.stored] == [(same[1], "exact"), (same[2], "forward")]
    alone = explain(sample, model=model, store=filled, validation_set=["a"])
    assert [one.run_id for one in alone.stored] == same
    assert alone.dot != pytest.approx(both.dot, rel=1e-3)
    for found in (both, alone):
        assert all(one.dot == pytest.approx(found.dot, rel=1e-4) for one in found.stored)
    found = explain(sample, model=model, store=filled, validation_set=["b"], checkpoint=str(adapter))
    with Store(filled, read_only=True) as opened:
        query = "SELECT part_run_id FROM run_parts WHERE run_id = ?"
        parts = [row[0] for row in opened.connection.execute(query, [trained.run_id]).fetchall()]
    assert [one.run_id for one in found.stored] == parts
    assert found.stored[0].dot == pytest.approx(found.dot, rel=1e-4)
    assert found.model == "tiny-llama+adapter"
    lora = explain(sample, model=model, store=filled, checkpoint=str(adapter), params="lora")
    assert sums(lora)[0] == pytest.approx(lora.dot, rel=1e-4)


def test_a_stored_dot_that_differs_is_told(
    filled: Path, tiny_llama_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = score_influence("pool", model=str(tiny_llama_folder), store=filled)
    with Store(filled) as opened:
        opened.connection.execute("UPDATE influence_scores SET dot = dot + 1")
    explain(ids(filled)[0], model=str(tiny_llama_folder), store=filled)
    assert f"the stored dot of run {run.run_id}" in caplog.text


def test_bfloat16_adds_up_roughly(filled: Path, tiny_llama_folder: Path) -> None:
    found = explain(ids(filled)[1], model=str(tiny_llama_folder), store=filled, dtype="bfloat16")
    exact = explain(ids(filled)[1], model=str(tiny_llama_folder), store=filled)
    scale = sum(abs(one.term) for one in exact.tokens)
    assert found.dtype == "bfloat16"
    for total in sums(found):
        assert abs(total - exact.dot) < 5e-2 * scale


# what cannot be explained ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "options", "message"),
    [
        ({}, {}, "name one sample"),
        ({"sample_id": "abcdef", "dataset": "pool", "position": 1}, {}, "name one sample"),
        ({"dataset": "pool"}, {}, "name one sample"),
        ({"sample_id": "abcde"}, {}, "`abcde` is not a sample id"),
        ({"sample_id": "abcdeg"}, {}, "`abcdeg` is not a sample id"),
        ({"sample_id": "0" * 33}, {}, "is not a sample id"),
        ({"sample_id": "000000000000"}, {}, "there is no sample `000000000000`"),
        ({"dataset": "pol", "position": 0}, {}, "no dataset named `pol`"),
        ({"dataset": "pool", "position": 99}, {}, "no sample at position 99"),
        ({"dataset": "pool", "position": -1}, {}, "no sample at position -1"),
        ({"dataset": "pool", "position": 0}, {"validation_set": ["c"]}, "no validation set named `c`"),
        ({"dataset": "pool", "position": 0}, {"validation_set": ["a=-1"]}, "`-1` of `a` is not a number from"),
        ({"dataset": "pool", "position": 0}, {"validation_set": ["a", "a=2"]}, "`a` is given twice"),
        ({"dataset": "pool", "position": 0}, {"validation_set": ["elsewhere"]}, "`elsewhere` has no samples"),
        ({"dataset": "pool", "position": 0}, {"max_length": 1}, "--max-length 1"),
        ({"dataset": "pool", "position": 0}, {"template": "chat"}, "--template `chat`"),
        ({"dataset": "pool", "position": 0}, {"loss_reduction": "max"}, "--loss-reduction `max`"),
        ({"dataset": "pool", "position": 0}, {"params": "nope"}, "no linear layer"),
        ({"dataset": "pool", "position": 0}, {"checkpoint": "nowhere"}, "`nowhere` is not a checkpoint"),
    ],
)
def test_wrong_use_is_one_line(
    filled: Path, tiny_llama_folder: Path, named: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with Store(filled) as opened:
        opened.connection.execute(
            "INSERT INTO validation_sets VALUES (99, 'elsewhere', NULL, NULL, NULL, TIMESTAMP '2026-01-01')"
        )
    with pytest.raises((UsageError, ModelError)) as caught:
        explain(**named, model=str(tiny_llama_folder), store=filled, **options)
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_an_ambiguous_prefix_lists_what_it_fits(filled: Path, tiny_llama_folder: Path) -> None:
    with Store(filled) as opened:
        for n in range(7):
            one = f"abcdef00-0000-0000-0000-00000000000{n}"
            opened.connection.execute("INSERT INTO samples VALUES (?, '[]', NULL)", [one])
    with pytest.raises(UsageError, match=r"`abcdef` fits several samples: (abcdef\S+, ){5}\.\.\.\n") as caught:
        explain("abcdef", model=str(tiny_llama_folder), store=filled)
    assert caught.value.hint == "give more digits"


def test_a_store_without_validation_sets_is_told(
    tmp_path: Path, tiny_llama_folder: Path, make_samples: Callable[..., Conversations]
) -> None:
    store = fill(tmp_path / "s.duckdb", make_samples(2), {})
    with pytest.raises(UsageError, match="there is no validation set"):
        explain(model=str(tiny_llama_folder), store=store, dataset="pool", position=0)


def test_a_sample_without_a_dot_says_why(
    tmp_path: Path, tiny_llama_folder: Path, make_samples: Callable[..., Conversations]
) -> None:
    long = [{"role": "user", "content": "blood pressure " * 200}, {"role": "assistant", "content": "high"}]
    system = [{"role": "system", "content": "x"}, *make_samples(1, seed=5)[0]]
    store = fill(tmp_path / "s.duckdb", [long, system], {"a": make_samples(2, seed=2, longest=8)})
    with pytest.raises(UsageError, match="has no dot: no answer token is left within the maximum length of 100 tokens"):
        explain(model=str(tiny_llama_folder), store=store, dataset="pool", position=0, max_length=100)
    tokenizer = build_tokenizer(chat=True)
    refusal = "{% if messages[0]['content'].startswith('x') %}{{ raise_exception('no x') }}{% endif %}"
    tokenizer.chat_template = refusal + tokenizer.chat_template
    strict = save_model(tmp_path / "strict", build_llama(), tokenizer)
    with pytest.raises(UsageError, match="has no dot: the chat template refused the sample: no x"):
        explain(model=str(strict), store=store, dataset="pool", position=1)
    # a letter that the validation samples do not have, so that their gradient stays finite
    broken = build_llama(tied=False)
    (letter,) = build_tokenizer()("x").input_ids
    with torch.no_grad():
        broken.model.embed_tokens.weight[letter] = float("nan")
    folder = save_model(tmp_path / "broken", broken, build_tokenizer())
    with pytest.raises(RunFailedError, match="has no dot: the loss is not finite"):
        explain(model=str(folder), store=store, dataset="pool", position=1)


# texts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["the patient has a fever\n\n what", "für 38 °C — 高血圧 🤒", " leading", "", "tab\t."]
)
def test_texts_of_tokens_are_the_text(text: str) -> None:
    tokenizer = build_tokenizer()
    numbers = tokenizer(text).input_ids
    found = token_texts(tokenizer, numbers)
    assert len(found) == len(numbers)
    assert "".join(found) == text
    assert all("\N{REPLACEMENT CHARACTER}" not in one for one in found)


def test_a_character_that_is_cut_off_is_shown_as_such() -> None:
    tokenizer = build_tokenizer()
    numbers = tokenizer("a 高").input_ids[:-1]
    found = token_texts(tokenizer, numbers)
    assert "".join(found) == "a \N{REPLACEMENT CHARACTER}"


def test_leading_spaces_survive_a_tokenizer_that_strips_them() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    raw.train_from_iterator(["the blood pressure is high"] * 4, trainers.BpeTrainer(show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw)
    numbers = tokenizer("the blood pressure").input_ids
    assert tokenizer.decode(numbers[1:2]) == "blood"
    assert token_texts(tokenizer, numbers) == ["the", " blood", " pressure"]
