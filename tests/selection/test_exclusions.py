"""What guards leave out of a dataset of the store, and what they write."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest

from conftest import SHARED, ingest_rows, write_jsonl
from diq.base.errors import InputError, RunFailedError, UsageError
from diq.samples.ingest import ingest
from diq.selection import exclusions
from diq.selection.exclusions import Guard, find_exclusions
from diq.store.store import Store

pytest.importorskip("rensa", reason="the guard against near repeats needs `pip install 'diq[dedupe]'`")
shared = pytest.mark.skipif(not (SHARED / "MANIFEST.json").exists(), reason=f"the data pack is not at {SHARED}")

LONG = "A 45 year old man with a history of smoking presents with crushing chest pain that began two hours ago"
OTHER = "Which enzyme is deficient in a newborn with fasting hypoglycemia and an enlarged liver and lactic acidosis"


def chat(prompt: str, answer: str = "rest", *, system: str = "") -> dict[str, Any]:
    first = [{"role": "system", "content": system}] if system else []
    return {
        "messages": [*first, {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}],
    }


def contents(store: Path) -> dict[str, list[Any]]:
    """Everything that guards write."""
    with duckdb.connect(str(store), read_only=True) as connection:
        return {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY ALL").fetchall()
            for table in ("exclusions", "runs", "run_datasets")
        }


def positions(store: Path, found: Sequence[Guard], dataset: str = "pool") -> list[int]:
    with Store(store, read_only=True) as opened:
        ids = {"dataset_id": opened.dataset(dataset)["dataset_id"], "run_ids": [guard.run_id for guard in found]}
        return opened.arrow("selection/excluded_positions", **ids).column("position").to_pylist()


def recorded(store: Path, guard: Guard, dataset: str = "pool") -> list[tuple[Any, ...]]:
    """(position, reason, matched or the position that it names, similarity) of a guard's exclusions."""
    with Store(store, read_only=True) as opened:
        return opened.connection.execute(
            "SELECT d.position, e.reason, coalesce(CAST(k.position AS VARCHAR), e.matched), e.similarity "
            "FROM exclusions e JOIN dataset_samples d USING (sample_id) JOIN datasets s USING (dataset_id) "
            "LEFT JOIN dataset_samples k ON k.dataset_id = d.dataset_id AND CAST(k.sample_id AS VARCHAR) = e.matched "
            "WHERE e.run_id = ? AND s.name = ? ORDER BY d.position",
            [guard.run_id, dataset],
        ).fetchall()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store.duckdb"


# what is written ------------------------------------------------------------------------------------------------------


def test_exact_repeats(store: Path) -> None:
    rows = [
        chat("What is gout?"),
        chat("x"),
        chat("  WHAT is\ngout?", "Rest"),
        chat("What is gout?", "pain"),
        chat("X"),
    ]
    ingest_rows(store, rows)
    (guard,) = find_exclusions(store, "pool", dedupe="exact")
    assert (guard.method, guard.n_excluded) == ("exact", 2)
    assert guard.details["n_groups"] == 2
    assert guard.details["examples"][0] == {"position": 2, "reason": "repeats position 0 up to case and spaces"}
    assert recorded(store, guard) == [
        (2, "repeats position 0 up to case and spaces", "0", None),
        (4, "repeats position 1 up to case and spaces", "1", None),
    ]
    assert positions(store, [guard]) == [2, 4]


def test_near_repeats(store: Path) -> None:
    ingest_rows(store, [chat(LONG), chat("unlike " + OTHER), chat(LONG + "!", "Rest."), chat(LONG + " today")])
    (guard,) = find_exclusions(store, "pool", dedupe="near", near_threshold=0.6)
    assert guard.details["n_samples"] == 4
    assert guard.details["recall_at_threshold"] >= 0.99
    assert [(one[0], one[2]) for one in recorded(store, guard)] == [(2, "0"), (3, "0")]
    (_, reason, _, similarity), last = recorded(store, guard)
    assert (reason, similarity) == ("similar to position 0 (Jaccard 1.000)", 1.0)
    assert 0.6 <= last[3] < 1
    assert find_exclusions(store, "pool", dedupe="near", near_threshold=0.99)[0].n_excluded == 1


def test_preference_pairs_that_share_the_chosen_answer_stay(store: Path) -> None:
    def pair(refused: str) -> dict[str, Any]:
        return {"prompt": LONG, "chosen": "aspirin and heparin", "rejected": refused}

    ingest_rows(store, [pair("nothing at all"), pair("wait and see"), pair("Wait  and see")])
    assert positions(store, find_exclusions(store, "pool", dedupe="exact")) == [2]


