"""The rules of the house: what may import what, who opens a store, and what loads a model library.

Each rule is a function that lists where it is broken, over sources by path; beside the real tree it is given a small
one that breaks it, so that a rule which has stopped to bite is noticed.
"""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping

import pytest

from conftest import ROOT

PACKAGE = ROOT / "python" / "diq"

# from the ground up: a room imports itself and the rooms before it
ROOMS = (
    "_core",
    "base",
    "formats",
    "store",
    "models",
    "gradient_index",
    "samples",
    "encoders",
    "gradients",
    "judging",
    "scoring",
    "influence",
    "difficulty",
    "rater",
    "baselines",
    "selection",
    "training",
    "trials",
    "evaluation",
    "costs",
    "plot",
    "reporting",
    "explorer",
    "demo",
    "recipes",
    "__init__",
    "cli",
    "__main__",
)

# the files that may open a store or ask it, by room: the stages, and what they read it through
OPENS_A_STORE: dict[str, tuple[str, ...]] = {
    "store": ("store", "sql", "queries", "rows", "runs", "outputs", "backup"),
    "gradient_index": ("kept",),
    "samples": ("ingest", "sources", "batches", "validation", "ingest_scores", "find", "show"),
    "judging": ("ask", "judge"),
    "scoring": ("harness", "job"),
    "influence": ("score", "score_index", "job", "factors", "partial", "cascade", "stored", "check_index", "explain"),
    "difficulty": ("annotate", "train", "score", "score_classifier"),
    "rater": ("train", "score"),
    "baselines": ("text_scores", "score_rds"),
    "selection": (
        "select",
        "scores",
        "ranking",
        "partial",
        "balance",
        "exclusions",
        "outliers",
        "vectors",
        "walk",
        "output",
        "compare",
        "status",
        "turns",
    ),
    "training": ("train", "data"),
    "trials": ("trial", "work", "validate", "kept"),
    "evaluation": ("evaluate", "rescore", "generations", "results", "pass_rate"),
    "costs": ("cost", "lengths", "probe"),
    "plot": ("__init__", "data", "ground"),
    "reporting": ("check", "contents", "notebook"),
    "explorer": ("columns", "texts", "saving"),
    "recipes": ("run", "check", "state"),
}

# plain data that a record of options may read beside base and other records
LIGHT = frozenset({"diq.evaluation.benchmarks", "diq.models.memory"})

Sources = Mapping[str, str]
"""Text of each module, by its path below ``python/diq``."""


def tree() -> dict[str, str]:
    return {
        path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))
    }


def room(path: str) -> str:
    return path.partition("/")[0].removesuffix(".py")


def imports(path: str, text: str) -> Iterator[tuple[int, str, str]]:
    """Line, module and name (empty for ``import x``) of every import of a file, also inside functions."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno} is a relative import"
            yield from ((node.lineno, node.module or "", alias.name) for alias in node.names)


def top(module: str) -> str:
    return module.partition(".")[0]


def imports_up(sources: Sources) -> list[str]:
    """Imports of a room above one's own, or of one that is not in the list."""
    found = []
    for path, text in sources.items():
        own = room(path)
        if own not in ROOMS:
            found.append(f"{path}: the room `{own}` is not in ROOMS")
            continue
        for line, module, name in imports(path, text):
            parts = [*module.split("."), name]
            if parts[0] != "diq":
                continue
            # `import diq`, and the verbs by their names, are the package's own face
            other = parts[1] if parts[1] in ROOMS or len(module.split(".")) > 1 else "__init__"
            if other not in ROOMS or ROOMS.index(other) > ROOMS.index(own):
                found.append(f"{path}:{line} imports {module} {name}".rstrip())
    return found


def knows_click(sources: Sources) -> list[str]:
    """Files outside ``cli/`` that import click or rich; notebooks show the bar that commands show."""
    return [
        f"{path}:{line} imports {module}"
        for path, text in sources.items()
        if room(path) != "cli"
        for line, module, _ in imports(path, text)
        if top(module) in ("click", "rich") and (path, top(module)) != ("base/bar.py", "rich")
    ]


def opens_a_store(sources: Sources) -> list[str]:
    """Files that open a store, name a query or hold SQL, and are not listed; and listed files that do none of it."""
    found = []
    for path, text in sources.items():
        lines = [node.lineno for node in ast.walk(ast.parse(text)) if _touches_a_store(node)]
        listed = path.rpartition("/")[2].removesuffix(".py") in OPENS_A_STORE.get(room(path), ())
        if lines and not listed:
            found.append(f"{path}:{lines[0]} opens a store or holds SQL, and is not listed")
        if not lines and listed:
            found.append(f"{path} is listed, but opens no store and holds no SQL")
    return found


_QUERY = re.compile(rf"({'|'.join(ROOMS)})/[a-z_]+")
_SQL = re.compile(r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE|WITH)\s")


