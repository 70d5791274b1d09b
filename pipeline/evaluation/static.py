"""Static models read as files: a matrix of embeddings and a tokenizer, as model2vec and WordLlama write them.

The vector of a text is the mean of its tokens' embeddings, times the tokens' weights where the model has some. Special
tokens, the unknown one among them, are left out, as model2vec does. PyTorch is not imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from lengthwise.errors import ConfigError
from lengthwise.tokens.tokenizer import TOKENIZER_FILE, TextTokenizer, load_tokenizer

MATRICES = ("embeddings", "embedding.weight", "embeddings.word_embeddings.weight")  # model2vec, WordLlama, BERT
_WEIGHTS, _MAPPING = "weights", "mapping"  # of model2vec


class StaticModel:
    """Embeddings of tokens, and their mean.

    Attributes:
        num_bytes: of its arrays and its tokenizer.
    """

    def __init__(
        self,
        matrix: NDArray[np.floating],
        tokenizer: TextTokenizer,
        *,
        weights: NDArray[np.floating] | None = None,
        mapping: NDArray[np.integer] | None = None,
        num_bytes: int = 0,
    ) -> None:
        """Make a model of its parts.

        Args:
            matrix: float[rows, dim].
            weights: float[tokens], a factor for each token; 1 by default.
            mapping: int[tokens], the row of each token; its id by default.

        Raises:
            ConfigError: the tokenizer has more tokens than there are embeddings.
        """
        self._rows = np.arange(len(matrix)) if mapping is None else mapping.astype(np.int64)
        if tokenizer.vocab_size > len(self._rows):
            raise ConfigError(
                f"the tokenizer has {tokenizer.vocab_size} tokens and the model {len(self._rows)} embeddings; give the"
                " tokenizer that belongs to it"
            )
        self._tokenizer, self.num_bytes = tokenizer, num_bytes
        self._matrix = matrix.astype(np.float32)
        self._weights = np.ones(len(self._rows), np.float32) if weights is None else weights.astype(np.float32)
        self._left_out = np.zeros(len(self._rows), np.bool_)
        self._left_out[list(tokenizer.special_ids)] = True

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32[texts, dim]; zeros for a text without tokens."""
        vectors = np.zeros((len(texts), self._matrix.shape[1]), np.float32)
        for row, encoding in enumerate(self._tokenizer.encode_batch(list(texts))):
            ids = np.asarray(encoding.ids, np.int64)
            ids = ids[~self._left_out[ids]]
            if len(ids):
                vectors[row] = self._weights[ids] @ self._matrix[self._rows[ids]] / len(ids)
        return vectors


def open_static(files: Sequence[Path], origin: str) -> StaticModel:
    """The static model among files.

    Args:
        origin: where they are, for messages.

    Raises:
        ConfigError: there is no matrix of embeddings, or no tokenizer.
        TokenizerError: the tokenizer cannot be read.
    """
    for path in files:
        if path.suffix == ".safetensors":
            found = _read_arrays(path)
            matrix = next((found[name] for name in MATRICES if name in found), None)
            if matrix is not None and matrix.ndim == 2:
                tokenizer = _find_tokenizer(files, origin)
                used = [array for name, array in found.items() if array is matrix or name in (_WEIGHTS, _MAPPING)]
                num_bytes = sum(array.nbytes for array in used) + tokenizer.stat().st_size
                return StaticModel(
                    matrix,
                    load_tokenizer(tokenizer),
                    weights=found.get(_WEIGHTS),
                    mapping=found.get(_MAPPING),
                    num_bytes=num_bytes,
                )
    raise ConfigError(
        f"{origin}: not a model that can be evaluated; give an artifact or a checkpoint of Lengthwise, a folder with"
        f" modules.json (sentence-transformers) or with onnx/model.onnx and {TOKENIZER_FILE}, or a static"
        f" model with {' or '.join(MATRICES[:2])} in a safetensors file"
    )


def _find_tokenizer(files: Sequence[Path], origin: str) -> Path:
    named = [path for path in files if path.name == TOKENIZER_FILE]
    similar = [path for path in files if path.suffix == ".json" and "tokenizer" in path.name]
    if not named and not similar:
        raise ConfigError(f"{origin}: has embeddings, but no {TOKENIZER_FILE}; add the tokenizer that they belong to")
    return (named or similar)[0]


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file that a static model may have."""
    try:
        with safe_open(path, "np") as file:
            names = {*MATRICES, _WEIGHTS, _MAPPING} & set(file.keys())
            return {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError, TypeError) as error:  # TypeError: a type that NumPy does not have
        raise ConfigError(f"{path}: the embeddings cannot be read ({error})") from error
