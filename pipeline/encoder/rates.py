"""Rates of engines on the same rows, measured in turn, so that a busy machine slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from lengthwise.encoder.engine import Engine, encode_tokens
from lengthwise.tokens.ragged import RaggedTokens

REPEATS = 3


def measure_rates(engines: Sequence[Engine], tokens: RaggedTokens, repeats: int = REPEATS) -> list[float]:
    """Tokens per second of each engine: on a CPU per second of CPU time, which other processes hardly affect."""
    clocks = [time.perf_counter if engine.name.startswith("torch cuda") else time.process_time for engine in engines]
    seconds = np.zeros((repeats + 1, len(engines)))  # the first round is a warm-up
    for row in seconds:
        for number, (engine, clock) in enumerate(zip(engines, clocks, strict=True)):
            began = clock()
            encode_tokens(tokens, engine)
            row[number] = clock() - began
    fastest = np.maximum(seconds[1:].min(axis=0), np.finfo(np.float64).tiny)
    return [len(tokens.values) / second for second in fastest.tolist()]


def random_tokens(vocab_size: int, rows: int = 64, length: int = 16) -> RaggedTokens:
    """Rows of random ids, the same each time."""
    ids = np.random.default_rng(0).integers(0, vocab_size, rows * length).astype(np.int32)
    no = np.zeros(rows, np.bool_)
    return RaggedTokens(ids, np.arange(rows + 1, dtype=np.int64) * length, no, no)
