"""``diq difficulty annotate`` as a user runs it: against a scripted server, and against the one of transformers."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

import diq
from chat_server import (
    ScriptedServer,
    Step,
    asked_question,
    difficulty_reply,
    teach,
    transformers_server,
)
from conftest import Forked, ingest_rows, run_forked, stdout_of, wait_until
from diq.base.errors import RunFailedError, UsageError
from diq.cli import diq as commands
from diq.cli import main
from diq.difficulty.annotate import NO_QUESTION, AnnotateSummary, read_questions
from diq.difficulty.annotate import annotate as run
from diq.judging import ask, chat
from diq.judging.options import Server
from diq.judging.rubrics import load_rubric
from diq.store.store import Store

KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(chat, "_FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(ask, "COMMIT_SECONDS", 0.02)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)


def levels(question: str) -> tuple[int, int, int]:
    """What the scripted model thinks of a question: a pure function of it."""
    rng = random.Random(question)
    return rng.randint(1, 5), rng.randint(1, 5), rng.randint(1, 5)


def rate(body: dict[str, Any], _: int = 0) -> str:
    return difficulty_reply(*levels(asked_question(body)))


def test_one_question_that_is_moderated_stays_alone_and_a_failure_inside_a_200_is_asked_again(tmp_path: Path) -> None:
    store = ingest(tmp_path, "data", pairs(6))
    flagged = Step(status=403, body={"error": {"code": 403, "message": "your input was flagged"}})
    upstream = Step(body={"error": {"message": "Rate limited upstream", "code": 502}})

    def script(body: dict[str, Any], before: int) -> Step | str:
        question = asked_question(body)
        if "q2" in question:
            return flagged
        return upstream if "q4" in question and before == 0 else rate(body)

    with ScriptedServer(script) as server:
        found = run("data", store=store, server=Server("m", base_url=server.url))
        assert server.n_requests == 7
    assert found.asked is not None
    assert (found.asked.n_read, found.asked.n_no_reply, found.asked.n_retries) == (5, 1, 1)
    assert found.asked.reasons == {"HTTP 403: your input was flagged": 1}


def test_402_in_the_middle_keeps_what_came(tmp_path: Path) -> None:
    store = ingest(tmp_path, "data", pairs(6))
    is_over = [True]

    def script(body: dict[str, Any], _: int) -> Step | str:
        stop = is_over[0] and server.n_requests > 3
        return Step(status=402, body={"error": {"message": "no credits"}}) if stop else rate(body)

    with ScriptedServer(script) as server:
        one = Server("m", base_url=server.url, concurrency=1)
        with pytest.raises(RunFailedError, match=r"has to pay first .*no credits") as error:
            run("data", store=store, server=one)
        assert "goes on where it stopped" in error.value.hint
        is_over[0] = False
        found = run("data", store=store, server=one)
    assert found.asked is not None
    assert (found.asked.n_cached, found.asked.n_read) == (3, 3)


def ingest(tmp_path: Path, name: str, rows: list[dict[str, str]], store: Path | None = None) -> Path:
    path = store or tmp_path / "s.duckdb"
    ingest_rows(path, rows, name)
    return path


def pairs(n: int, answers: int = 1, prefix: str = "q") -> list[dict[str, str]]:
    """n questions with so many answers each."""
    return [{"question": f"{prefix}{i}", "answer": f"a{j}"} for j in range(answers) for i in range(n)]


def rows(store: Path, query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(store), read_only=True) as connection:
        return connection.execute(query).fetchall()


SCORES = """
SELECT p.prompt, p.answer, f.knowledge, f.reasoning, f.overall, f.knowledge_level, f.reasoning_level, f.overall_level,
    f.reason
