"""`make distil`: its steps over what is at hand already, and the teacher as an int8 graph."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from helpers.students import make_texts, save_teacher, student_config, write_rows
from lengthwise.cli import distil
from lengthwise.cli.corpora.int8_teacher import write_int8_graph
from lengthwise.tokens.tokenizer import TextTokenizer


def test_trains_exports_and_measures(tmp_path: Path, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(distil, "MODELS", ("bm25",))
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json())
    texts = make_texts(120)
    write_rows(tmp_path / "rows.parquet", text=texts, backwards=[" ".join(reversed(text.split())) for text in texts])
    teacher = str(save_teacher(tmp_path / "teacher", tokenizer))
    for folder in (Path("runs/evaluation"), distil.INT8_TEACHER):
        folder.mkdir(parents=True)
    config = student_config(tmp_path, [{"kind": "teacher"}], teacher=teacher, max_steps=4)
    (tmp_path / "run.yaml").write_text(config.to_yaml())
    (tmp_path / "tasks.yaml").write_text(
        "tasks:\n  find: {kind: retrieval, pairs: rows.parquet, query: text, document: backwards}\n"
    )
    result = CliRunner().invoke(distil.main, ["run.yaml", "--data", "tasks.yaml", "--no-costs"])
    assert result.exit_code == 0, result.output
    steps = [line for line in result.output.splitlines() if line.lstrip("$ ").startswith("lengthwise ")]
    assert [line.lstrip("$ ").split()[1] for line in steps] == ["train", "export", "evaluate"]
    models = json.loads(Path("runs/distil/quality/evaluation.json").read_text())["models"]
    assert [bool(model["tasks"]["find"]["metrics"]) for model in models] == [True] * 5


@pytest.mark.slow
def test_int8_teacher_takes_any_batch_and_length(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    transformers = pytest.importorskip("transformers")
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = transformers.BertModel(transformers.BertConfig(vocab_size=50, max_position_embeddings=512, **shape))
    model.save_pretrained(tmp_path / "teacher")
    for name in ("tokenizer.json", "sentence_bert_config.json", "1_Pooling/config.json"):
        (tmp_path / "teacher" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "teacher" / name).write_text("{}")
    write_int8_graph(tmp_path / "teacher", tmp_path / "int8")
    path = tmp_path / "int8/onnx/model.onnx"
    assert any("Integer" in node.op_type or "Quantize" in node.op_type for node in onnx.load(path).graph.node)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for rows, length in ((1, 3), (4, 17)):
        ids = np.arange(rows * length).reshape(rows, length) % 50
        (states,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        assert states.shape == (rows, length, 32)
    assert (tmp_path / "int8/1_Pooling/config.json").exists()
