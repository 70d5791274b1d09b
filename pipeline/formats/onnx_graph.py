"""Graphs of ONNX with an embedding (Gather) and LSTM or GRU nodes, whoever exported them.

- Weights are read off the nodes: gates are in ONNX's order, i, o, f, c of an LSTM and z, r, h of a GRU.
- How states are pooled is written in a hundred ways. So it is not read but found: the graph is run in onnxruntime on a
  few rows of ids, and the one pooling whose encoder gives the same outputs is taken. If none does, the graph computes
  something else, and if several do, the outputs do not tell; both are said. The comparison proves the import.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lengthwise.config import TokenizationSettings
from lengthwise.encoder.model import PackedEncoder
from lengthwise.encoder_config import PaddingSettings
from lengthwise.errors import CheckpointError, ConfigError
from lengthwise.formats.extra_units import note_on_units, with_equal_sizes
from lengthwise.formats.mapping import Mapping
from lengthwise.formats.parts import Direction, Linear, Parts, build_model
from lengthwise.formats.state_dict import classifier_labels
from lengthwise.formats.vocabulary import import_tokenizer
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.util.settings import parse_settings

SUFFIX = ".onnx"
_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}  # places of PyTorch's gates among ONNX's
_DEFAULT_ACTIVATIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}
_FOLDED = ("Concat", "Slice", "Unsqueeze", "Squeeze", "Transpose", "Reshape", "Identity", "Cast", "Constant", "Split")
_ACTIVATIONS = {"Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid", "Softmax": "softmax", "Gelu": "gelu"}
_POOLINGS = ("last", "end", "mean", "max", "sum", "first")
_OWN = ("embedding", "rnn", "layers", "gates", "gate_activation", "attention", "dense", "normalize", "ignore")
_LENGTHS, _TOLERANCE = (1, 2, 3, 7, 12), 1e-5


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


def read_onnx(graph: OnnxGraph, mapping: Mapping, folder: Path) -> tuple[PackedEncoder, TextTokenizer, list[str]]:
    """An encoder that computes what a graph does, its tokenizer, and how that was compared.

    Args:
        mapping: says how texts become ids, and names the labels.
        folder: what the mapping's paths are relative to.

    Raises:
        CheckpointError: the graph has no recurrent nodes, or computes something else than the encoder can.
        ConfigError: the mapping lacks something, or onnxruntime is not installed.
    """
    given = [name for name in _OWN if getattr(mapping, name)]
    if given:
        raise ConfigError(f"{graph.path}: a graph has its own layers; leave {given[0]} out of the mapping")
    nodes, cell = _recurrent_nodes(graph)
    layers = [_directions(graph, node) for node in nodes]
    embedding = _embedding(graph, nodes[0], layers[0][0].weight_ih.shape[1])
    notes: list[str] = []
    tokenizer, padding, unknown = import_tokenizer(mapping.tokens, folder, None, len(embedding), notes)
    limit = mapping.tokens.max_length
    parts = Parts(
        embedding,
        layers,
        "last",
        cell,
        pad_token_id=padding,
        unk_token_id=unknown,
        tokenization=TokenizationSettings(max_length=limit, truncate=limit is not None),
    )
    found, difference, rows = _matching(graph, parts, _linears(graph, nodes[-1]), mapping, tokenizer)
    filled = with_equal_sizes(found)
    encoder = build_model(filled, tokenizer, str(graph.path))
    name = f"its output {graph.graph.output[0].name}" if len(graph.graph.output) > 1 else "the graph"
    notes.insert(0, f"pooling {found.pooling}: {name} gives the same on {rows} rows of ids, to {difference:.1e}")
    return encoder, tokenizer, notes + note_on_units(layers, filled)


def _recurrent_nodes(graph: OnnxGraph) -> tuple[list[Any], str]:
    """The recurrent nodes, and the kind of their cells."""
    nodes = graph.nodes("LSTM", "GRU")
    if not nodes or len({node.op_type for node in nodes}) > 1:
        others = sorted({node.op_type for node in graph.nodes("RNN", "Loop", "Scan", "DynamicQuantizeLSTM")})
        found = f"it has {', '.join(others)} nodes" if others else f"it has {len(nodes)} of them"
        raise CheckpointError(
            f"{graph.path}: not a graph of LSTM nodes, or of GRU nodes: {found}. A loop that computes an LSTM, and"
            " 8-bit nodes, cannot be imported; export the float model again"
        )
    return nodes, nodes[0].op_type.lower()


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _directions(graph: OnnxGraph, node: Any) -> list[Direction]:
    """The directions of a node, with PyTorch's gates."""
    attributes, kind = _attributes(node), node.op_type
    direction = attributes.get("direction", b"forward").decode()
    activations = [each.decode().lower() for each in attributes.get("activations", [])]
    inputs = [*node.input, *[""] * (8 - len(node.input))]
    problems = {
        "a reverse direction alone": direction == "reverse",
        "other activations": activations
        not in ([], _DEFAULT_ACTIVATIONS[kind] * (2 if direction == "bidirectional" else 1)),
        "clip": "clip" in attributes,
        "input_forget": bool(attributes.get("input_forget")),
        "peepholes": kind == "LSTM" and bool(inputs[7]),
        "linear_before_reset = 0": kind == "GRU" and not attributes.get("linear_before_reset"),
        "an initial state": any(not _is_zero(graph, name) for name in inputs[5:7] if name),
    }
    found = [name for name, applies in problems.items() if applies]
    if found:
        raise CheckpointError(
            f"{graph.path}: the node {node.name or kind} has {found[0]}, which the encoder does not compute"
        )
    kernel, recurrent, bias = (graph.weight(name, node) for name in inputs[1:4])
    if kernel is None or recurrent is None:
        raise CheckpointError(f"{graph.path}: the node {node.name or kind} has no weights")

    def ordered(values: Tensor) -> Tensor:
        chunks = values.chunk(len(_ORDER[kind]))
        return torch.cat([chunks[place] for place in _ORDER[kind]])

    directions = []
    for number in range(len(kernel)):
        of_inputs, of_states = [None, None] if bias is None else [ordered(half) for half in bias[number].chunk(2)]
        name = node.name or kind
        directions.append(Direction(ordered(kernel[number]), ordered(recurrent[number]), of_inputs, of_states, name))
    return directions


