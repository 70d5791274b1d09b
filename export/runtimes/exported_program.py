"""`torch.export`'s programs (`.pt2`). The native one uses an operator of this package; the portable one does not."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

import lengthwise.export.graphs.packed_lstm  # noqa: F401  # registers the operator
from lengthwise.export.graphs.variants import PROGRAM_FILES
from lengthwise.export.runtimes.base import read_vocab_size
from lengthwise.export.runtimes.pytorch import ModuleRuntime


class ExportedProgram(ModuleRuntime):
    """`torch.export.load` of a program, on the CPU."""

    name = "torch.export"
    files = PROGRAM_FILES

    def load(self, path: Path) -> None:
        self.vocab_size = read_vocab_size(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch 2.11 warns about read-only buffers
            self._model = torch.export.load(path).module()
