"""Encoders that amplify rounding errors: correct graphs pass, wrong ones fail, and one that loses its digits fails."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from helpers.engines import FunctionRuntime
from helpers.sabotages import PORTABLE_SABOTAGES, SABOTAGES, Sabotage, edit_weight
from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.artifact.difference import LARGEST
from lengthwise.export.artifact.oracle import Oracle
from lengthwise.export.artifact.rounding import FACTOR
from lengthwise.export.graphs.portable import to_portable
from lengthwise.export.graphs.trace import trace_to_onnx
from lengthwise.export.graphs.variants import NATIVE, VARIANTS
from lengthwise.export.runtimes import Outputs, Runtime
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu
from lengthwise.export.runtimes.pytorch import PyTorchEager, PyTorchStepwise
from lengthwise.export.runtimes.tolerances import CPU_TOLERANCE
from lengthwise.export.server.metrics import Metrics
from lengthwise.export.server.service import Service
from lengthwise.export.server.settings import ServeSettings
from lengthwise.export.validation.cases import Case, grid_cases
from lengthwise.export.validation.records import validation_to_json
from lengthwise.export.validation.report import summary, validation_to_markdown
from lengthwise.export.validation.validate import judge, make_checks, validate_artifact
from lengthwise.export.validation.verdict import Verdict
from lengthwise.tokens.tokenizer import TextTokenizer

Checks = list[tuple[Case, Oracle]]


def amplifying(scale: float, **changes: Any) -> PackedEncoder:
    """A seeded encoder whose recurrent weights are so many times as large as those of a new one."""
    shape: dict[str, Any] = {"vocab_size": 60, "embedding_dim": 48, "hidden_size": 24, "num_layers": 2}
    encoder = seeded_encoder(EncoderConfig.model_validate({**shape, "bidirectional": True, **changes}), 0)
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if "weight_hh" in name or "weight_ih" in name:
                weight *= scale
    return encoder


@pytest.fixture(scope="module")
def mean() -> tuple[PackedEncoder, Checks, onnx.ModelProto]:
    encoder = amplifying(6, pooling="mean", static_residual=True)
    return encoder, make_checks(encoder, grid_cases(60)), trace_to_onnx(encoder, {})


def judge_graph(model: onnx.ModelProto, folder: Path, checks: Checks) -> Verdict:
    path = folder / VARIANTS[NATIVE].file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return judge(OnnxRuntimeCpu(), VARIANTS[NATIVE], folder, checks)


@pytest.mark.parametrize(
    ("scale", "changes"),
    [
        (6, {"pooling": "last"}),
        (8, {"pooling": "last", "num_layers": 1, "bidirectional": False, "hidden_size": 64}),
        (5, {"cell": "gru", "pooling": "last", "num_layers": 1, "hidden_size": 64}),
        (5, {"cell": "gru", "pooling": "max", "num_layers": 1}),
        (6, {"pooling": "sum", "classifier": {"labels": ["a", "b", "c"]}}),
    ],
)
def test_correct_graphs_pass_where_rounding_is_amplified(scale: float, changes: dict[str, Any], tmp_path: Path) -> None:
    encoder = amplifying(scale, **changes)
    checks = make_checks(encoder, grid_cases(60))
    graph = trace_to_onnx(encoder, {})
    verdicts = [judge_graph(model, tmp_path, checks) for model in (graph, to_portable(graph))]
    verdicts += [judge(kind(encoder), VARIANTS[NATIVE], tmp_path, checks) for kind in (PyTorchEager, PyTorchStepwise)]
    for verdict in verdicts:
        assert (verdict.status, verdict.reason) == ("passed", "")
    found = [verdict.comparison.difference or 0.0 for verdict in verdicts]
    assert 1.5 * CPU_TOLERANCE < max(found) < LARGEST  # so it matters there


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.__name__)
def test_wrong_graphs_fail_where_rounding_is_amplified(
    sabotage: Sabotage, tmp_path: Path, mean: tuple[PackedEncoder, Checks, onnx.ModelProto]
) -> None:
    _, checks, native = mean
    assert max(oracle.allowed.states.max() for _, oracle in checks if oracle.allowed is not None) > 1e-5
    model = copy.deepcopy(native)
    sabotage(model)
    verdict = judge_graph(model, tmp_path, checks)
    assert (verdict.status, verdict.known) == ("failed", False)


@pytest.mark.parametrize("sabotage", PORTABLE_SABOTAGES, ids=lambda sabotage: sabotage.__name__)
def test_wrong_portable_graphs_fail_where_rounding_is_amplified(
    sabotage: Sabotage, tmp_path: Path, mean: tuple[PackedEncoder, Checks, onnx.ModelProto]
) -> None:
    _, checks, native = mean
    model = to_portable(native)
    sabotage(model)
    verdict = judge_graph(model, tmp_path, checks)
    assert (verdict.status, verdict.known) == ("failed", False)


def recurrence_in_bfloat16(model: onnx.ModelProto) -> None:
    def shorten(weight: NDArray[np.float32]) -> NDArray[np.float32]:
        return (weight.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)

    node = next(node for node in model.graph.node if node.op_type in ("LSTM", "GRU"))
    edit_weight(model, node.input[2], shorten)


def one_weight_in_a_thousand(model: onnx.ModelProto) -> None:
    """A weight that is off by a thousandth of itself, as of a checkpoint one step older."""

    def nudge(weight: NDArray[np.float32]) -> NDArray[np.float32]:
        weight = weight.copy()
        weight.flat[np.abs(weight).argmax()] *= np.float32(1.001)
        return weight

    node = next(node for node in model.graph.node if node.op_type in ("LSTM", "GRU"))
    edit_weight(model, node.input[2], nudge)


@pytest.mark.parametrize("sabotage", [recurrence_in_bfloat16, one_weight_in_a_thousand])
@pytest.mark.parametrize(
    ("scale", "changes"),
    [
        (8, {"pooling": "last", "num_layers": 1, "bidirectional": False, "hidden_size": 64}),
        (5, {"cell": "gru", "pooling": "last", "num_layers": 1, "hidden_size": 64}),
        (12, {"pooling": "last"}),  # in which long texts lose their digits, and short ones do not
    ],
)
def test_small_faults_fail_where_rounding_is_amplified(
    sabotage: Sabotage, scale: float, changes: dict[str, Any], tmp_path: Path
) -> None:
    encoder = amplifying(scale, **changes)
    short = [case for case in grid_cases(60) if case.lengths.max() <= 24]
    model = trace_to_onnx(encoder, {})
    checks = make_checks(encoder, short)
    assert judge_graph(model, tmp_path, checks).status == "passed"
    sabotage(model)
    assert judge_graph(model, tmp_path, checks).status == "failed"


def test_what_is_allowed_is_a_multiple_of_what_is_measured(
    tmp_path: Path, mean: tuple[PackedEncoder, Checks, onnx.ModelProto]
) -> None:
    """Of a text's length; a shorter text gets less."""
    encoder, checks, _ = mean
    case, oracle = next((case, oracle) for case, oracle in checks if "long texts" in case.name)
    assert oracle.allowed is not None
    largest = max(of.rounding.states[case.lengths <= 600].max() for case, of in checks if of.rounding is not None)
    assert oracle.allowed.states[0] == pytest.approx(FACTOR * largest)
    assert oracle.allowed.states[1] < oracle.allowed.states[2] <= oracle.allowed.states[0]  # of 1, 333 and 600 tokens
    packed = PyTorchEager(encoder)
    packed.load(tmp_path)
    for factor, status in ((0.7, "passed"), (1.4, "failed")):

        def off(ids: NDArray[np.int64], mask: NDArray[np.int64], factor: float = factor) -> Outputs:
            vectors, states = packed.run(ids, mask)
            error = factor * (oracle.allowed.states[0] if oracle.allowed is not None else 0.0)
            moved = (mask * (mask.sum(axis=1, keepdims=True) == 600))[:, :, None].astype(np.float32)
            return vectors, states + np.float32(error) * moved

        runtime: Runtime = FunctionRuntime(off)
        verdict = judge(runtime, VARIANTS[NATIVE], tmp_path, [(case, oracle)])
        assert verdict.status == status, verdict.reason


