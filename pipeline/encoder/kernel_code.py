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
  and that of tanh are relative to the result (`kernel_builder`): closed gates and small states stay exact. Hard gates
  come as what is to be clipped between 0 and 1.
- **Sums** over time are in float32 for `WINDOW` steps, counted from a row's own beginning, and then in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from lengthwise.encoder.kernel_builder import F64, I8, I32, I64, PTR, VOID, Builder, Value
from lengthwise.encoder.kernel_spec import (
    AVERAGE_ARGUMENTS,
    BRANCH_ARGUMENTS,
    BRANCH_SIZES,
    MULTIPLY_ARGUMENTS,
    MULTIPLY_SIZES,
    OPERAND_BYTES,
    RUN_ARGUMENTS,
    RUN_SIZES,
    TILE_ROWS,
    KernelSpec,
)
from lengthwise.encoder.kernel_tiles import TileCode
from lengthwise.encoder.layers import WINDOW


def kernel_code(spec: KernelSpec) -> str:
    """LLVM assembly of a module with the functions that the spec has: `run`, `branch`, `multiply`, `average`.

    Each takes the address of its arguments, see `kernel_spec`.
    """
    return str(_KernelModule(spec).module)


class _KernelModule(TileCode):
    """Emits the functions of a kernel."""

    def __init__(self, spec: KernelSpec) -> None:
        super().__init__(spec)
        self._prefetch_function = self._declare("llvm.prefetch.p0", VOID, [PTR, I32, I32, I32])
        self._define_run()
        if spec.branches:
            self._define_branch()
        if spec.multiplies:
            self._define_multiply()
            self._define_average()

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
                self._end_windows(b, a, time, rows)
            return [b.add(start, rows), rows, following, states]

        self._loop(b, a["step_count"], step, [I64(0), a["active"], a["states"], a["next_states"]])
        if "sum" in self.spec.outputs:
            self._end_windows(b, a, None, self._load(b, a["steps"], 0, I64))
        b.ret_void()

    def _end_windows(self, b: Builder, a: dict[str, Value], time: Value | None, rows: Value) -> None:
        """Add the partial sums of the first rows whose window ends with this step, or of all, to their sums."""

        def end_window(row: Value, _: Sequence[Value]) -> list[Value]:
            if time is None:
                self._add_partial_sums(b, a, row)
                return []
            place = b.and_(b.add(time, self._load_index(b, a["begun"], row)), I64(WINDOW - 1))
            with b.if_then(b.icmp_signed("==", place, I64(WINDOW - 1))):
                self._add_partial_sums(b, a, row)
            return []

        self._loop(b, rows, end_window)

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
        stride, operand_stride = b.mul(hidden, I64(4)), b.mul(hidden, I64(OPERAND_BYTES[self.spec.arithmetic]))
        tile_offset = b.mul(panel, I64(4 * self.vector_bytes))
        unit_offset = b.mul(panel, I64(self.vector_bytes))
        operand_offset = b.mul(panel, I64(self.lanes * OPERAND_BYTES[self.spec.arithmetic]))
        table, scales = self._at(b, a["table"], tile_offset), self._at(b, a["scales"], tile_offset)
        input_weights = self._at(b, a["input_weights"], b.mul(tile_offset, a["input_groups"]))
        state_weights = self._at(b, a["state_weights"], b.mul(tile_offset, a["state_groups"]))
        by_row = {name: self._at(b, a[name], unit_offset) for name in ("cells", "partial_sums", "maxima", "lasts")}
        stored = self._at(b, a["stored"], unit_offset if "floats" in self.spec.outputs else operand_offset)

        def block(row: Value, _: Sequence[Value]) -> list[Value]:
            left = b.sub(last, row)
            count = b.select(b.icmp_signed("<", left, I64(TILE_ROWS)), left, I64(TILE_ROWS))
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

        self._loop(b, last, block, start=first, step=TILE_ROWS)

    def _prefetch_table(self, b: Builder, ids: Value, rows: Value, table: Value, stride: Value) -> None:
        """Fetch the entries of a block's tokens, which come from memory while the block is multiplied."""

        def fetch(row: Value, _: Sequence[Value]) -> list[Value]:
            entry = self._at(b, table, b.mul(self._load_index(b, ids, row), stride))
            for offset in range(0, 4 * self.vector_bytes, 64):
                for_reading, keep, data = I32(0), I32(3), I32(1)
                b.call(self._prefetch_function, [self._at(b, entry, offset), for_reading, keep, data])
            return []

        self._loop(b, rows, fetch)

    def _add_partial_sums(self, b: Builder, a: dict[str, Value], row: Value) -> None:
        """Add the partial sums of a row to its sums, and begin new ones."""
        doubles = ir.VectorType(F64, self.lanes)
        start = b.mul(row, b.mul(a["panels"], I64(self.vector_bytes)))
        partial_sums, sums = self._at(b, a["partial_sums"], start), self._at(b, a["sums"], b.mul(start, I64(2)))

        def add(panel: Value, _: Sequence[Value]) -> list[Value]:
            offset = b.mul(panel, I64(self.vector_bytes))
            twice = b.mul(offset, I64(2))
            partial = b.fpext(self._load(b, partial_sums, offset, self.floats), doubles)
            self._store(b, b.fadd(self._load(b, sums, twice, doubles), partial), sums, twice)
            self._store(b, self._floats(0.0), partial_sums, offset)
            return []

        self._loop(b, a["panels"], add)

    def _define_branch(self) -> None:
        """One step of a trie: a parent's product is computed once, and is added to the table's entry of each child."""
        function, b = self._define("branch", [PTR], is_public=True)
        a = self._arguments(b, function.args[0], BRANCH_ARGUMENTS, set(BRANCH_SIZES))
        sums = self._scratch(b)
        operand_bytes = OPERAND_BYTES[self.spec.arithmetic]
        hidden = b.mul(a["panels"], I64(self.lanes))
        stride, operand_stride = b.mul(hidden, I64(4)), b.mul(hidden, I64(operand_bytes))

        def panel(number: Value, _: Sequence[Value]) -> list[Value]:
            tile_offset = b.mul(number, I64(4 * self.vector_bytes))
            unit_offset = b.mul(number, I64(self.vector_bytes))
            table, offsets = self._at(b, a["table"], tile_offset), self._at(b, a["offsets"], tile_offset)
            weights = self._at(b, a["state_weights"], b.mul(tile_offset, a["state_groups"]))
            factors = self._load_factors(b, self._at(b, a["scales"], tile_offset))
            cells, *pooled = (
                self._at(b, a[name], unit_offset) for name in ("cells", "partial_sums", "maxima", "lasts")
            )
            following = self._at(b, a["next_states"], b.mul(number, I64(self.lanes * operand_bytes)))

            def block(first: Value, _: Sequence[Value]) -> list[Value]:
                left = b.sub(a["parents"], first)
                count = b.select(b.icmp_signed("<", left, I64(TILE_ROWS)), left, I64(TILE_ROWS))
                begin, end = (self._load_index(b, a["children"], place) for place in (first, b.add(first, count)))
                self._prefetch_table(
                    b, self._at(b, a["ids"], b.mul(begin, I64(4))), b.sub(end, begin), table, a["table_stride"]
                )
                states = self._at(b, a["parent_states"], b.mul(first, operand_stride))
                nothing = [states, I64(0), a["children"], I64(0), weights]
                self._multiply_block(
                    b, count, [sums, offsets, *nothing, states, operand_stride, a["state_groups"], weights]
                )

                def update_children(parent: Value, _: Sequence[Value]) -> list[Value]:
                    tile = self._at(b, sums, b.mul(parent, I64(4 * self.vector_bytes)))
                    children = self._at(b, a["children"], b.mul(b.add(first, parent), I64(4)))

                    def update_child(child: Value, _: Sequence[Value]) -> list[Value]:
                        entry = self._at(b, table, b.mul(self._load_index(b, a["ids"], child), a["table_stride"]))
                        source, target = (self._load_index(b, a[name], child) for name in ("sources", "targets"))
                        offsets = [b.mul(source, stride)], [b.mul(target, stride)]
                        (state,) = self._update(b, [tile], [entry], factors, (cells, *pooled), *offsets)
                        self._store(b, self._to_operand(b, state), following, b.mul(target, operand_stride))
                        return []

                    start, stop = (self._load_index(b, children, place) for place in (0, 1))
                    self._loop(b, stop, update_child, start=start)
                    return []

                self._loop(b, count, update_children)
                return []

            self._loop(b, a["parents"], block, step=TILE_ROWS)
            return []

        self._loop(b, a["panels"], panel)
        b.ret_void()

    def _define_multiply(self) -> None:
        """Rows of float32 times weights, plus a bias: the same products as in a step, for tables and projections."""
        function, b = self._define("multiply", [PTR], is_public=True)
        a = self._arguments(b, function.args[0], MULTIPLY_ARGUMENTS, set(MULTIPLY_SIZES))
        sums = self._scratch(b)
        tile_bytes = 4 * self.vector_bytes
        output_stride = a["output_stride"]

        def panel(number: Value, _: Sequence[Value]) -> list[Value]:
            offset = b.mul(number, I64(tile_bytes))
            weights = self._at(b, a["weights"], b.mul(offset, a["input_groups"]))
            bias = [self._load(b, self._at(b, a["bias"], offset), k * self.vector_bytes, self.floats) for k in range(4)]

            def block(row: Value, _: Sequence[Value]) -> list[Value]:
                left = b.sub(a["rows"], row)
                count = b.select(b.icmp_signed("<", left, I64(TILE_ROWS)), left, I64(TILE_ROWS))
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
            self._loop(b, a["rows"], block, step=TILE_ROWS)
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
        scratch = b.alloca(ir.ArrayType(I8, TILE_ROWS * 4 * self.vector_bytes))
        scratch.align = 64
        return scratch
