"""Rewritten graphs pass the same audit, or the reason why there is none is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir.passes.common import RemoveUnusedNodesPass

from helpers.audit_models import batch_norm, by_place, lstm, plain_function, quantized, transformer
from helpers.sabotages import lengths_ignored
from helpers.small_transformer import Faults, small_transformer
from lengthwise.errors import AuditError
from lengthwise.export.audit.ask import audit_target
from lengthwise.export.audit.fix import fix_graph
from lengthwise.export.audit.run import run_audit
from lengthwise.export.audit.targets.open import open_target
from lengthwise.export.graphs.int8 import to_int8_dynamic


def fused(folder: Path) -> Path:
    """The quantised graph as onnxruntime saves it, with products and quantisation in one node."""
    graph = quantized(folder) / "onnx/model.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "onnx/fused.onnx")
    onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    (folder / "onnx/fused.onnx").rename(graph)
    kinds = {node.op_type for node in onnx.load(graph).graph.node}
    assert {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"} <= kinds
    return folder


FIXED: list[tuple[str, Callable[[Path], Path], str, float]] = [
    ("8 bits per batch", quantized, "ranges per row", 0.05),
    ("8 bits per batch, fused", fused, "ranges per row", 0.05),
    ("attention", transformer(Faults(masked=False)), "masked attention", 1e-4),
    ("mean", transformer(Faults(pooling="plain")), "masked mean", 1e-4),
    ("lengths", lstm(lengths_ignored), "sequence_lens", 1e-4),
    ("batch normalisation", transformer(Faults(batch_norm)), "inference mode", np.inf),
]


@pytest.mark.parametrize(("name", "make", "rewrite", "moves"), FIXED, ids=[case[0] for case in FIXED])
def test_fixed_graph_passes_and_a_text_alone_stays(
    name: str, make: Callable[[Path], Path], rewrite: str, moves: float, tmp_path: Path
) -> None:
    target = open_target(make(tmp_path / "model"))
    audit = audit_target(target, quick=True)
    fix = fix_graph(target, audit, tmp_path / "fixed.onnx")
    assert fix.rewrites == (rewrite,)
    assert fix.audit.passed
    assert fix.moved <= moves
    assert (tmp_path / "fixed.onnx").is_file()


def test_two_causes_are_fixed_together(tmp_path: Path) -> None:
    target = open_target(transformer(Faults(masked=False, pooling="plain"))(tmp_path / "model"))
    fix = fix_graph(target, audit_target(target, quick=True), tmp_path / "fixed.onnx")
    assert set(fix.rewrites) == {"masked attention", "masked mean"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (transformer(), "fails no question, so there is nothing to fix"),
        (transformer(Faults(vectors=by_place)), "no rewrite is known for .*order.*; nothing was written"),
        (lstm(rewrite=to_int8_dynamic), "no rewrite is known for neighbours.*; nothing was written"),
        (lambda folder: plain_function, "only ONNX graphs can be rewritten; this is a function"),
    ],
)
def test_what_cannot_be_fixed_is_said(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    target = open_target(make(tmp_path / "model"), quick=True)
    with pytest.raises(AuditError, match=message):
        fix_graph(target, audit_target(target, quick=True), tmp_path / "fixed.onnx")
    assert not (tmp_path / "fixed.onnx").exists()


def test_a_rewrite_that_does_not_help_is_not_written(tmp_path: Path) -> None:
    """Batch normalisation uses its stored statistics then, and the place in the batch is still added."""

    found = run_audit(
        transformer(Faults(batch_norm, by_place))(tmp_path / "model"), quick=True, fix=tmp_path / "fixed.onnx"
    )
    assert found.fix is None
    assert "with inference mode, it still fails" in found.not_fixed
    assert not (tmp_path / "fixed.onnx").exists()


def test_the_graph_itself_is_not_overwritten(tmp_path: Path) -> None:
    folder = quantized(tmp_path / "model")
    target = open_target(folder)
    audit = audit_target(target, quick=True, names=["neighbours"])
    before = (folder / "onnx/model.onnx").read_bytes()
    for output, message in ((folder / "onnx/model.onnx", "give another name"), (tmp_path / "out", r"ends in \.onnx")):
        with pytest.raises(AuditError, match=message):
            fix_graph(target, audit, output)
    assert (folder / "onnx/model.onnx").read_bytes() == before


def test_no_mask_to_use(tmp_path: Path) -> None:
    model = ir.from_proto(small_transformer(Faults(masked=False, pooling="plain")))
    RemoveUnusedNodesPass()(model)
    model.graph.inputs.remove(next(value for value in model.graph.inputs if value.name == "attention_mask"))
    onnx.save(ir.to_proto(model), tmp_path / "model.onnx")
    found = run_audit(tmp_path / "model.onnx", quick=True, fix=tmp_path / "fixed.onnx")
    assert any("takes no attention_mask" in cause.what for answer in found.failed for cause in answer.causes)
    assert "no rewrite can tell padding from text" in found.not_fixed


def test_ranges_per_row_are_those_of_single_tokens(tmp_path: Path) -> None:
    """A batch of one token is quantised as before: its range is the tensor's."""
    folder = quantized(tmp_path / "model")
    target = open_target(folder)
    fix = fix_graph(target, audit_target(target, quick=True, names=["neighbours"]), tmp_path / "fixed.onnx")
    ids, mask = np.array([[5]]), np.array([[1]])
    before, after = target.run(ids, mask), target.reopened(Path(fix.path)).run(ids, mask)  # type: ignore[attr-defined]
    np.testing.assert_allclose(after, before, atol=2e-3)
