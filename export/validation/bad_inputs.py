"""What engines do with batches that no text gives: ids out of range, no rows or columns, masks of another form.

Each engine is asked without its adapter's check, in a child process, since some end theirs. After each batch it has to
give a good one's vectors again. An answer is compared with the vectors that the batch may be meant to have; where it
can mean none, every vector is wrong.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lengthwise.export.artifact.difference import scaled_difference
from lengthwise.export.artifact.folder import Artifact
from lengthwise.export.graphs.variants import NATIVE, ORT, PORTABLE
from lengthwise.export.runtimes.base import NotRunnable, Outputs, Runtime
from lengthwise.export.runtimes.process import BytesRuntime, ProcessEnded, ProcessRuntime
from lengthwise.export.runtimes.registry import RUNTIMES
from lengthwise.export.runtimes.worker import Session, serve_pipes

Ids = NDArray[np.int64]
Behaviour = Literal["error", "crash", "right", "wrong", "not run"]
_ANSWER_SECONDS = 60.0
_LOAD_SECONDS = 600.0
_FAR = 2**40
_TOLERANCE = 1e-5


class Batch(NamedTuple):
    """int64[batch, sequence] twice."""

    input_ids: Ids
    attention_mask: Ids


class BadInput(NamedTuple):
    """A batch that an encoder cannot be asked.

    Attributes:
        name: shown in the table.
        batch: the bad one, of which one row at most is bad, the first.
        meant: a good one whose vectors are the right answer; None if there is no right answer.
    """

    name: str
    batch: Batch
    meant: Batch | None = None


class Asked(NamedTuple):
    """What an engine did.

    Attributes:
        behaviour: error: it raised, and answers the next batch. crash: its process ended, or it answers no more.
            right: the vectors are those of what the batch can mean. wrong: it gave vectors of nothing.
        detail: the engine's message, or how far off it is.
    """

    behaviour: Behaviour
    detail: str = ""


def bad_inputs(vocab_size: int) -> list[BadInput]:
    """The batches, for a vocabulary of at least four ids."""
    good, second = [2, 3, 1], [1, 2, 0]

    def batch(ids: list[int], mask: list[int]) -> Batch:
        return Batch(np.array([ids, second], np.int64), np.array([mask, [1, 1, 0]], np.int64))

    def without(rows: int, columns: int) -> Batch:
        return Batch(np.zeros((rows, columns), np.int64), np.zeros((rows, columns), np.int64))

    ones, first_two = [1, 1, 1], batch(good, [1, 1, 0])
    return [
        BadInput("id = vocabulary", batch([2, vocab_size, 1], ones)),
        BadInput("id = 2^40", batch([2, _FAR, 1], ones)),
        BadInput("id = -1", batch([2, -1, 1], ones)),
        BadInput("id = -2^40", batch([2, -_FAR, 1], ones)),
        BadInput("-100 in padding", batch([2, 3, -100], [1, 1, 0]), first_two),
        BadInput("no rows", without(0, 3), without(0, 3)),
        BadInput("no columns", without(2, 0), without(2, 1)),
        BadInput("mask 1 0 1", batch(good, [1, 0, 1]), batch([2, 1, 0], [1, 1, 0])),
        BadInput("mask 0 1 1", batch(good, [0, 1, 1]), batch([3, 1, 0], [1, 1, 0])),
        BadInput("mask 2 2 2", batch(good, [2, 2, 2]), batch(good, ones)),
    ]


def ask_bad_inputs(kind: type[Runtime], path: Path, vocab_size: int) -> dict[str, Asked]:
    """What a runtime's engine does with each bad batch, by name; its adapter checks nothing.

    Args:
        path: of an artifact's file that the runtime reads.
    """
    batches = bad_inputs(vocab_size)
    with contextlib.closing(_Engine(kind, path)) as engine:
        try:
            return {bad.name: engine.ask(bad) for bad in batches}
        except NotRunnable as reason:
            return {bad.name: Asked("not run", str(reason)) for bad in batches}


def runtime_files() -> Iterator[tuple[type[Runtime], str, str]]:
    """Each runtime with the graph to ask it of, and its name in the table."""
    for kind in RUNTIMES:
        variants = list(kind.files)
        chosen = NATIVE if kind.reads_lengths else PORTABLE
        yield kind, chosen if chosen in variants else variants[0], kind.name
        if kind.name == "onnxruntime cpu":
            yield kind, ORT, f"{kind.name} (.ort)"


def ask_runtimes(artifact: Artifact, *, show_progress: bool = False) -> dict[str, dict[str, Asked]]:
    """What each runtime's engine does with each bad batch, by their names."""
    from tqdm import tqdm

    found, vocab_size = {}, artifact.load_config().vocab_size
    for kind, variant, name in tqdm(list(runtime_files()), "runtimes", leave=False, disable=not show_progress):
        file = kind.files[variant]
        if (artifact.folder / file).exists():
            found[name] = ask_bad_inputs(kind, artifact.folder / file, vocab_size)
        else:
            missing = Asked("not run", f"the artifact has no {file}; name {variant} in export.variants")
            found[name] = {bad.name: missing for bad in bad_inputs(vocab_size)}
    return found


