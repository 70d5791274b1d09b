"""Rows through the encoder in training: a vector and its gradient do not depend on how rows are batched."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.students import make_texts
from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.errors import ConfigError
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.train_config import TrainSettings
from lengthwise.training import batches
from lengthwise.training.batches import BatchRunner, training_precision
from lengthwise.util.compat import onednn_has_bf16

TEXTS = make_texts(40)


@pytest.fixture(scope="session")
def encoder(encoder_config: Callable[..., EncoderConfig]) -> PackedEncoder:
    return seeded_encoder(encoder_config(bidirectional=True, num_layers=2), 0)


@settings(max_examples=10, deadline=None)
@given(rows=st.lists(st.integers(0, 39), min_size=1, max_size=12), max_tokens=st.integers(1, 60))
def test_group_gives_the_vectors_of_single_rows(
    encoder: PackedEncoder, tokenizer: TextTokenizer, rows: list[int], max_tokens: int
) -> None:
    tokens, runner = tokenize_texts(TEXTS, tokenizer), BatchRunner(encoder, max_tokens, "fp32")
    chosen = np.array(rows, np.int64)
    together = runner.group(tokens, chosen)
    alone = torch.cat([runner.rows(tokens, chosen[number : number + 1]) for number in range(len(rows))])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    assert runner.tokens == 2 * int(tokens.lengths[chosen].sum())


def test_gradients_flow_through_all_batches_of_a_group(encoder: PackedEncoder, tokenizer: TextTokenizer) -> None:
    tokens, rows = tokenize_texts(TEXTS, tokenizer), np.arange(40)
    gradients = []
    for max_tokens in (10_000, 12, 1):
        encoder.zero_grad()
        BatchRunner(encoder, max_tokens, "fp32").group(tokens, rows).square().sum().backward()
        gradients.append({name: weight.grad.to_dense().clone() for name, weight in encoder.named_parameters()})
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(other[name], gradient, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not onednn_has_bf16(), reason="PyTorch cannot train an LSTM in bfloat16 on this CPU")
def test_bf16_is_near_fp32(encoder: PackedEncoder, tokenizer: TextTokenizer) -> None:
    tokens, rows = tokenize_texts(TEXTS, tokenizer), np.arange(40)
    exact, short = (BatchRunner(encoder, 64, precision).group(tokens, rows) for precision in ("fp32", "bf16"))
    assert short.dtype == torch.float32
    assert 0 < float((exact - short).detach().abs().max()) < 0.02


@pytest.mark.parametrize("has_bf16", [False, True])
def test_bf16_is_refused_where_it_cannot_be_computed(has_bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "onednn_has_bf16", lambda: has_bf16)
    monkeypatch.setattr(batches, "cpu_has_bf16", lambda: False)
    message = r"train\.precision is bf16.*fp32 or auto"
    refused: Any = nullcontext() if has_bf16 else pytest.raises(ConfigError, match=message)
    with refused:
        assert training_precision(TrainSettings(precision="bf16"), "cpu") == "bf16"
    assert training_precision(TrainSettings(precision="bf16"), "cuda") == "bf16"
    assert training_precision(TrainSettings(), "cpu") == "fp32"
