"""Writes docs/evidence.md from benches/evidence/results/*.json.

python benches/evidence/page.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "evidence.md"
TITLES = {
    "traces": "Traces of six models on MMLU-Pro (health, biology)",
    "medquad": "MedQuAD",
    "medmcqa": "MedMCQA with human rationales",
}


def main() -> None:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((HERE / "results").glob("*.json"))]
    found.sort(key=lambda one: list(TITLES).index(one["world"]))
    intro = (HERE / "intro.md").read_text(encoding="utf-8").rstrip()
    parts = [intro, *("\n".join(_world(one)) for one in found)]
    PAGE.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"wrote {PAGE.relative_to(HERE.parent.parent)}")


def _world(one: dict[str, Any]) -> Iterator[str]:
    found, model = one["validation_of_scores"], one["model"]
    n = sum(one["pool"].values())
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in one["pool"].items())
    tasks = ", ".join(f"{name} {count}" for name, count in one["validation"].items())
    held = ", ".join(f"{name} {count}" for name, count in one["held_out"].items())
    yield f"## {TITLES[one['world']]}"
    yield (
        f"Pool of {n:,}: {kinds}. Validation: {tasks}; held out: {held}. Model: {model['parameters'] / 1e6:.1f} M "
        f"parameters, {model['tokens seen'] / 1e6:.1f} M tokens of pretraining, {model['loss']} nats a token. "
        f"{found['n_trainings']} trainings ({one['date']}, {one['machine']})."
    )
    if found["n_left"]:
        yield f"\n**Not finished**: {found['n_left']} trainings are left."
    if found["scores"]:
        yield (
            f"\n### Linear datamodelling score, {found['n_subsets']} random subsets of {found['subset_size']}\n\n"
            "| score | LDS | 95 % interval |\n| --- | ---: | --- |"
        )
        for line in found["scores"]:
            yield f"| {line['score']} | {_number(line['value'])} | {_interval(line)} |"
    if found["race"]:
        yield (
            "\n### Race: loss on held-out samples less that of random selections of the same size\n\n"
            "| entrant | samples | seeds | random | difference | 95 % interval | than random |\n"
            "| --- | ---: | ---: | ---: | ---: | --- | --- |"
        )
        for line in sorted(found["race"], key=lambda each: (each["n"], each["difference"])):
            yield (
                f"| {line['entrant']} | {line['n']:,} | {line['trainings']} | {line['random']:.4f} | "
                f"{line['difference']:+.4f} | {_interval(line)} | {line['verdict']} |"
            )
    yield from _noise(one)
    if one["seconds_of_scorings"]:
        listed = ", ".join(f"{name} {seconds:,}" for name, seconds in one["seconds_of_scorings"].items())
        yield f"\nSeconds of the scorings that were computed in the last call, factors included: {listed}."


def _noise(one: dict[str, Any]) -> Iterator[str]:
    kinds = [kind for kind in one["pool"] if kind != "clean"]
    n = sum(one["pool"].values())
    yield "\n### What share of a selection is noise\n"
    yield f"| chosen by | ratio | {' | '.join(kinds)} | clean |"
    yield f"| --- | ---: |{' ---: |' * (len(kinds) + 1)}"
    pool = " | ".join(f"{100 * one['pool'][kind] / n:.0f} %" for kind in [*kinds, "clean"])
    yield f"| *the pool* | 1 | {pool} |"
    for line in one["noise"]:
        if line["ratio"] == "0.5":
            continue
        shares = " | ".join(f"{100 * line['kinds'].get(kind, 0) / line['n']:.0f} %" for kind in [*kinds, "clean"])
        yield f"| {line['entrant']} | {line['ratio']} | {shares} |"


def _number(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.3f}"


def _interval(line: dict[str, Any]) -> str:
    low, high = line["low"], line["high"]
    return "" if low is None or low != low else f"{low:.3f} to {high:.3f}"


if __name__ == "__main__":
    main()