def _is_zero(graph: OnnxGraph, name: str) -> bool:
    """Whether a value is zeros, as far as that can be seen."""
    value = graph.constant(name)
    if value is not None:
        return not value.any()
    node = graph.maker(name)
    if node is None:
        return False
    if node.op_type == "ConstantOfShape":
        tensor = _attributes(node).get("value")
        from onnx import numpy_helper

        return tensor is None or not numpy_helper.to_array(tensor).any()
    return node.op_type in ("Expand", "Unsqueeze", "Squeeze", "Identity", "Slice", "Reshape", "Tile") and _is_zero(
        graph, node.input[0]
    )


def _embedding(graph: OnnxGraph, node: Any, inputs: int) -> Tensor:
    """The table that the first recurrent node's input is gathered from."""
    maker = graph.maker(node.input[0])
    for _ in range(20):
        if maker is None or maker.op_type == "Gather":
            break
        maker = graph.maker(maker.input[0])
    table = None if maker is None else graph.constant(maker.input[0])
    if table is None or table.ndim != 2 or table.shape[1] != inputs:
        raise CheckpointError(
            f"{graph.path}: the {inputs} inputs of its first recurrent node are not rows of a table (Gather); a graph"
            " that takes embeddings or one-hot vectors as its input cannot be imported"
        )
    return torch.from_numpy(np.array(table, np.float32))


def _linears(graph: OnnxGraph, last: Any) -> list[tuple[Linear, str]]:
    """Linear layers behind the last recurrent node, with the activation that follows each."""
    reached = set(last.output)
    layers: list[tuple[Linear, str]] = []
    for node in graph.graph.node:
        if node is last or not reached.intersection(node.input):
            continue
        reached.update(node.output)
        if node.op_type in ("Gemm", "MatMul"):
            weight, attributes = graph.constant(node.input[1]), _attributes(node)
            if weight is None or weight.ndim != 2:
                continue
            values = torch.from_numpy(np.array(weight, np.float32))
            bias = graph.weight(node.input[2], node) if node.op_type == "Gemm" and len(node.input) > 2 else None
            layers.append(
                (Linear(values if attributes.get("transB") else values.T, bias, node.name or node.op_type), "identity")
            )
        elif node.op_type == "Add" and layers and layers[-1][0].bias is None:
            added = [value for value in map(graph.constant, node.input) if value is not None and value.ndim == 1]
            if added:
                bias = torch.from_numpy(np.array(added[0], np.float32))
                layers[-1] = (layers[-1][0]._replace(bias=bias), "identity")
        elif node.op_type in _ACTIVATIONS and layers and layers[-1][1] == "identity":
            layers[-1] = (layers[-1][0], _ACTIVATIONS[node.op_type])
    return layers


