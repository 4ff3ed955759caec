"""The stage: what enters the store, what is kept of what cannot, and that nothing is read or written twice."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import Commit, new_store, run_killed
from diq import _core
from diq.base.errors import InputError, StoreError, UsageError
from diq.base.fingerprint import canonical_json
from diq.base.sample import Sample
from diq.formats.layouts import named
from diq.samples.ingest import ingest
from diq.samples.sources import IngestSummary
from diq.store.store import Store
from diq.training.data import Texts

BATCHES = sys.modules["diq.samples.batches"]
TIMES = {"created_at", "ingested_at", "added_at", "started_at", "sealed_at", "applied_at"}


def qa(n: int, *, start: int = 0) -> list[dict[str, Any]]:
    return [{"question": f"Q{i}?", "answer": f"A{i}.", "level": i % 5} for i in range(start, start + n)]


def jsonl(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def rows(store: Path, query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(store), read_only=True) as connection:
        return connection.execute(query).fetchall()


def dump(store: Path) -> dict[str, list[Any]]:
    """Every row of every table, without the times."""
    found = {}
    with duckdb.connect(str(store), read_only=True) as connection:
        names = connection.execute("SELECT table_name FROM duckdb_tables() WHERE NOT internal").fetchall()
        for (name,) in names:
            cursor = connection.execute(f"FROM {name}")
            kept = [i for i, column in enumerate(cursor.description or []) if column[0] not in TIMES]
            found[name] = sorted(repr([row[i] for i in kept]) for row in cursor.fetchall())
    return found


def counts(summary: IngestSummary) -> tuple[int, int, int, int]:
    assert summary.n_rows == summary.n_samples + summary.n_duplicates + summary.n_rejects
    for source in summary.sources:
        assert source.n_rows == source.n_samples + source.n_duplicates + source.n_rejects
    return summary.n_rows, summary.n_samples, summary.n_duplicates, summary.n_rejects


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with nothing in it."""
    return new_store(tmp_path / "store.duckdb")


@pytest.fixture
def missing(tmp_path: Path) -> Path:
    """The place of a store that is still to be made."""
    return tmp_path / "store.duckdb"


# samples --------------------------------------------------------------------------------------------------------------


def test_samples_duplicates_and_rejects(tmp_path: Path, store: Path) -> None:
    path = jsonl(
        tmp_path / "rows.jsonl",
        [
            qa(1)[0],
            "",
            {"question": "Q?"},
            qa(2)[1],
            qa(1)[0] | {"level": 9},
            "{broken",
            {"question": "Q?", "answer": ""},
        ],
    )
    summary = ingest([path], dataset="d", store=store)
    assert repr(summary) == "IngestSummary(dataset='d', kind='training', 1 sources, 0 warnings, ...)"
    assert counts(summary) == (6, 2, 1, 3)
    assert rows(store, "SELECT position, line, split, attributes::VARCHAR FROM dataset_samples ORDER BY position") == [
        (0, 1, "train", '{"level":0}'),
        (2, 4, "train", '{"level":1}'),
    ]
    first = [{"role": "user", "content": "Q0?"}, {"role": "assistant", "content": "A0."}]
    (found,) = rows(
        store, "SELECT sample_id::VARCHAR, messages::VARCHAR, rejected FROM samples ORDER BY messages LIMIT 1"
    )
    assert found == (_core.sample_ids([canonical_json(first)])[0], canonical_json(first), None)
    assert rows(store, "SELECT position, line, sample_id::VARCHAR FROM duplicates") == [(3, 5, found[0])]
    rejects = rows(store, "SELECT line, position, reason, content, source FROM rejects ORDER BY line")
    assert [(line, position) for line, position, *_ in rejects] == [(3, 1), (6, 4), (7, 5)]
    assert rejects[0][2:] == (
        "no column `answer` or `response` or `output` or `solution` or another of its names (layout question_answer)",
        '{"question": "Q?"}',
        str(path),
    )
    assert rejects[1][2].startswith("not JSON: ")
    assert rejects[2][2] == "the answer is empty"
    assert rows(
        store, "SELECT kind, layout, first_position, n_rows, n_samples, n_duplicates, n_rejects FROM sources"
    ) == [("samples", "question_answer", 0, 6, 2, 1, 3)]
    assert rows(store, "SELECT prompt, answer FROM sample_texts ORDER BY prompt") == [("Q0?", "A0."), ("Q1?", "A1.")]


def test_positions_run_on_across_sources_and_calls(tmp_path: Path, store: Path) -> None:
    a = jsonl(tmp_path / "a.jsonl", [*qa(3), "broken"])
    b = jsonl(tmp_path / "b.jsonl", qa(3, start=2))
    c = jsonl(tmp_path / "c.jsonl", qa(2, start=4))
    assert counts(ingest([a, b], dataset="d", store=store)) == (7, 5, 1, 1)
    summary = ingest([a, b, c], dataset="d", store=store)
    assert [source.unchanged for source in summary.sources] == [True, True, False]
    assert counts(summary) == (9, 6, 2, 1)
    assert rows(store, "SELECT path, first_position FROM sources ORDER BY source_id") == [
        (str(a), 0), (str(b), 4), (str(c), 7)
    ]  # fmt: skip
    everything = rows(
        store,
        "SELECT position FROM dataset_samples UNION ALL SELECT position FROM duplicates "
        "UNION ALL SELECT position FROM rejects ORDER BY 1",
    )
    assert everything == [(i,) for i in range(9)]


