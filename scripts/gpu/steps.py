"""What a time step costs on the device: what `BatchCosts` on CUDA are to be set by."""

from __future__ import annotations

import time
from functools import partial

import numpy as np

from lengthwise.batching.costs import PACKED_CUDA
from lengthwise.cli.benchmarks.harness import median
from lengthwise.cli.gpu.context import Check, Context, Found, Section
from lengthwise.config import Precision

ROWS = (1, 16, 64, 256, 1_024, 4_096)  # the first of them in a rehearsal
_TOKENS, _REPEATS, _MIXED = 16, 9, 256  # the last: rows of each length


def _step(precision: Precision, context: Context) -> Found:
    """The line through the seconds of a step by its rows, and what mixed lengths cost against equal ones."""
    context.require(precision)
    engine = context.engine(precision)
    rng = np.random.default_rng(0)

    def seconds(lengths: np.ndarray) -> float:
        ids = rng.integers(engine.config.vocab_size, size=(len(lengths), int(lengths.max())))
        times = []
        for _ in range(_REPEATS):
            began = time.perf_counter()
            engine.encode_batch(ids, lengths)
            times.append(time.perf_counter() - began)
        return median(times[1:])

    counts = ROWS[:3] if context.rehearsal else ROWS
    times = {rows: seconds(np.full(rows, _TOKENS)) / _TOKENS for rows in counts}
    weights = 1 / np.array(list(times.values()))
    per_row, fixed = np.polyfit(list(times), list(times.values()), 1, w=weights)
    spread = rng.permutation(np.repeat(np.arange(_TOKENS - 3, _TOKENS + 4), 8 if context.rehearsal else _MIXED))
    mixed = seconds(spread) / seconds(np.full(len(spread), _TOKENS))
    each = ", ".join(f"{rows} rows {1e6 * time:.1f}" for rows, time in times.items())
    return Found(f"µs a step: {each}; so `step` is {fixed / per_row:.0f} and `mixed` {mixed:.2f}")


SECTION = Section(
    "steps",
    f"What a time step costs, copies included (`PACKED_CUDA` has step {PACKED_CUDA.step}, mixed {PACKED_CUDA.mixed})",
    tuple(Check(f"a step, {precision}", "", partial(_step, precision)) for precision in ("fp32", "bf16", "fp16")),
)
