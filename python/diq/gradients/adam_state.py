"""Adam's moments from a training checkpoint, by parameter name.

An optimizer numbers its parameters in the order in which it was given them; HF Trainer's ``optimizer.pt`` has no names.
Taking that order for the order of the model's parameters is right until a norm or a bias is trained (they are in a
second group, behind all others), and then it is wrong in silence wherever two parameters share a shape. Here the
groups are formed as the training would have formed them, each count and each shape is compared, and what fits no way
or fits in two different ways is refused. States that carry names (FSDP, ``torch.distributed.checkpoint``, optimizers
built from ``named_parameters()``) are matched by them.

Nothing that is read can run code: tensors come through ``torch.load(weights_only=True)``, and the pickled table of
contents of a sharded checkpoint through an unpickler that knows the classes of such a table and no others.
"""

from __future__ import annotations

import io
import logging
import math
import pathlib
import pickle
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diq.base.errors import InputError, ModelError, UsageError
from diq.base.files import read_json
from diq.base.text import amount, first_line
from diq.models.memory import raise_if_out_of_memory
from diq.models.pretrained import more_than_tensors

log = logging.getLogger(__name__)

_LARGER = "use a machine with more memory"
# torch.optim.Adam's own, for states without groups
_BETAS = (0.9, 0.999)
_EPS = 1e-8
# where Trainer, accelerate and FSDP put the state; the folders are sharded ones
_FILES = ("optimizer.pt", "optimizer.bin")
_FOLDERS = ("optimizer_0", "optimizer")
_FIELDS = frozenset(["exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step"])
# what wrappers put into the names of the parameters below them
_WRAPPERS = frozenset(["_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod"])
_LIST_AT_MOST = 3
# sizes of a group differ by a rounding of the epoch only
_EPOCH_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class AdamMoments:
    """Adam's running means of a training, on the CPU and in the dtype they were saved in.

    Attributes:
        first: mean of the gradients (``exp_avg``), shaped like the parameter; keys as in ``model.named_parameters()``.
        second: mean of the squared gradients (``exp_avg_sq``); the same keys.
        steps: optimizer steps that each parameter has taken.
        betas: decay of the first and of the second mean.
        eps: Adam's epsilon.
        learning_rate: what the next step would have used; None if not stored, or if groups differ. At the end of a
            schedule it is 0: see :func:`read_learning_rates` for the rate to weight a checkpoint with.
    """

    first: dict[str, Tensor]
    second: dict[str, Tensor]
    steps: dict[str, int]
    betas: tuple[float, float]
    eps: float
    learning_rate: float | None

    @property
    def step(self) -> int:
        """Steps of the training: of the parameter that took most (an expert that no token reached takes none)."""
        return max(self.steps.values())


@dataclass(frozen=True, slots=True)
class LearningRates:
    """What a checkpoint tells about its learning rate; None where it does not.

    Attributes:
        last: logged at the checkpoint, or at the last log before it.
        epoch_mean: mean over the steps of the epoch that the checkpoint ends (LESS's weight of a checkpoint); between
            two logged steps the rate is taken to be linear.
        steps: first and last step of that epoch, counted from 1.
        n_logged: logged rates among these steps; as many as steps make the mean exact.
    """

    last: float | None
    epoch_mean: float | None
    steps: tuple[int, int] | None
    n_logged: int


@dataclass(slots=True)
class _State:
    """An optimizer state, whatever it was stored as: entries by parameter name or by number, and groups."""

    path: Path
    entries: dict[str | int, dict[str, Any]]
    groups: list[dict[str, Any]]


