"""Stage: fine-tune a LoRA adapter on a selection (supervised, with TRL and PEFT) and record it as a run.

The trainer gets tokens, never text: the ids and the answer mask are those that influence was measured on, and TRL
neither tokenises, truncates nor appends to them. The loss is TRL's own: the cross-entropy of all answer tokens of an
optimizer step, summed and divided by their number, so that a long answer weighs more than a short one. (Influence
takes the mean over each sample's tokens first; ``validation_losses`` does too.)

A checkpoint is written beside its place and moved there whole. A killed run goes on from the newest one and ends, on a
CPU with as many threads, with the same bits as an undisturbed run.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import logging
import math
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from diq.errors import InputError, RunFailedError, UsageError

try:
    import datasets
    import numpy as np
    import orjson
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from peft import LoraConfig, PeftModel
    from transformers import PrinterCallback, TrainerCallback
    from transformers.utils import logging as transformers_logging
    from trl import SFTConfig, SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
except ModuleNotFoundError as error:
    raise UsageError(f"training needs the package `{error.name}`", "run `pip install 'diq[train]'`") from error

from diq import models
from diq.config import MAX_LENGTH, WAIT_S
from diq.gradients import token_losses
from diq.output_folder import WEIGHTS, OutputFolder, checkpoint_step, disk_errors
from diq.records import Message, Progress, canonical_json, did_you_mean, run_fingerprint, short
from diq.samples import Template, Tokenization, collate, plan_batches
from diq.store import Store, now

log = logging.getLogger(__name__)

SCHEDULERS = ("cosine", "linear", "constant", "constant_with_warmup")

_MESSAGE_KEYS = ("role", "content", "reasoning_content")
_READ_ROWS = 512
# a checkpoint at the latest after this time, so that a kill costs no more of a long epoch
_SAVE_SECONDS = 600.0
# points of the loss curve that are kept
_LOG_POINTS = 200
# padded tokens of a micro-batch and of a validation batch
_CPU_TOKEN_BUDGET = 4096
_GPU_TOKEN_BUDGET = 16384
_MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True, slots=True)
class TrainSummary:
    """What a training did, or had done before.

    Attributes:
        run_id: run in the store; None when there is no store.
        output: folder of the adapter.
        selection: what was trained on, in words.
        model: name of the base model.
        n_samples: samples that were trained on.
        n_left_out: samples without an answer token (cut off, or refused by the template).
        reasons: count of each reason to leave a sample out.
        tokens: tokens of these samples, once.
        answer_tokens: those of them that the loss covers.
        epochs: passes over the samples.
        steps: optimizer steps.
        batch_size: samples of an optimizer step.
        micro_batch_size: samples that go through the model at a time.
        trainable_parameters: numbers that were trained.
        loss_first: training loss of the first step, nats a token.
        loss_last: training loss of the last steps.
        loss_mean: training loss over all steps.
        validation: for each validation set, ``before`` and ``after``, see :func:`validation_losses`.
        seconds: wall time of the steps, over all sessions of a resumed run.
        resumed_from: step of the checkpoint that this call went on from, or None.
        already_trained: whether the adapter was there and nothing was trained.
    """

    run_id: int | None
    output: str
    selection: str
    model: str
    n_samples: int
    n_left_out: int
    reasons: dict[str, int]
    tokens: int
    answer_tokens: int
    epochs: float
    steps: int
    batch_size: int
    micro_batch_size: int
    trainable_parameters: int
    loss_first: float
    loss_last: float
    loss_mean: float
    validation: dict[str, dict[str, float]]
    seconds: float
    resumed_from: int | None = None
    already_trained: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def run(
    selection: str,
    *,
    model: str,
    output: Path,
    store: Path,
    epochs: float = 3,
    learning_rate: float = 1e-4,
    lora_rank: int = 8,
    lora_alpha: float = 16,
    lora_dropout: float = 0.0,
    max_length: int = MAX_LENGTH,
    batch_size: int = 8,
    micro_batch_size: int | None = None,
    scheduler: str = "cosine",
    warmup_ratio: float = 0.03,
    weight_decay: float = 0.0,
    seed: int = 0,
    dtype: str = "auto",
    device: str = "auto",
    validation_sets: Sequence[str] = (),
    template: Template = "auto",
    gradient_checkpointing: bool | None = None,
    save_steps: int | None = None,
    resume: bool = True,
    overwrite: bool = False,
    model_name: str | None = None,
    progress: Progress | None = None,
) -> TrainSummary:
    """Train a LoRA adapter for the query, key and value projections on a selection.

    The same call again does what is left: nothing after the end, the remaining steps after a kill.

    Args:
        selection: a ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file with a column ``messages``; else number or name of
            a selection in the store; else name of a dataset in the store (all of it).
        model: folder or hub id of a causal language model.
        output: folder of the adapter; made when missing.
        store: the store file. A file can be trained on without one.
        epochs: passes over the samples; a fraction is allowed.
        learning_rate: of AdamW, after the warm-up.
        lora_rank: rank of the adapter.
        lora_alpha: the adapter's output is scaled by ``lora_alpha / lora_rank``.
        lora_dropout: dropout before the adapter, 0 to 1.
        max_length: tokens after which a sample is cut on the right.
        batch_size: samples of an optimizer step.
        micro_batch_size: samples that go through the model at a time, a divisor of ``batch_size``; None takes as many
            as fit a budget of tokens. It changes memory and speed, not what is computed.
        scheduler: one of :data:`SCHEDULERS`.
        warmup_ratio: share of the steps in which the learning rate rises, 0 to 1.
        weight_decay: of AdamW.
        seed: of the adapter's first values, the order of the samples and dropout; 0 to 2**32 - 1.
        dtype: ``auto``, ``float32`` or ``bfloat16``.
        device: ``auto``, ``cpu`` or ``cuda``.
        validation_sets: names of validation sets in the store whose loss is taken before and after.
        template: ``auto`` uses the tokenizer's chat template if there is one, ``none`` never does.
        gradient_checkpointing: compute activations twice instead of keeping them; None does so on a GPU.
        save_steps: also keep a checkpoint every so many steps. The end of every epoch is always kept.
        resume: go on from the newest checkpoint; False starts again from the first step.
        overwrite: delete what an earlier training left in ``output``, finished or not, and train.
        model_name: name of the model in the store; default the hub id or the folder's name.
        progress: called after every step.

    Raises:
        UsageError: unknown selection or validation set, a setting out of range, nothing to train on, or an output
            folder that belongs to another configuration.
        ModelError: the model cannot be used.
        RunFailedError: a loss that is not a number, no memory, or no space on the disk.
    """
    settings: dict[str, Any] = {
        "epochs": float(epochs),
        "learning_rate": float(learning_rate),
        "scheduler": scheduler,
        "warmup_ratio": float(warmup_ratio),
        "weight_decay": float(weight_decay),
        "max_gradient_norm": _MAX_GRADIENT_NORM,
        "optimizer": "adamw_torch",
        "batch_size": batch_size,
        "lora_rank": lora_rank,
        "lora_alpha": float(lora_alpha),
        "lora_dropout": float(lora_dropout),
        "parameters": "qkv",
        "loss": "mean over the answer tokens of a step",
        "seed": seed,
        "max_length": max_length,
    }
    _check_settings(settings, dtype, micro_batch_size, save_steps)
    place = models.pick_device(device)
    if place.index:
        raise UsageError(
            f"training runs on the first visible GPU, not on `{device}`",
            f"make it the first: CUDA_VISIBLE_DEVICES={place.index} diq train ...",
        )
    with contextlib.ExitStack() as stack:
        texts = stack.enter_context(_Texts())
        described = _read_selection(selection, store, texts)
        sets = _read_validation_sets(store, validation_sets)
        source = models.find_model(model, name=model_name)
        tokenization = models.load_tokenization(source, max_length=max_length, template=template)
        # everything that changes the adapter and nothing else: the identity of the run
        settings |= {
            "data": texts.fingerprint(),
            "n_samples": texts.n,
            "dtype": models.pick_dtype(dtype, place),
            **tokenization.settings(),
        }
        identity = run_fingerprint("train", "sft", source.model_id, settings)
        folder = stack.enter_context(OutputFolder(output))
        record = folder.record
        if record and record["fingerprint"] != identity and folder.holds_work() and not overwrite:
            raise _other_configuration(output, record, source.model_id, settings)
        if record and (record["fingerprint"] != identity or overwrite or not (resume or folder.is_finished())):
            folder.discard()
        stack.enter_context(_quiet_libraries())
        if folder.record and folder.is_finished():
            record = _with_validation(folder.record, source, folder, tokenization, sets, device)
            run_id = _record_run(store, source, settings, record["environment"], record["result"])
            return _summary(record["result"], run_id=run_id, already_trained=True)

        environment = models.environment(place)
        folder.write_record(
            {
                "state": "training",
                "kind": "train",
                "method": "sft",
                "fingerprint": identity,
                "model_id": source.model_id,
                "model": source.source,
                "selection": described,
                "settings": settings,
                "environment": environment,
                "started_at": now().isoformat(),
                "result": None,
            }
        )
        run_id = _record_run(store, source, settings, environment, None)
        network = models.load_causal_lm(source, dtype=settings["dtype"], device=device)
        rows = _tokenize(texts, tokenization, folder.unfinished / "tokens.arrow", progress)
        before = validation_losses(network, tokenization, sets)
        trainer = _trainer(network, tokenization.tokenizer, rows, folder, settings, place, micro_batch_size,
                           gradient_checkpointing, save_steps, progress)  # fmt: skip
        checkpoint = folder.newest_checkpoint()
        _train(trainer, checkpoint, output)
        after = validation_losses(trainer.model, tokenization, sets)
        _save_adapter(trainer.model, tokenization.tokenizer, source, folder)

        curve = trainer.curve()
        summary = TrainSummary(
            run_id=run_id,
            output=str(output),
            selection=described,
            model=source.name,
            n_samples=len(rows.data),
            n_left_out=sum(rows.reasons.values()),
            reasons=rows.reasons,
            tokens=rows.tokens,
            answer_tokens=rows.answer_tokens,
            epochs=settings["epochs"],
            steps=trainer.state.global_step,
            batch_size=batch_size,
            micro_batch_size=trainer.args.per_device_train_batch_size,
            trainable_parameters=sum(one.numel() for one in trainer.model.parameters() if one.requires_grad),
            loss_first=curve[0]["loss"],
            loss_last=curve[-1]["loss"],
            loss_mean=_mean_loss(curve),
            validation=_beside(before, after, sets),
            seconds=curve[-1]["seconds"],
            resumed_from=checkpoint_step(checkpoint) if checkpoint else None,
        )
        result = {
            **summary.to_dict(),
            "targets": sorted(trainer.model.peft_config["default"].target_modules),
            "gradient_checkpointing": bool(trainer.args.gradient_checkpointing),
            "curve": curve,
        }
        folder.finish(result)
        _record_run(store, source, settings, environment, result)
        return summary


def _check_settings(
    settings: Mapping[str, Any], dtype: str, micro_batch_size: int | None, save_steps: int | None
) -> None:
    """Refuse settings out of range before anything is read."""
    wanted: dict[str, tuple[Callable[[Any], bool], str]] = {
        "epochs": (lambda value: 0 < value < math.inf, "a number above 0"),
        "learning_rate": (lambda value: 0 < value < math.inf, "a number above 0, such as 1e-4"),
        "lora_rank": (lambda value: value >= 1, "1 or more"),
        "lora_alpha": (lambda value: 0 < value < math.inf, "a number above 0"),
        "lora_dropout": (lambda value: 0 <= value < 1, "a number from 0 to below 1"),
        "max_length": (lambda value: value >= 2, "2 or more: a prompt and an answer need room"),
        "batch_size": (lambda value: value >= 1, "1 or more"),
        "warmup_ratio": (lambda value: 0 <= value <= 1, "a share from 0 to 1"),
        "weight_decay": (lambda value: 0 <= value < math.inf, "0 or more"),
        "seed": (lambda value: 0 <= value < 2**32, "0 to 4294967295"),
        "save_steps": (lambda value: value is None or value >= 1, "1 or more"),
    }
    for name, (fits, range_) in wanted.items():
        value = save_steps if name == "save_steps" else settings[name]
        if not fits(value):
            raise UsageError(f"--{name.replace('_', '-')} {value} is out of range", f"give {range_}")
    batch_size, scheduler = settings["batch_size"], settings["scheduler"]
    if micro_batch_size is not None and (micro_batch_size < 1 or batch_size % micro_batch_size):
        raise UsageError(
            f"--micro-batch-size {micro_batch_size} does not divide --batch-size {batch_size}",
            "a step takes a whole number of micro-batches",
        )
    if scheduler not in SCHEDULERS:
        raise UsageError(f"there is no scheduler `{scheduler}`", did_you_mean(scheduler, SCHEDULERS))
    if dtype not in ("auto", "float32", "bfloat16"):
        raise UsageError(f"an adapter cannot be trained in `{dtype}`", "use --dtype float32 or bfloat16")


def _other_configuration(
    output: Path, record: dict[str, Any], model_id: str, settings: Mapping[str, Any]
) -> UsageError:
    """The error that names every setting in which a folder differs from what was asked."""
    there = {"model": record.get("model_id"), **record.get("settings", {})}
    asked = {"model": model_id, **settings}
    differing = []
    for name in sorted(there.keys() | asked.keys()):
        if there.get(name) == asked.get(name):
            continue
        if name in ("data", "model", "tokenizer", "template"):
            differing.append(f"another {name}")
        elif name != "n_samples" or there.get("data") == asked.get("data"):
            differing.append(f"{name} {there.get(name)} there, {asked.get(name)} here")
    return UsageError(
        f"`{output}` belongs to a training with other settings: {'; '.join(differing)}",
        "name another --output, use the same settings, or give --overwrite to delete what is there",
    )


# what is trained on ------------------------------------------------------------------------------------------------


class _Texts:
    """Conversations as canonical JSON lines in a temporary file that vanishes with the process, and their hash.

    Reading everything once makes the hash known before a model is loaded and frees the store; memory stays flat.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="diq-texts-")  # noqa: SIM115  (closed in __exit__)
        self._digest = hashlib.blake2b(digest_size=16)
        self.n = 0

    def __enter__(self) -> _Texts:
        return self

    def __exit__(self, *_: object) -> None:
        # after a full disk there is something left that cannot be written; what went wrong is known by then
        with contextlib.suppress(OSError):
            self._file.close()

    def add(self, messages: Sequence[Mapping[str, Any]]) -> None:
        line = canonical_json(messages).encode() + b"\n"
        self._digest.update(line)
        with disk_errors(Path(tempfile.gettempdir())):
            self._file.write(line)
        self.n += 1

    def fingerprint(self) -> str:
        """BLAKE2 over the conversations in order; a file and the selection it was written from have the same."""
        return self._digest.hexdigest()

    def blocks(self) -> Iterator[list[list[Message]]]:
        with disk_errors(Path(tempfile.gettempdir())):
            self._file.seek(0)
        block = []
        for line in self._file:
            block.append(orjson.loads(line))
            if len(block) == _READ_ROWS:
                yield block
                block = []
        if block:
            yield block


