"""LLVM code of the fused LSTM kernel: product, gates, cell and pooling of a packed batch in one pass.

PyTorch runs a step as a product that writes the gates of all rows, and about ten passes over them. Here a tile of a
few rows times `lanes` units is multiplied in registers, and its gates become states at once: they never reach memory.

- **Arithmetic.** `float32` multiplies by FMA, `bfloat16` pairs of bfloat16 (`vdpbf16ps`, whose sums are float32).
  `vnni` multiplies states of 8 bits, with zero point 128, by weights of 8 bits (`vpdpbusd`, whose sums have 32 bits).
  `int16` multiplies the same integers as 16 bits (`vpmaddwd`) on CPUs without VNNI, where products of 8 bits would
  saturate: both have the same sums, and these are exact.
- **Order.** A row's products are summed over its inputs one after the other, in the same order beside any other rows,
  and there is no fast-math: a row's result does not depend on its batch, to the last bit.
- **Gates** come as i, f, o, g, the first three times -log2(e), so that sigmoid(x) is 1 / (1 + exp2(gate)). Its error
  and that of tanh are relative to the result (`kernel_builder`): closed gates and small states stay exact.
- **Sums** over time are in float32 for `WINDOW` steps, counted from a row's own beginning, and then in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import llvmlite.binding as llvm
from llvmlite import ir

from lengthwise.encoder.int8 import STATE_SCALE, ZERO_POINT
from lengthwise.encoder.kernel_builder import F32, F64, I8, I16, I32, I64, PTR, ROUND, VOID, Builder, Value, VectorCode
from lengthwise.encoder.layers import WINDOW, Output

Arithmetic = Literal["float32", "bfloat16", "vnni", "int16"]
GROUP_BYTES = 4  # operands are read in groups of 4 bytes: one float32, two of 16 bits or four of 8

# The arguments of `run` and `multiply`: 64-bit integers, in this order; those that are not sizes are addresses.
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
    "stored",  # operands[positions, ...], the states of all tokens
    "stored_stride",  # bytes per position
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
MULTIPLY_ARGUMENTS = ("rows", "panels", "input_groups", "input_stride", "inputs", "weights", "bias", "outputs")

_OPERANDS = {"float32": F32, "bfloat16": I16, "vnni": I8, "int16": I16}
_OPERAND_BYTES = {"float32": 4, "bfloat16": 2, "vnni": 1, "int16": 2}


@dataclass(frozen=True)
class KernelSpec:
    """What a kernel computes, and the registers it may use.

    Attributes:
        arithmetic: of the products.
        lanes: float32 values of a vector register, 16 with AVX-512 and 8 with AVX2.
        tile_rows: rows that are multiplied at a time; 4 sums per row have to fit into registers.
        outputs: what is kept of the states: their `sum`, `max` or `last` per row, or all `states`.
        stacked: whether there are inputs of a layer below beside those in the table.
    """

    arithmetic: Arithmetic
    lanes: Literal[8, 16]
    tile_rows: int
    outputs: frozenset[Output]
    stacked: bool

    @property
    def multiplies(self) -> bool:
        """Whether its module has the functions `multiply` and `average` too."""
        return self.arithmetic == "float32" and not self.stacked

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
        return GROUP_BYTES // _OPERAND_BYTES[self.arithmetic]

    @property
    def zero(self) -> int:
        """The operand that stands for a state of zero."""
        return ZERO_POINT if self.arithmetic == "vnni" else 0


def kernel_code(spec: KernelSpec) -> str:
    """A module with the function `run`, and where the spec has them `multiply` and `average`, as LLVM assembly.

    Each takes the address of its arguments, int64 each, in the order of `RUN_ARGUMENTS` and so on.
    """
    return str(_KernelModule(spec).module)


class _KernelModule(VectorCode):
    """Emits the functions of a kernel; a tile is `lanes` units of their four gates."""

    def __init__(self, spec: KernelSpec) -> None:
        super().__init__(spec.lanes)
        self.spec = spec
        self.sum_type = self.ints if spec.is_integer else self.floats
        self.module.triple = llvm.get_process_triple()
        self._declare_intrinsics()
        self.tiles = {rows: self._define_tile(rows) for rows in range(1, spec.tile_rows + 1)}
        self.cell = self._define_cell()
        self._define_run()
        if spec.multiplies:
            self._define_multiply()
            self._define_average()

    def _declare_intrinsics(self) -> None:
        lanes, halves = self.lanes, ir.VectorType(I16, 2 * self.lanes)
        self.prefetch_function = self._declare("llvm.prefetch.p0", VOID, [PTR, I32, I32, I32])
        if self.spec.arithmetic == "vnni":
            # Signatures until LLVM 21; later ones convert them (llvm/lib/IR/AutoUpgrade.cpp).
            self.dot_function = self._declare(f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", self.ints, [self.ints] * 3)
        elif self.spec.arithmetic == "bfloat16":
            name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * lanes}"
            self.dot_function = self._declare(name, self.floats, [self.floats, self.ints, self.ints])
        elif self.spec.arithmetic == "int16":
            name = "llvm.x86.avx2.pmadd.wd" if lanes == 8 else "llvm.x86.avx512.pmaddw.d.512"
            self.dot_function = self._declare(name, self.ints, [halves] * 2)

    # Products

    def _define_tile(self, rows: int) -> Value:
        """Multiply `rows` rows by the weights of a panel, and store the sums, [rows, 4, lanes].

        Arguments: sums, offsets; inputs, their stride, positions, groups, weights; states, stride, groups, weights.
        """
        types = [PTR, PTR, PTR, I64, PTR, I64, PTR, PTR, I64, I64, PTR]
        function, b = self._define(f"tile_{rows}", types)
        sums, offsets, inputs, input_stride, positions, input_groups, input_weights, *recurrent = function.args
        states, state_stride, state_groups, state_weights = recurrent
        if not self.spec.is_integer:
            values = [self._floats(0.0)] * (4 * rows)
        else:
            values = [self._load(b, offsets, gate * self.vector_bytes, self.ints) for gate in range(4)] * rows
        if self.spec.stacked:
            addresses = [
                self._at(b, inputs, b.mul(self._load_index(b, positions, row), input_stride)) for row in range(rows)
            ]
            values = self._product(b, values, addresses, input_groups, input_weights)
        addresses = [self._at(b, states, b.mul(state_stride, I64(row))) for row in range(rows)]
        values = self._product(b, values, addresses, state_groups, state_weights)
        for number, value in enumerate(values):
            self._store(b, value, sums, number * self.vector_bytes)
        b.ret_void()
        return function

    def _product(
        self, b: Builder, sums: list[Value], addresses: list[Value], groups: Value, weights: Value
    ) -> list[Value]:
        """Add the products of the operands at these addresses: per group, four vectors of weights meet every row."""
        is_float32 = self.spec.arithmetic == "float32"
        operand, weight = (F32, self.floats) if is_float32 else (I32, self.ints)

        def add_group(group: Value, sums: Sequence[Value]) -> list[Value]:
            tile = self._at(b, weights, b.mul(group, I64(4 * self.vector_bytes)))
            columns = [self._load(b, tile, gate * self.vector_bytes, weight) for gate in range(4)]
            offset, added = b.mul(group, I64(GROUP_BYTES)), []
            for row, address in enumerate(addresses):
                value = self._splat(b, self._load(b, address, offset, operand))
                added += [self._dot(b, sums[4 * row + gate], value, columns[gate]) for gate in range(4)]
            return added

        return self._loop(b, groups, add_group, sums)

    def _dot(self, b: Builder, total: Value, operands: Value, weights: Value) -> Value:
        if self.spec.arithmetic == "float32":
            return self._fma(b, operands, weights, total)
        if self.spec.arithmetic in ("vnni", "bfloat16"):
            return b.call(self.dot_function, [total, operands, weights])
        halves = ir.VectorType(I16, 2 * self.lanes)
        return b.add(total, b.call(self.dot_function, [b.bitcast(operands, halves), b.bitcast(weights, halves)]))

    def _multiply_block(self, b: Builder, rows: Value, arguments: list[Value]) -> None:
        """Call the tile of so many rows, 1 to tile_rows."""
        done = b.append_basic_block("multiplied")
        switch = b.switch(rows, done)
        for count, tile in self.tiles.items():
            block = b.append_basic_block(f"rows_{count}")
            switch.add_case(I64(count), block)
            b.position_at_end(block)
            b.call(tile, arguments)
            b.branch(done)
        b.position_at_end(done)

    # The cell

    def _define_cell(self) -> Value:
        """From sums to states, for the units of one panel and some rows.

        Arguments: rows; sums; ids and positions of their tokens; table and its stride; scales; addresses of the first
        row in cells, next states, partial sums, maxima, lasts and of position 0 in stored; the strides of float32 and
        of operands, and of stored.
        """
        types = [I64, *[PTR] * 4, I64, *[PTR] * 7, I64, I64, I64]
        function, b = self._define("cell", types)
        rows, sums, ids, positions, table, table_stride, scales, cells, following, *kept = function.args
        partial_sums, maxima, lasts, stored, stride, operand_stride, stored_stride = kept
        outputs, one = self.spec.outputs, self._floats(1.0)
        is_float = not self.spec.is_integer
        factors = [] if is_float else [self._load(b, scales, k * self.vector_bytes, self.floats) for k in range(4)]

        def update_row(row: Value, _: Sequence[Value]) -> list[Value]:
            entry = self._at(b, table, b.mul(self._load_index(b, ids, row), table_stride))
            tile = self._at(b, sums, b.mul(row, I64(4 * self.vector_bytes)))
            gates = []
            for gate in range(4):
                from_table = self._load(b, entry, gate * self.vector_bytes, self.floats)
                total = self._load(b, tile, gate * self.vector_bytes, self.sum_type)
                gates.append(
                    b.fadd(total, from_table)
                    if is_float
                    else self._fma(b, b.sitofp(total, self.floats), factors[gate], from_table)
                )
            closed_input, closed_forget, closed_output = (self._exp2(b, gate) for gate in gates[:3])
            odd, even = self._tanh(b, gates[3])
            offset = b.mul(row, stride)
            kept_cell = b.fdiv(self._load(b, cells, offset, self.floats), b.fadd(one, closed_forget))
            cell = b.fadd(kept_cell, b.fdiv(odd, b.fmul(even, b.fadd(one, closed_input))))
            self._store(b, cell, cells, offset)
            odd, even = self._tanh(b, cell)
            state = b.fdiv(odd, b.fmul(even, b.fadd(one, closed_output)))
            if "sum" in outputs:
                self._store(b, b.fadd(self._load(b, partial_sums, offset, self.floats), state), partial_sums, offset)
            if "max" in outputs:
                largest = self._load(b, maxima, offset, self.floats)
                self._store(b, b.select(b.fcmp_unordered(">", state, largest), state, largest), maxima, offset)
            if "last" in outputs:
                self._store(b, state, lasts, offset)
            operand = self._to_operand(b, state)
            self._store(b, operand, following, b.mul(row, operand_stride))
            if "states" in outputs:
                self._store(b, operand, stored, b.mul(self._load_index(b, positions, row), stored_stride))
            return []

        self._loop(b, rows, update_row)
        b.ret_void()
        return function

    def _to_operand(self, b: Builder, state: Value) -> Value:
        """States as operands: integers are rounded to the nearest of 1 / STATE_SCALE, ties to even, as bfloat16 is."""
        if self.spec.arithmetic == "float32":
            return state
        narrow = ir.VectorType(_OPERANDS[self.spec.arithmetic], self.lanes)
        if self.spec.is_integer:
            rounded = self._fma(b, state, self._floats(STATE_SCALE), self._floats(ROUND + self.spec.zero))
            return b.trunc(b.bitcast(rounded, self.ints), narrow)
        bits = b.bitcast(state, self.ints)
        is_odd = b.and_(b.lshr(bits, self._ints(16)), self._ints(1))
        rounded = b.add(bits, b.add(is_odd, self._ints(0x7FFF)))
        return b.trunc(b.lshr(rounded, self._ints(16)), narrow)

    # The loops around both

    def _define_run(self) -> None:
        """All steps of a batch through one direction of one layer."""
        function, b = self._define("run", [PTR], is_public=True)
        a = self._arguments(b, function.args[0], RUN_ARGUMENTS, {*RUN_SIZES, "stored_stride"})
        sums = self._scratch(b)

        def step(time: Value, carried: Sequence[Value]) -> list[Value]:
            start, active, states, following = carried
            rows = self._load(b, a["steps"], b.mul(time, I64(8)), I64)
            active = b.select(b.icmp_signed("<", active, rows), active, rows)
            offset = b.mul(start, I64(4))
            tokens = {name: self._at(b, a[name], offset) for name in ("ids", "positions")}
            self._define_step(b, {**a, **tokens, "states": states, "next_states": following}, sums, active, rows)
            if "sum" in self.spec.outputs:
                is_last = b.icmp_signed("==", b.and_(time, I64(WINDOW - 1)), I64(WINDOW - 1))
                with b.if_then(is_last):  # of the rows at the beginning of the window, which are not fewer
                    first = b.sub(time, I64(WINDOW - 1))
                    self._add_partial_sums(b, a, self._load(b, a["steps"], b.mul(first, I64(8)), I64))
            return [b.add(start, rows), rows, following, states]

        self._loop(b, a["step_count"], step, [I64(0), a["active"], a["states"], a["next_states"]])
        if "sum" in self.spec.outputs:
            first = b.and_(b.sub(a["step_count"], I64(1)), I64(-WINDOW))
            self._add_partial_sums(b, a, self._load(b, a["steps"], b.mul(first, I64(8)), I64))
        b.ret_void()

    def _define_step(self, b: Builder, a: dict[str, Value], sums: Value, active: Value, rows: Value) -> None:
        """One step: rows that have a state, then rows that begin, whose state is zero and is not multiplied.

        Ids and positions are those of its tokens, and states and next_states those that it reads and writes.
        """

        def panel(number: Value, _: Sequence[Value]) -> list[Value]:
            begins, zero = a["input_offsets"], I64(0)
            self._define_blocks(b, a, sums, number, (zero, active, a["state_groups"], a["offsets"]))
            self._define_blocks(b, a, sums, number, (active, rows, zero, begins))
            return []

        self._loop(b, a["panels"], panel)

    def _define_blocks(
        self,
        b: Builder,
        a: dict[str, Value],
        sums: Value,
        panel: Value,
        part: tuple[Value, Value, Value, Value],
    ) -> None:
        """The blocks of rows from first to last, whose recurrent product has so many groups and these offsets."""
        first, last, groups, offsets = part
        hidden = b.mul(a["panels"], I64(self.lanes))
        stride, operand_stride = b.mul(hidden, I64(4)), b.mul(hidden, I64(_OPERAND_BYTES[self.spec.arithmetic]))
        tile_offset = b.mul(panel, I64(4 * self.vector_bytes))
        unit_offset = b.mul(panel, I64(self.vector_bytes))
        operand_offset = b.mul(panel, I64(self.lanes * _OPERAND_BYTES[self.spec.arithmetic]))
        table, scales = self._at(b, a["table"], tile_offset), self._at(b, a["scales"], tile_offset)
        input_weights = self._at(b, a["input_weights"], b.mul(tile_offset, a["input_groups"]))
        state_weights = self._at(b, a["state_weights"], b.mul(tile_offset, a["state_groups"]))
        by_row = {name: self._at(b, a[name], unit_offset) for name in ("cells", "partial_sums", "maxima", "lasts")}
        stored = self._at(b, a["stored"], operand_offset)

        def block(row: Value, _: Sequence[Value]) -> list[Value]:
            left = b.sub(last, row)
            count = b.select(b.icmp_signed("<", left, I64(self.spec.tile_rows)), left, I64(self.spec.tile_rows))
            ids, positions = (self._at(b, a[name], b.mul(row, I64(4))) for name in ("ids", "positions"))
            self._prefetch_table(b, ids, count, table, a["table_stride"])
            inputs = [a["inputs"], a["input_stride"], positions, a["input_groups"], input_weights]
            current, following = (
                self._at(b, a[name], b.mul(row, operand_stride)) for name in ("states", "next_states")
            )
            recurrent = [current, operand_stride, groups, state_weights]
            self._multiply_block(b, count, [sums, self._at(b, offsets, tile_offset), *inputs, *recurrent])
            row_offset = b.mul(row, stride)
            cells, *kept = (self._at(b, address, row_offset) for address in by_row.values())
            following = self._at(b, following, operand_offset)
            read = [count, sums, ids, positions, table, a["table_stride"], scales]
            strides = [stride, operand_stride, a["stored_stride"]]
            b.call(self.cell, [*read, cells, following, *kept, stored, *strides])
            return []

        self._loop(b, last, block, start=first, step=self.spec.tile_rows)

    def _prefetch_table(self, b: Builder, ids: Value, rows: Value, table: Value, stride: Value) -> None:
        """Fetch the entries of a block's tokens, which come from memory while the block is multiplied."""

        def fetch(row: Value, _: Sequence[Value]) -> list[Value]:
            entry = self._at(b, table, b.mul(self._load_index(b, ids, row), stride))
            for offset in range(0, 4 * self.vector_bytes, 64):
                for_reading, keep, data = I32(0), I32(3), I32(1)
                b.call(self.prefetch_function, [self._at(b, entry, offset), for_reading, keep, data])
            return []

        self._loop(b, rows, fetch)

    def _add_partial_sums(self, b: Builder, a: dict[str, Value], rows: Value) -> None:
        """Add the partial sums of the first rows to their sums, and begin new ones."""
        doubles = ir.VectorType(F64, self.lanes)

        def add(number: Value, _: Sequence[Value]) -> list[Value]:
            offset = b.mul(number, I64(self.vector_bytes))
            twice = b.mul(offset, I64(2))
            partial = b.fpext(self._load(b, a["partial_sums"], offset, self.floats), doubles)
            self._store(b, b.fadd(self._load(b, a["sums"], twice, doubles), partial), a["sums"], twice)
            self._store(b, self._floats(0.0), a["partial_sums"], offset)
            return []

        self._loop(b, b.mul(rows, a["panels"]), add)

    def _define_multiply(self) -> None:
        """Rows of float32 times weights, plus a bias: the same products as in a step, for tables and projections."""
        function, b = self._define("multiply", [PTR], is_public=True)
        sizes = {"rows", "panels", "input_groups", "input_stride"}
        a = self._arguments(b, function.args[0], MULTIPLY_ARGUMENTS, sizes)
        sums = self._scratch(b)
        tile_bytes = 4 * self.vector_bytes
        output_stride = b.mul(a["panels"], I64(tile_bytes))

        def panel(number: Value, _: Sequence[Value]) -> list[Value]:
            offset = b.mul(number, I64(tile_bytes))
            weights = self._at(b, a["weights"], b.mul(offset, a["input_groups"]))
            bias = [self._load(b, self._at(b, a["bias"], offset), k * self.vector_bytes, self.floats) for k in range(4)]

            def block(row: Value, _: Sequence[Value]) -> list[Value]:
                left = b.sub(a["rows"], row)
                count = b.select(b.icmp_signed("<", left, I64(self.spec.tile_rows)), left, I64(self.spec.tile_rows))
                operands = [self._at(b, a["inputs"], b.mul(row, a["input_stride"])), a["input_stride"]]
                nothing = [bias_address, a["inputs"], I64(0), a["inputs"], I64(0), weights]
                self._multiply_block(b, count, [sums, *nothing, *operands, a["input_groups"], weights])
                outputs = self._at(b, self._at(b, a["outputs"], b.mul(row, output_stride)), offset)

                def store(line: Value, _: Sequence[Value]) -> list[Value]:
                    source, target = b.mul(line, I64(tile_bytes)), b.mul(line, output_stride)
                    for k in range(4):
                        total = self._load(b, self._at(b, sums, source), k * self.vector_bytes, self.floats)
                        self._store(b, b.fadd(total, bias[k]), self._at(b, outputs, target), k * self.vector_bytes)
                    return []

                self._loop(b, count, store)
                return []

            bias_address = a["bias"]
            self._loop(b, a["rows"], block, step=self.spec.tile_rows)
            return []

        self._loop(b, a["panels"], panel)
        b.ret_void()

    def _define_average(self) -> None:
        """The means of the table's entries for each row's ids, summed in float64."""
        function, b = self._define("average", [PTR], is_public=True)
        sizes = {"rows", "vectors", "ids_stride"}
        a = self._arguments(b, function.args[0], AVERAGE_ARGUMENTS, sizes)
        doubles = ir.VectorType(F64, self.lanes)
        entry_bytes = b.mul(a["vectors"], I64(self.vector_bytes))

        def average_row(row: Value, _: Sequence[Value]) -> list[Value]:
            ids = self._at(b, a["ids"], b.mul(row, a["ids_stride"]))
            length = self._load(b, a["lengths"], b.mul(row, I64(8)), I64)
            divisor = self._splat(b, b.sitofp(length, F64))

            def average_vector(number: Value, _: Sequence[Value]) -> list[Value]:
                offset = b.mul(number, I64(self.vector_bytes))
                table, outputs = self._at(b, a["table"], offset), self._at(b, a["outputs"], offset)

                def add(position: Value, sums: Sequence[Value]) -> list[Value]:
                    entry = b.mul(self._load(b, ids, b.mul(position, I64(8)), I64), entry_bytes)
                    return [b.fadd(sums[0], b.fpext(self._load(b, table, entry, self.floats), doubles))]

                total = self._loop(b, length, add, [ir.Constant(doubles, [0.0] * self.lanes)])[0]
                self._store(b, b.fptrunc(b.fdiv(total, divisor), self.floats), outputs, b.mul(row, entry_bytes))
                return []

            self._loop(b, a["vectors"], average_vector)
            return []

        self._loop(b, a["rows"], average_row)
        b.ret_void()

    def _arguments(self, b: Builder, address: Value, names: Sequence[str], sizes: set[str]) -> dict[str, Value]:
        values = {name: self._load(b, address, 8 * number, I64) for number, name in enumerate(names)}
        return {name: value if name in sizes else b.inttoptr(value, PTR) for name, value in values.items()}

    def _scratch(self, b: Builder) -> Value:
        """Room for the sums of a block."""
        scratch = b.alloca(ir.ArrayType(I8, self.spec.tile_rows * 4 * self.vector_bytes))
        scratch.align = 64
        return scratch
