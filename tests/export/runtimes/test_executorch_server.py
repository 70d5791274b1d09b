"""The process that runs ExecuTorch: what it answers, with a program of the test."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lengthwise.export.runtimes import NotRunnable, executorch_server
from lengthwise.export.runtimes.executorch_server import serve
from lengthwise.export.runtimes.process import decode_answer

Ids = NDArray[np.int64]


def request(ids: list[list[int]]) -> bytes:
    cells = np.array(ids, np.int64)
    body = struct.pack("<II", *cells.shape) + cells.tobytes() + np.ones_like(cells).tobytes()
    return struct.pack("<I", len(body)) + body


def answers(*requests: bytes) -> list[bytes]:
    written = io.BytesIO()
    serve("model", io.BytesIO(b"".join(requests)), written)
    data, found = written.getvalue(), []
    while data:
        (size,) = struct.unpack_from("<I", data)
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


def open_sums(path: str) -> tuple[Any, dict[str, str]]:
    def run(input_ids: Ids, attention_mask: Ids) -> list[NDArray[Any]]:
        if (input_ids < 0).any():
            raise IndexError("an id is below 0")
        sums = (input_ids * attention_mask).sum(axis=1, keepdims=True).astype(np.float32)
        return [sums, input_ids.astype(np.float32)[:, :, None]]

    return run, {"sums": path}


def test_batches_are_answered_and_a_failed_one_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executorch_server, "open_program", open_sums)
    first, good, failed, again = answers(request([[1, 2], [3, 4]]), request([[-1]]), request([[5, 6, 7]]))
    assert decode_answer(first)[0] == {
        "outputs": ["sentence_embedding", "token_embeddings"],
        "versions": {"sums": "model"},
    }
    vectors, states = decode_answer(good)[1]
    assert (vectors.tolist(), states.shape) == ([[3.0], [7.0]], (2, 2, 1))
    with pytest.raises(RuntimeError, match="IndexError: an id is below 0"):
        decode_answer(failed)
    assert decode_answer(again)[1][0].tolist() == [[18.0]]


def test_failure_to_open_is_the_only_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: str) -> Any:
        raise ModuleNotFoundError("No module named 'engine'", name="engine")

    def damaged(path: str) -> Any:
        raise OSError(f"{path} is damaged")

    monkeypatch.setattr(executorch_server, "open_program", missing)
    (answer,) = answers(request([[1]]))
    with pytest.raises(NotRunnable, match=r"^engine is not installed for "):
        decode_answer(answer)
    monkeypatch.setattr(executorch_server, "open_program", damaged)
    (answer,) = answers(request([[1]]))
    with pytest.raises(RuntimeError, match=r"^OSError: model is damaged$"):
        decode_answer(answer)
