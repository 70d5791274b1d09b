"""Labels from vectors: the classifier of an encoder in NumPy, for engines and servers without PyTorch.

It computes in float64 and rounds once, so a row's logits do not depend on its batch, and any engine gives those of its
own vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from lengthwise.config import EncoderConfig
from lengthwise.encoder_config import Activation, DenseLayer
from lengthwise.errors import CheckpointError

Float64: TypeAlias = NDArray[np.float64]
_PREFIX = "classifier."
_BLOCK_ROWS = 1_024
_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(values: Float64) -> Float64:
    return np.exp(-np.logaddexp(0, -values))


# Each for float64 of any shape, as PyTorch defines them.
ACTIVATIONS: Mapping[Activation, Callable[[Float64], Float64]] = MappingProxyType(
    {
        "identity": lambda values: values,
        "relu": lambda values: np.maximum(values, 0),
        "tanh": np.tanh,
        "sigmoid": _sigmoid,
        "gelu": lambda values: values * (1 + _erf(values / math.sqrt(2))) / 2,
        "silu": lambda values: values * _sigmoid(values),
        "elu": lambda values: np.where(values > 0, values, np.expm1(np.minimum(values, 0))),
        "leaky_relu": lambda values: np.where(values > 0, values, 0.01 * values),
    }
)


class LabelClassifier:
    """Computes logits and probabilities from vectors.

    Attributes:
        labels: their names, in the order of the logits.
    """

    def __init__(self, config: EncoderConfig, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Prepare the weights.

        Args:
            config: of an encoder with a classifier.
            weights: of the encoder, by their names; others than the classifier's are not read.

        Raises:
            ValueError: the encoder has no classifier.
        """
        if config.classifier is None:
            raise ValueError("the encoder has no classifier")
        self.labels, self._settings = config.classifier.labels, config.classifier
        self._layers: list[tuple[Float64, Float64, Activation]] = []
        layers: Sequence[DenseLayer] = config.classifier.dense
        for name, activation in [
            *((f"dense.{number}", layer.activation) for number, layer in enumerate(layers)),
            ("output", "identity"),
        ]:
            weight = weights[f"{_PREFIX}{name}.weight"].astype(np.float64)
            bias = weights.get(f"{_PREFIX}{name}.bias", np.zeros(len(weight), np.float32)).astype(np.float64)
            self._layers.append((weight, bias, activation))

    @classmethod
    def load(cls, path: Path, config: EncoderConfig) -> LabelClassifier | None:
        """Read the classifier of a model.safetensors; None if the encoder has none.

        Raises:
            CheckpointError: the file cannot be read, or has no such weights.
        """
        if config.classifier is None:
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                names = [name for name in list(file.keys()) if name.startswith(_PREFIX)]
                return cls(config, {name: file.get_tensor(name) for name in names})
        except (OSError, SafetensorError, KeyError) as error:
            raise CheckpointError(f"{path}: its classifier cannot be read ({error}); export the model again") from error

    def logits(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        """float[rows, dim] to float32[rows, labels]."""
        blocks = [self._block(vectors[start : start + _BLOCK_ROWS]) for start in range(0, len(vectors), _BLOCK_ROWS)]
        return np.concatenate([np.zeros((0, len(self.labels)), np.float32), *blocks])

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32[rows, labels] of the same shape: softmax, sigmoid or identity, as the model says."""
        values = logits.astype(np.float64)
        if self._settings.activation == "softmax":
            exponents = np.exp(values - values.max(axis=1, keepdims=True, initial=-np.inf))
            values = exponents / exponents.sum(axis=1, keepdims=True)
        elif self._settings.activation == "sigmoid":
            values = _sigmoid(values)
        return values.astype(np.float32)

    def best(self, logits: NDArray[np.float32]) -> list[str]:
        """The label of the largest logit of each row."""
        return [self.labels[number] for number in logits.argmax(axis=1)]

    def decisions(self, logits: NDArray[np.float32]) -> NDArray[np.integer]:
        """What it decides, int64[rows, ...]: the number of the best label; under sigmoid 1 for each label it gives."""
        if self._settings.activation == "sigmoid":
            return (logits > 0).astype(np.int64)
        return logits.argmax(axis=1)[:, None]

    def error_scale(self, scale: Float64) -> Float64:
        """How far logits may be off at most if values of vectors are off by `scale`: float64[rows, labels].

        Args:
            scale: float64[rows, dim].
        """
        for weight, _, activation in self._layers:
            scale = scale @ np.abs(weight).T * STEEPEST.get(activation, 1.0)
        return scale

    def _block(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        values = vectors.astype(np.float64)
        for weight, bias, activation in self._layers:
            values = ACTIVATIONS[activation](values @ weight.T + bias)
        return values.astype(np.float32)


STEEPEST: Mapping[str, float] = MappingProxyType({"gelu": 1.13, "silu": 1.1, "sigmoid": 0.25})  # largest slopes but 1
