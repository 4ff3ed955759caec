"""Which folders are taken for a language model, and why others are not."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import build_llama, build_tokenizer
from diq.base.errors import ModelError
from diq.models.architecture import loader_of, read_config
from diq.models.network import load_causal_lm
from diq.models.source import find_adapter, find_model
from diq.models.tokens import load_tokenizer
from models.vision_language import build

BERT = {
    "vocab_size": 400,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "initializer_range": 0.2,
}


def refused(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_causal_lm(find_model(folder))
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value.message


def test_models_for_other_tasks(tiny_classifier_folder: Path, tmp_path: Path) -> None:
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        BertLMHeadModel,
        LlamaForSequenceClassification,
        T5Config,
        T5ForConditionalGeneration,
    )

    assert "holds a BertForSequenceClassification, which is no causal" in refused(tiny_classifier_folder)
    BertForMaskedLM(BertConfig(**BERT)).save_pretrained(tmp_path / "masked")
    assert "holds a BertForMaskedLM, which is no causal language model" in refused(tmp_path / "masked")
    LlamaForSequenceClassification(build_llama().config).save_pretrained(tmp_path / "classifier")
    assert "holds a LlamaForSequenceClassification, which is no" in refused(tmp_path / "classifier")
    small = {"vocab_size": 400, "d_model": 32, "d_ff": 48, "num_layers": 1, "num_heads": 2, "d_kv": 16}
    T5ForConditionalGeneration(T5Config(**small)).save_pretrained(tmp_path / "t5")
    assert "holds a T5ForConditionalGeneration, an encoder-decoder" in refused(tmp_path / "t5")
    # the class of a decoder around an encoder: only a run shows what it is
    torch.manual_seed(0)
    BertLMHeadModel(BertConfig(**BERT)).save_pretrained(tmp_path / "encoder")
    assert "sees the tokens after the one that it predicts" in refused(tmp_path / "encoder")
    BertLMHeadModel(BertConfig(**BERT, is_decoder=True)).save_pretrained(tmp_path / "decoder")
    load_causal_lm(find_model(tmp_path / "decoder"))


def test_weights_that_are_not_there_are_not_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = build_llama(tied=False)
    model.model.save_pretrained(tmp_path / "headless")
    assert "lacks 1 weights of a LlamaForCausalLM, first `lm_head.weight`" in refused(tmp_path / "headless")
    # with tied embeddings there is nothing missing
    build_llama(tied=True).model.save_pretrained(tmp_path / "tied")
    load_causal_lm(find_model(tmp_path / "tied"))
    model.save_pretrained(tmp_path / "part")
    file = tmp_path / "part" / "model.safetensors"
    tensors = load_file(file)
    save_file({name: one for name, one in tensors.items() if "layers.1" not in name}, file, {"format": "pt"})
    assert "lacks 9 weights of a LlamaForCausalLM, first `model.layers.1." in refused(tmp_path / "part")
    # weights of another size than the config says
    model.save_pretrained(tmp_path / "wide")
    config = json.loads((tmp_path / "wide" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "wide" / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}), encoding="utf-8")
    assert "6 weights of" in refused(tmp_path / "wide")
    assert "do not fit its config, first `model.layers.0.mlp.down_proj.weight`: [48, 96] in the file" in refused(
        tmp_path / "wide"
    )


def test_code_of_a_folder_is_never_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build_llama().save_pretrained(tmp_path / "own")
    file = tmp_path / "own" / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    own = {"AutoConfig": "code.OwnConfig", "AutoModelForCausalLM": "code.OwnModel"}
    (tmp_path / "own" / "code.py").write_text("raise SystemExit('code of the folder ran')\n", encoding="utf-8")
    # an architecture that transformers knows needs none of it
    file.write_text(json.dumps(config | {"auto_map": own}), encoding="utf-8")
    load_causal_lm(find_model(tmp_path / "own"))
    file.write_text(json.dumps(config | {"auto_map": own, "model_type": "own"}), encoding="utf-8")
    wants = "needs code of its own (a class that its config.json names), which diq never runs"
    assert wants in refused(tmp_path / "own")
    # one that breaks by something else is not told so
    file.write_text(json.dumps(config | {"auto_map": own, "hidden_size": "x"}), encoding="utf-8")
    assert "has no usable config" in refused(tmp_path / "own")
    file.write_text(json.dumps(config | {"model_type": "own"}), encoding="utf-8")
    assert "has no usable config" in refused(tmp_path / "own")
    # a kernel is fetched and run
    for kernel in ({"attn_implementation": "me/evil"}, {"text_config": {"_attn_implementation": "flash|me/evil:x"}}):
        file.write_text(json.dumps(config | kernel), encoding="utf-8")
        assert "wants code from elsewhere (`" in refused(tmp_path / "own")
    file.write_text(json.dumps(config | {"attn_implementation": "eager"}), encoding="utf-8")
    load_causal_lm(find_model(tmp_path / "own"))
    # a tokenizer of its own
    build_tokenizer().save_pretrained(tmp_path / "own")
    named = tmp_path / "own" / "tokenizer_config.json"
    tokenizer = json.loads(named.read_text(encoding="utf-8"))
    tokenizer |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["code.Own", None]}}
    named.write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(ModelError, match=r"needs code of its own .a class that its tokenizer_config.json names"):
        load_tokenizer(find_model(tmp_path / "own"))
    # the question of transformers, whether to run it, was not asked
    assert capfd.readouterr().out == ""


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_of_more_than_tensors_is_one_line_and_not_run(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    build_llama().save_pretrained(tmp_path / "plain")
    model = Path(shutil.copytree(tmp_path / "plain", tmp_path / "model"))
    (model / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Bomb(tmp_path / "ran")}, model / "pytorch_model.bin")
    names = r"are a pickle that names `(posix|nt|os).mkdir`, and diq reads nothing but tensors from one"
    assert re.search(f"the weights of `{model}` {names}", refused(model))
    adapter = tmp_path / "adapter"
    get_peft_model(build_llama(), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained(adapter)
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({"x": Bomb(tmp_path / "ran")}, adapter / "adapter_model.bin")
    base = find_model(tmp_path / "plain")
    with pytest.raises(ModelError, match=f"the weights of `{adapter}` {names}") as caught:
        load_causal_lm(base, adapter=find_adapter(adapter, base))
    assert "\n" not in caught.value.message
    assert not (tmp_path / "ran").exists()


def test_a_model_that_its_whole_cannot_run_is_run_in_part(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build("llama4").save_pretrained(tmp_path / "llama4")
    source = find_model(tmp_path / "llama4")
    assert loader_of(source, read_config(source)).__name__ == "AutoModelForImageTextToText"
    with caplog.at_level(logging.INFO, logger="diq"):
        network = load_causal_lm(source)
    ids = torch.arange(6)[None]
    with torch.no_grad():
        assert torch.equal(network(input_ids=ids).logits, network.language_model(input_ids=ids).logits)
