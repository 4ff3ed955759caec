"""Draws: what stores hold was drawn by these, so their values are those of the code that drew it (commit 080ce4f)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from conftest import fill_store
from diq.base.draws import number_of, numbers_of_positions, unit_of
from diq.store.store import Store


def test_numbers_of_a_text() -> None:
    assert number_of('[1,"medqa","q",0]') == 56132322474324770
    assert unit_of("a") == number_of("a") / 2**56
    assert all(0 <= unit_of(str(i)) < 1 for i in range(1000))
    assert np.mean([unit_of(str(i)) for i in range(1000)]) == pytest.approx(0.5, abs=0.03)
    # big-endian, so that numbers are ordered as their bytes are
    assert number_of(b"a", n_bytes=16).to_bytes(16, "big") == hashlib.blake2b(b"a", digest_size=16).digest()
    # what UTF-8 cannot write ends no run
    assert number_of("\ud800") == number_of("?")


def test_numbers_of_positions() -> None:
    found = numbers_of_positions(np.arange(8), 3)
    assert np.argsort(found).tolist() == [3, 1, 5, 2, 0, 6, 4, 7]
    # positions and seeds of more than 32 bits
    far = numbers_of_positions(np.arange(2**32 - 3, 2**32 + 3), 2**40 + 1)
    assert np.argsort(far).tolist() == [5, 2, 3, 1, 0, 4]
    assert numbers_of_positions(np.arange(4, 8), 3).tolist() == found[4:].tolist()
    assert numbers_of_positions(np.arange(0), 3).tolist() == []


def test_blocks_of_positions_are_one_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = numbers_of_positions(np.arange(20), 1)
    monkeypatch.setattr("diq.base.draws._POSITIONS", 7)
    assert numbers_of_positions(np.arange(20), 1).tolist() == whole.tolist()


def test_what_every_caller_draws() -> None:
    from diq.difficulty.annotate import _table
    from diq.encoders.network import split_of
    from diq.judging.judge import _lot
    from diq.judging.rubrics import _code

    split = split_of([f"question {i}" for i in range(40)], seed=7).tolist()
    assert split == [0, 2, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 1, *[0] * 11, 2, 0, 0, 0, 0, 0, 2, 1, 1, 0, 0, 0]
    items = [SimpleNamespace(item_id=f"i{i}", question="q") for i in range(4)]
    assert _table([""] * 4, items, 5)["place"].to_pylist() == [  # type: ignore[arg-type]
        11707343686425194471,
        15897245022586802364,
        6940695714295841279,
        2959200914822852002,
    ]
    assert _lot(3, "item", "x\ud800") == int("d6712d1554b16eeb7c3c897b4cfaa1c2", 16)
    assert [_code(["a question", "an answer \ud800"]), _code([""])] == ["0b84dbea", "bdc5da67"]


def test_questions_of_a_benchmark_are_drawn_as_ever(tmp_path: Path) -> None:
    import json

    from conftest import write_jsonl
    from diq.recipes.questions import write_questions

    rows = [
        {"question": f"question {i}", "options": dict(zip("ABCD", "wxyz", strict=True)), "answer_idx": "A"}
        for i in range(8)
    ]
    source = write_jsonl(tmp_path / "medqa.jsonl", rows)
    write_questions("medqa", output=tmp_path / "drawn.jsonl", sources={"medqa": str(source)}, sample=8, seed=2)
    drawn = [json.loads(line)["question"] for line in (tmp_path / "drawn.jsonl").read_text().splitlines()]
    assert drawn == [f"question {i}" for i in (0, 1, 7, 3, 5, 2, 4, 6)]


def test_draws_in_sql(tmp_path: Path) -> None:
    ids = fill_store(tmp_path / "s.duckdb", dots={"a": np.ones(12)}, difficulty=np.ones(12))
    wanted = sorted(ids, key=lambda one: hashlib.md5(f"{one}/5".encode()).hexdigest())[:7]
    hashed = sorted(ids, key=lambda one: hashlib.sha256(f"5:{one}".encode()).hexdigest())[:7]
    with Store(tmp_path / "s.duckdb") as store:
        number = store.dataset("pool")["dataset_id"]
        place = {"dataset_id": number, "seed": 5, "n": 7}
        checked = store.rows("influence/draw_samples", **place)
        judged = store.rows("judging/draw_judged_samples", **place, selection_id=None, taken=None)
        store.run("samples/draw_validation_samples", **place, validation_set_id=1)
        validation = store.connection.execute("SELECT CAST(sample_id AS VARCHAR) FROM validation_samples").fetchall()
    assert [one["sample_id"] for one in checked] == [one["sample_id"] for one in judged] == wanted
    assert {one for (one,) in validation} == set(hashed)
