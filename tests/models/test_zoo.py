"""Every decoder family that transformers has: dots of its weights, and of an adapter's, against float64 autograd."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from models import zoo

# encoders and others that are no decoders, by what the refusal says
REFUSED = re.compile(r"it is an encoder|no causal language model")
NO_ATTENTION = re.compile(r"no linear layer of \w+ matches --params `qkv`")
NO_ADAPTER = re.compile(r"PEFT puts no such adapter on \w*Mamba\w*")


def tried() -> list[Any]:
    """Every family; `make test` leaves those out that another one stands for."""
    return [
        pytest.param(one, marks=() if one in zoo.DISTINCT else pytest.mark.exhaustive)
        for one in zoo.families()
        if one not in zoo.APART
    ]


@pytest.mark.slow
@pytest.mark.parametrize("family", tried())
def test_dots_of_every_family_are_exact_or_refused_by_name(family: str, tmp_path: Path) -> None:
    zoo.build(family, tmp_path)
    row = zoo.measure(family, tmp_path)
    if family in zoo.NO_DECODERS:
        assert REFUSED.search(row.refused)
        return
    assert not row.refused
    for params in zoo.PARAMS:
        error = row.errors[params]
        if isinstance(error, str):
            expected = {"qkv": NO_ATTENTION, "lora": NO_ADAPTER}[params]
            assert expected.search(error), error
            assert params == "lora" or family in zoo.NO_PROJECTIONS
        else:
            # where a part is float32 in any precision, autograd itself is no better
            assert error < max(1e-5, 3 * row.own.get(params, 0))
    # everything but norms, embeddings and what has another form
    assert row.shares["all-linear"] > 0.5 or family in zoo.OTHER_FORMS
    assert bool(row.unseen) is (family in zoo.UNSEEN)


def test_what_is_set_apart_is_there() -> None:
    known = set(zoo.families())
    for group in (zoo.APART, zoo.DISTINCT, zoo.OWN, zoo.NO_DECODERS, zoo.NO_PROJECTIONS, zoo.OTHER_FORMS, zoo.UNSEEN):
        assert set(group) <= known
