"""Files and folders are there whole whatever happens to their writers, and a place that cannot do is refused first."""

from __future__ import annotations

import ast
import errno
import itertools
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import diq
from conftest import TESTS
from diq.base.errors import RunFailedError, UsageError
from diq.base.files import (
    check_file,
    check_folder,
    is_empty,
    lock,
    recover_folder,
    remove_parts,
    restored_on_error,
    whole_file,
    whole_folder,
    write_text,
)

OLD = {"config": "old", "weights/a": "old", "weights/only-old": "old", "notes": "old"}
NEW = {"config": "new", "weights/a": "new", "only-new": "new"}


def fill(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    """Every file of a folder but what its writers have hidden."""
    names = [one.relative_to(folder) for one in folder.rglob("*") if one.is_file()]
    return {str(name): (folder / name).read_text() for name in names if not name.parts[0].startswith(".")}


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


# kills -----------------------------------------------------------------------------------------------------------

STEPS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "fcntl.flock"}


def killed(work: Callable[[], None], at: int) -> bool:
    """Do work in a process of its own that is killed before its step of that number; False where it has fewer."""
    child = os.fork()
    if child == 0:
        left = at

        def step(event: str, _arguments: Any) -> None:
            nonlocal left
            if event in STEPS:
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1

        # a kill loses nothing that was written, so nobody waits for the disk here
        os.fsync = lambda _: step("open", None)
        sys.addaudithook(step)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0
    return os.WIFSIGNALED(status)


def kill_file_writers(tmp: Path) -> None:
    """The old file, or none, or the new one; the next writer leaves nothing else."""
    path = tmp / "file.txt"
    for old in ("old", None):
        found = set()
        for at in itertools.count():
            shutil.rmtree(tmp)
            tmp.mkdir()
            if old:
                path.write_text(old)
            was_killed = killed(lambda: write_text(path, "new" * 10_000), at)
            text = path.read_text() if path.exists() else None
            found.add(text)
            if not was_killed:
                assert text == "new" * 10_000
                break
            write_text(path, "next")
            assert (path.read_text(), names(tmp)) == ("next", ["file.txt"])
        assert found == {old, "new" * 10_000}
        assert at > 5


def kill_folder_writers(tmp: Path) -> None:
    """The old folder, or none, or the new one, at the latest after the next call; never something of both."""
    place, twice = tmp / "place", 0

    def write() -> None:
        with whole_folder(place) as folder:
            fill(folder, NEW)

    for old in (OLD, {}, None):
        found = []
        for at in itertools.count():
            shutil.rmtree(tmp)
            tmp.mkdir()
            if old is not None:
                place.mkdir()
                fill(place, old)
            was_killed = killed(write, at)
            if place.exists():
                assert set(content(place).values()) in ({"old"}, {"new"}, set())
            for again in itertools.count():
                # recovering may be killed as well, and goes on where it was
                if not killed(lambda: recover_folder(place), again):
                    break
                twice += 1
            after = content(place) if place.exists() else None
            assert after in (old, NEW)
            found.append(after)
            if not was_killed:
                break
            write()
            assert content(place) == NEW
            assert (names(tmp), names(place)) == (["place"], ["config", "only-new", "weights"])
        assert found == sorted(found, key=lambda one: one == NEW)
        assert (found[0], found[-1]) == (old, NEW)
        assert at > 10
    assert twice > 10


@pytest.mark.parametrize("work", [kill_file_writers, kill_folder_writers])
def test_a_kill_at_any_step_leaves_the_old_or_the_new(tmp_path: Path, work: Any) -> None:
    # a process of its own forks safely: it has one thread
    code = f"import os; from pathlib import Path; from base.test_files import {work.__name__} as work\n"
    code += f"os.fsync = lambda _: None; work(Path({str(tmp_path)!r}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, [os.getenv("PYTHONPATH")])])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr


def test_what_is_there_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, order, fsync, replace = [], [], os.fsync, Path.replace

    def note(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        fsync(handle)

    def moved(part: Path, place: Path) -> Path:
        order.append(len(synced))
        return replace(part, place)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Path, "replace", moved)
    write_text(tmp_path / "a.txt", "a")
    assert synced == [(tmp_path / "a.txt").stat().st_ino, tmp_path.stat().st_ino]
    assert order == [1]
    synced.clear()
    order.clear()
    with whole_folder(tmp_path / "b") as folder:
        fill(folder, NEW)
    inside = [one.stat().st_ino for one in (tmp_path / "b").rglob("*")]
    assert set(synced) == {*inside, (tmp_path / "b").stat().st_ino, tmp_path.stat().st_ino}
    assert (order, synced[-1]) == ([len(inside) + 1], tmp_path.stat().st_ino)


