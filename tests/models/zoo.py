"""Every decoder family of the installed transformers, small: two layers, 48 wide, random weights from a fixed seed.

A family's config is shrunk by rules over the names of its fields, so that a family that transformers adds is built
without a word here; ``OWN`` has what rules cannot know.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from diq.base.errors import DiqError, ModelError
from diq.gradients.backward import score_batch
from diq.gradients.dots import Dots
from diq.gradients.reach import reach
from diq.gradients.validation import ValidationGradient, mean_gradient
from diq.models.adapters import put_adapter
from diq.models.architecture import plain_experts
from diq.models.experts import has_experts
from diq.models.layers import Weight, adapted_weights, coverage, linear_weights
from diq.models.network import load_causal_lm
from diq.models.source import find_model
from diq.models.tokens import Tokens, collate

VOCABULARY = 400

# what transformers itself does not build or run as a language model on text alone
APART = {
    "blt": "reads bytes in patches, not tokens",
    "dots3_note": "its config is only checked at full size; dots3_note_text is the same decoder",
    "gemma3n": "needs the package timm; gemma3n_text is the same decoder",
    "gemma4_assistant": "a draft of another model",
    "gemma4_unified_assistant": "a draft of another model",
    "musicgen": "writes sound",
    "musicgen_melody": "writes sound",
    "reformer": "hashes of its attention change with the length",
}

# one of each kind of thing that is loaded, found, named or differentiated in a way of its own; the others are alike
DISTINCT = {
    "llama": "grouped queries",
    "qwen3": "normed queries and keys",
    "gpt2": "Conv1D, and a head tied to the embedding",
    "gpt_neox": "fused queries, keys and values, with biases",
    "falcon": "a linear layer of its own class, fused for a single key",
    "phi3": "fused projections of the feed-forward too",
    "mpt": "other names, and attention biased by distance",
    "ctrl": "other names, and no output projection among them",
    "xlm": "the mask is made by the model",
    "opt": "learned positions, dropout of its own",
    "mistral": "a sliding window",
    "gemma2": "soft-capped logits",
    "gemma3n_text": "several streams, keys that layers share",
    "mllama": "layers that only images reach",
    "git": "most weights in another tower",
    "phi4_multimodal": "towers and their adapters",
    "bart": "the decoder of a pair",
    "moshi": "a linear layer within a module, float32 inside",
    "deepseek_v3": "latent attention, experts beside a shared one",
    "mixtral": "experts",
    "gpt_oss": "experts stored transposed, with biases",
    "llama4_text": "experts that see every token",
    "dbrx": "experts below each other",
    "longcat_flash": "experts that do nothing",
    "nemotron_h": "experts without a gate",
    "phimoe": "a router of its own class",
    "jetmoe": "experts of an unknown form",
    "mamba": "a state-space model, no attention and no adapter",
    "mamba2": "another one",
    "jamba": "states, attention and experts",
    "zamba": "one layer at several depths",
    "hrm_text": "layers that are run several times",
    "qwen3_next": "linear attention by the delta rule",
    "minimax": "lightning attention",
    "recurrent_gemma": "a gated recurrence",
    "lfm2": "short convolutions",
    "rwkv": "time mixing",
    "xlstm": "a matrix memory",
    "deepseek_v4": "a product of unknown form",
    "zaya": "another one",
    "bert": "an encoder",
    "xlnet": "an encoder with two streams",
}

# value of a config's field, by any of its names
_RULES: dict[Any, str] = {
    VOCABULARY: "vocab_size n_words vocab_size_per_layer_input",
    48: """
        hidden_size n_embd n_embed d_model dim embed_dim model_dim word_embed_proj_dim emb_dim
        attention_hidden_size lru_width mamba_d_ssm embedding_size
    """,
    64: """
        intermediate_size ffn_dim ffn_hidden_size n_inner d_inner d_ff intermediate_size_mlp block_ff_dim
        shared_intermediate_size encoder_ffn_dim decoder_ffn_dim shared_expert_intermediate_size
        dense_intermediate_size moe_shared_expert_intermediate_size ffn_intermediate_size
    """,
    2: """
        num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_blocks
        num_key_value_heads num_kv_heads num_experts_per_tok moe_top_k moe_topk moe_k top_k_experts
        linear_num_key_heads kv_n_heads num_experts_per_token
    """,
    4: """
        num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads
        encoder_attention_heads num_experts num_local_experts n_routed_experts moe_num_experts
        linear_num_value_heads linear_num_heads mamba_n_heads mamba_num_heads n_mamba_heads mamba_dt_rank
        time_step_rank qk_rope_head_dim adapter_rank
    """,
    1: """
        n_group topk_group n_shared_experts num_shared_experts num_shared_expert moe_num_shared_experts
        first_k_dense_replace mamba_n_groups n_groups mamba_ngroups moe_layer_start_index moe_layer_interval
    """,
    12: """
        linear_head_dim head_dim kv_channels global_head_dim v_head_dim query_pre_attn_scalar
        attention_head_dim
    """,
    16: """
        q_lora_rank kv_lora_rank sliding_window ssm_state_size mamba_d_state window_size
        attention_window_size attention_chunk_size local_attention
    """,
    8: """
        qk_nope_head_dim linear_key_head_dim linear_value_head_dim state_size rotary_dim laurel_rank
        hidden_size_per_layer_input
    """,
    24: "mamba_d_head mamba_headdim mamba_head_dim",
    32: "moe_intermediate_size expert_ffn_hidden_size moe_latent_size",
    128: "max_position_embeddings n_positions max_seq_len n_ctx context_length max_target_positions",
    0.1: "initializer_range init_std",
}
_VALUES = {name: value for value, names in _RULES.items() for name in names.split()}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

# decoders by their name in transformers' table that see what comes after
NO_DECODERS = [
    "bert", "bert-generation", "big_bird", "camembert", "cpmant", "data2vec-text", "electra", "ernie", "megatron-bert",
    "prophetnet", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl",
    "xlnet", "xmod",
]  # fmt: skip
# without projections of queries, keys and values
NO_PROJECTIONS = ["falcon_mamba", "jetmoe", "mamba", "mamba2"]
# most of the weights are no linear layers: JetMoE's experts, towers for images and sound
OTHER_FORMS = ["git", "jetmoe", "phi4_multimodal"]
# a linear layer whose product is made in a form that diq does not know
UNSEEN = ["deepseek_v4", "zaya"]

INDEXED = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 12,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
}
HYBRID = {"num_hidden_layers": 4, "attention_hidden_size": 96, "attention_head_dim": 24, "num_key_value_heads": 4}
# what the rules cannot know
OWN: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"num_expert_group": 1, "topk_group": 1, "layer_group_size": 2},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 32, "hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "head_dim": 12},
    "dots3_note": {"num_key_value_heads": 4},
    "dots3_note_text": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_head": 12},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "intermediate_size": 64,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
        "altup_num_inputs": 2,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "hunyuan_v1_dense": {"head_dim": 12},
    "hunyuan_v1_moe": {"head_dim": 12, "num_experts": 4, "moe_topk": 2},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"head_dim": 24, "num_heads": 4, "expand": 2},
    "ministral": {"head_dim": 12},
    "nemotron": {"num_key_value_heads": 2},
    "stablelm": {"hidden_size": 64, "head_dim": 16},
    "xmod": {"default_language": "en_XX"},
    "zamba": HYBRID | {"layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zamba2": HYBRID | {"layers_block_type": ["linear_attention", "hybrid"] * 2},
    "qwen3_5": {"text_config": {"num_hidden_layers": 4}},
    "qwen3_5_text": {"num_hidden_layers": 4},
    "qwen3_5_moe": {"text_config": {"num_hidden_layers": 4}},
    "qwen3_5_moe_text": {"num_hidden_layers": 4},
    "qwen3_next": {"num_hidden_layers": 4},
    "qwen4_exp": {"text_config": {"num_hidden_layers": 4} | INDEXED},
    "qwen4_exp_text": {"num_hidden_layers": 4} | INDEXED,
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
    "inkling2_text": {"unpadded_vocab_size": VOCABULARY},
    "inkling2_loop_text": {"unpadded_vocab_size": VOCABULARY},
    "zaya": {"num_experts_per_tok": 1},
}


def shrunk(defaults: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config that rules make small."""
    found: dict[str, Any] = {}
    for name, value in defaults.items():
        if isinstance(value, dict) and "model_type" in value:
            found[name] = shrunk(value)
        elif name in _SPECIAL:
            found[name] = _SPECIAL[name]
        elif name in _VALUES and value is not None and not isinstance(value, bool | list | dict | str):
            found[name] = _VALUES[name]
    if "qk_rope_head_dim" in found:
        # latent attention: a head of each kind, and the rotated part of it is what a head is elsewhere
        found |= {"num_key_value_heads": 4} | ({"head_dim": 4} if "head_dim" in defaults else {})
    return found