def test_questions_of_datasets_validation_sets_and_files(store: Path, tmp_path: Path) -> None:
    ingest_rows(
        store, [chat("filler one"), chat(LONG), chat(f"Q: {OTHER}? Discuss."), chat("no", f"It was {LONG.upper()}.")]
    )
    ingest_rows(store, [chat("skip"), chat(LONG)], "medqa", validation=True)
    (guard,) = find_exclusions(store, "pool", decontaminate=["medqa"])
    assert [one[0] for one in recorded(store, guard)] == [1, 3]
    assert recorded(store, guard)[0][1:3] == (
        "shares 20 of 20 words with position 1 of `medqa`: "
        "a 45 year old man with a history of smoking presents with crushing",
        "medqa:1",
    )
    # the validation sets of the store come along with whatever is named
    file = write_jsonl(tmp_path / "bench.jsonl", [chat("short"), chat(OTHER)])
    (guard,) = find_exclusions(store, "pool", decontaminate=[str(file)])
    assert [(one[0], one[2]) for one in recorded(store, guard)] == [(1, "medqa:1"), (2, f"{file}:2"), (3, "medqa:1")]
    assert guard.details["benchmarks"] == [
        {"name": "medqa", "n_questions": 2, "n_too_short": 1, "n_too_common": 0, "n_excluded": 2, "n_unreadable": 0},
        {"name": str(file), "n_questions": 2, "n_too_short": 1, "n_too_common": 0, "n_excluded": 1, "n_unreadable": 0},
    ]
    assert (guard.details["n_samples"], guard.details["n_half_or_more"]) == (4, 3)
    # a folder, a longer run, a part of the question
    folder = tmp_path / "benches"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", [chat(OTHER)])
    assert positions(store, find_exclusions(store, "pool", decontaminate=[str(folder)])) == [1, 2, 3]
    assert positions(store, find_exclusions(store, "pool", decontaminate=["medqa"], ngram=21)) == [1, 3]
    half = write_jsonl(tmp_path / "half.jsonl", [chat(f"{OTHER} {' '.join(f'w{i}' for i in range(40))}")])
    assert positions(store, find_exclusions(store, "pool", decontaminate=[str(half)])) == [1, 2, 3]
    assert positions(store, find_exclusions(store, "pool", decontaminate=[str(half)], min_share=0.5)) == [1, 3]


def test_a_question_is_all_messages_before_the_answer(store: Path, tmp_path: Path) -> None:
    ingest_rows(
        store, [chat("x", OTHER), chat("y", LONG), chat("z", "an answer that is quite long and that no question has")]
    )
    first = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": LONG}]
    answer = {"role": "assistant", "content": "an answer that is quite long and that no question has at all, or does"}
    file = write_jsonl(tmp_path / "b.jsonl", [{"messages": [*first, {"role": "user", "content": OTHER}, answer]}])
    assert positions(store, find_exclusions(store, "pool", decontaminate=[str(file)])) == [0, 1]


def test_a_common_system_prompt_marks_nothing(store: Path, tmp_path: Path) -> None:
    system = "You are a careful doctor who thinks step by step and answers with the letter of the one best option"
    ingest_rows(store, [chat("one", system=system), chat("two", system=system), chat(LONG, system=system)])
    file = write_jsonl(tmp_path / "b.jsonl", [chat(LONG, system=system), chat(OTHER, system=system)])
    (guard,) = find_exclusions(store, "pool", decontaminate=[str(file)])
    assert positions(store, [guard]) == [2]
    assert guard.details["n_ignored_runs"] > 0


def test_both_guards_at_once(store: Path, tmp_path: Path) -> None:
    ingest_rows(store, [chat(LONG), chat(LONG.upper()), chat("a"), chat("A")])
    file = write_jsonl(tmp_path / "b.jsonl", [chat(LONG)])
    seen: list[tuple[str, int, int]] = []
    found = find_exclusions(
        store, "pool", dedupe="exact", decontaminate=[str(file)], progress=lambda *one: seen.append(one)
    )
    assert [(guard.method, guard.n_excluded) for guard in found] == [("exact", 2), ("decontaminate", 2)]
    assert positions(store, found) == [0, 1, 3]
    assert seen == [("exact guard", 4, 4), ("decontaminate guard", 4, 4)]
    with Store(store, read_only=True) as opened:
        rows = opened.connection.execute("SELECT kind, method, model_id FROM runs ORDER BY run_id").fetchall()
        assert rows == [("guard", "exact", None), ("guard", "decontaminate", None)]
        assert opened.connection.execute("SELECT DISTINCT state FROM run_datasets").fetchall() == [("sealed",)]
        ((n,),) = opened.connection.execute("SELECT count(*) FROM samples").fetchall()
    assert n == 4


