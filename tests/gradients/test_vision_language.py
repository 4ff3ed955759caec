"""The language part of vision-language models: what counts, what is left out, and dots against float64 autograd."""

from __future__ import annotations

from pathlib import Path

import pytest

from diq.models.layers import adapted_weights, coverage, linear_weights, target_names
from diq.models.network import load_causal_lm
from diq.models.source import find_model
from gradients.test_gradients import Case
from models.vision_language import CONFIGS, build

# where each keeps its language part
LANGUAGE = {"llama4": "language_model.model.", "idefics3": "model.text_model.", "smolvlm": "model.text_model."}
# linear layers of attention and of the rest that text passes
COUNTS = {"qwen3_5": (3, 31), "llama4": (6, 17)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    path = tmp_path_factory.mktemp("models") / str(request.param)
    build(request.param).save_pretrained(path)
    return path


# as others of the list are built
ALIKE = ("qwen2_5_vl", "llava_next", "smolvlm", "mistral3", "internvl")


@pytest.mark.slow
@pytest.mark.parametrize(
    "folder",
    [pytest.param(one, marks=pytest.mark.exhaustive if one in ALIKE else ()) for one in CONFIGS],
    indirect=True,
)
def test_the_language_part_counts_alone_and_its_dots_are_exact(folder: Path) -> None:
    source = find_model(folder)
    inside = LANGUAGE.get(folder.name, "model.language_model.")
    network = load_causal_lm(source)
    sizes = {}
    for params, n in zip(("qkv", "all-linear"), COUNTS.get(folder.name, (6, 14)), strict=True):
        case = Case(lambda: load_causal_lm(source), params)
        assert len(case.weights) == n
        assert all(name.startswith(inside) for name in case.weights)
        # the linear attention of Qwen3.5 adds up what nearly cancels, in float32
        bound = 1e-3 if folder.name == "qwen3_5" else 2e-5
        assert case.error(case.scores()) < bound
        assert case.error(case.scores(batch=32, padding_side="left")) < bound
        found = coverage(network, linear_weights(network, params), params)
        sizes[params] = found.covered
        assert found.reached == (1 if params == "qkv" and folder.name == "qwen3_5" else found.layers - found.silent)
        assert found.silent == (1 if folder.name == "mllama" else 0)
        assert found.total < sum(one.numel() for one in network.parameters())
        assert any(word in " ".join(found.left_out) for word in ("vision", "visual"))
        assert "lm_head" not in found.left_out
    assert sizes["qkv"] < sizes["all-linear"] <= found.total
    # and an adapter goes where the gradients are taken
    names = [name for name, _ in network.named_modules()]
    for params in ("qkv", "all-linear"):
        targets = target_names(network, adapted_weights(network, params))
        hit = {name for name in names if any(name == one or name.endswith(f".{one}") for one in targets)}
        assert hit == set(adapted_weights(network, params))
