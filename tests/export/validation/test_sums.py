"""Sums over time: judged by the accumulated error of their states, which passes a correct graph and no wrong one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from helpers.engines import FunctionRuntime
from helpers.sabotages import (
    Sabotage,
    bias_dropped,
    edit_weight,
    gates_swapped,
    lengths_cut_at_512,
    lengths_off_by_one,
    one_weight_is_stale,
    unknown_token_moved,
)
from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.artifact.oracle import Oracle, compute_oracle
from lengthwise.export.graphs.portable import to_portable
from lengthwise.export.graphs.rewrite import REWRITES
from lengthwise.export.graphs.trace import save_onnx, trace_to_onnx
from lengthwise.export.graphs.variants import FP16, INT8, NATIVE, VARIANTS
from lengthwise.export.runtimes import Outputs, Runtime
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu
from lengthwise.export.runtimes.pytorch import PyTorchEager, PyTorchStepwise
from lengthwise.export.runtimes.tolerances import CPU_TOLERANCE
from lengthwise.export.validation.cases import Case, grid_cases, vocabulary_cases
from lengthwise.export.validation.compare import Comparator
from lengthwise.export.validation.records import validation_to_json
from lengthwise.export.validation.report import validation_to_markdown
from lengthwise.export.validation.validate import judge, validate_artifact
from lengthwise.export.validation.verdict import Verdict
from lengthwise.tokens.tokenizer import TextTokenizer

ONNX_FILE = VARIANTS[NATIVE].file
Sums = tuple[PackedEncoder, list[tuple[Case, Oracle]], onnx.ModelProto]


@pytest.fixture(scope="module")
def sums() -> Sums:
    """257 units, summed over time and projected to one number, in which the large sums cancel in some texts.

    Differences of correct runtimes from PyTorch are up to 2.6e-6 of max(1, |value|) there.
    """
    config = EncoderConfig(vocab_size=300, embedding_dim=16, hidden_size=257, pooling="sum", projection_dim=1)
    encoder = seeded_encoder(config, 3)
    ids, lengths = np.random.default_rng(5).integers(300, size=(4, 512)), np.array([512, 3, 200, 512])
    ids[0] = 3  # a token that is repeated: each step rounds the sum the same way
    repeated = Case("a repeated token", "real texts", ids, lengths, 300)
    cases = [*grid_cases(300), *vocabulary_cases(300), repeated]
    checks = [(case, compute_oracle(encoder, case.input_ids, case.lengths)) for case in cases]
    return encoder, checks, trace_to_onnx(encoder, {})


def judge_graph(model: onnx.ModelProto, folder: Path, sums: Sums) -> Verdict:
    (folder / "onnx").mkdir(exist_ok=True)
    (folder / ONNX_FILE).write_bytes(model.SerializeToString())
    return judge(OnnxRuntimeCpu(), VARIANTS[NATIVE], folder, sums[1])


@pytest.mark.slow
def test_correct_graphs_of_a_sum_pass(tmp_path: Path, sums: Sums) -> None:
    for model in (sums[2], to_portable(sums[2])):
        verdict = judge_graph(model, tmp_path, sums)
        assert (verdict.status, verdict.reason) == ("passed", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", [FP16, INT8])
def test_lower_precisions_of_a_sum_pass_without_a_cosine(name: str, tmp_path: Path, sums: Sums) -> None:
    """That of two single numbers is but their signs, and says nothing of a value near zero."""
    (tmp_path / "onnx").mkdir()
    save_onnx(REWRITES[name](sums[2]), tmp_path / VARIANTS[name].file)
    verdict = judge(OnnxRuntimeCpu(), VARIANTS[name], tmp_path, sums[1])
    assert (verdict.status, verdict.comparison.cosine) == ("passed", None)


@pytest.mark.parametrize("name", [NATIVE, FP16, INT8])
def test_rounding_of_a_sum_does_not_grow_with_the_tolerance(name: str, tmp_path: Path, sums: Sums) -> None:
    """Of a repeated token, where it is largest: a lower precision gets no more of it than float32."""
    encoder, checks, _ = sums
    case, oracle = next((case, oracle) for case, oracle in checks if case.name == "a repeated token")
    assert oracle.allowance is not None
    packed = PyTorchEager(encoder)
    packed.load(tmp_path)
    tolerance = packed.tolerances(VARIANTS[name]).difference
    fixed, scale = (float(each[0, 0]) for each in (oracle.allowance.fixed, oracle.allowance.scale))
    assert fixed > 0.1 * CPU_TOLERANCE * scale  # so it matters there
    allowed = max(tolerance * max(1, abs(float(oracle.vectors[0, 0]))), fixed + tolerance * scale)
    for factor, passes in ((0.9, True), (1.1, False)):

        def off(ids: NDArray[np.int64], mask: NDArray[np.int64], error: float = factor * allowed) -> Outputs:
            vectors, states = packed.run(ids, mask)
            repeats = (mask.sum(axis=1, keepdims=True) == 512) & (ids[:, :1] == ids[:, 1:2]) & (ids[:, 2:3] == 3)
            return vectors + np.float32(error) * repeats, states

        comparator = Comparator(FunctionRuntime(off))
        comparator.compare(case, oracle)
        found = comparator.result().needed(of_batch=False)
        assert found is not None
        assert (found <= tolerance) == passes


@pytest.mark.slow
@pytest.mark.parametrize("kind", [PyTorchEager, PyTorchStepwise])
def test_correct_sum_passes_in_pytorch(kind: type[PyTorchEager | PyTorchStepwise], tmp_path: Path, sums: Sums) -> None:
    verdict = judge(kind(sums[0]), VARIANTS[NATIVE], tmp_path, sums[1])
    assert (verdict.status, verdict.reason) == ("passed", "")


def projection_of(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == "Gemm")


def projection_bias_dropped(model: onnx.ModelProto) -> None:
    del projection_of(model).input[2]


def one_projection_weight_is_stale(model: onnx.ModelProto) -> None:
    def nudge(weight: NDArray[np.float32]) -> NDArray[np.float32]:
        weight = weight.copy()
        weight[0, 7] += 1e-3
        return weight

    edit_weight(model, projection_of(model).input[1], nudge)


def projection_in_bfloat16(model: onnx.ModelProto) -> None:
    def shorten(weight: NDArray[np.float32]) -> NDArray[np.float32]:
        return (weight.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)

    edit_weight(model, projection_of(model).input[1], shorten)


def sum_is_a_mean(model: onnx.ModelProto) -> None:
    """The sum is divided by the number of tokens."""
    projection = projection_of(model)
    index = list(model.graph.node).index(projection)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "token_axis"))
    nodes = [
        helper.make_node("ReduceSum", ["attention_mask", "token_axis"], ["counted"], keepdims=1),
        helper.make_node("Cast", ["counted"], ["counted_float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Max", ["counted_float", "at_least"], ["counts"]),
        helper.make_node("Div", [projection.input[0], "counts"], ["mean"]),
    ]
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), "at_least"))
    for offset, node in enumerate(nodes):
        model.graph.node.insert(index + offset, node)
    projection.input[0] = "mean"


def relative_error_of_the_sum(model: onnx.ModelProto) -> None:
    """Sums are 2e-5 too large: as if they were rounded to 16 bits."""
    projection = projection_of(model)
    index = list(model.graph.node).index(projection)
    model.graph.initializer.append(numpy_helper.from_array(np.array(1 + 2e-5, np.float32), "factor"))
    model.graph.node.insert(index, helper.make_node("Mul", [projection.input[0], "factor"], ["scaled"]))
    projection.input[0] = "scaled"


@pytest.mark.slow
@pytest.mark.parametrize(
    "sabotage",
    [
        gates_swapped,
        bias_dropped,
        one_weight_is_stale,
        unknown_token_moved,
        lengths_off_by_one,
        lengths_cut_at_512,
        projection_bias_dropped,
        one_projection_weight_is_stale,
        projection_in_bfloat16,
        sum_is_a_mean,
        relative_error_of_the_sum,
    ],
    ids=lambda sabotage: sabotage.__name__,
)
def test_wrong_graph_of_a_sum_fails(sabotage: Sabotage, tmp_path: Path, sums: Sums) -> None:
    model = copy.deepcopy(sums[2])
    sabotage(model)
    verdict = judge_graph(model, tmp_path, sums)
    assert verdict.status == "failed"
    assert not verdict.known


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_tolerance_of_other_encoders_is_unchanged(pooling: str, tmp_path: Path) -> None:
    """An error of 2e-6 in one value of a vector fails, and one of 5e-7 passes."""
    config = EncoderConfig(vocab_size=50, embedding_dim=8, hidden_size=12, pooling=pooling, projection_dim=1)
    encoder = seeded_encoder(config, 0)
    checks = [(case, compute_oracle(encoder, case.input_ids, case.lengths)) for case in grid_cases(50)]
    packed = PyTorchEager(encoder)
    packed.load(tmp_path)
    for error, status in ((2e-6, "failed"), (5e-7, "passed")):

        def off(ids: NDArray[np.int64], mask: NDArray[np.int64], error: float = error) -> Outputs:
            vectors, states = packed.run(ids, mask)
            return vectors + np.float32(error) * (mask.sum(axis=1, keepdims=True) > 500), states

        runtime: Runtime = FunctionRuntime(off)
        assert judge(runtime, VARIANTS[NATIVE], tmp_path, checks).status == status


@pytest.mark.slow
def test_report_says_how_a_sum_is_judged(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    for pooling in ("sum", "mean"):
        encoder = seeded_encoder(encoder_config(pooling=pooling, projection_dim=1), 0)
        artifact = build_artifact(encoder, tokenizer, tmp_path / pooling, variants=())
        validation = validate_artifact(artifact, [OnnxRuntimeCpu])
        text = validation_to_markdown(validation)
        if pooling == "mean":
            assert "A sum over time" not in text
            assert '"sum_scales": []' in validation_to_json(validation)
            assert artifact.load_golden().allowance is None
            continue
        assert validation.passed
        assert "### A sum over time" in text
        assert [scale.tokens for scale in validation.sum_scales] == [1, 8, 64, 333, 600]
        assert all(scale.divisor >= scale.factor >= 1 for scale in validation.sum_scales)
        assert f"| 600 | {validation.sum_scales[-1].divisor:.1f} | {validation.sum_scales[-1].factor:.1f} |" in text
        assert '"sum_scales": [\n  {\n   "tokens": 1,' in validation_to_json(validation)


def test_golden_vectors_of_a_sum_are_judged_in_the_same_way(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    """By the server too, which has no PyTorch to compute the accumulated error."""
    encoder = seeded_encoder(encoder_config(pooling="sum", projection_dim=1, hidden_size=200), 0)
    golden = build_artifact(encoder, tokenizer, tmp_path / "artifact", variants=()).load_golden()
    expected = compute_oracle(encoder, golden.input_ids, golden.lengths).allowance
    assert expected is not None
    assert golden.allowance is not None
    np.testing.assert_array_equal(golden.allowance.scale, expected.scale)
    np.testing.assert_array_equal(golden.allowance.fixed, expected.fixed)
    row = int(np.argmax(expected.scale[:, 0] / np.maximum(1, np.abs(golden.vectors[:, 0]))))
    moved = golden.vectors.copy()
    moved[row] += np.float32(1e-3)
    divisor = max(1.0, abs(float(golden.vectors[row, 0])), float(expected.scale[row, 0]))
    assert divisor > 1
    assert golden.needed_tolerance(moved) == pytest.approx(1e-3 / divisor, rel=1e-2)
    moved[row] = np.nan
    assert golden.needed_tolerance(moved) == np.inf
