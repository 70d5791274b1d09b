"""What validation asks of a runtime: load one file of an artifact, run batches, say what it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Outputs = tuple[NDArray[np.float32], NDArray[np.float32]]


class NotRunnable(Exception):
    """This runtime cannot run here; the message says why, and how it could. It is no failure of the export."""


class Runtime(ABC):
    """One way to compute an artifact's vectors.

    Attributes:
        name: as it stands in the report.
        file: the artifact's file that it loads.
        tolerance: the largest difference from PyTorch that passes, absolute for values of at most 1 and relative
            to a row's largest value above that.
    """

    name: str
    file: str
    tolerance: float

    @abstractmethod
    def load(self, artifact: Path) -> None:
        """Load the file.

        Raises:
            NotRunnable: the runtime, or the hardware it needs, is not there.
        """

    @abstractmethod
    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        """int64[batch, sequence] twice to sentence_embedding and token_embeddings."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Versions, and what proves that it ran where it says."""
