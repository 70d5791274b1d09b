"""Values of a column that is declared to be of a float type.

A number with a fraction or an exponent is rounded, as it is wherever decimals become binary. An integer that the type
cannot hold is an error, since integers count or name something; so is a number that would become infinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_INTEGER = r"^[+-]?[0-9]+$"
_INFINITY = r"(?i)^[+-]?inf(inity)?$"
_EXACT_DIGITS = {pa.float16(): 3, pa.float32(): 7, pa.float64(): 15}  # every integer of so many is exact
INT64 = (-(2**63), 2**63 - 1)


class UnfitNumberError(ValueError):
    """A number that a float type cannot hold.

    Attributes:
        types: the types of `dataset.types` that can.
    """

    def __init__(self, reason: str, types: Sequence[str]) -> None:
        super().__init__(reason)
        self.types = tuple(types)


def to_floats(values: Sequence[Any], target: pa.DataType) -> pa.Array:
    """Numbers and strings of them as an array of a float type.

    Args:
        values: strings, integers or numbers of JSON as they are written; None for null.
        target: float16, float32 or float64.

    Raises:
        UnfitNumberError: the type cannot hold a number.
        ArrowException, TypeError: a value is no number.
    """
    if any(isinstance(value, bool | dict | list) for value in values):
        raise TypeError("not a number")
    literals = pa.array([value if value is None or isinstance(value, str) else str(value) for value in values])
    if pa.types.is_null(literals.type):
        return pa.nulls(len(literals), target)
    floats = literals.cast(target)
    _check_integers(literals, floats)
    infinite = pc.is_inf(floats.cast(pa.float64()))
    if pc.any(infinite).as_py():
        written = literals.filter(infinite)
        overflowing = written.filter(pc.invert(pc.match_substring_regex(written, _INFINITY)))
        if len(overflowing):
            literal = overflowing[0].as_py()
            fitting = ["float64"] if target != pa.float64() and abs(float(literal)) != float("inf") else []
            raise UnfitNumberError(f"{literal} is too large for {type_name(target)}", [*fitting, "string"])
    return floats


def type_name(data_type: pa.DataType) -> str:
    """The name of a type in `dataset.types`."""
    names = {pa.float16(): "float16", pa.float32(): "float32", pa.float64(): "float64", pa.date32(): "date32"}
    return names.get(data_type, str(data_type))


def _check_integers(literals: pa.Array, floats: pa.Array) -> None:
    target = floats.type
    is_long = pc.greater(pc.utf8_length(literals), _EXACT_DIGITS[target])
    if not pc.any(is_long).as_py():
        return
    chosen = pc.and_(is_long, pc.match_substring_regex(literals, _INTEGER))
    for literal, number in zip(literals.filter(chosen).to_pylist(), floats.filter(chosen).to_pylist(), strict=True):
        written = int(literal)
        if abs(number) == float("inf") or int(number) == written:
            continue
        fitting = (
            ["float64"] if target != pa.float64() and abs(written) <= 2**1023 and int(float(written)) == written else []
        )
        fitting += ["int64"] if INT64[0] <= written <= INT64[1] else []
        raise UnfitNumberError(
            f"{literal} is an integer that {type_name(target)} cannot hold: it would become {int(number)}",
            [*fitting, "string"],
        )
