"""Fixtures of the runtimes of phones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lengthwise.config import EncoderConfig


@pytest.fixture
def litert_file(tmp_path: Path, encoder_config: Callable[..., EncoderConfig]) -> Path:
    """A LiteRT model of a small encoder; skips where ai-edge-litert is not installed."""
    pytest.importorskip("ai_edge_litert", reason="LiteRT was not run: ai-edge-litert is not installed")
    from lengthwise.encoder.model import seeded_encoder
    from lengthwise.export.graphs.litert import save_litert
    from lengthwise.export.graphs.trace import trace_to_onnx

    save_litert(trace_to_onnx(seeded_encoder(encoder_config(), 0), {}), tmp_path / "model.tflite")
    return tmp_path / "model.tflite"
