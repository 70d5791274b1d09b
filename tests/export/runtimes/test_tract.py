"""tract: what it refuses, and how it says that it is not installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import seeded_encoder
from lengthwise.export.graphs.portable import to_portable
from lengthwise.export.graphs.trace import save_onnx, trace_to_onnx
from lengthwise.export.graphs.variants import PORTABLE, VARIANTS
from lengthwise.export.runtimes import NotRunnable
from lengthwise.export.runtimes.tract import TractSession

FILE = VARIANTS[PORTABLE].file


def save_portable(shape: dict[str, Any], folder: Path, encoder_config: Callable[..., EncoderConfig]) -> Path:
    """The portable graph of an encoder of this shape, in a file; skips where the engine is not installed."""
    pytest.importorskip("tract")
    config = EncoderConfig.model_validate({**encoder_config().model_dump(), **shape})
    save_onnx(to_portable(trace_to_onnx(seeded_encoder(config, 0), {})), folder / "model.onnx")
    return folder / "model.onnx"


def test_missing_engine_has_a_remedy(artifact_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tract", None)
    with pytest.raises(NotRunnable, match=r"not installed; install lengthwise\[tract\], or run make runtimes"):
        TractSession(artifact_folder / FILE)


def test_hard_gates_are_refused(tmp_path: Path, encoder_config: Callable[..., EncoderConfig]) -> None:
    path = save_portable({"gate_activation": "hard_sigmoid_keras3"}, tmp_path, encoder_config)
    with pytest.raises(NotRunnable, match="no hard gates"):
        TractSession(path)
