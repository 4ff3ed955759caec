"""Running a recipe: which steps are done, what the others cost, and one stage after the other."""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from diq.base.command import shell
from diq.base.errors import DiqError, InputError, RunFailedError, UsageError, as_keywords
from diq.base.files import check_folder, disk_errors
from diq.base.fingerprint import fingerprint_of, run_fingerprint
from diq.base.options import verb
from diq.base.progress import NotedProgress
from diq.base.summary import Summary
from diq.base.text import amount, did_you_mean, short, without_secrets
from diq.models.memory import release
from diq.recipes import text as reading
from diq.recipes.check import check_steps, writes
from diq.recipes.options import Listener, RunRecipeOptions
from diq.recipes.state import Record, evidence, fingerprints, held
from diq.recipes.text import Recipe, Step
from diq.recipes.verbs import VERBS, command, keywords, look_up, parameters
from diq.store.connection import WAIT_S
from diq.store.store import Store, now

log = logging.getLogger(__name__)

_STORE = "diq.duckdb"

DONE, TO_DO, RUNNING, FAILED = "done", "to do", "running", "failed"

# what is told of a result, by verb: keys of the stage's summary, in words
_TOLD: dict[str, tuple[tuple[str, str], ...]] = {
    "ingest": (("n_samples", "samples"), ("n_duplicates", "duplicates"), ("n_rejects", "rejects")),
    "select": (("n", "samples"),),
    "train": (("n_samples", "samples"), ("steps", "steps"), ("loss_last", "loss at the end")),
    "evaluate": (("n_generated", "answers now"), ("n_kept", "in the store before")),
    "benchmark questions": (("n", "questions"),),
    "report": (("size_bytes", "bytes"),),
    "validate": (("n_trainings", "trainings"), ("n_new", "of them now"), ("n_left", "left")),
    "difficulty train": (("n_questions", "questions"),),
    "rater train": (("n_samples", "samples"),),
    "difficulty annotate": (("n_annotated", "samples rated"), ("n_no_score", "without a rating")),
}
# a query is no subject, and the recipe's own folder is none
_NO_SUBJECT = ("sql", "demo data")
_TOLD_OF_SCORES = (("n_scored", "scored now"), ("n_cached", "in the store before"), ("n_no_score", "without a score"))


@dataclass(slots=True)
class StepReport:
    """A step of a run.

    Attributes:
        number: 1-based.
        verb: such as ``score influence``.
        command: command line that does the same; empty where there is none.
        title: what it does, in short.
        state: ``done`` (its results were there, or it finished now), ``to do``, ``running`` or ``failed``.
        was_done: whether its results were there before.
        seconds: it took now.
        cost: estimate of what it costs, in words; empty where there is none.
        told: what came out, in words.
        result: the stage's summary; of a step that was done before, what it was then.
    """

    number: int
    verb: str
    command: str
    title: str
    state: str
    was_done: bool = False
    seconds: float = 0.0
    cost: str = ""
    told: str = ""
    result: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, repr=False)
class RecipeSummary(Summary):
    """What a recipe did, or with ``dry_run`` would do.

    Attributes:
        recipe: its name.
        about: its one line.
        output: folder that it works in.
        store: the store file.
        dry_run: whether nothing was run.
        variables: their values.
        steps: in order.
        run_id: number in the store; None where nothing was run.
        cost: estimate of what all steps that are to do cost, in words; empty where there is none.
        seconds: wall time.
    """

    recipe: str
    about: str
    output: str
    store: str
    dry_run: bool
    variables: dict[str, Any]
    steps: list[StepReport]
    run_id: int | None = None
    cost: str = ""
    seconds: float = 0.0


class _Nobody:
    def starts(self, step: StepReport, n_steps: int, /) -> None:
        """Nothing."""

    def ends(self, step: StepReport, /) -> None:
        """Nothing."""


# recipes -----------------------------------------------------------------------------------------------------------


def shipped() -> dict[str, str]:
    """Name and text of every recipe that comes with DIQ."""
    folder = importlib.resources.files("diq") / "recipes"
    files = sorted((one for one in folder.iterdir() if one.name.endswith(".yaml")), key=lambda one: one.name)
    return {one.name.removesuffix(".yaml"): one.read_text(encoding="utf-8") for one in files}


def text_of(recipe: str | os.PathLike[str]) -> tuple[str, str, str]:
    """Text of a recipe, what it is called in messages, and its name.

    Args:
        recipe: file, or the name of one that comes with DIQ.

    Raises:
        UsageError: there is neither.
        InputError: the file cannot be read.
    """
    path = Path(recipe)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), f"`{path}`", path.stem
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the recipe `{path}` cannot be read: {short(error)}", "save it as UTF-8 text") from error
    known = shipped()
    name = str(recipe)
    if name in known:
        return known[name], f"`{name}`", name
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise UsageError(f"there is no recipe file `{recipe}`", "give a file, or a name that `diq run --list` shows")
    raise UsageError(f"there is no recipe `{recipe}`", f"give a file, or a shipped recipe; {did_you_mean(name, known)}")