def test_a_guard_of_one_dataset_touches_no_other(store: Path) -> None:
    ingest_rows(store, [chat("a"), chat("A")])
    ingest_rows(store, [chat("A"), chat("b")], "second")
    first = find_exclusions(store, "pool", dedupe="exact")
    second = find_exclusions(store, "second", dedupe="exact")
    assert (positions(store, first), positions(store, second, "second")) == ([1], [])
    assert first[0].run_id != second[0].run_id


# again ----------------------------------------------------------------------------------------------------------------


def everything(store: Path, file: Path, **options: Any) -> list[Guard]:
    return [
        *find_exclusions(store, "pool", dedupe="exact", decontaminate=[str(file)], **options),
        *find_exclusions(store, "pool", dedupe="near", **options),
    ]


def test_a_second_call_reads_no_text_and_writes_nothing(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest_rows(store, [chat(LONG), chat(LONG.upper()), chat(OTHER)])
    file = write_jsonl(tmp_path / "b.jsonl", [chat(OTHER)])
    first = everything(store, file)
    before = contents(store)
    monkeypatch.setattr(exclusions._Data, "batches", lambda _: pytest.fail("the dataset was read again"))
    # nor is the library needed for what is known
    monkeypatch.setitem(sys.modules, "rensa", None)
    again = everything(store, file)
    assert [guard.run_id for guard in again] == [guard.run_id for guard in first]
    assert json.loads(json.dumps([one.details for one in again])) == json.loads(
        json.dumps([one.details for one in first])
    )
    assert contents(store) == before


@pytest.mark.parametrize(
    "options",
    [
        {"dedupe": "near", "near_threshold": 0.7},
        {"dedupe": "exact"},
        {"decontaminate": ["bench"], "ngram": 12},
        {"decontaminate": ["bench"], "min_share": 0.5},
        {"decontaminate": ["bench", "more"]},
    ],
)
def test_another_setting_is_another_run(store: Path, options: dict[str, Any]) -> None:
    ingest_rows(store, [chat(LONG), chat(OTHER)])
    ingest_rows(store, [chat(LONG)], "bench")
    ingest_rows(store, [chat(OTHER)], "more")
    known = [
        *find_exclusions(store, "pool", dedupe="near"),
        *find_exclusions(store, "pool", decontaminate=["bench"]),
    ]
    (new,) = find_exclusions(store, "pool", **options)
    assert new.run_id not in {guard.run_id for guard in known}


def test_grown_data_are_checked_again(store: Path, tmp_path: Path) -> None:
    ingest_rows(store, [chat(LONG), chat(LONG.upper())])
    file = write_jsonl(tmp_path / "b.jsonl", [chat(OTHER)])
    first = everything(store, file)
    ingest_rows(store, [chat(OTHER), chat(OTHER.upper()), chat("new")])
    second = everything(store, file)
    assert not {guard.run_id for guard in first} & {guard.run_id for guard in second}
    assert [guard.n_excluded for guard in first] == [1, 0, 1]
    assert [guard.n_excluded for guard in second] == [2, 2, 2]
    # a new validation set changes what is looked for, and nothing else
    ingest_rows(store, [chat(LONG)], "validation", validation=True)
    third = everything(store, file)
    assert [guard.run_id for guard in third][::2] == [guard.run_id for guard in second][::2]
    assert third[1].n_excluded == 4


def test_a_dataset_without_samples(store: Path, tmp_path: Path) -> None:
    ingest_rows(store, [chat(LONG)], "bench")
    with Store(store) as opened:
        opened.connection.execute("INSERT INTO datasets VALUES (99, 'pool', 'training', TIMESTAMP '2026-01-01')")
    file = write_jsonl(tmp_path / "b.jsonl", [chat(OTHER)])
    assert [guard.n_excluded for guard in everything(store, file)] == [0, 0, 0]
    found = find_exclusions(store, "bench", decontaminate=["pool"])
    assert [(one["name"], one["n_questions"]) for one in found[0].details["benchmarks"]] == [("pool", 0)]


def test_no_guard_is_asked_for(store: Path) -> None:
    ingest_rows(store, [chat("a")])
    assert find_exclusions(store, "pool") == []


# what goes wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"dedupe": "exakt"}, "`exakt`", "did you mean `exact`"),
        ({"dedupe": "near", "near_threshold": 0.0}, "outside (0, 1]", "0.8"),
        ({"dedupe": "near", "near_threshold": float("nan")}, "outside (0, 1]", "0.8"),
        ({"decontaminate": ["medqa"], "ngram": 0}, "matches nothing", "13"),
        ({"decontaminate": ["medqa"], "min_share": 1.5}, "outside [0, 1]", "0.5"),
        ({"decontaminate": ["medqq"]}, "`medqq` is no dataset, no validation set and no file", "did you mean `medqa`"),
        ({"decontaminate": ["no/such.jsonl"]}, "no such file or folder: `no/such.jsonl`", "does not exist"),
        ({"decontaminate": ["pool"]}, "`pool` is the dataset that is checked", "--dedupe"),
        ({"decontaminate": ["elsewhere"]}, "has no questions", "name the file"),
    ],
)
def test_wrong_use_is_told(store: Path, options: dict[str, Any], message: str, hint: str) -> None:
    ingest_rows(store, [chat(LONG)])
    ingest_rows(store, [chat(OTHER)], "medqa")
    with Store(store) as opened:
        opened.connection.execute(
            "INSERT INTO validation_sets VALUES (99, 'elsewhere', NULL, 3, NULL, TIMESTAMP '2026-01-01')"
        )
    before = contents(store)
    with pytest.raises(UsageError) as caught:
        find_exclusions(store, "pool", **options)
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert hint in caught.value.hint
    assert contents(store) == before


