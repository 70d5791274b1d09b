"""The progress bar of a run."""

from __future__ import annotations

import time
from typing import Any

from tqdm import tqdm

from lengthwise.data.dataset import Source
from lengthwise.store.parts import Part


class ProgressBar(tqdm):
    """A bar of rows that shows tokens per second too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._tokens, self._started = 0, time.perf_counter()

    def advance(self, rows: int, tokens: int) -> None:
        """Count rows that were encoded, and their tokens."""
        self._tokens += tokens
        self.set_postfix_str(f"{self._tokens / (time.perf_counter() - self._started):,.0f} tokens/s", refresh=False)
        self.update(rows)


def progress_bar(source: Source, part: Part | None, show_progress: bool) -> ProgressBar:
    """The bar of a run, or of one part of it."""
    total = source.num_rows
    if total is not None and part is not None:
        size = source.settings.shard_rows
        total = sum(min(size, total - start) for start in range(part.index * size, total, part.count * size))
    return ProgressBar(total=total, unit=" rows", desc="encode", disable=not show_progress, smoothing=0.05)
