"""Engines that have to be installed: on every graph of an artifact, and on sabotaged ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from helpers.marks import heavy_but
from helpers.sabotages import PORTABLE_SABOTAGES, Sabotage, gates_swapped, one_weight_is_stale
from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import seeded_encoder
from lengthwise.export.artifact.folder import Artifact
from lengthwise.export.graphs.portable import to_portable
from lengthwise.export.graphs.trace import trace_to_onnx
from lengthwise.export.graphs.variants import PORTABLE, VARIANTS
from lengthwise.export.runtimes import Runtime
from lengthwise.export.runtimes.iree import Iree
from lengthwise.export.runtimes.opencv import OpenCv
from lengthwise.export.runtimes.openvino import OpenVino
from lengthwise.export.runtimes.tract import Tract
from lengthwise.export.validation.cases import grid_cases
from lengthwise.export.validation.validate import Check, judge, make_checks, validate_artifact
from lengthwise.export.validation.verdict import Verdict

ENGINES: list[type[Runtime]] = [Tract, OpenCv, Iree, OpenVino]
Checked = tuple[onnx.ModelProto, list[Check]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", heavy_but((Tract, OpenCv, OpenVino), ENGINES))
def test_engine_computes_the_portable_graph_and_no_other_is_unexplained(
    kind: type[Runtime], artifact_folder: Path
) -> None:
    validation = validate_artifact(Artifact.open(artifact_folder), [kind])
    verdicts = {verdict.variant: verdict for verdict in validation.verdicts}
    skip_if_not_run(verdicts[PORTABLE])
    assert validation.passed, [(verdict.variant, verdict.reason) for verdict in validation.failed]
    assert validation.recommended == {kind.name: PORTABLE}
    for variant in set(verdicts) - {PORTABLE}:
        assert verdicts[variant].known, (variant, verdicts[variant].reason)


@pytest.fixture(scope="module")
def checked(encoder_config: Callable[..., EncoderConfig]) -> Checked:
    """The portable graph of an encoder with two layers and a static residual, and what is right."""
    shape = {"num_layers": 2, "bidirectional": True, "pooling": "mean", "embedding_dim": 12, "static_residual": True}
    encoder = seeded_encoder(encoder_config(**shape), 0)
    cases = [case for case in grid_cases(encoder.config.vocab_size) if case.name.startswith(("5 x", "3 x"))]
    return to_portable(trace_to_onnx(encoder, {})), make_checks(encoder, cases)


def judge_graph(kind: type[Runtime], model: onnx.ModelProto, folder: Path, checks: list[Check]) -> Verdict:
    (folder / "onnx").mkdir()
    onnx.save(model, folder / VARIANTS[PORTABLE].file)
    verdict = judge(kind(), VARIANTS[PORTABLE], folder, checks)
    skip_if_not_run(verdict)
    return verdict


def skip_if_not_run(verdict: Verdict) -> None:
    if verdict.status == "not run":
        pytest.skip(f"{verdict.runtime} was not run: {verdict.reason}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENGINES)
def test_intact_graph_passes(kind: type[Runtime], tmp_path: Path, checked: Checked) -> None:
    model, checks = checked
    verdict = judge_graph(kind, model, tmp_path, checks)
    assert verdict.status == "passed", verdict.reason


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize(
    "sabotage", [*PORTABLE_SABOTAGES, gates_swapped, one_weight_is_stale], ids=lambda it: it.__name__
)
def test_sabotaged_graph_fails(kind: type[Runtime], sabotage: Sabotage, tmp_path: Path, checked: Checked) -> None:
    model, checks = onnx.ModelProto.FromString(checked[0].SerializeToString()), checked[1]
    if kind is Iree and sabotage is not gates_swapped:
        pytest.skip("IREE takes ten seconds to compile a graph; it has one sabotage")
    sabotage(model)
    verdict = judge_graph(kind, model, tmp_path, checks)
    assert verdict.status == "failed"
    assert not verdict.known
