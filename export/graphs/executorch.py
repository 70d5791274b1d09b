"""An ExecuTorch program of an encoder: `.pte`, for phones and microcontrollers.

- It takes one row per call, of any length up to `LONGEST`: ExecuTorch reserves memory for the largest input before the
  first call, so a dynamic batch would multiply it, and a row alone needs no padding.
- The steps of the LSTM or GRU are a `scan`, whose body ExecuTorch repeats. XNNPACK takes what it partitions; the
  portable kernels run the rest.
- `executorch` needs a PyTorch of one version, so a Python of another environment may convert: `PYTHON_VARIABLE` names
  it, and a program of `torch.export` with PyTorch's own operators goes there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from lengthwise.encoder.model import PackedEncoder
from lengthwise.errors import ArtifactError
from lengthwise.export.graphs.portable_lstm import scanned
from lengthwise.export.graphs.trace import PortableClientEncoder, save_program, trace_to_program

PYTHON_VARIABLE = "LENGTHWISE_EXECUTORCH_PYTHON"
LONGEST = 1024  # tokens
_CONVERTER = Path(__file__).with_name("executorch_converter.py")
_SECONDS = 1_800
_ONE_ROW = ({1: torch.export.Dim("sequence", min=1, max=LONGEST)},) * 2


def save_executorch(encoder: PackedEncoder, target: Path) -> None:
    """Write an encoder as `.pte`: inputs int64[1, sequence] twice, outputs as those of the ONNX graph.

    Raises:
        ArtifactError: executorch is not installed, or refuses the encoder.
    """
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch) / "program.pt2"
        save_program(trace_to_program(PortableClientEncoder(encoder, scanned), rows=1, dynamic=_ONE_ROW), program)
        python = os.environ.get(PYTHON_VARIABLE) or sys.executable
        try:
            command = [python, "-I", str(_CONVERTER), str(program), str(target)]  # else this file would be `executorch`
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ArtifactError(f"the graph executorch cannot be made with {python} ({error})") from error
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["it was killed"]
        if "No module named 'executorch'" in reason[0]:
            raise ArtifactError(
                f"the graph executorch is made by the package executorch, which {python} does not have; install"
                f" lengthwise[executorch], name the Python of an environment that has it in {PYTHON_VARIABLE}, or leave"
                " the graph out of export.variants"
            )
        raise ArtifactError(f"executorch refuses the encoder ({reason[0][:300]}); leave it out of export.variants")
