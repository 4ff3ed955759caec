"""`diq evaluate`: the same numbers again, after a kill, in other batches and through a server; and what is refused."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from chat_server import ScriptedServer, Step, completion, teach, transformers_server
from conftest import ROOT, SHARED, TESTS, build_llama, build_tokenizer, run_killed, save_model, write_jsonl
from diq.base.errors import InputError, ModelError, RunFailedError, UsageError
from diq.evaluation import generations, protocol
from diq.evaluation.answers import SCORING, mark
from diq.evaluation.benchmarks import benchmark
from diq.evaluation.evaluate import evaluate as run
from diq.evaluation.questions import Question, QuestionSet, load_questions
from diq.evaluation.rescore import rescore
from diq.models.tokens import plain_prompt
from diq.reporting.check import check
from diq.store.store import Store

N = 20


def make_rows(n: int = N) -> list[dict[str, Any]]:
    """Rows in MedQA's layout, with questions and options that differ."""
    return [
        {
            "question": f"Which finding belongs to case {i}?",
            "options": {letter: f"finding {letter.lower()}{i} of the {place}" for place, letter in enumerate("ABCD")},
            "answer_idx": "ABCD"[i % 4],
            "meta_info": "step1",
            "realidx": 100 + i,
        }
        for i in range(n)
    ]


def reply(i: int) -> str:
    """What the taught model says of case i: right, wrong, right by its text, wrong but with the text, or nothing."""
    right, wrong = "ABCD"[i % 4], "ABCD"[(i + 1) % 4]
    text = make_rows()[i]["options"][right]
    return [
        f"Case {i} is clear.\nThe answer is ({right}).",
        f"Case {i} is clear.\nThe answer is ({wrong}).",
        f"In case {i} we see {text}.",
        f"Case {i} may look like {text}.\nThe answer is ({wrong}).",
        f"I do not know case {i}.",
    ][i % 5]


@pytest.fixture(scope="module")
def medqa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in MedQA's layout."""
    return write_jsonl(tmp_path_factory.mktemp("bench") / "medqa.jsonl", make_rows())


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, medqa: Path) -> Path:
    """A small model that has learnt a reply to every question of the file."""
    asked = load_questions(benchmark("medqa"), medqa)
    pairs = [
        ([{"role": "user", "content": protocol.prompt(question)}], reply(i))
        for i, question in enumerate(asked.questions)
    ]
    return teach(tmp_path_factory.mktemp("models") / "taught", pairs)


@pytest.fixture
def evaluate(tmp_path: Path, medqa: Path) -> Callable[..., Any]:
    """Runs an evaluation in float32 with short answers; ``store`` is the name of a file."""

    def call(model: Path | str, store: str = "store", **options: Any) -> Any:
        settings: dict[str, Any] = {
            "benchmark": f"medqa={medqa}", "max_tokens": 64,
            **({} if options.get("backend") == "server" else {"max_length": 1024, "device": "cpu"}),
        }  # fmt: skip
        settings |= options
        return run(model=str(model), store=tmp_path / f"{store}.duckdb", **settings)

    return call


def kept(store: Path) -> list[dict[str, Any]]:
    """All outputs beside a store, in order."""
    files = f"{generations.folder_of(store)}/*/*.parquet"
    query = "SELECT * EXCLUDE (answered_at, run_id) FROM read_parquet(?) ORDER BY benchmark, repeat, position"
    with duckdb.connect() as connection:
        return list(connection.sql(query, params=[files]).to_arrow_table().to_pylist())


def numbers(found: Any) -> list[dict[str, Any]]:
    """The numbers of a summary, without what names the run."""
    return [one["repeats"] for one in found.to_dict()["benchmarks"]]


def evaluations(store: Path) -> list[dict[str, Any]]:
    """The table."""
    with duckdb.connect(str(store), read_only=True) as connection:
        table = connection.sql("SELECT * FROM evaluations ORDER BY created_at, repeat").to_arrow_table()
        return list(table.to_pylist())


# numbers and what is kept --------------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_replies(
    evaluate: Callable[..., Any], taught: Path, tmp_path: Path, medqa: Path
) -> None:
    found = evaluate(taught)
    (one,) = found.benchmarks
    # of five replies one chooses right, one has the text alone, one chooses wrong but has the text
    expected = {
        "repeat": 0, "n": N, "n_right": 12, "n_by_option": 4, "n_by_text": 8, "n_unanswered": 8, "n_cut": 0,
        "n_right_strict": 8, "accuracy": 0.6, "standard_error": pytest.approx((0.6 * 0.4 / 19) ** 0.5),
    }  # fmt: skip
    assert one.repeats == [expected]
    assert (one.n, one.accuracy, one.accuracy_strict, one.spread) == (N, 0.6, 0.4, None)
    assert found.averages == {"standard": None, "challenging": None, "all": None}
    assert found.missing["standard"] == ["medmcqa", "mmlu_pro"]
    assert (found.n_generated, found.n_kept) == (N, 0)

    rows = kept(tmp_path / "store.duckdb")
    assert [row["output"] for row in rows] == [reply(i) for i in range(N)]
    assert [row["position"] for row in rows] == list(range(N))
    assert rows[3]["question_id"] == "103"
    assert rows[3]["question"] == "Which finding belongs to case 3?"
    assert dict(rows[3]["options"]) == make_rows()[3]["options"]
    assert rows[0]["prompt"].startswith("<|user|>\nWhich finding belongs to case 0?\n\nA. finding a0 of the 0\nB. ")
    assert rows[0]["prompt"].endswith("<|end|>\n<|assistant|>\n")
    assert {row["ending"] for row in rows} == {"stop"}
    # the taught model's tokens are lines
    assert [row["n_output_tokens"] for row in rows[:3]] == [2, 2, 1]
    assert {row["scoring"] for row in rows} == {SCORING}
    assert [row["is_right"] for row in rows] == [i % 5 in (0, 2, 3) for i in range(N)]
    assert [row["step"] for row in rows[:5]] == ["option", None, "text", "text", None]
    (row,) = evaluations(tmp_path / "store.duckdb")
    assert {name: row[name] for name in expected} == expected
    assert (row["benchmark"], row["questions"], row["scoring"]) == ("medqa", one.questions, SCORING)

    with Store(tmp_path / "store.duckdb", read_only=True) as store:
        facts = store.row("store/get_run", run_id=found.run_id)
    assert facts is not None
    assert (facts["kind"], facts["method"], facts["model_id"]) == ("evaluate", "hf", found.model_id)
    config = json.loads(facts["config"])
    assert config == found.protocol
    assert (config["prompt"], config["max_tokens"], config["temperature"]) == (protocol.PROMPT, 64, 0.0)
    result = json.loads(facts["result"])
    assert result["sets"][one.questions]["sources"] == [str(medqa)]


