"""The whole pipeline on a laptop, offline: invented data, two small models, and the same functions as the commands.

Every step is a call of a stage, announced by the command line that does the same; in a kept folder these command lines
can be run again as they were printed. Whatever comes out is reported: the demo knows no expected result.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from diq.base.errors import UsageError
from diq.base.files import check_folder, is_empty, lock, write_text

try:
    import torch
except ModuleNotFoundError as error:
    raise UsageError(f"the demo needs the package `{error.name}`", "run `pip install 'diq[train]'`") from error

from diq.base.config import DIFFICULTY_DIMENSIONS
from diq.base.progress import Progress
from diq.base.text import short
from diq.demo import data
from diq.demo.models import make_encoder, make_language_model
from diq.demo.options import Sizes
from diq.demo.world import NOTICE, TASKS
from diq.difficulty.score import score_difficulty
from diq.difficulty.train import train_difficulty as train_classifier
from diq.influence.score import score_influence
from diq.models.device import quiet_libraries
from diq.samples.ingest import ingest
from diq.selection.select import select
from diq.store.store import Store
from diq.training.train import train

DATASET = "demo"
MODEL = "demo-llama"
ENCODER = "demo-encoder"
CLASSIFIER = "demo-difficulty"
GRADED = "graded"
RATIOS = ("0.01", "0.1", "0.5")
TRAIN_RATIO = "0.1"
HELD_OUT = tuple(f"{task}-held-out" for task in TASKS)

_FORMAT = "diq demo 2"
_MARKER = "demo.json"
_STORE = "diq.duckdb"
_LEARNING_RATE = 2e-3
_QUADRANTS = {
    "Q1": "hard, helps the validation tasks",
    "Q2": "easy, helps",
    "Q3": "hard, does not help",
    "Q4": "easy, does not help",
}

# what was really wrong with each row stands in the training file; no score ever saw it
QUERY = f"""
SELECT
    d.attributes ->> 'noise' AS noise,
    count(*) AS samples,
    count(*) FILTER (r.quadrant = 'Q1') AS q1,
    count(*) FILTER (r.quadrant = 'Q2') AS q2,
    count(*) FILTER (r.quadrant = 'Q3') AS q3,
    count(*) FILTER (r.quadrant = 'Q4') AS q4,
    count(s.rank) AS selected,
    avg(r.dot) AS mean_dot
FROM diq_ranking('{DATASET}', '{MODEL}') AS r
JOIN dataset_samples AS d USING (sample_id, position)
JOIN datasets ON datasets.dataset_id = d.dataset_id AND datasets.name = '{DATASET}'
LEFT JOIN diq_select('{DATASET}', '{MODEL}', {TRAIN_RATIO}) AS s USING (position)
GROUP BY ALL
ORDER BY mean_dot DESC
""".strip()


class Narrator(Protocol):
    """Who tells what happens; the command line prints it."""

    def say(self, text: str) -> None:
        """A line of text."""

    def command(self, text: str) -> None:
        """A command line that does what comes next."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table."""

    def working(self) -> AbstractContextManager[Progress | None]:
        """Entered for the time of a step; gives what to report its progress to."""


class Silence:
    """A narrator that says nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def command(self, text: str) -> None:
        """Nothing."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Nothing."""

    def working(self) -> AbstractContextManager[Progress | None]:
        """No progress."""
        return contextlib.nullcontext()


