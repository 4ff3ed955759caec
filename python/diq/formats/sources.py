"""What a SOURCE on the command line means: files, globs, folders, saved dataset folders and hub ids."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from diq import _core
from diq.base.errors import InputError, UsageError
from diq.formats import containers, described
from diq.formats.containers import arrays, columnar
from diq.formats.rows import BadRow, Meter, Row
from diq.formats.streams import compression

_HUB = re.compile(r"^(?P<id>\w[\w.-]*/\w[\w.-]*)(:(?P<config>[\w.-]+))?(@(?P<revision>[\w./-]+))?$")
_DATASET_ROWS = 500  # rows fetched at once from a saved dataset folder


class Source(Protocol):
    """Something that gives rows."""

    @property
    def path(self) -> str:
        """As the user gave it (one file of a glob or folder)."""

    @property
    def meter(self) -> Meter:
        """How much of it is read."""

    @property
    def split(self) -> str | None:
        """The split that it is, as asked for or as a file's name tells; None where nothing tells."""

    def content_hash(self) -> str:
        """Changes when the content changes; a copy elsewhere has the same."""

    def rows(self) -> Iterator[Row | BadRow]:
        """All rows, from the start."""


@dataclass(slots=True)
class FileSource:
    """One file in one of the containers.

    Attributes:
        path: of the file.
        meter: how much of it is read.
        split: the split that it is.
        columns: role to column, where a description beside the file tells them.
    """

    path: str
    meter: Meter = field(default_factory=Meter)
    split: str | None = None
    columns: Mapping[str, str] | None = None

    def content_hash(self) -> str:
        """BLAKE3 of the file's bytes."""
        return _core.file_hash(self.path)

    def rows(self) -> Iterator[Row | BadRow]:
        """All rows, from the start."""
        path = Path(self.path)
        return containers.reader(path)(path, self.meter)

    def batches(self) -> Iterator[Any] | None:
        """Arrow batches, where the file holds them; None for text."""
        path = Path(self.path)
        return columnar.batches(path, self.meter) if containers.is_columnar(path) else None

    def is_text_only(self) -> bool:
        """Whether every value comes as text, numbers too (CSV)."""
        return containers.is_text_only(Path(self.path))


@dataclass(slots=True)
class DatasetFolder:
    """A folder that `datasets.Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""

    path: str
    split: str | None = None
    meter: Meter = field(default_factory=Meter)

    def content_hash(self) -> str:
        """BLAKE3 over the names and hashes of the folder's files, and the split."""
        folder = Path(self.path)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        listing = [f"{path.relative_to(folder).as_posix()} {_core.file_hash(str(path))}" for path in files]
        return _core.sample_ids(["\n".join([*listing, f"split {self.split}"])])[0].replace("-", "")

    def rows(self) -> Iterator[Row | BadRow]:
        """All rows, from the start."""
        datasets = _datasets(self.path)
        try:
            loaded = datasets.load_from_disk(self.path)
        except Exception as error:
            raise InputError(
                f"`{self.path}` cannot be loaded as a saved dataset: {_line(error)}", "save it again with save_to_disk"
            ) from error
        if isinstance(loaded, dict):
            loaded = loaded[_one_split(self.path, list(loaded), self.split)]
        self.meter.done, self.meter.total = 0, len(loaded)
        line = 1
        self._check(loaded)
        for table in loaded.with_format("arrow").iter(batch_size=_DATASET_ROWS):
            yield from columnar.table_rows(table, line)
            line += table.num_rows
            self.meter.done += table.num_rows

    def _check(self, loaded: Any) -> None:
        # all of it first: its files are mapped, and rows in another order are taken out before anybody sees them
        try:
            for batch in loaded.data.table.to_batches():
                arrays.check(batch)
        except pa.ArrowException as error:
            raise InputError(f"`{self.path}` is damaged: {_line(error)}", "write or download it again") from error