def _read_selection(selection: str, store: Path, texts: _Texts) -> str:
    """Read what SELECTION means; returns it in words."""
    path = Path(selection).expanduser()
    known_file = path.name.endswith((".jsonl", ".jsonl.gz", ".parquet"))
    if known_file and path.is_file():
        reader = _read_parquet if path.suffix == ".parquet" else _read_json_lines
        for messages in reader(path):
            texts.add(messages)
        described = f"file {path}"
    elif known_file or os.sep in selection:
        problem = "is neither .jsonl nor .parquet" if path.is_file() else "does not exist"
        raise UsageError(f"the selection file `{selection}` {problem}", "write one with `diq select ... -o FILE`")
    else:
        described = _read_from_store(selection, store, texts)
    if not texts.n:
        raise UsageError(f"there are no samples in {described}", "select or ingest some first")
    return described


def _read_from_store(selection: str, store: Path, texts: _Texts) -> str:
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        found = opened.find_selection(selection)
        names = [row["name"] for row in opened.rows("list_datasets")]
        if found is not None:
            if selection in names:
                log.info("`%s` is a selection and a dataset: the selection is taken", selection)
            stream = opened.batches("messages_of_selection", rows=_READ_ROWS, selection_id=found["selection_id"])
            described = f"selection {found['selection_id']} ({found['name']})"
        elif selection in names:
            data = opened.dataset(selection)
            stream = opened.batches("messages_of_dataset", rows=_READ_ROWS, dataset_id=data["dataset_id"])
            described = f"dataset {selection}"
        else:
            names += [row["name"] for row in opened.rows("list_selections")]
            raise UsageError(
                f"`{selection}` is no file, and no selection or dataset in `{store}`",
                did_you_mean(selection, list(dict.fromkeys(names))) or "make one with `diq ingest` and `diq select`",
            )
        with stream as batches:
            for batch in batches:
                for text in batch.column("messages").to_pylist():
                    texts.add(orjson.loads(text))
    return described