# places ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [".", "./", "", "../here", "../here/", "../x/../here", "link", "new", "new/", "../x/new"]
)
@pytest.mark.parametrize("old", [{}, OLD])
def test_any_name_of_a_folder_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, old: dict[str, str]
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (tmp_path / "x").mkdir()
    is_here = "new" not in name
    if name == "link":
        (here / "link").symlink_to(tmp_path / "target")
        is_here = False
    elif is_here:
        fill(here, old)
    check_folder(Path(name))
    with whole_folder(Path(name)) as folder:
        fill(folder, NEW)
    assert content(Path(name)) == NEW
    if is_here:
        # the shell that stands in it sees the new one
        assert content(Path.cwd()) == NEW
        assert names(here) == ["config", "only-new", "weights"]
    assert Path("link").is_symlink() == (name == "link")


def test_a_folder_fails_as_a_whole(tmp_path: Path) -> None:
    fill(tmp_path / "out", OLD)
    for place in (tmp_path / "out", tmp_path / "new"):
        with pytest.raises(ZeroDivisionError), whole_folder(place) as folder:
            fill(folder, NEW)
            raise ZeroDivisionError
    assert content(tmp_path / "out") == OLD
    assert names(tmp_path) == ["out"]
    assert not [name for name in names(tmp_path / "out") if name.startswith(".")]


def test_a_second_writer_of_a_folder_waits(tmp_path: Path) -> None:
    place = tmp_path / "place"

    def second() -> None:
        with whole_folder(place) as folder:
            assert names(folder) == []
            fill(folder, NEW)

    for _ in range(2):
        # a new folder, then one that is there
        with whole_folder(place) as folder:
            fill(folder, OLD)
            thread = threading.Thread(target=second)
            thread.start()
            thread.join(0.2)
            assert thread.is_alive()
            assert content(folder) == OLD
        thread.join()
        assert content(place) == NEW
        assert names(tmp_path) == ["place"]


def test_a_link_stays_one_and_permissions_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real.csv", tmp_path / "link.csv"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_text(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    (tmp_path / "dangling.csv").symlink_to(tmp_path / "made.csv")
    write_text(tmp_path / "dangling.csv", "new")
    assert (tmp_path / "made.csv").read_text() == "new"
    assert names(tmp_path) == ["dangling.csv", "link.csv", "made.csv", "real.csv"]


def test_a_pipe_or_device_does_not_become_a_file(tmp_path: Path) -> None:
    check_file(Path("/dev/null"))
    write_text(Path("/dev/null"), "gone")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_file(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        with restored_on_error(pipe):
            write_text(pipe, "through")
        assert reader.communicate()[0] == "through"
    assert names(tmp_path) == ["pipe"]
    code = "from pathlib import Path; from diq.base.files import check_file, write_text; out = Path('/dev/stdout')\n"
    code += "check_file(out); write_text(out, 'out')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "out"
    with (tmp_path / "log").open("w") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True)
        assert (tmp_path / "log").read_text() == "out"
        assert os.path.samestat(os.fstat(log.fileno()), (tmp_path / "log").stat())