def _matching(
    graph: OnnxGraph, parts: Parts, linears: Sequence[tuple[Linear, str]], mapping: Mapping, tokenizer: TextTokenizer
) -> tuple[Parts, float, int]:
    """The parts whose encoder gives what the graph gives, the largest difference, and on how many rows."""
    session = _Session(graph, len(parts.embedding))
    head = mapping.classifier
    last = linears[-1][1] if linears else "identity"
    if last == "softmax" and head is None:
        count = len(linears[-1][0].weight)
        raise ConfigError(
            f"{graph.path}: its output is {count} probabilities; name them: classifier: {{labels: [...]}}"
        )
    settings: dict[str, Any] = {}
    if session.length is not None and mapping.padding is None:
        raise ConfigError(
            f"{graph.path}: takes rows of {session.length} ids only, so padding is part of what it computes; set"
            f" padding: {{to: {session.length}, side: post}} in the mapping, or side: pre"
        )
    padding = None if mapping.padding is None else parse_settings(PaddingSettings, mapping.padding, "padding")
    if mapping.padding is not None:
        settings["padding"] = mapping.padding
    rows = session.rows(padding)
    outputs = [session.run(_padded(row, padding, parts.pad_token_id)) for row in rows]
    if len({output.size for output in outputs}) > 1:
        raise CheckpointError(
            f"{graph.path}: its first output {graph.graph.output[0].name} has more values for longer rows, so it is not"
            " pooled; export the graph up to the vector or the logits"
        )
    if max(np.abs(output - outputs[0]).max() for output in outputs) <= _TOLERANCE:
        raise CheckpointError(
            f"{graph.path}: gives the same for each of {len(rows)} rows of ids, so what it computes cannot be found; is"
            " it trained, and is its first output the one that is wanted?"
        )
    nearest, matching = (float("inf"), ""), list[tuple[float, Parts]]()
    for pooling, normalize in _candidates(parts, linears, mapping, outputs[0].size):
        chosen = replace(parts, pooling=pooling, settings=settings | ({"normalize": True} if normalize else {}))
        if head is not None and linears:
            labels = classifier_labels(head, linears[-1][0], None)
            activation = last if last in ("softmax", "sigmoid") else "identity"
            layers = [*linears[:-1], (linears[-1][0], "identity")]
            chosen = replace(chosen, head=layers, labels=labels, head_activation=activation)
        else:
            chosen = replace(chosen, dense=list(linears))
        encoder = build_model(with_equal_sizes(chosen), tokenizer, str(graph.path))
        difference = max(_difference(encoder, row, found) for row, found in zip(rows, outputs, strict=True))
        if difference <= _TOLERANCE:
            matching.append((difference, chosen))
        nearest = min(nearest, (difference, pooling))
    if len(matching) > 1:
        names = ", ".join(found.pooling for _, found in matching)
        raise ConfigError(
            f"{graph.path}: the poolings {names} all give what it gives on {len(rows)} rows of ids; set pooling to what"
            " the model does"
        )
    if matching:
        ((difference, chosen),) = matching
        return chosen, difference, len(rows)
    kinds = sorted({node.op_type for node in graph.graph.node})
    raise CheckpointError(
        f"{graph.path}: what it does with the states is none of {', '.join(_POOLINGS)}, nor of several of them side by"
        f" side (the nearest is {nearest[1]}, with a difference of {nearest[0]:.1e}); its nodes are {', '.join(kinds)}"
    )


def _candidates(
    parts: Parts, linears: Sequence[tuple[Linear, str]], mapping: Mapping, outputs: int
) -> Iterator[tuple[str, bool]]:
    """Poolings of the width that the next layer reads, each without and with normalization; of equal ones, the first.

    The end and the last state are equal in one direction, and so are mean and sum once they are normalized.
    """
    width = sum(direction.hidden_size for direction in parts.layers[-1])
    count = (linears[0][0].weight.shape[1] if linears else outputs) // width
    if mapping.pooling is not None:
        yield from ((mapping.pooling, normalize) for normalize in (False, True))
        return
    for normalize in (False, True):
        equal = {"end"} if len(parts.layers[-1]) == 1 else set()
        if normalize and count == 1 and not linears:
            equal.add("sum")
        poolings = [pooling for pooling in _POOLINGS if pooling not in equal]
        for chosen in permutations(poolings, count) if 0 < count <= 3 else ():
            yield "_".join(chosen), normalize


