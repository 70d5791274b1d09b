"""An engine in a process of its own: batches and arrays travel through its pipes as bytes.

The format is that of `javascript_driver/session.mjs`, so a driver can be in any language. An engine that ends its
process on an input, or answers nothing, has failed with a reason, and takes nothing else with it.
"""

from __future__ import annotations

import json
import struct
import subprocess
import tempfile
import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.export.runtimes.base import NotRunnable, Outputs, Runtime, check_output_names, read_vocab_size

START_SECONDS = 120.0
ANSWER_SECONDS = 300.0


class BytesRuntime(Runtime):
    """A session elsewhere that takes a request's bytes and gives an answer's."""

    optional = True

    def load(self, path: Path) -> None:
        record, _ = decode_answer(self._start(path))
        check_output_names(record["outputs"])
        self.vocab_size = read_vocab_size(path)
        self._versions: dict[str, str] = record["versions"]

    def run_unchecked(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        _, outputs = decode_answer(self._answer(encode_request(input_ids, attention_mask)))
        return tuple(outputs)

    def describe(self) -> dict[str, str]:
        return self._versions

    @abstractmethod
    def _start(self, path: Path) -> bytes:
        """Load a model; the answer describes the session, or is an error."""

    @abstractmethod
    def _answer(self, request: bytes) -> bytes:
        """Run a batch."""


class ProcessRuntime(BytesRuntime):
    """A session in a process that reads requests from its standard input and writes answers to its standard output."""

    start_seconds = START_SECONDS
    answer_seconds = ANSWER_SECONDS
    _process: Process | None = None

    def _start(self, path: Path) -> bytes:
        command, folder = self._command(path)
        self._process = Process(command, folder)
        return self._process.receive(self.start_seconds)

    def _answer(self, request: bytes) -> bytes:
        if self._process is None:
            raise ProcessEnded("the process has ended")
        self._process.send(request)
        return self._process.receive(self.answer_seconds)

    @abstractmethod
    def _command(self, path: Path) -> tuple[Sequence[str], Path | None]:
        """What to start for a model, and the folder to start it in."""

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None


class ProcessEnded(RuntimeError):
    """A child process has ended, or was killed because it took too long."""


class Process:
    """A child process with requests and answers, each after its length as a u32."""

    def __init__(self, command: Sequence[str], folder: Path | None = None) -> None:
        """Start it.

        Raises:
            NotRunnable: the program cannot be started.
        """
        self._name = Path(command[0]).name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        try:
            self.popen = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, cwd=folder
            )
        except OSError as error:
            self._errors.close()
            raise NotRunnable(f"{command[0]} cannot be started ({error})") from error

    def send(self, request: bytes) -> None:
        """Write a request.

        Raises:
            ProcessEnded: the process has ended.
        """
        stdin = _pipe(self.popen.stdin)
        try:
            stdin.write(struct.pack("<I", len(request)) + request)
            stdin.flush()
        except BrokenPipeError:
            raise ProcessEnded(self._exit_reason()) from None

    def receive(self, seconds: float) -> bytes:
        """Read an answer; a process that takes longer is killed.

        Raises:
            ProcessEnded: the process has ended.
        """
        timer = threading.Timer(seconds, self.popen.kill)
        timer.start()
        try:
            return self._read(struct.unpack("<I", self._read(4))[0])
        finally:
            timer.cancel()

    def close(self) -> None:
        """End the process."""
        self.popen.kill()
        self.popen.communicate()
        self._errors.close()

    def _read(self, size: int) -> bytes:
        data = _pipe(self.popen.stdout).read(size)
        if len(data) < size:
            raise ProcessEnded(self._exit_reason())
        return data

    def _exit_reason(self) -> str:
        self._errors.seek(0)
        output = self._errors.read().decode(errors="replace").strip()
        return f"{self._name} ended: {output[-300:] or 'it was killed, or took too long'}"


def encode_request(input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> bytes:
    """A batch, int64[batch, sequence] twice."""
    cells = (np.ascontiguousarray(values, "<i8").tobytes() for values in (input_ids, attention_mask))
    return struct.pack("<II", *input_ids.shape) + b"".join(cells)


def decode_request(request: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What was encoded."""
    shape = struct.unpack_from("<II", request)
    input_ids, attention_mask = np.frombuffer(request, "<i8", offset=8).reshape(2, *shape).astype(np.int64)
    return input_ids, attention_mask


def encode_answer(record: Mapping[str, Any], arrays: Sequence[NDArray[Any]] = ()) -> bytes:
    """A record as JSON, and arrays, which it names in `arrays`."""
    if arrays:
        record = {**record, "arrays": [{"type": str(array.dtype), "dims": array.shape} for array in arrays]}
    text = json.dumps(record).encode()
    cells = (np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes() for array in arrays)
    return struct.pack("<I", len(text)) + text + bytes(-len(text) % 4) + b"".join(cells)


def decode_answer(answer: bytes) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """The record and the arrays of an answer.

    Raises:
        NotRunnable: the answer is the reason why an engine is not available.
        RuntimeError: the answer is an error's message.
    """
    (length,) = struct.unpack_from("<I", answer)
    record = json.loads(answer[4 : 4 + length])
    if "not_runnable" in record:
        raise NotRunnable(record["not_runnable"])
    if "error" in record:
        raise RuntimeError(record["error"])
    offset, arrays = 4 + -(-length // 4) * 4, []
    for array in record.get("arrays", ()):
        kind = np.dtype(array["type"]).newbyteorder("<")
        count = int(np.prod(array["dims"], dtype=np.int64))
        arrays.append(np.frombuffer(answer, kind, count, offset).reshape(array["dims"]).astype(kind.newbyteorder("=")))
        offset += count * kind.itemsize
    return record, arrays


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise RuntimeError("the process was started without pipes")
    return pipe
