"""OpenVINO on the CPU, in float32, with dynamic shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lengthwise.export.runtimes.base import NotRunnable, Outputs, Runtime, check_output_names, read_vocab_size


class OpenVino(Runtime):
    """OpenVINO's CPU plugin, which ignores `sequence_lens` if shapes are dynamic.

    It accepts DynamicQuantizeLSTM too, computes it in float32, and ignores its lengths as well.
    """

    name = "openvino"
    optional = True
    reads_lengths = False

    def load(self, path: Path) -> None:
        try:
            import openvino
        except ModuleNotFoundError as error:
            raise NotRunnable(
                "OpenVINO is not installed; install lengthwise[openvino], or run make runtimes"
            ) from error
        self._version = openvino.get_version()
        model = openvino.Core().read_model(path)
        check_output_names([output.any_name for output in model.outputs])
        for node in model.get_ops():
            kind = next((kind for kind in ("LSTM", "GRU") if kind in node.get_type_name()), None)
            gates = node.get_attributes().get("activations", []) if kind else []
            if gates and gates[0] != "sigmoid":
                raise NotRunnable(f"OpenVINO {self._version} runs no {kind} whose gates are {gates[0]}")
        self.vocab_size = read_vocab_size(path)
        self._model = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run_unchecked(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        results = self._model({"input_ids": input_ids, "attention_mask": attention_mask})
        return tuple(results[number].copy() for number in range(len(results)))

    def describe(self) -> dict[str, str]:
        return {"openvino": self._version, "device": "CPU, float32"}
