"""Vectors of texts, and search among them: what the tasks need of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lengthwise.errors import LengthwiseError

Encode = Callable[[list[str]], NDArray[np.floating]]
Ranking = tuple[NDArray[np.float32], NDArray[np.int64]]
_BLOCK = 1_024  # queries compared at a time


class VectorCache:
    """Unit vectors of texts, each text encoded once however many tasks have it.

    Args:
        encode: texts to float[texts, dim].
        name: of the model, for messages.
    """

    def __init__(self, encode: Encode, name: str) -> None:
        self._encode, self._name = encode, name
        self._row_of: dict[str, int] = {}
        self._vectors = np.zeros((0, 0), np.float32)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32[texts, dim], of length 1; a vector of zeros stays zeros.

        Raises:
            LengthwiseError: the model gave something else than one vector of finite numbers per text.
        """
        new = list(dict.fromkeys(text for text in texts if text not in self._row_of))
        if new:
            vectors = self._checked(np.asarray(self._encode(new), np.float32), new)
            start = len(self._row_of)
            self._row_of.update((text, start + row) for row, text in enumerate(new))
            self._vectors = np.concatenate([self._vectors.reshape(-1, vectors.shape[1]), _unit(vectors)])
        return self._vectors[[self._row_of[text] for text in texts]]

    @property
    def dim(self) -> int:
        """The width of the vectors; 0 before any text was encoded."""
        return int(self._vectors.shape[1])

    def _checked(self, vectors: NDArray[np.float32], texts: Sequence[str]) -> NDArray[np.float32]:
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise LengthwiseError(
                f"{self._name}: gave vectors of shape {list(vectors.shape)} for {len(texts)} texts; a model has to give"
                " one vector per text"
            )
        wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(wrong):
            text = texts[int(wrong[0])]
            raise LengthwiseError(f"{self._name}: the vector of {text[:60]!r} is not finite; the model is damaged")
        return vectors


def nearest(queries: NDArray[np.float32], documents: NDArray[np.float32], depth: int) -> Ranking:
    """The documents nearest to each query, exactly; equal ones in their order.

    Args:
        queries: float32[queries, dim], unit vectors.
        documents: float32[documents, dim], unit vectors.
        depth: how many per query, at most.

    Returns:
        float32[queries, depth] cosines, descending, and int64[queries, depth] row numbers of documents.
    """
    depth = min(depth, len(documents))
    scores = np.empty((len(queries), depth), np.float32)
    rows = np.empty((len(queries), depth), np.int64)
    for start in range(0, len(queries), _BLOCK):
        block = slice(start, start + _BLOCK)
        similarity = queries[block] @ documents.T
        rows[block] = np.argsort(-similarity, axis=1, kind="stable")[:, :depth]
        scores[block] = np.take_along_axis(similarity, rows[block], axis=1)
    return scores, rows


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
    norms[norms == 0] = 1
    return np.asarray(vectors / norms, np.float32)
