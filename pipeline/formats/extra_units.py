"""Units that are added to recurrent layers so that the encoder, whose layers are alike, computes what other models do.

- `with_equal_sizes`: layers of different widths or directions. Units whose weights are all zero stay zero for ever, in
  an LSTM and in a GRU, so each layer is filled up with them, and what reads the layer gets columns of zeros.
- `with_masked_attention`: attention that leaves out padding which the layers read, by one unit that marks padding.
- `with_bias_per_token`: a bias that counts once per token, by one unit whose state is a constant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lengthwise.errors import CheckpointError
from lengthwise.formats.parts import GATES, Direction, Linear, Parts


def with_equal_sizes(parts: Parts) -> Parts:
    """The same model with as many units and directions in every layer; the same parts where they are already equal."""
    sizes = [[direction.hidden_size for direction in layer] for layer in parts.layers]
    if not sizes or (len({tuple(each) for each in sizes}) == 1 and len(set(sizes[0])) == 1):
        return parts
    gates, hidden, directions = GATES[parts.cell], max(map(max, sizes)), max(map(len, sizes))
    layers: list[list[Direction]] = []
    for number, layer in enumerate(parts.layers):
        below = sizes[number - 1] if number else None
        filled = [_filled(each, gates, hidden, below, directions) for each in layer]
        while len(filled) < directions:
            like = filled[0]
            filled.append(Direction(like.weight_ih * 0, like.weight_hh * 0, None, None, f"{like.name}, reverse"))
        layers.append(filled)
    real = sizes[-1]
    pooled = len(parts.pooling.split("_"))

    def read(layer: Linear, times: int) -> Linear:
        """A Linear layer that reads the states, or so many poolings of them, side by side."""
        if layer.weight.dim() != 2 or layer.weight.shape[1] != times * sum(real):
            return layer  # which is refused later, by its name
        blocks = layer.weight.split(sum(real), dim=1)
        weight = torch.cat([_wider(block, real, hidden, directions) for block in blocks], dim=1)
        return Linear(weight, layer.bias, layer.name)

    attention = [read(each, 1) if number == 0 else each for number, each in enumerate(parts.attention)]
    changed = replace(parts, layers=layers, attention=attention)
    if parts.dense:
        (first, activation), *others = parts.dense
        return replace(changed, dense=[(read(first, pooled), activation), *others])
    if parts.head:
        (first, activation), *others = parts.head
        return replace(changed, head=[(read(first, pooled), activation), *others])
    chosen = read(Linear(torch.eye(pooled * sum(real)), None, "the states that are not filled up"), pooled)
    return replace(changed, dense=[(chosen, "identity")])


def note_on_units(layers: Sequence[Sequence[Direction]], parts: Parts) -> list[str]:
    """A note where a vector is wider than that of the model's own last layer, for lack of layers that take it back.

    Args:
        layers: as the model has them.
        parts: as the encoder has them.
    """
    own = sum(direction.hidden_size for direction in layers[-1])
    wider = sum(direction.hidden_size for direction in parts.layers[-1])
    if own == wider or parts.dense:
        return []
    times = len(parts.pooling.split("_"))
    return [
        f"vectors have {times * wider} values, not the model's own {times * own}: units were added so that the"
        " classifier gives the model's logits"
    ]


def _filled(direction: Direction, gates: int, hidden: int, below: Sequence[int] | None, directions: int) -> Direction:
    """One direction with more units, and columns for those of the layer below."""
    own = direction.hidden_size

    def rows(values: Tensor | None) -> Tensor | None:
        if values is None or len(values) != gates * own:
            return values
        added = values.new_zeros(hidden - own, *values.shape[1:])
        return torch.cat([part for chunk in values.split(own) for part in (chunk, added)])

    weight_ih, weight_hh = direction.weight_ih, direction.weight_hh
    if below is not None and weight_ih.shape[1] == sum(below):
        weight_ih = _wider(weight_ih, below, hidden, directions)
    weight_hh = torch.cat([weight_hh, weight_hh.new_zeros(len(weight_hh), hidden - own)], dim=1)
    filled = (rows(each) for each in (weight_ih, weight_hh, direction.bias_ih, direction.bias_hh))
    return Direction(*filled, direction.name)  # type: ignore[arg-type,call-arg]


def _wider(weight: Tensor, sizes: Sequence[int], hidden: int, directions: int) -> Tensor:
    """Columns for states of these sizes, as columns for `directions` states of `hidden`."""
    parts = weight.split(list(sizes), dim=1)
    blocks = [torch.cat([part, part.new_zeros(len(part), hidden - part.shape[1])], dim=1) for part in parts]
    missing = weight.new_zeros(len(weight), hidden * (directions - len(sizes)))
    return torch.cat([*blocks, missing], dim=1)


def with_bias_per_token(parts: Parts) -> Parts:
    """The same parts where the bias of the head's one Linear layer is added once per token.

    That is what a Linear layer over the states of the tokens does whose outputs are then summed. The encoder adds a
    bias once per text, so each layer gets one more unit. Saturated gates keep that of the last layer at tanh(1), and
    its sum over the tokens, times what is put into the Linear layer here, is the bias times their number.

    Raises:
        CheckpointError: the encoder is not one whose states are summed.
    """
    ((linear, activation),) = parts.head
    if linear.bias is None:
        return parts
    normalize = bool(parts.settings.get("normalize"))
    if parts.pooling != "sum" or parts.dense or normalize or parts.cell != "lstm":
        raise CheckpointError(
            f"{linear.name} has a bias per token, which only an LSTM with sum pooling can have, without dense and"
            " normalize"
        )
    last = len(parts.layers) - 1
    added = [_Unit(cell_input=_SATURATED if number == last else 0.0) for number in range(last + 1)]
    weight = _with_column(linear.weight, parts, linear.bias / math.tanh(1.0))
    return replace(_with_units(parts, added), head=[(Linear(weight, None, linear.name), activation)])


def with_masked_attention(parts: Parts) -> Parts:
    """The same parts where attention gives no weight to padding that the layers read.

    The embedding gets a column that is 1 for padding alone. One unit per layer hands that on as 0 or tanh(1), and the
    score takes 100 off where it is there, which in a softmax leaves nothing.

    Raises:
        CheckpointError: the encoder has no attention of one layer, or reads no padding.
    """
    if (
        parts.pooling != "attention"
        or len(parts.attention) != 1
        or parts.cell != "lstm"
        or "padding" not in parts.settings
    ):
        raise CheckpointError("attention.masked is for an LSTM with padding, and attention pooling of one score layer")
    (score,) = parts.attention
    flag = torch.zeros(len(parts.embedding), 1)
    flag[parts.pad_token_id] = 1.0
    (forward, *reverse), *others = parts.layers
    first = [
        each._replace(weight_ih=torch.cat([each.weight_ih, each.weight_ih.new_zeros(len(each.weight_ih), 1)], dim=1))
        for each in (forward, *reverse)
    ]
    inputs = parts.embedding.shape[1]
    widened = replace(parts, embedding=torch.cat([parts.embedding, flag], dim=1), layers=[first, *others])
    places = [inputs, *[layer[0].hidden_size for layer in parts.layers[:-1]]]
    read = [_Unit(reads=place, weight=2 * _SATURATED) for place in places]
    column = _with_column(score.weight, parts, torch.tensor([-_SATURATED / math.tanh(1.0)]))
    changed = replace(_with_units(widened, read), attention=[Linear(column, None, score.name)])
    zero = torch.zeros(())
    if parts.dense:
        (layer, activation), *more = parts.dense
        return replace(
            changed, dense=[(layer._replace(weight=_with_column(layer.weight, parts, zero)), activation), *more]
        )
    if not parts.head:
        raise CheckpointError("attention.masked needs a layer after the pooling")
    (layer, activation), *more = parts.head
    return replace(changed, head=[(layer._replace(weight=_with_column(layer.weight, parts, zero)), activation), *more])


_SATURATED = 100.0  # of a gate, whose sigmoid or tanh is then 0 or 1 in float32


class _Unit(NamedTuple):
    """A unit that forgets at once: its state is tanh(tanh(input)).

    Attributes:
        cell_input: a constant input.
        reads: which input it reads, and with what weight; None for none.
    """

    cell_input: float = 0.0
    reads: int | None = None
    weight: float = 0.0


def _with_units(parts: Parts, units: Sequence[_Unit]) -> Parts:
    """One more unit in each layer: of these in the forward direction, and one that stays zero in the other."""
    layers = []
    for number, (layer, unit) in enumerate(zip(parts.layers, units, strict=True)):
        below = 0 if number == 0 else len(parts.layers[number - 1])
        layers.append([_with_unit(each, below, unit if not reverse else _Unit()) for reverse, each in enumerate(layer)])
    return replace(parts, layers=layers)


def _with_column(weight: Tensor, parts: Parts, values: Tensor) -> Tensor:
    """A weight that reads the states, with a column of these values for the forward direction's added unit."""
    hidden = parts.layers[-1][0].hidden_size
    columns = weight.split(hidden, dim=1)
    added = [values.expand(len(weight))[:, None], *[weight.new_zeros(len(weight), 1)] * (len(columns) - 1)]
    return torch.cat([torch.cat(pair, dim=1) for pair in zip(columns, added, strict=True)], dim=1)


