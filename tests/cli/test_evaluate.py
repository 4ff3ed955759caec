"""`diq evaluate` as a command: options arrive, the table and the JSON, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from conftest import invoke, write_jsonl
from diq.base.errors import DiqError
from diq.cli.evaluate import evaluate


@pytest.fixture
def command(tmp_path: Path, tiny_llama_folder: Path) -> Callable[..., Result]:
    """Runs `diq evaluate` on two questions, and raises what it raises."""
    rows = [
        {"question": f"q {i}?", "options": dict(zip("ABCD", "wxyz", strict=True)), "answer_idx": "A", "meta_info": ""}
        for i in range(3)
    ]
    source = write_jsonl(tmp_path / "medqa.jsonl", rows)
    fixed = ["--model", str(tiny_llama_folder), "--benchmark", f"medqa={source}", "--max-tokens", "4"]
    fixed += ["--max-length", "400", "--store", str(tmp_path / "s.duckdb"), "--device", "cpu"]

    def call(*options: str, alone: bool = False) -> Result:
        found = invoke(evaluate, *([] if alone else fixed), *options)
        if isinstance(found.exception, DiqError):
            raise found.exception
        return found

    return call


def test_the_table(command: Callable[..., Result], tmp_path: Path) -> None:
    found = command("--quiet", "--limit", "2")
    assert found.exit_code == 0
    for text in ("run 1: `tiny-llama`, hf, a trial: the first 2 questions", "MedQ", "0.00 ± 0.00", "AvgS", "AvgA"):
        assert text in found.output
    assert "2 (100.0 %)" in found.output
    assert "AvgS needs also: medmcqa, mmlu_pro" in found.output
    assert f"generated 2 answers, 0 were there; all are in {tmp_path / 's.generations'}" in found.output
    assert "generated 0 answers, 2 were there" in command("--quiet", "--limit", "2").output
    assert "spread of 2" in command("--quiet", "--repeat", "2", "--temperature", "1").output


def test_json_is_one_object_and_every_option_arrives(command: Callable[..., Result], tmp_path: Path) -> None:
    found = command(
        "--json", "--temperature", "0.5", "--top-p", "0.9", "--seed", "3", "--template", "none", "--repeat", "2",
        "--model-name", "other", "--batch-size", "2", "--dtype", "float32",
    )  # fmt: skip
    (line,) = found.stdout.splitlines()
    printed = json.loads(line)
    assert printed["store"] == str(tmp_path / "s.duckdb")
    assert (printed["model"], printed["backend"], printed["n_generated"]) == ("other", "hf", 6)
    wanted = {"temperature": 0.5, "top_p": 0.9, "seed": 3, "template": "none", "max_tokens": 4, "limit": None}
    assert {name: printed["protocol"][name] for name in wanted} == wanted
    (one,) = printed["benchmarks"]
    assert (one["benchmark"], one["n"], len(one["repeats"])) == ("medqa", 3, 2)
    assert printed["averages"] == {"standard": None, "challenging": None, "all": None}


def test_marking_again(command: Callable[..., Result], tmp_path: Path) -> None:
    command("--quiet")
    store = ("--store", str(tmp_path / "s.duckdb"))
    assert "marked again" in command("--rescore", *store, alone=True).output
    tagged = command("--rescore", "--thinking-tags", "<a>=</a>", "--thinking-tags", "x=y", "--json", *store, alone=True)
    assert json.loads(tagged.stdout)["marked"][0]["scoring"].endswith(" <a>=</a> x=y")
    printed = json.loads(command("--rescore", "--run", "1", "--json", *store, alone=True).stdout)
    assert [(one["run_id"], one["benchmark"], one["n"]) for one in printed["marked"]] == [(1, "medqa", 3)]


def test_bad_rows_are_told(command: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "medqa.jsonl"
    path.write_text(path.read_text() + '{"question": "q", "options": null, "answer_idx": "A", "meta_info": ""}\n')
    with pytest.raises(DiqError, match="1 of 4 rows hold no question of medqa, first line 4: no options"):
        command("--quiet")
    found = command("--quiet", "--allow-bad-rows")
    assert "MedQ: left out, without a question: 1 row of the benchmark" in found.output


@pytest.mark.parametrize(
    ("options", "alone", "message"),
    [
        ((), True, "no model was named"),
        (("--thinking-tags", "<a>"), False, "thinking tags `<a>` are not of the form OPEN=CLOSE"),
        (("--run", "1"), False, "run has no effect without rescore"),
        (("--rescore", "--limit", "1"), True, "limit has no effect with rescore"),
        (("--benchmark", "medqa"), False, "names `medqa` twice"),
        (("--benchmark", "medmcqa="), False, "is not of the form NAME=FILE"),
        (("--examples", "medqa", "--few-shot", "1"), False, "examples `medqa` is not of the form NAME=FILE"),
        (("--benchmark", "medguid=x.jsonl"), False, "there is no benchmark `medguid`"),
        (("--rescore", "--store", "missing.duckdb"), True, "there is no store at `missing.duckdb`"),
    ],
)
def test_wrong_use(command: Callable[..., Result], options: tuple[str, ...], alone: bool, message: str) -> None:
    with pytest.raises(DiqError, match=message):
        command(*options, alone=alone)


def test_a_temperature_is_a_number_or_default(command: Callable[..., Result]) -> None:
    found = command("--temperature", "warm")
    assert found.exit_code == 2
    assert "warm" in found.output
    with pytest.raises(DiqError, match="only a server has a temperature of its own"):
        command("--temperature", "default")


def test_the_help_has_the_nine_names() -> None:
    from diq.evaluation.benchmarks import BENCHMARKS

    text = " ".join(invoke(evaluate, "--help").output.split())
    assert all(name in text for name in BENCHMARKS)