def test_encoder_that_amplifies_nothing_is_judged_as_ever(tmp_path: Path) -> None:
    encoder = amplifying(1, pooling="mean")
    checks = make_checks(encoder, grid_cases(60))
    assert all(FACTOR * of.rounding.states.max() <= CPU_TOLERANCE for _, of in checks if of.rounding is not None)
    packed = PyTorchEager(encoder)
    packed.load(tmp_path)
    for error, status in ((2e-6, "failed"), (5e-7, "passed")):

        def off(ids: NDArray[np.int64], mask: NDArray[np.int64], error: float = error) -> Outputs:
            vectors, states = packed.run(ids, mask)
            return vectors + np.float32(error) * (mask.sum(axis=1, keepdims=True) > 500), states

        assert judge(FunctionRuntime(off), VARIANTS[NATIVE], tmp_path, checks).status == status


def test_encoder_that_loses_its_digits_fails(tmp_path: Path) -> None:
    """States of long texts are rounding errors alone: no two implementations agree, and none is right."""
    encoder = amplifying(20, pooling="last")
    checks = make_checks(encoder, grid_cases(60))
    assert max(of.rounding.states.max() for _, of in checks if of.rounding is not None) > 0.1
    verdict = judge_graph(trace_to_onnx(encoder, {}), tmp_path, checks)
    assert verdict.status == "failed"
    assert "long texts" in verdict.reason


