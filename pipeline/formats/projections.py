"""Layers whose states are a Linear map of what the encoder's are: projected, or the sum of both directions.

With h = P m, where m is the encoder's state, a weight W that reads h does what W P does that reads m. So each weight
behind such a layer takes P in, and one Linear layer after the pooling gives the model's own states back. That holds for
every pooling that is linear in the states.

- `proj_size` of PyTorch's LSTM: P is weight_hr.
- Directions that are added or averaged, as Keras' Bidirectional does: P adds two halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lengthwise.errors import CheckpointError
from lengthwise.formats.parts import Direction, Linear, Parts

NAME = "weight_hr"


def fold_projections(
    layers: Sequence[Sequence[Direction]], projections: Sequence[Sequence[Tensor | None]], origin: str
) -> tuple[list[list[Direction]], Tensor | None]:
    """Layers without projections, and the projection of the last one's states.

    Args:
        layers: of each layer, its directions, of which weight_hh is [gates * hidden, projected].
        projections: of each of these weight_hr, [projected, hidden], or None.
        origin: where they come from, for messages.

    Returns:
        The layers, and float32[directions * projected, directions * hidden]; None where nothing is projected.

    Raises:
        CheckpointError: shapes do not fit each other, or some directions are projected and others are not.
    """
    if not any(each is not None for layer in projections for each in layer):
        return [list(layer) for layer in layers], None
    folded, below = list[list[Direction]](), None
    for layer, of_layer in zip(layers, projections, strict=True):
        known = [each for each in of_layer if each is not None]
        if len(known) != len(layer):
            raise CheckpointError(f"{origin}: {layer[0].name} has directions with and without {NAME}; give all or none")
        folded.append([_folded(*pair, below, origin) for pair in zip(layer, known, strict=True)])
        below = torch.block_diag(*known)
    return folded, below


def merged_directions(hidden_size: int, how: str) -> Tensor:
    """The sum or the mean of both directions as a map of them, float32[hidden_size, 2 * hidden_size]."""
    eye = torch.eye(hidden_size)
    return torch.cat([eye, eye], dim=1) * (0.5 if how == "mean" else 1.0)


def behind(direction: Direction, below: Tensor | None) -> Direction:
    """A direction that reads states which are a map of the encoder's; another shape is refused later, by its name.

    Args:
        below: float32[inputs, states of the encoder], or None.
    """
    weight = direction.weight_ih
    if below is None or weight.dim() != 2 or weight.shape[1] != len(below):
        return direction
    return direction._replace(weight_ih=_product(weight, below))


def _folded(direction: Direction, projection: Tensor, below: Tensor | None, origin: str) -> Direction:
    shapes = f"weight_hh {list(direction.weight_hh.shape)} and {NAME} {list(projection.shape)}"
    if direction.weight_hh.dim() != 2 or projection.dim() != 2 or direction.weight_hh.shape[1] != len(projection):
        raise CheckpointError(f"{origin}: {direction.name} has {shapes}, which do not fit each other")
    return behind(direction, below)._replace(weight_hh=_product(direction.weight_hh, projection))


def _product(weight: Tensor, projection: Tensor) -> Tensor:
    """In float64, and rounded once."""
    return (weight.double() @ projection.double()).float()


def with_projected_states(parts: Parts, projection: Tensor | None, origin: str) -> Parts:
    """The parts with a Linear layer after the pooling that gives the model's own states.

    Args:
        projection: as `fold_projections` gives it.

    Raises:
        CheckpointError: the pooling is not linear in the states.
    """
    if projection is None:
        return parts
    poolings = parts.pooling.split("_")
    if "max" in poolings:
        raise CheckpointError(
            f"{origin}: pools the maximum of states that are projected ({NAME}), or of the sum of both directions,"
            " which the encoder does not compute; it does that after the pooling"
        )
    attention = [
        layer._replace(weight=_product(layer.weight, projection))
        if number == 0 and layer.weight.dim() == 2 and layer.weight.shape[1] == len(projection)
        else layer
        for number, layer in enumerate(parts.attention)
    ]
    own = Linear(torch.block_diag(*[projection] * len(poolings)), None, "the model's own states")
    return replace(parts, attention=attention, dense=[(own, "identity"), *parts.dense])
