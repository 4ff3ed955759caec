"""Similarity of samples to validation samples: cosines between the embeddings of a sentence encoder.

``mean``: the mean of the cosines with all samples of a validation set, which is the dot with the mean of their unit
embeddings. ``max``: the largest, which is the cosine with the nearest validation sample.

Which text is embedded is a choice, since arXiv 2508.01450 names the baseline without saying: ``prompt`` (default), the
question alone, because a benchmark's answer is often one letter; or ``full``, question, reasoning and answer. Public
programs differ: the representation baseline in LESS (arXiv 2402.04333) takes the last hidden state of the language
model over the full text, others embed the instruction with a sentence encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from diq.base.errors import ModelError
from diq.base.sample import Message, prompt_text
from diq.base.text import first_line
from diq.encoders.options import Pooled, Text
from diq.models.memory import in_halves, raise_if_out_of_memory
from diq.models.pretrained import raise_if_needs_code
from diq.models.source import ModelSource
from diq.models.tokens import plan_batches

_LARGER = "use --dtype bfloat16, or a device with more memory"
NO_DIRECTION = "the embedding is zero or not finite, so it has no direction"


def text_of(messages: Sequence[Message], text: Text) -> str:
    """What is embedded of a sample: its prompt, or its prompt, reasoning and answer, a blank line between two."""
    prompt = prompt_text(messages)
    if text == "prompt":
        return prompt
    answer = messages[-1]
    parts = [prompt, answer.get("reasoning_content", ""), answer["content"]]
    return "\n\n".join(part for part in parts if part)


class Encoder:
    """A loaded sentence encoder.

    Args:
        source: folder of a sentence-transformers model, and its fingerprint.
        device: where to run.
        dtype: precision of the weights; cosines are taken in float64.

    Raises:
        ModelError: sentence-transformers is not installed, or cannot load the folder.
    """

    def __init__(self, source: ModelSource, *, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ModelError(
                f"similarity needs the package `sentence-transformers`, which cannot be imported: {first_line(error)}",
                "run `pip install 'diq[score]'`",
            ) from error
        from transformers.utils import logging as transformers_logging

        # diq has its own progress, and a captured stderr should hold none
        transformers_logging.disable_progress_bar()
        try:
            model = SentenceTransformer(
                str(source.path), device=str(device), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # loaders raise whatever their back ends do
            raise_if_needs_code(error, source.path, source.source)
            raise_if_out_of_memory(error, f"loading `{source.source}`", _LARGER)
            raise ModelError(
                f"`{source.source}` cannot be loaded as a sentence encoder: {first_line(error)}",
                "give a sentence-transformers folder or hub id, such as sentence-transformers/all-MiniLM-L6-v2",
            ) from error
        self.source = source
        self._model: Any = model.requires_grad_(False).eval().to(dtype)
        self.n_parameters = sum(one.numel() for one in model.parameters())
        limit = self._model.max_seq_length
        self.max_length: int | None = None if limit is None else int(limit)
        # encode() puts it before every text
        self._prompt = str(self._model.prompts.get(self._model.default_prompt_name) or "")

    def count_tokens(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Tokens of each text before the encoder cuts it, special tokens included, ``[n]``."""
        tokenizer = self._model.tokenizer
        if not callable(tokenizer):
            # static embeddings: nothing is cut or padded, so any measure of length will do
            return np.asarray([len(text) for text in texts], np.int64)
        ids = tokenizer([self._prompt + text for text in texts], truncation=False, verbose=False)["input_ids"]
        return np.asarray([len(one) for one in ids], np.int64)

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Unit embeddings ``[n, d]`` of texts, computed as one batch; zero where one has no direction.

        Equals ``encode`` of each text by itself, divided by its Euclidean norm, up to rounding; what does not fit into
        memory is taken in halves.

        Raises:
            RunFailedError: one text alone does not fit.
        """

        def encode(part: Sequence[str]) -> npt.NDArray[np.float64]:
            found = self._model.encode(list(part), batch_size=max(1, len(part)), show_progress_bar=False)
            return np.asarray(found, np.float64)

        return unit(np.concatenate(in_halves(texts, encode, what="texts", one="one text", hint=_LARGER)))

    def embed_in_batches(self, texts: Sequence[str], *, token_budget: int) -> npt.NDArray[np.float64]:
        """Unit embeddings ``[n, d]`` of any number of texts."""
        lengths = self.cut(self.count_tokens(texts))
        batches = list(plan_batches(lengths, token_budget=token_budget))
        rows = np.concatenate([self.embed([texts[i] for i in batch]) for batch in batches])
        return rows[np.argsort(np.concatenate(batches))]

    def cut(self, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Tokens that the encoder sees of texts with so many tokens."""
        return lengths if self.max_length is None else np.minimum(lengths, self.max_length)


def unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rows ``[n, d]`` divided by their Euclidean norms; zero where a row is zero or not finite."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    usable = np.isfinite(norms) & (norms > 0)
    return np.where(usable, rows, 0.0) / np.where(usable, norms, 1.0)


def similarity(
    samples: npt.NDArray[np.float64], validation: npt.NDArray[np.float64], reduction: Pooled
) -> npt.NDArray[np.float64]:
    """Mean or largest cosine of each sample with the validation samples.

    Args:
        samples: unit embeddings ``[n, d]``.
        validation: unit embeddings ``[m, d]``, m at least 1.
        reduction: over the m cosines.

    Returns:
        ``[n]`` in -1 to 1; what stands for a row of zeros means nothing.
    """
    # the mean of the cosines, without a number for each pair
    found = samples @ validation.mean(axis=0) if reduction == "mean" else (samples @ validation.T).max(axis=1)
    # rounding may leave a cosine a hair above 1
    clipped: npt.NDArray[np.float64] = np.clip(found, -1.0, 1.0)
    return clipped
