"""Engines here or in worker processes, one a device, behind one face.

Batches go to whichever worker is free, longest first, so that all end at about the same time; the batches of a worker
that dies go to the others. A batch holds the same samples wherever it is computed, so one device and several give the
same numbers.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

import torch

from diq.base.errors import DiqError, ModelError, RunFailedError
from diq.base.text import amount, first_line
from diq.gradients.engine import Engine, EngineFacts, EngineSettings, Result
from diq.gradients.validation import ValidationTokens
from diq.models.architecture import RopeChange
from diq.models.device import pick_device
from diq.models.tokens import Tokens

log = logging.getLogger(__name__)

# what the server of workers has loaded when it makes one: a worker is ready in a moment, and what was loaded lies in
# memory once. It must not touch a GPU, whose state does not survive a fork; loading these does not.
_PRELOADED = ["torch", "transformers.modeling_utils", "diq.gradients.engine"]
# batches that a worker holds: one that it computes, and one that waits so that the worker never does
_IN_FLIGHT = 2


class Engines:
    """One engine in this process, or one a worker process; a context manager.

    Args:
        settings: of every engine; for several, the device is a kind (``cpu``, ``cuda``, ``auto``).
        devices: number of devices.

    Raises:
        ModelError: there are not that many devices, or the model cannot be used.
    """

    def __init__(self, settings: EngineSettings, *, devices: int = 1) -> None:
        self.settings = settings
        self._engine: Engine | None = None
        self.facts: EngineFacts
        self._workers: list[_Worker] = []
        if devices == 1:
            self._engine = Engine(settings)
            self.facts = self._engine.facts
            return
        places = _places(settings.device, devices)
        # on a cpu the workers share its threads
        threads = max(1, torch.get_num_threads() // devices) if places[0] == "cpu" else None
        try:
            for number, place in enumerate(places):
                self._workers.append(_Worker(number, replace(settings, device=place), threads))
            self.facts = self._ask_all("facts")[0]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Engines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.end()
        self._workers = []
        self._engine = None

    @property
    def rope_change(self) -> RopeChange | None:
        """Change of the model's rotary embedding with the length of a batch."""
        found: RopeChange | None = self.ask("rope_change")
        return found

    @property
    def token_budget(self) -> int:
        """Tokens a batch."""
        return int(self.ask("token_budget"))

    def prepare(self, validation: Sequence[ValidationTokens]) -> None:
        """Compute the validation gradients in every engine (the same samples give the same gradients)."""
        if self._engine is not None:
            self._engine.prepare(validation)
            return
        self._ask_all("prepare", list(validation))
        self.facts = self.ask("facts")

    def ask(self, name: str, *arguments: Any) -> Any:
        """An attribute of one engine, called with the arguments if it is a method."""
        if self._engine is not None:
            return _call(self._engine, name, arguments)
        for worker in list(self._workers):
            with contextlib.suppress(_DeadError):
                worker.send(name, arguments)
                return worker.receive()
            self._bury(worker, 0)
        raise AssertionError  # _bury raises when nobody is left

    def _ask_all(self, name: str, *arguments: Any) -> list[Any]:
        for worker in self._workers:
            with contextlib.suppress(_DeadError):
                worker.send(name, arguments)
        found = []
        for worker in list(self._workers):
            try:
                found.append(worker.receive())
            except _DeadError:
                self._bury(worker, 0)
        return found

    def score(self, batches: Iterator[tuple[Any, Sequence[Tokens]]]) -> Iterator[tuple[Any, Result]]:
        """Score batches; the results come in any order.

        Args:
            batches: pairs of a key and the samples of a batch.

        Returns:
            Pairs of the key and the numbers of the batch.

        Raises:
            RunFailedError: a batch cannot be computed, or every worker died.
        """
        return self.each("score", ((key, (samples,)) for key, samples in batches))

    def each(self, name: str, jobs: Iterator[tuple[Any, tuple[Any, ...]]]) -> Iterator[tuple[Any, Any]]:
        """Call a method of the engines for every job, on whichever is free; the answers come in any order.

        Args:
            name: of the method.
            jobs: pairs of a key and the arguments.

        Returns:
            Pairs of the key and the answer.

        Raises:
            RunFailedError: a job cannot be done, or every worker died.
        """
        if self._engine is not None:
            for key, arguments in jobs:
                yield key, _call(self._engine, name, arguments)
            return
        returned: list[tuple[Any, tuple[Any, ...]]] = []
        while True:
            for worker in list(self._workers):
                while len(worker.held) < _IN_FLIGHT:
                    job = returned.pop(0) if returned else next(jobs, None)
                    if job is None:
                        break
                    worker.held.append(job)
                    try:
                        worker.send(name, job[1])
                    except _DeadError:
                        break
            busy = [worker for worker in self._workers if worker.held]
            if not busy:
                return
            ready = connection.wait([one.pipe for one in busy])
            for worker in busy:
                if worker.pipe not in ready:
                    continue
                try:
                    result = worker.receive()
                except _DeadError:
                    returned.extend(worker.held)
                    self._bury(worker, len(worker.held))
                    continue
                key, _ = worker.held.pop(0)
                yield key, result

    def _bury(self, worker: _Worker, batches: int) -> None:
        self._workers.remove(worker)
        code = worker.end()
        told = f"worker {worker.number} ({worker.device}) died with exit code {code}"
        if not self._workers:
            raise RunFailedError(
                f"{told}, and no other is left",
                "what was finished is kept; the same command goes on where it stopped, with fewer --devices if memory "
                "was short",
            )
        log.warning("%s: the other %d take over %s", told, len(self._workers), amount(batches, "batch", "batches"))


