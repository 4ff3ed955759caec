"""Gradient indexes: numbers survive their storage, files survive their writers, and damage is named."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from conftest import TESTS
from diq import _core
from diq.base.errors import InputError, RunFailedError, UsageError
from diq.base.files import whole_file
from diq.gradient_index import index as gradient_index
from diq.gradient_index.index import BrokenShard, FoundShard, GradientIndex, ShardRecord
from diq.gradient_index.numbers import _to_bfloat16, dequantize, quantize
from diq.gradient_index.tensors import BrokenError, Header

ELEMENTS = ["float32", "float16", "bfloat16", "int8"]
MAX = float(np.finfo(np.float32).max)


def identity(dim: int = 16, **changes: Any) -> dict[str, Any]:
    return {
        "model_id": "a1b2c3d4",
        "parameters": "qkv",
        "modules": {"layers.0.q_proj": [16, 16], "layers.0.k_proj": [8, 16]},
        "kind": "sparse",
        "dim": dim,
        "seed": 0,
        "template": "{% for message in messages %}",
        "max_length": 8192,
        "dtype": "float32",
        **changes,
    }


def ids(n: int, start: int = 0) -> list[str]:
    return _core.sample_ids([f"sample {start + i}" for i in range(n)])


def write(index: GradientIndex, number: int, gradients: np.ndarray, **options: Any) -> ShardRecord:
    n = len(gradients)
    losses = np.arange(n) / 7 + number
    return index.write_shard(number, gradients, ids(n, 1000 * number), losses, np.arange(n) + 3, **options)


def gradients(rows: int = 5, dim: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32) * np.float32(1e-6)


def found(index: GradientIndex) -> list[FoundShard]:
    shards = list(index.shards_on_disk())
    assert all(isinstance(shard, FoundShard) for shard in shards), shards
    return shards  # type: ignore[return-value]


def bound(numbers: np.ndarray, element: str) -> np.ndarray:
    """How far a stored number may be from the number, after the formats' definitions."""
    numbers = np.abs(numbers.astype(np.float64))
    peak = numbers.max(axis=1, keepdims=True, initial=0)
    if element == "float32":
        return np.zeros_like(numbers)
    if element == "bfloat16":
        # 8 bits; below 2**-126 they become fewer
        return np.maximum(numbers * 2.0**-8, 2.0**-134)
    if element == "float16":
        # 11 bits, down to 2**-14 of a peak that is stored as 2**14 or more
        return np.maximum(numbers * 2.0**-11, np.maximum(peak, 2.0**-112) * 2.0**-39)
    # half a step, and the rounding of the scale and of the division
    return np.broadcast_to(np.maximum(peak / 254, 2.0**-127) * (1 + 2.0**-14), numbers.shape)


# numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 16), (7, 63), (33, 137), (0, 16)])
def test_a_shard_comes_back_in_order(tmp_path: Path, element: Any, shape: tuple[int, int]) -> None:
    index = GradientIndex.create(tmp_path / "index", identity(shape[1]), element=element)
    numbers = gradients(*shape)
    record = write(index, 3, numbers)
    assert record.shard == 3
    assert record.file == "shard-000003.safetensors"
    assert record.n_rows == shape[0]
    assert record.n_bytes == (index.folder / record.file).stat().st_size
    assert record.content_hash == _core.file_hash(index.folder / record.file)
    assert index.shard_problem(record) is None
    rows = GradientIndex.open(index.folder).read(record)
    assert rows.gradients.dtype == np.float32
    assert rows.gradients.shape == shape
    assert (np.abs(rows.gradients.astype(float) - numbers) <= bound(numbers, element)).all()
    assert rows.sample_ids == ids(shape[0], 3000)
    np.testing.assert_array_equal(rows.losses, (np.arange(shape[0]) / 7 + 3).astype(np.float32))
    np.testing.assert_array_equal(rows.answer_tokens, np.arange(shape[0]) + 3)
    assert rows.answer_tokens.dtype == np.int32


@pytest.mark.parametrize("element", ELEMENTS)
@given(numbers=arrays(np.float32, (3, 16), elements=st.floats(-MAX, MAX, width=32)))
@settings(max_examples=200, deadline=None)
def test_numbers_of_any_size_are_kept_within_the_bound(element: Any, numbers: np.ndarray) -> None:
    peaks = np.abs(numbers).max(axis=1)
    stored, scale = quantize(numbers, peaks, element)
    back = dequantize(stored, scale, element)
    assert np.isfinite(back).all()
    assert (np.abs(back.astype(float) - numbers) <= bound(numbers, element)).all()


