"""Tests that need a CUDA device say so and are skipped without one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    skip = pytest.mark.skip(reason="torch sees no CUDA device")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def _triton_or_failure(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forced, so that a kernel that does not work fails its test instead of falling back."""
    from diq.gradients.kernels import resolve

    monkeypatch.setenv("DIQ_KERNELS", "triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    resolve.forget()
    yield
    resolve.forget()
