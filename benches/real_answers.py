"""Answer extraction on the outputs of six models: agreement with the letters that a benchmark's authors extracted.

    python benches/real_answers.py DATA [--examples N]

DATA is a folder that holds ``raw/mmlu_pro_traces/``: outputs for MMLU-Pro questions with ``pred``, the letter that the
benchmark's own scripts took from each, null where they took none. Those scripts look for ``answer is (X)`` and take the
first, then for ``answer: X``, then for the last capital A to J, be it inside a word; the second and third stage were
not used for every file. The tables: agreement for each file, then every disagreement by class, with how often ``pred``
and we have the right letter; then the accuracy by ``pred``, by our first step, and by the rules "strict" and "paper".
Where DATA also holds ``preference/mmlu_pro_pairs.jsonl.gz``, a last line has the agreement on the outputs of the other
models in there, which the rules were not written with.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from diq.evaluation.answers import SCORING, Extraction, Mark, extract, mark

PHRASE = re.compile(r"answer is \(?([A-J])\)?")
LABEL = re.compile(r"[aA]nswer:\s*([A-J])")
CAPITAL = re.compile(r"[A-J]")
UNEXPLAINED = "unexplained"


@dataclass(frozen=True)
class Row:
    """One output, with what was read from it."""

    question_id: int
    output: str
    n_options: int
    gold: str
    pred: str | None
    read: Extraction
    marked: Mark


def read_rows(path: Path) -> list[Row]:
    """Rows of a file of traces, each read and marked."""
    if path.suffix == ".parquet":
        raw: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    elif path.suffix == ".json":
        raw = json.loads(path.read_text(encoding="utf-8"))
    else:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            raw = [json.loads(line) for line in file]
    rows = []
    for row in raw:
        options = {chr(ord("A") + i): text for i, text in enumerate(row["options"])}
        output = row["model_outputs"] if "model_outputs" in row else row["generated_text"]
        read, marked = extract(output, options), mark(output, options, row["answer"])
        rows.append(Row(row["question_id"], output, len(options), row["answer"], row["pred"], read, marked))
    return rows


def disagreement(row: Row) -> str | None:
    """Why we and the authors differ; None where we agree."""
    pred, letter, how = row.pred, row.read.letter, row.read.how
    if pred == letter:
        return None
    phrases = PHRASE.findall(row.output)
    found = phrases or LABEL.findall(row.output)
    last = CAPITAL.findall(row.output)[-1:]
    if pred is None:
        return UNEXPLAINED if found else f"pred null: said in words that their pattern has not; our rule: {how}"
    if how == "no such option" and pred in found and ord(pred) - ord("A") >= row.n_options:
        return "we none: the letter is not among the options"
    if how == "several" and found and pred == found[0]:
        return "we none: several letters in one answer, theirs is the first"
    if how == "nothing" and not found and [pred] == last:
        return "we none: no answer is given, theirs is the last capital (article, pronoun, abbreviation)"
    if how == "nothing" and not found:
        return "we none: no answer is given, theirs is found by no rule (a default or a draw)"
    if len({*phrases}) > 1 and pred == phrases[0] and letter == phrases[-1]:
        return "both: several statements, theirs is the first, ours the last"
    if letter is not None and not found and [pred] == last:
        return "both: theirs is the last capital (article, abbreviation, a word's first letter), ours is stated"
    return UNEXPLAINED


def other_models(path: Path, known: Sequence[str]) -> tuple[int, int, int]:
    """Models, outputs and agreeing outputs in a file of preference pairs, without the models that are known."""
    models, n, same = set(), 0, 0
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            options = dict(re.findall(r"^\(([A-J])\) (.+)$", row["prompt"], re.MULTILINE))
            for side in ("chosen", "rejected"):
                if not any(name.endswith(row[f"{side}_model"]) for name in known):
                    models.add(row[f"{side}_model"])
                    n += 1
                    same += extract(row[side], options).letter == row[f"{side}_pred"]
    return len(models), n, same


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a header, the first column to the left and the others to the right."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    print(f"\n{title}")
    for row in cells:
        print("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip())


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--examples", type=int, default=1, metavar="N", help="examples of each class")
    options = parser.parse_args()
    files = {
        re.sub(r"\.(?:jsonl\.gz|json|parquet)$", "", path.name): read_rows(path)
        for path in sorted((options.data / "raw/mmlu_pro_traces").iterdir())
    }
    print(f"rules of scoring version {SCORING}")

    agreement = []
    classes: dict[str, list[tuple[str, Row]]] = {}
    for name, rows in files.items():
        kinds = [disagreement(row) for row in rows]
        for kind, row in zip(kinds, rows, strict=True):
            if kind is not None:
                classes.setdefault(kind, []).append((name, row))
        counts = [
            sum(kind is not None and kind.startswith(prefix) for kind in kinds) for prefix in ("pred", "we", "both")
        ]
        same = kinds.count(None)
        agreement.append([name, len(rows), same, f"{same / len(rows):.2%}", *counts, kinds.count(UNEXPLAINED)])
    table(
        "agreement with `pred`",
        ["file", "n", "same", "share", "pred null, we read", "we none", "both letters", "unexplained"],
        agreement,
    )

    rows_of_classes = [
        [
            kind,
            len(members),
            sum(r.pred == r.gold for _, r in members),
            sum(r.read.letter == r.gold for _, r in members),
        ]
        for kind, members in sorted(classes.items())
    ]
    table("disagreements", ["class", "n", "pred is gold", "we are gold"], rows_of_classes)
    for kind, members in sorted(classes.items()):
        print(f"\n{kind}")
        for name, row in members[: options.examples]:
            print(f"  {name} {row.question_id}: pred {row.pred}, we {row.read.letter}, gold {row.gold}")
            print(f"    read: {row.read.quote!r}\n    ends: {row.output.strip()[-160:]!r}")

    accuracy = []
    for name, rows in [*files.items(), ("all", [row for each in files.values() for row in each])]:
        counts = [
            sum(row.pred == row.gold for row in rows),
            sum(row.read.letter == row.gold for row in rows),
            sum(row.marked.is_right_strict for row in rows),
            sum(row.marked.is_right for row in rows),
        ]
        despite = sum(row.marked.is_right and not row.marked.is_right_strict for row in rows)
        accuracy.append([name, len(rows), *(f"{100 * count / len(rows):.2f}" for count in counts), despite])
    table(
        "accuracy in percent; `despite` counts outputs that chose another option and are right by the paper's rule",
        ["file", "n", "pred", "step 1", "strict", "paper", "despite"],
        accuracy,
    )
    pairs = options.data / "preference/mmlu_pro_pairs.jsonl.gz"
    if pairs.is_file():
        n_models, n, same = other_models(pairs, list(files))
        print(f"\nagreement on {n:,} outputs of {n_models} other models: {same:,}, {same / n:.2%}")


if __name__ == "__main__":
    main()
