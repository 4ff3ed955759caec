"""One sample as it was read, and as a model sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import diq
from conftest import build_llama, build_tokenizer, save_model, stdout_of
from diq.base.errors import UsageError
from diq.cli import diq as commands
from diq.models.source import find_model
from diq.models.tokens import Tokens, load_tokenization
from models.chat_templates import SHAPES

ROWS: list[dict[str, Any]] = [
    {"question": "is the dose low", "answer": "normal daily", "topic": "drugs"},
    {"question": "fever"},
    {"messages": None, "question": "pain", "answer": "since when", "reasoning": "ask first"},
]
TALK = [
    {"role": "user", "content": "fever"},
    {"role": "assistant", "content": "since when"},
    {"role": "user", "content": "two days"},
    {"role": "assistant", "content": "normal daily"},
]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "s.duckdb"
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    diq.ingest([rows], dataset="pool", store=path)
    (tmp_path / "talk.jsonl").write_text(json.dumps({"messages": TALK}) + "\n")
    diq.ingest([tmp_path / "talk.jsonl"], dataset="talk", store=path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = SHAPES["chatml"]
    return save_model(tmp_path / "model", build_llama(), tokenizer)


def test_a_sample_is_shown_as_it_was_read(store: Path, tmp_path: Path) -> None:
    first = diq.show("pool", store=store)
    assert first.messages == [
        {"role": "user", "content": "is the dose low"}, {"role": "assistant", "content": "normal daily"}
    ]  # fmt: skip
    assert first.places == [
        {
            "position": 0,
            "line": 1,
            "source": str(tmp_path / "rows.jsonl"),
            "split": "train",
            "attributes": {"topic": "drugs"},
        }
    ]
    assert first.text is None
    third = diq.show("pool", position=2, store=store)
    assert third.messages[-1]["reasoning_content"] == "ask first"
    # by its id, or the beginning of it
    for text in (third.sample_id, third.sample_id[:8]):
        assert diq.show("pool", text, store=store).messages == third.messages


def test_what_the_loss_covers_is_marked(store: Path, model: Path) -> None:
    shown = diq.show("talk", model=model, store=store)
    assert shown.text is not None
    assert shown.text[-1] == ("normal daily<|end|>\n", True)
    assert [covered for _, covered in shown.text] == [False, True]
    every = diq.show("talk", model=model, turns="all", store=store)
    assert every.text is not None
    assert [piece for piece, covered in every.text if covered] == ["since when<|end|>", "normal daily<|end|>\n"]
    # it is what scoring and training see
    (tokens,) = load_tokenization(find_model(model), max_length=512, turns="all").encode([TALK])
    assert isinstance(tokens, Tokens)
    assert (every.tokens, every.answer_tokens) == (len(tokens.ids), tokens.answer_tokens)
    assert "".join(piece for piece, _ in every.text) == "".join(piece for piece, _ in shown.text)
    assert diq.show("talk", model=model, template="none", store=store).template == "Question/Answer"


def test_what_cannot_be_shown_is_said(store: Path, model: Path) -> None:
    with pytest.raises(UsageError, match="has no sample at position 1"):
        diq.show("pool", position=1, store=store)
    with pytest.raises(UsageError, match="both name a sample"):
        diq.show("pool", "0" * 32, position=1, store=store)
    with pytest.raises(UsageError, match="does not hold the sample"):
        diq.show("talk", diq.show("pool", store=store).sample_id, store=store)
    (model / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(UsageError, match=r"the model cannot see the sample: .*roles must alternate"):
        diq.show("talk", model=model, store=store)


def test_the_command(store: Path, model: Path) -> None:
    printed = stdout_of(commands, "show", "talk", "--model", model, "--store", store)
    assert "assistant  since when" in printed
    assert "⟦normal daily<|end|>\n⟧" in printed