@pytest.mark.parametrize("element", ELEMENTS)
def test_extreme_rows(tmp_path: Path, element: Any) -> None:
    index = GradientIndex.create(tmp_path, identity(), element=element)
    sign = np.where(np.arange(16) % 3, 1, -1)
    scales = [0.0, 1e-8, 1e-30, 1e30, MAX, 1e-45, 1.0]
    numbers = np.stack([np.linspace(1, 0.5, 16) * sign * scale for scale in scales]).astype(np.float32)
    # huge and tiny in one row
    numbers[-1, :8], numbers[-1, 8:] = 1e30, 1e-30
    rows = index.read(write(index, 0, numbers)).gradients
    assert np.isfinite(rows).all()
    assert not rows[0].any()
    assert (np.abs(rows.astype(float) - numbers) <= bound(numbers, element)).all()
    # tiny gradients stay what they are, not zeros
    relative = np.abs(rows[1:4].astype(float) / numbers[1:4] - 1).max()
    assert relative < {"float32": 1e-9, "float16": 5e-4, "bfloat16": 4e-3, "int8": 8e-3}[element]


def test_bfloat16_is_rounded_as_torch_rounds_it() -> None:
    torch = pytest.importorskip("torch")
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    # ties and their neighbours
    bits[:30_000] = (bits[:30_000] & 0xFFFF0000) + 0x8000 + np.arange(30_000, dtype=np.uint32) % 3 - 1
    numbers = bits.view(np.float32)
    numbers = numbers[np.abs(numbers) < 3.38e38][None]
    expected = torch.from_numpy(numbers.copy()).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(_to_bfloat16(numbers), expected)


def ranks(numbers: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(numbers)).astype(float)


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("dim", [16, 4096])
def test_dots_equal_those_of_the_numbers(tmp_path: Path, element: Any, dim: int) -> None:
    index = GradientIndex.create(tmp_path, identity(dim), element=element)
    rng = np.random.default_rng(1)
    # rows of very different sizes, as gradients of short and long answers are
    numbers = (rng.normal(size=(501, dim)) * 10 ** rng.uniform(-9, -3, (501, 1))).astype(np.float32)
    vectors = rng.normal(size=(3, dim)).astype(np.float32)
    record = write(index, 0, numbers)
    dots = index.dots(record, vectors)
    assert dots.dtype == np.float32
    assert dots.shape == (501, 3)
    kept = index.read(record).gradients.astype(float)
    exact = numbers.astype(float) @ vectors.T.astype(float)
    magnitude = np.abs(kept) @ np.abs(vectors.T.astype(float))
    # of the stored numbers: a product and at most 128 additions round in float32, then the scale does
    assert (np.abs(dots - kept @ vectors.T.astype(float)) <= 132 * 2.0**-24 * magnitude).all()
    storage = bound(numbers, element) @ np.abs(vectors.T.astype(float))
    assert (np.abs(dots - exact) <= storage + 132 * 2.0**-24 * magnitude).all()


@pytest.mark.parametrize("element", ["float16", "bfloat16", "int8"])
def test_storage_keeps_the_ranking(tmp_path: Path, element: Any) -> None:
    index = GradientIndex.create(tmp_path, identity(4096), element=element)
    rng = np.random.default_rng(2)
    numbers = (rng.normal(size=(1001, 4096)) * 1e-9).astype(np.float32)
    vectors = rng.normal(size=(2, 4096)).astype(np.float32)
    dots = index.dots(write(index, 0, numbers), vectors)
    exact = numbers.astype(float) @ vectors.T.astype(float)
    for j in range(2):
        assert np.corrcoef(ranks(dots[:, j]), ranks(exact[:, j]))[0, 1] >= 0.9999


def test_dots_refuse_vectors_that_do_not_fit(tmp_path: Path) -> None:
    index = GradientIndex.create(tmp_path, identity())
    record = write(index, 0, gradients())
    for vectors in (np.ones((1, 17), np.float32), np.ones(16, np.float32), np.ones((1, 16))):
        with pytest.raises(ValueError, match=r"^vectors must be float32 \[m, 16\], got "):
            index.dots(record, vectors)
    with pytest.raises(ValueError, match="not contiguous"):
        index.dots(record, np.ones((16, 2), np.float32).T)
    assert index.dots(record, np.empty((0, 16), np.float32)).shape == (5, 0)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_is_refused_by_name(tmp_path: Path, wrong: float) -> None:
    index = GradientIndex.create(tmp_path, identity())
    numbers = gradients()
    numbers[2, 7] = wrong
    with pytest.raises(RunFailedError) as caught:
        write(index, 4, numbers)
    sample = ids(5, 4000)[2]
    assert caught.value.message == f"the gradient of sample `{sample}` (row 2 of shard 4) is not finite"
    assert caught.value.hint
    losses = np.array([1, 2, 3, wrong, 5])
    with pytest.raises(RunFailedError, match=r"the loss of sample .* \(row 3 of shard 4\) is not finite"):
        index.write_shard(4, gradients(), ids(5), losses, np.ones(5))
    assert list(index.shards_on_disk()) == []


