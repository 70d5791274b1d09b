"""Graphs below float32: passed by quality, too coarse for an encoder, or wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from helpers.engines import FunctionRuntime
from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.artifact.engine import OnnxEncoder
from lengthwise.export.graphs.rewrite import REWRITES
from lengthwise.export.graphs.trace import save_onnx, trace_to_onnx
from lengthwise.export.graphs.variants import FP16, INT8, INT8_DYNAMIC, NATIVE, VARIANTS
from lengthwise.export.runtimes import Outputs
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu
from lengthwise.export.runtimes.pytorch import PyTorchEager
from lengthwise.export.runtimes.rounded_weights import RoundedWeights
from lengthwise.export.validation.cases import grid_cases
from lengthwise.export.validation.report import card_section, summary, validation_to_markdown
from lengthwise.export.validation.run import write_report
from lengthwise.export.validation.validate import judge, make_checks, validate_artifact
from lengthwise.tokens.tokenizer import TextTokenizer


def scaled(scale: float, seed: int = 0, **changes: Any) -> PackedEncoder:
    """A seeded encoder whose recurrent weights are so many times as large as those of a new one."""
    shape = {"vocab_size": 60, "embedding_dim": 48, "hidden_size": 24, "num_layers": 2, "bidirectional": True}
    encoder = seeded_encoder(EncoderConfig.model_validate({**shape, **changes}), seed)
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if "weight_hh" in name or "weight_ih" in name:
                weight *= scale
    return encoder


def write_graph(encoder: PackedEncoder, variant: str, folder: Path) -> None:
    path = folder / VARIANTS[variant].file
    path.parent.mkdir(exist_ok=True)
    save_onnx(REWRITES[variant](trace_to_onnx(encoder, {})), path)


@pytest.mark.parametrize(
    ("scale", "variant", "changes", "coarse"),
    [
        pytest.param(1, INT8, {}, False, marks=pytest.mark.heavy),
        (6, FP16, {}, False),
        (6, INT8, {}, True),
        pytest.param(6, INT8_DYNAMIC, {}, True, marks=pytest.mark.heavy),
        (10, FP16, {}, True),
        (8, INT8, {"cell": "gru", "num_layers": 1}, True),
        pytest.param(8, INT8, {"projection_dim": 1}, True, marks=pytest.mark.heavy),
    ],
)
def test_an_encoder_may_not_bear_a_precision(
    scale: float, variant: str, changes: dict[str, Any], coarse: bool, tmp_path: Path
) -> None:
    encoder = scaled(scale, **changes)
    checks = make_checks(encoder, grid_cases(60))
    write_graph(encoder, variant, tmp_path)
    verdict = judge(OnnxRuntimeCpu(), VARIANTS[variant], tmp_path, checks, encoder=encoder)
    assert (verdict.coarse, verdict.known) == (coarse, coarse)
    assert (verdict.status == "failed") == coarse
    assert verdict.reason.startswith("too coarse for this encoder: ") == coarse
    without = judge(OnnxRuntimeCpu(), VARIANTS[variant], tmp_path, checks)
    assert (without.status, without.known, without.coarse) == (verdict.status, False, False)


@pytest.mark.parametrize("variant", [INT8, pytest.param(FP16, marks=pytest.mark.heavy)])
@pytest.mark.parametrize("scale", [pytest.param(1, marks=pytest.mark.heavy), 6])
def test_a_wrong_graph_is_not_taken_for_a_coarse_one(scale: float, variant: str, tmp_path: Path) -> None:
    """That of other weights, and one that reads every embedding with the wrong sign."""
    encoder, other = scaled(scale), scaled(scale)
    checks = make_checks(encoder, grid_cases(60))
    with torch.no_grad():
        other.embedding.weight *= -1
    for wrong in (scaled(scale, seed=1), other):
        write_graph(wrong, variant, tmp_path)
        verdict = judge(OnnxRuntimeCpu(), VARIANTS[variant], tmp_path, checks, encoder=encoder)
        assert (verdict.status, verdict.known, verdict.coarse) == ("failed", False, False)


def test_a_graph_that_depends_on_its_batch_is_not_taken_for_a_coarse_one(tmp_path: Path) -> None:
    encoder = scaled(6)
    checks = make_checks(encoder, grid_cases(60))
    rounded = RoundedWeights(encoder, INT8)
    rounded.load(tmp_path)
    for leak, known in ((0.0, True), (1e-3, False)):

        def leaking(ids: NDArray[np.int64], mask: NDArray[np.int64], leak: float = leak) -> Outputs:
            vectors, states = rounded.run(ids, mask)
            return vectors + np.float32(leak) * (len(ids) > 2) * (vectors != 0), states

        runtime = FunctionRuntime(leaking)
        runtime.files = {INT8: "nothing"}
        verdict = judge(runtime, VARIANTS[INT8], tmp_path, checks, encoder=encoder)
        assert (verdict.status, verdict.coarse) == ("failed", known)


@pytest.mark.parametrize(("one_in", "passes"), [(60, True), (2, False)])
def test_labels_that_change_fail_a_graph_below_float32(one_in: int, passes: bool, tmp_path: Path) -> None:
    """Vectors and logits are within what 8 bits may change, but no precision explains the labels."""
    encoder = scaled(1, classifier={"labels": ["a", "b", "c"]})
    checks = make_checks(encoder, grid_cases(60))
    packed = PyTorchEager(encoder)
    packed.load(tmp_path)

    def changed(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Outputs:
        """The largest logit falls just below the second in texts whose first id is a multiple."""
        vectors, states, logits = packed.run(ids, mask)
        order = np.argsort(logits, axis=1)
        second = np.take_along_axis(logits, order[:, 1:2], axis=1)
        lower = logits.copy()
        np.put_along_axis(lower, order[:, 2:], second - np.float32(1e-4), axis=1)
        return vectors, states, np.where(ids[:, :1] % one_in == 0, lower, logits)

    runtime = FunctionRuntime(changed)
    runtime.files = {INT8: "nothing"}
    verdict = judge(runtime, VARIANTS[INT8], tmp_path, checks, encoder=encoder)
    assert (verdict.status == "passed") == passes, verdict.reason
    assert ("rows get another label" in verdict.reason) != passes
    assert not verdict.coarse


@pytest.mark.slow
def test_an_artifact_passes_without_a_graph_that_is_too_coarse(
    tmp_path: Path,
    tokenizer: TextTokenizer,
    encoder_config: Callable[..., EncoderConfig],
    caplog: pytest.LogCaptureFixture,
) -> None:
    encoder = scaled(6, vocab_size=encoder_config().vocab_size, unk_token_id=1)
    artifact = build_artifact(encoder, tokenizer, tmp_path / "artifact", variants=(INT8,))
    validation = validate_artifact(artifact, [OnnxRuntimeCpu])
    assert validation.passed
    assert validation.recommended == {"onnxruntime cpu": NATIVE}
    text = validation_to_markdown(validation)
    assert "**Passed**" in text
    assert "onnxruntime cpu, int8: failed, as known: too coarse for this encoder:" in text
    assert "do not use  onnxruntime cpu, int8: too coarse for this encoder:" in summary(validation)
    assert "(✗)" in card_section(validation)
    write_report(artifact, validation)
    caplog.clear()
    assert OnnxEncoder.load(artifact.folder).engine.variant == NATIVE
    assert not caplog.records
    assert OnnxEncoder.load(artifact.folder, variant=INT8).engine.variant == INT8
    assert "the graph int8 did not pass validation: too coarse for this encoder" in caplog.text