class _DeadError(Exception):
    """A worker's end of the pipe is closed."""


@dataclass(slots=True)
class _Worker:
    number: int
    settings: EngineSettings
    threads: int | None
    held: list[tuple[Any, tuple[Any, ...]]] = field(default_factory=list)
    pipe: Any = None
    process: ForkServerProcess | None = None

    def __post_init__(self) -> None:
        context = _context()
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, self.settings, self.threads), name=f"diq-worker-{self.number}", daemon=True
        )
        self.process.start()
        theirs.close()

    @property
    def device(self) -> str:
        return self.settings.device

    def send(self, name: str, arguments: Sequence[Any]) -> None:
        try:
            self.pipe.send((name, tuple(arguments)))
        except (OSError, ValueError) as error:
            raise _DeadError from error

    def receive(self) -> Any:
        """The answer to the oldest question.

        Raises:
            _DeadError: the worker is gone.
            DiqError: what the worker met.
        """
        try:
            failed, answer = self.pipe.recv()
        except (OSError, EOFError) as error:
            raise _DeadError from error
        if failed:
            raise answer
        return answer

    def end(self) -> int | None:
        """Close the pipe, which ends the worker; returns its exit code."""
        assert self.process is not None
        self.pipe.close()
        # what it still computes is of no use to anybody
        self.process.terminate()
        self.process.join(timeout=10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return self.process.exitcode


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def _serve(pipe: Any, settings: EngineSettings, threads: int | None) -> None:
    """A worker: make an engine, answer questions until the pipe is closed."""
    # ctrl-c in a terminal reaches every process; the parent ends its workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if threads is not None:
        torch.set_num_threads(threads)
    questions: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, questions), daemon=True).start()
    engine: Engine | None = None
    while True:
        name, arguments = questions.get()
        answer: Any
        try:
            if engine is None:
                engine = Engine(settings)
            failed, answer = False, _call(engine, name, arguments)
        except DiqError as error:
            failed, answer = True, error
        except Exception as error:  # whatever it is, the parent must hear of it
            log.debug("worker failed", exc_info=True)
            failed, answer = True, RunFailedError(f"a worker failed: {type(error).__name__}: {first_line(error)}")
        try:
            pipe.send((failed, answer))
        except OSError:
            return


def _listen(pipe: Any, questions: queue.SimpleQueue[Any]) -> None:
    # in a thread of its own: a parent that sends the next batch while this process sends the numbers of the last one
    # would otherwise wait for it for ever
    while True:
        try:
            questions.put(pipe.recv())
        except (EOFError, OSError):
            # the parent is gone, or wants no more: what is being computed is of no use
            os._exit(0)


def _call(engine: Engine, name: str, arguments: Sequence[Any]) -> Any:
    found = getattr(engine, name)
    return found(*arguments) if callable(found) else found


def _places(device: str, n: int) -> list[str]:
    """A device for each of n workers."""
    kind = pick_device(device)
    if ":" in device:
        raise ModelError(f"--devices {n} with --device {device}, which is one device", "give --device cuda or cpu")
    if kind.type != "cuda":
        if n > (os.cpu_count() or 1):
            log.warning("%d processes share %s", n, amount(os.cpu_count() or 1, "processor core"))
        return [kind.type] * n
    have = torch.cuda.device_count()
    if n > have:
        raise ModelError(f"--devices {n} was asked for, but torch sees {have} GPUs", f"give --devices {have}")
    return [f"cuda:{i}" for i in range(n)]
