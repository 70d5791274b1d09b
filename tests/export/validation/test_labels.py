"""A graph with labels: its logits are PyTorch's in every file, and a wrong classifier is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from helpers.definition import define
from helpers.marks import heavy_but
from helpers.sabotages import edit_weight
from helpers.texts import TEXTS
from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.artifact.folder import Artifact
from lengthwise.export.artifact.oracle import Oracle, compute_oracle
from lengthwise.export.graphs.trace import trace_to_onnx
from lengthwise.export.graphs.variants import NATIVE, VARIANTS
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu
from lengthwise.export.runtimes.pytorch import PyTorchEager, PyTorchStepwise
from lengthwise.export.runtimes.torchscript import TorchScript
from lengthwise.export.validation.cases import Case, grid_cases
from lengthwise.export.validation.report import validation_to_markdown
from lengthwise.export.validation.validate import judge, validate_artifact
from lengthwise.export.validation.verdict import Verdict
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer

LABELS = {"labels": ["a", "b", "c", "d"], "dense": [{"dim": 9, "activation": "relu"}]}
OTHERS = {
    "sum, linear": {"pooling": "sum", "classifier": {"labels": ["x", "y"]}},
    "attention, normalised, sigmoid": {
        "pooling": "attention_last",
        "attention_dim": 5,
        "dense": [{"dim": 7, "activation": "gelu"}],
        "normalize": True,
        "classifier": {"labels": ["x", "y", "z"], "activation": "sigmoid"},
    },
}


@pytest.fixture(scope="module")
def labelled(encoder_config: Callable[..., EncoderConfig]) -> PackedEncoder:
    shape = {"bidirectional": True, "pooling": "last_mean_max", "normalize": True}
    return seeded_encoder(
        EncoderConfig.model_validate({**encoder_config(**shape).model_dump(), "classifier": LABELS}), 4
    )


@pytest.fixture(scope="module")
def checks(labelled: PackedEncoder) -> list[tuple[Case, Oracle]]:
    cases = grid_cases(labelled.config.vocab_size)
    return [(case, compute_oracle(labelled, case.input_ids, case.lengths)) for case in cases]


def test_oracle_has_the_logits_of_the_definition(labelled: PackedEncoder, checks: list[tuple[Case, Oracle]]) -> None:
    weights = {name: weight.numpy() for name, weight in labelled.state_dict().items()}
    case, oracle = next(check for check in checks if check[0].name == "5 x some rows without tokens")
    assert oracle.labels is not None
    for row, length in enumerate(case.lengths.tolist()):
        if length:
            expected = define(labelled.config, weights, case.input_ids[row, :length].tolist()).logits
        else:
            with torch.inference_mode():
                expected = labelled.classifier(torch.zeros(1, labelled.config.dim))[0].numpy()
        np.testing.assert_allclose(oracle.labels.logits[row], expected, atol=1e-6)


def test_every_file_gives_the_labels(labelled: PackedEncoder, tmp_path: Path, tokenizer: TextTokenizer) -> None:
    artifact = build_artifact(labelled, tokenizer, tmp_path / "artifact")
    kinds = [PyTorchEager, PyTorchStepwise, OnnxRuntimeCpu, TorchScript]
    validation = validate_artifact(artifact, kinds, tokenize_texts(TEXTS, tokenizer))
    assert validation.passed, [(v.runtime, v.variant, v.reason) for v in validation.failed]
    for verdict in validation.verdicts:
        found, variant = verdict.comparison, VARIANTS[verdict.variant]
        assert found.logits is not None
        assert found.decided > 100
        assert found.changed == 0 or (not variant.exact and found.changed < found.decided / 10)
        assert found.logits < 1e-5 or not variant.exact
        model = artifact.folder / verdict.file
        if model.suffix == ".onnx":
            assert [output.name for output in onnx.load(model).graph.output][2:] == ["logits"]
    report = validation_to_markdown(validation)
    assert "## Labels" in report
    assert f"0 of {validation.verdicts[0].comparison.decided:,}" in report
    golden = Artifact.open(artifact.folder).load_golden()
    assert golden.logits is not None
    assert golden.logits.shape == (16, 4)


@pytest.mark.parametrize("shape", heavy_but(("sum, linear",), OTHERS))
def test_other_heads_pass(
    shape: str, tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    config = EncoderConfig.model_validate({**encoder_config().model_dump(), **OTHERS[shape]})
    artifact = build_artifact(
        seeded_encoder(config, 1), tokenizer, tmp_path / "artifact", variants=("portable", "int8")
    )
    validation = validate_artifact(artifact, [PyTorchStepwise, OnnxRuntimeCpu, TorchScript])
    assert validation.passed, [(v.runtime, v.variant, v.reason) for v in validation.failed]


def judge_onnx(model: onnx.ModelProto, folder: Path, checks: list[tuple[Case, Oracle]]) -> Verdict:
    path = folder / VARIANTS[NATIVE].file
    path.parent.mkdir()
    path.write_bytes(model.SerializeToString())
    return judge(OnnxRuntimeCpu(), VARIANTS[NATIVE], folder, checks)


def labels_swapped(model: onnx.ModelProto) -> None:
    edit_weight(model, "encoder.classifier.output.bias", lambda bias: bias[[1, 0, 2, 3]])
    swap_rows = weight_of(model, (9, 4))
    edit_weight(model, swap_rows, lambda weight: weight[:, [1, 0, 2, 3]])


def classifier_bias_dropped(model: onnx.ModelProto) -> None:
    edit_weight(model, "encoder.classifier.output.bias", np.zeros_like)


def hidden_layer_is_stale(model: onnx.ModelProto) -> None:
    edit_weight(model, "encoder.classifier.dense.0.bias", lambda bias: bias + 1e-3)


def logits_missing(model: onnx.ModelProto) -> None:
    del model.graph.output[2]


def logits_before_normalisation(model: onnx.ModelProto) -> None:
    """The classifier reads the vector before it is scaled to length 1."""
    division = [node for node in model.graph.node if node.op_type == "Div"][-1]
    clear = next(node for node in model.graph.node if division.output[0] in node.input and node.op_type == "Where")
    for node in model.graph.node:
        if clear.output[0] in node.input and node.op_type in ("Gemm", "MatMul"):
            node.input[0] = division.input[0]


def weight_of(model: onnx.ModelProto, shape: tuple[int, ...]) -> str:
    """The name of the weight of this shape, or of the transposed one."""
    found = [item for item in model.graph.initializer if tuple(item.dims) in (shape, shape[::-1])]
    assert len(found) == 1
    return found[0].name


SABOTAGES: list[Callable[[onnx.ModelProto], Any]] = [
    labels_swapped,
    classifier_bias_dropped,
    hidden_layer_is_stale,
    logits_missing,
    logits_before_normalisation,
]


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.__name__)
def test_wrong_classifier_fails(
    sabotage: Callable[[onnx.ModelProto], Any],
    labelled: PackedEncoder,
    checks: list[tuple[Case, Oracle]],
    tmp_path: Path,
) -> None:
    model = trace_to_onnx(labelled, {})
    before = model.SerializeToString()
    sabotage(model)
    assert model.SerializeToString() != before
    verdict = judge_onnx(model, tmp_path, checks)
    assert (verdict.status, verdict.known) == ("failed", False)
