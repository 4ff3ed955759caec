"""The cost account: the paper's formulas give the paper's figures, the full count what torch counts, term by term."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import build_llama, build_tokenizer, fill_store, ingest_rows, save_model
from diq.base.errors import ModelError, UsageError
from diq.base.text import Ratio
from diq.costs.account import FULL, Plan, account
from diq.costs.cost import cost, predict
from diq.costs.flops import (
    adapter_weights,
    attention_flops,
    backward_flops,
    encoder_flops,
    exact_flops,
    forward_flops,
    preference_flops,
    projected_flops,
    training_flops,
    weights,
)
from diq.costs.lengths import Lengths, read_file_lengths, read_lengths
from diq.costs.paper import paper_inference, paper_lora, paper_training
from diq.costs.sizes import Size, find_size, read_size

N, T, START = 3, 20, 8
SAMPLES = Lengths(N, N * T, N * T * T, N * (T - START), N * START, "test")
NOTHING = Lengths.same(0, 0)


# the paper -----------------------------------------------------------------------------------------------------------

PAPER_SAMPLES = 19_000  # Table 1 says 19k
LLAMA, QWEN = {"layers": 32, "hidden": 4096}, {"layers": 36, "hidden": 4096}


def test_the_papers_ratios_follow_from_its_formula() -> None:
    """Appendix F and section 5.1: 16.70 and 18.79 (10^14) for three epochs of LoRA on Huatuo, rank 8 on q, k and v."""
    one_token = paper_lora(**LLAMA, tokens=1, samples=PAPER_SAMPLES, epochs=3)
    tokens = 16.70e14 / one_token
    assert tokens == pytest.approx(776, abs=1)
    qwen = paper_lora(**QWEN, tokens=tokens, samples=PAPER_SAMPLES, epochs=3)
    assert f"{qwen / 1e14:.2f}" == "18.79"
    # whatever T and |D| are, the quotient is that of the layers
    assert qwen / 16.70e14 == pytest.approx(36 / 32)
    # what the text says of its own bars
    assert f"{16.70 / 9.05:.2f}" == "1.85"
    assert f"{18.79 / 9.05:.2f}" == "2.08"
    assert f"{88.71 / 9.05:.2f}" == "9.80"
    assert round(8777.89 / 9.05) == 970
    # the larger bars are not Eq. 9 of the larger models that were trained
    for layers, hidden, value in ((40, 5120, "26.09"), (64, 5120, "41.75")):
        found = paper_lora(layers=layers, hidden=hidden, tokens=tokens, samples=PAPER_SAMPLES, epochs=3)
        assert f"{found / 1e14:.2f}" == value


def test_the_formulas_as_they_are_printed() -> None:
    assert paper_training(layers=2, hidden=3, tokens=5, samples=7, epochs=11) == 6 * 2 * 9 * 5 * 7 * 11
    assert paper_inference(layers=2, hidden=3, tokens=5, samples=7) == 2 * 2 * 9 * 5 * 7
    assert paper_lora(layers=2, hidden=3, tokens=5, samples=7, epochs=11, matrices=13, rank=17) == (
        12 * 13 * 2 * 3 * 17 * 5 * 7 * 11
    )


def test_what_the_papers_formula_leaves_out() -> None:
    """Eq. 9 is six times the adapter's weights; the frozen model under it costs hundreds of times as much."""
    size = find_size("llama-3.1-8b")
    square = replace(size, heads=32, kv_heads=32)  # Eq. 9 takes every adapted matrix to be H x H
    lengths = Lengths.same(PAPER_SAMPLES, 776)
    paper = paper_lora(**LLAMA, tokens=776, samples=PAPER_SAMPLES, epochs=3)
    assert paper == 3 * 6 * adapter_weights(square, params="qkv", rank=8) * lengths.tokens
    full = training_flops(size, lengths, epochs=3)
    assert 800 < full / paper < 825
    checkpointed = training_flops(size, lengths, epochs=3, checkpointing=True)
    assert 1150 < checkpointed / paper < 1250
    # scoring exactly against one mean gradient is less than one of the three epochs
    scored = exact_flops(size, lengths, Lengths.same(180, 776), folds=1)
    assert 2.8 < full / scored < 3.0


