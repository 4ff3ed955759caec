"""`diq judge`: planted quality is found, the judge is blind, nothing is asked twice, the numbers are the slow ones."""

from __future__ import annotations

import csv
import itertools
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from chat_server import ScriptedServer, Step, teach, transformers_server
from conftest import fill_store, refused, stdout_of, write_jsonl
from diq.base.errors import DiqError, InputError, RunFailedError, UsageError
from diq.cli import diq as command
from diq.judging.judge import Judgment, _texts
from diq.judging.judge import judge as run
from diq.judging.options import Server
from diq.judging.rubrics import load_rubric
from diq.selection.select import select

ANSWER = re.compile(r"<<<BEGIN ANSWER (\w+)>>>\n(.*?)\n<<<END ANSWER \1>>>", re.DOTALL)
N = 60


def answer_of(body: dict[str, Any]) -> str:
    found = ANSWER.search(body["messages"][0]["content"])
    assert found is not None
    return found[2]


def level_in(text: str) -> int:
    """The quality that was planted into an answer."""
    found = re.search(r"quality (\d)", text)
    assert found is not None, text
    return int(found[1])


def planted(body: dict[str, Any], _: int) -> str:
    """A judge that reads the planted quality, and varies with the dimension."""
    text = answer_of(body)
    level = level_in(text)
    if "three habits" not in body["messages"][0]["content"]:
        return f"Score: {level}\nRationale: planted in {len(text)} characters"
    return (
        f"Differential Diagnosis Score: {level}\nSafety Check Score: {6 - level}\nEvidence Citation Score: 3\n"
        "Differential Diagnosis Rationale: planted\nSafety Check Rationale: reversed\n"
        "Evidence Citation Rationale: the same for all"
    )


@pytest.fixture
def judge() -> Iterator[Callable[..., tuple[Judgment, ScriptedServer]]]:
    """Runs the stage against a scripted server of its own; further options are the stage's."""
    servers: list[ScriptedServer] = []

    def ask(
        rubric: str = "reasoning", *, script: Any = planted, concurrency: int = 4, retries: int = 0, **options: Any
    ) -> tuple[Judgment, ScriptedServer]:
        server = ScriptedServer(script)
        servers.append(server.__enter__())
        chat = Server("judge-model", base_url=server.url, concurrency=concurrency, retries=retries)
        return run(rubric, server=chat, **options), server

    yield ask
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose better samples have the larger dots, and selections of it."""
    path = tmp_path_factory.mktemp("judge") / "s.duckdb"
    rng = np.random.default_rng(0)
    fill_store(path, dots={"a": np.arange(N, dtype=float)}, difficulty=rng.integers(1, 6, N))
    levels = [1 + (4 * i + int(rng.integers(0, N))) // N % 5 for i in range(N)]
    with duckdb.connect(str(path)) as connection:
        for position, level in enumerate(levels):
            answer = {"content": f"so it is, quality {level}, number {position}", "role": "assistant"}
            if position % 2:
                answer["reasoning_content"] = f"step by step {position}"
            messages = [{"content": f"why {position}?", "role": "user"}, answer]
            connection.execute(
                "UPDATE samples SET messages = ? "
                "WHERE sample_id = (SELECT sample_id FROM dataset_samples WHERE position = ?)",
                [json.dumps(messages), position],
            )
    select("pool", ratio="0.5", strategy="influence", store=path, model="model", name="zebra")
    select("pool", ratio="0.2", strategy="influence", store=path, model="model", name="okapi")
    select("pool", ratio="1", strategy="influence", store=path, model="model", name="everything")
    return path


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copy(made, tmp_path / "s.duckdb"))


def query(store: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(store), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def drawn(store: Path, found: Judgment) -> dict[str, dict[str, int]]:
    """Arm to sample to planted quality, from the store's tables."""
    rows = query(
        store,
        "SELECT i.arm, CAST(i.sample_id AS VARCHAR), CAST(s.messages AS VARCHAR) FROM comparison_items AS i "
        f"JOIN samples AS s USING (sample_id) WHERE i.comparison_id = {found.comparison_id}",
    )
    arms: dict[str, dict[str, int]] = {}
    for arm, sample_id, messages in rows:
        arms.setdefault(arm, {})[sample_id] = level_in(messages)
    return arms


def members(store: Path, name: str) -> set[str]:
    return {
        row[0]
        for row in query(
            store,
            "SELECT CAST(sample_id AS VARCHAR) FROM selection_samples JOIN selections USING (selection_id) "
            f"WHERE name = '{name}'",
        )
    }


