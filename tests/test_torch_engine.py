"""The PyTorch engine: its devices and precisions, its workers, and a batch that does not fit."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.batching import PACKED, STEPWISE
from pipeline.config import EncoderConfig
from pipeline.encoder import PackedEncoder, seeded_encoder
from pipeline.errors import LengthwiseError
from pipeline.torch_engine import TorchEngine, _without_tf32

LENGTHS = np.array([3, 2, 5, 1, 5], np.int64)
IDS = np.random.default_rng(0).integers(0, 20, (5, 5))
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here: the CUDA engine was not run")


@pytest.fixture
def encoder(encoder_config: Callable[..., EncoderConfig]) -> PackedEncoder:
    return seeded_encoder(encoder_config(num_layers=2, bidirectional=True, vocab_size=20), 0)


def packed(encoder: PackedEncoder) -> Any:
    with torch.inference_mode():
        return encoder(torch.from_numpy(IDS), torch.from_numpy(LENGTHS)).numpy()


def test_vectors_are_the_packed_encoders(encoder: PackedEncoder) -> None:
    engine = TorchEngine(encoder)
    assert (engine.name, engine.costs, engine.reference, engine.config) == ("torch cpu", STEPWISE, None, encoder.config)
    vectors = engine.encode_batch(IDS, LENGTHS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, packed(encoder), atol=1e-6, rtol=0)


def test_bf16_is_near_and_has_a_reference(encoder: PackedEncoder, caplog: pytest.LogCaptureFixture) -> None:
    engine = TorchEngine(encoder, precision="bf16")
    assert (engine.name, engine.costs) == ("torch cpu bf16", PACKED)
    assert engine.reference is not None
    for lengths in (LENGTHS, np.full(5, 5)):
        vectors = engine.encode_batch(IDS, lengths)
        assert vectors.dtype == np.float32
        assert 0 < np.abs(vectors - engine.reference.encode_batch(IDS, lengths)).max() < 0.02
    assert next(encoder.parameters()).dtype == torch.float32  # the encoder that was given is left as it was
    slow = not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert ("no bfloat16 arithmetic" in caplog.text) == slow


def test_devices_and_precisions_that_are_not_there(encoder: PackedEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LengthwiseError, match=r"encode\.device is cuda.*cpu or auto"):
        TorchEngine(encoder, "cuda")
    with pytest.raises(LengthwiseError, match=r"encode\.precision is fp16.*fp32 or bf16"):
        TorchEngine(encoder, "auto", "fp16")
    assert TorchEngine(encoder, "auto").device.type == "cpu"


def test_workers_work_side_by_side_on_one_thread_each(encoder: PackedEncoder) -> None:
    before = torch.get_num_threads()
    meeting = threading.Barrier(3, timeout=30)  # passes only where three are at work at once

    def work(item: int) -> tuple[int, int]:
        meeting.wait()
        return item, torch.get_num_threads()

    assert list(TorchEngine(encoder, workers=3).run_all(work, range(6))) == [(item, 1) for item in range(6)]
    assert torch.get_num_threads() == before


def test_vectors_do_not_depend_on_the_number_of_workers(encoder: PackedEncoder) -> None:
    rows = [np.array([row]) for row in range(5)] * 4
    runs = []
    for workers in (1, 4):
        engine = TorchEngine(encoder, workers=workers)
        runs.append(list(engine.run_all(lambda row, e=engine: e.encode_batch(IDS[row], LENGTHS[row]), rows)))
    np.testing.assert_array_equal(runs[0], runs[1])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_a_batch_that_does_not_fit_is_halved(
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


def test_one_row_that_does_not_fit_and_other_errors_are_raised(encoder: PackedEncoder) -> None:
    engine = TorchEngine(encoder)

    def fail(error: Exception) -> None:
        def encode(*_: Any) -> Any:
            raise error

        engine._encode = encode
        engine.encode_batch(IDS, LENGTHS)

    with pytest.raises(MemoryError):
        fail(MemoryError())
    with pytest.raises(RuntimeError, match="something else"):
        fail(RuntimeError("something else"))


def test_tf32_is_off_and_cudnn_stays_on(encoder: PackedEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    enabled = torch.backends.cudnn.enabled
    with _without_tf32():
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.enabled) == (False, enabled)
    assert torch.backends.cudnn.allow_tf32
    seen = list(TorchEngine(encoder).run_all(lambda _: torch.backends.cudnn.allow_tf32, [0]))
    assert (seen, torch.backends.cudnn.allow_tf32) == ([False], True)


@no_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_gpu_gives_the_same_vectors(
    encoder: PackedEncoder, precision: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    engine = TorchEngine(encoder, "cuda", precision)
    found = next(engine.run_all(lambda _: engine.encode_batch(IDS, LENGTHS), [0]))
    np.testing.assert_allclose(found, packed(encoder), atol=1e-5 if precision == "fp32" else 0.02, rtol=0)
    assert not caplog.records
