"""The comparison inputs cover what they say, and the oracle reads each row alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from helpers.texts import TEXTS
from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import seeded_encoder
from lengthwise.export.artifact.oracle import compute_oracle
from lengthwise.export.validation.cases import (
    GRID_BATCHES,
    Case,
    grid_cases,
    text_cases,
    vocabulary_cases,
)
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer


def test_grid_has_every_batch_size_with_every_pattern() -> None:
    cases = list(grid_cases(50))
    assert len(cases) == len({case.name for case in cases}) == len(GRID_BATCHES) * 6 + 2
    assert {len(case.lengths) for case in cases} == {*GRID_BATCHES, 3, 100}
    for case in cases:
        assert case.input_ids.dtype == case.lengths.dtype == case.attention_mask.dtype == np.int64
        assert case.lengths.max() <= case.input_ids.shape[1]
        assert 0 <= case.input_ids.min() <= case.input_ids.max() < 50
        assert (case.attention_mask.sum(axis=1) == case.lengths).all()
        assert (np.diff(case.attention_mask, axis=1) <= 0).all()
    by_name = {case.name: case for case in cases}
    assert len(set(by_name["17 x equal lengths"].lengths)) == 1
    assert set(by_name["5 x all of one token"].lengths) == {1}
    assert sorted(by_name["5 x one long, the rest one token"].lengths) == [1, 1, 1, 1, 24]
    assert (np.diff(by_name["17 x unsorted"].lengths) > 0).any()
    assert (np.diff(by_name["17 x unsorted"].lengths) < 0).any()
    assert by_name["3 x long texts"].lengths.max() > 512
    longer = by_name["17 x unsorted, axis longer than any row"]
    assert longer.input_ids.shape[1] > longer.lengths.max()
    assert (by_name["17 x some rows without tokens"].lengths == 0).sum() == 6


def test_padding_holds_random_ids() -> None:
    case = next(case for case in grid_cases(50) if case.name == "17 x one long, the rest one token")
    assert len(np.unique(case.input_ids[case.attention_mask == 0])) > 30


@given(sequence=st.integers(5, 12), seed=st.integers(0, 9))
def test_pad_to_keeps_rows_and_changes_padding(sequence: int, seed: int) -> None:
    case = Case("case", "group", np.arange(10, 25).reshape(3, 5), np.array([2, 5, 0]), 1_000_000)
    other = case.pad_to(sequence, np.random.default_rng(seed))
    assert other.input_ids.shape == (3, sequence)
    assert other.input_ids[0, :2].tolist() == [10, 11]
    assert other.input_ids[1, :5].tolist() == [15, 16, 17, 18, 19]
    assert (other.input_ids[0, 2:5] != case.input_ids[0, 2:5]).any()


def test_oracle_encodes_each_row_alone_without_padding(encoder_config: Callable[..., EncoderConfig]) -> None:
    encoder = seeded_encoder(encoder_config(bidirectional=True), 0)
    seen: list[tuple[int, ...]] = []
    encoder.embedding.register_forward_hook(lambda _, given, out: seen.append(tuple(given[0].flatten().tolist())))
    case = Case("case", "group", np.array([[2, 3, 9], [4, 9, 9], [9, 9, 9]]), np.array([2, 1, 0]), 10)
    oracle = compute_oracle(encoder, case.input_ids, case.lengths)
    assert set(seen) == {(2, 3), (4,)}
    assert (oracle.vectors[2] == 0).all()
    assert oracle.states is not None
    assert (oracle.states[case.attention_mask == 0] == 0).all()
    assert (oracle.states[case.attention_mask == 1] != 0).any(axis=1).all()


def test_text_cases_keep_ids_and_order(tokenizer: TextTokenizer) -> None:
    tokens = tokenize_texts([*TEXTS, ""] * 6, tokenizer)
    cases = list(text_cases(tokens, tokenizer.vocab_size))
    assert [len(case.lengths) for case in cases] == [32, 16]
    rows = [row[:length] for case in cases for row, length in zip(case.input_ids, case.lengths, strict=True)]
    for index, row in enumerate(rows):
        np.testing.assert_array_equal(row, tokens.row(index))


@given(vocab_size=st.integers(1, 5_000))
def test_vocabulary_cases_have_each_id_once(vocab_size: int) -> None:
    cases = list(vocabulary_cases(vocab_size))
    read = np.concatenate([case.input_ids[case.attention_mask == 1] for case in cases])
    np.testing.assert_array_equal(np.sort(read), np.arange(vocab_size))
    assert all(case.lengths.min() >= 1 for case in cases)