def read_adam_moments(checkpoint: Path, model: nn.Module, *, names: Collection[str] | None = None) -> AdamMoments:
    """Read the moments of a checkpoint that HF Trainer, accelerate, FSDP or torch.distributed.checkpoint wrote.

    Args:
        checkpoint: the checkpoint's folder; or the state itself: a file, or the folder of a sharded one.
        model: the network that was trained, with its adapter. Its weights do not matter.
        names: parameters whose moments are needed, as in ``model.named_parameters()``. Default: those that require
            gradients; if none does, the adapter's; without an adapter, all.

    Raises:
        UsageError: no such checkpoint, no optimizer state in it, or one in a layout that is not read.
        InputError: the state cannot be read, or is not Adam's.
        ModelError: it belongs to another model, or its parameters cannot be told apart.
    """
    parameters = dict(model.named_parameters())
    if names is not None and (unknown := [name for name in names if name not in parameters]):
        raise UsageError(
            f"{type(model).__name__} has no parameter {_some(unknown)}", "give names from model.named_parameters()"
        )
    wanted = _trained(model)[0] if names is None else list(names)
    if not wanted:
        raise UsageError("no parameter's moments are asked for", "give at least one name")
    state = _read_state(_find_state(Path(checkpoint)))
    if any(isinstance(key, str) for key in state.entries):
        by_name = _match(state, model, {str(key): entry for key, entry in state.entries.items()})
    else:
        by_name = _by_number(state, model)
    missing = [name for name in wanted if name not in by_name]
    if missing:
        raise ModelError(
            f"`{state.path}` has moments of {len(by_name)} parameters, but none of {_some(missing)}",
            "it is another training's checkpoint, or these parameters got no gradient in it (then leave them out)",
        )
    _check_adam(state, {name: by_name[name] for name in wanted})
    betas, eps, learning_rate = _settings(state)
    first, second, steps = {}, {}, {}
    for name in wanted:
        entry = by_name[name]
        # a copy: the file behind a mapped tensor may change, and a shard is more than its part
        first[name], second[name] = entry["exp_avg"].clone(), entry["exp_avg_sq"].clone()
        steps[name] = int(entry["step"])
        if not (first[name].isfinite().all() and second[name].isfinite().all()):
            raise InputError(
                f"the moments of `{name}` in `{state.path}` are not finite", "take a checkpoint from before it diverged"
            )
        if float(second[name].min()) < 0 or steps[name] < 1:
            raise InputError(
                f"`{state.path}` is damaged: `{name}` has a negative second moment or no step",
                "take another checkpoint",
            )
    moments = AdamMoments(first, second, steps, betas, eps, learning_rate)
    log.info(
        "read Adam's moments of %s after %s from %s",
        amount(len(wanted), "parameter"), amount(moments.step, "step"), state.path,
    )  # fmt: skip
    return moments


def read_learning_rates(checkpoint: Path) -> LearningRates:
    """Read the learning rates that HF Trainer logged into ``trainer_state.json``, up to a checkpoint.

    Today's transformers log the rate that a step used, those of LESS's time the rate of the step after it.

    Args:
        checkpoint: the checkpoint's folder.

    Raises:
        InputError: the log is there and cannot be read.
    """
    path = Path(checkpoint) / "trainer_state.json"
    if not path.is_file():
        return LearningRates(None, None, None, 0)
    try:
        state = read_json(path)
        step, epoch = int(state["global_step"]), float(state["epoch"] or 0)
        history = [one for one in state["log_history"] if "learning_rate" in one]
        logged = sorted({int(one["step"]): float(one["learning_rate"]) for one in history}.items())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"`{path}` cannot be read: {first_line(error)}", "take a checkpoint that the trainer finished writing"
        ) from error
    logged = [one for one in logged if one[0] <= step]
    if not logged or step < 1:
        return LearningRates(None, None, None, 0)
    begun = max(math.ceil(epoch - _EPOCH_TOLERANCE) - 1, 0)
    start = round(begun * step / epoch) if epoch else 0
    at, rates = zip(*logged, strict=True)
    mean = float(np.interp(np.arange(start + 1, step + 1), at, rates).mean())
    return LearningRates(rates[-1], mean, (start + 1, step), sum(one > start for one in at))


