"""A Core ML model of an encoder: an `.mlpackage` for Apple's systems, converted by coremltools.

- It takes one row per call, of 1 to 1,024 tokens, as int32, since Core ML has no int64.
- Its LSTM or GRU is Core ML's own, from the TorchScript form without packing.
- coremltools converts on Linux, and runs a model on macOS only: nothing here has run one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from lengthwise.encoder.model import PackedEncoder
from lengthwise.export.graphs.conversion import convert
from lengthwise.export.graphs.portable_lstm import dense
from lengthwise.export.graphs.trace import PortableClientEncoder, save_torchscript, trace_to_torchscript
from lengthwise.export.graphs.variants import COREML

PYTHON_VARIABLE = "LENGTHWISE_COREML_PYTHON"


def save_coreml(encoder: PackedEncoder, target: Path) -> None:
    """Write an encoder as an `.mlpackage`, a folder.

    Raises:
        ArtifactError: coremltools is not installed, or refuses the encoder.
    """
    with tempfile.TemporaryDirectory() as scratch:
        script = Path(scratch) / "model.pt"
        save_torchscript(trace_to_torchscript(PortableClientEncoder(encoder, dense)), script)
        convert(COREML, "coremltools", PYTHON_VARIABLE, script, target)
