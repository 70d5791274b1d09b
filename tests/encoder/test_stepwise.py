"""The step-wise encoder equals the packed one, for any lengths, shapes and poolings."""

from __future__ import annotations

import copy
import itertools
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from helpers.definition import POOLINGS
from helpers.marks import heavy_but
from helpers.paths import ROOT
from lengthwise.config import EncoderConfig
from lengthwise.encoder import layers as lstm_layers
from lengthwise.encoder import step_directions, stepwise
from lengthwise.encoder.kernel import has_kernel
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.encoder.stepwise import StepwiseEncoder

VOCABULARY = 30
SHAPES = list(itertools.product((1, 2, 3), (False, True), POOLINGS))
OUTSIDE = 1_000_000  # an id that no vocabulary here has, so that reading it is an error


@pytest.fixture(autouse=True, params=["PyTorch", "oneDNN", "fused"])
def _kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs with PyTorch's kernels, with oneDNN's products, and with the fused kernel where that runs."""
    if request.param == "fused" and not has_kernel():
        pytest.skip("this CPU has no AVX2, or llvmlite is not installed")
    monkeypatch.setattr(stepwise, "has_kernel", lambda: request.param == "fused")
    monkeypatch.setattr(stepwise, "is_onednn_faster", lambda *_: request.param == "oneDNN")


WITHOUT_KERNEL = pytest.mark.parametrize("_kernel", ["PyTorch"], indirect=True)


def make_encoder(**shape: Any) -> PackedEncoder:
    small = {"vocab_size": VOCABULARY, "embedding_dim": 5, "hidden_size": 4}
    return seeded_encoder(EncoderConfig(**{**small, **shape}), 3)


def batch_of(lengths: list[int], columns: int = 0, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    ids = np.random.default_rng(seed).integers(0, VOCABULARY, (len(lengths), max(lengths) + columns))
    ids[np.arange(ids.shape[1]) >= np.array(lengths)[:, None]] = OUTSIDE
    return ids, np.array(lengths, np.int64)


def packed(encoder: PackedEncoder, ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return encoder(torch.from_numpy(ids), torch.from_numpy(lengths)).numpy()


def difference(encoder: PackedEncoder, ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> float:
    """The largest difference: absolute up to 1, above relative to a row's largest value."""
    right = packed(encoder, ids, lengths)
    found = StepwiseEncoder(encoder)(ids, lengths)
    assert (found.dtype, found.shape) == (np.float32, right.shape)
    scale = np.maximum(1, np.abs(right).max(axis=1, keepdims=True))
    return float((np.abs(found - right) / scale).max())


@pytest.mark.parametrize(("layers", "bidirectional", "pooling"), SHAPES)
@pytest.mark.parametrize(
    ("projection", "normalize", "static"),
    [
        (None, False, False),
        (3, False, False),
        (None, True, False),
        (3, True, False),
        (None, False, True),
        (3, False, True),
        (3, True, True),
    ],
)
def test_every_shape_equals_the_packed_encoder(
    layers: int, bidirectional: bool, pooling: str, projection: int | None, normalize: bool, static: bool
) -> None:
    encoder = make_encoder(
        num_layers=layers,
        bidirectional=bidirectional,
        pooling=pooling,
        projection_dim=projection,
        normalize=normalize,
        static_residual=static,
    )
    assert difference(encoder, *batch_of([4, 1, 9, 9, 2, 1, 6], columns=3)) <= 1e-6


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=20),
    columns=st.integers(0, 5),
    shape=st.sampled_from(SHAPES),
    normalize=st.booleans(),
    static=st.booleans(),
    seed=st.integers(0, 9),
)
def test_any_lengths_equal_the_packed_encoder(
    lengths: list[int], columns: int, shape: tuple[int, bool, str], normalize: bool, static: bool, seed: int
) -> None:
    layers, bidirectional, pooling = shape
    head = {"pooling": pooling, "normalize": normalize, "static_residual": static}
    encoder = make_encoder(num_layers=layers, bidirectional=bidirectional, **head)
    assert difference(encoder, *batch_of(lengths, columns, seed)) <= 1e-6


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    seed=st.integers(0, 9),
    head=st.sampled_from([{}, {"pooling": "mean_last", "static_residual": True}]),
)
def test_row_alone_equals_row_in_its_batch(lengths: list[int], seed: int, head: dict[str, Any]) -> None:
    encode = StepwiseEncoder(make_encoder(bidirectional=True, **head))
    ids, batch_lengths = batch_of(lengths, 2, seed)
    together = encode(ids, batch_lengths)
    for row in range(len(lengths)):
        alone = encode(ids[row : row + 1, : lengths[row]], batch_lengths[row : row + 1])
        np.testing.assert_allclose(together[row : row + 1], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, True)])
