"""Code that takes too long is ended, and nothing is raised where it was not watched."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from conftest import run_forked
from diq.models import patience as module
from diq.models.patience import OutOfPatienceError, patience


def loop(seconds: float = 60.0) -> None:
    """Steps of Python that have no end of their own, but for a test that fails."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_what_takes_too_long_is_ended() -> None:
    began = time.monotonic()
    with pytest.raises(OutOfPatienceError), patience(0.2):
        loop()
    assert time.monotonic() - began < 50
    # and another beginning is another time
    with patience(30.0):
        loop(0.4)


def test_errors_and_results_of_the_code_are_its_own() -> None:
    with pytest.raises(KeyError), patience(30.0):
        raise KeyError("of the code")
    with pytest.raises(OutOfPatienceError), patience(0.2):
        while True:
            with contextlib.suppress(ValueError):
                loop(0.01)


def test_nothing_is_raised_behind_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    # it ends by itself at the moment at which it is ended, and threads take turns as often as they can
    monkeypatch.setattr(module, "_POLL_S", 0.0)
    interval, late = sys.getswitchinterval(), 0
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(5000):
            with contextlib.suppress(OutOfPatienceError), patience(0.0):
                pass
            try:
                for _ in range(3):
                    len("")
            except OutOfPatienceError:
                late += 1
    finally:
        sys.setswitchinterval(interval)
    assert late == 0


def test_each_thread_is_watched_alone() -> None:
    found: dict[str, str] = {}

    def work(name: str, seconds: float) -> None:
        try:
            with patience(seconds):
                loop(1.5)
            found[name] = "done"
        except OutOfPatienceError:
            found[name] = "ended"

    threads = [threading.Thread(target=work, args=(name, s)) for name, s in (("short", 0.2), ("long", 60.0))]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == {"short": "ended", "long": "done"}


def _grow() -> None:
    """Doubles a text; its memory is small enough for any machine, since the limit is set lower."""
    module.MOST_BYTES = 2**26
    text = "x" * 2**20
    try:
        with patience(60.0):
            while True:
                text = text + text if len(text) < 2**29 else text[: 2**20] * 2
    except OutOfPatienceError:
        print("ended")


def _in_a_child() -> None:
    with patience(30.0):
        loop(0.1)
        if os.fork() == 0:
            try:
                with patience(0.2):
                    loop()
            except OutOfPatienceError:
                os._exit(7)
            os._exit(8)
        print(os.waitstatus_to_exitcode(os.wait()[1]))


def test_what_fills_memory_is_ended(tmp_path: Path) -> None:
    assert run_forked(_grow, folder=tmp_path).stdout == "ended\n"


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_has_a_watch_of_its_own(tmp_path: Path) -> None:
    assert run_forked(_in_a_child, folder=tmp_path).stdout == "7\n"
