"""Bytes to and from the process of an engine."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from lengthwise.export.runtimes import NotRunnable
from lengthwise.export.runtimes.process import (
    Process,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
)

IDS, MASK = np.array([[2, 3, 4], [5, 6, 0]]), np.array([[1, 1, 1], [1, 1, 0]])


def test_requests_are_decoded() -> None:
    ids, mask = decode_request(encode_request(IDS, MASK))
    np.testing.assert_array_equal(ids, IDS)
    np.testing.assert_array_equal(mask, MASK)
    assert ids.dtype == mask.dtype == np.int64


def test_answers_are_decoded() -> None:
    record = json.dumps({"arrays": [{"type": "float32", "dims": [2, 1]}, {"type": "int64", "dims": [1]}]}).encode()
    padding = b"\0" * (-len(record) % 4)
    arrays = np.array([[1.5], [2.5]], "<f4").tobytes() + np.array([7], "<i8").tobytes()
    decoded, (first, second) = decode_answer(struct.pack("<I", len(record)) + record + padding + arrays)
    assert len(decoded["arrays"]) == 2
    assert (first.tolist(), second.tolist(), first.dtype, second.dtype) == ([[1.5], [2.5]], [7], np.float32, np.int64)
    error = json.dumps({"error": "no"}).encode()
    with pytest.raises(RuntimeError, match=r"^no$"):
        decode_answer(struct.pack("<I", len(error)) + error)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64])
def test_answers_keep_type_and_shape(dtype: type[np.generic]) -> None:
    arrays = [np.arange(6).reshape(2, 3).astype(dtype), np.zeros((0, 4), dtype)]
    record, found = decode_answer(encode_answer({"odd": "ä"}, arrays))
    assert record["odd"] == "ä"
    for array, right in zip(found, arrays, strict=True):
        np.testing.assert_array_equal(array, right)
        assert array.dtype == right.dtype


def test_reason_of_an_engine_that_is_missing() -> None:
    with pytest.raises(NotRunnable, match="not installed"):
        decode_answer(encode_answer({"not_runnable": "it is not installed"}))


def start(code: str) -> Process:
    return Process([sys.executable, "-c", code])


def test_process_that_ends_is_reported_with_its_last_words() -> None:
    process = start("import sys; sys.exit('assertion failed: rows > 0')")
    with pytest.raises(RuntimeError, match=r"ended: assertion failed: rows > 0"):
        process.receive(30)
    process.close()


def test_process_that_does_not_answer_is_killed() -> None:
    process = start("import time; time.sleep(60)")
    with pytest.raises(RuntimeError, match="it was killed, or took too long"):
        process.receive(0.2)
    process.close()
    assert process.popen.returncode is not None


def test_program_that_cannot_be_started_is_not_runnable(tmp_path: Path) -> None:
    with pytest.raises(NotRunnable, match="cannot be started"):
        Process([str(tmp_path / "none")])