def test_an_unknown_dataset_is_told(store: Path) -> None:
    ingest_rows(store, [chat("a")])
    for options in ({"dedupe": "exact"}, {"decontaminate": ["pool"]}):
        with pytest.raises(UsageError, match="no dataset named `pol`"):
            find_exclusions(store, "pol", **options)


def test_the_file_of_the_dataset_is_refused_as_a_benchmark(store: Path, tmp_path: Path) -> None:
    file = ingest_rows(store, [chat(LONG)])
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(file.read_bytes())
    for path in (file, copy):
        with pytest.raises(UsageError, match="is a source of `pool`"):
            find_exclusions(store, "pool", decontaminate=[str(path)])


def test_a_benchmark_that_cannot_be_read(store: Path, tmp_path: Path) -> None:
    ingest_rows(store, [chat(LONG)])
    broken = tmp_path / "broken.jsonl"
    for content in (b"", b"\x00\xff\x00\xff", b'{"no": "known columns"}\n'):
        broken.write_bytes(content)
        with pytest.raises(InputError) as caught:
            find_exclusions(store, "pool", decontaminate=[str(broken)])
        assert "broken.jsonl" in caught.value.message
    # a bad row is counted, not an error
    broken.write_text(json.dumps(chat(LONG)) + "\n{broken\n", encoding="utf-8")
    (guard,) = find_exclusions(store, "pool", decontaminate=[str(broken)])
    assert (guard.n_excluded, guard.details["benchmarks"][0]["n_unreadable"]) == (1, 1)


@pytest.mark.parametrize("query", ["selection/insert_exclusions", "store/update_run_result", "store/seal_run_dataset"])
def test_a_failure_while_writing_leaves_nothing(store: Path, query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest_rows(store, [chat("a"), chat("A"), chat("b")])
    before = contents(store)

    def failing(real: Any) -> Any:
        def call(self: Store, name: str, *arguments: Any, **params: Any) -> Any:
            if name == query:
                raise RunFailedError("the power went out")
            return real(self, name, *arguments, **params)

        return call

    with monkeypatch.context() as patch:
        for method in ("run", "insert", "execute_count"):
            patch.setattr(Store, method, failing(getattr(Store, method)))
        with pytest.raises(RunFailedError):
            find_exclusions(store, "pool", dedupe="exact")
    assert contents(store) == before
    assert find_exclusions(store, "pool", dedupe="exact")[0].n_excluded == 1


def test_a_kill_while_writing_leaves_nothing(store: Path) -> None:
    ingest_rows(store, [chat("a"), chat("A"), chat("b")])
    before = contents(store)
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom diq.selection import exclusions\n"
        "from diq.store.store import Store\n"
        "Store.seal = lambda *_: os._exit(9)\nexclusions.find_exclusions(Path(sys.argv[1]), 'pool', dedupe='exact')"
    )
    assert subprocess.run([sys.executable, "-c", code, str(store)], check=False).returncode == 9
    assert contents(store) == before
    assert find_exclusions(store, "pool", dedupe="exact")[0].n_excluded == 1


