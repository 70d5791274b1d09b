"""TorchScript: traced files, which load without this package."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from lengthwise.export.graphs.variants import TORCHSCRIPT_FILES
from lengthwise.export.runtimes.base import read_vocab_size
from lengthwise.export.runtimes.pytorch import ModuleRuntime


class TorchScript(ModuleRuntime):
    """`torch.jit.load` of a traced file, on the CPU."""

    name = "torchscript"
    files = TORCHSCRIPT_FILES

    def load(self, path: Path) -> None:
        self.vocab_size = read_vocab_size(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self._model = torch.jit.load(path, map_location="cpu")
