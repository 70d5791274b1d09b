"""The layers of a Keras file as parts of an encoder: each is taken for what it is at its place in the chain.

- A layer that is not known, or that stands where the encoder has no such layer, is refused by name.
- Keras keeps a kernel as [inputs, gates x units], with one bias. Its LSTM has PyTorch's order of gates; its GRU has z,
  r.
"""

from __future__ import annotations

from collections.abc import Mapping as Map
from typing import Any

import torch
from torch import Tensor

from lengthwise.errors import CheckpointError
from lengthwise.formats.keras_file import KerasFile, Layer
from lengthwise.formats.parts import Direction, Linear, normalization
from lengthwise.formats.projections import behind, merged_directions

PROBABILITIES = ("softmax", "sigmoid")  # activations of a layer that gives them
_IGNORED = ("InputLayer", "Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "ActivityRegularization")
_POOLINGS = {
    "GlobalMaxPooling1D": "max",
    "GlobalMaxPool1D": "max",
    "GlobalAveragePooling1D": "mean",
    "GlobalAvgPool1D": "mean",
}
_RECURRENT = ("LSTM", "GRU", "CuDNNLSTM", "CuDNNGRU", "Bidirectional")
_MERGED = {"sum": "sum", "ave": "mean"}
_ACTIVATIONS = {
    "linear": "identity",
    "relu": "relu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "swish": "silu",
    "softmax": "softmax",
}


class Chain:
    """The layers of a file, one after another.

    Attributes:
        embedding: float32[vocabulary, width]; None where one-hot vectors are read.
        is_masked: whether padding is not read.
        layers: of each recurrent layer, its directions.
        cells: the kinds of cells, lstm or gru.
        gates: the names of the activations of gates; "None" where the file says none.
        gives_states: whether the last recurrent layer hands on the states of all tokens.
        pooling: of the states, if there is a layer that pools them.
        states: the last layer's states as a map of both directions, where they are added; None where side by side.
        dense: Linear layers after the pooling, with their activations.
        length: the number of tokens that it takes, if it says one.
        built_length: that of the first texts that it read, if it says so.
        notes: what a user should know.
    """

    def __init__(self, file: KerasFile) -> None:
        """Read the layers of a file.

        Raises:
            CheckpointError: there is one that the encoder does not have at its place.
        """
        self._file, self.notes = file, list[str]()
        self.embedding: Tensor | None = None
        self.is_masked = self.gives_states = False
        self.layers: list[list[Direction]] = []
        self.cells: set[str] = set()
        self.gates: set[str] = set()
        self.pooling: str | None = None
        self.states: Tensor | None = None
        self.dense: list[tuple[Linear, str]] = []
        self.length: int | None = None
        self.built_length: int | None = None
        for layer in file.layers if file.described else _recognised(file):
            self._add(layer)
        if not file.described:
            self.notes.append("a file of weights alone: the kinds of its layers are recognised by their shapes")
        if not self.layers:
            raise CheckpointError(f"{file.path}: has no LSTM or GRU; its layers are {_kinds(file)}")
        if len(self.cells) > 1:
            raise CheckpointError(f"{file.path}: has LSTM and GRU layers in one chain; the encoder has one kind")

    def _add(self, layer: Layer) -> None:
        if not self.layers:
            self.length = self.length or layer.length
            self.built_length = self.built_length or layer.built_length
        if layer.kind in _IGNORED:
            return
        if layer.kind == "Embedding":
            self._add_embedding(layer)
        elif layer.kind in _RECURRENT:
            self._add_recurrent(layer)
        elif layer.kind in _POOLINGS:
            self._add_pooling(layer)
        elif layer.kind == "Masking" and self.embedding is None and not self.layers:
            self.is_masked = True
        elif layer.kind == "Dense":
            self._add_dense(layer)
        elif layer.kind == "BatchNormalization" and (self.pooling or (self.layers and not self.gives_states)):
            self.dense.append((self._normalization(layer), "identity"))
        elif layer.kind == "Activation" and self.dense and self.dense[-1][1] == "identity":
            self.dense[-1] = (self.dense[-1][0], self._activation(layer))
        else:
            raise CheckpointError(
                f"{self._file.path}: the layer {layer.name} is a {layer.kind}, which cannot be imported at this place;"
                f" the layers are {_kinds(self._file)}"
            )

    def _add_embedding(self, layer: Layer) -> None:
        if self.embedding is not None or self.layers:
            raise CheckpointError(f"{self._file.path}: the Embedding {layer.name} is not the first layer")
        (self.embedding,) = layer.weights
        self.is_masked = bool(layer.config.get("mask_zero"))

    def _add_recurrent(self, layer: Layer) -> None:
        if self.pooling is not None or self.dense:
            raise CheckpointError(f"{self._file.path}: {layer.name} stands behind a layer that is not one of states")
        if self.layers and not self.gives_states:
            raise CheckpointError(f"{self._file.path}: {layer.name} reads a single state; RepeatVector is not imported")
        cell, settings = self._cell(layer)
        count = 2 if layer.kind == "Bidirectional" else 1
        each = len(layer.weights) // count
        parts = [layer.weights[at * each : (at + 1) * each] for at in range(count)]
        self.layers.append([behind(_direction(part, cell, layer.name), self.states) for part in parts])
        how = _MERGED.get(layer.config.get("merge_mode", "concat")) if count == 2 else None
        self.states = None if how is None else merged_directions(self.layers[-1][0].hidden_size, how)
        self.cells.add(cell)
        self.gates.add(str(settings.get("recurrent_activation", "sigmoid")))
        self.gives_states = bool(settings.get("return_sequences"))

    def _cell(self, layer: Layer) -> tuple[str, Map[str, Any]]:
        """The kind of a layer's cells, lstm or gru, and its settings."""
        origin, settings, kind = f"{self._file.path}: {layer.name}", layer.config, layer.kind
        if layer.kind == "Bidirectional":
            merge_mode = layer.config.get("merge_mode", "concat")
            if merge_mode not in ("concat", *_MERGED):
                imported = " and ".join(_MERGED)
                raise CheckpointError(f"{origin} has merge_mode {merge_mode!r}; concat, {imported} are imported")
            kind, settings = layer.config["layer"]["class_name"], layer.config["layer"]["config"]
        cell = kind.removeprefix("CuDNN").lower()
        if cell not in ("lstm", "gru"):
            raise CheckpointError(f"{origin} is a {kind}; LSTM and GRU are imported")
        if kind.startswith("CuDNN"):
            raise CheckpointError(f"{origin} is a {kind}; load it, and save it as {cell.upper()}")
        problems = [name for name in ("go_backwards", "stateful") if settings.get(name)]
        if settings.get("activation", "tanh") != "tanh":
            problems.append(f"the activation {settings['activation']!r}")
        if problems:
            raise CheckpointError(f"{origin} has {problems[0]}, which the encoder does not compute")
        if cell == "gru" and not settings.get("reset_after", False):
            raise CheckpointError(
                f"{origin} is a GRU with reset_after=False, which applies the reset gate before its product; the"
                " encoder's GRU applies it after, as PyTorch does"
            )
        return cell, settings

    def _add_pooling(self, layer: Layer) -> None:
        if self.pooling is not None or self.dense or not self.gives_states:
            raise CheckpointError(f"{self._file.path}: {layer.name} does not pool the states of an LSTM or GRU")
        self.pooling = _POOLINGS[layer.kind]
        if self.is_masked and self.pooling == "max":
            self.notes.append(
                f"{layer.name}: Keras takes the maximum over the states at the padding too, so its outputs for a padded"
                " text differ from those for the text alone, which are given here"
            )

    def _add_dense(self, layer: Layer) -> None:
        if not self.layers or (self.pooling is None and self.gives_states):
            raise CheckpointError(
                f"{self._file.path}: {layer.name} is applied to every token; only layers after the pooling are imported"
            )
        kernel, *bias = layer.weights
        linear = Linear(kernel.T.contiguous(), bias[0] if bias else None, layer.name)
        self.dense.append((linear, self._activation(layer)))

    def _normalization(self, layer: Layer) -> Linear:
        """The Linear layer that a batch normalization is after training."""
        arrays = list(layer.weights)
        names = [name for name in ("scale", "center") if layer.config.get(name, True)]
        if len(arrays) != 2 + len(names):
            raise CheckpointError(f"{self._file.path}: {layer.name} has {len(arrays)} arrays, not {2 + len(names)}")
        own = dict(zip(names, arrays, strict=False))
        mean, variance = arrays[-2:]
        eps = float(layer.config.get("epsilon", 1e-3))
        found = normalization(mean, variance, own.get("scale"), own.get("center"), eps)
        return found._replace(name=layer.name)

    def _activation(self, layer: Layer) -> str:
        name = layer.config.get("activation", "linear")
        name = name.get("class_name", "").lower() if isinstance(name, Map) else str(name)
        if name not in _ACTIVATIONS:
            known = ", ".join(_ACTIVATIONS)
            raise CheckpointError(f"{self._file.path}: the activation of {layer.name} is {name!r}; there are {known}")
        return _ACTIVATIONS[name]


def _kinds(file: KerasFile) -> str:
    return ", ".join(layer.kind or layer.name for layer in file.layers)


def _recognised(file: KerasFile) -> list[Layer]:
    """Layers of a file of weights alone, recognised by the shapes of their arrays."""
    layers = []
    for layer in file.layers:
        shapes = [tuple(array.shape) for array in layer.weights]
        if len(shapes) == 1:
            kind = "Embedding"
        elif len(shapes) in (3, 6) and shapes[0][-1] == 4 * shapes[1][0]:
            kind = "LSTM"
        elif len(shapes) in (3, 6) and shapes[0][-1] == 3 * shapes[1][0]:
            kind = "GRU"
        elif len(shapes) == 2 and len(shapes[0]) == 2:
            kind = "Dense"
        else:
            raise CheckpointError(
                f"{file.path}: the layer {layer.name} has arrays of the shapes {shapes}, which are not those"
                " of an Embedding, LSTM, GRU or Dense layer"
            )
        if kind == "Dense":
            raise CheckpointError(
                f"{file.path}: a file of weights alone does not say the activation of"
                f" {layer.name}; save the whole model: model.save('model.keras')"
            )
        after = len(shapes) > 2 and len(shapes[2]) == 2  # with two biases
        config: dict[str, Any] = {"return_sequences": True, "recurrent_activation": None, "reset_after": after}
        if len(shapes) == 6:
            kind, config = "Bidirectional", {"layer": {"class_name": kind, "config": config}}
        layers.append(Layer(kind, layer.name, config, layer.weights))
    return layers


def _direction(weights: tuple[Tensor, ...], cell: str, name: str) -> Direction:
    """From Keras' [inputs, gates x units] and one bias (of a GRU two), with z before r, to PyTorch's."""
    kernel, recurrent, bias = weights[0].T, weights[1].T, weights[2:]

    def ordered(values: Tensor | None) -> Tensor | None:
        if values is None or cell == "lstm" or len(values) % 3:
            return values
        update, reset, new = values.chunk(3)
        return torch.cat([reset, update, new])

    both = bias[0] if bias else None
    inputs, states = (both[0], both[1]) if both is not None and both.dim() == 2 else (both, None)
    return Direction(ordered(kernel), ordered(recurrent), ordered(inputs), ordered(states), name)  # type: ignore[arg-type]
