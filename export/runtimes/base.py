"""What validation asks of a runtime: load one file of an artifact, run batches, say what it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lengthwise.export.graphs.variants import VARIANTS, Variant

Outputs = tuple[NDArray[np.float32], NDArray[np.float32]]
OUTPUT_NAMES = ["sentence_embedding", "token_embeddings"]
ONNX_FILES: Mapping[str, str] = MappingProxyType({name: variant.file for name, variant in VARIANTS.items()})


class NotRunnable(Exception):
    """This runtime cannot run here; the message says why, and how it could. It is no failure of the export."""


class Tolerances(NamedTuple):
    """What passes.

    Attributes:
        difference: the largest difference from PyTorch in float32.
        batch: the largest difference between a row's vectors in two batches.
        cosine: the smallest cosine of a vector to PyTorch's.
    """

    difference: float
    batch: float
    cosine: float


class Runtime(ABC):
    """One way to compute an artifact's vectors.

    Attributes:
        name: as it stands in the report.
        tolerance: the largest difference from PyTorch that passes in float32, absolute for values of at most 1 and
            relative to a row's largest value above that.
        files: by variant, the file of the artifact that it loads.
        optional: whether it needs an installation of its own.
        reads_lengths: whether it does what `sequence_lens` of an ONNX LSTM says.
        contrib: whether it has onnxruntime's own operators.
        dependent: variants whose vectors depend on the batch here, although they do not elsewhere.
    """

    name: str
    tolerance: float = 1e-6
    files: Mapping[str, str] = ONNX_FILES
    optional = False
    reads_lengths = True
    contrib = True
    dependent: frozenset[str] = frozenset()

    @abstractmethod
    def load(self, path: Path) -> None:
        """Load a file.

        Raises:
            NotRunnable: the runtime, or the hardware it needs, is not there.
        """

    @abstractmethod
    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        """int64[batch, sequence] twice to sentence_embedding and token_embeddings."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Versions, and what proves that it ran where it says."""

    def close(self) -> None:
        """Let go of what `load` started; also after a failure."""
        return

    def tolerances(self, variant: Variant) -> Tolerances:
        """What passes with a variant. Its precision moves vectors, and must not move them with the batch."""
        return Tolerances(max(variant.difference, self.tolerance), self.tolerance, variant.cosine)


def check_output_names(names: list[str]) -> None:
    """Refuse a graph whose outputs clients would take for one another.

    Raises:
        ValueError: they are not sentence_embedding and token_embeddings in this order.
    """
    if names != OUTPUT_NAMES:
        raise ValueError(f"the outputs are {names}, not {OUTPUT_NAMES} in this order")
