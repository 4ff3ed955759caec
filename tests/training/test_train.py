"""Training: what reaches the model, what changes, what a kill costs, what is recorded, and bad input."""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import json
import os
import random
import re
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from conftest import KillAt, build_tokenizer, ingest_rows, run_killed, save_model, sentence, write_jsonl
from diq.base.errors import DiqError, InputError, ModelError, RunFailedError, UsageError
from diq.gradients.losses import token_losses
from diq.models.network import load_causal_lm
from diq.models.source import ModelSource, find_adapter, find_model
from diq.models.tokens import Tokenization, collate, load_tokenizer
from diq.store.store import Store
from diq.training.output_folder import OutputFolder
from diq.training.train import train as run
from diq.training.trainer import SftTrainer
from diq.training.validation import validation_losses

Conversations = list[list[dict[str, str]]]

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def conversations(make_samples: Callable[..., Conversations]) -> Conversations:
    return make_samples(10, longest=12)


@pytest.fixture
def selection(tmp_path: Path, conversations: Conversations) -> Path:
    return write_jsonl(tmp_path / "selection.jsonl", [{"messages": one} for one in conversations])


@pytest.fixture
def train(tmp_path: Path, selection: Path, tiny_llama_folder: Path) -> Callable[..., Any]:
    """`run` with settings for a toy: 3 steps an epoch, 6 in all."""

    def call(chosen: str | Path = selection, **options: Any) -> Any:
        settings: dict[str, Any] = {
            "model": str(tiny_llama_folder),
            "output": tmp_path / "adapter",
            "store": tmp_path / "none.duckdb",
            "epochs": 2,
            "batch_size": 4,
            "micro_batch_size": 2,
            "learning_rate": 1e-2,
            "device": "cpu",
        }
        return run(str(chosen), **{**settings, **options})

    return call


def weights(folder: Path) -> bytes:
    return (folder / WEIGHTS).read_bytes()


