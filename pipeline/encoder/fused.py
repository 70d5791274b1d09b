"""`FusedDirection`: one direction of an LSTM in the fused kernel; and the products and means beside it.

- A row's states have the same bits in any batch: integer sums are exact, float32 sums have one order, and every row
  begins at step 0 in both directions (a reverse direction reads the row from its end).
- Weights are laid out as the kernel reads them: a panel is as many units as a vector has lanes, and holds the weights
  of their four gates side by side. Units are filled up to whole panels; the further ones are always zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lengthwise.encoder.int8 import STATE_SCALE, quantize_rows
from lengthwise.encoder.kernel import CACHE_LINE, KernelPrecision, aligned_empty, choose_spec, compiled
from lengthwise.encoder.layers import WINDOW, Direction
from lengthwise.encoder.packed import PackedIds
from lengthwise.encoder.pooled import Output
from lengthwise.encoder.trie import Level
from lengthwise.encoder_config import GATE_SLOPES, GateActivation

LOG2_E = 1.4426950408889634
_PARENTS = 64  # of a level that branch at a time, so that their states stay in the cache
_BRANCH_PRODUCTS = ("state_groups", "state_weights", "offsets", "scales")
_LASTING = ("cells", "sums", "maxima")
_ARRAY_BYTES = 192  # of an array beside its values
_TABLE_SPACING = CACHE_LINE // 4  # float32 values, between two entries
_ROWS_PER_PRODUCT = 512  # of a table: with the weights of a panel they fit into the cache


class FusedLinear:
    """Rows of float32 times weights, plus a bias: the bits of a row do not depend on the other rows."""

    def __init__(
        self, weight: NDArray[np.floating], bias: NDArray[np.floating] | None = None, spacing: int = 0
    ) -> None:
        """Prepare the weights, [outputs, inputs], and the bias, [outputs].

        Args:
            spacing: values between the results of two rows, so that rows of a power of two do not share cache sets.
        """
        self._kernel, self._spacing = compiled(choose_spec("fp32")), spacing
        width = 4 * self._kernel.spec.lanes
        self._outputs, inputs = weight.shape
        padded = np.zeros((-(-self._outputs // width) * width, inputs), np.float32)
        padded[: self._outputs] = weight
        self._weights = _aligned(padded.reshape(-1, 4, self._kernel.spec.lanes, inputs).transpose(0, 3, 1, 2))
        self._bias = aligned_empty((len(padded),), np.float32)
        self._bias[:] = 0
        if bias is not None:
            self._bias[: self._outputs] = bias

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32[rows, inputs] to float32[rows, outputs], on one thread."""
        rows = np.ascontiguousarray(rows, np.float32)
        products = aligned_empty((len(rows), len(self._bias) + self._spacing), np.float32)
        for start in range(0, len(rows), _ROWS_PER_PRODUCT):
            part = rows[start : start + _ROWS_PER_PRODUCT]
            self._kernel.multiply(
                rows=len(part),
                panels=len(self._weights),
                input_groups=part.shape[1],
                input_stride=part.strides[0],
                output_stride=products.strides[0],
                inputs=part,
                weights=self._weights,
                bias=self._bias,
                outputs=products[start:],
            )
        return products[:, : self._outputs]