@dataclass(slots=True)
class HubSource:
    """A dataset of the Hugging Face hub, streamed; `datasets` reads whatever files it has.

    Attributes:
        name: ``owner/name`` (or a local folder that `datasets.load_dataset` understands).
        config: its configuration, when it has several.
        revision: branch, tag or commit.
    """

    name: str
    config: str | None = None
    revision: str | None = None
    split: str | None = None
    meter: Meter = field(default_factory=Meter)

    @property
    def path(self) -> str:
        """As on the command line."""
        return self.name + (f":{self.config}" if self.config else "") + (f"@{self.revision}" if self.revision else "")

    def content_hash(self) -> str:
        """The builder's hash (it covers the commit of the data files), configuration and split."""
        builder = self._call("load_dataset_builder")
        return f"{builder.hash}-{builder.config.name}-{self.split or ''}"

    def rows(self) -> Iterator[Row | BadRow]:
        """All rows, from the start."""
        loaded = self._call("load_dataset", streaming=True)
        stream = loaded[_one_split(self.path, list(loaded), self.split)]
        try:
            for line, values in enumerate(stream, start=1):
                yield Row(line, values)
        except Exception as error:
            # whatever the loader of somebody else's files raises is a broken input, not a bug of ours
            raise InputError(
                f"`{self.path}` broke off while it was read: {_line(error)}", "run the same command again"
            ) from error

    def _call(self, function: str, **options: Any) -> Any:
        datasets = _datasets(self.path)
        try:
            return getattr(datasets, function)(self.name, self.config, revision=self.revision, **options)
        except Exception as error:
            raise InputError(
                f"the hub dataset `{self.path}` cannot be opened: {_line(error)}",
                "check the id (owner/name[:config][@revision]) and the network; a local file needs its suffix",
            ) from error


def find_sources(arguments: Sequence[str | os.PathLike[str]], *, split: str | None = None) -> list[Source]:
    """Every source that the arguments name, in order; a file that is named twice counts once.

    Raises:
        UsageError: a file is missing, a glob matches nothing, or nothing was given.
        InputError: a folder holds no file that diq reads, or a file is of no known container.
    """
    if not arguments:
        raise UsageError("no source was given", "name files, folders or a hub id: `diq ingest FILE --dataset NAME`")
    found: dict[str, Source] = {}
    for argument in arguments:
        for source in _find(os.fspath(argument), split):
            key = os.path.realpath(source.path) if not isinstance(source, HubSource) else f"hub {source.path}"
            found.setdefault(key, source)
    return list(found.values())


def _find(argument: str, split: str | None) -> Iterable[Source]:
    path = Path(argument)
    if path.is_dir():
        if described.describes(path):
            described.refuse_unnamed(path)
        return _folder(path, split)
    if path.exists():
        # who names a file means it, whatever it is called
        named = split_of(path.name)
        file = _file(path, split or named)
        if split and named and known_split(split) not in (named, _kind_of(path.name)):
            file.meter.notes[f"its name says {named}; by --split its rows are recorded as {split}"] = None
        return [file]
    if glob.has_magic(argument):
        # Path.glob takes no absolute pattern
        matches = [Path(match) for match in sorted(glob.glob(argument, recursive=True))]  # noqa: PTH207
        files = [path for path in matches if path.is_file()]
        if not files:
            raise UsageError(f"no file matches `{argument}`", "check the pattern; quote it so that the shell keeps it")
        # only what the pattern left open tells files apart
        return _of_split(argument, files, Path(os.path.commonpath([path.parent for path in files])), split)
    folder, colon, name = argument.rpartition(":")
    if colon and described.describes(Path(folder)):
        one = described.read(Path(folder), name)
        return [replace(_file(one.path, split), columns=one.columns)]
    match = _HUB.match(argument)
    if match and not containers.suffix(path) and not path.parent.is_dir():
        return [HubSource(match["id"], match["config"], match["revision"], split)]
    raise UsageError(f"no such file or folder: `{argument}`", _nearby(path))


def _folder(path: Path, split: str | None) -> Iterable[Source]:
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return [DatasetFolder(str(path), split)]
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file()
        and containers.suffix(file)
        and not any(part[0] in "._" for part in file.relative_to(path).parts)
    ]
    if not files:
        known = ", ".join(containers.CONTAINERS)
        raise InputError(f"the folder `{path}` holds no file that diq reads", f"known: {known}, also .gz and .zst")
    return _of_split(str(path), files, path, split)


