"""Without packing, the same states: for every row up to its length, and the same last states."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lengthwise.export.graphs.portable_lstm import PortableRnn, RunLayer, dense, scanned


@pytest.mark.parametrize("run", [dense, scanned])
@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    extra=st.integers(0, 3),
    layers=st.integers(1, 2),
    bidirectional=st.booleans(),
)
def test_portable_lstm_equals_packed_lstm(
    run: RunLayer, lengths: list[int], extra: int, layers: int, bidirectional: bool
) -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 4, layers, bidirectional=bidirectional)
    x, counts = torch.randn(max(lengths) + extra, len(lengths), 3), torch.tensor(lengths)
    with torch.inference_mode():
        packed, (hidden, _) = lstm(pack_padded_sequence(x, counts, enforce_sorted=False))
        right, _ = pad_packed_sequence(packed, total_length=len(x))
        states, last = PortableRnn(lstm, run)(x, counts)
    directions = 2 if bidirectional else 1
    torch.testing.assert_close(last, hidden[-directions:].transpose(0, 1).flatten(1), atol=1e-6, rtol=0)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(states[:length, row], right[:length, row], atol=1e-6, rtol=0)


def test_padding_has_no_effect() -> None:
    lstm = nn.LSTM(3, 4, 2, bidirectional=True)
    x, lengths = torch.randn(6, 2, 3), torch.tensor([6, 2])
    spoilt = x.clone()
    spoilt[2:, 1] = torch.nan
    with torch.inference_mode():
        right, last = PortableRnn(lstm, dense)(x, lengths)
        states, last_again = PortableRnn(lstm, dense)(spoilt, lengths)
    torch.testing.assert_close(states[:2, 1], right[:2, 1])
    torch.testing.assert_close(last_again, last)
