"""Every method of influence end to end: folds, norms, rank, forward mode, adapters, checkpoints, several processes."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import ROOT, build_llama, build_tokenizer, run_forked, run_killed, save_model
from diq.base.errors import DiqError, ModelError, RunFailedError, UsageError
from diq.influence.score import score_influence
from diq.store.store import Store
from influence.conftest import Conversations, fill
from influence.test_score import influence_rows

COLUMNS = ("dot", "fold_dots", "gradient_norm", "loss", "answer_tokens", "reason")


def scores_of(store: Path, run_id: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Validation set to sample to columns."""
    with Store(store, read_only=True) as opened:
        rows = opened.connection.execute(
            f"SELECT v.name, sample_id::VARCHAR, {', '.join(COLUMNS)} FROM influence_scores "
            "JOIN validation_sets AS v USING (validation_set_id) WHERE run_id = ? ORDER BY 1, 2",
            [run_id],
        ).fetchall()
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, sample, *values in rows:
        assert sample not in found.setdefault(name, {})
        found[name][sample] = dict(zip(COLUMNS, values, strict=True))
    return found


def column(scores: dict[str, dict[str, Any]], name: str) -> np.ndarray:
    return np.asarray([row[name] for row in scores.values()], np.float64)


@pytest.fixture
def exact(filled: Path, tiny_llama_folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    return scores_of(filled, score_influence("pool", model=str(tiny_llama_folder), store=filled).run_id)


def test_folds_are_stored_with_their_sizes_and_their_mean_is_the_dot(
    filled: Path, exact: dict[str, dict[str, dict[str, Any]]], tiny_llama_folder: Path
) -> None:
    four = score_influence("pool", model=str(tiny_llama_folder), store=filled, folds=4)
    found = scores_of(filled, four.run_id)
    with Store(filled, read_only=True) as store:
        sizes = {row["name"]: row["fold_sizes"] for row in store.rows("influence/facts_of_run", run_id=four.run_id)}
        norms = [row["gradient_norm"] for row in store.rows("influence/facts_of_run", run_id=four.run_id)]
    # a set of three has three folds
    assert sizes == {"a": [2, 2, 1, 1], "b": [1, 1, 1]}
    assert all(norm > 0 for norm in norms)
    for name, scores in found.items():
        folds = np.asarray([row["fold_dots"] for row in scores.values()])
        dots = column(scores, "dot")
        np.testing.assert_allclose(np.average(folds, axis=1, weights=sizes[name]), dots, rtol=1e-12)
        assert np.abs(dots - column(exact[name], "dot")).max() < 1e-5 * dots.std()
        assert folds.std(axis=1).min() > 0
    assert all(len(row["fold_dots"]) == 2 for row in exact["a"].values())


def test_norms_bound_the_dots_and_go_with_the_cosine(filled: Path, tiny_llama_folder: Path) -> None:
    run = score_influence("pool", model=str(tiny_llama_folder), store=filled, norms=True).run_id
    with Store(filled, read_only=True) as store:
        validation = {row["name"]: row["gradient_norm"] for row in store.rows("influence/facts_of_run", run_id=run)}
    for name, scores in scores_of(filled, run).items():
        cosine = column(scores, "dot") / column(scores, "gradient_norm") / validation[name]
        assert np.abs(cosine).max() < 1
        assert np.abs(cosine).max() > 0.05


def test_forward_and_central_give_the_exact_dots(
    filled: Path, exact: dict[str, dict[str, dict[str, Any]]], tiny_llama_folder: Path
) -> None:
    for method, bound in (("forward", 1e-4), ("central", 2e-2)):
        summary = score_influence("pool", model=str(tiny_llama_folder), store=filled, method=method)
        for name, scores in scores_of(filled, summary.run_id).items():
            dots = column(exact[name], "dot")
            assert np.abs(column(scores, "dot") - dots).max() < bound * dots.std()
            assert all(len(row["fold_dots"]) == 1 for row in scores.values())
    with Store(filled, read_only=True) as store:
        methods = [row["method"] for row in store.rows("selection/coverage") if row["score"] == "influence"]
    assert set(methods) == {"exact", "forward", "central"}


def test_a_rank_tells_what_it_leaves_out(
    filled: Path, exact: dict[str, dict[str, dict[str, Any]]], tiny_llama_folder: Path
) -> None:
    low = score_influence("pool", model=str(tiny_llama_folder), store=filled, rank=2)
    high = score_influence("pool", model=str(tiny_llama_folder), store=filled, rank=64)
    assert all(0 < share < 1 for share in low.details["residual_share"].values())
    assert all(abs(share) < 1e-3 for share in high.details["residual_share"].values())
    for name, scores in scores_of(filled, high.run_id).items():
        dots = column(exact[name], "dot")
        assert np.abs(column(scores, "dot") - dots).max() < 1e-4 * dots.std()
        found = column(scores_of(filled, low.run_id)[name], "dot")
        assert 0.5 < np.corrcoef(found, dots)[0, 1] < 0.99999


@pytest.mark.parametrize("options", [{"packed": True}, {"checkpointing": True}, {"batch_tokens": 64}], ids=str)
def test_how_batches_are_laid_out_changes_no_score_and_no_run(
    filled: Path, exact: dict[str, dict[str, dict[str, Any]]], tiny_llama_folder: Path, options: dict[str, Any]
) -> None:
    with Store(filled) as store:
        store.connection.execute("DELETE FROM influence_scores")
    summary = score_influence("pool", model=str(tiny_llama_folder), store=filled, **options)
    assert summary.n_scored == 40
    for name, scores in scores_of(filled, summary.run_id).items():
        dots = column(exact[name], "dot")
        assert np.abs(column(scores, "dot") - dots).max() < 1e-5 * dots.std()
    with Store(filled, read_only=True) as store:
        assert store.connection.execute("SELECT count(*) FROM runs").fetchall() == [(1,)]


def test_bfloat16_on_a_cpu(filled: Path, exact: dict[str, dict[str, dict[str, Any]]], tiny_llama_folder: Path) -> None:
    summary = score_influence("pool", model=str(tiny_llama_folder), store=filled, dtype="bfloat16")
    assert summary.details["dtype"] == "bfloat16"
    for name, scores in scores_of(filled, summary.run_id).items():
        assert np.corrcoef(column(scores, "dot"), column(exact[name], "dot"))[0, 1] > 0.999


def test_attention_that_mixes_packed_samples_is_refused(filled: Path, tiny_llama_folder: Path, tmp_path: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    # a state-space model carries its state across the border of two samples
    config = MambaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=1, state_size=4, initializer_range=0.5)
    folder = save_model(tmp_path / "mamba", MambaForCausalLM(config), build_tokenizer())
    with pytest.raises(ModelError, match="across the borders of packed samples"):
        score_influence("pool", model=str(folder), store=filled, params="in_proj", packed=True)


# checkpoints -------------------------------------------------------------------------------------------------------


def save_adapter(base: Path, folder: Path, *, seed: int, rate: float | None = None) -> Path:
    """A LoRA adapter with both matrices away from zero, as a Trainer's checkpoint folder."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    wrapped = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    )
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    wrapped.save_pretrained(folder)
    if rate is not None:
        state = {"global_step": 1, "epoch": 1.0, "log_history": [{"step": 1, "learning_rate": rate}]}
        (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


@pytest.mark.parametrize("params", ["qkv", pytest.param("lora", marks=pytest.mark.exhaustive)])
def test_checkpoints_add_up_times_their_weights(
    filled: Path, tiny_llama_folder: Path, tmp_path: Path, params: str
) -> None:
    first = save_adapter(tiny_llama_folder, tmp_path / "checkpoint-1", seed=1)
    second = save_adapter(tiny_llama_folder, tmp_path / "checkpoint-2", seed=2, rate=0.5)
    model = str(tiny_llama_folder)
    both = score_influence("pool", model=model, store=filled, params=params, checkpoint=[f"{first}:2", str(second)])
    with Store(filled, read_only=True) as store:
        query = "SELECT part_run_id, weight FROM run_parts WHERE run_id = ? ORDER BY part_run_id"
        parts = dict(store.connection.execute(query, [both.run_id]).fetchall())
        assert store.connection.execute("SELECT name FROM models ORDER BY name").fetchall() == [
            ("tiny-llama",), ("tiny-llama+checkpoint-1",), ("tiny-llama+checkpoint-2",)
        ]  # fmt: skip
    assert sorted(parts.values()) == [0.5, 2.0]
    found = scores_of(filled, both.run_id)
    for name, scores in found.items():
        alone = {run: scores_of(filled, run)[name] for run in parts}
        expected = sum(weight * column(alone[run], "dot") for run, weight in parts.items())
        np.testing.assert_allclose(column(scores, "dot"), expected, rtol=1e-12)
        folds = sum(w * np.asarray([row["fold_dots"] for row in alone[run].values()]) for run, w in parts.items())
        np.testing.assert_allclose(np.asarray([row["fold_dots"] for row in scores.values()]), folds, rtol=1e-12)
        one, two = (column(scores_of(filled, run)[name], "dot") for run in parts)
        assert abs(np.corrcoef(one, two)[0, 1]) < 0.9999
    assert (both.n_scored, both.n_cached) == (40, 0)
    # nothing is recomputed: the runs of the checkpoints are there, only the sum is new
    again = score_influence("pool", model=model, store=filled, params=params, checkpoint=[f"{first}:1", f"{second}:1"])
    assert again.tokens == 0
    assert again.run_id != both.run_id
    rows = influence_rows(filled)
    assert len(rows) == len({row[:3] for row in rows})


def test_an_adapter_scores_as_its_merged_model_does(filled: Path, tiny_llama_folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter = save_adapter(tiny_llama_folder, tmp_path / "adapter", seed=3)
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama_folder), adapter)
    full = save_model(tmp_path / "merged", merged.merge_and_unload(), build_tokenizer())
    model = str(tiny_llama_folder)
    runs = [
        score_influence("pool", model=model, store=filled, checkpoint=[f"{folder}:1"]).run_id
        for folder in (adapter, full)
    ]
    one, two = (column(scores_of(filled, run)["a"], "dot") for run in runs)
    assert np.abs(one - two).max() < 1e-4 * one.std()


# several processes -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one(filled: Path, tiny_llama_folder: Path, tmp_path: Path) -> None:
    shutil.copy(filled, tmp_path / "two.duckdb")
    model = str(tiny_llama_folder)
    one = score_influence("pool", model=model, store=filled, norms=True, batch_tokens=64)
    two = score_influence(
        "pool", model=model, store=tmp_path / "two.duckdb", norms=True, batch_tokens=64, devices=2, device="cpu"
    )
    assert two.n_scored == 40
    assert scores_of(filled, one.run_id) == scores_of(tmp_path / "two.duckdb", two.run_id)


@dataclass
class KillWorkerThenParent:
    """A progress callback that kills one of the workers, and some shards later the process that it runs in."""

    folder: Path
    calls: int = 0

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != "scoring":
            return
        self.calls += 1
        workers = multiprocessing.active_children()
        if self.calls == 5:
            logging.basicConfig(filename=self.folder / "log", level="INFO")
            os.kill(workers[0].pid or 0, signal.SIGKILL)
        elif self.calls > 10 and len(workers) == 1:
            (self.folder / "left").write_text(str(workers[0].pid))
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for the workers in /proc")
def test_a_killed_worker_is_replaced_by_the_others_and_a_killed_parent_resumes(
    tmp_path: Path, make_samples: Callable[..., Conversations], tiny_llama_folder: Path
) -> None:
    undisturbed, disturbed = tmp_path / "u.duckdb", tmp_path / "d.duckdb"
    fill(undisturbed, make_samples(200, seed=1), {"a": make_samples(4, seed=2)})
    shutil.copy(undisturbed, disturbed)
    options: dict[str, Any] = {"model": str(tiny_llama_folder), "batch_tokens": 64, "device": "cpu"}
    # the parent dies between two shards: its workers end with it
    run_killed(
        score_influence, "pool", store=disturbed, devices=2, progress=KillWorkerThenParent(tmp_path),
        patches={"diq.scoring.summary.SHARD_SECONDS": 0.0}, **options,
    )  # fmt: skip
    assert "died with exit code -9" in (tmp_path / "log").read_text()
    left = Path(f"/proc/{(tmp_path / 'left').read_text()}")
    while left.exists():
        time.sleep(0.05)
    assert 0 < len(influence_rows(disturbed)) < 200
    score_influence("pool", store=disturbed, **options)
    score_influence("pool", store=undisturbed, **options)
    assert influence_rows(disturbed) == influence_rows(undisturbed)


@pytest.mark.slow
def test_what_a_worker_meets_reaches_the_caller(filled: Path, tiny_llama_folder: Path) -> None:
    with pytest.raises(ModelError, match="no linear layer"):
        score_influence("pool", model=str(tiny_llama_folder), store=filled, params="nope", devices=2, device="cpu")


# bad input ---------------------------------------------------------------------------------------------------------


def test_options_that_do_not_go_together(filled: Path, tiny_llama_folder: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    cases: list[tuple[dict[str, Any], type[DiqError], str]] = [
        ({"method": "exakt"}, UsageError, "method `exakt`"),
        ({"kind": "sparse"}, UsageError, "kind has no effect with method exact"),
        ({"dim": 64}, UsageError, "dim has no effect with method exact"),
        ({"method": "projected", "kind": "subspace", "dim": 64}, UsageError, "dim has no effect with kind subspace"),
        ({"method": "projected", "rank": 4}, UsageError, "rank has no effect with method projected"),
        ({"method": "forward", "norms": True}, UsageError, "norms has no effect with method forward"),
        ({"method": "less"}, UsageError, "checkpoint=DIR"),
        ({"index": tmp_path}, UsageError, "index has no effect with method exact"),
        ({"method": "projected", "dim": 100}, UsageError, "dim=100"),
        ({"seed": 0}, UsageError, "seed has no effect with method exact"),
        ({"method": "projected", "kind": "subspace", "seed": 1}, UsageError, "seed has no effect with kind subspace"),
        ({"element": "int8"}, UsageError, "element has no effect with method exact"),
        ({"formula": "code"}, UsageError, "formula has no effect with method exact"),
        ({"from_index": plain, "method": "exact"}, UsageError, "from_index has no effect with method exact"),
        ({"from_index": plain, "index": plain}, UsageError, "index has no effect with from_index"),
        ({"from_index": plain, "checkpoint": str(plain)}, UsageError, "checkpoint has no effect with from_index"),
        ({"folds": 0}, UsageError, "folds=0"),
        ({"rank": 0}, UsageError, "rank=0"),
        ({"devices": 0}, UsageError, "devices=0"),
        ({"devices": 2, "device": "cpu:0"}, ModelError, "which is one device"),
        ({"params": "lora"}, ModelError, "needs an adapter"),
        ({"checkpoint": [str(plain)]}, ModelError, "is not a checkpoint"),
        ({"checkpoint": [f"{plain}:-1"]}, UsageError, "not a positive number"),
        ({"from_index": plain}, UsageError, "no gradient index"),
    ]
    for change, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            score_influence("pool", **{"model": str(tiny_llama_folder), "store": filled, **change})
        assert "\n" not in caught.value.message
        assert caught.value.hint


def score_greedily(store: Path, model: str) -> None:
    from diq.gradients import dots

    def greedy(*_: Any) -> None:
        # more than any machine has: the allocator of torch refuses it
        torch.empty(1 << 50)

    dots.token_terms = greedy  # type: ignore[assignment]
    try:
        score_influence("pool", model=model, store=store, device="cpu")
    except RunFailedError as error:
        print(error.message, "|", error.hint)


@pytest.mark.slow
def test_a_sample_that_does_not_fit_into_memory_is_one_line(
    tiny_llama_folder: Path, make_samples: Callable[..., Conversations], tmp_path: Path
) -> None:
    """A real limit on memory in a process of its own: halving the batch does not help one sample."""
    store = fill(tmp_path / "s.duckdb", make_samples(8, seed=1), {"a": make_samples(2, seed=2)})
    torch.manual_seed(0)
    folder = save_model(tmp_path / "wide", build_llama(vocabulary=400), build_tokenizer())
    done = run_forked(score_greedily, store, str(folder), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "out of memory on one sample of" in done.stdout, (done.stdout, done.stderr)
    assert "samples at a time: going on with" in done.stderr


def test_a_finished_scoring_loads_no_model(
    filled: Path, tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = score_influence("pool", model=str(tiny_llama_folder), store=filled)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("diq.gradients.engine.load_causal_lm", never)
    again = score_influence("pool", model=str(tiny_llama_folder), store=filled)
    assert (again.run_id, again.n_scored, again.n_cached) == (first.run_id, 0, 40)


PACK_AND_SCORE = """
import sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from diq import DiqError
from diq.influence.score import score_influence
base, store, adapter, *folders = sys.argv[1:]
kinds = {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32}, {"load_in_8bit": True}
for folder, options in zip(folders, kinds):
    packed = AutoModelForCausalLM.from_pretrained(
        base, quantization_config=BitsAndBytesConfig(**options), device_map={"": "cpu"}
    )
    packed.save_pretrained(folder)
    del packed
    try:
        score_influence("pool", model=folder, store=Path(store), device="cpu")
    except DiqError as error:
        print(error.message, error.hint)
for model in (base, *folders):
    options = {"params": "lora", "checkpoint": [f"{adapter}:1"], "device": "cpu"}
    print(score_influence("pool", model=model, store=Path(store), **options).run_id)
"""


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_quantised_base_model_has_dots_of_its_adapter_alone(filled: Path, tmp_path: Path) -> None:
    """Real packed weights of bitsandbytes, on the CPU; `make setup` puts it into a folder of its own."""
    library = ROOT / ".venv" / "bitsandbytes"
    if not library.is_dir():
        pytest.skip("bitsandbytes is not installed in .venv/bitsandbytes")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    base = save_model(tmp_path / "base", LlamaForCausalLM(config), build_tokenizer())
    folders = [tmp_path / "packed-4", tmp_path / "packed-8"]
    for folder in folders:
        build_tokenizer().save_pretrained(folder)
    adapter = save_adapter(base, tmp_path / "adapter", seed=1)
    path = os.pathsep.join([str(library), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", PACK_AND_SCORE, *map(str, (base, filled, adapter, *folders))],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *refused, first, second, third = done.stdout.splitlines()
    assert len(refused) == 2
    assert all("is quantised" in one and "--params lora" in one for one in refused)
    whole, four, eight = (column(scores_of(filled, int(run))["a"], "dot") for run in (first, second, third))
    # the rounded weights are other weights, but close ones
    for found, least in ((four, 0.5), (eight, 0.9)):
        assert np.isfinite(found).all()
        assert least < np.corrcoef(found, whole)[0, 1] < 0.999999


def test_a_sample_that_fits_with_checkpointing_alone_is_scored(
    tiny_llama_folder: Path,
    make_samples: Callable[..., Conversations],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from diq.gradients import dots
    from diq.gradients.engine import Engine

    stores = [fill(tmp_path / f"{i}.duckdb", make_samples(8, seed=1), {"a": make_samples(2, seed=2)}) for i in range(2)]
    plain = score_influence("pool", model=str(tiny_llama_folder), store=stores[0])
    entered = []
    terms, checkpointing = dots.token_terms, Engine._checkpointing

    def noted(self: Engine) -> Any:
        entered.append(self._recomputes)
        return checkpointing(self)

    def short(*args: Any) -> torch.Tensor:
        if not entered[-1]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return terms(*args)

    monkeypatch.setattr(Engine, "_checkpointing", noted)
    monkeypatch.setattr(dots, "token_terms", short)
    again = score_influence("pool", model=str(tiny_llama_folder), store=stores[1])
    assert "layers are computed again on the way back" in caplog.text
    first, second = (scores_of(store, run.run_id) for store, run in zip(stores, (plain, again), strict=True))
    assert first.keys() == second.keys()
    dots_of = [{one: row["dot"] for one, row in each["a"].items()} for each in (first, second)]
    assert dots_of[0] == pytest.approx(dots_of[1], rel=1e-5)


@pytest.mark.slow
def test_variables_of_the_chat_template_are_part_of_every_run(
    filled: Path, tiny_llama_chat_folder: Path, tmp_path: Path
) -> None:
    """A template that thinks unless it is told not to, in scoring, explaining, perplexity and training."""
    import shutil

    import diq

    model = Path(shutil.copytree(tiny_llama_chat_folder, tmp_path / "thinks"))
    template = (model / "chat_template.jinja").read_text()
    mark = "{%- if enable_thinking is not defined or enable_thinking -%}<think>{%- endif -%}"
    (model / "chat_template.jinja").write_text(mark + template)
    options: dict[str, Any] = {"model": str(model), "store": filled, "device": "cpu"}
    told: dict[str, Any] = options | {"chat_template_kwargs": ["enable_thinking=false"]}
    runs = [diq.score_influence("pool", **one).run_id for one in (options, told, told)]
    assert runs[0] != runs[1] == runs[2]
    dots = [scores_of(filled, run)["a"] for run in runs[:2]]
    sample = next(iter(dots[0]))
    assert dots[0][sample]["dot"] != dots[1][sample]["dot"]
    # without the mark the template is the one it was made from
    plain = diq.score_influence("pool", model=str(tiny_llama_chat_folder), store=filled, device="cpu")
    assert scores_of(filled, plain.run_id)["a"][sample]["dot"] == dots[1][sample]["dot"]
    explained = diq.explain(sample, validation_set=["a"], **told)
    assert explained.dot == pytest.approx(dots[1][sample]["dot"], rel=1e-4)
    first, second = (diq.score_perplexity("pool", **one).run_id for one in (options, told))
    assert first != second
    trained = diq.train("pool", output=tmp_path / "out", epochs=1, validation_set=["a"], **told)
    assert trained.run_id is not None
    with Store(filled, read_only=True) as opened:
        kept = [
            json.loads(one)
            for (one,) in opened.connection.execute(
                "SELECT config FROM runs WHERE run_id IN (?, ?, ?)", [runs[1], second, trained.run_id]
            ).fetchall()
        ]
    assert [one["template_variables"] for one in kept] == [{"enable_thinking": False}] * 3
    with pytest.raises(UsageError, match="does not read it"):
        diq.score_influence("pool", **options, chat_template_kwargs=["thinking=false"])
