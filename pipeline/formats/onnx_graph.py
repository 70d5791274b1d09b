"""Graphs of ONNX with an embedding (Gather) and LSTM or GRU nodes, whoever exported them.

- Weights are read off the nodes: gates are in ONNX's order, i, o, f, c of an LSTM and z, r, h of a GRU.
- How states are pooled is written in a hundred ways, so it is not read but found (`formats.onnx_pooling`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lengthwise.config import TokenizationSettings
from lengthwise.encoder.model import PackedEncoder
from lengthwise.errors import CheckpointError, ConfigError
from lengthwise.formats.extra_units import note_on_units, with_equal_sizes
from lengthwise.formats.mapping import Mapping
from lengthwise.formats.onnx_file import OnnxGraph, read_attributes
from lengthwise.formats.onnx_pooling import LOG_SOFTMAX, find_pooling
from lengthwise.formats.parts import Direction, Linear, Parts, build_model
from lengthwise.formats.vocabulary import import_tokenizer
from lengthwise.tokens.tokenizer import TextTokenizer

_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}  # places of PyTorch's gates among ONNX's
_DEFAULT_ACTIVATIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}
_ACTIVATIONS = {
    "Relu": "relu",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
    "LogSoftmax": LOG_SOFTMAX,
    "Gelu": "gelu",
}
_OWN = ("embedding", "rnn", "merge", "layers", "gates", "gate_activation", "attention", "dense", "normalize", "ignore")


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
    found = find_pooling(graph, parts, _linears(graph, nodes[-1]), mapping, tokenizer)
    filled = with_equal_sizes(found.parts)
    encoder = build_model(filled, tokenizer, str(graph.path))
    name = f"its output {graph.graph.output[0].name}" if len(graph.graph.output) > 1 else "the graph"
    same = f"{name} gives the same on {found.rows} rows of ids, to {found.difference:.1e}"
    notes.insert(0, f"pooling {found.parts.pooling}: {same}")
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


def _directions(graph: OnnxGraph, node: Any) -> list[Direction]:
    """The directions of a node, with PyTorch's gates."""
    attributes, kind = read_attributes(node), node.op_type
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
        tensor = read_attributes(node).get("value")
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
            weight, attributes = graph.constant(node.input[1]), read_attributes(node)
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