def read_learning_rate(checkpoint: Path) -> float | None:
    """The weight that LESS (and TracIn) gives a checkpoint: the mean learning rate of its epoch; None if not logged.

    Args:
        checkpoint: the checkpoint's folder.

    Raises:
        InputError: the log is there and cannot be read.
    """
    return read_learning_rates(checkpoint).epoch_mean


# finding and loading -----------------------------------------------------------------------------------------------


def _find_state(checkpoint: Path) -> Path:
    """The file or sharded folder that holds the optimizer state."""
    if checkpoint.is_file() or (checkpoint / ".metadata").is_file():
        return checkpoint
    if not checkpoint.is_dir():
        raise UsageError(f"there is no checkpoint `{checkpoint}`", "give a training checkpoint's folder")
    found = [checkpoint / name for name in _FILES if (checkpoint / name).is_file()]
    found += [checkpoint / name for name in _FOLDERS if (checkpoint / name / ".metadata").is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"`{checkpoint}` holds {len(found)} optimizer states: {', '.join(one.name for one in found)}",
            "give one of them instead of the folder",
        )
    there = sorted(one.name for one in checkpoint.iterdir())
    if any(re.match(r"global_step\d+$|zero_to_fp32\.py$|.*_optim_states\.pt$", name) for name in there):
        raise UsageError(
            f"`{checkpoint}` is a DeepSpeed checkpoint; its partitioned optimizer state is not read",
            "in the training, on every process, take each parameter's `exp_avg` and `exp_avg_sq` from "
            "deepspeed.utils.safe_get_full_optimizer_state; save {'state': {name: {'exp_avg': ..., 'exp_avg_sq': ..., "
            "'step': ...}}} as optimizer.pt in a folder of its own",
        )
    if any(re.match(r"optimizer_\d+_rank\d+\.bin$|rank\d+-of-\d+-optimizer\.pt$", name) for name in there):
        raise UsageError(
            f"`{checkpoint}` holds one optimizer file a process; they are not read",
            "save the state as FULL_STATE_DICT, or as SHARDED_STATE_DICT through torch.distributed.checkpoint",
        )
    if inside := sorted((name for name in there if name.startswith("checkpoint-")), key=lambda name: (len(name), name)):
        raise UsageError(
            f"`{checkpoint}` holds no optimizer state, but {amount(len(inside), 'checkpoint')}",
            f"give one of them: {checkpoint / inside[-1]}",
        )
    raise UsageError(
        f"`{checkpoint}` holds no optimizer state: found {_some(there) if there else 'nothing'}",
        "give a checkpoint with optimizer.pt (HF Trainer), optimizer.bin (accelerate, FSDP) or optimizer_0/ (sharded); "
        "a training with save_only_model writes none",
    )


def _load(path: Path) -> Any:
    """What torch.save wrote, mapped instead of read where the format allows."""
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, ValueError):
            # the format before torch 1.6 cannot be mapped; a damaged file fails again
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever the part that met it does
        raise_if_out_of_memory(error, f"reading `{path}`", _LARGER)
        raise InputError(
            f"`{path}` cannot be read: {_reason(error)}",
            "it is incomplete, or holds more than tensors and numbers; take another checkpoint",
        ) from error


