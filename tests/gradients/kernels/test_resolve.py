"""The choice of a form: made once, checked, logged, and forced by one variable."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from diq.base.errors import RunFailedError, UsageError
from diq.gradients.kernels.resolve import KernelMismatch, forget, form_of, key_words

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("DIQ_KERNELS", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    forget()
    yield
    forget()


class Check:
    """Counts its calls; fails if told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls, self.error = 0, error

    def __call__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.calls += 1
        if self.error:
            raise self.error


def test_a_cpu_takes_the_cpus_form_and_checks_nothing() -> None:
    check = Check()
    assert form_of("k", check, CPU, torch.float32) == "cpu"
    assert check.calls == 0


def test_a_gpu_takes_triton_after_one_check(caplog: pytest.LogCaptureFixture) -> None:
    check = Check()
    with caplog.at_level(logging.INFO, "diq"):
        assert [form_of("k", check, CUDA, torch.float32) for _ in range(3)] == ["triton"] * 3
    assert check.calls == 1
    assert [record.getMessage() for record in caplog.records] == ["kernel k on cuda:0 with torch.float32: triton"]
    form_of("k", check, CUDA, torch.bfloat16)
    assert check.calls == 2


def test_a_kernel_that_is_wrong_is_named_once_and_torch_does_the_work(caplog: pytest.LogCaptureFixture) -> None:
    check = Check(KernelMismatch("relative error 3e-01 against the reference"))
    with caplog.at_level(logging.WARNING, "diq"):
        assert [form_of("sketch_outer", check, CUDA, torch.float32) for _ in range(3)] == ["torch"] * 3
    (record,) = caplog.records
    assert "`sketch_outer`" in record.getMessage()
    assert "3e-01" in record.getMessage()


def test_a_compiler_that_fails_is_a_fallback_too() -> None:
    assert form_of("k", Check(RuntimeError("out of resource: shared memory")), CUDA, torch.float32) == "torch"
    assert form_of("k", Check(ImportError()), CUDA, torch.bfloat16) == "torch"


def test_a_forced_triton_does_not_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIQ_KERNELS", "triton")
    with pytest.raises(RunFailedError, match=r"`k` does not work on cuda:0 .*wrong"):
        form_of("k", Check(KernelMismatch("wrong")), CUDA, torch.float32)
    with pytest.raises(UsageError, match="on a CPU"):
        form_of("k", Check(), CPU, torch.float32)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert form_of("k", Check(), CPU, torch.float32) == "triton"


def test_torch_can_be_forced_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIQ_KERNELS", "torch")
    check = Check(AssertionError("not called"))
    assert form_of("k", check, CPU, torch.float32) == form_of("k", check, CUDA, torch.float32) == "torch"
    assert check.calls == 0


def test_another_device_takes_torch() -> None:
    assert form_of("k", Check(AssertionError("not called")), torch.device("mps"), torch.float32) == "torch"


def test_another_word_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIQ_KERNELS", "cuda")
    with pytest.raises(UsageError, match="DIQ_KERNELS is `cuda`"):
        form_of("k", Check(), CPU, torch.float32)


@pytest.mark.parametrize("key", [0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, 0x9E3779B97F4A7C15])
def test_key_words_hold_the_key_in_two_signed_halves(key: int) -> None:
    low, high = key_words(key)
    assert all(-(2**31) <= half < 2**31 for half in (low, high))
    assert (low % 2**32) + ((high % 2**32) << 32) == key