@pytest.mark.slow
def test_reports_and_server_know_of_rounding(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    size = {"vocab_size": encoder_config().vocab_size, "unk_token_id": 1}
    encoder = amplifying(6, pooling="last", hidden_size=64, **size)
    artifact = build_artifact(encoder, tokenizer, tmp_path / "artifact", variants=())
    record: Mapping[str, Any] = artifact.manifest["rounding"]
    assert (record["factor"], record["tokens"][-1]) == (FACTOR, 64)
    assert FACTOR * record["vectors"][-1] > CPU_TOLERANCE
    validation = validate_artifact(artifact, [OnnxRuntimeCpu])
    assert validation.passed
    assert validation.rounding is not None
    text = validation_to_markdown(validation)
    assert "### Rounding" in text
    assert "| 600 |" in text
    assert "rounding    PyTorch's float32 is itself up to" in summary(validation)
    saved = json.loads(validation_to_json(validation))
    assert saved["rounding"]["states"][-1] == pytest.approx(validation.rounding.states[-1])
    golden = artifact.load_golden()
    assert golden.rounding is not None
    moved = golden.vectors.copy()
    moved[-1, 0] += np.float32(0.9 * golden.rounding[-1])
    assert golden.rounding[-1] > 2 * CPU_TOLERANCE
    assert golden.needed_tolerance(moved) <= CPU_TOLERANCE
    assert golden.needed_tolerance(moved, in_float32=False) > 0
    moved[-1, 0] += np.float32(0.9 * golden.rounding[-1])
    assert golden.needed_tolerance(moved) > CPU_TOLERANCE
    assert replace(golden, rounding=None).needed_tolerance(golden.vectors) == 0  # as in artifacts of earlier versions
    service = Service(artifact, ServeSettings(), Metrics())
    service.close()


def test_reports_of_other_encoders_do_not_mention_rounding(artifact_folder: Path) -> None:
    from lengthwise.export.artifact.folder import Artifact

    validation = validate_artifact(Artifact.open(artifact_folder), [OnnxRuntimeCpu])
    assert "### Rounding" not in validation_to_markdown(validation)
    assert json.loads(validation_to_json(validation))["rounding"]["factor"] == FACTOR