def _touches_a_store(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Store":
        return True
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return is_text and bool(_QUERY.fullmatch(node.value) or _SQL.match(node.value))  # type: ignore[attr-defined]


def options_load_torch(sources: Sources) -> list[str]:
    """``options.py`` files that import a model library, or anything of diq but base and other options."""
    heavy = ("torch", "transformers", "peft", "trl", "numpy", "pyarrow", "duckdb")
    found = []
    for path, text in sources.items():
        if not path.endswith("/options.py") or room(path) in ("base", "cli"):
            continue
        for line, module, _ in imports(path, text):
            light = module.startswith("diq.base") or module.endswith(".options") or module in LIGHT
            if top(module) in heavy or (top(module) == "diq" and not light):
                found.append(f"{path}:{line} imports {module}")
    return found


def private_names_that_cross(sources: Sources) -> list[str]:
    """Names with an underscore that a file takes from another."""
    return [
        f"{path}:{line} imports {module}.{name}"
        for path, text in sources.items()
        for line, module, name in imports(path, text)
        if top(module) == "diq" and name.startswith("_") and name != "_core"
    ]


def flat_modules(sources: Sources) -> list[str]:
    """Modules beside the rooms, and modules of a name that says nothing."""
    found = [path for path in sources if "/" not in path and path not in ("__init__.py", "__main__.py")]
    return found + [path for path in sources if re.search(r"(^|/)(utils?|helpers?|common|misc)(\.py|/)", path)]


# what there may be one of; of tokens, bytes and weights there are many
_NOUNS = (
    "samples|rows|texts|questions|answers|outputs|labels|layers|matrices|steps|runs|sources|places|checkpoints|examples"
    "|columns|figures|files|prompts|selections|datasets|sets|values|dots|problems|replies|conversations|shards|batches"
    "|rejects|fields"
)
_NAMED = rf"(?:(?:more|other|scored|selected|validation|chosen|factor|answer|ranked|training) )?(?:{_NOUNS})\b"
_COUNTED, _FORMATTED = re.compile(f" {_NAMED}"), re.compile(f"%[sd] {_NAMED}")


def counts_without_amount(sources: Sources) -> list[str]:
    """Numbers with a plural behind them, which one thing makes wrong: ``base.text.amount`` knows it."""
    found = []
    for path, text in sources.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.JoinedStr):
                pairs = itertools.pairwise(node.values)
                bad = any(_is_number(one) and _COUNTED.match(_text(other)) for one, other in pairs)
            else:
                bad = bool(_FORMATTED.search(_text(node)))
            if bad:
                found.append(f"{path}:{node.lineno} counts without `amount`")  # type: ignore[attr-defined]
    return found


def prints_by_itself(sources: Sources) -> list[str]:
    """Commands that print past `cli.console`, which keeps names and texts of the data from steering a terminal."""
    return [
        f"{path}:{node.lineno} prints by itself"
        for path, text in sources.items()
        if path.startswith("cli/") and path != "cli/console.py"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "click.echo", "click.secho")
    ]


def trusts_a_folder(sources: Sources) -> list[str]:
    """Loading that may run code of a folder: past `models/pretrained.py`, or a pickle of any classes."""
    # of libraries that ask nobody, and refuse only where they are told to
    told = {"SentenceTransformer": ("trust_remote_code", False), "torch.load": ("weights_only", True)}
    found = []
    for path, text in sources.items():
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call):
                continue
            called, said = ast.unparse(node.func), {one.arg: ast.unparse(one.value) for one in node.keywords}
            name, value = told.get(called, ("", None))
            bad = bool(name) and said.get(name) != str(value)
            # PEFT's takes tensors and plain data alone
            bad |= called.endswith(".from_pretrained") and path != PRETRAINED and called != "PeftModel.from_pretrained"
            bad |= called in ("pickle.load", "pickle.loads", "joblib.load") or said.get("trust_remote_code") == "True"
            if bad:
                found.append(f"{path}:{node.lineno} {called} may run code of a folder")
    return found


PRETRAINED = "models/pretrained.py"


