"""The process of a Python engine, and the runtime that speaks to it.

Engines written in C++ or Rust end their process on some inputs, and some read beyond an array where an id is out of
range. So each runs in a child process, and a batch that has no answer is refused before it is sent.
"""

from __future__ import annotations

import importlib
import os
import sys
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray

from lengthwise.export.runtimes.base import NotRunnable, Outputs
from lengthwise.export.runtimes.process import ProcessRuntime, decode_request, encode_answer

_VOCAB_SIZE = "lengthwise.vocab_size"


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
    _vocab_size: int | None = None

    def load(self, path: Path) -> None:
        super().load(path)
        self._vocab_size = _vocab_size(path)

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        refuse_bad_batch(input_ids, attention_mask, self._vocab_size)
        return super().run(input_ids, attention_mask)

    def _command(self, path: Path) -> tuple[list[str], None]:
        names = [self.session.__module__, self.session.__qualname__]
        return [sys.executable, "-m", "lengthwise.export.runtimes.worker", *names, str(path.resolve())], None


def refuse_bad_batch(
    input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], vocab_size: int | None = None
) -> None:
    """Refuse what engines crash on or answer with nonsense.

    Raises:
        ValueError: the batch has no rows or no columns, its arrays differ in shape, an id is not in the vocabulary, or
            a mask is not ones, then zeros.
    """
    if input_ids.ndim != 2 or 0 in input_ids.shape:
        raise ValueError(
            f"the shape of input_ids is {input_ids.shape}; a batch has rows and columns, at least one each"
        )
    if attention_mask.shape != input_ids.shape:
        raise ValueError(f"attention_mask is {attention_mask.shape}, but input_ids are {input_ids.shape}")
    if vocab_size is not None and not (input_ids.min() >= 0 and input_ids.max() < vocab_size):
        out = input_ids[(input_ids < 0) | (input_ids >= vocab_size)][0]
        raise ValueError(f"the id {out} is out of range; the vocabulary has ids from 0 to {vocab_size - 1}")
    right_padded = np.arange(input_ids.shape[1]) < attention_mask.sum(axis=1, keepdims=True)
    if not np.array_equal(attention_mask, right_padded):
        raise ValueError("a row of attention_mask is not ones, then zeros: padding stands on the right")


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


def _vocab_size(path: Path) -> int | None:
    """The number of embeddings, by the graph's metadata; None if it has none."""
    properties = onnx.load(path, load_external_data=False).metadata_props
    return next((int(item.value) for item in properties if item.key == _VOCAB_SIZE), None)


def serve(session: type[Session], path: Path, requests: BinaryIO, answers: BinaryIO) -> None:
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


def _main(module: str, name: str, path: str) -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what an engine prints must not get among the answers
    serve(getattr(importlib.import_module(module), name), Path(path), sys.stdin.buffer, answers)


if __name__ == "__main__":
    _main(*sys.argv[1:])