# the count against torch ---------------------------------------------------------------------------------------------


def config(kind: str) -> Any:
    import transformers

    common = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return {
        "llama": lambda: transformers.LlamaConfig(**common, **heads, **special),
        "qwen3": lambda: transformers.Qwen3Config(**common, **heads, **special, head_dim=16),
        "mistral": lambda: transformers.MistralConfig(**common, **heads, **special),
        "gemma": lambda: transformers.GemmaConfig(**common, **heads, **special, head_dim=20),
        "phi": lambda: transformers.PhiConfig(**common, **heads, **special),
        "phi3": lambda: transformers.Phi3Config(**common, **heads, **special),
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=97, n_embd=48, n_layer=3, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
        ),
        "bert": lambda: transformers.BertConfig(
            **common, num_attention_heads=4, max_position_embeddings=64, pad_token_id=0
        ),
    }[kind]()


def counted(work: Callable[[], Any]) -> int:
    """FLOPs of all matrix products that torch sees."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def all_pairs(size: Size) -> float:
    """Attention as torch counts it: masked pairs as well."""
    return 4 * size.layers * size.heads * size.head_dim * N * T * T


def linear(size: Size, lengths: Lengths) -> float:
    return forward_flops(size, lengths) - attention_flops(size, lengths)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral", "gemma", "phi", "phi3", "gpt2"])
def test_a_decoder_forward_and_backward(kind: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    # eager attention: its products are seen one by one, and none is computed twice
    model = AutoModelForCausalLM.from_config(config(kind), attn_implementation="eager")
    model.config.save_pretrained(tmp_path)
    size = find_size(str(tmp_path))
    ids = torch.randint(3, 97, (N, T))
    seen = SAMPLES.every_token()
    forward = linear(size, seen) + all_pairs(size)
    assert counted(lambda: model(ids, use_cache=False)) == forward
    matrices = sum(one.numel() for name, one in model.named_parameters() if one.dim() == 2 and "wpe" not in name)
    assert size.n_parameters == matrices
    model.requires_grad_(False)
    # the way back to the embeddings
    handle = model.get_input_embeddings().register_forward_hook(lambda _m, _a, out: out.requires_grad_(True))
    both = counted(lambda: model(ids, use_cache=False).logits.sum().backward())
    handle.remove()
    assert both == forward + linear(size, seen) + 2 * all_pairs(size)
    # ours differ from that in the masked pairs alone
    assert backward_flops(size, seen) - linear(size, seen) == 2 * attention_flops(size, seen)
    assert attention_flops(size, seen) / all_pairs(size) == pytest.approx((T + 1) / (2 * T))


def test_an_encoder(tmp_path: Path) -> None:
    import torch
    from transformers import BertModel

    model = BertModel(config("bert"), add_pooling_layer=False)
    model.config.save_pretrained(tmp_path)
    size = find_size(str(tmp_path))
    assert not size.decoder
    with torch.no_grad():
        found = counted(lambda: model(torch.randint(3, 97, (N, T))))
    assert found == forward_flops(size, SAMPLES) == encoder_flops(size, N, T)
    # 64 tokens are all that it takes
    assert encoder_flops(size, N, 1000) == encoder_flops(size, N, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("cost") / "m", build_llama(layers=3, tied=False), build_tokenizer())


def tokens() -> list[Any]:
    from diq.models.tokens import Tokens

    rng = np.random.default_rng(0)
    return [Tokens(rng.integers(7, 300, T).astype(np.int32), START) for _ in range(N)]


def first_layer(size: Size) -> float:
    """What the count has too much: nothing below the lowest layer's q, k and v needs a gradient."""
    return 2 * weights(size.chosen("qkv")[:3]) * N * T


def passes(size: Size, lengths: Lengths) -> float:
    """Forward and backward as torch counts them with its fused attention, whose backward computes the scores again."""
    return 2 * linear(size, lengths) + 3.5 * all_pairs(size)