FROM difficulty_scores AS f JOIN sample_texts AS p USING (sample_id)
JOIN dataset_samples AS d USING (sample_id) JOIN datasets AS s USING (dataset_id)
WHERE s.name = '{}' ORDER BY ALL
"""
KEPT = "SELECT DISTINCT p.prompt FROM sample_texts AS p JOIN difficulty_scores USING (sample_id)"
STOPPED = "\nStopped. What was finished is kept; the same command goes on.\n"
STATE = (
    "SELECT d.name, r.method, x.state FROM run_datasets AS x JOIN runs AS r USING (run_id) "
    "JOIN datasets AS d USING (dataset_id) ORDER BY ALL"
)


def annotate(store: Path, url: str, dataset: str = "pool", *, concurrency: int = 4, **more: Any) -> AnnotateSummary:
    return run(dataset, store=store, server=Server("m", base_url=url, concurrency=concurrency, retries=2), **more)


def expected(given: list[dict[str, str]]) -> list[tuple[Any, ...]]:
    found = []
    for one in given:
        scores = levels(one["question"])
        found.append((one["question"], one["answer"], *map(float, scores), *scores, None))
    return sorted(found)


def test_every_sample_gets_the_ratings_of_its_question_and_each_question_is_asked_once(tmp_path: Path) -> None:
    given = pairs(30, answers=3)
    store = ingest(tmp_path, "pool", given)
    with ScriptedServer(rate) as server:
        found = annotate(store, server.url)
        assert set(server.counts.values()) == {1}
    assert rows(store, SCORES.format("pool")) == expected(given)
    assert (found.n_samples, found.n_questions, found.n_annotated, found.n_missing) == (90, 30, 90, 0)
    assert found.asked is not None
    assert (found.asked.n_asked, found.asked.n_read, found.asked.n_lenient) == (30, 30, 0)
    assert found.is_sealed
    assert rows(store, STATE) == [("pool", "annotation", "sealed")]
    for number, dimension in enumerate(("knowledge", "reasoning", "overall")):
        counts = [sum(levels(one["question"])[number] == level for one in given) for level in range(1, 6)]
        assert found.levels[dimension] == counts
    coverage = rows(store, "SELECT dimension, n_scored, n_missing, state FROM score_coverage ORDER BY ALL")
    assert coverage == [(one, 90, 0, "sealed") for one in ("knowledge", "overall", "reasoning")]
    (joined,) = rows(
        store,
        "SELECT count(*) FROM difficulty_scores AS f JOIN judgments AS j USING (run_id, item_id) "
        "WHERE j.dimension = 'reasoning' AND j.score = f.reasoning AND j.rationale = 'some steps'",
    )
    assert joined == (90,)


@pytest.mark.slow
def test_datasets_that_share_questions_ask_once(tmp_path: Path) -> None:
    store = ingest(tmp_path, "pool", pairs(20))
    # ten questions with other answers, and ten samples that are the very same
    ingest(tmp_path, "other", [*pairs(10, answers=2, prefix="q")[10:], *pairs(20)[10:], *pairs(5, prefix="new")], store)
    with ScriptedServer(rate) as server:
        annotate(store, server.url)
        assert server.n_requests == 20
        found = annotate(store, server.url, "other")
        assert found.asked is not None
        assert (found.n_questions, found.asked.n_cached, found.asked.n_asked) == (25, 20, 5)
        assert set(server.counts.values()) == {1}
        assert found.is_sealed
    third = ingest(tmp_path, "third", pairs(3, prefix="q"), store)
    # everything is there: no server is needed
    found = annotate(third, "http://127.0.0.1:1/v1", "third")
    assert found.is_sealed
    assert found.n_annotated == 3
    assert len(rows(store, "FROM replies")) == 25


@pytest.mark.slow
def test_a_sample_is_drawn_by_the_seed_and_a_larger_one_holds_it(tmp_path: Path) -> None:
    given = pairs(40, answers=2)
    store = ingest(tmp_path, "pool", given)
    asked: dict[tuple[int, int], list[str]] = {}
    with ScriptedServer(rate) as server:
        for n, seed in ((10, 0), (25, 0), (10, 1)):
            before = server.n_requests
            found = annotate(store, server.url, sample=n, seed=seed, concurrency=1)
            assert found.n_questions == n
            assert not found.is_sealed
            asked[n, seed] = [asked_question(body) for body in server.bodies[before:]]
        assert set(server.counts.values()) == {1}
    assert len(asked[10, 0]) == 10
    assert len(asked[25, 0]) == 15
    # the draw of another seed met some that were there
    assert len(asked[10, 1]) < 10
    assert asked[10, 0] != sorted(asked[10, 0])
    n_rows = 2 * sum(map(len, asked.values()))
    assert len(rows(store, "FROM difficulty_scores")) == n_rows
    assert found.n_missing == 80 - n_rows
    assert rows(store, STATE) == [("pool", "annotation", "open")]
    # another store, other companions, another order: the same questions are drawn
    other = tmp_path / "other"
    other.mkdir()
    again = ingest(other, "pool", given[::-1])
    with ScriptedServer(rate) as server:
        annotate(again, server.url, sample=10, concurrency=1)
        assert [asked_question(body) for body in server.bodies] == asked[10, 0]
        whole = annotate(again, server.url)
        assert whole.is_sealed
        assert set(server.counts.values()) == {1}
    assert rows(again, SCORES.format("pool")) == expected(given)


@pytest.mark.parametrize("sample", [1, 7, 30, 99, None])
def test_the_draw_does_not_depend_on_how_much_is_read_at_once(
    tmp_path: Path, sample: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ingest(tmp_path, "pool", pairs(30, answers=3))
    whole, _ = read_questions(store, 1, None, 5)
    monkeypatch.setattr(sys.modules["diq.difficulty.annotate"], "_ROWS", 4)
    found, blank = read_questions(store, 1, sample, 5)
    wanted = list(dict.fromkeys(whole.column("item_id").to_pylist()))[:sample]
    assert found.to_pylist() == [row for row in whole.to_pylist() if row["item_id"] in wanted]
    assert len(found) == 3 * len(wanted)
    assert blank == []


def test_a_sample_without_a_question_is_a_row_with_the_reason(tmp_path: Path) -> None:
    store = ingest(tmp_path, "pool", pairs(3))
    with duckdb.connect(str(store)) as connection:
        for number, text in enumerate(('[{"content":" \\n ","role":"user"},', "[")):
            connection.execute(
                "INSERT INTO samples VALUES (?, ?, NULL)",
                [f"0000000{number}-0000-0000-0000-000000000000", f'{text}{{"content":"a","role":"assistant"}}]'],
            )
            connection.execute(
                "INSERT INTO dataset_samples VALUES (1, ?, ?, 1, 9, 'train', NULL)",
                [10 + number, f"0000000{number}-0000-0000-0000-000000000000"],
            )
    with ScriptedServer(rate) as server:
        found = annotate(store, server.url)
        assert server.n_requests == 3
        assert annotate(store, server.url).reasons == found.reasons == {NO_QUESTION: 2}
    assert (found.n_questions, found.n_annotated, found.n_no_score, found.is_sealed) == (3, 3, 2, True)


@pytest.mark.slow
def test_unreadable_replies_are_rows_and_absent_ones_are_missing(tmp_path: Path) -> None:
    healed = False

    def script(body: dict[str, Any], _: int) -> Step | str:
        question = asked_question(body)
        if not healed and question in ("q1", "q2"):
            return "4 or 5, who knows"
        if not healed and question == "q3":
            return Step(status=500)
        return rate(body)

    store = ingest(tmp_path, "pool", pairs(6, answers=2))
    ingest(tmp_path, "other", pairs(2), store)
    with ScriptedServer(script) as server:
        found = annotate(store, server.url)
        assert (found.n_annotated, found.n_no_score, found.n_missing, found.is_sealed) == (6, 4, 2, False)
        assert found.asked is not None
        assert (found.asked.n_unreadable, found.asked.n_no_reply) == (2, 1)
        assert sum(found.reasons.values()) == 4
        assert all(reason.startswith("the reply could not be read: ") for reason in found.reasons)
        # the listed command finds exactly what was not read
        query = found.list_failures.removeprefix('diq sql "').removesuffix('"')
        failures = rows(store, f"SELECT attempt, content FROM ({query}) ORDER BY ALL")
        assert failures == [(1, None), (2, "4 or 5, who knows"), (2, "4 or 5, who knows")]
        # the other dataset learns of the failure without asking
        before = server.n_requests
        other = annotate(store, server.url, "other")
        assert (other.n_annotated, other.n_no_score, other.is_sealed, server.n_requests) == (1, 1, True, before)
        healed = True
        second = annotate(store, server.url)
        assert second.asked is not None
        assert (second.asked.n_asked, second.n_missing, second.n_no_score, second.is_sealed) == (1, 0, 4, True)
        third = annotate(store, server.url, retry_unreadable=True)
        assert third.asked is not None
        assert (third.asked.n_asked, third.n_no_score, third.n_annotated) == (2, 0, 12)
    assert rows(store, SCORES.format("pool")) == expected(pairs(6, answers=2))
    # also where nothing was asked for
    assert rows(store, SCORES.format("other")) == expected(pairs(2))


def test_a_dry_run_asks_and_writes_nothing(tmp_path: Path) -> None:
    store = ingest(tmp_path, "pool", pairs(12, answers=2))
    before = store.read_bytes()
    with ScriptedServer(rate) as server:
        to = Server("m", base_url=server.url, max_tokens=100, price_prompt=3.0, price_completion=5.0, concurrency=2)
        found = run("pool", store=store, server=to, dry_run=True)
        assert (server.n_requests, found.n_questions, found.n_to_ask) == (0, 12, 12)
        assert store.read_bytes() == before
        run("pool", store=store, server=to)
        characters = sum(len(one["content"]) for body in server.bodies for one in body["messages"])
        assert found.prompt_tokens == characters // 4
        assert found.cost_prompts == pytest.approx(characters // 4 * 3 / 1e6)
        assert found.cost_limit == pytest.approx((characters // 4 * 3 + 12 * 100 * 5) / 1e6)
        again = run("pool", store=store, server=to, dry_run=True)
        assert (again.n_to_ask, again.prompt_tokens, again.cost_limit) == (0, 0, 0)


def test_wrong_use(tmp_path: Path) -> None:
    store = ingest(tmp_path, "pool", pairs(2))
    with pytest.raises(UsageError, match="`pol`"):
        annotate(store, "http://127.0.0.1:1/v1", "pol")
    with pytest.raises(UsageError, match=r"sample=0 is out of range\s.*leave it out"):
        annotate(store, "http://127.0.0.1:1/v1", sample=0)
    with pytest.raises(RunFailedError, match="no server answers"):
        annotate(store, "http://127.0.0.1:1/v1")
    assert rows(store, "FROM difficulty_scores") == []


def test_the_store_comes_from_the_environment_and_a_wrong_keyword_names_the_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIQ_STORE", str(ingest(tmp_path, "pool", pairs(3))))
    found = run("pool", server=Server("m"), dry_run=True)
    assert (found.n_questions, repr(found)) == (
        3,
        "AnnotateSummary(dataset='pool', model='m', n_samples=3, n_questions=3, n_annotated=0, ...)",
    )
    with pytest.raises(TypeError, match=r"annotate\(\) has no option `samples`; did you mean `sample`"):
        run("pool", server=Server("m"), samples=2)  # type: ignore[call-arg]


# the command -------------------------------------------------------------------------------------------------------


def run_command(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    words = ["difficulty", "annotate", "pool", "--store", "s.duckdb", *arguments]
    return run_forked(main, words, folder=cwd, **variables)


@pytest.mark.slow
def test_the_command_shows_what_it_did(tmp_path: Path) -> None:
    ingest(tmp_path, "pool", pairs(8))
    options = ("--model", "m", "--price-prompt", "1", "--price-completion", "2")
    with ScriptedServer(rate, model="m") as server:
        plan = run_command(*options, "--dry-run", cwd=tmp_path, OPENAI_BASE_URL=server.url)
        assert "prompt tokens (characters / 4)" in plan.stdout
        assert server.n_requests == 0
        part = run_command(*options, "--sample", "3", cwd=tmp_path, OPENAI_BASE_URL=server.url)
        assert (part.returncode, part.stderr) == (0, "")
        assert "`diq difficulty train` takes them as labels" in part.stdout
        assert "samples not rated yet" in part.stdout
        done = run_command(*options, "--json", cwd=tmp_path, OPENAI_BASE_URL=server.url)
        answer = json.loads(done.stdout)
        assert (answer["n_annotated"], answer["asked"]["n_cached"], answer["asked"]["n_asked"]) == (8, 3, 5)
        assert answer["asked"]["cost"] == pytest.approx((500 + 2 * 100) / 1e6)
        assert "n_to_ask" not in answer
        wrong = run_command("--model", "n", cwd=tmp_path, OPENAI_BASE_URL=server.url)
        assert wrong.returncode == 2
        assert wrong.stderr.startswith("Error: the server at")
        assert "`n`" in wrong.stderr


def test_the_command_lists_what_was_not_read(tmp_path: Path) -> None:
    ingest(tmp_path, "pool", pairs(4))

    def script(body: dict[str, Any], _: int) -> Step | str:
        refuses = {"q1": "about four, I think", "q2": Step(status=400, body={"detail": "not that one"})}
        return refuses.get(asked_question(body), rate(body))

    with ScriptedServer(script) as server:
        done = run_command("--model", "m", "--base-url", server.url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for part in ("about four, I think", "HTTP 400: not that one", 'diq sql "from replies where run_id = 1'):
        assert part in done.stdout


@pytest.mark.slow
def test_a_wrong_key_is_named_by_its_variable_and_written_nowhere(tmp_path: Path) -> None:
    store = ingest(tmp_path, "pool", pairs(20))
    said = ""
    with ScriptedServer(rate, key="another") as server:
        for debug in ((), ("--debug",)):
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "diq",
                    *debug,
                    "difficulty",
                    "annotate",
                    "pool",
                    "--store",
                    str(store),
                    "--model",
                    "m",
                    "--base-url",
                    server.url,
                    "--api-key-variable",
                    "CLINIC_KEY",
                ],
                capture_output=True,
                text=True,
                env={**os.environ, "CLINIC_KEY": KEY, "OPENAI_LOG": "debug"},
                check=False,
            )
            assert done.returncode == (1 if debug else 2)
            assert "$CLINIC_KEY is set, but was not accepted" in done.stderr
            said += done.stdout + done.stderr
        assert server.n_requests == 2
    assert KEY not in said
    # a server that says it back in its replies and errors
    loud = ScriptedServer(lambda body, _: KEY if "q1" in str(body) else Step(status=400, body={"detail": KEY}), key=KEY)
    with loud as server:
        done = run_command(
            "--model", "m", "--base-url", server.url, "--concurrency", "20", "--json", cwd=tmp_path, OPENAI_API_KEY=KEY
        )
        assert done.returncode == 0, done.stderr
        assert "[key]" in done.stdout
        assert KEY not in done.stdout + done.stderr
    assert KEY.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())


def test_the_client_is_not_loaded_for_help() -> None:
    code = (
        "import sys; from diq.cli import difficulty, options; import diq; diq.__all__; print('openai' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    shown = stdout_of(commands, "difficulty", "annotate", "--help")
    for option in ("--base-url", "--api-key-variable", "--sample", "--retry-unreadable", "--dry-run", "--price-prompt"):
        assert option in shown


@pytest.mark.slow
def test_a_temperature_may_be_left_to_the_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ingest(tmp_path, "pool", pairs(2))
    store = str(tmp_path / "s.duckdb")
    with ScriptedServer(rate) as server:
        base = ["difficulty", "annotate", "pool", "--store", store, "--model", "m", "--base-url", server.url, "--json"]
        main([*base, "--temperature", "default"])
        main([*base, "--temperature", "0.7"])
        main(base)
        assert [body.get("temperature") for body in server.bodies] == [None, None, 0.7, 0.7, 0.0, 0.0]
    assert len({json.loads(line)["asked"]["run_id"] for line in capsys.readouterr().out.splitlines()}) == 3
    with pytest.raises(SystemExit) as caught:
        main([*base, "--temperature", "warm"])
    assert caught.value.code == 2


# killed ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stopped_or_killed_annotation_goes_on_and_asks_for_nothing_twice(tmp_path: Path) -> None:
    given = pairs(120, answers=2)
    store = ingest(tmp_path, "pool", given)
    rng = random.Random(0)
    kept: set[str] = set()
    with ScriptedServer(lambda body, _: Step(rate(body), delay_s=0.04)) as server:
        command = ["difficulty", "annotate", "pool", "--store", str(store)]
        command += ["--model", "m", "--base-url", server.url, "--concurrency", "4", "--json"]
        counts: dict[str, int] = {}
        for end in (signal.SIGINT, signal.SIGKILL, signal.SIGKILL):
            process = Forked(main, command, folder=tmp_path)
            enough = server.n_requests + 30
            wait_until(lambda enough=enough, process=process: server.n_requests >= enough or not process.is_alive)
            # no matter in which moment: between two requests, or within a commit
            time.sleep(rng.random() * 0.1)
            os.kill(process.pid, end)
            ended = process.wait()
            wait_until(lambda: server.n_open == 0)
            assert all(server.counts[question] == counts[question] for question in kept)
            before, kept, counts = kept, {row[0] for row in rows(store, KEPT)}, dict(server.counts)
            assert before <= kept <= set(counts)
            if end is signal.SIGINT:
                assert (ended.returncode, ended.stderr) == (130, STOPPED)
                # only what was in flight is lost
                assert len(kept) >= server.n_requests - 4
        assert len(kept) < 120
        summary = json.loads(run_forked(main, command, folder=tmp_path).stdout)
        assert summary["is_sealed"]
        assert (summary["asked"]["n_cached"], summary["asked"]["n_asked"]) == (len(kept), 120 - len(kept))
        assert all(server.counts[question] == counts[question] for question in kept)
    assert rows(store, SCORES.format("pool")) == expected(given)
    other = tmp_path / "undisturbed"
    other.mkdir()
    undisturbed = ingest(other, "pool", given)
    with ScriptedServer(rate) as server:
        annotate(undisturbed, server.url)
    for query in (
        "SELECT item_id, attempt, content, finish_reason, parsing, problem, prompt_tokens FROM replies ORDER BY ALL",
        "FROM judgments ORDER BY ALL",
        "FROM difficulty_scores ORDER BY ALL",
    ):
        assert rows(store, query) == rows(undisturbed, query)


# the server of transformers ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """``transformers serve`` on a model that has learnt how to rate six questions; its address and the model's name."""
    rubric = load_rubric("difficulty")
    taught = [(rubric.messages(f"q{i}"), difficulty_reply(*levels(f"q{i}"))) for i in range(6)]
    folder = teach(tmp_path_factory.mktemp("served") / "rater", taught)
    with transformers_server(folder) as url:
        yield url, str(folder)


