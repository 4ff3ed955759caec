"""A connection to the file of a store, as soon as nothing else holds it."""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path

import duckdb

from diq.base import config
from diq.base.errors import StoreError
from diq.base.text import first_line

# the program is missing where the holder has just ended, or belongs to somebody else
_HOLDER = re.compile(r"Conflicting lock is held in (?:(?P<program>.*?) \()?PID (?P<pid>\d+)")
_HERE = ("already held in current process", "different configuration than existing connections")
_DENIED = ("Permission denied", "Read-only file system", "Operation not permitted")

# seconds that a command waits for another process that holds the store for a moment, and one in the midst of long work
SHORT_WAIT_S = 10.0
WAIT_S = 120.0
# seconds of waiting after which a log line says what for: beside a running scoring most waits are shorter
TELL_S = 1.0
_PAUSE_S = 0.05

COPY_HINT = "copy the file to a folder of your own, and name it with --store"

log = logging.getLogger(__name__)


def connect(path: Path, *, read_only: bool, wait_s: float) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB file, and wait for whatever holds it: another process, or this one in the other mode.

    Args:
        path: the file; made when it is missing and may be written.
        read_only: open without the right to write.
        wait_s: seconds to wait; 0 fails at once.

    Raises:
        StoreError: the file is still held after ``wait_s``, has gone, may not be read or written, or is no DuckDB file.
    """
    if not read_only:
        check_writable(path)
    if foreign := _foreign(path):
        raise StoreError(
            f"`{path}` cannot be opened as a store: {foreign}", "name a DuckDB file that diq made, or another path"
        )
    settings = {} if read_only else {"storage_compatibility_version": config.STORAGE_VERSION}
    start, told = time.monotonic(), False
    while True:
        try:
            # whole, so that no part of the name, such as `md:`, asks for an extension
            connection = duckdb.connect(str(path.resolve()), read_only=read_only, config=settings)
            break
        except duckdb.Error as error:
            holder = held_by(path, str(error))
            waited = time.monotonic() - start
            if holder is None or waited >= wait_s:
                raise _refusal(path, error, holder) from error
            if waited >= TELL_S and not told:
                told = True
                log.info("the store `%s` is held by %s: waiting for up to %g s", path, holder, wait_s)
            time.sleep(_PAUSE_S)
    # no query fetches and loads code; a setting at the opening would keep other clients of this process out
    for setting in ("enable_progress_bar", "autoinstall_known_extensions", "autoload_known_extensions"):
        connection.execute(f"SET {setting} = false")
    return connection


def _foreign(path: Path) -> str | None:
    """What a file is that is not of DuckDB, which would fetch an extension to open it; None: of DuckDB, or empty."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        # there is none, or DuckDB says why not
        return None
    if not head or head[8:12] == b"DUCK":
        return None
    return "it is a SQLite file" if head.startswith(b"SQLite format 3") else "it is not a valid DuckDB file"


def check_writable(path: Path) -> None:
    """Refuse a store that cannot be made or written, or whose folder cannot, where DuckDB keeps its log.

    Raises:
        StoreError: it is read-only.
    """
    effective = os.access in os.supports_effective_ids
    for place, name in ((path, "the file"), (path.parent, "its folder")):
        if place.exists() and not os.access(place, os.W_OK, effective_ids=effective):
            raise StoreError(f"the store `{path}` cannot be written: {name} is read-only for you", COPY_HINT)


def held_by(path: Path, text: str) -> str | None:
    """Who keeps a file from being opened; None where waiting would not help."""
    if any(sign in text for sign in _HERE):
        return "this process"
    if "Could not set lock on file" in text and (found := _HOLDER.search(text)):
        # 0: it let go between the refusal and the question who it was
        if found["pid"] == "0":
            return "another process"
        named = found["program"] not in (None, "", ".")
        return f"process {found['pid']}" + (f" ({found['program']})" if named else "")
    try:
        # between making a file and locking it, whoever makes it leaves it empty for a moment
        return None if path.stat().st_size else "another process"
    except OSError:
        return None


def _refusal(path: Path, error: duckdb.Error, holder: str | None) -> StoreError:
    text = first_line(error)
    if "database does not exist" in text:
        return missing(path)
    if any(sign in text for sign in _DENIED):
        return StoreError(f"the store `{path}` may not be opened: {text}", "ask its owner for the right to read it")
    log_file = path.with_name(f"{path.name}.wal")
    if holder is None and log_file.exists() and ("WAL" in text or "wal" in text):
        return StoreError(
            f"the log `{log_file}` of the store cannot be read: {text}",
            "keep a copy of both; without the log (`mv` it away) the store is as of its last checkpoint",
        )
    if holder is None or "not a valid DuckDB" in text:
        return StoreError(
            f"`{path}` cannot be opened as a store: {text}", "name a DuckDB file that diq made, or another path"
        )
    if holder == "this process":
        hint = "close the connection that it has open; two may be open at once only if both, or neither, are read-only"
    else:
        hint = "wait until that process has finished, or close the DuckDB client that has the file open"
    return StoreError(f"the store `{path}` is held by {holder}", hint)


def missing(path: Path) -> StoreError:
    """The error of a store that is not there."""
    return StoreError(
        f"there is no store at `{path}`",
        f"run `diq ingest` first, or name the store with --store or ${config.STORE_VARIABLE}",
    )