def test_a_dataset_that_grows_meanwhile_is_noticed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest_rows(store, [chat("a"), chat("A")])
    real = exclusions._find_copies

    def slow(*arguments: Any, **options: Any) -> Any:
        found = real(*arguments, **options)
        ingest_rows(store, [chat("x"), chat("y"), chat("z")])
        return found

    monkeypatch.setattr(exclusions, "_find_copies", slow)
    before = contents(store)
    with pytest.raises(RunFailedError, match="changed while"):
        find_exclusions(store, "pool", dedupe="exact")
    assert contents(store) == before


def test_another_process_that_was_faster_is_believed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest_rows(store, [chat("a"), chat("A")])
    real = exclusions._find_copies

    def slow(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(exclusions, "_find_copies", real)
        assert find_exclusions(store, "pool", dedupe="exact")[0].run_id == 1
        return real(*arguments, **options)

    monkeypatch.setattr(exclusions, "_find_copies", slow)
    assert find_exclusions(store, "pool", dedupe="exact")[0].run_id == 1
    assert len(contents(store)["exclusions"]) == 1


# real data ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@shared
def test_medquad_repeats(tmp_path: Path) -> None:
    store = tmp_path / "store.duckdb"
    ingest(SHARED / "raw" / "medquad" / "medquad_alpaca.jsonl.gz", dataset="medquad", store=store)
    exact, near = (find_exclusions(store, "medquad", dedupe=kind)[0] for kind in ("exact", "near"))
    with Store(store, read_only=True) as opened:
        rows = opened.connection.execute(
            "SELECT d.position, CAST(s.messages AS VARCHAR) FROM dataset_samples d JOIN samples s USING (sample_id) "
            "ORDER BY 1"
        ).fetchall()
    texts = {position: json.loads(messages) for position, messages in rows}
    # slow forms: a dictionary of texts, and of each exclusion the two sets themselves
    seen: dict[str, int] = {}
    repeats = []
    for position, messages in texts.items():
        key = json.dumps([[one["role"], one["content"].casefold().split()] for one in messages])
        if seen.setdefault(key, position) != position:
            repeats.append(position)
    assert positions(store, [exact], "medquad") == repeats

    def shingles(position: int) -> set[tuple[str, ...]]:
        text = " ".join(one["content"] for one in texts[position]).casefold()
        found = "".join(c if c.isalnum() else " " for c in text).split()
        return {tuple(found[i : i + 5]) for i in range(max(len(found) - 4, 1))}

    found = recorded(store, near, "medquad")
    assert 400 < len(found) == near.n_excluded
    excluded = {position for position, *_ in found}
    assert excluded >= set(repeats)
    for position, _, kept, similarity in found:
        a, b = shingles(position), shingles(int(kept))
        assert similarity == len(a & b) / len(a | b) >= 0.8
        assert int(kept) not in excluded
        assert int(kept) < position
    # 1,127 questions are repeated, mostly with another answer: what is asked again is no repeated sample
    asked: dict[str, int] = {}
    again = sum(asked.setdefault(messages[0]["content"], position) != position for position, messages in texts.items())
    assert 1100 < again < 1200
    assert len(excluded) < again


@pytest.mark.slow
@shared
def test_copies_of_benchmark_questions_are_caught_and_raw_pools_are_clean(tmp_path: Path) -> None:
    store = tmp_path / "store.duckdb"
    copies = ["metamedqa_layout.parquet", "hle_biomed_layout.jsonl", "medbullets_op4_layout.json"]
    ingest([SHARED / "schema_mimic" / file for file in copies], dataset="mimic", store=store)
    ingest([SHARED / "raw"], dataset="raw", store=store)
    ingest(SHARED / "bench" / "medqa" / "val.jsonl", dataset="medqa", store=store, validation=True)
    test = str(SHARED / "bench" / "medqa" / "test.jsonl")
    (guard,) = find_exclusions(store, "mimic", decontaminate=[test])
    assert guard.n_excluded == guard.details["n_samples"] == guard.details["n_half_or_more"] == 220
    # no question of the benchmark is in the raw pools: what any 13 words find there are stock phrases of vignettes
    (strict,) = find_exclusions(store, "raw", decontaminate=[test])
    assert strict.details["n_half_or_more"] == 0
    assert 0 < strict.n_excluded < 0.015 * strict.details["n_samples"]
    assert max(similarity for *_, similarity in recorded(store, strict, "raw")) < 0.3
    (guard,) = find_exclusions(store, "raw", decontaminate=[test], min_share=0.5)
    assert guard.n_excluded == 0
