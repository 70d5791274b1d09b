"""Paths that are not a model: each way to load one says what the path is and what to give instead."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lengthwise import Encoder
from lengthwise.config import CONFIG_FILE, EncoderConfig, load_config
from lengthwise.encoder.checkpoint import load_checkpoint, save_checkpoint
from lengthwise.encoder.model import seeded_encoder
from lengthwise.errors import ConfigError, LengthwiseError, TokenizerError
from lengthwise.export.artifact.folder import MANIFEST_FILE, Artifact
from lengthwise.tokens.tokenizer import TOKENIZER_FILE, TextTokenizer, load_tokenizer
from lengthwise.util import model_paths

Load = Callable[[Path], Any]
LOADS: list[Load] = [Encoder.load, Artifact.open, load_checkpoint]


@pytest.fixture(params=LOADS, ids=["encoder", "artifact", "checkpoint"])
def load(request: pytest.FixtureRequest) -> Load:
    return request.param  # type: ignore[no-any-return]


def refusal(load: Load, path: Path) -> str:
    with pytest.raises(LengthwiseError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message


def test_names_of_files_are_those_of_the_modules_that_write_them() -> None:
    names = (model_paths._MANIFEST_FILE, model_paths._CONFIG_FILE, model_paths._TOKENIZER_FILE)
    assert names == (MANIFEST_FILE, CONFIG_FILE, TOKENIZER_FILE)


@pytest.mark.parametrize(
    "name",
    ["onnx/model.onnx", "onnx/model_int8.onnx", "config.json", "model.safetensors", "MANIFEST.json", "README.md"],
)
def test_file_of_an_artifact_is_refused_with_its_folder(artifact_folder: Path, load: Load, name: str) -> None:
    assert f"a file of the model in {artifact_folder}; give that folder" in refusal(load, artifact_folder / name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.onnx", "one ONNX graph, without the tokenizer and the settings that its model needs; give the whole"),
        ("model.onnx.data", "the weights of an ONNX graph"),
        ("model.xml", "one graph of OpenVINO"),
        ("model.pt2", "one program of torch.export"),
        ("artifact.zip", "an archive; unpack it, and give the folder"),
        ("artifact.tar.gz", "an archive; unpack it"),
        ("pytorch_model.bin", "pickles are not loaded; give the folder of a checkpoint"),
        ("model.pt", "pickles are not loaded"),
        ("model.safetensors", "weights without config.json and tokenizer.json beside them"),
        ("run.yaml", "a configuration, not a model; give the folder that its export.output or model.path names"),
        ("notes", "a file; give the model's folder"),
    ],
)
def test_single_file_is_refused_as_what_it_is(tmp_path: Path, load: Load, name: str, expected: str) -> None:
    (tmp_path / name).write_bytes(b"\x08\x08")
    assert expected in refusal(load, tmp_path / name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.onnx", "model.onnx is one ONNX graph, not a configuration; give the YAML file of a run"),
        ("model.safetensors", "is a file of weights, not a configuration"),
        ("tokenizer.json", "is a tokenizer, not a configuration; give the YAML file of a run"),
        ("reviews.csv", "is a file of data by its extension; give the YAML file of a run, whose dataset.path names it"),
        ("folder", "is a folder; give the YAML file of a run, such as "),
    ],
)
def test_path_that_is_no_run_is_refused_as_what_it_is(tmp_path: Path, name: str, expected: str) -> None:
    if name == "folder":
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.yaml").write_text("")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / name)
    assert expected in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_model_of_another_library_is_named(tmp_path: Path, load: Load, encoding: str) -> None:
    for folder in ("bert", "sentence", "triton"):
        (tmp_path / folder).mkdir()
    (tmp_path / "bert/config.json").write_text(json.dumps({"model_type": "bert"}), encoding=encoding)
    (tmp_path / "sentence/config.json").write_text(json.dumps({"model_type": "bert"}), encoding=encoding)
    (tmp_path / "sentence/modules.json").write_text("[]")
    (tmp_path / "triton/config.pbtxt").write_text("")
    assert "a transformers model (its model_type is 'bert'); only models that Lengthwise" in refusal(
        load, tmp_path / "bert"
    )
    assert "a sentence-transformers model; only models that Lengthwise made" in refusal(load, tmp_path / "sentence")
    assert "a model of Triton Inference Server; give the folder of" in refusal(load, tmp_path / "triton")


def test_folder_around_a_model_is_refused_with_the_model(artifact_folder: Path, load: Load) -> None:
    outer = artifact_folder.parent
    assert f"not a model itself, but holds one in artifact; give {artifact_folder}" in refusal(load, outer)
    inner = artifact_folder / "onnx"
    assert f"a folder of the model in {artifact_folder}; give that folder" in refusal(load, inner)


def test_name_on_the_hub_is_refused_with_the_command_that_downloads_it(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(load, Path("someone/encoder-v1.5"))
    assert "; make one with lengthwise " in message
    assert (
        "if this is a name on the Hub, from which nothing is loaded, run hf download someone/encoder-v1.5 --" in message
    )
    assert "hf download" not in refusal(load, Path("runs/model.onnx"))
    (tmp_path / "someone").mkdir()
    assert "hf download" not in refusal(load, Path("someone/encoder-v1.5"))


def test_checkpoint_is_no_artifact_but_an_artifact_is_a_checkpoint(
    artifact_folder: Path, tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    save_checkpoint(tmp_path / "model", seeded_encoder(encoder_config(), 0), tokenizer)
    message = refusal(Artifact.open, tmp_path / "model")
    assert message.endswith("not an artifact (MANIFEST.json is missing); make one with lengthwise export")
    load_checkpoint(artifact_folder)


@pytest.mark.parametrize(
    ("name", "contents", "expected"),
    [
        ("vocab.txt", b"[PAD]\n[UNK]\n", "not a tokenizer.json, but a vocabulary of another format; convert it: tr"),
        ("spiece.model", b"\x0a\x0e\x0a\x05\xff", "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"),
        ("tokenizer_config.json", b"{}", "holds settings, but no vocabulary; give the tokenizer.json beside it"),
        ("model.onnx", b"\x08\x08\xff", "a file of weights or of a graph; give the folder of the model, or its"),
        ("tokenizer.zip", b"PK\x03\x04\xff", "an archive; unpack it, and give its tokenizer.json"),
    ],
)
def test_other_file_of_a_tokenizer_is_refused(tmp_path: Path, name: str, contents: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(contents)
    assert expected in refusal(load_tokenizer, tmp_path / name)
    if not name.endswith((".json", ".zip", ".onnx")):
        assert "but no tokenizer.json; convert it" in refusal(load_tokenizer, tmp_path)


def test_tokenizer_is_read_whatever_its_file_is_called(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    for name in ("config.json", "ours.model", "tokenizer.gz"):
        (tmp_path / name).write_text(tokenizer.to_json(), encoding="utf-8")
        assert load_tokenizer(tmp_path / name).fingerprint == tokenizer.fingerprint


def test_tokenizer_on_the_hub_is_refused_with_the_command_that_downloads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TokenizerError, match=r"hf download someone/model tokenizer\.json --local-dir FOLDER"):
        load_tokenizer("someone/model")
    with pytest.raises(TokenizerError, match=r"there is no such tokenizer; .* or set tokenizer\.path$"):
        load_tokenizer("someone/tokenizer.json")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_model_whose_json_files_an_editor_saved_is_read(
    artifact_folder: Path, encoding: str, tokenizer: TextTokenizer
) -> None:
    checkpoint = Path(shutil.copytree(artifact_folder, artifact_folder.parent / "checkpoint"))
    (checkpoint / MANIFEST_FILE).unlink()
    changed = {}
    for name in (CONFIG_FILE, TOKENIZER_FILE):
        text = (checkpoint / name).read_text(encoding="utf-8")
        (checkpoint / name).write_bytes(text.encode(encoding))
        changed[name] = text.encode(encoding)
    Artifact.open(artifact_folder).with_files(changed)
    manifest = (artifact_folder / MANIFEST_FILE).read_text()
    (artifact_folder / MANIFEST_FILE).write_bytes(manifest.encode(encoding))
    for folder in (checkpoint, artifact_folder):
        assert Encoder.load(folder).tokenizer.fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("name", [CONFIG_FILE, TOKENIZER_FILE])
def test_json_file_in_another_encoding_is_refused_with_the_byte(artifact_folder: Path, name: str) -> None:
    (artifact_folder / MANIFEST_FILE).unlink()
    path = artifact_folder / name
    path.write_bytes(path.read_bytes() + b"\n\xe9")
    line = path.read_bytes().count(b"\n") + 1
    with pytest.raises(
        LengthwiseError, match=rf"byte 0xe9 .*\(line {line}, byte 1 of it\) is not UTF-8; .*UTF-8"
    ) as caught:
        Encoder.load(artifact_folder)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["onnx/model.onnx", "model.safetensors", TOKENIZER_FILE])
def test_pointer_of_git_lfs_is_refused_with_the_command_that_gets_the_file(artifact_folder: Path, name: str) -> None:
    (artifact_folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(LengthwiseError, match=r"a pointer of Git LFS, not the file itself; run git lfs pull") as caught:
        Encoder.load(artifact_folder)
    assert str(artifact_folder / name) in str(caught.value)
    if name != "onnx/model.onnx":
        (artifact_folder / MANIFEST_FILE).unlink()
        with pytest.raises(LengthwiseError, match=r"a pointer of Git LFS, .*run git lfs pull"):
            load_checkpoint(artifact_folder)


def test_kind_of_a_model_is_shown_by_its_files(
    tmp_path: Path, artifact_folder: Path, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    Encoder.load(artifact_folder).save(tmp_path / "checkpoint")
    (tmp_path / "published/onnx").mkdir(parents=True)
    assert model_paths.model_kind(artifact_folder) == "artifact"
    assert model_paths.model_kind(tmp_path / "checkpoint") == "checkpoint"
    assert model_paths.model_kind(tmp_path / "published") is None
    (tmp_path / "published/onnx/model.onnx").write_bytes(b"")
    assert model_paths.model_kind(tmp_path / "published") is None  # without a tokenizer
    (tmp_path / "published/tokenizer.json").write_text(tokenizer.to_json())
    assert model_paths.model_kind(tmp_path / "published") == "onnx"
    (tmp_path / "published/modules.json").write_text("[]")
    for found, expected in ((object(), "sentence-transformers"), (None, "onnx")):
        monkeypatch.setattr(model_paths, "find_spec", lambda name, found=found: found)
        assert model_paths.model_kind(tmp_path / "published") == expected