def test_the_same_command_twice(tmp_path: Path, store: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [*qa(5), qa(1)[0], "broken"])
    first = ingest([path], dataset="d", store=store)
    before = dump(store)
    second = ingest([path], dataset="d", store=store)
    assert dump(store) == before
    assert counts(first) == counts(second)
    assert second.sources[0].unchanged
    # the layout that was detected, named; and the file elsewhere
    assert ingest([path], dataset="d", store=store, format="question_answer").sources[0].unchanged
    moved = path.rename(tmp_path / "moved.jsonl")
    assert ingest([moved], dataset="d", store=store).sources[0].unchanged
    assert dump(store) == before
    # a copy beside it is read, and is nothing but duplicates
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(moved.read_bytes())
    for _ in range(2):
        summary = ingest([moved, copy], dataset="e", store=store)
        assert [(one.n_samples, one.n_duplicates, one.n_rejects) for one in summary.sources] == [(5, 1, 1), (0, 6, 1)]


def test_a_changed_file_is_appended(tmp_path: Path, store: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [*qa(3), "broken"])
    ingest([path], dataset="d", store=store)
    jsonl(path, [*qa(4), "broken"])
    assert counts(ingest([path], dataset="d", store=store)) == (5, 1, 3, 1)
    assert rows(store, "SELECT source_id, line, position FROM rejects ORDER BY source_id") == [(1, 4, 3), (2, 5, 8)]


def test_datasets_share_samples(tmp_path: Path, store: Path) -> None:
    a, b = jsonl(tmp_path / "a.jsonl", qa(3)), jsonl(tmp_path / "b.jsonl", qa(3, start=1))
    ingest([a], dataset="a", store=store)
    ingest([b], dataset="b", store=store, split="extra")
    assert rows(store, "SELECT count(*) FROM samples") == [(4,)]
    assert rows(store, "SELECT dataset_id, split, count(*) FROM dataset_samples GROUP BY ALL ORDER BY 1") == [
        (1, "train", 3), (2, "extra", 3)
    ]  # fmt: skip


def test_batches_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = [*qa(20), "broken", *qa(30, start=10), {"question": ""}, *qa(5)]
    path = jsonl(tmp_path / "a.jsonl", data)
    dumps = []
    for n in (1, 7, 10_000):
        monkeypatch.setattr(BATCHES, "BATCH_ROWS", n)
        target = tmp_path / f"store{n}.duckdb"
        assert counts(ingest([path], dataset="d", store=target)) == (57, 40, 15, 2)
        dumps.append(dump(target))
    assert dumps[0] == dumps[1] == dumps[2]


def test_preference_pairs_that_share_the_chosen_answer_stay_apart(tmp_path: Path, store: Path) -> None:
    pairs = [{"prompt": "Q?", "chosen": "A.", "rejected": refused} for refused in ("B.", "C.", "B.")]
    assert counts(ingest([jsonl(tmp_path / "a.jsonl", pairs)], dataset="d", store=store)) == (3, 2, 1, 0)
    assert rows(store, "SELECT messages ->> '$[1].content', rejected ->> '$[0].content' FROM samples ORDER BY 2") == [
        ("A.", "B."), ("A.", "C.")
    ]  # fmt: skip
    ids = {str(one) for (one,) in rows(store, "SELECT sample_id FROM samples")}
    layout = named("preference", None)
    assert layout is not None
    assert ids == set(_core.sample_ids([layout.sample(pair).canonical() for pair in pairs]))


def test_tools_and_arguments_keep_the_order_of_their_keys(tmp_path: Path, store: Path) -> None:
    function = {
        "name": "pay",
        "description": "d",
        "parameters": {"type": "object", "properties": {"to": {}, "amount": {}}},
    }
    turns = [
        {"role": "user", "content": "Pay."},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "pay", "arguments": '{"to": "Bob", "amount": 5}'}}],
        },
    ]
    told = {"messages": turns, "tools": [{"type": "function", "function": function}]}
    (source,) = ingest([jsonl(tmp_path / "a.jsonl", [told])], dataset="d", store=store).sources
    ((sample_id, text),) = rows(store, "SELECT sample_id::VARCHAR, messages::VARCHAR FROM samples")
    stored = json.loads(text)
    assert json.dumps(stored[1]["tool_calls"][0]["function"]) == (
        '{"name": "pay", "arguments": {"to": "Bob", "amount": 5}}'
    )
    assert json.dumps(stored[0]["tools"][0]["function"]) == json.dumps(function)
    # what is shown at once is what is shown later, and the keys of a message stay sorted
    assert source.example is not None
    assert [json.dumps(dict(sorted(one.items()))) for one in source.example] == [json.dumps(one) for one in stored]
    # the order makes no other sample
    assert sample_id == _core.sample_ids([canonical_json(stored)])[0]
    turned = {"tools": [{"function": dict(reversed(function.items())), "type": "function"}], "messages": turns}
    again = ingest([jsonl(tmp_path / "b.jsonl", [turned])], dataset="d", store=store)
    assert counts(again) == (1, 0, 1, 0)
    # and in training, whose fingerprint does not know the order either
    with Texts() as texts, Texts() as others:
        texts.add(stored, None)
        others.add(json.loads(canonical_json(stored)), None)
        ((kept,),) = texts.blocks()
        assert texts.fingerprint() == others.fingerprint()
    assert json.dumps(kept.messages) == json.dumps(stored)


def test_numbers_that_would_be_rounded_are_said(tmp_path: Path, store: Path) -> None:
    call = {"function": {"name": "pay", "arguments": {"amount": 2**70}}}
    turns = [{"role": "user", "content": "Pay."}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    # a JSON array, for orjson would have made a float of it before
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"messages": turns}, *qa(0)]))
    ingest([path], dataset="d", store=store)
    assert rows(store, "SELECT reason FROM rejects") == [("an integer of more than 64 bits in tools or their calls",)]


