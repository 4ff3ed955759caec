"""Files and folders that appear whole or not at all, also after a kill or on a full disk, and locks on them.

Everything that DIQ leaves on a disk, except for the store itself, goes through here. A file or folder is written as a
part, synced, and takes its place by a rename; then the folder that holds it is synced. So at any moment there is the
old one or the new one under its name, and what a killed writer left is removed by the next one. A link is followed: the
file or folder that it leads to is replaced, not the link.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from diq.base.errors import DiqError, RunFailedError, UsageError
from diq.base.text import first_line, short

log = logging.getLogger(__name__)

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
# EBADF: NFS locks only what is open for writing, which a folder cannot be
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF)
_NO_SYNC_OF_FOLDERS = (errno.EINVAL, errno.EOPNOTSUPP)

# inside a folder that is filled anew: what is being written; whole, so that it counts; the rest of it, the old one gone
_PART, _NEW, _REST = ".unfinished", ".finished", ".moving"


# before the work ---------------------------------------------------------------------------------------------------


def check_file(path: Path, *, store: Path | None = None) -> None:
    """Refuse an output file that cannot be written, before any work is done.

    Args:
        path: a new file, or one that will be replaced.
        store: the store, which no output may replace, nor the log beside it.

    Raises:
        UsageError: it is a folder or the store, its folder does not exist, or nothing can be written there.
    """
    with _refused(path):
        if _is_special(path):
            return
        place = _real(path)
        if store is not None and _is_store(place, store):
            raise UsageError(f"the output `{path}` is the store", "name another file")
        if place.is_dir():
            raise UsageError(f"the output `{path}` is a folder", "name a file")
        if not place.parent.is_dir():
            raise UsageError(f"there is no folder `{path.parent}` for the output", "make it first, or name another")
        if place.exists() and not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        # a name may be too long for its part alone
        _part(place).exists()
        _try(place.parent)


def check_folder(path: Path) -> None:
    """Refuse an output folder that cannot be made or written to, before any work is done.

    Raises:
        UsageError: it, or what should hold it, is a file; or nothing can be written there.
    """
    with _refused(path):
        place = _real(path)
        _part(place).exists()
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            what = "is a file" if place == _real(path) else f"`{place}` is a file"
            raise UsageError(f"the output `{path}` cannot be a folder: {what}", "name a new folder")
        _try(place)


@contextlib.contextmanager
def _refused(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"the output `{path}` cannot be written: {error.strerror or error}", "name another place"
        ) from error


def _is_store(place: Path, store: Path) -> bool:
    own = [_real(store), _real(store.with_name(f"{store.name}.wal"))]
    # the first finds what does not exist yet, the second a hard link
    return place in own or any(one.exists() and place.exists() and place.samefile(one) for one in own)


def _try(folder: Path) -> None:
    # permissions, read-only disks and lists of access rights: only trying tells them all
    with tempfile.TemporaryFile(dir=folder):
        pass


# files -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def whole_file(path: Path, *, replace: bool = True) -> Iterator[IO[bytes]]:
    """A file that appears whole or not at all at the end of the block.

    The block writes to a hidden part beside it, whose path is the ``name`` of what it gets. The part is locked
    meanwhile: a second writer of the same file waits, and `remove_parts` sees that its writer lives. A pipe or a device
    is written to as it is: it holds nothing that could be lost, and must not become a file.

    Args:
        path: the file; one that is replaced keeps its permissions.
        replace: False: appear once at most.

    Raises:
        FileExistsError: the file is there already, and ``replace`` is False.
        RunFailedError: the disk is full or cannot be written; what was there before is there still.
    """
    place, taken = _real(path), False
    with disk_errors(path):
        if _is_special(path):
            with path.open("wb") as file:
                yield file
            return
        part = _part(place)
        with _locked(part, os.O_WRONLY | os.O_CREAT) as handle:
            try:
                taken = place.exists() and not replace
                if not taken:
                    # not before the lock was had: another writer's bytes may have been in it
                    os.ftruncate(handle, 0)
                    with contextlib.suppress(OSError):
                        os.fchmod(handle, stat.S_IMODE(place.stat().st_mode))
                    with open(part, "wb", opener=lambda *_: os.dup(handle)) as file:
                        yield file
                    publish(part, place)
            finally:
                # what has its name by now may be the next writer's
                if _is_at(handle, part):
                    part.unlink()
    if taken:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON in UTF-8, or one that is nested deeper than can be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("its lists and objects are nested too deeply") from error


def write_text(path: Path, text: str) -> None:
    """A text, in UTF-8, as a file that appears whole; see `whole_file`."""
    with whole_file(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def restored_on_error(path: Path) -> Iterator[None]:
    """Where the block fails after it has written a file, the one of before is there again, or none.

    For a file that belongs together with something else which can still fail after it.
    """
    if _is_special(path):
        yield
        return
    place = _real(path)
    old = place.with_name(f".{place.name}.old")
    with disk_errors(path):
        # of a writer that was killed in its block
        old.unlink(missing_ok=True)
        had = place.exists()
        try:
            if had:
                _keep(place, old)
            yield
        except BaseException:
            if not had:
                place.unlink(missing_ok=True)
            elif old.exists():
                # changes nothing where both name one file: the block did not come as far as replacing it
                old.replace(place)
            flush(place.parent)
            raise
        finally:
            old.unlink(missing_ok=True)


def _keep(path: Path, old: Path) -> None:
    """A second name for a file, or a copy where the file system has no second names."""
    try:
        old.hardlink_to(path)
    except OSError:
        whole_copy = old.with_name(f"{old.name}.part")
        shutil.copy2(path, whole_copy)
        whole_copy.replace(old)


def remove_parts(folder: Path, names: re.Pattern[str]) -> None:
    """Remove the parts that killed writers left in a folder; those of living ones are locked and stay.

    Args:
        folder: where to look.
        names: of the files whose parts may be removed.
    """
    for part in folder.glob(".*.part"):
        if not names.fullmatch(part.name[1:].removesuffix(".part")):
            continue
        # one that vanishes meanwhile, or may not be touched, is no reason to stop
        with contextlib.suppress(OSError), part.open("r+b") as file:
            if _flock(file.fileno(), part, wait=False) and _is_at(file.fileno(), part):
                part.unlink()
                log.info("removed `%s`, which a killed writer left", part)


# folders -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder that appears whole, in place of all that was in it before, at the end of the block.

    The block writes into an empty folder that it gets. For a new folder that one lies beside it and is renamed. One
    that is there is filled from inside, see `publish`: it may be the current folder, a mount point, or in a folder that
    cannot be written.

    Raises:
        RunFailedError: the disk is full or cannot be written; what was there before is there still.
    """
    place = _real(path)
    with disk_errors(path):
        recover_folder(place)
        part = place / _PART if place.exists() else _part(place)
        with _locked(part, os.O_DIRECTORY, make=True) as handle:
            try:
                for one in part.iterdir():
                    _remove(one)
                yield part
                publish(part, place)
            finally:
                # what has its name by now may be the next writer's
                if _is_at(handle, part):
                    shutil.rmtree(part, ignore_errors=True)