@pytest.mark.slow
def test_the_server_of_transformers(real_server: tuple[str, str], tmp_path: Path) -> None:
    url, model = real_server
    given = pairs(6, answers=2)
    store = ingest(tmp_path, "pool", given)
    done = run_command("--model", model, "--base-url", url, "--json", "--max-tokens", "400", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["n_annotated"], summary["is_sealed"]) == (12, True)
    assert (summary["asked"]["n_read"], summary["asked"]["n_lenient"], summary["asked"]["n_requests"]) == (6, 0, 6)
    assert summary["asked"]["prompt_tokens"] > summary["asked"]["completion_tokens"] > 0
    assert rows(store, SCORES.format("pool")) == expected(given)
    assert rows(store, "SELECT DISTINCT finish_reason, parsing FROM replies") == [("stop", "strict")]
    # a reply that ends too soon says so, twice
    ingest(tmp_path, "pool2", pairs(2), store)
    cut = run("pool2", store=store, server=Server(model, base_url=url, temperature=1e-6, max_tokens=2))
    assert all("raise --max-tokens" in reason for reason in cut.reasons)
    assert (cut.n_no_score, cut.asked and cut.asked.n_requests) == (2, 4)
    # it is pinned to its model, and says so
    wrong = run_command("--model", "another", "--base-url", url, "--retries", "0", cwd=tmp_path)
    assert wrong.returncode == 1
    assert "Server is pinned to" in wrong.stderr


