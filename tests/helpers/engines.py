"""Engines and a runtime without a model, whose outputs are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.batching.costs import STEPWISE
from lengthwise.config import EncoderConfig
from lengthwise.export.graphs.variants import NATIVE
from lengthwise.export.runtimes import Outputs, Runtime

RunFunction = Callable[[NDArray[np.int64], NDArray[np.int64]], Outputs]


class LookupEngine:
    """An engine in NumPy: the mean of a table's rows, which padding would change."""

    name, costs, reference, classifier, sharing, batch_invariant = "lookup", STEPWISE, None, None, None, True
    run_all = staticmethod(map)

    def __init__(self, config: EncoderConfig, fingerprint: str = "weights of a test") -> None:
        self.config, self.fingerprint = config, fingerprint
        self.batches = self.rows = 0
        self.table = np.random.default_rng(0).normal(size=(config.vocab_size, config.dim))

    def encode_batch(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        self.batches += 1
        self.rows += len(lengths)
        assert input_ids.dtype == lengths.dtype == np.int64
        assert lengths.min() >= 1
        assert input_ids.shape == (len(lengths), lengths.max())
        rows = zip(input_ids, lengths, strict=True)
        return np.stack([self.table[ids[:length]].mean(axis=0) for ids, length in rows]).astype(np.float32)


class FunctionRuntime(Runtime):
    """A runtime that calls a function."""

    name, files = "function", MappingProxyType({NATIVE: "nothing"})

    def __init__(self, function: RunFunction) -> None:
        self._function = function

    def load(self, path: Path) -> None:
        return

    def run_unchecked(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        return self._function(input_ids, attention_mask)

    def describe(self) -> dict[str, str]:
        return {}


class FailingOnce(LookupEngine):
    """Fails at one batch."""

    def __init__(self, *args: Any, at: int) -> None:
        super().__init__(*args)
        self._at = at

    def encode_batch(self, *args: Any) -> Any:
        self._at -= 1
        if not self._at:
            raise RuntimeError("out of luck")
        return super().encode_batch(*args)
