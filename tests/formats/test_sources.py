"""Sources: files, globs, folders, saved dataset folders and what `datasets.load_dataset` reads."""

from __future__ import annotations

import builtins
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import diq
from diq.base.errors import InputError, UsageError
from diq.formats import Parsed, Reader, open_sources
from diq.formats.layouts import named
from diq.formats.sources import DatasetFolder, FileSource, HubSource, find_sources, split_of
from diq.store.store import Store

ROWS = [{"question": f"Q{i}?", "answer": f"A{i}."} for i in range(7)]


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def prompts(reader: Reader) -> list[str]:
    return [row.sample.messages[0]["content"] for row in reader if isinstance(row, Parsed)]


def test_files_globs_and_folders(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl", "README.md", ".hidden/d.jsonl", "_temporary/e.jsonl"):
        write(tmp_path / name)
    names = [source.path for source in find_sources([tmp_path])]
    assert names == [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl", "sub/c.jsonl")]
    assert [source.path for source in find_sources([f"{tmp_path}/*.jsonl"])] == names[:2]
    # named twice, read once, in the order of the command line
    twice = find_sources([tmp_path / "b.jsonl", tmp_path, f"{tmp_path}/sub/../a.jsonl"])
    assert [source.path for source in twice] == [names[1], names[0], names[2]]
    assert all(isinstance(source, FileSource) for source in twice)


@pytest.mark.parametrize(
    ("argument", "message", "hint"),
    [
        ("rows.json", "no such file or folder: `.*rows.json`", "did you mean `.*rows.jsonl`"),
        ("nowhere/rows.jsonl", "no such file", "does not exist either"),
        ("*.parquet", "no file matches", "quote it"),
        ("empty", "holds no file that diq reads", "known: .jsonl"),
        ("notes.txt", "no suffix of a container", "rename"),
    ],
)
def test_what_is_not_there(tmp_path: Path, argument: str, message: str, hint: str) -> None:
    write(tmp_path / "rows.jsonl")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match=message) as error:
        find_sources([tmp_path / argument])
    assert re.search(hint, error.value.hint)


def test_nothing_was_given() -> None:
    with pytest.raises(UsageError, match="no source"):
        find_sources([])


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("owner/name", ("owner/name", None, None)),
        ("owner/na.me-2:zh", ("owner/na.me-2", "zh", None)),
        ("owner/name:en@refs/pr/1", ("owner/name", "en", "refs/pr/1")),
    ],
)
def test_hub_ids(argument: str, expected: tuple[str, str | None, str | None]) -> None:
    (source,) = find_sources([argument], split="train")
    assert isinstance(source, HubSource)
    assert (source.name, source.config, source.revision) == expected
    assert source.split == "train"
    assert source.path == argument


def test_saved_dataset_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(ROWS)
    # an indices mapping, as select and shuffle leave behind
    data.select([3, 1, 2]).save_to_disk(tmp_path / "one")
    (reader,) = open_sources([tmp_path / "one"])
    assert isinstance(reader.source, DatasetFolder)
    assert reader.layout.name == "question_answer"
    assert prompts(reader) == ["Q3?", "Q1?", "Q2?"]
    assert [row.line for row in reader] == [1, 2, 3]

    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(tmp_path / "many")
    with pytest.raises(UsageError, match="several splits; it has train, test"):
        open_sources([tmp_path / "many"])
    with pytest.raises(UsageError, match="no split `dev`"):
        open_sources([tmp_path / "many"], split="dev")
    (reader,) = open_sources([tmp_path / "many"], split="test")
    assert prompts(reader) == ["Q0?"]
    other = DatasetFolder(str(tmp_path / "many"), "train")
    assert reader.source.content_hash() != other.content_hash()
    assert other.content_hash() == DatasetFolder(str(tmp_path / "many"), "train").content_hash()


def test_a_saved_dataset_folder_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "d")
    (file,) = (tmp_path / "d").glob("*.arrow")
    data = file.read_bytes()
    places = np.arange(0, 3 * len(ROWS) + 1, 3, dtype="<i4").tobytes()
    at = data.rindex(places) + 4 * len(ROWS)
    file.write_bytes(data[:at] + (3 * len(ROWS) + 2).to_bytes(4, "little") + data[at + 4 :])
    with pytest.raises(InputError, match="d` is damaged: Offset invariant failure") as error:
        open_sources([tmp_path / "d"])
    assert error.value.hint


