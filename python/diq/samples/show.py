"""The stage ``diq show``: one sample as it was read, and as a model sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from diq.base.config import MAX_LENGTH
from diq.base.errors import UsageError
from diq.base.options import verb
from diq.base.sample import Message
from diq.base.summary import Summary
from diq.samples.find import find_sample, sample_at
from diq.samples.options import ShowOptions
from diq.store.connection import WAIT_S
from diq.store.store import Store


@dataclass(frozen=True, slots=True, repr=False)
class ShownSample(Summary):
    """A sample, where it came from, and its tokens.

    Attributes:
        sample_id: of the sample.
        dataset: that it was asked for in.
        places: its rows there: position, line, source, split and attributes.
        messages: the conversation, which ends with the answer.
        rejected: the refused answer of a preference pair; else None.
        template: what it was written with for the model, ``chat template`` or ``Question/Answer``; None without one.
        tokens: how many the model sees; None without a model.
        answer_tokens: those of them that the loss covers.
        text: pieces of the text that the model sees, each with whether the loss covers it.
    """

    sample_id: str
    dataset: str
    places: list[dict[str, Any]]
    messages: list[Message]
    rejected: list[Message] | None
    template: str | None = None
    tokens: int | None = None
    answer_tokens: int | None = None
    text: list[tuple[str, bool]] | None = None


@verb(ShowOptions)
def show(options: ShowOptions) -> ShownSample:
    """Show a sample of a dataset as it was read, and with a model as that sees it.

    Raises:
        UsageError: there is no such sample, or the model's template cannot write it.
        StoreError: there is no such dataset.
        ModelError: the model has no usable tokenizer.
    """
    if options.sample_id is not None and options.position is not None:
        raise UsageError("SAMPLE_ID and --position both name a sample", "give one of them")
    with Store(options.store_file, read_only=True, wait_s=WAIT_S) as opened:
        data = opened.dataset(options.dataset)
        if options.sample_id is not None:
            found = find_sample(opened, options.sample_id)
        else:
            found = sample_at(
                opened, options.dataset, _first(opened, data) if options.position is None else options.position
            )
        places = opened.rows("store/facts_of_position", dataset_id=data["dataset_id"], sample_id=found["sample_id"])
    if not places:
        raise UsageError(
            f"the dataset `{options.dataset}` does not hold the sample {found['sample_id']}", "name another"
        )
    for one in places:
        one["attributes"] = orjson.loads(one["attributes"]) if one["attributes"] else {}
    messages = orjson.loads(found["messages"])
    rejected = orjson.loads(found["rejected"]) if found["rejected"] else None
    shown = {"sample_id": found["sample_id"], "dataset": options.dataset, "places": places}
    if options.model is None:
        return ShownSample(**shown, messages=messages, rejected=rejected)
    return ShownSample(**shown, messages=messages, rejected=rejected, **_seen(options, messages))


def _first(opened: Store, data: dict[str, Any]) -> int:
    row = opened.row("samples/first_position", dataset_id=data["dataset_id"])
    if row is None or row["position"] is None:
        raise UsageError(f"the dataset `{data['name']}` has no samples", "`diq sql 'from rejects'` shows why")
    return int(row["position"])


def _seen(options: ShowOptions, messages: list[Message]) -> dict[str, Any]:
    # torch is only needed where a model is named
    from diq.models.source import find_model
    from diq.models.tokens import load_tokenization

    assert options.model is not None
    tokenization = load_tokenization(
        find_model(options.model),
        max_length=options.max_length or MAX_LENGTH,
        template=options.template or "auto",
        template_kwargs=options.chat_template_kwargs,
        turns=options.turns,
    )
    (tokens,) = tokenization.encode([messages])
    if isinstance(tokens, str):
        raise UsageError(f"the model cannot see the sample: {tokens}", tokenization.cure())
    tokenization.say("the sample")
    counts = tokens.is_answer
    text, first = [], 0
    for last in range(1, len(counts) + 1):
        if last == len(counts) or counts[last] != counts[first]:
            piece = tokenization.tokenizer.decode(tokens.ids[first:last], clean_up_tokenization_spaces=False)
            text.append((str(piece), bool(counts[first])))
            first = last
    return {
        "template": tokenization.template_name,
        "tokens": len(tokens.ids),
        "answer_tokens": tokens.answer_tokens,
        "text": text,
    }
