"""The encoder that training begins with: from a checkpoint, or new, with an embedding made of the teacher's.

What the teacher says of single tokens is most of what a small encoder can learn in minutes. The vectors of tokens are
projected on their principal components, and frequent tokens are weighted down (Arora et al., "A Simple but
Tough-to-Beat Baseline for Sentence Embeddings", 2017), since a mean over a text's tokens would else be a mean of its
function words.
With a static residual, the new encoder is that mean before its first step (as in model2vec), and learns the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lengthwise.config import EncoderConfig, EncoderSettings, TokenizationSettings
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.errors import ConfigError
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.train_config import InitSettings

_PADDING = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>")
_UNKNOWN = ("[UNK]", "<unk>", "<|unk|>")


def new_encoder(
    shape: EncoderSettings,
    tokenizer: TextTokenizer,
    tokenization: TokenizationSettings,
    seed: int,
    tokens: tuple[str, str],
) -> PackedEncoder:
    """An encoder with seeded random weights for a tokenizer.

    Args:
        tokens: the names of the padding and the unknown token; if the tokenizer has no such token, usual names are
            tried, and at last id 0 pads, since the contents of the padding have no effect.
    """
    pad, unknown = (_first_id(tokenizer, names) for names in ((tokens[0], *_PADDING), (tokens[1], *_UNKNOWN)))
    config = EncoderConfig(
        **shape.model_dump(),
        vocab_size=tokenizer.vocab_size,
        pad_token_id=pad or 0,
        unk_token_id=unknown,
        tokenizer_fingerprint=tokenizer.fingerprint,
        trained=True,
        tokenization=tokenization,
    )
    return seeded_encoder(config, seed)


def initialize_embedding(
    encoder: PackedEncoder,
    own: TextTokenizer,
    rows: Mapping[str, int],
    table: NDArray[np.float32],
    counts: NDArray[np.int64],
    settings: InitSettings,
    *,
    is_output: bool,
) -> int:
    """Set the embedding of every token of which the teacher has a vector; the others keep theirs, at the same scale.

    Args:
        own: the encoder's tokenizer.
        rows: the row of each of the teacher's tokens in the table, by its name.
        table: float32[rows, width], their vectors.
        counts: int64[own vocabulary], how often each token occurs in the training texts.
        is_output: whether these are vectors as the encoder shall give them. If so, and the encoder has a static
            residual, its static projection is set to undo the reduction: before the first step, that path gives the
            weighted mean of the teacher's vectors of a text's tokens.

    Returns:
        How many tokens have their embedding from the teacher.

    Raises:
        ConfigError: the table is narrower than the encoder's embedding.
    """
    width = encoder.config.embedding_dim
    if table.shape[1] < width:
        raise ConfigError(
            f"model.init.embedding_dim is {width}, but the teacher's vectors of tokens have {table.shape[1]} values;"
            f" set it to {table.shape[1]} or less, or train.init.embedding to random"
        )
    numbers, places = _common_tokens(own, rows)
    shares = (counts[numbers] + 1) / (counts.sum() + len(counts))
    centered = table[places].astype(np.float64)
    centered -= centered.mean(axis=0)
    components = principal_components(centered, shares, width)
    reduced = centered @ components
    if settings.frequency_weight is not None:
        reduced *= (settings.frequency_weight / (settings.frequency_weight + shares))[:, None]
    scale = settings.embedding_scale / (float(np.sqrt(np.square(reduced).mean())) or 1.0)
    with torch.no_grad():
        encoder.embedding.weight.mul_(settings.embedding_scale)  # drawn from N(0, 1)
        encoder.embedding.weight[torch.from_numpy(numbers)] = _to_tensor(reduced * scale)
        static = getattr(encoder, "static_projection", None)
        if static is not None and is_output and table.shape[1] == encoder.config.dim:
            static.weight.copy_(_to_tensor(components / scale))
            if encoder.projection is not None:
                encoder.projection.weight.mul_(settings.projection_scale)
    return len(numbers)


def principal_components(centered: NDArray[np.float64], shares: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """The first principal components of rows, as columns: float64[values, width], orthonormal.

    The covariance is the mean of one over the rows and one over the tokens of the texts: the first alone is that of
    rare tokens, which are most of a vocabulary, and the second that of a few function words.

    Args:
        centered: float64[rows, values].
        shares: float64[rows], of each row in the texts.
    """
    weights = 0.5 / len(centered) + 0.5 * shares / shares.sum()
    _, vectors = np.linalg.eigh(centered.T @ (centered * weights[:, None]))
    components = vectors[:, ::-1][:, :width]
    signs = np.sign(components[np.abs(components).argmax(axis=0), np.arange(components.shape[1])])
    result: NDArray[np.float64] = components * signs
    return result


def _common_tokens(own: TextTokenizer, rows: Mapping[str, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids of the tokens that have a row, and those rows."""
    names = ((number, own.token(number)) for number in range(own.vocab_size))
    common = [(number, rows[name]) for number, name in names if name is not None and name in rows]
    found = np.array(common, np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _first_id(tokenizer: TextTokenizer, names: Sequence[str]) -> int | None:
    return next((number for name in names if (number := tokenizer.token_id(name)) is not None), None)


def _to_tensor(values: NDArray[np.float64]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
