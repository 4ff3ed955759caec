"""Encoders: tokens, splits, batches, fine-tuning and folders, against obvious forms."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import WORDS, build_tokenizer, run_killed
from diq.base.errors import ModelError, RunFailedError
from diq.encoders import fitting
from diq.encoders import network as encoders
from diq.encoders.fitting import Examples, FitSettings
from diq.encoders.folder import RECORD, read_record, save
from diq.models import memory
from diq.models.source import find_model


@pytest.fixture(scope="module")
def base(tiny_encoder_folder: Path) -> Path:
    """A text encoder without a head."""
    return tiny_encoder_folder


def some_texts(n: int, *, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 60))) for _ in range(n)]


def load(base: Path, n: int = 5, seed: int = 0) -> tuple[Any, Any]:
    return encoders.load_encoder(
        find_model(str(base)), labels=[f"overall_{i + 1}" for i in range(n)], regression=False, seed=seed
    )


@pytest.mark.parametrize("max_length", [3, 10, 48])
def test_tokens_are_those_of_a_truncating_tokenizer(base: Path, max_length: int) -> None:
    _, tokenizer = load(base)
    texts = [*some_texts(30), "", "a"]
    ids, cut = encoders.tokenize(tokenizer, texts, max_length=max_length)
    for text, found, is_cut in zip(texts, ids, cut, strict=True):
        assert found.tolist() == tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
        assert is_cut == (len(tokenizer(text)["input_ids"]) > max_length)
    assert 0 < cut.sum() < len(texts)


def test_tokens_without_special_tokens() -> None:
    tokenizer = build_tokenizer()
    ids, cut = encoders.tokenize(tokenizer, ["fever " * 30], max_length=7)
    assert ids[0].tolist() == tokenizer("fever " * 30, truncation=True, max_length=7)["input_ids"]
    assert cut.all()


def test_predictions_are_those_of_one_text_at_a_time(base: Path) -> None:
    model, tokenizer = load(base)
    model.double()
    ids, _ = encoders.tokenize(tokenizer, some_texts(41), max_length=48)
    with torch.no_grad():
        model.eval()
        slow = np.concatenate([model(input_ids=torch.from_numpy(one[None].astype(np.int64))).logits for one in ids])
    for budget in (1, 100, 333, 10_000):
        assert encoders.predict(model, tokenizer, ids, token_budget=budget) == pytest.approx(slow, abs=1e-12)
    turned = encoders.predict(model, tokenizer, ids[::-1], token_budget=100)
    assert turned[::-1] == pytest.approx(slow, abs=1e-12)
    model.train()
    encoders.predict(model, tokenizer, ids[:2])
    assert model.training


def test_the_context_leaves_out_positions_of_the_padding() -> None:
    from transformers import BertConfig, RobertaConfig

    tokenizer = build_tokenizer()
    assert encoders.context_length(BertConfig(max_position_embeddings=512), tokenizer) == 512
    assert encoders.context_length(RobertaConfig(max_position_embeddings=514, pad_token_id=1), tokenizer) == 512
    tokenizer.model_max_length = 100
    assert encoders.context_length(BertConfig(max_position_embeddings=512), tokenizer) == 100


def test_the_split_is_a_function_of_seed_and_question_alone() -> None:
    texts = [f"question {i}" for i in range(4000)]
    split = encoders.split_of(texts, seed=1)
    assert (encoders.split_of(texts[::-1], seed=1)[::-1] == split).all()
    assert (encoders.split_of(texts[7:9], seed=1) == split[7:9]).all()
    assert (encoders.split_of([f"  Question \n {i}" for i in range(4000)], seed=1) == split).all()
    assert (encoders.split_of(texts, seed=2) != split).mean() > 0.2
    # binomial: four standard deviations
    for number, share in enumerate((0.8, 0.1, 0.1)):
        assert abs((split == number).mean() - share) < 4 * np.sqrt(share * (1 - share) / len(texts))
    halves = encoders.split_of(texts, seed=1, shares=(2, 1, 1))
    assert abs((halves == 0).mean() - 0.5) < 4 * np.sqrt(0.25 / len(texts))
    # a larger training share only takes questions from the others
    assert (halves[split == 2] == 2).all()


def by_word(base: Path, n: int = 200) -> tuple[Any, Any, Examples]:
    """Texts whose label, 1 or 5, is whether they name a drug."""
    model, tokenizer = load(base)
    texts = [" ".join(text.split()[:6]) for text in some_texts(n)]
    drugs = ("aspirin", "ibuprofen", "metformin", "insulin", "lisinopril")
    levels = np.asarray([[5.0 if any(one in text for one in drugs) else 1.0] for text in texts])
    ids, _ = encoders.tokenize(tokenizer, texts, max_length=48)
    return model, tokenizer, Examples(ids, levels)


def cross_entropy(logits: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, levels[:, 0].long() - 1)


def accuracy(logits: np.ndarray, levels: np.ndarray) -> float:
    return float((logits.argmax(axis=1) + 1 == levels[:, 0]).mean())


SETTINGS = FitSettings(epochs=6, learning_rate=1e-2, batch_size=16, patience=3, max_length=48)


@pytest.mark.slow
def test_fitting_learns_and_keeps_the_best_epoch(base: Path) -> None:
    model, tokenizer, examples = by_word(base)
    before = accuracy(encoders.predict(model, tokenizer, examples.ids), examples.targets)
    seen: list[tuple[int, int]] = []
    found = fitting.fit(
        model,
        tokenizer,
        examples,
        examples,
        loss=cross_entropy,
        measure=accuracy,
        settings=SETTINGS,
        progress=lambda _what, done, total: seen.append((done, total)),
    )
    after = accuracy(encoders.predict(model, tokenizer, examples.ids), examples.targets)
    assert after > max(0.9, before)
    assert after == found.best_measure == max(one["measure"] for one in found.history)
    assert found.history[0]["loss"] > found.history[-1]["loss"]
    assert seen[-1][1] == 13 * 6
    assert not model.training
    assert not any(one.requires_grad for one in model.parameters())


def test_fitting_stops_when_nothing_gets_better(base: Path) -> None:
    model, tokenizer, examples = by_word(base, 40)
    values = iter([0.1, 0.5, 0.4, 0.3, 0.2, 0.9])
    found = fitting.fit(
        model, tokenizer, examples, examples, loss=cross_entropy, measure=lambda *_: next(values), settings=SETTINGS
    )
    assert (found.best_epoch, found.best_measure, len(found.history)) == (2, 0.5, 5)


def test_the_same_seed_gives_the_same_bits(base: Path) -> None:
    outputs = []
    for seed in (0, 0, 1):
        model, tokenizer = load(base, seed=seed)
        _, _, examples = by_word(base, 40)
        fitting.fit(
            model, tokenizer, examples, examples, loss=cross_entropy, measure=accuracy,
            settings=FitSettings(epochs=2, learning_rate=1e-3, batch_size=8, seed=seed),
        )  # fmt: skip
        outputs.append(encoders.predict(model, tokenizer, examples.ids))
    assert (outputs[0] == outputs[1]).all()
    assert (outputs[0] != outputs[2]).any()


def test_a_step_in_parts_is_the_same_step(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, losses, sizes = [], [], set()
    for budget in (10_000, 100):
        monkeypatch.setitem(memory._TOKEN_BUDGETS, "fitting", (budget, budget))
        model, tokenizer, examples = by_word(base, 64)

        def loss(logits: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
            sizes.add(len(logits))
            return cross_entropy(logits, levels)

        found = fitting.fit(
            model, tokenizer, examples, examples, loss=loss, measure=accuracy,
            settings=FitSettings(epochs=2, learning_rate=1e-3, batch_size=16),
        )  # fmt: skip
        losses.append([one["loss"] for one in found.history])
        weights.append(torch.cat([one.flatten() for one in model.parameters()]))
    assert sizes == {16, 4}
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    # Adam divides by the size of the gradient, so rounding is magnified where that is tiny
    assert torch.quantile((weights[0] - weights[1]).abs(), 0.99) < 1e-5
    assert (weights[0] != weights[1]).any()


def test_a_loss_that_is_no_number_ends_the_run(base: Path) -> None:
    model, tokenizer, examples = by_word(base, 40)
    with pytest.raises(RunFailedError, match="training loss is nan") as error:
        fitting.fit(
            model, tokenizer, examples, examples,
            loss=lambda logits, _: logits.sum() * float("nan"), measure=accuracy, settings=SETTINGS,
        )  # fmt: skip
    assert "--learning-rate" in error.value.hint


def test_a_saved_folder_is_a_normal_one(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = load(base)
    ids, _ = encoders.tokenize(tokenizer, some_texts(5), max_length=48)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.txt").write_text("old")
    save(model, tokenizer, tmp_path / "out", card="# card\n", record={"kind": "test"})
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert again.config.id2label[4] == "overall_5"
    spoken = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (encoders.predict(again, spoken, ids) == encoders.predict(model, tokenizer, ids)).all()
    assert read_record(tmp_path / "out") == {"kind": "test"}
    assert (tmp_path / "out" / "README.md").read_text() == "# card\n"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out"]
    assert not (tmp_path / "out" / "old.txt").exists()
    assert read_record(base) is None
    (tmp_path / "out" / RECORD).write_text("{")
    with pytest.raises(ModelError, match="is damaged"):
        read_record(tmp_path / "out")


def save_until(at: int, base: Path, place: Path) -> None:
    """Replace a model in a process that is killed where it is to move something once more than ``at`` times."""
    model, tokenizer = encoders.load_encoder(find_model(str(base)), labels=["a"], regression=True, seed=1)
    replace, moves = Path.replace, itertools.count()

    def killed(part: Path, target: Any) -> Path:
        if next(moves) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(part, target)

    Path.replace = killed  # type: ignore[method-assign]
    save(model, tokenizer, place, card="", record={"kind": "new"})


@pytest.mark.slow
def test_a_kill_while_a_model_is_replaced_keeps_one(base: Path, tmp_path: Path) -> None:
    model, tokenizer = load(base)
    for at in range(3):
        place = tmp_path / str(at)
        save(model, tokenizer, place, card="", record={"kind": "old"})
        run_killed(save_until, at, base, place)
    for at, kind in enumerate(["old", "new", "new"]):
        kept = tmp_path / str(at)
        assert encoders.load_encoder(find_model(str(kept)), labels=["a"], regression=True, seed=2)[0].num_labels == 1
        assert read_record(kept) == {"kind": kind}
    assert sorted(one.name for one in tmp_path.iterdir()) == ["0", "1", "2"]


def test_a_full_disk_leaves_what_was_there(base: Path, small_disk: Any) -> None:
    disk = small_disk(64)
    (disk / "out").mkdir()
    (disk / "out" / "old.txt").write_text("old")
    model, tokenizer = load(base)
    with pytest.raises(RunFailedError, match="is full: `out` was not written"):
        save(model, tokenizer, disk / "out", card="", record={})
    assert [one.name for one in disk.iterdir()] == ["out"]
    assert (disk / "out" / "old.txt").read_text() == "old"


def test_what_is_no_encoder_is_refused(tmp_path: Path, base: Path) -> None:
    model, tokenizer = load(base)
    broken = tmp_path / "broken"
    model.save_pretrained(broken)
    with pytest.raises(ModelError, match="has no tokenizer"):
        load(broken)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(broken)
    config = json.loads((broken / "tokenizer_config.json").read_text())
    config.pop("pad_token", None)
    (broken / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="no padding token"):
        load(broken)
    (broken / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(ModelError, match="cannot be loaded as a text encoder"):
        load(broken)


def test_a_trained_classifier_can_be_trained_further_for_other_labels(base: Path, tmp_path: Path) -> None:
    model, tokenizer = load(base, n=5)
    save(model, tokenizer, tmp_path / "five", card="", record={})
    more, _ = load(tmp_path / "five", n=15)
    assert more.config.num_labels == 15
    body = {name: one for name, one in model.state_dict().items() if not name.startswith("classifier")}
    assert all((more.state_dict()[name] == one).all() for name, one in body.items())


class Bomb:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> Any:
        return sys.exit, (1,)


def test_code_of_a_folder_is_never_run(base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "own"))
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    own = {"AutoConfig": "code.Own", "AutoModelForSequenceClassification": "code.OwnModel"}
    (folder / "code.py").write_text("raise SystemExit('code of the folder ran')\n", encoding="utf-8")
    # an encoder that transformers knows needs none of it
    file.write_text(json.dumps(config | {"auto_map": own}), encoding="utf-8")
    load(folder)
    file.write_text(json.dumps(config | {"auto_map": own, "model_type": "own"}), encoding="utf-8")
    for refused in (lambda: load(folder), lambda: encoders.load_classifier(folder, torch.float32)):
        with pytest.raises(ModelError, match=r"needs code of its own \(a class that its config.json names\)"):
            refused()
    # nor a pickle's
    file.write_text(json.dumps(config), encoding="utf-8")
    (folder / "model.safetensors").unlink()
    torch.save({"x": Bomb()}, folder / "pytorch_model.bin")
    for refused in (lambda: load(folder), lambda: encoders.load_classifier(folder, torch.float32)):
        with pytest.raises(ModelError, match=r"the weights of .* are a pickle that names `sys.exit`"):
            refused()
    # the question of transformers, whether to run it, was not asked
    assert capfd.readouterr().out == ""