# samples of a selection ----------------------------------------------------------------------------------------------


def test_a_better_selection_is_found_with_the_slow_numbers(store: Path, judge: Any) -> None:
    found, server = judge(store=store, selection="zebra", sample=20)
    levels = drawn(store, found)
    zebra, rest = ([*levels[arm].values()] for arm in ("zebra", "rest"))
    assert (len(zebra), len(rest)) == (20, 20)
    assert levels["zebra"].keys() <= members(store, "zebra")
    assert not levels["rest"].keys() & members(store, "zebra")
    assert server.n_requests == 40
    scores = found.scores["reasoning_quality"]
    for arm, values in (("zebra", zebra), ("rest", rest)):
        low, high = stats.t.interval(0.95, 19, np.mean(values), stats.sem(values))
        assert (scores[arm]["mean"], scores[arm]["low"], scores[arm]["high"]) == pytest.approx(
            (np.mean(values), low, high)
        )
        assert scores[arm]["levels"] == [values.count(level) for level in range(1, 6)]
    (difference,) = found.differences
    assert difference["difference"] == pytest.approx(np.mean(zebra) - np.mean(rest))
    expected = stats.ttest_ind(zebra, rest, equal_var=False).confidence_interval(0.95)
    assert (difference["low"], difference["high"]) == pytest.approx((expected.low, expected.high))
    wins = sum((a > b) + (a == b) / 2 for a, b in itertools.product(zebra, rest)) / 400
    assert difference["superiority"] == pytest.approx(wins)
    assert wins > 0.9
    assert difference["mann_whitney_p"] == pytest.approx(stats.mannwhitneyu(zebra, rest).pvalue)
    assert difference["mann_whitney_p"] < 0.001
    assert (difference["n_pairs"], difference["wilcoxon_p"]) == (None, None)


def test_the_clinical_rubric_has_three_dimensions(store: Path, judge: Any) -> None:
    found, _ = judge("clinical", store=store, selection="zebra", sample=15)
    assert list(found.scores) == ["differential_diagnosis", "safety_check", "evidence_citation"]
    one, mirrored, same = found.differences
    assert one["difference"] == pytest.approx(-mirrored["difference"])
    assert one["mann_whitney_p"] == pytest.approx(mirrored["mann_whitney_p"])
    assert (same["difference"], same["low"], same["high"], same["mann_whitney_p"]) == (0, 0, 0, 1)
    rows = query(store, "SELECT dimension, count(*), min(rationale) FROM judgments GROUP BY ALL ORDER BY ALL")
    assert rows == [
        ("differential_diagnosis", 30, "planted"),
        ("evidence_citation", 30, "the same for all"),
        ("safety_check", 30, "reversed"),
    ]


def test_the_judge_is_blind(store: Path, judge: Any) -> None:
    _, server = judge(store=store, selection="zebra", against="okapi", sample=12, name="gnu", concurrency=1)
    # a request is the rubric, a question and an answer of the dataset, and settings
    prompts = [body["messages"][0]["content"] for body in server.bodies]
    for body, prompt in zip(server.bodies, prompts, strict=True):
        assert set(body) == {"model", "messages", "temperature", "max_tokens"}
        number = level_number(prompt)
        reasoning = f"<think>\nstep by step {number}\n</think>\n\n" if number % 2 else ""
        expected = f"{reasoning}so it is, quality {level_in(answer_of(body))}, number {number}"
        assert body["messages"] == load_rubric("reasoning").messages(f"why {number}?", expected)
    everything = json.dumps([server.bodies, server.headers])
    for secret in ("zebra", "okapi", "gnu", "pool", *members(store, "zebra")):
        assert secret not in everything


def level_number(prompt: str) -> int:
    found = re.search(r"why (\d+)\?", prompt)
    assert found is not None
    return int(found[1])


def test_the_order_is_shuffled_over_the_arms_and_recorded(store: Path, judge: Any) -> None:
    found, server = judge(store=store, selection="zebra", sample=20, concurrency=1)
    rows = query(
        store,
        "SELECT i.number, i.arm, d.position FROM comparison_items AS i JOIN dataset_samples AS d USING (sample_id) "
        f"WHERE i.comparison_id = {found.comparison_id} ORDER BY i.number",
    )
    assert [number for number, _, _ in rows] == list(range(40))
    asked = [level_number(body["messages"][0]["content"]) for body in server.bodies]
    assert asked == [position for _, _, position in rows]
    # a fair shuffle of 20 and 20 has about 20 changes of arm; 8 or fewer come once in 30,000
    changes = sum(one != other for (_, one, _), (_, other, _) in itertools.pairwise(rows))
    assert changes > 8
    assert [position for _, _, position in rows] != sorted(asked)


