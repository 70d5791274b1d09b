"""`lengthwise.Encoder` and the functions beside it: every kind of input, both kinds of model, and what is refused."""

from __future__ import annotations

import doctest
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

import lengthwise
from helpers.cli import write_config
from helpers.files import contents
from helpers.runs import vectors_at
from helpers.texts import TEXTS
from lengthwise import Encoder, LengthwiseError, encode_dataset
from lengthwise.cli.encode_dataset import main as command
from lengthwise.config import EncoderConfig
from lengthwise.encoder.checkpoint import load_checkpoint, save_checkpoint
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.errors import ConfigError, TextError
from lengthwise.tokens import texts as texts_module
from lengthwise.tokens.tokenizer import TextTokenizer


@pytest.fixture(scope="session")
def model(encoder_config: Callable[..., EncoderConfig]) -> PackedEncoder:
    return seeded_encoder(encoder_config(), 0)


@pytest.fixture(scope="session")
def encoder(model: PackedEncoder, tokenizer: TextTokenizer) -> Encoder:
    return Encoder(model, tokenizer)


@pytest.fixture(scope="session")
def expected(encoder: Encoder) -> NDArray[np.float32]:
    """The vectors of TEXTS, one at a time."""
    return np.stack([encoder.encode(text) for text in TEXTS])


@pytest.fixture
def checkpoint(model: PackedEncoder, tokenizer: TextTokenizer, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "model", model, tokenizer)
    return tmp_path / "model"


def close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    """Whether vectors are equal but for the last bits, which other batches may move."""
    return found.shape == expected.shape and np.allclose(found, expected, rtol=0, atol=1e-6)


# Inputs


def test_one_text_gives_one_vector(encoder: Encoder) -> None:
    vector = encoder.encode(TEXTS[0])
    assert (vector.shape, vector.dtype) == ((encoder.dim,), np.float32)
    assert vector.any()


@pytest.mark.parametrize(
    "convert",
    [
        list,
        tuple,
        iter,
        lambda texts: (text for text in texts),
        dict.fromkeys(TEXTS).keys,
        np.array,
        lambda texts: np.array(texts, object),
        pd.Series,
        lambda texts: pd.Series(texts, index=np.linspace(1, 2, len(texts))),
        pa.array,
        lambda texts: pa.chunked_array([texts[:2], texts[2:]]),
        lambda texts: datasets.Dataset.from_dict({"text": texts})["text"],
        lambda texts: datasets.Dataset.from_dict({"text": texts}).to_iterable_dataset()["text"],
    ],
)
def test_encode_takes_any_iterable(
    encoder: Encoder, expected: NDArray[np.float32], convert: Callable[..., Iterable[str]]
) -> None:
    try:
        texts = convert(list(TEXTS))
    except TypeError:
        texts = convert()  # the keys of a dict
    vectors = encoder.encode(texts)
    assert (vectors.shape, vectors.dtype) == (expected.shape, np.float32)
    assert close(vectors, expected)


@pytest.mark.parametrize(
    "empty", [[], (), iter(()), np.array([], str), pa.array([], pa.string()), pd.Series([], dtype=str)]
)
def test_no_texts_give_no_vectors(encoder: Encoder, empty: Iterable[str]) -> None:
    vectors = encoder.encode(empty)
    assert (vectors.shape, vectors.dtype) == ((0, encoder.dim), np.float32)


def test_texts_without_tokens_give_zeros(encoder: Encoder) -> None:
    assert not encoder.encode(["", " "]).any()
    assert not encoder.encode("").any()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["moon", None], r"texts\[1\] is None \(NoneType\), not a string; replace it, or leave it out"),
        (["moon", b"rain"], r"texts\[1\] is b'rain' \(bytes\)"),
        ([7], r"texts\[0\] is 7 \(int\)"),
        (pd.Series(["moon", np.nan]), r"texts\[1\] is nan \(float\)"),
        (np.array(["moon", None], object), r"texts\[1\] is None"),
        (pa.array(["moon", None]), r"texts\[1\] is None"),
        ([["moon"]], r"texts\[0\] is \['moon'\] \(list\)"),
        ([{"text": "moon"}], r"texts\[0\] is \{'text': 'moon'\} \(dict\)"),
        (datasets.Dataset.from_dict({"text": ["moon"]}), "texts is of type Dataset"),
        (["moon", "half \ud83d"], r"texts\[1\] cannot be encoded: not Unicode: a lone surrogate"),
        (None, "texts is of type NoneType; give one text, or an iterable of texts"),
        ({"moon", "sun"}, "texts is a set, which has no order; give a list, whose order the vectors then have"),
        (b"moon", "texts is of type bytes"),
        (7, "texts is of type int"),
        ({"text": "moon"}, "texts is of type dict"),
        (np.array([["moon"]]), "texts is of type ndarray"),
        (np.array("moon"), "texts is of type ndarray"),
        (pd.DataFrame({"text": ["moon"]}), "texts is of type DataFrame"),
    ],
)  # fmt: skip
def test_encode_refuses_what_is_no_text(encoder: Encoder, texts: Any, message: str) -> None:
    with pytest.raises(TextError, match=f"^{message}"):
        encoder.encode(texts)