def _of_split(argument: str, files: Sequence[Path], root: Path, split: str | None) -> list[Source]:
    """The files of one split; names tell it: train.jsonl, data/test-00000-of-00002.parquet, dev/part1.csv.

    Raises:
        UsageError: there are several splits and none is named, or the named one is not there, or not one.
    """
    splits = {file: split_of(str(file.relative_to(root))) for file in files}
    there = list(dict.fromkeys(splits.values()))
    names = ", ".join(one or "files of no split" for one in there)
    if split is None:
        # files that tell nothing go with those for training alone
        if len(there) > 1 and set(there) != {"train", None}:
            raise UsageError(
                f"`{argument}` holds several splits: {names}", "name one with --split, or name the files themselves"
            )
        return [_file(file, splits[file]) for file in files]
    if there == [None]:
        return [_file(file, split) for file in files]
    wanted = [split] if split in there else [one for one in there if known_split(split) in (one, _kind_of(one or ""))]
    if not wanted:
        raise UsageError(f"`{argument}` has no split `{split}`; it has {names}", "name one of these with --split")
    if len(wanted) > 1:
        several = ", ".join(str(one) for one in wanted)
        raise UsageError(f"`{argument}` has several splits for `{split}`: {several}", "name one of these with --split")
    return [_file(file, splits[file]) for file in files if splits[file] == wanted[0]]


# a split of its own is never mixed with another, nor taken for training
_SPLITS = {
    **dict.fromkeys(("train", "training", "trainset", "trn", "训练集", "训练"), "train"),
    **dict.fromkeys(("test", "testing", "testset", "tst", "测试集", "测试"), "test"),
    **dict.fromkeys(("validation", "valid", "val", "valset", "dev", "devset", "development"), "validation"),
    **dict.fromkeys(("eval", "evalset", "evaluation", "验证集", "验证", "评估集", "评估"), "validation"),
    **dict.fromkeys(("holdout", "hold_out", "hold-out", "heldout", "held_out", "held-out"), "holdout"),
    **dict.fromkeys(("predict", "prediction", "predictions"), "predict"),
}
_SPLIT = re.compile(rf"(?:^|[^a-z])({'|'.join(sorted(_SPLITS, key=len, reverse=True))})(?=[^a-z]|$)")
# as the hub writes them: data/train_sft-00000-of-00003.parquet
_SHARD = re.compile(r"(?:^|[/-])([^/-]+)-\d{5}-of-\d{5}\.[^/]*$")


def split_of(path: str) -> str | None:
    """The split that a file's path within its folder names; the last part that names one counts.

    The hub's files name theirs exactly, and so there may be several of a kind (train_sft, train_gen).
    """
    kind = _kind_of(path)
    if kind is not None and (shard := _SHARD.search(path)) and _kind_of(shard[1]) == kind:
        return known_split(shard[1])
    return kind


def _kind_of(name: str) -> str | None:
    found = _SPLIT.findall(name.lower())
    return _SPLITS[found[-1]] if found else None


def known_split(name: str) -> str:
    """The one name of a split that has several."""
    return _SPLITS.get(name.lower(), name)


def _file(path: Path, split: str | None) -> FileSource:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"the name of `{path}` is no text in UTF-8", "give it another: `mv` renames it") from None
    containers.reader(path)
    compression(path)
    return FileSource(str(path), split=split)


def _nearby(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the folder `{path.parent}` does not exist either"
    close = difflib.get_close_matches(path.name, [one.name for one in path.parent.iterdir()], n=1)
    return f"did you mean `{path.parent / close[0]}`?" if close else f"look into `{path.parent}`"


def _one_split(path: str, names: list[str], wanted: str | None) -> str:
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted in names:
        return str(wanted)
    asked = f"no split `{wanted}`" if wanted else "several splits"
    raise UsageError(f"`{path}` has {asked}; it has {', '.join(names)}", "name one with --split")


def _datasets(path: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UsageError(f"reading `{path}` needs the package `datasets`", "run `pip install 'diq[hub]'`") from error
    return datasets


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