def _read_json_lines(path: Path) -> Iterator[list[Message]]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    line = 0
    try:
        with opener(path, "rb") as file:
            for line, text in enumerate(file, start=1):
                if text.strip():
                    row = orjson.loads(text)
                    yield _conversation(
                        row.get("messages") if isinstance(row, dict) else None, f"line {line} of `{path}`"
                    )
    except orjson.JSONDecodeError as error:
        raise InputError(
            f"line {line} of `{path}` is not JSON: {error}", "write the file again with `diq select`"
        ) from error
    except (OSError, EOFError) as error:
        raise InputError(f"`{path}` cannot be read behind line {line}: {error}", "is the file whole?") from error


def _read_parquet(path: Path) -> Iterator[list[Message]]:
    try:
        with pq.ParquetFile(path) as file:
            if "messages" not in file.schema_arrow.names:
                columns = ", ".join(file.schema_arrow.names)
                raise InputError(
                    f"`{path}` has no column `messages`, but {columns}", "ingest it first with `diq ingest`"
                )
            row = 0
            for batch in file.iter_batches(batch_size=_READ_ROWS, columns=["messages"]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    yield _conversation(value, f"row {row} of `{path}`")
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"`{path}` cannot be read as Parquet: {short(error)}", "is the file whole?") from error


