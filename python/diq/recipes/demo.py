"""The recipe ``demo`` on a laptop, offline, with what comes out of it told step by step.

Every step is announced by the command line that does the same; in a kept folder these command lines can be run again as
they were printed. Whatever comes out is reported: the demo knows no expected result.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diq.base.command import shell
from diq.base.errors import UsageError
from diq.base.files import check_folder, is_empty
from diq.base.options import verb
from diq.base.progress import NotedProgress
from diq.base.summary import Summary
from diq.base.text import amount, short
from diq.demo.make import MODEL, has_data
from diq.demo.options import Sizes
from diq.demo.world import NOTICE, TASKS
from diq.recipes.options import Narrator, RunDemoOptions
from diq.recipes.run import StepReport, load, run_recipe, title
from diq.recipes.state import LOCK, Record
from diq.recipes.text import Step
from diq.recipes.verbs import VERBS, command, look_up
from diq.reporting.report import report as write_report

RECIPE = "demo"
TRAINED = "0.1"
HELD_OUT = tuple(f"{task}-held-out" for task in TASKS)

# what takes longest and shows least on a model of this size, and the page, for which a demo without a folder has no
# place; `diq run demo` has them
_LEFT_OUT = ("benchmarks=[]", "preferences=[]", "reported=[]")
_QUADRANTS = {
    "Q1": "hard, helps the validation tasks",
    "Q2": "easy, helps",
    "Q3": "hard, does not help",
    "Q4": "easy, does not help",
}


class Silence:
    """A narrator that says nothing."""

    def say(self, text: str, /) -> None:
        """Nothing."""

    def command(self, text: str, /) -> None:
        """Nothing."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], /) -> None:
        """Nothing."""

    def working(self) -> AbstractContextManager[NotedProgress | None]:
        """No progress."""
        return contextlib.nullcontext()


@dataclass(slots=True, repr=False)
class DemoSummary(Summary):
    """What the demo found; what a step of an earlier demo found is in it as it was then.

    Attributes:
        folder: where everything is kept, or None.
        seed: of data, models, draws and trainings.
        sizes: see :class:`diq.demo.options.Sizes`.
        continued: whether the folder held an earlier demo.
        sources: counts of each ingested dataset: layout, rows, samples, duplicates, rejects.
        rejects: count of each reason.
        models: figures of the encoder and of the language model's training.
        classifier: what training the difficulty classifier did.
        difficulty: what scoring the difficulty did.
        influence: what scoring the influence did.
        selections: by name: strategy and ratio.
        first_rows: first rows of the selection that is trained on.
        query: the SQL query about noise.
        answer: its answer, a dict a row.
        trainings: ``diq`` and ``random``: what each training did.
        losses: of each validation set: ``base``, ``diq`` and ``random``, nats a token.
        lower: on how many validation sets ``diq`` and ``random`` have the lower loss.
        report: the page that shows all of it, or None where none was written.
        commands: every command line, in order.
        examples: more command lines for a kept folder.
        seconds: wall time of each step.
        skipped: steps that an earlier demo did.
        total_seconds: wall time of everything.
    """

    folder: str | None
    seed: int
    sizes: dict[str, Any]
    continued: bool
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    rejects: dict[str, int] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    classifier: dict[str, Any] = field(default_factory=dict)
    difficulty: dict[str, Any] = field(default_factory=dict)
    influence: dict[str, Any] = field(default_factory=dict)
    selections: dict[str, dict[str, Any]] = field(default_factory=dict)
    first_rows: list[dict[str, Any]] = field(default_factory=list)
    query: str = ""
    answer: list[dict[str, Any]] = field(default_factory=list)
    trainings: dict[str, dict[str, Any]] = field(default_factory=dict)
    losses: dict[str, dict[str, float]] = field(default_factory=dict)
    lower: dict[str, int] = field(default_factory=dict)
    report: str | None = None
    commands: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    total_seconds: float = 0.0


