"""Teachers: each kind of folder, its fingerprint and its word embeddings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from helpers.students import make_texts, save_teacher
from lengthwise import Encoder
from lengthwise.encoder.checkpoint import load_checkpoint
from lengthwise.errors import CheckpointError
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.training.teacher import FolderTeacher, open_teacher

TEXTS = make_texts(30)


def check_token_vectors(teacher: FolderTeacher) -> None:
    vectors, tokenizer = teacher.token_vectors(), teacher.load_tokenizer()
    assert vectors is not None
    assert len(vectors) == tokenizer.vocab_size
    words = [str(tokenizer.token(number)) for number in range(2, tokenizer.vocab_size)]
    np.testing.assert_allclose(vectors[2:], teacher.encode(words), atol=1e-5)
    np.testing.assert_allclose(teacher.word_vectors(TEXTS[:9]), teacher.encode(TEXTS[:9]), atol=1e-5)


def test_checkpoint_is_a_teacher(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    folder = save_teacher(tmp_path / "teacher", tokenizer)
    teacher = open_teacher(str(folder))
    np.testing.assert_allclose(teacher.encode(TEXTS), Encoder.load(folder).encode(TEXTS), atol=1e-6)
    assert teacher.load_tokenizer().fingerprint == tokenizer.fingerprint
    table = load_checkpoint(folder)[0].embedding.weight.detach().numpy()
    np.testing.assert_array_equal(teacher.word_embeddings(), table)
    check_token_vectors(teacher)


def test_artifact_is_a_teacher(artifact_folder: Path) -> None:
    teacher = open_teacher(str(artifact_folder))
    np.testing.assert_allclose(teacher.encode(TEXTS), Encoder.load(artifact_folder).encode(TEXTS), atol=1e-6)
    assert teacher.word_embeddings() is not None
    check_token_vectors(teacher)


def test_fingerprint_is_of_what_a_vector_depends_on(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    folder = save_teacher(tmp_path / "teacher", tokenizer)
    found = open_teacher(str(folder)).fingerprint
    (folder / "README.md").write_text("a card")
    moved = shutil.move(folder, tmp_path / "moved")
    assert open_teacher(str(moved)).fingerprint == found
    assert open_teacher(str(moved), precision="bf16").fingerprint != found
    other = save_teacher(tmp_path / "other", tokenizer, seed=6)
    assert open_teacher(str(other)).fingerprint != found


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["bert.embeddings.position_embeddings.weight", "bert.embeddings.word_embeddings.weight"], 1),
        (["model.embed_tokens.weight", "lm_head.weight"], 0),
        (["encoder.layer.weight", "transformer.wte.weight"], 1),
        (["encoder.layer.weight"], None),
    ],
)
def test_table_is_found_by_its_usual_names(
    tmp_path: Path, tokenizer: TextTokenizer, names: list[str], expected: int | None
) -> None:
    rows = tokenizer.vocab_size
    tables = [torch.full((rows + 3, 2), float(number), dtype=torch.float16) for number in range(len(names))]
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json())
    save_file(dict(zip(names, tables, strict=True)), tmp_path / "model.safetensors")
    found = open_teacher(str(tmp_path)).word_embeddings()
    if expected is None:
        assert found is None
    else:
        np.testing.assert_array_equal(found, np.full((rows + 3, 2), expected, np.float32))


@pytest.mark.parametrize(
    ("files", "message"), [({}, "no model that can be a teacher"), ({"model.bin": ""}, "no model")]
)
def test_other_folders_are_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        open_teacher(str(tmp_path))
    with pytest.raises(CheckpointError, match="run hf download someone/model --local-dir FOLDER"):
        open_teacher("someone/model")


@pytest.mark.slow
def test_sentence_transformers_model_is_a_teacher(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as models
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=tokenizer.vocab_size, **size)).save_pretrained(tmp_path / "bert")
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json())
    fast = PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), pad_token="[PAD]", unk_token="[UNK]"
    )
    fast.save_pretrained(tmp_path / "bert")
    transformer = models.Transformer(str(tmp_path / "bert"), max_seq_length=32)
    model = SentenceTransformer(modules=[transformer, models.Pooling(16), models.Normalize()], device="cpu")
    model.save(str(tmp_path / "teacher"))
    teacher = open_teacher(str(tmp_path / "teacher"))
    np.testing.assert_allclose(teacher.encode(TEXTS), model.encode(TEXTS), atol=1e-5)
    table = teacher.word_embeddings()
    assert table is not None
    assert table.shape == (tokenizer.vocab_size, 16)
    assert len(teacher.load_tokenizer().encode_batch(["the cat"])[0].ids) == 2
    modules = json.loads((tmp_path / "teacher/modules.json").read_text())
    assert len(modules) == 3
    short = open_teacher(str(tmp_path / "teacher"), precision="bf16").encode(TEXTS)
    assert teacher.token_vectors() is not None
    assert 0 < np.abs(short - teacher.encode(TEXTS)).max() < 0.05
