"""The runtimes of phones, on this CPU: ExecuTorch and LiteRT, each in a process of its own; and Core ML, not run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from lengthwise.export.graphs.executorch import LONGEST, PYTHON_VARIABLE
from lengthwise.export.graphs.variants import COREML, DEVICE_VARIANTS, EXECUTORCH, LITERT, LOGITS
from lengthwise.export.runtimes.base import OUTPUT_NAMES, NotRunnable, Outputs, Runtime
from lengthwise.export.runtimes.process import ProcessRuntime
from lengthwise.export.runtimes.worker import Session, WorkerRuntime

_SERVER = Path(__file__).with_name("executorch_server.py")


class ExecuTorch(ProcessRuntime):
    """ExecuTorch's Python runtime: XNNPACK and the portable kernels, row by row.

    The Python of another environment runs it if `LENGTHWISE_EXECUTORCH_PYTHON` names one.
    """

    name = "executorch"
    files = MappingProxyType({EXECUTORCH: DEVICE_VARIANTS[EXECUTORCH].file})

    def load(self, path: Path) -> None:
        try:
            super().load(path)
        except NotRunnable as missing:
            raise NotRunnable(
                f"{missing}; install lengthwise[executorch], or name the Python of an environment that has it in"
                f" {PYTHON_VARIABLE}"
            ) from missing

    def run_unchecked(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        if input_ids.shape[1] > LONGEST:
            raise ValueError(f"rows have {input_ids.shape[1]} columns; the program takes {LONGEST}, as it was made for")
        return super().run_unchecked(input_ids, attention_mask)

    def _command(self, path: Path) -> tuple[list[str], None]:
        python = os.environ.get(PYTHON_VARIABLE) or sys.executable
        return [python, "-I", str(_SERVER), str(path.resolve())], None


class LiteRtSession(Session):
    """A LiteRT model, whose inputs are resized to each batch."""

    def __init__(self, path: Path) -> None:
        """Load a model, by its signature."""
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ModuleNotFoundError as error:
            raise NotRunnable(
                "ai-edge-litert is not installed; install lengthwise[litert], or run make runtimes"
            ) from error
        self._run = Interpreter(model_path=str(path)).get_signature_runner()
        named = self._run.get_output_details()
        self.outputs = [name for name in (*OUTPUT_NAMES, LOGITS) if name in named]
        self.versions = {"ai-edge-litert": metadata.version("ai-edge-litert"), "device": "CPU"}

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Sequence[NDArray[np.float32]]:
        """The outputs of a batch."""
        found = self._run(input_ids=input_ids, attention_mask=attention_mask)
        return [found[name] for name in self.outputs]


class LiteRt(WorkerRuntime):
    """LiteRT's Python runtime (TensorFlow Lite) with its own kernels, in batches; it checks the range of ids itself."""

    name = "litert"
    files = MappingProxyType({LITERT: DEVICE_VARIANTS[LITERT].file})
    session = LiteRtSession


class CoreMl(Runtime):
    """Core ML, which Apple's systems have alone. No adapter could be tried, so there is none: it is never run."""

    name = "core ml"
    files = MappingProxyType({COREML: DEVICE_VARIANTS[COREML].file})
    optional = True

    def load(self, path: Path) -> None:
        raise NotRunnable("Core ML runs on Apple's systems alone; this model was converted, and never run")

    def run_unchecked(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        raise NotRunnable("Core ML runs on Apple's systems alone")

    def describe(self) -> dict[str, str]:
        return {}