def families() -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def small_config(family: str) -> Any:
    from transformers import AutoConfig

    defaults = AutoConfig.for_model(family).to_dict()
    fields = shrunk(defaults)
    for name, value in OWN.get(family, {}).items():
        fields[name] = fields.get(name, {}) | value if isinstance(value, dict) else value
    return AutoConfig.for_model(family, **fields)


def build(family: str, folder: Path) -> None:
    """Write a model of the family, norms and biases off their first values, as in trained models."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(small_config(family))
    with torch.no_grad():
        for name, one in model.named_parameters():
            if one.dim() == 1 and not name.endswith(("A_log", "dt_bias", "D")):
                one.add_(0.05 * torch.randn(one.shape))
    model.save_pretrained(folder)


@dataclass(slots=True)
class Row:
    """What was found of a family.

    Attributes:
        family: name of its config in transformers.
        refused: why it is not loaded; empty where it is.
        names: last parts of the names of the weights that count, by ``--params``.
        shares: share of the weights that they are.
        errors: largest error of a dot, in units of the dots' standard deviation; a refusal in words.
        experts: whether it has any.
        own: error of float32 autograd itself, where a dot's is not below 1e-5.
        unseen: last parts of the names of layers whose products are of a form that is not known.
    """

    family: str
    refused: str = ""
    names: dict[str, list[str]] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float | str] = field(default_factory=dict)
    experts: bool = False
    unseen: dict[str, list[str]] = field(default_factory=dict)
    own: dict[str, float] = field(default_factory=dict)


PARAMS = ("qkv", "all-linear", "lora")


def measure(family: str, folder: Path) -> Row:
    """Dots of a small model of the family against float64 autograd, for each set of weights."""
    row = Row(family)
    source = find_model(folder)
    try:
        network = load_causal_lm(source)
    except DiqError as error:
        row.refused = error.message
        return row
    row.experts = has_experts(network)
    for params in PARAMS:
        try:
            if params == "lora":
                network = adapted(network)
            chosen = linear_weights(network, params)
            found = reach(network, chosen)
            weights = found.weights
            row.names[params] = sorted({re.sub(r"\.\d+", "", name).rsplit(".", 1)[-1] for name in weights})
            if found.unseen:
                row.unseen[params] = sorted({name.rsplit(".", 1)[-1] for name in found.unseen})
            if params != "lora":
                unreached = {name: chosen[name] for name in found.unreached}
                counted = coverage(network, weights, params, unreached=unreached)
                row.shares[params] = counted.covered / counted.total
            row.errors[params], own = _error(network, weights)
            if own is not None:
                row.own[params] = own
        except DiqError as error:
            row.errors[params] = error.message
    return row


def adapted(network: Any) -> Any:
    """The model with an adapter on its attention, else on all its linear layers, away from its first values."""
    try:
        weights = adapted_weights(network, "qkv")
    except ModelError:
        weights = adapted_weights(network, "all-linear")
    network = put_adapter(network, weights, rank=2, alpha=4, dropout=0.0).eval()
    with torch.no_grad():
        for name, one in network.named_parameters():
            if "lora_B" in name:
                one.normal_(std=0.1)
    return network


def random_tokens(n: int, seed: int) -> list[Tokens]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 24, n)
    return [Tokens(rng.integers(3, VOCABULARY, k).astype(np.int32), int(rng.integers(1, k))) for k in lengths]


def _error(network: Any, weights: dict[str, Weight]) -> tuple[float, float | None]:
    """Largest error of a dot in standard deviations; and that of float32 autograd itself, where it is not below 1e-5.

    Some families compute in float32 whatever their weights are, so that there is no better oracle.
    """
    pool, validation = random_tokens(10, 1), random_tokens(3, 2)
    plain_experts(network)
    network.requires_grad_(False)
    mean = mean_gradient(network, weights, [collate(validation)])
    dots = Dots(weights, [ValidationGradient((mean,), (len(validation),))])
    found = torch.cat([score_batch(network, weights, collate(pool[at : at + 5]), [dots]).values[0] for at in (0, 5)])
    try:
        network.double()
        expected = _dots(network, weights, pool, validation)
    except RuntimeError:
        # no float64 at all
        expected = None
    finally:
        network.float()
    if expected is None:
        expected = _dots(network, weights, pool, validation)
    error = float((found[:, 0] - expected).abs().max() / expected.std())
    if error < 1e-5:
        return error, None
    plain = _dots(network, weights, pool, validation)
    return error, float((plain - expected).abs().max() / expected.std())


def _dots(network: Any, weights: dict[str, Weight], pool: list[Tokens], validation: list[Tokens]) -> torch.Tensor:
    gradients = [_gradient(network, weights, one) for one in (*validation, *pool)]
    v = torch.stack(gradients[: len(validation)]).mean(dim=0)
    return torch.stack(gradients[len(validation) :]) @ v


def _gradient(network: Any, weights: dict[str, Weight], sample: Tokens) -> torch.Tensor:
    parameters = [one.parameter.requires_grad_(True) for one in weights.values()]
    ids = torch.from_numpy(sample.ids.astype(np.int64))[None]
    logits = network(input_ids=ids, use_cache=False).logits[0, sample.answer_start - 1 : -1]
    loss = torch.nn.functional.cross_entropy(logits, ids[0, sample.answer_start :])
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    for one in parameters:
        one.requires_grad_(False)
    return torch.cat(
        [torch.zeros(one.numel()) if g is None else g.flatten() for one, g in zip(parameters, found, strict=True)]
    ).double()


# the table of docs/families.md ---------------------------------------------------------------------------------------


def train(family: str, folder: Path) -> str:
    """Whether a step on an adapter changes it and the saved adapter does the same on the model in plain PEFT."""
    from peft import PeftModel

    network = load_causal_lm(find_model(folder))
    kind = getattr(transformers, network.config.architectures[0])
    try:
        network = adapted(network)
    except DiqError as error:
        return error.message
    trained = [one for name, one in network.named_parameters() if "lora_" in name]
    for one in trained:
        one.requires_grad_(True)
    ids = torch.arange(20)[None] + 3
    logits = network(input_ids=ids, use_cache=False).logits[0, :-1]
    torch.nn.functional.cross_entropy(logits, ids[0, 1:]).backward()
    if not any(one.grad is not None and one.grad.any() for one in trained):
        return "no gradient"
    torch.optim.SGD(trained, lr=0.1).step()
    network.save_pretrained(folder / "adapter")
    with torch.no_grad():
        expected = network(input_ids=ids, use_cache=False).logits
        plain = kind.from_pretrained(folder)
        again = PeftModel.from_pretrained(plain, folder / "adapter").eval()(input_ids=ids, use_cache=False).logits
    return "" if torch.allclose(again, expected, atol=1e-5) else "another model after loading"


def page() -> str:
    """The table, measured."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for family in families():
            if family in APART:
                lines.append(f"| {family} | | | | | not tried: {APART[family]} |")
                continue
            path = Path(folder) / family
            build(family, path)
            row = measure(family, path)
            if row.refused:
                reason = row.refused.replace(f"`{path}`", "").strip().partition(" ")[2]
                lines.append(f"| {family} | | | | | refused: {reason} |")
                continue
            problem = train(family, path)
            remarks = [f"no form known of {', '.join(one)}" for one in row.unseen.values()]
            remarks += ["experts"] if row.experts else []
            remarks += ["float32 autograd itself is no better"] if row.own else []
            remarks += [problem] if problem and problem != row.errors["lora"] else []
            cells = [_cell(row, params) for params in PARAMS]
            lines.append(f"| {family} | {' | '.join(cells)} | {'no' if problem else 'yes'} | {'; '.join(remarks)} |")
    return _PAGE.format(version=transformers.__version__, rows="\n".join(lines))


