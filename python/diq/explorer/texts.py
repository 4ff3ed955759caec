"""Texts of single samples, and which of their tokens carry the dot; the store is open for each question alone."""

from __future__ import annotations

import threading
from typing import Any

import orjson

from diq.base.command import shell
from diq.base.config import MAX_LENGTH
from diq.base.errors import ModelError, UsageError
from diq.base.extras import missing_package
from diq.explorer.columns import Choice
from diq.explorer.requests import Look
from diq.explorer.session import Session
from diq.influence.stored import WHAT_IS_NOT_A_DOT
from diq.samples.find import sample_at
from diq.samples.options import EXTERNAL
from diq.store.store import Store

_START = 160
# seconds that a reader of the page waits for a scoring that writes at that moment
_WAIT_S = 3.0

# a model fills memory: one at a time
_explaining = threading.Lock()


def starts(session: Session, positions: list[int]) -> dict[int, str]:
    """The start of the question of each sample, for the table."""
    with session.storing, Store(session.choice.store, read_only=True, wait_s=_WAIT_S) as opened:
        found = opened.rows(
            "explorer/starts_of_texts",
            dataset_id=session.choice.data["dataset_id"],
            positions=positions,
            characters=_START,
        )
    return {one["position"]: one["start"] for one in found}


def sample(session: Session, position: int) -> dict[str, Any]:
    """One sample: its conversation, and where it was read."""
    data = session.choice.data
    with session.storing, Store(session.choice.store, read_only=True, wait_s=_WAIT_S) as opened:
        found = sample_at(opened, data["name"], position)
        places = opened.rows("store/facts_of_position", dataset_id=data["dataset_id"], sample_id=found["sample_id"])
    return {
        "sample_id": found["sample_id"],
        "position": position,
        "messages": orjson.loads(found["messages"]),
        "rejected": orjson.loads(found["rejected"]) if found["rejected"] else None,
        "places": [
            {
                "line": one["line"],
                "source": one["source"],
                "split": one["split"],
                "attributes": orjson.loads(one["attributes"]) if one["attributes"] else {},
            }
            for one in places
        ],
    }


def tokens(session: Session, position: int, look: Look) -> dict[str, Any]:
    """The dot of a sample, token by token, under the settings of its run as far as one sample has them.

    Raises:
        UsageError: there is no model at hand, or the sample has no dot.
        DiqError: as ``diq.explain``.
    """
    choice = session.choice
    if choice.source in ("", EXTERNAL) or choice.source.startswith(("server:", "api:")):
        raise UsageError(
            f"token colours need the model `{choice.model}`, whose scores came from elsewhere",
            f"start the page with the model itself: {_again(choice)}",
        )
    config = orjson.loads(choice.config)
    if (held := WHAT_IS_NOT_A_DOT.get(choice.sets[0]["method"])) is not None:
        raise UsageError(
            f"run {choice.influence_run} holds {held}, and tokens add up to plain dots",
            "start the page with --run and a run of the method exact to see token colours",
        )
    if "precondition" in config:
        raise UsageError(
            f"run {choice.influence_run} is preconditioned ({config['precondition']}), and tokens add up to plain dots",
            "start the page with --run and a run without a preconditioner to see token colours",
        )
    given: dict[str, Any] = {
        "params": config.get("parameters"),
        "loss_reduction": config.get("loss_reduction"),
        "max_length": config.get("max_length") or MAX_LENGTH,
        "dtype": config.get("dtype") or "auto",
        "template": "none" if config.get("template") == "none" else None,
        "turns": config.get("turns"),
        "chat_template_kwargs": tuple(
            f"{name}={orjson.dumps(value).decode()}" for name, value in config.get("template_variables", {}).items()
        ),
    }
    with _explaining:
        try:
            # torch is only needed here
            from diq.influence.explain import explain

            with session.storing, Store(choice.store, read_only=True, wait_s=_WAIT_S) as opened:
                sample_id = sample_at(opened, choice.data["name"], position)["sample_id"]
            found = explain(
                sample_id,
                model=choice.source,
                store=choice.store,
                validation_set=_sets(session, look),
                **{name: value for name, value in given.items() if value is not None},
            )
        except ModuleNotFoundError as error:
            raise missing_package("explain", error) or error from error
        except ModelError as error:
            raise ModelError(
                f"token colours need the model: {error.message}",
                error.hint or f"start the page with its folder: {_again(choice)}",
            ) from error
    return {
        "dot": found.dot,
        "stored": session.answers.described(look, [position])[0]["influence"],
        "model": found.model,
        "tokens": [[one.text, one.is_answer, one.loss_term, one.term] for one in found.tokens],
    }


def _again(choice: Choice) -> str:
    return f"`{shell(['diq', 'explore', choice.data['name']])} --model FOLDER`"


def _sets(session: Session, look: Look) -> tuple[str, ...]:
    # those of the run, also where the store has more
    return session.choice.weight_texts(look.weights) or tuple(session.choice.set_names)
