"""Imports point down, never up or sideways, and the light commands load no model library."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "python" / "diq"

# the layer of each module (a package counts as one); stages sit at 4, and 4.5 is what calls all of them
LAYERS: dict[str, float] = {
    "errors": 0,
    "records": 0,
    "config": 0,
    "answers": 1,
    "benchmarks": 1,
    "published": 1.2,
    "queries": 1,
    "_core": 1,
    "kernels": 1,
    "store": 2,
    "gradient_index": 2,
    "models": 2,
    "chat": 2,
    "optimizer_state": 2,
    "samples": 2,
    "formats": 2,
    "output_folder": 2.2,
    "gradients": 3,
    "influence": 3,
    "less": 3,
    "meters": 3,
    "difficulty": 3.2,
    "rater": 3.3,
    "guards": 3,
    "embeddings": 3,
    "encoders": 3,
    "fine_tuning": 3.2,
    "ordinal": 3,
    "train_classifier": 4,
    "train_rater": 4,
    "perplexity": 3.2,
    "projections": 3.2,
    "engine": 3.4,
    "workers": 3.6,
    "rubrics": 3,
    "arms": 3,
    "judge": 4,
    "quadrants": 3,
    "asking": 3.8,
    "ingest": 4,
    "annotate": 4,
    "score": 4,
    "explain": 4,
    "index": 4.2,
    "compare": 4,
    "select": 4,
    "train": 4,
    "cost": 3,
    "evaluate": 4,
    "results": 4,
    "probe": 4.2,
    "warm_up": 4.2,
    "demo_data": 3.5,
    "demo": 4.5,
    "recipe": 4.6,
    "cli": 5,
    "__main__": 6,
}
# modules of one layer that may know each other: each arrow is deliberate
SIDEWAYS = {
    ("records", "errors"),
    ("config", "errors"),
    ("models", "samples"),
    ("kernels", "_core"),
    ("influence", "meters"),
}


def modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Modules of diq that a file imports anywhere in it, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("diq.")}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            parts = node.module.split(".")
            if parts == ["diq"]:
                found |= {alias.name for alias in node.names}
            elif parts[0] == "diq":
                found.add(parts[1])
        elif isinstance(node, ast.ImportFrom) and node.level:
            pytest.fail(f"{path.name} uses a relative import")
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    here = place(path)
    assert here in LAYERS, f"give `{here}` a layer"
    for other in imported(path) - {here}:
        assert other in LAYERS, f"{path.name} imports unknown diq.{other}"
        downward = LAYERS[other] < LAYERS[here]
        assert downward or (here, other) in SIDEWAYS, f"{path.name} (layer {LAYERS[here]}) imports diq.{other}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_methods_hold_no_sql_and_no_click(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    } | {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    layer = LAYERS[place(path)]
    if layer < 5:
        assert "click" not in names
        assert "rich" not in names
    if layer == 3:
        assert "duckdb" not in names


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running some code."""
    text = f"{code}\nimport sys\nprint('\\n'.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n"))


@pytest.mark.parametrize(
    "code",
    [
        "import diq",
        "import diq; diq.ingest; diq.select; diq.rank; diq.Store",
        "from diq.cli import demo, difficulty, explain, ingest, judge, rater, score, select, sql, status, train",
        "from diq.cli import cost, evaluate, results, run; import diq.costs.cost, diq.evaluation.results, diq.recipes.run, diq.evaluation.published",
    ],
)
def test_light_parts_load_no_model_library(code: str) -> None:
    heavy = {"torch", "transformers", "peft", "trl", "datasets", "accelerate", "pandas", "openai", "scipy", "sklearn"}
    assert not loaded_after(code) & heavy


def test_import_diq_is_light() -> None:
    assert not loaded_after("import diq, diq.cli") & {"numpy", "duckdb", "pyarrow", "rich"}


def test_a_verb_stays_a_function_after_its_module_is_imported() -> None:
    code = "import diq.select, diq.ingest, diq; assert callable(diq.select) and callable(diq.ingest); diq.select"
    assert "diq" in loaded_after(code)


def test_every_sql_file_is_used() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    for path in (PACKAGE / "sql" / "queries").glob("*.sql"):
        assert f'"{path.stem}"' in source, f"no module names {path.name}"
