"""Stage: fine-tune a model on a selection, supervised or by preference, and record it as a run.

The loss of a supervised step is TRL's own: the cross-entropy of all answer tokens of an optimizer step, summed and
divided by their number, so that a long answer weighs more than a short one. (Influence takes the mean over each
sample's tokens first; ``validation_losses`` does too.)

A checkpoint is written beside its place and moved there whole. A killed run goes on from the newest one and ends, on a
CPU with as many threads, with the same bits as an undisturbed run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from diq.base.config import MAX_LENGTH, WAIT_S
from diq.base.errors import UsageError
from diq.base.files import check_folder
from diq.base.fingerprint import canonical_json, run_fingerprint
from diq.base.progress import Progress
from diq.base.sample import Message
from diq.models.device import describe_environment, pick_device, pick_dtype, quiet_libraries
from diq.models.network import load_causal_lm
from diq.models.source import TRAINING_RECORD, ModelSource, find_adapter, find_model, is_adapter
from diq.models.tokens import Template, Tokenization, load_tokenization
from diq.store.store import Store, now
from diq.training.data import Method, Origin, Texts, read_samples, read_validation_sets, tokenize
from diq.training.network import find_start
from diq.training.output_folder import OutputFolder
from diq.training.settings import FULL, check_place, check_ranges, make_settings, other_configuration
from diq.training.validation import validation_losses
from diq.training.worker import Plan, follow, launched, let_go, run_plan, share_plan

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainSummary:
    """What a training did, or had done before.

    Attributes:
        run_id: run in the store; None when there is no store.
        output: folder of the adapter, or of the whole model.
        method: ``sft`` or ``dpo``.
        selection: what was trained on, in words.
        model: name of the base model.
        trained_model: name of the result in the store.
        n_samples: samples that were trained on.
        n_left_out: samples that could not be trained on.
        reasons: count of each reason to leave a sample out.
        tokens: tokens of these samples, once; a pair counts its prompt twice.
        answer_tokens: those of them that the loss covers.
        epochs: passes over the samples.
        steps: optimizer steps.
        batch_size: samples of an optimizer step.
        micro_batch_size: samples that go through the model at a time, on each device.
        devices: processes that shared a step.
        trainable_parameters: numbers that were trained.
        loss_first: training loss of the first step: nats a token, or the loss of DPO.
        loss_last: training loss of the last steps.
        loss_mean: training loss over all steps.
        validation: for each validation set, ``before`` and ``after``, see :func:`validation_losses`.
        seconds: wall time of the steps, over all sessions of a resumed run.
        preferred: of a DPO run, the share of the last steps' pairs whose chosen answer gained more than the other.
        resumed_from: step of the checkpoint that this call went on from, or None.
        already_trained: whether the result was there and nothing was trained.
    """

    run_id: int | None
    output: str
    method: str
    selection: str
    model: str
    trained_model: str
    n_samples: int
    n_left_out: int
    reasons: dict[str, int]
    tokens: int
    answer_tokens: int
    epochs: float
    steps: int
    batch_size: int
    micro_batch_size: int
    devices: int
    trainable_parameters: int
    loss_first: float
    loss_last: float
    loss_mean: float
    seconds: float
    validation: dict[str, dict[str, float]] = field(default_factory=dict)
    preferred: float | None = None
    resumed_from: int | None = None
    already_trained: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def train(
    selection: str,
    *,
    model: str,
    output: Path,
    store: Path,
    method: Method = "sft",
    adapter: str | None = None,
    params: str | None = None,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    lora_dropout: float | None = None,
    quantization: str | None = None,
    beta: float = 0.1,
    epochs: float | None = None,
    learning_rate: float | None = None,
    max_length: int = MAX_LENGTH,
    batch_size: int = 8,
    micro_batch_size: int | None = None,
    packing: bool = False,
    scheduler: str = "cosine",
    warmup_ratio: float = 0.03,
    weight_decay: float = 0.0,
    seed: int = 0,
    dtype: str = "auto",
    device: str = "auto",
    devices: int = 1,
    attention: str | None = None,
    validation_sets: Sequence[str] = (),
    template: Template = "auto",
    gradient_checkpointing: bool | None = None,
    save_steps: int | None = None,
    report_to: Sequence[str] = (),
    resume: bool = True,
    overwrite: bool = False,
    model_name: str | None = None,
    progress: Progress | None = None,
) -> TrainSummary:
    """Fine-tune a model on a selection.

    The same call again does what is left: nothing after the end, the remaining steps after a kill.

    Args:
        selection: a file in any format that ``ingest`` reads; else number or name of a selection in the store; else
            name of a dataset in the store (all of it).
        model: folder or hub id of a causal language model.
        output: folder of the result; made when missing.
        store: the store file. A file can be trained on without one.
        method: ``sft``, or ``dpo`` on preference pairs (the selection then needs refused answers).
        adapter: a LoRA adapter of the model to go on with; for ``dpo`` it is also the reference.
        params: what is trained: ``qkv`` (default), ``all-linear`` or a regular expression over module names, each by
            an adapter; or ``full``, all weights.
        lora_rank: rank of a new adapter; default 8.
        lora_alpha: its output is scaled by ``lora_alpha / lora_rank``; default 16.
        lora_dropout: dropout before it, 0 to 1; default 0.
        quantization: ``nf4`` packs the frozen weights into 4 bits (QLoRA).
        beta: how strongly DPO holds on to the reference.
        epochs: passes over the samples, a fraction is allowed; default 3, or 1 for ``dpo``.
        learning_rate: of AdamW, after the warm-up; default 1e-4, for ``dpo`` 5e-6, for ``full`` 1e-5 and 5e-7.
        max_length: tokens after which a sample is cut on the right.
        batch_size: samples of an optimizer step, over all devices.
        micro_batch_size: samples that go through the model at a time on a device; None takes as many as fit a budget
            of tokens. It changes memory and speed, not what is computed; where memory runs out it is halved.
        packing: put the samples of a micro-batch into one row without padding; what is computed stays the same.
        scheduler: ``cosine``, ``linear``, ``constant`` or ``constant_with_warmup``.
        warmup_ratio: share of the steps in which the learning rate rises, 0 to 1.
        weight_decay: of AdamW.
        seed: of the adapter's first values, the order of the samples and dropout; 0 to 2**32 - 1.
        dtype: ``auto``, ``float32`` or ``bfloat16``.
        device: ``auto``, ``cpu`` or ``cuda``.
        devices: number of devices, a process each. Under ``torchrun`` or ``accelerate launch`` their number counts.
        attention: attention implementation of transformers; None takes FlashAttention 2 on a GPU that has it.
        validation_sets: names of validation sets in the store whose loss is taken before, after every epoch and after.
        template: ``auto`` uses the tokenizer's chat template if there is one, ``none`` never does.
        gradient_checkpointing: compute activations twice instead of keeping them; None does so on a GPU.
        save_steps: also keep a checkpoint every so many steps. The end of every epoch is always kept.
        report_to: ``tensorboard`` (curves under ``output``/logs) and ``wandb``, through the trainer's own reporting.
        resume: go on from the newest checkpoint; False starts again from the first step.
        overwrite: delete what an earlier training left in ``output``, finished or not, and train.
        model_name: name of the model in the store; default the hub id or the folder's name.
        progress: called after every step.

    Raises:
        UsageError: unknown selection or validation set, a selection whose dataset was made anew, a setting out of
            range, nothing to train on, or an output folder that belongs to another configuration.
        ModelError: the model or adapter cannot be used, or they do not belong together.
        RunFailedError: a loss that is not a number, no memory, or no space on the disk.
    """
    among = launched()
    if among:
        devices = among[1]
    settings = make_settings(
        method=method,
        params=params,
        starts=adapter is not None,
        lora={"lora_rank": lora_rank, "lora_alpha": lora_alpha, "lora_dropout": lora_dropout},
        quantization=quantization,
        beta=beta,
        epochs=epochs,
        learning_rate=learning_rate,
        packing=packing,
        scheduler=scheduler,
        warmup_ratio=float(warmup_ratio),
        weight_decay=float(weight_decay),
        batch_size=batch_size,
        seed=seed,
        max_length=max_length,
    )
    check_ranges({"save_steps": save_steps, "devices": devices})
    check_place(
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        devices=devices,
        dtype=dtype,
        report_to=report_to,
    )
    check_folder(output)
    place = _place(device, devices)
    if among and among[0]:
        follow(place.type)
        return _summary(_finished_record(output)["result"])
    with contextlib.ExitStack() as stack:
        texts = stack.enter_context(Texts(pairs=method == "dpo"))
        origin = read_samples(selection, store, texts)
        sets = read_validation_sets(store, validation_sets)
        source = find_model(model, name=model_name)
        start = find_start(adapter, source) if adapter is not None else None
        tokenization = load_tokenization(source, max_length=max_length, template=template)
        # everything that changes the result and nothing else: the identity of the run
        settings |= {
            "data": texts.fingerprint(),
            "n_samples": texts.n,
            "dtype": pick_dtype(dtype, place),
            **({"start": start.model_id} if start else {}),
            **tokenization.settings(),
        }
        identity = run_fingerprint("train", method, source.model_id, settings)
        folder = stack.enter_context(OutputFolder(output))
        record = folder.record
        if record and record["fingerprint"] != identity and folder.holds_work() and not overwrite:
            raise other_configuration(output, record, source.model_id, settings)
        if record and (record["fingerprint"] != identity or overwrite or not (resume or folder.is_finished())):
            folder.discard()
        stack.enter_context(quiet_libraries())
        job = _Job(store, source, start, origin, method, settings, describe_environment(place))
        if folder.record and folder.is_finished():
            record = _with_validation(folder.record, job, folder, tokenization, sets, device)
            run_id = job.record(record["result"], folder)
            if among:
                share_plan(None, place.type)
            return _summary(record["result"], run_id=run_id, already_trained=True)

        folder.write_record(
            {
                "state": "training",
                "kind": "train",
                "method": method,
                "fingerprint": identity,
                "model_id": source.model_id,
                "model": source.source,
                "selection": origin.described,
                "settings": settings,
                "environment": job.environment,
                "started_at": now().isoformat(),
                "result": None,
            }
        )
        run_id = job.record(None, folder)
        rows = tokenize(texts, tokenization, method, folder.unfinished / "tokens.arrow", progress)
        plan = Plan(
            source=source,
            start=start,
            output=output.absolute(),
            tokens=rows.path.absolute(),
            examples=[(one.ids.tolist(), one.answer_start) for one in rows.examples],
            longest=rows.longest,
            n=rows.n,
            method=method,
            settings=settings,
            micro_batch_size=micro_batch_size,
            save_steps=save_steps,
            gradient_checkpointing=gradient_checkpointing,
            attention=attention or _attention(place, settings),
            device=place.type,
            devices=devices,
            report_to=tuple(report_to),
            template=template,
            validation=sets,
        )
        if among:
            share_plan(plan, place.type)
        outcome = run_plan(plan, progress)
        curve = outcome["curve"]
        summary = TrainSummary(
            run_id=run_id,
            output=str(output),
            method=method,
            selection=origin.described,
            model=source.name,
            trained_model=f"{source.name}+{output.resolve().name}",
            n_samples=rows.n,
            n_left_out=sum(rows.reasons.values()),
            reasons=rows.reasons,
            tokens=rows.tokens,
            answer_tokens=rows.answer_tokens,
            epochs=settings["epochs"],
            steps=outcome["steps"],
            batch_size=batch_size,
            micro_batch_size=outcome["micro_batch_size"],
            devices=devices,
            trainable_parameters=outcome["trainable_parameters"],
            loss_first=curve[0]["loss"],
            loss_last=curve[-1]["loss"],
            loss_mean=_mean_loss(curve),
            validation=_beside(outcome["before"], outcome["after"], sets),
            seconds=curve[-1]["seconds"],
            preferred=curve[-1].get("preferred"),
            resumed_from=outcome["resumed_from"],
        )
        kept = ("targets", "attention", "gradient_checkpointing", "curve", "validation_curve")
        result = {
            **summary.to_dict(),
            **{name: outcome[name] for name in kept},
            "dataset": origin.dataset,
            "selection_id": origin.selection_id,
            "strategy": origin.strategy,
            "ratio": origin.ratio,
        }
        folder.finish(result)
        job.record(result, folder)
        if among:
            let_go(place.type)
        return summary


def _place(device: str, devices: int) -> torch.device:
    """The kind of device that is trained on.

    Raises:
        UsageError: one GPU was named, or there are not that many.
    """
    place = pick_device(device)
    if place.index:
        raise UsageError(
            f"training runs on the first visible GPUs, not on `{device}`",
            f"make it the first: CUDA_VISIBLE_DEVICES={place.index} diq train ...",
        )
    if place.type == "cuda" and devices > torch.cuda.device_count():
        raise UsageError(f"--devices {devices}, but torch sees {torch.cuda.device_count()} GPUs", "give fewer")
    return place


def _attention(place: torch.device, settings: Mapping[str, Any]) -> str | None:
    """FlashAttention 2 where it is installed and can be used; None leaves the choice to transformers."""
    if place.type != "cuda" or settings["dtype"] != "bfloat16" or settings.get("parameters") == FULL:
        return None
    if importlib.util.find_spec("flash_attn") is None:
        log.info("flash-attn is not installed: attention runs in torch's own kernels")
        return None
    return "flash_attention_2"


# the record --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Job:
    """What a run's rows in the store are made of."""

    store: Path
    source: ModelSource
    start: ModelSource | None
    origin: Origin
    method: str
    settings: dict[str, Any]
    environment: dict[str, Any]

    def record(self, result: Mapping[str, Any] | None, folder: OutputFolder) -> int | None:
        """Put the run into the store, and the trained model once there is one; returns the run's number."""
        if not self.store.exists():
            log.info("there is no store at `%s`: the run is recorded in the output folder alone", self.store)
            return None
        trained = find_adapter(str(folder.path), self.source) if result is not None else None
        with Store(self.store, wait_s=WAIT_S) as opened, opened.transaction():
            for one in (self.source, self.start, trained):
                if one is not None:
                    opened.add_model(
                        model_id=one.model_id, name=one.name, source=one.source, architecture=None, n_parameters=None
                    )
            run_id = opened.open_run(
                kind="train",
                method=self.method,
                model_id=self.source.model_id,
                fingerprint=run_fingerprint("train", self.method, self.source.model_id, self.settings),
                settings=self.settings,
                environment=self.environment,
            )
            if result is not None and trained is not None:
                opened.run(
                    "store/update_run_result", run_id=run_id, result=canonical_json({**result, "run_id": run_id})
                )
                opened.run(
                    "training/insert_trained_model",
                    model_id=trained.model_id,
                    run_id=run_id,
                    base_model_id=self.source.model_id,
                    start_model_id=self.start.model_id if self.start else None,
                    folder=str(folder.path.resolve()),
                    dataset_id=self.origin.dataset_id,
                    selection_id=self.origin.selection_id,
                    created_at=now(),
                )
        return run_id


