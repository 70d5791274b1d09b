"""What a Keras file holds, .h5 or .keras: the layers of a chain in their order, with settings and arrays.

The layers are taken from the file's own description of the model. No code of the file is run, and a connection that is
not a chain is refused.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping as Map
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lengthwise.errors import CheckpointError, ConfigError

SUFFIXES = (".h5", ".hdf5", ".keras")
_SEEDS = "seed_generator"  # of Dropout, whole numbers


@dataclass(frozen=True)
class Layer:
    """A layer of a Keras model.

    Attributes:
        kind: the name of its class.
        name: its own.
        config: its settings.
        weights: its arrays, in Keras' order: kernel, recurrent kernel, bias; of a Bidirectional, forward then backward.
        built: what Keras 3 notes of the shapes that it was built for.
    """

    kind: str
    name: str
    config: Map[str, Any]
    weights: tuple[Tensor, ...]
    built: Map[str, Any] = field(default_factory=dict)

    @property
    def length(self) -> int | None:
        """The number of tokens that it takes, if it says one."""
        inner = self.config.get("layer")
        configs = [self.config, inner.get("config", {}) if isinstance(inner, Map) else {}]
        if isinstance(self.config.get("input_length"), int):
            return int(self.config["input_length"])
        found = [_steps(each.get(key)) for each in configs for key in ("batch_shape", "batch_input_shape")]
        return next((size for size in found if size is not None), None)

    @property
    def built_length(self) -> int | None:
        """The number of tokens of the first texts that it read, if that is in the file."""
        return _steps(self.built.get("input_shape"))


def _steps(shape: Any) -> int | None:
    """The second number of a shape [batch, tokens, ...], if it is fixed."""
    return shape[1] if isinstance(shape, list | tuple) and len(shape) > 1 and isinstance(shape[1], int) else None


@dataclass(frozen=True)
class KerasFile:
    """What a file holds.

    Attributes:
        path: the file.
        version: of the Keras that wrote it.
        layers: in the order in which they are connected.
        described: whether the file describes its layers; else only their weights are known.
    """

    path: Path
    version: str
    layers: tuple[Layer, ...]
    described: bool


def read_keras_file(path: Path) -> KerasFile:
    """Read the layers of a .keras or .h5 file.

    Raises:
        CheckpointError: it is damaged, or its layers are not a chain.
        ConfigError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise ConfigError(f"{path}: reading Keras files needs h5py; run pip install 'lengthwise[import]'") from None
    try:
        if path.suffix.lower() == ".keras":
            with zipfile.ZipFile(path) as archive:
                config = json.loads(archive.read("config.json"))
                version = str(json.loads(archive.read("metadata.json")).get("keras_version", ""))
                with h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as file:
                    return KerasFile(path, version, _new_layers(config, file, path), True)
        with h5py.File(path, "r") as file:
            return _read_h5(path, file)
    except (OSError, KeyError, ValueError, RecursionError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise CheckpointError(f"{path}: not a Keras file that can be read ({error}); get the file again") from error


def _read_h5(path: Path, file: Any) -> KerasFile:
    version = _text(file.attrs.get("keras_version", ""))
    if "model_config" in file.attrs:
        described = _chain(json.loads(_text(file.attrs["model_config"])), path)
        group = file["model_weights"]
        version = version or _text(group.attrs.get("keras_version", ""))
        layers = [replace(layer, weights=_old_weights(group, layer.name)) for layer in described]
        return KerasFile(path, version, tuple(layers), True)
    if "layer_names" in file.attrs:
        names = [_text(name) for name in file.attrs["layer_names"]]
        found = [Layer("", name, {}, _old_weights(file, name)) for name in names]
        return KerasFile(path, version, tuple(layer for layer in found if layer.weights), False)
    if "layers" in file:
        found = [Layer("", name, {}, _all_arrays(group)) for name, group in file["layers"].items()]
        return KerasFile(path, "3", _in_order([layer for layer in found if layer.weights], path), False)
    raise CheckpointError(f"{path}: an HDF5 file, but not one that Keras wrote")


def _in_order(layers: list[Layer], path: Path) -> tuple[Layer, ...]:
    """Layers of a new file of weights, which keeps them by name: the Embedding first, then by number.

    Raises:
        CheckpointError: there are recurrent layers of two classes, whose order only the model knows.
    """
    kinds = {re.sub(r"_\d+$", "", layer.name) for layer in layers if len(layer.weights) > 2}
    if len(kinds) > 1:
        raise CheckpointError(
            f"{path}: a file of weights alone does not say in which order {', '.join(sorted(kinds))} are; save the"
            " whole model: model.save('model.keras')"
        )

    def place(layer: Layer) -> tuple[bool, int]:
        number = re.search(r"_(\d+)$", layer.name)
        return len(layer.weights) > 1, int(number[1]) if number else 0

    return tuple(sorted(layers, key=place))


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _array(dataset: Any) -> Tensor:
    values = np.asarray(dataset)
    if values.dtype.kind != "f":
        raise ValueError(f"{dataset.name} holds {values.dtype}, not floats")
    return torch.from_numpy(values.astype(np.float32))


def _old_weights(group: Any, name: str) -> tuple[Tensor, ...]:
    if name not in group:  # a layer without weights
        return ()
    names = [_text(each) for each in group[name].attrs.get("weight_names", ())]
    return tuple(_array(group[name][each]) for each in names if _SEEDS not in each)


def _all_arrays(group: Any) -> tuple[Tensor, ...]:
    """Arrays below a group of a new file, as Keras orders them: forward before backward, then by number."""
    found: list[tuple[str, Tensor]] = []

    def add(name: str, node: Any) -> None:
        if hasattr(node, "shape") and _SEEDS not in name:
            found.append((name, _array(node)))

    group.visititems(add)
    return tuple(array for _, array in sorted(found, key=lambda item: _place(item[0])))


def _place(name: str) -> tuple[bool, list[int]]:
    return "backward" in name, [int(part) for part in name.split("/") if part.isdecimal()]


def _new_layers(config: Any, file: Any, path: Path) -> tuple[Layer, ...]:
    """Layers of a .keras file, whose weights are under the name of a layer's class and its number among them."""
    container = file["layers"] if "layers" in file else file["_layer_checkpoint_dependencies"]
    counts: Counter[str] = Counter()
    layers = []
    for layer in _chain(config, path):
        base = _snake_case(layer.kind)
        name = base if not counts[base] else f"{base}_{counts[base]}"
        counts[base] += 1
        layers.append(replace(layer, weights=_all_arrays(container[name]) if name in container else ()))
    return tuple(layers)


def _snake_case(name: str) -> str:
    """The name under which Keras saves a class: SpatialDropout1D is spatial_dropout1d, LSTM is lstm."""
    parted = re.sub(r"\W+", "", name)
    parted = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", parted)
    return re.sub("([a-z])([A-Z])", r"\1_\2", parted).lower()


def _chain(config: Any, path: Path) -> list[Layer]:
    """The layers of a model's description, without weights, in the order in which they are connected."""
    kind, settings = config["class_name"], config["config"]
    if kind not in ("Sequential", "Functional", "Model"):
        raise CheckpointError(
            f"{path}: a model of the class {kind!r}, whose code is not in the file; Sequential and"
            " functional models are imported"
        )
    entries = settings if isinstance(settings, list) else settings["layers"]  # a list in Keras before 2.2
    for entry in entries:
        if entry["class_name"] in ("Sequential", "Functional", "Model"):
            name = entry["config"].get("name")
            raise CheckpointError(f"{path}: has a model within the model ({name}); save the inner one")
    if kind == "Sequential":
        return [_layer(entry) for entry in entries]
    readers: dict[str, list[str]] = {}
    by_name = {entry.get("name", entry["config"].get("name")): entry for entry in entries}
    for name, entry in by_name.items():
        for source in _sources(entry.get("inbound_nodes", [])):
            readers.setdefault(source, []).append(name)
    starts = [name for name, entry in by_name.items() if not _sources(entry.get("inbound_nodes", []))]
    if len(starts) != 1 or any(len(names) != 1 for names in readers.values()):
        names = ", ".join(by_name)
        raise CheckpointError(f"{path}: its layers are not a chain ({names}); a model with branches cannot be imported")
    chain = starts
    while chain[-1] in readers:
        chain.append(readers[chain[-1]][0])
    return [_layer(by_name[name]) for name in chain]


def _sources(node: Any) -> set[str]:
    """The layers that a description of connections names, in the form of Keras 2 or 3."""
    if isinstance(node, Map):
        history = node.get("keras_history")
        found = {history[0]} if isinstance(history, list) and history else set()
        return found.union(*(_sources(each) for each in node.values()))
    if isinstance(node, list):
        if len(node) >= 3 and isinstance(node[0], str) and all(isinstance(each, int) for each in node[1:3]):
            return {node[0]}
        return set[str]().union(*(_sources(each) for each in node))
    return set()


def _layer(entry: Map[str, Any]) -> Layer:
    settings = entry["config"]
    return Layer(
        entry["class_name"],
        entry.get("name") or settings.get("name", ""),
        settings,
        (),
        entry.get("build_config") or {},
    )
