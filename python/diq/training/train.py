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
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from diq.base.errors import UsageError
from diq.base.files import check_folder
from diq.base.fingerprint import canonical_json, run_fingerprint
from diq.base.options import verb
from diq.base.sample import Message
from diq.base.summary import Summary
from diq.models.device import describe_environment, pick_device, pick_dtype, quiet_libraries
from diq.models.network import load_causal_lm
from diq.models.source import TRAINING_RECORD, ModelSource, find_adapter, find_model, is_adapter
from diq.models.tokens import Tokenization, load_tokenization
from diq.store.connection import WAIT_S
from diq.store.store import Store, now
from diq.training.data import Origin, Texts, read_samples, read_validation_sets, tokenize
from diq.training.network import find_start
from diq.training.options import TrainOptions
from diq.training.output_folder import OutputFolder
from diq.training.settings import FULL, check_place, make_settings, other_configuration
from diq.training.validation import validation_losses
from diq.training.worker import Plan, follow, launched, let_go, run_plan, share_plan

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class TrainSummary(Summary):
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


@verb(TrainOptions)
def train(options: TrainOptions) -> TrainSummary:
    """Fine-tune a model on a selection.

    The same call again does what is left: nothing after the end, the remaining steps after a kill.

    Raises:
        UsageError: unknown selection or validation set, a selection whose dataset was made anew, a setting out of
            range, nothing to train on, or an output folder that belongs to another configuration.
        ModelError: the model or adapter cannot be used, or they do not belong together.
        RunFailedError: a loss that is not a number, no memory, or no space on the disk.
    """
    among = launched()
    devices, output = among[1] if among else options.devices, Path(options.output)
    settings = make_settings(
        method=options.method,
        params=options.params,
        starts=options.adapter is not None,
        lora={"lora_rank": options.lora_rank, "lora_alpha": options.lora_alpha, "lora_dropout": options.lora_dropout},
        quantization=options.quantization,
        beta=options.beta,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        packing=options.packing,
        follow_order=options.follow_order,
        scheduler=options.scheduler,
        warmup_ratio=float(options.warmup_ratio),
        weight_decay=float(options.weight_decay),
        batch_size=options.batch_size,
        seed=options.seed,
        max_length=options.max_length,
    )
    check_place(
        batch_size=options.batch_size,
        micro_batch_size=options.micro_batch_size,
        devices=devices,
        report_to=options.report_to,
    )
    check_folder(output)
    place = _place(options.device, devices)
    if among and among[0]:
        follow(place.type)
        return _summary(_finished_record(output)["result"])
    with contextlib.ExitStack() as stack:
        texts = stack.enter_context(Texts(pairs=options.method == "dpo"))
        origin = read_samples(options.selection, options.store_file, texts)
        sets = read_validation_sets(options.store_file, options.validation_set)
        source = find_model(options.model, name=options.model_name)
        start = find_start(options.adapter, source) if options.adapter is not None else None
        tokenization = load_tokenization(
            source,
            max_length=options.max_length,
            template=options.template,
            template_kwargs=options.chat_template_kwargs,
            turns=options.turns,
        )
        # everything that changes the result and nothing else: the identity of the run
        settings |= {
            "data": texts.fingerprint(),
            "n_samples": texts.n,
            "dtype": pick_dtype(options.dtype, place),
            **({"start": start.model_id} if start else {}),
            **tokenization.settings(),
        }
        identity = run_fingerprint("train", options.method, source.model_id, settings)
        folder = stack.enter_context(OutputFolder(output))
        record = folder.record
        if record and record["fingerprint"] != identity and folder.holds_work() and not options.overwrite:
            raise other_configuration(output, record, source.model_id, settings)
        if record and (
            record["fingerprint"] != identity or options.overwrite or not (options.resume or folder.is_finished())
        ):
            folder.discard()
        stack.enter_context(quiet_libraries())
        job = _Job(options.store_file, source, start, origin, options.method, settings, describe_environment(place))
        if folder.record and folder.is_finished():
            record = _with_validation(folder.record, job, folder, tokenization, sets, options.device)
            run_id = job.record(record["result"], folder)
            if among:
                share_plan(None, place.type)
            return _summary(record["result"], run_id=run_id, already_trained=True)

        folder.write_record(
            {
                "state": "training",
                "kind": "train",
                "method": options.method,
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
        rows = tokenize(texts, tokenization, options.method, folder.unfinished / "tokens.arrow", options.progress)
        plan = Plan(
            source=source,
            start=start,
            output=output.absolute(),
            tokens=rows.path.absolute(),
            longest=rows.longest,
            n=rows.n,
            method=options.method,
            settings=settings,
            micro_batch_size=options.micro_batch_size,
            save_steps=options.save_steps,
            gradient_checkpointing=options.gradient_checkpointing,
            attention=options.attention or _attention(place, settings),
            device=place.type,
            devices=devices,
            report_to=tuple(options.report_to),
            template=options.template,
            template_kwargs=tuple(options.chat_template_kwargs),
            turns=options.turns,
            validation=sets,
        )
        if among:
            share_plan(plan, place.type)
        outcome = run_plan(plan, options.progress)
        curve = outcome["curve"]
        summary = TrainSummary(
            run_id=run_id,
            output=str(output),
            method=options.method,
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
            batch_size=options.batch_size,
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
