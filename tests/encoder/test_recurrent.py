"""GRUs, hard gates and padding that is read equal their definition in loops, text by text, in every engine."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from helpers.definition import Defined, define
from lengthwise.config import EncoderConfig
from lengthwise.encoder.checkpoint import weights_fingerprint
from lengthwise.encoder.cuda import StreamedEncoder, pad_to_multiple_of_8
from lengthwise.encoder.engine import encode_tokens, plan_tokens
from lengthwise.encoder.kernel import has_kernel
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.encoder.padding import read_batch, read_ids
from lengthwise.encoder.quantized import QuantizedEncoder
from lengthwise.encoder.stepwise import StepwiseEncoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.errors import ConfigError
from lengthwise.tokens.ragged import RaggedTokens
from lengthwise.util.settings import parse_settings

VOCABULARY, OUTSIDE = 30, 1_000_000
LENGTHS = [4, 1, 9, 9, 2, 1, 6]
HARD2, HARD3 = {"gate_activation": "hard_sigmoid_keras2"}, {"gate_activation": "hard_sigmoid_keras3"}
GRU = {"cell": "gru"}
PADDED = {"padding": {"to": 6, "side": "pre", "truncate": "pre"}}
SHAPES: dict[str, dict[str, Any]] = {
    "gru": {**GRU, "pooling": "last"},
    "gru, 2 layers": {**GRU, "num_layers": 2, "bidirectional": True, "pooling": "mean_max_last"},
    "gru, normalised": {**GRU, "bidirectional": True, "normalize": True, "static_residual": True},
    "gru, hard": {**GRU, **HARD2, "num_layers": 2, "bidirectional": True, "pooling": "sum"},
    "hard, keras 2": {**HARD2, "bidirectional": True, "pooling": "last_mean"},
    "hard, keras 3": {**HARD3, "num_layers": 2, "bidirectional": True, "pooling": "attention"},
    "padded before, cut before": {**PADDED, "bidirectional": True, "pooling": "attention_end_sum"},
    "padded after, cut after": {"padding": {"to": 5}, "num_layers": 2, "bidirectional": True, "pooling": "max_mean"},
    "padded, not cut": {"padding": {"to": 6, "truncate": None}, "bidirectional": True, "static_residual": True},
    "padded before, not cut": {"padding": {"to": 3, "side": "pre", "truncate": None}, "pooling": "first_last"},
    "padded after, cut before": {"padding": {"to": 4, "truncate": "pre"}, "pooling": "last", "pad_token_id": 3},
    "all at once": {**GRU, **HARD3, **PADDED, "bidirectional": True, "pooling": "mean_end", "dense": [{"dim": 5}]},
}
Batch = tuple[NDArray[np.int64], NDArray[np.int64]]


def make_encoder(shape: dict[str, Any], scale: float = 2.0) -> PackedEncoder:
    """With weights twice as large as seeded ones, so that hard gates are open, closed and between."""
    small = {"vocab_size": VOCABULARY, "embedding_dim": 5, "hidden_size": 4}
    encoder = seeded_encoder(parse_settings(EncoderConfig, {**small, **shape}, "test"), 3)
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if name != "embedding.weight":
                weight.mul_(scale)
    return encoder


def batch_of(lengths: list[int], columns: int = 3, seed: int = 0) -> Batch:
    ids = np.random.default_rng(seed).integers(0, VOCABULARY, (len(lengths), max(lengths) + columns))
    ids[np.arange(ids.shape[1]) >= np.array(lengths)[:, None]] = OUTSIDE
    return ids, np.array(lengths, np.int64)


def definitions(encoder: PackedEncoder, ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> list[Defined]:
    weights = {name: weight.numpy() for name, weight in encoder.state_dict().items()}
    return [define(encoder.config, weights, row[:length].tolist()) for row, length in zip(ids, lengths, strict=True)]


def assert_near(found: NDArray[Any], rows: list[Defined], tolerance: float = 1e-6) -> None:
    expected = np.stack([row.vector for row in rows])
    scale = np.maximum(1, np.abs(expected).max(axis=1, keepdims=True))
    assert found.shape == expected.shape
    assert np.abs((found - expected) / scale).max() <= tolerance


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_encoder_equals_the_definition(shape: str) -> None:
    encoder, (ids, lengths) = make_encoder(SHAPES[shape]), batch_of(LENGTHS)
    rows = definitions(encoder, ids, lengths)
    with torch.inference_mode():
        assert_near(encoder(torch.from_numpy(ids), torch.from_numpy(lengths)).numpy(), rows)
        equal = torch.from_numpy(ids[2:4, :9])
        assert_near(encoder.forward_equal_lengths(equal).numpy(), rows[2:4])


@pytest.mark.parametrize("shape", SHAPES)
def test_stepwise_encoder_equals_the_definition(shape: str) -> None:
    encoder, batch = make_encoder(SHAPES[shape]), batch_of(LENGTHS)
    rows = definitions(encoder, *batch)
    for fused in (False, True) if has_kernel() else (False,):
        assert_near(StepwiseEncoder(encoder, fused)(*batch), rows)
    small = make_encoder(SHAPES[shape], 0.02)  # such rows are computed again in float64
    assert_near(StepwiseEncoder(small)(*batch), definitions(small, *batch))


@pytest.mark.parametrize(
    "fused", [False, pytest.param(True, marks=pytest.mark.skipif(not has_kernel(), reason="none"))]
)
@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_near_the_definition_and_the_same_alone(shape: str, fused: bool) -> None:
    encoder, (ids, lengths) = make_encoder(SHAPES[shape]), batch_of(LENGTHS)
    quantized = QuantizedEncoder(encoder, fused)
    found = quantized(ids, lengths)
    assert_near(found, definitions(encoder, ids, lengths), 0.05)
    alone = [quantized(ids[row : row + 1, :length], lengths[row : row + 1])[0] for row, length in enumerate(lengths)]
    np.testing.assert_array_equal(found, np.stack(alone))


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=9),
    columns=st.integers(0, 5),
    shape=st.sampled_from(list(SHAPES)),
    seed=st.integers(0, 3),
)
def test_row_alone_equals_row_in_any_batch(lengths: list[int], columns: int, shape: str, seed: int) -> None:
    encoder, (ids, counts) = make_encoder(SHAPES[shape]), batch_of(lengths, columns, seed)
    encode = StepwiseEncoder(encoder)
    together = encode(ids, counts)
    with torch.inference_mode():
        packed = encoder(torch.from_numpy(ids), torch.from_numpy(counts)).numpy()
    scale = np.maximum(1, np.abs(packed).max(axis=1, keepdims=True))
    for row, length in enumerate(counts):
        one = (ids[row : row + 1, :length], counts[row : row + 1])
        with torch.inference_mode():
            alone = encoder(*map(torch.from_numpy, one)).numpy()[0]
        assert (np.abs(together[row] - encode(*one)[0]) / scale[row]).max() <= 1e-6
        assert (np.abs(packed[row] - alone) / scale[row]).max() <= 1e-6


@pytest.mark.parametrize("precision", ["fp32", "int8", "bf16"])
@pytest.mark.parametrize("shape", ["gru, 2 layers", "hard, keras 3", "padded before, cut before"])
def test_engine_computes_in_every_precision(shape: str, precision: Any, caplog: pytest.LogCaptureFixture) -> None:
    encoder, (ids, lengths) = make_encoder(SHAPES[shape]), batch_of(LENGTHS)
    with caplog.at_level(logging.WARNING):
        engine = TorchEngine(encoder, "cpu", precision)
    tolerance = {"fp32": 1e-6, "int8": 0.05, "bf16": 0.05}[precision]
    assert_near(engine.encode_batch(ids, lengths), definitions(encoder, ids, lengths), tolerance)
    assert ("it computes LSTMs only, and this is a gru" in caplog.text) == (shape == "gru, 2 layers")
    is_unfused = shape == "gru, 2 layers" or (precision == "int8" and not has_kernel())
    assert ("unfused" in engine.name) == is_unfused


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here: PyTorch on CUDA was not run")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gpu_computes_the_definition(shape: str, precision: Any) -> None:
    encoder, (ids, lengths) = make_encoder(SHAPES[shape]), batch_of(LENGTHS, 0)
    engine = TorchEngine(encoder, "cuda", precision)
    tolerance = {"fp32": 1e-5, "bf16": 0.05, "fp16": 0.01}[precision]
    assert_near(engine.encode_batch(ids, lengths), definitions(encoder, ids, lengths), tolerance)


class Slot:
    """A stream slot without a device."""

    def run(self, compute: Any, input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = compute(torch.from_numpy(input_ids)).numpy()
        return vectors


@pytest.mark.parametrize("shape", ["gru, 2 layers", "all at once", "padded, not cut"])
def test_streamed_encoder_equals_the_definition(shape: str) -> None:
    """What a GPU runs, here on the CPU; with an embedding that tensor cores take."""
    encoder, (ids, lengths) = make_encoder(SHAPES[shape]), batch_of(LENGTHS, 0)
    rows = definitions(encoder, ids, lengths)
    streamed = StreamedEncoder(pad_to_multiple_of_8(encoder), [Slot()], 24)
    assert_near(streamed(ids, lengths), rows)
    assert_near(streamed(ids[2:4], lengths[2:4]), rows[2:4])


@pytest.mark.parametrize("shape", ["gru, hard", "hard, keras 2", "padded after, cut after"])
def test_gradients_reach_every_weight(shape: str) -> None:
    encoder = PackedEncoder(make_encoder(SHAPES[shape]).config)
    ids, lengths = batch_of(LENGTHS)
    encoder(torch.from_numpy(ids), torch.from_numpy(lengths)).sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in encoder.parameters())


def test_hard_gates_differ_from_each_other_and_from_sigmoids() -> None:
    batch = batch_of(LENGTHS)
    gates = [make_encoder({**gate, "pooling": "last"}) for gate in ({}, HARD2, HARD3)]
    vectors = [StepwiseEncoder(encoder)(*batch) for encoder in gates]
    assert len({weights_fingerprint(encoder) for encoder in gates}) == 1
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(vectors[first] - vectors[second]).max() > 1e-3


# Padding that is read


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    to=st.integers(1, 9),
    side=st.sampled_from(["post", "pre"]),
    truncate=st.sampled_from(["post", "pre", None]),
)
def test_ids_that_are_read_are_those_of_both_definitions(lengths: list[int], to: int, side: Any, truncate: Any) -> None:
    config = EncoderConfig(vocab_size=30, pad_token_id=7, padding={"to": to, "side": side, "truncate": truncate})
    ids, counts = batch_of(lengths, 2)
    in_numpy, total = read_batch(ids, counts, config)
    read = read_ids(torch.from_numpy(ids), torch.from_numpy(counts), config)
    for row, length in enumerate(lengths):
        text = ids[row, :length].tolist()
        kept = text if truncate is None or length <= to else text[:to] if truncate == "post" else text[-to:]
        filling = [7] * (to - len(kept))
        right = kept + filling if side == "post" else filling + kept
        assert in_numpy[row, : total[row]].tolist() == right
        assert read.input_ids[row, : int(read.lengths[row])].tolist() == right
    again, total_again = read_batch(in_numpy, total, config)
    np.testing.assert_array_equal(total_again, total)
    for row, count in enumerate(total):
        np.testing.assert_array_equal(again[row, :count], in_numpy[row, :count])


def test_a_run_plans_what_is_read_and_marks_what_is_cut() -> None:
    encoder = make_encoder(SHAPES["padded before, cut before"])
    engine = TorchEngine(encoder)
    rows = [[5, 6], [], [1, 2, 3, 4, 5, 6, 7, 8], [9], [5, 6]]
    offsets = np.cumsum([0, *map(len, rows)])
    none = np.zeros(len(rows), np.bool_)
    tokens = RaggedTokens(np.concatenate(rows).astype(np.int32), offsets, none, none)
    planned = plan_tokens(tokens, engine)
    assert planned.tokens.truncated.tolist() == [False, False, True, False, False]
    assert planned.tokens.lengths.tolist() == [2, 0, 8, 1, 2]
    assert planned.report.tokens == 3 * 6
    vectors, _ = encode_tokens(tokens, engine)
    weights = {name: weight.numpy() for name, weight in encoder.state_dict().items()}
    for row, ids in enumerate(rows):
        right = define(encoder.config, weights, ids).vector if ids else np.zeros(encoder.config.dim)
        np.testing.assert_allclose(vectors[row], right, atol=1e-5)


def test_padding_that_is_not_read_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        make_encoder({"padding": {"to": 4, "read": False}})
    assert "leave padding out for a model that does not read it" in str(caught.value)