class _Engine:
    """A runtime without its check, loaded again after a crash."""

    def __init__(self, kind: type[Runtime], path: Path) -> None:
        self._kind, self._path = kind, path
        self._runtime: Runtime | None = None
        self._good: Outputs = ()

    def ask(self, bad: BadInput) -> Asked:
        runtime = self._open()
        expected = self._expected(runtime, bad)
        try:
            asked = _judge(runtime.run_unchecked(*bad.batch), expected)
        except ProcessEnded as ended:
            self.close()
            return Asked("crash", str(ended))
        except RuntimeError as error:
            asked = Asked("error", str(error))
        return self._check_alive(runtime, asked)

    def close(self) -> None:
        if self._runtime is not None:
            self._runtime.close()
            self._runtime = None

    def _open(self) -> Runtime:
        if self._runtime is None:
            self._runtime = self._kind() if issubclass(self._kind, BytesRuntime) else _InChild(self._kind)
            if isinstance(self._runtime, ProcessRuntime):
                self._runtime.start_seconds, self._runtime.answer_seconds = _LOAD_SECONDS, _ANSWER_SECONDS
            self._runtime.load(self._path)
            self._good = self._runtime.run_unchecked(*_good_batch())
        return self._runtime

    def _expected(self, runtime: Runtime, bad: BadInput) -> NDArray[np.float32] | None:
        if bad.meant is None:
            return None
        if len(bad.meant.input_ids) == 0:
            return self._good[0][:0]
        return runtime.run_unchecked(*bad.meant)[0]

    def _check_alive(self, runtime: Runtime, asked: Asked) -> Asked:
        """The answer, unless the engine cannot answer a good batch after it as before."""
        try:
            after = runtime.run_unchecked(*_good_batch())
        except RuntimeError as error:
            self.close()
            return Asked("crash", f"it answers no more: {error}")
        if not np.array_equal(after[0], self._good[0]):
            self.close()
            return Asked("wrong", "the next batch has other vectors than before")
        return asked


def _good_batch() -> Batch:
    return Batch(np.array([[2, 3, 1], [1, 2, 0]], np.int64), np.array([[1, 1, 1], [1, 1, 0]], np.int64))


def _judge(outputs: Sequence[NDArray[np.float32]], expected: NDArray[np.float32] | None) -> Asked:
    vectors = outputs[0] if outputs else np.zeros((0, 0), np.float32)
    if expected is None:
        return Asked("wrong", "there is no right answer")
    if vectors.shape != expected.shape:
        return Asked("wrong", f"the shape is {vectors.shape}, not {expected.shape}")
    difference = float(scaled_difference(vectors, expected).max(initial=0))
    return Asked("right" if difference <= _TOLERANCE else "wrong", f"off by {difference:.2g}")


class _Unchecked(Session):
    """A runtime of this package in a child process, without its check."""

    def __init__(self, kind: type[Runtime], path: Path) -> None:
        self._runtime = kind()
        self._runtime.load(path)
        outputs = self._runtime.run_unchecked(*_good_batch())
        self.outputs = ("sentence_embedding", "token_embeddings", "logits")[: len(outputs)]
        self.versions = self._runtime.describe()

    def run(self, input_ids: Ids, attention_mask: Ids) -> Sequence[NDArray[np.float32]]:
        return self._runtime.run_unchecked(input_ids, attention_mask)


class _InChild(ProcessRuntime):
    """`_Unchecked` and the process around it."""

    def __init__(self, kind: type[Runtime]) -> None:
        self.name = kind.name

    def _command(self, path: Path) -> tuple[list[str], None]:
        return [sys.executable, "-m", __name__, self.name, str(path.resolve())], None


def _main(name: str, path: str) -> None:
    (kind,) = (kind for kind in RUNTIMES if kind.name == name)
    serve_pipes(partial(_Unchecked, kind), Path(path))


if __name__ == "__main__":
    _main(*sys.argv[1:])
