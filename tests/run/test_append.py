"""A run that appends: what was encoded stays byte for byte, and new rows follow it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.engines import LookupEngine
from helpers.files import contents
from helpers.growing import KEEP, GrowingFolder, appending, old_shards_stay, rows_of, steps, texts, write_rows
from helpers.runs import append, data_files, encode, run_config, source_of
from helpers.texts import TEXTS
from lengthwise.data.dataset import Source, find_run_dataset, open_run_dataset
from lengthwise.data.input import Input
from lengthwise.errors import ConfigError, DatasetError, StoreError
from lengthwise.run.append import finalize_appended
from lengthwise.run.diff import diff_folders
from lengthwise.run.finalize import finalize_folder
from lengthwise.run.search import VectorFolder
from lengthwise.tokens.tokenizer import TextTokenizer


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    steps=steps,
    shard_rows=st.integers(1, 5),
    streaming=st.booleans(),
    extension=st.sampled_from(["jsonl", "parquet"]),
)
def test_any_sequence_of_appends_gives_the_rows_of_one_run(
    scratch: Callable[[], Path],
    tokenizer: TextTokenizer,
    lookup: LookupEngine,
    steps: list[Any],
    shard_rows: int,
    streaming: bool,
    extension: str,
) -> None:
    """New files, wherever their names sort, and files that became longer; row by row the same vectors."""
    folder = scratch()
    growing = GrowingFolder(folder / "in", extension)
    dataset = {"keep_columns": ["id"], "shard_rows": shard_rows, "streaming": streaming, "types": {"id": "int64"}}
    config = appending(folder / "out", folder / "in", dataset=dataset)
    for new, longer in steps:
        growing.grow(new, longer)
        if not growing.order:
            continue
        before = data_files(folder / "out") if (folder / "out/data").exists() else {}
        append(config, tokenizer, lookup)
        assert old_shards_stay(before, folder / "out")
        assert [row[0] for row in rows_of(folder / "out")] == growing.order
        assert finalize_appended(config, find_run_dataset(config))["rows"] == len(growing.order)
    if not growing.order:
        return
    after = contents(folder / "out")
    assert append(config, tokenizer, lookup).encoded.shards == 0
    assert contents(folder / "out") == after
    whole = run_config(folder / "whole", folder / "in", dataset=dataset, encode={"bad_rows": "quarantine"})
    encode(whole, open_run_dataset(whole), tokenizer, lookup)
    assert sorted(rows_of(folder / "out")) == sorted(rows_of(folder / "whole"))
    assert VectorFolder.open(folder / "out").num_rows == len(growing.order)
    found = diff_folders(folder / "out", folder / "whole", "id")
    assert (found.added, found.removed, found.changed, found.unchanged) == (0, 0, 0, len(growing.order))


@settings(max_examples=15, deadline=None)
@given(parts=st.lists(texts, min_size=1, max_size=5).filter(lambda parts: parts[0]), shard_rows=st.integers(1, 5))
def test_dataset_in_memory_that_grows(
    scratch: Callable[[], Path],
    tokenizer: TextTokenizer,
    lookup: LookupEngine,
    parts: list[list[str | None]],
    shard_rows: int,
) -> None:
    """It has a new fingerprint each time, and its rows are compared."""
    folder, rows = scratch(), list[str | None]()
    config = appending(folder / "out", dataset={"keep_columns": ["id"], "shard_rows": shard_rows})
    for part in parts:
        rows += part
        source = source_of(rows, config, id=list(range(len(rows))))
        append(config, tokenizer, lookup, Input(config.dataset, lambda _, source=source: source))
    assert [row[0] for row in rows_of(folder / "out")] == list(range(len(rows)))
    whole = run_config(folder / "whole", dataset={"keep_columns": ["id"]}, encode={"bad_rows": "quarantine"})
    encode(whole, source_of(rows, whole, id=list(range(len(rows)))), tokenizer, lookup)
    assert rows_of(folder / "out") == rows_of(folder / "whole")


def test_stream_without_a_fingerprint_goes_on_after_the_rows_that_were_read(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    config = appending(tmp_path / "out", dataset={"streaming": True})

    def found(count: int, fingerprint: str) -> Input:
        data = datasets.Dataset.from_dict({"text": [*TEXTS, *TEXTS][:count]}).to_iterable_dataset()
        return Input(config.dataset, lambda _: Source(data, fingerprint, config.dataset))

    for count, fingerprint in ((4, "a"), (4, "b"), (9, "c"), (10, "d")):
        append(config, tokenizer, engine, found(count, fingerprint))
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert [segment["rows"] for segment in manifest["segments"]] == [4, 5, 1]
    assert [shard["rows"] for shard in manifest["shards"]] == [3, 1, 3, 2, 1]
    with pytest.raises(DatasetError, match=r"row 9 of .* is not that row of the input any more"):
        append(config, tokenizer, engine, found(9, "e"))


def test_folder_of_a_run_that_did_not_append_can_grow(
    folder: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    """And a run that appends nothing has the same files as one that does not append, but for hashes."""
    plain = run_config(folder / "out", folder / "in", dataset=KEEP)
    encode(plain, open_run_dataset(plain), tokenizer, engine)
    config = appending(folder / "out", folder / "in", dataset=KEEP, encode={"bad_rows": "error"})
    before = contents(folder / "out")
    assert append(config, tokenizer, engine).encoded.shards == 0
    after = contents(folder / "out")
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == {"run.yaml"}
    write_rows(folder / "in/0.jsonl", [(7, "moon")])
    with pytest.raises(StoreError, match=r"input was .*if the input has only gained rows, set encode\.append to true"):
        encode(plain, open_run_dataset(plain), tokenizer, engine)
    assert append(config, tokenizer, engine).encoded.rows == 1
    assert rows_of(folder / "out")[-1][0] == 7
    card = (folder / "out/README.md").read_text()
    assert f"{len(TEXTS) + 1} rows, one per row of the split `train`, in the order in which they were added" in card
    write_rows(folder / "in/b.jsonl", list(enumerate([*TEXTS[4:], "rain"])))
    with pytest.raises(DatasetError, match=r"b\.jsonl has changed, and .*neither hashes .* nor, as a kept column"):
        append(config, tokenizer, engine)


@pytest.mark.parametrize("shards", [0, 1, 3])
def test_run_that_did_not_end_is_continued_and_appended_to(
    folder: Path, tokenizer: TextTokenizer, engine: LookupEngine, shards: int
) -> None:
    """It has no record of its input; the rows that it committed are compared if the input has changed since."""
    plain = run_config(folder / "out", folder / "in", dataset=KEEP, encode={"row_hashes": True})
    encode(plain, open_run_dataset(plain), tokenizer, engine)
    for name in ("manifest.json", "input.json"):
        (folder / "out" / name).unlink()
    lines = (folder / "out/shards.jsonl").read_text().splitlines(keepends=True)
    (folder / "out/shards.jsonl").write_text("".join(lines[:shards]))
    write_rows(folder / "in/b.jsonl", list(enumerate([*TEXTS[4:], "rain"])))
    write_rows(folder / "in/c.jsonl", [(9, "moon")])
    config = appending(folder / "out", folder / "in", dataset=KEEP, encode={"bad_rows": "error"})
    append(config, tokenizer, engine)
    assert [row[0] for row in rows_of(folder / "out")] == [0, 1, 2, 3, 0, 1, 2, 3, 9]


def test_changed_and_vanished_rows_are_errors_by_name(
    folder: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    config = appending(folder / "out", folder / "in", dataset=KEEP)
    append(config, tokenizer, engine)
    before = contents(folder / "out")
    reuse = rf"encode\.reuse={folder}/out, which encodes only texts that are new"
    originals = {name: (folder / "in" / name).read_bytes() for name in ("a.jsonl", "b.jsonl")}
    changes: dict[str, tuple[str, list[tuple[int, str | None]], str]] = {
        "a text": ("a.jsonl", [*enumerate(TEXTS[:3]), (3, "moon")], "row 3 of .*a.jsonl has changed"),
        "a kept column": ("b.jsonl", [(9, TEXTS[4]), *list(enumerate(TEXTS[4:]))[1:]], "row 4 of .*b.jsonl has"),
        "a row less": ("b.jsonl", list(enumerate(TEXTS[4:6])), "row 6 of .*b.jsonl has changed"),
        "a row in between": ("a.jsonl", [*enumerate(TEXTS[:4]), (4, "moon")], "row 4 of .*a.jsonl has changed"),
    }
    for name, rows, message in changes.values():
        write_rows(folder / "in" / name, rows)
        with pytest.raises(DatasetError, match=rf"{message}.*{reuse}"):
            append(config, tokenizer, engine)
        with pytest.raises(DatasetError, match=rf"{message}.*{reuse}"):
            finalize_appended(config, find_run_dataset(config))
        (folder / "in" / name).write_bytes(originals[name])
    (folder / "in/a.jsonl").rename(folder / "in/c.jsonl")
    with pytest.raises(DatasetError, match=rf"a\.jsonl was encoded into .*, and is not there any more; .*{reuse}"):
        append(config, tokenizer, engine)
    (folder / "in/c.jsonl").rename(folder / "in/a.jsonl")
    append(config, tokenizer, engine)
    assert contents(folder / "out") == before


@pytest.mark.parametrize("streaming", [False, True])
def test_file_that_has_no_rows_any_more_is_an_error_by_name(
    folder: Path, tokenizer: TextTokenizer, engine: LookupEngine, streaming: bool
) -> None:
    config = appending(folder / "out", folder / "in", dataset={**KEEP, "streaming": streaming})
    append(config, tokenizer, engine)
    write_rows(folder / "in/c.jsonl", [(9, "moon")])
    append(config, tokenizer, engine)
    write_rows(folder / "in/c.jsonl", [])
    with pytest.raises(
        DatasetError, match=r"row 7 of .*/out is not that row .*\(c\.jsonl has changed\).*put the old ones"
    ):
        append(config, tokenizer, engine)


def test_file_that_was_written_anew_with_the_same_rows_is_no_change(
    folder: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    config = appending(folder / "out", folder / "in", dataset=KEEP)
    append(config, tokenizer, engine)
    before = contents(folder / "out")
    path = folder / "in/b.jsonl"
    path.write_text(path.read_text().replace('": ', '":  '))
    finalize_appended(config, find_run_dataset(config))
    assert append(config, tokenizer, engine).encoded.shards == 0
    assert contents(folder / "out") == before


def test_nan_in_a_kept_column_is_no_change(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    config = appending(tmp_path / "out", tmp_path / "rows.parquet", dataset={"keep_columns": ["x"]})
    for count in (3, 5):
        columns = {"text": TEXTS[:count], "x": [1.5, float("nan"), None, 2.0, 3.0][:count]}
        pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
        append(config, tokenizer, engine)
    assert [shard["rows"] for shard in json.loads((tmp_path / "out/manifest.json").read_text())["shards"]] == [3, 2]


def test_new_rows_of_another_type_are_refused_before_they_are_encoded(
    folder: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    config = appending(folder / "out", folder / "in", dataset=KEEP)
    append(config, tokenizer, engine)
    before = contents(folder / "out")
    (folder / "in/c.jsonl").write_text('{"id": "seven", "text": "moon"}\n')
    with pytest.raises(DatasetError, match=r"column 'id' is .*string.* in rows that are new \(c\.jsonl\), and .*int64"):
        append(config, tokenizer, engine)
    assert contents(folder / "out") == before


def test_longer_file_of_another_type_is_refused_by_its_column(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    """One new row may change the type of a whole column, and with it the values of the rows before."""
    config = appending(tmp_path / "out", tmp_path / "in.jsonl", dataset=KEEP)
    write_rows(tmp_path / "in.jsonl", [(1, "moon")])
    append(config, tokenizer, engine)
    with (tmp_path / "in.jsonl").open("a") as file:
        file.write('{"id": 2.5, "text": "rain"}\n')
    for run in (lambda: append(config, tokenizer, engine), lambda: finalize_appended(config, find_run_dataset(config))):
        with pytest.raises(
            DatasetError, match=r"column 'id' is double in rows that are new \(in\.jsonl\), and int64 in those"
        ):
            run()


@pytest.mark.parametrize(
    ("dataset", "difference"), [({"split": "all"}, "split"), ({"encoding": "latin-1"}, "encoding was not there, is")]
)
def test_rows_that_would_be_read_in_another_way_are_refused(
    folder: Path, tokenizer: TextTokenizer, engine: LookupEngine, dataset: dict[str, Any], difference: str
) -> None:
    append(appending(folder / "out", folder / "in", dataset=KEEP), tokenizer, engine)
    changed = appending(folder / "out", folder / "in", dataset={**KEEP, **dataset})
    with pytest.raises(StoreError, match=rf"its rows were read in another way \({difference}"):
        append(changed, tokenizer, engine)


def test_another_model_is_refused(
    folder: Path, tokenizer: TextTokenizer, engine: LookupEngine, encoder_config: Callable[..., Any]
) -> None:
    config = appending(folder / "out", folder / "in", dataset=KEEP)
    append(config, tokenizer, engine)
    with pytest.raises(StoreError, match=r"holds the vectors of another run \(weights was"):
        append(config, tokenizer, LookupEngine(encoder_config(), "other weights"))
    append(config, tokenizer, LookupEngine(encoder_config(), "other weights"), fresh=True)


def test_damaged_shard_of_earlier_rows_is_encoded_again(
    folder: Path, tokenizer: TextTokenizer, engine: LookupEngine, caplog: pytest.LogCaptureFixture
) -> None:
    config = appending(folder / "out", folder / "in", dataset=KEEP)
    append(config, tokenizer, engine)
    write_rows(folder / "in/c.jsonl", [(9, "moon")])
    append(config, tokenizer, engine)
    before = contents(folder / "out")
    for name in ("data/shard-000000.parquet", "data/shard-000003.parquet", "hashes/shard-000001.npy"):
        (folder / "out" / name).write_bytes(b"damaged")
    with pytest.raises(StoreError, match=r"3 of 4 shards are missing \(numbers 0-1, 3\)"):
        finalize_appended(config, find_run_dataset(config))
    assert append(config, tokenizer, engine).encoded.shards == 3
    assert contents(folder / "out") == before
    assert "is missing or was changed" in caplog.text


def test_record_of_another_identity_is_refused(folder: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    config = appending(folder / "out", folder / "in", dataset=KEEP)
    append(config, tokenizer, engine)
    path = folder / "out/input.json"
    path.write_text(path.read_text().replace('"fingerprint": "', '"fingerprint": "0'))
    with pytest.raises(StoreError, match=r"input\.json is not that of identity\.json"):
        append(config, tokenizer, engine)


def test_input_without_rows_is_an_error_at_first_and_no_change_later(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    config = appending(tmp_path / "out", tmp_path / "in", dataset=KEEP)
    write_rows(tmp_path / "in/a.jsonl", [])
    with pytest.raises(DatasetError, match="has no rows"):
        append(config, tokenizer, engine)
    write_rows(tmp_path / "in/b.jsonl", [(1, "moon")])
    append(config, tokenizer, engine)
    write_rows(tmp_path / "in/c.jsonl", [])
    assert append(config, tokenizer, engine).encoded.rows == 0
    write_rows(tmp_path / "in/c.jsonl", [(2, "rain")])
    append(config, tokenizer, engine)
    assert [row[0] for row in rows_of(tmp_path / "out")] == [1, 2]


def test_other_inputs_than_files_are_refused_for_rows_of_files(
    folder: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    config = appending(folder / "out", folder / "in", dataset=KEEP)
    append(config, tokenizer, engine)
    datasets.Dataset.from_dict({"id": [1], "text": ["moon"]}).save_to_disk(folder / "saved")
    saved = appending(folder / "out", folder / "saved", dataset=KEEP)
    with pytest.raises(DatasetError, match=r"does not name files that can be read one by one, .*rows of a\.jsonl"):
        append(saved, tokenizer, engine)


def test_folder_is_read_with_all_rows_after_each_time(
    folder: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    """By `load_dataset` too, which caches a folder by its path and the name of a configuration."""
    config = appending(folder / "out", folder / "in", dataset=KEEP)
    for count in (7, 8, 10):
        write_rows(folder / f"in/{count}.jsonl", [(number, "moon") for number in range({8: 1, 10: 2}.get(count, 0))])
        append(config, tokenizer, engine)
        loaded = datasets.load_dataset(str(folder / "out"), split="train", cache_dir=str(folder / "cache"))
        assert len(loaded) == len(pq.read_table(folder / "out/data")) == count
        assert VectorFolder.open(folder / "out").num_rows == count


def test_index_of_the_rows_before_is_not_used(folder: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    pytest.importorskip("faiss")
    config = appending(folder / "out", folder / "in", dataset=KEEP)
    query = np.ones((1, engine.config.dim), np.float32)
    append(config, tokenizer, engine)
    VectorFolder.open(folder / "out").search(query, index=True)
    write_rows(folder / "in/c.jsonl", [(9, "moon")])
    append(config, tokenizer, engine)
    with pytest.raises(StoreError, match=r"older than the shards beside it; remove this folder, and search with"):
        VectorFolder.open(folder / "out").search(query, index=True)
    assert len(VectorFolder.open(folder / "out").search(query)[0]) == 8


def test_vectors_are_reused_by_a_run_that_appends(folder: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    """The files are those of one that computes all, but for what says so."""
    old = run_config(folder / "old", folder / "in/b.jsonl", encode={"row_hashes": True})
    encode(old, open_run_dataset(old), tokenizer, engine)
    sources = {"full": {}, "reused": {"reuse": [str(folder / "old")]}, "cached": {"cache": str(folder / "cache")}}
    for name, settings_ in sources.items():
        config = appending(folder / name, folder / "in", dataset=KEEP, encode=settings_)
        append(config, tokenizer, engine)
    write_rows(folder / "in/c.jsonl", [(number, text) for number, text in enumerate(TEXTS[2:6])])
    for name, settings_ in sources.items():
        config = appending(folder / name, folder / "in", dataset=KEEP, encode=settings_)
        report = append(config, tokenizer, engine)
        assert bool(report.reuse) == (name != "full")
        assert data_files(folder / name) == data_files(folder / "full")
    named = json.loads((folder / "reused/manifest.json").read_text())["reused"]
    append(appending(folder / "reused", folder / "in", dataset=KEEP), tokenizer, engine)  # without encode.reuse
    assert json.loads((folder / "reused/manifest.json").read_text())["reused"] == named
    assert list(named["folders"]) == [str(folder / "old")]


def test_run_that_appends_writes_no_changes(folder: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
    settings_ = {"reuse": [str(folder / "old")]}
    old = run_config(folder / "old", folder / "in", dataset=KEEP, encode={"row_hashes": True})
    encode(old, open_run_dataset(old), tokenizer, engine)
    config = appending(folder / "out", folder / "in", dataset={**KEEP, "key": "id"}, encode=settings_)
    with pytest.raises(ConfigError, match=r"dataset\.key is 'id', but a run with encode\.append writes no changes/"):
        append(config, tokenizer, engine)


def test_input_and_output_at_urls(
    tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where rows are compared; the bytes are those on a disk."""
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)  # in which `datasets` refuses every URL
    monkeypatch.setattr("lengthwise.store.lease.SETTLE_SECONDS", 0.0)
    url, memory = f"memory://{tmp_path.parent.name}-{tmp_path.name}", fsspec.filesystem("memory")
    for streaming in (False, True):
        (tmp_path / "in").mkdir(exist_ok=True)
        dataset = {"streaming": streaming, "keep_columns": ["text"]}
        for name, count in (("b", 4), ("a", 2), ("a", 5)):
            lines = "".join(f"{text}\n" for text in TEXTS[:count]).encode()
            memory.pipe_file(f"{url}/in-{streaming}/{name}.txt", lines)
            (tmp_path / f"in/{name}.txt").write_bytes(lines)
            remote = appending(
                tmp_path, f"{url}/in-{streaming}", dataset=dataset, encode={"output": f"{url}/{streaming}"}
            )
            local = appending(tmp_path / f"out-{streaming}", tmp_path / "in", dataset=dataset)
            for config in (remote, local):
                append(config, tokenizer, engine)
        found = {name.rpartition("/")[2]: memory.cat_file(name) for name in memory.find(f"{url}/{streaming}/data")}
        assert found == data_files(tmp_path / f"out-{streaming}")
        assert [
            shard["rows"] for shard in json.loads(memory.cat_file(f"{url}/{streaming}/manifest.json"))["shards"]
        ] == [
            *(3, 1, 2, 3),
        ]
        for path in (tmp_path / "in").iterdir():
            path.unlink()


def test_finalize_of_a_run_that_does_not_append_refuses_the_folder(
    folder: Path, tokenizer: TextTokenizer, engine: LookupEngine
) -> None:
    config = appending(folder / "out", folder / "in", dataset=KEEP)
    append(config, tokenizer, engine)
    write_rows(folder / "in/c.jsonl", [(9, "moon")])
    append(config, tokenizer, engine)
    plain = run_config(folder / "out", folder / "in", dataset=KEEP)
    with pytest.raises(
        StoreError,
        match=r"holds the vectors of another run \(input was .*, with encode\.append if its input has grown$",
    ):
        finalize_folder(plain, open_run_dataset(plain))


@pytest.mark.parametrize("path", ["in", "in/", "**/*.jsonl", "in/**/*.jsonl"])
@pytest.mark.parametrize("output", ["in", "in/vectors"])
def test_output_in_the_folder_of_the_input_is_refused(
    folder: Path, tokenizer: TextTokenizer, engine: LookupEngine, path: str, output: str
) -> None:
    """Its shards would be new files of the input."""
    config = appending(folder / output, f"{folder}/{path}", dataset=KEEP)
    with pytest.raises(ConfigError, match=r"where its shards would be new files; choose another encode\.output"):
        append(config, tokenizer, engine)
