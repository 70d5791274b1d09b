"""Distances of float32 from float64: measured per row, and allowed by length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import seeded_encoder
from lengthwise.export.artifact.oracle import OracleEncoder
from lengthwise.export.artifact.rounding import FACTOR, Rounding, RowRounding

IDS = np.random.default_rng(0).integers(0, 10, (4, 9))
LENGTHS = np.array([9, 1, 0, 4])


def of_rows(*values: float) -> RowRounding:
    found = np.array(values)
    return RowRounding(found, 2 * found, 3 * found)


def test_longer_texts_get_at_least_what_shorter_ones_do() -> None:
    rounding = Rounding.collect([(np.array([4, 1]), of_rows(3e-7, 1e-7)), (np.array([4, 9]), of_rows(2e-7, 1e-7))])
    assert rounding.tokens.tolist() == [0, 1, 4, 9]
    np.testing.assert_allclose(rounding.vectors, [0, 1e-7, 3e-7, 3e-7])
    allowed = rounding.allowed(np.array([0, 1, 3, 4, 8, 100]))
    np.testing.assert_allclose(allowed.vectors, FACTOR * np.array([0, 1e-7, 1e-7, 3e-7, 3e-7, 3e-7]))
    np.testing.assert_allclose(allowed.states, 2 * allowed.vectors)
    np.testing.assert_allclose(allowed.take(np.array([1])).logits, [FACTOR * 3e-7])


def test_a_record_has_the_last_length_of_each_distance() -> None:
    rows = [(np.array([1, 2, 3, 5]), of_rows(1e-7, 1e-7, 4e-7, 2e-7))]
    record = Rounding.collect(rows).record()
    assert record["tokens"] == [0, 2, 5]
    assert record["vectors"] == pytest.approx([0, 1e-7, 4e-7])
    shown = Rounding.collect(rows).by_length((1, 4, 8))
    np.testing.assert_allclose(shown, [(1, 1e-7, 2e-7), (4, 4e-7, 8e-7), (5, 4e-7, 8e-7)])
    assert not Rounding.collect([]).amplifies
    assert Rounding.collect(rows).amplifies
    assert not Rounding.collect([(np.array([1]), of_rows(0.3 * 1e-6 / FACTOR))]).amplifies


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 1)), min_size=1), st.integers(0, 40))
def test_what_is_allowed_is_the_largest_of_no_longer_rows(rows: list[tuple[int, float]], length: int) -> None:
    lengths, values = np.array([each for each, _ in rows]), np.array([value for _, value in rows])
    found = Rounding.collect([(lengths, RowRounding(values, values, values))]).allowed(np.array([length]))
    assert found.vectors[0] == FACTOR * max((value for each, value in rows if each <= length), default=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"pooling": "mean_last", "bidirectional": True},
        {"pooling": "sum", "cell": "gru", "classifier": {"labels": ["a", "b"]}},
        {"pooling": "attention", "padding": {"to": 6, "side": "pre", "truncate": "pre"}},
        {"pooling": "max", "gate_activation": "hard_sigmoid_keras2", "normalize": True},
    ],
)
def test_oracle_measures_its_distance_from_float64(
    changes: dict[str, Any], encoder_config: Callable[..., EncoderConfig]
) -> None:
    config = EncoderConfig.model_validate({**encoder_config().model_dump(), **changes})
    encoder = seeded_encoder(config, 1)
    found = OracleEncoder(encoder).compute(IDS, LENGTHS)
    assert found.rounding is not None
    assert not any(each[2] for each in (found.rounding.vectors, found.rounding.states, found.rounding.logits))
    exact = seeded_encoder(config, 1).double()
    for row in (0, 1, 3):
        ids, length = torch.from_numpy(IDS[row : row + 1, : LENGTHS[row]]), torch.tensor([LENGTHS[row]])
        with torch.no_grad():
            vector = exact(ids, length)
            logits = None if exact.classifier is None else exact.classifier(vector)
        distance = np.abs(found.vectors[row] - vector.numpy()).max()
        assert 0 < distance < 1e-6
        assert found.rounding.vectors[row] == pytest.approx(distance, rel=1e-6)
        assert 0 < found.rounding.states[row] < 1e-6
        if logits is not None and found.labels is not None:
            off = np.abs(found.labels.logits[row] - logits.numpy()).max()
            assert found.rounding.logits[row] == pytest.approx(off, rel=1e-6)
