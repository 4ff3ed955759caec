"""`diq score influence --precondition` from end to end: against slow solves, killed, grown, and with broken files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from safetensors.torch import load_file, save_file

import diq
from conftest import KillAt, ingest_rows, run_killed, write_jsonl
from diq.base.errors import RunFailedError, UsageError
from diq.gradients.engine import Engine, EngineSettings
from diq.gradients.validation import ValidationTokens
from diq.influence import factors as stage
from diq.models.source import find_model
from diq.models.tokens import load_tokenization
from diq.store.store import Store

N = 24


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, make_samples: Any) -> Path:
    """A store with a pool and a validation set, without scores."""
    folder = tmp_path_factory.mktemp("factors")
    store = folder / "s.duckdb"
    rows = [{"messages": one} for one in make_samples(N + 6, seed=4)]
    ingest_rows(store, rows[:N])
    diq.ingest([write_jsonl(folder / "v.jsonl", rows[N:])], dataset="v", validation=True, store=store)
    return store


@pytest.fixture
def store(filled: Path, tmp_path: Path) -> Path:
    path = tmp_path / "s.duckdb"
    path.write_bytes(filled.read_bytes())
    return path


def score(store: Path, model: Path, kind: str = "ekfac", **options: Any) -> Any:
    given = {"factor_samples": 16, "dtype": "float32", "device": "cpu", "folds": 1} | options
    return diq.score_influence("pool", model=model, store=store, precondition=kind, **given)


def dots(store: Path, run_id: int) -> dict[str, float]:
    with Store(store, read_only=True) as opened:
        read = "SELECT CAST(sample_id AS VARCHAR), dot FROM influence_scores WHERE run_id = ?"
        return dict(opened.connection.execute(read, [run_id]).fetchall())


@pytest.mark.parametrize("kind", ["kfac", "ekfac", "adam"])
def test_dots_are_with_the_solved_gradient(store: Path, tiny_llama_chat_folder: Path, kind: str) -> None:
    """The factors are those on the disk; what is done with them is done here once more, densely and in float64."""
    summary = score(store, tiny_llama_chat_folder, kind, damping=0.3)
    (folder,) = Path(f"{store}.factors").iterdir()
    source = find_model(str(tiny_llama_chat_folder))
    engine = Engine(EngineSettings(model=source, dtype="float32", device="cpu"))
    tokenization = load_tokenization(source, max_length=8192)
    with Store(store, read_only=True) as opened:
        read = (
            "SELECT CAST(s.sample_id AS VARCHAR), CAST(s.messages AS VARCHAR) FROM samples AS s "
            "JOIN dataset_samples AS d USING (sample_id) JOIN datasets AS n USING (dataset_id) WHERE n.name = ?"
        )
        pool, held = (opened.connection.execute(read, [name]).fetchall() for name in ("pool", "v"))
    validation = ValidationTokens("v", tokenization.encode_validation_set("v", [orjson.loads(one[1]) for one in held]))
    mean = engine.validation_gradient(validation).mean()
    values = load_file(folder / "bases.safetensors") if kind == "kfac" else load_file(folder / "values.safetensors")
    bases = {} if kind == "adam" else load_file(folder / "bases.safetensors")
    solved = {}
    for name, v in mean.items():
        value = values[f"{name}.values"].double()
        if kind == "adam":
            root = value.sqrt()
            solved[name] = v.double() / (root + 0.3 * root.mean())
        else:
            basis = torch.kron(bases[f"{name}.left"].double(), bases[f"{name}.right"].double())
            damped = (value + 0.3 * value.mean()).reshape(-1)
            solved[name] = (basis @ ((basis.T @ v.double().reshape(-1)) / damped)).view_as(v)
    found = dots(store, summary.run_id)
    assert len(found) == N
    expected = []
    for sample_id, messages in pool:
        (tokens,) = tokenization.encode([orjson.loads(messages)])
        gradient = engine.mean_gradient([tokens])
        dot = sum(float((gradient[name].double() * v).sum()) for name, v in solved.items())
        expected.append((found[sample_id], dot))
    mine, theirs = np.array(expected).T
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).std())


def test_a_kill_between_parts_leaves_what_one_pass_leaves(
    store: Path, tmp_path: Path, tiny_llama_chat_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "_PART", 4)
    whole = tmp_path / "whole.duckdb"
    whole.write_bytes(store.read_bytes())
    undisturbed = score(whole, tiny_llama_chat_folder)
    for what in ("moments", "rotated squares"):
        run_killed(
            score,
            store,
            tiny_llama_chat_folder,
            progress=KillAt(f"factors: {what}", 2),
            patches={"diq.influence.factors._PART": 4},
        )
        (folder,) = Path(f"{store}.factors").iterdir()
        assert len(list(folder.glob(f"{what.replace(' ', '-')}-*.safetensors"))) == 2
    resumed = score(store, tiny_llama_chat_folder)
    assert dots(store, resumed.run_id) == dots(whole, undisturbed.run_id)
    (mine,), (theirs,) = (list(Path(f"{one}.factors").iterdir()) for one in (store, whole))
    for name in ("bases.safetensors", "values.safetensors", "factors.json"):
        assert (mine / name).read_bytes() == (theirs / name).read_bytes()
    # the sums of the parts are gone
    names = [".lock", "bases.safetensors", "factors.json", "values.safetensors"]
    assert sorted(one.name for one in mine.iterdir()) == names


@pytest.mark.exhaustive
def test_several_processes_give_the_same_factors(
    store: Path, tmp_path: Path, tiny_llama_chat_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "_PART", 4)
    other = tmp_path / "other.duckdb"
    other.write_bytes(store.read_bytes())
    one, two = score(store, tiny_llama_chat_folder), score(other, tiny_llama_chat_folder, devices=2)
    mine, theirs = dots(store, one.run_id), dots(other, two.run_id)
    scale = np.std(list(mine.values()))
    for sample_id, dot in mine.items():
        assert theirs[sample_id] == pytest.approx(dot, abs=1e-5 * scale)


def test_factors_are_made_once_and_shared(
    store: Path, tiny_llama_chat_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    make = stage._make
    monkeypatch.setattr(stage, "_make", lambda *arguments: (made.append(arguments[3]), make(*arguments)))
    runs = [score(store, tiny_llama_chat_folder, "kfac").run_id]
    assert made == ["moments"]
    runs.append(score(store, tiny_llama_chat_folder, "ekfac").run_id)
    # ekfac fits the values of the bases that kfac left
    assert made == ["moments", "rotated squares"]
    runs += [score(store, tiny_llama_chat_folder, kind, damping=0.5).run_id for kind in ("kfac", "ekfac")]
    runs.append(score(store, tiny_llama_chat_folder, "none", factor_samples=None).run_id)
    assert made == ["moments", "rotated squares"]
    # each is a run of its own
    assert len(set(runs)) == len(runs)
    assert score(store, tiny_llama_chat_folder, "kfac").run_id == runs[0]
    # a pool that grew has the same factors, and the new samples go into the same run
    ingest_rows(store, [{"question": "What is new?", "answer": "This sample."}])
    again = score(store, tiny_llama_chat_folder, "ekfac")
    assert (again.run_id, again.n_scored) == (runs[1], 1)
    assert made == ["moments", "rotated squares"]


def test_a_run_says_what_it_was_preconditioned_by(store: Path, tiny_llama_chat_folder: Path) -> None:
    run_id = score(store, tiny_llama_chat_folder, "kfac", damping=0.25).run_id
    with Store(store, read_only=True) as opened:
        (row,) = opened.connection.execute("SELECT config FROM runs WHERE run_id = ?", [run_id]).fetchall()
    config = json.loads(row[0])
    assert (config["precondition"], config["damping"]) == ("kfac", 0.25)
    assert len(config["factors"]) == 32


def test_a_large_damping_is_the_plain_dot(store: Path, tiny_llama_chat_folder: Path) -> None:
    one_matrix = "layers.0.self_attn.q_proj$"
    plain = score(store, tiny_llama_chat_folder, "none", factor_samples=None, params=one_matrix)
    damped = score(store, tiny_llama_chat_folder, "ekfac", damping=1e6, params=one_matrix)
    one, other = dots(store, plain.run_id), dots(store, damped.run_id)
    pairs = np.array([(one[key], other[key]) for key in one])
    assert np.corrcoef(pairs.T)[0, 1] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("how", ["another byte", "gone", "no json"])
def test_files_that_were_changed_are_refused(store: Path, tiny_llama_chat_folder: Path, how: str) -> None:
    score(store, tiny_llama_chat_folder, "kfac")
    (folder,) = Path(f"{store}.factors").iterdir()
    bases = folder / "bases.safetensors"
    if how == "gone":
        bases.unlink()
    elif how == "no json":
        (folder / "factors.json").write_text("{")
    else:
        content = bytearray(bases.read_bytes())
        content[-5] ^= 1
        bases.write_bytes(content)
    with pytest.raises(RunFailedError, match="is not what was written") as refused:
        score(store, tiny_llama_chat_folder, "kfac", damping=0.2)
    assert "made again" in refused.value.hint


def test_a_singular_curvature_needs_damping(store: Path, tiny_llama_chat_folder: Path) -> None:
    with pytest.raises(RunFailedError, match="singular") as refused:
        score(store, tiny_llama_chat_folder, "ekfac", factor_samples=2, damping=0.0)
    assert "--damping 0.1" in refused.value.hint


def test_second_moments_that_are_not_finite_are_told(
    store: Path, tiny_llama_chat_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "_PART", 8)
    write = Engine.add_up

    def broken(self: Engine, what: Any, samples: Any, numbers: Any, path: Path) -> None:
        write(self, what, samples, numbers, path)
        found = load_file(path)
        found[min(found)][0, 0] = np.nan
        save_file(found, path)

    monkeypatch.setattr(Engine, "add_up", broken)
    with pytest.raises(RunFailedError, match="not finite"):
        score(store, tiny_llama_chat_folder, "kfac")


def test_wrong_use_is_one_line(store: Path, tiny_llama_chat_folder: Path) -> None:
    for options, told in (
        ({"kind": "none", "damping": 0.1}, "damping has no effect"),
        ({"kind": "none", "factor_samples": 5}, "factor_samples has no effect"),
        ({"method": "projected"}, "precondition has no effect"),
        ({"damping": -1.0}, "damping"),
        ({"factor_samples": 0}, "factor_samples"),
        ({"kind": "newton"}, "newton"),
        ({"max_length": 4}, "answer token"),
    ):
        given = {"factor_samples": None} | options if options.get("kind") == "none" else options
        with pytest.raises((UsageError, RunFailedError), match=told):
            score(store, tiny_llama_chat_folder, **given)
