"""Rows of a source on their way into the store."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping

import orjson
import pyarrow as pa

from diq import _core
from diq.base.progress import Progress
from diq.base.sample import Message, Sample
from diq.formats import Parsed, Reader
from diq.formats.rows import BadRow, excerpt
from diq.samples.sources import Entry, SourceSummary, record_source
from diq.store.store import Store

BATCH_ROWS = 10_000
BATCH_BYTES = 16 << 20  # of text; rows are written when either is reached
MAX_SAMPLE_BYTES = 32 << 20  # of text of one sample; no model reads a hundredth of it

_MEMORY = 256 << 20  # that DuckDB may use for rows of usual lengths
_VECTOR = 2048  # rows whose texts DuckDB holds at once when it writes them


class Memory:
    """The memory that DuckDB may use: little, so that the size of a file does not matter, and more for long rows.

    Texts that DuckDB writes together have to fit, several times: what it has too little memory for fails at the end.

    Args:
        store: where rows are written; one such record serves all sources of a call.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        row = store.row("samples/get_memory_limit")
        assert row is not None
        number, unit = row["memory_limit"].split()
        self._most = int(float(number) * 1024 ** ("bytes", "KiB", "MiB", "GiB", "TiB").index(unit))
        self._recent: deque[tuple[int, int]] = deque()
        self._given = 0
        self._give(_MEMORY)

    def make_room(self, n: int, n_bytes: int) -> None:
        """Be ready for n more rows with so many bytes of text."""
        self._recent.append((n, n_bytes))
        while sum(n for n, _ in self._recent) - self._recent[0][0] >= _VECTOR:
            self._recent.popleft()
        together = sum(n_bytes for _, n_bytes in self._recent)
        self._give(_MEMORY + 2 * max(0, together - 2 * BATCH_BYTES))

    def _give(self, n_bytes: int) -> None:
        wanted = min(n_bytes, self._most)
        if wanted > self._given:
            self._given = wanted
            self._store.run("samples/limit_memory", limit=f"{wanted >> 20}MiB")


