"""Training beyond a plain adapter: preference pairs, whole weights, packed weights and batches, several processes."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import diq
from conftest import ROOT, build_tokenizer, ingest_rows, run_forked, save_model, sentence, write_jsonl
from diq.base.errors import ModelError, RunFailedError, UsageError
from diq.models.network import load_causal_lm
from diq.models.source import find_adapter, find_model
from diq.models.tokens import Tokenization, load_tokenizer
from diq.store.store import Store
from diq.training import worker as worker_module
from diq.training.data import Texts, read_samples
from diq.training.train import train as run
from diq.training.trainer import DpoTrainer, SftTrainer

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pairs(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Preference rows: every chosen answer says `aspirin daily`, every refused one something else."""
    rng = random.Random(seed)
    return [
        {"prompt": sentence(rng, 4), "chosen": "aspirin daily", "rejected": sentence(rng, 2 + number % 3)}
        for number in range(n)
    ]


@pytest.fixture
def preferences(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "pairs.jsonl", pairs(10))


@pytest.fixture
def train(tmp_path: Path, tiny_llama_folder: Path) -> Callable[..., Any]:
    """`run` with settings for a toy."""

    def call(chosen: str | Path, **options: Any) -> Any:
        settings: dict[str, Any] = {
            "model": str(tiny_llama_folder),
            "output": tmp_path / "out",
            "store": tmp_path / "none.duckdb",
            "epochs": 2,
            "batch_size": 4,
            "micro_batch_size": 2,
            "learning_rate": 1e-2,
            "device": "cpu",
        }
        return run(str(chosen), **{**settings, **options})

    return call


@pytest.fixture
def selection(tmp_path: Path, make_samples: Callable[..., Any]) -> Path:
    return write_jsonl(tmp_path / "selection.jsonl", [{"messages": one} for one in make_samples(10, longest=12)])


def distance(one: Path, other: Path) -> float:
    """Relative distance of two saved adapters."""
    first, second = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    assert first.keys() == second.keys()
    gap = sum(float((first[name].double() - second[name].double()).square().sum()) for name in first)
    size = sum(float(value.double().square().sum()) for value in first.values())
    return (gap / size) ** 0.5


# preference --------------------------------------------------------------------------------------------------------


def answer_logps(model: Any, encoded: list[Any]) -> torch.Tensor:
    """Sum of the log-probabilities of each answer, the slow way: one sequence at a time, in float64."""
    sums = []
    for one in encoded:
        ids = torch.tensor(one.ids.tolist())
        with torch.no_grad():
            logp = F.log_softmax(model(input_ids=ids[None]).logits[0].double(), dim=-1)
        sums.append(sum(logp[t - 1, ids[t]] for t in range(one.answer_start, len(ids))))
    return torch.stack(sums)


