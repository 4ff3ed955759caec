"""Gradient indexes: folders of safetensors shards that keep the projected gradients of samples.

A shard appears by atomic rename after fsync and is never written again, so a folder holds whole shards whatever killed
the writer. Two checksums guard it: BLAKE3 of the whole file, kept in the store, finds a shard that was changed or
exchanged; BLAKE2b of the tensors, kept in the shard itself, lets a folder prove itself that came without its store.

The files are written and read here rather than by the safetensors package: numpy has no bfloat16, and dots with new
validation sets (``--from-index``) then need no package beyond the base install. ``docs/formats.md`` describes them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import logging
import math
import os
import re
import uuid
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from diq import _core
from diq.errors import DiqError, InputError, RunFailedError, UsageError
from diq.records import canonical_json, did_you_mean, first_line, flush

log = logging.getLogger(__name__)

Element = Literal["float32", "float16", "bfloat16", "int8"]
"""How the numbers of a gradient are stored."""

VERSION = 1
INDEX_FILE = "index.json"
BASIS_FILE = "basis.safetensors"

# names of safetensors; bfloat16 is the upper half of a float32, which numpy can only carry as an integer
_ELEMENTS: dict[str, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "I8"}
_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "|i1", "U8": "|u1", "I32": "<i4"}
_SHARD = re.compile(r"shard-(\d{6}|[1-9]\d{6,})\.safetensors")
_PART = re.compile(rf"\.({_SHARD.pattern}|{re.escape(INDEX_FILE)}|{re.escape(BASIS_FILE)})\.part")

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
_BLOCK = 1 << 20
_SHOWN = 48  # characters of a differing setting in a message

_TINY = np.float32(2.0**-126)
_FLOAT32_MAX = np.finfo(np.float32).max
# a row of float16 is scaled by a power of two, so that its largest number is in [2**14, 2**15)
_FLOAT16_EXPONENT = 15
_FLOAT16_PEAK = np.float32(2.0**15 - 2.0**4)
_BFLOAT16_MAX = np.uint16(0x7F7F)
_INT8_PEAK = np.float32(127)
# the largest scale whose 127-fold is still finite
_INT8_SCALE_MAX = np.nextafter(_FLOAT32_MAX / _INT8_PEAK, np.float32(0))


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """What the store keeps of a shard (a row of ``gradient_shards``).

    Attributes:
        shard: number of the shard within the index.
        file: name of the file within the folder.
        n_rows: gradients in it.
        n_bytes: size of the file.
        content_hash: BLAKE3 of the file, 64 hexadecimal digits.
    """

    shard: int
    file: str
    n_rows: int
    n_bytes: int
    content_hash: str


@dataclass(frozen=True, slots=True)
class ShardRows:
    """The content of a shard, rows in the order in which they were written.

    Attributes:
        gradients: ``[rows, dim]`` float32, already multiplied by their scale.
        sample_ids: ``rows`` lowercase UUID texts.
        losses: ``[rows]`` float32, nats.
        answer_tokens: ``[rows]`` int32.
    """

    gradients: npt.NDArray[np.float32]
    sample_ids: list[str]
    losses: npt.NDArray[np.float32]
    answer_tokens: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class FoundShard:
    """A whole shard that lies in the folder, without the store's word for it.

    Attributes:
        record: what the store would keep of it.
        sample_ids: ``rows`` lowercase UUID texts.
        losses: ``[rows]`` float32, nats.
        answer_tokens: ``[rows]`` int32.
    """

    record: ShardRecord
    sample_ids: list[str]
    losses: npt.NDArray[np.float32]
    answer_tokens: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class BrokenShard:
    """A file with the name of a shard that cannot be used.

    Attributes:
        shard: number, from the name.
        file: name of the file within the folder.
        problem: why, one line.
    """

    shard: int
    file: str
    problem: str


class GradientIndex:
    """An index folder; made by `create` or `open`.

    Several processes may write shards to one index at the same time, each under its own numbers.

    Attributes:
        folder: where the files are.
        identity: everything that decides the numbers, as JSON keeps it.
        element: how the numbers are stored.
        dim: numbers that are kept of a gradient.
        fingerprint: 32 hexadecimal digits of identity and element; every shard carries it.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], element: Element) -> None:
        self.folder = folder
        self.identity = identity
        self.element: Element = element
        self.dim: int = identity["dim"]
        self.fingerprint = _fingerprint(identity, element)

    # opening -----------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, folder: str | os.PathLike[str], identity: Mapping[str, Any], *, element: Element = "float16"
    ) -> GradientIndex:
        """Make an index, or reopen the one of the same identity; stray parts of a killed writer are removed.

        Args:
            folder: made when it is missing.
            identity: JSON values; ``dim`` must be among them.
            element: float32 and bfloat16 are stored as they are, float16 and int8 with a scale a row.

        Raises:
            UsageError: the folder holds an index of another identity or element (the message shows both values of
                every setting that differs), or ``element`` is unknown.
            InputError: the folder is none, or its ``index.json`` cannot be read.
            RunFailedError: the folder cannot be written.
            ValueError: ``identity`` names no positive ``dim``, or is not JSON.
        """
        folder = Path(folder)
        if element not in _ELEMENTS:
            raise UsageError(f"gradients cannot be stored as `{element}`", did_you_mean(element, _ELEMENTS))
        wanted: dict[str, Any] = json.loads(canonical_json(dict(identity)))
        if not _is_dim(wanted.get("dim")):
            raise ValueError(f"identity must name dim, a positive integer, got {wanted.get('dim')!r}")
        path = folder / INDEX_FILE
        if folder.exists() and not folder.is_dir():
            raise InputError(f"`{folder}` is not a folder", "name another place for the gradient index")
        content = {
            "format": "diq gradient index",
            "version": VERSION,
            "fingerprint": _fingerprint(wanted, element),
            "element": element,
            "identity": wanted,
        }
        with _one_line(path):
            if not folder.exists():
                folder.mkdir(parents=True, exist_ok=True)
                flush(folder.parent)
            if not path.exists():
                # another process may be faster meanwhile; whose identity counts is checked below
                with contextlib.suppress(FileExistsError), _whole_file(path) as file:
                    file.write(json.dumps(content, ensure_ascii=False, indent=2).encode() + b"\n")
        index = cls.open(folder, write=True)
        index.check_identity(wanted, element=element)
        return index

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, write: bool = False) -> GradientIndex:
        """Open an index.

        Args:
            folder: where it is.
            write: remove the stray parts of a killed writer (those of a living one stay); to read, leave all as it is.

        Raises:
            InputError: there is no index, or its ``index.json`` is broken, was edited or comes from a newer DIQ.
        """
        folder = Path(folder)
        path = folder / INDEX_FILE
        hint = "name a folder that `diq score influence --method projected` made"
        try:
            # int refuses the NaN and infinities that json would take
            content = json.loads(path.read_text(encoding="utf-8"), parse_constant=int)
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"there is no gradient index in `{folder}`: it holds no {INDEX_FILE}", hint) from None
        except OSError as error:
            raise InputError(f"`{path}` cannot be read: {error.strerror or error}", hint) from error
        except ValueError as error:
            raise _broken_index(path, f"it is not JSON ({first_line(error)})") from error
        if not isinstance(content, dict) or "identity" not in content or not isinstance(content.get("version"), int):
            raise _broken_index(path, "it does not describe a gradient index")
        if content["version"] > VERSION:
            raise InputError(
                f"the gradient index `{folder}` has format {content['version']}, this diq knows up to {VERSION}",
                "upgrade diq: `pip install --upgrade diq`",
            )
        identity, element = content["identity"], content.get("element")
        if not isinstance(identity, dict) or not _is_dim(identity.get("dim")) or element not in tuple(_ELEMENTS):
            raise _broken_index(path, "its dim or element is none that an index can have")
        if content.get("fingerprint") != _fingerprint(identity, element):
            raise _broken_index(path, "its settings were changed after it was written")
        if write:
            _remove_parts(folder)
        return cls(folder, identity, element)

    def check_identity(self, wanted: Mapping[str, Any], *, element: Element | None = None) -> None:
        """Refuse an index that holds other numbers than wanted.

        Args:
            wanted: the identity that is asked for.
            element: how the numbers should be stored; None: any way will do.

        Raises:
            UsageError: the identities differ; the message shows both values of every setting that differs.
        """
        want: dict[str, Any] = json.loads(canonical_json(dict(wanted)))
        lines = _differences(self.identity, want)
        if element is not None and element != self.element:
            lines.append(f"element is {self.element} there, {element} asked")
        if lines:
            raise UsageError(
                f"the gradient index `{self.folder}` holds other gradients than asked: {'; '.join(lines)}",
                "ask for the settings of the index, or name another folder",
            )

    # writing -----------------------------------------------------------------------------------------------------

    def write_shard(
        self,
        number: int,
        gradients: npt.NDArray[np.float32],
        sample_ids: Sequence[str],
        losses: npt.ArrayLike,
        answer_tokens: npt.ArrayLike,
        *,
        replace: bool = False,
    ) -> ShardRecord:
        """Write a shard; when this returns, it is on the disk, whole. The same content gives the same bytes.

        float32 keeps numbers exactly, bfloat16 within 2**-8 of themselves, float16 within 2**-11 of themselves down to
        2**-29 of the largest number of their row, int8 within 1/254 of that largest number.

        Args:
            number: 0 or more; no two shards of an index share one.
            gradients: ``[rows, dim]`` float32, finite.
            sample_ids: ``rows`` UUID texts.
            losses: ``[rows]``, nats, finite; kept as float32.
            answer_tokens: ``[rows]``.
            replace: the shard of that number is corrupt or nobody's: write over it.

        Raises:
            RunFailedError: a gradient or a loss is not finite (the message names the row), there is a shard of that
                number already, or the disk is full or refuses; no half shard stays.
            ValueError: shapes do not fit.
        """
        data = self._tensors(number, gradients, sample_ids, losses, answer_tokens)
        file_name = _file_name(number)
        path = self.folder / file_name
        metadata = {
            "format": "diq gradient shard",
            "version": str(VERSION),
            "fingerprint": self.fingerprint,
            "shard": str(number),
        }
        with _one_line(path):
            try:
                with _whole_file(path, replace=replace) as file:
                    n_bytes = _write_tensors(file, data, metadata)
                    content_hash = _core.file_hash(file.name)
            except FileExistsError as error:
                raise RunFailedError(
                    f"the gradient index `{self.folder}` has a shard {number} already: nothing was written",
                    "let every process that writes to the index use shard numbers of its own",
                ) from error
        return ShardRecord(number, file_name, len(gradients), n_bytes, content_hash)

    def _tensors(
        self,
        number: int,
        gradients: npt.NDArray[np.float32],
        sample_ids: Sequence[str],
        losses: npt.ArrayLike,
        answer_tokens: npt.ArrayLike,
    ) -> dict[str, tuple[str, npt.NDArray[Any]]]:
        if number < 0:
            raise ValueError(f"the number of a shard must be 0 or more, got {number}")
        if gradients.dtype != np.float32 or gradients.ndim != 2 or gradients.shape[1] != self.dim:
            raise ValueError(
                f"gradients must be float32 [rows, {self.dim}], got {gradients.dtype} {list(gradients.shape)}"
            )
        rows = len(gradients)
        # a loss beyond float32 becomes an infinity, which is refused below
        with np.errstate(over="ignore"):
            kept_losses = np.asarray(losses, dtype="<f4")
        columns = {"losses": kept_losses, "answer_tokens": np.asarray(answer_tokens, dtype="<i4")}
        ids = np.frombuffer(b"".join(uuid.UUID(one).bytes for one in sample_ids), np.uint8).reshape(-1, 16)
        for name, column in {**columns, "sample_ids": ids[:, 0]}.items():
            if column.shape != (rows,):
                raise ValueError(f"{rows} gradients, but {name} has shape {list(column.shape)}")
        # NaN and infinities survive both reductions, so no array of booleans is needed
        with np.errstate(invalid="ignore"):
            peaks = np.maximum(gradients.max(axis=1, initial=0), -gradients.min(axis=1, initial=0))
        for what, finite in (("gradient", np.isfinite(peaks)), ("loss", np.isfinite(kept_losses))):
            if not finite.all():
                row = int(np.argmin(finite))
                raise RunFailedError(
                    f"the {what} of sample `{sample_ids[row]}` (row {row} of shard {number}) is not finite",
                    "score with --dtype float32, or leave the sample out",
                )
        stored, scale = _quantize(gradients, peaks, self.element)
        # tensors of 4-byte numbers first, so that all are aligned
        return {
            "scale": ("F32", scale),
            **{name: ("F32" if name == "losses" else "I32", column) for name, column in columns.items()},
            "gradients": (_ELEMENTS[self.element], stored),
            "sample_ids": ("U8", ids),
        }

    def write_basis(self, arrays: Mapping[str, npt.NDArray[np.float32]]) -> str:
        """Write the arrays that coordinates of kind ``subspace`` refer to; the same arrays again change nothing.

        Args:
            arrays: float32 of any shape, finite, by name.

        Returns:
            BLAKE2b of the arrays, 32 hexadecimal digits.

        Raises:
            RunFailedError: an array is not finite, there is another basis, there are shards already (their basis was
                lost), or the disk is full or refuses.
            ValueError: an array is not float32.
        """
        tensors: dict[str, tuple[str, npt.NDArray[Any]]] = {}
        for name, array in arrays.items():
            if array.dtype != np.float32:
                raise ValueError(f"the basis `{name}` must be float32, got {array.dtype}")
            if not np.isfinite(array).all():
                raise RunFailedError(f"the basis `{name}` is not finite", "score with --dtype float32")
            tensors[name] = ("F32", np.ascontiguousarray(array, dtype="<f4"))
        path = self.folder / BASIS_FILE
        metadata = {"format": "diq gradient basis", "version": str(VERSION), "fingerprint": self.fingerprint}
        data_hash = _data_hash(tensors)
        with _one_line(path):
            if not path.exists() and any(_SHARD.fullmatch(one.name) for one in self.folder.iterdir()):
                raise RunFailedError(
                    f"the gradient index `{self.folder}` has shards, but lost its {BASIS_FILE}",
                    "bring that file back, or remove the folder and score again",
                )
            try:
                with _whole_file(path) as file:
                    _write_tensors(file, tensors, metadata)
            except FileExistsError:
                have = self.read_basis()
                if list(have) != list(arrays) or not all(np.array_equal(have[name], arrays[name]) for name in have):
                    raise RunFailedError(
                        f"the gradient index `{self.folder}` has another basis already",
                        "name another folder, or remove this one and score again",
                    ) from None
        return data_hash

    # reading -----------------------------------------------------------------------------------------------------

    def read_basis(self) -> dict[str, npt.NDArray[np.float32]]:
        """The arrays that `write_basis` wrote, in their order.

        Raises:
            InputError: the file is missing, broken or of another index, or differs from its checksum.
        """
        path = self.folder / BASIS_FILE
        hint = "bring the file back, or remove the folder and score again"
        try:
            with path.open("rb") as file:
                header = self._header(file)
                _check_data(file, header)
                if any(tensor.dtype != "F32" for tensor in header.tensors.values()):
                    raise _BrokenError("a tensor is not float32")
                return {name: header.read(file, name).astype(np.float32, copy=False) for name in header.tensors}
        except FileNotFoundError:
            raise InputError(f"the gradient index `{self.folder}` has no {BASIS_FILE}", hint) from None
        except OSError as error:
            raise InputError(f"`{path}` cannot be read: {error.strerror or error}", hint) from error
        except _BrokenError as error:
            raise InputError(f"`{path}` is broken: {error}", hint) from error

    def shard_problem(self, record: ShardRecord) -> str | None:
        """Why a shard cannot be used, one line; None for a shard that is as it was written. Reads the whole file."""
        path = self.folder / record.file
        try:
            n_bytes = path.stat().st_size
            if n_bytes != record.n_bytes:
                return f"`{record.file}` has {n_bytes:,} bytes instead of {record.n_bytes:,}"
            if _core.file_hash(path) != record.content_hash:
                return f"`{record.file}` differs from its checksum"
            with path.open("rb") as file:
                self._shard_header(file, record.shard, n_rows=record.n_rows)
        except FileNotFoundError:
            return f"`{record.file}` is missing"
        except OSError as error:
            return f"`{record.file}` cannot be read: {error.strerror or error}"
        except _BrokenError as error:
            return f"`{record.file}` is broken: {error}"
        return None

    def dots(self, record: ShardRecord, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Dots of every gradient of a shard with every vector, streamed from the file.

        Checks the header, not the numbers: ask `shard_problem` first.

        Args:
            record: the shard.
            vectors: ``[m, dim]`` float32, contiguous.

        Returns:
            ``[rows, m]`` float32.

        Raises:
            RunFailedError: the shard is missing or broken.
            ValueError: ``vectors`` is not such an array.
        """
        if vectors.dtype != np.float32 or vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise ValueError(f"vectors must be float32 [m, {self.dim}], got {vectors.dtype} {list(vectors.shape)}")
        if not vectors.flags.c_contiguous:
            raise ValueError("vectors is not contiguous; copy it with np.ascontiguousarray")
        with self._opened(record):
            return _core.shard_dots(self.folder / record.file, vectors)

    def read(self, record: ShardRecord) -> ShardRows:
        """The content of a shard.

        Checks the header, not the numbers: ask `shard_problem` first.

        Raises:
            RunFailedError: the shard is missing or broken.
        """
        with self._opened(record) as (file, header):
            scale = header.read(file, "scale").astype(np.float32, copy=False)
            gradients = _dequantize(header.read(file, "gradients"), scale, self.element)
            return ShardRows(gradients, *_columns(file, header))

    def numbers_on_disk(self) -> list[int]:
        """Numbers of the shard files of the folder, whole or not, ascending.

        Raises:
            InputError: the folder cannot be read.
        """
        try:
            matches = [_SHARD.fullmatch(path.name) for path in self.folder.iterdir()]
        except OSError as error:
            raise InputError(f"`{self.folder}` cannot be read: {error.strerror or error}") from error
        return sorted(int(match[1]) for match in matches if match)

    def shards_on_disk(self, *, known: Container[int] = ()) -> Iterator[FoundShard | BrokenShard]:
        """Every shard file of the folder, by number, checked by what it carries itself.

        For a folder that came without its store, and for shards that a killed writer could not record. Reads each file
        to its end, one at a time.

        Args:
            known: numbers of shards to pass over unread.

        Raises:
            InputError: the folder cannot be read.
        """
        for number in self.numbers_on_disk():
            if number in known:
                continue
            name = _file_name(number)
            path = self.folder / name
            try:
                with path.open("rb") as file:
                    header = self._shard_header(file, number)
                    _check_data(file, header)
                    columns = _columns(file, header)
                    n_bytes = os.fstat(file.fileno()).st_size
                record = ShardRecord(number, name, len(columns[0]), n_bytes, _core.file_hash(path))
            except OSError as error:
                yield BrokenShard(number, name, f"`{name}` cannot be read: {error.strerror or error}")
            except _BrokenError as error:
                yield BrokenShard(number, name, f"`{name}` is broken: {error}")
            else:
                yield FoundShard(record, *columns)

    @contextlib.contextmanager
    def _opened(self, record: ShardRecord) -> Iterator[tuple[IO[bytes], _Header]]:
        """A shard with its header checked; what goes wrong with the file in the block is one line."""
        path = self.folder / record.file
        hint = "run the scoring again: it writes the shard anew"
        try:
            with path.open("rb") as file:
                yield file, self._shard_header(file, record.shard, n_rows=record.n_rows)
        except FileNotFoundError:
            raise RunFailedError(f"the gradient index `{self.folder}` lacks `{record.file}`", hint) from None
        except OSError as error:
            raise RunFailedError(f"`{path}` cannot be read: {error.strerror or error}", hint) from error
        except ValueError as error:
            # the core names the file itself
            reason = first_line(error).removeprefix(f"{path}: ")
            raise RunFailedError(f"`{path}` is broken: {reason}", hint) from error

    def _header(self, file: IO[bytes]) -> _Header:
        header = _Header.of(file)
        if header.metadata.get("fingerprint") != self.fingerprint:
            raise _BrokenError("it belongs to another index")
        return header

    def _shard_header(self, file: IO[bytes], number: int, *, n_rows: int | None = None) -> _Header:
        header = self._header(file)
        if header.metadata.get("shard") != str(number):
            raise _BrokenError(f"it is not shard {number} of the index")
        rows = n_rows
        if rows is None:
            scale = header.tensors.get("scale")
            rows = scale.shape[0] if scale is not None and scale.shape else 0
        expected = {
            "scale": ("F32", (rows,)),
            "losses": ("F32", (rows,)),
            "answer_tokens": ("I32", (rows,)),
            "gradients": (_ELEMENTS[self.element], (rows, self.dim)),
            "sample_ids": ("U8", (rows, 16)),
        }
        for name, (dtype, shape) in expected.items():
            tensor = header.tensors.get(name)
            if tensor is None:
                raise _BrokenError(f"it has no tensor `{name}`")
            if (tensor.dtype, tensor.shape) != (dtype, shape):
                raise _BrokenError(f"`{name}` is {tensor.dtype} {list(tensor.shape)} instead of {dtype} {list(shape)}")
        return header


# numbers ---------------------------------------------------------------------------------------------------------


def _quantize(
    gradients: npt.NDArray[np.float32], peaks: npt.NDArray[np.float32], element: Element
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    """Numbers as stored, and the scale of each row: a gradient is ``stored[r] * scale[r]``, always finite.

    Args:
        gradients: ``[rows, dim]`` float32, finite.
        peaks: ``[rows]``, the largest magnitude of each row.
        element: of ``stored``; bfloat16 as its bits, uint16.
    """
    ones = np.ones(len(gradients), "<f4")
    if element == "float32":
        return np.ascontiguousarray(gradients, dtype="<f4"), ones
    if element == "bfloat16":
        return _to_bfloat16(gradients), ones
    if element == "float16":
        # powers of two: scaling rounds nothing, so a number above 2**-29 of the peak keeps all 11 bits
        exponents = np.frexp(peaks)[1] - _FLOAT16_EXPONENT
        scale = np.ldexp(np.float32(1), np.maximum(exponents, -126))
        scaled = gradients / scale[:, None]
        # a peak that rounds up could leave float32 when it is read
        np.clip(scaled, -_FLOAT16_PEAK, _FLOAT16_PEAK, out=scaled)
        return scaled.astype("<f2"), scale.astype("<f4")
    # below 127 * 2**-126 the scale would lose its own bits
    scale = np.clip(peaks / _INT8_PEAK, _TINY, _INT8_SCALE_MAX)
    scaled = gradients / scale[:, None]
    np.rint(scaled, out=scaled)
    np.clip(scaled, -_INT8_PEAK, _INT8_PEAK, out=scaled)
    return scaled.astype(np.int8), scale.astype("<f4")


def _to_bfloat16(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Bits of the nearest bfloat16, ties to even; what would round up to an infinity stays the largest number."""
    bits = np.ascontiguousarray(numbers).view(np.uint32)
    rounded = (bits >> 16) & 1
    rounded += bits
    rounded += np.uint32(0x7FFF)
    rounded >>= 16
    upper = rounded.astype("<u2")
    sign = upper & np.uint16(0x8000)
    upper &= np.uint16(0x7FFF)
    np.minimum(upper, _BFLOAT16_MAX, out=upper)
    upper |= sign
    return upper


def _dequantize(stored: npt.NDArray[Any], scale: npt.NDArray[np.float32], element: Element) -> npt.NDArray[np.float32]:
    """``[rows, dim]`` float32 from what `_quantize` made."""
    if element == "bfloat16":
        gradients = (stored.astype(np.uint32) << 16).view(np.float32)
    else:
        gradients = stored.astype(np.float32)
    gradients *= scale[:, None]
    return gradients


# files -----------------------------------------------------------------------------------------------------------


class _BrokenError(ValueError):
    """A file is not what it should be; the text is the reason, to be put behind its name."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    dtype: str
    shape: tuple[int, ...]
    start: int  # byte within the file


@dataclass(frozen=True, slots=True)
class _Header:
    """Header of a safetensors file, checked against its size."""

    tensors: dict[str, _Tensor]
    metadata: dict[str, str]
    start: int  # byte at which the numbers begin

    @classmethod
    def of(cls, file: IO[bytes]) -> _Header:
        """Read a header.

        Raises:
            _BrokenError: it is not one of safetensors, or does not describe the file to its end.
        """
        n_bytes = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        start = 8 + length
        if n_bytes < 8 or start > n_bytes:
            raise _BrokenError("it is cut off within its header, or not a safetensors file")
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
            raise _BrokenError("its header is not one of safetensors") from error
        tensors, end = {}, 0
        for first, last, name, dtype, shape in sorted(found):
            if dtype not in _DTYPES:
                raise _BrokenError(f"`{name}` has the unexpected type {dtype}")
            size = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
            if first != end or last - first != size or min(shape, default=0) < 0:
                raise _BrokenError("its header contradicts itself")
            tensors[name] = _Tensor(dtype, shape, start + first)
            end = last
        if start + end != n_bytes:
            raise _BrokenError(f"it has {n_bytes:,} bytes, its header announces {start + end:,}")
        return cls(tensors, metadata, start)

    def read(self, file: IO[bytes], name: str) -> npt.NDArray[Any]:
        """A tensor, as stored (bfloat16 as its bits, uint16)."""
        tensor = self.tensors[name]
        count = math.prod(tensor.shape)
        file.seek(tensor.start)
        numbers = np.fromfile(file, dtype=_DTYPES[tensor.dtype], count=count)
        if len(numbers) != count:
            raise _BrokenError(f"it ends within `{name}`")
        return numbers.reshape(tensor.shape)


def _write_tensors(
    file: IO[bytes], tensors: Mapping[str, tuple[str, npt.NDArray[Any]]], metadata: Mapping[str, str]
) -> int:
    """Write a safetensors file: length of the header, header, numbers without gaps. Returns its size in bytes."""
    header: dict[str, Any] = {"__metadata__": {**metadata, "data_hash": _data_hash(tensors)}}
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


def _data_hash(tensors: Mapping[str, tuple[str, npt.NDArray[Any]]]) -> str:
    """Checksum of names, types, shapes and numbers, 32 hexadecimal digits."""
    digest = _digest((name, dtype, array.shape) for name, (dtype, array) in tensors.items())
    for _, array in tensors.values():
        digest.update(array.reshape(-1).data)
    return digest.hexdigest()


def _check_data(file: IO[bytes], header: _Header) -> None:
    """Refuse a file whose tensors differ from the checksum in its header."""
    digest = _digest((name, tensor.dtype, tensor.shape) for name, tensor in header.tensors.items())
    file.seek(header.start)
    while block := file.read(_BLOCK):
        digest.update(block)
    if digest.hexdigest() != header.metadata.get("data_hash"):
        raise _BrokenError("its tensors differ from their checksum")


def _digest(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> hashlib.blake2b:
    """BLAKE2b of the names, types and shapes of tensors, in the order of the file; their numbers are to follow."""
    return hashlib.blake2b(canonical_json([list(tensor) for tensor in tensors]).encode(), digest_size=16)


def _columns(file: IO[bytes], header: _Header) -> tuple[list[str], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Sample ids, losses and answer tokens of a shard."""
    ids = header.read(file, "sample_ids").tobytes()
    return (
        [str(uuid.UUID(bytes=ids[first : first + 16])) for first in range(0, len(ids), 16)],
        header.read(file, "losses").astype(np.float32, copy=False),
        header.read(file, "answer_tokens").astype(np.int32, copy=False),
    )


@contextlib.contextmanager
def _whole_file(path: Path, *, replace: bool = False) -> Iterator[IO[bytes]]:
    """A file that appears whole or not at all, and once at most unless ``replace`` is given.

    The block writes to a hidden part beside it, which is locked meanwhile: a second writer of the same file waits, and
    a cleaner sees that its writer lives.

    Raises:
        FileExistsError: the file is there already.
    """
    part = path.with_name(f".{path.name}.part")
    while True:
        # opened without truncation: until the lock is had, another writer's numbers may be in it
        with part.open("ab") as file:
            _lock(file, wait=True)
            if not _is_at(file, part):
                continue
            try:
                if not replace and path.exists():
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
                file.truncate(0)
                yield file
                file.flush()
                os.fsync(file.fileno())
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        break
    flush(path.parent)


def _remove_parts(folder: Path) -> None:
    """Remove what killed writers left; the parts of living ones are locked and stay."""
    for part in folder.iterdir():
        if not _PART.fullmatch(part.name):
            continue
        # one that vanishes meanwhile, or may not be touched, is no reason to stop
        with contextlib.suppress(OSError), part.open("r+b") as file:
            if _lock(file, wait=False) and _is_at(file, part):
                part.unlink()
                log.info("removed `%s`, which a killed writer left", part)


def _lock(file: IO[bytes], *, wait: bool) -> bool:
    """Lock an open file until it is closed; False where another holds it or the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _warn_of_no_locks(Path(file.name).parent)
        return False
    return True


@functools.cache
def _warn_of_no_locks(folder: Path) -> None:
    log.warning("the file system of `%s` has no locks: let one process alone write there", folder)


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is still the one of that name: who held its lock before may have moved or removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """An operating-system error in the block as one line with a hint."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL_DISK:
            raise RunFailedError(
                f"the disk of `{path.parent}` is full: `{path.name}` was not written",
                "free some space and run the same command again: finished shards are kept",
            ) from error
        raise RunFailedError(
            f"`{path}` cannot be written: {error.strerror or error}", "name a folder that can be written"
        ) from error


def _file_name(number: int) -> str:
    return f"shard-{number:06d}.safetensors"


# identity --------------------------------------------------------------------------------------------------------


def _is_dim(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _fingerprint(identity: Mapping[str, Any], element: str) -> str:
    text = canonical_json({"identity": identity, "element": element})
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _broken_index(path: Path, reason: str) -> DiqError:
    return InputError(f"`{path}` is broken: {reason}", "bring the file back, or remove the folder and score again")


def _differences(have: Mapping[str, Any], want: Mapping[str, Any]) -> list[str]:
    """A line for each setting that differs; within a setting, the first place where it does."""
    lines = []
    for key in sorted({*have, *want}):
        found = list(_places(key, have.get(key, _NOTHING), want.get(key, _NOTHING)))
        if found:
            place, there, asked = found[0]
            there, asked = _cut(there, asked)
            more = f" (and {len(found) - 1} more places)" if len(found) > 1 else ""
            lines.append(f"{place} is {there} there, {asked} asked{more}")
    return lines


_NOTHING = object()


def _places(place: str, there: Any, asked: Any) -> Iterator[tuple[str, str, str]]:
    """Places within two JSON values where they differ, with both values as text."""
    if isinstance(there, dict) and isinstance(asked, dict):
        for key in sorted({*there, *asked}):
            yield from _places(f"{place}.{key}", there.get(key, _NOTHING), asked.get(key, _NOTHING))
    elif isinstance(there, list) and isinstance(asked, list) and len(there) == len(asked):
        for number, (one, other) in enumerate(zip(there, asked, strict=True)):
            yield from _places(f"{place}[{number}]", one, other)
    else:
        texts = tuple("nothing" if value is _NOTHING else canonical_json(value) for value in (there, asked))
        if texts[0] != texts[1]:
            yield place, texts[0], texts[1]


def _cut(one: str, other: str) -> tuple[str, str]:
    """Two different texts, long ones cut around their first difference."""
    first = next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    start = max(0, first - _SHOWN // 3) if max(len(one), len(other)) > _SHOWN else 0
    cut = []
    for text in (one, other):
        end = start + _SHOWN
        cut.append(("…" if start else "") + text[start:end] + ("…" if end < len(text) else ""))
    return cut[0], cut[1]