@verb(RunDemoOptions)
def run_demo(options: RunDemoOptions) -> DemoSummary:
    """Run the recipe ``demo`` without benchmarks and preferences, and tell what comes out; a seed gives one selection.

    Raises:
        UsageError: a folder that holds something else, a demo with another seed or other sizes, or one under way.
    """
    began = time.monotonic()
    narrator = options.narrator or Silence()
    sizes = options.sizes or default_sizes()
    settings = [f"seed={options.seed}", *(f"{name}={value}" for name, value in asdict(sizes).items()), *_LEFT_OUT]
    keep = None if options.keep is None else Path(options.keep)
    with _folder(keep) as folder:
        continued = keep is not None and _is_continued(keep, folder, sizes, options.seed)
        summary = DemoSummary(str(folder) if keep else None, options.seed, asdict(sizes), continued)
        narrator.say("Loading the model libraries ...")
        with _one_thread():
            # as they are called in the folder itself
            steps = load(RECIPE, settings=settings, output=".").steps
            for name in {step.verb for step in steps}:
                look_up(VERBS[name].stage)
            summary.seconds["loading libraries"] = time.monotonic() - began
            with contextlib.closing(_Story(folder, steps, narrator, summary)) as story:
                story.begin()
                run_recipe(RECIPE, set=settings, output=folder, listener=story, progress=story.progress)
                story.end()
                if keep is not None or options.open:
                    # what is shown must outlive the folder
                    story.write_report(folder if keep is not None else Path(tempfile.mkdtemp(prefix="diq-demo-")))
    if options.open and summary.report is not None:
        page = Path(summary.report).resolve().as_uri()
        if not webbrowser.open(page):
            narrator.say(f"There is no browser to open; the report is at {page}")
    summary.total_seconds = time.monotonic() - began
    return summary