def _with_unit(direction: Direction, directions_below: int, unit: _Unit) -> Direction:
    """One more unit in an LSTM's direction, whose inputs have one more unit per direction of the layer below."""
    hidden = direction.hidden_size
    weight_ih = direction.weight_ih
    reads = unit.reads
    if directions_below:
        blocks = weight_ih.split(weight_ih.shape[1] // directions_below, dim=1)
        weight_ih = torch.cat([torch.cat([block, block.new_zeros(len(block), 1)], dim=1) for block in blocks], dim=1)
    weight_hh = torch.cat([direction.weight_hh, direction.weight_hh.new_zeros(len(direction.weight_hh), 1)], dim=1)

    def rows(values: Tensor, fill: Sequence[Tensor]) -> Tensor:
        pairs = zip(values.split(hidden), fill, strict=True)
        return torch.cat([part for pair in pairs for part in pair])

    none = torch.zeros(1, weight_ih.shape[1])
    read = none.clone()
    if reads is not None:
        read[0, reads] = unit.weight
    gates = [torch.tensor([value]) for value in (_SATURATED, -_SATURATED, unit.cell_input, _SATURATED)]  # i, f, g, o
    zeros, zero = torch.zeros(4 * hidden), torch.zeros(1)
    return Direction(
        rows(weight_ih, [none, none, read, none]),
        rows(weight_hh, [torch.zeros(1, weight_hh.shape[1])] * 4),
        rows(zeros if direction.bias_ih is None else direction.bias_ih, gates),
        rows(zeros if direction.bias_hh is None else direction.bias_hh, [zero] * 4),
        direction.name,
    )