@pytest.mark.slow
def test_the_order_and_the_draw_follow_the_seed_alone(store: Path, made: Path, judge: Any) -> None:
    first, one = judge(store=store, selection="zebra", sample=10, concurrency=1)
    again, _ = judge(store=store, selection="zebra", sample=10, concurrency=1, seed=1)
    assert drawn(store, first) != drawn(store, again)
    copy = Path(shutil.copy(made, store.with_name("copy.duckdb")))
    fresh, three = judge(store=copy, selection="zebra", sample=10, concurrency=1)
    assert drawn(copy, fresh) == drawn(store, first)
    assert [body["messages"] for body in three.bodies] == [body["messages"] for body in one.bodies]
    assert fresh.scores == first.scores


def test_the_same_call_reads_everything_from_the_store(store: Path, judge: Any) -> None:
    first, server = judge(store=store, selection="zebra", sample=10)
    server.stop()
    chat = Server("judge-model", base_url=server.url, retries=0)
    again = run("reasoning", store=store, selection="zebra", sample=10, server=chat, name="later")
    assert (again.asked.n_asked, again.asked.n_cached) == (0, 20)
    assert again.comparison_id == first.comparison_id
    assert (again.scores, again.differences) == (first.scores, first.differences)
    assert query(store, "SELECT count(*), min(name) FROM comparisons") == [(1, "later")]
    ((result,),) = query(store, "SELECT CAST(result AS VARCHAR) FROM comparisons")
    assert json.loads(result)["scores"] == first.scores
    assert json.loads(result)["differences"] == first.differences
    assert query(store, "SELECT count(*) FROM comparison_items") == [(20,)]


def test_a_larger_sample_contains_the_smaller(store: Path, judge: Any) -> None:
    small, _ = judge(store=store, selection="zebra", sample=8)
    large, server = judge(store=store, selection="zebra", sample=20)
    for arm, texts in drawn(store, small).items():
        assert texts.items() <= drawn(store, large)[arm].items()
    assert (large.asked.n_cached, server.n_requests) == (16, 24)
    assert large.comparison_id != small.comparison_id


@pytest.mark.slow
def test_a_call_that_broke_off_goes_on(store: Path, made: Path, judge: Any) -> None:
    def failing(body: dict[str, Any], before: int) -> Step | str:
        return Step(status=500) if level_number(body["messages"][0]["content"]) % 3 else planted(body, before)

    with pytest.raises(RunFailedError, match="stopped answering"):
        judge(store=store, selection="zebra", sample=30, script=failing, concurrency=1)
    assert query(store, "SELECT count(*), count(result) FROM comparisons") == [(1, 0)]
    ((n,),) = query(store, "SELECT count(*) FROM replies WHERE content IS NOT NULL")
    found, server = judge(store=store, selection="zebra", sample=30)
    assert server.n_requests == 60 - n
    assert n > 0
    assert query(store, "SELECT count(*), count(result) FROM comparisons") == [(1, 1)]
    once, _ = judge(store=Path(shutil.copy(made, store.with_name("whole.duckdb"))), selection="zebra", sample=30)
    assert (once.scores, once.differences) == (found.scores, found.differences)


def test_swapped_arms_mirror_the_result(store: Path, judge: Any) -> None:
    found, _ = judge(store=store, selection="zebra", against="okapi", sample=10)
    mirrored, server = judge(store=store, selection="okapi", against="zebra", sample=10)
    assert server.n_requests == 0
    assert drawn(store, found) == drawn(store, mirrored)
    assert found.scores == {dimension: dict(reversed(arms.items())) for dimension, arms in mirrored.scores.items()}
    (one,), (other,) = found.differences, mirrored.differences
    assert (one["difference"], one["low"]) == pytest.approx((-other["difference"], -other["high"]))
    assert one["superiority"] == pytest.approx(1 - other["superiority"])
    assert one["mann_whitney_p"] == pytest.approx(other["mann_whitney_p"])


