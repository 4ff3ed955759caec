"""The demo at a small size: counts as generated, steps that are the commands, and a stop that can be resumed."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch

from diq import cli
from diq.base.errors import UsageError
from diq.base.files import lock
from diq.cli.demo import demo as command
from diq.demo import data as demo_data
from diq.demo import demo
from diq.demo.options import Sizes
from diq.demo.questions import Item
from diq.demo.world import NOISE, NOTICE, TASKS, facts
from diq.store.store import Store

TINY = Sizes(
    samples=130,
    duplicates=7,
    broken=5,
    validation=4,
    held_out=3,
    hidden=32,
    layers=1,
    vocabulary=400,
    model_samples=120,
    model_steps=3,
    classifier_samples=200,
    classifier_epochs=1,
    epochs=1,
)


class Notes(demo.Silence):
    """A narrator that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def command(self, text: str) -> None:
        self.lines.append(text)


class Stop(demo.Silence):
    """A narrator that stops the demo before a command."""

    def __init__(self, before: str) -> None:
        self.before = before

    def command(self, text: str) -> None:
        if text.startswith(f"diq {self.before}"):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "kept"


@pytest.fixture(scope="module")
def first(kept: Path) -> demo.DemoSummary:
    return demo.run_demo(keep=kept, sizes=TINY)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# the data ----------------------------------------------------------------------------------------------------------


def test_data_is_a_function_of_the_seed() -> None:
    assert demo_data.make_data(TINY, 3) == demo_data.make_data(TINY, 3)
    assert demo_data.make_data(TINY, 3).pool != demo_data.make_data(TINY, 4).pool


@pytest.mark.parametrize("seed", range(3))
def test_no_two_uses_share_a_question(seed: int) -> None:
    data = demo_data.make_data(Sizes(), seed)
    pool = {item.prompt for item in data.pool if isinstance(item, Item)}
    parts = [pool]
    for task in TASKS:
        parts += [{item.prompt for item in part[task]} for part in (data.validation, data.held_out)]
        assert len(parts[-1]) == Sizes().held_out
    assert len(set().union(*parts)) == sum(map(len, parts))


@pytest.mark.parametrize("seed", range(3))
def test_the_pool_has_every_level_and_kind_of_noise(seed: int) -> None:
    sizes = Sizes()
    items = [item for item in demo_data.make_data(sizes, seed).pool if isinstance(item, Item)]
    distinct = {(item.prompt, item.reasoning, item.response): item for item in items}
    assert len(distinct) == sizes.samples
    assert len(items) == sizes.samples + sizes.duplicates
    assert {item.noise for item in items} == {"none", *NOISE}
    assert sum(item.noise != "none" for item in distinct.values()) == round(sizes.samples * sizes.noise)
    for dimension in range(3):
        assert {item.levels[dimension] for item in items} == {1, 2, 3, 4, 5}


def test_right_answers_are_right() -> None:
    # told apart from the generator's own words: a right option neither interacts nor is bad for the patient
    data = demo_data.make_data(Sizes(), 0)
    world = data.world
    drugs = {drug.name: drug for drug in world.drugs}
    told = facts(world)
    for item in data.held_out["drug-safety"]:
        organ, current = item.question.split(" with ")[1].split(" takes ")
        taken = drugs[current.split(".")[0]]
        fits = []
        for name in item.options:
            classes = {name.removesuffix(kind) and kind for kind in _classes(told) if name.endswith(kind)}
            (own,) = classes
            (other,) = (kind for kind in _classes(told) if taken.name.endswith(kind))
            pairs = {f"A {own} and a {other} together", f"A {other} and a {own} together"}
            clash = any(line.startswith(tuple(pairs)) for line in told)
            if not clash and f"A {own} is bad in {organ}." not in told:
                fits.append(name)
        assert fits == [item.answer]
    for item in data.held_out["diagnosis"]:
        if item.kind == "differential":
            shown, lab = item.question.split(" has ")[1].split(". The ")
            signs, level = shown.split(" and "), lab.split(". ")[0]
            fitting = [
                one.name
                for one in world.conditions
                if set(signs) <= {*one.shared, one.own} and f"In {one.name} the {level}." in told
            ]
            assert [f"It is {name}." for name in fitting] == [item.answer]


def _classes(told: list[str]) -> list[str]:
    return sorted({line.removesuffix(".").split()[-1] for line in told if " is a " in line})


