"""Opening a store that something else holds: it waits, and then says who holds it."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from conftest import Forked, fill_store, write_jsonl
from diq.base.errors import StoreError
from diq.store import connection
from diq.store.store import Store

HOLDER = "import sys, duckdb; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.readline()"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "s.duckdb"
    fill_store(path, dots={"a": np.arange(20.0)}, difficulty=np.arange(20) % 5 + 1)
    return path


@pytest.fixture
def scored(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(filled, tmp_path))


@contextlib.contextmanager
def holder(store: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the store open, until a line comes or the block ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        # at the end of the block the pipe closes, and the process that waits for a line of it ends
        yield process


@pytest.mark.slow
def test_commands_wait_for_a_process_that_holds_the_store_for_a_moment(scored: Path) -> None:
    # none is given a time to wait: what counts is the default
    more = write_jsonl(scored.with_name("more.jsonl"), [{"question": "why?", "answer": "because"}])
    commands = (
        ["ingest", str(more), "--dataset", "more"],
        ["status", "--json"],
        ["sql", "select count(*) from samples"],
        ["select", "pool", "--model", "model", "--ratio", "0.5"],
    )
    with holder(scored) as held:
        waiting = [
            subprocess.Popen(
                [sys.executable, "-m", "diq", *command, "--store", str(scored)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for command in commands
        ]
        for one in waiting:
            assert one.stderr is not None
            assert f"is held by process {held.pid}" in one.stderr.readline()
    for one in waiting:
        _, text = one.communicate()
        assert one.returncode == 0, text


def test_after_the_wait_it_says_who_holds_the_store(scored: Path) -> None:
    with holder(scored) as held:
        for read_only in (True, False):
            with pytest.raises(StoreError, match=f"is held by process {held.pid}") as caught:
                Store(scored, read_only=read_only, wait_s=0)
            assert "\n" not in caught.value.message
            assert "wait" in caught.value.hint
    Store(scored, read_only=True, wait_s=0).close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Conflicting lock is held in /usr/bin/python3.11 (PID 71). See also", "process 71 (/usr/bin/python3.11)"),
        ("Conflicting lock is held in PID 71. See also", "process 71"),
        # a process that is just ending has no command line any more
        ("Conflicting lock is held in . (PID 71). See also", "process 71"),
        ("Conflicting lock is held in PID 0. See also", "another process"),
        ("Lock is already held in current process, likely another DuckDB instance", "this process"),
        ("No locks available", None),
    ],
)
def test_every_way_in_which_duckdb_says_who_holds_a_file(tmp_path: Path, text: str, expected: str | None) -> None:
    assert connection.held_by(tmp_path, f'IO Error: Could not set lock on file "x": {text}') == expected


@contextlib.contextmanager
def opened_for_writing(path: Path) -> Iterator[None]:
    with Store(path):
        yield


@contextlib.contextmanager
def emptied(path: Path) -> Iterator[None]:
    """As a file is between being made and being locked."""
    made = path.with_name("made")
    shutil.move(path, made)
    path.touch()
    yield
    made.replace(path)


@contextlib.contextmanager
def deleted_by_its_holder(path: Path) -> Iterator[None]:
    with holder(path):
        yield
        path.unlink()


@pytest.mark.parametrize(
    ("busy", "expected"),
    [
        (opened_for_writing, "1 dataset"),
        (emptied, "1 dataset"),
        (deleted_by_its_holder, "there is no store at"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_reader_waits_until_the_file_is_free(
    scored: Path,
    monkeypatch: pytest.MonkeyPatch,
    busy: Callable[[Path], contextlib.AbstractContextManager[None]],
    expected: str,
) -> None:
    monkeypatch.setattr(connection, "TELL_S", 0.0)
    found: list[str] = []
    waits = threading.Event()

    def read() -> None:
        try:
            with Store(scored, read_only=True) as store:
                found.append(f"{len(store.rows('store/list_datasets'))} dataset")
        except StoreError as error:
            found.append(error.message)

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "waiting" in record.getMessage():
                waits.set()

    heard = Heard()
    connection.log.addHandler(heard)
    monkeypatch.setattr(connection.log, "level", logging.INFO)
    try:
        with busy(scored):
            reader = threading.Thread(target=read)
            reader.start()
            assert waits.wait(30)
        reader.join(30)
    finally:
        connection.log.removeHandler(heard)
    assert [one.startswith(expected) for one in found] == [True]


def test_a_process_that_has_the_store_open_itself_is_told_so(scored: Path) -> None:
    with Store(scored), pytest.raises(StoreError, match="is held by this process") as caught:
        Store(scored, read_only=True, wait_s=0)
    assert "close the connection" in caught.value.hint


def test_a_file_that_stays_empty_is_no_store(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    path.touch()
    with pytest.raises(StoreError, match="cannot be opened as a store"):
        Store(path, wait_s=0)


def test_a_read_only_store_is_read_and_refused_to_writers(scored: Path, read_only: Callable[[Path], None]) -> None:
    read_only(scored.parent)
    with Store(scored, read_only=True) as store:
        assert store.dataset("pool")["n_samples"] == 20
    with pytest.raises(StoreError, match="cannot be written: the file is read-only") as caught:
        Store(scored)
    assert "copy the file" in caught.value.hint
    with pytest.raises(StoreError, match="cannot be written: its folder is read-only"):
        Store(scored.with_name("new.duckdb"), create=True)


def test_what_a_killed_writer_left_in_the_log_is_read_from_a_read_only_folder(
    scored: Path, read_only: Callable[[Path], None]
) -> None:
    code = (
        "import sys, os; from diq.store.store import Store; store = Store(sys.argv[1])\n"
        "store.connection.execute(\"INSERT INTO settings VALUES ('left', 'here')\"); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(scored)], check=False)
    assert Path(f"{scored}.wal").stat().st_size > 0
    read_only(scored.parent)
    with Store(scored, read_only=True) as store:
        assert store.row("store/get_setting", name="left") == {"value": "here"}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"SQLite format 3\x00" + bytes(4096), "it is a SQLite file"),
        (b"id,text\n1,a\n", "it is not a valid DuckDB file"),
        (bytes(8192), "it is not a valid DuckDB file"),
    ],
)
@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_of_another_kind_is_refused_and_nothing_is_fetched(
    tmp_path: Path, content: bytes, what: str, read_only: bool
) -> None:
    path = tmp_path / "s.duckdb"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=what):
        Store(path, read_only=read_only, wait_s=0)
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["md:store", "sqlite:store", ":memory:", "s3:x"])
def test_a_name_with_a_prefix_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Store(name, create=True).close()
    assert [one.name for one in tmp_path.iterdir()] == [name]
    with Store(name, read_only=True) as store:
        assert store.rows("store/list_datasets") == []


def _make_store(path: str) -> None:
    Store(path, create=True).close()


def test_a_new_store_appears_whole(tmp_path: Path) -> None:
    """Where several make it at once, none finds a file that is half made, and nothing else is left."""
    path = tmp_path / "s.duckdb"
    folders = [tmp_path / f"{i}" for i in range(4)]
    for one in folders:
        one.mkdir()
    makers = [Forked(_make_store, str(path), folder=one) for one in folders]
    sizes = []
    while any(one.is_alive for one in makers):
        if path.exists():
            sizes.append(path.stat().st_size)
    assert [one.wait().returncode for one in makers] == [0] * 4
    # what a killed DuckDB left were 0, 4096 or 8192 bytes
    assert min(sizes) > 12288
    assert sorted(tmp_path.iterdir()) == [*folders, path]


def test_a_maker_that_is_killed_leaves_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.duckdb"
    done = Forked(_killed_before_it_is_there, str(path), folder=tmp_path).wait()
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    _make_store(str(path))
    assert [one.name for one in tmp_path.iterdir()] == ["s.duckdb"]


def _killed_before_it_is_there(path: str) -> None:
    from diq.base import files

    files.publish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    _make_store(path)