class _Story:
    """Listens to the recipe's steps, and tells what each kind of step gave when its last one has ended."""

    def __init__(self, folder: Path, steps: Sequence[Step], narrator: Narrator, summary: DemoSummary) -> None:
        self.folder, self.steps, self.narrator, self.summary = folder, steps, narrator, summary
        self.group: list[StepReport] = []
        self._bar = contextlib.ExitStack()
        self._report: NotedProgress | None = None

    def begin(self) -> None:
        """Before the first step."""
        self.narrator.say(NOTICE)
        if self.summary.continued:
            self.narrator.say("There is an earlier demo: what it finished is not computed again.")
        self.narrator.command(f"cd {shell([str(self.folder)])}")

    def starts(self, report: StepReport, _n_steps: int, /) -> None:
        """Announce a step."""
        if self.group and self.group[0].verb != report.verb:
            self._tell()
        if report.verb == "sql" and self.summary.selections:
            self.narrator.say(
                "What became of the rows that are really broken? The truth is in the data, the scores never saw it."
            )
        if report.command:
            step = self._step(report)
            # the folder's store is the default there
            *words, _, _ = command(step.verb, step.options, Path())
            line = shell([word.removeprefix("./") for word in words])
            self.summary.commands.append(line)
            self.narrator.command(line)
        self._report = self._bar.enter_context(self.narrator.working())

    def progress(self, what: str, done: int, total: int, note: str = "", /) -> None:
        """The progress of the step."""
        if self._report:
            self._report(what, done, total, note)

    def ends(self, report: StepReport, /) -> None:
        """Keep what a step gave."""
        self.close()
        self.summary.seconds[self._name(report)] = report.seconds
        if report.was_done:
            self.summary.skipped.append(self._name(report))
        self.group.append(report)

    def close(self) -> None:
        """The step's progress is shown no longer."""
        self._bar.close()

    def end(self) -> None:
        """After the last step."""
        self._tell()
        if self.summary.folder:
            self.summary.examples = [
                "diq status",
                f"diq select pool --model {MODEL} --ratio 5% -o five.jsonl",
                f"diq select pool --model {MODEL} --ratio 0.1 --validation-set {TASKS[0]} -o safety.parquet",
                f"diq sql \"FROM diq_scores('pool', '{MODEL}') ORDER BY dot LIMIT 5\"",
                f"diq run {RECIPE} --set seed={self.summary.seed} --output {shell([str(self.folder)])} --dry-run",
            ]

    def write_report(self, place: Path) -> None:
        """The page on the selections that were trained on; where the extra for it is missing, that is said."""
        chosen = [name for name, one in self.summary.selections.items() if str(one["ratio"]) == TRAINED]
        output = place / "report.html"
        words = [word for name in chosen for word in ("--selection", name)]
        line = shell(["diq", "report", "pool", "--model", MODEL, *words])
        # elsewhere the command would write another file
        inside = self.summary.folder is not None
        if inside:
            self.narrator.command(line)
        try:
            made = write_report(
                "pool",
                model=MODEL,
                selection=chosen,
                output=output,
                store=self.folder / "diq.duckdb",
                progress=self.progress,
            )
        except UsageError as error:
            self.narrator.say(f"No report: {error.message} ({error.hint}).")
            return
        self.summary.report = made.output
        if inside:
            self.summary.commands.append(line)
        self.narrator.say(f"Wrote {made.output}: open it in a browser; it needs no network.")

    def _step(self, report: StepReport) -> Step:
        return self.steps[report.number - 1]

    def _name(self, report: StepReport) -> str:
        return title(self._step(report)).replace(" ./", " ")

    # what came out ---------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """What the steps of one verb in a row gave."""
        tell = {
            "demo data": self._made,
            "ingest": self._ingested,
            "difficulty train": self._classifier,
            "score difficulty": self._scored,
            "score influence": self._scored,
            "select": self._selected,
            "sql": self._answered,
            "train": self._trained,
        }[self.group[0].verb]
        tell(self.group)
        self.group = []

    def _made(self, steps: Sequence[StepReport]) -> None:
        self.summary.models = dict(steps[0].result["models"])
        sizes, llama = self.summary.sizes, self.summary.models[MODEL]
        self.narrator.say(
            f"Wrote {amount(sizes['samples'] + sizes['duplicates'] + sizes['broken'], 'training row')} (some wrong, "
            f"off-topic, cut off, repeated or broken) and {len(TASKS)} validation tasks to data/."
        )
        self.narrator.say(
            f"Trained {MODEL}: {llama['parameters']:,} parameters, {llama['tokens']:,} tokens, "
            f"loss {llama['first_loss']:.2f} -> {llama['last_loss']:.2f}."
        )

    def _ingested(self, steps: Sequence[StepReport]) -> None:
        names = ("layout", "n_rows", "n_samples", "n_duplicates", "n_rejects")
        for step in steps:
            (source,) = step.result["sources"]
            self.summary.sources[step.result["dataset"]] = {name: source[name] for name in names}
        self.narrator.table(
            "ingested",
            ("dataset", "layout found", "rows", "samples", "duplicates", "rejects"),
            [(name, *counts.values()) for name, counts in self.summary.sources.items()],
        )

    def _classifier(self, steps: Sequence[StepReport]) -> None:
        trained = self.summary.classifier = steps[0].result
        self.narrator.table(
            f"difficulty of {amount(sum(trained['splits']['test']['overall']), 'question')} kept from training",
            ("classifier", "dimension", "macro F1", "kappa", "absolute error"),
            [
                (one["name"], dimension, found["macro_f1"], found["kappa"], found["mean_absolute_error"])
                for one in trained["classifiers"]
                for dimension, found in one["metrics"].items()
            ],
        )

    def _scored(self, steps: Sequence[StepReport]) -> None:
        for step in steps:
            if step.verb == "score influence":
                self.summary.influence = step.result
            else:
                # that of the pool comes last
                self.summary.difficulty = step.result
            self.narrator.say(f"{self._name(step)}: {'done before' if step.was_done else step.told}.")

    def _selected(self, steps: Sequence[StepReport]) -> None:
        self.summary.selections = {step.result["name"]: step.result for step in steps}
        made = [step for step in steps if step.result["strategy"] == "diq"]
        percents = [_percent(step.result["ratio"]) for step in made]
        first = made[0].result
        self.narrator.table(
            f"quadrants (tau = {first['thresholds']['tau']:.4g}, median dot = {first['thresholds']['median']:.4g})",
            ("", "what it holds", "dataset", *(f"selected at {one}" for one in percents)),
            [
                (name, text, first["counts"]["dataset"][name], *(s.result["counts"]["selection"][name] for s in made))
                for name, text in _QUADRANTS.items()
            ],
        )
        if not all(step.was_done for step in made):
            times = ", ".join(f"{one}: {step.seconds:.2f} s" for one, step in zip(percents, made, strict=True))
            self.narrator.say(f"Scores are kept, so every selection is only a look-up ({times}).")
        with Path(self.summary.selections[f"diq-{TRAINED}"]["output"]).open(encoding="utf-8") as lines:
            for _, line in zip(range(5), lines, strict=False):
                row = json.loads(line)
                question, answer = row["messages"][-2]["content"], row["messages"][-1]["content"]
                kept = {name: row[name] for name in ("rank", "quadrant", "difficulty", "dot")}
                self.summary.first_rows.append({**kept, "question": question, "answer": answer})
        self.narrator.table(
            f"first rows of {_percent(TRAINED)}",
            ("rank", "quadrant", "difficulty", "dot", "question", "answer"),
            [
                (*list(row.values())[:4], short(row["question"], width=70), short(row["answer"], width=30))
                for row in self.summary.first_rows
            ],
        )

    def _answered(self, steps: Sequence[StepReport]) -> None:
        found = json.loads(Path(steps[0].result["output"]).read_text(encoding="utf-8"))
        rows = [tuple(row.values()) for row in found["rows"]]
        if not self.summary.selections:
            self.summary.rejects = dict(rows)
            self.narrator.table("why rows are no samples", found["columns"], rows)
            return
        self.summary.query, self.summary.answer = self._step(steps[0]).options["query"], found["rows"]
        self.narrator.table(f"kinds of noise; selected = in the {_percent(TRAINED)}", found["columns"], rows)

    def _trained(self, steps: Sequence[StepReport]) -> None:
        for step in steps:
            strategy = str(self._step(step).options["selection"]).partition("-")[0]
            self.summary.trainings[strategy] = step.result
            for name, losses in step.result["validation"].items():
                found = self.summary.losses.setdefault(name, {})
                found["base"], found[strategy] = losses["before"], losses["after"]
        pairs = [(one["diq"], one["random"]) for one in self.summary.losses.values()]
        self.summary.lower = {"diq": sum(a < b for a, b in pairs), "random": sum(b < a for a, b in pairs)}