def test_bad_text_of_a_later_chunk_is_named_by_its_row(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts_module, "CHUNK_ROWS", 2)
    with pytest.raises(TextError, match=r"^texts\[5\] is None"):
        encoder.encode(["moon"] * 5 + [None])  # type: ignore[list-item]
    with pytest.raises(TextError, match=r"^texts\[4\] cannot be encoded: not Unicode"):
        encoder.encode(["moon"] * 4 + ["\ud800", "moon"])


# Large inputs


@pytest.mark.parametrize("limits", [{"CHUNK_ROWS": 3}, {"CHUNK_CHARACTERS": 30}, {"_READ_ROWS": 2, "CHUNK_ROWS": 1}])
@pytest.mark.parametrize("convert", [list, iter])
def test_chunks_do_not_change_vectors(
    encoder: Encoder,
    expected: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
    limits: dict[str, int],
    convert: Callable[..., Iterable[str]],
) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(texts_module, name, value)
    assert close(encoder.encode(convert(TEXTS * 3)), np.tile(expected, (3, 1)))


def test_iterable_is_read_only_a_few_chunks_ahead(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts_module, "CHUNK_ROWS", 10)
    encoded, ahead = 0, 0
    encode_batch = encoder._engine.encode_batch

    def count(input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        nonlocal encoded
        encoded += len(lengths)
        return encode_batch(input_ids, lengths)

    def texts() -> Iterable[str]:
        nonlocal ahead
        for number in range(200):
            ahead = max(ahead, number - encoded)
            yield "moon " * number

    monkeypatch.setattr(encoder._engine, "encode_batch", count)
    assert len(encoder.encode(texts())) == 200
    assert 10 <= ahead <= 30


def test_endless_iterable_can_be_cut(encoder: Encoder) -> None:
    assert encoder.encode(islice(repeat("moon"), 5)).shape == (5, encoder.dim)


def test_input_is_read_in_the_calling_thread(encoder: Encoder) -> None:
    import sqlite3

    with sqlite3.connect(":memory:") as connection:  # refuses other threads
        rows = connection.execute("select 'moon' union all select 'rain fell'")
        assert encoder.encode(text for (text,) in rows).shape == (2, encoder.dim)


def test_progress_is_shown_on_request(encoder: Encoder, capsys: pytest.CaptureFixture[str]) -> None:
    encoder.encode(TEXTS)
    assert capsys.readouterr().err == ""
    encoder.encode(TEXTS, show_progress=True)
    assert f"{len(TEXTS)}/{len(TEXTS)}" in capsys.readouterr().err


# Options


def test_normalize_scales_to_length_1(
    encoder: Encoder,
    encoder_config: Callable[..., EncoderConfig],
    tokenizer: TextTokenizer,
    expected: NDArray[np.float32],
) -> None:
    vectors = encoder.encode([*TEXTS, ""], normalize=True)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1.0] * len(TEXTS) + [0.0])
    assert close(vectors[3], encoder.encode(TEXTS[3], normalize=True))
    always = Encoder(seeded_encoder(encoder_config(normalize=True), 0), tokenizer)
    assert close(vectors, always.encode([*TEXTS, ""]))
    assert close(always.encode(TEXTS, normalize=True), always.encode(TEXTS))
    assert close(encoder.encode(TEXTS, normalize=False), expected)
    with pytest.raises(ConfigError, match="normalize is False, but this model always scales"):
        always.encode(TEXTS, normalize=False)