def _conversation(value: Any, where: str) -> list[Message]:
    """Messages as the store keeps them."""
    hint = "ingest the file first with `diq ingest`, then train on the dataset"
    if not isinstance(value, list) or not value:
        raise InputError(f"{where} has no list of messages", hint)
    messages = []
    for one in value:
        # Parquet gives every message every key; a missing one is null there
        kept = {key: one[key] for key in _MESSAGE_KEYS if one.get(key) is not None} if isinstance(one, dict) else {}
        if not ({"role", "content"} <= kept.keys() and all(isinstance(text, str) for text in kept.values())):
            raise InputError(f"{where} has a message without role and content", hint)
        messages.append(kept)
    if messages[-1]["role"] != "assistant":
        raise InputError(f"the last message in {where} is not the assistant's", hint)
    return messages


def _read_validation_sets(store: Path, names: Sequence[str]) -> dict[str, list[list[Message]]]:
    found: dict[str, list[list[Message]]] = {}
    if not names:
        return found
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        for name in dict.fromkeys(names):
            number = opened.validation_set(name)["validation_set_id"]
            found[name] = [
                orjson.loads(row["messages"]) for row in opened.rows("validation_messages", validation_set_id=number)
            ]
            if not found[name]:
                raise UsageError(
                    f"the validation set `{name}` has no samples in the store", "ingest them with --validation"
                )
    return found


