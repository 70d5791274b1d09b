"""The encoder on a GPU. Order, splitting, slots and padded columns are tested through a slot on the CPU; the same
tests, and those of the GPU itself, run on a GPU where there is one.
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

from helpers.definition import POOLINGS
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
    flatten_weights,
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
KINDS = list(itertools.product((1, 2), (False, True), POOLINGS))


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
def make_encoder(request: pytest.FixtureRequest) -> Callable[[PackedEncoder], StreamedEncoder]:
    """Makes a StreamedEncoder in float32: on the CPU, and on a GPU where there is one."""
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
def test_vectors_equal_the_stepwise_encoders(
    layers: int,
    bidirectional: bool,
    pooling: str,
    make_encoder: Callable[[PackedEncoder], StreamedEncoder],
    encoder_config: Callable[..., EncoderConfig],
) -> None:
    kind = {"num_layers": layers, "bidirectional": bidirectional, "pooling": pooling}
    for head in ({}, {"projection_dim": 5, "normalize": True}, {"projection_dim": 5, "static_residual": True}):
        encoder = seeded_encoder(encoder_config(**kind, **head, vocab_size=20), 0)
        found, right = make_encoder(encoder), StepwiseEncoder(encoder)
        for batch in batches(20):
            vectors = found(*batch)
            assert vectors.dtype == np.float32
            np.testing.assert_allclose(vectors, right(*batch), atol=TOLERANCE, rtol=0)


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=9),
    max_batch_cells=st.one_of(st.none(), st.integers(1, 60)),
    pooling=st.sampled_from(POOLINGS),
    static=st.booleans(),
)
def test_split_batches_keep_row_order(
    lengths: list[int], max_batch_cells: int | None, pooling: str, static: bool
) -> None:
    shape = {"vocab_size": 20, "embedding_dim": 3, "hidden_size": 4, "bidirectional": True, "pooling": pooling}
    encoder = seeded_encoder(EncoderConfig(**shape, static_residual=static), 0)
    ids = np.random.default_rng(len(lengths)).integers(0, 20, (len(lengths), max(lengths)))
    found, slot = on_host(encoder, max_batch_cells)
    vectors = found(ids, np.array(lengths))
    np.testing.assert_allclose(vectors, StepwiseEncoder(encoder)(ids, np.array(lengths)), atol=1e-6, rtol=0)
    assert sum(rows for rows, _ in slot.shapes) == len(lengths)
    if max_batch_cells is not None:
        assert all(rows * columns <= max_batch_cells or rows == 1 for rows, columns in slot.shapes)
        assert max(rows for rows, _ in slot.shapes) - min(rows for rows, _ in slot.shapes) <= 1


def test_as_many_batches_as_slots_run_in_parallel(encoder_config: Callable[..., EncoderConfig]) -> None:
    barrier = threading.Barrier(3, timeout=30)  # passes only if three run at once

    class MeetingSlot(HostStreamSlot):
        def run(self, compute: Callable[[Tensor], Tensor], input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
            barrier.wait()
            return super().run(compute, input_ids)

    found = StreamedEncoder(seeded_encoder(encoder_config(vocab_size=20), 0), [MeetingSlot() for _ in range(3)])
    (batch, *_) = batches(20)
    threads = [threading.Thread(target=found, args=batch) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not barrier.broken


def test_slot_is_freed_after_a_failure(encoder_config: Callable[..., EncoderConfig]) -> None:
    encoder = seeded_encoder(encoder_config(vocab_size=20), 0)
    found, _ = on_host(encoder)
    with pytest.raises(IndexError):
        found(np.full((2, 3), 20), np.full(2, 3))
    ids, lengths = batches(20)[0]
    np.testing.assert_allclose(found(ids, lengths), StepwiseEncoder(encoder)(ids, lengths), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("columns", "wide"), [(5, 8), (8, 8), (300, 304)])
@pytest.mark.parametrize("layers", [1, 2])
def test_zero_columns_do_not_change_vectors(columns: int, wide: int, layers: int) -> None:
    shape = {"vocab_size": 20, "embedding_dim": columns, "hidden_size": 6, "num_layers": layers}
    encoder = seeded_encoder(EncoderConfig(**shape, bidirectional=True, static_residual=True), 0)
    wider = pad_to_multiple_of_8(encoder)
    assert wider.embedding.weight.shape == (20, wide)
    assert (wider is encoder) == (columns == wide)
    for batch in batches(20):
        np.testing.assert_allclose(on_host(wider)[0](*batch), on_host(encoder)[0](*batch), atol=1e-6, rtol=0)


def test_bfloat16_is_close_to_float32(encoder_config: Callable[..., EncoderConfig]) -> None:
    encoder = seeded_encoder(encoder_config(vocab_size=20, bidirectional=True, static_residual=True), 0)
    lower = convert_encoder(pad_to_multiple_of_8(encoder), torch.device("cpu"), DTYPES["bf16"])
    for batch in batches(20):
        vectors = on_host(lower)[0](*batch)
        assert vectors.dtype == np.float32
        assert 0 < np.abs(vectors - StepwiseEncoder(encoder)(*batch)).max() < BELOW["bf16"]


@given(free=st.floats(0, 1e12), cell=st.floats(1, 1e6), slots=st.integers(1, 8), max_cells=st.integers(1, 1_000_000))
def test_batches_in_flight_fit_into_memory(free: float, cell: float, slots: int, max_cells: int) -> None:
    used, cells = slots_and_cells(free, cell, slots, max_cells)
    assert 1 <= used <= slots
    assert cells >= 1
    assert used * cells * cell <= max(free, used * cell)
    if used < slots:  # fewer slots only if another one would mean smaller batches
        assert (used + 1) * max_cells * cell > free
    if used > 1:
        assert cells >= max_cells


def test_bfloat16_is_refused_on_a_gpu_without_it() -> None:
    check_precision("bf16", "NVIDIA H200", (9, 0))
    check_precision("fp16", "Tesla T4", (7, 5))
    with pytest.raises(LengthwiseError, match=r"bf16, which Tesla T4 \(compute capability 7\.5\).*choose fp16 or fp32"):
        check_precision("bf16", "Tesla T4", (7, 5))


class FakeGpu:
    """Replaces torch.cuda by a GPU of `free` bytes, on which a cell takes `cell_bytes`."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, free: int = 10**12, cell_bytes: int = 50, cudnn: int = 91_300
    ) -> None:
        self.peak, self.slots = 0, list[HostStreamSlot]()
        self.kept = 10**8  # allocated once by libraries
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
    barrier = threading.Barrier(3 + 2, timeout=30)  # passes only if five run at once
    assert len(list(engine.run_all(lambda _: barrier.wait(), range(10)))) == 10
    for batch in batches(20):
        exact = engine.reference.encode_batch(*batch)
        np.testing.assert_allclose(exact, StepwiseEncoder(encoder)(*batch), atol=1e-6, rtol=0)
        assert 0 < np.abs(engine.encode_batch(*batch) - exact).max() < BELOW["bf16"]


