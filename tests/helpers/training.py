"""Tokenizers trained on generated texts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from lengthwise.config import TokenizerTraining
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.tokens.training import train_tokenizer


def make_texts(rows: int = 300, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    syllables = [first + second for first in "bdfgklmnprstvz" for second in "aeiouéü"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(400)]
    return [" ".join(draw.choices(words, k=draw.randint(1, 12))) + draw.choice(".!?") for _ in range(rows)]


TEXTS = make_texts()


def train(texts: Sequence[str] = TEXTS, **changes: Any) -> TextTokenizer:
    return train_tokenizer(texts, TokenizerTraining(**{"vocab_size": 400, **changes}))


def token_ids(tokenizer: TextTokenizer, text: str) -> list[int]:
    return tokenizer.encode_batch([text])[0].ids


def library(tokenizer: TextTokenizer) -> Tokenizer:
    """A copy as a `tokenizers.Tokenizer`."""
    return Tokenizer.from_str(tokenizer.to_json())