@dataclass(slots=True)
class _Rows:
    """Tokenised samples on disk and their counts."""

    data: Any
    tokens: int = 0
    answer_tokens: int = 0
    longest: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


def _tokenize(texts: _Texts, tokenization: Tokenization, path: Path, progress: Progress | None) -> _Rows:
    """Write ids and labels as an Arrow file, which the trainer maps into memory.

    Labels are the ids of the answer and -100 before it; position t - 1 predicts label t (the model shifts, not we).
    """
    schema = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])
    rows = _Rows(None)
    done = 0
    with disk_errors(path), pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for block in texts.blocks():
            ids, labels = [], []
            for one in tokenization.encode(block):
                if isinstance(one, str) or not one.answer_tokens:
                    reason = one if isinstance(one, str) else f"no answer token within {tokenization.max_length} tokens"
                    rows.reasons[reason] = rows.reasons.get(reason, 0) + 1
                    continue
                label = one.ids.copy()
                label[: one.answer_start] = -100
                ids.append(one.ids)
                labels.append(label)
                rows.tokens += len(one.ids)
                rows.answer_tokens += one.answer_tokens
                rows.longest = max(rows.longest, len(one.ids))
            writer.write_batch(
                pa.record_batch([pa.array(ids, schema.field(0).type), pa.array(labels, schema.field(1).type)], schema)
            )
            done += len(block)
            if progress:
                progress("tokenizing", done, texts.n)
    for reason, n in rows.reasons.items():
        log.warning("%d of %d samples are left out: %s", n, texts.n, reason)
    if rows.tokens == 0:
        raise UsageError(
            f"none of the {texts.n} samples has an answer token within {tokenization.max_length} tokens",
            "raise --max-length",
        )
    rows.data = datasets.Dataset.from_file(str(path))
    return rows


