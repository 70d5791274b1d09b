"""The native ONNX graph as a LiteRT (TensorFlow Lite) model: `.tflite`, for phones and microcontrollers.

- It is translated operator by operator, with loops for LSTM and GRU (`graphs.litert_rnn`), because litert-torch 0.10
  unrolls the steps: it has no dynamic length. Batch and sequence are dynamic here; a client resizes the inputs.
- Whole numbers are int32 inside, as LiteRT's kernels prefer; the inputs are int64 as in every other graph.
- The operators are those that the exporter makes of a `PackedEncoder`. Another one is refused by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from lengthwise.errors import ArtifactError
from lengthwise.export.graphs.litert_rnn import Recurrent, add_recurrent
from lengthwise.export.graphs.tflite_file import ModelFile

_TYPES = {1: "float32", 6: "int32", 7: "int32", 9: "bool"}  # by ONNX's element type
_BINARY = {
    "Add": "ADD", "Sub": "SUB", "Mul": "MUL", "Div": "DIV", "Greater": "GREATER", "GreaterOrEqual": "GREATER_EQUAL",
    "Less": "LESS", "And": "LOGICAL_AND", "Max": "MAXIMUM", "Min": "MINIMUM",
}  # fmt: skip
_UNARY = {"Tanh": "TANH", "Sigmoid": "LOGISTIC", "Relu": "RELU", "Elu": "ELU", "Not": "LOGICAL_NOT"}
_OPTIONS = {
    "ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions", "DIV": "DivOptions", "GREATER": "GreaterOptions",
    "GREATER_EQUAL": "GreaterEqualOptions", "LESS": "LessOptions", "LOGICAL_AND": "LogicalAndOptions",
    "MAXIMUM": "MaximumMinimumOptions", "MINIMUM": "MaximumMinimumOptions", "LOGICAL_NOT": "LogicalNotOptions",
}  # fmt: skip


def save_litert(native: onnx.ModelProto, target: Path) -> None:
    """Write the native graph as `.tflite`: the same inputs and outputs, by name in the signature `serving_default`.

    Raises:
        ArtifactError: ai-edge-litert is not installed, or the graph has an operator that is not translated.
    """
    _Translation(native).save(target)


class _Translation:
    """ONNX values to tensors, node by node."""

    def __init__(self, native: onnx.ModelProto) -> None:
        self._file = ModelFile()
        self._graph = self._file.subgraph("main")
        self._nodes = list(native.graph.node)
        self._constants = {item.name: numpy_helper.to_array(item) for item in native.graph.initializer}
        typed = onnx.shape_inference.infer_shapes(native, strict_mode=True).graph
        self._types = {value.name: value.type.tensor_type for value in (*typed.value_info, *typed.input, *typed.output)}
        self._tensors: dict[str, int] = {}
        self._inputs = {value.name: self._graph.tensor("int64", (-1, -1), value.name) for value in native.graph.input}
        self._outputs = [value.name for value in native.graph.output]
        for name, tensor in self._inputs.items():
            self._tensors[name] = self._graph.op("CAST", [tensor], "int32", (-1, -1), "CastOptions")

    def save(self, target: Path) -> None:
        """Translate every node, and write the file."""
        done: set[str] = set()
        for node in self._nodes:
            if node.op_type == "Div" and self._is_of_gelu(node):
                done |= self._gelu(node)
            elif node.output[0] not in done:
                self._translate(node)
        self._file.save(target, self._inputs, {name: self._tensors[name] for name in self._outputs})

    def _translate(self, node: onnx.NodeProto) -> None:
        op = node.op_type
        if op in _BINARY:
            self._emit(node, _BINARY[op], [self._tensor(name) for name in node.input])
        elif op in _UNARY:
            self._emit(node, _UNARY[op], [self._tensor(node.input[0])])
        elif op in _TRANSLATORS:
            _TRANSLATORS[op](self, node, _attributes(node))
        else:
            raise ArtifactError(
                f"the graph litert has no translation of the ONNX operator {op}; leave it out of export.variants"
            )

    def _emit(self, node: onnx.NodeProto, name: str, inputs: list[int], options: str = "", **settings: Any) -> None:
        """Append an operator for a node's first output."""
        kind, shape = self._spec(node.output[0])
        options = options or _OPTIONS.get(name, "")
        self._tensors[node.output[0]] = self._graph.op(name, inputs, kind, shape, options, **settings)

    def _spec(self, name: str) -> tuple[str, list[int]]:
        """Type and shape of a value, with -1 for dynamic axes."""
        if name in self._constants:
            values = _narrowed(self._constants[name])
            return values.dtype.name, list(values.shape)
        found = self._types[name]
        return _TYPES[found.elem_type], [
            each.dim_value if each.HasField("dim_value") else -1 for each in found.shape.dim
        ]

    def _rank(self, name: str) -> int:
        return len(self._spec(name)[1])

    def _tensor(self, name: str) -> int:
        if name not in self._tensors and name in self._constants:
            self._tensors[name] = self._graph.constant(_narrowed(self._constants[name]))
        return self._tensors[name]

    def _constant(self, node: onnx.NodeProto, number: int) -> NDArray[Any]:
        """The values of an input that has to be constant."""
        if node.input[number] not in self._constants:
            raise ArtifactError(f"the graph litert needs the input {number} of {node.op_type} as a constant")
        return self._constants[node.input[number]]

    def _producer(self, name: str) -> onnx.NodeProto | None:
        return next((node for node in self._nodes if name in node.output), None)

    def _consumers(self, name: str) -> list[onnx.NodeProto]:
        return [node for node in self._nodes if name in node.input]

    # The exact GELU comes as x (1 + Erf(x / sqrt 2)) / 2; LiteRT has it as one operator, and no Erf.

    def _is_of_gelu(self, division: onnx.NodeProto) -> bool:
        return [node.op_type for node in self._consumers(division.output[0])] == ["Erf"]

    def _gelu(self, division: onnx.NodeProto) -> set[str]:
        """Translate the nodes at once; their outputs."""
        chain = [division]
        for expected in ("Erf", "Add", "Mul", "Mul"):
            following = self._consumers(chain[-1].output[0])
            if [node.op_type for node in following] != [expected]:
                raise ArtifactError("the graph litert has no translation of the ONNX operator Erf outside a GELU")
            chain += following
        if division.input[0] not in chain[-1].input:
            raise ArtifactError("the graph litert has no translation of the ONNX operator Erf outside a GELU")
        self._emit(chain[-1], "GELU", [self._tensor(division.input[0])], "GeluOptions", approximate=False)
        return {node.output[0] for node in chain}

    def _clip(self, node: onnx.NodeProto, _: Mapping[str, Any]) -> None:
        kind, shape = self._spec(node.output[0])
        value = self._tensor(node.input[0])
        for name, bound in zip(("MAXIMUM", "MINIMUM"), node.input[1:], strict=False):
            if bound:
                value = self._graph.op(name, [value, self._tensor(bound)], kind, shape, _OPTIONS[name])
        self._tensors[node.output[0]] = value

    def _reduce(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        axes = self._graph.ints(*self._constant(node, 1).tolist())
        value, keep = self._tensor(node.input[0]), bool(attributes.get("keepdims", 1))
        if node.op_type != "ReduceL2":
            name = "SUM" if node.op_type == "ReduceSum" else "REDUCE_MAX"
            self._emit(node, name, [value, axes], "ReducerOptions", keepDims=keep)
            return
        squares = self._graph.op("MUL", [value, value], *self._spec(node.input[0]), "MulOptions")
        total = self._graph.op("SUM", [squares, axes], *self._spec(node.output[0]), "ReducerOptions", keepDims=keep)
        self._emit(node, "SQRT", [total])

    def _transpose(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        order = self._graph.ints(*attributes["perm"])
        self._emit(node, "TRANSPOSE", [self._tensor(node.input[0]), order], "TransposeOptions")

    def _gather(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        inputs = [self._tensor(name) for name in node.input]
        self._emit(node, "GATHER", inputs, "GatherOptions", axis=attributes.get("axis", 0))

    def _gather_elements(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        """Along axis 1: of [batch, width], or of [batch, sequence, width] at the same steps for the whole width."""
        places, rank = node.input[1], self._rank(node.input[0])
        if rank == 3:
            expanded = self._producer(places)
            if expanded is None or expanded.op_type != "Expand":
                raise ArtifactError("the graph litert has GatherElements of three axes at expanded places alone")
            places = expanded.input[0]
        indices = self._tensor(places)
        if rank == 3:
            indices = self._graph.op("SQUEEZE", [indices], "int32", (-1, -1), "SqueezeOptions", squeezeDims=[2])
        settings = {"axis": attributes["axis"], "batchDims": 1}
        self._emit(node, "GATHER", [self._tensor(node.input[0]), indices], "GatherOptions", **settings)

    def _cast(self, node: onnx.NodeProto, _: Mapping[str, Any]) -> None:
        if self._spec(node.input[0])[0] == self._spec(node.output[0])[0]:
            self._tensors[node.output[0]] = self._tensor(node.input[0])
        else:
            self._emit(node, "CAST", [self._tensor(node.input[0])], "CastOptions")

    def _unsqueeze(self, node: onnx.NodeProto, _: Mapping[str, Any]) -> None:
        (kind, shape), rank = self._spec(node.input[0]), self._rank(node.output[0])
        value = self._tensor(node.input[0])
        for axis in sorted(int(axis) % rank for axis in self._constant(node, 1)):
            shape = [*shape[:axis], 1, *shape[axis:]]
            value = self._graph.op("EXPAND_DIMS", [value, self._graph.scalar(axis)], kind, shape, "ExpandDimsOptions")
        self._tensors[node.output[0]] = value

    def _squeeze(self, node: onnx.NodeProto, _: Mapping[str, Any]) -> None:
        rank = self._rank(node.input[0])
        axes = [int(axis) % rank for axis in self._constant(node, 1)] if len(node.input) > 1 else [0]
        self._emit(node, "SQUEEZE", [self._tensor(node.input[0])], "SqueezeOptions", squeezeDims=axes)

    def _where(self, node: onnx.NodeProto, _: Mapping[str, Any]) -> None:
        self._emit(node, "SELECT_V2", [self._tensor(name) for name in node.input], "SelectV2Options")

    def _concat(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        inputs = [self._tensor(name) for name in node.input]
        self._emit(node, "CONCATENATION", inputs, "ConcatenationOptions", axis=attributes["axis"])

    def _reshape(self, node: onnx.NodeProto, _: Mapping[str, Any]) -> None:
        value, wanted = self._tensor(node.input[0]), self._constant(node, 1).tolist()
        sizes = self._graph.ints(*wanted)
        if 0 in wanted:  # the size of that axis before
            shape = self._graph.op("SHAPE", [value], "int32", (-1,), "ShapeOptions", outType=2)
            parts = [
                self._graph.op("GATHER", [shape, self._graph.scalar(axis)], "int32", (), "GatherOptions")
                if size == 0
                else self._graph.scalar(size)
                for axis, size in enumerate(wanted)
            ]
            sizes = self._graph.op("PACK", parts, "int32", (len(parts),), "PackOptions", valuesCount=len(parts))
        self._emit(node, "RESHAPE", [value, sizes], "ReshapeOptions")

    def _linear(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        weight = self._constant(node, 1)
        if not attributes.get("transB"):
            weight = np.ascontiguousarray(weight.T)
        bias = self._tensor(node.input[2]) if len(node.input) > 2 else -1
        inputs = [self._tensor(node.input[0]), self._graph.constant(weight), bias]
        self._emit(node, "FULLY_CONNECTED", inputs, "FullyConnectedOptions", keepNumDims=True)

    def _softmax(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        if attributes.get("axis", -1) not in (-1, self._rank(node.input[0]) - 1):
            raise ArtifactError("the graph litert has Softmax over the last axis alone")
        self._emit(node, "SOFTMAX", [self._tensor(node.input[0])], "SoftmaxOptions", beta=1.0)

    def _leaky_relu(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        self._emit(node, "LEAKY_RELU", [self._tensor(node.input[0])], "LeakyReluOptions", alpha=attributes["alpha"])

    def _expand(self, node: onnx.NodeProto, _: Mapping[str, Any]) -> None:
        """By a product with ones, which broadcasts both ways as Expand does."""
        kind = self._spec(node.output[0])[0]
        one = self._graph.scalar(1.0) if kind == "float32" else self._graph.scalar(1)
        shape = [-1] * self._spec(node.input[1])[1][0]
        ones = self._graph.op("FILL", [self._tensor(node.input[1]), one], kind, shape, "FillOptions")
        self._emit(node, "MUL", [self._tensor(node.input[0]), ones])

    def _shape(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        rank = self._rank(node.input[0])
        start, end = attributes.get("start", 0), attributes.get("end", rank)
        sizes = self._graph.op("SHAPE", [self._tensor(node.input[0])], "int32", (rank,), "ShapeOptions", outType=2)
        inputs = [sizes, self._graph.ints(start), self._graph.ints(end), self._graph.ints(1)]
        self._emit(node, "STRIDED_SLICE", inputs, "StridedSliceOptions")

    def _range(self, node: onnx.NodeProto, _: Mapping[str, Any]) -> None:
        self._emit(node, "RANGE", [self._tensor(name) for name in node.input], "RangeOptions")

    def _recurrent(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        weight, recurrence, bias = (self._constant(node, number) for number in (1, 2, 3))
        hard = "activations" in attributes
        slope = float(attributes["activation_alpha"][0]) if hard else None
        layer = Recurrent(node.op_type, weight, recurrence, bias, slope)
        found = add_recurrent(self._graph, layer, self._tensor(node.input[0]), self._tensor(node.input[4]))
        self._tensors |= dict(zip(node.output, found, strict=False))


_TRANSLATORS: Mapping[str, Callable[[_Translation, onnx.NodeProto, Mapping[str, Any]], None]] = MappingProxyType(
    {
        "Clip": _Translation._clip,
        "ReduceSum": _Translation._reduce,
        "ReduceMax": _Translation._reduce,
        "ReduceL2": _Translation._reduce,
        "Transpose": _Translation._transpose,
        "Gather": _Translation._gather,
        "GatherElements": _Translation._gather_elements,
        "Cast": _Translation._cast,
        "Unsqueeze": _Translation._unsqueeze,
        "Squeeze": _Translation._squeeze,
        "Where": _Translation._where,
        "Concat": _Translation._concat,
        "Reshape": _Translation._reshape,
        "MatMul": _Translation._linear,
        "Gemm": _Translation._linear,
        "Softmax": _Translation._softmax,
        "LeakyRelu": _Translation._leaky_relu,
        "Expand": _Translation._expand,
        "Shape": _Translation._shape,
        "Range": _Translation._range,
        "LSTM": _Translation._recurrent,
        "GRU": _Translation._recurrent,
    }
)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _narrowed(values: NDArray[Any]) -> NDArray[Any]:
    """int64 as int32, with what does not fit cut to the ends; others as they are."""
    if values.dtype != np.int64:
        return values
    ends = np.iinfo(np.int32)
    return values.clip(ends.min, ends.max).astype(np.int32)