# the run -----------------------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_generator(first: demo.DemoSummary) -> None:
    assert first.sources["demo"] == {
        "layout": "messages",
        "n_rows": TINY.samples + TINY.duplicates + TINY.broken,
        "n_samples": TINY.samples,
        "n_duplicates": TINY.duplicates,
        "n_rejects": TINY.broken,
    }
    assert sum(first.rejects.values()) == TINY.broken
    assert first.sources["drug-safety"]["layout"] == "multiple_choice"
    assert first.sources["diagnosis"]["layout"] == "huatuo"
    assert first.influence["n_scored"] == first.difficulty["n_scored"] == TINY.samples
    assert first.influence["n_no_score"] == 0


def test_selections_are_prefixes_of_one_order(first: demo.DemoSummary, kept: Path) -> None:
    whole: list[str] = []
    for ratio, n in (("0.01", 1), ("0.1", 13), ("0.5", 65)):
        ids = [row["sample_id"] for row in rows(kept / f"diq-{ratio}.jsonl")]
        assert len(ids) == n == first.selections[ratio]["n"]
        assert ids[: len(whole)] == whole
        whole = ids
    assert len(set(whole)) == 65
    assert len(rows(kept / "random-0.1.jsonl")) == 13


def test_sql_agrees_with_the_selection(first: demo.DemoSummary, kept: Path) -> None:
    truth = {
        (one["messages"][0]["content"], one["messages"][1]["content"]): one["noise"]
        for one in map(_json, (kept / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines())
        if one and "noise" in one
    }
    selected = Counter(
        truth[row["messages"][0]["content"], row["messages"][1]["content"]] for row in rows(kept / "diq-0.1.jsonl")
    )
    answer = {row["noise"]: row for row in first.answer}
    assert set(answer) == {"none", *NOISE}
    assert {name: row["selected"] for name, row in answer.items()} == {name: selected[name] for name in answer}
    assert sum(row["samples"] for row in first.answer) == TINY.samples
    dataset = first.selections["0.5"]["counts"]["dataset"]
    for quadrant, n in dataset.items():
        assert sum(row[quadrant.lower()] for row in first.answer) == n


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def test_losses_are_reported_as_they_are(first: demo.DemoSummary) -> None:
    assert set(first.losses) == {*TASKS, *(f"{task}-held-out" for task in TASKS)}
    for name, losses in first.losses.items():
        assert set(losses) == {"base", "diq", "random"}
        assert all(math.isfinite(loss) and loss > 0 for loss in losses.values())
        for which in ("diq", "random"):
            record = json.loads((Path(first.trainings[which]["output"]) / "diq_run.json").read_text(encoding="utf-8"))[
                "result"
            ]["validation"][name]
            assert (losses["base"], losses[which]) == (record["before"], record["after"])


@pytest.mark.parametrize(
    ("diq", "random", "starts"),
    [
        (
            (1.0, 1.0, 1.0, 2.0),
            (2.0, 2.0, 2.0, 1.5),
            "The DIQ 10 % wins here: the lower loss on 3 (DIQ) and 1 (random) of 4",
        ),
        (
            (2.0, 2.0, 2.0, 1.5),
            (1.0, 1.0, 1.0, 2.0),
            "The random 10 % wins here: the lower loss on 1 (DIQ) and 3 (random)",
        ),
        (
            (1.0, 1.0, 1.0, 9.0),
            (2.0, 2.0, 2.0, 1.5),
            "Neither wins clearly here: the lower loss on 3 (DIQ) and 1 (random)",
        ),
        (
            (1.0, 2.0, 1.0, 2.0),
            (2.0, 1.0, 2.0, 1.0),
            "Neither wins clearly here: the lower loss on 2 (DIQ) and 2 (random)",
        ),
    ],
)
def test_the_verdict_names_whoever_wins(diq: tuple[float, ...], random: tuple[float, ...], starts: str) -> None:
    names = (*TASKS, *demo.HELD_OUT)
    losses = {name: {"base": 3.0, "diq": a, "random": b} for name, a, b in zip(names, diq, random, strict=True)}
    lower = {"diq": sum(a < b for a, b in zip(diq, random, strict=True))}
    lower["random"] = 4 - lower["diq"]
    assert demo.verdict(demo.DemoSummary(None, 0, {}, False, losses=losses, lower=lower)).startswith(starts)


def test_a_second_run_computes_nothing_again(first: demo.DemoSummary, kept: Path) -> None:
    models = {path: path.stat().st_mtime_ns for path in kept.rglob("*.safetensors")}
    notes = Notes()
    again = demo.run_demo(keep=kept, sizes=TINY, narrator=notes)
    assert again.continued
    assert any("earlier demo" in line for line in notes.lines)
    assert again.influence["n_scored"] == again.difficulty["n_scored"] == 0
    assert again.skipped == [
        "making demo-encoder", "making demo-llama", "difficulty train", "score difficulty", "score influence",
        "train on diq 10 %", "train on random 10 %",
    ]  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in kept.rglob("*.safetensors")} == models
    assert (again.answer, again.losses, again.sources) == (first.answer, first.losses, first.sources)
    with Store(kept / "diq.duckdb", read_only=True) as store:
        (n,) = store.connection.execute("SELECT count(*) FROM selections").fetchall()[0]
    assert n == 4


