"""Training: seconds a step of `diq train`, next to plain TRL with the same settings, and without padding.

Claim: the steps of `diq train` take no longer than those of TRL's SFTTrainer and DPOTrainer, used as their manuals
show, with the same model, samples, adapter and sizes: TRL / ours is at least 0.95. Both come
to the same losses, which is checked first. Steps alone are timed (the trainer's own
clock), the runs of both in turn; set-up is not.
Run: `python benches/bench_training.py`; `OMP_NUM_THREADS` sets the threads. Texts and model are made on the spot.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

import diq

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from conftest import build_tokenizer, save_model

SAMPLES, BATCH_SIZE, MICRO_BATCH_SIZE, EPOCHS = 64, 8, 4, 1
CHAT = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|> ' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|> ' }}{% endif %}"
)


def make_model(folder: Path) -> Path:
    """A Llama of some million parameters with a chat template."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHAT
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=704, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=1024, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return save_model(folder, LlamaForCausalLM(config), tokenizer)


def made_pairs() -> list[dict[str, Any]]:
    """Questions with two answers, log-normal in length."""
    rng = np.random.default_rng(0)
    words = [
        "fever",
        "cough",
        "pain",
        "aspirin",
        "daily",
        "blood",
        "kidney",
        "liver",
        "heart",
        "dose",
        "high",
        "low",
        "insulin",
        "chest",
        "question",
        "answer",
    ]

    def text(median: int) -> str:
        return " ".join(rng.choice(words, int(np.clip(np.exp(rng.normal(np.log(median), 0.7)), 4, 120))))

    return [
        {
            "prompt": [{"role": "user", "content": text(20)}],
            "chosen": [{"role": "assistant", "content": text(40)}],
            "rejected": [{"role": "assistant", "content": text(40)}],
        }
        for _ in range(SAMPLES)
    ]


def plain_trl(method: str, model: Path, pairs: list[dict[str, Any]], folder: Path) -> tuple[float, list[float]]:
    """Seconds of the steps, and the losses, of TRL's trainer with PEFT."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.seconds = time.perf_counter() - self.started

    options: dict[str, Any] = {
        "output_dir": str(folder), "num_train_epochs": EPOCHS, "per_device_train_batch_size": MICRO_BATCH_SIZE,
        "gradient_accumulation_steps": BATCH_SIZE // MICRO_BATCH_SIZE, "learning_rate": 1e-4,
        "lr_scheduler_type": "cosine", "warmup_steps": 1, "max_length": 1024, "use_cpu": True, "seed": 0,
        "data_seed": 0, "bf16": False, "gradient_checkpointing": False, "save_strategy": "no", "logging_steps": 1,
        "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
    clock = Clock()
    shared: dict[str, Any] = {
        "model": AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        "processing_class": AutoTokenizer.from_pretrained(model),
        "peft_config": LoraConfig(
            task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj"]
        ),
        "callbacks": [clock],
    }
    if method == "sft":
        rows = [{"prompt": one["prompt"], "completion": one["chosen"]} for one in pairs]
        args = SFTConfig(**options, completion_only_loss=True, packing=False)
        trainer = SFTTrainer(**shared, args=args, train_dataset=Dataset.from_list(rows))
    else:
        trainer = DPOTrainer(**shared, args=DPOConfig(**options, beta=0.1), train_dataset=Dataset.from_list(pairs))
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return clock.seconds, [one["loss"] for one in trainer.state.log_history if "loss" in one]


def ours(method: str, model: Path, data: Path, folder: Path, **more: Any) -> tuple[float, list[float]]:
    """Seconds of the steps, and the losses, of `diq train`."""
    diq.train(
        str(data), model=str(model), output=folder, store=folder.parent / "none.duckdb", method=method, epochs=EPOCHS,
        learning_rate=1e-4, batch_size=BATCH_SIZE, micro_batch_size=MICRO_BATCH_SIZE, device="cpu", seed=0,
        max_length=1024, warmup_ratio=1 / (SAMPLES / BATCH_SIZE), save_steps=None, **more,
    )  # fmt: skip
    record = json.loads((folder / "diq_run.json").read_text())["result"]
    return record["seconds"], [one["loss"] for one in record["curve"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    print(f"{date.today()}, torch {torch.__version__}, {torch.get_num_threads()} threads; {SAMPLES} samples")
    print(f"{'method':8} {'TRL, s':>18} {'ours, s':>18} {'TRL / ours':>20} {'ours, packed':>14}")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        model, pairs = make_model(root / "model"), made_pairs()
        data = root / "pairs.jsonl"
        data.write_text("".join(json.dumps(one) + "\n" for one in pairs))
        for method in ("sft", "dpo"):
            times: dict[str, list[float]] = {"trl": [], "ours": [], "packed": []}
            losses: dict[str, list[float]] = {}
            for turn in range(repeats + 1):
                # every other turn begins with the other one
                order = ["trl", "ours", *(["packed"] if method == "sft" else [])]
                for one in order[:: 1 if turn % 2 else -1]:
                    folder = root / f"{method}-{one}-{turn}"
                    if one == "trl":
                        seconds, losses[one] = plain_trl(method, model, pairs, folder)
                    else:
                        more = {"packing": True} if one == "packed" else {}
                        seconds, losses[one] = ours(method, model, data, folder, **more)
                    # the first turn warms caches
                    if turn:
                        times[one].append(seconds)
            np.testing.assert_allclose(losses["ours"], losses["trl"], rtol=1e-4)
            if times["packed"]:
                np.testing.assert_allclose(losses["packed"], losses["ours"], rtol=1e-4)
            ratios = [a / b for a, b in zip(times["trl"], times["ours"], strict=True)]
            shown = [
                f"{statistics.median(times[one]):.2f} ({min(times[one]):.2f}-{max(times[one]):.2f})"
                for one in ("trl", "ours")
            ]
            packed = f"{statistics.median(times['packed']):.2f}" if times["packed"] else "-"
            ratio = f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"
            print(f"{method:8} {shown[0]:>18} {shown[1]:>18} {ratio:>20} {packed:>14}", flush=True)


if __name__ == "__main__":
    main()
