"""A file of tensors and a mapping: any Embedding and LSTM or GRU that a file of weights holds.

- Layers, directions, sizes and biases are read off names and shapes. What the mapping leaves open and only one tensor
  can be is found, and reported as a note.
- A tensor that nothing needs is refused unless the mapping ignores it: it may be a layer that the mapping forgot.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from collections.abc import Mapping as Map
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lengthwise.config import TokenizationSettings
from lengthwise.encoder.model import PackedEncoder
from lengthwise.errors import CheckpointError, ConfigError
from lengthwise.formats.extra_units import (
    note_on_units,
    with_bias_per_token,
    with_equal_sizes,
    with_masked_attention,
)
from lengthwise.formats.guess import find_cell, find_embeddings, find_rnns
from lengthwise.formats.mapping import ONE_HOT, ClassifierMapping, DirectionMapping, Mapping
from lengthwise.formats.parts import Direction, Linear, Parts, build_model, normalization
from lengthwise.formats.projections import fold_projections, merged_directions, with_projected_states
from lengthwise.formats.tensors import TensorFile, check_float
from lengthwise.formats.vocabulary import as_ids, import_tokenizer
from lengthwise.tokens.tokenizer import TextTokenizer

_ORDER = {"lstm": "ifgo", "gru": "rzn"}  # PyTorch's; c is another name of g, and h of n
_BATCH_NORM_EPS = 1e-5  # PyTorch's default; a state_dict does not say it
_SAME_GATE = str.maketrans("ch", "gn")


def read_state_dict(file: TensorFile, mapping: Mapping, folder: Path) -> tuple[PackedEncoder, TextTokenizer, list[str]]:
    """An encoder of the tensors that a mapping names, its tokenizer, and what a user should know.

    Args:
        folder: what the mapping's paths are relative to.

    Raises:
        CheckpointError: a tensor is missing, is left over, or does not fit; all of its names and shapes are given.
        ConfigError: the mapping lacks something.
    """
    tensors = _Tensors(file)
    notes: list[str] = []
    layers, cell, projection = _layers(tensors, mapping, notes)
    inputs = layers[0][0].weight_ih.shape[1]
    embedding = _embedding(tensors, mapping, inputs, notes)
    tokenizer, padding, unknown = import_tokenizer(mapping.tokens, folder, file, len(embedding), notes)
    if mapping.pooling is None:
        raise ConfigError(
            f"{file.path}: the mapping says no pooling, and weights cannot tell; set pooling to what the model's"
            " forward does with the states of the tokens: last, mean, max, sum, attention, ..."
        )
    limit = mapping.tokens.max_length
    settings: dict[str, Any] = {"normalize": mapping.normalize} if mapping.normalize else {}
    if mapping.gate_activation not in (None, "sigmoid"):
        settings["gate_activation"] = mapping.gate_activation
    if mapping.padding is not None:
        settings["padding"] = mapping.padding
    parts = Parts(
        embedding,
        layers,
        mapping.pooling,
        cell,
        attention=_attention(tensors, mapping),
        dense=[(tensors.linear(each.layer), each.activation) for each in mapping.dense],
        settings=settings,
        pad_token_id=padding,
        unk_token_id=unknown,
        tokenization=TokenizationSettings(max_length=limit, truncate=limit is not None),
    )
    parts = with_projected_states(parts, _merged(projection, layers, mapping), str(file.path))
    parts = add_head(parts, mapping.classifier, tensors.linear, file)
    per_token = mapping.classifier is not None and mapping.classifier.per_token
    if per_token and parts.pooling != "mean":  # the mean of sums is the sum of means
        counted = with_bias_per_token(parts)
        if counted is not parts:
            notes.append("a value of the vectors is the number of tokens, times 0.76, for the bias per token")
        parts = counted
    if mapping.attention is not None and mapping.attention.masked:
        parts = with_masked_attention(parts)
    tensors.check_all_used(mapping.ignore)
    parts = with_equal_sizes(parts)
    notes += note_on_units(layers, parts)
    return build_model(parts, tokenizer, str(file.path)), tokenizer, notes


class _Tensors:
    """The tensors of a file, and which of them were used."""

    def __init__(self, file: TensorFile) -> None:
        self.file, self.used = file, set[str]()

    def get(self, name: str) -> Tensor:
        tensors = self.file.tensors
        if name not in tensors:
            raise CheckpointError(f"{self.file.path}: there is no tensor {name!r}; there are {_listed(tensors)}")
        self.used.add(name)
        return check_float(tensors[name], name, self.file.path)

    def find(self, name: str | None) -> Tensor | None:
        return self.get(name) if name is not None and name in self.file.tensors else None

    def linear(self, name: str) -> Linear:
        """The Linear layer NAME.weight, NAME.bias; the tensor NAME, without a bias; or the batch normalization NAME."""
        if name in self.file.tensors:
            return Linear(self.get(name), None, name)
        mean = self.find(f"{name}.running_mean")
        if mean is not None:
            self.used.add(f"{name}.num_batches_tracked")
            scale, shift = self.find(f"{name}.weight"), self.find(f"{name}.bias")
            variance = self.get(f"{name}.running_var")
            return normalization(mean, variance, scale, shift, _BATCH_NORM_EPS)._replace(name=name)
        return Linear(self.get(f"{name}.weight"), self.find(f"{name}.bias"), name)

    def check_all_used(self, ignored: Sequence[str]) -> None:
        left = [
            name
            for name in self.file.tensors
            if name not in self.used and not any(fnmatch.fnmatchcase(name, pattern) for pattern in ignored)
        ]
        if left:
            shapes = _listed({name: self.file.tensors[name] for name in left})
            raise CheckpointError(
                f"{self.file.path}: the mapping has no place for {shapes}; they may be layers that change the vector."
                " Map them, or name them under ignore"
            )


def _listed(tensors: Map[str, Tensor]) -> str:
    shown = [f"{name} {list(tensor.shape)}" for name, tensor in list(tensors.items())[:30]]
    return ", ".join(shown) + (f", and {len(tensors) - 30} more" if len(tensors) > 30 else "")


def _layers(tensors: _Tensors, mapping: Mapping, notes: list[str]) -> tuple[list[list[Direction]], str, Tensor | None]:
    """The recurrent layers, the kind of their cells, and the projection of the last one's states, if there is one."""
    origin = str(tensors.file.path)
    if mapping.layers:
        named = [[layer.forward, *([layer.reverse] if layer.reverse else [])] for layer in mapping.layers]
    else:
        named = _named_layers(tensors, _prefix(tensors, mapping, notes))
    read = [
        [
            Direction(*(None if name is None else tensors.get(name) for name in each.names()), each.weight_ih)  # type: ignore[arg-type,call-arg]
            for each in layer
        ]
        for layer in named
    ]
    projections = [
        [None if each.weight_hr is None else tensors.get(each.weight_hr) for each in layer] for layer in named
    ]
    layers, projection = fold_projections(read, projections, origin)
    first = layers[0][0]
    cell = find_cell(first.weight_ih, first.weight_hh, first.name, origin)
    order = (mapping.gates or _ORDER[cell]).translate(_SAME_GATE)
    if sorted(order) != sorted(_ORDER[cell]):
        raise ConfigError(f"gates = {mapping.gates!r}: not an order of the gates {_ORDER[cell]} of a cell {cell}")
    places = [order.index(gate) for gate in _ORDER[cell]]

    def ordered(value: Tensor | None) -> Tensor | None:
        if value is None or len(value) % len(places):  # of another shape, which is refused later, by its name
            return value
        chunks = value.chunk(len(places))
        return torch.cat([chunks[place] for place in places])

    in_order = [[Direction(*map(ordered, each[:4]), each.name) for each in layer] for layer in layers]  # type: ignore[arg-type,call-arg]
    return in_order, cell, projection


