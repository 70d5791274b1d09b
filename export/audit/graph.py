"""What can be read off an ONNX graph without running it: which values depend on what.

Each value is marked with the sources that it is computed from:

- MASK and IDS: the attention mask and the ids, before any embedding is looked up;
- CONTENT: embeddings of the ids, and everything computed from them;
- ROWS and COLUMNS: the numbers of rows and columns of the batch, taken from a shape.

A shape has no content. Weights are not read, only small constants, so external data need not be there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lengthwise.errors import AuditError
from lengthwise.export.audit.answers import Precision
from lengthwise.export.audit.claims import Side

IDS, MASK, CONTENT, ROWS, COLUMNS = "ids", "mask", "content", "rows", "columns"
# Operators that work value by value, or only move values.
_ELEMENTWISE = (
    "Add Sub Mul Div Where Cast Reshape Unsqueeze Squeeze Expand Identity Max Min Transpose Clip Neg Pow Sqrt Not And"
    " Or Equal Greater Less GreaterOrEqual LessOrEqual Flatten Slice Tile"
    " QuantizeLinear DequantizeLinear"
)
ELEMENTWISE = frozenset(_ELEMENTWISE.split())
_EMBED_LAYERS = ("EmbedLayerNormalization", "QEmbedLayerNormalization")
_LOOKUPS = ("Gather", "GatherBlockQuantized", *_EMBED_LAYERS)
_SMALL = 4096  # values of constants that are read
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_QUANTIZED = (
    "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "ConvInteger",
    "QLinearMatMul",
    "QLinearConv",
    "QAttention",
    "QGemm",
    "QuantizeLinear",
)


class GraphView:
    """An ONNX graph and its flow of data.

    Attributes:
        model: the graph; weights in files of their own are not loaded.
        roles: IDS or MASK by the name of an input.
        side: on which its clients pad.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        roles: Mapping[str, str] | None = None,
        side: Side = "right",
        output: str | None = None,
    ) -> None:
        """Look at a graph.

        Args:
            roles: IDS or MASK by the name of an input.
            side: on which its clients pad.
            output: the output that is looked at, and nothing that it is not computed from; all where it is left out.
        """
        self.model, self.graph, self.side = model, model.graph, side
        self.roles = dict(roles or {})
        self._initializers = {each.name: each for each in self.graph.initializer}
        self._nodes = list(self.graph.node)
        self.maker = {each: node for node in self._nodes for each in node.output if each}
        if output is not None:
            self._nodes = self._nodes_of(output)
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self._nodes:
            for name in _inputs(node):
                self.readers[name].append(node)

    def nodes(self, *kinds: str) -> list[onnx.NodeProto]:
        """The nodes of these kinds, those in branches and loops too."""
        return [node for node in _all_nodes(self._nodes) if node.op_type in kinds]

    def _nodes_of(self, output: str) -> list[onnx.NodeProto]:
        """The nodes that an output is computed from, in the order of the graph."""
        needed, waiting = set[int](), [output]
        while waiting:
            node = self.maker.get(waiting.pop())
            if node is not None and id(node) not in needed:
                needed.add(id(node))
                waiting += _inputs(node)
        return [node for node in self._nodes if id(node) in needed]

    @cached_property
    def sources(self) -> dict[str, frozenset[str]]:
        """The sources of each value."""
        found: dict[str, frozenset[str]] = {}
        for value in self.graph.input:
            role = self.roles.get(value.name)
            found[value.name] = frozenset({role}) if role else frozenset()
        for node in self._nodes:
            made = self._sources_of(node, found)
            found.update(dict.fromkeys(node.output, made))
            if node.op_type in _EMBED_LAYERS and len(node.output) > 1:
                found[node.output[1]] = made - {CONTENT}  # the index of the mask
        return found

    def _sources_of(self, node: onnx.NodeProto, found: Mapping[str, frozenset[str]]) -> frozenset[str]:
        if node.op_type in ("Shape", "Size"):
            return self._of_shape(node)
        joined = frozenset[str]().union(*(found.get(name, frozenset()) for name in _inputs(node)))
        if node.op_type in _LOOKUPS and self.is_table(node):
            return joined | {CONTENT}
        if node.op_type in ("Gather", "Slice") and found.get(node.input[0]) == {ROWS, COLUMNS}:
            return self._part_of_shape(node, joined)
        return joined

    def _of_shape(self, node: onnx.NodeProto) -> frozenset[str]:
        """Of a shape's parts; the first axis is taken for the rows and the second for the columns."""
        start, end = attribute(node, "start", 0), attribute(node, "end", None)
        if end is not None and end - start == 1 and start in (0, 1):
            return frozenset({(ROWS, COLUMNS)[start]})
        return frozenset({ROWS, COLUMNS})

    def _part_of_shape(self, node: onnx.NodeProto, joined: frozenset[str]) -> frozenset[str]:
        place = self.constant(node.input[1])
        if place is None or place.size != 1:
            return joined
        number = int(place.reshape(-1)[0])
        return frozenset({(ROWS, COLUMNS)[number]}) if number in (0, 1) else frozenset()

    def is_table(self, node: onnx.NodeProto) -> bool:
        """Whether a node looks rows of a constant table of floats up."""
        if node.op_type != "Gather":
            return True
        name = node.input[0]
        while name in self.maker and self.maker[name].op_type in ("DequantizeLinear", "Cast", "Identity", "Mul"):
            name = self.maker[name].input[0]
        table = self._initializers.get(name)
        return table is not None and len(table.dims) == 2 and table.dims[1] > 1

    def depends_on(self, name: str, *sources: str) -> bool:
        """Whether a value is computed from one of these sources."""
        return bool(self.sources.get(name, frozenset()) & set(sources))

    def has_content(self, node: onnx.NodeProto) -> bool:
        """Whether a node reads anything that is computed from embeddings."""
        return any(self.depends_on(name, CONTENT) for name in node.input)

    def is_mask(self, name: str) -> bool:
        """Whether a value says where the padding is: of the mask, or of the ids where there is no mask."""
        sources = self.sources.get(name, frozenset())
        has_mask = MASK in self.roles.values()
        return CONTENT not in sources and (MASK in sources if has_mask else IDS in sources)

    def chain(self, name: str) -> Iterator[onnx.NodeProto]:
        """The nodes that make a value, back to the last ones that are not elementwise."""
        seen, waiting = set(), [name]
        while waiting:
            node = self.maker.get(waiting.pop())
            if node is None or id(node) in seen:
                continue
            seen.add(id(node))
            yield node
            if node.op_type in ELEMENTWISE:
                waiting += [each for each in node.input if self.depends_on(each, CONTENT)]

    def is_masked(self, name: str) -> bool:
        """Whether a value, or what it is made of value by value, is combined with a mask."""
        return any(
            node.op_type in ELEMENTWISE and any(self.is_mask(each) for each in node.input) for node in self.chain(name)
        )

    def constant(self, name: str) -> NDArray[Any] | None:
        """A small constant; None of anything else."""
        initializer = self._initializers.get(name)
        if initializer is None:
            node = self.maker.get(name)
            return None if node is None else _value_of(node)
        if int(np.prod(initializer.dims, dtype=np.int64)) > _SMALL or initializer.data_location == TensorProto.EXTERNAL:
            return None
        return numpy_helper.to_array(initializer)

    @cached_property
    def _ranks(self) -> dict[str, int]:
        """The number of axes of values, as far as ONNX's shape inference finds it; weights are left out of it."""
        light = onnx.ModelProto()
        light.CopyFrom(onnx.ModelProto(ir_version=self.model.ir_version, opset_import=self.model.opset_import))
        light.graph.name = "ranks"
        light.graph.node.extend(self.graph.node)
        light.graph.input.extend(self.graph.input)
        light.graph.output.extend(self.graph.output)
        for each in self.graph.initializer:
            if self.constant(each.name) is not None:
                light.graph.initializer.append(each)
            else:
                light.graph.input.append(helper.make_tensor_value_info(each.name, each.data_type, each.dims))
        try:
            graph = onnx.shape_inference.infer_shapes(light).graph
        except Exception:  # of operators that onnx does not know, or of a damaged graph
            graph = light.graph
        values = (*graph.value_info, *graph.input, *graph.output)
        shaped = {each.name: each.type.tensor_type for each in values if each.type.tensor_type.HasField("shape")}
        return {name: len(kind.shape.dim) for name, kind in shaped.items()}

    def rank(self, name: str) -> int | None:
        """How many axes a value has; None where that cannot be told."""
        return self._ranks.get(name)

    def axes(self, node: onnx.NodeProto) -> list[int] | None:
        """The axes of a reduction; None for all, or where they are computed."""
        found = attribute(node, "axes", None)
        if found is not None:
            return list(found)
        value = self.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else None
        return None if value is None else value.reshape(-1).tolist()

    @cached_property
    def embedding(self) -> onnx.TensorProto | None:
        """The table that ids are looked up in; None where it cannot be told."""
        for node in self._nodes:
            if node.op_type == "Gather" and self.is_table(node) and self.depends_on(node.input[1], IDS):
                name = node.input[0]
                while name in self.maker:
                    name = self.maker[name].input[0]
                return self._initializers.get(name)
            if node.op_type in _EMBED_LAYERS:
                return self._initializers.get(node.input[2])
        return None

    @property
    def precision(self) -> Precision:
        """In which precision it computes: int8 if any activation is quantised, else that of most weights."""
        if self.nodes(*_QUANTIZED, "MatMulNBits"):
            return "int8"
        sizes: dict[int, int] = defaultdict(int)
        for each in self.graph.initializer:
            if each.data_type in _FLOATS:
                sizes[each.data_type] += int(np.prod(each.dims, dtype=np.int64))
        most = max(sizes, key=lambda kind: sizes[kind], default=TensorProto.FLOAT)
        return "float16" if most == TensorProto.FLOAT16 else "bfloat16" if most == TensorProto.BFLOAT16 else "float32"


