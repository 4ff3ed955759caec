"""The small models of the demo, trained on the spot."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from diq.base.files import whole_folder
from diq.base.progress import Progress
from diq.demo.data import FIGURES, ROLES, THINK, Data, messages
from diq.demo.options import Sizes
from diq.demo.world import facts
from diq.models.saving import saving_errors

_PAD, END = "<|pad|>", "<|end|>"
# the shortest template that does all that templates do: roles, reasoning, the generation prompt
_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['reasoning_content'] %}<think>{{ message['reasoning_content'] }}</think>{% endif %}"
    "{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_CONTEXT = 8192
_BLOCK = 192
_BLOCKS = 16
_BATCH = 32
_HEAD = 32


def make_tokenizer(texts: Iterable[str], *, vocabulary: int) -> Any:
    """A byte-level BPE tokenizer with digits apart, learned on the texts, with a chat template."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[_PAD, END, *ROLES, *THINK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=_PAD,
        eos_token=END,
        chat_template=_TEMPLATE,
        model_max_length=_CONTEXT,
        padding_side="right",
    )


def make_language_model(data: Data, sizes: Sizes, seed: int, folder: Path, progress: Progress | None = None) -> None:
    """Train a small Llama on the world's facts and on easy questions, and save it as a normal model folder.

    Most of what is hard is left for the fine-tuning to teach. ``FIGURES`` beside the weights holds parameters, tokens
    seen, and the mean loss of the first and the last ten steps, nats a token.
    """
    told = [f"{line}{END}" for line in facts(data.world)]
    asked = [messages(item) for item in data.model]
    hard = [messages(item) for item in data.classifier]
    plain = [" ".join(part[key] for part in one for key in part if key != "role") for one in (*asked, *hard)]
    tokenizer = make_tokenizer([*told, *plain], vocabulary=sizes.vocabulary)
    chats = [tokenizer.apply_chat_template(one, tokenize=False) for one in asked]
    rng = random.Random(f"{seed}/order")
    # every fact often, in another order each time
    repeats = max(1, sum(map(len, chats)) // sum(map(len, told)))
    lines = chats + told * repeats
    rng.shuffle(lines)
    ids = torch.tensor([one for line in tokenizer(lines, add_special_tokens=False)["input_ids"] for one in line])
    heads = max(1, sizes.hidden // _HEAD)
    with _seeded(seed):
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=sizes.hidden,
            intermediate_size=sizes.hidden * 5 // 2,
            num_hidden_layers=sizes.layers,
            num_attention_heads=heads,
            num_key_value_heads=max(1, heads // 2),
            head_dim=_HEAD,
            max_position_embeddings=_CONTEXT,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
        model = transformers.LlamaForCausalLM(config)

        def batches() -> Iterator[torch.Tensor]:
            block = min(_BLOCK, len(ids) - 1)
            while True:
                starts = torch.randint(len(ids) - block, (_BLOCKS,))
                yield torch.stack([ids[start : start + block] for start in starts])

        losses = _train(
            model,
            batches(),
            lambda batch: model(input_ids=batch, labels=batch).loss,
            sizes.model_steps,
            4e-3,
            lambda done: progress("training the language model", done, sizes.model_steps) if progress else None,
        )
    tokens = sizes.model_steps * _BLOCKS * min(_BLOCK, len(ids) - 1)
    _save(folder, model, tokenizer, {"tokens": tokens, **_ends(losses)})


def make_encoder(data: Data, sizes: Sizes, seed: int, folder: Path, _progress: Progress | None = None) -> None:
    """Save a small BERT that has learnt nothing, with its tokenizer: what the difficulty classifier is trained from.

    ``FIGURES`` beside the weights holds its parameters.
    """
    tokenizer = make_tokenizer([item.prompt for item in data.classifier], vocabulary=sizes.vocabulary)
    tokenizer.chat_template = None
    with _seeded(seed + 1):
        config = transformers.BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=128,
            max_position_embeddings=256,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=tokenizer.pad_token_id,
        )
        model = transformers.BertModel(config)
    tokenizer.model_max_length = 256
    _save(folder, model, tokenizer, {})


def _train(
    model: torch.nn.Module,
    batches: Iterator[torch.Tensor],
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    steps: int,
    learning_rate: float,
    report: Callable[[int], None],
) -> list[float]:
    """AdamW, a short warm-up, then down to nothing; a fixed number of steps, so that a seed always gives one model."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
    )
    model.train()
    losses = []
    for step in range(steps):
        loss = loss_of(next(batches))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        report(step + 1)
    model.eval()
    return losses


def _ends(losses: Sequence[float]) -> dict[str, float]:
    first, last = losses[:10], losses[-10:]
    return {"first_loss": sum(first) / len(first), "last_loss": sum(last) / len(last)}


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's random numbers from a seed, and as they were before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _save(folder: Path, model: Any, tokenizer: Any, figures: dict[str, float]) -> None:
    """Save a model, its tokenizer and its figures as a folder that appears whole."""
    figures = {"parameters": sum(one.numel() for one in model.parameters()), **figures}
    with saving_errors(folder), whole_folder(folder) as made:
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        (made / FIGURES).write_text(json.dumps(figures) + "\n", encoding="utf-8")
