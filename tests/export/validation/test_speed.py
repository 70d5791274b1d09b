"""What a batch takes: every graph is measured on every batch, and nothing stays open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lengthwise.export.graphs.variants import NATIVE, PORTABLE, VARIANTS
from lengthwise.export.runtimes import Outputs, Runtime
from lengthwise.export.validation import speed
from lengthwise.export.validation.cases import speed_cases
from lengthwise.export.validation.speed import measure_speed

CASES = list(speed_cases(vocab_size=7))
EVENTS: list[str] = []


class Counting(Runtime):
    """Notes what is done with it; the portable graph takes longer."""

    name = "counting"

    def load(self, path: Path) -> None:
        self._path = path.name
        EVENTS.append(f"load {path.name}")

    def run_unchecked(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        assert input_ids.max() < 7
        assert (attention_mask == 1).all()
        EVENTS.append(f"run {input_ids.shape}")
        sum(range(200_000 if "portable" in self._path else 1))
        return np.zeros((1, 1), np.float32), np.zeros((1, 1, 1), np.float32)

    def describe(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        EVENTS.append("close")


def test_graphs_are_measured_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_SECONDS", 0.01)
    EVENTS.clear()
    found = measure_speed([(Counting, VARIANTS[NATIVE]), (Counting, VARIANTS[PORTABLE])], Path(), CASES)
    assert set(found["counting"]) == {NATIVE, PORTABLE}
    for times in found["counting"].values():
        assert list(times) == ["1 x 32", "32 x 32"]
        assert all(milliseconds > 0 for milliseconds in times.values())
    native, portable = found["counting"][NATIVE], found["counting"][PORTABLE]
    assert native["1 x 32"] < portable["1 x 32"]
    loads = [event.removeprefix("load ") for event in EVENTS if event.startswith("load")]
    assert loads == ["model.onnx", "model_portable.onnx"]
    assert EVENTS.count("close") == 2


def test_failing_pair_is_left_out_closed_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> Outputs:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Counting, "run", fail)
    EVENTS.clear()
    assert measure_speed([(Counting, VARIANTS[NATIVE])], Path(), CASES) == {}
    assert EVENTS[-1] == "close"
    assert "counting, native: its speed was not measured (out of memory)" in caplog.text