def test_load_dataset_on_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "repo" / "train.jsonl")
    source = HubSource(str(tmp_path / "repo"))
    layout = named("question_answer", None)
    assert layout is not None
    assert prompts(Reader(source, layout)) == [row["question"] for row in ROWS]
    before = source.content_hash()
    assert before == HubSource(str(tmp_path / "repo")).content_hash()
    assert before != HubSource(str(tmp_path / "repo"), split="train").content_hash()


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="the hub dataset `nobody/nothing` cannot be opened"):
        open_sources(["nobody/nothing"])


def test_without_the_package_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "state.json").write_text("{}")
    for argument in (str(tmp_path), "owner/name"):
        with pytest.raises(UsageError, match="needs the package `datasets`") as error:
            open_sources([argument])
        assert error.value.hint == "run `pip install 'diq[hub]'`"


@pytest.mark.parametrize("text", ["", "\n\n  \n", "not json\n" * 3])
def test_files_without_a_row(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=r"is empty|holds no rows|none of the first 3 rows"):
        open_sources([path])


def test_a_csv_with_nothing_but_a_header(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("question,answer\n")
    with pytest.raises(InputError, match="holds no rows"):
        open_sources([path])


# splits -------------------------------------------------------------------------------------------------------------


def make_splits(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pq.write_table(pa.table({"question": [f"{name}?"], "answer": ["A."]}), path)
        else:
            path.write_text(json.dumps({"question": f"{name}?", "answer": "A."}) + "\n")
    return folder


LAYOUTS_OF_SPLITS = [
    ("train.jsonl", "test.jsonl", "validation.jsonl"),
    ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"),
    ("train/part1.jsonl", "dev/part1.jsonl"),
    ("med_train.jsonl", "med_valid.jsonl"),
    ("main/train.jsonl", "main/test.jsonl"),
    ("pool.jsonl", "test.jsonl"),
    ("train.jsonl", "evaluation.jsonl"),
    ("train.jsonl", "holdout.jsonl", "predict.jsonl"),
    ("data.jsonl", "held-out.jsonl"),
    ("trn.jsonl", "tst.jsonl"),
    ("训练集.jsonl", "医学测试集.jsonl", "验证集.jsonl"),
    (
        "data/train_sft-00000-of-00001.parquet",
        "data/train_gen-00000-of-00001.parquet",
        "data/test_sft-00000-of-00001.parquet",
    ),
]


@pytest.mark.parametrize("names", LAYOUTS_OF_SPLITS, ids=lambda names: " ".join(names))
def test_a_folder_of_several_splits_is_never_one(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = make_splits(tmp_path / "d", *names)
    for argument in (str(folder), f"{folder}/**/*.*"):
        with pytest.raises(UsageError, match="holds several splits: ") as error:
            find_sources([argument])
        assert error.value.hint is not None
        assert "--split" in error.value.hint
    for split in {split_of(name) for name in names} - {None}:
        found = find_sources([str(folder)], split=split)
        assert [Path(one.path).relative_to(folder).as_posix() for one in found] == sorted(
            name for name in names if split_of(name) == split
        )
        assert {one.split for one in found} == {split}
    with pytest.raises(UsageError, match="has no split `ood`; it has "):
        find_sources([str(folder)], split="ood")


def test_other_names_of_splits_are_known(tmp_path: Path) -> None:
    folder = make_splits(tmp_path / "d", "training.jsonl", "val.jsonl")
    for name in ("validation", "valid", "val", "dev"):
        (found,) = find_sources([str(folder)], split=name)
        assert Path(found.path).name == "val.jsonl"


@pytest.mark.parametrize(
    "names", [("a.jsonl", "b.jsonl"), ("train.jsonl", "more.jsonl"), ("trainer.jsonl", "contest.jsonl")]
)
def test_what_is_one_split_is_read_whole(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert len(find_sources([str(make_splits(tmp_path / "d", *names))])) == 2


def test_splits_of_one_kind_are_not_mixed(tmp_path: Path) -> None:
    names = [f"data/{name}-0000{n}-of-00002.parquet" for name in ("train_sft", "train_gen", "test_sft") for n in (0, 1)]
    folder = make_splits(tmp_path / "d", *names)
    with pytest.raises(UsageError, match="has several splits for `train`: train_gen, train_sft"):
        find_sources([str(folder)], split="train")
    for split, name in (("train_sft", "train_sft"), ("test", "test_sft")):
        found = find_sources([str(folder)], split=split)
        assert [Path(one.path).name[: len(name) + 1] for one in found] == [f"{name}-"] * 2
    # parts of one split are no splits
    assert len(find_sources([str(make_splits(tmp_path / "e", "train_part1.jsonl", "train_part2.jsonl"))])) == 2


def test_a_file_that_is_recorded_as_another_split_than_its_name_says_is_told(tmp_path: Path) -> None:
    folder = make_splits(tmp_path / "d", "train.jsonl", "pool.jsonl")
    store = tmp_path / "s.duckdb"
    said = diq.ingest([folder / "train.jsonl"], dataset="d", split="test", store=store).warnings
    assert said == [f"`{folder / 'train.jsonl'}`: its name says train; by --split its rows are recorded as test"]
    for file, split in (("train.jsonl", "training"), ("pool.jsonl", "test")):
        assert not diq.ingest([folder / file], dataset=split, split=split, store=store).warnings


def test_files_that_are_named_are_meant(tmp_path: Path) -> None:
    folder = make_splits(tmp_path / "d", "train.jsonl", "test.jsonl")
    files = [str(folder / "train.jsonl"), str(folder / "test.jsonl")]
    assert [one.split for one in find_sources(files)] == ["train", "test"]
    store = tmp_path / "s.duckdb"
    diq.ingest(files, dataset="d", store=store)
    with Store(store, read_only=True) as opened:
        found = opened.connection.execute("SELECT split FROM dataset_samples ORDER BY position").fetchall()
    assert found == [("train",), ("test",)]


# LLaMA-Factory -------------------------------------------------------------------------------------------------------


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    sets = {
        "plain": {"file_name": "plain.json"},
        "renamed": {
            "file_name": "renamed.json",
            "columns": {"prompt": "q", "query": "note", "response": "a", "system": "s", "history": "before"},
        },
        "pairs": {
            "file_name": "pairs.json", "ranking": True,
            "columns": {"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"},
        },
        "talk": {
            "file_name": "talk.json", "formatting": "sharegpt",
            "columns": {"messages": "turns", "tools": "tools"},
            "tags": {"role_tag": "role", "content_tag": "content"},
        },
        "pictures": {"file_name": "plain.json", "columns": {"messages": "m", "images": "images"}},
        "far": {"hf_hub_url": "someone/set"},
    }  # fmt: skip
    rows: dict[str, Any] = {
        "plain": {"instruction": "Q?", "input": "In", "output": "A."},
        "renamed": {"q": "Q?", "note": "In", "a": "A.", "s": "S", "before": [["q", "a"]]},
        "pairs": {"instruction": "Q?", "input": "In", "chosen": "A.", "rejected": "B."},
        "talk": {
            "turns": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}],
            "tools": '[{"name": "lab", "parameters": {}}]',
        },
    }
    (folder / "dataset_info.json").write_text(json.dumps(sets))
    for name, row in rows.items():
        (folder / f"{name}.json").write_text(json.dumps([row]))
    return folder


def test_a_set_of_a_llama_factory_folder_is_read_by_its_description(factory: Path) -> None:
    found = {}
    for name in ("plain", "renamed", "pairs", "talk"):
        (reader,) = open_sources([f"{factory}:{name}"])
        (row,) = reader
        assert isinstance(row, Parsed), row
        found[name] = row.sample
    asked, answer = {"role": "user", "content": "Q?\nIn"}, {"role": "assistant", "content": "A."}
    assert found["plain"].messages == [asked, answer]
    assert [one["content"] for one in found["renamed"].messages] == ["S", "q", "a", "Q?\nIn", "A."]
    assert found["pairs"].messages == [asked, answer]
    assert found["pairs"].rejected == [{"role": "assistant", "content": "B."}]
    assert found["talk"].messages[0]["tools"][0]["function"]["name"] == "lab"


def test_what_a_llama_factory_folder_does_not_give(factory: Path) -> None:
    with pytest.raises(UsageError, match=r"holds 6 sets by its dataset_info\.json: plain, renamed") as error:
        open_sources([str(factory)])
    assert error.value.hint == f"name one: `{factory}:plain`"
    with pytest.raises(UsageError, match="has no set `plane`") as error:
        open_sources([f"{factory}:plane"])
    assert error.value.hint == "did you mean `plain`?"
    with pytest.raises(UsageError, match="is no file here but `someone/set`"):
        open_sources([f"{factory}:far"])
    with pytest.raises(InputError, match="has images"):
        open_sources([f"{factory}:pictures"])
    for columns, message in (
        ({"columns": {"messages": "turns", "kto_tag": "ok"}}, "has `ok` for kto_tag"),
        ({"tags": {"user_tag": "H"}}, "has `H` for user_tag"),
    ):
        (factory / "dataset_info.json").write_text(json.dumps({"talk": {"file_name": "talk.json"} | columns}))
        with pytest.raises(UsageError, match=message):
            open_sources([f"{factory}:talk"])
    (factory / "dataset_info.json").write_text("[")
    with pytest.raises(InputError, match="is not JSON"):
        open_sources([f"{factory}:plain"])
