"""The built wheel, not the source tree: it holds SQL, prompts, recipes and tables, and works once installed."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "maturin", "build", "--release", "--quiet", "--out", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_everything_once(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert len(names) == len(set(names))
    for path in (ROOT / "python" / "diq").rglob("*"):
        if path.suffix in (".py", ".sql", ".md", ".pyi", ".typed", ".yaml", ".csv", ".html", ".css", ".js"):
            assert str(path.relative_to(ROOT / "python")) in names
    assert any(name.startswith("diq/_core") and name.endswith(".so") for name in names)
    assert any(name.endswith("LICENSE") for name in names)
    assert "-abi3-" in wheel.name
    assert not [name for name in names if not name.startswith(("diq/", "diq-"))]


@pytest.mark.slow
def test_the_installed_wheel_makes_and_queries_a_store(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "pool.jsonl").write_text('{"question": "why?", "answer": "because"}\n')
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "DIQ_STORE": "s.duckdb"}

    def diq(*arguments: str) -> str:
        # -S: without the development install; the libraries are named one by one
        code = "import diq, sys; assert 'site' in diq.__file__; from diq.cli import main; main(sys.argv[1:])"
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    diq("ingest", "pool.jsonl", "--dataset", "pool", "--quiet")
    assert "huatuo-llama31-8b" in diq("run", "--list")
    assert "Huatuo" in diq("results", "--published", "huatuo", "--format", "csv")
    assert diq("sql", "select answer from sample_texts", "--format", "csv") == "answer\nbecause\n"