def _cell(row: Row, params: str) -> str:
    error = row.errors[params]
    if isinstance(error, str):
        return "none" if params == "qkv" else "no"
    share = f", {100 * row.shares[params]:.0f} %" if params in row.shares else ""
    names = f"{' '.join(row.names[params])}: " if params == "qkv" else ""
    return f"{names}{error:.0e}{share}"


_PAGE = """# Families of decoders

<!-- written by `python tests/models/zoo.py > docs/families.md` -->

Every model type in the table of causal language models of transformers {version}, built small (48 wide, two layers or
as many as its kinds of layers need, random weights), saved, loaded as `--model` is, and held against float64 autograd,
one sample at a time. A number is the largest error of a dot among ten samples, in units of the dots' standard
deviation, in float32; the percentage is the share of the language part's weights, without embeddings and head. `qkv`
names what `--params qkv` means in the family. LoRA: dots of an adapter on the attention (on all linear layers where
there is none). Train: a step on that adapter, saved and loaded again with plain PEFT, gives the same logits.
Vision-language models are in [method.md](method.md#which-models-and-which-of-their-weights); the same code runs as a
test (`tests/models/test_zoo.py`).

| family | qkv | all-linear | LoRA | train | remarks |
| --- | --- | --- | --- | --- | --- |
{rows}
"""

if __name__ == "__main__":
    print(page(), end="")