def test_table_per_batch_gives_the_same_vectors(
    layers: int, bidirectional: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make_encoder(num_layers=layers, bidirectional=bidirectional, static_residual=bidirectional)
    batch = batch_of([7, 3, 12, 1])
    whole = StepwiseEncoder(encoder)
    monkeypatch.setattr(stepwise, "TABLE_BYTES", 0)
    monkeypatch.setattr(lstm_layers, "TABLE_BYTES", 0)
    by_batch = StepwiseEncoder(encoder)
    assert (whole.fused_layers or whole)._tables is not None
    assert (by_batch.fused_layers or by_batch)._tables is None
    np.testing.assert_allclose(by_batch(*batch), whole(*batch), atol=1e-7, rtol=0)


@WITHOUT_KERNEL
def test_padding_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    original = stepwise._fill_from_table

    def counted(table: Any, ids: Any, start: int, stop: int, gates: Any) -> None:
        rows.append(stop - start)
        original(table, ids, start, stop, gates)

    monkeypatch.setattr(stepwise, "_fill_from_table", counted)
    StepwiseEncoder(make_encoder())(*batch_of([2, 5, 3, 5], columns=4))
    assert rows == [4, 4, 3, 2, 2]


@pytest.mark.parametrize("size", [1e-4, 1e-2])
@pytest.mark.parametrize("changes", [{}, {"projection_dim": 4}, {"pooling": "mean_last", "static_residual": True}])
def test_short_vectors_are_normalised_within_tolerance(size: float, changes: dict[str, Any]) -> None:
    """States near zero, where 2 sigmoid(2x) - 1 has no relative precision left."""
    encoder = make_encoder(hidden_size=16, normalize=True, **changes)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.mul_(size)
    batch = batch_of([5, 1, 8, 3])
    assert np.abs(packed(encoder, *batch)).max() > 0.1
    assert difference(encoder, *batch) <= 1e-6


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_short_vectors_are_closer_to_float64_than_float32_is(pooling: str, layers: int) -> None:
    shape = {"hidden_size": 32, "embedding_dim": 16, "num_layers": layers, "bidirectional": True}
    encoder = make_encoder(**shape, pooling=pooling, normalize=True)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.mul_(0.01)
    batch = batch_of([700, 90, 90, 7, 1])
    found = StepwiseEncoder(encoder)(*batch)
    in_float32 = packed(encoder, *batch)
    exact = packed(encoder.double(), *batch)
    assert np.abs(found - exact).max() <= min(1e-7, np.abs(in_float32 - exact).max())


@pytest.mark.parametrize(
    "changes", [{}, {"normalize": True}, {"projection_dim": 4}, {"static_residual": True, "normalize": True}]
)
@pytest.mark.parametrize("size", heavy_but((0.3, 0.01), (0.3, 0.1, 0.03, 0.01)))
def test_small_states_sum_within_tolerance(size: float, changes: dict[str, Any]) -> None:
    """The error of each step is added up, and so is not small beside the sum."""
    encoder = make_encoder(hidden_size=64, embedding_dim=32, bidirectional=True, pooling="sum", **changes)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.mul_(size)
    ids, lengths = batch_of([1_000, 300, 60, 9, 2])
    assert difference(encoder, ids, lengths) <= 1e-6
    assert difference(encoder, np.full_like(ids, 7), lengths) <= 1e-6


@pytest.mark.parametrize("reverse", [False, True])
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30))
def test_steps_are_in_reading_order(reverse: bool, rows: list[int]) -> None:
    steps = np.array(sorted(rows, reverse=True), np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_directions, "_STEPS_PER_SLICE", 4)
        found = list(step_directions.starts_and_rows(steps, reverse))
    expected = list(zip([0, *itertools.accumulate(steps.tolist())], steps.tolist(), strict=False))
    assert found == (expected[::-1] if reverse else expected)


