"""IREE: what it refuses, and how it says that it is not installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import seeded_encoder
from lengthwise.export.graphs.portable import to_portable
from lengthwise.export.graphs.trace import save_onnx, trace_to_onnx
from lengthwise.export.graphs.variants import PORTABLE, VARIANTS
from lengthwise.export.runtimes import NotRunnable
from lengthwise.export.runtimes.iree import IreeSession, add_final_states

FILE = VARIANTS[PORTABLE].file


def save_portable(shape: dict[str, Any], folder: Path, encoder_config: Callable[..., EncoderConfig]) -> Path:
    """The portable graph of an encoder of this shape, in a file; skips where the engine is not installed."""
    pytest.importorskip("iree.compiler")
    config = EncoderConfig.model_validate({**encoder_config().model_dump(), **shape})
    save_onnx(to_portable(trace_to_onnx(seeded_encoder(config, 0), {})), folder / "model.onnx")
    return folder / "model.onnx"


def test_missing_engine_has_a_remedy(artifact_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "iree.compiler", None)
    with pytest.raises(NotRunnable, match=r"not installed; install lengthwise\[iree\], or run make runtimes"):
        IreeSession(artifact_folder / FILE)


def test_hard_gates_are_refused(tmp_path: Path, encoder_config: Callable[..., EncoderConfig]) -> None:
    path = save_portable({"gate_activation": "hard_sigmoid_keras3"}, tmp_path, encoder_config)
    with pytest.raises(NotRunnable, match="no hard gates"):
        IreeSession(path)


def test_gru_is_refused(tmp_path: Path, encoder_config: Callable[..., EncoderConfig]) -> None:
    with pytest.raises(NotRunnable, match="compiles no GRU"):
        IreeSession(save_portable({"cell": "gru"}, tmp_path, encoder_config))


@pytest.mark.parametrize("shape", [{}, {"num_layers": 2, "bidirectional": True, "pooling": "last"}])
def test_every_last_state_becomes_an_output(
    shape: dict[str, Any], tmp_path: Path, encoder_config: Callable[..., EncoderConfig]
) -> None:
    """Without them IREE 3.13.0 computes other states."""
    model = onnx.load(save_portable(shape, tmp_path, encoder_config))
    before = [output.name for output in model.graph.output]
    add_final_states(model)
    onnx.checker.check_model(model, full_check=True)
    lstms = [node for node in model.graph.node if node.op_type == "LSTM"]
    assert [output.name for output in model.graph.output] == [*before, *(node.output[1] for node in lstms)]
    assert all(node.output[1] for node in lstms)
