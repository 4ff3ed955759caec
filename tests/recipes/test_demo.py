"""The demo at a small size: counts as generated, steps that are the commands, and a stop that can be resumed."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch

from diq import cli
from diq.base.errors import RunFailedError, UsageError
from diq.cli.demo import demo as command
from diq.demo.options import Sizes
from diq.demo.world import NOISE, NOTICE, TASKS
from diq.recipes import demo
from diq.recipes.run import run_recipe
from diq.recipes.state import LOCK, held
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
    classifier_samples=100,
)
RATIOS = ("0.01", "0.1", "0.5")


class Notes(demo.Silence):
    """A narrator that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str, /) -> None:
        self.lines.append(text)

    def command(self, text: str, /) -> None:
        self.lines.append(text)


class Stop(demo.Silence):
    """A narrator that stops the demo before a command."""

    def __init__(self, before: str) -> None:
        self.before = before

    def command(self, text: str, /) -> None:
        if text.startswith(f"diq {self.before}"):
            raise KeyboardInterrupt


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "kept"


@pytest.fixture(scope="session")
def first(kept: Path) -> demo.DemoSummary:
    return demo.run_demo(keep=kept, sizes=TINY)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def models_in(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def test_the_recipe_has_the_sizes_of_the_data() -> None:
    assert demo.default_sizes() == Sizes()


def test_counts_are_those_of_the_generator(first: demo.DemoSummary) -> None:
    assert first.sources["pool"] == {
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
    assert first.sizes == asdict(TINY)
    assert set(first.models) == {"demo-llama", "demo-encoder"}


def test_selections_are_prefixes_of_one_order(first: demo.DemoSummary, kept: Path) -> None:
    whole: list[str] = []
    for ratio, n in zip(RATIOS, (1, 13, 65), strict=True):
        ids = [row["sample_id"] for row in rows(kept / "selections" / f"diq-{ratio}.jsonl")]
        assert len(ids) == n == first.selections[f"diq-{ratio}"]["n"] == first.selections[f"random-{ratio}"]["n"]
        assert ids[: len(whole)] == whole
        whole = ids
    assert len(set(whole)) == 65
    assert [row["rank"] for row in first.first_rows] == list(range(5))


def test_sql_agrees_with_the_selection(first: demo.DemoSummary, kept: Path) -> None:
    truth = {
        (one["messages"][0]["content"], one["messages"][1]["content"]): one["noise"]
        for one in map(_json, (kept / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines())
        if one and "noise" in one
    }
    selected = Counter(
        truth[row["messages"][0]["content"], row["messages"][1]["content"]]
        for row in rows(kept / "selections" / "diq-0.1.jsonl")
    )
    answer = {row["noise"]: row for row in first.answer}
    assert set(answer) == {"none", *NOISE}
    assert {name: row["selected"] for name, row in answer.items()} == {name: selected[name] for name in answer}
    assert sum(row["samples"] for row in first.answer) == TINY.samples
    dataset = first.selections["diq-0.5"]["counts"]["dataset"]
    for quadrant, n in dataset.items():
        assert sum(row[quadrant.lower()] for row in first.answer) == n


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def test_losses_are_reported_as_they_are(first: demo.DemoSummary) -> None:
    assert set(first.losses) == {*TASKS, *demo.HELD_OUT}
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


@pytest.mark.slow
def test_a_second_run_computes_nothing_again(first: demo.DemoSummary, kept: Path) -> None:
    models = models_in(kept)
    notes = Notes()
    again = demo.run_demo(keep=kept, sizes=TINY, narrator=notes)
    assert again.continued
    assert not first.continued
    assert any("earlier demo" in line for line in notes.lines)
    # a query only shows what is there
    steps = [name for name in first.seconds if not name.startswith(("loading", "sql"))]
    assert len(steps) == 19
    assert again.skipped == steps
    assert first.skipped == []
    assert models_in(kept) == models
    told = ("answer", "losses", "sources", "rejects", "selections", "first_rows", "classifier", "models", "commands")
    assert {name: getattr(again, name) for name in told} == {name: getattr(first, name) for name in told}
    with Store(kept / "diq.duckdb", read_only=True) as store:
        (n,) = store.connection.execute("SELECT count(*) FROM selections").fetchall()[0]
    assert n == 6


@pytest.mark.slow
def test_the_printed_story_and_json(
    first: demo.DemoSummary, kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "default_sizes", lambda: TINY)
    command.main(["--keep", str(kept)], standalone_mode=False)
    out = capsys.readouterr().out
    assert NOTICE in out
    for line in first.commands:
        assert f"$ {line}" in out
    for table in ("ingested", "why rows are no samples", "quadrants (tau = ", "first rows of 10 %", "kinds of noise"):
        assert f"\n{table}" in out
    assert "after random 10 %" in out
    assert demo.verdict(first) in out
    assert f"cd {kept}" in out
    command.main(["--keep", str(kept), "--json"], standalone_mode=False)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    result = json.loads(out)
    assert result["folder"] == str(kept)
    assert result["losses"] == first.losses
    assert result["sizes"]["samples"] == TINY.samples
    assert result["total_seconds"] > 0


@pytest.mark.slow
def test_every_printed_command_works_in_the_folder(
    first: demo.DemoSummary,
    kept: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # some write files again, which the next run of the recipe would notice
    shutil.copytree(kept, tmp_path / "copy")
    kept = tmp_path / "copy"
    monkeypatch.chdir(kept)
    monkeypatch.delenv("DIQ_STORE", raising=False)
    assert len(first.commands) == 21
    assert len(first.examples) >= 4
    before = models_in(kept)
    for line in (*first.commands, *first.examples):
        program, *arguments = shlex.split(line)
        assert program == "diq"
        cli.main(arguments)
        # an answer goes to its file
        assert capsys.readouterr().out or "--output" in arguments, line
    # what was announced was what was done
    assert models_in(kept) == before
    assert (kept / "five.jsonl").exists()
    assert (kept / "safety.parquet").exists()
    assert json.loads((kept / "noise.json").read_text(encoding="utf-8"))["rows"] == first.answer


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_end(first: demo.DemoSummary, kept: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    for stop in ("score influence", "train random"):
        with pytest.raises(KeyboardInterrupt):
            demo.run_demo(keep=tmp_path / "other", sizes=TINY, narrator=Stop(stop))
    other = demo.run_demo(keep=tmp_path / "other", sizes=TINY)
    assert other.skipped[0] == "demo data"
    assert other.skipped[-1] == "train diq-0.1 to adapters/diq-0.1"
    assert (other.answer, other.losses, other.rejects) == (first.answer, first.losses, first.rejects)
    for ratio in RATIOS:
        a, b = (rows(folder / "selections" / f"diq-{ratio}.jsonl") for folder in (kept, tmp_path / "other"))
        assert a == b
    assert torch.get_num_threads() == threads


def test_nothing_is_left_without_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(seed=1, sizes=TINY, narrator=Stop("ingest data/graded.jsonl"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_recipe_goes_on_where_the_demo_ends(first: demo.DemoSummary, kept: Path) -> None:
    settings = [*(f"{name}={value}" for name, value in first.sizes.items()), "limit=4", "max_tokens=4"]
    done = run_recipe("demo", set=settings, output=kept)
    verbs = [step.verb for step in done.steps if not step.was_done]
    assert verbs == ["sql", "sql", "ingest", "train", "train", *["evaluate"] * 5, "results", "report"]
    preferred = [step.result for step in done.steps if step.result.get("method") == "dpo"]
    assert [Path(one["output"]).name for one in preferred] == ["diq-0.1-dpo", "random-0.1-dpo"]
    assert "DPO" in (kept / "results.md").read_text(encoding="utf-8")
    assert "random-0.1" in (kept / "report-0.1.html").read_text(encoding="utf-8")
    again = run_recipe("demo", set=settings, output=kept)
    assert [step.verb for step in again.steps if not step.was_done] == ["sql", "sql", "results", "report"]
    # other sizes are other data, which must not be mixed into this folder
    with pytest.raises(RunFailedError, match="holds a demo of other sizes"):
        run_recipe("demo", set=[*settings, "samples=131"], output=kept)


# the folder --------------------------------------------------------------------------------------------------------


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not touch")
    with pytest.raises(UsageError, match=r"is not empty and holds no demo \(but `thesis\.txt`\)"):
        demo.run_demo(keep=tmp_path, sizes=TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    # a recipe of another name, too
    (tmp_path / "thesis.txt").unlink()
    (tmp_path / "recipe.json").write_text('{"format": "diq recipe 1", "recipe": "mine", "steps": {}}')
    with pytest.raises(UsageError, match="holds no demo"):
        demo.run_demo(keep=tmp_path, sizes=TINY)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be a folder"):
        demo.run_demo(keep=tmp_path / "file", sizes=TINY)


def test_a_demo_of_another_seed_or_size_is_refused(first: demo.DemoSummary, kept: Path) -> None:
    assert first.folder == str(kept)
    with pytest.raises(UsageError, match="holds a demo of seed 0, not 1") as caught:
        demo.run_demo(keep=kept, sizes=TINY, seed=1)
    assert "seed 0" in caught.value.hint
    with pytest.raises(UsageError, match="of other sizes"):
        demo.run_demo(keep=kept, sizes=Sizes())


def test_two_demos_in_one_folder_are_refused(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(UsageError, match="another recipe is running"):
        demo.run_demo(keep=tmp_path, sizes=TINY)
    # what is left of one that was killed at its start is no obstacle
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_seed_out_of_range_is_refused() -> None:
    with pytest.raises(UsageError, match="out of range"):
        demo.run_demo(seed=-1)


def test_help_waits_for_no_model_library() -> None:
    code = "import sys; from diq.cli import diq; diq.main(['demo', '--help'], standalone_mode=False); import diq"
    code += "; diq.run_demo; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--keep DIR" in done.stdout
    assert done.stdout.endswith("set()\n")
