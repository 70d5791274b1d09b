"""tract, an engine in Rust for servers, phones and WebAssembly, with symbols for batch and sequence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lengthwise.export.runtimes.base import NotRunnable
from lengthwise.export.runtimes.worker import Session, WorkerRuntime, read_graph, refuse_hard_gates


class TractSession(Session):
    """A plan that is made once, for any batch and sequence: the names of the graph's dimensions are symbols."""

    def __init__(self, path: Path) -> None:
        try:
            import tract
        except ModuleNotFoundError as error:
            raise NotRunnable("tract is not installed; install lengthwise[tract], or run make runtimes") from error
        graph = read_graph(path)
        refuse_hard_gates(f"tract {tract.version()}", graph)
        model = tract.onnx().load(path)
        self.outputs = [output.name for output in graph.output]  # tract calls an output by its node
        self._plan = model.into_model().into_runnable()
        self.versions = {"tract": tract.version(), "device": "CPU"}

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        return [output.to_numpy() for output in self._plan.run([input_ids, attention_mask])]


class Tract(WorkerRuntime):
    """tract on the CPU, which refuses lengths that are computed."""

    name = "tract"
    session = TractSession
    reads_lengths = False
    contrib = False
