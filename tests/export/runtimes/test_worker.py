"""Engines in a child process: what they print, raise or crash on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lengthwise.export.graphs.variants import NATIVE, VARIANTS
from lengthwise.export.runtimes import NotRunnable
from lengthwise.export.runtimes.base import refuse_bad_batch
from lengthwise.export.runtimes.worker import Session, WorkerRuntime

IDS, MASK = np.array([[2, 3, 4], [5, 6, 0]]), np.array([[1, 1, 1], [1, 1, 0]])


class Echo(Session):
    """Prints, and gives the ids back; the id 7 raises, 8 ends the process."""

    outputs = ("sentence_embedding", "token_embeddings")

    def __init__(self, path: Path) -> None:
        os.write(1, b"loading\n")
        self.versions = {"echo": "1", "process": str(os.getpid())}

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Sequence[NDArray[np.float32]]:
        os.write(1, b"running\n")
        if 7 in input_ids:
            raise ValueError("seven")
        if 8 in input_ids:
            os.abort()
        return input_ids.astype(np.float32), attention_mask.astype(np.float32)


class Missing(Echo):
    """An engine that is not installed."""

    def __init__(self, path: Path) -> None:
        raise NotRunnable("it is not installed; install lengthwise[missing]")


class EchoRuntime(WorkerRuntime):
    """`Echo` in a child process."""

    name, session = "echo", Echo


class MissingRuntime(WorkerRuntime):
    """`Missing` in a child process."""

    name, session = "missing", Missing


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    for session in (Echo, Missing):
        monkeypatch.setattr(session, "__module__", Path(__file__).stem)


@pytest.fixture
def runtime(artifact_folder: Path) -> Iterator[EchoRuntime]:
    opened = EchoRuntime()
    opened.load(artifact_folder / VARIANTS[NATIVE].file)
    yield opened
    opened.close()


def test_engine_answers_from_another_process(runtime: EchoRuntime) -> None:
    runtime.vocab_size = 7  # of which the ids have the last
    for given in (MASK, MASK, np.zeros_like(MASK)):
        ids, mask = runtime.run(IDS, given)
        np.testing.assert_array_equal(ids, IDS)
        np.testing.assert_array_equal(mask, given)
    assert runtime.describe()["echo"] == "1"
    assert runtime.describe()["process"] != str(os.getpid())


def test_engine_goes_on_after_an_error(runtime: EchoRuntime) -> None:
    with pytest.raises(RuntimeError, match=r"^seven$"):
        runtime.run(np.full((1, 2), 7), np.ones((1, 2), np.int64))
    assert runtime.run(IDS, MASK)[0].shape == (2, 3)


def test_crash_ends_the_engine_alone(runtime: EchoRuntime) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"{Path(sys.executable).name} ended"):
            runtime.run(np.full((1, 2), 8), np.ones((1, 2), np.int64))


def test_missing_engine_is_not_runnable(artifact_folder: Path) -> None:
    runtime = MissingRuntime()
    with pytest.raises(NotRunnable, match=r"install lengthwise\[missing\]"):
        runtime.load(artifact_folder / VARIANTS[NATIVE].file)
    runtime.close()


def test_ids_are_checked_against_the_graphs_vocabulary(runtime: EchoRuntime) -> None:
    with pytest.raises(ValueError, match=r"the id 1000 is out of range; the vocabulary has ids from 0 to \d+$"):
        runtime.run(np.full((1, 2), 1_000), np.ones((1, 2), np.int64))


@pytest.mark.parametrize(
    ("ids", "mask", "reason"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3)), "rows and columns"),
        (np.zeros((2, 0)), np.zeros((2, 0)), "rows and columns"),
        (np.zeros(3), np.ones(3), "rows and columns"),
        (np.zeros((2, 3)), np.ones((2, 2)), "attention_mask is"),
        (np.full((1, 2), -1), np.ones((1, 2)), "the id -1 is out of range"),
        (np.full((1, 2), 9), np.ones((1, 2)), "ids from 0 to 8"),
        (np.zeros((1, 3)), np.array([[1, 0, 1]]), "not ones, then zeros"),
        (np.zeros((1, 3)), np.array([[0, 1, 1]]), "not ones, then zeros"),
        (np.zeros((1, 2)), np.array([[2, 0]]), "not ones, then zeros"),
    ],
)
def test_bad_batch_is_refused(ids: NDArray[np.generic], mask: NDArray[np.generic], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        refuse_bad_batch(ids.astype(np.int64), mask.astype(np.int64), 9)
