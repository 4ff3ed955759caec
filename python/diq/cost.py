"""What selecting and training cost: the paper's formulas (Eq. 7 to 9), and a count of every matrix product beside them.

A FLOP is one multiplication or one addition, so a weight costs two a token. Counted are the linear layers, attention
and the language-model head: forward, backward to the activations, and gradients of weights only where something is
trained or recorded. Not counted: norms, activation functions, softmax, embeddings, optimizer steps; together below one
percent for the models that are meant. Times come from ``diq.probe``, never from these counts.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from diq.config import MAX_LENGTH
from diq.errors import ModelError, UsageError
from diq.records import Ratio, did_you_mean, first_line
from diq.store import Store

log = logging.getLogger(__name__)

Params = Literal["qkv", "all-linear", "full"]
PARAMS: tuple[Params, ...] = ("qkv", "all-linear", "full")
FOLDS = 2  # parts of each validation set that `diq score influence` computes a dot with
CHARACTERS_PER_TOKEN = 4.0
_QKV = ("q", "k", "v")
_ENCODER_CONTEXT = 512


# the paper's formulas ------------------------------------------------------------------------------------------------


def paper_training(*, layers: int, hidden: int, tokens: float, samples: float, epochs: float) -> float:
    """FLOPs of full fine-tuning by Eq. 7: ``6 L H^2 T |D| E``.

    Args:
        layers: L.
        hidden: H.
        tokens: T, of a sample.
        samples: |D|.
        epochs: E.

    Source: arXiv 2508.01450, appendix F.
    """
    return 6 * layers * hidden**2 * tokens * samples * epochs


def paper_inference(*, layers: int, hidden: int, tokens: float, samples: float) -> float:
    """FLOPs of inference by Eq. 8: ``2 L H^2 T |D|``; arguments as for Eq. 7."""
    return 2 * layers * hidden**2 * tokens * samples


def paper_lora(
    *, layers: int, hidden: int, tokens: float, samples: float, epochs: float, matrices: int = 3, rank: int = 8
) -> float:
    """FLOPs of LoRA fine-tuning by Eq. 9: ``12 k L H r T |D| E``.

    This is what the adapters' own matrices cost (six times their weights), without the frozen model that they sit in.

    Args:
        layers: L.
        hidden: H.
        tokens: T, of a sample.
        samples: |D|.
        epochs: E.
        matrices: k, adapted matrices a layer.
        rank: r.
    """
    return 12 * matrices * layers * hidden * rank * tokens * samples * epochs


# sizes of models -----------------------------------------------------------------------------------------------------


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
        names = _QKV if params == "qkv" else tuple(self.matrices())
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
    folder = Path(source).expanduser()
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
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"`{path}` cannot be read: {first_line(error)}", "is it transformers' config.json?") from error
    if not isinstance(config, dict):
        raise ModelError(f"`{path}` is no JSON object", "is it transformers' config.json?")
    # models that also see images keep the language model's sizes apart
    config = config.get("text_config", config)
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


# lengths of samples --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lengths:
    """How much text there is; sums over the samples, as everything but attention is linear in the tokens.

    Attributes:
        n: samples (preference pairs count once).
        tokens: tokens.
        squares: sum of the squared tokens of each sequence, for attention.
        answers: answer tokens, which the loss of scoring looks at.
        prompts: tokens before the answers.
        source: where the numbers are from, for people.
    """

    n: float
    tokens: float
    squares: float
    answers: float
    prompts: float
    source: str

    @classmethod
    def same(cls, n: float, tokens: float, source: str = "as given") -> Lengths:
        """``n`` samples of one length; the loss is taken to look at every token."""
        return cls(n, n * tokens, n * tokens**2, n * tokens, n * tokens, source)

    def scaled(self, share: float) -> Lengths:
        """A random share of the samples."""
        return Lengths(
            self.n * share,
            self.tokens * share,
            self.squares * share,
            self.answers * share,
            self.prompts * share,
            self.source,
        )

    def every_token(self) -> Lengths:
        """The same with a loss that looks at every token, as a trainer's head does."""
        return replace(self, answers=self.tokens)

    @property
    def mean(self) -> float:
        """Tokens a sample."""
        return self.tokens / self.n if self.n else 0.0


