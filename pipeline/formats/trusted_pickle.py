"""Reads a pickle of any objects, in a process of its own that has no network where the system allows that.

What comes back are tensors and plain values, written to files that hold no program. The process ends with the file:
what a pickle starts in it does not reach the one that imports. It can still do what the user can, so this is for own
files.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from lengthwise.errors import CheckpointError

_SECONDS = 600
_PROGRAM = """
import ctypes, json, sys
new_user, new_network = 0x10000000, 0x40000000
try:
    ctypes.CDLL(None).unshare(new_user | new_network)
except (OSError, AttributeError):
    pass
import torch
from safetensors.torch import save_file
source, folder = sys.argv[1:]
content = torch.load(source, map_location="cpu", weights_only=False)
tensors = {}
def plain(value, name):
    if isinstance(value, torch.nn.Module):
        value = dict(value.state_dict())
    if isinstance(value, torch.Tensor):
        tensors[name] = value.detach().contiguous().clone()
        return None
    if isinstance(value, dict):
        items = {str(key): plain(each, f"{name}\\t{key}" if name else str(key)) for key, each in value.items()}
        return {key: each for key, each in items.items() if each is not None}
    if isinstance(value, (list, tuple)):
        before = len(tensors)
        items = [plain(each, f"{name}\\t{number}") for number, each in enumerate(value)]
        return items if len(tensors) == before else {str(number): each for number, each in enumerate(items)}
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        value = value.item()
    return value if isinstance(value, (str, int, float, bool)) else None
other = plain(content, "")
save_file(tensors, folder + "/tensors.safetensors")
with open(folder + "/other.json", "w", encoding="utf-8") as file:
    json.dump(other, file)
"""


def load_trusted(path: Path) -> Any:
    """What a PyTorch file holds, modules as their state_dict.

    Raises:
        CheckpointError: the file cannot be read, for instance because a class that it needs cannot be imported.
    """
    with tempfile.TemporaryDirectory(prefix="lengthwise-pickle-") as folder:
        command = [sys.executable, "-c", _PROGRAM, str(path.resolve()), folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise CheckpointError(f"{path}: reading the pickle took over {_SECONDS} s, and was ended") from None
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            remedy = "run in the folder of the modules that it needs"
            if "__main__" in reason:
                remedy = "the class is of the program that saved it: load it there, and save model.state_dict()"
            raise CheckpointError(f"{path}: the pickle cannot be read ({reason}); {remedy}")
        content = json.loads((Path(folder) / "other.json").read_text(encoding="utf-8"))
        content = content if isinstance(content, dict) else {}
        for name, tensor in load_file(Path(folder) / "tensors.safetensors").items():
            node = content
            *parents, last = name.split("\t")
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = tensor
        return content