def write_source(
    store: Store,
    memory: Memory,
    dataset_id: int,
    reader: Reader,
    entry: Entry,
    counts: SourceSummary,
    split: str,
    report: Progress,
) -> None:
    source = store.row("samples/next_source_id")
    first = store.row("samples/next_position", dataset_id=dataset_id)
    assert source is not None
    assert first is not None
    ids = {"dataset_id": dataset_id, "source_id": source["source_id"]}
    position = first["position"]
    for batch in _batches(reader):
        memory.make_room(batch.n, batch.n_bytes)
        n = batch.write(store, position, ids, entry.source.path, split, counts)
        position += n
        counts.n_rows += n
        done, total = entry.source.meter.done, entry.source.meter.total
        report(counts.path, counts.n_rows, counts.n_rows * total // done if done else 0)
    entry.check_unchanged()
    record_source(store, ids, "samples", entry, counts, first["position"])


class _Batch:
    """Rows on their way into the store, column by column."""

    def __init__(self) -> None:
        self.n = 0
        self.n_bytes = 0
        self.rejects: list[tuple[int, BadRow]] = []
        self.offsets: list[int] = []
        self.lines: list[int] = []
        self.canonical: list[str] = []
        self.messages: list[str] = []
        self.rejected: list[str | None] = []
        self.attributes: list[str | None] = []

    def add(self, row: Parsed | BadRow) -> None:
        """Take a row; its place in the batch is its place in the source."""
        bad = row if isinstance(row, BadRow) else self._add_sample(row)
        if bad is not None:
            self.rejects.append((self.n, bad))
            self.n_bytes += len(bad.content)
        self.n += 1

    def _add_sample(self, row: Parsed) -> BadRow | None:
        sample = row.sample
        try:
            text, messages, rejected, attributes = _texts(sample)
        except (TypeError, UnicodeEncodeError) as error:
            # orjson refuses what UTF-8 cannot write, and numbers that nothing else would read back as they are
            if "64-bit" in str(error):
                return BadRow(row.line, "an integer of more than 64 bits in tools or their calls", "")
            return BadRow(row.line, "half of a surrogate pair (\\ud800 to \\udfff) in the text", "")
        n_bytes = len(text) if text.isascii() else len(text.encode())
        if n_bytes > MAX_SAMPLE_BYTES:
            reason = f"the text has {n_bytes / (1 << 20):,.1f} MB, a sample has at most {MAX_SAMPLE_BYTES >> 20}"
            return BadRow(row.line, reason, excerpt(text))
        self.offsets.append(self.n)
        self.lines.append(row.line)
        self.canonical.append(text)
        self.messages.append(messages)
        self.rejected.append(rejected)
        self.attributes.append(attributes)
        self.n_bytes += n_bytes
        return None

    @property
    def full(self) -> bool:
        """Whether it is time to write."""
        return self.n >= BATCH_ROWS or self.n_bytes >= BATCH_BYTES

    def write(
        self, store: Store, position: int, ids: Mapping[str, int], path: str, split: str, counts: SourceSummary
    ) -> int:
        """Put the rows into the store, the first one at ``position``; returns how many."""
        if self.rejects:
            rejects = {
                "line": [row.line for _, row in self.rejects],
                "position": [position + offset for offset, _ in self.rejects],
                "reason": [row.reason for _, row in self.rejects],
                "content": [row.content for _, row in self.rejects],
            }
            counts.n_rejects += store.insert("samples/insert_rejects", pa.table(rejects), **ids, source=path)
        if not self.canonical:
            return self.n
        sample_ids = _core.sample_ids(self.canonical)
        first = dict(zip(reversed(sample_ids), range(len(sample_ids) - 1, -1, -1), strict=True))
        repeated = [first[one] != place for place, one in enumerate(sample_ids)]
        incoming = pa.table(
            {
                "position": pa.array([position + offset for offset in self.offsets], pa.int64()),
                "line": pa.array(self.lines, pa.int64()),
                "sample_id": pa.array(sample_ids, pa.string()),
                "messages": pa.array(self.messages, pa.large_string()),
                "rejected": pa.array(self.rejected, pa.large_string()),
                "attributes": pa.array(self.attributes, pa.string()),
                "repeated": pa.array(repeated, pa.bool_()),
            }
        )
        counts.n_duplicates += store.insert("samples/insert_duplicates", incoming, **ids)
        counts.n_samples += store.insert("samples/insert_dataset_samples", incoming, **ids, split=split)
        store.insert("samples/insert_samples", incoming)
        return self.n


def _batches(rows: Reader) -> Iterator[_Batch]:
    batch = _Batch()
    for row in rows:
        batch.add(row)
        if batch.full:
            yield batch
            batch = _Batch()
    if batch.n:
        yield batch


def _texts(sample: Sample) -> tuple[str, str, str | None, str | None]:
    """Canonical text, which is hashed; what is stored: messages and refused answer, and attributes.

    The first equals ``sample.canonical()``, in a fifth of the time; a test holds the two together.
    """
    attributes = None
    if sample.attributes:
        try:
            attributes = orjson.dumps(sample.attributes).decode()
        except TypeError:
            # integers beyond 64 bits
            attributes = json.dumps(sample.attributes, ensure_ascii=False)
            attributes.encode()
    text = messages = orjson.dumps(sample.messages, option=orjson.OPT_SORT_KEYS).decode()
    rejected = None
    if sample.rejected is not None:
        rejected = orjson.dumps(sample.rejected, option=orjson.OPT_SORT_KEYS).decode()
        text = f'{{"messages":{messages},"rejected":{rejected}}}'
    if _has_tools(sample.messages) or (sample.rejected and _has_tools(sample.rejected)):
        # the same sample whatever the order, but a model reads tools and their arguments in the user's
        messages = _in_order(sample.messages)
        rejected = None if sample.rejected is None else _in_order(sample.rejected)
    return text, messages, rejected, attributes


def _has_tools(messages: list[Message]) -> bool:
    # a plain loop: every row comes here, and to search its text would take longer
    for one in messages:  # noqa: SIM110
        if "tools" in one or "tool_calls" in one:
            return True
    return False


def _in_order(messages: list[Message]) -> str:
    """JSON of messages with sorted keys, and of what they hold with the keys as they came."""
    return orjson.dumps([dict(sorted(one.items())) for one in messages]).decode()
