"""What a batch takes, runtime by runtime, graph by graph: one session at a time, as idle ones spin on the processor.

A first look; what a claim rests on is measured in turn, by `scripts/benchmark.py graphs`.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lengthwise.export.graphs.variants import Variant
from lengthwise.export.runtimes.base import Runtime

log = logging.getLogger(__name__)
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
    """Milliseconds a batch, the median of runs, on as many threads as each runtime chooses.

    A pair that fails at it is left out: validation has said what there is to say of it.
    """
    speeds: Speeds = {}
    for kind, variant in tqdm(pairs, "speed", disable=not show_progress):
        runtime = kind()
        try:
            runtime.load(folder / kind.files[variant.name])
            found = {
                batch_name(*batch): 1e3 * statistics.median(_times(runtime, *batch, vocab_size)) for batch in BATCHES
            }
            speeds.setdefault(kind.name, {})[variant.name] = found
        except Exception as error:  # each runtime raises its own types
            log.warning("%s, %s: its speed was not measured (%s)", kind.name, variant.name, error)
        finally:
            runtime.close()
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
