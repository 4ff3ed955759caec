"""Safetensors files of an index: header, numbers, checksum."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from diq.base.fingerprint import Digest, begun, canonical_json

_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "|i1", "U8": "|u1", "I32": "<i4"}
_BLOCK = 1 << 20


class BrokenError(ValueError):
    """A file is not what it should be; the text is the reason, to be put behind its name."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    dtype: str
    shape: tuple[int, ...]
    start: int  # byte within the file


@dataclass(frozen=True, slots=True)
class Header:
    """Header of a safetensors file, checked against its size."""

    tensors: dict[str, _Tensor]
    metadata: dict[str, str]
    start: int  # byte at which the numbers begin

    @classmethod
    def of(cls, file: IO[bytes]) -> Header:
        """Read a header.

        Raises:
            _BrokenError: it is not one of safetensors, or does not describe the file to its end.
        """
        n_bytes = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        start = 8 + length
        if n_bytes < 8 or start > n_bytes:
            raise BrokenError("it is cut off within its header, or not a safetensors file")
        try:
            entries = json.loads(file.read(length))
            metadata = entries.pop("__metadata__", {})
            found = [
                (int(first), int(last), str(name), str(entry["dtype"]), tuple(int(size) for size in entry["shape"]))
                for name, entry in entries.items()
                for first, last in (entry["data_offsets"],)
            ]
            metadata = {str(key): str(value) for key, value in metadata.items()}
        except (ValueError, OverflowError, TypeError, KeyError, AttributeError) as error:
            raise BrokenError("its header is not one of safetensors") from error
        tensors, end = {}, 0
        for first, last, name, dtype, shape in sorted(found):
            if dtype not in _DTYPES:
                raise BrokenError(f"`{name}` has the unexpected type {dtype}")
            size = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
            if first != end or last - first != size or min(shape, default=0) < 0:
                raise BrokenError("its header contradicts itself")
            tensors[name] = _Tensor(dtype, shape, start + first)
            end = last
        if start + end != n_bytes:
            raise BrokenError(f"it has {n_bytes:,} bytes, its header announces {start + end:,}")
        return cls(tensors, metadata, start)

    def read(self, file: IO[bytes], name: str) -> npt.NDArray[Any]:
        """A tensor, as stored (bfloat16 as its bits, uint16)."""
        tensor = self.tensors[name]
        count = math.prod(tensor.shape)
        file.seek(tensor.start)
        numbers = np.fromfile(file, dtype=_DTYPES[tensor.dtype], count=count)
        if len(numbers) != count:
            raise BrokenError(f"it ends within `{name}`")
        return numbers.reshape(tensor.shape)

    def mapped(self, file: IO[bytes], name: str) -> npt.NDArray[Any]:
        """A tensor as `read` gives it, read from the file where it is looked at."""
        tensor = self.tensors[name]
        return np.memmap(file, _DTYPES[tensor.dtype], mode="r", offset=tensor.start, shape=tensor.shape)


def write_tensors(
    file: IO[bytes], tensors: Mapping[str, tuple[str, npt.NDArray[Any]]], metadata: Mapping[str, str]
) -> int:
    """Write a safetensors file: length of the header, header, numbers without gaps. Returns its size in bytes."""
    header: dict[str, Any] = {"__metadata__": {**metadata, "data_hash": hash_of_data(tensors)}}
    end = 0
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, array in tensors.values():
        file.write(array.reshape(-1).data)
    file.flush()
    return 8 + len(text) + end


def hash_of_data(tensors: Mapping[str, tuple[str, npt.NDArray[Any]]]) -> str:
    """Checksum of names, types, shapes and numbers, 32 hexadecimal digits."""
    digest = _digest((name, dtype, array.shape) for name, (dtype, array) in tensors.items())
    for _, array in tensors.values():
        digest.update(array.reshape(-1).data)
    return digest.hexdigest()


def check_data(file: IO[bytes], header: Header) -> None:
    """Refuse a file whose tensors differ from the checksum in its header."""
    digest = _digest((name, tensor.dtype, tensor.shape) for name, tensor in header.tensors.items())
    file.seek(header.start)
    while block := file.read(_BLOCK):
        digest.update(block)
    if digest.hexdigest() != header.metadata.get("data_hash"):
        raise BrokenError("its tensors differ from their checksum")


def _digest(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> Digest:
    """BLAKE2b of the names, types and shapes of tensors, in the order of the file; their numbers are to follow."""
    return begun(canonical_json([list(tensor) for tensor in tensors]))


def read_columns(file: IO[bytes], header: Header) -> tuple[list[str], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Sample ids, losses and answer tokens of a shard."""
    ids = header.read(file, "sample_ids").tobytes()
    return (
        [str(uuid.UUID(bytes=ids[first : first + 16])) for first in range(0, len(ids), 16)],
        header.read(file, "losses").astype(np.float32, copy=False),
        header.read(file, "answer_tokens").astype(np.int32, copy=False),
    )
