"""`torch.export`'s programs (`.pt2`). The native one needs this package, whose operator it names; the portable none."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import MappingProxyType

import torch

import lengthwise.export.graphs.packed_lstm  # noqa: F401  # registers the operator
from lengthwise.export.artifact.folder import PROGRAM_FILE, PROGRAM_PORTABLE_FILE
from lengthwise.export.graphs.variants import NATIVE, PORTABLE
from lengthwise.export.runtimes.pytorch import PyTorchEager


class ExportedProgram(PyTorchEager):
    """`torch.export.load` of a program, on the CPU."""

    name = "torch.export"
    files = MappingProxyType({NATIVE: PROGRAM_FILE, PORTABLE: PROGRAM_PORTABLE_FILE})

    def load(self, path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch 2.11 of buffers that it reads and does not write
            self._model = torch.export.load(path).module()
