"""The probe: it really runs, what it reports is consistent with itself, and hours are tokens over its rate."""

from __future__ import annotations

import importlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ingest_rows, write_jsonl
from diq.base.errors import ModelError, RunFailedError, UsageError
from diq.costs.account import FULL
from diq.costs.cost import cost
from diq.costs.options import ProbeOptions
from diq.costs.probe import Probe, Rate, _measure, _spread
from diq.models.source import find_model
from diq.models.tokens import Tokens, load_tokenization

# diq.probe as an attribute is the verb
probe: Any = importlib.import_module("diq.costs.probe")


def sample(n: int) -> Tokens:
    return Tokens(np.arange(n, dtype=np.int32), 1)


def check(rate: Rate) -> None:
    assert 0 < rate.least <= rate.mean <= rate.most
    assert rate.batches >= 1
    assert rate.tokens > 0
    assert rate.seconds > 0
    assert rate.mean == pytest.approx(rate.tokens / rate.seconds)
    assert rate.batch_tokens > 0


@pytest.fixture
def store(tmp_path: Path, make_samples: Any) -> Path:
    path = tmp_path / "s.duckdb"
    ingest_rows(path, make_samples(300, reasoning=True))
    return path


def test_a_dataset_is_measured_and_hours_follow(
    store: Path, tiny_llama_folder: Path, tiny_classifier_folder: Path
) -> None:
    seen: list[tuple[int, int]] = []
    measured = probe.probe(
        "pool",
        model=str(tiny_llama_folder),
        store=store,
        seconds=1.2,
        rater=str(tiny_classifier_folder),
        validation_sets=2,
        lora_rank=4,
        device="cpu",
        progress=lambda _what, done, total: seen.append((done, total)),
    )
    assert set(measured.rates) == {"exact", "projected", "training", "encoder"}
    for rate in measured.rates.values():
        check(rate)
    assert (measured.samples, measured.made_text, measured.device, measured.dtype) == (256, False, "cpu", "float32")
    assert seen == [(i, 4) for i in range(5)]
    assert measured.peak is None
    assert measured.share_of_peak("exact", 1.0) is None
    json.dumps(measured.to_dict())
    found = cost(
        "pool", model=str(tiny_llama_folder), store=store, ratio="0.1",
        characters_per_token=measured.characters_per_token,
    )  # fmt: skip
    # its own ratio gives back the tokens that the tokenizer counts
    tokenization = load_tokenization(find_model(str(tiny_llama_folder)), max_length=512)
    rows = [json.loads(line)["messages"] for line in store.with_name("pool-0.jsonl").read_text().splitlines()]
    true = sum(len(one.ids) for one in tokenization.encode(rows) if isinstance(one, Tokens))
    assert found.plan.lengths.tokens == pytest.approx(true, rel=0.03)
    measured.fill(found)
    for step in found.steps:
        if step.rate is None:
            assert step.hours is None
        else:
            rate = measured.rates[step.rate]
            middle, least, most = step.hours or (0, 0, 0)
            assert middle == pytest.approx(step.tokens / rate.mean / 3600)
            assert least <= middle <= most
            assert most == pytest.approx(step.tokens / rate.least / 3600)
    tenth, full = (found.step(name).hours or (0, 0, 0) for name in ("train on 10 %", FULL))
    assert full[0] == pytest.approx(10 * tenth[0])


@pytest.mark.parametrize("params", ["all-linear", "full"])
def test_made_text_of_a_length(tiny_llama_folder: Path, params: str) -> None:
    measured = probe.probe(
        model=str(tiny_llama_folder), tokens=40, seconds=0.3, params=params, device="cpu", gradient_checkpointing=True
    )
    assert (measured.made_text, measured.tokens_a_sample, measured.characters_per_token) == (True, 40, None)
    assert set(measured.rates) == {"exact", "projected", "training"}
    for rate in measured.rates.values():
        check(rate)
    # the made samples are cut where real ones would be
    short = probe.probe(model=str(tiny_llama_folder), tokens=40, seconds=0.1, max_length=16, device="cpu")
    assert short.tokens_a_sample == 16


def test_a_file_is_measured(tmp_path: Path, make_samples: Any, tiny_llama_chat_folder: Path) -> None:
    path = write_jsonl(tmp_path / "pool.jsonl", [{"messages": one} for one in make_samples(20)])
    measured = probe.probe(str(path), model=str(tiny_llama_chat_folder), seconds=0.2, device="cpu")
    assert measured.samples == 20
    check(measured.rates["exact"])