def read_lengths(
    store: Path, dataset: str, *, model: str, max_length: int, characters_per_token: float | None = None
) -> Lengths:
    """Lengths of a dataset of the store.

    Characters are turned into tokens by the ratio that is given, else by that of the answers that an influence run of
    the model counted, else four to a token (the log says which).

    Args:
        store: the store file.
        dataset: its name.
        model: name of the model in the store.
        max_length: tokens after which a sample is cut.
        characters_per_token: measured elsewhere, as by a probe.

    Raises:
        UsageError: no dataset of that name, or an empty one.
    """
    with Store(store, read_only=True) as opened:
        data = opened.dataset(dataset)
        ratio, source = characters_per_token, "characters and the ratio that the probe measured"
        if ratio is None:
            counted = opened.row("characters_per_token", dataset_id=data["dataset_id"], model=model)
            if counted is not None and counted["ratio"]:
                ratio = float(counted["ratio"])
                source = f"characters, {ratio:.2f} a token as run {counted['run_id']} counted {counted['n']:,} answers"
            else:
                ratio, source = CHARACTERS_PER_TOKEN, f"characters, {CHARACTERS_PER_TOKEN:g} a token: an estimate"
        row = opened.row(
            "lengths_of_dataset", dataset_id=data["dataset_id"], characters_per_token=ratio, max_length=max_length
        )
    assert row is not None
    if not row["n"]:
        raise UsageError(f"the dataset `{dataset}` has no samples", "see `diq sql 'from rejects'`")
    return Lengths(row["n"], row["tokens"], row["squares"], row["answers"], row["prompts"], source)


def read_file_lengths(path: str, *, max_length: int, characters_per_token: float | None = None) -> Lengths:
    """Lengths of the samples of a file, as :func:`read_lengths`; rows that cannot be read are left out.

    Raises:
        UsageError: a missing or unknown file.
        InputError: no row is a sample.
    """
    # reading files costs start-up time, and a plan from numbers needs none
    from diq.formats import Parsed, open_source

    ratio = characters_per_token or CHARACTERS_PER_TOKEN
    n, tokens, squares, answers, prompts = 0, 0.0, 0.0, 0.0, 0.0
    n_bad = 0
    for one in open_source(path):
        if not isinstance(one, Parsed):
            n_bad += 1
            continue
        n += 1
        before = sum(_characters(message) for message in one.sample.messages[:-1])
        ends = [one.sample.messages[-1], *([one.sample.rejected[-1]] if one.sample.rejected else [])]
        for end in ends:
            length = min((before + _characters(end)) / ratio, max_length)
            prompt = min(before / ratio, max_length)
            tokens, squares, prompts = tokens + length, squares + length**2, prompts + prompt
            answers += length - prompt
    if n_bad:
        log.warning("%d rows of `%s` cannot be read and are left out", n_bad, path)
    how = "the ratio that the probe measured" if characters_per_token else f"{ratio:g} a token: an estimate"
    return Lengths(n, tokens, squares, answers, prompts, f"characters, {how}")


def _characters(message: Mapping[str, str]) -> int:
    return len(message["content"]) + len(message.get("reasoning_content", ""))


# the honest count ----------------------------------------------------------------------------------------------------


def attention_flops(size: Size, lengths: Lengths) -> float:
    """Forward FLOPs of the products of queries with keys and of weights with values.

    A causal model is counted over the pairs that its mask leaves, ``T (T + 1) / 2`` of a sequence; a kernel that
    computes all pairs does nearly twice as much. Sliding windows are not looked at.
    """
    pairs = (lengths.squares + lengths.tokens) / 2 if size.decoder else lengths.squares
    return 4 * size.layers * size.heads * size.head_dim * pairs


