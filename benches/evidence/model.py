"""The model of the evidence: a small Llama, made on the spot of text that is in no pool and no validation set."""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path

import torch
import transformers
from worlds import Row

from diq.demo.models import END, make_tokenizer

_BLOCK, _BLOCKS = 256, 16
_RATE = 3e-3


def make_model(rows: list[Row], folder: Path, *, steps: int, hidden: int = 128, layers: int = 4) -> None:
    """Train for so many steps of 4,096 tokens; as many steps give the same model."""
    texts = [f"{row.question} {row.answer}" for row in rows]
    tokenizer = make_tokenizer(texts, vocabulary=4096)
    chats = [tokenizer.apply_chat_template(row.messages(), tokenize=False) for row in rows]
    random.Random(0).shuffle(chats)
    ids = torch.tensor([one for line in tokenizer(chats, add_special_tokens=False)["input_ids"] for one in line])
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=hidden * 8 // 3,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 32,
            num_key_value_heads=hidden // 64,
            head_dim=32,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.convert_tokens_to_ids(END),
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.05, betas=(0.9, 0.95))
    start, losses = time.monotonic(), []
    for step in range(steps):
        rate = min(1.0, (step + 1) / 100) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = _RATE * rate
        starts = torch.randint(len(ids) - _BLOCK, (_BLOCKS,))
        batch = torch.stack([ids[one : one + _BLOCK] for one in starts])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        if step % 50 == 49:
            recent, seconds = sum(losses[-50:]) / 50, time.monotonic() - start
            print(f"step {step + 1} of {steps}: {recent:.3f} nats a token, {seconds:.0f} s", flush=True)
    facts = {
        "parameters": sum(one.numel() for one in model.parameters()),
        "tokens of text": len(ids),
        "tokens seen": steps * _BLOCK * _BLOCKS,
        "loss": round(sum(losses[-50:]) / 50, 3),
    }
    tokenizer.save_pretrained(folder)
    (folder / "made.json").write_text(json.dumps(facts), encoding="utf-8")
    # the last file: its config says that the model is there
    model.save_pretrained(folder)
    print(facts)
