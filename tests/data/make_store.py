"""Makes ``store_COMMIT.tar.xz`` and ``store_COMMIT.json``: a small store of an earlier commit, and what it says.

tests/store/test_old_store.py opens it with the code of today. To make one with another commit:

    git worktree add /tmp/then COMMIT    # and build or copy its diq/_core
    PYTHONPATH=/tmp/then/python python tests/data/make_store.py COMMIT
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

# what fills the store, and finds everything done when it is run again
SCORINGS = (
    "score difficulty pool --columns knowledge=k,reasoning=r,overall=o",
    "score influence pool --model model --norms",
    "score influence pool --model model --method projected --dim 64",
    "score influence pool --model model --method central",
    "score perplexity pool --model model",
    "score similarity pool --encoder encoder",
)
SELECTIONS = (
    "select pool --model model --run {exact} --ratio 0.5 --name half",
    "select pool --model model --run {exact} --ratio 0.1 --difficulty reasoning --difficulty-percentile 0.3 --name few",
    "select pool --model model --run {exact} --ratio 0.2 --influence cosine --validation-set medqa=2"
    " --validation-set medmcqa=1 --name cosine",
    "select pool --model model --run {projected} --ratio 0.3 --strategy influence --name projected",
    "select pool --model model --run {exact} --ratio 0.2 --strategy q2 --name q2",
    "select pool --ratio 0.2 --strategy random --seed 3 --name chance",
    "select pool --model model --ratio 0.2 --strategy perplexity --name plain",
    "select pool --ratio 0.2 --strategy similarity --name near",
    "select pool --model model --run {exact} --ratio 0.5 --dedupe near --decontaminate medqa --name clean",
)

# everything that a user can see of scores, rankings and selections, in an order
QUESTIONS = {
    "runs": "SELECT run_id, kind, method, model_id, fingerprint, config FROM runs ORDER BY run_id",
    "coverage": "SELECT * EXCLUDE (reasons) FROM score_coverage ORDER BY ALL",
    "difficulty": "SELECT * FROM difficulty_scores ORDER BY ALL",
    "influence": "SELECT * FROM influence_scores ORDER BY ALL",
    "texts": "SELECT * FROM text_scores ORDER BY ALL",
    "exclusions": "SELECT * FROM exclusions ORDER BY ALL",
    "rankings": "SELECT * EXCLUDE (created_at) FROM rankings ORDER BY ALL",
    "ranking_samples": "SELECT * FROM ranking_samples ORDER BY ALL",
    "diq_scores": "SELECT * FROM diq_scores('pool', 'model', run := {exact}) ORDER BY position",
    "diq_ranking": "SELECT * FROM diq_ranking('pool', 'model', run := {exact}, percentile := 0.3)",
    "selections": "SELECT * EXCLUDE (created_at) FROM selections ORDER BY ALL",
    "selection_samples": "SELECT * FROM selection_samples ORDER BY selection_id, rank",
}


def answers(connection: Any, runs: dict[str, int]) -> dict[str, dict[str, Any]]:
    """What a store says to ``QUESTIONS``, as JSON holds it: names of the columns, and rows."""
    found = {}
    for name, query in QUESTIONS.items():
        cursor = connection.execute(query.format(**runs))
        columns = [column[0] for column in cursor.description]
        found[name] = json.loads(json.dumps({"columns": columns, "rows": cursor.fetchall()}, default=str))
    return found


def run_numbers(connection: Any) -> dict[str, int]:
    """Method to run number of the influence runs."""
    return dict(connection.execute("SELECT method, run_id FROM runs WHERE kind = 'influence'").fetchall())


def write_inputs(folder: Path) -> None:
    """Some samples, two sets of questions, a causal model and an encoder, of a few kilobytes each."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    rng = random.Random(0)
    words = ["fever", "cough", "pain", "heart", "lung", "liver", "kidney", "drug"]
    words += ["dose", "blood", "sugar", "rash", "test", "cause", "treats", "because"]

    def row(i: int) -> dict[str, Any]:
        levels = {name: rng.randint(1, 5) for name in "kro"}
        question = " ".join(rng.choices(words, k=16))
        return {"question": f"{question} {i}?", "answer": " ".join(rng.choices(words, k=rng.randint(1, 12))), **levels}

    rows: list[Any] = [row(i) for i in range(24)]
    # an exact and a near repeat, a sample that is a question of the benchmark, and a row that is none
    rows += [rows[3], {**rows[5], "answer": rows[5]["answer"] + " again"}, "nothing", row(42)]
    for name, n in (("medqa", 6), ("medmcqa", 4)):
        exam = [row(100 + i) for i in range(n)]
        write(folder / f"{name}.jsonl", exam)
        rows.append({**exam[0], "answer": "the same question"})
    write(folder / "pool.jsonl", rows)

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([" ".join(words)], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    tokenizer.model_max_length = 128
    sizes = {"vocab_size": 280, "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
    torch.manual_seed(0)
    causal = LlamaForCausalLM(
        LlamaConfig(**sizes, num_hidden_layers=2, num_key_value_heads=1, tie_word_embeddings=True, pad_token_id=0)
    )
    encoder = BertModel(BertConfig(**sizes, num_hidden_layers=1, max_position_embeddings=130, pad_token_id=0))
    for name, model in (("model", causal), ("encoder", encoder)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def write(path: Path, rows: list[Any]) -> None:
    """One JSON value a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main(commit: str) -> None:
    """Make the two files beside this one."""
    import duckdb

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder)

        def diq(command: str) -> None:
            print("diq", command)
            environment = {**os.environ, "DIQ_STORE": "store.duckdb", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
            done = [sys.executable, "-m", "diq", *command.split(), "--quiet"]
            subprocess.run(done, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)

        diq("ingest pool.jsonl --dataset pool")
        for exam in ("medqa", "medmcqa"):
            diq(f"ingest {exam}.jsonl --dataset {exam} --validation")
        for scoring in SCORINGS:
            diq(scoring)
        with duckdb.connect(str(folder / "store.duckdb"), read_only=True) as connection:
            runs = run_numbers(connection)
        for selection in SELECTIONS:
            diq(selection.format(**runs))
        with duckdb.connect(str(folder / "store.duckdb"), read_only=True) as connection:
            found = {"commit": commit, "runs_by_method": runs, "answers": answers(connection, runs)}
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in found.pop("answers").items())
        text = json.dumps(found)[:-1] + ', "answers": {\n' + lines + "\n}}\n"
        (HERE / f"store_{commit}.json").write_text(text, encoding="utf-8")
        with tarfile.open(HERE / f"store_{commit}.tar.xz", "w:xz", preset=9) as archive:
            for part in sorted(folder.iterdir()):
                archive.add(part, part.name)


if __name__ == "__main__":
    main(sys.argv[1])
