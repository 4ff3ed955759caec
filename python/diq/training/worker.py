"""The steps of a training, in this process or in one a device; what one process needs is a `Plan`, a JSON file.

The process that reads samples and writes to the store makes the plan; the others only train. ``torchrun`` and
``accelerate launch`` start such processes themselves: then the first of them makes the plan and the rest wait for it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import math
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from diq.base.errors import DiqError, ModelError, RunFailedError
from diq.base.files import write_text
from diq.base.options import Turns
from diq.base.progress import Progress
from diq.base.sample import Message
from diq.base.text import amount, first_line
from diq.gradients.losses import packing_problem
from diq.models.device import quiet_libraries
from diq.models.memory import default_budget, halving, is_out_of_memory, one_line_of_memory
from diq.models.source import ModelSource
from diq.models.tokens import Tokenization, load_tokenizer
from diq.training.network import ADAPTER, load_network, load_reference, save_network, trained_parameters
from diq.training.output_folder import OutputFolder, checkpoint_step
from diq.training.trainer import PATIENCE_S, Course, make_trainer
from diq.training.validation import sample_losses, validation_losses

log = logging.getLogger(__name__)

# exit status of a process that ran out of memory, so that the others are started again with smaller micro-batches
_OUT_OF_MEMORY = 77
_POLL_S = 0.2
# what the other processes get to say why they failed, after the first
_LAST_WORDS_S = 3.0
_PLAN, _OUTCOME = "plan.json", "outcome.json"


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a process needs to train.

    Attributes:
        source: base model.
        start: the adapter that is trained on, or None.
        output: folder of the training.
        tokens: Arrow stream of the samples.
        longest: tokens of the longest sequence.
        n: samples.
        method: ``sft`` or ``dpo``.
        settings: of the run.
        micro_batch_size: as asked for; None: by the longest sequence.
        save_steps: keep a checkpoint every so many steps, too; None: none.
        gradient_checkpointing: compute activations twice; None: on a GPU.
        attention: attention implementation; None: transformers' choice.
        device: ``cpu`` or ``cuda``.
        devices: processes.
        report_to: ``tensorboard``, ``wandb``.
        template: ``auto`` or ``none``.
        template_kwargs: variables of the template, as texts.
        turns: answers of a conversation that count.
        validation: conversations of each validation set.
        is_trial: only the losses of the validation samples are wanted, after the training.
    """

    source: ModelSource
    start: ModelSource | None
    output: Path
    tokens: Path
    longest: int
    n: int
    method: str
    settings: dict[str, Any]
    micro_batch_size: int | None
    save_steps: int | None
    gradient_checkpointing: bool | None
    attention: str | None
    device: str
    devices: int
    report_to: tuple[str, ...]
    template: str
    template_kwargs: tuple[str, ...]
    turns: Turns
    validation: dict[str, list[list[Message]]]
    is_trial: bool = False

    def to_json(self) -> str:
        """For another process."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """What ``to_json`` gave."""
        values = json.loads(text)
        for name in ("source", "start"):
            if values[name] is not None:
                values[name] = ModelSource(**{**values[name], "path": Path(values[name]["path"])})
        values |= {"output": Path(values["output"]), "tokens": Path(values["tokens"])}
        values |= {"report_to": tuple(values["report_to"]), "template_kwargs": tuple(values["template_kwargs"])}
        return cls(**values)

    @property
    def pairs(self) -> int:
        """Sequences that one sample puts through the model."""
        return 2 if self.method == "dpo" else 1

    def first_micro_batch_size(self) -> int:
        """The size asked for, or the largest whose padded tokens fit the budget."""
        share = self.settings["batch_size"] // self.devices
        if self.micro_batch_size:
            return self.micro_batch_size
        budget = default_budget("training", self.device)
        return max(size for size in _divisors(share) if size == 1 or size * self.pairs * self.longest <= budget)


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


# where the processes are -------------------------------------------------------------------------------------------


def launched() -> tuple[int, int] | None:
    """Rank and number of processes where ``torchrun`` or ``accelerate launch`` started this one among others."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    return (int(os.environ["RANK"]), size) if size > 1 else None


def _together(device: str) -> PartialState:
    """The processes of a launch, connected; the trainer uses the same connection."""
    options: dict[str, Any] = {"cpu": True, "backend": "gloo"} if device == "cpu" else {}
    return PartialState(**options, timeout=timedelta(seconds=PATIENCE_S))


def share_plan(plan: Plan | None, device: str) -> None:
    """Tell the other processes of a launch what to train; None: there is nothing left to train."""
    _together(device)
    broadcast_object_list([None if plan is None else plan.to_json()], from_process=0)
    if plan is None:
        atexit.register(_part)


def follow(device: str) -> None:
    """Train with the first process's plan, until it has finished; for every other process of a launch."""
    state = _together(device)
    box: list[str | None] = [None]
    broadcast_object_list(box, from_process=0)
    if box[0] is not None:
        run_plan(Plan.from_json(box[0]), None)
        state.wait_for_everyone()
    atexit.register(_part)


