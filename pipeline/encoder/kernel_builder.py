"""Vectors, loops and functions of one argument in LLVM code: what `kernel_code` is written with.

- A loop carries values from round to round, as LLVM's phi nodes do, so sums stay in registers.
- exp2 is Cephes' polynomial (exp2f, netlib.org/cephes), tanh the rational function of Eigen (MathFunctionsImpl.h). Both
  are within a few units in the last place, relative to the result. NaN stays NaN.
- There is no fast-math: the same operations give the same bits on every CPU that has FMA.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from llvmlite import ir

Value: TypeAlias = Any  # llvmlite has no types
Builder: TypeAlias = Any
I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F32, F64, PTR, VOID = ir.FloatType(), ir.DoubleType(), ir.PointerType(), ir.VoidType()
ROUND = 1.5 * 2**23  # added to a float32 it rounds it to an integer, which then is in its lower bits

_EXP2 = (
    *(1.535336188319500e-4, 1.339887440266574e-3, 9.618437357674640e-3, 5.550332471162809e-2),
    *(2.402264791363012e-1, 6.931472028550421e-1, 1.0),
)
_EXP2_LIMIT = 126.0
_TANH_ODD = (
    *(-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08),
    *(1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03),
)
_TANH_EVEN = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
_TANH_LIMIT = 7.90531110763549805  # tanh is 1 beyond, to the last bit


class VectorCode:
    """Emits code on vectors of `lanes` values of 4 bytes, into a module.

    Methods take the builder of the function that they add to. Those of arithmetic take vectors of any length: LLVM
    splits what exceeds a register, and the parts are computed side by side: they do not wait for each other.
    """

    def __init__(self, lanes: int) -> None:
        self.lanes, self.vector_bytes = lanes, 4 * lanes
        self.floats, self.ints = ir.VectorType(F32, lanes), ir.VectorType(I32, lanes)
        self.module = ir.Module("lstm")

    def _declare(self, name: str, result: Any, arguments: list[Any]) -> Value:
        return ir.Function(self.module, ir.FunctionType(result, arguments), name)

    def _define(self, name: str, arguments: list[Any], *, is_public: bool = False) -> tuple[Value, Builder]:
        """A function without a result, and the builder at its beginning."""
        function = self._declare(name, VOID, arguments)
        function.attributes.add("nounwind")
        if not is_public:
            function.linkage = "internal"
            function.attributes.add("noinline")
        return function, ir.IRBuilder(function.append_basic_block("entry"))

    def _loop(
        self,
        b: Builder,
        stop: Value,
        body: Callable[[Value, Sequence[Value]], list[Value]],
        carried: Sequence[Value] = (),
        *,
        start: Value | None = None,
        step: int = 1,
    ) -> list[Value]:
        """Run `body` with an index from start (0) up to stop, and with values that it returns for the next round."""
        first, before = I64(0) if start is None else start, b.block
        loop, done = b.append_basic_block("loop"), b.append_basic_block("done")
        b.cbranch(b.icmp_signed("<", first, stop), loop, done)
        b.position_at_end(loop)
        index, *values = (b.phi(kind) for kind in (I64, *(value.type for value in carried)))
        results = body(index, values)
        following, end = b.add(index, I64(step)), b.block
        b.cbranch(b.icmp_signed("<", following, stop), loop, done)
        for phi, initial, result in zip([index, *values], [first, *carried], [following, *results], strict=True):
            phi.add_incoming(initial, before)
            phi.add_incoming(result, end)
        b.position_at_end(done)
        finals = []
        for initial, result in zip(carried, results, strict=True):
            phi = b.phi(initial.type)
            phi.add_incoming(initial, before)
            phi.add_incoming(result, end)
            finals.append(phi)
        return finals

    def _at(self, b: Builder, address: Value, offset: Value | int) -> Value:
        """The address so many bytes further on."""
        return b.gep(address, [I64(offset) if isinstance(offset, int) else offset], source_etype=I8)

    def _load(self, b: Builder, address: Value, offset: Value | int, kind: Any) -> Value:
        return b.load(self._at(b, address, offset), typ=kind, align=4)

    def _load_index(self, b: Builder, address: Value, number: Value | int) -> Value:
        """An int32 of an array, as int64."""
        offset = 4 * number if isinstance(number, int) else b.mul(number, I64(4))
        return b.sext(self._load(b, address, offset, I32), I64)

    def _store(self, b: Builder, value: Value, address: Value, offset: Value | int) -> None:
        b.store(value, self._at(b, address, offset), align=1)

    def _splat(self, b: Builder, value: Value) -> Value:
        empty = ir.Constant(ir.VectorType(value.type, self.lanes), ir.Undefined)
        return b.shuffle_vector(b.insert_element(empty, value, I32(0)), empty, self._ints(0))

    def _load_each(self, b: Builder, addresses: Sequence[Value], offset: Value | int, kind: Any) -> Value:
        """Load a vector at the same offset of each address, and join them."""
        return self._join(b, [self._load(b, address, offset, kind) for address in addresses])

    def _join(self, b: Builder, vectors: Sequence[Value]) -> Value:
        """One vector, or two as a longer one."""
        if len(vectors) == 1:
            return vectors[0]
        first, second = vectors
        return b.shuffle_vector(first, second, _places(0, 2 * self.lanes))

    def _part(self, b: Builder, vector: Value, number: int) -> Value:
        """One of the vectors that were joined."""
        return b.shuffle_vector(vector, vector, _places(number * self.lanes, self.lanes))

    def _fma(self, b: Builder, x: Value, y: Value, z: Value) -> Value:
        name = f"llvm.fma.v{x.type.count}f32"
        return b.call(self.module.globals.get(name) or self._declare(name, x.type, [x.type] * 3), [x, y, z])

    def _floats(self, value: float, lanes: int | None = None) -> Value:
        lanes = self.lanes if lanes is None else lanes
        return ir.Constant(ir.VectorType(F32, lanes), [float(value)] * lanes)

    def _ints(self, value: int) -> Value:
        return ir.Constant(self.ints, [int(value)] * self.lanes)

    def _exp2(self, b: Builder, x: Value) -> Value:
        """2 to the power of x, between 2**-126 and 2**126."""
        lanes = x.type.count
        ints, shift = ir.VectorType(I32, lanes), self._floats(ROUND, lanes)
        x = self._clamp(b, x, _EXP2_LIMIT)
        rounded = b.fadd(x, shift)
        fraction = b.fsub(x, b.fsub(rounded, shift))
        exponent = b.shl(b.bitcast(rounded, ints), ir.Constant(ints, [23] * lanes))
        return b.bitcast(b.add(b.bitcast(self._polynomial(b, _EXP2, fraction), ints), exponent), x.type)

    def _tanh(self, b: Builder, x: Value) -> tuple[Value, Value]:
        """tanh(x) as a fraction: numerator and denominator."""
        x = self._clamp(b, x, _TANH_LIMIT)
        square = b.fmul(x, x)
        return b.fmul(x, self._polynomial(b, _TANH_ODD, square)), self._polynomial(b, _TANH_EVEN, square)

    def _polynomial(self, b: Builder, coefficients: Sequence[float], x: Value) -> Value:
        value, *others = (self._floats(coefficient, x.type.count) for coefficient in coefficients)
        for coefficient in others:
            value = self._fma(b, value, x, coefficient)
        return value

    def _clip(self, b: Builder, x: Value) -> Value:
        """x between 0 and 1; NaN stays NaN."""
        return self._limit(b, x, 0.0, 1.0)

    def _clamp(self, b: Builder, x: Value, limit: float) -> Value:
        """x between -limit and limit; NaN stays NaN."""
        return self._limit(b, x, -limit, limit)

    def _limit(self, b: Builder, x: Value, smallest: float, largest: float) -> Value:
        """x between both; NaN stays NaN, because comparisons with it are false."""
        low, high = (self._floats(value, x.type.count) for value in (smallest, largest))
        x = b.select(b.fcmp_ordered(">", x, high), high, x)
        return b.select(b.fcmp_ordered("<", x, low), low, x)


def _places(first: int, count: int) -> Value:
    """So many numbers from the first on, for a shuffle."""
    return ir.Constant(ir.VectorType(I32, count), list(range(first, first + count)))
