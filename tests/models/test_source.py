"""Fingerprints of models, as stores hold them: computed by the code that wrote those (commit 080ce4f)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from diq.base.errors import ModelError
from diq.models.source import find_adapter, find_model, fingerprint_folder, fingerprint_with


def write(folder: Path, texts: Mapping[str, str]) -> Path:
    """A folder of files; only their bytes count."""
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What stands for a model in two files."""
    return write(
        tmp_path / "model",
        {
            "config.json": '{"b": 1, "a": "x", "transformers_version": "5"}',
            "model-1.safetensors": "one",
            "model-2.safetensors": "two",
        },
    )


def test_a_model(model: Path, tmp_path: Path) -> None:
    assert fingerprint_folder(model) == find_model(str(model)).model_id == "454a69dd2ec41568824bae1476035b8c"
    # neither the name of the folder nor the library that saved it is part of what it is
    (model / "config.json").write_text('{"a": "x", "b": 1}')
    assert fingerprint_folder(model.rename(tmp_path / "other")) == "454a69dd2ec41568824bae1476035b8c"


def test_an_adapter(model: Path, tmp_path: Path) -> None:
    config = '{"peft_type": "LORA", "r": 8, "peft_version": "1", "base_model_name_or_path": ""}'
    files = {"adapter_config.json": config, "adapter_model.safetensors": "low rank"}
    adapter = write(tmp_path / "adapter", files)
    assert find_adapter(str(adapter), find_model(str(model))).model_id == "7bc05d494db6a92aa75a89707d736b7a"


def test_a_sentence_encoder(tmp_path: Path) -> None:
    from diq.baselines.similarity import find_encoder

    encoder = write(
        tmp_path / "encoder",
        {
            "modules.json": '[{"path": ""}, {"path": "1_Pooling"}]',
            "config.json": "{}",
            "model.safetensors": "w",
            "vocab.txt": "a\nb",
            "1_Pooling/config.json": '{"p": 1}',
            "README.md": "not read",
        },
    )
    assert find_encoder(str(encoder)).model_id == "4d521b3c2c4f39912e260bf7cacbf1c4"


@pytest.mark.parametrize(
    ("dimensions", "wanted"),
    [
        (("knowledge", "reasoning", "overall"), "47af90b943b659b22e70aab6504bf2b3"),
        (("knowledge", "reasoning"), "99910bd5ef02de4308e68ba506062e8d"),
    ],
)
def test_a_classifier_of_several_models(tmp_path: Path, dimensions: tuple[str, ...], wanted: str) -> None:
    from diq.difficulty.classifier import find_classifier

    for one in dimensions:
        write(tmp_path / "classifier" / one, {"config.json": '{"n": 5}', "model.safetensors": f"w{one}"})
    assert find_classifier(str(tmp_path / "classifier")).model_id == wanted


def test_a_rater(model: Path) -> None:
    scales = [
        {"name": "a", "n_samples": 3, "digest": "d", "dots": [0.0, 1.0], "targets": [0.0, 2.0], "half_width": 0.5}
    ]
    assert fingerprint_with(model, scales) == "2da86ee52b8fc7c7caf0cc45639321a5"


def test_a_folder_that_is_no_model(model: Path, tmp_path: Path) -> None:
    for one in model.glob("*.safetensors"):
        one.unlink()
    with pytest.raises(ModelError, match="has no weights"):
        fingerprint_folder(model)
    with pytest.raises(ModelError, match=r"has no config\.json"):
        fingerprint_with(tmp_path, [])


@pytest.mark.parametrize(
    "text",
    ["not JSON", "", "{", "[1, 2]", "null", "\ud800", "[" * 10**5, '{"a": ' * 10**5],
    ids=lambda text: repr(text[:9]),
)
@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_a_damaged_config_is_one_line(model: Path, tmp_path: Path, name: str, text: str) -> None:
    folder = write(tmp_path / "folder", {"model.safetensors": "w", "adapter_model.safetensors": "w"})
    (folder / name).write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(ModelError, match=rf"{name}` (is not JSON|holds no JSON object)"):
        find_adapter(str(folder), find_model(str(model)))


@pytest.mark.parametrize("kind", ["IA3", "PROMPT_TUNING", "FOO", None])
def test_an_adapter_of_another_type_is_refused(model: Path, tmp_path: Path, kind: str | None) -> None:
    config = json.dumps({} if kind is None else {"peft_type": kind})
    adapter = write(tmp_path / "adapter", {"adapter_config.json": config, "adapter_model.safetensors": "w"})
    with pytest.raises(ModelError, match=f"is of type {kind or 'none that it tells'}, not LoRA"):
        find_adapter(str(adapter), find_model(str(model)))


def test_a_whole_model_of_another_shape_is_no_checkpoint(tmp_path: Path) -> None:
    base = write(tmp_path / "base", {"config.json": '{"num_hidden_layers": 2}', "model.safetensors": "w"})
    deeper = write(tmp_path / "deeper", {"config.json": '{"num_hidden_layers": 3}', "model.safetensors": "v"})
    tuned = write(tmp_path / "tuned", {"config.json": '{"num_hidden_layers": 2}', "model.safetensors": "u"})
    source = find_model(str(base))
    with pytest.raises(ModelError, match=r"is no checkpoint of .*: its num_hidden_layers is 3, not 2"):
        find_adapter(str(deeper), source)
    assert find_adapter(str(tuned), source).name == "base+tuned"