def forward_flops(size: Size, lengths: Lengths) -> float:
    """One forward pass, with the language-model head on the ``answers`` of ``lengths``."""
    linear = 2 * size.layer_weights * lengths.tokens + 2 * size.head_weights * lengths.answers
    return linear + attention_flops(size, lengths)


def backward_flops(size: Size, lengths: Lengths) -> float:
    """The way back to the activations alone: no gradient of a weight.

    As much as forward for the linear layers, twice as much for attention. The lowest layer's first products are counted
    too, though nothing below them needs a gradient.
    """
    return forward_flops(size, lengths) + attention_flops(size, lengths)


def weights(shapes: Iterable[tuple[int, int]]) -> int:
    """Weights of some matrices."""
    return sum(out * into for out, into in shapes)


def exact_flops(
    size: Size, lengths: Lengths, validation: Lengths, *, params: Params = "qkv", sets: int = 1, folds: int = FOLDS
) -> float:
    """Exact dots: forward, backward to the activations, and ``<delta_t, V x_t>`` with each fold of each validation set.

    The validation gradients themselves come on top: forward, backward and the chosen weights' gradients.
    """
    shapes = size.chosen(params)
    dots = sets * folds * 2 * (weights(shapes) + sum(out for out, _ in shapes)) * lengths.tokens
    return (
        forward_flops(size, lengths)
        + backward_flops(size, lengths)
        + dots
        + _validation_flops(size, validation, params)
    )


def _validation_flops(size: Size, validation: Lengths, params: Params) -> float:
    gradients = 2 * weights(size.chosen(params)) * validation.tokens
    return forward_flops(size, validation) + backward_flops(size, validation) + gradients


def projected_flops(
    size: Size,
    lengths: Lengths,
    validation: Lengths,
    *,
    params: Params = "qkv",
    kind: Literal["sparse", "rademacher"] = "sparse",
    dim: int = 65536,
) -> float:
    """Projected gradients: forward, backward, each sample's gradient of the chosen weights, and its projection.

    ``sparse`` adds every entry of a gradient to one of ``dim`` columns; ``rademacher`` multiplies it by all of them.
    """
    chosen = weights(size.chosen(params))
    gradients = 2 * chosen * lengths.tokens
    projection = (2 if kind == "sparse" else 2 * dim) * chosen * lengths.n
    passes = forward_flops(size, lengths) + backward_flops(size, lengths)
    return passes + gradients + projection + _validation_flops(size, validation, params)


def adapter_weights(size: Size, *, params: Params, rank: int) -> int:
    """Weights of the LoRA matrices A and B of the chosen matrices."""
    return sum(rank * (out + into) for out, into in size.chosen(params))


def training_flops(
    size: Size,
    lengths: Lengths,
    *,
    epochs: float,
    params: Params = "qkv",
    rank: int = 8,
    checkpointing: bool = False,
) -> float:
    """Supervised fine-tuning: a LoRA adapter, or all weights with ``full``.

    LoRA: forward and backward through the frozen model, and six times the adapter's weights a token. All weights: six
    times the weights. Gradient checkpointing computes every layer once more. A trainer's head looks at every token.
    """
    seen = lengths.every_token()
    step = forward_flops(size, seen) + backward_flops(size, seen)
    again = forward_flops(size, replace(seen, answers=0.0))
    if params == "full":
        step += 2 * weights(size.chosen(params)) * seen.tokens
    else:
        adapter = 2 * adapter_weights(size, params=params, rank=rank) * seen.tokens
        step, again = step + 3 * adapter, again + adapter
    return epochs * (step + (again if checkpointing else 0.0))


def preference_flops(
    size: Size,
    lengths: Lengths,
    *,
    epochs: float,
    params: Params = "qkv",
    rank: int = 8,
    checkpointing: bool = False,
) -> float:
    """DPO: a training step over both answers of each pair, and a forward pass of the reference over both.

    Args:
        size: of the model, which is also the reference.
        lengths: of both sequences of every pair.
        epochs: passes; the reference is computed in each.
        params: which matrices are trained.
        rank: of LoRA.
        checkpointing: whether layers are computed again on the way back.
    """
    training = training_flops(size, lengths, epochs=epochs, params=params, rank=rank, checkpointing=checkpointing)
    return training + epochs * forward_flops(size, lengths.every_token())


