"""Mistakes of a user: each is reported in one paragraph with exit code 2, and no file is changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.cli import Invoke, refusal, run_as_user, write_config
from helpers.files import contents
from helpers.paths import ROOT


def test_a_missing_dataset_is_reported_without_a_traceback(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    message = refusal(run_as_user("train_tokenizer", config))
    assert message.startswith(f"{tmp_path / 'texts.txt'}: there is no such file or folder (looked in {ROOT})")
    assert sorted(contents(tmp_path)) == ["run.yaml"]


def test_an_output_folder_with_other_files_is_refused(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "vectors").mkdir()
    (tmp_path / "vectors/notes.txt").write_text("precious")
    message = refusal(invoke("encode_dataset", trained))
    assert message == f"{tmp_path / 'vectors'}: not empty, and not a folder of vectors; choose another encode.output"
    assert contents(tmp_path / "vectors") == {"notes.txt": b"precious"}


@pytest.mark.parametrize("script", ["train_tokenizer", "init_model", "inspect_dataset", "encode_dataset"])
def test_a_missing_configuration_is_named(tmp_path: Path, invoke: Invoke, script: str) -> None:
    message = refusal(invoke(script, tmp_path / "none.yaml"))
    assert message.startswith(f"{tmp_path / 'none.yaml'}: the configuration cannot be read")


def test_all_mistakes_of_a_configuration_are_reported_at_once(tmp_path: Path, invoke: Invoke) -> None:
    dataset = {"text_colum": "text", "shard_rows": 0}
    config = write_config(tmp_path, dataset=dataset, encode={"vector_dtype": "float8"})
    message = refusal(invoke("encode_dataset", config))
    assert "3 mistakes" in message
    for expected in ("'text_column'", "dataset.shard_rows = 0", "encode.vector_dtype = 'float8'"):
        assert expected in message
    assert sorted(contents(tmp_path)) == ["run.yaml"]


@pytest.mark.parametrize("script", ["train_tokenizer", "init_model"])
def test_a_tokenizer_path_of_null_is_refused(trained: Path, invoke: Invoke, script: str) -> None:
    assert refusal(invoke(script, trained, "--set", "tokenizer.path=null")).startswith("tokenizer.path is not set")


@pytest.mark.parametrize("script", ["init_model", "inspect_dataset"])
def test_a_missing_tokenizer_is_named(tmp_path: Path, texts_file: Path, invoke: Invoke, script: str) -> None:
    message = refusal(invoke(script, write_config(tmp_path)))
    assert message.startswith(f"{tmp_path / 'tokenizer.json'}: there is no such tokenizer; train one with")
    assert not (tmp_path / "model").exists()


def test_a_missing_checkpoint_is_named(tmp_path: Path, texts_file: Path, invoke: Invoke) -> None:
    message = refusal(invoke("encode_dataset", write_config(tmp_path)))
    assert message.startswith(f"{tmp_path / 'model'}: there is no such checkpoint; make one with")
    assert not (tmp_path / "vectors").exists()


BAD_INPUTS: dict[str, tuple[str, bytes, str]] = {
    "no rows": ("in.txt", b"", "in.txt: split 'train' has no rows"),
    "missing column": ("in.jsonl", b'{"body": "a"}\n', "there is no column 'text'; the columns are 'body'"),
    "not text": ("in.jsonl", b'{"text": 7}\n', "the column 'text' is Value('int64'), not text"),
    "lists": ("in.jsonl", b'{"text": ["a"]}\n', "the column 'text' is List(Value('string')), not text"),
    "broken JSON": ("in.jsonl", b'{"text": "a"}\n{"text": "b\n', "in.jsonl, line 2: not valid JSON: Unterminated"),
    "lone surrogate": ("in.jsonl", b'{"text": "a\\ud800b"}\n', "a lone surrogate '\\ud800' at character 2, which is"),
    "broken parquet": ("in.parquet", b"PAR1", "in.parquet: the rows cannot be read (in.parquet"),
    "unknown format": ("in.xyz", b"PK", "in.xyz: no file of a known format; set dataset.format"),
    "office document": ("in.docx", b"PK", "in.docx is an office document; save it as CSV"),
    "not UTF-8": ("in.txt", b"caf\xe9\n", "in.txt, line 1: the column 'text': byte 4, 0xe9, is not UTF"),
}


@pytest.mark.parametrize("script", ["train_tokenizer", "inspect_dataset", "encode_dataset"])
@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_inputs_are_refused_and_nothing_is_written(
    trained: Path, tmp_path: Path, invoke: Invoke, script: str, case: str
) -> None:
    name, data, expected = BAD_INPUTS[case]
    (tmp_path / name).write_bytes(data)
    before = contents(tmp_path)
    overwrite = ["--overwrite"] if script == "train_tokenizer" else []
    message = refusal(invoke(script, trained, "--set", f"dataset.path={tmp_path / name}", *overwrite))
    assert expected in message
    assert contents(tmp_path) == before


def test_a_tokenizer_of_another_model_is_refused(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    other = ("--set", f"tokenizer.path={tmp_path / 'other.json'}")
    (tmp_path / "more.txt").write_text("many other words that the vocabulary does not have\n" * 2)
    glob = ("--set", f"dataset.path={tmp_path / '*.txt'}")
    assert invoke("train_tokenizer", trained, *other, *glob).exit_code == 0
    before = contents(tmp_path)
    message = refusal(invoke("encode_dataset", trained, *other))
    assert "other.json has" in message
    assert "but the encoder's embedding table has" in message
    assert contents(tmp_path) == before


def test_vectors_of_another_run_are_refused(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    assert invoke("encode_dataset", trained).exit_code == 0
    before = contents(tmp_path)
    message = refusal(invoke("encode_dataset", trained, "--set", "tokenizer.max_length=99"))
    assert message.startswith(f"{tmp_path / 'vectors'}: holds the vectors of another run (max_length was null, is 99)")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("script", "setting"),
    [("train_tokenizer", "tokenizer.path"), ("init_model", "model.path"), ("encode_dataset", "encode.output")],
)
def test_an_unwritable_path_is_named(
    trained: Path, tmp_path: Path, texts_file: Path, invoke: Invoke, script: str, setting: str
) -> None:
    before = contents(tmp_path)
    message = refusal(invoke(script, trained, "--set", f"{setting}={texts_file / 'below'}"))
    assert message.startswith(str(texts_file / "below"))
    assert "cannot be written" in message
    assert contents(tmp_path) == before


def test_a_tokenizer_path_that_is_a_folder_is_refused(trained: Path, tmp_path: Path, invoke: Invoke) -> None:
    message = refusal(
        invoke("train_tokenizer", trained, "--overwrite", "--set", f"tokenizer.path={tmp_path / 'model'}")
    )
    assert message.startswith(f"{tmp_path / 'model'}: cannot be written")
    assert not list(tmp_path.rglob("*.part"))


def test_device_cuda_without_a_gpu_is_refused(
    trained: Path, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    message = refusal(invoke("encode_dataset", trained, "--set", "encode.device=cuda"))
    assert message.startswith("the device is cuda, but PyTorch finds no GPU here")
    assert not (tmp_path / "vectors").exists()
