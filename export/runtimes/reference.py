"""onnx's own evaluator in NumPy: the reference implementation of the standard, without optimisations."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from lengthwise.export.graphs.variants import FP16
from lengthwise.export.runtimes.base import (
    ONNX_FILES,
    NotRunnable,
    Outputs,
    Runtime,
    check_output_names,
    read_vocab_size,
)


class Reference(Runtime):
    """`onnx.reference.ReferenceEvaluator`."""

    name = "onnx reference"
    files = MappingProxyType({name: file for name, file in ONNX_FILES.items() if name != FP16})  # slow in NumPy
    optional = True  # nothing to install, but slow
    reads_lengths = False
    contrib = False

    def load(self, path: Path) -> None:
        from onnx.reference import ReferenceEvaluator

        graph = onnx.load(path, load_external_data=False).graph
        self.vocab_size = read_vocab_size(path)
        if any(attribute.name == "activations" for node in graph.node for attribute in node.attribute):
            raise NotRunnable(f"onnx {onnx.__version__} ignores the `activations` of an LSTM or GRU, and so hard gates")
        self._evaluator = ReferenceEvaluator(str(path))
        check_output_names(self._evaluator.output_names)

    def run_unchecked(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        outputs: Any = self._evaluator.run(self._evaluator.output_names, feeds)  # typed as names by onnx
        return tuple(outputs)

    def describe(self) -> dict[str, str]:
        return {"onnx": onnx.__version__}