@pytest.mark.parametrize("folds", [1, 2])
def test_exact_scoring_by_the_real_engine(folder: Path, folds: int) -> None:
    from diq.gradients.engine import Engine, EngineSettings
    from diq.gradients.validation import ValidationTokens
    from diq.models.source import find_model

    size, samples = find_size(str(folder)), tokens()
    engine = Engine(EngineSettings(model=find_model(str(folder)), folds=folds))
    engine.prepare([ValidationTokens(name, samples[:2]) for name in "ab"])
    found = counted(lambda: engine.score(samples))
    shapes = size.chosen("qkv")
    # V x by matrix products; the dots with delta are element by element, which torch does not count
    products = 2 * folds * 2 * weights(shapes) * N * T
    assert found == passes(size, SAMPLES) - first_layer(size) + products
    ours = exact_flops(size, SAMPLES, NOTHING, sets=2, folds=folds)
    delta = 2 * folds * 2 * sum(out for out, _ in shapes) * N * T
    assert ours - delta + 3.5 * all_pairs(size) - 3 * attention_flops(size, SAMPLES) - first_layer(size) == found
    # the validation gradient: the same passes and the chosen weights' gradients
    whole = counted(lambda: engine.mean_gradient(samples))
    assert whole == passes(size, SAMPLES) - first_layer(size) + 2 * weights(shapes) * N * T
    validated = exact_flops(size, NOTHING, SAMPLES)
    assert validated == forward_flops(size, SAMPLES) + backward_flops(size, SAMPLES) + 2 * weights(shapes) * N * T


def test_projected_scoring_by_the_real_engine(folder: Path) -> None:
    from diq.gradients.engine import Engine, EngineSettings
    from diq.models.source import find_model

    size, samples = find_size(str(folder)), tokens()
    engine = Engine(EngineSettings(model=find_model(str(folder)), method="projected", kind="sparse", dim=64))
    engine.prepare([])
    # the outer products and their sketch are fused into a kernel of our own, which torch does not see
    assert counted(lambda: engine.score(samples)) == passes(size, SAMPLES) - first_layer(size)
    chosen = weights(size.chosen("qkv"))
    rest = projected_flops(size, SAMPLES, NOTHING) - forward_flops(size, SAMPLES) - backward_flops(size, SAMPLES)
    assert rest == 2 * chosen * N * T + 2 * chosen * N
    dense = projected_flops(size, SAMPLES, NOTHING, kind="rademacher", dim=4096)
    assert dense - projected_flops(size, SAMPLES, NOTHING) == pytest.approx((2 * 4096 - 2) * chosen * N)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "again"])
@pytest.mark.parametrize("params", ["qkv", "all-linear"])
def test_a_real_lora_step(folder: Path, params: Any, checkpointing: bool) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    from diq.models.layers import linear_weights
    from diq.models.network import load_causal_lm
    from diq.models.source import find_model

    size, rank = find_size(str(folder)), 4
    network: Any = load_causal_lm(find_model(str(folder)))
    names = list(linear_weights(network, params))
    network = get_peft_model(network, LoraConfig(r=rank, target_modules=names, task_type="CAUSAL_LM"))
    if checkpointing:
        network.enable_input_require_grads()
        enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    network.train()
    ids = torch.tensor(np.stack([one.ids for one in tokens()])).long()
    found = counted(lambda: network(input_ids=ids, labels=ids, use_cache=False).loss.backward())
    seen = SAMPLES.every_token()
    adapter = 2 * adapter_weights(size, params=params, rank=rank) * N * T
    expected = passes(size, seen) + 3 * adapter
    ours = training_flops(size, seen, epochs=1, params=params, rank=rank, checkpointing=checkpointing)
    if checkpointing:
        # a layer computed again stops before its last product, whose output nobody asks for
        last = {"qkv": 2 * 48 * size.intermediate, "all-linear": 2 * rank * 48}[params] * size.layers * N * T
        expected += linear(size, replace(seen, answers=0.0)) + all_pairs(size) + adapter - last
        ours += 4.5 * all_pairs(size) - 4 * attention_flops(size, seen) - last
    else:
        lowest = first_layer(size) + 3 * 2 * rank * 48 * N * T
        expected -= lowest
        ours += 3.5 * all_pairs(size) - 3 * attention_flops(size, seen) - lowest
    assert found == expected
    assert found == pytest.approx(ours, rel=1e-12)