def test_a_text_in_both_arms_is_asked_about_once(store: Path, judge: Any) -> None:
    # okapi is a part of zebra, so the two draws overlap
    found, server = judge(store=store, selection="zebra", against="okapi", sample=12)
    arms = drawn(store, found)
    shared = arms["zebra"].keys() & arms["okapi"].keys()
    assert found.n_shared == len(shared) > 0
    assert server.n_requests == 24 - len(shared)
    numbers = query(store, "SELECT number, count(*), count(DISTINCT item_id) FROM comparison_items GROUP BY number")
    assert sorted(number for number, _, _ in numbers) == list(range(24 - len(shared)))
    assert sum(n == 2 for _, n, _ in numbers) == len(shared)
    assert {items for _, _, items in numbers} == {1}


def test_against_random_draws_from_the_whole_dataset(store: Path, judge: Any, caplog: Any) -> None:
    found, _ = judge(store=store, selection="zebra", against="random", sample=40)
    arms = drawn(store, found)
    assert (len(arms["zebra"]), len(arms["random"])) == (30, 40)
    chosen = members(store, "zebra")
    assert 0 < len(arms["random"].keys() & chosen) < 40
    assert "`zebra` has 30 samples, fewer than the 40 asked for" in caplog.text
    # what the whole dataset draws does not depend on the selection
    other, _ = judge(store=store, selection="okapi", against="random", sample=40)
    assert drawn(store, other)["random"] == arms["random"]


@pytest.mark.slow
def test_selections_go_by_number_too_and_may_share_a_name(store: Path, judge: Any) -> None:
    select("pool", ratio="0.1", strategy="random", store=store, name="zebra")
    found, _ = judge(store=store, selection="1", against="4", sample=5)
    assert [arm["name"] for arm in found.arms] == ["zebra (1)", "zebra (4)"]
    select("pool", ratio="0.3", strategy="random", store=store, name="rest")
    beside, _ = judge(store=store, selection="rest", sample=5)
    assert [arm["name"] for arm in beside.arms] == ["rest (5)", "rest"]


def test_a_grown_dataset_is_another_comparison(store: Path, judge: Any) -> None:
    first, _ = judge(store=store, selection="zebra", sample=20)
    with duckdb.connect(str(store)) as connection:
        connection.execute(
            "CREATE TABLE more AS SELECT uuid() AS id, i, json_array("
            "json_object('content', 'why ' || i || '?', 'role', 'user'), "
            "json_object('content', 'quality ' || 1 + i % 5, 'role', 'assistant')) AS messages "
            "FROM range(1000, 1200) AS r (i); "
            "INSERT INTO samples (sample_id, messages) SELECT id, messages FROM more; "
            "INSERT INTO dataset_samples SELECT 1, i, id, 1, i, 'train', NULL FROM more; DROP TABLE more"
        )
    grown, _ = judge(store=store, selection="zebra", sample=20)
    assert grown.comparison_id != first.comparison_id
    assert grown.scores["reasoning_quality"]["zebra"] == first.scores["reasoning_quality"]["zebra"]
    assert drawn(store, grown)["rest"] != drawn(store, first)["rest"]


@pytest.mark.slow
def test_what_is_missing_is_counted_by_arm(store: Path, judge: Any, caplog: Any) -> None:
    def script(body: dict[str, Any], before: int) -> Step | str:
        number = level_number(body["messages"][0]["content"])
        if number % 5 == 1:
            return "It is good." if number % 2 else "Score: 3.5\nRationale: x"
        return Step(status=500) if number % 10 == 3 else planted(body, before)

    found, _ = judge(store=store, selection="zebra", sample=30, script=script, concurrency=1)
    position = dict(query(store, "SELECT CAST(sample_id AS VARCHAR), position FROM dataset_samples"))
    for arm in found.arms:
        numbers = [position[one] for one in drawn(store, found)[arm["name"]]]
        unreadable = sum(number % 5 == 1 for number in numbers)
        no_reply = sum(number % 10 == 3 for number in numbers)
        assert (arm["n_drawn"], arm["n_unreadable"], arm["n_no_reply"]) == (30, unreadable, no_reply)
        assert arm["n_judged"] == 30 - unreadable - no_reply == found.scores["reasoning_quality"][arm["name"]]["n"]
    assert "means are biased" in caplog.text
    # no reply is asked for again; an unreadable one is only when that is wanted
    again, server = judge(store=store, selection="zebra", sample=30)
    assert server.n_requests == sum(arm["n_no_reply"] for arm in found.arms)
    assert sum(arm["n_unreadable"] for arm in again.arms) == sum(arm["n_unreadable"] for arm in found.arms)
    last, server = judge(store=store, selection="zebra", sample=30, retry_unreadable=True)
    assert server.n_requests == sum(arm["n_unreadable"] for arm in found.arms)
    assert [arm["n_judged"] for arm in last.arms] == [30, 30]
    assert last.comparison_id == found.comparison_id


