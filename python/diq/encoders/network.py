"""Text encoders with a head: loading, tokens, batches, predicting, and saving as a normal Hugging Face folder.

The difficulty classifier and the influence rater are both such encoders; ``diq.fine_tuning`` trains them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from diq.base.draws import unit_of
from diq.base.errors import ModelError
from diq.base.text import first_line
from diq.models.device import quiet_libraries
from diq.models.memory import default_budget, in_halves, raise_if_out_of_memory
from diq.models.pretrained import load_pretrained
from diq.models.source import ModelSource
from diq.models.tokens import plan_batches

SPLITS = ("train", "validation", "test")

TokenIds = Sequence[Any]
"""Token ids of some texts, each a list or an int32 array."""

_LARGER = "take a smaller encoder, or a device with more memory"
# one of them is in every folder with a tokenizer; without any, transformers makes up an empty one
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "*.spm", "tokenizer_config.json")
# models whose first positions are taken by the padding, so that they hold fewer tokens than positions
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "longformer", "mpnet")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Texts as tokens.

    Attributes:
        ids: for each model of the classifier the token ids of each text; one list where models share a tokenizer.
        lengths: ``[n]`` int64; tokens of each text, of the longest where tokenizers differ.
        cut: ``[n]``; whether the text is longer than the context.
    """

    ids: list[Sequence[Sequence[int]]]
    lengths: npt.NDArray[np.int64]
    cut: npt.NDArray[np.bool_]


def load_encoder(
    source: ModelSource, *, labels: Sequence[str], regression: bool, seed: int = 0
) -> tuple[nn.Module, Any]:
    """A sequence-classification model with a fresh head of ``len(labels)`` outputs, and its tokenizer.

    Args:
        source: what ``find_model`` returned.
        labels: name of each output.
        regression: whether the outputs are numbers rather than logits of classes.
        seed: of the head's first values.

    Raises:
        ModelError: transformers cannot load the folder as a sequence classifier, or it has no tokenizer.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    _check_tokenizer(source.path)
    torch.manual_seed(seed)
    names = dict(enumerate(labels))
    with quiet_libraries(warn=False):
        try:
            model = load_pretrained(
                AutoModelForSequenceClassification,
                source.path,
                source.source,
                num_labels=len(names),
                id2label=names,
                label2id={name: i for i, name in names.items()},
                problem_type="regression" if regression else "single_label_classification",
                dtype=torch.float32,
                # a classifier may be trained further for other labels: then its head is left out
                ignore_mismatched_sizes=True,
            )
            tokenizer = load_pretrained(AutoTokenizer, source.path, source.source)
        except ModelError:
            raise
        except Exception as error:  # loaders raise whatever their back ends do
            raise_if_out_of_memory(error, f"loading `{source.source}`", _LARGER)
            raise ModelError(
                f"`{source.source}` cannot be loaded as a text encoder: {first_line(error)}",
                "give the folder or hub id of an encoder such as BERT or ModernBERT, with its tokenizer",
            ) from error
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"the tokenizer of `{source.source}` has no padding token, so it is no encoder's",
            "give an encoder such as BERT or ModernBERT",
        )
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def load_classifier(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The sequence-classification model of a folder and its tokenizer.

    Raises:
        ModelError: transformers cannot load them, or there is no tokenizer.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    _check_tokenizer(folder)
    try:
        with quiet_libraries(warn=False):
            model = load_pretrained(AutoModelForSequenceClassification, folder, str(folder), dtype=dtype)
            return model, load_pretrained(AutoTokenizer, folder, str(folder))
    except ModelError:
        raise
    except Exception as error:  # loaders raise whatever their back ends do
        raise_if_out_of_memory(error, f"loading `{folder}`", _LARGER)
        raise ModelError(
            f"`{folder}` cannot be loaded as a sequence classifier: {first_line(error)}",
            "give a folder with a sequence-classification model and its tokenizer",
        ) from error


def _check_tokenizer(folder: Path) -> None:
    if not any(found for pattern in _TOKENIZERS for found in folder.glob(pattern)):
        raise ModelError(f"`{folder}` has no tokenizer", "save it beside the model with tokenizer.save_pretrained")


def context_length(config: Any, tokenizer: Any) -> int:
    """Tokens that an encoder can take, special tokens included."""
    limit = int(getattr(config, "max_position_embeddings", None) or 512)
    if getattr(config, "model_type", "") in _OFFSET_POSITIONS:
        limit -= int(config.pad_token_id or 0) + 1
    return int(min(limit, getattr(tokenizer, "model_max_length", None) or limit))


def tokenize(
    tokenizer: Any, texts: Sequence[str], *, max_length: int
) -> tuple[list[npt.NDArray[np.int32]], npt.NDArray[np.bool_]]:
    """Token ids of each text with the special tokens, cut to ``max_length``, and whether each was cut.

    What a cut leaves out are the last tokens of the text; the closing special token stays.
    """
    full = tokenizer(list(texts), truncation=False, verbose=False, return_attention_mask=False)["input_ids"]
    cut = np.asarray([len(one) > max_length for one in full], np.bool_)
    # where a text ends: [CLS] text [SEP], but some tokenizers put nothing there
    closing = tokenizer("", verbose=False)["input_ids"]
    n_closing = len(closing) - 1 if len(closing) > 1 else 0
    ids = []
    for one, is_cut in zip(full, cut, strict=True):
        if is_cut:
            one = one[: max_length - n_closing] + one[len(one) - n_closing :]
        ids.append(np.asarray(one, np.int32))
    return ids, cut


def padding_id(model: Any, tokenizer: Any) -> int:
    """The token that batches are padded with: the model's own, since some count positions by it."""
    for found in (model.config.pad_token_id, tokenizer.pad_token_id):
        if found is not None:
            return int(found)
    return 0


