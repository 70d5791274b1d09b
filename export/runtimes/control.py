"""A wrong runtime, on purpose: a graph with its lengths cut off.

This is what exporting an unpacked nn.LSTM gives, and what a runtime computes that ignores `sequence_lens`. If the
comparisons cannot tell it from the right one, a pass of the others says nothing about lengths; and a runtime that
agrees with it has ignored them.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from export.runtimes.onnxruntime import OnnxRuntimeCpu

_TOLD_LENGTHS = ("LSTM", "DynamicQuantizeLSTM")


class LengthsIgnored(OnnxRuntimeCpu):
    """onnxruntime on the CPU, with `sequence_lens` disconnected from every LSTM."""

    name = "control: lengths ignored"

    def load(self, path: Path) -> None:
        model = onnx.load(path)
        for node in model.graph.node:
            if node.op_type in _TOLD_LENGTHS:
                node.input[4] = ""
        self._open(model.SerializeToString())