def _read_state(path: Path) -> _State:
    """The optimizer state in one form."""
    if path.is_dir():
        leaves: Iterable[tuple[tuple[Any, ...], Any]] = _read_sharded(path)
    else:
        loaded = _load(path)
        if not isinstance(loaded, Mapping):
            raise InputError(f"`{path}` holds no optimizer state but a {type(loaded).__name__}", _WANTED)
        leaves = _leaves(loaded)
    entries: dict[str | int, dict[str, Any]] = {}
    groups: dict[str | int, dict[str, Any]] = {}
    for path_inside, value in leaves:
        inside = _expanded(path_inside)
        for kind, found in (("state", entries), ("param_groups", groups)):
            if kind in inside[:-2]:
                at = inside.index(kind)
                found.setdefault(inside[at + 1], {})[inside[at + 2]] = value
                break
    if not entries:
        raise InputError(f"`{path}` holds no optimizer state", _WANTED)
    if all(isinstance(key, int) or key.isdecimal() for key in entries):
        entries = {int(key): entry for key, entry in entries.items()}
    if len({type(key) for key in entries}) > 1:
        raise InputError(f"`{path}` numbers some parameters and names others", _WANTED)
    return _State(path, entries, list(groups.values()))


_WANTED = "give what optimizer.state_dict() or FSDP.optim_state_dict() returned, saved with torch.save"