def test_drop_reasoning_is_another_set_of_samples(tmp_path: Path, store: Path) -> None:
    data = [{"Question": "Q?", "Complex_CoT": "R", "Response": "<think>x</think>A."}]
    path = jsonl(tmp_path / "a.jsonl", data)
    ingest([path], dataset="d", store=store)
    summary = ingest([path], dataset="d", store=store, drop_reasoning=True)
    assert counts(summary) == (1, 1, 0, 0)
    assert rows(store, "SELECT reasoning, answer FROM sample_texts ORDER BY answer") == [
        ("R", "<think>x</think>A."), (None, "A.")
    ]  # fmt: skip


def test_a_map(tmp_path: Path, store: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"frage": "Q?", "antwort": "A.", "denkspur": "R"}])
    columns = {"prompt": "frage", "answer": "antwort", "reasoning": "denkspur"}
    assert counts(ingest([path], dataset="d", store=store, map=columns)) == (1, 1, 0, 0)
    assert rows(store, "SELECT prompt, reasoning, answer FROM sample_texts") == [("Q?", "R", "A.")]
    assert rows(store, "SELECT layout, options ->> '$.map.prompt' FROM sources") == [("map", "frage")]


def test_progress_comes_after_every_batch(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BATCHES, "BATCH_ROWS", 10)
    seen: list[tuple[str, int, int]] = []
    path = jsonl(tmp_path / "a.jsonl", qa(25))
    ingest(path, dataset="d", store=store, progress=lambda *what: seen.append(what))
    assert seen == [(str(path), 10, 10), (str(path), 20, 20), (str(path), 25, 25)]


# broken input ---------------------------------------------------------------------------------------------------------


def test_nothing_of_a_call_remains_when_one_source_breaks(tmp_path: Path, missing: Path) -> None:
    import gzip

    good = jsonl(tmp_path / "good.jsonl", qa(50))
    # long enough that several batches are in the store when the end is missed
    data = gzip.compress("".join(json.dumps(row) + "\n" for row in qa(60_000)).encode())
    bad = tmp_path / "bad.jsonl.gz"
    bad.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"bad.jsonl.gz` is cut off"):
        ingest([good, bad], dataset="d", store=missing)
    assert not missing.exists()
    ingest([good], dataset="d", store=missing)
    before = dump(missing)
    with pytest.raises(InputError):
        ingest([good, bad], dataset="e", store=missing)
    assert dump(missing) == before


def test_everything_is_checked_before_anything_is_written(tmp_path: Path, missing: Path) -> None:
    good = jsonl(tmp_path / "good.jsonl", qa(5))
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    unknown = jsonl(tmp_path / "unknown.jsonl", [{"x": 1}])
    for bad, message in (
        (tmp_path / "missing.jsonl", "no such file"),
        (empty, "is empty"),
        (unknown, "no known layout"),
    ):
        with pytest.raises(UsageError, match=message):
            ingest([good, bad], dataset="d", store=missing)
        assert not missing.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample": 3}, "sample has no effect without validation"),
        ({"sample": 0, "validation": True}, "sample=0 is out of range"),
        ({"seed": -1}, "seed=-1 is out of range"),
        ({"seed": 1, "validation": True}, "seed has no effect without sample"),
        ({"model": "m"}, "model has no effect without scores"),
        ({"replace": True}, "replace has no effect without scores"),
        ({"validation_set": "v"}, "validation_set has no effect without scores"),
        ({"scores": True, "validation": True}, "validation has no effect with scores"),
        ({"scores": True, "drop_reasoning": True}, "drop_reasoning has no effect with scores"),
        ({"format": "alpacca"}, "no layout named"),
        ({"dataset": " "}, "dataset is blank"),
        ({"dataset": "7"}, "dataset `7` reads as a number"),
        ({"store": "/nonexistent/folder/x.duckdb"}, "the folder of the store"),
    ],
)
def test_requests_that_are_wrong(tmp_path: Path, missing: Path, options: dict[str, Any], message: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", qa(3))
    with pytest.raises(UsageError, match=message) as error:
        ingest([path], **{"dataset": "d", "store": missing, **options})
    assert error.value.exit_code == 2
    assert not missing.exists()


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, missing: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", qa(3))

    def meanwhile(*_: object) -> None:
        with path.open("a") as file:
            file.write("\n")

    with pytest.raises(InputError, match="changed while it was read"):
        ingest([path], dataset="d", store=missing, progress=meanwhile)
    assert not missing.exists()


def test_surrogates_are_rejects_not_crashes(tmp_path: Path, store: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [*qa(1), '{"question": "\\ud800", "answer": "A."}'])
    assert counts(ingest([path], dataset="d", store=store)) == (2, 1, 0, 1)


def test_a_row_that_is_too_long_for_the_store_is_a_reject(tmp_path: Path, store: Path) -> None:
    # below the longest line that is read, and more than DuckDB had memory for
    path = jsonl(tmp_path / "a.jsonl", [*qa(1), {"question": "b", "answer": "x" * 60_000_000}, *qa(2)[1:]])
    assert counts(ingest([path], dataset="d", store=store)) == (3, 2, 0, 1)
    ((line, position, reason, content),) = rows(store, "SELECT line, position, reason, content FROM rejects")
    assert (line, position) == (2, 1)
    assert reason == "the text has 57.2 MB, a sample has at most 32"
    assert len(content) == 2000


@pytest.mark.parametrize("letter", ["x", "é"])
def test_the_longest_sample(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, letter: str) -> None:
    texts = [{"question": "Q?", "answer": letter * n} for n in (100, 101)]
    layout = named("question_answer", None)
    assert layout is not None
    monkeypatch.setattr(BATCHES, "MAX_SAMPLE_BYTES", len(layout.sample(texts[0]).canonical().encode()))
    assert counts(ingest([jsonl(tmp_path / "a.jsonl", texts)], dataset="d", store=store)) == (2, 1, 0, 1)
    assert rows(store, "SELECT line FROM rejects") == [(2,)]


@pytest.mark.slow
def test_long_rows_get_the_memory_that_they_need(tmp_path: Path, store: Path) -> None:
    # DuckDB writes 2,048 rows at once, and these take more than all the memory that it has for usual ones
    lines = [{"question": f"Q{i}?", "answer": f"{i}" * 500_000} for i in range(1000, 1150)]
    path = jsonl(tmp_path / "a.jsonl", [*qa(9), *lines, *qa(20)])
    assert counts(ingest([path], dataset="d", store=store)) == (179, 170, 9, 0)
    assert rows(store, "SELECT count(*), max(length(answer)) FROM sample_texts") == [(170, 2_000_000)]


def command(store: Path, *arguments: object) -> list[str]:
    code = "from diq.cli import main; main()"
    return [sys.executable, "-c", code, "ingest", *map(str, arguments), "--store", str(store)]


@pytest.mark.slow
def test_a_full_disk_leaves_the_store_as_it_was(tmp_path: Path, store: Path) -> None:
    ingest([jsonl(tmp_path / "a.jsonl", qa(10))], dataset="a", store=store)
    before = dump(store)
    large = jsonl(tmp_path / "b.jsonl", [{"question": os.urandom(500).hex(), "answer": "A."} for _ in range(20_000)])
    # no file may grow beyond this, which is how a full disk looks to DuckDB
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000)); "
    words = command(store, large, "--dataset", "b")
    words[2] = limit + words[2]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr
    assert dump(store) == before
    assert counts(ingest([large], dataset="b", store=store)) == (20_000, 20_000, 0, 0)


