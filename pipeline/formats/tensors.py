"""Files of tensors: safetensors, PyTorch's, and NumPy's .npz; and what else such a file holds.

- A PyTorch file is read under `weights_only=True`: a pickle can run any program when it is read, and so only tensors
  and plain values are made of it. A file that needs more is refused, or read by `trusted_pickle` where that is asked
  for.
- Of a file of several groups, those of an optimizer or its schedule are left out, and all others are kept, so that
  what nothing needs is reported. The names of the one that is called a state_dict, or alike, are as they are there.
- Names lose what wrappers put before all of them: `module.` of DataParallel, `_orig_mod.` of `torch.compile`.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lengthwise.errors import CheckpointError
from lengthwise.util.model_paths import LFS_REMEDY, is_lfs_pointer

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".tar", ".model")
SUFFIXES = (".safetensors", ".npz", *TORCH_SUFFIXES)
_WRAPPERS = ("module.", "_orig_mod.")
_STATE_NAMES = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights", "params", "module")
_TRAINING_NAMES = ("optim", "sched", "lr_sched")  # beginnings of names
_MOST_REPEATED = 2**24
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
                content = {name: _of_numpy(arrays[name]) for name in arrays.files}
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
    return TensorFile(path, _collect(content, path), content)


def _of_numpy(array: NDArray[Any]) -> Tensor | list[Any]:
    """An array of numbers as a tensor; one of texts, which may be the vocabulary, as a list."""
    return torch.from_numpy(array) if array.dtype.kind in "fiub" else array.tolist()


def check_float(tensor: Tensor, name: str, path: Path) -> Tensor:
    """Refuse a tensor that is no weight.

    Raises:
        CheckpointError: it holds whole numbers, or is quantized.
    """
    if not tensor.is_floating_point() or tensor.is_quantized:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(f"{path}: {name} holds {kind}, not floats; give the weights before they were quantized")
    return tensor


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
        if named == "torch.ScriptObject":  # the packed weights of torch.ao.quantization
            raise CheckpointError(
                f"{path}: the weights of a quantized model, which only PyTorch reads; give the weights before they were"
                " quantized"
            ) from error
        if named is None:
            raise CheckpointError(f"{path}: not a PyTorch file that can be read ({_first_line(error)})") from error
        raise CheckpointError(
            f"{path}: a pickle of {named}, which is not read, since a pickle can run any program; {RESAVE}. If the file"
            " is your own, --trust-pickle reads it"
        ) from error
    except (RuntimeError, RecursionError, KeyError, IndexError, TypeError, AttributeError, UnicodeError) as error:
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{path}: a TorchScript program; load it with torch.jit.load, and {RESAVE}"
            ) from error
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


def _collect(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of the file's groups by name."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds {type(content).__name__}, not tensors by name; {RESAVE}")
    groups = {name: _without_wrappers(group) for name, group in _groups(content)}
    groups = {name: group for name, group in groups.items() if not _is_of_training(name)} or groups
    if not groups:
        raise CheckpointError(f"{path}: holds no tensors; {RESAVE}")
    named = list(groups) if len(groups) == 1 else [n for n in groups if n.rpartition(".")[2] in _STATE_NAMES]
    main = named[0] if len(named) == 1 else ""
    tensors: dict[str, Tensor] = {}
    for name, group in groups.items():
        for key, value in group.items():
            full = key if name == main else f"{name}.{key}".lstrip(".")
            if full in tensors:
                raise CheckpointError(f"{path}: two tensors are called {full}, one of them in {name!r}; {RESAVE}")
            tensors[full] = _as_float32(value, full, path)
    return tensors


def _is_of_training(name: str) -> bool:
    return any(part.lower().startswith(_TRAINING_NAMES) for part in name.split("."))


def _groups(content: Mapping[Any, Any]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The mappings from names to tensors, by their dotted paths; each once, where several places share it."""
    seen: set[int] = set()
    waiting: deque[tuple[Mapping[Any, Any], str]] = deque([(content, "")])
    while waiting:
        node, name = waiting.popleft()
        if id(node) in seen:
            continue
        seen.add(id(node))
        tensors = {key: value for key, value in node.items() if isinstance(key, str) and isinstance(value, Tensor)}
        if tensors:
            yield name, tensors
        waiting += [
            (value, f"{name}.{key}".lstrip("."))
            for key, value in node.items()
            if isinstance(key, str) and isinstance(value, Mapping)
        ]


def _without_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = dict(tensors)
    for prefix in _WRAPPERS * 2:
        if found and all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def _as_float32(value: Tensor, name: str, path: Path) -> Tensor:
    """Floats as float32; a tensor whose bytes are not all in the file is refused if it is large."""
    value = value.detach()
    if value.is_quantized or not value.is_floating_point():
        return value
    if value.untyped_storage().nbytes() < value.numel() * value.element_size() and value.numel() > _MOST_REPEATED:
        raise CheckpointError(f"{path}: {name} {list(value.shape)} repeats its values by a stride of 0; {RESAVE}")
    return value.float()