def load(
    recipe: str | os.PathLike[str], *, settings: Sequence[str] = (), output: str | os.PathLike[str] | None = None
) -> Recipe:
    """Read a recipe; its problems so far are in it.

    Raises:
        UsageError: there is no such recipe.
        InputError: it is no YAML mapping.
    """
    text, source, name = text_of(recipe)
    return reading.read(text, source=source, name=name, settings=settings, output=output)


# the run -----------------------------------------------------------------------------------------------------------


@verb(RunRecipeOptions)
def run_recipe(options: RunRecipeOptions) -> RecipeSummary:
    """Run a recipe: all that is not done yet, in order. The same call again goes on where it stopped.

    Raises:
        UsageError: there is no such recipe, or another one runs in the folder.
        InputError: the recipe is wrong; every problem is told, and nothing was run.
        RunFailedError: a step failed; what was finished is kept.
    """
    began = time.monotonic()
    read = load(options.recipe, settings=options.set, output=options.output)
    check_folder(read.output)
    file = Path(options.store) if options.store is not None else read.output / _STORE
    with _reading(file) as opened:
        check_steps(read, opened)
        read.problems.check()
        marks = fingerprints(read)
        reports = _plan(read, marks, file, opened)
    summary = RecipeSummary(
        read.name, read.about, str(read.output), str(file), options.dry_run, _shown(read.variables), reports
    )
    if options.dry_run:
        summary.cost = _tell_costs(read, file, reports)
    else:
        with held(read.output):
            summary.run_id = _Run(read, marks, file, reports, options.listener or _Nobody(), options.progress).all()
    summary.seconds = time.monotonic() - began
    return summary


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[Store | None]:
    """The store for reading, where there is one; None otherwise."""
    if not file.exists():
        yield None
        return
    with Store(file, read_only=True, wait_s=WAIT_S) as opened:
        yield opened


def _plan(recipe: Recipe, marks: Sequence[str], file: Path, store: Store | None) -> list[StepReport]:
    record = Record(recipe.output)
    reports = []
    for step, mark in zip(recipe.steps, marks, strict=True):
        done = record.is_done(step, mark, store)
        words = [without_secrets(one) for one in command(step.verb, step.options, file)]
        reports.append(StepReport(step.number, step.verb, shell(words), title(step), DONE if done else TO_DO, done))
    return reports


def _tell_costs(recipe: Recipe, file: Path, reports: Sequence[StepReport]) -> str:
    """Estimates beside the steps that are to do; returns their sum in words."""
    # reads the files that are to be ingested, which only a plan waits for
    from diq.recipes.costs import estimates

    total, unknown = 0.0, 0
    for report, flops in zip(reports, estimates(recipe, file), strict=True):
        if report.state == DONE:
            continue
        if flops is None:
            unknown += 1
            report.cost = "cost not known"
        elif flops:
            total += flops
            report.cost = f"{flops:.2e} FLOPs"
    if not total:
        return ""
    left_out = f", without {amount(unknown, 'step')} whose cost is not known" if unknown else ""
    return f"{total:.2e} FLOPs{left_out}; `diq cost --probe 60s` tells hours"


def title(step: Step) -> str:
    """What a step does, in short: the verb and what it is about."""
    options = step.options
    named = [key for key, one in parameters(step.verb).items() if one.option.positional]
    subject = options.get(named[0]) if named and step.verb not in _NO_SUBJECT else None
    shown = [*(subject if isinstance(subject, list) else [subject])] if subject is not None else []
    about = {
        "ingest": f"into {options.get('dataset')}",
        "select": f"{options.get('strategy', 'diq')} {options.get('ratio')}",
        "train": f"to {options.get('output')}",
        "evaluate": f"{options.get('model')} {options.get('adapter') or ''}".strip(),
        "results": f"to {options.get('output')}",
        "report": f"to {options.get('output')}",
        "sql": f"to {options.get('output')}",
    }.get(step.verb, "")
    return short(without_secrets(" ".join([step.verb, *map(str, shown), about]).strip()), width=100)