def test_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    index = GradientIndex.create(tmp_path, identity())
    with pytest.raises(ValueError, match=r"^gradients must be float32 \[rows, 16\], got float64 \[2, 16\]$"):
        index.write_shard(0, np.ones((2, 16)), ids(2), [1, 1], [1, 1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^gradients must be float32 \[rows, 16\], got float32 \[2, 15\]$"):
        index.write_shard(0, np.ones((2, 15), np.float32), ids(2), [1, 1], [1, 1])
    for columns in ((ids(3), [1, 1], [1, 1]), (ids(2), [1], [1, 1]), (ids(2), [1, 1], [[1, 1]])):
        with pytest.raises(ValueError, match=r"^2 gradients, but \w+ has shape "):
            index.write_shard(0, np.ones((2, 16), np.float32), *columns)
    with pytest.raises(ValueError, match="0 or more"):
        write(index, -1, gradients())
    assert list(index.shards_on_disk()) == []


# files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("element", ["float32", "float16", "int8"])
def test_plain_safetensors_reads_a_shard(tmp_path: Path, element: Any) -> None:
    safetensors = pytest.importorskip("safetensors")
    from safetensors.numpy import load_file

    index = GradientIndex.create(tmp_path, identity(), element=element)
    record = write(index, 12, gradients(7))
    tensors = load_file(tmp_path / record.file)
    assert tensors["gradients"].dtype == np.dtype(element)
    np.testing.assert_array_equal(
        tensors["gradients"].astype(np.float32) * tensors["scale"][:, None], index.read(record).gradients
    )
    assert tensors["sample_ids"].shape == (7, 16)
    assert tensors["sample_ids"][0].tobytes().hex() == ids(1, 12000)[0].replace("-", "")
    with safetensors.safe_open(tmp_path / record.file, framework="np") as file:
        assert file.metadata()["shard"] == "12"
        assert file.metadata()["fingerprint"] == index.fingerprint


def test_torch_reads_a_shard_of_bfloat16(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    index = GradientIndex.create(tmp_path, identity(), element="bfloat16")
    record = write(index, 0, gradients(7))
    tensors = load_file(tmp_path / record.file)
    assert tensors["gradients"].dtype == torch.bfloat16
    np.testing.assert_array_equal(tensors["gradients"].float().numpy(), index.read(record).gradients)
    assert (tensors["scale"] == 1).all()


def test_an_index_that_safetensors_wrote_reads_the_same(tmp_path: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    index = GradientIndex.create(tmp_path, identity(), element="int8")
    record = write(index, 0, gradients(7))
    path = tmp_path / record.file
    before, tensors = index.read(record), numpy.load_file(path)
    with path.open("rb") as file:
        metadata = Header.of(file).metadata
    numpy.save_file(tensors, path, metadata)
    after = index.read(record)
    np.testing.assert_array_equal(after.gradients, before.gradients)
    assert after.sample_ids == before.sample_ids


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    records = []
    for name in ("one", "two"):
        index = GradientIndex.create(tmp_path / name, identity())
        # strides do not matter
        numbers = gradients() if name == "one" else np.asfortranarray(gradients())
        records.append(write(index, 0, numbers))
    assert records[0] == records[1]


def test_a_basis_comes_back(tmp_path: Path) -> None:
    index = GradientIndex.create(tmp_path, identity(kind="subspace"))
    with pytest.raises(InputError, match=r"has no basis\.safetensors"):
        index.read_basis()
    basis = {"z.left": gradients(3, 5), "a.right": gradients(2, 7).T, "empty": np.empty((0, 4), np.float32)}
    data_hash = index.write_basis(basis)
    assert index.write_basis(basis) == data_hash
    back = GradientIndex.open(tmp_path).read_basis()
    assert list(back) == list(basis)
    for name, array in basis.items():
        np.testing.assert_array_equal(back[name], array)
    with pytest.raises(RunFailedError, match="has another basis already"):
        index.write_basis({**basis, "empty": np.empty((1, 4), np.float32)})
    with pytest.raises(RunFailedError, match="the basis `z` is not finite"):
        index.write_basis({"z": np.full(3, np.nan, np.float32)})
    with pytest.raises(ValueError, match="must be float32"):
        index.write_basis({"z": np.ones(3)})
    path = tmp_path / "basis.safetensors"
    whole = path.read_bytes()
    for place in (len(whole) - 1, whole.index(b"z.left"), whole.index(b"data_hash") + 15):
        path.write_bytes(flipped(whole, place))
        with pytest.raises(InputError, match=r"is broken: .*checksum"):
            index.read_basis()
    path.unlink()
    write(index, 0, gradients())
    with pytest.raises(RunFailedError, match=r"has shards, but lost its basis\.safetensors"):
        index.write_basis(basis)


# identity --------------------------------------------------------------------------------------------------------


def test_the_same_identity_reopens(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    record = write(GradientIndex.create(folder, identity(shape=(3, 4)), element="int8"), 0, gradients())
    # a tuple is a list once it is JSON, and the order of keys means nothing
    again = dict(reversed(identity(shape=[3, 4]).items()))
    index = GradientIndex.create(folder, again, element="int8")
    assert index.shard_problem(record) is None
    assert index.identity == identity(shape=[3, 4])
    assert index.element == "int8"
    assert index.dim == 16


def test_another_identity_is_refused_with_both_values(tmp_path: Path) -> None:
    GradientIndex.create(tmp_path, identity(), element="int8")
    template = identity()["template"] + "x" * 200
    other = identity(32, seed=7, kind="rademacher", template=template, extra=None)
    other["modules"] = {"layers.0.q_proj": [16, 16], "layers.0.k_proj": [4, 16], "layers.1.q_proj": [16, 16]}
    del other["max_length"]
    with pytest.raises(UsageError) as caught:
        GradientIndex.create(tmp_path, other, element="float16")
    message = caught.value.message
    assert "\n" not in message
    assert caught.value.hint
    for part in (
        "dim is 16 there, 32 asked",
        "seed is 0 there, 7 asked",
        'kind is "sparse" there, "rademacher" asked',
        "max_length is 8192 there, nothing asked",
        "extra is nothing there, null asked",
        "modules.layers.0.k_proj[0] is 8 there, 4 asked (and 1 more place)",
        "element is int8 there, float16 asked",
    ):
        assert part in message
    assert "model_id" not in message
    # a long text is shown where it differs
    assert 'in messages %}" there, …' in message
    assert "in messages %}xxxxx" in message
    assert len(message) < 700
    with pytest.raises(UsageError, match="element is int8 there, float32 asked"):
        GradientIndex.create(tmp_path, identity(), element="float32")
    index = GradientIndex.open(tmp_path)
    index.check_identity(identity())
    with pytest.raises(UsageError, match=r"than asked: seed is 0 there, 1 asked\n"):
        index.check_identity(identity(seed=1), element="int8")


def test_texts_that_differ_far_out_or_in_white_space_look_different(tmp_path: Path) -> None:
    index = GradientIndex.create(tmp_path, identity(template="a" * 500 + "\n" + "b" * 500))
    with pytest.raises(UsageError) as caught:
        index.check_identity(identity(template="a" * 500 + "\n\n" + "b" * 500))
    assert "\n" not in caught.value.message
    assert r"a\nb" in caught.value.message
    assert r"a\n\nb" in caught.value.message


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be stored as `float61`") as caught:
        GradientIndex.create(tmp_path, identity(), element="float61")  # type: ignore[arg-type]
    assert caught.value.hint == "did you mean `float16`?"
    for dim in (0, None, "16", True):
        with pytest.raises(ValueError, match="must name dim"):
            GradientIndex.create(tmp_path, identity(dim))  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not a folder"):
        GradientIndex.create(tmp_path / "file", identity())
    with pytest.raises(RunFailedError, match="cannot be written: Not a directory"):
        GradientIndex.create(tmp_path / "file" / "index", identity())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"3",
        b'{"version": 1}',
        b'{"version": "1", "identity": {}}',
        b'{"version": 1, "identity": [], "element": "int8"}',
        b'{"version": 1, "identity": {"dim": 16}, "element": ["int8"]}',
        b'{"version": 1, "identity": {"dim": NaN}, "element": "int8"}',
        b'{"version": 1, "identity": {"dim": 16}, "element": "int8", "fingerprint": "0"}',
    ],
)
def test_a_broken_index_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index.json").write_bytes(content)
    for call in (GradientIndex.open, lambda folder: GradientIndex.create(folder, identity())):
        with pytest.raises(InputError, match=r"index\.json` is broken: ") as caught:
            call(tmp_path)
        assert "\n" not in caught.value.message
        assert caught.value.hint


def test_a_missing_newer_or_edited_index_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "none", tmp_path / "file"):
        with pytest.raises(InputError, match="there is no gradient index in"):
            GradientIndex.open(folder)
    (tmp_path / "index.json").mkdir()
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        GradientIndex.open(tmp_path)
    path = tmp_path / "index" / "index.json"
    GradientIndex.create(path.parent, identity())
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"seed": 0', '"seed": 1'), encoding="utf-8")
    with pytest.raises(InputError, match="its settings were changed"):
        GradientIndex.open(path.parent)
    path.write_text(text.replace('"version": 1', '"version": 2'), encoding="utf-8")
    with pytest.raises(InputError, match="has format 2, this diq knows up to 1") as caught:
        GradientIndex.open(path.parent)
    assert "upgrade" in caught.value.hint


# damage ----------------------------------------------------------------------------------------------------------


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def exchange(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


DAMAGES: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "missing": (lambda path, other: path.unlink(), "is missing"),
    "empty": (lambda path, other: path.write_bytes(b""), "has 0 bytes instead of "),
    "cut": (lambda path, other: path.write_bytes(path.read_bytes()[:-1]), "bytes instead of "),
    "longer": (lambda path, other: path.write_bytes(path.read_bytes() + b"\0"), "bytes instead of "),
    "flip in the numbers": (lambda path, other: path.write_bytes(flipped(path.read_bytes(), -1 % 400)), "checksum"),
    "flip in the header": (lambda path, other: path.write_bytes(flipped(path.read_bytes(), 9)), "checksum"),
    "exchanged": (exchange, "checksum"),
    "a folder": (lambda path, other: (path.unlink(), path.mkdir()), "instead of|cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_found(tmp_path: Path, damage: str) -> None:
    index = GradientIndex.create(tmp_path, identity())
    record, other = write(index, 0, gradients()), write(index, 1, gradients(seed=1))
    apply, reason = DAMAGES[damage]
    apply(tmp_path / record.file, tmp_path / other.file)
    problem = index.shard_problem(record)
    assert problem is not None
    assert problem.startswith(f"`{record.file}` ")
    assert "\n" not in problem
    assert any(part in problem for part in reason.split("|"))
    assert index.shard_problem(other) is None
    # written again under its number, and all is well
    if damage == "a folder":
        (tmp_path / record.file).rmdir()
    again = write(index, 0, gradients(), replace=True)
    assert again == record
    assert index.shard_problem(record) is None


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    index = GradientIndex.create(tmp_path, identity(), element="int8")
    record = write(index, 0, gradients(3))
    path = tmp_path / record.file
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for place in range(len(whole)):
        path.write_bytes(flipped(whole, place))
        assert index.shard_problem(record) is not None
        # without the store's checksum, the shard's own: all but the words of its metadata that nobody reads
        (shard,) = index.shards_on_disk()
        assert isinstance(shard, BrokenShard) or place < header
        if isinstance(shard, FoundShard):
            assert shard.record != record
            np.testing.assert_array_equal(shard.losses, index.read(shard.record).losses)
            assert shard.sample_ids == ids(3)
        else:
            assert shard.problem.startswith(f"`{record.file}` is broken: ")
    for size in range(0, len(whole), 5):
        path.write_bytes(whole[:size])
        assert index.shard_problem(record) is not None
        (shard,) = index.shards_on_disk()
        assert isinstance(shard, BrokenShard)


def test_a_broken_shard_gives_no_dots(tmp_path: Path) -> None:
    index = GradientIndex.create(tmp_path, identity())
    record, vectors = write(index, 0, gradients()), np.ones((1, 16), np.float32)
    path = tmp_path / record.file
    whole = path.read_bytes()
    for call in (index.read, lambda record: index.dots(record, vectors)):
        path.write_bytes(whole[:-1])
        with pytest.raises(RunFailedError, match="is broken: ") as caught:
            call(record)
        assert caught.value.hint
        path.unlink()
        with pytest.raises(RunFailedError, match=r"lacks `shard-000000\.safetensors`"):
            call(record)
        path.mkdir()
        with pytest.raises(RunFailedError, match="cannot be read: Is a directory"):
            call(record)
        path.rmdir()


def header_of(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


@pytest.mark.parametrize(
    "header",
    [
        [],
        3,
        {"a": 3},
        {"a": {}},
        {"__metadata__": 3},
        header_of(dtype="F99"),
        header_of(shape=[3]),
        header_of(shape=[-1, -2]),
        header_of(shape=2),
        header_of(data_offsets=[0, 4]),
        header_of(data_offsets=[-4, 4]),
        header_of(data_offsets=[0, 8, 16]),
        header_of(data_offsets=[0, float("inf")]),
        header_of(shape=[3], data_offsets=[0, 12]),
        {**header_of(), "b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path: Path, header: Any) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "file"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with path.open("rb") as file, pytest.raises(BrokenError):
        Header.of(file)


def test_shards_of_other_indexes_and_numbers_are_told_apart(tmp_path: Path) -> None:
    index = GradientIndex.create(tmp_path / "index", identity())
    other = GradientIndex.create(tmp_path / "other", identity(seed=1))
    first, second = write(index, 0, gradients()), write(other, 1, gradients())
    (index.folder / second.file).write_bytes((other.folder / second.file).read_bytes())
    (index.folder / "shard-000002.safetensors").write_bytes((index.folder / first.file).read_bytes())
    good, *bad = index.shards_on_disk()
    assert isinstance(good, FoundShard)
    assert [shard.problem for shard in bad if isinstance(shard, BrokenShard)] == [
        f"`{second.file}` is broken: it belongs to another index",
        "`shard-000002.safetensors` is broken: it is not shard 2 of the index",
    ]
    # also where the store's checksum is that of the wrong file
    assert index.shard_problem(second) == f"`{second.file}` is broken: it belongs to another index"
    fewer = ShardRecord(first.shard, first.file, 4, first.n_bytes, first.content_hash)
    assert "instead of F32 [4]" in str(index.shard_problem(fewer))


def test_a_folder_without_its_store_is_listed(tmp_path: Path) -> None:
    index = GradientIndex.create(tmp_path, identity())
    numbers = [2, 0, 1_000_000, 11]
    records = {number: write(index, number, gradients(3 + number % 4, seed=number)) for number in numbers}
    (tmp_path / "notes.txt").touch()
    (tmp_path / "shard-1.safetensors").touch()
    (tmp_path / "shard-0000001.safetensors").touch()
    shards = found(GradientIndex.open(tmp_path))
    assert [shard.record for shard in shards] == [records[number] for number in sorted(numbers)]
    assert index.numbers_on_disk() == sorted(numbers)
    new = index.shards_on_disk(known={0, 11})
    assert [shard.record.shard for shard in new if isinstance(shard, FoundShard)] == [2, 1_000_000]
    for shard in shards:
        rows = index.read(shard.record)
        assert shard.sample_ids == rows.sample_ids
        np.testing.assert_array_equal(shard.losses, rows.losses)
        np.testing.assert_array_equal(shard.answer_tokens, rows.answer_tokens)


def test_a_folder_that_lost_its_index_file_heals(tmp_path: Path) -> None:
    record = write(GradientIndex.create(tmp_path, identity()), 0, gradients())
    (tmp_path / "index.json").unlink()
    assert [shard.record for shard in found(GradientIndex.create(tmp_path, identity()))] == [record]
    (tmp_path / "index.json").unlink()
    (shard,) = GradientIndex.create(tmp_path, identity(seed=1)).shards_on_disk()
    assert isinstance(shard, BrokenShard)
    assert "another index" in shard.problem


# writers ---------------------------------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_full_disk_leaves_no_half_shard(small_disk: Callable[[int], Path]) -> None:
    folder = small_disk(256) / "index"
    index = GradientIndex.create(folder, identity(1024), element="float32")
    records = []
    with pytest.raises(RunFailedError) as caught:
        # unlike a list, extend keeps what came before the error
        records.extend(write(index, number, gradients(10, 1024)) for number in range(100))
    assert records
    failed = f"shard-{len(records):06d}.safetensors"
    assert caught.value.message == f"the disk of `{folder}` is full: `{failed}` was not written"
    assert "free some space" in caught.value.hint
    assert names(folder) == ["index.json", *(record.file for record in records)]
    assert all(index.shard_problem(record) is None for record in records)
    # with space again, the same shard is written
    (folder / records[0].file).unlink()
    assert index.shard_problem(write(index, len(records), gradients(10, 1024))) is None


def test_a_full_disk_at_the_start_leaves_nothing(small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(64)
    (disk / "ballast").write_bytes(bytes(60 * 1024))
    with pytest.raises(RunFailedError, match="is full"):
        GradientIndex.create(disk / "index", identity(template="x" * 100_000))
    assert not list(disk.glob("index/*"))


@pytest.mark.parametrize("call", ["fsync", "flush", "replace"])
def test_an_error_of_the_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    index = GradientIndex.create(tmp_path, identity())

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    if call == "flush":
        monkeypatch.setattr(gradient_index, "write_tensors", fail)
    else:
        monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[call], fail)
    with pytest.raises(RunFailedError) as caught:
        write(index, 0, gradients())
    assert caught.value.message == f"`{tmp_path}/shard-000000.safetensors` cannot be written: Input/output error"
    assert names(tmp_path) == ["index.json"]


def test_a_number_is_written_once(tmp_path: Path) -> None:
    index = GradientIndex.create(tmp_path, identity())
    record = write(index, 0, gradients())
    with pytest.raises(RunFailedError, match="has a shard 0 already: nothing was written"):
        write(index, 0, gradients(seed=1))
    assert index.shard_problem(record) is None
    assert write(index, 0, gradients(seed=1), replace=True) != record
    assert "checksum" in str(index.shard_problem(record))


def write_unless_taken(index: GradientIndex, number: int, numbers: np.ndarray) -> list[ShardRecord]:
    try:
        return [write(index, number, numbers)]
    except RunFailedError as error:
        if "already" not in error.message:
            raise
        return []


def race(folder: Path, seed: int, start: Any, answers: Any) -> None:
    """One of several processes that make the same index and write the same shards."""
    start.wait()
    won = []
    index = GradientIndex.create(folder, identity(512))
    for number in range(10):
        won += write_unless_taken(index, number, gradients(40, 512, seed))
    answers.put((seed, won))


def test_several_processes_never_share_a_shard(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    start, answers = context.Event(), context.Queue()
    processes = [context.Process(target=race, args=(tmp_path / "i", seed, start, answers)) for seed in range(3)]
    for process in processes:
        process.start()
    start.set()
    won = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(record.shard for _, records in won for record in records) == list(range(10))
    index = GradientIndex.open(tmp_path / "i")
    for seed, records in won:
        for record in records:
            assert index.shard_problem(record) is None
            np.testing.assert_allclose(index.read(record).gradients, gradients(40, 512, seed), rtol=1e-3, atol=1e-12)
    assert not list((tmp_path / "i").glob(".*"))


def test_threads_never_share_a_shard(tmp_path: Path) -> None:
    index = GradientIndex.create(tmp_path, identity(512))
    barrier, won = threading.Barrier(4), []

    def work(seed: int) -> None:
        barrier.wait()
        for number in range(5):
            won.extend(write_unless_taken(index, number, gradients(40, 512, seed)))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(record.shard for record in won) == list(range(5))
    assert all(index.shard_problem(record) is None for record in won)


@pytest.mark.parametrize("replace", [False, True])
def test_a_writer_that_waited_does_not_touch_the_shard_of_the_one_before(tmp_path: Path, replace: bool) -> None:
    index = GradientIndex.create(tmp_path, identity())
    outcomes: list[Any] = []

    def work() -> None:
        try:
            outcomes.append(write(index, 0, gradients(), replace=replace))
        except RunFailedError as error:
            outcomes.append(error.message)

    thread = threading.Thread(target=work)
    with whole_file(tmp_path / "shard-000000.safetensors") as file:
        file.write(b"the first")
        thread.start()
        # long enough that it has opened the same part
        thread.join(0.2)
        assert thread.is_alive()
        (tmp_path / "first").hardlink_to(file.name)
    thread.join()
    assert (tmp_path / "first").read_bytes() == b"the first"
    if replace:
        assert index.shard_problem(outcomes[0]) is None
    else:
        assert "already" in outcomes[0]
    assert names(tmp_path) == ["first", "index.json", "shard-000000.safetensors"]


def test_two_identities_that_start_at_once_do_not_mix(tmp_path: Path) -> None:
    for attempt in range(10):
        barrier, outcomes = threading.Barrier(4), []

        def work(seed: int, attempt: int = attempt, barrier: Any = barrier, outcomes: Any = outcomes) -> None:
            barrier.wait()
            try:
                outcomes.append(GradientIndex.create(tmp_path / str(attempt), identity(seed=seed)).identity["seed"])
            except UsageError as error:
                outcomes.append("refused" if "seed is" in error.message else error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winner = GradientIndex.open(tmp_path / str(attempt)).identity["seed"]
        assert sorted(outcomes, key=str) == [winner, "refused", "refused", "refused"]


def test_parts_of_the_killed_go_and_those_of_the_living_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = GradientIndex.create(tmp_path, identity())
    stray = tmp_path / ".shard-000007.safetensors.part"
    foreign = tmp_path / ".notes.part"
    for path in (stray, foreign):
        path.write_bytes(b"half")
    GradientIndex.open(tmp_path)
    assert stray.exists()
    with whole_file(tmp_path / "shard-000001.safetensors") as file:
        file.write(b"half")
        file.flush()
        with caplog.at_level(logging.INFO, logger="diq"):
            GradientIndex.open(tmp_path, write=True)
        assert not stray.exists()
        assert "removed" in caplog.text
        assert names(tmp_path) == [".notes.part", ".shard-000001.safetensors.part", "index.json"]
    stray.write_bytes(b"x" * 100_000)
    GradientIndex.create(tmp_path, identity())
    assert not stray.exists()
    # a stray part that nobody removed does not end up in a shard
    stray.write_bytes(b"x" * 100_000)
    assert index.shard_problem(write(index, 7, gradients())) is None
    assert not stray.exists()


def test_a_file_system_without_locks_works_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING, logger="diq"):
        index = GradientIndex.create(tmp_path / "index", identity())
        # it may be a living writer's
        part = index.folder / ".shard-000000.safetensors.part"
        part.write_bytes(b"half")
        index = GradientIndex.create(tmp_path / "index", identity())
        assert part.exists()
        assert index.shard_problem(write(index, 0, gradients())) is None
    assert caplog.text.count("has no locks") == 1


WRITER = """
import os, signal, sys
import numpy as np
from diq.gradient_index.index import GradientIndex, FoundShard
folder, dim, kill_at = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sys.path.insert(0, sys.argv[4])
from gradient_index.test_index import gradients, identity, ids
index = GradientIndex.create(folder, identity(dim))
syncs, fsync = 0, os.fsync
def count(handle):
    global syncs
    if syncs == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    syncs += 1
    fsync(handle)
os.fsync = count
shards = list(index.shards_on_disk())
assert all(isinstance(shard, FoundShard) for shard in shards), shards
for number in range(len(shards), 10_000):
    record = index.write_shard(number, gradients(64, dim, number), ids(64, number), np.ones(64), np.ones(64))
    print(number, flush=True)
"""


def start_writer(folder: Path, *, dim: int, kill_at: int = -1) -> subprocess.Popen[str]:
    arguments = [str(folder), str(dim), str(kill_at), str(TESTS)]
    return subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE, text=True)


def check_after_a_kill(folder: Path, dim: int) -> list[FoundShard]:
    assert all(name == "index.json" or name.endswith((".safetensors", ".part")) for name in names(folder))
    index = GradientIndex.create(folder, identity(dim))
    assert not list(folder.glob(".*"))
    shards = found(index)
    assert [shard.record.shard for shard in shards] == list(range(len(shards)))
    assert len(names(folder)) == 1 + len(shards)
    for shard in shards:
        number = shard.record.shard
        assert index.shard_problem(shard.record) is None
        assert shard.sample_ids == ids(64, number)
        np.testing.assert_allclose(
            index.read(shard.record).gradients, gradients(64, dim, number), rtol=2**-11, atol=1e-12
        )
    return shards


# with each shard the part is synced, renamed, then the folder is synced
@pytest.mark.parametrize(("kill_at", "whole"), [(0, 0), (1, 1), (2, 1), (5, 3)])
def test_a_kill_between_any_two_steps_leaves_whole_shards(tmp_path: Path, kill_at: int, whole: int) -> None:
    with start_writer(tmp_path / "index", dim=256, kill_at=kill_at) as process:
        assert process.wait() == -signal.SIGKILL
    assert len(list((tmp_path / "index").glob(".*.part"))) == (kill_at + 1) % 2
    assert len(check_after_a_kill(tmp_path / "index", 256)) == whole


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_whole_shards(tmp_path: Path) -> None:
    folder, rng, parts, before = tmp_path / "index", random.Random(0), 0, 0
    # until a kill has hit a writer in the middle of a shard
    for attempt in range(60):
        if attempt >= 6 and parts:
            break
        with start_writer(folder, dim=8192) as process:
            assert process.stdout is not None
            reported = int(process.stdout.readline())
            time.sleep(rng.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
            reported = max([reported, *(int(line) for line in process.stdout if line.endswith("\n"))])
        parts += len(list(folder.glob(".*.part")))
        shards = check_after_a_kill(folder, 8192)
        # what was reported as written is there; the next writer went on behind it
        assert len(shards) > max(reported, before)
        before = len(shards)
    assert parts
