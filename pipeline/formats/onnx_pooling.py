"""How a graph of ONNX pools the states of its recurrent layers: found by comparison, which also proves the import.

The graph is run in onnxruntime on a few rows of ids, and the one pooling whose encoder gives the same outputs is taken.
If none does, the graph computes something else, and if several do, the outputs do not tell; both are said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lengthwise.encoder.model import PackedEncoder
from lengthwise.encoder_config import PaddingSettings
from lengthwise.errors import CheckpointError, ConfigError
from lengthwise.formats.comparison import TOLERANCE
from lengthwise.formats.extra_units import with_equal_sizes
from lengthwise.formats.mapping import Mapping
from lengthwise.formats.onnx_file import OnnxGraph
from lengthwise.formats.parts import Linear, Parts, build_model
from lengthwise.formats.state_dict import classifier_labels
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.util.settings import parse_settings

_POOLINGS = ("last", "end", "mean", "max", "sum", "first")
LOG_SOFTMAX = "log_softmax"  # of which the encoder gives the probabilities
_PROBABILITIES = ("softmax", "sigmoid", LOG_SOFTMAX)
_LENGTHS = (1, 2, 3, 7, 12)


class Match(NamedTuple):
    """Parts whose encoder gives what the graph gives.

    Attributes:
        parts: with the pooling, and the layers after it.
        difference: the largest, relative to the largest output where that is above 1.
        rows: on how many rows of ids.
    """

    parts: Parts
    difference: float
    rows: int


def find_pooling(
    graph: OnnxGraph, parts: Parts, linears: Sequence[tuple[Linear, str]], mapping: Mapping, tokenizer: TextTokenizer
) -> Match:
    """The parts with the pooling that the graph has.

    Args:
        linears: the Linear layers behind the last recurrent node, with their activations.

    Raises:
        CheckpointError: there is no such pooling, or the graph cannot be run.
        ConfigError: the mapping lacks something, or several poolings are possible.
    """
    session = _Session(graph, len(parts.embedding))
    padding = _padding(graph, session.length, mapping)
    rows = session.rows(padding)
    outputs = [session.run(_padded(row, padding, parts.pad_token_id)) for row in rows]
    if linears and linears[-1][1] == LOG_SOFTMAX:
        outputs = [np.exp(output) for output in outputs]
    _check_outputs(graph, outputs)
    if mapping.padding is not None:
        parts = replace(parts, settings={**parts.settings, "padding": mapping.padding})
    parts = _with_layers(graph, parts, linears, mapping)
    scale = max(1.0, *(float(np.abs(output).max()) for output in outputs))
    tried: list[Match] = []
    for pooling, normalize in _candidates(parts, linears, mapping, outputs[0].size):
        settings = {**parts.settings, **({"normalize": True} if normalize else {})}
        chosen = replace(parts, pooling=pooling, settings=settings)
        encoder = build_model(with_equal_sizes(chosen), tokenizer, str(graph.path))
        largest = max(_difference(encoder, row, found) for row, found in zip(rows, outputs, strict=True))
        tried.append(Match(chosen, largest / scale, len(rows)))
    return _only_match(graph, tried)


def _padding(graph: OnnxGraph, length: int | None, mapping: Mapping) -> PaddingSettings | None:
    """The padding of the mapping, which a graph for rows of one length needs."""
    if length is not None and mapping.padding is None:
        raise ConfigError(
            f"{graph.path}: takes rows of {length} ids only, so padding is part of what it computes; set padding: {{to:"
            f" {length}, side: post}} in the mapping, or side: pre"
        )
    return None if mapping.padding is None else parse_settings(PaddingSettings, mapping.padding, "padding")


def _check_outputs(graph: OnnxGraph, outputs: Sequence[NDArray[np.float32]]) -> None:
    """Refuse outputs that tell nothing of a pooling."""
    if len({output.size for output in outputs}) > 1:
        raise CheckpointError(
            f"{graph.path}: its first output {graph.graph.output[0].name} has more values for longer rows, so it is not"
            " pooled; export the graph up to the vector or the logits"
        )
    if max(np.abs(output - outputs[0]).max() for output in outputs) <= TOLERANCE:
        raise CheckpointError(
            f"{graph.path}: gives the same for each of {len(outputs)} rows of ids, so what it computes cannot be found;"
            " is it trained, and is its first output the one that is wanted?"
        )


def _with_layers(graph: OnnxGraph, parts: Parts, linears: Sequence[tuple[Linear, str]], mapping: Mapping) -> Parts:
    """The parts with the Linear layers after the pooling: a head if the mapping names labels."""
    head = mapping.classifier
    if not linears:
        if head is not None:
            raise ConfigError(f"{graph.path}: has no Linear layer that gives logits; leave classifier out")
        return parts
    *others, (output, activation) = linears
    if head is None and activation in ("softmax", LOG_SOFTMAX):
        raise ConfigError(
            f"{graph.path}: its output is {len(output.weight)} probabilities; name them: classifier: {{labels: [...]}}"
        )
    if head is None:
        return replace(parts, dense=list(linears))
    labels = classifier_labels(head, output, None)
    made = activation.removeprefix("log_") if activation in _PROBABILITIES else "identity"
    return replace(parts, head=[*others, (output, "identity")], labels=labels, head_activation=made)


def _only_match(graph: OnnxGraph, tried: Sequence[Match]) -> Match:
    """The one that matches.

    Raises:
        CheckpointError: none does.
        ConfigError: several do.
    """
    matching = [each for each in tried if each.difference <= TOLERANCE]
    if len(matching) == 1:
        return matching[0]
    if matching:
        names = ", ".join(each.parts.pooling for each in matching)
        raise ConfigError(
            f"{graph.path}: the poolings {names} all give what it gives on {matching[0].rows} rows of ids; set pooling"
            " to what the model does"
        )
    kinds = ", ".join(sorted({node.op_type for node in graph.graph.node}))
    nearest = min(tried, key=lambda each: each.difference, default=None)
    distance = f" (the nearest is {nearest.parts.pooling}, off by {nearest.difference:.1e})" if nearest else ""
    raise CheckpointError(
        f"{graph.path}: what it does with the states is none of {', '.join(_POOLINGS)}, nor of several of them side by"
        f" side{distance}; its nodes are {kinds}"
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
    head = encoder.config.classifier
    with torch.no_grad():
        found = encoder(torch.from_numpy(row[None]), torch.tensor([len(row)]))
        if encoder.classifier is not None and head is not None:
            found = encoder.classifier(found)
            found = {"softmax": found.softmax(dim=1), "sigmoid": found.sigmoid()}.get(head.activation, found)
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