def test_training_all_weights_is_six_times_the_weights(folder: Path) -> None:
    import torch

    from diq.models.network import load_causal_lm
    from diq.models.source import find_model

    size = find_size(str(folder))
    network: Any = load_causal_lm(find_model(str(folder)))
    network.requires_grad_(True)
    ids = torch.tensor(np.stack([one.ids for one in tokens()])).long()
    found = counted(lambda: network(input_ids=ids, labels=ids, use_cache=False).loss.backward())
    six = 6 * (size.layer_weights + size.head_weights) * N * T
    assert found == six + 3.5 * all_pairs(size)
    ours = training_flops(size, SAMPLES, epochs=1, params="full")
    assert ours == six + 3 * attention_flops(size, SAMPLES)


def test_dpo_is_a_step_on_both_answers_and_a_reference_that_is_only_read(folder: Path) -> None:
    size = find_size(str(folder))
    both = Lengths.same(2 * N, T)
    assert preference_flops(size, both, epochs=2) == 2 * (
        training_flops(size, both, epochs=1) + forward_flops(size, both)
    )


# laws ----------------------------------------------------------------------------------------------------------------


def test_more_of_anything_costs_more_and_samples_add_up() -> None:
    size = find_size("qwen3-8b")
    one, many = Lengths.same(10, 500), Lengths.same(30, 500)
    nothing = NOTHING
    for count in (
        lambda lengths: forward_flops(size, lengths),
        lambda lengths: exact_flops(size, lengths, nothing),
        lambda lengths: projected_flops(size, lengths, nothing),
        lambda lengths: training_flops(size, lengths, epochs=2),
    ):
        assert count(many) == pytest.approx(3 * count(one))
        # the same tokens in longer samples cost more: attention is quadratic
        assert count(Lengths.same(1, 5000)) > count(one)
    assert exact_flops(size, one, nothing, sets=9) > exact_flops(size, one, nothing, sets=1)
    costs = [training_flops(size, one, epochs=1, params=params) for params in ("qkv", "all-linear", "full")]
    assert costs == sorted(costs)
    assert training_flops(size, one, epochs=1, checkpointing=True) > training_flops(size, one, epochs=1)
    # published parameter counts, norms left out
    for name, billions in (("llama-3.1-8b", 8.03), ("qwen3-8b", 8.19), ("qwen3-14b", 14.77), ("qwen3-32b", 32.76)):
        assert find_size(name).n_parameters / 1e9 == pytest.approx(billions, abs=0.01)


def test_an_account_adds_up() -> None:
    plan = Plan(
        find_size("llama-3.1-8b"),
        Lengths.same(1000, 700),
        Lengths.same(180, 700),
        ratios=(Ratio.parse("0.01"), Ratio.parse("1")),
        questions=Lengths.same(50, 1000),
    )
    found = account(plan)
    full = found.step(FULL)
    assert found.step("train on 100 %").flops == full.flops
    assert found.step("train on 1 %").of_full_training == pytest.approx(0.01)
    assert found.step("train on 1 %").samples == 10
    assert full.tokens == 3 * 700_000
    assert full.paper == paper_lora(**LLAMA, tokens=700, samples=1000, epochs=3)
    assert found.step("select").flops == 0
    assert found.step("evaluate").flops == forward_flops(plan.size, Lengths.same(50, 1000))
    assert found.step("score influence, exact").paper is None
    assert json.loads(json.dumps(found.to_dict()))["plan"]["size"]["layers"] == 32
    predict(found, {"exact": (1000.0, 500.0, 2000.0), "training": (100.0, 100.0, 100.0)})
    exact = found.step("score influence, exact")
    assert exact.hours == pytest.approx((700 / 3600, 350 / 3600, 1400 / 3600))
    assert full.hours == pytest.approx((21_000 / 3600,) * 3)
    assert found.step("select").hours is None
    # training all weights leaves influence at q, k and v
    whole = account(replace(plan, params="full"))
    assert whole.step("score influence, exact").flops == exact.flops
    assert whole.step(FULL).paper == paper_training(**LLAMA, tokens=700, samples=1000, epochs=3)
    pairs = account(replace(plan, method="dpo"))
    assert (pairs.step(FULL).paper, pairs.step(FULL).rate) == (None, None)
    assert pairs.step(FULL).flops > full.flops


# configs -------------------------------------------------------------------------------------------------------------


def written(tmp_path: Path, **values: Any) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