def test_a_judge_that_says_nothing_useful_is_an_error(store: Path, judge: Any) -> None:
    with pytest.raises(RunFailedError, match="none of the 10 texts was judged: `Score` is missing"):
        judge(store=store, selection="zebra", sample=5, script=lambda *_: "I cannot judge.")
    assert query(store, "SELECT count(*), count(result) FROM comparisons") == [(1, 0)]


def test_every_judgment_with_its_text_and_arm_is_a_query(store: Path, judge: Any) -> None:
    judge(store=store, selection="zebra", sample=5)
    rows = query(
        store,
        """
        SELECT c.comparison_id, i.arm, j.dimension, j.score, j.rationale,
            coalesce(i.question, t.prompt) AS question, coalesce(i.answer, t.answer) AS answer
        FROM comparisons AS c
        JOIN comparison_items AS i USING (comparison_id)
        LEFT JOIN judgments AS j ON j.run_id = c.run_id AND j.item_id = i.item_id
        LEFT JOIN sample_texts AS t ON t.sample_id = i.sample_id
        ORDER BY c.comparison_id, i.number
        """,
    )
    assert len(rows) == 10
    assert {row[1] for row in rows} == {"zebra", "rest"}
    assert all(level_in(row[6]) == row[3] and row[5].startswith("why") for row in rows)


@pytest.mark.parametrize("reasoning", ["", "step\nby step"])
def test_an_answer_looks_as_models_write_it(reasoning: str) -> None:
    answer = {"role": "assistant", "content": "so", **({"reasoning_content": reasoning} if reasoning else {})}
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why?"}, answer]
    thought = f"<think>\n{reasoning}\n</think>\n\n" if reasoning else ""
    assert _texts(messages) == ("be brief\n\nwhy?", f"{thought}so")


# outputs of models ---------------------------------------------------------------------------------------------------


def outputs(folder: Path, name: str, levels: list[int], *, question: str = "question", output: str = "output") -> Path:
    """A file of outputs for the questions 0, 1, 2, ..."""
    rows = [{question: f"case {i}?", output: f"{name} thinks, quality {level}"} for i, level in enumerate(levels)]
    return write_jsonl(folder / f"{name}.jsonl", rows)


def test_two_models_are_compared_on_the_same_questions(tmp_path: Path, judge: Any) -> None:
    rng = np.random.default_rng(1)
    good, bad = rng.integers(2, 6, 50).tolist(), rng.integers(1, 5, 50).tolist()
    files = [f"lynx={outputs(tmp_path, 'a', good)}", f"civet={outputs(tmp_path, 'b', bad)}"]
    found, server = judge(store=tmp_path / "new.duckdb", outputs=files, sample=30)
    assert server.n_requests == 60
    rows = query(
        tmp_path / "new.duckdb",
        "SELECT question, max(answer) FILTER (WHERE arm = 'lynx'), max(answer) FILTER (WHERE arm = 'civet'), count(*) "
        "FROM comparison_items GROUP BY question",
    )
    assert len(rows) == 30
    assert {n for *_, n in rows} == {2}
    cases = [int(re.sub(r"\D", "", question)) for question, *_ in rows]
    assert all(level_in(one) == good[case] for case, (_, one, _, _) in zip(cases, rows, strict=True))
    a, b = (np.array([levels[case] for case in cases], float) for levels in (good, bad))
    (one,) = found.differences
    assert (one["first"], one["second"], one["n_pairs"]) == ("lynx", "civet", 30)
    assert one["difference"] == pytest.approx((a - b).mean())
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (one["low"], one["high"]) == pytest.approx((expected.low, expected.high))
    wilcoxon = stats.wilcoxon(a, b, correction=False, method="asymptotic").pvalue
    assert one["wilcoxon_p"] == pytest.approx(wilcoxon)
    assert one["mann_whitney_p"] == pytest.approx(stats.mannwhitneyu(a, b).pvalue)
    assert not re.search("lynx|civet", json.dumps([server.bodies, server.headers]))


