"""The PyTorch engine: devices and precisions, workers, and batches that do not fit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from lengthwise.batching.costs import PACKED, STEPWISE
from lengthwise.config import EncoderConfig
from lengthwise.encoder.kernel import has_bf16_kernel
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.errors import LengthwiseError

LENGTHS = np.array([3, 2, 5, 1, 5], np.int64)
IDS = np.random.default_rng(0).integers(0, 20, (5, 5))


@pytest.fixture
def encoder(encoder_config: Callable[..., EncoderConfig]) -> PackedEncoder:
    head = {"pooling": "mean_last", "static_residual": True}
    return seeded_encoder(encoder_config(num_layers=2, bidirectional=True, vocab_size=20, **head), 0)


def packed(encoder: PackedEncoder) -> Any:
    with torch.inference_mode():
        return encoder(torch.from_numpy(IDS), torch.from_numpy(LENGTHS)).numpy()


def test_vectors_equal_the_packed_encoders(encoder: PackedEncoder) -> None:
    engine = TorchEngine(encoder)
    assert (engine.name, engine.costs, engine.reference, engine.config) == ("torch cpu", STEPWISE, None, encoder.config)
    vectors = engine.encode_batch(IDS, LENGTHS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, packed(encoder), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "fused",
    [pytest.param(True, marks=pytest.mark.skipif(not has_bf16_kernel(), reason="this CPU lacks AVX512-BF16")), False],
)
def test_bf16_is_close_to_its_reference(
    fused: bool, encoder: PackedEncoder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lengthwise.encoder.torch_engine.has_bf16_kernel", lambda: fused)
    engine = TorchEngine(encoder, precision="bf16")
    expected = ("torch cpu bf16 fused", STEPWISE) if fused else ("torch cpu bf16", PACKED)
    assert (engine.name, engine.costs) == expected
    assert engine.reference is not None
    for lengths in (LENGTHS, np.full(5, 5)):
        vectors = engine.encode_batch(IDS, lengths)
        assert vectors.dtype == np.float32
        assert 0 < np.abs(vectors - engine.reference.encode_batch(IDS, lengths)).max() < 0.02
    assert next(encoder.parameters()).dtype == torch.float32  # the encoder passed in is unchanged
    assert not fused or not caplog.text


@pytest.mark.parametrize(("rates", "warned"), [([3_400.0, 1_200.0], True), ([1_200.0, 3_400.0], False)])
def test_bf16_slower_than_fp32_is_reported_with_both_figures(
    rates: list[float],
    warned: bool,
    encoder: PackedEncoder,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lengthwise.encoder.torch_engine.has_bf16_kernel", lambda: False)
    monkeypatch.setattr("lengthwise.encoder.torch_engine.measure_rates", lambda engines, tokens: rates)
    TorchEngine(encoder, precision="bf16")
    assert ("bf16 is slower than fp32 on this CPU: 1,200 and 3,400 tokens" in caplog.text) == warned


def test_missing_device_or_precision_is_refused(encoder: PackedEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LengthwiseError, match=r"the device is cuda.*cpu or auto"):
        TorchEngine(encoder, "cuda")
    with pytest.raises(LengthwiseError, match=r"the precision is fp16.*fp32, bf16 or int8"):
        TorchEngine(encoder, "auto", "fp16")
    assert TorchEngine(encoder, "auto").device.type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(LengthwiseError, match=r"the precision is int8.*CPU only; choose cpu"):
        TorchEngine(encoder, "cuda", "int8")
    assert TorchEngine(encoder, "auto", "int8").device.type == "cpu"


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_workers_run_in_parallel_on_one_thread_each(encoder: PackedEncoder) -> None:
    barrier = threading.Barrier(3, timeout=30)  # passes only if three run at once

    def work(item: int) -> tuple[int, int]:
        barrier.wait()
        return item, torch.get_num_threads()

    assert list(TorchEngine(encoder).run_all(work, range(6))) == [(item, 1) for item in range(6)]
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_thread_count_is_restored_after_a_failure(encoder: PackedEncoder) -> None:
    with pytest.raises(ZeroDivisionError):
        list(TorchEngine(encoder).run_all(lambda item: 1 // item, [1, 0]))
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_vectors_do_not_depend_on_the_number_of_workers() -> None:
    encoder = seeded_encoder(EncoderConfig(vocab_size=500, embedding_dim=64, hidden_size=256, bidirectional=True), 0)
    rng = np.random.default_rng(0)
    batches = [(rng.integers(0, 500, (64, 9)), np.sort(rng.integers(1, 10, 64))[::-1].copy()) for _ in range(6)]
    runs = []
    for workers in (1, 3):
        engine = TorchEngine(encoder, workers=workers)
        runs.append(list(engine.run_all(lambda batch, e=engine: e.encode_batch(*batch), batches)))
    np.testing.assert_array_equal(runs[0], runs[1])


def test_later_changes_to_the_encoder_have_no_effect(encoder_config: Callable[..., EncoderConfig]) -> None:
    encoder = seeded_encoder(encoder_config(vocab_size=20, projection_dim=3, normalize=True), 0).train()
    engines = [TorchEngine(encoder, precision=precision) for precision in ("fp32", "bf16")]
    before = [engine.encode_batch(IDS, LENGTHS) for engine in engines]
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.zero_()
    for engine, vectors in zip(engines, before, strict=True):
        np.testing.assert_array_equal(engine.encode_batch(IDS, LENGTHS), vectors)
    assert encoder.training


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA error: out of memory"),  # of page-locked memory
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_batch_that_does_not_fit_is_split(
    encoder: PackedEncoder, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    engine = TorchEngine(encoder)
    right = engine.encode_batch(IDS, LENGTHS)
    fits, seen = engine._encode, []

    def limited(input_ids: Any, lengths: Any) -> Any:
        seen.append(len(lengths))
        if len(lengths) > 2:
            raise error
        return fits(input_ids, lengths)

    engine._encode = limited
    np.testing.assert_allclose(engine.encode_batch(IDS, LENGTHS), right, atol=1e-6, rtol=0)
    assert seen == [5, 2, 3, 1, 2]
    assert caplog.text.count("does not fit into memory; halved") == 2


def test_single_row_that_does_not_fit_raises(encoder: PackedEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TorchEngine(encoder)

    def full(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(engine, "_encode", full)
    with pytest.raises(
        LengthwiseError, match=r"one text of 3 tokens does not fit .* of cpu; set tokenizer\.max_length"
    ):
        engine.encode_batch(IDS[:1], LENGTHS[:1])


def test_other_errors_are_raised_unchanged(encoder: PackedEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TorchEngine(encoder)

    def fail(*_: Any) -> Any:
        raise RuntimeError("something else")

    monkeypatch.setattr(engine, "_encode", fail)
    with pytest.raises(RuntimeError, match="something else"):
        engine.encode_batch(IDS, LENGTHS)