def publish(part: Path, place: Path) -> None:
    """Move a finished file or folder to its place on the same disk, durably: the old one is there until the new one is.

    A file, or a folder without a predecessor, takes its place by one rename. No call of every system does that with a
    folder that is not empty, and where two folders can be exchanged, a shell in the old one is left nowhere and a mount
    point cannot be moved. So the new folder moves into the old one, which is the moment from which it counts; then all
    that is old is removed, then the new moves up. At no moment are old and new files mixed, and what a kill interrupts
    the next `recover_folder` brings to its end.
    """
    for one in [*part.rglob("*"), part] if part.is_dir() else [part]:
        flush(one)
    if part.is_dir() and place.is_dir():
        recover_folder(place)
        part.replace(place / _NEW)
        flush(place)
        _move_up(place)
    else:
        part.replace(place)
        flush(place.parent)


def recover_folder(place: Path) -> None:
    """Bring to its end what a killed `publish` began in a folder; nothing where there is nothing to do."""
    for name in (_NEW, _REST):
        with contextlib.ExitStack() as stack:
            try:
                # a living writer holds what it has written
                stack.enter_context(_locked(place / name, os.O_DIRECTORY))
            except (FileNotFoundError, NotADirectoryError):
                continue
            _move_up(place)


def _move_up(place: Path) -> None:
    new, rest = place / _NEW, place / _REST
    if new.exists():
        for one in place.iterdir():
            # the next writer may be at work already
            if one.name not in (_PART, _NEW):
                _remove(one)
        flush(place)
        new.replace(rest)
    for one in rest.iterdir():
        one.replace(place / one.name)
    rest.rmdir()
    flush(place)