@pytest.mark.slow
def test_the_command_line(tmp_path: Path, store: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"frage": "Q?", "antwort": "A."}, {"frage": "Q?"}])
    words = command(store, path, "--dataset", "d", "--map", "prompt=frage,answer=antwort", "--json")
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {key: found[key] for key in ("dataset", "n_rows", "n_samples", "n_duplicates", "n_rejects")} == {
        "dataset": "d", "n_rows": 2, "n_samples": 1, "n_duplicates": 0, "n_rejects": 1
    }  # fmt: skip
    assert found["sources"] == [
        {
            "path": str(path),
            "layout": "map",
            "n_rows": 2,
            "n_samples": 1,
            "n_duplicates": 0,
            "n_rejects": 1,
            "unchanged": False,
            "columns": {"frage": "prompt", "antwort": "answer"},
            "unused": {},
            "example": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}],
            "reasons": {"no column `antwort` (layout map)": 1},
        }
    ]
    done = subprocess.run(command(store, path, "--dataset", "e"), capture_output=True, text=True)
    assert done.returncode == 2
    assert "no known layout" in done.stderr
    assert "hint: " in done.stderr
    plain = subprocess.run([word for word in words if word != "--json"], capture_output=True, text=True)
    assert plain.returncode == 0
    assert "as before" in plain.stdout


# kill -9 --------------------------------------------------------------------------------------------------------------


def ingest_all(data: Path, folder: Path) -> None:
    """A dataset of two files, a validation set and scores that were computed elsewhere."""
    store = folder / "store.duckdb"
    ingest([data / "a.jsonl", data / "b.jsonl"], dataset="d", store=store)
    ingest([data / "val.jsonl"], dataset="v", store=store, validation=True, sample=20, seed=1)
    ingest([data / "scores.csv"], dataset="d", store=store, scores=True, model="m")


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again(tmp_path: Path) -> None:
    rng = random.Random(7)
    data = tmp_path / "data"
    data.mkdir()
    jsonl(data / "a.jsonl", [*qa(3_000), "broken", *qa(10, start=5)])
    jsonl(data / "b.jsonl", [*qa(2_000, start=2_900), {"question": ""}])
    jsonl(data / "val.jsonl", qa(500, start=10_000))
    lines = [f"{position},{rng.random()},{1 + position % 5}" for position in range(5_012)]
    (data / "scores.csv").write_text("\n".join(["position,dot,overall", *lines]))
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    undisturbed.mkdir()
    killed.mkdir()
    ingest_all(data, undisturbed)
    # the commits are those of the schema, of its macros, of the dataset, of the validation set and of the scores; each
    # process goes on where the one before was killed, and what had to be committed again is counted again
    for when, n in (
        ("before", 1), ("after", 1), ("before", 2), ("after", 1),
        ("before", 1), ("after", 1), ("before", 1), ("after", 1),
    ):  # fmt: skip
        run_killed(ingest_all, data, killed, commit=Commit(when, n))
    ingest_all(data, killed)
    expected = dump(undisturbed / "store.duckdb")
    assert len(expected["dataset_samples"]) == 4_900 + 500
    assert len(expected["influence_scores"]) == 4_900
    assert dump(killed / "store.duckdb") == expected


# validation sets ------------------------------------------------------------------------------------------------------


def drawn(store: Path, name: str) -> set[str]:
    query = (
        "SELECT sample_id::VARCHAR FROM validation_samples JOIN validation_sets USING (validation_set_id) WHERE name = "
    )
    return {one for (one,) in rows(store, f"{query}'{name}'")}