def load_model(path: Path) -> onnx.ModelProto:
    """A graph without the weights that lie in other files.

    Raises:
        AuditError: it cannot be read.
    """
    try:
        return onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's own errors
        raise AuditError(f"{path}: not an ONNX graph that can be read ({_line(error)}); get the file again") from error


def external_files(model: onnx.ModelProto) -> dict[str, int]:
    """Bytes up to which the graph's weights lie in files beside it, by name of the file; weights may share them."""
    sizes: dict[str, int] = defaultdict(int)
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            end = int(entries.get("offset", 0) or 0) + int(entries.get("length", 0) or 0)
            name = entries.get("location", "")
            sizes[name] = max(sizes[name], end)
    return dict(sizes)


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute."""
    for each in node.attribute:
        if each.name == name:
            return onnx.helper.get_attribute_value(each)
    return default


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for each in node.attribute:
            if each.HasField("g"):
                yield from _all_nodes(each.g.node)


def _inputs(node: onnx.NodeProto) -> Iterable[str]:
    """What a node reads, with what its branches read of the graph around them."""
    yield from node.input
    for each in node.attribute:
        if each.HasField("g"):
            for inner in _all_nodes(each.g.node):
                yield from inner.input


def _value_of(node: onnx.NodeProto) -> NDArray[Any] | None:
    """What a Constant node holds."""
    if node.op_type != "Constant":
        return None
    for each in node.attribute:
        value = onnx.helper.get_attribute_value(each)
        if each.name == "value":
            return numpy_helper.to_array(value) if int(np.prod(value.dims, dtype=np.int64)) <= _SMALL else None
        if each.name.startswith("value_"):
            return np.array(value)
    return None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
