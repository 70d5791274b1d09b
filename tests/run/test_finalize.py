"""Finalizing a divided run: its folder is complete and verified, or the problem is reported."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from helpers.engines import LookupEngine
from helpers.files import contents
from helpers.runs import encode, run_config, source_of
from helpers.texts import TEXTS
from lengthwise.config import RunConfig
from lengthwise.data.dataset import open_dataset
from lengthwise.errors import StoreError
from lengthwise.run.finalize import finalize_folder
from lengthwise.store.local import LocalFolder
from lengthwise.store.parts import Part
from lengthwise.store.records import describe_reuse
from lengthwise.store.vectors import VectorStore
from lengthwise.tokens.tokenizer import TextTokenizer


@pytest.fixture
def config(tmp_path: Path, texts_file: Path) -> RunConfig:
    return run_config(tmp_path / "out", texts_file, dataset={"keep_columns": ["text"]})


def encode_part(config: RunConfig, tokenizer: TextTokenizer, engine: LookupEngine, *parts: Part | None) -> None:
    for part in parts:
        report = encode(config, open_dataset(config.dataset), tokenizer, engine, part=part)
        assert report.is_complete == (part is None)


@pytest.mark.parametrize("streaming", [False, True])
def test_parts_become_the_folder_of_a_whole_run(
    tmp_path: Path, texts_file: Path, tokenizer: TextTokenizer, engine: LookupEngine, streaming: bool
) -> None:
    dataset = {"keep_columns": ["text"], "streaming": streaming}
    config, whole = (run_config(tmp_path / name, texts_file, dataset=dataset) for name in ("out", "whole"))
    encode_part(config, tokenizer, engine, Part(1, 2), Part(0, 2))
    assert not (tmp_path / "out/manifest.json").exists()
    manifest = finalize_folder(config, open_dataset(config.dataset))
    assert (manifest["rows"], len(manifest["shards"])) == (len(TEXTS), 3)
    encode_part(whole, tokenizer, engine, None)
    found, expected = contents(tmp_path / "out"), contents(tmp_path / "whole")
    assert {name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)} == {"run.yaml"}
    assert finalize_folder(config, open_dataset(config.dataset), verify=False) == manifest


def test_finalize_knows_what_was_reused_and_why_not_more(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    """With the files of a whole run, but for the name of the output."""
    for name, settings in (("old", {}), ("other", {"tokenizer": {"max_length": 99}})):
        config = run_config(tmp_path / name, encode={"row_hashes": True}, **settings)
        encode(config, source_of(TEXTS[:4], config), tokenizer, engine)
    reuse = {"reuse": [str(tmp_path / "old"), str(tmp_path / "other")]}
    parts, whole = (run_config(tmp_path / name, encode=reuse) for name in ("parts", "whole"))
    for part in (Part(1, 2), Part(0, 2)):
        encode(parts, source_of(TEXTS, parts), tokenizer, engine, part=part)
    manifest = finalize_folder(parts, source_of(TEXTS, parts))
    assert describe_reuse(manifest) == [
        f"4 rows have their vector from {tmp_path}/old",
        f"nothing of {tmp_path}/other: max_length was 99, is null",
    ]
    assert encode(whole, source_of(TEXTS, whole), tokenizer, engine).reuse == tuple(describe_reuse(manifest))
    found, expected = contents(tmp_path / "parts"), contents(tmp_path / "whole")
    assert found.pop("run.yaml") != expected.pop("run.yaml")
    assert found == expected


def test_missing_part_is_reported(config: RunConfig, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    encode_part(config, tokenizer, engine, Part(0, 2))
    with pytest.raises(StoreError, match=r"1 of 3 shards are missing \(numbers 1\); run the command that encodes"):
        finalize_folder(config, open_dataset(config.dataset))


def test_damaged_shard_is_reported_and_encoded_again(
    config: RunConfig, tokenizer: TextTokenizer, engine: LookupEngine, caplog: pytest.LogCaptureFixture
) -> None:
    encode_part(config, tokenizer, engine, Part(0, 2), Part(1, 2))
    shard = Path(config.encode.output) / "data/shard-000002.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(StoreError, match=r"1 of 3 shards are missing \(numbers 2\)"):
        finalize_folder(config, open_dataset(config.dataset))
    assert "shard-000002.parquet is missing or was changed" in caplog.text
    encode_part(config, tokenizer, engine, Part(0, 2))
    finalize_folder(config, open_dataset(config.dataset))


def test_folder_of_another_run_is_refused(
    config: RunConfig, texts_file: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    with pytest.raises(StoreError, match=r"out: not a folder of vectors; encode first, or check encode\.output"):
        finalize_folder(config, open_dataset(config.dataset))
    encode_part(config, tokenizer, engine, None)
    other = run_config(Path(config.encode.output), texts_file)
    with pytest.raises(StoreError, match=r'another run \(keep_columns was \["text"\], is \[\]\); give the run that'):
        finalize_folder(other, open_dataset(other.dataset))
    texts_file.write_text("another text\n")
    with pytest.raises(StoreError, match=r"another run \(input was"):
        finalize_folder(config, open_dataset(config.dataset))


def test_folder_that_is_being_written_is_refused(
    config: RunConfig, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    encode_part(config, tokenizer, engine, Part(0, 2), Part(1, 2))
    identity = json.loads((Path(config.encode.output) / "identity.json").read_text())["depends_on"]
    for part in (None, Part(1, 2)):
        store = VectorStore.open(config.encode.output, identity, config.to_yaml(), part=part)
        with store, pytest.raises(StoreError, match=rf"process {os.getpid()} on .* is writing to this folder; wait"):
            finalize_folder(config, open_dataset(config.dataset))
    assert finalize_folder(config, open_dataset(config.dataset))["rows"] == len(TEXTS)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("missing", ["quarantine/shard-000002.jsonl", "data/shard-000002.parquet"])
def test_missing_file_is_reported(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, verify: bool, missing: str
) -> None:
    config = run_config(tmp_path / "out", encode={"bad_rows": "quarantine"})
    texts = [*TEXTS, None]
    encode(config, source_of(texts, config), tokenizer, engine)
    (tmp_path / "out" / missing).unlink()
    with pytest.raises(StoreError, match=r"1 of 3 shards are missing \(numbers 2\)"):
        finalize_folder(config, source_of(texts, config), verify=verify)
    encode(config, source_of(texts, config), tokenizer, engine, part=Part(0, 2))
    assert finalize_folder(config, source_of(texts, config), verify=verify)["bad"] == 1


def test_bad_rows_of_another_policy_are_encoded_again(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    zero, quarantine = (run_config(tmp_path / "out", encode={"bad_rows": policy}) for policy in ("zero", "quarantine"))
    texts = [*TEXTS, None]
    encode(zero, source_of(texts, zero), tokenizer, engine)
    with pytest.raises(StoreError, match=r"1 of 3 shards are missing \(numbers 2\)"):
        finalize_folder(quarantine, source_of(texts, quarantine))
    assert not (tmp_path / "out/manifest.json").exists()
    assert encode(quarantine, source_of(texts, quarantine), tokenizer, engine, part=Part(0, 2)).encoded.shards == 1
    assert encode(quarantine, source_of(texts, quarantine), tokenizer, engine, part=Part(0, 2)).encoded.shards == 0
    finalize_folder(quarantine, source_of(texts, quarantine))
    card = (tmp_path / "out/README.md").read_text()
    assert "1 rows could not be encoded (1 of them null or not Unicode)" in card
    assert "they are in `quarantine/` with the reason" in card


@pytest.mark.parametrize("contents", [b"", b"PAR1 not really PAR1", bytes(200)])
def test_shard_that_is_not_a_parquet_file_is_reported(
    config: RunConfig, tokenizer: TextTokenizer, engine: LookupEngine, contents: bytes
) -> None:
    encode_part(config, tokenizer, engine, Part(0, 2), Part(1, 2))
    (Path(config.encode.output) / "data/shard-000001.parquet").write_bytes(contents)
    with pytest.raises(StoreError, match=r"shard-000001\.parquet: cannot be read \(.*\); remove it, and run"):
        finalize_folder(config, open_dataset(config.dataset), verify=False)


def test_read_errors_are_reported(
    config: RunConfig, tokenizer: TextTokenizer, engine: LookupEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    encode_part(config, tokenizer, engine, None)
    for name, location in (("sha256", "shard-000000.parquet"), ("list_files", "out"), ("read", "identity.json")):
        with monkeypatch.context() as patch:
            patch.setattr(LocalFolder, name, fail)
            with pytest.raises(StoreError, match=rf"{location}: cannot be .*Input/output error"):
                finalize_folder(config, open_dataset(config.dataset))


def test_file_at_the_folder_path_is_refused(config: RunConfig) -> None:
    Path(config.encode.output).write_text("a file")
    with pytest.raises(StoreError, match="out"):
        finalize_folder(config, open_dataset(config.dataset))


def test_card_has_the_provenance_of_the_vectors(
    config: RunConfig, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    encode_part(config, tokenizer, engine, None)
    card = (Path(config.encode.output) / "README.md").read_text()
    identity = json.loads((Path(config.encode.output) / "identity.json").read_text())
    for line in (
        f"| input's fingerprint | `{identity['depends_on']['input']}` |",
        f"| tokenizer's fingerprint | `{tokenizer.fingerprint}` |",
        "| weights' fingerprint | `weights of a test` |",
        "| encoder | embedding 8, 1 LSTM layers of 6, mean pooling |",
        f"| run's identity | `{identity['sha256']}` |",
        f"{len(TEXTS)} rows, one per row of the split `train`, in its order, in 3 shards.",
    ):
        assert line in card