class FusedMean:
    """Means of token embeddings: the bits of a row do not depend on the other rows."""

    def __init__(self, embedding: NDArray[np.float32]) -> None:
        """Prepare the embeddings, [tokens, width]."""
        self._kernel = compiled(choose_spec("fp32"))
        lanes = self._kernel.spec.lanes
        self._width = embedding.shape[1]
        self._table = _aligned(np.pad(embedding, [(0, 0), (0, -self._width % lanes)]))

    def __call__(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """int64[rows, sequence], right-padded, and int64[rows], at least 1, to float32[rows, width]."""
        input_ids = np.ascontiguousarray(input_ids, np.int64)
        means = aligned_empty((len(input_ids), self._table.shape[1]), np.float32)
        self._kernel.average(
            rows=len(input_ids),
            vectors=self._table.shape[1] // self._kernel.spec.lanes,
            table=self._table,
            ids=input_ids,
            ids_stride=input_ids.strides[0],
            lengths=np.ascontiguousarray(lengths, np.int64),
            outputs=means,
        )
        return means[:, : self._width]


@dataclass(frozen=True, eq=False)
class SavedState:
    """The state of one row, [...] each, by its name in `States`."""

    arrays: dict[str, NDArray[Any]]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return sum(_ARRAY_BYTES + array.nbytes for array in self.arrays.values())


@dataclass(frozen=True, eq=False)
class States:
    """Rows that have read some of their ids, [rows, ...] each.

    Attributes:
        operands: the states, as the kernel multiplies them.
        kept: what else the kernel keeps, by its name.
        begun: int32[rows], ids that each has read before `FusedDirection.advance`.
        outputs: those of `kept` that are pooled states, see `pooled.StatePooler`.
    """

    operands: NDArray[Any]
    kept: dict[str, NDArray[Any]]
    begun: NDArray[np.int32]
    outputs: dict[str, NDArray[Any]]

    @property
    def lasting(self) -> dict[str, NDArray[Any]]:
        """What a row reads on from where a window of its sums has ended."""
        return {"operands": self.operands, **{name: self.kept[name] for name in _LASTING if name in self.kept}}

    def save(self, row: int) -> SavedState:
        """A copy of a row's state at the end of a window, after an even number of steps of `FusedDirection.advance`."""
        return SavedState({name: array[row].copy() for name, array in self.lasting.items()})

    def restore(self, rows: NDArray[np.int64], saved: SavedState) -> None:
        """Give these rows, which have read nothing, a state to read on from."""
        for name, array in self.lasting.items():
            array[rows] = saved.arrays[name]

    def part(self, rows: slice) -> States:
        """Views of some rows."""
        kept = {name: array[rows] for name, array in self.kept.items()}
        outputs = {name: array[rows] for name, array in self.outputs.items()}
        return States(self.operands[rows], kept, self.begun[rows], outputs)

    def end_windows(self) -> None:
        """Complete the sums of rows that do not read on."""
        if "sums" in self.kept:
            self.kept["sums"] += self.kept["partial_sums"]
            self.kept["partial_sums"].fill(0)


class FusedDirection(Direction):
    """One direction of one layer, laid out as the kernel reads it.

    Attributes:
        bias: float32[1, panels, 4, lanes], a table for any token.
    """

    def __init__(
        self,
        weights: dict[str, NDArray[np.float64]],
        suffix: str,
        outputs: frozenset[Output],
        precision: KernelPrecision = "fp32",
        gate_activation: GateActivation = "sigmoid",
    ) -> None:
        """Prepare the weights whose names end in `suffix`.

        Args:
            weights: of an nn.LSTM.
            outputs: what is kept of the states.
        """
        slope = GATE_SLOPES[gate_activation]
        is_stacked = not suffix.startswith("_l0")
        self._outputs = outputs
        spec = choose_spec(precision, self._outputs, stacked=is_stacked, hard_gates=slope is not None)
        self._kernel, self._spec = compiled(spec), spec
        factor = -LOG2_E if slope is None else slope
        bias = _by_panel(weights["bias_ih" + suffix] + weights["bias_hh" + suffix], spec.lanes, factor)
        if slope is not None:
            bias[:, :3] += 0.5
        inputs, states = (_by_panel(weights[name + suffix], spec.lanes, factor) for name in ("weight_ih", "weight_hh"))
        self._panels, self._hidden_size = len(bias), len(weights["bias_ih" + suffix]) // 4
        states = self._pad_inputs(states)
        self.bias = _aligned(bias[None, ..., 0], np.float32)
        self._linear = None
        if is_stacked:
            inputs = self._pad_inputs(inputs)
        else:
            self._linear = FusedLinear(inputs.reshape(-1, inputs.shape[-1]), bias.reshape(-1), _TABLE_SPACING)
            inputs = inputs[..., :0]
        self._prepare_products(inputs, states)

    def room_for_states(self, tokens: int, directions: int) -> NDArray[Any] | None:
        """See `layers.Direction`; hidden is rounded up to whole panels."""
        if self._outputs.isdisjoint(("states", "floats")):
            return None
        dtype = self._spec.operand if "states" in self._outputs else np.float32
        return aligned_empty((tokens, directions * self._hidden), dtype)

    def run(
        self,
        batch: PackedIds,
        number: int,
        table: NDArray[np.float32],
        ids: NDArray[np.int32],
        below: NDArray[Any] | None,
        stored: NDArray[Any] | None,
    ) -> dict[str, NDArray[Any]]:
        """Run a batch, see `layers.Direction`."""
        states = self.begin(int(batch.steps[0]))
        self.advance(states, batch.steps, ids, table, 0, batch.positions[number], number, below, stored)
        return states.outputs

    def begin(self, rows: int) -> States:
        """Rows that have read nothing."""
        shape = (rows, self._hidden)
        kept: dict[str, NDArray[Any]] = {"cells": _filled(shape, np.float32, 0)}
        outputs: dict[str, NDArray[Any]] = {}
        if "sum" in self._outputs:
            outputs["sum"] = kept["sums"] = _filled(shape, np.float64, 0)
            kept["partial_sums"] = _filled(shape, np.float32, 0)
        if "max" in self._outputs:
            outputs["max"] = kept["maxima"] = _filled(shape, np.float32, -np.inf)
        if "last" in self._outputs:
            outputs["last"] = kept["lasts"] = aligned_empty(shape, np.float32)
        operands = aligned_empty(shape, self._spec.operand)
        return States(operands, kept, np.zeros(rows, np.int32), outputs)

    def advance(
        self,
        states: States,
        steps: NDArray[np.int64],
        ids: NDArray[np.int32],
        table: NDArray[np.float32],
        active: int,
        positions: NDArray[np.int32] | None = None,
        number: int = 0,
        below: NDArray[Any] | None = None,
        stored: NDArray[Any] | None = None,
    ) -> None:
        """Read on, in `steps` of so many rows each.

        Args:
            active: rows that have read something before, the first ones.
            positions, number, below, stored: see `layers.Direction.run`.
        """
        arguments: dict[str, NDArray[Any] | int] = {}
        if positions is not None:
            arguments.update(positions=positions)
        if stored is not None:
            arguments.update(stored=stored[:, number * self._hidden :], stored_stride=stored.strides[0])
        if below is not None:
            arguments.update(inputs=below, input_stride=below.strides[0])
        self._kernel.run(
            steps=steps,
            step_count=len(steps),
            active=active,
            ids=ids,
            table=table,
            table_stride=table.strides[0],
            panels=self._panels,
            states=states.operands,
            next_states=aligned_empty(states.operands.shape, states.operands.dtype),
            begun=states.begun,
            **states.kept,
            **self._products,
            **arguments,
        )

    def branch(
        self, states: States, level: Level, slots: NDArray[np.int32], ids: NDArray[np.int32], table: NDArray[np.float32]
    ) -> None:
        """Read one id: children continue from the states of their parents, whose products are computed once.

        Args:
            slots: int32[rows], where `states` has each row.
            ids: int32[children], the table's entry for each.
        """
        is_first, kept, targets = level.time == 0, states.kept, slots[level.children]
        sources, parents = slots[level.sources], slots[level.parents]
        if level.time >= WINDOW and "sums" in kept:
            leaves = targets != sources
            kept["sums"][targets[leaves]] = kept["sums"][sources[leaves]]
        products = dict(self._products)
        if is_first:  # a state of zero, which is not multiplied
            products.update(state_groups=0, offsets=products.get("input_offsets", 0))
        for start in range(0, len(level.bounds) - 1, _PARENTS):
            bounds = level.bounds[start : start + _PARENTS + 1]
            first, last = int(bounds[0]), int(bounds[-1])
            self._kernel.branch(
                parents=len(bounds) - 1,
                parent_states=states.operands[parents[start : start + _PARENTS]],
                children=bounds - bounds[0],
                ids=ids[first:last],
                sources=sources[first:last],
                targets=targets[first:last],
                table=table,
                table_stride=table.strides[0],
                panels=self._panels,
                next_states=states.operands,
                **{name: array for name, array in kept.items() if name != "sums"},
                **{name: products[name] for name in _BRANCH_PRODUCTS if name in products},
            )
        states.begun[targets] = level.time + 1
        if (level.time + 1) % WINDOW == 0 and "sums" in kept:
            kept["sums"][targets] += kept["partial_sums"][targets]
            kept["partial_sums"][targets] = 0

    @property
    def zero(self) -> int:
        """The operand of a state of zero."""
        return self._spec.zero

    @property
    def _hidden(self) -> int:
        """hidden_size, rounded up to whole panels; the further units are always zero."""
        return self._panels * self._spec.lanes

    def _pad_inputs(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Zeros for the inputs from further units: [..., directions * hidden_size] to [..., directions * hidden]."""
        size = self._hidden_size
        directions = weights.shape[-1] // size
        split = weights.reshape(*weights.shape[:-1], directions, size)
        padding = [(0, 0)] * (split.ndim - 1) + [(0, self._hidden - size)]
        return np.pad(split, padding).reshape(*weights.shape[:-1], directions * self._hidden)

    def _prepare_products(self, inputs: NDArray[np.float64], states: NDArray[np.float64]) -> None:
        """Lay out the weights of both products, [panels, 4, lanes, operands], in int8 with one scale per row."""
        spec = self._spec
        both = np.concatenate([inputs, states], axis=-1)
        products: dict[str, NDArray[Any] | int] = {}
        if spec.arithmetic == "bfloat16":
            both = _bfloat16_bits(both)
        elif spec.is_integer:
            both, scales = quantize_rows(both)
            sums = -spec.zero * both.cumsum(axis=-1)
            split = inputs.shape[-1]
            from_inputs = sums[..., split - 1] if split else np.zeros_like(scales)
            products["scales"] = _aligned(scales / STATE_SCALE, np.float32)
            products["offsets"] = _aligned(sums[..., -1], np.int32)
            products["input_offsets"] = _aligned(from_inputs, np.int32)
        for name, weights in (("input", both[..., : inputs.shape[-1]]), ("state", both[..., inputs.shape[-1] :])):
            groups = weights.shape[-1] // spec.group
            by_group = weights.reshape(*weights.shape[:-1], groups, spec.group).transpose(0, 3, 1, 2, 4)
            products[f"{name}_groups"], products[f"{name}_weights"] = groups, _aligned(by_group, spec.weight)
        self._products = products


def _by_panel(rows: NDArray[np.float64], lanes: int, factor: float) -> NDArray[np.float64]:
    """Rows of gates i, f, g, o, [4 * hidden_size, ...], as the kernel has them: [panels, 4, lanes, columns].

    Gates are ordered i, f, o, g, the first three times a factor. Further units are zero.
    """
    i, f, g, o = np.split(rows.reshape(len(rows), -1), 4)
    ordered = np.stack([factor * i, factor * f, factor * o, g])
    panels = -(-ordered.shape[1] // lanes)
    padded = np.pad(ordered, [(0, 0), (0, panels * lanes - ordered.shape[1]), (0, 0)])
    return padded.reshape(4, panels, lanes, -1).transpose(1, 0, 2, 3)


def _bfloat16_bits(values: NDArray[np.float64]) -> NDArray[np.uint16]:
    """The nearest bfloat16, ties to even: its bits."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype(np.uint16)


def _aligned(values: NDArray[Any], dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """A contiguous copy that begins at a cache line."""
    copied = aligned_empty(values.shape, dtype)
    copied[...] = values
    return copied


def _filled(shape: tuple[int, ...], dtype: DTypeLike, value: float) -> NDArray[Any]:
    array = aligned_empty(shape, dtype)
    array.fill(value)
    return array
