"""Folders of sentence-transformers, in PyTorch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.small_transformer import VOCABULARY, small_tokenizer
from lengthwise.errors import ConfigError
from lengthwise.export.audit.ask import audit_target
from lengthwise.export.audit.targets.open import OpenOptions, open_target
from lengthwise.export.audit.targets.sentence_transformer import SentenceIds, SentenceTexts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def library() -> Any:
    return pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")


@pytest.fixture(scope="module")
def folder(library: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from sentence_transformers.sentence_transformer import modules as models
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("model")
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(VOCABULARY), **size)).save_pretrained(path / "bert")
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=small_tokenizer(), **special).save_pretrained(path / "bert")
    transformer = models.Transformer(str(path / "bert"), max_seq_length=40)
    modules = [transformer, models.Pooling(32), models.Normalize()]
    library.SentenceTransformer(modules=modules, device="cpu").save(str(path / "whole"))
    return path / "whole"


def test_a_sound_model_passes(folder: Path) -> None:
    target = open_target(folder)
    assert isinstance(target, SentenceIds)
    found = audit_target(target, quick=True)
    assert found.failed == ()
    assert {answer.question for answer in found.by_verdict("pass")} >= {"neighbours", "padding contents", "length 1"}
    long = found.answer("long texts")
    assert long.verdict == "limit"
    assert long.says == "a text is read up to 40 tokens, as its files say; the library cuts longer ones silently"


def test_quantised_layers_and_training_mode_are_found_and_named(folder: Path) -> None:
    import torch

    quantized = open_target(folder)
    assert isinstance(quantized, SentenceIds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch moves this quantiser to another package
        torch.ao.quantization.quantize_dynamic(quantized.model, {torch.nn.Linear}, dtype=torch.qint8, inplace=True)
        answer = audit_target(quantized, quick=True, names=["neighbours"]).answer("neighbours")
    assert answer.verdict == "fail"
    assert any("dynamically quantised layers" in cause.what for cause in answer.causes)
    training = open_target(folder)
    assert isinstance(training, SentenceIds)
    training.model.train()
    answer = audit_target(training, quick=True, names=["repeat"]).answer("repeat")
    assert answer.verdict == "fail"
    assert [cause.what for cause in answer.causes] == ["modules are in training mode"]


def test_other_first_modules_take_texts(library: Any, tmp_path: Path) -> None:
    import torch
    from sentence_transformers.sentence_transformer.modules import LSTM, Pooling, WordEmbeddings
    from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

    torch.manual_seed(0)
    words = WordEmbeddings(WhitespaceTokenizer(list(VOCABULARY), stop_words=[]), torch.randn(len(VOCABULARY), 12))
    recurrent = LSTM(12, 9)
    model = library.SentenceTransformer(modules=[words, recurrent, Pooling(18)], device="cpu")
    model.save(str(tmp_path / "model"))
    target = open_target(tmp_path / "model", quick=True)
    assert isinstance(target, SentenceTexts)
    assert audit_target(target, quick=True, names=["neighbours", "mixed lengths", "every token"]).passed


def test_graph_options_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="--output and --pooling are for ONNX graphs"):
        open_target(folder, OpenOptions(pooling="cls"))
    vectors = open_target(folder).encode_texts(["the cat", "rain"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