def verdict(summary: DemoSummary) -> str:
    """Which of the two trainings came out better, in words, whichever it is: by sets and by the held-out mean."""
    n, diq, other = len(summary.losses), summary.lower["diq"], summary.lower["random"]
    base, mean, random_mean = (
        sum(summary.losses[name][which] for name in HELD_OUT) / len(HELD_OUT) for which in ("base", "diq", "random")
    )
    percent = _percent(TRAINED)
    if diq > other and mean < random_mean:
        text = f"The DIQ {percent} wins here"
    elif other > diq and random_mean < mean:
        text = f"The random {percent} wins here"
    else:
        text = "Neither wins clearly here"
    return (
        f"{text}: the lower loss on {diq} (DIQ) and {other} (random) of {amount(n, 'validation set')}; "
        f"mean over the held-out ones {base:.3f} before, {mean:.3f} (DIQ), {random_mean:.3f} (random). "
        "One seed and one small model show how it works, not how well."
    )


def _percent(ratio: str | float) -> str:
    return f"{float(ratio) * 100:g} %"


def default_sizes() -> Sizes:
    """What the recipe says."""
    variables: Mapping[str, Any] = load(RECIPE).variables
    return Sizes(**{name: variables[name] for name in asdict(Sizes())})


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """The work folder."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="diq-demo-") as made:
            yield Path(made).resolve()
    else:
        check_folder(keep)
        yield keep.resolve()


def _is_continued(keep: Path, folder: Path, sizes: Sizes, seed: int) -> bool:
    """Whether the folder holds an earlier demo, which is of the same seed and sizes."""
    if has_data(folder, sizes, seed) or Record(folder).recipe == RECIPE:
        return True
    if not is_empty(folder, but=(LOCK,)):
        other = min(one.name for one in folder.iterdir() if one.name != LOCK)
        raise UsageError(f"`{keep}` is not empty and holds no demo (but `{other}`)", "name a new or empty folder")
    return False


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for the models: a second one gains little at this size and loses much when the machine is busy.

    It also makes the numbers those of the seed, whatever the number of cores.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
