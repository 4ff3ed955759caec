"""What commands print: names and texts of the data steer no terminal, and any stdout is borne."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import run_forked, write_jsonl
from diq.base.text import visible
from diq.cli import main

Diq = Callable[..., "subprocess.CompletedProcess[str]"]
# sets the title, colours, a character of C1 that does what ESC [ does, and one that turns the direction
HOSTILE = "a\x1b]0;owned\x07\x1b[31m\x9b31m\u202eb"
STEERS = ("\x1b", "\x07", "\x9b", "\u202e")


@pytest.fixture
def diq(tmp_path: Path) -> Diq:
    """Runs ``diq`` in a folder of its own."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_forked(main, arguments, folder=tmp_path)

    return run


def in_shell(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """A line of a shell in which ``$D`` is diq."""
    given = {**os.environ, "D": f"{sys.executable} -m diq", **variables}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=given, capture_output=True, check=False)


def test_every_character_that_steers_is_shown_as_its_code() -> None:
    assert visible(HOSTILE) == r"a\x1b]0;owned\x07\x1b[31m\x9b31m\u202eb"
    assert visible("line\n\ttab é 中 \N{GRINNING FACE}") == "line\n\ttab é 中 \N{GRINNING FACE}"
    assert visible("\udcff") == r"\udcff"
    for code in range(0x110000):
        text = visible(chr(code))
        assert text.isprintable() or not chr(code).isprintable()


@pytest.mark.parametrize("name", ["a[/b]", "pool[v2]", "[bold]x[/bold]", HOSTILE])
def test_names_are_shown_as_they_are_and_steer_nothing(diq: Diq, tmp_path: Path, name: str) -> None:
    write_jsonl(tmp_path / "p.jsonl", [{"instruction": f"q{i}", "output": f"{HOSTILE} {i}"} for i in range(4)])
    said = [
        diq("ingest", "p.jsonl", "--dataset", name),
        diq("status"),
        diq("show", name),
        diq("select", name, "--strategy", "random", "--ratio", "0.5", "--name", f"one {name}"),
        diq("select", name, "--strategy", "length", "--ratio", "0.5"),
        diq("select", name, "--strategy", "random", "--ratio", "0.5", "--name", "two"),
        diq("compare", f"one {name}", "two"),
        diq("sql", "select name from datasets"),
        diq("sql", "select answer from sample_texts"),
        diq("select", name.upper() + "x", "--strategy", "random", "--ratio", "0.5"),
        diq("results"),
    ]
    for one in said:
        assert "Traceback" not in one.stderr, one.stderr
        assert not any(sign in one.stdout + one.stderr for sign in STEERS), one
    assert f"dataset `{visible(name)}`" in said[0].stdout.replace("\n", "")
    assert said[3].returncode == 0
    # data for machines is whole: JSON has its own way of writing these
    (row,) = json.loads(diq("sql", "select name from datasets", "--json").stdout)["rows"]
    assert row == {"name": name}


def test_a_file_whose_name_is_no_text(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/p\xff.jsonl"
    Path(os.fsdecode(path)).write_text('{"instruction": "q", "output": "a"}\n', encoding="utf-8")
    for source in ("p*.jsonl", "'p*.jsonl'", "."):
        done = in_shell(f"$D ingest {source} --dataset pool", tmp_path)
        assert done.returncode in (1, 2)
        assert done.stderr.startswith(b"Error: "), done.stderr
        assert rb"p\udcff.jsonl` is no text in UTF-8" in done.stderr
        assert not (tmp_path / "diq.duckdb").exists()


@pytest.mark.parametrize(
    "command",
    [
        "ingest {long}.jsonl --dataset pool",
        "ingest p.jsonl --dataset pool --store {long}",
        "status --store {long}",
        "train {long}.jsonl --model m --output o",
        "train p.jsonl --model m --output {long}",
        "select pool --strategy random --ratio 0.5 -o {long}.jsonl",
        "sql 'from datasets' -o {long}.csv",
        "report -o {long}.html",
        "run {long}.yaml",
        "score perplexity pool --model ./{long}",
    ],
)
def test_a_name_that_is_too_long_is_one_line(tmp_path: Path, command: str) -> None:
    write_jsonl(tmp_path / "p.jsonl", [{"instruction": f"q{i}", "output": "a"} for i in range(4)])
    run_forked(main, ["ingest", "p.jsonl", "--dataset", "pool"], folder=tmp_path)
    done = run_forked(main, shlex.split(command.format(long="x" * 300)), folder=tmp_path)
    assert done.returncode in (1, 2), done
    assert done.stderr.startswith(("Error: ", "Usage: ")), done.stderr
    assert "Traceback" not in done.stderr


def test_stdout_of_another_encoding(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "p.jsonl", [{"instruction": "é", "output": "中"}])
    done = in_shell(
        "$D ingest p.jsonl --dataset ünï && $D show ünï && $D sql 'select answer from sample_texts' --json",
        tmp_path,
        PYTHONIOENCODING="ascii",
    )
    assert done.returncode == 0, done.stderr
    text = json.loads(done.stdout[done.stdout.rindex(b'{"columns"') :])["rows"]
    assert "中" in text[0]["answer"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    "command", ["status", "status --json", "sql 'from datasets'", "sql 'from datasets' --format csv", "show pool"]
)
def test_a_full_stdout_is_one_line(tmp_path: Path, command: str) -> None:
    write_jsonl(tmp_path / "p.jsonl", [{"instruction": "q", "output": "a"}])
    done = in_shell(f"$D ingest p.jsonl --dataset pool -q > log && $D {command} > /dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[0] == (
        "Error: standard output cannot be written: No space left on device"
    ), done.stderr
