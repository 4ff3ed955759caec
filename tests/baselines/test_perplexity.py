"""The mean loss of all tokens equals an obvious float64 loop, whatever the batch, the padding and the chunks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import build_llama, build_tokenizer, save_model
from diq.baselines.perplexity import NOT_FINITE, OVERFLOW, mean_losses, perplexity
from diq.models.network import load_causal_lm
from diq.models.source import find_model
from diq.models.tokens import Tokens


def build_gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(3)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=400, n_embd=48, n_layer=2, n_head=4, n_positions=256, bos_token_id=1, eos_token_id=2)
    )


def build_gemma2() -> Any:
    """Its logits are capped behind the head, and some of its layers look at a window only."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(4)
    config = Gemma2Config(
        vocab_size=400, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, max_position_embeddings=256, sliding_window=8, final_logit_softcapping=2.0,
    )  # fmt: skip
    return Gemma2ForCausalLM(config)


BUILDERS = {"llama": build_llama, "gpt2": build_gpt2, "gemma2": build_gemma2}


@pytest.fixture(scope="module", params=list(BUILDERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / request.param, BUILDERS[request.param](), build_tokenizer())


def texts(n: int = 23) -> list[Tokens]:
    """Samples of 2 to 120 tokens; where the answer starts must not matter."""
    rng = np.random.default_rng(0)
    lengths = [2, 3, 120, *rng.integers(2, 60, n - 3)]
    return [Tokens(rng.integers(7, 400, k).astype(np.int32), int(rng.integers(1, k))) for k in lengths]


def slow_losses(folder: Path, samples: list[Tokens]) -> np.ndarray:
    """One sample at a time in float64, without padding: -ln p of each token but the first, by transformers alone."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    found = []
    for one in samples:
        ids = torch.from_numpy(one.ids.astype(np.int64))
        with torch.no_grad():
            p = model(input_ids=ids[None]).logits[0].softmax(dim=-1)
        found.append(np.mean([-math.log(p[t - 1, ids[t]]) for t in range(1, len(ids))]))
    return np.asarray(found)


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("size", [1, 5, None])
def test_mean_losses_equal_a_float64_loop(folder: Path, size: int | None, padding_side: Any) -> None:
    if folder.name == "gemma2" and padding_side == "left" and size != 1:
        pytest.skip("transformers: NaN where a window of the attention holds padding alone; diq itself pads right")
    samples = texts()
    expected = slow_losses(folder, samples)
    # transformers takes some norms in float32 whatever the model is
    for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-8)):
        model = load_causal_lm(find_model(str(folder)), dtype=dtype, device="cpu")
        step = size or len(samples)
        parts = [samples[at : at + step] for at in range(0, len(samples), step)]
        found = np.concatenate([mean_losses(model, part, padding_side=padding_side) for part in parts])
        assert np.abs(found / expected - 1).max() < tolerance


def test_the_head_runs_in_parts_and_the_decoder_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = load_causal_lm(find_model(str(folder)), dtype="float32", device="cpu")
    samples = texts()
    whole = mean_losses(model, samples)
    monkeypatch.setattr("diq.gradients.losses._TRANSIENT", 400 * 50)
    layers, widest, parts = [], [], []
    first = next(one for name, one in model.named_modules() if name.endswith((".layers.0", ".h.0")))
    first.register_forward_hook(lambda *_: layers.append(1))

    def seen(_module: Any, _args: Any, logits: Any) -> None:
        parts.append(1)
        widest.append(logits.shape[1])

    model.get_output_embeddings().register_forward_hook(seen)
    found = mean_losses(model, samples)
    n = sum(len(one.ids) - 1 for one in samples)
    assert (len(layers), len(parts), max(widest)) == (1, -(-n // 50), 50)
    assert np.abs(found / whole - 1).max() < 1e-6
    # what was put in the decoder's place is gone, so another batch has its own hidden states
    assert "forward" not in model.base_model.__dict__
    assert np.array_equal(mean_losses(model, samples[::-1])[::-1], mean_losses(model, samples[::-1])[::-1])
    assert np.abs(mean_losses(model, samples[::-1])[::-1] / whole - 1).max() < 1e-6


def test_the_decoder_is_put_back_after_an_error_and_keeps_a_hook_of_others() -> None:
    model = build_llama().eval()
    run = model.model.forward

    def hooked(*args: Any, **options: Any) -> Any:
        return run(*args, **options)

    model.model.forward = hooked
    with pytest.raises(IndexError):
        mean_losses(model, [Tokens(np.asarray([5, 4000], np.int32), 1)])
    assert model.model.forward is hooked
    assert np.isfinite(mean_losses(model, texts(4))).all()


def test_a_perplexity_or_the_reason_why_there_is_none() -> None:
    assert perplexity(0.0) == (1.0, None)
    assert perplexity(2.5) == (math.exp(2.5), None)
    assert perplexity(709.0)[0] == math.exp(709.0)
    assert perplexity(710.0) == (None, OVERFLOW)
    for value in (math.nan, math.inf, -math.inf):
        assert perplexity(value) == (None, NOT_FINITE)
