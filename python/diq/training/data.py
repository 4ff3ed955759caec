"""What is trained on: a file, a selection or a dataset as canonical text, and as tokens in an Arrow file.

The trainer gets tokens, never text: the ids and the answer mask are those that influence was measured on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from diq.base.errors import InputError, UsageError
from diq.base.fingerprint import begun
from diq.base.progress import Progress
from diq.base.sample import Message, Sample
from diq.base.text import amount, did_you_mean
from diq.formats import open_source
from diq.formats.rows import BadRow
from diq.models.saving import saving_errors
from diq.models.tokens import Tokenization, Tokens
from diq.store.connection import WAIT_S
from diq.store.store import Store
from diq.training.options import Method

log = logging.getLogger(__name__)

_READ_ROWS = 512
# reasons to leave a pair out
_NO_PAIR = "the sample has no refused answer"
_MANY_TURNS = "the chosen and the refused dialogue differ in more than the last answer"


class Texts:
    """Samples as JSON lines in a temporary file that vanishes with the process, and the hash of their canonical JSON.

    Reading everything once makes the hash known before a model is loaded and frees the store; memory stays flat.

    Args:
        pairs: whether refused answers are kept; without them a preference pair is its chosen answer.
    """

    def __init__(self, *, pairs: bool = False) -> None:
        self.pairs = pairs
        self._file = tempfile.TemporaryFile(prefix="diq-texts-")  # noqa: SIM115  (closed in __exit__)
        self._digest = begun()
        self.n = 0

    def __enter__(self) -> Texts:
        return self

    def __exit__(self, *_: object) -> None:
        # after a full disk there is something left that cannot be written; what went wrong is known by then
        with contextlib.suppress(OSError):
            self._file.close()

    def add(self, messages: Sequence[Message], rejected: Sequence[Message] | None) -> None:
        """Add one sample at the end."""
        sample = Sample(list(messages), list(rejected) if rejected and self.pairs else None)
        self._digest.update(sample.canonical().encode() + b"\n")
        # tools and the arguments of calls are read in their own order, which canonical JSON has not
        given = {"messages": sample.messages, "rejected": sample.rejected} if sample.rejected else sample.messages
        with saving_errors(Path(tempfile.gettempdir())):
            self._file.write(orjson.dumps(given) + b"\n")
        self.n += 1

    def fingerprint(self) -> str:
        """BLAKE2 over the samples in order; a file and the selection it was written from have the same."""
        return self._digest.hexdigest()

    def blocks(self) -> Iterator[list[Sample]]:
        """The samples in order, some hundred at a time."""
        with saving_errors(Path(tempfile.gettempdir())):
            self._file.seek(0)
        block: list[Sample] = []
        for line in self._file:
            value = orjson.loads(line)
            block.append(Sample(value) if isinstance(value, list) else Sample(value["messages"], value["rejected"]))
            if len(block) == _READ_ROWS:
                yield block
                block = []
        if block:
            yield block


@dataclass(frozen=True, slots=True)
class Origin:
    """Where samples come from.

    Attributes:
        described: in words.
        dataset_id: dataset in the store; None for a file that no selection of the store was written to.
        selection_id: selection in the store, or None.
        dataset: name of the dataset, or None.
        strategy: of the selection, or None.
        ratio: of the selection as it was typed, or None.
    """

    described: str
    dataset_id: int | None = None
    selection_id: int | None = None
    dataset: str | None = None
    strategy: str | None = None
    ratio: str | None = None


def read_samples(source: str, store: Path, texts: Texts) -> Origin:
    """Read what SOURCE means into ``texts``: a file in any known format, a selection, or a dataset.

    Raises:
        UsageError: there is no such thing, it is empty, or a selection's dataset was made anew since.
        InputError: the file cannot be read, or one of its rows is no sample.
    """
    path = Path(source)
    if path.is_file():
        origin = _read_file(path, store, texts)
    elif os.sep in source or path.suffix in (".jsonl", ".json", ".csv", ".parquet", ".gz", ".zst", ".arrow"):
        raise UsageError(f"the file `{source}` does not exist", "write one with `diq select ... -o FILE`")
    else:
        origin = _read_from_store(source, store, texts)
    if not texts.n:
        raise UsageError(f"there are no samples in {origin.described}", "select or ingest some first")
    return origin


def _read_file(path: Path, store: Path, texts: Texts) -> Origin:
    for one in open_source(path):
        if isinstance(one, BadRow):
            raise InputError(
                f"line {one.line} of `{path}` is no sample: {one.reason}",
                "take it out, or `diq ingest` the file, which keeps a list of such rows, and train on the dataset",
            )
        texts.add(one.sample.messages, one.sample.rejected)
    return _written_from(path, store, texts) or Origin(f"file {path}")


def _written_from(path: Path, store: Path, texts: Texts) -> Origin | None:
    """The selection that a file was written from, if its samples are still the same."""
    if not store.exists():
        return None
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        for row in opened.rows("training/selections_written_to"):
            if row["n"] != texts.n or Path(row["output"]).expanduser().resolve() != path.resolve():
                continue
            state = opened.row("training/state_of_selection", selection_id=row["selection_id"])
            with Texts(pairs=texts.pairs) as recorded:
                _read_rows(opened, recorded, "training/messages_of_selection", selection_id=row["selection_id"])
                if state is not None and recorded.fingerprint() == texts.fingerprint():
                    return _of_selection(f"file {path}", row["selection_id"], state)
    return None


def _of_selection(described: str, selection_id: int, state: dict[str, Any]) -> Origin:
    return Origin(
        described, state["dataset_id"], selection_id, state["dataset"], state["strategy"], state["ratio"]
    )  # fmt: skip


def _read_from_store(name: str, store: Path, texts: Texts) -> Origin:
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        found = opened.find_selection(name)
        names = [row["name"] for row in opened.rows("store/list_datasets")]
        if found is not None:
            if name in names:
                log.info("`%s` is a selection and a dataset: the selection is taken", name)
            number = found["selection_id"]
            state = opened.row("training/state_of_selection", selection_id=number)
            assert state is not None
            _check_selection(number, found["name"], state)
            _read_rows(opened, texts, "training/messages_of_selection", selection_id=number)
            return _of_selection(f"selection {number} ({found['name']})", number, state)
        if name in names:
            dataset_id = opened.dataset(name)["dataset_id"]
            _read_rows(opened, texts, "training/messages_of_dataset", dataset_id=dataset_id)
            return Origin(f"dataset {name}", dataset_id, None, name)
        names += [row["name"] for row in opened.rows("store/list_selections")]
        raise UsageError(
            f"`{name}` is no file, and no selection or dataset in `{store}`",
            did_you_mean(name, list(dict.fromkeys(names))) or "make one with `diq ingest` and `diq select`",
        )


def _check_selection(number: int, name: str, state: dict[str, Any]) -> None:
    """Refuse a selection that no longer holds the samples it was made of; say where there is more to select from."""
    if state["n_found"] != state["n"] or state["digest"] not in (None, state["digest_now"]):
        raise UsageError(
            f"selection {number} ({name}) no longer holds the samples that were selected: its dataset "
            f"`{state['dataset']}` was ingested again since ({state['n_found']} of {amount(state['n'], 'place')} left, "
            "with other samples)",
            "run `diq select` again, or train on the file that it wrote",
        )
    if state["n_samples"] > state["n_ranked"]:
        log.warning(
            "dataset `%s` has grown from %d to %s since selection %d was made: "
            "`diq score` and `diq select` again take the new ones into account",
            state["dataset"], state["n_ranked"], amount(state["n_samples"], "sample"), number,
        )  # fmt: skip


def _read_rows(opened: Store, texts: Texts, query: str, **params: Any) -> None:
    with opened.batches(query, rows=_READ_ROWS, **params) as batches:
        for batch in batches:
            columns = batch.column("messages").to_pylist(), batch.column("rejected").to_pylist()
            for messages, rejected in zip(*columns, strict=True):
                texts.add(orjson.loads(messages), orjson.loads(rejected) if rejected else None)


def read_validation_sets(store: Path, names: Sequence[str]) -> dict[str, list[list[Message]]]:
    """The conversations of validation sets in the store, by name.

    Raises:
        UsageError: there is none of that name, or it is empty.
    """
    found: dict[str, list[list[Message]]] = {}
    if not names:
        return found
    with Store(store, read_only=True, wait_s=WAIT_S) as opened:
        for name in dict.fromkeys(names):
            number = opened.validation_set(name)["validation_set_id"]
            found[name] = [
                orjson.loads(row["messages"])
                for row in opened.rows("store/validation_messages", validation_set_id=number)
            ]
            if not found[name]:
                raise UsageError(
                    f"the validation set `{name}` has no samples in the store", "ingest them with --validation"
                )
    return found


# tokens ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Tokenized:
    """Tokenised samples in a file, and their counts.

    Attributes:
        path: Arrow stream: ``input_ids`` and ``labels``, or ``prompt_ids``, ``chosen_ids`` and ``rejected_ids``.
        n: samples in it.
        tokens: tokens of these samples, both answers of a pair with their prompt.
        answer_tokens: those of them that the loss covers.
        longest: tokens of the longest sequence.
        reasons: why samples were left out, and how many each.
    """

    path: Path
    n: int = 0
    tokens: int = 0
    answer_tokens: int = 0
    longest: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def count(self, *sequences: Tokens) -> None:
        """Take one sample into the counts."""
        self.n += 1
        for one in sequences:
            self.tokens += len(one.ids)
            self.answer_tokens += one.answer_tokens
            self.longest = max(self.longest, len(one.ids))

    def leave_out(self, reason: str) -> None:
        """Count a sample that cannot be trained on."""
        self.reasons[reason] = self.reasons.get(reason, 0) + 1


def tokenize(
    texts: Texts, tokenization: Tokenization, method: Method, path: Path, progress: Progress | None
) -> Tokenized:
    """Write the samples as tokens, which the trainer maps into memory.

    For ``sft``, labels are the ids of the answer and -100 before it; position t - 1 predicts label t (the model
    shifts, not we). For ``dpo``, the prompt ends where the first of the two answers begins.

    Raises:
        UsageError: no sample is left.
        RunFailedError: the disk is full.
    """
    rows = Tokenized(path)
    names = ("input_ids", "labels") if method == "sft" else ("prompt_ids", "chosen_ids", "rejected_ids")
    schema = pa.schema([(name, pa.list_(pa.int32())) for name in names])
    encode = _answers if method == "sft" else _pairs
    done = 0
    with saving_errors(path), pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for block in texts.blocks():
            columns = list(zip(*encode(block, tokenization, rows), strict=True)) or [() for _ in names]
            arrays = [pa.array(one, pa.list_(pa.int32())) for one in columns]
            writer.write_batch(pa.record_batch(arrays, schema))
            done += len(block)
            if progress:
                progress("tokenizing", done, texts.n)
    why, cure = tokenization.why(), tokenization.cure()
    tokenization.say("training", left_out=False)
    for reason, n in rows.reasons.items():
        log.warning("%d of %s are left out: %s", n, amount(texts.n, "sample"), reason)
    if rows.n == 0:
        if set(rows.reasons) == {_NO_PAIR}:
            raise UsageError(
                f"none of the {amount(texts.n, 'sample')} has a refused answer", "--method dpo needs preference pairs"
            )
        raise UsageError(f"none of the {amount(texts.n, 'sample')} can be used: {why}", cure)
    return rows


def _answers(block: Sequence[Sample], tokenization: Tokenization, rows: Tokenized) -> Iterator[tuple[Any, ...]]:
    for one in tokenization.encode([sample.messages for sample in block]):
        if isinstance(one, str) or not one.answer_tokens:
            rows.leave_out(one if isinstance(one, str) else _cut(tokenization))
            continue
        labels = one.ids.copy()
        labels[~one.is_answer] = -100
        rows.count(one)
        yield one.ids, labels


def _pairs(block: Sequence[Sample], tokenization: Tokenization, rows: Tokenized) -> Iterator[tuple[Any, ...]]:
    dialogues: list[list[Message]] = []
    for sample in block:
        if sample.rejected is None:
            rows.leave_out(_NO_PAIR)
        elif len(sample.rejected) != 1 or sample.rejected[0]["role"] != "assistant":
            rows.leave_out(_MANY_TURNS)
        else:
            dialogues += [sample.messages, [*sample.messages[:-1], *sample.rejected]]
    encoded = tokenization.encode(dialogues)
    for chosen, rejected in zip(encoded[::2], encoded[1::2], strict=True):
        if isinstance(chosen, str) or isinstance(rejected, str):
            rows.leave_out(chosen if isinstance(chosen, str) else str(rejected))
            continue
        if not (chosen.answer_tokens and rejected.answer_tokens):
            rows.leave_out(_cut(tokenization))
            continue
        start = min(chosen.answer_start, rejected.answer_start)
        rows.count(Tokens(chosen.ids, start), Tokens(rejected.ids, start))
        yield chosen.ids[:start], chosen.ids[start:], rejected.ids[start:]


def _cut(tokenization: Tokenization) -> str:
    return f"no answer token within {tokenization.max_length} tokens"
