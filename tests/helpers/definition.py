"""The encoder written down a second time: NumPy loops in float64, text by text, from its config and weights alone.

Nothing of `lengthwise.encoder` is used, so that agreement with it means something.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lengthwise.config import EncoderConfig

Weights = Mapping[str, NDArray[Any]]
Vector = NDArray[np.float64]

# Every part, for products with many other settings; and each alone and in concatenations.
POOLINGS = ("last", "mean", "max", "sum", "mean_last", "attention_first_end")
ALL_POOLINGS = (*POOLINGS, "first", "end", "attention", "first_last", "last_mean_max")


class Defined(NamedTuple):
    """What a text gives.

    Attributes:
        vector: float64[dim].
        logits: float64[labels]; None without a classifier.
        states: float64[tokens, state_dim], at each token of the text; zero at tokens that are cut off.
    """

    vector: Vector
    logits: Vector | None
    states: NDArray[np.float64]


def define(config: EncoderConfig, weights: Weights, ids: Sequence[int]) -> Defined:
    """The outputs for one text of at least one token."""
    exact = {name: np.asarray(values, np.float64) for name, values in weights.items()}
    read, start, first = padded(config, list(ids))
    embedded = [exact["embedding.weight"][token] for token in read]
    states, last = embedded, None
    for layer in range(config.num_layers):
        forward = run(config, exact, f"_l{layer}", states)
        if not config.bidirectional:
            states, last = forward, forward[-1]
            continue
        backward = run(config, exact, f"_l{layer}_reverse", states[::-1])[::-1]
        states = [np.concatenate(pair) for pair in zip(forward, backward, strict=True)]
        last = np.concatenate([forward[-1], backward[0]])
    assert last is not None
    pooled = np.concatenate([pool(part, exact, states, last) for part in config.pooling.split("_")])
    for number, layer in enumerate(config.dense):
        pooled = ACTIVATIONS[layer.activation](linear(exact, f"dense.{number}", pooled))
    vector = linear(exact, "projection", pooled) if config.projection_dim else pooled
    if config.static_residual:
        vector = vector + exact["static_projection.weight"] @ np.mean(embedded, axis=0)
    if config.normalize:
        vector = vector / math.sqrt(sum(value * value for value in vector))
    own = np.zeros((len(ids), config.state_dim))
    for position in range(len(ids)):
        place = position - first + start
        if first <= position and start <= place < len(read) and place - start < len(ids) - first:
            own[position] = states[place]
    return Defined(vector, classify(config, exact, vector), own)


def padded(config: EncoderConfig, ids: list[int]) -> tuple[list[int], int, int]:
    """The ids that are read, where the text begins in them, and the first token of the text that is read."""
    rule = config.padding
    if rule is None:
        return ids, 0, 0
    first = 0
    if len(ids) > rule.to and rule.truncate == "post":
        ids = ids[: rule.to]
    elif len(ids) > rule.to and rule.truncate == "pre":
        first = len(ids) - rule.to
        ids = ids[first:]
    filling = [config.pad_token_id] * (rule.to - len(ids))
    return (ids + filling, 0, first) if rule.side == "post" else (filling + ids, len(filling), first)


def run(config: EncoderConfig, weights: Weights, suffix: str, inputs: Sequence[Vector]) -> list[Vector]:
    """One direction of one layer: the states of all tokens in reading order."""
    names = [f"{config.cell}.{name}{suffix}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    from_input, from_state, input_bias, state_bias = (weights[name] for name in names)
    gate = GATES[config.gate_activation]
    state, cell, states = np.zeros(config.hidden_size), np.zeros(config.hidden_size), []
    for values in inputs:
        ours, theirs = from_input @ values + input_bias, from_state @ state + state_bias
        if config.cell == "gru":
            (r, z, n), (state_r, state_z, state_n) = np.split(ours, 3), np.split(theirs, 3)
            update = gate(z + state_z)
            candidate = np.tanh(n + gate(r + state_r) * state_n)
            state = (1 - update) * candidate + update * state
        else:
            i, f, g, o = np.split(ours + theirs, 4)
            cell = gate(f) * cell + gate(i) * np.tanh(g)
            state = gate(o) * np.tanh(cell)
        states.append(state)
    return states


def pool(part: str, weights: Weights, states: Sequence[Vector], last: Vector) -> Vector:
    """One part of the pooled row."""
    if part == "attention":
        scores = []
        for state in states:
            if "attention.hidden.weight" in weights:
                state = np.tanh(linear(weights, "attention.hidden", state))
            scores.append(float(weights["attention.score.weight"][0] @ state))
        shares = [math.exp(score - max(scores)) for score in scores]
        total = sum(shares)
        return np.sum([share / total * state for share, state in zip(shares, states, strict=True)], axis=0)
    found: Vector = {
        "last": lambda: last,
        "first": lambda: states[0],
        "end": lambda: states[-1],
        "mean": lambda: np.sum(states, axis=0) / len(states),
        "max": lambda: np.max(states, axis=0),
        "sum": lambda: np.sum(states, axis=0),
    }[part]()
    return found


def classify(config: EncoderConfig, weights: Weights, vector: Vector) -> Vector | None:
    """The logits."""
    if config.classifier is None:
        return None
    for number, layer in enumerate(config.classifier.dense):
        vector = ACTIVATIONS[layer.activation](linear(weights, f"classifier.dense.{number}", vector))
    return linear(weights, "classifier.output", vector)


def linear(weights: Weights, name: str, values: Vector) -> Vector:
    """A Linear layer, with its bias if it has one."""
    product: Vector = np.asarray(weights[f"{name}.weight"], np.float64) @ values
    bias = weights.get(f"{name}.bias")
    return product if bias is None else product + bias


def _each(function: Callable[[float], float]) -> Callable[[Vector], Vector]:
    return lambda values: np.array([function(float(value)) for value in values])


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


ACTIVATIONS: Mapping[str, Callable[[Vector], Vector]] = {
    "identity": lambda values: values,
    "relu": _each(lambda x: max(x, 0.0)),
    "tanh": _each(math.tanh),
    "sigmoid": _each(_sigmoid),
    "gelu": _each(lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2),
    "silu": _each(lambda x: x * _sigmoid(x)),
    "elu": _each(lambda x: x if x > 0 else math.expm1(x)),
    "leaky_relu": _each(lambda x: x if x > 0 else 0.01 * x),
}
GATES: Mapping[str, Callable[[Vector], Vector]] = {
    "sigmoid": _each(_sigmoid),
    "hard_sigmoid_keras2": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "hard_sigmoid_keras3": lambda x: np.clip(x / 6 + 0.5, 0, 1),
}
