"""Sizes of models, from a config or from a table of known ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diq.base.errors import ModelError
from diq.base.files import read_json
from diq.base.text import did_you_mean, first_line
from diq.costs.options import QKV, Params


@dataclass(frozen=True, slots=True)
class Size:
    """Shapes of a transformer.

    Attributes:
        name: of the model.
        source: where the shapes are from, for people.
        layers: L.
        hidden: H.
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: of a head.
        intermediate: width of the MLP.
        vocabulary: rows of the embedding and of the language-model head.
        gated: whether the MLP has a gate beside its way up.
        tied: whether head and embedding are one matrix.
        decoder: a causal language model with a head; else an encoder, whose small head is left out.
        context: tokens that it takes; None when the config does not say.
    """

    name: str
    source: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    gated: bool
    tied: bool
    decoder: bool = True
    context: int | None = None

    def matrices(self) -> dict[str, tuple[int, int]]:
        """``(out, in)`` of each linear layer of one transformer layer; fused ones are counted as their parts."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        found = {
            "q": (q, self.hidden),
            "k": (kv, self.hidden),
            "v": (kv, self.hidden),
            "o": (self.hidden, q),
            "up": (self.intermediate, self.hidden),
            "down": (self.hidden, self.intermediate),
        }
        return found | ({"gate": (self.intermediate, self.hidden)} if self.gated else {})

    @property
    def layer_weights(self) -> int:
        """Weights of the linear layers of all transformer layers."""
        return self.layers * sum(out * into for out, into in self.matrices().values())

    @property
    def head_weights(self) -> int:
        """Weights of the language-model head; 0 for an encoder."""
        return self.vocabulary * self.hidden if self.decoder else 0

    @property
    def n_parameters(self) -> int:
        """Weights of linear layers, head and embedding; norms and biases are left out."""
        embedding = 0 if self.tied and self.decoder else self.vocabulary * self.hidden
        return self.layer_weights + self.head_weights + embedding

    def chosen(self, params: Params) -> list[tuple[int, int]]:
        """``(out, in)`` of every matrix that ``params`` names, all layers.

        ``full`` is every matrix of the layers and the head.
        """
        names = QKV if params == "qkv" else tuple(self.matrices())
        found = [shape for name, shape in self.matrices().items() if name in names] * self.layers
        return [*found, (self.vocabulary, self.hidden)] if params == "full" and self.decoder else found


# config.json's model_type to whether its MLP has a gate
_DECODERS = {
    "llama": True, "mistral": True, "qwen2": True, "qwen3": True, "gemma": True, "gemma2": True, "gemma3_text": True,
    "phi3": True, "granite": True, "smollm3": True, "phi": False, "gpt2": False,
}  # fmt: skip
_ENCODERS = {"bert": False, "roberta": False, "xlm-roberta": False, "modernbert": True}
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")

# published shapes of the paper's models, so that a plan needs no network
_KNOWN = {
    one.name: one
    for one in (
        Size("meta-llama/Llama-3.1-8B-Instruct", "", 32, 4096, 32, 8, 128, 14336, 128256, True, False, context=131072),
        Size("Qwen/Qwen3-8B", "", 36, 4096, 32, 8, 128, 12288, 151936, True, False, context=40960),
        Size("Qwen/Qwen3-14B", "", 40, 5120, 40, 8, 128, 17408, 151936, True, False, context=40960),
        Size("Qwen/Qwen3-32B", "", 64, 5120, 64, 8, 128, 25600, 151936, True, False, context=40960),
    )
}
BIOMEDBERT = Size(
    "BiomedBERT", "published sizes", 12, 768, 12, 12, 64, 3072, 30522, False, True, decoder=False, context=512
)
MODERNBERT = Size(
    "ModernBERT-base", "published sizes", 22, 768, 12, 12, 64, 1152, 50368, True, True, decoder=False, context=8192
)


