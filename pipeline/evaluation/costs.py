"""What a model costs: texts per second, megabytes on disk, and the time until a new process has its first vector."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from lengthwise.errors import LengthwiseError
from lengthwise.evaluation.models import Model, ModelSpec, VectorModel, open_model

SPEED_TEXTS = 1_000
_CHOICE_TEXTS = 128  # on which the batch size is chosen
_RUNS = 3
_STARTUP_LIMIT_S = 300


@dataclass(frozen=True)
class Costs:
    """What a model costs on this machine; None where it was not measured.

    Attributes:
        texts_per_s: the median of several runs over the same texts, each of which was encoded before.
        batch_size: with which it was measured, of a model that does not plan its batches; the fastest of several.
        num_bytes: of its files.
        startup_s: from the start of a new process to its first vector, imports included.
    """

    texts_per_s: float | None = None
    batch_size: int | None = None
    num_bytes: int | None = None
    startup_s: float | None = None


def measure_costs(model: Model, texts: Sequence[str]) -> Costs:
    """Measure what a model costs.

    Args:
        texts: what is encoded for its speed.

    Raises:
        LengthwiseError: the model cannot be loaded in another process.
    """
    if not isinstance(model, VectorModel):
        return Costs()
    batch_size = _fastest_batch_size(model, texts[:_CHOICE_TEXTS])
    encode = partial(model.encode, batch_size=batch_size) if batch_size else model.encode
    encode(list(texts))
    seconds = statistics.median(_seconds(encode, texts) for _ in range(_RUNS))
    startup = None if model.spec is None else measure_startup(model.spec)
    return Costs(len(texts) / seconds, batch_size, model.num_bytes, startup)


def measure_startup(spec: ModelSpec) -> float:
    """Seconds from the start of a new process to its first vector.

    Raises:
        LengthwiseError: the process fails, or takes too long.
    """
    command = [sys.executable, "-m", __name__, spec.source, *([spec.variant] if spec.variant else [])]
    start = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_STARTUP_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise LengthwiseError(f"{spec}: gave no vector within {_STARTUP_LIMIT_S} s of a new process") from None
    seconds = time.perf_counter() - start
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LengthwiseError(f"{spec}: cannot be loaded in a new process ({reason})")
    return seconds


def _fastest_batch_size(model: VectorModel, texts: Sequence[str]) -> int | None:
    if not model.batch_sizes:
        return None
    encoders = {size: partial(model.encode, batch_size=size) for size in model.batch_sizes}
    encoders[model.batch_sizes[0]](list(texts))  # what happens only once is not measured
    return min(encoders, key=lambda size: _seconds(encoders[size], texts))


def _seconds(encode: Callable[[list[str]], object], texts: Sequence[str]) -> float:
    start = time.perf_counter()
    encode(list(texts))
    return time.perf_counter() - start


def _main(source: str, variant: str | None = None) -> None:
    model = open_model(ModelSpec(source, source, variant))
    if isinstance(model, VectorModel):
        model.encode(["a short text"])


if __name__ == "__main__":
    _main(*sys.argv[1:])