def test_a_validation_set_of_all(tmp_path: Path, store: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [*qa(5), qa(1)[0], "broken"])
    summary = ingest([path], dataset="v", store=store, validation=True)
    assert counts(summary) == (7, 5, 1, 1)
    assert summary.validation_set == {"name": "v", "n_samples": 5, "seed": None}
    assert rows(store, "SELECT name, n_samples, seed, dataset_id FROM validation_sets") == [("v", 5, None, 1)]
    assert rows(store, "SELECT kind FROM datasets") == [("validation",)]
    assert rows(store, "SELECT DISTINCT split FROM dataset_samples") == [("validation",)]
    assert rows(store, "SELECT position FROM validation_samples ORDER BY 1") == [(i,) for i in range(5)]


def test_the_draw_depends_on_seed_and_samples_alone(tmp_path: Path, store: Path) -> None:
    forward, backward = qa(200), qa(200)[::-1]
    a = jsonl(tmp_path / "a.jsonl", forward)
    b = jsonl(tmp_path / "b.jsonl", [*backward[:50], "broken", *backward])
    for name, path, seed in (("a", a, 0), ("b", b, 0), ("c", a, 1)):
        summary = ingest([path], dataset=name, store=store, validation=True, sample=20, seed=seed)
        assert summary.validation_set == {"name": name, "n_samples": 20, "seed": seed}
    assert len(drawn(store, "a")) == 20
    assert drawn(store, "a") == drawn(store, "b")
    assert drawn(store, "a") != drawn(store, "c")
    # a larger draw holds the smaller one
    ingest([a], dataset="d", store=store, validation=True, sample=50)
    assert drawn(store, "a") < drawn(store, "d")
    splits = rows(store, "SELECT split, count(*) FROM dataset_samples WHERE dataset_id = 1 GROUP BY ALL ORDER BY 1")
    assert splits == [("unused", 180), ("validation", 20)]


@pytest.mark.slow
def test_every_sample_is_drawn_about_equally_often(tmp_path: Path, store: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", qa(40))
    seen: dict[str, int] = {}
    for seed in range(20):
        ingest([path], dataset=f"v{seed}", store=store, validation=True, sample=20, seed=seed)
        for one in drawn(store, f"v{seed}"):
            seen[one] = seen.get(one, 0) + 1
    # 20 draws with probability 1/2 each: mean 10, standard deviation 2.2; four of those either way
    assert sum(seen.values()) == 400
    assert len(seen) == 40
    assert max(abs(n - 10) for n in seen.values()) < 4 * math.sqrt(20 / 2 * 1 / 2)


def test_a_validation_set_does_not_change(tmp_path: Path, store: Path) -> None:
    a, b = jsonl(tmp_path / "a.jsonl", qa(30)), jsonl(tmp_path / "b.jsonl", qa(30, start=10))
    first = ingest([a], dataset="v", store=store, validation=True, sample=5)
    before = dump(store)
    again = ingest([a], dataset="v", store=store, validation=True, sample=5)
    assert again.validation_set == first.validation_set
    assert again.sources[0].unchanged
    for sources, options in (
        ([a], {"sample": 6}),
        ([a], {"sample": 5, "seed": 1}),
        ([a], {}),
        ([b], {"sample": 5}),
        ([a, b], {"sample": 5}),
        ([a], {"sample": 5, "drop_reasoning": True}),
    ):
        with pytest.raises(UsageError, match="the validation set `v` was") as error:
            ingest(sources, dataset="v", store=store, validation=True, **options)
        assert error.value.hint
    with pytest.raises(UsageError, match="`v` is a validation dataset"):
        ingest([a], dataset="v", store=store)
    ingest([a], dataset="t", store=store)
    with pytest.raises(UsageError, match="`t` is a training dataset"):
        ingest([a], dataset="t", store=store, validation=True)
    with pytest.raises(UsageError, match="31 samples were asked for, the sources have 30"):
        ingest([a], dataset="w", store=store, validation=True, sample=31)
    after = dump(store)
    assert {name: table for name, table in after.items() if name.startswith("validation")} == {
        name: table for name, table in before.items() if name.startswith("validation")
    }
    assert len(after["datasets"]) == 2


# scores ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def scored(tmp_path: Path, store: Path) -> Path:
    """A store with dataset d: positions 0 to 4 are samples, 5 repeats 1, 6 is a reject."""
    ingest([jsonl(tmp_path / "d.jsonl", [*qa(5), qa(2)[1], "broken"])], dataset="d", store=store)
    return store


def give(store: Path, path: Path, **options: Any) -> IngestSummary:
    return ingest([path], **{"dataset": "d", "store": store, "scores": True, "model": "m", **options})


def sample_ids(store: Path) -> list[str]:
    return [one for (one,) in rows(store, "SELECT sample_id::VARCHAR FROM dataset_samples ORDER BY position")]


def score_rejects(store: Path) -> dict[int, str]:
    return dict(rows(store, "SELECT line, reason FROM rejects WHERE position IS NULL ORDER BY line"))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "json", "arrow", "csv.gz"])
