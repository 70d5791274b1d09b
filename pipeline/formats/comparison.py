"""What an imported model gives, compared with the library that it is from, and with padding read otherwise."""

from __future__ import annotations

import random
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lengthwise.encoder.model import PackedEncoder
from lengthwise.encoder_config import PaddingSettings
from lengthwise.errors import CheckpointError
from lengthwise.formats.word_patterns import MARKS
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer

TOLERANCE = 1e-5  # between two ways to compute the same in float32, relative to values above 1
_TEXTS, _LONGEST = 64, 40


def sample_texts(tokenizer: TextTokenizer, count: int = _TEXTS) -> list[str]:
    """Texts of 1 to 40 tokens of the vocabulary, the same each time; none where the tokens are no words."""
    words = [tokenizer.token(number) or "" for number in range(tokenizer.vocab_size)]
    words = ["".join(char for char in word if ord(char) not in MARKS) for word in words]
    words = [word for word in words if word.strip() and not word.startswith(("[", "<"))]
    draw = random.Random(0)
    texts = [" ".join(draw.choices(words, k=1 + number % _LONGEST)) for number in range(count)] if words else []
    tokens = tokenize_texts(texts, tokenizer, bad_rows="zero")
    return [text for text, length in zip(texts, np.diff(tokens.offsets), strict=True) if length]


def outputs(encoder: PackedEncoder, tokenizer: TextTokenizer, texts: Sequence[str]) -> NDArray[np.float32]:
    """Logits of a model with labels, else vectors, one text at a time: float32[texts, width]."""
    tokens = tokenize_texts(texts, tokenizer, encoder.config.tokenization, bad_rows="zero")
    rows = []
    with torch.no_grad():
        for start, stop in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
            ids = torch.from_numpy(tokens.values[start:stop].astype(np.int64))[None]
            vector = encoder(ids, torch.tensor([ids.shape[1]]))
            rows.append((vector if encoder.classifier is None else encoder.classifier(vector)).numpy()[0])
    return np.stack(rows)


def compare_with_library(folder: Path, encoder: PackedEncoder, tokenizer: TextTokenizer) -> str:
    """A line on how near the vectors are to those of sentence-transformers.

    Raises:
        CheckpointError: they differ.
    """
    if find_spec("sentence_transformers") is None:
        return "not compared: sentence-transformers is not installed"
    texts = sample_texts(tokenizer)
    if not texts:
        return "not compared: no texts can be made of the vocabulary"
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(folder), device="cpu").encode(texts)
    difference = float(np.abs(outputs(encoder, tokenizer, texts) - expected).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise CheckpointError(
            f"{folder}: the imported encoder differs from sentence-transformers by {difference:.1e} on {len(texts)}"
            " texts; please report this model"
        )
    return f"{difference:.1e} from sentence-transformers, on {len(texts)} texts of its vocabulary"


def padding_report(encoder: PackedEncoder, tokenizer: TextTokenizer, texts: Sequence[str]) -> str:
    """A line on how much the outputs depend on padding: on the model's own, or on that of a batch where it has none."""
    texts = [text for text in texts if text] or sample_texts(tokenizer)
    if not texts:
        return "not measured: no texts can be made of the vocabulary; give some with --texts"
    config = encoder.config
    own = outputs(encoder, tokenizer, texts)
    if config.padding is None:
        tokens = tokenize_texts(texts, tokenizer, config.tokenization, bad_rows="zero")
        longest = int(np.diff(tokens.offsets).max())
        changed = config.model_copy(update={"padding": PaddingSettings(to=longest, truncate=None)})
        what = f"packed; read with the padding of a batch of {longest} tokens"
    else:
        changed, what = config.model_copy(update={"padding": None}), "read as it was trained; packed"
    other = PackedEncoder(changed)
    other.load_state_dict(encoder.state_dict())
    found = outputs(other.eval(), tokenizer, texts)
    difference = float(np.abs(found - own).max())
    labels = ""
    if config.classifier is not None:
        decided = (own > 0) != (found > 0) if own.shape[1] == 1 else (own.argmax(1) != found.argmax(1))[:, None]
        labels = f", and {int(decided.any(axis=1).sum())} of {len(texts)} labels change"
    return f"{what}, outputs move by up to {difference:.1e}{labels}"
