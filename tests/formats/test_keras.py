"""Keras files against Keras itself, and what cannot be computed is refused by name."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lengthwise.errors import LengthwiseError
from lengthwise.formats.importing import ImportedModel, import_model
from lengthwise.formats.inspection import inspect_source
from lengthwise.formats.mapping import Mapping
from lengthwise.util.settings import parse_settings

h5py = pytest.importorskip("h5py", reason="h5py is not installed")
ONE_HOT = {"tokens": list("abcdef"), "unit": "characters", "unknown": 6, "padding": 6}
WORDS = ["<pad>", *(f"w{number}" for number in range(1, 12))]
TOKENS = {"tokens": {"tokens": WORDS, "padding": "<pad>"}}


@pytest.fixture(scope="module")
def keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    return pytest.importorskip("keras", reason="keras is not installed")


def imported(path: Path, **changes: Any) -> ImportedModel:
    return import_model(path, parse_settings(Mapping, {**TOKENS, **changes}, "mapping"))


def refusal(path: Path, **changes: Any) -> str:
    with pytest.raises(LengthwiseError) as raised:
        imported(path, **changes)
    return str(raised.value)


def outputs(model: ImportedModel, ids: np.ndarray) -> np.ndarray:
    """What the last layer of the Keras model gives: probabilities of a model with labels, else vectors."""
    encoder = model.encoder
    with torch.no_grad():
        found = encoder(torch.from_numpy(ids), torch.full((len(ids),), ids.shape[1]))
        if getattr(encoder, "classifier", None) is None:
            return found.numpy()
        logits = encoder.classifier(found)
        return (logits.softmax(1) if encoder.config.classifier.activation == "softmax" else logits.sigmoid()).numpy()


def check(
    keras: Any, layers: list[Any], tmp_path: Path, pad_to: int | None = None, *, positive: bool = False, **changes: Any
) -> None:
    """Save a model as both kinds of files, and compare what it gives with what is imported from each."""
    keras.utils.set_random_seed(4)
    net = keras.Sequential(layers)
    for layer in net.layers:
        drawn = [np.random.default_rng(1).normal(size=weight.shape) * 0.5 for weight in layer.get_weights()]
        layer.set_weights([np.abs(values) if positive else values for values in drawn])
    rows = [np.random.default_rng(n).integers(1, len(WORDS), (3, n)) for n in (1, 2, 9)]
    for name in ("net.keras", "net.h5"):
        net.save(tmp_path / name)
        model = imported(tmp_path / name, **changes)
        for ids in rows:
            fed = ids if pad_to is None else np.pad(ids, ((0, 0), (pad_to - ids.shape[1], 0)))
            expected = np.asarray(net(fed).detach())
            assert np.ptp(expected) > 1e-3
            np.testing.assert_allclose(outputs(model, ids), expected, atol=1e-6, rtol=0)


def test_layers_of_different_sizes_and_directions(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    stack = [
        layers.Input((None,), dtype="int32"),
        layers.Embedding(12, 6, mask_zero=True),
        layers.SpatialDropout1D(0.2),
        layers.Bidirectional(layers.LSTM(5, return_sequences=True)),
        layers.LSTM(4, return_sequences=True),
        layers.GlobalAveragePooling1D(),
    ]
    check(keras, stack, tmp_path)


@pytest.mark.slow
def test_labels_gru_padding_and_hard_gates(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    start = [layers.Input((None,), dtype="int32"), layers.Embedding(12, 6)]
    dense = [layers.Dense(7, activation="relu"), layers.Dense(3, activation="softmax")]
    check(
        keras, [*start, layers.LSTM(4), layers.Dropout(0.3), *dense], tmp_path, classifier={"labels": ["a", "b", "c"]}
    )
    fixed = [layers.Input((20,), dtype="int32"), layers.Embedding(12, 6)]
    recurrent = layers.Bidirectional(layers.GRU(5, return_sequences=True))
    padded = [*fixed, recurrent, layers.GlobalMaxPooling1D(), layers.Dense(1, activation="sigmoid")]
    padding = {"to": 20, "side": "pre", "truncate": "pre"}
    check(keras, padded, tmp_path, pad_to=20, padding=padding, classifier={"labels": ["yes"]})
    check(keras, [*start, layers.LSTM(4, recurrent_activation="hard_sigmoid")], tmp_path)
    added = [layers.Bidirectional(layers.LSTM(4, return_sequences=True), merge_mode="ave")]
    added += [layers.Bidirectional(layers.GRU(3, return_sequences=True), merge_mode="sum")]
    with pytest.raises(LengthwiseError, match="LSTM and GRU layers in one chain"):
        check(keras, [*start, *added, layers.GlobalAveragePooling1D()], tmp_path)
    added[1] = layers.Bidirectional(layers.LSTM(3, return_sequences=True), merge_mode="sum")
    check(keras, [*start, *added, layers.GlobalAveragePooling1D(), layers.Dense(5)], tmp_path)
    with pytest.raises(LengthwiseError, match="the sum of both directions"):
        check(keras, [*start, *added, layers.GlobalMaxPooling1D()], tmp_path)
    norms = [layers.BatchNormalization(), layers.Dense(5), layers.BatchNormalization(scale=False, epsilon=0.01)]
    check(keras, [*start, layers.LSTM(4), *norms, layers.Activation("tanh")], tmp_path, positive=True)


def described(path: Path, *layers: tuple[str, dict[str, Any]], version: str = "2.15.0") -> Path:
    """A .h5 file of Keras 2 whose description names these layers, with weights for an Embedding and an LSTM."""
    entries = [
        {"class_name": kind, "config": {"name": f"layer{number}", **config}}
        for number, (kind, config) in enumerate(layers)
    ]
    random = np.random.default_rng(0)
    lstm = {"kernel:0": (6, 16), "recurrent_kernel:0": (4, 16), "bias:0": (16,)}
    shapes = {
        "Embedding": {"embeddings:0": (12, 6)},
        "LSTM": lstm,
        "GRU": {"kernel:0": (6, 12), "recurrent_kernel:0": (4, 12), "bias:0": (12,)},
        "Dense": {"kernel:0": (4, 2), "bias:0": (2,)},
        "Bidirectional": {f"{way}/{name}": shape for way in ("a", "b") for name, shape in lstm.items()},
    }
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": entries}})
        file.attrs["keras_version"] = version
        weights = file.create_group("model_weights")
        for number, (kind, _) in enumerate(layers):
            group = weights.create_group(f"layer{number}")
            arrays = shapes.get(kind, {})
            group.attrs["weight_names"] = [f"layer{number}/{name}".encode() for name in arrays]
            for name, shape in arrays.items():
                group[f"layer{number}/{name}"] = random.normal(size=shape).astype(np.float32)
    return path


def test_what_cannot_be_computed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.h5"
    embedding, lstm = ("Embedding", {}), ("LSTM", {})
    assert imported(described(path, embedding, lstm)).encoder.config.pooling == "last"
    assert "layer1 is a Conv1D" in refusal(described(path, embedding, ("Conv1D", {}), lstm))
    assert "has the activation 'relu'" in refusal(described(path, embedding, ("LSTM", {"activation": "relu"})))
    assert "has go_backwards" in refusal(described(path, embedding, ("LSTM", {"go_backwards": True})))
    assert "reset_after=False" in refusal(described(path, embedding, ("GRU", {"reset_after": False})))
    assert "recurrent_activation is 'relu'" in refusal(
        described(path, embedding, ("LSTM", {"recurrent_activation": "relu"}))
    )
    assert "which nothing pools" in refusal(described(path, embedding, ("LSTM", {"return_sequences": True})))
    padded = described(path, ("Embedding", {"input_length": 50}), lstm)
    assert "padding: {to: 50, side: pre, truncate: pre}" in refusal(padded)
    inside = {"layer": {"class_name": "LSTM", "config": {"batch_input_shape": [None, 40, 6]}}}
    for settings in ({"batch_input_shape": [None, 40, 6]}, {"batch_shape": [None, 40, 6]}):
        assert "texts of 40 tokens" in refusal(described(path, ("LSTM", settings)), embedding="one-hot", tokens=ONE_HOT)
    both = described(path, ("Bidirectional", inside))
    assert "texts of 40 tokens" in refusal(both, embedding="one-hot", tokens=ONE_HOT)
    softmax = described(path, embedding, lstm, ("Dense", {"activation": "softmax"}))
    assert "2 probabilities (softmax); name them" in refusal(softmax)
    assert "leave rnn out of the mapping" in refusal(softmax, rnn="lstm")
    assert "the vocabulary has the id 12" in refusal(described(path, embedding, lstm), tokens={"tokens": [*WORDS, "x"]})
    assert "has no LSTM or GRU" in refusal(described(path, embedding))
    assert "set embedding: one-hot" in refusal(described(path, lstm))


def test_an_inspection_asks_for_labels_where_there_are_probabilities(tmp_path: Path) -> None:
    for activation, labels in (("softmax", ["label0", "label1"]), ("linear", None)):
        path = described(tmp_path / "net.h5", ("Embedding", {}), ("LSTM", {}), ("Dense", {"activation": activation}))
        _, mapping = inspect_source(path)
        found = yaml.safe_load(mapping)
        assert found.get("classifier", {}).get("labels") == labels
        assert "tokens: # 12 ids" in mapping


def test_a_head_that_is_no_classifier_is_refused(tmp_path: Path) -> None:
    path, labels = tmp_path / "net.h5", {"labels": ["a", "b"]}
    for activation in ("relu", "tanh", "silu"):
        described(path, ("Embedding", {}), ("LSTM", {}), ("Dense", {"activation": activation}))
        assert f"is {activation}; a classifier gives logits" in refusal(path, classifier=labels)
    head = imported(described(path, ("Embedding", {}), ("LSTM", {}), ("Dense", {})), classifier=labels).encoder.config
    assert head.classifier is not None
    assert head.classifier.activation == "identity"


def test_what_a_mask_hides_is_no_id_of_a_text(tmp_path: Path) -> None:
    path = described(tmp_path / "net.h5", ("Embedding", {"mask_zero": True}), ("LSTM", {}))
    assert "mask" not in "".join(imported(path).notes)
    assert "tokens.unknown is 0" in refusal(path, tokens={**TOKENS["tokens"], "unknown": "<pad>"})
    assert "leave embedding out" in refusal(path, embedding="one-hot")
    described(path, ("Masking", {}), ("LSTM", {}))
    assert "skips vectors of zeros" in refusal(path, embedding="one-hot", tokens=ONE_HOT)
    tokens = {**ONE_HOT, "unknown": None}
    assert imported(path, embedding="one-hot", tokens=tokens).encoder.config.unk_token_id is None
    states = ("LSTM", {"return_sequences": True})
    described(path, ("Embedding", {"mask_zero": True}), states, ("GlobalMaxPooling1D", {}))
    assert "the maximum over the states at the padding too" in imported(path).notes[0]
    assert "no mask_zero" in imported(described(path, ("Embedding", {}), ("LSTM", {}))).notes[0]


def new_weights(path: Path, layers: dict[str, list[tuple[int, ...]]]) -> Path:
    """A file of weights alone, as Keras 3 writes it."""
    with h5py.File(path, "w") as file:
        for name, shapes in layers.items():
            for number, shape in enumerate(shapes):
                file[f"layers/{name}/vars/{number}"] = np.full(shape, float(name[-1:] == "1"), np.float32)
            file[f"layers/{name}/seed_generator/vars/0"] = np.zeros(2, np.uint32)
    return path


def test_weights_of_keras_3_alone_are_put_in_order(tmp_path: Path) -> None:
    lstm, below = [(4, 16), (4, 16), (16,)], [(6, 16), (4, 16), (16,)]
    layers = {"a_lstm_10": lstm, "a_lstm_1": below, "a_lstm_2": lstm, "embedding": [(12, 6)]}
    path = new_weights(tmp_path / "net.weights.h5", layers)
    changes = {"pooling": "last", "gate_activation": "sigmoid"}
    encoder = imported(path, **changes).encoder
    assert encoder.config.num_layers == 3
    assert float(encoder.state_dict()["lstm.weight_ih_l0"].min()) == 1.0
    gru = new_weights(path, {"embedding": [(12, 6)], "gru": [(6, 12), (4, 12), (12,)]})
    assert "reset_after=False" in refusal(gru, **changes)
    both = {"bidirectional": [*below, *below], "embedding": [(12, 6)], "lstm": [(8, 16), (4, 16), (16,)]}
    assert "in which order bidirectional, lstm are" in refusal(new_weights(path, both), **changes)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    data = described(tmp_path / "net.h5", ("Embedding", {}), ("LSTM", {})).read_bytes()
    (tmp_path / "cut.h5").write_bytes(data[: len(data) // 2])
    assert "not a Keras file that can be read" in refusal(tmp_path / "cut.h5")
    with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    assert "not a Keras file that can be read" in refusal(tmp_path / "net.keras")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["values"] = np.zeros(3)
    assert "not one that Keras wrote" in refusal(tmp_path / "other.h5")


def test_weights_alone_do_not_say_their_gates(tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"lstm"]
        file.attrs["keras_version"] = "2.2.0"
        group = file.create_group("lstm")
        group.attrs["weight_names"] = [b"kernel:0", b"recurrent_kernel:0", b"bias:0"]
        for name, shape in (("kernel:0", (11, 16)), ("recurrent_kernel:0", (4, 16)), ("bias:0", (16,))):
            group[name] = np.ones(shape, np.float32)
    tokens = {"tokens": list("abcdefghijk"), "unit": "characters", "unknown": 11, "padding": 11}
    changes = {"embedding": "one-hot", "tokens": tokens}
    assert "a file of weights alone says no pooling" in refusal(path, **changes)
    assert "set gate_activation to sigmoid" in refusal(path, pooling="last", **changes)
    model = imported(path, pooling="last", gate_activation="sigmoid", **changes)
    assert torch.equal(model.encoder.embedding.weight, torch.cat([torch.eye(11), torch.zeros(1, 11)]))
