"""An ExecuTorch program of an encoder: `.pte`, for phones and microcontrollers.

- It takes one row per call, of any length up to `LONGEST`: ExecuTorch reserves memory for the largest input before the
  first call, so a dynamic batch would multiply it, and a row alone needs no padding.
- The steps of the LSTM or GRU are a `scan`, whose body ExecuTorch repeats. XNNPACK takes what it partitions; the
  portable kernels run the rest.
- `executorch` needs a PyTorch of one version, so a Python of another environment may convert (`graphs.conversion`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from lengthwise.encoder.model import PackedEncoder
from lengthwise.export.graphs.conversion import convert
from lengthwise.export.graphs.portable_lstm import scanned
from lengthwise.export.graphs.trace import PortableClientEncoder, save_program, trace_to_program
from lengthwise.export.graphs.variants import EXECUTORCH

PYTHON_VARIABLE = "LENGTHWISE_EXECUTORCH_PYTHON"
LONGEST = 1024  # tokens
_ONE_ROW = ({1: torch.export.Dim("sequence", min=1, max=LONGEST)},) * 2


def save_executorch(encoder: PackedEncoder, target: Path) -> None:
    """Write an encoder as `.pte`: inputs int64[1, sequence] twice, outputs as those of the ONNX graph.

    Raises:
        ArtifactError: executorch is not installed, or refuses the encoder.
    """
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch) / "program.pt2"
        save_program(trace_to_program(PortableClientEncoder(encoder, scanned), rows=1, dynamic=_ONE_ROW), program)
        convert(EXECUTORCH, "executorch", PYTHON_VARIABLE, program, target)