def test_the_python_interface(real_server: tuple[str, str], tmp_path: Path) -> None:
    url, model = real_server
    store = ingest(tmp_path, "pool", pairs(3))
    found = diq.annotate("pool", store=store, server=diq.Server(base_url=url, model=model))
    assert found.n_annotated == 3
    with Store(store, read_only=True) as opened:
        (named,) = opened.rows("store/list_models")
    assert (named["model_id"], named["name"], named["source"]) == (f"api:{model}", model, url)


@pytest.mark.slow
def test_two_annotations_at_once_pay_once(tmp_path: Path) -> None:
    given = pairs(40, answers=2)
    store = ingest(tmp_path, "pool", given)
    folders = [tmp_path / name for name in ("one", "other")]
    with ScriptedServer(lambda body, _: Step(rate(body), delay_s=0.1)) as server:
        command = ["difficulty", "annotate", "pool", "--store", str(store)]
        command += ["--model", "m", "--base-url", server.url, "--concurrency", "2"]
        for one in folders:
            one.mkdir()
        first = Forked(main, command, folder=folders[0])
        wait_until(lambda: server.n_requests >= 4)
        second = run_forked(main, command, folder=folders[1])
        assert second.returncode == 1
        assert "another process asks `m` the questions of run" in second.stderr
        assert first.wait().returncode == 0
        assert max(server.counts.values()) == 1
        assert run_forked(main, command, folder=folders[1]).returncode == 0
        assert max(server.counts.values()) == 1
    assert rows(store, SCORES.format("pool")) == expected(given)
    assert not list(store.parent.glob(".*.lock"))
