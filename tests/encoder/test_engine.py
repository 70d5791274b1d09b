"""Texts to vectors through an engine: input order, deduplication, bad rows and progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.engines import LookupEngine
from helpers.texts import TEXTS
from lengthwise.config import BatchingSettings, EncoderConfig, TokenizationSettings
from lengthwise.encoder.engine import encode_texts, encode_tokens
from lengthwise.errors import BadRowsError
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer


def test_encode_texts_gives_zeros_for_texts_without_tokens(tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    assert encode_texts([], tokenizer, engine).shape == (0, engine.config.dim)
    found = encode_texts(["moon", "", "moon"], tokenizer, engine)
    assert found.dtype == np.float32
    assert found.any(axis=1).tolist() == [True, False, True]
    np.testing.assert_array_equal(found[0], found[2])


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.sampled_from([*TEXTS, "", "cat", "cat cat"]), max_size=30), max_rows=st.integers(1, 5))
def test_rows_of_equal_ids_are_computed_once(
    tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig], texts: list[str], max_rows: int
) -> None:
    engine = LookupEngine(encoder_config())
    vectors, plan = encode_tokens(tokenize_texts(texts, tokenizer), engine, BatchingSettings(max_rows=max_rows))
    assert engine.rows == plan.rows == len(set(texts) - {""})
    assert plan.batches == engine.batches >= engine.rows / max_rows
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_array_equal(vector, encode_texts([text], tokenizer, LookupEngine(engine.config))[0])


@pytest.mark.parametrize("policy", ["quarantine", "zero"])
def test_bad_rows_get_zeros(tokenizer: TextTokenizer, engine: LookupEngine, policy: Any) -> None:
    tokens = tokenize_texts(
        ["moon", None, "cat cat cat", "moon"], tokenizer, TokenizationSettings(max_length=2), bad_rows=policy
    )
    vectors, plan = encode_tokens(tokens, engine)
    assert vectors.any(axis=1).tolist() == [True, False, False, True]
    assert (plan.rows, plan.tokens) == (1, 1)


def test_progress_counts_every_row_once(tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    done: list[tuple[int, int]] = []
    texts = ["moon", "", "moon", *TEXTS, "", "moon"]
    tokens = tokenize_texts(texts, tokenizer)
    encode_tokens(tokens, engine, progress=lambda *counts: done.append(counts))
    assert [sum(column) for column in zip(*done, strict=True)] == [len(texts), len(tokens.values)]


def test_id_beyond_the_vocabulary_is_refused_with_its_row(
    tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    tokens = tokenize_texts(["moon", "cat"], tokenizer)
    largest = int(tokens.values.max())
    row = int(np.argmax(tokens.values == largest))
    with pytest.raises(BadRowsError, match=rf"\(row {row}: the id {largest}\); .* ends at {largest - 1}"):
        encode_tokens(tokens, LookupEngine(encoder_config(vocab_size=largest)))
