"""The main job on real data: MedQuAD, four validation sets, a small model trained on its text; times of each step.

    python benches/real_run.py DATA [--minutes 4 | --steps 400] [--rows N] [--keep DIR]

DATA is a folder that holds ``raw/medquad/medquad_alpaca.jsonl.gz`` and ``bench/<task>/val.jsonl``. Every step is the
command line itself, in a process of its own, so the times are what a user waits. The difficulty is a stand-in (no
Likert labels of MedQuAD exist): quintiles of word rarity (knowledge) and of answer length (reasoning), handed in as a
score file. With --keep the model and the store stay, and benches/real_validity.py measures what the dots are worth.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diq.models.tokens import Tokenization, Tokens, collate, plan_batches

TASKS = ("medqa", "medmcqa", "mmlu_pro_medical", "medxpertqa_text")
RATIOS = ("0.01", "0.1", "0.5")
MAX_LENGTH = 1024


class Steps:
    """Runs commands, keeps their times and prints them at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.times = folder, list[tuple[str, float, str]]()
        self.environment = {**os.environ, "DIQ_STORE": str(folder / "diq.duckdb"), "HF_HUB_OFFLINE": "1"}

    def diq(self, label: str, *arguments: str) -> dict[str, Any]:
        """One command with --json; returns its answer."""
        command = [str(Path(sys.executable).with_name("diq")), *arguments, "--json"]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stderr}")
        self.times.append((label, seconds, "diq " + " ".join(arguments)))
        print(f"{seconds:9.2f} s  {label}", flush=True)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def sql(self, label: str, query: str) -> list[dict[str, Any]]:
        """The rows of a query."""
        rows: list[dict[str, Any]] = self.diq(label, "sql", query)["rows"]
        return rows