@pytest.mark.parametrize(("cudnn", "warned"), [(91_300, False), (91_001, True)])
def test_bfloat16_without_cudnn_logs_a_warning(
    cudnn: int,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    encoder_config: Callable[..., EncoderConfig],
) -> None:
    FakeGpu(monkeypatch, cudnn=cudnn)
    encoder = seeded_encoder(encoder_config(vocab_size=20), 0)
    for precision in ("fp32", "fp16"):
        with contextlib.suppress(RuntimeError):  # the LSTM on a CPU has no half precision
            make_cuda_encoder(encoder, torch.device("cpu"), precision, 1, 100)
        assert not caplog.text
    make_cuda_encoder(encoder, torch.device("cpu"), "bf16", 1, 100)
    assert ("precision fp16 is faster here" in caplog.text) == warned


@pytest.mark.parametrize(("dtype", "cudnn", "calls"), [("bf16", 91_300, 1), ("bf16", 91_001, 0), ("fp32", 91_300, 0)])
def test_bfloat16_weights_are_flattened(dtype: str, cudnn: int, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = torch.backends.cudnn.CUDNN_TENSOR_DTYPES
    before = set(listed)
    lstm = torch.nn.LSTM(3, 4).to(DTYPES[dtype])
    seen = []
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
    monkeypatch.setattr(lstm, "flatten_parameters", lambda: seen.append(torch.bfloat16 in listed))
    flatten_weights(lstm)
    assert seen == [True] * calls
    assert listed == before


def test_later_changes_to_the_encoder_have_no_effect(
    make_encoder: Callable[[PackedEncoder], StreamedEncoder], encoder_config: Callable[..., EncoderConfig]
) -> None:
    encoder = seeded_encoder(encoder_config(vocab_size=20), 0)
    found = make_encoder(encoder)
    before = [found(*batch) for batch in batches(20)]
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.zero_()
    for batch, vectors in zip(batches(20), before, strict=True):
        # not bitwise: cuDNN does not promise that with several streams
        np.testing.assert_allclose(found(*batch), vectors, atol=TOLERANCE, rtol=0)


def current_settings() -> tuple[str, ...]:
    return tuple(backend.fp32_precision for backend in tf32_backends())


def test_arithmetic_sets_and_restores_tf32() -> None:
    before, enabled = current_settings(), torch.backends.cudnn.enabled
    with arithmetic(torch.float32):
        with arithmetic(torch.float16):
            assert current_settings() == ("ieee", "ieee")
            assert torch.backends.cudnn.enabled == enabled
        assert current_settings() == ("ieee", "ieee")
    assert current_settings() == before
    with pytest.raises(ZeroDivisionError), arithmetic(torch.float32):
        raise ZeroDivisionError
    assert current_settings() == before


def test_arithmetic_waits_for_other_settings() -> None:
    before, seen = current_settings(), list[tuple[str, ...]]()

    def in_bfloat16() -> None:
        with arithmetic(torch.bfloat16):
            seen.append(current_settings())

    thread = threading.Thread(target=in_bfloat16)
    with arithmetic(torch.float32):
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert current_settings() == ("ieee", "ieee")
    thread.join(30)
    assert seen == [("tf32", "ieee")]
    assert current_settings() == before


@pytest.mark.parametrize(("precision", "settings"), [("fp32", ("ieee", "ieee")), ("bf16", ("tf32", "ieee"))])
def test_kernels_run_under_the_settings_of_their_dtype(
    precision: str, settings: tuple[str, str], encoder_config: Callable[..., EncoderConfig]
) -> None:
    """In bfloat16 with PyTorch's TF32 setting, without which it keeps cuDNN from tensor cores."""
    before, seen = current_settings(), list[tuple[str, ...]]()
    encoder = convert_encoder(seeded_encoder(encoder_config(vocab_size=20), 0), torch.device("cpu"), DTYPES[precision])
    encoder.lstm.register_forward_pre_hook(lambda *_: seen.append(current_settings()))
    found, slot = on_host(encoder)
    for batch in batches(20):
        found(*batch)
    assert seen == [settings] * len(slot.shapes)
    assert current_settings() == before


# The tests below need a GPU.


@contextmanager
def raise_on_synchronization() -> Iterator[None]:
    """Make PyTorch raise where an operation waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def large_encoder(**changes: Any) -> PackedEncoder:
    """An encoder large enough that cuDNN uses tensor cores and TF32 where allowed."""
    shape = {"vocab_size": 1_000, "embedding_dim": 300, "hidden_size": 256, "bidirectional": True, "pooling": "mean"}
    return seeded_encoder(EncoderConfig(**{**shape, **changes}), 0)


def min_cosine(found: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(right, axis=1)
    return float(((found * right).sum(axis=1) / norms).min())


@on_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_vectors_on_a_gpu_equal_the_cpus(precision: Any, pooling: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    encoder = large_encoder(pooling=pooling, num_layers=2, static_residual=pooling == "mean_last")
    engine, on_cpu = TorchEngine(encoder, "cuda", precision), TorchEngine(encoder)
    many_batches = batches(1_000, longest=40) * 8
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = list(engine.run_all(lambda batch: engine.encode_batch(*batch), many_batches))
    assert not [warning for warning in caught if "contiguous chunk" in str(warning.message)]  # weights are flattened
    for batch, vectors in zip(many_batches, found, strict=True):
        right = on_cpu.encode_batch(*batch)
        if precision == "fp32":
            scale = np.maximum(1, np.abs(right).max(axis=1, keepdims=True))
            assert (np.abs(vectors - right) / scale).max() <= TOLERANCE
        else:
            assert min_cosine(vectors, right) >= 0.999
            if pooling != "sum":
                assert np.abs(vectors - right).max() <= BELOW[precision]
    assert not caplog.records


@on_gpu
def test_row_alone_on_a_gpu_equals_row_in_a_batch() -> None:
    encoder = make_cuda_encoder(large_encoder(num_layers=2), torch.device("cuda", 0), "fp32", 3, 4_096)
    for ids, lengths in batches(1_000, longest=40):
        together = encoder(ids, lengths)
        for row, length in enumerate(lengths):
            alone = encoder(ids[row : row + 1, :length], np.array([length]))
            np.testing.assert_allclose(alone[0], together[row], atol=TOLERANCE, rtol=0)


@on_gpu
@pytest.mark.parametrize("pooling", ["last", "mean", "mean_last"])
def test_batch_synchronizes_only_at_its_end(pooling: str) -> None:
    shape = {"pooling": pooling, "static_residual": pooling == "mean_last"}
    encoder = make_cuda_encoder(large_encoder(**shape), torch.device("cuda", 0), "fp16", 1, 4_096)
    many_batches = batches(1_000, longest=40)
    before = [encoder(*batch) for batch in many_batches]  # cuDNN and cuBLAS start
    with raise_on_synchronization():
        again = [encoder(*batch) for batch in many_batches]
    for first, second in zip(before, again, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-3, rtol=0)


@on_gpu
def test_vectors_without_cudnn_are_the_same() -> None:
    encoder = large_encoder(num_layers=2)
    with torch.backends.cudnn.flags(enabled=False):
        found = make_cuda_encoder(encoder, torch.device("cuda", 0), "fp32", 1, 4_096)
        vectors = [found(*batch) for batch in batches(1_000, longest=40)]
    for batch, each in zip(batches(1_000, longest=40), vectors, strict=True):
        np.testing.assert_allclose(each, StepwiseEncoder(encoder)(*batch), atol=TOLERANCE, rtol=0)


@on_gpu
def test_tf32_stays_off_where_the_program_allows_it() -> None:
    encoder = large_encoder(hidden_size=512)
    exact = make_cuda_encoder(encoder, torch.device("cuda", 0), "fp32", 1, 4_096)
    ids, lengths = np.random.default_rng(0).integers(0, 1_000, (512, 40)), np.full(512, 40)
    with tf32_allowed():
        vectors = exact(ids, lengths)
        assert torch.backends.cudnn.rnn.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "tf32"
    np.testing.assert_allclose(vectors, StepwiseEncoder(encoder)(ids, lengths), atol=TOLERANCE, rtol=0)


@on_gpu
def test_very_long_text_is_read_to_its_end() -> None:
    encoder = large_encoder(embedding_dim=16, hidden_size=16, pooling="last")
    found = make_cuda_encoder(encoder, torch.device("cuda", 0), "fp32", 1, 4_096)
    for lengths in (np.array([100_000]), np.array([30_000, 1, 7])):
        ids = np.random.default_rng(0).integers(0, 1_000, (len(lengths), int(lengths.max())))
        np.testing.assert_allclose(found(ids, lengths), StepwiseEncoder(encoder)(ids, lengths), atol=TOLERANCE, rtol=0)


@on_gpu
def test_batch_larger_than_memory_is_split_before_it_runs(caplog: pytest.LogCaptureFixture) -> None:
    encoder = large_encoder()
    found = make_cuda_encoder(encoder, torch.device("cuda", 0), "fp32", 2, 4_096)
    assert found.max_batch_cells is not None
    small = StreamedEncoder(found._encoder, [CudaStreamSlot(torch.device("cuda", 0))], max_batch_cells=2_000)
    ids, lengths = np.random.default_rng(0).integers(0, 1_000, (300, 40)), np.full(300, 40)
    np.testing.assert_allclose(small(ids, lengths), found(ids, lengths), atol=TOLERANCE, rtol=0)
    assert not caplog.records