def test_the_sample_is_spread_over_the_dataset(store: Path) -> None:
    import orjson

    from diq.store.store import Store

    lines = [orjson.loads(line)["messages"] for line in store.with_name("pool-0.jsonl").read_bytes().splitlines()]
    with Store(store, read_only=True) as opened:
        number = opened.dataset("pool")["dataset_id"]
        for n in (1, 7, 256, 299, 300, 1000):
            rows = [
                orjson.loads(row["messages"]) for row in opened.rows("costs/spread_samples", dataset_id=number, n=n)
            ]
            places = [lines.index(one) for one in rows]
            assert len(places) == min(n, 300)
            assert places == sorted(set(places))
            assert places[0] == 0
            gaps = np.diff([*places, 300])
            assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("n", [1, 2, 5, 8, 63])
def test_every_beginning_of_the_order_is_spread(n: int) -> None:
    order = _spread(n)
    assert sorted(order) == list(range(n))
    for end in range(1, n + 1):
        gaps = np.diff([-1, *sorted(order[:end]), n])
        # no part is left out: the largest gap is at most about twice what an even spread has
        assert gaps.max() <= 2 * (n / end) + 1


def test_measuring_by_a_clock_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token takes 10 ms on a clock that only the work moves, but twice that in the first seconds."""
    now = 0.0
    done: list[int] = []
    slow_until = 0.0

    def step(batch: Any) -> None:
        nonlocal now
        n = sum(len(one.ids) for one in batch)
        done.append(n)
        now += (0.02 if now < slow_until else 0.01) * n

    monkeypatch.setattr(probe.time, "monotonic", lambda: now)
    monkeypatch.setattr(probe.time, "perf_counter", lambda: now)
    batches = [[sample(n)] * 2 for n in (50, 40, 30, 20, 10)]
    rate = _measure(batches, step, 20.0)
    assert (rate.least, rate.mean, rate.most) == pytest.approx((100, 100, 100))
    # the first batch warms up; the rest is spread, and ends soon after its time
    assert done[:6] == [100, 100, 20, 60, 80, 40]
    assert (rate.batches, rate.tokens) == (len(done) - 1, sum(done[1:]))
    assert 20 <= rate.seconds < 21
    assert rate.batch_tokens == 100
    # no time at all still measures four batches
    rate = _measure(batches, step, 1e-9)
    assert (rate.batches, rate.tokens) == (4, 260)
    assert _measure(batches[:1], step, 1e-9).batches == 1
    # a machine that is slow for a while shows it
    slow_until = now + 8
    rate = _measure(batches, step, 20.0)
    assert rate.least == pytest.approx(50, rel=0.2)
    assert rate.most == pytest.approx(100)
    assert rate.least < rate.mean < rate.most


def test_training_halves_its_batches_when_memory_is_short(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = probe._measure
    largest = 2

    def short(batches: Any, step: Any, time_s: float) -> Rate:
        if max(len(one) for one in batches) > largest:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return whole(batches, step, time_s)

    options = ProbeOptions(model=str(tiny_llama_folder), lora_rank=4)
    settings = probe.EngineSettings(model=find_model(str(tiny_llama_folder)), device="cpu")
    samples = [Tokens(np.full(9, 7, np.int32), 2)] * 16
    monkeypatch.setattr(probe, "_measure", short)
    with caplog.at_level(logging.WARNING, logger="diq"):
        rate = probe._training(settings, samples, options, 0.05)
    assert rate.batch_tokens == 2 * 9
    assert caplog.text.count("samples at a time: going on with") == 2
    largest = 0
    with pytest.raises(RunFailedError, match="out of memory on training with one sample of 9 tokens"):
        probe._training(settings, samples, options, 0.05)


def test_what_cannot_be_measured_is_refused(store: Path, tiny_llama_folder: Path, tmp_path: Path) -> None:
    model = str(tiny_llama_folder)
    with pytest.raises(UsageError, match=r"seconds=0\.0 is out of range"):
        probe.probe("pool", model=model, store=store, seconds=0)
    with pytest.raises(UsageError, match="there is nothing to measure with"):
        probe.probe(model=model)
    with pytest.raises(TypeError, match=r"probe\(\) has no option `second`; did you mean `seconds`"):
        probe.probe("pool", model=model, second=1)
    with pytest.raises(UsageError, match="no dataset named `pol`"):
        probe.probe("pol", model=model, store=store)
    with pytest.raises(ModelError, match="there is no model folder"):
        probe.probe("pool", model=str(tmp_path / "no"), store=store)
    with pytest.raises(UsageError, match="no sample has an answer token within 2 tokens"):
        probe.probe("pool", model=model, store=store, max_length=2)


def test_the_share_of_a_known_peak() -> None:
    measured = Probe("NVIDIA H100 80GB HBM3", "bfloat16", 1, 10.0, True, None, peak=989e12)
    measured.rates["exact"] = Rate(10_000.0, 9_000.0, 11_000.0, 3, 100, 0.03, 100)
    # 10,000 tokens/s of 30 GFLOP each
    assert measured.share_of_peak("exact", 30e9) == pytest.approx(3e14 / 989e12)
    assert measured.share_of_peak("training", 30e9) is None