@dataclass(slots=True)
class DemoSummary:
    """What the demo found.

    Attributes:
        folder: where everything is kept, or None.
        seed: of data, models, draws and trainings.
        sizes: see :class:`diq.demo.options.Sizes`.
        continued: whether the folder held an earlier demo.
        sources: counts of each ingested file: layout, rows, samples, duplicates, rejects.
        rejects: count of each reason.
        models: figures of the encoder and of the language model's training.
        classifier: what training the difficulty classifier did.
        difficulty: what scoring the difficulty did.
        influence: what scoring the influence did.
        selections: selection of each ratio, and ``random``.
        first_rows: first rows of the selection of ``TRAIN_RATIO``.
        query: the SQL query.
        answer: its answer, a dict a row.
        trainings: ``diq`` and ``random``: what each training did.
        losses: of each validation set: ``base``, ``diq`` and ``random``, nats a token.
        lower: on how many validation sets ``diq`` and ``random`` have the lower loss.
        commands: every command line, in order.
        examples: more command lines for a kept folder.
        seconds: wall time of each step.
        skipped: steps whose results were there.
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
    query: str = QUERY
    answer: list[dict[str, Any]] = field(default_factory=list)
    trainings: dict[str, dict[str, Any]] = field(default_factory=dict)
    losses: dict[str, dict[str, float]] = field(default_factory=dict)
    lower: dict[str, int] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    total_seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def run_demo(
    *,
    keep: Path | None = None,
    seed: int = 0,
    sizes: Sizes | None = None,
    narrator: Narrator | None = None,
    started: float | None = None,
) -> DemoSummary:
    """Make data and models, score, select, ask and train.

    Args:
        keep: folder for everything, new, empty, or of an earlier demo that is then continued; None uses a temporary
            folder that is removed at the end.
        seed: of data, models, draws and trainings, 0 to 2**31 - 1; a seed and sizes give one selection.
        sizes: how large everything is.
        narrator: who tells what happens; None tells nothing.
        started: ``time.monotonic()`` when the user began to wait, so that loading the libraries counts.

    Raises:
        UsageError: a folder that holds something else, or a demo with another seed or other sizes.
    """
    began = time.monotonic()
    if not 0 <= seed < 2**31:
        raise UsageError(f"the seed {seed} is out of range", "give 0 to 2147483647")
    chosen = sizes or Sizes()
    with _folder(keep, seed, chosen) as (folder, continued), quiet_libraries(), _one_thread():
        summary = DemoSummary(str(folder) if keep else None, seed, asdict(chosen), continued)
        if started is not None:
            summary.seconds["loading libraries"] = began - started
        _Demo(folder, seed, chosen, narrator or Silence(), summary).run()
    summary.total_seconds = time.monotonic() - (began if started is None else started)
    return summary


class _Demo:
    """One demo under way."""

    def __init__(self, folder: Path, seed: int, sizes: Sizes, narrator: Narrator, summary: DemoSummary) -> None:
        self.folder, self.seed, self.sizes, self.narrator, self.summary = folder, seed, sizes, narrator, summary
        self.store = folder / _STORE
        self.data = data.make_data(sizes, seed)
        self.files: dict[str, Path] = {}

    def run(self) -> None:
        """All steps in order."""
        say = self.narrator.say
        say(NOTICE)
        if self.summary.continued:
            say("There is an earlier demo: what it finished is not computed again.")
        self.narrator.command(f"cd {_shell([str(self.folder)])}")
        self._make()
        self._ingest()
        self._train_classifier()
        self._score()
        self._select()
        self._ask()
        self._train()
        if self.summary.folder:
            self.summary.examples = _examples()

    @contextlib.contextmanager
    def _step(self, name: str, *arguments: str) -> Iterator[Progress | None]:
        """Announce a step, time it, and give what to report its progress to."""
        if arguments:
            line = f"diq {_shell(arguments)}"
            self.summary.commands.append(line)
            self.narrator.command(line)
        began = time.monotonic()
        with self.narrator.working() as progress:
            yield progress
        self.summary.seconds[name] = self.summary.seconds.get(name, 0.0) + time.monotonic() - began

    # data and models -------------------------------------------------------------------------------------------------

    def _make(self) -> None:
        say = self.narrator.say
        with self._step("writing the data"):
            self.files = data.write_files(self.data, self.folder / "data")
        say(
            f"Wrote {len(self.data.pool):,} training rows (some wrong, off-topic, cut off, repeated or broken) and "
            f"{len(TASKS)} validation tasks to data/."
        )
        makers = {ENCODER: make_encoder, MODEL: make_language_model}
        for name, make in makers.items():
            step = f"making {name}"
            folder = self.folder / name
            with self._step(step) as progress:
                # the folder appears whole, so it is there or not
                if folder.exists():
                    self.summary.skipped.append(step)
                else:
                    make(self.data, self.sizes, self.seed, folder, progress)
            self.summary.models[name] = json.loads((folder / data.FIGURES).read_text(encoding="utf-8"))
        llama = self.summary.models[MODEL]
        say(
            f"Trained {MODEL}: {llama['parameters']:,} parameters, {llama['tokens']:,} tokens, "
            f"loss {llama['first_loss']:.2f} -> {llama['last_loss']:.2f}."
        )

    # the main job ----------------------------------------------------------------------------------------------------

    def _ingest(self) -> None:
        step = "ingest"
        for name in (DATASET, GRADED):
            with self._step(step, "ingest", self._shown(self.files[name]), "--dataset", name) as progress:
                ingest([str(self.files[name])], dataset=name, store=self.store, progress=progress)
        counts = dict.fromkeys(TASKS, self.sizes.validation) | dict.fromkeys(HELD_OUT, self.sizes.held_out)
        for name, n in counts.items():
            path = self.files[name]
            with self._step(
                step,
                "ingest",
                self._shown(path),
                "--dataset",
                name,
                "--validation",
                "--sample",
                str(n),
                "--seed",
                str(self.seed),
            ) as progress:
                ingest(
                    [str(path)],
                    dataset=name,
                    store=self.store,
                    validation=True,
                    sample=n,
                    seed=self.seed,
                    progress=progress,
                )
        with Store(self.store, read_only=True) as opened:
            sources = opened.connection.execute(
                "SELECT d.name, s.layout, s.n_rows, s.n_samples, s.n_duplicates, s.n_rejects "
                "FROM sources AS s JOIN datasets AS d USING (dataset_id) ORDER BY s.source_id"
            ).fetchall()
            rejects = opened.connection.execute(
                "SELECT reason, count(*) FROM rejects GROUP BY ALL ORDER BY ALL"
            ).fetchall()
        names = ("layout", "n_rows", "n_samples", "n_duplicates", "n_rejects")
        self.summary.sources = {name: dict(zip(names, rest, strict=True)) for name, *rest in sources}
        self.summary.rejects = dict(rejects)
        self.narrator.table(
            "ingested", ("dataset", "layout found", "rows", "samples", "duplicates", "rejects"), sources
        )

    def _train_classifier(self) -> None:
        """The labels are columns of the graded questions; elsewhere a language model would give them."""
        columns = {dimension: f"true_{dimension}" for dimension in DIFFICULTY_DIMENSIONS}
        shown = ",".join(f"{dimension}={column}" for dimension, column in columns.items())
        step = "difficulty train"
        with self._step(step, "score", "difficulty", GRADED, "--columns", shown) as progress:
            score_difficulty(GRADED, store=self.store, columns=columns, progress=progress)
        epochs, rate = self.sizes.classifier_epochs, 2e-3
        with self._step(
            step,
            "difficulty",
            "train",
            GRADED,
            "--encoder",
            ENCODER,
            "--output",
            CLASSIFIER,
            "--epochs",
            str(epochs),
            "--learning-rate",
            str(rate),
            "--seed",
            str(self.seed),
        ) as progress:
            trained = train_classifier(
                [GRADED],
                encoder=[str(self.folder / ENCODER)],
                output=self.folder / CLASSIFIER,
                store=self.store,
                epochs=epochs,
                learning_rate=rate,
                seed=self.seed,
                progress=progress,
            )
        self.summary.classifier = trained.to_dict()
        if trained.classifiers[0].already_trained:
            self.summary.skipped.append(step)
        self.narrator.table(
            f"difficulty of {sum(trained.splits['test']['overall'])} questions that nothing was trained on",
            ("classifier", "dimension", "macro F1", "kappa", "absolute error"),
            [
                (one.name, dimension, found["macro_f1"], found["kappa"], found["mean_absolute_error"])
                for one in trained.classifiers
                for dimension, found in one.metrics.items()
            ],
        )

    def _score(self) -> None:
        with self._step("score difficulty", "score", "difficulty", DATASET, "--model", CLASSIFIER) as progress:
            difficulty = score_difficulty(
                DATASET, store=self.store, model=str(self.folder / CLASSIFIER), progress=progress
            )
        sets = [part for task in TASKS for part in ("--validation-set", task)]
        with self._step("score influence", "score", "influence", DATASET, "--model", MODEL, *sets) as progress:
            influence = score_influence(
                DATASET, model=str(self.folder / MODEL), store=self.store, validation_set=TASKS, progress=progress
            )
        for name, one in (("score difficulty", difficulty), ("score influence", influence)):
            if not one.n_scored:
                self.summary.skipped.append(name)
            self.narrator.say(f"{name}: {one.n_scored:,} scored now, {one.n_cached:,} in the store already.")
        self.summary.difficulty, self.summary.influence = difficulty.to_dict(), influence.to_dict()

    def _select(self) -> None:
        made = {}
        for ratio in RATIOS:
            output = self.folder / f"diq-{ratio}.jsonl"
            with self._step(
                f"select {ratio}", "select", DATASET, "--model", MODEL, "--ratio", ratio, "-o", self._shown(output)
            ):
                made[ratio] = select(DATASET, model=MODEL, ratio=ratio, store=self.store, output=output)
        self.summary.selections = {ratio: one.to_dict() for ratio, one in made.items()}
        first = made[RATIOS[0]]
        self.narrator.table(
            f"quadrants (tau = {first.thresholds['tau']:.4g}, median dot = {first.thresholds['median']:.4g})",
            ("", "what it holds", "dataset", *(f"selected at {_percent(ratio)}" for ratio in RATIOS)),
            [
                (name, text, first.counts["dataset"][name], *(one.counts["selection"][name] for one in made.values()))
                for name, text in _QUADRANTS.items()
            ],
        )
        times = ", ".join(f"{_percent(ratio)}: {self.summary.seconds[f'select {ratio}']:.2f} s" for ratio in RATIOS)
        self.narrator.say(f"Scores are kept, so every selection is only a look-up ({times}).")
        with (self.folder / f"diq-{TRAIN_RATIO}.jsonl").open(encoding="utf-8") as lines:
            for _, line in zip(range(5), lines, strict=False):
                row = json.loads(line)
                question, answer = row["messages"][-2]["content"], row["messages"][-1]["content"]
                kept = {name: row[name] for name in ("rank", "quadrant", "difficulty", "dot")}
                self.summary.first_rows.append({**kept, "question": question, "answer": answer})
        self.narrator.table(
            f"first rows of {_percent(TRAIN_RATIO)}",
            ("rank", "quadrant", "difficulty", "dot", "question", "answer"),
            [
                (*list(row.values())[:4], short(row["question"], width=70), short(row["answer"], width=30))
                for row in self.summary.first_rows
            ],
        )

    def _ask(self) -> None:
        self.narrator.say(
            "What became of the rows that are really broken? The truth is in the data, the scores never saw it."
        )
        with self._step("sql", "sql", QUERY), Store(self.store, read_only=True) as opened:
            cursor = opened.connection.execute(QUERY)
            columns = [column[0] for column in cursor.description or []]
            rows = cursor.fetchall()
        self.summary.answer = [dict(zip(columns, row, strict=True)) for row in rows]
        self.narrator.table(f"kinds of noise; selected = in the {_percent(TRAIN_RATIO)}", columns, rows)

    def _train(self) -> None:
        output = self.folder / f"random-{TRAIN_RATIO}.jsonl"
        with self._step(
            "select random", "select", DATASET, "--strategy", "random", "--ratio", TRAIN_RATIO,
            "--seed", str(self.seed), "-o", self._shown(output),
        ):  # fmt: skip
            made = select(
                DATASET, strategy="random", ratio=TRAIN_RATIO, seed=self.seed, store=self.store, output=output
            )
        self.summary.selections["random"] = made.to_dict()
        sets = (*TASKS, *HELD_OUT)
        for name in ("diq", "random"):
            step = f"train on {name} {_percent(TRAIN_RATIO)}"
            chosen, adapter = self.folder / f"{name}-{TRAIN_RATIO}.jsonl", self.folder / f"adapter-{name}"
            with self._step(
                step, "train", self._shown(chosen), "--model", MODEL, "--output", self._shown(adapter),
                "--epochs", str(self.sizes.epochs), "--learning-rate", str(_LEARNING_RATE), "--seed", str(self.seed),
                *(part for one in sets for part in ("--validation-set", one)),
            ) as progress:  # fmt: skip
                trained = train(
                    str(chosen),
                    model=str(self.folder / MODEL),
                    output=adapter,
                    store=self.store,
                    epochs=self.sizes.epochs,
                    learning_rate=_LEARNING_RATE,
                    seed=self.seed,
                    validation_set=sets,
                    progress=progress,
                )
            if trained.already_trained:
                self.summary.skipped.append(step)
            self.summary.trainings[name] = trained.to_dict()
            for one in sets:
                losses = self.summary.losses.setdefault(one, {})
                losses["base"] = trained.validation[one]["before"]
                losses[name] = trained.validation[one]["after"]
        pairs = [(one["diq"], one["random"]) for one in self.summary.losses.values()]
        self.summary.lower = {"diq": sum(a < b for a, b in pairs), "random": sum(b < a for a, b in pairs)}

    def _shown(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def verdict(summary: DemoSummary) -> str:
    """Which of the two trainings came out better, in words, whichever it is: by sets and by the held-out mean."""
    n, diq, other = len(summary.losses), summary.lower["diq"], summary.lower["random"]
    base, mean, random_mean = (
        sum(summary.losses[name][which] for name in HELD_OUT) / len(HELD_OUT) for which in ("base", "diq", "random")
    )
    percent = _percent(TRAIN_RATIO)
    if diq > other and mean < random_mean:
        text = f"The DIQ {percent} wins here"
    elif other > diq and random_mean < mean:
        text = f"The random {percent} wins here"
    else:
        text = "Neither wins clearly here"
    return (
        f"{text}: the lower loss on {diq} (DIQ) and {other} (random) of {n} validation sets; "
        f"mean over the held-out ones {base:.3f} before, {mean:.3f} (DIQ), {random_mean:.3f} (random). "
        "One seed and one small model show how it works, not how well."
    )


def _examples() -> list[str]:
    """Command lines to play with in a kept folder."""
    return [
        "diq status",
        f"diq select {DATASET} --model {MODEL} --ratio 5% -o five.jsonl",
        f"diq select {DATASET} --model {MODEL} --ratio 0.1 --validation-set {TASKS[0]} -o safety.parquet",
        f"diq sql \"FROM diq_scores('{DATASET}', '{MODEL}') ORDER BY dot LIMIT 5\"",
        'diq sql "SELECT reason, count(*) FROM rejects GROUP BY ALL"',
    ]


def _percent(ratio: str) -> str:
    return f"{float(ratio) * 100:g} %"


def _shell(arguments: Sequence[str]) -> str:
    """Arguments as they are typed in a shell."""
    safe = "-_./=,:%+"
    return " ".join(one if one and all(c.isalnum() or c in safe for c in one) else f'"{one}"' for one in arguments)


@contextlib.contextmanager
def _folder(keep: Path | None, seed: int, sizes: Sizes) -> Iterator[tuple[Path, bool]]:
    """The work folder, and whether it holds an earlier demo of the same seed and sizes."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="diq-demo-") as made:
            yield Path(made), False
        return
    folder = keep.expanduser().resolve()
    check_folder(keep.expanduser())
    folder.mkdir(parents=True, exist_ok=True)
    refusal = UsageError(f"another demo is running in `{keep}`", "wait until it has finished, or name another folder")
    with lock(folder, refusal):
        yield folder, _is_continued(keep, folder, seed, sizes)