LLAMA_CONFIG = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 128, "vocab_size": 100,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "is a mixture of experts (mixtral)"),
        ({"model_type": "mamba"}, "the architecture `mamba` of `m` is not counted here"),
        ({"model_type": None}, "the architecture `None`"),
        ({"hidden_size": None}, "has no `hidden_size`"),
        ({"num_hidden_layers": 0}, "`num_hidden_layers` of `m` is 0"),
        ({"vocab_size": "big"}, "`vocab_size` of `m` is 'big'"),
        ({"intermediate_size": True}, "`intermediate_size` of `m` is True"),
    ],
    ids=["experts", "mamba", "none", "missing", "zero", "text", "bool"],
)
def test_configs_that_cannot_be_counted_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as error:
        read_size(written(tmp_path, **{**LLAMA_CONFIG, **changes}), name="m")
    assert message in error.value.message
    assert error.value.hint


def test_damaged_and_missing_configs(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be read"):
        find_size(str(tmp_path))
    (tmp_path / "config.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(ModelError, match="is no JSON object"):
        find_size(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        find_size(str(tmp_path / "empty"))


def test_a_language_model_inside_a_model_of_images(tmp_path: Path) -> None:
    inner = {**LLAMA_CONFIG, "model_type": "gemma3_text", "head_dim": 32}
    found = read_size(written(tmp_path, model_type="gemma3", text_config=inner, vision_config={}), name="m")
    assert (found.layers, found.head_dim, found.gated) == (2, 32, True)


def test_names_of_the_papers_models_and_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_size("Qwen/Qwen3-8B") == find_size("qwen3-8b") == find_size("QWEN/qwen3-8b")
    assert find_size("Llama-3.1-8B-Instruct") == find_size("meta-llama/Llama-3.1-8B-Instruct")
    with pytest.raises(ModelError, match=r"there is no model folder `qwen3-8`") as error:
        find_size("qwen3-8")
    assert "did you mean `qwen3-8b`?" in error.value.hint
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"the config.json of `nobody/nothing` could not be fetched"):
        find_size("nobody/nothing")


# lengths -------------------------------------------------------------------------------------------------------------


def conversation(prompt: int, answer: int, reasoning: int = 0) -> list[dict[str, str]]:
    last = {"role": "assistant", "content": "a" * answer}
    if reasoning:
        last["reasoning_content"] = "r" * reasoning
    return [{"role": "user", "content": "q" * prompt}, last]


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return [
        {"messages": conversation(40, 20)},
        {"messages": [{"role": "system", "content": "s" * 12}, *conversation(100, 7, reasoning=21)]},
        {"messages": conversation(1, 400)},
    ]


def slow_lengths(rows: list[dict[str, Any]], ratio: float, max_length: int) -> tuple[float, ...]:
    """Sums by hand: n, tokens, squares, answers, prompts."""
    found = np.zeros(5)
    for row in rows:
        before = sum(len(one["content"]) for one in row["messages"][:-1])
        last = row["messages"][-1]
        prompt = min(before / ratio, max_length)
        whole = min((before + len(last["content"]) + len(last.get("reasoning_content", ""))) / ratio, max_length)
        found += (1, whole, whole**2, whole - prompt, prompt)
    return tuple(found)


def as_tuple(lengths: Lengths) -> tuple[float, ...]:
    return lengths.n, lengths.tokens, lengths.squares, lengths.answers, lengths.prompts


@pytest.mark.parametrize("max_length", [8192, 50])
def test_lengths_of_a_store_and_of_a_file_are_the_same(tmp_path: Path, rows: Any, max_length: int) -> None:
    store = tmp_path / "s.duckdb"
    path = ingest_rows(store, rows)
    stored = read_lengths(store, "pool", model="m", max_length=max_length)
    read = read_file_lengths(str(path), max_length=max_length)
    assert as_tuple(stored) == pytest.approx(as_tuple(read))
    assert as_tuple(stored) == pytest.approx(slow_lengths(rows, 4, max_length))
    assert stored.source == read.source == "characters, 4 a token: an estimate"
    measured = read_lengths(store, "pool", model="m", max_length=max_length, characters_per_token=2.5)
    assert as_tuple(measured) == pytest.approx(slow_lengths(rows, 2.5, max_length))
    assert "the probe measured" in measured.source


def test_both_answers_of_a_preference_pair_are_read(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    path = ingest_rows(store, [{"prompt": "q" * 40, "chosen": "a" * 20, "rejected": "b" * 60}], "pairs")
    for found in (
        read_lengths(store, "pairs", model="m", max_length=8192),
        read_file_lengths(str(path), max_length=8192),
    ):
        assert as_tuple(found) == pytest.approx((1, 15 + 25, 15**2 + 25**2, 5 + 15, 20))


def test_scored_answers_tell_how_long_a_token_is(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    # every answer of that store is one character and, by its run, two tokens
    fill_store(store, dots={"v": np.ones(5)}, difficulty=np.ones(5), answer_tokens=np.full(5, 2))
    found = read_lengths(store, "pool", model="model", max_length=8192)
    assert found.source == "characters, 0.50 a token as run 1 counted 5 answers"
    assert found.answers == pytest.approx(5 * 2)
    # another model's tokens say nothing
    assert "estimate" in read_lengths(store, "pool", model="other", max_length=8192).source


def test_rows_that_cannot_be_read_are_named(tmp_path: Path, rows: Any, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n", encoding="utf-8")
    assert read_file_lengths(str(path), max_length=8192).n == 3
    assert "left out: 1 row of" in caplog.text


def test_a_plan_from_the_store(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    ingest_rows(store, [conversation(400 + i, 400) for i in range(20)])
    for name in ("one", "two"):
        ingest_rows(store, [conversation(9, i + 1) for i in range(4)], name, validation=True, sample=3)
    found = cost("pool", model="llama-3.1-8b", store=store)
    assert (found.plan.sets, found.plan.validation.n, found.plan.lengths.n) == (2, 6, 20)
    assert found.step("score difficulty").tokens == pytest.approx(found.plan.lengths.prompts)
    assert [step.name for step in found.steps][-3:] == ["train on 1 %", "train on 10 %", FULL]
    # 1 % of 20 is nobody
    assert found.step("train on 1 %").flops == 0
    assert cost("pool", model="llama-3.1-8b", store=store, validation_samples=0, validation_sets=5).plan.sets == 5
    with pytest.raises(UsageError, match="no dataset named `pol`"):
        cost("pol", model="llama-3.1-8b", store=store)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "there is nothing to count"),
        ({"samples": 5}, "there is nothing to count"),
        ({"source": "pool", "samples": 5}, "a dataset and --samples or --tokens were given"),
        ({"samples": 0, "tokens": 5}, "--samples 0 is out of range"),
        ({"samples": 5, "tokens": -1}, "--tokens -1.0 is out of range"),
        ({"samples": 5, "tokens": 5, "epochs": 0}, "--epochs 0.0 is out of range"),
        ({"samples": 5, "tokens": float("nan")}, "--tokens nan is out of range"),
        ({"samples": 5, "tokens": 5, "params": "lora"}, "--params `lora` is not known"),
        ({"samples": 5, "tokens": 5, "method": "ppo"}, "--method `ppo` is not known"),
        ({"samples": 5, "tokens": 5, "ratio": 2}, "the ratio 2 is outside"),
        ({"samples": 5, "tokens": 5, "validation_samples": -1}, "--validation-samples -1 is out of range"),
    ],
    ids=range(11),
)
def test_plans_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        cost(model="qwen3-8b", **options)
    assert message in error.value.message


def test_what_a_step_of_python_may_leave_out(tmp_path: Path, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIQ_STORE", str(tmp_path / "s.duckdb"))
    ingest_rows(tmp_path / "s.duckdb", rows)
    found = cost("pool", model="qwen3-8b", ratio=0.5)
    assert [step.name for step in found.steps][-2:] == ["train on 50 %", FULL]
    assert repr(found) == "Account(10 steps, 2 notes, ...)"
    with pytest.raises(TypeError, match=r"cost\(\) has no option `rank`; did you mean `"):
        cost("pool", model="qwen3-8b", rank=4)  # type: ignore[call-arg]


def test_no_model_library_is_loaded() -> None:
    code = (
        "import sys; from diq.costs.cost import cost as run; run(model='qwen3-8b', samples=5, tokens=5);"
        "print({'torch', 'transformers', 'numpy', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