@pytest.mark.slow
@WITHOUT_KERNEL  # its process has the kernel where that runs
@pytest.mark.parametrize("size", heavy_but((0.01,), (1.0, 0.01)))
def test_memory_of_a_long_text_is_that_of_its_ids(size: float) -> None:
    """Also for short vectors, which are computed twice: the states alone would be 20 MB."""
    program = f"""
        import resource
        import numpy as np, torch
        from lengthwise.config import EncoderConfig
        from lengthwise.encoder.model import seeded_encoder
        from lengthwise.encoder.stepwise import StepwiseEncoder

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

        torch.set_num_threads(1)
        shape = dict(vocab_size=50, embedding_dim=8, hidden_size=128, bidirectional=True, normalize=True)
        encoder = seeded_encoder(EncoderConfig(**shape, pooling="mean", static_residual=True), 0)
        with torch.no_grad():
            for weight in encoder.parameters():
                weight.mul_({size})
        encode = StepwiseEncoder(encoder)
        ids = np.random.default_rng(0).integers(0, 50, (1, 20_000))
        encode(ids[:, :50], np.array([50]))
        before = peak()
        encode(ids, np.array([20_000]))
        print(peak() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 15e6


@pytest.mark.parametrize("hidden", [16, 128])
def test_long_texts_equal_the_packed_encoder(hidden: int) -> None:
    for pooling in POOLINGS:
        encoder = make_encoder(hidden_size=hidden, embedding_dim=32, bidirectional=True, pooling=pooling)
        assert difference(encoder, *batch_of([1500, 700, 300, 129, 128, 40, 1])) <= 1e-6, pooling


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_repeated_token_sums_within_tolerance(pooling: str, static: bool) -> None:
    """Each step adds the same state, and a float32 sum would round it the same way each time."""
    shape = {"hidden_size": 64, "embedding_dim": 32, "bidirectional": True, "pooling": pooling}
    encoder = make_encoder(**shape, static_residual=static)
    lengths = np.array([3000, 1000, 300, 100, 20])
    ids = np.repeat(np.arange(5)[:, None], 3000, axis=1)
    assert difference(encoder, ids, lengths) <= 1e-6


def test_slow_forget_gates_stay_within_tolerance() -> None:
    encoder = make_encoder(hidden_size=32, embedding_dim=16, bidirectional=True)
    with torch.no_grad():
        for name, weight in encoder.lstm.named_parameters():
            if name.startswith("bias_ih"):
                weight[32:64] += 2  # the forget gate: about 0.9
    assert difference(encoder, *batch_of([600, 200, 50, 7])) <= 1e-6


def test_projection_that_removes_the_common_part_stays_within_tolerance() -> None:
    encoder = make_encoder(hidden_size=32, projection_dim=8, normalize=True)
    batch = batch_of([9, 7, 5, 3])
    with torch.no_grad():
        pooled = StepwiseEncoder(encoder)._pool(*batch)
        encoder.projection.weight.mul_(0.02)
        encoder.projection.bias.copy_(-(pooled @ encoder.projection.weight.T).mean(dim=0))
        assert encoder.projection(pooled).norm(dim=1).max() < 0.01
    assert difference(encoder, *batch) <= 1e-6


@pytest.mark.parametrize("pooling", ["mean", "sum", "mean_last"])
@pytest.mark.parametrize("normalize", [False, True])
def test_projection_and_static_residual_that_cancel_are_computed_in_float64(pooling: str, normalize: bool) -> None:
    """Where they cancel to a thousandth, float32 has a relative error of 1e-4 left, the packed encoder's own."""
    head = {"pooling": pooling, "projection_dim": 8, "normalize": normalize, "static_residual": True}
    encoder = make_encoder(hidden_size=32, bidirectional=True, **head)
    ids, lengths = np.full((2, 9), 3), np.array([9, 2])
    with torch.no_grad():
        encoder.projection.weight.mul_(1_000)
        exact = copy.deepcopy(encoder).double()
        pooled = exact.pool(exact.token_states(torch.from_numpy(ids), torch.from_numpy(lengths)), torch.tensor(lengths))
        rest = torch.linspace(-1, 1, 8) if normalize else torch.full((8,), 0.1)
        row = exact.embedding.weight[3]
        needed = rest - exact.projection(pooled)[0]
        encoder.static_projection.weight.copy_(needed[:, None] * row / row.square().sum())
    right = packed(copy.deepcopy(encoder).double(), ids, lengths)
    found = StepwiseEncoder(encoder)(ids, lengths)
    scale = max(1, np.abs(right[0]).max())
    assert np.abs(packed(encoder, ids, lengths)[0] - right[0]).max() / scale > 1e-6
    assert np.abs(found[0] - right[0]).max() / scale <= 1e-6


def test_default_dtype_of_torch_has_no_effect() -> None:
    encoder, batch = make_encoder(bidirectional=True, pooling="max", static_residual=True), batch_of([5, 3])
    right = StepwiseEncoder(encoder)(*batch)
    torch.set_default_dtype(torch.float64)
    try:
        np.testing.assert_array_equal(StepwiseEncoder(encoder)(*batch), right)
    finally:
        torch.set_default_dtype(torch.float32)


def test_vectors_are_bitwise_reproducible() -> None:
    encoder = make_encoder(hidden_size=64, embedding_dim=48, bidirectional=True)
    batch = batch_of(np.random.default_rng(0).integers(1, 40, 100).tolist())
    first = StepwiseEncoder(encoder)(*batch)
    for _ in range(3):
        np.testing.assert_array_equal(StepwiseEncoder(encoder)(*batch), first)