def let_go(device: str) -> None:
    """Tell the other processes of a launch that the result is written."""
    _together(device).wait_for_everyone()
    atexit.register(_part)


def _part() -> None:
    """Close the connection to the other processes: one that ends with it open is aborted now and then."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


# training ----------------------------------------------------------------------------------------------------------


def run_plan(plan: Plan, progress: Progress | None) -> dict[str, Any]:
    """Do the steps and save the result; halves the micro-batches where memory runs out.

    Returns:
        What came out, for the run's record.

    Raises:
        RunFailedError: a loss that is not a number, no memory for one sample, or no space on the disk.
    """
    size, known = plan.first_micro_batch_size(), dict[str, dict[str, float]]()
    if plan.devices > 1 and launched() is not None:
        # the other processes of the launch would not hear of another size
        with one_line_of_memory(
            f"{amount(size, 'sample')} at a time on each device",
            f"give --micro-batch-size {max(1, size // 2)}; the same command goes on from the last checkpoint",
        ):
            return _train_once(plan, size, known, progress)

    def attempt(size: int) -> dict[str, Any]:
        return (
            _train_in_processes(plan, size, progress) if plan.devices > 1 else _train_once(plan, size, known, progress)
        )

    sizes = _divisors(plan.settings["batch_size"] // plan.devices)
    return halving(
        attempt,
        size,
        smaller=lambda size: max(one for one in sizes if one <= size // 2),
        what="samples",
        one=f"one sample of up to {plan.longest} tokens at a time",
        hint="lower --max-length, or try --gradient-checkpointing, --dtype bfloat16 or --quantization nf4",
    )


def _train_once(
    plan: Plan, micro_batch_size: int, known: dict[str, dict[str, float]], progress: Progress | None
) -> dict[str, Any]:
    """One attempt. ``known`` keeps the validation losses before training for the next one."""
    settings = plan.settings
    folder = OutputFolder(plan.output)
    first = int(os.environ.get("RANK", "0")) == 0
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if plan.device == "cuda" else plan.device
    checkpointing = plan.device == "cuda" if plan.gradient_checkpointing is None else plan.gradient_checkpointing
    tokenization = Tokenization(
        load_tokenizer(plan.source),
        max_length=settings["max_length"],
        template=plan.template,  # type: ignore[arg-type]
        template_kwargs=plan.template_kwargs,
        turns=plan.turns,
    )
    network = load_network(
        plan.source,
        settings,
        device=device,
        attention=plan.attention,
        start=plan.start,
        gradient_checkpointing=checkpointing,
    )
    if settings.get("packing"):
        _check_packing(network)

    def validate(network: Any) -> dict[str, float]:
        return validation_losses(network, tokenization, plan.validation)

    if first and not plan.is_trial and "before" not in known:
        known["before"] = validate(network)
    course = Course(
        plan.n, settings["epochs"], settings["batch_size"], micro_batch_size, plan.devices, plan.save_steps
    )  # fmt: skip
    trainer = make_trainer(
        network,
        tokenization.tokenizer,
        plan.tokens,
        folder,
        course,
        settings,
        method=plan.method,
        reference=load_reference(plan.source, settings, device=device, attention=plan.attention)
        if plan.method == "dpo"
        else None,
        gpu=plan.device == "cuda",
        gradient_checkpointing=checkpointing,
        report_to=plan.report_to if first else (),
        progress=progress if first else None,
        validate=validate if plan.validation and not plan.is_trial else None,
    )
    checkpoint = folder.newest_checkpoint()
    if checkpoint and first:
        log.info("going on from %s", checkpoint.name)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if not first:
        return {}
    if plan.is_trial:
        losses = sample_losses(trainer.model, tokenization, plan.validation)
        of_samples = {name: one.tolist() for name, one in losses.items()}
        return {"steps": trainer.state.global_step, "curve": trainer.curve(), "losses": of_samples}
    after = validate(trainer.model)
    n_trained = trained_parameters(trainer.model)
    adapted = getattr(trainer.model, "peft_config", {}).get(ADAPTER)
    save_network(trainer.model, tokenization.tokenizer, plan.source, settings["dtype"], folder)
    return {
        "steps": trainer.state.global_step,
        "micro_batch_size": micro_batch_size,
        "trainable_parameters": n_trained,
        "targets": sorted(adapted.target_modules) if adapted is not None else [],
        "attention": getattr(trainer.model.config, "_attn_implementation", None),
        "gradient_checkpointing": checkpointing,
        "before": known["before"],
        "after": after,
        "curve": trainer.curve(),
        "validation_curve": trainer.validation_curve(),
        "resumed_from": checkpoint_step(checkpoint) if checkpoint else None,
    }


def _check_packing(network: Any) -> None:
    problem = packing_problem(network)
    if problem:
        raise ModelError(problem, "leave out --packing, or try --attention flash_attention_2")


# several processes -------------------------------------------------------------------------------------------------


def _train_in_processes(plan: Plan, micro_batch_size: int, progress: Progress | None) -> dict[str, Any]:
    """One attempt with one process a device, started from here.

    Raises:
        MemoryError: one of them ran out of memory.
    """
    folder = plan.output / ".unfinished"
    text = replace(plan, micro_batch_size=micro_batch_size).to_json()
    write_text(folder / _PLAN, text)
    status = _run_processes(plan, folder, progress)
    if status == _OUT_OF_MEMORY:
        raise MemoryError("a training process ran out of memory")
    if status != 0:
        raise _failure(folder, status)
    return dict(json.loads((folder / _OUTCOME).read_text(encoding="utf-8")))


def _run_processes(plan: Plan, folder: Path, progress: Progress | None) -> int:
    """Exit status of the first process that failed, or 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(plan.devices)}
    if plan.device == "cpu":
        # the processes share the machine's threads
        shared["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // plan.devices))
        shared["ACCELERATE_USE_CPU"] = "true"
    command = [sys.executable, "-c", "from diq.training import worker; worker.main()", str(folder / _PLAN)]
    processes: list[subprocess.Popen[str]] = []
    relay: threading.Thread | None = None
    try:
        for rank in range(plan.devices):
            environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            pipe = subprocess.PIPE if rank == 0 else subprocess.DEVNULL
            processes.append(subprocess.Popen(command, env=environment, stdout=pipe, text=True))
        relay = threading.Thread(target=_relay, args=(processes[0], progress))
        relay.start()
        status = _wait(processes)
    finally:
        for one in processes:
            if one.poll() is None:
                one.kill()
            one.wait()
        if relay is not None:
            # the pipe has ended with its process
            relay.join()
        for one in processes:
            if one.stdout is not None:
                one.stdout.close()
    return status


def _relay(process: subprocess.Popen[str], progress: Progress | None) -> None:
    """Pass on what the first process says about its steps, until it ends."""
    assert process.stdout is not None
    for line in process.stdout:
        with contextlib.suppress(ValueError, TypeError):
            what, done, total = json.loads(line)
            if progress:
                progress(what, done, total)


def _wait(processes: list[subprocess.Popen[str]]) -> int:
    """Exit status that tells what happened: 0, or that of the process which failed first of itself."""
    deadline = math.inf
    while any(one.poll() is None for one in processes) and time.monotonic() < deadline:
        if deadline == math.inf and any(one.poll() for one in processes):
            # one that lost its partner fails, too, or waits for ever
            deadline = time.monotonic() + _LAST_WORDS_S
        time.sleep(_POLL_S)
    failed = [one.returncode for one in processes if one.returncode]
    # memory or a kill is the cause where they are among them
    return _OUT_OF_MEMORY if _OUT_OF_MEMORY in failed else min(failed, default=0)


def _failure(folder: Path, status: int) -> DiqError:
    """The error that a process left behind."""
    for path in sorted(folder.glob("error-*.json")) if status > 0 else ():
        left = json.loads(path.read_text(encoding="utf-8"))
        return RunFailedError(left["message"], left["hint"])
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return RunFailedError(
        f"a training process {how}", "its messages are above; the same command goes on from the last checkpoint"
    )


@contextlib.contextmanager
def _errors_kept(folder: Path) -> Iterator[None]:
    """Errors as a file, for the process that started this one, and an exit status."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            _end(_OUT_OF_MEMORY)
        if isinstance(error, DiqError):
            left = {"message": error.message, "hint": error.hint}
            write_text(folder / f"error-{os.environ['RANK']}.json", json.dumps(left))
            _end(1)
        log.error("%s", first_line(error))
        traceback.print_exc()
        _end(1)


def _end(status: int) -> NoReturn:
    """End at once: a connection with a failed partner can't be closed in order, and must not change the status."""
    sys.stderr.flush()
    os._exit(status)


def main() -> None:
    """One process of several: train with the plan that the first argument names; the first one writes the outcome."""
    path = Path(sys.argv[1])
    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("diq").setLevel(logging.INFO if os.environ["RANK"] == "0" else logging.ERROR)
    plan = Plan.from_json(path.read_text(encoding="utf-8"))
    folder = path.parent
    say: Callable[..., None] | None = None
    if os.environ["RANK"] == "0":
        channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)

        def say(what: str, done: int, total: int) -> None:
            channel.write(json.dumps([what, done, total]) + "\n")

    # whatever the libraries print must not look like progress
    sys.stdout = sys.stderr
    with _errors_kept(folder), quiet_libraries():
        assert plan.micro_batch_size is not None
        outcome = _train_once(plan, plan.micro_batch_size, {}, say)
    _part()
    if outcome:
        write_text(folder / _OUTCOME, json.dumps(outcome))
