"""A function from texts to vectors: any other library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.errors import AuditError
from lengthwise.export.audit.answers import Precision
from lengthwise.export.audit.targets.base import TextTarget, Unanswered, check_vectors
from lengthwise.export.audit.units import word_units

EncodeTexts = Callable[[list[str]], Any]  # to float[texts, dim], or an iterable of vectors


class FunctionTarget(TextTarget):
    """A function that is called with a list of texts."""

    kind = "function of texts"

    def __init__(self, function: EncodeTexts, precision: Precision | None = None) -> None:
        """Call it once.

        Raises:
            AuditError: it gives no vector.
        """
        super().__init__(getattr(function, "__qualname__", type(function).__qualname__))
        self._function, self.precision = function, precision or "float32"
        self.units = word_units()
        try:
            self.encode_texts(["a text"])
        except Unanswered as error:
            raise AuditError(f"{self.name}: gives no vector for one text: {error}") from error

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As `Target.encode_texts`."""
        try:
            found = self._function(list(texts))
            values = found if hasattr(found, "__array__") else [np.asarray(vector) for vector in found]
        except Exception as error:  # of any type: it is the caller's own code
            raise Unanswered(f"it raised {type(error).__name__}: {' '.join(str(error).split())[:240]}") from error
        return check_vectors(values, len(texts))
