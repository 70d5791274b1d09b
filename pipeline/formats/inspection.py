"""`inspect_source`: what a file of weights holds, and the mapping that would be used, as YAML to be edited.

What the shapes decide is filled in. What they cannot decide is left as null with a comment that says what to write. Of
a folder with several files of weights each is listed, and the mapping is of the first that has recurrent layers.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
from collections import deque
from collections.abc import Mapping as Map
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from lengthwise.errors import CheckpointError, LengthwiseError
from lengthwise.formats.embedding_folder import MODULES_FILE
from lengthwise.formats.guess import (
    find_attention,
    find_cell,
    find_embeddings,
    find_linears,
    find_rnns,
    is_normalization,
)
from lengthwise.formats.importing import open_source, weights_files, weights_path
from lengthwise.formats.keras_file import SUFFIXES as KERAS_SUFFIXES
from lengthwise.formats.keras_file import read_keras_file
from lengthwise.formats.mapping import ONE_HOT
from lengthwise.formats.onnx_file import SUFFIX as ONNX_SUFFIX
from lengthwise.formats.onnx_file import OnnxGraph
from lengthwise.formats.pickles import read_pickle
from lengthwise.formats.sentence_transformers import read_sentence_transformers
from lengthwise.formats.tensors import TORCH_SUFFIXES, TensorFile, read_tensors

_MOST_FILES, _MOST_ITEMS = 50, 10
_YAML_WORDS = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2  # a value can hold another a thousand times


class _Inspected(NamedTuple):
    """What was found in a file.

    Attributes:
        report: for people.
        mapping: as YAML.
        is_recurrent: whether it has recurrent layers.
    """

    report: str
    mapping: str
    is_recurrent: bool


def inspect_source(source: Path, *, trust_pickle: bool = False) -> tuple[str, str]:
    """A report of what is inside, and a mapping as YAML.

    Raises:
        CheckpointError: the source cannot be read.
        ConfigError: it holds no file of weights.
    """
    with open_source(source) as place:
        if place.is_dir() and (place / MODULES_FILE).is_file():
            encoder, _, notes = read_sentence_transformers(place)
            lines = [f"{source}: a folder of sentence-transformers, which needs no mapping", repr(encoder), *notes]
            return "\n".join(lines), "# lengthwise import reads a folder of sentence-transformers without a mapping"
        paths = weights_files(place) if place.is_dir() else []
        if len(paths) > 1:
            return _inspect_each(place, paths, source, trust_pickle)
        path = weights_path(place, None, source)
        inside = path.relative_to(os.path.abspath(place)) if place.is_dir() else None
        return _inspect_file(path, source, inside, trust_pickle)[:2]


def _inspect_each(place: Path, paths: Sequence[Path], source: Path, trust_pickle: bool) -> tuple[str, str]:
    """A report of several files, and a mapping of the first that has recurrent layers."""
    inside = [path.relative_to(place) for path in paths]
    reports, found = [f"{source}: {len(paths)} files that may be weights"], dict[Path, _Inspected]()
    for path, name in list(zip(paths, inside, strict=True))[:_MOST_FILES]:
        try:
            found[name] = _inspect_file(path, name, name, trust_pickle)
            reports.append(found[name].report)
        except LengthwiseError as error:
            reports.append(_pickled(path, name) or str(error).replace(str(path), str(name)))
    if len(paths) > _MOST_FILES:
        reports.append(f"{len(paths) - _MOST_FILES} more, which were not read")
    if not found:
        raise CheckpointError("\n".join([*reports, "none of them can be read"]))
    best = next((name for name, each in found.items() if each.is_recurrent), next(iter(found)))
    others = ", ".join(_quoted(name.as_posix()) for name in found if name != best)
    note = f"# the first with recurrent layers; weights may also be {others}\n" if others else ""
    return "\n".join(reports), note + found[best].mapping


def _pickled(path: Path, name: Path) -> str | None:
    """What is in a pickle without tensors, such as a vocabulary; None of a file that is none."""
    try:
        content = read_pickle(path) if path.suffix.lower() in TORCH_SUFFIXES else None
    except LengthwiseError:
        return None
    if not isinstance(content, Map):
        return None if content is None else f"{name}: a pickle without weights: {_summary(content)}"
    lines = [f"  {key}: {_summary(value)}" for key, value in islice(content.items(), _MOST_ITEMS)]
    more = [f"  and {len(content) - _MOST_ITEMS} more"] if len(content) > _MOST_ITEMS else []
    return "\n".join([f"{name}: a pickle without weights", *lines, *more])


def _inspect_file(path: Path, source: Path, inside: Path | None, trust_pickle: bool) -> _Inspected:
    if path.suffix.lower() in KERAS_SUFFIXES:
        return _inspect_keras(path, source, inside)
    if path.suffix.lower() == ONNX_SUFFIX:
        return _inspect_onnx(path, source, inside)
    file = read_tensors(path, trust_pickle=trust_pickle)
    return _Inspected(describe(file, source), guess_mapping(file, inside), bool(find_rnns(file.tensors)))


def _inspect_keras(path: Path, source: Path, inside: Path | None) -> _Inspected:
    """The layers of a Keras file, and what a mapping of it has to say."""
    file = read_keras_file(path)
    lines = [f"{source}: {len(file.layers)} layers of Keras {file.version or '(version unknown)'}"]
    rows = outputs = activation = None
    for layer in file.layers:
        shapes = ", ".join(" x ".join(map(str, array.shape)) for array in layer.weights)
        lines.append(f"  {layer.name}  {layer.kind or '(kind unknown)'}  {shapes}")
        rows = rows or (len(layer.weights[0]) if layer.kind == "Embedding" else None)
        if layer.kind == "Dense":
            outputs, activation = layer.weights[0].shape[1], layer.config.get("activation")
    mapping = _other_mapping(inside, rows, outputs, must_have_labels=activation == "softmax")
    if not file.described:
        mapping += "\npooling: null # last, unless the last layer has return_sequences\ngate_activation: null"
    return _Inspected("\n".join(lines), mapping, any(len(layer.weights) > 2 for layer in file.layers))


def _inspect_onnx(path: Path, source: Path, inside: Path | None) -> _Inspected:
    """The recurrent nodes of a graph, and what a mapping of it has to say."""
    graph = OnnxGraph(path)
    lines = [f"{source}: {len(graph.graph.node)} nodes, inputs {[each.name for each in graph.graph.input]}"]
    nodes = graph.nodes("LSTM", "GRU", "RNN", "Loop", "Scan", "DynamicQuantizeLSTM")
    lines += [f"  {node.op_type}  {node.name}" for node in nodes]
    return _Inspected("\n".join(lines), _other_mapping(inside, None, None), bool(nodes))


def _other_mapping(
    inside: Path | None, rows: int | None, outputs: int | None, *, must_have_labels: bool = False
) -> str:
    lines = ["# Layers and pooling are read off the file; null is to be replaced."]
    lines += [] if inside is None else [f"weights: {_quoted(inside.as_posix())}"]
    if outputs is not None:
        labels = ", ".join(f"label{number}" for number in range(outputs))
        start, note = ("", "of its probabilities") if must_have_labels else ("# ", "if the last Dense layer gives them")
        lines.append(f"{start}classifier: {{labels: [{labels}]}} # {note}")
    return "\n".join([*lines, *_tokens(None, rows)])


def describe(file: TensorFile, source: Path) -> str:
    """The tensors with their shapes, and what else is in the file."""
    width = max(map(len, file.tensors))
    lines = [f"{source}: {len(file.tensors)} tensors"]
    for name, tensor in file.tensors.items():
        shape = " x ".join(map(str, tensor.shape)) or "one value"
        lines.append(f"  {name:<{width}}  {shape:<16} {str(tensor.dtype).removeprefix('torch.')}")
    if isinstance(file.other, Map):
        others = [(key, value) for key, value in file.other.items() if not _holds_tensors(value)]
        lines += [f"  {key}: {_summary(value)}" for key, value in others]
    return "\n".join(lines)


def guess_mapping(file: TensorFile, weights: Path | None) -> str:
    """The mapping that the shapes suggest."""
    tensors = file.tensors
    lines = ["# What the shapes decide is filled in; null is to be replaced."]
    if weights is not None:
        lines.append(f"weights: {_quoted(weights.as_posix())}")
    used: set[str] = set()
    rnns, inputs, width = find_rnns(tensors), None, None
    if rnns:
        prefix = rnns[0]
        others = f" # or {', '.join(map(_quoted, rnns[1:]))}" if len(rnns) > 1 else ""
        inputs, width, note = _recurrent(tensors, prefix, file)
        used = {name for name in tensors if name.startswith(f"{prefix}." if prefix else ("weight_", "bias_"))}
        lines.append(f"rnn: {_quoted(prefix)}{others} # {note}")
    else:
        lines.append("layers: null # name the tensors: [{forward: {weight_ih: ..., weight_hh: ..., bias_ih: ...}}]")
    embeddings = [] if inputs is None else find_embeddings(tensors, inputs)
    others = f" # or {', '.join(embeddings[1:])}" if len(embeddings) > 1 else ""
    lines.append(f"embedding: {_quoted(embeddings[0]) if embeddings else f'null # a tensor, or {ONE_HOT}'}{others}")
    used.update(embeddings[:1])
    lines.append("pooling: null # what the model does with the states: last, first, end, mean, max, sum, attention")
    linears = find_linears(tensors, frozenset(used))
    scoring = find_attention(tensors, linears)
    if scoring:
        named = zip(("hidden", "score")[-len(scoring) :], scoring, strict=True)
        given = ", ".join(f"{part}: {_quoted(name)}" for part, name in named)
        lines.append(f"attention: {{{given}}} # with pooling: attention")
    *before, last = [name for name in linears if name not in scoring] or [""]
    if before:
        given = ", ".join(_dense(tensors, name) for name in before)
        shapes = "; ".join(_shape(tensors, name, width) for name in before)
        lines.append(f"# dense: [{given}] # {shapes}; or the same under classifier, if the vector is what they read")
    if last and not is_normalization(tensors, last):
        count = tensors[f"{last}.weight"].shape[0]
        about = _shape(tensors, last, width)
        lines.append(f"classifier: # {about}; or write it as dense, if its output is the vector")
        lines += [f"  layer: {_quoted(last)}", f"  {_labels(file.other, count)}"]
        lines += ["  activation: sigmoid"] if count == 1 else []
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    used.update(f"{name}.{part}" for name in linears for part in parts)
    left = [name for name in tensors if name not in used]
    if left:
        lines.append(f"ignore: [] # not placed so far: {', '.join(left[:20])}")
    rows = None if not embeddings else len(tensors[embeddings[0]])
    return "\n".join([*lines, *_tokens(file.other, rows)])


def _recurrent(tensors: Map[str, Tensor], prefix: str, file: TensorFile) -> tuple[int, int, str]:
    """The inputs, the width of a state, and a description."""
    start = f"{prefix}." if prefix else ""
    suffix = "_l0" if f"{start}weight_ih_l0" in tensors else ""
    weight_ih, weight_hh = tensors[f"{start}weight_ih{suffix}"], tensors.get(f"{start}weight_hh{suffix}")
    if weight_hh is None:
        raise CheckpointError(f"{file.path}: {start}weight_hh{suffix} is missing beside {start}weight_ih{suffix}")
    projection = tensors.get(f"{start}weight_hr{suffix}")
    if projection is not None and weight_hh.shape[1:] == projection.shape[:1]:
        weight_hh = weight_hh @ projection
    cell = find_cell(weight_ih, weight_hh, prefix, str(file.path))
    layers = sum(f"{start}weight_ih_l{number}" in tensors for number in range(100)) or 1
    directions = 2 if f"{start}weight_ih_l0_reverse" in tensors else 1
    hidden = weight_hh.shape[1]
    width = hidden if projection is None else len(projection)
    kind = "bidirectional " if directions == 2 else ""
    projected = "" if projection is None else f", projected to {width}"
    return weight_ih.shape[1], directions * width, f"{kind}{cell.upper()}, {layers} x {hidden} units{projected}"


def _dense(tensors: Map[str, Tensor], name: str) -> str:
    activation = "" if is_normalization(tensors, name) else ", activation: relu"
    return f"{{layer: {_quoted(name)}{activation}}}"


def _shape(tensors: Map[str, Tensor], name: str, width: int | None) -> str:
    if is_normalization(tensors, name):
        return "a batch normalization"
    outputs, inputs = tensors[f"{name}.weight"].shape
    return f"{inputs} to {outputs}" + (", reads the pooled states" if inputs == width else "")


def _labels(other: Any, count: int) -> str:
    key = _place(other, count)
    return (
        f"labels_key: {_quoted(key)}" if key else f"labels: [{', '.join(f'label{number}' for number in range(count))}]"
    )


def _tokens(other: Any, rows: int | None) -> list[str]:
    key = None if rows is None else _place(other, rows) or _place(other, rows - 1) or _place(other, rows - 2)
    where = f"key: {_quoted(key)}" if key else "vocabulary: null # a file: JSON, a token per line, or a pickle"
    return [
        f"tokens: # {rows} ids" if rows is not None else "tokens:",
        f"  {where}",
        "  unit: words # or characters",
        "  clean: [] # such as [lowercase, {pattern: '[^a-z ]', by: ''}], in order",
        "  unknown: null # token or id; null: unknown tokens are left out",
        "  padding: 0",
    ]


def _quoted(name: str) -> str:
    """A name as YAML; 0, no and the like in quotes."""
    plain = re.fullmatch(r"[A-Za-z_][\w./-]*", name) and name.lower() not in _YAML_WORDS
    return name if plain else json.dumps(name)


def _place(other: Any, count: int) -> str | None:
    """Where plain values of this number are in the file; each place is looked at once."""
    seen: set[int] = set()
    waiting: deque[tuple[Any, str]] = deque([(other, "")])
    while waiting:
        node, name = waiting.popleft()
        if not isinstance(node, Map) or id(node) in seen or name.count(".") > 3:
            continue
        seen.add(id(node))
        for key, value in node.items():
            path = f"{name}.{key}".lstrip(".")
            if isinstance(value, Map | list | tuple) and len(value) == count and not _holds_tensors(value):
                return path
            waiting.append((value, path))
    return None


def _holds_tensors(value: Any) -> bool:
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Tensor):
            return True
        if isinstance(node, Map) and id(node) not in seen:
            seen.add(id(node))
            waiting += node.values()
    return False


def _summary(value: Any) -> str:
    if isinstance(value, Map | list | tuple):
        shown = list(islice(value.items() if isinstance(value, Map) else value, 3))
        return f"{type(value).__name__} of {len(value)}, such as {', '.join(map(_SHORT.repr, shown))}"[:160]
    return _SHORT.repr(value)[:100]
