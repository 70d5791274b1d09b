"""The negative control: a graph with its lengths disconnected.

It computes what exporting an unpacked nn.LSTM gives, and what a runtime that ignores `sequence_lens` computes. If the
comparisons do not fail it, their results say nothing about lengths; a runtime that agrees with it ignores lengths.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu
from lengthwise.util.files import link_or_copy

_WITH_LENGTHS = ("LSTM", "GRU", "DynamicQuantizeLSTM")


class LengthsIgnored(OnnxRuntimeCpu):
    """onnxruntime on the CPU, with `sequence_lens` disconnected from every LSTM or GRU."""

    name = "control: lengths ignored"

    def load(self, path: Path) -> None:
        model = onnx.load(path, load_external_data=False)
        for node in model.graph.node:
            if node.op_type in _WITH_LENGTHS:
                node.input[4] = ""
        with tempfile.TemporaryDirectory() as scratch:
            weights = path.with_name(path.name + ".data")
            if weights.exists():
                link_or_copy(weights, Path(scratch) / weights.name)
            onnx.save(model, Path(scratch) / path.name)
            self._open(str(Path(scratch) / path.name))