def encoder_flops(size: Size, n: float, tokens: float) -> float:
    """Forward passes of an encoder over ``n`` texts of ``tokens`` each, cut to its context."""
    return forward_flops(size, _in_context(size, n, tokens))


def _in_context(size: Size, n: float, tokens: float) -> Lengths:
    return Lengths.same(n, min(tokens, size.context or _ENCODER_CONTEXT))


# the account ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    Attributes:
        size: the language model.
        lengths: of the dataset.
        validation: of all validation samples together.
        sets: validation sets.
        ratios: ratios that are to be trained on.
        epochs: of training.
        params: which matrices influence looks at and training adapts.
        rank: of LoRA.
        method: sft or dpo.
        checkpointing: gradient checkpointing in training.
        difficulty: encoder of the difficulty classifier.
        rater: encoder of the influence rater.
        questions: number and tokens (prompt and output) of the questions of an evaluation; None leaves it out.
    """

    size: Size
    lengths: Lengths
    validation: Lengths
    sets: int = 1
    ratios: tuple[Ratio, ...] = ()
    epochs: float = 3.0
    params: Params = "qkv"
    rank: int = 8
    method: Literal["sft", "dpo"] = "sft"
    checkpointing: bool = False
    difficulty: Size = BIOMEDBERT
    rater: Size = MODERNBERT
    questions: Lengths | None = None

    @property
    def scored(self) -> Params:
        """The matrices that influence looks at: training all weights leaves it at q, k and v."""
        return "qkv" if self.params == "full" else self.params


@dataclass(slots=True)
class Step:
    """A line of the account.

    Attributes:
        name: what is done.
        rate: which measured rate tells its time: exact, projected, encoder or training; None: no rate does.
        samples: that it reads, epochs apart.
        tokens: that it reads, epochs included.
        paper: FLOPs by the paper's formulas; None where it prints none.
        flops: counted FLOPs.
        of_full_training: ``flops`` over those of training on everything.
        hours: predicted, ``(middle, least, most)``; None without a probe.
    """

    name: str
    rate: str | None
    samples: float
    tokens: float
    paper: float | None
    flops: float
    of_full_training: float = 0.0
    hours: tuple[float, float, float] | None = None


@dataclass(slots=True)
class Account:
    """The cost of a plan.

    Attributes:
        plan: what is to be done.
        steps: a line each.
        notes: what a reader must know, a line each.
    """

    plan: Plan
    steps: list[Step]
    notes: list[str] = field(default_factory=list)

    def step(self, name: str) -> Step:
        """The line of that name."""
        return next(one for one in self.steps if one.name == name)

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


FULL = "train on everything"


def account(plan: Plan) -> Account:
    """Count every step of a plan, by the paper's formulas and in full."""
    size, lengths = plan.size, plan.lengths
    steps = [
        _encoder_step("score difficulty", plan.difficulty, lengths.n, lengths.prompts / max(lengths.n, 1)),
        Step(
            "score influence, exact",
            "exact",
            lengths.n,
            lengths.tokens,
            None,
            exact_flops(size, lengths, plan.validation, params=plan.scored, sets=plan.sets),
        ),
        Step(
            "score influence, projected",
            "projected",
            lengths.n,
            lengths.tokens,
            None,
            projected_flops(size, lengths, plan.validation, params=plan.scored),
        ),
        _encoder_step("score influence, rater", plan.rater, lengths.n, lengths.mean),
        _forward_step("score perplexity", size, lengths),
        Step("select", None, lengths.n, 0.0, 0.0, 0.0),
    ]
    for ratio in plan.ratios:
        share = ratio.of(int(lengths.n)) / lengths.n
        steps.append(_training_step(f"train on {100 * float(ratio.text):g} %", plan, lengths.scaled(share)))
    full = _training_step(FULL, plan, lengths)
    steps.append(full)
    if plan.questions is not None:
        steps.append(_forward_step("evaluate", size, plan.questions))
    for step in steps:
        step.of_full_training = step.flops / full.flops if full.flops else 0.0
    return Account(plan, steps, _notes(plan, full))


