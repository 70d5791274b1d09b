"""The encoder on a GPU. What needs none (order, splitting, slots, padded columns) is tested through a slot on the CPU;
the same tests, and those of the GPU itself, run on a GPU where there is one.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from lengthwise.batching.costs import PACKED_CUDA
from lengthwise.cli.gpu.lstm_probes import tf32_allowed
from lengthwise.config import EncoderConfig
from lengthwise.encoder import cuda
from lengthwise.encoder.cuda import (
    DTYPES,
    CudaStreamSlot,
    StreamedEncoder,
    arithmetic,
    bytes_per_cell,
    check_precision,
    convert_encoder,
    flatten_lstm_weights,
    make_cuda_encoder,
    pad_to_multiple_of_8,
    slots_and_cells,
    tf32_backends,
)
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.encoder.stepwise import StepwiseEncoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.errors import LengthwiseError

GPU_MARKS = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here: PyTorch on CUDA was not run"),
)
TOLERANCE = 1e-5  # of float32 on a GPU
BELOW = {"bf16": 0.05, "fp16": 0.01}
KINDS = list(itertools.product((1, 2), (False, True), ("last", "mean", "max", "sum")))


def on_gpu(test: Callable[..., Any]) -> Callable[..., Any]:
    for mark in GPU_MARKS:
        test = mark(test)
    return test


class HostStreamSlot:
    """A slot on the CPU that records the shapes it is given."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def run(self, compute: Callable[[Tensor], Tensor], input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        self.shapes.append(input_ids.shape)
        return compute(torch.from_numpy(input_ids)).numpy()


def on_host(encoder: PackedEncoder, max_batch_cells: int | None = None) -> tuple[StreamedEncoder, HostStreamSlot]:
    slot = HostStreamSlot()
    return StreamedEncoder(encoder, [slot], max_batch_cells), slot


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=GPU_MARKS)])
def placed(request: pytest.FixtureRequest) -> Callable[[PackedEncoder], StreamedEncoder]:
    """Runs a float32 encoder through slots: on the CPU, and on a GPU where there is one."""
    if request.param == "cpu":
        return lambda encoder: on_host(convert_encoder(encoder, torch.device("cpu"), torch.float32))[0]
    return lambda encoder: make_cuda_encoder(encoder, torch.device("cuda", 0), "fp32", 3, 4_096)


