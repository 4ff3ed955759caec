"""Files that appear whole or not at all, and locks on them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from diq.base.errors import RunFailedError

log = logging.getLogger(__name__)


_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


@contextlib.contextmanager
def whole_file(path: Path, *, replace: bool = False) -> Iterator[IO[bytes]]:
    """A file that appears whole or not at all, and once at most unless ``replace`` is given.

    The block writes to a hidden part beside it, which is locked meanwhile: a second writer of the same file waits, and
    a cleaner sees that its writer lives.

    Raises:
        FileExistsError: the file is there already.
    """
    part = path.with_name(f".{path.name}.part")
    while True:
        # opened without truncation: until the lock is had, another writer's numbers may be in it
        with part.open("ab") as file:
            lock(file, wait=True)
            if not is_at(file, part):
                continue
            try:
                if not replace and path.exists():
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
                file.truncate(0)
                yield file
                file.flush()
                os.fsync(file.fileno())
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        break
    flush(path.parent)


def lock(file: IO[bytes], *, wait: bool) -> bool:
    """Lock an open file until it is closed; False where another holds it or the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _warn_of_no_locks(Path(file.name).parent)
        return False
    return True


@functools.cache
def _warn_of_no_locks(folder: Path) -> None:
    log.warning("the file system of `%s` has no locks: let one process alone write there", folder)


def is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is still the one of that name: who held its lock before may have moved or removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def one_line_of_disk(path: Path) -> Iterator[None]:
    """An operating-system error in the block as one line with a hint."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL_DISK:
            raise RunFailedError(
                f"the disk of `{path.parent}` is full: `{path.name}` was not written",
                "free some space and run the same command again: finished shards are kept",
            ) from error
        raise RunFailedError(
            f"`{path}` cannot be written: {error.strerror or error}", "name a folder that can be written"
        ) from error


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk: what is renamed survives a crash only then."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
