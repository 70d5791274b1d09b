"""Batch costs: which ones an engine and a run's settings have, and their limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lengthwise.batching.costs import (
    PACKED,
    PACKED_CUDA,
    PADDED,
    PADDED_CUDA,
    STEPWISE,
    BatchCosts,
    expected_costs,
)
from lengthwise.config import EncoderConfig
from lengthwise.encoder.kernel import has_bf16_kernel
from lengthwise.encoder.model import seeded_encoder
from lengthwise.encoder.torch_engine import TorchEngine


@pytest.mark.parametrize(
    ("engine", "precision", "device", "costs"),
    [
        ("torch", "fp32", "cpu", STEPWISE),
        ("torch", "bf16", "cpu", PACKED),
        ("torch", "fp32", "cuda", PACKED_CUDA),
        ("torch", "fp16", "cuda", PACKED_CUDA),
        ("onnx", "fp32", "cpu", PADDED),
        ("onnx", "fp32", "cuda", PADDED_CUDA),
    ],
)
def test_expected_costs_follow_the_settings(engine: Any, precision: str, device: str, costs: BatchCosts) -> None:
    assert expected_costs(engine, precision, device) is costs


def test_bfloat16_of_the_fused_kernel_costs_as_float32_does() -> None:
    assert expected_costs("torch", "bf16", "cpu", fused_bf16=True) is STEPWISE
    assert expected_costs("torch", "bf16", "cuda", fused_bf16=True) is PACKED_CUDA


def test_device_auto_is_a_gpu_where_the_drivers_tools_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi" if name == "nvidia-smi" else None)
    assert expected_costs("torch", "fp32", "auto") is PACKED_CUDA
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert expected_costs("torch", "fp32", "auto") is STEPWISE


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_expected_costs_equal_the_engines(precision: Any, encoder_config: Callable[..., EncoderConfig]) -> None:
    engine = TorchEngine(seeded_encoder(encoder_config(), 0), "cpu", precision)
    assert expected_costs("torch", precision, "cpu", fused_bf16=has_bf16_kernel()) == engine.costs


def test_with_limits_replaces_only_the_limits_given() -> None:
    assert STEPWISE.with_limits() == STEPWISE
    changed = PADDED.with_limits(max_rows=7)
    assert (changed.max_rows, changed.max_tokens, changed.pads) == (7, PADDED.max_tokens, True)
