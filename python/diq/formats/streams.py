"""Byte streams of files: plain, gzip or Zstandard (told by their first bytes), text always as UTF-8.

A damaged or truncated file is an `InputError` that names it, never a short read.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import pyarrow as pa

from diq.base.errors import InputError
from diq.formats.rows import Meter

CHUNK = 1 << 20  # bytes read at once
MAX_LINE = 128 << 20  # bytes of one line or one JSON element; keeps memory bounded on files that are not what they say

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_LFS = b"version https://git-lfs.github.com/spec/"
# longest first: the UTF-32 mark begins with the UTF-16 mark
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def compression(path: Path) -> str:
    """``gzip``, ``zstd`` or the empty string, by the first bytes of the file.

    Raises:
        InputError: the file is empty, cannot be read, is a git-lfs pointer, or its name promises a compression that
            its bytes do not have.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(_LFS))
    except OSError as error:
        raise InputError(f"`{path}` cannot be read: {error.strerror}", "check its permissions") from error
    if not head:
        raise InputError(f"`{path}` is empty (0 bytes)", "give a file with rows")
    if head == _LFS:
        raise InputError(f"`{path}` is a git-lfs pointer, not the data itself", "run `git lfs pull` in its repository")
    found = "gzip" if head.startswith(_GZIP) else "zstd" if _is_zstd(head) else ""
    named = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix, found)
    if named != found:
        raise InputError(
            f"`{path}` is named {path.suffix}, but does not start like {named} data", "download or write it again"
        )
    return found


def _is_zstd(head: bytes) -> bool:
    # a skippable frame may come first: magic numbers 0x184D2A50 to 0x184D2A5F
    return head.startswith(_ZSTD) or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5)


Stream = TypeVar("Stream", bound="ByteStream")


class ByteStream:
    """The decompressed bytes of a file.

    Args:
        path: the file.
        meter: told how many bytes of the file itself are consumed.
    """

    def __init__(self, path: Path, meter: Meter | None = None) -> None:
        self.path = path
        kind = compression(path)
        # gzip from the standard library also reads zero-padded files (tapes, tar); pyarrow finds truncated Zstandard
        self._file: Any = path.open("rb") if kind == "gzip" else pa.OSFile(str(path))
        self._stream: Any = self._file
        if kind == "gzip":
            self._stream = gzip.GzipFile(fileobj=self._file)
        elif kind == "zstd":
            self._stream = pa.CompressedInputStream(self._file, "zstd")
        self._meter = meter or Meter()
        self._meter.done, self._meter.total = 0, path.stat().st_size

    def read(self, n: int = CHUNK) -> bytes:
        """At most ``n`` bytes; empty at the end.

        Raises:
            InputError: the file is truncated or damaged.
        """
        try:
            data: bytes = self._stream.read(n)
        except (EOFError, OSError, zlib.error) as error:
            what = "is cut off" if "runcated" in str(error) or isinstance(error, EOFError) else "is damaged"
            raise InputError(
                f"`{self.path}` {what} after {self._meter.done:,} bytes: {error}",
                "download or write it again; nothing of it was ingested",
            ) from error
        self._meter.done = min(self._file.tell(), self._meter.total)
        return data

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        self._file.close()

    def __enter__(self: Stream) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TextStream(ByteStream):
    """The bytes of a text file as UTF-8 without a byte order mark; UTF-16 and UTF-32 with a mark are converted.

    Raises:
        InputError: the first bytes are not text.
    """

    def __init__(self, path: Path, meter: Meter | None = None) -> None:
        super().__init__(path, meter)
        self._decoder: Any = None
        try:
            head = super().read()
            self._check(head)
        except BaseException:
            self.close()
            raise
        self._head = head

    def _check(self, head: bytes) -> None:
        for mark, name in _MARKS:
            if head.startswith(mark):
                self._decoder = codecs.getincrementaldecoder(name)()
                return
        if b"\0" in head:
            raise InputError(
                f"`{self.path}` is not text: a zero byte at offset {head.index(0)}",
                "give UTF-8 text (UTF-16 needs its byte order mark), or name the file by what it is, such as .parquet",
            )

    def read(self, n: int = CHUNK) -> bytes:
        """At most about ``n`` bytes of UTF-8; empty at the end."""
        while True:
            if self._head:
                data, self._head = self._head, b""
                data = data.removeprefix(codecs.BOM_UTF8)
                # a file of nothing but a mark has no bytes here, and no more below
            else:
                data = super().read(n)
                if not data and self._decoder is None:
                    return b""
            if self._decoder is None:
                if data:
                    return data
                continue
            try:
                text: str = self._decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise InputError(
                    f"`{self.path}` has the byte order mark of {error.encoding}, but is not it: {error.reason}",
                    "save it as UTF-8",
                ) from error
            if text or not data:
                return text.encode("utf-8", errors="surrogatepass")


def lines(stream: ByteStream) -> Iterator[bytes]:
    """Physical lines without their newline; the last one need not have a newline.

    Raises:
        InputError: a line is longer than ``MAX_LINE``.
    """
    pending: list[bytes] = []
    size = 0
    line = 1
    while chunk := stream.read():
        first, *rest = chunk.split(b"\n")
        pending.append(first)
        size += len(first)
        if rest:
            yield b"".join(pending)
            yield from rest[:-1]
            line += len(rest)
            pending, size = [rest[-1]], len(rest[-1])
        elif size > MAX_LINE:
            raise InputError(
                f"line {line} of `{stream.path}` is longer than {MAX_LINE >> 20} MB",
                "is it really one row a line? a JSON array belongs in a .json file",
            )
    if size:
        yield b"".join(pending)


def unpacked(path: Path, folder: str) -> Path:
    """A file that readers can seek in: the path itself, or a decompressed copy in ``folder``."""
    if not compression(path):
        return path
    copy = Path(folder) / path.stem
    with ByteStream(path) as stream, copy.open("wb") as out:
        while data := stream.read():
            out.write(data)
    return copy
