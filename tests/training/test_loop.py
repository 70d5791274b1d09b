"""The schedule of the learning rate, and how many steps there are."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise.train_config import TrainSettings
from lengthwise.training.loop import count_steps, learning_rate_factor


@given(
    total=st.integers(1, 2_000),
    warmup=st.integers(0, 500),
    decay=st.sampled_from(["linear", "cosine", "none"]),
    final_rate=st.floats(0, 1),
)
def test_rate_rises_to_its_highest_and_falls_to_its_last(
    total: int, warmup: int, decay: str, final_rate: float
) -> None:
    settings = TrainSettings.model_validate({"warmup": warmup, "decay": decay, "final_rate": final_rate})
    rates = [learning_rate_factor(step, total, settings) for step in range(total)]
    top = rates.index(max(rates))
    assert 0 < rates[0] <= max(rates) <= 1
    assert top <= total // 10
    assert all(one <= other + 1e-12 for one, other in pairwise(rates[: top + 1]))
    assert all(one >= other - 1e-12 for one, other in pairwise(rates[top:]))
    assert rates[-1] >= min(final_rate, rates[0])


@pytest.mark.parametrize(
    ("step", "decay", "expected"),
    [(0, "cosine", 0.1), (9, "cosine", 1.0), (55, "linear", 0.5), (55, "cosine", 0.5), (99, "none", 1.0)],
)
def test_rate_of_a_step(step: int, decay: str, expected: float) -> None:
    settings = TrainSettings.model_validate({"warmup": 200, "decay": decay})
    assert learning_rate_factor(step, 100, settings) == pytest.approx(expected)


def test_rate_ends_at_its_final_share() -> None:
    settings = TrainSettings(warmup=0, decay="linear", final_rate=0.25)
    assert learning_rate_factor(999, 1_000, settings) == 0.25
    assert math.isclose(learning_rate_factor(500, 1_000, settings), 0.5)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 10),
        ({"epochs": 2.5}, 25),
        ({"epochs": 0.01}, 1),
        ({"epochs": 3, "max_steps": 7}, 7),
        ({"max_steps": 70}, 70),
        ({"max_minutes": 1}, 10),
        ({"max_minutes": 1, "epochs": 2}, 20),
        ({"accumulate": 4}, 3),
    ],
)
def test_steps_are_the_least_of_the_limits(changes: dict[str, float], expected: float) -> None:
    assert count_steps(TrainSettings.model_validate(changes), 10.0) == expected
