"""Columns of a declared float type: decimals round, integers are exact or refused."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.dataset_files import open_source, read_malformed, read_rows
from lengthwise.data.floats import UnfitNumberError, to_floats
from lengthwise.errors import DatasetError

TYPES = {"float16": (pa.float16(), np.float16), "float32": (pa.float32(), np.float32), "float64": (pa.float64(), float)}


def read(folder: Path, literal: str, data_type: str, *, as_json: bool) -> Any:
    """The value of one row's column `id`."""
    path = folder / ("rows.jsonl" if as_json else "rows.csv")
    path.write_text(f'{{"text": "a", "id": {literal}}}\n' if as_json else f"text,id\na,{literal}\n")
    (row,) = read_rows(open_source(path, keep_columns=("id",), types={"id": data_type}))
    return row["id"]


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("data_type", "literal", "problem"),
    [
        ("float32", "16777217", "would become 16777216; set dataset.types.id to float64 or int64 or string"),
        ("float32", "-16777217", "would become -16777216; set dataset.types.id to float64 or int64 or string"),
        ("float32", "9007199254740993", "set dataset.types.id to int64 or string"),
        ("float64", "9007199254740993", "would become 9007199254740992; set dataset.types.id to int64 or string"),
        ("float64", "9223372036854775809", "set dataset.types.id to string"),
        ("float32", "1e40", "is too large for float32; set dataset.types.id to float64 or string"),
        ("float64", "1e400", "is too large for float64; set dataset.types.id to string"),
    ],
)
def test_number_that_the_type_cannot_hold(
    tmp_path: Path, data_type: str, literal: str, problem: str, as_json: bool
) -> None:
    with pytest.raises(DatasetError, match=rf"rows\.\w+, line [12]: the column 'id': {literal} .*{problem}\)"):
        read(tmp_path, literal, data_type, as_json=as_json)


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("data_type", "literal", "value"),
    [
        ("float32", "16777218", 16777218.0),
        ("float64", "9007199254740994", 9007199254740994.0),
        ("float64", "100000000000000000000", 1e20),
        ("float32", "0.1", struct.unpack("f", struct.pack("f", 0.1))[0]),
        ("float32", "16777217.0", 16777216.0),
        ("float64", "0.1", 0.1),
        ("float32", "1e-60", 0.0),
    ],
)
def test_number_that_fits_or_is_rounded(
    tmp_path: Path, data_type: str, literal: str, value: float, as_json: bool
) -> None:
    assert read(tmp_path, literal, data_type, as_json=as_json) == value


@pytest.mark.parametrize(("literal", "value"), [("inf", math.inf), ("-Inf", -math.inf), ("", None)])
def test_infinity_may_be_written(tmp_path: Path, literal: str, value: float | None) -> None:
    assert read(tmp_path, literal, "float32", as_json=False) == value


def test_row_of_such_a_number_can_be_set_aside(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,id\na,1\nb,16777217\nc,2\n")
    rows, malformed = read_malformed(tmp_path / "rows.csv", keep_columns=("id",), types={"id": "float32"})
    assert [row["id"] for row in rows] == [1.0, None, 2.0]
    assert list(malformed) == [1]


@pytest.mark.parametrize("value", [True, {"a": 1}, [1], "x", " 1", "0x10", "1_000"])
def test_value_that_is_no_number(value: Any) -> None:
    with pytest.raises((TypeError, pa.ArrowException)):
        to_floats([value], pa.float32())


@settings(max_examples=300, deadline=None)
@given(
    number=st.integers(-(2**70), 2**70) | st.integers(-(2**25), 2**25) | st.integers(-3_000, 3_000),
    name=st.sampled_from(list(TYPES)),
    as_text=st.booleans(),
)
def test_integer_is_exact_or_refused(number: int, name: str, as_text: bool) -> None:
    target, convert = TYPES[name]
    with np.errstate(over="ignore"):
        expected = float(convert(float(number) if name != "float64" else number))
    values = [str(number) if as_text else number, None]
    if math.isfinite(expected) and int(expected) == number:
        assert to_floats(values, target).to_pylist() == [expected, None]
    else:
        with pytest.raises(UnfitNumberError):
            to_floats(values, target)