def collate(ids: TokenIds, *, pad: int) -> dict[str, Tensor]:
    """Texts as one batch, padded on the right: ``input_ids`` and ``attention_mask``, both int64 ``[n, t]``."""
    width = max(len(one) for one in ids)
    rows = np.full((len(ids), width), pad, np.int64)
    mask = np.zeros((len(ids), width), np.int64)
    for row, one in enumerate(ids):
        rows[row, : len(one)] = one
        mask[row, : len(one)] = 1
    return {"input_ids": torch.from_numpy(rows), "attention_mask": torch.from_numpy(mask)}


@torch.inference_mode()
def predict(
    model: nn.Module,
    tokenizer: Any,
    ids: TokenIds,
    *,
    device: torch.device | str = "cpu",
    token_budget: int | None = None,
) -> npt.NDArray[np.float64]:
    """Outputs of the model for each text, ``[n, k]``; batches hold texts of one length, or nearly so.

    Args:
        model: a sequence-classification model.
        tokenizer: its tokenizer, for the padding.
        ids: token ids of each text.
        device: where the model is.
        token_budget: padded tokens a batch; None takes the default (what does not fit into memory is halved).

    Raises:
        RunFailedError: one text alone does not fit into memory.
    """
    place = torch.device(device)
    lengths = np.asarray([len(one) for one in ids], np.int64)
    network: Any = model
    found = np.zeros((len(ids), network.config.num_labels))
    was_training = model.training
    model.eval()

    def outputs(rows: Sequence[int]) -> npt.NDArray[np.float64]:
        inputs = collate([ids[i] for i in rows], pad=padding_id(model, tokenizer))
        logits = model(**{name: one.to(place) for name, one in inputs.items()}).logits
        return np.asarray(logits.double().cpu().numpy())

    for batch in plan_batches(lengths, token_budget=token_budget or default_budget("encoder", place.type)):
        one = f"one text of up to {lengths[batch].max()} tokens"
        parts = in_halves(batch.tolist(), outputs, what="texts", one=one, hint=_LARGER)
        found[batch] = np.concatenate(parts)
    model.train(was_training)
    return found


def split_of(
    texts: Sequence[str], *, seed: int, shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
) -> npt.NDArray[np.int8]:
    """Which split each question belongs to, ``[n]``: 0 train, 1 validation, 2 test.

    A pure function of the seed and the question (letters and spacing apart), so equal questions never sit on two
    sides, and a question stays where it is when labels are added.
    """
    bounds = np.cumsum(shares)[:2] / sum(shares)
    at = [unit_of(f"{seed}\n{' '.join(text.casefold().split())}") for text in texts]
    return np.searchsorted(bounds, np.asarray(at, np.float64), side="right").astype(np.int8)
