"""Memory that runs out: real allocators that refuse, and what then is halved, said, or left to the caller."""

from __future__ import annotations

import contextlib
import logging
import mmap
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from conftest import build_tokenizer, save_model, sentence, write_jsonl
from diq.base.errors import ModelError, RunFailedError
from diq.models import memory
from diq.models.memory import fitting_tokens, halving, in_halves, is_out_of_memory

# more than any machine has
HUGE = 1 << 50


@contextlib.contextmanager
def tight(megabytes: int) -> Iterator[None]:
    """A real limit: this process gets so much more memory than it has, and no more.

    What is asked for beyond it is refused by the system. Parts above 32 MB are never taken from what was freed before.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    used = int(next(line for line in status.splitlines() if line.startswith("VmData")).split()[1]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + megabytes * 2**20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def wide_llama(intermediate: int) -> Any:
    """A Llama of few weights that needs much memory a token."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400, hidden_size=16, intermediate_size=intermediate, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


# what says so ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.empty(HUGE),
        lambda: np.empty(HUGE),
        lambda: bytearray(1 << 60),
        lambda: pa.allocate_buffer(1 << 60),
        lambda: mmap.mmap(-1, 1 << 55),
    ],
    ids=["torch", "numpy", "python", "arrow", "mmap"],
)
def test_what_real_allocators_say(allocate: Callable[[], object]) -> None:
    with pytest.raises((RuntimeError, MemoryError, OSError)) as caught:
        allocate()
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.86 GB, other allocations: 232.84 MB)."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("unable to mmap 4096 bytes from file </x/model.safetensors>: Cannot allocate memory (12)"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_what_other_devices_say(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        OSError(28, "No space left on device"),
        ValueError("a patient ran out of memory"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_what_is_no_matter_of_memory(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_the_cause_of_an_error_counts_but_one_line_of_ours_is_the_last_word() -> None:
    def wrapped(kind: type[Exception], *, hidden: bool = False) -> Exception:
        try:
            try:
                torch.empty(HUGE)
            except RuntimeError as error:
                if hidden:
                    raise kind("a layer failed") from None
                raise kind("a layer failed") from error
        except kind as error:
            return error
        raise AssertionError

    assert is_out_of_memory(wrapped(ValueError))
    assert not is_out_of_memory(wrapped(ValueError, hidden=True))
    assert not is_out_of_memory(wrapped(ModelError))


# what is done ------------------------------------------------------------------------------------------------------


def test_a_size_is_halved_until_it_fits(caplog: pytest.LogCaptureFixture) -> None:
    tried = []

    def attempt(n: int) -> str:
        tried.append(n)
        torch.empty(HUGE if n > 3 else n)
        return f"{n} at a time"

    with caplog.at_level(logging.WARNING, logger="diq"):
        assert halving(attempt, 13, what="samples", one="", hint="") == "3 at a time"
    assert tried == [13, 6, 3]
    assert caplog.messages == [
        "out of memory with 13 samples at a time: going on with 6",
        "out of memory with 6 samples at a time: going on with 3",
    ]


def test_the_least_size_that_does_not_fit_is_one_line() -> None:
    tried = []

    def attempt(n: int) -> None:
        tried.append(n)
        np.empty(HUGE)

    with pytest.raises(RunFailedError, match="out of memory on one text of 9 tokens") as caught:
        halving(attempt, 12, least=3, smaller=lambda n: n - 4, what="tokens", one="one text of 9 tokens", hint="cut it")
    assert tried == [12, 8, 4, 0]
    assert caught.value.hint == "cut it"
    assert isinstance(caught.value.__cause__, MemoryError)


def test_other_errors_are_not_tried_again() -> None:
    tried = []

    def attempt(n: int) -> None:
        tried.append(n)
        raise RuntimeError("a layer failed")

    with pytest.raises(RuntimeError, match="a layer failed"):
        halving(attempt, 8, what="samples", one="", hint="")
    assert tried == [8]


@pytest.mark.parametrize("n", [1, 2, 7, 16])
def test_halves_of_a_batch_are_the_batch(n: int) -> None:
    def doubled(part: list[int]) -> np.ndarray:
        torch.empty(HUGE if len(part) > 2 else 1)
        return 2 * np.asarray(part)

    found = in_halves(list(range(n)), doubled, what="rows", one="one row", hint="")
    assert np.concatenate(found).tolist() == [2 * i for i in range(n)]
    assert len(found) > n // 3


@pytest.mark.slow
def test_what_failed_is_freed_before_the_next_attempt() -> None:
    """The failed attempt's tensors would fill the memory that the next one needs."""

    def attempt(n: int) -> int:
        held = [torch.zeros(n * 2**20 // 4) for _ in range(16)]
        return len(held)

    with tight(1200):
        assert halving(attempt, 128, what="megabytes", one="", hint="") == 16


def test_budgets_of_every_work() -> None:
    found = {work: (memory.default_budget(work, "cpu"), memory.default_budget(work, "cuda")) for work in memory.WORK}
    # a change moves batches, and with them the last bits of every score
    assert found == {
        "gradients": (2048, 16384),
        "training": (4096, 16384),
        "perplexity": (4096, 32768),
        "fitting": (4096, 32768),
        "encoder": (1024, 65536),
        "embedding": (4096, 65536),
    }


def test_it_loads_no_torch() -> None:
    code = (
        "import sys\nfrom diq.models import memory\nassert memory.is_out_of_memory(MemoryError())\n"
        "memory.release()\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# where it runs out ---------------------------------------------------------------------------------------------------


def test_an_evaluation_on_a_cpu_takes_half_batches(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diq.evaluation import backends
    from diq.evaluation.evaluate import evaluate

    rows = [
        {"question": f"Case {i}? " + "fever " * 60, "options": dict(zip("ABCD", "wxyz", strict=True)),
         "answer_idx": "ABCD"[i % 4], "meta_info": "x"}
        for i in range(8)
    ]  # fmt: skip
    source = write_jsonl(tmp_path / "medqa.jsonl", rows)
    # 8 prompts of about 150 tokens take 80 MB three times in the wide layer
    folder = save_model(tmp_path / "wide", wide_llama(16384), build_tokenizer())
    generate = backends.HuggingFaceModel.generate_until
    room = 120

    def limited(self: Any, *args: Any, **options: Any) -> Any:
        with tight(room):
            return generate(self, *args, **options)

    monkeypatch.setattr(backends.HuggingFaceModel, "generate_until", limited)
    options: dict[str, Any] = {"benchmark": f"medqa={source}", "max_tokens": 2, "max_length": 512, "device": "cpu"}
    with caplog.at_level(logging.WARNING, logger="diq"):
        found = evaluate(model=str(folder), store=tmp_path / "s.duckdb", batch_size=8, **options)
    assert found.n_generated == 8
    assert "out of memory with 8 prompts at a time: going on with 4" in caplog.messages
    room = 0
    with pytest.raises(RunFailedError, match="out of memory on one prompt of medqa and its answer"):
        evaluate(model=str(folder), store=tmp_path / "none.duckdb", batch_size=2, **options)


def examples(n: int) -> Any:
    from diq.encoders.fitting import Examples

    ids = [np.full(48, 7, np.int32)] * n
    return Examples(ids, np.zeros((n, 1)))


def wide_encoder() -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=400, hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16384,
        max_position_embeddings=64, num_labels=1, pad_token_id=0,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def test_a_fine_tuning_of_an_encoder_on_a_cpu_says_what_does_not_fit() -> None:
    from diq.encoders.fitting import FitSettings, fit

    def fitted() -> Any:
        return fit(
            wide_encoder(), build_tokenizer(), examples(16), examples(1),
            loss=lambda outputs, targets: (outputs - targets).square().mean(),
            measure=lambda outputs, targets: 0.0,
            settings=FitSettings(epochs=1, batch_size=16, patience=1),
        )  # fmt: skip

    # the trainer's own things are made first; then 16 texts of 48 tokens take 50 MB a time in the wide layer
    fitted()
    with tight(60), pytest.raises(RunFailedError, match="out of memory on 16 texts of up to 48 tokens at") as caught:
        fitted()
    assert "--batch-size" in caught.value.hint


def test_an_encoder_predicts_in_halves(caplog: pytest.LogCaptureFixture) -> None:
    from diq.encoders.network import predict

    model, tokenizer, ids = wide_encoder(), build_tokenizer(), examples(16).ids
    whole = predict(model, tokenizer, ids, token_budget=10_000)
    with tight(60), caplog.at_level(logging.WARNING, logger="diq"):
        halves = predict(model, tokenizer, ids, token_budget=10_000)
    assert caplog.messages[0] == "out of memory with 16 texts at a time: going on with 8"
    assert halves == pytest.approx(whole, abs=1e-5)


def test_memory_that_runs_out_while_weights_are_saved_is_no_matter_of_the_disk(tmp_path: Path) -> None:
    from diq.models.source import ModelSource
    from diq.training.network import save_network
    from diq.training.output_folder import OutputFolder

    network = wide_llama(600_000)
    source = ModelSource("wide", tmp_path, "wide", "wide")
    with OutputFolder(tmp_path / "out") as folder, tight(20), pytest.raises(RuntimeError) as caught:
        # 77 MB for each of three matrices
        save_network(network, build_tokenizer(), source, "float64", folder)
    assert is_out_of_memory(caught.value)


def test_validation_losses_are_computed_in_halves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Smaller micro-batches would not help: the batches of a validation set have a budget of their own."""
    import random

    from diq.models.tokens import Tokenization
    from diq.training.validation import validation_losses

    rng = random.Random(0)
    network, tokenization = wide_llama(16384), Tokenization(build_tokenizer(), max_length=512, template="none")
    said = [
        [{"role": "user", "content": sentence(rng, 40)}, {"role": "assistant", "content": sentence(rng, 5)}]
        for _ in range(16)
    ]
    whole = validation_losses(network, tokenization, {"a": said})
    with tight(80), caplog.at_level(logging.WARNING, logger="diq"):
        halves = validation_losses(network, tokenization, {"a": said})
    assert "out of memory with 16 validation samples at a time: going on with 8" in caplog.messages
    assert halves == pytest.approx(whole, abs=1e-5)


def test_a_model_that_does_not_fit_is_not_called_broken(tmp_path: Path) -> None:
    from diq.models.network import load_causal_lm
    from diq.models.source import find_model

    source = find_model(str(save_model(tmp_path / "large", wide_llama(600_000), build_tokenizer())))
    with tight(20), pytest.raises(RunFailedError, match="out of memory on loading") as caught:
        load_causal_lm(source, dtype="float64", device="cpu")
    assert "bfloat16" in caught.value.hint


@pytest.mark.parametrize(("free", "tokens"), [(100_000, 16384), (10_000, 8450), (1_000, 1024), (0, 1024)])
def test_tokens_of_a_batch_from_what_two_small_ones_took(free: int, tokens: int) -> None:
    """50 bytes whatever comes, and one a token: 0.85 * free - 50, between what was tried and what was asked for."""
    asked = []

    def used(n: int) -> int:
        asked.append(n)
        return 50 + n

    assert fitting_tokens(used, lambda: free, 16384) == tokens
    assert asked == [256, 1024]
    # a wish below what was tried is kept
    assert fitting_tokens(used, lambda: free, 500) == 500