def fill(
    path: Path, pool: Conversations, *, validation: dict[str, Conversations] | None = None, chosen: Sequence[int] = ()
) -> None:
    """A store with the dataset `pool`, validation sets, and the selection `best` of some positions."""
    ingest_rows(path, pool)
    for name, samples in (validation or {}).items():
        ingest_rows(path, samples, name, validation=True)
    if not chosen:
        return
    with Store(path) as store, store.transaction():
        connection = store.connection
        connection.execute(
            "INSERT INTO rankings "
            "(ranking_id, dataset_id, strategy, fingerprint, config, n_scored, n_unscored, created_at)"
            " VALUES (1, 1, 'random', 'f', '{}', ?, 0, now())",
            [len(pool)],
        )
        connection.execute(
            "INSERT INTO selections (selection_id, name, ranking_id, ratio, n_target, n, created_at, strategy)"
            " VALUES (7, 'best', 1, '0.5', ?, ?, now(), 'random')",
            [len(chosen), len(chosen)],
        )
        for rank, position in enumerate(chosen):
            connection.execute(
                "INSERT INTO ranking_samples (ranking_id, rank, position) VALUES (1, ?, ?)", [rank, position]
            )


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every micro-batch as the model gets it, with the loss that comes out and the loss by the book."""
    found: list[dict[str, Any]] = []
    original = SftTrainer.compute_loss

    def compute_loss(self: Any, model: Any, inputs: dict[str, Any], **options: Any) -> Any:
        ids, labels, mask = (inputs[name].clone() for name in ("input_ids", "labels", "attention_mask"))
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask).logits
            total = cross_entropy(
                logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
            )
        loss = original(self, model, inputs, **options)
        found.append(
            {
                "model": model,
                "ids": ids,
                "labels": labels,
                "mask": mask,
                "loss": float(loss.detach()),
                "by_the_book": float(total / options["num_items_in_batch"]),
                "n": int(options["num_items_in_batch"]),
            }
        )
        return loss

    monkeypatch.setattr(SftTrainer, "compute_loss", compute_loss)
    return found


# what reaches the model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("max_length", [8192, 25])
def test_ids_and_labels_reach_the_model_exactly(
    train: Any,
    seen: list[dict[str, Any]],
    request: pytest.FixtureRequest,
    conversations: Conversations,
    chat: bool,
    max_length: int,
) -> None:
    model = request.getfixturevalue("tiny_llama_chat_folder" if chat else "tiny_llama_folder")
    summary = train(model=str(model), epochs=1, max_length=max_length)
    tokenization = Tokenization(load_tokenizer(find_model(str(model))), max_length=min(max_length, 512))
    encoded = [one for one in tokenization.encode(conversations) if one.answer_tokens]
    expected = sorted(
        (one.ids.tolist(), [-100] * one.answer_start + one.ids[one.answer_start :].tolist()) for one in encoded
    )
    got = []
    for batch in seen:
        for ids, labels, mask in zip(batch["ids"], batch["labels"], batch["mask"], strict=True):
            real = mask.bool()
            got.append((ids[real].tolist(), labels[real].tolist()))
            assert (labels[~real] == -100).all()
    assert sorted(got) == expected
    assert summary.tokens == sum(len(one.ids) for one in encoded)
    assert summary.answer_tokens == sum(one.answer_tokens for one in encoded)
    assert summary.n_left_out == len(conversations) - len(encoded)


def test_the_loss_is_the_mean_over_the_answer_tokens_of_a_step(train: Any, seen: list[dict[str, Any]]) -> None:
    summary = train(epochs=1, micro_batch_size=1)
    for batch in seen:
        assert batch["loss"] == pytest.approx(batch["by_the_book"], rel=1e-5)
    # the four micro-batches of a step share one denominator: the answer tokens of all four
    for first in range(0, len(seen), 4):
        step = seen[first : first + 4]
        assert {one["n"] for one in step} == {sum(int((one["labels"] != -100).sum()) for one in step)}
    assert summary.loss_first == pytest.approx(sum(one["loss"] for one in seen[:4]), rel=1e-5)


def test_the_first_loss_is_that_of_the_base_model_on_the_answers(
    train: Any, tiny_llama_folder: Path, conversations: Conversations
) -> None:
    summary = train(batch_size=10, micro_batch_size=5, epochs=1)
    source = find_model(str(tiny_llama_folder))
    network = load_causal_lm(source, device="cpu")
    encoded = Tokenization(load_tokenizer(source), max_length=512).encode(conversations)
    with torch.no_grad():
        token = token_losses(network, collate(encoded))  # type: ignore[arg-type]
        total, counts = token.by_sample("sum"), token.counts
    assert summary.loss_first == pytest.approx(float(total.sum() / counts.sum()), rel=1e-5)
    assert summary.answer_tokens == int(counts.sum())


def test_only_query_key_and_value_adapters_train(
    train: Any, seen: list[dict[str, Any]], tmp_path: Path, tiny_llama_folder: Path
) -> None:
    summary = train()
    model = seen[-1]["model"]
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    assert trained
    assert all(re.search(r"\.(q|k|v)_proj\.lora_[AB]\.", name) for name in trained)
    # 2 layers; q is 48 -> 48, k and v are 48 -> 24
    assert summary.trainable_parameters == 2 * 8 * ((48 + 48) + 2 * (48 + 24))
    base = load_file(tiny_llama_folder / "model.safetensors")
    after = {name.replace("base_layer.", ""): one for name, one in model.get_base_model().state_dict().items()}
    for name, one in base.items():
        assert torch.equal(one, after[name]), name
    saved = load_file(tmp_path / "adapter" / WEIGHTS)
    assert len(saved) == len(trained)
    # a zero B would mean that nothing was learned
    assert all(one.abs().max() > 0 for one in saved.values())
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == ["k_proj", "q_proj", "v_proj"]
    assert (config["r"], config["lora_alpha"]) == (8, 16)
    assert config["base_model_name_or_path"] == str(tiny_llama_folder.resolve())


@pytest.mark.slow
def test_micro_batches_change_rounding_alone(train: Any, tmp_path: Path) -> None:
    for size in (1, 2, 4):
        train(output=tmp_path / f"m{size}", micro_batch_size=size)
    one = load_file(tmp_path / "m1" / WEIGHTS)
    for size in (2, 4):
        for name, value in load_file(tmp_path / f"m{size}" / WEIGHTS).items():
            # Adam's first steps are signs of gradients: entries near zero may turn, so the bound is on the whole
            assert torch.linalg.norm(value - one[name]) <= 1e-3 * torch.linalg.norm(one[name]), name


def test_gradient_checkpointing_changes_nothing(train: Any, tmp_path: Path) -> None:
    train(output=tmp_path / "kept")
    train(output=tmp_path / "again", gradient_checkpointing=True)
    one, other = (load_file(tmp_path / name / WEIGHTS) for name in ("kept", "again"))
    for name, value in one.items():
        assert torch.allclose(value, other[name], rtol=1e-4, atol=1e-6), name


@pytest.mark.slow
def test_a_toy_is_learned(train: Any, tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [
        [{"role": "user", "content": sentence(rng, 5)}, {"role": "assistant", "content": "aspirin daily"}]
        for _ in range(16)
    ]
    pool = write_jsonl(tmp_path / "toy.jsonl", [{"messages": one} for one in rows])
    fill(tmp_path / "s.duckdb", rows, validation={"same": rows})
    summary = train(pool, store=tmp_path / "s.duckdb", epochs=8, learning_rate=5e-2, validation_set=["same"])
    # little can be learned behind a head that is random and frozen, but all of these answers are the same
    assert summary.loss_last < summary.loss_first - 0.3
    assert summary.validation["same"]["after"] < summary.validation["same"]["before"] - 0.3
    assert summary.validation["same"]["n_samples"] == 16


def test_gpt2_with_its_transposed_layers_trains_without_a_warning(train: Any, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=400, n_embd=32, n_layer=1, n_head=2, n_positions=128, bos_token_id=1, eos_token_id=2)
    model = save_model(tmp_path / "gpt2", GPT2LMHeadModel(config), build_tokenizer())
    summary = train(model=str(model))
    assert summary.trainable_parameters == 8 * (32 + 96)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["fan_in_fan_out"]


def test_bfloat16(train: Any, tmp_path: Path) -> None:
    summary = train(dtype="bfloat16")
    assert summary.steps == 6
    assert {one.dtype for one in load_file(tmp_path / "adapter" / WEIGHTS).values()} == {torch.float32}


def test_a_tokenizer_without_padding_and_end_is_left_as_it_is(
    train: Any, tmp_path: Path, tiny_llama_folder: Path
) -> None:
    model = tmp_path / "bare"
    shutil.copytree(tiny_llama_folder, model)
    config = json.loads((model / "tokenizer_config.json").read_text())
    for name in ("pad_token", "eos_token"):
        config.pop(name)
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    train(model=str(model))
    assert load_tokenizer(find_model(str(model))).pad_token is None
    saved = json.loads((tmp_path / "adapter" / "tokenizer_config.json").read_text())
    assert saved.get("pad_token") is None


# determinism and resume --------------------------------------------------------------------------------------------


def test_the_order_of_the_file_is_followed(
    train: Any, tmp_path: Path, selection: Path, seen: list[dict[str, Any]]
) -> None:
    lines = selection.read_text(encoding="utf-8").splitlines()
    backwards = tmp_path / "backwards.jsonl"
    backwards.write_text("\n".join(reversed(lines)) + "\n", encoding="utf-8")

    def samples(name: str, chosen: Path, **options: Any) -> list[tuple[int, ...]]:
        seen.clear()
        train(chosen, output=tmp_path / name, **options)
        rows = [
            tuple(ids[mask.bool()].tolist()) for one in seen for ids, mask in zip(one["ids"], one["mask"], strict=True)
        ]
        assert len(rows) == 2 * len(lines)
        return rows

    there = samples("there", selection, follow_order=True)
    back = samples("back", backwards, follow_order=True)
    # both epochs, and any seed
    assert there[: len(lines)] == there[len(lines) :] == back[: len(lines)][::-1]
    assert samples("seed", selection, follow_order=True, seed=1) == there
    shuffled = samples("shuffled", selection)
    assert shuffled != there
    assert sorted(shuffled) == sorted(there)


def test_a_seed_decides_every_bit(train: Any, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(output=tmp_path / name, seed=seed, lora_dropout=0.1)
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")


class _StopError(Exception):
    pass


def stop_at(step: int) -> Callable[[str, int, int], None]:
    def progress(what: str, done: int, total: int) -> None:
        if what == "training" and done == step:
            raise _StopError

    return progress


@pytest.mark.slow
@pytest.mark.parametrize(("save_steps", "steps"), [(None, (3, 4, 6)), (2, (3, 5))])
def test_a_run_that_stops_anywhere_ends_with_the_same_bits(
    train: Any, tmp_path: Path, save_steps: int | None, steps: tuple[int, ...]
) -> None:
    whole = train(output=tmp_path / "whole", lora_dropout=0.1, save_steps=save_steps)
    for step in steps:
        output = tmp_path / f"stopped-{step}"
        with pytest.raises(_StopError):
            train(output=output, lora_dropout=0.1, save_steps=save_steps, progress=stop_at(step))
        assert not (output / WEIGHTS).exists()
        summary = train(output=output, lora_dropout=0.1, save_steps=save_steps)
        # stopped in step n, before the checkpoint of step n
        expected = max(
            (one for one in range(1, step) if one % 3 == 0 or (save_steps and one % save_steps == 0)), default=None
        )
        assert summary.resumed_from == expected
        assert weights(output) == weights(tmp_path / "whole")
        assert (summary.loss_first, summary.loss_last, summary.steps) == (
            whole.loss_first,
            whole.loss_last,
            whole.steps,
        )
        assert summary.loss_mean == pytest.approx(whole.loss_mean)


@pytest.mark.slow
def test_kill_9_and_the_same_command_again(
    train: Any, tmp_path: Path, selection: Path, tiny_llama_folder: Path
) -> None:
    output = tmp_path / "killed"
    options = {"epochs": 3, "save_steps": 2, "lora_dropout": 0.1}
    run_killed(
        run, str(selection), model=str(tiny_llama_folder), output=output, store=tmp_path / "none.duckdb", batch_size=4,
        micro_batch_size=2, learning_rate=1e-2, device="cpu", progress=KillAt("training", 6), **options,
    )  # fmt: skip
    assert not (output / WEIGHTS).exists()
    assert json.loads((output / "diq_run.json").read_text())["state"] == "training"
    summary = train(output=output, **options)
    assert (summary.resumed_from, summary.steps) == (4, 9)
    train(output=tmp_path / "whole", **options)
    assert weights(output) == weights(tmp_path / "whole")
    assert not (output / ".unfinished").exists()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, make_samples: Any, tiny_llama_folder: Path) -> tuple[Path, bytes]:
    """A training that stopped in its sixth and last step with a checkpoint of each before, and what it would have made.

    Its samples and settings are those of `train`.
    """
    folder = tmp_path_factory.mktemp("stopped")
    rows = [{"messages": one} for one in make_samples(10, longest=12)]
    selection = write_jsonl(folder / "selection.jsonl", rows)
    options: dict[str, Any] = {
        "model": str(tiny_llama_folder), "store": folder / "none.duckdb", "epochs": 2, "batch_size": 4,
        "micro_batch_size": 2, "learning_rate": 1e-2, "device": "cpu",
    }  # fmt: skip
    torch.set_num_threads(1)
    with pytest.raises(_StopError):
        run(str(selection), output=folder / "adapter", save_steps=1, progress=stop_at(6), **options)
    run(str(selection), output=folder / "whole", **options)
    return folder / "adapter", weights(folder / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "trainer_state.json", WEIGHTS])
@pytest.mark.parametrize("cut", ["half", "missing"])
def test_an_incomplete_checkpoint_is_passed_over(
    train: Any, tmp_path: Path, caplog: Any, stopped: tuple[Path, bytes], name: str, cut: str
) -> None:
    output = Path(shutil.copytree(stopped[0], tmp_path / "adapter"))
    path = output / "checkpoint-5" / name
    if cut == "half":
        os.truncate(path, path.stat().st_size // 2)
    else:
        path.unlink()
    with caplog.at_level("INFO", logger="diq"):
        summary = train(save_steps=1)
    assert summary.resumed_from == 4
    assert f"checkpoint-5` is passed over: {name} is" in caplog.text
    assert weights(output) == stopped[1]


@pytest.mark.slow
def test_an_adapter_that_was_not_moved_yet_is_made_again(train: Any, tmp_path: Path) -> None:
    train()
    expected = weights(tmp_path / "adapter")
    (tmp_path / "adapter" / WEIGHTS).unlink()
    summary = train()
    assert (summary.resumed_from, summary.already_trained) == (6, False)
    assert weights(tmp_path / "adapter") == expected


def test_what_was_asked_for_is_kept_and_the_rest_goes(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("diq.training.trainer"), "SAVE_SECONDS", 0.0)
    train(save_steps=4)
    # every step was saved; the ends of both epochs and the fourth step were asked for
    assert sorted(path.name for path in (tmp_path / "adapter").glob("checkpoint-*")) == [
        "checkpoint-3",
        "checkpoint-4",
        "checkpoint-6",
    ]


@pytest.mark.slow
def test_no_resume_starts_again(train: Any) -> None:
    with pytest.raises(_StopError):
        train(progress=stop_at(4))
    assert train(resume=False).resumed_from is None


# the folder --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(train: Any, tmp_path: Path, seen: list[dict[str, Any]]) -> None:
    first = train()
    n, before = len(seen), (tmp_path / "adapter" / WEIGHTS).stat().st_mtime_ns
    again = train()
    assert again.already_trained
    assert len(seen) == n
    assert (tmp_path / "adapter" / WEIGHTS).stat().st_mtime_ns == before
    assert {**first.to_dict(), "already_trained": True} == again.to_dict()
    # what changes no number is no other configuration
    assert train(micro_batch_size=4, save_steps=1).already_trained
    assert not train(overwrite=True).already_trained
    assert len(seen) > n


def test_other_settings_are_refused_by_name(
    train: Any, tmp_path: Path, conversations: Conversations, tiny_llama_chat_folder: Path
) -> None:
    train()
    other = write_jsonl(tmp_path / "other.jsonl", [{"messages": one} for one in conversations[:5]])
    for options, named in (
        ({"learning_rate": 2e-2}, "learning_rate 0.01 there, 0.02 here"),
        ({"seed": 1, "lora_rank": 4}, "lora_rank 8 there, 4 here; seed 0 there, 1 here"),
        ({"model": str(tiny_llama_chat_folder)}, "another model; another template"),
        ({"chosen": other}, "another data"),
    ):
        with pytest.raises(UsageError, match=re.escape(f"other settings: {named}")) as caught:
            train(**options)
        assert "--overwrite" in caught.value.hint
    assert train(chosen=other, overwrite=True).n_samples == 5


def test_other_settings_are_welcome_where_nothing_was_learned_yet(train: Any) -> None:
    with pytest.raises(_StopError):
        train(progress=stop_at(1))
    assert train(learning_rate=2e-2).steps == 6


def test_a_folder_of_others_is_left_alone(train: Any, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "thesis.txt").write_text("all of it")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"`thesis\.txt`"):
            train(overwrite=overwrite)
    assert [path.name for path in (tmp_path / "adapter").iterdir()] == ["thesis.txt"]


def test_overwrite_keeps_the_files_of_others(train: Any, tmp_path: Path) -> None:
    train()
    for name in ("notes.txt", "plan.json"):
        (tmp_path / "adapter" / name).write_text("mine")
    train(overwrite=True, seed=5)
    for name in ("notes.txt", "plan.json"):
        assert (tmp_path / "adapter" / name).read_text() == "mine"


def test_a_file_in_the_place_of_the_folder(train: Any, tmp_path: Path) -> None:
    (tmp_path / "adapter").write_text("")
    with pytest.raises(UsageError, match="cannot be a folder: is a file"):
        train()


def test_two_trainings_into_one_folder(train: Any, tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "adapter"), pytest.raises(UsageError, match="another process is training"):
        train()


# tokens.arrow is the first file that is written, then weights (17 kB), then the optimizer's state (41 kB)
@pytest.mark.slow
@pytest.mark.parametrize("limit", [500, 10_000, 30_000])
def test_a_full_disk(train: Any, tmp_path: Path, limit: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(RunFailedError, match="cannot be written") as caught:
            train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert "\n" not in caught.value.message
    assert not list((tmp_path / "adapter").glob("checkpoint-*"))
    assert not (tmp_path / "adapter" / WEIGHTS).exists()
    assert train().steps == 6


def test_a_loss_that_is_not_a_number_stops_the_run(train: Any, tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match="not finite at step") as caught:
        train(learning_rate=1e30, scheduler="constant")
    assert "--learning-rate" in caught.value.hint
    assert not (tmp_path / "adapter" / WEIGHTS).exists()


def test_the_libraries_are_quiet(train: Any, capfd: pytest.CaptureFixture[str]) -> None:
    train()
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_nothing_is_told_to_the_hub_and_the_adapter_names_its_commit(
    train: Any, tmp_path: Path, tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "0123abcd"
    shutil.copytree(tiny_llama_folder, snapshot)
    hub = ModelSource("owner/name@main", snapshot, "owner/name", "owner/name@0123abcd")
    monkeypatch.setattr("diq.training.train.find_model", lambda *_, **__: hub)

    def no_network(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    train(model="owner/name@main")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/name", "0123abcd")


# the selection, the store ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_file_selection_and_dataset_are_the_same_samples(
    train: Any, tmp_path: Path, conversations: Conversations, make_samples: Any
) -> None:
    conversations[2][-1]["reasoning_content"] = "because of fever"
    store = tmp_path / "s.duckdb"
    order = [4, 2, 9, 0]
    fill(store, conversations, chosen=order)
    chosen = [conversations[i] for i in order]
    plain = write_jsonl(tmp_path / "a.jsonl", [{"messages": one, "rank": i} for i, one in enumerate(chosen)])
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes() + b"\n"))
    columns = tmp_path / "c.parquet"
    pq.write_table(pa.table({"rank": [0, 1, 2, 3], "messages": chosen}), columns)
    first = train("best", store=store)
    assert (first.n_samples, first.selection) == (4, "selection 7 (best)")
    for same in ("7", plain, packed, columns):
        # the same samples in the same order are the same run, wherever they come from
        assert train(same, store=store).already_trained
    whole = train("pool", store=store, output=tmp_path / "whole")
    assert (whole.n_samples, whole.selection) == (10, "dataset pool")


@pytest.mark.slow
def test_the_run_is_recorded(
    train: Any, tmp_path: Path, conversations: Conversations, make_samples: Any, tiny_llama_folder: Path
) -> None:
    base = find_model(str(tiny_llama_folder))
    store = tmp_path / "s.duckdb"
    fill(store, conversations, validation={"task": make_samples(3, seed=5), "other": make_samples(2, seed=6)})
    summary = train("pool", store=store, validation_set=["task"])
    assert train("pool", store=store, validation_set=["task"]).run_id == summary.run_id
    # a validation set that comes later costs no training
    later = train("pool", store=store, validation_set=["other", "task"])
    assert later.already_trained
    assert later.validation["task"] == summary.validation["task"]
    with Store(store, read_only=True) as opened:
        ((kind, method, model_id, config, environment, result),) = opened.connection.execute(
            "SELECT kind, method, model_id, config, environment, result FROM runs WHERE run_id = ?", [summary.run_id]
        ).fetchall()
        models = opened.rows("store/list_models")
        trained = opened.connection.execute("SELECT model_id, run_id, base_model_id, dataset_id FROM trained_models")
        assert trained.fetchall() == [
            (find_adapter(str(tmp_path / "adapter"), base).model_id, summary.run_id, model_id, 1)
        ]
    assert (kind, method) == ("train", "sft")
    assert {one["name"] for one in models} == {base.name, f"{base.name}+adapter"}
    config, environment, result = json.loads(config), json.loads(environment), json.loads(result)
    expected = {"epochs": 2.0, "learning_rate": 0.01, "scheduler": "cosine", "lora_rank": 8, "seed": 0, "n_samples": 10}
    assert {name: config[name] for name in expected} == expected
    assert len(config["data"]) == 32
    assert {"torch", "trl", "peft", "transformers"} <= environment.keys()
    assert result["steps"] == 6
    assert result["validation"] == later.validation
    assert result["loss_last"] == summary.loss_last
    assert [one["step"] for one in result["curve"]] == [1, 2, 3, 4, 5, 6]
    record = json.loads((tmp_path / "adapter" / "diq_run.json").read_text())
    assert record["state"] == "finished"
    assert record["settings"] == config
    assert {**record["result"], "run_id": summary.run_id} == result


@pytest.mark.slow
def test_the_validation_loss_is_the_mean_of_the_samples_mean_losses(
    train: Any, tmp_path: Path, tiny_llama_folder: Path, conversations: Conversations, make_samples: Any
) -> None:
    from peft import PeftModel

    samples = make_samples(7, seed=9, longest=20)
    store = tmp_path / "s.duckdb"
    fill(store, conversations, validation={"task": samples})
    summary = train("pool", store=store, validation_set=["task"])
    source = find_model(str(tiny_llama_folder))
    network = load_causal_lm(source, device="cpu")
    tokenization = Tokenization(load_tokenizer(source), max_length=512)
    for moment in ("before", "after"):
        if moment == "after":
            network = PeftModel.from_pretrained(network, tmp_path / "adapter")
        one_by_one = []
        for one in tokenization.encode(samples):
            with torch.no_grad():
                logits = network(input_ids=torch.tensor(one.ids[None].astype("int64"))).logits[0]
            target = torch.tensor(one.ids[one.answer_start :].astype("int64"))
            one_by_one.append(float(cross_entropy(logits[one.answer_start - 1 : -1], target)))
        assert summary.validation["task"][moment] == pytest.approx(sum(one_by_one) / 7, rel=1e-5)
        for budget in (1, 60, 10_000):
            again = validation_losses(network, tokenization, {"x": samples}, token_budget=budget)
            assert again["x"] == pytest.approx(summary.validation["task"][moment], rel=1e-5)
    assert summary.validation["task"]["after"] != summary.validation["task"]["before"]


@pytest.mark.slow
def test_a_store_held_by_another_does_not_disturb_the_training(
    train: Any, tmp_path: Path, conversations: Conversations
) -> None:
    store = tmp_path / "s.duckdb"
    fill(store, conversations)

    def progress(what: str, done: int, total: int) -> None:
        if what == "training" and done == 2:
            with Store(store) as opened:
                (row,) = opened.connection.execute("SELECT result FROM runs WHERE kind = 'train'").fetchall()
            assert row == (None,)

    assert train("pool", store=store, progress=progress).steps == 6


# bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0.0 is out of range"),
        ({"epochs": float("nan")}, "epochs=nan is out of range"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0 is out of range"),
        ({"lora_rank": 0}, "lora_rank=0 is out of range"),
        ({"lora_dropout": 1.0}, "lora_dropout=1.0 is out of range"),
        ({"warmup_ratio": 1.5}, "warmup_ratio=1.5 is out of range"),
        ({"max_length": 1}, "max_length=1 is out of range"),
        ({"batch_size": 0}, "batch_size=0 is out of range"),
        ({"micro_batch_size": 3}, "micro_batch_size=3 does not divide batch_size=4"),
        ({"scheduler": "cosin"}, "scheduler `cosin` is not known"),
        ({"seed": -1}, "seed=-1 is out of range"),
        ({"save_steps": 0}, "save_steps=0 is out of range"),
        ({"dtype": "float64"}, "dtype `float64` is not known"),
        ({"device": "cuda:3"}, "torch sees no GPU"),
        ({"model": "/nowhere"}, "there is no model folder `/nowhere`"),
        ({"chosen": "nowhere.jsonl"}, r"`nowhere\.jsonl` does not exist"),
        ({"chosen": "selections/best"}, "`selections/best` does not exist"),
        ({"chosen": "pool"}, "there is no store at"),
        ({"validation_set": ["task"]}, "there is no store at"),
    ],
)
def test_bad_settings(train: Any, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    if options.get("device") and torch.cuda.is_available():
        pytest.skip("the machine has a GPU")
    with pytest.raises(DiqError, match=message) as caught:
        train(**options)
    assert caught.value.hint
    assert not (tmp_path / "adapter").exists()


def test_unknown_names_get_a_suggestion(train: Any, tmp_path: Path, conversations: Conversations) -> None:
    store = tmp_path / "s.duckdb"
    fill(store, conversations, validation={"task": conversations[:1]}, chosen=[0])
    with Store(store) as opened:
        opened.connection.execute("INSERT INTO validation_sets VALUES (9, 'empty', NULL, 0, NULL, now())")
    for name, hint in (("pol", "`pool`"), ("bset", "`best`"), ("99", "known: `best`, `pool`")):
        with pytest.raises(UsageError, match=f"`{name}` is no file, and no selection or dataset") as caught:
            train(name, store=store)
        assert hint in caught.value.hint
    with pytest.raises(UsageError, match="no validation set named `tusk`"):
        train("pool", store=store, validation_set=["tusk"])
    with pytest.raises(UsageError, match="`empty` has no samples"):
        train("pool", store=store, validation_set=["empty"])


GOOD = '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (GOOD + "{", "line 2 of .* is no sample: not JSON"),
        (GOOD + '{"text": "x"}', "line 2 of .* is no sample: no column `messages`"),
        ("[1]\n", "line 1: not an object but an array"),
        ('{"messages": []}', "line 1 of .* is no sample: no messages"),
        ('{"messages": [{"role": "user", "content": "q"}]}', "line 1 of .* is no sample: no assistant turn"),
        ('{"messages": [{"role": "user", "content": 3}]}', "line 1 of .*: the content of message 1 is no text"),
        ('{"messages": ["a"]}', "line 1 of .*: no assistant turn"),
        (GOOD.encode() + b'{"messages": "\xff"}', "line 2 of .*: not UTF-8"),
    ],
    ids=["empty", "cut", "other-column", "array", "no-messages", "no-answer", "number", "text", "bytes"],
)
def test_bad_files(train: Any, tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=message) as caught:
        train(path)
    assert caught.value.hint
    assert not (tmp_path / "adapter").exists()


def test_broken_containers(train: Any, tmp_path: Path, conversations: Conversations) -> None:
    packed = tmp_path / "cut.jsonl.gz"
    packed.write_bytes(gzip.compress(GOOD.encode() * 999)[:-20])
    with pytest.raises(InputError, match="is cut off after"):
        train(packed)
    columns = tmp_path / "cut.parquet"
    pq.write_table(pa.table({"messages": conversations}), columns)
    os.truncate(columns, columns.stat().st_size // 2)
    with pytest.raises(InputError, match=r"cut\.parquet"):
        train(columns)
    pq.write_table(pa.table({"text": ["a"]}), columns)
    with pytest.raises(InputError, match="has columns `text`: no known layout"):
        train(columns)
    other = tmp_path / "data.parquet"
    other.mkdir()
    with pytest.raises(UsageError, match="does not exist"):
        train(other)


def test_a_model_folder_without_a_tokenizer(train: Any, tmp_path: Path, tiny_llama_folder: Path) -> None:
    model = tmp_path / "mute"
    shutil.copytree(tiny_llama_folder, model, ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ModelError, match="no usable tokenizer"):
        train(model=str(model))


def test_answers_that_are_cut_off(train: Any, tmp_path: Path, caplog: Any) -> None:
    with pytest.raises(
        UsageError, match="none of the 10 samples can be used: no answer token is left within 4 tokens"
    ) as caught:
        train(max_length=4)
    assert "--max-length" in caught.value.hint
    with caplog.at_level("WARNING", logger="diq"):
        summary = train(max_length=25)
    assert 0 < summary.n_left_out < 10
    assert summary.n_samples == 10 - summary.n_left_out
    assert summary.reasons == {"no answer token within 25 tokens": summary.n_left_out}
    assert f"{summary.n_left_out} of 10 samples are left out" in caplog.text


@pytest.mark.slow
def test_without_trl_the_message_says_what_to_install_and_the_libraries_load_quietly() -> None:
    code = (
        "import sys; sys.modules['trl'] = None\nimport diq\n"
        "try:\n    diq.train\nexcept diq.DiqError as error:\n    print(error.message, error.hint)\n"
        "del sys.modules['trl']\n"
        "from diq.cli import main; main(['train', 'nothing.jsonl', '--model', 'm', '--output', 'o'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "`train` needs the package `trl`, which is not installed" in done.stdout
    assert "pip install 'diq[train]'" in done.stdout
    assert done.returncode == 2
    first, *hint = [line for line in done.stderr.splitlines() if line]
    assert first.startswith("Error: ")
    assert "nothing.jsonl" in first
    assert [line.partition(":")[0] for line in hint] == ["hint"]