def test_every_printed_command_works_in_the_folder(
    first: demo.DemoSummary, kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(kept)
    monkeypatch.delenv("DIQ_STORE", raising=False)
    assert len(first.commands) == 17
    assert len(first.examples) >= 4
    before = {path: path.stat().st_mtime_ns for path in kept.rglob("*.safetensors")}
    for line in (*first.commands, *first.examples):
        program, *arguments = shlex.split(line)
        assert program == "diq"
        cli.main(arguments)
        assert capsys.readouterr().out, line
    # what was announced was what was done
    assert {path: path.stat().st_mtime_ns for path in kept.rglob("*.safetensors")} == before
    assert (kept / "five.jsonl").exists()
    assert (kept / "safety.parquet").exists()


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_end(first: demo.DemoSummary, kept: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    for stop in ("score influence", "train random"):
        with pytest.raises(KeyboardInterrupt):
            demo.run_demo(keep=tmp_path / "other", sizes=TINY, narrator=Stop(stop))
    other = demo.run_demo(keep=tmp_path / "other", sizes=TINY)
    assert other.skipped[:2] == ["making demo-encoder", "making demo-llama"]
    assert "train on random 10 %" not in other.skipped
    assert (other.answer, other.losses, other.rejects) == (first.answer, first.losses, first.rejects)
    for ratio in demo.RATIOS:
        a, b = (rows(folder / f"diq-{ratio}.jsonl") for folder in (kept, tmp_path / "other"))
        assert a == b
    assert torch.get_num_threads() == threads


# the folder --------------------------------------------------------------------------------------------------------


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not touch")
    with pytest.raises(UsageError, match="is not empty and holds no demo"):
        demo.run_demo(keep=tmp_path, sizes=TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be a folder"):
        demo.run_demo(keep=tmp_path / "file", sizes=TINY)


def test_a_demo_of_another_seed_or_size_is_refused(first: demo.DemoSummary, kept: Path) -> None:
    assert first.folder == str(kept)
    with pytest.raises(UsageError, match="holds a demo of seed 0, not 1") as caught:
        demo.run_demo(keep=kept, sizes=TINY, seed=1)
    assert "--seed 0" in caught.value.hint
    with pytest.raises(UsageError, match="of another kind"):
        demo.run_demo(keep=kept, sizes=Sizes())


def test_two_demos_in_one_folder_are_refused(first: demo.DemoSummary, kept: Path) -> None:
    with lock(kept, UsageError("")), pytest.raises(UsageError, match="another demo is running"):
        demo.run_demo(keep=kept, sizes=TINY)


def test_a_seed_out_of_range_is_refused() -> None:
    with pytest.raises(UsageError, match="out of range"):
        demo.run_demo(seed=-1)


@pytest.mark.slow
def test_nothing_is_left_without_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(demo, "Sizes", lambda: TINY)
    command.main(["--json", "--seed", "1"], standalone_mode=False)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    result = json.loads(out)
    assert result["folder"] is None
    assert set(result["losses"]) == {*TASKS, *(f"{task}-held-out" for task in TASKS)}
    assert result["sizes"]["samples"] == TINY.samples
    assert result["total_seconds"] > 0
    assert list(tmp_path.iterdir()) == []


def test_the_printed_story(
    first: demo.DemoSummary, kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "Sizes", lambda: TINY)
    command.main(["--keep", str(kept)], standalone_mode=False)
    out = capsys.readouterr().out
    assert NOTICE in out
    for line in first.commands:
        assert f"$ {line}" in out
    assert "after random 10 %" in out
    assert demo.verdict(first) in out
    assert f"cd {kept}" in out
