"""The packed LSTM operator: its eager body against nn.LSTM, and PyTorch's own checks of an operator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lengthwise.export.graphs.packed_lstm import OnnxOrderedRnn, packed_gru, packed_lstm


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_operator_equals_packed_layers(kind: Any, layers: int, bidirectional: bool) -> None:
    torch.manual_seed(0)
    lstm = kind(5, 4, layers, bidirectional=bidirectional)
    x, lengths = torch.randn(9, 6, 5), torch.tensor([3, 9, 1, 5, 5, 2])
    packed, final = lstm(pack_padded_sequence(x, lengths, enforce_sorted=False))
    hidden = final[0] if kind is nn.LSTM else final
    states, _ = pad_packed_sequence(packed, total_length=9)
    last = hidden[-(1 + bidirectional) :].transpose(0, 1).flatten(1)
    found_states, found_last = OnnxOrderedRnn(lstm)(x, lengths.int())
    torch.testing.assert_close(found_states, states, atol=1e-6, rtol=0)
    torch.testing.assert_close(found_last, last, atol=1e-6, rtol=0)


def test_weights_are_in_onnx_order() -> None:
    lstm = nn.LSTM(1, 1)
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))  # i, f, g, o
        lstm.bias_hh_l0.copy_(torch.tensor([5.0, 6.0, 7.0, 8.0]))
    layer = OnnxOrderedRnn(lstm).layers[0]
    assert layer.W.flatten().tolist() == [1, 4, 2, 3]  # i, o, f, c
    assert layer.B[0, 4:].tolist() == [5, 8, 6, 7]


@pytest.mark.parametrize(("operator", "gates"), [(packed_lstm, 4), (packed_gru, 3)])
@pytest.mark.parametrize("directions", [1, 2])
def test_fake_shapes_and_schema_of_the_operator(operator: Any, gates: int, directions: int) -> None:
    shapes = ((4 * gates, 5), (4 * gates, 4), (8 * gates,))
    weights = tuple(torch.randn(directions, *shape) for shape in shapes)
    inputs = (torch.randn(7, 3, 5), torch.tensor([7, 1, 4], dtype=torch.int32), *weights)
    checks = ("test_schema", "test_faketensor")
    assert set(torch.library.opcheck(operator, inputs, test_utils=checks).values()) == {"SUCCESS"}
