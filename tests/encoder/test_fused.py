"""The fused kernel against float64: gates at their extremes, integer products, and every set of instructions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lengthwise.config import EncoderConfig
from lengthwise.encoder import kernel
from lengthwise.encoder.kernel import cpu_features, has_kernel
from lengthwise.encoder.layers import LstmLayers
from lengthwise.encoder.model import PackedEncoder, seeded_encoder

if not has_kernel():
    pytest.skip("this CPU has no AVX2, or llvmlite is not installed", allow_module_level=True)

from lengthwise.encoder.fused import FusedDirection, FusedLinear, FusedMean

INT8 = partial(FusedDirection, precision="int8")
AVX2 = frozenset({"avx2", "fma"})
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
INSTRUCTIONS = {  # those of these that this CPU has
    name: features
    for name, features, needed in [
        ("AVX2", AVX2, AVX2),
        ("AVX-VNNI", AVX2 | {"avxvnni"}, AVX2 | {"avxvnni"}),
        ("AVX-VNNI as AVX-512", AVX2 | {"avxvnni"}, AVX512 | {"avx512vnni"}),
        ("AVX-512", AVX512, AVX512),
        ("AVX-512 VNNI", AVX512 | {"avx512vnni"}, AVX512 | {"avx512vnni"}),
    ]
    if needed <= cpu_features()
}


def encoder_of_gates(gates: NDArray[np.float64], pooling: str) -> PackedEncoder:
    """An encoder whose token k has these gates i, f, g, o, [tokens, 4, hidden], and no recurrent weights."""
    tokens, _, hidden = gates.shape
    config = EncoderConfig(vocab_size=tokens, embedding_dim=4 * hidden, hidden_size=hidden, pooling=pooling)
    encoder = PackedEncoder(config)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.zero_()
        encoder.embedding.weight.copy_(torch.from_numpy(gates.reshape(tokens, -1)))
        encoder.lstm.weight_ih_l0.copy_(torch.eye(4 * hidden))
    return encoder


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def states_of(gates: NDArray[np.float64]) -> NDArray[np.float64]:
    """The last states, [hidden], of a sequence of gates, [time, 4, hidden], in float64."""
    cell = np.zeros(gates.shape[-1])
    for i, f, g, _ in gates:
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    return sigmoid(gates[-1, 3]) * np.tanh(cell)


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_gates_are_within_a_few_units_in_the_last_place(instructions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to the state, however small it is, for gates from closed to open and candidates near zero."""
    monkeypatch.setattr(kernel, "cpu_features", lambda: INSTRUCTIONS[instructions])
    values = np.array([0.1, -0.7, 1.0, -3.0, 7.9, -8.0, 15.0, -20.0, 60.0, -60.0, 1e4, -1e4], np.float32)
    small = np.array([0.0, 1e-20, -1e-12, 1e-6, -1e-3], np.float32)
    random = np.random.default_rng(0)
    gates = random.choice(values, (2, 4, 300)).astype(np.float64)  # two tokens; forget gates act on the second
    gates[:, 2, :150] = random.choice(small, (2, 150))
    layers = LstmLayers(encoder_of_gates(gates, "last"), FusedDirection)
    found = layers.pool(np.array([[0, 1], [0, 0]]), np.array([2, 1]))
    for row, sequence in enumerate([gates, gates[:1]]):
        expected = states_of(sequence)
        assert np.abs(found[row] - expected).max() <= 3e-7
        argument = np.abs(sequence).max(axis=(0, 1))  # a gate of 60 is rounded to 4e-6
        error = np.abs(found[row] - expected)[argument <= 60] / np.maximum(np.abs(expected), 1e-35)[argument <= 60]
        assert (error <= 1e-6 + 2e-7 * argument[argument <= 60]).all()


def test_long_memory_is_as_exact_as_pytorch() -> None:
    """Open forget gates and closed input gates keep a cell over thousands of steps."""
    gates = np.array([[[3.0], [20.0], [0.4], [1.0]], [[-20.0], [20.0], [1.0], [1.0]], [[-30.0], [9.0], [-2.0], [9.0]]])
    ids, lengths = np.array([[0, *[1] * 2_999], [0, *[2] * 2_999]]), np.array([3_000, 3_000])
    encoder = encoder_of_gates(gates, "last")
    found = LstmLayers(encoder, FusedDirection).pool(ids, lengths)
    with torch.inference_mode():
        in_pytorch = encoder(torch.from_numpy(ids), torch.from_numpy(lengths)).numpy()
    expected = np.stack([states_of(gates[row]) for row in ids])
    assert np.abs(found - expected).max() <= max(1e-6, 3 * np.abs(in_pytorch - expected).max())


