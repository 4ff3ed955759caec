"""Command lines from options, read again by a shell and by the command itself."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diq.base.command import option_words, shell
from diq.base.options import fields_of
from diq.cli.select import select
from diq.selection.options import SelectOptions

FIELDS = fields_of(SelectOptions)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratio": "0.1", "dataset": "pool"}, ["pool", "--ratio", "0.1"]),
        ({"dataset": "-pool", "name": "--x", "ratio": 1}, ["--name=--x", "--ratio", "1", "--", "-pool"]),
        ({"dataset": "p", "validation_set": ["a=2", "b"]}, ["p", "--validation-set", "a=2", "--validation-set", "b"]),
        ({"dataset": "p", "progress": 1, "nothing": 2}, ["p"]),
    ],
)
def test_words_of_options(options: dict[str, Any], words: list[str]) -> None:
    known = {name: field for name, field in FIELDS.items() if not field.option.given}
    assert option_words(known, options) == words


@given(dataset=st.text(min_size=1), name=st.text(min_size=1), sets=st.lists(st.text(min_size=1), max_size=3))
def test_any_names_come_back_as_they_were(dataset: str, name: str, sets: list[str]) -> None:
    line = shell(option_words(FIELDS, {"dataset": dataset, "name": name, "validation_set": sets, "ratio": "0.1"}))
    words = shlex.split(line)
    ctx = select.make_context("select", words, resilient_parsing=False)
    assert ctx.params["dataset"] == dataset
    assert ctx.params["name"] == name
    assert list(ctx.params["validation_set"]) == sets
