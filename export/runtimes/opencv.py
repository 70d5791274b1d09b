"""OpenCV's dnn module on the CPU, which takes the shapes of each batch as they come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lengthwise.export.runtimes.base import NotRunnable
from lengthwise.export.runtimes.worker import Session, WorkerRuntime, operators, read_graph, refuse_hard_gates


class OpenCvSession(Session):
    """A net of OpenCV 5's graph engine; that of OpenCV 4 has no dynamic shapes."""

    def __init__(self, path: Path) -> None:
        try:
            import cv2
        except ModuleNotFoundError as error:
            raise NotRunnable("OpenCV is not installed; install lengthwise[opencv], or run make runtimes") from error
        engine = getattr(cv2.dnn, "ENGINE_NEW", None)
        name = f"OpenCV {cv2.__version__}"
        if engine is None:
            raise NotRunnable(f"{name} has no engine for dynamic shapes; install opencv-python-headless 5 or newer")
        graph = read_graph(path)
        refuse_hard_gates(name, graph)
        if "GRU" in operators(graph):
            raise NotRunnable(f"{name} gives a GRU's states without their axis of directions")
        if "Erf" in operators(graph):
            raise NotRunnable(f"{name} ends the process on the Erf of a GELU")
        if any(dim.dim_value for value in graph.input for dim in value.type.tensor_type.shape.dim):
            raise ValueError("the batch or sequence of an input is fixed")  # OpenCV takes any, whatever the graph says
        self._net = cv2.dnn.readNetFromONNX(str(path), engine)
        self.outputs = [output.name for output in graph.output]
        self.versions = {"opencv": cv2.__version__, "device": "CPU"}
        self.run(np.zeros((1, 1), np.int64), np.ones((1, 1), np.int64))  # it refuses an operator in its first run only

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        self._net.setInput(input_ids, "input_ids")
        self._net.setInput(attention_mask, "attention_mask")
        return [np.array(output) for output in self._net.forward(self.outputs)]


class OpenCv(WorkerRuntime):
    """OpenCV on the CPU."""

    name = "opencv"
    session = OpenCvSession
    reads_lengths = False
    contrib = False
