"""The time per LSTM step on the device, from which the `BatchCosts` on CUDA are derived."""

from __future__ import annotations

import time
from functools import partial

import numpy as np

from lengthwise.batching.costs import PACKED_CUDA
from lengthwise.cli.benchmarks.harness import median
from lengthwise.cli.gpu.context import Check, Context, Outcome, Section
from lengthwise.config import Precision

ROWS = (1, 16, 64, 256, 1_024, 4_096)  # a rehearsal takes the first three
_TOKENS, _REPEATS = 16, 9
_MIXED_ROWS = 256  # per length


def _step(precision: Precision, context: Context) -> Outcome:
    """Fit seconds per step as a line over the rows of a batch, and compare mixed lengths with equal ones."""
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

    row_counts = ROWS[:3] if context.rehearsal else ROWS
    times = {rows: seconds(np.full(rows, _TOKENS)) / _TOKENS for rows in row_counts}
    weights = 1 / np.array(list(times.values()))
    per_row, fixed = np.polyfit(list(times), list(times.values()), 1, w=weights)
    spread = rng.permutation(np.repeat(np.arange(_TOKENS - 3, _TOKENS + 4), 8 if context.rehearsal else _MIXED_ROWS))
    mixed = seconds(spread) / seconds(np.full(len(spread), _TOKENS))
    each = ", ".join(f"{rows} rows {1e6 * time:.1f}" for rows, time in times.items())
    return Outcome(f"µs per step: {each}; hence `step` is {fixed / per_row:.0f} and `mixed` {mixed:.2f}")


SECTION = Section(
    "steps",
    f"Time per LSTM step, copies included (`PACKED_CUDA` has step {PACKED_CUDA.step}, mixed {PACKED_CUDA.mixed})",
    tuple(
        Check(f"time per step, {precision}", "", partial(_step, precision)) for precision in ("fp32", "bf16", "fp16")
    ),
)
