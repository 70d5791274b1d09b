"""Keras files, .h5 and .keras: a chain of Embedding, LSTM or GRU, pooling and Dense layers, read with h5py.

- The layers are taken from the file's own description of the model, in the order in which they are connected. A layer
  that is not known, or a connection that is not a chain, is refused by name: no code of the file is run.
- Keras keeps a kernel as [inputs, gates x units], with one bias. Its LSTM has PyTorch's order of gates; its GRU has z,
  r.
- Which function the gates have is part of the file. `hard_sigmoid` is another function in Keras 2 and in Keras 3, so
  the version that wrote the file decides, and a file of weights alone needs the mapping to say it.
- With mask_zero, texts that are padded give the states of texts that are not. Without it, what the model was trained on
  was read with its padding: where the file says a length, the mapping has to say what becomes of it.
- The maximum over time of Keras does not see mask_zero: of a padded text it takes in the states at its padding.
"""

from __future__ import annotations

from collections.abc import Mapping as Map
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lengthwise.config import TokenizationSettings
from lengthwise.encoder.model import PackedEncoder
from lengthwise.errors import CheckpointError, ConfigError
from lengthwise.formats.extra_units import note_on_units, with_equal_sizes
from lengthwise.formats.keras_file import KerasFile, Layer
from lengthwise.formats.mapping import Mapping
from lengthwise.formats.parts import Direction, Linear, Parts, build_model
from lengthwise.formats.state_dict import classifier_labels
from lengthwise.formats.vocabulary import import_tokenizer
from lengthwise.tokens.tokenizer import TextTokenizer

