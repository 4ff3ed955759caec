"""The language model of a text score: looked up before anything is computed, loaded where something is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from diq.base.config import MAX_LENGTH
from diq.baselines.options import LanguageModelOptions
from diq.baselines.text_scores import INSERT, text_rows
from diq.models.architecture import loader_of, read_config, rope_change
from diq.models.device import describe_environment, pick_device, pick_dtype
from diq.models.memory import default_budget, in_halves
from diq.models.network import load_causal_lm
from diq.models.source import ModelSource, find_adapter, find_model, is_adapter
from diq.models.tokens import Tokenization, Tokens, load_tokenization
from diq.scoring.harness import Scorer
from diq.scoring.job import RunModel, check_name


@dataclass(frozen=True, slots=True)
class ScoringModel:
    """A language model with or without an adapter, looked up.

    Attributes:
        options: as asked.
        source: the model that was named, whose tokenizer counts.
        target: what the scores belong to: an adapter, a checkpoint, or the model itself.
        place: device.
        dtype: name of the precision.
    """

    options: LanguageModelOptions
    source: ModelSource
    target: ModelSource
    place: torch.device
    dtype: str

    @classmethod
    def of(cls, options: LanguageModelOptions) -> ScoringModel:
        """The model that the options name.

        Raises:
            ModelError: there is none, or it cannot be used.
            UsageError: the store knows another model by its name.
        """
        source = find_model(options.model, name=options.model_name)
        target = source if options.adapter is None else find_adapter(options.adapter, source)
        check_name(options.store_file, target)
        place = pick_device(options.device)
        found = cls(options, source, target, place, pick_dtype(options.dtype, place))
        # before the store is asked what is missing: it costs nothing
        loader_of(found.base, read_config(found.base))
        return found

    @property
    def base(self) -> ModelSource:
        """Whose weights are loaded."""
        return self.source if self._is_wrapped else self.target

    @property
    def _is_wrapped(self) -> bool:
        return self.options.adapter is not None and is_adapter(self.target)

    def tokenization(self) -> Tokenization:
        """How samples become tokens."""
        return load_tokenization(
            self.source,
            max_length=self.options.max_length or MAX_LENGTH,
            template=self.options.template or "auto",
            template_kwargs=self.options.chat_template_kwargs,
        )

    def load(self) -> Any:
        """The network, on its device."""
        return load_causal_lm(
            self.base,
            dtype=self.dtype,
            device=str(self.place),
            attention=self.options.attention,
            adapter=self.target if self._is_wrapped else None,
        )

    def describe(self, tokenization: Tokenization) -> dict[str, Any]:
        """What a summary tells."""
        return {
            "model": self.target.name,
            "dtype": self.dtype,
            "template": tokenization.template_name,
            "max_length": tokenization.max_length,
        }


class ModelScorer(Scorer):
    """A loaded language model and the tokens of a block; one row of ``text_scores`` a sample."""

    insert = INSERT

    def __init__(self, model: ScoringModel, tokenization: Tokenization) -> None:
        self.network = model.load()
        n_parameters = sum(one.numel() for one in self.network.parameters())
        target = model.target
        self.model = RunModel(target.model_id, target.name, target.source, type(self.network).__name__, n_parameters)
        self.environment = describe_environment(next(self.network.parameters()).device)
        self.token_budget = model.options.batch_tokens or default_budget("perplexity", model.place.type)
        self.rope_change = rope_change(self.network.config)
        self.tokenization = tokenization

    def refused(self, run_id: int, ids: pa.Array, reasons: Sequence[str]) -> pa.Table:
        """See ``Scorer``."""
        return text_rows(run_id, ids, reasons=reasons)

    def in_parts(self, samples: Sequence[Tokens], compute: Any) -> npt.NDArray[Any]:
        """What ``compute`` makes of samples, a row each; those that do not fit into memory are taken in halves."""
        parts = in_halves(
            samples,
            compute,
            what="samples",
            one=f"one sample of up to {max(len(one.ids) for one in samples)} tokens",
            hint="use --dtype bfloat16, or lower --max-length",
        )
        return np.concatenate(parts)
