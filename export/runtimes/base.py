"""The interface of a runtime: load one file of an artifact, run batches, describe itself."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lengthwise.config import CONFIG_FILE
from lengthwise.export.graphs.variants import DEVICE_VARIANTS, LOGITS, ORT, VARIANTS, Variant
from lengthwise.export.runtimes.tolerances import CPU_TOLERANCE

Outputs = tuple[NDArray[np.float32], ...]  # as `OUTPUT_NAMES`, and the logits of a graph with labels
_VOCAB_SIZE = "lengthwise.vocab_size"  # in the metadata of a graph
OUTPUT_NAMES = ["sentence_embedding", "token_embeddings"]
ONNX_FILES: Mapping[str, str] = MappingProxyType({name: variant.file for name, variant in VARIANTS.items()})
ORT_FILES: Mapping[str, str] = MappingProxyType({**ONNX_FILES, ORT: DEVICE_VARIANTS[ORT].file})


class NotRunnable(Exception):
    """The runtime is not available here, which is no failure of the export; the message gives reason and remedy."""


class Tolerances(NamedTuple):
    """The limits within which a runtime passes.

    Attributes:
        difference: the largest difference from PyTorch in float32.
        batch: the largest difference of a row's vector between two batches.
        cosine: the smallest cosine of a vector to PyTorch's.
        labels: the largest share of rows whose label differs from PyTorch's.
    """

    difference: float
    batch: float
    cosine: float
    labels: float = 1.0


class Runtime(ABC):
    """One way to compute an artifact's vectors.

    Attributes:
        name: shown in the report.
        tolerance: the largest difference from PyTorch that passes in float32, absolute for values up to 1 and
            relative to the row's largest value above that.
        files: by variant, the file of the artifact that it loads.
        optional: whether it needs an installation of its own or much time.
        reads_lengths: whether it implements `sequence_lens` of an ONNX LSTM; if not, it ignores or refuses them.
        contrib: whether it has onnxruntime's own operators.
        dependent: variants whose vectors depend on the batch on this runtime only.
        vocab_size: ids are below it; None before a file is loaded, or if the file does not say.
    """

    name: str
    tolerance: float = CPU_TOLERANCE
    files: Mapping[str, str] = ONNX_FILES
    optional = False
    reads_lengths = True
    contrib = True
    dependent: frozenset[str] = frozenset()
    vocab_size: int | None = None

    @abstractmethod
    def load(self, path: Path) -> None:
        """Load a file.

        Raises:
            NotRunnable: the runtime, or the hardware it needs, is not available.
        """

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        """int64[batch, sequence] twice to sentence_embedding, token_embeddings and, if the graph has labels, logits.

        Raises:
            ValueError: the batch is none that an encoder can answer.
        """
        refuse_bad_batch(input_ids, attention_mask, self.vocab_size)
        return self.run_unchecked(input_ids, attention_mask)

    @abstractmethod
    def run_unchecked(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        """The same, of a batch that was checked: on others, engines crash or give vectors of nothing."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Versions, and evidence of where it ran."""

    def close(self) -> None:
        """Release what `load` started; also after a failure."""
        return

    def tolerances(self, variant: Variant) -> Tolerances:
        """The limits for a variant: its precision may change vectors, but not with the batch."""
        return Tolerances(max(variant.difference, self.tolerance), self.tolerance, variant.cosine, variant.labels)


def check_output_names(names: list[str]) -> None:
    """Refuse a graph whose outputs clients would confuse.

    Raises:
        ValueError: the outputs are not sentence_embedding, token_embeddings and perhaps logits in this order.
    """
    if names not in (OUTPUT_NAMES, [*OUTPUT_NAMES, LOGITS]):
        raise ValueError(f"the outputs are {names}, not {OUTPUT_NAMES} in this order, and perhaps {LOGITS} after them")


def refuse_bad_batch(
    input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], vocab_size: int | None = None
) -> None:
    """Refuse what engines crash on or answer with nonsense.

    Raises:
        ValueError: the batch has no rows or no columns, its arrays differ in shape, an id is not in the vocabulary, or
            a mask is not ones, then zeros.
    """
    if input_ids.ndim != 2 or 0 in input_ids.shape:
        raise ValueError(
            f"the shape of input_ids is {input_ids.shape}; a batch has rows and columns, at least one each"
        )
    if attention_mask.shape != input_ids.shape:
        raise ValueError(f"attention_mask is {attention_mask.shape}, but input_ids are {input_ids.shape}")
    if vocab_size is not None and not (input_ids.min() >= 0 and input_ids.max() < vocab_size):
        out = input_ids[(input_ids < 0) | (input_ids >= vocab_size)][0]
        raise ValueError(f"the id {out} is out of range; the vocabulary has ids from 0 to {vocab_size - 1}")
    right_padded = np.arange(input_ids.shape[1]) < attention_mask.sum(axis=1, keepdims=True)
    if not np.array_equal(attention_mask, right_padded):
        raise ValueError("a row of attention_mask is not ones, then zeros: padding stands on the right")


def read_vocab_size(path: Path) -> int | None:
    """The number of embeddings: by the metadata of an ONNX graph, or the artifact's configuration for other formats.

    None if neither says.
    """
    if path.suffix == ".onnx":
        import onnx

        properties = onnx.load(path, load_external_data=False).metadata_props
        return metadata_vocab_size({item.key: item.value for item in properties})
    config = path.parent.parent / CONFIG_FILE
    return json.loads(config.read_text()).get("vocab_size") if config.is_file() else None


def metadata_vocab_size(metadata: Mapping[str, str]) -> int | None:
    """The number of embeddings by a graph's metadata; None if it is not there."""
    return int(metadata[_VOCAB_SIZE]) if _VOCAB_SIZE in metadata else None