_IGNORED = ("InputLayer", "Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "ActivityRegularization")
_POOLINGS = {"GlobalMaxPooling1D": "max", "GlobalMaxPool1D": "max"}
_MEANS = ("GlobalAveragePooling1D", "GlobalAvgPool1D")
_ACTIVATIONS = {
    "linear": "identity",
    "relu": "relu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "swish": "silu",
}
_HEADS = {"softmax": "softmax", "sigmoid": "sigmoid"}


def read_keras(file: KerasFile, mapping: Mapping, folder: Path) -> tuple[PackedEncoder, TextTokenizer, list[str]]:
    """An encoder of a Keras model, its tokenizer, and what a user should know.

    Args:
        mapping: says how texts become ids, and names the labels.
        folder: what the mapping's paths are relative to.

    Raises:
        CheckpointError: a layer is not one that the encoder computes, or shapes do not fit.
        ConfigError: the mapping lacks something.
    """
    _refuse_names(mapping, file)
    reader = _Reader(file, mapping)
    parts = reader.parts()
    rows = len(parts.embedding)
    tokenizer, padding, unknown = import_tokenizer(mapping.tokens, folder, None, rows, reader.notes)
    limit = mapping.tokens.max_length
    parts = replace(
        parts,
        pad_token_id=padding,
        unk_token_id=unknown,
        tokenization=TokenizationSettings(max_length=limit, truncate=limit is not None),
    )
    reader.check_mask(padding, unknown)
    filled = with_equal_sizes(parts)
    reader.notes += note_on_units(parts.layers, filled)
    return build_model(filled, tokenizer, str(file.path)), tokenizer, reader.notes


def _refuse_names(mapping: Mapping, file: KerasFile) -> None:
    given = [name for name in ("rnn", "layers", "gates", "attention", "dense", "ignore") if getattr(mapping, name)]
    if given:
        raise ConfigError(f"{file.path}: a Keras file names its own layers; leave {given[0]} out of the mapping")
    labels = mapping.classifier
    if labels is not None and (labels.layer or labels.dense or labels.per_token):
        raise ConfigError(f"{file.path}: a Keras file has its own layers; give only the labels under classifier")


class _Reader:
    """Walks along the layers of a file and collects the parts of an encoder."""

    def __init__(self, file: KerasFile, mapping: Mapping) -> None:
        self.file, self.mapping, self.notes = file, mapping, list[str]()
        self.masked = False
        self._embedding: Tensor | None = None
        self._is_one_hot = False
        self._rnns: list[tuple[Layer, str, list[Direction]]] = []
        self._pooling: str | None = None
        self._dense: list[tuple[Linear, str]] = []
        self._gates: set[str] = set()
        self._length: int | None = None
        self._built_length: int | None = None

    def parts(self) -> Parts:
        """The parts, without a tokenizer."""
        layers = self.file.layers if self.file.described else self._guessed()
        for layer in layers:
            self._add(layer)
        if not self._rnns:
            raise CheckpointError(f"{self.file.path}: has no LSTM or GRU; its layers are {self._kinds()}")
        if self._embedding is None:
            self._embedding = self._one_hot()
        elif self.mapping.embedding is not None:
            raise ConfigError(f"{self.file.path}: has an Embedding layer; leave embedding out of the mapping")
        cells = {cell for _, cell, _ in self._rnns}
        if len(cells) > 1:
            raise CheckpointError(f"{self.file.path}: has LSTM and GRU layers in one chain; the encoder has one kind")
        settings: dict[str, Any] = {}
        gate = self._gate_activation()
        if gate != "sigmoid":
            settings["gate_activation"] = gate
        self._check_padding()
        if self.mapping.padding is not None:
            settings["padding"] = self.mapping.padding
        if self.mapping.normalize:
            settings["normalize"] = True
        parts = Parts(
            self._embedding,
            [directions for _, _, directions in self._rnns],
            self._pooling_of_states(),
            cells.pop(),
            settings=settings,
        )
        return self._with_head(parts)

    def _kinds(self) -> str:
        return ", ".join(layer.kind or layer.name for layer in self.file.layers)

    def check_mask(self, padding: int, unknown: int | None) -> None:
        """Refuse ids of texts that the mask hides, and ids of padding that it does not.

        Raises:
            ConfigError: there are such.
        """
        if not self.masked:
            return
        if self._is_one_hot:
            if unknown is not None:
                raise ConfigError(
                    f"{self.file.path}: its Masking skips vectors of zeros, and tokens.unknown = {unknown} may be one;"
                    " leave unknown out, so that unknown tokens are skipped here too"
                )
            return
        if padding != 0:
            raise ConfigError(
                f"{self.file.path}: mask_zero hides the id 0, but tokens.padding is {padding}; set it to 0"
            )
        if unknown == 0:
            raise ConfigError(
                f"{self.file.path}: mask_zero hides the id 0, but tokens.unknown is 0; leave unknown out, so that"
                " unknown tokens are skipped here too"
            )

    def _one_hot(self) -> Tensor:
        if self.mapping.embedding != "one-hot":
            raise CheckpointError(
                f"{self.file.path}: has no Embedding layer; if its input is one-hot vectors, set embedding: one-hot"
            )
        self._is_one_hot = True
        inputs = self._rnns[0][2][0].weight_ih.shape[1]
        return torch.cat([torch.eye(inputs), torch.zeros(1, inputs)])

    def _guessed(self) -> list[Layer]:
        """Layers of a file of weights alone, recognised by the shapes of their arrays."""
        layers = []
        for layer in self.file.layers:
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
                    f"{self.file.path}: the layer {layer.name} has arrays of the shapes {shapes}, which are not those"
                    " of an Embedding, LSTM, GRU or Dense layer"
                )
            if kind == "Dense":
                raise CheckpointError(
                    f"{self.file.path}: a file of weights alone does not say the activation of"
                    f" {layer.name}; save the whole model: model.save('model.keras')"
                )
            after = len(shapes) > 2 and len(shapes[2]) == 2  # with two biases
            config: dict[str, Any] = {"return_sequences": True, "recurrent_activation": None, "reset_after": after}
            if len(shapes) == 6:
                kind, config = "Bidirectional", {"layer": {"class_name": kind, "config": config}}
            layers.append(Layer(kind, layer.name, config, layer.weights))
        if self.mapping.pooling is None:
            raise ConfigError(
                f"{self.file.path}: a file of weights alone says no pooling; set pooling, to last for a layer without"
                " return_sequences"
            )
        self.notes.append("a file of weights alone: the kinds of its layers are recognised by their shapes")
        return layers

    def _add(self, layer: Layer) -> None:
        if not self._rnns:
            self._length = self._length or layer.length
            self._built_length = self._built_length or layer.built_length
        if layer.kind in _IGNORED:
            return
        if layer.kind == "Embedding":
            self._add_embedding(layer)
        elif layer.kind in ("LSTM", "GRU", "CuDNNLSTM", "CuDNNGRU", "Bidirectional"):
            self._add_recurrent(layer)
        elif layer.kind in (*_POOLINGS, *_MEANS):
            self._add_pooling(layer)
        elif layer.kind == "Masking" and self._embedding is None and not self._rnns:
            self.masked = True
        elif layer.kind == "Dense":
            self._add_dense(layer)
        elif layer.kind == "Activation" and self._dense and self._dense[-1][1] == "identity":
            self._dense[-1] = (self._dense[-1][0], self._activation(layer))
        else:
            raise CheckpointError(
                f"{self.file.path}: the layer {layer.name} is a {layer.kind}, which cannot be imported at this place;"
                f" the layers are {self._kinds()}"
            )

    def _add_embedding(self, layer: Layer) -> None:
        if self._embedding is not None or self._rnns:
            raise CheckpointError(f"{self.file.path}: the Embedding {layer.name} is not the first layer")
        (self._embedding,) = layer.weights
        self.masked = bool(layer.config.get("mask_zero"))

    def _add_recurrent(self, layer: Layer) -> None:
        if self._pooling is not None or self._dense:
            raise CheckpointError(f"{self.file.path}: {layer.name} stands behind a layer that is not one of states")
        if self._rnns and not _returns_sequences(self._rnns[-1][0]):
            raise CheckpointError(f"{self.file.path}: {layer.name} reads a single state; RepeatVector is not imported")
        inner, kind = layer.config, layer.kind
        if layer.kind == "Bidirectional":
            if layer.config.get("merge_mode", "concat") != "concat":
                raise CheckpointError(
                    f"{self.file.path}: {layer.name} has merge_mode {layer.config['merge_mode']!r}; the encoder puts"
                    " the directions side by side (concat)"
                )
            kind, inner = layer.config["layer"]["class_name"], layer.config["layer"]["config"]
        cell = kind.removeprefix("CuDNN").lower()
        if cell not in ("lstm", "gru"):
            raise CheckpointError(f"{self.file.path}: {layer.name} is a {kind}; LSTM and GRU are imported")
        if kind.startswith("CuDNN"):
            raise CheckpointError(f"{self.file.path}: {layer.name} is a {kind}; load it, and save it as {cell.upper()}")
        problems = [name for name in ("go_backwards", "stateful") if inner.get(name)]
        if inner.get("activation", "tanh") != "tanh":
            problems.append(f"the activation {inner['activation']!r}")
        if problems:
            raise CheckpointError(
                f"{self.file.path}: {layer.name} has {problems[0]}, which the encoder does not compute"
            )
        self._gates.add(str(inner.get("recurrent_activation", "sigmoid")))
        if cell == "gru" and not inner.get("reset_after", False):
            raise CheckpointError(
                f"{self.file.path}: {layer.name} is a GRU with reset_after=False, which applies the reset gate before"
                " its product; the encoder's GRU applies it after, as PyTorch does"
            )
        count = 2 if layer.kind == "Bidirectional" else 1
        each = len(layer.weights) // count
        directions = [
            _direction(layer.weights[number * each : (number + 1) * each], cell, layer.name) for number in range(count)
        ]
        self._rnns.append((layer, cell, directions))

    def _gate_activation(self) -> str:
        wanted = self.mapping.gate_activation
        names = self._gates
        if names == {"None"}:
            if wanted is None:
                raise ConfigError(
                    f"{self.file.path}: a file of weights alone does not say the activation of the gates, and Keras"
                    f" {self.file.version} may have used either; set gate_activation to sigmoid (recurrent_activation"
                    " of tf.keras and Keras since 2.3) or hard_sigmoid_keras2 (Keras before 2.3)"
                )
            return wanted
        if len(names) > 1:
            raise CheckpointError(f"{self.file.path}: its layers have different recurrent activations: {sorted(names)}")
        (name,) = names
        if name == "hard_sigmoid":
            if not self.file.version:
                raise CheckpointError(f"{self.file.path}: hard_sigmoid, without the version of Keras that says which")
            name = f"hard_sigmoid_keras{3 if self.file.version.startswith('3') else 2}"
        if name not in ("sigmoid", "hard_sigmoid_keras2", "hard_sigmoid_keras3"):
            raise CheckpointError(
                f"{self.file.path}: recurrent_activation is {name!r}; there are sigmoid and hard_sigmoid"
            )
        if wanted is not None and wanted != name:
            raise ConfigError(f"{self.file.path}: the file says {name}, but the mapping gate_activation: {wanted}")
        return name

    def _add_pooling(self, layer: Layer) -> None:
        if self._pooling is not None or self._dense or not self._rnns or not _returns_sequences(self._rnns[-1][0]):
            raise CheckpointError(f"{self.file.path}: {layer.name} does not pool the states of an LSTM or GRU")
        self._pooling = _POOLINGS.get(layer.kind, "mean")
        if self.masked and self._pooling == "max":
            self.notes.append(
                f"{layer.name}: Keras takes the maximum over the states at the padding too, so its outputs for a padded"
                " text differ from those for the text alone, which are given here"
            )

    def _add_dense(self, layer: Layer) -> None:
        if not self._rnns or (self._pooling is None and _returns_sequences(self._rnns[-1][0])):
            raise CheckpointError(
                f"{self.file.path}: {layer.name} is applied to every token; only layers after the pooling are imported"
            )
        kernel, *bias = layer.weights
        linear = Linear(kernel.T.contiguous(), bias[0] if bias else None, layer.name)
        self._dense.append((linear, self._activation(layer)))

    def _activation(self, layer: Layer) -> str:
        name = layer.config.get("activation", "linear")
        name = name.get("class_name", "").lower() if isinstance(name, Map) else str(name)
        if name not in _ACTIVATIONS and name not in _HEADS:
            known = ", ".join((*_ACTIVATIONS, *_HEADS))
            raise CheckpointError(f"{self.file.path}: the activation of {layer.name} is {name!r}; there are {known}")
        return name if name in _HEADS else _ACTIVATIONS[name]

    def _pooling_of_states(self) -> str:
        found = self._pooling
        if self.file.described:
            found = found or ("end" if _returns_sequences(self._rnns[-1][0]) else "last")
            if found == "end":
                raise CheckpointError(f"{self.file.path}: its last layer gives all states, which nothing pools")
            wanted = self.mapping.pooling
            if wanted not in (None, found):
                raise ConfigError(f"{self.file.path}: the file pools by {found}, but the mapping says {wanted}")
            return found
        return self.mapping.pooling or "last"

    def _check_padding(self) -> None:
        if self._length is not None and not self.masked and self.mapping.padding is None:
            raise ConfigError(
                f"{self.file.path}: was trained on texts of {self._length} tokens, padded and without mask_zero, so"
                f" padding is part of what it computes; set padding: {{to: {self._length}, side: pre, truncate: pre}}"
                " in the mapping (pre is the default of Keras' pad_sequences for both, post of its TextVectorization)"
            )
        if not self.masked and self.mapping.padding is None and self.file.described:
            built = (
                "" if self._built_length is None else f", such as the {self._built_length} tokens that it was built for"
            )
            self.notes.append(f"no mask_zero: if it was trained on padded texts, set padding to their length{built}")
        if self.mapping.padding is not None and self.masked:
            raise ConfigError(f"{self.file.path}: its Embedding has mask_zero, so none is read; leave padding out")

    def _with_head(self, parts: Parts) -> Parts:
        """The Dense layers as a head if the mapping names labels or the last one gives probabilities."""
        dense, head = self._dense, self.mapping.classifier
        last = dense[-1][1] if dense else None
        if head is None and last == "softmax":
            raise ConfigError(
                f"{self.file.path}: its last layer gives {len(dense[-1][0].weight)} probabilities (softmax); name them:"
                " classifier: {labels: [...]}"
            )
        if head is None or not dense:
            return replace(parts, dense=dense)
        if last not in (*_HEADS, "identity"):
            raise CheckpointError(
                f"{self.file.path}: the activation of {dense[-1][0].name} is {last}; a classifier gives logits, softmax"
                " or sigmoid. Leave classifier out if this is the vector"
            )
        activation = last if last in _HEADS else "identity"
        labels = classifier_labels(head, dense[-1][0], None)
        return replace(parts, head=[*dense[:-1], (dense[-1][0], "identity")], labels=labels, head_activation=activation)


def _returns_sequences(layer: Layer) -> bool:
    config = layer.config["layer"]["config"] if layer.kind == "Bidirectional" else layer.config
    return bool(config.get("return_sequences"))


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