@pytest.mark.slow
def test_dpo_is_the_loss_of_the_paper_against_the_sft_adapter(
    train: Any, selection: Path, preferences: Path, tmp_path: Path, tiny_llama_folder: Path
) -> None:
    from peft import PeftModel

    train(selection, output=tmp_path / "sft")
    first = train(
        preferences, method="dpo", adapter=str(tmp_path / "sft"), output=tmp_path / "dpo",
        batch_size=10, micro_batch_size=5, epochs=3, beta=0.3,
    )  # fmt: skip
    # policy and reference are the same at the first step, whatever the adapter
    assert first.loss_first == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-5)
    assert first.preferred is not None
    assert first.loss_last < first.loss_first
    # the loss by the book at the end: -log sigmoid(beta * (gain of the chosen - gain of the refused answer))
    source = find_model(str(tiny_llama_folder))
    tokenization = Tokenization(load_tokenizer(source), max_length=512)
    rows = pairs(10)
    chosen, rejected = (
        tokenization.encode(
            [[{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[name]}] for row in rows]
        )
        for name in ("chosen", "rejected")
    )
    policy, reference = (
        PeftModel.from_pretrained(load_causal_lm(source, device="cpu").double(), tmp_path / name)
        for name in ("dpo", "sft")
    )
    gain = [answer_logps(policy, one) - answer_logps(reference, one) for one in (chosen, rejected)]
    by_the_book = -F.logsigmoid(0.3 * (gain[0] - gain[1])).mean()
    again = train(
        preferences, method="dpo", adapter=str(tmp_path / "sft"), output=tmp_path / "more",
        batch_size=10, micro_batch_size=5, epochs=4, beta=0.3, scheduler="constant", warmup_ratio=0,
    )  # fmt: skip
    assert again.steps == 4
    assert 0 < float(by_the_book) < first.loss_first
    config = json.loads((tmp_path / "dpo" / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == ["k_proj", "q_proj", "v_proj"]
    assert not (tmp_path / "dpo" / "ref").exists()


def test_the_dpo_step_is_autograds(train: Any, preferences: Path, tmp_path: Path, monkeypatch: Any) -> None:
    seen: list[tuple[dict[str, Any], float]] = []
    original = DpoTrainer.compute_loss

    def compute_loss(self: Any, model: Any, inputs: dict[str, Any], **options: Any) -> Any:
        loss = original(self, model, inputs, **options)
        kept = {name: value.clone() for name, value in inputs.items() if torch.is_tensor(value)}
        book = None
        with torch.no_grad():
            sums = {}
            for which, adapter in (("policy", "default"), ("reference", "ref")):
                model.set_adapter(adapter)
                logits = model(input_ids=kept["input_ids"], attention_mask=kept["attention_mask"]).logits
                logp = F.log_softmax(logits[:, :-1].double(), dim=-1)
                picked = logp.gather(2, kept["input_ids"][:, 1:, None])[..., 0]
                sums[which] = (picked * kept["completion_mask"][:, 1:]).sum(dim=1)
            model.set_adapter("default")
            gain = sums["policy"] - sums["reference"]
            half = len(gain) // 2
            book = -F.logsigmoid(0.1 * (gain[:half] - gain[half:])).mean()
        for name, one in model.named_parameters():
            one.requires_grad_(".default." in name)
        seen.append(({name: value.shape for name, value in kept.items()}, float(loss.detach() - book)))
        return loss

    monkeypatch.setattr(DpoTrainer, "compute_loss", compute_loss)
    train(preferences, method="dpo", output=tmp_path / "dpo", epochs=2)
    assert len(seen) >= 10
    assert max(abs(gap) for _, gap in seen) < 1e-5


def test_pairs_reach_the_model_exactly(
    train: Any, preferences: Path, tmp_path: Path, monkeypatch: Any, tiny_llama_folder: Path
) -> None:
    got: list[tuple[list[int], list[int]]] = []
    original = DpoTrainer.compute_loss

    def compute_loss(self: Any, model: Any, inputs: dict[str, Any], **options: Any) -> Any:
        for ids, mask, real in zip(
            inputs["input_ids"], inputs["completion_mask"], inputs["attention_mask"], strict=True
        ):
            got.append((ids[real.bool()].tolist(), mask[real.bool()].tolist()))
        return original(self, model, inputs, **options)

    monkeypatch.setattr(DpoTrainer, "compute_loss", compute_loss)
    summary = train(preferences, method="dpo", epochs=1)
    tokenization = Tokenization(load_tokenizer(find_model(str(tiny_llama_folder))), max_length=512)
    wanted = []
    for row in pairs(10):
        for name in ("chosen", "rejected"):
            (one,) = tokenization.encode(
                [[{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[name]}]]
            )
            mask = [int(t >= one.answer_start) for t in range(len(one.ids))]  # type: ignore[union-attr]
            wanted.append((one.ids.tolist(), mask))  # type: ignore[union-attr]
    assert sorted(got) == sorted(wanted)
    assert summary.tokens == sum(len(ids) for ids, _ in wanted)
    assert summary.answer_tokens == sum(sum(mask) for _, mask in wanted)


@pytest.mark.slow
def test_pairs_come_from_the_store_too_and_a_plain_dataset_is_refused(
    train: Any, preferences: Path, selection: Path, tmp_path: Path
) -> None:
    store = tmp_path / "s.duckdb"
    diq.ingest([str(preferences)], dataset="pairs", store=store)
    diq.ingest([str(selection)], dataset="plain", store=store)
    chosen = tmp_path / "half.jsonl"
    diq.select("pairs", strategy="random", ratio="0.5", store=store, output=chosen, name="half")
    fingerprints = []
    for source in (str(chosen), "half"):
        with Texts(pairs=True) as texts:
            origin = read_samples(source, store, texts)
            assert (origin.dataset, origin.strategy, origin.ratio) == ("pairs", "random", "0.5")
            assert texts.n == 5
            fingerprints.append(texts.fingerprint())
    assert len(set(fingerprints)) == 1
    from_dataset = train("pairs", method="dpo", store=store, output=tmp_path / "a")
    from_file = train(preferences, method="dpo", store=store, output=tmp_path / "b")
    assert from_dataset.run_id == from_file.run_id
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()
    with pytest.raises(UsageError, match="none of the 10 samples has a refused answer") as caught:
        train("plain", method="dpo", store=store, output=tmp_path / "c")
    assert "preference pairs" in caught.value.hint


@pytest.mark.slow
def test_the_chain_from_selection_to_preference_is_in_the_store(
    train: Any, preferences: Path, selection: Path, tmp_path: Path, tiny_llama_folder: Path
) -> None:
    store = tmp_path / "s.duckdb"
    diq.ingest([str(selection)], dataset="plain", store=store)
    diq.select("plain", strategy="random", ratio="0.5", store=store, output=tmp_path / "half.jsonl", name="half")
    train(str(tmp_path / "half.jsonl"), store=store, output=tmp_path / "sft")
    train(preferences, method="dpo", adapter=str(tmp_path / "sft"), store=store, output=tmp_path / "dpo")
    base = find_model(str(tiny_llama_folder))
    sft, dpo = (find_adapter(str(tmp_path / name), base).model_id for name in ("sft", "dpo"))
    with Store(store, read_only=True) as opened:
        rows = opened.connection.execute(
            "SELECT t.model_id, t.start_model_id, s.name, s.strategy, s.ratio, r.method FROM trained_models AS t "
            "JOIN runs AS r USING (run_id) LEFT JOIN selections AS s USING (selection_id) ORDER BY r.run_id"
        ).fetchall()
    assert rows == [(sft, None, "half", "random", "0.5", "sft"), (dpo, sft, None, None, None, "dpo")]


@pytest.mark.slow
def test_a_validation_set_that_comes_later_is_measured_from_the_same_start(
    train: Any, selection: Path, preferences: Path, tmp_path: Path, make_samples: Any
) -> None:
    store = tmp_path / "s.duckdb"
    diq.ingest([str(selection)], dataset="plain", store=store)
    for name, seed in (("early", 5), ("late", 6)):
        ingest_rows(store, make_samples(4, seed=seed), name, validation=True)
    train("plain", store=store, output=tmp_path / "sft")
    options: dict[str, Any] = {"method": "dpo", "adapter": str(tmp_path / "sft"), "store": store}
    whole = train(preferences, output=tmp_path / "whole", validation_set=["early", "late"], **options)
    train(preferences, output=tmp_path / "parts", validation_set=["early"], **options)
    later = train(preferences, output=tmp_path / "parts", validation_set=["early", "late"], **options)
    assert later.already_trained
    for name in ("early", "late"):
        assert later.validation[name] == pytest.approx(whole.validation[name], rel=1e-5)


@pytest.mark.slow
def test_dpo_that_stops_anywhere_ends_with_the_same_bits(
    train: Any, selection: Path, preferences: Path, tmp_path: Path
) -> None:
    train(selection, output=tmp_path / "sft")
    options: dict[str, Any] = {"method": "dpo", "adapter": str(tmp_path / "sft"), "save_steps": 2, "epochs": 2}
    train(preferences, output=tmp_path / "whole", **options)

    class StopError(Exception):
        pass

    def stop(what: str, done: int, total: int) -> None:
        if what == "training" and done == 3:
            raise StopError

    with pytest.raises(StopError):
        train(preferences, output=tmp_path / "cut", progress=stop, **options)
    summary = train(preferences, output=tmp_path / "cut", **options)
    assert summary.resumed_from == 2
    assert (tmp_path / "whole" / WEIGHTS).read_bytes() == (tmp_path / "cut" / WEIGHTS).read_bytes()


# adapters ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_adapter_is_trained_on(train: Any, selection: Path, tmp_path: Path) -> None:
    one = train(selection, output=tmp_path / "first", params="all-linear", lora_rank=4, lora_alpha=4)
    assert one.trainable_parameters > 0
    targets = json.loads((tmp_path / "first" / "adapter_config.json").read_text())["target_modules"]
    assert {"q_proj", "o_proj", "gate_proj", "down_proj"} <= set(targets)
    assert "lm_head" not in targets
    two = train(selection, output=tmp_path / "second", adapter=str(tmp_path / "first"))
    assert two.loss_first < one.loss_first
    config = json.loads((tmp_path / "second" / "adapter_config.json").read_text())
    assert (config["r"], set(config["target_modules"])) == (4, set(targets))
    with pytest.raises(UsageError, match="lora_rank has no effect with adapter"):
        train(selection, output=tmp_path / "third", adapter=str(tmp_path / "first"), lora_rank=4)
    # the name of a first layer alone: peft must not put an adapter on the second
    picked = train(selection, output=tmp_path / "one", params=r"layers\.0\.self_attn\.q_proj")
    assert picked.trainable_parameters == 8 * (48 + 48)


def test_an_adapter_of_another_base_model_is_refused(
    train: Any, selection: Path, preferences: Path, tmp_path: Path
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    train(selection, output=tmp_path / "sft")
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=400, hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    other = save_model(tmp_path / "other", LlamaForCausalLM(config), build_tokenizer())
    options = {"model": str(other), "method": "dpo", "adapter": str(tmp_path / "sft"), "output": tmp_path / "dpo"}
    with pytest.raises(ModelError, match=r"was trained on .*, not on") as caught:
        train(preferences, **options)
    assert caught.value.hint
    # without the record of `diq train` the base that the config names is looked at, and if it is gone the matrices tell
    (tmp_path / "sft" / "diq_run.json").unlink()
    with pytest.raises(ModelError, match=r"was trained on .*tiny-llama`, not on"):
        train(preferences, **options)
    config_file = tmp_path / "sft" / "adapter_config.json"
    named = {**json.loads(config_file.read_text()), "base_model_name_or_path": "/gone/model"}
    config_file.write_text(json.dumps(named))
    with pytest.raises(ModelError, match=r"belongs to another base model: 0 of its .* and 6 places stay empty"):
        train(preferences, **options)
    with pytest.raises(ModelError, match="is a whole model, not an adapter"):
        train(preferences, **{**options, "adapter": str(other)})


# whole weights -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_weights_train_and_the_result_is_a_model(
    train: Any, selection: Path, preferences: Path, tmp_path: Path, tiny_llama_folder: Path
) -> None:
    store = tmp_path / "s.duckdb"
    diq.ingest([str(selection)], dataset="plain", store=store)
    summary = train("plain", params="full", store=store, learning_rate=1e-3, save_steps=2)
    model = load_causal_lm(find_model(str(tmp_path / "out")), device="cpu")
    assert summary.trainable_parameters == sum(one.numel() for one in model.parameters())
    base = load_file(tiny_llama_folder / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert base.keys() == after.keys()
    assert all(not torch.equal(base[name], after[name]) for name in base)
    assert load_tokenizer(find_model(str(tmp_path / "out"))).vocab_size
    assert train("plain", params="full", store=store, learning_rate=1e-3).already_trained
    # the base alone is no reference for it: whole weights go on from the folder itself
    after_dpo = train(
        preferences, model=str(tmp_path / "out"), method="dpo", params="full", learning_rate=1e-4, store=store,
        output=tmp_path / "dpo",
    )  # fmt: skip
    assert after_dpo.loss_first == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-5)
    assert after_dpo.loss_last < after_dpo.loss_first
    with pytest.raises(UsageError, match="lora_rank has no effect with params full"):
        train(selection, params="full", lora_rank=4, output=tmp_path / "x")


def test_whole_weights_that_stop_end_with_the_same_bits(train: Any, selection: Path, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(what: str, done: int, total: int) -> None:
        if what == "training" and done == 3:
            raise StopError

    options: dict[str, Any] = {"params": "full", "save_steps": 2, "learning_rate": 1e-3}
    train(selection, output=tmp_path / "whole", **options)
    with pytest.raises(StopError):
        train(selection, output=tmp_path / "cut", progress=stop, **options)
    # a checkpoint without its weights is passed over
    assert (tmp_path / "cut" / "checkpoint-2" / "model.safetensors").is_file()
    summary = train(selection, output=tmp_path / "cut", **options)
    assert summary.resumed_from == 2
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_whole_weights_in_bfloat16_are_kept_in_float32_while_they_train(
    train: Any, selection: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    kinds = set()
    original = SftTrainer.compute_loss

    def compute_loss(self: Any, model: Any, inputs: dict[str, Any], **options: Any) -> Any:
        kinds.update(one.dtype for one in model.parameters())
        return original(self, model, inputs, **options)

    monkeypatch.setattr(SftTrainer, "compute_loss", compute_loss)
    train(selection, params="full", dtype="bfloat16", learning_rate=1e-3, epochs=1)
    assert kinds == {torch.float32}
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert {one.dtype for one in saved.values()} == {torch.bfloat16}


# packing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_is_padded_up_to_rounding(
    train: Any, selection: Path, tmp_path: Path, monkeypatch: Any, attention: str
) -> None:
    rows = set()
    original = SftTrainer.compute_loss

    def compute_loss(self: Any, model: Any, inputs: dict[str, Any], **options: Any) -> Any:
        rows.add((len(inputs["input_ids"]), "attention_mask" in inputs))
        return original(self, model, inputs, **options)

    padded = train(selection, output=tmp_path / "padded", attention=attention)
    monkeypatch.setattr(SftTrainer, "compute_loss", compute_loss)
    packed = train(selection, output=tmp_path / "packed", attention=attention, packing=True)
    assert rows == {(1, False)}
    assert packed.loss_first == pytest.approx(padded.loss_first, rel=1e-5)
    assert packed.loss_mean == pytest.approx(padded.loss_mean, rel=1e-4)
    assert distance(tmp_path / "packed", tmp_path / "padded") < 1e-2
    with pytest.raises(UsageError, match="packing has no effect with method dpo"):
        train(selection, method="dpo", packing=True, output=tmp_path / "x")


# memory ------------------------------------------------------------------------------------------------------------


def train_within(megabytes: int, path: str, output: Path, model: str) -> None:
    """A training that gets so much memory more than its process has."""
    logging.basicConfig()
    status = Path("/proc/self/status").read_text()
    limit = int(status.partition("VmData:")[2].split()[0]) * 1024 + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    made = train_long(path, output, model)
    print(made.micro_batch_size, made.steps)


def train_long(path: str, output: Path, model: str) -> Any:
    options: dict[str, Any] = {"epochs": 1, "batch_size": 16, "micro_batch_size": 16, "learning_rate": 1e-3}
    return run(path, model=model, output=output, store=output.with_name("none.duckdb"), device="cpu", **options)


@pytest.mark.slow
def test_memory_that_runs_out_halves_the_micro_batch_and_changes_nothing(
    tmp_path: Path, tiny_llama_folder: Path
) -> None:
    rng = random.Random(0)
    rows = [
        [{"role": "user", "content": sentence(rng, 150)}, {"role": "assistant", "content": sentence(rng, 50)}]
        for _ in range(16)
    ]
    path = write_jsonl(tmp_path / "long.jsonl", [{"messages": one} for one in rows])
    free = train_long(str(path), tmp_path / "free", str(tiny_llama_folder))
    assert (free.micro_batch_size, free.steps) == (16, 1)
    tight = run_forked(train_within, 350, str(path), tmp_path / "tight", str(tiny_llama_folder), folder=tmp_path)
    assert tight.returncode == 0, tight.stderr[-2000:]
    size, steps = map(int, tight.stdout.split())
    assert size < 16
    assert steps == 1
    assert "out of memory with 16 samples at a time: going on with 8" in tight.stderr
    assert distance(tmp_path / "tight", tmp_path / "free") < 1e-3


# several processes -------------------------------------------------------------------------------------------------


def work(plan: str, environment: dict[str, str], pipe: str | None) -> None:
    os.environ.clear()
    os.environ.update(environment)
    said = os.open(pipe or os.devnull, os.O_WRONLY)
    os.dup2(said, 1)
    os.close(said)
    sys.argv = ["-c", plan]
    torch.set_num_threads(1)
    worker_module.main()


class ForkedWorker:
    """A training process as ``subprocess.Popen`` starts it, but from the loaded server."""

    def __init__(self, command: list[str], *, env: dict[str, str], stdout: int, text: bool) -> None:
        assert text
        pipe = command[-1] + ".pipe" if stdout == subprocess.PIPE else None
        if pipe:
            os.mkfifo(pipe)
        context = multiprocessing.get_context("forkserver")
        self._process = context.Process(target=work, args=(command[-1], env, pipe))
        self._process.start()
        self.stdout = Path(pipe).open(encoding="utf-8") if pipe else None  # noqa: SIM115

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> None:
        self._process.join()


@pytest.mark.slow
def test_two_processes_one_of_them_killed_train_what_one_does(
    train: Any, selection: Path, tmp_path: Path, make_samples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "s.duckdb"
    diq.ingest([str(selection)], dataset="plain", store=store)
    ingest_rows(store, make_samples(4, seed=5), "task", validation=True)
    options: dict[str, Any] = {"store": store, "epochs": 8, "micro_batch_size": 1, "validation_set": ["task"]}
    one = train("plain", output=tmp_path / "one", **options)
    options |= {"output": tmp_path / "two", "devices": 2, "save_steps": 1}
    said: list[tuple[str, int, int]] = []
    workers: list[int] = []

    def kill(what: str, done: int, total: int) -> None:
        if what == "training" and done >= 3 and not workers:
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            workers.extend(
                one for one in map(int, children) if b"worker.main" in Path(f"/proc/{one}/cmdline").read_bytes()
            )
            os.kill(workers[1], signal.SIGKILL)

    with pytest.raises(RunFailedError, match=r"killed by signal 9|training process"):
        train("plain", progress=kill, **options)
    assert len(workers) == 2
    # nobody is left behind
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    # those that go on need not load the libraries once more
    monkeypatch.setattr(worker_module.subprocess, "Popen", ForkedWorker)
    two = train("plain", progress=lambda *what: said.append(what), **options)
    assert (two.devices, two.micro_batch_size, two.steps) == (2, 1, one.steps)
    assert two.steps == 24
    assert two.resumed_from is not None
    assert two.resumed_from >= 2
    assert ("training", 24, 24) in said
    # the steps before the kill and those after it
    assert two.loss_first == pytest.approx(one.loss_first, rel=1e-5)
    assert two.loss_mean == pytest.approx(one.loss_mean, rel=1e-3)
    assert distance(tmp_path / "one", tmp_path / "two") < 1e-2
    assert two.validation["task"]["after"] == pytest.approx(one.validation["task"]["after"], rel=1e-3)
    assert two.run_id == one.run_id
    with pytest.raises(UsageError, match="batch_size=4 cannot be shared by 3 devices"):
        train("plain", store=store, output=tmp_path / "three", devices=3)


# the command, and once more, in the processes that are there
TWICE = """
import runpy
for time in range(2):
    try:
        runpy.run_module("diq", run_name="__main__")
    except SystemExit as end:
        assert not end.code, end.code
"""


@pytest.mark.slow
@pytest.mark.exhaustive
def test_torchrun_starts_the_processes(train: Any, selection: Path, tmp_path: Path, tiny_llama_folder: Path) -> None:
    train(selection, output=tmp_path / "alone")
    (tmp_path / "twice.py").write_text(TWICE)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(tmp_path / "twice.py"), "train",
        str(selection), "--model", str(tiny_llama_folder), "--output", str(tmp_path / "both"),
        "--store", str(tmp_path / "none.duckdb"), "--epochs", "2", "--batch-size", "4", "--micro-batch-size", "1",
        "--learning-rate", "1e-2", "--device", "cpu", "--quiet", "--json",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert distance(tmp_path / "alone", tmp_path / "both") < 1e-2
    # the first process alone speaks
    first, again = map(json.loads, done.stdout.splitlines())
    assert not first["already_trained"]
    assert again["already_trained"]


# reports -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_losses_on_the_way_are_kept_and_reported(
    train: Any, selection: Path, tmp_path: Path, make_samples: Any
) -> None:
    store = tmp_path / "s.duckdb"
    diq.ingest([str(selection)], dataset="plain", store=store)
    ingest_rows(store, make_samples(4, seed=5), "task", validation=True)
    train("plain", store=store, epochs=3, validation_set=["task"], report_to=["tensorboard"])
    record = json.loads((tmp_path / "out" / "diq_run.json").read_text())
    curve = record["result"]["validation_curve"]
    assert [one["step"] for one in curve] == [3, 6]
    # what was seen after an epoch is what a training that ends there sees
    shorter = train("plain", store=store, output=tmp_path / "short", epochs=3, scheduler="constant", warmup_ratio=0)
    assert shorter.steps == 9
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "out" / "logs"))
    events.Reload()
    assert [one.step for one in events.Scalars("eval/task_loss")] == [3, 6]
    assert [one.value for one in events.Scalars("eval/task_loss")] == pytest.approx([one["task"] for one in curve])
    assert len(events.Scalars("train/loss")) == 9
    with pytest.raises(UsageError, match="report_to `tensorbord` is not known"):
        train("plain", store=store, output=tmp_path / "x", report_to=["tensorbord"])


# selections --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_selection_whose_dataset_was_made_anew_is_refused(
    train: Any, tmp_path: Path, make_samples: Any, caplog: Any
) -> None:
    store = tmp_path / "s.duckdb"
    ingest_rows(store, make_samples(10, seed=1))
    made = diq.select("pool", strategy="random", ratio="0.4", store=store, name="best", output=tmp_path / "best.jsonl")
    # a dataset that only grew holds what was selected, and the log says that there is more
    ingest_rows(store, make_samples(5, seed=2))
    with caplog.at_level("WARNING", logger="diq"):
        train("best", store=store, epochs=1)
    assert "has grown from 10 to 15 samples since selection" in caplog.text
    # the same rows in another order: every place holds another sample
    with Store(store) as opened, opened.transaction():
        opened.connection.execute(
            "UPDATE dataset_samples SET sample_id = (SELECT o.sample_id FROM dataset_samples AS o "
            "WHERE o.dataset_id = dataset_samples.dataset_id AND o.position = 14 - dataset_samples.position)"
        )
    with pytest.raises(UsageError, match="no longer holds the samples that were selected") as caught:
        train("best", store=store, output=tmp_path / "again", epochs=1)
    assert "diq select" in caught.value.hint
    # the file that it wrote is still what it was
    summary = train(str(tmp_path / "best.jsonl"), store=store, output=tmp_path / "again", epochs=1)
    assert summary.n_samples == made.n