def _shown(value: Any) -> Any:
    """A value of the recipe as it is shown and kept: with the address of a server, but without a password in it."""
    if isinstance(value, dict):
        return {key: _shown(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_shown(one) for one in value]
    return without_secrets(value) if isinstance(value, str) else value


class _Run:
    """One run of a recipe's steps."""

    def __init__(
        self,
        recipe: Recipe,
        marks: Sequence[str],
        file: Path,
        reports: Sequence[StepReport],
        listener: Listener,
        progress: NotedProgress | None,
    ) -> None:
        self.recipe, self.marks, self.file, self.reports = recipe, marks, file, reports
        self.listener, self.progress = listener, progress
        self.record = Record(recipe.output)
        self.run_id: int | None = None

    def all(self) -> int | None:
        """Every step in order; returns the run's number in the store."""
        ran = False
        for step, mark, report in zip(self.recipe.steps, self.marks, self.reports, strict=True):
            self.listener.starts(report, len(self.reports))
            done = report.state == DONE
            if ran or not done:
                # once more: a step before this one may have changed what it reads, as a grown dataset does, and another
                # run may have done it meanwhile
                with _reading(self.file) as opened:
                    done = self.record.is_done(step, mark, opened)
            if done:
                entry = self.record.steps[mark]
                report.state, report.was_done = DONE, True
                report.told, report.result = entry.get("told", ""), entry.get("result", {})
            else:
                self._step(step, mark, report)
                ran = True
            self.listener.ends(report)
        self._tell_store()
        return self.run_id

    def _step(self, step: Step, mark: str, report: StepReport) -> None:
        report.state, report.was_done = RUNNING, False
        self._note(mark, report, None)
        began = time.monotonic()
        try:
            result = self._call(step)
        except DiqError as error:
            self._failed(mark, report, error.message)
            raise RunFailedError(
                as_keywords(f"step {step.number} of {len(self.reports)} ({report.title}): {error.message}"),
                as_keywords(f"{error.hint}; then the same command goes on".removeprefix("; ")),
            ) from error
        except KeyboardInterrupt:
            self._failed(mark, report, "stopped")
            log.warning("stopped in step %d of %d (%s)", step.number, len(self.reports), report.title)
            raise
        except Exception as error:
            self._failed(mark, report, short(error, width=300))
            log.error("step %d of %d (%s) failed", step.number, len(self.reports), report.title)
            raise
        finally:
            if _loads_a_model(step):
                # the next stage loads models of its own
                release()
        report.seconds = time.monotonic() - began
        report.result, report.told, report.state = result, _words(step.verb, result), DONE
        number = result.get("run_id")
        run_id = number if isinstance(number, int) else None
        with _reading(self.file) as opened:
            self._note(mark, report, evidence(step, run_id, opened), run_id)
        self._tell_store()

    def _call(self, step: Step) -> dict[str, Any]:
        """Call the step's stage."""
        for kind, name in writes(step):
            if kind == "path":
                # stages make the last folder of an output at most
                _make_folder(Path(name).parent)
        stage = look_up(VERBS[step.verb].stage)
        return _dict(stage(**keywords(step.verb, step.options, store=self.file, progress=self.progress)))

    # what is recorded ------------------------------------------------------------------------------------------------

    def _failed(self, mark: str, report: StepReport, reason: str) -> None:
        report.state, report.told = FAILED, reason
        self._note(mark, report, None)
        self._tell_store()

    def _note(self, mark: str, report: StepReport, found: Mapping[str, Any] | None, run_id: int | None = None) -> None:
        entry = {
            "step": report.number,
            "title": report.title,
            "command": report.command,
            "state": report.state,
            "at": now().isoformat(timespec="seconds"),
            "seconds": round(report.seconds, 3),
            "told": report.told,
            "run_id": run_id,
            "evidence": found,
            "result": report.result,
        }
        # as it will be read: tuples are lists in JSON
        self.record.steps[mark] = json.loads(json.dumps(entry, default=str))
        self.record.write(
            {
                "recipe": self.recipe.name,
                "file": self.recipe.source.strip("`"),
                "file_hash": fingerprint_of(self.recipe.text),
                "variables": _shown(self.recipe.variables),
                "store": str(self.file),
                "order": list(self.marks),
            }
        )

    def _tell_store(self) -> None:
        """The run and the states of its steps, in the table of runs."""
        if not self.file.exists():
            return
        settings = {
            "file_hash": fingerprint_of(self.recipe.text),
            "variables": json.loads(json.dumps(_shown(self.recipe.variables), default=str)),
            "steps": [report.command or report.title for report in self.reports],
        }
        result = {"steps": [{"title": one.title, "state": one.state, "told": one.told} for one in self.reports]}
        with Store(self.file, wait_s=WAIT_S) as opened, opened.transaction():
            self.run_id = opened.open_run(
                kind="recipe",
                method=self.recipe.name,
                model_id=None,
                fingerprint=run_fingerprint("recipe", self.recipe.name, None, settings),
                settings=settings,
                environment={"python": platform.python_version(), "diq": metadata.version("diq")},
            )
            opened.run("store/update_run_result", run_id=self.run_id, result=json.dumps(result))


def _loads_a_model(step: Step) -> bool:
    return any(one.option.reads == "model" and step.options.get(key) for key, one in parameters(step.verb).items())


def _make_folder(folder: Path) -> None:
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _dict(result: Any) -> dict[str, Any]:
    if hasattr(result, "to_dict"):
        return dict(result.to_dict())
    return asdict(result) if is_dataclass(result) and not isinstance(result, type) else {}


def _words(verb: str, result: Mapping[str, Any]) -> str:
    told = _TOLD.get(verb, _TOLD_OF_SCORES if verb.startswith("score ") else ())
    parts = []
    for key, words in told:
        value = result.get(key)
        if isinstance(value, float):
            parts.append(f"{words} {value:.4g}")
        elif value is not None:
            parts.append(f"{value:,} {words}")
    return ", ".join(parts)
