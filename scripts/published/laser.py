"""LASER's layout with seeded weights, since its own are not in the package index: a file as its authors save one.

The embedding has 320 values, five bidirectional LSTM layers have 512 units per direction, and a vector is the maximum
over the states. A sentence ends with `</s>`; padding, which no state may read, is token 1. The vocabulary is small
here: it changes the rows of a table, and nothing of how a sentence is read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

LAYERS, HIDDEN, EMBEDDING = 5, 512, 320
WORDS = 1_000
FILE = "laser.pt"


def write_laser(folder: Path) -> Path:
    """Write the file, of seeded weights; the folder that it is in."""
    torch.manual_seed(3)
    dictionary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    dictionary |= {f"word{number}": len(dictionary) + number for number in range(WORDS)}
    embedding = nn.Embedding(len(dictionary), EMBEDDING, padding_idx=dictionary["<pad>"])
    lstm = nn.LSTM(EMBEDDING, HIDDEN, LAYERS, bidirectional=True)
    parts = {"embed_tokens": embedding, "lstm": lstm}
    state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    params = {"num_embeddings": len(dictionary), "padding_idx": dictionary["<pad>"], "hidden_size": HIDDEN}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"params": params, "model": state, "dictionary": dictionary}, folder / FILE)
    return folder


def laser_vector(state: dict[str, NDArray[np.float64]], ids: list[int]) -> NDArray[np.float64]:
    """A sentence's vector by the definition of the layers, token by token."""
    states = state["embed_tokens.weight"][ids]
    for layer in range(LAYERS):
        forward = _direction(state, f"l{layer}", states)
        reverse = _direction(state, f"l{layer}_reverse", states[::-1])[::-1]
        states = np.concatenate([forward, reverse], axis=1)
    vector: NDArray[np.float64] = states.max(axis=0)
    return vector


def _direction(state: dict[str, NDArray[np.float64]], name: str, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The states of one direction of a layer, in the order in which it reads: gates are i, f, g, o."""
    of_inputs, of_states = state[f"lstm.weight_ih_{name}"], state[f"lstm.weight_hh_{name}"]
    bias = state[f"lstm.bias_ih_{name}"] + state[f"lstm.bias_hh_{name}"]
    hidden, cell, states = np.zeros(HIDDEN), np.zeros(HIDDEN), []
    for row in inputs:
        i, f, g, o = np.split(of_inputs @ row + of_states @ hidden + bias, 4)
        cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(g)
        hidden = _sigmoid(o) * np.tanh(cell)
        states.append(hidden)
    return np.asarray(states)


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-values))