# packed weights ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_adapter_on_four_bit_weights(tmp_path: Path, selection: Path, preferences: Path) -> None:
    library = ROOT / ".venv" / "bitsandbytes"
    if not library.is_dir():
        pytest.skip("bitsandbytes is not installed in .venv/bitsandbytes")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = save_model(tmp_path / "model", LlamaForCausalLM(config), build_tokenizer())
    code = (
        "import pathlib, sys, torch, warnings; torch.set_num_threads(1)\n"
        "from diq.training.train import train as run\n"
        "options = dict(model=sys.argv[3], store=pathlib.Path('none.duckdb'), quantization='nf4', epochs=2,"
        " batch_size=5, device='cpu', learning_rate=1e-2)\n"
        "one = run(sys.argv[1], output=pathlib.Path('sft'), **options)\n"
        "two = run(sys.argv[2], output=pathlib.Path('dpo'), method='dpo', adapter='sft', **options)\n"
        "print(one.loss_first, one.loss_last, two.loss_first, two.loss_last, one.trainable_parameters)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(selection), str(preferences), str(model)],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(library), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, last, dpo_first, dpo_last, n = map(float, done.stdout.split()[-5:])
    assert last < first
    assert dpo_first == pytest.approx(0.6931, abs=1e-2)
    assert dpo_last < dpo_first
    assert n == 2 * 3 * 8 * (64 + 64)


def test_packed_weights_need_their_library(train: Any, selection: Path) -> None:
    with pytest.raises(ModelError, match="needs the package `bitsandbytes`") as caught:
        train(selection, quantization="nf4")
    assert "pip install bitsandbytes" in caught.value.hint
    with pytest.raises(UsageError, match="quantization has no effect with params full"):
        train(selection, quantization="nf4", params="full")