def _prefix(tensors: _Tensors, mapping: Mapping, notes: list[str]) -> str:
    found = find_rnns(tensors.file.tensors)
    if mapping.rnn is not None:
        if mapping.rnn in found:
            return mapping.rnn
        others = f"set rnn to {' or '.join(map(repr, found))}" if found else "there is none in the file; use layers"
        raise CheckpointError(f"{tensors.file.path}: rnn = {mapping.rnn!r} precedes no weight_ih_l0; {others}")
    if len(found) != 1:
        remedy = "set rnn to the encoder's" if found else "set layers to the names of its tensors"
        raise CheckpointError(
            f"{tensors.file.path}: {len(found)} recurrent layers are named as PyTorch names them"
            f" ({', '.join(map(repr, found)) or _listed(tensors.file.tensors)}); {remedy}"
        )
    notes.append(f"rnn: {found[0]!r}, the only recurrent layers in the file")
    return found[0]


def _named_layers(tensors: _Tensors, prefix: str) -> list[list[DirectionMapping]]:
    """The layers under PyTorch's names: `weight_ih_l0`, `weight_ih_l0_reverse`, ...; or a cell's `weight_ih`."""
    known, start = tensors.file.tensors, f"{prefix}." if prefix else ""

    def direction(suffix: str) -> DirectionMapping | None:
        if f"{start}weight_ih{suffix}" not in known:
            return None
        needed = {part: f"{start}{part}{suffix}" for part in ("weight_ih", "weight_hh")}
        others = {part: f"{start}{part}{suffix}" for part in ("bias_ih", "bias_hh", "weight_hr")}
        return DirectionMapping(**needed, **{part: name for part, name in others.items() if name in known})

    cell = direction("")
    if cell is not None:
        return [[cell]]
    layers: list[list[DirectionMapping]] = []
    while (forward := direction(f"_l{len(layers)}")) is not None:
        reverse = direction(f"_l{len(layers)}_reverse")
        layers.append([forward, *([] if reverse is None else [reverse])])
    return layers


