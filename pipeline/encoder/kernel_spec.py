"""`KernelSpec`: which LSTM kernel, and the arguments of its functions.

Arguments are 64-bit integers, in the order of the tables below; those that are not sizes are addresses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lengthwise.encoder.int8 import ZERO_POINT
from lengthwise.encoder.pooled import Output

Arithmetic = Literal["float32", "bfloat16", "vnni", "int16"]
GROUP_BYTES = 4  # operands are read in groups of 4 bytes: one float32, two of 16 bits or four of 8
TILE_ROWS = 6  # rows that are multiplied at a time

RUN_SIZES = ("step_count", "active", "table_stride", "panels", "input_stride", "input_groups", "state_groups")
RUN_ARGUMENTS = (
    *RUN_SIZES,
    "steps",  # int64[step_count], rows per step, never more than in the step before
    "ids",  # int32[tokens], a row of the table per token
    "positions",  # int32[tokens], where a token's inputs are read and its state is stored
    "table",  # float32[entries, panels, 4, lanes]
    "inputs",  # operands[positions, ...] of the layer below
    "input_weights",  # [panels, input_groups, 4, lanes, GROUP_BYTES]
    "input_offsets",  # int32[panels, 4, lanes], the first value of sums without a recurrent part
    "states",  # operands[rows, hidden]
    "next_states",  # the same, of the next step
    "state_weights",  # [panels, state_groups, 4, lanes, GROUP_BYTES]
    "offsets",  # int32[panels, 4, lanes], the first value of sums with both parts
    "scales",  # float32[panels, 4, lanes], of the integer sums
    "cells",  # float32[rows, hidden]
    "partial_sums",  # float32[rows, hidden]
    "sums",  # float64[rows, hidden]
    "maxima",  # float32[rows, hidden]
    "lasts",  # float32[rows, hidden]
    "begun",  # int32[rows], the steps that a row has behind it
    "stored",  # operands[positions, ...] or float32[positions, ...], the states of all tokens
    "stored_stride",  # bytes per position
)
BRANCH_SIZES = ("parents", "table_stride", "panels", "state_groups")
BRANCH_ARGUMENTS = (
    *BRANCH_SIZES,
    "parent_states",  # operands[parents, hidden]
    "children",  # int32[parents + 1]; those of parent p are children[p] to children[p + 1]
    "ids",  # int32[children], a row of the table per child
    "sources",  # int32[children], the row of the parent below
    "targets",  # int32[children], the row of the child; where it is the parent's, the parent's last child
    "table",  # float32[entries, panels, 4, lanes]
    "state_weights",  # [panels, state_groups, 4, lanes, GROUP_BYTES]
    "offsets",  # int32[panels, 4, lanes]
    "scales",  # float32[panels, 4, lanes]
    "next_states",  # operands[rows, hidden]
    "cells",  # float32[rows, hidden]
    "partial_sums",  # float32[rows, hidden]
    "maxima",  # float32[rows, hidden]
    "lasts",  # float32[rows, hidden]
)
AVERAGE_ARGUMENTS = (
    "rows",
    "vectors",  # of `lanes` values, per row of the table
    "table",  # float32[entries, vectors, lanes]
    "ids",  # int64[rows, ...]
    "ids_stride",  # bytes per row
    "lengths",  # int64[rows], ids per row, at least one
    "outputs",  # float32[rows, vectors, lanes]
)
MULTIPLY_SIZES = ("rows", "panels", "input_groups", "input_stride", "output_stride")
MULTIPLY_ARGUMENTS = (*MULTIPLY_SIZES, "inputs", "weights", "bias", "outputs")

OPERAND_BYTES = {"float32": 4, "bfloat16": 2, "vnni": 1, "int16": 2}


@dataclass(frozen=True)
class KernelSpec:
    """What a kernel computes, and the registers it may use.

    Attributes:
        arithmetic: of the products.
        lanes: float32 values of a vector register, 16 with AVX-512 and 8 with AVX2.
        outputs: what is kept of the states: their `sum`, `max` or `last` per row; or all of them, as operands
            (`states`) or in float32 (`floats`).
        stacked: whether there are inputs of a layer below beside those in the table.
        hard_gates: whether gates are clipped between 0 and 1, in place of sigmoids.
    """

    arithmetic: Arithmetic
    lanes: Literal[8, 16]
    outputs: frozenset[Output]
    stacked: bool
    hard_gates: bool = False

    @property
    def gates_at_once(self) -> tuple[range, ...]:
        """Which of the four gates are multiplied together, one group after the other.

        A sum per row and gate, a gate's weights, an operand and a product: 30 of the 32 registers of AVX-512, and all
        16 of AVX2. With more, LLVM keeps some of the sums in memory, and a step takes up to twice as long.
        """
        return (range(4),) if self.lanes == 16 else (range(2), range(2, 4))

    @property
    def rows_at_once(self) -> int:
        """Rows whose sums are made into states together.

        Those operations wait for each other. With AVX2 two rows side by side take 0.8 times as long as one after the
        other; four would need more registers. With AVX-512 that was not measured.
        """
        return 1 if self.lanes == 16 else 2

    @property
    def multiplies(self) -> bool:
        """Whether its module has the functions `multiply` and `average` too."""
        return self.arithmetic == "float32" and not self.stacked and not self.hard_gates

    @property
    def branches(self) -> bool:
        """Whether its module has the function `branch` too."""
        return not self.stacked and self.outputs.isdisjoint({"states", "floats"})

    @property
    def is_integer(self) -> bool:
        """Whether sums are integers, which `scales` make into gates."""
        return self.arithmetic in ("vnni", "int16")

    @property
    def operand(self) -> str:
        """NumPy's name of the operands' type."""
        return {"float32": "float32", "bfloat16": "uint16", "vnni": "uint8", "int16": "int16"}[self.arithmetic]

    @property
    def weight(self) -> str:
        """NumPy's name of the weights' type."""
        return {"float32": "float32", "bfloat16": "uint16", "vnni": "int8", "int16": "int16"}[self.arithmetic]

    @property
    def group(self) -> int:
        """Operands of a group."""
        return GROUP_BYTES // OPERAND_BYTES[self.arithmetic]

    @property
    def zero(self) -> int:
        """The operand that stands for a state of zero."""
        return ZERO_POINT if self.arithmetic == "vnni" else 0
