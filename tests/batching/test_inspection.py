"""Inspections: what they count and compare."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from helpers.texts import TEXTS
from lengthwise.batching.costs import PACKED, PACKED_CUDA, PADDED_CUDA, STEPWISE, BatchCosts
from lengthwise.batching.inspection import batch_strategies, inspect_tokens, length_percentiles
from lengthwise.batching.plan import plan_batches, plan_in_order, report_plan
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer

MIXED = (*TEXTS, "", None, TEXTS[0], TEXTS[2], TEXTS[0])


def test_inspect_tokens_counts_every_kind_of_row(tokenizer: TextTokenizer) -> None:
    found = inspect_tokens(tokenize_texts(MIXED, tokenizer, bad_rows="zero"), batch_strategies(STEPWISE))
    assert (len(found.lengths), found.empty, found.null, found.repeated, found.too_long) == (12, 1, 1, 3, 0)
    assert found.encoded_lengths.tolist() == found.lengths.tolist()
    assert [report.rows for _, report in found.strategies] == [10, 10, 7]
    assert found.refused == 0


def test_text_that_the_tokenizer_refuses_is_counted() -> None:
    strict = Tokenizer(models.WordLevel({"a": 0}))
    strict.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    texts = ["a", "b", None, "", "a b", "a a"]
    found = inspect_tokens(tokenize_texts(texts, TextTokenizer(strict), bad_rows="zero"), batch_strategies(STEPWISE))
    assert (len(found.lengths), found.empty, found.null, found.refused) == (6, 1, 1, 2)
    assert [report.rows for _, report in found.strategies] == [2, 2, 2]


def test_planned_strategy_is_the_plan_of_encoding(tokenizer: TextTokenizer) -> None:
    strategies = batch_strategies(STEPWISE, max_rows=2)
    found = inspect_tokens(tokenize_texts(MIXED, tokenizer, bad_rows="zero"), strategies, max_length=6)
    costs = STEPWISE.with_limits(max_rows=2)
    cut = np.minimum([len(text.split()) for text in TEXTS], 6)
    assert found.strategies[-1][1] == report_plan(cut, plan_batches(cut, costs), costs)
    every = np.minimum([len((text or "").split()) for text in MIXED], 6)
    for (_, report), in_order in zip(found.strategies[:2], (STEPWISE.padded(), PACKED), strict=True):
        assert report == report_plan(every, plan_in_order(every), in_order)
    assert found.too_long == 2
    assert [found.relative_cost(report) for _, report in found.strategies][-1] == 1.0
    assert found.relative_cost(found.strategies[0][1]) == found.strategies[0][1].cost / found.strategies[2][1].cost


def test_padding_that_is_read_is_planned(tokenizer: TextTokenizer) -> None:
    def read(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.where(lengths > 0, 9, 0)

    tokens = tokenize_texts(MIXED, tokenizer, bad_rows="zero")
    found = inspect_tokens(tokens, batch_strategies(STEPWISE), read_lengths=read)
    assert found.encoded_lengths.tolist() == [9] * 7 + [0, 0, 9, 9, 9]
    assert found.lengths.tolist() == tokens.lengths.tolist()
    assert [report.tokens for _, report in found.strategies] == [90, 90, 63]


def test_texts_without_tokens_cost_nothing(tokenizer: TextTokenizer) -> None:
    found = inspect_tokens(tokenize_texts(["", " ", None], tokenizer, bad_rows="zero"), batch_strategies(STEPWISE))
    assert (found.empty, found.null, found.repeated) == (2, 1, 0)
    assert [(report.batches, found.relative_cost(report)) for _, report in found.strategies] == [(0, 1.0)] * 3


@pytest.mark.parametrize("costs", [PACKED_CUDA, PADDED_CUDA])
def test_strategies_on_a_gpu_have_one_cost_per_step(costs: BatchCosts) -> None:
    padded, packed, planned = batch_strategies(costs)
    assert {way.costs.step for way in (padded, packed, planned)} == {PACKED_CUDA.step}
    assert (padded.costs.pads, padded.costs.mixed) == (True, 1.0)
    assert not packed.costs.pads


@given(st.lists(st.integers(0, 40), min_size=1), st.integers(1, 100))
def test_percentiles_match_their_definition(lengths: list[int], percent: int) -> None:
    (found,) = length_percentiles(np.bincount(lengths), (percent,))
    rows = np.array(lengths)
    assert found in lengths
    assert (rows <= found).sum() * 100 >= percent * len(rows)
    assert (rows < found).sum() * 100 < percent * len(rows)


def test_percentiles_without_rows_are_zero() -> None:
    assert length_percentiles(np.zeros(0, np.int64), (50, 95)) == (0, 0)
    assert length_percentiles(np.zeros(1, np.int64), (50,)) == (0,)
