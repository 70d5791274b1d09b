"""What stands behind the recurrent layers: attention pooling, Dense layers and the classifier.

- Attention is a softmax over a text's tokens of a score of each state; its weights sum the states. A bias of the score
  would cancel in the softmax, so there is none.
- The classifier reads the vector as it is given out. So logits are a function of the vector, and can be computed from
  stored ones (`encoder.classify` does, without PyTorch).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn

from lengthwise.encoder_config import Activation, ClassifierSettings, DenseLayer

ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "identity": lambda values: values,
        "relu": torch.relu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "gelu": nn.functional.gelu,
        "silu": nn.functional.silu,
        "elu": nn.functional.elu,
        "leaky_relu": partial(nn.functional.leaky_relu, negative_slope=0.01),
    }
)


class Attention(nn.Module):
    """Pools states by a softmax of their scores: w s, or w tanh(W s + b) with a hidden layer."""

    def __init__(self, state_dim: int, hidden_dim: int | None) -> None:
        super().__init__()
        self.hidden = nn.Linear(state_dim, hidden_dim) if hidden_dim else None
        self.score = nn.Linear(hidden_dim or state_dim, 1, bias=False)

    def scores(self, states: Tensor) -> Tensor:
        """float[..., state_dim] to float[...]."""
        scores: Tensor = self.score(states if self.hidden is None else self.hidden(states).tanh())
        return scores.squeeze(-1)  # a softmax over another than the last axis sums thousands of shares less exactly

    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """float[batch, sequence, state_dim] to float[batch, state_dim].

        Args:
            mask: bool[batch, sequence], true at tokens that are read; None if all are.
        """
        scores = self.scores(states)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return (scores.softmax(dim=1)[:, :, None] * states).sum(dim=1)


class Dense(nn.Linear):
    """A Linear layer, then a function of each value."""

    def __init__(self, inputs: int, layer: DenseLayer) -> None:
        super().__init__(inputs, layer.dim, bias=layer.bias)
        self.activation = layer.activation

    def forward(self, values: Tensor) -> Tensor:
        """float[batch, inputs] to float[batch, dim]."""
        return ACTIVATIONS[self.activation](super().forward(values))


def dense_layers(inputs: int, layers: Sequence[DenseLayer]) -> nn.ModuleList:
    """The layers, each of which reads the one before."""
    widths = [inputs, *(layer.dim for layer in layers)]
    return nn.ModuleList(Dense(width, layer) for width, layer in zip(widths, layers, strict=False))


class Classifier(nn.Module):
    """From vectors to logits."""

    def __init__(self, inputs: int, settings: ClassifierSettings) -> None:
        super().__init__()
        self.dense = dense_layers(inputs, settings.dense)
        width = settings.dense[-1].dim if settings.dense else inputs
        self.output = nn.Linear(width, len(settings.labels))

    def forward(self, vectors: Tensor) -> Tensor:
        """float[batch, dim] to logits, float[batch, labels]."""
        for layer in self.dense:
            vectors = layer(vectors)
        logits: Tensor = self.output(vectors)
        return logits