def batches(vocab_size: int, longest: int = 9) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Equal lengths, one token, mixed in any order, and one long row among short ones, with ids in the padding."""
    rng = np.random.default_rng(0)
    lengths = [
        np.full(33, longest),
        np.ones(5, np.int64),
        rng.integers(1, longest + 1, 33),
        np.array([1, longest, 1, 2]),
        np.array([longest]),
    ]
    return [(rng.integers(0, vocab_size, (len(each), int(each.max()))), each) for each in lengths]


@pytest.mark.parametrize(("layers", "bidirectional", "pooling"), KINDS)
def test_vectors_are_the_step_wise_encoders(
    layers: int,
    bidirectional: bool,
    pooling: str,
    placed: Callable[[PackedEncoder], StreamedEncoder],
    encoder_config: Callable[..., EncoderConfig],
) -> None:
    kind = {"num_layers": layers, "bidirectional": bidirectional, "pooling": pooling}
    for head in ({}, {"projection_dim": 5, "normalize": True}):
        encoder = seeded_encoder(encoder_config(**kind, **head, vocab_size=20), 0)
        found, right = placed(encoder), StepwiseEncoder(encoder)
        for batch in batches(20):
            vectors = found(*batch)
            assert vectors.dtype == np.float32
            np.testing.assert_allclose(vectors, right(*batch), atol=TOLERANCE, rtol=0)


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=9),
    max_batch_cells=st.one_of(st.none(), st.integers(1, 60)),
    pooling=st.sampled_from(["last", "mean", "max", "sum"]),
)
def test_rows_come_back_in_their_order_however_a_batch_is_cut(
    lengths: list[int], max_batch_cells: int | None, pooling: str
) -> None:
    config = EncoderConfig(vocab_size=20, embedding_dim=3, hidden_size=4, bidirectional=True, pooling=pooling)
    encoder = seeded_encoder(config, 0)
    ids = np.random.default_rng(len(lengths)).integers(0, 20, (len(lengths), max(lengths)))
    found, slot = on_host(encoder, max_batch_cells)
    vectors = found(ids, np.array(lengths))
    np.testing.assert_allclose(vectors, StepwiseEncoder(encoder)(ids, np.array(lengths)), atol=1e-6, rtol=0)
    assert sum(rows for rows, _ in slot.shapes) == len(lengths)
    if max_batch_cells is not None:
        assert all(rows * columns <= max_batch_cells or rows == 1 for rows, columns in slot.shapes)
        assert max(rows for rows, _ in slot.shapes) - min(rows for rows, _ in slot.shapes) <= 1


def test_as_many_batches_as_lanes_are_on_their_way(encoder_config: Callable[..., EncoderConfig]) -> None:
    meeting = threading.Barrier(3, timeout=30)  # passes only if three run at once

    class Meeting(HostStreamSlot):
        def run(self, compute: Callable[[Tensor], Tensor], input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
            meeting.wait()
            return super().run(compute, input_ids)

    found = StreamedEncoder(seeded_encoder(encoder_config(vocab_size=20), 0), [Meeting() for _ in range(3)])
    (batch, *_) = batches(20)
    threads = [threading.Thread(target=found, args=batch) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not meeting.broken


def test_a_lane_is_free_again_after_a_failure(encoder_config: Callable[..., EncoderConfig]) -> None:
    encoder = seeded_encoder(encoder_config(vocab_size=20), 0)
    found, _ = on_host(encoder)
    with pytest.raises(IndexError):
        found(np.full((2, 3), 20), np.full(2, 3))
    ids, lengths = batches(20)[0]
    np.testing.assert_allclose(found(ids, lengths), StepwiseEncoder(encoder)(ids, lengths), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("columns", "wide"), [(5, 8), (8, 8), (300, 304)])
@pytest.mark.parametrize("layers", [1, 2])
def test_columns_of_zeros_change_nothing(columns: int, wide: int, layers: int) -> None:
    config = EncoderConfig(
        vocab_size=20, embedding_dim=columns, hidden_size=6, num_layers=layers, bidirectional=True, pooling="mean"
    )
    encoder = seeded_encoder(config, 0)
    wider = pad_to_multiple_of_8(encoder)
    assert wider.embedding.weight.shape == (20, wide)
    assert (wider is encoder) == (columns == wide)
    for batch in batches(20):
        np.testing.assert_allclose(on_host(wider)[0](*batch), on_host(encoder)[0](*batch), atol=1e-6, rtol=0)


def test_bfloat16_is_near(encoder_config: Callable[..., EncoderConfig]) -> None:
    encoder = seeded_encoder(encoder_config(vocab_size=20, bidirectional=True, pooling="mean"), 0)
    lower = convert_encoder(pad_to_multiple_of_8(encoder), torch.device("cpu"), DTYPES["bf16"])
    for batch in batches(20):
        vectors = on_host(lower)[0](*batch)
        assert vectors.dtype == np.float32
        assert 0 < np.abs(vectors - StepwiseEncoder(encoder)(*batch)).max() < BELOW["bf16"]


@given(free=st.floats(0, 1e12), cell=st.floats(1, 1e6), slots=st.integers(1, 8), max_cells=st.integers(1, 1_000_000))
def test_what_is_on_its_way_fits_into_memory(free: float, cell: float, slots: int, max_cells: int) -> None:
    used, cells = slots_and_cells(free, cell, slots, max_cells)
    assert 1 <= used <= slots
    assert cells >= 1
    assert used * cells * cell <= max(free, used * cell)
    if used < slots:  # fewer slots only if another one would mean smaller batches
        assert (used + 1) * max_cells * cell > free
    if used > 1:
        assert cells >= max_cells


def test_bfloat16_is_refused_where_a_gpu_lacks_it() -> None:
    check_precision("bf16", "NVIDIA H200", (9, 0))
    check_precision("fp16", "Tesla T4", (7, 5))
    with pytest.raises(LengthwiseError, match=r"bf16, which Tesla T4 \(compute capability 7\.5\).*choose fp16 or fp32"):
        check_precision("bf16", "Tesla T4", (7, 5))


class FakeGpu:
    """Answers for torch.cuda as a GPU of so much memory would, on which a cell takes so many bytes."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, free: int = 10**12, cell_bytes: int = 50, cudnn: int = 91_300
    ) -> None:
        self.peak, self.slots = 0, list[HostStreamSlot]()
        self.kept = 10**8  # what libraries take the first time, and keep
        gpu = self

        class StreamSlot(HostStreamSlot):
            def __init__(self, device: torch.device) -> None:
                super().__init__()
                gpu.slots.append(self)

            def run(self, compute: Callable[[Tensor], Tensor], input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
                gpu.peak = max(gpu.peak, gpu.kept + 1_000 + cell_bytes * input_ids.size)
                gpu.kept = 0
                return super().run(compute, input_ids)

        answers = {
            "is_available": lambda: True,
            "current_device": lambda: 0,
            "get_device_name": lambda device: "a GPU",
            "get_device_capability": lambda device: (8, 0),
            "synchronize": lambda device: None,
            "mem_get_info": lambda device: (free, 2 * free),
            "memory_reserved": lambda device: 700,
            "memory_allocated": lambda device: 200,
            "max_memory_allocated": lambda device: 200 + self.peak,
            "reset_peak_memory_stats": lambda device: setattr(self, "peak", 0),
        }
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
        monkeypatch.setattr(cuda, "CudaStreamSlot", StreamSlot)
        monkeypatch.setattr(
            cuda, "convert_encoder", lambda encoder, _, dtype: convert_encoder(encoder, torch.device("cpu"), dtype)
        )


@pytest.mark.parametrize(
    ("free", "slots", "max_batch_cells"),
    [(10**9, 3, 0.8 * 10**9 / 50 / 3), (4 * 10**6, 2, 32_004), (10**6, 1, 16_008), (0, 1, 8)],
)
def test_slots_and_batch_size_follow_measured_memory(
    free: int,
    slots: int,
    max_batch_cells: float,
    monkeypatch: pytest.MonkeyPatch,
    encoder_config: Callable[..., EncoderConfig],
) -> None:
    gpu = FakeGpu(monkeypatch, free)
    encoder = seeded_encoder(encoder_config(vocab_size=20), 0)
    device = torch.device("cpu")
    assert bytes_per_cell(StreamedEncoder(encoder, [cuda.CudaStreamSlot(device)]), device) == 50
    found = make_cuda_encoder(encoder, device, "bf16", 3, 30_000)
    assert found.slots == slots
    assert found.max_batch_cells == pytest.approx(max_batch_cells, rel=1e-4)
    assert len(gpu.slots) == 1 + 3


def test_engine_has_more_threads_than_slots(
    monkeypatch: pytest.MonkeyPatch, encoder_config: Callable[..., EncoderConfig]
) -> None:
    FakeGpu(monkeypatch)
    encoder = seeded_encoder(encoder_config(vocab_size=20), 0)
    engine = TorchEngine(encoder, "cuda", "bf16")
    assert (engine.name, engine.costs, engine.device.type) == ("torch cuda bf16", PACKED_CUDA, "cuda")
    assert engine.reference is not None
    assert engine.reference.name == "torch cuda"
    meeting = threading.Barrier(3 + 2, timeout=30)  # passes only where five are at work at once
    assert len(list(engine.run_all(lambda _: meeting.wait(), range(10)))) == 10
    for batch in batches(20):
        exact = engine.reference.encode_batch(*batch)
        np.testing.assert_allclose(exact, StepwiseEncoder(encoder)(*batch), atol=1e-6, rtol=0)
        assert 0 < np.abs(engine.encode_batch(*batch) - exact).max() < BELOW["bf16"]


@pytest.mark.parametrize(("cudnn", "told"), [(91_300, False), (91_001, True)])
def test_bfloat16_without_cudnn_is_told(
    cudnn: int,
    told: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    encoder_config: Callable[..., EncoderConfig],
) -> None:
    FakeGpu(monkeypatch, cudnn=cudnn)
    encoder = seeded_encoder(encoder_config(vocab_size=20), 0)
    for precision in ("fp32", "fp16"):
        with contextlib.suppress(RuntimeError):  # half precision is nothing that this processor's LSTM has
            make_cuda_encoder(encoder, torch.device("cpu"), precision, 1, 100)
        assert not caplog.text
    make_cuda_encoder(encoder, torch.device("cpu"), "bf16", 1, 100)
    assert ("precision fp16 is faster here" in caplog.text) == told


@pytest.mark.parametrize(("dtype", "cudnn", "asked"), [("bf16", 91_300, 1), ("bf16", 91_001, 0), ("fp32", 91_300, 0)])
def test_weights_in_bfloat16_are_put_in_one_piece_by_us(
    dtype: str, cudnn: int, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = torch.backends.cudnn.CUDNN_TENSOR_DTYPES
    before = set(listed)
    lstm = torch.nn.LSTM(3, 4).to(DTYPES[dtype])
    seen = []
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
    monkeypatch.setattr(lstm, "flatten_parameters", lambda: seen.append(torch.bfloat16 in listed))
    flatten_lstm_weights(lstm)
    assert seen == [True] * asked
    assert listed == before


def test_the_gpus_weights_are_a_copy(
    placed: Callable[[PackedEncoder], StreamedEncoder], encoder_config: Callable[..., EncoderConfig]
) -> None:
    encoder = seeded_encoder(encoder_config(vocab_size=20), 0)
    found = placed(encoder)
    before = [found(*batch) for batch in batches(20)]
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.zero_()
    for batch, vectors in zip(batches(20), before, strict=True):
        # not to the last bit: cuDNN does not promise that where there are several streams
        np.testing.assert_allclose(found(*batch), vectors, atol=TOLERANCE, rtol=0)


def settings_now() -> tuple[str, ...]:
    return tuple(place.fp32_precision for place in tf32_backends())


def test_tf32_is_off_while_any_thread_is_inside() -> None:
    before, enabled = settings_now(), torch.backends.cudnn.enabled
    with arithmetic(torch.float32):
        with arithmetic(torch.float16):
            assert settings_now() == ("ieee", "ieee")
            assert torch.backends.cudnn.enabled == enabled
        assert settings_now() == ("ieee", "ieee")
    assert settings_now() == before
    with pytest.raises(ZeroDivisionError), arithmetic(torch.float32):
        raise ZeroDivisionError
    assert settings_now() == before


def test_threads_that_need_other_settings_wait() -> None:
    before, said = settings_now(), list[tuple[str, ...]]()

    def in_bfloat16() -> None:
        with arithmetic(torch.bfloat16):
            said.append(settings_now())

    thread = threading.Thread(target=in_bfloat16)
    with arithmetic(torch.float32):
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert settings_now() == ("ieee", "ieee")
    thread.join(30)
    assert said == [("tf32", "ieee")]
    assert settings_now() == before


@pytest.mark.parametrize(("precision", "settings"), [("fp32", ("ieee", "ieee")), ("bf16", ("tf32", "ieee"))])
def test_kernels_are_launched_under_their_types_settings(
    precision: str, settings: tuple[str, str], encoder_config: Callable[..., EncoderConfig]
) -> None:
    """In bfloat16 with what PyTorch calls TF32, without which it asks cuDNN for no tensor cores."""
    before, seen = settings_now(), list[tuple[str, ...]]()
    encoder = convert_encoder(seeded_encoder(encoder_config(vocab_size=20), 0), torch.device("cpu"), DTYPES[precision])
    encoder.lstm.register_forward_pre_hook(lambda *_: seen.append(settings_now()))
    found, slot = on_host(encoder)
    for batch in batches(20):
        found(*batch)
    assert seen == [settings] * len(slot.shapes)
    assert settings_now() == before


# From here on a GPU is needed.


@contextmanager
def refusing_to_wait() -> Iterator[None]:
    """PyTorch raises where an operation makes the processor wait for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def sizable(**changes: Any) -> PackedEncoder:
    """An encoder large enough that tensor cores and TF32 are worth cuDNN's while."""
    shape = {"vocab_size": 1_000, "embedding_dim": 300, "hidden_size": 256, "bidirectional": True, "pooling": "mean"}
    return seeded_encoder(EncoderConfig(**{**shape, **changes}), 0)


def smallest_cosine(found: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(right, axis=1)
    return float(((found * right).sum(axis=1) / norms).min())


@on_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("pooling", ["last", "mean", "max", "sum"])
def test_the_engine_on_the_gpu_gives_the_cpus_vectors(
    precision: Any, pooling: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    encoder = sizable(pooling=pooling, num_layers=2)
    engine, on_cpu = TorchEngine(encoder, "cuda", precision), TorchEngine(encoder)
    given_batches = batches(1_000, longest=40) * 8
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = list(engine.run_all(lambda batch: engine.encode_batch(*batch), given_batches))
    assert not [warning for warning in told if "contiguous chunk" in str(warning.message)]  # weights in one piece
    for batch, vectors in zip(given_batches, found, strict=True):
        right = on_cpu.encode_batch(*batch)
        if precision == "fp32":
            scale = np.maximum(1, np.abs(right).max(axis=1, keepdims=True))
            assert (np.abs(vectors - right) / scale).max() <= TOLERANCE
        else:
            assert smallest_cosine(vectors, right) >= 0.999
            if pooling != "sum":
                assert np.abs(vectors - right).max() <= BELOW[precision]
    assert not caplog.records


@on_gpu
def test_a_row_alone_on_the_gpu_equals_the_row_in_a_batch() -> None:
    encoder = make_cuda_encoder(sizable(num_layers=2), torch.device("cuda", 0), "fp32", 3, 4_096)
    for ids, lengths in batches(1_000, longest=40):
        together = encoder(ids, lengths)
        for row, length in enumerate(lengths):
            alone = encoder(ids[row : row + 1, :length], np.array([length]))
            np.testing.assert_allclose(alone[0], together[row], atol=TOLERANCE, rtol=0)


@on_gpu
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_nothing_in_a_batch_waits_for_the_gpu_but_its_end(pooling: str) -> None:
    encoder = make_cuda_encoder(sizable(pooling=pooling), torch.device("cuda", 0), "fp16", 1, 4_096)
    given_batches = batches(1_000, longest=40)
    before = [encoder(*batch) for batch in given_batches]  # cuDNN and cuBLAS start
    with refusing_to_wait():
        again = [encoder(*batch) for batch in given_batches]
    for first, second in zip(before, again, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-3, rtol=0)


@on_gpu
def test_without_cudnn_the_vectors_are_the_same() -> None:
    encoder = sizable(num_layers=2)
    with torch.backends.cudnn.flags(enabled=False):
        found = make_cuda_encoder(encoder, torch.device("cuda", 0), "fp32", 1, 4_096)
        vectors = [found(*batch) for batch in batches(1_000, longest=40)]
    for batch, each in zip(batches(1_000, longest=40), vectors, strict=True):
        np.testing.assert_allclose(each, StepwiseEncoder(encoder)(*batch), atol=TOLERANCE, rtol=0)


@on_gpu
def test_tf32_stays_off_whatever_the_program_has_set() -> None:
    encoder = sizable(hidden_size=512)
    exact = make_cuda_encoder(encoder, torch.device("cuda", 0), "fp32", 1, 4_096)
    ids, lengths = np.random.default_rng(0).integers(0, 1_000, (512, 40)), np.full(512, 40)
    with tf32_allowed():
        vectors = exact(ids, lengths)
        assert torch.backends.cudnn.rnn.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "tf32"
    np.testing.assert_allclose(vectors, StepwiseEncoder(encoder)(ids, lengths), atol=TOLERANCE, rtol=0)


@on_gpu
def test_a_text_of_very_many_tokens_is_read_to_its_end() -> None:
    encoder = sizable(embedding_dim=16, hidden_size=16, pooling="last")
    found = make_cuda_encoder(encoder, torch.device("cuda", 0), "fp32", 1, 4_096)
    for lengths in (np.array([100_000]), np.array([30_000, 1, 7])):
        ids = np.random.default_rng(0).integers(0, 1_000, (len(lengths), int(lengths.max())))
        np.testing.assert_allclose(found(ids, lengths), StepwiseEncoder(encoder)(ids, lengths), atol=TOLERANCE, rtol=0)


@on_gpu
def test_a_batch_larger_than_memory_is_cut_before_it_is_tried(caplog: pytest.LogCaptureFixture) -> None:
    encoder = sizable()
    found = make_cuda_encoder(encoder, torch.device("cuda", 0), "fp32", 2, 4_096)
    assert found.max_batch_cells is not None
    small = StreamedEncoder(found._encoder, [CudaStreamSlot(torch.device("cuda", 0))], max_batch_cells=2_000)
    ids, lengths = np.random.default_rng(0).integers(0, 1_000, (300, 40)), np.full(300, 40)
    np.testing.assert_allclose(small(ids, lengths), found(ids, lengths), atol=TOLERANCE, rtol=0)
    assert not caplog.records
