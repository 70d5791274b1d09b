"""What an ONNX file holds: a graph, its constants, also those that nodes make, and which node makes each value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lengthwise.errors import CheckpointError

SUFFIX = ".onnx"
_FOLDED = ("Concat", "Slice", "Unsqueeze", "Squeeze", "Transpose", "Reshape", "Identity", "Cast", "Constant", "Split")


class OnnxGraph:
    """A graph, its constants, and the nodes that make and read each value.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        """Read a graph.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        import onnx
        from onnx import numpy_helper

        self.path = path
        try:
            self.model = onnx.load(path)
            self.graph = self.model.graph
            self._constants = {each.name: numpy_helper.to_array(each) for each in self.graph.initializer}
        except Exception as error:  # protobuf's own errors, and those of files of weights beside it
            raise CheckpointError(
                f"{path}: not an ONNX graph that can be read ({error}); get the file again"
            ) from error
        self._made = {output: node for node in self.graph.node for output in node.output}

    def nodes(self, *kinds: str) -> list[Any]:
        """The nodes of these kinds, in the order of the graph."""
        return [node for node in self.graph.node if node.op_type in kinds]

    def constant(self, name: str) -> NDArray[Any] | None:
        """A constant value, also one that nodes make of constants; None of any other."""
        if name in self._constants or name not in self._made:
            return self._constants.get(name)
        node = self._made[name]
        if node.op_type not in _FOLDED:
            return None
        inputs = [self.constant(each) if each else None for each in node.input]
        if any(value is None and each for value, each in zip(inputs, node.input, strict=True)):
            return None
        from onnx.reference import ReferenceEvaluator

        feeds = {each: value for each, value in zip(node.input, inputs, strict=True) if value is not None}
        opset = {each.domain: each.version for each in self.model.opset_import}
        results: list[Any] = list(ReferenceEvaluator(node, opsets=opset).run(None, feeds))
        self._constants.update(zip(node.output, results, strict=True))
        return self._constants[name]

    def weight(self, name: str, node: Any) -> Tensor | None:
        """A weight of a node; None where it has none.

        Raises:
            CheckpointError: it is not constant.
        """
        if not name:
            return None
        value = self.constant(name)
        if value is None:
            raise CheckpointError(f"{self.path}: the weight {name} of the node {node.name or node.op_type} is computed")
        return torch.from_numpy(np.array(value, np.float32))

    def maker(self, name: str) -> Any:
        """The node that makes a value; None of inputs and constants."""
        return self._made.get(name)


def read_attributes(node: Any) -> dict[str, Any]:
    """The attributes of a node by name."""
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
