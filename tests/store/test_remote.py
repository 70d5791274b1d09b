"""Folders at URLs: whole runs, logs of several objects, and failing stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest

from helpers.engines import LookupEngine
from helpers.files import contents
from helpers.runs import encode, run_config, source_of
from helpers.stores import IDENTITY_A, ROWS, commit, files_at, table
from helpers.texts import TEXTS
from lengthwise.errors import StoreError
from lengthwise.store.parts import Part
from lengthwise.store.remote import RemoteFolder
from lengthwise.store.vectors import VectorStore
from lengthwise.tokens.tokenizer import TextTokenizer


def test_run_at_a_url_writes_the_files_of_a_local_run(
    tmp_path: Path, url: str, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    texts = [*TEXTS, None]
    for output in (url, tmp_path / "out"):
        config = run_config(output, encode={"bad_rows": "quarantine"})  # type: ignore[arg-type]
        assert encode(config, source_of(texts, config), tokenizer, engine).encoded.shards == 3
        assert encode(config, source_of(texts, config), tokenizer, engine).encoded.shards == 0
    expected = contents(tmp_path / "out")
    found = files_at(url)
    assert found.keys() == expected.keys()
    assert {name for name in found if found[name] != expected[name]} == {"run.yaml"}  # which names the output
    assert pq.read_table(fsspec.open(f"{url}/data/shard-000001.parquet").open()).num_rows == 3


def test_run_at_a_url_resumes(url: str, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    config = run_config(url)  # type: ignore[arg-type]
    for part in (Part(1, 2), Part(0, 2)):
        encode(config, source_of(TEXTS, config), tokenizer, engine, part=part)
    memory = fsspec.filesystem("memory")
    memory.pipe_file(f"{url.removeprefix('memory:/')}/data/shard-000001.parquet", b"damaged")
    assert encode(config, source_of(TEXTS, config), tokenizer, engine).encoded.shards == 1
    assert not [name for name in memory.find(url) if ".lines" in name or ".lock" in name or "-of-" in name]


def test_read_of_a_log_that_is_being_rewritten(url: str, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, reader = RemoteFolder(url), RemoteFolder(url)
    for line in (b"one\n", b"two\n"):
        writer.append("log.jsonl", line)
    original, times = type(memory).cat_ranges, 0

    def cat_ranges(*arguments: Any, **options: Any) -> Any:
        nonlocal times
        times += 1
        if times == 1:
            writer.write("log.jsonl", b"one\ntwo\n")
        return original(*arguments, **options)

    monkeypatch.setattr(type(memory), "cat_ranges", cat_ranges)
    assert reader.read("log.jsonl") == b"one\ntwo\n"
    assert times == 1


def test_read_raises_if_a_line_cannot_be_read(url: str, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RemoteFolder(url)
    folder.append("log.jsonl", b"one\n")
    for answer, message in (
        (PermissionError("no"), "no"),
        (FileNotFoundError("gone"), "disappeared during each of 5 attempts"),
    ):
        monkeypatch.setattr(type(memory), "cat_ranges", lambda *_, answer=answer: [answer])
        with pytest.raises(OSError, match=message):
            folder.read("log.jsonl")


def test_client_error_becomes_a_store_error(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class ClientError(Exception):
        """An exception of an object store's client."""

    def refuse(*_: Any, **__: Any) -> None:
        raise ClientError("Access Denied")

    with VectorStore.open(url, IDENTITY_A, "") as store:
        monkeypatch.setattr(type(store.folder._fs), "put_file", refuse)  # type: ignore[attr-defined]
        with pytest.raises(StoreError, match=r"shard-000000.*\(ClientError: Access Denied\)"):
            commit(store, 0)


def test_unknown_protocol_is_refused() -> None:
    for path in ("nonsense://a", "gs://a"):
        with pytest.raises(StoreError, match=f"{path}: cannot be opened .*install the package for that protocol"):
            RemoteFolder(path)


def test_committed_table_is_read_back(url: str) -> None:
    with VectorStore.open(url, IDENTITY_A, "") as store:
        [record] = commit(store, 0)
        assert pq.read_table(store.folder.open(record.file)).equals(table(0))
        assert record.rows == ROWS
