"""The output folder of a training: its record, its checkpoints and its weights, each there whole or not at all.

One process at a time holds the folder. What is written goes into a folder of unfinished things first and is moved to
its place after fsync, so a kill leaves the last whole checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from diq.base.errors import UsageError
from diq.base.files import check_folder, disk_errors, lock, publish, read_json
from diq.models.source import TRAINING_RECORD
from diq.store.store import now

log = logging.getLogger(__name__)

WEIGHTS = "adapter_model.safetensors"
# curves of TensorBoard
LOGS = "logs"

_FULL_WEIGHTS, _FULL_INDEX = "model.safetensors", "model.safetensors.index.json"
# holds what is not finished: tokens, the checkpoint and the weights while they are written
_UNFINISHED = ".unfinished"
_CHECKPOINT_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt")
# what models, adapters and the tokenizers of transformers are saved as
_OWN_FILES = (
    "adapter_*", "tokenizer*", "chat_template*", "vocab.*", "merges.txt", "*.model", "special_tokens_map.json",
    "added_tokens.json", "config.json", "generation_config.json", "model.safetensors", "model-*.safetensors",
    "model.safetensors.index.json",
)  # fmt: skip


class OutputFolder:
    """The folder of a trained model: held by one process, with a record of what it belongs to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unfinished = path / _UNFINISHED
        self.record: dict[str, Any] | None = None
        self._made = not path.exists()
        self._held = contextlib.ExitStack()

    def __enter__(self) -> OutputFolder:
        check_folder(self.path)
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        taken = UsageError(
            f"another process is training into `{self.path}`", "wait until it has finished, or name another folder"
        )
        with contextlib.ExitStack() as stack:
            stack.enter_context(lock(self.path, taken))
            self.record = self._read_record()
            with disk_errors(self.path):
                self._clear_unfinished()
            self._held = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.unfinished, ignore_errors=True)
        if self._made:
            # a folder that never became a training goes again; any other is not empty
            with contextlib.suppress(OSError):
                self.path.rmdir()
        self._held.close()

    def _read_record(self) -> dict[str, Any] | None:
        path = self.path / TRAINING_RECORD
        if path.exists():
            try:
                record = read_json(path)
                assert isinstance(record["fingerprint"], str)
            except (ValueError, KeyError, TypeError, AssertionError, OSError) as error:
                raise UsageError(f"`{path}` is no record of a training", "name an empty or new folder") from error
            return dict(record)
        others = [one.name for one in self.path.iterdir() if one.name != _UNFINISHED]
        if others:
            raise UsageError(
                f"the output `{self.path}` holds files that `diq train` did not write, such as `{sorted(others)[0]}`",
                "name an empty or new folder",
            )
        return None

    def _clear_unfinished(self) -> None:
        if any(self.unfinished.glob("checkpoint-*")):
            log.info("a checkpoint in `%s` was not written to its end and is left out", self.path)
        shutil.rmtree(self.unfinished, ignore_errors=True)
        self.unfinished.mkdir()

    def write_record(self, record: dict[str, Any]) -> None:
        """Replace the record in one step."""
        with disk_errors(self.path):
            part = self.unfinished / TRAINING_RECORD
            part.write_text(json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
            publish(part, self.path / TRAINING_RECORD)
        self.record = record

    def is_finished(self) -> bool:
        assert self.record is not None
        return self.record["state"] == "finished" and weights_problem(self.path) is None

    def holds_work(self) -> bool:
        """Whether there is anything that a discarded folder would lose."""
        return self.is_finished() or bool(self.checkpoints())

    def finish(self, result: dict[str, Any]) -> None:
        """Write the result: from here on the folder counts as finished."""
        assert self.record is not None
        self.write_record({**self.record, "state": "finished", "finished_at": now().isoformat(), "result": result})

    def discard(self) -> None:
        """Delete what a training left here, its record last."""
        for one in self.path.iterdir():
            if one.name in (TRAINING_RECORD, _UNFINISHED):
                continue
            if one.is_dir() and (one.name.startswith("checkpoint-") or one.name == LOGS):
                shutil.rmtree(one)
            elif one.is_file() and any(one.match(pattern) for pattern in _OWN_FILES):
                one.unlink()
        (self.path / TRAINING_RECORD).unlink(missing_ok=True)
        self.record = None

    def checkpoints(self) -> list[Path]:
        """Checkpoint folders, newest first."""
        found = [one for one in self.path.glob("checkpoint-*") if one.name.rpartition("-")[2].isdecimal()]
        return sorted(found, key=checkpoint_step, reverse=True)

    def newest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint; incomplete ones are named in the log and passed over."""
        for one in self.checkpoints():
            problem = _checkpoint_problem(one)
            if problem is None:
                return one
            log.warning("`%s` is passed over: %s", one, problem)
        return None


def _checkpoint_problem(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    # each process of a training keeps its own state of random numbers
    states = sorted(one.name for one in folder.glob("rng_state*.pth")) or ["rng_state.pth"]
    for name in (*_CHECKPOINT_FILES, *states):
        path = folder / name
        try:
            if path.suffix == ".json":
                read_json(path)
            else:
                with zipfile.ZipFile(path) as archive:
                    if archive.testzip() is not None:
                        return f"{name} is damaged"
        except FileNotFoundError:
            return f"{name} is missing"
        except (OSError, ValueError, zipfile.BadZipFile):
            return f"{name} is not complete"
    return weights_problem(folder)


def weights_problem(folder: Path) -> str | None:
    """What is wrong with the weights of an adapter or a whole model in a folder, or None."""
    names = [WEIGHTS]
    name = "adapter_config.json"
    try:
        if not (folder / name).is_file() and (folder / "config.json").is_file():
            name, names = "config.json", [_FULL_WEIGHTS]
            if (folder / _FULL_INDEX).is_file():
                name = _FULL_INDEX
                names = sorted(set(read_json(folder / name)["weight_map"].values()))
        read_json(folder / name)
        for name in names:
            # opening compares the header with the size of the file
            with safe_open(folder / name, framework="pt"):
                pass
    except FileNotFoundError:
        return f"{name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return f"{name} is not complete"
    return None


def checkpoint_step(checkpoint: Path) -> int:
    """Step after which a checkpoint was written: the number in its name."""
    return int(checkpoint.name.rpartition("-")[2])
