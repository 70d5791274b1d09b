"""A tile of the fused LSTM kernel in LLVM code: a few rows times `lanes` units, multiplied and made into states.

The sums of a tile stay in registers while its product is computed, and its gates become states at once. `kernel_code`
has the loops around tiles, and says what the arithmetics and gates are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import llvmlite.binding as llvm
from llvmlite import ir

from lengthwise.encoder.int8 import STATE_SCALE
from lengthwise.encoder.kernel_builder import F32, I8, I16, I32, I64, PTR, ROUND, Builder, Value, VectorCode
from lengthwise.encoder.kernel_spec import GROUP_BYTES, TILE_ROWS, KernelSpec

_OPERANDS = {"float32": F32, "bfloat16": I16, "vnni": I8, "int16": I16}


class TileCode(VectorCode):
    """Emits the tiles of a kernel, and the cell that makes their sums into states.

    Attributes:
        spec: of the kernel.
        cell: the function of `_define_cell`.
    """

    def __init__(self, spec: KernelSpec) -> None:
        super().__init__(spec.lanes)
        self.spec = spec
        self._sum_type = self.ints if spec.is_integer else self.floats
        self.module.triple = llvm.get_process_triple()
        self._declare_intrinsics()
        self._tiles = {rows: self._define_tile(rows) for rows in range(1, TILE_ROWS + 1)}
        self.cell = self._define_cell()

    def _declare_intrinsics(self) -> None:
        lanes, halves = self.lanes, ir.VectorType(I16, 2 * self.lanes)
        if self.spec.arithmetic == "vnni":
            # Signatures until LLVM 21; later ones convert them (llvm/lib/IR/AutoUpgrade.cpp).
            self._dot_function = self._declare(f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", self.ints, [self.ints] * 3)
        elif self.spec.arithmetic == "bfloat16":
            name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * lanes}"
            self._dot_function = self._declare(name, self.floats, [self.floats, self.ints, self.ints])
        elif self.spec.arithmetic == "int16":
            name = "llvm.x86.avx2.pmadd.wd" if lanes == 8 else "llvm.x86.avx512.pmaddw.d.512"
            self._dot_function = self._declare(name, self.ints, [halves] * 2)

    # Products

    def _define_tile(self, rows: int) -> Value:
        """Multiply `rows` rows by the weights of a panel, and store the sums, [rows, 4, lanes].

        Arguments: sums, offsets; inputs, their stride, positions, groups, weights; states, stride, groups, weights.
        """
        types = [PTR, PTR, PTR, I64, PTR, I64, PTR, PTR, I64, I64, PTR]
        function, b = self._define(f"tile_{rows}", types)
        sums, offsets, inputs, input_stride, positions, input_groups, input_weights, *recurrent = function.args
        states, state_stride, state_groups, state_weights = recurrent
        below: list[Value] = []
        if self.spec.stacked:
            below = [
                self._at(b, inputs, b.mul(self._load_index(b, positions, row), input_stride)) for row in range(rows)
            ]
        before = [self._at(b, states, b.mul(state_stride, I64(row))) for row in range(rows)]
        for gates in self.spec.gates_at_once:
            if not self.spec.is_integer:
                values = [self._floats(0.0)] * (len(gates) * rows)
            else:
                values = [self._load(b, offsets, gate * self.vector_bytes, self.ints) for gate in gates] * rows
            if below:
                values = self._product(b, values, below, gates, input_groups, input_weights)
            values = self._product(b, values, before, gates, state_groups, state_weights)
            places = [4 * row + gate for row in range(rows) for gate in gates]
            for place, value in zip(places, values, strict=True):
                self._store(b, value, sums, place * self.vector_bytes)
        b.ret_void()
        return function

    def _product(
        self, b: Builder, sums: list[Value], addresses: list[Value], gates: range, groups: Value, weights: Value
    ) -> list[Value]:
        """Add the products of the operands at these addresses: per group, the gates' weights meet every row."""
        is_float32, count = self.spec.arithmetic == "float32", len(gates)
        operand, weight = (F32, self.floats) if is_float32 else (I32, self.ints)

        def add_group(group: Value, sums: Sequence[Value]) -> list[Value]:
            tile = self._at(b, weights, b.mul(group, I64(4 * self.vector_bytes)))
            columns = [self._load(b, tile, gate * self.vector_bytes, weight) for gate in gates]
            offset, added = b.mul(group, I64(GROUP_BYTES)), []
            for row, address in enumerate(addresses):
                value = self._splat(b, self._load(b, address, offset, operand))
                added += [self._dot(b, sums[count * row + n], value, columns[n]) for n in range(count)]
            return added

        return self._loop(b, groups, add_group, sums)

    def _dot(self, b: Builder, total: Value, operands: Value, weights: Value) -> Value:
        if self.spec.arithmetic == "float32":
            return self._fma(b, operands, weights, total)
        if self.spec.arithmetic in ("vnni", "bfloat16"):
            return b.call(self._dot_function, [total, operands, weights])
        halves = ir.VectorType(I16, 2 * self.lanes)
        return b.add(total, b.call(self._dot_function, [b.bitcast(operands, halves), b.bitcast(weights, halves)]))

    def _multiply_block(self, b: Builder, rows: Value, arguments: list[Value]) -> None:
        """Call the tile of so many rows, 1 to TILE_ROWS."""
        done = b.append_basic_block("multiplied")
        switch = b.switch(rows, done)
        for count, tile in self._tiles.items():
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
        factors = self._load_factors(b, scales)

        def update_rows(count: int, first: Value, _: Sequence[Value]) -> list[Value]:
            numbers = [b.add(first, I64(number)) for number in range(count)]
            entries = [self._at(b, table, b.mul(self._load_index(b, ids, row), table_stride)) for row in numbers]
            tiles = [self._at(b, sums, b.mul(row, I64(4 * self.vector_bytes))) for row in numbers]
            offsets = [b.mul(row, stride) for row in numbers]
            kept = (cells, partial_sums, maxima, lasts)
            for row, state in zip(
                numbers, self._update(b, tiles, entries, factors, kept, offsets, offsets), strict=True
            ):
                operand = self._to_operand(b, state)
                self._store(b, operand, following, b.mul(row, operand_stride))
                for name, value in (("states", operand), ("floats", state)):
                    if name in self.spec.outputs:
                        self._store(b, value, stored, b.mul(self._load_index(b, positions, row), stored_stride))
            return []

        at_once = self.spec.rows_at_once
        whole = b.and_(rows, I64(-at_once))
        self._loop(b, whole, partial(update_rows, at_once), step=at_once)
        if at_once > 1:
            self._loop(b, rows, partial(update_rows, 1), start=whole)
        b.ret_void()
        return function

    def _load_factors(self, b: Builder, scales: Value) -> list[Value]:
        """What the integer sums of the four gates are multiplied by."""
        gates = range(4) if self.spec.is_integer else ()
        return [self._load(b, scales, gate * self.vector_bytes, self.floats) for gate in gates]

    def _update(
        self,
        b: Builder,
        tiles: Sequence[Value],
        entries: Sequence[Value],
        factors: list[Value],
        kept: tuple[Value, Value, Value, Value],
        sources: Sequence[Value],
        targets: Sequence[Value],
    ) -> list[Value]:
        """The states of the units of one row, or of two side by side, from sums in `tiles` and from table `entries`.

        Cells, partial sums, maxima and lasts are read at the offsets `sources` and written at `targets`.
        """
        (cells, partial_sums, maxima, lasts), outputs, rows = kept, self.spec.outputs, range(len(tiles))

        def load(address: Value) -> Value:
            return self._load_each(b, [self._at(b, address, source) for source in sources], 0, self.floats)

        def store(vector: Value, address: Value) -> None:
            for row, target in zip(rows, targets, strict=True):
                self._store(b, vector if len(rows) == 1 else self._part(b, vector, row), address, target)

        gates = []
        for gate in range(4):
            from_table = self._load_each(b, entries, gate * self.vector_bytes, self.floats)
            total = self._load_each(b, tiles, gate * self.vector_bytes, self._sum_type)
            gates.append(
                self._fma(b, b.sitofp(total, from_table.type), self._join(b, [factors[gate] for _ in rows]), from_table)
                if factors
                else b.fadd(total, from_table)
            )
        input_gate, forget_gate, output_gate, candidate = gates
        one = self._floats(1.0, candidate.type.count)
        kept_cell = self._through_gate(b, load(cells), one, forget_gate)
        cell = b.fadd(kept_cell, self._through_gate(b, *self._tanh(b, candidate), input_gate))
        state = self._through_gate(b, *self._tanh(b, cell), output_gate)
        store(cell, cells)
        if "sum" in outputs:
            store(b.fadd(load(partial_sums), state), partial_sums)
        if "max" in outputs:
            largest = load(maxima)
            store(b.select(b.fcmp_unordered(">", state, largest), state, largest), maxima)
        if "last" in outputs:
            store(state, lasts)
        return [state] if len(rows) == 1 else [self._part(b, state, row) for row in rows]

    def _through_gate(self, b: Builder, numerator: Value, denominator: Value, gate: Value) -> Value:
        """A fraction times how far a gate is open."""
        if self.spec.hard_gates:
            return b.fdiv(b.fmul(numerator, self._clip(b, gate)), denominator)
        closed = b.fadd(self._floats(1.0, gate.type.count), self._exp2(b, gate))
        return b.fdiv(numerator, b.fmul(denominator, closed))

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
