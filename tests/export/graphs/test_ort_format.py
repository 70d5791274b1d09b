"""onnxruntime's own format: the same bits as the graph it was made from, and what a reduced build needs for it."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import seeded_encoder
from lengthwise.errors import ArtifactError
from lengthwise.export.artifact.build import build_artifact
from lengthwise.export.artifact.folder import Artifact
from lengthwise.export.graphs import trace
from lengthwise.export.graphs.ort_format import save_ort
from lengthwise.export.graphs.trace import save_onnx, trace_to_onnx
from lengthwise.export.graphs.variants import DEVICE_VARIANTS, ORT, ORT_OPERATORS_FILE
from lengthwise.export.runtimes import NotRunnable
from lengthwise.export.runtimes.javascript import OnnxRuntimeNode, OnnxRuntimeWeb
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu
from lengthwise.export.validation.cases import grid_cases
from lengthwise.export.validation.validate import validate_artifact
from lengthwise.tokens.tokenizer import TextTokenizer

ENCODERS: dict[str, dict[str, Any]] = {
    "stacked": {"num_layers": 2, "bidirectional": True, "pooling": "mean_last", "static_residual": True},
    "attention": {"pooling": "attention_max", "normalize": True, "projection_dim": 5},
    "gru": {"cell": "gru", "gate_activation": "hard_sigmoid_keras3"},
    "labels": {"classifier": {"labels": ["a", "b"], "dense": [{"dim": 4, "activation": "gelu"}]}},
}


@pytest.fixture(params=ENCODERS)
def graph(request: pytest.FixtureRequest, tmp_path: Path, encoder_config: Callable[..., EncoderConfig]) -> Path:
    path = tmp_path / "model.onnx"
    save_onnx(trace_to_onnx(seeded_encoder(encoder_config(**ENCODERS[request.param]), 0), {}), path)
    return path


def test_both_files_give_the_same_bits(graph: Path, tmp_path: Path) -> None:
    save_ort(graph, tmp_path / "model.ort", tmp_path / "operators")
    before, after = OnnxRuntimeCpu(threads=1), OnnxRuntimeCpu(threads=1)
    before.load(graph)
    after.load(tmp_path / "model.ort")
    for case in grid_cases(10):
        pairs = zip(*(runtime.run(case.input_ids, case.attention_mask) for runtime in (before, after)), strict=True)
        assert all(one.tobytes() == other.tobytes() for one, other in pairs)


@pytest.mark.parametrize("kind", [OnnxRuntimeNode, OnnxRuntimeWeb])
def test_node_and_browsers_give_the_same_bits(
    kind: type[OnnxRuntimeNode] | type[OnnxRuntimeWeb], tmp_path: Path, encoder_config: Callable[..., EncoderConfig]
) -> None:
    graph = tmp_path / "model.onnx"
    save_onnx(trace_to_onnx(seeded_encoder(encoder_config(**ENCODERS["stacked"]), 0), {}), graph)
    save_ort(graph, tmp_path / "model.ort", tmp_path / "operators")
    case = next(case for case in grid_cases(10) if len(case.lengths) > 1)
    found = []
    for path in (graph, tmp_path / "model.ort"):
        runtime = kind()
        try:
            runtime.load(path)
            found.append([output.tobytes() for output in runtime.run(case.input_ids, case.attention_mask)])
        except NotRunnable as reason:
            pytest.skip(f"{kind.name} was not run: {reason}")
        finally:
            runtime.close()
    assert found[0] == found[1]


def test_list_names_every_operator_and_no_path(graph: Path, tmp_path: Path) -> None:
    save_ort(graph, tmp_path / "model.ort", tmp_path / "operators")
    text = (tmp_path / "operators").read_text()
    recurrent = {"LSTM", "GRU"} & {node.op_type for node in onnx.load(graph).graph.node}
    listed = set(re.findall(r"[;,]([A-Z]\w+)", text))
    assert recurrent <= listed
    assert {"Gather", "Transpose"} <= listed
    assert "float" in text
    assert "/" not in text


def test_artifact_has_it_only_if_it_is_asked_for(
    artifact_folder: Path, tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    assert not (artifact_folder / "ort").exists()
    encoder = seeded_encoder(encoder_config(bidirectional=True), 0)
    artifact = Artifact.open(build_artifact(encoder, tokenizer, tmp_path / "artifact", variants=[ORT]).folder)
    assert artifact.manifest["variants"] == {"native": "onnx/model.onnx", ORT: "ort/model.ort"}
    assert ORT_OPERATORS_FILE in artifact.manifest["files"]
    assert "ort/model.ort" in (artifact.folder / "README.md").read_text()
    verdicts = validate_artifact(artifact, [OnnxRuntimeCpu]).verdicts
    assert [(verdict.variant, verdict.status) for verdict in verdicts] == [("native", "passed"), (ORT, "passed")]


def test_damaged_weights_fail_validation(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    artifact = build_artifact(seeded_encoder(encoder_config(), 0), tokenizer, tmp_path / "artifact", variants=[ORT])
    other = tmp_path / "other.onnx"
    save_onnx(trace_to_onnx(seeded_encoder(encoder_config(), 1), {}), other)
    save_ort(other, artifact.folder / "ort/model.ort", tmp_path / "operators")
    verdicts = validate_artifact(artifact, [OnnxRuntimeCpu]).verdicts
    assert [verdict.status for verdict in verdicts] == ["passed", "failed"]
    assert not verdicts[1].known


def test_missing_onnxruntime_has_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ArtifactError, match=r"install lengthwise\[cpu\], or leave it out of export\.variants"):
        save_ort(tmp_path / "model.onnx", tmp_path / "model.ort", tmp_path / "operators")


@pytest.mark.parametrize("variant", DEVICE_VARIANTS)
def test_graph_above_the_limit_is_refused(
    variant: str,
    tmp_path: Path,
    tokenizer: TextTokenizer,
    encoder_config: Callable[..., EncoderConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trace, "PROTOBUF_LIMIT", 100)
    encoder = seeded_encoder(encoder_config(vocab_size=500), 0)
    with pytest.raises(ArtifactError, match=f"the graph {variant} holds 2 GB at most"):
        build_artifact(encoder, tokenizer, tmp_path / "artifact", variants=[variant])
    assert not (tmp_path / "artifact").exists()


def test_root_logger_keeps_its_handlers(graph: Path, tmp_path: Path) -> None:
    """onnxruntime's tools configure the root logger when they are imported."""
    before = list(logging.getLogger().handlers)
    save_ort(graph, tmp_path / "model.ort", tmp_path / "operators")
    assert logging.getLogger().handlers == before


def test_unknown_graph_is_refused(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    with pytest.raises(ArtifactError, match=r"no graph 'int4'; choose from native, .*, ort"):
        build_artifact(seeded_encoder(encoder_config(), 0), tokenizer, tmp_path / "artifact", variants=["int4"])
    assert not (tmp_path / "artifact").exists()