def test_long_texts_are_cut_or_refused(encoder: Encoder) -> None:
    long, short = TEXTS[3], " ".join(TEXTS[3].split()[:4])
    assert close(encoder.encode(long, max_length=4, truncate=True), encoder.encode(short))
    with pytest.raises(
        TextError, match=r"texts\[1\] cannot be encoded: 12 tokens, but max_length is 4; pass truncate=T"
    ):
        encoder.encode([short, long], max_length=4)
    with pytest.raises(ConfigError, match="there is no length to truncate at"):
        encoder.encode(long, truncate=True)


def test_models_own_tokenization_is_the_default(
    encoder: Encoder, encoder_config: Callable[..., EncoderConfig], tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    config = encoder_config(tokenization={"max_length": 4, "truncate": True})
    Encoder(seeded_encoder(config, 0), tokenizer).save(tmp_path / "model")
    own = Encoder.load(tmp_path / "model")
    assert close(own.encode(TEXTS), encoder.encode(TEXTS, max_length=4, truncate=True))
    assert close(own.encode(TEXTS, max_length=100), encoder.encode(TEXTS))
    encode_dataset(datasets.Dataset.from_dict({"text": TEXTS}), own, tmp_path / "vectors", show_progress=False)
    assert close(vectors_at(tmp_path / "vectors"), own.encode(TEXTS))


# Models


def test_checkpoint_is_loaded_and_saved(checkpoint: Path, expected: NDArray[np.float32], tmp_path: Path) -> None:
    encoder = Encoder.load(checkpoint)
    assert close(encoder.encode(TEXTS), expected)
    assert repr(encoder) == f"Encoder({str(checkpoint)!r}, dim=6, engine='torch cpu')"
    assert encoder.config == load_checkpoint(checkpoint)[0].config
    encoder.save(tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(checkpoint)


def test_export_is_loaded_as_an_encoder(encoder: Encoder, expected: NDArray[np.float32], tmp_path: Path) -> None:
    artifact = encoder.export(tmp_path / "artifact", variants=["portable"])
    assert set(artifact.manifest["variants"]) == {"native", "portable"}
    exported = Encoder.load(tmp_path / "artifact")
    assert close(exported.encode(TEXTS), expected)
    assert exported.dim == encoder.dim
    assert repr(exported).endswith("dim=6, engine='onnxruntime cpu onnx/model.onnx')")
    portable = Encoder.load(tmp_path / "artifact", variant="portable")
    assert close(portable.encode(TEXTS), expected)
    exported.save(tmp_path / "model")  # its checkpoint
    assert close(Encoder.load(tmp_path / "model").encode(TEXTS), expected)


def test_lower_precision_is_close(checkpoint: Path, expected: NDArray[np.float32]) -> None:
    lower = Encoder.load(checkpoint, precision="bf16").encode(TEXTS)
    assert not np.array_equal(lower, expected)
    assert np.allclose(lower, expected, atol=0.02)


def test_tokenizer_of_the_library_is_taken(model: PackedEncoder, tokenizer: TextTokenizer) -> None:
    from tokenizers import Tokenizer

    encoder = Encoder(model, Tokenizer.from_str(tokenizer.to_json()))
    assert encoder.tokenizer.fingerprint == tokenizer.fingerprint


def test_options_that_a_model_lacks_are_refused(checkpoint: Path, artifact_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"variant is 'int8', but .* is no artifact; choose a precision instead"):
        Encoder.load(checkpoint, variant="int8")
    with pytest.raises(ConfigError, match=r"precision is 'bf16', but .* is an artifact; choose a variant instead"):
        Encoder.load(artifact_folder, precision="bf16")
    for folder in (checkpoint, artifact_folder):
        with pytest.raises(ConfigError, match="device is 'gpu'; choose cpu, cuda, auto"):
            Encoder.load(folder, device="gpu")  # type: ignore[arg-type]
    with pytest.raises(LengthwiseError, match="there is no such checkpoint"):
        Encoder.load(checkpoint / "none")


@pytest.mark.parametrize("kind", ["checkpoint", "artifact"])
def test_encoder_of_a_folder_is_pickled_as_the_folder(
    checkpoint: Path, artifact_folder: Path, model: PackedEncoder, tokenizer: TextTokenizer, kind: str
) -> None:
    """A pool of processes gets it; but not another model than the one that was pickled."""
    folder, options = (
        (checkpoint, {"precision": "bf16"}) if kind == "checkpoint" else (artifact_folder, {"variant": "int8"})
    )
    encoder = Encoder.load(folder, device="cpu", **options)  # type: ignore[arg-type]
    pickled = pickle.dumps(encoder)
    assert len(pickled) < 2_000
    again = pickle.loads(pickled)
    assert repr(again) == repr(encoder)
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
    shutil.rmtree(folder)
    other = Encoder(seeded_encoder(model.config, 1), tokenizer)
    if kind == "checkpoint":
        other.save(folder)
    else:
        other.export(folder, variants=["int8"])
    with pytest.raises(
        LengthwiseError, match="was replaced since its Encoder was pickled, by a model with other weights"
    ):
        pickle.loads(pickled)


def test_pickled_encoder_is_not_loaded_with_other_settings(checkpoint: Path) -> None:
    """Vectors of long texts would be others."""
    pickled = pickle.dumps(Encoder.load(checkpoint))
    settings = json.loads((checkpoint / "config.json").read_text())
    settings["tokenization"] = {**settings.get("tokenization", {}), "max_length": 3, "truncate": True}
    (checkpoint / "config.json").write_text(json.dumps(settings))
    with pytest.raises(LengthwiseError, match="by a model with other tokenization; pickle the Encoder of the new one"):
        pickle.loads(pickled)


def test_encoder_in_memory_is_not_pickled(encoder: Encoder) -> None:
    with pytest.raises(LengthwiseError, match=r"model is in memory only; save it, and use Encoder.load\(FOLDER\)"):
        pickle.dumps(encoder)


def test_saving_replaces_a_checkpoint_only(encoder: Encoder, checkpoint: Path, tmp_path: Path) -> None:
    encoder.save(checkpoint)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers/thesis.txt").write_text("precious")
    with pytest.raises(LengthwiseError, match="papers: not empty, and not a checkpoint"):
        encoder.save(tmp_path / "papers")
    assert contents(tmp_path / "papers") == {"thesis.txt": b"precious"}
    for name, files in (("artifact", ("config.json", "MANIFEST.json", "model.onnx")), ("bert", ("config.json",))):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text('{"model_type": "bert"}' if name == "bert" else "{}")
        with pytest.raises(LengthwiseError, match=f"{name}: (an artifact, whose|not empty, and not a checkpoint)"):
            encoder.save(tmp_path / name)
        assert contents(tmp_path / name).keys() == set(files)


# Functions


def test_encode_dataset_writes_what_the_command_writes(checkpoint: Path, texts_file: Path, tmp_path: Path) -> None:
    settings = {"dataset.shard_rows": 3, "tokenizer.max_length": 20}
    report = encode_dataset(texts_file, checkpoint, tmp_path / "vectors", show_progress=False, settings=settings)
    assert (report.totals.rows, report.is_complete) == (len(TEXTS), True)
    assert (tmp_path / "vectors/report.md").is_file()
    assert close(vectors_at(tmp_path / "vectors"), Encoder.load(checkpoint).encode(TEXTS))
    config = write_config(tmp_path, tokenizer={"path": None, "max_length": 20}, encode={"device": "auto"})
    result = CliRunner().invoke(command, [str(config)])
    assert result.exit_code == 0, result.stderr
    assert "nothing to encode: all shards were there" in result.stdout


@pytest.mark.parametrize("streaming", [False, True])
def test_encode_dataset_appends_what_a_dataset_in_memory_has_gained(
    checkpoint: Path, tmp_path: Path, streaming: bool
) -> None:
    encoder = Encoder.load(checkpoint)
    for count, new in ((3, 3), (3, 0), (7, 4)):
        data = datasets.Dataset.from_dict({"text": TEXTS[:count]})
        found = encode_dataset(
            data.to_iterable_dataset() if streaming else data,
            encoder,
            tmp_path / "vectors",
            show_progress=False,
            settings={"encode.append": True},
        )
        assert (found.totals.rows, found.encoded.rows) == (count, new)
    vectors = np.array(pq.read_table(tmp_path / "vectors/data")["embedding"].to_pylist(), np.float32)
    np.testing.assert_array_equal(vectors, encoder.encode(list(TEXTS[:7])))


def test_encode_dataset_takes_a_dataset_in_memory(
    encoder: Encoder, expected: NDArray[np.float32], tmp_path: Path
) -> None:
    data = datasets.Dataset.from_dict({"body": TEXTS, "number": list(range(len(TEXTS)))})
    arguments: dict[str, Any] = {"text_column": "body", "keep_columns": ["number"], "show_progress": False}
    encode_dataset(data, encoder, tmp_path / "vectors", **arguments)
    assert close(vectors_at(tmp_path / "vectors"), expected)
    assert pq.read_table(tmp_path / "vectors/data")["number"].to_pylist() == list(range(len(TEXTS)))
    assert encode_dataset(data, encoder, tmp_path / "vectors", **arguments).encoded.rows == 0
    with pytest.raises(LengthwiseError, match="holds the vectors of another run"):
        encode_dataset(data.select([0, 1]), encoder, tmp_path / "vectors", **arguments)
    assert encode_dataset(data.select([0, 1]), encoder, tmp_path / "vectors", **arguments, fresh=True).totals.rows == 2


def test_encode_dataset_resumes_a_stream_that_is_named(
    encoder: Encoder, expected: NDArray[np.float32], tmp_path: Path
) -> None:
    stream = datasets.Dataset.from_dict({"text": TEXTS}).to_iterable_dataset()
    named = {"fingerprint": "these texts", "show_progress": False}
    encode_dataset(stream, encoder, tmp_path / "vectors", **named)
    assert close(vectors_at(tmp_path / "vectors"), expected)
    assert encode_dataset(stream, encoder, tmp_path / "vectors", **named).encoded.rows == 0
    with pytest.raises(LengthwiseError, match="holds the vectors of another run"):
        encode_dataset(stream, encoder, tmp_path / "vectors", show_progress=False)


def test_encode_dataset_reports_every_mistake(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        encode_dataset(
            "texts.txt",
            encoder,
            tmp_path / "vectors",
            vector_dtype="float8",  # type: ignore[arg-type]
            settings={"dataset.shard_row": 3, "speed": "high"},
        )
    for expected in ("encode.vector_dtype = 'float8'", "did you mean 'shard_rows'", "speed = 'high'"):
        assert expected in str(caught.value)


def test_export_and_validate(checkpoint: Path, tmp_path: Path) -> None:
    artifact = lengthwise.export(checkpoint, tmp_path / "artifact", variants=[])
    assert set(artifact.manifest["variants"]) == {"native"}
    runtimes = ["onnxruntime cpu", "torchscript"]
    validation = lengthwise.validate(tmp_path / "artifact", runtimes=runtimes, texts=TEXTS, speed=False)
    assert validation.passed
    assert {verdict.runtime for verdict in validation.verdicts} == set(runtimes)
    assert "onnxruntime cpu" in (tmp_path / "artifact/validation.md").read_text()
    with pytest.raises(LengthwiseError, match="'tflite': no such runtime; choose from pytorch"):
        lengthwise.validate(tmp_path / "artifact", runtimes="tflite")


def test_export_is_a_package_and_a_function(checkpoint: Path, tmp_path: Path) -> None:
    from lengthwise import export
    from lengthwise.export.artifact.folder import Artifact

    assert isinstance(export(checkpoint, tmp_path / "artifact", variants=()), Artifact)
    assert lengthwise.export.artifact.folder.Artifact is Artifact  # type: ignore[attr-defined]


def test_artifact_is_encoded_without_torch(artifact_folder: Path) -> None:
    code = (
        "import sys; from lengthwise import Encoder; print(Encoder.load(sys.argv[1]).encode(['moon', 'rain']).shape);"
        "assert not {'torch', 'datasets', 'onnx', 'matplotlib'} & set(sys.modules), sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(artifact_folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(2, 12)\n"


# Examples


def _examples() -> dict[str, doctest.DocTest]:
    import lengthwise.api
    import lengthwise.export
    import lengthwise.functions

    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [
        test for module in (lengthwise.api, lengthwise.functions, lengthwise.export) for test in finder.find(module)
    ]
    return {test.name: test for test in found if test.examples}


@pytest.mark.parametrize("name", _examples())
def test_examples_of_docstrings_run(
    name: str, checkpoint: Path, texts_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(_examples()[name])
    assert runner.summarize().failed == 0
