"""TorchScript: traced files, loaded without any code of ours."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import MappingProxyType

import torch

from lengthwise.export.artifact.folder import TORCHSCRIPT_FILE, TORCHSCRIPT_PORTABLE_FILE
from lengthwise.export.graphs.variants import NATIVE, PORTABLE
from lengthwise.export.runtimes.pytorch import PyTorchEager


class TorchScript(PyTorchEager):
    """`torch.jit.load` of a traced file, on the CPU."""

    name = "torchscript"
    files = MappingProxyType({NATIVE: TORCHSCRIPT_FILE, PORTABLE: TORCHSCRIPT_PORTABLE_FILE})

    def load(self, path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self._model = torch.jit.load(path, map_location="cpu")
