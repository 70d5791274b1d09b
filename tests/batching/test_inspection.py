"""What an inspection counts and compares, and that its costs are the engines' own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from helpers.inspections import run_with
from helpers.texts import TEXTS
from lengthwise.batching.inspection import expected_costs, inspect_tokens, length_percentiles, strategies
from lengthwise.batching.plan import (
    PACKED,
    PACKED_CUDA,
    PADDED,
    PADDED_CUDA,
    STEPWISE,
    BatchCosts,
    plan_batches,
    plan_in_order,
    report_plan,
)
from lengthwise.config import EncoderConfig, EncodeSettings
from lengthwise.encoder.model import seeded_encoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer

MIXED = (*TEXTS, "", None, TEXTS[0], TEXTS[2], TEXTS[0])


def test_every_kind_of_row_is_counted(tokenizer: TextTokenizer) -> None:
    found = inspect_tokens(tokenize_texts(MIXED, tokenizer, bad_rows="zero"), run_with())
    assert (len(found.lengths), found.empty, found.null, found.repeated, found.too_long) == (12, 1, 1, 3, 0)
    assert found.encoded_lengths.tolist() == found.lengths.tolist()
    assert [report.rows for _, report in found.strategies] == [10, 10, 7]
    assert found.refused == 0


def test_a_text_that_the_tokenizer_refuses_is_counted() -> None:
    strict = Tokenizer(models.WordLevel({"a": 0}))
    strict.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    texts = ["a", "b", None, "", "a b", "a a"]
    found = inspect_tokens(tokenize_texts(texts, TextTokenizer(strict), bad_rows="zero"), run_with())
    assert (len(found.lengths), found.empty, found.null, found.refused) == (6, 1, 1, 2)
    assert [report.rows for _, report in found.strategies] == [2, 2, 2]


def test_the_plan_is_the_one_that_encoding_would_make(tokenizer: TextTokenizer) -> None:
    run = run_with(batching={"max_rows": 2})
    found = inspect_tokens(tokenize_texts(MIXED, tokenizer, bad_rows="zero"), run, max_length=6)
    costs = STEPWISE.within(run.batching)
    cut = np.minimum([len(text.split()) for text in TEXTS], 6)
    assert found.strategies[-1][1] == report_plan(cut, plan_batches(cut, costs), costs)
    every = np.minimum([len((text or "").split()) for text in MIXED], 6)
    for (_, report), in_order in zip(found.strategies[:2], (STEPWISE.padded(), PACKED), strict=True):
        assert report == report_plan(every, plan_in_order(every), in_order)
    assert found.too_long == 2
    assert [found.relative_cost(report) for _, report in found.strategies][-1] == 1.0
    assert found.relative_cost(found.strategies[0][1]) == found.strategies[0][1].cost / found.strategies[2][1].cost


def test_texts_of_no_tokens_cost_nothing(tokenizer: TextTokenizer) -> None:
    found = inspect_tokens(tokenize_texts(["", " ", None], tokenizer, bad_rows="zero"), run_with())
    assert (found.empty, found.null, found.repeated) == (2, 1, 0)
    assert [(report.batches, found.relative_cost(report)) for _, report in found.strategies] == [(0, 1.0)] * 3


@pytest.mark.parametrize(
    ("settings", "costs"),
    [
        ({}, STEPWISE),
        ({"precision": "bf16"}, PACKED),
        ({"device": "cuda"}, PACKED_CUDA),
        ({"device": "cuda", "precision": "fp16"}, PACKED_CUDA),
        ({"engine": "onnx"}, PADDED),
        ({"engine": "onnx", "device": "cuda"}, PADDED_CUDA),
    ],
)
def test_costs_follow_the_settings(settings: dict[str, Any], costs: BatchCosts) -> None:
    assert expected_costs(EncodeSettings(**settings)) is costs


def test_the_device_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = EncodeSettings(device="auto")
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi" if name == "nvidia-smi" else None)
    assert expected_costs(settings) is PACKED_CUDA
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert expected_costs(settings) is STEPWISE


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_costs_are_the_engines_own(precision: Any, encoder_config: Callable[..., EncoderConfig]) -> None:
    engine = TorchEngine(seeded_encoder(encoder_config(), 0), "cpu", precision)
    assert expected_costs(EncodeSettings(precision=precision)) == engine.costs


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_padding_costs_as_much_a_step_on_a_gpu_as_the_plan_does(engine: str) -> None:
    padded, packed, planned = strategies(run_with(encode={"device": "cuda", "engine": engine}))
    assert {way.costs.step for way in (padded, packed, planned)} == {PACKED_CUDA.step}
    assert (padded.costs.pads, padded.costs.mixed) == (True, 1.0)
    assert not packed.costs.pads


@given(st.lists(st.integers(0, 40), min_size=1), st.integers(1, 100))
def test_percentiles_are_lengths_that_so_many_rows_do_not_exceed(lengths: list[int], percent: int) -> None:
    (found,) = length_percentiles(np.bincount(lengths), (percent,))
    rows = np.array(lengths)
    assert found in lengths
    assert (rows <= found).sum() * 100 >= percent * len(rows)
    assert (rows < found).sum() * 100 < percent * len(rows)


def test_percentiles_of_nothing() -> None:
    assert length_percentiles(np.zeros(0, np.int64), (50, 95)) == (0, 0)
    assert length_percentiles(np.zeros(1, np.int64), (50,)) == (0,)
