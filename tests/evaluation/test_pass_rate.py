"""Pass rates: what can be verified, rates against a count over the kept answers, resume, and selections by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from chat_server import ScriptedServer, Step, teach
from conftest import ingest_rows, invoke, stdout_of
from diq.base.errors import MissingScoresError, RunFailedError, UsageError
from diq.cli import diq as command
from diq.evaluation import generations, protocol
from diq.evaluation.pass_rate import score_pass_rate
from diq.evaluation.rescore import rescore
from diq.evaluation.verify import is_right, question_of
from diq.formats.layouts.choices import at_the_end
from diq.selection.select import select
from diq.store.store import Store

K = 4
N = 10


def choice(i: int) -> list[dict[str, str]]:
    """A question with options; the right letter is that of its number."""
    options = "\n".join(f"{letter}. finding {letter.lower()}{i}" for letter in "ABCD")
    letter = "ABCD"[i % 4]
    return [
        {"role": "user", "content": f"Which finding belongs to case {i}?\n{options}"},
        {"role": "assistant", "content": f"The answer is {letter}. finding {letter.lower()}{i}"},
    ]


def asked(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


OPEN = asked("What treats case 77?", "sodium bicarbonate")
REFUSED = [
    asked("What treats it?", "It depends on a great many things that nobody knows"),
    asked("How many?", "7"),
    [*asked("Which?", "That"), *choice(3)],
    asked("Which of case 5?\nA. one\nB. two", "I would rather not say"),
]


def n_right(i: int) -> int:
    """How many of the answers to case i are right; case 77 is solved every time."""
    return K if i == 77 else i % (K + 1)


def case_of(body: dict[str, Any]) -> int:
    return int(body["messages"][-1]["content"].partition("case ")[2].partition("?")[0])


def script(body: dict[str, Any], before: int) -> str:
    i = case_of(body)
    if i == 77:
        return "One gives sodium bicarbonate. The answer is sodium bicarbonate."
    return f"The answer is ({'ABCD'[(i + (before >= n_right(i))) % 4]})."


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    store = tmp_path / "s.duckdb"
    ingest_rows(store, [*map(choice, range(N)), OPEN, *REFUSED])
    return store


def score(store: Path, server: ScriptedServer, **options: Any) -> Any:
    settings: dict[str, Any] = {
        "backend": "server",
        "base_url": server.url,
        "samples": K,
        "concurrency": 2,
        "retries": 0,
    }
    return score_pass_rate("pool", model="judge", store=store, **{**settings, **options})


def rates(store: Path, run_id: int) -> list[float | None]:
    with Store(store, read_only=True) as opened:
        return [
            row[0]
            for row in opened.connection.execute(
                "SELECT t.value FROM text_scores AS t JOIN dataset_samples AS d USING (sample_id) "
                "WHERE run_id = ? ORDER BY d.position",
                [run_id],
            ).fetchall()
        ]


def chosen(store: Path, selection_id: int) -> list[int]:
    with Store(store, read_only=True) as opened:
        return [
            row[0]
            for row in opened.connection.execute(
                "SELECT position FROM selection_samples WHERE selection_id = ? ORDER BY rank", [selection_id]
            ).fetchall()
        ]


# what can be verified ------------------------------------------------------------------------------------------------


def test_what_is_asked_of_a_sample() -> None:
    found = question_of("id", choice(6))
    assert not isinstance(found, str)
    assert (found.question, found.right) == ("Which finding belongs to case 6?", "C")
    assert dict(found.options) == {letter: f"finding {letter.lower()}6" for letter in "ABCD"}
    assert "A. finding a6" in protocol.prompt(found)
    assert is_right("So it is (C).", found)
    # the text of the right option beside another letter is not enough
    assert not is_right("Not finding c6. The answer is (A).", found)
    single = question_of("id", [{"role": "system", "content": "Be brief."}, *OPEN])
    assert not isinstance(single, str)
    assert "sodium" not in protocol.prompt(single)
    assert is_right("Give Sodium  bicarbonate!", single)
    assert not is_right("Give potassium.", single)
    reasons = [question_of("id", one) for one in REFUSED]
    assert reasons == [
        "no options, and the answer has more than 6 words to look for",
        "no options, and the answer is so common that any output may hold it",
        "a conversation of several turns cannot be verified",
        "the answer names none of the options",
    ]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Which?\nA. one\nB. two\nC. three", {"A": "one", "B": "two", "C": "three"}),
        ("Which?\n(A) one\n(B) two", {"A": "one", "B": "two"}),
        ("Vitamin A. deficiency is?\nA) one of\nB) two", {"A": "one of", "B": "two"}),
        ("Which? Answer Choices: (A) one (B) two", {"A": "one", "B": "two"}),
        ("A. is a letter", {}),
        ("What is it?", {}),
    ],
)
def test_options_at_the_end_of_a_question(question: str, expected: dict[str, str]) -> None:
    assert at_the_end(question) == expected


# rates ---------------------------------------------------------------------------------------------------------------


def test_rates_are_the_shares_of_right_answers(filled: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ScriptedServer(script, model="judge") as server:
        summary = score(filled, server)
        assert server.n_requests == K * (N + 1)
        assert {body["temperature"] for body in server.bodies} == {1.0}
        again = score(filled, server)
        assert (again.run_id, again.n_scored, again.n_cached) == (summary.run_id, 0, N + 5)
        assert server.n_requests == K * (N + 1)
    assert (summary.n_samples, summary.n_scored, summary.n_no_score) == (N + 5, N + 5, 4)
    assert sum(summary.reasons.values()) == 4
    expected = [n_right(i) / K for i in [*range(N), 77]]
    assert rates(filled, summary.run_id) == [*expected, None, None, None, None]
    # counted again from what is kept, by the letters alone
    files = f"{generations.folder_of(filled)}/*/*.parquet"
    with duckdb.connect() as connection:
        kept = connection.execute(
            'SELECT question, avg(CAST("right" = letter AS INTEGER)), count(*) FROM read_parquet(?) '
            "WHERE len(map_keys(options)) > 1 GROUP BY ALL", [files]
        ).fetchall()  # fmt: skip
    assert sorted(kept) == [(f"Which finding belongs to case {i}?", n_right(i) / K, K) for i in range(N)]
    # by the band: nearest to the middle first, ties by position, both ends taken
    band = [(abs(rate - 0.5), i) for i, rate in enumerate(expected) if 0.25 <= rate <= 0.75]
    made = select("pool", ratio="1", strategy="pass_rate", model="judge", band="0.25-0.75", store=filled)
    assert chosen(filled, made.selection_id) == [i for _, i in sorted(band)]
    outside = N + 1 - len(band)
    assert f"{outside} of {N + 5} samples of dataset `pool` have a pass rate outside 0.25 to 0.75" in caplog.text
    assert made.n_unscored == outside + 4
    wide = select("pool", ratio="1", strategy="pass_rate", model="judge", band="0-1", store=filled)
    assert sorted(chosen(filled, wide.selection_id)) == list(range(N + 1))


def test_a_pass_rate_is_a_difficulty(filled: Path) -> None:
    with ScriptedServer(script, model="judge") as server:
        summary = score(filled, server)
    run = summary.details["difficulty_run"]
    # hardest first: what is never solved
    hard = select("pool", ratio="1", strategy="overall", difficulty_run=run, store=filled)
    with Store(filled, read_only=True) as opened:
        found = opened.connection.execute(
            "SELECT position, difficulty FROM selection_samples WHERE selection_id = ? ORDER BY rank",
            [hard.selection_id],
        ).fetchall()
    expected = {place: 5 - 4 * n_right(i) / K for place, i in enumerate([*range(N), 77])}
    assert dict(found) == expected
    assert [place for place, _ in found] == sorted(expected, key=lambda place: (-expected[place], place))
    # alone it is the difficulty; beside another it is meant when it is named
    assert select("pool", ratio="1", strategy="overall", store=filled).ranking_id == hard.ranking_id
    ingest_rows(filled, [{"position": i, "overall": float(i)} for i in range(N)], scores=True)
    other = select("pool", ratio="1", strategy="overall", store=filled)
    assert other.ranking_id != hard.ranking_id
    assert chosen(filled, other.selection_id) == list(range(N - 1, -1, -1))
    same = select("pool", ratio="1", strategy="overall", difficulty_run=run, store=filled)
    assert same.ranking_id == hard.ranking_id


def test_a_grown_dataset_asks_for_its_new_samples(filled: Path) -> None:
    with ScriptedServer(script, model="judge") as server:
        first = score(filled, server)
        before = server.n_requests
        ingest_rows(filled, [choice(20), choice(21)])
        grown = score(filled, server)
        assert server.n_requests - before == 2 * K
    assert (grown.run_id, grown.n_scored, grown.n_cached) == (first.run_id, 2, N + 5)
    assert rates(filled, grown.run_id)[-2:] == [n_right(20) / K, n_right(21) / K]
    # answers to a dataset are no evaluation
    with pytest.raises(UsageError, match="no"):
        rescore(store=filled)
    with Store(filled, read_only=True) as opened:
        assert opened.connection.execute("SELECT count(*) FROM evaluations").fetchall() == [(0,)]


def test_a_server_that_fails_in_between_is_asked_for_the_rest(
    filled: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("diq.evaluation.pass_rate.BLOCK", 4)
    down = {2, 6}

    def failing(body: dict[str, Any], before: int) -> Step | str:
        if case_of(body) in down:
            return Step(status=500, body={"error": {"message": "out of order"}})
        return script(body, before)

    with ScriptedServer(failing, model="judge") as server:
        some = score(filled, server)
        assert some.n_scored == N + 5 - 2
        assert "to score 2 samples: the same command" in caplog.text
        with pytest.raises(MissingScoresError, match="are not finished"):
            select("pool", ratio="1", strategy="pass_rate", model="judge", store=filled)
        down.clear()
        rest = score(filled, server)
    assert (rest.run_id, rest.n_scored, rest.n_cached) == (some.run_id, 2, N + 5 - 2)
    found = rates(filled, rest.run_id)
    assert found[:2] == [n_right(0) / K, n_right(1) / K]
    assert None not in found[: N + 1]


def test_stopped_in_a_block_nothing_is_asked_twice(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diq.evaluation.pass_rate.BLOCK", 4)
    left = {"n": 30}

    def stopping(body: dict[str, Any], before: int) -> Step | str:
        left["n"] -= 1
        if left["n"] < 0:
            return Step(status=401, body={"error": {"message": "no"}})
        return script(body, before)

    with ScriptedServer(stopping, model="judge") as server:
        with pytest.raises((RunFailedError, UsageError)):
            score(filled, server, concurrency=1)
        left["n"] = 1000
        summary = score(filled, server, concurrency=1)
    assert rates(filled, summary.run_id)[: N + 1] == [n_right(i) / K for i in [*range(N), 77]]
    files = f"{generations.folder_of(filled)}/*/*.parquet"
    with duckdb.connect() as connection:
        ((n, n_different),) = connection.execute(
            "SELECT count(*), count(DISTINCT (question_id, repeat)) FROM read_parquet(?)", [files]
        ).fetchall()
    assert n == n_different == K * (N + 1)


@pytest.mark.slow
def test_a_real_model_solves_what_it_was_taught(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    pool = [choice(i) for i in range(6)]
    ingest_rows(store, pool)
    pairs = []
    for i, one in enumerate(pool):
        question = question_of("id", one)
        assert not isinstance(question, str)
        letter = question.right if i % 2 else "ABCD"[(i + 1) % 4]
        pairs.append(([{"role": "user", "content": protocol.prompt(question)}], f"The answer is ({letter})."))
    folder = teach(tmp_path / "taught", pairs)
    options: dict[str, Any] = {"samples": 2, "max_tokens": 32, "max_length": 1024, "device": "cpu", "temperature": 0.01}
    summary = score_pass_rate("pool", model=str(folder), store=store, **options)
    assert rates(store, summary.run_id) == [0.0, 1.0] * 3
    # the same draws again in another store
    other = tmp_path / "other.duckdb"
    ingest_rows(other, pool)
    again = score_pass_rate("pool", model=str(folder), store=other, **options)
    assert rates(other, again.run_id) == rates(store, summary.run_id)
    # a prompt without room is a reason, not an error
    short = score_pass_rate("pool", model=str(folder), store=store, **{**options, "max_length": 34})
    assert short.reasons == {"the question leaves no room for an answer of --max-tokens": 6}


def test_the_command_and_bad_requests(filled: Path) -> None:
    with ScriptedServer(script, model="judge") as server:
        words = ["score", "pass-rate", "pool", "--model", "judge", "--backend", "server", "--base-url", server.url,
                 "--samples", "2", "--json", "--store", filled]  # fmt: skip
        assert json.loads(stdout_of(command, *words))["n_scored"] == N + 5
    status = json.loads(stdout_of(command, "status", "--json", "--store", filled))
    assert {(one["score"], one["dimension"]) for one in status["coverage"]} >= {("pass_rate", None)}
    for change, message in (
        ({"samples": 1}, "samples"),
        ({"temperature": 0.0}, "temperature"),
        ({"backend": "hf", "temperature": None}, "only a server has a temperature of its own"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            score_pass_rate("pool", model="judge", store=filled, **change)
        assert "\n" not in caught.value.message
        assert caught.value.hint
    for band in ("0.8-0.2", "much", "0.2", "-0.1-0.5"):
        with pytest.raises(UsageError, match=r"the band `.*` is none of pass rates"):
            select("pool", ratio="0.5", strategy="pass_rate", model="judge", band=band, store=filled)
    assert invoke(command, "select", "pool", "--ratio", "0.5", "--strategy", "random", "--band", "0.1-0.2",
                  "--store", filled).exit_code != 0  # fmt: skip