def test_pairs_survive_a_missing_reply(tmp_path: Path, judge: Any) -> None:
    files = [f"a={outputs(tmp_path, 'a', [5] * 10)}", f"b={outputs(tmp_path, 'b', [1, 2, 3, 4, 5] * 2)}"]

    def script(body: dict[str, Any], before: int) -> Step | str:
        lost = "case 4?" in body["messages"][0]["content"] and "b thinks" in body["messages"][0]["content"]
        return Step(status=500) if lost else planted(body, before)

    found, _ = judge(store=tmp_path / "s.duckdb", outputs=files, script=script)
    (one,) = found.differences
    assert (one["n_pairs"], [arm["n_judged"] for arm in found.arms]) == (9, [10, 9])
    assert one["difference"] == pytest.approx(np.mean([4, 3, 2, 1, 4, 3, 2, 1, 0]))


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_outputs_come_in_any_container(tmp_path: Path, judge: Any, suffix: str) -> None:
    rows = [{"prompt": f"case {i}?", "response": f'"quality" {i}, quality {i}\nat last'} for i in (1, 2, 3)]
    path = tmp_path / f"other{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["prompt", "response"])
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        write_jsonl(path, rows)
    files = [f"a={outputs(tmp_path, 'a', [4, 4, 4, 4])}", f"b={path}"]
    found, _ = judge(store=tmp_path / "s.duckdb", outputs=files)
    assert found.scores["reasoning_quality"]["b"]["levels"] == [1, 1, 1, 0, 0]
    assert found.arms[0]["n_unshared"] == 1


def test_rows_that_cannot_be_judged_are_counted(tmp_path: Path, judge: Any, caplog: Any) -> None:
    good = [{"question": f"case {i}?", "output": f"quality {1 + i % 5}"} for i in range(6)]
    odd = [
        {"question": "", "output": "quality 1"},
        {"output": "quality 1"},
        {"question": "case 0?", "output": "  "},
        {"question": "case 1?", "output": None},
        {"question": "case 2?", "output": ["quality 5"]},
        {"question": " case  2?\n", "output": "quality 1"},
        {"question": "case 3?", "output": ["quality 1", "quality 2"]},
        {"question": "case 4?", "output": "quality 4"},
        {"question": "alone?", "output": "quality 4"},
    ]
    write_jsonl(tmp_path / "a.jsonl", good)
    path = write_jsonl(tmp_path / "b.jsonl", odd)
    path.write_text(path.read_text() + "{broken\n")
    caplog.set_level(logging.INFO)
    found, _ = judge(store=tmp_path / "s.duckdb", outputs=[f"a={tmp_path / 'a.jsonl'}", f"b={path}"])
    first, second = found.arms
    assert (first["n_rows"], first["n_unshared"], first["n_drawn"]) == (6, 4, 2)
    names = ("n_rows", "n_unreadable_rows", "n_without_question", "n_without_output", "n_repeated", "n_unshared")
    assert [second[name] for name in names] == [10, 1, 2, 3, 1, 1]
    assert second["n_drawn"] == 2
    # the first of two outputs to a question counts
    assert found.scores["reasoning_quality"]["b"]["levels"] == [0, 0, 0, 1, 1]
    assert "of 10 rows are left out: 1 that cannot be read" in caplog.text
    assert "the files share 2 questions, fewer than the 100 asked for" in caplog.text


def test_the_spacing_of_a_question_tells_no_arm(tmp_path: Path, judge: Any) -> None:
    files = []
    for name, space in (("a", " "), ("b", "\r\n")):
        rows = [{"question": f"case{space}{i}?{space}", "output": f"{name} quality {i}"} for i in (1, 2)]
        files.append(f"{name}={write_jsonl(tmp_path / f'{name}.jsonl', rows)}")
    _, server = judge(store=tmp_path / "s.duckdb", outputs=files)
    asked = [body["messages"][0]["content"] for body in server.bodies]
    assert len(asked) == 4
    assert all(re.search(r">>>\ncase [12]\? \n<<<", content) for content in asked)


def test_three_arms_and_equal_outputs(tmp_path: Path, judge: Any) -> None:
    one, two = outputs(tmp_path, "a", [3] * 20), outputs(tmp_path, "b", [4] * 20)
    found, server = judge(store=tmp_path / "s.duckdb", outputs=[f"x={one}", f"y={two}", f"z={one}"], sample=10)
    assert server.n_requests == 20
    assert found.n_shared == 10
    assert [(each["first"], each["second"], each["difference"]) for each in found.differences] == [
        ("x", "y", -1.0),
        ("x", "z", 0.0),
        ("y", "z", 1.0),
    ]
    assert [each["wilcoxon_p"] for each in found.differences] == [
        pytest.approx(2 / 2**10),
        1.0,
        pytest.approx(2 / 2**10),
    ]


