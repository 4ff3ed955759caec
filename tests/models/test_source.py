"""Fingerprints of models, as stores hold them: computed by the code that wrote those (commit 080ce4f)."""

from __future__ import annotations

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
    config = '{"r": 8, "peft_version": "1", "base_model_name_or_path": ""}'
    files = {"adapter_config.json": config, "adapter_model.safetensors": "low rank"}
    adapter = write(tmp_path / "adapter", files)
    assert find_adapter(str(adapter), find_model(str(model))).model_id == "5b506f23d9a520200aeafc9e9c073168"


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