def test_scores_in_every_container(tmp_path: Path, scored: Path, ending: str) -> None:
    table = {
        "position": [0, 1, 2, 3, 4],
        "knowledge": [1.0, 2.0, 3.0, 4.0, 5.0],
        "overall": [1.5, 2.5, 3.5, 4.5, None],
        "dot": [0.1, -0.0, 1e-12, -3.25, 7.0],
        "perplexity": [1.0, 2.0, 3.0, 4.0, 5.0],
        "similarity": [0.5] * 5,
    }
    path = tmp_path / f"scores.{ending}"
    listed = pa.table(table).to_pylist()
    if ending == "parquet":
        pq.write_table(pa.table(table), path, row_group_size=2)
    elif ending == "arrow":
        with pa.ipc.new_file(path, pa.table(table).schema) as writer:
            writer.write_table(pa.table(table))
    elif ending == "jsonl":
        jsonl(path, listed)
    elif ending == "json":
        path.write_text(json.dumps(listed))
    else:
        import gzip

        text = ",".join(table) + "\n"
        text += "".join(",".join("" if v is None else repr(v) for v in row.values()) + "\n" for row in listed)
        path.write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())
    summary = give(scored, path, validation_set="task")
    assert counts(summary) == (5, 5, 0, 0), score_rejects(scored)
    found = rows(
        scored, "SELECT position, knowledge, reasoning, overall, dot FROM diq_scores('d', 'm') ORDER BY position"
    )
    assert found == [(row["position"], row["knowledge"], None, row["overall"], row["dot"]) for row in listed]
    assert rows(scored, "SELECT perplexity, similarity FROM text_scores ORDER BY ALL") == [
        (1.0, None), (2.0, None), (3.0, None), (4.0, None), (5.0, None), *[(None, 0.5)] * 5
    ]  # fmt: skip
    assert rows(scored, "SELECT name, n_samples, seed, dataset_id FROM validation_sets") == [("task", None, None, None)]
    assert rows(scored, "SELECT kind, method, model_id FROM runs ORDER BY kind, model_id") == [
        ("difficulty", "external", None),
        ("influence", "external", "external:m"),
        ("perplexity", "external", "external:m"),
        ("similarity", "external", None),
    ]
    assert rows(scored, "SELECT DISTINCT state FROM run_datasets") == [("sealed",)]
    assert rows(scored, "SELECT model_id, name, source FROM models") == [("external:m", "m", "external")]
    before = dump(scored)
    again = give(scored, path, validation_set="task")
    assert again.sources[0].unchanged
    assert counts(again) == counts(summary)
    assert dump(scored) == before


def test_every_kind_of_bad_score_row(tmp_path: Path, scored: Path) -> None:
    ids = sample_ids(scored)
    stranger = "00000000-0000-0000-0000-000000000000"
    path = jsonl(
        tmp_path / "scores.jsonl",
        [
            {"sample_id": ids[0], "dot": 1.0},  # 1
            {"sample_id": ids[0], "dot": 1.0},  # 2: again
            {"sample_id": ids[0], "dot": 2.0},  # 3: otherwise
            {"sample_id": stranger, "dot": 1.0},
            {"sample_id": "x", "dot": 1.0},
            {"position": 5, "dot": 1.0},
            {"position": 6, "dot": 1.0},
            {"position": 7, "dot": 1.0},
            {"position": -1, "dot": 1.0},
            {"position": 1.5, "dot": 1.0},
            {"position": 1, "dot": "high"},  # 11
            {"position": 1, "dot": True},
            '{"position": 1, "dot": NaN}',
            '{"position": 1, "dot": -Infinity}',
            {"position": 1, "dot": None},
            {"dot": 1.0},
            {"sample_id": ids[1], "position": 2, "dot": 1.0},
            {"sample_id": ids[1], "position": 5, "dot": 3.0},  # 18: its repetition, and they agree
            {"position": True, "dot": 1.0},
            "broken",
            {"position": 2.0, "dot": 5},  # 21
        ],
    )
    summary = give(scored, path)
    assert counts(summary) == (21, 3, 1, 17)
    assert rows(scored, "SELECT position, dot FROM diq_scores('d', 'm') WHERE dot IS NOT NULL ORDER BY position") == [
        (0, 1.0), (1, 3.0), (2, 5.0)
    ]  # fmt: skip
    reasons = score_rejects(scored)
    assert reasons.pop(20).startswith("not JSON")
    assert reasons.pop(7).startswith("position 6 was rejected when the dataset was ingested: not JSON")
    assert reasons == {
        3: "line 1 gives other scores for the same sample",
        4: "the dataset has no sample with this sample_id",
        5: "sample_id is no UUID",
        6: "position 5 repeats position 1, which is the one to score",
        8: "no position 7: the dataset has 0 to 6",
        9: "no position -1: the dataset has 0 to 6",
        10: "position is not a whole number (1.5)",
        11: "dot is not a number but the text `high`",
        12: "dot is not a number but true",
        13: "dot is not finite (nan)",
        14: "dot is not finite (-inf)",
        15: "no score",
        16: "neither sample_id nor position",
        17: "sample_id and position 2 are not the same sample",
        19: "position is not a number but true",
    }
    contents = dict(rows(scored, "SELECT line, content FROM rejects WHERE position IS NULL"))
    assert json.loads(contents[11]) == {"position": 1, "dot": "high"}
    assert json.loads(contents[8])["position"] == 7


