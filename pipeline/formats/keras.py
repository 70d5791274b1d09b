"""Keras files, .h5 and .keras: a chain of Embedding, LSTM or GRU, pooling and Dense layers, read with h5py.

- The layers are taken from the file's own description of the model, in the order in which they are connected
  (`keras_file`, `keras_layers`). No code of the file is run.
- Which function the gates have is part of the file. `hard_sigmoid` is another function in Keras 2 and in Keras 3, so
  the version that wrote the file decides, and a file of weights alone needs the mapping to say it.
- With mask_zero, texts that are padded give the states of texts that are not. Without it, what the model was trained on
  was read with its padding: where the file says a length, the mapping has to say what becomes of it.
- The maximum over time of Keras does not see mask_zero: of a padded text it takes in the states at its padding.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lengthwise.config import TokenizationSettings
from lengthwise.encoder.model import PackedEncoder
from lengthwise.errors import CheckpointError, ConfigError
from lengthwise.formats.extra_units import note_on_units, with_equal_sizes
from lengthwise.formats.keras_file import KerasFile
from lengthwise.formats.keras_layers import PROBABILITIES, Chain
from lengthwise.formats.mapping import ONE_HOT, Mapping
from lengthwise.formats.parts import Parts, build_model
from lengthwise.formats.projections import with_projected_states
from lengthwise.formats.state_dict import classifier_labels
from lengthwise.formats.vocabulary import import_tokenizer
from lengthwise.tokens.tokenizer import TextTokenizer

_UNSAID = {"None"}  # the activations of the gates, in a file of weights alone


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
    chain = Chain(file)
    pooling = _pooling(file, chain, mapping)
    settings: dict[str, Any] = {"normalize": True} if mapping.normalize else {}
    gate = _gate_activation(file, chain, mapping)
    if gate != "sigmoid":
        settings["gate_activation"] = gate
    if mapping.padding is not None:
        settings["padding"] = mapping.padding
    notes = [*chain.notes, *_padding_notes(file, chain, mapping)]
    (cell,) = chain.cells
    embedding = _embedding(file, chain, mapping)
    tokenizer, padding, unknown = import_tokenizer(mapping.tokens, folder, None, len(embedding), notes)
    limit = mapping.tokens.max_length
    parts = Parts(
        embedding,
        chain.layers,
        pooling,
        cell,
        settings=settings,
        pad_token_id=padding,
        unk_token_id=unknown,
        tokenization=TokenizationSettings(max_length=limit, truncate=limit is not None),
    )
    if chain.is_masked:
        _check_mask(file, chain, padding, unknown)
    parts = with_projected_states(_with_head(file, chain, mapping, parts), chain.states, str(file.path))
    filled = with_equal_sizes(parts)
    notes += note_on_units(chain.layers, filled)
    return build_model(filled, tokenizer, str(file.path)), tokenizer, notes


def _refuse_names(mapping: Mapping, file: KerasFile) -> None:
    names = ("rnn", "merge", "layers", "gates", "attention", "dense", "ignore")
    given = [name for name in names if getattr(mapping, name)]
    if given:
        raise ConfigError(f"{file.path}: a Keras file names its own layers; leave {given[0]} out of the mapping")
    labels = mapping.classifier
    if labels is not None and (labels.layer or labels.dense or labels.per_token):
        raise ConfigError(f"{file.path}: a Keras file has its own layers; give only the labels under classifier")


def _embedding(file: KerasFile, chain: Chain, mapping: Mapping) -> Tensor:
    """The table of embeddings; of one-hot vectors an identity, and a row of zeros for what is not in the vocabulary."""
    if chain.embedding is not None:
        if mapping.embedding is not None:
            raise ConfigError(f"{file.path}: has an Embedding layer; leave embedding out of the mapping")
        return chain.embedding
    if mapping.embedding != ONE_HOT:
        raise CheckpointError(
            f"{file.path}: has no Embedding layer; if its input is one-hot vectors, set embedding: {ONE_HOT}"
        )
    inputs = chain.layers[0][0].weight_ih.shape[1]
    return torch.cat([torch.eye(inputs), torch.zeros(1, inputs)])


def _gate_activation(file: KerasFile, chain: Chain, mapping: Mapping) -> str:
    wanted = mapping.gate_activation
    if chain.gates == _UNSAID:
        if wanted is None:
            raise ConfigError(
                f"{file.path}: a file of weights alone does not say the activation of the gates, and Keras"
                f" {file.version} may have used either; set gate_activation to sigmoid (recurrent_activation of"
                " tf.keras and Keras since 2.3) or hard_sigmoid_keras2 (Keras before 2.3)"
            )
        return wanted
    if len(chain.gates) > 1:
        raise CheckpointError(f"{file.path}: its layers have different recurrent activations: {sorted(chain.gates)}")
    (name,) = chain.gates
    if name == "hard_sigmoid":
        if not file.version:
            raise CheckpointError(f"{file.path}: hard_sigmoid, without the version of Keras that says which")
        name = f"hard_sigmoid_keras{3 if file.version.startswith('3') else 2}"
    if name not in ("sigmoid", "hard_sigmoid_keras2", "hard_sigmoid_keras3"):
        raise CheckpointError(f"{file.path}: recurrent_activation is {name!r}; there are sigmoid and hard_sigmoid")
    if wanted is not None and wanted != name:
        raise ConfigError(f"{file.path}: the file says {name}, but the mapping gate_activation: {wanted}")
    return name


def _pooling(file: KerasFile, chain: Chain, mapping: Mapping) -> str:
    """How the states of the last layer become one vector."""
    if not file.described:
        if mapping.pooling is None:
            raise ConfigError(
                f"{file.path}: a file of weights alone says no pooling; set pooling, to last for a layer without"
                " return_sequences"
            )
        return mapping.pooling
    found = chain.pooling or ("" if chain.gives_states else "last")
    if not found:
        raise CheckpointError(f"{file.path}: its last layer gives all states, which nothing pools")
    if mapping.pooling not in (None, found):
        raise ConfigError(f"{file.path}: the file pools by {found}, but the mapping says {mapping.pooling}")
    return found


def _padding_notes(file: KerasFile, chain: Chain, mapping: Mapping) -> list[str]:
    """What a user should know of padding that was read in training.

    Raises:
        ConfigError: the mapping does not say what the file needs, or says what it contradicts.
    """
    if mapping.padding is not None:
        if chain.is_masked:
            raise ConfigError(f"{file.path}: its Embedding has mask_zero, so none is read; leave padding out")
        return []
    if chain.is_masked:
        return []
    if chain.length is not None:
        raise ConfigError(
            f"{file.path}: was trained on texts of {chain.length} tokens, padded and without mask_zero, so padding is"
            f" part of what it computes; set padding: {{to: {chain.length}, side: pre, truncate: pre}} in the mapping"
            " (pre is the default of Keras' pad_sequences for both, post of its TextVectorization)"
        )
    if not file.described:
        return []
    built = "" if chain.built_length is None else f", such as the {chain.built_length} tokens that it was built for"
    return [f"no mask_zero: if it was trained on padded texts, set padding to their length{built}"]


def _check_mask(file: KerasFile, chain: Chain, padding: int, unknown: int | None) -> None:
    """Refuse ids of texts that the mask hides, and ids of padding that it does not.

    Raises:
        ConfigError: there are such.
    """
    if chain.embedding is None:
        if unknown is not None:
            raise ConfigError(
                f"{file.path}: its Masking skips vectors of zeros, and tokens.unknown = {unknown} may be one; leave"
                " unknown out, so that unknown tokens are skipped here too"
            )
        return
    if padding != 0:
        raise ConfigError(f"{file.path}: mask_zero hides the id 0, but tokens.padding is {padding}; set it to 0")
    if unknown == 0:
        raise ConfigError(
            f"{file.path}: mask_zero hides the id 0, but tokens.unknown is 0; leave unknown out, so that unknown tokens"
            " are skipped here too"
        )


def _with_head(file: KerasFile, chain: Chain, mapping: Mapping, parts: Parts) -> Parts:
    """The Dense layers as a head if the mapping names labels or the last one gives probabilities."""
    head = mapping.classifier
    if not chain.dense:
        if head is not None:
            raise ConfigError(f"{file.path}: has no Dense layer that gives logits; leave classifier out")
        return parts
    *others, (output, activation) = chain.dense
    if head is None and activation == "softmax":
        raise ConfigError(
            f"{file.path}: its last layer gives {len(output.weight)} probabilities (softmax); name them: classifier:"
            " {labels: [...]}"
        )
    if head is None:
        return replace(parts, dense=chain.dense)
    if activation not in (*PROBABILITIES, "identity"):
        raise CheckpointError(
            f"{file.path}: the activation of {output.name} is {activation}; a classifier gives logits, softmax or"
            " sigmoid. Leave classifier out if this is the vector"
        )
    labels = classifier_labels(head, output, None)
    return replace(parts, head=[*others, (output, "identity")], labels=labels, head_activation=activation)