def _merged(projection: Tensor | None, layers: Sequence[Sequence[Direction]], mapping: Mapping) -> Tensor | None:
    """The model's own states as a map of the encoder's; None if they are the same."""
    if mapping.merge is None:
        return projection
    if len(layers[-1]) != 2:
        raise ConfigError(f"merge is {mapping.merge}, but the layers have one direction; leave it out")
    width = layers[-1][0].hidden_size if projection is None else len(projection) // 2
    merged = merged_directions(width, mapping.merge)
    return merged if projection is None else merged @ projection


def _embedding(tensors: _Tensors, mapping: Mapping, inputs: int, notes: list[str]) -> Tensor:
    """The embedding; one-hot vectors are the rows of an identity, and zeros for what is not in the vocabulary."""
    if mapping.embedding == ONE_HOT:
        return torch.cat([torch.eye(inputs), torch.zeros(1, inputs)])
    if mapping.embedding is not None:
        name = mapping.embedding
        return tensors.get(name if name in tensors.file.tensors else f"{name}.weight")
    found = find_embeddings(tensors.file.tensors, inputs)
    if len(found) != 1:
        raise CheckpointError(
            f"{tensors.file.path}: {len(found)} tensors can be the embedding of {inputs} values per token"
            f" ({', '.join(found) or _listed(tensors.file.tensors)}); set embedding to its name, or to {ONE_HOT}"
        )
    notes.append(f"embedding: {found[0]}, the only tensor that fits")
    return tensors.get(found[0])


def _attention(tensors: _Tensors, mapping: Mapping) -> list[Linear]:
    wanted = "attention" in (mapping.pooling or "").split("_")
    if wanted != (mapping.attention is not None):
        raise ConfigError("attention pooling and the section attention belong together; give both or neither")
    if mapping.attention is None:
        return []
    hidden, score = mapping.attention.hidden, tensors.linear(mapping.attention.score)
    if score.weight.dim() == 1:
        score = Linear(score.weight[None], score.bias, score.name)
    return [*([] if hidden is None else [tensors.linear(hidden)]), score]


def add_head(
    parts: Parts, head: ClassifierMapping | None, linear: Callable[[str], Linear], file: TensorFile | None
) -> Parts:
    """The same parts with a mapping's classifier.

    Args:
        linear: gives the Linear layer of a name.
        file: where `labels_key` is looked up.
    """
    if head is None:
        return parts
    if head.layer is None:
        raise ConfigError("classifier.layer is missing; set it to the Linear layer that gives the logits")
    layers = [(linear(each.layer), each.activation) for each in head.dense] + [(linear(head.layer), "identity")]
    labels = classifier_labels(head, layers[-1][0], file)
    if head.per_token and len(layers) > 1:
        raise ConfigError("classifier.per_token is true, so nothing can stand in classifier.dense")
    return replace(parts, head=layers, labels=labels, head_activation=head.activation)


def classifier_labels(head: ClassifierMapping, output: Linear, file: TensorFile | None) -> list[str]:
    """The names of the labels, in the order of the logits."""
    if head.labels:
        return list(head.labels)
    if head.labels_key is not None and file is not None:
        found = file.find(head.labels_key)
        ids = as_ids(list(found) if isinstance(found, tuple) else found, 0, f"{file.path}: {head.labels_key}")
        if sorted(ids.values()) == list(range(len(ids))):
            return [label for label, _ in sorted(ids.items(), key=lambda item: item[1])]
        raise CheckpointError(
            f"{file.path}: {head.labels_key} numbers its labels {sorted(ids.values())}, not from 0 on"
        )
    raise ConfigError(
        f"classifier.labels is missing; name the {len(output.weight)} labels of {output.name}, or set"
        " classifier.labels_key to their place in the file"
    )