@pytest.mark.parametrize("make", [FusedDirection, INT8])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_reaches_the_vector_and_infinity_saturates(make: Callable[..., FusedDirection], value: float) -> None:
    gates = np.full((2, 4, 3), 0.5)
    gates[1, 2, 1] = value
    encoder = encoder_of_gates(gates, "mean")
    table = LstmLayers(encoder, make)
    table._tables = [np.nan_to_num(table._tables[0], nan=0.5, posinf=0.5, neginf=0.5)]  # 0 * inf is NaN in the product
    lanes = table._tables[0].shape[1] // 4
    table._tables[0][1, 3 * lanes + 1] = value
    found = table.pool(np.array([[1, 0, 0], [0, 0, 0], [1, 0, 0]]), np.array([3, 2, 1]))
    assert np.isnan(found[[0, 2], 1]).all() == np.isnan(value)
    assert np.isfinite(found[1]).all()
    if np.isinf(value):
        assert np.isfinite(found).all()
        assert np.sign(found[2, 1]) == np.sign(value)


def quantized_reference(encoder: PackedEncoder, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """The last state of one row, from integers and float64."""
    lstm, hidden = encoder.lstm, encoder.config.hidden_size
    weights = lstm.weight_hh_l0.detach().numpy().astype(np.float64)
    scales = np.abs(weights).max(axis=1) / 127
    integers = np.rint(weights / scales[:, None]).astype(np.int64)
    inputs = (lstm.bias_ih_l0 + lstm.bias_hh_l0 + encoder.embedding.weight @ lstm.weight_ih_l0.T).detach().double()
    state, cell = np.zeros(hidden), np.zeros(hidden)
    for token in ids:
        sums = integers @ np.rint(state * 127).astype(np.int64)
        i, f, g, o = np.split(inputs[token].numpy() + sums * scales / 127, 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        state = sigmoid(o) * np.tanh(cell)
    return state


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("hidden", [4, 100, 512])
@pytest.mark.parametrize("sign", [1, -1])
def test_integer_products_are_exact_at_the_extremes(
    instructions: str, hidden: int, sign: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are all 127 and states all 127: two products exceed 16 bits, and the sum of all is a gate of 1."""
    monkeypatch.setattr(kernel, "cpu_features", lambda: INSTRUCTIONS[instructions])
    encoder = encoder_of_gates(np.full((1, 4, hidden), 30.0), "last")  # states of 1 from the first step on
    with torch.no_grad():
        encoder.embedding.weight[0, 2 * hidden : 3 * hidden] = sign * 30.0
        encoder.embedding.weight[0, 3 * hidden :] = 0.25
        encoder.lstm.weight_hh_l0.fill_(1 / hidden)
        encoder.lstm.weight_hh_l0[:, ::2] *= -1 if sign < 0 else 1
    ids = np.zeros((1, 4), np.int64)
    found = LstmLayers(encoder, INT8).pool(ids, np.array([4]))[0]
    np.testing.assert_allclose(found, quantized_reference(encoder, ids[0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("make", [FusedDirection, INT8])
@pytest.mark.parametrize("layers", [1, 2])
def test_instructions_give_the_same_bits(
    make: Callable[..., FusedDirection], layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = {"vocab_size": 40, "embedding_dim": 6, "hidden_size": 37, "num_layers": layers, "bidirectional": True}
    encoder = seeded_encoder(EncoderConfig(**shape, pooling="mean"), 0)
    lengths = np.array([17, 17, 9, 8, 8, 8, 8, 3, 1])
    ids = np.random.default_rng(0).integers(0, 40, (9, 17))
    found = []
    for features in INSTRUCTIONS.values():
        monkeypatch.setattr(kernel, "cpu_features", lambda features=features: features)
        found.append(LstmLayers(encoder, make).pool(ids, lengths))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_products_and_means_do_not_depend_on_other_rows(instructions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "cpu_features", lambda: INSTRUCTIONS[instructions])
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(70, 33)), random.normal(size=70)
    rows = random.normal(size=(40, 33)).astype(np.float32)
    linear, mean = FusedLinear(weight, bias), FusedMean(rows)
    np.testing.assert_allclose(linear(rows), rows @ weight.T + bias, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(linear(rows), np.concatenate([linear(rows[k : k + 1]) for k in range(40)]))
    ids, lengths = random.integers(0, 40, (7, 9)), np.array([9, 9, 5, 4, 3, 2, 1])
    expected = np.stack([rows[ids[k, :length]].mean(axis=0) for k, length in enumerate(lengths)])
    np.testing.assert_allclose(mean(ids, lengths), expected, atol=1e-6, rtol=0)
