"""sentence-transformers' folders in and out: equal vectors on 1,000 varied texts, in the layouts of versions 2 to 6."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lengthwise import Encoder
from lengthwise.config import EncoderConfig
from lengthwise.encoder.model import PackedEncoder
from lengthwise.errors import CheckpointError, LengthwiseError
from lengthwise.formats.sentence_transformers import read_sentence_transformers
from lengthwise.formats.sentence_transformers_writer import write_sentence_transformers
from lengthwise.tokens.tokenizer import TextTokenizer

WORDS = [
    "PADDING_TOKEN", "apple", "Apple", "apples", "u.s.", "U.S.", "cat", "Cat", "dog", "'tis", "naïve", "NATO", "nato",
    "C++", "über", "12", "3.5", "end",
]  # fmt: skip
STOP_WORDS = ["the", "a", "is", "!", "And"]


@pytest.fixture(scope="module")
def library() -> Any:
    return pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")


def varied_texts(count: int = 1_000) -> list[str]:
    """Texts of 1 to 60 words, with capitals, punctuation, unknown words and odd spaces; each has a known word."""
    draw = random.Random(5)
    known = [*WORDS[1:], *STOP_WORDS, "unknown", "Ünknown"]
    forms: list[Callable[[str], str]] = [str, str.upper, str.title, "({})".format, "{}.".format, '"{}",'.format]
    texts = []
    for number in range(count):
        words = [draw.choice(forms)(draw.choice(known)) for _ in range(1 + number % 60)]
        texts.append(draw.choice((" ", "  ", "\t", "\u3000")).join([*words, "cat"]))
    return texts


def theirs(library: Any, folder: Path, texts: list[str]) -> np.ndarray:
    return library.SentenceTransformer(str(folder), device="cpu").encode(texts, batch_size=64)


def ours(folder: Path, texts: list[str]) -> np.ndarray:
    encoder, tokenizer, _ = read_sentence_transformers(folder)
    return Encoder(encoder, tokenizer, device="cpu").encode(texts)


def write_theirs(library: Any, folder: Path, pooling: Any, *rest: Any, limit: int = 1_000_000, **lstm: Any) -> Path:
    """A model of the library with seeded weights, saved by it."""
    from sentence_transformers.sentence_transformer.modules import LSTM, Pooling, WordEmbeddings
    from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

    torch.manual_seed(3)
    tokenizer = WhitespaceTokenizer(WORDS, stop_words=STOP_WORDS)
    words = WordEmbeddings(tokenizer, torch.randn(len(WORDS), 12), max_seq_length=limit)
    recurrent = LSTM(12, 9, **lstm)
    pool = Pooling(recurrent.get_embedding_dimension(), pooling)
    library.SentenceTransformer(modules=[words, recurrent, pool, *rest], device="cpu").save(str(folder))
    return folder


def as_version_2(folder: Path) -> Path:
    """The same model in the layout that version 2 wrote."""
    from safetensors.torch import load_file

    modules = json.loads((folder / "modules.json").read_text())
    words = folder / "0_WordEmbeddings"
    words.mkdir()
    for name in ("wordembedding_config.json", "whitespacetokenizer_config.json", "model.safetensors"):
        shutil.move(folder / name, words / name)
    modules[0]["path"] = words.name
    for module in modules:
        module["type"] = "sentence_transformers.models." + module["type"].rpartition(".")[2]
        place = folder / module["path"]
        if (place / "model.safetensors").is_file():
            torch.save(load_file(place / "model.safetensors"), place / "pytorch_model.bin")
            (place / "model.safetensors").unlink()
    record = json.loads((words / "wordembedding_config.json").read_text())
    record["tokenizer_class"] = "sentence_transformers.models.tokenizer.WhitespaceTokenizer.WhitespaceTokenizer"
    (words / "wordembedding_config.json").write_text(json.dumps(record))
    for path in (folder / "1_LSTM" / "lstm_config.json", folder / "2_Pooling" / "config.json"):
        record = json.loads(path.read_text())
        record["word_embedding_dimension"] = record.pop("embedding_dimension")
        if (mode := record.pop("pooling_mode", None)) is not None:
            record |= {"pooling_mode_cls_token": False, f"pooling_mode_{mode}_tokens": True}
            record.pop("include_prompt")
        path.write_text(json.dumps(record))
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def test_vectors_are_those_of_the_library(library: Any, tmp_path: Path) -> None:
    texts = varied_texts()
    folder = write_theirs(library, tmp_path / "mean", "mean", num_layers=2)
    expected = theirs(library, folder, texts)
    assert np.abs(ours(folder, texts) - expected).max() <= 1e-6
    assert np.ptp(expected, axis=0).min() > 0.05
    assert np.abs(ours(as_version_2(folder), texts) - expected).max() <= 1e-6
    one_way = write_theirs(library, tmp_path / "last", "lasttoken", limit=20, bidirectional=False)
    assert np.abs(ours(one_way, texts) - theirs(library, one_way, texts)).max() <= 1e-6


def test_a_written_folder_is_opened_by_the_library(library: Any, tmp_path: Path) -> None:
    texts = varied_texts()
    folder = write_theirs(library, tmp_path / "source", "max")
    encoder, tokenizer, _ = read_sentence_transformers(folder)
    (note,) = write_sentence_transformers(tmp_path / "written", encoder, tokenizer)
    assert "a text without tokens" in note
    expected = Encoder(encoder, tokenizer, device="cpu").encode(texts)
    assert np.abs(theirs(library, tmp_path / "written", texts) - expected).max() <= 1e-6
    assert np.array_equal(ours(tmp_path / "written", texts), expected)
    with pytest.raises(CheckpointError, match="not empty"):
        write_sentence_transformers(tmp_path / "written", encoder, tokenizer)


def edited(folder: Path, name: str, **changes: Any) -> str:
    """What is said of a folder whose settings were changed."""
    record = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
    (folder / name).write_text(json.dumps({**record, **changes}))
    with pytest.raises(LengthwiseError) as raised:
        read_sentence_transformers(folder)
    if record:
        (folder / name).write_text(json.dumps(record))
    else:
        (folder / name).unlink()
    return str(raised.value)


def test_settings_that_do_not_fit_are_named(library: Any, tmp_path: Path) -> None:
    folder = write_theirs(library, tmp_path / "source", "max")
    for limit in (0, "128", True):
        assert "max_seq_length is" in edited(folder, "wordembedding_config.json", max_seq_length=limit)
    smaller = edited(folder, "whitespacetokenizer_config.json", vocab=WORDS[:-1])
    assert "17 words, but the embedding 18 rows" in smaller
    (folder / "whitespacetokenizer_config.json").write_text("[]")
    with pytest.raises(LengthwiseError, match="holds list, not settings"):
        read_sentence_transformers(folder)


def test_settings_beside_a_tokenizer_file_are_compared(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    encoder = PackedEncoder(encoder_config(pooling="max")).eval()
    write_sentence_transformers(tmp_path / "written", encoder, tokenizer)
    read_sentence_transformers(tmp_path / "written")
    for name in ("do_lower_case", "strip_accents", "add_bos_token", "add_eos_token"):
        messages = [settings_refused(tmp_path / "written", name, value) for value in (True, False)]
        assert sum(f"{name} is" in message for message in messages) == 1


def settings_refused(folder: Path, name: str, value: bool) -> str:
    path = folder / "tokenizer_config.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, name: value}))
    try:
        read_sentence_transformers(folder)
    except LengthwiseError as error:
        return str(error)
    finally:
        path.write_text(json.dumps(record))
    return ""