@pytest.mark.slow
def test_the_draw_of_questions_is_the_same_for_any_order_of_rows_and_arms(tmp_path: Path, judge: Any) -> None:
    a, b = outputs(tmp_path, "a", [3] * 40), outputs(tmp_path, "b", [4] * 40)
    lines = a.read_text().splitlines(keepends=True)
    shuffled = tmp_path / "shuffled.jsonl"
    shuffled.write_text("".join(reversed(lines)))
    store = tmp_path / "s.duckdb"
    _, first = judge(store=store, outputs=[f"a={a}", f"b={b}"], sample=10)
    _, again = judge(store=store, outputs=[f"b={b}", f"a={shuffled}"], sample=10)
    assert (first.n_requests, again.n_requests) == (20, 0)
    larger, more = judge(store=store, outputs=[f"a={a}", f"b={b}"], sample=25)
    assert (more.n_requests, larger.asked.n_cached) == (30, 20)


@pytest.mark.parametrize(
    ("columns", "options", "read"),
    [
        (("output", "answer"), {}, "output"),
        (("answer",), {}, "answer"),
        (("generated_text", "answer"), {}, "generated_text"),
        (("model_outputs", "gold"), {}, "model_outputs"),
        (("output", "answer"), {"output_column": "answer"}, "answer"),
        (("mine", "output"), {"output_column": "mine"}, "mine"),
    ],
)
def test_the_column_of_the_output(
    tmp_path: Path, judge: Any, columns: tuple[str, ...], options: dict[str, str], read: str
) -> None:
    levels = {name: 5 if name == read else 1 for name in columns}
    rows = [
        {"question": f"case {i}?", **{name: f"{i} quality {level}" for name, level in levels.items()}} for i in range(3)
    ]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    found, _ = judge(store=tmp_path / "s.duckdb", outputs=[f"a={path}", f"b={path}"], **options)
    assert found.scores["reasoning_quality"]["a"]["levels"] == [0, 0, 0, 0, 3]


def test_a_column_of_questions_can_be_named(tmp_path: Path, judge: Any) -> None:
    path = outputs(tmp_path, "a", [3, 4], question="input")
    options = {"store": tmp_path / "s.duckdb", "outputs": [f"a={path}", f"b={path}"]}
    with pytest.raises(InputError, match="no column of questions: looked for `question`, `prompt`, found `input`"):
        judge(**options)
    assert judge(question_column="input", **options)[0].arms[0]["n_judged"] == 2


# bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selection": "zebr"}, "no selection `zebr`.*did you mean `zebra`"),
        ({"selection": "99"}, "no selection `99`"),
        ({"selection": "zebra", "against": "nothing"}, "no selection `nothing`"),
        ({"selection": "zebra", "against": "1"}, "are the same selection, 1"),
        ({"selection": "everything"}, "nothing is left to judge in `rest`: selection `everything` took the whole"),
        ({"selection": "zebra", "sample": 1}, "sample=1 is out of range.*the paper"),
        ({"selection": "zebra", "sample": 0}, "sample=0 is out of range"),
        ({"selection": "zebra", "name": "3"}, "name `3` reads as a number"),
        ({}, "nothing to judge was given"),
        ({"selection": "zebra", "outputs": ["a=x.jsonl"]}, "a selection and outputs were given"),
        ({"selection": "zebra", "output_column": "x"}, "output_column has no effect without outputs"),
        ({"outputs": ["a=a.jsonl"]}, "one arm alone, `a`"),
        ({"outputs": "a=a.jsonl"}, "one arm alone, `a`"),
        ({"outputs": ["a=a.jsonl", "b.jsonl"]}, "outputs `b.jsonl` is not of the form NAME=FILE"),
        ({"outputs": ["a=a.jsonl", "a=b.jsonl"]}, "outputs names `a` twice"),
        ({"outputs": ["a=a.jsonl", "b=none.jsonl"]}, "no such file"),
        ({"outputs": ["a=a.jsonl", "b=other.jsonl"]}, "no question is in every file.*`a` has 3, `b` has 2"),
        ({"outputs": ["a=a.jsonl", "b=empty.jsonl"]}, "`empty.jsonl` is empty"),
        (
            {"outputs": ["a=a.jsonl", "b=columns.jsonl"]},
            "no column of model outputs.*found `question`, `text`",
        ),
        ({"outputs": ["a=a.jsonl", "b=b.jsonl"], "output_column": "x"}, "looked for `x`, found `question`"),
        ({"outputs": ["a=a.jsonl", "b=b.jsonl"], "against": "rest"}, "against has no effect without selection"),
        ({"rubric": "style", "selection": "zebra"}, "rubric `style` is not known"),
    ],
)
def test_bad_input_is_refused_before_anything_is_asked(
    store: Path,
    judge: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    outputs(Path(), "a", [1, 2, 3])
    outputs(Path(), "b", [1, 2, 3])
    write_jsonl(Path("other.jsonl"), [{"question": "else?", "output": "x"}, {"question": "what?", "output": "x"}])
    write_jsonl(Path("empty.jsonl"), [])
    write_jsonl(Path("columns.jsonl"), [{"question": "case 0?", "text": "x"}])
    with pytest.raises(UsageError, match=re.compile(message, re.DOTALL)):
        judge(store=store, **options)
    assert query(store, "SELECT count(*) FROM comparisons") == [(0,)]


def test_a_wrong_keyword_names_the_right_one() -> None:
    with pytest.raises(TypeError, match=r"judge\(\) has no option `output`; did you mean `outputs`"):
        run("reasoning", output=["a=a.jsonl", "b=b.jsonl"], server=Server("m"))  # type: ignore[call-arg]


def test_the_store_comes_from_the_environment(tmp_path: Path, judge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIQ_STORE", str(tmp_path / "mine.duckdb"))
    path = outputs(tmp_path, "a", [3, 4])
    found, _ = judge(outputs=(f"a={path}", f"b={path}"))
    assert query(tmp_path / "mine.duckdb", "SELECT comparison_id FROM comparisons") == [(found.comparison_id,)]
    assert repr(found).startswith(f"Judgment(comparison_id={found.comparison_id}, ")


def test_a_missing_store_is_an_error_for_a_selection(tmp_path: Path, judge: Any) -> None:
    with pytest.raises(DiqError, match="there is no store"):
        judge(store=tmp_path / "none.duckdb", selection="zebra")


# the command ---------------------------------------------------------------------------------------------------------


def test_the_command_prints_json_and_tables(store: Path) -> None:
    with ScriptedServer(planted) as server:
        common = [
            "--store",
            str(store),
            "--base-url",
            server.url,
            "--model",
            "m",
            "--sample",
            "10",
            "--price-prompt",
            "2",
        ]
        found = json.loads(stdout_of(command, "judge", "reasoning", "--selection", "zebra", "--json", *common))
        assert found["rubric"] == "reasoning"
        assert found["asked"]["cost"] == pytest.approx(20 * 100 * 2 / 1e6)
        assert [arm["n_judged"] for arm in found["arms"]] == [10, 10]
        shown = stdout_of(command, "judge", "clinical", "--selection", "zebra", *common)
        for part in ("safety_check", "zebra", "rest", "Mann-Whitney p", "95 % interval", "asked about 20 texts"):
            assert part in shown
        wrong = refused(command, "judge", "clinical", "--outputs", "a.jsonl", *common)
        assert isinstance(wrong, UsageError)
        assert "NAME=FILE" in str(wrong)


@pytest.mark.slow
def test_the_real_server_of_transformers_judges(tmp_path: Path) -> None:
    rubric = load_rubric("reasoning")
    levels = {"a": [4, 5], "b": [2, 1]}
    files = [f"{name}={outputs(tmp_path, name, found)}" for name, found in levels.items()]
    lessons = [
        (
            rubric.messages(f"case {i}?", f"{name} thinks, quality {level}"),
            f"Score: {level}\nRationale: {name} {i}",
        )
        for name, found in levels.items()
        for i, level in enumerate(found)
    ]
    model = teach(tmp_path / "taught", lessons)
    with transformers_server(model) as url:
        found = run(
            "reasoning",
            store=tmp_path / "s.duckdb",
            server=Server(str(model), base_url=url, max_tokens=64, concurrency=2),
            outputs=files,
        )
    assert (found.asked.n_read, found.asked.n_lenient) == (4, 0)
    assert found.asked.prompt_tokens > 0
    assert {name: one["levels"] for name, one in found.scores["reasoning_quality"].items()} == {
        "a": [0, 0, 0, 1, 1],
        "b": [1, 1, 0, 0, 0],
    }