# the store ---------------------------------------------------------------------------------------------------------


def _record_run(
    store: Path,
    source: models.ModelSource,
    settings: dict[str, Any],
    environment: Mapping[str, Any],
    result: Mapping[str, Any] | None,
) -> int | None:
    if not store.exists():
        log.info("there is no store at `%s`: the run is recorded in the output folder alone", store)
        return None
    with Store(store, wait_s=WAIT_S) as opened, opened.transaction():
        opened.add_model(
            model_id=source.model_id, name=source.name, source=source.source, architecture=None, n_parameters=None
        )
        run_id = opened.open_run(
            kind="train",
            method="sft",
            model_id=source.model_id,
            fingerprint=run_fingerprint("train", "sft", source.model_id, settings),
            settings=settings,
            environment=environment,
        )
        if result is not None:
            opened.run("update_run_result", run_id=run_id, result=canonical_json({**result, "run_id": run_id}))
    return run_id


def _summary(result: Mapping[str, Any], **changes: Any) -> TrainSummary:
    known = {one.name for one in fields(TrainSummary)}
    return TrainSummary(**{name: value for name, value in {**result, **changes}.items() if name in known})


# training ----------------------------------------------------------------------------------------------------------


class _Trainer(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer with checkpoints that appear whole, a clock that survives a kill, and no talk to the outside."""

    def __init__(self, folder: OutputFolder, kept: Callable[[int], bool], **options: Any) -> None:
        self.folder, self.kept = folder, kept
        self.started, self.earlier_seconds = time.monotonic(), 0.0
        super().__init__(**options)

    def _send_telemetry(self) -> None:
        """TRL reports every training to the hub; this one does not."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """The record says what the adapter is; a half-empty README would not."""

    def log(self, logs: dict[str, float], *rest: Any, **more: Any) -> None:
        """Add the time that training took so far, over all sessions."""
        logs["seconds"] = self.earlier_seconds + time.monotonic() - self.started
        super().log(logs, *rest, **more)

    def curve(self) -> list[dict[str, float]]:
        """The logged training losses: step, mean loss since the last one, learning rate, seconds."""
        names = ("step", "loss", "learning_rate", "seconds")
        return [{name: one[name] for name in names} for one in self.state.log_history if "loss" in one]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # the trainer writes into the folder of unfinished things
        with disk_errors(self.folder.path):
            super()._save_checkpoint(model, trial)
            name = f"checkpoint-{self.state.global_step}"
            self.folder.publish(self.folder.unfinished / name, self.folder.path / name)
        for one in self.folder.checkpoints():
            if checkpoint_step(one) < self.state.global_step and not self.kept(checkpoint_step(one)):
                shutil.rmtree(one)


class _Steps(TrainerCallback):  # type: ignore[misc]
    """Progress, when to save, and a stop when the loss is lost."""

    def __init__(self, trainer: _Trainer, progress: Progress | None) -> None:
        self.trainer, self.progress = trainer, progress
        self.saved = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock, from where an earlier session left it."""
        del args, control
        self.trainer.started = self.saved = time.monotonic()
        self.trainer.earlier_seconds = next(
            (one["seconds"] for one in reversed(state.log_history) if "seconds" in one), 0.0
        )
        if self.progress:
            self.progress("training", state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save where it was asked for, at the end, and when the last one is long ago."""
        del args
        late = time.monotonic() - self.saved > _SAVE_SECONDS
        if self.trainer.kept(state.global_step) or state.global_step >= state.max_steps or late:
            # the loss since the last log would be lost with the process
            control.should_save = control.should_log = True
            self.saved = time.monotonic()
        if self.progress:
            self.progress("training", state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Stop at a loss that is not a number: every later step would be noise."""
        del args, control
        if not math.isfinite(logs.get("loss", 0.0)):
            raise RunFailedError(
                f"the training loss is not finite at step {state.global_step}",
                "lower --learning-rate or use --dtype float32",
            )


def _trainer(
    network: torch.nn.Module,
    tokenizer: Any,
    rows: _Rows,
    folder: OutputFolder,
    settings: dict[str, Any],
    place: torch.device,
    micro_batch_size: int | None,
    gradient_checkpointing: bool | None,
    save_steps: int | None,
    progress: Progress | None,
) -> _Trainer:
    gpu = place.type == "cuda"
    batch_size = settings["batch_size"]
    micro = micro_batch_size or _micro_batch_size(
        batch_size, rows.longest, _GPU_TOKEN_BUDGET if gpu else _CPU_TOKEN_BUDGET
    )
    epoch_steps = math.ceil(len(rows.data) / batch_size)
    total_steps = math.ceil(epoch_steps * settings["epochs"])

    def kept(step: int) -> bool:
        return step % epoch_steps == 0 or step == total_steps or bool(save_steps and step % save_steps == 0)

    args = SFTConfig(
        output_dir=str(folder.unfinished),
        num_train_epochs=settings["epochs"],
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=batch_size // micro,
        learning_rate=settings["learning_rate"],
        lr_scheduler_type=settings["scheduler"],
        warmup_steps=math.ceil(total_steps * settings["warmup_ratio"]),
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["max_gradient_norm"],
        optim=settings["optimizer"],
        seed=settings["seed"],
        data_seed=settings["seed"],
        bf16=settings["dtype"] == "bfloat16",
        use_cpu=not gpu,
        gradient_checkpointing=gpu if gradient_checkpointing is None else gradient_checkpointing,
        # what is handed over is what is trained on
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        save_strategy="no",
        logging_strategy="steps",
        logging_first_step=True,
        logging_steps=max(1, total_steps // _LOG_POINTS),
        logging_nan_inf_filter=False,
        report_to="none",
        push_to_hub=False,
        disable_tqdm=True,
        dataloader_pin_memory=gpu,
    )
    if gpu:
        # one process uses one GPU; the trainer would spread a plain process over all that it sees
        args._n_gpu = min(args.n_gpu, 1)
    modules = models.linear_modules(network, settings["parameters"])
    pad = next((one for one in (tokenizer.pad_token_id, tokenizer.eos_token_id) if one is not None), 0)
    trainer = _Trainer(
        folder,
        kept,
        model=network,
        args=args,
        train_dataset=rows.data,
        processing_class=tokenizer,
        data_collator=DataCollatorForLanguageModeling(pad_token_id=pad),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=settings["lora_rank"],
            lora_alpha=settings["lora_alpha"],
            lora_dropout=settings["lora_dropout"],
            target_modules=models.lora_targets(network),
            fan_in_fan_out=any(models.is_transposed(one) for one in modules.values()),
        ),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Steps(trainer, progress))
    return trainer


def _micro_batch_size(batch_size: int, longest: int, token_budget: int) -> int:
    """The largest divisor of the batch size whose padded tokens fit the budget; at least 1."""
    divisors = [size for size in range(1, batch_size + 1) if batch_size % size == 0]
    return max(size for size in divisors if size == 1 or size * longest <= token_budget)


def _train(trainer: _Trainer, checkpoint: Path | None, output: Path) -> None:
    if checkpoint:
        log.info("going on from %s", checkpoint.name)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError as error:
        raise RunFailedError(
            f"out of memory with {trainer.args.per_device_train_batch_size} samples at a time",
            f"lower --micro-batch-size; the same command goes on from the last checkpoint in `{output}`",
        ) from error


def _save_adapter(model: Any, tokenizer: Any, source: models.ModelSource, folder: OutputFolder) -> None:
    """Write adapter and tokenizer; the weights appear last."""
    config = model.peft_config["default"]
    if Path(source.source).expanduser().is_dir():
        config.base_model_name_or_path = str(source.path)
    else:
        # the snapshot folder is named after the commit
        config.base_model_name_or_path, config.revision = source.source.partition("@")[0], source.path.name
    part = folder.unfinished / "adapter"
    with disk_errors(folder.path):
        model.save_pretrained(part, save_embedding_layers=False)
        tokenizer.save_pretrained(part)
        (part / "README.md").unlink(missing_ok=True)
        for one in sorted(part.iterdir(), key=lambda one: one.name == WEIGHTS):
            folder.publish(one, folder.path / one.name)


def _mean_loss(curve: Sequence[Mapping[str, float]]) -> float:
    """Mean over the steps; each point of the curve is the mean since the point before."""
    steps = [0.0, *(one["step"] for one in curve)]
    total = sum(one["loss"] * (step - before) for one, before, step in zip(curve, steps, steps[1:], strict=False))
    return total / steps[-1]


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """No progress bars of the libraries (the caller has its own), and no advice on how TRL should call transformers."""
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
            yield
    finally:
        if had_bars:
            transformers_logging.enable_progress_bar()


# validation --------------------------------------------------------------------------------------------------------


def validation_losses(
    network: torch.nn.Module,
    tokenization: Tokenization,
    conversations_by_set: Mapping[str, Sequence[Sequence[Message]]],
    *,
    token_budget: int | None = None,
) -> dict[str, float]:
    """Loss of each validation set: mean over its samples of the mean answer-token cross-entropy, in nats.

    Args:
        network: a causal language model, with or without an adapter.
        tokenization: how conversations become tokens.
        conversations_by_set: for each name, conversations that end with the answer.
        token_budget: padded tokens a batch.

    Raises:
        UsageError: no sample of a set has an answer token left.
    """
    place = next(network.parameters()).device
    budget = token_budget or (_GPU_TOKEN_BUDGET if place.type == "cuda" else _CPU_TOKEN_BUDGET)
    was_training = network.training
    network.eval()
    found = {}
    try:
        for name, conversations in conversations_by_set.items():
            usable = tokenization.encode_validation_set(name, conversations)
            total = 0.0
            lengths = np.asarray([len(one.ids) for one in usable], np.int64)
            for batch in plan_batches(lengths, token_budget=budget):
                with torch.no_grad():
                    token = token_losses(network, collate([usable[i] for i in batch]).to(place))
                total += float(token.by_sample("mean").double().sum())
            found[name] = total / len(usable)
    finally:
        network.train(was_training)
    return found


def _with_validation(
    record: dict[str, Any],
    source: models.ModelSource,
    folder: OutputFolder,
    tokenization: Tokenization,
    sets: Mapping[str, Sequence[Sequence[Message]]],
    device: str,
) -> dict[str, Any]:
    """The record of a finished training, with the losses of validation sets that it had not been asked for."""
    missing = {name: sets[name] for name in sets if name not in record["result"]["validation"]}
    if missing:
        network = models.load_causal_lm(source, dtype=record["settings"]["dtype"], device=device)
        before = validation_losses(network, tokenization, missing)
        adapted = PeftModel.from_pretrained(network, folder.path)
        after = validation_losses(adapted, tokenization, missing)
        record["result"]["validation"] |= _beside(before, after, missing)
        folder.write_record(record)
    return record


def _beside(
    before: Mapping[str, float], after: Mapping[str, float], sets: Mapping[str, Sequence[Any]]
) -> dict[str, dict[str, float]]:
    return {name: {"before": before[name], "after": after[name], "n_samples": len(sets[name])} for name in sets}