def _leaves(loaded: Mapping[Any, Any], above: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value below nested dictionaries, and below the list of groups, with its path."""
    for key, value in loaded.items():
        inside = (*above, key)
        if isinstance(value, Mapping):
            yield from _leaves(value, inside)
        elif key == "param_groups" and isinstance(value, Sequence):
            yield from _leaves(dict(enumerate(value)), inside)
        else:
            yield inside, value


def _expanded(path: tuple[Any, ...]) -> tuple[Any, ...]:
    """torch.distributed's flattened ``("state.a.weight.step",)`` as ``("state", "a.weight", "step")``."""
    last = path[-1]
    for kind in ("state", "param_groups"):
        if isinstance(last, str) and last.startswith(f"{kind}.") and last.count(".") > 1:
            name, _, key = last.removeprefix(f"{kind}.").rpartition(".")
            return (*path[:-1], kind, name, key)
    return path


# sharded checkpoints -----------------------------------------------------------------------------------------------


class _ContentsUnpickler(pickle.Unpickler):
    """Reads the table of contents of a sharded checkpoint; any class that has no place in one is refused."""

    _KNOWN = frozenset(
        [
            ("collections", "OrderedDict"),
            ("torch", "Size"),
            ("torch", "device"),
            ("torch.serialization", "_get_layout"),
            ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
            ("torch.distributed.checkpoint.filesystem", "_StoragePrefix"),
            *(
                ("torch.distributed.checkpoint.metadata", name)
                for name in (
                    "BytesStorageMetadata",
                    "ChunkStorageMetadata",
                    "Metadata",
                    "MetadataIndex",
                    "StorageMeta",
                    "TensorProperties",
                    "TensorStorageMetadata",
                    "_MEM_FORMAT_ENCODING",
                )
            ),
        ]
    )

    _PATHS = frozenset(["PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"])

    def find_class(self, module: str, name: str) -> Any:
        """The class, if a table of contents may hold it."""
        if module.split(".")[0] == "pathlib" and name in self._PATHS:
            # where it was saved, never opened; pathlib has moved its classes, and another system's cannot be built
            return pathlib.PurePath
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if (module, name) not in self._KNOWN and not is_dtype:
            raise pickle.UnpicklingError(f"its table of contents names {module}.{name}")
        return super().find_class(module, name)


def _read_sharded(folder: Path) -> list[tuple[tuple[Any, ...], Any]]:
    """Adam's moments and the groups of a ``torch.distributed.checkpoint`` folder, read in this process alone."""
    # torch.distributed is heavy and may be missing from a build of torch
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
    from torch.distributed.checkpoint.planner import ReadItem
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    values: dict[str, Any] = {}

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
            return contents

    class Planner(DefaultLoadPlanner):
        def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
            values[read_item.dest_index.fqn] = torch.load(value, map_location="cpu", weights_only=True)

    try:
        with (folder / ".metadata").open("rb") as file:
            contents: Metadata = _ContentsUnpickler(file).load()
        if getattr(contents, "storage_meta", None) is None:
            contents.storage_meta = StorageMeta()
        paths = contents.planner_data or {}
        inside = {key: tuple(paths.get(key, (key,))) for key in contents.state_dict_metadata}
        for key, kind in contents.state_dict_metadata.items():
            expanded = _expanded(inside[key])
            if isinstance(kind, TensorStorageMetadata):
                if expanded[-1] in _FIELDS and "state" in expanded:
                    values[key] = torch.empty(kind.size, dtype=kind.properties.dtype)
            elif "param_groups" in expanded or (expanded[-1] == "step" and "state" in expanded):
                values[key] = None
        # not the public load(): before torch 2.7 it cannot be told to leave a process group alone
        _load_state_dict(values, Reader(folder), no_dist=True, planner=Planner())
    # torch's own is no Exception
    except (Exception, CheckpointException) as error:
        raise_if_out_of_memory(error, f"reading `{folder}`", _LARGER)
        raise InputError(
            f"the sharded checkpoint `{folder}` cannot be read: {_reason(error)}",
            "check that all of its .distcp files are there",
        ) from error
    return [(inside[key], value) for key, value in values.items()]


def _reason(error: BaseException) -> str:
    """What went wrong, without torch's advice; its CheckpointException wraps an error for each process."""
    failures = getattr(error, "failures", None)
    if isinstance(failures, Mapping) and failures:
        wrapped = next(iter(failures.values()))
        error = wrapped[0] if isinstance(wrapped, tuple) else wrapped
    if pickled := more_than_tensors(error):
        return f"it is a pickle that names {pickled}, which may run code"
    return first_line(error).split(". ")[0]


# names -------------------------------------------------------------------------------------------------------------


def _trained(model: nn.Module) -> list[list[str]]:
    """Sets of parameters that may have been trained, the most likely first.

    A model that is loaded for scoring has nothing that requires gradients, so that is no evidence.
    """
    parameters = list(model.named_parameters())
    adapters = _adapters(model)
    sets = [
        [name for name, parameter in parameters if parameter.requires_grad],
        [name for name, _ in parameters if adapters & set(name.split("."))],
        [name for name, _ in parameters],
    ]
    return [one for i, one in enumerate(sets) if one and one not in sets[:i]]


def _adapters(model: nn.Module) -> set[str]:
    """Names of the active adapters inside a model, whatever is wrapped around it."""
    # every layer that PEFT has put in has a list of them; the method of transformers knows only its own adapters
    lists = (getattr(module, "active_adapters", None) for module in model.modules())
    return {name for one in lists if isinstance(one, list) for name in one}


def _match(state: _State, model: nn.Module, entries: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Match stored names with the model's, up to what wrappers and PEFT add to a name."""
    parameters = dict(model.named_parameters())
    listed = {id(parameter): name for name, parameter in parameters.items()}
    # with tied weights, a state may use the name that the model lists no more
    ours = {name: listed[id(parameter)] for name, parameter in model.named_parameters(remove_duplicate=False)}
    found: dict[str, str] = {}
    unknown: list[str] = []
    adapters = _adapters(model)
    # an adapter may be loaded under another name than it was trained under; with several, the exact name counts
    for ignored in [set(), adapters | {"default"}] if adapters else [set()]:
        known: dict[str, set[str]] = {}
        for name, as_listed in ours.items():
            known.setdefault(_plain(name, ignored), set()).add(as_listed)
        found, unknown = {}, []
        for stored in entries:
            candidates = known.get(_plain(stored, ignored), set())
            if len(candidates) != 1:
                unknown.append(stored)
                continue
            (name,) = candidates
            if name in found:
                raise ModelError(
                    f"`{state.path}` has moments of `{name}` twice: as {found[name]} and as {stored}",
                    "it holds several adapters or copies; save the state of one",
                )
            found[name] = stored
        if not unknown:
            break
    if unknown:
        raise ModelError(
            f"`{state.path}` has moments of {_some(unknown)}, which {type(model).__name__} has not",
            "give the model, with the adapter, that the checkpoint was trained from",
        )
    for name, stored in found.items():
        if wrong := _wrong_shape(entries[stored], parameters[name]):
            raise ModelError(
                f"`{name}` is {_shape(parameters[name])} in the model, but its moment in `{state.path}` is {wrong}",
                "give the model, with the adapter, that the checkpoint was trained from",
            )
    return {name: entries[stored] for name, stored in found.items()}


def _plain(name: str, ignored: Collection[str]) -> str:
    """A parameter's name without wrappers, PEFT's prefix, and the parts to ignore."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS and part not in ignored]
    while parts[:1] == ["module"]:
        parts = parts[1:]
    return ".".join(parts).removeprefix("base_model.model.")


def _by_number(state: _State, model: nn.Module) -> dict[str, dict[str, Any]]:
    """Entries by the model's names, from a state that numbers its parameters group by group."""
    numbers = [list(group.get("params", ())) for group in state.groups]
    if not state.groups or any(not isinstance(one, int) for group in numbers for one in group):
        raise InputError(f"`{state.path}` has numbered parameters, but not their groups", _WANTED)
    every = [one for group in numbers for one in group]
    if len(set(every)) < len(every) or not state.entries.keys() <= set(every):
        raise InputError(f"`{state.path}` is damaged: its groups do not list each parameter once", _WANTED)

    if all("param_names" in group for group in state.groups):
        stored = [str(name) for group in state.groups for name in group["param_names"]]
        if len(stored) != len(every) or len(set(stored)) < len(stored):
            raise InputError(f"`{state.path}` is damaged: {len(stored)} names for {len(every)} parameters", _WANTED)
        named = dict(zip(stored, every, strict=True))
        return _match(state, model, {name: state.entries[one] for name, one in named.items() if one in state.entries})

    parameters = dict(model.named_parameters())
    orders = list(_orders(model))
    fitting: dict[tuple[str, ...], str] = {}
    wrong: list[str] = []
    for label, groups in orders:
        if [len(one) for one in groups] != [len(one) for one in numbers]:
            continue
        order = tuple(name for group in groups for name in group)
        bad = next(
            (
                f"{name} is {_shape(parameters[name])}, the moment in its place {shape}"
                for name, one in zip(order, every, strict=True)
                if one in state.entries and (shape := _wrong_shape(state.entries[one], parameters[name]))
            ),
            None,
        )
        if bad:
            wrong.append(bad)
        else:
            fitting.setdefault(order, label)
    if len(fitting) == 1:
        ((order, label),) = fitting.items()
        log.info("named the parameters of %s by %s", state.path, label)
        return {name: state.entries[one] for name, one in zip(order, every, strict=True) if one in state.entries}
    sizes = " + ".join(str(len(one)) for one in numbers)
    if fitting:
        raise ModelError(
            f"the {sizes} parameters of `{state.path}` fit {type(model).__name__} in {len(fitting)} ways: "
            f"{'; '.join(fitting.values())}",
            "set requires_grad on exactly the parameters that were trained, or build the optimizer from "
            "named_parameters() (torch 2.7) so that the checkpoint has their names",
        )
    if wrong:
        raise ModelError(
            f"`{state.path}` does not fit {type(model).__name__}: {wrong[0]}",
            "give the model, with the adapter, that the checkpoint was trained from",
        )
    tried = sorted({" + ".join(str(len(one)) for one in groups) for _, groups in orders})
    raise ModelError(
        f"`{state.path}` has moments of {sizes} parameters, {type(model).__name__} would have {' or '.join(tried)}",
        "give the model, with the adapter, that the checkpoint was trained from, with requires_grad set on exactly "
        "the parameters that were trained",
    )


def _orders(model: nn.Module) -> Iterator[tuple[str, list[list[str]]]]:
    """Each way in which a training may have grouped and ordered the parameters, with its name."""
    parameters = dict(model.named_parameters())
    for names in _trained(model):
        yield "the model's order", [names]
        for label, decays in _decay_rules(model).items():
            yield (
                label,
                [
                    [name for name in names if decays(name, parameters[name])],
                    [name for name in names if not decays(name, parameters[name])],
                ],
            )


def _decay_rules(model: nn.Module) -> dict[str, Callable[[str, nn.Parameter], bool]]:
    """What common trainings let weight decay act on; it makes the first of two groups.

    HF Trainer went from types of layers to patterns of names; the types depended on the model.
    """
    layer_norms = _below(model, lambda module: isinstance(module, nn.LayerNorm))
    norms = _below(model, lambda module: isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("RMSNorm"))
    pattern = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
    return {
        "HF Trainer's groups": lambda name, _: not pattern.search(name.lower()) and name not in layer_norms,
        "an earlier HF Trainer's groups": lambda name, _: "bias" not in name and name not in norms,
        "an earlier HF Trainer's groups, RMS norms decayed": (
            lambda name, _: "bias" not in name and name not in layer_norms
        ),
        "the groups of transformers' examples": (
            lambda name, _: not any(part in name for part in ("bias", "LayerNorm.weight", "layer_norm.weight"))
        ),
        "matrices before vectors": lambda _, parameter: parameter.ndim >= 2,
    }


def _below(model: nn.Module, is_such: Callable[[nn.Module], bool]) -> set[str]:
    """Names of the parameters at or below such modules."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if is_such(module)
        for name, _ in module.named_parameters()
    }


# checks ------------------------------------------------------------------------------------------------------------


def _check_adam(state: _State, by_name: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse what is not a plain Adam."""
    for name, entry in by_name.items():
        if not all(isinstance(entry.get(key), Tensor) for key in ("exp_avg", "exp_avg_sq")) or "step" not in entry:
            raise InputError(
                f"`{state.path}` is not Adam's state: for `{name}` it holds {', '.join(sorted(map(str, entry)))}",
                "train with optim=adamw_torch; factored (Adafactor) and 8-bit moments are not read",
            )
        if "max_exp_avg_sq" in entry:
            raise InputError(f"`{state.path}` is AMSGrad's state; LESS is defined for Adam", "train without amsgrad")


def _settings(state: _State) -> tuple[tuple[float, float], float, float | None]:
    """Betas, epsilon and the next learning rate of the groups that have parameters."""
    groups = [group for group in state.groups if group.get("params", True)]
    betas = {tuple(float(beta) for beta in group["betas"]) for group in groups if group.get("betas")}
    epsilons = {float(group["eps"]) for group in groups if "eps" in group}
    if len(betas) > 1 or len(epsilons) > 1:
        raise InputError(
            f"the groups of `{state.path}` differ in betas or eps: {sorted(betas)}, {sorted(epsilons)}",
            "train all parameters with the same",
        )
    if not betas or not epsilons:
        log.warning("%s tells no betas or no eps; taking torch's %s and %s", state.path, _BETAS, _EPS)
    first, second = betas.pop() if betas else _BETAS
    rates = {float(group["lr"]) for group in groups if "lr" in group}
    return (first, second), epsilons.pop() if epsilons else _EPS, rates.pop() if len(rates) == 1 else None


def _wrong_shape(entry: Mapping[str, Any], parameter: nn.Parameter) -> str | None:
    """Shape of a moment that is not shaped like its parameter."""
    for key in ("exp_avg", "exp_avg_sq"):
        moment = entry.get(key)
        if isinstance(moment, Tensor) and moment.shape != parameter.shape:
            return _shape(moment)
    return None


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _some(names: Sequence[str]) -> str:
    """The first few names."""
    more = f" and {len(names) - _LIST_AT_MOST} more" if len(names) > _LIST_AT_MOST else ""
    return f"{', '.join(names[:_LIST_AT_MOST])}{more}"