def test_bad_values_in_csv_and_parquet(tmp_path: Path, scored: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("position,overall,dot\n0,3,0.5\n1,high,0.5\n2,nan,0.5\n3,,0.5\n4, 2.5 ,1e400\nx,1,1\n2,1\n3.0,1,\n")
    assert counts(give(scored, path)) == (8, 2, 0, 6)
    assert score_rejects(scored) == {
        3: "overall is not a number but `high`",
        4: "overall is not finite (nan)",
        6: "dot is not finite (inf)",
        7: "position is not a number but `x`",
        8: "2 fields where the header has 3",
        9: "line 5 gives other scores for the same sample",
    }
    flags = tmp_path / "flags.parquet"
    pq.write_table(pa.table({"position": [1, 2], "dot": [True, None]}), flags)
    assert counts(give(scored, flags)) == (2, 0, 0, 2)
    words = tmp_path / "words.parquet"
    pq.write_table(pa.table({"position": [1], "dot": ["0.5"]}), words)
    assert counts(give(scored, words)) == (1, 0, 0, 1)


def test_ids_of_a_parquet_file_that_duckdb_wrote(tmp_path: Path, scored: Path) -> None:
    path = tmp_path / "scores.parquet"
    with duckdb.connect(str(scored), read_only=True) as connection:
        query = f"COPY (SELECT sample_id, position / 2 AS dot FROM dataset_samples) TO '{path}' (FORMAT parquet)"
        connection.execute(query)
    assert counts(give(scored, path)) == (5, 5, 0, 0)


def test_scores_that_are_there_already(tmp_path: Path, scored: Path) -> None:
    first = jsonl(tmp_path / "a.jsonl", [{"position": i, "overall": 3.0, "dot": float(i)} for i in range(4)])
    assert counts(give(scored, first)) == (4, 4, 0, 0)
    second = jsonl(
        tmp_path / "b.jsonl",
        [
            {"position": 0, "overall": 3.0, "dot": 0.0},  # known
            {"position": 1, "overall": 4.0, "dot": 1.0},  # otherwise
            {"position": 2, "knowledge": 2.0},  # one dimension more
            {"position": 4, "overall": 1.0},  # new
        ],
    )
    assert counts(give(scored, second)) == (4, 2, 1, 1)
    assert score_rejects(scored) == {2: "overall is 3.0 in the store; --replace takes the new value"}
    levels = "SELECT position, knowledge, overall, dot FROM diq_scores('d', 'm') ORDER BY position"
    assert rows(scored, levels) == [
        (0, None, 3.0, 0.0), (1, None, 3.0, 1.0), (2, 2.0, 3.0, 2.0), (3, None, 3.0, 3.0), (4, None, 1.0, None)
    ]  # fmt: skip
    assert counts(give(scored, second, replace=True)) == (4, 1, 3, 0)
    assert rows(scored, levels)[1] == (1, None, 4.0, 1.0)
    again = give(scored, second, replace=True)
    assert again.sources[0].unchanged
    # going back to the first file changes the value once more
    assert counts(give(scored, first, replace=True)) == (4, 1, 3, 0)
    assert rows(scored, levels)[1] == (1, None, 3.0, 1.0)
    assert rows(scored, "SELECT count(*), count(DISTINCT sample_id) FROM difficulty_scores") == [(5, 5)]
    assert rows(scored, "SELECT count(*) FROM runs") == [(2,)]


def test_rejected_scores_are_taken_once_the_dataset_has_grown(tmp_path: Path, scored: Path) -> None:
    path = jsonl(tmp_path / "scores.jsonl", [{"position": i, "overall": 1.0} for i in (0, 7)])
    assert counts(give(scored, path)) == (2, 1, 0, 1)
    assert give(scored, path).sources[0].unchanged
    ingest([jsonl(tmp_path / "more.jsonl", qa(1, start=50))], dataset="d", store=scored)
    assert counts(give(scored, path)) == (2, 1, 1, 0)


def test_datasets_that_share_samples_share_scores(tmp_path: Path, scored: Path) -> None:
    path = jsonl(tmp_path / "scores.jsonl", [{"position": i, "overall": 1.0, "dot": 0.5} for i in range(5)])
    give(scored, path)
    ingest([jsonl(tmp_path / "e.jsonl", qa(5))], dataset="e", store=scored)
    assert counts(give(scored, path, dataset="e")) == (5, 0, 5, 0)
    assert rows(scored, "SELECT count(dot) FROM diq_scores('e', 'm')") == [(5,)]


def test_a_model_of_the_store_is_meant_by_its_name(tmp_path: Path, scored: Path) -> None:
    with Store(scored) as opened:
        opened.add_model(model_id="abc", name="m", source="folder", architecture=None, n_parameters=None)
    path = jsonl(tmp_path / "scores.jsonl", [{"position": 0, "dot": 1.0}])
    give(scored, path)
    assert rows(scored, "SELECT model_id FROM runs") == [("abc",)]
    assert rows(scored, "SELECT count(*) FROM models") == [(1,)]


def test_dots_of_several_validation_sets_share_a_run(tmp_path: Path, scored: Path) -> None:
    for n, name in enumerate(("x", "y")):
        path = jsonl(tmp_path / f"{name}.jsonl", [{"position": i, "dot": float(i + n)} for i in range(5)])
        give(scored, path, validation_set=name)
    assert rows(scored, "SELECT count(*) FROM runs") == [(1,)]
    assert rows(scored, "SELECT dot FROM diq_scores('d', 'm') ORDER BY position") == [(i + 0.5,) for i in range(5)]


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ([{"position": 0, "dot": 1.0}], {"model": None}, "has dot, which belongs to a model"),
        ([{"position": 0, "perplexity": 1.0}], {"model": None}, "has perplexity, which belongs to a model"),
        ([{"dot": 1.0}], {}, "no sample_id and no position"),
        ([{"position": 1, "text": "x"}], {}, "no score"),
        ([{"position": 1, "overal": 1.0}], {}, "no score"),
        ([{"position": 1, "overall": 1.0}], {"dataset": "e"}, "no dataset named `e`"),
        ([{"position": 1, "overall": 1.0}], {"map": {"overall": "x"}}, "no column `x` for overall"),
        ([{"position": 1, "overall": 1.0}], {"map": {"overal": "overall"}}, "unknown score `overal`"),
    ],
)
def test_score_files_that_are_no_score_files(
    tmp_path: Path, scored: Path, data: list[Any], options: dict[str, Any], message: str
) -> None:
    before = dump(scored)
    with pytest.raises(UsageError, match=message):
        give(scored, jsonl(tmp_path / "scores.jsonl", data), **options)
    assert dump(scored) == before