def _finished_record(output: Path) -> dict[str, Any]:
    """The record of a training that another process has finished."""
    return dict(json.loads((output / TRAINING_RECORD).read_text(encoding="utf-8")))


def _summary(result: Mapping[str, Any], **changes: Any) -> TrainSummary:
    known = {one.name for one in fields(TrainSummary)}
    return TrainSummary(**{name: value for name, value in {**result, **changes}.items() if name in known})


def _mean_loss(curve: Sequence[Mapping[str, float]]) -> float:
    """Mean over the steps; each point of the curve is the mean since the point before."""
    steps = [0.0, *(one["step"] for one in curve)]
    total = sum(one["loss"] * (step - before) for one, before, step in zip(curve, steps, steps[1:], strict=False))
    return total / steps[-1]


def _with_validation(
    record: dict[str, Any],
    job: _Job,
    folder: OutputFolder,
    tokenization: Tokenization,
    sets: Mapping[str, Sequence[Sequence[Message]]],
    device: str,
) -> dict[str, Any]:
    """The record of a finished training, with the losses of validation sets that it had not been asked for."""
    missing = {name: sets[name] for name in sets if name not in record["result"]["validation"]}
    if missing:
        settings, source = record["settings"], job.source
        options = {"dtype": settings["dtype"], "device": device}
        packed = {**options, "quantization": settings.get("quantization")}
        before = validation_losses(
            load_causal_lm(source, **packed, adapter=job.start), tokenization, missing
        )  # fmt: skip
        trained = find_adapter(str(folder.path), source)
        if is_adapter(trained):
            network = load_causal_lm(source, **packed, adapter=trained)
        else:
            network = load_causal_lm(trained, **options)
        after = validation_losses(network, tokenization, missing)
        record["result"]["validation"] |= _beside(before, after, missing)
        folder.write_record(record)
    return record


def _beside(
    before: Mapping[str, float], after: Mapping[str, float], sets: Mapping[str, Sequence[Any]]
) -> dict[str, dict[str, float]]:
    return {name: {"before": before[name], "after": after[name], "n_samples": len(sets[name])} for name in sets}
