"""Gradient indexes: folders of safetensors shards that keep the projected gradients of samples.

A shard appears by atomic rename after fsync and is never written again, so a folder holds whole shards whatever killed
the writer. Two checksums guard it: BLAKE3 of the whole file, kept in the store, finds a shard that was changed or
exchanged; BLAKE2b of the tensors, kept in the shard itself, lets a folder prove itself that came without its store.

The files are written and read here rather than by the safetensors package: numpy has no bfloat16, and dots with new
validation sets (``--from-index``) then need no package beyond the base install. ``docs/formats.md`` describes them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import uuid
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from diq import _core
from diq.base.errors import InputError, RunFailedError, UsageError
from diq.base.files import disk_errors, flush, remove_parts, whole_file
from diq.base.fingerprint import canonical_json
from diq.base.text import did_you_mean, first_line
from diq.gradient_index.identity import broken_index, differences, index_fingerprint, is_dim
from diq.gradient_index.numbers import ELEMENTS, dequantize, quantize
from diq.gradient_index.options import Element
from diq.gradient_index.tensors import BrokenError, Header, check_data, hash_of_data, read_columns, write_tensors

log = logging.getLogger(__name__)

VERSION = 1
INDEX_FILE = "index.json"
BASIS_FILE = "basis.safetensors"
_SHARD = re.compile(r"shard-(\d{6}|[1-9]\d{6,})\.safetensors")
_OWN_FILE = re.compile(rf"{_SHARD.pattern}|{re.escape(INDEX_FILE)}|{re.escape(BASIS_FILE)}")


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


class ShardTakenError(RunFailedError):
    """An index has a shard of that number already: take the next."""


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
        self.fingerprint = index_fingerprint(identity, element)

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
        if element not in ELEMENTS:
            raise UsageError(f"gradients cannot be stored as `{element}`", did_you_mean(element, ELEMENTS))
        wanted: dict[str, Any] = json.loads(canonical_json(dict(identity)))
        if not is_dim(wanted.get("dim")):
            raise ValueError(f"identity must name dim, a positive integer, got {wanted.get('dim')!r}")
        path = folder / INDEX_FILE
        if folder.exists() and not folder.is_dir():
            raise InputError(f"`{folder}` is not a folder", "name another place for the gradient index")
        content = {
            "format": "diq gradient index",
            "version": VERSION,
            "fingerprint": index_fingerprint(wanted, element),
            "element": element,
            "identity": wanted,
        }
        if not folder.exists():
            with disk_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                flush(folder.parent)
        if not path.exists():
            # another process may be faster meanwhile; whose identity counts is checked below
            with contextlib.suppress(FileExistsError), whole_file(path, replace=False) as file:
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
            raise broken_index(path, f"it is not JSON ({first_line(error)})") from error
        if not isinstance(content, dict) or "identity" not in content or not isinstance(content.get("version"), int):
            raise broken_index(path, "it does not describe a gradient index")
        if content["version"] > VERSION:
            raise InputError(
                f"the gradient index `{folder}` has format {content['version']}, this diq knows up to {VERSION}",
                "upgrade diq: `pip install --upgrade diq`",
            )
        identity, element = content["identity"], content.get("element")
        if not isinstance(identity, dict) or not is_dim(identity.get("dim")) or element not in tuple(ELEMENTS):
            raise broken_index(path, "its dim or element is none that an index can have")
        if content.get("fingerprint") != index_fingerprint(identity, element):
            raise broken_index(path, "its settings were changed after it was written")
        if write:
            remove_parts(folder, _OWN_FILE)
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
        lines = differences(self.identity, want)
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
            ShardTakenError: there is a shard of that number already.
            RunFailedError: a gradient or a loss is not finite (the message names the row), or the disk is full or
                refuses; no half shard stays.
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
        try:
            with whole_file(path, replace=replace) as file:
                n_bytes = write_tensors(file, data, metadata)
                content_hash = _core.file_hash(file.name)
        except FileExistsError as error:
            raise ShardTakenError(
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
        stored, scale = quantize(gradients, peaks, self.element)
        # tensors of 4-byte numbers first, so that all are aligned
        return {
            "scale": ("F32", scale),
            **{name: ("F32" if name == "losses" else "I32", column) for name, column in columns.items()},
            "gradients": (ELEMENTS[self.element], stored),
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
        data_hash = hash_of_data(tensors)
        if not path.exists() and self.numbers_on_disk():
            raise RunFailedError(
                f"the gradient index `{self.folder}` has shards, but lost its {BASIS_FILE}",
                "bring that file back, or remove the folder and score again",
            )
        try:
            with whole_file(path, replace=False) as file:
                write_tensors(file, tensors, metadata)
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
                check_data(file, header)
                if any(tensor.dtype != "F32" for tensor in header.tensors.values()):
                    raise BrokenError("a tensor is not float32")
                return {name: header.read(file, name).astype(np.float32, copy=False) for name in header.tensors}
        except FileNotFoundError:
            raise InputError(f"the gradient index `{self.folder}` has no {BASIS_FILE}", hint) from None
        except OSError as error:
            raise InputError(f"`{path}` cannot be read: {error.strerror or error}", hint) from error
        except BrokenError as error:
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
        except BrokenError as error:
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
            gradients = dequantize(header.read(file, "gradients"), scale, self.element)
            return ShardRows(gradients, *read_columns(file, header))

    def rows(self, record: ShardRecord, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Some gradients of a shard, ``[n, dim]`` float32; only they are read from the file.

        Checks the header, not the numbers: ask `shard_problem` first.

        Raises:
            RunFailedError: the shard is missing or broken.
        """
        with self._opened(record) as (file, header):
            scale = header.read(file, "scale").astype(np.float32, copy=False)[rows]
            return dequantize(header.mapped(file, "gradients")[rows], scale, self.element)

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
                    check_data(file, header)
                    columns = read_columns(file, header)
                    n_bytes = os.fstat(file.fileno()).st_size
                record = ShardRecord(number, name, len(columns[0]), n_bytes, _core.file_hash(path))
            except OSError as error:
                yield BrokenShard(number, name, f"`{name}` cannot be read: {error.strerror or error}")
            except BrokenError as error:
                yield BrokenShard(number, name, f"`{name}` is broken: {error}")
            else:
                yield FoundShard(record, *columns)

    @contextlib.contextmanager
    def _opened(self, record: ShardRecord) -> Iterator[tuple[IO[bytes], Header]]:
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

    def _header(self, file: IO[bytes]) -> Header:
        header = Header.of(file)
        if header.metadata.get("fingerprint") != self.fingerprint:
            raise BrokenError("it belongs to another index")
        return header

    def _shard_header(self, file: IO[bytes], number: int, *, n_rows: int | None = None) -> Header:
        header = self._header(file)
        if header.metadata.get("shard") != str(number):
            raise BrokenError(f"it is not shard {number} of the index")
        rows = n_rows
        if rows is None:
            scale = header.tensors.get("scale")
            rows = scale.shape[0] if scale is not None and scale.shape else 0
        expected = {
            "scale": ("F32", (rows,)),
            "losses": ("F32", (rows,)),
            "answer_tokens": ("I32", (rows,)),
            "gradients": (ELEMENTS[self.element], (rows, self.dim)),
            "sample_ids": ("U8", (rows, 16)),
        }
        for name, (dtype, shape) in expected.items():
            tensor = header.tensors.get(name)
            if tensor is None:
                raise BrokenError(f"it has no tensor `{name}`")
            if (tensor.dtype, tensor.shape) != (dtype, shape):
                raise BrokenError(f"`{name}` is {tensor.dtype} {list(tensor.shape)} instead of {dtype} {list(shape)}")
        return header


def _file_name(number: int) -> str:
    return f"shard-{number:06d}.safetensors"
