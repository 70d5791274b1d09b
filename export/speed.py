"""What a batch takes, runtime by runtime, graph by graph.

One session at a time, because idle ones spin on the processor; every graph twice, there and back, so that a slow
moment does not meet one graph alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from export.runtimes.base import Runtime
from export.variants import Variant

Speeds = dict[str, dict[str, dict[str, float]]]  # runtime -> graph -> batch -> milliseconds
BATCHES = ((1, 32), (32, 32))  # rows, tokens a row
_SECONDS = 0.25  # for one batch
_ROUNDS = (4, 50)


def batch_name(rows: int, tokens: int) -> str:
    """As it stands in reports."""
    return f"{rows} x {tokens}"


def measure_speed(
    pairs: Sequence[tuple[type[Runtime], Variant]], folder: Path, vocab_size: int, *, show_progress: bool = False
) -> Speeds:
    """Milliseconds a batch, the median of runs, on as many threads as each runtime chooses."""
    speeds: Speeds = {}
    there_and_back = [*pairs, *reversed(pairs)]
    times: dict[tuple[str, str, str], list[float]] = {}
    for kind, variant in tqdm(there_and_back, "speed", disable=not show_progress):
        runtime = kind()
        try:
            runtime.load(folder / kind.files[variant.name])
            for rows, tokens in BATCHES:
                key = (kind.name, variant.name, batch_name(rows, tokens))
                times.setdefault(key, []).extend(_times(runtime, rows, tokens, vocab_size))
        finally:
            runtime.close()
    for (kind_name, name, batch), found in times.items():
        speeds.setdefault(kind_name, {}).setdefault(name, {})[batch] = 1e3 * statistics.median(found)
    return speeds


def _times(runtime: Runtime, rows: int, tokens: int, vocab_size: int) -> list[float]:
    """Seconds of some runs, the first of which, that warms up, left out."""
    input_ids = np.random.default_rng(4).integers(vocab_size, size=(rows, tokens))
    attention_mask = np.ones_like(input_ids)
    times: list[float] = []
    while len(times) < _ROUNDS[0] or (sum(times) < _SECONDS and len(times) < _ROUNDS[1]):
        start = time.perf_counter()
        runtime.run(input_ids, attention_mask)
        times.append(time.perf_counter() - start)
    return times[1:]
