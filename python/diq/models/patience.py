"""An end to Python code of others that takes too long or too much, such as the template that a model's folder brings.

What is ended is Python: a loop, or one step after the other that each make a text longer. A single operation of C, such
as a power of huge numbers, runs to its end before anything else does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

# how often running code is looked at
_POLL_S = 0.1
# of memory that came since it began; code that runs for less than this time is not asked for it
MOST_BYTES, _QUICK_S = 2 * 2**30, 0.5
_PEAK_UNIT = 1 if sys.platform == "darwin" else 1024


class OutOfPatienceError(Exception):
    """Raised in the code that took too much."""


@dataclass(slots=True)
class _Running:
    begun: float
    seconds: float
    peak: int


class _Watch:
    """A thread that looks at the code that is running, while there is any."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running: dict[int, _Running] = {}
        self._is_there = False

    def begin(self, seconds: float) -> None:
        """Watch over the thread that calls."""
        with self.lock:
            self.running[threading.get_ident()] = _Running(time.monotonic(), seconds, _peak())
            if not self._is_there:
                threading.Thread(target=self._look, name="diq-patience", daemon=True).start()
                self._is_there = True

    def end(self) -> None:
        """Leave the thread that calls alone."""
        ident = threading.get_ident()
        with self.lock:
            if self.running.pop(ident, None) is None:
                # it was to be ended, and has ended by itself: nothing may be raised behind it
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), None)

    def _look(self) -> None:
        while True:
            time.sleep(_POLL_S)
            with self.lock:
                if not self.running:
                    self._is_there = False
                    return
                for ident, one in list(self.running.items()):
                    age = time.monotonic() - one.begun
                    if age > one.seconds or (age > _QUICK_S and _peak() - one.peak > MOST_BYTES):
                        del self.running[ident]
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(
                            ctypes.c_ulong(ident), ctypes.py_object(OutOfPatienceError)
                        )


def _peak() -> int:
    """Most bytes that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _PEAK_UNIT


_watch = _Watch()


def _forget() -> None:
    """In a forked process the thread is not there."""
    global _watch
    _watch = _Watch()


os.register_at_fork(after_in_child=_forget)


@contextlib.contextmanager
def patience(seconds: float) -> Iterator[None]:
    """For a block of Python code: it is ended where it takes longer, or where memory grows by gigabytes.

    Raises:
        OutOfPatienceError: it was ended.
    """
    watch = _watch
    watch.begin(seconds)
    try:
        yield
    finally:
        watch.end()
