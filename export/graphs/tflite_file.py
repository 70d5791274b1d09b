"""Writes a LiteRT (TensorFlow Lite) model: subgraphs of tensors and operators, as one flatbuffer.

Tensors are float32, int32, int64 or bool; an axis of -1 is dynamic. The schema is that of the package ai-edge-litert
(https://ai.google.dev/edge/litert), whose names are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.errors import ArtifactError

_TYPES = {"float32": 0, "int32": 2, "int64": 4, "bool": 6}
_SCHEMA_VERSION = 3
_ALIGNMENT = 16  # bytes, of every constant
_CONSTANTS_SHARED = 64  # elements up to which equal constants of a subgraph are one


def import_schema() -> Any:
    """The module with the classes of the format.

    Raises:
        ArtifactError: ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ModuleNotFoundError as error:
        raise ArtifactError(
            "the graph litert is written with the package ai-edge-litert, which is not installed; install"
            " lengthwise[litert], or leave it out of export.variants"
        ) from error
    return schema_py_generated


class ModelFile:
    """A model in the making.

    Attributes:
        schema: see `import_schema`.
    """

    def __init__(self) -> None:
        self.schema = import_schema()
        self._model = self.schema.ModelT()
        self._model.version, self._model.description = _SCHEMA_VERSION, "lengthwise"
        self._model.subgraphs, self._model.operatorCodes, self._model.buffers = [], [], [self.schema.BufferT()]
        self._codes: dict[int, int] = {}

    def subgraph(self, name: str) -> Subgraph:
        """A new subgraph; the first is the one that is run."""
        graph = self.schema.SubGraphT()
        graph.name, graph.tensors, graph.operators, graph.inputs, graph.outputs = name, [], [], [], []
        self._model.subgraphs.append(graph)
        return Subgraph(self, graph, len(self._model.subgraphs) - 1)

    def operator_code(self, name: str) -> int:
        """The index of a builtin operator."""
        builtin: int = getattr(self.schema.BuiltinOperator, name)
        if builtin not in self._codes:
            code = self.schema.OperatorCodeT()
            code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 1
            self._codes[builtin] = len(self._model.operatorCodes)
            self._model.operatorCodes.append(code)
        return self._codes[builtin]

    def buffer(self, values: NDArray[Any]) -> int:
        """The index of a new buffer with the bytes of an array."""
        self._model.buffers.append(_aligned_buffer(self.schema, np.ascontiguousarray(values).tobytes()))
        return len(self._model.buffers) - 1

    def save(self, path: Path, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> None:
        """Write the file, with names for the first subgraph's inputs and outputs."""
        import flatbuffers

        signature = self.schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs = [self._named(name, index) for name, index in inputs.items()]
        signature.outputs = [self._named(name, index) for name, index in outputs.items()]
        self._model.signatureDefs = [signature]
        self._model.subgraphs[0].inputs = list(inputs.values())
        self._model.subgraphs[0].outputs = list(outputs.values())
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))

    def _named(self, name: str, index: int) -> Any:
        entry = self.schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        return entry


class Subgraph:
    """Tensors by their index, and operators in their order.

    Attributes:
        index: of the subgraph in the model.
    """

    def __init__(self, model: ModelFile, graph: Any, index: int) -> None:
        self.model, self.index, self._graph = model, index, graph
        self._shared: dict[tuple[Any, ...], int] = {}

    def tensor(self, kind: str, shape: Sequence[int], name: str = "", buffer: int = 0) -> int:
        """A new tensor of a type such as float32; -1 is a dynamic axis."""
        made = self.model.schema.TensorT()
        index = len(self._graph.tensors)
        made.type, made.buffer, made.name = _TYPES[kind], buffer, name or f"t{index}"
        made.shape, made.hasRank = [1 if size < 0 else size for size in shape], True
        if any(size < 0 for size in shape):
            made.shapeSignature = list(shape)
        self._graph.tensors.append(made)
        return index

    def constant(self, values: NDArray[Any]) -> int:
        """A tensor with these values."""
        key = (values.dtype.name, values.shape, values.tobytes()) if values.size <= _CONSTANTS_SHARED else None
        if key is not None and key in self._shared:
            return self._shared[key]
        index = self.tensor(values.dtype.name, values.shape, buffer=self.model.buffer(values))
        if key is not None:
            self._shared[key] = index
        return index

    def ints(self, *values: int) -> int:
        """A constant int32[values]."""
        return self.constant(np.array(values, np.int32))

    def scalar(self, value: int | float) -> int:
        """A constant without axes: int32, or float32 of a float."""
        return self.constant(np.array(value, np.float32 if isinstance(value, float) else np.int32))

    def op(
        self, name: str, inputs: Sequence[int], kind: str, shape: Sequence[int], options: str = "", **settings: Any
    ) -> int:
        """Append an operator with one output, of this type and shape."""
        return self.op_outputs(name, inputs, [(kind, shape)], options, **settings)[0]

    def op_outputs(
        self,
        name: str,
        inputs: Sequence[int],
        outputs: Sequence[tuple[str, Sequence[int]]],
        options: str = "",
        **settings: Any,
    ) -> list[int]:
        """Append a builtin operator.

        Args:
            name: such as ADD.
            inputs: its tensors; -1 for one that is left out.
            outputs: types and shapes.
            options: the name of its table of options, such as AddOptions.
            settings: the table's fields that are not at their defaults.
        """
        made = self.model.schema.OperatorT()
        made.opcodeIndex, made.inputs = self.model.operator_code(name), list(inputs)
        made.outputs = [self.tensor(kind, shape) for kind, shape in outputs]
        if options:
            made.builtinOptionsType = getattr(self.model.schema.BuiltinOptions, options)
            made.builtinOptions = getattr(self.model.schema, f"{options}T")(**settings)
        self._graph.operators.append(made)
        return list(made.outputs)

    def bind(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Set the inputs and outputs of a subgraph that an operator calls."""
        self._graph.inputs, self._graph.outputs = list(inputs), list(outputs)


def _aligned_buffer(schema: Any, data: bytes) -> Any:
    """A buffer whose bytes begin at a multiple of 16, as the format requires; the schema's own class aligns nothing."""

    class AlignedBuffer(schema.BufferT):
        def Pack(self, builder: Any) -> Any:
            builder.StartVector(1, len(data), _ALIGNMENT)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data
            vector = builder.EndVector()
            schema.BufferStart(builder)
            schema.BufferAddData(builder, vector)
            return schema.BufferEnd(builder)

    return AlignedBuffer()