def is_empty(folder: Path, *, but: Collection[str] = ()) -> bool:
    """Whether there is no such folder, or nothing in it but what killed writers left and files of some names."""
    if not folder.is_dir():
        return not folder.exists()
    names = {one.name for one in folder.iterdir()}.difference(but)
    return all(name == _PART or re.fullmatch(r"\..+\.part", name) for name in names)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# locks -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def lock(path: Path, refusal: DiqError) -> Iterator[None]:
    """A file (made when missing) or folder held by this process alone; a kill lets go of it.

    Where the file system has no locks, the log says so and the block runs.

    Args:
        path: what is held.
        refusal: what to say where another process holds it.

    Raises:
        RunFailedError: the file cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        with disk_errors(path):
            flags = os.O_DIRECTORY if path.is_dir() else os.O_RDWR | os.O_CREAT
            try:
                stack.enter_context(_locked(path, flags, wait=False))
            except BlockingIOError:
                raise refusal from None
        yield


@contextlib.contextmanager
def one_at_a_time(path: Path, refusal: DiqError) -> Iterator[None]:
    """The right to do something, which one process has at a time; a kill gives it back.

    Args:
        path: a file that is there while the right is held, see `right_beside`.
        refusal: what to say where another process has it.
    """
    with lock(path, refusal):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def right_beside(file: Path, what: str) -> Path:
    """The file that stands for the right to do something that has a name, such as a run, with another file."""
    place = _real(file)
    return place.with_name(f".{place.name}.{what}.lock")


@contextlib.contextmanager
def _locked(path: Path, flags: int, *, make: bool = False, wait: bool = True) -> Iterator[int]:
    """The handle of a file or folder of that name, locked until the block ends.

    Args:
        path: its name.
        flags: how it is opened.
        make: make the folder when it is missing.
        wait: for another process that holds it.

    Raises:
        BlockingIOError: another process holds it, and ``wait`` is False.
    """
    while True:
        if make:
            path.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, flags, 0o666)
        except FileNotFoundError:
            if not make:
                raise
            # another writer has just moved it to its place
            continue
        try:
            _flock(handle, path, wait=wait)
            if _is_at(handle, path):
                yield handle
                return
        finally:
            os.close(handle)


def _flock(handle: int, path: Path, *, wait: bool) -> bool:
    """Lock what is open until it is closed; False where the file system has no locks."""
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            log.info("waiting for another process that holds `%s`", path)
            fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _warn_of_no_locks(path.parent)
        return False
    return True


@functools.cache
def _warn_of_no_locks(folder: Path) -> None:
    log.warning("the file system of `%s` has no locks: let one process alone write there", folder)


def _is_at(handle: int, path: Path) -> bool:
    """Whether what is open is still what has that name: who held its lock before may have moved or removed it."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


# the disk ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """An error of the operating system in the block as `unwritable` words it."""
    try:
        yield
    except OSError as error:
        # no matters of the disk: who reads a pipe has seen enough, memory is short
        if error.errno in (errno.EPIPE, errno.ENOMEM):
            raise
        raise unwritable(path, error) from error


def unwritable(path: Path, error: Exception) -> RunFailedError:
    """The error of writing a file or folder as one line with a hint, whatever type a library gave it."""
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL_DISK or os.strerror(errno.ENOSPC) in str(error):
        place = path if path.name else _real(path)
        return RunFailedError(
            f"the disk of `{place.parent}` is full: `{place.name}` was not written",
            "free some space and run the same command again: what was finished is kept",
        )
    reason = os.strerror(number) if number else short(first_line(error), width=120)
    return RunFailedError(
        f"`{path}` cannot be written: {reason}", "name a place that can be written; what was finished is kept"
    )


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk: what is renamed survives a crash only then."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # some network file systems keep names without being asked, and refuse to be asked
        if error.errno not in _NO_SYNC_OF_FOLDERS or not path.is_dir():
            raise
    finally:
        os.close(handle)


# names -------------------------------------------------------------------------------------------------------------


def _real(path: Path) -> Path:
    """Without links, ``..`` and ``.``, so that it has a name and a folder that holds it."""
    return Path(os.path.realpath(path))


def _part(place: Path) -> Path:
    return place.with_name(f".{place.name}.part")


def _is_special(path: Path) -> bool:
    """Whether there is a pipe or a device, or a name of what this process has open, such as ``/dev/stdout``."""
    if not path.exists() or path.is_dir():
        return False
    # who redirected his output into a file goes on writing to that one, not to another of its name
    return not path.is_file() or str(path.absolute()).startswith(("/dev/std", "/dev/fd/", "/proc/"))