def _paper_forward(size: Size, lengths: Lengths) -> float:
    return paper_inference(layers=size.layers, hidden=size.hidden, tokens=lengths.mean, samples=lengths.n)


def _forward_step(name: str, size: Size, lengths: Lengths) -> Step:
    return Step(name, None, lengths.n, lengths.tokens, _paper_forward(size, lengths), forward_flops(size, lengths))


def _encoder_step(name: str, size: Size, n: float, tokens: float) -> Step:
    seen = _in_context(size, n, tokens)
    return Step(name, "encoder", n, seen.tokens, _paper_forward(size, seen), forward_flops(size, seen))


def _training_step(name: str, plan: Plan, lengths: Lengths) -> Step:
    size, tokens = plan.size, plan.epochs * lengths.tokens
    if plan.method == "dpo":
        flops = preference_flops(
            size, lengths, epochs=plan.epochs, params=plan.params, rank=plan.rank, checkpointing=plan.checkpointing
        )
        # the paper has no formula for it, and the probe takes no step of it
        return Step(name, None, lengths.n, tokens, None, flops)
    facts: dict[str, Any] = {
        "layers": size.layers,
        "hidden": size.hidden,
        "tokens": lengths.mean,
        "samples": lengths.n,
        "epochs": plan.epochs,
    }
    if plan.params == "full":
        paper = paper_training(**facts)
    else:
        paper = paper_lora(**facts, matrices=len(size.chosen(plan.params)) // size.layers, rank=plan.rank)
    flops = training_flops(
        size, lengths, epochs=plan.epochs, params=plan.params, rank=plan.rank, checkpointing=plan.checkpointing
    )
    return Step(name, "training", lengths.n, tokens, paper, flops)


def _notes(plan: Plan, full: Step) -> list[str]:
    notes = [f"lengths: {plan.lengths.mean:,.0f} tokens a sample; {plan.lengths.source}"]
    if full.paper and plan.params != "full":
        notes.append(
            f"the paper's Eq. 9 counts the adapter alone: training computes {full.flops / full.paper:,.0f} times that"
        )
    if plan.lengths.mean > (plan.difficulty.context or _ENCODER_CONTEXT):
        notes.append(f"{plan.difficulty.name} reads {plan.difficulty.context} tokens of a question at most")
    return notes


def predict(found: Account, rates: Mapping[str, tuple[float, float, float]]) -> None:
    """Fill in the hours of the steps that a rate is known for: their tokens over tokens a second.

    Args:
        found: the account.
        rates: ``(middle, least, most)`` tokens a second by ``Step.rate``.
    """
    for step in found.steps:
        if step.rate is not None and step.rate in rates:
            middle, least, most = rates[step.rate]
            step.hours = (step.tokens / middle / 3600, step.tokens / most / 3600, step.tokens / least / 3600)


def run(
    source: str | None = None,
    *,
    model: str,
    store: Path | None = None,
    samples: int | None = None,
    tokens: float | None = None,
    validation_samples: int | None = None,
    validation_sets: int | None = None,
    ratios: Sequence[str] = ("0.01", "0.1"),
    epochs: float = 3.0,
    params: str = "qkv",
    rank: int = 8,
    method: str = "sft",
    checkpointing: bool = False,
    max_length: int = MAX_LENGTH,
    rater: str | None = None,
    questions: int | None = None,
    question_tokens: float = 1024.0,
    characters_per_token: float | None = None,
) -> Account:
    """Count what selecting from a dataset and training on it costs.

    Args:
        source: name of a dataset in the store, or a file; None takes ``samples`` and ``tokens``.
        model: folder, hub id or one of the paper's models.
        store: the store file; only for a dataset's name.
        samples: number of samples, without a source.
        tokens: tokens a sample, without a source.
        validation_samples: of all validation sets together; default those of the store, else 180, the paper's.
        validation_sets: default those of the store, else 1.
        ratios: that are to be trained on.
        epochs: of training.
        params: ``qkv``, ``all-linear`` or ``full`` (training of all weights; influence still looks at q, k and v).
        rank: of LoRA.
        method: ``sft`` or ``dpo``.
        checkpointing: gradient checkpointing in training.
        max_length: tokens after which a sample is cut.
        rater: folder of an encoder, for difficulty and rater; default BiomedBERT and ModernBERT-base.
        questions: of an evaluation; None leaves it out.
        question_tokens: tokens of a question and its output.
        characters_per_token: of the model's tokenizer, if it was measured.

    Raises:
        UsageError: an unknown dataset, a number that makes no sense, or neither a source nor numbers.
        ModelError: the model's sizes cannot be had.
    """
    _check(source, samples, tokens, validation_samples, validation_sets, epochs, params, rank, method, max_length)
    size = find_size(model)
    if size.context is not None and size.context < max_length:
        log.info("samples are cut to the %d tokens that `%s` can take", size.context, size.name)
        max_length = size.context
    if source is None:
        assert samples is not None
        assert tokens is not None
        lengths = Lengths.same(samples, min(tokens, max_length))
    elif Path(source).is_file():
        lengths = read_file_lengths(source, max_length=max_length, characters_per_token=characters_per_token)
    else:
        assert store is not None
        lengths = read_lengths(
            store, source, model=size.name, max_length=max_length, characters_per_token=characters_per_token
        )
        with Store(store, read_only=True) as opened:
            # a set that came with scores computed elsewhere has no samples here
            sets = [one for one in opened.rows("list_validation_sets") if one["dataset_id"] is not None]
        if sets:
            validation_sets = validation_sets or len(sets)
            if validation_samples is None:
                validation_samples = sum(one["n_samples"] or 0 for one in sets)
    encoder = None if rater is None else find_size(rater)
    return account(
        Plan(
            size=size,
            lengths=lengths,
            # a validation sample is taken to be as long as a training sample
            validation=Lengths.same(180 if validation_samples is None else validation_samples, lengths.mean),
            sets=validation_sets or 1,
            ratios=tuple(Ratio.parse(one) for one in ratios),
            epochs=epochs,
            params=params,  # type: ignore[arg-type]
            rank=rank,
            method=method,  # type: ignore[arg-type]
            checkpointing=checkpointing,
            difficulty=encoder or BIOMEDBERT,
            rater=encoder or MODERNBERT,
            questions=None if questions is None else Lengths.same(questions, question_tokens),
        )
    )


def _check(
    source: str | None,
    samples: int | None,
    tokens: float | None,
    validation_samples: int | None,
    validation_sets: int | None,
    epochs: float,
    params: str,
    rank: int,
    method: str,
    max_length: int,
) -> None:
    if source is None and (samples is None or tokens is None):
        raise UsageError("there is nothing to count", "name a dataset or a file, or give --samples and --tokens")
    if source is not None and (samples is not None or tokens is not None):
        raise UsageError("a dataset and --samples or --tokens were given", "give one of the two")
    if params not in PARAMS:
        raise UsageError(f"--params `{params}` is not known", did_you_mean(params, PARAMS))
    if method not in ("sft", "dpo"):
        raise UsageError(f"--method `{method}` is not known", did_you_mean(method, ("sft", "dpo")))
    for option, value in (
        ("--samples", samples),
        ("--tokens", tokens),
        ("--validation-sets", validation_sets),
        ("--epochs", epochs),
        ("--lora-rank", rank),
        ("--max-length", max_length),
    ):
        if value is not None and not value > 0:
            raise UsageError(f"{option} {value:g} is not a positive number", "give a number above 0")
    if validation_samples is not None and validation_samples < 0:
        raise UsageError(f"--validation-samples {validation_samples} is negative", "give 0 or more")