def _is_continued(keep: Path, folder: Path, seed: int, sizes: Sizes) -> bool:
    """Whether the folder holds an earlier demo of the same seed and sizes; a new one is marked as one."""
    wanted = {"format": _FORMAT, "seed": seed, "sizes": asdict(sizes)}
    marker = folder / _MARKER
    continued = marker.exists()
    if not continued and not is_empty(folder):
        other = min(one.name for one in folder.iterdir())
        raise UsageError(f"`{keep}` is not empty and holds no demo (but `{other}`)", "name a new or empty folder")
    if continued:
        _check_marker(keep, marker, wanted)
    else:
        write_text(marker, json.dumps(wanted, indent=2) + "\n")
    return continued


def _check_marker(keep: Path, marker: Path, wanted: dict[str, Any]) -> None:
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if found == wanted:
        return
    if isinstance(found, dict) and found.get("format") == _FORMAT and found.get("sizes") == wanted["sizes"]:
        seed = found.get("seed")
        raise UsageError(
            f"`{keep}` holds a demo of seed {seed}, not {wanted['seed']}", f"give --seed {seed}, or another folder"
        )
    raise UsageError(f"`{keep}` holds a demo of another kind (see `{marker.name}`)", "name a new or empty folder")


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for the models: a second one gains little at this size and loses much when the machine is busy.

    It also makes the numbers those of the seed, whatever the number of cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
