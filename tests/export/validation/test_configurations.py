"""Every shape of an encoder: exported whole, every file of it judged on every runtime that needs no installation.

Few of the 150 run always; `make test-all` runs the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import seeded_encoder
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.graphs.variants import VARIANTS
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu, OnnxRuntimeCuda
from lengthwise.export.runtimes.pytorch import PyTorchCuda
from lengthwise.export.runtimes.registry import RUNTIMES
from lengthwise.export.runtimes.torchscript import TorchScript
from lengthwise.export.validation.validate import validate_artifact
from lengthwise.tokens.tokenizer import TextTokenizer

RUNTIMES_HERE = [kind for kind in RUNTIMES if not kind.optional]
LAYERS, POOLINGS = (1, 2, 3), ("last", "mean", "mean_last", "sum", "max")
HEADS = {
    "plain": {},
    "residual": {"static_residual": True},
    "normalised": {"normalize": True},
    "projected-residual": {"projection_dim": 5, "static_residual": True},
    "projected-normalised": {"projection_dim": 5, "normalize": True},
}
USUAL = {(1, False, "last", "plain"), (2, True, "sum", "projected-residual")}


def configurations() -> list[Any]:
    """All 150. Two of them run always: one layer in one direction, and two layers in both."""
    found = []
    for layers, bidirectional, pooling, head in itertools.product(LAYERS, (False, True), POOLINGS, HEADS):
        is_usual = (layers, bidirectional, pooling, head) in USUAL
        label = f"{layers}-{'bi' if bidirectional else 'uni'}directional-{pooling}-{head}"
        marks = pytest.mark.slow if is_usual else pytest.mark.heavy
        found.append(pytest.param(layers, bidirectional, pooling, HEADS[head], marks=marks, id=label))
    return found


@pytest.mark.parametrize(
    ("pooling", "head"), [("mean", "residual"), ("max", "normalised"), ("mean_last", "projected-normalised")]
)
def test_other_poolings_and_heads_pass_in_onnxruntime_and_torchscript(
    pooling: str,
    head: str,
    tmp_path: Path,
    tokenizer: TextTokenizer,
    encoder_config: Callable[..., EncoderConfig],
) -> None:
    config = encoder_config(bidirectional=True, pooling=pooling, **HEADS[head])
    artifact = build_artifact(seeded_encoder(config, 1), tokenizer, tmp_path / "artifact", variants=())
    validation = validate_artifact(artifact, [OnnxRuntimeCpu, TorchScript])
    assert [verdict.status for verdict in validation.verdicts] == ["passed", "passed"]


@pytest.mark.parametrize(("layers", "bidirectional", "pooling", "head"), configurations())
def test_configuration_passes_on_every_runtime(
    layers: int,
    bidirectional: bool,
    pooling: str,
    head: dict[str, Any],
    tmp_path: Path,
    tokenizer: TextTokenizer,
    encoder_config: Callable[..., EncoderConfig],
) -> None:
    shape = {"num_layers": layers, "bidirectional": bidirectional, "pooling": pooling}
    config = encoder_config(**shape, **head)
    artifact = build_artifact(seeded_encoder(config, 1), tokenizer, tmp_path / "artifact")
    validation = validate_artifact(artifact, RUNTIMES_HERE)
    assert validation.passed, [(v.runtime, v.variant, v.reason) for v in validation.failed]
    assert (validation.control.status == "failed") == validation.lengths_matter
    passed = {(v.runtime, v.variant) for v in validation.verdicts if v.status == "passed"}
    for kind in RUNTIMES_HERE:
        if kind not in (OnnxRuntimeCuda, PyTorchCuda):
            kept = {name for name in kind.files if name in VARIANTS and VARIANTS[name].independent}
            assert {variant for runtime, variant in passed if runtime == kind.name} == kept