@pytest.mark.slow
def test_again_in_another_store_gives_the_same_and_in_the_same_store_asks_nothing(
    evaluate: Callable[..., Any], taught: Path, tmp_path: Path
) -> None:
    first, second = evaluate(taught, "first"), evaluate(taught, "second")
    assert numbers(first) == numbers(second)
    assert kept(tmp_path / "first.duckdb") == kept(tmp_path / "second.duckdb")
    again = evaluate(taught, "first")
    assert (again.n_generated, again.n_kept, again.run_id) == (0, N, first.run_id)
    assert numbers(again) == numbers(first)
    assert len(evaluations(tmp_path / "first.duckdb")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_change_no_output(evaluate: Callable[..., Any], taught: Path, tmp_path: Path, batch_size: int) -> None:
    eight, other = evaluate(taught, "eight"), evaluate(taught, "other", batch_size=batch_size)
    assert [row["output"] for row in kept(tmp_path / "eight.duckdb")] == [
        row["output"] for row in kept(tmp_path / "other.duckdb")
    ]
    assert numbers(eight) == numbers(other)
    # the batch size is no part of the run
    assert evaluate(taught, "eight", batch_size=batch_size).n_generated == 0


@pytest.mark.slow
def test_the_same_through_a_server(evaluate: Callable[..., Any], taught: Path, tmp_path: Path) -> None:
    here = evaluate(taught, "here")
    with transformers_server(taught) as url:
        there = evaluate(taught, "there", backend="server", base_url=url, concurrency=2)
        assert evaluate(taught, "there", backend="server", base_url=url).n_generated == 0
    assert numbers(here) == numbers(there)
    columns = ("question_id", "output", "ending", "letter", "how", "is_right")
    rows = [
        [[row[name] for name in columns] for row in kept(tmp_path / f"{name}.duckdb")] for name in ("here", "there")
    ]
    assert rows[0] == rows[1]
    assert there.model_id == f"server:{taught}"
    assert there.protocol["base_url"] == url
    sent = json.loads(kept(tmp_path / "there.duckdb")[0]["prompt"])
    assert [turn["role"] for turn in sent] == ["user"]


def test_lm_eval_gives_the_same_numbers(evaluate: Callable[..., Any], taught: Path, medqa: Path) -> None:
    import lm_eval

    from diq.evaluation.backends import HuggingFaceModel
    from diq.evaluation.tasks import BenchmarkTask
    from diq.models.source import find_model
    from diq.models.tokens import load_tokenization

    (ours,) = evaluate(taught).benchmarks
    source = find_model(str(taught))
    lm = HuggingFaceModel(
        source, None, load_tokenization(source, max_length=1024), stop=(), is_sampling=False,
        dtype="float32", device="cpu", batch_size=4,
    )  # fmt: skip
    generation = {"until": [], "max_gen_toks": 64, "do_sample": False, "temperature": 0.0}
    task = BenchmarkTask(load_questions(benchmark("medqa"), medqa), generation)
    found = lm_eval.evaluate(lm=lm, task_dict={"medqa": task}, apply_chat_template=True)
    theirs = found["results"]["medqa"]
    assert theirs["acc,none"] == ours.accuracy
    assert theirs["acc_stderr,none"] == pytest.approx(ours.standard_error, rel=1e-12)
    assert theirs["acc_strict,none"] == ours.accuracy_strict
    assert theirs["unanswered,none"] == ours.n_unanswered / ours.n
    assert [one["acc"] for one in found["samples"]["medqa"]] == [float(i % 5 in (0, 2, 3)) for i in range(N)]


def test_lm_evals_own_model_gives_the_same_outputs(
    evaluate: Callable[..., Any], taught: Path, medqa: Path, tmp_path: Path
) -> None:
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    from diq.evaluation.tasks import BenchmarkTask

    evaluate(taught)
    task = BenchmarkTask(load_questions(benchmark("medqa"), medqa), {"until": [], "max_gen_toks": 64})
    lm = HFLM(pretrained=str(taught), device="cpu", dtype="float32", batch_size=8)
    found = lm_eval.evaluate(lm=lm, task_dict={"medqa": task}, apply_chat_template=True)
    rows = kept(tmp_path / "store.duckdb")
    assert [one["resps"] for one in found["samples"]["medqa"]] == [[[row["output"]]] for row in rows]
    assert [one["arguments"][0][0] for one in found["samples"]["medqa"]] == [row["prompt"] for row in rows]


@pytest.mark.slow
def test_repeats_draw_anew_and_the_same_again(evaluate: Callable[..., Any], taught: Path, tmp_path: Path) -> None:
    # windows of eight, the last one not full
    options = {"temperature": 3.0, "seed": 7, "max_tokens": 12, "batch_size": 1, "limit": 10}
    whole = evaluate(taught, "whole", repeat=3, **options)
    (one,) = whole.benchmarks
    outputs: dict[int, list[str]] = {}
    for row in kept(tmp_path / "whole.duckdb"):
        outputs.setdefault(row["repeat"], []).append(row["output"])
    assert len({tuple(texts) for texts in outputs.values()}) == 3
    accuracies = [each["accuracy"] for each in one.repeats]
    assert one.accuracy == pytest.approx(sum(accuracies) / 3)
    mean = sum(accuracies) / 3
    assert one.spread == pytest.approx((sum((each - mean) ** 2 for each in accuracies) / 2) ** 0.5)
    assert one.n_cut == sum(each["n_cut"] for each in one.repeats) > 0
    # one repeat after the other is the same as all at once
    for repeat in (1, 2, 3):
        parts = evaluate(taught, "parts", repeat=repeat, **options)
        assert parts.n_generated == 10
    assert kept(tmp_path / "parts.duckdb") == kept(tmp_path / "whole.duckdb")
    # the second repeat of one seed is not the first of the next: the seed is part of the run
    other = evaluate(taught, "whole", **{**options, "seed": 8})
    assert other.run_id != whole.run_id


def test_greedy_repeats_say_that_they_are_the_same(
    evaluate: Callable[..., Any], taught: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = evaluate(taught, repeat=2)
    assert found.benchmarks[0].spread == 0
    assert len([one for one in caplog.messages if "all repeats are the same" in one]) == 1
    # nothing is drawn, so a seed is no part of the run, and has no effect
    assert found.protocol["seed"] is None
    with pytest.raises(UsageError, match="seed has no effect with temperature"):
        evaluate(taught, seed=4)


def test_progress_counts_answers(evaluate: Callable[..., Any], taught: Path) -> None:
    seen: list[tuple[str, int, int]] = []

    def report(what: str, done: int, total: int, note: str = "", /) -> None:
        seen.append((what, done, total))

    evaluate(taught, batch_size=1, limit=10, progress=report)
    assert seen[0] == ("medqa", 0, 10)
    assert seen[-1] == ("medqa", 10, 10)
    # an answer at a time, and once more where a window begins
    assert [done for _, done, _ in seen] == [*range(9), *range(8, 11)]
    seen.clear()
    evaluate(taught, batch_size=1, limit=10, progress=report)
    assert seen == []


def test_a_limit_is_a_run_of_its_own(evaluate: Callable[..., Any], taught: Path) -> None:
    trial, whole = evaluate(taught, limit=5), evaluate(taught)
    assert (trial.benchmarks[0].n, whole.benchmarks[0].n) == (5, N)
    assert trial.run_id != whole.run_id
    assert trial.protocol["limit"] == 5
    assert trial.benchmarks[0].accuracy == 0.6
    assert whole.n_generated == N


def test_scores_equal_the_slow_form() -> None:
    rng = random.Random(0)
    options = {"A": "aspirin", "B": "insulin", "C": "metformin"}
    said = ["The answer is (A).", "The answer is (B).", "insulin helps", "no", "The answer is (C), not insulin."]
    answers = [
        generations.Answered(i, options, "B", rng.choice(said), rng.choice(["stop", "length"])) for i in range(37)
    ]
    found = generations.score(answers)
    marks = [mark(one.output, options, "B") for one in answers]
    right = [int(one.is_right) for one in marks]
    mean = sum(right) / 37
    assert found["accuracy"] == mean
    # the standard deviation of a sample of zeros and ones, over the root of its size
    assert found["standard_error"] == pytest.approx((sum((one - mean) ** 2 for one in right) / 36 / 37) ** 0.5)
    assert found["n_right"] == found["n_by_option"] + found["n_by_text"] == sum(right)
    assert found["n_cut"] == sum(one.ending == "length" for one in answers)
    assert generations.score(answers[:1])["standard_error"] == 0


# going on ------------------------------------------------------------------------------------------------------------


class SecondFile:
    """Writes a file of answers, and ends its process after the second one, as `kill -9` does."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        found = WRITE(*arguments, **options)
        self.done += 1
        if self.done == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return found


WRITE = generations.write


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_where_it_stopped(
    evaluate: Callable[..., Any], taught: Path, tmp_path: Path, medqa: Path
) -> None:
    run_killed(
        run, model=str(taught), store=tmp_path / "killed.duckdb", benchmark=f"medqa={medqa}", max_tokens=64,
        max_length=1024, device="cpu", batch_size=1, patches={"diq.evaluation.generations.write": SecondFile()},
    )  # fmt: skip
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed.generations").rglob("*.parquet")}
    assert len(before) == 2
    assert evaluations(tmp_path / "killed.duckdb") == []
    # the next file, which a kill cut off
    last = max(before)
    part = last.with_name(f".{last.name.replace('-00001.', '-00002.')}.part")
    part.write_bytes(b"half")
    rest = evaluate(taught, "killed", batch_size=1)
    assert (rest.n_kept, rest.n_generated) == (16, 4)
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    assert not part.exists()
    whole = evaluate(taught, "whole", batch_size=1)
    assert numbers(rest) == numbers(whole)
    assert kept(tmp_path / "killed.duckdb") == kept(tmp_path / "whole.duckdb")


@pytest.mark.slow
def test_a_damaged_file_is_generated_again_and_nothing_else(
    evaluate: Callable[..., Any], taught: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = evaluate(taught, batch_size=1)
    before = kept(tmp_path / "store.duckdb")
    for damage in ("cut", "other"):
        caplog.clear()
        path = min((tmp_path / "store.generations").rglob("*.parquet"))
        data = path.read_bytes()
        n = pq.read_metadata(path).num_rows
        if damage == "cut":
            path.write_bytes(data[:-10])
        else:
            path.write_bytes(bytes([data[200] ^ 1]).join([data[:200], data[201:]]))
        again = evaluate(taught, batch_size=1)
        assert (again.n_kept, again.n_generated) == (N - n, n)
        assert 0 < n < N
        assert numbers(again) == numbers(first)
        assert kept(tmp_path / "store.duckdb") == before
        (line,) = [one for one in caplog.messages if ": lost in" in one]
        assert path.name in line
        assert "checksum" in line
        assert evaluate(taught, batch_size=1).n_generated == 0


def test_answers_that_are_merely_absent_are_not_forgotten(
    evaluate: Callable[..., Any], taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that is not there, a copy of the store alone: what was paid for may come back."""
    monkeypatch.setenv("DIQ_STORE", str(tmp_path / "store.duckdb"))
    evaluate(taught)
    folder, away = tmp_path / "store.generations", tmp_path / "away"
    folder.rename(away)
    for again in (rescore, lambda: evaluate(taught)):
        with pytest.raises(RunFailedError, match="there is no such file") as caught:
            again()
        assert "diq check" in caught.value.hint
    away.rename(folder)
    (found,) = rescore()
    assert found.n == N
    # who knows that they are lost says so
    shutil.rmtree(folder)
    assert {one.state for one in check(repair=True).findings} == {"repaired"}
    assert evaluate(taught).n_generated == N


def test_a_moved_store_keeps_its_answers(
    evaluate: Callable[..., Any], taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(taught)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.move(tmp_path / "store.duckdb", moved / "renamed.duckdb")
    shutil.move(tmp_path / "store.generations", moved / "store.generations")
    monkeypatch.setenv("DIQ_STORE", str(moved / "renamed.duckdb"))
    (found,) = rescore()
    assert found.n == N
    assert repr(found).startswith("Rescored(run_id=1, model='taught', backend='hf', benchmark='medqa', ")


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_goes_on_later(
    taught: Path, medqa: Path, small_disk: Callable[[int], Path]
) -> None:
    folder = small_disk(9000)
    options: dict[str, Any] = {
        "model": str(taught), "store": folder / "s.duckdb", "benchmark": f"medqa={medqa}", "max_tokens": 64,
        "max_length": 1024, "device": "cpu", "batch_size": 1,
    }  # fmt: skip
    run(**options, limit=1)
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"0" * 4096)
    with pytest.raises(Exception, match=r"space|full") as error:
        run(**options)
    assert type(error.value).__name__ in ("RunFailedError", "StoreError")
    ballast.unlink()
    found = run(**options)
    assert found.benchmarks[0].repeats[0]["n_right"] == 12


@pytest.mark.slow
def test_marking_again_needs_neither_model_nor_benchmark(
    evaluate: Callable[..., Any], tmp_path: Path, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shutil.copytree(taught, tmp_path / "model")
    source = write_jsonl(tmp_path / "bench.jsonl", make_rows())
    first = evaluate(model, benchmark=f"medqa={source}")
    shutil.rmtree(model)
    source.unlink()
    store = tmp_path / "store.duckdb"
    (again,) = rescore(store=store)
    assert (again.accuracy, again.accuracy_strict, again.n_unanswered, again.before) == (0.6, 0.4, 8, {})
    assert len(evaluations(store)) == 1
    # other rules: nobody is right who says that he does not know, all others are
    monkeypatch.setattr("diq.evaluation.answers.SCORING", "other")
    monkeypatch.setattr(
        generations, "mark", lambda output, options, right, _: mark(f"The answer is ({right}).", options, right)
    )
    (other,) = rescore(store=store, run=first.run_id)
    assert (other.accuracy, other.before) == (1.0, {SCORING: 0.6})
    assert [(row["scoring"], row["accuracy"]) for row in evaluations(store)] == [(SCORING, 0.6), ("other", 1.0)]
    with pytest.raises(UsageError, match="no answers of run 99"):
        rescore(store=store, run=99)


@pytest.mark.slow
def test_marking_again_leaves_out_what_is_not_whole(
    evaluate: Callable[..., Any], tmp_path: Path, taught: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate(taught, batch_size=1)
    damaged = next((tmp_path / "store.generations").rglob("*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:-10])
    assert rescore(store=tmp_path / "store.duckdb") == []
    assert "it is not marked before the rest is generated" in caplog.text


@pytest.mark.slow
def test_memory_without_room_gets_half_batches(
    evaluate: Callable[..., Any], taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    import torch

    from diq.evaluation.backends import HuggingFaceModel

    generate, room = HuggingFaceModel._model_generate, 2

    def crowded(self: Any, context: Any, *args: Any, **options: Any) -> Any:
        if len(context) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(self, context, *args, **options)

    monkeypatch.setattr(HuggingFaceModel, "_model_generate", crowded)
    found = evaluate(taught, "halves")
    assert [one for one in caplog.messages if "out of memory" in one] == [
        "out of memory with 8 prompts at a time: going on with 4",
        "out of memory with 4 prompts at a time: going on with 2",
    ]
    assert found.benchmarks[0].accuracy == 0.6
    assert [row["output"] for row in kept(tmp_path / "halves.duckdb")] == [reply(i) for i in range(N)]
    room = 0
    with pytest.raises(RunFailedError, match="out of memory on one prompt of medqa and its answer"):
        evaluate(taught, "none")


# models and prompts --------------------------------------------------------------------------------------------------


def make_adapter(model: Path, folder: Path, *, scale: float = 0.0, base: str | None = None) -> Path:
    """A LoRA adapter of a model; 0 changes nothing."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    wrapped = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    )
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=scale or 1.0)
            parameter.data *= bool(scale)
    wrapped.save_pretrained(folder)
    if base is not None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": base}))
    return folder


@pytest.mark.slow
def test_an_adapter_answers_in_its_own_name(evaluate: Callable[..., Any], taught: Path, tmp_path: Path) -> None:
    from diq.models.source import find_adapter, find_model

    base = evaluate(taught)
    same = evaluate(taught, adapter=str(make_adapter(taught, tmp_path / "same")))
    other = evaluate(taught, adapter=str(make_adapter(taught, tmp_path / "other", scale=3.0)))
    assert numbers(same) == numbers(base)
    assert numbers(other) != numbers(base)
    assert len({base.run_id, same.run_id, other.run_id}) == 3
    assert same.model == "taught+same"
    found = find_adapter(str(tmp_path / "same"), find_model(str(taught)))
    assert same.model_id == found.model_id
    with duckdb.connect(str(tmp_path / "store.duckdb"), read_only=True) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM models").fetchall()}
    assert names == {"taught", "taught+same", "taught+other"}


def test_a_checkpoint_with_all_weights_answers_in_the_place_of_the_model(
    evaluate: Callable[..., Any], taught: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(taught).save_pretrained(tmp_path / "full")
    found = evaluate(taught, adapter=str(tmp_path / "full"))
    assert (found.model, found.benchmarks[0].accuracy) == ("taught+full", 0.6)


# where the base is gone, PEFT says that it cannot compare vocabularies
@pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning")
@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("OTHER", r"was trained on `.*other`, not on `.*taught`"),
        (None, "cannot be put on the base model|belongs to another base model"),
    ],
)
def test_an_adapter_of_another_base_model(
    evaluate: Callable[..., Any], taught: Path, tmp_path: Path, base: str | None, message: str
) -> None:
    other = save_model(tmp_path / "other", build_llama(), build_tokenizer())
    # a folder that is there tells its fingerprint; one that is gone leaves it to the shapes
    adapter = make_adapter(other, tmp_path / "adapter", base=str(other) if base else "/gone/model")
    with pytest.raises(ModelError, match=message):
        evaluate(taught, adapter=str(adapter))
    found = evaluate(other, adapter=str(adapter), max_length=512, max_tokens=4, limit=1)
    assert found.model == "other+adapter"


def test_hub_ids_of_bases_are_compared_by_name(tmp_path: Path) -> None:
    from diq.models.source import ModelSource, find_adapter

    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    base = ModelSource("Qwen/Qwen3-8B@main", tmp_path, "Qwen/Qwen3-8B", "2")

    def named(text: str) -> None:
        (tmp_path / "adapter" / "adapter_config.json").write_text(
            json.dumps({"peft_type": "LORA", "base_model_name_or_path": text})
        )
        find_adapter(str(tmp_path / "adapter"), base)

    for fine in ("Qwen/Qwen3-8B", "mirror/Qwen3-8B", "", "/gone/folder"):
        named(fine)
    with pytest.raises(ModelError, match=r"was trained on `meta-llama/Llama-3\.1-8B`, not on `Qwen/Qwen3-8B@main`"):
        named("meta-llama/Llama-3.1-8B")


def test_without_a_template_the_prompt_is_that_of_the_training(
    evaluate: Callable[..., Any], tiny_llama_folder: Path, tmp_path: Path, medqa: Path
) -> None:
    found = evaluate(tiny_llama_folder, max_length=512, max_tokens=8, limit=3)
    assert (found.protocol["template"], found.protocol["stop"]) == ("none", ["\nQuestion:"])
    question = load_questions(benchmark("medqa"), medqa).questions[0]
    prompt = plain_prompt([{"role": "user", "content": protocol.prompt(question)}])
    assert kept(tmp_path / "store.duckdb")[0]["prompt"] == prompt


def test_a_base_model_that_was_trained_with_a_template_ends_with_its_turn(
    evaluate: Callable[..., Any], taught: Path, tmp_path: Path
) -> None:
    from diq.models.source import find_model
    from diq.models.tokens import load_tokenization

    base = shutil.copytree(taught, tmp_path / "base")
    # as in many base models: another end of sequence than the template's end of turn
    path = base / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": "</s>"}))
    for name in ("generation_config.json", "config.json"):
        settings = json.loads((base / name).read_text())
        (base / name).write_text(json.dumps({**settings, "eos_token_id": 2}))
    template = load_tokenization(find_model(str(base)), max_length=100).template
    assert template is not None
    assert template.end == "<|end|>"
    found = evaluate(base)
    assert found.protocol["stop"] == ["<|end|>"]
    rows = kept(tmp_path / "store.duckdb")
    assert [row["output"] for row in rows] == [reply(i) for i in range(N)]
    assert {row["ending"] for row in rows} == {"stop"}


@pytest.mark.slow
def test_stop_texts_and_cut_answers(tmp_path: Path) -> None:
    """A plain model that goes on with a question of its own is cut there, and one that talks on is cut off."""
    asked = QuestionSet(
        benchmark("medqa"), ("test",),
        tuple(Question(str(i), f"Case {i}?", {"A": "yes", "B": "no", "C": "may be", "D": "so"}, "A") for i in range(2)),
    )  # fmt: skip
    replies = ["The answer is (A).\nQuestion: what else?\nAnswer: ", "so\n" * 30]
    pairs = [
        ([{"role": "user", "content": plain_prompt([{"role": "user", "content": protocol.prompt(one)}])}], text)
        for one, text in zip(asked.questions, replies, strict=True)
    ]
    folder = tmp_path / "plain"
    # the template of the lesson adds nothing, and is taken away afterwards
    import chat_server

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_server, "CHAT_TEMPLATE", "{{ messages[0]['content'] }}")
        chat_server.teach(folder, pairs)
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        if (folder / name).is_file() and name.endswith("jinja"):
            (folder / name).unlink()
        elif (folder / name).is_file():
            settings = json.loads((folder / name).read_text())
            settings.pop("chat_template", None)
            (folder / name).write_text(json.dumps(settings))
    rows = [
        {"question": one.question, "options": dict(one.options), "answer_idx": "A", "meta_info": "x"}
        for one in asked.questions
    ]
    source = write_jsonl(tmp_path / "medqa.jsonl", rows)
    found = run(
        model=str(folder), store=tmp_path / "s.duckdb", benchmark=f"medqa={source}", max_tokens=20, max_length=512,
        device="cpu",
    )  # fmt: skip
    first, second = kept(tmp_path / "s.duckdb")
    assert (first["output"], first["ending"], first["letter"]) == ("The answer is (A).", "stop", "A")
    assert (second["ending"], second["n_output_tokens"]) == ("length", 20)
    assert second["output"].startswith("so\nso\nso")
    assert found.benchmarks[0].n_cut == 1


@pytest.mark.slow
def test_special_tokens_that_mark_thinking_are_kept(tmp_path: Path, evaluate: Callable[..., Any], medqa: Path) -> None:
    """Tokenizers hold the marks of some models as special tokens, which decoding leaves out."""
    asked = load_questions(benchmark("medqa"), medqa)
    # <s> is a special token of the lesson's tokenizer as well: what begins and ends an answer stays out
    text = "<|START_THINKING|>The answer is (A).<|END_THINKING|>\nThe answer is (B)."
    pairs = [([{"role": "user", "content": protocol.prompt(one)}], text) for one in asked.questions[:2]]
    folder = teach(tmp_path / "thinker", pairs, special=("<|START_THINKING|>", "<|END_THINKING|>"))
    (one,) = evaluate(folder, limit=2).benchmarks
    rows = kept(tmp_path / "store.duckdb")
    assert [row["output"] for row in rows] == [text] * 2
    assert [row["letter"] for row in rows] == ["B", "B"]
    assert one.n_unanswered == 0


def test_few_shot(evaluate: Callable[..., Any], taught: Path, tmp_path: Path, medqa: Path) -> None:
    rows = [{**row, "question": f"Example {i}?", "rationale": f"Since {i}."} for i, row in enumerate(make_rows(3))]
    examples = [f"medqa={write_jsonl(tmp_path / 'val.jsonl', rows)}"]
    found = evaluate(taught, few_shot=2, examples=examples, limit=2, max_tokens=4)
    prompt = kept(tmp_path / "store.duckdb")[0]["prompt"]
    assert prompt.count("<|user|>") == 3
    assert "Since 0.\n\nThe answer is (A).<|end|>\n<|user|>\nExample 1?" in prompt
    assert "Example 2?" not in prompt
    assert prompt.index("Example 1?") < prompt.index("case 0?")
    assert found.protocol["few_shot"] == 2
    # the questions are the same, what is asked is not
    assert found.benchmarks[0].questions != load_questions(benchmark("medqa"), medqa).first(2).fingerprint
    for options, message in (
        ({"few_shot": 2}, "has no examples for medqa"),
        ({"examples": examples}, "examples has no effect with few_shot=0"),
        ({"few_shot": 4, "examples": examples}, "has 3 examples for medqa, fewer than few_shot=4"),
        ({"few_shot": 2, "examples": f"medqa={medqa}"}, "is one of its questions"),
    ):
        with pytest.raises(UsageError, match=message):
            evaluate(taught, **options)


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"repeat": 0}, "repeat=0 is out of range", "give 1 or more"),
        ({"limit": 0}, "limit=0 is out of range", ""),
        ({"max_tokens": 0}, "max_tokens=0 is out of range", ""),
        ({"batch_size": 0}, "batch_size=0 is out of range", ""),
        ({"temperature": -1.0}, "temperature=-1.0 is out of range", ""),
        ({"temperature": None}, "only a server has a temperature of its own", ""),
        ({"top_p": 0.0}, "top_p=0.0 is out of range", ""),
        ({"top_p": 0.5}, "top_p has no effect with temperature=0.0", "leave it out, or give --temperature"),
        ({"backend": "tgi"}, "backend `tgi` is not known", "known"),
        ({"backend": "server", "adapter": "x"}, "adapter has no effect with backend server", "leave out one"),
        ({"backend": "server", "template": "none"}, "template has no effect with backend server", ""),
        ({"backend": "server", "seed": 1}, "seed has no effect with backend server", ""),
        ({"base_url": "http://localhost:1/v1"}, "base_url has no effect with backend hf", "give --backend server"),
        ({"benchmark": ["medqa", "medqa=x.jsonl"]}, "benchmark names `medqa` twice", "name each once"),
        ({"examples": "medqa", "few_shot": 1}, "examples `medqa` is not of the form NAME=FILE", "medqa=FILE"),
        ({"max_length": 1}, "max_length=1 is out of range", "give 2 or more"),
        ({"benchmark": ["medqua"]}, "there is no benchmark `medqua`", "did you mean `medqa`"),
        ({"benchmark": "medqa=missing.jsonl"}, "no such file or folder: `missing.jsonl`", ""),
        ({"max_length": 5}, r"the prompt of medqa \(question 1\d\d\) has \d+ tokens", "raise --max-length"),
        ({"max_tokens": 1020}, "more than the 1,024 that `taught` takes here", "give --max-tokens"),
    ],
)
def test_wrong_use(
    evaluate: Callable[..., Any], taught: Path, tmp_path: Path, options: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=message) as error:
        evaluate(taught, **options)
    assert hint in error.value.hint
    assert not (tmp_path / "store.generations").exists()


def test_a_wrong_keyword_names_the_right_one() -> None:
    with pytest.raises(TypeError, match=r"evaluate\(\) has no option `benchmarks`; did you mean `benchmark`"):
        run(model="m", benchmarks=["medqa"])  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"rescore\(\) has no option `run_id`; did you mean `run`"):
        rescore(run_id=1)  # type: ignore[call-arg]


def test_vllm_is_named_where_it_is_missing(evaluate: Callable[..., Any], taught: Path) -> None:
    import importlib.util

    if importlib.util.find_spec("vllm"):
        pytest.skip("vllm is installed")
    with pytest.raises(UsageError, match="backend vllm needs the package `vllm`") as error:
        evaluate(taught, backend="vllm")
    assert "pip install vllm" in error.value.hint


# servers -------------------------------------------------------------------------------------------------------------


def number_of(body: dict[str, Any]) -> int:
    """Which case a request asks about."""
    return int(body["messages"][-1]["content"].partition("case ")[2].partition("?")[0])


@pytest.mark.slow
def test_a_server_that_fails_in_between_is_asked_for_the_rest(
    evaluate: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALUATION_KEY", "sk-secret-of-the-test")
    down = {7, 9}

    def script(body: dict[str, Any], before: int) -> Step | str:
        number = number_of(body)
        if number in down:
            return Step(status=500, body={"error": {"message": "out of order"}})
        if number == 11:
            made = completion(reply(11))
            made["choices"][0]["finish_reason"] = "length"
            return Step(body=made)
        return reply(number)

    options: dict[str, Any] = {
        "backend": "server", "retries": 0, "concurrency": 2, "api_key_variable": "EVALUATION_KEY", "model_name": "said",
    }  # fmt: skip
    with ScriptedServer(script, key="sk-secret-of-the-test", model="judge") as server:
        (some,) = evaluate("judge", base_url=server.url, **options).benchmarks
        assert (some.n, some.n_no_reply, some.no_reply) == (N, 2, {"HTTP 500: out of order": 2})
        assert len(kept(tmp_path / "store.duckdb")) == N - 2
        down.clear()
        asked = server.n_requests
        found = evaluate("judge", base_url=server.url, **options)
        assert (found.n_kept, found.n_generated) == (N - 2, 2)
        assert server.n_requests - asked == 2
        assert server.most_open <= 2
        assert {body["temperature"] for body in server.bodies} == {0.0}
        assert {body["max_tokens"] for body in server.bodies} == {64}
    (one,) = found.benchmarks
    assert (one.accuracy, one.n_cut) == (0.6, 1)
    assert (found.model, found.model_id) == ("said", "server:judge")
    assert {row["position"]: row["output"] for row in kept(tmp_path / "store.duckdb")} == {
        i: reply(i) for i in range(N)
    }
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"sk-secret" not in everything


@pytest.mark.slow
def test_a_full_disk_or_a_place_that_is_none(
    evaluate: Callable[..., Any], tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    place = tmp_path / "store.generations"
    with ScriptedServer(lambda body, _: reply(number_of(body))) as server:
        place.write_text("a file")
        with pytest.raises(UsageError, match=r"`.*/store\.generations` cannot be a folder: is a file"):
            evaluate("judge", backend="server", base_url=server.url)
        assert server.n_requests == 0
        place.unlink()
        disk = small_disk(64)
        place.symlink_to(disk)
        (disk / "ballast").write_bytes(bytes(60 * 1024))
        with pytest.raises(RunFailedError, match=r"is full: `medqa-.*\.parquet` was not written"):
            evaluate("judge", backend="server", base_url=server.url)
        assert [path.name for path in disk.rglob("*") if path.is_file()] == ["ballast"]
        (disk / "ballast").unlink()
        assert evaluate("judge", backend="server", base_url=server.url).n_generated == N
    assert len(kept(tmp_path / "store.duckdb")) == N


def test_a_refused_question_is_unanswered_and_a_server_that_refuses_all_is_an_error(
    evaluate: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refused = set(range(N))

    def script(body: dict[str, Any], before: int) -> Step | str:
        if number_of(body) in refused:
            return Step(status=400, body={"error": {"message": "not such a question"}})
        return reply(number_of(body))

    with ScriptedServer(script) as server:
        with pytest.raises(RunFailedError, match=r"refuses every question: .*not such a question \(20\)"):
            evaluate("judge", backend="server", base_url=server.url)
        assert not list((tmp_path / "store.generations").rglob("*.parquet"))
        refused = {0}
        found = evaluate("judge", backend="server", base_url=server.url)
    assert "refuses 1 of 20 questions" in caplog.text
    (one,) = found.benchmarks
    assert (one.n, one.repeats[0]["n_right"], one.n_unanswered) == (N, 11, 9)
    first = kept(tmp_path / "store.duckdb")[0]
    assert (first["output"], first["ending"]) == ("", "refused")
    assert "not such a question" in first["problem"]


def ended_by(reason: str, text: str = "", **more: Any) -> dict[str, Any]:
    """A completion that ended for a reason; ``more`` stands in its choice."""
    made = completion(text)
    made["choices"][0] |= {"finish_reason": reason, **more}
    return made


def test_a_failure_inside_a_200_is_no_answer_and_is_asked_again(
    evaluate: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    inside = {
        2: {"error": {"message": "Provider returned error", "code": 502}},
        3: ended_by("error", error={"code": 502, "message": "Upstream idle timeout"}),
        7: ended_by("error", "The answer is"),
    }

    def script(body: dict[str, Any], before: int) -> Step | str:
        number = number_of(body)
        return Step(body=inside[number]) if number in inside and before == 0 else reply(number)

    with ScriptedServer(script) as server:
        (one,) = evaluate("judge", backend="server", base_url=server.url).benchmarks
        assert server.n_requests == N + 3
        assert (one.accuracy, one.n_unanswered) == (0.6, 8)
        server.counts.clear()
        # without a repetition the rest is kept, and the next call asks for these
        (one,) = evaluate("judge", "again", backend="server", base_url=server.url, retries=0).benchmarks
        assert one.no_reply == {
            "error 502: Provider returned error": 1,
            "error 502: Upstream idle timeout": 1,
            "error 502: finish_reason error": 1,
        }
        assert len(kept(tmp_path / "again.duckdb")) == N - 3
        assert evaluate("judge", "again", backend="server", base_url=server.url, retries=0).n_generated == 3


def failing(status: int, *numbers: int) -> dict[int, Step]:
    """A failure of a status for each question."""
    return {one: Step(status=status, body={"error": {"message": f"no {one % 2}"}}) for one in numbers}


@pytest.mark.parametrize(
    ("special", "n_left", "told"),
    [
        # the first window has two, the last is one question alone
        (failing(500, 1, 4, 16), 3, "HTTP 500: no 0 (2); HTTP 500: no 1 (1)"),
        (failing(500, *range(16, N)), 4, "HTTP 500: no 0 (2); HTTP 500: no 1 (2)"),
        ({**failing(500, 3), 16: failing(400, 16)[16]}, 1, "HTTP 500: no 1 (1)"),
        ({one: failing(400, one)[one] for one in range(16, N)}, 0, ""),
        (
            {
                1: Step(body=ended_by("error")),
                2: Step(body="<html>bad gateway</html>"),
                **failing(503, 6),
                9: Step(body={}),
            },
            4,
            "<html>bad gateway</html> (1); HTTP 503: no 0 (1); the server sent no choices: {} (1)",
        ),
    ],
)
def test_questions_that_always_fail_leave_no_other_unasked_and_are_in_no_number(
    evaluate: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture,
    special: dict[int, Step], n_left: int, told: str,
) -> None:  # fmt: skip
    store = tmp_path / "store.duckdb"
    options: dict[str, Any] = {"backend": "server", "concurrency": 1, "retries": 0}
    refused = {one for one, step in special.items() if step.status == 400}
    right = sum(i % 5 in (0, 2, 3) for i in range(N) if i not in special)
    with ScriptedServer(lambda body, _: special.get(number_of(body)) or reply(number_of(body))) as server:
        # the second call asks the same questions again, and nothing else
        for again in (False, True):
            caplog.clear()
            before = server.n_requests
            found = evaluate("judge", base_url=server.url, **options)
            (one,) = found.benchmarks
            assert server.n_requests - before == (n_left if again else N)
            assert (one.n, one.n_no_reply, sum(one.no_reply.values())) == (N, n_left, n_left)
            assert one.accuracy == pytest.approx(right / (N - n_left))
            assert one.repeats[0]["n"] == N - n_left
            assert (f"MedQ: {n_left} of 20 questions got no reply: " in caplog.text) is (n_left > 0)
            assert told in caplog.text
            assert ("medqa" in found.missing["standard"]) is (n_left > 0)
            # a number over fewer questions stands beside no other
            assert len(evaluations(store)) == (n_left == 0)
            assert (rescore(store=store) == []) is (n_left > 0)
            assert {row["position"] for row in kept(store) if row["ending"] == "refused"} == refused
            if again:
                break
        special.clear()
        (one,) = evaluate("judge", base_url=server.url, **options).benchmarks
    assert (one.n_no_reply, one.no_reply) == (0, {})
    assert one.accuracy == (0.6 if not refused else (12 - sum(i % 5 in (0, 2, 3) for i in refused)) / N)
    assert len(evaluations(store)) == 1


@pytest.mark.parametrize("first", [0, 8])
def test_a_server_that_is_down_stops_it_after_a_window_with_every_reason(
    evaluate: Callable[..., Any], tmp_path: Path, first: int
) -> None:
    special = failing(500, *range(first, N))
    with ScriptedServer(lambda body, _: special.get(number_of(body)) or reply(number_of(body))) as server:
        with pytest.raises(RunFailedError, match="none of the last 8 questions got a reply: ") as error:
            evaluate("judge", backend="server", base_url=server.url, concurrency=1, retries=0)
        assert server.n_requests == first + 8
    assert "HTTP 500: no 0 (4); HTTP 500: no 1 (4)" in str(error.value)
    assert "asks for the rest" in str(error.value.hint)
    assert len(kept(tmp_path / "store.duckdb")) == first if first else not evaluations(tmp_path / "store.duckdb")


def test_a_filtered_question_is_unanswered_with_the_servers_words(
    evaluate: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flagged = Step(status=403, body={"error": {"code": 403, "message": "your input was flagged"}})
    filtered = Step(body=ended_by("content_filter", "The answer is (A)"))
    special = {5: flagged, 6: filtered}
    with ScriptedServer(lambda body, _: special.get(number_of(body)) or reply(number_of(body))) as server:
        found = evaluate("judge", backend="server", base_url=server.url)
    assert found.n_generated == N
    assert "refuses 2 of 20 questions, which count as unanswered" in caplog.text
    rows = kept(tmp_path / "store.duckdb")
    assert [(rows[i]["output"], rows[i]["ending"], rows[i]["letter"]) for i in (5, 6)] == [("", "refused", None)] * 2
    assert rows[5]["problem"] == "HTTP 403: your input was flagged"
    assert rows[6]["problem"] == "a content filter stopped the answer after: The answer is (A)"


@pytest.mark.parametrize(("status", "message"), [(402, "has to pay first"), (404, "no longer answers as `judge`")])
def test_a_server_that_ends_it_in_the_middle_keeps_what_came(
    evaluate: Callable[..., Any], tmp_path: Path, status: int, message: str
) -> None:
    is_over = [True]

    def script(body: dict[str, Any], _: int) -> Step | str:
        stop = is_over[0] and number_of(body) >= 10
        return Step(status=status, body={"error": {"message": "top up"}}) if stop else reply(number_of(body))

    with ScriptedServer(script) as server:
        with pytest.raises(RunFailedError, match=f"{message}.*top up") as error:
            evaluate("judge", backend="server", base_url=server.url, concurrency=1)
        assert "goes on where it stopped" in error.value.hint
        assert [row["position"] for row in kept(tmp_path / "store.duckdb")] == list(range(10))
        is_over[0] = False
        found = evaluate("judge", backend="server", base_url=server.url, concurrency=1)
    assert (found.n_kept, found.n_generated, found.benchmarks[0].accuracy) == (10, 10, 0.6)


def test_a_server_that_refuses_everything_from_some_moment_on_marks_nothing_as_wrong(
    evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    def script(body: dict[str, Any], _: int) -> Step | str:
        return Step(status=403, body={"detail": "no"}) if number_of(body) >= 3 else reply(number_of(body))

    with ScriptedServer(script) as server, pytest.raises(RunFailedError, match="refuses everything"):
        evaluate("judge", backend="server", base_url=server.url, concurrency=3)
    assert {row["ending"] for row in kept(tmp_path / "store.duckdb")} == {"stop"}


def test_thinking_in_a_field_of_its_own_is_marked_by_the_same_rules(
    evaluate: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def script(body: dict[str, Any], _: int) -> Step:
        number = number_of(body)
        field = ("reasoning", "reasoning_content")[number % 2]
        made = completion(None, **{field: reply(number)})
        if number == 0:
            made["choices"][0]["finish_reason"] = "length"
        elif number == 5:
            made = completion(reply(5), **{field: "finding a5 of the 0, so the answer is (A)"})
        return Step(body=made)

    with ScriptedServer(script) as server:
        (one,) = evaluate("judge", backend="server", base_url=server.url).benchmarks
    rows = kept(tmp_path / "store.duckdb")
    assert rows[1]["output"] == f"<think>\n{reply(1)}\n</think>"
    assert rows[5]["output"] == f"<think>\nfinding a5 of the 0, so the answer is (A)\n</think>\n\n{reply(5)}"
    # statements inside closed thinking that nothing follows count; what was cut is none
    assert [row["letter"] for row in rows[:7]] == [None, "C", None, "A", None, "B", "D"]
    assert (rows[0]["how"], rows[0]["ending"]) == ("cut thinking", "length")
    assert one.n_cut == 1
    assert "19 of 20 replies hold thinking and no answer" in caplog.text


@pytest.mark.parametrize(("n", "said"), [(0, "none of 20"), (9, "only 9 of 20"), (10, None)])
def test_it_is_said_where_most_answers_were_not_understood(
    evaluate: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture, n: int, said: str | None
) -> None:
    with ScriptedServer(lambda body, _: "The answer is (A)." if number_of(body) < n else "Hm.") as server:
        (one,) = evaluate("judge", backend="server", base_url=server.url).benchmarks
    assert one.share_unanswered == 1 - n / N
    told = [text for text in caplog.messages if "could be read as a choice" in text]
    assert [said in text for text in told if said] == ([] if said is None else [True])
    assert len(told) == (said is not None)
    caplog.clear()
    rescore(store=tmp_path / "store.duckdb")
    assert ("could be read as a choice" in caplog.text) is (said is not None)


def test_tags_of_a_user_are_part_of_the_rules_and_ask_nothing_again(
    evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    store, tags = tmp_path / "store.duckdb", "<analysis>=</analysis>"
    with ScriptedServer(lambda body, _: f"<analysis>{reply(number_of(body))}") as server:
        plain = evaluate("judge", backend="server", base_url=server.url)
        assert (plain.scoring, plain.benchmarks[0].accuracy) == (SCORING, 0.6)
        tagged = evaluate("judge", backend="server", base_url=server.url, thinking_tags=tags)
        assert server.n_requests == N
    assert (tagged.run_id, tagged.n_kept) == (plain.run_id, N)
    assert (tagged.scoring, tagged.benchmarks[0].share_unanswered) == (f"{SCORING} {tags}", 1.0)
    (again,) = rescore(store=store)
    assert (again.scoring, again.accuracy, again.before) == (SCORING, 0.6, {f"{SCORING} {tags}": 0.0})
    (again,) = rescore(store=store, thinking_tags=[tags])
    assert (again.scoring, again.accuracy, again.before) == (f"{SCORING} {tags}", 0.0, {SCORING: 0.6})
    with pytest.raises(UsageError, match="OPEN=CLOSE"):
        rescore(store=store, thinking_tags="<analysis>")


@pytest.mark.parametrize(
    ("what", "message"), [("key", "refused access"), ("model", "knows no model"), ("down", "no server")]
)
def test_a_server_that_refuses_us_is_one_line(evaluate: Callable[..., Any], what: str, message: str) -> None:
    with ScriptedServer(lambda body, before: "x", key="secret-key" if what == "key" else None, model="judge") as server:
        url = server.url
        if what == "down":
            server.stop()
        with pytest.raises((UsageError, RunFailedError), match=message):
            evaluate("other" if what == "model" else "judge", backend="server", base_url=url, retries=0)
        if what == "down":
            return
        # the first question alone finds it out
        assert server.n_requests == 1


# files of benchmarks -------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no options": ({"options": None}, "no options"),
    "empty options": ({"options": {}}, "no options"),
    "one missing": ({"options": {"A": "a", "B": "b", "C": "c"}}, "3 options; a question of medqa has 4 to 5"),
    "a gap": ({"options": {"A": "a", "B": "b", "C": "c", "E": "e"}}, "the options are A, B, C, E: not A to D"),
    "an empty one": ({"options": {"A": "a", "B": " ", "C": "c", "D": "d"}}, "option B is empty"),
    "letters twice": (
        {"options": [{"key": letter, "value": letter} for letter in "ABBD"]},
        "option B is there twice",
    ),
    "no answer": ({"answer_idx": None}, "the answer is empty"),
    "another letter": ({"answer_idx": "E"}, "the answer `E` is not among the options A, B, C, D"),
    "two answers": ({"answer_idx": ["A", "B"]}, "2 right answers"),
    "no question": ({"question": ""}, "the prompt is empty"),
}


@pytest.mark.parametrize(("changes", "reason"), BAD.values(), ids=[name.replace(" ", "-") for name in BAD])
def test_a_row_without_a_question_stops_the_evaluation(
    evaluate: Callable[..., Any],
    taught: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    changes: dict[str, Any],
    reason: str,
) -> None:
    rows = make_rows(8)
    for place in (2, 5):
        rows[place] = {**rows[place], **changes}
    source = f"medqa={write_jsonl(tmp_path / 'bad.jsonl', rows)}"
    with pytest.raises(InputError, match="2 of 8 rows hold no question of medqa, first line 3: ") as error:
        evaluate(taught, benchmark=source)
    assert reason in error.value.message
    assert "--allow-bad-rows" in error.value.hint
    assert f"line 6: {reason}" in caplog.text
    assert not (tmp_path / "store.duckdb").exists()
    found = evaluate(taught, benchmark=source, allow_bad_rows=True)
    (one,) = found.benchmarks
    assert one.n == 6
    assert [(bad["line"], reason in bad["reason"]) for bad in one.bad_rows] == [(3, True), (6, True)]
    with Store(tmp_path / "store.duckdb", read_only=True) as store:
        facts = store.row("store/get_run", run_id=found.run_id)
    assert facts is not None
    assert json.loads(facts["result"])["sets"][one.questions]["bad_rows"] == one.bad_rows


def test_a_line_that_is_no_row(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "broken.jsonl", make_rows(3))
    path.write_text(path.read_text() + '{"question": "half\n')
    with pytest.raises(InputError, match="1 of 4 rows hold no question of medqa, first line 4"):
        load_questions(benchmark("medqa"), path)


MEDBULLETS = {"question": "q", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "explanation": "x"}
MEDMCQA = {**MEDBULLETS, "cop": 0}


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("medqa", [MEDMCQA], "has the layout of medmcqa, not of medqa"),
        ("hle", make_rows(), "has the layout of medqa, not of hle"),
        ("medbullets5", [{**MEDBULLETS, "answer_idx": "A"}], "4 options; a question of medbullets5 has 5"),
        ("medmcqa", [{"messages": []}], "has the layout messages, which is not of multiple-choice questions"),
        ("medmcqa", [{"a": 1}], "no known layout"),
        (
            "medxpertqa",
            [{"question": "q", "options": {"A": "a", "B": "b"}, "label": "A"}] * 3,
            "none of its 3 rows fits, first line 1: 2 options; a question of medxpertqa has 10",
        ),
        (
            "mmlu_pro",
            [{"question": "q", "options": ["a", "b"], "answer": "A", "answer_index": 0, "category": "law"}],
            "it has 1 row of other parts of the data set",
        ),
    ],
    ids=["medmcqa-as-medqa", "medqa-as-hle", "four-as-five", "conversations", "unknown", "too-few", "law"],
)  # fmt: skip
def test_the_file_of_another_benchmark(tmp_path: Path, name: str, rows: Sequence[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_questions(benchmark(name), write_jsonl(tmp_path / "other.jsonl", rows))


FOUR = {"A": "aspirin", "B": "insulin", "C": "metformin", "D": "heparin"}
LINES = "\n".join(f"{letter}. {text}" for letter, text in FOUR.items())
INLINE = "Answer Choices: " + " ".join(f"({letter}) {text}" for letter, text in FOUR.items())
OP = {f"op{letter.lower()}": text for letter, text in FOUR.items()}
# the columns that the data sets have on the hub, as far as they are known
LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "medqa": ("medqa", {"question": "What?", "answer": "insulin", "options": FOUR, "meta_info": "step1",
                        "answer_idx": "B", "metamap_phrases": ["x"]}),
    "medqa list": ("medqa", {"meta_info": "s", "question": "What?", "answer_idx": "B", "answer": "insulin",
                             "options": [{"key": k, "value": v} for k, v in FOUR.items()]}),
    "medxpert": ("medqa", {"id": "1", "question": f"What?\n{INLINE}", "label": ["B"]}),
    "medmcqa": ("medmcqa", {"id": "1", "question": "What?", **OP, "cop": 1, "choice_type": "single", "exp": None}),
    "mmlu_pro": ("mmlu_pro", {"question_id": 7, "question": "What?", "options": list(FOUR.values()), "answer": "B",
                              "answer_index": 1, "cot_content": "", "category": "health", "src": "x"}),
    "hle": ("hle", {"id": "1", "question": f"What?\n\nAnswer Choices:\n{LINES}", "image": "", "image_preview": None,
                    "answer": "B", "answer_type": "multipleChoice", "author_name": "x", "rationale": "r",
                    "rationale_image": None, "raw_subject": "x", "category": "Biology/Medicine", "canary": "c"}),
    "medbullets": ("medbullets4", {"link": "l", "question": "What?", **OP, "answer_idx": "B", "answer": "insulin",
                                   "explanation": "e"}),
    "medbullets copy": ("medbullets4", {"id": 1, "question": "What?", "options": {**FOUR, "E": None}, "answer": "B",
                                        "explanation": "e"}),
    "medguide": ("medguide", {"profile": "What?", "prompt": f"What?\n\n{LINES}", "options": list(FOUR.values()),
                              "answer": "B", "answer_text": "insulin", "path": []}),
    "metamedqa": ("metamedqa", {"meta_info": "s", "answer_idx": "B", "metamap_phrases": "[]", "question": "What?",
                                "kind": "Unmodified", "answer": "insulin", "options": {**FOUR, "E": None}}),
    "mmlu": ("mmlu_medical", {"question": "What?", "subject": "anatomy", "choices": list(FOUR.values()), "answer": 1}),
}  # fmt: skip


@pytest.mark.parametrize(("name", "row"), LAYOUTS.values(), ids=[name.replace(" ", "-") for name in LAYOUTS])
def test_one_question_reads_the_same_from_every_layout(tmp_path: Path, name: str, row: dict[str, Any]) -> None:
    found = load_questions(benchmark(name), write_jsonl(tmp_path / "file.jsonl", [row]))
    (question,) = found.questions
    assert (question.question, dict(question.options), question.right) == ("What?", FOUR, "B")
    same = QuestionSet(benchmark(name), (), (Question("?", "What?", FOUR, "B"),))
    assert found.fingerprint == same.fingerprint


def test_the_fingerprint_knows_text_order_and_answers() -> None:
    def fingerprint(*questions: Question) -> str:
        return QuestionSet(benchmark("medqa"), (), questions).fingerprint

    one, two = Question("1", "q", FOUR, "A"), Question("2", "r", FOUR, "B")
    swapped = Question("1", "q", {"A": FOUR["B"], "B": FOUR["A"], "C": FOUR["C"], "D": FOUR["D"]}, "A")
    all_of_them = [(one, two), (two, one), (one,), (swapped, two), (Question("1", "q", FOUR, "B"), two), ()]
    assert len({fingerprint(*each) for each in all_of_them}) == len(all_of_them)
    # the number of a question in its file is no part of it
    assert fingerprint(Question("9", "q", FOUR, "A")) == fingerprint(one)


def test_a_question_that_ends_in_options_of_its_own_keeps_them() -> None:
    from diq.formats.layouts.choices import Choice

    def stem(question: str) -> str:
        return Choice(question, FOUR, "A").stem()

    assert stem(f"What?\n{LINES}") == "What?"
    assert stem(f"What?\n{INLINE}") == "What?"
    assert stem("What? (A) aspirin (B) insulin (C) metformin (D) heparin") == "What?"
    # other options, or a text behind them
    for question in ("What?\nA. aspirin\nB. insulin", f"{LINES}\nWhat of these?", "A. aspirin", "What? (A) (B)"):
        assert stem(question) == question


def check_questions(name: str, path: Path, n: int, n_options: set[int]) -> None:
    found = load_questions(benchmark(name), path)
    assert (len(found.questions), found.bad_rows, found.n_left_out) == (n, (), 0)
    assert {len(one.options) for one in found.questions} == n_options
    for one in found.questions:
        assert one.right in one.options
        # the options stand once in the prompt
        assert protocol.prompt(one).count(f"\n{one.right}. {one.options[one.right].strip()}\n") == 1
        assert "Answer Choices:" not in one.question


# a benchmark, a file of tests/data/layouts, a real one and its questions, the numbers of options of both
LAYOUTS: list[tuple[str, str, str, int, set[int]]] = [
    ("medqa", "medqa.jsonl", "bench/medqa/test.jsonl", 856, {4}),
    ("medqa", "medqa_5options.jsonl", "bench/medqa_5options/test.jsonl", 856, {5}),
    ("medqa", "medqa_inline.jsonl", "bench/medqa_medxpert_layout/test.jsonl", 856, {4}),
    ("medmcqa", "medmcqa_options.jsonl", "bench/medmcqa/test.jsonl", 586, {4}),
    ("medmcqa", "medmcqa.jsonl", "schema_mimic/medmcqa_hf_layout.jsonl", 400, {4}),
    ("mmlu_pro", "mmlu_pro.jsonl", "bench/mmlu_pro_medical/test.jsonl", 354, {3, 4, 5, 6, 7, 8, 9, 10}),
    ("hle", "hle_biomed.jsonl", "schema_mimic/hle_biomed_layout.jsonl", 60, {5}),
    ("medbullets4", "medbullets.json", "schema_mimic/medbullets_op4_layout.json", 60, {4}),
    ("medbullets4", "medbullets.csv", "schema_mimic/medbullets_op4_layout.csv", 60, {4}),
    ("medxpertqa", "medxpertqa.jsonl", "bench/medxpertqa_text/test.jsonl", 155, {10}),
    ("medxpertqa", "medxpertqa_plain.jsonl", "bench/medxpertqa_text_medreason_layout/test.jsonl", 968, {10}),
    ("medguide", "medguide.jsonl", "schema_mimic/medguide_layout.jsonl", 60, {4}),
    ("metamedqa", "metamedqa.parquet", "schema_mimic/metamedqa_layout.parquet", 100, {6}),
    ("mmlu_medical", "mmlu_medical.jsonl", "bench/mmlu_medical/test.jsonl", 375, {4}),
]


@pytest.mark.parametrize(("name", "file", "n_options"), [(one[0], one[1], one[4]) for one in LAYOUTS])
def test_made_up_files_in_real_layouts_have_no_bad_row(name: str, file: str, n_options: set[int]) -> None:
    check_questions(name, TESTS / "data" / "layouts" / file, 50, n_options)


@pytest.mark.skipif(not SHARED.exists(), reason=f"the data pack is not at {SHARED}")
@pytest.mark.parametrize(("name", "file", "n", "n_options"), [(one[0], *one[2:]) for one in LAYOUTS])
def test_real_files_have_no_bad_row(name: str, file: str, n: int, n_options: set[int]) -> None:
    check_questions(name, SHARED / file, n, n_options)


def test_the_log_of_lm_eval_is_quiet(
    evaluate: Callable[..., Any], taught: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    evaluate(taught, limit=2)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "it/s" not in captured.err
    assert "pretrained" not in captured.err
    assert logging.getLogger("lm_eval").level == logging.ERROR
    assert "HF_HUB_OFFLINE" in os.environ


DOCUMENT = (ROOT / "docs" / "evaluate.md").read_text(encoding="utf-8")


def test_the_documents_examples_run(
    evaluate: Callable[..., Any], taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(taught, "diq")
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```sql\n(.*?)```", DOCUMENT, re.DOTALL)
    assert len(examples) == 4
    with duckdb.connect("diq.duckdb", read_only=True) as connection:
        for example in examples:
            assert connection.execute(example).fetchall(), example


def test_the_document_has_the_benchmarks_and_the_prompt() -> None:
    from diq.evaluation.benchmarks import BENCHMARKS, MORE_BENCHMARKS

    for one in (*BENCHMARKS.values(), *MORE_BENCHMARKS.values()):
        (line,) = [each for each in DOCUMENT.splitlines() if each.startswith(f"| {one.name} |")]
        assert one.hub[0].partition(":")[0] in line
        assert one.split in line
    instruction = protocol.PROMPT.rpartition("\n\n")[2]
    assert instruction in " ".join(DOCUMENT.split())
