"""LSTM layers whose states are projected (`proj_size` of PyTorch), as layers of an encoder, whose states are not.

With h = P m, where m is what an ordinary LSTM would call its state, a weight W that reads h does what W P does that
reads m. So each weight behind a projection takes the projection in, and one Linear layer after the pooling gives the
model's own states back. That holds for every pooling that is linear in the states.
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


def _folded(direction: Direction, projection: Tensor, below: Tensor | None, origin: str) -> Direction:
    shapes = f"weight_hh {list(direction.weight_hh.shape)} and {NAME} {list(projection.shape)}"
    if direction.weight_hh.dim() != 2 or projection.dim() != 2 or direction.weight_hh.shape[1] != len(projection):
        raise CheckpointError(f"{origin}: {direction.name} has {shapes}, which do not fit each other")
    weight_ih = direction.weight_ih
    if below is not None and weight_ih.dim() == 2 and weight_ih.shape[1] == len(below):
        weight_ih = _product(weight_ih, below)  # of another shape, it is refused later, by its name
    return direction._replace(weight_ih=weight_ih, weight_hh=_product(direction.weight_hh, projection))


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
            f"{origin}: pools the maximum of projected states ({NAME}), which the encoder does not compute; it projects"
            " after the pooling"
        )
    attention = [
        layer._replace(weight=_product(layer.weight, projection))
        if number == 0 and layer.weight.dim() == 2 and layer.weight.shape[1] == len(projection)
        else layer
        for number, layer in enumerate(parts.attention)
    ]
    own = Linear(torch.block_diag(*[projection] * len(poolings)), None, NAME)
    return replace(parts, attention=attention, dense=[(own, "identity"), *parts.dense])
