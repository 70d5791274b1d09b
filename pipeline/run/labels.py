"""The columns that a run writes beside the kept ones: vectors, and what an encoder with labels says of a text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lengthwise.config import RunConfig
from lengthwise.encoder.classify import LabelClassifier
from lengthwise.errors import ConfigError


def check_columns(config: RunConfig, classifier: LabelClassifier | None) -> None:
    """Refuse columns that the model or the dataset does not allow.

    Raises:
        ConfigError: the model has no labels, or a kept column has the name of one of these.
    """
    of_labels = [name for name in config.encode.columns if name != "embedding"]
    if of_labels and classifier is None:
        raise ConfigError(
            f"encode.columns holds {', '.join(of_labels)}, but the model has no labels; choose embedding alone, or a"
            " model with a classifier"
        )
    twice = sorted(set(of_labels) & set(config.dataset.keep_columns))
    if twice:
        raise ConfigError(
            f"dataset.keep_columns holds {', '.join(twice)}, which encode.columns writes too; rename it in the input,"
            " or leave it out of one of them"
        )


def label_columns(
    columns: Sequence[str],
    classifier: LabelClassifier | None,
    vectors: NDArray[np.float32],
) -> dict[str, NDArray[np.float32] | pa.Array]:
    """The columns of labels among `columns`, of vectors, float32[rows, dim].

    Rows whose vector is not finite get those of a vector of zeros.

    Returns:
        By name: logits and probabilities, float32[rows, labels]; predicted_label, strings.
    """
    if classifier is None or set(columns) <= {"embedding"}:
        return {}
    finite = np.asarray(np.isfinite(vectors).all(axis=1))
    logits = classifier.logits(vectors if finite.all() else np.where(finite[:, None], vectors, 0))
    found: dict[str, NDArray[np.float32] | pa.Array] = {
        "predicted_label": pa.array(classifier.best(logits), pa.string()),
        "logits": logits,
        "probabilities": classifier.probabilities(logits),
    }
    return {name: values for name, values in found.items() if name in columns}
