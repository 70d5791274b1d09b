"""executorch_server.py MODEL: answers requests on standard input, in the format of `runtimes.process`.

Run as a script, by a Python that has executorch, and perhaps not this package. Standard output carries answers alone;
what ExecuTorch prints there goes to standard error.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

OUTPUTS = ("sentence_embedding", "token_embeddings", "logits")
Ids = NDArray[np.int64]
Run = Callable[[Ids, Ids], list[NDArray[Any]]]


def open_program(path: str) -> tuple[Run, dict[str, str]]:
    """A program, run row by row: it takes one at a time."""
    import torch
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path)
    method = program.load_method("forward")

    def run(input_ids: Ids, attention_mask: Ids) -> list[NDArray[Any]]:
        rows = []
        for row in range(max(1, len(input_ids))):  # of no rows, the program is asked all the same
            inputs = [torch.from_numpy(each[row : row + 1]) for each in (input_ids, attention_mask)]
            rows.append([output.detach().numpy().copy() for output in method.execute(inputs)])
        return [np.concatenate(outputs) for outputs in zip(*rows, strict=True)]

    return run, {"executorch": metadata.version("executorch"), "torch": torch.__version__}


def encode(record: dict[str, Any], arrays: list[NDArray[Any]]) -> bytes:
    """An answer."""
    text = json.dumps(record).encode()
    head = struct.pack("<I", len(text)) + text
    return b"".join([head, b"\0" * (-len(head) % 4), *(np.ascontiguousarray(array).tobytes() for array in arrays)])


def answer(run: Run, request: bytes) -> bytes:
    """Run a batch; an error is an answer too."""
    rows, columns = struct.unpack_from("<II", request)
    cells = np.frombuffer(request, "<i8", offset=8).reshape(2, rows, columns)
    try:
        outputs = run(cells[0].copy(), cells[1].copy())
    except Exception as error:  # ExecuTorch's own types
        return encode({"error": f"{type(error).__name__}: {error}"}, [])
    described = [{"type": str(output.dtype), "dims": output.shape} for output in outputs]
    return encode({"arrays": described}, outputs)


def serve(path: str, requests: BinaryIO, answers: BinaryIO) -> None:
    """Open a program, describe the session, then answer requests until there are no more."""

    def send(data: bytes) -> None:
        answers.write(struct.pack("<I", len(data)) + data)
        answers.flush()

    try:
        run, versions = open_program(path)
        probe = np.ones((1, 1), np.int64)
        count = len(run(0 * probe, probe))
    except ModuleNotFoundError as error:
        return send(encode({"not_runnable": f"{error.name} is not installed for {sys.executable}"}, []))
    except Exception as error:  # ExecuTorch's own types
        return send(encode({"error": f"{type(error).__name__}: {error}"}, []))
    send(encode({"outputs": OUTPUTS[:count], "versions": versions}, []))
    while len(size := requests.read(4)) == 4:
        send(answer(run, requests.read(struct.unpack("<I", size)[0])))
    return None


def main() -> None:
    """Serve, with standard output moved out of the way of what ExecuTorch prints."""
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        serve(sys.argv[1], sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