def test_a_misspelt_score_is_said(tmp_path: Path, scored: Path) -> None:
    path = jsonl(tmp_path / "scores.jsonl", [{"position": 1, "overall": 1.0, "Reasonning": 2.0}])
    summary = give(scored, path)
    assert summary.warnings == [f"column `Reasonning` of `{path}` is not read; did you mean `reasoning`?"]
    renamed = give(scored, path, map={"reasoning": "Reasonning"})
    assert renamed.warnings == []
    assert rows(scored, "SELECT reasoning, overall FROM difficulty_scores") == [(2.0, 1.0)]


def test_scores_need_a_store(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "scores.jsonl", [{"position": 1, "overall": 1.0}])
    with pytest.raises(StoreError, match="there is no store"):
        give(tmp_path / "none.duckdb", path)
    assert not (tmp_path / "none.duckdb").exists()


def test_a_name_of_external_scores_is_taken(tmp_path: Path, scored: Path) -> None:
    give(scored, jsonl(tmp_path / "scores.jsonl", [{"position": 1, "dot": 1.0}]), validation_set="task")
    with pytest.raises(UsageError, match="the validation set `task` belongs to scores"):
        ingest([jsonl(tmp_path / "v.jsonl", qa(3))], dataset="task", store=scored, validation=True)
    assert rows(scored, "SELECT count(*) FROM datasets") == [(1,)]


def test_many_scores(tmp_path: Path, store: Path) -> None:
    """More than one block of every stage."""
    n = 20_000
    table = pa.table({"question": [f"Q{i}?" for i in range(n)], "answer": ["A."] * n})
    pq.write_table(table, tmp_path / "d.parquet")
    ingest([tmp_path / "d.parquet"], dataset="d", store=store)
    rng = random.Random(0)
    scores = pa.table({"position": range(n), "dot": [rng.gauss(0, 1) for _ in range(n)], "overall": [3.0] * n})
    pq.write_table(scores, tmp_path / "s.parquet")
    assert counts(give(store, tmp_path / "s.parquet")) == (n, n, 0, 0)
    found = rows(
        store,
        "SELECT dot FROM influence_scores JOIN dataset_samples USING (sample_id) ORDER BY position",
    )
    assert [one for (one,) in found] == scores["dot"].to_pylist()


# laws -----------------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), max_size=30)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.fixed_dictionaries({"role": TEXT, "content": TEXT}, optional={"reasoning_content": TEXT}), max_size=4),
    st.none() | st.lists(st.fixed_dictionaries({"role": TEXT, "content": TEXT}), max_size=2),
)
def test_the_text_that_is_hashed_is_the_canonical_json(
    messages: list[dict[str, str]], rejected: list[dict[str, str]] | None
) -> None:
    sample = Sample(messages, rejected)
    text, stored, refused, _ = BATCHES._texts(sample)
    assert text == sample.canonical()
    read = json.loads(text)
    assert read == (messages if rejected is None else {"messages": messages, "rejected": rejected})
    assert canonical_json(read) == text
    assert stored == canonical_json(messages)
    assert refused == (None if rejected is None else canonical_json(rejected))
    assert _core.sample_ids([text]) == _core.sample_ids([canonical_json(read)])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.lists(
            st.one_of(
                st.fixed_dictionaries(
                    {"question": st.sampled_from("abc "), "answer": st.sampled_from(["x", "y", "", None])}
                ),
                st.sampled_from(["", "{", "[]", '{"question": "a"}']),
            ),
            min_size=1,
            max_size=12,
        ),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 5),
)
def test_every_row_is_a_sample_a_duplicate_or_a_reject(files: list[list[Any]], batch: int) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        patch.setattr(BATCHES, "BATCH_ROWS", batch)
        # one good row, so that the layout is known
        good = {"question": "z", "answer": "z"}
        paths = [jsonl(folder / f"{i}.jsonl", [good, *data]) for i, data in enumerate(files)]
        store = new_store(folder / "store.duckdb")
        found = counts(ingest(paths, dataset="d", store=store))
        lines = [row for data in files for row in [good, *data] if row != ""]
        assert found[0] == len(lines)
        usable = {
            (row["question"], row["answer"])
            for row in lines
            if isinstance(row, dict) and row["question"].strip() and row["answer"]
        }
        assert found[1] == len(usable)
        assert rows(store, "SELECT count(*) FROM dataset_samples") == [(found[1],)]
        assert rows(store, "SELECT count(*) FROM duplicates") == [(found[2],)]
        assert rows(store, "SELECT count(*) FROM rejects") == [(found[3],)]


def test_the_commonest_reasons_of_rejects_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"question": "Q?", "answer": ""}] * 3 + [{"question": "", "answer": "A."}]
    (source,) = ingest([jsonl(tmp_path / "bad.jsonl", rows)], dataset="bad", store=tmp_path / "s.duckdb").sources
    assert source.reasons == {"the answer is empty": 3, "the prompt is empty": 1}
    assert "none of its 4 rows is a sample in layout question_answer (first of all: the answer is empty)" in caplog.text


def test_texts_that_are_lost_late_are_told_with_their_number(tmp_path: Path) -> None:
    late = [{"question": f"Q{i}?", "answer": "A.", "response": "So it is." if i > 279 else ""} for i in range(300)]
    summary = ingest([jsonl(tmp_path / "a.jsonl", late)], dataset="d", store=tmp_path / "s.duckdb")
    (source,) = summary.sources
    assert source.unused == {"response": 20}
    assert source.columns["response"] == "not used"
    assert "uses the text of `response` in 20 of 300 rows: --map" in summary.warnings[0]


def test_what_a_wrapper_says_beside_its_rows_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"system": "Be kind.", "data": qa(2)}))
    (warning,) = ingest([path], dataset="d", store=tmp_path / "s.duckdb").warnings
    assert warning.startswith(f"`{path}`: `system` beside the list `data` is in no row")
