"""import_model.py: weights into a checkpoint that encodes, mappings that are written, and sources that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from helpers.cli import Invoke, refusal
from lengthwise import Encoder

WORDS = ["<pad>", "<unk>", "the", "cat", "sat"]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    parts = {"emb": nn.Embedding(5, 4), "lstm": nn.LSTM(4, 3, bidirectional=True), "fc": nn.Linear(6, 2)}
    state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    torch.save({"state_dict": state, "words": {word: number for number, word in enumerate(WORDS)}}, tmp_path / "w.pt")
    return tmp_path / "w.pt"


def test_an_inspected_mapping_is_edited_and_imported(weights: Path, tmp_path: Path, invoke: Invoke) -> None:
    mapping, model = tmp_path / "mapping.yaml", tmp_path / "model"
    result = invoke("import_model", weights, "--inspect", "--mapping", mapping)
    assert result.exit_code == 0, result.stderr
    assert "lstm.weight_hh_l0_reverse  12 x 3" in result.stdout
    assert "already exists" in refusal(invoke("import_model", weights, "--inspect", "--mapping", mapping))
    assert "the mapping says no pooling" in refusal(
        invoke("import_model", weights, "--mapping", mapping, "--output", model)
    )
    filled = yaml.safe_load(mapping.read_text())
    filled["pooling"], filled["tokens"]["unknown"] = "max", "<unk>"
    mapping.write_text(yaml.safe_dump(filled))
    (tmp_path / "texts.txt").write_text("the cat sat\nthe\n")
    arguments = ("--mapping", mapping, "--output", model)
    result = invoke("import_model", weights, *arguments, "--texts", tmp_path / "texts.txt")
    assert result.exit_code == 0, result.stderr
    assert "padding     packed; read with the padding of a batch of 3 tokens, outputs move by up to" in result.stdout
    assert "5 x 4 embeddings, 1 x 3 units, pooling max, vectors of 6" in result.stdout
    assert result.stdout.endswith(f"next        lengthwise export {model} --output artifact\n")
    encoder = Encoder.load(model, device="cpu")
    assert encoder.labels == ("label0", "label1")
    assert np.ptp(encoder.logits(["the cat sat", "cat"])) > 0
    assert "already exists; give --overwrite" in refusal(invoke("import_model", weights, *arguments))


def test_nothing_is_written_of_a_source_that_is_refused(weights: Path, tmp_path: Path, invoke: Invoke) -> None:
    model = tmp_path / "model"
    assert "weights do not say how texts become ids" in refusal(invoke("import_model", weights, "--output", model))
    (own := tmp_path / "own").mkdir()
    (own / "config.json").write_text('{"model_type": "lengthwise"}')
    (own / "model.safetensors").write_bytes(weights.read_bytes())
    assert "own: a model of Lengthwise already" in refusal(invoke("import_model", own, "--output", model))
    (tmp_path / "broken.yaml").write_text("poling: max\ntokens: {units: words}\n")
    message = refusal(invoke("import_model", weights, "--mapping", tmp_path / "broken.yaml", "--output", model))
    assert "2 mistakes" in message
    assert "did you mean 'pooling'?" in message
    (tmp_path / "file.txt").write_text("text")
    assert "not a kind of file that is imported" in refusal(
        invoke("import_model", tmp_path / "file.txt", "--output", model)
    )
    assert not model.exists()


def test_export_writes_a_folder_of_sentence_transformers(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    folder, model = tmp_path / "sentence", tmp_path / "imported"
    arguments = ("--format", "sentence-transformers", "--set", f"export.output={folder}")
    result = invoke("export_model", trained, *arguments)
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in folder.iterdir()) == [
        "1_LSTM",
        "2_Pooling",
        "config_sentence_transformers.json",
        "model.safetensors",
        "modules.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "wordembedding_config.json",
    ]
    assert "not empty" in refusal(invoke("export_model", trained, *arguments))
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    result = invoke("import_model", folder, "--output", model)
    assert result.exit_code == 0, result.stderr
    assert "from sentence-transformers, on 64 texts of its vocabulary" in result.stdout
