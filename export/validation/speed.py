"""Milliseconds per batch by runtime and graph, one session at a time, because idle sessions spin on the processor.

A first estimate; published figures are measured in alternating runs, by `lengthwise benchmark graphs`.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from lengthwise.export.graphs.variants import Variant
from lengthwise.export.runtimes.base import Runtime
from lengthwise.export.validation.cases import Case

log = logging.getLogger(__name__)
RuntimeFactory = Callable[[], Runtime]
Speeds = dict[str, dict[str, dict[str, float]]]  # runtime -> graph -> batch -> milliseconds
_SECONDS = 0.25  # per batch
_ROUNDS = (4, 50)


def measure_speed(
    pairs: Iterable[tuple[RuntimeFactory, Variant]], folder: Path, cases: Sequence[Case], *, show_progress: bool = False
) -> Speeds:
    """Milliseconds per batch, the median of several runs, with as many threads as each runtime chooses.

    A pair that fails is left out; its verdict reports the failure.

    Args:
        pairs: what makes a runtime, and the graph to load.
        folder: the artifact's.
        cases: the batches.
        show_progress: whether to show a progress bar.
    """
    speeds: Speeds = {}
    for make_runtime, variant in tqdm(pairs, "speed", disable=not show_progress):
        runtime = make_runtime()
        try:
            runtime.load(folder / runtime.files[variant.name])
            found = {case.name: 1e3 * statistics.median(_measure_seconds(runtime, case)) for case in cases}
            speeds.setdefault(runtime.name, {})[variant.name] = found
        except Exception as error:  # each runtime raises its own types
            log.warning("%s, %s: its speed was not measured (%s)", runtime.name, variant.name, error)
        finally:
            runtime.close()
    return speeds


def _measure_seconds(runtime: Runtime, case: Case) -> list[float]:
    """Seconds of several runs, without the first, which warms up."""
    attention_mask = case.attention_mask
    times: list[float] = []
    while len(times) < _ROUNDS[0] or (sum(times) < _SECONDS and len(times) < _ROUNDS[1]):
        start = time.perf_counter()
        runtime.run(case.input_ids, attention_mask)
        times.append(time.perf_counter() - start)
    return times[1:]
