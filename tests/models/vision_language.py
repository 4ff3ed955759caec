"""Small vision-language models of every shape that transformers gives them, built on the spot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

WORDS = 400
TEXT: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# rotary positions of time, height and width
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
QWEN_TOWER: dict[str, Any] = {"depth": 1, "num_heads": 2, "patch_size": 8, "spatial_merge_size": 2}
QWEN_TOKENS = {"image_token_id": 390, "video_token_id": 391, "vision_start_token_id": 392, "vision_end_token_id": 393}


def _text(kind: str | None = None, **more: Any) -> dict[str, Any]:
    return ({"model_type": kind} if kind else {}) | TEXT | more


CONFIGS: dict[str, Callable[[], dict[str, Any]]] = {
    "qwen2_vl": lambda: {
        "text_config": _text(rope_parameters=MROPE),
        "vision_config": QWEN_TOWER | {"embed_dim": 32, "hidden_size": 32},
        **QWEN_TOKENS,
    },
    "qwen2_5_vl": lambda: {
        "text_config": _text(rope_parameters=MROPE),
        "vision_config": QWEN_TOWER
        | {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48, "fullatt_block_indexes": [0]},
        **QWEN_TOKENS,
    },
    "qwen3_vl": lambda: {
        "text_config": _text(head_dim=8, rope_parameters=MROPE),
        "vision_config": QWEN_TOWER
        | {
            "hidden_size": 32,
            "out_hidden_size": 32,
            "intermediate_size": 48,
            "deepstack_visual_indexes": [0],
            "num_position_embeddings": 16,
        },
        **QWEN_TOKENS,
    },
    "qwen3_5": lambda: {
        "text_config": _text(
            head_dim=16,
            num_hidden_layers=4,
            linear_num_value_heads=4,
            linear_num_key_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
        ),
        "vision_config": QWEN_TOWER
        | {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48, "num_position_embeddings": 16},
        **QWEN_TOKENS,
    },
    "llava": lambda: {
        "text_config": _text("llama"),
        "vision_config": TOWER | {"model_type": "clip_vision_model", "num_hidden_layers": 2},
        "image_token_index": 390,
    },
    "llava_next": lambda: {
        "text_config": _text("mistral"),
        "vision_config": TOWER | {"model_type": "clip_vision_model", "num_hidden_layers": 2},
        "image_token_index": 390,
    },
    "internvl": lambda: {
        "text_config": _text("qwen2"),
        "vision_config": TOWER | {"image_size": [16, 16], "patch_size": [8, 8]},
        "image_token_id": 390,
    },
    "gemma3": lambda: {
        "text_config": _text(head_dim=8, query_pre_attn_scalar=8, sliding_window=16),
        "vision_config": TOWER,
        "mm_tokens_per_image": 4,
        "image_token_index": 390,
        "boi_token_index": 391,
        "eoi_token_index": 392,
    },
    "idefics3": lambda: {
        "text_config": _text("llama"),
        "vision_config": TOWER,
        "image_token_id": 390,
        "scale_factor": 2,
    },
    "smolvlm": lambda: {
        "text_config": _text("llama"),
        "vision_config": TOWER,
        "image_token_id": 390,
        "scale_factor": 2,
    },
    "mllama": lambda: {
        # the layer in the middle looks at images alone
        "text_config": _text(
            num_hidden_layers=3,
            cross_attention_layers=[1],
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        ),
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_global_layers": 1,
            "attention_heads": 2,
            "image_size": 16,
            "patch_size": 8,
            "vision_output_dim": 64,
            "intermediate_layers_indices": [0],
            "supported_aspect_ratios": [[1, 1]],
            "max_num_tiles": 1,
        },
        "image_token_index": 390,
    },
    "mistral3": lambda: {
        "text_config": _text("mistral", head_dim=8),
        "vision_config": TOWER | {"model_type": "pixtral"},
        "image_token_index": 390,
    },
    "llama4": lambda: {
        "text_config": _text(
            head_dim=8,
            intermediate_size_mlp=48,
            num_local_experts=2,
            num_experts_per_tok=1,
            interleave_moe_layer_step=2,
        ),
        "vision_config": TOWER
        | {
            "intermediate_size": 128,
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
            "pixel_shuffle_ratio": 0.5,
        },
        "image_token_index": 390,
    },
}


def build(family: str, *, seed: int = 3) -> Any:
    """A model of a family, with random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    torch.manual_seed(seed)
    return AutoModelForImageTextToText.from_config(AutoConfig.for_model(family, **CONFIGS[family]()))
