"""`inspect_source`: what a file of weights holds, and the mapping that would be used, as YAML to be edited.

What the shapes decide is filled in. What they cannot decide is left as null with a comment that says what to write.
"""

from __future__ import annotations

from collections.abc import Mapping as Map
from pathlib import Path
from typing import Any

from torch import Tensor

from lengthwise.errors import CheckpointError
from lengthwise.formats.guess import find_cell, find_embeddings, find_linears, find_rnns
from lengthwise.formats.importing import open_source, weights_path
from lengthwise.formats.mapping import ONE_HOT
from lengthwise.formats.tensors import TensorFile, read_tensors


def inspect_source(source: Path, *, trust_pickle: bool = False) -> tuple[str, str]:
    """A report of what is inside, and a mapping as YAML.

    Raises:
        CheckpointError: the source cannot be read.
        ConfigError: it holds several files of weights; give one of them.
    """
    with open_source(source) as place:
        path = weights_path(place, None, source)
        file = read_tensors(path, trust_pickle=trust_pickle)
        inside = path.relative_to(place) if place.is_dir() else None
    return describe(file, source), guess_mapping(file, inside)


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
        lines.append(f"weights: {weights.as_posix()}")
    used: set[str] = set()
    rnns, inputs, width = find_rnns(tensors), None, None
    if rnns:
        prefix = rnns[0]
        others = f" # or {', '.join(rnns[1:])}" if len(rnns) > 1 else ""
        inputs, width, note = _recurrent(tensors, prefix, file)
        used = {name for name in tensors if name.startswith(f"{prefix}." if prefix else ("weight_", "bias_"))}
        lines.append(f"rnn: {prefix or repr('')}{others} # {note}")
    else:
        lines.append("layers: null # name the tensors: [{forward: {weight_ih: ..., weight_hh: ..., bias_ih: ...}}]")
    embeddings = [] if inputs is None else find_embeddings(tensors, inputs)
    others = f" # or {', '.join(embeddings[1:])}" if len(embeddings) > 1 else ""
    lines.append(f"embedding: {embeddings[0] if embeddings else f'null # a tensor, or {ONE_HOT}'}{others}")
    used.update(embeddings[:1])
    lines.append("pooling: null # what the model does with the states: last, first, end, mean, max, sum, attention")
    linears = find_linears(tensors, frozenset(used))
    scores = [name for name in linears if tensors[f"{name}.weight"].shape[0] == 1 and "att" in name.lower()]
    if scores:
        lines.append(f"attention: {{score: {scores[0]}}} # with pooling: attention")
    rest = [name for name in linears if name not in scores]
    if rest:
        for name in rest[:-1]:
            lines.append(f"# dense: [{{layer: {name}, activation: relu}}] # {_shape(tensors, name, width)}")
        count = tensors[f"{rest[-1]}.weight"].shape[0]
        lines.append(f"head: # {_shape(tensors, rest[-1], width)}; or write it as dense, if its output is the vector")
        lines += [f"  layer: {rest[-1]}", f"  {_labels(file.other, count)}"]
    used.update(f"{name}.{part}" for name in linears for part in ("weight", "bias"))
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
    cell = find_cell(weight_ih, weight_hh, prefix, str(file.path))
    layers = sum(f"{start}weight_ih_l{number}" in tensors for number in range(100)) or 1
    directions = 2 if f"{start}weight_ih_l0_reverse" in tensors else 1
    hidden = weight_hh.shape[1]
    kind = "bidirectional " if directions == 2 else ""
    return weight_ih.shape[1], directions * hidden, f"{kind}{cell.upper()}, {layers} x {hidden} units"


def _shape(tensors: Map[str, Tensor], name: str, width: int | None) -> str:
    outputs, inputs = tensors[f"{name}.weight"].shape
    return f"{inputs} to {outputs}" + (", reads the pooled states" if inputs == width else "")


def _labels(other: Any, count: int) -> str:
    key = _place(other, count)
    return f"labels_key: {key}" if key else f"labels: [{', '.join(f'label{number}' for number in range(count))}]"


def _tokens(other: Any, rows: int | None) -> list[str]:
    key = None if rows is None else _place(other, rows) or _place(other, rows - 1) or _place(other, rows - 2)
    where = f"key: {key}" if key else "vocabulary: null # a file: JSON, a token per line, or a pickle"
    return [
        f"tokens: # {rows} ids" if rows is not None else "tokens:",
        f"  {where}",
        "  unit: words # or characters",
        "  clean: [] # such as [lowercase, {pattern: '[^a-z ]', by: ''}], in order",
        "  unknown: null # token or id; null: unknown tokens are left out",
        "  padding: 0",
    ]


def _place(other: Any, count: int, name: str = "", depth: int = 0) -> str | None:
    """Where plain values of this number are in the file."""
    if isinstance(other, Map) and depth < 4:
        for key, value in other.items():
            path = f"{name}.{key}".lstrip(".")
            if isinstance(value, Map | list | tuple) and len(value) == count and not _holds_tensors(value):
                return path
            found = _place(value, count, path, depth + 1)
            if found is not None:
                return found
    return None


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, Tensor):
        return True
    return isinstance(value, Map) and any(_holds_tensors(each) for each in value.values())


def _summary(value: Any) -> str:
    if isinstance(value, Map | list | tuple):
        shown = list(value.items() if isinstance(value, Map) else value)[:3]
        return f"{type(value).__name__} of {len(value)}, such as {', '.join(map(repr, shown))}"[:160]
    return repr(value)[:100]
