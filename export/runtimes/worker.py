"""The process of a Python engine, and the runtime that speaks to it.

Engines written in C++ or Rust end their process on some inputs, so each runs in a child process.
"""

from __future__ import annotations

import importlib
import os
import sys
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray

from lengthwise.export.runtimes.base import NotRunnable
from lengthwise.export.runtimes.process import ProcessRuntime, decode_request, encode_answer


class Session:
    """A loaded graph on an engine, in the engine's own process.

    Attributes:
        outputs: the names of the graph's outputs, in order.
        versions: of the engine, and where it runs.
    """

    outputs: Sequence[str]
    versions: dict[str, str]

    @abstractmethod
    def __init__(self, path: Path) -> None:
        """Load a file.

        Raises:
            NotRunnable: the engine is not installed.
        """

    @abstractmethod
    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Sequence[NDArray[np.float32]]:
        """The outputs of a batch."""


class WorkerRuntime(ProcessRuntime):
    """A `Session` in a child process.

    Attributes:
        session: the class of the session; the child imports it by name.
    """

    session: type[Session]

    def _command(self, path: Path) -> tuple[list[str], None]:
        names = [self.session.__module__, self.session.__qualname__]
        return [sys.executable, "-m", "lengthwise.export.runtimes.worker", *names, str(path.resolve())], None


def read_graph(path: Path) -> onnx.GraphProto:
    """The graph in a file, without weights that are in a file of their own."""
    return onnx.load(path, load_external_data=False).graph


def operators(graph: onnx.GraphProto) -> set[str]:
    """The names of the operators in a graph."""
    return {node.op_type for node in graph.node}


def refuse_hard_gates(engine: str, graph: onnx.GraphProto) -> None:
    """Refuse a graph whose LSTM or GRU has other gates than a sigmoid, for an engine that takes them for one.

    Raises:
        NotRunnable: it has.
    """
    if any(attribute.name == "activations" for node in graph.node for attribute in node.attribute):
        raise NotRunnable(f"{engine} does not read the `activations` of an LSTM or GRU, and so no hard gates")


def serve(session: Callable[[Path], Session], path: Path, requests: BinaryIO, answers: BinaryIO) -> None:
    """Load a file, then answer requests until there are no more."""

    def answer(content: bytes) -> None:
        answers.write(len(content).to_bytes(4, "little") + content)
        answers.flush()

    try:
        opened = session(path)
    except NotRunnable as reason:
        return answer(encode_answer({"not_runnable": str(reason)}))
    except Exception as error:  # engines raise their own types
        return answer(encode_answer({"error": _message(error)}))
    answer(encode_answer({"outputs": list(opened.outputs), "versions": opened.versions}))
    while size := requests.read(4):
        try:
            outputs = opened.run(*decode_request(requests.read(int.from_bytes(size, "little"))))
            answer(encode_answer({}, [np.asarray(output) for output in outputs]))
        except Exception as error:
            answer(encode_answer({"error": _message(error)}))


def _message(error: Exception) -> str:
    return str(error) or type(error).__name__


def serve_pipes(session: Callable[[Path], Session], path: Path) -> None:
    """Serve on standard input and standard output."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what an engine prints must not get among the answers
    serve(session, path, sys.stdin.buffer, answers)


if __name__ == "__main__":
    module, name, model = sys.argv[1:]
    serve_pipes(getattr(importlib.import_module(module), name), Path(model))
