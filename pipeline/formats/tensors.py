"""Files of tensors: safetensors, PyTorch's, and NumPy's .npz; and what else such a file holds.

- A PyTorch file is read under `weights_only=True`: a pickle can run any program when it is read, and so only tensors
  and plain values are made of it. A file that needs more is refused, or read by `trusted_pickle` where that is asked
  for.
- Names lose what wrappers put before all of them: `module.` of DataParallel, `_orig_mod.` of `torch.compile`.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lengthwise.errors import CheckpointError
from lengthwise.util.model_paths import LFS_REMEDY, is_lfs_pointer

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".tar", ".model")
SUFFIXES = (".safetensors", ".npz", *TORCH_SUFFIXES)
_WRAPPERS = ("module.", "_orig_mod.")
_STATE_NAMES = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights", "params", "module")
_TRAINING = ("optim", "sched", "ema", "scaler")  # what a checkpoint holds to go on training
RESAVE = "save its state_dict instead: torch.save(model.state_dict(), 'weights.pt')"


@dataclass(frozen=True)
class TensorFile:
    """What a file of tensors holds.

    Attributes:
        path: the file.
        tensors: by name; floats are float32.
        other: everything else, as it is nested in the file.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    other: Any

    def find(self, key: str) -> Any:
        """What else is in the file, by the dotted path of its keys.

        Raises:
            CheckpointError: there is no such key.
        """
        return find_key(self.other, key, str(self.path))


def find_key(data: Any, key: str, origin: str) -> Any:
    """A value in nested mappings and lists, by its dotted path.

    Raises:
        CheckpointError: there is none.
    """
    for part in key.split("."):
        if isinstance(data, Mapping) and part in data:
            data = data[part]
        elif isinstance(data, list | tuple) and part.isdecimal() and int(part) < len(data):
            data = data[int(part)]
        else:
            found = ", ".join(map(repr, data)) if isinstance(data, Mapping) and len(data) <= 20 else type(data).__name__
            raise CheckpointError(f"{origin}: there is no {part!r} of {key!r}; there is {found}")
    return data


def read_tensors(path: Path, *, trust_pickle: bool = False) -> TensorFile:
    """Read a file of tensors.

    Args:
        trust_pickle: read a PyTorch file that holds more than tensors and plain values, in a process of its own.

    Raises:
        CheckpointError: it is missing, damaged, holds no tensors, or is a pickle that is not read.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file of weights")
    if is_lfs_pointer(path):
        raise CheckpointError(f"{path}: {LFS_REMEDY}")
    suffix = path.suffix.lower()
    try:
        if suffix == ".safetensors":
            content: Any = load_file(path)
        elif suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                content = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        else:
            content = _load_torch(path, trust_pickle)
    except (
        OSError,
        SafetensorError,
        ValueError,
        TypeError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        MemoryError,
    ) as error:
        raise CheckpointError(
            f"{path}: the weights cannot be read ({_first_line(error)}); get the file again"
        ) from error
    try:
        return TensorFile(path, *_collect(content, path))
    except RecursionError:
        raise CheckpointError(f"{path}: nested too deeply; {RESAVE}") from None


def _load_torch(path: Path, trust_pickle: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats, which are read all the same
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if trust_pickle:
            from lengthwise.formats.trusted_pickle import load_trusted

            return load_trusted(path)
        named = _refused_name(str(error))
        if named is None:
            raise CheckpointError(f"{path}: not a PyTorch file that can be read ({_first_line(error)})") from error
        raise CheckpointError(
            f"{path}: a pickle of {named}, which is not read, since a pickle can run any program; {RESAVE}. If the file"
            " is your own, --trust-pickle reads it"
        ) from error
    except (RuntimeError, KeyError, IndexError, TypeError, AttributeError, UnicodeError) as error:
        raise CheckpointError(
            f"{path}: the weights cannot be read ({_first_line(error)}); get the file again"
        ) from error


def _refused_name(message: str) -> str | None:
    """The class or function in PyTorch's message on what it does not load; None if the message is of something else."""
    for line in message.splitlines():
        if "GLOBAL" in line:
            words = line.split("GLOBAL", 1)[1].split()
            return words[0].rstrip(",.") if words else None
    return "another program's objects" if "weights_only" in message.lower() and "Unsupported" in message else None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _collect(content: Any, path: Path) -> tuple[dict[str, Tensor], Any]:
    """The tensors of the file's state_dict by name, and the rest."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds {type(content).__name__}, not tensors by name; {RESAVE}")
    groups = dict(_groups(content, ""))
    if not groups:
        raise CheckpointError(f"{path}: holds no tensors; {RESAVE}")
    if len(groups) == 1:
        (tensors,) = groups.values()
    else:
        named = [name for name in groups if name.rpartition(".")[2] in _STATE_NAMES]
        state = groups.pop(named[0]) if len(named) == 1 else {}
        others = {name: group for name, group in groups.items() if not name.lower().startswith(_TRAINING)}
        tensors = state | {
            f"{name}.{key}".lstrip("."): value for name, group in others.items() for key, value in group.items()
        }
    return {name: _as_float32(value) for name, value in _without_wrappers(tensors).items()}, content


def _groups(
    node: Mapping[Any, Any], name: str, seen: set[int] | None = None
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The mappings from names to tensors, by their dotted paths; each mapping once, however often it is referred to."""
    seen = set() if seen is None else seen
    if id(node) in seen:
        return
    seen.add(id(node))
    tensors = {key: value for key, value in node.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield name, tensors
    for key, value in node.items():
        if isinstance(key, str) and isinstance(value, Mapping):
            yield from _groups(value, f"{name}.{key}".lstrip("."), seen)


def _without_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = dict(tensors)
    for prefix in _WRAPPERS * 2:
        if found and all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def _as_float32(value: Tensor) -> Tensor:
    return value.detach().float() if value.is_floating_point() else value.detach()