def test_a_file_once_at_most(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a", replace=False) as file:
        file.write(b"first")
    with pytest.raises(FileExistsError), whole_file(tmp_path / "a", replace=False) as file:
        pytest.fail("it is there")
    assert ((tmp_path / "a").read_bytes(), names(tmp_path)) == (b"first", ["a"])


def test_parts_of_others_stay(tmp_path: Path) -> None:
    for name in (".a.part", ".b.part"):
        (tmp_path / name).write_text("x")
    with whole_file(tmp_path / "ab"):
        remove_parts(tmp_path, re.compile(r"a|ab"))
        assert names(tmp_path) == [".ab.part", ".b.part"]


def test_what_killed_writers_left_counts_as_nothing(tmp_path: Path) -> None:
    assert is_empty(tmp_path / "none")
    (tmp_path / ".x.json.part").touch()
    (tmp_path / ".unfinished").mkdir()
    assert is_empty(tmp_path)
    (tmp_path / ".env").touch()
    assert not is_empty(tmp_path)
    assert not is_empty(tmp_path / ".env")


# a full disk -----------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_file(small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(64)
    write_text(disk / "a.txt", "old")
    for size in (100_000, 1000):
        # a large one fails while it is written, a small one when it is closed
        (disk / "ballast").write_bytes(bytes(4096 * (15 if size < 4096 else 1)))
        with pytest.raises(RunFailedError) as caught:
            write_text(disk / "a.txt", "x" * size)
        assert caught.value.message == f"the disk of `{disk}` is full: `a.txt` was not written"
        assert "free some space" in caught.value.hint
        assert ((disk / "a.txt").read_text(), names(disk)) == ("old", ["a.txt", "ballast"])


def test_a_full_disk_leaves_the_old_folder(small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    disk = small_disk(64)
    fill(disk / "out", OLD)
    monkeypatch.chdir(disk / "out")
    for place in (disk / "out", Path(), disk / "new"):
        with pytest.raises(RunFailedError) as caught, whole_folder(place) as folder:
            fill(folder, {**NEW, "large": "x" * 100_000})
        assert caught.value.message == f"the disk of `{disk}` is full: `{place.name or 'out'}` was not written"
    assert content(disk / "out") == OLD
    assert names(disk) == ["out"]
    assert not [name for name in names(disk / "out") if name.startswith(".")]


# a file and something else ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("old", ["old", None])
@pytest.mark.parametrize("comes", ["before", "after", "never"])
def test_a_failure_brings_the_file_of_before_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comes: str, old: str | None, links: bool
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    path = tmp_path / "a.txt"
    (tmp_path / ".a.txt.old").write_text("left by a kill")
    if old:
        path.write_text(old)
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    try:
        with restored_on_error(path):
            if comes == "before":
                raise ZeroDivisionError
            write_text(path, "new")
            assert path.read_text() == "new"
            if comes == "after":
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    wanted = "new" if comes == "never" else old
    assert (path.read_text() if path.exists() else None) == wanted
    assert names(tmp_path) == (["a.txt"] if wanted else [])


# refusals --------------------------------------------------------------------------------------------------------


def test_a_bad_file_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    (tmp_path / "folder").mkdir()
    for name in ("file", "s.duckdb", "s.duckdb.wal"):
        (tmp_path / name).write_text("x")
    (tmp_path / "link.csv").symlink_to(store)
    (tmp_path / "second.csv").hardlink_to(store)
    for name, message in (
        ("folder", f"the output `{tmp_path}/folder` is a folder"),
        ("folder/", "is a folder"),
        ("no/x.csv", f"there is no folder `{tmp_path}/no` for the output"),
        ("file/x.csv", "there is no folder"),
        ("x" * 252, "cannot be written: File name too long"),
        ("s.duckdb", f"the output `{tmp_path}/s.duckdb` is the store"),
        ("folder/../s.duckdb.wal", "is the store"),
        ("link.csv", "is the store"),
        ("second.csv", "is the store"),
    ):
        with pytest.raises(UsageError) as caught:
            check_file(tmp_path / name, store=store)
        assert message in caught.value.message
        assert caught.value.hint
    before = names(tmp_path)
    for name in ("file", "new.csv", "folder/../new.csv"):
        check_file(tmp_path / name, store=store)
    # also where the store, or its log, is not there yet
    with pytest.raises(UsageError, match="is the store"):
        check_file(tmp_path / "t.duckdb", store=tmp_path / "t.duckdb")
    assert names(tmp_path) == before


def test_a_bad_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, message in (
        ("file", f"the output `{tmp_path}/file` cannot be a folder: is a file"),
        ("file/a/b", f"the output `{tmp_path}/file/a/b` cannot be a folder: `{tmp_path}/file` is a file"),
        ("x" * 252, "cannot be written: File name too long"),
    ):
        with pytest.raises(UsageError) as caught:
            check_folder(tmp_path / name)
        assert message in caught.value.message
    check_folder(tmp_path / "a" / "b")
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs a place where nobody may write")
def test_a_place_where_nobody_may_write_is_refused() -> None:
    for check in (check_file, check_folder):
        with pytest.raises(UsageError, match=r"the output `/proc/diq-output` cannot be written"):
            check(Path("/proc/diq-output"))


# locks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_kill_lets_go_of_what_was_held(tmp_path: Path, kind: str) -> None:
    path, refusal = tmp_path / "held", UsageError("another process holds it")
    if kind == "folder":
        path.mkdir()
    code = "import sys, time; from pathlib import Path; from diq.base.files import lock\n"
    code += "with lock(Path(sys.argv[1]), None): print('held', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match="another process"), lock(path, refusal):
            pytest.fail("it is held")
        holder.kill()
    with lock(path, refusal):
        assert names(tmp_path) == ["held"]
    with pytest.raises(RunFailedError, match="cannot be written: No such file"), lock(tmp_path / "no" / "x", refusal):
        pytest.fail("it cannot be")


def test_one_owner() -> None:
    package, found = Path(diq.__file__).parent, {}
    for path in package.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        names = {one.attr for one in nodes if isinstance(one, ast.Attribute)}
        names |= {alias.name for one in nodes if isinstance(one, ast.Import | ast.ImportFrom) for alias in one.names}
        found[path.relative_to(package).as_posix()] = names & {"fcntl", "flock", "fsync", "rename", "mkstemp"}
    assert [path for path, names in found.items() if names] == ["base/files.py"]
