"""TorchScript: the traced file, loaded without any code of ours."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from export.runtimes.pytorch import PyTorchEager


class TorchScript(PyTorchEager):
    """`torch.jit.load` of the traced file, on the CPU."""

    name = "torchscript"
    file = "torchscript/model.pt"

    def load(self, artifact: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self._model = torch.jit.load(artifact / self.file, map_location="cpu")
