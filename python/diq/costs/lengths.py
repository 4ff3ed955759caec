"""Lengths of samples in tokens, from a store or a file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from diq.base.errors import UsageError
from diq.base.text import amount
from diq.costs.options import CHARACTERS_PER_TOKEN
from diq.store.store import Store

log = logging.getLogger(__name__)


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
            counted = opened.row("costs/characters_per_token", dataset_id=data["dataset_id"], model=model)
            if counted is not None and counted["ratio"]:
                ratio = float(counted["ratio"])
                answers = amount(counted["n"], "answer")
                source = f"characters, {ratio:.2f} a token as run {counted['run_id']} counted {answers}"
            else:
                ratio, source = CHARACTERS_PER_TOKEN, f"characters, {CHARACTERS_PER_TOKEN:g} a token: an estimate"
        row = opened.row(
            "costs/lengths_of_dataset", dataset_id=data["dataset_id"], characters_per_token=ratio, max_length=max_length
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
        log.warning("left out: %s of `%s` that cannot be read", amount(n_bad, "row"), path)
    how = "the ratio that the probe measured" if characters_per_token else f"{ratio:g} a token: an estimate"
    return Lengths(n, tokens, squares, answers, prompts, f"characters, {how}")


def _characters(message: Mapping[str, str]) -> int:
    return len(message["content"]) + len(message.get("reasoning_content", ""))
