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
from tokenizers import Tokenizer, processors

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


def with_layers(
    folder: Path, *activations: str, residual: bool = False, normalize: bool = True, **settings: Any
) -> int:
    """Add Dense modules with these activations, and Normalize, to a folder, as the library saves them; their number."""
    modules = json.loads((folder / "modules.json").read_text())
    start, width = len(modules), 18
    torch.manual_seed(5)
    for number, activation in enumerate(activations, start):
        place = folder / f"{number}_Dense"
        place.mkdir()
        record = {
            "in_features": width,
            "out_features": 10,
            "bias": number == start,
            "activation_function": activation,
            **settings,
        }
        if residual:
            record["use_residual"] = True
        (place / "config.json").write_text(json.dumps(record))
        state = {"linear.weight": torch.randn(10, width)}
        torch.save(state | ({"linear.bias": torch.randn(10)} if number == start else {}), place / "pytorch_model.bin")
        width = 10
        kind = "sentence_transformers.models.Dense"
        modules.append({"idx": number, "name": str(number), "path": place.name, "type": kind})
    if normalize:
        name = f"{len(modules)}_Normalize"
        (folder / name).mkdir()
        kind = "sentence_transformers.models.Normalize"
        modules.append({"idx": len(modules), "name": str(len(modules)), "path": name, "type": kind})
    (folder / "modules.json").write_text(json.dumps(modules))
    return len(modules) - start


@pytest.mark.parametrize("normalize", [False, True])
def test_dense_layers_and_normalize_are_those_of_the_library(library: Any, normalize: bool, tmp_path: Path) -> None:
    """Read and written, in the layout that versions 2 to 5 wrote."""
    texts = varied_texts(200)
    folder = as_version_2(write_theirs(library, tmp_path / "source", "mean"))
    tanh, identity = "torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"
    assert with_layers(folder, tanh, identity, normalize=normalize) == 2 + normalize
    expected = theirs(library, folder, texts)
    scale = float(np.abs(expected).max())
    assert np.abs(ours(folder, texts) - expected).max() <= 1e-6 * max(1, scale)
    encoder, tokenizer, notes = read_sentence_transformers(folder)
    assert encoder.config.normalize == normalize
    assert "zeros through Dense" in notes[-1]
    write_sentence_transformers(tmp_path / "written", encoder, tokenizer)
    assert [path.name for path in sorted((tmp_path / "written").glob("[1-9]*"))][2:4] == ["3_Dense", "4_Dense"]
    assert np.abs(theirs(library, tmp_path / "written", texts) - expected).max() <= 1e-6 * max(1, scale)


def test_modules_that_cannot_be_imported_are_named(library: Any, tmp_path: Path) -> None:
    def refused(name: str, change: Callable[[Path], Any]) -> str:
        folder = write_theirs(library, tmp_path / name, "mean")
        change(folder)
        with pytest.raises(LengthwiseError) as raised:
            read_sentence_transformers(folder)
        return str(raised.value)

    def set_type(folder: Path, kind: str) -> None:
        modules = json.loads((folder / "modules.json").read_text())
        modules[-1]["type"] = kind
        (folder / "modules.json").write_text(json.dumps(modules))

    relu = "torch.nn.modules.activation.ReLU"
    assert "use_residual is true" in refused("residual", lambda folder: with_layers(folder, relu, residual=True))
    assert "activation_function is 'os.system'" in refused("string", lambda folder: with_layers(folder, "os.system"))
    tokens = {"module_input_name": "token_embeddings"}
    assert "only layers of sentence_embedding" in refused("tokens", lambda folder: with_layers(folder, relu, **tokens))
    assert "its modules are WordEmbeddings, LSTM, CNN" in refused(
        "cnn", lambda folder: set_type(folder, "sentence_transformers.models.CNN")
    )
    assert "code of another library" in refused("other", lambda folder: set_type(folder, "evil.models.Pooling"))

    def twice(folder: Path) -> None:
        with_layers(folder)
        with_layers(folder)

    assert "the module Normalize cannot be imported at this place" in refused("twice", twice)

    def phrases(folder: Path) -> None:
        path = folder / "wordembedding_config.json"
        kind = "sentence_transformers.models.tokenizer.PhraseTokenizer.PhraseTokenizer"
        path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": kind}))

    assert "joins tokens to phrases" in refused("phrases", phrases)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cell": "gru"}, "cell is 'gru'"),
        ({"gate_activation": "hard_sigmoid_keras3"}, "gate_activation is 'hard_sigmoid_keras3'"),
        ({"static_residual": True}, "static_residual is True"),
        ({"padding": {"to": 9}}, "padding is"),
        ({"pooling": "sum"}, "pooling is 'sum'"),
        ({"pooling": "mean_max"}, "pooling is 'mean_max'"),  # which it puts side by side the other way round
        ({"pooling": "last", "bidirectional": True}, "pooling is 'last'"),
        ({"dense": ({"dim": 4, "activation": "elu"},)}, "the activation of dense.0 is 'elu'"),
        ({"tokenization": {"max_length": 8, "truncate": True}}, "sentence-transformers would cut those"),
    ],
)
def test_what_the_library_has_no_module_for_is_not_written(
    changes: dict[str, Any], message: str, tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., Any]
) -> None:
    config = EncoderConfig.model_validate({**encoder_config(pooling="max").model_dump(), **changes})
    if "tokenization" in changes:
        tokenizer = TextTokenizer(with_end(tokenizer))
        config = config.model_copy(update={"tokenizer_fingerprint": tokenizer.fingerprint})
    with pytest.raises(CheckpointError, match=message):
        write_sentence_transformers(tmp_path / "written", PackedEncoder(config).eval(), tokenizer)
    assert not (tmp_path / "written").exists()


def with_end(tokenizer: TextTokenizer) -> Tokenizer:
    """The same tokenizer with a special token at the end of each text."""
    copied = Tokenizer.from_str(tokenizer.to_json())
    token = tokenizer.token(2) or ""
    copied.post_processor = processors.TemplateProcessing(single=["$A", token], special_tokens=[(token, 2)])
    return copied


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