def find_size(source: str) -> Size:
    """Shapes of a model: a folder, one of the paper's models, or a hub id, of which only ``config.json`` is fetched.

    Args:
        source: folder with ``config.json``, name (``qwen3-8b``) or hub id (``Qwen/Qwen3-8B``, ``owner/name@revision``).

    Raises:
        ModelError: there is none, or its architecture is not one that is counted here.
    """
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"`{source}` has no config.json", "give a model folder; an adapter has its base model's size"
            )
        return read_size(folder / "config.json", name=folder.resolve().name)
    wanted = source.casefold()
    for name, size in _KNOWN.items():
        if wanted in (name.casefold(), name.split("/")[1].casefold(), _short(name)):
            return replace(size, source="published sizes")
    if folder.exists() or source.startswith((".", "/", "~")) or source.count("/") != 1:
        known = [_short(name) for name in _KNOWN]
        raise ModelError(
            f"there is no model folder `{source}`",
            did_you_mean(wanted, known) + "; or give a folder with config.json, or a hub id such as Qwen/Qwen3-8B",
        )
    return read_size(_fetch_config(source), name=source)


def _short(name: str) -> str:
    """``meta-llama/Llama-3.1-8B-Instruct`` as ``llama-3.1-8b``."""
    return name.split("/")[1].casefold().removesuffix("-instruct")


def _fetch_config(source: str) -> Path:
    hub_id, _, revision = source.partition("@")
    # the hub client is only needed for hub ids
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ModuleNotFoundError as error:
        raise ModelError(
            f"`{source}` is no folder, and a hub id needs the package `huggingface_hub`", "run `pip install 'diq[hub]'`"
        ) from error
    try:
        return Path(hf_hub_download(hub_id, "config.json", revision=revision or None))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"the config.json of `{hub_id}` could not be fetched: {first_line(error)}",
            f"check the name, the network and HF_TOKEN, give a folder, or one of {', '.join(map(_short, _KNOWN))}",
        ) from error


def read_size(path: Path, *, name: str) -> Size:
    """Shapes in a ``config.json`` of transformers.

    Raises:
        ModelError: it is damaged, of an architecture that is not counted here, or a size is missing.
    """
    try:
        config: Any = read_json(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"`{path}` cannot be read: {first_line(error)}", "is it transformers' config.json?") from error
    if not isinstance(config, dict):
        raise ModelError(f"`{path}` is no JSON object", "is it transformers' config.json?")
    # models that also see images keep the language model's sizes apart
    inner = config.get("text_config", config)
    config = inner if isinstance(inner, dict) else config
    kind = config.get("model_type")
    if any((config.get(key) or 0) > 1 for key in _EXPERTS):
        raise ModelError(
            f"`{name}` is a mixture of experts ({kind}), which is not counted here", "name a dense model of that size"
        )
    gated = _DECODERS.get(kind, _ENCODERS.get(kind))
    if gated is None:
        raise ModelError(
            f"the architecture `{kind}` of `{name}` is not counted here",
            f"known: {', '.join([*_DECODERS, *_ENCODERS])}",
        )

    def read(*keys: str, default: int | None = None) -> int:
        for key in keys:
            if config.get(key) is not None:
                if not isinstance(config[key], int) or isinstance(config[key], bool) or config[key] < 1:
                    raise ModelError(
                        f"`{key}` of `{name}` is {config[key]!r}, not a positive number", "mend config.json"
                    )
                return int(config[key])
        if default is None:
            raise ModelError(f"the config.json of `{name}` has no `{keys[0]}`", "is it complete?")
        return default

    hidden, heads = read("hidden_size", "n_embd"), read("num_attention_heads", "n_head")
    # gemma's heads are wider than hidden / heads, and an old config may leave that to the class
    head_dim = read("head_dim", default=256 if kind == "gemma" else hidden // heads)
    context = config.get("max_position_embeddings") or config.get("n_positions")
    return Size(
        name=name,
        source="config.json",
        layers=read("num_hidden_layers", "n_layer"),
        hidden=hidden,
        heads=heads,
        kv_heads=read("num_key_value_heads", default=heads),
        head_dim=head_dim,
        intermediate=read("intermediate_size", "n_inner", default=4 * hidden if kind == "gpt2" else None),
        vocabulary=read("vocab_size"),
        gated=gated,
        tied=bool(config.get("tie_word_embeddings", kind in ("gpt2", "gemma", "gemma2", "gemma3_text"))),
        decoder=kind in _DECODERS,
        context=int(context) if context else None,
    )