def _padded(row: NDArray[np.int64], padding: PaddingSettings | None, pad_token_id: int) -> NDArray[np.int64]:
    """A row as the graph has to be given it."""
    if padding is None:
        return row
    missing = max(0, padding.to - len(row))
    return np.pad(row, (missing, 0) if padding.side == "pre" else (0, missing), constant_values=pad_token_id)


def _difference(encoder: PackedEncoder, row: NDArray[np.int64], expected: NDArray[np.float32]) -> float:
    """The largest difference of one row; infinite if the widths differ."""
    with torch.no_grad():
        found = encoder(torch.from_numpy(row[None]), torch.tensor([len(row)]))
        if encoder.classifier is not None and encoder.config.classifier is not None:
            found = encoder.classifier(found)
            activation = encoder.config.classifier.activation
            found = (
                found.softmax(dim=1)
                if activation == "softmax"
                else found.sigmoid()
                if activation == "sigmoid"
                else found
            )
    if found.shape[1] != expected.size:
        return float("inf")
    return float(np.abs(found[0].numpy() - expected.reshape(-1)).max())


class _Session:
    """The graph in onnxruntime, fed with one row of ids at a time."""

    def __init__(self, graph: OnnxGraph, vocab_size: int) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ConfigError(
                f"{graph.path}: comparing with the graph needs onnxruntime; run pip install 'lengthwise[cpu]'"
            ) from None
        self._graph, self._vocab_size = graph, vocab_size
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(graph.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of several kinds, none of which onnxruntime documents
            raise CheckpointError(f"{graph.path}: onnxruntime cannot open the graph ({error})") from error
        inputs = self._session.get_inputs()
        ids = [each for each in inputs if "int" in each.type and len(each.shape) == 2]
        if not ids:
            raise CheckpointError(
                f"{graph.path}: has no input of ids [batch, sequence]; it has {[each.name for each in inputs]}"
            )
        named = [each for each in ids if "id" in each.name.lower()]
        self._ids = (named or ids)[0]
        self._others = [each for each in inputs if each.name != self._ids.name]
        size = self._ids.shape[1]
        self.length = size if isinstance(size, int) and size > 1 else None

    def rows(self, padding: PaddingSettings | None) -> list[NDArray[np.int64]]:
        """Rows of ids, the same each time, without the padding's id 0 if there are others; no longer than the padding.

        Raises:
            ConfigError: the graph takes rows of another length than that of the padding.
        """
        draw = np.random.default_rng(0)
        lengths: tuple[int, ...] = _LENGTHS
        if padding is not None:
            if self.length not in (None, padding.to):
                raise ConfigError(
                    f"{self._graph.path}: takes rows of {self.length} ids, but padding.to is {padding.to}; set it to"
                    f" {self.length}"
                )
            lengths = tuple(min(length, padding.to) for length in _LENGTHS)
        low = 1 if self._vocab_size > 2 else 0
        return [draw.integers(low, self._vocab_size, length) for length in lengths]

    def run(self, row: NDArray[np.int64]) -> NDArray[np.float32]:
        """The first output for one row.

        Raises:
            CheckpointError: the graph refuses it, or has inputs whose meaning is not known.
        """
        feeds: dict[str, Any] = {self._ids.name: row[None].astype(_numpy_type(self._ids.type))}
        for each in self._others:
            if ("int" not in each.type and "float" not in each.type and "bool" not in each.type) or len(each.shape) > 2:
                raise CheckpointError(f"{self._graph.path}: the meaning of its input {each.name} is not known")
            shape, value = ((1,), len(row)) if len(each.shape) < 2 else ((1, len(row)), 1)
            feeds[each.name] = np.full(shape, value, _numpy_type(each.type))
        try:
            return np.asarray(self._session.run(None, feeds)[0], np.float32)
        except Exception as error:  # of several kinds, none of which onnxruntime documents
            raise CheckpointError(
                f"{self._graph.path}: onnxruntime cannot run a row of {len(row)} ids ({error})"
            ) from error


def _numpy_type(name: str) -> Any:
    return {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}.get(name, np.float32)