def read_pool(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def make_model(
    pool: list[dict[str, str]], folder: Path, *, minutes: float | None = None, steps: int | None = None
) -> None:
    """A byte-level BPE of 8,192 pieces and a four-layer Llama, trained on the pool.

    For some minutes, or for some steps: as many steps on as many threads give the same model again.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        (row["instruction"] + "\n" + row["output"] for row in pool),
        trainers.BpeTrainer(
            vocab_size=8192,
            special_tokens=["<pad>", "<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8192,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=MAX_LENGTH,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )
    tokenization = Tokenization(tokenizer, max_length=256)
    conversations = [
        [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]
        for row in pool
    ]
    samples = [one for one in tokenization.encode(conversations) if isinstance(one, Tokens)]
    lengths = np.asarray([len(one.ids) for one in samples], np.int64)
    batches = [[samples[i] for i in batch] for batch in plan_batches(lengths, token_budget=2048)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    order = np.random.default_rng(0)
    start, step, first, recent = time.monotonic(), 0, math.nan, collections.deque[float](maxlen=100)

    def passed() -> float:
        """Share of the training that is done."""
        return step / steps if steps else (time.monotonic() - start) / (60 * (minutes or 4.0))

    while (done := passed()) < 1:
        batch = collate(batches[order.integers(len(batches))])
        labels = batch.ids.masked_fill(~batch.mask, -100)
        rate = min(1.0, (step + 1) / 50) * (1 - done)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * max(0.02, rate)
        loss = model(input_ids=batch.ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent.append(loss.item())
        first = loss.item() if step == 0 else first
        step += 1
    tokenizer.save_pretrained(folder)
    parameters = sum(one.numel() for one in model.parameters())
    told = (
        f"{parameters / 1e6:.2f} M parameters, {step} steps, loss {first:.2f} -> {np.mean(recent):.2f} nats a token "
        "(mean of the last 100 steps)"
    )
    (folder / "training.txt").write_text(told + "\n", encoding="utf-8")
    # the last file: its config says that the model is there
    model.save_pretrained(folder)
    print(f"model: {told}")


def stand_in_difficulty(pool: list[dict[str, str]], path: Path) -> None:
    """Quintiles 1 to 5 of mean word rarity and of answer length, as a score file by position."""
    words = [(row["instruction"] + " " + row["output"]).lower().split() for row in pool]
    counts = collections.Counter(word for one in words for word in one)
    total = sum(counts.values())
    rarity = np.asarray([np.mean([-math.log(counts[word] / total) for word in one]) for one in words])
    length = np.asarray([len(row["output"].split()) for row in pool], float)

    def quintile(values: np.ndarray) -> np.ndarray:
        return 1 + np.digitize(values, np.quantile(values, [0.2, 0.4, 0.6, 0.8]))

    knowledge, reasoning = quintile(rarity), quintile(length)
    with path.open("w", encoding="utf-8") as file:
        for i, (k, r) in enumerate(zip(knowledge.tolist(), reasoning.tolist(), strict=True)):
            file.write(json.dumps({"position": i, "knowledge": k, "reasoning": r, "overall": (k + r) / 2}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=4.0, help="training of the small model, when there is none")
    parser.add_argument("--steps", type=int, help="the same in steps: the model does not depend on the machine's speed")
    parser.add_argument("--rows", type=int, help="only the first rows of MedQuAD, to try this out")
    parser.add_argument("--keep", type=Path, help="work here and leave everything")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="diq-real-"))
    folder.mkdir(parents=True, exist_ok=True)
    steps = Steps(folder)
    source = options.data / "raw" / "medquad" / "medquad_alpaca.jsonl.gz"
    pool = read_pool(source)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {len(pool)} rows of MedQuAD")
    model = folder / "medquad-llama"
    if not (model / "config.json").exists():
        make_model(pool, model, minutes=options.minutes, steps=options.steps)
    if options.rows:
        pool = pool[: options.rows]
        source = folder / "medquad.jsonl"
        source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in pool), encoding="utf-8")
    stand_in_difficulty(pool, folder / "difficulty.jsonl")

    ingested = steps.diq("ingest MedQuAD", "ingest", str(source), "--dataset", "medquad")
    for task in TASKS:
        path = options.data / "bench" / task / "val.jsonl"
        steps.diq(f"ingest validation set {task}", "ingest", str(path), "--dataset", task, "--validation")
    steps.diq(
        f"ingest difficulty ({len(pool):,} scores)",
        "ingest", str(folder / "difficulty.jsonl"), "--dataset", "medquad", "--scores",
    )  # fmt: skip
    scored = steps.diq(
        "score influence, exact, 4 sets",
        "score", "influence", "medquad", "--model", str(model), "--max-length", str(MAX_LENGTH),
    )  # fmt: skip
    again = steps.diq(
        "the same command again",
        "score", "influence", "medquad", "--model", str(model), "--max-length", str(MAX_LENGTH),
    )  # fmt: skip
    assert (again["n_scored"], again["n_cached"]) == (0, ingested["n_samples"]), "a sample was scored twice"
    selected = {}
    (meters,) = steps.diq("status, with the meters of the dots", "status", "--scores")["scores"]
    assert all(row["fold_sizes"] == [10, 10] for row in meters["validation_sets"]), "the sets have no two folds"
    for ratio in RATIOS:
        output = folder / f"selection-{ratio}.jsonl"
        selected[ratio] = steps.diq(
            f"select {ratio}", "select", "medquad", "--model", model.name, "--ratio", ratio, "-o", str(output)
        )
    steps.diq(
        "reselect 0.1, other weights of the tasks",
        "select", "medquad", "--model", model.name, "--ratio", "0.1",
        "--validation-set", "medqa=2", "--validation-set", "medmcqa=1", "-o", str(folder / "weighted.jsonl"),
    )  # fmt: skip
    sources = steps.sql(
        "sql: sources in the 1 % selection",
        "select attributes->>'qtype' as question_type, count(*) as n "
        f"from diq_select('medquad', '{model.name}', 0.01) join dataset_samples using (position) "
        "where dataset_id = 1 group by all order by n desc, question_type limit 5",
    )
    lengths = steps.sql(
        "sql: answer tokens of each selection",
        "select r.quadrant, count(*) as n, round(avg(answer_tokens), 1) as answer_tokens "
        f"from diq_ranking('medquad', '{model.name}') as r join diq_scores('medquad', '{model.name}') using (position) "
        "group by all order by 1",
    )

    print(f"\n{ingested['n_rows']} rows: {ingested['n_samples']} samples, {ingested['n_duplicates']} duplicates")
    print(
        f"influence: {scored['tokens']} tokens in {scored['seconds']:.1f} s, "
        f"{scored['tokens'] / max(scored['seconds'], 1e-9):.0f} tokens/s, {scored['n_no_score']} without a dot, "
        f"correlation of dot with answer tokens {scored['details']['dot_length_correlation']:.3f}"
    )
    for ratio, one in selected.items():
        print(
            f"{ratio:>5}: {one['n']} samples, quadrants {one['counts']['selection']}, "
            f"{one['flip_share']:.1%} flip between halves of the validation samples"
        )
    print(
        f"standard error of a dot (median): {meters['standard_error_share']:.1%} of the dots' standard deviation; "
        f"halves of {meters['half_sizes']} validation samples agree at Spearman {meters['half_spearman']:.3f}"
    )
    print(f"tau {one['thresholds']['tau']}, median dot {one['thresholds']['median']:.4g}, {one['counts']['dataset']}")
    print("1 % by question type:", ", ".join(f"{row['question_type']} {row['n']}" for row in sources))
    for row in lengths:
        print(f"{row['quadrant']}: {row['n']} samples, {row['answer_tokens']} answer tokens on average")
    print("\nseconds  step")
    for label, seconds, _ in steps.times:
        print(f"{seconds:7.2f}  {label}")
    if options.keep is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