def _text(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _is_number(node: ast.AST) -> bool:
    """What an f-string shows, but for constants, which are known not to be one, and what is measured, not counted."""
    if not isinstance(node, ast.FormattedValue) or "." in (ast.unparse(node.format_spec) if node.format_spec else ""):
        return False
    name = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
    return not name.isupper()


RULES: dict[Callable[[Sources], list[str]], dict[str, str]] = {
    imports_up: {
        "store/store.py": "from diq.selection.select import select",
        "models/network.py": "def load():\n    import diq.training.train",
        "attic/things.py": "",
        "base/text.py": "from diq import select",
    },
    knows_click: {
        "selection/select.py": "import click",
        "store/store.py": "def show():\n    from rich.table import Table",
    },
    opens_a_store: {
        "selection/quadrants.py": "with Store(path) as opened:\n    pass",
        "selection/guards.py": 'def f(opened):\n    opened.rows("selection/find_ranking")',
        "models/tokens.py": 'QUERY = "SELECT * FROM samples"',
        "selection/select.py": "x = 1",
    },
    options_load_torch: {
        "training/options.py": "import torch",
        "influence/options.py": "from diq.gradients.engine import Engine",
    },
    private_names_that_cross: {"training/train.py": "from diq.models.network import _packing"},
    flat_modules: {"annotate.py": "", "base/utils.py": ""},
    trusts_a_folder: {
        "models/network.py": "loader.from_pretrained(folder, trust_remote_code=False)",
        "encoders/embeddings.py": "SentenceTransformer(folder)",
        "encoders/network.py": "load_pretrained(loader, folder, trust_remote_code=True)",
        "gradients/adam_state.py": "torch.load(path)",
        "training/data.py": "import pickle\npickle.load(file)",
    },
    prints_by_itself: {"cli/select.py": "import click\nclick.echo(name)", "cli/sql.py": "print(name)"},
    counts_without_amount: {
        "plot/charts.py": 'f"{n:,} samples"',
        "selection/select.py": 'raise UsageError(f"found 0 of {data[n]} "\n    "scored samples")',
        "models/tokens.py": 'log.warning("%d of %d rows are left out", a, b)',
    },
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_holds(rule: Callable[[Sources], list[str]]) -> None:
    assert rule(tree()) == []


@pytest.mark.parametrize(("rule", "path"), [(rule, path) for rule, broken in RULES.items() for path in broken])
def test_rule_bites(rule: Callable[[Sources], list[str]], path: str) -> None:
    assert [one for one in rule({path: RULES[rule][path]}) if one.startswith(path)]


def test_every_listed_file_exists() -> None:
    assert {f"{room}/{name}.py" for room, names in OPENS_A_STORE.items() for name in names} <= tree().keys()


def test_rules_let_good_files_pass() -> None:
    good = {
        "selection/select.py": "import diq.store.store\nfrom diq.store.store import Store\n"
        'with Store(path) as opened:\n    opened.rows("selection/find_ranking")',
        "cli/select.py": "import click\nimport diq\nfrom diq.selection.options import SelectOptions",
        "training/options.py": "from diq.base.options import Option\nfrom diq.gradients.options import Method",
    }
    assert [one for rule in RULES for one in rule(good)] == []


def test_the_package_has_few_rooms() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    files = {path.name for path in PACKAGE.iterdir() if path.is_file() and path.suffix != ".so"}
    assert len(rooms) <= 25, sorted(rooms)
    assert files == {"__init__.py", "__main__.py", "_core.pyi", "py.typed"}


def test_tests_lie_in_the_rooms_of_the_code() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name[0] not in "._"}
    assert folders - rooms <= {"gpu", "data"}, folders - rooms


# what is loaded ----------------------------------------------------------------------------------------------------


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running some code."""
    text = f"{code}\nimport sys\nprint('\\n'.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n"))


IMPORT = "from importlib import import_module; from diq.cli import COMMANDS\n"
COMMANDS = IMPORT + "[import_module(f'diq.cli.{one}') for one in COMMANDS]"
OPTIONS = IMPORT + "\n".join(
    f"import_module('diq.{path[:-3].replace('/', '.')}')" for path in tree() if path.endswith("options.py")
)


@pytest.mark.parametrize(
    "code",
    [
        "import diq; diq.ingest; diq.select; diq.compare; diq.cost; diq.results; diq.run_recipe; diq.rank; diq.Store",
        COMMANDS,
        OPTIONS,
        "import diq.evaluation.published, diq.recipes.verbs as v; [v.parameters(one) for one in v.VERBS]",
    ],
    ids=["verbs", "commands", "options", "recipes"],
)
def test_light_parts_load_no_model_library(code: str) -> None:
    heavy = {"torch", "transformers", "peft", "trl", "datasets", "accelerate", "pandas", "openai", "scipy", "sklearn"}
    assert not loaded_after(code) & heavy


def test_import_diq_is_light() -> None:
    assert not loaded_after("import diq, diq.cli") & {"numpy", "duckdb", "pyarrow", "rich"}


# queries -----------------------------------------------------------------------------------------------------------


def test_every_query_lies_with_the_room_that_asks_it() -> None:
    asked: dict[str, set[str]] = {}
    for path, text in tree().items():
        for name in re.findall(rf'"((?:{"|".join(ROOMS)})/[a-z_]+)"', text):
            asked.setdefault(name, set()).add(room(path))
    queries = PACKAGE / "store" / "sql" / "queries"
    there = {path.relative_to(queries).with_suffix("").as_posix() for path in queries.rglob("*.sql")}
    assert there == asked.keys(), there ^ asked.keys()
    # what several rooms ask lies with the store
    wrong = {
        name: rooms
        for name, rooms in asked.items()
        if room(name) != (next(iter(rooms)) if len(rooms) == 1 else "store")
    }
    assert not wrong
