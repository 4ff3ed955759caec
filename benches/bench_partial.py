"""What scoring a part costs beside scoring all, and what a preconditioner adds once its factors are there.

    OMP_NUM_THREADS=1 python benches/bench_partial.py [--samples 8000] [--repeats 3]

A Llama with random weights scores made-up samples by `diq.score_influence`: all, `--for-ratio 0.1` at percentile
0.5, and all with ekfac, whose factors an earlier scoring has left. CPU seconds of the whole verb, model and tokens
included; the ways take turns, and ratios are of pairs in the same turn. The selection of the part is compared with that
of all.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

import diq
from diq.demo.models import make_tokenizer

SCORING: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_length": 512}


def make_model(folder: Path, texts: list[str]) -> None:
    tokenizer = make_tokenizer(texts, vocabulary=2048)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=192, intermediate_size=512, num_hidden_layers=4,
            num_attention_heads=6, num_key_value_heads=2, head_dim=32, tie_word_embeddings=True,
        )
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def make_store(folder: Path, n: int) -> Path:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(600)]

    def row(i: int) -> dict[str, Any]:
        texts = [" ".join(rng.choices(words, k=rng.randint(10, 40))) for _ in range(2)]
        roles = ("user", "assistant")
        messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
        return {"messages": messages, "level": rng.gauss(0, 1), "number": i}

    store = folder / "store.duckdb"
    for name, count in (("pool", n), ("held", 32)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row(i)) + "\n" for i in range(count)), encoding="utf-8")
        diq.ingest(path, dataset=name, validation=name == "held", store=store)
    diq.score_difficulty("pool", columns={"overall": "level"}, store=store)
    make_model(folder / "llama", words)
    return store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=8000)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="diq-bench-") as place:
        folder = Path(place)
        made = make_store(folder, given.samples)
        score = {"model": folder / "llama", "store": made, **SCORING}
        diq.score_influence("pool", **score, precondition="ekfac", factor_samples=256, damping=0.5)
        ways: dict[str, dict[str, Any]] = {
            "all": {},
            "for-ratio 0.1": {"for_ratio": 0.1},
            "all, ekfac": {"precondition": "ekfac", "factor_samples": 256, "damping": 0.1},
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        selected: dict[str, list[int]] = {}
        n_scored: dict[str, int] = {}
        for _ in range(given.repeats):
            for name, options in ways.items():
                store = folder / "turn.duckdb"
                shutil.copyfile(made, store)
                shutil.copytree(f"{made}.factors", f"{store}.factors", dirs_exist_ok=True)
                start = time.process_time()
                found = diq.score_influence("pool", **{**score, "store": store}, **options)
                seconds[name].append(time.process_time() - start)
                n_scored[name] = found.n_scored
                if "ekfac" not in name:
                    selected[name] = _tenth(store, found.run_id)
                store.unlink()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.samples:,} samples")
    for name in ways:
        ratios = [one / all_ for one, all_ in zip(seconds[name], seconds["all"], strict=True)]
        print(
            f"{name:15} {statistics.median(seconds[name]):8.1f} CPU s  {n_scored[name]:,} scored  "
            f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        )
    print(f"the same tenth: {selected['all'] == selected['for-ratio 0.1']}")


def _tenth(store: Path, run_id: int) -> list[int]:
    made = diq.select("pool", model="llama", ratio=0.1, run=run_id, store=store, name="tenth")
    query = f"SELECT position FROM selection_samples WHERE selection_id = {made.selection_id} ORDER BY rank"
    return [row["position"] for row in diq.sql(query, store=store).to_pylist()]


if __name__ == "__main__":
    main()
